"""What all processes share: sums and histograms, the tables of an earlier release, the indexes that serve."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Clock, compose, new_database, new_item, rows, wait_for, watch

from database import Connection, StoreUnavailable
from gate import Gate
from inbox import Inbox
from records import Records
from store import BOUNDS_S, BUCKETS, INDEXES


def break_sums(inbox: Inbox) -> None:
    """Lets every change of the sums fail, as a full disk does."""
    inbox.now()  # opens an empty database
    with inbox._database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_sums BEFORE INSERT ON sums {stop}")


@pytest.fixture
def sqlite_inbox(tmp_path: Path, clock: Clock) -> Iterator[Inbox]:
    inbox = Inbox(f"sqlite:///{tmp_path / 'relay.db'}", clock)
    yield inbox
    inbox.close()


# Sums


def test_what_two_processes_have_tallied_is_one_sum_for_both(inbox: Inbox, other: Inbox) -> None:
    inbox.tally("ignored", 2)
    inbox.tally("ignored")
    other.tally("ignored", 4)
    other.tally("duplicates")
    inbox.save_tally()
    other.save_tally()
    assert inbox.sums() == other.sums() == {"ignored": 7.0, "duplicates": 1.0}
    inbox.save_tally()
    assert other.sums() == {"ignored": 7.0, "duplicates": 1.0}


def test_a_tally_is_in_our_own_sums_at_once(inbox: Inbox) -> None:
    inbox.tally("ignored")
    assert inbox.sums() == {"ignored": 1.0}


def test_nothing_is_written_when_nothing_was_tallied(sqlite_inbox: Inbox) -> None:
    break_sums(sqlite_inbox)
    sqlite_inbox.save_tally()
    assert sqlite_inbox.sums() == {}


def test_a_store_that_fails_costs_no_tally_and_counts_none_twice(sqlite_inbox: Inbox) -> None:
    break_sums(sqlite_inbox)
    sqlite_inbox.tally("ignored", 3)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            sqlite_inbox.save_tally()
    sqlite_inbox.tally("ignored")
    with sqlite_inbox._database.transaction() as db:
        db.change("DROP TRIGGER full_sums")
    assert sqlite_inbox.sums() == {"ignored": 4.0}


def test_threads_that_tally_and_save_at_once_lose_nothing(inbox: Inbox, other: Inbox) -> None:
    start = threading.Barrier(8)

    def work(number: int) -> None:
        mine = (inbox, other)[number % 2]
        start.wait(10)
        for step in range(40):
            mine.tally("ignored")
            mine.observe("ack", 0.002)
            if step % 10 == 0:
                mine.save_tally()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    inbox.save_tally()
    sums = other.sums()
    assert (sums["ignored"], sums["ack_le_0.0025"]) == (320.0, 320.0)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (1.0, "1.0"), (3600.0, "3600.0"), (3600.1, "+Inf")],
)
def test_a_duration_falls_in_the_bucket_whose_bound_it_does_not_pass(
    seconds: float, bucket: str, sqlite_inbox: Inbox
) -> None:
    sqlite_inbox.observe("ack", seconds)
    assert sqlite_inbox.sums() == {f"ack_le_{bucket}": 1.0, "ack_sum": seconds}


def test_the_buckets_rise_and_end_with_everything() -> None:
    assert list(BOUNDS_S) == sorted(set(BOUNDS_S))
    assert [float(bucket) for bucket in BUCKETS] == [*BOUNDS_S, float("inf")]


# A database of an earlier release

FIRST_RELEASE = """
CREATE TABLE inbox (
    id {id}, event_uuid VARCHAR(255) NOT NULL, entity_id VARCHAR(255) NOT NULL, source VARCHAR(10) NOT NULL,
    request_id VARCHAR(255), payload TEXT NOT NULL, received_at {double} NOT NULL, state VARCHAR(10) NOT NULL,
    reason VARCHAR(500), attempts INTEGER DEFAULT '0' NOT NULL, next_attempt_at {double} NOT NULL,
    owner VARCHAR(100), first_sent_at {double}, body TEXT, idempotency_key VARCHAR(255), note_on BIGINT,
    ticket_id BIGINT, settled_at {double}, CONSTRAINT inbox_one_row_per_event_and_post UNIQUE (event_uuid, entity_id)
);
CREATE INDEX inbox_post ON inbox (entity_id, id);
CREATE INDEX inbox_pending ON inbox (next_attempt_at, id) WHERE state = 'pending';
CREATE INDEX inbox_parked ON inbox (next_attempt_at, id) WHERE state = 'parked';
CREATE TABLE memory (name VARCHAR(50) NOT NULL PRIMARY KEY, value TEXT);
INSERT INTO memory VALUES ('schema_version', '1'), ('gate', '{gate}'), ('public_url', 'https://relay.example');
INSERT INTO inbox (event_uuid, entity_id, source, payload, received_at, state, attempts, next_attempt_at, ticket_id,
    settled_at, reason) VALUES
    ('e1', 'p:1', 'push', '{payload}', 1699999000, 'delivered', 1, 1699999000, 77, 1699999001, NULL),
    ('e2', 'p:2', 'push', '{payload}', 1699999000, 'parked', 1, 1699999000, NULL, 1699999001, 'refused'),
    ('e3', 'p:1', 'push', '{payload}', 1699999000, 'pending', 0, 1699999000, NULL, NULL, NULL);
"""


def make_first_release(url: str) -> None:
    """The database as the first release left it."""
    sqlite = url.startswith("sqlite")
    kind = {"id": "INTEGER NOT NULL PRIMARY KEY", "double": "DOUBLE"} if sqlite else {}
    kind = kind or {"id": "BIGSERIAL NOT NULL PRIMARY KEY", "double": "DOUBLE PRECISION"}
    payload, gate = json.dumps(new_item().payload), json.dumps(Gate().__dict__)
    script = FIRST_RELEASE.format(**kind, payload=payload, gate=gate)
    if sqlite:
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(script)
        connection.close()
    else:
        with psycopg.connect(url) as postgresql:
            postgresql.execute(script.encode())


def names(inbox: Inbox) -> set[str]:
    """The names of all tables and indexes."""
    with inbox.statement() as db:
        return {name for (name,) in db.rows(inbox._database.NAMES)}


def test_a_database_of_the_first_release_gets_the_tables_and_indexes_and_keeps_its_items(
    database_url: str, clock: Clock
) -> None:
    make_first_release(database_url)
    inbox = Inbox(database_url, clock)
    kept = [(event, post, state) for event, post, state, _ in rows(inbox)]
    assert kept == [("e1", "p:1", "delivered"), ("e2", "p:2", "parked"), ("e3", "p:1", "pending")]
    assert inbox.recall("public_url") == "https://relay.example"
    assert inbox.recall("schema_version") == "1"  # so that the first release works on it after a rollback
    found = names(inbox)
    assert set(INDEXES) <= found
    assert "inbox_pending" not in found  # inbox_due does its work
    [again] = inbox.claim(8, 15, compose).items
    assert (again.event_uuid, again.post_ticket_id) == ("e3", 77)
    assert inbox.accept([new_item("e1", "p:1")]) == [False] and inbox.retry([2]) == 1
    assert Records(inbox).attempts([1, 2, 3]) == [] and inbox.sums() == {}
    inbox.close()


@pytest.mark.parametrize("made", [True, False], ids=["made by the first release", "empty"])
def test_several_processes_can_meet_a_database_at_once(made: bool, database_url: str) -> None:
    if made:
        make_first_release(database_url)
    start = threading.Barrier(4)

    def opened(_: int) -> tuple[str | None, int]:
        with closing(Inbox(database_url)) as inbox:
            start.wait(10)
            return inbox.recall("schema_version"), inbox._database._era

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [("1", 0)] * 4  # era 0: at the first try


def test_a_role_that_may_make_nothing_can_work_on_what_is_there(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(Inbox(url)) as owners:
        owners.now()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE clerk LOGIN")
        owner.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        owner.execute("GRANT USAGE ON SCHEMA public TO clerk")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk")
        owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO clerk")
    inbox = Inbox(f"{url}&user=clerk" if "?" in url else f"{url}?user=clerk")
    assert inbox.accept([new_item()]) == [True] and len(inbox.claim(8, 15, compose).items) == 1
    inbox.close()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("DROP OWNED BY clerk")
        owner.execute("DROP ROLE clerk")


def test_a_schema_that_comes_later_hides_nothing(emptied: Callable[[], str]) -> None:
    """PostgreSQL looks in a schema named like the user first, and makes new tables there."""
    url = emptied()
    inbox = Inbox(url)
    inbox.accept([new_item()])
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA postgres")
        inbox.close()
        later = Inbox(url)
        assert later.counts().pending == 1 and later.accept([new_item()]) == [False]
        later.close()
        owner.execute("DROP SCHEMA postgres")


# The indexes


def plans(inbox: Inbox, call: Callable[[], object]) -> list[str]:
    """Every step in the database's plans for the SELECTs and UPDATEs that `call` runs."""
    ran: list[tuple[str, Any]] = []

    watch(inbox, lambda *statement: ran.append(statement))
    call()
    explain = "EXPLAIN QUERY PLAN" if inbox._database.ONE_WRITER else "EXPLAIN"
    made = [(said, values) for said, values in ran if said.lstrip().startswith(("SELECT", "UPDATE"))]
    with inbox.statement() as db:
        return [row[-1] for said, values in made for row in db.driver.execute(f"{explain} {said}", values)]


@pytest.fixture(params=["empty", "filled"])
def served(request: pytest.FixtureRequest, sqlite_inbox: Inbox) -> Inbox:
    """An inbox with three that wait among many that were delivered, whose statistics SQLite knows; or a new one."""
    sqlite_inbox.now()
    if request.param == "filled":
        sqlite_inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(200)])
        with sqlite_inbox._database.transaction() as db:
            db.change("UPDATE inbox SET state = 'delivered', settled_at = 1, ticket_id = id WHERE id > 3")
            db.change("ANALYZE")
    return sqlite_inbox


CALLS: dict[str, tuple[str, Callable[[Inbox], object]]] = {
    "claim": ("inbox_due", lambda inbox: inbox.claim(3, 15, compose)),
    "counts": ("inbox_due", lambda inbox: inbox.counts()),
    "counts of what is parked": ("inbox_parked", lambda inbox: inbox.counts()),
    "purge": ("inbox_still_full", lambda inbox: inbox.purge(60)),
    "retry": ("PRIMARY KEY", lambda inbox: inbox.retry([1])),
    "counts of every state": ("inbox_discarded", lambda inbox: Records(inbox).by_state()),
    "retries": ("attempts_retried", lambda inbox: Records(inbox).retries()),
    "attempts": ("ix_attempts_item_id", lambda inbox: Records(inbox).attempts([1, 2])),
    "hours": ("ix_attempts_at", lambda inbox: Records(inbox).hours()),
    "search by event": ("sqlite_autoindex_inbox_1", lambda inbox: Records(inbox).find("e1")),
    "search by ticket": ("inbox_ticket", lambda inbox: Records(inbox).find("12")),
}


@pytest.mark.parametrize(("index", "call"), CALLS.values(), ids=CALLS.keys())
def test_what_runs_often_is_served_by_an_index(index: str, call: Callable[[Inbox], object], served: Inbox) -> None:
    steps = plans(served, lambda: call(served))
    assert [step for step in steps if index in step], steps
    scans = [step for step in steps if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"]
    assert not [step for step in scans if "INDEX" not in step], scans


@pytest.fixture
def surprised(postgresql: Any) -> Iterator[Inbox]:
    """A PostgreSQL whose statistics are of a time when nothing waited, and an outage's backlog: too small, beside all
    that was delivered for them to be renewed."""
    inbox = Inbox(new_database(postgresql))
    inbox.now()
    columns = "event_uuid, entity_id, source, payload, received_at, next_attempt_at, state, ticket_id"
    row = "'{}-' || n, 'p:{}-' || n, 'push', '{{}}', extract(epoch FROM now()), extract(epoch FROM now()), '{}', {}"
    fill = f"INSERT INTO inbox ({columns}) SELECT {row} FROM generate_series(1, {{}}) AS n"  # noqa: S608 - made of constants
    with inbox._database.transaction() as db:
        db.change("ALTER TABLE inbox SET (autovacuum_enabled = false)")
        db.change(fill.format("old", "old", "delivered", "n", 5000))
        db.change("ANALYZE inbox")
        db.change(fill.format("new", "new", "pending", "NULL", 200))
    yield inbox
    inbox.close()


def test_a_backlog_after_an_outage_is_not_searched_for_each_item(surprised: Inbox) -> None:
    [item] = surprised.claim(1, 15, compose).items
    steps = plans(surprised, lambda: surprised.claim(8, 15, compose))
    assert [step for step in steps if "Index Scan using inbox_due on inbox item" in step], steps
    assert [step for step in steps if "Index Scan using inbox_post on inbox other" in step], steps
    assert not [step for step in steps if "Sort" in step], steps
    steps = plans(surprised, lambda: surprised.renew([item.id], 15))
    steps += plans(surprised, lambda: surprised.settle(item, {"state": "delivered"}, lambda gate, now: gate))
    assert not [step for step in steps if "inbox_due" in step], steps


def test_the_waiting_are_counted_without_their_rows(surprised: Inbox) -> None:
    steps = plans(surprised, surprised.counts)
    assert [step for step in steps if "Index Only Scan using inbox_due" in step], steps


# Threads that write at the same time

Work = Callable[[Connection], Any]


@contextmanager
def writing_at_once(inbox: Inbox, works: list[Work]) -> Iterator[list[Future[Any]]]:
    """Each of these in a thread of its own, while another thread's write is under way until the block is left."""
    inbox.now()  # opens the database
    begun, go_on = threading.Event(), threading.Event()

    def hold(db: Connection) -> None:
        begun.set()
        go_on.wait(10)

    with ThreadPoolExecutor(len(works) + 1) as pool:
        pool.submit(inbox.write, hold)
        begun.wait(10)
        waiting = [pool.submit(inbox.write, work) for work in works]
        wait_for(lambda: len(inbox._waiting) == len(works))
        yield waiting
        go_on.set()


def test_what_several_threads_have_to_write_is_committed_together(inbox: Inbox) -> None:
    commits: list[None] = []
    watch(inbox, lambda sql, _: commits.append(None) if sql == "COMMIT" else None)
    works: list[Work] = [lambda db, n=n: n for n in range(5)]  # type: ignore[misc]  # mypy drops the default
    with writing_at_once(inbox, works) as waiting:
        commits.clear()
    assert ([future.result(10) for future in waiting], len(commits)) == ([0, 1, 2, 3, 4], 2)


def test_one_threads_failure_is_its_own(inbox: Inbox) -> None:
    def fail(db: Connection) -> None:
        db.change("SELECT nothing FROM nowhere")

    def keep(db: Connection) -> None:
        db.change("INSERT INTO memory (name, value) VALUES ('kept', 'yes')")

    with writing_at_once(inbox, [fail, keep]) as (failing, keeping):
        pass
    with pytest.raises(StoreUnavailable):
        failing.result(10)
    keeping.result(10)
    assert inbox.recall("kept") == "yes"


def test_a_write_after_one_that_was_broken_off_is_done(inbox: Inbox) -> None:
    def broken_off(db: Connection) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        inbox.write(broken_off)
    inbox.remember("kept", "yes")
    assert inbox.recall("kept") == "yes"


def test_every_one_of_many_writes_at_once_is_committed_once(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: inbox.remember(f"n-{number}", "x"), range(200)))
    with inbox.statement() as db:
        assert db.rows("SELECT count(*) FROM memory WHERE name LIKE 'n-%'")[0][0] == 200
