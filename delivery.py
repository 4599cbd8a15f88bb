"""The way out: from an item of the inbox to one ticket in Zendesk, and the thread that keeps doing it."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from database import StoreUnavailable
from gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED, Gate
from inbox import WORDLESS, Attempt, Inbox, Item, Request, Settled
from khoros_client import StreamItem
from logfmt import event, where
from outbound import AuthFailed, Limited, Rejected, ServiceError
from store import DELIVERED, LABEL_TO_TICKET, PARKED, PENDING, REFUSED
from tickets import Post, Style, note_body, ticket_body
from zendesk_client import ZendeskClient

PARALLEL = 8
LEASE_S = 10.0
RENEW_S = 3.0  # while a call is under way its lease is prolonged this often, so that no call outlives it
IDLE_S = 1.0
CROWD, CROWD_S = 40, 0.2  # so many notifications within that time are a crowd
FEW, BREATH_S = 4, 0.1  # in a crowd so many items are claimed at once, and so long is waited in between
KEY_LIFE_S = 6900.0  # Zendesk forgets an idempotency key after two hours
PATIENCE = 5  # attempts after which an item's own trouble is no longer taken for Zendesk's
CHECK_ID = "khoros-zendesk-relay-check"  # no post has this id: looking it up proves the credentials and finds nothing


class LeaseLost(Exception):
    """Another process has taken the item over."""


class Sent(NamedTuple):
    """What became of an item: the log's word for it, and the ticket."""

    how: str
    ticket_id: int


class Delivery:
    """Delivers what is due. `wake()` after a commit makes it immediate; `start()` and `stop()` run it in threads."""

    def __init__(self, inbox: Inbox, zendesk: ZendeskClient, style: Style, parallel: int = PARALLEL) -> None:
        self._inbox, self._zendesk, self._style, self._parallel = inbox, zendesk, style, parallel
        self._wake = threading.Event()
        self._stopping = False
        self._held = False
        self._arrived, self._counting_since, self._crowd_at = 0, -math.inf, -math.inf
        self._more = False  # whether the last claim left something that is due
        self._store_works = True
        self._flying: set[int] = set()  # ids of the items under way
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._loop = threading.Thread(target=self._run, name="delivery", daemon=True)

    # One pass

    def deliver_due(self, hand_over: Callable[[Item], object] | None = None) -> float | None:
        """Claims what is due and hands each item to `hand_over`, or delivers it here and now.

        Returns None when something was due, otherwise the seconds the gate stays closed. Raises StoreUnavailable.
        """
        free = min(self._parallel - len(self._flying), FEW if self.crowded else self._parallel)
        if not free:
            return None
        claim = self._inbox.claim(free, LEASE_S, self._compose)
        self._more = claim.more or claim.gate.state != OPEN
        for item in claim.items:
            if item.request is None:
                event("parked", logging.ERROR, **_names(item), reason=WORDLESS)
            else:
                (hand_over or self.deliver)(item)
        if not claim.items and claim.gate.state != OPEN and not claim.held_s and not self._flying:
            self.check()
        return None if claim.items else claim.held_s

    def deliver(self, item: Item) -> None:
        """One attempt at one claimed item, and its record. Raises nothing: what fails is logged and tried again."""
        started = time.monotonic()
        try:
            try:
                self._record_success(item, self._send(item), started)
            except Rejected as error:
                self._record_refusal(item, error, started)
            except ServiceError as error:
                self._record_failure(item, error, started)
        except LeaseLost:
            event("lease_lost", logging.WARNING, **_names(item))
        except StoreUnavailable as error:  # the lease will lapse, and the same bytes go out under the same key
            event("not_recorded", logging.ERROR, **_names(item), reason=error)
        except Exception as error:
            event("delivery_broken", logging.ERROR, **_names(item), error=where(error))

    def check(self) -> None:
        """Asks Zendesk whether it takes our credentials, and moves the gate by the answer. Raises StoreUnavailable."""
        gate, held_s = self._inbox.gate()
        if held_s and gate.state == LIMITED:
            return
        try:
            self._zendesk.find_tickets(CHECK_ID)
        except Rejected as error:
            event("zendesk_check_refused", logging.WARNING, **_answer(error))
        except ServiceError as error:
            state, reason = _state(error), str(error)
            wait_s = error.retry_after_s
            _tell(*self._inbox.move_gate(lambda g, now: g.after_failure(now, gate.version, state, reason, wait_s)))
        else:
            event("zendesk_connected", auth="api_token" if self._zendesk.uses_api_token else "oauth")
            _tell(*self._inbox.move_gate(lambda g, now: self._counted(g, now).after_success(now, gate.version)))

    # From an item to Zendesk

    def _compose(self, item: Item) -> Request:
        post, again = _post(item), ("retry", item.attempts) if item.attempts > 1 else ()
        if item.post_ticket_id is None:
            return Request(ticket_body(post, self._style), _key(item, *again))
        return Request(note_body(post, self._style), _key(item, "note", item.post_ticket_id), item.post_ticket_id)

    def _send(self, item: Item) -> Sent:
        request = _frozen(item)
        if request.note_on is not None:
            return self._note(item, request.note_on)
        if self._outcome_unknown(item) and (tickets := self._zendesk.find_tickets(item.entity_id)):
            for ticket in tickets:
                if not ticket.description or item.event_uuid in ticket.description:
                    return Sent("ticket_found", ticket.id)
            return self._note_instead(item, tickets[0].id)
        return self._create(item, "ticket_created")

    def _outcome_unknown(self, item: Item) -> bool:
        """Whether a ticket may exist that the idempotency key no longer protects, or never did."""
        forgotten = item.sent_s_ago is not None and not 0 <= item.sent_s_ago <= KEY_LIFE_S
        return item.source == "poll" or forgotten or self._overtaken(item)

    def _overtaken(self, item: Item) -> bool:
        """Whether another item of the post got a ticket after this one's words were frozen. A follow-up knows of it."""
        newest = item.post_ticket_id
        return newest is not None and f"-instead-{newest}-" not in _frozen(item).idempotency_key

    def _create(self, item: Item, how: str) -> Sent:
        request = _frozen(item)
        try:
            return Sent(how, self._zendesk.create_ticket(request.body, request.idempotency_key).id)
        except Rejected as error:
            if (error.code or "").startswith("IdempotentRequestError"):
                if tickets := self._zendesk.find_tickets(item.entity_id):
                    return Sent("ticket_found", tickets[0].id)
            raise

    def _note(self, item: Item, ticket_id: int) -> Sent:
        if (item.attempts > 1 or item.source == "poll") and self._noted(item, ticket_id):
            return Sent("note_found", ticket_id)
        try:
            self._zendesk.add_note(ticket_id, _frozen(item).body)
        except Rejected as refusal:
            return self._instead_of_note(item, ticket_id, refusal)
        return Sent("note_added", ticket_id)

    def _noted(self, item: Item, ticket_id: int) -> bool:
        try:
            return self._zendesk.has_note(ticket_id, item.event_uuid)
        except Rejected:
            return False

    def _note_instead(self, item: Item, ticket_id: int) -> Sent:
        note = Request(note_body(_post(item), self._style), _key(item, "note", ticket_id), ticket_id)
        return self._note(self._refrozen(item, note), ticket_id)

    def _instead_of_note(self, item: Item, ticket_id: int, refusal: Rejected) -> Sent:
        """A closed ticket takes no note and gets a follow-up; for one that was deleted a new ticket is made. When
        another item of the post has had that done already, the note goes there, or that one is followed up."""
        tickets = self._zendesk.find_tickets(item.entity_id)
        status = {ticket.id: ticket.status for ticket in tickets}.get(ticket_id, "deleted")
        if not status and "status" in (refusal.code or ""):
            status = "closed"  # the list does not say, but the status is what the note was refused for
        if status not in ("closed", "deleted"):
            raise refusal
        if tickets and tickets[0].id > ticket_id:
            ticket_id, status = tickets[0].id, tickets[0].status
        if status not in ("closed", "deleted"):
            return self._note_instead(item, ticket_id)
        follows = ticket_id if status == "closed" else None
        body = ticket_body(_post(item), self._style, follow_up_of=follows)
        item = self._refrozen(item, Request(body, _key(item, "instead", ticket_id, item.attempts)))
        return self._create(item, "follow_up_created" if follows else "ticket_created")

    def _refrozen(self, item: Item, request: Request) -> Item:
        renewed = self._inbox.refreeze(item, request, LEASE_S)
        if renewed is None:
            raise LeaseLost
        return renewed

    # What became of it

    def _record_success(self, item: Item, sent: Sent, started: float) -> None:
        took_s, answered = time.monotonic() - started, self._zendesk.answered
        settled = self._inbox.settle(
            item,
            {"state": DELIVERED, "ticket_id": sent.ticket_id, "reason": None},
            lambda gate, now: self._counted(gate, now).after_success(now, item.gate_version),
            Attempt(sent.how, took_s, answered.status, None, answered.request_id),
        )
        self._inbox.observe(LABEL_TO_TICKET, item.age_s + took_s)
        event(sent.how, ticket=sent.ticket_id, **_names(item), attempts=item.attempts, took_ms=round(took_s * 1000))
        self._report(item, settled)

    def _record_refusal(self, item: Item, error: Rejected, started: float) -> None:
        settled = self._inbox.settle(
            item,
            {"state": PARKED, "reason": str(error)[:500]},
            lambda gate, now: self._counted(gate, now).after_success(now, item.gate_version),
            _failed(REFUSED, error, started),
        )
        event("parked", logging.ERROR, **_names(item), **_answer(error))
        self._report(item, settled)

    def _record_failure(self, item: Item, error: ServiceError, started: float) -> None:
        state = _state(error)

        def change(gate: Gate, now: float) -> Gate:
            gate = self._counted(gate, now)
            if item.attempts > PATIENCE and gate.state == OPEN:
                return gate
            return gate.after_failure(now, item.gate_version, state, str(error), error.retry_after_s)

        delay_s = 0.0 if item.attempts <= PATIENCE else min(2.0 ** (item.attempts - PATIENCE), 60.0)
        values = {"state": PENDING, "reason": str(error)[:500], "delay_s": delay_s}
        settled = self._inbox.settle(item, values, change, _failed(state, error, started))
        event("not_delivered", logging.WARNING, **_names(item), attempts=item.attempts, **_answer(error))
        self._report(item, settled)

    def _report(self, item: Item, settled: Settled) -> None:
        if not settled.ours:
            event("lease_lost", logging.WARNING, **_names(item))
        self._more = self._more or settled.follower
        _tell(settled.before, settled.after)

    def _counted(self, gate: Gate, now: float) -> Gate:
        rate = self._zendesk.rate
        return gate.counted(now, rate.remaining, rate.reset_s) if rate else gate

    # The threads

    def wake(self, committed: int = 1) -> None:
        """So many notifications were just committed: look at once, unless the gate is known to be closed."""
        now = time.monotonic()
        if now - self._counting_since > CROWD_S:
            self._counting_since, self._arrived = now, 0
        self._arrived += committed
        if self._arrived >= CROWD:
            self._crowd_at = now
        if not self._held:
            self._wake.set()

    @property
    def crowded(self) -> bool:
        """Whether more comes in just now than can be delivered meanwhile: to take it in goes first."""
        return time.monotonic() - self._crowd_at < CROWD_S

    def start(self) -> None:
        """Starts delivering in the background."""
        for number in range(self._parallel):
            threading.Thread(target=self._work, name=f"delivery-{number}", daemon=True).start()
        self._loop.start()

    def stop_claiming(self) -> None:
        """Takes nothing more. Safe in a signal handler."""
        self._stopping = True

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, and waits up to `timeout_s` seconds for what is in flight."""
        self.stop_claiming()
        self._wake.set()
        if self._loop.is_alive():
            self._loop.join(timeout_s)
        if self._flying:
            event("stopped_in_flight", logging.WARNING, items=len(self._flying))

    def _run(self) -> None:
        renewed_at = time.monotonic()
        self._guarded(self.check)
        while not self._stopping or self._flying:
            if self.crowded:
                time.sleep(BREATH_S)
            held_s = None if self._stopping else self._guarded(lambda: self.deliver_due(self._hand_over))
            if (flying := list(self._flying)) and time.monotonic() - renewed_at > RENEW_S:
                self._guarded(lambda ids=flying: self._inbox.renew(ids, LEASE_S))  # type: ignore[misc]  # mypy: no default
                renewed_at = time.monotonic()
            self._held = bool(held_s)
            self._wake.wait(min(held_s or IDLE_S, IDLE_S))
            self._wake.clear()

    def _guarded(self, step: Callable[[], Any]) -> Any:
        """Does a step of the loop; whatever happens, the loop goes on."""
        try:
            result = step()
            if not self._store_works:
                event("store_recovered")
            self._store_works = True
            return result
        except StoreUnavailable as error:
            if self._store_works:
                event("store_unavailable", logging.ERROR, reason=error)
            self._store_works = False
        except Exception as error:
            event("delivery_broken", logging.ERROR, error=where(error))
        return IDLE_S

    def _hand_over(self, item: Item) -> None:
        self._flying.add(item.id)
        self._queue.put(item)

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            self.deliver(item)
            self._flying.discard(item.id)
            if self._more or self._stopping:
                self._wake.set()


def _post(item: Item) -> Post:
    labels = tuple(str(label) for label in item.payload.get("labels", ()))
    return Post(StreamItem.parse(item.payload["item"]), item.event_uuid, labels)


def _frozen(item: Item) -> Request:
    if item.request is None:
        raise LeaseLost
    return item.request


def _key(item: Item, *more: object) -> str:
    """The same event and post always give the same key, even after the database was lost."""
    digest = hashlib.sha256(f"{item.event_uuid}\n{item.entity_id}".encode()).hexdigest()[:40]
    return "-".join([digest, *map(str, more)])


def _state(error: ServiceError) -> str:
    if isinstance(error, AuthFailed):
        return UNAUTHORISED
    return LIMITED if isinstance(error, Limited) else OUTAGE


def _failed(outcome: str, error: ServiceError, started: float) -> Attempt:
    return Attempt(outcome, time.monotonic() - started, error.status, error.code, error.request_id)


def _names(item: Item) -> dict[str, object]:
    return {"post": item.entity_id, "event_uuid": item.event_uuid, "request_id": item.request_id}


def _answer(error: ServiceError) -> dict[str, object]:
    return {"status": error.status, "reason": error, "zendesk_request_id": error.request_id}


def _tell(before: Gate, after: Gate) -> None:
    """One line for each change of the gate's state."""
    if before.state == after.state:
        return
    if after.state == OPEN:
        event("recovered", was=before.state)
    elif after.state == LIMITED:
        event("limited", reason=after.reason)
    else:
        level = logging.ERROR if after.state == UNAUTHORISED else logging.WARNING
        event(after.state, level, reason=after.reason)
