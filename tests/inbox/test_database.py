"""Connections and SQL for both databases: what they share, where they differ, and what follows when one breaks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from stat import S_IMODE
from typing import Any

import psycopg
import pytest
from conftest import Clock, new_item, wait_for
from sessions import WatchedSession

from inbox import open_database
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Session, first_line, in_list, values_table
from inbox.inbox import Inbox

MOST = 4  # connections of one process to PostgreSQL
APPLICATION = "khoros-zendesk-relay"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'relay.db'}"
    emptied: Callable[[], str] = request.getfixturevalue("emptied")
    return emptied()


@pytest.fixture
def db(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database with one more table, and one row in it. Its sessions show their drivers."""
    database = open_database(url)
    monkeypatch.setattr(database, "session_class", WatchedSession)
    with database.transaction() as session:
        session.change("CREATE TABLE words (id INTEGER PRIMARY KEY, word TEXT)")
        session.change("INSERT INTO words VALUES (1, 'one')")
    yield database
    database.close()


def words(db: Database) -> list[str]:
    with db.reading() as session:
        return [word for (word,) in session.rows("SELECT word FROM words ORDER BY id")]


def insert(number: int, word: str | None) -> tuple[str, dict[str, Any]]:
    return "INSERT INTO words VALUES (:id, :word)", {"id": number, "word": word}


def driver_of(session: Session) -> Any:
    assert isinstance(session, WatchedSession)
    return session.driver


def fail(db: Database) -> None:
    """Lets a statement fail, after which no connection is used again."""
    with pytest.raises(DatabaseUnavailable), db.reading() as session:
        session.rows("SELECT nothing FROM nowhere")


def end_connections(url: str) -> None:
    """Ends every connection to a PostgreSQL database, as a restart of the server does."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(TERMINATE, (admin.info.backend_pid,))
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        wait_for(lambda: admin.execute(others).fetchone() == (0,))


# The same SQL for both


@pytest.mark.parametrize("ids", [[], [1], [1, 2, 3]])
def test_a_list_of_any_length_can_follow_in(ids: list[int], db: Database) -> None:
    with db.transaction() as session:
        session.change(*insert(2, "two"))
        among, values = in_list(ids)
        found = session.rows(f"SELECT id FROM words WHERE id IN {among} ORDER BY id", values)  # noqa: S608 - names
    assert [number for (number,) in found] == [number for number in ids if number < 3]


def test_one_statement_inserts_many_rows(db: Database) -> None:
    table, values = values_table([(2, "two"), (3, None), (4, "it's $1 :id %s %(id)s ?")])
    with db.transaction() as session:
        assert session.change(f"INSERT INTO words {table}", values) == 3  # noqa: S608 - names
    assert words(db) == ["one", "two", None, "it's $1 :id %s %(id)s ?"]


def test_one_statement_runs_for_many_sets_of_values(db: Database) -> None:
    with db.transaction() as session:
        session.change_each(insert(0, "")[0], [{"id": number, "word": str(number)} for number in (2, 3)])
        session.change_each(insert(0, "")[0], [])
    assert words(db) == ["one", "2", "3"]


def test_a_value_may_be_used_twice_and_another_not_at_all(db: Database) -> None:
    with db.reading() as session:
        sql = "SELECT id FROM words WHERE id = :id AND id + :more = :id + :more"
        assert session.rows(sql, {"id": 1, "more": 5, "other": 7}) == [(1,)]


@pytest.mark.parametrize("lock", [" FOR UPDATE", " FOR UPDATE OF words SKIP LOCKED", " FOR UPDATE SKIP LOCKED"])
def test_rows_are_locked_where_a_database_can_do_that(lock: str, db: Database) -> None:
    with db.transaction() as session:
        assert session.rows(f"SELECT word FROM words WHERE id = :id{lock}", {"id": 1}) == [("one",)]  # noqa: S608


def test_the_clock_is_the_databases_and_goes_on_within_a_transaction(db: Database) -> None:
    with db.transaction() as session:
        first = session.now()
        wait_for(lambda: session.now() > first)
    assert isinstance(first, float) and abs(first - time.time()) < 60


def test_a_test_can_replace_the_clock(url: str, clock: Clock) -> None:
    with closing(open_database(url, clock)) as database, database.reading() as session:
        assert (session.now(), session.rows("SELECT :clock + :more", {"more": 8.0})) == (clock.now, [(clock.now + 8,)])


# Transactions and connections


def test_a_transaction_that_breaks_off_is_undone_and_the_next_one_works(db: Database) -> None:
    def break_off() -> None:
        with db.transaction() as session:
            session.change(*insert(2, "two"))
            raise SystemExit

    with pytest.raises(SystemExit):
        break_off()
    assert words(db) == ["one"]
    with db.transaction() as session:
        session.change(*insert(2, "zwei"))
    assert words(db) == ["one", "zwei"]


def test_a_failing_statement_gives_one_line_without_its_values(db: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="(?i)unique") as raised, db.transaction() as session:
        session.change(*insert(1, "a customer's words"))
    assert "customer" not in str(raised.value) and "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, sqlite3.Error | psycopg.Error)
    assert words(db) == ["one"]


def test_connections_are_used_again(db: Database) -> None:
    with db.reading() as first, db.reading() as second:
        assert driver_of(first) is not driver_of(second)
    with db.reading() as again:
        assert driver_of(again) in (driver_of(first), driver_of(second))


def test_after_a_failure_no_older_connection_is_used_not_even_one_that_was_busy_then(db: Database) -> None:
    with db.reading() as idle, db.reading() as busy:
        pass
    with db.reading() as busy:
        fail(db)
        assert busy.rows("SELECT 1") == [(1,)]
    with db.reading() as new, db.reading() as another:
        fresh = {driver_of(new), driver_of(another)}
    assert not fresh & {driver_of(idle), driver_of(busy)}
    for old in (idle, busy):
        with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError)):
            old.rows("SELECT 1")


def test_closing_closes_also_what_is_in_use_as_soon_as_it_comes_back(db: Database) -> None:
    with db.reading() as busy:
        db.close()
        assert busy.rows("SELECT 1") == [(1,)]
    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError)):
        busy.rows("SELECT 1")


# A busy database


@contextmanager
def all_in_use(db: Database) -> Iterator[list[Any]]:
    """Takes the place of the one writer of SQLite, or every connection to PostgreSQL; gives the drivers."""
    with ExitStack() as stack:
        if db.kind == "SQLite":
            yield [driver_of(stack.enter_context(db.transaction()))]
        else:
            yield [driver_of(stack.enter_context(db.reading())) for _ in range(MOST)]


@pytest.fixture
def impatient(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database whose threads wait for each other for a second only."""
    database = open_database(url, wait_s=1.0)
    monkeypatch.setattr(database, "session_class", WatchedSession)
    yield database
    database.close()


def test_waiting_in_vain_for_other_threads_raises_and_costs_no_connection(impatient: Database) -> None:
    expected = (
        "another thread has been writing" if impatient.kind == "SQLite" else f"all {MOST} connections were in use"
    )
    with impatient.reading():
        pass
    with all_in_use(impatient) as taken, pytest.raises(ConnectionsBusy, match=expected), impatient.transaction():
        pass
    with impatient.transaction() as session:
        assert driver_of(session) in taken


def test_accept_waits_only_once_for_a_busy_database(impatient: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    transaction = impatient.transaction

    def counted(**options: bool) -> Any:
        tries.append(1)
        return transaction(**options)

    inbox = Inbox(impatient)
    inbox.counts()
    monkeypatch.setattr(impatient, "transaction", counted)
    with all_in_use(impatient):
        tries.clear()
        with pytest.raises(ConnectionsBusy):
            inbox.accept([new_item()])
    assert len(tries) == 1
    assert inbox.accept([new_item()]) == [True]


@pytest.mark.parametrize(("setting", "most"), [("", MOST), ("&connection_limit=1", 1), ("&connection_limit=99", MOST)])
def test_postgresql_gets_four_connections_at_most_and_fewer_when_the_address_says_so(
    setting: str, most: int, emptied: Callable[[], str]
) -> None:
    url = emptied()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(TERMINATE, (admin.info.backend_pid,))
        with closing(open_database(url + setting)) as database, ThreadPoolExecutor(12) as pool:
            inbox = Inbox(database)
            list(pool.map(lambda n: inbox.accept([new_item(f"e{n}")]), range(60)))
            ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
            row = admin.execute(ours, (APPLICATION,)).fetchone()
    assert row is not None and 1 <= row[0] <= most


# PostgreSQL: a server that is gone


@pytest.fixture
def socket_folder(postgresql: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a server seems to listen as long as there is a link to the real one's socket."""
    return tmp_path_factory.mktemp("s")


def start(postgresql: Any, folder: Path) -> None:
    real = psycopg.conninfo.conninfo_to_dict(postgresql.get_uri())["host"]
    (folder / ".s.PGSQL.5432").symlink_to(Path(str(real)) / ".s.PGSQL.5432")


def stop(url: str, folder: Path) -> None:
    (folder / ".s.PGSQL.5432").unlink()
    end_connections(url)


def test_a_server_that_is_down_is_named_at_once_and_used_again_when_it_is_back(
    emptied: Callable[[], str], postgresql: Any, socket_folder: Path
) -> None:
    url = emptied()
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    with closing(open_database(f"postgresql:///{name}?host={socket_folder}&user=postgres", wait_s=60)) as database:
        inbox = Inbox(database)
        for _ in range(MOST + 2):  # as often as not to depend on how many connections there may be
            with pytest.raises(DatabaseUnavailable, match="OperationalError: .*(No such file|refused)"):
                inbox.counts()
        start(postgresql, socket_folder)
        wait_for(lambda: _works(inbox))
        assert inbox.accept([new_item("e1")]) == [True]
        stop(url, socket_folder)
        with pytest.raises(DatabaseUnavailable, match="OperationalError: .*(No such file|refused)"):
            inbox.accept([new_item("e2")])
        start(postgresql, socket_folder)
        wait_for(lambda: _works(inbox))
        assert inbox.accept([new_item("e1"), new_item("e2")]) == [False, True]


def _works(inbox: Inbox) -> bool:
    try:
        inbox.check_writable()
    except DatabaseUnavailable:
        return False
    return True


def test_a_port_where_nothing_listens_is_named_without_the_password() -> None:
    with closing(open_database("postgresql://relay:secret-word@127.0.0.1:1/relay", wait_s=60)) as database:
        with pytest.raises(DatabaseUnavailable, match="refused") as raised:
            Inbox(database).accept([new_item()])
    assert "secret-word" not in str(raised.value)


def test_a_server_that_ends_our_connections_costs_one_try(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(open_database(url)) as database:
        with database.reading() as one, database.reading() as two:
            assert one.rows("SELECT 1") == two.rows("SELECT 1") == [(1,)]
        end_connections(url)
        with pytest.raises(DatabaseUnavailable), database.transaction():
            pass
        with database.transaction() as session:
            assert session.rows("SELECT 1") == [(1,)]


def test_connections_that_died_cost_no_notification(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(open_database(url)) as database:
        inbox = Inbox(database)
        with database.reading(), database.reading():
            assert inbox.accept([new_item("e1")]) == [True]
        end_connections(url)
        assert inbox.accept([new_item("e2")]) == [True]


def test_a_server_that_is_gone_without_a_word_is_noticed_within_half_a_minute(
    emptied: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_database(emptied())) as database:
        monkeypatch.setattr(database, "session_class", WatchedSession)
        with database.reading() as session:
            limits = driver_of(session).info.get_parameters()
    assert int(limits["keepalives_idle"]) + 3 * int(limits["keepalives_interval"]) <= 30
    assert (limits["connect_timeout"], limits["tcp_user_timeout"], limits["keepalives_count"]) == ("4", "10000", "3")


# SQLite: the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077], indirect=True)
def test_only_its_owner_can_read_an_sqlite_file_and_what_belongs_to_it(umask: None, file: Path) -> None:
    with closing(open_database(f"sqlite:///{file}")) as database:
        Inbox(database).accept([new_item()])
        modes = {part.name: S_IMODE(part.stat().st_mode) for part in file.parent.iterdir()}
    assert modes == {"relay.db": 0o600, "relay.db-wal": 0o600, "relay.db-shm": 0o600}


def test_sqlite_waits_for_the_disk_at_every_commit(file: Path) -> None:
    with closing(open_database(f"sqlite:///{file}")) as database, database.transaction() as session:
        assert session.rows("PRAGMA journal_mode") == [("wal",)]
        assert session.rows("PRAGMA synchronous") == [(2,)]  # FULL


def test_another_program_that_closes_the_file_leaves_our_log_alone(file: Path) -> None:
    """A second connection must not end the locks of the first one: another program that finds none deletes the log."""
    close = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM items').connection.close()"
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        inbox.accept([new_item("e1")])
        with database.reading(), database.reading() as second:
            assert second.rows("SELECT count(*) FROM items") == [(1,)]
        subprocess.run([sys.executable, "-c", close, file], check=True)  # noqa: S603 - our own interpreter
        assert file.with_name("relay.db-wal").exists()
        assert inbox.accept([new_item("e2")]) == [True]
        with closing(sqlite3.connect(file)) as other:
            assert other.execute("SELECT count(*) FROM items").fetchone() == (2,)


# What people read about an error


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("database is locked", "end the other program that uses the database"),
        ("database disk image is malformed", "put a backup in its place"),
        ("locking protocol", "network file systems cannot lock the file"),
    ],
)
def test_a_reason_of_sqlite_comes_with_what_a_person_can_do(words: str, remedy: str, file: Path) -> None:
    reason = open_database(f"sqlite:///{file}").reason_of(sqlite3.OperationalError(words))
    assert reason.startswith(f"OperationalError: {words}; ") and remedy in reason


def test_a_reason_is_one_line_never_empty_and_never_long() -> None:
    assert first_line(psycopg.OperationalError('no memory\nDETAIL: "x"')) == "OperationalError: no memory"
    assert first_line(sqlite3.Error()) == "Error: no reason given"
    assert len(first_line(sqlite3.Error("x" * 1000))) <= 210
