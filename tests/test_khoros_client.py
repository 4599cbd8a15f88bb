"""Khoros' side: what it sends is read tolerantly, what it is asked is what it publishes, and how it can say no."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import responses
from hypothesis import given, settings
from hypothesis import strategies as st

from khoros_client import (
    EVENT_NAME,
    KhorosClient,
    Notification,
    StreamItem,
    Subscription,
    Unreadable,
    read_answer,
    read_date,
)
from outbound import Answer, AuthFailed, Rejected, ServiceError, Unavailable

SPEC = Path(__file__).parents[2] / "shared" / "specs" / "khoros-notification-openapi.json"
BASE = "https://api.spredfast.com/v2"
TOKEN = "khoros-access-token"

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
HELD = {
    "uuid": "s-1",
    "externalId": "send-to-zendesk",
    "companyId": 4711,
    "userId": 9,
    "eventName": EVENT_NAME,
    "notificationUri": "https://relay.example/notifications",
    "query": "CreateCase",
    "createdDate": "2017-04-12T14:01:11.000Z",
    "status": "active",
    "key": {"uuid": "s-1", "companyId": 4711, "eventName": EVENT_NAME},
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def khoros() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as khoros:
        yield khoros


@pytest.fixture
def client() -> KhorosClient:
    return KhorosClient(BASE, TOKEN, 4711)


def item(**changes: object) -> StreamItem:
    return StreamItem.parse({**ITEM, **changes})


def notification(**changes: object) -> Notification:
    return Notification.parse({**EVENT, **changes})


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
    with pytest.raises(Unreadable, match="an item "):
        StreamItem.parse(raw)


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
        pytest.param("2011-05-26T18:23:31.000Z", "2011-05-26T18:23:31+00:00", id="as published: ISO"),
        pytest.param("2011-05-26T18:23:31.000+0200", "2011-05-26T16:23:31+00:00", id="ISO with an offset"),
        pytest.param(1306434211500, "2011-05-26T18:23:31.500000+00:00", id="milliseconds"),
        pytest.param("1306434211500", "2011-05-26T18:23:31.500000+00:00", id="milliseconds as text"),
    ],
)
def test_a_date_of_khoros_is_read_in_its_own_zone(value: object, expected: str) -> None:
    assert read_date(value) == datetime.fromisoformat(expected).timestamp()


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


# Notifications


def test_the_published_notification_is_read_whole() -> None:
    assert Notification.parse(EVENT) == Notification(
        event_name="stream-item-label-applied",
        event_uuid="5f0c4b7e-1c5c-4f0e-9a5d-0d9f2c1b7a11",
        company_id=4711,
        created_date="Wed Apr 12 09:01:11 CDT 2017",
        subscription_uuid="0b1f7a2c-95c5-4f5e-8b7e-5ad4a3f6c001",
        labels=(),
        items=(ITEM,),
    )


def test_a_notification_keeps_every_item_raw_and_in_order() -> None:
    items = [ITEM, None, {"entityId": "twitter:2"}, "junk"]
    assert notification(data={"items": items}).items == tuple(items)


def test_reading_changes_nothing() -> None:
    before = copy.deepcopy(EVENT)
    StreamItem.parse(Notification.parse(EVENT).items[0])
    assert before == EVENT


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        pytest.param({"companyId": "4711"}, "company_id", 4711, id="company as text"),
        pytest.param({"companyId": None}, "company_id", None, id="null company"),
        pytest.param({"eventUuid": 17}, "event_uuid", "17", id="uuid as a number"),
        pytest.param({"eventUuid": "x" * 255}, "event_uuid", "x" * 255, id="as long as a column holds"),
        pytest.param({"subscriptionUuid": None, "uuid": "s-2"}, "subscription_uuid", "s-2", id="uuid for subscription"),
        pytest.param({"subscriptionUuid": None}, "subscription_uuid", "", id="no subscription"),
        pytest.param({"data": {"labels": "CreateCase"}}, "labels", ("CreateCase",), id="labels as text"),
        pytest.param({"data": {"labels": ["a", "b"]}}, "labels", ("a", "b"), id="labels"),
        pytest.param({"data": {"items": {"entityId": "a:1"}}}, "items", ({"entityId": "a:1"},), id="one item, no list"),
        pytest.param({"data": {"items": []}}, "items", (), id="no items"),
        pytest.param({"data": {"items": "a:1"}}, "items", (), id="items as text"),
        pytest.param({"data": {}}, "items", (), id="empty data"),
        pytest.param({"data": None}, "items", (), id="null data"),
        pytest.param({"data": [ITEM]}, "items", (), id="data as a list"),
    ],
)
def test_an_envelope_of_another_shape_is_read_as_what_it_means(
    changes: dict[str, Any], attribute: str, expected: object
) -> None:
    assert getattr(notification(**changes), attribute) == expected


def test_a_notification_that_names_no_company_is_readable() -> None:
    assert Notification.parse(without(EVENT, "companyId")).company_id is None


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
        Notification.parse(raw)


@settings(max_examples=100, deadline=None, database=None)
@given(
    st.dictionaries(st.sampled_from(list(EVENT)), anything),
    st.dictionaries(st.sampled_from(["items", "labels"]), anything),
    st.dictionaries(st.sampled_from(list(ITEM)), anything),
)
def test_no_json_breaks_the_reading(envelope: Any, data: Any, raw_item: Any) -> None:
    for raw in (envelope, EVENT | envelope, EVENT | {"data": data}, EVENT | {"data": {"items": [raw_item]}}):
        try:
            for entry in Notification.parse(raw).items:
                parsed = StreamItem.parse(entry)
                assert parsed.entity_id
                json.dumps(parsed.__dict__, ensure_ascii=False).encode()  # every text can be written
        except Unreadable:
            pass


# Subscriptions


def test_a_subscription_is_read_whole() -> None:
    assert Subscription.parse(HELD) == Subscription(
        uuid="s-1",
        external_id="send-to-zendesk",
        company_id="4711",
        event_name=EVENT_NAME,
        notification_uri="https://relay.example/notifications",
        query="CreateCase",
        status="ACTIVE",
        created_date="2017-04-12T14:01:11.000Z",
    )


def test_what_a_subscription_leaves_out_is_taken_from_its_key() -> None:
    parsed = Subscription.parse({"key": HELD["key"]})
    assert (parsed.uuid, parsed.company_id, parsed.event_name) == ("s-1", "4711", EVENT_NAME)


@pytest.mark.parametrize("raw", [{}, {"key": None}, {"key": "s-1"}, {"uuid": None, "status": 5}], ids=str)
def test_a_subscription_may_lack_everything(raw: dict[str, Any]) -> None:
    parsed = Subscription.parse(raw)
    assert (parsed.uuid, parsed.external_id, parsed.query) == ("", "", "")


# What is asked


def sent(khoros: responses.RequestsMock, index: int = 0) -> Any:
    return khoros.calls[index].request


def test_every_call_carries_the_token_and_the_company(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/whoami/", json={"id": 1})
    client.whoami()
    assert sent(khoros).headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent(khoros).headers["x-sf-company-id"] == "4711"


def test_subscribing_posts_what_khoros_publishes(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.post(f"{BASE}/events/subscription", json={"data": HELD, "status": {"succeeded": True}})
    made = client.subscribe(
        external_id="send-to-zendesk",
        notification_uri="https://relay.example/notifications",
        query="CreateCase",
        bearer_token="n0tification-bearer-token",
    )
    assert made == Subscription.parse(HELD)
    body = json.loads(sent(khoros).body)
    assert body == {
        "companyId": 4711,
        "externalId": "send-to-zendesk",
        "eventName": "stream-item-label-applied",
        "notificationUri": "https://relay.example/notifications",
        "query": "CreateCase",
        "bearerToken": "n0tification-bearer-token",
    }


def test_khoros_takes_the_subscription_by_its_own_description(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    if not SPEC.exists():
        pytest.skip(f"the published description is not on this machine: {SPEC}")
    khoros.post(f"{BASE}/events/subscription", json=HELD)
    client.subscribe(external_id="x", notification_uri="https://relay.example", query="q", bearer_token="b")
    post = json.loads(SPEC.read_text(encoding="utf-8"))["paths"]["/subscription"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(json.loads(sent(khoros).body), schema | {"additionalProperties": False})


def test_without_an_address_the_subscription_is_one_to_poll(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.post(f"{BASE}/events/subscription", body="Coming Soon", content_type="text/plain")
    made = client.subscribe(external_id="x", notification_uri="", query="q", bearer_token="b")
    assert "notificationUri" not in json.loads(sent(khoros).body)
    assert made.uuid == ""


def test_one_subscription_is_fetched_by_its_uuid(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/events/subscription/s-1", json=HELD)
    assert client.subscription("s-1") == Subscription.parse(HELD)


@pytest.mark.parametrize("status", ["ACTIVE", "PAUSED", "DISABLED"])
def test_a_status_is_put_into_the_address(khoros: responses.RequestsMock, client: KhorosClient, status: str) -> None:
    khoros.put(f"{BASE}/events/subscription/s-1/{status}", body="Coming Soon", content_type="text/plain")
    client.set_status("s-1", status)
    assert len(khoros.calls) == 1


@pytest.mark.parametrize("answer", [{"status": 204}, {"status": 404, "json": {}}], ids=["removed", "gone already"])
def test_a_subscription_is_gone_after_delete(
    khoros: responses.RequestsMock, client: KhorosClient, answer: dict[str, Any]
) -> None:
    khoros.delete(f"{BASE}/events/subscription/s-1", **answer)
    client.delete("s-1")
    assert len(khoros.calls) == 1


def test_a_subscription_that_is_gone_is_none(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/events/subscription/s-1", status=404, json={})
    assert client.subscription("s-1") is None


@pytest.mark.parametrize("method", ["subscription", "delete"])
def test_any_other_refusal_is_not_taken_for_gone(
    khoros: responses.RequestsMock, client: KhorosClient, method: str
) -> None:
    khoros.add("GET" if method == "subscription" else "DELETE", f"{BASE}/events/subscription/s-1", status=422)
    with pytest.raises(Rejected) as caught:
        getattr(client, method)("s-1")
    assert caught.value.status == 422


def test_events_are_asked_for_with_real_numbers(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/events/data/s-1", json={"data": [EVENT, None, "junk"], "status": {"succeeded": True}})
    assert client.events("s-1", offset=200, limit=100) == [EVENT]
    assert parse_qs(urlsplit(sent(khoros).url).query) == {"offset": ["200"], "limit": ["100"]}


def pages(khoros: responses.RequestsMock, *sizes: int) -> None:
    first = 0
    for size in sizes:
        khoros.get(f"{BASE}/events/subscription", json=[{"uuid": f"s-{first + n}"} for n in range(size)])
        first += size


def asked_pages(khoros: responses.RequestsMock) -> list[tuple[str, str]]:
    queries = [parse_qs(urlsplit(call.request.url or "").query) for call in khoros.calls]
    return [(query["pageNumber"][0], query["pageSize"][0]) for query in queries]


@pytest.mark.parametrize(
    "sizes", [(0,), (1,), (99,), (100, 0), (100, 100, 7)], ids=["none", "one", "nearly a page", "a page", "three pages"]
)
def test_every_page_of_subscriptions_is_listed(
    khoros: responses.RequestsMock, client: KhorosClient, sizes: tuple[int, ...]
) -> None:
    pages(khoros, *sizes)
    assert [s.uuid for s in client.subscriptions()] == [f"s-{n}" for n in range(sum(sizes))]
    assert asked_pages(khoros) == [(str(page), "100") for page in range(len(sizes))]


def test_a_list_that_knows_no_pages_is_asked_for_twice_only(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.get(f"{BASE}/events/subscription", json=[{"uuid": f"s-{n}"} for n in range(120)])
    assert len(client.subscriptions()) == 120
    assert len(khoros.calls) == 2


def test_a_list_without_end_is_left_after_ten_pages(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    pages(khoros, *[100] * 10)
    assert len(client.subscriptions()) == 1000
    assert len(khoros.calls) == 10


def test_whoami_tells_whose_token_it_is(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    someone = {"id": 9, "email": "relay@acme.example", "companies": [{"id": 4711, "name": "Acme", "products": []}]}
    khoros.get(f"{BASE}/whoami/", json={"data": someone, "status": {"succeeded": True}})
    assert client.whoami() == someone


# What is answered


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        pytest.param({"data": {"uuid": "s-1"}, "status": {"succeeded": True}}, {"uuid": "s-1"}, id="in its envelope"),
        pytest.param({"data": None, "status": {"succeeded": True}}, None, id="an empty envelope"),
        pytest.param({"data": [1]}, [1], id="an envelope without a status"),
        pytest.param({"uuid": "s-1", "status": "ACTIVE"}, {"uuid": "s-1", "status": "ACTIVE"}, id="bare"),
        pytest.param([{"uuid": "s-1"}], [{"uuid": "s-1"}], id="a bare list"),
        pytest.param({"text": "Developer Inactive"}, {"text": "Developer Inactive"}, id="a post with the fatal words"),
    ],
)
def test_the_payload_comes_bare_or_in_its_envelope(body: object, payload: object) -> None:
    assert read_answer(Answer(200, {}, json.dumps(body).encode())) == payload


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"Coming Soon"), (204, b""), (200, b"")], ids=["Coming Soon", "204", "nothing"]
)
def test_success_without_data_is_success(status: int, body: bytes) -> None:
    assert read_answer(Answer(status, {"Content-Type": "text/plain"}, body)) is None


@pytest.mark.parametrize(
    "body",
    [
        {"items": [{"a": 1}, 5]},
        {"data": {"items": [{"a": 1}]}},
        {"content": [{"a": 1}]},
        {"data": {"data": [{"a": 1}]}},
    ],
    ids=str,
)
def test_a_list_may_be_inside_an_object(
    khoros: responses.RequestsMock, client: KhorosClient, body: dict[str, Any]
) -> None:
    khoros.get(f"{BASE}/events/data/s-1", json=body)
    assert client.events("s-1", offset=0, limit=10) == [{"a": 1}]


@pytest.mark.parametrize("body", ['"text"', "5", "null", '{"items": 5}', "{}", "Coming Soon"])
def test_an_answer_without_the_list_is_unavailable(
    khoros: responses.RequestsMock, client: KhorosClient, body: str
) -> None:
    khoros.get(f"{BASE}/events/data/s-1", body=body)
    with pytest.raises(Unavailable, match="without a list"):
        client.events("s-1", offset=0, limit=10)


@pytest.mark.parametrize("body", ['"text"', "[]", "null", "Coming Soon"])
def test_an_answer_without_the_object_is_unavailable(
    khoros: responses.RequestsMock, client: KhorosClient, body: str
) -> None:
    khoros.get(f"{BASE}/events/subscription/s-1", body=body)
    with pytest.raises(Unavailable, match="without an object"):
        client.subscription("s-1")


def failed(code: object, message: object = "") -> bytes:
    return json.dumps({"status": {"error": {"code": code, "message": message}, "succeeded": False}}).encode()


PAGE = b"<!DOCTYPE html><html><body><h1>%s</h1></body></html>"
NOT_ALLOWED = "Company 4711 does not allow the application abc"


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "words"),
    [
        pytest.param(200, PAGE % b"Developer Inactive", AuthFailed, "DeveloperInactive", "has expired", id="inactive"),
        pytest.param(403, PAGE % b"DEVELOPER INACTIVE", AuthFailed, "DeveloperInactive", "has expired", id="as 403"),
        pytest.param(503, b"Developer Inactive", AuthFailed, "DeveloperInactive", "has expired", id="as text, 503"),
        pytest.param(200, PAGE % b"Sign in", Unavailable, None, "a web page instead of data", id="a page for 200"),
        pytest.param(401, PAGE % b"Bad credentials", AuthFailed, None, "refuses SPREDFAST_API_TOKEN", id="HTML 401"),
        pytest.param(401, failed("401", "no"), AuthFailed, "401", "answered 401: it refuses", id="JSON 401"),
        pytest.param(403, failed("X"), AuthFailed, "X", "refuses SPREDFAST_API_TOKEN", id="403"),
        pytest.param(200, failed(401), AuthFailed, "401", "answered 200 401: it refuses", id="401 inside a 200"),
        pytest.param(200, failed("403"), AuthFailed, "403", "answered 200 403: it refuses", id="403 inside a 200"),
        pytest.param(200, failed("BAD_QUERY", "no"), Rejected, "BAD_QUERY", "200 BAD_QUERY", id="error inside a 200"),
        pytest.param(400, failed("C1", NOT_ALLOWED), AuthFailed, "C1", "ask Khoros to enable it", id="not enabled"),
        pytest.param(200, failed(None, NOT_ALLOWED), AuthFailed, None, "does not allow", id="not enabled, 200"),
        pytest.param(586, b"", Rejected, None, "KHOROS_API_URL does not lead to the API", id="586"),
        pytest.param(586, PAGE % b"?", Rejected, None, "KHOROS_API_URL does not lead to the API", id="586 page"),
        pytest.param(302, b"", Rejected, None, "KHOROS_API_URL does not lead to the API", id="redirect"),
        pytest.param(400, b"{}", Rejected, None, "Khoros answered 400", id="400"),
        pytest.param(404, b"{}", Rejected, None, "Khoros answered 404", id="404"),
        pytest.param(404, PAGE % b"?", Rejected, None, "Khoros answered 404", id="404 page"),
        pytest.param(422, b"", Rejected, None, "Khoros answered 422", id="422"),
        pytest.param(408, b"", Unavailable, None, "Khoros answered 408", id="408"),
        pytest.param(425, b"", Unavailable, None, "Khoros answered 425", id="425"),
        pytest.param(429, b"{}", Unavailable, None, "Khoros answered 429", id="429"),
        pytest.param(500, failed("E5"), Unavailable, "E5", "Khoros answered 500 E5", id="500"),
        pytest.param(502, PAGE % b"Bad gateway", Unavailable, None, "Khoros answered 502", id="502 page"),
        pytest.param(599, b"null", Unavailable, None, "Khoros answered 599", id="599"),
        pytest.param(500, b'{"status": "down"}', Unavailable, None, "Khoros answered 500", id="status as text"),
        pytest.param(500, b'{"status": {"error": "down"}}', Unavailable, None, "answered 500", id="error as text"),
        pytest.param(400, failed("x" * 99), Rejected, "x" * 60, "x" * 60, id="a long code"),
    ],
)
def test_a_failure_is_named_by_what_to_do_next(
    status: int, body: bytes, kind: type[ServiceError], code: str | None, words: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        read_answer(Answer(status, {}, body))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)
    assert words in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_how_long_khoros_asks_us_to_wait_is_kept(status: int) -> None:
    with pytest.raises(Unavailable) as caught:
        read_answer(Answer(status, {"Retry-After": "17"}, b""))
    assert caught.value.retry_after_s == 17.0


def test_no_failure_repeats_what_khoros_wrote_or_a_secret(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    echo = (TOKEN, "n0tification-bearer-token", "a customer's text")
    for status in (200, 400, 401, 429, 503):
        khoros.post(f"{BASE}/events/subscription", status=status, body=failed("E", " ".join(echo)))
        with pytest.raises(ServiceError) as caught:
            client.subscribe(external_id="x", notification_uri="", query="q", bearer_token="n0tification-bearer-token")
        assert [words for words in echo if words in repr(caught.value)] == []
    assert TOKEN not in repr(client)


def test_a_redirect_gets_no_second_request(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/whoami/", status=302, headers={"Location": "https://evil.example/"})
    with pytest.raises(Rejected):
        client.whoami()
    assert len(khoros.calls) == 1
