"""The one door into the inbox, for pushes and polls alike."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT, events, fields, new_config, new_post, notification, rows

from inbox import Inbox
from intake import Intake, Receipt
from khoros_client import Unreadable

pytestmark = pytest.mark.usefixtures("clean_log")

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # where the database makes no difference


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    emptied: Callable[[], str] = request.getfixturevalue("emptied") if request.param == "postgresql" else str
    return emptied() or f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def intake(inbox: Inbox) -> Intake:
    return Intake(new_config(), inbox)


@pytest.fixture(params=["push", "poll"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_notification_becomes_one_row_for_each_post(intake: Intake, inbox: Inbox, source: str) -> None:
    assert intake.take(notification("e1", "p:1", "p:2"), source=source) == Receipt(accepted=2)
    assert rows(inbox) == [("e1", "p:1", "pending", None), ("e1", "p:2", "pending", None)]


def test_endless_labels_are_not_kept_with_every_post(intake: Intake, inbox: Inbox) -> None:
    labels = ["CreateCase", "x" * 10_000, *(f"label-{n}" for n in range(10_000))]
    intake.take(notification("e1", "p:1", "p:2", labels=labels), source="push")
    kept: list[Any] = []
    inbox.claim(8, 60, kept.append)  # type: ignore[arg-type]
    expected = ["CreateCase", "x" * 255, *(f"label-{n}" for n in range(18))]
    assert [item.payload["labels"] for item in kept] == [expected] * 2


def test_a_row_holds_the_labels_the_whole_post_and_where_it_came_from(
    intake: Intake, inbox: Inbox, source: str
) -> None:
    intake.take(notification("e1", "p:1", labels=["CreateCase", "vip"]), source=source, request_id="r-1")
    kept: list[Any] = []
    inbox.claim(1, 60, kept.append)  # type: ignore[arg-type]
    assert kept[0].payload == {"labels": ["CreateCase", "vip"], "item": new_post("p:1")}
    assert (kept[0].source, kept[0].request_id) == (source, "r-1")


def test_a_known_event_is_a_duplicate_whichever_way_it_comes(intake: Intake, inbox: Inbox) -> None:
    intake.take(notification("e1", "p:1"), source="push")
    assert intake.take(notification("e1", "p:1"), source="poll") == Receipt(duplicates=1)
    assert intake.take(notification("e1", "p:1", "p:2"), source="push") == Receipt(accepted=1, duplicates=1)
    assert len(rows(inbox)) == 2


def test_the_same_post_twice_in_one_notification_is_kept_once(intake: Intake, inbox: Inbox) -> None:
    assert intake.take(notification("e1", "p:1", "p:1"), source="push") == Receipt(accepted=1, duplicates=1)


def test_a_poll_that_meets_known_events_says_nothing(intake: Intake, caplog: pytest.LogCaptureFixture) -> None:
    intake.take(notification("e1"), source="push")
    caplog.clear()
    for _ in range(3):
        intake.take(notification("e1"), source="poll")
        intake.take(notification("e2", companyId=9), source="poll")
    assert events(caplog) == []
    intake.take(notification("e1"), source="push")
    intake.take(notification("e2", companyId=9), source="push")
    assert events(caplog) == ["notification_accepted", "notification_ignored"]


def test_at_debug_level_a_poll_tells_of_known_events_too(intake: Intake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    intake.take(notification("e2", companyId=9), source="poll")
    assert fields(caplog, "notification_ignored")["level"] == logging.DEBUG


def test_a_poll_that_meets_something_new_says_so(intake: Intake, caplog: pytest.LogCaptureFixture) -> None:
    intake.take(notification("e1"), source="poll")
    told = fields(caplog, "notification_accepted")
    assert (told["accepted"], told["event_uuid"], told["source"]) == (1, "e1", "poll")


@SQLITE
@pytest.mark.parametrize(
    ("body", "ignored"),
    [
        (notification(companyId=9), 1),
        (notification("e1", "p:1", "p:2", companyId=9), 2),
        (notification(eventName="rule-applied", data={"anything": "else"}), 1),
        (notification("e1", "p:1", "p:2", labels=["Praise"]), 2),
        (notification("e1", {"text": TEXT}, labels=["Praise"]), 1),
    ],
)
def test_what_is_not_ours_is_counted_and_not_kept_even_when_its_items_are_unreadable(
    body: Any, ignored: int, intake: Intake, inbox: Inbox, source: str
) -> None:
    assert intake.take(body, source=source) == Receipt(ignored=ignored)
    assert rows(inbox) == []


@SQLITE
@pytest.mark.parametrize(
    ("pattern", "label", "ours"),
    [
        ("CreateCase", "CreateCase", True),
        ("CreateCase", "CreateCase2", False),
        ("(?i)createcase", "CREATECASE", True),
        ("Case|Ticket", "Ticket", True),
        ("Case|Ticket", "Tickets", False),
        ("Create.*", "CreateCase für Köln ☕", True),
    ],
)
def test_a_label_must_match_the_whole_pattern(pattern: str, label: str, ours: bool, inbox: Inbox) -> None:
    intake = Intake(new_config(label=re.compile(pattern)), inbox)
    assert intake.take(notification(labels=["Other", label]), source="push").accepted == ours


@SQLITE
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("hello", "the notification is not an object"),
        (notification(eventName=""), "eventName is missing"),
        (notification(eventUuid=None), "eventUuid is missing or unusable"),
        (notification(companyId="acme"), "companyId is not a number"),
        (notification(data={}), "the notification has no items"),
        (notification("e1", {"text": TEXT}, [TEXT]), "an item has no usable entityId"),
        (notification("e1", [TEXT]), "an item is not an object"),
    ],
)
def test_what_cannot_be_read_is_kept_once_parked_and_named(
    body: Any, reason: str, intake: Intake, inbox: Inbox, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(Unreadable, match=reason):
            intake.take(body, source=source, request_id="r-1")
    [(name, post, state, kept_reason)] = rows(inbox)
    assert (name[:11], post, state, kept_reason) == ("unreadable:", "", "parked", reason)
    told = fields(caplog, "parked")
    assert (told["level"], told["source"], told["request_id"]) == (logging.ERROR, source, "r-1")


def test_an_unreadable_item_is_parked_beside_the_good_ones_without_an_error(
    intake: Intake, inbox: Inbox, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = notification("e1", {"text": TEXT}, "p:1", None)
    assert intake.take(body, source=source) == Receipt(accepted=1)
    assert intake.take(body, source=source) == Receipt(duplicates=1)
    assert [row[2] for row in rows(inbox)] == ["parked", "parked", "pending"]
    assert events(caplog, "parked") == ["parked", "parked"]


def test_different_unreadable_bodies_are_all_kept(intake: Intake, inbox: Inbox) -> None:
    bodies: list[Any] = [[], {}, "a", "\ud800", "b\x00", 1, 1.5, None, True, [[]], {"eventName": "\udfff"}]
    for body in bodies:
        with pytest.raises(Unreadable):
            intake.take(body, source="push")
    assert len(rows(inbox)) == 11
