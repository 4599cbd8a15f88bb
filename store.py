"""The database: its tables, how threads write together, and the few facts and sums that all processes share.

inbox.py keeps the items in it, records.py reads it for people. Both speak to it in SQL, through database.py.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from database import Connection, NoneFree, StoreUnavailable, database, tabled
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

# {id} numbers the rows. Earlier releases have made tables that do the same.
TABLES = {
    "inbox": """(
        id {id},
        event_uuid VARCHAR(255) NOT NULL,
        entity_id VARCHAR(255) NOT NULL,  -- the post; Zendesk's external_id
        source VARCHAR(10) NOT NULL,  -- push or poll
        request_id VARCHAR(255),
        payload TEXT NOT NULL,  -- JSON
        received_at DOUBLE PRECISION NOT NULL,
        state VARCHAR(10) NOT NULL,
        reason VARCHAR(500),
        attempts INTEGER DEFAULT 0 NOT NULL,
        next_attempt_at DOUBLE PRECISION NOT NULL,
        owner VARCHAR(100),  -- the process that has it in flight
        first_sent_at DOUBLE PRECISION,
        body TEXT,  -- frozen before the first send
        idempotency_key VARCHAR(255),
        note_on BIGINT,  -- the ticket that gets a note; null: the body creates a ticket
        ticket_id BIGINT,
        settled_at DOUBLE PRECISION,
        CONSTRAINT inbox_one_row_per_event_and_post UNIQUE (event_uuid, entity_id)
    )""",
    "attempts": """(
        id {id},
        item_id BIGINT NOT NULL,
        number INTEGER NOT NULL,  -- the item's attempts then; a gap: no answer was recorded
        at DOUBLE PRECISION NOT NULL,
        took_s DOUBLE PRECISION NOT NULL,
        outcome VARCHAR(20) NOT NULL,
        status INTEGER,  -- HTTP's; null: no answer came
        code VARCHAR(500),  -- Zendesk's error code
        zendesk_request_id VARCHAR(255)
    )""",
    "memory": "(name VARCHAR(50) NOT NULL PRIMARY KEY, value TEXT)",
    "sums": "(name VARCHAR(50) NOT NULL PRIMARY KEY, value DOUBLE PRECISION NOT NULL)",
}
# These stand in the statements' own text: with a value in a word's place no partial index would serve.
IS_PENDING = f"state = '{PENDING}'"
IS_PARKED = f"state = '{PARKED}'"
STILL_FULL = f"state = '{DELIVERED}' AND payload <> '{EMPTIED}'"
WAS_RETRIED = f"outcome IN {RETRIED}"
INDEXES = {
    "inbox_post": "inbox (entity_id, id)",
    "inbox_due": f"inbox (next_attempt_at, id, received_at) WHERE {IS_PENDING}",
    "inbox_parked": f"inbox (next_attempt_at, id) WHERE {IS_PARKED}",
    "inbox_discarded": f"inbox (id) WHERE state = '{DISCARDED}'",
    "inbox_ticket": "inbox (ticket_id) WHERE ticket_id IS NOT NULL",
    "inbox_still_full": f"inbox (settled_at) WHERE {STILL_FULL}",
    "attempts_retried": f"attempts (outcome) WHERE {WAS_RETRIED}",
    "ix_attempts_item_id": "attempts (item_id)",
    "ix_attempts_at": "attempts (at)",
}
# Of an item that is found by its id or its post. The state's partial index does not serve these words: by statistics
# from before an outage it is short, and PostgreSQL would search all that waits for each item.
STILL_PENDING = f"state || '' = '{PENDING}'"

_REMEMBER = "INSERT INTO memory (name, value) VALUES (:name, :value) ON CONFLICT (name) "
INSERT_FACT = f"{_REMEMBER} DO NOTHING"
KEEP_FACT = f"{_REMEMBER} DO UPDATE SET value = excluded.value"
SELECT_FACT = "SELECT value, :clock FROM memory WHERE name = :name"
SELECT_FACT_LOCKED = f"{SELECT_FACT} FOR UPDATE"
_ADDED = "ON CONFLICT (name) DO UPDATE SET value = sums.value + excluded.value"


@dataclass(eq=False)
class _Job:
    """One thread's work on the database, and what became of it."""

    work: Callable[[Connection], Any]
    result: Any = None
    error: Exception | None = None
    done: bool = False
    turn: threading.Event = field(default_factory=threading.Event)  # it is done, or its thread is the next to write


def together(method: Callable[Concatenate[S, Connection, P], T]) -> Callable[Concatenate[S, P], T]:
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
        self._database = database(url, clock)
        self._queueing, self._writing = threading.Lock(), False
        self._waiting: deque[_Job] = deque()
        self._opened = False
        self._opened_file: object = None
        self._tallied: dict[str, float] = {}
        self._tallying = threading.Lock()

    # Facts

    @together
    def remember(self, db: Connection, name: str, value: str) -> None:
        """Keeps one fact under `name`, for every process and after a restart."""
        db.change(KEEP_FACT, {"name": name, "value": value})

    def recall(self, name: str) -> str | None:
        """The fact kept under `name`."""
        with self.statement() as db:
            found = db.rows("SELECT value FROM memory WHERE name = :name", {"name": name})
        value: str | None = found[0][0] if found else None
        return value

    @together
    def take_turn(self, db: Connection, name: str, for_s: float) -> bool:
        """Whether this process may do the work called `name` now. The others may not for `for_s` seconds, or until
        `end_turn`."""
        db.change(INSERT_FACT, {"name": name, "value": "0"})
        [(until, now)] = db.rows(SELECT_FACT_LOCKED, {"name": name})
        mine = not now < float(until) <= now + for_s
        if mine:
            db.change(KEEP_FACT, {"name": name, "value": str(now + for_s)})
        return bool(mine)

    def end_turn(self, name: str) -> None:
        """Lets another process take its turn at `name`."""
        self.remember(name, "0")

    def now(self) -> float:
        """The store's time, in seconds since 1970."""
        with self.statement() as db:
            return now_of(db)

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
        try:
            if taken:
                rows, values = tabled(sorted(taken.items()))  # one order: no deadlock
                self.write(lambda db: db.change(f"INSERT INTO sums (name, value) VALUES {rows} {_ADDED}", values))
        except StoreUnavailable:
            for name, value in taken.items():
                self.tally(name, value)
            raise

    def sums(self) -> dict[str, float]:
        """The shared sums by name, those of this process up to date."""
        self.save_tally()
        with self.statement() as db:
            return dict(db.rows("SELECT name, value FROM sums"))

    # Transactions

    def write(self, work: Callable[[Connection], T]) -> T:
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
    def statement(self) -> Iterator[Connection]:
        """A connection for statements that each count for themselves: no BEGIN, no COMMIT to wait for."""
        if not self._opened:
            self.write(lambda db: None)
        with self._told(), self._database.connection() as db:
            yield db

    def close(self) -> None:
        """Gives back every connection, those in use when they are free."""
        self._database.forget()

    # Inside

    def _commit_waiting(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._commit(jobs)
        except Exception as error:
            for job in jobs:
                if isinstance(error, NoneFree) or _locked(error):  # each alone would wait as long again
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
        opened, before = self._opened, self._opened_file  # another thread may find the database gone meanwhile
        with self._told():
            with self._database.transaction() as db:
                if not opened:
                    self._open(db)
                results = [job.work(db) for job in jobs]
            file = self._database.file()
            if opened and file != before:
                event("database_moved", logging.ERROR, reason=MOVED)
                raise StoreUnavailable(MOVED)  # the work was kept where nobody will look; it is tried again
            self._opened, self._opened_file = True, file
        for job, result in zip(jobs, results, strict=True):
            job.result, job.done = result, True

    def _commit_alone(self, job: _Job) -> None:
        try:
            self._commit([job])
        except Exception as error:
            job.error, job.done = error, True

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except NoneFree:
            raise
        except StoreUnavailable:
            # Connections of before may lead to a server that is gone, or to a file that was moved or read-only then.
            self._database.forget()
            self._opened = False
            raise

    def _open(self, db: Connection) -> None:
        """Makes the tables of an empty database, and the tables and indexes an earlier release did not have. Those do
        no harm to it, so that a rollback works; a release that changes more raises SCHEMA_VERSION and does it here."""
        self._database.lock_schema(db)
        there = {name for (name,) in db.rows(self._database.NAMES)}
        for name, columns in TABLES.items():
            if name not in there:
                db.change(f"CREATE TABLE {name} {columns.format(id=self._database.ID)}")
        for name, columns in INDEXES.items():
            if name not in there:
                db.change(f"CREATE INDEX {name} ON {columns}")
        if "inbox_pending" in there:  # an earlier release's; inbox_due does its work
            db.change("DROP INDEX inbox_pending")
        for name, value in (("schema_version", str(SCHEMA_VERSION)), ("gate", json.dumps(asdict(Gate())))):
            db.change(INSERT_FACT, {"name": name, "value": value})
        version = int(db.rows(SELECT_FACT, {"name": "schema_version"})[0][0])
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(f"the database was made by a later release, schema {version}; deploy that one again")


def now_of(db: Connection) -> float:
    """The store's time, in seconds since 1970."""
    return float(db.rows("SELECT :clock")[0][0])


def _locked(error: Exception) -> bool:
    """Whether another program holds the SQLite file."""
    return getattr(error.__cause__, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
