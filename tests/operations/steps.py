"""Steps that several tests of the operations take, by the inbox's own methods."""

from __future__ import annotations

from typing import Any

from conftest import compose, new_item

from inbox.inbox import Inbox
from inbox.items import REFUSED, Item, Outcome


def claim(inbox: Inbox, lease_s: float = 60.0) -> Item:
    """The one item that is due."""
    [item] = inbox.claim("zendesk", 1, lease_s, compose).items
    return item


def settle(inbox: Inbox, how: str, **answer: Any) -> int:
    """Makes one attempt at the item that is due, with this outcome; returns the item's id."""
    item = claim(inbox)
    inbox.settle([(item, Outcome(how, 0.1, **answer))])[0]
    return item.id


def park(inbox: Inbox, event: str = "e1", post: str = "twitter:1", reason: str = "Zendesk answered 422") -> int:
    """An item that Zendesk refused; returns its id."""
    inbox.accept([new_item(event, post)])
    return settle(inbox, REFUSED, reason=reason, status=422)


def deliver(inbox: Inbox, event: str = "e1", post: str = "twitter:1", reference: str = "1001") -> int:
    """An item that became a ticket; returns its id."""
    inbox.accept([new_item(event, post)])
    return settle(inbox, "ticket_created", reference=reference, status=201)


def move_gate(inbox: Inbox, how: str, reason: str = "", **answer: Any) -> None:
    """Moves the gate as an answer of this kind does: a state of the gate closes it, a delivery opens it."""
    inbox.end_check("zendesk", inbox.gate("zendesk")[0], Outcome(how, 0.1, reason=reason or None, **answer))
