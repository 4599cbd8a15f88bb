"""The inbox in an SQLite file (https://docs.python.org/3/library/sqlite3.html)."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import log
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Place, Session, Values, first_line

MOVED = "another database lies where DATABASE_URL leads, or none; stop the relay and put the previous one back"
LOG_SAVED = (
    "{log} was deleted under the running relay; nothing is lost, all that it held is in the database file now. Find "
    "out what deletes it"
)
LOG_LOST = (
    "{log} was replaced under the running relay; what the previous one held may be lost. Stop the relay before you "
    "put back a backup, and label posts that have no ticket again"
)

# What SQLite says, and what a person can do about it.
REMEDIES = {
    "disk is full": "free some space where the database lies",
    "disk I/O error": "look at the disk where the database lies, its space and its quota",
    "readonly database": "let the relay write the database file and its folder",
    "unable to open": "DATABASE_URL must lead into a folder that exists and that the relay may write to",
    "malformed": "the file is damaged: put a backup in its place, or what sqlite3 FILE .recover gives",
    "not a database": "DATABASE_URL leads to another kind of file, or to a damaged one: correct it, or move the file",
    "is locked": "end the other program that uses the database",
    "locking protocol": "network file systems cannot lock the file as SQLite needs it: let DATABASE_URL lead to a disk "
    "of this machine, or to PostgreSQL",
}


class Sqlite(Database):
    """A file with a write-ahead log. A commit waits for the disk."""

    kind = "SQLite"
    ID = "INTEGER NOT NULL PRIMARY KEY"
    TABLE_NAMES = "SELECT name FROM sqlite_master"
    errors = (sqlite3.Error,)

    def __init__(self, url: str, clock: Callable[[], float] | None, wait_s: float) -> None:
        super().__init__(wait_s)
        self._path, self._clock = url.removeprefix("sqlite:///"), clock or time.time
        self._log = f"{self._path}-wal"
        self._one_writer = threading.Lock()
        self._free: deque[Session] = deque()

    def lock_schema(self, session: Session) -> None:
        pass  # a writer is alone

    def close(self) -> None:
        self._renew()

    def reason_of(self, error: Exception) -> str:
        return _reason_of(error)

    def _renew(self) -> None:
        old, self._free = self._free, deque()
        _close_all(old)

    @contextmanager
    def _writing(self, single: bool) -> Iterator[Session]:
        if not self._one_writer.acquire(timeout=self._wait_s):
            raise ConnectionsBusy(f"another thread has been writing for {self._wait_s:g} s")
        try:
            with self._connected() as session:
                with _busy_named():
                    session.change("BEGIN IMMEDIATE")  # as a writer: a reader that becomes one later can be refused
                yield session
                self._check_still_there(session)
                session.change("COMMIT")
                self._check_still_there(session)  # what is moved meanwhile takes the commit with it
        finally:
            self._one_writer.release()

    @contextmanager
    def _connected(self) -> Iterator[Session]:
        free = self._free
        try:
            session = free.pop()
        except IndexError:
            session = self._connect()
        try:
            yield session
        except BaseException:
            session.close()
            raise
        free.append(session)
        if free is not self._free:  # closed meanwhile
            _close_all(free)

    def _connect(self) -> Session:
        _make_private(self._path)
        before = _file_at(self._path)
        driver = sqlite3.connect(self._path, timeout=self._wait_s, isolation_level=None, check_same_thread=False)
        try:
            with _busy_named():
                _write_ahead(driver, self._wait_s)
            driver.execute("PRAGMA synchronous=FULL")
            session = self.session_class(driver, self._spell)
            session.rows("SELECT 1 FROM sqlite_master")  # opens the log: from now on SQLite itself leaves it there
        except BaseException:
            driver.close()
            raise
        session.files = before, _file_at(self._log)
        return session

    def _spell(self, sql: str, values: Values | Place) -> tuple[str, Any]:
        sql = re.sub(r" FOR UPDATE[A-Za-z ]*", "", sql)
        if isinstance(values, list):
            return sql.replace(":clock", "?"), [self._clock(), *values] if ":clock" in sql else values
        return sql, {"clock": self._clock(), **values}

    def _check_still_there(self, session: Session) -> None:
        """Raises when the file or its log was moved, deleted or replaced: the commit goes to the old one."""
        now = _file_at(self._path), _file_at(self._log)
        if now == session.files:
            return
        reason = MOVED
        if now[0] == session.files[0]:
            reason = (LOG_SAVED if self._save_log(session) else LOG_LOST).format(log=self._log)
        log.error("database_moved", reason=reason)
        raise DatabaseUnavailable(reason)

    def _save_log(self, session: Session) -> bool:
        """Writes what the deleted log holds into the database file: the connection still has that log open. Not when
        another log has begun: its changes know nothing of the old one's, and both together would damage the file."""
        if os.path.exists(self._log) and os.path.getsize(self._log):
            return False
        with suppress(sqlite3.Error):
            session.change("ROLLBACK")  # unless it is committed
        [(busy, there, saved)] = session.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy or there == saved


def _make_private(path: str) -> None:
    """Makes the file when there is none, for its owner alone: it will hold customers' posts. One that is there is not
    opened here: closing it would end the locks of SQLite (https://sqlite.org/howtocorrupt.html, 2.2)."""
    with suppress(OSError):  # SQLite says what is wrong
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _file_at(path: str) -> object:
    """Tells one file from another, also after it was moved; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _close_all(sessions: deque[Session]) -> None:
    with suppress(IndexError):
        while True:
            sessions.pop().close()


def _reason_of(error: Exception) -> str:
    said = first_line(error)
    remedy = next((f"; {remedy}" for words, remedy in REMEDIES.items() if words in said), "")
    return said + remedy


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def _busy_named() -> Iterator[None]:
    """Raises ConnectionsBusy when another program has kept the file locked for too long."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            raise ConnectionsBusy(_reason_of(error)) from error
        raise


def _write_ahead(driver: sqlite3.Connection, wait_s: float) -> None:
    """Turns a new file to the write-ahead log. While another connection does the same, SQLite refuses at once."""
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            driver.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)
