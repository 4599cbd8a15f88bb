"""Events that no push brought are fetched once, in any order and shape; last year's make no tickets."""

from __future__ import annotations

import json
import logging
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
    matches_zendesk,
    new_config,
    new_receiver,
    new_subscriptions,
    notification,
    rows,
)

from config import Config
from dates import read_date
from events import LABEL_APPLIED, RULE_APPLIED, Event
from inbox.database import Database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from inbox.unrouted import Unrouted
from khoros.catch_up import GARBLED, OFF_S, PAGES, POLL_TURN_S, ROUND_PAGES, CatchUp, CatchUpStatus, Source
from khoros.receive import Receipt, Receiver
from khoros.subscriptions import Subscriptions
from khoros_client import OVERLONG, Garbled, KhorosClient, Upserted
from outbound import Rejected, Unavailable
from sandbox.khoros import FakeKhoros, chicago

pytestmark = pytest.mark.usefixtures("clean_log")

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database makes no difference
DAY_S = 86_400.0
EVERY_S = 300.0
SOURCE = Source("s-1", 0.0, only_source=True)

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
def subscriber(config: Config, database: Database, khoros: FakeKhoros, woken: list[int]) -> Subscriptions:
    """A service that has subscribed and polled for the first time."""
    subscriber = new_subscriptions(config, database, lambda: woken.append(1))
    assert subscriber.step() == 0.0
    subscriber.step()
    return subscriber


def put(khoros: FakeKhoros, name: str, at: float | str, place: int | None = None, **changes: Any) -> None:
    """Lets an event have happened that nobody pushed, dated `at`."""
    date = at if isinstance(at, str) else chicago(at)
    khoros.list_only({**notification(name, f"p:{name}"), "createdDate": date, **changes}, place=place)


def new_catch_up(config: Config, database: Database, client: KhorosClient) -> CatchUp:
    """Catching up alone, for what this client answers."""
    receiver = new_receiver(config, database)
    return CatchUp(LABEL_APPLIED, Facts(database), receiver, client, every_s=config.catch_up_s)


def poll(subscriber: Subscriptions, clock: Clock, after_s: float = EVERY_S) -> None:
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
    subscriber: Subscriptions,
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
    subscriber: Subscriptions,
    khoros: FakeKhoros,
    database: Database,
    other_database: Database,
    clock: Clock,
) -> None:
    """Two days off, which an event in the middle of the first day must outlast."""
    clock.advance(DAY_S / 2)
    put(khoros, "while-it-was-off", clock.now)
    clock.advance(1.5 * DAY_S)
    poll(new_subscriptions(config, other_database), clock, 0)
    assert taken(database) == ["while-it-was-off"]


def test_what_was_pushed_is_neither_doubled_nor_logged(
    config: Config,
    subscriber: Subscriptions,
    khoros: FakeKhoros,
    database: Database,
    clock: Clock,
    woken: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put(khoros, "e1", clock.now)
    new_receiver(config, database).take(khoros.event("e1"), source="push")
    caplog.clear()
    for _ in range(3):
        poll(subscriber, clock)
    assert (taken(database), events(caplog), sum(woken)) == (["e1"], [], 0)


@SQLITE
def test_what_was_polled_is_marked_so_that_its_ticket_is_looked_up_first(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    poll(subscriber, clock)
    assert [record.source for record in Records(database).latest()] == ["poll"]


@SQLITE
def test_events_that_are_not_ours_are_ignored_without_a_line(
    config: Config, database: Database, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def matches(event: Event) -> dict[str, tuple[str, ...]]:
        return {} if "Praise" in event.labels else {"zendesk": event.labels}

    client, facts = KhorosClient(config.khoros_url, config.khoros_token, 123), Facts(database)
    inbox, unrouted = Inbox(database), Unrouted(database)
    receiver = Receiver(config.bearer_tokens, config.company_id, matches, inbox, unrouted, lambda names: None)
    subscriber = Subscriptions(config, {LABEL_APPLIED: "CreateCase"}, facts, client, receiver)
    subscriber.step()
    put(khoros, "company", clock.now, companyId=9)
    put(khoros, "label", clock.now, data={"labels": ["Praise"], "items": [{"entityId": "p:1"}]})
    caplog.clear()
    poll(subscriber, clock)
    assert (taken(database), events(caplog)) == ([], ["no_route"])


@SQLITE
def test_unreadable_events_are_parked_once_and_the_others_are_taken(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock, caplog: pytest.LogCaptureFixture
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
    subscriber = new_subscriptions(config, database)
    poll(subscriber, clock, 0)
    put(khoros, "new", clock.now + 10)
    poll(subscriber, clock)
    assert taken(database) == ["new"]


@SQLITE
@orders
@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("place", [0, 1, 15, 33, 45, 59, 60])
def test_an_event_that_is_listed_late_is_taken_wherever_it_stands(
    place: int, order: Order, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    """A day late, among sixty events that are known: within the next round."""
    khoros.event_order = order
    clock.advance(2 * DAY_S)
    for number in range(60):
        put(khoros, f"e{number}", clock.now)
    for _ in range(2):
        poll(subscriber, clock)
    put(khoros, "an-hour-late", clock.now - 3600, place)
    put(khoros, "a-day-late", clock.now - DAY_S, place)
    for _ in range(3):
        poll(subscriber, clock)
    assert set(taken(database)) >= {"an-hour-late", "a-day-late"} and len(taken(database)) == 62


@SQLITE
def test_what_is_too_old_is_counted_and_said_once(
    config: Config,
    database: Database,
    other_database: Database,
    khoros: FakeKhoros,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    new_subscriptions(config, database).step()
    for number in range(3):
        put(khoros, f"old-{number}", clock.now - (number + 2) * 3600)
    for process in (database, other_database):
        subscriptions = new_subscriptions(config, process)
        for _ in range(3):
            poll(subscriptions, clock)
    told = fields_of(caplog, "events_too_old")
    assert (told["count"], told["first"], told["last"]) == (3, "2023-11-14T18:13:20+00:00", "2023-11-14T20:13:20+00:00")
    assert (told["event_name"], told["level"]) == (LABEL_APPLIED, logging.WARNING)
    assert (taken(database), subscriptions.polls()[LABEL_APPLIED].too_old) == ([], 3)


@SQLITE
@pytest.mark.parametrize("ahead_s", [-90.0, 90.0, -DAY_S, DAY_S])
def test_only_khoros_own_clock_says_what_is_too_old(
    ahead_s: float, config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.clock_ahead_s = ahead_s
    subscriptions = new_subscriptions(config, database)
    poll(subscriptions, clock, 0)
    put(khoros, "at-once", clock.now + ahead_s)
    put(khoros, "of-before", clock.now + ahead_s - 90)
    poll(subscriptions, clock)
    assert taken(database) == ["at-once"]


@SQLITE
def test_without_khoros_own_time_our_clock_less_five_minutes_counts(
    config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    class Timeless(KhorosClient):
        def subscribe(self, *args: Any, **options: Any) -> Upserted:
            return replace(super().subscribe(*args, **options), date=None)

    client = Timeless(config.khoros_url, config.khoros_token, 123)
    subscriptions = new_subscriptions(config, database, client=client)
    poll(subscriptions, clock, 0)
    put(khoros, "four-minutes-before", clock.now - 240)
    put(khoros, "six-minutes-before", clock.now - 360)
    poll(subscriptions, clock)
    assert taken(database) == ["four-minutes-before"]


@SQLITE
def test_a_later_start_does_not_move_the_first_day(
    config: Config, subscriber: Subscriptions, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    put(khoros, "while-it-was-off", clock.now + 60)
    clock.advance(DAY_S)
    restarted = new_subscriptions(config, database)
    restarted.look_again()  # as a command does
    poll(restarted, clock)
    assert taken(database) == ["while-it-was-off"]


@SQLITE
def test_a_zone_without_a_name_is_read_as_java_means_it(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    put(khoros, "in-brasilia", "Tue Nov 14 19:13:30 GMT-03:00 2023")
    put(khoros, "six-hours-before", "Tue Nov 14 19:13:30 GMT+03:00 2023")
    poll(subscriber, clock)
    assert taken(database) == ["in-brasilia"]


@SQLITE
@orders
def test_an_event_dated_in_the_future_hides_none_that_come_after_it(
    order: Order, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
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
    order: Order, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
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
    assert len(taken(database)) == 36 and len(polls(khoros)) - asked <= ROUND_PAGES + 3


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_events_in_no_order_at_all_are_fetched(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
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
    order: Order, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
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
    order: Order, gone: int, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = order
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number * 100)
    clock.advance(2500)
    poll(subscriber, clock)
    for number in range(gone):
        khoros.forget_event(f"e{number}")
    for number in range(12):
        put(khoros, f"new-{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(database)) == 37


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_a_new_subscriptions_events_are_read_from_their_beginning(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = "oldest"
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number)
    poll(subscriber, clock)
    khoros.forget_subscriptions()
    for number in range(25):
        khoros.forget_event(f"e{number}")
    poll(subscriber, clock, 3600)
    for number in range(2):
        put(khoros, f"new-{number}", clock.now + number)
    poll(subscriber, clock)
    assert len(taken(database)) == 27


class Odd(KhorosClient):
    """A Khoros whose pages a test makes up, or whose list has `bad` events that make a page unreadable."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9/v2", "made-up-khoros-token", 123)
        self.asked, self.page_size = 0, 100
        self.pages: Iterator[list[Any]] | None = None
        self.listed: list[Any] = []
        self.bad: set[int] = set()
        self.overlong: set[int] = set()
        self.refuses_what_is_behind = False

    def events(self, uuid: str, *, offset: int, limit: int) -> list[Any]:
        self.asked += 1
        if self.pages is not None:
            return next(self.pages)
        if offset >= len(self.listed) and self.refuses_what_is_behind:
            raise Rejected("Khoros answered 400", status=400)
        shown = range(len(self.listed))[offset : offset + min(limit, self.page_size)]
        if bad := self.bad & set(shown):
            raise Garbled(f'[{{"eventUuid": e{bad}')
        if self.overlong & set(shown):
            raise Garbled(OVERLONG)
        return [self.listed[n] for n in shown]


@pytest.fixture
def odd() -> Odd:
    return Odd()


@pytest.fixture
def catch_up(database: Database, odd: Odd, clock: Clock) -> CatchUp:
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
        catch_up.step(SOURCE)
        assert odd.asked == 2 * turn
        clock.advance(EVERY_S)
    assert len(taken(database)) == 20


@SQLITE
def test_a_poll_of_a_list_without_end_stops_and_the_next_goes_on(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(100_000)]
    odd.page_size = 2
    assert catch_up.step(SOURCE) == EVERY_S
    assert odd.asked == 2 * PAGES and len(taken(database)) == 4 * PAGES
    clock.advance(EVERY_S)
    catch_up.step(SOURCE)
    assert odd.asked <= 2 * PAGES + PAGES + 1 + ROUND_PAGES and len(taken(database)) >= 6 * PAGES - 100


@SQLITE
def test_an_event_nested_too_deeply_stops_no_others(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    deep = {**notification("deep", {"entityId": "p:1", "notes": nested}), "createdDate": chicago(clock.now)}
    odd.pages = iter([[deep, {**notification("good"), "createdDate": chicago(clock.now)}], []])
    catch_up.step(SOURCE)
    assert "good" in taken(database)


# Unreadable dates


@pytest.mark.parametrize("date", ["some day", "", None, 17, "Wed Apr 12 09:01:11 QQQ 2017", {"at": 1}], ids=repr)
@SQLITE
def test_an_event_without_a_readable_date_is_taken_while_the_subscription_is_young(
    date: Any, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    assert read_date(date) is None
    put(khoros, "undated", "", createdDate=date)
    put(khoros, "dated", clock.now)
    for _ in range(2):
        poll(subscriber, clock)
    assert sorted(taken(database)) == ["dated", "undated"]


@SQLITE
def test_an_event_without_a_readable_date_is_taken_for_ever_from_a_subscription_that_we_made(
    subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    clock.advance(DAY_S + 1)
    put(khoros, "undated", "some day")
    poll(subscriber, clock)
    assert taken(database) == ["undated"]


@pytest.mark.parametrize("created", ["2017-04-12T14:01:11.000Z", "some day", ""])
def test_an_event_without_a_readable_date_in_an_older_subscription_needs_a_person_once(
    created: str, config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    new_subscriptions(config, database).step()
    khoros.change_subscriptions(created_date=created)
    clock.advance(10)
    put(khoros, "undated", "some day")
    put(khoros, "dated", clock.now)
    subscriptions = new_subscriptions(config, database)
    for _ in range(3):
        poll(subscriptions, clock)
    assert sorted(row[:3] for row in rows(database)) == [
        ("dated", "p:dated", "pending"),
        ("undated", "p:undated", "parked"),
    ]
    assert "createdDate cannot be read" in str(dict((row[0], row[3]) for row in rows(database))["undated"])


@SQLITE
def test_in_poll_mode_an_event_without_a_readable_date_is_taken_whatever_the_subscriptions_age(
    config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    polling = replace(config, polling=True, public_url="", poll_s=15.0)
    new_subscriptions(polling, database).step()
    khoros.change_subscriptions(created_date="2017-04-12T14:01:11.000Z")
    clock.advance(10)
    put(khoros, "undated", "some day")
    poll(new_subscriptions(polling, database), clock)
    assert rows(database)[0][:3] == ("undated", "p:undated", "pending")


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
    subscriber: Subscriptions,
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
    assert subscriber.statuses()[LABEL_APPLIED].state == "subscribed"
    khoros.faults.clear()
    poll(subscriber, clock)
    assert taken(database) == ["e1"]


@pytest.mark.parametrize("shape", ["bare", "data"])
@SQLITE
def test_entries_that_are_no_events_are_kept_once_and_the_others_are_taken(
    shape: str, subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    good = {**notification("good"), "createdDate": chicago(clock.now)}
    listed = [1, None, "text", good, {}]
    body = json.dumps({"data": listed} if shape == "data" else listed)
    for _ in range(2):
        khoros.faults.fail(1, 200, body=body, path="/v2/events/data/")
        poll(subscriber, clock)
    assert [row[2] for row in rows(database)].count("parked") == 3
    assert [row[0] for row in rows(database) if row[2] == "pending"] == ["good"]


def listing_of(*names: str, clock: Clock) -> bytes:
    entries = [{**notification(name, f"p:{name}"), "createdDate": chicago(clock.now)} for name in names]
    return json.dumps({"data": entries, "status": {"succeeded": True}}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.replace(b"furious", b"f\xfcrious", 1),
        lambda body: body.replace(b"furious", b"\xff\xfe\x00", 1),
        lambda body: body.replace(b"my order", b"line\nbreak\tand\x01", 1).replace(b"furious", b"line\nbreak\t\x01", 1),
        lambda body: body + b"\0",
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body.decode().encode("utf-16"),
        lambda body: body.replace(b"furious", b"\\ud83d", 1),
    ],
    ids=["latin-1", "bytes", "control characters", "NUL behind", "BOM", "UTF-16", "half an emoji"],
)
@SQLITE
def test_a_page_with_bad_bytes_is_read(
    spoil: Callable[[bytes], bytes], subscriber: Subscriptions, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    body = spoil(listing_of("e1", "e2", clock=clock))
    khoros.faults.fail(1, 200, body=body, content_type="application/json", path="/v2/events/data/")
    poll(subscriber, clock)
    assert taken(database) == ["e1", "e2"] and subscriber.polls()[LABEL_APPLIED].failed == ""


@pytest.mark.parametrize("bad", [{0}, {40}, {99}, {7, 8, 9}, {0, 149}, {149}], ids=str)
@SQLITE
def test_an_event_that_is_no_json_at_all_is_kept_as_text_and_stops_no_others(
    bad: set[int], catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(150)]
    odd.bad = bad
    for _ in range(4):
        catch_up.step(SOURCE)
        clock.advance(EVERY_S)
    states = [row[2] for row in rows(database)]
    assert (states.count("pending"), states.count("parked")) == (150 - len(bad), len(bad))
    assert catch_up.status().failed == ""


@SQLITE
def test_when_no_event_is_json_it_is_a_fault_and_few_texts_are_kept(
    catch_up: CatchUp, odd: Odd, database: Database
) -> None:
    odd.listed, odd.bad = [{}] * 150, set(range(150))
    catch_up.step(SOURCE)
    assert (len(rows(database)), catch_up.status().failed) == (
        GARBLED,
        "Khoros answered 200 with data that cannot be read",
    )


@SQLITE
def test_more_unreadable_events_than_one_poll_keeps_stop_no_others(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    count = 2 * GARBLED + 5
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(count + 10)]
    odd.bad = set(range(5, count + 5))
    for _ in range(3):
        catch_up.step(SOURCE)
        clock.advance(EVERY_S)
    states = [row[2] for row in rows(database)]
    assert (states.count("pending"), states.count("parked")) == (10, count) and catch_up.status().failed == ""


@SQLITE
def test_events_that_are_too_long_are_kept_as_one_note_and_stop_no_others_wherever_they_move(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(20)]
    for place in (3, 4, 9):
        odd.overlong = {place, place + 1}
        catch_up.step(SOURCE)
        assert catch_up.status().failed == ""
        clock.advance(EVERY_S)
    [parked] = [row for row in rows(database) if row[2] == "parked"]
    assert parked[3] == OVERLONG and len(rows(database)) == 21


@SQLITE
def test_a_second_fault_after_a_recovery_is_logged_again(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
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
    new_subscriptions(config, database).step()
    for number in range(25):
        put(khoros, f"e{number}", clock.now + number)
    good, bad = (kind(config.khoros_url, config.khoros_token, 123) for kind in (KhorosClient, Stumbling))
    uuid = khoros.subscriptions[0].uuid
    source = Source(uuid, 0.0, only_source=True)
    new_catch_up(config, database, bad).step(source)
    assert len(taken(database)) == 10
    clock.advance(EVERY_S)
    new_catch_up(config, database, good).step(source)
    assert len(taken(database)) == 25


# A poll that fails is a fault like any other


def polled(subscriptions: Subscriptions) -> CatchUpStatus:
    return subscriptions.polls()[LABEL_APPLIED]


def test_a_failing_poll_shows_its_reason_and_since_when_to_every_process(
    config: Config, subscriber: Subscriptions, other_database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    other = new_subscriptions(config, other_database)
    assert (polled(other).failed, polled(other).failing_since) == ("", 0.0)
    khoros.faults.outage(503, path="/v2/events/data/")
    poll(subscriber, clock)
    since = clock.now
    poll(subscriber, clock)
    assert (polled(other).failed, polled(other).failing_since) == ("Khoros answered 503", since)
    khoros.faults.clear()
    khoros.faults.outage(401, path="/v2/events/data/")
    poll(subscriber, clock)
    assert "SPREDFAST_API_TOKEN" in polled(other).failed and polled(other).failing_since == since
    khoros.faults.clear()
    poll(subscriber, clock)
    assert (polled(other).failed, polled(other).failing_since) == ("", 0.0)


@SQLITE
@pytest.mark.parametrize("polling", [True, False])
def test_in_poll_mode_a_subscription_whose_polls_are_refused_is_refused(
    polling: bool, config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    config = replace(config, polling=polling, poll_s=15.0)
    subscriptions = new_subscriptions(config, database)
    subscriptions.step()
    khoros.faults.html(1, path="/v2/events/data/")
    subscriptions.step()
    status = subscriptions.statuses()[LABEL_APPLIED]
    if polling:
        assert (status.state, status.detail[:36]) == ("refused", "Polling fails: Khoros says Developer")
    else:
        assert (status.state, status.detail) == ("subscribed", "")
    poll(subscriptions, clock)
    assert subscriptions.statuses()[LABEL_APPLIED].state == "subscribed"


@SQLITE
def test_in_poll_mode_a_subscription_whose_polls_fail_is_failed_since_then(
    config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    subscriptions = new_subscriptions(replace(config, polling=True, poll_s=15.0), database)
    subscriptions.step()
    khoros.faults.outage(503, path="/v2/events/data/")
    subscriptions.step()
    status = subscriptions.statuses()[LABEL_APPLIED]
    assert (status.state, status.failing_since) == ("failed", polled(subscriptions).failing_since)
    assert status.failing_since


@SQLITE
def test_a_subscription_whose_list_is_gone_is_made_again_at_the_next_step(
    subscriber: Subscriptions, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.forget_subscriptions()
    poll(subscriber, clock)
    assert subscriber.step() == 0.0 and len(khoros.subscriptions) == 1
    assert fields_of(caplog, "subscription_mended")["reason"] == "it was gone"
    asked = len(khoros.calls)
    for _ in range(10):
        subscriber.step()
    assert len(khoros.calls) == asked
    poll(subscriber, clock)
    assert polled(subscriber).failed == ""


BOTH = {LABEL_APPLIED: "CreateCase", RULE_APPLIED: ""}


@SQLITE
def test_each_event_name_is_polled_on_its_own(
    config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    class Half(KhorosClient):
        def events(self, uuid: str, *, offset: int, limit: int) -> list[Any]:
            if uuid == khoros.subscriptions[0].uuid:
                raise Unavailable("Khoros answered 503")
            return super().events(uuid, offset=offset, limit=limit)

    client = Half(config.khoros_url, config.khoros_token, 123)
    subscriptions = new_subscriptions(config, database, queries=BOTH, client=client)
    poll(subscriptions, clock, 0)
    rule = {"eventName": RULE_APPLIED, "createdDate": chicago(clock.now)}
    khoros.list_only({**notification("matched"), **rule}, event_name=RULE_APPLIED)
    poll(subscriptions, clock)
    assert taken(database) == ["matched"]
    assert [one.failed for one in subscriptions.polls().values()] == ["Khoros answered 503", ""]


@SQLITE
def test_what_a_process_has_met_is_not_handed_in_again(
    config: Config, database: Database, odd: Odd, clock: Clock
) -> None:
    handed_in: list[str] = []

    class Counting(Receiver):
        def take(self, raw: Any, *args: Any, **options: Any) -> Receipt:
            handed_in.append(raw["eventUuid"])
            return super().take(raw, *args, **options)

    inbox, unrouted = Inbox(database), Unrouted(database)
    receiver = Counting(config.bearer_tokens, 123, matches_zendesk, inbox, unrouted, lambda names: None)
    catch_up = CatchUp(LABEL_APPLIED, Facts(database), receiver, odd, every_s=EVERY_S)
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(250)]
    for _ in range(3):
        catch_up.step(SOURCE)
        clock.advance(EVERY_S)
    assert sorted(handed_in) == sorted(f"e{n}" for n in range(250))


@SQLITE
@pytest.mark.usefixtures("small_pages")
def test_a_hundred_pages_of_missed_events_before_many_known_ones_are_fetched_in_one_poll(
    odd: Odd, database: Database, clock: Clock
) -> None:
    catch_up = new_catch_up(new_config(catch_up_s=EVERY_S), database, odd)
    known = [{**notification(f"known-{n}"), "createdDate": chicago(clock.now)} for n in range(2000)]
    odd.listed = known
    for _ in range(5):
        catch_up.step(SOURCE)
        clock.advance(EVERY_S)
    assert len(taken(database)) == 2000
    odd.listed = [{**notification(f"new-{n}"), "createdDate": chicago(clock.now)} for n in range(1000)] + known
    asked = odd.asked
    catch_up.step(SOURCE)
    assert len(taken(database)) == 3000 and odd.asked - asked <= 3 * PAGES


@SQLITE
def test_a_khoros_that_refuses_an_offset_behind_the_end_has_no_fault(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    odd.listed = [{**notification(f"e{n}"), "createdDate": chicago(clock.now)} for n in range(150)]
    odd.refuses_what_is_behind = True
    for _ in range(3):
        catch_up.step(SOURCE)
        clock.advance(EVERY_S)
    del odd.listed[:140]  # where we look for the end there is nothing any more
    odd.listed += [{**notification("new"), "createdDate": chicago(clock.now)}]
    catch_up.step(SOURCE)
    assert (len(taken(database)), catch_up.status().failed) == (151, "")


@SQLITE
def test_two_listed_events_of_one_uuid_with_different_posts_are_both_taken(
    catch_up: CatchUp, odd: Odd, database: Database, clock: Clock
) -> None:
    odd.listed = [{**notification("e1", post), "createdDate": chicago(clock.now)} for post in ("p:1", "p:2")]
    catch_up.step(SOURCE)
    assert [row[:2] for row in rows(database)] == [("e1", "p:1"), ("e1", "p:2")]


@SQLITE
@orders
def test_after_a_restart_what_was_missed_between_many_known_events_is_found_in_the_first_poll(
    order: Order, config: Config, khoros: FakeKhoros, database: Database, clock: Clock
) -> None:
    khoros.event_order = order
    new_subscriptions(config, database).step()
    receiver = new_receiver(config, database)
    for number in range(450):
        put(khoros, f"e{number}", clock.now)
        if number not in (30, 222):
            receiver.take(khoros.event(f"e{number}"), source="push")
    poll(new_subscriptions(config, database), clock, 10)
    assert len(taken(database)) == 450


# When it polls


@SQLITE
def test_polls_at_every_start_and_then_every_few_minutes(
    config: Config, subscriber: Subscriptions, other_database: Database, khoros: FakeKhoros, clock: Clock
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
    poll(new_subscriptions(config, other_database), clock, 0)
    assert len(polls(khoros)) == asked + 2


def test_two_processes_share_the_polls(
    config: Config, subscriber: Subscriptions, other_database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    second = new_subscriptions(config, other_database)
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
    subscriber: Subscriptions,
    database: Database,
    other_database: Database,
    khoros: FakeKhoros,
    clock: Clock,
) -> None:
    second = new_subscriptions(config, other_database)
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
    subscriber: Subscriptions, other_database: Database, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    put(khoros, "e1", clock.now)
    clock.advance(EVERY_S)
    assert Facts(other_database).take_turn(f"catching_up:{LABEL_APPLIED}", POLL_TURN_S)
    assert subscriber.step() == 1.0 and taken(database) == []
    clock.advance(POLL_TURN_S)
    subscriber.step()
    assert taken(database) == ["e1"]


@SQLITE
def test_a_clock_set_back_by_a_day_does_not_stop_the_polls(catch_up: CatchUp, odd: Odd, clock: Clock) -> None:
    odd.pages = iter([[]] * 9)
    assert catch_up.step(SOURCE) == EVERY_S
    clock.advance(-DAY_S)
    assert catch_up.step(SOURCE) == EVERY_S
    assert odd.asked == 2


@SQLITE
def test_zero_minutes_switch_it_off(config: Config, database: Database, khoros: FakeKhoros, clock: Clock) -> None:
    subscriber = new_subscriptions(replace(config, catch_up_s=0.0), database)
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
    Facts(database).remember(f"catch_up:{LABEL_APPLIED}", text)
    odd.pages = iter([[{**notification("new"), "createdDate": chicago(clock.now)}], []])
    assert (catch_up.step(SOURCE), taken(database)) == (EVERY_S, ["new"])


@SQLITE
def test_without_a_subscription_there_is_nothing_to_poll(catch_up: CatchUp, odd: Odd) -> None:
    assert (catch_up.step(Source("", 0.0, only_source=True)), odd.asked) == (OFF_S, 0)


# Poll only


@orders
def test_without_pushes_everything_arrives_by_polling(
    order: Order, config: Config, database: Database, khoros: FakeKhoros, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    khoros.event_order = order
    config = replace(config, polling=True, public_url="", poll_s=15.0, catch_up_s=0.0)
    subscriber = new_subscriptions(config, database)
    assert subscriber.step() == 0.0
    [made] = khoros.subscriptions
    assert (made.notification_uri, subscriber.statuses()[LABEL_APPLIED].state) == (None, "subscribed")
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
    config: Config, subscriber: Subscriptions, database: Database, khoros: FakeKhoros, clock: Clock
) -> None:
    clock.advance(10)
    new_subscriptions(replace(config, polling=True, public_url=""), database).step()
    [made] = khoros.subscriptions
    assert made.notification_uri is None


def test_two_swapped_events_at_the_end_of_a_list_hide_no_new_ones(
    config: Config, database: Database, khoros: FakeKhoros, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("khoros.catch_up.PAGE_SIZE", 10)
    new_subscriptions(config, database).step()
    uuid, khoros.event_order = khoros.subscriptions[0].uuid, "newest"
    catch_up = new_catch_up(config, database, KhorosClient(config.khoros_url, config.khoros_token, 123))

    for number in range(42):
        put(khoros, f"e{number}", clock.now + {0: 1, 1: 0}.get(number, number) * 10)
    clock.advance(420)
    source = Source(uuid, 0.0, only_source=True)
    catch_up.step(source)
    for number in range(20):
        clock.advance(300)
        put(khoros, f"new{number}", clock.now)
        catch_up.step(source)
        assert f"new{number}" in [row[0] for row in rows(database)]
