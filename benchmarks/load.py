"""Who sends: wrk for as much as goes, and an open loop that does not wait for answers, in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import select
import socket
import subprocess
import time
import uuid
from collections import deque
from dataclasses import dataclass, field

from sides import COMPANY_ID, HERE, LABEL, TOKEN, Side

CONNECTIONS = 50
WARM_UP = 20  # of an open loop's first answers do not count
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Ack:
    """An answered notification: its post, when it was due (time.perf_counter), and how much later it was answered."""

    post: str
    due: float
    took_ms: float


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    received: bytes = b""
    asked: list[tuple[str, float]] = field(default_factory=list)


def most_per_s(side: Side, seconds: int) -> float:
    """As many acknowledgements a second as wrk gets from one thread and 50 connections."""
    url = f"http://127.0.0.1:{side.port}{side.path}"
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--timeout", "10s", "-s", str(HERE / "acks.lua"), url]
    command = ["wrk", *options, "--", TOKEN, LABEL, str(COMPANY_ID)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own command
    figures = json.loads(output.splitlines()[-1])
    if figures["failed"]:
        raise RuntimeError(f"{figures['failed']} notifications were refused or not answered")
    return float(figures["per_s"])


def open_loop(side: Side, per_s: float, seconds: float) -> list[Ack]:
    """Notifications at a steady rate, whether the ones before are answered or not."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(_open_loop, (side, per_s, seconds))


def _open_loop(side: Side, per_s: float, seconds: float) -> list[Ack]:
    """select waits by the microsecond, so one thread keeps the time."""
    idle = deque(_connect(side) for _ in range(WARM_UP))  # in turn, for the relay cuts those that never ask
    busy: dict[socket.socket, _Connection] = {}
    acks: list[Ack] = []
    begun, count, sent = time.perf_counter() + 0.1, int(per_s * seconds), 0
    while len(acks) < count:
        due = begun + sent / per_s
        wait_s = min(max(0.0, due - time.perf_counter()), 1.0) if sent < count else 1.0
        ready, _, _ = select.select(list(busy), [], [], wait_s)
        for found in ready:
            if ack := _answered(busy[found]):
                acks.append(ack)
                idle.append(busy.pop(found))
        if sent < count and time.perf_counter() >= due:
            connection = idle.popleft() if idle else _connect(side)
            _ask(connection, side, due)
            busy[connection.socket] = connection
            sent += 1
        if time.perf_counter() > begun + seconds + PATIENCE_S:
            raise RuntimeError(f"{count - len(acks)} of {count} notifications were not answered")
    return acks


def _connect(side: Side) -> _Connection:
    connection = socket.create_connection(("127.0.0.1", side.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(connection)


def _ask(connection: _Connection, side: Side, due: float) -> None:
    post = f"twitter:{uuid.uuid4().hex}"
    body = notification(post)
    head = f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.asked, connection.received = [(post, due)], b""
    connection.socket.sendall(head.encode() + body)


def _answered(connection: _Connection) -> Ack | None:
    piece = connection.socket.recv(65536)
    connection.received += piece
    head, ended, body = connection.received.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    if piece and (not ended or len(body) < length):
        return None
    if not head.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"answered {head[:30]!r}")
    post, due = connection.asked.pop()
    return Ack(post, due, (time.perf_counter() - due) * 1000)


def notification(post: str) -> bytes:
    """The same as acks.lua's."""
    item = {
        "sfEntityType": "StreamItem",
        "entityId": post,
        "text": "The app ate my order again, and nobody answers the telephone. What now?",
        "author": "Mara Lind",
        "authorIcon": "https://pbs.example/mara.png",
        "authorId": "81",
        "authorLink": "https://twitter.example/mara",
        "authorScreenName": "mara",
        "initiativeIds": [12],
        "contentType": "post",
        "createdDate": "2011-05-26T18:23:31.000Z",
        "followerCount": "230",
        "labels": [LABEL],
        "notes": [],
        "link": "https://twitter.example/mara/status/1",
    }
    envelope = {
        "companyId": COMPANY_ID,
        "eventName": "stream-item-label-applied",
        "createdDate": "Wed Apr 12 09:01:11 CDT 2017",
        "type": "hydrated",
        "subscriptionUuid": "s-1",
        "eventUuid": post.removeprefix("twitter:"),
        "data": {"items": [item], "labels": [LABEL]},
    }
    return json.dumps(envelope).encode()
