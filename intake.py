"""The one door into the inbox, for what Khoros pushes and for what is polled: is it readable, is it ours, is it new?"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from config import Config
from inbox import Inbox, NewItem
from khoros_client import EVENT_NAME, Notification, Unreadable, read_entity_id
from logfmt import event

LABELS_LIMIT, LABEL_LIMIT = 20, 255  # labels, and characters of each, that are kept with every post of a notification


@dataclass(frozen=True)
class Receipt:
    """How many posts of a notification were new, were here already, or are none of our business."""

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0


@dataclass(frozen=True)
class Reading:
    """What a notification holds for the inbox: `good` posts and, for a person to look at, what cannot be read."""

    source: str
    request_id: str | None
    event_uuid: str | None = None
    good: tuple[NewItem, ...] = ()
    broken: tuple[NewItem, ...] = ()
    unreadable: str | None = None  # why nothing of it could be read
    not_ours: str | None = None  # why it concerns someone else; it holds nothing then
    ignored: int = 0  # posts of those


class Intake:
    """Takes notifications in: reads them, keeps what they hold, and says so."""

    def __init__(self, config: Config, inbox: Inbox) -> None:
        self._config, self._inbox = config, inbox

    def take(self, raw: object, *, source: str, request_id: str | None = None) -> Receipt:
        """Reads one notification and keeps it: it is committed when this returns. Raises Unreadable for one that is
        kept for a person to look at, and StoreUnavailable when nothing is kept."""
        reading = self.read(raw, source=source, request_id=request_id)
        [receipt] = receipts([reading], self.keep([reading]))
        if reading.unreadable:
            raise Unreadable(reading.unreadable)
        return receipt

    def read(self, raw: object, *, source: str, request_id: str | None = None) -> Reading:
        """What a notification holds. Raises RecursionError when it is nested too deeply to be kept."""
        try:
            notification = Notification.parse(raw)
            if reason := self._not_ours(notification):
                ignored = max(1, len(notification.items))
                return Reading(source, request_id, notification.event_uuid, not_ours=reason, ignored=ignored)
            return _with_posts(notification, source, request_id)
        except Unreadable as error:
            reason = str(error)
            return Reading(source, request_id, broken=(_parked(raw, reason, source, request_id),), unreadable=reason)

    def keep(self, readings: Sequence[Reading]) -> list[bool]:
        """Commits what these notifications hold, all of it together, and tells of each post whether it was new, for
        `receipts`. Raises StoreUnavailable when nothing is kept."""
        return self._inbox.accept([item for reading in readings for item in (*reading.broken, *reading.good)])

    def _not_ours(self, notification: Notification) -> str | None:
        """Why a readable notification concerns someone else. An empty list of labels is no reason: Khoros has applied
        our query before it sent the event."""
        if notification.company_id not in (None, self._config.company_id):
            return "another company's"
        if notification.event_name != EVENT_NAME:
            return f"not a {EVENT_NAME} event"
        if notification.labels and not any(map(self._config.label.fullmatch, notification.labels)):
            return "another label"
        return None


def receipts(readings: Sequence[Reading], kept: Iterable[bool]) -> list[Receipt]:
    """What became of these notifications, by what `keep` has told; says so in the log as well."""
    new = iter(kept)
    return [
        _told(reading, [item for item in reading.broken if next(new)], sum(next(new) for _ in reading.good))
        for reading in readings
    ]


def _with_posts(notification: Notification, source: str, request_id: str | None) -> Reading:
    good, broken = [], []
    labels = [label[:LABEL_LIMIT] for label in notification.labels[:LABELS_LIMIT]]
    for raw in notification.items:
        try:
            entity_id = read_entity_id(raw)
        except Unreadable as error:
            broken.append(_parked(raw, str(error), source, request_id))
            continue
        payload = {"labels": labels, "item": raw}
        good.append(NewItem(notification.event_uuid, entity_id, payload, source, request_id))
    if not good:
        raise Unreadable(broken[0].reason or "" if broken else "the notification has no items")
    return Reading(source, request_id, notification.event_uuid, tuple(good), tuple(broken))


def _parked(raw: object, reason: str, source: str, request_id: str | None) -> NewItem:
    """A row for a person to look at. It is named after its content, so that the same again is not kept twice."""
    payload: dict[str, Any] = {"unreadable": raw}
    digest = hashlib.sha256(json.dumps(raw).encode()).hexdigest()
    return NewItem(f"unreadable:{digest}", "", payload, source, request_id, reason)


def _told(reading: Reading, parked: Sequence[NewItem], accepted: int) -> Receipt:
    """Logs one, and makes its receipt. A poll meets the same events again and again, and says nothing of those."""
    names = {"event_uuid": reading.event_uuid, "source": reading.source, "request_id": reading.request_id}
    quiet = logging.DEBUG if reading.source == "poll" else logging.INFO
    for item in parked:
        event("parked", logging.ERROR, reason=item.reason, **names)
    if reading.not_ours:
        event("notification_ignored", quiet, reason=reading.not_ours, **names)
    elif reading.good:
        level, known = logging.INFO if accepted else quiet, len(reading.good) - accepted
        event("notification_accepted", level, accepted=accepted, duplicates=known, **names)
    return Receipt(accepted, len(reading.good) - accepted, reading.ignored)
