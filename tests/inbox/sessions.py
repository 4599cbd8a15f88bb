"""Databases seen from behind: what the inbox does with one, and changes that it does not know of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import psycopg
import pytest

from inbox.database import Database, Place, Row, Session, Values

BeforeStatement = Callable[[Session, str, Any], object]


class WatchedSession(Session):
    """Shows its driver, and calls `before` with each statement."""

    def __init__(self, driver: Any, spell: Callable[[str, Any], tuple[str, Any]]) -> None:
        super().__init__(driver, spell)
        self.driver = driver

    def before(self, sql: str, values: Values | Place) -> None:
        """Called before each statement."""

    def rows(self, sql: str, values: Values | Place | None = None) -> list[Row]:
        self.before(sql, values or {})
        return super().rows(sql, values)

    def change(self, sql: str, values: Values | Place | None = None) -> int:
        self.before(sql, values or {})
        return super().change(sql, values)

    def change_each(self, sql: str, many: Sequence[Values]) -> None:
        for values in many:
            self.before(sql, values)
        super().change_each(sql, many)


def watch(monkeypatch: pytest.MonkeyPatch, database: Database, before: BeforeStatement) -> None:
    """Calls `before` with each statement of a database that nobody has used yet, and with the session that runs it."""

    class Telling(WatchedSession):
        def before(self, sql: str, values: Values | Place) -> None:
            before(self, sql, values)

    monkeypatch.setattr(database, "session_class", Telling)


def execute(url: str, *statements: str) -> None:
    """Changes the database behind the inbox's back."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as sqlite, sqlite:
            for statement in statements:
                sqlite.execute(statement)
    else:
        with psycopg.connect(url) as postgresql:
            for statement in statements:
                postgresql.execute(statement.encode())
