"""The health of the service, and the part of it that strangers see at / and /health: states and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Clock, new_config, new_item, new_settings, new_subscriptions, relay_of, sqlite_unless_asked
from flask import Flask
from steps import move_gate, park

from app import Settings
from events import LABEL_APPLIED, MESSAGE_PUBLISHED, RULE_APPLIED
from inbox.database import Database
from inbox.facts import Facts
from inbox.gate import LIMITED, OPEN, OUTAGE, REFUSING, UNAUTHORISED, Gate
from inbox.inbox import Inbox
from inbox.items import Counts
from inbox.records import Records
from inbox.unrouted import UnroutedWord
from khoros.catch_up import CatchUpStatus
from khoros.subscription import (
    FAILED,
    LOGIN_REFUSED,
    NO_ADDRESS,
    PAUSED,
    STARTING,
    SUBSCRIBED,
    SubscriptionStatus,
    status_fact,
)
from operations.health import (
    BAD,
    GOOD,
    WAITING,
    Health,
    current_health,
    event_words,
    level_of,
    public_health,
    title,
    unrouted_words,
)

pytestmark = pytest.mark.usefixtures("clean_log")

SECRETIVE = "made-up reason of a service"
CRISIS, PERSON = "slack:#crisis", "slack:ann@acme.example"
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


@pytest.fixture
def health(inbox: Inbox, facts: Facts, records: Records, database: Database) -> Callable[[], Health]:
    queries = {LABEL_APPLIED: "CreateCase", RULE_APPLIED: ""}
    subscriptions = new_subscriptions(new_config(), database, queries=queries)
    return lambda: current_health(inbox, facts, records, subscriptions, ["zendesk", CRISIS], 600.0)


def subscribe(facts: Facts, *, label: str = SUBSCRIBED, rule: str = SUBSCRIBED) -> None:
    for name, state in ((LABEL_APPLIED, label), (RULE_APPLIED, rule)):
        facts.save(status_fact(name), SubscriptionStatus(state, SECRETIVE, "made-up-uuid"))


def test_a_new_service_starts_and_every_destination_is_open(health: Callable[[], Health]) -> None:
    now = health()
    states = [one.state for one in now.subscriptions.values()]
    assert (states, level_of(STARTING), now.well) == ([STARTING, STARTING], WAITING, False)
    assert now.gates == {"zendesk": Gate(), CRISIS: Gate()} and level_of(Gate().state) == GOOD


@pytest.mark.parametrize(
    ("state", "level"),
    [(SUBSCRIBED, GOOD), (STARTING, WAITING), *((state, BAD) for state in (PAUSED, FAILED, LOGIN_REFUSED, NO_ADDRESS))],
)
def test_it_is_connected_only_when_every_subscription_works(
    state: str, level: str, health: Callable[[], Health], facts: Facts
) -> None:
    subscribe(facts, rule=state)
    now = health()
    assert (level_of(now.subscriptions[RULE_APPLIED].state), now.well) == (level, level == GOOD)
    assert now.subscriptions[LABEL_APPLIED].state == SUBSCRIBED


@pytest.mark.parametrize(
    ("state", "level"), [(OUTAGE, WAITING), (LIMITED, WAITING), (UNAUTHORISED, BAD), (REFUSING, BAD)]
)
def test_a_closed_gate_concerns_its_own_destination(
    state: str, level: str, health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    subscribe(facts)
    now = replace(health(), gates={"zendesk": Gate(state, SECRETIVE), CRISIS: Gate()})
    assert (level_of(state), now.well) == (level, False)
    assert now.closed == {"zendesk": Gate(state, SECRETIVE)}


def test_a_hold_and_the_calls_left_are_those_of_the_destination(
    health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    move_gate(inbox, OUTAGE, SECRETIVE, retry_after_s=40.0, calls_left=7, reset_s=50.0)
    clock.advance(10)
    now = health()
    zendesk = now.gates["zendesk"]
    assert (zendesk.held_for(now.now), now.gates[CRISIS].state) == (30.0, OPEN)


@BOTH
def test_what_waits_is_counted_for_each_destination(
    health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    subscribe(facts)
    inbox.accept([new_item("e1", "p:1", destination=CRISIS), new_item("e2", "p:2", destination=CRISIS)])
    clock.advance(5)
    park(inbox, "e3", "p:3")
    inbox.accept([new_item("e4", "", destination="", reason="unreadable"), new_item("e5", "p:5")])
    now = health()
    assert now.waiting == {CRISIS: Counts(2, 0, 5.0), "zendesk": Counts(1, 1, 0.0), "": Counts(0, 1, None)}
    assert now.counts == Counts(3, 2, 5.0) == inbox.counts()
    assert now.of("webhook:x/1") == Counts(0, 0, None) and now.abandoned == {}


def test_what_waits_for_a_destination_without_a_route_needs_a_person(
    health: Callable[[], Health], inbox: Inbox, facts: Facts
) -> None:
    subscribe(facts)
    assert health().well
    inbox.accept([new_item(destination=PERSON)])
    assert health().abandoned == {PERSON: Counts(1, 0, 0.0)} and not health().well
    shown = public_health(health())
    assert shown["status"] == "attention" and "ann@" not in str(shown)
    assert (shown["slack:a…@acme.example"]["state"], shown["slack:a…@acme.example"]["pending"]) == ("no_route", 1)


def test_two_people_whose_masked_addresses_look_alike_keep_two_rows(
    health: Callable[[], Health], inbox: Inbox, facts: Facts
) -> None:
    subscribe(facts)
    inbox.accept([new_item(destination=PERSON), new_item("e2", "p:2", destination="slack:amy@acme.example")])
    shown = public_health(health())
    rows = [row["pending"] for name, row in shown.items() if name.startswith("slack:a…@acme.example/")]
    assert rows == [1, 1] and "ann@" not in str(shown) and "amy@" not in str(shown)


def test_nothing_is_ok_while_an_item_waits_too_long_whatever_the_gate_says(
    health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    subscribe(facts)
    inbox.accept([new_item()])
    clock.advance(600)
    assert public_health(health())["status"] == "ok"
    clock.advance(1)
    assert public_health(health())["status"] == "attention" and health().gates["zendesk"].state == OPEN


def test_nothing_is_ok_while_a_poll_fails(health: Callable[[], Health], facts: Facts) -> None:
    subscribe(facts)
    facts.save(f"catch_up:{RULE_APPLIED}", CatchUpStatus(failed=SECRETIVE, failing_since=5.0))
    shown = public_health(health())
    assert shown["status"] == "attention" and not health().well
    assert shown["subscriptions"][RULE_APPLIED] == {"state": SUBSCRIBED, "polling": "failing"}
    assert shown["subscriptions"][LABEL_APPLIED] == {"state": SUBSCRIBED, "polling": "ok"}


@pytest.mark.parametrize(
    ("subscription", "poll", "level"),
    [
        (SubscriptionStatus(SUBSCRIBED), CatchUpStatus(), GOOD),
        (SubscriptionStatus(STARTING), CatchUpStatus(), WAITING),
        (SubscriptionStatus(FAILED, failing_since=990.0), CatchUpStatus(), WAITING),
        (SubscriptionStatus(FAILED, failing_since=870.0), CatchUpStatus(), BAD),
        (SubscriptionStatus(FAILED), CatchUpStatus(), BAD),  # Khoros refuses something
        (SubscriptionStatus(SUBSCRIBED), CatchUpStatus(failed="503", failing_since=990.0), WAITING),
        (SubscriptionStatus(SUBSCRIBED), CatchUpStatus(failed="503", failing_since=870.0), BAD),
        (SubscriptionStatus(SUBSCRIBED), CatchUpStatus(failed="401", failing_since=990.0, refused=True), BAD),
    ],
)
def test_khoros_may_fail_for_two_minutes(
    subscription: SubscriptionStatus, poll: CatchUpStatus, level: str, health: Callable[[], Health]
) -> None:
    subscriptions, polls = {LABEL_APPLIED: subscription}, {LABEL_APPLIED: poll}
    now = replace(health(), now=1000.0, subscriptions=subscriptions, polls=polls)
    assert now.khoros_level(LABEL_APPLIED) == level


def test_a_database_that_a_restart_deletes_needs_a_person(health: Callable[[], Health], facts: Facts) -> None:
    subscribe(facts)
    assert public_health(replace(health(), loses_data=True))["status"] == "attention"


def test_strangers_see_states_and_counts(
    health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    subscribe(facts, label=STARTING, rule=FAILED)
    park(inbox, reason=SECRETIVE)
    inbox.accept([new_item("e2", "twitter:2")])
    move_gate(inbox, OUTAGE, SECRETIVE, retry_after_s=40.0)
    clock.advance(2.5)
    nothing = {"held_s": 0.0, "pending": 0, "parked": 0, "oldest_pending_s": None}
    assert public_health(health()) == {
        "status": "attention",
        "store": "ok",
        "subscription": {"state": FAILED},
        "subscriptions": {
            LABEL_APPLIED: {"state": STARTING, "polling": "ok"},
            RULE_APPLIED: {"state": FAILED, "polling": "ok"},
        },
        "zendesk": {"state": OUTAGE, "held_s": 37.5, "pending": 1, "parked": 1, "oldest_pending_s": 2.5},
        CRISIS: {"state": "open", **nothing},
        "pending": 1,
        "parked": 1,
        "oldest_pending_s": 2.5,
    }


def test_strangers_see_when_nothing_can_be_stored_or_read(health: Callable[[], Health]) -> None:
    assert public_health(None)["status"] == "down"
    shown = public_health(replace(health(), fault=SECRETIVE))
    assert (shown["status"], shown["store"]) == ("down", "unavailable") and SECRETIVE not in str(shown)


def test_all_is_well_only_while_nothing_needs_attention(
    health: Callable[[], Health], inbox: Inbox, facts: Facts
) -> None:
    subscribe(facts)
    assert public_health(health())["status"] == "ok"
    inbox.accept([new_item()])
    assert public_health(health())["status"] == "ok"
    park(inbox, "e2", "twitter:2")
    assert public_health(health())["status"] == "attention"


ROUTES = "label CreateCase -> zendesk\nrule Recall -> slack ann@acme.example\nsent -> webhook https://hooks.example/T0P/SECRET"


@pytest.mark.parametrize("password", ["", "made-up-status-password"])
def test_no_reason_address_or_person_is_on_the_open_pages(
    password: str, new_app: Callable[[Settings], Flask], database_url: str
) -> None:
    app = new_app(new_settings(database_url=database_url, status_password=password, routes=ROUTES))
    relay = relay_of(app)
    relay.facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus(LOGIN_REFUSED, SECRETIVE, "made-up-uuid"))
    park(relay.inbox, "made-up-event", "twitter:77", SECRETIVE)
    relay.inbox.accept([new_item("e9", "p:9", destination="slack:bob@acme.example")])
    move_gate(relay.inbox, UNAUTHORISED, SECRETIVE)
    client = app.test_client()
    page = client.get("/").text
    for shown in (page, client.get("/health").text):
        hidden = (SECRETIVE, "made-up", "twitter", "422", "ann@", "bob@", "T0P", "SECRET")
        assert not [words for words in hidden if words in shown]
    for words in (
        "<b>Khoros, labels</b> <span>refused<",
        "<b>Khoros, rules</b> <span>connecting<",
        "<b>Zendesk</b> <span>unauthorised<",
        "<b>Slack a…@acme.example</b> <span>connected<",
        "Khoros refuses the access token: labels bring no posts now;",
        "1 post waits for Slack b…@acme.example, but no route leads there.",
        "1 post needs attention: Zendesk did not take it.",
    ):
        assert words in page, words


def test_the_landing_page_says_what_the_service_does(new_app: Callable[[Settings], Flask], database_url: str) -> None:
    page = new_app(new_settings(database_url=database_url, routes=ROUTES)).test_client().get("/").text
    for words in ("Label CreateCase → Zendesk", "Rule Recall → Slack a…@acme.example", "Sent → Webhook hooks.example"):
        assert f"<li>{words}</li>" in page


def test_a_failing_poll_is_on_the_landing_page(new_app: Callable[[Settings], Flask], database_url: str) -> None:
    app = new_app(new_settings(database_url=database_url))
    relay_of(app).facts.save(f"catch_up:{LABEL_APPLIED}", CatchUpStatus(failed=SECRETIVE, failing_since=5.0))
    page = app.test_client().get("/").text
    assert "connecting, polling fails<" in page and SECRETIVE not in page


def test_a_name_begins_a_sentence() -> None:
    names = ("zendesk", CRISIS, "webhook:adtech.example:8443/1a2b3c4d", "")
    assert [title(name) for name in names] == [
        "Zendesk",
        "Slack #crisis",
        "Webhook adtech.example:8443/1a2b3c4d",
        "",
    ]


def test_events_have_words_and_an_unknown_one_its_name() -> None:
    assert [event_words(name) for name in (LABEL_APPLIED, "something-new")] == ["labels", "something-new"]


@pytest.mark.parametrize(
    ("event", "word", "count", "words"),
    [
        (LABEL_APPLIED, "Billling", 3, "Label Billling: 3 events matched no line"),
        (RULE_APPLIED, "Recall", 1, "Rule Recall: 1 event matched no line"),
        (MESSAGE_PUBLISHED, "FACEBOOK", 1234, "Published FACEBOOK: 1,234 events matched no line"),
        ("message-needs-approval", "TWITTER", 2, "Needs approval TWITTER: 2 events matched no line"),
        ("something-new", "x", 2, "Something new x: 2 events matched no line"),
    ],
)
def test_what_no_line_wants_is_said_in_words(event: str, word: str, count: int, words: str) -> None:
    assert unrouted_words(UnroutedWord(event, word, count, 0.0, 0.0)) == words
