"""Staying subscribed: at each start, through Khoros' failures, hour by hour, and under an address nobody can forge."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    NOWHERE,
    TOKEN,
    Clock,
    events,
    fields,
    new_config,
    new_subscriber,
    relay_of,
    wait_for,
)
from flask import Flask

from config import Config
from inbox import Inbox
from khoros_client import EVENT_NAME, KhorosClient
from sandbox.khoros import FakeKhoros, FakeSubscription
from subscription import RETRY_S, TURN_S, WATCH_S, Subscriber

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
def subscriber(config: Config, inbox: Inbox) -> Subscriber:
    return new_subscriber(config, inbox)


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


def an_hour_later(subscriber: Subscriber, clock: Clock) -> None:
    clock.advance(WATCH_S)
    subscriber.step()


def held_by_khoros(config: Config, uri: str, external_id: str = "send-to-zendesk", query: str = "CreateCase") -> None:
    """Makes a subscription as an earlier release, or somebody else, has left it."""
    client = KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    client.subscribe(external_id=external_id, notification_uri=uri, query=query, bearer_token="of-before")


# At the start


def test_subscribes_with_everything_khoros_needs(
    subscriber: Subscriber, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    assert subscriber.connection().state == "starting"
    assert subscriber.step() == 0.0
    made = only(khoros)
    assert (made.external_id, made.event_name, made.query) == ("send-to-zendesk", EVENT_NAME, "CreateCase")
    assert (made.notification_uri, made.bearer_token, made.status) == (ADDRESS, TOKEN, "ACTIVE")
    assert (subscriber.connection().state, subscriber.connection().uuid) == ("subscribed", made.uuid)
    assert fields(caplog, "subscribed")["subscription"] == made.uuid


def test_every_start_upserts_once_and_doubles_nothing(
    config: Config, inbox: Inbox, other: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    for start in range(3):
        subscriber = new_subscriber(config, (inbox, other)[start % 2])
        for _ in range(5):
            subscriber.step()
        clock.advance(10)
        assert (upserts(khoros), len(khoros.subscriptions)) == (start + 1, 1)


def test_a_start_brings_changed_settings_to_khoros(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, inbox).step()
    clock.advance(10)
    rotated = replace(config, bearer_tokens=("another-made-up-token", TOKEN), public_url="http://127.0.0.1:10")
    new_subscriber(rotated, inbox).step()
    assert only(khoros).bearer_token == "another-made-up-token"
    assert only(khoros).notification_uri == "http://127.0.0.1:10/notifications"


@SQLITE
def test_takes_the_subscription_of_the_2017_app_over(
    config: Config, subscriber: Subscriber, khoros: FakeKhoros
) -> None:
    held_by_khoros(config, "https://old.example/createTicket")
    subscriber.step()
    assert (only(khoros).notification_uri, only(khoros).bearer_token) == (ADDRESS, TOKEN)


def test_two_processes_that_start_together_upsert_once(
    config: Config, inbox: Inbox, other: Inbox, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = new_subscriber(config, inbox), new_subscriber(config, other)
    khoros.faults.hang(1, 10, method="POST", effect=True)
    thread = threading.Thread(target=first.step)
    thread.start()
    assert khoros.faults.wait_until_hanging()
    assert second.step() == RETRY_S[0]
    khoros.faults.clear()
    thread.join(10)
    second.step()
    assert (upserts(khoros), events(caplog)) == (1, ["subscribed"])
    assert second.connection().state == "subscribed"


def test_a_process_that_died_in_its_turn_holds_the_others_up_only_so_long(
    subscriber: Subscriber, other: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    assert other.take_turn("subscribing", TURN_S)
    for _ in range(12):
        assert subscriber.step() == RETRY_S[0]
        clock.advance(TURN_S / 12)
    assert (subscriber.step(), upserts(khoros)) == (0.0, 1)


def test_a_turn_ends_even_when_the_look_breaks(config: Config, inbox: Inbox, other: Inbox, khoros: FakeKhoros) -> None:
    class Broken(KhorosClient):
        def subscriptions(self) -> Any:
            raise RuntimeError("broken")

    subscriber = new_subscriber(config, inbox)
    subscriber._khoros = Broken(config.khoros_url, config.khoros_token, config.company_id)
    with pytest.raises(RuntimeError):
        subscriber.step()
    assert other.take_turn("subscribing", TURN_S)


@pytest.mark.parametrize("answer", [{"data": {}}, {}, b"", [], {"data": None}], ids=repr)
@SQLITE
def test_an_answer_without_a_uuid_is_no_harm(answer: Any, subscriber: Subscriber, khoros: FakeKhoros) -> None:
    khoros.faults.fail(1, 201, body=answer, method="POST", effect=True)
    subscriber.step()
    assert (subscriber.connection().state, subscriber.connection().uuid) == ("subscribed", only(khoros).uuid)


@SQLITE
def test_a_list_that_is_not_to_be_had_hinders_nothing(subscriber: Subscriber, khoros: FakeKhoros) -> None:
    khoros.faults.outage(503, method="GET")
    subscriber.step()
    assert (subscriber.connection().state, only(khoros).notification_uri) == ("subscribed", ADDRESS)


@pytest.mark.parametrize("bare", [True, False])
@SQLITE
def test_bare_answers_will_do(bare: bool, subscriber: Subscriber, khoros: FakeKhoros, clock: Clock) -> None:
    khoros.bare = bare
    subscriber.step()
    an_hour_later(subscriber, clock)
    assert (subscriber.connection().state, upserts(khoros)) == ("subscribed", 1)


# While Khoros fails


@SQLITE
def test_an_hour_of_outage_is_logged_once_and_over_within_two_minutes(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
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
    assert fields(caplog, "subscription_failed")["level"] == logging.ERROR
    assert subscriber.connection().state == "failed" and "503" in subscriber.connection().detail
    khoros.faults.clear()
    back_at = clock.now
    for _ in range(3):
        clock.advance(subscriber.step())
    assert clock.now - back_at <= 120 and subscriber.connection().state == "subscribed"
    assert states(caplog) == ["subscription_failed", "subscribed"]


def test_two_processes_log_an_outage_once_between_them_at_one_time(
    config: Config, inbox: Inbox, other: Inbox, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.faults.outage(503)
    for process in (new_subscriber(config, inbox), new_subscriber(config, other)):
        process.step()
    assert states(caplog) == ["subscription_failed"]


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (lambda k: k.faults.outage(401), "it refuses SPREDFAST_API_TOKEN"),
        (lambda k: k.faults.html(9), "Developer Inactive: SPREDFAST_API_TOKEN has expired or was revoked"),
        (lambda k: k.faults.outage(586, body="<html>Not Found</html>"), "KHOROS_API_URL does not lead to the API"),
        (lambda k: k.faults.outage(200, body="<html>hello</html>", content_type="text/html"), "a web page instead"),
        (lambda k: k.faults.reset(9), "127.0.0.1 gave no answer"),
        (lambda k: k.faults.outage(422), "Khoros answered 422"),
    ],
    ids=["401", "Developer Inactive", "586", "HTML", "reset", "422"],
)
@SQLITE
def test_what_is_wrong_is_said_once_in_words_that_lead_on(
    fail: Callable[[FakeKhoros], None],
    words: str,
    subscriber: Subscriber,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(khoros)
    for _ in range(3):
        clock.advance(subscriber.step())
    connection = subscriber.connection()
    state = "refused" if "SPREDFAST_API_TOKEN" in words else "failed"
    assert (connection.state, khoros.subscriptions) == (state, []) and words in connection.detail
    assert states(caplog) == [f"subscription_{state}"]
    assert words in fields(caplog, f"subscription_{state}")["reason"]


@SQLITE
def test_another_fault_is_news(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for status in (503, 503, 401, 401, 503):
        khoros.faults.clear()
        khoros.faults.outage(status)
        clock.advance(subscriber.step())
    assert states(caplog) == ["subscription_failed", "subscription_refused", "subscription_failed"]


@SQLITE
def test_the_wait_starts_small_again_after_a_success(subscriber: Subscriber, khoros: FakeKhoros, clock: Clock) -> None:
    khoros.faults.outage(503)
    assert [subscriber.step() for _ in range(3)] == [1, 2, 5]
    khoros.faults.clear()
    assert subscriber.step() == 0
    khoros.faults.outage(503)
    clock.advance(WATCH_S)
    assert subscriber.step() == 1


# No address


@SQLITE
@pytest.mark.parametrize(
    ("on_dyno", "words"),
    [(False, "set PUBLIC_URL"), (True, 'heroku config:set PUBLIC_URL="$(heroku apps:info -s | sed')],
)
def test_without_an_address_one_line_says_what_to_do(
    on_dyno: bool,
    words: str,
    config: Config,
    inbox: Inbox,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(replace(config, public_url="", on_dyno=on_dyno), inbox)
    for _ in range(20):
        clock.advance(subscriber.step())
    assert (events(caplog), khoros.subscriptions) == (["subscription_no_address"], [])
    assert words in fields(caplog, "subscription_no_address")["reason"]
    assert subscriber.connection().state == "no_address" and words in subscriber.connection().detail


# The watch


def test_the_watch_looks_once_an_hour_and_not_sooner(subscriber: Subscriber, khoros: FakeKhoros, clock: Clock) -> None:
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
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    khoros.forget_subscriptions()
    an_hour_later(subscriber, clock)
    assert (only(khoros).notification_uri, only(khoros).bearer_token) == (ADDRESS, TOKEN)
    assert subscriber.connection().uuid == only(khoros).uuid
    told = fields(caplog, "subscription_mended")
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
def test_a_subscription_that_was_changed_is_put_right(
    changes: dict[str, Any],
    subscriber: Subscriber,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber.step()
    before = only(khoros)
    change(khoros, **changes)
    an_hour_later(subscriber, clock)
    assert only(khoros) == before
    assert fields(caplog, "subscription_mended")["reason"] == "it was changed"


@SQLITE
@pytest.mark.parametrize("at_start", [True, False])
def test_a_disabled_subscription_is_activated_again_loudly(
    at_start: bool,
    config: Config,
    inbox: Inbox,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.set_status("DISABLED")
    an_hour_later(new_subscriber(config, inbox) if at_start else subscriber, clock)
    assert (only(khoros).status, subscriber.connection().state) == ("ACTIVE", "subscribed")
    assert fields(caplog, "subscription_reactivated")["level"] == logging.ERROR
    assert inbox.recall("subscription_mended_at") == str(inbox.now())  # labels may have been lost: people are told


@SQLITE
@pytest.mark.parametrize("at_start", [True, False])
def test_a_paused_subscription_is_left_alone_and_said_once(
    at_start: bool,
    config: Config,
    inbox: Inbox,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.set_status("PAUSED")
    subscriber = new_subscriber(config, inbox) if at_start else subscriber
    for _ in range(3):
        an_hour_later(subscriber, clock)
    assert (only(khoros).status, subscriber.connection().state) == ("PAUSED", "paused")
    assert "PUT" not in [call.method for call in khoros.calls]
    assert "flask --app app subscription resume" in fields(caplog, "subscription_paused")["reason"]


@SQLITE
def test_a_subscription_resumed_in_khoros_is_noticed(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    khoros.set_status("PAUSED")
    an_hour_later(subscriber, clock)
    khoros.set_status("ACTIVE")
    an_hour_later(subscriber, clock)
    assert events(caplog) == ["subscribed", "subscription_paused", "subscribed"]


@SQLITE
def test_two_subscriptions_of_our_name_are_named_once(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    change(khoros, uuid="the-double")
    for _ in range(3):
        an_hour_later(subscriber, clock)
    told = fields(caplog, "subscription_doubled")
    assert "the-double" in told["subscriptions"] and subscriber.connection().uuid in told["subscriptions"]
    assert told["level"] == logging.WARNING


@SQLITE
def test_another_subscription_with_our_address_is_named_once(
    config: Config, subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    held_by_khoros(config, ADDRESS, external_id="somebody-elses")
    held_by_khoros(config, "https://elsewhere.example/notifications", external_id="harmless")
    for _ in range(3):
        an_hour_later(subscriber, clock)
    other = next(s for s in khoros.subscriptions if s.external_id == "somebody-elses")
    assert fields(caplog, "subscription_beside_ours")["subscription"] == other.uuid


@SQLITE
def test_a_subscription_of_another_company_is_not_ours(subscriber: Subscriber, config: Config) -> None:
    from khoros_client import Subscription

    def held(company_id: str, external_id: str = "send-to-zendesk") -> Subscription:
        return Subscription("s-1", external_id, company_id, EVENT_NAME, ADDRESS, "CreateCase", "ACTIVE", "")

    listed = [held("123"), held(""), held("999"), held("123", "other")]
    assert subscriber.ours(listed) == listed[:2]


@SQLITE
def test_an_outage_at_the_watch_is_said_and_over(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.step()
    uuid = only(khoros).uuid
    khoros.faults.outage(503)
    an_hour_later(subscriber, clock)
    assert (subscriber.connection().state, subscriber.connection().uuid) == ("failed", uuid)
    khoros.faults.clear()
    clock.advance(2)
    subscriber.step()
    assert subscriber.connection().state == "subscribed"
    assert states(caplog) == ["subscribed", "subscription_failed", "subscribed"]


@SQLITE
def test_a_clock_set_back_by_a_day_does_not_stop_the_watch(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber.step()
    khoros.forget_subscriptions()
    clock.advance(-86_400)
    subscriber.step()
    assert len(khoros.subscriptions) == 1


# Deleted by command


def test_a_retired_subscription_stays_deleted_over_a_restart_until_told_otherwise(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.forget_subscriptions()
    subscriber.retire()
    for process in (subscriber, new_subscriber(config, inbox)):
        caplog.clear()
        for _ in range(3):
            clock.advance(WATCH_S)
            assert process.step() == 60
        assert "subscription resume" in fields(caplog, "subscription_deleted")["reason"]
    assert khoros.subscriptions == [] and subscriber.connection().state == "deleted"
    subscriber.look_again()
    subscriber.step()
    assert (len(khoros.subscriptions), subscriber.connection().state) == (1, "subscribed")


# The thread


def test_in_the_background_it_subscribes_and_stops_when_told(subscriber: Subscriber, khoros: FakeKhoros) -> None:
    subscriber.loop.start()
    wait_for(lambda: subscriber.connection().state == "subscribed")
    subscriber.loop.stop()
    subscriber.loop.join(10)
    assert not subscriber.loop.running and upserts(khoros) == 1


# The address, learned from the first visit


def visit(app: Flask, host: str, path: str = "/", method: str = "GET", **headers: str) -> None:
    """A visit as Heroku's router hands it over."""
    given = {"X-Forwarded-Proto": "https", "Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}}
    app.test_client().open(path, method=method, headers=given, buffered=True)


def learned(app: Flask) -> str | None:
    return relay_of(app).inbox.recall("public_url")


NewApp = Callable[[Config], Flask]


def test_the_first_visit_teaches_the_address_and_the_next_step_subscribes_with_it(
    on_heroku: Config, new_app: NewApp, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(on_heroku)
    relay_of(app).subscriber.step()
    assert relay_of(app).subscriber.connection().state == "no_address"
    visit(app, OURS)
    relay_of(app).subscriber.step()
    assert only(khoros).notification_uri == f"https://{OURS}/notifications"
    assert fields(caplog, "address_learned")["url"] == f"https://{OURS}"


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
def test_a_name_that_is_ours_is_learned(host: str, remembered: str, on_heroku: Config, new_app: NewApp) -> None:
    app = new_app(on_heroku)
    visit(app, host, X_Forwarded_Host="evil.com", Forwarded="host=evil.com")
    assert learned(app) == f"https://{remembered}"


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
def test_a_name_that_is_not_ours_is_not_learned(on_heroku: Config, new_app: NewApp) -> None:
    app = new_app(on_heroku)
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
def test_only_a_get_of_the_page_over_https_teaches_the_address(on_heroku: Config, new_app: NewApp) -> None:
    app = new_app(on_heroku)
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
    changes: dict[str, Any], on_heroku: Config, new_app: NewApp
) -> None:
    app = new_app(replace(on_heroku, **changes))
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
    name: str, host: str, ours: bool, on_heroku: Config, new_app: NewApp
) -> None:
    app = new_app(replace(on_heroku, heroku_app_name=name))
    visit(app, host)
    assert (learned(app) is not None) == ours


@SQLITE
def test_a_second_name_is_not_learned_and_said_once(
    on_heroku: Config, new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(on_heroku)
    for host in (OURS, OURS, "relay-evil.herokuapp.com", "relay-evil.herokuapp.com"):
        visit(app, host)
    assert learned(app) == f"https://{OURS}"
    told = fields(caplog, "address_ignored")
    assert told["host"] == "relay-evil.herokuapp.com" and "set PUBLIC_URL" in told["reason"]


def test_the_learned_address_is_remembered_over_a_restart(
    on_heroku: Config, new_app: NewApp, inbox: Inbox, khoros: FakeKhoros
) -> None:
    visit(new_app(on_heroku), OURS)
    new_subscriber(on_heroku, inbox).step()
    assert only(khoros).notification_uri == f"https://{OURS}/notifications"


@SQLITE
def test_a_configured_address_goes_before_the_learned_one(config: Config, inbox: Inbox, khoros: FakeKhoros) -> None:
    inbox.remember("public_url", f"https://{OURS}")
    new_subscriber(config, inbox).step()
    assert only(khoros).notification_uri == ADDRESS


def test_a_new_database_takes_the_address_from_the_subscription_khoros_holds(
    on_heroku: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    held_by_khoros(on_heroku, f"https://{OURS}/notifications")
    subscriber = new_subscriber(on_heroku, inbox)
    subscriber.step()
    assert subscriber.connection().state == "subscribed"
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
def test_an_address_khoros_holds_that_could_not_be_ours_is_not_taken(
    uri: str, on_heroku: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    held_by_khoros(on_heroku, uri)
    subscriber = new_subscriber(on_heroku, inbox)
    subscriber.step()
    assert (subscriber.connection().state, upserts(khoros)) == ("no_address", 1)


@SQLITE
def test_away_from_heroku_no_address_is_taken_from_khoros(on_heroku: Config, inbox: Inbox, khoros: FakeKhoros) -> None:
    held_by_khoros(on_heroku, f"https://{OURS}/notifications")
    subscriber = new_subscriber(replace(on_heroku, on_dyno=False), inbox)
    subscriber.step()
    assert subscriber.connection().state == "no_address"


def test_a_rotated_token_reaches_khoros_even_when_the_first_attempt_fails(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, inbox).step()
    clock.advance(10)
    khoros.faults.outage(503)
    subscriber = new_subscriber(replace(config, bearer_tokens=("another-made-up-token",)), inbox)
    subscriber.step()
    khoros.faults.clear()
    for _ in range(5):
        clock.advance(subscriber.step())
    assert subscriber.connection().state == "subscribed"
    assert khoros.subscriptions[0].bearer_token == "another-made-up-token"


def test_a_rotated_token_reaches_khoros_when_a_pause_is_ended_there(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    new_subscriber(config, inbox).step()
    khoros.set_status("PAUSED")
    clock.advance(10)
    subscriber = new_subscriber(replace(config, bearer_tokens=("another-made-up-token",)), inbox)
    subscriber.step()
    khoros.set_status("ACTIVE")
    clock.advance(3600)
    subscriber.step()
    assert khoros.subscriptions[0].bearer_token == "another-made-up-token"


def test_an_outage_is_one_line_and_a_first_subscription_is_not_called_mended(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.faults.outage(503)
    subscriber = new_subscriber(config, inbox)
    for _ in range(20):
        clock.advance(subscriber.step())
    khoros.faults.clear()
    subscriber.step()
    assert subscriber.connection().detail == ""
    assert events(caplog) == ["subscription_failed", "subscribed"]


def test_a_clock_set_back_does_not_hammer_khoros(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    clock.advance(-60)
    asked = len(khoros.calls)
    for _ in range(20):  # what the thread does without any wait between
        if subscriber.step() > 0:
            break
    assert len(khoros.calls) - asked <= 4


def test_an_address_taken_from_khoros_outlives_the_subscription(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    config = replace(config, public_url="", on_dyno=True, heroku_app_name="relay")
    client = KhorosClient(config.khoros_url, config.khoros_token, 123)
    client.subscribe(
        external_id="send-to-zendesk", notification_uri=f"https://{OURS}/notifications", query="x", bearer_token="t"
    )
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.forget_subscriptions()
    clock.advance(3600)
    subscriber.step()
    assert (subscriber.connection().state, len(khoros.subscriptions)) == ("subscribed", 1)


def test_a_visit_corrects_an_address_taken_from_khoros_at_once(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    """Khoros still holds the old app's address under our name; the success_url page opens the new app's."""
    config = replace(config, public_url="", on_dyno=True)
    client = KhorosClient(config.khoros_url, config.khoros_token, 123)
    client.subscribe(
        external_id="send-to-zendesk",
        notification_uri="https://old-app-0123.herokuapp.com/notifications",
        query="x",
        bearer_token="t",
    )
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    subscriber.learn_address(OURS, secure=True)
    for _ in range(3):
        clock.advance(subscriber.step())
    assert khoros.subscriptions[0].notification_uri == f"https://{OURS}/notifications"


def test_a_pause_is_seen_even_when_the_list_is_not_to_be_had(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.set_status("PAUSED")
    khoros.faults.fail(1, 503, method="GET")
    clock.advance(3600)
    for _ in range(2):
        clock.advance(subscriber.step())
    assert subscriber.connection().state == "paused"


def test_a_list_that_fails_once_at_the_watch_is_not_called_gone(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.faults.fail(1, 503, method="GET")
    clock.advance(3600)
    subscriber.step()
    assert "subscription_mended" not in events(caplog)


def test_another_subscription_with_our_address_is_named_at_the_very_first_start(
    config: Config, inbox: Inbox, khoros: FakeKhoros, caplog: pytest.LogCaptureFixture
) -> None:
    client = KhorosClient(config.khoros_url, config.khoros_token, 123)
    client.subscribe(
        external_id="older-relay", notification_uri=f"{NOWHERE}/notifications", query="x", bearer_token="t"
    )
    new_subscriber(config, inbox).step()
    assert "subscription_beside_ours" in events(caplog)


def test_a_delete_during_a_look_is_not_undone(config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()

    class Meanwhile(KhorosClient):
        def subscriptions(self) -> Any:
            listed = super().subscriptions()
            subscriber.retire()  # as `subscription delete` does in another process
            khoros.forget_subscriptions()
            return listed

    subscriber._khoros = Meanwhile(config.khoros_url, config.khoros_token, 123)
    clock.advance(3600)
    subscriber.step()
    assert subscriber.connection().state == "deleted"
