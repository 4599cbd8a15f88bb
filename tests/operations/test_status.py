"""The pages behind the password: closed without it, without a customer's words, without a stranger's markup."""

from __future__ import annotations

import base64
import hmac
import io
import logging
from collections.abc import Callable
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
from steps import deliver, move_gate, park, settle
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
from inbox.items import Draft, NewItem, Outcome
from inbox.records import Hour
from khoros.catch_up import CatchUpStatus
from khoros.receive import SECURE_HEADERS
from khoros.subscription import SubscriptionStatus, status_fact
from operations.status import FORM_LIFE_S, PATHS
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

NewApp = Callable[..., Flask]
PASSWORD = "made-up-status-password"
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
    assert {rule.rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("status.")} == set(PATHS)


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


def test_the_page_shows_at_once_what_is_connected_and_what_waits(
    client: FlaskClient, inbox: Inbox, facts: Facts
) -> None:
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed", "", "uuid-1", at=inbox.now() - 125))
    deliver(inbox, "e1", "twitter:1", "35436")
    inbox.accept([new_item("e2", "twitter:2"), unreadable()])
    move_gate(inbox, "checked", calls_left=1650, reset_s=30.0)
    page = Reader(look(client).text)
    for words in (
        "Khoros, labels subscribed",
        "By push, and catch-up, looked at 2 min ago",
        "Zendesk connected",
        "1 waiting, the oldest for 0 s. 1,650 calls left in this window",
        "Routes Label CreateCase → Zendesk",
        "1 waiting the oldest for",
        "1 needs attention 0 discarded",
        "1 delivered",
        "The latest 50",
    ):
        assert words in page.text, words
    assert states(page) == ["state good", "state good"] and page.all("th")[-1] and "Destination" not in page.text


def test_the_page_shows_what_is_wrong(changed: NewApp) -> None:
    app = changed(client_id="", client_secret="", user_email="a@b.example", api_token="made-up-api-token")
    relay = relay_of(app)
    relay.facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("no_address", "set PUBLIC_URL"))
    relay.inbox.accept([unreadable()])
    relay.inbox.discard([1])
    move_gate(relay.inbox, UNAUTHORISED, "Zendesk refuses us", retry_after_s=45.0)
    page = Reader(look(app.test_client()).text)
    for words in (
        "no address set PUBLIC_URL",
        "Zendesk unauthorised Zendesk refuses us Nothing waits. Next attempt in 4",
        "Zendesk switches API tokens off on 2027-04-30",
        "0 need attention 1 discarded",
    ):
        assert words in page.text, words
    assert states(page) == ["state bad"] * 2
    assert [span["class"] for span in page.all("span") if "notice" in span.get("class", "")] == ["notice"]


def test_what_waits_by_itself_is_amber(client: FlaskClient, inbox: Inbox) -> None:
    move_gate(inbox, OUTAGE, "Zendesk answered 503")
    assert states(Reader(look(client).text)) == ["state wait", "state wait"]  # it is starting, and Zendesk is down


def states(page: Reader) -> list[str]:
    """The colours of the cards."""
    return [div["class"] for div in page.all("div") if "state" in div.get("class", "")]


def unreadable() -> NewItem:
    return NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")


SEVERAL = (
    "label CreateCase -> zendesk; label VIP -> slack #crisis; rule Recall -> slack ann@acme.example;"
    "sent -> webhook https://hooks.example/T0P/SECRET"
)


def test_several_destinations_have_a_card_and_a_column(changed: NewApp) -> None:
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
        "Slack ann@acme.example connected Nothing waits.",
        "Webhook hooks.example/",
        "Khoros, labels starting",
        "Khoros, rules starting",
        "Khoros, messages sent to a network starting",
        "Label VIP → Slack #crisis Rule Recall → Slack ann@acme.example Sent → Webhook hooks.example",
        "Destination",
        "reference number",
        "C1/1503435956.000247",
    ):
        assert words in text, words
    assert "T0P" not in page and list(links(page)) == ["http://127.0.0.1:9/agent/tickets/35436"]


def test_what_waits_for_a_destination_without_a_route_is_not_forgotten(client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept([new_item(destination="slack:#old")])
    page = Reader(look(client).text)
    assert "Slack #old no route No line of ROUTES leads there any more. Add its line again" in page.text
    assert "--destination 'slack:#old'" in page.text and "state bad" in states(page)


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
    assert states(page) == ["state bad", "state good"]


def test_a_new_service_says_what_to_do_first(client: FlaskClient) -> None:
    text = Reader(look(client).text).text
    assert "Nothing has arrived yet. Put a label of a route on a post" in text and "0 waiting none" in text


def test_with_polling_the_page_says_so(changed: NewApp) -> None:
    assert "starting By polling" in Reader(look(changed(polling=True).test_client()).text).text


def test_items_link_to_their_post_and_their_ticket(client: FlaskClient, inbox: Inbox) -> None:
    item = {"entityId": "twitter:1", "text": TEXT, "link": "https://x.example/1?a=1&b=2"}
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": item})])
    settle(inbox, "ticket_created", reference="35436")
    away = links(look(client).text)
    assert list(away) == ["https://x.example/1?a=1&b=2", "http://127.0.0.1:9/agent/tickets/35436"]
    assert all(set(a["rel"].split()) >= {"noopener", "noreferrer"} for a in away.values())


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "//evil.example"])
def test_a_link_that_is_no_web_address_cannot_be_clicked(link: str, client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept(
        [NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": {"entityId": "twitter:1", "link": link}})]
    )
    page = look(client).text
    assert links(page) == {} and link not in page and "twitter:1" in page


def test_a_link_cannot_end_its_attribute(client: FlaskClient, inbox: Inbox) -> None:
    link = "https://x.example/\"onmouseover='alert(1)'><b>"
    inbox.accept(
        [NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": {"entityId": "twitter:1", "link": link}})]
    )
    assert list(links(look(client).text)) == [link]


def test_an_item_that_waits_says_until_when(client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept([new_item("e1", "twitter:1")])
    settle(inbox, OUTAGE, reason="Zendesk answered 503", retry_after_s=1900.0)
    text = Reader(look(client).text).text
    assert "Zendesk answered 503" in text and "next in 32 min" in text and "1 tried again" in text


def test_only_the_latest_fifty_are_shown(client: FlaskClient, inbox: Inbox) -> None:
    inbox.accept([new_item(f"event-{n:02}", f"twitter:{n:02}") for n in range(52)])
    page = look(client).text
    assert "twitter:51" in page and "twitter:02" in page and "twitter:01" not in page


def test_a_head_request_gets_no_body(client: FlaskClient) -> None:
    answer = client.head("/status", headers=basic(PASSWORD))
    assert (answer.status_code, answer.data) == (200, b"")


# No customer's words, no stranger's markup


def test_nobodys_words_are_on_any_page(client: FlaskClient, inbox: Inbox) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client.post("/notifications", json=notification("event-1", "twitter:1"), headers=headers)
    client.post("/notifications", json={"text": TEXT, "author": AUTHOR}, headers=headers)
    park(inbox, "event-2", "twitter:2")
    shown = [look(client).text, look(client, "?q=twitter:1").text, look(client, "?q=1").text]
    shown.append(client.get("/metrics", headers=basic(PASSWORD)).text)
    assert "not readable" in shown[0]
    for page in shown:
        assert not [private for private in (TEXT, AUTHOR, "Hello", "Jo", "furious", PASSWORD, TOKEN) if private in page]


def test_markup_from_outside_is_text(changed: NewApp) -> None:
    app = changed(routes="label 'x' -> zendesk")
    relay_of(app).routes = Routes((Route("label", Filter(NASTY, None), "zendesk"),))
    inbox = relay_of(app).inbox
    park(inbox, f"event {NASTY}", f"twitter:{NASTY}", f"reason {NASTY}")
    relay_of(app).facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("failed", f"detail {NASTY}"))
    move_gate(inbox, OUTAGE, f"gate {NASTY}")
    client = app.test_client()
    plain = Reader(look(client, "?q=nothing").text)
    for page in (look(client), look(client, query_string({"q": NASTY})), look(client, query_string({"q": "1"}))):
        reader = Reader(page.text)
        assert {tag for tag, _ in reader.elements} <= {tag for tag, _ in plain.elements} | KNOWN
        assert "60481729" not in page.text
    text = Reader(look(client).text).text
    for shown in ("event", "reason", "detail", "gate", "Label"):
        assert f"{shown} {NASTY}" in text
    assert f"twitter:{NASTY}" in text
    [search] = [box for box in Reader(look(client, query_string({"q": NASTY})).text).all("input") if box["name"] == "q"]
    assert search["value"] == NASTY
    [button] = [button for button in Reader(look(client).text).all("button") if "aria-label" in button]
    assert button == {"aria-label": f"Send again: twitter:{NASTY}"}


KNOWN = {"table", "thead", "tr", "th", "tbody", "td", "b", "span", "form", "input", "button", "time", "p", "code"}


def query_string(values: dict[str, str]) -> str:
    return "?" + urlencode(values)


def test_every_page_is_strict_about_what_a_browser_may_do(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    unreadable = client.get("/status"), client.get("/metrics"), client.post("/status/retry")
    pages = [look(client), look(client, "?q=x"), retry(client, 1), client.get("/metrics", headers=basic(PASSWORD))]
    for page in (*pages, *unreadable, client.get("/"), client.get("/nowhere")):
        assert {name: page.headers[name] for name in SECURE_HEADERS} == SECURE_HEADERS
    policy = SECURE_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "script-src" not in policy
    assert "frame-ancestors 'none'" in policy and "form-action 'self'" in policy


def test_the_pages_need_no_script_and_no_style_of_their_own(client: FlaskClient, inbox: Inbox) -> None:
    park(inbox)
    deliver(inbox, "e2", "twitter:2", "7")
    for page in (look(client).text, look(client, "?q=x").text, look(client, "?retried=1").text, client.get("/").text):
        reader = Reader(page)
        assert not reader.all("script") and not reader.all("style") and not reader.all("iframe")
        for tag, attributes in reader.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        sources = [e.get("src") or e.get("href", "") for tag, e in reader.elements if tag in ("img", "link", "script")]
        assert all(source.startswith("/static/") for source in sources)


# The search


@pytest.mark.parametrize("name", ["event-1", "twitter:1", "35436", "#35436", "%2335436", " twitter:1 ", "1"])
def test_a_search_finds_by_event_post_ticket_and_item(name: str, client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "event-1", "twitter:1", "35436")
    deliver(inbox, "event-2", "twitter:2", "35437")
    page = look(client, query_string({"q": name.replace("%23", "#")})).text
    assert "event event-1" in page and "event event-2" not in page and "Show the latest" in page


@pytest.mark.parametrize("name", ["nothing", "x" * 300, "\x00", "twitter:1\x00", "☃", "\u202e", "%", "' OR 1=1 --"])
def test_a_search_that_finds_nothing_says_so(name: str, client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "event-1", "twitter:1", "35436")
    page = look(client, query_string({"q": name}))
    assert page.status_code == 200
    assert "No item has this event uuid, post id or ticket number." in page.text and "event-1" not in page.text


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
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/status?retried={item_id}")
    assert (inbox.counts().pending, inbox.counts().parked) == (1, 0)
    assert fields_of(caplog, "retried") == {"level": logging.INFO, "item": item_id, "by": "status page"}
    page = look(client, f"?retried={item_id}").text
    assert f"Item {item_id} was put back: it is sent again as soon as possible." in page


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


def signed(password: str = PASSWORD, salt: str = "status page's forms", value: str = "retry") -> str:
    return str(URLSafeTimedSerializer(password, salt=salt).dumps(value))


def aged(seconds: float) -> str:
    """A token that was made so long ago."""

    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - int(seconds)

    return str(URLSafeTimedSerializer(PASSWORD, salt="status page's forms", signer=Signer).dumps("retry"))


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
def test_a_forged_form_sends_nothing_again(token: str, client: FlaskClient, inbox: Inbox, database: Database) -> None:
    before = park(inbox), rows(database)
    answer = retry(client, 1, token=token)
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
        path = f"/status/retry?id=1&token={signed()}"
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
    assert (answer.status_code, answer.headers["Location"]) == (303, "/status?retried=0")
    assert (1, rows(database)) == before
    assert "Nothing was sent again" in look(client, "?retried=0").text


def test_what_was_delivered_or_could_not_be_read_is_not_sent_again(
    client: FlaskClient, inbox: Inbox, caplog: pytest.LogCaptureFixture, database: Database
) -> None:
    deliver(inbox, "e1", "twitter:1", "7")
    inbox.accept([unreadable()])
    before = rows(database)
    for item_id in (1, 2):
        assert retry(client, item_id, token=signed()).headers["Location"] == "/status?retried=0"
    assert rows(database) == before and events(caplog, "retried") == []


def test_only_what_can_be_sent_again_has_the_button(client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "e1", "twitter:1", "7")
    inbox.accept([unreadable()])
    item_id = park(inbox, "e3", "twitter:3")
    inbox.accept([new_item("e4", "twitter:4", destination="slack:#old")])
    inbox.accept([new_item("e5", "twitter:5")])
    page = Reader(look(client).text)
    assert [box["value"] for box in page.all("input") if box["name"] == "id"] == ["5", str(item_id)]
    assert {form["action"] for form in page.all("form") if form.get("method") == "post"} == {"/status/retry"}
    assert "Send now" in page.text and "Send again" in page.text


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
    assert page.status_code == 503 and "Nothing can be stored. IntegrityError: database or disk is full" in text
    assert "35436" in text and "Zendesk connected" in text
    relay_of(app).writable_at = float("-inf")
    assert (client.get("/health").status_code, client.get("/health").json["status"]) == (503, "down")  # type: ignore[index]
    assert "Nothing can be stored." in client.get("/").text and "IntegrityError" not in client.get("/").text


def test_when_nothing_can_be_stored_the_page_says_so(changed: NewApp) -> None:
    client = changed(database_url="sqlite:////nowhere/at/all/relay.db").test_client()
    page = look(client)
    assert (page.status_code, page.mimetype) == (503, "text/html") and "Nothing can be stored." in page.text
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


# The plot


def day(**last: int) -> list[Hour]:
    return [*(Hour(n * 3600.0) for n in range(23)), Hour(23 * 3600.0, **last)]


@pytest.fixture
def plotted(client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Hour]], Reader]:
    """The page as it shows these hours."""

    def look_at(hours: list[Hour]) -> Reader:
        monkeypatch.setattr(relay_of(app).records, "hours", lambda: hours)
        return Reader(look(client).text)

    return look_at


Plotted = Callable[[list[Hour]], Reader]


def bars(page: Reader) -> list[tuple[str, int, float, float]]:
    """Each part of a bar: its kind, place, top and height."""
    parts = [rect for rect in page.all("rect") if rect["class"] != "hour"]
    return [(part["class"], int(part["x"]), float(part["y"]), float(part["height"])) for part in parts]


def test_a_day_without_anything_is_an_empty_plot(plotted: Plotted) -> None:
    page = plotted(day())
    assert bars(page) == [] and "0 delivered 0 tried again 0 needed attention" in page.text


def test_the_busiest_hour_fills_the_plot_from_the_bottom(plotted: Plotted) -> None:
    page = plotted([Hour(0.0, delivered=1), *day(delivered=1, retried=2, parked=1)[1:]])
    assert bars(page) == [
        ("delivered", 0, 90.0, 30.0),
        ("delivered", 230, 90.0, 30.0),
        ("retried", 230, 30.0, 60.0),
        ("parked", 230, 0.0, 30.0),
    ]
    assert "2 delivered 2 tried again 1 needed attention" in page.text


def test_bars_stand_side_by_side_in_order_with_the_time_of_day(plotted: Plotted) -> None:
    page = plotted(day())
    assert [rect["x"] for rect in page.all("rect")] == [str(10 * n) for n in range(24)]
    assert "00:00 UTC: 0 delivered" in page.text and "23:00 UTC: 0 delivered" in page.text
    assert "00:00 UTC 12:00 this hour" in page.text


@pytest.mark.parametrize("counts", [(1, 0, 0), (1, 1, 1), (10**6, 1, 3), (0, 7, 10**9)])
def test_no_bar_leaves_the_plot(counts: tuple[int, int, int], plotted: Plotted) -> None:
    parts = bars(plotted(day(delivered=counts[0], retried=counts[1], parked=counts[2])))
    assert all(0 <= top and top + height <= 120.01 for _, _, top, height in parts)
    assert sum(height for *_, height in parts) == pytest.approx(120.0, abs=0.02)


def test_the_plot_is_drawn_and_said_in_words(client: FlaskClient, inbox: Inbox) -> None:
    deliver(inbox, "e1", "twitter:1", "7")
    park(inbox, "e2", "twitter:2")
    inbox.accept([unreadable()])
    page = look(client).text
    assert "UTC: 1 delivered, 0 tried again, 2 needed attention" in page and "3 in the busiest" in page
    assert len([rect for rect in Reader(page).all("rect") if rect["class"] == "hour"]) == 24
    assert "1 delivered 0 tried again 2 needed attention" in Reader(page).text
