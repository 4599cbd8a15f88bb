"""The database: its tables, how threads write together, and the few facts and sums that all processes share.

SQLAlchemy Core on SQLite (write-ahead log, synchronous=FULL, one writer at a time) or PostgreSQL (times from the
database's clock), through the same statements. inbox.py keeps the items in it, records.py reads it for people.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from importlib import import_module
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy as sa

from gate import LIMITED, OUTAGE, UNAUTHORISED, Gate
from logfmt import event

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="Store")
SCHEMA_VERSION = 1
PENDING, DELIVERED, PARKED, DISCARDED = "pending", "delivered", "parked", "discarded"
REFUSED, RETRIED = "refused", (OUTAGE, LIMITED, UNAUTHORISED)  # outcomes of attempts; any other one has delivered
ACK, LABEL_TO_TICKET, DUPLICATES, IGNORED = "ack", "label_to_ticket", "duplicates", "ignored"  # sums and histograms
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
BUCKETS = (*map(str, BOUNDS_S), "+Inf")
EMPTIED = "{}"  # the payload of an item whose customer's text is no longer kept
MOVED = "another database lies where DATABASE_URL leads, or none; stop the relay and put the one before back"
LOCK_WAIT_S = 5.0  # for another program that holds the SQLite file
_SCHEMA_LOCK = 7_265_011_701  # any number that is only ours, for PostgreSQL's advisory lock

_metadata = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
items = sa.Table(
    "inbox",
    _metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
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
attempts = sa.Table(
    "attempts",
    _metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("item_id", sa.BigInteger, nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),  # the item's `attempts` then; a gap: no answer was recorded
    sa.Column("at", sa.Double, nullable=False, index=True),
    sa.Column("took_s", sa.Double, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("status", sa.Integer),  # HTTP's; null: no answer came
    sa.Column("code", sa.String(500)),  # Zendesk's error code
    sa.Column("zendesk_request_id", sa.String(255)),
)
memory = sa.Table("memory", _metadata, sa.Column("name", sa.String(50), primary_key=True), sa.Column("value", sa.Text))
sums = sa.Table(
    "sums",
    _metadata,
    sa.Column("name", sa.String(50), primary_key=True),
    sa.Column("value", sa.Double, nullable=False),
)


def constant(word: str) -> sa.ColumnElement[str]:
    """A word of ours in the statement's own text: with a parameter in its place no partial index would serve."""
    return sa.literal_column(f"'{word}'")


def is_in(state: str, table: sa.FromClause = items) -> sa.ColumnElement[bool]:
    """Whether an item is in this state."""
    return table.c.state == constant(state)


def is_still(state: str, table: sa.FromClause = items) -> sa.ColumnElement[bool]:
    """The same of an item that is found by its id or its post. The state's partial index does not serve these words:
    by statistics from before an outage it is short, and PostgreSQL would search all that waits for each item."""
    return table.c.state.concat(constant("")) == constant(state)


still_full = is_in(DELIVERED) & (items.c.payload != constant(EMPTIED))
was_retried = attempts.c.outcome.in_([constant(outcome) for outcome in RETRIED])
# In SQL, the same for both: an Index of SQLAlchemy's with a WHERE loads the dialects of both, 35 ms and 2 MB.
INDEXES = {
    "inbox_post": "inbox (entity_id, id)",
    "inbox_due": f"inbox (next_attempt_at, id, received_at) WHERE state = '{PENDING}'",
    "inbox_parked": f"inbox (next_attempt_at, id) WHERE state = '{PARKED}'",
    "inbox_discarded": f"inbox (id) WHERE state = '{DISCARDED}'",
    "inbox_ticket": "inbox (ticket_id) WHERE ticket_id IS NOT NULL",
    "inbox_still_full": f"inbox (settled_at) WHERE state = '{DELIVERED}' AND payload <> '{EMPTIED}'",
    "attempts_retried": f"attempts (outcome) WHERE outcome IN {RETRIED}",
}

# What the drivers say, and what a person can do about it.
REMEDIES = (
    ("disk is full", "free some space where the database lies"),
    ("No space left", "free some space where the database lies"),
    ("disk I/O error", "look at the disk where the database lies, its space and its quota"),
    ("readonly database", "let the relay write the database file and its folder"),
    ("unable to open", "DATABASE_URL must lead into a folder that exists and that the relay may write to"),
    ("malformed", "the file is damaged: put a backup in its place, or what sqlite3 FILE .recover gives"),
    (
        "not a database",
        "DATABASE_URL leads to a file that is none of ours or damaged: correct it, or move the file away",
    ),
    ("is locked", "end the other program that holds the database"),
)

RECALL = sa.select(memory.c.value).where(memory.c.name == sa.bindparam("of_name"))


class StoreUnavailable(Exception):
    """The database did not keep or give what it should: down, full, read-only or of a later release. Try again."""


@dataclass(eq=False)
class _Job:
    """One thread's work on the database, and what became of it."""

    work: Callable[[sa.Connection], Any]
    result: Any = None
    error: Exception | None = None
    done: bool = False
    turn: threading.Event = field(default_factory=threading.Event)  # it is done, or its thread is the next to write


def together(method: Callable[Concatenate[S, sa.Connection, P], T]) -> Callable[Concatenate[S, P], T]:
    """Makes of a method that needs a transaction one that brings its own, shared with what other threads write then."""

    @wraps(method)
    def written(self: S, /, *args: P.args, **options: P.kwargs) -> T:
        return self.write(lambda db: method(self, db, *args, **options))

    return written


class Store:
    """A database and the few facts all processes share. Nothing is opened before the first use.

    Every method raises StoreUnavailable when the database fails. `clock` replaces the store's clock in tests.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self._sqlite = url.startswith("sqlite")
        self._engine = _sqlite_engine(url) if self._sqlite else _postgresql_engine(url)
        self._queueing, self._writing = threading.Lock(), False
        self._waiting: deque[_Job] = deque()
        self._opened = False
        self._opened_file: tuple[int, int] | None = None
        self._tallied: dict[str, float] = {}
        self._tallying = threading.Lock()
        clock = clock or (time.time if self._sqlite else None)
        self.clock: sa.ColumnElement[float] = (
            sa.bindparam("clock", callable_=clock, type_=sa.Double)
            if clock
            else sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        )
        self.insert = import_module(f"sqlalchemy.dialects.{self._engine.dialect.name}").insert  # the other stays out
        self._insert_memory = self.insert(memory).on_conflict_do_nothing()
        kept, added = self.insert(memory), self.insert(sums)
        self._keep = kept.on_conflict_do_update(index_elements=["name"], set_={"value": kept.excluded.value})
        more = {"value": sums.c.value + added.excluded.value}
        self._add = added.on_conflict_do_update(index_elements=["name"], set_=more)
        self.select_now = sa.select(self.clock)
        self.select_memory = sa.select(memory.c.value, self.clock).where(memory.c.name == sa.bindparam("of_name"))
        self.select_memory_locked = self.select_memory.with_for_update()

    # Facts

    @together
    def remember(self, db: sa.Connection, name: str, value: str) -> None:
        """Keeps one fact under `name`, for every process and after a restart."""
        db.execute(self._keep, {"name": name, "value": value})

    def recall(self, name: str) -> str | None:
        """The fact kept under `name`."""
        with self.statement() as db:
            return db.execute(RECALL, {"of_name": name}).scalar()

    @together
    def take_turn(self, db: sa.Connection, name: str, for_s: float) -> bool:
        """Whether this process may do the work called `name` now. The others may not for `for_s` seconds, or until
        `end_turn`."""
        db.execute(self._insert_memory, {"name": name, "value": "0"})
        until, now = db.execute(self.select_memory_locked, {"of_name": name}).one()
        mine = not now < float(until) <= now + for_s
        if mine:
            db.execute(self._keep, {"name": name, "value": str(now + for_s)})
        return mine

    def end_turn(self, name: str) -> None:
        """Lets another process take its turn at `name`."""
        self.remember(name, "0")

    def now(self) -> float:
        """The store's time, in seconds since 1970."""
        with self.statement() as db:
            return db.execute(self.select_now).scalar_one()

    # Sums

    def tally(self, name: str, amount: float = 1.0) -> None:
        """Adds to a sum that all processes share. It stays in memory until `save_tally`: a kill costs the last few."""
        with self._tallying:
            self._tallied[name] = self._tallied.get(name, 0.0) + amount

    def observe(self, name: str, seconds: float) -> None:
        """Counts one duration in the histogram `name`: in the sum of its bucket, and in the sum of all."""
        self.tally(f"{name}_le_{BUCKETS[bisect_left(BOUNDS_S, seconds)]}")
        self.tally(f"{name}_sum", seconds)

    def save_tally(self) -> None:
        """Adds what this process has tallied to the shared sums."""
        with self._tallying:
            taken, self._tallied = self._tallied, {}
        rows = [{"name": name, "value": value} for name, value in sorted(taken.items())]  # one order: no deadlock
        try:
            if rows:
                self.write(lambda db: db.execute(self._add, rows))
        except StoreUnavailable:
            for name, value in taken.items():
                self.tally(name, value)
            raise

    def sums(self) -> dict[str, float]:
        """The shared sums by name, those of this process up to date."""
        self.save_tally()
        with self.statement() as db:
            return {name: value for name, value in db.execute(sa.select(sums))}

    # Transactions

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Does `work` in a transaction and returns its result once that is committed.

        One thread at a time writes, and takes along what the others have waiting by then: one commit, one wait for the
        disk. Should that fail, each is tried alone, so that nobody's work fails for another's.
        """
        job = _Job(work)
        with self._queueing:
            self._waiting.append(job)
            alone, self._writing = not self._writing, True
        if not alone:
            job.turn.wait()
        if not job.done:
            try:
                self._commit_waiting()
            finally:
                self._hand_on()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    @contextmanager
    def statement(self) -> Iterator[sa.Connection]:
        """A connection for statements that each count for themselves: no BEGIN, no COMMIT to wait for."""
        if not self._opened:
            self.write(lambda db: None)
        with self._told(), self._engine.connect() as db:
            yield db.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Gives back every connection."""
        self._engine.dispose()

    # Inside

    def _commit_waiting(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._commit(jobs)
        except Exception as error:
            for job in jobs:
                if _locked(error):  # each alone would wait as long again, and the last for all of them
                    job.error, job.done = error, True
                else:
                    self._commit_alone(job)
        finally:
            for job in jobs:
                if not job.done:
                    job.error, job.done = StoreUnavailable("the write was broken off"), True
                job.turn.set()

    def _hand_on(self) -> None:
        """The thread whose work came next writes next. Those that are done need no turn: they would only queue."""
        with self._queueing:
            self._writing = bool(self._waiting)
            if self._waiting:
                self._waiting[0].turn.set()

    def _commit(self, jobs: list[_Job]) -> None:
        with self._told():
            with self._engine.begin() as db:
                if not self._opened:
                    self._open(db)
                results = [job.work(db) for job in jobs]
            file = self._file()
            if self._opened and file != self._opened_file:
                event("database_moved", logging.ERROR, reason=MOVED)
                raise StoreUnavailable(MOVED)  # the work was kept where nobody will look; it is tried again
            self._opened, self._opened_file = True, file
        for job, result in zip(jobs, results, strict=True):
            job.result, job.done = result, True

    def _file(self) -> tuple[int, int] | None:
        """Which SQLite file lies where DATABASE_URL leads just now. Ours may have been moved, removed or replaced."""
        if not self._sqlite:
            return None
        try:
            found = os.stat(str(self._engine.url.database))
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _commit_alone(self, job: _Job) -> None:
        try:
            self._commit([job])
        except Exception as error:
            job.error, job.done = error, True

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.SQLAlchemyError, StoreUnavailable) as error:
            self._opened = False
            if self._sqlite:  # a connection keeps the file it has opened, and that it was read-only then
                self._engine.dispose()
            if isinstance(error, StoreUnavailable):
                raise
            raise StoreUnavailable(_cause(error)) from error

    def _open(self, db: sa.Connection) -> None:
        """Makes the tables of an empty database, and the tables and indexes an earlier release did not have. Those do
        no harm to it, so that a rollback works; a release that changes more raises SCHEMA_VERSION and does it here."""
        if not self._sqlite:
            db.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        _metadata.create_all(db)
        there = {index["name"] for table in (items, attempts) for index in sa.inspect(db).get_indexes(table.name)}
        for name, columns in INDEXES.items():
            if name not in there:
                db.execute(sa.text(f"CREATE INDEX {name} ON {columns}"))
        db.execute(sa.text("DROP INDEX IF EXISTS inbox_pending"))  # an earlier release's; inbox_due does its work
        first = {"schema_version": str(SCHEMA_VERSION), "gate": json.dumps(asdict(Gate()))}
        db.execute(self._insert_memory, [{"name": name, "value": value} for name, value in first.items()])
        version = int(db.execute(RECALL, {"of_name": "schema_version"}).scalar_one())
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(f"the database was made by a later release, schema {version}; deploy that one again")


def _cause(error: Exception) -> str:
    """What the driver said in one line, and what to do; without the statement and its values: those hold customers'
    text."""
    original = getattr(error, "orig", None)
    said = str(original).splitlines()[0] if original is not None and str(original) else type(error).__name__
    remedy = next((f"; {remedy}" for words, remedy in REMEDIES if words in said), "")
    return f"{type(original or error).__name__}: {said[:200]}{remedy}"


def _locked(error: Exception) -> bool:
    """Whether another program holds the SQLite file."""
    original = getattr(error.__cause__, "orig", None)
    return getattr(original, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turns a new file to the write-ahead log. While another does the same, or writes into a file that has none yet,
    SQLite refuses without waiting."""
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _sqlite_engine(url: str) -> sa.Engine:
    settings = {"timeout": LOCK_WAIT_S, "isolation_level": None}
    engine = sa.create_engine(url, connect_args=settings, hide_parameters=True)
    engine.dialect.use_insertmanyvalues_wo_returning = True  # many rows in one statement, as with RETURNING

    @sa.event.listens_for(engine, "connect")
    def durable(connection: Any, _: object) -> None:
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def begin_as_writer(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


# A server that is gone without a word (a failover, a lost route) is noticed within half a minute.
_NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 10_000}


def _postgresql_engine(url: str) -> sa.Engine:
    return sa.create_engine(
        url,
        pool_size=4,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,
        connect_args=_NOTICE_SILENCE | {"connect_timeout": 5, "application_name": "khoros-zendesk-relay"},
    )
