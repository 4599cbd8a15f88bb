"""Breaks everything around the relay while 100 labels a second come in, and counts what each destination has got.

.venv/bin/python proofs/chaos.py                                # both databases, three minutes each
.venv/bin/python proofs/chaos.py --minutes 1 --database sqlite --seed 7

The relay runs as real processes under gunicorn, between the simulated Khoros and Zendesk, Slack and a receiver of
webhooks: one on SQLite, two on one PostgreSQL. The seed alone decides the schedule of faults. The exit status is 1 when
an event is lost, doubled or parked.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proofs.chaos_schedule import BUSY, OF_RELAYS, Event, schedule
from proofs.chaos_verdict import verdict
from proofs.chaos_world import RULE, World, wait_for, world

LABELS_PER_S = 100
AGAIN = 0.02  # of the labels go to a post that has one: a note, and a reply in its thread
REPEATED = 0.02  # of these events are sent a second time
RULE_EVERY, PUBLISH_EVERY = 20, 25  # so many labels a rule fires, a message is published


def happen(world: World, seed: int, seconds: float) -> float:
    """Labels posts at a constant rate, whatever the relay answers, fires rules and publishes messages. Returns the
    seconds that it took."""
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
        if number % RULE_EVERY == 0:
            world.khoros.fire_rule(world.khoros.add_posts(1)[0], RULE)
        if number % PUBLISH_EVERY == 0:
            world.khoros.publish()
    return time.monotonic() - began_at


def follow(world: World, events: Iterable[Event], began_at: float, failed: list[BaseException]) -> None:
    """Makes each fault happen at its time."""
    try:
        for event in events:
            time.sleep(max(0.0, began_at + event.at_s - time.monotonic()))
            world.do(event)
    except BaseException as error:
        failed.append(error)


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
        took_s = happen(here, seed, seconds)
        for thread in threads:
            thread.join()
        here.end_faults()
        here.khoros.drain()
        report(here, took_s, failed)
        drained = drain(here)
        caught_up = catch_up(here)
        return all([drained, caught_up, nothing_parked(here), not failed])


def _side_by_side(events: list[Event]) -> list[list[Event]]:
    """One schedule for each kind of fault that takes seconds, and one for the rest: no fault waits for another."""
    kinds = (*OF_RELAYS, BUSY)
    return [[e for e in events if e.what == kind] for kind in kinds] + [[e for e in events if e.what not in kinds]]


def report(here: World, took_s: float, failed: list[BaseException]) -> None:
    """Prints what happened to the relay."""
    outcomes = Counter(push.outcome for push in here.khoros.pushes)
    number = len(here.events())
    calls = ", ".join(f"{times} x {outcome}" for outcome, times in outcomes.most_common())
    print(f"  {number} events in {took_s:.0f} s ({number / took_s:.0f}/s), {outcomes.total()} calls: {calls}")
    print("  faults: " + ", ".join(f"{times} x {what}" for what, times in sorted(here.done.items())), flush=True)
    for error in failed:
        print(f"  THE SCHEDULE BROKE: {error!r}")


def drain(here: World) -> bool:
    """Waits until no item is pending, and judges the acknowledged events."""
    wanted, ended_at = here.events(202), time.monotonic()
    drained = wait_for(lambda: here.pending() == 0)
    print(f"  {'drained' if drained else 'NOT DRAINED'} {time.monotonic() - ended_at:.1f} s after the last call")
    return verdict("acknowledged", wanted, here) and drained


def catch_up(here: World) -> bool:
    """Starts one relay again with the catch-up on, waits for the missed events, and judges all events."""
    relay, wanted = here.relays[0], here.events()
    relay.stop()
    relay.env["CATCH_UP_MINUTES"] = "1"
    relay.start()
    caught_up = wait_for(lambda: wanted.keys() <= {uuid for [uuid] in here.database.rows("event_uuid")})
    caught_up = wait_for(lambda: here.pending() == 0) and caught_up
    print(f"  caught up: {'yes' if caught_up else 'NO'}")
    return verdict("all", wanted, here) and caught_up


def nothing_parked(here: World) -> bool:
    """Whether no line of a log says that an item was parked or that the code is broken: no fault here is a reason."""
    bad = [line for relay in here.relays for line in relay.output if re.search("event=(parked|[a-z]+_broken)", line)]
    print(f"  {len(bad)} parked or broken")
    for line in bad[:5]:
        print(f"    {line}")
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(description="Breaks everything around the relay and counts what has arrived.")
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
