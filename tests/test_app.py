"""What the app answers: nobody without the token, nothing lost, nothing given away."""

from __future__ import annotations

import hmac
import io
import json
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    AUTHOR,
    NOWHERE,
    OLD_TOKEN,
    SLACK_TOKEN,
    TEXT,
    TOKEN,
    WEBHOOK_SECRET,
    alone,
    events,
    fields_of,
    new_post,
    new_routes,
    new_settings,
    notification,
    relay_of,
    rows,
    sqlite_unless_asked,
    wait_for,
)
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import Settings, create_app
from events import LABEL_APPLIED, MESSAGE_PUBLISHED, MESSAGE_SENT, RULE_APPLIED
from inbox.database import Database
from inbox.gate import OUTAGE, UNAUTHORISED, Gate
from inbox.inbox import Inbox
from inbox.items import NewItem, Outcome
from khoros.body import BODY_LIMIT
from khoros.subscription import SubscriptionStatus
from operations.relay import Relay
from sandbox.khoros import FakeKhoros
from sandbox.receiver import HOOK_PATH, FakeReceiver
from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

NewApp = Callable[[Settings], Flask]
MIB = 1024 * 1024
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


@pytest.fixture
def inbox(app: Flask) -> Inbox:
    return relay_of(app).inbox


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    touched = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.touched = True
        raise AssertionError("the body was read")


def post_unread(client: FlaskClient, header: str, length: int = 10) -> tuple[TestResponse, bool]:
    """Posts a body that nobody may read; gives the answer and whether it was tried."""
    body = Unread()
    environ = {"wsgi.input": body, "CONTENT_LENGTH": str(length), "HTTP_AUTHORIZATION": header}
    answer = client.post("/notifications", environ_overrides=environ, headers={"X-Request-Id": "r-7"})
    return answer, body.touched


def post(client: FlaskClient, body: Any, **options: Any) -> TestResponse:
    """Posts a notification with the right token; anything but bytes goes as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
    return client.post("/notifications", data=data, headers=headers, **options)


FOUR_ROUTES = (
    "label CreateCase -> zendesk; label VIP -> slack #crisis; published -> slack ann@acme.example; "
    f"sent -> webhook {NOWHERE}/made-up"
)


def subscribed(app: Flask, state: str = "subscribed", detail: str = "") -> None:
    relay_of(app).facts.save(f"subscription:{LABEL_APPLIED}", SubscriptionStatus(state, detail, "uuid-1"))


def stop(relay: Relay) -> None:
    """Stops the background work and waits for its threads."""
    relay.stop()
    wait_for(lambda: not {"subscriptions", "retention"} & {thread.name for thread in threading.enumerate()})


def close_gate(inbox: Inbox, state: str, reason: str = "said 503") -> None:
    inbox.end_check("zendesk", Gate(), Outcome(state, 0.0, reason=reason, retry_after_s=40.0))


@pytest.fixture
def disk(database: Database) -> Disk:
    return Disk(database)


class Disk:
    """A disk that is full or has space, as the database feels it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fill(self) -> None:
        with self._database.transaction() as db:
            stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            db.change(f"CREATE TRIGGER full_items BEFORE INSERT ON items {stop}")
            db.change(f"CREATE TRIGGER full_facts BEFORE INSERT ON facts {stop}")

    def free(self) -> None:
        with self._database.transaction() as db:
            db.change("DROP TRIGGER full_items")
            db.change("DROP TRIGGER full_facts")


# The token


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
        f"Bearer{TOKEN}",
        "Bearer wrong",
        "Bearer undefined",
        "Bearer None",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer x{TOKEN}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN},{OLD_TOKEN}",
        f"Bearer Bearer {TOKEN}",
        "Bearer t\xf6ken-\xff\x80",
        "Bearer " + "\xe2\x98\x83" * 20,
        f"Bearer {TOKEN}\x00",
    ],
)
def test_without_the_token_nobody_gets_in_and_the_body_is_not_even_read(
    header: str, client: FlaskClient, database: Database
) -> None:
    answer, touched = post_unread(client, header)
    assert (answer.status_code, touched) == (401, False)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.get_json()["error"] == "Unauthorized"
    assert rows(database) == []


def test_with_the_token_the_body_is_read(client: FlaskClient) -> None:
    """Or else the test above could not fail."""
    assert post_unread(client, f"Bearer {TOKEN}")[1]


def test_a_missing_authorization_header_is_refused_and_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/notifications", json=notification(), headers={"X-Request-Id": "r-7"})
    assert answer.status_code == 401
    logged = fields_of(caplog, "notification_refused")
    assert (logged["status"], logged["request_id"], logged["level"]) == (401, "r-7", logging.WARNING)


def test_a_body_far_too_large_does_not_hide_a_wrong_token(client: FlaskClient) -> None:
    answer = client.post("/notifications", data=b"x" * (BODY_LIMIT + 1), headers={"Authorization": "Bearer wrong"})
    assert answer.status_code == 401


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"Bearer {OLD_TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_either_token_lets_khoros_in(header: str, client: FlaskClient) -> None:
    assert post(client, notification(), headers={"Authorization": header}).status_code == 202


@pytest.mark.parametrize("offered", [TOKEN, OLD_TOKEN, "wrong"])
def test_every_token_is_compared_in_constant_time_whichever_matches(
    offered: str, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    true_compare = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return true_compare(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    post(client, notification(), headers={"Authorization": f"Bearer {offered}"})
    assert {(frozenset(pair)) for pair in compared} == {
        frozenset({offered.encode(), TOKEN.encode()}),
        frozenset({offered.encode(), OLD_TOKEN.encode()}),
    }


# The body


def test_a_body_over_the_limit_is_refused_by_its_stated_length_without_reading_it(
    client: FlaskClient, database: Database
) -> None:
    answer, touched = post_unread(client, f"Bearer {TOKEN}", BODY_LIMIT + 1)
    assert (answer.status_code, answer.get_json()["error"], touched) == (413, "Request Entity Too Large", False)
    assert rows(database) == []


def chunked(client: FlaskClient, body: bytes) -> TestResponse:
    """As gunicorn hands a body of unstated length over."""
    return client.post(
        "/notifications",
        input_stream=io.BytesIO(body),
        headers={"Authorization": f"Bearer {TOKEN}", "Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )


@pytest.mark.parametrize(
    "body",
    [b"x" * (BODY_LIMIT + 1), json.dumps(notification()).encode() + b" " * BODY_LIMIT, b" " * (5 * MIB)],
    ids=["not JSON", "JSON and blanks", "much too large"],
)
def test_a_body_of_unknown_length_over_the_limit_is_refused(
    body: bytes, client: FlaskClient, database: Database
) -> None:
    answer = chunked(client, body)
    assert (answer.status_code, answer.get_json()["error"]) == (413, "Request Entity Too Large")
    assert rows(database) == []


def test_a_body_of_unknown_length_within_the_limit_is_taken(client: FlaskClient, database: Database) -> None:
    assert chunked(client, json.dumps(notification()).encode()).status_code == 202
    assert len(rows(database)) == 1


def test_the_limit_is_one_mebibyte_to_the_byte(client: FlaskClient) -> None:
    body = json.dumps(notification()).encode().ljust(MIB)
    assert [post(client, body).status_code, post(client, body + b" ").status_code] == [202, 413]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"not json",
        b"<html></html>",
        b"eventName=stream-item-label-applied",
        b"{'a': 1}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000,
        b'"\xff\xfe\xfa"',
        b'{"text": "caf\xe9',
        b"\x00\x01\x02",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_not_json_is_answered_422_and_kept_once_as_text(
    body: bytes, client: FlaskClient, database: Database
) -> None:
    answers = [post(client, body), post(client, body)]
    assert [answer.status_code for answer in answers] == [422, 422]
    [(_, _, state, reason)] = rows(database)
    assert state == "parked" and str(reason).startswith("the body is ")
    [payload] = kept_payloads(database)
    assert len(payload["unreadable"]) <= len(body)
    assert re.findall("[a-z]+", body.decode("ascii", "ignore")) == re.findall("[a-z]+", payload["unreadable"])


@pytest.mark.parametrize("body", [b"", b" \r\n", b"\x00\x00", b"\xef\xbb\xbf"])
def test_an_empty_body_is_answered_400_and_not_kept(body: bytes, client: FlaskClient, database: Database) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.get_json()["error"]) == (400, "Bad Request")
    assert rows(database) == []


UNREADABLE = {
    "not an object": [1, 2],
    "null": None,
    "a text": "hello",
    "a number": 17,
    "no eventName": notification(eventName=None),
    "eventName is an object": notification(eventName={"name": "stream-item-label-applied"}),
    "no eventUuid": notification(eventUuid=""),
    "eventUuid is a list": notification(eventUuid=["event-1"]),
    "eventUuid too long": notification("e" * 256),
    "eventUuid with a line break": notification("event\n1"),
    "companyId is no number": notification(companyId="acme"),
    "companyId is negative": notification(companyId=-123),
    "companyId is true": notification(companyId=True),
    "companyId is a fraction": notification(companyId=123.5),
    "companyId is endless": notification(companyId=10**400),
    "no items": notification(data={"labels": ["CreateCase"], "items": []}),
    "no data": notification(data=None),
    "data is a list": notification(data=[new_post()]),
    "items is a text": notification(data={"items": "twitter:1"}),
    "items are null": notification(data={"items": [None]}),
    "items without entityId": notification(data={"items": [{"text": TEXT}, {"entityId": ""}]}),
    "entityId too long": notification("event-1", new_post("t" * 256)),
    "entityId is an object": notification(data={"items": [{"entityId": {"id": 1}, "text": TEXT}]}),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_authentic_but_unreadable_notification_is_answered_422_and_kept_parked_once(
    body: Any, client: FlaskClient, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    answers = [post(client, body), post(client, body)]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert answers[0].get_json()["message"].startswith("Kept for a person to look at: ")
    [(_, post_id, state, reason)] = rows(database)
    assert (post_id, state) == ("", "parked") and reason and f"{reason}." in answers[0].get_json()["message"]
    assert kept_payloads(database) == [{"unreadable": body}]
    assert events(caplog) == ["parked", "notification_refused", "notification_refused"]


def kept_payloads(database: Database) -> list[Any]:
    with database.reading() as db:
        return [json.loads(row[0]) for row in db.rows("SELECT payload FROM items ORDER BY id")]


MALFORMED: list[bytes] = [
    *(b"", b" ", b"{", b"}", b"[", b"]", b'"', b"'", b",", b"nul", b"tru", b"NULL", b"undefined", b"<xml/>"),
    *(b"{]", b"[}", b'{"a"}', b'{"a":}', b'{"a":1,}', b"[1,]", b"{a:1}", b"{'a':1}", b"01", b"+1", b"0x10", b"1e"),
    *(b"\x00", b"\xff", b"\xc3\x28", b"\xef\xbb\xbf", b"\xff\xfe", b'"\x01"', b'"\\x"', b'"\\u12"', b"a=1&b=2"),
    *(b"[" * 200_000, b'{"a":' * 200_000, b"9" * 4500, b"-" * 9, b'{"a":1}{"a":1}', b"// comment\n{}"),
    *(b"[]", b"{}", b"null", b"true", b"0", b"-1e999", b"NaN", b'""', b'{"eventName": "stream-item-label-applied"}'),
]


def test_none_of_fifty_malformed_bodies_passes_or_breaks_anything(client: FlaskClient, database: Database) -> None:
    answers = [post(client, body) for body in MALFORMED]
    assert len(set(MALFORMED)) == 50
    assert [body[:20] for body, a in zip(MALFORMED, answers, strict=True) if a.status_code not in (400, 422)] == []
    assert {answer.mimetype for answer in answers} == {"application/json"}
    assert {state for _, _, state, _ in rows(database)} == {"parked"}
    assert post(client, notification()).status_code == 202


# What is taken, and what is none of our business


def test_a_notification_is_committed_and_counted(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    answer = post(client, notification("e1", "p:1", "p:2"), headers={"X-Request-Id": "r-1"})
    assert (answer.status_code, answer.get_json()) == (202, {"accepted": 2, "duplicates": 0, "ignored": 0})
    assert rows(database) == [("e1", "p:1", "pending", None), ("e1", "p:2", "pending", None)]
    logged = fields_of(caplog, "notification_accepted")
    assert (logged["accepted"], logged["event_uuid"], logged["request_id"]) == (2, "e1", "r-1")


def test_the_same_notification_again_is_a_duplicate(client: FlaskClient, database: Database) -> None:
    answers = [post(client, notification("e1", "p:1", "p:2")).get_json() for _ in range(3)]
    assert answers[1:] == [{"accepted": 0, "duplicates": 2, "ignored": 0}] * 2
    assert len(rows(database)) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (notification(companyId=999), "another company's"),
        (notification(companyId="999"), "another company's"),
        (notification(eventName="rule-applied"), "no route wants it"),
        (notification(eventName="message-published"), "no route wants it"),
        (notification(labels=["Praise"]), "no route wants it"),
        (notification(labels=["CreateCaseNow", "DontCreateCase", "createcase"]), "no route wants it"),
        (notification(labels="Praise"), "no route wants it"),
    ],
)
def test_what_concerns_someone_else_is_answered_202_and_ignored(
    body: Any, reason: str, client: FlaskClient, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    answer = post(client, body)
    assert (answer.status_code, answer.get_json()) == (202, {"accepted": 0, "duplicates": 0, "ignored": 1})
    assert rows(database) == []
    logged = fields_of(caplog, "notification_ignored")
    assert (logged["reason"], logged["level"], logged["event_uuid"]) == (reason, logging.INFO, "event-1")


@pytest.mark.parametrize(
    "labels",
    [[], None, "", "CreateCase", ["CreateCase"], ["Praise", " CreateCase "], [{"name": "CreateCase"}], [None], [[]]],
    ids=str,
)
def test_our_label_is_recognised_however_it_is_given_and_no_label_is_no_objection(
    labels: Any, client: FlaskClient
) -> None:
    assert post(client, notification(labels=labels)).get_json()["accepted"] == 1


@pytest.mark.parametrize("company_id", [123, "123", None], ids=repr)
def test_our_company_is_recognised_however_it_is_given(company_id: Any, client: FlaskClient) -> None:
    assert post(client, notification(companyId=company_id)).get_json()["accepted"] == 1


def test_a_single_item_outside_a_list_is_taken(client: FlaskClient, database: Database) -> None:
    assert post(client, notification(data={"items": new_post("p:1")})).get_json()["accepted"] == 1
    assert rows(database) == [("event-1", "p:1", "pending", None)]


def test_an_unreadable_item_is_parked_and_the_good_ones_beside_it_are_taken(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    body = notification("e1", "p:1", {"text": TEXT}, "p:2")
    assert post(client, body).get_json() == {"accepted": 2, "duplicates": 0, "ignored": 0}
    assert {row[1:3] for row in rows(database)} == {("", "parked"), ("p:1", "pending"), ("p:2", "pending")}
    assert fields_of(caplog, "parked")["event_uuid"] == "e1"
    assert post(client, body).get_json() == {"accepted": 0, "duplicates": 2, "ignored": 0}
    assert len(rows(database)) == 3


def every_field(value: str) -> list[dict[str, Any]]:
    """Notifications that hold `value` in one place each, in every place there is."""
    item = {"link", "author", "authorLink", "authorScreenName", "createdDate", "followerCount", "inReplyTo", "x"}
    places: list[dict[str, Any]] = [notification("item", {**new_post(), name: value}) for name in sorted(item)]
    places += [notification("item", {**new_post(), "text": value, "repostedFrom": {"link": value}})]
    places += [notification("item", {**new_post(), "labels": [value], "notes": [{"text": value}, value]})]
    places += [notification("item", {**new_post(), value: value})]
    places += [notification("entity", new_post(value))]
    places += [notification("outer", **{name: value}) for name in ("createdDate", "subscriptionUuid", "type", value)]
    places += [notification("outer", labels=["CreateCase", value]), notification("company", companyId=value)]
    places += [notification(value), notification("name", eventName=value), notification("label", labels=[value])]
    numbered = enumerate(places)
    return [{**place, "eventUuid": f"{place['eventUuid']}{number}"} for number, place in numbered]


@BOTH
@pytest.mark.parametrize(
    "value", ["half \ud83d emoji", "\udc00", "nul \x00 within", "\u202e\u2028\x7f\x1b[2J"], ids=ascii
)
def test_strange_characters_in_any_field_break_neither_the_receipt_nor_the_ticket(
    value: str, client: FlaskClient, app: Flask, inbox: Inbox
) -> None:
    bodies = every_field(value)
    escaped = [post(client, body) for body in bodies]
    raw = [post(client, json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")) for body in bodies]
    assert {answer.status_code for answer in escaped} <= {202, 422}
    assert {answer.status_code for answer in raw} <= {202, 422}
    assert sum(answer.get_json().get("accepted", 0) for answer in escaped) >= 16
    claim = inbox.claim("zendesk", 1000, 60, relay_of(app).deliveries["zendesk"].destination.compose)
    assert claim.items and all(item.draft for item in claim.items)


def test_a_request_id_of_the_callers_that_is_not_plain_is_replaced(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    for given in ("x" * 201, "two\tparts", "caf\xe9", ""):
        post(client, notification(), environ_overrides={"HTTP_X_REQUEST_ID": given})
    ids = [record.__dict__["fields"]["request_id"] for record in caplog.records if record.name == "relay"]
    assert len(set(ids)) == 4 and all(len(request_id) == 32 for request_id in ids)


def test_lines_about_one_request_share_its_id_when_the_caller_gave_none(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    post(client, [])
    [parked, refused] = [record.__dict__["fields"]["request_id"] for record in caplog.records if record.name == "relay"]
    assert parked == refused


# When the database fails


def test_a_database_that_fails_is_answered_503_and_the_notification_is_taken_when_it_comes_again(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, database: Database, disk: Disk
) -> None:
    post(client, notification("before"))
    disk.fill()
    answer = post(client, notification("e1"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json()["error"] == "Service Unavailable"
    assert fields_of(caplog, "database_unavailable")["level"] == logging.ERROR
    disk.free()
    assert [row[0] for row in rows(database)] == ["before"]
    assert post(client, notification("e1")).get_json() == {"accepted": 1, "duplicates": 0, "ignored": 0}


def test_an_unreadable_notification_that_cannot_be_kept_is_answered_503(client: FlaskClient, disk: Disk) -> None:
    disk.fill()
    assert post(client, []).status_code == 503


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all/relay.db", "postgresql://relay:secret-word@127.0.0.1:1/relay"],
    ids=["no such folder", "no server"],
)
def test_without_a_database_everything_says_so(url: str, new_app: NewApp, caplog: pytest.LogCaptureFixture) -> None:
    client = new_app(new_settings(database_url=url)).test_client()
    assert post(client, notification()).status_code == 503
    health = client.get("/health")
    assert (health.status_code, health.get_json()["status"], health.get_json()["store"]) == (503, "down", "unavailable")
    page = client.get("/")
    assert page.status_code == 200 and "Nothing can be stored:" in page.text
    assert "secret-word" not in health.text + page.text + caplog.text


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/nowhere", 404, None),
        ("POST", "/nowhere", 404, None),
        ("POST", "/createTicket", 404, None),
        ("GET", "/notifications/", 405, {"POST", "OPTIONS"}),
        ("GET", "/static/nothing.css", 404, None),
        ("GET", "/static/../app.py", 404, None),
        ("GET", "/%ff%00", 404, None),
        ("GET", "/notifications", 405, {"POST", "OPTIONS"}),
        ("HEAD", "/notifications", 405, {"POST", "OPTIONS"}),
        ("PUT", "/notifications", 405, {"POST", "OPTIONS"}),
        ("DELETE", "/health", 405, {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/", 405, {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/", 405, {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_path_or_method_is_answered_in_json(
    method: str, path: str, status: int, allowed: set[str] | None, client: FlaskClient
) -> None:
    answer = client.open(path, method=method, headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert set(answer.headers.get("Allow", "").split(", ")) == (allowed or {""})
    if method != "HEAD":
        assert set(answer.get_json()) == {"error", "message"}


@pytest.mark.parametrize("path", ["/", "/health", "/static/style.css"])
def test_head_is_answered_as_get_is_but_without_a_body(path: str, client: FlaskClient) -> None:
    head, get = client.head(path, buffered=True), client.get(path, buffered=True)
    assert (head.status_code, head.mimetype, head.data) == (get.status_code, get.mimetype, b"") and get.data


def test_what_nobody_foresaw_is_a_small_json_500_and_a_line_without_anyones_text(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: Any) -> None:
        raise KeyError(TEXT)

    monkeypatch.setattr(Inbox, "accept", broken)
    answer = post(client, notification(), headers={"X-Request-Id": "r-1"})
    assert (answer.status_code, answer.mimetype) == (500, "application/json")
    assert "Traceback" not in answer.text and TEXT not in answer.text and "KeyError" not in answer.text
    logged = fields_of(caplog, "request_broken")
    assert logged["error"].startswith("KeyError at test_app.py:") and logged["request_id"] == "r-1"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/health"), ("GET", "/static/style.css"), ("GET", "/nowhere"), ("POST", "/notifications")],
)
def test_every_answer_keeps_browsers_from_doing_more_than_showing_it(
    method: str, path: str, client: FlaskClient
) -> None:
    headers = client.open(path, method=method, buffered=True).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
    assert headers["Cache-Control"] == "no-store" and "Set-Cookie" not in headers


# /health


def test_health_is_ok_when_subscribed_with_an_open_way_and_nothing_parked(client: FlaskClient, app: Flask) -> None:
    subscribed(app)
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ok",
        "store": "ok",
        "subscription": {"state": "subscribed"},
        "subscriptions": {LABEL_APPLIED: {"state": "subscribed", "polling": "ok"}},
        "zendesk": {"state": "open", "held_s": 0.0, "pending": 0, "parked": 0, "oldest_pending_s": None},
        "pending": 0,
        "parked": 0,
        "oldest_pending_s": None,
    }


def test_health_wants_attention_before_it_is_subscribed(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "attention")
    assert answer.get_json()["subscription"]["state"] == "starting"


@pytest.mark.parametrize("state", ["paused", "deleted", "failed", "no_address"])
def test_health_wants_attention_when_the_subscription_is_not_as_it_should_be(
    state: str, client: FlaskClient, app: Flask
) -> None:
    subscribed(app, state, "said why")
    answer = client.get("/health").get_json()
    assert (answer["status"], answer["subscription"]) == ("attention", {"state": state})


@pytest.mark.parametrize("state", [OUTAGE, UNAUTHORISED])
def test_health_wants_attention_when_zendesk_is_not_to_be_had(
    state: str, client: FlaskClient, inbox: Inbox, app: Flask
) -> None:
    subscribed(app)
    close_gate(inbox, state)
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "attention")
    zendesk = answer.get_json()["zendesk"]
    assert zendesk["state"] == state and 30 < zendesk["held_s"] <= 40


@pytest.mark.parametrize("path", ["/", "/health"])
def test_strangers_see_no_word_of_a_service(path: str, app: Flask, client: FlaskClient, inbox: Inbox) -> None:
    subscribed(app, "failed", "Khoros answered 500 <for a reason>")
    close_gate(inbox, UNAUTHORISED, "Zendesk answered 401 to <somebody>")
    shown = client.get(path).text
    assert "unauthorised" in shown and "failed" in shown
    assert "answered" not in shown and "reason&gt;" not in shown and "somebody" not in shown


def test_health_counts_what_waits_and_what_is_parked(client: FlaskClient, inbox: Inbox, app: Flask) -> None:
    subscribed(app)
    post(client, notification("e1", "p:1", "p:2"))
    assert client.get("/health").get_json()["status"] == "ok"
    inbox.accept([NewItem("", "e2", "", {"unreadable": TEXT}, reason="no eventName")])
    answer = client.get("/health").get_json()
    assert (answer["status"], answer["pending"], answer["parked"]) == ("attention", 2, 1)
    assert 0 <= answer["oldest_pending_s"] < 30
    assert TEXT not in json.dumps(answer)


def test_health_is_503_while_nothing_can_be_stored_and_well_again_afterwards(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, disk: Disk
) -> None:
    disk.fill()
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (503, "down")
    assert "full" in str(fields_of(caplog, "database_unavailable")["reason"])
    disk.free()
    assert client.get("/health").status_code == 200


def test_asking_often_does_not_wear_the_disk(app: Flask, client: FlaskClient, disk: Disk) -> None:
    assert client.get("/health").status_code == 200
    disk.fill()
    for _ in range(20):
        assert client.get("/health").status_code == 200  # nothing was written
    relay_of(app).writable_at = float("-inf")
    assert client.get("/health").status_code == 503


# The landing page


def words_of(page: str) -> str:
    """What a person reads on the page."""
    return " ".join(re.sub("<[^>]*>", " ", page.partition("<body>")[2]).split())


def test_the_page_says_when_all_is_in_place(client: FlaskClient, app: Flask) -> None:
    subscribed(app)
    page = client.get("/").text
    assert "<title>✓ All well." in page and "Label CreateCase → Zendesk" in page and "refresh" not in page
    assert "All well. What happens in Khoros now" in words_of(page)
    assert "Khoros, labels subscribed Zendesk connected" in words_of(page)


def test_the_page_of_a_start_is_neutral_and_opens_itself_again(app: Flask, client: FlaskClient) -> None:
    subscribed(app, "starting")
    page = client.get("/").text
    assert '<meta http-equiv="refresh" content="2">' in page and 'class="verdict bad"' not in page
    assert "Connecting to Khoros… This page refreshes itself." in words_of(page)


@pytest.mark.parametrize("state", ["paused", "deleted", "failed", "no_address"])
def test_the_page_says_how_it_is_in_khoros(state: str, app: Flask, client: FlaskClient) -> None:
    subscribed(app, state)
    page = client.get("/").text
    assert f"Khoros, labels {state.replace('_', ' ')}" in words_of(page) and 'class="verdict bad"' in page
    assert "labels make no tickets now; " in words_of(page)
    assert "All well" not in page and "lost" not in page and "refresh" not in page


def test_the_page_says_how_it_is_in_zendesk(app: Flask, client: FlaskClient, inbox: Inbox) -> None:
    subscribed(app)
    close_gate(inbox, UNAUTHORISED)
    page = words_of(client.get("/").text)
    assert "Zendesk refuses the login: new posts wait here." in page and "All well" not in page


def test_the_page_says_when_nothing_can_be_stored(client: FlaskClient, disk: Disk) -> None:
    disk.fill()
    page = client.get("/")
    assert page.status_code == 200 and "Nothing can be stored:" in page.text and "All well" not in page.text


def test_a_label_is_text_on_the_page_and_no_markup(new_app: NewApp, database_url: str) -> None:
    routes = "label <b>x -> zendesk"
    page = new_app(new_settings(database_url=database_url, routes=routes)).test_client().get("/").text
    assert "&lt;b&gt;x" in page and "<b>x" not in page


def test_strangers_see_where_events_go_but_no_address_of_anyone(new_app: NewApp, database_url: str) -> None:
    client = new_app(new_settings(database_url=database_url, routes=FOUR_ROUTES)).test_client()
    page, health = client.get("/").text, client.get("/health")
    for words in ("Label CreateCase → Zendesk", "Published → Slack a…@acme.example", "Sent → Webhook 127.0.0.1:9"):
        assert words in page
    assert health.get_json().keys() >= {"zendesk", "slack:#crisis", "slack:a…@acme.example"}
    assert "ann@" not in page + health.text and "made-up" not in page + health.text


def test_two_people_who_look_alike_can_be_told_apart_by_strangers_too(new_app: NewApp, database_url: str) -> None:
    routes = "label A -> slack ann@acme.example; label B -> slack amy@acme.example"
    page = new_app(new_settings(database_url=database_url, routes=routes)).test_client().get("/").text
    shown = re.findall(r"Slack (a…@acme\.example/[0-9a-f]{8})", page)
    assert len(shown) == 4 and len({*shown}) == 2 and shown[:2] == shown[2:]
    assert "ann@" not in page and "amy@" not in page


def test_the_page_and_health_show_no_customers_data_and_no_secret(client: FlaskClient) -> None:
    post(client, notification("e1", "twitter:77"))
    post(client, {"text": TEXT})
    shown = client.get("/").text + client.get("/health").text
    for private in (TEXT, AUTHOR, "twitter:77", TOKEN, OLD_TOKEN, "made-up"):
        assert private not in shown


def test_the_page_needs_no_script_and_nothing_from_elsewhere(client: FlaskClient) -> None:
    page = client.get("/").text
    assert (
        "<script" not in page
        and "://" not in page
        and client.get("/static/style.css", buffered=True).mimetype == "text/css"
    )


# The wiring


def test_with_polling_no_push_is_received(new_app: NewApp, settings: Settings, database_url: str) -> None:
    client = new_app(new_settings(database_url=database_url, polling=True, public_url="")).test_client()
    answer = post(client, notification())
    assert (answer.status_code, answer.mimetype) == (404, "application/json")
    assert client.get("/health").status_code == 200


def test_settings_come_from_the_environment_when_none_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_app: NewApp
) -> None:
    for name, value in alone(tmp_path, SPREDFAST_COMPANY_ID="77").items():
        monkeypatch.setenv(name, value)
    assert relay_of(new_app(None)).config.company_id == 77  # type: ignore[arg-type]


def test_each_event_goes_to_its_destinations_and_only_these_wake_up(
    new_app: NewApp, database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(new_settings(database_url=database_url, routes=FOUR_ROUTES))
    woken: list[str] = []
    for name, delivery in relay_of(app).deliveries.items():
        assert delivery.destination.name == name
        monkeypatch.setattr(delivery, "wake", partial(woken.append, name))
    hook = list(relay_of(app).deliveries)[-1]
    message = {"id": "9", "service": "FACEBOOK", "content": {"text": TEXT}}
    for body, names in (
        (notification("e1", labels=("CreateCase", "VIP")), ["zendesk", "slack:#crisis"]),
        (notification("e2", labels=("VIP",)), ["slack:#crisis"]),
        (notification("e2", labels=("VIP",)), []),
        (notification("e3", eventName=MESSAGE_PUBLISHED, data=message), ["slack:ann@acme.example"]),
        (notification("e4", eventName=MESSAGE_SENT, data=message), [hook]),
        (notification("e5", labels=("Praise",)), []),
    ):
        woken.clear()
        assert post(app.test_client(), body).get_json()["accepted"] == len(names)
        assert sorted(woken) == sorted(names)
    with database.reading() as db:
        found = db.rows("SELECT destination, subject_id FROM items ORDER BY id")
    assert found[-2:] == [("slack:ann@acme.example", "message-published:9"), (hook, "message-sent-to-network:9")]


def test_no_log_may_show_a_secret_of_any_destination(new_app: NewApp, database_url: str) -> None:
    settings = new_settings(database_url=database_url, routes=FOUR_ROUTES)
    secrets = relay_of(new_app(settings)).secrets
    for secret in ("made-up-client-secret", SLACK_TOKEN, WEBHOOK_SECRET, f"{NOWHERE}/made-up", TOKEN):
        assert secret in secrets


def test_a_route_without_settings_for_its_destination_is_an_error_in_the_wiring(settings: Settings) -> None:
    routes = new_routes(FOUR_ROUTES)
    for some in (replace(settings, zendesk=None), replace(settings, slack=None), replace(settings, webhooks=None)):
        with pytest.raises(ValueError, match="there are no settings for"):
            create_app(replace(some, routes=routes))


def test_making_the_app_opens_nothing(new_app: NewApp, settings: Settings) -> None:
    new_app(settings)
    assert not Path(settings.config.database_url.removeprefix("sqlite:///")).exists()


@BOTH
def test_a_started_service_subscribes_and_turns_a_notification_into_a_ticket(
    new_app: NewApp, database_url: str, khoros: FakeKhoros, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture
) -> None:
    urls = {"khoros_url": khoros.url, "zendesk_url": zendesk.url}  # type: ignore[attr-defined]
    app = new_app(new_settings(database_url=database_url, **urls))
    relay, client = relay_of(app), app.test_client()
    relay.start()
    wait_for(lambda: client.get("/health").get_json()["status"] == "ok")
    assert post(client, notification("e1", "twitter:1")).status_code == 202
    wait_for(lambda: zendesk.tickets and not client.get("/health").get_json()["pending"])
    link = relay.link(relay.records.latest()[0])
    assert link == f"{zendesk.url}/agent/tickets/{zendesk.tickets[0].id}"  # type: ignore[attr-defined]
    stop(relay)
    assert [ticket.external_id for ticket in zendesk.tickets] == ["twitter:1"]
    assert {"subscribed", "connected", "ticket_created"} <= set(events(caplog))
    assert not {"destination_notice", "sqlite_on_heroku", "delivery_broken", "subscription_broken"} & {*events(caplog)}


@BOTH
def test_a_started_service_subscribes_to_every_event_and_serves_every_destination(
    new_app: NewApp, database_url: str, khoros: FakeKhoros, zendesk: FakeZendesk, caplog: pytest.LogCaptureFixture
) -> None:
    slack, receiver = FakeSlack(bot_token=SLACK_TOKEN), FakeReceiver(secret=WEBHOOK_SECRET)
    with Server(slack.app) as slack_server, Server(receiver.app) as hook_server:
        routes = (
            'label CreateCase -> zendesk {"group_id": 7}; rule Recall -> slack #social-crisis; '
            f"published -> slack ann@acme.example; sent FACEBOOK -> webhook {hook_server.url}{HOOK_PATH}"
        )
        urls = {"khoros_url": khoros.url, "zendesk_url": zendesk.url}  # type: ignore[attr-defined]
        urls |= {"slack_url": f"{slack_server.url}/api"}
        app = new_app(new_settings(database_url=database_url, routes=routes, **urls))
        relay, client = relay_of(app), app.test_client()
        relay.start()
        wait_for(lambda: client.get("/health").get_json()["status"] == "ok", timeout_s=30)
        assert len(client.get("/health").get_json()["subscriptions"]) == 4
        rule = {"ruleMatched": {"ruleId": "1", "ruleName": "Recall"}, "items": [new_post("x:1")]}
        message = {"id": "9", "service": "FACEBOOK", "content": {"text": TEXT}, "title": "Sale"}
        post(client, notification("e1", "twitter:1"))
        post(client, notification("e2", eventName=RULE_APPLIED, data=rule))
        post(client, notification("e3", eventName=MESSAGE_PUBLISHED, data=message))
        post(client, notification("e4", eventName=MESSAGE_SENT, data=message))
        wait_for(lambda: client.get("/health").get_json()["pending"] == 0, timeout_s=30)
        stop(relay)
    assert [ticket.fields["group_id"] for ticket in zendesk.tickets] == [7]
    assert [len(slack.messages_in(place)) for place in ("social-crisis", "ann@acme.example")] == [1, 1]
    assert len(receiver.taken) == 1
    assert client.get("/health").get_json().get("parked", 0) == 0 and "delivery_broken" not in events(caplog)


def test_what_the_deployer_chose_reaches_the_ticket(new_app: NewApp, database_url: str, zendesk: FakeZendesk) -> None:
    url: str = zendesk.url  # type: ignore[attr-defined]
    login = {"client_id": "", "client_secret": "", "user_email": "agent@acme.example", "api_token": "made-up-api-token"}
    wishes: dict[str, Any] = {"ticket_fields": {"group_id": 7}, "comment_public": True}
    app = new_app(new_settings(database_url=database_url, zendesk_url=url, **login, **wishes))
    post(app.test_client(), notification(labels=("CreateCase", "VIP")))
    relay_of(app).deliveries["zendesk"].deliver_due()
    [ticket] = zendesk.tickets
    assert ticket.fields["group_id"] == 7 and ticket.comments[0].public and "createcase" in ticket.tags
    assert zendesk.calls[-1].headers["authorization"].startswith("Basic ")


# Without the background work


@pytest.fixture
def unstarted(client: FlaskClient, app: Flask) -> FlaskClient:
    """A client of an app whose background work does not run, as under `flask run`."""
    relay_of(app).receiver.open = False
    return client


def test_the_app_alone_accepts_nothing_because_nothing_would_deliver_it(
    settings: Settings, new_app: NewApp, database: Database
) -> None:
    new_app(settings)  # whose fixture gives the logging back afterwards
    app = create_app(settings)
    answer = post(app.test_client(), notification())
    assert (answer.status_code, answer.get_json()["error"]) == (503, "Service Unavailable")
    assert "the background work does not run" in answer.get_json()["message"]
    assert "gunicorn 'app:create_app()'" in answer.get_json()["message"]
    assert rows(database) == []
    relay_of(app).inbox.close()


def test_an_app_that_does_not_deliver_still_asks_for_the_token_first(unstarted: FlaskClient) -> None:
    assert post_unread(unstarted, "Bearer wrong")[0].status_code == 401
    assert post(unstarted, notification(), headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("path", ["/", "/health", "/static/style.css"])
def test_an_app_that_does_not_deliver_shows_its_pages(path: str, unstarted: FlaskClient) -> None:
    assert unstarted.get(path, buffered=True).status_code == 200


def test_notifications_are_accepted_from_the_start_to_the_stop_of_the_background_work(
    new_app: NewApp, settings: Settings
) -> None:
    app = new_app(settings)
    relay, client = relay_of(app), app.test_client()
    relay.receiver.open = False
    relay.start()
    assert post(client, notification("e1")).status_code == 202
    stop(relay)
    assert post(client, notification("e2")).status_code == 503


def test_every_line_is_logfmt_on_stdout(
    capsys: pytest.CaptureFixture[str], new_app: NewApp, settings: Settings
) -> None:
    client = new_app(settings).test_client()
    post(client, notification("e 1"), headers={"X-Request-Id": 'r"1'})
    assert capsys.readouterr().out.splitlines() == [
        'at=info event=notification_accepted accepted=1 duplicates=0 event_uuid="e 1" source=push request_id="r\\"1"'
    ]


@BOTH
def test_either_database_will_do(client: FlaskClient) -> None:
    assert post(client, notification()).get_json()["accepted"] == 1
    assert client.get("/health").get_json()["pending"] == 1


HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def test_no_depth_of_nesting_is_answered_500(client: FlaskClient) -> None:
    bad = {}
    for depth in range(900, 1000):
        for body in (
            "[" * depth + "]" * depth,
            json.dumps(notification())[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}",
            json.dumps(notification("e", {"entityId": "p:1", "x": "@"})).replace('"@"', "[" * depth + "]" * depth),
        ):
            status = client.post("/notifications", data=body, headers=HEADERS).status_code
            if status >= 500:
                bad[depth] = status
    assert bad == {}


def test_a_database_that_fails_between_two_checks_is_down_in_health_and_on_the_page(
    client: FlaskClient, database: Database
) -> None:
    """The proof of writing is kept for two seconds; within them the reads fail."""
    assert client.get("/health").status_code == 200
    with database.transaction() as db:
        db.change("ALTER TABLE gates RENAME TO gone")
    health = client.get("/health")
    assert (health.status_code, health.get_json()["status"]) == (503, "down")
    assert client.get("/").mimetype == "text/html"
