"""What the delivery does with the inbox, for Zendesk unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from conftest import compose

from inbox.gate import OUTAGE, Gate
from inbox.inbox import Inbox
from inbox.items import REFUSED, Draft, Item, Outcome, Settled

LEASE_S = 15.0


def claim(
    inbox: Inbox,
    free: int = 8,
    destination: str = "zendesk",
    compose: Callable[[Item], Draft] = compose,
    under_way: Collection[int] = (),
) -> list[Item]:
    """The items that may be sent now."""
    return inbox.claim(destination, free, LEASE_S, compose, under_way).items


def claimed(inbox: Inbox, free: int = 8, **more: Any) -> list[str]:
    """The events of the items that may be sent now."""
    return [item.event_uuid for item in claim(inbox, free, **more)]


def settle(inbox: Inbox, item: Item, how: str = "ticket_created", **more: Any) -> Settled:
    """Records an attempt that took half a second. What is delivered gets a reference, unless the test gives one."""
    if how == "ticket_created":
        more.setdefault("reference", str(1000 + item.id))
    return inbox.settle([(item, Outcome(how, 0.5, **more))])[0]


def refuse(inbox: Inbox, item: Item) -> Settled:
    """Has the item parked."""
    return settle(inbox, item, REFUSED, reason="refused")


def move_gate(inbox: Inbox, how: str = OUTAGE, destination: str = "zendesk", **more: Any) -> tuple[Gate, Gate]:
    """Moves the gate by the outcome of a check; returns it before and after."""
    return inbox.end_check(destination, inbox.gate(destination)[0], Outcome(how, 0.1, **more))
