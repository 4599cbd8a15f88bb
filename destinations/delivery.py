"""The way out: claims what is due for a destination, sends it, and records what came of it, in threads of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import log
from destinations.destination import Destination, LeaseLost, Sent
from inbox.database import DatabaseUnavailable
from inbox.gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED, Gate
from inbox.inbox import CANNOT_COMPOSE, Inbox
from inbox.items import REFUSED, Draft, Item, Outcome, Settled
from outbound import AuthFailed, Limited, Rejected, ServiceError

LEASE_S = 10.0
RENEW_S = 3.0  # while a call is under way its lease is renewed this often, so that no call outlives it
CHECK_S = 20.0  # the other processes wait this long for a check that hangs: a connect and a read time-out
IDLE_S = 1.0


class Delivery:
    """The loop of one destination. `wake()` after a commit makes a delivery immediate."""

    def __init__(
        self,
        inbox: Inbox,
        destination: Destination,
        *,
        on_outcome: Callable[[Item, Outcome], object] | None = None,
        renew_s: float = RENEW_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self.destination = destination
        self._inbox, self._on_outcome, self._renew_s, self._idle_s = inbox, on_outcome, renew_s, idle_s
        self._kind = destination.name.partition(":")[0]
        self._wake = threading.Event()
        self._stopping = False
        self._on_hold = False
        self._database_works = True
        self._renewed_at = time.monotonic()
        self._under_way: set[int] = set()  # ids of items
        self._claimed: SimpleQueue[Item] = SimpleQueue()
        self._answered: SimpleQueue[tuple[Item, Outcome | None]] = SimpleQueue()
        self._loop = threading.Thread(target=self._run, name=f"delivery-{self._kind}", daemon=True)

    # One pass

    def deliver_due(self, hand_over: Callable[[Item], object] | None = None) -> float | None:
        """Claims what is due and hands each item to `hand_over`, or delivers it here and now.

        Returns None when something was due, otherwise the seconds the gate stays closed. Raises DatabaseUnavailable.
        """
        free = self.destination.parallel - len(self._under_way)
        if not free:
            return None
        compose, under_way = self.destination.compose, self._under_way
        claim = self._inbox.claim(self.destination.name, free, LEASE_S, compose, under_way)
        for item in claim.items:
            if item.draft is None:
                log.error("parked", **_names(item), reason=CANNOT_COMPOSE)
            else:
                (hand_over or self.deliver)(item)
        if not claim.items and claim.gate.state != OPEN and not claim.held_s and not self._under_way:
            self.check()
        return None if claim.items else claim.held_s

    def deliver(self, item: Item) -> None:
        """Makes one attempt at a claimed item and records it. Raises nothing: what fails is logged and tried again."""
        self._settle([(item, self._attempt(item))])

    def _attempt(self, item: Item) -> Outcome | None:
        """Sends the item once. None when there is nothing to record: the lease was lost, or the fault is our own."""
        started = time.monotonic()
        try:
            sent = self.destination.send(item, lambda draft: self._refreeze(item, draft))
            return _success(sent, time.monotonic() - started)
        except ServiceError as error:
            return _failure(error, time.monotonic() - started)
        except LeaseLost:
            log.warning("lease_lost", **_names(item))
        except DatabaseUnavailable as error:
            log.error("not_recorded", **_names(item), reason=error)
        except Exception as error:
            log.error("delivery_broken", **_names(item), error=log.where(error))
        return None

    def _settle(self, attempts: Sequence[tuple[Item, Outcome | None]]) -> None:
        """Records attempts in one commit, and writes a line about each. What cannot be recorded is sent again when its
        lease is over: the same bytes under the same key."""
        answered = [(item, outcome) for item, outcome in attempts if outcome]
        if not answered:
            return
        try:
            for (item, outcome), settled in zip(answered, self._inbox.settle(answered), strict=True):
                self._report(item, outcome, settled)
        except DatabaseUnavailable as error:
            for item, _ in answered:
                log.error("not_recorded", **_names(item), reason=error)
        except Exception as error:
            log.error("delivery_broken", destination=self.destination.name, error=log.where(error))

    def check(self, *, despite_hold: bool = False) -> None:
        """Asks the destination whether it takes our credentials, and moves the gate by the answer; `despite_hold` also
        while the gate is on hold. Raises DatabaseUnavailable."""
        gate = self._inbox.begin_check(self.destination.name, CHECK_S, despite_hold=despite_hold)
        if gate is None:
            return
        started = time.monotonic()
        try:
            found = self.destination.check()
        except ServiceError as error:
            outcome = _failure(error, time.monotonic() - started)
            if outcome.how == REFUSED:
                log.warning("check_refused", destination=self.destination.name, **self._answer(outcome))
        else:
            outcome = Outcome("checked", time.monotonic() - started)
            log.info("connected", destination=self.destination.name, found=found)
        self._log_gate(*self._inbox.end_check(self.destination.name, gate, outcome))

    def _refreeze(self, item: Item, draft: Draft) -> Item:
        renewed = self._inbox.refreeze(item, draft, LEASE_S)
        if renewed is None:
            raise LeaseLost
        return renewed

    # The log

    def _report(self, item: Item, outcome: Outcome, settled: Settled) -> None:
        """One line about the attempt, and one when the gate has changed."""
        if outcome.how == REFUSED:
            log.error("parked", **_names(item), **self._answer(outcome))
        elif outcome.is_trouble:
            log.warning("not_delivered", **_names(item), attempts=item.attempts, **self._answer(outcome))
        else:
            made = {self.destination.noun: outcome.reference, **_names(item)}
            log.info(outcome.how, **made, attempts=item.attempts, took_ms=round(outcome.took_s * 1000))
        if not settled.ours:
            log.warning("lease_lost", **_names(item))
        if self._on_outcome:
            self._on_outcome(item, outcome)
        self._log_gate(settled.before, settled.after)

    def _log_gate(self, before: Gate, after: Gate) -> None:
        if before.state == after.state:
            return
        if after.state == OPEN:
            log.info("recovered", destination=self.destination.name, was=before.state)
        else:
            levels = {LIMITED: logging.INFO, OUTAGE: logging.WARNING, UNAUTHORISED: logging.ERROR}
            log.write(levels[after.state], after.state, destination=self.destination.name, reason=after.reason)

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        return {"status": outcome.status, "reason": outcome.reason, f"{self._kind}_request_id": outcome.request_id}

    # The threads

    def wake(self) -> None:
        """Something was just committed: look at once, unless the gate is known to be closed or every place is taken.
        Then the next answer wakes the loop."""
        if not self._on_hold and len(self._under_way) < self.destination.parallel:
            self._wake.set()

    def start(self) -> None:
        """Starts delivering in the background."""
        for number in range(self.destination.parallel):
            threading.Thread(target=self._work, name=f"delivery-{self._kind}-{number}", daemon=True).start()
        self._loop.start()

    def stop_claiming(self) -> None:
        """Takes nothing more. Safe in a signal handler."""
        self._stopping = True

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, and waits up to `timeout_s` seconds for what is under way."""
        self.stop_claiming()
        self._wake.set()
        if self._loop.is_alive():
            self._loop.join(timeout_s)
        if self._under_way:
            log.warning("stopped_in_flight", destination=self.destination.name, items=len(self._under_way))

    def _run(self) -> None:
        self._guarded(lambda: self.check(despite_hold=True))
        while True:
            held_s = self._guarded(self._pass)
            if self._stopping and not self._under_way:
                return
            self._on_hold = bool(held_s)
            self._wake.wait(min(held_s or self._idle_s, self._idle_s))
            self._wake.clear()

    def _pass(self) -> float | None:
        """Records what has come back, renews the other leases, and only then claims: after a stall the leases are
        over, and a claim would take the same items again."""
        answered = [self._answered.get() for _ in range(self._answered.qsize())]
        self._settle(answered)
        self._under_way.difference_update(item.id for item, _ in answered)
        if self._under_way and time.monotonic() - self._renewed_at > self._renew_s:
            self._inbox.renew(self._under_way, LEASE_S)
            self._renewed_at = time.monotonic()
        return None if self._stopping else self.deliver_due(self._hand_over)

    def _guarded(self, step: Callable[[], float | None]) -> float | None:
        """Makes a step of the loop; whatever happens, the loop goes on."""
        try:
            result = step()
            if not self._database_works:
                log.info("database_recovered")
            self._database_works = True
            return result
        except DatabaseUnavailable as error:
            if self._database_works:
                log.error("database_unavailable", reason=error)
            self._database_works = False
        except Exception as error:
            log.error("delivery_broken", error=log.where(error))
        return self._idle_s

    def _hand_over(self, item: Item) -> None:
        if not self._under_way:
            self._renewed_at = time.monotonic()
        self._under_way.add(item.id)
        self._claimed.put(item)

    def _work(self) -> None:
        while True:
            item = self._claimed.get()
            self._answered.put((item, self._attempt(item)))
            self._wake.set()


def _success(sent: Sent, took_s: float) -> Outcome:
    outcome = Outcome(sent.how, took_s, sent.reference, status=sent.status, request_id=sent.request_id)
    return replace(outcome, **vars(sent.quota)) if sent.quota else outcome


def _failure(error: ServiceError, took_s: float) -> Outcome:
    how = OUTAGE
    for kind, word in ((Rejected, REFUSED), (AuthFailed, UNAUTHORISED), (Limited, LIMITED)):
        if isinstance(error, kind):
            how = word
    outcome = Outcome(how, took_s, reason=str(error)[:500], status=error.status, code=error.code)
    outcome = replace(outcome, request_id=error.request_id, retry_after_s=error.retry_after_s)
    return replace(outcome, **vars(error.quota)) if error.quota else outcome


def _names(item: Item) -> dict[str, object]:
    return {"post": item.subject_id, "event_uuid": item.event_uuid, "request_id": item.request_id}
