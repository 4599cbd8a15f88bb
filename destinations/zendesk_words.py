"""From a social post to the body of a request: the ticket, its tags and fields, and its requester. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from config import as_secret
from destinations.text import cut, one_line
from destinations.zendesk_comment import Post, author_name, comment_html, occasion_of, screen_name, subject
from events import StreamItem, is_web_address

USER_LIMIT = 200  # characters of a user's name and external_id
FILLED_IN = ("comment", "description", "external_id", "id", "subject", "via_followup_source_id")
# Letters that are not made of a plain one and an accent.
_STROKES = str.maketrans({**dict(zip("łøđħŧıðŋƀɨ", "lodhtidnbi", strict=True)), "æ": "ae", "œ": "oe", "þ": "th"})
_carries_meaning = re.compile(r"[^a-z0-9\s_.,;:!?'\"()\[\]{}<>/\\|&–—‘’‚“”„«»‹›·•-]").search  # in a tag, if not there

_is_no_id = re.compile("-?[0.]*|-1|null|none|undefined|nan", re.IGNORECASE).fullmatch  # 0, -0.0


@dataclass(frozen=True)
class Style:
    """What the deployer chose for every ticket. `by_author`: the post's author is the requester."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    public: bool = False
    by_author: bool = False

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
    heading = occasion_of(post) if follow_up_of else heading
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
    return _request_body({"comment": _comment(post, style, occasion_of(post))})


def _comment(post: Post, style: Style, occasion: str) -> dict[str, Any]:
    html = comment_html(post, occasion, by_author=style.by_author, public=style.public)
    return {"html_body": html, "public": style.public}


def with_requester(body: bytes, user_id: str | None) -> bytes:
    """The request body of a ticket with this requester, or with none."""
    ticket = json.loads(body)["ticket"]
    ticket.pop("requester_id", None)
    return _request_body(ticket if user_id is None else {**ticket, "requester_id": int(user_id)})


def user_body(item: StreamItem) -> bytes:
    """The request body that makes a user of the post's author.

    https://developer.zendesk.com/api-reference/ticketing/users/users/#create-or-update-user
    """
    user = {
        "name": cut(author_name(item), USER_LIMIT),
        "external_id": author_key(item),
        "remote_photo_url": item.author_icon if is_web_address(item.author_icon) else "",
        "details": one_line(f"{screen_name(item)} {item.author_link}"),
    }
    known = {name: value for name, value in user.items() if value}
    return json.dumps({"user": {**known, "skip_verify_email": True}}).encode("ascii")


def author_key(item: StreamItem) -> str:
    """The post's author as Zendesk's external_id, "twitter:1234" or "twitter:@ada"; "" when nobody knows. The number
    counts first: screen names are given up, and taken by others."""
    network = "twitter" if item.network == "x" else item.network
    number = one_line(item.author_id).removeprefix(f"{item.network}:").removeprefix(f"{network}:")
    name = screen_name(item).lower() if _is_no_id(number) else number
    key = f"{network}:{name}"
    return key if name and len(key) <= USER_LIMIT else ""


def label_tags(post: Post) -> list[str]:
    """The tags that name the labels or the rule which brought the post."""
    return list(dict.fromkeys(map(_label_tag, (post.rule,) if post.rule else post.matched)))


# Tags


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


# Fields


def read_requester(value: str) -> str:
    """agent or author. Raises ValueError."""
    if value.lower() not in ("agent", "author"):
        raise ValueError("must be agent or author")
    return value.lower()


def read_email(value: str) -> str:
    """An e-mail address, also with the /token that Zendesk's examples put behind it. Raises ValueError."""
    address = as_secret(value.partition("/token")[0])
    if re.fullmatch(r"[^@:<>]+@[\w-]+(\.[\w-]+)+", address):
        return address
    raise ValueError("is not an e-mail address")


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
