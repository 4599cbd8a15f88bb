"""Staying subscribed: at each start, through Khoros' failures, hour by hour, and with an address nobody can forge."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import NOWHERE, TOKEN, Clock, events, fields_of, new_config, relay_of, wait_for
from flask import Flask

from app import Settings
from config import Config
from events import LABEL_APPLIED, MESSAGE_PUBLISHED, MESSAGE_SENT, RULE_APPLIED
from inbox.database import Database
from inbox.facts import Facts
from khoros.subscription import CHECK_EVERY_S, RETRY_S, SUBSCRIBE_TURN_S, WRONG_COMPANY, SubscriptionStatus
from khoros.subscriptions import Subscriptions
from khoros_client import KhorosClient, Subscription, Upserted
from outbound import Rejected, Unavailable
from sandbox.khoros import FakeKhoros, FakeSubscription

pytestmark = pytest.mark.usefixtures("clean_log")

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database makes no difference
ADDRESS = f"{NOWHERE}/notifications"
OURS = "relay-0123456789ab.herokuapp.com"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    emptied: Callable[[], str] = request.getfixturevalue("emptied") if request.param == "postgresql" else str
    return emptied() or f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def config(database_url: str, khoros: FakeKhoros) -> Config:
    url = khoros.url  # type: ignore[attr-defined]
    return new_config(database_url=database_url, khoros_url=url, catch_up_s=0.0)


@pytest.fixture
def on_heroku(config: Config) -> Config:
    return replace(config, public_url="", on_dyno=True, heroku_app_name="relay")


@pytest.fixture
def other_facts(other_database: Database) -> Facts:
    """The facts as another process sees them."""
    return Facts(other_database)


def new_client(config: Config, kind: type[KhorosClient] = KhorosClient) -> KhorosClient:
    return kind(config.khoros_url, config.khoros_token, config.company_id)


def new_subscriber(config: Config, facts: Facts, client: KhorosClient | None = None, **queries: str) -> Subscriptions:
    """The subscriptions of one more process, to the label CreateCase; it does not catch up."""
    receiver = cast(Any, None)
    return Subscriptions(
        config, queries or {LABEL_APPLIED: "CreateCase"}, facts, client or new_client(config), receiver
    )


def status_of(subscriptions: Subscriptions, event_name: str = LABEL_APPLIED) -> SubscriptionStatus:
    return subscriptions.statuses()[event_name]


@pytest.fixture
def subscriber(config: Config, facts: Facts) -> Subscriptions:
    return new_subscriber(config, facts)


def upserts(khoros: FakeKhoros) -> int:
    return sum(call.method == "POST" for call in khoros.calls)


def states(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The changes of state that were logged."""
    names = ("failed", "refused", "no_address", "paused")
    return events(caplog, "subscribed", *(f"subscription_{name}" for name in names))


def only(khoros: FakeKhoros) -> FakeSubscription:
    [subscription] = khoros.subscriptions
    return subscription


def change(khoros: FakeKhoros, **changes: Any) -> None:
    """Changes the one subscription from Khoros' side; another uuid makes a copy."""
    changed = replace(khoros.subscriptions[0], **changes)
    khoros._subscriptions[changed.uuid] = changed


def an_hour_later(subscriber: Subscriptions, clock: Clock) -> None:
    clock.advance(CHECK_EVERY_S)
    subscriber.step()


def left_in_khoros(config: Config, uri: str, external_id: str = "send-to-zendesk", query: str = "CreateCase") -> None:
    """Makes a subscription as an earlier release, or somebody else, has left it."""
    settings = {"event_name": LABEL_APPLIED, "external_id": external_id, "notification_uri": uri, "query": query}
    new_client(config).subscribe(**settings, bearer_token="of-before")


# At the start


def test_subscribes_with_everything_khoros_needs(
    subscriber: Subscriptions, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    assert status_of(subscriber).state == "starting"
    assert subscriber.step() == 0.0
    made = only(khoros)
    assert (made.external_id, made.event_name, made.query) == ("send-to-zendesk", LABEL_APPLIED, "CreateCase")
    assert (made.notification_uri, made.bearer_token, made.status) == (ADDRESS, TOKEN, "ACTIVE")
    assert (status_of(subscriber).state, status_of(subscriber).uuid) == ("subscribed", made.uuid)
    assert fields_of(caplog, "subscribed")["subscription"] == made.uuid


def test_every_start_upserts_once_and_doubles_nothing(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    for start in range(3):
        subscriber = new_subscriber(config, (facts, other_facts)[start % 2])
        for _ in range(5):
            subscriber.step()
        clock.advance(10)
        assert (upserts(khoros), len(khoros.subscriptions)) == (start + 1, 1)


def test_a_start_brings_changed_settings_to_khoros(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, facts).step()
    clock.advance(10)
    rotated = replace(config, bearer_tokens=("another-made-up-token", TOKEN), public_url="http://127.0.0.1:10")
    new_subscriber(rotated, facts).step()
    assert only(khoros).bearer_token == "another-made-up-token"
    assert only(khoros).notification_uri == "http://127.0.0.1:10/notifications"


@SQLITE
def test_updates_the_subscription_of_the_2017_app(
    config: Config, subscriber: Subscriptions, khoros: FakeKhoros
) -> None:
    left_in_khoros(config, "https://old.example/createTicket")
    subscriber.step()
    assert (only(khoros).notification_uri, only(khoros).bearer_token) == (ADDRESS, TOKEN)


def test_two_processes_that_start_together_upsert_once(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = new_subscriber(config, facts), new_subscriber(config, other_facts)
    khoros.faults.hang(1, 10, method="POST", effect=True)
    thread = threading.Thread(target=first.step)
    thread.start()
    assert khoros.faults.wait_until_hanging()
    assert second.step() == RETRY_S[0]
    khoros.faults.clear()
    thread.join(10)
    second.step()
    assert (upserts(khoros), events(caplog)) == (1, ["subscribed"])
    assert status_of(second).state == "subscribed"


def test_a_process_killed_in_its_turn_delays_the_others_for_20_seconds(
    subscriber: Subscriptions, other_facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    assert other_facts.take_turn(f"subscribing:{LABEL_APPLIED}", SUBSCRIBE_TURN_S)
    for _ in range(12):
        assert subscriber.step() == RETRY_S[0]
        clock.advance(SUBSCRIBE_TURN_S / 12)
    assert (subscriber.step(), upserts(khoros)) == (0.0, 1)


def test_a_turn_ends_even_when_the_check_breaks(
    config: Config, facts: Facts, other_facts: Facts, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(KhorosClient):
        def subscriptions(self) -> Any:
            raise RuntimeError("broken")

    subscriber = new_subscriber(config, facts, new_client(config, Broken))
    subscriber.step()
    assert "subscription_broken" in events(caplog)
    assert other_facts.take_turn(f"subscribing:{LABEL_APPLIED}", SUBSCRIBE_TURN_S)


@pytest.mark.parametrize("answer", [{"data": {}}, {}, b"", [], {"data": None}], ids=repr)
@SQLITE
def test_an_answer_without_a_uuid_is_no_harm(answer: Any, subscriber: Subscriptions, khoros: FakeKhoros) -> None:
    khoros.faults.fail(1, 201, body=answer, method="POST", effect=True)
    subscriber.step()
    assert (status_of(subscriber).state, status_of(subscriber).uuid) == ("subscribed", only(khoros).uuid)


@pytest.mark.parametrize("bare", [True, False])
@SQLITE
def test_bare_answers_are_understood(bare: bool, subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock) -> None:
    khoros.bare = bare
    subscriber.step()
    an_hour_later(subscriber, clock)
    assert (status_of(subscriber).state, upserts(khoros)) == ("subscribed", 1)


# While Khoros fails


@SQLITE
def test_an_hour_of_outage_is_logged_once_and_over_within_two_minutes(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.faults.outage(503)
    ends_at, waits = clock.now + 3600, []
    for _ in range(100):
        waits.append(subscriber.step())
        clock.advance(waits[-1])
        if clock.now >= ends_at:
            break
    assert waits[:7] == [1, 2, 5, 15, 30, 60, 60] and clock.now >= ends_at
    assert states(caplog) == ["subscription_failed"]
    assert fields_of(caplog, "subscription_failed")["level"] == logging.ERROR
    assert status_of(subscriber).state == "failed" and "503" in status_of(subscriber).detail
    khoros.faults.clear()
    back_at = clock.now
    for _ in range(3):
        clock.advance(subscriber.step())
    assert clock.now - back_at <= 120 and status_of(subscriber).state == "subscribed"
    assert states(caplog) == ["subscription_failed", "subscribed"]


def test_two_processes_log_an_outage_once_between_them_at_one_time(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.faults.outage(503)
    for process in (new_subscriber(config, facts), new_subscriber(config, other_facts)):
        process.step()
    assert states(caplog) == ["subscription_failed"]


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (lambda k: k.faults.outage(401), "it refuses SPREDFAST_API_TOKEN"),
        (lambda k: k.faults.html(9), "Developer Inactive: SPREDFAST_API_TOKEN has expired or was revoked"),
        (lambda k: k.faults.outage(586, body="<html>Not Found</html>"), "KHOROS_API_URL does not lead to the API"),
        (lambda k: k.faults.outage(200, body="<html>hello</html>", content_type="text/html"), "a web page instead"),
        (lambda k: k.faults.reset(9), "Khoros (127.0.0.1) gave no answer"),
        (lambda k: k.faults.outage(422), "Khoros answered 422"),
    ],
    ids=["401", "Developer Inactive", "586", "HTML", "reset", "422"],
)
@SQLITE
def test_a_fault_is_logged_once_with_its_cause(
    fail: Callable[[FakeKhoros], None],
    words: str,
    subscriber: Subscriptions,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(khoros)
    for _ in range(3):
        clock.advance(subscriber.step())
    connection = status_of(subscriber)
    state = "refused" if "SPREDFAST_API_TOKEN" in words else "failed"
    assert (connection.state, khoros.subscriptions) == (state, []) and words in connection.detail
    assert states(caplog) == [f"subscription_{state}"]
    assert words in fields_of(caplog, f"subscription_{state}")["reason"]


@SQLITE
def test_another_fault_is_logged_again(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for status in (503, 503, 401, 401, 503):
        khoros.faults.clear()
        khoros.faults.outage(status)
        clock.advance(subscriber.step())
    assert states(caplog) == ["subscription_failed", "subscription_refused", "subscription_failed"]


@SQLITE
def test_the_wait_starts_small_again_after_a_success(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock
) -> None:
    khoros.faults.outage(503)
    waits = []
    for _ in range(3):
        waits.append(subscriber.step())
        clock.advance(waits[-1])
    assert waits == [1, 2, 5]
    khoros.faults.clear()
    assert subscriber.step() == 0
    khoros.faults.outage(503)
    clock.advance(CHECK_EVERY_S)
    assert subscriber.step() == 1


@SQLITE
def test_the_time_since_which_khoros_is_unavailable_is_known_and_a_refusal_has_none(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock
) -> None:
    khoros.faults.outage(503)
    clock.advance(subscriber.step())
    since = status_of(subscriber).failing_since
    clock.advance(subscriber.step())
    assert status_of(subscriber).failing_since == since > 0
    khoros.faults.clear()
    khoros.faults.outage(401)
    clock.advance(subscriber.step())
    assert (status_of(subscriber).state, status_of(subscriber).failing_since) == ("refused", 0.0)
    khoros.faults.clear()
    khoros.faults.outage(503)
    clock.advance(subscriber.step())
    khoros.faults.clear()
    subscriber.step()
    assert (status_of(subscriber).state, status_of(subscriber).failing_since) == ("subscribed", 0.0)


# The company


@SQLITE
def test_a_number_of_another_company_is_answered_with_those_of_the_token(
    config: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    subscriber = new_subscriber(replace(config, company_id=1), facts)
    subscriber.step()
    words = "SPREDFAST_COMPANY_ID 1 is no company of the access token, which has: 123 (Acme Coffee)"
    assert (status_of(subscriber).state, status_of(subscriber).detail) == (WRONG_COMPANY, words)


@SQLITE
def test_a_refusal_of_our_own_company_keeps_its_words(config: Config, facts: Facts, khoros: FakeKhoros) -> None:
    khoros.faults.outage(422, path="/v2/events/subscription")
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    assert status_of(subscriber).detail == "Khoros answered 422"


# No address


@SQLITE
@pytest.mark.parametrize(
    ("on", "words"),
    [
        ({}, "The relay does not know its public address: set PUBLIC_URL."),
        (
            {"on_dyno": True},
            "The relay does not know its public address yet: open its …herokuapp.com address once in a browser, or set "
            "PUBLIC_URL to the address that Khoros can call.",
        ),
        (
            {"on_dyno": True, "heroku_app_name": "acme"},
            "Khoros can call. HEROKU_APP_NAME is acme: it must be the app's name, or empty.",
        ),
        ({"on_lambda": True, "heroku_app_name": "acme"}, "or set PUBLIC_URL to the address that Khoros can call."),
    ],
)
def test_without_an_address_one_line_says_what_to_do(
    on: dict[str, Any],
    words: str,
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(replace(config, public_url="", **on), facts)
    for _ in range(20):
        clock.advance(subscriber.step())
    assert (events(caplog), khoros.subscriptions) == (["subscription_no_address"], [])
    assert fields_of(caplog, "subscription_no_address")["reason"].endswith(words)
    assert status_of(subscriber).state == "no_address" and status_of(subscriber).detail.endswith(words)


# The hourly check


def test_the_subscription_is_checked_once_an_hour_and_not_sooner(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber.step()
    calls = len(khoros.calls)
    for _ in range(59):
        assert 0 < subscriber.step() <= 60
        clock.advance(60)
    assert len(khoros.calls) == calls
    clock.advance(60)
    subscriber.step()
    assert [call.method for call in khoros.calls[calls:]] == ["GET"]


def test_a_subscription_that_is_gone_is_made_again(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    khoros.forget_subscriptions()
    an_hour_later(subscriber, clock)
    assert (only(khoros).notification_uri, only(khoros).bearer_token) == (ADDRESS, TOKEN)
    assert status_of(subscriber).uuid == only(khoros).uuid
    told = fields_of(caplog, "subscription_mended")
    assert (told["reason"], told["level"]) == ("it was gone", logging.WARNING)


@pytest.mark.parametrize(
    "changes",
    [
        {"notification_uri": "https://elsewhere.example/notifications"},
        {"notification_uri": None},
        {"query": "Other"},
        {"query": None},
        {"event_name": "rule-applied"},
    ],
    ids=str,
)
@SQLITE
def test_a_subscription_that_was_changed_is_repaired(
    changes: dict[str, Any],
    subscriber: Subscriptions,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber.step()
    before = only(khoros)
    change(khoros, **changes)
    an_hour_later(subscriber, clock)
    assert only(khoros) == before
    assert fields_of(caplog, "subscription_mended")["reason"] == "it was changed"


@SQLITE
@pytest.mark.parametrize("at_start", [True, False])
def test_a_disabled_subscription_is_activated_again_loudly(
    at_start: bool,
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.set_status("DISABLED")
    an_hour_later(new_subscriber(config, facts) if at_start else subscriber, clock)
    assert (only(khoros).status, status_of(subscriber).state) == ("ACTIVE", "subscribed")
    assert fields_of(caplog, "subscription_reactivated")["level"] == logging.ERROR
    assert facts.recall("subscription_mended_at") == str(facts.now())  # labels may have been lost: people are told


@SQLITE
@pytest.mark.parametrize("at_start", [True, False])
def test_a_paused_subscription_is_left_alone_and_logged_once(
    at_start: bool,
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.set_status("PAUSED")
    subscriber = new_subscriber(config, facts) if at_start else subscriber
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (only(khoros).status, status_of(subscriber).state) == ("PAUSED", "paused")
    assert "PUT" not in [call.method for call in khoros.calls]
    assert "flask --app app subscription resume" in fields_of(caplog, "subscription_paused")["reason"]


@SQLITE
def test_a_subscription_resumed_in_khoros_is_noticed(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    khoros.set_status("PAUSED")
    an_hour_later(subscriber, clock)
    khoros.set_status("ACTIVE")
    an_hour_later(subscriber, clock)
    assert events(caplog) == ["subscribed", "subscription_paused", "subscribed"]


# Khoros may list a subscription in other words than those it was asked for in


def without_query(listed: Subscription) -> Subscription:
    return replace(listed, query="")


def without_address(listed: Subscription) -> Subscription:
    return replace(listed, notification_uri="")


def with_a_slash(listed: Subscription) -> Subscription:
    return replace(listed, notification_uri=listed.notification_uri + "/")


def in_capitals(listed: Subscription) -> Subscription:
    return replace(listed, notification_uri=listed.notification_uri.upper())


def with_a_port(listed: Subscription) -> Subscription:
    return replace(listed, notification_uri=listed.notification_uri.replace("/notif", ":80/notif"))


def listing(change: Callable[[Subscription], Subscription]) -> type[KhorosClient]:
    """A client of a Khoros that lists subscriptions with this change."""

    class Listing(KhorosClient):
        def subscriptions(self) -> list[Subscription]:
            return [change(listed) for listed in super().subscriptions()]

    return Listing


class Empty(KhorosClient):
    """A Khoros that lists no subscription."""

    def subscriptions(self) -> list[Subscription]:
        return []


spellings = pytest.mark.parametrize(
    "spelling", [without_query, without_address, with_a_slash, in_capitals, with_a_port], ids=lambda s: s.__name__
)


@SQLITE
@spellings
def test_other_words_in_the_list_are_no_change(
    spelling: Callable[[Subscription], Subscription],
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, facts, new_client(config, listing(spelling)))
    subscriber.step()
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (upserts(khoros), events(caplog)) == (1, ["subscribed"])
    assert facts.recall("subscription_mended_at") is None
    assert subscriber.fault(spelling(new_client(config).subscriptions()[0])) == ""


@SQLITE
@spellings
def test_a_real_change_is_noticed_behind_other_words(
    spelling: Callable[[Subscription], Subscription],
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, facts, new_client(config, listing(spelling)))
    subscriber.step()
    before = only(khoros)
    hidden = spelling is without_address
    change(
        khoros, **({"query": "Other"} if hidden else {"notification_uri": "https://elsewhere.example/notifications"})
    )
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (only(khoros), upserts(khoros)) == (before, 2)
    assert fields_of(caplog, "subscription_mended")["reason"] == "it was changed"
    assert float(facts.recall("subscription_mended_at") or 0) == clock.now - 2 * CHECK_EVERY_S


@SQLITE
@spellings
def test_a_change_made_while_the_relay_was_down_is_repaired_at_its_start(
    spelling: Callable[[Subscription], Subscription],
    config: Config,
    facts: Facts,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = new_client(config, listing(spelling))
    new_subscriber(config, facts, client).step()
    before = only(khoros)
    change(khoros, query="Other", notification_uri="https://elsewhere.example/notifications")
    an_hour_later(new_subscriber(config, facts, client), clock)
    assert only(khoros) == before
    assert events(caplog) == ["subscribed", "subscribed"]


@SQLITE
def test_of_two_subscriptions_of_our_name_the_same_is_checked_whatever_their_order(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Backwards(KhorosClient):
        def subscriptions(self) -> list[Subscription]:
            return super().subscriptions()[::-1]

    new_subscriber(config, facts).step()
    change(khoros, uuid="the-double", query="Other")
    subscriber = new_subscriber(config, facts, new_client(config, Backwards))
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (upserts(khoros), status_of(subscriber).uuid) == (2, khoros.subscriptions[0].uuid)
    assert "subscription_mended" not in events(caplog)


@SQLITE
def test_the_uuid_stays_known_when_khoros_does_not_say_it(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, facts).step()
    khoros.faults.fail(1, 201, body={}, method="POST", effect=True)
    subscriber = new_subscriber(config, facts, new_client(config, Empty))
    an_hour_later(subscriber, clock)
    assert (status_of(subscriber).state, status_of(subscriber).uuid) == ("subscribed", only(khoros).uuid)


@SQLITE
def test_a_subscription_made_anew_by_somebody_is_upserted_for_its_token(
    subscriber: Subscriptions, config: Config, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    khoros.forget_subscriptions()
    left_in_khoros(config, ADDRESS)
    an_hour_later(subscriber, clock)
    assert only(khoros).bearer_token == TOKEN
    assert fields_of(caplog, "subscription_mended")["reason"] == "it was changed"


@SQLITE
def test_when_the_list_fails_after_the_upsert_nothing_counts_as_lost(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Stumbling(KhorosClient):
        asked = 0

        def subscriptions(self) -> list[Subscription]:
            self.asked += 1
            if self.asked == 2:
                raise Unavailable("Khoros answered 503")
            return super().subscriptions()

    subscriber = new_subscriber(config, facts, new_client(config, Stumbling))
    subscriber.step()
    assert (status_of(subscriber).state, len(khoros.subscriptions)) == ("subscribed", 1)
    an_hour_later(subscriber, clock)
    assert (upserts(khoros), events(caplog)) == (1, ["subscribed"])
    assert facts.recall("subscription_mended_at") is None


@SQLITE
def test_a_list_that_fails_does_not_keep_the_relay_from_subscribing(
    config: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    khoros.faults.outage(503, method="GET")
    subscriber = new_subscriber(config, facts, new_client(config, KhorosClient))
    subscriber.step()
    assert (status_of(subscriber).state, only(khoros).notification_uri) == ("subscribed", ADDRESS)


@SQLITE
def test_a_list_that_shows_the_upsert_late_is_no_change(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(KhorosClient):
        shown: list[Subscription] | None = None

        def subscriptions(self) -> list[Subscription]:
            shown, self.shown = self.shown, super().subscriptions()
            return self.shown if shown is None else shown

    left_in_khoros(config, "https://old.example/createTicket")
    subscriber = new_subscriber(config, facts, new_client(config, Late))
    subscriber.step()
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (upserts(khoros), events(caplog)) == (2, ["subscribed"])
    change(khoros, notification_uri="https://old.example/createTicket")
    an_hour_later(subscriber, clock)
    an_hour_later(subscriber, clock)
    assert (only(khoros).notification_uri, events(caplog)[1:]) == (ADDRESS, ["subscription_mended"])


@SQLITE
def test_a_subscription_that_khoros_never_lists_is_upserted_every_hour_without_an_alarm(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = new_subscriber(config, facts, new_client(config, Empty))
    subscriber.step()
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (upserts(khoros), events(caplog)) == (4, ["subscribed"])
    assert facts.recall("subscription_mended_at") is None


@SQLITE
def test_an_address_learned_since_the_upsert_reaches_khoros_and_nothing_counts_as_lost(
    on_heroku: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    left_in_khoros(on_heroku, "https://relay-old.herokuapp.com/notifications")
    subscriber = new_subscriber(on_heroku, facts)
    subscriber.step()
    facts.remember("public_url", f"https://{OURS}")  # by another process that did not see this upsert
    an_hour_later(subscriber, clock)
    assert only(khoros).notification_uri == f"https://{OURS}/notifications"
    assert events(caplog) == ["subscribed"] and facts.recall("subscription_mended_at") is None


@SQLITE
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"query": "Other"}, "is about stream-item-label-applied, query Other"),
        ({"query": None, "event_name": "rule-applied"}, "is about rule-applied, query none"),
        ({"notification_uri": "https://a.example"}, f"posts to https://a.example instead of {ADDRESS}"),
        ({"notification_uri": None}, f"posts to nowhere instead of {ADDRESS}"),
    ],
    ids=str,
)
def test_the_fault_of_a_subscription_is_named(
    changes: dict[str, Any], words: str, config: Config, subscriber: Subscriptions, khoros: FakeKhoros
) -> None:
    left_in_khoros(config, ADDRESS)
    change(khoros, **changes)
    assert subscriber.fault(new_client(config).subscriptions()[0]) == words


@SQLITE
@pytest.mark.parametrize(
    ("text", "state"),
    [
        ('{"state": "paused", "of_the_next_release": 1}', "paused"),
        ("{}", "starting"),
        ("{", "starting"),
        ("[]", "starting"),
    ],
)
def test_the_status_of_another_release_is_readable(
    text: str, state: str, facts: Facts, subscriber: Subscriptions
) -> None:
    facts.remember(f"subscription:{LABEL_APPLIED}", text)
    assert status_of(subscriber).state == state


@SQLITE
def test_two_subscriptions_of_our_name_are_named_once(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    change(khoros, uuid="the-double")
    for _ in range(3):
        an_hour_later(subscriber, clock)
    told = fields_of(caplog, "subscription_doubled")
    assert "the-double" in told["subscriptions"] and status_of(subscriber).uuid in told["subscriptions"]
    assert told["level"] == logging.WARNING


@SQLITE
def test_another_subscription_with_our_address_is_named_once(
    config: Config, subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    left_in_khoros(config, ADDRESS, external_id="somebody-elses")
    left_in_khoros(config, "https://elsewhere.example/notifications", external_id="harmless")
    for _ in range(3):
        an_hour_later(subscriber, clock)
    other = next(s for s in khoros.subscriptions if s.external_id == "somebody-elses")
    assert fields_of(caplog, "subscription_beside_ours")["subscription"] == other.uuid


@SQLITE
def test_a_subscription_of_another_company_is_not_ours(subscriber: Subscriptions, config: Config) -> None:
    def subscription(company_id: str, external_id: str = "send-to-zendesk") -> Subscription:
        return Subscription("s-1", external_id, company_id, LABEL_APPLIED, ADDRESS, "CreateCase", "ACTIVE", "")

    listed = [subscription("123"), subscription(""), subscription("999"), subscription("123", "other")]
    assert subscriber.ours(listed) == listed[:2]


@SQLITE
def test_an_outage_at_the_hourly_check_is_logged_and_ends(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    uuid = only(khoros).uuid
    khoros.faults.outage(503)
    an_hour_later(subscriber, clock)
    assert (status_of(subscriber).state, status_of(subscriber).uuid) == ("failed", uuid)
    khoros.faults.clear()
    clock.advance(2)
    subscriber.step()
    assert status_of(subscriber).state == "subscribed"
    assert states(caplog) == ["subscribed", "subscription_failed", "subscribed"]


@SQLITE
def test_a_clock_set_back_by_a_day_does_not_stop_the_hourly_checks(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber.step()
    khoros.forget_subscriptions()
    clock.advance(-86_400)
    subscriber.step()
    assert len(khoros.subscriptions) == 1


# Deleted by command


def test_a_retired_subscription_stays_deleted_after_a_restart_until_it_is_resumed(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.forget_subscriptions()
    subscriber.retire()
    for process in (subscriber, new_subscriber(config, facts)):
        caplog.clear()
        for _ in range(3):
            clock.advance(CHECK_EVERY_S)
            assert process.step() == 60
        assert "subscription resume" in fields_of(caplog, "subscription_deleted")["reason"]
    assert khoros.subscriptions == [] and status_of(subscriber).state == "deleted"
    subscriber.look_again()
    subscriber.step()
    assert (len(khoros.subscriptions), status_of(subscriber).state) == (1, "subscribed")


# The thread


def test_it_subscribes_in_the_background(subscriber: Subscriptions, khoros: FakeKhoros) -> None:
    subscriber.loop.start()
    wait_for(lambda: status_of(subscriber).state == "subscribed")
    subscriber.loop.stop()
    assert upserts(khoros) == 1


# The address, learned from the first visit


AppWith = Callable[[Config], Flask]


def visit(app: Flask, host: str, path: str = "/", method: str = "GET", **headers: str) -> None:
    """A visit as Heroku's router hands it over."""
    given = {"X-Forwarded-Proto": "https", "Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}}
    app.test_client().open(path, method=method, headers=given, buffered=True)


@pytest.fixture
def app_with(new_app: Callable[[Settings], Flask], settings: Settings) -> AppWith:
    return lambda config: new_app(replace(settings, config=config))


def learned(app: Flask) -> str | None:
    return relay_of(app).facts.recall("public_url")


def test_the_first_visit_teaches_the_address_and_the_next_step_subscribes_with_it(
    on_heroku: Config, app_with: AppWith, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(on_heroku)
    relay_of(app).subscriptions.step()
    assert status_of(relay_of(app).subscriptions).state == "no_address"
    visit(app, OURS)
    assert status_of(relay_of(app).subscriptions).state == "starting"  # what the page of this visit shows
    relay_of(app).subscriptions.step()
    assert only(khoros).notification_uri == f"https://{OURS}/notifications"
    assert fields_of(caplog, "address_learned")["url"] == f"https://{OURS}"


@pytest.mark.parametrize(
    ("host", "remembered"),
    [
        (OURS, OURS),
        (OURS.upper(), OURS),
        (f"{OURS}:443", OURS),
        ("relay.herokuapp.com", "relay.herokuapp.com"),
        ("relay-staging-0123.herokuapp.com", "relay-staging-0123.herokuapp.com"),
    ],
)
@SQLITE
def test_a_name_that_is_ours_is_learned(host: str, remembered: str, on_heroku: Config, app_with: AppWith) -> None:
    app = app_with(on_heroku)
    visit(app, host, X_Forwarded_Host="evil.com", Forwarded="host=evil.com")
    assert learned(app) == f"https://{remembered}"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("abc123.lambda-url.eu-west-1.on.aws", True),
        ("abc123.execute-api.eu-west-1.amazonaws.com", True),
        ("abc123.lambda-url.eu-west-1.on.aws.evil.com", False),
        ("abc123.s3.eu-west-1.amazonaws.com", False),
        (OURS, False),
    ],
)
@SQLITE
def test_on_aws_lambda_a_visit_teaches_the_functions_own_address(
    host: str, ours: bool, on_heroku: Config, app_with: AppWith
) -> None:
    app = app_with(replace(on_heroku, on_dyno=False, on_lambda=True))
    visit(app, host)
    assert learned(app) == (f"https://{host}" if ours else None)


NOT_OURS = [
    "evil.com",
    "127.0.0.1",
    "[::1]",
    "herokuapp.com",
    ".herokuapp.com",
    "-0123.herokuapp.com",
    "evil-herokuapp.com",
    "relay-0123.evil-herokuapp.com",
    "relay-0123-herokuapp.com",
    "relay-0123.herokuappxcom",
    f"{OURS}.evil.com",
    f"{OURS}.",
    f"{OURS}:8443",
    f"{OURS}:80",
    f"{OURS}/x",
    f"{OURS}?x",
    f"{OURS}@evil.com",
    f"evil.com@{OURS}",
    f"evil.com/{OURS}",
    f"{OURS}, evil.com",
    f"evil.com {OURS}",
    f"x.{OURS}",
    "relayevil.herokuapp.com",
    "relay_0123.herokuapp.com",
    "relay.0123.herokuapp.com",
    "relay-.evil.herokuapp.com",
    "evil-relay-0123.herokuapp.com",
    "other-0123.herokuapp.com",
    "relay-\u0130.herokuapp.com".encode().decode("latin-1"),
]


@SQLITE
def test_a_name_that_is_not_ours_is_not_learned(on_heroku: Config, app_with: AppWith) -> None:
    app = app_with(on_heroku)
    for host in NOT_OURS:
        visit(app, host)
        visit(app, host, X_Forwarded_Host=OURS, Forwarded=f"host={OURS}", X_Forwarded_Server=OURS, X_Host=OURS)
        assert (host, learned(app)) == (host, None)
    visit(app, OURS)
    assert learned(app) == f"https://{OURS}"


NO_VISITS = [
    ("/", "GET", "http"),
    ("/", "GET", ""),
    ("/", "GET", "https, http"),
    ("/", "HEAD", "https"),
    ("/", "POST", "https"),
    ("/", "OPTIONS", "https"),
    ("/", "BREW", "https"),
    ("/health", "GET", "https"),
    ("/notifications", "GET", "https"),
    ("/notifications", "POST", "https"),
    ("/nowhere", "GET", "https"),
    ("/static/style.css", "GET", "https"),
    ("/index.html", "GET", "https"),
]


@SQLITE
def test_only_a_get_of_the_page_over_https_teaches_the_address(on_heroku: Config, app_with: AppWith) -> None:
    app = app_with(on_heroku)
    for path, method, proto in NO_VISITS:
        visit(app, OURS, path, method, X_Forwarded_Proto=proto)
        assert (path, method, proto, learned(app)) == (path, method, proto, None)
    visit(app, OURS, "/", "GET", X_Forwarded_Proto="http, https")
    assert learned(app) == f"https://{OURS}"


@pytest.mark.parametrize(
    "changes", [{"on_dyno": False}, {"public_url": "https://mine.example"}, {"polling": True}], ids=str
)
@SQLITE
def test_nothing_is_learned_elsewhere_or_when_the_address_is_known_or_not_needed(
    changes: dict[str, Any], on_heroku: Config, app_with: AppWith
) -> None:
    app = app_with(replace(on_heroku, **changes))
    visit(app, OURS)
    assert learned(app) is None


@pytest.mark.parametrize(
    ("name", "host", "ours"),
    [
        ("Relay", OURS, True),
        ("", OURS, True),
        ("", "-x.herokuapp.com", False),
        ("", "a.b.herokuapp.com", False),
        ("", "evil.com", False),
        ("rel.y", "relay-0123.herokuapp.com", False),
        ("relay-two", "relay-0123.herokuapp.com", False),
    ],
)
@SQLITE
def test_the_apps_name_narrows_what_is_ours(
    name: str, host: str, ours: bool, on_heroku: Config, app_with: AppWith
) -> None:
    app = app_with(replace(on_heroku, heroku_app_name=name))
    visit(app, host)
    assert (learned(app) is not None) == ours


@SQLITE
def test_a_second_name_is_not_learned_and_logged_once(
    on_heroku: Config, app_with: AppWith, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_with(on_heroku)
    for host in (OURS, OURS, "relay-evil.herokuapp.com", "relay-evil.herokuapp.com"):
        visit(app, host)
    assert learned(app) == f"https://{OURS}"
    told = fields_of(caplog, "address_ignored")
    assert told["host"] == "relay-evil.herokuapp.com" and "set PUBLIC_URL" in told["reason"]


def test_the_learned_address_is_remembered_after_a_restart(
    on_heroku: Config, app_with: AppWith, facts: Facts, khoros: FakeKhoros
) -> None:
    visit(app_with(on_heroku), OURS)
    new_subscriber(on_heroku, facts).step()
    assert only(khoros).notification_uri == f"https://{OURS}/notifications"


@SQLITE
def test_a_configured_address_goes_before_the_learned_one(config: Config, facts: Facts, khoros: FakeKhoros) -> None:
    facts.remember("public_url", f"https://{OURS}")
    new_subscriber(config, facts).step()
    assert only(khoros).notification_uri == ADDRESS


def test_a_new_database_takes_the_address_from_our_subscription_in_khoros(
    on_heroku: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    left_in_khoros(on_heroku, f"https://{OURS}/notifications")
    subscriber = new_subscriber(on_heroku, facts)
    subscriber.step()
    assert status_of(subscriber).state == "subscribed"
    assert (only(khoros).notification_uri, only(khoros).bearer_token) == (f"https://{OURS}/notifications", TOKEN)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        f"http://{OURS}/notifications",
        f"https://{OURS}/createTicket",
        f"https://{OURS}/notifications/",
        f"https://{OURS}:8443/notifications",
        f"https://user@{OURS}/notifications",
        f"https://{OURS}.evil.com/notifications",
        "https://evil.com/notifications",
        "https://relayevil.herokuapp.com/notifications",
        f"https://evil.com/{OURS}/notifications",
    ],
)
@SQLITE
def test_an_address_in_khoros_that_could_not_be_ours_is_not_taken(
    uri: str, on_heroku: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    left_in_khoros(on_heroku, uri)
    subscriber = new_subscriber(on_heroku, facts)
    subscriber.step()
    assert (status_of(subscriber).state, upserts(khoros)) == ("no_address", 1)


@SQLITE
def test_away_from_heroku_no_address_is_taken_from_khoros(on_heroku: Config, facts: Facts, khoros: FakeKhoros) -> None:
    left_in_khoros(on_heroku, f"https://{OURS}/notifications")
    subscriber = new_subscriber(replace(on_heroku, on_dyno=False), facts)
    subscriber.step()
    assert status_of(subscriber).state == "no_address"


def test_a_rotated_token_reaches_khoros_even_when_the_first_attempt_fails(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, facts).step()
    clock.advance(10)
    khoros.faults.outage(503)
    subscriber = new_subscriber(replace(config, bearer_tokens=("another-made-up-token",)), facts)
    subscriber.step()
    khoros.faults.clear()
    for _ in range(5):
        clock.advance(subscriber.step())
    assert status_of(subscriber).state == "subscribed"
    assert khoros.subscriptions[0].bearer_token == "another-made-up-token"


def test_a_rotated_token_reaches_khoros_when_a_pause_is_ended_there(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, facts).step()
    khoros.set_status("PAUSED")
    clock.advance(10)
    subscriber = new_subscriber(replace(config, bearer_tokens=("another-made-up-token",)), facts)
    subscriber.step()
    khoros.set_status("ACTIVE")
    clock.advance(3600)
    subscriber.step()
    assert khoros.subscriptions[0].bearer_token == "another-made-up-token"


def test_an_outage_is_one_line_and_a_first_subscription_is_not_called_mended(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.faults.outage(503)
    subscriber = new_subscriber(config, facts)
    for _ in range(20):
        clock.advance(subscriber.step())
    khoros.faults.clear()
    subscriber.step()
    assert status_of(subscriber).detail == ""
    assert events(caplog) == ["subscription_failed", "subscribed"]


def test_a_clock_set_back_does_not_hammer_khoros(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    clock.advance(-60)
    asked = len(khoros.calls)
    for _ in range(20):  # what the thread does without any wait between
        if subscriber.step() > 0:
            break
    assert len(khoros.calls) - asked <= 4


def test_an_address_taken_from_khoros_outlives_the_subscription(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    config = replace(config, public_url="", on_dyno=True, heroku_app_name="relay")
    left_in_khoros(config, f"https://{OURS}/notifications")
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.forget_subscriptions()
    clock.advance(3600)
    subscriber.step()
    assert (status_of(subscriber).state, len(khoros.subscriptions)) == ("subscribed", 1)


def test_a_visit_corrects_an_address_taken_from_khoros_at_once(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    """Our subscription in Khoros still has the old app's address; the success_url page opens the new app's."""
    config = replace(config, public_url="", on_dyno=True)
    left_in_khoros(config, "https://old-app-0123.herokuapp.com/notifications")
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    subscriber.learn_address(OURS, secure=True)
    for _ in range(3):
        clock.advance(subscriber.step())
    assert khoros.subscriptions[0].notification_uri == f"https://{OURS}/notifications"


def test_a_visit_to_the_address_that_khoros_has_already_changes_nothing(
    config: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    config = replace(config, public_url="", on_dyno=True)
    left_in_khoros(config, f"https://{OURS}/notifications")
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    subscriber.learn_address(OURS, secure=True)
    assert (status_of(subscriber).state, subscriber.public_url()) == ("subscribed", f"https://{OURS}")


def test_a_pause_is_noticed_although_the_list_failed_once(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.set_status("PAUSED")
    khoros.faults.fail(1, 503, method="GET")
    clock.advance(3600)
    for _ in range(2):
        clock.advance(subscriber.step())
    assert status_of(subscriber).state == "paused"


def test_a_list_that_fails_once_at_the_hourly_check_is_not_called_gone(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()
    khoros.faults.fail(1, 503, method="GET")
    clock.advance(3600)
    subscriber.step()
    assert "subscription_mended" not in events(caplog)


def test_another_subscription_with_our_address_is_named_at_the_very_first_start(
    config: Config, facts: Facts, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    left_in_khoros(config, ADDRESS, external_id="older-relay")
    new_subscriber(config, facts).step()
    assert "subscription_beside_ours" in events(caplog)


def test_a_delete_during_a_check_is_not_undone(config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock) -> None:
    subscriber = new_subscriber(config, facts)
    subscriber.step()

    class Meanwhile(KhorosClient):
        def subscriptions(self) -> Any:
            listed = super().subscriptions()
            subscriber.retire()  # as `subscription delete` does in another process
            khoros.forget_subscriptions()
            return listed

    clock.advance(CHECK_EVERY_S)
    new_subscriber(config, facts, new_client(config, Meanwhile)).step()
    assert status_of(subscriber).state == "deleted"


# One for each event name, each on its own

MANY = {LABEL_APPLIED: "(.* - )?(CreateCase)", RULE_APPLIED: "", MESSAGE_PUBLISHED: ""}
RULES = "send-to-zendesk.rule-applied"


def new_many(config: Config, facts: Facts, queries: Mapping[str, str], client: Any = None) -> Subscriptions:
    return Subscriptions(config, queries, facts, client or new_client(config), cast(Any, None))


def names(khoros: FakeKhoros) -> list[str]:
    return [subscription.external_id for subscription in khoros.subscriptions]


def all_states(subscriptions: Subscriptions) -> dict[str, str]:
    return {name: status.state for name, status in subscriptions.statuses().items()}


def test_there_is_one_subscription_for_each_event_name(
    config: Config, facts: Facts, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    subscriptions = new_many(config, facts, MANY)
    assert subscriptions.step() == 0.0
    made = [(s.external_id, s.event_name, s.query, s.notification_uri, s.bearer_token) for s in khoros.subscriptions]
    assert made == [
        ("send-to-zendesk", LABEL_APPLIED, "(.* - )?(CreateCase)", ADDRESS, TOKEN),
        (RULES, RULE_APPLIED, None, ADDRESS, TOKEN),
        ("send-to-zendesk.message-published", MESSAGE_PUBLISHED, None, ADDRESS, TOKEN),
    ]
    assert all_states(subscriptions) == dict.fromkeys(MANY, "subscribed")
    assert events(caplog) == ["subscribed"] * 3  # none is beside ours
    assert len({status.uuid for status in subscriptions.statuses().values()}) == 3


class Refusing(KhorosClient):
    """A Khoros that refuses one event name."""

    refused = RULE_APPLIED

    def subscribe(self, event_name: str, *args: Any, **options: Any) -> Upserted:
        if event_name == self.refused:
            raise Rejected("Khoros answered 422", status=422)
        return super().subscribe(event_name, *args, **options)


@pytest.mark.parametrize("refused", [LABEL_APPLIED, RULE_APPLIED, MESSAGE_PUBLISHED])
@SQLITE
def test_one_that_khoros_refuses_stops_no_other(
    refused: str, config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client = new_client(config, Refusing)
    client.refused = refused  # type: ignore[attr-defined]
    subscriptions = new_many(config, facts, MANY, client)
    for _ in range(5):
        clock.advance(subscriptions.step())
    assert all_states(subscriptions) == {name: "failed" if name == refused else "subscribed" for name in MANY}
    assert subscriptions.statuses()[refused].detail == "Khoros answered 422"
    assert fields_of(caplog, "subscription_failed")["event_name"] == refused
    client.refused = ""  # type: ignore[attr-defined]
    for _ in range(3):
        clock.advance(subscriptions.step())
    assert all_states(subscriptions) == dict.fromkeys(MANY, "subscribed")
    assert len(khoros.subscriptions) == 3


@SQLITE
def test_what_breaks_for_one_stops_no_other(
    config: Config, facts: Facts, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(KhorosClient):
        def subscribe(self, event_name: str, *args: Any, **options: Any) -> Upserted:
            if event_name == LABEL_APPLIED:
                raise RuntimeError("broken")
            return super().subscribe(event_name, *args, **options)

    new_many(config, facts, MANY, new_client(config, Breaking)).step()
    assert len(khoros.subscriptions) == 2 and "subscription_broken" in events(caplog)


@SQLITE
def test_one_that_is_refused_is_tried_again_less_and_less_often_although_the_others_are_busy(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    tried: list[float] = []

    class Counting(Refusing):
        def subscribe(self, event_name: str, *args: Any, **options: Any) -> Upserted:
            if event_name == RULE_APPLIED:
                tried.append(clock.now)
            return super().subscribe(event_name, *args, **options)

    subscriptions = new_many(config, facts, MANY, new_client(config, Counting))
    for _ in range(300):
        subscriptions.step()
        clock.advance(1)
    assert [b - a for a, b in itertools.pairwise(tried)] == [1, 2, 5, 15, 30, 60, 60, 60, 60]


@SQLITE
def test_each_is_repaired_on_its_own(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriptions = new_many(config, facts, MANY)
    subscriptions.step()
    before = {s.external_id: s for s in khoros.subscriptions}
    khoros.forget_subscriptions(RULE_APPLIED)
    khoros.set_status("DISABLED", MESSAGE_PUBLISHED)
    an_hour_later(subscriptions, clock)
    after = {s.external_id: s for s in khoros.subscriptions}
    assert after[RULES].uuid != before.pop(RULES).uuid
    assert {name: after[name] for name in before} == before
    assert fields_of(caplog, "subscription_mended")["event_name"] == RULE_APPLIED
    assert fields_of(caplog, "subscription_reactivated")["event_name"] == MESSAGE_PUBLISHED
    assert upserts(khoros) == 4


@SQLITE
def test_one_that_a_person_paused_stays_paused_alone(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriptions = new_many(config, facts, MANY)
    subscriptions.step()
    khoros.set_status("PAUSED", RULE_APPLIED)
    an_hour_later(subscriptions, clock)
    assert all_states(subscriptions) == {**dict.fromkeys(MANY, "subscribed"), RULE_APPLIED: "paused"}


@SQLITE
def test_one_can_be_retired_and_brought_back_alone(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriptions = new_many(config, facts, MANY)
    subscriptions.step()
    subscriptions.retire([RULE_APPLIED])
    khoros.forget_subscriptions(RULE_APPLIED)
    an_hour_later(new_many(config, facts, MANY), clock)
    assert all_states(subscriptions) == {**dict.fromkeys(MANY, "subscribed"), RULE_APPLIED: "deleted"}
    assert len(khoros.subscriptions) == 2
    subscriptions.look_again([RULE_APPLIED])
    subscriptions.step()
    assert len(khoros.subscriptions) == 3


@SQLITE
def test_a_listed_one_is_known_by_its_name_whatever_was_changed_in_it(
    config: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    subscriptions = new_many(config, facts, MANY)
    subscriptions.step()
    left_in_khoros(config, ADDRESS, external_id="send-to-zendesk.of-somebody")
    khoros.change_subscriptions(RULE_APPLIED, event_name="credential-auth", query="x")
    listed = new_client(config).subscriptions()
    assert [subscriptions.event_name_of(one) for one in listed] == [*MANY, ""]
    assert subscriptions.ours(listed) == listed[:3]
    found = [subscriptions.fault(one) for one in listed[:3]]
    assert found == ["", "is about credential-auth, query x", ""]


@SQLITE
def test_a_new_database_finds_the_address_in_any_of_our_subscriptions(
    on_heroku: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    left_in_khoros(on_heroku, f"https://{OURS}/notifications")
    new_many(on_heroku, facts, {RULE_APPLIED: ""}).step()
    assert khoros.subscriptions[-1].notification_uri == f"https://{OURS}/notifications"


@SQLITE
def test_the_address_that_a_visit_teaches_reaches_all_at_once(
    on_heroku: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriptions = new_many(on_heroku, facts, MANY)
    for _ in range(9):
        clock.advance(subscriptions.step())
    assert set(all_states(subscriptions).values()) == {"no_address"}
    subscriptions.learn_address(OURS, secure=True)
    subscriptions.step()
    assert {s.notification_uri for s in khoros.subscriptions} == {f"https://{OURS}/notifications"}
    assert len(khoros.subscriptions) == 3


# Those that nobody wants any more


def test_one_that_is_no_longer_wanted_is_deleted_at_the_next_start(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: Any
) -> None:
    new_many(config, facts, MANY).step()
    clock.advance(10)
    new_many(config, other_facts, {LABEL_APPLIED: "CreateCase", MESSAGE_PUBLISHED: ""}).step()
    assert names(khoros) == ["send-to-zendesk", "send-to-zendesk.message-published"]
    told = fields_of(caplog, "subscription_removed")
    assert (told["event_name"], told["level"]) == (RULE_APPLIED, logging.INFO)


@SQLITE
def test_the_labels_subscription_too_is_deleted_when_no_line_wants_labels(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_many(config, facts, MANY).step()
    clock.advance(10)
    new_many(config, facts, {RULE_APPLIED: ""}).step()
    assert names(khoros) == [RULES]


NOBODYS = [
    pytest.param({"external_id": "somebody.rule-applied"}, id="another name"),
    pytest.param({"external_id": "send-to-zendesk-2.rule-applied"}, id="a name that begins like ours"),
    pytest.param({"external_id": "send-to-zendesk"}, id="a label's name"),
    pytest.param({"event_name": MESSAGE_SENT}, id="another event"),
    pytest.param({"notification_uri": "https://elsewhere.example/notifications"}, id="another address"),
    pytest.param({"notification_uri": f"{NOWHERE}/createTicket"}, id="another path"),
    pytest.param({"notification_uri": None}, id="no address"),
]


@pytest.mark.parametrize("changes", NOBODYS)
@SQLITE
def test_one_that_may_be_somebody_elses_is_left_alone(
    changes: dict[str, Any], config: Config, facts: Facts, khoros: FakeKhoros
) -> None:
    """In a new database: nothing is known of what this service made before."""
    settings = {"event_name": RULE_APPLIED, "external_id": RULES, "notification_uri": ADDRESS, "query": ""}
    new_client(config).subscribe(**settings, bearer_token="of-somebody")
    change(khoros, **changes)
    before = khoros.subscriptions[0]
    new_many(config, facts, {MESSAGE_PUBLISHED: ""}).step()
    assert before in khoros.subscriptions


@SQLITE
def test_one_of_ours_is_deleted_in_a_new_database_too(config: Config, facts: Facts, khoros: FakeKhoros) -> None:
    settings = {"event_name": RULE_APPLIED, "external_id": RULES, "notification_uri": ADDRESS, "query": ""}
    new_client(config).subscribe(**settings, bearer_token="of-before")
    new_many(config, facts, {MESSAGE_PUBLISHED: ""}).step()
    assert names(khoros) == ["send-to-zendesk.message-published"]


@SQLITE
@pytest.mark.parametrize("company", ["999", "0"])
def test_one_of_another_company_is_left_alone(company: str, config: Config, facts: Facts, khoros: FakeKhoros) -> None:
    class Foreign(KhorosClient):
        def subscriptions(self) -> list[Subscription]:
            return [replace(one, company_id=company) for one in super().subscriptions()]

    new_many(config, facts, MANY).step()
    facts.remember(f"subscription:{RULE_APPLIED}", "{}")
    new_many(config, facts, {LABEL_APPLIED: "x"}, new_client(config, Foreign)).step()
    assert RULES in names(khoros)


@SQLITE
def test_one_is_deleted_although_the_address_has_changed_with_the_routes(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_many(config, facts, MANY).step()
    clock.advance(10)
    new_many(replace(config, public_url="http://127.0.0.1:10"), facts, {LABEL_APPLIED: "x"}).step()
    assert names(khoros) == ["send-to-zendesk"]


@SQLITE
@pytest.mark.parametrize("polling", [True, False])
def test_what_is_polled_and_no_longer_wanted_is_deleted_also_when_the_way_changes(
    polling: bool, config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    way = replace(config, polling=True, public_url="", poll_s=0.0)
    new_many(way, facts, MANY).step()
    clock.advance(10)
    new_many(way if polling else config, facts, {LABEL_APPLIED: "x"}).step()
    assert names(khoros) == ["send-to-zendesk"]


@SQLITE
def test_one_that_khoros_does_not_delete_is_tried_again_and_stops_no_other(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    new_many(config, facts, {**MANY, MESSAGE_SENT: ""}).step()
    clock.advance(10)
    khoros.faults.fail(1, 422, method="DELETE")
    subscriptions = new_many(config, facts, {LABEL_APPLIED: "x"})
    subscriptions.step()
    assert names(khoros) == ["send-to-zendesk", RULES]
    assert fields_of(caplog, "subscription_not_removed")["event_name"] == RULE_APPLIED
    clock.advance(60)
    subscriptions.step()
    assert names(khoros) == ["send-to-zendesk"]
    asked = len(khoros.calls)
    for _ in range(30):
        clock.advance(60)
        subscriptions.step()
    assert len(khoros.calls) == asked  # once in the life of a process


@SQLITE
def test_an_older_process_does_not_make_again_what_a_newer_start_does_not_want(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    older = new_many(config, facts, MANY)
    older.step()
    clock.advance(CHECK_EVERY_S - 5)
    new_many(config, other_facts, {LABEL_APPLIED: "(.* - )?(CreateCase)"}).step()
    for _ in range(100):  # they overlap for long
        clock.advance(60)
        older.step()
    assert names(khoros) == ["send-to-zendesk"]


@SQLITE
def test_a_process_that_is_late_does_not_delete_what_a_newer_start_wants(
    config: Config, facts: Facts, other_facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    new_many(config, facts, MANY).step()
    clock.advance(10)
    older, newer = new_many(config, facts, {LABEL_APPLIED: "x"}), new_many(config, other_facts, MANY)
    khoros.faults.outage(503, method="GET")
    older.step()
    clock.advance(1)
    newer.step()
    khoros.faults.clear()
    for _ in range(5):
        clock.advance(60)
        older.step()
    assert RULES in names(khoros) and len(khoros.subscriptions) == 3


@SQLITE
def test_one_that_is_wanted_again_is_made_again_and_begins_anew(
    config: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    for queries in (MANY, {LABEL_APPLIED: "x"}, MANY):
        subscriptions = new_many(config, facts, queries)
        subscriptions.step()
        clock.advance(1000)
    status = subscriptions.statuses()[RULE_APPLIED]
    assert (status.state, len(khoros.subscriptions)) == ("subscribed", 3)
    assert status.since == clock.now - 1000 - 60  # by Khoros' clock, less what its own machines may differ


@SQLITE
def test_nothing_is_deleted_before_our_address_is_known(
    on_heroku: Config, facts: Facts, khoros: FakeKhoros, clock: Clock
) -> None:
    settings = {"event_name": RULE_APPLIED, "external_id": RULES, "query": ""}
    new_client(on_heroku).subscribe(**settings, notification_uri=f"https://{OURS}/notifications", bearer_token="x")
    khoros.change_subscriptions(notification_uri="https://elsewhere.example/notifications")
    subscriptions = new_many(on_heroku, facts, {LABEL_APPLIED: "x"})
    subscriptions.step()
    assert names(khoros) == [RULES]
    khoros.change_subscriptions(notification_uri=f"https://{OURS}/notifications")
    subscriptions.learn_address(OURS, secure=True)
    for _ in range(3):
        clock.advance(60)
        subscriptions.step()
    assert names(khoros) == ["send-to-zendesk"]
