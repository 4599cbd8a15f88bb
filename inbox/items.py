"""What goes through the inbox: an item from its arrival to its settlement, as plain data."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inbox.gate import LIMITED, OUTAGE, UNAUTHORISED, Gate

REFUSED = "refused"
TROUBLES = (OUTAGE, LIMITED, UNAUTHORISED)


@dataclass(frozen=True)
class NewItem:
    """One subject of one event for one destination. A `reason` parks it at once, for a person to look at. Raises
    RecursionError when the payload is nested too deeply to be kept."""

    destination: str
    event_uuid: str
    subject_id: str
    payload: Mapping[str, Any]
    source: str = "push"
    request_id: str | None = None
    reason: str | None = None
    json: str = field(init=False)  # the payload as it is kept

    def __post_init__(self) -> None:
        object.__setattr__(self, "json", json_module.dumps(self.payload))


@dataclass(frozen=True)
class Draft:
    """What is sent, and sent again byte for byte. `kind` and `target` are the destination's own words for what is done
    and to what; `key` is its idempotency key."""

    kind: str
    body: bytes
    key: str = ""
    target: str | None = None


@dataclass(frozen=True)
class Item:
    """A claimed row. `sent_s_ago` is the age of the first send in seconds, None on the first attempt."""

    id: int
    destination: str
    event_uuid: str
    subject_id: str
    source: str
    request_id: str | None
    payload: Mapping[str, Any]
    age_s: float
    attempts: int
    sent_s_ago: float | None
    draft: Draft | None
    latest_reference: str | None  # the newest that the destination has made of this subject
    gate_version: int


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt. `how` is the destination's word for a delivery, "refused", or a state of the gate.

    `took_s` is in seconds; `status`, `code` and `request_id` are those of the answer; `calls_left` and `reset_s` say
    what is left of the account's rate limit. What the answer does not say is None.
    """

    how: str
    took_s: float
    reference: str | None = None
    reason: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    calls_left: int | None = None
    reset_s: float = 0.0

    @property
    def is_trouble(self) -> bool:
        """Whether the destination, not the item, is the reason."""
        return self.how in TROUBLES


@dataclass(frozen=True)
class Claim:
    """Items to send now; the gate they leave through, and for how many seconds it is closed when there are none."""

    items: list[Item]
    gate: Gate
    held_s: float


@dataclass(frozen=True)
class Settled:
    """Whether the item was still ours to settle, and the gate before and after."""

    ours: bool
    before: Gate
    after: Gate


@dataclass(frozen=True)
class Counts:
    """How much is pending and parked; the age in seconds of the oldest pending item, None when there is none."""

    pending: int
    parked: int
    oldest_pending_s: float | None
