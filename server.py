"""The gunicorn worker: uvicorn serves the requests, with limits of time and size against slow and broken senders."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import uvicorn
from httptools import HttpParserCallbackError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

import log
from khoros.asgi import Asgi

HEAD_LIMIT = 32 * 1024  # bytes
PIPELINE_LIMIT = 100  # requests that wait on one connection for the answers before theirs
MOST_CONNECTIONS = 1000
TOO_LONG = f"the request line and headers, a chunk's size or a trailer have more than {HEAD_LIMIT} bytes"
_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class RuleBroken(ValueError):
    """The request breaks a rule of ours."""


class Connection(HttpToolsProtocol):
    """One sender. `limit` is the timer of the next thing that must happen; the times are in seconds."""

    whole_within_s = 15.0  # from a connection or a request's first byte to its last
    answered_within_s = 60.0  # from there to the answer's last byte
    linger_s = 2.0  # after a refusal: a connection that is closed with bytes unread is reset, and the answer is lost
    most = MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.in_head, self.head_size = True, 0  # bytes
        self.size = 0  # bytes since something of a request was complete
        self.arriving = False  # a request has begun and is not whole
        self.refused = False  # nothing more is read
        self.idle_since = self.loop.time()
        self.limit = self.loop.call_later(self.whole_within_s, self.cut)
        if len(self.connections) > self.most:
            self.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.limit.cancel()
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()

    def allow(self, seconds: float) -> None:
        """Starts the timer anew."""
        self.limit.cancel()
        self.limit = self.loop.call_later(seconds, self.cut)

    @property
    def answer_due(self) -> bool:
        """Whether a request waits for the last byte of its answer."""
        sent = self.cycle is None or self.cycle.response_complete
        return not sent or self.transport.get_write_buffer_size() > 0

    # Reading

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.in_head:  # no other protocol is offered: a request that asks for one is answered like any other
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest
        self.size += len(data)
        super().data_received(data)
        if self.size > HEAD_LIMIT and not self.refused:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TOO_LONG)
        if self.cycle and not (self.refused or self.arriving or self.answer_due):
            self.allow(self.timeout_keep_alive)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio.Protocol has it
        """A sender that sends no more may still wait for its answer: the connection stays open for that."""
        if self.arriving or not self.answer_due:
            return None
        self.cycle.keep_alive = False
        return True

    def on_message_begin(self) -> None:
        if len(self.pipeline) == PIPELINE_LIMIT:
            raise RuleBroken(f"more than {PIPELINE_LIMIT} requests wait for their answers")
        super().on_message_begin()
        self.arriving, self.head_size = True, 0
        self.allow(self.whole_within_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self.count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self.count_head(len(name) + len(value) + 4)  # with the colon, the blank and the line's end

    def count_head(self, size: int) -> None:
        self.head_size += size
        if self.head_size > HEAD_LIMIT:
            raise RuleBroken(TOO_LONG)  # uvicorn asks for a refusal

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            raise RuleBroken("another protocol is wanted")
        super().on_headers_complete()
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.size = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.arriving, self.in_head, self.size = False, True, 0
        if self.answer_due:
            self.allow(self.answered_within_s)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.idle_since = self.loop.time()
        if self.pipeline:
            self.flow.pause_reading()  # uvicorn reads on, and the body of the last request would grow
        elif not (self.arriving or self.answer_due):
            self.allow(self.timeout_keep_alive)

    # The end

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does with a request that it cannot parse."""
        too_large = self.head_size > HEAD_LIMIT
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_large else HTTPStatus.BAD_REQUEST
        self.refuse(status, broken_rule(sys.exception()))

    def refuse(self, status: HTTPStatus, rule: str) -> None:
        """Says which rule a request breaks, without quoting it, and reads nothing more. While an earlier request has
        no answer, that answer is the last one instead."""
        log.warning("request_refused", status=status.value, reason=rule)
        self.end(status, rule)

    def end(self, status: HTTPStatus, reason: str) -> None:
        """Gives up the request that is arriving, with this answer unless it has one."""
        self.refused = True
        if self.pipeline or (self.in_head and self.answer_due):
            self.cycle.keep_alive = False
            self.allow(self.answered_within_s)
            return
        if self.in_head or not self.cycle.response_started:
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            body = f"{status.phrase}: {reason}"
            self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii"))
        if not self.in_head:
            self.cycle.disconnected = True  # nobody waits for the rest of its body, or asks for it
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
        with suppress(OSError):  # the other side has just hung up
            self.transport.write_eof()
        self.allow(self.linger_s)

    def cut(self) -> None:
        """Ends what did not come to its end in time, and a connection that was idle for as long as it may be."""
        if self.arriving and not self.refused and (self.in_head or not self.cycle.response_started):
            reason = f"the request was not whole in {self.whole_within_s:g} s"
            log.warning("request_cut", reason=reason)
            self.end(HTTPStatus.REQUEST_TIMEOUT, reason)
            return
        if self.answer_due and not (self.arriving or self.refused):
            log.warning("request_cut", reason="its answer was not out in time")
        self.transport.abort()

    def make_room(self) -> None:
        """One connection is too many: the one that has been idle longest goes, or else this one."""
        others = [c for c in cast("set[Connection]", self.connections) if not (c.arriving or c.answer_due)]
        longest = min((c for c in others if c is not self), key=lambda c: c.idle_since, default=self)
        log.warning("connection_dropped", reason="too many connections", of=self.most)
        self.connections.discard(longest)  # at once: the next one too many must not choose it again
        longest.transport.abort()


def broken_rule(error: BaseException | None) -> str:
    """The rule that a request breaks. The parser's own words name one and quote nothing; those of an error in a
    callback may quote the request."""
    if isinstance(error, HttpParserCallbackError):
        ours = isinstance(error.__context__, RuleBroken)
        return str(error.__context__) if ours else "the request's address cannot be read"
    return str(error)


class Server(uvicorn.Server):
    """uvicorn's server inside a gunicorn worker."""

    leave_after_s = 2.0

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.config)
        self.worker = worker
        self.should_exit = not worker.alive  # told to stop before it began

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or os.getppid() != self.worker.ppid  # gunicorn itself was killed

    async def shutdown(self, sockets: Any = None) -> None:
        """Claims no more items and goes on answering for two seconds: a connection may still wait to be accepted, and
        the platform's router may not know yet. Then what has begun is finished."""
        if relay := self.worker.wsgi.extensions.get("relay"):
            relay.stop_claiming()
        self.server_state.default_headers = [(b"connection", b"close")]
        await asyncio.sleep(self.leave_after_s)
        await super().shutdown(sockets)


class Worker(UvicornWorker):  # type: ignore[misc]  # its base has no types
    """Serves the Flask app that gunicorn loads, behind the ASGI app that receives notifications."""

    CONFIG_KWARGS = {
        "loop": "asyncio",  # the same everywhere, with uvloop installed or not
        "http": Connection,
        "ws": "none",
        "lifespan": "off",
        "interface": "asgi3",
        "access_log": False,
        "log_level": "error",
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "timeout_graceful_shutdown": 8,  # seconds; gunicorn.conf.py waits 20 for this and the deliveries
    }

    def init_signals(self) -> None:
        super().init_signals()
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):  # uvicorn raises them again when it has ended
            signal.signal(number, self.handle_exit)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        relay = self.wsgi.extensions.get("relay")  # none when the settings are faulty
        self.config.app = Asgi(self.wsgi, None if relay is None or relay.config.polling else relay.receiver)
        Connection.most = self.cfg.worker_connections

    def run(self) -> None:
        server = Server(self)
        signal.signal(signal.SIGQUIT, server.handle_exit)  # gunicorn's signal for a quick stop
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=self.sockets))
