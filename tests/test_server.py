"""Slow, broken and silent senders: they cost themselves something, and nobody else."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import create_autospec

import pytest
import requests
import uvicorn
from conftest import TEXT, TOKEN, alone, events, fields_of, notification, wait_for
from uvicorn.server import ServerState

from sandbox.relay import ROOT, Relay
from server import HEAD_LIMIT, PIPELINE_LIMIT, Connection, Server, Worker

GET = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"
LAST = GET[:-2] + b"Connection: close\r\n\r\n"
READ = b"POST /read HTTP/1.1\r\nHost: relay\r\n"
EARLY = b"POST /early HTTP/1.1\r\nHost: relay\r\n"
CHUNKED = READ + b"Transfer-Encoding: chunked\r\n\r\n"
NO_METHOD, NO_ADDRESS = "Invalid method encountered", "the request's address cannot be read"
SENSELESS = {  # and a word of the rule that is broken
    "line feeds alone": (b"GET / HTTP/1.1\nHost: relay\n\n", "Expected CRLF"),
    "no request at all": (b"NONSENSE\r\n\r\n", NO_METHOD),
    "the beginning of TLS": (b"\x16\x03\x01\x02\x00\x01\x00", NO_METHOD),
    "another protocol's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "Upgrade"),
    "a tunnel": (b"CONNECT relay:443 HTTP/1.1\r\nHost: relay\r\n\r\n", "another protocol"),
    "no slash": (b"GET notifications HTTP/1.1\r\nHost: relay\r\n\r\n", "url"),
    "an address without a path": (b"GET http://relay HTTP/1.1\r\nHost: relay\r\n\r\n", NO_ADDRESS),
    "a byte that no address has": (b"GET /n\xff HTTP/1.1\r\nHost: relay\r\n\r\n", "url"),
    "two lengths": (READ + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "Duplicate Content-Length"),
    "a length and chunks": (
        READ + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding can't be present with Content-Length",
    ),
    "a length of 5,000 digits": (READ + b"Content-Length: " + b"1" * 5_000 + b"\r\n\r\n", "Content-Length overflow"),
    "a length in words": (READ + b"Content-Length: five\r\n\r\n", "Content-Length"),
    "a length with a sign": (READ + b"Content-Length: +5\r\n\r\nabcde", "Content-Length"),
    "a coding nobody knows": (READ + b"Transfer-Encoding: rot13\r\n\r\n", "Transfer-Encoding"),
    "a chunk without a size": (CHUNKED + b"xyz\r\n", "chunk size"),
    "a chunk longer than it says": (CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", "chunk data"),
    "a zero byte in a chunk's extension": (CHUNKED + b"1;\x00\r\na\r\n0\r\n\r\n", "chunk extensions"),
    "a blank before a colon": (b"GET / HTTP/1.1\r\nHost : relay\r\n\r\n", "header token"),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: relay\r\nX: a\r\n b\r\n\r\n", "header value"),
}
ENDLESS = {
    "a head of one long line": b"GET / HTTP/1.1\r\nX-Long: " + b"x" * HEAD_LIMIT,
    "a head of many long lines": b"GET / HTTP/1.1\r\n" + (b"X-Long: " + b"x" * 8_000 + b"\r\n") * 20,
    "a long address": b"GET /" + b"x" * HEAD_LIMIT + b" HTTP/1.1\r\n\r\n",
    "many short headers": b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 8_000 + b"\r\n",
    "a chunk's size": CHUNKED + b"0" * 300_000,
    "a trailer": CHUNKED + b"0\r\nX-Long: " + b"x" * 300_000,
}
UNFINISHED = {
    "nothing": (b"", b""),
    "half a head": (READ, b"408"),
    "half a head behind a whole request": (GET + READ, b"200 408"),
    "half a head behind a body": (READ + b"Content-Length: 1\r\n\r\nx" + READ, b"200 408"),
    "half a body": (READ + b'Content-Length: 500\r\n\r\n{"eventName": ', b"408"),
    "half a chunk": (CHUNKED + b"50\r\n{", b"408"),
    "half a body nobody asks for": (EARLY + b"Content-Length: 500\r\n\r\n{", b"401"),
    "a length with zeros before it": (READ + b"Content-Length: 0000000000000000000000000500\r\n\r\n{", b"408"),
    "a huge body, hardly begun": (EARLY + b"Content-Length: 9999999999\r\n\r\n{", b"401"),
}


class Served:
    """The worker's server in a thread of this process, with an app that does what the path says."""

    def __init__(
        self,
        most_connections: int = 1000,
        keep_alive_s: int = 95,
        graceful_s: int = 8,
        leave_after_s: float = 0.0,
        **limits: float,
    ) -> None:
        protocol = type("Quick", (Connection,), {**limits, "most": most_connections})
        times = {"timeout_keep_alive": keep_alive_s, "timeout_graceful_shutdown": graceful_s}
        options = {**Worker.CONFIG_KWARGS, "http": protocol, "log_config": None, **times}
        self.stopped_claiming = threading.Event()
        relay = SimpleNamespace(stop_claiming=self.stopped_claiming.set)
        self.worker: Any = SimpleNamespace(
            config=uvicorn.Config(self.app, **options),  # type: ignore[arg-type]  # the options have many types
            wsgi=SimpleNamespace(extensions={"relay": relay}),
            alive=True,
            ppid=os.getppid(),
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=300)
        self.address = self.listener.getsockname()
        self.server = Server(cast(Worker, self.worker))
        self.server.leave_after_s = leave_after_s
        self.at_work = threading.Semaphore(0)  # one for each request to /wait
        self.go_on = threading.Event()
        self.gone = threading.Event()  # a sender hung up before its request was whole
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()))

    def __enter__(self) -> Served:
        self.thread.start()
        wait_for(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()

    async def serve(self) -> None:
        """As the worker does; in the end the process is gone, and with it what is still connected."""
        await self.server.serve([self.listener])
        for connection in list(cast("set[Connection]", self.server.server_state.connections)):
            connection.transport.abort()
        await asyncio.sleep(0)

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=20)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        path, body, more = scope["path"], b"hello", scope["path"] in ("/read", "/later")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return
            body, more = body + message["body"], message["more_body"]
        if path == "/wait":
            self.at_work.release()
            while not self.go_on.is_set():
                await asyncio.sleep(0.005)
        if path == "/later":
            await asyncio.sleep(0.001)
        if path == "/big":
            body = b"x" * 20_000_000
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 401 if path == "/early" else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture
def served(shared: Served, caplog: pytest.LogCaptureFixture) -> Served:
    """A server with the usual limits, for tests that leave it as it is."""
    caplog.set_level("INFO", "relay")
    shared.gone.clear()
    return shared


def all_of(sock: socket.socket) -> bytes:
    """All that comes back until the other side ends the connection."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def answer(served: Served, data: bytes) -> bytes:
    """All that comes back on a connection of its own until the server ends it."""
    with served.connect() as sock:
        sock.sendall(data)
        return all_of(sock)


def read_hello(sock: socket.socket, rest: bytes = b"") -> bytes:
    """An answer on a connection that stays."""
    received = b""
    while not received.endswith(b"hello" + rest):
        received += sock.recv(65536)
    return received


def statuses(data: bytes) -> bytes:
    return b" ".join(re.findall(rb"HTTP/1.1 (\d+)", data))


# What makes no sense or has no end


@pytest.mark.parametrize(("data", "rule"), SENSELESS.values(), ids=SENSELESS.keys())
def test_what_makes_no_sense_is_refused_with_the_rule_that_it_breaks_and_not_quoted(
    data: bytes, rule: str, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    head, _, body = answer(served, data).decode().partition("\r\n\r\n")
    line = fields_of(caplog, "request_refused")
    assert (line["level"], line["status"]) == (30, 400) and rule in line["reason"]
    assert head.startswith("HTTP/1.1 400 Bad Request\r\n") and body == f"Bad Request: {line['reason']}"
    assert not any(word in body for word in ("five", "rot13", "xyz", "NONSENSE", "notifications", "http://"))


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_has_no_end_is_refused(data: bytes, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with served.connect() as sock:
        with suppress(ConnectionError):  # it may be hung up on before all is sent
            sock.sendall(data)
        assert sock.recv(12) == b"HTTP/1.1 431"
    line = fields_of(caplog, "request_refused")
    assert line["status"] == 431 and f"{HEAD_LIMIT} bytes" in line["reason"]


def test_a_head_may_be_long_and_come_in_parts(served: Served) -> None:
    data = LAST[:-2] + b"X-Long: ".ljust(HEAD_LIMIT - len(LAST) - 2, b"x") + b"\r\n\r\n"
    with served.connect() as sock:
        for at in range(0, len(data), 5_000):
            sock.sendall(data[at : at + 5_000])
        assert statuses(all_of(sock)) == b"200"


def test_senders_that_do_not_hang_up_after_an_error_delay_nobody(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(served.connect()).sendall(b"NONSENSE\r\n\r\n")
        assert statuses(answer(served, LAST)) == b"200"


@pytest.mark.parametrize("data", [b"NONSENSE\r\n\r\n", EARLY + b"Content-Length: 999999999\r\n\r\n"])
def test_a_refused_sender_that_goes_on_is_hung_up_on(data: bytes) -> None:
    def hung_up() -> bool:
        try:
            sock.sendall(b"x")
        except ConnectionError:
            return True
        return False

    with Served(whole_within_s=0.5, linger_s=0.2) as served, served.connect() as sock:
        sock.sendall(data)
        wait_for(hung_up, 20)


def test_a_good_request_before_a_senseless_one_is_answered(served: Served) -> None:
    for good in (GET, READ + b"Content-Length: 1\r\n\r\nx"):
        assert statuses(answer(served, good + b"NONSENSE\r\n\r\n")) == b"200"


def test_a_body_that_breaks_off_into_nonsense_ends_the_reading_at_once() -> None:
    with Served(linger_s=20.0) as served, served.connect() as sock:
        sock.sendall(CHUNKED + b"1\r\nx\r\nNONSENSE\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 400"
        assert served.gone.wait(10)


def test_who_expects_a_word_to_go_on_and_sends_nonsense_gets_no_second_answer(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    head = READ + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(answer(served, head + b"NONSENSE\r\n\r\n")) == b"400"
    assert statuses(answer(served, LAST)) == b"200"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_wish_for_another_protocol_in_two_parts_is_refused(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall(READ + b"Connection: Upgrade\r\nUpgr")
        wait_for(lambda: any(c.size for c in cast("set[Connection]", served.server.server_state.connections)))
        sock.sendall(b"ade: h2c\r\nContent-Length: 3\r\n\r\nabc")
        assert statuses(all_of(sock)) == b"400"


# What is not whole in time


def test_unfinished_requests_delay_nobody_and_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    with Served(whole_within_s=2.0, linger_s=0.2) as served, ExitStack() as stack:
        socks = [stack.enter_context(served.connect()) for _ in range(10 * len(UNFINISHED))]
        kinds = list(UNFINISHED.values()) * 10
        for sock, (data, _) in zip(socks, kinds, strict=True):
            sock.sendall(data)
        assert statuses(answer(served, LAST)) == b"200"
        assert [statuses(all_of(sock)) for sock in socks] == [expected for _, expected in kinds]
    assert set(events(caplog)) == {"request_cut"}


def test_a_slow_sender_that_gets_there_is_answered(served: Served) -> None:
    data = READ + b"Connection: close\r\nContent-Length: 500\r\n\r\n" + b"x" * 500
    with served.connect() as sock:
        for byte in data:
            sock.sendall(bytes([byte]))
        assert all_of(sock).endswith(b"hello" + b"x" * 500)


def test_an_answer_that_is_not_out_in_time_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with Served(answered_within_s=0.3) as served, served.connect() as never_reads, served.connect() as waits:
        never_reads.sendall(GET.replace(b"/", b"/big", 1))
        waits.sendall(GET.replace(b"/", b"/wait", 1))
        assert waits.recv(1) == b""
        wait_for(lambda: events(caplog) == ["request_cut"] * 2)
        with pytest.raises(ConnectionError):
            while never_reads.recv(1_000_000):
                pass
            raise ConnectionError  # or it ends before its length


def test_an_idle_connection_is_closed_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with Served(keep_alive_s=1) as served, served.connect() as sock:
        sock.sendall(GET)
        assert statuses(all_of(sock)) == b"200"
    assert events(caplog) == []


@pytest.mark.parametrize(
    "data",
    [EARLY + b"Content-Length: 3\r\n\r\n", GET],
    ids=["an early answer and then the body", "an answer and then a blank line"],
)
def test_a_connection_is_idle_again_whatever_came_after_its_answer(data: bytes) -> None:
    with Served(keep_alive_s=1) as served, served.connect() as sock:
        sock.sendall(data)
        assert read_hello(sock)
        sock.sendall(b"abc" if data.startswith(EARLY) else b"\r\n")
        assert sock.recv(1) == b""


# Requests and their answers


def test_pipelined_requests_are_answered_in_turn(served: Served) -> None:
    data = (GET + READ + b"Content-Length: 3\r\n\r\nabc" + CHUNKED + b"1\r\nd\r\n0\r\n\r\n") * 30 + LAST
    with served.connect() as sock:
        threading.Thread(target=sock.sendall, args=(data,)).start()
        received = all_of(sock)
    assert re.findall(rb"\r\n\r\n(\w*)", received.replace(b"HTTP/1.1", b"\n")) == [
        *[b"hello", b"helloabc", b"hellod"] * 30,
        b"hello",
    ]


def test_who_sends_too_many_requests_at_once_is_answered_in_part_and_hung_up_on(served: Served) -> None:
    data = (READ.replace(b"/read", b"/later") + b"Content-Length: 1\r\n\r\nx") * 40_000  # 2.5 MB
    with served.connect() as sock:
        sending = ThreadPoolExecutor(1).submit(sock.sendall, data)
        received = b""
        with suppress(ConnectionError):
            received = all_of(sock)
        sending.exception(20)  # it is over, with an error or not
    assert received.count(b"HTTP/1.1 200") <= PIPELINE_LIMIT + 2


def test_a_sender_that_says_no_more_still_gets_its_answers() -> None:
    wait = GET.replace(b"/", b"/wait", 1)
    with Served() as served, served.connect() as one, served.connect() as two:
        for sock, data in ((one, wait), (two, wait + GET)):
            sock.sendall(data)
            assert served.at_work.acquire(timeout=10)
            sock.shutdown(socket.SHUT_WR)
        connections = cast("set[Connection]", served.server.server_state.connections)
        wait_for(lambda: any(not connection.cycle.keep_alive for connection in connections))
        served.go_on.set()
        assert (statuses(all_of(one)), statuses(all_of(two))) == (b"200", b"200 200")


def test_an_answer_goes_out_before_the_body_is_read_and_the_rest_is_thrown_away(served: Served) -> None:
    for _ in range(20):
        with served.connect() as sock:
            sock.sendall(EARLY + b"Content-Length: 3000000\r\n\r\n")
            assert read_hello(sock).startswith(b"HTTP/1.1 401")
            sock.sendall(b"x" * 3_000_000 + LAST)
            assert statuses(all_of(sock)) == b"200"


def test_an_answer_after_the_end_of_a_request_keeps_the_connection(served: Served) -> None:
    with served.connect() as sock:
        for _ in range(3):
            sock.sendall(READ + b"Content-Length: 3\r\n\r\nabc")
            assert b"connection" not in read_hello(sock, b"abc").lower()


@pytest.mark.parametrize("name", [b"websocket", b"h2c"])
def test_a_wish_for_another_protocol_is_answered_like_any_request_and_its_body_is_read(
    name: bytes, served: Served
) -> None:
    wish = b"Connection: Upgrade, close\r\nUpgrade: %s\r\nContent-Length: 3\r\n\r\nabc" % name
    assert answer(served, READ + wish).endswith(b"\r\n\r\nhelloabc")


def test_who_hangs_up_in_the_middle_is_noticed_and_has_no_other_line(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served.connect() as sock:
        sock.sendall(READ + b"Content-Length: 500\r\n\r\n{")
    assert served.gone.wait(10)
    assert statuses(answer(served, LAST)) == b"200"
    assert events(caplog) == []


def test_the_word_to_go_on_is_given_once(served: Served) -> None:
    with served.connect() as sock:
        sock.sendall(READ + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert statuses(all_of(sock)) == b"200"


# Many connections


def test_no_more_connections_are_kept_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    with Served(most_connections=20) as served, ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(served.connect())
        wait_for(lambda: events(caplog) == ["connection_dropped"] * 10)
        assert len(served.server.server_state.connections) == 20


def test_a_connection_that_was_reset_is_forgotten() -> None:
    with Served() as served, served.connect() as sock:
        sock.sendall(GET)
        assert read_hello(sock)
        [connection] = map(weakref.ref, served.server.server_state.connections)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        wait_for(lambda: gc.collect() >= 0 and connection() is None)


def test_connections_that_come_at_once_push_out_one_each(caplog: pytest.LogCaptureFixture) -> None:
    protocol: Any = type("Two", (Connection,), {"most": 2})
    transports = [create_autospec(asyncio.Transport, instance=True) for _ in range(5)]

    async def come() -> None:
        config = uvicorn.Config(lambda: None, log_config=None)
        state = ServerState()
        for transport in transports:
            transport.get_extra_info.return_value = None
            transport.is_closing.return_value, transport.get_write_buffer_size.return_value = False, 0
            protocol(config, state, {}, asyncio.get_running_loop()).connection_made(transport)

    with ThreadPoolExecutor(1) as thread:  # the browser's event loop may be running in this one
        thread.submit(asyncio.run, come()).result(20)
    assert [transport.abort.call_count for transport in transports] == [1, 1, 1, 0, 0]
    assert events(caplog) == ["connection_dropped"] * 3


def test_the_connection_that_was_idle_longest_makes_room_and_none_that_is_busy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Served(most_connections=3) as served, ExitStack() as stack:
        busy, first, second = (stack.enter_context(served.connect()) for _ in range(3))
        busy.sendall(GET.replace(b"/", b"/wait", 1))
        for sock in (second, first):  # the second is idle longer
            sock.sendall(GET)
            assert read_hello(sock)
        assert served.at_work.acquire(timeout=10)
        assert statuses(answer(served, LAST)) == b"200"
        assert second.recv(1) == b""
        served.go_on.set()
        for sock in (first, busy):
            sock.sendall(LAST)
            assert statuses(all_of(sock)).endswith(b"200")
    assert events(caplog) == ["connection_dropped"]


def test_when_all_are_busy_the_new_connection_is_dropped() -> None:
    with Served(most_connections=1) as served, served.connect() as busy:
        busy.sendall(GET.replace(b"/", b"/wait", 1))
        assert served.at_work.acquire(timeout=10)
        with served.connect() as new:
            assert new.recv(1) == b""
        served.go_on.set()
        assert read_hello(busy)


# The end of the server


def stopping(served: Served) -> None:
    """Stops the server and waits until it goes about it."""
    served.stop()
    assert served.stopped_claiming.wait(10)


def test_a_stop_waits_for_an_answer_that_is_due_and_for_no_idle_connection() -> None:
    with Served() as served, served.connect() as idle, served.connect() as busy:
        idle.sendall(GET)
        assert read_hello(idle)
        busy.sendall(GET.replace(b"/", b"/wait", 1))
        assert served.at_work.acquire(timeout=10)
        stopping(served)
        assert idle.recv(1) == b""
        assert served.thread.is_alive()
        served.go_on.set()
        assert b"connection: close" in all_of(busy)
        served.thread.join(10)
        assert not served.thread.is_alive()


def test_a_stop_still_answers_who_comes_a_moment_later_and_who_has_begun() -> None:
    with Served(leave_after_s=3.0) as served, served.connect() as begun:
        begun.sendall(READ + b"Content-Length: 3\r\n\r\na")
        wait_for(lambda: served.server.server_state.tasks)
        stopping(served)
        begun.sendall(b"bc")
        received = answer(served, GET)
        assert statuses(received) == b"200" and b"connection: close" in received
        assert statuses(all_of(begun)) == b"200"


def test_a_stop_waits_only_shortly_for_unfinished_requests_and_for_who_never_reads() -> None:
    with Served(graceful_s=1) as served, ExitStack() as stack:
        for data, _ in UNFINISHED.values():
            stack.enter_context(served.connect()).sendall(data)
        stack.enter_context(served.connect()).sendall(GET.replace(b"/", b"/big", 1))
        assert statuses(answer(served, LAST)) == b"200"
        started = time.monotonic()
        stopping(served)
        served.thread.join(20)
        assert not served.thread.is_alive() and time.monotonic() - started < 15


def test_a_server_ends_with_its_parent_and_does_not_begin_when_it_was_told_to_stop() -> None:
    with Served() as served:
        served.worker.ppid = 0
        served.thread.join(10)
        assert not served.thread.is_alive()
    never = Served()
    never.listener.close()
    never.worker.alive = False
    assert Server(never.worker).should_exit


# The real process


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(env=alone(tmp_path_factory.mktemp("relay"))) as relay:
        yield relay.wait_ready()


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(("127.0.0.1", relay.port), timeout=20)


def post(event: str, length: int | None = None) -> bytes:
    """The bytes of a good notification, or of one that states another length."""
    body = json.dumps(notification(event)).encode()
    size = len(body) if length is None else length
    token = f"Authorization: Bearer {TOKEN}"
    return f"POST /notifications HTTP/1.1\r\nHost: r\r\n{token}\r\nContent-Length: {size}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "target",
    ["/notifications/", "//notifications", "http://relay/notifications", "http://relay:80/notifications/?x=1"],
)
def test_a_slash_too_many_and_a_whole_address_are_taken(target: str, relay: Relay) -> None:
    with connect(relay) as sock:
        sock.sendall(post(f"at {target}").replace(b"/notifications", target.encode(), 1))
        assert sock.recv(12) == b"HTTP/1.1 202"


def test_a_notification_is_accepted_and_a_body_over_the_limit_gets_its_answer(relay: Relay) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for body, status in ((json.dumps(notification("good")), 202), ("x" * 3_000_000, 413)):
        assert requests.post(f"{relay.url}/notifications", data=body, headers=headers, timeout=20).status_code == status


def test_what_a_broken_request_quotes_is_not_logged(relay: Relay) -> None:
    """A length that is too short makes a request line of the rest of the body."""
    data, lines = post("short"), len(relay.output)
    with connect(relay) as sock:
        sock.sendall(post("short", data.index(TEXT.encode()) - data.index(b"{")) + b"\r\n\r\n")
        all_of(sock)
    relay.wait_for_line("event=request_refused", after=lines)
    assert TEXT.split()[-1] not in "\n".join(relay.output)


def test_senders_cannot_fill_the_memory(relay: Relay) -> None:
    before = relay.rss_bytes()
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(connect(relay))
            with suppress(ConnectionError):  # cut
                sock.sendall(post("large", 1_000_000) + b"x" * 900_000)
        assert relay.rss_bytes() - before < 100 * 1024 * 1024
        with connect(relay) as sock:
            sock.sendall(post("good"))
            assert sock.recv(12) == b"HTTP/1.1 202"
    relay.wait_for_line("event=too_much_at_once")


def test_strangers_cannot_fill_the_memory_with_what_nobody_reads(relay: Relay) -> None:
    before = relay.rss_bytes()
    unread = b"POST /health HTTP/1.1\r\nHost: r\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 900_000
    with ExitStack() as stack:
        for data in [unread] * 50 + [b"GET /static/style.css HTTP/1.1\r\n\r\n" * 30_000] * 50:
            sock = stack.enter_context(connect(relay))
            sock.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                for _ in range(10):
                    sock.send(data)
        with connect(relay) as sock:
            sock.sendall(post("good too"))
            assert sock.recv(12) == b"HTTP/1.1 202"
        assert relay.rss_bytes() - before < 60 * 1024 * 1024


def test_strangers_cannot_fill_the_memory_with_a_body_behind_many_requests(relay: Relay) -> None:
    """Each answer makes room to read on, while the last request's body waits for its turn."""
    before, get = relay.rss_bytes(), b"GET /static/style.css HTTP/1.1\r\nHost: r\r\n\r\n"
    data = get * 90 + b"POST /health HTTP/1.1\r\nHost: r\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 30_000_000
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(relay)) for _ in range(10)]
        for sock in socks:
            threading.Thread(target=send_quietly, args=(sock, data), daemon=True).start()
        for sock in socks:
            received = b""
            while received.count(b"HTTP/1.1 200") < 90:
                received += sock.recv(65536)
        assert relay.rss_bytes() - before < 100 * 1024 * 1024


def send_quietly(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)


def test_the_file_of_the_inbox_is_its_owners_alone(relay: Relay) -> None:
    """It holds customers' posts."""
    file = Path(relay.env["DATABASE_URL"].removeprefix("sqlite:///"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_sigterm_lets_a_commit_be_answered(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay, connect(relay.wait_ready()) as busy:
        with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")  # nobody else can commit now
            busy.sendall(post("in flight"))
            with connect(relay) as sock:  # is answered after the notification has been read
                sock.sendall(b"GET /static/style.css HTTP/1.1\r\nHost: r\r\n\r\n")
                assert sock.recv(12) == b"HTTP/1.1 200"
            ending = threading.Thread(target=relay.stop)
            ending.start()
            relay.wait_for_line("Handling signal: term")
            file.execute("ROLLBACK")
        assert busy.recv(12) == b"HTTP/1.1 202"
        ending.join(25)
        relay.wait_for_line("Worker exiting")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_every_signal_to_end_ends_the_process_and_the_background_work(number: int, tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay:
        master, *workers = relay.wait_ready().pids
        os.kill(master, number)
        wait_for(lambda: not relay.running, 20)
        assert relay.stop() == 0
        assert workers and not [line for line in relay.output if "exception" in line.lower() or "sent SIG" in line]


def test_a_worker_ends_when_its_master_was_killed(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay:
        master, worker = relay.wait_ready().pids
        os.kill(master, signal.SIGKILL)
        wait_for(lambda: not relay.running and worker not in relay.pids, 20)


def test_an_installed_uvloop_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise SystemExit('nobody asks for it')", encoding="utf-8")
    with Relay(env=alone(tmp_path, PYTHONPATH=str(tmp_path))) as relay, connect(relay.wait_ready()) as sock:
        sock.sendall(post("good"))
        assert sock.recv(12) == b"HTTP/1.1 202"


def test_gunicorns_own_settings_bound_the_connections(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path, GUNICORN_CMD_ARGS="--worker-connections 20")) as relay, ExitStack() as stack:
        relay.wait_ready()
        for _ in range(30):
            stack.enter_context(connect(relay))
        wait_for(lambda: sum("event=connection_dropped" in line for line in relay.output) >= 10)


def start(tmp_path: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """gunicorn's own end, for a start that fails."""
    command = [sys.executable, "-m", "gunicorn", "app:create_app()", *arguments]
    env = {**os.environ, **alone(tmp_path), "PYTHON_DOTENV_DISABLED": "1", **changes}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_second_start_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        second = start(tmp_path, "--bind", f"127.0.0.1:{taken.getsockname()[1]}")
    assert second.returncode == 1
    assert "event=not_started" in second.stdout and "end the program that has the port" in second.stdout


def test_faulty_settings_are_named_once_and_end_the_start(tmp_path: Path) -> None:
    failed = start(tmp_path, "--bind", "127.0.0.1:0", WEB_CONCURRENCY="3", SPREDFAST_COMPANY_ID="acme")
    assert failed.returncode != 0 and failed.stderr.count("SPREDFAST_COMPANY_ID") == 1
