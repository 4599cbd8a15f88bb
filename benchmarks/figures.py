"""Measures every figure of the README beside the peer, and prints them as a table: median (lowest to highest).

.venv/bin/python benchmarks/figures.py                   # everything, three runs
.venv/bin/python benchmarks/figures.py --quick           # everything in small, to see that it works
.venv/bin/python benchmarks/figures.py --only acks open  # some of it; see ROWS
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import load
from sides import Fakes, Side, fakes, peer, relay
from stores import NewStore, claims_ms, fill, stores

from delivery import PARALLEL

PEER = "peer"
COLUMNS = ("SQLite", "PostgreSQL", PEER)


@dataclass
class Bench:
    """The fakes, the stores, how much of everything, and what was measured so far."""

    fakes: Fakes
    stores: dict[str, NewStore]
    quick: bool
    found: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def note(self, figure: str, column: str, value: float) -> None:
        self.found[figure][column].append(value)
        print(f"  {figure}: {column} {_short(value)}", flush=True)

    def little_or(self, much: int, little: int) -> int:
        return little if self.quick else much

    @contextmanager
    def side(self, column: str, workers: int = 1) -> Iterator[Side]:
        """The peer, or the relay on a new store."""
        self.fakes.set()
        running = peer(self.fakes) if column == PEER else relay(self.fakes, self.stores[column](), workers)
        with running as side:
            time.sleep(1)  # subscribed, and the first look at Zendesk is over
            yield side

    def wait_for_tickets(self, count: int, timeout_s: float) -> float:
        """The moment of the last of so many tickets, by time.perf_counter."""
        end_at = time.perf_counter() + timeout_s
        while (figures := self.fakes.figures())["tickets"] < count:
            if time.perf_counter() > end_at:
                raise RuntimeError(f"{figures['tickets']} of {count} tickets")
            time.sleep(0.2)
        return float(figures["last_ns"]) / 1e9


def acks(bench: Bench) -> None:
    """As many acknowledgements as go while Zendesk answers at once and the relay delivers, and the memory it takes."""
    seconds, one = bench.little_or(10, 3), {}
    for column in (PEER, "SQLite", "PostgreSQL"):
        with bench.side(column) as side:
            bench.note("start to first answer, s", column, side.started_in_s)
            bench.note("memory idle, MB", column, side.rss_mb())
            load.most_per_s(side, 2)
            one[column] = load.most_per_s(side, seconds)
            bench.note("memory under load, MB", column, side.rss_mb())
        bench.note("acks/s", column, one[column])
        bench.note("acks/s, ratio to the peer's", column, one[column] / one[PEER])
    for column in ("SQLite", "PostgreSQL"):
        with bench.side(column, workers=2) as side:
            load.most_per_s(side, 2)
            two = load.most_per_s(side, seconds)
        bench.note("acks/s, two processes", column, two)
        bench.note("acks/s, two processes, ratio to the peer's", column, two / one[PEER])


def open_loop(bench: Bench) -> None:
    """Acknowledgements at 300 a second, whatever Zendesk does. Without a Zendesk the peer acknowledges nothing."""
    for mode, latency_ms, name in (("ok", 0, "0 ms"), ("ok", 250, "250 ms"), ("503", 0, "503"), ("hung", 0, "hung")):
        for column in COLUMNS:
            if column == PEER and mode != "ok":
                continue
            with bench.side(column) as side:
                bench.fakes.set(mode, latency_ms=latency_ms)
                took = steady_ms(side, bench.little_or(20, 4))
            bench.note(f"ack at 300/s, Zendesk {name}: p50, ms", column, statistics.median(took))
            bench.note(f"ack at 300/s, Zendesk {name}: p99, ms", column, _p99(took))


def steady_ms(side: Side, seconds: float) -> list[float]:
    """What each of 300 acknowledgements a second took, from when it was due."""
    return [ack.took_ms for ack in load.open_loop(side, 300, seconds)[load.WARM_UP :]]


def idle(bench: Bench) -> None:
    """From the label to the request for a ticket, ten a second. Zendesk's own time comes after that."""
    for column in ("SQLite", "PostgreSQL"):
        with bench.side(column) as side:
            acks = load.open_loop(side, 10, bench.little_or(40, 5))
            bench.wait_for_tickets(len(acks), 30)
            arrived = dict(bench.fakes.figures()["arrived"])
        took = [(arrived[ack.post] / 1e9 - ack.due) * 1000 for ack in acks[load.WARM_UP :]]
        bench.note("label to ticket, idle: p50, ms", column, statistics.median(took))
        bench.note("label to ticket, idle: p99, ms", column, _p99(took))


def burst(bench: Bench) -> None:
    """1,000 events within two seconds at a limit of 700 calls a minute."""
    count = bench.little_or(1000, 100)
    for column in COLUMNS:
        with bench.side(column) as side:
            bench.fakes.set(per_minute=bench.little_or(700, 200))
            started = time.perf_counter()
            if column == PEER:
                tickets = _peers_tickets(bench, side, count)
                bench.note("burst at 700/min: tickets of 1,000", column, tickets)
                continue
            load.open_loop(side, 500, count / 500)
            took_s = bench.wait_for_tickets(count, 300) - started
            figures = bench.fakes.figures()
        bench.note("burst at 700/min: tickets of 1,000", column, figures["tickets"])
        bench.note("burst at 700/min: seconds", column, took_s)
        bench.note("burst at 700/min: calls answered 429, %", column, 100 * figures["limited"] / figures["calls"])


def _peers_tickets(bench: Bench, side: Side, count: int) -> float:
    try:
        load.open_loop(side, 500, count / 500)
    except RuntimeError:
        time.sleep(1)  # it passes Zendesk's 429 on, and that is the end of the event
    return float(bench.fakes.figures()["tickets"])


def drain(bench: Bench) -> None:
    """10,000 waiting, each call to Zendesk 200 ms, no limit."""
    count, ideal_per_s = bench.little_or(10_000, 300), PARALLEL / 0.2
    for column in ("SQLite", "PostgreSQL"):
        url = bench.stores[column]()
        fill(url, waiting=count)
        bench.fakes.set(latency_ms=200)
        with relay(bench.fakes, url) as side:
            started, used_s = time.perf_counter(), side.cpu_s()
            took_s = bench.wait_for_tickets(count, 600) - started
            used_s = side.cpu_s() - used_s
        bench.note(f"drain: tickets/s of an ideal {ideal_per_s:g}", column, count / took_s)
        bench.note("drain: processor, % of one core", column, 100 * used_s / took_s)


def full(bench: Bench) -> None:
    """A store with a million delivered and 100,000 waiting rows beside one that is nearly empty. Zendesk is out."""
    sizes = {"nearly empty": (0, 2000), "full": (bench.little_or(1_000_000, 20_000), bench.little_or(100_000, 5000))}
    for column in ("SQLite", "PostgreSQL"):
        for size, (delivered, waiting) in sizes.items():
            url = bench.stores[column]()
            fill(url, delivered=delivered, waiting=waiting)
            bench.note(f"store {size}: claim of 8, p50, ms", column, statistics.median(claims_ms(url, 200)))
            bench.fakes.set("503")
            with relay(bench.fakes, url) as side:
                bench.note(f"store {size}: start to first answer, s", column, side.started_in_s)
                took = steady_ms(side, bench.little_or(20, 4))
            bench.note(f"store {size}: ack at 300/s, p99, ms", column, _p99(took))


ROWS: dict[str, Callable[[Bench], None]] = {
    "acks": acks,
    "open": open_loop,
    "idle": idle,
    "burst": burst,
    "drain": drain,
    "full": full,
}


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{_short(statistics.median(values))} ({_short(min(values))} to {_short(max(values))})"


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """The figures as Markdown."""
    lines = [f"| figure | {' | '.join(COLUMNS)} |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(_cell(of.get(c, [])) for c in COLUMNS)} |" for name, of in found.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small amounts and one run")
    parser.add_argument("--runs", type=int, help="normally 3")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    wanted = parser.parse_args()
    with fakes() as both, stores() as kinds:
        bench = Bench(both, kinds, wanted.quick)
        for run in range(wanted.runs or (1 if wanted.quick else 3)):
            for name in wanted.only:
                print(f"run {run + 1}, {name}", flush=True)
                ROWS[name](bench)
    print(f"\n{table(bench.found)}")


if __name__ == "__main__":
    main()
