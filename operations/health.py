"""How the service is doing: what waits, each destination's gate, the subscription in Khoros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inbox.facts import Facts
from inbox.gate import LIMITED, OPEN, OUTAGE, Gate
from inbox.inbox import Inbox
from inbox.items import Counts
from khoros.subscription import STARTING, SUBSCRIBED, SubscriptionStatus, subscription_status

GOOD, WAITING, BAD = "good", "wait", "bad"  # works, waits by itself, needs a person: the pages' colours
LEVELS = {OPEN: GOOD, SUBSCRIBED: GOOD, STARTING: WAITING, LIMITED: WAITING, OUTAGE: WAITING}


@dataclass(frozen=True)
class Health:
    """`gates` has one entry for each destination's name. `mended_at` is when a lost subscription was last made anew, 0
    for never. Times are seconds of the database's clock, `now` too."""

    counts: Counts
    gates: Mapping[str, Gate]
    subscription: SubscriptionStatus
    mended_at: float
    now: float

    @property
    def closed(self) -> dict[str, Gate]:
        """The gates that are not open."""
        return {name: gate for name, gate in self.gates.items() if gate.state != OPEN}

    @property
    def connected(self) -> bool:
        """Whether Khoros and every destination work."""
        return self.subscription.state == SUBSCRIBED and not self.closed


def current_health(inbox: Inbox, facts: Facts, destinations: Iterable[str]) -> Health:
    """The health that every process sees. Raises DatabaseUnavailable."""
    gates = {name: inbox.gate(name)[0] for name in destinations}
    mended_at = float(facts.recall("subscription_mended_at") or 0)
    return Health(inbox.counts(), gates, subscription_status(facts), mended_at, facts.now())


def public_health(health: Health | None) -> dict[str, Any]:
    """What strangers see at GET /health: states and counts. The reasons are on the status page."""
    if health is None:
        return {"status": "down", "store": "unavailable", "message": "Nothing can be stored: see the log."}
    counts, now = health.counts, health.now
    return {
        "status": "ok" if health.connected and not counts.parked else "attention",
        "store": "ok",
        "subscription": {"state": health.subscription.state},
        **{name: {"state": gate.state, "held_s": round(gate.held_for(now), 1)} for name, gate in health.gates.items()},
        "pending": counts.pending,
        "parked": counts.parked,
        "oldest_pending_s": None if counts.oldest_pending_s is None else round(counts.oldest_pending_s, 1),
    }


def level_of(state: str) -> str:
    """GOOD, WAITING or BAD, for the state of a gate or of the subscription."""
    return LEVELS.get(state, BAD)


def title(name: str) -> str:
    """A destination's name at the beginning of a sentence."""
    return name[:1].upper() + name[1:]
