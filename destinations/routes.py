"""Which events go to which destination."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from events import LABEL_APPLIED, Event


@dataclass(frozen=True)
class Route:
    """Sends the posts that get a label to a destination."""

    label: re.Pattern[str]
    destination: str

    def matches(self, event: Event) -> bool:
        """Whether the event goes this way. One without labels does: Khoros has applied our query to it."""
        return event.name == LABEL_APPLIED and (not event.labels or any(map(self.label.fullmatch, event.labels)))


class Routes:
    """All routes of the service."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    def names_for(self, event: Event) -> tuple[str, ...]:
        """The names of the destinations that the event goes to, each once."""
        return tuple(dict.fromkeys(route.destination for route in self._routes if route.matches(event)))
