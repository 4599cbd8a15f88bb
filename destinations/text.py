"""Strangers' text made safe to show and short enough, for the words of every destination. Pure functions."""

from __future__ import annotations

import re
import unicodedata

NETWORKS = {"twitter": "X", "linkedin": "LinkedIn", "youtube": "YouTube", "tiktok": "TikTok", "googleplus": "Google+"}
# Control characters but the line feed, what reverses the direction of the text after it, and half surrogate pairs.
# Joiners stay: emoji are made with them.
_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with one kind of line break and one kind of blank, without characters that hide or reverse others."""
    return _HIDDEN.sub("", re.sub("\r\n?|\u2028|\u2029", "\n", text).replace("\t", " ")).strip()


def one_line(text: str) -> str:
    """The text as `clean` leaves it, on one line."""
    return " ".join(clean(text).split())


def cut(text: str, limit: int) -> str:
    """At most `limit` UTF-16 units of the text, with "…" for what had to be cut; no character is cut in two."""
    units = text.encode("utf-16-le")
    if len(units) <= 2 * limit:
        return text
    end = len(units[: 2 * (limit - 1)].decode("utf-16-le", "ignore"))
    while end and (_continues(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return text[:end].rstrip() + "…"


def service_name(word: str) -> str:
    """A network as people call it, from Khoros' word for it: twitter, FACEBOOK, MULTI_CHANNEL."""
    name = one_line(word)
    return NETWORKS.get(name.lower()) or cut(name.replace("_", " ").capitalize(), 40) or "Khoros"


def _continues(char: str) -> bool:
    """Whether it belongs to the character before it: an accent, a variation, a skin colour, a joiner."""
    return char == "\u200d" or unicodedata.category(char) in ("Mn", "Mc", "Me", "Sk")
