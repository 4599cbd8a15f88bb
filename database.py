"""SQLite or PostgreSQL: connections, and the same SQL for both.

A statement names its values, like :name. `:clock` is the time in seconds since 1970, on PostgreSQL the server's own.
FOR UPDATE, at the end of a SELECT, is for PostgreSQL; SQLite has one writer at a time in any case. The drivers are
sqlite3 (https://docs.python.org/3/library/sqlite3.html) and psycopg (https://www.psycopg.org/psycopg3/docs/).
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

Row = tuple[Any, ...]
Values = Mapping[str, Any]
LOCK_WAIT_S = 5.0  # for another program that holds the SQLite file
PLACE_WAIT_S = 5.0  # for a connection, when all are in use
_NAME = re.compile(r"(?<![\w:]):([a-z]\w*)")
_NONE: Values = {}

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


class StoreUnavailable(Exception):
    """The database did not keep or give what it should: down, full, read-only or of a later release. Try again."""


class NoneFree(StoreUnavailable):
    """All connections were in use for too long. There may be nothing wrong with them."""


class Connection:
    """One connection, used by one thread at a time. Its methods raise the driver's errors."""

    def __init__(self, driver: Any, put: Callable[[str, Values], tuple[str, list[Any]]], era: int) -> None:
        self.driver, self._put, self.era = driver, put, era

    def rows(self, sql: str, values: Values = _NONE) -> list[Row]:
        """Every row that the statement gives."""
        found: list[Row] = self.driver.execute(*self._put(sql, values)).fetchall()
        return found

    def change(self, sql: str, values: Values = _NONE) -> int:
        """How many rows the statement has changed."""
        changed: int = self.driver.execute(*self._put(sql, values)).rowcount
        return changed


class Database(ABC):
    """A few connections, made when they are needed and used again."""

    MOST: ClassVar[int]  # connections at a time
    ONE_WRITER: ClassVar[bool]  # at a time: threads do better to write together
    BEGIN: ClassVar[str]
    ID: ClassVar[str]  # the type of a column that numbers its rows
    NAMES: ClassVar[str]  # selects the names of the tables and indexes
    errors: tuple[type[Exception], ...]

    def __init__(self, clock: Callable[[], float] | None) -> None:
        self._clock = clock
        self._places = threading.Semaphore(self.MOST)
        self._free: deque[Connection] = deque()
        self._era = 0

    @abstractmethod
    def connect(self) -> Any:
        """A new connection of the driver's. Raises the driver's errors."""

    @abstractmethod
    def spell(self, sql: str) -> tuple[str, tuple[str, ...]]:
        """A statement with the driver's placeholders, and the names of what stands for them."""

    @abstractmethod
    def lock_schema(self, db: Connection) -> None:
        """Keeps other processes from making tables and indexes until the transaction ends."""

    @abstractmethod
    def file(self) -> object:
        """Which file lies where the address leads just now; None when there is none."""

    def put(self, sql: str, values: Values) -> tuple[str, list[Any]]:
        """A statement and its values in the driver's terms."""
        said, names = self.spell(sql)
        if self._clock:
            values = {"clock": self._clock(), **values}
        return said, [values[name] for name in names]

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for statements that each count for themselves. Raises StoreUnavailable."""
        if not self._places.acquire(timeout=PLACE_WAIT_S):
            raise NoneFree(f"all {self.MOST} connections were in use for {PLACE_WAIT_S:g} s")
        try:
            db = self._taken()
            try:
                yield db
            except BaseException:
                db.driver.close()  # whatever state it is in; that undoes what was not committed
                raise
            if db.era == self._era:
                self._free.append(db)
            else:
                db.driver.close()  # it was forgotten meanwhile
        except self.errors as error:
            raise StoreUnavailable(_cause(error)) from error
        finally:
            self._places.release()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, which is committed when the block is left without an exception. Raises
        StoreUnavailable."""
        with self.connection() as db:
            db.change(self.BEGIN)
            yield db
            db.change("COMMIT")

    def forget(self) -> None:
        """Uses no connection again that was made before, not even one that is in use now."""
        self._era += 1
        with suppress(IndexError):
            while True:
                self._free.pop().driver.close()

    def _taken(self) -> Connection:
        era = self._era
        try:
            return self._free.pop()
        except IndexError:
            return Connection(self.connect(), self.put, era)


class Sqlite(Database):
    """A file, with a write-ahead log; a commit waits for the disk."""

    MOST = 15
    ONE_WRITER = True
    BEGIN = "BEGIN IMMEDIATE"  # as a writer: one that only became it later could be refused
    ID = "INTEGER NOT NULL PRIMARY KEY"
    NAMES = "SELECT name FROM sqlite_master"
    errors = (sqlite3.Error,)

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._path = url.removeprefix("sqlite:///")

    def connect(self) -> sqlite3.Connection:
        driver = sqlite3.connect(self._path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
        try:
            _write_ahead(driver)
            driver.execute("PRAGMA synchronous=FULL")
        except BaseException:
            driver.close()
            raise
        return driver

    def spell(self, sql: str) -> tuple[str, tuple[str, ...]]:
        return _in_sqlite(sql)

    def lock_schema(self, db: Connection) -> None:
        pass  # whoever writes is alone

    def file(self) -> object:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino


class Postgresql(Database):
    """A server, which several machines may share."""

    MOST = 4  # Heroku's smallest database has 20 for all processes
    ONE_WRITER = False
    BEGIN = "BEGIN"
    ID = "BIGSERIAL NOT NULL PRIMARY KEY"
    # In whichever schema they are: a role need not be allowed to make what it may use.
    NAMES = "SELECT relname FROM pg_class WHERE pg_table_is_visible(oid)"
    _SCHEMA_LOCK = 7_265_011_701  # any number that is only ours
    # A server that is gone without a word (a failover, a lost route) is noticed within half a minute.
    _OPTIONS: ClassVar[dict[str, Any]] = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "application_name": "khoros-zendesk-relay",
    }

    def __init__(self, url: str, clock: Callable[[], float] | None) -> None:
        super().__init__(clock)
        import psycopg  # time and memory that a relay on SQLite does not need

        self._psycopg, self._url = psycopg, url
        self.errors = (psycopg.Error,)

    def connect(self) -> Any:
        raw = self._psycopg.RawCursor  # takes the placeholders that PostgreSQL itself has
        try:
            return self._psycopg.connect(self._url, autocommit=True, cursor_factory=raw, **self._OPTIONS)
        except self._psycopg.ProgrammingError:  # it would repeat the address, with the password
            raise StoreUnavailable("DATABASE_URL is no address that PostgreSQL can read: correct it") from None

    def spell(self, sql: str) -> tuple[str, tuple[str, ...]]:
        return _in_postgresql(sql, self._clock is None)

    def lock_schema(self, db: Connection) -> None:
        db.rows(f"SELECT pg_advisory_xact_lock({self._SCHEMA_LOCK})")

    def file(self) -> object:
        return None


def database(url: str, clock: Callable[[], float] | None = None) -> Database:
    """The database at `url`, sqlite:///FILE or postgresql://…. Nothing is opened yet. `clock` replaces its clock."""
    return Sqlite(url, clock or time.time) if url.startswith("sqlite") else Postgresql(url, clock)


def listed(values: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """What stands behind IN, and the values that it names. Nothing is in the list of none."""
    named = {f"v{number}": value for number, value in enumerate(values)}
    return f"({', '.join(f':{name}' for name in named) or 'NULL'})", named


def tabled(rows: Sequence[Sequence[Any]], more: str = "") -> tuple[str, dict[str, Any]]:
    """What stands behind VALUES for these rows, each with `more` in the end, and the values that it names."""
    table, names = _table(len(rows), len(rows[0]), more)
    return table, dict(zip(names, chain.from_iterable(rows), strict=True))


@lru_cache(maxsize=256)
def _table(rows: int, columns: int, more: str) -> tuple[str, tuple[str, ...]]:
    names = [[f"v{row}_{column}" for column in range(columns)] for row in range(rows)]
    table = ", ".join(f"({', '.join(f':{name}' for name in row)}{more})" for row in names)
    return table, tuple(chain.from_iterable(names))


@lru_cache(maxsize=512)
def _in_sqlite(sql: str) -> tuple[str, tuple[str, ...]]:
    """The statement with a ? for each name, and the names. sqlite3 itself takes twice as long to look them up."""
    sql = re.sub(r" FOR UPDATE[A-Za-z ]*", "", sql)
    return _NAME.sub("?", sql), tuple(_NAME.findall(sql))


@lru_cache(maxsize=512)
def _in_postgresql(sql: str, own_clock: bool) -> tuple[str, tuple[str, ...]]:
    """The statement with $1, $2, … and the names; its own clock is none of them."""
    if own_clock:
        sql = re.sub(r":clock\b", "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)", sql)
    numbers: dict[str, int] = {}
    said = _NAME.sub(lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", sql)
    return said, tuple(numbers)


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


def _cause(error: Exception) -> str:
    """What the driver said in one line, and what to do. The lines that follow can hold customers' text."""
    said = str(error).splitlines()[0][:200] if str(error) else "no reason given"
    remedy = next((f"; {remedy}" for words, remedy in REMEDIES if words in said), "")
    return f"{type(error).__name__}: {said}{remedy}"
