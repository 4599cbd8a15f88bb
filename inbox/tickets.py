"""The tickets that items became, and the state that each had when Zendesk was last asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from inbox.database import Database, in_list
from inbox.schema import DELIVERED, IS_PURGEABLE, PENDING, SETTLED_AT

SOLVED_EVENT = "ticket-solved"  # of an item that tells a destination about it
NEW, OVER = "new", ("solved", "closed")
MISSING, DELETED_TICKET = "missing", "deleted"  # not shown once, and again when it was asked about an hour later
MISSING_S = 3600.0
LATE_S = 60.0  # a commit may come so long after the time that it writes
# Only items whose text is kept: the index on them must serve, and the retention ends the asking. A note of ours on a
# ticket that was solved is a reason to ask once more.
_ENTER = f"""INSERT INTO tickets (destination, reference, subject_id, state, seen_at)
    SELECT destination, reference, min(subject_id), '{NEW}', max({SETTLED_AT}) FROM items
    WHERE {IS_PURGEABLE} AND {SETTLED_AT} > :since AND destination = :destination AND state = '{DELIVERED}'
    AND COALESCE(reference, '') <> '' GROUP BY destination, reference
    ON CONFLICT (destination, reference) DO UPDATE SET seen_at = 0.0 WHERE tickets.seen_at < excluded.seen_at"""
_DUE = f"""SELECT reference, subject_id, state FROM tickets WHERE destination = :destination
    AND (seen_at = 0.0 OR state NOT IN {(*OVER, DELETED_TICKET)} AND (seen_at > :now
        OR seen_at <= :now - CASE WHEN state = '{MISSING}' THEN {MISSING_S} ELSE :every_s END))
    ORDER BY seen_at, reference LIMIT :most"""
_SEE = """UPDATE tickets SET state = :state, seen_at = :clock
    WHERE destination = :destination AND reference = :reference"""
_PLACES = f"""SELECT DISTINCT destination FROM items
    WHERE subject_id = :subject_id AND state IN ('{DELIVERED}', '{PENDING}') AND destination IN """


@dataclass(frozen=True)
class KnownTicket:
    """A ticket, its post, and its state when Zendesk was last asked."""

    reference: str
    subject_id: str
    state: str


class Tickets:
    """The tickets of one destination, for all processes. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database, destination: str) -> None:
        self._database, self._destination = database, destination

    def enter(self, since: float) -> float:
        """Takes in the tickets of items that were delivered after `since`; returns what to give next time."""
        with self._database.transaction() as db:
            now = db.now()
            since = since if since <= now else 0.0  # the clock was set back
            db.change(_ENTER, {"destination": self._destination, "since": since})
        return now - LATE_S

    def due(self, every_s: float, most: int) -> list[KnownTicket]:
        """The tickets that were not over when last seen, `every_s` seconds ago or more, or an hour when they were
        missing then; the longest ago first."""
        values = {"destination": self._destination, "every_s": every_s, "most": most}
        with self._database.reading() as db:
            return [KnownTicket(*row) for row in db.rows(_DUE, {**values, "now": db.now()})]

    def see(self, states: Mapping[str, str]) -> None:
        """Keeps the state that each of these tickets has now."""
        rows = [{"reference": reference, "state": state[:20]} for reference, state in sorted(states.items())]
        with self._database.transaction() as db:  # in one order, or two processes can deadlock
            db.change_each(_SEE, [{"destination": self._destination, **row} for row in rows])

    def places(self, subject_id: str, among: Collection[str]) -> list[str]:
        """Which of these destinations have or will have a message about the post."""
        listed, values = in_list(among)
        with self._database.reading() as db:
            return [name for (name,) in db.rows(_PLACES + listed, {"subject_id": subject_id, **values})]
