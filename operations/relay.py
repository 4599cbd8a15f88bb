"""The parts of one process. app.py puts them together; commands and pages use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from flask import current_app

import log
from background import Loop
from config import Config
from destinations.delivery import Delivery
from destinations.destination import Destination
from destinations.routes import Routes
from destinations.ticket_states import TicketStates
from inbox.database import DatabaseUnavailable
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Record, Records
from inbox.unrouted import Unrouted
from khoros.receive import Receiver
from khoros.subscriptions import Subscriptions
from khoros_client import KhorosClient
from operations.health import Health
from operations.metrics import Metrics
from operations.retention import Retention

STOP_S = 18.0  # for deliveries under way: a connect and a read time-out; gunicorn.conf.py waits 20
PAUSE_S = 10.0  # after a longer one a process may have been frozen meanwhile
TICKING, TICK_EVERY_S = "ticking", 60.0
WRITE_EVERY_S = 2.0  # asking for the health often does not wear the disk
SQLITE_ON_HEROKU = "Heroku wipes the disk at each restart: heroku addons:create heroku-postgresql:essential-0"


def current_relay() -> Relay:
    """The relay of the request or the command that runs now. Raises ConfigError when the settings are faulty."""
    if closed := current_app.extensions.get("closed"):
        raise closed
    relay: Relay = current_app.extensions["relay"]
    return relay


@dataclass
class Relay:
    """One process' parts. `deliveries` are named after their destinations; `look` reads the health."""

    config: Config
    inbox: Inbox
    facts: Facts
    records: Records
    receiver: Receiver
    khoros: KhorosClient
    routes: Routes
    subscriptions: Subscriptions
    unrouted: Unrouted
    deliveries: Mapping[str, Delivery]
    retention: Retention
    look: Callable[[], Health]
    ticket_states: TicketStates | None = None
    metrics: Metrics | None = None
    secrets: Sequence[str] = ()  # what no log may show
    clock: Callable[[], float] = time.monotonic
    writable_at: float = 0.0
    stopping: bool = False
    used_at: float = 0.0  # by the clock of the wall: the other one may stand still while a process is frozen

    @property
    def destinations(self) -> list[Destination]:
        return [delivery.destination for delivery in self.deliveries.values()]

    @property
    def loops(self) -> list[Loop]:
        """What runs in the background beside the deliveries."""
        also = [self.ticket_states.loop] if self.ticket_states else []
        return [self.subscriptions.loop, self.retention.loop, *also]

    @property
    def loses_data(self) -> bool:
        """Whether the database is on a disk that Heroku wipes."""
        return self.config.on_dyno and self.config.database_url.startswith("sqlite")

    def noun(self, record: Record | None = None) -> str:
        """What a delivered item is called at its destination: ticket. Without `record` at the only destination."""
        found = [one for one in self.destinations if record is None or one.name == record.destination]
        return found[0].noun if len(found) == 1 else "reference"

    def link(self, record: Record) -> str | None:
        """Where people see what the item became."""
        delivery = self.deliveries.get(record.destination)
        return delivery.destination.link(record.reference) if delivery and record.reference else None

    def pending(self) -> int:
        """How many items wait for the destinations of ROUTES. Raises DatabaseUnavailable."""
        waiting = self.records.waiting()
        return sum(waiting[name].pending for name in self.deliveries if name in waiting)

    def start(self) -> None:
        """Starts the background work, and only then lets notifications in. Call it after the fork and the bind."""
        for destination in self.destinations:
            if destination.notice:
                log.warning("destination_notice", destination=destination.name, reason=destination.notice)
        if self.loses_data:
            log.error("sqlite_on_heroku", reason=SQLITE_ON_HEROKU)
        for delivery in self.deliveries.values():
            delivery.start()
        for loop in self.loops:
            loop.start()
        self.receiver.open = True

    def stop_claiming(self) -> None:
        """Makes the deliveries claim nothing more. Safe in a signal handler."""
        self.stopping = True
        for delivery in self.deliveries.values():
            delivery.stop_claiming()

    def stop(self) -> None:
        """Finishes the deliveries under way, within STOP_S seconds, and closes the database."""
        self.stop_claiming()
        for loop in self.loops:
            loop.stop()
        ends_at = self.clock() + STOP_S
        for delivery in self.deliveries.values():
            delivery.stop(max(0.0, ends_at - self.clock()))
        self.receiver.open = False
        self.inbox.close()

    # Where no background work can run, because the process is frozen between its calls

    def resume(self) -> None:
        """Begins a call. After a pause no database connection of before it is used: it may be dead."""
        if not 0 <= time.time() - self.used_at < PAUSE_S:
            self.inbox.reconnect()
        self.used_at = time.time()

    def tick(self, for_s: float, *, deliver_only: bool = False) -> None:
        """Does once what otherwise goes on in the background, in threads that end with it, and claims nothing more
        after `for_s` seconds. Raises DatabaseUnavailable."""
        ends_at = time.monotonic() + for_s
        deliveries = [partial(delivery.drain, ends_at) for delivery in self.deliveries.values()]
        run_together(deliveries + ([] if deliver_only else [partial(loop.run_due, ends_at) for loop in self.loops]))
        try:
            self.facts.end_turn(TICKING)
        except DatabaseUnavailable as error:  # the turn ends by itself
            log.warning("turn_not_ended", turn=TICKING, reason=error)
        run_together(deliveries)  # what was fetched, or committed while a tick was under way

    def needs_tick(self) -> bool:
        """Whether a tick must be asked for to deliver what was just committed; if not, one is on its way that will.
        Raises DatabaseUnavailable."""
        return self.facts.take_turn(TICKING, TICK_EVERY_S)

    def health(self) -> Health | None:
        """How the service is doing; its `fault` says why nothing can be stored, which a small commit tries. None when
        nothing can even be read."""
        fault = ""
        try:
            if self.clock() - self.writable_at > WRITE_EVERY_S:
                self.inbox.check_writable()
                self.writable_at = self.clock()
        except DatabaseUnavailable as error:
            fault = str(error)
        try:
            health = self.look()
        except DatabaseUnavailable as error:
            log.error("database_unavailable", reason=error)
            return None
        if fault:
            log.error("database_unavailable", reason=fault)
        return replace(health, fault=fault, loses_data=self.loses_data)


def run_together(steps: Sequence[Callable[[], object]]) -> None:
    """Runs them at once, each in a thread, and waits for all."""
    with ThreadPoolExecutor(len(steps)) as threads:
        for step in [threads.submit(step) for step in steps]:
            step.result()
