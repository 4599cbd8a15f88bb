"""What people are told, and when: once a subject and hour, once when it is well, and never at a delivery's cost."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    AUTHOR,
    TEXT,
    TOKEN,
    Clock,
    compose,
    events,
    fields,
    new_config,
    new_item,
    new_post,
    notification,
    relay_of,
    sqlite_unless_asked,
    wait_for,
)
from flask import Flask

from alerts import MENDED_S, PATIENCE_S, QUIET_S, TURN_S, WELL, Alerts, Told, Trouble, due, troubles
from config import Config
from database import StoreUnavailable
from gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED, Gate
from inbox import Counts, Inbox, NewItem
from outbound import TIMEOUT_S, Answer, Unavailable
from sandbox.server import Dropped, Server
from sandbox.zendesk import FakeZendesk
from standing import Standing
from store import PARKED
from subscription import DELETED, FAILED, NO_ADDRESS, PAUSED, REFUSED, STARTING, SUBSCRIBED, Connection

pytestmark = pytest.mark.usefixtures("clean_log")

NOW = 1_700_000_000.0
SECRET_URL = "https://hooks.example/services/T0/B0/made-up-webhook-secret"
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


# What is amiss


def stands(
    *,
    waiting: int = 0,
    parked: int = 0,
    oldest_s: float | None = None,
    gate: Gate | None = None,
    state: str = SUBSCRIBED,
    detail: str = "",
    mended_at: float = 0.0,
) -> Standing:
    """How things stand; well, but for what is given."""
    counts = Counts(waiting, parked, oldest_s)
    return Standing(counts, gate or Gate(), 0.0, Connection(state, detail), mended_at, NOW)


AMISS: dict[str, tuple[Standing, dict[str, str]]] = {
    "all is well": (stands(), {}),
    "it is starting": (stands(state=STARTING), {}),
    "deleted by command": (stands(state=DELETED, detail="deleted by command"), {}),
    "one is parked": (stands(parked=1), {"parked": "1 post is parked"}),
    "many are parked": (stands(parked=1234), {"parked": "1,234 posts are parked"}),
    "one waits not long": (stands(waiting=1, oldest_s=600.0), {}),
    "one waits long": (
        stands(waiting=1, oldest_s=661.0),
        {"waiting": "1 post is waiting for a ticket, the oldest for 11"},
    ),
    "an outage that is young": (stands(waiting=9, oldest_s=5.0, gate=Gate(OUTAGE, "503")), {}),
    "an outage that lasts": (
        stands(waiting=9, oldest_s=900.0, gate=Gate(OUTAGE, "Zendesk answered 503.")),
        {"waiting": "Zendesk: outage. Zendesk answered 503. Nothing is lost"},
    ),
    "limited for long": (
        stands(waiting=9, oldest_s=900.0, gate=Gate(LIMITED, "429")),
        {"waiting": "Zendesk: limited. 429."},
    ),
    "an open gate": (stands(waiting=9, oldest_s=900.0), {"waiting": "inbox list --state pending. Nothing is lost"}),
    "credentials refused": (
        stands(gate=Gate(UNAUTHORISED, "Zendesk answered 401")),
        {"zendesk_credentials": "Zendesk answered 401. Find out more with: flask --app app check"},
    ),
    "Khoros refuses us": (
        stands(state=REFUSED, detail="Developer Inactive"),
        {"khoros_credentials": "Developer Inactive."},
    ),
    "not subscribed": (
        stands(state=FAILED, detail="Khoros answered 500"),
        {"subscription": "not subscribed in Khoros: Khoros"},
    ),
    "no address": (stands(state=NO_ADDRESS, detail="set PUBLIC_URL"), {"subscription": "set PUBLIC_URL"}),
    "paused": (stands(state=PAUSED, detail="a person paused it"), {"subscription": "Labels make no tickets: a person"}),
    "made anew": (stands(mended_at=NOW - 5), {"lost_labels": "label those again"}),
    "made anew long ago": (stands(mended_at=NOW - MENDED_S), {}),
    "made anew in a future that was taken back": (stands(mended_at=NOW + 5), {}),
    "all at once": (
        stands(parked=1, waiting=1, oldest_s=900.0, gate=Gate(UNAUTHORISED, "401"), state=REFUSED, detail="401"),
        {"parked": "", "waiting": "", "zendesk_credentials": "", "khoros_credentials": ""},
    ),
}


@pytest.mark.parametrize(("now", "wanted"), AMISS.values(), ids=AMISS.keys())
def test_what_is_amiss_is_said_by_subject(now: Standing, wanted: dict[str, str]) -> None:
    found = troubles(now, 600.0)
    assert set(found) == set(wanted)
    assert not [text for subject, text in wanted.items() if text not in found[subject].text]


def test_every_subject_has_words_for_when_it_is_well_again() -> None:
    assert set(WELL) == {subject for now, _ in AMISS.values() for subject in troubles(now, 600.0)}


# What is told when: each step is (seconds since the start, what is amiss, what is told)

LASTING, PARKED_ONE = {"waiting": Trouble("late")}, {"parked": Trouble("1", level=1, again=False)}
PARKED_TWO, PARKED_NINE = {"parked": Trouble("2", 2, again=False)}, {"parked": Trouble("9", 9, again=False)}
SLOW = {"subscription": Trouble("failed", after_s=120.0)}
GONE = {"lost_labels": Trouble("gone", level=100, again=False)}
GONE_AGAIN = {"lost_labels": Trouble("gone again", level=900, again=False)}
Found = Mapping[str, Trouble]
COURSES: dict[str, list[tuple[float, Found, list[str]]]] = {
    "nothing is told while all is well": [(0, {}, []), (5, {}, [])],
    "told once and again after an hour while it lasts": [
        (0, LASTING, ["late"]),
        (5, LASTING, []),
        (3599, LASTING, []),
        (3600, LASTING, ["late"]),
        (3605, LASTING, []),
        (7200, LASTING, ["late"]),
    ],
    "one message when it is well again": [
        (0, LASTING, ["late"]),
        (60, {}, [WELL["waiting"]]),
        (65, {}, []),
        (9999, {}, []),
    ],
    "what flaps is told once an hour": [
        (0, LASTING, ["late"]),
        (10, {}, [WELL["waiting"]]),
        (20, LASTING, []),
        (30, {}, []),
        (40, LASTING, []),
        (3599, LASTING, []),
        (3600, LASTING, ["late"]),
        (3610, {}, [WELL["waiting"]]),
    ],
    "what was never told is not taken back": [(0, SLOW, []), (119, SLOW, []), (119.5, {}, []), (200, {}, [])],
    "what must last is told when it has lasted": [
        (0, SLOW, []),
        (120, SLOW, ["failed"]),
        (125, {}, [WELL["subscription"]]),
    ],
    "what must last begins anew when it was well between": [
        (0, SLOW, []),
        (60, {}, []),
        (70, SLOW, []),
        (130, SLOW, []),
        (190, SLOW, ["failed"]),
    ],
    "parked is told again only when more are parked": [
        (0, PARKED_TWO, ["2"]),
        (3600, PARKED_TWO, []),
        (9999, PARKED_ONE, []),
        (10_000, PARKED_TWO, ["2"]),
        (10_005, PARKED_NINE, []),
        (13_600, PARKED_NINE, ["9"]),
        (99_999, PARKED_NINE, []),
        (100_000, {}, [WELL["parked"]]),
    ],
    "subjects do not hold each other up": [
        (0, LASTING, ["late"]),
        (5, LASTING | PARKED_ONE, ["1"]),
        (10, PARKED_ONE, [WELL["waiting"]]),
        (3600, LASTING | PARKED_ONE, ["late"]),
    ],
    "a second loss is told too, when the hour is over": [
        (0, GONE, ["gone"]),
        (5, GONE, []),
        (800, GONE_AGAIN, []),
        (3600, GONE_AGAIN, ["gone again"]),
        (3605, GONE_AGAIN, []),
        (9999, {}, []),
    ],
    "a clock set back tells it once more and goes on by the new time": [
        (0, LASTING, ["late"]),
        (-86_400, LASTING, ["late"]),
        (-86_395, LASTING, []),
        (-86_400 + 3600, LASTING, ["late"]),
    ],
    "a clock set back does not silence what must last": [
        (0, SLOW, []),
        (-86_400, SLOW, []),
        (-86_400 + 60, SLOW, []),
        (-86_400 + 120, SLOW, ["failed"]),
    ],
    "a clock set forward tells it at once": [(0, SLOW, []), (86_400, SLOW, ["failed"])],
}


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES.keys())
def test_what_is_told_in_the_course_of_time(course: list[tuple[float, Found, list[str]]]) -> None:
    kept: dict[str, Told] = {}
    for seconds, found, wanted in course:
        news = due(found, kept, NOW + seconds)
        assert [text for text, _ in news.values() if text] == wanted, seconds
        kept = {**kept, **{subject: told for subject, (_, told) in news.items()}}
        kept = {subject: Told(**json.loads(json.dumps(asdict(told)))) for subject, told in kept.items()}  # a restart


def test_what_has_been_told_and_lasts_is_no_news() -> None:
    [(_, told)] = due(LASTING, {}, NOW).values()
    assert due(LASTING, {"waiting": told}, NOW + 5) == {}


def test_a_subject_that_a_later_release_kept_breaks_nothing_after_a_rollback() -> None:
    assert due({}, {"of a later release": Told(told_at=NOW, level=1)}, NOW) == {
        "of a later release": ("", Told(told_at=NOW))
    }


# Sending


@dataclass
class Webhook:
    """Takes messages as Slack does, and answers what a test wants: a status, or an error to raise."""

    answer: int | Exception = 200
    taken: list[str] = field(default_factory=list)
    tried: int = 0

    def __call__(self, url: str, text: str) -> Answer:
        self.tried += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if 200 <= self.answer < 300:
            self.taken.append(text)
        return Answer(self.answer)


@pytest.fixture
def config(database_url: str) -> Config:
    return new_config(database_url=database_url, alert_url=SECRET_URL, public_url="https://relay.example")


@pytest.fixture
def webhook() -> Webhook:
    return Webhook()


@pytest.fixture
def alerts(config: Config, inbox: Inbox, webhook: Webhook) -> Alerts:
    return Alerts(config, inbox, webhook)


@pytest.fixture(autouse=True)
def nothing_private_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    for record in caplog.records:
        assert "made-up-webhook" not in record.getMessage() + str(getattr(record, "fields", ""))


def park(inbox: Inbox, event: str = "e1", post: str = "twitter:1") -> None:
    inbox.accept([NewItem(event, post, {"labels": [], "item": new_post(post)})])
    [item] = inbox.claim(1, 60, compose).items
    inbox.settle(item, {"state": PARKED, "reason": "Zendesk answered 422"}, lambda gate, now: gate)


@BOTH
def test_a_parked_post_is_told_with_what_to_do(
    inbox: Inbox, alerts: Alerts, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    alerts.step()
    alerts.step()
    assert webhook.taken == [
        "Khoros to Zendesk relay (https://relay.example): 1 post is parked: Zendesk refused the ticket, or what Khoros "
        "sent cannot be read. See why with: flask --app app inbox list"
    ]
    assert fields(caplog, "alerted") == {"level": logging.INFO, "subject": "parked"}


def test_a_relay_without_an_address_is_told_by_its_name(config: Config, inbox: Inbox, webhook: Webhook) -> None:
    park(inbox)
    Alerts(replace(config, public_url=""), inbox, webhook).step()
    assert webhook.taken[0].startswith("Khoros to Zendesk relay (send-to-zendesk): ")


def test_no_message_holds_a_customers_words(inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock) -> None:
    park(inbox)
    inbox.accept([NewItem("unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    inbox.accept([NewItem("e3", "twitter:3", {"labels": [], "item": new_post("twitter:3")})])
    clock.advance(3600)
    alerts.step()
    told = " ".join(webhook.taken)
    assert len(webhook.taken) == 2 and not [word for word in (TEXT, AUTHOR, "twitter", "furious") if word in told]


def test_without_a_webhook_nobody_is_told_and_nothing_is_asked(config: Config, webhook: Webhook) -> None:
    nowhere = Inbox("sqlite:////nowhere/at/all/relay.db")
    Alerts(replace(config, alert_url=""), nowhere, webhook).step()
    nowhere.close()
    assert webhook.tried == 0


def test_waiting_is_told_after_the_minutes_that_were_set(
    config: Config, inbox: Inbox, webhook: Webhook, clock: Clock
) -> None:
    alerts = Alerts(replace(config, alert_after_s=120.0), inbox, webhook)
    inbox.accept([new_item()])
    clock.advance(120)
    alerts.step()
    assert webhook.taken == []
    clock.advance(1)
    alerts.step()
    [told] = webhook.taken
    assert "1 post is waiting" in told


def test_it_is_told_once_when_it_is_well_again(inbox: Inbox, alerts: Alerts, webhook: Webhook) -> None:
    inbox.move_gate(lambda gate, now: Gate(UNAUTHORISED, "Zendesk answered 401"))
    alerts.step()
    inbox.move_gate(lambda gate, now: Gate(OPEN))
    alerts.step()
    alerts.step()
    assert [text.partition("): ")[2] for text in webhook.taken] == [
        "Zendesk answered 401. Find out more with: flask --app app check",
        "Zendesk takes the relay's credentials again.",
    ]


def test_every_loss_of_the_subscription_is_told(inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock) -> None:
    """What was labelled meanwhile may have to be labelled again: one message for two losses would lose posts."""
    inbox.remember("connection", json.dumps(asdict(Connection(FAILED, "Khoros answered 500"))))
    alerts.step()
    clock.advance(PATIENCE_S)
    alerts.step()
    inbox.remember("connection", json.dumps(asdict(Connection(SUBSCRIBED))))
    for _ in range(2):
        inbox.remember("subscription_mended_at", str(clock.now))
        alerts.step()
        clock.advance(QUIET_S - 1)
        alerts.step()
        clock.advance(5)
    told = [
        "not subscribed" in text or "label those again" in text or WELL["subscription"] in text
        for text in webhook.taken
    ]
    assert told == [True] * 4 and sum("label those again" in text for text in webhook.taken) == 2


@BOTH
def test_two_processes_send_one_message(config: Config, inbox: Inbox, other: Inbox, webhook: Webhook) -> None:
    park(inbox)
    start, processes = threading.Barrier(2), [Alerts(config, mine, webhook) for mine in (inbox, other)]

    def work(alerts: Alerts) -> None:
        start.wait(10)
        for _ in range(5):
            alerts.step()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, processes))
    assert len(webhook.taken) == 1


def test_what_another_process_told_while_ours_waited_its_turn_is_not_told_again(
    config: Config, inbox: Inbox, other: Inbox, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(inbox)
    mine, take_turn = Alerts(config, inbox, webhook), inbox.take_turn

    def late(name: str, for_s: float) -> bool:
        Alerts(config, other, webhook).step()
        return take_turn(name, for_s)

    monkeypatch.setattr(inbox, "take_turn", late)
    mine.step()
    assert len(webhook.taken) == 1


def test_a_turn_outlasts_a_webhook_that_hangs_for_every_subject() -> None:
    assert len(WELL) * sum(TIMEOUT_S) <= TURN_S < QUIET_S and PATIENCE_S < QUIET_S < MENDED_S


def test_a_restart_tells_nothing_twice(config: Config, inbox: Inbox, webhook: Webhook, clock: Clock) -> None:
    park(inbox)
    Alerts(config, inbox, webhook).step()
    clock.advance(60)
    inbox.retry([1])
    Alerts(config, inbox, webhook).step()
    assert len(webhook.taken) == 2 and WELL["parked"] in webhook.taken[1]


def test_a_process_that_ends_between_two_messages_repeats_none(
    config: Config, inbox: Inbox, webhook: Webhook, clock: Clock
) -> None:
    class Killed(BaseException):
        pass

    def kills_at_the_second(url: str, text: str) -> Answer:
        if webhook.taken:
            raise Killed
        return webhook(url, text)

    park(inbox)
    inbox.move_gate(lambda gate, now: Gate(UNAUTHORISED, "Zendesk answered 401"))
    with pytest.raises(Killed):
        Alerts(config, inbox, kills_at_the_second).step()
    clock.advance(TURN_S)
    Alerts(config, inbox, webhook).step()
    assert [("parked" in text, "401" in text) for text in webhook.taken] == [(True, False), (False, True)]


TROUBLE = [500, 404, 302, 199, Unavailable("hooks.example gave no answer (ReadTimeout)")]


@pytest.mark.parametrize("answer", TROUBLE, ids=["500", "404", "a redirect", "199", "no answer"])
def test_what_cannot_be_sent_is_logged_once_and_tried_until_it_can(
    answer: int | Exception, inbox: Inbox, alerts: Alerts, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    webhook.answer = answer
    for _ in range(3):
        alerts.step()
    said = str(answer) if isinstance(answer, Exception) else f"ALERT_WEBHOOK_URL answered {answer}"
    told = fields(caplog, "alert_failed")
    assert (told["level"], told["subject"], str(told["reason"])) == (logging.WARNING, "parked", said)
    webhook.answer = 204
    alerts.step()
    assert (webhook.tried, len(webhook.taken)) == (4, 1)
    webhook.answer = 500
    inbox.retry([1])
    alerts.step()
    assert events(caplog) == ["alert_failed", "alerted", "alert_failed"]


def test_a_message_that_was_never_sent_is_not_taken_back(inbox: Inbox, alerts: Alerts, webhook: Webhook) -> None:
    park(inbox)
    webhook.answer = 500
    alerts.step()
    inbox.retry([1])
    webhook.answer = 200
    alerts.step()
    assert webhook.taken == []


def test_a_subject_that_cannot_be_sent_does_not_keep_the_others_from_being(
    config: Config, inbox: Inbox, webhook: Webhook
) -> None:
    def picky(url: str, text: str) -> Answer:
        return Answer(500) if "parked" in text else webhook(url, text)

    park(inbox)
    inbox.move_gate(lambda gate, now: Gate(UNAUTHORISED, "Zendesk answered 401"))
    for _ in range(2):
        Alerts(config, inbox, picky).step()
    assert len(webhook.taken) == 1 and "401" in webhook.taken[0]


def test_a_store_that_is_down_is_for_the_loop_to_know(config: Config, webhook: Webhook) -> None:
    nowhere = Inbox("sqlite:////nowhere/at/all/relay.db")
    with pytest.raises(StoreUnavailable):
        Alerts(config, nowhere, webhook).step()
    nowhere.close()


# Over the wire


@dataclass
class Slack:
    """A webhook on a real port. While `hangs` is set no answer leaves; `status` None drops the connection."""

    status: int | None = 200
    location: str = ""
    hangs: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    bodies: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.requests.append(environ)
        self.bodies.append(json.loads(environ["wsgi.input"].read() or b"null"))
        self.reached.set()
        for _ in range(2000):
            if not self.hangs.is_set():
                break
            threading.Event().wait(0.01)
        if self.status is None:
            raise Dropped
        headers = [("Location", self.location)] if self.location else []
        start_response(f"{self.status} Status", [*headers, ("Content-Type", "text/plain")])
        return [b"ok"]


@pytest.fixture
def slack() -> Iterator[Slack]:
    fake = Slack()
    with Server(fake.app) as server:
        fake.url = f"{server.url}/services/made-up-webhook"  # type: ignore[attr-defined]
        yield fake
        fake.hangs.clear()


def to(config: Config, slack: Slack) -> Config:
    return replace(config, alert_url=slack.url)  # type: ignore[attr-defined]


def test_the_message_is_slacks_json_and_nothing_else(config: Config, inbox: Inbox, slack: Slack) -> None:
    park(inbox)
    Alerts(to(config, slack), inbox).step()
    [body], [request] = slack.bodies, slack.requests
    assert set(body) == {"text"} and "1 post is parked" in body["text"]
    assert (request["REQUEST_METHOD"], request["CONTENT_TYPE"]) == ("POST", "application/json")
    assert not [value for value in request.values() if TOKEN in str(value) or "made-up-khoros" in str(value)]


def test_no_redirect_is_followed(config: Config, inbox: Inbox, slack: Slack, caplog: pytest.LogCaptureFixture) -> None:
    park(inbox)
    slack.status, slack.location = 307, "/elsewhere"
    Alerts(to(config, slack), inbox).step()
    assert [request["PATH_INFO"] for request in slack.requests] == ["/services/made-up-webhook"]
    assert str(fields(caplog, "alert_failed")["reason"]) == "ALERT_WEBHOOK_URL answered 307"


def test_a_webhook_that_drops_the_connection_or_is_not_there_raises_nothing(
    config: Config, inbox: Inbox, slack: Slack, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    slack.status = None
    alerts = Alerts(to(config, slack), inbox)
    alerts.step()
    assert str(fields(caplog, "alert_failed")["reason"]) == "127.0.0.1 gave no answer (ConnectionError)"
    slack.status = 200
    alerts.step()
    assert events(caplog) == ["alert_failed", "alerted"]
    inbox.remember("alerts", "{}")
    Alerts(replace(config, alert_url="http://127.0.0.1:9/made-up-webhook"), inbox).step()
    assert events(caplog)[2:] == ["alert_failed"]


def test_deliveries_go_on_while_the_webhook_hangs(
    new_app: Callable[[Config], Flask], config: Config, zendesk: FakeZendesk, slack: Slack
) -> None:
    url = zendesk.url  # type: ignore[attr-defined]
    app = new_app(replace(to(config, slack), zendesk_url=url))
    relay = relay_of(app)
    relay.inbox.accept([NewItem("unreadable:1", "", {"unreadable": 1}, reason="no eventName")])
    slack.hangs.set()
    relay.delivery.start()
    relay.upkeep.loop.start()
    try:
        assert slack.reached.wait(10)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = app.test_client().post("/notifications", json=notification("e1", "twitter:1"), headers=headers)
        assert answer.status_code == 202
        wait_for(lambda: relay.records.by_state()["delivered"] == 1)
        assert slack.hangs.is_set() and len(slack.bodies) == 1
        slack.hangs.clear()
        wait_for(lambda: relay.inbox.recall("alerts"))
    finally:
        slack.hangs.clear()
        relay.upkeep.loop.stop()
        relay.delivery.stop(10)
        relay.upkeep.loop.join(10)
    assert [ticket.external_id for ticket in zendesk.tickets] == ["twitter:1"]
