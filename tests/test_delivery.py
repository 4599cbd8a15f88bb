from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from conftest import Clock, new_item

from database import StoreUnavailable
from delivery import BREATH_S, CHECK_ID, CROWD, FEW, KEY_LIFE_S, LEASE_S, PARALLEL, Delivery
from gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED
from inbox import Claim, Inbox, Item, NewItem, Settled
from outbound import Unavailable
from records import Records
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk
from store import PARKED
from tickets import Style
from zendesk_client import Ticket, ZendeskClient


@pytest.fixture
def zendesk(clock: Clock) -> Iterator[FakeZendesk]:
    fake = FakeZendesk(clock=clock)
    with Server(fake.app) as server:
        fake.url = server.url  # type: ignore[attr-defined]
        yield fake


@pytest.fixture
def delivery(inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> Delivery:
    return new_delivery(inbox, zendesk, clock)


def new_delivery(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock, kind: type[ZendeskClient] = ZendeskClient
) -> Delivery:
    client = kind(
        zendesk.url,  # type: ignore[attr-defined]
        client_id=zendesk.client_id,
        client_secret=zendesk.client_secret,
        clock=clock,
    )
    return Delivery(inbox, client, Style("CreateCase"))


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "relay"]


def drain(delivery: Delivery, clock: Clock, *, up_to_s: float = 600, step_s: float = 1.0) -> float:
    """Delivers until nothing is pending, turning the clock where it has to wait; returns the seconds that took."""
    waited = 0.0
    while delivery._inbox.counts().pending:
        if delivery.deliver_due() is not None:
            assert waited <= up_to_s, "still pending"
            clock.advance(step_s)
            waited += step_s
    return waited


def creations(zendesk: FakeZendesk) -> list[Any]:
    return [call for call in zendesk.calls if call.method == "POST" and call.path == "/api/v2/tickets"]


def test_a_labelled_post_becomes_a_ticket(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    delivery.deliver_due()
    [ticket] = zendesk.tickets
    assert (ticket.external_id, ticket.subject) == ("twitter:1", "Jo on X: Hello")
    assert (inbox.counts().pending, inbox.counts().parked) == (0, 0)


def test_the_label_applied_again_puts_a_note_on_the_ticket(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    [ticket] = zendesk.tickets
    assert [("e1" in c.html_body, "e2" in c.html_body) for c in ticket.comments] == [(True, False), (False, True)]
    assert not ticket.comments[1].public


def test_a_closed_ticket_gets_a_follow_up_and_later_labels_go_there(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    inbox.accept([new_item("e3", "twitter:1")])
    drain(delivery, clock)
    first, follow_up = zendesk.tickets
    assert follow_up.fields["via_followup_source_id"] == first.id
    assert [len(ticket.comments) for ticket in (first, follow_up)] == [1, 2]


class Terse(ZendeskClient):
    """A list of tickets without their status."""

    def find_tickets(self, external_id: str) -> list[Ticket]:
        return [Ticket(ticket.id) for ticket in super().find_tickets(external_id)]


def test_a_closed_ticket_is_known_by_the_refusal_when_the_list_does_not_say(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    delivery = new_delivery(inbox, zendesk, clock, Terse)
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    assert len(zendesk.tickets) == 2 and inbox.counts().parked == 0


def test_a_deleted_ticket_is_replaced(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    zendesk.delete_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    [ticket] = zendesk.tickets
    assert "e2" in ticket.comments[0].html_body and "via_followup_source_id" not in ticket.fields


def test_a_note_that_zendesk_refuses_for_another_reason_is_parked(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    zendesk.faults.fail(1, 422, method="PUT")
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    assert (len(zendesk.tickets), inbox.counts().parked) == (1, 1)


@pytest.mark.parametrize("effect", [False, True], ids=["before the effect", "after the effect"])
@pytest.mark.parametrize("fault", ["reset", "503", "409", "504"])
def test_an_unknown_outcome_ends_in_one_ticket(
    fault: str, effect: bool, delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    if fault == "reset":
        zendesk.faults.reset(1, path="/api/v2/tickets", effect=effect)
    else:
        zendesk.faults.fail(1, int(fault), path="/api/v2/tickets", effect=effect)
    inbox.accept([new_item()])
    waited = drain(delivery, clock)
    sent = creations(zendesk)
    assert len(zendesk.tickets) == 1 and waited == 1
    assert len({(call.idempotency_key, call.body) for call in sent}) == 1 and len(sent) == 2


@pytest.mark.parametrize("fault", ["reset", "503"])
def test_an_unknown_outcome_of_a_note_ends_in_one_note(
    fault: str, delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    if fault == "reset":
        zendesk.faults.reset(1, method="PUT", effect=True)
    else:
        zendesk.faults.fail(1, 503, method="PUT", effect=True)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    assert len(zendesk.tickets[0].comments) == 2


def test_a_ticket_made_before_the_key_expired_is_found_and_not_made_again(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.faults.reset(1, path="/api/v2/tickets", effect=True)
    inbox.accept([new_item()])
    delivery.deliver_due()
    clock.advance(3 * 3600)
    drain(delivery, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 1


def test_a_ticket_never_made_is_made_after_the_key_expired(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.faults.reset(1, path="/api/v2/tickets", effect=False)
    inbox.accept([new_item()])
    delivery.deliver_due()
    clock.advance(KEY_LIFE_S + 1)
    drain(delivery, clock)
    assert len(zendesk.tickets) == 1


def test_an_event_that_was_polled_is_looked_up_before_a_ticket_is_made(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, database_url: str
) -> None:
    """As after the loss of the database: the ticket exists, only the inbox does not know."""
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    forget_everything(inbox)
    clock.advance(3 * 3600)
    inbox.accept([new_item("e1", "twitter:1", source="poll"), new_item("e1", "twitter:2", source="poll")])
    drain(delivery, clock)
    assert sorted(ticket.external_id for ticket in zendesk.tickets) == ["twitter:1", "twitter:2"]
    assert [len(ticket.comments) for ticket in zendesk.tickets] == [1, 1]


def test_another_event_of_a_post_whose_ticket_was_looked_up_becomes_a_note_once(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, clock)
    for _ in range(2):
        forget_everything(inbox)
        inbox.accept([new_item("e2", "twitter:1", source="poll")])
        drain(delivery, clock)
    [ticket] = zendesk.tickets
    assert len(ticket.comments) == 2


def test_other_words_under_a_known_key_find_the_ticket(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    """As after the loss of the database and a changed setting."""
    inbox.accept([new_item()])
    drain(delivery, clock)
    forget_everything(inbox)
    inbox.accept([NewItem("event-1", "twitter:1", {"labels": [], "item": {"entityId": "twitter:1", "text": "Other"}})])
    drain(delivery, clock)
    assert len(zendesk.tickets) == 1 and inbox.counts().parked == 0


def test_a_refused_post_is_parked_alone(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    zendesk.faults.fail(1, 422, path="/api/v2/tickets")
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:2")])
    drain(delivery, clock)
    assert (len(zendesk.tickets), inbox.counts().parked, inbox.gate()[0].state) == (1, 1, OPEN)


def test_a_limit_holds_everything_as_long_as_zendesk_says(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.fail(1, 429, retry_after=37, path="/api/v2/tickets")
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(1)])
    delivery.deliver_due()
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(1, 5)])
    asked = len(zendesk.calls)
    for _ in range(36):
        clock.advance(1)
        assert delivery.deliver_due()
    assert len(zendesk.calls) == asked and inbox.gate()[0].state == LIMITED
    drain(delivery, clock)
    assert len(zendesk.tickets) == 5
    assert [name for name in events(caplog) if name in ("limited", "recovered")] == ["limited", "recovered"]


def test_stays_under_the_limit_by_reading_what_is_left(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.set_rate(50)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(120)])
    waited = drain(delivery, clock)
    assert len(zendesk.tickets) == 120
    assert sum(call.status == 429 for call in zendesk.calls) == 0
    assert waited <= 125


def test_an_outage_of_an_hour_costs_few_calls_and_no_item(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.outage(503)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(20)])
    for _ in range(600):
        delivery.deliver_due()
        clock.advance(6)
    assert inbox.gate()[0].state == OUTAGE and len(creations(zendesk)) < 140
    zendesk.faults.clear()
    assert drain(delivery, clock) <= 30
    assert len(zendesk.tickets) == 20
    assert [name for name in events(caplog) if name in ("outage", "recovered")] == ["outage", "recovered"]


def test_refused_logins_hold_everything_and_park_nothing(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.outage(403)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(20)])
    for _ in range(120):
        delivery.deliver_due()
        clock.advance(5)
    assert (inbox.gate()[0].state, inbox.counts().pending, inbox.counts().parked) == (UNAUTHORISED, 20, 0)
    zendesk.faults.clear()
    assert drain(delivery, clock) <= 60
    assert len(zendesk.tickets) == 20
    [told] = [record for record in caplog.records if record.message == "unauthorised"]
    assert told.levelno == logging.ERROR


class Touchy(ZendeskClient):
    """Zendesk breaks on one post, whatever one does."""

    def create_ticket(self, body: bytes, idempotency_key: str) -> Ticket:
        if b"poison" in body:
            raise Unavailable("Zendesk answered 500", status=500)
        return super().create_ticket(body, idempotency_key)


def test_a_post_that_always_breaks_zendesk_does_not_hold_up_the_others(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    delivery = new_delivery(inbox, zendesk, clock, Touchy)
    inbox.accept([new_item("poison", "p:0")])
    for number in range(1, 30):
        inbox.accept([new_item(f"e{number}", f"p:{number}")])
        for _ in range(10):
            delivery.deliver_due()
            clock.advance(1)
    for _ in range(30):
        delivery.deliver_due()
        clock.advance(1)
    assert len(zendesk.tickets) == 29
    counts = inbox.counts()
    assert (counts.pending, counts.parked, inbox.gate()[0].state) == (1, 0, OPEN)


def test_the_check_says_whether_zendesk_takes_our_credentials(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.outage(401)
    delivery.check()
    assert inbox.gate()[0].state == UNAUTHORISED
    zendesk.faults.clear()
    clock.advance(60)
    assert delivery.deliver_due() == 0.0
    assert inbox.gate()[0].state == OPEN
    assert events(caplog) == ["unauthorised", "zendesk_connected", "recovered"]
    assert CHECK_ID not in [ticket.external_id for ticket in zendesk.tickets]


def test_an_item_whose_lease_was_lost_is_left_to_its_new_owner(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([new_item()])
    taken: list[Any] = []
    delivery.deliver_due(taken.append)
    clock.advance(LEASE_S)
    delivery.deliver_due()
    delivery.deliver(taken[0])
    assert len(zendesk.tickets) == 1 and "lease_lost" in events(caplog)


def test_the_log_names_the_event_and_no_customers_text(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([new_item("e1", "twitter:1", request_id="r-1")])
    delivery.deliver_due()
    [record] = [record for record in caplog.records if record.message == "ticket_created"]
    fields = record.__dict__["fields"]
    assert fields["ticket"] == zendesk.tickets[0].id
    assert (fields["post"], fields["event_uuid"], fields["request_id"]) == ("twitter:1", "e1", "r-1")
    assert "Hello" not in json.dumps(fields)


def test_delivers_in_parallel_and_stops_without_cutting_anything(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    delivery = new_delivery(inbox, zendesk, clock)
    delivery.start()
    wait_for(lambda: any(call.path == "/api/v2/tickets" for call in zendesk.calls))
    zendesk.latency_s = 1.0
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(PARALLEL + 5)])
    delivery.wake()
    wait_for(lambda: len(delivery._flying) == PARALLEL)
    delivery.stop(10)
    assert len(zendesk.tickets) == PARALLEL
    assert inbox.counts().pending == 5


def wait_for(done: Any, timeout_s: float = 10) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if done():
            return
        pause.wait(0.01)
    raise AssertionError("timed out")


def forget_everything(inbox: Inbox) -> None:
    with inbox._database.transaction() as db:
        db.change("DELETE FROM inbox")


# When more than Zendesk fails


class Failing(Inbox):
    """An inbox whose methods raise what a test puts in, once each."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url, clock)
        self.to_raise: dict[str, list[Exception]] = {}
        self.renewed: list[list[int]] = []

    def _fail(self, name: str) -> None:
        if waiting := self.to_raise.get(name):
            raise waiting.pop()

    def claim(self, *args: Any, **more: Any) -> Claim:
        self._fail("claim")
        return super().claim(*args, **more)

    def settle(self, *args: Any, **more: Any) -> Settled:
        self._fail("settle")
        return super().settle(*args, **more)

    def refreeze(self, *args: Any, **more: Any) -> Item | None:
        return None if self.to_raise.get("refreeze") else super().refreeze(*args, **more)

    def renew(self, ids: Any, lease_s: float) -> None:
        self.renewed.append(list(ids))
        super().renew(ids, lease_s)


@pytest.fixture
def failing(tmp_path: Path, clock: Clock) -> Iterator[Failing]:
    inbox = Failing(f"sqlite:///{tmp_path / 'relay.db'}", clock)
    yield inbox
    inbox.close()


def test_a_ticket_that_could_not_be_recorded_is_not_made_twice(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = new_delivery(failing, zendesk, clock)
    failing.to_raise["settle"] = [StoreUnavailable("disk full")]
    failing.accept([new_item()])
    drain(delivery, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 2
    assert "not_recorded" in events(caplog)


class Broken(ZendeskClient):
    """A client with a fault of its own, once."""

    faults = 1

    def create_ticket(self, body: bytes, idempotency_key: str) -> Ticket:
        if self.faults:
            self.faults = 0
            raise KeyError("the text of a customer")
        return super().create_ticket(body, idempotency_key)


def test_a_fault_of_our_own_is_logged_without_its_text_and_tried_again(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([new_item()])
    drain(new_delivery(inbox, zendesk, clock, Broken), clock)
    [record] = [record for record in caplog.records if record.message == "delivery_broken"]
    assert record.__dict__["fields"]["error"].startswith("KeyError at test_delivery.py")
    assert len(zendesk.tickets) == 1


def test_a_post_that_cannot_be_worded_is_said_to_be_parked(
    delivery: Delivery, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([NewItem("e1", "twitter:1", {"labels": [], "item": None})])
    delivery.deliver_due()
    assert events(caplog) == ["post_broken", "parked"] and inbox.counts().parked == 1


def test_a_lease_lost_between_two_calls_stops_the_second(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = new_delivery(failing, zendesk, clock)
    failing.accept([new_item("e1")])
    drain(delivery, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    failing.accept([new_item("e2")])
    failing.to_raise["refreeze"] = [Exception()]
    delivery.deliver_due()
    assert len(zendesk.tickets) == 1 and "lease_lost" in events(caplog)


def test_comments_that_cannot_be_listed_do_not_keep_a_note_back(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, clock)
    zendesk.faults.fail(1, 503, method="PUT")
    zendesk.faults.fail(1, 404, path="/api/v2/tickets/", method="GET")
    inbox.accept([new_item("e2")])
    drain(delivery, clock)
    assert len(zendesk.tickets[0].comments) == 2


def test_a_key_zendesk_refuses_without_a_ticket_parks_the_post(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refusal = json.dumps({"error": "IdempotentRequestError"}).encode()
    zendesk.faults.fail(1, 400, body=refusal, content_type="application/json", method="POST", path="/api/v2/tickets")
    inbox.accept([new_item()])
    drain(delivery, clock)
    assert (len(zendesk.tickets), inbox.counts().parked) == (0, 1)


def test_the_check_waits_like_everything_else_while_zendesk_limits_us(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk
) -> None:
    inbox.move_gate(lambda gate, now: gate.after_failure(now, gate.version, LIMITED, "429", 40.0))
    delivery.check()
    assert zendesk.calls == []


def test_a_check_that_is_refused_is_said_and_holds_nothing_up(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.fail(1, 404, path="/api")
    delivery.check()
    assert events(caplog) == ["zendesk_check_refused"] and inbox.gate()[0].state == OPEN


def test_the_loop_outlives_a_store_that_fails_and_faults_of_its_own(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failing.to_raise["claim"] = [KeyError("x"), StoreUnavailable("down"), StoreUnavailable("down")]
    delivery = new_delivery(failing, zendesk, clock)
    failing.accept([new_item()])
    delivery.start()
    wait_for(lambda: bool(zendesk.tickets))
    delivery.stop(5)
    told = [name for name in events(caplog) if name.startswith(("store", "delivery_broken"))]
    assert told == ["store_unavailable", "delivery_broken", "store_recovered"]


def test_a_lease_is_prolonged_while_its_call_is_under_way(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delivery.RENEW_S", 0.2)
    delivery = new_delivery(failing, zendesk, clock)
    zendesk.latency_s = 3.0
    failing.accept([new_item()])
    delivery.start()
    wait_for(lambda: bool(failing.renewed))
    delivery.stop(10)
    assert failing.renewed[0] == [1] and len(zendesk.tickets) == 1


def test_says_so_when_it_has_to_leave_something_behind(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = new_delivery(failing, zendesk, clock)
    failing.accept([new_item()])
    delivery.start()
    zendesk.latency_s = 2.0
    wait_for(lambda: bool(delivery._flying) or bool(zendesk.tickets))
    delivery.stop(0.01)
    assert "stopped_in_flight" in events(caplog) or zendesk.tickets
    wait_for(lambda: not delivery._flying)


def test_only_a_crowd_of_notifications_goes_before_the_deliveries(delivery: Delivery) -> None:
    delivery.wake(CROWD - 1)
    assert not delivery.crowded
    delivery.wake()
    assert delivery.crowded


def test_in_a_crowd_few_leave_at_once(delivery: Delivery, inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"twitter:{n}") for n in range(PARALLEL + FEW)])
    left: list[Item] = []
    delivery.wake(CROWD)
    delivery.deliver_due(left.append)
    assert len(left) == FEW
    delivery._crowd_at = -math.inf
    delivery.deliver_due(left.append)
    assert len(left) == FEW + PARALLEL


def test_in_a_crowd_the_deliveries_stand_back_and_then_go_on(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk
) -> None:
    delivery.start()
    wait_for(lambda: bool(zendesk.calls))  # the first look is over
    came_at = time.monotonic()
    delivery.wake(CROWD)
    inbox.accept([new_item(f"e{n}", f"twitter:{n}") for n in range(24)])
    wait_for(lambda: bool(zendesk.tickets))
    assert time.monotonic() - came_at >= BREATH_S
    wait_for(lambda: len(zendesk.tickets) == 24)
    delivery.stop(10)


# The record of attempts


def tried(inbox: Inbox) -> list[tuple[Any, ...]]:
    """Every attempt: the item, its number, what came of it, the status, the code and whether a request id is kept."""
    return [
        (a.item_id, a.number, a.outcome, a.status, a.code, bool(a.zendesk_request_id))
        for a in Records(inbox).attempts(range(1, 20))
    ]


def test_every_outcome_leaves_one_record(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    zendesk.faults.fail(1, 503, method="POST", path="/api")
    zendesk.faults.reset(1, method="POST", path="/api")
    zendesk.faults.fail(1, 429, retry_after=2, method="POST", path="/api")
    zendesk.faults.fail(1, 403, method="POST", path="/api")
    drain(delivery, clock)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, clock)
    inbox.accept([new_item("e3", "twitter:3")])
    refusal = json.dumps({"error": "RecordInvalid", "details": {"subject": [{"error": "Blank"}]}}).encode()
    zendesk.faults.fail(1, 422, body=refusal, content_type="application/json", method="POST", path="/api/v2/tickets")
    drain(delivery, clock)
    assert tried(inbox) == [
        (1, 1, OUTAGE, 503, "DatabaseDeadlock", False),
        (1, 2, OUTAGE, None, None, False),
        (1, 3, LIMITED, 429, "APIRateLimitExceeded", False),
        (1, 4, UNAUTHORISED, 403, "Forbidden", False),
        (1, 5, "ticket_created", 201, None, True),
        (2, 1, "note_added", 200, None, True),
        (3, 1, "refused", 422, "RecordInvalid subject:Blank", False),
    ]
    assert Records(inbox).retries() == {OUTAGE: 2, LIMITED: 1, UNAUTHORISED: 1}


def test_an_attempt_is_known_by_zendesks_name_for_it_and_when_it_was_made(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.zendesk.uuid.uuid4", lambda: UUID(int=7))
    inbox.accept([new_item()])
    delivery.deliver_due()
    [attempt] = Records(inbox).attempts([1])
    assert attempt.zendesk_request_id == UUID(int=7).hex
    assert 0 < attempt.took_s < 30 and attempt.at == pytest.approx(clock.now - attempt.took_s)


def test_an_attempt_whose_lease_was_lost_is_recorded_too(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item()])
    [late] = inbox.claim(8, LEASE_S, delivery._compose).items
    clock.advance(LEASE_S)
    delivery.deliver_due()
    delivery.deliver(late)
    assert sorted((number, outcome) for _, number, outcome, *_ in tried(inbox)) == [
        (1, "ticket_created"),
        (2, "ticket_created"),
    ]
    assert len(zendesk.tickets) == 1


def test_an_attempt_nobody_lived_to_record_leaves_a_gap(delivery: Delivery, inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    inbox.claim(8, LEASE_S, delivery._compose)
    clock.advance(LEASE_S)
    delivery.deliver_due()
    assert [number for _, number, *_ in tried(inbox)] == [2]


@pytest.mark.parametrize("status", [201, 422, 503])
def test_an_overlong_name_of_a_call_keeps_nothing_from_being_recorded(
    status: int, delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk
) -> None:
    """PostgreSQL refuses what is too long for a column; the post would be sent again and again."""
    inner = zendesk.app.wsgi_app

    def with_odd_headers(environ: Any, start_response: Any) -> Any:
        def start(said: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [pair for pair in headers if pair[0].lower() != "x-zendesk-request-id"]
            return start_response(said, [*kept, ("x-zendesk-request-id", "\xe9" * 5000)], *more)

        return inner(environ, start)

    zendesk.app.wsgi_app = with_odd_headers  # type: ignore[method-assign]
    if status != 201:
        zendesk.faults.fail(1, status, method="POST", path="/api")
    inbox.accept([new_item()])
    delivery.deliver_due()
    assert [attempt[3] for attempt in tried(inbox)] == [status]


def test_no_record_of_an_attempt_holds_a_customers_words(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    said = "My order never came"
    refusal = json.dumps({"error": "RecordInvalid", "description": said, "details": {"base": [{"description": said}]}})
    zendesk.faults.fail(1, 422, body=refusal.encode(), content_type="application/json", method="POST", path="/api")
    inbox.accept([NewItem("e1", "twitter:1", {"labels": [], "item": {"entityId": "twitter:1", "text": said}})])
    drain(delivery, clock)
    [attempt] = Records(inbox).attempts([1])
    [record] = Records(inbox).find("e1")
    assert attempt.code == "RecordInvalid base" and said not in f"{attempt} {record}"


# Items of one post that overtake each other: a person had one that was parked sent again


def refused(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, event: str) -> None:
    """Zendesk refuses the event's ticket, and it is parked."""
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item(event)])
    drain(delivery, clock)


def retry(inbox: Inbox) -> None:
    assert inbox.retry([parked.id for parked in Records(inbox).latest(PARKED)])


def test_an_item_whose_post_got_its_ticket_from_another_item_meanwhile_becomes_a_note(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refused(delivery, inbox, zendesk, clock, "e1")
    zendesk.faults.reset(1, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item("e2")])
    delivery.deliver_due()
    retry(inbox)
    drain(delivery, clock)
    [ticket] = zendesk.tickets
    assert ["e2" in comment.html_body for comment in ticket.comments] == [False, True]


def test_a_note_for_a_ticket_that_was_followed_up_meanwhile_goes_on_the_follow_up(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refused(delivery, inbox, zendesk, clock, "e1")
    inbox.accept([new_item("e2")])
    drain(delivery, clock)
    zendesk.faults.reset(1, method="PUT")
    inbox.accept([new_item("e3")])
    delivery.deliver_due()
    zendesk.close_ticket(zendesk.tickets[0].id)
    retry(inbox)
    drain(delivery, clock)
    closed, follow_up = zendesk.tickets
    assert [len(ticket.comments) for ticket in (closed, follow_up)] == [1, 2]
    assert "e1" in follow_up.comments[0].html_body and "e3" in follow_up.comments[1].html_body


def test_a_note_for_a_deleted_ticket_whose_successor_was_closed_follows_up_the_successor(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, clock)
    zendesk.faults.fail(1, 422, method="PUT")
    inbox.accept([new_item("e2")])
    drain(delivery, clock)  # e2 is parked
    zendesk.delete_ticket(zendesk.tickets[0].id)
    zendesk.faults.reset(1, method="PUT")
    inbox.accept([new_item("e3")])
    delivery.deliver_due()  # e3 is frozen as a note on the deleted ticket
    retry(inbox)
    clock.advance(5)
    delivery.deliver_due()
    [successor] = zendesk.tickets
    assert "e2" in successor.comments[0].html_body
    zendesk.close_ticket(successor.id)
    drain(delivery, clock)
    _, follow_up = zendesk.tickets
    assert "e3" in follow_up.comments[0].html_body
    assert follow_up.fields["via_followup_source_id"] == successor.id


def test_a_follow_up_that_was_refused_is_sent_again_under_another_key(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    refused(delivery, inbox, zendesk, clock, "e2")
    retry(inbox)
    drain(delivery, clock)
    keys = [call.idempotency_key for call in creations(zendesk)]
    assert len(zendesk.tickets) == 2 and len({*keys}) == len(keys) == 3


def test_a_follow_up_whose_answer_was_lost_is_sent_again_under_the_same_key(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    zendesk.faults.reset(1, effect=True, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item("e2")])
    drain(delivery, clock)
    _, lost, again = creations(zendesk)
    assert (lost.idempotency_key, lost.body) == (again.idempotency_key, again.body)
    assert again.idempotency_lookup == "hit" and len(zendesk.tickets) == 2


def test_after_the_clock_was_set_back_a_key_is_not_trusted_to_live(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    """How long ago it was sent is not known any more: Zendesk may have forgotten the key."""
    inbox.accept([new_item("e1")])
    zendesk.faults.reset(1, method="POST", path="/api/v2/tickets", effect=True)
    delivery.deliver_due()
    clock.advance(-2 * 3600)
    drain(delivery, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 1
