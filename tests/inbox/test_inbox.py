"""The inbox: what it accepts once, hands out in order, freezes, leases, settles, and forgets."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from claims import LEASE_S, claim, claimed, move_gate, refuse, settle
from conftest import Clock, compose, new_item, rows, wait_for
from sessions import execute, watch

from inbox import open_database
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Session, Values
from inbox.gate import LIMITED, OPEN, OUTAGE, REFUSING, UNAUTHORISED, Gate
from inbox.inbox import CANNOT_COMPOSE, MOST_TOGETHER, ROWS_AT_ONCE, Inbox
from inbox.items import REFUSED, Draft, Item, NewItem, Outcome, Settled
from inbox.records import Records
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING
from inbox.statements import PURGED_AT_ONCE

DAY_S = 86_400.0


def states(records: Records) -> dict[str, str]:
    return {record.event_uuid: record.state for record in records.latest()}


# In


def test_the_same_event_of_the_same_post_is_kept_once(inbox: Inbox) -> None:
    assert inbox.accept([new_item("e1", "p:1"), new_item("e1", "p:2"), new_item("e1", "p:1")]) == [True, True, False]
    assert inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:1")]) == [False, True]
    assert inbox.counts().pending == 3


def test_the_same_event_is_kept_once_for_each_destination(inbox: Inbox) -> None:
    slack, zendesk = new_item("e1", destination="slack:orders"), new_item("e1")
    assert inbox.accept([slack, zendesk]) == [True, True]
    assert inbox.accept([zendesk, slack]) == [False, False]
    assert claimed(inbox) == claimed(inbox, destination="slack:orders") == ["e1"]


def test_the_same_event_is_kept_once_when_it_comes_twenty_times_at_once(inbox: Inbox, other: Inbox) -> None:
    start = threading.Barrier(20)

    def call(number: int) -> int:
        start.wait(10)
        return sum((inbox, other)[number % 2].accept([new_item("e1", f"p:{n}") for n in range(3)]))

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(call, range(20))) == 3


def test_items_that_come_together_are_kept_in_one_order_whatever_order_they_come_in(
    inbox: Inbox, database: Database
) -> None:
    """Two processes that insert the same rows in different orders would wait for each other."""
    inbox.accept([new_item("e2", "p:1"), new_item("e1", "p:2"), new_item("e1", "p:1")])
    assert [row[:2] for row in rows(database)] == [("e1", "p:1"), ("e1", "p:2"), ("e2", "p:1")]


def test_nothing_to_keep_needs_no_database() -> None:
    """What belongs to another company is answered with 202 also while the database is down."""
    assert Inbox(open_database("sqlite:////nowhere/at/all/relay.db")).accept([]) == []


def test_more_than_one_statement_takes_are_kept_all_or_not_at_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserts = itertools.count(1)

    def fail_each_second(session: Session, sql: str, values: Values) -> None:
        if sql.startswith("INSERT INTO items") and next(inserts) in (2, 4):
            session.close()

    watch(monkeypatch, database, fail_each_second)
    inbox, items = Inbox(database), [new_item("e1", f"p:{n}") for n in range(ROWS_AT_ONCE + 1)]
    with pytest.raises(DatabaseUnavailable):
        inbox.accept(items)
    assert next(inserts) == 5  # it tried twice
    assert inbox.counts().pending == 0
    assert inbox.accept(items) == [True] * len(items)


def test_a_connection_that_dies_in_the_middle_costs_no_notification(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserts = itertools.count(1)

    def die_once(session: Session, sql: str, values: Values) -> None:
        if sql.startswith("INSERT INTO items") and next(inserts) == 1:
            session.close()

    watch(monkeypatch, database, die_once)
    assert Inbox(database).accept([new_item("e1"), new_item("e2")]) == [True, True]


def test_a_thousand_posts_can_come_in_one_notification(inbox: Inbox) -> None:
    assert inbox.accept([new_item("e1", f"p:{n}") for n in range(1000)]) == [True] * 1000


@pytest.mark.parametrize("count", [2, 100, 101, 1500])
def test_a_known_one_among_many_costs_the_others_nothing(count: int, inbox: Inbox, records: Records) -> None:
    known = f"p:{count - 1:04}"  # the last to be put in
    inbox.accept([new_item("e1", known)])
    before = records.find(known)
    assert inbox.accept([new_item("e1", f"p:{n:04}") for n in range(count)]) == [True] * (count - 1) + [False]
    assert records.find(known) == before
    assert inbox.counts().pending == count


def test_what_was_committed_is_there_after_a_new_start(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item("e1", request_id="r-1", source="poll")])
    inbox.close()
    [item] = claim(other)
    assert (item.event_uuid, item.request_id, item.source) == ("e1", "r-1", "poll")
    assert item.payload == new_item().payload


def test_text_that_is_not_valid_unicode_can_be_kept(inbox: Inbox) -> None:
    payload = {"labels": [], "item": {"entityId": "p:1", "text": "half \ud83d emoji \x00 nul"}}
    assert inbox.accept([NewItem("zendesk", "e1", "p:1", payload)]) == [True]
    assert claim(inbox)[0].payload == payload


def test_a_check_that_the_database_takes_changes_leaves_nothing_behind(inbox: Inbox, database: Database) -> None:
    inbox.check_writable()
    assert rows(database) == []


# Leases


def test_a_claimed_item_is_not_claimed_again_before_its_lease_ends(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    assert len(claim(inbox)) == 1
    clock.advance(LEASE_S - 1)
    assert claim(other) == []
    clock.advance(1)
    assert [(item.attempts, item.sent_s_ago) for item in claim(other)] == [(2, LEASE_S)]


def test_a_renewed_lease_lasts_longer(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    clock.advance(10)
    inbox.renew([item.id], LEASE_S)
    clock.advance(10)
    assert claim(other) == []


def test_a_lease_that_another_process_has_now_is_not_renewed(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    clock.advance(LEASE_S)
    claim(other)
    inbox.renew([item.id], 1000.0)
    clock.advance(LEASE_S)
    assert claimed(other) == ["event-1"]


def test_an_item_is_settled_only_by_the_process_that_has_its_lease(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [mine] = claim(inbox)
    clock.advance(LEASE_S)
    [theirs] = claim(other)
    assert not settle(inbox, mine).ours
    assert settle(other, theirs).ours
    assert not settle(other, theirs).ours


def test_a_lease_that_the_same_process_took_again_is_another_lease(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [first] = claim(inbox)
    clock.advance(LEASE_S)
    [second] = claim(inbox)
    assert not settle(inbox, first).ours
    assert settle(inbox, second).ours


@pytest.mark.parametrize("stalled_s", [0.0, LEASE_S, 10 * LEASE_S])
def test_what_is_under_way_is_never_claimed_again_nor_another_item_of_its_subject(
    stalled_s: float, inbox: Inbox, clock: Clock
) -> None:
    """A process that stalled for longer than its leases last must not send its own items twice."""
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    inbox.accept([new_item("e3", "p:1"), new_item("e4", "p:3")])
    ids = [item.id for item in claim(inbox, 2)]
    clock.advance(stalled_s)
    assert claimed(inbox, under_way=ids) == ["e4"]


def test_an_earlier_item_of_a_subject_waits_too_while_a_later_one_is_under_way(inbox: Inbox, clock: Clock) -> None:
    """A person can have an earlier item sent again meanwhile."""
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = claim(inbox)
    refuse(inbox, first)
    [second] = claim(inbox)
    inbox.retry([first.id])
    clock.advance(LEASE_S)
    assert claim(inbox, under_way=[second.id]) == []
    assert claimed(inbox) == ["e1"]


# Drafts


def test_what_is_sent_is_frozen_before_the_first_send(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1")])
    [first] = claim(inbox)
    clock.advance(LEASE_S)
    [second] = claim(inbox, compose=lambda item: Draft("made up", b"other words", "other key"))
    assert first.draft == second.draft == Draft("made up", b"body of e1", "key of e1")


def test_a_draft_that_was_replaced_stays_replaced(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    clock.advance(10)
    follow_up = Draft("follow-up", b"other words", "key-2", "35436")
    changed = inbox.refreeze(item, follow_up, LEASE_S)
    assert changed is not None and changed.draft == follow_up
    clock.advance(10)
    assert claim(inbox) == []
    clock.advance(5)
    [again] = claim(inbox)
    assert (again.draft, again.sent_s_ago) == (follow_up, LEASE_S)
    assert inbox.refreeze(item, Draft("late", b""), LEASE_S) is None


def test_a_post_that_cannot_be_composed_is_parked_and_the_others_leave(
    inbox: Inbox, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    def picky(item: Item) -> Draft:
        if item.event_uuid == "bad":
            raise KeyError("text of a customer")
        return compose(item)

    inbox.accept([new_item("bad", "p:1"), new_item("good", "p:2")])
    items = claim(inbox, compose=picky)
    assert [(item.event_uuid, item.draft is None) for item in items] == [("bad", True), ("good", False)]
    assert [(record.event_uuid, record.reason) for record in records.latest(PARKED)] == [("bad", CANNOT_COMPOSE)]
    assert "customer" not in caplog.text


@pytest.mark.parametrize("payload", ["{", "[]", '{"item": ' + "[" * 200_000], ids=["broken", "a list", "too deep"])
def test_a_payload_that_cannot_be_read_is_parked_and_the_others_leave(
    payload: str, inbox: Inbox, database: Database, records: Records
) -> None:
    def compose_text(item: Item) -> Draft:
        return Draft("made up", item.payload["item"]["text"].encode())

    inbox.accept([new_item("bad", "p:1"), new_item("good", "p:2")])
    with database.transaction() as db:
        db.change("UPDATE items SET payload = :payload WHERE event_uuid = 'bad'", {"payload": payload})
    assert [(item.event_uuid, item.draft is None) for item in claim(inbox, compose=compose_text)] == [
        ("bad", True),
        ("good", False),
    ]
    assert [record.event_uuid for record in records.latest(PARKED)] == ["bad"]


# Order


def test_two_events_of_one_post_are_never_under_way_together(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:1")])
    inbox.accept([new_item("e3", "p:2")])
    first, third = claim(inbox)
    assert [first.event_uuid, third.event_uuid] == ["e1", "e3"]
    assert claim(other) == []
    settle(inbox, first, reference="77")
    [second] = claim(other)
    assert (second.event_uuid, second.latest_reference) == ("e2", "77")
    settle(other, second)


def test_events_of_one_post_for_two_destinations_do_not_wait_for_each_other(inbox: Inbox) -> None:
    inbox.accept([new_item("e1"), new_item("e1", destination="slack:orders")])
    [item] = claim(inbox)
    assert claimed(inbox, destination="slack:orders") == ["e1"]
    settle(inbox, item, reference="77")
    inbox.accept([new_item("e2", destination="slack:support")])
    [elsewhere] = claim(inbox, destination="slack:support")
    assert elsewhere.latest_reference is None


def test_a_post_whose_later_event_was_claimed_first_waits_for_it(inbox: Inbox, database_url: str, clock: Clock) -> None:
    """On PostgreSQL a row with a lower id can become visible after one with a higher id."""
    inbox.accept([new_item("early", "p:1"), new_item("hidden", "p:2")])
    inbox.accept([new_item("late", "p:1")])
    execute(database_url, "UPDATE items SET subject_id = 'p:9' WHERE event_uuid = 'early'")
    assert set(claimed(inbox)) == {"early", "hidden", "late"}
    execute(database_url, "UPDATE items SET subject_id = 'p:1', owner = NULL, next_attempt_at = 0 WHERE id = 1")
    assert claim(inbox) == []
    clock.advance(LEASE_S)
    assert "early" in claimed(inbox)


def test_a_parked_item_does_not_hold_up_its_post(inbox: Inbox) -> None:
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = claim(inbox)
    refuse(inbox, first)
    assert claimed(inbox) == ["e2"]


def test_the_oldest_leave_first_and_no_more_than_asked_for(inbox: Inbox, clock: Clock) -> None:
    for number in range(5):
        inbox.accept([new_item(f"e{number}", f"p:{number}")])
        clock.advance(1)
    first = inbox.claim("zendesk", 3, LEASE_S, compose)
    assert [item.event_uuid for item in first.items] == ["e0", "e1", "e2"]
    second = inbox.claim("zendesk", 3, LEASE_S, compose)
    assert [item.event_uuid for item in second.items] == ["e3", "e4"]


def test_the_latest_reference_of_a_post_counts_not_that_of_its_newest_item(inbox: Inbox) -> None:
    """An older item may get its ticket later, when a person has it sent again."""
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = claim(inbox)
    refuse(inbox, first)
    [second] = claim(inbox)
    settle(inbox, second, reference="77")
    inbox.retry([first.id])
    [again] = claim(inbox)
    settle(inbox, again, reference="99")
    inbox.accept([new_item("e3")])
    [third] = claim(inbox)
    assert (third.event_uuid, third.latest_reference) == ("e3", "99")


@pytest.mark.parametrize(
    ("references", "latest"),
    [(["9", "10"], "10"), (["10", "9"], "10"), (["99", "100", "98"], "100"), (["1700.2", "1700.1"], "1700.2")],
)
def test_the_largest_reference_is_the_latest(references: list[str], latest: str, inbox: Inbox) -> None:
    for number, reference in enumerate(references):
        inbox.accept([new_item(f"e{number}")])
        [item] = claim(inbox)
        settle(inbox, item, reference=reference)
    inbox.accept([new_item("next")])
    assert claim(inbox)[0].latest_reference == latest


# The gate


def test_nothing_leaves_while_the_gate_is_closed_and_then_one_probe(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    before, after = move_gate(inbox)
    assert (before.state, after.state) == (OPEN, OUTAGE)
    claim_ = other.claim("zendesk", 8, LEASE_S, compose)
    assert (claim_.items, claim_.held_s) == ([], 1.0)
    clock.advance(1)
    assert len(claim(other)) == 1
    assert claim(inbox) == []


def test_a_second_probe_does_not_leave_while_the_lease_of_the_first_runs(
    inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    move_gate(inbox)
    clock.advance(1)
    [probe] = claim(inbox)
    for _ in range(10):  # the call hangs, and its process renews the lease
        clock.advance(LEASE_S - 1)
        inbox.renew([probe.id], LEASE_S)
        assert claim(other) == []
    clock.advance(LEASE_S - 1)
    assert claim(other) == []
    clock.advance(1)  # the process died
    assert len(claim(other)) == 1
    assert claim(inbox) == []


def test_a_probe_that_is_lost_holds_nothing_up_when_the_clock_is_set_back(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(2)])
    move_gate(inbox)
    clock.advance(1)
    claim(inbox)
    clock.advance(-DAY_S)
    assert claim(inbox) == []
    clock.advance(LEASE_S)
    assert len(claim(inbox)) == 1


def test_a_settled_probe_opens_the_gate_for_everything(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    move_gate(inbox)
    clock.advance(1)
    [probe] = claim(inbox)
    settled = settle(inbox, probe)
    assert (settled.before.state, settled.after.state) == (OUTAGE, OPEN)
    assert len(claim(inbox)) == 3


def test_a_probe_that_fails_closes_the_gate_for_longer(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    move_gate(inbox)
    clock.advance(1)
    [probe] = claim(inbox)
    assert settle(inbox, probe, OUTAGE, reason="503").after.held_for(clock.now) == 2.0
    clock.advance(2)
    assert len(claim(inbox)) == 1


def test_an_outage_of_one_destination_does_not_hold_up_another(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1"), new_item("e1", destination="slack:orders")])
    move_gate(inbox, OUTAGE, reason="down")
    assert claim(inbox) == []
    [item] = claim(other, destination="slack:orders")
    assert settle(other, item).after.state == OPEN
    assert inbox.gate("zendesk")[0].state == OUTAGE
    clock.advance(1)
    assert claimed(inbox) == ["e1"]


def test_the_rate_limit_counts_what_other_processes_have_under_way(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(9)])
    inbox.accept([new_item(f"s{n}", f"p:{n}", destination="slack:orders") for n in range(3)])
    assert len(claim(other, destination="slack:orders")) == 3
    move_gate(inbox, "checked", calls_left=15, reset_s=30.0)
    assert len(claim(inbox, 3)) == 3
    assert len(claim(other)) == 2


def test_a_failed_item_is_due_again_when_the_gate_opens(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    settle(inbox, item, OUTAGE, reason="503", retry_after_s=50.0)
    clock.advance(49)
    assert claim(inbox) == []
    clock.advance(1)
    assert len(claim(inbox)) == 1


def test_an_item_that_fails_alone_waits_alone(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1")])
    for wait_s in (2, 4, 8):
        [item] = claim(inbox)
        assert settle(inbox, item, OUTAGE, reason="500", item_only=True).after.state == OPEN
        inbox.accept([new_item(f"after {wait_s}", f"p:{wait_s}")])
        assert claimed(inbox) == [f"after {wait_s}"]
        clock.advance(wait_s - 0.1)
        assert claim(inbox) == []
        clock.advance(0.1)


def test_a_limit_of_one_item_holds_that_item_and_its_post_alone(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:1"), new_item("e3", "p:2")])
    [first, third] = claim(inbox)
    assert settle(inbox, first, LIMITED, item_only=True, retry_after_s=600.0, reason="429").after.state == OPEN
    settle(inbox, third)
    clock.advance(599)
    assert claim(inbox) == []
    clock.advance(1)
    assert claimed(inbox) == ["e1"]


def test_recovery_frees_everything_at_once_but_an_item_that_was_told_to_wait(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    limited, *others = claim(inbox)
    settle(inbox, limited, LIMITED, item_only=True, retry_after_s=600.0, reason="429")
    for item in others:
        settle(inbox, item, OUTAGE, reason="503", retry_after_s=300.0)
    assert claim(inbox) == []
    move_gate(inbox, "checked")
    assert sorted(claimed(inbox)) == ["e1", "e2", "e3"]


# Items that are refused


REFUSAL: dict[str, Any] = {
    "how": REFUSED,
    "reason": "Zendesk answered 422 RecordInvalid",
    "status": 422,
    "code": "RecordInvalid",
}


def refuse_alike(inbox: Inbox, count: int, start: int = 0) -> list[Settled]:
    """New items, refused alike one after the other."""
    answers = []
    for number in range(start, start + count):
        inbox.accept([new_item(f"e{number}", f"p:{number}")])
        answers += [settle(inbox, item, **REFUSAL) for item in claim(inbox, 1)]
    return answers


def test_five_items_in_a_row_that_are_refused_alike_close_the_gate_and_nothing_stays_parked(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    *first, fifth = refuse_alike(inbox, 5)
    assert [answer.state for answer in first] == [PARKED] * 4
    assert (fifth.state, fifth.after.state, fifth.put_back) == (PENDING, REFUSING, 4)
    assert fifth.after.reason == f"{REFUSAL['reason']}: 5 different posts in a row were refused alike"
    assert set(states(records).values()) == {PENDING}
    assert claim(inbox) == []
    clock.advance(fifth.after.held_for(clock.now))
    assert len(claim(inbox)) == 1


def test_items_that_come_back_together_and_were_refused_alike_stay_pending_together(
    inbox: Inbox, records: Records
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(8)])
    inbox.settle([(item, Outcome(took_s=0.1, **REFUSAL)) for item in claim(inbox)])
    assert set(states(records).values()) == {PENDING} and inbox.gate("zendesk")[0].state == REFUSING


def test_what_was_parked_days_ago_goes_back_as_well_but_not_what_a_person_discarded_or_whose_text_is_gone(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    refuse_alike(inbox, 3)
    inbox.discard([1])
    clock.advance(40 * DAY_S)
    inbox.purge(30 * DAY_S)
    assert refuse_alike(inbox, 2, start=3)[-1].put_back == 1
    assert states(records) == {"e0": DISCARDED, "e1": PARKED, "e2": PARKED, "e3": PENDING, "e4": PENDING}


def test_while_all_are_refused_alike_the_probe_changes_and_stays_pending_and_new_items_come_first(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    refuse_alike(inbox, 5)
    inbox.accept([new_item("new", "p:new")])
    probes = []
    for _ in range(8):
        clock.advance(60)
        [probe] = claim(inbox)
        probes.append(probe.event_uuid)
        answer = settle(inbox, probe, **REFUSAL)
        assert (answer.state, answer.after.state) == (PENDING, REFUSING)
    assert probes == ["new", "e0", "e1", "e2", "e3", "e4", "new", "e0"]
    assert inbox.counts().parked == 0


def test_one_success_frees_all_that_were_refused_alike_with_a_new_draft_each(inbox: Inbox, clock: Clock) -> None:
    """The settings were corrected. An earlier attempt may have had an effect: it counts as sent long ago."""
    refuse_alike(inbox, 5)
    clock.advance(5)
    [probe] = claim(inbox, compose=lambda item: Draft("made up", b"corrected", "key"))
    assert probe.draft == Draft("made up", b"corrected", "key")
    assert settle(inbox, probe).after.state == OPEN
    rest = claim(inbox, compose=lambda item: Draft("made up", b"corrected", "key"))
    assert len(rest) == 4
    assert {(item.draft and item.draft.body, (item.sent_s_ago or 0) > 7200) for item in rest} == {(b"corrected", True)}


def test_while_all_are_refused_alike_another_answer_parks_that_item_and_opens(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    refuse_alike(inbox, 5)
    clock.advance(5)
    [probe] = claim(inbox)
    answer = settle(inbox, probe, REFUSED, reason="too long", status=422, code="RecordInvalid subject:TooLong")
    assert (answer.state, answer.after.state) == (PARKED, OPEN)
    assert len(claim(inbox)) == 4


def test_an_item_that_is_refused_again_while_others_may_go_is_parked_and_blames_nobody(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    refuse_alike(inbox, 5)
    inbox.accept([new_item("good", "p:good")])
    clock.advance(5)
    [probe] = claim(inbox)
    assert probe.event_uuid == "good"
    settle(inbox, probe)
    answers = [settle(inbox, item, **REFUSAL) for item in claim(inbox)]
    assert [(answer.state, answer.after.state, answer.after.blamed) for answer in answers] == [(PARKED, OPEN, "")] * 5
    assert states(records) == {**{f"e{n}": PARKED for n in range(5)}, "good": DELIVERED}


def test_two_items_that_are_refused_whatever_one_does_never_close_the_gate_for_good(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    refuse_alike(inbox, 2)
    for number in range(20):
        inbox.accept([new_item(f"good {number}", f"q:{number}")])
        inbox.retry()
        for item in claim(inbox):
            settle(inbox, item, **(REFUSAL if item.event_uuid.startswith("e") else {}))
        assert inbox.gate("zendesk")[0].state == OPEN
    assert inbox.counts().pending == 0 and inbox.counts().parked == 2


@pytest.mark.parametrize("how", [OUTAGE, LIMITED, UNAUTHORISED])
def test_five_items_in_a_row_that_fail_alike_though_the_check_works_close_the_gate(how: str, inbox: Inbox) -> None:
    """A row of limits closes as one, so that its hold is kept to."""
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(6)])
    answers = [settle(inbox, item, how, reason="403", status=403, item_only=True) for item in claim(inbox, 5)]
    assert [answer.after.state for answer in answers] == [OPEN] * 4 + [LIMITED if how == LIMITED else REFUSING]
    assert [answer.state for answer in answers] == [PENDING] * 5
    assert claim(inbox) == []


def test_a_refused_call_for_several_items_blames_none_and_each_is_sent_alone(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(6)])
    together = inbox.claim("zendesk", 1, LEASE_S, compose, above=5)
    shared = Outcome(OUTAGE, 0.1, reason="too long", item_only=True, shared=True)
    answers = inbox.settle([(item, shared) for item in together.items])
    assert {(answer.state, answer.after.state, answer.after.blamed) for answer in answers} == {(PENDING, OPEN, "")}
    clock.advance(2)
    alone = inbox.claim("zendesk", 1, LEASE_S, compose, above=5)
    assert (alone.together, len(alone.items)) == (False, 1)


def settle_round(inbox: Inbox, free: int = 8, how: str = REFUSED) -> list[str]:
    """A round comes back: what is good is taken, the rest is refused alike. Returns its events."""
    items = claim(inbox, free)
    refusal = {**REFUSAL, "how": how, "item_only": how != REFUSED}
    for item in items:
        settle(inbox, item, **({} if "good" in item.event_uuid else refusal))
    return [item.event_uuid for item in items]


@pytest.mark.parametrize("how", [REFUSED, UNAUTHORISED, OUTAGE])
@pytest.mark.parametrize("bad", [12, 30])
def test_a_good_item_behind_many_that_are_refused_alike_leaves_soon(
    bad: int, how: str, inbox: Inbox, records: Records, clock: Clock
) -> None:
    inbox.accept([new_item(f"bad {n}", f"p:{n}") for n in range(bad)])
    settle_round(inbox, how=how)
    assert inbox.gate("zendesk")[0].state == REFUSING
    inbox.accept([new_item("good", "p:good")])
    clock.advance(5)
    assert settle_round(inbox, how=how)[0] == "good"  # the newest first
    assert inbox.gate("zendesk")[0].state == OPEN
    for number in range(12):  # those not tried yet may make up a row once more
        settle_round(inbox, how=how)
        inbox.accept([new_item(f"good {number}", f"q:{number}")])
        clock.advance(5)
        settle_round(inbox, how=how)
    assert inbox.gate("zendesk")[0].state == OPEN
    assert (inbox.counts().parked, inbox.counts().pending) == ((bad, 0) if how == REFUSED else (0, bad))


def test_those_not_tried_yet_are_all_tried_before_any_is_tried_again(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n:02}", f"p:{n}") for n in range(30)])
    tried, waits = [], []
    for _ in range(7):
        tried.append(settle_round(inbox))
        waits.append(inbox.gate("zendesk")[1])
        clock.advance(waits[-1])
    assert [len(names) for names in tried] == [8, 8, 8, 6, 1, 1, 1]
    assert tried[1] == [f"e{n}" for n in range(29, 21, -1)]
    assert waits == [5.0, 5.0, 5.0, 5.0, 15.0, 30.0, 60.0]
    assert (inbox.counts().pending, inbox.counts().parked) == (30, 0)


def test_a_new_item_does_not_wait_for_a_hold_that_grew(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    refuse_alike(inbox, 5)
    for _ in range(4):
        clock.advance(inbox.gate("zendesk")[1])
        settle_round(inbox)
    inbox.accept([new_item("good", "p:good")])
    assert inbox.gate("zendesk")[1] == 60.0 and claim(inbox) == []
    clock.advance(5)
    assert claimed(inbox) == ["good"]
    inbox.accept([new_item("another", "p:another")])
    assert claim(other) == []
    clock.advance(5)
    assert claimed(other) == ["another"]


def test_no_check_opens_while_a_round_is_under_way(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(7)])
    settle_round(inbox, 5)
    clock.advance(5)
    first, _ = claim(inbox, 2)
    settle(inbox, first, **REFUSAL)
    clock.advance(5)
    assert claim(other) == [] and other.begin_check("zendesk", 20) is None


def test_failures_while_all_fail_alike_count_when_others_are_taken(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"bad {n}", f"p:{n}") for n in range(5)])
    for _ in range(60):
        settle_round(inbox, how=UNAUTHORISED)
        clock.advance(120)
    assert (inbox.counts().pending, inbox.counts().parked) == (5, 0)
    inbox.accept([new_item("good", "p:good")])
    settle_round(inbox, how=UNAUTHORISED)
    settle_round(inbox, how=UNAUTHORISED)
    assert (inbox.counts().pending, inbox.counts().parked) == (0, 5)


def test_refusals_that_quote_a_reference_are_alike(inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(5)])
    for item in claim(inbox):
        settle(inbox, item, **{**REFUSAL, "code": f"AccountSuspended ref-{item.id:x}7 9f{item.id}c0ffee"})
    assert inbox.gate("zendesk")[0].state == REFUSING


def test_a_limit_is_of_one_item_while_the_account_has_calls_left(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(6)])
    move_gate(inbox, "checked", calls_left=650, reset_s=30.0)
    answers = [settle(inbox, item, LIMITED, reason="429", status=429, retry_after_s=600.0) for item in claim(inbox, 5)]
    assert [answer.after.state for answer in answers] == [OPEN] * 4 + [LIMITED]
    assert answers[-1].after.held_for(clock.now) == 600.0


@pytest.mark.parametrize("calls_left", [None, 2])
def test_a_limit_is_the_accounts_unless_it_is_known_to_have_calls_left(calls_left: int | None, inbox: Inbox) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    assert settle(inbox, item, LIMITED, reason="429", calls_left=calls_left, reset_s=30.0).after.state == LIMITED


@pytest.mark.parametrize("outcome", [{"item_only": True}, {"calls_left": 650, "reset_s": 30.0}])
def test_a_check_that_is_limited_alone_says_nothing(outcome: dict[str, Any], inbox: Inbox) -> None:
    _, after = move_gate(inbox, LIMITED, reason="429", retry_after_s=600.0, **outcome)
    assert after.state == OPEN


# Items that fail for too long


def fail_alone(inbox: Inbox, clock: Clock, times: int, every_s: float) -> list[Settled]:
    """The one item that is due fails that often, though the destination works."""
    answers = []
    for _ in range(times):
        [item] = claim(inbox)
        answers.append(settle(inbox, item, OUTAGE, reason="Zendesk answered 500", item_only=True))
        clock.advance(every_s)
    return answers


@pytest.mark.parametrize(
    ("times", "every_s", "parked"),
    [(10, 400, True), (10, 399, False), (9, 1000, False), (61, 60, True), (60, 60, False)],
    ids=["an hour", "not an hour", "not ten times", "each minute", "each minute, not an hour"],
)
def test_an_item_that_fails_for_an_hour_and_ten_times_needs_a_person(
    times: int, every_s: float, parked: bool, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    *before, last = fail_alone(inbox, clock, times, every_s)
    assert {answer.state for answer in before} == {PENDING}
    assert last.state == (PARKED if parked else PENDING)


def test_the_reason_says_how_often_it_failed_and_whether_others_were_taken_meanwhile(
    inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "p:1")])
    last = fail_alone(inbox, clock, 12, 330)[-1]
    words = "Zendesk answered 500 (12 times in 60 minutes, while {}): look at it, then send it again"
    assert last.reason == words.format("the rest of it worked")
    inbox.retry([1])
    fail_alone(inbox, clock, 1, 60)
    inbox.accept([new_item("e2", "p:2")])
    settle(inbox, claim(inbox, under_way=[1])[0])
    assert fail_alone(inbox, clock, 11, 354)[-1].reason == words.format("it took others")


def test_what_a_person_sends_again_has_an_hour_again(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    assert fail_alone(inbox, clock, 10, 400)[-1].state == PARKED
    inbox.retry([1])
    assert {answer.state for answer in fail_alone(inbox, clock, 9, 400)} == {PENDING}


def test_failures_of_the_destination_do_not_count_against_an_item(inbox: Inbox, clock: Clock) -> None:
    """It may have been the probe for hours."""
    inbox.accept([new_item()])
    for _ in range(20):
        [item] = claim(inbox)
        settle(inbox, item, OUTAGE, reason="503")
        clock.advance(600)
    assert fail_alone(inbox, clock, 1, 60)[-1].state == PENDING


# Pace


def test_with_a_pace_one_item_leaves_at_a_time_and_all_processes_wait_for_the_next(
    inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    first = inbox.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0)
    assert [item.event_uuid for item in first.items] == ["e0"]
    clock.advance(3.0)
    waiting = other.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0)
    assert (waiting.items, waiting.held_s) == ([], 1.0)  # nobody knows yet when it reaches them
    inbox.settle([(first.items[0], Outcome("message_posted", 3.0, reference="1"))], pace_s=1.0)
    clock.advance(0.25)
    second = other.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0)
    assert (second.items, second.held_s) == ([], 0.75)
    clock.advance(0.75)
    assert [item.event_uuid for item in other.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0).items] == ["e1"]


def test_a_pace_begins_with_what_leaves_and_not_with_a_look(inbox: Inbox) -> None:
    assert inbox.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0).held_s == 0
    inbox.accept([new_item()])
    assert len(inbox.claim("zendesk", 8, LEASE_S, compose, pace_s=1.0).items) == 1


# Many together


@pytest.mark.parametrize(("count", "together"), [(20, False), (21, True), (MOST_TOGETHER + 5, True)])
def test_more_than_so_many_that_are_due_leave_together(count: int, together: bool, inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n:04}", f"p:{n}") for n in range(count)])
    claim = inbox.claim("zendesk", 1, LEASE_S, compose, above=20)
    assert claim.together == together
    expected = min(count, MOST_TOGETHER) if together else 1
    assert [item.event_uuid for item in claim.items] == [f"e{n:04}" for n in range(expected)]
    assert inbox.discard(item.id for item in claim.items) == 0  # they are all under way


def test_items_of_one_subject_leave_in_order_and_never_in_one_call(inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(3)])
    inbox.accept([new_item("again", "p:0")])
    first = inbox.claim("zendesk", 1, LEASE_S, compose, above=2)
    assert [item.event_uuid for item in first.items] == ["e0", "e1", "e2"]
    inbox.settle([(item, Outcome("digest_sent", 0.1, reference="7")) for item in first.items])
    [again] = claim(inbox)
    assert (again.event_uuid, again.latest_reference) == ("again", "7")


def test_a_digest_is_recorded_for_each_of_its_items_that_is_still_ours(
    inbox: Inbox, other: Inbox, records: Records, clock: Clock
) -> None:
    """In few statements: when the process ends before they are committed, all of it is sent again."""
    inbox.accept([new_item(f"e{n:04}", f"p:{n}") for n in range(600)])
    items = inbox.claim("zendesk", 1, LEASE_S, compose, above=20).items
    clock.advance(LEASE_S + 1)
    [taken] = other.claim("zendesk", 1, LEASE_S, compose).items
    outcome = Outcome("digest_sent", 0.5, reference="7", status=200)
    settled = inbox.settle([(item, outcome) for item in items])
    assert [one.ours for one in settled] == [item.id != taken.id for item in items]
    assert {one.after for one in settled} == {settled[-1].after}
    assert len(records.latest("delivered", 1000)) == 599 and inbox.counts().pending == 1
    tried = records.attempts(item.id for item in items)
    assert {(one.number, one.outcome, one.status, one.took_s) for one in tried} == {(1, "digest_sent", 200, 0.5)}
    assert len(tried) == 599


def test_the_probe_of_a_closed_gate_leaves_alone(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(30)])
    move_gate(inbox)
    clock.advance(1)
    probe = inbox.claim("zendesk", 1, LEASE_S, compose, above=20)
    assert (probe.together, len(probe.items)) == (False, 1)
    settle(inbox, probe.items[0])
    assert inbox.claim("zendesk", 1, LEASE_S, compose, above=20).together


def test_many_together_keep_the_pace(inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(30)])
    assert inbox.claim("zendesk", 1, LEASE_S, compose, pace_s=1.0, above=20).together
    inbox.accept([new_item(f"later {n}", f"q:{n}") for n in range(30)])
    assert inbox.claim("zendesk", 1, LEASE_S, compose, pace_s=1.0, above=20).held_s == 1.0


# What an answer says can always be kept


def test_no_words_of_an_answer_keep_an_attempt_from_being_recorded(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item()])
    odd = "half \ud83d, nul \x00, " + "long " * 500
    [item] = claim(inbox)
    settled = settle(inbox, item, REFUSED, reason=odd, code=odd, request_id=odd, reference=odd)
    assert settled.ours and [record.state for record in records.latest()] == [PARKED]
    assert len(records.attempts([item.id])) == 1


def test_the_gate_survives_a_restart(inbox: Inbox, other: Inbox) -> None:
    move_gate(inbox, LIMITED, reason="429", retry_after_s=40.0)
    inbox.close()
    gate, held_s = other.gate("zendesk")
    assert (gate.state, gate.reason, held_s) == (LIMITED, "429", 40.0)


def test_a_gate_that_nobody_has_used_is_open(inbox: Inbox) -> None:
    assert inbox.gate("zendesk") == (Gate(), 0.0)


@pytest.mark.parametrize(
    ("change", "state", "held_s"),
    [
        ("state = 'resting'", "resting", 40.0),
        ("reason = NULL, failures = NULL", LIMITED, 40.0),
        ("hold_until = NULL, window_ends_at = NULL, version = NULL", LIMITED, 0.0),
        ("state = NULL", OPEN, 40.0),
    ],
)
def test_a_gate_that_the_release_beside_wrote_can_be_read(
    change: str, state: str, held_s: float, inbox: Inbox, database_url: str, clock: Clock
) -> None:
    """Another release may know other states, have more columns, and leave out values."""
    move_gate(inbox, LIMITED, reason="429", retry_after_s=40.0)
    execute(
        database_url,
        "CREATE TABLE theirs AS SELECT gates.*, 'new' AS colour FROM gates",  # without NOT NULL
        "DROP TABLE gates",
        "ALTER TABLE theirs RENAME TO gates",
        "CREATE UNIQUE INDEX gates_destination ON gates (destination)",
        f"UPDATE gates SET {change}",  # noqa: S608 - our own words
    )
    gate, held = inbox.gate("zendesk")
    assert (gate.state, held) == (state, held_s)
    inbox.accept([new_item()])
    clock.advance(41)
    [item] = claim(inbox)
    assert settle(inbox, item).after.state == OPEN


# Checks of the credentials


def test_two_checks_do_not_run_at_once_while_the_gate_is_not_open(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    move_gate(inbox)
    assert inbox.begin_check("zendesk", 20) is None  # on hold
    clock.advance(1)
    gate = inbox.begin_check("zendesk", 20)
    assert gate is not None and gate.state == OUTAGE
    clock.advance(19)
    assert other.begin_check("zendesk", 20) is None
    inbox.accept([new_item()])
    assert claim(other) == []
    before, after = inbox.end_check("zendesk", gate, Outcome("checked", 0.1))
    assert (before.state, after.state) == (OUTAGE, OPEN)
    assert len(claim(other)) == 1


def test_a_check_that_nobody_lived_to_end_is_over_after_its_time(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    move_gate(inbox)
    clock.advance(1)
    assert inbox.begin_check("zendesk", 20) is not None
    clock.advance(20)
    assert other.begin_check("zendesk", 20) is not None


def test_no_check_is_made_while_a_probe_is_under_way(inbox: Inbox, other: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    move_gate(inbox)
    clock.advance(1)
    claim(inbox)
    assert other.begin_check("zendesk", 20) is None
    clock.advance(LEASE_S)
    assert other.begin_check("zendesk", 20) is not None


def test_checks_of_an_open_gate_hold_nothing_back(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item()])
    assert inbox.begin_check("zendesk", 20) == other.begin_check("zendesk", 20) == Gate()
    assert len(claim(other)) == 1


def test_the_answer_to_a_check_is_ignored_when_the_gate_has_changed_meanwhile(inbox: Inbox, clock: Clock) -> None:
    gate = inbox.begin_check("zendesk", 20)
    assert gate is not None
    move_gate(inbox)
    before, after = inbox.end_check("zendesk", gate, Outcome("checked", 0.1))
    assert before == after and after.state == OUTAGE


# Clocks: nothing waits for longer than it was to wait, however the clock is moved

BACK = pytest.mark.parametrize("back_s", [5.0, 60.0, 1800.0, 3600.0, DAY_S])


@BACK
def test_a_clock_that_was_set_back_makes_no_hold_longer(
    back_s: float, inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    """Also for a process that started later."""
    inbox.accept([new_item()])
    move_gate(inbox, OUTAGE, retry_after_s=8.0)
    assert inbox.claim("zendesk", 8, LEASE_S, compose).held_s == 8.0
    clock.advance(4)
    clock.advance(-back_s)
    assert len(claim(other)) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_long_hold_longer(back_s: float, inbox: Inbox, clock: Clock) -> None:
    """The hold began before the time that the clock shows now."""
    inbox.accept([new_item()])
    move_gate(inbox, LIMITED, retry_after_s=3600.0)
    claim(inbox)
    clock.advance(3599)
    assert claim(inbox) == []
    clock.advance(-back_s)
    assert len(claim(inbox)) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_item_wait_longer(
    back_s: float, inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    settle(inbox, item, LIMITED, reason="429", item_only=True, retry_after_s=4.0)
    assert claim(inbox) == []
    clock.advance(-back_s)
    assert len(claim(other)) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_item_wait_longer_that_has_waited_for_long(
    back_s: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    [item] = claim(inbox)
    settle(inbox, item, LIMITED, reason="429", item_only=True, retry_after_s=3600.0)
    clock.advance(3599)
    assert claim(inbox) == []
    clock.advance(-back_s)
    assert len(claim(inbox)) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_lease_longer_and_ends_none(
    back_s: float, inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    """Its process may be at work: then it renews the lease."""
    inbox.accept([new_item()])
    claim(inbox)
    clock.advance(1 - back_s)
    assert claim(other) == []
    clock.advance(LEASE_S - 0.1)
    assert claim(other) == []
    clock.advance(0.1)
    assert len(claim(other)) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_pace_slower(back_s: float, inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(2)])
    [first] = inbox.claim("zendesk", 1, LEASE_S, compose, pace_s=1.0).items
    inbox.settle([(first, Outcome("message_posted", 0.1, reference="1"))], pace_s=1.0)
    clock.advance(-back_s)
    assert len(inbox.claim("zendesk", 1, LEASE_S, compose, pace_s=1.0).items) == 1


@BACK
def test_a_clock_that_was_set_back_makes_no_limit_last_longer(
    back_s: float, inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(3)])
    [item] = claim(inbox, 1)
    assert settle(inbox, item, calls_left=0, reset_s=4.0).after.state == LIMITED
    clock.advance(-back_s)
    [probe] = claim(other)
    assert settle(other, probe, calls_left=9, reset_s=30.0).after.state == OPEN
    assert other.gate("zendesk")[0].calls_known(clock.now) == 9


def test_a_clock_that_is_put_right_by_parts_of_a_second_ends_no_wait(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    move_gate(inbox, LIMITED, retry_after_s=40.0)
    claim(inbox)
    clock.advance(20)
    claim(inbox)
    clock.advance(-0.4)
    assert claim(inbox) == []
    assert inbox.gate("zendesk")[1] == pytest.approx(20.4)


def test_the_databases_clock_counts_when_none_is_given(database_url: str) -> None:
    with closing(open_database(database_url)) as database:
        inbox = Inbox(database)
        before = inbox.now()
        inbox.accept([new_item()])
        [item] = claim(inbox)
        assert 0 <= item.age_s < 30
        assert 0 <= inbox.now() - before < 30


# What people ask for


def test_counts_say_how_much_is_pending_and_since_when(inbox: Inbox, clock: Clock) -> None:
    assert inbox.counts().oldest_pending_s is None
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([NewItem("", "e2", "", {"unreadable": 1}, reason="no eventName")])
    clock.advance(7)
    counts = inbox.counts()
    assert (counts.pending, counts.parked, counts.oldest_pending_s) == (1, 1, 7.0)


def test_a_parked_item_can_be_sent_again_with_a_new_draft(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1"), NewItem("", "e2", "", {"unreadable": 1}, reason="no eventName")])
    [item] = claim(inbox)
    refuse(inbox, item)
    clock.advance(60)
    parked = records.latest(PARKED)
    assert {(record.subject_id, record.reason) for record in parked} == {("p:1", "refused"), ("", "no eventName")}
    assert inbox.retry([record.id for record in parked]) == 1
    [again] = claim(inbox, compose=lambda item: Draft("made up", b"new words", "key"))
    assert again.draft == Draft("made up", b"new words", "key") and (again.sent_s_ago or 0) > 7200
    assert [record.subject_id for record in records.latest(PARKED)] == [""]


def test_all_parked_items_can_be_sent_again_and_no_others(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    first, second, third = claim(inbox, 3)
    refuse(inbox, first)
    refuse(inbox, second)
    settle(inbox, third)
    assert inbox.retry() == 2
    assert inbox.retry() == inbox.retry([third.id]) == 0
    assert states(records) == {"e0": PENDING, "e1": PENDING, "e2": DELIVERED, "e3": PENDING}


def test_a_pending_item_can_be_made_due_at_once(inbox: Inbox, clock: Clock) -> None:
    """With the bytes that it may have been sent with."""
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    first, second = claim(inbox)
    settle(inbox, first, LIMITED, reason="429", item_only=True, retry_after_s=600.0)
    assert claim(inbox) == []
    assert inbox.retry([first.id, second.id]) == 1
    [again] = claim(inbox)
    assert (again.event_uuid, again.draft, again.sent_s_ago) == ("e1", first.draft, 0.0)


def test_what_is_parked_or_waits_can_be_discarded_and_does_not_come_in_again(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(5)])
    refused, delivered, failing, _ = claim(inbox, 4)
    refuse(inbox, refused)
    settle(inbox, delivered)
    settle(inbox, failing, UNAUTHORISED, reason="403", item_only=True)
    assert inbox.discard([1, 2, 3, 4, 5]) == 3
    assert states(records) == {"e0": DISCARDED, "e1": DELIVERED, "e2": DISCARDED, "e3": PENDING, "e4": DISCARDED}
    assert records.payload(refused.id) is None
    assert inbox.retry() == inbox.discard([refused.id]) == inbox.retry([refused.id]) == 0
    assert inbox.accept([new_item("e0", "p:0")]) == [False]


def test_what_is_under_way_is_neither_sent_again_nor_discarded_until_its_lease_is_over(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [item] = claim(inbox)
    assert inbox.retry([item.id]) == inbox.discard([item.id]) == 0
    clock.advance(LEASE_S)
    assert inbox.discard([item.id]) == 1
    assert not settle(inbox, item).ours
    assert claimed(inbox) == ["e2"]


# Retention


@pytest.fixture
def ids(inbox: Inbox, records: Records) -> dict[str, int]:
    """Items that are settled in each way, each with an attempt, and two that are pending: their ids."""
    for name in ("delivered", "refused", "discarded", "failing"):
        inbox.accept([new_item(name, f"p:{name}")])
    delivered, refused, discarded, failing = claim(inbox)
    settle(inbox, delivered, reference="35436")
    refuse(inbox, refused)
    refuse(inbox, discarded)
    inbox.discard([discarded.id])
    settle(inbox, failing, OUTAGE, reason="503")
    inbox.accept([new_item("waiting"), NewItem("", "unreadable", "", {"unreadable": "words"}, reason="no eventName")])
    return {record.event_uuid: record.id for record in records.latest()}


def kept(database: Database, column: str) -> list[int]:
    """The ids of the items that still have something in this column."""
    with database.reading() as db:
        found = db.rows(f"SELECT id FROM items WHERE {column} IS NOT NULL AND {column} <> '{{}}' ORDER BY id")  # noqa: S608
    return [item_id for (item_id,) in found]


SETTLED = ("delivered", "refused", "discarded", "unreadable")


def test_a_purge_empties_what_was_settled_long_ago_and_forgets_its_attempts(
    inbox: Inbox, database: Database, records: Records, ids: dict[str, int], clock: Clock
) -> None:
    clock.advance(30 * DAY_S + 1)
    assert inbox.purge(30 * DAY_S) == len(SETTLED)
    assert inbox.purge(30 * DAY_S) == 0
    assert kept(database, "payload") == sorted([ids["failing"], ids["waiting"]])
    assert kept(database, "body") == [ids["failing"]]
    assert {attempt.item_id for attempt in records.attempts(ids.values())} == {ids["failing"]}


def test_what_was_purged_keeps_its_ids_and_its_reference_and_does_not_come_in_again(
    inbox: Inbox, records: Records, ids: dict[str, int], clock: Clock
) -> None:
    before = {record.id: record for record in records.latest()}
    clock.advance(30 * DAY_S + 1)
    inbox.purge(30 * DAY_S)
    for record in records.latest():
        emptied = record.event_uuid in SETTLED
        assert record == replace(before[record.id], payload_kept=not emptied)
    assert inbox.accept([new_item("delivered", "p:delivered"), new_item("refused", "p:refused")]) == [False, False]
    inbox.accept([new_item("next", "p:delivered")])
    [item] = claim(inbox, 1, under_way=[ids["failing"], ids["waiting"]])
    assert item.latest_reference == "35436"


def test_nothing_is_purged_before_its_time_which_begins_when_it_is_settled(
    inbox: Inbox, database: Database, records: Records, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    clock.advance(30 * DAY_S)
    first, second = claim(inbox)
    settle(inbox, first)
    refuse(inbox, second)
    clock.advance(10 * DAY_S)
    inbox.discard([second.id])
    clock.advance(20 * DAY_S)
    assert inbox.purge(30 * DAY_S) == 0
    clock.advance(1)
    assert inbox.purge(30 * DAY_S) == 1
    assert [attempt.item_id for attempt in records.attempts([first.id, second.id])] == [second.id]
    clock.advance(10 * DAY_S)
    assert inbox.purge(30 * DAY_S) == 1
    assert records.attempts([first.id, second.id]) == []


def test_a_parked_item_whose_text_was_purged_can_only_be_discarded(
    inbox: Inbox, records: Records, ids: dict[str, int], clock: Clock
) -> None:
    clock.advance(30 * DAY_S + 1)
    inbox.purge(30 * DAY_S)
    parked = [ids["refused"], ids["unreadable"]]
    assert inbox.retry(parked) == inbox.retry() == 0
    assert [record.can_be_retried for record in records.latest(PARKED)] == [False, False]
    assert inbox.discard(parked) == 2


def test_a_purge_takes_some_at_a_time(inbox: Inbox, database_url: str, clock: Clock) -> None:
    inbox.accept([new_item("e1", f"p:{n}") for n in range(PURGED_AT_ONCE + 7)])
    execute(database_url, f"UPDATE items SET state = 'delivered', settled_at = {clock.now - 100}")  # noqa: S608
    assert [inbox.purge(60) for _ in range(3)] == [PURGED_AT_ONCE, 7, 0]


# Two processes on PostgreSQL


@pytest.fixture
def two(emptied: Callable[[], str]) -> Iterator[tuple[Database, Database]]:
    """The same database as two processes use it."""
    url = emptied()
    with closing(open_database(url)) as database, closing(open_database(url)) as other:
        yield database, other


def test_on_postgresql_claims_of_two_processes_take_turns(two: tuple[Database, Database]) -> None:
    database, other = two
    inbox = Inbox(other)
    inbox.claim("zendesk", 1, LEASE_S, compose)  # makes the gate's row
    inbox.accept([new_item()])
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as db:
            db.rows("SELECT 1 FROM gates WHERE destination = 'zendesk' FOR UPDATE")
            claiming = pool.submit(claimed, inbox)
            wait_for(lambda: db.rows("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
            assert not claiming.done()
            assert inbox.claim("slack:orders", 1, LEASE_S, compose).items == []  # another gate
        assert claiming.result(10) == ["event-1"]


def test_on_postgresql_a_row_that_someone_holds_is_left_for_the_next_claim(two: tuple[Database, Database]) -> None:
    database, other = two
    inbox = Inbox(other)
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    with ThreadPoolExecutor(1) as pool, database.transaction() as db:
        db.rows("SELECT id FROM items WHERE event_uuid = 'e1' FOR UPDATE")
        claiming = pool.submit(claimed, inbox)
        assert claiming.exception(10) is None, "a claim waits for a row that another process has"
        assert claiming.result() == ["e2"]


def test_on_postgresql_a_purge_does_not_wait_for_a_row_that_someone_holds(two: tuple[Database, Database]) -> None:
    database, other = two
    inbox = Inbox(other)
    inbox.accept([new_item("e1", "p:1", reason="refused"), new_item("e2", "p:2", reason="refused")])
    with ThreadPoolExecutor(1) as pool, database.transaction() as db:
        db.rows("SELECT id FROM items WHERE event_uuid = 'e1' FOR UPDATE")
        assert pool.submit(inbox.purge, -1).result(5) == 1


def test_on_postgresql_a_lease_begins_when_the_claim_has_its_turn(two: tuple[Database, Database]) -> None:
    """Not when it began to wait for it: a lease that is half over is renewed too late, and the item is sent twice."""
    database, other = two
    inbox = Inbox(other)
    inbox.claim("zendesk", 1, LEASE_S, compose)  # makes the gate's row
    inbox.accept([new_item()])
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as db:
            db.rows("SELECT 1 FROM gates WHERE destination = 'zendesk' FOR UPDATE")
            claiming = pool.submit(claimed, inbox)
            wait_for(lambda: db.rows("SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)])
            db.rows("SELECT pg_sleep(1)")
        assert claiming.result(10) == ["event-1"]
    with database.reading() as db:
        [(before, after)] = db.rows("SELECT first_sent_at, next_attempt_at FROM items")
    assert after - before > LEASE_S + 0.9


def test_on_postgresql_a_process_that_hangs_in_a_transaction_stops_nobody_for_long(
    emptied: Callable[[], str],
) -> None:
    url = emptied()
    with closing(open_database(url, wait_s=0.5)) as database, closing(open_database(url, wait_s=0.5)) as hanging:
        inbox = Inbox(database)
        inbox.claim("zendesk", 1, LEASE_S, compose)
        inbox.accept([new_item()])
        with pytest.raises(DatabaseUnavailable), hanging.transaction() as db:
            db.rows("SELECT 1 FROM gates WHERE destination = 'zendesk' FOR UPDATE")
            with pytest.raises(ConnectionsBusy, match="kept a row locked"):
                claim(inbox)
            wait_for(lambda: can_claim(inbox))
        assert inbox.counts().pending == 1


def can_claim(inbox: Inbox) -> bool:
    try:
        return claimed(inbox) == ["event-1"]
    except ConnectionsBusy:
        return False


def test_on_postgresql_who_gets_no_further_connection_waits_for_one_that_comes_back(
    emptied: Callable[[], str],
) -> None:
    url = emptied()
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("CREATE ROLE lonely LOGIN CONNECTION LIMIT 1")
        owner.execute("GRANT ALL ON SCHEMA public TO lonely")
        with closing(open_database(f"{url}{'&' if '?' in url else '?'}user=lonely")) as database:
            inbox = Inbox(database)
            with ThreadPoolExecutor(1) as pool:
                with database.transaction() as db:
                    accepting = pool.submit(inbox.accept, [new_item()])
                    db.rows("SELECT pg_sleep(1)")
                    assert not accepting.done()
                assert accepting.result(10) == [True]
        owner.execute("DROP OWNED BY lonely")
        owner.execute("DROP ROLE lonely")


@pytest.mark.parametrize(("state", "checks"), [(OUTAGE, True), (UNAUTHORISED, True), (LIMITED, False)])
def test_a_first_check_does_not_wait_for_a_hold_that_a_person_may_have_repaired(
    state: str, checks: bool, inbox: Inbox
) -> None:
    move_gate(inbox, state, retry_after_s=60.0)
    assert inbox.begin_check("zendesk", 20) is None
    assert (inbox.begin_check("zendesk", 20, despite_hold=True) is not None) == checks
