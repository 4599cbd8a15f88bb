"""The pages behind the password: closed without it, and without a stranger's markup."""

from __future__ import annotations

import base64
import hmac
import io
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import (
    AUTHOR,
    TEXT,
    TOKEN,
    events,
    fields_of,
    new_item,
    new_settings,
    notification,
    relay_of,
    rows,
    wait_for,
)
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from steps import claim, deliver, move_gate, park, settle
from werkzeug.test import TestResponse

from app import Settings
from destinations.filters import Filter
from destinations.route import Route
from destinations.routes import Routes
from events import LABEL_APPLIED
from inbox.database import Database, DatabaseUnavailable
from inbox.facts import Facts
from inbox.gate import OUTAGE, UNAUTHORISED
from inbox.inbox import Inbox
from inbox.items import REFUSED, Draft, NewItem, Outcome
from inbox.records import Records
from khoros.catch_up import CatchUpStatus
from khoros.receive import SECURE_HEADERS
from khoros.subscription import SubscriptionStatus, status_fact
from operations.status import FORM_LIFE_S
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

NewApp = Callable[..., Flask]
PASSWORD = "made-up-status-password"
PATHS = ("/status", "/status/items/1", "/status/retry", "/status/discard", "/status/nowhere", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>{{7777*7777}}"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return new_settings(database_url=database_url, status_password=PASSWORD)


@pytest.fixture
def changed(database_url: str, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes an app with other settings."""

    def make(**changes: Any) -> Flask:
        return new_app(new_settings(**{"database_url": database_url, "status_password": PASSWORD, **changes}))

    return make


@pytest.fixture
def inbox(app: Flask) -> Inbox:
    """The app's own inbox, with the real clock."""
    return relay_of(app).inbox


@pytest.fixture
def facts(app: Flask) -> Facts:
    return relay_of(app).facts


def basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def look(client: FlaskClient, query: str = "", **options: Any) -> TestResponse:
    """The status page as somebody with the password sees it."""
    return client.get(f"/status{query}", headers=basic(PASSWORD), **options)


class Reader(HTMLParser):
    """A page as a browser takes it apart: its elements, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def links(page: str) -> dict[str, dict[str, str]]:
    """The links that lead away, by where they lead."""
    return {a["href"]: a for a in Reader(page).all("a") if not a["href"].startswith("/")}


# The password


def test_without_status_password_there_are_no_such_pages(changed: NewApp) -> None:
    client = changed(status_password="").test_client()
    for path in PATHS:
        for method in METHODS:
            for headers in ({}, basic(""), basic("x"), basic(PASSWORD), {"Authorization": "Basic \xe9"}):
                answer = client.open(path, method=method, headers=headers)
                assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (404, False), (path, method)


def test_every_page_of_the_blueprint_is_behind_the_password(app: Flask) -> None:
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("status.")}
    assert {rule.replace("<int:item_id>", "1") for rule in rules} == {*PATHS} - {"/status/nowhere"}


WRONG = [
    "",
    "Basic",
    "Basic ",
    "Basic !!!",
    "Basic \xe9\xff",
    "Basic " + "\u2603".encode().decode("latin-1"),
    "Basic " + base64.b64encode(PASSWORD.encode()).decode(),  # no colon
    "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
    "Basic " + base64.b64encode(f":{PASSWORD[:-1]}".encode()).decode(),
    "Basic " + base64.b64encode(f":{PASSWORD} ".encode()).decode(),
    "Basic " + base64.b64encode(f":{PASSWORD.upper()}".encode()).decode(),
    "Basic " + base64.b64encode(f"{PASSWORD}:".encode()).decode(),
    "Basic " + base64.b64encode(":pässwörd ☃".encode()).decode(),
    "Basic " + base64.b64encode(b":" + b"x" * 200_000).decode(),
    "Basic " + base64.b64encode(b":").decode(),
    f"Basic {PASSWORD}",
    f"Bearer {PASSWORD}",
    f"Bearer {TOKEN}",
    f'Digest username="anyone", password="{PASSWORD}"',
    f"{PASSWORD}",
    "Basic\x00",
]


class Unread(io.RawIOBase):
    """A body that nobody may read."""

    touched = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.touched = True
        raise AssertionError("the body was read")


def open_unread(client: FlaskClient, path: str, method: str, header: str) -> tuple[TestResponse, bool]:
    body = Unread()
    environ = {"wsgi.input": body, "CONTENT_LENGTH": "10", "HTTP_AUTHORIZATION": header}
    environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    answer = client.open(path, method=method, environ_overrides=environ)
    return answer, body.touched


@pytest.mark.parametrize("header", WRONG, ids=range(len(WRONG)))
def test_without_the_password_nobody_gets_in_and_the_body_is_not_even_read(
    header: str, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    for path in PATHS:
        for method in METHODS:
            answer, touched = open_unread(client, path, method, header)
            assert (answer.status_code, touched) == (401, False), (path, method)
            assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
            assert PASSWORD not in answer.text and "request_broken" not in events(caplog)


def test_with_the_password_the_body_is_read(client: FlaskClient) -> None:
    """Or else the test above could not fail."""
    assert open_unread(client, "/status/retry", "POST", basic(PASSWORD)["Authorization"])[1]


@pytest.mark.parametrize("user", ["", "admin", "jörg", "a b"])
def test_any_user_name_will_do(user: str, client: FlaskClient) -> None:
    assert client.get("/status", headers=basic(PASSWORD, user)).status_code == 200


def test_a_password_may_hold_colons(changed: NewApp) -> None:
    client = changed(status_password="a:b:made-up-password").test_client()
    assert client.get("/metrics", headers=basic("a:b:made-up-password")).status_code == 200


@pytest.mark.parametrize("offered", [PASSWORD, "wrong", ""])
def test_the_password_is_compared_in_constant_time(
    offered: str, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    true_compare = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return true_compare(left, right)

    monkeypatch.setattr("operations.status.hmac.compare_digest", compare)
    client.options("/status", headers=basic(offered))
    assert compared[0] == (offered.encode(), PASSWORD.encode())  # a refused one is compared with other secrets too


def test_a_wrong_password_is_logged_without_its_value(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/metrics", headers=basic("made-up-guess", "a-made-up-user"))
    told = fields_of(caplog, "status_refused")
    assert told == {"level": logging.WARNING, "path": "/metrics", "reason": "wrong password"}


def test_a_browser_that_has_not_been_asked_yet_is_not_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.get("/status").status_code == 401
    assert events(caplog, "status_refused") == []


def test_nothing_of_the_pages_is_on_the_open_ones(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox, "event-1", "twitter:77", "Zendesk answered 422 RecordInvalid")
    look(client)
    for path in ("/", "/health"):
        shown = client.get(path).text
        for private in (PASSWORD, "twitter:77", "event-1", "RecordInvalid", "token"):
            assert private not in shown


def test_the_landing_page_links_to_the_status_page_only_when_there_is_one(changed: NewApp) -> None:
    assert 'href="/status"' in changed().test_client().get("/").text
    assert "/status" not in changed(status_password="").test_client().get("/").text


# What is shown


def test_the_page_shows_at_once_whether_all_is_well(client: FlaskClient, inbox: Inbox, facts: Facts) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed", "", "uuid-1", at=inbox.now() - 125))
    assert "All well. No posts yet." in look(client).text
    deliver(inbox, "e1", "twitter:1", "35436")
    move_gate(inbox, "checked", calls_left=1650, reset_s=30.0)
    page = Reader(look(client).text)
    for words in (
        "✓ All well. – Khoros to Zendesk relay",  # the tab's title
        "All well. The last post became ticket #35436 0 s ago .",
        "Khoros, labels subscribed By push and catch-up, checked 2 min ago",
        "Zendesk connected 1,650 calls left in this minute.",
        "All 1 Waiting 0 Need attention 0 Delivered 1 Given up 0",
        "1 delivered 0 waiting 0 need attention",
        "delivered Jo X Hello Ticket #35436 0 s ago",
        "What goes where Label CreateCase → Zendesk",
    ):
        assert words in page.text, words
    assert colours(page) == ["verdict good", "good", "good"]


def colours(page: Reader) -> list[str]:
    """The colours of the verdict and of the connections, and of what else is wrong."""
    boxes = [e["class"] for e in page.all("div") if e.get("class", "").split(" ")[0] in ("verdict", "problem")]
    return [*boxes, *(e["class"] for e in page.all("li") if e.get("class") in ("good", "wait", "bad", ""))]


def test_one_fault_has_one_colour(client: FlaskClient, inbox: Inbox, facts: Facts) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed", at=inbox.now()))
    inbox.accept([new_item()])
    move_gate(inbox, UNAUTHORISED, "Zendesk refuses us", retry_after_s=45.0)
    page = Reader(look(client).text)
    assert "! Zendesk refuses the login: 1 post waits here, the oldest for 0 s. –" in page.text
    assert "Zendesk refuses us. Try again in a minute" not in page.text
    assert "Zendesk unauthorised Zendesk refuses us. 1 waiting, the oldest for 0 s. Next attempt in 4" in page.text
    assert colours(page) == ["verdict bad", "good", "bad"]


def test_the_worst_comes_first_and_everything_else_below(client: FlaskClient, inbox: Inbox, facts: Facts) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("no_address", "set PUBLIC_URL"))
    move_gate(inbox, OUTAGE, "Zendesk answered 503")
    inbox.accept([new_item(destination="slack:#old")])
    page = Reader(look(client).text)
    assert colours(page) == ["verdict bad", "problem bad", "problem wait", "bad", "wait", "bad"]
    assert "1 post waits for Slack #old, but no route leads there." in page.text
    assert "Slack #old no route 1 waiting, 0 need attention. Show them" in page.text
    assert Reader(look(client, "?destination=slack:%23old").text).text.count("Slack #old") > 0


def test_while_it_connects_the_page_is_neutral_and_refreshes_itself(client: FlaskClient) -> None:
    landing = client.get("/").text
    assert "Connecting to Khoros…" in landing and '<meta http-equiv="refresh" content="2">' in landing
    page = Reader(look(client).text)
    assert [main["data-refresh"] for main in page.all("main")] == ["2"]
    assert colours(page) == ["verdict ", "", "good"] and colours(Reader(landing)) == ["verdict ", "", "good"]


def test_a_page_that_has_nothing_to_wait_for_does_not_refresh_without_its_script(
    client: FlaskClient, facts: Facts
) -> None:
    for state, detail in (("subscribed", ""), ("refused", "Khoros refuses SPREDFAST_API_TOKEN")):
        facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus(state, detail))
        assert "http-equiv" not in client.get("/").text
        assert [main["data-refresh"] for main in Reader(look(client).text).all("main")] == ["15"]


def test_the_landing_page_has_the_verdict_without_its_reason(client: FlaskClient, facts: Facts) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("refused", "a reason of Khoros"))
    page = Reader(client.get("/").text)
    sentence = "Khoros refuses the access token: labels make no tickets now; label those posts again afterwards."
    assert page.text.startswith(f"! {sentence} – Khoros to Zendesk relay") and page.text.count(sentence) == 2
    assert "a reason of Khoros" not in page.text and "a reason of Khoros" in look(client).text


def unreadable() -> NewItem:
    return NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")


SEVERAL = (
    "label CreateCase -> zendesk; label VIP -> slack #crisis; rule Recall -> slack ann@acme.example;"
    "sent -> webhook https://hooks.example/T0P/SECRET"
)


def test_several_destinations_have_a_row_each(changed: NewApp) -> None:
    app = changed(routes=SEVERAL)
    inbox, client = relay_of(app).inbox, app.test_client()
    inbox.accept([new_item(destination="slack:#crisis"), new_item("e9", "p:9", destination="slack:#crisis")])
    [item] = inbox.claim("slack:#crisis", 1, 60.0, lambda item: Draft("message", b"{}")).items
    inbox.settle([(item, Outcome("message_sent", 0.1, reference="C1/1503435956.000247"))])
    deliver(inbox, "e2", "twitter:2", "35436")
    page = look(client).text
    text = Reader(page).text
    for words in (
        "Slack #crisis connected 1 waiting, the oldest for 0 s.",
        "Slack ann@acme.example connected Webhook",
        "Khoros, labels connecting",
        "Khoros, rules connecting",
        "Khoros, messages sent to a network connecting",
        "Label VIP → Slack #crisis Rule Recall → Slack ann@acme.example Sent → Webhook hooks.example",
        "Slack #crisis message",
        "Zendesk Ticket #35436",
    ):
        assert words in text, words
    assert "T0P" not in page and list(links(page)) == ["http://127.0.0.1:9/agent/tickets/35436"]


def test_what_no_line_wants_is_shown(app: Flask, client: FlaskClient) -> None:
    assert "no line names" not in look(client).text
    relay_of(app).unrouted.note([(LABEL_APPLIED, "Billling"), (LABEL_APPLIED, "Billling"), ("rule-applied", NASTY)])
    text = Reader(look(client).text).text
    assert "Label Billling: 2 events matched no line, last 0 s ago" in text and f"Rule {NASTY}: 1 event" in text


def test_a_failing_poll_is_red_and_has_its_reason(client: FlaskClient, facts: Facts, inbox: Inbox) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed"))
    failing = CatchUpStatus(failed="Khoros answered 500", failing_since=inbox.now() - 300)
    facts.save(f"catch_up:{LABEL_APPLIED}", failing)
    page = Reader(look(client).text)
    assert "Missed events cannot be fetched for 5 min: Khoros answered 500." in page.text
    assert colours(page) == ["verdict bad", "bad", "good"]


def test_a_new_service_says_what_to_do_first(client: FlaskClient) -> None:
    text = Reader(look(client).text).text
    assert "Nothing has arrived yet. Put a label of a route on a post" in text and "Last 24 hours No posts yet." in text


def test_with_polling_the_page_says_so(changed: NewApp) -> None:
    assert "connecting By polling" in Reader(look(changed(polling=True).test_client()).text).text


def test_a_notice_about_a_destinations_settings_is_shown(changed: NewApp) -> None:
    app = changed(client_id="", client_secret="", user_email="a@b.example", api_token="made-up-api-token")
    assert "Zendesk switches API tokens off on 2027-04-30" in Reader(look(app.test_client()).text).text


def test_items_link_to_their_own_page_their_post_and_their_ticket(client: FlaskClient, inbox: Inbox) -> None:
    accept_linked(inbox, "https://x.example/1?a=1&b=2")
    settle(inbox, "ticket_created", reference="35436")
    page = look(client).text
    assert '<a class="who" href="/status/items/1">' in page
    assert list(links(page)) == ["http://127.0.0.1:9/agent/tickets/35436"]
    away = links(look_at(client, 1).text)
    assert list(away) == ["https://x.example/1?a=1&b=2", "http://127.0.0.1:9/agent/tickets/35436"]
    assert all(set(a["rel"].split()) >= {"noopener", "noreferrer"} for a in away.values())


def accept_linked(inbox: Inbox, link: str) -> None:
    item = {"entityId": "twitter:1", "text": TEXT, "author": AUTHOR, "link": link}
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": item})])


def look_at(client: FlaskClient, item_id: object, query: str = "") -> TestResponse:
    return client.get(f"/status/items/{item_id}{query}", headers=basic(PASSWORD))


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "//evil.example"])
def test_a_link_that_is_no_web_address_cannot_be_clicked(link: str, client: FlaskClient, inbox: Inbox) -> None:
    accept_linked(inbox, link)
    page = look_at(client, 1).text
    assert links(page) == {} and "Open the post" not in page and "twitter:1" in page


def test_a_link_cannot_end_its_attribute(client: FlaskClient, inbox: Inbox) -> None:
    link = "https://x.example/\"onmouseover='alert(1)'><b>"
    accept_linked(inbox, link)
    assert list(links(look_at(client, 1).text)) == [link]


def test_an_item_that_waits_says_until_when(client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    settle(inbox, OUTAGE, reason="Zendesk answered 503", retry_after_s=1900.0)
    assert "waiting Jo X Hello next attempt in 32 min" in Reader(look(client).text).text
    assert "Waits for Zendesk Zendesk answered 503. Next attempt in 32 min" in Reader(look_at(client, 1).text).text
    move_gate(inbox, "checked")
    assert "Next attempt in 32 min Zendesk answered 503" in Reader(look_at(client, 1).text).text
    inbox.accept([new_item("e2", "twitter:2", destination="slack:#old"), new_item("e3", "twitter:3")])
    assert "No route leads there any more" in look_at(client, 2).text
    assert "Waits for its turn" in look_at(client, 3).text


def test_older_items_are_a_link_away(client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept([new_item(f"event-{n:02}", f"twitter:{n:02}") for n in range(52)])
    page = look(client).text
    assert rows_of(page) == [*range(52, 2, -1)] and "Newest" not in page
    [older] = [a["href"] for a in Reader(page).all("a") if a.get("rel") == "next"]
    page = client.get(older, headers=basic(PASSWORD)).text
    assert rows_of(page) == [2, 1] and "Newest" in page and "Older" not in page


def rows_of(page: str) -> list[int]:
    """The items of a page's rows, by their numbers."""
    return [int(a["href"].rpartition("/")[2]) for a in Reader(page).all("a") if a.get("class") == "who"]


def test_posts_that_were_refused_alike_share_one_reason(client: FlaskClient, inbox: Inbox) -> None:
    reasons = ("Group is not active", "Group is not active", "Brand is gone", "Group is not active")
    for n, reason in enumerate(reasons, 1):
        park(inbox, f"e{n}", f"twitter:{n}", reason)
    for query in ("", "?state=parked"):
        page = look(client, query).text
        text = Reader(page).text
        assert rows_of(page)[:4] == [4, 2, 1, 3]
        assert "3 posts: Group is not active. Correct the cause" in text and text.count("Group is not active") == 1
        assert text.count("Brand is gone") == 1 and forms_of(page).count("/status/discard") == 4
        assert '<span class="chip' not in page.partition('id="posts"')[0 if not query else 2]


def test_connections_that_work_fold_into_one_line(changed: NewApp) -> None:
    app = changed(routes=SEVERAL)
    relay, client = relay_of(app), app.test_client()
    for name in relay.subscriptions.statuses():
        relay.facts.save(status_fact(name), SubscriptionStatus("subscribed"))
    for path in ("/", "/status"):
        text = Reader(client.get(path, headers=basic(PASSWORD)).text).text
        assert "7 connections work Khoros, labels subscribed" in text, path
    park(relay.inbox)
    for name in ("rule-applied", "message-sent-to-network"):
        relay.facts.save(status_fact(name), SubscriptionStatus("paused"))
    text = Reader(look(client).text).text
    connections = text[text.index("Connections") : text.index("Last 24 hours")]
    assert "connections work" not in connections and "1 needs attention" in connections  # four are few
    relay.inbox.discard([1])
    for path in ("/", "/status"):
        text = Reader(client.get(path, headers=basic(PASSWORD)).text).text
        assert text.index("Khoros, rules paused") < text.index("5 connections work") < text.index("Slack #crisis con")


def test_a_connection_with_trouble_or_a_notice_does_not_fold(changed: NewApp) -> None:
    token = {"client_id": "", "client_secret": "", "user_email": "a@b.example", "api_token": "made-up-api-token"}
    for settings, shown in (({}, "Zendesk outage"), (token, "Zendesk switches API tokens off")):
        app = changed(routes=SEVERAL, **settings)
        for name in relay_of(app).subscriptions.statuses():
            relay_of(app).facts.save(status_fact(name), SubscriptionStatus("subscribed"))
        move_gate(relay_of(app).inbox, "checked" if settings else OUTAGE, "Zendesk answered 503")
        text = Reader(look(app.test_client()).text).text
        assert text.index(shown) < text.index("6 connections work") < text.index("Slack #crisis connected")


def test_a_database_that_heroku_deletes_is_red(changed: NewApp) -> None:
    app = changed(on_dyno=True)
    relay_of(app).facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed"))
    client = app.test_client()
    page = Reader(look(client).text)
    assert "! Heroku deletes the relay's database at each restart" in page.text
    assert "your app > Resources > Add-ons, add Heroku Postgres." in page.text and colours(page)[0] == "verdict bad"
    assert client.get("/health").json["status"] == "attention"  # type: ignore[index]


def test_the_landing_page_says_when_the_last_post_was_delivered(
    client: FlaskClient, inbox: Inbox, facts: Facts
) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed"))
    assert "Last post" not in client.get("/").text
    deliver(inbox, reference="35436")
    page = Reader(client.get("/").text)
    assert "All well. Last post 0 s ago ." in page.text and "35436" not in page.text


def test_the_landing_page_names_the_companies_of_the_token(client: FlaskClient, facts: Facts) -> None:
    reason = f"SPREDFAST_COMPANY_ID 9 is no company of the access token, which has: 123 ({NASTY})"
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("wrong_company", reason))
    page = client.get("/").text
    assert f"{reason}. Set SPREDFAST_COMPANY_ID to one of these numbers" in Reader(page).text and NASTY not in page


def test_khoros_has_one_colour_while_it_does_not_answer(client: FlaskClient, inbox: Inbox, facts: Facts) -> None:
    for since_s, colour in ((30.0, "wait"), (130.0, "bad")):
        down = SubscriptionStatus("failed", "Khoros answered 503", failing_since=inbox.now() - since_s)
        facts.save(status_fact(LABEL_APPLIED), down)
        for page in (look(client), client.get("/")):
            assert colours(Reader(page.text)) == [f"verdict {colour}", colour, "good"]


def test_what_needs_attention_comes_first_behind_however_many(client: FlaskClient, inbox: Inbox) -> None:
    ids = []
    for n in range(7):  # a delivery between two, or the gate would close
        ids.append(park(inbox, f"e{n}", f"twitter:{n}"))
        deliver(inbox, f"f{n}", f"twitter:{n + 100}", f"{n}")
    inbox.accept([new_item(f"event-{n:02}", f"twitter:{n + 10}") for n in range(60)])
    page = look(client).text
    assert rows_of(page)[:5] == ids[:1:-1] and rows_of(page)[5] == 74
    text = Reader(page).text
    assert "7 posts need attention: Zendesk did not take them." in text and "Show all 7" in text
    assert "Zendesk answered 422. Correct the cause and send it again, or give it up." in text
    assert rows_of(look(client, "?state=parked").text) == ids[::-1]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?state=pending", [4]),
        ("?state=parked", [2]),
        ("?state=delivered", [3]),
        ("?state=discarded", [1]),
        ("?state=nonsense", [2, 4, 3, 2, 1]),  # all: first what needs attention
        ("?destination=slack:%23old", []),
        ("?before=4", [3, 2, 1]),
        ("?before=x", [4, 3, 2, 1]),
    ],
)
def test_a_count_leads_to_its_items(query: str, found: list[int], client: FlaskClient, inbox: Inbox) -> None:
    inbox.discard([park(inbox, "e1", "twitter:1")])
    park(inbox, "e2", "twitter:2")
    deliver(inbox, "e3", "twitter:3", "7")
    inbox.accept([new_item("e4", "twitter:4")])
    page = look(client, query).text
    assert rows_of(page) == found
    hrefs = [a["href"] for a in Reader(page).all("a")]
    assert {f"/status?state={state}" for state in ("pending", "parked", "delivered", "discarded")} <= {*hrefs}


def test_a_head_request_gets_no_body(client: FlaskClient) -> None:
    answer = client.head("/status", headers=basic(PASSWORD))
    assert (answer.status_code, answer.data) == (200, b"")


# One item


def test_an_item_has_its_whole_story(client: FlaskClient, inbox: Inbox, app: Flask) -> None:
    post = {"entityId": "twitter:1", "text": TEXT, "author": AUTHOR}
    inbox.accept([NewItem("zendesk", "event-1", "twitter:1", {"item": post}, request_id="k-77")])
    settle(inbox, OUTAGE, status=503, reason="Zendesk answered 503", request_id="z-1")
    move_gate(inbox, "checked")
    inbox.retry([1])
    settle(inbox, "ticket_created", reference="35436", status=201, request_id="z-2")
    deliver(inbox, "event-2", "twitter:1", "35436")
    page = look_at(client, 1).text
    text = re.sub(r"20[0-9-]{8} [0-9:]{8} UTC", "at this second", Reader(page).text)
    story = (
        f"delivered {AUTHOR} X {TEXT}",
        "Received from Khoros at this second By push, request k-77",
        "Attempt 1: outage at this second Zendesk answered 503 after 100 ms, request z-1",
        "Attempt 2: ticket created at this second Zendesk answered 201 after 100 ms, request z-2",
        "Ticket #35436 at this second",
        "Post twitter:1 Event event-1",
        "What Khoros sent",
        "The same post",
    )
    places = [text.find(words) for words in story]
    assert -1 not in places and places == sorted(places), dict(zip(story, places, strict=True))
    assert rows_of(page) == [2] and "Send again" not in text


def test_a_timeline_says_where_it_waited(client: FlaskClient, inbox: Inbox, database: Database) -> None:
    inbox.accept([new_item()])
    settle(inbox, OUTAGE, status=503)
    move_gate(inbox, "checked")
    inbox.retry([1])
    settle(inbox, "ticket_created", reference="35436", status=201)
    assert "Waited" not in look_at(client, 1).text
    with database.transaction() as db:
        db.change("UPDATE items SET received_at = received_at - 138")
        db.change("UPDATE attempts SET at = at - 100 WHERE number = 1")
    text = Reader(look_at(client, 1).text).text
    first, second = (
        text.index(f"Waited {wait}") for wait in ("38 s The reason is not kept: Zendesk", "2 min Attempt 1")
    )
    assert text.index("Received") < first < text.index("Attempt 1: outage") < second < text.index("Attempt 2: ticket")
    assert "Attempt 1 had failed: outage, answer 503." in text


def test_a_parked_item_says_why_and_can_be_sent_again_or_given_up(client: FlaskClient, inbox: Inbox) -> None:
    item_id = park(inbox, reason="Zendesk answered 422 RecordInvalid")
    text = Reader(look_at(client, item_id).text).text
    assert "Needs attention: item 1 –" in text and "Send again" in text and "Give up" in text
    assert text.count("Zendesk answered 422 RecordInvalid") == 2


def test_an_attempt_without_a_record_is_not_passed_over(client: FlaskClient, inbox: Inbox, database: Database) -> None:
    inbox.accept([new_item()])
    claim(inbox)
    assert "Attempt 1 Under way." in Reader(look_at(client, 1).text).text
    with database.transaction() as db:  # the process ends before the answer comes
        db.change("UPDATE items SET owner = NULL, next_attempt_at = received_at, held_at = NULL")
    settle(inbox, "ticket_created", reference="7", status=201)
    assert "Attempt 1 It has no record" in Reader(look_at(client, 1).text).text


@pytest.mark.parametrize("item_id", [2, 0, "9" * 18, "9" * 30])
def test_an_item_that_is_not_there_has_no_page(item_id: object, client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    answer = look_at(client, item_id)
    assert answer.status_code == 404 and "There is no item" in answer.text


def test_a_time_of_more_than_a_day_ago_is_a_date(client: FlaskClient, inbox: Inbox, database: Database) -> None:
    inbox.accept([new_item()])
    at = inbox.now() - 3 * 86_400
    with database.transaction() as db:
        db.change("UPDATE items SET received_at = :at", {"at": at})
    said = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    assert said in Reader(look(client).text).text and "days ago" not in look(client).text


# What customers wrote


def test_the_pages_show_posts_only_to_those_with_the_password(client: FlaskClient, inbox: Inbox) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client.post("/notifications", json=notification("event-1", "twitter:1"), headers=headers)
    client.post("/notifications", json={"text": TEXT, "author": AUTHOR}, headers=headers)
    assert f"{AUTHOR} X {TEXT}" in Reader(look(client).text).text
    opened = [client.get("/").text, client.get("/health").text, client.get("/status/items/1").text]
    opened.append(client.get("/metrics", headers=basic(PASSWORD)).text)
    for page in (look(client).text, *opened):
        assert not [private for private in (PASSWORD, TOKEN) if private in page]
    assert not [private for page in opened for private in (TEXT, AUTHOR, "furious") if private in page]


def test_posts_can_be_hidden_on_every_page(changed: NewApp) -> None:
    app = changed(status_shows_posts=False)
    client, headers = app.test_client(), {"Authorization": f"Bearer {TOKEN}"}
    client.post("/notifications", json=notification("event-1", "twitter:1"), headers=headers)
    client.post("/notifications", json={"text": TEXT, "author": AUTHOR}, headers=headers)
    park(relay_of(app).inbox, "event-2", "twitter:2")
    accept_linked(relay_of(app).inbox, "https://x.example/jo_customer/status/1")
    queries = ("", "?q=twitter:1", "?q=1", "?state=parked", "?q=furious", "?q=Jo")
    shown = [look(client, query).text for query in queries] + [look_at(client, n).text for n in (1, 2, 3, 4)]
    for page in shown:
        assert not [
            private
            for private in (TEXT, AUTHOR, "jo_customer", "Open the post", "Hello", "What Khoros sent")
            if private in page
        ]
    assert "Not readable" in shown[0] and "twitter:1" in shown[0] and "STATUS_SHOWS_POSTS is false" in shown[6]
    assert rows_of(shown[4]) == rows_of(shown[5]) == []


def test_markup_from_outside_is_text(changed: NewApp) -> None:
    app = changed(routes="label 'x' -> zendesk")
    relay_of(app).routes = Routes((Route("label", Filter(NASTY, None), "zendesk"),))
    inbox = relay_of(app).inbox
    post = {"entityId": f"twitter:{NASTY}", "author": f"author {NASTY}", "text": f"text {NASTY}"}
    inbox.accept([NewItem("zendesk", f"event {NASTY}", f"twitter:{NASTY}", {"item": post})])
    settle(inbox, REFUSED, reason=f"reason {NASTY}", code=f"code {NASTY}", request_id=f"request {NASTY}")
    relay_of(app).facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("failed", f"detail {NASTY}"))
    move_gate(inbox, OUTAGE, f"gate {NASTY}")
    client = app.test_client()
    searches = [query_string({"q": NASTY}), query_string({"q": "1"}), query_string({"destination": NASTY})]
    pages = [look(client), *(look(client, search) for search in searches), look_at(client, 1)]
    for page in pages:
        assert not {"img", "script"} & {
            tag for tag, it in Reader(page.text).elements if "static" not in it.get("src", "")
        }
        assert "60481729" not in page.text
    for shown in ("author", "text", "reason", "detail", "gate", "Label"):
        assert f"{shown} {NASTY}" in Reader(pages[0].text).text, shown
    for shown in ("event", "code", "request", "text"):
        assert f"{shown} {NASTY}" in Reader(pages[4].text).text, shown
    [search] = [box for box in Reader(pages[1].text).all("input") if box["name"] == "q"]
    assert search["value"] == NASTY


def query_string(values: dict[str, str]) -> str:
    return "?" + urlencode(values)


def test_every_page_is_strict_about_what_a_browser_may_do(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    unreadable = client.get("/status"), client.get("/metrics"), client.post("/status/retry")
    pages = [look(client), look(client, "?q=x"), look_at(client, 1), look_at(client, 9), retry(client, 1)]
    pages.append(client.get("/metrics", headers=basic(PASSWORD)))
    for page in (*pages, *unreadable, client.get("/"), client.get("/nowhere")):
        assert {name: page.headers[name] for name in SECURE_HEADERS} == SECURE_HEADERS
    policy = SECURE_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy
    assert SECURE_HEADERS["Cache-Control"] == "no-store"


def test_the_pages_have_no_script_and_no_style_but_our_own_files(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    deliver(inbox, "e2", "twitter:2", "7")
    pages = [look(client), look(client, "?q=x"), look(client, "?retried=1"), look_at(client, 1), look_at(client, 9)]
    for page in (*pages, client.get("/")):
        reader = Reader(page.text)
        assert not reader.all("style") and not reader.all("iframe")
        for tag, attributes in reader.elements:
            assert not [name for name in attributes if name.startswith("on") and name != "on" or name == "style"], tag
        sources = [e.get("src") or e.get("href", "") for tag, e in reader.elements if tag in ("img", "link", "script")]
        assert sources and all(source.startswith("/static/") for source in sources)


# The search


@pytest.mark.parametrize("name", ["event-1", "twitter:1", "35436", "#35436", "%2335436", " twitter:1 ", "1"])
def test_a_search_finds_by_event_post_ticket_and_item(name: str, client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "event-1", "twitter:1", "35436")
    deliver(inbox, "event-2", "twitter:2", "35437")
    page = look(client, query_string({"q": name.replace("%23", "#")})).text
    assert rows_of(page) == [1] and "Show the latest" in page
    assert "1 post found for" in page and 'aria-current="page"' not in page
    place = page.index('<ul class="items">') - page.index('role="search"')
    assert 0 < place < 2000, "the results do not stand under the field"


@pytest.mark.parametrize("name", ["nothing", "x" * 300, "\x00", "twitter:1\x00", "☃", "\u202e", "%", "' OR 1=1 --"])
def test_a_search_that_finds_nothing_says_so(name: str, client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "event-1", "twitter:1", "35436")
    page = look(client, query_string({"q": name}))
    assert page.status_code == 200
    assert (
        "Nothing found. Searched: ids, ticket numbers and item numbers of all posts; authors, words, links" in page.text
    )
    assert rows_of(page.text) == []


@pytest.mark.parametrize(
    "query", ["?q=%ED%A0%80", "?q=%FF", "?q[]=1", "?q=", "?q=%20", "?retried=x", "?retried=" + "9" * 5000]
)
def test_no_query_upsets_the_page(query: str, client: FlaskClient) -> None:
    assert look(client, query).status_code == 200


# Sending again


def token_of(client: FlaskClient) -> str:
    [token] = {box["value"] for box in Reader(look(client).text).all("input") if box["name"] == "token"}
    return token


def retry(client: FlaskClient, item_id: object, **form: str) -> TestResponse:
    form = {"token": token_of(client), **form} if "token" not in form else form
    return client.post("/status/retry", data={**form, "id": str(item_id)}, headers=basic(PASSWORD))


def test_the_button_sends_a_parked_item_again(
    client: FlaskClient, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    item_id = park(inbox)
    answer = retry(client, item_id)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/status?item={item_id}&retried=1")
    assert (inbox.counts().pending, inbox.counts().parked) == (1, 0)
    assert fields_of(caplog, "retried") == {
        "level": logging.INFO,
        "item": item_id,
        "count": 1,
        "by": "status page",
    }
    page = Reader(client.get(answer.headers["Location"], headers=basic(PASSWORD)).text)
    assert f"The post was put back and is sent again as soon as possible. See item {item_id}" in page.text


def test_one_button_sends_everything_again_that_can_be(client: FlaskClient, inbox: Inbox) -> None:
    for n in range(3):
        park(inbox, f"e{n}", f"twitter:{n}")
    inbox.accept([unreadable()])
    assert "Send all again" in look(client).text
    answer = retry(client, "all")
    assert answer.headers["Location"] == "/status?retried=3"
    assert (inbox.counts().pending, inbox.counts().parked) == (3, 1)
    assert "3 posts were put back and are sent again" in look(client, "?retried=3").text


def test_an_items_own_page_leads_back_to_it(client: FlaskClient, inbox: Inbox) -> None:
    item_id = park(inbox)
    answer = retry(client, item_id, on="item")
    assert answer.headers["Location"] == f"/status/items/{item_id}?retried=1"
    page = client.get(answer.headers["Location"], headers=basic(PASSWORD)).text
    assert "It was put back and is sent again" in page and 'data-refresh="2"' in page


def discard(client: FlaskClient, item_id: object, **form: str) -> TestResponse:
    form = {"token": token_of(client), **form} if "token" not in form else form
    return client.post("/status/discard", data={**form, "id": str(item_id)}, headers=basic(PASSWORD))


def test_an_item_can_be_given_up(client: FlaskClient, inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    item_id = park(inbox)
    answer = discard(client, item_id)
    assert answer.headers["Location"] == f"/status?item={item_id}&discarded=1"
    assert fields_of(caplog, "discarded") == {"level": logging.INFO, "item": item_id, "by": "status page"}
    assert relay_records(client).by_state()["discarded"] == 1 and relay_records(client).payload(item_id) is None
    assert "The post was given up." in look(client, f"?item={item_id}&discarded=1").text
    text = Reader(look_at(client, item_id).text).text
    assert "given up twitter:1 X Its text is no longer kept." in text and "Send again" not in text


@pytest.mark.parametrize("item_id", ["", "all", "x", "2", "9" * 19])
def test_what_is_not_there_is_not_given_up(item_id: str, client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    assert discard(client, item_id).headers["Location"].endswith("discarded=0")
    assert inbox.counts().parked == 1 and "Nothing was done" in look(client, "?discarded=0").text


def relay_records(client: FlaskClient) -> Records:
    return relay_of(client.application).records


def test_the_button_wakes_the_delivery(client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[int] = []
    monkeypatch.setattr(relay_of(app).deliveries["zendesk"], "wake", lambda: woken.append(1))
    retry(client, park(relay_of(app).inbox))
    assert woken == [1]
    retry(client, 2, token=signed())
    assert woken == [1]


def test_what_is_sent_again_goes_out(changed: NewApp, zendesk: FakeZendesk) -> None:
    app = changed(zendesk_url=zendesk.url)  # type: ignore[attr-defined]
    relay = relay_of(app)
    item_id = park(relay.inbox)
    relay.deliveries["zendesk"].start()
    try:
        assert retry(app.test_client(), item_id).status_code == 303
        wait_for(lambda: zendesk.tickets and relay.records.by_state()["delivered"])
    finally:
        relay.deliveries["zendesk"].stop(10)
    assert [ticket.external_id for ticket in zendesk.tickets] == ["twitter:1"]


def signed(password: str = PASSWORD, salt: str = "status page's forms", value: str = "form") -> str:
    return str(URLSafeTimedSerializer(password, salt=salt).dumps(value))


def aged(seconds: float) -> str:
    """A token that was made so long ago."""

    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - int(seconds)

    return str(URLSafeTimedSerializer(PASSWORD, salt="status page's forms", signer=Signer).dumps("form"))


FORGED = {
    "none": "",
    "made up": "x.y.z",
    "another password": signed("another-made-up-password"),
    "another purpose": signed(salt="another page's forms"),
    "altered": "A" + signed(),
    "too old": aged(FORM_LIFE_S + 2),
    "from the future": aged(-3600),
    "not ASCII": "ü☃",
    "long": "x" * 100_000,
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_a_forged_form_does_nothing(token: str, client: FlaskClient, inbox: Inbox, database: Database) -> None:
    before = park(inbox), rows(database)
    for send in (retry, discard):
        answer = send(client, 1, token=token)
        assert (answer.status_code, "open /status again" in answer.text) == (400, True)
    assert (1, rows(database)) == before


def test_a_form_is_good_for_half_a_day(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    assert retry(client, 1, token=aged(FORM_LIFE_S - 60)).status_code == 303
    assert inbox.counts().parked == 0


def test_a_form_without_a_token_sends_nothing_again(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    answers = [
        client.post("/status/retry", data={"id": "1"}, headers=basic(PASSWORD)),
        client.post("/status/retry", json={"id": 1, "token": signed()}, headers=basic(PASSWORD)),
        client.post(f"/status/retry?id=1&token={signed()}", headers=basic(PASSWORD)),
    ]
    assert [answer.status_code for answer in answers] == [400] * 3 and inbox.counts().parked == 1


def test_a_link_sends_nothing_again(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        for path in ("/status/retry", "/status/discard"):
            path = f"{path}?id=1&token={signed()}"
            assert client.open(path, method=method, headers=basic(PASSWORD)).status_code == 405
    assert inbox.counts().parked == 1


def test_a_good_token_without_the_password_sends_nothing_again(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    answer = client.post("/status/retry", data={"id": "1", "token": signed()})
    assert answer.status_code == 401 and inbox.counts().parked == 1


@pytest.mark.parametrize("item_id", ["", "x", "-1", "0", "2", "1 OR 1=1", "9" * 18, "9" * 19, "9" * 5000, "\x00", "１"])
def test_an_item_that_is_not_there_is_not_sent_again(
    item_id: str, client: FlaskClient, inbox: Inbox, database: Database
) -> None:
    before = park(inbox), rows(database)
    answer = retry(client, item_id)
    assert answer.status_code == 303 and answer.headers["Location"].endswith("retried=0")
    assert (1, rows(database)) == before
    assert "Nothing was done" in look(client, "?retried=0").text


def test_what_was_delivered_or_could_not_be_read_is_not_sent_again(
    client: FlaskClient, inbox: Inbox, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    deliver(inbox, "e1", "twitter:1", "7")
    inbox.accept([unreadable()])
    before = rows(database)
    for item_id in (1, 2):
        assert retry(client, item_id, token=signed()).headers["Location"].endswith("retried=0")
    assert rows(database) == before and events(caplog, "retried") == []


def test_only_what_can_be_sent_again_has_the_button(client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "e1", "twitter:1", "7")
    inbox.accept([unreadable()])
    park(inbox, "e3", "twitter:3")
    inbox.accept([new_item("e4", "twitter:4", destination="slack:#old"), new_item("e5", "twitter:5")])
    offered = {n: forms_of(look_at(client, n).text) for n in range(1, 6)}
    assert offered == {
        1: [],
        2: ["/status/discard"],  # nobody can read it
        3: ["/status/retry", "/status/discard"],
        4: ["/status/discard"],  # no route leads there
        5: ["/status/retry", "/status/discard"],
    }
    assert "Send now" in look_at(client, 5).text and "Send again" in look_at(client, 3).text


def forms_of(page: str) -> list[str]:
    return [form["action"] for form in Reader(page).all("form") if form.get("method") == "post"]


def test_a_body_that_is_too_large_is_refused(client: FlaskClient) -> None:
    body = {"token": "x" * 2_000_000}
    assert client.post("/status/retry", data=body, headers=basic(PASSWORD)).status_code == 413


# The database is down


def test_when_only_storing_fails_the_page_shows_the_reason_and_all_the_rest(
    app: Flask, client: FlaskClient, inbox: Inbox, database: Database
) -> None:
    deliver(inbox, "e1", "twitter:1", "35436")
    with database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_items BEFORE INSERT ON items {stop}")
    relay_of(app).writable_at = float("-inf")
    page = look(client)
    text = Reader(page.text).text
    assert page.status_code == 503 and "Nothing can be stored" in text
    assert "IntegrityError: database or disk is full" in text
    assert "35436" in text and "Zendesk connected" in text
    relay_of(app).writable_at = float("-inf")
    assert (client.get("/health").status_code, client.get("/health").json["status"]) == (503, "down")  # type: ignore[index]
    assert "Nothing can be stored" in client.get("/").text and "IntegrityError" not in client.get("/").text


def test_when_nothing_can_be_stored_the_page_says_so(changed: NewApp) -> None:
    client = changed(database_url="sqlite:////nowhere/at/all/relay.db").test_client()
    page = look(client)
    assert (page.status_code, page.mimetype) == (503, "text/html") and "Nothing can be stored" in page.text
    metrics = client.get("/metrics", headers=basic(PASSWORD))
    assert (metrics.status_code, metrics.mimetype) == (503, "text/plain")
    assert client.post("/status/retry", data={"token": signed(), "id": "1"}, headers=basic(PASSWORD)).status_code == 503


def test_a_database_that_fails_half_way_through_the_page_is_a_503(
    client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailable("down")

    monkeypatch.setattr(relay_of(app).records, "by_state", fail)
    assert look(client).status_code == 503
    assert client.get("/metrics", headers=basic(PASSWORD)).status_code == 503
