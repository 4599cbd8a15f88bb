"""The words of a ticket: from a social post to the body of a request. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from events import StreamItem, is_web_address

SUBJECT_LIMIT = 150
TEXT_LIMIT = 60_000  # characters of HTML
COMMENT_LIMIT = 64_000  # Zendesk takes about 65,000
CUT_NOTICE = "… (cut here: the post is longer than Zendesk allows)"
NETWORKS = {
    "twitter": "X",
    "facebook": "Facebook",
    "instagram": "Instagram",
    "linkedin": "LinkedIn",
    "youtube": "YouTube",
    "tiktok": "TikTok",
    "googleplus": "Google+",
}
# Control characters but tab and line feed, and half surrogate pairs. Joiners stay: emoji are made with them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Post:
    """A post together with the event that brought it."""

    item: StreamItem
    event_uuid: str
    labels: tuple[str, ...]  # of the event; may be empty


@dataclass(frozen=True)
class Style:
    """What the deployer chose for every ticket."""

    label: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False


def ticket_body(post: Post, style: Style, follow_up_of: int | None = None) -> bytes:
    """The request body that creates the post's ticket, or the follow-up of its closed ticket `follow_up_of`.

    https://developer.zendesk.com/api-reference/ticketing/tickets/tickets/#create-ticket
    """
    ticket = {
        "priority": "normal",
        **style.fields,
        "subject": subject(post.item),
        "comment": _comment(post, style),
        "external_id": post.item.entity_id,
        "tags": _tags(post, style),
        "metadata": {**style.fields.get("metadata", {}), "khoros_event_uuid": post.event_uuid},
    }
    if follow_up_of is not None:
        ticket["via_followup_source_id"] = follow_up_of
    return _body(ticket)


def note_body(post: Post, style: Style) -> bytes:
    """The request body of a note: the label was applied again to a post that has a ticket."""
    return _body({"comment": _comment(post, style, heading="The label was applied to this post again.")})


def subject(item: StreamItem) -> str:
    """ "{author} on {network}: {start of the text}" on one line of at most 150 characters."""
    author = _line(item.author) or _line(item.author_screen_name) or "Unknown author"
    line = f"{author[:60]} on {network_name(item)}: {_line(item.text) or '(no text)'}"
    return line if len(line) <= SUBJECT_LIMIT else line[: SUBJECT_LIMIT - 1].rstrip(" \u200d") + "…"


def network_name(item: StreamItem) -> str:
    """The network as people call it."""
    return NETWORKS.get(item.network) or item.network.capitalize()[:40] or "Khoros"


def _comment(post: Post, style: Style, heading: str = "") -> dict[str, Any]:
    facts = "<br>".join(_facts(post, style))
    text = _text_html(post.item.text, min(TEXT_LIMIT, COMMENT_LIMIT - len(facts)))
    paragraphs = [heading, text, facts]
    html = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs if paragraph)
    return {"html_body": html, "public": style.public}


def _text_html(text: str, limit: int) -> str:
    text = clean(text).strip()
    if not text:
        return "<i>The post has no text: see it on its network.</i>"
    return _fit(escape(text).replace("\n", "<br>"), limit, CUT_NOTICE)


def _facts(post: Post, style: Style) -> list[str]:
    """Who, where, when and the rest, a line each; only what is known."""
    item = post.item
    screen_name = f" (@{_short(item.author_screen_name.lstrip('@'))})" if item.author_screen_name else ""
    followers = f", {_count(item.follower_count)} followers" if item.follower_count else ""
    author = _anchor(item.author_link, _line(item.author) or _line(item.author_screen_name) or item.author_link)
    facts = {
        "From": f"{author or 'unknown'}{screen_name}{followers}",
        "Post": f"{_anchor(item.link, item.link) or 'no link'} on {_short(network_name(item))}",
        "Posted": _short(item.created_date),
        "In reply to": _anchor(item.in_reply_to, item.in_reply_to),
        "Reposted from": _anchor(item.reposted_from, item.reposted_from),
        "Labels": _short(", ".join(dict.fromkeys(post.labels + item.labels)) or style.label),
        "Khoros notes": "<br>".join(f"{_short(who) or 'Agent'}: {_short(text)}" for who, text in item.notes[:5]),
        "Khoros item": f"{escape(item.entity_id)}, event {escape(post.event_uuid)}",
    }
    return [f"<b>{name}:</b> {value}" for name, value in facts.items() if value]


def _tags(post: Post, style: Style) -> list[str]:
    pattern = re.compile(style.label)
    labels = [label for label in post.labels if pattern.fullmatch(label)] or [style.label]
    ours = ["khoros", slug(post.item.network), *map(slug, labels)]
    return list(dict.fromkeys(tag for tag in [*ours, *style.fields.get("tags", [])] if tag))


def slug(text: str) -> str:
    """A tag Zendesk keeps whole: a-z, 0-9, _ and - only, 80 characters at most."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_")[:80]


def clean(text: str) -> str:
    """The text with one kind of line break and without control characters; emoji stay whole."""
    return _CONTROL.sub("", re.sub("\r\n?|\u2028|\u2029", "\n", text))


def _line(text: str) -> str:
    return " ".join(clean(text).split())


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
    url = clean(url).strip()
    if not is_web_address(url) or len(escape(url)) > 400:
        return _short(words)
    return f'<a href="{escape(url)}">{_short(words)}</a>'


def _count(text: str) -> str:
    return f"{int(text):,}" if re.fullmatch("[0-9]{1,12}", text) else _short(text)


def _body(ticket: Mapping[str, Any]) -> bytes:
    return json.dumps({"ticket": ticket}).encode("ascii")
