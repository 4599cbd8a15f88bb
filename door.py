"""The door for what Khoros pushes: POST /notifications. Flask's way to a route costs more time than everything else an
acknowledgement takes, so this one stands in front of it, as plain WSGI. Every other request goes on to Flask."""

from __future__ import annotations

import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from inbox import Inbox
from intake import Intake, Receipt
from khoros_client import Unreadable
from logfmt import event, where
from store import ACK, DUPLICATES, IGNORED, StoreUnavailable
from subscription import NOTIFICATIONS_PATH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BODY_LIMIT = 1024 * 1024  # bytes
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


@dataclass(eq=False)
class Refusal(Exception):
    """Why a request is not taken, as it is answered."""

    status: int
    error: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Exception, request_id: str) -> Refusal:
        """The answer to any error; what went wrong inside goes to the log, without anyone's text."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, StoreUnavailable):
            event("store_unavailable", logging.ERROR, reason=error, request_id=request_id)
            message = "Nothing was stored: send it again."
            return cls(503, "Service Unavailable", message, {"Retry-After": "5"})
        if isinstance(error, HTTPException) and error.code:
            kept = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
            return cls(error.code, error.name, error.description or error.name, kept)
        event("request_broken", logging.ERROR, error=where(error), request_id=request_id)
        return cls(500, "Internal Server Error", "Something is wrong in the service: see its log.")


class Door:
    """WSGI in front of `beyond`. Takes notifications in and calls `wake` once they are committed."""

    def __init__(
        self,
        beyond: WSGIApplication,
        tokens: tuple[str, ...],
        intake: Intake,
        inbox: Inbox,
        wake: Callable[[], None],
    ) -> None:
        self._beyond, self._tokens, self._intake, self._inbox, self._wake = beyond, tokens, intake, inbox, wake

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != NOTIFICATIONS_PATH or environ["REQUEST_METHOD"] != "POST":
            return self._beyond(environ, start_response)
        started = time.perf_counter()
        try:
            receipt = self._take(environ)
        except Exception as error:
            refusal = Refusal.of(error, request_id(environ))
            told(refusal, environ)
            said = {"error": refusal.error, "message": refusal.message}
            return _answer(environ, start_response, refusal.status, said, refusal.headers)
        self._count(receipt, time.perf_counter() - started)
        return _answer(environ, start_response, 202, asdict(receipt), {})

    def _take(self, environ: WSGIEnvironment) -> Receipt:
        """The token, then the body, then the commit. Never calls Zendesk."""
        if not authorised(environ.get("HTTP_AUTHORIZATION", ""), self._tokens):
            message = "The Authorization header does not hold our bearer token."
            raise Refusal(401, "Unauthorized", message, {"WWW-Authenticate": "Bearer"})
        try:
            raw = json.loads(_body(environ))
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "Bad Request", "The body is not JSON.") from error
        try:
            receipt = self._intake.take(raw, source="push", request_id=request_id(environ))
        except RecursionError as error:
            raise Refusal(400, "Bad Request", "The body is nested too deeply.") from error
        except Unreadable as error:
            message = f"Kept for a person to look at: {error}."
            raise Refusal(422, "Unprocessable Content", message) from error
        self._wake()
        return receipt

    def _count(self, receipt: Receipt, took_s: float) -> None:
        self._inbox.observe(ACK, took_s)
        if receipt.duplicates:
            self._inbox.tally(DUPLICATES, receipt.duplicates)
        if receipt.ignored:
            self._inbox.tally(IGNORED, receipt.ignored)


def request_id(environ: WSGIEnvironment) -> str:
    """The router's name for this request, or one of our own."""
    if "request_id" not in environ:
        given = environ.get("HTTP_X_REQUEST_ID", "")
        plain = given.isascii() and given.isprintable() and 0 < len(given) <= 200
        environ["request_id"] = given if plain else str(uuid.uuid4())
    return str(environ["request_id"])


def secure_headers(environ: WSGIEnvironment) -> dict[str, str]:
    """Headers that keep browsers from doing more with an answer than showing it."""
    if environ["wsgi.url_scheme"] == "https":
        return {**SECURE_HEADERS, "Strict-Transport-Security": "max-age=31536000"}
    return SECURE_HEADERS


def told(refusal: Refusal, environ: WSGIEnvironment) -> None:
    """A line for what Khoros did not get in; what failed inside has its own."""
    if refusal.status < 500:
        names = {"status": refusal.status, "reason": refusal.message, "request_id": request_id(environ)}
        event("notification_refused", logging.WARNING, **names)


def authorised(header: str, tokens: tuple[str, ...]) -> bool:
    """Whether the header holds one of the tokens; compares with all of them, in constant time."""
    scheme, _, given = header.partition(" ")
    offered = given.strip().encode("utf-8", "replace")
    matches = [hmac.compare_digest(offered, token.encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(matches)


def _body(environ: WSGIEnvironment) -> bytes:
    """The request's body. Raises HTTPException: what cannot be read is the sender's mistake."""
    try:
        body = get_input_stream(environ, max_content_length=BODY_LIMIT).read()
    except HTTPException:
        raise
    except Exception as error:  # gunicorn has errors of its own for chunks that make no sense
        raise BadRequest("The body is not what its headers say.") from error
    if not environ.get("CONTENT_LENGTH") and len(body) >= BODY_LIMIT:
        raise RequestEntityTooLarge  # Werkzeug cuts a chunked body there in silence
    return body


def _answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: int,
    said: dict[str, Any],
    headers: dict[str, str],
) -> list[bytes]:
    body = f"{json.dumps(said, separators=(',', ':'))}\n".encode()
    form = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    start_response(f"{status} {HTTPStatus(status).phrase}", [*(form | headers | secure_headers(environ)).items()])
    return [body]
