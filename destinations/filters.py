"""A filter in the settings: the name of a label, a rule or a network, written as people see it on the screen."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

QUOTES = ('"“”„‟«»', "'‘’‚‛‹›`")  # any of a kind may close any other: people and word processors mix them
LONGEST_NAME = 255  # characters; longer names are compared as plain text only
# 'tis, Customers' and 55" are names.
_lone = (rf"(?!['’])[{kind}][^{kind}]*|[^{kind}]*(?<![0-9\\])(?!['’])[{kind}]" for kind in QUOTES)
_has_lone_quote = re.compile("|".join(_lone)).fullmatch
WORK_LIMIT = 21  # see _work; the slowest pattern and the longest name take a fifth of a second
# The part of the language of regular expressions that Python and Java read alike. Groups may be optional, not repeated.
_TOKEN = re.compile(
    r"""(?: (?P<blank>\\?[ ]) | (?P<sign>\\[^A-Za-z0-9]|[^\\[\](){}*+?|.^$]) | (?P<kind>\\[dswDSW]|\.)
        | (?P<set>\[\^?(?:\\[^A-Za-z0-9]|\\[dsw]|-(?!-)|[^][\\&~|-])+\]) )
        (?P<repeat>(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??)?
    | (?P<open>\((?:\?:)?) | (?P<close>\)) (?P<optional>\??) | (?P<or>\|) | (?P<anchor>[\^$]|\\b)""",
    re.VERBOSE,
)
# What Khoros is asked for instead, so that odd blanks, invisible characters and Java's narrower \w make no difference.
_KINDS = {r"\d": "[^ -/:-~]", r"\w": r"[^ -/:-@\[-^`{-~]", r"\s": "[^!-~]", r"\D": "[^0-9]", r"\W": "[^0-9A-Za-z_]"}


@dataclass(frozen=True)
class Filter:
    """A text that is compared as it is, then as a regular expression when it is one. `pattern` is None for a plain
    name."""

    text: str
    pattern: re.Pattern[str] | None

    @classmethod
    def read(cls, value: str) -> Filter:
        """The filter that a person has written or pasted. Raises ValueError with words that follow its name."""
        text = as_seen(unquoted(as_seen(value)))
        if not text:
            raise ValueError("is empty")
        if _has_lone_quote(text):
            raise ValueError(r"has a quote at one end only: add the other, or write \ before it when it is in the name")
        return cls(text, _read_pattern(text))

    def form(self, name: str) -> str:
        """The part of the name that fits: all of it, or else what follows a " - " in it, because Khoros writes a label
        as "set - label" in places. "" when none fits. A pattern is tried behind the first two and the last one."""
        name = as_seen(name)
        if name == self.text or name.endswith(f" - {self.text}"):
            return self.text
        parts = name.split(" - ")
        forms = (" - ".join(parts[n:]) for n in (0, 1, 2, len(parts) - 1))
        return next(filter(self.pattern.fullmatch, forms), "") if self.pattern and len(name) <= LONGEST_NAME else ""

    def fits(self, name: str) -> bool:
        """Whether the name is this text or matches this pattern."""
        return bool(self.form(name))

    @property
    def query(self) -> str:
        """A regular expression for Khoros that fits every name which this filter fits, and few others."""
        forms = [_widened(re.escape(self.text))]
        if self.pattern is not None:
            ignoring_case = bool(self.pattern.flags & re.IGNORECASE)
            form = _widened(self.text.removeprefix("(?i)"))
            forms.append(f"(?iu:{form})" if ignoring_case else form)
        return "|".join(forms)


def query_for(filters: list[Filter]) -> str:
    """One query for all these labels. It finds them and matches them in full, alone and as "set - label"."""
    forms = dict.fromkeys(one.query for one in filters)
    return rf"[^!-~]*(?:[\s\S]*[^!-~]-[^!-~]+)?(?:{'|'.join(forms)})[^!-~]*"


def as_seen(text: str) -> str:
    """The text as people see it: in NFC, without invisible characters, each blank a plain one, none at the ends."""
    return " ".join(visible(text).split())


def visible(text: str) -> str:
    """The text in NFC, without what has no width; blanks and line breaks stay as they are."""
    if not text.isascii() or not text.isprintable():
        text = "".join(sign for sign in text if sign.isspace() or not _is_invisible(sign))
    return unicodedata.normalize("NFC", text)


def unquoted(value: str) -> str:
    """The value without quotes round the whole of it."""
    first, inside, last = value[:1], value[1:-1], value[-1:]
    is_quoted = len(value) > 1 and any(first in kind and last in kind for kind in QUOTES)
    return inside if is_quoted and first not in inside and last not in inside else value


def _is_invisible(sign: str) -> bool:
    return "\ufe00" <= sign <= "\ufe0f" or unicodedata.category(sign) in ("Cc", "Cf", "Cs")


def _read_pattern(text: str) -> re.Pattern[str] | None:
    """The text as a regular expression; None when it is a plain name, or not valid. Raises ValueError when it could
    take very long, or uses what Khoros may read otherwise."""
    body = text.removeprefix("(?i)")
    tokens = list(_TOKEN.finditer(body))
    if "".join(token[0] for token in tokens) != body:
        if re.search(r"\(\?|\\[A-Za-z0-9]|\)[*+{]", body):
            raise ValueError(r"uses more than . * + ? | ( ) [ ] of regular expressions; \ before a sign means just it")
        return None
    if body == text and all(token[0] in (token["blank"], token["sign"]) and len(token[0]) == 1 for token in tokens):
        return None
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None
    if _work(tokens) > WORK_LIMIT:
        raise ValueError("repeats too much, a long name would take minutes: use * + { three times at most in a line")
    return pattern


def _work(tokens: list[re.Match[str]]) -> float:
    """How often the time to compare one name can double, in the slowest of the alternatives."""
    work, slowest = 0.0, 0.0
    alternatives = [1]  # of each group that is open
    for token in tokens:
        repeat = token["repeat"] or token["optional"] or "{1}"
        work += 1 if repeat == "?" else 0 if re.fullmatch("{[0-9]+}", repeat) else 7
        if token["open"]:
            alternatives.append(1)
        elif token["close"]:
            alternatives.pop()
        elif token["or"] and len(alternatives) == 1:
            work = 0.0
        elif token["or"]:
            work += math.log2(1 + 1 / alternatives[-1])
            alternatives[-1] += 1
        slowest = max(slowest, work)
    return slowest


def _widened(pattern: str) -> str:
    """The pattern with room for what `as_seen` takes out or changes. The room has no sign of the pattern in it, so that
    there is one way only to match a name."""
    own = "".join(sorted({sign for sign in pattern + unicodedata.normalize("NFD", pattern) if not sign.isascii()}))
    gap, blank = f"[^ -~{own}]*", f"[^!-~{own}]"

    def wider(token: re.Match[str]) -> str:
        repeat, atom = token["repeat"] or "", token["sign"] or token["set"]
        if token["blank"]:
            return blank + ("*" if repeat else "+")
        if token["kind"]:
            return _KINDS.get(token["kind"], token["kind"]) + (repeat or gap)
        if atom is None:
            return "" if token["anchor"] else token[0]
        if token["set"]:
            wide = rf"[\u0000-\u0020\u007f-\uffff{atom[1:]}" if " " in atom and atom[1] != "^" else atom
            return wide + (repeat or gap)
        apart = unicodedata.normalize("NFD", atom)
        atom = atom if apart == atom else f"(?:{atom}|{gap.join(apart)})"
        return f"(?:{atom}{gap}){repeat}" if repeat else atom + gap

    return _TOKEN.sub(wider, pattern)
