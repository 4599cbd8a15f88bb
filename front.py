"""The ASGI application in front of Flask, whose way to a route costs more than all the rest of an acknowledgement.

It takes notifications to the door, as many at a time as have arrived: what comes while a commit is under way goes into
the next one. Flask answers everything else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from a2wsgi import WSGIMiddleware
from werkzeug.exceptions import RequestEntityTooLarge

from door import BODY_LIMIT, Door, Push, Refusal, request_id, told
from intake import Receipt
from logfmt import event
from subscription import NOTIFICATIONS_PATH

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from a2wsgi.asgi_typing import HTTPScope, Receive, Scope, Send, SendEvent

HELD_LIMIT = 32 * 1024 * 1024  # bytes of all notifications together that are not committed yet
IN_ONE_COMMIT = 100  # notifications
READ_HERE_LIMIT = 64 * 1024  # bytes of notifications that the event loop reads: a few ms, or 300 of what is made for it
PAGES_AT_ONCE = 4
Headers = Mapping[bytes, bytes]

SECURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Front:
    """See the module, and https://asgi.readthedocs.io/en/latest/specs/www.html."""

    def __init__(self, pages: WSGIApplication, door: Door | None) -> None:
        self._pages = WSGIMiddleware(pages, workers=PAGES_AT_ONCE)  # type: ignore[arg-type]  # the same by another name
        self._door = door
        self._arrived: list[tuple[Push, asyncio.Future[Receipt | Refusal]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._committer = ThreadPoolExecutor(1, "door")
        self._held = 0  # bytes of notifications in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        at, headers = time.perf_counter(), dict(scope["headers"])
        name = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        if self._door is None or scope["path"] != NOTIFICATIONS_PATH or scope["method"] != "POST":
            await self._page(scope, receive, send, name, at)
            return
        try:
            self._door.admit(headers.get(b"authorization", b"").decode("latin-1"))
            receipt = await self._notification(headers, receive, name, at)
            await _answer(send, scope, headers, 202, _body_of(receipt))
        except _Gone:  # nobody is there to be answered
            event("sender_gone", logging.WARNING, reason="the connection ended before the request did", request_id=name)
        except Exception as error:
            refusal = Refusal.of(error, name)
            told(refusal, name)
            said = _json({"error": refusal.error, "message": refusal.message}).encode()
            await _answer(send, scope, headers, refusal.status, said, refusal.headers)

    async def _notification(self, headers: Headers, receive: Receive, name: str, at: float) -> Receipt:
        """Reads a notification, and returns once it is committed. Raises Refusal, RequestEntityTooLarge (at once when
        it says its length) and _Gone."""
        body = bytearray()
        try:
            stated = headers.get(b"content-length", b"")
            if stated.isdigit() and int(stated) > BODY_LIMIT:
                raise RequestEntityTooLarge
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Gone
                piece, more = message.get("body", b""), message.get("more_body", False)
                body += piece
                self._held += len(piece)
                if len(body) > BODY_LIMIT:
                    raise RequestEntityTooLarge
                if self._held > HELD_LIMIT:
                    event("too_much_at_once", logging.ERROR, bytes=self._held, request_id=name)
                    raise Refusal(503, "Service Unavailable", "Too much at once: send it again.", {"Retry-After": "5"})
        except BaseException:
            self._held -= len(body)
            raise
        outcome = await self._committed(Push(bytes(body), name, at))
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    async def _committed(self, push: Push) -> Receipt | Refusal:
        """What arrives while a commit is under way goes into the next one, also when its sender hangs up meanwhile."""
        outcome: asyncio.Future[Receipt | Refusal] = asyncio.get_running_loop().create_future()
        self._arrived.append((push, outcome))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_arrived())
        return await outcome

    async def _commit_arrived(self) -> None:
        while self._arrived and self._door:
            sizes = accumulate(len(push.body) for push, _ in self._arrived)
            count = sum(1 for size in islice(sizes, IN_ONE_COMMIT) if size <= BODY_LIMIT)  # parsed, it takes much more
            batch, self._arrived = self._arrived[:count], self._arrived[count:]
            pushes = [push for push, _ in batch]
            try:
                outcomes = await self._taken(self._door, pushes)
            except Exception as error:
                outcomes = [Refusal.of(error, push.request_id) for push in pushes]
            finally:
                self._held -= sum(len(push.body) for push in pushes)
            for (_, waiting), outcome in zip(batch, outcomes, strict=True):
                if not waiting.done():  # or else the sender has hung up meanwhile
                    waiting.set_result(outcome)

    async def _taken(self, door: Door, pushes: Sequence[Push]) -> list[Receipt | Refusal]:
        """Two threads that compute hinder each other, so the other one only commits; but what is large would keep this
        one from everybody else."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._committer)
        if sum(len(push.body) for push in pushes) > READ_HERE_LIMIT:
            return await in_thread(door.take, pushes)
        readings = [door.read(push) for push in pushes]
        return door.outcomes(pushes, readings, await in_thread(door.keep, readings))

    async def _page(self, scope: HTTPScope, receive: Receive, send: Send, name: str, at: float) -> None:
        """Has Flask answer in a thread. It reads a body once it knows the password, so no stranger holds one up."""
        status: int | None = None

        async def sent(message: SendEvent) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = [(field, value) for field, value in scope["headers"] if field != b"x-request-id"]
        named: HTTPScope = {**scope, "headers": [*headers, (b"x-request-id", name.encode())]}
        try:
            await self._pages(named, receive, sent)
        finally:  # also when its time is up
            took = {"status": status, "took_ms": round((time.perf_counter() - at) * 1000), "request_id": name}
            event("request", method=scope["method"], path=scope["path"], **took)


class _Gone(Exception):
    """The sender has hung up, or its time was up."""


async def _answer(
    send: Send, scope: HTTPScope, headers: Headers, status: int, body: bytes, more: Mapping[str, str] = {}
) -> None:
    https = headers.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip() == b"https"
    fields = [*_FIELDS[https or scope["scheme"] == "https"], (b"content-length", b"%d" % len(body)), *_encoded(more)]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def secure_headers(*, https: bool) -> dict[str, str]:
    """Headers that keep browsers from doing more with an answer than showing it."""
    return {**SECURE_HEADERS, "Strict-Transport-Security": "max-age=31536000"} if https else SECURE_HEADERS


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


@lru_cache
def _body_of(receipt: Receipt) -> bytes:
    return _json(vars(receipt)).encode()


_json = json.JSONEncoder(separators=(",", ":")).encode
_FIELDS = [_encoded({"Content-Type": "application/json"} | secure_headers(https=https)) for https in (False, True)]
