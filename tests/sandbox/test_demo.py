"""The demo's page without a browser: its buttons, its protection and its texts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from conftest import Clock, wait_for
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sandbox.buttons import BURST, RECALL, RULE
from sandbox.demo import DemoPage
from sandbox.health import Counts, Health, Place, story
from sandbox.khoros import FakeKhoros
from sandbox.loglines import LogLine, is_noise, read_line
from sandbox.modes import CALLS_PER_WINDOW, Switch, slack_switch, webhook_switch, zendesk_switch
from sandbox.pages import portrait
from sandbox.receiver import FakeReceiver
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk

HEALTH = {
    "subscription": {"state": "subscribed"},
    "subscriptions": {"rule-applied": {"state": "subscribed", "polling": "ok"}},
    "zendesk": {"state": "outage", "held_s": 2.4, "pending": 2, "parked": 1, "oldest_pending_s": 7.0},
    "slack:#social-care": {"state": "open", "held_s": 0.0, "pending": 1, "parked": 0, "oldest_pending_s": 1.0},
}
STAND_IN = """
import os
def create_app():
    print('at=info event=started reason="<b>well</b>"', flush=True)
    print('at=info event=request method=GET path=/static/fresh.js status=200', flush=True)
    def app(environ, start_response):
        body = os.environ["HEALTH"].encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    return app
"""
EVIL = "<script>alert(1)</script>"
BUTTONS = (
    "/inbox/label", "/inbox/repeat", "/inbox/burst", "/inbox/twice", "/inbox/rule", "/inbox/publish", "/inbox/send",
    "/_sandbox/switch", "/_sandbox/refuse", "/_sandbox/relay/kill", "/_sandbox/relay/start", "/agent/tickets/1/status",
)  # fmt: skip


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    """A process in the relay's place, that has not started."""
    (tmp_path / "app.py").write_text(STAND_IN)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        database.execute("CREATE TABLE items (subject_id, state)")
        rows = [*[(f"x:{n % 3}", "pending") for n in range(5)], ("x:9", "parked"), *[("x:8", "delivered")] * 4]
        database.executemany("INSERT INTO items VALUES (?, ?)", rows)
        database.commit()
    relay = Relay(
        env={"HEALTH": json.dumps(HEALTH), "DATABASE_URL": f"sqlite:///{tmp_path / 'relay.db'}"}, cwd=tmp_path
    )
    yield relay
    relay.kill()


@pytest.fixture
def slack() -> FakeSlack:
    return FakeSlack()


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


@pytest.fixture
def demo(
    khoros: FakeKhoros, zendesk: FakeZendesk, slack: FakeSlack, receiver: FakeReceiver, relay: Relay
) -> Iterator[DemoPage]:
    page = DemoPage(khoros, zendesk, slack, receiver, relay)
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


def test_it_asks_the_relay_how_it_is_and_leaves_the_servers_own_lines_out(client: FlaskClient, relay: Relay) -> None:
    relay.start().wait_ready().wait_for_line("path=")
    page = client.get("/").text
    assert "Zendesk works again." in page and "Next try in 3 s." in page
    assert '<span class="chip wait">2 wait</span>' in page and '<span class="chip wait">1 wait</span>' in page
    assert "&lt;b&gt;well&lt;/b&gt;" in page and "path=" not in page


def test_it_counts_what_is_in_the_database_and_the_tickets_also_while_the_relay_is_dead(
    client: FlaskClient, zendesk: FakeZendesk, relay: Relay
) -> None:
    relay.start().wait_ready()
    make_ticket(zendesk, "x:8")
    counted = ('<dd id="waiting">3</dd>', '<dd id="made">1</dd>', '<dd id="attention">1</dd>')
    assert all(number in client.get("/").text for number in counted)
    client.post("/_sandbox/relay/kill")
    page = client.get("/").text
    assert all(number in page for number in counted)
    assert "Killed. 3 posts are safe in the database." in page
    assert "The relay is dead. 3 posts are safe in its database." in page


def test_one_post_is_labelled_by_itself_as_soon_as_the_relay_can_hear_it(client: FlaskClient, relay: Relay) -> None:
    assert "data-alone" not in client.get("/").text
    relay.start().wait_ready()
    wait_for(lambda: 'action="/inbox/label" data-alone' in client.get("/").text)


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
    answers = [client.post(path, headers=headers, data={"place": "zendesk", "mode": "down"}) for path in BUTTONS]
    assert [answer.status_code for answer in answers] == [403] * len(BUTTONS)
    assert "another page" in answers[0].text
    assert len(khoros.posts) == posts


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {}])
def test_the_page_itself_and_a_shell_can(client: FlaskClient, headers: dict[str, str], demo: DemoPage) -> None:
    form = {"place": "slack", "mode": "down"}
    assert client.post("/_sandbox/switch", headers=headers, data=form).status_code == 303
    assert {kind: switch.mode.name for kind, switch in demo.buttons.switches.items()} == {
        "zendesk": "healthy",
        "slack": "down",
        "webhook": "healthy",
    }


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
        ("/inbox/publish", {}),
        ("/_sandbox/switch", {"place": "zendesk", "mode": "asleep"}),
        ("/_sandbox/switch", {"place": "elsewhere", "mode": "down"}),
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


def test_one_event_is_sent_twice(client: FlaskClient, khoros: FakeKhoros, pushed: None) -> None:
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
    assert "The relay was killed. 3 posts are safe in the database." in client.get("/").text
    client.post("/_sandbox/relay/start")
    relay.wait_ready()
    wait_for(lambda: [line.event for line in demo.chronicle.log()].count("started") == 2)
    log = [line.event for line in demo.chronicle.log() if not line.event.startswith("[")]
    assert log == ["started again", "started", "killed with -9", "started again", "started"] and not demo.killed


def offers(client: FlaskClient, button: str) -> bool:
    """Whether this button is the next step."""
    return f'<button id="next">{button}</button>' in client.get("/").text


def test_the_steps_follow_what_is_pressed(
    client: FlaskClient, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay
) -> None:
    works = {"state": "open", "held_s": 0.0, "pending": 0, "parked": 0}
    relay.env |= {"HEALTH": json.dumps({**HEALTH, "zendesk": works})}
    relay.start().wait_ready()
    make_ticket(zendesk, next(iter(khoros.posts)))
    known = set(khoros.posts)
    pressed: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("Take Zendesk down", "/_sandbox/switch", {"place": "zendesk", "mode": "down"}),
        ("Label 200 posts", "/inbox/burst", {}),
        ("Kill it with -9", "/_sandbox/relay/kill", {}),
        ("Start it again", "/_sandbox/relay/start", {}),
        ("Bring Zendesk back", "/_sandbox/switch", {"place": "zendesk", "mode": "healthy"}),
    )
    for name, path, form in pressed:
        wait_for(partial(offers, client, name))
        client.post(path, data=form)
    relay.wait_ready()
    for post in set(khoros.posts) - known:
        make_ticket(zendesk, post)
    wait_for(lambda: client.get("/").text.count('class="step done"') == 3)
    make_ticket(zendesk, "twitter:1")
    client.post("/inbox/burst")
    assert client.get("/").text.count('class="step done"') == 3  # done is done


# What the buttons answer


@pytest.fixture
def pushed(khoros: FakeKhoros) -> Iterator[None]:
    """Something takes what Khoros pushes."""
    with Server(lambda environ, start: (start("202 Accepted", []), [b""])[1]) as hook:
        subscribe(khoros, hook.url)
        yield


def answer(client: FlaskClient) -> str:
    return client.get("/").text.split('role="status">')[1].split("</p>")[0]


def test_a_label_is_answered_by_its_ticket_or_where_the_post_is(
    client: FlaskClient, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay
) -> None:
    post = next(iter(khoros.posts))
    client.post("/inbox/label", data={"post": post, "label": "CreateCase"})
    assert "The relay is dead. Khoros keeps the event" in answer(client)
    relay.start()
    assert "Mara&#39;s post is on its way." in answer(client)
    client.post("/_sandbox/switch", data={"place": "zendesk", "mode": "slow"})
    client.post("/inbox/label", data={"post": post, "label": "CreateCase"})
    assert "Mara&#39;s post is safe in the database. It waits for Zendesk." in answer(client)
    relay.output.append(f"at=error event=parked destination=zendesk post={post} reason=no")
    client.get("/")  # reads the log
    assert "Zendesk refuses Mara&#39;s post: it needs attention." in answer(client)
    make_ticket(zendesk, post)
    assert "Mara&#39;s post became ticket #1001 in " in answer(client)
    client.post("/inbox/label", data={"post": post, "label": "CreateCase"})
    assert "a note on ticket #1001, no second ticket" in answer(client)
    client.post("/inbox/label", data={"post": post, "label": "Praise"})
    assert "No route wants this label" in answer(client)


def test_a_ticket_says_how_long_it_took(demo: DemoPage, zendesk: FakeZendesk) -> None:
    assert demo.chronicle.took("1001") == ""
    make_ticket(zendesk, "twitter:1")
    assert demo.chronicle.took("1001") == ""  # nobody labelled it on this page
    [ticket] = zendesk.tickets
    for before_s, took in ((0.062, "62 ms"), (17.4, "17 s")):
        demo.chronicle.labelled_at["twitter:1"] = ticket.created_at - before_s
        assert demo.chronicle.took("1001") == took


def test_an_event_that_is_sent_twice_is_answered_by_the_number_of_its_tickets(
    client: FlaskClient, khoros: FakeKhoros, zendesk: FakeZendesk, pushed: None
) -> None:
    known = set(khoros.posts)
    client.post("/inbox/twice")
    [post] = set(khoros.posts) - known
    make_ticket(zendesk, post)
    assert "Sent twice, one ticket: #1001." in answer(client)
    [event] = {push.event_uuid for push in khoros.pushes}
    client.post("/inbox/repeat", data={"event": event})
    assert "Sent again, one ticket: #1001." in answer(client)
    make_ticket(zendesk, post)
    assert "Sent again, 2 tickets." in answer(client)


def test_a_burst_is_answered_by_what_is_safe_and_at_last_by_its_tickets(
    client: FlaskClient, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay
) -> None:
    known = set(khoros.posts)
    client.post("/inbox/burst")
    assert "200 posts labelled. The relay is dead" in answer(client)
    relay.start()
    assert "200 posts labelled. 3 posts are safe in the database." in answer(client)
    for post in set(khoros.posts) - known:
        make_ticket(zendesk, post)
    assert "200 posts, 200 tickets: none lost, none twice." in answer(client)


def test_a_refusal_is_armed_until_it_has_happened(client: FlaskClient, zendesk: FakeZendesk) -> None:
    client.post("/_sandbox/refuse")
    assert "Armed: Zendesk will refuse the next post." in answer(client)
    ticketing = zendesk.app.test_client()
    login = ("agent@acme.example/token", zendesk.api_token)
    for mode, status in (("down", 503), ("healthy", 422)):  # a switch does not disarm it
        client.post("/_sandbox/switch", data={"place": "zendesk", "mode": mode})
        assert "Armed: refuses the next post" in client.get("/").text
        assert ticketing.post("/api/v2/tickets", json={}, auth=login).status_code == status
    assert "Refuse the next post" in client.get("/").text


def test_a_refusal_that_has_happened_is_said(client: FlaskClient, zendesk: FakeZendesk) -> None:
    client.post("/_sandbox/refuse")
    login = ("agent@acme.example/token", zendesk.api_token)
    assert zendesk.app.test_client().post("/api/v2/tickets", json={}, auth=login).status_code == 422
    assert "Zendesk has refused that post" in answer(client)


def test_rules_and_messages_are_answered_by_where_they_went(
    client: FlaskClient, slack: FakeSlack, receiver: FakeReceiver
) -> None:
    slack.add_channel("social-crisis")
    client.post("/inbox/rule")
    assert "It is on its way to Slack #social-crisis." in answer(client)
    post_in_slack(slack, "#social-crisis", "https://x.example/1")
    assert "The rule Product recall found a post: Slack #social-crisis has it." in answer(client)
    for status, said in (("ERROR", "LinkedIn refused the message."), ("PUBLISHED", "The message is live on LinkedIn.")):
        client.post("/inbox/publish", data={"status": status})
        assert said in answer(client)
    client.post("/inbox/send")
    assert "Facebook took the message. It is on its way to the webhook" in answer(client)


def test_a_switch_is_answered_by_how_the_service_behaves_now(client: FlaskClient) -> None:
    client.post("/_sandbox/switch", data={"place": "zendesk", "mode": "down"})
    assert "Zendesk answers 503 to everything." in answer(client)
    client.post("/_sandbox/switch", data={"place": "zendesk", "mode": "healthy"})
    assert "Zendesk works again. Nothing waits." in answer(client)


def test_an_agent_solves_a_ticket(client: FlaskClient, zendesk: FakeZendesk) -> None:
    make_ticket(zendesk, "twitter:1")
    assert client.post("/agent/tickets/1001/status", data={"status": "solved"}).status_code == 303
    assert zendesk.tickets[0].status == "solved" and "Ticket #1001 is solved in Zendesk." in answer(client)
    wrong: tuple[tuple[str, dict[str, str]], ...] = (
        ("1001", {"status": "asleep"}),
        ("7", {"status": "solved"}),
        ("1001", {}),
    )
    for ticket, form in wrong:
        assert client.post(f"/agent/tickets/{ticket}/status", data=form).status_code == 404


def test_a_rule_finds_a_new_post_and_messages_are_published_and_sent(client: FlaskClient, khoros: FakeKhoros) -> None:
    client.post("/inbox/rule")
    client.post("/inbox/publish", data={"status": "ERROR"})
    assert 'LinkedIn</span><span class="chip bad">error' in client.get("/").text
    client.post("/inbox/send")
    assert [post["text"] for post in khoros.posts.values()].count(RECALL) == 1
    refused, sent = khoros.messages.values()
    assert refused["publicationResults"][0]["status"] == "ERROR" and sent["service"] == "FACEBOOK"
    page = client.get("/").text
    assert "sent to the network" in page and RULE in page


# The tabs


def post_in_slack(slack: FakeSlack, channel: str, link: str, **more: object) -> None:
    link_part = {"type": "link", "url": link, "text": "Open the post"}
    section = {"type": "rich_text_section", "elements": [{"type": "text", "text": EVIL}, link_part]}
    body = {"channel": channel, "text": "x", "blocks": [{"type": "rich_text", "elements": [section]}], **more}
    login = {"Authorization": f"Bearer {slack.bot_token}"}
    assert slack.app.test_client().post("/api/chat.postMessage", json=body, headers=login).get_json()["ok"]


def test_each_destination_has_a_tab_with_its_own_switches(client: FlaskClient) -> None:
    pages = {path: client.get(path).text for path in ("/", "/tab/slack", "/tab/webhook")}
    assert all(page.count('aria-current="page"') >= 1 for page in pages.values())
    assert "Refusing logins" in pages["/"] and "0 tickets" in pages["/"]
    assert "Token revoked" in pages["/tab/slack"] and "# social-care" in pages["/tab/slack"]
    assert "Other secret" in pages["/tab/webhook"] and "0 webhooks" in pages["/tab/webhook"]
    assert client.get("/tab/teams").status_code == 404


def test_slack_shows_the_channel_with_the_newest_message_or_the_chosen_one(
    client: FlaskClient, slack: FakeSlack
) -> None:
    crisis = slack.add_channel("social-crisis")
    post_in_slack(slack, "#social-care", "https://x.example/1")
    assert "No message yet." in client.get(f"/tab/slack/{crisis.id}").text
    post_in_slack(slack, "#social-crisis", "https://x.example/2")
    page = client.get("/tab/slack").text
    assert f'href="/tab/slack/{crisis.id}" data-open="slack" aria-current="page"' in page
    assert EVIL not in page and "&lt;script&gt;alert(1)" in page
    missing = client.get("/tab/slack/C99999999")
    assert (missing.status_code, "There is no such channel." in missing.text) == (404, True)


def test_a_post_leads_to_its_line_in_slack(client: FlaskClient, khoros: FakeKhoros, slack: FakeSlack) -> None:
    post = next(iter(khoros.posts.values()))
    assert 'id="told-' not in client.get("/").text
    post_in_slack(slack, "#social-care", post["link"])
    care = slack.messages[0].channel
    assert f'id="told-{care}-{post["entityId"]}" href="/tab/slack/{care}#slack"' in client.get("/").text


def test_a_button_leads_back_to_the_tab_it_was_pressed_in(client: FlaskClient) -> None:
    form = {"place": "slack", "mode": "down"}
    pressed = client.post("/_sandbox/switch", data=form, headers={"Referer": "http://localhost/tab/slack"})
    assert pressed.headers["Location"] == "/tab/slack"
    foreign = client.post("/_sandbox/switch", data=form, headers={"Referer": "http://localhost//evil.example/x"})
    assert foreign.headers["Location"] == "/evil.example/x"


def test_slacks_own_page_shows_the_same(slack: FakeSlack) -> None:
    post_in_slack(slack, "#social-care", "https://x.example/1")
    post_in_slack(slack, "#social-care", "https://x.example/2", thread_ts=slack.messages[0].ts)
    client, message = slack.app.test_client(), slack.messages[0]
    page = client.get("/")
    assert "1 reply in the thread" in page.text and EVIL not in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    permalink = f"/archives/{message.channel}/p{message.ts.replace('.', '')}"
    assert client.get(permalink).status_code == 200 and client.get("/archives/C99999999").status_code == 404


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
    switch = zendesk_switch(desk.zendesk)
    switch.turn(mode)
    assert (desk.list_tickets().status_code, desk.log_in().status_code) == (ticketing, login)
    assert desk.zendesk.latency_s == (0.01 if mode == "slow" else 0)
    switch.turn("healthy")
    state = desk.zendesk.state()
    assert (state["latency_s"], state["faults"], state["rate"]["per_minute"]) == (0, [], None)
    assert desk.log_in().status_code == 201


def test_the_limit_is_counted_in_windows_of_ten_seconds(desk: Desk, clock: Clock) -> None:
    zendesk_switch(desk.zendesk).turn("rate limited")
    taken = [desk.list_tickets().status_code for _ in range(CALLS_PER_WINDOW + 1)]
    assert taken == [200] * CALLS_PER_WINDOW + [429]
    clock.advance(4)
    assert desk.list_tickets().headers["Retry-After"] == "6"
    clock.advance(6)
    assert desk.list_tickets().status_code == 200


def test_there_is_no_other_switch(zendesk: FakeZendesk) -> None:
    switch = zendesk_switch(zendesk)
    with pytest.raises(KeyError):
        switch.turn("asleep")
    assert list(switch.modes) == ["healthy", "slow", "rate limited", "down", "refusing logins"]


# The switches of Slack and of the receiver


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("healthy", (200, True, None)),
        ("slow", (200, True, None)),
        ("down", (503, False, "fatal_error")),
        ("archived", (200, False, "is_archived")),
        ("token revoked", (200, False, "token_revoked")),
    ],
)
def test_a_switch_of_slack_does_what_it_says(
    slack: FakeSlack, mode: str, answer: tuple[int, bool, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def post() -> tuple[int, bool, str | None]:
        body, login = {"channel": "#social-care", "text": "x"}, {"Authorization": f"Bearer {slack.bot_token}"}
        got = slack.app.test_client().post("/api/chat.postMessage", json=body, headers=login)
        return got.status_code, got.get_json()["ok"], got.get_json().get("error")

    monkeypatch.setattr("sandbox.modes.SLOW_S", 0.01)
    switch = slack_switch(slack, "social-care")
    switch.turn(mode)
    assert post() == answer and slack.latency_s == (0.01 if mode == "slow" else 0)
    switch.turn("healthy")
    assert post() == (200, True, None) and slack.latency_s == 0


@pytest.mark.parametrize(("mode", "status"), [("healthy", 401), ("down", 503), ("other secret", 401)])
def test_a_switch_of_the_receiver_does_what_it_says(receiver: FakeReceiver, mode: str, status: int) -> None:
    secret, switch = receiver.secret, webhook_switch(receiver)
    switch.turn(mode)
    assert receiver.app.test_client().post("/hooks/khoros", json={}).status_code == status
    assert (receiver.secret == secret) == (mode != "other secret")
    switch.turn("healthy")
    assert receiver.secret == secret and receiver.faults.state()["faults"] == []


def test_a_switch_that_is_not_there_changes_nothing(slack: FakeSlack) -> None:
    switch: Switch = slack_switch(slack, "social-care")
    switch.turn("down")
    with pytest.raises(KeyError):
        switch.turn("asleep")
    assert switch.mode.name == "down" and slack.faults.state()["faults"]


# What it says


ALL = {"zendesk", "slack", "webhook"}


def health(*places: Place, waiting: int = 5, parked: int = 0, delivered: int = 1) -> Health:
    return Health(True, True, True, places, Counts(waiting, delivered, parked))


@pytest.mark.parametrize(
    ("now", "killed", "healthy", "said"),
    [
        (Health(running=False), True, ALL, "The relay is dead. Khoros cannot reach it."),
        (Health(running=False, counts=Counts(201)), True, ALL, "dead. 201 posts are safe in its database."),
        (Health(running=False), False, ALL, "The relay has stopped."),
        (Health(running=True), False, ALL, "is starting"),
        (Health(running=True, answers=True), False, ALL, "is starting"),
        (health(Place("zendesk", "outage")), False, ALL - {"zendesk"}, "Zendesk does not answer"),
        (health(Place("zendesk", "limited")), False, ALL - {"zendesk"}, "Zendesk takes no more"),
        (health(Place("slack:#a", "unauthorised")), False, ALL - {"slack"}, "Slack #a refuses the relay"),
        (health(Place("webhook:x/1", "refusing")), False, ALL - {"webhook"}, "The webhook's receiver refuses every"),
        (health(Place("zendesk", "outage")), False, ALL, "Zendesk works again"),
        (health(Place("zendesk", "outage"), Place("slack:#a", "outage")), False, {"zendesk"},
         "Slack #a does not answer"),
        (health(Place("zendesk", "open", pending=2), Place("slack:#a", "open", pending=3)), False, ALL,
         "On their way to Zendesk and Slack #a."),
        (health(Place("webhook:x/1", "open", pending=5)), False, ALL, "On their way to the webhook's receiver."),
        (health(waiting=0, parked=1), False, ALL, "It needs attention:"),
        (health(waiting=0), False, ALL, "All well. Everything has arrived."),
        (health(waiting=0, delivered=0), False, ALL, "Give a post the label CreateCase"),
    ],
)  # fmt: skip
def test_a_sentence_says_how_things_are(now: Health, killed: bool, healthy: set[str], said: str) -> None:
    assert said in story(now, killed, healthy, "CreateCase")[1]


def test_one_truth_has_one_colour() -> None:
    tones = {"open": "", "outage": "wait", "limited": "wait", "unauthorised": "bad", "refusing": "bad"}
    for state, tone in tones.items():
        now = health(Place("zendesk", state), waiting=0)
        assert now.of("zendesk") == (0, tone)
        assert story(now, False, set(), "CreateCase")[0] == tone or not tone
    assert health(Place("zendesk", "open", pending=2)).of("zendesk") == (2, "wait")


def test_a_log_line_is_taken_apart() -> None:
    line = r'at=warning event=not_delivered post=twitter:34 reason="said \"no\" = C:\\x" status=503'
    assert read_line(4, line) == LogLine(
        4, "warning", "not_delivered", [("post", "twitter:34"), ("reason", r'said "no" = C:\x'), ("status", "503")]
    )
    assert read_line(5, "Traceback <most recent>") == LogLine(5, "info", "Traceback <most recent>", [])


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        ("at=info event=request method=GET path=/health client=127.0.0.1 status=200 took_ms=2", True),
        ("at=info event=request method=GET path=/metrics status=200 took_ms=2", True),
        ("at=info event=request method=GET path=/static/style.css status=200 took_ms=2", True),
        ('at=info event=message logger=gunicorn.error message="Booting worker with pid: 9"', True),
        ('at=error event=message logger=gunicorn.error message="Worker exited"', False),
        ("at=info event=request method=POST path=/notifications status=202 took_ms=2", False),
        ('at=info event=parked reason="path=/health "', False),
    ],
)
def test_what_tells_nothing_about_a_post_is_left_out(line: str, noise: bool) -> None:
    assert is_noise(line) is noise


def test_a_name_has_the_same_face_in_every_run() -> None:
    assert portrait("Mara Lindqvist") == (98, "#a06b48", "#4d3425", 3)
    assert portrait("\ud800").hue < 360
