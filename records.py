"""What the database holds, for the people who run the service: items, their attempts, sums and the last day's hours.

Only ids, links and states leave here; a post's text never does, except through `payload`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from database import listed
from khoros_client import StreamItem, Unreadable
from store import (
    DELIVERED,
    DISCARDED,
    EMPTIED,
    IS_PARKED,
    PARKED,
    PENDING,
    REFUSED,
    RETRIED,
    WAS_RETRIED,
    Store,
)
from tickets import is_web_address

STATES = (PENDING, DELIVERED, PARKED, DISCARDED)
FOUND_AT_MOST = 100
HOURS = 24


@dataclass(frozen=True)
class Record:
    """An item of the inbox. Times are seconds of the store's clock; `link` leads to the post while that is kept."""

    id: int
    event_uuid: str
    entity_id: str
    source: str
    request_id: str | None
    state: str
    reason: str | None
    attempts: int
    received_at: float
    next_attempt_at: float
    settled_at: float | None
    ticket_id: int | None
    link: str | None


@dataclass(frozen=True)
class AttemptRecord:
    """One attempt at an item, as it was recorded."""

    item_id: int
    number: int
    at: float
    took_s: float
    outcome: str
    status: int | None
    code: str | None
    zendesk_request_id: str | None


@dataclass(frozen=True)
class Hour:
    """What happened in the hour that began at `at`."""

    at: float
    delivered: int = 0
    retried: int = 0
    parked: int = 0


_COLUMNS = [field.name for field in fields(Record) if field.name != "link"]
_SELECT = f"SELECT {', '.join(_COLUMNS)}, payload FROM inbox"
_LATEST = "ORDER BY id DESC LIMIT :most"
_ATTEMPTS = f"SELECT {', '.join(field.name for field in fields(AttemptRecord))} FROM attempts"
_COUNTED = (PENDING, PARKED, DISCARDED)  # few, and each with an index; the delivered are the rest
_BY_STATE = "SELECT (SELECT count(*) FROM inbox), " + ", ".join(
    f"(SELECT count(*) FROM inbox WHERE state = '{state}')" for state in _COUNTED
)
_RETRIES = f"SELECT outcome, count(*) FROM attempts WHERE {WAS_RETRIED} GROUP BY outcome"
# PostgreSQL rounds a time to whole seconds, SQLite cuts off; both divide whole numbers into whole numbers.
_HOUR = "(CAST(at AS BIGINT) - CAST(CAST(at AS BIGINT) > at AS INTEGER)) / 3600"
_TRIED = f"SELECT {_HOUR}, outcome, count(*) FROM attempts WHERE at >= :since GROUP BY 1, 2"
_UNREAD = f"SELECT received_at FROM inbox WHERE {IS_PARKED} AND attempts = 0 AND received_at >= :since"


class Records:
    """Reads one store. Every method raises StoreUnavailable when the database fails."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def latest(self, state: str | None = None, most: int = 50) -> list[Record]:
        """The newest items, or the newest in one state."""
        if state not in (None, *STATES):
            return []
        return self._records(f"WHERE state = '{state}'" if state else "", most)

    def find(self, name: str) -> list[Record]:
        """The items of one event uuid, post id or ticket number, newest first; a number may also be an item's."""
        if not name.isprintable():  # no id is like that, and PostgreSQL refuses NUL
            return []
        same = "event_uuid = :name OR entity_id = :name"
        if (its := number(name)) is not None:
            same += " OR ticket_id = :number OR id = :number"
        return self._records(f"WHERE {same}", FOUND_AT_MOST, name=name, number=its)

    def item(self, item_id: int) -> Record | None:
        """One item by its number."""
        found = self._records("WHERE id = :id", 1, id=item_id)
        return found[0] if found else None

    def payload(self, item_id: int) -> Any:
        """What Khoros sent about an item, with the customer's text; None when it is no longer kept."""
        with self._store.statement() as db:
            found = db.rows("SELECT payload FROM inbox WHERE id = :id", {"id": item_id})
        return json.loads(found[0][0]) if found and found[0][0] != EMPTIED else None

    def attempts(self, item_ids: Iterable[int]) -> list[AttemptRecord]:
        """Every recorded attempt at these items, oldest first. A missing number is one that nobody lived to record."""
        among, values = listed(item_ids)
        with self._store.statement() as db:
            found = db.rows(f"{_ATTEMPTS} WHERE item_id IN {among} ORDER BY item_id, id", values)
        return [AttemptRecord(*row) for row in found]

    def by_state(self) -> dict[str, int]:
        """How many items are in each state."""
        with self._store.statement() as db:
            [(everything, *counts)] = db.rows(_BY_STATE)  # one statement, so that they fit together
        return {DELIVERED: everything - sum(counts), **dict(zip(_COUNTED, counts, strict=True))}

    def retries(self) -> dict[str, int]:
        """How many attempts there were that had to be made again, by cause."""
        with self._store.statement() as db:
            return dict.fromkeys(RETRIED, 0) | dict(db.rows(_RETRIES))

    def hours(self) -> list[Hour]:
        """The last 24 hours, oldest first; the last one is under way."""
        now = self._store.now()
        first = int(now // 3600) - HOURS + 1
        counts: dict[int, dict[str, int]] = {first + n: {} for n in range(HOURS)}
        with self._store.statement() as db:
            for at, outcome, count in db.rows(_TRIED, {"since": first * 3600}):
                _add(counts, at, _kind(outcome), count)
            for (at,) in db.rows(_UNREAD, {"since": first * 3600}):
                _add(counts, int(at // 3600), "parked", 1)
        return [Hour(at=at * 3600.0, **kinds) for at, kinds in counts.items()]

    def _records(self, condition: str, most: int, **values: Any) -> list[Record]:
        with self._store.statement() as db:
            found = db.rows(f"{_SELECT} {condition} {_LATEST}", {**values, "most": most})
        return [Record(link=_link(payload), **dict(zip(_COLUMNS, row, strict=True))) for *row, payload in found]


def number(word: str) -> int | None:
    """The ticket's or item's number that people write as 12 or #12; None when it is none."""
    return int(word.lstrip("#")) if re.fullmatch(r"#?[0-9]{1,18}", word) else None


def span(seconds: float) -> str:
    """A time span as people say it: 5 s, 12 min, 3 h, 2 days."""
    for unit, size, least in (("days", 86_400, 2), ("h", 3600, 2), ("min", 60, 1)):
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def utc(at: float) -> str:
    """A time of the store as a date in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _add(counts: dict[int, dict[str, int]], hour: int, kind: str, count: int) -> None:
    if hour in counts:  # a clock that was set back leaves hours that are still to come
        counts[hour][kind] = counts[hour].get(kind, 0) + count


def _kind(outcome: str) -> str:
    if outcome == REFUSED:
        return "parked"
    return "retried" if outcome in RETRIED else "delivered"


def _link(payload: str) -> str | None:
    """The post's address, when it is a plain web address."""
    try:
        link = StreamItem.parse(json.loads(payload)["item"]).link
    except (KeyError, RecursionError, Unreadable):
        return None
    return link if is_web_address(link) else None
