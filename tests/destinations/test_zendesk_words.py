"""From a post to a ticket: what an agent reads, what Zendesk takes, and what no stranger can slip in."""

from __future__ import annotations

import json
import re
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
from contracts import validate
from hypothesis import given, settings
from hypothesis import strategies as st

from destinations.zendesk_words import (
    CUT_NOTICE,
    Post,
    Style,
    label_tags,
    note_body,
    printable,
    read_fields,
    slug,
    subject,
    ticket_body,
)
from events import Rule, StreamItem, Subject

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
    "notes": [{"text": "A good customer", "createdByDisplayName": "Grace"}],
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
        assert tag in ("p", "br", "b", "i", "a"), tag
        if tag == "br":
            self.text += "\n"
        else:
            self._open.append(tag)
        if tag == "a":
            ((name, value),) = attrs
            assert name == "href"
            self.links.append((value or "", ""))
        else:
            assert attrs == []

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


def fact(name: str, post: Post) -> str:
    """The line of the note that begins with this name, or nothing."""
    lines = [line for line in paragraphs(post)[-1].split("\n") if line.startswith(f"{name}: ")]
    return lines[0].removeprefix(f"{name}: ") if lines else ""


# The whole


def test_a_post_becomes_a_ticket_an_agent_can_work_with() -> None:
    assert ticket(post("CreateCase")) == {
        "priority": "normal",
        "subject": "Ada Lovelace on X: My printer is on fire! Help",
        "comment": {
            "html_body": "<p>My printer is on fire!<br>Help</p><p>"
            '<b>From:</b> <a href="https://twitter.com/ada">Ada Lovelace</a> (@ada), 1,234,567 followers<br>'
            '<b>Post:</b> <a href="https://twitter.com/ada/status/73819284756">'
            "https://twitter.com/ada/status/73819284756</a> on X<br>"
            "<b>Posted:</b> 2011-05-26T18:23:31.000Z<br>"
            '<b>In reply to:</b> <a href="https://twitter.com/acme/status/1">https://twitter.com/acme/status/1</a><br>'
            "<b>Reposted from:</b> twitter:2<br>"
            "<b>Labels:</b> CreateCase, printer<br>"
            "<b>Khoros notes:</b> Grace: A good customer<br>"
            f"<b>Khoros item:</b> twitter:73819284756, event {EVENT_UUID}</p>",
            "public": False,
        },
        "external_id": "twitter:73819284756",
        "tags": ["khoros", "twitter", "createcase"],
        "metadata": {"khoros_event_uuid": EVENT_UUID},
    }


def test_a_post_of_which_nothing_is_known_still_becomes_a_ticket() -> None:
    bare = Post(StreamItem.parse({"entityId": "42"}), "e-1")
    assert ticket(bare) == {
        "priority": "normal",
        "subject": "Unknown author on Khoros: (no text)",
        "comment": {
            "html_body": "<p><i>The post has no text: see it on its network.</i></p><p>"
            "<b>From:</b> unknown<br><b>Post:</b> no link on Khoros<br>"
            "<b>Khoros item:</b> 42, event e-1</p>",
            "public": False,
        },
        "external_id": "42",
        "tags": ["khoros"],
        "metadata": {"khoros_event_uuid": "e-1"},
    }


FIELDS = {"group_id": 7, "priority": "urgent", "tags": ["social"], "custom_fields": [{"id": 1, "value": "x"}]}


@pytest.mark.parametrize("follow_up_of", [None, 35436], ids=["new", "follow-up"])
@pytest.mark.parametrize("style", [STYLE, Style(FIELDS, public=True)], ids=["plain", "with fields"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text": ""},
        {"text": "&" * 70_000},
        {"text": FAMILY, "author": "\ud800"},
        dict.fromkeys(ITEM.keys() - {"entityId"}),
    ],
    ids=["published", "no text", "long", "emoji", "nothing known"],
)
def test_a_ticket_keeps_to_the_contract(changes: dict[str, Any], style: Style, follow_up_of: int | None) -> None:
    body = ticket_body(post("CreateCase", **changes), style, follow_up_of=follow_up_of)
    validate(json.loads(body), "zendesk", "create_ticket")


def test_a_note_keeps_to_the_contract() -> None:
    validate(json.loads(note_body(post(), STYLE)), "zendesk", "update_ticket")


def test_the_same_post_always_gives_the_same_bytes() -> None:
    assert ticket_body(post("b", "a"), Style(FIELDS)) == ticket_body(post("b", "a"), Style(FIELDS))


def test_a_follow_up_names_the_closed_ticket_and_is_otherwise_the_same() -> None:
    assert ticket(post(), follow_up_of=35436) == ticket(post()) | {"via_followup_source_id": 35436}


def test_a_ticket_in_place_of_a_refused_follow_up_names_the_closed_ticket() -> None:
    made = ticket(post(), in_place_of=35436)
    heading = "<p>The ticket of this post was #35436. It is closed and takes no follow-up.</p>"
    comment = ticket(post())["comment"]
    assert made == ticket(post()) | {"comment": comment | {"html_body": heading + comment["html_body"]}}


@pytest.mark.parametrize(
    ("made", "heading"),
    [
        (post("Billing"), "Label Billing was applied to this post."),
        (post("Billing", "VIP"), "Labels Billing, VIP were applied to this post."),
        (post(), "A label was applied to this post."),
        (ruled("Product recall"), "Rule Product recall matched this post."),
        (post("<b>&\n" + "x" * 300), f"Label &lt;b&gt;&amp; {'x' * 184}… was applied to this post."),
    ],
    ids=["a label", "two labels", "no label", "a rule", "markup"],
)
def test_a_note_is_a_comment_that_says_which_label_or_rule_brought_it(made: Post, heading: str) -> None:
    note = json.loads(note_body(made, Style(FIELDS)))
    comment = ticket(made)["comment"]
    assert note == {"ticket": {"comment": comment | {"html_body": f"<p>{heading}</p>" + comment["html_body"]}}}


# What an item keeps


def kept(**changes: Any) -> Subject:
    """A subject as an item keeps it: its event names two labels, of which a route names one."""
    whole: dict[str, Any] = {"labels": ["other", "Billing"], "matched": ["Billing"], "item": ITEM}
    return Subject.parse({"event": "stream-item-label-applied", **whole, **changes})


def test_a_post_is_read_from_what_an_item_keeps() -> None:
    made = Post.of(kept(), EVENT_UUID)
    assert made == Post(item(), EVENT_UUID, ("other", "Billing"), ("Billing",))
    assert label_tags(made) == ["billing"]


def test_all_labels_count_where_an_item_does_not_say_which_of_them_a_route_names() -> None:
    assert Post.of(kept(matched=None), EVENT_UUID).matched == ("other", "Billing")


@pytest.mark.parametrize(
    ("rule", "name"),
    [(Rule("7", "Product recall"), "Product recall"), (Rule("7", ""), "7"), (None, "")],
    ids=["named", "without a name", "none"],
)
def test_a_rule_is_called_by_its_name_or_else_its_id(rule: Rule | None, name: str) -> None:
    subject = kept(rule={"id": rule.id, "name": rule.name} if rule else None)
    assert Post.of(subject, EVENT_UUID).rule == name


# What the deployer chose


def test_a_comment_is_internal_unless_the_deployer_wants_it_public() -> None:
    public = Style(public=True)
    assert ticket(post())["comment"]["public"] is False
    assert ticket(post(), public)["comment"]["public"] is True
    assert json.loads(note_body(post(), public))["ticket"]["comment"]["public"] is True


def test_the_deployers_fields_are_merged_and_his_tags_and_metadata_added() -> None:
    style = Style(FIELDS | {"tags": ["social", "khoros"], "metadata": {"by": "relay"}})
    made = ticket(post("CreateCase"), style)
    assert (made["group_id"], made["priority"], made["custom_fields"]) == (7, "urgent", [{"id": 1, "value": "x"}])
    assert made["tags"] == ["khoros", "twitter", "createcase", "social"]
    assert made["metadata"] == {"by": "relay", "khoros_event_uuid": EVENT_UUID}


def test_the_deployers_fields_do_not_replace_what_comes_from_the_post() -> None:
    theirs = dict.fromkeys(("subject", "comment", "external_id"), "theirs")
    theirs_too = {"metadata": {"khoros_event_uuid": "theirs"}}
    assert ticket(post(), Style(theirs | theirs_too)) == ticket(post())


def test_making_a_ticket_changes_nothing_of_the_style() -> None:
    fields: dict[str, Any] = {"tags": ["social"], "metadata": {"by": "relay"}}
    ticket(post(), Style(fields))
    assert fields == {"tags": ["social"], "metadata": {"by": "relay"}}


def test_fields_of_a_route_go_over_those_of_every_ticket() -> None:
    style = Style(FIELDS | {"brand_id": 1}, public=True)
    both = style.with_fields({"group_id": 9, "ticket_form_id": 3, "tags": ["vip", "social"]})
    made = ticket(post("CreateCase"), both)
    assert (made["group_id"], made["ticket_form_id"], made["brand_id"], made["priority"]) == (9, 3, 1, "urgent")
    assert made["tags"] == ["khoros", "twitter", "createcase", "social", "vip"]
    assert both.public and style == Style(FIELDS | {"brand_id": 1}, public=True)


def test_custom_fields_of_a_route_are_added_and_win_by_their_id() -> None:
    style = Style({"custom_fields": [{"id": 1, "value": "x"}, {"id": 2, "value": "y"}]})
    more = {"custom_fields": [{"id": 2, "value": "z"}, {"id": 3, "value": None}]}
    wanted = [{"id": 1, "value": "x"}, {"id": 2, "value": "z"}, {"id": 3, "value": None}]
    assert ticket(post(), style.with_fields(more))["custom_fields"] == wanted
    assert ticket(post(), Style().with_fields(more))["custom_fields"] == more["custom_fields"]
    assert ticket(post(), style.with_fields({}))["custom_fields"] == style.fields["custom_fields"]


@pytest.mark.parametrize("more", [{"group_id": None, "priority": None}, {"priority": None, "group_id": None}], ids=str)
def test_null_leaves_a_field_out(more: dict[str, None]) -> None:
    assert not {"priority", "group_id"} & set(ticket(post(), Style(FIELDS).with_fields(more)))
    assert not {"priority", "group_id"} & set(ticket(post(), Style(more)))


@pytest.mark.parametrize("name", ["tags", "custom_fields", "metadata"])
def test_null_adds_nothing_to_what_is_put_together(name: str) -> None:
    assert ticket(post(), Style({name: None}).with_fields({name: None})) == ticket(post())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 9_999, "is not JSON"),
        ('["group_id"]', "is not a JSON object"),
        ('{"subject": "x", "comment": {}}', "may not set comment, subject: the relay fills these in from the post"),
        ('{"tags": "social"}', 'needs its tags as a list of texts, like {"tags": ["social"]}'),
        ('{"tags": [1]}', 'needs its tags as a list of texts, like {"tags": ["social"]}'),
        ('{"custom_fields": {"360001": "x"}}', "needs its custom_fields as a list, like"),
        ('{"custom_fields": [{"id": "360001", "value": "x"}]}', "needs its custom_fields as a list, like"),
        ('{"custom_fields": ["x"]}', "needs its custom_fields as a list, like"),
        ('{"metadata": [1]}', "needs its metadata as an object"),
    ],
)
def test_fields_that_would_break_a_ticket_are_a_fault(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_fields(text)


def test_fields_are_read_as_they_are() -> None:
    text = '{"group_id": 7, "priority": null, "tags": null, "custom_fields": [{"id": 1, "value": null}]}'
    wanted = {"group_id": 7, "priority": None, "tags": None, "custom_fields": [{"id": 1, "value": None}]}
    assert read_fields(text) == wanted


# The subject


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"author": ""}, "ada on X: My printer is on fire! Help", id="screen name for author"),
        pytest.param(
            {"author": "", "authorScreenName": ""}, "Unknown author on X: My printer is on fire! Help", id="no"
        ),
        pytest.param({"author": "\x00\u2028"}, "ada on X: My printer is on fire! Help", id="an author of nothing"),
        pytest.param({"text": "\x07 \n"}, "Ada Lovelace on X: (no text)", id="a text of nothing"),
        pytest.param({"text": "a\r\n\t b\u2028c\u2029d\x0be"}, "Ada Lovelace on X: a b c de", id="line breaks"),
        pytest.param({"author": "Ada\nSubject: x", "text": "a"}, "Ada Subject: x on X: a", id="a line in a name"),
        pytest.param(
            {"text": "<b>&amp;", "entityId": "1"}, "Ada Lovelace on Khoros: <b>&amp;", id="not HTML, so not escaped"
        ),
        pytest.param({"author": "a" * 61, "text": "b"}, f"{'a' * 60} on X: b", id="a long name"),
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


# Tags


@pytest.mark.parametrize(
    ("labels", "tags"),
    [
        pytest.param((), [], id="the event names none"),
        pytest.param(("CreateCase",), ["createcase"], id="one"),
        pytest.param(("Create Case", "Create Görf"), ["create_case", "create_gorf"], id="two"),
        pytest.param(("A", "a"), ["a"], id="the same tag twice"),
        pytest.param(("khoros",), [], id="a tag that is there already"),
        pytest.param(("a b,c\nd",), ["a_b_c_d"], id="what would split a tag"),
        pytest.param(("Réclamation Très Urgente",), ["reclamation_tres_urgente"], id="accents"),
        pytest.param(("Re\u0301clamation",), ["reclamation"], id="an accent of its own"),
        pytest.param(("Straße ＶＩＰ ﬁne",), ["strasse_vip_fine"], id="other forms of letters"),
        pytest.param(("Łódź Bjørn Đà Æble Þór Œuf ıI",), ["lodz_bjorn_da_aeble_thor_oeuf_ii"], id="strokes"),
        pytest.param(
            ("VIP 日本", "VIP 한국", "VIP"), ["vip-c870f819", "vip-e15f58cf", "vip"], id="half in another script"
        ),
        pytest.param(("C++", "C#", "C"), ["c-f1deb75f", "c-04022884", "c"], id="signs that make the name"),
        pytest.param(("Crisis 🔥❤️", "Crisis!"), ["crisis-5a9786ea", "crisis"], id="emoji, and punctuation"),
        pytest.param(("Legal & PR (urgent): «now»",), ["legal_pr_urgent_now"], id="punctuation between words"),
        pytest.param(("V\u200bIP\u00ad",), ["vip"], id="characters without a width"),
        pytest.param(("日本",), ["label-cf2abf0c"], id="in another script"),
        pytest.param(
            ("日本", "한국", "🔥"), ["label-cf2abf0c", "label-1eb7da6d", "label-ed8d8305"], id="in other scripts"
        ),
        pytest.param(("x" * 80,), ["x" * 80], id="a long one"),
        pytest.param(("x" * 81,), [f"{'x' * 71}-4d1f7bb8"], id="a longer one"),
    ],
)
def test_the_tags_name_the_service_the_network_and_the_labels_that_matched(
    labels: tuple[str, ...], tags: list[str]
) -> None:
    assert ticket(post(*labels))["tags"] == ["khoros", "twitter", *tags]


def test_labels_that_no_route_names_are_no_tags() -> None:
    made = Post(item(), EVENT_UUID, ("other", "CreateCase"), ("CreateCase",))
    assert ticket(made)["tags"] == ["khoros", "twitter", "createcase"]


def test_one_label_has_one_tag_however_it_is_written() -> None:
    assert label_tags(post("が")) == label_tags(post("か\u3099"))


def test_a_rule_is_named_by_its_tag_and_a_line_of_its_own() -> None:
    made = ruled("Product recall", labels=["printer"])
    assert ticket(made)["tags"] == ["khoros", "twitter", "product_recall"]
    assert (fact("Rule", made), fact("Labels", made)) == ("Product recall", "printer")
    assert (fact("Rule", post("CreateCase")), fact("Labels", post("CreateCase"))) == ("", "CreateCase, printer")


def test_a_rule_in_another_script_has_a_tag() -> None:
    assert label_tags(ruled("日本")) == ["label-cf2abf0c"]


def test_what_a_rule_matched_is_no_label() -> None:
    made = Post(item(labels=[]), EVENT_UUID, (), ("Product recall",), "Product recall")
    assert fact("Labels", made) == ""


@settings(max_examples=100, deadline=None, database=None)
@given(st.text(max_size=200))
def test_a_slug_is_what_zendesk_keeps_whole(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{0,80}", slug(text))


# The note


@pytest.mark.parametrize("text", ["", "  \n", "\x00\x07", "\u2028", None, []], ids=ascii)
def test_a_post_without_text_says_so(text: object) -> None:
    assert paragraphs(post(text=text))[0] == "The post has no text: see it on its network."


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\u2029"], ids=ascii)
def test_every_kind_of_line_break_is_kept_as_one(end: str) -> None:
    assert ticket(post(text=f"a{end}b"))["comment"]["html_body"].startswith("<p>a<br>b</p>")


@pytest.mark.parametrize(
    "text",
    [
        FAMILY,
        FLAG,
        "\u2764\ufe0f",
        "می\u200cخواهم",
        "\u202bעברית\u202c and \u2067العربية\u2069 \u200f!",
        "e\u0301 日本語",
        "#not *bold* _at_ all",
        "&lt;b&gt; &amp;amp;",
        "a\tb",
    ],
    ids=["family", "flag", "heart", "joiner", "both directions", "accents", "not Markdown", "not HTML", "tab"],
)
def test_a_text_arrives_as_it_was_written(text: str) -> None:
    assert paragraphs(post(text=text, entityId="facebook:1"))[0] == text


def test_control_characters_are_left_out_and_nothing_else() -> None:
    everything = [chr(code) for code in range(0x10000)]
    gone = set(everything) - set(printable("".join(everything))) - set("\r\u2028\u2029")  # these become line breaks
    of_control = {char for char in everything if unicodedata.category(char) in ("Cc", "Cs")} - set("\t\n\r")
    assert gone == of_control | {"\ufffe", "\uffff"}


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("From", {}, "Ada Lovelace (@ada), 1,234,567 followers"),
        ("From", {"author": ""}, "ada (@ada), 1,234,567 followers"),
        ("From", {"author": "", "authorScreenName": "", "followerCount": ""}, "https://twitter.com/ada"),
        ("From", {"author": "", "authorScreenName": "", "authorLink": "", "followerCount": 5}, "unknown, 5 followers"),
        ("From", {"authorScreenName": "@ada", "followerCount": "0"}, "Ada Lovelace (@ada), 0 followers"),
        ("From", {"followerCount": "many"}, "Ada Lovelace (@ada), many followers"),
        ("From", {"followerCount": "9" * 400}, f"Ada Lovelace (@ada), {'9' * 199}… followers"),
        ("From", {"followerCount": -1}, "Ada Lovelace (@ada), -1 followers"),
        (
            "From",
            {"author": "Ada\nPost: https://evil.example"},
            "Ada Post: https://evil.example (@ada), 1,234,567 followers",
        ),
        ("Post", {"link": ""}, "no link on X"),
        ("Post", {"entityId": "mastodon:1", "link": "twitter.com/1"}, "twitter.com/1 on Mastodon"),
        ("Posted", {"createdDate": "Wed Apr 12 09:01:11 CDT 2017"}, "Wed Apr 12 09:01:11 CDT 2017"),
        ("Posted", {"createdDate": None}, ""),
        ("In reply to", {"inReplyTo": None}, ""),
        ("Reposted from", {"repostedFrom": {"link": "https://a.example/1", "entityId": "x:1"}}, "https://a.example/1"),
        ("Labels", {"labels": ["b", "b", "c"]}, "b, c"),
        ("Labels", {"labels": []}, ""),
        ("Labels", {"labels": ["x" * 300]}, f"{'x' * 199}…"),
        ("Khoros notes", {"notes": []}, ""),
        ("Khoros notes", {"notes": ["hello\nLabels: x"]}, "Agent: hello Labels: x"),
        ("Khoros item", {"entityId": "facebook:1_<2>"}, f"facebook:1_<2>, event {EVENT_UUID}"),
    ],
)
def test_each_fact_is_one_line_and_only_what_is_known(name: str, changes: dict[str, Any], expected: str) -> None:
    assert fact(name, post(**changes)) == expected


def test_the_labels_of_the_event_come_before_those_of_the_post() -> None:
    assert fact("Labels", post("new", "printer")) == "new, printer, CreateCase"


def test_five_of_the_agents_notes_are_shown() -> None:
    notes = [{"text": f"note {n}", "createdByDisplayName": "Grace"} for n in range(9)]
    assert paragraphs(post(notes=notes))[-1].count("Grace: note") == 5


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
    shown, facts = page(made).text.strip().split("\n\n")
    assert shown.endswith(CUT_NOTICE)
    assert text.startswith(shown.removesuffix(CUT_NOTICE))
    assert f"event {EVENT_UUID}" in facts
    assert len(html.partition("</p>")[0]) <= 60_000 + len("<p>")


def test_a_text_that_just_fits_is_not_cut() -> None:
    assert paragraphs(post(text="x" * 60_000))[0] == "x" * 60_000
    assert paragraphs(post(text="x" * 60_001))[0].endswith(CUT_NOTICE)


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
        assert {href for href, _ in read.links} <= {ITEM["link"], ITEM["authorLink"], ITEM["inReplyTo"]}, name
        assert name == "authorLink" or shown[:30] in read.text, name


@pytest.mark.parametrize("markup", MARKUP, ids=lambda markup: ascii(markup)[:30])
def test_markup_stays_text_in_notes_labels_and_names(markup: str) -> None:
    made = post(markup, notes=[{"text": markup, "createdByDisplayName": markup}, markup])
    name = "".join(char for char in markup if char.isprintable())[:100]
    named = Post(item(entityId=f"{name}:1"), name, (markup,), (markup,), markup)
    for each in (made, named):
        assert len(page(each).links) == 3
        assert len(Page(json.loads(note_body(each, STYLE))["ticket"]["comment"]["html_body"]).links) == 3


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
        "https://a.example/" + "x" * 400,
        "https://a.example/" + "&" * 100,
    ],
    ids=lambda url: ascii(url)[:40],
)
def test_what_is_no_plain_web_address_is_never_a_link(url: str) -> None:
    for name in LINKS:
        found = sorted(href for href, _ in page(post(**{name: url})).links)
        others = sorted(ITEM[other] for other in LINKS if other != name and isinstance(ITEM[other], str))
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
        ("https://a.example/" + "x" * 300, "https://a.example/" + "x" * 300),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_a_web_address_is_a_link_to_exactly_there(url: str, href: str) -> None:
    for name in LINKS:
        assert href in [found for found, _ in page(post(**{name: url})).links], name


def test_the_words_of_a_long_link_are_cut_and_its_target_is_not() -> None:
    url = "https://a.example/" + "x" * 300
    assert (url, url[:199] + "…") in page(post(link=url)).links


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
