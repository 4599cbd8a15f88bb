"""Which alerts people get, and when: one for each subject and hour, one at its end; no delivery waits for any."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    AUTHOR,
    TEXT,
    TOKEN,
    Clock,
    events,
    fields_of,
    new_item,
    new_post,
    new_settings,
    new_subscriptions,
    notification,
    relay_of,
    sqlite_unless_asked,
    wait_for,
)
from flask import Flask
from steps import move_gate, park

from app import Settings
from config import Config
from events import LABEL_APPLIED, RULE_APPLIED
from inbox import open_database
from inbox.database import Database, DatabaseUnavailable
from inbox.facts import Facts, read_tolerantly
from inbox.gate import LIMITED, OPEN, OUTAGE, REFUSING, UNAUTHORISED, Gate
from inbox.inbox import Inbox
from inbox.items import Counts, NewItem
from inbox.records import Records
from khoros.catch_up import CatchUpStatus
from khoros.subscription import (
    DELETED,
    FAILED,
    LOGIN_REFUSED,
    NO_ADDRESS,
    PAUSED,
    STARTING,
    SUBSCRIBED,
    WRONG_COMPANY,
    SubscriptionStatus,
    status_fact,
)
from operations.alerts import (
    ALERT_TURN_S,
    COVERED,
    DEPLOY_S,
    FIRST_RETRY_S,
    LONGEST_PAUSE_S,
    LONGEST_RETRY_S,
    MENDED_S,
    QUIET_S,
    SUBJECTS_AT_ONCE,
    Alerted,
    Alerts,
    Problem,
    find_news,
    find_problems,
    post_text,
)
from operations.health import KHOROS_MAY_FAIL_S, Health, current_health
from outbound import TIMEOUT_S, Answer, Unavailable
from sandbox.server import Dropped, Server
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

NOW = 1_700_000_000.0
SECRET_URL = "https://hooks.example/services/T0/B0/made-up-webhook-secret"
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


# What is wrong


def health(
    *,
    waiting: int = 0,
    parked: int = 0,
    oldest_s: float | None = None,
    gates: Mapping[str, Gate] | None = None,
    others: Mapping[str, Counts] | None = None,
    state: str = SUBSCRIBED,
    detail: str = "",
    rules: SubscriptionStatus | None = None,
    polls: Mapping[str, CatchUpStatus] | None = None,
    mended_at: float = 0.0,
) -> Health:
    """The health of a service in which all is well, except for what is given: for Zendesk, and for `others`."""
    subscriptions = {LABEL_APPLIED: SubscriptionStatus(state, detail), **({RULE_APPLIED: rules} if rules else {})}
    return Health(
        gates=gates or {"zendesk": Gate(OPEN)},
        waiting={**({"zendesk": Counts(waiting, parked, oldest_s)} if waiting or parked else {}), **(others or {})},
        subscriptions=subscriptions,
        polls=polls or {},
        mended_at=mended_at,
        late_s=600.0,
        now=NOW,
    )


def zendesk_is(state: str, reason: str) -> dict[str, Gate]:
    return {"zendesk": Gate(state, reason)}


CRISIS, OTHER = "slack:#Crisis", "slack:#other"
TWO_REFUSE = {"zendesk": Gate(UNAUTHORISED, "401"), CRISIS: Gate(REFUSING, "Slack answered invalid_blocks")}
REVOKED = Gate(UNAUTHORISED, "Slack answered token_revoked")
FAILING = CatchUpStatus(failed="Khoros answered 500", failing_since=NOW - 500)
LATE: dict[str, Any] = {"waiting": 9, "oldest_s": 900.0}
BOTH_LATE = {CRISIS: Counts(9, 0, 900.0), OTHER: Counts(1, 0, 700.0)}
LOST = "labels make no tickets now; label those posts again afterwards."
WRONG: dict[str, tuple[Health, dict[str, str]]] = {
    "all is well": (health(), {}),
    "it is starting": (health(state=STARTING), {}),
    "deleted by command": (health(state=DELETED, detail="deleted by command"), {}),
    "one is parked": (
        health(parked=1),
        {"zendesk_parked": "1 post needs attention: Zendesk did not take it."},
    ),
    "many are parked": (
        health(parked=1234),
        {"zendesk_parked": "1,234 posts need attention: Zendesk did not take them."},
    ),
    "what cannot be read": (
        health(others={"": Counts(0, 2, None)}),
        {"_parked": "2 posts need attention: nobody can read them."},
    ),
    "one waits not long": (health(waiting=1, oldest_s=600.0), {}),
    "one waits long": (
        health(waiting=1, oldest_s=661.0),
        {
            "zendesk_waiting": "Zendesk works, but 1 post waits here, the oldest for 11 min. Open the one that waits "
            "longest: its timeline shows why."
        },
    ),
    "an outage that is young": (health(waiting=9, oldest_s=5.0, gates=zendesk_is(OUTAGE, "503")), {}),
    "an outage that lasts": (
        health(**LATE, gates=zendesk_is(OUTAGE, "Zendesk answered 503.")),
        {"zendesk_waiting": "9 posts wait here, the oldest for 15 min. Zendesk answered 503. The relay tries again"},
    ),
    "limited for long": (
        health(**LATE, gates=zendesk_is(LIMITED, "429")),
        {"zendesk_waiting": "Zendesk takes no more calls at the moment: 9 posts"},
    ),
    "one of two destinations is down": (
        health(
            waiting=4,
            oldest_s=20.0,
            gates={"zendesk": Gate(OPEN), CRISIS: Gate(OUTAGE)},
            others={CRISIS: Counts(9, 0, 900.0)},
        ),
        {"slack_waiting": "Slack #Crisis does not work at the moment: 9 posts wait here, the oldest for 15 min."},
    ),
    "both destinations are down": (
        health(
            waiting=4,
            oldest_s=700.0,
            gates={"zendesk": Gate(OUTAGE, "503"), CRISIS: Gate(OUTAGE)},
            others={CRISIS: Counts(9, 0, 900.0)},
        ),
        {"zendesk_waiting": "4 posts wait", "slack_waiting": "9 posts wait"},
    ),
    "two channels of one Slack that is down": (
        health(gates={CRISIS: Gate(OUTAGE), OTHER: Gate(OUTAGE)}, others=BOTH_LATE),
        {"slack_waiting": "Slack #Crisis"},
    ),
    "two web addresses are two services": (
        health(
            gates={"webhook:a/1": Gate(OUTAGE), "webhook:b/2": Gate(OUTAGE)},
            others=dict.fromkeys(("webhook:a/1", "webhook:b/2"), Counts(1, 0, 900.0)),
        ),
        {"webhook:a/1_waiting": "Webhook a/1", "webhook:b/2_waiting": "Webhook b/2"},
    ),
    "two destinations, one refusal": (
        health(parked=1, gates=dict(TWO_REFUSE, zendesk=Gate(OPEN)), others={CRISIS: Counts(0, 2, None)}),
        {
            "zendesk_parked": "1 post needs attention: Zendesk did not take it.",
            f"{CRISIS}_parked": "2 posts need attention: Slack #Crisis did not take them.",
            "refusal: Slack answered invalid_blocks": "Slack #Crisis refuses every post: new posts wait here.",
        },
    ),
    "credentials refused": (
        health(waiting=1, gates=zendesk_is(UNAUTHORISED, "Zendesk answered 401 to ZENDESK_CLIENT_ID")),
        {
            "refusal: Zendesk answered # to ZENDESK_CLIENT_ID": "Zendesk refuses the login: new posts wait here. "
            "Zendesk answered 401 to ZENDESK_CLIENT_ID. Copy Identifier"
        },
    ),
    "two destinations refuse us": (
        health(gates=TWO_REFUSE),
        {"refusal: #": "401.", "refusal: Slack answered invalid_blocks": "invalid_blocks."},
    ),
    "one token of two channels is refused": (
        health(gates={CRISIS: REVOKED, OTHER: REVOKED}),
        {"refusal: Slack answered token_revoked": "Slack answered token_revoked."},
    ),
    "no line leads there any more": (
        health(others={"slack:#old": Counts(2, 1, 900.0)}),
        {"slack:#old_abandoned": "3 posts wait for Slack #old, but no route leads there."},
    ),
    "Khoros refuses us": (
        health(state=LOGIN_REFUSED, detail="Developer Inactive", rules=SubscriptionStatus(LOGIN_REFUSED, "401")),
        {"khoros": f"Khoros refuses the access token: {LOST} Developer Inactive. Sign in to Khoros"},
    ),
    "the company is another one": (
        health(state=WRONG_COMPANY, detail="SPREDFAST_COMPANY_ID 9 is no company of the access token"),
        {"khoros": f"SPREDFAST_COMPANY_ID is none of the access token's companies: {LOST} SPREDFAST_COMPANY_ID 9 "},
    ),
    "not subscribed": (
        health(state=FAILED, detail="Khoros answered 500", rules=SubscriptionStatus(FAILED, "Khoros answered 500")),
        {"khoros": "The connection to Khoros does not work: labels and rules make no tickets now"},
    ),
    "no address": (health(state=NO_ADDRESS, detail="set PUBLIC_URL"), {"khoros": f"{LOST} set PUBLIC_URL."}),
    "paused": (
        health(state=PAUSED, detail="a person paused it"),
        {"khoros_paused": f"The subscription in Khoros is paused: {LOST} a person paused it."},
    ),
    "each fails in its own way": (
        health(state=FAILED, detail="500", rules=SubscriptionStatus(PAUSED, "a person paused it")),
        {"khoros": f"{LOST} 500.", "khoros_paused": "rules make no tickets now"},
    ),
    "a poll fails": (
        health(polls={LABEL_APPLIED: FAILING, RULE_APPLIED: CatchUpStatus()}),
        {"khoros": "Missed labels cannot be fetched from Khoros. Khoros answered 500. Try again"},
    ),
    "a poll has just failed": (
        health(polls={LABEL_APPLIED: replace(FAILING, failing_since=NOW - 5)}),
        {},
    ),
    "a poll and the subscription fail": (
        health(state=FAILED, detail="polling fails: 500", polls={LABEL_APPLIED: FAILING}),
        {"khoros": "polling fails: 500"},
    ),
    "made anew": (health(mended_at=NOW - 5), {"lost_events": "label those posts again"}),
    "made anew long ago": (health(mended_at=NOW - MENDED_S), {}),
    "made anew in a future that was taken back": (health(mended_at=NOW + 5), {}),
    "all at once": (
        health(parked=1, gates=zendesk_is(UNAUTHORISED, "401"), state=LOGIN_REFUSED, detail="401", **LATE),
        {"zendesk_parked": "", "refusal: #": "", "khoros": ""},
    ),
}


@pytest.mark.parametrize(("now", "wanted"), WRONG.values(), ids=WRONG.keys())
def test_each_cause_is_one_problem(now: Health, wanted: dict[str, str]) -> None:
    found = find_problems(now)
    assert {subject for subject, problem in found.items() if problem.after_s != COVERED} == set(wanted)
    assert not [text for subject, text in wanted.items() if text not in found[subject].text]


@pytest.mark.parametrize(
    ("gate", "is_explained"),
    [
        (Gate(UNAUTHORISED, "401"), True),
        (Gate(REFUSING, "422"), True),
        (Gate(OPEN, held_at=NOW - 599), True),
        (Gate(OPEN, held_at=NOW - 600), False),
        (Gate(OPEN, held_at=NOW + 5), False),
        (Gate(OUTAGE, held_at=NOW - 5), False),
    ],
    ids=["refused", "refusing", "just opened", "open for long", "a clock set back", "an outage"],
)
def test_posts_that_wait_are_no_second_alert_where_a_refusal_explains_it(gate: Gate, is_explained: bool) -> None:
    problem = find_problems(health(**LATE, gates={"zendesk": gate}))["zendesk_waiting"]
    assert (problem.after_s == COVERED) == is_explained


def test_a_refused_post_is_no_second_alert_and_not_over_while_all_are_refused() -> None:
    before = {"zendesk_parked": Alerted(NOW - 60, NOW - 60, 1, "Over: 1 post needs attention")}
    refusing = health(waiting=5, gates=zendesk_is(REFUSING, "Zendesk answered 422"))
    [text] = [text for text, _ in find_news(find_problems(refusing), before, NOW).values() if text]
    assert text.startswith("Zendesk refuses every post: new posts wait here. Zendesk answered 422.")


def test_a_late_channel_is_not_hidden_by_one_that_refuses_us() -> None:
    for gates in ({CRISIS: REVOKED, OTHER: Gate(OUTAGE)}, {OTHER: Gate(OUTAGE), CRISIS: REVOKED}):
        problem = find_problems(health(gates=gates, others=BOTH_LATE))["slack_waiting"]
        assert "Slack #other" in problem.text and problem.after_s == 0


def test_what_khoros_sends_again_is_promised_only_where_it_is_fetched() -> None:
    failing = health(state=FAILED, detail="500")
    known = replace(failing, subscriptions={LABEL_APPLIED: SubscriptionStatus(FAILED, "500", uuid="u")})
    assert "what is missed is fetched afterwards" in find_problems(known, refetches=True)["khoros"].text
    assert "label those posts again" in find_problems(known)["khoros"].text


# What is sent when: each step is (seconds since the start, the problems, the texts that are sent)

LASTING = {"waiting": Problem("late")}
PARKED_ONE, PARKED_TWO, PARKED_NINE = ({"parked": Problem(str(count), level=count)} for count in (1, 2, 9))
SLOW = {"subscription": Problem("failed", after_s=120.0)}
GONE = {"lost_events": Problem("gone", level=100, lasts=False)}
GONE_AGAIN = {"lost_events": Problem("gone again", level=900, lasts=False)}
Problems = Mapping[str, Problem]
COURSES: dict[str, list[tuple[float, Problems, list[str]]]] = {
    "nothing is sent while all is well": [(0, {}, []), (5, {}, [])],
    "sent once and again after an hour while it lasts": [
        (0, LASTING, ["late"]),
        (5, LASTING, []),
        (3599, LASTING, []),
        (3600, LASTING, ["late"]),
        (3605, LASTING, []),
        (7200, LASTING, ["late"]),
    ],
    "one message when it is well again": [
        (0, LASTING, ["late"]),
        (60, {}, ["Over: late."]),
        (65, {}, []),
        (9999, {}, []),
    ],
    "what flaps is sent once an hour": [
        (0, LASTING, ["late"]),
        (10, {}, ["Over: late."]),
        (20, LASTING, []),
        (30, {}, []),
        (40, LASTING, []),
        (3599, LASTING, []),
        (3600, LASTING, ["late"]),
        (3610, {}, ["Over: late."]),
    ],
    "what was never sent is not taken back": [(0, SLOW, []), (119, SLOW, []), (119.5, {}, []), (200, {}, [])],
    "what must last is sent when it has lasted": [
        (0, SLOW, []),
        (120, SLOW, ["failed"]),
        (125, {}, ["Over: failed."]),
    ],
    "what must last begins anew when it was well between": [
        (0, SLOW, []),
        (60, {}, []),
        (70, SLOW, []),
        (130, SLOW, []),
        (190, SLOW, ["failed"]),
    ],
    "parked is sent again only when more are parked": [
        (0, PARKED_TWO, ["2"]),
        (3600, PARKED_TWO, []),
        (9999, PARKED_ONE, []),
        (10_000, PARKED_TWO, ["2"]),
        (10_005, PARKED_NINE, []),
        (13_600, PARKED_NINE, ["9"]),
        (99_999, PARKED_NINE, []),
        (100_000, {}, ["Over: 9."]),
    ],
    "subjects do not delay each other": [
        (0, LASTING, ["late"]),
        (5, LASTING | PARKED_ONE, ["1"]),
        (10, PARKED_ONE, ["Over: late."]),
        (3600, LASTING | PARKED_ONE, ["late"]),
    ],
    "a second loss is sent too, when the hour is over": [
        (0, GONE, ["gone"]),
        (5, GONE, []),
        (800, GONE_AGAIN, []),
        (3600, GONE_AGAIN, ["gone again"]),
        (3605, GONE_AGAIN, []),
        (9999, {}, []),
    ],
    "a clock set back sends it once more and goes on by the new time": [
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
    "a clock set forward sends it at once": [(0, SLOW, []), (86_400, SLOW, ["failed"])],
}


@pytest.mark.parametrize("course", COURSES.values(), ids=COURSES.keys())
def test_what_is_sent_in_the_course_of_time(course: list[tuple[float, Problems, list[str]]]) -> None:
    known: dict[str, Alerted] = {}
    for seconds, problems, wanted in course:
        news = find_news(problems, known, NOW + seconds)
        assert [text for text, _ in news.values() if text] == wanted, seconds
        known = {**known, **{subject: after for subject, (_, after) in news.items()}}
        known = {subject: read_tolerantly(json.dumps(asdict(a)), Alerted) for subject, a in known.items()}  # a restart


def test_what_people_know_and_lasts_is_no_news() -> None:
    [(_, after)] = find_news(LASTING, {}, NOW).values()
    assert find_news(LASTING, {"waiting": after}, NOW + 5) == {}


def test_a_subject_that_a_later_release_kept_breaks_nothing_after_a_rollback() -> None:
    assert find_news({}, {"of a later release": Alerted(sent_at=NOW, level=1)}, NOW) == {
        "of a later release": ("", Alerted(sent_at=NOW))
    }


# Sending


@dataclass
class Webhook:
    """Takes messages as Slack does, and answers what a test wants: a status, or an error to raise."""

    answer: int | Exception = 200
    taken: list[str] = field(default_factory=list)
    retry_after: str = ""
    tried: int = 0

    def __call__(self, url: str, text: str) -> Answer:
        self.tried += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        if 200 <= self.answer < 300:
            self.taken.append(text)
        return Answer(self.answer, {"Retry-After": self.retry_after})


@pytest.fixture
def settings(database_url: str) -> Settings:
    urls = {"alert_url": SECRET_URL, "public_url": "https://relay.example"}
    return new_settings(database_url=database_url, status_password="made-up-password", **urls)


@pytest.fixture
def webhook() -> Webhook:
    return Webhook()


NewAlerts = Callable[..., Alerts]


def alerts_of(config: Config, database: Database, *how: Any) -> Alerts:
    """The alerts of one process on this database, for Zendesk."""
    inbox, facts, records = Inbox(database), Facts(database), Records(database)
    look = partial(
        current_health, inbox, facts, records, new_subscriptions(config, database), ["zendesk"], config.alert_after_s
    )
    return Alerts(config, facts, records, look, *how)


@pytest.fixture
def new_alerts(config: Config, database: Database, webhook: Webhook, clock: Clock) -> NewAlerts:
    """Makes the alerts of one more process on the same database, with other settings or another webhook."""

    def make(post: Any = webhook, **changes: Any) -> Alerts:
        return alerts_of(replace(config, **changes), database, post, clock)

    return make


@pytest.fixture
def alerts(new_alerts: NewAlerts) -> Alerts:
    return new_alerts()


@pytest.fixture(autouse=True)
def nothing_private_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    for record in caplog.records:
        assert "made-up-webhook" not in record.getMessage() + str(getattr(record, "fields", ""))


@BOTH
def test_an_alert_says_what_is_wrong_and_what_to_do(
    inbox: Inbox, alerts: Alerts, webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    alerts.step()
    alerts.step()
    assert webhook.taken == [
        "Khoros to Zendesk relay (https://relay.example): 1 post needs attention: Zendesk did not take it. twitter:1: "
        "Zendesk answered 422. https://relay.example/status?state=parked"
    ]
    assert fields_of(caplog, "alerted") == {"level": logging.INFO, "subject": "zendesk_parked"}


@pytest.mark.parametrize(
    ("changes", "learned", "where"),
    [
        ({}, None, "https://relay.example/status"),
        ({"status_password": ""}, None, "/status (set STATUS_PASSWORD to switch this page on)"),
        ({"public_url": ""}, "https://app-1.herokuapp.com", "https://app-1.herokuapp.com/status"),
        ({"public_url": ""}, None, "Find out more with: flask --app app check"),
    ],
    ids=["configured", "page off", "learned", "unknown"],
)
def test_an_alert_leads_to_the_page_that_says_more(
    changes: Any, learned: str | None, where: str, facts: Facts, inbox: Inbox, new_alerts: NewAlerts, webhook: Webhook
) -> None:
    if learned:
        facts.remember("public_url", learned)
    move_gate(inbox, UNAUTHORISED, "Zendesk answered 401")
    new_alerts(**changes).step()
    assert webhook.taken[0].endswith(f". {where}" if "page on" not in where else where)


def test_a_relay_without_an_address_gives_its_name(inbox: Inbox, new_alerts: NewAlerts, webhook: Webhook) -> None:
    park(inbox)
    new_alerts(public_url="").step()
    assert webhook.taken[0].startswith("Khoros to Zendesk relay (send-to-zendesk): ")


def test_the_name_of_a_post_cannot_call_people(inbox: Inbox, alerts: Alerts, webhook: Webhook) -> None:
    park(inbox, post="x:<!channel>&")
    alerts.step()
    assert "it. x: !channel  : Zendesk answered 422. http" in webhook.taken[0]


def test_no_message_holds_a_customers_words(inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock) -> None:
    park(inbox)
    inbox.accept([NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    inbox.accept([NewItem("zendesk", "e3", "twitter:3", {"labels": [], "item": new_post("twitter:3")})])
    clock.advance(3600)
    alerts.step()
    [sent] = webhook.taken
    assert len(sent.splitlines()) == 3 and not [word for word in (TEXT, AUTHOR, "furious") if word in sent]


@pytest.fixture
def nowhere() -> Iterator[Database]:
    """A database that cannot be opened."""
    database = open_database("sqlite:////nowhere/at/all/relay.db")
    yield database
    database.close()


def test_without_a_webhook_nothing_is_sent_and_nothing_is_read(
    config: Config, nowhere: Database, webhook: Webhook
) -> None:
    alerts_of(replace(config, alert_url=""), nowhere, webhook).step()
    assert webhook.tried == 0


def test_waiting_is_reported_after_the_minutes_that_were_set(
    inbox: Inbox, new_alerts: NewAlerts, webhook: Webhook, clock: Clock
) -> None:
    alerts = new_alerts(alert_after_s=120.0)
    inbox.accept([new_item()])
    clock.advance(120)
    alerts.step()
    assert webhook.taken == []
    clock.advance(1)
    alerts.step()
    [text] = webhook.taken
    assert "1 post waits" in text and text.endswith(" twitter:1. https://relay.example/status?state=pending")


def test_the_end_of_a_problem_is_reported_once(inbox: Inbox, alerts: Alerts, webhook: Webhook) -> None:
    move_gate(inbox, UNAUTHORISED, "Zendesk answered 401")
    alerts.step()
    move_gate(inbox, "ticket_created")
    alerts.step()
    alerts.step()
    [said, over] = [text.partition("): ")[2] for text in webhook.taken]
    assert said.startswith("Zendesk refuses the login: new posts wait here. Zendesk answered 401.")
    assert over == "Over: Zendesk refuses the login: new posts wait here."


def test_every_loss_of_the_subscription_is_reported(
    facts: Facts, alerts: Alerts, webhook: Webhook, clock: Clock
) -> None:
    """People may have to label posts again: one message for two losses would lose posts."""
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus(FAILED, "Khoros answered 500"))
    alerts.step()
    clock.advance(KHOROS_MAY_FAIL_S)
    alerts.step()
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus(SUBSCRIBED))
    for _ in range(2):
        facts.remember("subscription_mended_at", str(clock.now))
        alerts.step()
        clock.advance(QUIET_S - 1)
        alerts.step()
        clock.advance(5)
    assert [text.partition("): ")[2][:13] for text in webhook.taken] == [
        "The connectio",
        "Over: The con",
        "A subscriptio",
    ]
    assert sum(text.count("What happened in the hour before") for text in webhook.taken) == 2


@BOTH
def test_two_processes_send_one_message(
    config: Config, database: Database, other_database: Database, webhook: Webhook
) -> None:
    park(Inbox(database))
    start = threading.Barrier(2)
    processes = [alerts_of(config, mine, webhook) for mine in (database, other_database)]

    def work(alerts: Alerts) -> None:
        start.wait(10)
        for _ in range(5):
            alerts.step()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, processes))
    assert len(webhook.taken) == 1


def test_another_processs_message_is_not_repeated_after_waiting_for_the_turn(
    inbox: Inbox, facts: Facts, new_alerts: NewAlerts, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    park(inbox)
    take_turn = facts.take_turn

    def late(name: str, for_s: float) -> bool:
        monkeypatch.setattr(facts, "take_turn", take_turn)
        new_alerts().step()
        return take_turn(name, for_s)

    monkeypatch.setattr(facts, "take_turn", late)
    new_alerts().step()
    assert len(webhook.taken) == 1


def test_a_turn_outlasts_a_webhook_that_hangs() -> None:
    assert 5 * sum(TIMEOUT_S) <= ALERT_TURN_S < QUIET_S and KHOROS_MAY_FAIL_S < QUIET_S < MENDED_S


def test_a_restart_repeats_nothing(inbox: Inbox, new_alerts: NewAlerts, webhook: Webhook, clock: Clock) -> None:
    park(inbox)
    new_alerts().step()
    clock.advance(60)
    inbox.retry([1])
    new_alerts().step()
    assert len(webhook.taken) == 2 and "Over: 1 post needs attention" in webhook.taken[1]


def test_what_comes_together_is_one_message_and_a_very_long_one_is_divided(
    inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock
) -> None:
    inbox.accept([new_item(f"e{n}", destination=f"slack:#{n}") for n in range(SUBJECTS_AT_ONCE + 2)])
    for _ in range(4):
        alerts.step()
        clock.advance(DEPLOY_S / 2)
    assert [text.count("no route leads there") for text in webhook.taken] == [SUBJECTS_AT_ONCE, 2]


# A webhook that fails

NO_ANSWER = Unavailable("hooks.example gave no answer in time")


def run_for(alerts: Alerts, clock: Clock, seconds: int) -> None:
    """Makes a step every five seconds, as the service does."""
    for _ in range(seconds // 5):
        alerts.step()
        clock.advance(5)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(status, f"ALERT_WEBHOOK_URL answered {status}") for status in (500, 302, 199)] + [(NO_ANSWER, str(NO_ANSWER))],
)
def test_a_webhook_that_fails_is_called_less_and_less_often(
    answer: int | Exception,
    reason: str,
    inbox: Inbox,
    alerts: Alerts,
    webhook: Webhook,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    park(inbox)
    move_gate(inbox, UNAUTHORISED, "Zendesk answered 401")
    webhook.answer = answer
    run_for(alerts, clock, 3600)
    assert webhook.tried == 7  # at 0, 30, 90, 210, 450, 930 and 1890 s
    logged = [record.__dict__["fields"] for record in caplog.records if record.message == "alert_failed"]
    assert [line["retry_s"] for line in logged] == [30, 60, 120, 240, 480, 960, 1920]
    assert {str(line["reason"]) for line in logged} == {reason}
    run_for(alerts, clock, 24 * 3600)
    assert webhook.tried in (31, 32)  # then once an hour


def test_a_webhook_that_works_again_gets_everything_and_starts_afresh(
    inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    move_gate(inbox, UNAUTHORISED, "Zendesk answered 401")
    webhook.answer = 500
    run_for(alerts, clock, 200)
    webhook.answer = 204
    run_for(alerts, clock, 15)
    assert len(webhook.taken) == 1 and len(webhook.taken[0].splitlines()) == 2
    webhook.answer = 500
    inbox.retry([1])
    alerts.step()
    failures = [record.__dict__["fields"]["retry_s"] for record in caplog.records if record.message == "alert_failed"]
    assert failures[-1] == FIRST_RETRY_S < failures[-2]


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"), [(1, FIRST_RETRY_S), (600, 600), (2 * LONGEST_RETRY_S, 7200), (10**8, LONGEST_PAUSE_S)]
)
def test_a_webhook_that_asks_for_a_pause_gets_it(
    retry_after_s: float, wait_s: float, inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock
) -> None:
    park(inbox)
    webhook.answer, webhook.retry_after = 429, f"{retry_after_s:.0f}"
    alerts.step()
    clock.advance(wait_s - 1)
    alerts.step()
    assert webhook.tried == 1
    clock.advance(1)
    alerts.step()
    assert webhook.tried == 2


@pytest.mark.parametrize("status", [404, 410])
def test_a_webhook_that_is_gone_is_not_called_again_until_a_restart(
    status: int,
    inbox: Inbox,
    alerts: Alerts,
    new_alerts: NewAlerts,
    webhook: Webhook,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    park(inbox)
    webhook.answer = status
    run_for(alerts, clock, 24 * 3600)
    assert webhook.tried == 1
    assert fields_of(caplog, "alerts_off") == {
        "level": logging.ERROR,
        "reason": f"ALERT_WEBHOOK_URL answered {status}: no alert is sent any more; make a new webhook, "
        "set ALERT_WEBHOOK_URL and restart the service",
    }
    webhook.answer = 200
    new_alerts().step()
    assert len(webhook.taken) == 1


def test_a_message_that_was_never_sent_is_not_taken_back(
    inbox: Inbox, alerts: Alerts, webhook: Webhook, clock: Clock
) -> None:
    park(inbox)
    webhook.answer = 500
    alerts.step()
    inbox.retry([1])
    webhook.answer = 200
    run_for(alerts, clock, 60)
    assert webhook.taken == []


def test_a_database_that_is_down_is_left_to_the_loop(config: Config, nowhere: Database, webhook: Webhook) -> None:
    with pytest.raises(DatabaseUnavailable):
        alerts_of(config, nowhere, webhook).step()


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


@pytest.fixture
def over_the_wire(new_alerts: NewAlerts, slack: Slack) -> Alerts:
    return new_alerts(post_text, alert_url=slack.url)  # type: ignore[attr-defined]


def test_the_message_is_slacks_json_and_nothing_else(inbox: Inbox, over_the_wire: Alerts, slack: Slack) -> None:
    park(inbox)
    over_the_wire.step()
    [body], [request] = slack.bodies, slack.requests
    assert set(body) == {"text"} and "1 post needs attention" in body["text"]
    assert (request["REQUEST_METHOD"], request["CONTENT_TYPE"]) == ("POST", "application/json")
    assert not [value for value in request.values() if TOKEN in str(value) or "made-up-khoros" in str(value)]


def test_no_redirect_is_followed(
    inbox: Inbox, over_the_wire: Alerts, slack: Slack, caplog: pytest.LogCaptureFixture
) -> None:
    park(inbox)
    slack.status, slack.location = 307, "/elsewhere"
    over_the_wire.step()
    assert [request["PATH_INFO"] for request in slack.requests] == ["/services/made-up-webhook"]
    assert str(fields_of(caplog, "alert_failed")["reason"]) == "ALERT_WEBHOOK_URL answered 307"


def test_a_webhook_that_drops_the_connection_or_is_not_there_raises_nothing(
    inbox: Inbox,
    new_alerts: NewAlerts,
    over_the_wire: Alerts,
    slack: Slack,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    park(inbox)
    slack.status = None
    over_the_wire.step()
    reason = "ALERT_WEBHOOK_URL (127.0.0.1) gave no answer: the connection was cut"
    assert str(fields_of(caplog, "alert_failed")["reason"]) == reason
    new_alerts(post_text, alert_url="http://127.0.0.1:9/made-up-webhook").step()
    slack.status = 200
    clock.advance(FIRST_RETRY_S)
    over_the_wire.step()
    assert events(caplog, "alert_failed", "alerted") == ["alert_failed", "alert_failed", "alerted"]


def test_deliveries_go_on_while_the_webhook_hangs(
    new_app: Callable[[Settings], Flask], database_url: str, zendesk: FakeZendesk, slack: Slack
) -> None:
    urls = {"alert_url": slack.url, "zendesk_url": zendesk.url}  # type: ignore[attr-defined]
    app = new_app(new_settings(database_url=database_url, **urls))
    relay = relay_of(app)
    relay.inbox.accept([NewItem("", "unreadable:1", "", {"unreadable": 1}, reason="no eventName")])
    slack.hangs.set()
    relay.deliveries["zendesk"].start()
    relay.retention.loop.start()
    try:
        assert slack.reached.wait(10)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = app.test_client().post("/notifications", json=notification("e1", "twitter:1"), headers=headers)
        assert answer.status_code == 202
        wait_for(lambda: relay.records.by_state()["delivered"] == 1)
        assert slack.hangs.is_set() and len(slack.bodies) == 1
        slack.hangs.clear()
        wait_for(lambda: relay.facts.recall("alerts"))
    finally:
        slack.hangs.clear()
        relay.retention.loop.stop()
        relay.deliveries["zendesk"].stop(10)
    assert [ticket.external_id for ticket in zendesk.tickets] == ["twitter:1"]
