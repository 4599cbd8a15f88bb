"""From a post to the bodies of requests: what Zendesk takes, its tags, its fields, its requester."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from contracts import validate
from hypothesis import given, settings
from hypothesis import strategies as st
from posts import EVENT_UUID, FAMILY, ITEM, STYLE, facts, item, post, ruled, ticket

from destinations.zendesk_comment import Post
from destinations.zendesk_words import (
    Style,
    author_key,
    label_tags,
    note_body,
    read_fields,
    slug,
    ticket_body,
    user_body,
    with_requester,
)
from events import Rule, StreamItem, Subject

# The whole


def test_a_post_becomes_a_ticket_an_agent_can_work_with() -> None:
    assert ticket(post("CreateCase")) == {
        "priority": "normal",
        "subject": "Ada Lovelace on X: My printer is on fire! Help",
        "comment": {
            "html_body": '<p><a href="https://twitter.com/ada/status/73819284756">Open the post on X</a>'
            ' · <a href="https://twitter.com/ada">Ada Lovelace\'s profile</a></p>'
            "<p><b>Notes in Khoros</b><br>Grace, 26 May 2011, 18:30 UTC: A good customer</p>"
            '<p dir="auto">My printer is on fire!<br>Help</p>'
            "<p>By Ada Lovelace (@ada), 1,234,567 followers<br>"
            "posted 26 May 2011, 18:23 UTC<br>"
            'Reply to <a href="https://twitter.com/acme/status/1">this post</a><br>'
            'Repost of <a href="https://x.com/i/status/2">this post</a><br>'
            "Labels: CreateCase, printer</p>"
            f"<p><small>Khoros item twitter:73819284756, event {EVENT_UUID}</small></p>",
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
        "subject": "Unknown author on Khoros: picture or video post",
        "comment": {
            "html_body": "<p>Post on Khoros: no link · Unknown author</p>"
            '<p dir="auto"><i>Picture or video post: open it on Khoros</i></p>'
            "<p>By Unknown author</p><p><small>Khoros item 42, event e-1</small></p>",
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


def test_a_follow_up_names_the_closed_ticket_and_begins_like_a_note() -> None:
    comment = ticket(post("Billing"))["comment"]
    comment |= {"html_body": "<p>Label Billing was applied to this post.</p>" + comment["html_body"]}
    made = ticket(post("Billing"), follow_up_of=35436)
    assert made == ticket(post("Billing")) | {"comment": comment, "via_followup_source_id": 35436}


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
        (post("<b>&\n" + "x" * 300), f"Label &lt;b&gt;&amp; {'x' * 194}… was applied to this post."),
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
    assert facts(made)[-2:] == ["Rule: Product recall", "Labels: printer"]
    assert facts(post("CreateCase"))[-1] == "Labels: CreateCase, printer"


def test_a_rule_in_another_script_has_a_tag() -> None:
    assert label_tags(ruled("日本")) == ["label-cf2abf0c"]


def test_what_a_rule_matched_is_no_label() -> None:
    made = Post(item(labels=[]), EVENT_UUID, (), ("Product recall",), "Product recall")
    assert facts(made)[-1] == "Rule: Product recall"


@settings(max_examples=100, deadline=None, database=None)
@given(st.text(max_size=200))
def test_a_slug_is_what_zendesk_keeps_whole(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9_-]{0,80}", slug(text))


# The requester


def test_a_requester_is_added_to_the_frozen_words_and_taken_out_again() -> None:
    bare = ticket_body(post(), Style(FIELDS))
    named = with_requester(bare, "7001")
    assert json.loads(named)["ticket"] == json.loads(bare)["ticket"] | {"requester_id": 7001}
    assert with_requester(named, None) == bare
    assert with_requester(ticket_body(post(), Style({"requester_id": 5})), None) == ticket_body(post(), STYLE)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"authorId": "1234"}, "twitter:1234"),
        ({"authorId": 1234, "entityId": "facebook:1"}, "facebook:1234"),
        ({"authorId": "twitter:1234"}, "twitter:1234"),
        ({"authorId": "x:1234", "entityId": "x:1"}, "twitter:1234"),
        ({"authorId": "twitter:1234", "entityId": "x:1"}, "twitter:1234"),
        ({"authorScreenName": "@Ada"}, "twitter:@ada"),
        ({"authorScreenName": "1234"}, "twitter:@1234"),
        *[
            ({"authorId": rubbish}, "twitter:@ada")
            for rubbish in ("null", "None", "undefined", 0, -1, "-0.0", "", None)
        ],
        ({"authorId": "undefined", "authorScreenName": ""}, ""),
        ({"authorScreenName": "\u200b"}, ""),
        ({"authorScreenName": ""}, ""),
        ({"authorId": "9" * 255}, ""),
        ({"entityId": "1", "authorId": "1234"}, "khoros:1234"),
    ],
)
def test_an_author_is_known_by_the_network_and_the_number_or_else_the_screen_name(
    changes: dict[str, Any], key: str
) -> None:
    assert author_key(item(**changes)) == key


def test_a_user_has_the_authors_name_picture_and_profile() -> None:
    made = item(authorId="1234", authorIcon="https://pbs.example/ada.jpg")
    assert json.loads(user_body(made)) == {
        "user": {
            "name": "Ada Lovelace",
            "external_id": "twitter:1234",
            "remote_photo_url": "https://pbs.example/ada.jpg",
            "details": "@ada https://twitter.com/ada",
            "skip_verify_email": True,
        }
    }


@pytest.mark.parametrize("icon", ["", "javascript:alert(1)", "//pbs.example/ada.jpg"])
def test_a_user_has_no_picture_without_a_web_address_and_always_a_name(icon: str) -> None:
    made = item(author="\u200b", authorLink="", authorScreenName="", authorId="7", authorIcon=icon)
    expected = {"name": "Unknown author", "external_id": "twitter:7", "skip_verify_email": True}
    assert json.loads(user_body(made)) == {"user": expected}


def test_a_test_ticket_says_that_it_can_be_deleted() -> None:
    made = ticket(Post(StreamItem.parse({"entityId": "relay-test:test-1", "text": "Hello"}), EVENT_UUID))
    assert made["subject"] == "Test ticket from the relay: you can delete this"
    assert made["comment"]["html_body"].startswith("<p>Test ticket from the relay: you can delete this</p>")
    assert made["tags"] == ["khoros", "relay-test"]
