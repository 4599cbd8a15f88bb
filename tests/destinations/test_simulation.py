"""Thousands of made-up histories of two workers on one inbox, with everything that can go wrong between two effects.

The inbox and the delivery are the real ones, and every event goes to three destinations with troubles of their own; the
clock, the services and the order of things are Hypothesis' to choose.
`make chaos` runs 10,000 histories on SQLite and a tenth as many on PostgreSQL; here the same few run every time.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import Clock, new_item
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from scripted import (
    REFUSALS,
    Account,
    Answer,
    Call,
    Channel,
    Crash,
    Receiver,
    ScriptedSlack,
    ScriptedWebhook,
    ScriptedZendesk,
    Task,
    pause,
)

from destinations.attempt import Call as Items
from destinations.delivery import LEASE_S, Delivery
from destinations.zendesk import ZendeskDestination
from destinations.zendesk_words import Style
from inbox.database import Database, Place, Session, Values
from inbox.gate import OPEN
from inbox.inbox import Inbox
from inbox.items import Claim, Draft, Item, Outcome, Settled
from inbox.postgresql import Postgresql
from inbox.schema import DELIVERED, PARKED, PENDING
from inbox.sqlite import Sqlite

HISTORIES = int(os.environ.get("HISTORIES", "0"))  # 0: the few that are the same every time
SHRINK = os.environ.get("SHRINK") != "0"  # whether the shortest history that fails is looked for
LONGEST_CALL_S = 60.0  # no call is on its way for longer
POSTS = ("twitter:1", "twitter:1", "twitter:2")  # most events are about one post: there the difficulties are
WORKERS = (0, 1)
ZENDESK, SLACK, WEBHOOK = ZendeskDestination.name, ScriptedSlack.name, ScriptedWebhook.name
DESTINATIONS = (ZENDESK, SLACK, WEBHOOK)
SOME = st.sampled_from((ZENDESK, ZENDESK, SLACK, SLACK, WEBHOOK))  # destinations
ANSWERS = st.sampled_from([*Answer, Answer.DONE, Answer.DONE, Answer.REFUSED, Answer.LOST])
CRASH_INSIDE = "die in the transaction"
COLUMNS = ("id", "destination", "event_uuid", "subject_id", "state", "reason", "owner", "attempts", "received_at",
           "first_sent_at", "next_attempt_at", "settled_at", "kind", "body", "key", "target", "reference")  # fmt: skip


class Paused(str):
    """A place between two effects of the relay."""


class CrashingSession(Session):
    """Dies at the first statement that begins with `dies_at`."""

    dies_at: str | None = None

    def change(self, sql: str, values: Values | Place | None = None) -> int:
        if self.dies_at is not None and sql.startswith(self.dies_at):
            raise Crash
        return super().change(sql, values)


class CrashingSqlite(Sqlite):
    session_class = CrashingSession


class CrashingPostgresql(Postgresql):
    session_class = CrashingSession


class CrashingInbox(Inbox):
    """The real inbox, in which a worker can die before, inside and after each transaction that belongs to a send."""

    dies_claiming = False

    def claim(
        self,
        destination: str,
        free: int,
        lease_s: float,
        compose: Callable[[Item], Draft],
        under_way: Collection[int] = (),
        pace_s: float = 0.0,
        above: int | None = None,
    ) -> Claim:
        def composed(item: Item) -> Draft:
            if self.dies_claiming:
                raise Crash
            return compose(item)

        return super().claim(destination, free, lease_s, composed, under_way, pace_s, above)

    def refreeze(self, item: Item, draft: Draft, lease_s: float) -> Item | None:
        pause(Paused("before refreezing"))
        renewed = super().refreeze(item, draft, lease_s)
        pause(Paused("refrozen" if renewed else "not refrozen"))
        return renewed

    def settle(self, attempts: Sequence[tuple[Item, Outcome]], pace_s: float = 0.0) -> list[Settled]:
        word = pause(Paused("before settling"))
        CrashingSession.dies_at = "UPDATE items SET owner = NULL" if word == CRASH_INSIDE else None
        try:
            settled = super().settle(attempts, pace_s)
        finally:
            CrashingSession.dies_at = None
        pause(Paused("settled" if all(its.ours for its in settled) else "not settled"))
        return settled


@dataclass(eq=False)
class Flight:
    """One call in the hands of one worker."""

    items: Items
    task: Task
    leased_until: float


@dataclass
class Services:
    """The three that every event goes to."""

    account: Account
    channel: Channel
    receiver: Receiver


class Worker:
    """A process: its own inbox, deliveries and words. `flights` is what it has claimed and not yet put down."""

    def __init__(self, database: Database, services: Services, release: int) -> None:
        self.inbox = CrashingInbox(database)
        style = Style({"tags": [f"release_{release}"]})  # each release has other words
        destinations = (
            ZendeskDestination(ScriptedZendesk(services.account), "", style, lambda subject: {}),
            ScriptedSlack(services.channel),
            ScriptedWebhook(services.receiver),
        )
        self.deliveries = {one.name: Delivery(self.inbox, one) for one in destinations}
        self.flights: list[Flight] = []
        self.passing: Task | None = None
        self.claimed: list[Items] = []

    def tasks(self) -> list[Task]:
        return [flight.task for flight in self.flights] + ([self.passing] if self.passing else [])

    def die(self) -> None:
        for task in self.tasks():
            task.go_on(Crash)


class Histories(RuleBasedStateMachine):
    """Two workers, three posts, and whatever happens."""

    database: Database  # one for all histories: to connect takes longest
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.clock.now = Clock().now
        self.account, self.channel, self.receiver = Account(self.clock), Channel(), Receiver()
        self.releases = itertools.count()
        self.workers = [self.new_worker() for _ in WORKERS]
        self.handed_in: list[tuple[str, str]] = []  # event and post
        self.before: dict[int, Any] = {}
        self.retried: set[int] = set()

    def new_worker(self) -> Worker:
        return Worker(self.database, Services(self.account, self.channel, self.receiver), next(self.releases))

    def rows(self) -> dict[int, Any]:
        with self.database.reading() as db:
            found = db.rows(f"SELECT {', '.join(COLUMNS)} FROM items")  # noqa: S608 - the columns' own names
        return {row[0]: SimpleNamespace(**dict(zip(COLUMNS, row, strict=True))) for row in found}

    def flights(self) -> list[Flight]:
        return [flight for worker in self.workers for flight in worker.flights]

    # What comes in

    @rule(
        worker=st.sampled_from(WORKERS),
        post=st.sampled_from(POSTS),
        again=st.integers(0, 5),
        source=st.sampled_from(["push", "push", "poll"]),
        answered=st.sampled_from([True, True, True, False]),
    )
    def an_event_comes(self, worker: int, post: str, again: int, source: str, answered: bool) -> None:
        """A new one, or one that came before; without an answer when the worker dies after the commit."""
        known = [event for event, of_post in self.handed_in if of_post == post]
        event = known[again % len(known)] if known and again > 2 else f"event-{len(self.handed_in):04}"
        items = [new_item(event, post, source=source, destination=name) for name in DESTINATIONS]
        new = event not in known
        assert self.workers[worker].inbox.accept(items) == [new] * 3, "the same event of a post is one row"
        self.handed_in += [(event, post)] * new
        self.account.accepted.add(event)
        if not answered:
            self.restart(worker)

    @rule(
        worker=st.sampled_from(WORKERS),
        count=st.integers(3, 8),
        name=SOME,
        way=st.sampled_from([None, "field", *REFUSALS]),
        answers=st.lists(st.tuples(ANSWERS, st.booleans()), max_size=1),
    )
    def many_events_come_at_once(
        self, worker: int, count: int, name: str, way: str | None, answers: list[tuple[Answer, bool]]
    ) -> None:
        """Each about a post of its own. A worker works on them, perhaps while a service refuses everything."""
        new = [(f"event-{len(self.handed_in) + n:04}", f"facebook:{len(self.handed_in) + n}") for n in range(count)]
        items = [new_item(event, post, destination=one) for event, post in new for one in DESTINATIONS]
        assert all(self.workers[worker].inbox.accept(items))
        self.handed_in += new
        self.account.accepted.update(event for event, _ in new)
        self.before = self.rows()
        self.a_service_refuses_everything_or_nothing_any_more(name, way)
        for _ in range(2):
            self.a_worker_works(worker, new[0][1], answers, name)

    # What the workers do

    @rule(worker=st.sampled_from(WORKERS), post=st.sampled_from(POSTS), patient=st.booleans(), name=SOME)
    def a_worker_looks(self, worker: int, post: str, patient: bool, name: str) -> None:
        """One pass for a destination, perhaps when its gate opens. What it claims is under way at once."""
        me = self.workers[worker]
        if me.passing is not None:
            return
        if not any(
            row.state == PENDING and row.destination == name for row in self.before.values()
        ):  # a step in which nothing happens is wasted
            self.an_event_comes(worker, post, again=0, source="push", answered=True)
        if patient:
            self.time_passes(min(me.inbox.gate(name)[1], LONGEST_CALL_S))
        gate, held_s = me.inbox.gate(name)
        too_early = self.clock() < gate.paced_until
        me.claimed = []
        me.passing = Task(lambda: me.deliveries[name].deliver_due(me.claimed.append))
        in_round = gate.round_places(self.clock(), 0, 1) > 0
        assert in_round or not (held_s and (me.claimed or me.passing.waits_at)), "something leaves during a hold"
        assert not (too_early and me.claimed), "two calls follow each other too closely"
        leaving = [item for items in me.claimed for item in items]
        assert in_round or gate.state == OPEN or len(leaving) <= 1, "more than one probe"
        out = [(item.id, f.leased_until) for f in self.flights() for item in f.items]
        probing = [item_id for item_id, until in out if item_id == gate.probe and until > self.clock()]
        second = gate.state != OPEN and probing and me.claimed
        assert in_round or not second, "a second probe while the first is under way"
        self.passed(me)
        for items in me.claimed:
            self.take_off(me, name, items)

    def passed(self, me: Worker) -> None:
        if me.passing is not None:
            me.passing.since = self.clock()
            me.passing = me.passing if me.passing.waits_at else None

    def take_off(self, me: Worker, name: str, items: Items) -> None:
        now = self.clock()
        out = [
            item.subject_id for f in self.flights() if f.leased_until > now for item in f.items if is_for(item, name)
        ]
        posts = [item.subject_id for item in items]
        assert len({*posts}) == len(posts) and not {*posts} & {*out}, "two items of a post in flight together"
        flight = Flight(items, Task(lambda: me.deliveries[name].deliver(items)), now + LEASE_S)
        me.flights.append(flight)
        self.landed(me, flight)

    def landed(self, me: Worker, flight: Flight) -> None:
        at, flight.task.since = flight.task.waits_at, self.clock()
        if at == "not settled":
            self.doubt(flight)
        if at is None:
            me.flights.remove(flight)
        elif at == "refrozen":
            flight.leased_until = self.clock() + LEASE_S
        elif at == "settled":
            flight.leased_until = 0.0

    @precondition(lambda self: self.under_way())
    @rule(number=st.integers(0, 20), answer=ANSWERS, crash=st.integers(0, 15))
    def something_goes_on(self, number: int, answer: Answer, crash: int) -> None:
        """A call is answered, or a worker goes on from where it paused."""
        me, task = self.under_way()[number % len(self.under_way())]
        self.go_on(me, task, answer, CRASH_INSIDE if crash == 0 else None)

    def under_way(self) -> list[tuple[Worker, Task]]:
        return [(worker, task) for worker in self.workers for task in worker.tasks()]

    def go_on(self, me: Worker, task: Task, answer: Answer, word: str | None = None) -> None:
        if isinstance(call := task.waits_at, Call):
            if answer is Answer.REFUSED and call.body and not call.taken:
                self.refuse(call.body)
            if answer in (Answer.DONE, Answer.REFUSED):
                call.take(self.late(task))
            task.go_on(Answer.DONE if answer is Answer.REFUSED else answer)
        else:
            dies = word == CRASH_INSIDE and task.waits_at == "before settling"
            task.go_on(word)
            if dies:
                for flight in me.flights:
                    self.doubt(flight)
                me.flights = [flight for flight in me.flights if flight.task is not task]
                return self.restart(self.workers.index(me))
        self.passed(me)
        for flight in [flight for flight in me.flights if flight.task is task]:
            self.landed(me, flight)

    def refuse(self, body: bytes) -> None:
        """A service refuses these words, until a person has seen to it."""
        self.account.refused.add(body)
        self.receiver.refused.add(body.decode("ascii", "replace").removeprefix("about "))
        self.channel.refused.add(body.decode("ascii", "replace"))

    def doubt(self, flight: Flight) -> None:
        """Whether its message was posted is not known to the relay."""
        self.channel.doubted.update(item.event_uuid for item in flight.items)

    def late(self, task: Task) -> bool:
        return any(flight.task is task and flight.leased_until <= self.clock() for flight in self.flights())

    @precondition(lambda self: any(isinstance(task.waits_at, Call) for _, task in self.under_way()))
    @rule(number=st.integers(0, 20))
    def a_service_takes_a_call(self, number: int) -> None:
        """It is done; the answer is still on its way."""
        calling = [task for _, task in self.under_way() if isinstance(task.waits_at, Call)]
        task = calling[number % len(calling)]
        cast(Call, task.waits_at).take(self.late(task))

    @rule(
        worker=st.sampled_from(WORKERS),
        post=st.sampled_from(POSTS),
        answers=st.lists(st.tuples(ANSWERS, st.booleans()), max_size=3),
        name=SOME,
    )
    def a_worker_works(self, worker: int, post: str, answers: list[tuple[Answer, bool]], name: str) -> None:
        """It claims what is due and puts all down again. `answers` are the first it gets; after them all goes well."""
        self.a_worker_looks(worker, post, patient=True, name=name)
        me = self.workers[worker]
        while tasks := me.tasks():
            answer, taken = answers.pop(0) if answers and isinstance(tasks[0].waits_at, Call) else (Answer.DONE, True)
            if taken and answer is not Answer.REFUSED and isinstance(tasks[0].waits_at, Call):
                tasks[0].waits_at.take(self.late(tasks[0]))
            self.go_on(me, tasks[0], answer)

    @rule(
        worker=st.sampled_from(WORKERS), when=st.sampled_from(["now", "before a claim's commit", "after it"]), name=SOME
    )
    def a_worker_is_killed(self, worker: int, when: str, name: str) -> None:
        """kill -9, and a new process."""
        me = self.workers[worker]
        if when != "now" and me.passing is None:
            me.inbox.dies_claiming = when == "before a claim's commit"
            me.passing = Task(lambda: me.deliveries[name].deliver_due(me.claimed.append))
            self.passed(me)
        self.restart(worker)

    def restart(self, worker: int) -> None:
        for flight in self.workers[worker].flights:
            self.doubt(flight)
        self.workers[worker].die()
        self.workers[worker] = self.new_worker()

    @precondition(lambda self: self.flights())
    @rule(worker=st.sampled_from(WORKERS))
    def a_worker_renews_its_leases(self, worker: int) -> None:
        me, rows = self.workers[worker], self.rows()
        me.inbox.renew([item.id for flight in me.flights for item in flight.items], LEASE_S)
        for flight in me.flights:
            for item in flight.items:
                row = rows[item.id]
                if (row.state, row.owner, row.attempts) == (PENDING, me.inbox.owner, item.attempts):
                    flight.leased_until = self.clock() + LEASE_S

    # What else happens

    @rule(seconds=st.sampled_from([0.5, 2.0, 9.0, 10.5, 31.0, 61.0, 3600.0, 6890.0, 7250.0]))
    def time_passes(self, seconds: float) -> None:
        """No call lasts longer than its time-out: those are lost on the way."""
        if seconds > LONGEST_CALL_S:
            self.everything_under_way_is_lost()
        self.clock.advance(seconds)
        for me, task in self.under_way():
            if self.clock() - task.since > LONGEST_CALL_S:
                self.go_on(me, task, Answer.LOST)

    def everything_under_way_is_lost(self) -> None:
        while under_way := self.under_way():
            self.go_on(*under_way[0], Answer.LOST)

    @precondition(lambda self: self.account.tickets)
    @rule(number=st.integers(0, 20), status=st.sampled_from(["closed", "closed", "archived", "deleted"]))
    def an_agent_ends_a_ticket(self, number: int, status: str) -> None:
        ticket = self.account.tickets[number % len(self.account.tickets)]
        if ticket.status != "deleted":
            ticket.status = "closed" if status == "archived" else status
            ticket.archived = ticket.archived or status == "archived"

    @rule(calls=st.integers(0, 6))
    def few_calls_are_left(self, calls: int) -> None:
        self.account.calls_left, self.account.window_ends_at = calls, self.clock() + 40.0

    @rule(name=SOME, way=st.sampled_from([None, None, *REFUSALS]))
    def a_service_refuses_everything_or_nothing_any_more(self, name: str, way: str | None) -> None:
        {ZENDESK: self.account, SLACK: self.channel, WEBHOOK: self.receiver}[name].refuses = way

    @precondition(lambda self: not self.flights())
    @rule()
    def a_person_retries_what_is_parked(self) -> None:
        parked = [id for id, row in self.rows().items() if row.state == PARKED]
        self.retried |= set(parked)
        self.nothing_is_refused_any_more()
        assert self.workers[0].inbox.retry(parked) == len(parked)

    @precondition(lambda self: self.before)
    @rule(number=st.integers(0, 20))
    def a_person_does_not_wait_for_an_item(self, number: int) -> None:
        """It is made due, unless it is under way."""
        waiting = [id for id, row in self.before.items() if row.state == PENDING]
        if waiting:
            self.workers[0].inbox.retry([waiting[number % len(waiting)]])

    def nothing_is_refused_any_more(self) -> None:
        for service in (self.account, self.channel, self.receiver):
            service.refused.clear()
            service.refuses = None

    # What must hold

    @invariant()
    def attempts_and_times_only_grow(self) -> None:
        now = self.rows()
        assert len(now) == 3 * len(self.handed_in)
        for id, old in self.before.items():
            new = now[id]
            assert new.attempts >= old.attempts
            assert new.received_at == old.received_at
            put_back = not new.first_sent_at  # it is composed anew
            assert put_back or id in self.retried or new.first_sent_at >= (old.first_sent_at or 0.0) - 0.001
            assert old.state != DELIVERED or new == old, "a delivered item is never touched again"
        self.before, self.retried = now, set()

    @invariant()
    def no_service_gets_anything_it_must_not(self) -> None:
        broken = self.account.broken + self.receiver.broken
        assert not broken, broken[0]

    @invariant()
    def nothing_comes_twice(self) -> None:
        for event, post in self.handed_in:
            assert len(self.account.told(event, post)) <= 1, "an event was told twice"

    def teardown(self) -> None:
        if sys.exception() is None:
            self.all_recover_and_everything_comes_to_its_end()
        for worker in self.workers:
            worker.die()

    def all_recover_and_everything_comes_to_its_end(self) -> None:
        self.everything_under_way_is_lost()
        self.account.calls_left = None
        self.nothing_is_refused_any_more()
        self.deliver_all()
        rows = self.rows()
        assert all(row.state in (DELIVERED, PARKED) for row in rows.values()), "an accepted item that comes to no end"
        assert all(row.reason for row in rows.values() if row.state == PARKED)
        self.a_person_retries_what_is_parked()
        self.deliver_all()
        self.attempts_and_times_only_grow()
        self.no_service_gets_anything_it_must_not()
        self.nothing_comes_twice()
        for row in self.rows().values():
            assert row.state == DELIVERED, "an accepted item that is not delivered though everything works"
            self.came_to_its_end(row)

    def deliver_all(self) -> None:
        me = self.workers[0]
        for _ in range(600):
            if not me.inbox.counts().pending:
                break
            waits = [delivery.deliver_due() for delivery in me.deliveries.values()]
            if None not in waits:
                self.clock.advance(min(filter(None, waits), default=5.0))

    def came_to_its_end(self, row: Any) -> None:
        event = row.event_uuid
        if row.destination == WEBHOOK:
            assert event in self.receiver.bodies, "delivered, but its receiver does not have it"
        elif row.destination == SLACK:
            lines = self.channel.lines.count(event)
            assert lines, "delivered, but no line tells of it"
            assert lines == 1 or event in self.channel.doubted, "posted twice though every outcome was known"
        else:
            ticket = self.account.tickets[int(row.reference) - 1]
            assert ticket.post == row.subject_id
            assert ticket.tells_of(event), "delivered, but its ticket does not tell of it"


def is_for(item: Item, name: str) -> bool:
    return item.destination == name


def run(url: str, histories: int) -> None:
    """Makes up that many histories, each on empty tables."""
    clock_of_all = Clock()
    kind = CrashingSqlite if url.startswith("sqlite") else CrashingPostgresql
    opened: Database = kind(url, clock_of_all, 5.0)

    class Emptied(Histories):
        database, clock = opened, clock_of_all

        def __init__(self) -> None:
            with self.database.transaction() as db:
                for table in ("items", "attempts", "gates", "facts"):
                    db.change(f"DELETE FROM {table}")  # noqa: S608 - the table's own name
            super().__init__()

    limits = settings(
        max_examples=histories,
        stateful_step_count=40,
        deadline=None,
        database=None,
        derandomize=not HISTORIES,
        report_multiple_bugs=False,
        phases=set(Phase) - (set() if SHRINK else {Phase.shrink, Phase.explain}),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Emptied, settings=limits)
    opened.close()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "relay")


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("quiet")
@pytest.mark.no_cover  # tracing takes as long again
def test_every_history_ends_with_one_ticket_or_note_for_each_event(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - a folder in memory, where there is one
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        run(f"sqlite:///{folder}/relay.db", HISTORIES or 100)


if HISTORIES:

    @pytest.mark.timeout(0)
    @pytest.mark.usefixtures("quiet")
    def test_every_history_ends_so_on_postgresql(emptied: Callable[[], str]) -> None:
        run(emptied(), HISTORIES // 10)
