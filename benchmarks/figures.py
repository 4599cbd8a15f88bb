"""Measures the relay beside an earlier release and beside the peer, in turn, and prints a table: see README.md.

.venv/bin/python benchmarks/figures.py --before /tmp/earlier            # everything, three runs
.venv/bin/python benchmarks/figures.py --before /tmp/earlier --quick    # small amounts and one run
.venv/bin/python benchmarks/figures.py --only open crisis --runs 5      # some parts, without an earlier release
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from code_lines import product_code
from measurements import LIMIT, Bench, acks, burst, crisis, drain, full, idle, saturated, saturated_hung, start
from report import BEFORE, NOW, PEER, Column, Goal, Report
from sides import HERE, fakes
from stores import KINDS, stores

ANSWERS = ("50 ms", "250 ms", "503", "hung")
GOALS = {
    **{f"ack at 300/s, Zendesk {zendesk}: p50, ms": Goal(at_most=3, ratio=1.25) for zendesk in ANSWERS},
    **{f"ack at 300/s, Zendesk {zendesk}: p99, ms": Goal(at_most=20, ratio=1.25) for zendesk in ANSWERS},
    "10,000 labels in 60 s: acknowledged, %": Goal(at_least=100),
    "10,000 labels in 60 s: ack p99, ms": Goal(at_most=50),
    f"10,000 labels in 60 s: tickets/s meanwhile, {LIMIT}": Goal(at_least=144),
    "processor time for each ack at 300/s, Zendesk hung, µs": Goal(ratio=1.0),
    "processor time for each ack, saturated, Zendesk hung, µs": Goal(ratio=1.0),
    "processor time for each ticket of a backlog, ms": Goal(ratio=0.6),
    "label to ticket, idle: p50, ms": Goal(ratio=1.0),
    "label to ticket, idle: p99, ms": Goal(ratio=1.0),
    "worker's memory idle, MB": Goal(at_most=55),
    "worker's memory under load, MB": Goal(at_most=80),
    "start to first answer, s": Goal(ratio=1.2),
}


@dataclass(frozen=True)
class Measurement:
    """Something to measure on each relay in turn, and on the peer where it can do it."""

    measure: Callable[[Bench, Column], None]
    peer: bool = False
    times: int = 1


PARTS = {
    "start": [Measurement(start, peer=True, times=5)],
    "open": [
        Measurement(partial(acks, zendesk=name, mode=mode, latency_ms=ms), peer=mode == "ok")
        for name, mode, ms in (
            ("0 ms", "ok", 0),
            ("50 ms", "ok", 50),
            ("250 ms", "ok", 250),
            ("503", "503", 0),
            ("hung", "hung", 0),
        )
    ],
    "crisis": [Measurement(crisis)],
    "processor": [Measurement(saturated_hung), Measurement(drain)],
    "idle": [Measurement(idle, times=2)],
    "saturated": [Measurement(saturated, peer=True)],
    "burst": [Measurement(burst, peer=True)],
    "full": [Measurement(full)],
}
EXTRA = {"burst", "full"}
MOST_LINES, MOST_LINES_OF_A_FILE = 3000, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier release that has a .venv of its own")
    parser.add_argument("--now", type=Path, default=HERE.parent, help="normally the checkout that holds this file")
    parser.add_argument("--runs", type=int, help="normally 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="small amounts, to see that everything works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part not in EXTRA])
    parser.add_argument("--database", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--no-peer", action="store_true", help="then neither wrk nor npm is needed for most parts")
    parser.add_argument("--log", default=os.devnull, help="a file for the lines that the relays print")
    wanted = parser.parse_args()
    sides = {BEFORE: wanted.before, NOW: wanted.now} if wanted.before else {NOW: wanted.now}
    checkouts = {side: folder.resolve() for side, folder in sides.items()}
    runs, report = wanted.runs or (1 if wanted.quick else 3), Report(GOALS)
    with fakes() as services, stores() as databases:
        bench = Bench(services, databases, checkouts, report, wanted.quick, wanted.log)
        warm_up(bench)
        try:
            for run in range(runs):
                for part in wanted.only:
                    print(f"run {run + 1} of {runs}, {part}", flush=True)
                    for measurement in PARTS[part]:
                        one_measurement(bench, part, measurement, columns(wanted, run, measurement))
        finally:
            counted = "1 run" if runs == 1 else f"{runs} runs"
            print(f"\n{counted} on {os.cpu_count()} processors. {sizes(checkouts)}\n\n{report.table()}")


def warm_up(bench: Bench) -> None:
    """Starts each relay once: Python compiles its files, and a relay that does not start ends everything here."""
    for side in bench.checkouts:
        for kind in KINDS:
            try:
                with bench.running(Column(kind, side)):
                    pass
            except RuntimeError as error:
                sys.exit(f"{kind} {side}: {error}")


def columns(wanted: argparse.Namespace, run: int, measurement: Measurement) -> list[Column]:
    """The peer first, then the relays in turn; every second run begins with the other one."""
    sides = [BEFORE, NOW] if wanted.before else [NOW]
    relays = [Column(kind, side) for kind in wanted.database for side in (reversed(sides) if run % 2 else sides)]
    return [PEER, *relays] if measurement.peer and not wanted.no_peer else relays


def one_measurement(bench: Bench, part: str, measurement: Measurement, columns: list[Column]) -> None:
    """A measurement that fails is noted, and the others go on."""
    for _ in range(measurement.times):
        for column in columns:
            try:
                measurement.measure(bench, column)
            except Exception as error:
                bench.report.fail(part, column, error)


def sizes(checkouts: dict[str, Path]) -> str:
    """Each checkout's commit and its lines of code."""
    return " ".join(f"{side.capitalize()}: {_size(folder, side)}." for side, folder in checkouts.items())


def _size(checkout: Path, side: str) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or str(checkout)  # noqa: S603 - our own command
    lines = product_code(checkout)
    largest = max(lines, key=lines.__getitem__)
    total, most = sum(lines.values()), lines[largest]
    missed = " **missed**" if side == NOW and (total > MOST_LINES or most > MOST_LINES_OF_A_FILE) else ""
    return f"{commit}, {total:,} lines of code in {len(lines)} files, {largest} has the most with {most}{missed}"


if __name__ == "__main__":
    main()
