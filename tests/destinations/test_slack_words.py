"""What a Slack message says, and that no stranger's text in it is more than text."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from destinations.slack_words import NAMED, content, digest_content
from events import (
    CREDENTIAL_DEAUTH,
    CREDENTIAL_DELETE,
    LABEL_APPLIED,
    MESSAGE_NEEDS_APPROVAL,
    MESSAGE_PUBLISHED,
    MESSAGE_SENT,
    RULE_APPLIED,
    Subject,
)
from sandbox.slack_blocks import mentions, parts, refusal

POST = {
    "entityId": "twitter:1",
    "text": "My order never came.\nWhere is it?",
    "link": "https://x.example/jo/status/1",
    "author": "Jo Customer",
    "authorScreenName": "jo",
    "followerCount": "1843",
}
MESSAGE = {
    "id": "4711",
    "title": "Autumn sale",
    "content": {"text": "20 % off"},
    "service": "FACEBOOK",
    "labels": ["Campaigns - Autumn"],
    "publicationResults": [
        {"accountId": "12", "status": "PUBLISHED", "serviceLink": "https://facebook.example/p/1"},
        {"accountId": "13", "status": "PUBLISHED", "serviceLink": "https://facebook.example/p/2"},
    ],
    "scheduledPublishDate": 1_700_000_000_000,
}
HOSTILE = (
    "<!channel> <!here|x> <@U0000001> <#C0000001> <!subteam^S1> @channel @here @everyone",
    "a & b < c > d &lt;!channel&gt; <https://evil.example|click> [x](https://evil.example)",
    ":boom: :white_check_mark::skin-tone-2: *bold* _it_ ~x~ `code` ```pre``` > quote",
    "\u202egnp.exe \u2066x\u2069 \x00 \x1b[31m \ud83d",
    "\n".join(["x"] * 500),
    "👩‍👩‍👧" * 3_000,
    "&" * 5_000,
    "\u202e\u2066",
    "",
)


def subject(event_name: str = LABEL_APPLIED, raw: object = None, **more: Any) -> Subject:
    payload = {"event": event_name, "labels": ["VIP"], "matched": ["VIP"], "item": POST if raw is None else raw, **more}
    return Subject.parse(payload)


def shown(said: dict[str, Any]) -> list[str]:
    """The texts of the blocks, in order."""
    return [part["text"] for part in parts(json.loads(json.dumps(said["blocks"]))) if isinstance(part.get("text"), str)]


def links(said: dict[str, Any]) -> list[str]:
    return [part["url"] for part in parts(json.loads(json.dumps(said["blocks"]))) if part.get("type") == "link"]


# What a person sees


def test_a_post_shows_who_where_what_why_and_a_link() -> None:
    said = content(subject())
    assert shown(said) == [
        "Jo Customer @jo on X",
        "My order never came.\nWhere is it?",
        "Label VIP · 1,843 followers",
        " · ",
        "Open the post",
    ]
    assert links(said) == ["https://x.example/jo/status/1"]
    assert said["text"] == "Jo Customer @jo on X: My order never came. Where is it?"


def test_a_strangers_words_stand_in_a_quotation_of_their_own() -> None:
    [block] = content(subject())["blocks"]
    assert [part["type"] for part in block["elements"]] == ["rich_text_section", "rich_text_quote", "rich_text_section"]


def test_a_rule_is_named() -> None:
    rule = {"id": "7", "name": "Product recall"}
    assert "Rule Product recall · 1,843 followers" in shown(content(subject(RULE_APPLIED, matched=[], rule=rule)))
    assert "Rule 7" in " ".join(shown(content(subject(RULE_APPLIED, matched=[], rule={"id": "7"}))))


def test_only_the_labels_that_lead_here_are_named_and_others_when_none_is_known() -> None:
    assert "Label VIP ·" in " ".join(shown(content(subject(labels=["Spam", "VIP"]))))
    assert "Label Spam ·" in " ".join(shown(content(subject(labels=["Spam"], matched=[]))))


def test_a_label_that_khoros_does_not_name_is_not_made_up_from_those_on_the_post() -> None:
    said = content(subject(labels=[], matched=[], raw={**POST, "labels": ["Idea"]}))
    assert "Label not given by Khoros · 1,843 followers" in shown(said)


def test_the_same_post_again_is_short_and_says_which_post_it_is() -> None:
    said = content(subject(matched=["Billing"], raw={**POST, "text": "My order\n" + "never came " * 99}), again=True)
    heading, text, *rest = shown(said)
    assert heading == "This post came again: Jo Customer @jo on X"
    assert text.startswith("My order never came") and text.endswith("…") and len(text) <= 100
    assert rest == ["Label Billing", " · ", "Open the post"]
    assert said["text"].startswith("This post came again: Jo Customer @jo on X: My order")


@pytest.mark.parametrize(
    ("raw", "heading", "text"),
    [
        ({"entityId": "instagram:1"}, "Unknown author on Instagram", "(no text: see the post)"),
        ({"entityId": "x", "author": "Jo"}, "Jo on Khoros", "(no text: see the post)"),
        ({"entityId": "tiktok:1", "authorScreenName": "@jo", "text": "Hi"}, "@jo on TikTok", "Hi"),
    ],
)
def test_what_is_not_known_is_left_out(raw: dict[str, str], heading: str, text: str) -> None:
    assert shown(content(subject(raw=raw))) == [heading, text, "Label VIP"]


def test_a_published_message_shows_title_network_text_and_every_permalink() -> None:
    said = content(subject(MESSAGE_PUBLISHED, MESSAGE))
    assert shown(said)[:3] == [
        "Published on Facebook: Autumn sale",
        "20 % off",
        "Message 4711 · Campaigns - Autumn · planned for 2023-11-14 22:13 UTC",
    ]
    assert links(said) == ["https://facebook.example/p/1", "https://facebook.example/p/2"]
    assert shown(said)[3:] == [" · ", "Open the post of account 12", " · ", "Open the post of account 13"]
    alone = content(subject(MESSAGE_PUBLISHED, {**MESSAGE, "publicationResults": MESSAGE["publicationResults"][:1]}))  # type: ignore[index]
    assert shown(alone)[3:] == [" · ", "Open the post"]


def test_the_other_events_of_a_message_say_what_happened() -> None:
    assert shown(content(subject(MESSAGE_SENT, MESSAGE)))[0] == "Taken for its date by Facebook: Autumn sale"
    assert (
        shown(content(subject(MESSAGE_NEEDS_APPROVAL, MESSAGE)))[0] == "Waits for approval, for Facebook: Autumn sale"
    )
    bare = content(subject(MESSAGE_PUBLISHED, {}))
    assert shown(bare)[0] == "Published on Khoros: a message without a title" and refusal(bare) is None


def test_a_refused_message_says_so_first() -> None:
    results = [{"accountId": "12", "status": "PENDING"}, {"accountId": "13", "status": "ERROR"}, {"status": "error"}]
    said = content(subject(MESSAGE_PUBLISHED, {**MESSAGE, "publicationResults": results}))
    assert shown(said)[0] == "⚠️ Facebook refused it for account 13, unknown: Autumn sale"
    assert said["text"].startswith("⚠️ Facebook refused it")


def test_a_message_that_only_some_accounts_could_publish_says_both() -> None:
    results = [{"accountId": "12", "status": "PUBLISHED"}, {"accountId": "13", "status": "ERROR"}]
    said = content(subject(MESSAGE_PUBLISHED, {**MESSAGE, "publicationResults": results}))
    assert shown(said)[0] == "⚠️ Published on Facebook, but Facebook refused it for account 13: Autumn sale"


def test_many_accounts_leave_room_for_the_title_and_five_links() -> None:
    results = [
        {"accountId": f"account-{n}", "status": "ERROR", "serviceLink": f"https://x.example/{n}"} for n in range(99)
    ]
    said = content(subject(MESSAGE_PUBLISHED, {**MESSAGE, "publicationResults": results}))
    assert shown(said)[0].endswith("…: Autumn sale") and len(links(said)) == 5


def test_an_account_that_is_gone_says_what_that_means_and_shows_what_came_but_no_secret() -> None:
    raw = {"name": "Acme on X", "service": "TWITTER", "accessToken": "s3cret", "more": {"a": 1}}
    said = content(subject(CREDENTIAL_DEAUTH, raw))
    assert shown(said)[0] == "A social account was disconnected: its posts no longer arrive"
    assert shown(said)[1] == "name: Acme on X\nservice: TWITTER"
    assert "removed from Khoros" in shown(content(subject(CREDENTIAL_DELETE, {})))[0]


@pytest.mark.parametrize("date", [0, -5, 10**15, "nonsense", "0001-01-01T00:00:00+14:00", None])
def test_an_odd_date_never_stops_a_message(date: object) -> None:
    assert refusal(content(subject(MESSAGE_PUBLISHED, {**MESSAGE, "scheduledPublishDate": date}))) is None


# Digests


def test_a_digest_names_twenty_and_counts_the_rest() -> None:
    said = digest_content([subject(raw={**POST, "entityId": f"twitter:{n}", "author": f"A{n}"}) for n in range(43)])
    texts = shown(said)
    assert texts[0] == "43 came in at once" and texts[-1] == "and 23 more: see them in Khoros"
    assert [text for text in texts if re.match("A[0-9]+ ", text)] == [f"A{n} @jo on X" for n in range(NAMED)]
    assert len(links(said)) == NAMED and said["text"] == "43 came in at once"
    assert texts[2] == ": My order never came. Where is it? (Label VIP)"


def test_a_digest_of_a_thousand_long_ones_is_within_slacks_limits() -> None:
    long = {**MESSAGE, "title": "😀" * 900, "content": {"text": "&<>" * 900}, "labels": ["x" * 99] * 9}
    far = {**POST, "text": "w" * 9_000, "author": "é" * 500, "link": "https://x.example/" + "y" * 1_900}
    said = digest_content([subject(raw=far), subject(MESSAGE_PUBLISHED, long), subject(CREDENTIAL_DEAUTH, {})] * 333)
    assert refusal(json.loads(json.dumps(said))) is None


def test_a_digest_without_more_has_no_count() -> None:
    assert "more" not in " ".join(shown(digest_content([subject()] * NAMED)))


# Hostile texts, through every field


def hostile_subjects(text: str) -> list[Subject]:
    post = {name: text for name in (*POST, "authorLink", "createdDate")} | {"entityId": "twitter:1"}
    odd_network = {"entityId": f"{text[:40] if text.isprintable() else 'odd'}:1"}
    result = {"accountId": text, "status": "ERROR", "serviceLink": text}
    message = {
        "id": text,
        "title": text,
        "content": {"text": text, "videoTitle": text},
        "service": text,
        "labels": [text],
    }
    names: dict[str, Any] = {"labels": [text], "matched": [text]}
    return [
        subject(raw=post, **names),
        subject(raw=odd_network),
        subject(RULE_APPLIED, post, matched=[], rule={"id": text, "name": text}),
        subject(MESSAGE_PUBLISHED, {**message, "publicationResults": [result, {"status": text, "serviceLink": text}]}),
        subject(MESSAGE_NEEDS_APPROVAL, message),
        subject(CREDENTIAL_DEAUTH, {text: text, "name": text}),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_stranger_mentions_anyone_or_is_read_as_markup(text: str) -> None:
    hostile = hostile_subjects(text)
    for said in [*map(content, hostile), content(hostile[0], again=True), digest_content(hostile * 9)]:
        said = json.loads(json.dumps(said))
        kinds = {part["type"] for part in parts(said["blocks"])}
        assert kinds <= {"rich_text", "rich_text_section", "rich_text_quote", "rich_text_list", "text", "link"}
        assert refusal(said) is None, refusal(said)
        assert mentions(said) == []
        assert not re.search("[<>]|&(?!amp;|lt;|gt;)", said["text"])
        assert not re.search(r":[\w+'-]+:", said["text"])
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09]", json.dumps(said, ensure_ascii=False))
        assert all(url.startswith("http") for url in links(said)) and len(said["text"]) < 4_000


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "https://",
        "//x.example",
        "data:text/html,x",
        "https://x.example/" + "y" * 3_000,
        "\u202e",
        "http://[",
    ],
)
def test_an_address_that_slack_would_refuse_is_no_link(address: str) -> None:
    said = content(subject(raw={**POST, "link": address}))
    assert links(said) == [] and refusal(json.loads(json.dumps(said))) is None


def test_an_address_in_any_script_is_a_link() -> None:
    assert links(content(subject(raw={**POST, "link": "https://x.example/größe|a>b"}))) == [
        "https://x.example/gr%C3%B6%C3%9Fe%7Ca%3Eb"
    ]


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    text = shown(content(subject(raw={**POST, "text": "word " * 2_000})))[1]
    assert text.endswith("…") and 2_800 < len(text) <= 2_900


def test_a_message_that_comes_again_says_everything_again() -> None:
    assert content(subject(MESSAGE_PUBLISHED, MESSAGE), again=True) == content(subject(MESSAGE_PUBLISHED, MESSAGE))
