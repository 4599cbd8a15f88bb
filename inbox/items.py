"""What goes through the inbox: an item from its arrival to its settlement, as plain data."""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inbox.gate import LIMITED, OUTAGE, UNAUTHORISED, Gate

REFUSED = "refused"
TROUBLES = (OUTAGE, LIMITED, UNAUTHORISED)


def storable(text: str | None, most: int) -> str | None:
    """The text as every database takes it: no control characters, no halves of emoji, and not too long."""
    return text and "".join(char if char.isprintable() else " " for char in text[:most])


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
    what is left of the account's rate limit. What the answer does not say is None. `item_only`: the destination works,
    only this item fails; `of_all` is the reason when it turns out that all fail so. `shared`: the attempt was one call
    for several items, and proves nothing about each of them.
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
    item_only: bool = False
    of_all: str | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        for name, most in (("reason", 500), ("of_all", 500), ("code", 500), ("request_id", 255), ("reference", 255)):
            object.__setattr__(self, name, storable(getattr(self, name), most))

    @property
    def is_trouble(self) -> bool:
        """Whether it was neither delivered nor refused: it is sent again."""
        return self.how in TROUBLES

    @property
    def is_delivered(self) -> bool:
        """Whether the destination took the item."""
        return self.how != REFUSED and not self.is_trouble

    @property
    def likeness(self) -> str:
        """The same text for failures of one kind: words with a digit are references and differ each time."""
        code = re.sub(r"[\w-]*\d[\w-]*", "#", self.code or "")
        return f"{self.how} {self.status or ''} {code}".strip()[:200]


@dataclass(frozen=True)
class Past:
    """What an item went through before an attempt: how often it failed though its destination worked, since when it
    did so alone, and whether it was refused."""

    failures: int = 0
    failing_since: float | None = None
    refused: bool = False


@dataclass(frozen=True)
class Claim:
    """Items to send now, each alone or all `together` in one call; the gate they leave through; and when there are
    none, for how many seconds nothing may leave."""

    items: list[Item]
    gate: Gate
    held_s: float
    together: bool = False


@dataclass(frozen=True)
class Settled:
    """Whether the item was still ours to settle, its state and reason, the gate before and after, and how many parked
    items became pending again because the gate closed."""

    ours: bool
    state: str
    reason: str | None
    before: Gate
    after: Gate
    put_back: int = 0


@dataclass(frozen=True)
class Counts:
    """How much is pending and parked; the age in seconds of the oldest pending item, None when there is none."""

    pending: int
    parked: int
    oldest_pending_s: float | None
