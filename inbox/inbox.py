"""The durable inbox: every item is a row here before Khoros gets its 202, and until its destination has taken it."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any

from inbox import statements as sql
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Row, Session, in_list, values_table
from inbox.gate import LIMITED, OPEN, REFUSING, Gate
from inbox.gates import checked_gate, keep_gate, locked_gate, read_gate
from inbox.items import Claim, Counts, Draft, Item, NewItem, Outcome, Settled
from inbox.rows import composed, draft_values, item_of, row_of
from inbox.schema import IS_PARKED, IS_PENDING
from inbox.settling import settle_call

CANNOT_COMPOSE = "the post cannot be turned into a message"
ROWS_AT_ONCE = 100  # in one statement: each row has eight values, and SQLite may take only 999
MOST_TOGETHER = 1000  # items that become one message


class Inbox:
    """Takes items in, hands them out for delivery, and records what became of them.

    Every method raises DatabaseUnavailable, and has then done nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last_seen: dict[str, float] = {}  # the time of the latest claim for each destination

    @cached_property
    def owner(self) -> str:
        """The name of this process, made at its first use: the server may fork after this was made."""
        return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    # In

    def accept(self, items: Sequence[NewItem]) -> list[bool]:
        """Commits the items and says of each whether it is new: the same subject of the same event is kept once for
        each destination."""
        rows = [row_of(item) for item in sorted(items, key=_name)]  # in one order, or two processes can deadlock
        if not rows:
            return []
        try:
            new = self._insert(rows)
        except ConnectionsBusy:
            raise
        except DatabaseUnavailable:  # a connection may just have died; the same rows a second time do no harm
            new = self._insert(rows)
        answers = []
        for item in items:
            answers.append(_name(item) in new)
            new.discard(_name(item))
        return answers

    def _insert(self, rows: Sequence[Row]) -> set[Row]:
        """The names of the rows that were not there."""
        new: set[Row] = set()
        with self._database.transaction(single=len(rows) <= ROWS_AT_ONCE) as db:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                new |= _insert_new(db, rows[start : start + ROWS_AT_ONCE])
        return new

    def check_writable(self) -> None:
        """Commits a small change, so that a full or read-only disk and a damaged table show."""
        name = uuid.uuid4().hex
        with self._database.transaction() as db:
            _insert_new(db, [row_of(NewItem("", name, "", {}, reason="check"))])
            db.change("DELETE FROM items WHERE event_uuid = :name", {"name": name})

    # Out

    def claim(
        self,
        destination: str,
        free: int,
        lease_s: float,
        compose: Callable[[Item], Draft],
        under_way: Collection[int] = (),
        pace_s: float = 0.0,
        above: int | None = None,
    ) -> Claim:
        """Takes up to `free` items that are due, for `lease_s` seconds, and freezes what each of them sends.

        Items in `under_way` are never claimed again, even when their lease is over. One that `compose` cannot turn into
        a draft is parked and returned without a draft. With `pace_s` it takes one item, and no process takes another
        one before that is settled and for so many seconds more. When more than `above` are due and the gate is open, it
        takes them together.
        """
        with self._database.transaction() as db:
            before, now = locked_gate(db, destination)
            values: dict[str, Any] = {"destination": destination, "now": now}
            gate = self._despite_clock(db, before, values)
            one_is_out = pace_s and db.rows(sql.UNDER_WAY, values)[0][0]
            paced_s = gate.paced_for(now, pace_s) or (pace_s if one_is_out else 0.0)
            free = 0 if paced_s else min(free, 1) if pace_s else free
            rows, together = self._leaving(db, gate, values, free, under_way, above)
            items = [composed(item_of(row, destination, now, gate.version), compose) for row in rows]
            sent = [item for item in items if item.draft]
            db.change_each(sql.CLAIM, [self._lease(item, now, lease_s) for item in sent])
            parked = [item for item in items if not item.draft]
            db.change_each(sql.PARK, [{"id": item.id, "reason": CANNOT_COMPOSE, "now": now} for item in parked])
            if sent:
                gate = _paced(gate.probing(now, sent[0].id), now, pace_s)
            keep_gate(db, destination, before, gate)
        return Claim(items, gate, max(gate.held_for(now), paced_s), together)

    def _leaving(
        self, db: Session, gate: Gate, values: dict[str, Any], free: int, under_way: Collection[int], above: int | None
    ) -> tuple[list[Row], bool]:
        """What leaves now, and whether it does so together."""
        now, out = values["now"], 0 if gate.calls_left is None else db.rows(sql.UNDER_WAY, values)[0][0]
        if rows := _due(db, values, under_way, gate.round_places(now, out, free), sql.UNTRIED, "DESC"):
            return rows, False
        free = 0 if free and _probe_is_out(db, values["destination"], gate, now) else gate.places(now, out, free)
        if free and above is not None and gate.state == OPEN:
            rows = _due(db, values, under_way, MOST_TOGETHER, sql.FIT_TOGETHER)
            if len(rows) > above:
                return rows, True
        return _due(db, values, under_way, free), False

    def _despite_clock(self, db: Session, gate: Gate, values: dict[str, Any]) -> Gate:
        """Sees to it that nothing waits longer than it was to wait when the clock was set back; returns the gate."""
        destination, now = values["destination"], values["now"]
        last_seen, self._last_seen[destination] = self._last_seen.get(destination), now
        if last_seen is None or now < last_seen:  # before the first claim anything may have happened
            db.change(sql.LEASE_ANEW, values)
        if last_seen is None or now > last_seen - 1:  # a clock is put right by parts of a second all the time
            return gate
        db.change(sql.END_WAITS, values)
        return replace(gate, hold_until=0.0, window_ends_at=0.0)

    def _lease(self, item: Item, now: float, lease_s: float) -> dict[str, Any]:
        first_sent_at = now - (item.sent_s_ago or 0.0)
        mine = {"id": item.id, "owner": self.owner, "attempts": item.attempts}
        return {**mine, "lease_s": lease_s, "first_sent_at": first_sent_at, **draft_values(item.draft)}

    def refreeze(self, item: Item, draft: Draft, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        mine = {"id": item.id, "owner": self.owner, "attempts": item.attempts}
        with self._database.transaction() as db:
            changed = db.change(sql.REFREEZE, {**mine, "lease_s": lease_s, **draft_values(draft)})
        return replace(item, draft=draft, sent_s_ago=None) if changed else None

    def renew(self, ids: Iterable[int], lease_s: float) -> None:
        """Prolongs the leases of these items, as far as they are still ours."""
        among, values = in_list(ids)
        with self._database.transaction() as db:
            db.change(sql.RENEW + among, {"owner": self.owner, "lease_s": lease_s, **values})

    def settle(self, attempts: Sequence[tuple[Item, Outcome]], pace_s: float = 0.0) -> list[Settled]:
        """Records attempts at claimed items of one destination in one commit, and moves its gate by them; its pace
        counts from now. An item whose lease another process has taken over is left alone."""
        destination = attempts[0][0].destination
        answers: list[Settled] = []
        with self._database.transaction() as db:
            first, now = locked_gate(db, destination)
            gate = _paced(first, now, pace_s)
            for _, call in groupby(attempts, key=lambda one: id(one[1])):  # what one call told of has one outcome
                for settled in settle_call(db, self.owner, gate, now, list(call)):
                    answers.append(settled)
                    gate = settled.after
            keep_gate(db, destination, first, gate)
        return answers

    # The gate

    def gate(self, destination: str) -> tuple[Gate, float]:
        """The destination's gate, and the seconds until it may open."""
        with self._database.reading() as db:
            gate, now = read_gate(db, destination) or (Gate(), 0.0)
        return gate, gate.held_for(now)

    def begin_check(self, destination: str, for_s: float, *, despite_hold: bool = False) -> Gate | None:
        """The gate before a check of the destination's credentials, which keeps everything else back for `for_s`
        seconds or until `end_check`; None when the gate is on hold or its probe is under way. `despite_hold` checks all
        the same, unless the hold is a rate limit: a person may have repaired what the others still wait for."""
        with self._database.transaction() as db:
            gate, now = locked_gate(db, destination)
            on_hold = gate.held_for(now) and not (despite_hold and gate.state != LIMITED)
            if on_hold or _probe_is_out(db, destination, gate, now):
                return None
            if gate.state != OPEN:
                keep_gate(db, destination, gate, replace(gate, hold_until=now + for_s, held_at=now))
        return gate

    def end_check(
        self, destination: str, gate: Gate, outcome: Outcome, *, despite_hold: bool = False
    ) -> tuple[Gate, Gate]:
        """Moves the gate by what the check of `gate` has shown; returns it before and after."""
        with self._database.transaction() as db:
            before, now = locked_gate(db, destination)
            after = checked_gate(before, now, gate.version, outcome, opens=not despite_hold)
            keep_gate(db, destination, before, after)
        return before, after

    def reconnect(self) -> None:
        """Uses no connection again that is open now: after a long pause it may be dead."""
        self._database.start_anew()

    def close(self) -> None:
        """Closes the connections to the database."""
        self._database.close()

    # What people ask for

    def counts(self) -> Counts:
        """How much is pending and parked."""
        with self._database.reading() as db:
            pending = f"SELECT count(*), min(received_at), :clock FROM items WHERE {IS_PENDING}"
            [(waiting, oldest, now)] = db.rows(pending)
            [(parked,)] = db.rows(f"SELECT count(*) FROM items WHERE {IS_PARKED}")
        return Counts(waiting, parked, max(0.0, now - oldest) if oldest is not None else None)

    def now(self) -> float:
        """The database's time, in seconds since 1970."""
        with self._database.reading() as db:
            return db.now()

    def retry(self, ids: Iterable[int] | None = None) -> int:
        """Sends these items again, or all that are parked, and returns how many. A parked one is composed and looked up
        anew; it stays when it could not be read or its text is no longer kept. A pending one that is not under way is
        due at once."""
        with self._database.transaction() as db:
            if ids is None:
                return db.change(sql.RETRY)
            among, values = in_list(ids)
            hurried = db.change(sql.HURRY + among, values)
            return hurried + db.change(f"{sql.RETRY} AND id IN {among}", values)

    def discard(self, ids: Iterable[int]) -> int:
        """Gives these items up and empties their text: those that are parked, or pending and not under way. Returns how
        many. The rows stay, so that the same event does not come in again."""
        among, values = in_list(ids)
        with self._database.transaction() as db:
            return db.change(sql.DISCARD + among, values)

    def purge(self, older_than_s: float) -> int:
        """Empties settled items of the customer's text and deletes their attempts, some of those that are old enough;
        returns how many: call it until that is 0. Ids and references stay, so that nothing is made twice; the states
        of their tickets, and users that were remembered for as long, go with the last ones."""
        with self._database.transaction() as db:
            before = {"before": db.now() - older_than_s}
            among, values = in_list(id for (id,) in db.rows(sql.OLD, before))
            if not values:
                db.change(sql.FORGET_STATES)
                db.change("DELETE FROM requesters WHERE at < :before", before)
            db.change(f"DELETE FROM attempts WHERE item_id IN {among}", values)
            return db.change(sql.PURGE + among, values)


def _name(item: NewItem) -> tuple[str, str, str]:
    return item.destination, item.event_uuid, item.subject_id


def _insert_new(db: Session, rows: Sequence[Row]) -> set[Row]:
    table, values = values_table(rows)
    return set(db.rows(sql.INSERT.format(rows=table), values))


def _probe_is_out(db: Session, destination: str, gate: Gate, now: float) -> bool:
    """Whether the probe is still under way, or one of its round."""
    if gate.state == REFUSING:
        return bool(db.rows(sql.UNDER_WAY, {"destination": destination, "now": now})[0][0])
    return gate.probe is not None and bool(db.rows(sql.IS_OUT, {"id": gate.probe, "now": now}))


def _due(
    db: Session, values: dict[str, Any], under_way: Collection[int], free: int, more: str = "", order: str = ""
) -> list[Row]:
    among, ids = in_list(under_way or (0,))
    statement = sql.DUE.format(under_way=among, more=more, order=order)
    return db.rows(statement, {**values, **ids, "free": free}) if free else []


def _paced(gate: Gate, now: float, pace_s: float) -> Gate:
    return replace(gate, paced_until=now + pace_s) if pace_s else gate
