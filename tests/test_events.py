"""What Khoros sends is read tolerantly: a field of any kind, a date in any zone, and nothing made up."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import Event, StreamItem, Unreadable, is_web_address, read_date, read_subject_id

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
        notes=(("Grace", "A good customer"),),
        in_reply_to="",
        reposted_from="",
    )


def test_a_stream_item_needs_nothing_but_its_id() -> None:
    parsed = StreamItem.parse({"entityId": "facebook:1"})
    assert parsed == StreamItem("facebook:1", "", "", "", "", "", "", "", (), (), "", "")


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
        pytest.param("notes", "notes", "a note", (), id="notes as text"),
        pytest.param("notes", "notes", ["a note"], (("", "a note"),), id="a note as text"),
        pytest.param("notes", "notes", [{"text": "a"}, None], (("", "a"), ("", "")), id="a note by nobody"),
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
    for read in (StreamItem.parse, read_subject_id):
        with pytest.raises(Unreadable, match="an item "):
            read(raw)


def test_an_id_is_read_whatever_else_the_item_holds() -> None:
    assert read_subject_id({"entityId": 42, "notes": object()}) == "42"


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


# Dates


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("Wed Apr 12 09:01:11 CDT 2017", "2017-04-12T14:01:11+00:00", id="as published: Chicago, summer"),
        pytest.param("Thu Jan 12 09:01:11 CST 2017", "2017-01-12T15:01:11+00:00", id="Chicago, winter"),
        pytest.param("Wed Apr 12 09:01:11 PDT 2017", "2017-04-12T16:01:11+00:00", id="Los Angeles"),
        pytest.param("Wed Apr 12 09:01:11 BST 2017", "2017-04-12T08:01:11+00:00", id="London, summer"),
        pytest.param("Wed Apr 12 09:01:11 IST 2017", "2017-04-12T03:31:11+00:00", id="Kolkata, half an hour"),
        pytest.param("Wed Apr 12 09:01:11 UTC 2017", "2017-04-12T09:01:11+00:00", id="UTC"),
        pytest.param("Wed Apr 12 09:01:11 GMT 2017", "2017-04-12T09:01:11+00:00", id="GMT"),
        pytest.param("Wed Apr 12 09:01:11 GMT-03:00 2017", "2017-04-12T12:01:11+00:00", id="Java, three hours behind"),
        pytest.param("Wed Apr 12 09:01:11 GMT+05:30 2017", "2017-04-12T03:31:11+00:00", id="Java, ahead"),
        pytest.param("Wed Apr 12 2017 09:01:11 GMT-0500 (CDT)", "2017-04-12T14:01:11+00:00", id="JavaScript"),
        pytest.param("Wed, 12 Apr 2017 09:01:11 GMT", "2017-04-12T09:01:11+00:00", id="as in HTTP"),
        pytest.param("2017-04-12 09:01:11 CDT", "2017-04-12T14:01:11+00:00", id="ISO with a zone's name"),
        pytest.param("2017-04-12 09:01:11.5 +02:00", "2017-04-12T07:01:11.500000+00:00", id="ISO with blanks"),
        pytest.param("2011-05-26T18:23:31.000Z", "2011-05-26T18:23:31+00:00", id="as published: ISO"),
        pytest.param("2011-05-26T18:23:31.000+0200", "2011-05-26T16:23:31+00:00", id="ISO with an offset"),
        pytest.param(1306434211500, "2011-05-26T18:23:31.500000+00:00", id="milliseconds"),
        pytest.param("1306434211500", "2011-05-26T18:23:31.500000+00:00", id="milliseconds as text"),
    ],
)
def test_a_date_of_khoros_is_read_in_its_own_zone(value: object, expected: str) -> None:
    assert read_date(value) == datetime.fromisoformat(expected).timestamp()


ZONES = {
    **{"CST": -6, "CDT": -5, "EST": -5, "EDT": -4, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "AKST": -9, "AKDT": -8},
    **{"HST": -10, "AST": -4, "ADT": -3, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2},
    **{"EET": 2, "EEST": 3, "MSK": 3, "SAST": 2, "IST": 5.5, "HKT": 8, "JST": 9, "KST": 9, "AWST": 8, "ACST": 9.5},
    **{"ACDT": 10.5, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13},
}


@pytest.mark.parametrize("zone", ZONES)
def test_a_zone_is_known_by_its_name(zone: str) -> None:
    at = datetime.fromisoformat("2017-04-12T09:01:11+00:00").timestamp() - ZONES[zone] * 3600
    assert read_date(f"Wed Apr 12 09:01:11 {zone} 2017") == read_date(f"2017-04-12 09:01:11 {zone}") == at


@pytest.mark.parametrize("offset", ["+99:99", "+25:00", "-24:00"])
def test_a_date_with_an_impossible_offset_is_none(offset: str) -> None:
    assert read_date(f"2011-05-26T18:23:31{offset}") is None
    assert read_date(f"Thu May 26 18:23:31 GMT{offset} 2011") is None


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.sampled_from("Apr 12 2017 09:01:11 CDT +0500 -0000 GMT- 9:: ² , Z T".split()) | st.text(max_size=5)))
def test_no_words_break_the_reading_of_a_date(words: list[str]) -> None:
    assert isinstance(read_date(" ".join(words)), float | None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        [],
        "soon",
        "2017",
        "09:01",
        "Wed Apr 12 09:01:11 XYZ 2017",
        "Wed Apr 12 09:01:11 Pacific/Auckland 2017",
        "Wed Apr 12 09:01:11 2017",
        "Wed Apr 12 09:01:11 -0000 2017",
        "Wed Apr 12 09:01:11 GMT-03:75 2017",
        "Wed Apr 12 09:01:11 CDT 17",
        "Wed Apr 32 09:01:11 CDT 2017",
        "2017-04-12T09:01:11.123456789XYZ",
        "2011-05-26T18:23:31",
        "2011-05-26",
        "2011-99-99T18:23:31Z",
        "12:01 20179999999999999999999 UTC",
        "1306434211",
    ],
    ids=ascii,
)
def test_a_date_that_is_not_sure_is_none(value: object) -> None:
    assert read_date(value) is None


# Events


def test_the_published_event_is_read_whole() -> None:
    assert Event.parse(EVENT) == Event(
        name="stream-item-label-applied",
        uuid="5f0c4b7e-1c5c-4f0e-9a5d-0d9f2c1b7a11",
        company_id=4711,
        labels=(),
        subjects=(ITEM,),
    )


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
