"""A destination is a place that items are sent to, with its own words, credentials, limits, gate and loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from inbox.items import Draft, Item
from outbound import Quota


class LeaseLost(Exception):
    """Another process has taken the item over: this one sends nothing more for it."""


@dataclass(frozen=True)
class Sent:
    """The log's word for a delivery, its reference, and details of the answer. `reference` is the destination's own
    name for what was made (a ticket's number)."""

    how: str
    reference: str
    status: int | None = None
    request_id: str | None = None
    quota: Quota | None = None


@dataclass(frozen=True)
class Digest:
    """One message for many items. When more than `above` are due they are claimed together, the oldest first, and
    `send` tells of all of them in one attempt: its success or failure is that of each. It raises what
    Destination.send raises."""

    above: int
    send: Callable[[Sequence[Item]], Sent]


class Destination(Protocol):
    """The Zendesk account, one Slack channel, one web address … A class inherits from this one to get the defaults.

    `name` is in its rows, its gate and its log lines and holds nothing secret; `title` is what people call it, at the
    beginning of a sentence ("Slack #crisis"). `parallel` is how many items are under way at once in each process;
    `noun` is what a reference names. `notice` is a warning about its settings, or "". `pace_s` is the least number of
    seconds from the answer to one call to the next call, of all processes together; `digest` is how many items become
    one message.
    """

    name: str
    title: str
    parallel: int
    noun: str
    notice: str = ""
    pace_s: float = 0.0
    digest: Digest | None = None

    def compose(self, item: Item) -> Draft:
        """What the item sends. Pure: it is stored before the first send and sent again byte for byte."""

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Makes one attempt. `refreeze` stores another draft, renews the lease and returns the item with it.

        Raises Unavailable, Limited, Rejected or AuthFailed (outbound.py), and LeaseLost, which `refreeze` raises. Any
        other exception is recorded as a failed attempt of this item.
        """

    def check(self) -> str:
        """Proves the credentials, changes nothing, and says what it found. Raises what `send` raises. It also proves
        whom a failure is about: it is called after an item was refused, and must fail when everything would be."""

    def link(self, reference: str) -> str | None:
        """The address under which people see what `reference` names; None when it has none."""
        return None
