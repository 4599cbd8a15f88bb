"""How the service is doing, at one glance: what waits, the gate in front of Zendesk, the subscription in Khoros."""

from __future__ import annotations

from dataclasses import dataclass

from gate import OPEN, Gate
from inbox import Counts, Inbox
from subscription import SUBSCRIBED, Connection, connection


@dataclass(frozen=True)
class Standing:
    """`held_s` is for how many seconds the gate stays closed, `now` the store's time."""

    counts: Counts
    gate: Gate
    held_s: float
    connection: Connection
    mended_at: float  # when the subscription was last found lost and made anew; 0: never
    now: float

    @property
    def connected(self) -> bool:
        """Whether Khoros and Zendesk are both there."""
        return self.gate.state == OPEN and self.connection.state == SUBSCRIBED

    @property
    def calls_left(self) -> int | None:
        """What Zendesk said is left of the account's calls in this window; None when that is over."""
        return self.gate.calls_left if self.gate.window_ends_at > self.now else None


def standing(inbox: Inbox) -> Standing:
    """How things stand for every process. Raises StoreUnavailable."""
    gate, held_s = inbox.gate()
    mended_at = float(inbox.recall("subscription_mended_at") or 0)
    return Standing(inbox.counts(), gate, held_s, connection(inbox), mended_at, inbox.now())
