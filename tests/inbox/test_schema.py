"""The tables: numbered steps that every database goes through once, and the indexes that serve what runs often."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from claims import claim, move_gate, refuse, settle
from conftest import Clock, compose, new_database, new_item
from sessions import execute, watch

from inbox import open_database
from inbox.database import Database, DatabaseUnavailable, Session, Values, migrate
from inbox.gate import Gate
from inbox.inbox import Inbox
from inbox.records import Records
from inbox.schema import STEPS
from inbox.tickets import Tickets

# What the next releases could add.
SECOND = (
    "ALTER TABLE items ADD COLUMN colour VARCHAR(20)",
    "CREATE TABLE colours (id {id}, name VARCHAR(20) NOT NULL)",
    "INSERT INTO colours (name) VALUES ('red')",
)
THIRD = ("CREATE INDEX items_colour ON items (colour)",)


def names(database: Database) -> set[str]:
    """The names of all tables and indexes, whatever is in the database."""
    with database.reading() as db:
        return {name for (name,) in db.rows(database.TABLE_NAMES)}


def upgrade(database: Database, *more: tuple[str, ...]) -> None:
    """Takes the database through steps of later releases."""
    with database.transaction() as db:
        migrate(database, db, (*STEPS, *more))


def version(database: Database) -> list[Any]:
    with database.reading() as db:
        return db.rows("SELECT version FROM schema_version")


# Steps


def test_a_new_database_gets_every_step(database: Database) -> None:
    assert {"items", "attempts", "gates", "facts", "unrouted", "tickets", "requesters", "schema_version"} <= names(
        database
    )
    assert version(database) == [(len(STEPS),)]


def test_a_database_goes_through_the_next_step_and_keeps_what_it_has(
    database: Database, inbox: Inbox, other_database: Database
) -> None:
    inbox.accept([new_item("e1")])
    upgrade(other_database, SECOND)
    assert version(database) == [(len(STEPS) + 1,)]
    with other_database.reading() as db:
        assert db.rows("SELECT event_uuid, colour FROM items") == [("e1", None)]
        assert db.rows("SELECT id, name FROM colours") == [(1, "red")]


def test_a_step_is_made_once_and_two_steps_can_be_made_together(database: Database) -> None:
    upgrade(database, SECOND)
    upgrade(database, SECOND)
    upgrade(database, SECOND, THIRD)
    with database.reading() as db:
        assert db.rows("SELECT name FROM colours") == [("red",)]
    assert version(database) == [(len(STEPS) + 2,)]


def test_a_new_database_goes_through_steps_of_both_releases_at_once(database: Database) -> None:
    upgrade(database, SECOND, THIRD)
    assert "items_colour" in names(database) and version(database) == [(len(STEPS) + 2,)]


def test_a_step_that_fails_leaves_everything_as_it_was(database: Database, inbox: Inbox) -> None:
    inbox.accept([new_item("e1")])
    before = names(database)
    with pytest.raises(DatabaseUnavailable):
        upgrade(database, SECOND, ("SELECT nothing FROM nowhere",))
    assert (names(database), version(database)) == (before, [(len(STEPS),)])
    assert inbox.counts().pending == 1


def test_several_processes_make_a_step_once(database_url: str) -> None:
    with closing(open_database(database_url)) as database:
        names(database)
    start = threading.Barrier(4)

    def work(_: int) -> list[Any]:
        with closing(open_database(database_url)) as database:
            start.wait(10)
            upgrade(database, SECOND)
            with database.reading() as db:
                return db.rows("SELECT name FROM colours")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [[("red",)]] * 4


def test_several_processes_can_meet_an_empty_database_at_once(database_url: str) -> None:
    start = threading.Barrier(6)

    def work(number: int) -> list[bool]:
        with closing(open_database(database_url)) as database:
            start.wait(10)
            return Inbox(database).accept([new_item(f"e{number}")])

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [[True]] * 6


# Other releases


def test_a_release_works_on_a_database_that_is_one_step_later(
    database: Database, inbox: Inbox, other: Inbox, records: Records
) -> None:
    upgrade(database, SECOND)
    assert other.accept([new_item("e1")]) == [True] and other.accept([new_item("e1")]) == [False]
    [item] = claim(other)
    assert settle(other, item).ours
    other.check_writable()
    assert [(record.event_uuid, record.state) for record in records.latest()] == [("e1", "delivered")]
    assert version(database) == [(len(STEPS) + 1,)]


def test_a_release_refuses_a_database_that_is_two_steps_later(database: Database, inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item("e1")])
    upgrade(database, SECOND, THIRD)
    message = f"made by a later release, schema {len(STEPS) + 2} where this one knows {len(STEPS)}; deploy that one"
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=message):
            other.accept([new_item("e2")])
    assert inbox.counts().pending == 1


def test_tables_of_a_version_before_the_first_release_give_one_clear_message(
    inbox: Inbox, records: Records, database_url: str
) -> None:
    execute(
        database_url,
        "CREATE TABLE inbox (id INTEGER PRIMARY KEY, event_uuid VARCHAR(255), entity_id VARCHAR(255))",
        "CREATE TABLE memory (name VARCHAR(50) NOT NULL PRIMARY KEY, value TEXT)",
        "INSERT INTO memory VALUES ('schema_version', '1')",
    )
    for ask in (inbox.counts, inbox.check_writable, records.latest, lambda: inbox.accept([new_item()])):
        with pytest.raises(DatabaseUnavailable) as raised:
            ask()
        assert str(raised.value).startswith("the database holds the tables of a version before the first release.")
        assert "set DATABASE_URL to an empty database" in str(raised.value)
    execute(database_url, "DROP TABLE inbox", "DROP TABLE memory")
    assert inbox.accept([new_item()]) == [True]


# From the tables of an earlier step to those of the last, with the release before at work beside this one

BEFORE_ITEM = """INSERT INTO items (destination, event_uuid, subject_id, source, payload, received_at, state, reason,
    attempts, next_attempt_at, owner, first_sent_at, kind, body, key, target, reference, settled_at)
    VALUES ('zendesk', '{0}', 'p:{0}', 'push', '{{"item": {{"entityId": "p:{0}"}}}}', 1699999000.0, {1})"""
BEFORE_ITEMS = {
    "new": "'pending', NULL, 0, 1699999000.0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    "failed": "'pending', '503', 3, 1699999600.0, NULL, 1699999500.0, 'made up', 'old', 'k', NULL, NULL, NULL",
    "sending": "'pending', NULL, 1, 1700000009.0, 'worker', 1699999999.0, 'made up', 'body', 'key', NULL, NULL, NULL",
    "delivered": "'delivered', NULL, 1, 1699999000.0, NULL, 1699999000.0, 'made', 'b', 'k', NULL, '77', 1699999001.0",
    "parked": "'parked', '422', 1, 1699999000.0, NULL, 1699999000.0, 'made up', 'b', 'k', NULL, NULL, 1699999001.0",
    "discarded": "'discarded', '422', 1, 1699999000.0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1699999002.0",
}
BEFORE_GATE = """INSERT INTO gates (destination, state, reason, version, failures, hold_until, calls_left,
    window_ends_at) VALUES ('zendesk', 'outage', 'Zendesk answered 503', 4, 2, 1700000004.0, 9, 1700000030.0)"""


@pytest.fixture(params=range(1, len(STEPS)))
def before(database_url: str, clock: Clock, request: pytest.FixtureRequest) -> str:
    """A database as an earlier release made it, with an item in every state and a closed gate."""
    with closing(open_database(database_url, clock)) as database:
        steps = [statement for step in STEPS[: request.param] for statement in step]
        tables = [statement.replace("{id}", database.ID) for statement in steps]
    execute(
        database_url,
        *tables,
        "CREATE TABLE schema_version (version INTEGER NOT NULL)",
        f"INSERT INTO schema_version VALUES ({request.param})",  # noqa: S608
        *(BEFORE_ITEM.format(name, values) for name, values in BEFORE_ITEMS.items()),
        BEFORE_GATE,
        "INSERT INTO attempts (item_id, number, at, took_s, outcome) VALUES (5, 1, 1699999001.0, 0.5, 'refused')",
    )
    return database_url


def test_a_database_of_an_earlier_step_keeps_all_it_has_and_its_items_go_their_ways(
    before: str, database: Database, inbox: Inbox, records: Records, clock: Clock
) -> None:
    assert version(database) == [(len(STEPS),)]
    assert {record.event_uuid: record.state for record in records.latest()} == {
        **dict.fromkeys(("new", "failed", "sending"), "pending"),
        **{name: name for name in ("delivered", "parked", "discarded")},
    }
    gate, held_s = inbox.gate("zendesk")
    assert (gate.state, gate.failures, gate.blamed, held_s) == ("outage", 2, "", 4.0)
    assert claim(inbox) == []
    clock.advance(4)
    [probe] = claim(inbox)
    assert (probe.event_uuid, settle(inbox, probe).after.state) == ("new", "open")
    [failed] = claim(inbox)
    assert (failed.event_uuid, failed.attempts, failed.draft and failed.draft.body) == ("failed", 4, b"old")
    assert inbox.retry([5]) == 1
    refused = claim(inbox, under_way=[failed.id])[0]
    settled = settle(inbox, refused, "refused", status=422)
    assert (settled.state, settled.after.blamed) == ("parked", "")  # it was refused before
    clock.advance(5)
    assert [item.event_uuid for item in claim(inbox, under_way=[failed.id])] == ["sending"]  # its worker died
    inbox.accept([new_item("next", "p:delivered")])
    assert claim(inbox)[-1].latest_reference == "77"


def test_the_release_before_works_on_a_database_of_this_one_meanwhile(
    database: Database, inbox: Inbox, database_url: str, records: Records, clock: Clock
) -> None:
    """With its own statements: it knows no new column."""
    with database.transaction() as db:
        migrate(database, db, STEPS[:-1])  # as it does at its start
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(5)])
    taken = claim(inbox, 3)
    settle(inbox, taken[0], "limited", item_only=True, retry_after_s=60.0)
    now = clock.now
    claimed = f"owner = 'them', attempts = 1, next_attempt_at = {now + 10}, first_sent_at = {now}, kind = 'made up'"
    failed = f"owner = NULL, state = 'pending', reason = '503', next_attempt_at = {now + 2}, settled_at = NULL"
    execute(
        database_url,
        BEFORE_ITEM.format("theirs", BEFORE_ITEMS["new"]),
        f"UPDATE items SET {claimed}, body = 'their body', key = 'k' WHERE event_uuid = 'e4'",  # noqa: S608
        f"UPDATE items SET {failed} WHERE event_uuid = 'e3'",  # noqa: S608
        "UPDATE gates SET state = 'open', reason = '', version = 3, failures = 0, hold_until = 0.0, probe = NULL,"
        " calls_left = NULL, window_ends_at = 0.0 WHERE destination = 'zendesk'",
    )
    assert [settle(inbox, item).ours for item in taken[1:]] == [True, True]
    assert {item.event_uuid for item in claim(inbox)} == {"theirs", "e3"}
    clock.advance(10)
    [left] = claim(inbox, under_way=[4, 6])
    assert (left.event_uuid, left.draft and left.draft.body) == ("e4", b"their body")
    assert len(records.latest("delivered")) == 2


def test_a_gate_of_the_release_before_has_the_defaults_of_what_it_does_not_know(
    database: Database, inbox: Inbox, database_url: str
) -> None:
    assert version(database) == [(len(STEPS),)]
    execute(
        database_url,
        "INSERT INTO gates (destination, state, reason, version, failures, hold_until, window_ends_at)"
        " VALUES ('zendesk', 'open', '', 7, 0, 0.0, 0.0)",
    )
    assert inbox.gate("zendesk")[0] == Gate(version=7)


# Roles and schemas of PostgreSQL


def test_a_role_that_may_make_nothing_can_work_on_what_is_there(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(open_database(url)) as database:
        names(database)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE clerk LOGIN")
        owner.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        owner.execute("GRANT USAGE ON SCHEMA public TO clerk")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO clerk")
        owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO clerk")
    with closing(open_database(f"{url}&user=clerk" if "?" in url else f"{url}?user=clerk")) as database:
        inbox = Inbox(database)
        assert inbox.accept([new_item()]) == [True] and len(claim(inbox)) == 1
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("DROP OWNED BY clerk")
        owner.execute("DROP ROLE clerk")


def test_a_schema_that_comes_later_hides_nothing(emptied: Callable[[], str]) -> None:
    """PostgreSQL looks in a schema named like the user first, and makes new tables there."""
    url = emptied()
    with closing(open_database(url)) as database:
        Inbox(database).accept([new_item()])
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA postgres")
        with closing(open_database(url)) as database:
            later = Inbox(database)
            assert later.counts().pending == 1 and later.accept([new_item()]) == [False]
        owner.execute("DROP SCHEMA postgres")


# Indexes

FILL_ITEMS = """INSERT INTO items (destination, event_uuid, subject_id, source, payload, received_at, next_attempt_at,
    state, settled_at, reference, kind, attempts)
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
    SELECT 'zendesk', :name || n, 'p:' || :name || n, 'push', '{"item": 1}', :clock - 9000 + n, :clock - 9000 + n,
    CAST(:state AS VARCHAR(10)), CAST(:settled_at AS DOUBLE PRECISION), CAST(1000 + n AS VARCHAR(9)), 'made up', 1
    FROM n"""
FILL_ATTEMPTS = """INSERT INTO attempts (item_id, number, at, took_s, outcome)
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
    SELECT n, 1, :clock - 90000000 + n, 0.1, 'ticket_created' FROM n"""


def fill(db: Session, name: str, count: int, state: str, settled_at: float | None) -> None:
    db.change(FILL_ITEMS, {"name": name, "count": count, "state": state, "settled_at": settled_at})


@contextmanager
def explained(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[list[str]]:
    """Every step in the database's plans for what runs in the block. The database must be a new one."""
    steps: list[str] = []
    explain = "EXPLAIN QUERY PLAN" if database.kind == "SQLite" else "EXPLAIN"

    def before(session: Session, sql: str, values: Values) -> None:
        if sql.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT INTO tickets")) and "version" not in sql:
            steps.extend(row[-1].strip() for row in Session.rows(session, f"{explain} {sql}", values))

    with monkeypatch.context() as patch:
        watch(patch, database, before)
        with database.reading():
            pass  # looks at the tables
        steps.clear()
        yield steps


@pytest.fixture(scope="module", params=["sqlite", "sqlite with statistics", "postgresql with statistics"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with a few items in each state among many that were delivered; the planner may have counted them."""
    kind, _, statistics = request.param.partition(" ")
    url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'relay.db'}"
    if kind == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"))
    with closing(open_database(url)) as database, database.transaction() as db:
        fill(db, "old-", 20000, "delivered", 1.0)
        db.change("UPDATE items SET payload = '{}', kind = NULL WHERE id > 2000")
        for state in ("pending", "parked", "discarded"):
            fill(db, f"{state}-", 60, state, None if state == "pending" else 1.0)
        db.change(FILL_ATTEMPTS, {"count": 3000})
        if statistics:
            db.change("ANALYZE")
    return url


def is_scan_of_everything(step: str) -> bool:
    """Whether a step reads a whole table: SQLite by its rows, or by an index that is not partial, or PostgreSQL."""
    if step.startswith("SCAN"):
        step = step.replace("COVERING ", "")
        return step not in ("SCAN CONSTANT ROW", *(f"SCAN items USING INDEX {name}" for name in PARTIAL))
    return "Seq Scan on items" in step or "Seq Scan on attempts" in step


def tickets(inbox: Inbox) -> Tickets:
    return Tickets(inbox._database, "zendesk")


PARTIAL = ("items_due", "items_parked", "items_discarded", "items_purgeable")
UNIQUE = "sqlite_autoindex_items_1|items_one_row_per_subject"
KEY = "INTEGER PRIMARY KEY|items_pkey"
CALLS: dict[str, tuple[list[str], Callable[[Inbox, Records], object]]] = {
    "claim": (["items_due", "items_subject"], lambda inbox, _: claim(inbox, 3)),
    "claim, with items under way": (["items_due", "items_subject"], lambda inbox, _: claim(inbox, 3, under_way=[1, 2])),
    "claim, with a rate limit": (
        ["items_due"],
        lambda inbox, _: (move_gate(inbox, "checked", calls_left=700, reset_s=60.0), claim(inbox, 3)),
    ),
    "settle": ([KEY], lambda inbox, _: [settle(inbox, item) for item in claim(inbox, 1)]),
    "park": ([KEY], lambda inbox, _: [refuse(inbox, item) for item in claim(inbox, 1)]),
    "renew": ([KEY], lambda inbox, _: inbox.renew([1, 2], 15)),
    "refreeze": ([KEY], lambda inbox, _: [inbox.refreeze(item, compose(item), 15) for item in claim(inbox, 1)]),
    "counts": (["items_due", "items_parked"], lambda inbox, _: inbox.counts()),
    "check that the database takes changes": ([UNIQUE], lambda inbox, _: inbox.check_writable()),
    "purge": (["items_purgeable", "attempts_item", KEY], lambda inbox, _: inbox.purge(60)),
    "retry": ([f"{KEY}|items_parked"], lambda inbox, _: inbox.retry([1])),
    "retry of all": (["items_parked"], lambda inbox, _: inbox.retry()),
    "discard": ([f"{KEY}|items_parked"], lambda inbox, _: inbox.discard([1])),
    "latest pending": (["items_due"], lambda _, records: records.latest("pending")),
    "latest parked": (["items_parked"], lambda _, records: records.latest("parked")),
    "latest discarded": (["items_discarded"], lambda _, records: records.latest("discarded")),
    "find by event, post or reference": (
        [UNIQUE, "items_subject", "items_reference"],
        lambda _, records: records.find("old-7"),
    ),
    "find by number": ([KEY], lambda _, records: records.find("#1007")),
    "one item": ([KEY], lambda _, records: records.item(7)),
    "payload": ([KEY], lambda _, records: records.payload(7)),
    "attempts": (["attempts_item"], lambda _, records: records.attempts([1, 2])),
    "the tickets of new deliveries": (
        ["items_purgeable"],
        lambda inbox, _: tickets(inbox).enter(inbox.now() - 60),
    ),
    "the places that know a post": (["items_subject"], lambda inbox, _: tickets(inbox).places("p:old-7", ["slack:#a"])),
    "hours": (["attempts_at"], lambda _, records: records.hours()),
}


@pytest.mark.parametrize(("indexes", "call"), CALLS.values(), ids=CALLS.keys())
def test_an_index_serves_what_runs_often(
    indexes: list[str],
    call: Callable[[Inbox, Records], object],
    filled: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(open_database(filled)) as database:
        with explained(monkeypatch, database) as steps:
            call(Inbox(database), Records(database))
    assert [index for index in indexes if not re.search(index, "\n".join(steps))] == [], steps
    assert [step for step in steps if is_scan_of_everything(step)] == [], steps


def test_the_newest_of_all_or_of_the_delivered_are_read_without_sorting(
    filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_database(filled)) as database:
        with explained(monkeypatch, database) as steps:
            Records(database).latest()
            Records(database).latest("delivered")
    assert steps and not re.search("(?i)sort|temp b-tree|seq scan on items", "\n".join(steps)), steps


@pytest.fixture
def surprised(postgresql: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A PostgreSQL whose statistics are from a time when nothing was pending, and an outage's backlog: too small,
    beside all that was delivered, for the statistics to be renewed."""
    url = new_database(postgresql)
    with closing(open_database(url)) as database, database.transaction() as db:
        db.change("ALTER TABLE items SET (autovacuum_enabled = false)")
        fill(db, "old-", 5000, "delivered", 1.0)
        db.change("ANALYZE items")
        fill(db, "new-", 200, "pending", None)
    yield url


def test_a_backlog_after_an_outage_is_not_searched_for_each_item(
    surprised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_database(surprised)) as database:
        inbox = Inbox(database)
        with explained(monkeypatch, database) as steps:
            [item] = claim(inbox, 1)
            assert [step for step in steps if "Index Scan using items_due on items item" in step], steps
            assert [step for step in steps if "Index Scan using items_subject on items other" in step], steps
            assert not [step for step in steps if "Sort Key: item" in step], steps
            steps.clear()
            inbox.renew([item.id], 15)
            settle(inbox, item)
            assert steps and not [step for step in steps if "items_due" in step], steps


def test_the_pending_are_counted_without_their_rows(surprised: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_database(surprised)) as database:
        with explained(monkeypatch, database) as steps:
            assert Inbox(database).counts().pending == 200
    assert [step for step in steps if "Index Only Scan using items_due" in step], steps
