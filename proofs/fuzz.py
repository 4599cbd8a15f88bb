"""Sends malformed input to the real process: 100,000 bodies, raw nonsense and unfinished requests, beside good ones.

python -m proofs.fuzz [--bodies 100000] [--seed N] [--half-open 200] [--show NUMBER]

It fails unless no answer is 500 or above, no line of the log has a stack trace, a secret or a post's words, every good
request is answered in time, every body is accepted, or kept and answered 422, unless it is empty or too large, all of
that is in the database and delivered or parked at the end, every unfinished request is cut, and the worker's memory
does not grow. The same seed sends the same bytes.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from werkzeug.exceptions import RequestEntityTooLarge

from config import Reader
from destinations.routes import ROUTES_VARIABLES, Routes
from khoros.body import BODY_LIMIT, unpacked
from khoros.reading import Reading, read_body
from proofs.bodies import CANARIES, Bodies, Sent
from proofs.nonsense import nonsense
from sandbox.__main__ import settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk
from server import Connection

SENDERS = 6
NONSENSE_PER_BODY = 0.05
GOOD_WITHIN_S = 5.0  # for one good request beside all the others, on two busy cores
GROWTH_LIMIT = 32 * 1024 * 1024  # bytes by which the worker may grow after the first fifth of the bodies
# 501 answers a transfer coding that the server does not know (RFC 9112, section 6.1).
ALLOWED_RAW = {100, 200, 202, 304, 400, 401, 404, 405, 408, 413, 414, 417, 422, 431, 501}
BROKEN = re.compile(r"Traceback|event=[a-z]+_broken|event=database_unavailable|[ =\"]\w+(Error|Exception) at ")

# Ids and labels are logged on purpose, also when the fuzz has put a text in them.
IDS = re.compile(r' (post|event_uuid|event_name|word)=("([^"\\]|\\.)*"|\S+)')
is_blank = re.compile(rb"(?:[\0 \t\r\n]|\xef\xbb\xbf|\xfe\xff|\xff\xfe)*").fullmatch  # blanks and byte order marks
ROUTES = Routes.read(Reader({"SPREDFAST_LABEL_NAME": "CreateCase"}, ROUTES_VARIABLES))


@dataclass
class Findings:
    """The results of a run. `problems` is empty when all is well."""

    answers: Counter[int] = field(default_factory=Counter)
    raw_answers: Counter[int] = field(default_factory=Counter)
    accepted: int = 0
    expected: set[tuple[str, str]] = field(default_factory=set)  # event and post of every row that must exist
    good_s: list[float] = field(default_factory=list)
    half_open_cut: int = 0
    rss: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, number: int, sent: Sent, status: int, answer: bytes) -> None:
        """Counts the answer to a body, and what must be kept of it."""
        wanted, rows = must_be(sent)
        with self._lock:
            self.answers[status] += 1
            if status != wanted:
                self.problems.append(f"body {number} was answered {status}, not {wanted}: {sent.body[:200]!r}")
            self.expected |= rows
            if status == 202:
                self.accepted += json.loads(answer)["accepted"]

    def answered_raw(self, number: int, statuses: list[int]) -> None:
        with self._lock:
            self.raw_answers.update(statuses)
            if unwanted := set(statuses) - ALLOWED_RAW:
                self.problems.append(f"nonsense {number} was answered {sorted(unwanted)}")

    def problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text)


def must_be(sent: Sent) -> tuple[int, set[tuple[str, str]]]:
    """The status that a body must be answered with, and the event and post of every row that must exist then."""
    try:
        body = unpacked(sent.body, sent.headers.get("Content-Encoding", ""))
    except RequestEntityTooLarge:
        return 413, set()
    if len(sent.body) > BODY_LIMIT:
        return 413, set()
    if is_blank(body):
        return 400, set()
    readings = read_body(body, sent.headers.get("Content-Type", ""), 123, ROUTES.matches, None)
    rows = {(item.event_uuid, item.subject_id) for reading in readings for item in reading.items}
    return 422 if all(map(is_unreadable, readings)) else 202, rows


def is_unreadable(reading: Reading) -> bool:
    return reading.unreadable is not None


@dataclass
class World:
    """The relay between the simulated services, and its database."""

    relay: Relay
    zendesk: FakeZendesk
    database: Path

    @property
    def token(self) -> str:
        return self.relay.env["NOTIFICATION_BEARER_TOKEN"]

    def rows(self, columns: str, where: str = "1") -> list[Any]:
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as db:
            return db.execute(f"SELECT {columns} FROM items WHERE {where}").fetchall()  # noqa: S608 - ours


@contextmanager
def world() -> Iterator[World]:
    with ExitStack() as stack:
        khoros, zendesk = FakeKhoros(company_id=123, label_name="CreateCase"), FakeZendesk()
        stack.callback(khoros.close)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-fuzz-")))
        relay = Relay(env={})
        relay.env = settings(khoros, zendesk, khoros_url, zendesk_url, relay.url, folder)
        stack.callback(relay.kill)
        relay.start().wait_ready()
        yield World(relay, zendesk, folder / "relay.db")


def run(bodies: int, seed: int, half_open: int = 0) -> Findings:
    """The whole proof: `bodies` bodies, a twentieth as much nonsense, and `half_open` unfinished requests."""
    findings, drawn, done = Findings(), Bodies(bodies, seed), threading.Event()
    with world() as it, ThreadPoolExecutor(SENDERS + 3) as pool:
        watcher = pool.submit(watch, it, findings, done)
        try:
            opener = pool.submit(hold_open, it, findings, half_open)
            for fifth in range(5):
                numbers = range(bodies * fifth // 5, bodies * (fifth + 1) // 5)
                senders = [pool.submit(send, it, findings, drawn, numbers[at::SENDERS]) for at in range(SENDERS)]
                senders.append(pool.submit(send_nonsense, it, findings, seed, numbers))
                for sender in senders:
                    sender.result()
                findings.rss.append(it.relay.rss_bytes())
                print(f"{numbers.stop} of {bodies} sent, {len(findings.problems)} problems", flush=True)
            opener.result()
            drain(it, findings, timeout_s=60 + bodies / 50)
        finally:
            done.set()
        watcher.result()
        findings.rss.append(it.relay.rss_bytes())
        judge(it, findings)
    return findings


def send(it: World, findings: Findings, bodies: Bodies, numbers: range) -> None:
    """Sends bodies one after the other over one connection, every seventh in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", it.relay.port, timeout=30)
    for number in numbers:
        sent = bodies[number]
        try:
            findings.answered(number, sent, *post(connection, it.token, sent, in_chunks=number % 7 == 0))
        except (OSError, http.client.HTTPException) as error:
            findings.problem(f"body {number} got no answer ({type(error).__name__}): {sent.body[:200]!r}")
            connection.close()
    connection.close()


def post(connection: http.client.HTTPConnection, token: str, sent: Sent, *, in_chunks: bool) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **sent.headers}
    body = sent.body
    if in_chunks:
        headers["Transfer-Encoding"] = "chunked"
        pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
        connection.request("POST", "/notifications", iter(pieces), headers, encode_chunked=True)
    else:
        connection.request("POST", "/notifications", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def send_nonsense(it: World, findings: Findings, seed: int, numbers: range) -> None:
    """Sends raw nonsense, each over a new connection, and waits until the relay ends the connection."""
    for number in numbers[:: round(1 / NONSENSE_PER_BODY)]:
        body = json.dumps(
            {"companyId": 9, "eventName": "x", "eventUuid": f"nonsense-{number}", "data": CANARIES}
        ).encode()
        data = nonsense(number, seed, it.token, body)
        try:
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", exchange(it.relay.port, data))]
            findings.answered_raw(number, statuses)
        except TimeoutError:
            findings.problem(f"nonsense {number} left the connection open")


def exchange(port: int, data: bytes) -> bytes:
    """The answer to these bytes when nothing follows them. Raises TimeoutError when the connection stays open."""
    answers = b""
    with socket.create_connection(("127.0.0.1", port), timeout=Connection.whole_within_s + 5) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(65536):
                answers += part
        except ConnectionError:
            pass  # reset, because the relay has not read all of it
    return answers


def watch(it: World, findings: Findings, done: threading.Event) -> None:
    """Sends good notifications all the time, each over a new connection, as Khoros may."""
    for number in itertools.count():
        sent = Sent(json.dumps(good(f"good-{number}")).encode())
        connection = http.client.HTTPConnection("127.0.0.1", it.relay.port, timeout=30)
        started = time.monotonic()
        try:
            findings.answered(-number, sent, *post(connection, it.token, sent, in_chunks=False))
        except (OSError, http.client.HTTPException) as error:
            findings.problem(f"a good request got no answer ({type(error).__name__})")
        findings.good_s.append(time.monotonic() - started)
        connection.close()
        if done.wait(0.05):
            return


def good(name: str) -> dict[str, Any]:
    data = {"labels": ["CreateCase"], "items": [{"entityId": f"twitter:{name}", "text": CANARIES[0], "author": "Jo"}]}
    return {"companyId": 123, "eventName": "stream-item-label-applied", "eventUuid": name, "data": data}


def hold_open(it: World, findings: Findings, count: int) -> None:
    """Begins requests and never finishes them: the relay must cut each."""
    head = f"POST /notifications HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {it.token}\r\n".encode()
    kinds = [
        head,
        head + b"Content-Length: 500\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{",
        b"",
        b"POST",
    ]
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", it.relay.port))) for _ in range(count)]
        for sock, kind in zip(socks, itertools.cycle(kinds)):
            sock.sendall(kind)
        end_at = time.monotonic() + Connection.whole_within_s + GOOD_WITHIN_S
        for sock in socks:
            sock.settimeout(max(0.01, end_at - time.monotonic()))
            try:
                findings.half_open_cut += sock.recv(100)[:12] in (b"", b"HTTP/1.1 408")
            except OSError:
                findings.problem("an unfinished request was not cut")


def drain(it: World, findings: Findings, timeout_s: float) -> None:
    """Waits until every item is delivered or parked."""
    end_at = time.monotonic() + timeout_s
    while time.monotonic() < end_at:
        if not it.rows("1", "state = 'pending' AND event_uuid NOT LIKE 'good-%' LIMIT 1"):
            return
        time.sleep(0.2)
    waiting = it.rows("1", "state = 'pending' AND event_uuid NOT LIKE 'good-%'")
    findings.problem(f"{len(waiting)} items were neither delivered nor parked")


def judge(it: World, findings: Findings) -> None:
    """The checks at the end."""
    rows = set(it.rows("event_uuid, subject_id"))
    if missing := findings.expected - rows:
        findings.problem(f"{len(missing)} accepted rows are not in the database, for example {min(missing)}")
    kept = len(it.rows("1", "event_uuid NOT LIKE 'unreadable:%' AND event_uuid NOT LIKE 'nonsense%'"))
    if kept != findings.accepted:
        findings.problem(f"{findings.accepted} were acknowledged as new, {kept} are in the database")
    if max(findings.good_s) > GOOD_WITHIN_S:
        findings.problem(f"a good request took {max(findings.good_s):.1f} s")
    if findings.rss[-1] - findings.rss[0] > GROWTH_LIMIT:
        findings.problem(f"the worker grew by {(findings.rss[-1] - findings.rss[0]) >> 20} MiB")
    if requests.get(f"{it.relay.url}/health", timeout=10).status_code != 200:
        findings.problem("/health is not 200 at the end")
    private = [*CANARIES, it.token, *(it.relay.env[name] for name in ("SPREDFAST_API_TOKEN", "ZENDESK_CLIENT_SECRET"))]
    for line in (IDS.sub("", line) for line in it.relay.output):
        if BROKEN.search(line) or not line.startswith("at=") or any(word in line for word in private):
            findings.problem(f"in the log: {line[:300]}")


def report(findings: Findings, started: float) -> int:
    good_ms = sorted(seconds * 1000 for seconds in findings.good_s)
    print(f"answers to bodies     {dict(sorted(findings.answers.items()))}, {findings.accepted} posts accepted")
    print(f"answers to nonsense   {dict(sorted(findings.raw_answers.items()))}")
    print(
        f"good requests beside  {len(good_ms)}: p50 {good_ms[len(good_ms) // 2]:.0f} ms, slowest {good_ms[-1]:.0f} ms"
    )
    print(f"unfinished requests   {findings.half_open_cut} cut")
    print(f"worker's memory, MiB  {[size >> 20 for size in findings.rss]} after each fifth and at the end")
    print(f"took                  {time.monotonic() - started:.0f} s")
    for problem in findings.problems[:20]:
        print(f"PROBLEM: {problem}")
    print(f"{len(findings.problems)} problems")
    return 1 if findings.problems else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the real process.")
    parser.add_argument("--bodies", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--half-open", type=int, default=200)
    parser.add_argument(
        "--show", type=int, help="print this body of the run with this number and this seed, send nothing"
    )
    options = parser.parse_args(arguments)
    if options.show is not None:
        sent = Bodies(options.bodies, options.seed)[options.show]
        print(sent.headers, sent.body)
        return 0
    print(f"BODIES={options.bodies} SEED={options.seed}", flush=True)
    started = time.monotonic()
    return report(run(options.bodies, options.seed, options.half_open), started)


if __name__ == "__main__":
    sys.exit(main())
