"""What an agent reads in a ticket: its subject and its first comment. Pure functions.

Strangers' words are escaped, and cannot change the direction of the words around them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape

from dates import date_words
from destinations.text import clean, cut, isolated, one_line, service_name, visible_line
from events import StreamItem, Subject, is_web_address

# A ticket's first comment, and the note of a later label. A line without a value is left out.
COMMENT = """
<p>{occasion}</p>
<p>{open_post} · {profile}</p>
<p>{where_to_answer}</p>
<p><b>Notes in Khoros</b><br>{notes}</p>
<p dir="auto">{text}</p>
<p>{facts}</p>
<p><small>Khoros item {item_id}, event {event_uuid}</small></p>
"""
FACTS = """
By {author}
posted {posted}
Type: {type}
Comment on {parent_post}
Reply to {in_reply_to}
Repost of {reposted_from}
Rule: {rule}
Labels: {labels}
"""
TEST_NETWORK, TEST_WORDS = "relay-test", "Test ticket from the relay: you can delete this"
SUBJECT_LIMIT, NAME_LIMIT, FIELD_LIMIT, NOTE_LIMIT = 150, 60, 200, 2_000  # characters
NOTES_LIMIT, POST_LIMIT, COMMENT_LIMIT = 12_000, 60_000, 64_000  # of HTML; Zendesk takes 65,000
POST_ROOM = 10_000  # of HTML; links leave so much to the post's text
# The longest link that is clickable, of the post and of all else: the first of these with which everything fits.
LINK_LIMITS = (COMMENT_LIMIT, COMMENT_LIMIT), (COMMENT_LIMIT, 2_000), (COMMENT_LIMIT, 0), (0, 2_000), (0, 0)
REPEATED_LINK_LIMIT = 5_000  # a longer link of the post is in the first line only
CUT_NOTICE, NOTES_CUT_NOTICE = "… (cut here: the post is longer than Zendesk allows)", "(older notes in Khoros) …"
_is_private = re.compile(r"\w*messag(e|es|ing)|messenger|[dp]ms?|chats?|inbox|private\w*", re.ASCII).fullmatch
_word_starts = re.compile("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})|[ _-]+")  # twitterDM, FBMessage, a_b
POSTS = {"twitter": "https://x.com/i/status/", "x": "https://x.com/i/status/", "facebook": "https://www.facebook.com/"}


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


def subject(item: StreamItem) -> str:
    """ "{author} on {network}: {start of the text}" on one line of at most 150 characters."""
    if item.network == TEST_NETWORK:
        return TEST_WORDS
    kind = _noun(item)
    text = visible_line(item.text) or f"picture or video {kind}"
    private = " (private message)" * (kind == "private message")
    return cut(f"{cut(author_name(item), NAME_LIMIT)} on {service_name(item.network)}{private}: {text}", SUBJECT_LIMIT)


def comment_html(post: Post, occasion: str = "", *, by_author: bool = False, public: bool = False) -> str:
    """The comment as HTML, of at most 64,000 characters. `occasion` comes first; with `by_author` it says where to
    answer, because the requester is the post's author. A `public` one has no notes: they are for colleagues only."""
    text = _lines(post.item.text) if visible_line(post.item.text) else ""
    for limits in LINK_LIMITS:
        values = _values(post, occasion, *limits)
        values["notes"] *= not public
        values["where_to_answer"] *= by_author and post.item.network != TEST_NETWORK
        left = COMMENT_LIMIT - len("".join(_filled(COMMENT, values)))
        if left >= min(len(text), POST_ROOM):
            break
    if text:
        values["text"] = _fit(text, min(POST_LIMIT, left), CUT_NOTICE)
    return "".join(_filled(COMMENT, values))


def _values(post: Post, occasion: str, own_limit: int, limit: int) -> dict[str, str]:
    """What fills the template of a post without text; a link longer than its limit is not clickable."""
    item, network, kind = post.item, escape(service_name(post.item.network)), _noun(post.item)
    author, opens, link = _inline(author_name(item)), f"Open the {kind} on {network}", _own_link(item)
    unlinked, again = f"{kind.capitalize()} on {network}: {_inline(link) or 'no link'}", min(limit, REPEATED_LINK_LIMIT)
    answer = _anchor(link, f"Answer on {network}", limit=again)
    return {
        "occasion": occasion or TEST_WORDS * (item.network == TEST_NETWORK),
        "open_post": _anchor(link, opens, unlinked, limit=own_limit),
        "profile": _anchor(item.author_link, f"{author}'s profile", author, limit=limit),
        "where_to_answer": f"A public reply in Zendesk does not reach the author. {answer}.",
        "notes": _notes(item),
        "text": f"<i>Picture or video {kind}: {_anchor(link, f'open it on {network}', limit=again)}</i>",
        "facts": "<br>".join(_filled(FACTS, _facts(post, limit))),
        "item_id": escape(item.entity_id),
        "event_uuid": escape(post.event_uuid),
    }


def _filled(template: str, values: Mapping[str, str]) -> list[str]:
    """The lines of a template, but for those without a value."""
    lines = template.strip().splitlines()
    return [line.format_map(values) for line in lines if all(values[name] for name in re.findall(r"{(\w+)}", line))]


def _facts(post: Post, limit: int) -> dict[str, str]:
    item, kind = post.item, _noun(post.item)
    also = f" ({_inline(screen_name(item))})" if screen_name(item) else ""
    type_words = _type_words(item)
    labels = post.labels or (() if post.rule else post.matched)
    return {
        "author": f"{_inline(author_name(item))}{also}{_followers(item.follower_count)}",
        "posted": _inline(date_words(item.created_date)),
        "type": "" if kind == "private message" or type_words in ("post", kind) else _inline(type_words),
        "parent_post": _reference(item.parent_post, limit),
        "in_reply_to": "" if item.in_reply_to == item.parent_post else _reference(item.in_reply_to, limit),
        "reposted_from": _reference(item.reposted_from, limit),
        "rule": _inline(post.rule),
        "labels": _inline(", ".join(dict.fromkeys(labels + item.labels))),
    }


def _noun(item: StreamItem) -> str:
    """What people call it: a post, a comment or a private message. Khoros publishes no list of its types."""
    words = re.findall("[a-z0-9]+", _type_words(item))
    if any(map(_is_private, words)) or words[-1:] == ["direct"]:
        return "private message"
    return "comment" if item.parent_post or "comment" in item.content_type.lower() else "post"


def _type_words(item: StreamItem) -> str:
    """The type as words: "twitter dm" for TwitterDM and TWITTER_DM."""
    return _word_starts.sub(" ", item.content_type).lower()


def author_name(item: StreamItem) -> str:
    """The author as a reader can see it: the screen name in place of an invisible name."""
    return visible_line(item.author) or visible_line(item.author_screen_name) or "Unknown author"


def screen_name(item: StreamItem) -> str:
    """ "@ada", or ""."""
    name = visible_line(item.author_screen_name).lstrip("@")
    return f"@{name}" if name else ""


def _followers(count: str) -> str:
    if not re.fullmatch("[0-9]{1,12}", count):
        return ""
    return f", {int(count):,} {'follower' if count == '1' else 'followers'}"


def _notes(item: StreamItem) -> str:
    """The notes that have a text, one below the other. When there are too many, the last ones, which are probably the
    newest: Khoros does not say."""
    notes, room = [_note(note) for note in item.notes if visible_line(note[2])], NOTES_LIMIT
    for number, note in reversed(list(enumerate(notes))):
        room -= len(note) + len("<br>")
        if room < 0 and number < len(notes) - 1:
            return "<br>".join([NOTES_CUT_NOTICE, *notes[number + 1 :]])
    return "<br>".join(notes)


def _note(note: tuple[str, str, str]) -> str:
    author, date, text = note
    about = ", ".join(filter(None, (_inline(author) or "A colleague", _inline(date_words(date)))))
    return f"{about}: {_lines(cut(clean(text), NOTE_LIMIT), isolated)}"


def _own_link(item: StreamItem) -> str:
    """The post's address, which is known of a post on X also when Khoros leaves it out."""
    on_x = item.network in ("twitter", "x") and _noun(item) != "private message"
    return item.link or (_address(item.entity_id) if on_x else "")


def _address(post: str) -> str:
    """Where the post with this id is, "" where nobody knows."""
    network, _, number = post.lower().partition(":")
    return POSTS[network] + number if network in POSTS and re.fullmatch("[0-9_]+", number) else ""


def _reference(post: str, limit: int) -> str:
    """A link to another post, or its id where nobody knows the address."""
    return _anchor(_address(post) or post, "this post", _inline(post), limit=limit) if post else ""


def _anchor(url: str, words: str, otherwise: str = "", *, limit: int) -> str:
    """The words, linked when the address is a plain web address of at most `limit` characters; otherwise other words,
    or the same. Both are HTML."""
    url = clean(url)
    if is_web_address(url) and len(url) <= limit:
        return f'<a href="{escape(url)}">{words}</a>'
    return otherwise or words


def _inline(text: str, limit: int = FIELD_LIMIT) -> str:
    """A stranger's words as HTML for a place inside a line."""
    return isolated(escape(cut(one_line(text), limit)))


def _lines(text: str, line_html: Callable[[str], str] = str) -> str:
    """A stranger's words as HTML, with their line breaks."""
    return "<br>".join(line_html(escape(line)) for line in clean(text).split("\n"))


def _fit(html: str, limit: int, notice: str) -> str:
    """`html` in at most `limit` characters, ending in `notice` when it had to be cut; never cut inside a tag."""
    if len(html) <= limit:
        return html
    return re.sub(r"(&[^;]{0,6}|<[^>]{0,3})$", "", html[: limit - len(notice)]) + notice


def occasion_of(post: Post) -> str:
    """The sentence that says which label or rule brought the post."""
    if post.rule:
        return f"Rule {_inline(post.rule)} matched this post."
    labels, several = ", ".join(map(_inline, post.matched[:5])), len(post.matched) > 1
    said = f"Labels {labels} were" if several else f"Label {labels} was" if labels else "A label was"
    return f"{said} applied to this post."
