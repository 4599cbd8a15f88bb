"""One web address that gets signed notifications, as Standard Webhooks wants them.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from config import Reader
from dates import read_date
from destinations.destination import Destination, Sent
from events import Subject
from inbox.items import Draft, Item
from outbound import Answer, AuthFailed, Limited, Rejected, ServiceError, Unavailable, new_session, reach, send

WEBHOOK_VARIABLES = {"WEBHOOK_SECRET": 'Make it with: echo "whsec_$(openssl rand -base64 32)"; to change it: NEW,OLD'}


@dataclass(frozen=True)
class WebhookSettings:
    """The secrets that sign, the newest first. They are left out of repr."""

    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def read(cls, read: Reader) -> WebhookSettings:
        """The settings in the environment; `read` keeps the faults."""
        return cls(read("WEBHOOK_SECRET", _secrets, (), required=True))


class WebhookDestination(Destination):
    """See destinations/destination.py for what its methods promise. The address may be a secret: no name, log line or
    error has it. After 410 Gone this process does not call it again."""

    parallel, noun = 4, "webhook"

    def __init__(self, settings: WebhookSettings, url: str, name: str, clock: Callable[[], float] = time.time) -> None:
        self.name, self.title = name, "Webhook " + name.removeprefix("webhook:").partition("/")[0]
        self._keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in settings.secrets]
        self._url, self._clock, self._session = url, clock, new_session(url, self.parallel)
        self._gone = ""  # why it is called no more
        self._failures: list[ServiceError] = []  # the latest two since it took one, but those about one notification

    def compose(self, item: Item) -> Draft:
        """The notification. The same event and subject always have the same id, even after the database was lost."""
        payload = {"event_uuid": item.event_uuid, **Subject.parse(item.payload).payload()}
        kind, date = notification_type(payload.pop("event")), read_date(payload.pop("at"))
        at = datetime.fromtimestamp(self._clock() - item.age_s if date is None else date, UTC)
        body = {"type": kind, "timestamp": at.isoformat(timespec="milliseconds"), "data": payload}
        name = hashlib.sha256(f"{item.event_uuid}\n{item.subject_id}".encode()).hexdigest()
        return Draft("webhook", json.dumps(body).encode(), f"msg_{name[:40]}")

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Posts the notification, with the time and the signatures of this attempt."""
        draft, at = item.draft or self.compose(item), str(int(self._clock()))
        signed = f"{draft.key}.{at}.".encode() + draft.body
        marks = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in self._keys]
        headers = {"webhook-id": draft.key, "webhook-timestamp": at, "Content-Type": "application/json"}
        headers["webhook-signature"] = " ".join(f"v1,{mark}" for mark in marks)
        parts: Any = {"service": "Webhook", "total_s": 30.0, "data": draft.body, "headers": headers}
        try:
            answer = Answer(410) if self._gone else send(self._session, "POST", self._url, **parts)
            _raise_unless_taken(self.title, answer)
        except ServiceError as error:
            self._gone = str(error) if error.status == 410 else self._gone
            self._failures = [*self._failures, error][-2:] if not isinstance(error, Rejected) else self._failures
            raise error from None  # its cause quotes the address
        self._failures = []
        return Sent("webhook_sent", draft.key, answer.status)

    def check(self) -> str:
        """Connects, with a valid certificate, and asks nothing: a receiver may take any request for a notification. So
        two failures in a row, without a success between, count as one check that fails: they are not about one item."""
        again, self._failures = self._failures[1:], self._failures[:1]
        if self._gone or again:
            raise AuthFailed(self._gone, status=410) if self._gone else again[0]
        reach(self._session, self._url)
        return "can be reached; whether it accepts our signature shows with the first webhook"


def notification_type(event_name: str) -> str:
    """khoros.message.sent_to_network for message-sent-to-network: what it is about, then what happened to it."""
    return re.sub("[^A-Za-z0-9_.]", "_", "khoros." + re.sub("^(stream-item|[^-]*)-", r"\1.", event_name))


def _raise_unless_taken(title: str, answer: Answer) -> None:
    """Raises what an answer other than 2xx means for the next attempt."""
    status, said = answer.status, f"{title} answered {answer.status}"
    if status in (401, 403, 410):
        gone = " Gone: correct its address in ROUTES, or restart this service to call it again"
        raise AuthFailed(said + (gone if status == 410 else ": it refuses our signature"), status=status)
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise Rejected(f"{said}: it refuses this webhook", status=status)
    said += ": redirects are not followed; correct its address in ROUTES" if 300 <= status < 400 else ""
    if not 200 <= status < 300:
        raise (Limited if status == 429 else Unavailable)(said, status=status, retry_after_s=answer.retry_after_s)


def _secrets(value: str) -> tuple[str, ...]:
    secrets = tuple(secret.strip() for secret in value.strip(",").split(","))
    for secret in secrets:
        text = re.fullmatch("whsec_((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)", secret)
        if text is None or not 24 <= len(base64.b64decode(text[1])) <= 64:
            raise ValueError("must be whsec_ and 24 to 64 random bytes in base64")
    return secrets
