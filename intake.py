"""The one door into the inbox, for what Khoros pushes and for what is polled: is it readable, is it ours, is it new?"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from config import Config
from inbox import Inbox, NewItem
from khoros_client import EVENT_NAME, Notification, StreamItem, Unreadable
from logfmt import event


@dataclass(frozen=True)
class Receipt:
    """How many posts of a notification were new, were here already, or are none of our business."""

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0


class Intake:
    """Takes notifications in. What is taken is committed when `take` returns."""

    def __init__(self, config: Config, inbox: Inbox) -> None:
        self._config, self._inbox = config, inbox

    def take(self, raw: object, *, source: str, request_id: str | None = None) -> Receipt:
        """Keeps a notification's posts. One that cannot be read is kept too, parked, and Unreadable is raised; so are
        unreadable items among good ones, without the error. Raises StoreUnavailable when nothing is kept."""
        try:
            notification = Notification.parse(raw)
            reason = self._not_ours(notification)
            items, broken = ([], []) if reason else self._items(notification, source, request_id)
        except Unreadable as error:
            if self._inbox.accept([_parked(raw, str(error), source, request_id)]):
                event("parked", logging.ERROR, source=source, reason=error, request_id=request_id)
            raise
        names = {"event_uuid": notification.event_uuid, "source": source, "request_id": request_id}
        quiet = logging.DEBUG if source == "poll" else logging.INFO  # a poll meets the same events again and again
        if reason:
            event("notification_ignored", quiet, reason=reason, **names)
            return Receipt(ignored=max(1, len(notification.items)))
        for item in broken:
            if self._inbox.accept([item]):
                event("parked", logging.ERROR, reason=item.reason, **names)
        accepted = self._inbox.accept(items)
        level = logging.INFO if accepted else quiet
        event("notification_accepted", level, accepted=accepted, duplicates=len(items) - accepted, **names)
        return Receipt(accepted, len(items) - accepted)

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

    def _items(
        self, notification: Notification, source: str, request_id: str | None
    ) -> tuple[list[NewItem], list[NewItem]]:
        good, broken = [], []
        for raw in notification.items:
            try:
                entity_id = StreamItem.parse(raw).entity_id
            except Unreadable as error:
                broken.append(_parked(raw, str(error), source, request_id))
                continue
            payload = {"labels": notification.labels, "item": raw}
            good.append(NewItem(notification.event_uuid, entity_id, payload, source, request_id))
        if not good:
            raise Unreadable(broken[0].reason or "" if broken else "the notification has no items")
        return good, broken


def _parked(raw: object, reason: str, source: str, request_id: str | None) -> NewItem:
    """A row for a person to look at. It is named after its content, so that the same again is not kept twice."""
    payload: dict[str, Any] = {"unreadable": raw}
    digest = hashlib.sha256(json.dumps(raw).encode()).hexdigest()
    return NewItem(f"unreadable:{digest}", "", payload, source, request_id, reason)
