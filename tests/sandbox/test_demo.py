"""The demo's page without a browser: its buttons, its protection and its texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Clock, wait_for
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sandbox.demo import BURST, CLOSED, DemoPage, Health, story
from sandbox.khoros import FakeKhoros
from sandbox.loglines import LogLine, is_health_check, read_line
from sandbox.modes import CALLS_PER_WINDOW, MODES, set_mode
from sandbox.pages import portrait
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

HEALTH = {
    "subscription": {"state": "subscribed"},
    "zendesk": {"state": "outage", "held_s": 2.4},
    "pending": 3,
    "parked": 1,
}
STAND_IN = """
import os
def create_app():
    print('at=info event=started reason="<b>well</b>"', flush=True)
    print('at=info event=request method=GET path=/health status=200', flush=True)
    def app(environ, start_response):
        body = os.environ["HEALTH"].encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    return app
"""
EVIL = "<script>alert(1)</script>"
BUTTONS = ("/inbox/label", "/inbox/repeat", "/inbox/burst", "/inbox/twice", "/_sandbox/zendesk", "/_sandbox/refuse",
           "/_sandbox/relay/kill", "/_sandbox/relay/start")  # fmt: skip


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    """A process in the relay's place, that has not started."""
    (tmp_path / "app.py").write_text(STAND_IN)
    relay = Relay(env={"HEALTH": json.dumps(HEALTH)}, cwd=tmp_path)
    yield relay
    relay.kill()


@pytest.fixture
def demo(khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay) -> Iterator[DemoPage]:
    page = DemoPage(khoros, zendesk, relay)
    yield page
    page.close()


@pytest.fixture
def client(demo: DemoPage) -> FlaskClient:
    return demo.app.test_client()


# The page


def test_it_shows_every_part_before_anything_runs(client: FlaskClient, khoros: FakeKhoros) -> None:
    page = client.get("/").text
    assert all(part in page for part in ("Mara Lindqvist", "CreateCase", "The relay has stopped.", "0 tickets"))
    assert khoros.token not in page


def test_it_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(client: FlaskClient) -> None:
    page = client.get("/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self'")
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert " style=" not in page.text and "<style" not in page.text and " onclick" not in page.text


def test_what_strangers_write_is_escaped(client: FlaskClient, khoros: FakeKhoros) -> None:
    changes = dict.fromkeys(("text", "author", "authorScreenName", "inReplyTo", "repostedFrom"), EVIL)
    [post] = khoros.add_posts(1, **changes, labels=[EVIL])
    khoros.label(post, EVIL)
    page = client.get("/").text
    assert EVIL not in page and page.count("&lt;script&gt;alert(1)") >= 6


def test_a_ticket_that_does_not_exist_is_said_to_be_missing(client: FlaskClient) -> None:
    page = client.get("/agent/tickets/7")
    assert (page.status_code, "There is no such ticket" in page.text) == (404, True)


def test_it_asks_the_relay_how_it_is_and_leaves_its_own_questions_out(client: FlaskClient, relay: Relay) -> None:
    relay.start().wait_ready().wait_for_line("path=")
    page = client.get("/").text
    assert '<dd id="waiting">3</dd>' in page and '<dd id="attention">1</dd>' in page
    assert "Next try in 3 s." in page and CLOSED["outage"] not in page and "Zendesk works again." in page
    assert "&lt;b&gt;well&lt;/b&gt;" in page and "/health" not in page


# Its buttons


def test_only_a_post_request_changes_anything(client: FlaskClient) -> None:
    assert [client.get(path).status_code for path in BUTTONS] == [405] * len(BUTTONS)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_foreign_page_cannot_press_the_buttons(
    client: FlaskClient, khoros: FakeKhoros, headers: dict[str, str]
) -> None:
    posts = len(khoros.posts)
    answers = [client.post(path, headers=headers, data={"mode": "down"}) for path in BUTTONS]
    assert [answer.status_code for answer in answers] == [403] * len(BUTTONS)
    assert "another page" in answers[0].text
    assert len(khoros.posts) == posts


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}])
def test_the_page_itself_and_a_shell_can(client: FlaskClient, headers: dict[str, str], demo: DemoPage) -> None:
    assert client.post("/_sandbox/zendesk", headers=headers, data={"mode": "down"}).status_code == 303
    assert demo.mode == "down"


def test_the_pages_of_the_fakes_obey_no_foreign_page_either(khoros: FakeKhoros, zendesk: FakeZendesk) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    post = next(iter(khoros.posts))
    label = khoros.app.test_client().post("/inbox/label", data={"post": post}, headers=foreign)
    fault = zendesk.app.test_client().post("/_sandbox/faults", json={"mode": "outage"}, headers=foreign)
    token = zendesk.app.test_client().post("/oauth/tokens", json={"grant_type": "x"}, headers=foreign)
    assert (label.status_code, fault.status_code, token.status_code) == (403, 403, 400)
    assert khoros.posts[post]["labels"] == [] and zendesk.faults.state()["faults"] == []


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/inbox/label", {"post": "twitter:0", "label": "CreateCase"}),
        ("/inbox/label", {}),
        ("/inbox/repeat", {"event": "none"}),
        ("/_sandbox/zendesk", {"mode": "asleep"}),
    ],
)
def test_what_is_not_there_is_answered_404(client: FlaskClient, path: str, form: dict[str, str]) -> None:
    answer = client.post(path, data=form)
    assert (answer.status_code, "Load the page again" in answer.text) == (404, True)


def test_a_label_and_a_burst_are_applied_in_khoros(client: FlaskClient, khoros: FakeKhoros) -> None:
    post = next(iter(khoros.posts))
    client.post("/inbox/label", data={"post": post, "label": "Praise"})
    client.post("/inbox/burst")
    labelled = [labels for labels in (post["labels"] for post in khoros.posts.values()) if labels == ["CreateCase"]]
    assert (khoros.posts[post]["labels"], len(labelled)) == (["Praise"], BURST)
    page = client.get("/").text
    assert f"0 of {BURST}" in page and "Praise: no ticket" in page


def test_of_a_burst_it_says_how_many_have_a_ticket_and_how_many_have_two(
    client: FlaskClient, khoros: FakeKhoros, zendesk: FakeZendesk
) -> None:
    known = set(khoros.posts)
    client.post("/inbox/burst")
    posts = [post for post in khoros.posts if post not in known]
    for post in posts[1:]:
        make_ticket(zendesk, post)
    assert f"{BURST - 1} of {BURST}</span> have their ticket." in client.get("/").text
    make_ticket(zendesk, posts[0])
    assert "have their ticket: none lost, none twice." in client.get("/").text
    make_ticket(zendesk, posts[0])
    assert "have their ticket: none lost, 1 twice." in client.get("/").text


def make_ticket(zendesk: FakeZendesk, post: str) -> None:
    body = {"ticket": {"subject": "s", "comment": {"body": "b"}, "external_id": post}}
    login = ("agent@acme.example/token", zendesk.api_token)
    assert zendesk.app.test_client().post("/api/v2/tickets", json=body, auth=login).status_code == 201


def test_one_event_is_sent_twice(client: FlaskClient, khoros: FakeKhoros) -> None:
    with Server(lambda environ, start: (start("202 Accepted", []), [b""])[1]) as hook:
        subscribe(khoros, hook.url)
        client.post("/inbox/twice")
        assert khoros.drain()
    first, second = khoros.pushes
    assert (first.outcome, first.event_uuid) == (202, second.event_uuid)
    assert "sent 2 times" in client.get("/").text


def subscribe(khoros: FakeKhoros, uri: str) -> None:
    body = {"companyId": 123, "eventName": "stream-item-label-applied", "notificationUri": uri, "query": "CreateCase"}
    headers = {"Authorization": f"Bearer {khoros.token}"}
    answer = khoros.app.test_client().post("/v2/events/subscription", json=body, headers=headers)
    assert answer.status_code == 200


def test_the_relay_is_killed_and_started_again(client: FlaskClient, demo: DemoPage, relay: Relay) -> None:
    client.post("/_sandbox/relay/start")
    client.post("/_sandbox/relay/start")  # pressed in two windows
    relay.wait_ready()
    client.post("/_sandbox/relay/kill")
    client.post("/_sandbox/relay/kill")
    assert (relay.running, demo.killed) == (False, True)
    assert "The relay was killed." in client.get("/").text
    assert demo.log()[0].event == "killed with -9"
    client.post("/_sandbox/relay/start")
    relay.wait_ready()
    wait_for(lambda: [line.event for line in demo.log()].count("started") == 2)
    log = demo.log()
    [cut] = [place for place, line in enumerate(log) if line.event == "killed with -9"]
    assert not demo.killed and log[cut - 1].number == log[cut].number > log[cut + 1].number


# The switches of Zendesk


@dataclass
class Desk:
    """An account whose limit counts in windows of ten seconds, and a token that was issued when all was well."""

    zendesk: FakeZendesk
    token: str = ""

    def list_tickets(self) -> TestResponse:
        return self.zendesk.app.test_client().get("/api/v2/tickets", headers={"Authorization": f"Bearer {self.token}"})

    def log_in(self) -> TestResponse:
        client = {"client_id": self.zendesk.client_id, "client_secret": self.zendesk.client_secret}
        wanted = {"grant_type": "client_credentials", "scope": "tickets:read", **client}
        return self.zendesk.app.test_client().post("/oauth/tokens", json=wanted)


@pytest.fixture
def desk(clock: Clock) -> Desk:
    desk = Desk(FakeZendesk(clock=clock, window_s=10))
    desk.token = desk.log_in().get_json()["access_token"]
    return desk


@pytest.mark.parametrize(
    ("mode", "ticketing", "login"),
    [
        ("healthy", 200, 201),
        ("slow", 200, 201),
        ("rate limited", 200, 201),
        ("down", 503, 503),
        ("refusing logins", 401, 401),
    ],
)
def test_a_switch_does_what_it_says_and_healthy_ends_it(
    desk: Desk, mode: str, ticketing: int, login: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.modes.SLOW_S", 0.01)
    set_mode(desk.zendesk, mode)
    assert (desk.list_tickets().status_code, desk.log_in().status_code) == (ticketing, login)
    assert desk.zendesk.latency_s == (0.01 if mode == "slow" else 0)
    set_mode(desk.zendesk, "healthy")
    state = desk.zendesk.state()
    assert (state["latency_s"], state["faults"], state["rate"]["per_minute"]) == (0, [], None)
    assert desk.log_in().status_code == 201


def test_the_limit_is_counted_in_windows_of_ten_seconds(desk: Desk, clock: Clock) -> None:
    set_mode(desk.zendesk, "rate limited")
    taken = [desk.list_tickets().status_code for _ in range(CALLS_PER_WINDOW + 1)]
    assert taken == [200] * CALLS_PER_WINDOW + [429]
    clock.advance(4)
    assert desk.list_tickets().headers["Retry-After"] == "6"
    clock.advance(6)
    assert desk.list_tickets().status_code == 200


def test_there_is_no_other_switch(zendesk: FakeZendesk) -> None:
    with pytest.raises(KeyError):
        set_mode(zendesk, "asleep")
    assert list(MODES) == ["healthy", "slow", "rate limited", "down", "refusing logins"]


# What it says


@pytest.mark.parametrize(
    ("health", "killed", "mode", "said"),
    [
        (Health(running=False), True, "healthy", "The relay was killed."),
        (Health(running=False), False, "healthy", "The relay has stopped."),
        (Health(running=True), False, "healthy", "is starting"),
        (Health(True, False, "open", 0, 0, 0), False, "healthy", "is starting"),
        (Health(True, True, "outage", 1, 5, 0), False, "down", "Zendesk does not answer"),
        (Health(True, True, "limited", 1, 5, 0), False, "rate limited", "limit is reached"),
        (Health(True, True, "unauthorised", 1, 5, 0), False, "refusing logins", "refuses the relay's login"),
        (Health(True, True, "outage", 1, 5, 0), False, "healthy", "Zendesk works again"),
        (Health(True, True, "open", 0, 5, 0), False, "slow", "on their way"),
        (Health(True, True, "open", 0, 0, 1), False, "healthy", "It needs attention:"),
        (Health(True, True, "open", 0, 0, 0), False, "healthy", "All well. Every post"),
    ],
)
def test_a_sentence_says_how_things_are(health: Health, killed: bool, mode: str, said: str) -> None:
    assert said in story(health, killed, mode, any_ticket=True)[1]


def test_at_first_it_says_what_to_do() -> None:
    assert "Give a post the label" in story(Health(True, True, "open", 0, 0, 0), False, "healthy", any_ticket=False)[1]


def test_a_log_line_is_taken_apart() -> None:
    line = r'at=warning event=not_delivered post=twitter:34 reason="said \"no\" = C:\\x" status=503'
    assert read_line(4, line) == LogLine(
        4, "warning", "not_delivered", [("post", "twitter:34"), ("reason", r'said "no" = C:\x'), ("status", "503")]
    )
    assert read_line(5, "Traceback <most recent>") == LogLine(5, "info", "Traceback <most recent>", [])


def test_only_questions_about_health_are_left_out() -> None:
    asked = "at=info event=request method=GET path=/health status=200 took_ms=2"
    assert is_health_check(asked)
    assert not is_health_check(asked.replace("/health", "/notifications"))
    assert not is_health_check('at=info event=parked reason="path=/health"')


def test_a_name_has_the_same_face_in_every_run() -> None:
    assert portrait("Mara Lindqvist") == (98, "#a06b48", "#4d3425", 3)
    assert portrait("\ud800").hue < 360
