"""A few values that all processes share, and turns at work that one process at a time may do."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, TypeVar

from inbox.database import Database
from inbox.rows import object_in

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_KEEP = """INSERT INTO facts (name, value) VALUES (:name, :value)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value"""
_MAKE = "INSERT INTO facts (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING"
_TURN = "SELECT value, :clock FROM facts WHERE name = :name FOR UPDATE SKIP LOCKED"


class Facts:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remember(self, name: str, value: str) -> None:
        """Keeps a value under `name`, for every process and after a restart."""
        with self._database.transaction() as db:
            db.change(_KEEP, {"name": name, "value": value})

    def recall(self, name: str) -> str | None:
        """The value kept under `name`."""
        with self._database.reading() as db:
            found = db.rows("SELECT value FROM facts WHERE name = :name", {"name": name})
        return str(found[0][0]) if found else None

    def save(self, name: str, value: DataclassInstance) -> None:
        """Keeps a dataclass as JSON."""
        self.remember(name, json.dumps(asdict(value)))

    def load(self, name: str, kind: type[T]) -> T:
        """The dataclass kept under `name`. The other release may have other fields: unknown ones are ignored, missing
        ones have their defaults. An unreadable value gives all defaults."""
        return read_tolerantly(self.recall(name), kind)

    def take_turn(self, name: str, for_s: float) -> bool:
        """Whether this process may do the work called `name` now. The others may not for `for_s` seconds, or until
        `end_turn`. Nobody waits for a process that takes or ends the turn at this moment."""
        with self._database.transaction() as db:
            if not db.rows("SELECT 1 FROM facts WHERE name = :name", {"name": name}):
                db.change(_MAKE, {"name": name, "value": "0"})
            for until, now in db.rows(_TURN, {"name": name}):
                if not now < float(until) <= now + for_s:
                    return db.change(_KEEP, {"name": name, "value": str(now + for_s)}) > 0
        return False

    def end_turn(self, name: str) -> None:
        """Lets another process take its turn at `name`."""
        self.remember(name, "0")

    def now(self) -> float:
        """The database's time, in seconds since 1970."""
        with self._database.reading() as db:
            return db.now()


def read_tolerantly(text: str | None, kind: type[T]) -> T:
    """The dataclass in a JSON text; see Facts.load."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in object_in(text or "").items() if name in known})
