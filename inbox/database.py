"""What SQLite and PostgreSQL have in common: sessions, transactions, and the same SQL for both.

Statements name their values, like :name, or have a ? for each. `:clock`, before any ?, is the time in seconds since
1970, on PostgreSQL the server's own. FOR UPDATE is for PostgreSQL; SQLite has one writer at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, ClassVar

from inbox.schema import LATER, STEPS, UNNUMBERED

WAIT_S = 5.0  # for other threads and programs that use the database

Row = tuple[Any, ...]
Values = Mapping[str, Any]  # by name
Place = list[Any]  # by place


class DatabaseUnavailable(Exception):
    """The database is down, full, read-only, busy or of another release. Nothing was done: try again."""


class ConnectionsBusy(DatabaseUnavailable):
    """Other threads or programs used the database for too long. There may be nothing wrong with it: do not try again
    at once, that would mean waiting as long once more."""


class Session:
    """One connection, used by one thread at a time. Its methods raise the driver's errors."""

    files: tuple[object, object] = (None, None)  # SQLite: the file that it has open, and its log

    def __init__(self, driver: Any, spell: Callable[[str, Values | Place], tuple[str, Any]]) -> None:
        self._driver, self._spell = driver, spell

    def rows(self, sql: str, values: Values | Place | None = None) -> list[Row]:
        """Every row that the statement gives."""
        found: list[Row] = self._run(sql, values or {}).fetchall()
        return found

    def change(self, sql: str, values: Values | Place | None = None) -> int:
        """How many rows the statement has changed."""
        changed: int = self._run(sql, values or {}).rowcount
        return changed

    def change_each(self, sql: str, many: Sequence[Values]) -> None:
        """Runs the statement once for each set of values."""
        for values in many:
            self._run(sql, values)

    def now(self) -> float:
        """The database's time, in seconds since 1970."""
        return float(self.rows("SELECT :clock")[0][0])

    def close(self) -> None:
        """Ends the connection, which undoes what is not committed."""
        self._driver.close()

    def _run(self, sql: str, values: Values | Place) -> Any:
        return self._driver.execute(*self._spell(sql, values))


class Database(ABC):
    """Nothing is opened before the first use; then, and after every failure, the tables are looked at first.

    Both context managers raise DatabaseUnavailable, and ConnectionsBusy when it is only busy.
    """

    kind: ClassVar[str]
    session_class: ClassVar[type[Session]] = Session
    ID: ClassVar[str]  # the type of a column that numbers its rows
    TABLE_NAMES: ClassVar[str]  # selects the names of the tables
    errors: tuple[type[Exception], ...]

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._prepared = False

    @contextmanager
    def transaction(self, *, single: bool = False) -> Iterator[Session]:
        """A session whose changes are committed when the block ends without an exception. `single` promises one
        statement: PostgreSQL commits it by itself, without BEGIN and COMMIT."""
        prepared = self._prepared  # once: another thread may find out meanwhile that the database has failed
        with self._errors_named(), self._writing(single and prepared) as session:
            if not prepared:
                migrate(self, session)
            yield session
        self._prepared = True

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for statements that each count for themselves: no BEGIN, no COMMIT to wait for."""
        if not self._prepared:
            self._make_tables()
        with self._errors_named(), self._connected() as session:
            yield session

    def _make_tables(self) -> None:
        """Writes only when a table is missing: who may not write now can still read."""
        with self._errors_named(), self._connected() as session:
            found = _schema_version(self, session)
        if found not in (len(STEPS), len(STEPS) + 1):
            with self.transaction():
                pass
        self._prepared = True

    @abstractmethod
    def lock_schema(self, session: Session) -> None:
        """Keeps other processes from changing tables until the transaction ends."""

    @abstractmethod
    def close(self) -> None:
        """Closes every connection, those in use when they come back."""

    @abstractmethod
    def reason_of(self, error: Exception) -> str:
        """The driver's words in one line without customers' text, and after a semicolon what a person can do."""

    @abstractmethod
    def _renew(self) -> None:
        """Uses no connection again that exists now."""

    @abstractmethod
    def _writing(self, single: bool) -> AbstractContextManager[Session]:
        """A session inside a transaction."""

    @abstractmethod
    def _connected(self) -> AbstractContextManager[Session]:
        """A session outside of one."""

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except ConnectionsBusy:
            raise
        except DatabaseUnavailable:
            self.start_anew()
            raise
        except self.errors as error:
            self.start_anew()
            raise DatabaseUnavailable(self.reason_of(error)) from error

    def start_anew(self) -> None:
        """Uses no connection again that is open now: it may lead to a server that is gone, or to a file that was moved
        or read-only then."""
        self._prepared = False
        self._renew()


def migrate(database: Database, session: Session, steps: Sequence[Sequence[str]] = STEPS) -> None:
    """Makes the steps that the database does not have yet. Raises DatabaseUnavailable for tables that are not ours, or
    a later release's."""
    if (there := _schema_version(database, session)) < len(steps):
        database.lock_schema(session)
        there = _schema_version(database, session)  # another process may have made them meanwhile
    if there > len(steps) + 1:
        raise DatabaseUnavailable(LATER.format(there=there, known=len(steps)))
    if there >= len(steps):
        return
    for step in steps[there:]:
        for statement in step:
            session.change(statement.replace("{id}", database.ID))
    if there == 0:
        session.change("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        session.change("INSERT INTO schema_version (version) VALUES (0)")
    session.change("UPDATE schema_version SET version = :version", {"version": len(steps)})


def _schema_version(database: Database, session: Session) -> int:
    names = {name for (name,) in session.rows(database.TABLE_NAMES)}
    if "schema_version" in names:
        return int(session.rows("SELECT version FROM schema_version")[0][0])
    if {"inbox", "memory"} <= names:
        raise DatabaseUnavailable(UNNUMBERED)
    return 0


def in_list(values: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """What stands behind IN, and the values that it names. An empty list matches nothing."""
    named = {f"v{number}": value for number, value in enumerate(values)}
    return f"({', '.join(f':{name}' for name in named) or 'NULL'})", named


def values_table(rows: Sequence[Row]) -> tuple[str, Place]:
    """VALUES for these rows, and their values by place: looking up hundreds of names is slow."""
    marks = f"({', '.join('?' * len(rows[0]))})"
    return f"VALUES {', '.join([marks] * len(rows))}", list(chain.from_iterable(rows))


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message. The lines that follow can hold customers' text."""
    said = str(error).splitlines()[0][:200] if str(error) else "no reason given"
    return f"{type(error).__name__}: {said}"
