"""Turns what Khoros sends into items for the destinations, and what is unreadable into one that needs a person."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import log
from events import Event, Rule, Subject, Unreadable, subject_id
from inbox.items import NewItem
from khoros.body import TOO_DEEP, parse_body

LABELS_LIMIT, LABEL_LIMIT = 20, 255  # labels, and characters of each, that are kept with every subject
LEVELS_LIMIT = 100  # that are kept of what is nested too deeply

Matches = Callable[[Event], Mapping[str, Sequence[str]]]  # destinations, and the labels or the rule that each asks for


@dataclass(frozen=True)
class Reading:
    """The items of an event, or the reason why there are none. `unrouted` are the words that no route names, each with
    the event's name."""

    source: str
    request_id: str | None
    event_uuid: str | None = None
    items: tuple[NewItem, ...] = ()
    unreadable: str | None = None
    ignored_because: str | None = None
    ignored: int = 0
    unrouted: tuple[tuple[str, str], ...] = ()


def read_body(
    body: bytes, content_type: str, company_id: int, matches: Matches, request_id: str | None
) -> list[Reading]:
    """Reads an unpacked notification event by event; there are none in an empty one. What is not readable of it comes
    last, in one piece."""
    parsed, source = parse_body(body, content_type), "push"
    readings, unreadable, reason = [], [], parsed.fault
    for raw in parsed.raws:
        try:
            readings.append(read_event(raw, company_id, matches, source, request_id))
        except Unreadable as error:
            unreadable.append(raw)
            reason = reason or str(error)
    if reason:
        rest = parsed.text or (unreadable if len(unreadable) > 1 else unreadable[0])
        readings.append(keep_unreadable(rest, reason, source, request_id))
    return readings


def read_event(raw: object, company_id: int, matches: Matches, source: str, request_id: str | None) -> Reading:
    """Reads an event. Raises Unreadable also for a fault of our own: its sender may never send it again."""
    try:
        event = Event.parse(raw)
        ours = event.company_id in (None, company_id)
        if ours and (names := matches(event)):
            return Reading(source, request_id, event.uuid, _items(event, names, source, request_id))
        because, words = ("no route wants it", _unrouted_words(event)) if ours else ("another company's", ())
    except Unreadable:
        raise
    except Exception as error:
        log.error("event_broken", error=log.where(error), source=source, request_id=request_id)
        raise Unreadable(f"the relay failed to read it ({type(error).__name__})") from error
    ignored = max(1, len(event.subjects))
    return Reading(source, request_id, event.uuid, ignored_because=because, ignored=ignored, unrouted=words)


def keep_unreadable(raw: object, reason: str, source: str, request_id: str | None) -> Reading:
    """What no destination gets and a person can look at: JSON, or a text that is none."""
    return Reading(source, request_id, items=(_parked(raw, reason, source, request_id),), unreadable=reason)


def _items(
    event: Event, matches: Mapping[str, Sequence[str]], source: str, request_id: str | None
) -> tuple[NewItem, ...]:
    """One item for each subject and destination. A subject that cannot be read is parked beside the others. Raises
    Unreadable when none can."""
    items, parked = [], []
    labels, rule, at = _shortened(event.labels), _shortened_rule(event.rule), event.created_date[:LABEL_LIMIT]
    for raw in event.subjects:
        try:
            subject = subject_id(event.name, raw, event.uuid)
            for name, matched in matches.items():
                payload = Subject(event.name, at, labels, _shortened(matched), rule, raw).payload()
                items.append(NewItem(name, event.uuid, subject, payload, source, request_id))
        except Unreadable as error:
            parked.append(_parked(raw, str(error), source, request_id))
        except RecursionError:
            parked.append(_parked(raw, TOO_DEEP, source, request_id))
    if not items:
        raise Unreadable(parked[0].reason or "" if parked else "the notification has no items")
    return (*items, *parked)


def _unrouted_words(event: Event) -> tuple[tuple[str, str], ...]:
    """What a route could name of this event."""
    rule = _shortened_rule(event.rule)
    words = (rule.name or rule.id,) if rule else _shortened(event.labels) or (event.service or "no label",)
    return tuple((event.name, word) for word in words)


def _shortened(words: Sequence[str]) -> tuple[str, ...]:
    return tuple([word[:LABEL_LIMIT] for word in words[:LABELS_LIMIT]])


def _shortened_rule(rule: Rule | None) -> Rule | None:
    return rule and Rule(rule.id[:LABEL_LIMIT], rule.name[:LABEL_LIMIT])


def _parked(raw: object, reason: str, source: str, request_id: str | None) -> NewItem:
    """An item that needs a person. It is named by its content, so that the same again is not kept twice."""
    try:
        text = json.dumps(raw)
        payload = {"unreadable": raw}
        digest = hashlib.sha256(text.encode()).hexdigest()
        return NewItem("", f"unreadable:{digest}", "", payload, source, request_id, reason)
    except RecursionError:
        return _parked(_upper_levels(raw, LEVELS_LIMIT), reason, source, request_id)


def _upper_levels(raw: object, levels: int) -> object:
    """The JSON value without what is nested deeper than so many levels."""
    if isinstance(raw, dict):
        return {name: _upper_levels(value, levels - 1) for name, value in raw.items()} if levels else "…"
    if isinstance(raw, list):
        return [_upper_levels(value, levels - 1) for value in raw] if levels else "…"
    return raw
