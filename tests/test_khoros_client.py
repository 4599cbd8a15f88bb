"""Khoros' API: requests are as published, answers are read tolerantly, and each failure has a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses
from contracts import validate

from events import LABEL_APPLIED, RULE_APPLIED
from khoros_client import OVERLONG, Company, Garbled, KhorosClient, Label, Subscription, Upserted, read_khoros_answer
from outbound import Answer, AuthFailed, Rejected, ServiceError, Unavailable

BASE = "https://api.spredfast.com/v2"
TOKEN = "khoros-access-token"

LISTED = {
    "uuid": "s-1",
    "externalId": "send-to-zendesk",
    "companyId": 4711,
    "userId": 9,
    "eventName": LABEL_APPLIED,
    "notificationUri": "https://relay.example/notifications",
    "query": "CreateCase",
    "createdDate": "2017-04-12T14:01:11.000Z",
    "status": "active",
    "key": {"uuid": "s-1", "companyId": 4711, "eventName": LABEL_APPLIED},
}


@pytest.fixture
def khoros() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as khoros:
        yield khoros


@pytest.fixture
def client() -> KhorosClient:
    return KhorosClient(BASE, TOKEN, 4711)


def subscribe(client: KhorosClient, **changes: str) -> Upserted:
    settings = {"event_name": LABEL_APPLIED, "external_id": "x", "query": "q", "bearer_token": "b"}
    return client.subscribe(**{**settings, "notification_uri": "https://relay.example", **changes})


# Subscriptions


def test_a_subscription_is_read_whole() -> None:
    assert Subscription.parse(LISTED) == Subscription(
        uuid="s-1",
        external_id="send-to-zendesk",
        company_id="4711",
        event_name=LABEL_APPLIED,
        notification_uri="https://relay.example/notifications",
        query="CreateCase",
        status="ACTIVE",
        created_date="2017-04-12T14:01:11.000Z",
    )


def test_what_a_subscription_leaves_out_is_taken_from_its_key() -> None:
    parsed = Subscription.parse({"key": LISTED["key"]})
    assert (parsed.uuid, parsed.company_id, parsed.event_name) == ("s-1", "4711", LABEL_APPLIED)


@pytest.mark.parametrize("raw", [{}, {"key": None}, {"key": "s-1"}, {"uuid": None, "status": 5}], ids=str)
def test_a_subscription_may_lack_everything(raw: dict[str, Any]) -> None:
    parsed = Subscription.parse(raw)
    assert (parsed.uuid, parsed.external_id, parsed.query) == ("", "", "")


# What is asked


def sent(khoros: responses.RequestsMock, index: int = 0) -> Any:
    return khoros.calls[index].request


def test_every_call_carries_the_token_and_the_company(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/labelsets/", json=[])
    client.labels()
    assert sent(khoros).headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent(khoros).headers["x-sf-company-id"] == "4711"


def test_subscribing_posts_what_khoros_publishes(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.post(f"{BASE}/events/subscription", json={"data": LISTED, "status": {"succeeded": True}})
    made = client.subscribe(
        event_name="stream-item-label-applied",
        external_id="send-to-zendesk",
        notification_uri="https://relay.example/notifications",
        query="CreateCase",
        bearer_token="n0tification-bearer-token",
    )
    assert made.subscription == Subscription.parse(LISTED)
    body = json.loads(sent(khoros).body)
    assert body == {
        "companyId": 4711,
        "externalId": "send-to-zendesk",
        "eventName": "stream-item-label-applied",
        "notificationUri": "https://relay.example/notifications",
        "query": "CreateCase",
        "bearerToken": "n0tification-bearer-token",
    }


def test_the_request_to_subscribe_keeps_to_the_contract(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.post(f"{BASE}/events/subscription", json=LISTED)
    subscribe(client)
    validate(json.loads(sent(khoros).body), "khoros", "subscribe")


def test_without_an_address_the_subscription_is_one_to_poll(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.post(f"{BASE}/events/subscription", body="Coming Soon", content_type="text/plain")
    made = subscribe(client, notification_uri="")
    assert "notificationUri" not in json.loads(sent(khoros).body)
    assert made.subscription.uuid == ""


def test_without_a_query_the_body_has_none(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.post(f"{BASE}/events/subscription", json=LISTED)
    subscribe(client, event_name=RULE_APPLIED, query="")
    body = json.loads(sent(khoros).body)
    assert "query" not in body and body["eventName"] == RULE_APPLIED
    validate(body, "khoros", "subscribe")


@pytest.mark.parametrize(
    ("header", "date"),
    [
        ("Wed, 12 Apr 2017 14:01:11 GMT", 1492005671.0),
        ("Wed, 12 Apr 2017 14:01:11 +0000", 1492005671.0),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_the_answer_to_an_upsert_has_khoros_own_time(
    header: str | None, date: float | None, khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    headers = {"Date": header} if header is not None else {}
    khoros.post(f"{BASE}/events/subscription", json=LISTED, headers=headers)
    assert subscribe(client).date == date


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


def test_any_other_refusal_to_delete_is_an_error(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.delete(f"{BASE}/events/subscription/s-1", status=422)
    with pytest.raises(Rejected) as caught:
        client.delete("s-1")
    assert caught.value.status == 422


def test_events_are_asked_for_with_real_numbers(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(
        f"{BASE}/events/data/s-1", json={"data": [{"eventUuid": "e-1"}, None, "junk"], "status": {"succeeded": True}}
    )
    assert client.events("s-1", offset=200, limit=100) == [{"eventUuid": "e-1"}, None, "junk"]
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
    "sizes",
    [(0, 0), (1,), (99,), (100, 0), (100, 100, 7), (0, 3), (0, 100, 3)],
    ids=["none", "one", "nearly a page", "a page", "three pages", "the first page is 1", "pages from 1 on"],
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


def label_set(name: str, *labels: Any, status: str = "ACTIVE") -> dict[str, Any]:
    return {"id": name, "name": name, "status": status, "labels": list(labels)}


def test_labels_are_listed_with_their_sets_and_whether_they_are_active(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    listed = [
        label_set(
            "General", {"id": 1, "name": "CreateCase", "status": "ACTIVE"}, {"name": "Old", "status": "INACTIVE"}
        ),
        label_set("Retired", {"name": "VIP", "status": "active"}, {"name": "No status"}, status="DELETED"),
        {"name": "Odd", "labels": [{"name": "VIP"}, "text", None]},
        {"name": "Empty", "labels": None},
    ]
    answer = {"data": listed, "pageNumber": 1, "pageSize": 100, "totalRecords": 4}
    khoros.get(f"{BASE}/labelsets/", json=answer)
    assert client.labels() == [
        Label("CreateCase", "General", active=True),
        Label("Old", "General", active=False),
        Label("VIP", "Retired", active=False),
        Label("No status", "Retired", active=False),
        Label("VIP", "Odd", active=True),
    ]
    assert asked_pages(khoros) == [("1", "100")]
    validate(answer, "khoros", "label_sets")


def test_pages_of_labels_are_counted_from_one_and_are_bounded(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    for page in range(10):
        sets = [label_set(f"{page}-{n}", {"name": f"label {page}-{n}"}) for n in range(100)]
        khoros.get(f"{BASE}/labelsets/", json={"data": sets})
    assert len(client.labels()) == 1000
    assert asked_pages(khoros) == [(str(page), "100") for page in range(1, 11)]


def test_a_refused_list_of_labels_is_an_error(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/labelsets/", status=403, json={})
    with pytest.raises(AuthFailed):
        client.labels()


def test_the_companies_are_asked_for_without_the_number_of_one(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    someone = {"id": 9, "email": "relay@acme.example", "companies": [{"id": 4711, "name": "Acme", "products": []}]}
    khoros.get(f"{BASE}/whoami/", json={"data": someone, "status": {"succeeded": True}})
    assert client.companies() == [Company("4711", "Acme")]
    assert "x-sf-company-id" not in sent(khoros).headers  # the number may be what is wrong


@pytest.mark.parametrize(
    ("listed", "companies"),
    [
        ([{"id": 4711, "name": "Acme", "products": []}, {"id": "8"}], [Company("4711", "Acme"), Company("8", "")]),
        ([{"name": "Without a number"}, "Acme", None], []),
        ("Acme", []),
        (None, []),
    ],
    ids=ascii,
)
def test_the_companies_of_a_token_are_those_that_have_a_number(
    listed: object, companies: list[Company], khoros: responses.RequestsMock
) -> None:
    khoros.get(f"{BASE}/whoami/", json={"id": 9, "companies": listed})
    assert KhorosClient(BASE, TOKEN).companies() == companies


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
    assert read_khoros_answer(Answer(200, {}, json.dumps(body).encode())) == payload


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        pytest.param(b'[{"text": "f\xfcr"}]', "application/json", "f\ufffdr", id="a bad byte"),
        pytest.param(b'[{"text": "f\xfcr"}]', "application/json; charset=ISO-8859-1", "f\xfcr", id="declared"),
        pytest.param('[{"text": "f\xfcr"}]'.encode(), 'a/b; charset="latin-1"', "f\xfcr", id="declared wrongly"),
        pytest.param(b'[{"text": "f\xfcr"}]', "a/b; charset=nonsense", "f\ufffdr", id="an unknown charset"),
        pytest.param(b'\xef\xbb\xbf[{"text": "f"}]', "application/json", "f", id="a BOM"),
        pytest.param('[{"text": "f\xfcr"}]'.encode("utf-16"), "application/json", "f\xfcr", id="UTF-16"),
        pytest.param(b'[{"text": "a\nb\tc\x01"}]', "application/json", "a\nb\tc\x01", id="control characters"),
        pytest.param(b'[{"text": "f"}]\r\n\x00\x00', "application/json", "f", id="NUL behind"),
    ],
)
def test_a_list_is_read_as_well_as_can_be(
    body: bytes, content_type: str, text: str, khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.get(f"{BASE}/events/data/s-1", body=body, headers={"Content-Type": content_type})
    assert client.events("s-1", offset=0, limit=10) == [{"text": text}]


@pytest.mark.parametrize("body", [b"{", b"[{}", b'[{"a": nope}]', b"[" * 100_000, b'{"data": [1, 2'])
def test_data_that_cannot_be_read_is_returned_as_text_with_the_error(
    body: bytes, khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.get(f"{BASE}/events/data/s-1", body=body)
    with pytest.raises(Garbled, match="data that cannot be read") as caught:
        client.events("s-1", offset=0, limit=10)
    assert (caught.value.text, caught.value.status) == (body.decode(), 200)
    assert body.decode() not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"Coming Soon"), (204, b""), (200, b"")], ids=["Coming Soon", "204", "nothing"]
)
def test_success_without_data_is_success(status: int, body: bytes) -> None:
    assert read_khoros_answer(Answer(status, {"Content-Type": "text/plain"}, body)) is None


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
    assert client.events("s-1", offset=0, limit=10)[0] == {"a": 1}


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
    khoros.get(f"{BASE}/whoami/", body=body)
    with pytest.raises(Unavailable, match="without an object"):
        client.companies()


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
        read_khoros_answer(Answer(status, {}, body))
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)
    assert words in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
def test_how_long_khoros_asks_us_to_wait_is_kept(status: int) -> None:
    with pytest.raises(Unavailable) as caught:
        read_khoros_answer(Answer(status, {"Retry-After": "17"}, b""))
    assert caught.value.retry_after_s == 17.0


def test_no_failure_repeats_what_khoros_wrote_or_a_secret(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    echo = (TOKEN, "n0tification-bearer-token", "a customer's text")
    for status in (200, 400, 401, 429, 503):
        khoros.post(f"{BASE}/events/subscription", status=status, body=failed("E", " ".join(echo)))
        with pytest.raises(ServiceError) as caught:
            subscribe(client, bearer_token="n0tification-bearer-token")
        assert [words for words in echo if words in repr(caught.value)] == []
    assert TOKEN not in repr(client)


def test_a_redirect_gets_no_second_request(khoros: responses.RequestsMock, client: KhorosClient) -> None:
    khoros.get(f"{BASE}/whoami/", status=302, headers={"Location": "https://evil.example/"})
    with pytest.raises(Rejected):
        client.companies()
    assert len(khoros.calls) == 1


def test_a_page_that_is_too_long_is_data_that_cannot_be_read(
    khoros: responses.RequestsMock, client: KhorosClient
) -> None:
    khoros.get(f"{BASE}/events/data/s-1", body=b'["' + b"x" * (9 << 20))
    with pytest.raises(Garbled) as caught:
        client.events("s-1", offset=0, limit=1)
    assert (caught.value.text, caught.value.status) == (OVERLONG, 200)


def test_a_number_of_thousands_of_digits_is_text() -> None:
    digits = "9" * 5000
    assert read_khoros_answer(Answer(200, {}, f'{{"data": [{digits}, 7]}}'.encode())) == [digits, 7]
