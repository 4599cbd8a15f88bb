"""Receives notifications: the token, then the body, then one commit for all that arrived together, then the answers."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from werkzeug.exceptions import HTTPException

import log
from events import Event, Unreadable, read_subject_id
from inbox.database import DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.items import NewItem

NOTIFICATIONS_PATH = "/notifications"
BODY_LIMIT = 1024 * 1024  # bytes of one notification, and of what is committed together
LABELS_LIMIT, LABEL_LIMIT = 20, 255  # labels, and characters of each, that are kept with every post
NOT_RUNNING = (
    "Nothing would deliver this: the background work does not run under this server. "
    "Start the relay with: gunicorn 'app:create_app()'"
)
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


@dataclass(frozen=True)
class Push:
    """A notification as it arrived; `at` is time.perf_counter's."""

    body: bytes
    request_id: str
    at: float


@dataclass(frozen=True)
class Receipt:
    """How many items of a notification are new, are here already, or go to no destination."""

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0


@dataclass(eq=False)
class Refusal(Exception):
    """The answer to a request that is not accepted."""

    status: int
    error: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: Exception, request_id: str) -> Refusal:
        """The answer to any error. What went wrong inside is logged, without a customer's text."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, DatabaseUnavailable):
            log.error("database_unavailable", reason=error, request_id=request_id)
            return cls(503, "Service Unavailable", "Nothing was stored: send it again.", {"Retry-After": "5"})
        if isinstance(error, HTTPException) and error.code:
            headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
            return cls(error.code, error.name, error.description or error.name, headers)
        log.error("request_broken", error=log.where(error), request_id=request_id)
        return cls(500, "Internal Server Error", "Something is wrong in the service: see its log.")


@dataclass(frozen=True)
class Reading:
    """The items of a notification, or the reason why there are none."""

    source: str
    request_id: str | None
    event_uuid: str | None = None
    items: tuple[NewItem, ...] = ()
    unreadable: str | None = None
    ignored_because: str | None = None
    ignored: int = 0

    def log(self, new: Sequence[bool]) -> Receipt:
        """Logs what became of it, by which of its items are new. A poll that brings nothing new is quiet."""
        names = {"event_uuid": self.event_uuid, "source": self.source, "request_id": self.request_id}
        for item in [item for item, is_new in zip(self.items, new, strict=True) if is_new and item.reason]:
            log.error("parked", reason=item.reason, **names)
        readable = [is_new for item, is_new in zip(self.items, new, strict=True) if not item.reason]
        receipt = Receipt(sum(readable), len(readable) - sum(readable), self.ignored)
        write = log.debug if self.source == "poll" and not receipt.accepted else log.info
        if self.ignored_because:
            write("notification_ignored", reason=self.ignored_because, **names)
        elif readable:
            write("notification_accepted", accepted=receipt.accepted, duplicates=receipt.duplicates, **names)
        return receipt


class Receiver:
    """Puts notifications into the inbox, and calls `wake` after each commit that brought something new.

    `names_for` gives the destinations of an event. While `open` is False nothing is accepted, because nothing would
    deliver it.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        company_id: int,
        names_for: Callable[[Event], Sequence[str]],
        inbox: Inbox,
        wake: Callable[[], object],
        on_receipt: Callable[[Receipt, float], object] = lambda receipt, seconds: None,
    ) -> None:
        self._tokens, self._company_id, self._names_for = tokens, company_id, names_for
        self._inbox, self._wake, self._on_receipt = inbox, wake, on_receipt
        self.open = False

    def admit(self, authorization: str) -> None:
        """Checks the Authorization header before the body is read. Raises Refusal unless it has one of our tokens."""
        if not authorised(authorization, self._tokens):
            message = "The Authorization header does not hold our bearer token."
            raise Refusal(401, "Unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def receive(self, pushes: Sequence[Push]) -> list[Receipt | Refusal]:
        """Commits these notifications together. Returns the answer to each."""
        if not self.open:
            return [Refusal(503, "Service Unavailable", NOT_RUNNING) for _ in pushes]
        readings = [self._read_push(push) for push in pushes]
        good = [reading for reading in readings if isinstance(reading, Reading)]
        try:
            kept: Iterator[Receipt | Refusal] = iter(self._keep(good))
        except Exception as error:
            kept = iter([Refusal.of(error, reading.request_id or "") for reading in good])
        answers = [reading if isinstance(reading, Refusal) else _answer(reading, next(kept)) for reading in readings]
        for push, answer in zip(pushes, answers, strict=True):
            if isinstance(answer, Receipt):
                self._on_receipt(answer, time.perf_counter() - push.at)
        return answers

    def take(self, raw: object, source: str = "poll", request_id: str | None = None) -> Receipt:
        """Commits one event that was polled or is a test. Raises Unreadable for one that is kept but needs a person,
        DatabaseUnavailable when nothing is kept, and RecursionError for one that is nested too deeply to be kept."""
        reading = self._read(raw, source, request_id)
        [receipt] = self._keep([reading])
        if reading.unreadable:
            raise Unreadable(reading.unreadable)
        return receipt

    def _read_push(self, push: Push) -> Reading | Refusal:
        try:
            return self._read(json.loads(push.body), "push", push.request_id)
        except RecursionError:
            return Refusal(400, "Bad Request", "The body is nested too deeply.")
        except ValueError:
            return Refusal(400, "Bad Request", "The body is not JSON.")
        except Exception as error:  # what is wrong with this one must not cost the others
            return Refusal.of(error, push.request_id)

    def _read(self, raw: object, source: str, request_id: str | None) -> Reading:
        try:
            event = Event.parse(raw)
            names = self._names_for(event)
            if names and event.company_id in (None, self._company_id):
                return Reading(source, request_id, event.uuid, _items(event, names, source, request_id))
        except Unreadable as error:
            parked = _parked(raw, str(error), source, request_id)
            return Reading(source, request_id, items=(parked,), unreadable=str(error))
        reason = "no route wants it" if event.company_id in (None, self._company_id) else "another company's"
        ignored = max(1, len(event.subjects))
        return Reading(source, request_id, event.uuid, ignored_because=reason, ignored=ignored)

    def _keep(self, readings: Sequence[Reading]) -> list[Receipt]:
        """Commits what was read, and logs what became of it. Raises DatabaseUnavailable when nothing is kept."""
        new = self._inbox.accept([item for reading in readings for item in reading.items])
        if any(new):
            self._wake()
        rest = iter(new)
        return [reading.log([next(rest) for _ in reading.items]) for reading in readings]


def request_id(given: str) -> str:
    """The router's name for a request, or a new one."""
    plain = given.isascii() and given.isprintable() and 0 < len(given) <= 200
    return given if plain else secrets.token_hex(16)


def log_refusal(refusal: Refusal, request_id: str) -> None:
    """Logs what was not accepted from Khoros. A fault of our own has its line already."""
    if refusal.status < 500:
        fields = {"status": refusal.status, "reason": refusal.message, "request_id": request_id}
        log.warning("notification_refused", **fields)


def authorised(authorization: str, tokens: Sequence[str]) -> bool:
    """Whether the header has one of the tokens. Compares with all of them, in constant time."""
    scheme, _, given = authorization.partition(" ")
    offered = given.strip().encode("utf-8", "replace")
    matches = [hmac.compare_digest(offered, token.encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(matches)


def secure_headers(*, https: bool) -> dict[str, str]:
    """Headers that keep browsers from doing more with an answer than showing it."""
    return {**SECURE_HEADERS, "Strict-Transport-Security": "max-age=31536000"} if https else SECURE_HEADERS


def _items(event: Event, names: Sequence[str], source: str, request_id: str | None) -> tuple[NewItem, ...]:
    """One item for each subject and destination. A subject without an id is parked beside the others. Raises
    Unreadable when none has an id."""
    items, parked = [], []
    labels = [label[:LABEL_LIMIT] for label in event.labels[:LABELS_LIMIT]]
    for raw in event.subjects:
        try:
            subject_id = read_subject_id(raw)
        except Unreadable as error:
            parked.append(_parked(raw, str(error), source, request_id))
            continue
        payload = {"labels": labels, "item": raw}
        items += [NewItem(name, event.uuid, subject_id, payload, source, request_id) for name in names]
    if not items:
        raise Unreadable(parked[0].reason or "" if parked else "the notification has no items")
    return (*items, *parked)


def _answer(reading: Reading, kept: Receipt | Refusal) -> Receipt | Refusal:
    if reading.unreadable and isinstance(kept, Receipt):
        return Refusal(422, "Unprocessable Content", f"Kept for a person to look at: {reading.unreadable}.")
    return kept


def _parked(raw: object, reason: str, source: str, request_id: str | None) -> NewItem:
    """An item that needs a person. It is named by its content, so that the same again is not kept twice."""
    digest = hashlib.sha256(json.dumps(raw).encode()).hexdigest()
    return NewItem("", f"unreadable:{digest}", "", {"unreadable": raw}, source, request_id, reason)
