"""The inbox as the people who run the service see it: items, their attempts, and the last day's hours.

Only ids, links and states leave here; a post's text never does, except through `payload` and `subjects`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from events import MESSAGES, Subject, as_object, is_web_address, read_texts
from inbox.database import Database, Row, in_list
from inbox.items import REFUSED, TROUBLES, Counts
from inbox.rows import object_in
from inbox.schema import DELIVERED, DISCARDED, EMPTY, IS_PARKED, IS_PENDING, PARKED, PENDING, SETTLED_AT
from inbox.statements import IS_LEASED_NOW

STATES = (PENDING, DELIVERED, PARKED, DISCARDED)
FOUND_AT_MOST = 100
SCANNED = 5_000  # the newest items, whose texts a search reads
HOURS = 24


@dataclass(frozen=True)
class Record:
    """An item of the inbox. Times are seconds of the database's clock; `link` leads to the post while its text is
    kept; `under_way`: a process is sending it right now; `reference_state` is the state of the ticket when it was last
    looked at, None when it never was."""

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
    reference_state: str | None

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
    """The posts of the hour that began at `at`: how many were delivered in it, and how many arrived in it that still
    wait or need attention."""

    at: float
    delivered: int = 0
    pending: int = 0
    parked: int = 0


_MADE_UP = ("settled_at", "payload_kept", "link", "under_way", "reference_state")  # of other columns
_COLUMNS = [field.name for field in fields(Record) if field.name not in _MADE_UP]
_SETTLED = f"CASE WHEN state <> '{PENDING}' THEN {SETTLED_AT} END"
_UNDER_WAY = f"CASE WHEN state = '{PENDING}' AND {IS_LEASED_NOW} THEN 1 ELSE 0 END"
_REFERENCE_STATE = """(SELECT seen.state FROM tickets AS seen
    WHERE seen.destination = items.destination AND seen.reference = items.reference)"""
_SELECT = f"SELECT {', '.join(_COLUMNS)}, {_SETTLED}, {_UNDER_WAY}, {_REFERENCE_STATE}, payload FROM items"
_ATTEMPTS = f"SELECT {', '.join(field.name for field in fields(AttemptRecord))} FROM attempts"
_COUNTED = (PENDING, PARKED, DISCARDED)  # few, and each with an index; the delivered are the rest
_BY_STATE = "SELECT (SELECT count(*) FROM items), " + ", ".join(
    f"(SELECT count(*) FROM items WHERE state = '{state}')" for state in _COUNTED
)
# PostgreSQL rounds a time to whole seconds, SQLite cuts off; both divide whole numbers into whole numbers.
_HOUR = "(CAST({at} AS BIGINT) - CAST(CAST({at} AS BIGINT) > {at} AS INTEGER)) / 3600"
_ARRIVED = _HOUR.format(at="received_at")
_NOT_DELIVERED = ", ".join(f"'{how}'" for how in (REFUSED, *TROUBLES))
# Each has an index that holds all it needs.
_BY_HOUR = {
    DELIVERED: f"SELECT {_HOUR.format(at='at')}, count(*) FROM attempts "
    f"WHERE at >= :since AND outcome NOT IN ({_NOT_DELIVERED}) GROUP BY 1",
    PENDING: f"SELECT {_ARRIVED}, count(*) FROM items WHERE {IS_PENDING} AND received_at >= :since GROUP BY 1",
    PARKED: f"SELECT {_ARRIVED}, count(*) FROM items WHERE {IS_PARKED} AND received_at >= :since GROUP BY 1",
}
_PENDING = f"SELECT destination, count(*), min(received_at), :clock FROM items WHERE {IS_PENDING} GROUP BY destination"
_PARKED = f"SELECT destination, count(*) FROM items WHERE {IS_PARKED} GROUP BY destination"
_SCAN = "SELECT id, event_uuid, subject_id, payload FROM items ORDER BY id DESC LIMIT :most"
# What Khoros writes before the colon in a post's id.
_NETWORKS = ("twitter", "facebook", "instagram", "linkedin", "youtube", "tiktok")
_NUMBERS = re.compile("#[0-9]+|[0-9]{3,}")
_NOT_PATH = re.compile("[?#]")
_X = re.compile(r"^(?:https?://)?(?:(?:www|m|mobile)\.)?(?:twitter\.com(?=/|$))?")


class Records:
    """Reads the inbox. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(
        self, state: str | None = None, most: int = 50, destination: str | None = None, before: int | None = None
    ) -> list[Record]:
        """The newest items, or the newest in one state, or for one destination; with `before` those of lower ids."""
        if state not in (None, *STATES):
            return []
        wanted = {None: "true", PENDING: f"id IN (SELECT id FROM items WHERE {IS_PENDING})"}
        condition = wanted.get(state, f"state = '{state}'")  # SQLite would look for the pending ones among all items
        condition += " AND destination = :destination" if destination is not None else ""
        condition += " AND id < :before" if before is not None else ""
        return self._select(f"WHERE {condition}", most, destination=destination, before=before)

    def find(self, name: str) -> list[Record]:
        """The items of one event uuid, post id (also without its network) or reference, newest first; a number may also
        be an item's, and an address is one that ends with any of these."""
        if not is_web_address(name):
            return self._named(name, of_items=True)
        return self._named(_NOT_PATH.split(name)[0].rstrip("/").rpartition("/")[2], of_items="/items/" in name)

    def _named(self, name: str, *, of_items: bool) -> list[Record]:
        """What `find` finds for a name that is no address; a number is an item's only when asked."""
        if not name.isprintable():  # no id is like that, and PostgreSQL refuses NUL
            return []
        posts, values = in_list([name, *(f"{network}:{name}" for network in _NETWORKS)])
        same = f"event_uuid = :name OR subject_id IN {posts} OR reference = :reference"
        its = number(name) if of_items else None
        if its is not None:
            same += " OR id = :id"
        return self._select(f"WHERE {same}", FOUND_AT_MOST, name=name, reference=name.lstrip("#"), id=its, **values)

    def search(self, words: str, *, in_posts: bool) -> list[Record]:
        """What `find` finds; when that is nothing, those of the newest SCANNED items whose event uuid begins so, whose
        post id ends so, that have this link, or with `in_posts` all these words in their author, text and labels; and
        when that is nothing, what the longest number in these words names, as in Ticket #2001."""
        found = self.find(words)
        if found or not words:
            return found
        with self._database.reading() as db:
            rows = db.rows(_SCAN, {"most": SCANNED})
        ids = [item_id for item_id, *item in rows if _is_meant(words.casefold(), in_posts, *item)]
        if not ids:
            longest = max(_NUMBERS.findall(words), key=len, default="")
            return self._named(longest.lstrip("#"), of_items="item" in words.casefold()) if longest else []
        among, values = in_list(ids[:FOUND_AT_MOST])
        return self._select(f"WHERE id IN {among}", FOUND_AT_MOST, **values)

    def subjects(self, item_ids: Iterable[int]) -> dict[int, Subject]:
        """What these items are about, with the customer's text, by their ids; without those whose text is not kept."""
        among, values = in_list(item_ids)
        with self._database.reading() as db:
            found = db.rows(f"SELECT id, payload FROM items WHERE payload <> '{EMPTY}' AND id IN {among}", values)
        return {item_id: Subject.parse(object_in(payload)) for item_id, payload in found}

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
            for state, statement in _BY_HOUR.items():
                for hour, count in db.rows(statement, {"since": first * 3600}):
                    if hour in counts:  # a clock that was set back leaves hours that are still to come
                        counts[hour][state] = count
        return [Hour(at=hour * 3600.0, **by_state) for hour, by_state in counts.items()]

    def _select(self, condition: str, most: int, **values: Any) -> list[Record]:
        with self._database.reading() as db:
            found = db.rows(f"{_SELECT} {condition} ORDER BY id DESC LIMIT :most", {**values, "most": most})
        return [_record(row) for row in found]


def _record(row: Row) -> Record:
    *columns, settled_at, under_way, reference_state, payload = row
    made_up = {"settled_at": settled_at, "payload_kept": payload != EMPTY, "link": _link(payload)}
    made_up |= {"under_way": bool(under_way), "reference_state": reference_state}
    return Record(**dict(zip(_COLUMNS, columns, strict=True)), **made_up)


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


def _is_meant(wanted: str, in_posts: bool, event_uuid: str, subject_id: str, payload: str) -> bool:
    """Whether a search for `wanted`, in small letters, means this item."""
    if event_uuid.startswith(wanted) or subject_id.casefold().endswith(f":{wanted}"):
        return True
    subject = Subject.parse(object_in(payload))
    link, *texts = read_texts(as_object(subject.raw), "link", "text", "author", "author_screen_name", "name").values()
    if subject.event_name in MESSAGES:
        message, link = subject.message(), subject.link
        texts += message.title, message.text
    if link and "/" in wanted and _same_address(wanted, link.casefold()):
        return True
    found = " ".join((*texts, *subject.labels)).casefold()
    return in_posts and all(word.lstrip("@#") in found for word in wanted.split())


def _same_address(wanted: str, link: str) -> bool:
    """Whether `wanted` is a part of this address, or the address and more. Twitter's is X's."""
    wanted, link = (_X.sub(lambda host: "x.com" if "twitter" in host[0] else "", one) for one in (wanted, link))
    return wanted in link or re.match(rf"{re.escape(link.rstrip('/'))}([/?#&]|$)", wanted) is not None


def _link(payload: str) -> str | None:
    """The post's or message's address, when it is a plain web address."""
    link = Subject.parse(object_in(payload)).link
    return link if is_web_address(link) else None
