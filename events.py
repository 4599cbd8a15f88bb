"""Khoros' events as small dataclasses. Reading is tolerant: a field of an unexpected kind becomes empty.

Published examples: https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

LABEL_APPLIED = "stream-item-label-applied"
ID_LIMIT = 255  # characters; the limit of an id column and of Zendesk's external_id
# Of names that several countries use, the meaning in Khoros' own country, otherwise in the largest one.
_NAMED = """UTC+0000 GMT+0000 EST-0500 EDT-0400 CST-0600 CDT-0500 MST-0700 MDT-0600 PST-0800 PDT-0700 AKST-0900
    AKDT-0800 HST-1000 AST-0400 ADT-0300 WET+0000 WEST+0100 BST+0100 CET+0100 CEST+0200 EET+0200 EEST+0300 MSK+0300
    SAST+0200 IST+0530 HKT+0800 JST+0900 KST+0900 AWST+0800 ACST+0930 ACDT+1030 AEST+1000 AEDT+1100 NZST+1200
    NZDT+1300"""
ZONES = {zone[:-5]: zone[-5:] for zone in _NAMED.split()}
_SURROGATE = re.compile("[\ud800-\udfff]")
_is_number = re.compile("[0-9]{1,18}").fullmatch
_is_offset = re.compile("(?:GMT|UTC)?([+-])([0-9]{1,2})(?::?([0-5][0-9]))?").fullmatch
_is_iso = re.compile("[0-9]{4}-[0-9-]+[T ][0-9:.]+ ?(Z|[+-][0-9:]+)").fullmatch


class Unreadable(Exception):
    """The JSON is not an event that this service understands; the message says what is missing."""


@dataclass(frozen=True)
class StreamItem:
    """A social post as an event carries it. Every field but `entity_id` may be empty."""

    entity_id: str
    text: str
    link: str
    author: str
    author_link: str
    author_screen_name: str
    follower_count: str
    created_date: str
    labels: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]  # (author, text)
    in_reply_to: str
    reposted_from: str

    @classmethod
    def parse(cls, raw: Any) -> StreamItem:
        """Reads a stream item. Raises Unreadable as `read_subject_id` does."""
        entity_id = read_subject_id(raw)
        texts = ("text", "link", "author", "author_link", "author_screen_name", "follower_count", "created_date")
        return cls(
            entity_id=entity_id,
            **read_texts(raw, *texts),
            labels=_read_names(raw.get("labels")),
            notes=tuple(_read_note(note) for note in as_list(raw.get("notes"))),
            in_reply_to=_read_reference(raw.get("inReplyTo")),
            reposted_from=_read_reference(raw.get("repostedFrom")),
        )

    @property
    def network(self) -> str:
        """The network's short name as Khoros writes it before the colon: twitter, facebook …"""
        return self.entity_id.partition(":")[0].lower() if ":" in self.entity_id else "khoros"


@dataclass(frozen=True)
class Event:
    """One event as Khoros pushes it or lists it under /data. `company_id` is None when Khoros leaves it out."""

    name: str
    uuid: str
    company_id: int | None
    labels: tuple[str, ...]
    subjects: tuple[object, ...]  # raw stream items, for StreamItem.parse

    @classmethod
    def parse(cls, raw: object) -> Event:
        """Reads an event. Raises Unreadable when its name or its uuid is missing, or its company is not a number."""
        if not isinstance(raw, dict):
            raise Unreadable("the notification is not an object")
        name, uuid, company = (read_text(raw.get(key)) for key in ("eventName", "eventUuid", "companyId"))
        if not name:
            raise Unreadable("eventName is missing")
        if not _is_usable_id(uuid):
            raise Unreadable("eventUuid is missing or unusable")
        if raw.get("companyId") is not None and not _is_number(company):
            raise Unreadable("companyId is not a number")
        data = as_object(raw.get("data"))
        items = data.get("items")
        return cls(
            name=name,
            uuid=uuid,
            company_id=int(company) if company else None,
            labels=_read_names(data.get("labels")),
            subjects=(items,) if isinstance(items, dict) else tuple(as_list(items)),
        )


def read_subject_id(raw: object) -> str:
    """The id of a raw stream item. Raises Unreadable when it has no usable one; no other field is looked at."""
    if not isinstance(raw, dict):
        raise Unreadable("an item is not an object")
    entity_id = read_text(raw.get("entityId"))
    if not _is_usable_id(entity_id):
        raise Unreadable("an item has no usable entityId")
    return entity_id


def read_date(value: object) -> float | None:
    """A date of Khoros' as seconds since 1970: "Wed Apr 12 09:01:11 CDT 2017" (Java's Date.toString),
    "2011-05-26T18:23:31.000Z", or milliseconds in 13 digits. None for one that is unreadable or names no known zone."""
    text = read_text(value)
    if re.fullmatch("[0-9]{13}", text):
        return int(text) / 1000
    if not re.search("[0-9]{4}", text):  # a year in two digits is a guess
        return None
    text = " ".join(map(_read_zone, text.split()))
    try:
        if _is_iso(text):
            date = datetime.fromisoformat(re.sub(" (?=[Z+-])", "", text))
        else:
            date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date.timestamp() if date.tzinfo else None


def read_text(value: object) -> str:
    """A JSON value as text: numbers become digits; null, objects and lists become empty; half emoji are replaced."""
    if isinstance(value, str):
        return (value if value.isascii() else _SURROGATE.sub("\ufffd", value)).strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def read_texts(raw: Mapping[str, Any], *names: str) -> dict[str, str]:
    """These fields of an object as texts, by our names: Khoros calls author_link authorLink."""
    return {name: read_text(raw.get(re.sub("_(.)", lambda match: match[1].upper(), name))) for name in names}


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


def _read_zone(word: str) -> str:
    """A word of a date; when it names a zone, the zone's offset as +hhmm. "GMT-03:00" (Java) is three hours behind."""
    if offset := _is_offset(word):
        sign, hours, minutes = offset.groups(default="00")
        return f"{sign}{hours:0>2}{minutes}"
    return ZONES.get(word, word)


def _is_usable_id(value: str) -> bool:
    return 0 < len(value) <= ID_LIMIT and value.isprintable()


def _read_names(value: object) -> tuple[str, ...]:
    """Labels, given as a list of texts, a list of objects with a name, or one text."""
    entries = value if isinstance(value, list) else [value]
    names = (read_text(e.get("name") or e.get("title")) if isinstance(e, dict) else read_text(e) for e in entries)
    return tuple(name for name in names if name)


def _read_note(value: object) -> tuple[str, str]:
    if isinstance(value, dict):
        return read_text(value.get("createdByDisplayName")), read_text(value.get("text"))
    return "", read_text(value)


def _read_reference(value: object) -> str:
    """Another post, given as text, a link, or a stream item: its link if it has one, otherwise its id."""
    if isinstance(value, dict):
        return read_text(value.get("link")) or read_text(value.get("entityId")) or read_text(value.get("author"))
    return read_text(value)
