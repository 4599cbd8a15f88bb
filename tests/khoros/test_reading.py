"""Items from events: one for each subject and destination, with what its words need and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import new_post, notification

from events import Event, Unreadable
from khoros.reading import Reading, read_event

MESSAGE = {"sfEntityType": "Message", "id": 77, "service": "FACEBOOK", "content": {"text": "Hello"}}
RULE = {"ruleId": "7", "ruleName": "Recall"}


def read(raw: Any, **matched: Sequence[str]) -> Reading:
    """The reading when these destinations want it."""

    def matches(event: Event) -> dict[str, Sequence[str]]:
        return matched

    return read_event(raw, 123, matches, "push", "r-1")


def names(reading: Reading) -> list[tuple[str, str, str]]:
    return [(item.destination, item.event_uuid, item.subject_id) for item in reading.items]


def test_each_destination_keeps_which_of_the_labels_it_asks_for() -> None:
    reading = read(notification("e1", "p:1", labels=["A", "B", "C"]), zendesk=["A", "B"], slack=["C"])
    assert [(item.destination, item.payload["labels"], item.payload["matched"]) for item in reading.items] == [
        *(("zendesk", ["A", "B", "C"], ["A", "B"]), ("slack", ["A", "B", "C"], ["C"]))
    ]


def test_the_posts_of_a_rule_keep_the_rule() -> None:
    data = {"ruleMatched": RULE, "items": [new_post("p:1"), new_post("p:2")]}
    reading = read(notification("e1", eventName="rule-applied", data=data), slack=["Recall"])
    assert names(reading) == [("slack", "e1", "p:1"), ("slack", "e1", "p:2")]
    assert [item.payload["rule"] for item in reading.items] == [{"id": "7", "name": "Recall"}] * 2


@pytest.mark.parametrize("name", ["message-published", "message-sent-to-network", "message-needs-approval"])
def test_a_message_is_one_subject_by_event_and_id(name: str) -> None:
    reading = read(notification("e1", eventName=name, data=MESSAGE), slack=[], webhook=[])
    assert names(reading) == [("slack", "e1", f"{name}:77"), ("webhook", "e1", f"{name}:77")]
    assert reading.items[0].payload["item"] == MESSAGE


@pytest.mark.parametrize(("data", "subject"), [({"id": 5}, "5"), ({}, "e1"), (None, "e1")])
def test_an_account_is_a_subject_even_when_nothing_is_said_about_it(data: Any, subject: str) -> None:
    reading = read(notification("e1", eventName="credential-deauth", data=data), slack=[])
    assert names(reading) == [("slack", "e1", f"credential-deauth:{subject}")]


def test_what_is_kept_with_every_subject_is_short() -> None:
    labels = ["CreateCase", "x" * 10_000, *(f"label-{n}" for n in range(10_000))]
    data = {"labels": labels, "ruleMatched": {"ruleId": "1" * 999, "ruleName": "r" * 999}, "items": [new_post("p:1")]}
    [item] = read(notification(data=data, createdDate="d" * 999), zendesk=labels).items
    expected = ["CreateCase", "x" * 255, *(f"label-{n}" for n in range(18))]
    assert item.payload["labels"] == item.payload["matched"] == expected
    assert item.payload["rule"] == {"id": "1" * 255, "name": "r" * 255} and item.payload["at"] == "d" * 255


@pytest.mark.parametrize("name", ["stream-item-label-applied", "rule-applied", "message-published"])
def test_an_event_of_ours_without_a_subject_is_unreadable(name: str) -> None:
    with pytest.raises(Unreadable, match="the notification has no items"):
        read(notification(eventName=name, data={}), zendesk=[])


def test_words_that_no_route_names_are_short() -> None:
    reading = read(notification(labels=["x" * 10_000] * 100))
    assert reading.unrouted == (("stream-item-label-applied", "x" * 255),) * 20 and reading.items == ()
