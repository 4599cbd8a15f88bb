"""The door for what Khoros pushes to POST /notifications: the token, then the body, then the commit."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from werkzeug.exceptions import HTTPException

from database import StoreUnavailable
from inbox import Inbox
from intake import Intake, Reading, Receipt, receipts
from logfmt import event, where
from store import ACK, DUPLICATES, IGNORED

BODY_LIMIT = 1024 * 1024  # bytes


@dataclass(frozen=True)
class Push:
    """A notification as it came in; `at` is time.perf_counter's."""

    body: bytes
    request_id: str
    at: float


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
    """Takes notifications in and calls `wake` once they are committed. Never calls Zendesk."""

    def __init__(self, tokens: tuple[str, ...], intake: Intake, inbox: Inbox, wake: Callable[[int], None]) -> None:
        self._tokens, self._intake, self._inbox, self._wake = tokens, intake, inbox, wake

    def admit(self, header: str) -> None:
        """Lets in who has one of our tokens; comes before the body is read. Raises Refusal."""
        if not authorised(header, self._tokens):
            message = "The Authorization header does not hold our bearer token."
            raise Refusal(401, "Unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def take(self, pushes: Sequence[Push]) -> list[Receipt | Refusal]:
        """Commits what these hold, all of it together, and says of each what became of it."""
        readings = [self.read(push) for push in pushes]
        return self.outcomes(pushes, readings, self.keep(readings))

    # The three steps of it. Only `keep` waits for the database.

    def read(self, push: Push) -> Reading | Refusal:
        """What one holds, or why it cannot be read."""
        try:
            return self._intake.read(json.loads(push.body), source="push", request_id=push.request_id)
        except RecursionError:
            return Refusal(400, "Bad Request", "The body is nested too deeply.")
        except ValueError:
            return Refusal(400, "Bad Request", "The body is not JSON.")
        except Exception as error:  # whatever is wrong with this one must not cost the others
            return Refusal.of(error, push.request_id)

    def keep(self, readings: Sequence[Reading | Refusal]) -> list[bool] | Exception:
        """Commits what was read."""
        try:
            new = self._intake.keep([reading for reading in readings if isinstance(reading, Reading)])
        except Exception as error:
            return error
        self._wake(len(readings))
        return new

    def outcomes(
        self, pushes: Sequence[Push], readings: Sequence[Reading | Refusal], kept: list[bool] | Exception
    ) -> list[Receipt | Refusal]:
        """What became of each, by what `read` and `keep` have given."""
        if isinstance(kept, Exception):
            return [
                Refusal.of(kept, push.request_id) if isinstance(reading, Reading) else reading
                for push, reading in zip(pushes, readings, strict=True)
            ]
        made = iter(receipts([reading for reading in readings if isinstance(reading, Reading)], kept))
        return [
            self._outcome(push, reading, next(made)) if isinstance(reading, Reading) else reading
            for push, reading in zip(pushes, readings, strict=True)
        ]

    def _outcome(self, push: Push, reading: Reading, receipt: Receipt) -> Receipt | Refusal:
        if reading.unreadable:
            return Refusal(422, "Unprocessable Content", f"Kept for a person to look at: {reading.unreadable}.")
        self._inbox.observe(ACK, time.perf_counter() - push.at)
        if receipt.duplicates:
            self._inbox.tally(DUPLICATES, receipt.duplicates)
        if receipt.ignored:
            self._inbox.tally(IGNORED, receipt.ignored)
        return receipt


def request_id(given: str) -> str:
    """The router's name for a request, or one of our own."""
    plain = given.isascii() and given.isprintable() and 0 < len(given) <= 200
    return given if plain else secrets.token_hex(16)


def told(refusal: Refusal, request_id: str) -> None:
    """A line for what Khoros did not get in; what failed inside has its own."""
    if refusal.status < 500:
        names = {"status": refusal.status, "reason": refusal.message, "request_id": request_id}
        event("notification_refused", logging.WARNING, **names)


def authorised(header: str, tokens: tuple[str, ...]) -> bool:
    """Whether the header holds one of the tokens; compares with all of them, in constant time."""
    scheme, _, given = header.partition(" ")
    offered = given.strip().encode("utf-8", "replace")
    matches = [hmac.compare_digest(offered, token.encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(matches)
