"""The words of a Slack message: from a post, a message or an account to Slack's blocks. Pure functions.

What comes from outside goes into rich text, which Slack shows as it is, and escaped into the line of the notification:
no stranger can mention anyone, hide an address behind words or add a picture.

https://docs.slack.dev/reference/block-kit/blocks/rich-text-block/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from requests.utils import requote_uri

import events
from destinations.text import clean, cut, one_line, service_name, visible_line
from events import Subject
from inbox.tickets import SOLVED_EVENT

OPEN_POST = "Open the post"
HEADING_LIMIT, FACTS_LIMIT, TEXT_LIMIT, ADDRESS_LIMIT, LINKS = 150, 300, 2_900, 2_000, 5
NAMED = 20  # the items that a digest names; it counts the rest
_DONE = {events.MESSAGE_SENT: "Taken for its date by", events.MESSAGE_NEEDS_APPROVAL: "Waits for approval, for"}
_is_secret = re.compile("token|secret|password|key", re.IGNORECASE).search

Block = dict[str, Any]
Words = tuple[str, str, str, list[tuple[str, str]]]  # heading, text, facts in small print, addresses and their words


def content(subject: Subject, *, again: bool = False) -> dict[str, Any]:
    """The `text` and `blocks` of a message about a post, a message or an account; `again` for the thread of a post's
    first message, which may be a digest. Raises Unreadable for a post without an id."""
    heading, text, facts, links = _words(subject)
    if again and _kind(subject) is _post_words:
        heading, text, facts = f"This post came again: {heading}", cut(one_line(text), 100), facts.split(" · ")[0]
    quote = [{"type": "rich_text_quote", "elements": [_text(text)]}] if text else []
    parts = [_section(_text(heading, bold=True)), *quote, _section(_text(facts), *_links(links))]
    return _message(f"{heading}: {text or facts}", parts)


def digest_content(subjects: Sequence[Subject]) -> dict[str, Any]:
    """The `text` and `blocks` of one message about many subjects: it names the first ones and counts the rest."""
    count, more, rows = f"{len(subjects)} came in at once", len(subjects) - NAMED, []
    for heading, text, facts, links in map(_words, subjects[:NAMED]):
        said = (f": {cut(one_line(text), 100)}" if text else "") + f" ({cut(facts.split(' · ')[0], 100)})"
        rows.append(_section(_text(heading, bold=True), _text(said), *_links(links[:1])))
    listed = {"type": "rich_text_list", "style": "bullet", "elements": rows}
    rest = [_section(_text(f"and {more} more: see them in Khoros"))] if more > 0 else []
    return _message(count, [_section(_text(count, bold=True)), listed, *rest])


# What is said


def _words(subject: Subject) -> Words:
    heading, text, facts, links = _kind(subject)(subject)
    return cut(one_line(heading), HEADING_LIMIT), cut(clean(text), TEXT_LIMIT), cut(one_line(facts), FACTS_LIMIT), links


def _kind(subject: Subject) -> Callable[[Subject], Words]:
    """What the subject is about, as the function that finds the words for it."""
    kinds = dict.fromkeys(events.MESSAGES, _message_words) | dict.fromkeys(events.CREDENTIALS, _account_words)
    return {**kinds, SOLVED_EVENT: _solved_words}.get(subject.event_name, _post_words)


def _post_words(subject: Subject) -> Words:
    post, rule = subject.post(), subject.rule
    names = subject.matched or ((rule.name or rule.id,) if rule else subject.labels or ("not given by Khoros",))
    facts, links = f"{'Rule' if rule else 'Label'} {', '.join(names)}", [(post.link, OPEN_POST)] if post.link else []
    screen_name = f"@{visible_line(post.author_screen_name).lstrip('@')}".rstrip("@")
    author = " ".join(cut(name, 50) for name in (visible_line(post.author), screen_name) if name) or "Unknown author"
    count = f"{int(post.follower_count):,}" if re.fullmatch("[0-9]{1,12}", post.follower_count) else post.follower_count
    facts += f" · {count} followers" if count else ""
    return f"{author} on {service_name(post.network)}", post.text or "(no text: see the post)", facts, links


def _message_words(subject: Subject) -> Words:
    message, done = subject.message(), _DONE.get(subject.event_name, "Published on")
    service = service_name(message.service)
    refused = ", ".join(result.account_id or "unknown" for result in message.results if result.status == "ERROR")
    done = f"{done} {service}"
    if refused:
        partly = f"{done}, but " if any(result.status == "PUBLISHED" for result in message.results) else ""
        done = f"⚠️ {partly}{service} refused it for account {cut(refused, 60)}"
    facts, at = [f"Message {message.id}", *message.labels], message.scheduled_at or 0
    facts += [f"planned for {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"] if 0 < at < 1e10 else []
    linked = [one for one in message.results if one.link][:LINKS]
    several = len(linked) > 1  # then each link says whose post it opens
    links = [(one.link, OPEN_POST + f" of account {cut(one_line(one.account_id), 40)}" * several) for one in linked]
    return f"{done}: {message.title or 'a message without a title'}", message.text, " · ".join(facts), links


def _account_words(subject: Subject) -> Words:
    what = "removed from Khoros" if subject.event_name == events.CREDENTIAL_DELETE else "disconnected"
    known = [(name, events.read_text(value)) for name, value in events.as_object(subject.raw).items()]
    text = "\n".join(f"{name}: {value}" for name, value in known if value and not _is_secret(name))
    return f"A social account was {what}: its posts no longer arrive", text, "Connect it again in Khoros", []


def _solved_words(subject: Subject) -> Words:
    number, state = events.read_texts(events.as_object(subject.raw), "ticket", "state").values()
    return state.capitalize(), "", f"Ticket #{number} in Zendesk", [(subject.link, "Open the ticket")]


# Slack's blocks


def _message(notification: str, parts: Sequence[Block]) -> dict[str, Any]:
    """What Slack reads as markup, the notification's line, is escaped and holds no emoji code."""
    line = re.sub(r":(?=[\w+'-]+:)", ":\u2060", cut(one_line(notification), FACTS_LIMIT))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": line, "blocks": [{"type": "rich_text", "elements": parts}]}


def _section(*elements: Block) -> Block:
    return {"type": "rich_text_section", "elements": list(elements)}


def _text(text: str, *, bold: bool = False) -> Block:
    return {"type": "text", "text": text, "style": {"bold": bold}}


def _links(links: Sequence[tuple[str, str]]) -> list[Block]:
    """A link for each address that Slack takes; another one as text."""
    parts = []
    for url, words in ((requote_uri(address), words) for address, words in links):
        good = events.is_web_address(url) and len(url) <= ADDRESS_LIMIT
        link = {"type": "link", "url": url, "text": words} if good else _text(cut(one_line(url), FACTS_LIMIT))
        parts += [_text(" · "), link]
    return parts
