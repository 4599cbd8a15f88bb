"""Measures how much the trouble of one destination delays the deliveries of another, in one process.

.venv/bin/python benchmarks/isolation.py            # 1,000 items for each line of the table
.venv/bin/python benchmarks/isolation.py --items 200
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stores import KINDS, stores

from destinations.delivery import Delivery
from destinations.destination import Destination, Sent
from inbox import open_database
from inbox.inbox import Inbox
from inbox.items import Draft, Item, NewItem
from outbound import AuthFailed, Limited, Rejected, Unavailable

PER_S, CALL_S = 100, 0.02  # items a second; how long a call takes
MOST_MS = 100.0  # the goal: so much later at most, at p95
TROUBLES: dict[str, Exception | None] = {
    "hangs": None,
    "limits": Limited("429", status=429, retry_after_s=1.0),
    "is down": Unavailable("503", status=503),
    "refuses each item": Rejected("422", status=422),
    "refuses the login": AuthFailed("401", status=401),
    "is misconfigured": OSError("no such file"),
}


class Well(Destination):
    """Takes every item, and notes when."""

    name, title, noun, parallel = "well", "Well", "letter", 8

    def __init__(self) -> None:
        self.taken_at: dict[str, float] = {}

    def compose(self, item: Item) -> Draft:
        return Draft("letter", item.event_uuid.encode())

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        self.taken_at[item.event_uuid] = time.perf_counter()
        time.sleep(CALL_S)
        return Sent("letter_sent", item.event_uuid)

    def check(self) -> str:
        return "well"

    def link(self, reference: str) -> str | None:
        return None


class Troubled(Well):
    """Hangs until `ends`, or raises the same error each time, also when it is checked."""

    name = "troubled"

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error, self.ends = error, threading.Event()

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        raise self._trouble()

    def check(self) -> str:
        raise self._trouble()

    def _trouble(self) -> Exception:
        if self.error is None:
            self.ends.wait()
        return self.error or Unavailable("it hung")


def latencies_ms(url: str, count: int, troubled: Troubled | None) -> list[float]:
    """The milliseconds from each commit to the call that follows it, in order of size."""
    with closing(open_database(url)) as database:
        inbox, well = Inbox(database), Well()
        deliveries = [Delivery(inbox, one) for one in (well, troubled) if one]
        inbox.accept([NewItem("troubled", f"t{n}", f"t:{n}", {"n": n}) for n in range(1000 if troubled else 0)])
        for delivery in deliveries:
            delivery.start()
        committed_at, began_at = {}, time.perf_counter()
        for number in range(count):
            time.sleep(max(0.0, began_at + number / PER_S - time.perf_counter()))
            names = [one.destination.name for one in deliveries]
            inbox.accept([NewItem(name, f"e{number}", f"p:{number}", {"n": number}) for name in names])
            committed_at[f"e{number}"] = time.perf_counter()
            for delivery in deliveries:
                delivery.wake()
        while len(well.taken_at) < count:
            time.sleep(0.01)
        if troubled:
            troubled.ends.set()
        for delivery in deliveries:
            delivery.stop(5)
        return sorted((well.taken_at[name] - at) * 1000 for name, at in committed_at.items())


def p95(values: Sequence[float]) -> float:
    """The value that 95 % of these sorted ones do not exceed."""
    return values[int(len(values) * 0.95)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    count, missed = parser.parse_args().items, 0
    logging.disable()
    print(f"{count} items at {PER_S}/s, from the commit to the call, ms\n\n| database | the other one | p50 | p95 |")
    print("|---|---|---|---|")
    with stores() as databases:
        for kind in KINDS:
            alone = 0.0
            for trouble in ("is not there", *TROUBLES):
                troubled = Troubled(TROUBLES[trouble]) if trouble in TROUBLES else None
                with databases.new(kind) as url:
                    took = latencies_ms(url, count, troubled)
                alone = alone or p95(took)
                missed += p95(took) - alone > MOST_MS
                print(f"| {kind} | {trouble} | {took[len(took) // 2]:.1f} | {p95(took):.1f} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
