"""Counts what Khoros sends and no route wants, so that a misspelt route shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from inbox.database import Database
from inbox.items import storable

ROWS_LIMIT = 100
EVENT_NAME_LIMIT, WORD_LIMIT = 100, 255  # characters, the columns' own limits
_NOTE = """INSERT INTO unrouted (event_name, word, count, first_at, last_at)
    VALUES (:event_name, :word, :count, :clock, :clock)
    ON CONFLICT (event_name, word) DO UPDATE SET count = unrouted.count + excluded.count, last_at = excluded.last_at"""
_FORGET = f"""DELETE FROM unrouted WHERE (event_name, word) NOT IN
    (SELECT event_name, word FROM unrouted ORDER BY last_at DESC, event_name, word LIMIT {ROWS_LIMIT})"""
_RECENT = f"""SELECT event_name, word, count, first_at, last_at FROM unrouted
    ORDER BY last_at DESC, event_name, word LIMIT {ROWS_LIMIT}"""


@dataclass(frozen=True)
class UnroutedWord:
    """A label, a rule or a service that no route names: how many events had it, the first and the last of them in
    seconds since 1970."""

    event_name: str
    word: str
    count: int
    first_at: float
    last_at: float


class Unrouted:
    """The latest words that no route names, for all processes. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, words: Iterable[tuple[str, str]]) -> None:
        """Counts words, each with the name of its event. When there are too many the oldest are forgotten."""
        counts = Counter((storable(name, EVENT_NAME_LIMIT), storable(word, WORD_LIMIT)) for name, word in words)
        if not counts:
            return
        rows = [{"event_name": name, "word": word, "count": count} for (name, word), count in sorted(counts.items())]
        with self._database.transaction() as db:  # in one order, or two processes can deadlock
            db.change_each(_NOTE, rows)
            db.change(_FORGET)

    def recent(self) -> list[UnroutedWord]:
        """The words, the latest first."""
        with self._database.reading() as db:
            return [UnroutedWord(*row) for row in db.rows(_RECENT)]

    def purge(self, older_than_s: float) -> int:
        """Deletes what was last met at least so many seconds ago; returns how many."""
        with self._database.transaction() as db:
            return db.change("DELETE FROM unrouted WHERE last_at <= :clock - :age", {"age": older_than_s})
