"""The durable inbox: every labelled post is a row here before Khoros gets its 2xx, and until Zendesk has its ticket."""

from __future__ import annotations

import json
import logging
import os
import socket
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from database import Connection, Row, StoreUnavailable, listed, tabled
from gate import OPEN, Gate
from logfmt import event, where
from store import (
    DISCARDED,
    EMPTIED,
    IS_PARKED,
    IS_PENDING,
    KEEP_FACT,
    PARKED,
    PENDING,
    SELECT_FACT,
    SELECT_FACT_LOCKED,
    STILL_FULL,
    STILL_PENDING,
    Store,
    now_of,
    together,
)

WORDLESS = "the post cannot be put into a ticket"
AT_ONCE = 100  # rows in one statement: SQLite may be built for 999 values at most, and each has nine
PURGE_AT_ONCE = 500  # rows in one transaction, so that none waits long behind them

_GATE = {"name": "gate"}
_OURS = f"{STILL_PENDING} AND owner = :of_owner"
_INSERT = """INSERT INTO inbox
    (event_uuid, entity_id, source, request_id, payload, state, reason, received_at, next_attempt_at) VALUES """
_UNKNOWN = " ON CONFLICT DO NOTHING RETURNING event_uuid, entity_id"
_INSERT_ATTEMPT = """INSERT INTO attempts
    (item_id, number, at, took_s, outcome, status, code, zendesk_request_id) VALUES
    (:item_id, :number, :at, :took_s, :outcome, :status, :code, :zendesk_request_id)"""
_SELECT_WAITING = f"SELECT count(*), min(received_at), :clock FROM inbox WHERE {IS_PENDING}"
_IN_FLIGHT = f"SELECT count(*) FROM inbox WHERE {IS_PENDING} AND owner IS NOT NULL AND next_attempt_at > :now"
_COUNT_PARKED = f"SELECT count(*) FROM inbox WHERE {IS_PARKED}"
_FOLLOWER = f"SELECT id FROM inbox WHERE entity_id = :post AND {STILL_PENDING} LIMIT 1"
_RENEW = f"UPDATE inbox SET next_attempt_at = :clock + :lease_s WHERE {_OURS} AND id IN "
_RETRY = f"""UPDATE inbox SET state = '{PENDING}', body = NULL, first_sent_at = 0.0, settled_at = NULL,
    next_attempt_at = :clock WHERE {IS_PARKED} AND entity_id <> ''"""
_DISCARD = f"""UPDATE inbox SET state = '{DISCARDED}', payload = '{EMPTIED}', body = NULL, settled_at = :clock
    WHERE {IS_PARKED} AND id IN """
_PURGE = f"""UPDATE inbox SET payload = '{EMPTIED}', body = NULL WHERE id IN
    (SELECT id FROM inbox WHERE {STILL_FULL} AND settled_at < :before LIMIT {PURGE_AT_ONCE} FOR UPDATE SKIP LOCKED)"""

# The next items to send, each with the newest ticket its post already has. An item waits while another of its post is
# in flight or came before it. A time more than an hour ahead is due: nothing waits so long, the clock was set back.
_DUE = f"""
SELECT item.id, event_uuid, entity_id, source, request_id, payload, received_at, attempts, first_sent_at,
    body, idempotency_key, note_on,
    (SELECT max(done.ticket_id) FROM inbox AS done WHERE done.entity_id = item.entity_id)
FROM inbox AS item
WHERE {IS_PENDING} AND (next_attempt_at <= :now OR next_attempt_at > :now + 3600)
    AND NOT EXISTS (SELECT 1 FROM inbox AS other WHERE other.entity_id = item.entity_id AND other.{STILL_PENDING}
        AND other.id <> item.id
        AND (other.id < item.id OR other.owner IS NOT NULL AND other.next_attempt_at > :now))
ORDER BY next_attempt_at, item.id LIMIT :free FOR UPDATE OF item SKIP LOCKED"""


@dataclass(frozen=True)
class NewItem:
    """What the door hands in: one post of one event. A `reason` parks it at once, for a person to look at. Raises
    RecursionError when the payload is nested too deeply to be kept."""

    event_uuid: str
    entity_id: str
    payload: Mapping[str, Any]
    source: str = "push"
    request_id: str | None = None
    reason: str | None = None
    json: str = field(init=False)  # the payload as it is kept

    def __post_init__(self) -> None:
        object.__setattr__(self, "json", json.dumps(self.payload))


@dataclass(frozen=True)
class Request:
    """What is sent to Zendesk: these bytes under this key, as a new ticket or as a note on the ticket `note_on`."""

    body: bytes
    idempotency_key: str
    note_on: int | None = None


@dataclass(frozen=True)
class Item:
    """A claimed row. `sent_s_ago` is None on the first attempt, otherwise the age of the first send in seconds."""

    id: int
    event_uuid: str
    entity_id: str
    source: str
    request_id: str | None
    payload: Mapping[str, Any]
    age_s: float
    attempts: int
    sent_s_ago: float | None
    request: Request | None
    post_ticket_id: int | None  # the newest ticket this post already has
    gate_version: int


@dataclass(frozen=True)
class Counts:
    """How much waits and how much is put aside; the age in seconds of the oldest that waits, None when none does."""

    pending: int
    parked: int
    oldest_pending_s: float | None


@dataclass(frozen=True)
class Attempt:
    """One attempt at an item: what came of it, how long it took, and the status, error code and request id of Zendesk's
    answer, each None when there was none."""

    outcome: str
    took_s: float
    status: int | None = None
    code: str | None = None
    zendesk_request_id: str | None = None


@dataclass(frozen=True)
class Claim:
    """Items to send now; the gate they leave through, and for how many seconds it is closed when there are none."""

    items: list[Item]
    gate: Gate
    held_s: float
    more: bool  # as many as there was room for: others may be due


@dataclass(frozen=True)
class Settled:
    """Whether the item was still ours to settle, the gate before and after, and whether its post has more waiting."""

    ours: bool
    before: Gate
    after: Gate
    follower: bool


class Inbox(Store):
    """The items: taken in at one end, claimed, sent and settled at the other. `owner` names this process in them."""

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        super().__init__(url, clock)
        self.owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    # The door

    def accept(self, items: Sequence[NewItem]) -> list[bool]:
        """Commits the items and tells of each whether it was new: the same event of the same post is not kept twice."""
        rows = [_row(item) for item in sorted(items, key=lambda item: item.entity_id)]  # one order: deadlocks are rare
        if not rows:
            return []
        try:
            new = self._insert_rows(rows)
        except StoreUnavailable:  # a connection may just have died; the same rows a second time do no harm
            new = self._insert_rows(rows)
        answers = []
        for item in items:
            key = (item.event_uuid, item.entity_id)
            answers.append(key in new)
            new.discard(key)
        return answers

    @together
    def prove_writable(self, db: Connection) -> None:
        """Commits a small change, with an item taken in and out again, so that a full or read-only disk and a damaged
        table show."""
        name = uuid.uuid4().hex
        self._insert(db, [_row(NewItem(name, "", {}, "proof", reason="proof"))])
        db.change("DELETE FROM inbox WHERE event_uuid = :event_uuid", {"event_uuid": name})
        db.change(KEEP_FACT, {"name": "written_at", "value": name})

    # The way out

    @together
    def claim(self, db: Connection, free: int, lease_s: float, compose: Callable[[Item], Request]) -> Claim:
        """Takes up to `free` items that are due, for `lease_s` seconds, and freezes what each will send.

        An item is due when its time has come and no other item of its post is in flight or waits before it. What
        `compose` cannot put into words is parked: it is returned without a request.
        """
        gate, now = self._locked_gate(db)
        in_flight = 0 if gate.calls_left is None else db.rows(_IN_FLIGHT, {"now": now})[0][0]
        free = gate.places(now, in_flight, free)
        rows = db.rows(_DUE, {"now": now, "free": free}) if free else []
        items = [_composed(_claimed(row, now, gate.version), compose) for row in rows]
        for item in items:
            db.change(*_update(self._claimed_values(item, now, lease_s), "id = :of_id", of_id=item.id))
        if any(item.request for item in items):
            self._move(db, gate, gate.probing(now, lease_s))
        return Claim(items, gate, gate.held_for(now), more=bool(rows) and len(rows) == free)

    @together
    def refreeze(self, db: Connection, item: Item, request: Request, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        now = now_of(db)
        values = {**_frozen(request), "first_sent_at": now, "next_attempt_at": now + lease_s}
        ours = self._update_ours(db, item, values)
        return replace(item, request=request, sent_s_ago=None) if ours else None

    @together
    def renew(self, db: Connection, ids: Iterable[int], lease_s: float) -> None:
        """Prolongs the leases of these items, as far as they are ours."""
        among, values = listed(ids)
        db.change(_RENEW + among, {"of_owner": self.owner, "lease_s": lease_s, **values})

    @together
    def settle(
        self,
        db: Connection,
        item: Item,
        values: Mapping[str, Any],
        change: Callable[[Gate, float], Gate],
        attempt: Attempt | None = None,
    ) -> Settled:
        """Records what became of a claimed item, and lets `change` move the gate, in one transaction.

        `values` are columns to set. A `delay_s` among them says when a pending item is due again if the gate is open;
        otherwise it is when the gate opens. An item whose lease another process has taken over is left alone.
        """
        before, now = self._locked_gate(db)
        if attempt is not None:
            made = {"item_id": item.id, "number": item.attempts, "at": now - attempt.took_s}
            db.change(_INSERT_ATTEMPT, made | asdict(attempt))
        after = change(before, now)
        self._move(db, before, after)
        values = {"owner": None, "settled_at": now, **values}
        if "delay_s" in values:
            due_at = now + values.pop("delay_s")
            values |= {"settled_at": None, "next_attempt_at": due_at if after.state == OPEN else after.hold_until}
        ours = self._update_ours(db, item, values)
        return Settled(ours, before, after, follower=bool(db.rows(_FOLLOWER, {"post": item.entity_id})))

    @together
    def move_gate(self, db: Connection, change: Callable[[Gate, float], Gate]) -> tuple[Gate, Gate]:
        """Changes the gate without an item; returns it before and after."""
        before, now = self._locked_gate(db)
        after = change(before, now)
        self._move(db, before, after)
        return before, after

    # What people and the other processes ask

    def counts(self) -> Counts:
        """How much is pending and parked."""
        with self.statement() as db:
            [(waiting, oldest, now)] = db.rows(_SELECT_WAITING)
            [(parked,)] = db.rows(_COUNT_PARKED)
        return Counts(waiting, parked, max(0.0, now - oldest) if oldest is not None else None)

    def gate(self) -> tuple[Gate, float]:
        """The gate, and the seconds until it may open."""
        with self.statement() as db:
            [(value, now)] = db.rows(SELECT_FACT, _GATE)
        gate = Gate(**json.loads(value))
        return gate, gate.held_for(now)

    @together
    def retry(self, db: Connection, ids: Iterable[int] | None = None) -> int:
        """Has these parked items sent again, or all, with new words and after a look-up, and returns how many. One that
        could not even be read stays parked."""
        if ids is None:
            return db.change(_RETRY)
        among, values = listed(ids)
        return db.change(f"{_RETRY} AND id IN {among}", values)

    @together
    def discard(self, db: Connection, ids: Iterable[int]) -> int:
        """Gives these parked items up, for good and without their text, and returns how many. Their rows stay, so
        that the same event does not come in again."""
        among, values = listed(ids)
        return db.change(_DISCARD + among, values)

    @together
    def purge(self, db: Connection, older_than_s: float) -> int:
        """Empties delivered items of the customer's text, some of those that are old enough, and returns how many:
        call it until it is 0. Ids and ticket numbers stay, so that nothing is ever made twice."""
        return db.change(_PURGE, {"before": now_of(db) - older_than_s})

    # Inside

    def _insert_rows(self, rows: Sequence[Row]) -> set[tuple[str, str]]:
        """Gives the event and the post of each row that was not there."""
        if self._database.ONE_WRITER or len(rows) > AT_ONCE:
            return self.write(lambda db: self._insert(db, rows))
        with self.statement() as db:  # PostgreSQL commits for several connections together by itself
            return self._insert(db, rows)

    def _insert(self, db: Connection, rows: Sequence[Row]) -> set[tuple[str, str]]:
        new: set[tuple[str, str]] = set()
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            table, values = tabled(some, more=", :clock, :clock")
            if self._database.ONE_WRITER and len(some) > 1:
                # Mostly none is known. To be told so row by row makes the thread wait for the others after each.
                with suppress(sqlite3.IntegrityError):  # SQLite then takes back what this statement did, and only that
                    db.change(_INSERT + table, values)
                    new |= {row[:2] for row in some}
                    continue
            new |= set(db.rows(_INSERT + table + _UNKNOWN, values))
        return new

    def _claimed_values(self, item: Item, now: float, lease_s: float) -> dict[str, Any]:
        if item.request is None:
            return {"state": PARKED, "reason": WORDLESS}
        first_sent_at = now - (item.sent_s_ago or 0.0)
        lease = {"owner": self.owner, "attempts": item.attempts, "next_attempt_at": now + lease_s}
        return {**lease, "first_sent_at": first_sent_at, **_frozen(item.request)}

    def _update_ours(self, db: Connection, item: Item, values: Mapping[str, Any]) -> bool:
        ours = {"of_id": item.id, "of_owner": self.owner, "of_attempts": item.attempts}
        return db.change(*_update(values, f"id = :of_id AND {_OURS} AND attempts = :of_attempts", **ours)) == 1

    def _locked_gate(self, db: Connection) -> tuple[Gate, float]:
        """The gate and the time. Its row is locked until the transaction ends: claims and settlements take turns."""
        [(value, now)] = db.rows(SELECT_FACT_LOCKED, _GATE)
        return Gate(**json.loads(value)), now

    def _move(self, db: Connection, before: Gate, after: Gate) -> None:
        if after != before:
            db.change(KEEP_FACT, _GATE | {"value": json.dumps(asdict(after))})


def _row(item: NewItem) -> Row:
    state = PARKED if item.reason else PENDING
    return item.event_uuid, item.entity_id, item.source, item.request_id, item.json, state, item.reason


def _update(values: Mapping[str, Any], condition: str, **named: Any) -> tuple[str, dict[str, Any]]:
    """The statement that sets these columns, and all values that it names."""
    columns = ", ".join(f"{name} = :{name}" for name in values)
    return f"UPDATE inbox SET {columns} WHERE {condition}", {**values, **named}


def _composed(item: Item, compose: Callable[[Item], Request]) -> Item:
    """The item with its words; one that cannot be worded must not hold up the others, and stays without."""
    if item.request is not None:
        return item
    try:
        return replace(item, request=compose(item))
    except Exception as error:
        event("post_broken", logging.ERROR, event_uuid=item.event_uuid, error=where(error))
        return item


def _claimed(row: Row, now: float, gate_version: int) -> Item:
    item_id, event_uuid, entity_id, source, request_id, payload, received_at, attempts, first_sent_at, *rest = row
    body, idempotency_key, note_on, post_ticket_id = rest
    return Item(
        id=item_id,
        event_uuid=event_uuid,
        entity_id=entity_id,
        source=source,
        request_id=request_id,
        payload=json.loads(payload),
        age_s=max(0.0, now - received_at),
        attempts=attempts + 1,
        sent_s_ago=None if first_sent_at is None else now - first_sent_at,
        request=None if body is None else Request(body.encode("ascii"), idempotency_key, note_on),
        post_ticket_id=post_ticket_id,
        gate_version=gate_version,
    )


def _frozen(request: Request) -> dict[str, Any]:
    return {
        "body": request.body.decode("ascii"),
        "idempotency_key": request.idempotency_key,
        "note_on": request.note_on,
    }
