"""What the demo's page knows of the relay: its answer to GET /health, and what is in its database."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import requests

from sandbox.relay import Relay
from sandbox.sentences import BAD, CLOSED, GOOD, PLAIN, WAIT, sentence_case, title_of
from sandbox.steps import posts

ASK_EVERY_S = 0.25  # at most, also when many windows are open
COUNTS = """SELECT COUNT(DISTINCT CASE state WHEN 'pending' THEN subject_id END), COALESCE(SUM(state = 'delivered'), 0),
    COALESCE(SUM(state = 'parked'), 0) FROM items"""


class Counts(NamedTuple):
    """Posts that wait, deliveries, and deliveries that need attention: in the database, whether the relay runs or
    not."""

    waiting: int = 0
    delivered: int = 0
    parked: int = 0


@dataclass(frozen=True)
class Place:
    """A destination in the answer of the relay's GET /health. `name` is zendesk, slack:#social-care, webhook:…"""

    name: str
    state: str
    held_s: float = 0.0
    pending: int = 0

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Health:
    """How the relay is. `answers`: it runs and answers GET /health; `subscribed`: Khoros calls it."""

    running: bool
    answers: bool = False
    subscribed: bool = False
    places: tuple[Place, ...] = ()
    counts: Counts = Counts()

    @property
    def closed(self) -> list[Place]:
        """The destinations that take nothing now."""
        return [place for place in self.places if place.state in CLOSED]

    def of(self, kind: str) -> tuple[int, str]:
        """How much waits for the destinations of a kind, and the colour that tells whether one of them is closed."""
        tones = {CLOSED[one.state][0] for one in self.closed if one.kind == kind}
        waiting = sum(one.pending for one in self.places if one.kind == kind)
        return waiting, BAD if BAD in tones else WAIT if waiting or tones else PLAIN


class Watch:
    """Asks the relay how it is, at most every ASK_EVERY_S."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._asked_at, self._health = -ASK_EVERY_S, Health(running=False)
        self._asking = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False

    def health(self, *, fresh: bool = False) -> Health:
        with self._asking:
            if fresh or time.monotonic() - self._asked_at > ASK_EVERY_S:
                self._health = replace(self._ask(), counts=self._count())
                self._asked_at = time.monotonic()
            return self._health

    def close(self) -> None:
        self._session.close()

    def _ask(self) -> Health:
        if not self._relay.running:
            return Health(running=False)
        try:
            said = self._session.get(f"{self._relay.url}/health", timeout=2).json()
            rows = [(name, row) for name, row in said.items() if isinstance(row, dict) and "held_s" in row]
            return Health(
                running=True,
                answers=True,
                subscribed=said["subscription"]["state"] == "subscribed",
                places=tuple(Place(name, row["state"], row["held_s"], row["pending"]) for name, row in rows),
            )
        except (requests.RequestException, ValueError, KeyError):
            return Health(running=True)

    def _count(self) -> Counts:
        """What is in the database; when it cannot be read, what was there last."""
        path = Path(self._relay.env.get("DATABASE_URL", "").removeprefix("sqlite:///"))
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2)) as database:
                return Counts(*database.execute(COUNTS).fetchone())
        except (sqlite3.Error, ValueError):
            return self._health.counts


def story(health: Health, killed: bool, healthy: set[str], label: str) -> tuple[str, str]:
    """One word for the colour of the page's first sentence, and the sentence. `healthy` are the kinds of destinations
    that nobody breaks now."""
    waiting = health.counts.waiting
    if not health.running:
        said = "The relay is dead." if killed else "The relay has stopped."
        safe = f"{sentence_case(posts(waiting))} safe in its database." if waiting else "Khoros cannot reach it."
        return BAD, f"{said} {safe} When it runs again, it fetches what it missed."
    if not health.answers or not health.subscribed:
        return WAIT, "The relay is starting. It reads its database and fetches what it missed."
    if health.closed:
        place = next((place for place in health.closed if place.kind not in healthy), health.closed[0])
        title = sentence_case(title_of(place.name))
        if place.kind in healthy:
            return WAIT, f"{title} works again. The relay notices it at its next try, then all posts follow."
        tone, said = CLOSED[place.state]
        return tone, said.format(title)
    if any(place.pending for place in health.places):
        places = [title_of(place.name) for place in health.places if place.pending]
        return WAIT, f"On their way to {' and '.join(places)}."
    if health.counts.parked:
        return BAD, "A post was refused. It needs attention: the status page shows the reason and can send it again."
    if health.counts.delivered:
        return GOOD, "All well. Everything has arrived."
    return GOOD, f"All well. Give a post the label {label}: it becomes a ticket and a line in Slack."
