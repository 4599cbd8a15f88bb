"""Khoros Marketing's side: its Notifications API as a thin client, and what it sends as small tolerant dataclasses.

API reference: https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cache
from typing import Any

import dateutil.parser
from dateutil import tz

from outbound import Answer, AuthFailed, Bearer, Rejected, ServiceError, Unavailable, new_session, send

EVENT_NAME = "stream-item-label-applied"
PAGE_SIZE = 100
ID_LIMIT = 255  # characters; what an id column and Zendesk's external_id hold
ZONE_PLACES = (
    *("America/Chicago", "America/New_York", "America/Denver", "America/Los_Angeles", "America/Anchorage"),
    *("Pacific/Honolulu", "America/Halifax", "UTC", "Europe/London", "Europe/Paris", "Europe/Athens", "Europe/Lisbon"),
    *("Europe/Moscow", "Asia/Kolkata", "Asia/Tokyo", "Asia/Seoul", "Asia/Hong_Kong", "Australia/Sydney"),
    *("Australia/Perth", "Australia/Adelaide", "Pacific/Auckland", "Africa/Johannesburg"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_is_number = re.compile("[0-9]{1,18}").fullmatch


class Unreadable(Exception):
    """The body is JSON, but not a notification this service understands; the message says what is missing."""


@dataclass(frozen=True)
class StreamItem:
    """A social post as an event carries it. Everything but `entity_id` may be empty."""

    entity_id: str
    text: str
    link: str
    author: str
    author_link: str
    author_screen_name: str
    follower_count: str
    created_date: str
    labels: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]  # (who, text)
    in_reply_to: str
    reposted_from: str

    @classmethod
    def parse(cls, raw: Any) -> StreamItem:
        """Reads a stream item. Raises Unreadable as `read_entity_id` does."""
        entity_id, notes = read_entity_id(raw), raw.get("notes")
        return cls(
            entity_id=entity_id,
            text=_text(raw.get("text")),
            link=_text(raw.get("link")),
            author=_text(raw.get("author")),
            author_link=_text(raw.get("authorLink")),
            author_screen_name=_text(raw.get("authorScreenName")),
            follower_count=_text(raw.get("followerCount")),
            created_date=_text(raw.get("createdDate")),
            labels=_names(raw.get("labels")),
            notes=tuple(_note(note) for note in notes) if isinstance(notes, list) else (),
            in_reply_to=_reference(raw.get("inReplyTo")),
            reposted_from=_reference(raw.get("repostedFrom")),
        )

    @property
    def network(self) -> str:
        """The network's short name as Khoros writes it before the colon: twitter, facebook …"""
        return self.entity_id.partition(":")[0].lower() if ":" in self.entity_id else "khoros"


@dataclass(frozen=True)
class Notification:
    """One event as Khoros pushes it or lists it under /data. `company_id` is None when Khoros does not say."""

    event_name: str
    event_uuid: str
    company_id: int | None
    created_date: str
    subscription_uuid: str
    labels: tuple[str, ...]
    items: tuple[object, ...]  # raw; StreamItem.parse reads one

    @classmethod
    def parse(cls, raw: object) -> Notification:
        """Reads the envelope. Raises Unreadable when it does not say what happened, or to which event it belongs."""
        if not isinstance(raw, dict):
            raise Unreadable("the notification is not an object")
        event_name, event_uuid = _text(raw.get("eventName")), _text(raw.get("eventUuid"))
        if not event_name:
            raise Unreadable("eventName is missing")
        if not event_uuid or len(event_uuid) > ID_LIMIT or not event_uuid.isprintable():
            raise Unreadable("eventUuid is missing or unusable")
        company_id = raw.get("companyId")
        if company_id is not None and not _is_number(_text(company_id)):
            raise Unreadable("companyId is not a number")
        data = raw.get("data")
        data = data if isinstance(data, dict) else {}
        items = data.get("items")
        return cls(
            event_name=event_name,
            event_uuid=event_uuid,
            company_id=int(_text(company_id)) if company_id is not None else None,
            created_date=_text(raw.get("createdDate")),
            subscription_uuid=_text(raw.get("subscriptionUuid") or raw.get("uuid")),
            labels=_names(data.get("labels")),
            items=tuple(items) if isinstance(items, list) else (items,) if isinstance(items, dict) else (),
        )


@dataclass(frozen=True)
class Subscription:
    """A subscription as Khoros holds it; a value Khoros left out is empty. `status` is ACTIVE, PAUSED or DISABLED."""

    uuid: str
    external_id: str
    company_id: str
    event_name: str
    notification_uri: str
    query: str
    status: str
    created_date: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Subscription:
        key = raw.get("key")
        key = key if isinstance(key, dict) else {}
        return cls(
            uuid=_text(raw.get("uuid") or key.get("uuid")),
            external_id=_text(raw.get("externalId")),
            company_id=_text(raw.get("companyId") or key.get("companyId")),
            event_name=_text(raw.get("eventName") or key.get("eventName")),
            notification_uri=_text(raw.get("notificationUri")),
            query=_text(raw.get("query")),
            status=_text(raw.get("status")).upper(),
            created_date=_text(raw.get("createdDate")),
        )


class KhorosClient:
    """The v2 API with one access token, scoped to one company. Every method makes one attempt and raises
    Unavailable (Khoros is down or its answer makes no sense), Rejected (it refuses this request) or AuthFailed
    (it refuses the token)."""

    def __init__(self, url: str, token: str, company_id: int) -> None:
        self._url, self._token, self._company_id = url, token, company_id
        self._session = new_session(pool_size=2)

    def subscribe(self, *, external_id: str, notification_uri: str, query: str, bearer_token: str) -> Subscription:
        """Creates the subscription named `external_id`, or updates the one that has this name
        (reference/create-a-subscription). An empty `notification_uri` makes one that is polled."""
        body: dict[str, Any] = {
            "companyId": self._company_id,
            "externalId": external_id,
            "eventName": EVENT_NAME,
            "query": query,
            "bearerToken": bearer_token,
        }
        if notification_uri:
            body["notificationUri"] = notification_uri
        data = self._call("POST", "/events/subscription", json=body)
        return Subscription.parse(data if isinstance(data, dict) else {})

    def subscription(self, uuid: str) -> Subscription | None:
        """One subscription, or None when it is gone (reference/retrieve-subscription-details)."""
        try:
            data = self._call("GET", f"/events/subscription/{uuid}")
        except Rejected as error:
            if error.status == 404:
                return None
            raise
        return Subscription.parse(_object(data))

    def subscriptions(self) -> list[Subscription]:
        """The company's subscriptions (reference/list-subscriptions), 1,000 at most."""
        found: dict[str, Subscription] = {}
        for page in range(10):
            params = {"pageNumber": page, "pageSize": PAGE_SIZE}
            entries = _entries(self._call("GET", "/events/subscription", params=params))
            fresh = [s for s in map(Subscription.parse, entries) if s.uuid not in found]
            found |= {s.uuid: s for s in fresh}
            if len(entries) < PAGE_SIZE or not fresh:
                break
        return list(found.values())

    def set_status(self, uuid: str, status: str) -> None:
        """Makes a subscription ACTIVE, PAUSED or DISABLED (reference/update-a-subscription)."""
        self._call("PUT", f"/events/subscription/{uuid}/{status}")

    def delete(self, uuid: str) -> None:
        """Removes a subscription; one that is gone already is fine (reference/delete-a-subscription)."""
        try:
            self._call("DELETE", f"/events/subscription/{uuid}")
        except Rejected as error:
            if error.status != 404:
                raise

    def events(self, uuid: str, *, offset: int, limit: int) -> list[dict[str, Any]]:
        """A page of the subscription's raw events, in no published order (reference/retrieve-subscription-events)."""
        return _entries(self._call("GET", f"/events/data/{uuid}", params={"offset": offset, "limit": limit}))

    def whoami(self) -> dict[str, Any]:
        """Who the token belongs to: {id, email, firstName, lastName, companies: [{id, name, products}]}."""
        return _object(self._call("GET", "/whoami/"))

    def _call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"x-sf-company-id": str(self._company_id)}
        answer = send(self._session, method, self._url + path, auth=Bearer(self._token), headers=headers, **options)
        return read_answer(answer)


def read_answer(answer: Answer) -> Any:
    """The payload of an answer, bare or out of its envelope; otherwise raises the error that says what to do next.

    The content decides before the status: the answer to an expired token is a page that reads "Developer Inactive".
    """
    payload, status = answer.json(), answer.status
    if payload is None and b"developer inactive" in answer.body.lower():
        message = "Khoros says Developer Inactive: SPREDFAST_API_TOKEN has expired or was revoked"
        raise AuthFailed(message, status=status, code="DeveloperInactive")
    envelope = payload.get("status") if isinstance(payload, dict) else None
    envelope = envelope if isinstance(envelope, dict) else {}
    if 200 <= status < 300 and envelope.get("succeeded") is not False:
        if payload is None and answer.body.lstrip().startswith(b"<"):
            raise Unavailable(f"Khoros answered {status} with a web page instead of data", status=status)
        return payload["data"] if isinstance(payload, dict) and "data" in payload else payload
    raise _refusal(answer, envelope)


def _refusal(answer: Answer, envelope: Mapping[str, Any]) -> ServiceError:
    error = envelope.get("error")
    error = error if isinstance(error, dict) else {}
    status, code = answer.status, _text(error.get("code"))[:60] or None
    said = f"Khoros answered {status}{f' {code}' if code and code != str(status) else ''}"
    if "does not allow the application" in _text(error.get("message")):
        said = f"{said}: the company does not allow this application; ask Khoros to enable it for SPREDFAST_COMPANY_ID"
        return AuthFailed(said, status=status, code=code)
    if status in (401, 403) or code in ("401", "403"):
        return AuthFailed(f"{said}: it refuses SPREDFAST_API_TOKEN", status=status, code=code)
    if status == 586 or 300 <= status < 400:
        return Rejected(f"{said}: KHOROS_API_URL does not lead to the API", status=status, code=code)
    if status in (408, 425, 429) or status >= 500:
        return Unavailable(said, status=status, code=code, retry_after_s=answer.retry_after_s)
    return Rejected(said, status=status, code=code)


def read_entity_id(raw: object) -> str:
    """The id of a stream item. Raises Unreadable when it has no usable one; nothing else in it has to be readable."""
    if not isinstance(raw, dict):
        raise Unreadable("an item is not an object")
    entity_id = _text(raw.get("entityId"))
    if not entity_id or len(entity_id) > ID_LIMIT or not entity_id.isprintable():
        raise Unreadable("an item has no usable entityId")
    return entity_id


def read_date(value: object) -> float | None:
    """A date of Khoros' as seconds since 1970: "Wed Apr 12 09:01:11 CDT 2017", "2011-05-26T18:23:31.000Z" or
    milliseconds. None when it cannot be read for sure."""
    text = _text(value)
    if re.fullmatch("[0-9]{13}", text):
        return int(text) / 1000
    if not re.search("[0-9]{4}", text) or not re.search("[0-9]:[0-9]{2}", text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", dateutil.parser.UnknownTimezoneWarning)
            date = dateutil.parser.parse(text, tzinfos=_zone)
            return date.timestamp() if date.tzinfo else None
    except (ValueError, OverflowError, dateutil.parser.UnknownTimezoneWarning):
        return None


def _zone(name: str, offset_s: int | None) -> tzinfo | None:
    """The zone an abbreviation stands for; where several share it, the one of Khoros' own country."""
    return tz.tzoffset(name, offset_s) if offset_s is not None else _zones().get(name)


@cache
def _zones() -> dict[str, tzinfo]:
    names: dict[str, tzinfo] = {}
    for place in ZONE_PLACES:
        for month in (1, 7):
            date = datetime(2026, month, 1, tzinfo=tz.gettz(place))
            names.setdefault(date.tzname() or "", tz.tzoffset(None, date.utcoffset() or 0))
    return names


def _entries(data: object) -> list[dict[str, Any]]:
    """The objects of a list that may come bare or inside an object. Raises Unavailable when there is no list."""
    if isinstance(data, dict):
        data = next((data[key] for key in ("items", "data", "content") if isinstance(data.get(key), list)), None)
    if not isinstance(data, list):
        raise Unavailable("Khoros answered without a list")
    return [entry for entry in data if isinstance(entry, dict)]


def _object(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Unavailable("Khoros answered without an object")
    return data


def _text(value: object) -> str:
    """A value as text: numbers become digits; null, objects and lists become nothing; half emoji are replaced."""
    if isinstance(value, str):
        return (value if value.isascii() else _SURROGATE.sub("\ufffd", value)).strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _names(value: object) -> tuple[str, ...]:
    """Labels, given as a list of texts, a list of objects with a name, or one text."""
    entries = value if isinstance(value, list) else [value]
    names = (_text(e.get("name") or e.get("title")) if isinstance(e, dict) else _text(e) for e in entries)
    return tuple(name for name in names if name)


def _note(value: object) -> tuple[str, str]:
    if isinstance(value, dict):
        return _text(value.get("createdByDisplayName")), _text(value.get("text"))
    return "", _text(value)


def _reference(value: object) -> str:
    """Another post, given as text, a link, or a stream item: its link if it has one, otherwise its id."""
    if isinstance(value, dict):
        return _text(value.get("link")) or _text(value.get("entityId")) or _text(value.get("author"))
    return _text(value)
