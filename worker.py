"""gunicorn's ASGI worker with the relay's front in it, safe from slow, broken and silent senders.

By itself gunicorn waits for a request's head without a limit and, when it stops, for every idle connection. Here each
connection has a time by which the next thing must have happened. That leans on inner parts of gunicorn: it is pinned.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from gunicorn.asgi import protocol
from gunicorn.asgi.parser import PythonProtocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from front import Front
from logfmt import event

WHOLE_WITHIN_S = 15.0  # from a connection or a request's first byte to its last
ANSWERED_WITHIN_S = 60.0  # from there to the answer's last byte
LINGER_S = 2.0  # after an answer to a request that was not read to its end: for the sender to read it and hang up
LEAVING_S = 2.0  # when the worker stops: for a request that has begun or is about to
LAST_ANSWERS_S = 12.0  # and for an answer that is due; gunicorn.conf.py waits 20 for everything
SWEEP_S = 0.5
HEAD_LIMIT = 32 * 1024  # bytes; gunicorn by itself holds 800 KB of one
UNREAD_LIMIT = 64 * 1024  # bytes of a body that nobody has asked for yet


# Headers of which each is a token, a colon and a value without control characters: RFC 9110 sections 5.5 and 5.6.2.
_are_plain = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\n-\x1f\x7f]*+\r\n){1,100}").fullmatch
# It keeps gunicorn's usual limits: 100 headers, and 8,190 bytes of each as long as no head is looked at that is longer
# than PLAIN_LIMIT with its empty line.
USUAL_LIMITS = 100, 8190
PLAIN_LIMIT = 8192


class Parser(PythonProtocol):  # type: ignore[misc]  # its base has no types
    """gunicorn's parser, which looks at each byte of the headers in Python. Here one pattern looks at them all; when
    they are not plain, long, come in parts or have other limits, they go gunicorn's way."""

    _scan_from: int
    _header_count: int

    def _parse_headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", self._scan_from, PLAIN_LIMIT)
        head = bytes(self._buffer[: end + 2])
        limits = self._limit_request_fields, self._limit_request_field_size
        if limits != USUAL_LIMITS or self._header_count or not _are_plain(head):
            return bool(super()._parse_headers())
        for line in head.split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            self._headers_list.append((name.lower(), value.strip(b" \t")))
        del self._buffer[: end + 4]
        self._scan_from, self._header_count = 0, len(self._headers_list)
        self._finalize_headers()
        return True


class Connection(ASGIProtocol):  # type: ignore[misc]  # its base has no types
    """One sender. `until` is the time by which the next thing must have happened, on the event loop's clock."""

    _closed: bool

    def connection_made(self, transport: Any) -> None:
        self.arriving = False  # whether there is a part of a request
        self.size = 0  # bytes of that part
        self.idle_since = self.worker.loop.time()
        self.until = self.idle_since + (WHOLE_WITHIN_S if self.worker.alive else LEAVING_S)
        self._max_buffer_size = transport.max_size = UNREAD_LIMIT
        super().connection_made(transport)
        self.worker.connections.add(self)
        if len(self.worker.connections) > self.worker.worker_connections:
            self._make_room()

    def _make_room(self) -> None:
        """One connection is too many: the one that has been idle longest goes, or else this one."""
        others = [c for c in self.worker.connections if c is not self and c._awaiting_request and not c.arriving]
        longest = min(others, key=lambda connection: connection.idle_since, default=self)
        event("connection_dropped", logging.WARNING, reason="too many connections", of=self.worker.worker_connections)
        self.worker.connections.discard(longest)  # at once: the next one too many must not choose it again
        longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.worker.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._closed:  # or else nobody reads what comes after the last answer
            super().data_received(data)

    def eof_received(self) -> bool:
        """A sender that says no more may still wait for its answer; then this is the last one."""
        self._keepalive = 0
        return not (self.arriving or self._awaiting_request or self._closed)

    def cut(self) -> None:
        """Ends what did not come to an end by itself."""
        if self._closed:
            self.transport.abort()  # it had time to read its last answer
        elif self.arriving:
            event("request_cut", logging.WARNING, reason="the request was not whole in time")
            super()._send_error_response(408, HTTPStatus.REQUEST_TIMEOUT.phrase)
            self._close_transport()
        elif self._awaiting_request:
            self._keepalive_timeout()
        else:
            event("request_cut", logging.WARNING, reason="its answer was not out in time")
            self.transport.abort()

    def leave(self) -> None:
        """The worker stops: nothing is waited for but the answer that is due, and shortly a request that has begun or
        that a new connection is about to bring."""
        if self._awaiting_request and not self.arriving and self.req_count > 1:
            self._close_transport()
        else:
            due = not (self.arriving or self._awaiting_request)
            self.until = min(self.until, self.worker.loop.time() + (LAST_ANSWERS_S if due else LEAVING_S))

    def _feed_callback_parser(self, data: bytes) -> bool:
        if not self.arriving and not self._callback_parser.is_complete:
            self.arriving, self.size, self.until = True, 0, self.worker.loop.time() + WHOLE_WITHIN_S
        self.size += len(data)
        try:
            going_on = bool(super()._feed_callback_parser(data))
        except ValueError:  # Python reads no length of over 4,300 digits
            return self._refuse(400)
        if going_on and self._current_request is None and self.size > HEAD_LIMIT:
            return self._refuse(431)
        return going_on

    def _refuse(self, status: int) -> bool:
        self._send_error_response(status, "")
        self._close_transport()
        return False

    def _on_message_complete(self) -> None:
        self.arriving, self.until = False, self.worker.loop.time() + ANSWERED_WITHIN_S
        super()._on_message_complete()

    def _arm_keepalive_timer(self) -> None:
        if not self.arriving:  # or else a part of the next request came before this one's answer was out
            self.idle_since = self.worker.loop.time()
            self.until = self.idle_since + self._keepalive

    def _is_websocket_upgrade(self, request: Any) -> bool:
        return False  # nothing here speaks it: the request is answered like any other

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        """An answer before the end of its request is the last one, and says so."""
        return self.arriving or bool(super()._will_close(request, response_requires_close))

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> bool:
        """Without the task of its own that gunicorn gives to applications which go on after their answer."""
        return bool(await self._handle_http_request(request, sockname, peername))

    def _send_error_response(self, status: int, message: str, extra_headers: Any = ()) -> None:
        """Tells what is wrong with a request, without quoting it; gunicorn also calls this when nobody is there."""
        if self._closed:
            return
        event("request_refused", logging.WARNING, status=status, reason=HTTPStatus(status).phrase)
        super()._send_error_response(status, HTTPStatus(status).phrase, extra_headers)

    def _close_transport(self) -> None:
        """Says that this was the last answer, and gives the other side a moment to read it where more is on the way: a
        connection that is closed with bytes unread is reset, and the answer may be lost with it."""
        if self.arriving and not self._closed and self.transport.can_write_eof():
            self._closed = True
            self._resume_reading()
            self.until = self.worker.loop.time() + LINGER_S
            with suppress(OSError):  # the other side has just reset it
                self.transport.write_eof()
        else:
            super()._close_transport()


_scanned = lru_cache(protocol._scan_response_headers)


def _scan(headers: Iterable[tuple[bytes, bytes]]) -> Any:
    """gunicorn looks at each header of an answer with patterns. Ours are the same again and again."""
    return _scanned(tuple(headers))


gasgi.ASGIProtocol, protocol.PythonProtocol = Connection, Parser  # gunicorn has no settings for them
protocol._scan_response_headers = _scan
protocol._CHUNK_PREFIXES.clear()  # 2 MB of lengths, ready-made for answers in pieces; it makes those that are missing


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]  # its base has no types
    """See the module."""

    asgi: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connections: set[Connection] = set()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = self.asgi
        relay = self.wsgi.extensions["relay"]
        self.asgi = Front(self.wsgi, None if relay.config.polling else relay.door)

    def run(self) -> None:
        self._sweep()
        super().run()

    def handle_exit_signal(self) -> None:
        self.wsgi.extensions["relay"].delivery.stop_claiming()
        super().handle_exit_signal()

    async def _shutdown(self) -> None:
        for connection in list(self.connections):
            connection.leave()
        await super()._shutdown()

    def _sweep(self) -> None:
        self.loop.call_later(SWEEP_S, self._sweep)  # first, so that nothing ends it
        now = self.loop.time()
        for connection in [connection for connection in self.connections if connection.until <= now]:
            connection.cut()
