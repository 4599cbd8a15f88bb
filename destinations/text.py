"""Strangers' text made safe to show and short enough, for the words of every destination. Pure functions."""

from __future__ import annotations

import re
import unicodedata

NETWORKS = {"twitter": "X", "linkedin": "LinkedIn", "youtube": "YouTube", "tiktok": "TikTok", "googleplus": "Google+"}
_LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Control characters but the line feed, what changes the direction of the text after it, and half surrogate pairs.
# Joiners stay: emoji are made with them.
_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u206f\ud800-\udfff\ufff9-\ufffb\ufffe\uffff]")
_NOT_DRAWN = {"Cc", "Cf", "Cs", "Mn", "Mc", "Me", "Zl", "Zp", "Zs"}  # by themselves
_BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a sign by name, but blank
# What belongs to the character before it, beside all marks: joiners, vowels of Thai and Lao, the second part of a
# Korean syllable, skin tones, and the letters in the flags of England, Scotland and Wales.
_continues = re.compile(
    "[\u200c\u200d\u0e33\u0eb3\u1160-\u11ff\ud7b0-\ud7ff\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
).match
_VIRAMA = 9  # the combining class of the signs that join two letters of an Indian script
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # two of them are a flag


def clean(text: str) -> str:
    """The text with one kind of line break and one kind of blank, without characters that hide or reverse others."""
    return _HIDDEN.sub("", _LINE_BREAK.sub("\n", text).replace("\t", " ")).strip()


def one_line(text: str) -> str:
    """The text as `clean` leaves it, on one line."""
    return " ".join(clean(text).split())


def visible_line(text: str) -> str:
    """The text on one line; "" when a reader would see nothing of it."""
    line = one_line(text)
    drawn = (char for char in line if char not in _BLANKS and unicodedata.category(char) not in _NOT_DRAWN)
    return line if any(drawn) else ""


def isolated(text: str) -> str:
    """The text for a place inside a line: when it is written from right to left, the rest of the line is not."""
    from_the_right = any(unicodedata.bidirectional(char) in ("R", "AL") for char in text)
    return f"\u2068{text}\u2069" if from_the_right else text


def cut(text: str, limit: int) -> str:
    """At most `limit` UTF-16 units of the text, with "…" for what had to be cut. What a reader sees as one character, a
    flag or a family, is not cut in two."""
    units = text.encode("utf-16-le")
    if len(units) <= 2 * limit:
        return text
    end = len(units[: 2 * (limit - 1)].decode("utf-16-le", "ignore"))
    while end and _is_inside_character(text, end):
        end -= 1
    return text[:end].rstrip() + "…"


def service_name(word: str) -> str:
    """A network as people call it, from Khoros' word for it: twitter, FACEBOOK, MULTI_CHANNEL."""
    name = one_line(word)
    return NETWORKS.get(name.lower()) or cut(name.replace("_", " ").capitalize(), 40) or "Khoros"


def _is_inside_character(text: str, at: int) -> bool:
    """Whether a cut there would divide what a reader sees as one character: the rules of Unicode's annex 29, shorter.

    https://unicode.org/reports/tr29/#Grapheme_Cluster_Boundary_Rules
    """
    before, after = text[at - 1], text[at]
    if unicodedata.category(after)[0] == "M" or _continues(after) or before == "\u200d":
        return True
    if unicodedata.combining(before) == _VIRAMA:
        return unicodedata.category(after) == "Lo"
    head = text[:at]
    return after in _FLAG_LETTERS and (len(head) - len(head.rstrip(_FLAG_LETTERS))) % 2 == 1
