"""Receives notifications: the token, then the body, then one commit for all that arrived together, then the answers."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from werkzeug.exceptions import HTTPException

import log
from events import Unreadable
from inbox.database import DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.unrouted import ROWS_LIMIT, Unrouted
from khoros.reading import Matches, Reading, keep_unreadable, read_body, read_event

NOTIFICATIONS_PATH = "/notifications"
# An address with one slash too many is a slip of the settings: what comes there is taken.
NOTIFICATIONS_PATHS = tuple(f"{before}notifications{after}" for before in ("/", "//") for after in ("", "/", "//"))
COUNTED_UUIDS = 1000  # of events that no route wants: a poll brings the same ones again and again
NOT_ROUTED = "Khoros sends it and no route wants it: correct ROUTES or SPREDFAST_LABEL_NAME if it belongs somewhere"
MISDIRECTED = "Khoros' token came here and nothing takes it: set the subscription's address to {address} (POST)"
POLLING = "Khoros' token came here and nothing takes it, because KHOROS_DELIVERY is poll: set it to push"
NOT_RUNNING = (
    "Nothing would deliver this: the background work does not run under this server. "
    "Start the relay with: gunicorn 'app:create_app()'"
)
SECURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
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
    """A notification as it arrived, unpacked; `at` is time.perf_counter's."""

    body: bytes
    request_id: str
    at: float
    content_type: str = ""


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


class Receiver:
    """Puts notifications into the inbox. After each commit it calls `wake` with the destinations that got something.

    `matches` gives the destinations of an event. While `open` is False nothing is accepted, because nothing would
    deliver it.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        company_id: int,
        matches: Matches,
        inbox: Inbox,
        unrouted: Unrouted,
        wake: Callable[[Collection[str]], object],
        on_receipt: Callable[[Receipt, float], object] = lambda receipt, seconds: None,
    ) -> None:
        self._tokens, self._company_id, self._matches = tokens, company_id, matches
        self._inbox, self._unrouted, self._wake, self._on_receipt = inbox, unrouted, wake, on_receipt
        self._told: set[tuple[str, str]] = set()  # what no route wants, once each
        self._counted: deque[str | None] = deque(maxlen=COUNTED_UUIDS)
        self.open = False

    def admit(self, authorization: str) -> None:
        """Checks the Authorization header before the body is read. Raises Refusal unless it has one of our tokens."""
        if not authorised(authorization, self._tokens):
            message = "The Authorization header does not hold our bearer token."
            if "," in authorization:  # as servers join several
                message = "There is more than one Authorization header, or a comma in it: send our bearer token alone."
            raise Refusal(401, "Unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def note_misdirected(self, authorization: str, address: str, request_id: str) -> None:
        """Logs a request with our token that came where nothing takes it. `address` does; "" when none does."""
        if authorised(authorization, self._tokens):
            reason = MISDIRECTED.format(address=address) if address else POLLING
            log.warning("notification_misdirected", reason=reason, request_id=request_id)

    def receive(self, pushes: Sequence[Push]) -> list[Receipt | Refusal]:
        """Commits these notifications together. Returns the answer to each."""
        if not self.open:
            return [Refusal(503, "Service Unavailable", NOT_RUNNING) for _ in pushes]
        company, matches = self._company_id, self._matches
        read = [read_body(push.body, push.content_type, company, matches, push.request_id) for push in pushes]
        try:
            kept = iter(self._keep([reading for readings in read for reading in readings]))
            answers = [_answer(readings, [next(kept) for _ in readings]) for readings in read]
        except Exception as error:
            answers = [
                Refusal.of(error, push.request_id) if readings else _answer([], [])
                for push, readings in zip(pushes, read, strict=True)
            ]
        for push, answer in zip(pushes, answers, strict=True):
            if isinstance(answer, Receipt):
                self._on_receipt(answer, time.perf_counter() - push.at)
        return answers

    def take(self, raw: object, source: str = "poll", request_id: str | None = None, *, attention: str = "") -> Receipt:
        """Commits one event that was polled or is a test. What is new of it is parked when `attention` says why a
        person must look at it first. Raises Unreadable for one that is kept but needs a person, and DatabaseUnavailable
        when nothing is kept."""
        try:
            reading = read_event(raw, self._company_id, self._matches, source, request_id)
        except Unreadable as error:
            self._keep([keep_unreadable(raw, attention or str(error), source, request_id)])
            raise
        if attention:
            items = (replace(item, reason=item.reason or attention) for item in reading.items)
            reading = replace(reading, items=tuple(items))
        [receipt] = self._keep([reading])
        return receipt

    def _keep(self, readings: Sequence[Reading]) -> list[Receipt]:
        """Commits what was read, and logs what became of it. Raises DatabaseUnavailable when nothing is kept."""
        items = [item for reading in readings for item in reading.items]
        new = self._inbox.accept(items)
        woken = {item.destination for item, is_new in zip(items, new, strict=True) if is_new and not item.reason}
        if woken:
            self._wake(woken)
        rest = iter(new)
        receipts = [_logged(reading, [next(rest) for _ in reading.items]) for reading in readings]
        if unrouted := [reading for reading in readings if reading.unrouted]:
            self._count_unrouted(unrouted)
        return receipts

    def _count_unrouted(self, readings: Sequence[Reading]) -> None:
        """Makes visible what no route wants, because it may mean a misspelt route. A failure costs the count only."""
        words: list[tuple[str, str]] = []
        for reading in readings:
            if reading.event_uuid not in self._counted:
                self._counted.append(reading.event_uuid)
                words += reading.unrouted
        for name, word in words:
            if (name, word) not in self._told and len(self._told) < ROWS_LIMIT:
                self._told.add((name, word))
                log.warning("no_route", event_name=name, word=word, reason=NOT_ROUTED)
        try:
            self._unrouted.note(words)
        except DatabaseUnavailable as error:
            log.warning("not_counted", reason=error)


def request_id(given: str) -> str:
    """The router's name for a request, or a new one."""
    plain = given.isascii() and given.isprintable() and 0 < len(given) <= 200
    return given if plain else secrets.token_hex(16)


def log_refusal(refusal: Refusal, request_id: str, client: str) -> None:
    """Logs what was not accepted, and the sender's address. A fault of our own has its line already."""
    if refusal.status < 500:
        fields = {"status": refusal.status, "reason": refusal.message, "client": client}
        log.warning("notification_refused", request_id=request_id, **fields)


def authorised(authorization: str, tokens: Sequence[str]) -> bool:
    """Whether the header has one of the tokens. Compares with all of them, in constant time."""
    scheme, _, given = authorization.partition(" ")
    offered = given.strip().encode("utf-8", "replace")
    matches = [hmac.compare_digest(offered, token.encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(matches)


def secure_headers(*, https: bool) -> dict[str, str]:
    """Headers that keep browsers from doing more with an answer than showing it."""
    return {**SECURE_HEADERS, "Strict-Transport-Security": "max-age=31536000"} if https else SECURE_HEADERS


def _logged(reading: Reading, new: Sequence[bool]) -> Receipt:
    """Logs what became of it, by which of its items are new. A poll that brings nothing new is quiet."""
    names = {"event_uuid": reading.event_uuid, "source": reading.source, "request_id": reading.request_id}
    for item in [item for item, is_new in zip(reading.items, new, strict=True) if is_new and item.reason]:
        log.error("parked", reason=item.reason, **names)
    readable = [is_new for item, is_new in zip(reading.items, new, strict=True) if not item.reason]
    receipt = Receipt(sum(readable), len(readable) - sum(readable), reading.ignored)
    write = log.debug if reading.source == "poll" and not receipt.accepted else log.info
    if reading.ignored_because:
        write("notification_ignored", reason=reading.ignored_because, **names)
    elif readable:
        write("notification_accepted", accepted=receipt.accepted, duplicates=receipt.duplicates, **names)
    return receipt


def _answer(readings: Sequence[Reading], receipts: Sequence[Receipt]) -> Receipt | Refusal:
    """The answer to a notification. When some of it is readable it is accepted: the rest is kept as well, and a sender
    that repeats the whole gains nothing."""
    if not readings:
        return Refusal(400, "Bad Request", "The body is empty.")
    if all(reading.unreadable for reading in readings):
        reason = f"Kept for a person to look at: {readings[0].unreadable}."
        return Refusal(422, "Unprocessable Content", reason)
    if len(receipts) == 1:
        return receipts[0]
    counts = ((receipt.accepted, receipt.duplicates, receipt.ignored) for receipt in receipts)
    return Receipt(*map(sum, zip(*counts, strict=True)))
