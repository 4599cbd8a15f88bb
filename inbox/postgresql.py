"""The inbox in a PostgreSQL database (https://www.psycopg.org/psycopg3/docs/)."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, ClassVar
from urllib.parse import unquote

import psycopg
import psycopg_pool

from inbox.database import (
    WAIT_S,
    ConnectionsBusy,
    Database,
    DatabaseUnavailable,
    Place,
    Row,
    Session,
    Values,
    first_line,
)
from inbox.refusals import remedy_for


class Postgresql(Database):
    """A server, which several machines may share. A pooler may stand in between, which gives each transaction another
    connection (docs/decisions/0023): nothing that outlives a transaction is used."""

    kind = "PostgreSQL"
    ID = "BIGSERIAL NOT NULL PRIMARY KEY"
    # The tables may be in any schema that the role can see.
    TABLE_NAMES = "SELECT relname FROM pg_class WHERE pg_table_is_visible(oid)"
    errors = (psycopg.Error,)
    CLOCK = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
    MOST_CONNECTIONS = 4  # Heroku's smallest database has 20 for all processes
    SCHEMA_LOCK = 7_265_011_701  # any number that nobody else uses
    # A server that is gone without a word (a failover, a lost route) is noticed within half a minute.
    OPTIONS: ClassVar[dict[str, Any]] = {
        "autocommit": True,
        "prepare_threshold": None,  # a prepared statement stays in the connection that a pooler gives to others
        "cursor_factory": psycopg.RawCursor,  # takes $1, $2 … as PostgreSQL itself does
        "connect_timeout": int(WAIT_S) - 1,  # so that whoever waits still learns the reason
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "application_name": "khoros-zendesk-relay",
    }

    def __init__(self, url: str, clock: Callable[[], float] | None, wait_s: float) -> None:
        super().__init__(wait_s)

        class Connection(psycopg.Connection[Row]):
            """Keeps the reason of the last failed connect; the pool reports only a time-out."""

            @classmethod
            def connect(cls, conninfo: str = "", **options: Any) -> Any:
                try:
                    made = super().connect(conninfo, **options)
                except psycopg.Error as error:
                    self._refusal = error
                    raise
                self._refusal = None
                return made

        address, self._schema, self._most = _parted(url)
        # A process that is frozen or gone within a transaction stops nobody else for long: 2 s, and its session 10 s.
        self._begin = f"""BEGIN; SET LOCAL lock_timeout = '{wait_s * 400:.0f}ms';
            SET LOCAL idle_in_transaction_session_timeout = '{wait_s * 2000:.0f}ms'"""
        if self._schema:
            quoted = self._schema.replace('"', '""')
            self._begin += f"""; SET LOCAL search_path = "{quoted}\""""
        self._clock = clock
        self._refusal: Exception | None = None
        self._used: set[Any] = set()
        self._pool = psycopg_pool.ConnectionPool(
            address,
            connection_class=Connection,
            kwargs=self.OPTIONS,
            min_size=1,
            max_size=self._most,
            reconnect_timeout=1.0,  # whoever needs a connection asks again
            num_workers=1,
            open=False,
        )
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # our own lines say the same

    def lock_schema(self, session: Session) -> None:
        session.rows(f"SELECT pg_advisory_xact_lock({self.SCHEMA_LOCK})")

    def close(self) -> None:
        self._pool.close(timeout=1.0)

    def _renew(self) -> None:
        self._pool.drain()

    def reason_of(self, error: Exception) -> str:
        remedy = remedy_for(error, self._schema) if isinstance(error, psycopg.Error) else ""
        if attempts := [line for line in str(error).splitlines() if line.startswith("- host: ")]:
            error = type(error)(next((line for line in attempts if "FATAL" in line), attempts[-1]))
        return f"{first_line(error)}; {remedy}" if remedy else first_line(error)

    def _writing(self, single: bool) -> AbstractContextManager[Session]:
        return self._session(begin=not single)

    def _connected(self) -> AbstractContextManager[Session]:
        return self._session(begin=False)

    @contextmanager
    def _session(self, begin: bool) -> Iterator[Session]:
        begin = begin or bool(self._schema)  # only a transaction can say in which schema it looks
        self._pool.open()  # in the process that uses it: the pool's threads do not survive a fork
        driver = self._free_connection()
        self._used.add(driver)
        try:
            session = self.session_class(driver, self._spell)
            if begin:
                session.change(self._begin)
            yield session
            if begin:
                session.change("COMMIT")
        except BaseException as error:
            driver.close()  # whatever state it is in
            if isinstance(error, psycopg.errors.LockNotAvailable):
                said = f"another process has kept a row locked for {self._wait_s * 0.4:g} s"
                raise ConnectionsBusy(said) from error
            raise
        finally:
            self._used.discard(driver)
            self._pool.putconn(driver)

    def _free_connection(self) -> Any:
        give_up_at = time.monotonic() + self._wait_s
        while True:
            try:
                return self._pool.getconn(timeout=0.25)
            except psycopg_pool.PoolTimeout:
                if self._refusal and not self._used:  # otherwise one of ours will come back
                    raise DatabaseUnavailable(self.reason_of(self._refusal)) from self._refusal
                if time.monotonic() > give_up_at:
                    said = f"all {self._most} connections were in use for {self._wait_s:g} s"
                    raise ConnectionsBusy(said) from None

    def _spell(self, sql: str, values: Values | Place) -> tuple[str, list[Any] | None]:
        """The statement with PostgreSQL's placeholders, and the server's clock unless a test brings its own."""
        clock = self._clock() if self._clock else None
        sql = sql if self._clock else sql.replace(":clock", self.CLOCK)
        if isinstance(values, list):
            numbers = count(1)
            given = [clock, *values] if ":clock" in sql else values
            return re.sub(r"\?|:clock", lambda mark: f"${next(numbers)}", sql), given
        order: dict[str, int] = {}  # of names
        sql = re.sub(r"(?<!:):([a-z]\w*)", lambda name: f"${order.setdefault(name[1], len(order) + 1)}", sql)
        return sql, [clock if name == "clock" else values[name] for name in order] or None


def _parted(url: str) -> tuple[str, str, int]:
    """The address for libpq, and two settings in it that are ours: the schema, and how many connections at most."""
    address, _, query = url.partition("?")
    settings = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    schema, most = (
        unquote(settings.pop("schema", "")),
        int(settings.pop("connection_limit", Postgresql.MOST_CONNECTIONS)),
    )
    rest = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"{address}?{rest}" if rest else address, schema, min(most, Postgresql.MOST_CONNECTIONS)
