"""Who sends: wrk for as much as possible, and an open loop that does not wait for answers."""

from __future__ import annotations

import gc
import http.client
import json
import select
import socket
import subprocess
import time
import uuid
from collections import deque
from contextlib import closing
from dataclasses import dataclass

from sides import COMPANY_ID, HERE, LABEL, TOKEN, Side

CONNECTIONS = 50
MOST_UNANSWERED = 1000  # select takes 1,024 at most
PATIENCE_S = 30.0
WARM_UP = 20  # connections that are open when an open loop begins


@dataclass(frozen=True)
class Ack:
    """An answered notification: its post, when it was due (time.perf_counter), and how much later it was answered."""

    post: str
    due: float
    took_ms: float
    accepted: bool


@dataclass(eq=False)
class _Connection:
    socket: socket.socket
    received: bytes = b""
    post: str = ""
    due: float = 0.0


def saturate(side: Side, seconds: int) -> int:
    """Sends as much as wrk can over 50 connections, each notification once. Gives the number of
    acknowledgements. Raises RuntimeError when one was refused."""
    url = f"http://127.0.0.1:{side.port}{side.path}"
    options = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "--timeout", "10s", "-s", str(HERE / "acks.lua"), url]
    command = ["wrk", *options, "--", TOKEN, LABEL, str(COMPANY_ID)]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own command
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"wrk: {error}") from error
    figures = json.loads(output.splitlines()[-1])
    if figures["failed"]:
        raise RuntimeError(f"{figures['failed']} notifications were refused or not answered")
    return int(figures["acks"])


def open_loop(side: Side, per_s: float, count: int) -> list[Ack]:
    """Sends notifications at a steady rate, whether earlier ones are answered or not. Raises RuntimeError when some are
    still without an answer after 30 s."""
    gc.collect()
    gc.disable()  # its pauses would count as the relay's
    try:
        return _open_loop(side, per_s, count)
    finally:
        gc.enable()


def first_ack(side: Side) -> float:
    """Sends a notification again and again until one is acknowledged; gives the seconds this takes."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    begin = time.perf_counter()
    while time.perf_counter() < begin + PATIENCE_S:
        with closing(http.client.HTTPConnection("127.0.0.1", side.port, timeout=PATIENCE_S)) as connection:
            connection.request("POST", side.path, notification("twitter:first"), headers)
            if connection.getresponse().status < 300:
                return time.perf_counter() - begin
        time.sleep(0.005)
    raise RuntimeError("no notification was acknowledged after the start")


def _open_loop(side: Side, per_s: float, count: int) -> list[Ack]:
    """One thread keeps the time: select waits by the microsecond."""
    idle = deque(_connect(side) for _ in range(WARM_UP))  # used in turn: the relay cuts connections that send nothing
    busy: dict[socket.socket, _Connection] = {}
    acks: list[Ack] = []
    begin, sent = time.perf_counter() + 0.1, 0
    try:
        while len(acks) < count:
            due = begin + sent / per_s
            wait_s = min(max(0.0, due - time.perf_counter()), 1.0) if sent < count else 1.0
            ready, _, _ = select.select(list(busy), [], [], wait_s)
            for found in ready:
                if ack := _answer(busy[found]):
                    acks.append(ack)
                    connection = busy.pop(found)
                    idle.append(connection if ack.accepted else _connect(side))
            if sent < count and time.perf_counter() >= due:
                connection = idle.popleft() if idle else _connect(side)
                _ask(connection, side, due)
                busy[connection.socket] = connection
                sent += 1
            if len(busy) > MOST_UNANSWERED or time.perf_counter() > begin + count / per_s + PATIENCE_S:
                raise RuntimeError(f"{len(busy)} of {sent} notifications are without an answer")
    finally:
        for connection in [*idle, *busy.values()]:
            connection.socket.close()
    return acks


def _connect(side: Side) -> _Connection:
    connection = socket.create_connection(("127.0.0.1", side.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(connection)


def _ask(connection: _Connection, side: Side, due: float) -> None:
    connection.post, connection.due, connection.received = f"twitter:{uuid.uuid4().hex}", due, b""
    body = notification(connection.post)
    head = f"POST {side.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.socket.sendall(head.encode() + body)


def _answer(connection: _Connection) -> Ack | None:
    """The answer, when it is whole. A closed connection counts as a refusal."""
    try:
        piece = connection.socket.recv(65536)
    except ConnectionError:
        piece = b""
    connection.received += piece
    head, ended, body = connection.received.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    if piece and (not ended or len(body) < length):
        return None
    took_ms = (time.perf_counter() - connection.due) * 1000
    return Ack(connection.post, connection.due, took_ms, head.startswith(b"HTTP/1.1 20"))


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
