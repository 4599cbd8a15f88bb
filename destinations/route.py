"""One line of the settings: which events go to which destination (docs/routes.md)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from config import as_webhook_url
from destinations.filters import QUOTES, Filter, as_seen, unquoted
from destinations.text import service_name
from destinations.zendesk_words import read_fields
from events import CREDENTIALS, LABEL_APPLIED, MESSAGES, RULE_APPLIED, Event

WORDS = {
    "label": (LABEL_APPLIED,),
    "rule": (RULE_APPLIED,),
    **{word: (name,) for word, name in zip(("published", "sent", "needs-approval"), MESSAGES, strict=True)},
    "disconnected": CREDENTIALS,
}
EVENTS = WORDS | {name: (name,) for names in WORDS.values() for name in names}  # Khoros' own names are good as well
EXAMPLES = {
    "zendesk": 'label Billing -> zendesk {"group_id": 360001}',
    "slack": "label VIP -> slack #social-crisis",
    "webhook": "sent FACEBOOK -> webhook https://adtech.example/hooks/khoros",
    "rule": "rule Product recall -> slack #social-care",
    "message": "published -> slack ann@acme.example",
    "disconnected": "disconnected -> slack #social-care",
}
NESTING_LIMIT = 6  # of braces in a line's JSON
TARGET_LIMIT = 90  # characters; with the kind before it, it fits into the column of a destination's name
_ARROW = "(?:[-‐-―−－=]{1,2}(?:[>＞]|&gt;)|[→➔➜➡⟶⇒]|&rarr;)"  # also as word processors and web pages change ->
_ADDRESS = rf"https?://[^\s;\\]*(?:;(?!(?i:{'|'.join(EVENTS)}))[^\s;\\#]+)*"
_BREAK = r"\r\n|[\r\n]|\\n"
# From 'tis to B' in "label 'tis -> slack #x; label B' -> zendesk" is no quoted name.
_LINE_ENDS = rf"{_ARROW}\s*(?:zendesk|slack|webhook)\b[^;\n]*?(?:;|\\n)"
_QUOTED_NAME = "|".join(rf"(?<!\S)[{kind}](?:(?!{_LINE_ENDS})[^{kind}\n])*[{kind}](?!\w)" for kind in QUOTES)
_BRACES = "(?!)"
for _ in range(NESTING_LIMIT):
    _BRACES = rf'\{{(?:"(?:[^"\\\n]|\\.)*+"|[^{{}}]|{_BRACES})*+\}}'
_split = re.compile(
    rf"(?P<event>\S{{1,60}}?)(?:\s+(?P<filter>{_QUOTED_NAME}|.*?))?\s*{_ARROW}\s*(?P<kind>zendesk|slack|webhook)(?!\w)"
    r"(?P<target>[^{]*(?:(?<=\S)(?<!zendesk)\{[^{]*)*)(?P<fields>\{.*)?",
    re.DOTALL | re.IGNORECASE,
).fullmatch
_is_slack_id = re.compile(r"[CDGUW][A-Z0-9]{7,20}").fullmatch
_is_channel_or_email = re.compile(r"#[^\s#@,;:.]{1,80}|[^\s@<>,;:|#]+@[^\s@<>,;:|#]+\.[^\s@<>,;:|#]+").fullmatch


@dataclass(frozen=True)
class Route:
    """A line. `target` is what stands behind the destination's word; an address may be a secret. `word` names the
    events for people. `line` is 0 for the label of SPREDFAST_LABEL_NAME."""

    word: str
    filter: Filter | None
    kind: str
    target: str = field(default="", repr=False)
    fields: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def event_names(self) -> tuple[str, ...]:
        """Khoros' names of the events."""
        return EVENTS[self.word]

    @property
    def destination(self) -> str:
        """The destination's name: zendesk, slack:#crisis, webhook:host/1f0a…, never the secret part of an address."""
        if self.kind == "webhook":
            return f"webhook:{_host(self.target)[:80]}/{hashlib.sha256(self.target.encode()).hexdigest()[:8]}"
        return f"{self.kind}:{self.target}" if self.target else self.kind

    @property
    def words(self) -> str:
        """The route for people: Label VIP → Slack #social-crisis."""
        event = f"{self.word.replace('-', ' ').capitalize()} {self.filter.text if self.filter else ''}"
        place = f"{self.kind.capitalize()} {_host(self.target) if self.kind == 'webhook' else self.target}"
        return f"{event.strip()} → {place.strip()}"

    def matched(self, event: Event, labels: Sequence[str]) -> tuple[str, ...] | None:
        """Those of these labels, the event's rule or its service that the filter names; None when the event does not go
        this way. A route without a filter names none."""
        if event.name not in self.event_names:
            return None
        if self.filter is None:
            return ()
        if event.name == RULE_APPLIED:
            rule = event.rule
            fits = rule is not None and (self.filter.fits(rule.name) or self.filter.text == rule.id)
            return (rule.name or rule.id,) if rule and fits else None
        found = [form for label in labels if (form := self.filter.form(label))]
        if event.name in MESSAGES and event.service:  # TWITTER, which people and Slack's messages call X
            names = (event.service, service_name(event.service))
            is_named = any(self.filter.fits(one) or self.filter.text.upper() == one.upper() for one in names)
            found += [event.service] * is_named
        return tuple(dict.fromkeys(found)) or None


def unit(text: str) -> str:
    """What `split_lines` counts: lines, or the routes of a text that is one line."""
    return "line" if re.search(_BREAK, text) else "route"


def split_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without empty ones and comments, with the numbers that an editor shows, or with 1, 2 … where the whole
    text is one line. A line ends at a line break or ; that is not in quotes, braces or an address. A comment ends at ;
    only when the whole text is one line."""
    ends = _BREAK if unit(text) == "line" else ";"
    begins = r"(?:\A|(?<=[;\r\n])(?<!&gt;)(?<!&rarr;)|(?<=\\n))"
    comment = rf"{begins}[^\S\r\n]*#(?:(?!{ends}).)*"  # quotes and braces in it mean nothing
    parts = rf"{comment}|{_QUOTED_NAME}|{_ADDRESS}|{_BRACES}|(?P<end>{_BREAK}|(?<!&gt)(?<!&rarr);|\Z)"
    number, begin = 1, 0
    for part in re.finditer(parts, text):
        if part["end"] is not None:
            line = text[begin : part.start()].strip()
            if said := line and not line.startswith("#"):
                yield number, line
            number += line.count("\n") + (part["end"] != ";") if ends == _BREAK else bool(said)
            begin = part.end()


def read_line(line: str, number: int = 0) -> Route:
    """Reads a line. Raises ValueError with words that follow "line 3" and end with a line that works."""
    parts = _split(line)
    if parts is None:
        place = "must have zendesk, slack or webhook behind ->" if re.search(_ARROW, line) else "has no ->"
        raise _fault(place, "slack")
    word, kind, name = parts["event"].lower(), parts["kind"].lower(), as_seen(parts["filter"] or "")
    events, json = set(EVENTS.get(word, ())), parts["fields"] or ""
    target = as_seen(unquoted(as_seen(parts["target"])))
    if not events:
        raise _fault(f"must begin with one of {', '.join(WORDS)}", kind)
    if kind == "zendesk" and events - {LABEL_APPLIED, RULE_APPLIED}:
        raise _fault("cannot lead to zendesk, where a ticket is about a post", "message")
    if not name and RULE_APPLIED in events:
        raise _fault("must name a rule: one that matches a hashtag can match thousands of posts an hour", "rule")
    if not name and LABEL_APPLIED in events:
        raise _fault("must name a label", "slack")
    if name and events & {*CREDENTIALS}:
        raise _fault(f"has a name behind {word}, which takes none", "disconnected")
    if json and kind != "zendesk":
        raise _fault(f"has {{…}} behind {kind}; only zendesk takes it", "zendesk")
    if target and kind == "zendesk":
        raise _fault("has words behind zendesk, which takes only JSON", kind)
    if kind == "slack" and not _is_slack_id(target):
        target = target.lower()  # as Slack writes its channels; e-mail addresses are the same in small letters
        if not _is_channel_or_email(target) or len(target) > TARGET_LIMIT:
            raise _fault("must have a #channel, an id of Slack's or a person's e-mail address behind slack", kind)
    if kind == "webhook":
        target = _read_part(as_webhook_url, target, "an address", kind)
    found = _read_part(Filter.read, name, "a name", "slack") if name else None
    json = json if '"' in json else re.sub("[“”„]", '"', json)
    fields = _read_part(read_fields, json, "{…}", kind) if json else {}
    return Route(word, found, kind, target, fields, number)


def first_words(line: str) -> str:
    """The beginning of a faulty line for people, in quotes, with a blank before it: never a part of an address."""
    event, *rest = re.split(_ARROW, line, maxsplit=1)
    words = re.split(r"\s(?:zendesk|slack|webhook)\b|\S*(?:/|@)", event, maxsplit=1)[0].strip()[:40]
    return f' "{words}"' if words and (rest or words.split()[0].lower() in EVENTS) else ""


def _read_part(parse: Callable[[str], Any], text: str, name: str, example: str) -> Any:
    try:
        return parse(text)
    except ValueError as fault:
        raise _fault(f"has {name} that {fault}", example) from None


def _fault(words: str, example: str) -> ValueError:
    return ValueError(f"{words}; for example: {EXAMPLES[example]}")


def _host(url: str) -> str:
    """The host of an address, and its port when it names one."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or ""
