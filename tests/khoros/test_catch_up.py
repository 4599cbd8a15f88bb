"""Events that no push brought are fetched once, in any order and shape; last year's make no tickets."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import (
    Clock,
    events,
    fields_of,
    new_config,
    new_receiver,
    new_subscriber,
    notification,
    rows,
)

from config import Config
from events import LABEL_APPLIED, Event, read_date
from inbox.database import Database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from khoros.catch_up import OFF_S, PAGES, POLL_TURN_S, CatchUp
from khoros.receive import Receiver
from khoros.subscription import Subscriber
from khoros_client import KhorosClient
from sandbox.khoros import FakeKhoros, _Event, chicago

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
def woken() -> list[int]:
    """A 1 for each time the delivery was woken."""
    return []


@pytest.fixture
def subscriber(config: Config, database: Database, khoros: FakeKhoros, woken: list[int]) -> Subscriber:
    """A service that has subscribed and polled for the first time."""
    subscriber = new_subscriber(config, database, lambda: woken.append(1))
    assert subscriber.step() == 0.0
    subscriber.step()
    return subscriber


def put(khoros: FakeKhoros, name: str, at: float | str, **changes: Any) -> None:
    """Lets an event have happened that nobody pushed, dated `at`."""
    date = at if isinstance(at, str) else chicago(at)
    event = {**notification(name, f"p:{name}"), "createdDate": date, **changes}
    khoros._events[name] = _Event(khoros.subscriptions[0].uuid, event)


def new_catch_up(config: Config, database: Database, client: KhorosClient) -> CatchUp:
    """Catching up alone, for what this client answers."""
    receiver = new_receiver(config, Inbox(database))
    return CatchUp(config, Facts(database), receiver, client)


def poll(subscriber: Subscriber, clock: Clock, after_s: float = EVERY_S) -> None:
    """Turns the clock and lets the service do what is due; at most a look at the subscription and a poll."""
    clock.advance(after_s)
    for _ in range(3):
        if subscriber.step() > 0:
            return


def taken(database: Database) -> list[str]:
    return [row[0] for row in rows(database)]


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
    database: Database,
    clock: Clock,
    woken: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    khoros.event_order, khoros.events_shape = order, shape
    posts = list(khoros.posts)[:3]
    missed = [khoros.label(post, "CreateCase")[0] for post in posts]
    for _ in range(3):
        poll(subscriber, clock)
    assert sorted(taken(database)) == sorted(missed)
    assert {row[1] for row in rows(database)} == set(posts)
    assert (fields_of(caplog, "caught_up")["accepted"], sum(woken)) == (3, 3)


def test_what_was_missed_before_a_start_is_fetched_at_the_start(
    config: Config,
    subscriber: Subscriber,
    khoros: FakeKhoros,
    database: Database,
    other_database: Database,
    clock: Clock,
) -> None:
    """Two days off, which an event in the middle of the first day must outlast."""
    clock.advance(DAY_S / 2)
    put(khoros, "while-it-was-off", clock.now)
    clock.advance(1.5 * DAY_S)
    poll(new_subscriber(config, other_database), clock, 0)
    assert taken(database) == ["while-it-was-off"]


def test_what_was_pushed_is_neither_doubled_nor_logged(
    config: Config,
    subscriber: Subscriber,
    khoros: FakeKhoros,
    database: Database,
    clock: Clock,
    woken: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(khoros, "e1", clock.now)
    new_receiver(config, Inbox(database)).take(khoros.event("e1"), source="push")
    caplog.clear()
    for _ in range(3):
        poll(subscriber, clock)
    assert (taken(database), events(caplog), sum(woken)) == (["e1"], [], 0)


@SQLITE
def test_what_was_polled_is_marked_so_that_its_ticket_is_looked_up_first(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    poll(subscriber, clock)
    assert [record.source for record in Records(database).latest()] == ["poll"]


@SQLITE
def test_events_that_are_not_ours_are_ignored_without_a_line(
    config: Config, database: Database, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def names_for(event: Event) -> tuple[str, ...]:
        return () if "Praise" in event.labels else ("zendesk",)

    client, facts = KhorosClient(config.khoros_url, config.khoros_token, 123), Facts(database)
    receiver = Receiver(config.bearer_tokens, config.company_id, names_for, Inbox(database), lambda: None)
    subscriber = Subscriber(config, facts, client, CatchUp(config, facts, receiver, client))
    subscriber.step()
    put(khoros, "company", clock.now, companyId=9)
    put(khoros, "label", clock.now, data={"labels": ["Praise"], "items": [{"entityId": "p:1"}]})
    caplog.clear()
    poll(subscriber, clock)
    assert (taken(database), events(caplog)) == ([], [])


@SQLITE
def test_unreadable_events_are_parked_once_and_the_others_are_taken(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    put(khoros, "no-name", clock.now, eventName=None)
    put(khoros, "no-uuid", clock.now, eventUuid=None)
    put(khoros, "good", clock.now)
    for _ in range(3):
        poll(subscriber, clock)
    assert sorted((row[1], row[2]) for row in rows(database)) == [("", "parked"), ("", "parked"), ("p:good", "pending")]
    assert len(events(caplog, "parked")) == 2


# What is too old


@orders
def test_a_first_deploy_on_an_old_subscription_does_not_turn_last_year_into_tickets(
    order: Order, config: Config, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    khoros.event_order = order
    settings = {"event_name": LABEL_APPLIED, "external_id": "send-to-zendesk", "notification_uri": "", "query": "x"}
    KhorosClient(config.khoros_url, config.khoros_token, 123).subscribe(**settings, bearer_token="of-before")
    for number in range(110):
        put(khoros, f"old-{number}", clock.now + number * 60)
    clock.advance(300 * DAY_S)
    put(khoros, "two-minutes-before", clock.now - 120)
    subscriber = new_subscriber(config, database)
    poll(subscriber, clock, 0)
    put(khoros, "new", clock.now + 10)
    poll(subscriber, clock)
    assert taken(database) == ["new"]


@SQLITE
def test_an_event_may_appear_up_to_an_hour_late(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    clock.advance(DAY_S)
    put(khoros, "newest", clock.now)
    poll(subscriber, clock)
    put(khoros, "late", clock.now - EVERY_S - 3500)
    put(khoros, "far-too-late", clock.now - EVERY_S - 3700)
    poll(subscriber, clock)
    assert taken(database) == ["newest", "late"]


@SQLITE
def test_clocks_that_differ_by_half_a_minute_lose_nothing(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    put(khoros, "early", clock.now - 30)
    put(khoros, "far-too-early", clock.now - 90)
    poll(subscriber, clock)
    assert taken(database) == ["early"]


@SQLITE
@orders
def test_an_event_dated_in_the_future_hides_none_that_come_after_it(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = order
    put(khoros, "future", clock.now + 300 * DAY_S)
    poll(subscriber, clock)
    clock.advance(DAY_S)
    put(khoros, "next", clock.now)
    poll(subscriber, clock)
    assert taken(database) == ["future", "next"]


# Many pages


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten events a page, so that few are many."""
    monkeypatch.setattr("khoros.catch_up.PAGE_SIZE", 10)


@orders
@pytest.mark.usefixtures("small_pages")
def test_many_pages_are_fetched_and_the_next_poll_is_short(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = order
    for number in range(35):
        put(khoros, f"e{number}", clock.now + number * 600)
    clock.advance(35 * 600)
    poll(subscriber, clock)
    assert len(taken(database)) == 35
    asked = len(polls(khoros))
    assert all("limit=10" in query for query in polls(khoros))
    put(khoros, "last", clock.now)
    poll(subscriber, clock)
    assert len(taken(database)) == 36 and len(polls(khoros)) - asked <= 3


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_events_in_no_order_at_all_are_fetched(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    for number in (n * 7 % 25 for n in range(25)):
        put(khoros, f"e{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(database)) == 25
    for number in range(25, 30):
        put(khoros, f"e{number}", clock.now + 30 - number)
    poll(subscriber, clock)
    assert len(taken(database)) == 30


@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
def test_many_events_of_one_second_are_fetched(
    order: Order, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = order
    for round_number in range(2):
        for number in range(23):
            put(khoros, f"e{round_number}-{number}", clock.now)
        poll(subscriber, clock)
        assert len(taken(database)) == 23 * (round_number + 1)


@pytest.mark.parametrize("gone", [0, 6, 10, 20, 25])
@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
def test_events_that_disappear_at_khoros_hide_no_new_ones(
    order: Order, gone: int, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
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
    assert len(taken(database)) == 37


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_a_new_subscriptions_events_are_read_from_their_beginning(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
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
    assert len(taken(database)) == 27


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
def catch_up(database: Database, odd: Odd, clock: Clock) -> CatchUp:
    Facts(database).remember("first_subscribed_at", str(clock.now))
    return new_catch_up(new_config(catch_up_s=EVERY_S), database, odd)


@SQLITE
@pytest.mark.parametrize("rising", [True, False])
def test_a_khoros_that_ignores_the_offset_is_asked_twice_a_poll(
    rising: bool, catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
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
    assert len(taken(database)) == 20


@SQLITE
def test_a_poll_whose_pages_never_end_stops_after_a_thousand_and_the_next_begins_where_it_did(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = clock.now - DAY_S
    clock.advance(3 * 3600)
    dates = itertools.chain([clock.now], itertools.repeat(old))
    odd.pages = ([{**notification(f"e{n}"), "createdDate": chicago(date)}] for n, date in enumerate(dates))
    assert catch_up.step("s-1", "") == EVERY_S
    assert odd.asked == PAGES
    assert fields_of(caplog, "catch_up_unfinished")["events"] == PAGES
    odd.pages = iter([[{**notification("two-hours-old"), "createdDate": chicago(clock.now - 7200)}], []])
    clock.advance(EVERY_S)
    catch_up.step("s-1", "")
    assert taken(database) == ["e0", "two-hours-old"]


@SQLITE
def test_an_event_nested_too_deeply_stops_no_others(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    deep = {**notification("deep", {"entityId": "p:1", "notes": nested}), "createdDate": chicago(clock.now)}
    odd.pages = iter([[deep, {**notification("good"), "createdDate": chicago(clock.now)}], []])
    catch_up.step("s-1", "")
    assert taken(database) == ["good"]


# Unreadable dates


@pytest.mark.parametrize("date", ["some day", "", None, 17, "Wed Apr 12 09:01:11 QQQ 2017", {"at": 1}], ids=repr)
@SQLITE
def test_an_event_without_a_readable_date_is_taken_while_the_subscription_is_young(
    date: Any, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    assert read_date(date) is None
    put(khoros, "undated", "", createdDate=date)
    put(khoros, "dated", clock.now)
    for _ in range(2):
        poll(subscriber, clock)
    assert sorted(taken(database)) == ["dated", "undated"]


def test_an_event_without_a_readable_date_is_left_and_logged_once_when_the_subscription_is_old(
    subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.advance(DAY_S + 1)
    put(khoros, "undated", "some day")
    put(khoros, "dated", clock.now)
    for _ in range(3):
        poll(subscriber, clock)
    assert taken(database) == ["dated"]
    assert fields_of(caplog, "event_undated")["event_uuid"] == "undated"


@SQLITE
def test_a_subscription_without_a_readable_date_counts_as_old(
    config: Config, khoros: FakeKhoros, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    new_subscriber(config, database).step()
    [made] = khoros.subscriptions
    khoros._subscriptions[made.uuid] = replace(made, created_date="some day")
    clock.advance(10)
    put(khoros, "undated", "some day")
    poll(new_subscriber(config, database), clock, 0)
    assert (taken(database), events(caplog, "event_undated")) == ([], ["event_undated"])


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
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(khoros, "e1", clock.now)
    khoros.faults.outage(**answer, path="/v2/events/data/")
    for _ in range(3):
        poll(subscriber, clock)
    assert (events(caplog), taken(database)) == (["catch_up_failed"], [])
    assert subscriber.status().state == "subscribed"
    khoros.faults.clear()
    poll(subscriber, clock)
    assert taken(database) == ["e1"]


@pytest.mark.parametrize("shape", ["bare", "data"])
@SQLITE
def test_entries_that_are_no_events_are_ignored(
    shape: str, subscriber: Subscriber, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    good = {**notification("good"), "createdDate": chicago(clock.now)}
    listed = [1, None, "text", [good], good]
    body = json.dumps({"data": listed} if shape == "data" else listed)
    khoros.faults.fail(1, 200, body=body, path="/v2/events/data/")
    poll(subscriber, clock)
    assert taken(database) == ["good"]


@SQLITE
def test_a_second_fault_after_a_recovery_is_logged_again(
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
    order: Order, config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    class Stumbling(KhorosClient):
        def events(self, uuid: str, *, offset: int, limit: int) -> list[dict[str, Any]]:
            if offset == 10:
                khoros.faults.fail(1, 503)
            return super().events(uuid, offset=offset, limit=limit)

    khoros.event_order = order
    new_subscriber(config, database).step()
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number)
    good, bad = (kind(config.khoros_url, config.khoros_token, 123) for kind in (KhorosClient, Stumbling))
    uuid = khoros.subscriptions[0].uuid
    new_catch_up(config, database, bad).step(uuid, "")
    assert len(taken(database)) == 10
    clock.advance(EVERY_S)
    new_catch_up(config, database, good).step(uuid, "")
    assert len(taken(database)) == 25


# When it polls


@SQLITE
def test_polls_at_every_start_and_then_every_few_minutes(
    config: Config, subscriber: Subscriber, other_database: Database, khoros: FakeKhoros, clock: Clock
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
    poll(new_subscriber(config, other_database), clock, 0)
    assert len(polls(khoros)) == asked + 2


def test_two_processes_share_the_polls(
    config: Config, subscriber: Subscriber, other_database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    second = new_subscriber(config, other_database)
    for _ in range(3):
        second.step()
    asked = len(polls(khoros))
    for _ in range(30):
        clock.advance(EVERY_S / 3)
        subscriber.step()
        second.step()
    assert len(polls(khoros)) - asked == 10


def test_while_one_process_polls_the_other_does_not(
    config: Config,
    subscriber: Subscriber,
    database: Database,
    other_database: Database,
    khoros: FakeKhoros,
    clock: Clock,
) -> None:
    second = new_subscriber(config, other_database)
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
    assert taken(database) == ["e1"]


def test_a_process_killed_while_it_polled_delays_the_others_for_20_seconds(
    subscriber: Subscriber, other_database: Database, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    clock.advance(EVERY_S)
    assert Facts(other_database).take_turn("catching_up", POLL_TURN_S)
    assert subscriber.step() == 1.0 and taken(database) == []
    clock.advance(POLL_TURN_S)
    subscriber.step()
    assert taken(database) == ["e1"]


@SQLITE
def test_a_clock_set_back_by_a_day_does_not_stop_the_polls(catch_up: CatchUp, odd: Odd, clock: Clock) -> None:
    odd.pages = iter([[]] * 9)
    assert catch_up.step("s-1", "") == EVERY_S
    clock.advance(-DAY_S)
    assert catch_up.step("s-1", "") == EVERY_S
    assert odd.asked == 2


@SQLITE
def test_zero_minutes_switch_it_off(config: Config, database: Database, khoros: FakeKhoros, clock: Clock) -> None:
    subscriber = new_subscriber(replace(config, catch_up_s=0.0), database)
    subscriber.step()
    put(khoros, "e1", clock.now)
    for _ in range(10):
        assert subscriber.step() == 60
        clock.advance(60)
    assert (polls(khoros), taken(database)) == ([], [])


@SQLITE
@pytest.mark.parametrize("text", ['{"at": 1.0, "of_the_next_release": 1}', "{}", "{", "null"])
def test_the_progress_of_another_release_is_readable(
    text: str, catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    Facts(database).remember("catch_up", text)
    odd.pages = iter([[{**notification("new"), "createdDate": chicago(clock.now)}], []])
    assert (catch_up.step("s-1", ""), taken(database)) == (EVERY_S, ["new"])


@SQLITE
def test_without_a_subscription_there_is_nothing_to_poll(catch_up: CatchUp, odd: Odd) -> None:
    assert (catch_up.step("", ""), odd.asked) == (OFF_S, 0)


# Poll only


@orders
def test_without_pushes_everything_arrives_by_polling(
    order: Order, config: Config, database: Database, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.event_order = order
    config = replace(config, polling=True, public_url="", poll_s=15.0, catch_up_s=0.0)
    subscriber = new_subscriber(config, database)
    assert subscriber.step() == 0.0
    [made] = khoros.subscriptions
    assert (made.notification_uri, subscriber.status().state) == (None, "subscribed")
    labelled: list[str] = []
    for _ in range(8):
        assert subscriber.step() <= 15
        assert taken(database) == labelled
        clock.advance(14)
        labelled += khoros.label(next(iter(khoros.posts)), "CreateCase")
        clock.advance(1)
    assert khoros.pushes == [] and "subscription_mended" not in events(caplog)


@SQLITE
def test_switching_to_polling_takes_the_address_out_of_the_subscription(
    config: Config, subscriber: Subscriber, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    clock.advance(10)
    new_subscriber(replace(config, polling=True, public_url=""), database).step()
    [made] = khoros.subscriptions
    assert made.notification_uri is None


def test_two_swapped_events_at_the_end_of_a_list_hide_no_new_ones(
    config: Config, database: Database, khoros: FakeKhoros, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("khoros.catch_up.PAGE_SIZE", 10)
    new_subscriber(config, database).step()
    uuid, khoros.event_order = khoros.subscriptions[0].uuid, "newest"
    catch_up = new_catch_up(config, database, KhorosClient(config.khoros_url, config.khoros_token, 123))

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
        assert f"new{number}" in [row[0] for row in rows(database)]
