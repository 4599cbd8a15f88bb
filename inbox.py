"""The durable inbox: every labelled post is a row here before Khoros gets its 2xx, and until Zendesk has its ticket."""

from __future__ import annotations

import json
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from gate import OPEN, Gate
from logfmt import event, where
from store import (
    DISCARDED,
    EMPTIED,
    PARKED,
    PENDING,
    Store,
    StoreUnavailable,
    attempts,
    is_in,
    is_still,
    items,
    memory,
    still_full,
    together,
)

WORDLESS = "the post cannot be put into a ticket"
IN_ONE_STATEMENT = 100  # rows of nine values: older releases of SQLite take 999, and of more SQLAlchemy makes several
PURGE_AT_ONCE = 500  # rows in one transaction, so that none waits long behind them

# Statements are built once: building one takes longer than running it.
_pending = is_in(PENDING)
_flying = items.c.owner.is_not(None) & (items.c.next_attempt_at > sa.bindparam("now"))
_ours = is_still(PENDING) & (items.c.owner == sa.bindparam("of_owner"))
_UPDATE_OURS = items.update().where(
    items.c.id == sa.bindparam("of_id"), _ours, items.c.attempts == sa.bindparam("of_attempts")
)
_UPDATE_GATE = memory.update().where(memory.c.name == "gate").values(value=sa.bindparam("gate"))
_UPDATE_ITEM = items.update().where(items.c.id == sa.bindparam("of_id"))
_IN_FLIGHT = sa.select(sa.func.count()).where(_pending, _flying)
_PARKED = sa.select(sa.func.count()).where(is_in(PARKED))
_INSERT_ATTEMPT = attempts.insert()
_FOLLOWER = sa.select(items.c.id).where(items.c.entity_id == sa.bindparam("of_post"), is_still(PENDING)).limit(1)


def _due() -> sa.Select[Any]:
    """The next items to send, each with the newest ticket its post already has. A time more than an hour ahead is due:
    nothing waits that long, so the clock was set back."""
    item, other, done = items.alias("item"), items.alias("other"), items.alias("done")
    now: sa.BindParameter[float] = sa.bindparam("now")
    flying = other.c.owner.is_not(None) & (other.c.next_attempt_at > now)
    blocked = (
        sa.exists()
        .where(other.c.entity_id == item.c.entity_id, is_still(PENDING, other), other.c.id != item.c.id)
        .where((other.c.id < item.c.id) | flying)
    )
    ticket = (
        sa.select(done.c.ticket_id)
        .where(done.c.entity_id == item.c.entity_id, done.c.ticket_id.is_not(None))
        .order_by(done.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    timely = (item.c.next_attempt_at <= now) | (item.c.next_attempt_at > now + 3600)
    return (
        sa.select(item, ticket.label("post_ticket_id"))
        .where(is_in(PENDING, item), timely, ~blocked)
        .order_by(item.c.next_attempt_at, item.c.id)
        .limit(sa.bindparam("free"))
        .with_for_update(of=item, skip_locked=True)
    )


_DUE = _due()


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
        stamped = self.insert(items).values(received_at=self.clock, next_attempt_at=self.clock)
        self._insert_all = stamped
        self._insert_unknown = stamped.on_conflict_do_nothing().returning(items.c.event_uuid, items.c.entity_id)
        self._select_waiting = sa.select(sa.func.count(), sa.func.min(items.c.received_at), self.clock).where(_pending)
        named = items.c.id.in_(sa.bindparam("of_ids", expanding=True))
        readable = is_in(PARKED) & (items.c.entity_id != "")
        again = {"state": PENDING, "body": None, "first_sent_at": 0.0, "settled_at": None}
        self._retry_all = items.update().where(readable).values(next_attempt_at=self.clock, **again)
        self._retry = self._retry_all.where(named)
        emptied = {"state": DISCARDED, "payload": EMPTIED, "body": None, "settled_at": self.clock}
        self._discard = items.update().where(is_in(PARKED), named).values(emptied)
        self._renew = items.update().where(_ours & named).values(next_attempt_at=self.clock + sa.bindparam("lease_s"))

    # The door

    def accept(self, items: Sequence[NewItem]) -> list[bool]:
        """Commits the items and tells of each whether it was new: the same event of the same post is not kept twice."""
        rows = [
            {
                "event_uuid": item.event_uuid,
                "entity_id": item.entity_id,
                "source": item.source,
                "request_id": item.request_id,
                "payload": item.json,
                "state": PARKED if item.reason else PENDING,
                "reason": item.reason,
            }
            for item in sorted(items, key=lambda item: item.entity_id)  # one order of posts for all: deadlocks are rare
        ]
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
    def prove_writable(self, db: sa.Connection) -> None:
        """Commits a small change, with an item taken in and out again, so that a full or read-only disk and a damaged
        table show."""
        name = uuid.uuid4().hex
        row = {"event_uuid": name, "entity_id": "", "source": "proof", "payload": EMPTIED, "state": PARKED}
        db.execute(self._insert_unknown, row)
        db.execute(items.delete().where(items.c.event_uuid == name))
        db.execute(self._keep, {"name": "written_at", "value": name})

    # The way out

    @together
    def claim(self, db: sa.Connection, free: int, lease_s: float, compose: Callable[[Item], Request]) -> Claim:
        """Takes up to `free` items that are due, for `lease_s` seconds, and freezes what each will send.

        An item is due when its time has come and no other item of its post is in flight or waits before it. What
        `compose` cannot put into words is parked: it is returned without a request.
        """
        gate, now = self._locked_gate(db)
        in_flight = 0 if gate.calls_left is None else db.execute(_IN_FLIGHT, {"now": now}).scalar_one()
        free = gate.places(now, in_flight, free)
        rows = db.execute(_DUE, {"now": now, "free": free}).mappings().all() if free else []
        items = [_composed(_claimed(row, now, gate.version), compose) for row in rows]
        for item in items:
            db.execute(_UPDATE_ITEM, self._claimed_values(item, now, lease_s))
        if any(item.request for item in items):
            self._move(db, gate, gate.probing(now, lease_s))
        return Claim(items, gate, gate.held_for(now), more=bool(rows) and len(rows) == free)

    @together
    def refreeze(self, db: sa.Connection, item: Item, request: Request, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        now = db.execute(self.select_now).scalar_one()
        values = {**_frozen(request), "first_sent_at": now, "next_attempt_at": now + lease_s}
        ours = self._update_ours(db, item, values)
        return replace(item, request=request, sent_s_ago=None) if ours else None

    @together
    def renew(self, db: sa.Connection, ids: Iterable[int], lease_s: float) -> None:
        """Prolongs the leases of these items, as far as they are ours."""
        db.execute(self._renew, {"of_ids": list(ids), "of_owner": self.owner, "lease_s": lease_s})

    @together
    def settle(
        self,
        db: sa.Connection,
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
            db.execute(_INSERT_ATTEMPT, made | asdict(attempt))
        after = change(before, now)
        self._move(db, before, after)
        values = {"owner": None, "settled_at": now, **values}
        if "delay_s" in values:
            due_at = now + values.pop("delay_s")
            values |= {"settled_at": None, "next_attempt_at": due_at if after.state == OPEN else after.hold_until}
        ours = self._update_ours(db, item, values)
        follower = db.execute(_FOLLOWER, {"of_post": item.entity_id}).first() is not None
        return Settled(ours, before, after, follower)

    @together
    def move_gate(self, db: sa.Connection, change: Callable[[Gate, float], Gate]) -> tuple[Gate, Gate]:
        """Changes the gate without an item; returns it before and after."""
        before, now = self._locked_gate(db)
        after = change(before, now)
        self._move(db, before, after)
        return before, after

    # What people and the other processes ask

    def counts(self) -> Counts:
        """How much is pending and parked."""
        with self.statement() as db:
            waiting, oldest, now = db.execute(self._select_waiting).one()
            parked = db.execute(_PARKED).scalar_one()
        return Counts(waiting, parked, max(0.0, now - oldest) if oldest is not None else None)

    def gate(self) -> tuple[Gate, float]:
        """The gate, and the seconds until it may open."""
        with self.statement() as db:
            value, now = db.execute(self.select_memory, {"of_name": "gate"}).one()
        gate = Gate(**json.loads(value))
        return gate, gate.held_for(now)

    @together
    def retry(self, db: sa.Connection, ids: Iterable[int] | None = None) -> int:
        """Has these parked items sent again, or all, with new words and after a look-up, and returns how many. One that
        could not even be read stays parked."""
        if ids is None:
            return db.execute(self._retry_all).rowcount
        return db.execute(self._retry, {"of_ids": list(ids)}).rowcount

    @together
    def discard(self, db: sa.Connection, ids: Iterable[int]) -> int:
        """Gives these parked items up, for good and without their text, and returns how many. Their rows stay, so
        that the same event does not come in again."""
        return db.execute(self._discard, {"of_ids": list(ids)}).rowcount

    @together
    def purge(self, db: sa.Connection, older_than_s: float) -> int:
        """Empties delivered items of the customer's text, some of those that are old enough, and returns how many:
        call it until it is 0. Ids and ticket numbers stay, so that nothing is ever made twice."""
        before = db.execute(self.select_now).scalar_one() - older_than_s
        old = sa.select(items.c.id).where(still_full, items.c.settled_at < before).limit(PURGE_AT_ONCE)
        old = old.with_for_update(skip_locked=True)  # another process may be at it
        return db.execute(items.update().where(items.c.id.in_(old)).values(payload=EMPTIED, body=None)).rowcount

    # Inside

    def _insert_rows(self, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
        """Gives the event and the post of each row that was not there."""
        if self._sqlite:
            return self.write(lambda db: self._inserted(db, rows))
        with self.statement() as db:  # PostgreSQL commits for several connections together by itself
            return self._inserted(db, rows)

    def _inserted(self, db: sa.Connection, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
        if self._sqlite and 1 < len(rows) <= IN_ONE_STATEMENT:
            # Mostly none is known. To be told so row by row makes the thread wait for the others after each.
            with suppress(sa.exc.IntegrityError):  # SQLite then takes back what this statement did, and only that
                db.execute(self._insert_all, rows)
                return {(row["event_uuid"], row["entity_id"]) for row in rows}
        return {(row[0], row[1]) for row in db.execute(self._insert_unknown, rows)}

    def _claimed_values(self, item: Item, now: float, lease_s: float) -> dict[str, Any]:
        if item.request is None:
            return {"of_id": item.id, "state": PARKED, "reason": WORDLESS}
        first_sent_at = now - (item.sent_s_ago or 0.0)
        lease = {"owner": self.owner, "attempts": item.attempts, "next_attempt_at": now + lease_s}
        return {"of_id": item.id, **lease, "first_sent_at": first_sent_at, **_frozen(item.request)}

    def _update_ours(self, db: sa.Connection, item: Item, values: Mapping[str, Any]) -> bool:
        ours = {"of_id": item.id, "of_owner": self.owner, "of_attempts": item.attempts}
        return db.execute(_UPDATE_OURS, {**ours, **values}).rowcount == 1

    def _locked_gate(self, db: sa.Connection) -> tuple[Gate, float]:
        """The gate and the time. Its row is locked until the transaction ends: claims and settlements take turns."""
        value, now = db.execute(self.select_memory_locked, {"of_name": "gate"}).one()
        return Gate(**json.loads(value)), now

    def _move(self, db: sa.Connection, before: Gate, after: Gate) -> None:
        if after != before:
            db.execute(_UPDATE_GATE, {"gate": json.dumps(asdict(after))})


def _composed(item: Item, compose: Callable[[Item], Request]) -> Item:
    """The item with its words; one that cannot be worded must not hold up the others, and stays without."""
    if item.request is not None:
        return item
    try:
        return replace(item, request=compose(item))
    except Exception as error:
        event("post_broken", logging.ERROR, event_uuid=item.event_uuid, error=where(error))
        return item


def _claimed(row: sa.RowMapping, now: float, gate_version: int) -> Item:
    body, first_sent_at = row["body"], row["first_sent_at"]
    return Item(
        id=row["id"],
        event_uuid=row["event_uuid"],
        entity_id=row["entity_id"],
        source=row["source"],
        request_id=row["request_id"],
        payload=json.loads(row["payload"]),
        age_s=max(0.0, now - row["received_at"]),
        attempts=row["attempts"] + 1,
        sent_s_ago=None if first_sent_at is None else now - first_sent_at,
        request=None if body is None else Request(body.encode("ascii"), row["idempotency_key"], row["note_on"]),
        post_ticket_id=row["post_ticket_id"],
        gate_version=gate_version,
    )


def _frozen(request: Request) -> dict[str, Any]:
    return {
        "body": request.body.decode("ascii"),
        "idempotency_key": request.idempotency_key,
        "note_on": request.note_on,
    }
