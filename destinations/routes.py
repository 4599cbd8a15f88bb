"""All routes of the service: the lines of ROUTES, and the label that makes a ticket."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from config import Reader
from destinations.filters import Filter, query_for, unquoted, visible
from destinations.route import Route, read_line, split_lines
from events import LABEL_APPLIED, Event, Subject, as_object, read_names

ROUTES_VARIABLES = {
    "SPREDFAST_LABEL_NAME": "the label that makes a ticket, as the inbox shows it, like CreateCase; not needed "
    "when ROUTES is set",
    "ROUTES": "lines like: label VIP -> slack #social-crisis; docs/routes.md explains them",
}


@dataclass(frozen=True)
class Routes:
    """The routes in the order in which they count."""

    routes: tuple[Route, ...] = ()

    @classmethod
    def read(cls, read: Reader) -> Routes:
        """The routes in the environment: ROUTES, then SPREDFAST_LABEL_NAME. `read` keeps the faults; one names every
        faulty line."""
        routes, faults = [], []
        for number, line in split_lines(read("ROUTES", lambda value: unquoted(visible(value).strip()), "")):
            try:
                routes.append(read_line(line, number))
            except ValueError as fault:
                faults.append(f"\n    line {number} {fault}")
        if faults:
            read.add_fault("ROUTES", f"has faulty lines:{''.join(faults)}\n   ")
        label = read("SPREDFAST_LABEL_NAME", Filter.read, required=not routes and not faults)
        return cls((*routes, *([Route("label", label, "zendesk")] if label else [])))

    def matches(self, event: Event) -> dict[str, tuple[str, ...]]:
        """The destinations of the event, each with the labels, the rule or the service that it goes there for."""
        matches: dict[str, tuple[str, ...]] = {}
        for route, words in self._matching(event):
            matches[route.destination] = tuple(dict.fromkeys([*matches.get(route.destination, ()), *words]))
        return matches

    def fields_for(self, subject: Subject) -> Mapping[str, Any]:
        """The JSON of the first line that leads this post to Zendesk."""
        labels = tuple(dict.fromkeys(subject.matched + subject.labels)) if subject.labels else ()
        date, rule = subject.created_date, subject.rule
        event = Event(subject.event_name, "", None, date, labels, rule, service="", subjects=(subject.raw,))
        return next((route.fields for route, _ in self._matching(event) if route.kind == "zendesk"), {})

    @property
    def queries(self) -> dict[str, str]:
        """The query for each event that some route wants, by the event's name. "" leaves the query out: Khoros
        publishes for labels only what it compares the query with."""
        labels = [route.filter for route in self.routes if LABEL_APPLIED in route.event_names and route.filter]
        names = dict.fromkeys(name for route in self.routes for name in route.event_names)
        return {name: query_for(labels) if name == LABEL_APPLIED else "" for name in names}

    @property
    def destinations(self) -> dict[str, Route]:
        """The first route to each destination, by the destination's name."""
        return {name: self._first(name) for name in dict.fromkeys(route.destination for route in self.routes)}

    def route_words(self, *, public: bool = False) -> list[str]:
        """The routes for people, each once. In public, e-mail addresses are masked."""
        words = dict.fromkeys(route.words for route in self.routes)
        return [mask_emails(one) if public else one for one in words]

    def _first(self, destination: str) -> Route:
        return next(route for route in self.routes if route.destination == destination)

    def _matching(self, event: Event) -> list[tuple[Route, tuple[str, ...]]]:
        """The routes of the event, each with its words.

        Khoros may leave the labels out of a label event. Then the labels that all its posts have count. When no route
        names one of these either, the event goes to every label's destination: Khoros has asked our query, so one of
        the labels is ours, and a message too many is better than a post that nobody sees.
        """
        labels = event.labels
        if event.name == LABEL_APPLIED and not labels:
            labels = _labels_of_all(event.subjects)
        matching = [(route, words) for route in self.routes if (words := route.matched(event, labels)) is not None]
        if matching or event.labels or event.name != LABEL_APPLIED:
            return matching
        return [(route, route.plain_name) for route in self.routes if LABEL_APPLIED in route.event_names]


def mask_emails(text: str) -> str:
    """The text with only the first letter and the domain of each e-mail address: a…@acme.example."""
    return re.sub(r"([^\s@:])[^\s@:]*@", r"\1…@", text)


def _labels_of_all(posts: tuple[object, ...]) -> tuple[str, ...]:
    """The labels that each of these raw posts has."""
    labels = [read_names(as_object(post).get("labels")) for post in posts]
    return tuple(label for label in labels[0] if all(label in others for others in labels)) if labels else ()
