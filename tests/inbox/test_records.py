"""What people see of the inbox: items by any of their names, without a word of a customer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from claims import LEASE_S, claim
from claims import settle as settle_item
from conftest import TEXT, Clock, new_item, sqlite_unless_asked
from sessions import watch

from events import MESSAGE_PUBLISHED
from inbox import open_database
from inbox.database import Database, DatabaseUnavailable, Session, Values
from inbox.gate import LIMITED, OUTAGE, UNAUTHORISED
from inbox.inbox import CANNOT_COMPOSE, Inbox
from inbox.items import REFUSED, Draft, Item, NewItem
from inbox.records import Hour, Records, number, span, utc
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING

HOUR_S = 3600.0
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


def settle(inbox: Inbox, how: str = "ticket_created", **more: Any) -> Item:
    """Sends the next item that is due, with this outcome, and another one later when it fails."""
    [item] = claim(inbox, 1)
    settle_item(inbox, item, how, **{"status": 201, "request_id": f"z-{item.id}", **more})
    return item


def linked(link: object) -> NewItem:
    item = {"entityId": "twitter:1", "text": TEXT, "link": link}
    return NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": item})


def unreadable(event: str = "unreadable:1") -> NewItem:
    return NewItem("", event, "", {"unreadable": TEXT}, reason="eventName is missing")


# Finding


@BOTH
def test_an_item_is_found_by_its_event_its_post_its_reference_and_its_number(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item("event-1", "twitter:1"), new_item("event-1", "twitter:2")])
    inbox.accept([new_item("event-2", "twitter:1")])
    settle(inbox, reference="35436")
    by_name = {
        name: [record.id for record in records.find(name)]
        for name in ("event-1", "twitter:1", "35436", "#35436", "2", "#2", "event", "twitter:%", "35437", "", "-1")
    }
    assert by_name == {
        "event-1": [2, 1],
        "twitter:1": [3, 1],
        "35436": [1],
        "#35436": [1],
        "2": [2],
        "#2": [2],
        "event": [],
        "twitter:%": [],
        "35437": [],
        "": [],
        "-1": [],
    }


@BOTH
@pytest.mark.parametrize(
    "name", ["\x00", "twitter:1\x00", "\ud83d", "\udcff", "'; DROP TABLE inbox; --", "9" * 40, "١٢"]
)
def test_no_search_can_upset_the_database(name: str, inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item("event-1", "twitter:1")])
    assert records.find(name) == []
    assert len(records.find("twitter:1")) == 1


def test_of_a_post_with_many_events_the_newest_hundred_are_found(inbox: Inbox, records: Records) -> None:
    for n in range(103):
        inbox.accept([new_item(f"event-{n}", "twitter:1")])
    found = records.find("twitter:1")
    assert [record.event_uuid for record in (found[0], found[-1])] == ["event-102", "event-3"]


def test_the_latest_come_first_of_all_or_of_one_state(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item("e1", "p:1")])
    inbox.accept([new_item("e2", "p:2")])
    settle(inbox)
    inbox.accept([unreadable()])
    assert [record.id for record in records.latest()] == [3, 2, 1]
    assert [record.id for record in records.latest(most=2)] == [3, 2]
    assert [[record.id for record in records.latest(state)] for state in (PENDING, DELIVERED, PARKED, DISCARDED)] == [
        [2],
        [1],
        [3],
        [],
    ]


@BOTH
def test_a_record_has_everything_but_the_customers_words(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([linked("https://x.example/1")])
    clock.advance(7)
    settle(inbox, reference="35436")
    record = records.item(1)
    assert record is not None and TEXT not in str(record)
    assert astuple(record) == (
        *(1, "zendesk", "e1", "twitter:1", "push", None, DELIVERED, None, 1),
        *(clock.now - 7, clock.now, clock.now, "35436", True, "https://x.example/1", False, None),
    )
    assert records.item(2) is None


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "//x.example", "x", "", None, 7, ["https://x"]]
    + ["https://", "https://x.example/a b", "\x01javascript:alert(1)", "https://[", "vbscript:x", "file:///etc/passwd"],
)
def test_only_a_web_address_becomes_a_link(link: object, inbox: Inbox, records: Records) -> None:
    inbox.accept([linked(link)])
    [record] = records.latest()
    assert record.link is None


def test_the_link_of_a_message_is_its_permalink(inbox: Inbox, records: Records) -> None:
    message = {"id": "m-1", "publicationResults": [{"serviceLink": "https://facebook.example/1"}]}
    inbox.accept(
        [NewItem("slack:#crisis", "e1", "message-published:m-1", {"event": MESSAGE_PUBLISHED, "item": message})]
    )
    [record] = records.latest()
    assert record.link == "https://facebook.example/1"


def test_a_payload_is_shown_as_it_came_until_it_is_emptied(inbox: Inbox, records: Records) -> None:
    inbox.accept([linked("https://x.example/1")])
    settle(inbox)
    assert records.payload(1) == linked("https://x.example/1").payload
    inbox.purge(-1)
    assert records.payload(1) is None and records.payload(2) is None
    [record] = records.find("twitter:1")
    assert (record.link, record.reference, record.attempts, record.payload_kept) == (None, "1001", 1, False)


@pytest.mark.parametrize(
    "payload", ['{"unreadable": [1]}', '{"item": 1}', '{"item": {}}', '{"item": ' + "[" * 200_000, "[]", "{", "null"]
)
def test_what_could_not_be_read_has_no_link_and_hides_nothing_else(
    payload: str, inbox: Inbox, records: Records, database: Database
) -> None:
    inbox.accept([linked("https://x.example/1"), unreadable("e2")])
    with database.transaction() as db:
        db.change("UPDATE items SET payload = :payload WHERE event_uuid = 'e2'", {"payload": payload})
    assert {record.event_uuid: record.link for record in records.latest()} == {"e2": None, "e1": "https://x.example/1"}


def test_what_is_parked_at_its_arrival_is_settled_then(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([unreadable(), new_item("e2")])
    arrived_at = clock.now
    clock.advance(60)
    settled_at = {record.state: record.settled_at for record in records.latest()}
    assert settled_at == {PARKED: arrived_at, PENDING: None}


@BOTH
def test_what_is_parked_or_waits_can_be_retried(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(4)])
    inbox.accept([unreadable()])
    settle(inbox)
    settle(inbox, REFUSED)
    claim(inbox, 1)
    found = records.latest()
    assert {r.event_uuid: (r.under_way, r.can_be_retried) for r in found} == {
        "e0": (False, False),  # delivered
        "e1": (False, True),
        "e2": (True, False),  # under way
        "e3": (False, True),
        "unreadable:1": (False, False),
    }
    clock.advance(LEASE_S)
    inbox.purge(-1)
    assert {record.event_uuid for record in records.latest() if record.can_be_retried} == {"e2", "e3"}


def test_nothing_is_in_a_state_that_there_is_not(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item()])
    assert records.latest("pending' OR 'a' = 'a") == []


@BOTH
def test_older_items_are_read_page_by_page(inbox: Inbox, records: Records) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(5)])
    settle(inbox)
    assert [record.id for record in records.latest(most=2, before=4)] == [3, 2]
    assert [record.id for record in records.latest(PENDING, 2, before=3)] == [2]
    assert records.latest(DELIVERED, 2, before=1) == []


# Searching


def posted(event: str, post: str, **fields: str) -> NewItem:
    return NewItem("zendesk", event, post, {"labels": ["VIP care"], "item": {"entityId": post, **fields}})


@BOTH
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("1861030501129990301", [1]),
        ("https://x.com/mara/status/1861030501129990301?s=20", [1]),
        ("https://acme.zendesk.com/agent/tickets/35436", [1]),
        ("104477_9", []),
        ("https://x.com/", []),
    ],
)
def test_a_posts_number_and_an_address_that_ends_with_a_name_are_found(
    name: str, found: list[int], inbox: Inbox, records: Records
) -> None:
    inbox.accept([new_item("e1", "twitter:1861030501129990301"), new_item("e2", "facebook:104477_99")])
    settle(inbox, reference="35436")
    assert [record.id for record in records.find(name)] == found


@BOTH
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mara", [1]),
        ("@MaraLind", [1]),
        ("ΦΙΛΤΡΑ", [2]),
        ("order mara", [1]),
        ("order nobody", []),
        ("vip", [2, 1]),
        ("https://blog.example/2017/mara?utm=1", [1]),
        ("8c2d7f1a", [2]),
        ("c2d7f1a", []),
        ("native-77", [1]),
        ("%", []),
        ("entityId", []),
        ("\x00", []),
    ],
)
def test_a_search_reads_authors_words_labels_links_and_beginnings(
    words: str, found: list[int], inbox: Inbox, records: Records
) -> None:
    mara = {"author": "Mara Lindqvist", "authorScreenName": "maralind", "text": "My ORDER never came"}
    inbox.accept([posted("e1", "blog:native-77", link="https://blog.example/2017/mara", **mara)])
    inbox.accept([posted("8c2d7f1a-659f-1814", "twitter:2", text="φίλτρα: φιλτρα")])
    assert [record.id for record in records.search(words, in_posts=True)] == found


@BOTH
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("Ticket #35436", [1]),
        ("ticket 35436, please", [1]),
        ("#35436 is wrong", [1]),
        ("post 1861030501129990301", [1]),
        ("Item #2", [2]),
        ("Ticket #2", []),
        ("since 3", []),
        ("https://x.com/mara/status/120?s=20", [2]),
        ("https://twitter.com/mara/status/120", [2]),
        ("https://mobile.twitter.com/mara/status/120/photo/1", [2]),
        ("x.com/mara/status/120", [2]),
        ("https://x.com/mara/status/1200", []),
        ("https://x.com/mara/status/2", []),  # that is the number of an item, not of a post
        ("https://relay.example/status/items/2", [2]),
        ("https://nottwitter.com/mara/status/121", []),
    ],
)
def test_a_search_understands_how_people_name_a_post(
    words: str, found: list[int], inbox: Inbox, records: Records
) -> None:
    inbox.accept([new_item("e1", "twitter:1861030501129990301")])
    settle(inbox, reference="35436")
    inbox.accept([posted("e2", "native-5", link="https://twitter.com/mara/status/120")])
    assert [record.id for record in records.search(words, in_posts=True)] == found


def test_a_search_can_leave_out_what_customers_wrote(inbox: Inbox, records: Records) -> None:
    inbox.accept([posted("8c2d7f1a-659f", "blog:1", author="Mara", text="My order", link="https://blog.example/1")])
    by_words = {words: len(records.search(words, in_posts=False)) for words in ("mara", "order", "vip", "8c2d")}
    assert by_words == {"mara": 0, "order": 0, "vip": 0, "8c2d": 1}
    assert records.search("https://blog.example/1?x", in_posts=False)


def test_a_search_for_a_message_reads_its_content(inbox: Inbox, records: Records) -> None:
    message = {"id": "m-1", "title": "Spring", "content": {"text": "New roast"}}
    name = "message-published:m-1"
    inbox.accept([NewItem("slack:#crisis", "e1", name, {"event": MESSAGE_PUBLISHED, "item": message}), unreadable()])
    assert [record.event_uuid for record in records.search("roast spring", in_posts=True)] == ["e1"]


def test_a_search_ends_at_the_newest(inbox: Inbox, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inbox.records.SCANNED", 2)
    inbox.accept([posted(f"e{n}", f"p:{n}", author="Mara") for n in range(3)])
    assert [record.id for record in records.search("mara", in_posts=True)] == [3, 2]
    assert [record.id for record in records.search("e0", in_posts=True)] == [1]  # a whole name is found anywhere


def test_what_items_are_about_is_read_while_it_is_kept(inbox: Inbox, records: Records) -> None:
    inbox.accept([posted("e1", "p:1", text=TEXT), posted("e2", "p:2", text="Other")])
    inbox.discard([2])
    assert {item_id: subject.post().text for item_id, subject in records.subjects([1, 2, 3]).items()} == {1: TEXT}


@BOTH
def test_a_reference_has_the_state_that_was_last_seen(inbox: Inbox, records: Records, database: Database) -> None:
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    settle(inbox, reference="7")
    settle(inbox, reference="8")
    with database.transaction() as db:
        for destination in ("zendesk", "another"):
            values = {"destination": destination, "state": "solved" if destination == "zendesk" else "open"}
            db.change("INSERT INTO tickets VALUES (:destination, '7', 'p:1', :state, 1.0)", values)
    assert [(record.reference, record.reference_state) for record in records.latest()] == [("8", None), ("7", "solved")]


# Attempts and counts


@BOTH
def test_attempts_are_listed_by_item_in_the_order_they_were_made(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1")])
    settle(inbox, OUTAGE, status=503, code="Down")
    clock.advance(60)
    settle(inbox)
    inbox.accept([new_item("e2", "p:2")])
    settle(inbox)
    start = clock.now - 60.5
    assert [astuple(attempt) for attempt in records.attempts([2, 1])] == [
        (1, 1, start, 0.5, OUTAGE, 503, "Down", "z-1"),
        (1, 2, start + 60, 0.5, "ticket_created", 201, None, "z-1"),
        (2, 1, start + 60, 0.5, "ticket_created", 201, None, "z-2"),
    ]
    assert records.attempts([]) == []


@BOTH
def test_states_are_counted_whole(inbox: Inbox, records: Records) -> None:
    assert records.by_state() == {DELIVERED: 0, PENDING: 0, PARKED: 0, DISCARDED: 0}
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(6)])
    for _ in range(3):
        settle(inbox)
    settle(inbox, REFUSED)
    settle(inbox, REFUSED)
    inbox.discard([5])
    assert records.by_state() == {DELIVERED: 3, PENDING: 1, PARKED: 1, DISCARDED: 1}


@BOTH
def test_a_post_that_comes_in_meanwhile_is_never_counted_as_delivered(
    inbox: Inbox, database_url: str, other: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus takes a counter that falls for one that began anew, and counts everything once more."""
    inbox.accept([new_item("e0", "p:0")])
    settle(inbox)
    came = iter(range(1, 50))

    def accept_another(session: Session, sql: str, values: Values) -> None:
        if "count" in sql:
            other.accept([new_item(f"e{next(came)}", "p:1")])

    with closing(open_database(database_url)) as database:
        watch(monkeypatch, database, accept_another)
        counts = Records(database).by_state()
    assert next(came) > 1 and counts[DELIVERED] == 1


@BOTH
def test_records_of_an_empty_database_are_empty(records: Records) -> None:
    assert (records.latest(), records.find("e1"), records.attempts([1]), records.payload(1)) == ([], [], [], None)
    assert busy(records.hours()) == {}


def test_a_database_that_is_down_raises() -> None:
    records = Records(open_database("sqlite:////nowhere/at/all/relay.db"))
    for ask in (records.latest, records.by_state, records.hours, lambda: records.attempts([1])):
        with pytest.raises(DatabaseUnavailable):
            ask()


# The last day


def busy(hours: list[Hour]) -> dict[int, tuple[int, int, int]]:
    """The hours that have posts, counted back from this one: delivered, pending, parked."""
    return {
        n - 23: (h.delivered, h.pending, h.parked) for n, h in enumerate(hours) if h.delivered + h.pending + h.parked
    }


@BOTH
def test_the_last_day_counts_each_post_once_hour_by_hour(inbox: Inbox, records: Records, clock: Clock) -> None:
    clock.now = 24 * HOUR_S * 19_000 + 5.0  # just past midnight
    for n, outcomes in enumerate((["ticket_created"], [OUTAGE, "note_added"], [LIMITED, UNAUTHORISED, REFUSED])):
        inbox.accept([new_item(f"e{n}", f"p:{n}")])
        for outcome in outcomes:
            settle(inbox, outcome)
            clock.advance(100)  # until it is tried again
        clock.advance(HOUR_S - 100 * len(outcomes))
    inbox.accept([unreadable(), new_item("e9", "p:9")])
    hours = records.hours()
    assert len(hours) == 24 and [b.at - a.at for a, b in zip(hours, hours[1:], strict=False)] == [HOUR_S] * 23
    assert hours[-1].at == clock.now - 5.0
    assert busy(hours) == {-3: (1, 0, 0), -2: (1, 0, 0), -1: (0, 0, 1), 0: (0, 1, 1)}


@BOTH
@pytest.mark.parametrize("into_s", [0.0, 0.4, 1799.9, 3599.4, 3599.6, 3599.999])
def test_an_attempt_counts_in_the_hour_it_began_in(into_s: float, inbox: Inbox, records: Records, clock: Clock) -> None:
    """SQLite cuts a time off to whole seconds, PostgreSQL rounds it."""
    inbox.accept([new_item()])
    clock.now = HOUR_S * 472_223 + into_s + 0.5  # an attempt takes half a second here
    settle(inbox)
    clock.now = HOUR_S * 472_224 + 1.0
    assert busy(records.hours()) == {-1: (1, 0, 0)}


@BOTH
@pytest.mark.parametrize("into_s", [0.0, 0.6, 3599.4, 3599.999])
def test_a_post_that_waits_counts_in_the_hour_it_arrived_in(
    into_s: float, inbox: Inbox, records: Records, clock: Clock
) -> None:
    clock.now = HOUR_S * 472_223 + into_s
    inbox.accept([new_item()])
    clock.now = HOUR_S * 472_224 + 1.0
    assert busy(records.hours()) == {-1: (0, 1, 0)}


def test_an_item_that_could_not_be_composed_counts_as_parked(inbox: Inbox, records: Records) -> None:
    def fail(item: Item) -> Draft:
        raise KeyError

    inbox.accept([new_item()])
    claim(inbox, compose=fail)
    assert [record.reason for record in records.latest(PARKED)] == [CANNOT_COMPOSE]
    assert busy(records.hours()) == {0: (0, 0, 1)}


def test_what_is_a_day_old_or_more_is_gone_from_the_last_day(inbox: Inbox, records: Records, clock: Clock) -> None:
    clock.now = HOUR_S * 472_223
    inbox.accept([new_item("e1", "p:1"), unreadable()])
    clock.now += 0.5
    settle(inbox)
    clock.now = HOUR_S * (472_223 + 23) + 3599.0
    assert busy(records.hours()) == {-23: (1, 0, 1)}
    clock.advance(1)
    assert busy(records.hours()) == {}


def test_a_clock_set_back_leaves_out_the_hours_to_come(inbox: Inbox, records: Records, clock: Clock) -> None:
    inbox.accept([new_item("e1", "p:1"), unreadable()])
    settle(inbox)
    clock.advance(-5 * HOUR_S)
    hours = records.hours()
    assert len(hours) == 24 and busy(hours) == {}


# Numbers, spans and times


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 days"),
        (8_640_000, "100 days"),
    ],
)
def test_a_time_span_reads_as_people_say_it(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_a_time_is_in_utc() -> None:
    assert utc(1_700_000_000.9) == "2023-11-14 22:13:20"


@pytest.mark.parametrize(
    ("word", "its"),
    [
        ("12", 12),
        ("#12", 12),
        ("0", 0),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("", None),
        ("#", None),
        ("##1", None),
    ]
    + [("-1", None), ("1_0", None), ("1.0", None), (" 1", None), ("1\n", None), ("١", None), ("x", None)],
)
def test_a_number_is_one_that_the_database_can_hold(word: str, its: int | None) -> None:
    assert number(word) == its
