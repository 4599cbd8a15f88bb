"""What is done now and then: sums saved, people told, delivered posts emptied of their text and of nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    TEXT,
    Clock,
    compose,
    events,
    fields,
    new_config,
    new_item,
    new_post,
    rows,
    sqlite_unless_asked,
    wait_for,
)

from alerts import Alerts
from database import StoreUnavailable
from delivery import Delivery
from gate import Gate
from inbox import PURGE_AT_ONCE, Attempt, Inbox, NewItem
from records import Records
from sandbox.zendesk import FakeZendesk
from store import DELIVERED, PARKED
from tickets import Style
from upkeep import PURGE_EVERY_S, STEP_S, Upkeep, purge
from zendesk_client import ZendeskClient

pytestmark = pytest.mark.usefixtures("clean_log")

DAY_S = 86_400.0
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


def keep(gate: Gate, now: float) -> Gate:
    return gate


def settle(inbox: Inbox, event: str, post: str, state: str = DELIVERED, **values: Any) -> int:
    """An item that went its way; gives its number."""
    payload = {"labels": ["CreateCase"], "item": new_post(post)}
    inbox.accept([NewItem(event, post, payload)])
    [item] = inbox.claim(1, 15, compose).items
    inbox.settle(item, {"state": state, **values}, keep, Attempt("ticket_created", 0.1, 201, None, "z-1"))
    return item.id


def texts(inbox: Inbox) -> dict[str, tuple[bool, bool]]:
    """For each event: whether the customer's text is kept, and the words for Zendesk."""
    inbox.now()
    with inbox._database.transaction() as db:
        found = db.rows("SELECT event_uuid, payload, body FROM inbox ORDER BY id")
    return {row[0]: (TEXT in row[1], row[2] is not None) for row in found}


def new_upkeep(inbox: Inbox, retention_s: float = 30 * DAY_S) -> Upkeep:
    return Upkeep(inbox, Alerts(new_config(), inbox), retention_s)


# The purge


@BOTH
def test_only_what_was_delivered_long_enough_ago_is_emptied(inbox: Inbox, clock: Clock) -> None:
    settle(inbox, "old", "p:1", ticket_id=1)
    settle(inbox, "refused", "p:2", PARKED, reason="Zendesk answered 422")
    inbox.accept([NewItem("unreadable:1", "", {"unreadable": TEXT}, reason="no eventName")])
    clock.advance(DAY_S)
    settle(inbox, "young", "p:3", ticket_id=2)
    inbox.accept([NewItem("waits", "p:4", {"labels": [], "item": new_post("p:4")})])
    clock.advance(29 * DAY_S + 1)
    assert (inbox.purge(30 * DAY_S), inbox.purge(30 * DAY_S)) == (1, 0)
    assert texts(inbox) == {
        "old": (False, False),
        "refused": (True, True),
        "unreadable:1": (True, False),
        "young": (True, True),
        "waits": (True, False),
    }


def test_an_item_is_kept_to_the_last_second(inbox: Inbox, clock: Clock) -> None:
    settle(inbox, "old", "p:1", ticket_id=1)
    clock.advance(30 * DAY_S)
    assert inbox.purge(30 * DAY_S) == 0
    clock.advance(0.001)
    assert inbox.purge(30 * DAY_S) == 1


@BOTH
def test_ids_ticket_numbers_and_attempts_outlive_the_text(inbox: Inbox, clock: Clock) -> None:
    item_id = settle(inbox, "e1", "twitter:1", ticket_id=35436)
    records = Records(inbox)
    before, tried = records.find("twitter:1"), records.attempts([item_id])
    clock.advance(31 * DAY_S)
    purge(inbox, 30 * DAY_S)
    for name in ("e1", "twitter:1", "35436"):
        assert records.find(name) == before
    assert records.attempts([item_id]) == tried and len(tried) == 1
    assert records.payload(item_id) is None


@BOTH
def test_after_the_purge_nothing_is_made_twice(inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    client = ZendeskClient(
        zendesk.url,  # type: ignore[attr-defined]
        client_id=zendesk.client_id,
        client_secret=zendesk.client_secret,
        clock=clock,
    )
    delivery = Delivery(inbox, client, Style("CreateCase"))
    first = NewItem("e1", "twitter:1", {"labels": [], "item": new_post("twitter:1")})
    inbox.accept([first])
    delivery.deliver_due()
    clock.advance(31 * DAY_S)
    assert purge(inbox, 30 * DAY_S) == 1
    assert inbox.accept([first]) == [False]
    inbox.accept([NewItem("e2", "twitter:1", {"labels": [], "item": new_post("twitter:1")})])
    delivery.deliver_due()
    [ticket] = zendesk.tickets
    assert len(ticket.comments) == 2 and "e2" in ticket.comments[1].html_body
    assert [state for _, _, state, _ in rows(inbox)] == [DELIVERED] * 2


@BOTH
def test_a_purge_empties_any_number_and_tells_how_many(
    inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    many = 2 * PURGE_AT_ONCE + 3
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(many)])
    with inbox._database.transaction() as db:
        db.change("UPDATE inbox SET state = 'delivered', settled_at = 1")
    assert inbox.purge(1) == PURGE_AT_ONCE
    assert purge(inbox, 1) == many - PURGE_AT_ONCE
    assert fields(caplog, "purged") == {"level": logging.INFO, "items": many - PURGE_AT_ONCE}
    assert purge(inbox, 1) == 0 and events(caplog) == ["purged"]


def test_a_purge_waits_for_no_other_on_postgresql(postgresql: Any, emptied: Callable[[], str], clock: Clock) -> None:
    url = emptied()
    inbox, other = Inbox(url, clock), Inbox(url, clock)
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    with inbox._database.transaction() as db:
        db.change("UPDATE inbox SET state = 'delivered', settled_at = 1")
    with other.statement() as db:  # its one connection
        db.change("SET lock_timeout = '2s'")
    with inbox._database.transaction() as db:
        db.change("UPDATE inbox SET payload = '{}' WHERE event_uuid = 'e1'")
        assert other.purge(1) == 1
    assert other.purge(1) == 0
    inbox.close()
    other.close()


@BOTH
def test_what_is_discarded_loses_its_text_and_comes_in_no_more(inbox: Inbox) -> None:
    item_id = settle(inbox, "e1", "p:1", PARKED, reason="Zendesk answered 422")
    unreadable = NewItem("unreadable:1", "", {"unreadable": TEXT}, reason="no eventName")
    inbox.accept([unreadable])
    delivered = settle(inbox, "e3", "p:3", ticket_id=1)
    inbox.accept([new_item("e4", "p:4")])
    assert inbox.discard([item_id, 2, delivered, 4, 5]) == 2
    assert inbox.discard([item_id]) == 0 and inbox.retry([item_id]) == 0
    assert {event: kept for event, kept in texts(inbox).items() if kept[0]} == {"e3": (True, True)}
    assert inbox.accept([unreadable, new_item("e1", "p:1")]) == [False, False]
    assert [state for _, _, state, _ in rows(inbox)] == ["discarded", "discarded", DELIVERED, "pending"]
    [record] = Records(inbox).find("e1")
    assert record.reason == "Zendesk answered 422" and Records(inbox).payload(item_id) is None


# The step


def test_a_step_saves_what_was_tallied(inbox: Inbox, other: Inbox) -> None:
    inbox.tally("ignored")
    assert new_upkeep(inbox).step() == STEP_S
    assert other.sums() == {"ignored": 1.0}


def test_a_purge_comes_at_the_start_and_every_hour(inbox: Inbox, clock: Clock) -> None:
    settle(inbox, "e1", "p:1", ticket_id=1)
    clock.advance(31 * DAY_S)
    upkeep = new_upkeep(inbox)
    upkeep.step()
    assert texts(inbox)["e1"] == (False, False)
    settle(inbox, "e2", "p:2", ticket_id=2)
    with inbox._database.transaction() as db:
        db.change("UPDATE inbox SET settled_at = 1 WHERE event_uuid = 'e2'")
    clock.advance(PURGE_EVERY_S - 1)
    upkeep.step()
    assert texts(inbox)["e2"] == (True, True)
    clock.advance(1)
    upkeep.step()
    assert texts(inbox)["e2"] == (False, False)


def test_a_clock_set_back_does_not_put_the_purge_off(inbox: Inbox, clock: Clock) -> None:
    upkeep = new_upkeep(inbox)
    upkeep.step()
    clock.advance(-40 * DAY_S)
    settle(inbox, "e1", "p:1", ticket_id=1)
    with inbox._database.transaction() as db:
        db.change("UPDATE inbox SET settled_at = 1")
    upkeep.step()
    assert texts(inbox)["e1"] == (False, False)


def test_a_purge_that_failed_is_tried_again_at_the_next_step(inbox: Inbox, clock: Clock) -> None:
    settle(inbox, "e1", "p:1", ticket_id=1)
    clock.advance(31 * DAY_S)
    with inbox._database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_inbox BEFORE UPDATE ON inbox {stop}")
    upkeep = new_upkeep(inbox)
    with pytest.raises(StoreUnavailable):
        upkeep.step()
    with inbox._database.transaction() as db:
        db.change("DROP TRIGGER full_inbox")
    upkeep.step()
    assert texts(inbox)["e1"] == (False, False)


def test_with_no_days_to_keep_it_is_emptied_within_the_hour(inbox: Inbox, clock: Clock) -> None:
    upkeep = new_upkeep(inbox, retention_s=0.0)
    upkeep.step()
    settle(inbox, "e1", "p:1", ticket_id=1)
    clock.advance(PURGE_EVERY_S)
    upkeep.step()
    assert texts(inbox)["e1"] == (False, False)


def test_upkeep_runs_in_the_background(inbox: Inbox, other: Inbox) -> None:
    inbox.tally("ignored")
    upkeep = new_upkeep(inbox)
    upkeep.loop.start()
    wait_for(lambda: other.sums().get("ignored"))
    upkeep.loop.stop()
    upkeep.loop.join(10)
    assert not upkeep.loop.running
