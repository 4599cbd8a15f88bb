"""The memory of the simulated Zendesk: tickets, OAuth tokens, idempotency keys, and the calls of the current minute.

These classes do not lock. FakeZendesk does.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.richtext import plain_text

AGENT_ID = 900_100
KEY_LIFE_S = 2 * 3600
TOKEN_LIFE_S = 1800
TOKEN_LIFE_RANGE_S = (300, 172_800)
WINDOW_S = 60
UPDATES, UPDATES_WINDOW_S = 30, 600  # of one ticket
UNLIMITED = 1_000_000  # calls, in the headers, when no limit is set

Clock = Callable[[], float]


@dataclass(frozen=True)
class FakeComment:
    """One comment. Times are seconds of the fake's clock."""

    id: int
    html_body: str
    plain_body: str
    public: bool
    created_at: float

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "Comment",
            "author_id": AGENT_ID,
            "body": self.plain_body,
            "plain_body": self.plain_body,
            "html_body": f'<div class="zd-comment">{self.html_body}</div>',
            "public": self.public,
            "created_at": iso(self.created_at),
        }


@dataclass(frozen=True)
class FakeTicket:
    """A ticket at one moment: a change makes a new object. `fields` is the ticket object of the request."""

    id: int
    external_id: str
    subject: str
    status: str
    tags: list[str]
    priority: str | None
    fields: dict[str, Any]
    comments: list[FakeComment]
    created_at: float
    updated_at: float
    archived: bool = False  # closed for months: the list leaves it out

    def as_json(self, base_url: str) -> dict[str, Any]:
        """The ticket as the API shows it."""
        sent = self.fields
        return {
            "id": self.id,
            "url": f"{base_url}/api/v2/tickets/{self.id}.json",
            "external_id": self.external_id,
            "subject": self.subject,
            "raw_subject": self.subject,
            "description": self.comments[0].plain_body,
            "status": self.status,
            "priority": self.priority,
            "type": sent.get("type"),
            "tags": self.tags,
            "custom_fields": sent.get("custom_fields", []),
            "group_id": sent.get("group_id"),
            "brand_id": sent.get("brand_id"),
            "assignee_id": sent.get("assignee_id"),
            "requester_id": sent.get("requester_id", AGENT_ID),
            "submitter_id": AGENT_ID,
            "followup_ids": [],
            "is_public": any(comment.public for comment in self.comments),
            "created_at": iso(self.created_at),
            "updated_at": iso(self.updated_at),
            "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": None}},
        }


def new_comment(comment_id: int, sent: Mapping[str, Any], *, public: bool, now: float) -> FakeComment:
    """The comment in a request. `public` applies when the request does not say whether it is public."""
    html = str(sent.get("html_body") or sent.get("body") or "")
    return FakeComment(comment_id, html, plain_text(html), bool(sent.get("public", public)), now)


def iso(at: float) -> str:
    """A time in seconds as Zendesk writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Tokens:
    """OAuth access tokens and their scopes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[frozenset[str], float]] = {}

    def issue(self, scope: object, life_s: int) -> str:
        """A new token. As in Zendesk, an unknown scope is accepted, and then every call is refused."""
        token = secrets.token_hex(32)
        scopes = frozenset(scope.split(" ")) if isinstance(scope, str) else frozenset[str]()
        self._known[token] = (scopes, self._clock() + life_s)
        return token

    def scopes(self, token: str) -> frozenset[str] | None:
        """The scopes of the token. None when it is unknown or has expired."""
        scopes, ends_at = self._known.get(token, (frozenset[str](), 0.0))
        return scopes if token in self._known and self._clock() < ends_at else None

    def forget(self) -> None:
        self._known.clear()


class IdempotencyKeys:
    """The ticket that each key made, for two hours."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[str, tuple[bytes, FakeTicket, float]] = {}

    def ticket(self, key: str, body: bytes) -> FakeTicket | None:
        """The ticket of the first request with this key, as it was then. None for a new key. Raises ValueError when the
        first request had another body."""
        known = self._known.get(key)
        if known is None or self._clock() - known[2] >= KEY_LIFE_S:
            return None
        if known[0] != body:
            raise ValueError(key)
        return known[1]

    def keep(self, key: str, body: bytes, ticket: FakeTicket) -> None:
        self._known[key] = (body, ticket, self._clock())


@dataclass(frozen=True)
class Rate:
    """The account's limit as an answer's headers show it."""

    limit: int
    remaining: int
    reset_s: int

    def headers(self) -> dict[str, str]:
        return {
            "X-Rate-Limit": str(self.limit),
            "X-Rate-Limit-Remaining": str(self.remaining),
            "ratelimit-limit": str(self.limit),
            "ratelimit-remaining": str(self.remaining),
            "ratelimit-reset": str(self.reset_s),
        }


class RateWindow:
    """Counts calls in fixed windows of `window_s` seconds. The first one begins with the first call."""

    def __init__(self, per_minute: int | None, clock: Clock, window_s: int = WINDOW_S) -> None:
        self._clock, self._window_s = clock, window_s
        self.per_minute = per_minute
        self._began_at: float | None = None
        self._used = 0

    def take(self) -> bool:
        """Counts one call. Returns False when the window has no calls left."""
        if self._began_at is None:
            self._began_at = self._clock()
        self._turn()
        if self._used >= self._limit:
            return False
        self._used += 1
        return True

    def now(self) -> Rate:
        self._turn()
        left_s = self._window_s if self._began_at is None else self._began_at + self._window_s - self._clock()
        return Rate(self._limit, max(0, self._limit - self._used), max(1, math.ceil(left_s)))

    @property
    def _limit(self) -> int:
        return UNLIMITED if self.per_minute is None else self.per_minute

    def _turn(self) -> None:
        if self._began_at is not None and (windows := (self._clock() - self._began_at) // self._window_s):
            self._began_at, self._used = self._began_at + windows * self._window_s, 0


class TicketUpdates:
    """Counts the updates of each ticket: 30 in ten minutes are allowed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: dict[int, list[float]] = {}

    def take(self, ticket_id: int) -> float:
        """Counts one update. Returns 0, or the seconds until one is allowed again."""
        now = self._clock()
        recent = [at for at in self._made.get(ticket_id, []) if now - at < UPDATES_WINDOW_S]
        if len(recent) >= UPDATES:
            return math.ceil(recent[0] + UPDATES_WINDOW_S - now)
        self._made[ticket_id] = [*recent, now]
        return 0
