"""The ASGI app in front of Flask: receives notifications, as many in one commit as have arrived, and logs requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from a2wsgi import WSGIMiddleware
from werkzeug.exceptions import RequestEntityTooLarge

import log
from khoros.body import BODY_LIMIT, unpacked
from khoros.receive import (
    NOTIFICATIONS_PATHS,
    Push,
    Receipt,
    Receiver,
    Refusal,
    log_refusal,
    request_id,
    secure_headers,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from a2wsgi.asgi_typing import HTTPScope, Receive, Scope, Send, SendEvent

UNCOMMITTED_LIMIT = 32 * 1024 * 1024  # bytes of all notifications in memory
IN_ONE_COMMIT = 100  # notifications
PAGES_AT_ONCE = 4
HUNG_UP = "the connection ended before the request did"


class Asgi:
    """The ASGI app that a server runs: notifications go to `receiver`, all other requests to the WSGI app `pages`.
    What arrives during a commit is committed together after it. Without `receiver` `pages` gets everything."""

    def __init__(self, pages: WSGIApplication, receiver: Receiver | None) -> None:
        self._pages = WSGIMiddleware(pages, workers=PAGES_AT_ONCE)  # type: ignore[arg-type]  # the same by another name
        self._receiver = receiver
        self._arrived: list[tuple[Push, asyncio.Future[Receipt | Refusal]]] = []
        self._committing: asyncio.Task[None] | None = None
        self._committer = ThreadPoolExecutor(1, "receive")
        self._uncommitted = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        at, headers = time.perf_counter(), dict(scope["headers"])
        name = request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        client = _client(scope, headers)
        if self._receiver is None or scope["path"] not in NOTIFICATIONS_PATHS or scope["method"] != "POST":
            await self._page(scope, receive, send, name, at, client)
            return
        proto = headers.get(b"x-forwarded-proto", scope["scheme"].encode()).rpartition(b",")[2].strip()
        answer = partial(_send_json, send, proto == b"https")
        try:
            given = [value for field, value in scope["headers"] if field == b"authorization"]
            self._receiver.admit(b",".join(given).decode("latin-1"))
            receipt = await self._receive(headers, receive, name, at)
            await answer(202, vars(receipt), {})
        except ConnectionError:
            log.warning("sender_gone", reason=HUNG_UP, client=client, request_id=name)
        except Exception as error:
            refusal = Refusal.of(error, name)
            log_refusal(refusal, name, client)
            await answer(refusal.status, {"error": refusal.error, "message": refusal.message}, refusal.headers)

    async def _receive(self, headers: Mapping[bytes, bytes], receive: Receive, name: str, at: float) -> Receipt:
        """Reads a notification and returns after its commit. Raises ConnectionError when the sender is gone,
        RequestEntityTooLarge, and Refusal."""
        body = bytearray()
        try:
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > BODY_LIMIT:
                raise RequestEntityTooLarge
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise ConnectionError
                piece, more = message.get("body", b""), message.get("more_body", False)
                body += piece
                self._uncommitted += len(piece)
                if len(body) > BODY_LIMIT:
                    raise RequestEntityTooLarge
                if self._uncommitted > UNCOMMITTED_LIMIT:
                    log.error("too_much_at_once", bytes=self._uncommitted, request_id=name)
                    raise Refusal(503, "Service Unavailable", "Too much at once: send it again.", {"Retry-After": "5"})
            whole = unpacked(bytes(body), headers.get(b"content-encoding", b"").decode("latin-1"))
        except BaseException:
            self._uncommitted -= len(body)
            raise
        self._uncommitted += len(whole) - len(body)
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        answer = await self._commit(Push(whole, name, at, content_type))
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def _commit(self, push: Push) -> Receipt | Refusal:
        """Waits for the commit, which happens also when the sender hangs up meanwhile."""
        answer: asyncio.Future[Receipt | Refusal] = asyncio.get_running_loop().create_future()
        self._arrived.append((push, answer))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_arrived())
        return await answer

    async def _commit_arrived(self) -> None:
        loop = asyncio.get_running_loop()
        while self._arrived and self._receiver:
            sizes = accumulate(len(push.body) for push, _ in self._arrived)
            count = sum(1 for size in islice(sizes, IN_ONE_COMMIT) if size <= BODY_LIMIT)  # parsed it is much larger
            batch, self._arrived = self._arrived[:count], self._arrived[count:]
            pushes = [push for push, _ in batch]
            try:
                answers = await loop.run_in_executor(self._committer, self._receiver.receive, pushes)
            except Exception as error:
                answers = [Refusal.of(error, push.request_id) for push in pushes]
            finally:
                self._uncommitted -= sum(len(push.body) for push in pushes)
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():  # the sender may have hung up meanwhile
                    waiting.set_result(answer)

    async def _page(self, scope: HTTPScope, receive: Receive, send: Send, name: str, at: float, client: str) -> None:
        """Lets the WSGI app answer in a thread. It reads a body only after the password: strangers keep none busy."""
        status: int | None = None

        async def send_and_note(message: SendEvent) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = [(field, value) for field, value in scope["headers"] if field != b"x-request-id"]
        named: HTTPScope = {**scope, "headers": [*headers, (b"x-request-id", name.encode())]}
        try:
            await self._pages(named, receive, send_and_note)
        finally:  # also when the request is cancelled
            took = {"status": status, "took_ms": round((time.perf_counter() - at) * 1000), "request_id": name}
            log.info("request", method=scope["method"], path=scope["path"], client=client, **took)


def _client(scope: HTTPScope, headers: Mapping[bytes, bytes]) -> str:
    """The sender's address, as the proxy in front of the relay names it. Without a proxy a sender can make it up."""
    named = headers.get(b"x-forwarded-for", b"").rpartition(b",")[2].strip()
    peer = scope.get("client")
    return named.decode("latin-1") or (str(peer[0]) if peer else "")


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _as_bytes(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


_HEADERS = {
    https: _as_bytes({"Content-Type": "application/json", **secure_headers(https=https)}) for https in (False, True)
}


async def _send_json(
    send: Send, https: bool, status: int, answer: Mapping[str, object], more: Mapping[str, str]
) -> None:
    body = _encode(answer).encode()
    headers = [*_HEADERS[https], (b"content-length", b"%d" % len(body)), *_as_bytes(more)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
