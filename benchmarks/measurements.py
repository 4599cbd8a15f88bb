"""What is measured, and how: each function measures one relay, or the peer, once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import load
from report import PEER, Column, Report, p99
from sides import Fakes, Side, peer, relay
from stores import Stores, copy_rows

LIMIT = "of the 160 that eight parallel calls allow"


@dataclass
class Bench:
    """The fakes, the databases, the relays to compare, how much of everything, and the report."""

    fakes: Fakes
    stores: Stores
    checkouts: dict[str, Path]
    report: Report
    quick: bool
    log: str

    def little_or(self, much: int, little: int) -> int:
        return little if self.quick else much

    @contextmanager
    def running(self, column: Column, settle_s: float = 1.0) -> Iterator[Side]:
        """The peer, or a relay on a new database."""
        self.fakes.set()
        if column == PEER:
            with peer(self.fakes) as side:
                yield side
            return
        with self.stores.new(column.kind) as url, self.relay_on(column, url, settle_s) as side:
            yield side

    @contextmanager
    def relay_on(self, column: Column, url: str, settle_s: float = 1.0) -> Iterator[Side]:
        with relay(self.checkouts[column.side], self.fakes, url, self.log) as side:
            time.sleep(settle_s)  # it subscribes and checks its login at Zendesk
            try:
                yield side
            finally:
                self.fakes.set()  # no call hangs while the relay stops

    def wait_for_tickets(self, count: int, timeout_s: float) -> dict[str, float]:
        """The fakes' figures as soon as there are so many tickets."""
        end_at = time.perf_counter() + timeout_s
        while (figures := self.fakes.figures())["tickets"] < count:
            if time.perf_counter() > end_at:
                raise RuntimeError(f"{figures['tickets']} of {count} tickets")
            time.sleep(0.2)
        return figures

    def tickets_per_s(self, since: float) -> float:
        """How many tickets Zendesk has made a second since this moment of time.perf_counter."""
        figures = self.fakes.figures()
        return float(figures["tickets"] / (figures["now_ns"] / 1e9 - since))


def start(bench: Bench, column: Column) -> None:
    """From the start of the process, on a fresh database, to its first answer and to its first acknowledgement."""
    with bench.running(column, settle_s=0) as side:
        bench.report.note("start to first answer, s", column, side.started_in_s)
        bench.report.note("start to first acknowledgement, s", column, side.started_in_s + load.first_ack(side))


def acks(bench: Bench, column: Column, zendesk: str, mode: str, latency_ms: int) -> None:
    """300 notifications a second while deliveries go on as fast as Zendesk lets them."""
    with bench.running(column) as side:
        bench.fakes.set(mode, latency_ms=latency_ms)
        used_s = side.cpu_s()
        answers = load.open_loop(side, 300, bench.little_or(6000, 900))
        used_s = side.cpu_s() - used_s
        per_s = bench.tickets_per_s(min(ack.due for ack in answers))
    took = _took_ms(answers)
    bench.report.note(f"ack at 300/s, Zendesk {zendesk}: p50, ms", column, statistics.median(took))
    bench.report.note(f"ack at 300/s, Zendesk {zendesk}: p99, ms", column, p99(took))
    if mode == "ok":
        bench.report.note(f"ack at 300/s, Zendesk {zendesk}: tickets/s meanwhile", column, per_s)
    if mode == "hung":
        used_us = used_s / len(answers) * 1e6
        bench.report.note("processor time for each ack at 300/s, Zendesk hung, µs", column, used_us)


def crisis(bench: Bench, column: Column) -> None:
    """10,000 labels within a minute, Zendesk taking 50 ms for each call and without a limit."""
    count = bench.little_or(10_000, 1000)
    with bench.running(column) as side:
        bench.fakes.set(latency_ms=50)
        answers = load.open_loop(side, 10_000 / 60, count)
        per_s = bench.tickets_per_s(min(ack.due for ack in answers))
        accepted = [ack for ack in answers if ack.accepted]
        bench.report.note("10,000 labels in 60 s: acknowledged, %", column, 100 * len(accepted) / count)
        bench.report.note("10,000 labels in 60 s: ack p99, ms", column, p99([ack.took_ms for ack in accepted]))
        bench.report.note(f"10,000 labels in 60 s: tickets/s meanwhile, {LIMIT}", column, per_s)
        bench.wait_for_tickets(len(accepted), 60)
        time.sleep(0.5)
        if (tickets := bench.fakes.figures()["tickets"]) != len(accepted):
            raise RuntimeError(f"{tickets} tickets for {len(accepted)} labels")
        bench.report.note("worker's memory after 10,000 labels, MB", column, side.rss_mb())


def saturated_hung(bench: Bench, column: Column) -> None:
    """As many acknowledgements as possible while Zendesk does not answer: their processor time."""
    with bench.running(column) as side:
        bench.fakes.set("hung")
        load.saturate(side, bench.little_or(2, 1))
        used_s, seconds = side.cpu_s(), bench.little_or(8, 2)
        count = load.saturate(side, seconds)
        used_s = side.cpu_s() - used_s
    bench.report.note("processor time for each ack, saturated, Zendesk hung, µs", column, used_s / count * 1e6)
    bench.report.note("acks/s, saturated, Zendesk hung", column, count / seconds)


def drain(bench: Bench, column: Column) -> None:
    """A backlog from a time when Zendesk hung. Then each call takes 50 ms, and nothing new comes in."""
    count = bench.little_or(3000, 500)
    with bench.running(column) as side:
        bench.fakes.set("hung")
        load.open_loop(side, 400, count)  # done before the relay gives the first call up, after 15 s
        time.sleep(1)
        used_s = side.cpu_s()
        bench.fakes.set(latency_ms=50)
        figures = bench.wait_for_tickets(count, 120)
        time.sleep(0.5)  # the last answers are on their way into the database
        used_s = side.cpu_s() - used_s
    took_s = (figures["last_ns"] - figures["first_ns"]) / 1e9
    bench.report.note("processor time for each ticket of a backlog, ms", column, used_s / count * 1000)
    bench.report.note(f"tickets/s of a backlog, {LIMIT}", column, count / took_s)


def idle(bench: Bench, column: Column) -> None:
    """From the label to the request for a ticket, ten a second. Zendesk's own time comes after that."""
    with bench.running(column) as side:
        answers = load.open_loop(side, 10, bench.little_or(300, 60))
        bench.wait_for_tickets(len(answers), 30)
        arrived = dict(bench.fakes.figures()["arrived"])
    took = [(arrived[ack.post] / 1e9 - ack.due) * 1000 for ack in answers[load.WARM_UP :]]
    bench.report.note("label to ticket, idle: p50, ms", column, statistics.median(took))
    bench.report.note("label to ticket, idle: p99, ms", column, p99(took))


def saturated(bench: Bench, column: Column) -> None:
    """As many acknowledgements as possible while Zendesk answers at once, and the memory before and after."""
    seconds, peers = bench.little_or(10, 3), bench.report.values["acks/s, saturated"]
    with bench.running(column) as side:
        bench.report.note("worker's memory idle, MB", column, side.rss_mb())
        load.saturate(side, bench.little_or(2, 1))
        bench.fakes.set()
        begin = time.perf_counter()
        per_s = load.saturate(side, seconds) / seconds
        tickets_per_s = bench.tickets_per_s(begin)
        bench.report.note("worker's memory under load, MB", column, side.rss_mb())
    bench.report.note("acks/s, saturated", column, per_s)
    bench.report.note("acks/s, saturated: tickets/s meanwhile", column, tickets_per_s)
    if peers[PEER]:
        bench.report.note("acks/s, saturated: ratio to the peer's", column, per_s / peers[PEER][-1])


def burst(bench: Bench, column: Column) -> None:
    """1,000 labels within two seconds at a limit of 700 calls a minute."""
    count = bench.little_or(1000, 100)
    with bench.running(column) as side:
        bench.fakes.set(per_minute=bench.little_or(700, 200))
        begin = time.perf_counter()
        load.open_loop(side, 500, count)
        if column == PEER:
            time.sleep(1)
            figures = bench.fakes.figures()
        else:
            figures = bench.wait_for_tickets(count, 300)
    bench.report.note("1,000 labels at 700 calls/min: tickets", column, figures["tickets"])
    bench.report.note("1,000 labels at 700 calls/min: seconds", column, figures["last_ns"] / 1e9 - begin)
    bench.report.note(
        "1,000 labels at 700 calls/min: answered 429, %", column, 100 * figures["limited"] / figures["calls"]
    )


def full(bench: Bench, column: Column) -> None:
    """A database with a million delivered and 100,000 waiting items."""
    with bench.stores.new(column.kind) as url:
        _fill(bench, column, url)
        bench.fakes.set("503")
        with bench.relay_on(column, url) as side:
            bench.report.note("a million rows: start to first answer, s", column, side.started_in_s)
            took = _took_ms(load.open_loop(side, 300, bench.little_or(6000, 900)))
            bench.report.note("a million rows: ack at 300/s, Zendesk 503: p99, ms", column, p99(took))
            bench.fakes.set(latency_ms=50)
            figures = bench.wait_for_tickets(bench.little_or(3000, 500), 120)
        took_s = (figures["last_ns"] - figures["first_ns"]) / 1e9
        bench.report.note(f"a million rows: tickets/s, {LIMIT}", column, figures["tickets"] / took_s)


def _fill(bench: Bench, column: Column, url: str) -> None:
    """One delivered and one waiting item by way of the relay, and then copies of both."""
    with bench.relay_on(column, url) as side:
        load.open_loop(side, 10, 1)
        bench.wait_for_tickets(1, 30)
        bench.fakes.set("503")
        load.open_loop(side, 10, 1)
        time.sleep(1)
    copy_rows(url, "delivered", bench.little_or(1_000_000, 20_000))
    copy_rows(url, "pending", bench.little_or(100_000, 5000))


def _took_ms(answers: list[load.Ack]) -> list[float]:
    refused = sum(not ack.accepted for ack in answers)
    if refused:
        raise RuntimeError(f"{refused} of {len(answers)} notifications were refused")
    return [ack.took_ms for ack in answers[load.WARM_UP :]]
