"""Which events go to which destination."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import notification

from destinations.routes import Route, Routes
from events import Event

CREATE_CASE = Route(re.compile("CreateCase"), "zendesk")


def event(**changes: Any) -> Event:
    return Event.parse(notification(**changes))


@pytest.mark.parametrize(
    ("labels", "goes"),
    [
        (("CreateCase",), True),
        (("Praise", "CreateCase"), True),
        ((), True),
        (None, True),
        (("Praise",), False),
        (("createcase", "CreateCaseNow", "DontCreateCase"), False),
    ],
    ids=["ours", "among others", "no label: the query has been applied", "null", "another", "like ours"],
)
def test_a_label_is_matched_whole(labels: Any, goes: bool) -> None:
    assert Routes([CREATE_CASE]).names_for(event(labels=labels)) == (("zendesk",) if goes else ())


def test_a_label_is_a_regular_expression() -> None:
    routes = Routes([Route(re.compile("(?i)create ?(case|ticket)"), "zendesk")])
    assert routes.names_for(event(labels=("Create Ticket",))) == ("zendesk",)
    assert routes.names_for(event(labels=("Create Tickets",))) == ()


@pytest.mark.parametrize("name", ["rule-applied", "message-published", "Stream-Item-Label-Applied"])
def test_another_event_goes_nowhere_whatever_its_labels(name: str) -> None:
    assert Routes([CREATE_CASE]).names_for(event(eventName=name)) == ()


def test_an_event_goes_to_each_of_its_destinations_once_in_the_order_of_the_routes() -> None:
    routes = [
        Route(re.compile(label), name) for label, name in (("A", "zendesk"), ("B", "slack:#x"), ("[AB]", "zendesk"))
    ]
    assert Routes(routes).names_for(event(labels=("A", "B"))) == ("zendesk", "slack:#x")
    assert Routes(routes).names_for(event(labels=("B",))) == ("slack:#x", "zendesk")


def test_without_a_route_nothing_goes_anywhere() -> None:
    assert Routes([]).names_for(event()) == ()
