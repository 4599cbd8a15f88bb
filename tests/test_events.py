"""What Khoros sends is read tolerantly: a field of any kind, a date in any zone, and nothing made up."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import (
    CREDENTIALS,
    LABEL_APPLIED,
    MESSAGE_PUBLISHED,
    MESSAGE_SENT,
    MESSAGES,
    RULE_APPLIED,
    Event,
    Message,
    PublicationResult,
    Rule,
    StreamItem,
    Subject,
    Unreadable,
    is_web_address,
    subject_id,
)

# As Khoros publishes them.
ITEM: dict[str, Any] = {
    "sfEntityType": "StreamItem",
    "entityId": "twitter:73819284756",
    "text": "My printer is on fire!",
    "link": "https://twitter.com/ada/status/73819284756",
    "author": "Ada Lovelace",
    "authorIcon": "https://pbs.twimg.com/ada.png",
    "authorId": "12345",
    "authorLink": "https://twitter.com/ada",
    "authorScreenName": "ada",
    "initiativeIds": [1, 2],
    "contentType": "post",
    "createdDate": "2011-05-26T18:23:31.000Z",
    "followerCount": "1234",
    "labels": ["CreateCase", "printer"],
    "notes": [
        {
            "text": "A good customer",
            "id": "1",
            "createdByDisplayName": "Grace",
            "createdDate": "2017-04-12T14:01:11.000Z",
            "lastModifiedByuserId": 7,
            "lastModifiedDate": "2017-04-12T14:01:11.000Z",
        }
    ],
    "inReplyTo": None,
    "repostedFrom": None,
    "parentPost": None,
}
EVENT: dict[str, Any] = {
    "companyId": 4711,
    "eventName": "stream-item-label-applied",
    "createdDate": "Wed Apr 12 09:01:11 CDT 2017",
    "eventUuid": "5f0c4b7e-1c5c-4f0e-9a5d-0d9f2c1b7a11",
    "type": "hydrated",
    "subscriptionUuid": "0b1f7a2c-95c5-4f5e-8b7e-5ad4a3f6c001",
    "data": {"labels": [], "items": [ITEM]},
}
MESSAGE: dict[str, Any] = {
    "sfEntityType": "Message",
    "id": "9001",
    "title": "Spring sale",
    "content": {"sfEntityType": "Status", "text": "20 % off until Friday"},
    "labels": [{"id": "7", "name": "General Labels - Ideas"}],
    "service": "FACEBOOK",
    "targetAccountIds": ["11"],
    "organicVisibility": "PUBLIC",
    "delegationStatus": "APPROVED",
    "publicationResults": [
        {
            "accountId": "11",
            "datePublished": 1491998471000,
            "serviceId": "fb-1",
            "serviceLink": "https://facebook.com/acme/posts/1",
            "status": "PUBLISHED",
        }
    ],
    "scheduledPublishDate": 1491998400000,
    "notes": [],
    "links": [],
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)


def item(**changes: object) -> StreamItem:
    return StreamItem.parse({**ITEM, **changes})


def event(**changes: object) -> Event:
    return Event.parse({**EVENT, **changes})


def without(raw: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key != name}


# Stream items


def test_the_published_stream_item_is_read_whole() -> None:
    assert StreamItem.parse(ITEM) == StreamItem(
        entity_id="twitter:73819284756",
        text="My printer is on fire!",
        link="https://twitter.com/ada/status/73819284756",
        author="Ada Lovelace",
        author_link="https://twitter.com/ada",
        author_screen_name="ada",
        follower_count="1234",
        created_date="2011-05-26T18:23:31.000Z",
        labels=("CreateCase", "printer"),
        notes=(("Grace", "2017-04-12T14:01:11.000Z", "A good customer"),),
        in_reply_to="",
        reposted_from="",
        parent_post="",
        author_id="12345",
        author_icon="https://pbs.twimg.com/ada.png",
        content_type="post",
    )


def test_a_stream_item_needs_nothing_but_its_id() -> None:
    parsed = StreamItem.parse({"entityId": "facebook:1"})
    assert parsed == StreamItem("facebook:1", (), (), *[""] * 13)


@pytest.mark.parametrize(
    ("entity_id", "text"),
    [
        ("twitter:1", "Q&A <b> \" ' 😀 &lt; &copy; AT&T"),
        ("X:1", "Q&A <b> \" ' 😀 &lt; &copy; AT&T"),
        ("facebook:1", "Q&amp;A &lt;b&gt; &quot; &#39; &#x1F600; &amp;lt; &copy; AT&T"),
    ],
)
def test_the_entities_of_x_are_decoded_once_and_those_of_others_never(entity_id: str, text: str) -> None:
    written = "Q&amp;A &lt;b&gt; &quot; &#39; &#x1F600; &amp;lt; &copy; AT&T"
    parsed = item(entityId=entity_id, text=written, author=written)
    assert (parsed.text, parsed.author) == (text, text)


NAMES = [name for name in ITEM if name != "entityId"]


@pytest.mark.parametrize(
    "value", [None, True, [], {}, [[]], [None], [{}], {"a": {"b": []}}, 10**30, 1e308, "\ud83d", "\x00"], ids=ascii
)
def test_no_value_of_any_other_field_makes_an_item_unreadable(value: object) -> None:
    for name in NAMES:
        assert item(**{name: value}).entity_id == "twitter:73819284756", name


@pytest.mark.parametrize(
    ("name", "attribute", "value", "expected"),
    [
        pytest.param("entityId", "entity_id", 42, "42", id="id as a number"),
        pytest.param("entityId", "entity_id", " twitter:1\n", "twitter:1", id="space around an id"),
        pytest.param("entityId", "entity_id", "x" * 255, "x" * 255, id="as long as a column holds"),
        pytest.param("text", "text", "  a\n b ", "a\n b", id="space around a text"),
        pytest.param("text", "text", None, "", id="null text"),
        pytest.param("text", "text", 3.5, "3.5", id="text as a number"),
        pytest.param("text", "text", True, "", id="text as a truth"),
        pytest.param("text", "text", ["a"], "", id="text as a list"),
        pytest.param("text", "text", "\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb", id="joined emoji"),
        pytest.param("text", "text", "a\ud83db\udc00", "a\ufffdb\ufffd", id="half an emoji"),
        pytest.param("followerCount", "follower_count", 1234, "1234", id="followers as a number"),
        pytest.param("labels", "labels", "CreateCase", ("CreateCase",), id="labels as text"),
        pytest.param("labels", "labels", "", (), id="labels as empty text"),
        pytest.param("labels", "labels", None, (), id="null labels"),
        pytest.param("labels", "labels", ["a", "", None, " b ", ["c"], 4], ("a", "b", "4"), id="labels of all kinds"),
        pytest.param("labels", "labels", [{"name": "a"}, {"title": "b"}, {}], ("a", "b"), id="labels as objects"),
        pytest.param("labels", "labels", {"name": "a"}, ("a",), id="labels as one object"),
        pytest.param("notes", "notes", "a note", (("", "", "a note"),), id="notes as text"),
        pytest.param("notes", "notes", {"text": "a"}, (("", "", "a"),), id="notes as one object"),
        pytest.param("notes", "notes", None, (), id="null notes"),
        pytest.param("notes", "notes", ["a note"], (("", "", "a note"),), id="a note as text"),
        pytest.param("notes", "notes", [{"text": "a"}, None], (("", "", "a"),), id="a note that is none"),
        pytest.param("inReplyTo", "in_reply_to", "twitter:1", "twitter:1", id="reply to an id"),
        pytest.param("inReplyTo", "in_reply_to", 17, "17", id="reply to a number"),
        pytest.param(
            "inReplyTo", "in_reply_to", {"entityId": "a:1", "link": "https://a"}, "https://a", id="reply to a post"
        ),
        pytest.param("inReplyTo", "in_reply_to", {"entityId": "a:1"}, "a:1", id="reply to a post without a link"),
        pytest.param("inReplyTo", "in_reply_to", {"author": "Ada"}, "Ada", id="reply to somebody"),
        pytest.param("repostedFrom", "reposted_from", {"link": "https://a"}, "https://a", id="a repost"),
        pytest.param("repostedFrom", "reposted_from", {}, "", id="a repost of nothing"),
    ],
)
def test_a_value_of_another_kind_is_read_as_what_it_means(
    name: str, attribute: str, value: object, expected: object
) -> None:
    assert getattr(item(**{name: value}), attribute) == expected


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        "twitter:1",
        {},
        without(ITEM, "entityId"),
        {"entityId": None},
        {"entityId": "  "},
        {"entityId": True},
        {"entityId": {"id": 1}},
        {"entityId": "x" * 256},
        {"entityId": "twitter:1\nfacebook:2"},
        {"entityId": "twitter:\x001"},
        {"entityId": "twitter:\u202e1"},
    ],
    ids=ascii,
)
def test_an_item_without_a_usable_id_is_unreadable(raw: object) -> None:
    for read in (StreamItem.parse, lambda raw: subject_id(LABEL_APPLIED, raw)):
        with pytest.raises(Unreadable, match="an item "):
            read(raw)


def test_an_id_is_read_whatever_else_the_item_holds() -> None:
    assert subject_id(RULE_APPLIED, {"entityId": 42, "notes": object()}) == "42"


@pytest.mark.parametrize(
    ("entity_id", "network"),
    [
        ("twitter:34", "twitter"),
        ("Facebook:1_2", "facebook"),
        ("linkedin:urn:li:share:1", "linkedin"),
        ("34", "khoros"),
    ],
)
def test_the_network_is_what_stands_before_the_colon(entity_id: str, network: str) -> None:
    assert item(entityId=entity_id).network == network


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://x.com/ada/status/1", True),
        ("HTTP://x.com", True),
        ("", False),
        ("x.com", False),
        ("javascript:alert(1)", False),
        ("https://", False),
        ("https://x.com/a b", False),
        ("https://[x", False),
    ],
)
def test_only_a_plain_web_address_may_become_a_link(link: str, expected: bool) -> None:
    assert is_web_address(link) == expected


@pytest.mark.parametrize(
    ("entity_id", "given", "text"),
    [
        ("twitter:1", "Q&amp;A &lt;3 &gt; &amp;lt;", "Q&A <3 > &lt;"),
        ("x:1", "Q&amp;A", "Q&A"),
        ("twitter:1", "caf&eacute; &copy 2017", "caf&eacute; &copy 2017"),
        ("facebook:1", "Q&amp;A", "Q&amp;A"),
    ],
)
def test_the_three_signs_that_x_writes_as_entities_are_decoded_once(entity_id: str, given: str, text: str) -> None:
    assert item(entityId=entity_id, text=given).text == text


# Messages


def test_the_published_message_is_read_whole() -> None:
    assert Message.parse(MESSAGE) == Message(
        id="9001",
        title="Spring sale",
        text="20 % off until Friday",
        service="FACEBOOK",
        labels=("General Labels - Ideas",),
        results=(PublicationResult("11", "PUBLISHED", "https://facebook.com/acme/posts/1"),),
        scheduled_at=1491998400.0,
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"sfEntityType": "ImageShare", "caption": "Look", "temporaryImageUrl": "//cdn/x.png"}, "Look"),
        ({"sfEntityType": "ImageShareList", "caption": "Look", "images": [{"caption": "one"}]}, "Look"),
        (
            {"sfEntityType": "Video", "videoTitle": "Unboxing", "description": "Part 1", "tags": ["x"]},
            "Unboxing\nPart 1",
        ),
        ({"sfEntityType": "Video", "videoTitle": "Unboxing"}, "Unboxing"),
        ({"sfEntityType": "Status", "text": "", "shareLink": "https://acme.example"}, "https://acme.example"),
        ({"sfEntityType": "Carousel", "cards": [], "title": "New"}, "New"),
        ({"sfEntityType": "Poll", "options": ["a"]}, ""),
        ("plain words", "plain words"),
        (["x"], ""),
        (None, ""),
    ],
)
def test_content_of_any_kind_gives_its_words(content: object, text: str) -> None:
    assert Message.parse({**MESSAGE, "content": content}).text == text


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        pytest.param({"id": 9001}, "id", "9001", id="id as a number"),
        pytest.param({"service": "multi_channel"}, "service", "MULTI_CHANNEL", id="service in small letters"),
        pytest.param(
            {"labels": ["General Labels - Ideas", "x"]}, "labels", ("General Labels - Ideas", "x"), id="texts"
        ),
        pytest.param({"labels": [{"title": "Ideas"}]}, "labels", ("Ideas",), id="labels with titles"),
        pytest.param(
            {"scheduledPublishDate": "2017-04-12T12:00:00.000Z"}, "scheduled_at", 1491998400.0, id="date-time"
        ),
        pytest.param({"scheduledPublishDate": 0}, "scheduled_at", None, id="no date"),
        pytest.param({"publicationResults": None}, "results", (), id="no results"),
        pytest.param(
            {"publicationResults": [{"status": "error"}, None, "x", {}]},
            "results",
            (PublicationResult("", "ERROR", ""),),
            id="a result without a link",
        ),
    ],
)
def test_a_message_of_another_shape_is_read_as_what_it_means(
    changes: dict[str, Any], attribute: str, expected: object
) -> None:
    assert getattr(Message.parse({**MESSAGE, **changes}), attribute) == expected


@settings(max_examples=100, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(list(MESSAGE)), anything), st.sampled_from([*MESSAGES, *CREDENTIALS]))
def test_no_json_breaks_the_reading_of_a_message(changes: dict[str, Any], name: str) -> None:
    for raw in (changes, MESSAGE | changes):
        for entry in event(eventName=name, data=raw).subjects:
            message = Message.parse(entry)
            json.dumps([message.title, message.text, message.service, *message.labels])
            assert 0 < len(subject_id(name, entry, "event-1")) <= 255


# Events


def test_the_published_event_is_read_whole() -> None:
    assert Event.parse(EVENT) == Event(
        name="stream-item-label-applied",
        uuid="5f0c4b7e-1c5c-4f0e-9a5d-0d9f2c1b7a11",
        company_id=4711,
        created_date="Wed Apr 12 09:01:11 CDT 2017",
        labels=(),
        rule=None,
        service="",
        subjects=(ITEM,),
    )


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ({"ruleId": "1001", "ruleName": "Product recall"}, Rule("1001", "Product recall")),
        ({"ruleId": 1001}, Rule("1001", "")),
        ({"id": "1001", "name": "Product recall"}, Rule("1001", "Product recall")),
        ("Product recall", Rule("", "Product recall")),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_a_rule_is_read_from_what_names_it(raw: object, rule: Rule | None) -> None:
    data = {"companyId": 4711, "timeStamp": 0, "ruleMatched": raw, "items": [ITEM]}
    parsed = event(eventName=RULE_APPLIED, data=data)
    assert (parsed.rule, parsed.subjects) == (rule, (ITEM,))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_event_is_about_its_data(name: str) -> None:
    parsed = Event.parse(without(EVENT, "subscriptionUuid") | {"eventName": name, "uuid": "sub-1", "data": MESSAGE})
    assert (parsed.service, parsed.labels, parsed.subjects) == ("FACEBOOK", ("General Labels - Ideas",), (MESSAGE,))
    assert event(eventName=name, data={"items": [MESSAGE]}).subjects == (MESSAGE,)
    assert event(eventName=name, data=None).subjects == ()


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("data", [None, {}, {"accountId": "11", "service": "facebook"}, [], "junk"])
def test_a_disconnected_account_is_news_whatever_comes_with_it(name: str, data: Any) -> None:
    [subject] = event(eventName=name, data=data).subjects
    assert subject == (data or {} if isinstance(data, dict) else {})


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        (MESSAGE_PUBLISHED, MESSAGE, "message-published:9001"),
        (MESSAGE_SENT, MESSAGE, "message-sent-to-network:9001"),
        (MESSAGE_PUBLISHED, {"id": 9001}, "message-published:9001"),
        (MESSAGE_PUBLISHED, {"id": {}}, "message-published:event-1"),
        (MESSAGE_PUBLISHED, {"id": "a\nb"}, "message-published:event-1"),
        (CREDENTIALS[0], {"accountId": "11"}, "credential-deauth:11"),
        (CREDENTIALS[0], {"credentialId": "12"}, "credential-deauth:12"),
        (CREDENTIALS[1], {}, "credential-delete:event-1"),
        (CREDENTIALS[1], None, "credential-delete:event-1"),
    ],
)
def test_a_message_is_a_subject_of_each_of_its_events(name: str, raw: object, expected: str) -> None:
    assert subject_id(name, raw, "event-1") == expected


# Subjects


def test_a_subject_is_kept_as_json_and_read_again() -> None:
    subject = Subject(RULE_APPLIED, "Wed Apr 12 09:01:11 CDT 2017", ("a",), ("b",), Rule("1", "Recall"), ITEM)
    payload = json.loads(json.dumps(subject.payload()))
    assert list(payload) == ["event", "at", "labels", "matched", "rule", "item"]
    assert Subject.parse(payload) == subject
    assert Subject.parse(Subject(MESSAGE_SENT, "", (), (), None, None).payload()).rule is None


@pytest.mark.parametrize(
    "payload", [{}, {"item": ITEM}, {"labels": ["a"], "item": ITEM, "new": 1}, {"unreadable": "x"}]
)
def test_a_payload_of_another_release_is_read_as_far_as_it_goes(payload: dict[str, Any]) -> None:
    subject = Subject.parse(payload)
    assert (subject.event_name, subject.matched, subject.raw) == (LABEL_APPLIED, (), payload.get("item"))


def test_a_subject_gives_the_post_or_the_message_and_its_link() -> None:
    post, message = Subject.parse({"item": ITEM}), Subject.parse({"event": MESSAGE_PUBLISHED, "item": MESSAGE})
    assert (post.post(), post.link) == (StreamItem.parse(ITEM), ITEM["link"])
    assert (message.message(), message.link) == (Message.parse(MESSAGE), "https://facebook.com/acme/posts/1")
    without = {**MESSAGE, "publicationResults": [{"status": "ERROR"}]}
    assert Subject.parse({}).link == Subject.parse({"item": "junk"}).link == Subject.parse({"item": without}).link == ""
    with pytest.raises(Unreadable):
        Subject.parse({}).post()


def test_an_event_keeps_every_item_raw_and_in_order() -> None:
    items = [ITEM, None, {"entityId": "twitter:2"}, "junk"]
    assert event(data={"items": items}).subjects == tuple(items)


def test_reading_changes_nothing() -> None:
    before = copy.deepcopy(EVENT)
    StreamItem.parse(Event.parse(EVENT).subjects[0])
    assert before == EVENT


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        pytest.param({"companyId": "4711"}, "company_id", 4711, id="company as text"),
        pytest.param({"companyId": None}, "company_id", None, id="null company"),
        pytest.param({"eventUuid": 17}, "uuid", "17", id="uuid as a number"),
        pytest.param({"eventUuid": "x" * 255}, "uuid", "x" * 255, id="as long as a column holds"),
        pytest.param({"data": {"labels": "CreateCase"}}, "labels", ("CreateCase",), id="labels as text"),
        pytest.param({"data": {"labels": ["a", "b"]}}, "labels", ("a", "b"), id="labels"),
        pytest.param(
            {"data": {"items": {"entityId": "a:1"}}}, "subjects", ({"entityId": "a:1"},), id="one item, no list"
        ),
        pytest.param({"data": {"items": []}}, "subjects", (), id="no items"),
        pytest.param({"data": {"items": "a:1"}}, "subjects", (), id="items as text"),
        pytest.param({"data": {}}, "subjects", (), id="empty data"),
        pytest.param({"data": None}, "subjects", (), id="null data"),
        pytest.param({"data": [ITEM]}, "subjects", (), id="data as a list"),
    ],
)
def test_an_envelope_of_another_shape_is_read_as_what_it_means(
    changes: dict[str, Any], attribute: str, expected: object
) -> None:
    assert getattr(event(**changes), attribute) == expected


def test_an_event_that_names_no_company_is_readable() -> None:
    assert Event.parse(without(EVENT, "companyId")).company_id is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(None, "not an object", id="null"),
        pytest.param([EVENT], "not an object", id="a list"),
        pytest.param("{}", "not an object", id="text"),
        pytest.param({}, "eventName is missing", id="empty"),
        pytest.param(without(EVENT, "eventName"), "eventName is missing", id="no name"),
        pytest.param(EVENT | {"eventName": {"a": 1}}, "eventName is missing", id="a name that is none"),
        pytest.param(without(EVENT, "eventUuid"), "eventUuid is missing", id="no uuid"),
        pytest.param(EVENT | {"eventUuid": " "}, "eventUuid is missing", id="a blank uuid"),
        pytest.param(EVENT | {"eventUuid": "x" * 256}, "eventUuid is missing or unusable", id="a long uuid"),
        pytest.param(EVENT | {"eventUuid": "a\x00b"}, "eventUuid is missing or unusable", id="NUL in a uuid"),
        pytest.param(EVENT | {"eventUuid": "a\nat=info"}, "eventUuid is missing or unusable", id="a line in a uuid"),
        pytest.param(EVENT | {"companyId": "acme"}, "companyId is not a number", id="company by name"),
        pytest.param(EVENT | {"companyId": -1}, "companyId is not a number", id="negative company"),
        pytest.param(EVENT | {"companyId": 10**18}, "companyId is not a number", id="huge company"),
        pytest.param(EVENT | {"companyId": True}, "companyId is not a number", id="true company"),
        pytest.param(EVENT | {"companyId": [4711]}, "companyId is not a number", id="company in a list"),
    ],
)
def test_what_does_not_say_what_happened_is_unreadable(raw: object, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        Event.parse(raw)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.dictionaries(st.sampled_from(list(EVENT)), anything),
    st.dictionaries(st.sampled_from(["items", "labels"]), anything),
    st.dictionaries(st.sampled_from(list(ITEM)), anything),
)
def test_no_json_breaks_the_reading(envelope: Any, data: Any, raw_item: Any) -> None:
    for raw in (envelope, EVENT | envelope, EVENT | {"data": data}, EVENT | {"data": {"items": [raw_item]}}):
        try:
            for entry in Event.parse(raw).subjects:
                parsed = StreamItem.parse(entry)
                assert parsed.entity_id
                json.dumps(parsed.__dict__, ensure_ascii=False).encode()  # every text can be written
        except Unreadable:
            pass


@pytest.mark.parametrize(
    ("given", "company"), [("", None), (42.0, 42), ("42", 42), ("42.0", 42), (None, None)], ids=repr
)
def test_the_company_is_read_from_any_form_of_its_number(given: Any, company: int | None) -> None:
    assert Event.parse({"eventName": "x", "eventUuid": "e", "companyId": given}).company_id == company
