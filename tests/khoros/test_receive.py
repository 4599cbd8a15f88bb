"""One way into the inbox, for pushes and polls alike."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import OLD_TOKEN, TEXT, TOKEN, compose, events, fields_of, new_post, notification, rows
from werkzeug.exceptions import MethodNotAllowed

from events import Event, Unreadable
from inbox.database import Database, DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.items import NewItem
from inbox.records import Records
from inbox.unrouted import ROWS_LIMIT, Unrouted
from khoros.receive import (
    NOT_ROUTED,
    Push,
    Receipt,
    Receiver,
    Refusal,
    authorised,
    log_refusal,
    request_id,
    secure_headers,
)

pytestmark = pytest.mark.usefixtures("clean_log")

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database makes no difference


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    emptied: Callable[[], str] = request.getfixturevalue("emptied") if request.param == "postgresql" else str
    return emptied() or f"sqlite:///{tmp_path / 'relay.db'}"


class Calls:
    """What a receiver calls: the routes, which send label events away, and those who want to know of new items."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...]] = {"stream-item-label-applied": ("zendesk",)}
        self.woken: list[set[str]] = []
        self.receipts: list[Receipt] = []

    def matches(self, event: Event) -> dict[str, tuple[str, ...]]:
        return {name: event.labels[:1] for name in self.names.get(event.name, ())}

    def wake(self, names: Collection[str]) -> None:
        self.woken.append(set(names))

    def on_receipt(self, receipt: Receipt, seconds: float) -> None:
        assert seconds > 0
        self.receipts.append(receipt)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def unrouted(database: Database) -> Unrouted:
    return Unrouted(database)


def new_receiver(calls: Calls, inbox: Inbox, unrouted: Unrouted) -> Receiver:
    """An open receiver."""
    receiver = Receiver((TOKEN, OLD_TOKEN), 123, calls.matches, inbox, unrouted, calls.wake, calls.on_receipt)
    receiver.open = True
    return receiver


@pytest.fixture
def receiver(calls: Calls, inbox: Inbox, unrouted: Unrouted) -> Receiver:
    return new_receiver(calls, inbox, unrouted)


@pytest.fixture(params=["push", "poll"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def push(body: Any, content_type: str = "") -> Push:
    return Push(body if isinstance(body, bytes) else json.dumps(body).encode(), "r-1", 0.0, content_type)


def payloads(inbox: Inbox) -> list[Any]:
    """What is kept of each pending item."""
    return [dict(item.payload) for item in inbox.claim("zendesk", 8, 60, compose).items]


def answers(receiver: Receiver, *bodies: Any) -> list[Any]:
    """A receipt, or the status of a refusal, for each."""
    given = receiver.receive([push(body) for body in bodies])
    return [answer.status if isinstance(answer, Refusal) else answer for answer in given]


# What is kept


def test_a_notification_becomes_one_item_for_each_post(receiver: Receiver, database: Database, source: str) -> None:
    assert receiver.take(notification("e1", "p:1", "p:2"), source) == Receipt(accepted=2)
    assert rows(database) == [("e1", "p:1", "pending", None), ("e1", "p:2", "pending", None)]


@SQLITE
def test_an_event_that_goes_to_two_destinations_becomes_an_item_for_each(
    receiver: Receiver, database: Database, calls: Calls
) -> None:
    calls.names["stream-item-label-applied"] = ("zendesk", "slack:#crisis")
    assert receiver.take(notification("e1", "p:1", "p:2")) == Receipt(accepted=4)
    with database.reading() as db:
        found = db.rows("SELECT destination, subject_id FROM items ORDER BY destination, subject_id")
    assert [tuple(row) for row in found] == [
        *(("slack:#crisis", "p:1"), ("slack:#crisis", "p:2"), ("zendesk", "p:1"), ("zendesk", "p:2"))
    ]


@SQLITE
def test_an_item_has_the_labels_and_the_whole_post_and_where_it_came_from(
    receiver: Receiver, inbox: Inbox, source: str
) -> None:
    receiver.take(notification("e1", "p:1", labels=["CreateCase", "vip"]), source, "r-1")
    [item] = inbox.claim("zendesk", 8, 60, compose).items
    assert item.payload == {
        **{"event": "stream-item-label-applied", "at": "Wed Apr 12 09:01:11 CDT 2017", "rule": None},
        **{"labels": ["CreateCase", "vip"], "matched": ["CreateCase"], "item": new_post("p:1")},
    }
    assert (item.source, item.request_id) == (source, "r-1")


@SQLITE
def test_an_event_without_labels_is_accepted(receiver: Receiver, inbox: Inbox) -> None:
    assert receiver.take(notification(labels=[])) == Receipt(accepted=1)
    assert [payload["labels"] for payload in payloads(inbox)] == [[]]


def test_a_known_event_is_a_duplicate_whichever_way_it_comes(receiver: Receiver, database: Database) -> None:
    receiver.take(notification("e1", "p:1"), "push")
    assert receiver.take(notification("e1", "p:1"), "poll") == Receipt(duplicates=1)
    assert receiver.take(notification("e1", "p:1", "p:2"), "push") == Receipt(accepted=1, duplicates=1)
    assert len(rows(database)) == 2


def test_the_same_post_twice_in_one_notification_is_kept_once(receiver: Receiver) -> None:
    assert receiver.take(notification("e1", "p:1", "p:1")) == Receipt(accepted=1, duplicates=1)


@SQLITE
def test_each_commit_wakes_exactly_the_destinations_that_got_something_new(receiver: Receiver, calls: Calls) -> None:
    calls.names["rule-applied"] = ("slack:#crisis", "zendesk")
    receiver.take(notification("e1", "p:1", "p:2"))
    receiver.receive([push(notification("e2", eventName="rule-applied")), push(notification("e2")), push(b"?")])
    receiver.take(notification("e1", "p:1", "p:2"), "poll")
    with pytest.raises(Unreadable):
        receiver.take({})
    assert calls.woken == [{"zendesk"}, {"slack:#crisis", "zendesk"}]


@SQLITE
def test_what_a_person_must_look_at_is_parked_where_it_belongs_unless_it_is_known(
    receiver: Receiver, database: Database, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.take(notification("e1", "p:1"), "push")
    receiver.take(notification("e1", "p:1"), "poll", attention="when is not known")
    assert receiver.take(notification("e1", "p:2"), "poll", attention="when is not known") == Receipt()
    assert rows(database) == [("e1", "p:1", "pending", None), ("e1", "p:2", "parked", "when is not known")]
    assert calls.woken == [{"zendesk"}] and fields_of(caplog, "parked")["event_uuid"] == "e1"
    assert receiver.take(notification("e1", "p:2"), "push") == Receipt(duplicates=1)


# What is ignored


@SQLITE
@pytest.mark.parametrize(
    ("body", "ignored", "reason"),
    [
        (notification(companyId=9), 1, "another company's"),
        (notification("e1", "p:1", "p:2", companyId=9), 2, "another company's"),
        (notification(companyId=9, eventName="rule-applied"), 1, "another company's"),
        (notification(eventName="rule-applied", data={"anything": "else"}), 1, "no route wants it"),
        (notification("e1", {"text": TEXT}, eventName="rule-applied"), 1, "no route wants it"),
    ],
)
def test_what_nobody_wants_is_counted_and_not_kept_even_when_its_items_are_unreadable(
    body: Any, ignored: int, reason: str, receiver: Receiver, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert receiver.take(body, "push", "r-1") == Receipt(ignored=ignored)
    assert rows(database) == []
    assert fields_of(caplog, "notification_ignored") == {
        **{"level": logging.INFO, "reason": reason, "event_uuid": body["eventUuid"]},
        **{"source": "push", "request_id": "r-1"},
    }


# What no route wants

LABELLED, RULED = "stream-item-label-applied", "rule-applied"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"labels": ["Creaet Case", "vip"]}, "vip"),
        ({"labels": []}, "no label"),
        (
            {"eventName": RULED, "data": {"ruleMatched": {"ruleId": "7", "ruleName": "Recall"}, "labels": ["x"]}},
            "Recall",
        ),
        ({"eventName": RULED, "data": {"ruleMatched": {"ruleId": "7"}}}, "7"),
        ({"eventName": "message-published", "data": {"id": "1", "service": "FACEBOOK"}}, "FACEBOOK"),
        ({"eventName": "something-new", "data": {}}, "no label"),
    ],
)
def test_what_no_route_wants_is_counted_by_what_a_route_could_name(
    changes: dict[str, Any], word: str, receiver: Receiver, calls: Calls, unrouted: Unrouted, database: Database
) -> None:
    calls.names.clear()
    bodies = [notification(f"e{n}", **changes) for n in range(3)]
    assert answers(receiver, *bodies) == [Receipt(ignored=1)] * 3
    assert (bodies[0]["eventName"], word, 3) in [(one.event_name, one.word, one.count) for one in unrouted.recent()]
    assert rows(database) == [] and calls.woken == []


@SQLITE
def test_each_word_that_no_route_wants_is_logged_once_and_so_are_not_too_many(
    receiver: Receiver, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    calls.names.clear()
    for n in range(3):
        answers(receiver, notification(f"e{n}", labels=["Creaet Case"]))
    assert fields_of(caplog, "no_route") == {
        **{"level": logging.WARNING, "event_name": LABELLED, "word": "Creaet Case", "reason": NOT_ROUTED},
    }
    assert "ROUTES" in NOT_ROUTED and "SPREDFAST_LABEL_NAME" in NOT_ROUTED
    for n in range(2 * ROWS_LIMIT):
        answers(receiver, notification(f"f{n}", labels=[f"label {n}"]))
    assert len(events(caplog, "no_route")) == ROWS_LIMIT


@SQLITE
def test_another_companys_event_and_a_wanted_one_are_not_counted(receiver: Receiver, unrouted: Unrouted) -> None:
    answers(receiver, notification("e1", companyId=9, eventName="else"), notification("e2"))
    assert unrouted.recent() == []


@SQLITE
def test_an_event_that_every_poll_lists_again_is_counted_once(
    receiver: Receiver, calls: Calls, unrouted: Unrouted
) -> None:
    calls.names.clear()
    for source in ("push", "poll", "poll"):
        receiver.take(notification("e1"), source)
    assert [one.count for one in unrouted.recent()] == [1]


class Uncountable(Unrouted):
    def note(self, words: Iterable[tuple[str, str]]) -> None:
        raise DatabaseUnavailable("busy")


@SQLITE
def test_a_count_that_fails_costs_nobody_an_answer(
    calls: Calls, inbox: Inbox, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = new_receiver(calls, inbox, Uncountable(database))
    assert answers(receiver, notification("e1"), notification("e2", eventName="else")) == [
        *(Receipt(accepted=1), Receipt(ignored=1))
    ]
    assert fields_of(caplog, "not_counted")["reason"].args == ("busy",)


# Several in one body


@SQLITE
@pytest.mark.parametrize(
    "form", [json.dumps, lambda bodies: "\n".join(map(json.dumps, bodies))], ids=["array", "lines"]
)
def test_several_notifications_in_one_body_are_read_one_by_one(
    form: Callable[[Any], str], receiver: Receiver, database: Database, inbox: Inbox
) -> None:
    bodies = [notification("e1"), notification("e2", companyId=9), {"eventName": "x"}, notification("e3", "p:1", "p:2")]
    data = form(bodies).encode()
    assert answers(receiver, data) == [Receipt(accepted=3, ignored=1)]
    assert answers(receiver, data) == [Receipt(duplicates=3, ignored=1)]
    assert sorted((row[0][:10], row[2], row[3]) for row in rows(database)) == [
        *(("e1", "pending", None), ("e3", "pending", None), ("e3", "pending", None)),
        ("unreadable", "parked", "eventUuid is missing or unusable"),
    ]


@SQLITE
def test_what_is_unreadable_of_one_body_is_kept_in_one_piece(receiver: Receiver, records: Records) -> None:
    one, two, three = {"eventName": "x"}, "y", notification("e1")
    assert answers(receiver, [one], [one, two], [one, three, two]) == [422, 422, Receipt(accepted=1)]
    kept = [records.payload(record.id) for record in records.latest("parked", 9)]
    assert sorted(kept, key=str) == [{"unreadable": [one, two]}, {"unreadable": one}]


@SQLITE
def test_a_body_that_breaks_off_is_kept_whole_beside_what_was_read_of_it(
    receiver: Receiver, records: Records, database: Database
) -> None:
    data = json.dumps([notification("e1"), notification("e2")]).encode()[:-30]
    assert answers(receiver, data) == [Receipt(accepted=1)]
    assert sorted(row[2] for row in rows(database)) == ["parked", "pending"]
    [record] = records.latest("parked", 9)
    assert records.payload(record.id) == {"unreadable": data.decode()}


# What cannot be read


@SQLITE
@pytest.mark.parametrize("depth", [3_000, 7_000, 9_990, 9_995, 20_000, 90_000])
def test_what_is_nested_too_deeply_is_kept_as_well_as_can_be(depth: int, receiver: Receiver, records: Records) -> None:
    post = f'{{"entityId": "p:1", "text": "{TEXT}", "notes": {"[" * depth}{"]" * depth}}}'
    data = json.dumps(notification("e1", "POST")).replace(json.dumps(new_post("POST")), post).encode()
    [answer] = answers(receiver, data)
    assert answer in (422, Receipt(accepted=1))
    [record] = records.latest(None, 9)
    assert TEXT in json.dumps(records.payload(record.id))


def test_a_polled_event_that_is_nested_too_deeply_is_kept_without_its_depths(
    receiver: Receiver, records: Records
) -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Unreadable, match="nested too deeply"):
        receiver.take(notification("e1", {"entityId": "p:1", "text": TEXT, "notes": deep}))
    [record] = records.latest("parked", 9)
    text = json.dumps(records.payload(record.id))
    assert TEXT in text and "bottom" not in text


@SQLITE
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("hello", "the notification is not an object"),
        (["hello"], "the notification is not an object"),
        (notification(eventName=""), "eventName is missing"),
        (notification(eventUuid=None), "eventUuid is missing or unusable"),
        (notification(companyId="acme"), "companyId is not a number"),
        (notification(data={}), "the notification has no items"),
        (notification("e1", {"text": TEXT}, [TEXT]), "an item has no usable entityId"),
        (notification("e1", [TEXT]), "an item is not an object"),
    ],
)
def test_what_cannot_be_read_is_kept_once_parked_and_named(
    body: Any, reason: str, receiver: Receiver, database: Database, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(Unreadable, match=reason):
            receiver.take(body, source, "r-1")
    [(name, subject, state, kept_reason)] = rows(database)
    assert (name[:11], subject, state, kept_reason) == ("unreadable:", "", "parked", reason)
    logged = fields_of(caplog, "parked")
    assert (logged["level"], logged["source"], logged["request_id"]) == (logging.ERROR, source, "r-1")


def test_an_unreadable_item_is_parked_beside_the_good_ones_without_an_error(
    receiver: Receiver, database: Database, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = notification("e1", {"text": TEXT}, "p:1", None)
    assert receiver.take(body, source) == Receipt(accepted=1)
    assert receiver.take(body, source) == Receipt(duplicates=1)
    assert sorted(row[2] for row in rows(database)) == ["parked", "parked", "pending"]
    assert events(caplog, "parked") == ["parked", "parked"]


def test_different_unreadable_bodies_are_all_kept(receiver: Receiver, database: Database) -> None:
    bodies: list[Any] = [[], {}, "a", "\ud800", "b\x00", 1, 1.5, None, True, [[]], {"eventName": "\udfff"}]
    for body in bodies:
        with pytest.raises(Unreadable):
            receiver.take(body, "push")
    assert len(rows(database)) == 11


# Many together


def test_each_gets_its_own_answer(receiver: Receiver, calls: Calls, database: Database) -> None:
    assert answers(
        receiver,
        notification("e1", "p:1", "p:2"),
        b"{",
        notification("e1", "p:2", "p:3"),
        notification(companyId=9),
        {"eventName": "x"},
        b'{"a":' * 90_000,
        b"",
    ) == [Receipt(accepted=2), 422, Receipt(accepted=1, duplicates=1), Receipt(ignored=1), 422, 422, 400]
    assert calls.receipts == [Receipt(accepted=2), Receipt(accepted=1, duplicates=1), Receipt(ignored=1)]
    assert len(rows(database)) == 6


class Broken(Inbox):
    """An inbox that cannot keep anything."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def accept(self, items: Sequence[NewItem]) -> list[bool]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(DatabaseUnavailable("disk is full"), 503, "database_unavailable"), (KeyError(TEXT), 500, "request_broken")],
)
def test_what_is_not_stored_is_never_acknowledged(
    error: Exception, status: int, line: str, calls: Calls, unrouted: Unrouted, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = new_receiver(calls, Broken(error), unrouted)
    assert answers(receiver, notification("e1"), b"", {"eventName": "x"}, b"{") == [status, 400, status, status]
    assert events(caplog) == [line] * 3 and calls.woken == [] and calls.receipts == []
    for raw in (notification(), {}):
        with pytest.raises(type(error)):
            receiver.take(raw)


class Faulty(Calls):
    """Routes with a fault of ours."""

    def matches(self, event: Event) -> dict[str, tuple[str, ...]]:
        if event.uuid == "e1":
            raise KeyError(TEXT)
        return super().matches(event)


@SQLITE
def test_a_fault_of_our_own_loses_nothing_and_costs_that_one_only(
    inbox: Inbox, unrouted: Unrouted, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = new_receiver(Faulty(), inbox, unrouted)
    assert answers(receiver, *(notification(f"e{n}") for n in range(3))) == [
        *(Receipt(accepted=1), 422, Receipt(accepted=1))
    ]
    kept = sorted((row[0][:11], *row[2:]) for row in rows(database))
    reason = "the relay failed to read it (KeyError)"
    assert kept == [("e0", "pending", None), ("e2", "pending", None), ("unreadable:", "parked", reason)]
    line = fields_of(caplog, "event_broken")
    assert line["request_id"] == "r-1" and line["error"].startswith("KeyError at test_receive.py:")


@SQLITE
def test_nothing_is_accepted_while_nothing_would_deliver_it(receiver: Receiver, database: Database) -> None:
    receiver.open = False
    [refusal] = receiver.receive([push(notification())])
    assert isinstance(refusal, Refusal) and refusal.status == 503
    assert "gunicorn 'app:create_app()'" in refusal.message
    assert rows(database) == []


# What is logged


def test_a_poll_that_meets_known_events_says_nothing(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.take(notification("e1"), "push")
    caplog.clear()
    for _ in range(3):
        receiver.take(notification("e1"), "poll")
        receiver.take(notification("e2", companyId=9), "poll")
    assert events(caplog) == []
    receiver.take(notification("e1"), "push")
    receiver.take(notification("e2", companyId=9), "push")
    assert events(caplog) == ["notification_accepted", "notification_ignored"]


@SQLITE
def test_at_debug_level_a_poll_logs_known_events_too(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    receiver.take(notification("e2", companyId=9), "poll")
    assert fields_of(caplog, "notification_ignored")["level"] == logging.DEBUG


@SQLITE
def test_a_poll_that_meets_something_new_says_so(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.take(notification("e1"), "poll")
    assert fields_of(caplog, "notification_accepted") == {
        **{"level": logging.INFO, "accepted": 1, "duplicates": 0},
        **{"event_uuid": "e1", "source": "poll", "request_id": None},
    }


# The token, and answers


@SQLITE
@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer   {OLD_TOKEN} ", True),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Bearer \udcff☕", False),
        ("", False),
    ],
)
def test_only_a_bearer_token_of_ours_is_admitted(header: str, right: bool, receiver: Receiver) -> None:
    if right:
        receiver.admit(header)
    else:
        with pytest.raises(Refusal) as refused:
            receiver.admit(header)
        assert (refused.value.status, refused.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


def test_without_tokens_nobody_is_authorised() -> None:
    assert not authorised("Bearer ", ()) and not authorised("Bearer x", ())


def test_a_refusal_is_logged_unless_it_is_a_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    log_refusal(Refusal(503, "Service Unavailable", "later"), "r-1", "192.0.2.1")
    assert events(caplog) == []
    log_refusal(Refusal(400, "Bad Request", "The body is not JSON."), "r-1", "192.0.2.1")
    assert fields_of(caplog, "notification_refused") == {
        **{"level": logging.WARNING, "status": 400, "reason": "The body is not JSON."},
        **{"request_id": "r-1", "client": "192.0.2.1"},
    }


def test_the_frameworks_own_errors_keep_their_status_and_what_the_sender_can_use() -> None:
    refusal = Refusal.of(MethodNotAllowed(["GET"]), "r-1")
    assert (refusal.status, refusal.error, refusal.headers) == (405, "Method Not Allowed", {"Allow": "GET"})


@pytest.mark.parametrize("given", ["", "x" * 201, "a\nb", "naïve", "a\x7f"])
def test_a_name_that_cannot_be_logged_is_replaced(given: str) -> None:
    assert request_id("r-1 ok") == "r-1 ok"
    assert request_id(given) != given and request_id(given) != request_id(given)


def test_over_https_browsers_are_asked_to_keep_to_it() -> None:
    assert "Strict-Transport-Security" in secure_headers(https=True)
    assert "Strict-Transport-Security" not in secure_headers(https=False)
