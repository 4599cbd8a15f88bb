"""All routes of the service: the lines of ROUTES, and the label that makes a ticket."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from config import Reader
from destinations.filters import Filter, query_for, unquoted, visible
from destinations.route import Route, first_words, read_line, split_lines, unit
from events import LABEL_APPLIED, Event, Subject, as_object, read_names

ROUTES_VARIABLES = {
    "SPREDFAST_LABEL_NAME": "The label that makes a ticket, as the inbox shows it, like CreateCase; not needed "
    "when ROUTES is set",
    "ROUTES": "Lines like: label VIP -> slack #social-crisis; docs/routes.md explains them",
}
_EMAIL = re.compile(r"[^\s:]*[^\s:@]@[^\s:@]*")


@dataclass(frozen=True)
class Routes:
    """The routes in the order in which they count."""

    routes: tuple[Route, ...] = ()

    @classmethod
    def read(cls, read: Reader) -> Routes:
        """The routes in the environment: ROUTES, then SPREDFAST_LABEL_NAME. `read` keeps the faults; one names every
        faulty line."""
        routes, faults = [], []
        text = read("ROUTES", lambda value: unquoted(visible(value).strip()), "")
        noun = unit(text)
        for number, line in split_lines(text):
            try:
                routes.append(read_line(line, number))
            except ValueError as fault:
                faults.append(f"\n    {noun} {number}{first_words(line)} {fault}")
        if faults:
            read.add_fault("ROUTES", f"has faulty lines{''.join(faults)}")
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
        labels = subject.matched + subject.labels
        event = Event(subject.event_name, "", None, subject.created_date, labels, subject.rule, service="", subjects=())
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
        first: dict[str, Route] = {}
        for route in self.routes:
            first.setdefault(route.destination, route)
        return first

    def route_words(self) -> list[str]:
        """The routes for people, each once."""
        return list(dict.fromkeys(route.words for route in self.routes))

    def _matching(self, event: Event) -> list[tuple[Route, tuple[str, ...]]]:
        """The routes of the event, each with its words.

        Khoros may leave the labels out of a label event. Then the labels that all its posts have count. When no route
        names one of these either, the event goes to every label's destination: Khoros has asked our query, so one of
        the labels is ours, and a message too many is better than a post that nobody sees. Nobody knows which one it is,
        unless the routes name only one: no words and no line's JSON.
        """
        labels = event.labels
        if event.name == LABEL_APPLIED and not labels:
            labels = _labels_of_all(event.subjects)
        matching = [(route, words) for route in self.routes if (words := route.matched(event, labels)) is not None]
        if matching or event.labels or event.name != LABEL_APPLIED:
            return matching
        wanted = [route for route in self.routes if LABEL_APPLIED in route.event_names]
        filters = {route.filter for route in wanted}
        if len(filters) > 1:
            return [(replace(route, filter=None, fields={}), ()) for route in wanted]
        names = tuple(one.text for one in filters if one and one.pattern is None)
        return [(route, names) for route in wanted]


def mask_emails(text: str, among: Iterable[str] = ()) -> str:
    """The text with only the first letter and the domain of each e-mail address: a…@acme.example. A short hash is
    added when another address among these names would look the same."""
    others = {address for name in among for address in _EMAIL.findall(name)}

    def mask(found: re.Match[str]) -> str:
        alike = {found[0], *(other for other in others if _masked(other) == _masked(found[0]))}
        short_hash = f"/{hashlib.sha256(found[0].encode()).hexdigest()[:8]}" if len(alike) > 1 else ""
        return _masked(found[0]) + short_hash

    return _EMAIL.sub(mask, text)


def _masked(address: str) -> str:
    return f"{address[0]}…@{address.rpartition('@')[2]}"


def _labels_of_all(posts: tuple[object, ...]) -> tuple[str, ...]:
    """The labels that each of these raw posts has."""
    labels = [read_names(as_object(post).get("labels")) for post in posts]
    return tuple(label for label in labels[0] if all(label in others for others in labels)) if labels else ()
