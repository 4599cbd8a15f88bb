"""The SQL of the inbox."""

from __future__ import annotations

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

PURGED_AT_ONCE = 500  # rows in one transaction, so that nobody waits long for it

# A time more than an hour ahead is over: nothing waits so long, the clock was set back.
_IS_LEASED = "owner IS NOT NULL AND next_attempt_at > {now} AND next_attempt_at <= {now} + 3600"
IS_LEASED, IS_LEASED_NOW = _IS_LEASED.format(now=":now"), _IS_LEASED.format(now=":clock")
IS_DESTINATIONS = f"destination = :destination AND {IS_PENDING}"
# What has no lease and waits for nothing of its own is due: next_attempt_at is its place in the queue.
_IS_DUE = """(next_attempt_at <= :now OR next_attempt_at > :now + 3600
    OR owner IS NULL AND (held_at IS NULL OR held_at > :now))"""

# In

INSERT = """INSERT INTO items (destination, event_uuid, subject_id, source, request_id, payload, state, reason,
    received_at, next_attempt_at) SELECT new.*, at, at FROM (SELECT :clock AS at) AS clock, ({rows}) AS new WHERE true
    ON CONFLICT DO NOTHING RETURNING destination, event_uuid, subject_id"""

# Out: the next items to send. An item waits while another one of its subject is under way or came before it. The latest
# reference is the longest, then the greatest: tickets' numbers and messages' times both grow.

DUE = f"""
SELECT item.id, event_uuid, subject_id, source, request_id, payload, received_at, attempts, first_sent_at,
    kind, body, key, target,
    (SELECT done.reference FROM items AS done WHERE done.destination = item.destination
        AND done.subject_id = item.subject_id AND done.reference IS NOT NULL
        ORDER BY length(done.reference) DESC, done.reference DESC LIMIT 1)
FROM items AS item
WHERE {IS_DESTINATIONS} AND {_IS_DUE}
    AND item.id NOT IN {{under_way}} {{more}}
    AND NOT EXISTS (SELECT 1 FROM items AS other WHERE subject_id = item.subject_id
        AND destination = item.destination AND {IS_PENDING_UNINDEXED} AND id <> item.id
        AND (id < item.id OR id IN {{under_way}} OR {IS_LEASED}))
ORDER BY next_attempt_at {{order}}, item.id {{order}} LIMIT :free FOR UPDATE OF item SKIP LOCKED"""
FIT_TOGETHER = "AND failures = 0"  # one that made a common call fail is sent alone
UNTRIED = "AND failing_since IS NULL"  # it has not failed alone
UNDER_WAY = f"SELECT count(*) FROM items WHERE {IS_DESTINATIONS} AND {IS_LEASED}"
IS_OUT = f"SELECT 1 FROM items WHERE id = :id AND {IS_PENDING_UNINDEXED} AND {IS_LEASED}"
# :clock, not :now: the claim may have waited for the gate, and a lease begins with its commit.
_LEASE = "next_attempt_at = :clock + :lease_s, held_at = :clock"
CLAIM = f"""UPDATE items SET owner = :owner, attempts = :attempts, {_LEASE},
    first_sent_at = :first_sent_at, kind = :kind, body = :body, key = :key, target = :target WHERE id = :id"""
PARK = f"UPDATE items SET state = '{PARKED}', reason = :reason, settled_at = :now WHERE id = :id"
_MINE = f"id = :id AND {IS_PENDING_UNINDEXED} AND owner = :owner AND attempts = :attempts"
REFREEZE = f"""UPDATE items SET kind = :kind, body = :body, key = :key, target = :target, first_sent_at = :clock,
    {_LEASE} WHERE {_MINE}"""
RENEW = f"UPDATE items SET {_LEASE} WHERE {IS_PENDING_UNINDEXED} AND owner = :owner AND id IN "
# After the clock was set back: a lease lasts as long as it was to last, and a wait is over.
LEASE_ANEW = f"""UPDATE items SET next_attempt_at = :now + next_attempt_at - held_at, held_at = :now
    WHERE {IS_DESTINATIONS} AND owner IS NOT NULL AND held_at > :now"""
END_WAITS = f"UPDATE items SET held_at = NULL WHERE {IS_DESTINATIONS} AND owner IS NULL AND held_at IS NOT NULL"

# What came of it

PAST = """SELECT failures, failing_since, EXISTS (SELECT 1 FROM attempts WHERE item_id = :id AND outcome = 'refused')
    FROM items WHERE id = :id"""
_ATTEMPT = "INSERT INTO attempts (item_id, number, at, took_s, outcome, status, code, request_id)"
INSERT_ATTEMPT = f"{_ATTEMPT} VALUES (:id, :attempts, :at, :took_s, :how, :status, :code, :request_id)"
_ALL_MINE = f"{IS_PENDING_UNINDEXED} AND owner = :owner AND id IN "
INSERT_ATTEMPTS = f"""{_ATTEMPT} SELECT id, attempts, :at, :took_s, :how, :status, :code, :request_id FROM items
    WHERE {_ALL_MINE}"""
_OUTCOME = """UPDATE items SET owner = NULL, state = :state, reason = :reason, reference = :reference,
    next_attempt_at = :next_attempt_at, settled_at = :settled_at, held_at = :held_at, failures = :failures,
    failing_since = :failing_since WHERE """
SETTLE, SETTLE_ALL = _OUTCOME + _MINE, _OUTCOME + _ALL_MINE
_ANEW = "body = NULL, first_sent_at = 0.0"  # it is composed anew, and may have been delivered already
COMPOSE_ANEW = f"UPDATE items SET {_ANEW} WHERE id = :id AND {IS_PENDING_UNINDEXED} AND owner IS NULL"
PUT_BACK = f"""UPDATE items SET state = '{PENDING}', {_ANEW}, settled_at = NULL, next_attempt_at = :due_at
    WHERE {IS_PARKED} AND payload <> '{EMPTY}' AND id IN """

# What people ask for, and retention

_FROM_THE_START = "failures = 0, failing_since = NULL, held_at = NULL, next_attempt_at = :clock"
RETRY = f"""UPDATE items SET state = '{PENDING}', {_ANEW}, settled_at = NULL, {_FROM_THE_START}
    WHERE {IS_PARKED} AND destination <> '' AND payload <> '{EMPTY}'"""
HURRY = f"""UPDATE items SET owner = NULL, {_FROM_THE_START}
    WHERE {IS_PENDING_UNINDEXED} AND NOT ({IS_LEASED_NOW}) AND id IN """
DISCARD = f"""UPDATE items SET state = '{DISCARDED}', payload = '{EMPTY}', body = NULL, owner = NULL,
    settled_at = :clock WHERE (state = '{PARKED}' OR {IS_PENDING_UNINDEXED} AND NOT ({IS_LEASED_NOW})) AND id IN """
OLD = f"""SELECT id FROM items WHERE {IS_PURGEABLE} AND {SETTLED_AT} < :before LIMIT {PURGED_AT_ONCE}
    FOR UPDATE SKIP LOCKED"""
PURGE = f"UPDATE items SET payload = '{EMPTY}', kind = NULL, body = NULL, key = NULL, target = NULL WHERE id IN "
FORGET_STATES = f"""DELETE FROM tickets WHERE NOT EXISTS (SELECT 1 FROM items WHERE reference = tickets.reference
    AND destination = tickets.destination AND {IS_PURGEABLE})"""
