"""What no push brought is fetched, once, whatever the order and the shape; and last year is not turned into tickets."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import (
    Clock,
    events,
    fields,
    new_config,
    new_subscriber,
    notification,
    rows,
)

from catch_up import OFF_S, PAGES, TURN_S, CatchUp
from config import Config
from inbox import Inbox
from intake import Intake
from khoros_client import KhorosClient, read_date
from sandbox.khoros import FakeKhoros, _Event, chicago
from subscription import Subscriber

pytestmark = pytest.mark.usefixtures("clean_log")

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database makes no difference
DAY_S = 86_400.0
EVERY_S = 300.0

Order = Literal["newest", "oldest"]
orders = pytest.mark.parametrize("order", ["newest", "oldest"])


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    emptied: Callable[[], str] = request.getfixturevalue("emptied") if request.param == "postgresql" else str
    return emptied() or f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def config(database_url: str, khoros: FakeKhoros) -> Config:
    url = khoros.url  # type: ignore[attr-defined]
    return new_config(database_url=database_url, khoros_url=url, catch_up_s=EVERY_S)


@pytest.fixture
def woken() -> list[None]:
    """One entry for each time the delivery was woken."""
    return []


@pytest.fixture
def subscriber(config: Config, inbox: Inbox, khoros: FakeKhoros, woken: list[None]) -> Subscriber:
    """A service that has subscribed and polled for the first time."""
    subscriber = new_subscriber(config, inbox, lambda: woken.append(None))
    assert subscriber.step() == 0.0
    subscriber.step()
    return subscriber


def put(khoros: FakeKhoros, name: str, at: float | str, **changes: Any) -> None:
    """Lets an event have happened that nobody pushed, dated `at`."""
    date = at if isinstance(at, str) else chicago(at)
    event = {**notification(name, f"p:{name}"), "createdDate": date, **changes}
    khoros._events[name] = _Event(khoros.subscriptions[0].uuid, event)


def poll(subscriber: Subscriber, clock: Clock, after_s: float = EVERY_S) -> None:
    """Turns the clock and lets the service do what is due; at most a look at the subscription and a poll."""
    clock.advance(after_s)
    for _ in range(3):
        if subscriber.step() > 0:
            return


def taken(inbox: Inbox) -> list[str]:
    return [row[0] for row in rows(inbox)]


def polls(khoros: FakeKhoros) -> list[str]:
    """The query of each poll so far."""
    return [call.query for call in khoros.calls if "/events/data/" in call.path]


# What was missed


@pytest.mark.parametrize("shape", ["bare", "data", "data.items"])
@orders
def test_what_was_missed_is_fetched_once(
    order: Order,
    shape: Literal["bare", "data", "data.items"],
    subscriber: Subscriber,
    khoros: FakeKhoros,
    inbox: Inbox,
    clock: Clock,
    woken: list[None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    khoros.event_order, khoros.events_shape = order, shape
    posts = list(khoros.posts)[:3]
    missed = [khoros.label(post, "CreateCase")[0] for post in posts]
    for _ in range(3):
        poll(subscriber, clock)
    assert sorted(taken(inbox)) == sorted(missed)
    assert {row[1] for row in rows(inbox)} == set(posts)
    assert (fields(caplog, "caught_up")["accepted"], len(woken)) == (3, 1)


def test_what_was_missed_before_a_start_is_fetched_at_the_start(
    config: Config, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    """Two days off, which an event in the middle of the first day must outlast."""
    clock.advance(DAY_S / 2)
    put(khoros, "while-it-was-off", clock.now)
    clock.advance(1.5 * DAY_S)
    poll(new_subscriber(config, other), clock, 0)
    assert taken(inbox) == ["while-it-was-off"]


def test_what_was_pushed_is_not_doubled_and_not_spoken_of(
    config: Config,
    subscriber: Subscriber,
    khoros: FakeKhoros,
    inbox: Inbox,
    clock: Clock,
    woken: list[None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(khoros, "e1", clock.now)
    Intake(config, inbox).take(khoros.event("e1"), source="push")
    caplog.clear()
    for _ in range(3):
        poll(subscriber, clock)
    assert (taken(inbox), events(caplog), woken) == (["e1"], [], [])


@SQLITE
def test_what_was_polled_is_marked_so_that_its_ticket_is_looked_up_first(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    poll(subscriber, clock)
    kept: list[Any] = []
    inbox.claim(1, 60, kept.append)  # type: ignore[arg-type]
    assert kept[0].source == "poll"


@SQLITE
def test_events_that_are_not_ours_are_passed_over_in_silence(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(khoros, "company", clock.now, companyId=9)
    put(khoros, "label", clock.now, data={"labels": ["Praise"], "items": [{"entityId": "p:1"}]})
    caplog.clear()
    poll(subscriber, clock)
    assert (taken(inbox), events(caplog)) == ([], [])


@SQLITE
def test_unreadable_events_are_parked_once_and_the_others_are_taken(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(khoros, "no-name", clock.now, eventName=None)
    put(khoros, "no-uuid", clock.now, eventUuid=None)
    put(khoros, "good", clock.now)
    for _ in range(3):
        poll(subscriber, clock)
    assert sorted((row[1], row[2]) for row in rows(inbox)) == [("", "parked"), ("", "parked"), ("p:good", "pending")]
    assert len(events(caplog, "parked")) == 2


# What is too old


@orders
def test_a_first_deploy_on_an_old_subscription_does_not_turn_last_year_into_tickets(
    order: Order, config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    khoros.event_order = order
    client = KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    client.subscribe(external_id="send-to-zendesk", notification_uri="", query="CreateCase", bearer_token="of-before")
    for number in range(110):
        put(khoros, f"old-{number}", clock.now + number * 60)
    clock.advance(300 * DAY_S)
    put(khoros, "two-minutes-before", clock.now - 120)
    subscriber = new_subscriber(config, inbox)
    poll(subscriber, clock, 0)
    put(khoros, "new", clock.now + 10)
    poll(subscriber, clock)
    assert taken(inbox) == ["new"]


@SQLITE
def test_an_event_may_appear_up_to_an_hour_late(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    clock.advance(DAY_S)
    put(khoros, "newest", clock.now)
    poll(subscriber, clock)
    put(khoros, "late", clock.now - EVERY_S - 3500)
    put(khoros, "far-too-late", clock.now - EVERY_S - 3700)
    poll(subscriber, clock)
    assert taken(inbox) == ["newest", "late"]


@SQLITE
def test_clocks_that_differ_by_half_a_minute_lose_nothing(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    put(khoros, "early", clock.now - 30)
    put(khoros, "far-too-early", clock.now - 90)
    poll(subscriber, clock)
    assert taken(inbox) == ["early"]


@SQLITE
@orders
def test_an_event_dated_in_the_future_hides_none_that_come_after_it(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    khoros.event_order = order
    put(khoros, "future", clock.now + 300 * DAY_S)
    poll(subscriber, clock)
    clock.advance(DAY_S)
    put(khoros, "next", clock.now)
    poll(subscriber, clock)
    assert taken(inbox) == ["future", "next"]


# Many pages


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten events a page, so that few are many."""
    monkeypatch.setattr("catch_up.PAGE_SIZE", 10)


@orders
@pytest.mark.usefixtures("small_pages")
def test_many_pages_are_fetched_and_the_next_poll_is_short(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    khoros.event_order = order
    for number in range(35):
        put(khoros, f"e{number}", clock.now + number * 600)
    clock.advance(35 * 600)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 35
    asked = len(polls(khoros))
    assert all("limit=10" in query for query in polls(khoros))
    put(khoros, "last", clock.now)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 36 and len(polls(khoros)) - asked <= 3


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_events_in_no_order_at_all_are_fetched(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    numbers = list(range(25))
    random.Random(7).shuffle(numbers)
    for number in numbers:
        put(khoros, f"e{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 25
    for number in range(25, 30):
        put(khoros, f"e{number}", clock.now + 30 - number)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 30


@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
def test_many_events_of_one_second_are_fetched(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    khoros.event_order = order
    for round_number in range(2):
        for number in range(23):
            put(khoros, f"e{round_number}-{number}", clock.now)
        poll(subscriber, clock)
        assert len(taken(inbox)) == 23 * (round_number + 1)


@pytest.mark.parametrize("gone", [0, 6, 10, 20, 25])
@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
def test_events_that_disappear_at_khoros_hide_no_new_ones(
    order: Order, gone: int, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    khoros.event_order = order
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number * 100)
    clock.advance(2500)
    poll(subscriber, clock)
    for number in range(gone):
        del khoros._events[f"e{number}"]
    for number in range(12):
        put(khoros, f"new-{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 37


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_a_new_subscriptions_events_are_read_from_their_beginning(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    khoros.event_order = "oldest"
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number)
    poll(subscriber, clock)
    khoros.forget_subscriptions()
    khoros._events.clear()
    poll(subscriber, clock, 3600)
    for number in range(2):
        put(khoros, f"new-{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(inbox)) == 27


class Odd(KhorosClient):
    """A Khoros whose pages a test makes up."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9/v2", "made-up-khoros-token", 123)
        self.asked = 0
        self.pages: Iterator[list[dict[str, Any]]] = iter(())

    def events(self, uuid: str, *, offset: int, limit: int) -> list[dict[str, Any]]:
        self.asked += 1
        return next(self.pages)


@pytest.fixture
def odd() -> Odd:
    return Odd()


@pytest.fixture
def catch_up(inbox: Inbox, odd: Odd, clock: Clock) -> CatchUp:
    inbox.remember("first_subscribed_at", str(clock.now))
    config = new_config(catch_up_s=EVERY_S)
    return CatchUp(config, inbox, Intake(config, inbox), odd, lambda: None)


@SQLITE
@pytest.mark.parametrize("rising", [True, False])
def test_a_khoros_that_ignores_the_offset_is_asked_twice_and_not_for_ever(
    rising: bool, catch_up: CatchUp, odd: Odd, inbox: Inbox, clock: Clock
) -> None:
    def repeated() -> Iterator[list[dict[str, Any]]]:
        for _ in range(PAGES):
            dates = [chicago(clock.now + (n if rising else -n)) for n in range(20)]
            yield [{**notification(f"e{n}", f"p:{n}"), "createdDate": date} for n, date in enumerate(dates)]

    odd.pages = repeated()
    for turn in (1, 2, 3):
        catch_up.step("s-1", "")
        assert odd.asked == 2 * turn
        clock.advance(EVERY_S)
    assert len(taken(inbox)) == 20


@SQLITE
def test_a_khoros_whose_pages_never_end_is_left_after_a_thousand(
    catch_up: CatchUp, odd: Odd, inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = chicago(clock.now - DAY_S)
    odd.pages = ([{**notification(f"e{n}"), "createdDate": old}] for n in range(2 * PAGES))
    assert catch_up.step("s-1", "") == EVERY_S
    assert odd.asked == PAGES
    assert fields(caplog, "catch_up_unfinished")["events"] == PAGES
    odd.pages = iter([[{**notification("new"), "createdDate": chicago(clock.now)}], []])
    clock.advance(EVERY_S)
    catch_up.step("s-1", "")
    assert taken(inbox) == ["new"]


# Unreadable dates


@pytest.mark.parametrize("date", ["some day", "", None, 17, "Wed Apr 12 09:01:11 QQQ 2017", {"at": 1}], ids=repr)
@SQLITE
def test_an_event_without_a_readable_date_is_taken_while_the_subscription_is_young(
    date: Any, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    assert read_date(date) is None
    put(khoros, "undated", "", createdDate=date)
    put(khoros, "dated", clock.now)
    for _ in range(2):
        poll(subscriber, clock)
    assert sorted(taken(inbox)) == ["dated", "undated"]


def test_an_event_without_a_readable_date_is_left_and_logged_once_when_the_subscription_is_old(
    subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.advance(DAY_S + 1)
    put(khoros, "undated", "some day")
    put(khoros, "dated", clock.now)
    for _ in range(3):
        poll(subscriber, clock)
    assert taken(inbox) == ["dated"]
    assert fields(caplog, "event_undated")["event_uuid"] == "undated"


@SQLITE
def test_a_subscription_without_a_readable_date_counts_as_old(
    config: Config, khoros: FakeKhoros, inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    new_subscriber(config, inbox).step()
    [held] = khoros.subscriptions
    khoros._subscriptions[held.uuid] = replace(held, created_date="some day")
    clock.advance(10)
    put(khoros, "undated", "some day")
    poll(new_subscriber(config, inbox), clock, 0)
    assert (taken(inbox), events(caplog, "event_undated")) == ([], ["event_undated"])


# When Khoros answers nonsense, or not at all


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "body": "<html>hello</html>"},
        {"status": 200, "body": {"data": {"nothing": "here"}}},
        {"status": 200, "body": {"data": None}},
        {"status": 200, "body": b"\xff\xfe"},
        {"status": 200, "body": b""},
        {"status": 200, "body": b"[" * 100_000},
        {"status": 200, "body": "17"},
        {"status": 200, "body": {"status": {"succeeded": False, "error": {"code": "500", "message": "no"}}}},
        {"status": 401},
        {"status": 404},
        {"status": 503},
        {"status": 586, "body": "<html>Not Found</html>"},
    ],
    ids=lambda answer: repr(answer)[:60],
)
@SQLITE
def test_an_answer_that_cannot_be_read_is_one_warning_and_no_harm(
    answer: dict[str, Any],
    subscriber: Subscriber,
    khoros: FakeKhoros,
    inbox: Inbox,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(khoros, "e1", clock.now)
    khoros.faults.outage(**answer, path="/v2/events/data/")
    for _ in range(3):
        poll(subscriber, clock)
    assert (events(caplog), taken(inbox)) == (["catch_up_failed"], [])
    assert subscriber.connection().state == "subscribed"
    khoros.faults.clear()
    poll(subscriber, clock)
    assert taken(inbox) == ["e1"]


@pytest.mark.parametrize("shape", ["bare", "data"])
@SQLITE
def test_entries_that_are_no_events_are_passed_over(
    shape: str, subscriber: Subscriber, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    good = {**notification("good"), "createdDate": chicago(clock.now)}
    listed = [1, None, "text", [good], good]
    body = json.dumps({"data": listed} if shape == "data" else listed)
    khoros.faults.fail(1, 200, body=body, path="/v2/events/data/")
    poll(subscriber, clock)
    assert taken(inbox) == ["good"]


@SQLITE
def test_a_second_trouble_after_a_recovery_is_told_again(
    subscriber: Subscriber, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        khoros.faults.fail(1, 503, path="/v2/events/data/")
        poll(subscriber, clock)
        poll(subscriber, clock)
    assert events(caplog, "catch_up_failed") == ["catch_up_failed"] * 2


@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
def test_a_failure_between_pages_keeps_what_came_and_fetches_the_rest_later(
    order: Order, config: Config, khoros: FakeKhoros, inbox: Inbox, clock: Clock
) -> None:
    class Stumbling(KhorosClient):
        def events(self, uuid: str, *, offset: int, limit: int) -> list[dict[str, Any]]:
            if offset == 10:
                khoros.faults.fail(1, 503)
            return super().events(uuid, offset=offset, limit=limit)

    khoros.event_order = order
    new_subscriber(config, inbox).step()
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number)
    good, bad = (kind(config.khoros_url, config.khoros_token, 123) for kind in (KhorosClient, Stumbling))
    uuid = khoros.subscriptions[0].uuid
    CatchUp(config, inbox, Intake(config, inbox), bad, lambda: None).step(uuid, "")
    assert len(taken(inbox)) == 10
    clock.advance(EVERY_S)
    CatchUp(config, inbox, Intake(config, inbox), good, lambda: None).step(uuid, "")
    assert len(taken(inbox)) == 25


# When it polls


@SQLITE
def test_polls_at_every_start_and_then_every_few_minutes(
    config: Config, subscriber: Subscriber, other: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    asked = len(polls(khoros))
    assert asked == 1
    for _ in range(int(EVERY_S / 20) - 1):
        clock.advance(20)
        assert 0 < subscriber.step() <= 60
    assert len(polls(khoros)) == asked
    clock.advance(20)
    subscriber.step()
    assert len(polls(khoros)) == asked + 1
    clock.advance(20)
    poll(new_subscriber(config, other), clock, 0)
    assert len(polls(khoros)) == asked + 2


def test_two_processes_share_the_polls(
    config: Config, subscriber: Subscriber, other: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    second = new_subscriber(config, other)
    for _ in range(3):
        second.step()
    asked = len(polls(khoros))
    for _ in range(30):
        clock.advance(EVERY_S / 3)
        subscriber.step()
        second.step()
    assert len(polls(khoros)) - asked == 10


def test_while_one_process_polls_the_other_does_not(
    config: Config, subscriber: Subscriber, inbox: Inbox, other: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    second = new_subscriber(config, other)
    second.step()
    put(khoros, "e1", clock.now)
    clock.advance(EVERY_S)
    khoros.faults.hang(1, 10, path="/v2/events/data/", effect=True)
    thread = threading.Thread(target=subscriber.step)
    thread.start()
    assert khoros.faults.wait_until_hanging()
    asked = len(polls(khoros))
    assert (second.step(), len(polls(khoros))) == (1.0, asked)
    khoros.faults.clear()
    thread.join(10)
    assert taken(inbox) == ["e1"]


def test_a_process_that_died_while_it_polled_holds_the_others_up_only_so_long(
    subscriber: Subscriber, other: Inbox, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    clock.advance(EVERY_S)
    assert other.take_turn("catching_up", TURN_S)
    assert subscriber.step() == 1.0 and taken(inbox) == []
    clock.advance(TURN_S)
    subscriber.step()
    assert taken(inbox) == ["e1"]


@SQLITE
def test_a_clock_set_back_by_a_day_does_not_stop_the_polls(catch_up: CatchUp, odd: Odd, clock: Clock) -> None:
    odd.pages = iter([[]] * 9)
    assert catch_up.step("s-1", "") == EVERY_S
    clock.advance(-DAY_S)
    assert catch_up.step("s-1", "") == EVERY_S
    assert odd.asked == 2


@SQLITE
def test_zero_minutes_switch_it_off(config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock) -> None:
    subscriber = new_subscriber(replace(config, catch_up_s=0.0), inbox)
    subscriber.step()
    put(khoros, "e1", clock.now)
    for _ in range(10):
        assert subscriber.step() == 60
        clock.advance(60)
    assert (polls(khoros), taken(inbox)) == ([], [])


@SQLITE
def test_without_a_subscription_there_is_nothing_to_poll(catch_up: CatchUp, odd: Odd) -> None:
    assert (catch_up.step("", ""), odd.asked) == (OFF_S, 0)


# Poll only


@orders
def test_without_pushes_everything_arrives_by_polling(
    order: Order, config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.event_order = order
    config = replace(config, polling=True, public_url="", poll_s=15.0, catch_up_s=0.0)
    subscriber = new_subscriber(config, inbox)
    assert subscriber.step() == 0.0
    [held] = khoros.subscriptions
    assert (held.notification_uri, subscriber.connection().state) == (None, "subscribed")
    labelled: list[str] = []
    for _ in range(8):
        assert subscriber.step() <= 15
        assert taken(inbox) == labelled
        clock.advance(14)
        labelled += khoros.label(next(iter(khoros.posts)), "CreateCase")
        clock.advance(1)
    assert khoros.pushes == [] and "subscription_mended" not in events(caplog)


@SQLITE
def test_switching_to_polling_takes_the_address_out_of_the_subscription(
    config: Config, subscriber: Subscriber, inbox: Inbox, khoros: FakeKhoros, clock: Clock
) -> None:
    clock.advance(10)
    new_subscriber(replace(config, polling=True, public_url=""), inbox).step()
    [held] = khoros.subscriptions
    assert held.notification_uri is None


def test_two_swapped_events_at_the_end_of_a_newest_first_list_hide_no_new_ones(
    config: Config, inbox: Inbox, khoros: FakeKhoros, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catch_up.PAGE_SIZE", 10)
    new_subscriber(config, inbox).step()
    uuid, khoros.event_order = khoros.subscriptions[0].uuid, "newest"
    config = replace(config, catch_up_s=300.0)
    client = KhorosClient(config.khoros_url, config.khoros_token, 123)
    catch_up = CatchUp(config, inbox, Intake(config, inbox), client, lambda: None)

    def put(name: str, at: float) -> None:
        khoros._events[name] = _Event(uuid, {**notification(name, f"p:{name}"), "createdDate": chicago(at)})

    for number in range(42):
        put(f"e{number}", clock.now + {0: 1, 1: 0}.get(number, number) * 10)
    clock.advance(420)
    catch_up.step(uuid, "")
    for number in range(20):
        clock.advance(300)
        put(f"new{number}", clock.now)
        catch_up.step(uuid, "")
        assert f"new{number}" in [row[0] for row in rows(inbox)]
