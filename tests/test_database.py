"""Connections and SQL for both databases: what they share, where they differ, and what becomes of a broken one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import wait_for

from database import Database, NoneFree, Postgresql, Sqlite, StoreUnavailable, database, listed, tabled
from inbox import Inbox

SELECT = "SELECT id, :clock FROM inbox AS item WHERE note = 'a:b' AND at > :since AND at > :since + :more"


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path, emptied: Callable[[], str]) -> Iterator[Database]:
    """A database with one table and one row in it."""
    found = database(f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else emptied())
    with found.transaction() as connection:
        connection.change("CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT)")
        connection.change("INSERT INTO words VALUES (1, 'one')")
    yield found
    found.forget()


def words(db: Database) -> list[str]:
    with db.connection() as connection:
        return [word for (word,) in connection.rows("SELECT word FROM words ORDER BY id")]


def insert(number: int, word: str | None) -> tuple[str, dict[str, Any]]:
    return "INSERT INTO words VALUES (:id, :word)", {"id": number, "word": word}


# The same SQL for both


def test_postgresql_gets_numbers_for_names_and_its_own_clock() -> None:
    said, values = Postgresql("postgresql://h/d", None).put(SELECT, {"since": 7, "more": 8, "other": 9})
    clock = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
    assert said.replace(clock, "CLOCK") == (
        "SELECT id, CLOCK FROM inbox AS item WHERE note = 'a:b' AND at > $1 AND at > $1 + $2"
    )
    assert values == [7, 8]


def test_a_clock_of_ours_is_a_value_like_any_other() -> None:
    said, values = Postgresql("postgresql://h/d", lambda: 5.0).put("SELECT :clock, :clock + :more", {"more": 8})
    assert (said, values) == ("SELECT $1, $1 + $2", [5.0, 8])


@pytest.mark.parametrize("words", [" FOR UPDATE", " FOR UPDATE OF item SKIP LOCKED", " FOR UPDATE SKIP LOCKED"])
def test_sqlite_is_not_asked_to_lock_rows(words: str) -> None:
    said, values = Sqlite("sqlite:///a.db", lambda: 5.0).put(f"SELECT (SELECT 1 LIMIT :n{words}) AS a", {"n": 1})
    assert (said, values) == ("SELECT (SELECT 1 LIMIT ?) AS a", [1])


@pytest.mark.parametrize("ids", [[], [1], [1, 2, 3]])
def test_a_list_of_any_length_stands_behind_in(ids: list[int], db: Database) -> None:
    with db.connection() as connection:
        connection.change(*insert(2, "two"))
        among, values = listed(ids)
        found = connection.rows(f"SELECT id FROM words WHERE id IN {among} ORDER BY id", values)  # noqa: S608 - names
    assert [number for (number,) in found] == [number for number in ids if number < 3]


def test_many_rows_go_in_by_one_statement(db: Database) -> None:
    table, values = tabled([(2, "two"), (3, None), (4, "it's $1 :id %s ?")])
    with db.connection() as connection:
        assert connection.change(f"INSERT INTO words VALUES {table}", values) == 3  # noqa: S608 - names
    assert words(db) == ["one", "two", None, "it's $1 :id %s ?"]


def test_the_clock_is_the_time(db: Database) -> None:
    with db.connection() as connection:
        [(first,)], [(then,)] = connection.rows("SELECT :clock"), connection.rows("SELECT :clock")
    assert isinstance(first, float) and 1.7e9 < first <= then


# Transactions and connections


def test_what_was_not_committed_is_undone_and_the_next_gets_a_sound_connection(db: Database) -> None:
    def broken_off() -> None:
        with db.transaction() as connection:
            connection.change(*insert(2, "two"))
            raise SystemExit

    with pytest.raises(SystemExit):
        broken_off()
    assert words(db) == ["one"]
    with db.transaction() as connection:
        connection.change(*insert(2, "zwei"))
    assert words(db) == ["one", "zwei"]


def test_a_statement_that_fails_is_told_in_one_line_without_its_values(db: Database) -> None:
    with pytest.raises(StoreUnavailable, match="(?i)unique") as raised, db.transaction() as connection:
        connection.change(*insert(1, "a customer's words"))
    assert "customer" not in str(raised.value) and "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, sqlite3.Error | psycopg.Error)
    assert words(db) == ["one"]


def test_one_connection_serves_again_and_again(db: Database) -> None:
    with db.connection() as first, db.connection() as second:
        assert first.driver is not second.driver
    with db.connection() as again:
        assert again.driver in (first.driver, second.driver)


def test_a_forgotten_connection_is_used_no_more_whoever_has_it(db: Database) -> None:
    with db.connection() as idle, db.connection() as busy:
        pass
    with db.connection() as busy:
        db.forget()
        assert busy.rows("SELECT 1") == [(1,)]
    with db.connection() as new:
        assert new.driver not in (idle.driver, busy.driver)
    for old in (idle, busy):
        with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError)):
            old.rows("SELECT 1")


def test_who_waits_for_a_connection_in_vain_is_told_so(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("database.PLACE_WAIT_S", 0.05)
    with ExitStack() as all_taken:
        for _ in range(db.MOST):
            all_taken.enter_context(db.connection())
        with pytest.raises(NoneFree, match=f"all {db.MOST} connections were in use"):
            words(db)
    assert words(db) == ["one"]


def test_connections_that_are_all_in_use_are_no_reason_to_make_new_ones(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.now()
    monkeypatch.setattr("database.PLACE_WAIT_S", 0.05)
    db = inbox._database
    with ExitStack() as all_taken:
        taken = {all_taken.enter_context(db.connection()).driver for _ in range(db.MOST)}
        with pytest.raises(NoneFree):
            inbox.now()
        tries, commit = [], inbox._commit

        def tried(jobs: list[Any]) -> None:
            tries.append(len(jobs))
            commit(jobs)

        monkeypatch.setattr(inbox, "_commit", tried)
        with pytest.raises(NoneFree):
            inbox.prove_writable()
        assert tries == [1]  # alone it would have waited as long once more
    inbox.prove_writable()
    with db.connection() as connection:
        assert connection.driver in taken


def test_connections_that_could_not_be_made_leave_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("database.PLACE_WAIT_S", 0.05)
    nowhere = database(f"sqlite:///{tmp_path}/no/such/folder/a.db")
    for _ in range(nowhere.MOST + 1):
        with pytest.raises(StoreUnavailable, match="unable to open .*; DATABASE_URL must lead into a folder"):
            words(nowhere)


def test_a_server_that_is_gone_without_a_word_is_noticed_within_half_a_minute(emptied: Callable[[], str]) -> None:
    db = database(emptied())
    with db.connection() as connection:
        limits = connection.driver.info.get_parameters()
    assert int(limits["keepalives_idle"]) + 3 * int(limits["keepalives_interval"]) <= 30
    assert (limits["connect_timeout"], limits["tcp_user_timeout"], limits["keepalives_count"]) == ("5", "10000", "3")
    db.forget()


def test_a_server_that_ends_our_connections_costs_one_try(emptied: Callable[[], str]) -> None:
    url = emptied()
    db = database(url)
    with db.connection() as connection:
        [(ours,)] = connection.rows("SELECT pg_backend_pid()")
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (ours,))
        there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        wait_for(lambda: other.execute(there, (ours,)).fetchone() == (0,))
    with pytest.raises(StoreUnavailable), db.connection() as connection:
        connection.rows("SELECT 1")
    with db.connection() as connection:
        assert connection.rows("SELECT 1") == [(1,)]
    db.forget()
