"""A post with everything in it, its ticket, and a reader of the ticket's comment that refuses what we never write."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from destinations.zendesk_comment import Post
from destinations.zendesk_words import Style, ticket_body
from events import StreamItem

ZENDESK_LIMIT = 65_000  # characters of a comment
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
FLAG = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"  # Scotland: made with tag characters
EVENT_UUID = "5f0c4b7e-1c5c-4f0e-9a5d-0d9f2c1b7a11"
ITEM: dict[str, Any] = {
    "entityId": "twitter:73819284756",
    "text": "My printer is on fire!\nHelp",
    "link": "https://twitter.com/ada/status/73819284756",
    "author": "Ada Lovelace",
    "authorLink": "https://twitter.com/ada",
    "authorScreenName": "ada",
    "createdDate": "2011-05-26T18:23:31.000Z",
    "followerCount": "1234567",
    "labels": ["CreateCase", "printer"],
    "notes": [{"text": "A good customer", "createdByDisplayName": "Grace", "createdDate": "2011-05-26T18:30:02.000Z"}],
    "inReplyTo": "https://twitter.com/acme/status/1",
    "repostedFrom": {"entityId": "twitter:2"},
}
TEXTS = ["text", "author", "authorScreenName", "createdDate", "followerCount", "labels", "inReplyTo", "repostedFrom"]
LINKS = ["link", "authorLink", "inReplyTo", "repostedFrom"]
STYLE = Style()


def item(**changes: object) -> StreamItem:
    return StreamItem.parse({**ITEM, **changes})


def post(*labels: str, **changes: object) -> Post:
    """A post whose event names these labels, all of which a route names."""
    return Post(item(**changes), EVENT_UUID, labels, labels)


def ruled(name: str, **changes: object) -> Post:
    """A post that a rule of this name has matched."""
    return Post(item(**changes), EVENT_UUID, rule=name)


def ticket(post: Post, style: Style = STYLE, **options: Any) -> dict[str, Any]:
    body = json.loads(ticket_body(post, style, **options))
    assert list(body) == ["ticket"]
    found: dict[str, Any] = body["ticket"]
    return found


class Page(HTMLParser):
    """Reads a comment as a browser would, and refuses what we never write."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[tuple[str, str]] = []
        self.text, self._open = "", [""]
        self.feed(html)
        self.close()
        assert self._open == [""], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("p", "br", "b", "i", "a", "small"), tag
        if tag == "br":
            self.text += "\n"
        else:
            self._open.append(tag)
        if tag == "a":
            ((name, value),) = attrs
            assert name == "href"
            self.links.append((value or "", ""))
        else:
            assert attrs == [] or (tag, attrs) == ("p", [("dir", "auto")])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.text += "\n\n" if tag == "p" else ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open[-1] == "a":
            href, words = self.links[-1]
            self.links[-1] = (href, words + data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    handle_comment = handle_pi = unknown_decl


def page(post: Post, style: Style = STYLE) -> Page:
    comment = ticket(post, style)["comment"]
    assert len(comment["html_body"]) <= ZENDESK_LIMIT
    return Page(comment["html_body"])


def paragraphs(post: Post) -> list[str]:
    return page(post).text.strip().split("\n\n")


def facts(post: Post) -> list[str]:
    return paragraphs(post)[-2].split("\n")


def text_of(post: Post) -> str:
    """What the author wrote, as the comment shows it."""
    return paragraphs(post)[-3]


# Where the links of the post lead, and of what they are made.
HREFS = {"link": ITEM["link"], "authorLink": ITEM["authorLink"], "inReplyTo": ITEM["inReplyTo"]}
HREFS["repostedFrom"] = "https://x.com/i/status/2"
