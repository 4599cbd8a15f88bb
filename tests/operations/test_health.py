"""The health of the service, and the part of it that strangers see at / and /health: states and counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Clock, new_item, new_settings, relay_of
from flask import Flask
from steps import move_gate, park

from app import Settings
from inbox.facts import Facts
from inbox.gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED, Gate
from inbox.inbox import Inbox
from khoros.subscription import FAILED, LOGIN_REFUSED, NO_ADDRESS, PAUSED, STARTING, SUBSCRIBED, SubscriptionStatus
from operations.health import BAD, GOOD, WAITING, Health, current_health, level_of, public_health, title

pytestmark = pytest.mark.usefixtures("clean_log")

SECRETIVE = "made-up reason of a service"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def health(inbox: Inbox, facts: Facts) -> Callable[[], Health]:
    return lambda: current_health(inbox, facts, ["zendesk", "slack:#crisis"])


def test_a_new_service_starts_and_every_destination_is_open(health: Callable[[], Health]) -> None:
    now = health()
    assert (now.subscription.state, level_of(now.subscription.state), now.connected) == (STARTING, WAITING, False)
    assert now.gates == {"zendesk": Gate(), "slack:#crisis": Gate()} and level_of(Gate().state) == GOOD


@pytest.mark.parametrize(
    ("state", "level"),
    [(SUBSCRIBED, GOOD), (STARTING, WAITING), *((state, BAD) for state in (PAUSED, FAILED, LOGIN_REFUSED, NO_ADDRESS))],
)
def test_it_is_connected_only_when_it_is_subscribed(
    state: str, level: str, health: Callable[[], Health], facts: Facts
) -> None:
    facts.save("subscription", SubscriptionStatus(state))
    assert (level_of(health().subscription.state), health().connected) == (level, level == GOOD)


@pytest.mark.parametrize(("state", "level"), [(OUTAGE, WAITING), (LIMITED, WAITING), (UNAUTHORISED, BAD)])
def test_a_closed_gate_concerns_its_own_destination(
    state: str, level: str, health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    facts.save("subscription", SubscriptionStatus(SUBSCRIBED))
    move_gate(inbox, state, SECRETIVE, retry_after_s=40.0, calls_left=7, reset_s=50.0)
    clock.advance(10)
    now = health()
    zendesk = now.gates["zendesk"]
    assert (zendesk.state, zendesk.reason, level_of(zendesk.state)) == (state, SECRETIVE, level)
    assert (zendesk.held_for(now.now), zendesk.calls_known(now.now)) == (30.0, 7)
    assert (now.gates["slack:#crisis"].state, now.connected) == (OPEN, False)
    clock.advance(41)
    assert health().gates["zendesk"].calls_known(clock.now) is None


def test_strangers_see_states_and_counts(
    health: Callable[[], Health], inbox: Inbox, facts: Facts, clock: Clock
) -> None:
    facts.save("subscription", SubscriptionStatus(FAILED, SECRETIVE, "made-up-uuid"))
    park(inbox, reason=SECRETIVE)
    inbox.accept([new_item("e2", "twitter:2")])
    move_gate(inbox, OUTAGE, SECRETIVE, retry_after_s=40.0)
    clock.advance(2.5)
    assert public_health(health()) == {
        "status": "attention",
        "store": "ok",
        "subscription": {"state": FAILED},
        "zendesk": {"state": OUTAGE, "held_s": 37.5},
        "slack:#crisis": {"state": "open", "held_s": 0.0},
        "pending": 1,
        "parked": 1,
        "oldest_pending_s": 2.5,
    }


def test_strangers_see_when_nothing_can_be_stored() -> None:
    assert public_health(None)["status"] == "down"


def test_all_is_well_only_while_nothing_needs_attention(
    health: Callable[[], Health], inbox: Inbox, facts: Facts
) -> None:
    facts.save("subscription", SubscriptionStatus(SUBSCRIBED))
    assert public_health(health())["status"] == "ok"
    inbox.accept([new_item()])
    assert public_health(health())["status"] == "ok"
    park(inbox, "e2", "twitter:2")
    assert public_health(health())["status"] == "attention"


@pytest.mark.parametrize("password", ["", "made-up-status-password"])
def test_no_reason_of_a_service_is_on_the_open_pages(
    password: str, new_app: Callable[[Settings], Flask], database_url: str
) -> None:
    app = new_app(new_settings(database_url=database_url, status_password=password))
    relay = relay_of(app)
    relay.facts.save("subscription", SubscriptionStatus(LOGIN_REFUSED, SECRETIVE, "made-up-uuid"))
    park(relay.inbox, "made-up-event", "twitter:77", SECRETIVE)
    move_gate(relay.inbox, UNAUTHORISED, SECRETIVE)
    client = app.test_client()
    page = client.get("/").text
    for shown in (page, client.get("/health").text):
        assert not [words for words in (SECRETIVE, "made-up", "twitter", "422") if words in shown]
    for words in ("Khoros: refused.", "Zendesk: unauthorised.", "1 needs attention."):
        assert words in page


def test_the_landing_page_says_what_the_service_does(new_app: Callable[[Settings], Flask], database_url: str) -> None:
    page = new_app(new_settings(database_url=database_url)).test_client().get("/").text
    assert "this service makes one ticket for it in Zendesk." in page


def test_a_name_keeps_its_capitals_in_a_sentence() -> None:
    assert [title(name) for name in ("zendesk", "slack:#Crisis", "")] == ["Zendesk", "Slack:#Crisis", ""]
