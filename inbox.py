"""The durable inbox: every labelled post is a row here before Khoros gets its 2xx, and until Zendesk has its ticket.

SQLAlchemy Core on SQLite (write-ahead log, synchronous=FULL, one writer at a time) or PostgreSQL (times from the
database's clock, rows claimed FOR UPDATE SKIP LOCKED), through the same statements.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from gate import OPEN, Gate
from logfmt import event, where

P = ParamSpec("P")
T = TypeVar("T")
SCHEMA_VERSION = 1
PENDING, DELIVERED, PARKED = "pending", "delivered", "parked"
_SCHEMA_LOCK = 7_265_011_701  # any number that is only ours, for PostgreSQL's advisory lock

_metadata = sa.MetaData()
_items = sa.Table(
    "inbox",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("event_uuid", sa.String(255), nullable=False),
    sa.Column("entity_id", sa.String(255), nullable=False),  # the post; Zendesk's external_id
    sa.Column("source", sa.String(10), nullable=False),  # push or poll
    sa.Column("request_id", sa.String(255)),
    sa.Column("payload", sa.Text, nullable=False),  # JSON
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("reason", sa.String(500)),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt_at", sa.Double, nullable=False),
    sa.Column("owner", sa.String(100)),  # the process that has it in flight
    sa.Column("first_sent_at", sa.Double),
    sa.Column("body", sa.Text),  # frozen before the first send
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("note_on", sa.BigInteger),  # the ticket that gets a note; null: the body creates a ticket
    sa.Column("ticket_id", sa.BigInteger),
    sa.Column("settled_at", sa.Double),
    sa.UniqueConstraint("event_uuid", "entity_id", name="inbox_one_row_per_event_and_post"),
)
sa.Index("inbox_post", _items.c.entity_id, _items.c.id)
for _state in (PENDING, PARKED):
    _where = _items.c.state == _state
    sa.Index(f"inbox_{_state}", _items.c.next_attempt_at, _items.c.id, sqlite_where=_where, postgresql_where=_where)
_memory = sa.Table("memory", _metadata, sa.Column("name", sa.String(50), primary_key=True), sa.Column("value", sa.Text))

# Statements are built once: building one takes longer than running it.
_pending = _items.c.state == PENDING
_flying = _items.c.owner.is_not(None) & (_items.c.next_attempt_at > sa.bindparam("now"))
_ours = _pending & (_items.c.owner == sa.bindparam("of_owner"))
_UPDATE_OURS = _items.update().where(
    _items.c.id == sa.bindparam("of_id"), _ours, _items.c.attempts == sa.bindparam("of_attempts")
)
_UPDATE_GATE = _memory.update().where(_memory.c.name == "gate").values(value=sa.bindparam("gate"))
_UPDATE_ITEM = _items.update().where(_items.c.id == sa.bindparam("of_id"))
_IN_FLIGHT = sa.select(sa.func.count()).where(_pending, _flying)
_PARKED = sa.select(sa.func.count()).where(_items.c.state == PARKED)
_FOLLOWER = sa.select(_items.c.id).where(_items.c.entity_id == sa.bindparam("of_post"), _pending).limit(1)
_RECALL = sa.select(_memory.c.value).where(_memory.c.name == sa.bindparam("of_name"))


def _due() -> sa.Select[Any]:
    """The next items to send, each with the newest ticket its post already has. A time more than an hour ahead is due:
    nothing waits that long, so the clock was set back."""
    item, other, done = _items.alias("item"), _items.alias("other"), _items.alias("done")
    now: sa.BindParameter[float] = sa.bindparam("now")
    flying = other.c.owner.is_not(None) & (other.c.next_attempt_at > now)
    blocked = (
        sa.exists()
        .where(other.c.entity_id == item.c.entity_id, other.c.state == PENDING, other.c.id != item.c.id)
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
        .where(item.c.state == PENDING, timely, ~blocked)
        .order_by(item.c.next_attempt_at, item.c.id)
        .limit(sa.bindparam("free"))
        .with_for_update(of=item, skip_locked=True)
    )


_DUE = _due()


class StoreUnavailable(Exception):
    """The database did not keep or give what it should: down, full, read-only or of a later release. Try again."""


@dataclass(frozen=True)
class NewItem:
    """What the door hands in: one post of one event. A `reason` parks it at once, for a person to look at."""

    event_uuid: str
    entity_id: str
    payload: Mapping[str, Any]
    source: str = "push"
    request_id: str | None = None
    reason: str | None = None


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
class Parked:
    """An item put aside: its row, event, post, why, and its age in seconds."""

    id: int
    event_uuid: str
    entity_id: str
    reason: str
    age_s: float


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


@dataclass(eq=False)
class _Job:
    """One thread's work on the database, and what became of it."""

    work: Callable[[sa.Connection], Any]
    result: Any = None
    error: Exception | None = None
    done: bool = False


def _together(method: Callable[Concatenate[Inbox, sa.Connection, P], T]) -> Callable[Concatenate[Inbox, P], T]:
    """Makes of a method that needs a transaction one that brings its own, shared with what other threads write then."""

    @wraps(method)
    def written(self: Inbox, /, *args: P.args, **options: P.kwargs) -> T:
        return self.write(lambda db: method(self, db, *args, **options))

    return written


class Inbox:
    """The table of items and the few facts all processes share. Nothing is opened before the first use.

    Every method raises StoreUnavailable when the database fails. `clock` replaces the store's clock in tests.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._sqlite = url.startswith("sqlite")
        self._engine = _sqlite_engine(url) if self._sqlite else _postgresql_engine(url)
        self._writer = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._opened = False
        self.owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        clock = clock or (time.time if self._sqlite else None)
        self._now: sa.ColumnElement[float] = (
            sa.bindparam("clock", callable_=clock, type_=sa.Double)
            if clock
            else sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        )
        insert = sqlite_insert if self._sqlite else postgresql_insert
        stamped = insert(_items).values(received_at=self._now, next_attempt_at=self._now)
        self._insert_items = stamped.on_conflict_do_nothing().returning(_items.c.id)
        self._insert_memory = insert(_memory).on_conflict_do_nothing()
        kept = insert(_memory)
        self._keep = kept.on_conflict_do_update(index_elements=["name"], set_={"value": kept.excluded.value})
        self._select_now = sa.select(self._now)
        self._select_memory = sa.select(_memory.c.value, self._now).where(_memory.c.name == sa.bindparam("of_name"))
        self._select_waiting = sa.select(sa.func.count(), sa.func.min(_items.c.received_at), self._now).where(_pending)
        self._select_gate = self._select_memory.with_for_update()
        columns = (
            _items.c.id,
            _items.c.event_uuid,
            _items.c.entity_id,
            _items.c.reason,
            self._now - _items.c.received_at,
        )
        aside = _items.c.state == PARKED
        self._select_parked = sa.select(*columns).where(aside).order_by(_items.c.id)
        readable = aside & (_items.c.entity_id != "") & _items.c.id.in_(sa.bindparam("of_ids", expanding=True))
        again = {"state": PENDING, "body": None, "first_sent_at": 0.0, "next_attempt_at": self._now, "settled_at": None}
        self._retry = _items.update().where(readable).values(again)
        flying = _ours & _items.c.id.in_(sa.bindparam("of_ids", expanding=True))
        self._renew = _items.update().where(flying).values(next_attempt_at=self._now + sa.bindparam("lease_s"))

    # The door

    def accept(self, items: Sequence[NewItem]) -> int:
        """Commits the items and returns how many were new; the same event of the same post is not kept twice."""
        rows = [
            {
                "event_uuid": item.event_uuid,
                "entity_id": item.entity_id,
                "source": item.source,
                "request_id": item.request_id,
                "payload": json.dumps(item.payload),
                "state": PARKED if item.reason else PENDING,
                "reason": item.reason,
            }
            for item in sorted(items, key=lambda item: item.entity_id)  # one order for all, so that none deadlock
        ]
        try:
            return self._insert_rows(rows)
        except StoreUnavailable:  # a connection may just have died; the same rows a second time do no harm
            return self._insert_rows(rows)

    # The way out

    @_together
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

    @_together
    def refreeze(self, db: sa.Connection, item: Item, request: Request, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        now = db.execute(self._select_now).scalar_one()
        values = {**_frozen(request), "first_sent_at": now, "next_attempt_at": now + lease_s}
        ours = self._update_ours(db, item, values)
        return replace(item, request=request, sent_s_ago=None) if ours else None

    @_together
    def renew(self, db: sa.Connection, ids: Iterable[int], lease_s: float) -> None:
        """Prolongs the leases of these items, as far as they are ours."""
        db.execute(self._renew, {"of_ids": list(ids), "of_owner": self.owner, "lease_s": lease_s})

    @_together
    def settle(
        self, db: sa.Connection, item: Item, values: Mapping[str, Any], change: Callable[[Gate, float], Gate]
    ) -> Settled:
        """Records what became of a claimed item, and lets `change` move the gate, in one transaction.

        `values` are columns to set. A `delay_s` among them says when a pending item is due again if the gate is open;
        otherwise it is when the gate opens. An item whose lease another process has taken over is left alone.
        """
        before, now = self._locked_gate(db)
        after = change(before, now)
        self._move(db, before, after)
        values = {"owner": None, "settled_at": now, **values}
        if "delay_s" in values:
            due_at = now + values.pop("delay_s")
            values |= {"settled_at": None, "next_attempt_at": due_at if after.state == OPEN else after.hold_until}
        ours = self._update_ours(db, item, values)
        follower = db.execute(_FOLLOWER, {"of_post": item.entity_id}).first() is not None
        return Settled(ours, before, after, follower)

    @_together
    def move_gate(self, db: sa.Connection, change: Callable[[Gate, float], Gate]) -> tuple[Gate, Gate]:
        """Changes the gate without an item; returns it before and after."""
        before, now = self._locked_gate(db)
        after = change(before, now)
        self._move(db, before, after)
        return before, after

    # What people and the other processes ask

    def counts(self) -> Counts:
        """How much is pending and parked."""
        with self._statement() as db:
            waiting, oldest, now = db.execute(self._select_waiting).one()
            parked = db.execute(_PARKED).scalar_one()
        return Counts(waiting, parked, max(0.0, now - oldest) if oldest is not None else None)

    def gate(self) -> tuple[Gate, float]:
        """The gate, and the seconds until it may open."""
        with self._statement() as db:
            value, now = db.execute(self._select_memory, {"of_name": "gate"}).one()
        gate = Gate(**json.loads(value))
        return gate, gate.held_for(now)

    def parked(self) -> list[Parked]:
        """What is put aside for a person, oldest first."""
        with self._statement() as db:
            return [Parked(*row) for row in db.execute(self._select_parked)]

    @_together
    def retry(self, db: sa.Connection, ids: Iterable[int]) -> int:
        """Has these parked items sent again, with new words and after a look-up, and returns how many. One that could
        not even be read stays parked."""
        return db.execute(self._retry, {"of_ids": list(ids)}).rowcount

    def prove_writable(self) -> None:
        """Commits a small change, so that a full or read-only disk shows."""
        self.remember("written_at", uuid.uuid4().hex)

    @_together
    def remember(self, db: sa.Connection, name: str, value: str) -> None:
        """Keeps one fact under `name`, for every process and after a restart."""
        db.execute(self._keep, {"name": name, "value": value})

    def recall(self, name: str) -> str | None:
        """The fact kept under `name`."""
        with self._statement() as db:
            return db.execute(_RECALL, {"of_name": name}).scalar()

    @_together
    def take_turn(self, db: sa.Connection, name: str, for_s: float) -> bool:
        """Whether this process may do the work called `name` now. The others may not for `for_s` seconds, or until
        `end_turn`."""
        db.execute(self._insert_memory, {"name": name, "value": "0"})
        until, now = db.execute(self._select_gate, {"of_name": name}).one()
        mine = not now < float(until) <= now + for_s
        if mine:
            db.execute(self._keep, {"name": name, "value": str(now + for_s)})
        return mine

    def end_turn(self, name: str) -> None:
        """Lets another process take its turn at `name`."""
        self.remember(name, "0")

    def now(self) -> float:
        """The store's time, in seconds since 1970."""
        with self._statement() as db:
            return db.execute(self._select_now).scalar_one()

    def close(self) -> None:
        """Gives back every connection."""
        self._engine.dispose()

    # Inside

    def _insert_rows(self, rows: list[dict[str, Any]]) -> int:
        if self._sqlite:
            return self.write(lambda db: len(db.execute(self._insert_items, rows).all()))
        with self._statement() as db:  # PostgreSQL commits for several connections together by itself
            return len(db.execute(self._insert_items, rows).all())

    def _claimed_values(self, item: Item, now: float, lease_s: float) -> dict[str, Any]:
        if item.request is None:
            return {"of_id": item.id, "state": PARKED, "reason": "it cannot be put into a ticket"}
        first_sent_at = now - (item.sent_s_ago or 0.0)
        lease = {"owner": self.owner, "attempts": item.attempts, "next_attempt_at": now + lease_s}
        return {"of_id": item.id, **lease, "first_sent_at": first_sent_at, **_frozen(item.request)}

    def _update_ours(self, db: sa.Connection, item: Item, values: Mapping[str, Any]) -> bool:
        ours = {"of_id": item.id, "of_owner": self.owner, "of_attempts": item.attempts}
        return db.execute(_UPDATE_OURS, {**ours, **values}).rowcount == 1

    def _locked_gate(self, db: sa.Connection) -> tuple[Gate, float]:
        """The gate and the time. Its row is locked until the transaction ends: claims and settlements take turns."""
        value, now = db.execute(self._select_gate, {"of_name": "gate"}).one()
        return Gate(**json.loads(value)), now

    def _move(self, db: sa.Connection, before: Gate, after: Gate) -> None:
        if after != before:
            db.execute(_UPDATE_GATE, {"gate": json.dumps(asdict(after))})

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Does `work` in a transaction and returns its result once that is committed.

        One thread at a time writes, and takes along what the others have waiting by then: one commit, one wait for the
        disk. Should that fail, each is tried alone, so that nobody's work fails for another's.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._writer:
            if not job.done:
                jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
                try:
                    self._commit(jobs)
                except Exception:
                    for alone in jobs:
                        self._commit_alone(alone)
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def _commit(self, jobs: Sequence[_Job]) -> None:
        with self._told(), self._engine.begin() as db:
            if not self._opened:
                self._open(db)
            results = [job.work(db) for job in jobs]
        self._opened = True
        for job, result in zip(jobs, results, strict=True):
            job.result, job.done = result, True

    def _commit_alone(self, job: _Job) -> None:
        try:
            self._commit([job])
        except Exception as error:
            job.error, job.done = error, True

    @contextmanager
    def _statement(self) -> Iterator[sa.Connection]:
        """A connection for statements that each count for themselves: no BEGIN, no COMMIT to wait for."""
        if not self._opened:
            self.write(lambda db: None)
        with self._told(), self._engine.connect() as db:
            yield db.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            self._opened = False
            raise StoreUnavailable(_cause(error)) from error

    def _open(self, db: sa.Connection) -> None:
        """Makes the tables of an empty database. A later release changes an older one's here, by `schema_version`."""
        if not self._sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        _metadata.create_all(db)
        first = {"schema_version": str(SCHEMA_VERSION), "gate": json.dumps(asdict(Gate()))}
        db.execute(self._insert_memory, [{"name": name, "value": value} for name, value in first.items()])
        version = db.execute(_RECALL, {"of_name": "schema_version"}).scalar_one()
        if int(version) > SCHEMA_VERSION:
            raise StoreUnavailable(f"the database was made by a later release: schema {version}")


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


def _cause(error: Exception) -> str:
    """What the driver said in one line, without the statement and its values: those hold customers' text."""
    original = getattr(error, "orig", None)
    said = str(original).splitlines()[0] if original is not None and str(original) else type(error).__name__
    return f"{type(original or error).__name__}: {said[:200]}"


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 5, "isolation_level": None}, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def durable(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def begin_as_writer(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str) -> sa.Engine:
    return sa.create_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "keepalives_idle": 30, "application_name": "khoros-zendesk-relay"},
    )
