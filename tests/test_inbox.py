from __future__ import annotations

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Clock, compose, new_item, watch

from database import StoreUnavailable
from gate import LIMITED, OPEN, OUTAGE, Gate
from inbox import AT_ONCE, Inbox, Item, NewItem, Request
from records import Records
from store import DELIVERED, PARKED, PENDING

LEASE_S = 15.0


def keep(gate: Gate, now: float) -> Gate:
    return gate


def close_gate(gate: Gate, now: float) -> Gate:
    return gate.after_failure(now, gate.version, OUTAGE, "down", None)


def delivered(inbox: Inbox, item: Item, ticket_id: int = 1) -> bool:
    return inbox.settle(item, {"state": DELIVERED, "ticket_id": ticket_id}, keep).ours


@pytest.fixture
def other(database_url: str, clock: Clock) -> Iterator[Inbox]:
    """The inbox as another process sees it."""
    inbox = Inbox(database_url, clock)
    yield inbox
    inbox.close()


def test_keeps_the_same_event_of_the_same_post_once(inbox: Inbox) -> None:
    assert inbox.accept([new_item("e1", "p:1"), new_item("e1", "p:2"), new_item("e1", "p:1")]) == [True, True, False]
    assert inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:1")]) == [False, True]
    assert inbox.counts().pending == 3


def test_keeps_the_same_event_once_when_it_comes_twenty_times_at_once(inbox: Inbox, other: Inbox) -> None:
    start = threading.Barrier(20)

    def call(number: int) -> int:
        start.wait(10)
        return sum((inbox, other)[number % 2].accept([new_item("e1", f"p:{n}") for n in range(3)]))

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(call, range(20))) == 3


def test_nothing_to_keep_needs_no_database() -> None:
    """What is another company's is answered with 202 also while the database is down."""
    assert Inbox("sqlite:////nowhere/at/all/relay.db").accept([]) == []


def test_more_than_one_statement_takes_are_kept_all_or_not_at_all(inbox: Inbox) -> None:
    inbox.now()
    inserts = itertools.count(1)

    def fail(sql: str, _: Any) -> None:
        if sql.startswith("INSERT INTO inbox") and next(inserts) % 2 == 0:
            raise StoreUnavailable("the connection has died")

    put = watch(inbox, fail)
    with pytest.raises(StoreUnavailable):
        inbox.accept([new_item("e1", f"p:{n}") for n in range(AT_ONCE + 1)])
    inbox._database.put = put  # type: ignore[assignment, method-assign]
    inbox.close()
    assert inbox.counts().pending == 0
    assert inbox.accept([new_item("e1", f"p:{n}") for n in range(AT_ONCE + 1)]) == [True] * (AT_ONCE + 1)


def test_takes_a_thousand_posts_in_one_notification(inbox: Inbox) -> None:
    assert inbox.accept([new_item("e1", f"p:{n}") for n in range(1000)]) == [True] * 1000


@pytest.mark.parametrize("count", [2, 100, 101, 1500])
def test_one_among_many_that_is_known_costs_the_others_nothing(count: int, inbox: Inbox) -> None:
    known, ids = f"p:{count - 1:04}", "SELECT id FROM inbox WHERE entity_id = :post"  # the last to be put in
    inbox.accept([new_item("e1", known)])
    with inbox.statement() as db:
        before = db.rows(ids, {"post": known})
    assert inbox.accept([new_item("e1", f"p:{n:04}") for n in range(count)]) == [True] * (count - 1) + [False]
    with inbox.statement() as db:
        assert db.rows(ids, {"post": known}) == before
        assert db.rows("SELECT count(*) FROM inbox") == [(count,)]


def test_a_claimed_item_is_not_claimed_again_before_its_lease_ends(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    assert len(inbox.claim(8, LEASE_S, compose).items) == 1
    clock.advance(LEASE_S - 1)
    assert other.claim(8, LEASE_S, compose).items == []
    clock.advance(1)
    again = other.claim(8, LEASE_S, compose).items
    assert [(item.attempts, item.sent_s_ago) for item in again] == [(2, LEASE_S)]


def test_a_renewed_lease_lasts_longer(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = inbox.claim(8, LEASE_S, compose).items
    clock.advance(10)
    inbox.renew([item.id], LEASE_S)
    clock.advance(10)
    assert other.claim(8, LEASE_S, compose).items == []


def test_an_item_is_settled_only_while_its_lease_is_ours(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [mine] = inbox.claim(8, LEASE_S, compose).items
    clock.advance(LEASE_S)
    [theirs] = other.claim(8, LEASE_S, compose).items
    assert not delivered(inbox, mine, 1)
    assert delivered(other, theirs, 2)
    assert not delivered(other, theirs, 3)


def test_a_lease_taken_over_by_the_same_process_is_another_lease(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [first] = inbox.claim(8, LEASE_S, compose).items
    clock.advance(LEASE_S)
    [second] = inbox.claim(8, LEASE_S, compose).items
    assert not delivered(inbox, first)
    assert delivered(inbox, second)


def test_what_is_sent_is_frozen_before_the_first_send(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1")])
    [first] = inbox.claim(8, LEASE_S, compose).items
    clock.advance(LEASE_S)
    [second] = inbox.claim(8, LEASE_S, lambda item: Request(b"other words", "other key")).items
    assert first.request == second.request == Request(b"body of e1", "key of e1")


def test_words_that_were_replaced_stay_replaced(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = inbox.claim(8, LEASE_S, compose).items
    clock.advance(10)
    changed = inbox.refreeze(item, Request(b"follow-up", "key-2"), LEASE_S)
    clock.advance(10)
    assert changed is not None and inbox.claim(8, LEASE_S, compose).items == []
    clock.advance(5)
    [again] = inbox.claim(8, LEASE_S, compose).items
    assert (again.request, again.sent_s_ago) == (Request(b"follow-up", "key-2"), LEASE_S)
    assert inbox.refreeze(item, Request(b"late", "key-3"), LEASE_S) is None


def test_two_events_of_one_post_are_never_in_flight_together(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:1")])
    inbox.accept([new_item("e3", "p:2")])
    first, third = inbox.claim(8, LEASE_S, compose).items
    assert [first.event_uuid, third.event_uuid] == ["e1", "e3"]
    assert other.claim(8, LEASE_S, compose).items == []
    assert delivered(inbox, first, 77)
    [second] = other.claim(8, LEASE_S, compose).items
    assert (second.event_uuid, second.post_ticket_id) == ("e2", 77)


def test_a_post_whose_later_event_was_taken_first_waits_for_it(inbox: Inbox, database_url: str, clock: Clock) -> None:
    """On PostgreSQL a row with a lower id can become visible after one with a higher id."""
    inbox.accept([new_item("early", "p:1"), new_item("hidden", "p:2")])
    inbox.accept([new_item("late", "p:1")])
    execute(database_url, "UPDATE inbox SET entity_id = 'p:9' WHERE event_uuid = 'early'")
    assert {item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items} == {"early", "hidden", "late"}
    execute(database_url, "UPDATE inbox SET entity_id = 'p:1', owner = NULL, next_attempt_at = 0 WHERE id = 1")
    assert inbox.claim(8, LEASE_S, compose).items == []
    clock.advance(LEASE_S)
    assert "early" in {item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items}


def test_a_parked_item_does_not_hold_up_its_post(inbox: Inbox) -> None:
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = inbox.claim(8, LEASE_S, compose).items
    inbox.settle(first, {"state": PARKED, "reason": "refused"}, keep)
    assert [item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items] == ["e2"]


def test_a_parked_item_can_be_sent_again_with_new_words(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1"), NewItem("e2", "", {"unreadable": 1}, reason="no eventName")])
    [item] = inbox.claim(8, LEASE_S, compose).items
    inbox.settle(item, {"state": PARKED, "reason": "refused"}, keep)
    clock.advance(60)
    parked = Records(inbox).latest(PARKED)
    assert [(p.entity_id, p.reason) for p in parked] == [("p:1", "refused"), ("", "no eventName")]
    assert inbox.retry([p.id for p in parked]) == 1
    [again] = inbox.claim(8, LEASE_S, lambda item: Request(b"new words", "key")).items
    assert again.request == Request(b"new words", "key") and (again.sent_s_ago or 0) > 7200
    assert [p.entity_id for p in Records(inbox).latest(PARKED)] == [""]


def test_the_newest_ticket_of_a_post_counts_not_the_one_of_its_newest_item(inbox: Inbox, clock: Clock) -> None:
    """An older item may get its ticket later, when a person has it sent again."""
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = inbox.claim(8, LEASE_S, compose).items
    inbox.settle(first, {"state": PARKED, "reason": "refused"}, keep)
    [second] = inbox.claim(8, LEASE_S, compose).items
    assert delivered(inbox, second, 77)
    inbox.retry([first.id])
    [again] = inbox.claim(8, LEASE_S, compose).items
    assert delivered(inbox, again, 99)
    inbox.accept([new_item("e3")])
    [third] = inbox.claim(8, LEASE_S, compose).items
    assert (third.event_uuid, third.post_ticket_id) == ("e3", 99)


def test_the_oldest_go_first_and_no_more_than_asked_for(inbox: Inbox, clock: Clock) -> None:
    for number in range(5):
        inbox.accept([new_item(f"e{number}", f"p:{number}")])
        clock.advance(1)
    assert [item.event_uuid for item in inbox.claim(3, LEASE_S, compose).items] == ["e0", "e1", "e2"]
    assert [item.event_uuid for item in inbox.claim(3, LEASE_S, compose).items] == ["e3", "e4"]


def test_a_post_that_cannot_be_worded_is_parked_and_the_others_go_out(inbox: Inbox) -> None:
    def picky(item: Item) -> Request:
        if item.event_uuid == "bad":
            raise KeyError("text of a customer")
        return compose(item)

    inbox.accept([new_item("bad", "p:1"), new_item("good", "p:2")])
    items = inbox.claim(8, LEASE_S, picky).items
    assert [(item.event_uuid, item.request is None) for item in items] == [("bad", True), ("good", False)]
    assert (inbox.counts().pending, inbox.counts().parked) == (1, 1)


def test_nothing_is_claimed_while_the_gate_is_closed_and_then_one_probe(
    inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    before, after = inbox.move_gate(close_gate)
    assert (before.state, after.state) == (OPEN, OUTAGE)
    claim = other.claim(8, LEASE_S, compose)
    assert (claim.items, claim.held_s) == ([], 1.0)
    clock.advance(1)
    assert len(other.claim(8, LEASE_S, compose).items) == 1
    assert inbox.claim(8, LEASE_S, compose).items == []


def test_a_settled_probe_opens_the_gate_for_everything(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    inbox.move_gate(close_gate)
    clock.advance(1)
    [probe] = inbox.claim(8, LEASE_S, compose).items
    settled = inbox.settle(
        probe, {"state": DELIVERED, "ticket_id": 1}, lambda gate, now: gate.after_success(now, probe.gate_version)
    )
    assert (settled.before.state, settled.after.state) == (OUTAGE, OPEN)
    assert len(inbox.claim(8, LEASE_S, compose).items) == 3


def test_the_places_left_by_the_rate_limit_count_what_other_processes_have_in_flight(
    inbox: Inbox, other: Inbox
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(9)])
    inbox.move_gate(lambda gate, now: gate.counted(now, 10, 30.0))
    assert len(inbox.claim(3, LEASE_S, compose).items) == 3
    assert len(other.claim(8, LEASE_S, compose).items) == 2


def test_a_failed_item_is_due_again_when_the_gate_opens(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = inbox.claim(8, LEASE_S, compose).items
    inbox.settle(item, {"state": PENDING, "reason": "503", "delay_s": 50.0}, close_gate)
    clock.advance(1)
    assert len(inbox.claim(8, LEASE_S, compose).items) == 1


def test_an_item_that_fails_alone_waits_alone(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1")])
    [item] = inbox.claim(8, LEASE_S, compose).items
    inbox.settle(item, {"state": PENDING, "reason": "500", "delay_s": 50.0}, keep)
    inbox.accept([new_item("e2", "p:2")])
    assert [item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items] == ["e2"]
    clock.advance(50)
    assert "e1" in [item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items]


def test_a_clock_set_back_by_a_day_holds_nothing_up(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1")])
    inbox.move_gate(close_gate)
    clock.advance(-86_400)
    assert inbox.claim(8, LEASE_S, compose).held_s == 0
    inbox.accept([new_item("e2", "p:2")])
    inbox.move_gate(lambda gate, now: Gate())
    assert {item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items} <= {"e1", "e2"}


def test_counts_tell_what_waits_and_since_when(inbox: Inbox, clock: Clock) -> None:
    assert inbox.counts().oldest_pending_s is None
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([NewItem("e2", "", {"unreadable": 1}, reason="no eventName")])
    clock.advance(7)
    counts = inbox.counts()
    assert (counts.pending, counts.parked, counts.oldest_pending_s) == (1, 1, 7.0)


def test_facts_are_kept_for_the_other_processes_and_the_next_start(inbox: Inbox, other: Inbox) -> None:
    assert other.recall("public_url") is None
    inbox.remember("public_url", "https://one.example")
    inbox.remember("public_url", "https://two.example")
    assert other.recall("public_url") == "https://two.example"


def test_a_turn_belongs_to_one_process_until_it_ends_or_lapses(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    assert inbox.take_turn("subscribing", 60)
    assert not other.take_turn("subscribing", 60)
    inbox.end_turn("subscribing")
    assert other.take_turn("subscribing", 60)
    clock.advance(60)
    assert inbox.take_turn("subscribing", 60)


def test_many_processes_can_open_an_empty_database_at_once(database_url: str) -> None:
    start = threading.Barrier(6)

    def opened(number: int) -> int:
        inbox = Inbox(database_url)
        start.wait(10)
        try:
            return sum(inbox.accept([new_item(f"e{number}")]))
        finally:
            inbox.close()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(opened, range(6))) == [1] * 6


def test_what_was_committed_is_there_after_a_new_start(database_url: str, inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", request_id="r-1")])
    inbox.close()
    later = Inbox(database_url, clock)
    [item] = later.claim(8, LEASE_S, compose).items
    later.close()
    assert (item.event_uuid, item.request_id, item.source) == ("e1", "r-1", "push")
    assert item.payload == new_item().payload


def test_a_database_of_a_later_release_is_left_alone(database_url: str, inbox: Inbox) -> None:
    inbox.accept([new_item()])
    execute(database_url, "UPDATE memory SET value = '99' WHERE name = 'schema_version'")
    later = Inbox(database_url)
    with pytest.raises(StoreUnavailable, match="later release"):
        later.counts()
    later.close()


def test_uses_the_databases_clock_when_none_is_given(database_url: str) -> None:
    inbox = Inbox(database_url)
    before = inbox.now()
    inbox.accept([new_item()])
    [item] = inbox.claim(8, LEASE_S, compose).items
    assert 0 <= item.age_s < 30
    assert 0 <= inbox.now() - before < 30
    inbox.close()


def test_text_that_is_not_valid_unicode_can_be_kept(inbox: Inbox) -> None:
    payload = {"labels": [], "item": {"entityId": "p:1", "text": "half \ud83d emoji \x00 nul"}}
    assert inbox.accept([NewItem("e1", "p:1", payload)]) == [True]
    assert inbox.claim(1, LEASE_S, compose).items[0].payload == payload


def test_sqlite_waits_for_the_disk_at_every_commit(tmp_path: Path) -> None:
    inbox = Inbox(f"sqlite:///{tmp_path / 'relay.db'}")
    with inbox._database.transaction() as db:
        assert db.rows("PRAGMA journal_mode")[0][0] == "wal"
        assert db.rows("PRAGMA synchronous")[0][0] == 2  # FULL
    inbox.close()


def test_postgresql_gets_four_connections_at_most(postgresql: Any) -> None:
    from conftest import new_database

    url = new_database(postgresql)
    inbox = Inbox(url)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda n: inbox.accept([new_item(f"e{n}")]), range(60)))
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        row = connection.execute(query).fetchone()
    inbox.close()
    assert row is not None and 1 <= row[0] <= 4


def test_on_postgresql_claims_of_two_processes_take_turns(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(Inbox(url)) as inbox, closing(Inbox(url)) as other, ThreadPoolExecutor(1) as pool:
        inbox.accept([new_item()])
        other.now()
        with inbox._database.transaction() as db:
            inbox._locked_gate(db)
            claiming = pool.submit(other.claim, 8, LEASE_S, compose)
            with pytest.raises(TimeoutError):
                claiming.result(0.3)
        assert len(claiming.result(10).items) == 1


def test_on_postgresql_a_row_that_someone_holds_is_left_for_the_next_claim(emptied: Callable[[], str]) -> None:
    url = emptied()
    with closing(Inbox(url)) as inbox, closing(Inbox(url)) as other, ThreadPoolExecutor(1) as pool:
        inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
        with inbox._database.transaction() as db:
            db.rows("SELECT id FROM inbox WHERE event_uuid = 'e1' FOR UPDATE")
            claim = pool.submit(other.claim, 8, LEASE_S, compose).result(5)
        assert [item.event_uuid for item in claim.items] == ["e2"]


def test_a_connection_that_died_costs_no_notification(postgresql: Any) -> None:
    from conftest import new_database

    url = new_database(postgresql)
    inbox = Inbox(url)
    inbox.accept([new_item("e1")])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert inbox.accept([new_item("e2")]) == [True]
    inbox.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/relay.db",
        "postgresql://relay:secret-word@127.0.0.1:1/relay",
        "postgresqlx://relay:secret-word@h/d",
    ],
    ids=["no such folder", "no server", "no address"],
)
def test_a_store_that_cannot_be_opened_says_so_without_secrets(url: str) -> None:
    inbox = Inbox(url)
    with pytest.raises(StoreUnavailable) as raised:
        inbox.accept([new_item()])
    inbox.close()
    assert "secret-word" not in str(raised.value)


def test_a_full_disk_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    inbox = Inbox(f"sqlite:///{tmp_path / 'relay.db'}")
    inbox.accept([new_item("e1")])
    connect = inbox._database.connect

    def limited() -> Any:
        connection = connect()
        connection.execute("PRAGMA max_page_count = 30")
        return connection

    inbox._database.connect = limited  # type: ignore[method-assign]
    inbox.close()  # the connections that it opens now have room for no more
    big = [NewItem(f"big-{n}", f"p:{n}", {"text": "x" * 20_000}) for n in range(20)]
    with pytest.raises(StoreUnavailable, match="full") as raised:
        inbox.accept(big)
    assert "xxx" not in str(raised.value)
    assert inbox.counts().pending == 1
    inbox.close()


def execute(url: str, statement: str) -> None:
    """Changes the database behind the inbox's back."""
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"))
        with connection:
            connection.execute(statement)
        connection.close()
    else:
        with psycopg.connect(url) as postgresql:
            postgresql.execute(statement.encode())


def test_the_gate_survives_a_restart(database_url: str, inbox: Inbox, clock: Clock) -> None:
    inbox.move_gate(lambda gate, now: gate.after_failure(now, gate.version, LIMITED, "429", 40.0))
    inbox.close()
    later = Inbox(database_url, clock)
    gate, held_s = later.gate()
    later.close()
    assert (gate.state, held_s) == (LIMITED, 40.0)
