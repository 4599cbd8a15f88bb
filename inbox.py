"""The durable inbox: every labelled post is a row here before Khoros gets its 2xx, and until Zendesk has its ticket.

SQLAlchemy Core on SQLite (write-ahead log, synchronous=FULL, one writer at a time) or PostgreSQL (times from the
database's clock, rows claimed FOR UPDATE SKIP LOCKED), through the same statements.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gate import OPEN, Gate

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
class Claim:
    """Items to send now; the gate they leave through, and for how many seconds it is closed when there are none."""

    items: list[Item]
    gate: Gate
    held_s: float


@dataclass(frozen=True)
class Settled:
    """Whether the item was still ours to settle, and the gate before and after."""

    ours: bool
    before: Gate
    after: Gate


class Inbox:
    """The table of items and the few facts all processes share. Nothing is opened before the first use.

    Every method raises StoreUnavailable when the database fails. `clock` replaces the store's clock in tests.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._sqlite = url.startswith("sqlite")
        self._clock = clock or (time.time if self._sqlite else None)
        self._engine = _sqlite_engine(url) if self._sqlite else _postgresql_engine(url)
        self._writer = (
            threading.Lock()
        )  # SQLite has one writer; waiting for it here is fair and cheap, in SQLite it is neither
        self._opened = False
        self.owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    # The door

    def accept(self, items: Sequence[NewItem]) -> int:
        """Commits the items and returns how many were new; the same event of the same post is not kept twice."""
        now = self._now()
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
        insert = self._insert(_items).values(received_at=now, next_attempt_at=now).on_conflict_do_nothing()
        try:
            return self._insert_rows(insert, rows)
        except StoreUnavailable:  # a connection may just have died; the same rows a second time do no harm
            return self._insert_rows(insert, rows)

    # The way out

    def claim(self, free: int, lease_s: float, compose: Callable[[Item], Request]) -> Claim:
        """Takes up to `free` items that are due, for `lease_s` seconds, and freezes what each will send.

        An item is due when its time has come and no other item of its post is in flight or waits before it. What
        `compose` cannot put into words is parked: it is returned without a request.
        """
        with self._transaction() as db:
            gate, now = self._locked_gate(db)
            free = gate.places(now, self._in_flight(db, now), free)
            rows = db.execute(_due(now, free)).mappings().all() if free else []
            items = [self._take(db, row, now, lease_s, gate, compose) for row in rows]
            if any(item.request for item in items):
                self._keep_gate(db, gate, gate.probing(now, lease_s))
            return Claim(items, gate, gate.held_for(now))

    def refreeze(self, item: Item, request: Request, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        values = {**_frozen(request), "first_sent_at": self._now(), "next_attempt_at": self._now() + lease_s}
        with self._transaction() as db:
            ours = self._update_ours(db, item, values)
        return replace(item, request=request, sent_s_ago=None) if ours else None

    def renew(self, lease_s: float) -> None:
        """Prolongs the lease of everything this process has in flight."""
        ours = (_items.c.state == PENDING) & (_items.c.owner == self.owner)
        with self._transaction() as db:
            db.execute(_items.update().where(ours).values(next_attempt_at=self._now() + lease_s))

    def settle(self, item: Item, values: Mapping[str, Any], change: Callable[[Gate, float], Gate]) -> Settled:
        """Records what became of a claimed item, and lets `change` move the gate, in one transaction.

        `values` are columns to set. A `delay_s` among them says when a pending item is due again if the gate is open;
        otherwise it is when the gate opens. An item whose lease another process has taken over is left alone.
        """
        values = {"owner": None, **values}
        with self._transaction() as db:
            before, now = self._locked_gate(db)
            after = change(before, now)
            self._keep_gate(db, before, after)
            if "delay_s" in values:
                due_at = now + values.pop("delay_s")
                values["next_attempt_at"] = due_at if after.state == OPEN else after.hold_until
            else:
                values["settled_at"] = now
            return Settled(self._update_ours(db, item, values), before, after)

    def move_gate(self, change: Callable[[Gate, float], Gate]) -> tuple[Gate, Gate]:
        """Changes the gate without an item; returns it before and after."""
        with self._transaction() as db:
            before, now = self._locked_gate(db)
            after = change(before, now)
            self._keep_gate(db, before, after)
            return before, after

    # What people and the other processes ask

    def counts(self) -> Counts:
        """How much is pending and parked."""
        pending, parked = _items.c.state == PENDING, _items.c.state == PARKED
        with self._reading() as db:
            waiting, oldest, now = db.execute(
                sa.select(sa.func.count(), sa.func.min(_items.c.received_at), self._now()).where(pending)
            ).one()
            aside = db.execute(sa.select(sa.func.count()).where(parked)).scalar_one()
        return Counts(waiting, aside, max(0.0, now - oldest) if oldest is not None else None)

    def gate(self) -> tuple[Gate, float]:
        """The gate, and the seconds until it may open."""
        with self._reading() as db:
            value, now = db.execute(sa.select(_memory.c.value, self._now()).where(_memory.c.name == "gate")).one()
        gate = Gate(**json.loads(value))
        return gate, gate.held_for(now)

    def prove_writable(self) -> None:
        """Commits a small change, so that a full or read-only disk shows."""
        self.remember("written_at", str(uuid.uuid4()))

    def remember(self, name: str, value: str) -> None:
        """Keeps one fact under `name`, for every process and after a restart."""
        upsert = self._insert(_memory).values(name=name, value=value)
        with self._transaction() as db:
            db.execute(upsert.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def recall(self, name: str) -> str | None:
        """The fact kept under `name`."""
        with self._reading() as db:
            return db.execute(sa.select(_memory.c.value).where(_memory.c.name == name)).scalar()

    def close(self) -> None:
        """Gives back every connection."""
        self._engine.dispose()

    def take_turn(self, name: str, for_s: float) -> bool:
        """Whether this process may do the work called `name` now. The others may not for `for_s` seconds, or until
        `end_turn`."""
        with self._transaction() as db:
            db.execute(self._insert(_memory).values(name=name, value="0").on_conflict_do_nothing())
            row = sa.select(_memory.c.value, self._now()).where(_memory.c.name == name).with_for_update()
            until, now = db.execute(row).one()
            mine = not now < float(until) <= now + for_s
            if mine:
                db.execute(_memory.update().where(_memory.c.name == name).values(value=str(now + for_s)))
            return mine

    def end_turn(self, name: str) -> None:
        """Lets another process take its turn at `name`."""
        self.remember(name, "0")

    def now(self) -> float:
        """The store's time, in seconds since 1970."""
        with self._reading() as db:
            return db.execute(sa.select(self._now())).scalar_one()

    # Inside

    def _insert_rows(self, insert: Any, rows: list[dict[str, Any]]) -> int:
        with self._transaction() as db:
            return len(db.execute(insert.returning(_items.c.id), rows).all())

    def _take(
        self,
        db: sa.Connection,
        row: sa.RowMapping,
        now: float,
        lease_s: float,
        gate: Gate,
        compose: Callable[[Item], Request],
    ) -> Item:
        item = _claimed(row, now, gate.version)
        values: dict[str, Any] = {
            "owner": self.owner,
            "attempts": item.attempts,
            "next_attempt_at": now + lease_s,
            "first_sent_at": row["first_sent_at"] or now,
        }
        if item.request is None:
            try:
                request = compose(item)
                item, values = replace(item, request=request), values | _frozen(request)
            except Exception as error:  # one post that cannot be worded must not hold up the others
                values = {"state": PARKED, "reason": f"cannot be made into a ticket ({type(error).__name__})"}
        db.execute(_items.update().where(_items.c.id == item.id).values(values))
        return item

    def _update_ours(self, db: sa.Connection, item: Item, values: Mapping[str, Any]) -> bool:
        ours = (_items.c.id == item.id) & (_items.c.owner == self.owner) & (_items.c.attempts == item.attempts)
        return db.execute(_items.update().where(ours).values(values)).rowcount == 1

    def _in_flight(self, db: sa.Connection, now: float) -> int:
        flying = (_items.c.state == PENDING) & (_items.c.next_attempt_at > now) & _items.c.owner.is_not(None)
        return db.execute(sa.select(sa.func.count()).where(flying)).scalar_one()

    def _locked_gate(self, db: sa.Connection) -> tuple[Gate, float]:
        """The gate and the time. Its row is locked until the transaction ends: claims and settlements take turns."""
        row = sa.select(_memory.c.value, self._now()).where(_memory.c.name == "gate").with_for_update()
        value, now = db.execute(row).one()
        return Gate(**json.loads(value)), now

    def _keep_gate(self, db: sa.Connection, before: Gate, after: Gate) -> None:
        if after != before:
            value = json.dumps(asdict(after))
            db.execute(_memory.update().where(_memory.c.name == "gate").values(value=value))

    def _now(self) -> sa.ColumnElement[float]:
        if self._clock is not None:
            return sa.literal(self._clock(), sa.Double)
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._sqlite else postgresql.insert(table)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._writer if self._sqlite else _Unlocked(), self._engine.begin() as db:
                if not self._opened:
                    self._open(db)
                yield db
            self._opened = True
        except sa.exc.SQLAlchemyError as error:
            self._opened = False
            raise StoreUnavailable(_cause(error)) from error

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        if not self._opened:
            with self._transaction():
                pass
        try:
            with self._engine.connect().execution_options(reading=True) as db:
                yield db
        except sa.exc.SQLAlchemyError as error:
            raise StoreUnavailable(_cause(error)) from error

    def _open(self, db: sa.Connection) -> None:
        """Makes the tables of an empty database. A later release changes an older one's here, by `schema_version`."""
        if not self._sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        _metadata.create_all(db)
        first = [
            {"name": "schema_version", "value": str(SCHEMA_VERSION)},
            {"name": "gate", "value": json.dumps(asdict(Gate()))},
        ]
        db.execute(self._insert(_memory).on_conflict_do_nothing(), first)
        version = db.execute(sa.select(_memory.c.value).where(_memory.c.name == "schema_version")).scalar_one()
        if int(version) > SCHEMA_VERSION:
            raise StoreUnavailable(f"the database was made by a later release: schema {version}")


class _Unlocked:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _due(now: float, limit: int) -> sa.Select[Any]:
    """The next items to send, each with the newest ticket its post already has. A time more than an hour ahead is due:
    nothing waits that long, so the clock was set back."""
    item, other, done = _items.alias("item"), _items.alias("other"), _items.alias("done")
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
    return (
        sa.select(item, ticket.label("post_ticket_id"))
        .where(
            item.c.state == PENDING, (item.c.next_attempt_at <= now) | (item.c.next_attempt_at > now + 3600), ~blocked
        )
        .order_by(item.c.next_attempt_at, item.c.id)
        .limit(limit)
        .with_for_update(of=item, skip_locked=True)
    )


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
        if not connection.get_execution_options().get("reading"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str) -> sa.Engine:
    return sa.create_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 5, "keepalives_idle": 30, "application_name": "khoros-zendesk-relay"},
    )
