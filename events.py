"""Khoros' events as small dataclasses. Reading is tolerant: a field of an unexpected kind becomes empty.

Published examples: https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from dates import read_date

LABEL_APPLIED, RULE_APPLIED = "stream-item-label-applied", "rule-applied"
MESSAGES = ("message-published", "message-sent-to-network", "message-needs-approval")  # this company's own
MESSAGE_PUBLISHED, MESSAGE_SENT, MESSAGE_NEEDS_APPROVAL = MESSAGES
CREDENTIALS = ("credential-deauth", "credential-delete")  # about one social account of this company
CREDENTIAL_DEAUTH, CREDENTIAL_DELETE = CREDENTIALS
ID_LIMIT = 255  # characters; the limit of an id column and of Zendesk's external_id
_OF_OURS = frozenset(MESSAGES + CREDENTIALS)
_WORDS = ("text", "caption", "description", "message", "body", "title", "shareLink")  # of content of any kind
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENTITY = re.compile("&(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)


class Unreadable(Exception):
    """The JSON is not an event that this service understands; the message says what is missing."""


@dataclass(frozen=True)
class StreamItem:
    """A social post as an event carries it. Every field but `entity_id` may be empty; `notes` are those of colleagues,
    each its author, date and text."""

    entity_id: str
    labels: tuple[str, ...]
    notes: tuple[tuple[str, str, str], ...]
    in_reply_to: str  # this and the next two: another post's link or id
    reposted_from: str
    parent_post: str
    text: str
    link: str
    author: str
    author_id: str
    author_icon: str  # the address of a picture
    author_link: str
    author_screen_name: str
    follower_count: str
    content_type: str
    created_date: str

    @classmethod
    def parse(cls, raw: Any) -> StreamItem:
        """Reads a stream item. Raises Unreadable when it has no usable id."""
        entity_id = subject_id(LABEL_APPLIED, raw)
        texts = read_texts(raw, *[field.name for field in fields(cls)[6:]])  # from `text` on
        if entity_id.lower().startswith(("twitter:", "x:")):  # X's own API writes HTML's signs so
            for name in ("text", "author"):
                texts[name] = _ENTITY.sub(lambda entity: unescape(entity[0]), texts[name])
        notes = raw["notes"] if isinstance(raw.get("notes"), list) else [raw.get("notes")]
        labels, notes = read_names(raw.get("labels")), tuple(map(_read_note, filter(None, notes)))
        posts = (_read_reference(raw.get(name)) for name in ("inReplyTo", "repostedFrom", "parentPost"))
        return cls(entity_id, labels, notes, *posts, **texts)

    @property
    def network(self) -> str:
        """The network's short name as Khoros writes it before the colon: twitter, facebook …"""
        return self.entity_id.partition(":")[0].lower() if ":" in self.entity_id else "khoros"


@dataclass(frozen=True)
class PublicationResult:
    """What became of a message on one account."""

    account_id: str
    status: str  # PENDING, PUBLISHED, ERROR, DELETED or another word
    link: str  # the permalink

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> PublicationResult:
        """Reads a result."""
        account_id, status, link = read_texts(raw, "account_id", "status", "service_link").values()
        return cls(account_id, status.upper(), link)


@dataclass(frozen=True)
class Message:
    """What this company publishes. Every field may be empty; `scheduled_at` is in seconds since 1970."""

    id: str
    title: str
    text: str
    service: str  # the network: FACEBOOK, TWITTER, MULTI_CHANNEL …
    labels: tuple[str, ...]
    results: tuple[PublicationResult, ...]
    scheduled_at: float | None

    @classmethod
    def parse(cls, raw: object) -> Message:
        """Reads a message with content of any kind."""
        raw = as_object(raw)
        return cls(
            **read_texts(raw, "id", "title"),
            text=_read_content(raw.get("content")),
            service=read_text(raw.get("service")).upper(),
            labels=read_names(raw.get("labels")),
            results=tuple(map(PublicationResult.parse, filter(as_object, as_list(raw.get("publicationResults"))))),
            scheduled_at=read_date(raw.get("scheduledPublishDate")),
        )


@dataclass(frozen=True)
class Rule:
    """A rule of the company's that matched a post."""

    id: str
    name: str

    @classmethod
    def parse(cls, raw: object) -> Rule | None:
        """Reads a rule, as Khoros or `Subject.payload` writes it; None when it has neither an id nor a name."""
        texts = read_texts(as_object(raw) or {"name": raw}, "rule_id", "id", "rule_name", "name")
        rule = cls(texts["rule_id"] or texts["id"], texts["rule_name"] or texts["name"])
        return rule if rule.id or rule.name else None


@dataclass(frozen=True)
class Event:
    """One event as Khoros pushes it or lists it under /data. `company_id` is None when Khoros leaves it out."""

    name: str
    uuid: str
    company_id: int | None
    created_date: str  # for read_date
    labels: tuple[str, ...]
    rule: Rule | None  # of a rule-applied
    service: str  # of a message, in capital letters
    subjects: tuple[object, ...]  # raw stream items, or the raw message or account

    @classmethod
    def parse(cls, raw: object) -> Event:
        """Reads an event. Raises Unreadable when its name or its uuid is missing, or its company is not a number."""
        if not isinstance(raw, dict):
            raise Unreadable("the notification is not an object")
        if not (name := read_text(raw.get("eventName"))):
            raise Unreadable("eventName is missing")
        if not _is_usable_id(uuid := read_text(raw.get("eventUuid"))):
            raise Unreadable("eventUuid is missing or unusable")
        company = read_text(raw.get("companyId")).removesuffix(".0")
        if raw.get("companyId") not in (None, "") and not re.fullmatch("[0-9]{1,18}", company):
            raise Unreadable("companyId is not a number")
        data = as_object(raw.get("data"))
        return cls(
            name=name,
            uuid=uuid,
            company_id=int(company) if company else None,
            created_date=read_text(raw.get("createdDate")),
            labels=read_names(data.get("labels")),
            rule=Rule.parse(data["ruleMatched"]) if "ruleMatched" in data else None,
            service=read_text(data.get("service")).upper(),
            subjects=_read_subjects(name, data),
        )


@dataclass(frozen=True)
class Subject:
    """What an item keeps of its event: one post, message or account, and why it goes to the item's destination."""

    event_name: str
    created_date: str
    labels: tuple[str, ...]
    matched: tuple[str, ...]  # the labels, or the rule or service, that a route to this destination names
    rule: Rule | None
    raw: object  # Khoros' own JSON

    def payload(self) -> dict[str, Any]:
        """The subject as JSON, for `parse`."""
        words = {"labels": [*self.labels], "matched": [*self.matched], "rule": self.rule and asdict(self.rule)}
        return {"event": self.event_name, "at": self.created_date, **words, "item": self.raw}

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> Subject:
        """Reads a payload, also that of another release."""
        return cls(
            event_name=read_text(payload.get("event")) or LABEL_APPLIED,
            created_date=read_text(payload.get("at")),
            labels=read_names(payload.get("labels")),
            matched=read_names(payload.get("matched")),
            rule=Rule.parse(payload.get("rule")),
            raw=payload.get("item"),
        )

    def post(self) -> StreamItem:
        """The post of a label or a rule. Raises Unreadable when it has no usable id."""
        return StreamItem.parse(self.raw)

    def message(self) -> Message:
        """The message of a message event."""
        return Message.parse(self.raw)

    @property
    def link(self) -> str:
        """The post's address, or the message's first permalink; "" when there is none."""
        links = (read_text(as_object(self.raw).get("link")), *(result.link for result in self.message().results))
        return next(filter(None, links), "")


def subject_id(event_name: str, raw: object, event_uuid: str = "") -> str:
    """The id of a raw subject. That of a message or account has the event's name before it, and the event's uuid stands
    in for a missing one. Raises Unreadable for a post without a usable one. No other field is read."""
    if event_name in _OF_OURS:
        ids = read_texts(as_object(raw), "id", "account_id", "credential_id").values()
        return f"{event_name}:{next(filter(_is_usable_id, ids), event_uuid)}"[:ID_LIMIT]
    if not isinstance(raw, dict):
        raise Unreadable("an item is not an object")
    if not _is_usable_id(entity_id := read_text(raw.get("entityId"))):
        raise Unreadable("an item has no usable entityId")
    return entity_id


def read_text(value: object) -> str:
    """A JSON value as text: numbers become digits; null, objects and lists become empty; half emoji are replaced."""
    if isinstance(value, str):
        return (value if value.isascii() else _SURROGATE.sub("\ufffd", value)).strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def read_texts(raw: Mapping[str, Any], *names: str) -> dict[str, str]:
    """These fields of an object as texts, by our names: Khoros calls author_link authorLink."""
    return {name: read_text(raw.get(name[0] + name.title().replace("_", "")[1:])) for name in names}


def read_number(digits: str) -> int | str:
    """A whole number of JSON; one of thousands of digits stays a text."""
    return int(digits) if len(digits) < 4_000 else digits


def read_names(value: object) -> tuple[str, ...]:
    """Labels, given as a list of texts, a list of objects with a name, or one text."""
    entries = value if isinstance(value, list) else [value]
    names = (read_text(e.get("name") or e.get("title")) if isinstance(e, dict) else read_text(e) for e in entries)
    return tuple(name for name in names if name)


def as_object(value: object) -> dict[str, Any]:
    """An object as it is, an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """A list as it is, an empty one for any other value."""
    return value if isinstance(value, list) else []


def is_web_address(url: str) -> bool:
    """Whether a post's link may be made clickable: http or https, with a host and without white space."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)


def _read_subjects(event_name: str, data: dict[str, Any]) -> tuple[object, ...]:
    """What the event is about: its items, or the data itself; a disconnected account is news even without data."""
    items = data.get("items")
    if event_name in _OF_OURS and not items:
        return (data,) if data or event_name in CREDENTIALS else ()
    return (items,) if isinstance(items, dict) else tuple(as_list(items))


def _read_content(content: object) -> str:
    """The words of a message: a video's title on a line of its own, then the first words there are."""
    if not isinstance(content, dict):
        return read_text(content)
    title, *words = (read_text(content.get(name)) for name in ("videoTitle", *_WORDS))
    return f"{title}\n{next(filter(None, words), '')}".strip()


def _is_usable_id(value: str) -> bool:
    return 0 < len(value) <= ID_LIMIT and value.isprintable()


def _read_note(value: object) -> tuple[str, str, str]:
    note = as_object(value) or {"text": value}
    author, date, text = read_texts(note, "created_by_display_name", "created_date", "text").values()
    return author, date, text


def _read_reference(value: object) -> str:
    """Another post, given as text, a link, or a stream item: its link if it has one, otherwise its id."""
    if isinstance(value, dict):
        return read_text(value.get("link")) or read_text(value.get("entityId")) or read_text(value.get("author"))
    return read_text(value)
