"""The inbox as the people who run the service see it: items, their attempts, and the last day's hours.

Only ids, links and states leave here; a post's text never does, except through `payload`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from events import Subject, is_web_address
from inbox.database import Database, Row, in_list
from inbox.items import REFUSED, TROUBLES, Counts
from inbox.rows import object_in
from inbox.schema import DELIVERED, DISCARDED, EMPTY, IS_PARKED, IS_PENDING, PARKED, PENDING, SETTLED_AT
from inbox.statements import IS_LEASED_NOW

STATES = (PENDING, DELIVERED, PARKED, DISCARDED)
FOUND_AT_MOST = 100
HOURS = 24


@dataclass(frozen=True)
class Record:
    """An item of the inbox. Times are seconds of the database's clock; `link` leads to the post while its text is
    kept; `under_way`: a process is sending it right now."""

    id: int
    destination: str
    event_uuid: str
    subject_id: str
    source: str
    request_id: str | None
    state: str
    reason: str | None
    attempts: int
    received_at: float
    next_attempt_at: float
    settled_at: float | None
    reference: str | None
    payload_kept: bool
    link: str | None
    under_way: bool

    @property
    def can_be_retried(self) -> bool:
        """Whether it is parked and can be sent again, or waits and can be sent at once."""
        parked = self.state == PARKED and bool(self.destination) and self.payload_kept
        return parked or self.waits

    @property
    def waits(self) -> bool:
        """Whether it is pending and nobody is sending it."""
        return self.state == PENDING and not self.under_way


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
    request_id: str | None


@dataclass(frozen=True)
class Hour:
    """What happened in the hour that began at `at`."""

    at: float
    delivered: int = 0
    retried: int = 0
    parked: int = 0


_MADE_UP = ("settled_at", "payload_kept", "link", "under_way")  # of other columns
_COLUMNS = [field.name for field in fields(Record) if field.name not in _MADE_UP]
_SETTLED = f"CASE WHEN state <> '{PENDING}' THEN {SETTLED_AT} END"
_UNDER_WAY = f"CASE WHEN state = '{PENDING}' AND {IS_LEASED_NOW} THEN 1 ELSE 0 END"
_SELECT = f"SELECT {', '.join(_COLUMNS)}, {_SETTLED}, {_UNDER_WAY}, payload FROM items"
_ATTEMPTS = f"SELECT {', '.join(field.name for field in fields(AttemptRecord))} FROM attempts"
_COUNTED = (PENDING, PARKED, DISCARDED)  # few, and each with an index; the delivered are the rest
_BY_STATE = "SELECT (SELECT count(*) FROM items), " + ", ".join(
    f"(SELECT count(*) FROM items WHERE state = '{state}')" for state in _COUNTED
)
# PostgreSQL rounds a time to whole seconds, SQLite cuts off; both divide whole numbers into whole numbers.
_HOUR = "(CAST(at AS BIGINT) - CAST(CAST(at AS BIGINT) > at AS INTEGER)) / 3600"
_BY_HOUR = f"SELECT {_HOUR}, outcome, count(*) FROM attempts WHERE at >= :since GROUP BY 1, 2"
_PENDING = f"SELECT destination, count(*), min(received_at), :clock FROM items WHERE {IS_PENDING} GROUP BY destination"
_PARKED = f"SELECT destination, count(*) FROM items WHERE {IS_PARKED} GROUP BY destination"
_NOT_READ = f"SELECT received_at FROM items WHERE {IS_PARKED} AND attempts = 0 AND received_at >= :since"


class Records:
    """Reads the inbox. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, state: str | None = None, most: int = 50, destination: str | None = None) -> list[Record]:
        """The newest items, or the newest in one state, or for one destination."""
        if state not in (None, *STATES):
            return []
        wanted = {None: "true", PENDING: f"id IN (SELECT id FROM items WHERE {IS_PENDING})"}
        condition = wanted.get(state, f"state = '{state}'")  # SQLite would look for the pending ones among all items
        among = " AND destination = :destination" if destination is not None else ""
        return self._select(f"WHERE {condition}{among}", most, destination=destination)

    def find(self, name: str) -> list[Record]:
        """The items of one event uuid, post id or reference, newest first; a number may also be an item's."""
        if not name.isprintable():  # no id is like that, and PostgreSQL refuses NUL
            return []
        same = "event_uuid = :name OR subject_id = :name OR reference = :reference"
        its = number(name)
        if its is not None:
            same += " OR id = :id"
        return self._select(f"WHERE {same}", FOUND_AT_MOST, name=name, reference=name.lstrip("#"), id=its)

    def item(self, item_id: int) -> Record | None:
        """One item by its number."""
        found = self._select("WHERE id = :id", 1, id=item_id)
        return found[0] if found else None

    def payload(self, item_id: int) -> Any:
        """What Khoros sent about an item, with the customer's text; None when it is no longer kept."""
        with self._database.reading() as db:
            found = db.rows("SELECT payload FROM items WHERE id = :id", {"id": item_id})
        return object_in(found[0][0]) if found and found[0][0] != EMPTY else None

    def attempts(self, item_ids: Iterable[int]) -> list[AttemptRecord]:
        """Every recorded attempt at these items, oldest first. A missing number: the process ended before it."""
        among, values = in_list(item_ids)
        with self._database.reading() as db:
            found = db.rows(f"{_ATTEMPTS} WHERE item_id IN {among} ORDER BY item_id, id", values)
        return [AttemptRecord(*row) for row in found]

    def waiting(self) -> dict[str, Counts]:
        """What is pending and parked for each destination that has some; "" is for what could not be read."""
        with self._database.reading() as db:
            parked = {str(name): int(count) for name, count in db.rows(_PARKED)}
            found = {name: Counts(0, count, None) for name, count in parked.items()}
            for name, count, oldest, now in db.rows(_PENDING):
                found[name] = Counts(count, parked.get(name, 0), max(0.0, now - oldest))
        return found

    def by_state(self) -> dict[str, int]:
        """How many items are in each state."""
        with self._database.reading() as db:
            [(everything, *counts)] = db.rows(_BY_STATE)  # one statement, so that they fit together
        return {DELIVERED: everything - sum(counts), **dict(zip(_COUNTED, counts, strict=True))}

    def hours(self) -> list[Hour]:
        """The last 24 hours, oldest first; the last one is under way."""
        with self._database.reading() as db:
            first = int(db.now() // 3600) - HOURS + 1
            counts: dict[int, dict[str, int]] = {first + n: {} for n in range(HOURS)}
            for at, outcome, count in db.rows(_BY_HOUR, {"since": first * 3600}):
                _add(counts, at, _kind(outcome), count)
            for (at,) in db.rows(_NOT_READ, {"since": first * 3600}):
                _add(counts, int(at // 3600), "parked", 1)
        return [Hour(at=at * 3600.0, **kinds) for at, kinds in counts.items()]

    def _select(self, condition: str, most: int, **values: Any) -> list[Record]:
        with self._database.reading() as db:
            found = db.rows(f"{_SELECT} {condition} ORDER BY id DESC LIMIT :most", {**values, "most": most})
        return [_record(row) for row in found]


def _record(row: Row) -> Record:
    *columns, settled_at, under_way, payload = row
    made_up = {"settled_at": settled_at, "payload_kept": payload != EMPTY, "link": _link(payload)}
    return Record(**dict(zip(_COLUMNS, columns, strict=True)), **made_up, under_way=bool(under_way))


def number(word: str) -> int | None:
    """The number that people write as 12 or #12; None when it is none."""
    return int(word.lstrip("#")) if re.fullmatch(r"#?[0-9]{1,18}", word) else None


def span(seconds: float) -> str:
    """A time span as people say it: 5 s, 12 min, 3 h, 2 days."""
    for unit, size, least in (("days", 86_400, 2), ("h", 3600, 2), ("min", 60, 1)):
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def utc(at: float) -> str:
    """A time of the database as a date in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _add(counts: dict[int, dict[str, int]], hour: int, kind: str, count: int) -> None:
    if hour in counts:  # a clock that was set back leaves hours that are still to come
        counts[hour][kind] = counts[hour].get(kind, 0) + count


def _kind(outcome: str) -> str:
    if outcome == REFUSED:
        return "parked"
    return "retried" if outcome in TROUBLES else "delivered"


def _link(payload: str) -> str | None:
    """The post's or message's address, when it is a plain web address."""
    link = Subject.parse(object_in(payload)).link
    return link if is_web_address(link) else None
