"""What an agent reads in a ticket, and what no stranger can slip in."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posts import (
    EVENT_UUID,
    FAMILY,
    FLAG,
    HREFS,
    ITEM,
    LINKS,
    STYLE,
    TEXTS,
    ZENDESK_LIMIT,
    Page,
    facts,
    item,
    page,
    paragraphs,
    post,
    text_of,
    ticket,
)

from destinations.zendesk_comment import COMMENT_LIMIT, CUT_NOTICE, NOTES_CUT_NOTICE, Post, comment_html, subject
from destinations.zendesk_words import Style, note_body

# The subject


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"author": ""}, "ada on X: My printer is on fire! Help", id="screen name for author"),
        pytest.param(
            {"author": "", "authorScreenName": ""}, "Unknown author on X: My printer is on fire! Help", id="no"
        ),
        pytest.param({"author": "\x00\u2028\u200b\u3164"}, "ada on X: My printer is on fire! Help", id="nobody"),
        pytest.param({"text": "\x07 \n"}, "Ada Lovelace on X: picture or video post", id="a text of nothing"),
        pytest.param(
            {"text": "a\r\n\t b\u2028c\u2029d\x0be\x0cf\x85g"}, "Ada Lovelace on X: a b c d e f g", id="lines"
        ),
        pytest.param({"author": "Ada\nSubject: x", "text": "a"}, "Ada Subject: x on X: a", id="a line in a name"),
        pytest.param(
            {"text": "<b>&amp;", "entityId": "1"}, "Ada Lovelace on Khoros: <b>&amp;", id="not HTML, so not escaped"
        ),
        pytest.param({"author": "a" * 61, "text": "b"}, f"{'a' * 59}… on X: b", id="a long name"),
        pytest.param({"text": "a" * 132}, f"Ada Lovelace on X: {'a' * 130}…"[:150], id="a text of one too many"),
        pytest.param({"text": "a" * 131}, f"Ada Lovelace on X: {'a' * 131}", id="a text that just fits"),
        pytest.param({"text": "a" * 129 + " b" * 9}, f"Ada Lovelace on X: {'a' * 129}…", id="no space before the end"),
        pytest.param({"text": FAMILY + FLAG}, f"Ada Lovelace on X: {FAMILY}{FLAG}", id="joined emoji"),
    ],
)
def test_the_subject_is_one_readable_line_of_150_characters_at_most(changes: dict[str, Any], expected: str) -> None:
    assert subject(item(**changes)) == expected
    assert len(expected) <= 150


@pytest.mark.parametrize(
    ("entity_id", "name"),
    [("twitter:1", "X"), ("Facebook:1", "Facebook"), ("mastodon:1", "Mastodon"), ("1", "Khoros")],
)
def test_a_network_has_the_name_people_know(entity_id: str, name: str) -> None:
    assert subject(item(entityId=entity_id)).startswith(f"Ada Lovelace on {name}: ")


# The comment


def test_the_first_line_leads_to_the_post_and_its_author() -> None:
    assert paragraphs(post())[0] == "Open the post on X · Ada Lovelace's profile"
    assert page(post()).links[:2] == [
        ("https://twitter.com/ada/status/73819284756", "Open the post on X"),
        ("https://twitter.com/ada", "Ada Lovelace's profile"),
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"link": "", "entityId": "twitter:a"}, "Post on X: no link · Ada Lovelace's profile"),
        ({"link": "twitter.com/1"}, "Post on X: twitter.com/1 · Ada Lovelace's profile"),
        ({"authorLink": ""}, "Open the post on X · Ada Lovelace"),
        ({"author": "\u2060"}, "Open the post on X · ada's profile"),
        ({"contentType": "comment"}, "Open the comment on X · Ada Lovelace's profile"),
        ({"parentPost": "twitter:1"}, "Open the comment on X · Ada Lovelace's profile"),
        ({"contentType": "directMessage"}, "Open the private message on X · Ada Lovelace's profile"),
        (
            {"contentType": "PRIVATE", "parentPost": "x:1"},
            "Open the private message on X · Ada Lovelace's profile",
        ),
    ],
)
def test_the_first_line_says_what_it_is(changes: dict[str, Any], line: str) -> None:
    assert paragraphs(post(**changes))[0] == line


@pytest.mark.parametrize(
    "content_type",
    """instagram_direct_message twitter_direct_message TWITTER_DM TwitterDM TwitterDMs facebook_message private
    FacebookPrivateMessage FBPrivateMessage fb_private_message inbox_message message_request dm DMs direct_message
    DIRECT_MESSAGE directMessages directmessage direct instagram_direct messenger FacebookMessenger message chat
    private-reply twitter/dm""".split(),
)
def test_a_private_message_is_known_by_a_word_of_its_type(content_type: str) -> None:
    made = post(contentType=content_type)
    assert paragraphs(made)[0].startswith("Open the private message on X")
    assert not [line for line in facts(made) if line.startswith("Type")]


@pytest.mark.parametrize("content_type", ["direct_reply", "Directory", "post", "privacy", "admin", "chatter", "review"])
def test_what_only_looks_like_a_private_message_is_a_post(content_type: str) -> None:
    assert paragraphs(post(contentType=content_type))[0].startswith("Open the post on X")


@pytest.mark.parametrize("network", ["twitter", "x", "Twitter"])
def test_a_post_on_x_has_a_link_even_when_khoros_gives_none(network: str) -> None:
    made = page(post(link="", entityId=f"{network}:123"))
    assert ("https://x.com/i/status/123", "Open the post on X") in made.links


@pytest.mark.parametrize(
    "changes",
    [{"entityId": "twitter:../1"}, {"entityId": "facebook:1"}, {"contentType": "dm"}],
    ids=["no number", "another network", "a private message"],
)
def test_no_link_is_made_up(changes: dict[str, Any]) -> None:
    assert "no link" in paragraphs(post(**{"link": "", "entityId": "twitter:1", **changes}))[0]


def test_the_subject_names_a_private_message() -> None:
    made = item(contentType="directMessage", text="Hello")
    assert subject(made) == "Ada Lovelace on X (private message): Hello"


def test_all_notes_of_colleagues_come_before_the_post_with_who_and_when() -> None:
    notes = [{"text": f"note {n}", "createdByDisplayName": "Grace", "createdDate": 1795745251000} for n in range(9)]
    made = post(notes=[*notes, "please treat\nas priority"])
    shown = paragraphs(made)
    assert shown[1].split("\n") == [
        "Notes in Khoros",
        *(f"Grace, 27 Nov 2026, 02:07 UTC: note {n}" for n in range(9)),
        "A colleague: please treat",
        "as priority",
    ]
    assert shown[2] == text_of(made) == "My printer is on fire!\nHelp"


@pytest.mark.parametrize(
    ("notes", "shown"),
    [
        ("please hurry", ["A colleague: please hurry"]),
        ({"text": "a", "createdByDisplayName": "Grace"}, ["Grace: a"]),
        ([{"text": ""}, None, "", {}, {"text": "\u200b", "createdByDisplayName": "Grace"}, "b"], ["A colleague: b"]),
        ([{"text": "אבג\nabc"}], ["A colleague: \u2068אבג\u2069", "abc"]),
    ],
    ids=["a text", "an object", "empty ones", "from right to left"],
)
def test_notes_are_read_however_they_come_and_empty_ones_left_out(notes: object, shown: list[str]) -> None:
    assert paragraphs(post(notes=notes))[1].split("\n") == ["Notes in Khoros", *shown]


@pytest.mark.parametrize("notes", [None, "", [], [None], [{"text": " "}]], ids=str)
def test_without_notes_there_is_no_line_about_them(notes: object) -> None:
    assert "Notes in Khoros" not in page(post(notes=notes)).text


@pytest.mark.parametrize("body", [ticket, lambda made, style: json.loads(note_body(made, style))["ticket"]])
def test_a_public_comment_has_no_notes_of_colleagues(body: Any) -> None:
    public, internal = (body(post(), Style(public=public))["comment"]["html_body"] for public in (True, False))
    assert "A good customer" not in public and "Notes in Khoros" not in public
    assert "A good customer" in internal and "My printer is on fire!" in public


def test_a_public_reply_is_said_to_reach_nobody_when_the_requester_is_the_author() -> None:
    words = "A public reply in Zendesk does not reach the author. Answer on X."
    read = Page(comment_html(post(), by_author=True))
    assert read.text.split("\n\n")[1] == words
    assert (ITEM["link"], "Answer on X") in read.links
    assert words not in page(post()).text
    assert words in Page(comment_html(post(link=""), by_author=True)).text


@pytest.mark.parametrize("text", ["", "  \n", "\x00\x07", "\u2028", "\u200b\u2060", None, []], ids=ascii)
def test_a_post_without_text_leads_to_its_picture(text: object) -> None:
    made = post(text=text, entityId="instagram:1", link="https://instagram.example/p/" + "x" * 2000)
    assert text_of(made) == "Picture or video post: open it on Instagram"
    assert (made.item.link, "open it on Instagram") in page(made).links


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85"], ids=ascii)
def test_every_kind_of_line_break_is_kept_as_one(end: str) -> None:
    assert '<p dir="auto">a<br>b</p>' in comment_html(post(text=f"a{end}b"))


@pytest.mark.parametrize(
    "text",
    [
        FAMILY,
        FLAG,
        "\u2764\ufe0f",
        "می\u200cخواهم",
        "עברית and العربية \u200f!",
        "e\u0301 日本語",
        "#not *bold* _at_ all",
        "&lt;b&gt; &amp;amp;",
        "{text} {facts}",
    ],
    ids=["family", "flag", "heart", "joiner", "both directions", "accents", "not Markdown", "not HTML", "no template"],
)
def test_a_text_arrives_as_it_was_written(text: str) -> None:
    assert text_of(post(text=text, entityId="facebook:1")) == text


def test_the_entities_of_x_are_decoded_once() -> None:
    made = post(text="Q&amp;A &lt;3 &#39;&quot; &amp;lt;", author="Tom &amp; Jo")
    assert text_of(made) == "Q&A <3 '\" &lt;"
    assert facts(made)[0].startswith("By Tom & Jo ")


DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("name", TEXTS)
def test_no_field_turns_the_words_after_it(name: str) -> None:
    """What is written from right to left is closed off; nothing else has a direction of its own."""
    made = post(**{name: f"{DIRECTIONS}evil{DIRECTIONS}אבג", "notes": ["\u202eevil"]})
    for text in (page(made).text, subject(made.item)):
        closed_off = re.sub(f"\u2068([^\n{DIRECTIONS}]*)\u2069", r"\1", text)
        assert not set(closed_off) & set(DIRECTIONS)
    assert "A colleague: evil" in page(made).text
    assert name == "followerCount" or "evilאבג" in page(made).text


def test_a_name_from_right_to_left_is_closed_off_in_its_line() -> None:
    made = post(author="דנה", notes=[{"text": "دير", "createdByDisplayName": "ليلى"}], labels=["דחוף"])
    name = "\u2068דנה\u2069"
    assert paragraphs(made)[0] == f"Open the post on X · {name}'s profile"
    assert facts(made)[0] == f"By {name} (@ada), 1,234,567 followers"
    assert "\u2068ليلى\u2069: \u2068دير\u2069" in page(made).text
    assert facts(made)[-1] == "Labels: \u2068דחוף\u2069"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "By Ada Lovelace (@ada), 1,234,567 followers"),
        ({"author": ""}, "By ada (@ada), 1,234,567 followers"),
        ({"author": "", "authorScreenName": "", "followerCount": 5}, "By Unknown author, 5 followers"),
        ({"authorScreenName": "@ada", "followerCount": "0"}, "By Ada Lovelace (@ada), 0 followers"),
        ({"followerCount": "1"}, "By Ada Lovelace (@ada), 1 follower"),
        ({"followerCount": "many"}, "By Ada Lovelace (@ada)"),
        ({"followerCount": "9" * 400}, "By Ada Lovelace (@ada)"),
        ({"author": "\u0301\u0323"}, "By ada (@ada), 1,234,567 followers"),
        ({"author": "Ada\nposted now", "followerCount": ""}, "By Ada posted now (@ada)"),
        ({}, "posted 26 May 2011, 18:23 UTC"),
        ({"createdDate": "Wed Apr 12 09:01:11 CDT 2017"}, "posted 12 Apr 2017, 14:01 UTC"),
        ({"createdDate": 1795745251000}, "posted 27 Nov 2026, 02:07 UTC"),
        ({"createdDate": "lately"}, "posted lately"),
        ({"contentType": "review"}, "Type: review"),
        ({"contentType": "storyMention"}, "Type: story mention"),
        ({"parentPost": "facebook:1_2"}, "Comment on this post"),
        ({"parentPost": {"author": "Ada"}}, "Comment on Ada"),
        ({"inReplyTo": "mastodon:7"}, "Reply to mastodon:7"),
        ({"repostedFrom": {"link": "https://a.example/1", "entityId": "x:1"}}, "Repost of this post"),
        ({"labels": ["b", "b", "c"]}, "Labels: b, c"),
        ({"labels": ["x" * 300]}, f"Labels: {'x' * 199}…"),
    ],
)
def test_each_fact_is_one_line(changes: dict[str, Any], line: str) -> None:
    assert line in facts(post(**changes))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"createdDate": None}, "posted"),
        ({"contentType": "post"}, "Type"),
        ({"contentType": "comment"}, "Type"),
        ({}, "Comment on"),
        ({"inReplyTo": None}, "Reply to"),
        ({"inReplyTo": "twitter:1", "parentPost": "twitter:1"}, "Reply to"),
        ({"repostedFrom": {}}, "Repost of"),
        ({}, "Rule"),
        ({"labels": []}, "Labels"),
    ],
)
def test_what_is_not_known_has_no_line(changes: dict[str, Any], missing: str) -> None:
    assert not [line for line in facts(post(**changes)) if line.startswith(missing)]


@pytest.mark.parametrize(
    ("reference", "address"),
    [
        ("twitter:855", "https://x.com/i/status/855"),
        ("X:855", "https://x.com/i/status/855"),
        ("facebook:1_2", "https://www.facebook.com/1_2"),
        ("https://a.example/1", "https://a.example/1"),
        ("twitter:../evil", None),
        ("instagram:1", None),
    ],
)
def test_another_post_is_linked_where_its_address_is_known(reference: str, address: str | None) -> None:
    links = page(post(inReplyTo=reference, repostedFrom=None)).links
    assert [href for href, words in links if words == "this post"] == ([address] if address else [])


def test_the_labels_of_the_event_come_before_those_of_the_post() -> None:
    assert facts(post("new", "printer"))[-1] == "Labels: new, printer, CreateCase"


def test_the_ids_come_last_and_small() -> None:
    made = post(entityId="facebook:1_<2>")
    assert paragraphs(made)[-1] == f"Khoros item facebook:1_<2>, event {EVENT_UUID}"
    assert comment_html(made).endswith(f"event {EVENT_UUID}</small></p>")


# Too long


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 70_000, id="letters"),
        pytest.param("&" * 70_000, id="ampersands"),
        pytest.param("\n".join("y" * 35_000), id="line breaks"),
        pytest.param("<>\"'&" * 14_000, id="everything that is escaped"),
        pytest.param(FAMILY * 10_000, id="emoji"),
        pytest.param("z" + "&" * 70_000, id="ampersands, one further"),
        pytest.param("zz" + "&" * 70_000, id="ampersands, two further"),
        pytest.param("zzz" + "'" * 70_000, id="quotes"),
        *[pytest.param("z" * n + "\n" + "\n".join("y" * 35_000), id=f"line breaks, {n} further") for n in range(1, 5)],
    ],
)
def test_a_text_of_60000_characters_and_more_is_cut_in_one_piece_and_says_so(text: str) -> None:
    made = post(text=text, notes=["<" * 500] * 9, link="https://a.example/" + "&" * 90, author="'" * 300)
    html = ticket(made)["comment"]["html_body"]
    assert 50_000 < len(html) <= ZENDESK_LIMIT
    shown = text_of(made)
    assert shown.endswith(CUT_NOTICE)
    assert text.startswith(shown.removesuffix(CUT_NOTICE))
    assert paragraphs(made)[-1].endswith(f"event {EVENT_UUID}")
    assert len(html.partition('<p dir="auto">')[2].partition("</p>")[0]) <= 60_000


def test_a_text_that_just_fits_is_not_cut() -> None:
    assert text_of(post(text="x" * 60_000)) == "x" * 60_000
    assert text_of(post(text="x" * 60_001)).endswith(CUT_NOTICE)


def test_of_notes_that_would_leave_no_room_for_the_post_the_newest_are_kept() -> None:
    made = post(notes=[f"note {n} {'<' * 500}" for n in range(20)])
    shown = paragraphs(made)[1].split("\n")
    assert shown[:2] == ["Notes in Khoros", NOTES_CUT_NOTICE]
    kept = [line.split()[3] for line in shown[2:]]
    assert kept == ["15", "16", "17", "18", "19"]
    assert text_of(made) == "My printer is on fire!\nHelp"


def test_the_newest_note_is_kept_however_long_it_is() -> None:
    shown = paragraphs(post(notes=["old", '"' * 3_000]))[1]
    assert shown == f"Notes in Khoros\n{NOTES_CUT_NOTICE}\nA colleague: {chr(34) * 1_999}…"


def test_the_longest_of_everything_still_fits() -> None:
    huge = "&" * 70_000
    changes = dict.fromkeys(TEXTS + LINKS, huge) | {"labels": [huge] * 50, "notes": [{"text": huge, "id": huge}] * 50}
    labels = tuple(f"{number}{huge}" for number in range(50))
    made = Post(item(entityId="'" * 255, **changes), "'" * 255, labels, labels)
    assert page(made).text
    note = json.loads(note_body(made, STYLE))["ticket"]["comment"]["html_body"]
    assert len(note) <= ZENDESK_LIMIT
    assert Page(note).text


# Attacks

MARKUP = [
    "<script>alert(1)</script>",
    "</p></a><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "&lt;script&gt;alert(1)",
    "&#60;script&#62;",
    "<!-- --><![CDATA[ x ]]><?php ?>",
    "<scr\x00ipt>alert(1)</scr\x00ipt>",
    "<\ud800script>",
    "<" * 300,
    "&" * 300,
]


@pytest.mark.parametrize("markup", MARKUP, ids=lambda markup: ascii(markup)[:30])
def test_markup_stays_text_in_every_field(markup: str) -> None:
    shown = " ".join(markup.replace("\x00", "").replace("\ud800", "\ufffd").split())
    for name in [*TEXTS, "link", "authorLink"]:
        read = page(post(**{"entityId": "facebook:1", name: markup}))
        assert {href for href, _ in read.links} <= {*HREFS.values()}, name
        assert name in ("authorLink", "followerCount") or shown[:30] in read.text, name


@pytest.mark.parametrize("markup", MARKUP, ids=lambda markup: ascii(markup)[:30])
def test_markup_stays_text_in_notes_labels_and_names(markup: str) -> None:
    made = post(markup, notes=[{"text": markup, "createdByDisplayName": markup}, markup])
    name = "".join(char for char in markup if char.isprintable())[:100]
    named = Post(item(entityId=f"{name}:1"), name, (markup,), (markup,), markup)
    for each in (made, named):
        assert len(page(each).links) == 4
        assert len(Page(json.loads(note_body(each, STYLE))["ticket"]["comment"]["html_body"]).links) == 4


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "\x01javascript:alert(1)",
        "java\nscript:alert(1)",
        "java\tscript:alert(1)",
        "javascript://acme.example/%0aalert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "DATA:text/html,<script>",
        "vbscript:x",
        "file:///etc/passwd",
        "ftp://acme.example",
        "mailto:ada@acme.example",
        "//evil.example/x",
        "/relative",
        "acme.example",
        "https:",
        "https://",
        "https:///path",
        "https:evil.example",
        "https://evil example/",
        "https://evil.example/a b",
        "https://evil.example/a\nb",
        "https://evil.example/\u2028b",
        "https://evil.example/\u00a0b",
        "ht\ttps://evil.example",
        "https://[::1",
        "https://evil.example]",
        "https://\u2100.example/",
        "https://a.example/" + "x" * COMMENT_LIMIT,
        "https://a.example/" + "&" * (COMMENT_LIMIT // 5),
    ],
    ids=lambda url: ascii(url)[:40],
)
def test_what_is_no_plain_web_address_is_never_a_link(url: str) -> None:
    for name in LINKS:
        found = sorted(href for href, _ in page(post(**{name: url})).links)
        others = sorted(HREFS[other] for other in LINKS if other != name)
        assert found == others, name


@pytest.mark.parametrize(
    ("url", "href"),
    [
        ("https://a.example/1", "https://a.example/1"),
        ("HTTPS://A.example/1", "HTTPS://A.example/1"),
        ("http://a.example:8080/?a=1&b=2#c", "http://a.example:8080/?a=1&b=2#c"),
        (" https://a.example/\n", "https://a.example/"),
        ("https://a.example/\x00\x01", "https://a.example/"),
        ("https://münchen.example/ü", "https://münchen.example/ü"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]/"),
        ("https://a.example/\"onmouseover='alert(1)'", "https://a.example/\"onmouseover='alert(1)'"),
        ("https://a.example/<script>", "https://a.example/<script>"),
        ("https://a.example/" + "x" * 4_900, "https://a.example/" + "x" * 4_900),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_a_web_address_is_a_link_to_exactly_there(url: str, href: str) -> None:
    for name in LINKS:
        assert href in [found for found, _ in page(post(**{name: url})).links], name


def test_a_link_of_any_length_stays_clickable() -> None:
    url = "https://a.example/?" + "&".join(f"utm_{n}=x" for n in range(300))
    assert len(url) > 2_500
    for name in LINKS:
        assert url in [found for found, _ in page(post(**{name: url})).links], name


@pytest.mark.parametrize("text", ["", "My printer is on fire!", "x" * 60_000], ids=["no text", "short", "long"])
@pytest.mark.parametrize("by_author", [False, True])
def test_a_link_of_20000_characters_fits_and_goes_before_all_other_links(text: str, by_author: bool) -> None:
    long = {name: "https://a.example/?" + "a=1&" * 5_000 + name for name in LINKS}
    made = post(text=text, notes=["<" * 500] * 20, **long)
    html = comment_html(made, by_author=by_author)
    assert len(html) <= COMMENT_LIMIT
    assert [href for href, _ in Page(html).links] == [long["link"]]
    assert Page(html).text.count("https://") <= 2 and len(Page(html).text) < 40_000 + len(text)


def test_short_links_stay_beside_a_long_one() -> None:
    own = "https://a.example/" + "x" * 45_000
    assert [href for href, _ in page(post(text="Hi", link=own)).links] == [own, *list(HREFS.values())[1:]]


def test_a_link_counts_as_long_as_it_is_and_not_as_it_is_escaped() -> None:
    url = "https://a.example/?" + "&" * 4_900
    for name in LINKS:
        assert url in [found for found, _ in page(post(**{name: url})).links], name


strange = st.text(
    st.one_of(st.characters(codec=None), st.sampled_from("<>&'\"\n\r\x00\u2028\u202e\ud800\u200d:/@ ")), max_size=60
)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.dictionaries(st.sampled_from(TEXTS + LINKS), strange | st.lists(strange, max_size=3)),
    st.lists(strange, max_size=3),
)
def test_no_post_breaks_its_ticket(changes: dict[str, Any], labels: list[str]) -> None:
    made = Post(item(**changes, notes=labels), EVENT_UUID, tuple(labels), tuple(labels))
    read = page(made)
    assert all(re.fullmatch("[a-z0-9_-]{1,80}", tag) for tag in ticket(made)["tags"])
    assert all(href.lower().startswith(("http://", "https://")) for href, _ in read.links)
    line = subject(made.item)
    assert len(line) <= 150
    assert len(line.splitlines()) == 1
    assert not [char for char in line + read.text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
