"""When each fault of the chaos happens: the seed alone decides it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

KILL_EVERY_S = (2.0, 20.0)
FAULT_EVERY_S = (1.0, 6.0)  # of Zendesk, and of the receiver
SLACK_FAULT_EVERY_S = (1.0, 6.0)  # a channel gets a call a second
DATABASE_EVERY_S = (30.0, 50.0)
FREEZE_EVERY_S = (20.0, 40.0)
BUSY_EVERY_S = (15.0, 30.0)
BUSY_S = 6.0
BUSY_PER_S = 0.2  # messages that a channel takes meanwhile
KILL, FREEZE, RESTART, BUSY = "kill", "freeze", "restart the database", "busy"
OF_RELAYS = (KILL, FREEZE, RESTART)


@dataclass(frozen=True)
class Event:
    """One fault, and its time in seconds after the start. `service` is whose fault it is, "" for the relay's own."""

    at_s: float
    what: str
    options: dict[str, Any] = field(default_factory=dict)
    service: str = ""

    @property
    def name(self) -> str:
        return f"{self.service} {self.options.get('status') or self.options.get('error') or self.what}".strip()

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.at_s:7.2f} s  {self.service:8} {self.what} {options}"


def schedule(seed: int, seconds: float, nodes: int) -> list[Event]:
    """All faults in the order of their times. The same seed gives the same schedule."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    events = [Event(at, KILL, {"node": chance.randrange(nodes)}) for at in _times(chance, KILL_EVERY_S, seconds)]
    events += [_of_zendesk(chance, at) for at in _times(chance, FAULT_EVERY_S, seconds)]
    events += [_of_slack(chance, at) for at in _times(chance, SLACK_FAULT_EVERY_S, seconds)]
    events += [_of_webhook(chance, at) for at in _times(chance, FAULT_EVERY_S, seconds)]
    events += [Event(at, BUSY, service="slack") for at in _times(chance, BUSY_EVERY_S, seconds)]
    if nodes > 1:
        events += [Event(at, RESTART) for at in _times(chance, DATABASE_EVERY_S, seconds)]
    else:  # of two relays, the other one would take the items over, and Zendesk has no idempotency keys for notes
        events += [Event(at, FREEZE) for at in _times(chance, FREEZE_EVERY_S, seconds)]
    return sorted(events, key=lambda event: event.at_s)


def _times(chance: random.Random, every_s: tuple[float, float], seconds: float) -> Iterator[float]:
    at = chance.uniform(*every_s)
    while at < seconds:
        yield at
        at += chance.uniform(*every_s)


def _of_zendesk(chance: random.Random, at: float) -> Event:
    count, effect = _some(chance)
    options: list[tuple[str, dict[str, Any]]] = [
        *_of_any(chance, count, effect),
        ("fail", {"next_n": count, "status": 500, "effect": effect}),
        ("fail", {"next_n": count, "status": 429, "retry_after": chance.randint(1, 3)}),
        ("fail", {"next_n": 1, "status": 409, "effect": effect}),
        ("html", {"next_n": count}),
        ("expire the tokens", {}),
    ]
    return Event(at, *chance.choice(options), service="zendesk")


def _of_slack(chance: random.Random, at: float) -> Event:
    count, effect = _some(chance)
    options: list[tuple[str, dict[str, Any]]] = [
        *_of_any(chance, count, effect),
        ("refuse", {"next_n": count, "error": "internal_error", "effect": effect}),
        ("refuse", {"next_n": count, "error": "ratelimited"}),
        ("refuse", {"next_n": 1, "error": "not_in_channel"}),
        ("html", {"next_n": count}),
    ]
    return Event(at, *chance.choice(options), service="slack")


def _of_webhook(chance: random.Random, at: float) -> Event:
    count, effect = _some(chance)
    options: list[tuple[str, dict[str, Any]]] = [
        *_of_any(chance, count, effect),
        ("fail", {"next_n": count, "status": 503, "retry_after": chance.randint(1, 3), "effect": effect}),
        ("fail", {"next_n": count, "status": 429, "retry_after": chance.randint(1, 3)}),
    ]
    return Event(at, *chance.choice(options), service="webhook")


def _some(chance: random.Random) -> tuple[int, bool]:
    """How many calls meet a fault, and whether the service does the work first. Each failure in a row doubles the wait
    after it."""
    return chance.randint(1, 3), chance.random() < 0.5


def _of_any(chance: random.Random, count: int, effect: bool) -> list[tuple[str, dict[str, Any]]]:
    seconds = chance.choice([3, 8, 20])
    return [
        ("reset", {"next_n": count, "effect": effect}),
        ("hang", {"next_n": chance.randint(1, 2), "seconds": seconds, "effect": effect}),
        ("fail", {"next_n": count, "status": 503, "effect": effect}),
    ]
