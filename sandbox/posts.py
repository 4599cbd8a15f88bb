"""Posts for the inbox, in the form of Khoros' stream items. Brands and people are made up."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

NETWORKS = {
    "twitter": "X",
    "facebook": "Facebook",
    "instagram": "Instagram",
    "youtube": "YouTube",
    "linkedin": "LinkedIn",
    "tiktok": "TikTok",
}
OTHER_LABELS = ("Praise", "Idea", "Spam")  # the inbox offers them too; nobody subscribes to them
_SITES = {
    "twitter": "https://x.example/{name}/status/{id}",
    "facebook": "https://facebook.example/{name}/posts/{id}",
    "instagram": "https://instagram.example/p/{id}",
    "youtube": "https://youtube.example/watch?v=dQ8&lc={id}",
    "linkedin": "https://linkedin.example/feed/update/urn:li:activity:{id}",
    "tiktok": "https://tiktok.example/@{name}/video/{id}",
}


@dataclass(frozen=True)
class _Draft:
    network: str
    id: str
    author: str
    screen_name: str
    followers: int
    minutes_ago: int
    text: str | None
    labels: tuple[str, ...] = ()
    in_reply_to: str | None = None
    reposted_from: str | None = None
    note: str | None = None
    parent_post: str | None = None  # a comment's
    content_type: str = "post"


_DRAFTS = [
    _Draft("twitter", "1861030501129990301", "Mara Lindqvist", "maralind", 1843, 3,
           "@AcmeCoffee third time this week the app charges me twice for one flat white ☕️😤 "
           "order 88213. Can someone please look at this?"),
    _Draft("instagram", "17984001772310045", "Jonas & Pip", "jonasandpip", 20417, 9, None),
    _Draft("facebook", "104477_990127734", "Beatriz Okonkwo", "beatriz.okonkwo", 312, 16,
           "The grinder I bought from you in March stopped working this morning. "
           "The warranty page only shows an error.\n\nWho do I contact about a replacement?"),
    _Draft("twitter", "1861028822100041774", "Dev Raman", "dev_raman", 962, 24,
           "@AcmeCoffee thanks, but the link you sent leads to a 404 as well…",
           in_reply_to="twitter:1861027011000419840"),
    _Draft("youtube", "UgzK3-f0Lx9aVt2mB4B4AaABAg", "Kettle & Crumb", "kettleandcrumb", 58200, 41,
           "Great video! One question about step 3: is it 18 g **in** and 36 g **out**, or <18 & >36? "
           "The # in your recipe_card isn't clear to me *at all*",
           parent_post="youtube:dQ8w9AcmeV60", content_type="comment"),
    _Draft("linkedin", "7267001834455667712", "Ines Moreau", "ines-moreau", 4120, 65,
           "We ordered 40 gift boxes for our Lyon office. Delivery was promised for Tuesday, "
           "tracking has not moved since Friday. Could your business team get in touch?",
           note="Second message this week, please treat as priority."),
    _Draft("tiktok", "7440011223344556677", "tomasz.brews", "tomasz.brews", 133900, 94,
           "POV: your Acme pod machine decides it is a fountain ⛲️😂 "
           "is this covered by warranty or do I just get a mop"),
    _Draft("twitter", "1861015500000920061", "Oat Milk Ultras", "oatultras", 7754, 130,
           "This. Same thing in Leeds, points & vouchers vanished after the update.",
           reposted_from="twitter:1861012345678901248"),
    _Draft("facebook", "104477_990101822", "Rui Takahashi", "rui.takahashi", 88, 204,
           "Lovely service in the Harbour Street shop today, the new barista deserves a raise 💚", labels=("Praise",)),
]  # fmt: skip
_COMPLAINTS = [
    "My order {n} still has not arrived.",
    "Charged twice for order {n}, please help 🙏",
    "The app signs me out every time I open order {n}.",
    "Is order {n} lost? Tracking says “delivered” & it is not.",
    "Order {n} came without the filter papers 😕",
]
_FIRST_NAMES = ("Amara", "Luca", "Noor", "Sofie", "Mateo", "Yuki", "Grace", "Idris", "Elif", "Oscar", "Leilani")
_LAST_NAMES = ("Berg", "Costa", "Novak", "Haddad", "Sato", "Murphy", "Adeyemi", "Keller", "Rossi", "Singh")


def network_of(post_id: str) -> str:
    """The network's usual name, from an entityId."""
    short = post_id.partition(":")[0]
    return NETWORKS.get(short, short.capitalize())


def posts_at(now: float) -> list[dict[str, Any]]:
    """The first posts of the inbox. At `now` the newest is a few minutes old."""
    return [_stream_item(draft, now - draft.minutes_ago * 60) for draft in _DRAFTS]


def new_post(number: int, now: float) -> dict[str, Any]:
    """A new post with an id of its own. `number` chooses the words."""
    network = list(NETWORKS)[number % len(NETWORKS)]
    text = _COMPLAINTS[number % len(_COMPLAINTS)].format(n=40_000 + number)
    first, last = _FIRST_NAMES[number % len(_FIRST_NAMES)], _LAST_NAMES[number % len(_LAST_NAMES)]
    screen_name = f"{first}{last}{number}".lower()
    post_id = str(uuid.uuid4().int)[:19]
    return _stream_item(_Draft(network, post_id, f"{first} {last}", screen_name, number % 900, 0, text), now)


def _stream_item(draft: _Draft, posted_at: float) -> dict[str, Any]:
    created = datetime.fromtimestamp(posted_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    note = {
        "id": 51,
        "text": draft.note,
        "createdByDisplayName": "Ana (Social Care)",
        "createdDate": created,
        "lastModifiedByuserId": 4712,
        "lastModifiedDate": created,
    }
    return {
        "sfEntityType": "StreamItem",
        "entityId": f"{draft.network}:{draft.id}",
        "text": draft.text,
        "link": _SITES[draft.network].format(name=draft.screen_name, id=draft.id),
        "author": draft.author,
        "authorIcon": f"https://img.example/{draft.network}/{draft.screen_name}.png",
        "authorId": str(hash_of(draft.screen_name)),
        "authorLink": f"https://{draft.network}.example/{draft.screen_name}",
        "authorScreenName": draft.screen_name,
        "initiativeIds": [301],
        "contentType": draft.content_type,
        "createdDate": created,
        "followerCount": str(draft.followers),
        "labels": list(draft.labels),
        "notes": [note] if draft.note else [],
        "inReplyTo": draft.in_reply_to,
        "repostedFrom": draft.reposted_from,
        "parentPost": draft.parent_post,
    }


def as_delivered(post: dict[str, Any]) -> dict[str, Any]:
    """A post as events show it: X's own API writes three signs as HTML entities, and Khoros passes them on."""
    if network_of(post["entityId"]) != "X" or not isinstance(post["text"], str):
        return post
    return {**post, "text": escape(post["text"], quote=False)}


def hash_of(text: str) -> int:
    """A number for a text. It is the same in every run."""
    return int.from_bytes(text.encode()[:6].ljust(6, b"."), "big")
