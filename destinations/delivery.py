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
from destinations.attempt import Call, attempt, broken, failure, names
from destinations.destination import Destination, LeaseLost
from inbox.database import DatabaseUnavailable
from inbox.gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED, Gate
from inbox.inbox import CANNOT_COMPOSE, Inbox
from inbox.items import REFUSED, Draft, Item, Outcome, Settled
from inbox.schema import PARKED
from outbound import ServiceError

LEASE_S = 10.0
RENEW_S = 3.0  # while a call is under way its lease is renewed this often, so that no call outlives it
CHECK_S = 20.0  # the other processes wait this long for a check that hangs
IDLE_S = 1.0
PATIENCE_S = 5.0  # `drain` waits for what may leave so soon: where one message may leave each second

Answered = tuple[Call, Outcome | None]


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
        self._unrecorded, self._resumes_at = 0, 0.0  # calls in a row, and the end of the pause after them
        self._under_way: set[int] = set()  # ids of items
        self._calls = 0  # under way
        self._claimed: SimpleQueue[Call] = SimpleQueue()
        self._answered: SimpleQueue[Answered] = SimpleQueue()
        self._loop: threading.Thread | None = None  # made after the fork

    # One pass

    def deliver_due(self, hand_over: Callable[[Call], object] | None = None) -> float | None:
        """Claims what is due and gives each call to `hand_over`, or makes it here and now.

        Returns None when something was due, otherwise the seconds until something may leave. Raises
        DatabaseUnavailable.
        """
        free, pause_s = self.destination.parallel - self._calls, self._resumes_at - time.monotonic()
        if not free or pause_s > 0:
            return pause_s if free else None
        destination, digest = self.destination, self.destination.digest
        claim = self._inbox.claim(
            destination.name,
            free,
            LEASE_S,
            destination.compose,
            self._under_way,
            destination.pace_s,
            digest.above if digest else None,
        )
        for item in claim.items:
            if item.draft is None:
                log.error("parked", **names(item), reason=CANNOT_COMPOSE)
        items = [item for item in claim.items if item.draft]
        for call in [items] if claim.together and items else [[item] for item in items]:
            (hand_over or self.deliver)(call)
        if not claim.items and claim.gate.state != OPEN and not claim.held_s and not self._under_way:
            self.check()
        return None if claim.items else claim.held_s

    def deliver(self, call: Call) -> None:
        """Makes one attempt at claimed items and records it. Raises nothing: what fails is logged and tried again."""
        self.record([(call, self._attempt(call))])

    def _attempt(self, call: Call) -> Outcome | None:
        """Makes one call. None when there is nothing to record: the lease was lost, or the database is down."""
        try:
            return attempt(self.destination, call, self._refreeze)
        except LeaseLost:
            log.warning("lease_lost", **names(call[0]))
        except DatabaseUnavailable as error:
            log.error("not_recorded", **names(call[0]), reason=error)
        return None

    def record(self, answered: Sequence[Answered]) -> None:
        """Records attempts in one commit, and writes a line about each. What cannot be recorded is sent again when its
        lease is over: the same bytes under the same key. When that is our own fault, nothing is claimed for a moment,
        longer each time: it would be sent again and again."""
        attempts = [(item, outcome) for call, outcome in answered if outcome for item in call]
        if not attempts:
            return
        try:
            settled = self._inbox.settle(attempts, self.destination.pace_s)
        except DatabaseUnavailable as error:
            for item, _ in attempts:
                log.error("not_recorded", **names(item), reason=error)
        except Exception as error:
            log.error("delivery_broken", destination=self.destination.name, error=log.where(error))
            for one in answered if len(answered) > 1 else ():  # what is wrong with one costs no other its record
                self.record([one])
            if len(answered) == 1:
                self._unrecorded += 1
                self._resumes_at = time.monotonic() + min(self._unrecorded, LEASE_S)
        else:
            self._unrecorded, self._resumes_at = 0, 0.0
            for (item, outcome), its in zip(attempts, settled, strict=True):
                self._report(item, outcome, its)

    def check(self, *, despite_hold: bool = False) -> None:
        """Asks the destination whether it takes our credentials, and moves the gate by the answer; `despite_hold` also
        while the gate is on hold. Raises DatabaseUnavailable."""
        gate = self._inbox.begin_check(self.destination.name, CHECK_S, despite_hold=despite_hold)
        if gate is None:
            return
        started, name = time.monotonic(), self.destination.name
        try:
            found = self.destination.check()
        except ServiceError as error:
            outcome = failure(error, time.monotonic() - started)
            if outcome.how in (REFUSED, LIMITED):
                log.warning("check_refused", destination=name, **self._answer(outcome))
                closed_by = outcome.how == REFUSED and gate.state != OPEN
                outcome = replace(outcome, how=UNAUTHORISED) if closed_by else outcome
        except Exception as error:
            log.error("check_broken", destination=name, error=log.where(error))
            outcome = replace(broken(error, time.monotonic() - started), item_only=False)
        else:
            outcome = Outcome("checked", time.monotonic() - started)
            log.info("connected", destination=name, found=found)
        self._log_gate(*self._inbox.end_check(name, gate, outcome, despite_hold=despite_hold))

    def _refreeze(self, item: Item, draft: Draft) -> Item:
        renewed = self._inbox.refreeze(item, draft, LEASE_S)
        if renewed is None:
            raise LeaseLost
        return renewed

    # The log

    def _report(self, item: Item, outcome: Outcome, settled: Settled) -> None:
        """One line about the attempt, and one when the gate has changed."""
        if outcome.is_delivered:
            made = {self.destination.noun: outcome.reference, **names(item)}
            log.info(outcome.how, **made, attempts=item.attempts, took_ms=round(outcome.took_s * 1000))
        elif settled.state == PARKED:
            log.error("parked", **names(item), **{**self._answer(outcome), "reason": settled.reason})
        else:
            log.warning("not_delivered", **names(item), attempts=item.attempts, **self._answer(outcome))
        if not settled.ours:
            log.warning("lease_lost", **names(item))
        self._log_gate(settled.before, settled.after, settled.put_back)
        if self._on_outcome:
            try:
                self._on_outcome(item, outcome)
            except Exception as error:
                log.error("delivery_broken", **names(item), error=log.where(error))

    def _log_gate(self, before: Gate, after: Gate, put_back: int = 0) -> None:
        if before.state == after.state:
            return
        name = self.destination.name
        if after.state == OPEN:
            log.info("recovered", destination=name, was=before.state)
        else:
            level = {LIMITED: logging.INFO, OUTAGE: logging.WARNING}.get(after.state, logging.ERROR)
            log.write(level, after.state, destination=name, reason=after.reason, put_back=put_back or None)

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        return {"status": outcome.status, "reason": outcome.reason, f"{self._kind}_request_id": outcome.request_id}

    # The threads

    def wake(self) -> None:
        """Something was just committed: look at once, unless the gate is known to be closed or every place is taken.
        Then the next answer wakes the loop."""
        if not self._on_hold and self._calls < self.destination.parallel:
            self._wake.set()

    def start(self) -> None:
        """Starts delivering in the background."""
        self._start_workers()
        self._loop = threading.Thread(target=self._run, name=f"delivery-{self._kind}", daemon=True)
        self._loop.start()

    def drain(self, ends_at: float) -> None:
        """Delivers what is due, in threads that end with it. Returns when nothing may leave soon; after `ends_at`, by
        time.monotonic, it claims nothing more."""
        self._stopping, workers = False, self._start_workers()
        while True:
            if time.monotonic() > ends_at:
                self.stop_claiming()
            held_s = self._guarded(self._pass)
            waits = held_s is not None and not 0 < held_s <= PATIENCE_S
            if not self._under_way and (waits or self._stopping or not self._database_works):
                break
            self._wake.wait(min(held_s or self._idle_s, self._idle_s))
            self._wake.clear()
        for _ in workers:
            self._claimed.put([])
        for worker in workers:
            worker.join()

    def stop_claiming(self) -> None:
        """Takes nothing more. Safe in a signal handler."""
        self._stopping = True

    def stop(self, timeout_s: float) -> None:
        """Takes nothing more, and waits up to `timeout_s` seconds for what is under way."""
        self.stop_claiming()
        self._wake.set()
        if self._loop:
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
        self.record(answered)
        self._calls -= len(answered)
        self._under_way.difference_update(item.id for call, _ in answered for item in call)
        if self._under_way and time.monotonic() - self._renewed_at > self._renew_s:
            self._inbox.renew(self._under_way, LEASE_S)
            self._renewed_at = time.monotonic()
        return None if self._stopping else self.deliver_due(self._hand_over)

    def _guarded(self, step: Callable[[], float | None]) -> float | None:
        """Makes a step of the loop; whatever happens, the loop goes on."""
        try:
            result = step()
            if not self._database_works:
                log.info("database_recovered", destination=self.destination.name)
            self._database_works = True
            return result
        except DatabaseUnavailable as error:
            if self._database_works:
                log.error("database_unavailable", destination=self.destination.name, reason=error)
            self._database_works = False
        except Exception as error:
            log.error("delivery_broken", destination=self.destination.name, error=log.where(error))
        return self._idle_s

    def _hand_over(self, call: Call) -> None:
        if not self._under_way:
            self._renewed_at = time.monotonic()
        self._calls += 1
        self._under_way.update(item.id for item in call)
        self._claimed.put(call)

    def _start_workers(self) -> list[threading.Thread]:
        called = [f"delivery-{self._kind}-{number}" for number in range(self.destination.parallel)]
        workers = [threading.Thread(target=self._work, name=name, daemon=True) for name in called]
        for worker in workers:
            worker.start()
        return workers

    def _work(self) -> None:
        while call := self._claimed.get():
            self._answered.put((call, self._attempt(call)))
            self._wake.set()
