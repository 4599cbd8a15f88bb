"""Reads a date in each form in which Khoros writes one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Of names that several countries use, the meaning in Khoros' own country, otherwise in the largest one.
_NAMED = """UTC+0000 GMT+0000 EST-0500 EDT-0400 CST-0600 CDT-0500 MST-0700 MDT-0600 PST-0800 PDT-0700 AKST-0900
    AKDT-0800 HST-1000 AST-0400 ADT-0300 WET+0000 WEST+0100 BST+0100 CET+0100 CEST+0200 EET+0200 EEST+0300 MSK+0300
    SAST+0200 IST+0530 HKT+0800 JST+0900 KST+0900 AWST+0800 ACST+0930 ACDT+1030 AEST+1000 AEDT+1100 NZST+1200
    NZDT+1300"""
ZONES = {zone[:-5]: zone[-5:] for zone in _NAMED.split()}
_is_offset = re.compile("(?:GMT|UTC)?([+-])([0-9]{1,2})(?::?([0-5][0-9]))?").fullmatch
_has_year = re.compile("(?<![+0-9])[1-9][0-9]{3}(?![0-9])").search
_is_iso = re.compile("[0-9]{4}-[0-9-]+[T ][0-9:.]+ ?(Z|[+-][0-9:]+)").fullmatch


def read_date(value: object) -> float | None:
    """A date of Khoros' as seconds since 1970: "Wed Apr 12 09:01:11 CDT 2017" (Java's Date.toString),
    "2011-05-26T18:23:31.000Z", or milliseconds in 13 digits. None for one that is unreadable or names no known zone."""
    text = str(value).strip() if isinstance(value, str | int) else ""
    if re.fullmatch("[0-9]{13}", text):
        return int(text) / 1000
    if not _has_year(text):  # a year in two digits is a guess, and the year 1 stands for no date
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


def date_words(value: str) -> str:
    """A date of Khoros' as people write it, "27 Nov 2026, 02:07 UTC"; one that `read_date` cannot read as it is."""
    at = read_date(value)
    if at is None or not 0 <= at < 1e11:
        return value
    date = datetime.fromtimestamp(at, UTC)
    return f"{date.day} {date:%b %Y, %H:%M} UTC"


def _read_zone(word: str) -> str:
    """A word of a date; when it names a zone, the zone's offset as +hhmm. "GMT-03:00" (Java) is three hours behind."""
    if offset := _is_offset(word):
        sign, hours, minutes = offset.groups(default="00")
        return f"{sign}{hours:0>2}{minutes}"
    return ZONES.get(word, word)
