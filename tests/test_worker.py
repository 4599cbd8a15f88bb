"""Slow, broken and silent senders: they cost themselves something, and nobody else."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
import requests
from conftest import TEXT, TOKEN, alone, notification, wait_for
from gunicorn.asgi import protocol as gasgi_protocol
from gunicorn.asgi.parser import PythonProtocol
from gunicorn.asgi.protocol import InvalidResponseHeader, InvalidResponseHeaderName
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.relay import ROOT, Relay
from worker import WHOLE_WITHIN_S, Parser, _scanned

HEAD = f"POST /notifications HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
GET = b"GET /health HTTP/1.1\r\nHost: relay\r\n\r\n"
SENSELESS = {
    "line feeds alone": b"GET / HTTP/1.1\nHost: relay\n\n",
    "no request at all": b"NONSENSE\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "a length of 5,000 digits": HEAD + b"Content-Length: " + b"1" * 5_000 + b"\r\n\r\n",
    "a length in words": HEAD + b"Content-Length: five\r\n\r\n",
    "a coding nobody knows": HEAD + b"Transfer-Encoding: rot13\r\n\r\n",
    "a chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a chunk longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "a chunk's size without an end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 20_000,
    "a zero in a chunk's extension": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;\x00\r\na\r\n0\r\n\r\n",
    "a head without an end": b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 20_000,
    "a head of many long lines": b"GET / HTTP/1.1\r\n" + (b"X-Long: " + b"x" * 8_000 + b"\r\n") * 20,
}
UNFINISHED = {
    "nothing": b"",
    "half a head": HEAD,
    "half a head behind a whole request": GET + HEAD,
    "half a body": HEAD + b'Content-Length: 500\r\n\r\n{"eventName": ',
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{",
    "half a body without the token": b"POST /notifications HTTP/1.1\r\nHost: relay\r\nContent-Length: 500\r\n\r\n{",
    "a length with zeros before it": HEAD + b"Content-Length: 0000000000000000000000000500\r\n\r\n{",
    "a huge body, hardly begun": HEAD + b"Content-Length: 9999999999\r\n\r\n{",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(env=alone(tmp_path_factory.mktemp("relay"))) as relay:
        yield relay.wait_ready()


def answer(relay: Relay, data: bytes, timeout_s: float = 5) -> bytes:
    """All that comes back on a connection of its own until the relay ends it."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=timeout_s) as sock:
        sock.sendall(data)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)


def took_s(relay: Relay) -> float:
    """How long a good notification takes, over a connection of its own."""
    started = time.monotonic()
    body, headers = notification(f"event-{started}"), {"Authorization": f"Bearer {TOKEN}"}
    taken = requests.post(f"{relay.url}/notifications", json=body, headers=headers, timeout=10)
    assert taken.status_code == 202
    return time.monotonic() - started


def silent(relay: Relay) -> bool:
    """Whether it writes no line for half a second."""
    lines = len(relay.output)
    return not threading.Event().wait(0.5) and len(relay.output) == lines


def test_two_hundred_unfinished_requests_delay_nobody_and_are_cut(relay: Relay) -> None:
    kinds = list(UNFINISHED.values())
    with ExitStack() as stack:
        begun = time.monotonic()
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", relay.port))) for _ in range(200)]
        for number, sock in enumerate(socks):
            sock.sendall(kinds[number % len(kinds)])
        assert max(took_s(relay) for _ in range(20)) < 2
        answers = set()
        for sock in socks:
            sock.settimeout(max(0.1, begun + WHOLE_WITHIN_S + 5 - time.monotonic()))
            said = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # type: ignore[misc]  # mypy: no default
            answers.add(b" ".join(re.findall(rb"HTTP/1.1 (\d+)", said)))
    assert answers == {b"", b"401", b"408", b"413", b"200 408"}
    relay.wait_for_line("event=request_cut")


@pytest.mark.parametrize("data", SENSELESS.values(), ids=SENSELESS.keys())
def test_what_makes_no_sense_is_answered_and_has_its_line_and_is_not_quoted(data: bytes, relay: Relay) -> None:
    lines = len(relay.output)
    head, _, body = answer(relay, data).partition(b"\r\n\r\n")
    assert head[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 501") and len(body) < 60
    relay.wait_for_line("event=(request|notification)_refused", after=lines)


def test_senders_that_do_not_hang_up_after_an_error_delay_nobody(relay: Relay) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
            sock.sendall(b"NONSENSE\r\n\r\n")
        assert max(took_s(relay) for _ in range(5)) < 2


@pytest.mark.parametrize("data", [b"NONSENSE\r\n\r\n", HEAD[:-2] + b"x\r\nContent-Length: 99999\r\n\r\n"])
def test_a_refused_sender_that_goes_on_is_hung_up_on(data: bytes, relay: Relay) -> None:
    def hung_up() -> bool:
        try:
            sock.sendall(b"x")
        except ConnectionError:
            return True
        return False

    with socket.create_connection(("127.0.0.1", relay.port)) as sock:
        sock.sendall(data)
        wait_for(hung_up)


def test_a_slow_sender_that_gets_there_is_answered(relay: Relay) -> None:
    body = json.dumps(notification("slow")).encode()
    data = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as sock:
        for byte in data:
            sock.sendall(bytes([byte]))
        assert sock.recv(100).startswith(b"HTTP/1.1 202")


def test_pipelined_requests_are_answered_in_turn(relay: Relay) -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert answer(relay, GET * 20 + last).count(b"HTTP/1.1 200") == 21


def test_a_sender_that_says_no_more_still_gets_its_answer(relay: Relay) -> None:
    body = json.dumps(notification("half closed")).encode()
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100).startswith(b"HTTP/1.1 202")
        while sock.recv(65536):
            pass


def test_an_answer_before_the_end_of_a_request_says_that_it_is_the_last(relay: Relay) -> None:
    data = HEAD[:-2] + b"x\r\nContent-Length: 99999\r\n\r\n"
    assert b"\r\nConnection: close\r\n" in answer(relay, data)


def test_a_wish_for_a_websocket_is_answered_like_any_request(relay: Relay) -> None:
    lines = len(relay.output)
    wish = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as sock:
        sock.sendall(GET[:-2] + wish + key + b"\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400")
    relay.wait_for_line("event=request method=GET path=/health status=400", after=lines)


def test_who_hangs_up_in_the_middle_has_a_line_that_says_so(relay: Relay) -> None:
    lines = len(relay.output)
    with socket.create_connection(("127.0.0.1", relay.port)) as sock:
        sock.sendall(UNFINISHED["half a body"])
    relay.wait_for_line("event=sender_gone", after=lines)
    took_s(relay)
    assert not [line for line in relay.output[lines:] if "request_refused" in line or "logger=" in line]


def test_the_word_to_go_on_is_given_once(relay: Relay) -> None:
    body = json.dumps(notification("expects")).encode()
    head = HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as sock:
        sock.sendall(head)
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(100).startswith(b"HTTP/1.1 202")


def test_a_body_over_the_limit_gets_its_answer(relay: Relay) -> None:
    body = b"x" * (3 * 1024 * 1024)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    taken = requests.post(f"{relay.url}/notifications", data=body, headers=headers, timeout=10)
    assert taken.status_code == 413


def test_senders_cannot_fill_the_memory(relay: Relay) -> None:
    before = relay.rss_bytes()
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
            sock.settimeout(5)
            try:
                sock.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 900_000)
            except ConnectionError:
                pass  # cut
        assert relay.rss_bytes() - before < 100 * 1024 * 1024
        assert took_s(relay) < 2
    relay.wait_for_line("event=too_much_at_once")


def test_what_is_quoted_of_a_broken_request_is_not_logged(relay: Relay) -> None:
    """A length that is too short makes a request line of the rest of the body."""
    body = json.dumps(notification("short")).encode()
    cut = body.index(TEXT.encode())
    lines = len(relay.output)
    answer(relay, HEAD + b"Content-Length: %d\r\n\r\n" % cut + body + b"\r\n\r\n")
    relay.wait_for_line("event=request_refused", after=lines)
    assert TEXT.split()[-1] not in "\n".join(relay.output)


def test_sigterm_does_not_wait_for_an_unfinished_request(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay, ExitStack() as stack:
        relay.wait_ready()
        for data in UNFINISHED.values():
            stack.enter_context(socket.create_connection(("127.0.0.1", relay.port))).sendall(data)
        took_s(relay)
        started = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - started < 12


def test_sigterm_lets_a_commit_be_answered_and_waits_for_no_idle_connection(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay, ExitStack() as stack:
        relay.wait_ready()
        file = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
        stack.callback(file.close)
        idle, busy = (stack.enter_context(socket.create_connection(("127.0.0.1", relay.port))) for _ in range(2))
        idle.sendall(GET)
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        file.execute("BEGIN IMMEDIATE")  # nobody else can commit now
        body = json.dumps(notification("in flight")).encode()
        busy.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        idle.sendall(GET)  # is answered after the notification has been read
        assert idle.recv(65536)
        started = time.monotonic()
        stopping = threading.Thread(target=relay.stop)
        stopping.start()
        relay.wait_for_line("Handling signal: term")
        file.execute("ROLLBACK")
        busy.settimeout(10)
        assert busy.recv(100).startswith(b"HTTP/1.1 202")
        stopping.join(20)
        assert time.monotonic() - started < 8


def test_sigterm_does_not_wait_long_for_who_never_reads(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay, ExitStack() as stack:
        relay.wait_ready()
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
        sock.sendall(GET.replace(b"/health", b"/static/style.css") * 2000)
        wait_for(lambda: silent(relay), 20)  # nothing more goes through
        assert relay.stop() == 0
        relay.wait_for_line("Worker exiting")


def test_strangers_cannot_fill_the_memory_while_the_database_is_held(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay, ExitStack() as stack:
        relay.wait_ready()
        file = stack.enter_context(closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)))
        file.execute("BEGIN IMMEDIATE")  # nobody else can commit now
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", relay.port))) for _ in range(104)]
        before, begun = relay.rss_bytes(), time.monotonic()
        for sock in socks[:4]:
            sock.settimeout(0.3)
            with suppress(TimeoutError):  # the page waits for the database
                while True:
                    sock.sendall(GET)
                    sock.recv(65536)
        for sock in socks[4:]:
            with suppress(BlockingIOError):
                sock.setblocking(False)
                for _ in range(10):
                    sock.send(
                        b"POST /health HTTP/1.1\r\nHost: relay\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 900_000
                    )
        socks[0].settimeout(15)
        assert socks[0].recv(100).startswith(b"HTTP/1.1 503")
        assert time.monotonic() - begun < 15
        assert relay.rss_bytes() - before < 30 * 1024 * 1024


def test_sigterm_lets_a_new_connection_bring_its_request(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path)) as relay:
        relay.wait_ready()
        with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as sock:
            stopping = threading.Thread(target=relay.stop)
            stopping.start()
            relay.wait_for_line("Worker shutting down")
            body = json.dumps(notification("just connected")).encode()
            sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert sock.recv(100).startswith(b"HTTP/1.1 202")
            stopping.join(20)


def test_no_more_connections_are_kept_than_there_is_room_for(tmp_path: Path) -> None:
    def answered(sock: socket.socket) -> bool:
        sock.settimeout(5)
        try:
            sock.sendall(GET)
            return sock.recv(65536).startswith(b"HTTP/1.1 200")
        except ConnectionError:
            return False

    with Relay(env=alone(tmp_path, GUNICORN_CMD_ARGS="--worker-connections 20")) as relay, ExitStack() as stack:
        relay.wait_ready()
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", relay.port))) for _ in range(30)]
        wait_for(lambda: sum("event=connection_dropped" in line for line in relay.output) >= 10)
        assert sum(map(answered, socks)) in (19, 20)  # the connection of `wait_ready` may still count


def test_strangers_that_only_keep_their_connections_make_room_for_others(tmp_path: Path) -> None:
    with Relay(env=alone(tmp_path, GUNICORN_CMD_ARGS="--worker-connections 20")) as relay, ExitStack() as stack:
        relay.wait_ready()
        for _ in range(30):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", relay.port), timeout=5))
            sock.sendall(GET)
            assert sock.recv(12) == b"HTTP/1.1 200"
        assert max(took_s(relay) for _ in range(5)) < 2
        relay.wait_for_line("event=connection_dropped")


def test_the_file_of_the_inbox_is_its_owners_alone(relay: Relay) -> None:
    """It holds customers' posts."""
    file = Path(relay.env["DATABASE_URL"].removeprefix("sqlite:///"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_second_start_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "gunicorn", "app:create_app()", "--bind", address]
        env = {**os.environ, **alone(tmp_path)}
        second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "event=not_started" in second.stdout and "end the program that has the port" in second.stdout


AS_GUNICORN_LOADS_IT = """
import gc, runpy, sys
from types import SimpleNamespace

settings = runpy.run_path("gunicorn.conf.py")
import worker, app
from inbox import Inbox

Inbox("sqlite:///unused.db")
begun = []
relay = SimpleNamespace(start=lambda: begun.append(gc.get_freeze_count() > 10_000))
settings["post_worker_init"](SimpleNamespace(wsgi=SimpleNamespace(extensions={"relay": relay})))
print(begun, gc.isenabled(), gc.get_threshold()[0])
print([name for name in ("charset_normalizer", "psycopg") if sys.modules.get(name)])
print(len(sys.modules["gunicorn.asgi.protocol"]._CHUNK_PREFIXES))
"""


def test_loads_nothing_unneeded_and_leaves_what_was_loaded_out_of_the_search_for_garbage() -> None:
    command = [sys.executable, "-c", AS_GUNICORN_LOADS_IT]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (loaded.stdout, loaded.stderr) == ("[True] True 10000\n[]\n0\n", "")


def read_by(kind: type[PythonProtocol], pieces: Sequence[bytes], **limits: int) -> list[object]:
    """What a parser makes of a request: what it calls back with, how it ends, and what it knows then."""
    told: list[object] = []
    parser: PythonProtocol = kind(
        on_headers_complete=lambda: told.append(list(parser.headers)),
        on_body=told.append,
        on_message_complete=lambda: told.append("complete"),
        **limits,
    )
    try:
        for piece in pieces:
            parser.feed(piece)
    except Exception as error:
        told += [type(error), str(error)]
    return [*told, parser.content_length, parser.is_chunked, parser.should_keep_alive, parser.remaining()]


HEADERS = st.sampled_from(
    [
        b"Host: a",
        b"Content-Length: 3",
        b"content-length:\t3 ",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"X:",
        b"",
    ]
    + [b"X-Long: " + b"a" * 4000, b"Expect: 100-continue", b"Caf\xe9: x", b" folded", b"Name : x", b"no colon", b": x"]
)
LINES = st.lists(
    st.one_of(
        HEADERS, st.binary(max_size=6), st.builds(lambda *b: b"".join(b), st.just(b"X: "), st.binary(max_size=6))
    ),
    max_size=5,
)


@settings(max_examples=400, deadline=None, database=None)
@given(LINES, st.sampled_from([b"abc", b"", b"3\r\nabc\r\n0\r\n\r\n", b"abcGET / HTTP/1.1\r\nX: y\r\n\r\n"]), st.data())
def test_the_parser_makes_the_same_of_a_request_as_gunicorns(
    lines: list[bytes], body: bytes, data: st.DataObject
) -> None:
    request = b"\r\n".join([b"POST /notifications HTTP/1.1", *lines, b"", body])
    cut = data.draw(st.one_of(st.just(0), st.integers(0, len(request))))
    pieces = [request[:cut], request[cut:]]
    assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces)


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_the_parser_takes_the_same_bytes_as_gunicorns(at: int) -> None:
    assert gasgi_protocol.PythonProtocol is Parser
    for byte in range(256):
        header = b"X-1: ab"
        pieces = [b"GET / HTTP/1.1\r\n" + header[:at] + bytes([byte]) + header[at:] + b"\r\n\r\n"]
        assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces), byte


def test_the_parser_makes_the_same_of_two_parts_wherever_they_are_cut() -> None:
    request = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for cut in range(len(request)):
        pieces = [request[:cut], request[cut:]]
        assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces), cut


@pytest.mark.parametrize("count", [1, 99, 100, 101, 1000])
@pytest.mark.parametrize("cut", [0, 50])
def test_the_parser_takes_as_many_headers_as_gunicorns(cut: int, count: int) -> None:
    request = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * count + b"\r\n"
    pieces = [request[:cut], request[cut:]]
    assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces)


@pytest.mark.parametrize("size", [8100, 8170, 8186, 8187, 8188, 8189, 8190, 8200, 40_000])
def test_the_parser_takes_as_long_a_header_as_gunicorns(size: int) -> None:
    for before in (b"", b"Host: a\r\n"):
        pieces = [b"GET / HTTP/1.1\r\n" + before + b"X: ".ljust(size, b"y") + b"\r\n\r\n"]
        assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces)


@pytest.mark.parametrize("headers", [1, 2, 99, 100])
def test_the_parser_counts_trailers_as_gunicorns_does(headers: int) -> None:
    head = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + b"X: y\r\n" * (headers - 1) + b"\r\n"
    for trailers in (0, 1, 98, 99):
        pieces = [head + b"0\r\n" + b"X: y\r\n" * trailers + b"\r\n"]
        assert read_by(Parser, pieces) == read_by(PythonProtocol, pieces), trailers


@pytest.mark.parametrize(
    "limits", [{"limit_request_fields": 5}, {"limit_request_field_size": 100}, {"limit_request_fields": 0}]
)
def test_the_parser_keeps_to_other_limits_as_gunicorns_does(limits: dict[str, int]) -> None:
    for header in (b"X: y\r\n" * 6, b"X: " + b"y" * 200 + b"\r\n", b"X: y\r\n" * 200):
        pieces = [b"GET / HTTP/1.1\r\n" + header + b"\r\n"]
        assert read_by(Parser, pieces, **limits) == read_by(PythonProtocol, pieces, **limits)


def test_an_answers_headers_are_looked_at_as_gunicorn_does() -> None:
    scan, gunicorns = gasgi_protocol._scan_response_headers, _scanned.__wrapped__
    _scanned.cache_clear()
    good = [(b"content-type", b"text/plain"), ("Content-Length", "3")]
    for _ in range(2):  # the second time it knows them
        assert scan(good) == gunicorns(good) == (True, "3", False)
        for bad in ([*good, (b"x", b"a\r\nb: c")], [*good, (b"x y", b"a")]):
            with pytest.raises((InvalidResponseHeader, InvalidResponseHeaderName)):
                scan(bad)
    assert (_scanned.cache_info().hits, _scanned.cache_info().currsize) == (1, 1)


def test_a_plain_head_is_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PythonProtocol, "_parse_headers", lambda self: pytest.fail("went gunicorn's way"))
    found = read_by(Parser, [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"])
    assert found == [[(b"host", b"a"), (b"content-length", b"3")], b"abc", "complete", 3, False, True, b""]
