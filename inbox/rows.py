"""How items, drafts and outcomes become columns of the inbox, and rows become items."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import log
from inbox.database import Row
from inbox.gate import OPEN, Gate, retry_delay_s
from inbox.items import REFUSED, Draft, Item, NewItem, Outcome, Past
from inbox.schema import DELIVERED, PARKED, PENDING

# An item that fails so often, for so long, though its destination works, is parked for a person to look at.
MOST_FAILURES, FAILING_FOR_S = 10, 3600.0


def row_of(item: NewItem) -> Row:
    """The columns of a new item, but for its times."""
    name = (item.destination, item.event_uuid, item.subject_id)
    return *name, item.source, item.request_id, item.json, PARKED if item.reason else PENDING, item.reason


def item_of(row: Row, destination: str, now: float, gate_version: int) -> Item:
    """The item in a row that is claimed now."""
    item_id, event_uuid, subject_id, source, request_id, payload, received_at, attempts, first_sent_at, *rest = row
    kind, body, key, target, latest_reference = rest
    return Item(
        id=item_id,
        destination=destination,
        event_uuid=event_uuid,
        subject_id=subject_id,
        source=source,
        request_id=request_id,
        payload=object_in(payload),
        age_s=max(0.0, now - received_at),
        attempts=attempts + 1,
        sent_s_ago=None if first_sent_at is None else now - first_sent_at,
        draft=None if body is None else Draft(kind, body.encode("ascii"), key, target),
        latest_reference=latest_reference,
        gate_version=gate_version,
    )


def object_in(text: str) -> dict[str, Any]:
    """The object in a JSON text; an empty one when there is none that can be read."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def composed(item: Item, compose: Callable[[Item], Draft]) -> Item:
    """The item with its draft; without one when it cannot be composed, so that it does not stop the others."""
    if item.draft is not None:
        return item
    try:
        return replace(item, draft=compose(item))
    except Exception as error:
        log.error("post_broken", destination=item.destination, event_uuid=item.event_uuid, error=log.where(error))
        return item


def draft_values(draft: Draft | None) -> dict[str, Any]:
    """The columns of a draft."""
    if draft is None:
        raise ValueError("an item without a draft is parked, not sent")
    return {"kind": draft.kind, "body": draft.body.decode("ascii"), "key": draft.key, "target": draft.target}


def attempt_values(outcome: Outcome, now: float) -> dict[str, Any]:
    """The columns of an attempt, but for its item and number."""
    return {
        "at": now - outcome.took_s,
        "took_s": outcome.took_s,
        "how": outcome.how[:20],
        "status": outcome.status,
        "code": outcome.code,
        "request_id": outcome.request_id,
    }


def settlement(outcome: Outcome, past: Past, gate: Gate, now: float) -> dict[str, Any]:
    """The columns of an item after an attempt that left the gate like this. An item that failed waits for the gate, or
    for some time of its own (`held_at`) when only this item fails. One that waits because all were refused alike is
    composed anew: the settings may be corrected meanwhile."""
    state, reason, due_at, held_at, failures, since = DELIVERED, outcome.reason, now, None, 0, None
    if not outcome.is_delivered:
        with_all = gate.all_alike and gate.blame == outcome.likeness
        failures, since = past.failures, past.failing_since
        of_gate = outcome.is_trouble and not outcome.item_only
        if not of_gate:
            failures, since = failures + 1, since if outcome.shared else min(now, since or now)
        if with_all or of_gate:
            state, due_at = PENDING, now if gate.state == OPEN else gate.hold_until
        elif outcome.how == REFUSED:
            state = PARKED
        else:
            state, held_at, due_at = PENDING, now, now + retry_delay_s(failures, outcome.retry_after_s)
            if since and failures >= MOST_FAILURES and now - since >= FAILING_FOR_S:
                state, reason = PARKED, _why_given_up(outcome, failures, since, gate, now)
    return {
        "state": state,
        "reason": reason,
        "reference": outcome.reference,
        "next_attempt_at": due_at,
        "settled_at": None if state == PENDING else now,
        "held_at": held_at if state == PENDING else None,
        "failures": failures,
        "failing_since": since,
        "anew": int(state == PENDING and outcome.how == REFUSED),
    }


def _why_given_up(outcome: Outcome, failures: int, since: float, gate: Gate, now: float) -> str:
    meanwhile = "it took others" if gate.delivered_at >= since else "the rest of it worked"
    how_often = f"{failures} times in {(now - since) / 60:.0f} minutes"
    return f"{(outcome.reason or '')[:380]} ({how_often}, while {meanwhile}): look at it, then send it again"
