"""The words of a ticket: from a social post to the body of a request. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from destinations.text import service_name
from events import StreamItem, Subject, is_web_address

SUBJECT_LIMIT = 150
POST_LIMIT = 60_000  # characters of HTML
COMMENT_LIMIT = 64_000  # Zendesk takes about 65,000
CUT_NOTICE = "… (cut here: the post is longer than Zendesk allows)"
FILLED_IN = ("comment", "description", "external_id", "id", "subject", "via_followup_source_id")
# Control characters but tab and line feed, and half surrogate pairs. Joiners stay: emoji are made with them.
# Letters that are not made of a plain one and an accent.
_STROKES = str.maketrans({**dict(zip("łøđħŧıðŋƀɨ", "lodhtidnbi", strict=True)), "æ": "ae", "œ": "oe", "þ": "th"})
_carries_meaning = re.compile(r"[^a-z0-9\s_.,;:!?'\"()\[\]{}<>/\\|&–—‘’‚“”„«»‹›·•-]").search  # in a tag, if not there
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Post:
    """A post, the event that brought it, and why. `labels` are those of the event, `matched` those of them that a route
    names, `rule` is the rule's name; each may be empty."""

    item: StreamItem
    event_uuid: str
    labels: tuple[str, ...] = ()
    matched: tuple[str, ...] = ()
    rule: str = ""

    @classmethod
    def of(cls, subject: Subject, event_uuid: str) -> Post:
        """The post of an item's subject. Raises Unreadable."""
        rule = subject.rule.name or subject.rule.id if subject.rule else ""
        return cls(subject.post(), event_uuid, subject.labels, subject.matched or subject.labels, rule)


@dataclass(frozen=True)
class Style:
    """What the deployer chose for every ticket."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False

    def with_fields(self, more: Mapping[str, Any]) -> Style:
        """This style with these fields over its own. Tags are added, and custom fields one by one."""
        both = {**self.fields, **more}
        own, new = ({one["id"]: one for one in each.get("custom_fields") or []} for each in (self.fields, more))
        if own or new:
            both["custom_fields"] = list({**own, **new}.values())
        if tags := [*(self.fields.get("tags") or []), *(more.get("tags") or [])]:
            both["tags"] = tags
        return replace(self, fields=both)


def ticket_body(post: Post, style: Style, *, follow_up_of: int | None = None, in_place_of: int | None = None) -> bytes:
    """The request body that creates the post's ticket: a follow-up of its closed ticket `follow_up_of`, or a plain one
    that names its closed ticket `in_place_of`.

    https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#create-ticket
    """
    heading = f"The ticket of this post was #{in_place_of}. It is closed and takes no follow-up." if in_place_of else ""
    ticket = {
        "priority": "normal",
        **style.fields,
        "subject": subject(post.item),
        "comment": _comment(post, style, heading),
        "external_id": post.item.entity_id,
        "tags": _tags(post, style),
        "metadata": {**(style.fields.get("metadata") or {}), "khoros_event_uuid": post.event_uuid},
        "via_followup_source_id": follow_up_of,
    }
    return _request_body({name: value for name, value in ticket.items() if value is not None})


def note_body(post: Post, style: Style) -> bytes:
    """The request body of a note: a label was applied to a post that has a ticket, or a rule matched it."""
    return _request_body({"comment": _comment(post, style, _occasion(post))})


def label_tags(post: Post) -> list[str]:
    """The tags that name the labels or the rule which brought the post."""
    return list(dict.fromkeys(map(_label_tag, (post.rule,) if post.rule else post.matched)))


def subject(item: StreamItem) -> str:
    """ "{author} on {network}: {start of the text}" on one line of at most 150 characters."""
    author = _line(item.author) or _line(item.author_screen_name) or "Unknown author"
    line = f"{author[:60]} on {service_name(item.network)}: {_line(item.text) or '(no text)'}"
    return line if len(line) <= SUBJECT_LIMIT else line[: SUBJECT_LIMIT - 1].rstrip(" \u200d") + "…"


def _comment(post: Post, style: Style, heading: str) -> dict[str, Any]:
    facts = "<br>".join(_facts(post))
    text = _text_html(post.item.text, min(POST_LIMIT, COMMENT_LIMIT - len(facts) - len(heading)))
    paragraphs = [heading, text, facts]
    html = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs if paragraph)
    return {"html_body": html, "public": style.public}


def _text_html(text: str, limit: int) -> str:
    text = printable(text).strip()
    if not text:
        return "<i>The post has no text: see it on its network.</i>"
    return _fit(escape(text).replace("\n", "<br>"), limit, CUT_NOTICE)


def _facts(post: Post) -> list[str]:
    """Who, where, when and the rest, a line each; only what is known."""
    item = post.item
    screen_name = f" (@{_short(item.author_screen_name.lstrip('@'))})" if item.author_screen_name else ""
    followers = f", {_count(item.follower_count)} followers" if item.follower_count else ""
    author = _anchor(item.author_link, _line(item.author) or _line(item.author_screen_name) or item.author_link)
    labels = post.labels or (() if post.rule else post.matched)
    facts = {
        "From": f"{author or 'unknown'}{screen_name}{followers}",
        "Post": f"{_anchor(item.link, item.link) or 'no link'} on {_short(service_name(item.network))}",
        "Posted": _short(item.created_date),
        "In reply to": _anchor(item.in_reply_to, item.in_reply_to),
        "Reposted from": _anchor(item.reposted_from, item.reposted_from),
        "Rule": _short(post.rule),
        "Labels": _short(", ".join(dict.fromkeys(labels + item.labels))),
        "Khoros notes": "<br>".join(f"{_short(who) or 'Agent'}: {_short(text)}" for who, text in item.notes[:5]),
        "Khoros item": f"{escape(item.entity_id)}, event {escape(post.event_uuid)}",
    }
    return [f"<b>{name}:</b> {value}" for name, value in facts.items() if value]


def _occasion(post: Post) -> str:
    if post.rule:
        return f"Rule {_short(post.rule)} matched this post."
    labels = [_short(label) for label in post.matched[:5]]
    if len(labels) > 1:
        return f"Labels {', '.join(labels)} were applied to this post."
    return f"Label {labels[0]} was applied to this post." if labels else "A label was applied to this post."


def _tags(post: Post, style: Style) -> list[str]:
    ours = ["khoros", slug(post.item.network), *label_tags(post)]
    return list(dict.fromkeys(tag for tag in [*ours, *(style.fields.get("tags") or [])] if tag))


def _label_tag(name: str) -> str:
    """The name as a tag. When more than blanks and punctuation would be lost, it ends in a code of its own: C++ and C#
    are two tags."""
    plain = slug(name)
    if len(_folded(name)) <= 80 and not _carries_meaning(_folded(name)):
        return plain
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="replace")).hexdigest()
    return f"{plain[:71] or 'label'}-{digest[:8]}"


def slug(text: str) -> str:
    """A tag Zendesk keeps whole: a-z, 0-9, _ and - only, 80 characters at most. Letters lose accents and strokes."""
    return re.sub(r"[^a-z0-9_-]+", "_", _folded(text)).strip("_")[:80]


def _folded(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold()).translate(_STROKES)
    return "".join(char for char in letters if not unicodedata.combining(char) and unicodedata.category(char) != "Cf")


def printable(text: str) -> str:
    """The text with one kind of line break and without control characters; emoji stay whole."""
    return _CONTROL.sub("", re.sub("\r\n?|\u2028|\u2029", "\n", text))


def _line(text: str) -> str:
    return " ".join(printable(text).split())


def _fit(html: str, limit: int, notice: str) -> str:
    """`html` in at most `limit` characters, ending in `notice` when it had to be cut; never cut inside a tag."""
    if len(html) <= limit:
        return html
    cut = html[: limit - len(notice)]
    return re.sub(r"(&[^;]{0,6}|<[^>]{0,3})$", "", cut) + notice


def _short(text: str) -> str:
    return _fit(escape(_line(text)), 200, "…")


def _anchor(url: str, words: str) -> str:
    """`words`, linked when the address is a plain web address; other schemes are shown as text and never clickable."""
    url = printable(url).strip()
    if not is_web_address(url) or len(escape(url)) > 400:
        return _short(words)
    return f'<a href="{escape(url)}">{_short(words)}</a>'


def _count(text: str) -> str:
    return f"{int(text):,}" if re.fullmatch("[0-9]{1,12}", text) else _short(text)


def read_fields(value: str) -> dict[str, Any]:
    """The fields that a setting gives each ticket, from a JSON object; null leaves a field out. Raises ValueError with
    words that follow its name."""
    try:
        fields = json.loads(value, parse_constant=int)  # there is no NaN in JSON
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("is not a JSON object")
    if taken := sorted(set(fields) & set(FILLED_IN)):
        raise ValueError(f"may not set {', '.join(taken)}: the relay fills these in from the post")
    tags, custom = fields.get("tags") or [], fields.get("custom_fields") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError('needs its tags as a list of texts, like {"tags": ["social"]}')
    if not isinstance(custom, list) or not all(isinstance(one, dict) and type(one.get("id")) is int for one in custom):
        raise ValueError('needs its custom_fields as a list, like {"custom_fields": [{"id": 360001, "value": "x"}]}')
    if not isinstance(fields.get("metadata") or {}, dict):
        raise ValueError("needs its metadata as an object")
    return fields


def _request_body(ticket: Mapping[str, Any]) -> bytes:
    return json.dumps({"ticket": ticket}).encode("ascii")
