"""gunicorn's threaded worker, with one change: a thread is given to whole requests only.

As gunicorn has it, a thread waits for each sender to finish, and the loop for each one to hang up: a few slow or broken
senders stop everyone else. Here the loop collects what arrives and cuts what does not get finished.
"""

from __future__ import annotations

import logging
import re
import selectors
import socket
import struct
import time
from functools import partial
from typing import Any

from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import ThreadWorker

from logfmt import event

WHOLE_WITHIN_S = 15.0  # from a request's first byte to its last
LINGER_S = 2.0  # after an answer that ends the connection: for the sender to read it and hang up
STALL_S = 2  # one write of a thread: there is room for an answer, or nobody reads it
TRAILER_LIMIT = 8190  # bytes, gunicorn's limit for a line
REQUEST_LIMIT = 2 * 1024 * 1024  # bytes; over it a request is refused, whole or not
HELD_LIMIT = 32 * 1024 * 1024  # bytes of all unfinished requests together
SWEEP_S = 0.5

_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"[^\r\n]+")
_EXPECT = re.compile(rb"\r\nexpect[ \t]*:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9a-f]+(?=[ \t;\r])", re.IGNORECASE)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Arrival:
    """A request as its bytes arrive. What makes no sense counts as whole: gunicorn then says what is wrong with it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.whole = False
        self.expects_continue = False  # the sender waits for our word before it sends the body
        self._needed: int | None = None  # bytes in all, once the head has told
        self._chunk_at: int | None = None  # where the next chunk begins

    def feed(self, data: bytes) -> None:
        """Takes more bytes in and looks whether that is all."""
        seen = len(self.data)
        self.data += data
        if self._needed is None and self._chunk_at is None and not self._read_head(max(0, seen - 3)):
            return
        self.expects_continue = self.expects_continue and not self._complete()
        self.whole = self._complete() or len(self.data) > REQUEST_LIMIT

    def _complete(self) -> bool:
        return self._chunks_end() if self._needed is None else len(self.data) >= self._needed

    def _read_head(self, seen: int) -> bool:
        """Whether the head is here; then it tells how the body ends."""
        end = self.data.find(b"\r\n\r\n", seen)
        if end < 0:
            self.whole = len(self.data) > REQUEST_LIMIT or bool(_BARE_LINE_FEED.search(self.data, seen))
            return False
        framing = _FRAMING.findall(self.data, 0, end + 2)
        line = _REQUEST_LINE.search(self.data)  # the request's; line breaks may stand before it
        modern = line is not None and line[0].endswith(b"HTTP/1.1")  # an older sender does not wait for our word
        expects = _EXPECT.search(self.data, line.end(), end + 2) if line and modern else None
        if expects:  # answered here, so gunicorn need not see it
            del self.data[expects.start() : expects.end()]
            end -= expects.end() - expects.start()
        body_at = end + 4
        codings = [value for name, value in framing if name.lower() == b"transfer-encoding"]
        lengths = [value.strip(b" \t") for name, value in framing if name.lower() == b"content-length"]
        if codings and codings[-1].strip(b" \t").lower().endswith(b"chunked"):
            self._chunk_at = body_at
        elif len(lengths) == 1 and lengths[0].isdigit():
            self._needed = body_at + min(int(lengths[0].lstrip(b"0")[:18] or 0), REQUEST_LIMIT)
        else:
            self._needed = body_at
        self.expects_continue = bool(expects)
        return True

    def _chunks_end(self) -> bool:
        """Whether the last chunk is here, and the trailer with it; goes on where it stopped last time."""
        at = self._chunk_at or 0
        while (line_end := self.data.find(b"\r\n", at)) >= 0:
            size = _CHUNK_SIZE.match(self.data, at)
            if not size or self.data[at - 2 : at] != b"\r\n":
                return True
            if not int(size[0], 16):
                return self.data.find(b"\r\n\r\n", line_end) >= 0 or len(self.data) - line_end > TRAILER_LIMIT
            at = self._chunk_at = line_end + 2 + int(size[0], 16) + 2
        return len(self.data) - at > TRAILER_LIMIT


def _nothing_more(size_hint: int | None = None) -> bytes:
    """A thread has all there is of its request; should gunicorn read one longer than we did, it waits for nobody."""
    raise NoMoreData


class Waiting:
    """A connection the loop watches: it brings a request, or it has had its last answer and is to hang up."""

    def __init__(self, conn: Any, arrival: Arrival | None, within_s: float) -> None:
        self.conn, self.arrival = conn, arrival
        self.until = time.monotonic() + within_s
        self.watched = False

    @property
    def held(self) -> int:
        """Bytes of a request that is not whole."""
        return len(self.arrival.data) if self.arrival else 0


class Worker(ThreadWorker):  # type: ignore[misc]  # its base has no types
    """See the module. Every way to a thread leads through `enqueue_req`, every end through `finish_request`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: set[Waiting] = set()
        self._swept_at = 0.0

    def enqueue_req(self, conn: Any) -> None:
        """Waits for a whole request on a connection; then a thread gets it."""
        arrival = Arrival()
        if not conn.initialized:
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", STALL_S, 0))  # s, us
            conn.init()
            conn.parser.unreader.chunk = _nothing_more
        elif early := conn.parser.unreader.take_buffered():  # came along with the request before
            arrival.feed(early)
        conn.sock.setblocking(False)
        waiting = Waiting(conn, arrival, WHOLE_WITHIN_S)
        self._waiting.add(waiting)
        if arrival.whole:
            self._hand_over(waiting, arrival)
        else:
            self._receive(waiting, conn.sock)

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Keeps the connection for the next request, or ends it without waiting for the other side."""
        if fs.cancelled() or fs.exception() or not fs.result():
            self._part(conn)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Cuts the connections whose time is up."""
        now = time.monotonic()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            for waiting in [waiting for waiting in self._waiting if waiting.until <= now]:
                self._cut(waiting, f"the request was not whole within {WHOLE_WITHIN_S:g} s")

    def _cap_keepalive(self, deadline: float) -> None:
        """A stopping worker waits for nobody longer than for an idle connection."""
        super()._cap_keepalive(deadline)
        for waiting in self._waiting:
            waiting.until = min(waiting.until, deadline)

    def _receive(self, waiting: Waiting, sock: Any) -> None:
        """Takes what there is; called by the loop whenever there is something."""
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            self._watch(waiting)
            return
        except OSError:
            data = b""
        if not data:
            self._close(waiting)
        elif waiting.arrival is None:
            self._watch(waiting)  # nobody reads what comes after the last answer
        else:
            self._take(waiting, waiting.arrival, data)

    def _take(self, waiting: Waiting, arrival: Arrival, data: bytes) -> None:
        arrival.feed(data)
        if arrival.whole:
            self._hand_over(waiting, arrival)
            return
        if arrival.expects_continue:
            self._say(waiting, b"HTTP/1.1 100 Continue\r\n\r\n")
            arrival.expects_continue = False
        self._watch(waiting)
        if sum(other.held for other in self._waiting) > HELD_LIMIT:
            largest = max(self._waiting, key=lambda other: other.held)
            self._cut(largest, "too much unfinished at once")

    def _hand_over(self, waiting: Waiting, arrival: Arrival) -> None:
        self._forget(waiting)
        waiting.conn.parser.unreader.unread(bytes(arrival.data))
        waiting.conn.data_ready = True
        super().enqueue_req(waiting.conn)

    def _cut(self, waiting: Waiting, reason: str) -> None:
        if not waiting.held:
            self._close(waiting)
            return
        event("request_cut", logging.WARNING, reason=reason, bytes=waiting.held)
        self._say(waiting, _TIMED_OUT)
        self._forget(waiting)
        self._part(waiting.conn)

    def _part(self, conn: Any) -> None:
        """Says that this was the last answer, and gives the other side a moment to read it: a connection that is closed
        with bytes unread is reset, and the answer may be lost with it."""
        waiting = Waiting(conn, None, LINGER_S)
        self._waiting.add(waiting)
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(waiting)
        else:
            self._receive(waiting, conn.sock)

    def _say(self, waiting: Waiting, answer: bytes) -> None:
        try:
            waiting.conn.sock.send(answer)
        except OSError:
            pass  # it does not listen; the loop finds out

    def _watch(self, waiting: Waiting) -> None:
        if not waiting.watched:
            waiting.watched = True
            self.poller.register(waiting.conn.sock, selectors.EVENT_READ, partial(self._receive, waiting))

    def _forget(self, waiting: Waiting) -> None:
        self._waiting.discard(waiting)
        if waiting.watched:
            waiting.watched = False
            self.poller.unregister(waiting.conn.sock)

    def _close(self, waiting: Waiting) -> None:
        self._forget(waiting)
        self.nr_conns -= 1
        waiting.conn.close()
