"""How the service is doing: what waits, each destination's gate, each subscription in Khoros."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from destinations.route import WORDS
from destinations.routes import mask_emails
from events import (
    CREDENTIAL_DEAUTH,
    CREDENTIAL_DELETE,
    LABEL_APPLIED,
    MESSAGE_NEEDS_APPROVAL,
    MESSAGE_PUBLISHED,
    MESSAGE_SENT,
    RULE_APPLIED,
)
from inbox.facts import Facts
from inbox.gate import LIMITED, OPEN, OUTAGE, Gate
from inbox.inbox import Inbox
from inbox.items import Counts
from inbox.records import Records
from inbox.unrouted import UnroutedWord
from khoros.catch_up import CatchUpStatus
from khoros.subscription import STARTING, SUBSCRIBED, SubscriptionStatus
from khoros.subscriptions import Subscriptions

GOOD, WAITING, BAD = "good", "wait", "bad"  # works, waits by itself, needs a person: the pages' colours
LEVELS = {OPEN: GOOD, SUBSCRIBED: GOOD, STARTING: WAITING, LIMITED: WAITING, OUTAGE: WAITING}
KHOROS_MAY_FAIL_S = 120.0  # so long it waits by itself
NO_ROUTE = "no_route"  # instead of a gate's state
EVENT_WORDS = {
    LABEL_APPLIED: "labels",
    RULE_APPLIED: "rules",
    MESSAGE_PUBLISHED: "published messages",
    MESSAGE_SENT: "messages sent to a network",
    MESSAGE_NEEDS_APPROVAL: "messages that need approval",
    CREDENTIAL_DEAUTH: "disconnected accounts",
    CREDENTIAL_DELETE: "deleted accounts",
}
NOTHING = Counts(0, 0, None)


@dataclass(frozen=True)
class Health:
    """`gates` has an entry for each destination of ROUTES, by its name; `waiting` one for each with items that are
    pending or parked: also for one that no line names any more, and "" for what could not be read. `subscriptions` and
    `polls` are by event name. `mended_at` is when a lost subscription was last made anew, 0 for never. An item that
    waits longer than `late_s` seconds is late. `fault` says why nothing can be stored; `loses_data`: what is stored
    does not outlive a restart. Times are seconds of the database's clock, `now` too."""

    gates: Mapping[str, Gate]
    waiting: Mapping[str, Counts]
    subscriptions: Mapping[str, SubscriptionStatus]
    polls: Mapping[str, CatchUpStatus]
    mended_at: float
    late_s: float
    now: float
    fault: str = ""
    loses_data: bool = False

    @property
    def counts(self) -> Counts:
        """What is pending and parked in all."""
        every = self.waiting.values()
        ages = [one.oldest_pending_s for one in every if one.oldest_pending_s is not None]
        return Counts(sum(one.pending for one in every), sum(one.parked for one in every), max(ages, default=None))

    @property
    def abandoned(self) -> dict[str, Counts]:
        """The destinations that no line of ROUTES names any more, although items wait for them."""
        return {name: one for name, one in self.waiting.items() if name and name not in self.gates}

    @property
    def names(self) -> list[str]:
        """The destinations: those of ROUTES, and those that no line names any more."""
        return [*self.gates, *self.abandoned]

    @property
    def closed(self) -> dict[str, Gate]:
        """The gates that are not open."""
        return {name: gate for name, gate in self.gates.items() if gate.state != OPEN}

    @property
    def failing_polls(self) -> dict[str, CatchUpStatus]:
        """The events whose latest poll has failed."""
        return {name: poll for name, poll in self.polls.items() if poll.failed}

    @property
    def late(self) -> dict[str, Counts]:
        """The destinations for which an item waits too long."""
        return {name: one for name, one in self.waiting.items() if (one.oldest_pending_s or 0.0) > self.late_s}

    @property
    def well(self) -> bool:
        """Whether Khoros and every destination work, nothing needs a person, and nothing waits too long."""
        subscribed = all(one.state == SUBSCRIBED for one in self.subscriptions.values())
        works = subscribed and not (self.fault or self.loses_data or self.closed or self.failing_polls)
        return works and not (self.counts.parked or self.abandoned or self.late)

    @property
    def working(self) -> list[str]:
        """The subscriptions and destinations that have no trouble."""
        khoros = [name for name in self.subscriptions if self.khoros_level(name) == GOOD]
        troubled = {*self.closed, *self.late, *(name for name, one in self.waiting.items() if one.parked)}
        return khoros + [name for name in self.gates if name not in troubled]

    def khoros_level(self, event_name: str) -> str:
        """The colour of a subscription and of its polls. Where Khoros only does not answer, it waits by itself at
        first."""
        one, poll = self.subscriptions[event_name], self.failing_polls.get(event_name)
        level, since = level_of(one.state), one.failing_since
        if level == GOOD and poll:
            level, since = BAD, 0.0 if poll.refused else poll.failing_since
        return WAITING if level == BAD and 0 <= self.now - since <= KHOROS_MAY_FAIL_S else level

    def of(self, name: str) -> Counts:
        """What is pending and parked for one destination."""
        return self.waiting.get(name, NOTHING)


def current_health(
    inbox: Inbox, facts: Facts, records: Records, subscriptions: Subscriptions, names: Iterable[str], late_s: float
) -> Health:
    """The health that every process sees. `names` are the destinations of ROUTES. Raises DatabaseUnavailable."""
    return Health(
        gates={name: inbox.gate(name)[0] for name in names},
        waiting=records.waiting(),
        subscriptions=subscriptions.statuses(),
        polls=subscriptions.polls(),
        mended_at=float(facts.recall("subscription_mended_at") or 0),
        late_s=late_s,
        now=inbox.now(),
    )


def public_health(health: Health | None) -> dict[str, Any]:
    """What strangers see at GET /health: states and counts. The reasons are on the status page."""
    if health is None:
        return {"status": "down", "store": "unavailable", "message": "Nothing can be stored: see the log."}
    counts, states = health.counts, [one.state for one in health.subscriptions.values()]
    return {
        "status": "down" if health.fault else "ok" if health.well else "attention",
        "store": "unavailable" if health.fault else "ok",
        "subscription": {"state": max(states, key=_severity, default=SUBSCRIBED)},
        "subscriptions": {name: _public_subscription(health, name) for name in health.subscriptions},
        **{mask_emails(name, health.names): _public_destination(health, name) for name in health.names},
        "pending": counts.pending,
        "parked": counts.parked,
        "oldest_pending_s": _rounded(counts.oldest_pending_s),
    }


def _severity(state: str) -> int:
    return (GOOD, WAITING, BAD).index(level_of(state))


def _public_subscription(health: Health, name: str) -> dict[str, Any]:
    return {
        "state": health.subscriptions[name].state,
        "polling": "failing" if name in health.failing_polls else "ok",
    }


def _public_destination(health: Health, name: str) -> dict[str, Any]:
    gate, counts = health.gates.get(name, Gate(NO_ROUTE)), health.of(name)
    return {
        "state": gate.state,
        "held_s": round(gate.held_for(health.now), 1),
        "pending": counts.pending,
        "parked": counts.parked,
        "oldest_pending_s": _rounded(counts.oldest_pending_s),
    }


def event_words(event_name: str) -> str:
    """What a subscription brings, for people."""
    return EVENT_WORDS.get(event_name, event_name)


def unrouted_words(unrouted: UnroutedWord) -> str:
    """Label Billling: 3 events matched no line."""
    word = next((word for word, names in WORDS.items() if unrouted.event_name in names), unrouted.event_name)
    count = f"{unrouted.count:,} event{'' if unrouted.count == 1 else 's'}"
    return f"{word.replace('-', ' ').capitalize()} {unrouted.word}: {count} matched no line"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def level_of(state: str) -> str:
    """GOOD, WAITING or BAD, for the state of a gate or of a subscription."""
    return LEVELS.get(state, BAD)


def title(name: str) -> str:
    """A destination's name at the beginning of a sentence: Zendesk, Slack #crisis."""
    kind, _, rest = name.partition(":")
    return f"{kind.title()} {rest}".strip()


def count_posts(count: int, verb: str = "need") -> str:
    """The number of posts with its verb: 1 post needs, 1,234 posts need."""
    return f"1 post {verb}s" if count == 1 else f"{count:,} posts {verb}"
