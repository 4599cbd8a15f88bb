"""The way out: from items in the inbox to tickets in Zendesk, whatever fails in between."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from conftest import Clock, events, fields_of, new_item, wait_for

from destinations.attempt import PATIENCE, Call, attempt
from destinations.delivery import CHECK_S, LEASE_S, Delivery
from destinations.destination import Destination, Digest, Sent
from destinations.zendesk import KEY_LIFE_S, PARALLEL, ZendeskDestination
from destinations.zendesk_words import Style
from inbox import open_database
from inbox.database import Database, DatabaseUnavailable
from inbox.gate import LIMITED, OPEN, OUTAGE, REFUSING, UNAUTHORISED, Gate
from inbox.inbox import Inbox
from inbox.items import Claim, Draft, Item, NewItem, Outcome, Settled
from inbox.records import Records
from outbound import AuthFailed, Limited, Quota, Rejected, Unavailable
from sandbox.zendesk import FakeZendesk
from zendesk_client import CHECK_ID, Reply, Ticket, ZendeskClient


@pytest.fixture
def delivery(inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> Delivery:
    return new_delivery(inbox, zendesk, clock)


def new_delivery(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock, kind: type[ZendeskClient] = ZendeskClient
) -> Delivery:
    url: str = zendesk.url  # type: ignore[attr-defined]
    client = kind(url, client_id=zendesk.client_id, client_secret=zendesk.client_secret, clock=clock)
    return Delivery(inbox, ZendeskDestination(client, url, Style(), lambda subject: {}))


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")


def drain(delivery: Delivery, inbox: Inbox, clock: Clock, *, up_to_s: float = 600, step_s: float = 1.0) -> float:
    """Delivers until nothing is pending, turning the clock where it has to wait; returns the seconds that took."""
    waited = 0.0
    while inbox.counts().pending:
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
    drain(delivery, inbox, clock)
    [ticket] = zendesk.tickets
    assert [("e1" in c.html_body, "e2" in c.html_body) for c in ticket.comments] == [(True, False), (False, True)]
    assert not ticket.comments[1].public


def test_a_closed_ticket_gets_a_follow_up_and_later_labels_go_there(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
    inbox.accept([new_item("e3", "twitter:1")])
    drain(delivery, inbox, clock)
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
    drain(delivery, inbox, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 2 and inbox.counts().parked == 0


def test_a_deleted_ticket_is_replaced(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    zendesk.delete_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
    [ticket] = zendesk.tickets
    assert "e2" in ticket.comments[0].html_body and "via_followup_source_id" not in ticket.fields


def test_a_note_that_zendesk_refuses_for_another_reason_is_parked(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    zendesk.faults.fail(1, 422, method="PUT")
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
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
    waited = drain(delivery, inbox, clock)
    sent = creations(zendesk)
    assert len(zendesk.tickets) == 1 and waited == 1
    assert len({(call.idempotency_key, call.body) for call in sent}) == 1 and len(sent) == 2


@pytest.mark.parametrize("fault", ["reset", "503"])
def test_an_unknown_outcome_of_a_note_ends_in_one_note(
    fault: str, delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    if fault == "reset":
        zendesk.faults.reset(1, method="PUT", effect=True)
    else:
        zendesk.faults.fail(1, 503, method="PUT", effect=True)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets[0].comments) == 2


def test_a_ticket_made_before_the_key_expired_is_found_and_not_made_again(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.faults.reset(1, path="/api/v2/tickets", effect=True)
    inbox.accept([new_item()])
    delivery.deliver_due()
    clock.advance(3 * 3600)
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 1


def test_a_ticket_never_made_is_made_after_the_key_expired(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.faults.reset(1, path="/api/v2/tickets", effect=False)
    inbox.accept([new_item()])
    delivery.deliver_due()
    clock.advance(KEY_LIFE_S + 1)
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 1


def test_an_event_that_was_polled_is_looked_up_before_a_ticket_is_made(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, database: Database
) -> None:
    """As after the loss of the database: the ticket exists, only the inbox does not know."""
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    forget_everything(database)
    clock.advance(3 * 3600)
    inbox.accept([new_item("e1", "twitter:1", source="poll"), new_item("e1", "twitter:2", source="poll")])
    drain(delivery, inbox, clock)
    assert sorted(ticket.external_id for ticket in zendesk.tickets) == ["twitter:1", "twitter:2"]
    assert [len(ticket.comments) for ticket in zendesk.tickets] == [1, 1]


def test_another_event_of_a_post_whose_ticket_was_looked_up_becomes_a_note_once(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, database: Database
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    drain(delivery, inbox, clock)
    for _ in range(2):
        forget_everything(database)
        inbox.accept([new_item("e2", "twitter:1", source="poll")])
        drain(delivery, inbox, clock)
    [ticket] = zendesk.tickets
    assert len(ticket.comments) == 2


def test_other_words_under_a_known_key_find_the_ticket(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, database: Database
) -> None:
    """As after the loss of the database and a changed setting."""
    inbox.accept([new_item()])
    drain(delivery, inbox, clock)
    forget_everything(database)
    payload = {"labels": [], "item": {"entityId": "twitter:1", "text": "Other"}}
    inbox.accept([NewItem("zendesk", "event-1", "twitter:1", payload)])
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 1 and inbox.counts().parked == 0


def test_a_refused_post_is_parked_alone(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock) -> None:
    zendesk.faults.fail(1, 422, path="/api/v2/tickets")
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:2")])
    drain(delivery, inbox, clock)
    assert (len(zendesk.tickets), inbox.counts().parked, inbox.gate("zendesk")[0].state) == (1, 1, OPEN)


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
    assert len(zendesk.calls) == asked and inbox.gate("zendesk")[0].state == LIMITED
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 5
    assert [name for name in events(caplog) if name in ("limited", "recovered")] == ["limited", "recovered"]


def test_stays_under_the_limit_by_reading_what_is_left(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.set_rate(50)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(120)])
    waited = drain(delivery, inbox, clock)
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
    assert inbox.gate("zendesk")[0].state == OUTAGE and len(creations(zendesk)) < 140
    zendesk.faults.clear()
    assert drain(delivery, inbox, clock) <= 30
    assert len(zendesk.tickets) == 20
    assert [name for name in events(caplog) if name in ("outage", "recovered")] == ["outage", "recovered"]


def test_refused_logins_hold_everything_and_park_nothing(
    delivery: Delivery,
    inbox: Inbox,
    zendesk: FakeZendesk,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    records: Records,
) -> None:
    zendesk.faults.outage(403)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(20)])
    for _ in range(120):
        delivery.deliver_due()
        clock.advance(5)
    assert (inbox.gate("zendesk")[0].state, inbox.counts().pending, inbox.counts().parked) == (UNAUTHORISED, 20, 0)
    zendesk.faults.clear()
    assert drain(delivery, inbox, clock) <= 60
    assert len(zendesk.tickets) == 20
    [logged] = [record for record in caplog.records if record.message == "unauthorised"]
    assert logged.levelno == logging.ERROR


class Touchy(ZendeskClient):
    """Zendesk breaks on one post, whatever one does."""

    def create_ticket(self, body: bytes, idempotency_key: str) -> Reply:
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
    assert (counts.pending, counts.parked, inbox.gate("zendesk")[0].state) == (1, 0, OPEN)


def test_the_check_says_whether_zendesk_takes_our_credentials(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.outage(401)
    delivery.check()
    assert inbox.gate("zendesk")[0].state == UNAUTHORISED
    zendesk.faults.clear()
    clock.advance(60)
    assert delivery.deliver_due() == 0.0
    assert inbox.gate("zendesk")[0].state == OPEN
    assert events(caplog) == ["unauthorised", "connected", "recovered"]
    assert CHECK_ID not in [ticket.external_id for ticket in zendesk.tickets]


def test_an_item_whose_lease_was_lost_is_left_to_its_new_owner(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([new_item()])
    taken: list[Call] = []
    delivery.deliver_due(taken.append)
    clock.advance(LEASE_S)
    delivery.deliver_due()
    delivery.deliver(taken[0])
    assert len(zendesk.tickets) == 1 and "lease_lost" in events(caplog)


def test_the_log_names_the_event_and_no_customers_text(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture, records: Records
) -> None:
    inbox.accept([new_item("e1", "twitter:1", request_id="r-1")])
    delivery.deliver_due()
    [record] = [record for record in caplog.records if record.message == "ticket_created"]
    fields = record.__dict__["fields"]
    assert fields["ticket"] == str(zendesk.tickets[0].id)
    assert (fields["post"], fields["event_uuid"], fields["request_id"]) == ("twitter:1", "e1", "r-1")
    assert "Hello" not in json.dumps(fields)


def test_delivers_in_parallel_and_stops_without_cutting_anything(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk
) -> None:
    zendesk.faults.hang(PARALLEL, 60, path="/api/v2/tickets", method="POST", effect=True)
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(PARALLEL + 5)])
    delivery.start()
    assert zendesk.faults.wait_until_hanging(PARALLEL)
    delivery.stop_claiming()
    zendesk.faults.clear()
    delivery.stop(10)
    assert len(zendesk.tickets) == PARALLEL
    assert inbox.counts().pending == 5


def forget_everything(database: Database) -> None:
    with database.transaction() as db:
        db.change("DELETE FROM items")


# When more than Zendesk fails


class Failing(Inbox):
    """An inbox whose methods raise what a test puts in, once each. `calls` are the names of those that came."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.to_raise: dict[str, list[Exception]] = {}
        self.calls: list[str] = []
        self.afterwards: dict[str, Callable[[], object]] = {}  # by the method's name: what happens behind it, once
        self.renewed: list[list[int]] = []

    def _begin(self, name: str) -> None:
        self.calls.append(name)
        if waiting := self.to_raise.get(name):
            raise waiting.pop()

    def claim(self, *args: Any, **more: Any) -> Claim:
        self._begin("claim")
        claim = super().claim(*args, **more)
        if claim.items:
            self._end("claim")
        return claim

    def settle(self, attempts: Sequence[tuple[Item, Outcome]], pace_s: float = 0.0) -> list[Settled]:
        self._begin("settle")
        return super().settle(attempts, pace_s)

    def renew(self, ids: Any, lease_s: float) -> None:
        self._begin("renew")
        self.renewed.append(list(ids))
        super().renew(ids, lease_s)
        self._end("renew")

    def _end(self, name: str) -> None:
        self.afterwards.pop(name, lambda: None)()


@pytest.fixture
def failing(database: Database) -> Failing:
    return Failing(database)


def test_a_ticket_that_could_not_be_recorded_is_not_made_twice(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = new_delivery(failing, zendesk, clock)
    failing.to_raise["settle"] = [DatabaseUnavailable("disk full")]
    failing.accept([new_item()])
    drain(delivery, failing, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 2
    assert "not_recorded" in events(caplog)


class Broken(ZendeskClient):
    """A client with a fault of its own, once."""

    faults = 1

    def create_ticket(self, body: bytes, idempotency_key: str) -> Reply:
        if self.faults:
            self.faults = 0
            raise KeyError("the text of a customer")
        return super().create_ticket(body, idempotency_key)


def test_a_fault_of_our_own_is_logged_without_its_text_and_tried_again(
    inbox: Inbox, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture, records: Records
) -> None:
    inbox.accept([new_item()])
    drain(new_delivery(inbox, zendesk, clock, Broken), inbox, clock)
    [record] = [record for record in caplog.records if record.message == "delivery_broken"]
    assert record.__dict__["fields"]["error"].startswith("KeyError at test_delivery.py")
    assert len(zendesk.tickets) == 1


def test_a_post_that_cannot_be_worded_is_said_to_be_parked(
    delivery: Delivery, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": None})])
    delivery.deliver_due()
    assert events(caplog) == ["post_broken", "parked"] and inbox.counts().parked == 1


def test_a_lease_lost_between_two_calls_stops_the_second(
    delivery: Delivery,
    inbox: Inbox,
    other: Inbox,
    zendesk: FakeZendesk,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A note is refused and a follow-up is due; meanwhile another process has the item."""
    inbox.accept([new_item("e1")])
    drain(delivery, inbox, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    inbox.accept([new_item("e2")])
    taken: list[Call] = []
    delivery.deliver_due(taken.append)
    clock.advance(LEASE_S)
    assert other.claim("zendesk", 8, LEASE_S, delivery.destination.compose).items
    delivery.deliver(taken[0])
    assert len(zendesk.tickets) == 1 and events(caplog)[-1] == "lease_lost"


def test_comments_that_cannot_be_listed_do_not_keep_a_note_back(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, inbox, clock)
    zendesk.faults.fail(1, 503, method="PUT")
    zendesk.faults.fail(1, 404, path="/api/v2/tickets/", method="GET")
    inbox.accept([new_item("e2")])
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets[0].comments) == 2


def test_a_key_zendesk_refuses_without_a_ticket_parks_the_post(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refusal = json.dumps({"error": "IdempotentRequestError"}).encode()
    zendesk.faults.fail(1, 400, body=refusal, content_type="application/json", method="POST", path="/api/v2/tickets")
    inbox.accept([new_item()])
    drain(delivery, inbox, clock)
    assert (len(zendesk.tickets), inbox.counts().parked) == (0, 1)


def test_the_check_waits_like_everything_else_while_zendesk_limits_us(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk
) -> None:
    inbox.end_check("zendesk", Gate(), Outcome(LIMITED, 0.0, reason="429", retry_after_s=40.0))
    delivery.check()
    assert zendesk.calls == []


def test_a_check_that_is_refused_is_said_and_holds_nothing_up(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture
) -> None:
    zendesk.faults.fail(1, 404, path="/api")
    delivery.check()
    assert events(caplog) == ["check_refused"] and inbox.gate("zendesk")[0].state == OPEN


def test_the_loop_outlives_a_database_that_fails_and_faults_of_its_own(
    failing: Failing, zendesk: FakeZendesk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failing.to_raise["claim"] = [KeyError("x"), DatabaseUnavailable("down"), DatabaseUnavailable("down")]
    destination = new_delivery(failing, zendesk, clock).destination
    delivery = Delivery(failing, destination, idle_s=0.01)
    failing.accept([new_item()])
    delivery.start()
    wait_for(lambda: zendesk.tickets)
    delivery.stop(5)
    logged = events(caplog, "database_unavailable", "delivery_broken", "database_recovered")
    assert logged == ["database_unavailable", "delivery_broken", "database_recovered"]


# The record of attempts


def tried(records: Records) -> list[tuple[Any, ...]]:
    """Every attempt: the item, its number, what came of it, the status, the code and whether a request id is kept."""
    return [
        (a.item_id, a.number, a.outcome, a.status, a.code, bool(a.request_id)) for a in records.attempts(range(1, 20))
    ]


def test_every_outcome_leaves_one_record(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, records: Records
) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    zendesk.faults.fail(1, 503, method="POST", path="/api")
    zendesk.faults.reset(1, method="POST", path="/api")
    zendesk.faults.fail(1, 429, retry_after=2, method="POST", path="/api")
    zendesk.faults.fail(1, 403, method="POST", path="/api")
    drain(delivery, inbox, clock)
    inbox.accept([new_item("e2", "twitter:1")])
    drain(delivery, inbox, clock)
    inbox.accept([new_item("e3", "twitter:3")])
    refusal = json.dumps({"error": "RecordInvalid", "details": {"subject": [{"error": "Blank"}]}}).encode()
    zendesk.faults.fail(1, 422, body=refusal, content_type="application/json", method="POST", path="/api/v2/tickets")
    drain(delivery, inbox, clock)
    assert tried(records) == [
        (1, 1, OUTAGE, 503, "DatabaseDeadlock", False),
        (1, 2, OUTAGE, None, None, False),
        (1, 3, LIMITED, 429, "APIRateLimitExceeded", False),
        (1, 4, UNAUTHORISED, 403, "Forbidden", False),
        (1, 5, "ticket_created", 201, None, True),
        (2, 1, "note_added", 200, None, True),
        (3, 1, "refused", 422, "RecordInvalid subject:Blank", False),
    ]


def test_an_attempt_is_known_by_zendesks_name_for_it_and_when_it_was_made(
    delivery: Delivery,
    inbox: Inbox,
    zendesk: FakeZendesk,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    records: Records,
) -> None:
    monkeypatch.setattr("sandbox.zendesk.uuid.uuid4", lambda: UUID(int=7))
    inbox.accept([new_item()])
    delivery.deliver_due()
    [attempt] = records.attempts([1])
    assert attempt.request_id == UUID(int=7).hex
    assert 0 < attempt.took_s < 30 and attempt.at == pytest.approx(clock.now - attempt.took_s)


def test_an_attempt_whose_lease_was_lost_is_recorded_too(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, records: Records
) -> None:
    inbox.accept([new_item()])
    [late] = inbox.claim("zendesk", 8, LEASE_S, delivery.destination.compose).items
    clock.advance(LEASE_S)
    delivery.deliver_due()
    delivery.deliver([late])
    assert sorted((number, outcome) for _, number, outcome, *_ in tried(records)) == [
        (1, "ticket_created"),
        (2, "ticket_created"),
    ]
    assert len(zendesk.tickets) == 1


def test_an_attempt_nobody_lived_to_record_leaves_a_gap(
    delivery: Delivery, inbox: Inbox, clock: Clock, records: Records
) -> None:
    inbox.accept([new_item()])
    inbox.claim("zendesk", 8, LEASE_S, delivery.destination.compose)
    clock.advance(LEASE_S)
    delivery.deliver_due()
    assert [number for _, number, *_ in tried(records)] == [2]


@pytest.mark.parametrize("status", [201, 422, 503])
def test_an_overlong_name_of_a_call_keeps_nothing_from_being_recorded(
    status: int, delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, records: Records
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
    assert [attempt[3] for attempt in tried(records)] == [status]


def test_no_record_of_an_attempt_holds_a_customers_words(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, records: Records
) -> None:
    said = "My order never came"
    refusal = json.dumps({"error": "RecordInvalid", "description": said, "details": {"base": [{"description": said}]}})
    zendesk.faults.fail(1, 422, body=refusal.encode(), content_type="application/json", method="POST", path="/api")
    payload = {"labels": [], "item": {"entityId": "twitter:1", "text": said}}
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", payload)])
    drain(delivery, inbox, clock)
    [attempt] = records.attempts([1])
    [record] = records.find("e1")
    assert attempt.code == "RecordInvalid base" and said not in f"{attempt} {record}"


# Items of one post that overtake each other: a person had one that was parked sent again


def refused(delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock, event: str) -> None:
    """Zendesk refuses the event's ticket, and it is parked."""
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item(event)])
    drain(delivery, inbox, clock)


def retry(inbox: Inbox) -> None:
    assert inbox.retry() == 1


def test_an_item_whose_post_got_its_ticket_from_another_item_meanwhile_becomes_a_note(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refused(delivery, inbox, zendesk, clock, "e1")
    zendesk.faults.reset(1, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item("e2")])
    delivery.deliver_due()
    retry(inbox)
    drain(delivery, inbox, clock)
    [ticket] = zendesk.tickets
    assert ["e2" in comment.html_body for comment in ticket.comments] == [False, True]


def test_a_note_for_a_ticket_that_was_followed_up_meanwhile_goes_on_the_follow_up(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    refused(delivery, inbox, zendesk, clock, "e1")
    inbox.accept([new_item("e2")])
    drain(delivery, inbox, clock)
    zendesk.faults.reset(1, method="PUT")
    inbox.accept([new_item("e3")])
    delivery.deliver_due()
    zendesk.close_ticket(zendesk.tickets[0].id)
    retry(inbox)
    drain(delivery, inbox, clock)
    closed, follow_up = zendesk.tickets
    assert [len(ticket.comments) for ticket in (closed, follow_up)] == [1, 2]
    assert "e1" in follow_up.comments[0].html_body and "e3" in follow_up.comments[1].html_body


def test_a_note_for_a_deleted_ticket_whose_successor_was_closed_follows_up_the_successor(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, inbox, clock)
    zendesk.faults.fail(1, 422, method="PUT")
    inbox.accept([new_item("e2")])
    drain(delivery, inbox, clock)  # e2 is parked
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
    drain(delivery, inbox, clock)
    _, follow_up = zendesk.tickets
    assert "e3" in follow_up.comments[0].html_body
    assert follow_up.fields["via_followup_source_id"] == successor.id


def test_a_follow_up_that_was_refused_is_sent_again_under_another_key(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, inbox, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")  # and the plain one that stands in for it
    refused(delivery, inbox, zendesk, clock, "e2")
    retry(inbox)
    drain(delivery, inbox, clock)
    keys = [call.idempotency_key for call in creations(zendesk)]
    assert len(zendesk.tickets) == 2 and len({*keys}) == len(keys) == 4


def test_a_follow_up_whose_answer_was_lost_is_sent_again_under_the_same_key(
    delivery: Delivery, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    drain(delivery, inbox, clock)
    zendesk.close_ticket(zendesk.tickets[0].id)
    zendesk.faults.reset(1, effect=True, method="POST", path="/api/v2/tickets")
    inbox.accept([new_item("e2")])
    drain(delivery, inbox, clock)
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
    drain(delivery, inbox, clock)
    assert len(zendesk.tickets) == 1 and len(creations(zendesk)) == 1


# The loop itself, with a destination in memory


class Mailbox(Destination):
    """A destination in memory. It keeps what is sent, and answers what a test puts in, otherwise with a success; so it
    does with checks."""

    noun = "letter"

    def __init__(self, name: str = "mailbox", parallel: int = 2) -> None:
        self.name, self.parallel, self.title = name, parallel, name.title()
        self.sent: list[tuple[str, Draft]] = []  # with the event
        self.answers: list[Sent | Exception] = []
        self.check_answers: list[Exception] = []
        self.checks = self.busy = self.most_busy = 0
        self.takes_letters, self.answers_checks = threading.Event(), threading.Event()  # until then calls hang
        self.takes_letters.set()
        self.answers_checks.set()

    def compose(self, item: Item) -> Draft:
        return Draft("letter", f"about {item.event_uuid}".encode(), f"key-{item.event_uuid}")

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        assert item.draft
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        self.sent.append((item.event_uuid, item.draft))
        assert self.takes_letters.wait(30)
        self.busy -= 1
        answer = self.answers.pop(0) if self.answers else Sent("letter_sent", f"letter-{len(self.sent)}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def check(self) -> str:
        self.checks += 1
        assert self.answers_checks.wait(30)
        if self.check_answers:
            raise self.check_answers.pop(0)
        return "a mailbox"

    def link(self, reference: str) -> str | None:
        return None


class Parcels(Mailbox):
    """Finds at the first attempt that a parcel has to be sent instead of a letter."""

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        if item.draft and item.draft.kind == "letter":
            item = refreeze(Draft("parcel", b"a parcel", "key of the parcel", "target"))
        return super().send(item, refreeze)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    yield mailbox
    mailbox.takes_letters.set()
    mailbox.answers_checks.set()


def letter(event: str = "e1", post: str = "p:1", destination: str = "mailbox") -> NewItem:
    return new_item(event, post, destination=destination)


def wake_until(delivery: Delivery, done: Callable[[], object]) -> None:
    """Lets the loop make one pass after the other until `done`."""

    def woken() -> object:
        delivery.wake()
        return done()

    wait_for(woken)


def loop_runs(destination: str) -> bool:
    return any(thread.name == f"delivery-{destination}" for thread in threading.enumerate())


def close_gate(inbox: Inbox, clock: Clock) -> None:
    """Closes the mailbox's gate, and lets its hold pass."""
    inbox.end_check("mailbox", inbox.gate("mailbox")[0], Outcome(OUTAGE, 0.0, reason="503"))
    clock.advance(1)


# Leases


def test_after_a_stall_leases_are_renewed_before_anything_is_claimed(
    failing: Failing, other: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    """A stall of more than LEASE_S, between two passes, while an item is under way."""
    delivery = Delivery(failing, mailbox, renew_s=0.0, idle_s=60.0)
    failing.accept([letter()])
    mailbox.takes_letters.clear()
    delivery.start()
    wait_for(lambda: mailbox.sent)  # and the loop waits until it is woken
    before = len(failing.calls)
    clock.advance(LEASE_S + 1)
    delivery.wake()
    wait_for(lambda: len(failing.calls) >= before + 2)
    assert failing.calls[before:] == ["renew", "claim"]
    assert other.claim("mailbox", 8, LEASE_S, mailbox.compose).items == []
    mailbox.takes_letters.set()
    delivery.stop(10)
    assert len(mailbox.sent) == 1


def test_an_item_under_way_is_not_sent_again_even_when_its_lease_is_over(
    failing: Failing, mailbox: Mailbox, clock: Clock, records: Records
) -> None:
    """The stall comes between the renewal and the claim."""
    delivery = Delivery(failing, mailbox, renew_s=0.0)
    failing.accept([letter()])
    failing.afterwards["renew"] = lambda: clock.advance(LEASE_S + 1)
    mailbox.takes_letters.clear()
    delivery.start()
    wait_for(lambda: mailbox.sent)
    wake_until(delivery, lambda: failing.calls.count("claim") >= 3)
    mailbox.takes_letters.set()
    delivery.stop(10)
    assert len(mailbox.sent) == 1
    [attempt] = records.attempts([1])
    assert (attempt.number, attempt.outcome) == (1, "letter_sent")


def test_nothing_is_claimed_when_the_leases_could_not_be_renewed(failing: Failing, mailbox: Mailbox) -> None:
    delivery = Delivery(failing, mailbox, renew_s=0.0, idle_s=0.01)
    failing.accept([letter()])
    mailbox.takes_letters.clear()
    failing.to_raise["renew"] = [DatabaseUnavailable("down")]
    delivery.start()
    wait_for(lambda: len(failing.calls) >= 4)
    assert failing.calls[:4] == ["claim", "renew", "renew", "claim"]
    mailbox.takes_letters.set()
    delivery.stop(10)


def test_a_lease_is_renewed_as_long_as_its_call_is_under_way(failing: Failing, mailbox: Mailbox) -> None:
    delivery = Delivery(failing, mailbox, renew_s=0.0)
    failing.accept([letter()])
    mailbox.takes_letters.clear()
    delivery.start()
    wake_until(delivery, lambda: len(failing.renewed) >= 3)
    assert failing.renewed[:3] == [[1], [1], [1]]
    mailbox.takes_letters.set()
    delivery.stop(10)


def test_an_item_that_another_process_has_taken_is_not_sent_otherwise(
    inbox: Inbox, other: Inbox, clock: Clock, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    parcels = Parcels()
    delivery, taken = Delivery(inbox, parcels), list[Call]()
    inbox.accept([letter()])
    delivery.deliver_due(taken.append)
    clock.advance(LEASE_S)
    assert other.claim("mailbox", 8, LEASE_S, parcels.compose).items
    delivery.deliver(taken[0])
    assert (parcels.sent, events(caplog), records.attempts([1])) == ([], ["lease_lost"], [])


def test_what_a_destination_freezes_anew_is_sent_again_byte_for_byte(inbox: Inbox, clock: Clock) -> None:
    parcels = Parcels()
    parcels.answers = [Unavailable("no answer came")]
    delivery = Delivery(inbox, parcels)
    inbox.accept([letter()])
    delivery.deliver_due()
    clock.advance(1)
    delivery.deliver_due()
    assert parcels.sent == [("e1", Draft("parcel", b"a parcel", "key of the parcel", "target"))] * 2


def test_what_the_database_does_not_record_is_sent_again_with_the_same_bytes_and_key(
    failing: Failing, mailbox: Mailbox, clock: Clock, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery(failing, mailbox)
    failing.accept([letter()])
    failing.to_raise["settle"] = [DatabaseUnavailable("disk full")]
    delivery.deliver_due()
    logged = fields_of(caplog, "not_recorded")
    assert (logged["level"], str(logged["reason"]), logged["event_uuid"]) == (logging.ERROR, "disk full", "e1")
    delivery.deliver_due()
    assert len(mailbox.sent) == 1  # not before the lease is over
    clock.advance(LEASE_S)
    delivery.deliver_due()
    assert len(mailbox.sent) == 2 and mailbox.sent[0] == mailbox.sent[1]
    [record] = records.latest()
    assert (record.state, record.reference, record.attempts) == ("delivered", "letter-2", 2)


# Several destinations


@pytest.mark.parametrize(
    "trouble",
    [
        Unavailable("503", status=503),
        Limited("429", status=429, retry_after_s=3600.0),
        AuthFailed("401", status=401),
        Rejected("422", status=422),
        OSError("/no/such/ca-bundle"),
    ],
    ids=["outage", "limited", "unauthorised", "refused", "misconfigured"],
)
def test_the_trouble_of_one_destination_delays_no_other(inbox: Inbox, records: Records, trouble: Exception) -> None:
    broken, well = Mailbox("broken"), Mailbox("well")
    broken.answers = [trouble] * 99
    deliveries = [Delivery(inbox, broken), Delivery(inbox, well)]
    inbox.accept([letter(f"e{n}", f"p:{n}", name) for n in range(6) for name in ("broken", "well")])
    for _ in range(3):
        for delivery in deliveries:
            delivery.deliver_due()
    assert len(well.sent) == 6 and inbox.gate("well")[0].state == OPEN
    assert {record.destination for record in records.latest("delivered")} == {"well"}


def test_a_destination_that_hangs_delays_no_other(inbox: Inbox, records: Records) -> None:
    hung, well = Mailbox("hung"), Mailbox("well")
    hung.takes_letters.clear()
    deliveries = [Delivery(inbox, hung), Delivery(inbox, well)]
    inbox.accept([letter(f"e{n}", f"p:{n}", name) for n in range(6) for name in ("hung", "well")])
    for delivery in deliveries:
        delivery.start()
    wake_until(deliveries[1], lambda: len(records.latest("delivered")) == 6)
    assert (len(well.sent), len(hung.sent)) == (6, 2)
    hung.takes_letters.set()
    wake_until(deliveries[0], lambda: len(records.latest("delivered")) == 12)
    for delivery in deliveries:
        delivery.stop(10)


def test_a_destination_whose_check_hangs_delays_no_other(inbox: Inbox, records: Records) -> None:
    hung, well = Mailbox("hung"), Mailbox("well")
    hung.answers_checks.clear()
    deliveries = [Delivery(inbox, hung), Delivery(inbox, well)]
    for delivery in deliveries:
        delivery.start()
    wait_for(lambda: hung.checks)
    inbox.accept([letter(f"e{n}", f"p:{n}", name) for n in range(6) for name in ("hung", "well")])
    wake_until(deliveries[1], lambda: len(records.latest("delivered")) == 6)
    assert (len(well.sent), len(hung.sent)) == (6, 0)
    hung.answers_checks.set()
    for delivery in deliveries:
        delivery.stop(10)


def test_a_check_of_one_destination_moves_no_other_gate(inbox: Inbox) -> None:
    broken = Mailbox("broken")
    broken.check_answers = [AuthFailed("401", status=401)]
    Delivery(inbox, broken).check()
    assert (inbox.gate("broken")[0].state, inbox.gate("well")[0].state) == (UNAUTHORISED, OPEN)


# The gate


@pytest.mark.parametrize(
    "answer",
    [
        Sent("letter_sent", "1", quota=Quota(7, 30.0)),
        Rejected("422", quota=Quota(7, 30.0)),
        Limited("429", quota=Quota(7, 30.0)),
        Unavailable("503", quota=Quota(7, 30.0)),
        AuthFailed("403", quota=Quota(7, 30.0)),
    ],
    ids=["sent", "refused", "limited", "outage", "unauthorised"],
)
def test_what_every_answer_says_of_the_limit_reaches_the_gate(
    answer: Sent | Exception, inbox: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    mailbox.answers = [answer]
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    gate, _ = inbox.gate("mailbox")
    assert (gate.calls_left, gate.window_ends_at) == (7, clock.now + 30)


def test_a_check_that_is_limited_tells_the_gate(inbox: Inbox, mailbox: Mailbox, clock: Clock) -> None:
    mailbox.check_answers = [Limited("429", status=429, retry_after_s=20.0, quota=Quota(0, 20.0))]
    Delivery(inbox, mailbox).check()
    gate, held_s = inbox.gate("mailbox")
    assert (gate.state, held_s, gate.calls_left) == (LIMITED, 20.0, 0)


def test_no_more_leave_than_the_limit_allows(inbox: Inbox, mailbox: Mailbox) -> None:
    mailbox.parallel = 8
    mailbox.answers = [Sent("letter_sent", "1", quota=Quota(8, 30.0))]
    delivery = Delivery(inbox, mailbox)
    inbox.accept([letter("e0", "p:0")])
    delivery.deliver_due()
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(1, 9)])
    taken: list[Call] = []
    delivery.deliver_due(taken.append)
    assert len(taken) == 2  # each may cost three calls


def test_while_a_check_hangs_no_process_makes_another(
    inbox: Inbox, other: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    close_gate(inbox, clock)
    here, there = Delivery(inbox, mailbox), Delivery(other, mailbox)
    mailbox.answers_checks.clear()
    hanging = threading.Thread(target=here.check)
    hanging.start()
    wait_for(lambda: mailbox.checks == 1)
    for _ in range(int(CHECK_S)):
        there.check()
        there.deliver_due()
        clock.advance(0.99)
    assert mailbox.checks == 1
    mailbox.answers_checks.set()
    hanging.join(10)
    assert inbox.gate("mailbox")[0].state == OPEN


def test_a_check_that_is_never_answered_is_followed_by_another(
    inbox: Inbox, other: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    """Its process has died."""
    close_gate(inbox, clock)
    assert inbox.begin_check("mailbox", CHECK_S)
    clock.advance(CHECK_S)
    Delivery(other, mailbox).deliver_due()
    assert (mailbox.checks, other.gate("mailbox")[0].state) == (1, OPEN)


def test_while_a_probe_is_under_way_no_process_sends_or_checks_anything(
    inbox: Inbox, other: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    """An item that hangs, its lease renewed again and again, is the probe of a gate that is not open."""
    close_gate(inbox, clock)
    inbox.accept([letter("e1", "p:1"), letter("e2", "p:2")])
    taken: list[Call] = []
    Delivery(inbox, mailbox).deliver_due(taken.append)
    assert len(taken) == 1
    there = Delivery(other, mailbox)
    for _ in range(6):
        clock.advance(3)
        inbox.renew([taken[0][0].id], LEASE_S)
        there.deliver_due()
    assert (mailbox.checks, mailbox.sent) == (0, [])


def test_a_check_that_breaks_is_an_outage_with_a_reason_and_tried_again(
    inbox: Inbox, mailbox: Mailbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.check_answers = [KeyError("a customer's text")]
    delivery = Delivery(inbox, mailbox)
    delivery.check()
    logged = fields_of(caplog, "check_broken")
    assert logged["error"].startswith("KeyError at test_delivery.py:") and logged["destination"] == "mailbox"
    gate, _ = inbox.gate("mailbox")
    assert (gate.state, "KeyError" in gate.reason, "customer" in gate.reason) == (OUTAGE, True, False)
    clock.advance(1)
    delivery.deliver_due()
    assert (mailbox.checks, inbox.gate("mailbox")[0].state) == (2, OPEN)


# Whose fault it is


def deliver_all(delivery: Delivery, clock: Clock, passes: int = 1) -> None:
    """Passes of the loop, each when the gate may let something leave."""
    for _ in range(passes):
        clock.advance(delivery.deliver_due() or 0.0)


@pytest.mark.parametrize("refusal", [Rejected("404 InvalidEndpoint", status=404), AuthFailed("401", status=401)])
@pytest.mark.parametrize("proof", [Rejected("no such account", status=404), AuthFailed("no such account", status=401)])
def test_when_the_check_is_refused_too_it_is_the_destination_and_nothing_is_parked(
    refusal: Exception, proof: Exception, inbox: Inbox, mailbox: Mailbox, records: Records
) -> None:
    mailbox.answers, mailbox.check_answers = [refusal] * 2, [proof] * 2
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(6)])
    Delivery(inbox, mailbox).deliver_due()
    gate, held_s = inbox.gate("mailbox")
    assert (gate.state, gate.reason, held_s) == (UNAUTHORISED, "no such account", 5.0)
    assert (inbox.counts().pending, inbox.counts().parked) == (6, 0)
    assert {attempt.outcome for attempt in records.attempts(range(1, 7))} == {UNAUTHORISED}


def test_when_the_check_works_a_refused_item_is_parked(inbox: Inbox, mailbox: Mailbox) -> None:
    mailbox.answers = [Rejected("422", status=422)]
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    assert (inbox.counts().parked, mailbox.checks, inbox.gate("mailbox")[0].state) == (1, 1, OPEN)


def test_when_the_check_works_an_item_that_is_forbidden_waits_alone(
    inbox: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    mailbox.answers = [AuthFailed("403", status=403)]
    inbox.accept([letter("e1", "p:1")])
    inbox.accept([letter("e2", "p:1"), letter("e3", "p:2")])
    delivery = Delivery(inbox, mailbox)
    deliver_all(delivery, clock, passes=3)
    assert [event for event, _ in mailbox.sent] == ["e1", "e3"]
    assert (inbox.gate("mailbox")[0].state, inbox.counts().parked) == (OPEN, 0)
    clock.advance(2)
    deliver_all(delivery, clock, passes=2)
    assert [event for event, _ in mailbox.sent] == ["e1", "e3", "e1", "e2"]


def test_an_item_that_breaks_the_destination_is_found_out_by_a_check_at_its_fifth_attempt(
    inbox: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    mailbox.answers = [Unavailable("500", status=500)] * 5
    inbox.accept([letter()])
    delivery = Delivery(inbox, mailbox)
    for tried in range(1, PATIENCE + 1):
        assert mailbox.checks == 0
        deliver_all(delivery, clock)
        assert inbox.gate("mailbox")[0].state == (OUTAGE if tried < PATIENCE else OPEN)
        clock.advance(inbox.gate("mailbox")[1])
    assert (len(mailbox.sent), mailbox.checks) == (5, 1)
    assert delivery.deliver_due() == 0.0 and len(mailbox.sent) == 5
    clock.advance(2)
    delivery.deliver_due()
    assert inbox.counts().pending == 0


@pytest.mark.parametrize(
    ("proof", "state"),
    [
        (Unavailable("503", status=503, retry_after_s=20.0), OUTAGE),
        (Limited("429", status=429, retry_after_s=20.0), LIMITED),
        (AuthFailed("401", status=401, retry_after_s=20.0), UNAUTHORISED),
    ],
    ids=["outage", "limited", "unauthorised"],
)
@pytest.mark.parametrize("answer", [Rejected("422", status=422), AuthFailed("403", status=403)])
def test_nobody_is_blamed_while_the_check_does_not_work(
    answer: Exception, proof: Exception, state: str, inbox: Inbox, mailbox: Mailbox
) -> None:
    mailbox.answers, mailbox.check_answers = [answer], [proof]
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    gate, held_s = inbox.gate("mailbox")
    assert (gate.state, gate.reason, held_s, gate.blamed) == (state, str(proof), 20.0, "")
    assert (inbox.counts().pending, inbox.counts().parked) == (1, 0)


def test_a_check_that_breaks_speaks_against_no_destination(
    inbox: Inbox, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.answers, mailbox.check_answers = [AuthFailed("403", status=403)], [KeyError("a customer's text")]
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    assert (inbox.gate("mailbox")[0].state, inbox.counts().pending) == (OPEN, 1)
    assert fields_of(caplog, "check_broken")["error"].startswith("KeyError at test_delivery.py:")


@pytest.mark.parametrize(
    "proof",
    [Limited("429", item_only=True), Unavailable("404", item_only=True), Limited("429", quota=Quota(650, 30.0))],
)
def test_a_limit_of_the_checks_own_call_speaks_against_no_destination(
    proof: Exception, inbox: Inbox, mailbox: Mailbox
) -> None:
    mailbox.answers, mailbox.check_answers = [AuthFailed("403", status=403)], [proof]
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    assert (inbox.gate("mailbox")[0].state, inbox.counts().pending) == (OPEN, 1)


def test_one_item_that_is_forbidden_and_all_that_are_have_reasons_of_their_own(
    inbox: Inbox, mailbox: Mailbox, records: Records
) -> None:
    """The check takes our credentials: nobody should go and look at them."""
    mailbox.answers = [AuthFailed("403: it refuses our credentials", status=403, code="Forbidden")] * 5
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(5)])
    delivery = Delivery(inbox, mailbox)
    delivery.deliver_due()
    said = "Mailbox refuses this one post (403 Forbidden) and takes others"
    assert {record.reason for record in records.latest("pending")} == {None, said}
    for _ in range(3):
        delivery.deliver_due()
    gate, _ = inbox.gate("mailbox")
    said = "Mailbox refuses each post (403 Forbidden) though it takes our credentials"
    assert gate.reason == f"{said}: 5 different posts in a row failed alike"


def test_no_check_is_made_where_the_blame_is_clear(inbox: Inbox, mailbox: Mailbox, clock: Clock) -> None:
    mailbox.answers = [
        Sent("letter_sent", "1"),
        Limited("429", status=429),
        Unavailable("503", status=503),
        Limited("429", status=429, retry_after_s=600.0, item_only=True),
    ]
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(4)])
    delivery = Delivery(inbox, mailbox)
    while mailbox.answers:
        deliver_all(delivery, clock)
    assert mailbox.checks == 0


def test_a_limit_of_one_item_leaves_the_gate_open(inbox: Inbox, mailbox: Mailbox, clock: Clock) -> None:
    mailbox.answers = [Limited("429", status=429, retry_after_s=600.0, item_only=True)]
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(3)])
    delivery = Delivery(inbox, mailbox)
    deliver_all(delivery, clock, passes=3)
    assert (len(mailbox.sent), inbox.counts().pending, inbox.gate("mailbox")[0].state) == (3, 1, OPEN)
    clock.advance(600)
    deliver_all(delivery, clock)
    assert inbox.counts().pending == 0


def test_an_account_that_refuses_all_alike_is_said_once_and_loses_nothing(
    inbox: Inbox, mailbox: Mailbox, clock: Clock, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    """The check works all the same: a field is missing in the settings."""
    mailbox.answers = [Rejected("422 requires a field", status=422, code="field")] * 12
    inbox.accept([letter(f"e{n:02}", f"p:{n}") for n in range(30)])
    delivery = Delivery(inbox, mailbox)
    for _ in range(600):
        deliver_all(delivery, clock)
        clock.advance(1)
    assert (len(mailbox.answers), len(records.latest("delivered"))) == (0, 30)
    assert events(caplog, "refusing", "recovered") == ["refusing", "recovered"]
    logged = fields_of(caplog, "refusing")
    assert (logged["level"], logged["destination"], logged["put_back"]) == (logging.ERROR, "mailbox", 4)
    assert logged["reason"] == "422 requires a field: 5 different posts in a row were refused alike"
    assert events(caplog, "parked") == ["parked"] * 4


def test_a_start_tries_the_next_item_at_once_when_all_were_refused_alike(
    inbox: Inbox, mailbox: Mailbox, clock: Clock
) -> None:
    """The settings may be corrected. The check that works proves nothing, it worked before."""
    mailbox.answers = [Rejected("422", status=422)] * 9
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(9)])
    deliver_all(Delivery(inbox, mailbox), clock, passes=5)
    mailbox.answers = [Rejected("422", status=422)]
    again = Delivery(inbox, mailbox)
    again.check(despite_hold=True)
    assert inbox.gate("mailbox")[0].state == "refusing"
    again.deliver_due()
    assert inbox.gate("mailbox")[0].state == "refusing" and inbox.counts().parked == 0
    again.check(despite_hold=True)
    again.deliver_due()
    assert inbox.gate("mailbox")[0].state == OPEN
    deliver_all(again, clock, passes=4)
    assert inbox.counts().pending == 0


# Faults of our own


def test_any_exception_of_a_call_is_an_attempt_with_a_reason_and_its_item_waits(
    inbox: Inbox, mailbox: Mailbox, clock: Clock, records: Records
) -> None:
    mailbox.answers = [OSError("/no/such/ca-bundle"), ValueError("a customer's text")]
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(5)])
    delivery = Delivery(inbox, mailbox)
    deliver_all(delivery, clock, passes=5)
    assert len(mailbox.sent) == 5 and inbox.gate("mailbox")[0].state == OPEN
    waiting = {record.id: record.reason for record in records.latest("pending")}
    assert waiting == {
        1: "the relay itself failed (OSError): see delivery_broken in its log",
        2: "the relay itself failed (ValueError): see delivery_broken in its log",
    }
    assert [(a.outcome, a.code) for a in records.attempts([1, 2])] == [(OUTAGE, "OSError"), (OUTAGE, "ValueError")]
    clock.advance(2)
    deliver_all(delivery, clock)
    assert inbox.counts().pending == 0


def test_a_fault_that_meets_every_item_closes_the_gate(inbox: Inbox, mailbox: Mailbox, clock: Clock) -> None:
    mailbox.answers = [ValueError("x")] * 99
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(20)])
    delivery = Delivery(inbox, mailbox)
    for _ in range(60):
        delivery.deliver_due()
        clock.advance(1)
    gate, _ = inbox.gate("mailbox")
    assert (gate.state, len(mailbox.sent) <= 30, inbox.counts().parked) == (REFUSING, True, 0)
    assert gate.reason.endswith("5 different posts in a row failed alike")


def test_an_attempt_that_cannot_be_recorded_costs_no_other_its_record(
    failing: Failing, mailbox: Mailbox, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox.parallel, delivery = 4, Delivery(failing, mailbox)
    failing.accept([letter(f"e{n}", f"p:{n}") for n in range(4)])
    taken: list[Call] = []
    delivery.deliver_due(taken.append)
    failing.to_raise["settle"] = [KeyError("x"), KeyError("x")]  # together, and the first alone
    delivery.record([(call, Outcome("letter_sent", 0.1, reference="1")) for call in taken])
    assert [record.event_uuid for record in records.latest("delivered")] == ["e3", "e2", "e1"]
    assert events(caplog, "delivery_broken") == ["delivery_broken"] * 2
    failing.accept([letter("e4", "p:4")])
    delivery.deliver_due()
    assert [event for event, _ in mailbox.sent] == ["e4"]  # the others were recorded: nothing pauses


def test_what_can_never_be_recorded_is_not_sent_again_and_again(failing: Failing, mailbox: Mailbox) -> None:
    mailbox.parallel, delivery = 1, Delivery(failing, mailbox)
    failing.accept([letter(f"e{n}", f"p:{n}") for n in range(20)])
    failing.to_raise["settle"] = [KeyError("x")] * 20
    pauses = [delivery.deliver_due() for _ in range(20)]
    assert pauses[0] is None and all(pause and 0 < pause <= 1 for pause in pauses[1:]) and len(mailbox.sent) == 1


# Digests, and the pace


class Board(Mailbox):
    """Takes a letter a second, and more than three at once as one notice."""

    pace_s = 1.0

    def __init__(self, name: str = "mailbox") -> None:
        super().__init__(name, parallel=1)
        self.digest = Digest(3, self.send_digest)
        self.notices: list[list[str]] = []
        self.notice_answers: list[Exception] = []

    def send_digest(self, items: Sequence[Item]) -> Sent:
        self.notices.append([item.event_uuid for item in items])
        if self.notice_answers:
            raise self.notice_answers.pop(0)
        return Sent("notice_posted", f"notice-{len(self.notices)}")


@pytest.fixture
def board() -> Board:
    return Board()


def test_one_item_leaves_each_second_and_the_loop_knows_how_long_to_wait(
    inbox: Inbox, other: Inbox, board: Board, clock: Clock
) -> None:
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(3)])
    here, there = Delivery(inbox, board), Delivery(other, board)
    assert here.deliver_due() is None
    clock.advance(0.25)
    assert here.deliver_due() == there.deliver_due() == 0.75
    clock.advance(0.75)
    assert there.deliver_due() is None
    assert here.deliver_due() == 1.0
    assert [event for event, _ in board.sent] == ["e0", "e1"]


def test_a_loop_wakes_up_when_the_pace_allows_the_next_call(database_url: str, board: Board) -> None:
    """And not only after the pause in which there is nothing to do."""
    board.pace_s = 0.1
    with closing(open_database(database_url)) as database:
        inbox = Inbox(database)
        inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(3)])
        delivery = Delivery(inbox, board, idle_s=60.0)
        delivery.start()
        wait_for(lambda: len(board.sent) == 3)
        delivery.stop(10)


def test_many_items_become_one_message_that_settles_all(
    inbox: Inbox, board: Board, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([letter(f"e{n:02}", f"p:{n}") for n in range(25)])
    assert Delivery(inbox, board).deliver_due() is None
    assert board.notices == [[f"e{n:02}" for n in range(25)]] and board.sent == []
    found = records.latest("delivered")
    assert len(found) == 25 and {record.reference for record in found} == {"notice-1"}
    assert events(caplog) == ["notice_posted"] * 25


def test_a_digest_whose_outcome_is_unknown_is_one_outage_and_all_of_it_is_sent_again(
    inbox: Inbox, board: Board, clock: Clock, records: Records
) -> None:
    board.notice_answers = [Unavailable("no answer came")]
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(25)])
    delivery = Delivery(inbox, board)
    delivery.deliver_due()
    assert inbox.gate("mailbox")[0].state == OUTAGE and inbox.counts().pending == 25
    for _ in range(4):
        clock.advance(1)
        delivery.deliver_due()
    assert (len(board.sent), [len(notice) for notice in board.notices]) == (1, [25, 24])
    assert inbox.counts().pending == 0


@pytest.mark.parametrize("refusal", [Rejected("too long", status=400), AuthFailed("403", status=403)])
def test_a_digest_that_is_refused_though_the_check_works_blames_nobody_and_each_goes_alone(
    refusal: Exception, inbox: Inbox, board: Board, clock: Clock
) -> None:
    board.notice_answers = [refusal] * 9
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(6)])
    delivery = Delivery(inbox, board)
    for _ in range(10):
        deliver_all(delivery, clock)
        clock.advance(1)
    assert (len(board.notices), len(board.sent), board.checks) == (1, 6, 1)
    counts = inbox.counts()
    assert (counts.pending, counts.parked) == (0, 0)


@pytest.mark.parametrize(("attempts", "item_only"), [((5, 1), False), ((5, 5), True)])
def test_one_item_that_was_tried_often_does_not_split_a_digest(
    attempts: tuple[int, ...], item_only: bool, inbox: Inbox, board: Board
) -> None:
    """A passing failure of a digest is the destination's; only one in which all were tried often is taken apart."""
    board.notice_answers = [Unavailable("503", status=503)]
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(4)])
    items = inbox.claim(board.name, 1, 10.0, board.compose, above=1).items
    call = [replace(item, attempts=tried) for item, tried in zip(items, attempts, strict=False)]
    outcome = attempt(board, call, lambda item, draft: item)
    assert (outcome.how, outcome.item_only, board.checks) == (OUTAGE, item_only, int(item_only))


def test_a_digest_is_one_call_however_many_it_tells_of(inbox: Inbox, board: Board) -> None:
    board.parallel, board.pace_s = 2, 0.0
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(9)])
    delivery, taken = Delivery(inbox, board), list[Call]()
    delivery.deliver_due(taken.append)
    inbox.accept([letter("later", "p:later")])
    delivery.deliver_due(taken.append)
    assert [len(call) for call in taken] == [9, 1]


# Threads


def test_no_more_are_under_way_than_the_destination_takes_at_once(inbox: Inbox, mailbox: Mailbox) -> None:
    delivery = Delivery(inbox, mailbox)
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(9)])
    mailbox.takes_letters.clear()
    delivery.start()
    wake_until(delivery, lambda: mailbox.busy == 2)
    assert delivery.deliver_due() is None
    mailbox.takes_letters.set()
    wait_for(lambda: len(mailbox.sent) == 9)
    delivery.stop(10)
    assert mailbox.most_busy == 2


def test_a_stop_that_comes_too_early_says_what_is_left_behind_and_cuts_nothing(
    inbox: Inbox, mailbox: Mailbox, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery(inbox, mailbox)
    inbox.accept([letter()])
    mailbox.takes_letters.clear()
    delivery.start()
    wait_for(lambda: mailbox.sent)
    delivery.stop(0.0)
    logged = fields_of(caplog, "stopped_in_flight")
    assert (logged["destination"], logged["items"]) == ("mailbox", 1)
    mailbox.takes_letters.set()
    wait_for(lambda: not loop_runs("mailbox"))
    assert [record.state for record in records.latest()] == ["delivered"]


def test_a_delivery_that_never_started_can_be_stopped(inbox: Inbox, mailbox: Mailbox) -> None:
    Delivery(inbox, mailbox).stop(10)


# Where no thread may stay


def test_a_drain_delivers_what_is_due_and_leaves_no_thread(inbox: Inbox, mailbox: Mailbox) -> None:
    inbox.now()  # the driver of PostgreSQL has threads of its own
    delivery, before = Delivery(inbox, mailbox), set(threading.enumerate())
    for number in range(2):  # a second one as well
        inbox.accept([letter(f"e{number}{n}", f"p:{number}{n}") for n in range(5)])
        delivery.drain(math.inf)
    assert len(mailbox.sent) == 10 and inbox.counts().pending == 0 and mailbox.most_busy <= 2
    assert set(threading.enumerate()) <= before


def test_a_drain_claims_nothing_when_its_time_is_over(inbox: Inbox, mailbox: Mailbox) -> None:
    inbox.accept([letter()])
    Delivery(inbox, mailbox).drain(-math.inf)
    assert mailbox.sent == [] and inbox.counts().pending == 1


def test_a_drain_finishes_the_calls_that_are_under_way_when_its_time_ends(inbox: Inbox, mailbox: Mailbox) -> None:
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(5)])
    mailbox.takes_letters.clear()
    threading.Timer(0.2, mailbox.takes_letters.set).start()
    Delivery(inbox, mailbox).drain(time.monotonic() + 0.1)
    assert len(mailbox.sent) == 2 and inbox.counts().pending == 3


def test_a_drain_waits_for_the_pace_of_a_destination(database_url: str, board: Board) -> None:
    board.pace_s = 0.1
    with closing(open_database(database_url)) as database:
        inbox = Inbox(database)
        inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(3)])
        Delivery(inbox, board).drain(math.inf)
    assert len(board.sent) == 3


def test_a_drain_leaves_what_must_wait_longer_to_the_next_one(inbox: Inbox, mailbox: Mailbox, clock: Clock) -> None:
    inbox.accept([letter(f"e{n}", f"p:{n}") for n in range(3)])
    mailbox.answers = [Limited("later", retry_after_s=60.0)] * 2
    delivery = Delivery(inbox, mailbox)
    delivery.drain(math.inf)
    assert inbox.counts().pending == 3
    clock.advance(61)
    delivery.drain(math.inf)
    assert inbox.counts().pending == 0


def test_a_drain_ends_when_the_database_does_not_work(mailbox: Mailbox, caplog: pytest.LogCaptureFixture) -> None:
    with closing(open_database("sqlite:////nowhere/at/all/relay.db")) as database:
        Delivery(Inbox(database), mailbox).drain(math.inf)
    assert events(caplog) == ["database_unavailable"]


# What others hear


def test_an_observer_sees_every_outcome_and_cannot_break_a_delivery(
    inbox: Inbox, mailbox: Mailbox, clock: Clock, records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    def observe(item: Item, outcome: Outcome) -> None:
        seen.append((item.event_uuid, outcome.how))
        raise KeyError("a customer's text")

    mailbox.answers = [Unavailable("503", status=503), Rejected("422", status=422)]
    delivery = Delivery(inbox, mailbox, on_outcome=observe)
    inbox.accept([letter("e1", "p:1")])
    delivery.deliver_due()
    clock.advance(1)
    delivery.deliver_due()
    inbox.accept([letter("e2", "p:2")])
    delivery.deliver_due()
    assert seen == [("e1", "outage"), ("e1", "refused"), ("e2", "letter_sent")]
    assert [record.state for record in records.latest()] == ["delivered", "parked"]
    assert events(caplog, "delivery_broken") == ["delivery_broken"] * 3


def test_every_line_about_an_attempt_names_the_item_and_the_call(
    inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The destination's kind names its fields; the rest of its name may be long."""
    mailbox = Mailbox("mailbox:corner/of/the/street")
    mailbox.answers = [
        Unavailable("down", status=503, request_id="m-1"),
        Rejected("no such street", status=422, request_id="m-2"),
    ]
    delivery = Delivery(inbox, mailbox)
    inbox.accept([letter("e1", "p:1", mailbox.name)])
    delivery.deliver_due()
    clock.advance(1)
    delivery.deliver_due()
    assert events(caplog) == ["not_delivered", "outage", "parked", "recovered"]
    names = {"destination": mailbox.name, "post": "p:1", "event_uuid": "e1", "request_id": None}
    failed, refused = fields_of(caplog, "not_delivered"), fields_of(caplog, "parked")
    answer = {"status": 503, "reason": "down", "mailbox_request_id": "m-1"}
    assert failed == {"level": logging.WARNING, **names, "attempts": 1, **answer}
    answer = {"status": 422, "reason": "no such street", "mailbox_request_id": "m-2"}
    assert refused == {"level": logging.ERROR, **names, **answer}
    assert fields_of(caplog, "outage")["destination"] == fields_of(caplog, "recovered")["destination"] == mailbox.name


def test_a_success_is_logged_with_the_destinations_word_for_what_it_made(
    inbox: Inbox, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.accept([letter()])
    Delivery(inbox, mailbox).deliver_due()
    logged = fields_of(caplog, "letter_sent")
    assert (logged["letter"], logged["attempts"], logged["level"]) == ("letter-1", 1, logging.INFO)


@pytest.mark.parametrize("state", [OUTAGE, UNAUTHORISED])
def test_a_start_does_not_wait_for_a_hold_that_a_person_may_have_repaired(
    state: str, delivery: Delivery, inbox: Inbox
) -> None:
    inbox.end_check("zendesk", inbox.gate("zendesk")[0], Outcome(state, 0.1, reason="of before", retry_after_s=60.0))
    delivery.start()
    wait_for(lambda: inbox.gate("zendesk")[0].state == OPEN)
    delivery.stop(10)
