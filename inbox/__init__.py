"""What is kept: items, their attempts, the gates and a few facts, in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

from inbox.database import WAIT_S, Database


def open_database(url: str, clock: Callable[[], float] | None = None, wait_s: float = WAIT_S) -> Database:
    """The database at `url`, sqlite:///FILE or postgresql://…. Nothing is opened yet. `clock` replaces its clock;
    `wait_s` limits how long a thread waits for others that use the database."""
    if url.startswith("sqlite"):
        from inbox.sqlite import Sqlite

        return Sqlite(url, clock, wait_s)
    from inbox.postgresql import Postgresql  # its driver takes time and memory that SQLite does not need

    return Postgresql(url, clock, wait_s)
