"""The durable inbox: every item is a row here before Khoros gets its 202, and until its destination has taken it."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Row, Session, in_list, values_table
from inbox.gate import LIMITED, OPEN, Gate
from inbox.gates import keep_gate, locked_gate, moved_gate, read_gate
from inbox.items import Claim, Counts, Draft, Item, NewItem, Outcome, Settled
from inbox.rows import composed, draft_values, item_of, row_of, settlement
from inbox.schema import (
    DISCARDED,
    EMPTY,
    IS_PARKED,
    IS_PENDING,
    IS_PENDING_UNINDEXED,
    IS_PURGEABLE,
    PARKED,
    PENDING,
    SETTLED_AT,
)

CANNOT_COMPOSE = "the post cannot be turned into a message"
ROWS_AT_ONCE = 100  # in one statement: each row has eight values, and SQLite may take only 999
PURGED_AT_ONCE = 500  # rows in one transaction, so that nobody waits long for it

_INSERT = """INSERT INTO items (destination, event_uuid, subject_id, source, request_id, payload, state, reason,
    received_at, next_attempt_at) SELECT new.*, at, at FROM (SELECT :clock AS at) AS clock, ({rows}) AS new WHERE true
    ON CONFLICT DO NOTHING RETURNING destination, event_uuid, subject_id"""
_INSERT_ATTEMPT = """INSERT INTO attempts (item_id, number, at, took_s, outcome, status, code, request_id)
    VALUES (:id, :attempts, :at, :took_s, :how, :status, :code, :request_id)"""

# A time more than an hour ahead is over: nothing waits so long, the clock was set back.
_IS_DUE = "(next_attempt_at <= :now OR next_attempt_at > :now + 3600)"
_IS_LEASED = "owner IS NOT NULL AND next_attempt_at > :now AND next_attempt_at <= :now + 3600"
# The next items to send. An item waits while another one of its subject is under way or came before it. The latest
# reference is the longest, then the greatest: tickets' numbers and messages' times both grow.
_DUE = f"""
SELECT item.id, event_uuid, subject_id, source, request_id, payload, received_at, attempts, first_sent_at,
    kind, body, key, target,
    (SELECT done.reference FROM items AS done WHERE done.destination = item.destination
        AND done.subject_id = item.subject_id AND done.reference IS NOT NULL
        ORDER BY length(done.reference) DESC, done.reference DESC LIMIT 1)
FROM items AS item
WHERE destination = :destination AND {IS_PENDING} AND {_IS_DUE}
    AND item.id NOT IN {{under_way}}
    AND NOT EXISTS (SELECT 1 FROM items AS other WHERE subject_id = item.subject_id
        AND destination = item.destination AND {IS_PENDING_UNINDEXED} AND id <> item.id
        AND (id < item.id OR id IN {{under_way}} OR {_IS_LEASED}))
ORDER BY next_attempt_at, item.id LIMIT :free FOR UPDATE OF item SKIP LOCKED"""
_UNDER_WAY = f"SELECT count(*) FROM items WHERE destination = :destination AND {IS_PENDING} AND {_IS_LEASED}"
_IS_OUT = f"SELECT 1 FROM items WHERE id = :id AND {IS_PENDING_UNINDEXED} AND {_IS_LEASED}"
# :clock, not :now: the claim may have waited for the gate, and a lease begins with its commit.
_CLAIM = """UPDATE items SET owner = :owner, attempts = :attempts, next_attempt_at = :clock + :lease_s,
    first_sent_at = :first_sent_at, kind = :kind, body = :body, key = :key, target = :target WHERE id = :id"""
_PARK = f"UPDATE items SET state = '{PARKED}', reason = :reason, settled_at = :now WHERE id = :id"
_MINE = f"id = :id AND {IS_PENDING_UNINDEXED} AND owner = :owner AND attempts = :attempts"
_REFREEZE = f"""UPDATE items SET kind = :kind, body = :body, key = :key, target = :target, first_sent_at = :clock,
    next_attempt_at = :clock + :lease_s WHERE {_MINE}"""
_RENEW = (
    f"UPDATE items SET next_attempt_at = :clock + :lease_s WHERE {IS_PENDING_UNINDEXED} AND owner = :owner AND id IN "
)
_SETTLE = f"""UPDATE items SET owner = NULL, state = :state, reason = :reason, reference = :reference,
    next_attempt_at = :next_attempt_at, settled_at = :settled_at WHERE {_MINE}"""
_RETRY = f"""UPDATE items SET state = '{PENDING}', body = NULL, first_sent_at = 0.0, settled_at = NULL,
    next_attempt_at = :clock WHERE {IS_PARKED} AND destination <> '' AND payload <> '{EMPTY}'"""
_DISCARD = f"""UPDATE items SET state = '{DISCARDED}', payload = '{EMPTY}', body = NULL, settled_at = :clock
    WHERE {IS_PARKED} AND id IN """
_OLD = f"""SELECT id FROM items WHERE {IS_PURGEABLE} AND {SETTLED_AT} < :before LIMIT {PURGED_AT_ONCE}
    FOR UPDATE SKIP LOCKED"""
_PURGE = f"UPDATE items SET payload = '{EMPTY}', kind = NULL, body = NULL, key = NULL, target = NULL WHERE id IN "


class Inbox:
    """Takes items in, hands them out for delivery, and records what became of them. `owner` names this process.

    Every method raises DatabaseUnavailable, and has then done nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

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
    ) -> Claim:
        """Takes up to `free` items that are due, for `lease_s` seconds, and freezes what each of them sends.

        Items in `under_way` are never claimed again, even when their lease is over. One that `compose` cannot turn into
        a draft is parked and returned without a draft.
        """
        with self._database.transaction() as db:
            gate, now = locked_gate(db, destination)
            values: dict[str, Any] = {"destination": destination, "now": now}
            under_way_anywhere = 0 if gate.calls_left is None else db.rows(_UNDER_WAY, values)[0][0]
            free = 0 if _probe_is_out(db, gate, now) else gate.places(now, under_way_anywhere, free)
            rows = self._due(db, free, under_way, values) if free else []
            items = [composed(item_of(row, destination, now, gate.version), compose) for row in rows]
            sent = [item for item in items if item.draft]
            db.change_each(_CLAIM, [self._lease(item, now, lease_s) for item in sent])
            parked = [item for item in items if not item.draft]
            db.change_each(_PARK, [{"id": item.id, "reason": CANNOT_COMPOSE, "now": now} for item in parked])
            if sent:
                keep_gate(db, destination, gate, gate.probing(sent[0].id))
        return Claim(items, gate, gate.held_for(now))

    def _due(self, db: Session, free: int, under_way: Collection[int], values: dict[str, Any]) -> list[Row]:
        among, ids = in_list(under_way or (0,))
        return db.rows(_DUE.format(under_way=among), {**values, **ids, "free": free})

    def _lease(self, item: Item, now: float, lease_s: float) -> dict[str, Any]:
        first_sent_at = now - (item.sent_s_ago or 0.0)
        mine = {"id": item.id, "owner": self.owner, "attempts": item.attempts}
        return {**mine, "lease_s": lease_s, "first_sent_at": first_sent_at, **draft_values(item.draft)}

    def refreeze(self, item: Item, draft: Draft, lease_s: float) -> Item | None:
        """Replaces what an item sends and renews its lease; None when the lease was lost."""
        mine = {"id": item.id, "owner": self.owner, "attempts": item.attempts}
        with self._database.transaction() as db:
            changed = db.change(_REFREEZE, {**mine, "lease_s": lease_s, **draft_values(draft)})
        return replace(item, draft=draft, sent_s_ago=None) if changed else None

    def renew(self, ids: Iterable[int], lease_s: float) -> None:
        """Prolongs the leases of these items, as far as they are still ours."""
        among, values = in_list(ids)
        with self._database.transaction() as db:
            db.change(_RENEW + among, {"owner": self.owner, "lease_s": lease_s, **values})

    def settle(self, attempts: Sequence[tuple[Item, Outcome]]) -> list[Settled]:
        """Records attempts at claimed items of one destination in one commit, and moves its gate by them. An item
        whose lease another process has taken over is left alone."""
        destination, answers = attempts[0][0].destination, []
        with self._database.transaction() as db:
            first, now = locked_gate(db, destination)
            gate = first
            for item, outcome in attempts:
                before, gate = gate, moved_gate(gate, now, item.gate_version, outcome, item.attempts)
                mine = {"id": item.id, "owner": self.owner, "attempts": item.attempts}
                db.change(_INSERT_ATTEMPT, {**vars(outcome), **mine, "at": now - outcome.took_s})
                ours = db.change(_SETTLE, {**mine, **settlement(outcome, item.attempts, gate, now)}) == 1
                answers.append(Settled(ours, before, gate))
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
            if on_hold or _probe_is_out(db, gate, now):
                return None
            if gate.state != OPEN:
                keep_gate(db, destination, gate, replace(gate, hold_until=now + for_s))
        return gate

    def end_check(self, destination: str, gate: Gate, outcome: Outcome) -> tuple[Gate, Gate]:
        """Moves the gate by what the check of `gate` has shown; returns it before and after."""
        with self._database.transaction() as db:
            before, now = locked_gate(db, destination)
            after = moved_gate(before, now, gate.version, outcome, attempts=1)
            keep_gate(db, destination, before, after)
        return before, after

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
        """Puts these parked items back, or all, and returns how many: each is composed and looked up anew. One that
        could not be read, or whose text is no longer kept, stays parked."""
        among, values = ("", {}) if ids is None else in_list(ids)
        with self._database.transaction() as db:
            return db.change(f"{_RETRY} AND id IN {among}" if among else _RETRY, values)

    def discard(self, ids: Iterable[int]) -> int:
        """Gives these parked items up and empties their text; returns how many. The rows stay, so that the same event
        does not come in again."""
        among, values = in_list(ids)
        with self._database.transaction() as db:
            return db.change(_DISCARD + among, values)

    def purge(self, older_than_s: float) -> int:
        """Empties settled items of the customer's text and deletes their attempts, some of those that are old enough;
        returns how many: call it until that is 0. Ids and references stay, so that nothing is made twice."""
        with self._database.transaction() as db:
            before = db.now() - older_than_s
            among, values = in_list(id for (id,) in db.rows(_OLD, {"before": before}))
            db.change(f"DELETE FROM attempts WHERE item_id IN {among}", values)
            return db.change(_PURGE + among, values)


def _name(item: NewItem) -> tuple[str, str, str]:
    return item.destination, item.event_uuid, item.subject_id


def _insert_new(db: Session, rows: Sequence[Row]) -> set[Row]:
    table, values = values_table(rows)
    return set(db.rows(_INSERT.format(rows=table), values))


def _probe_is_out(db: Session, gate: Gate, now: float) -> bool:
    """Whether the probe is still under way."""
    return gate.probe is not None and bool(db.rows(_IS_OUT, {"id": gate.probe, "now": now}))
