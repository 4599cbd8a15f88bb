"""How items, drafts and outcomes become columns of the inbox, and rows become items."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import log
from inbox.database import Row
from inbox.gate import OPEN, Gate, retry_delay_s
from inbox.items import REFUSED, Draft, Item, NewItem, Outcome
from inbox.schema import DELIVERED, PARKED, PENDING


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
        log.error("post_broken", event_uuid=item.event_uuid, error=log.where(error))
        return item


def draft_values(draft: Draft | None) -> dict[str, Any]:
    """The columns of a draft."""
    if draft is None:
        raise ValueError("an item without a draft is parked, not sent")
    return {"kind": draft.kind, "body": draft.body.decode("ascii"), "key": draft.key, "target": draft.target}


def settlement(outcome: Outcome, attempts: int, gate: Gate, now: float) -> dict[str, Any]:
    """The columns of an item after an attempt. A failed one is due again when the gate opens."""
    state = PENDING if outcome.is_trouble else PARKED if outcome.how == REFUSED else DELIVERED
    due_at = now + retry_delay_s(attempts) if gate.state == OPEN else gate.hold_until
    return {
        "state": state,
        "reason": outcome.reason and outcome.reason[:500],
        "reference": outcome.reference,
        "next_attempt_at": due_at if state == PENDING else now,
        "settled_at": None if state == PENDING else now,
    }
