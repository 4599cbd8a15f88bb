"""The figures for Prometheus: readable by its own parser, named by its conventions, the same from every process."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import (
    AUTHOR,
    TEXT,
    TOKEN,
    Clock,
    compose,
    new_config,
    new_item,
    notification,
    relay_of,
    sqlite_unless_asked,
)
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from config import Config
from gate import LIMITED, OUTAGE, UNAUTHORISED
from inbox import Attempt, Inbox, NewItem
from metrics import exposition
from records import Records
from sandbox.zendesk import FakeZendesk
from standing import standing
from store import BUCKETS, DELIVERED, PARKED, PENDING
from subscription import Connection

pytestmark = pytest.mark.usefixtures("clean_log")

NewApp = Callable[[Config], Flask]
PASSWORD = "made-up-status-password"
HEADERS = {"Authorization": "Basic " + base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()}
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
EVERY = {
    "relay_accepted": "counter",
    "relay_delivered": "counter",
    "relay_duplicates": "counter",
    "relay_ignored": "counter",
    "relay_retries": "counter",
    "relay_parked": "gauge",
    "relay_waiting": "gauge",
    "relay_oldest_waiting_seconds": "gauge",
    "relay_subscribed": "gauge",
    "relay_zendesk_open": "gauge",
    "relay_ack_seconds": "histogram",
    "relay_label_to_ticket_seconds": "histogram",
}


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


@pytest.fixture
def config(database_url: str) -> Config:
    return new_config(database_url=database_url, status_password=PASSWORD)


def parsed(text: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def scraped(inbox: Inbox) -> dict[str, Metric]:
    """The figures as this process tells them."""
    return parsed(exposition(standing(inbox), Records(inbox), inbox.sums()).decode())


def value(metrics: dict[str, Metric], name: str) -> float:
    """The one sample of a counter or gauge."""
    [sample] = metrics[name].samples
    return sample.value


def causes(metrics: dict[str, Metric]) -> dict[str, float]:
    return {sample.labels["cause"]: sample.value for sample in metrics["relay_retries"].samples}


def buckets(metrics: dict[str, Metric], name: str) -> dict[str, float]:
    return {sample.labels["le"]: sample.value for sample in metrics[name].samples if "le" in sample.labels}


def settle(inbox: Inbox, outcome: str, state: str = DELIVERED) -> None:
    [item] = inbox.claim(1, 15, compose).items
    values: dict[str, dict[str, object]] = {PENDING: {"delay_s": 0.0}, DELIVERED: {"ticket_id": 1}, PARKED: {}}
    inbox.settle(item, {"state": state, **values[state]}, lambda gate, now: gate, Attempt(outcome, 0.1))


def test_a_new_service_has_every_figure_from_the_start(inbox: Inbox) -> None:
    metrics = scraped(inbox)
    assert {name: metric.type for name, metric in metrics.items()} == EVERY
    zero = [name for name, kind in EVERY.items() if kind != "histogram" and name != "relay_retries"]
    assert {name: value(metrics, name) for name in zero} == dict.fromkeys(zero, 0.0) | {"relay_zendesk_open": 1.0}
    assert causes(metrics) == {OUTAGE: 0.0, LIMITED: 0.0, UNAUTHORISED: 0.0}
    assert set(buckets(metrics, "relay_ack_seconds").values()) == {0.0}


def test_names_units_and_words_follow_prometheus_conventions(inbox: Inbox) -> None:
    inbox.move_gate(lambda gate, now: gate.counted(now, 1650, 30.0))
    for metric in scraped(inbox).values():
        assert re.fullmatch(r"relay_[a-z_]+", metric.name) and metric.documentation.endswith(".")
        for sample in metric.samples:
            suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[metric.type]
            assert sample.name.removeprefix(metric.name) in suffixes
        assert not metric.name.endswith(("_ms", "_minutes", "_s", "_total", "_count"))


@BOTH
def test_what_happened_is_counted_once_and_by_cause(inbox: Inbox) -> None:
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(5)])
    inbox.accept([NewItem("unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    for outcome in (OUTAGE, OUTAGE, LIMITED, UNAUTHORISED):
        settle(inbox, outcome, PENDING)
    settle(inbox, "ticket_created")
    settle(inbox, "note_added")
    settle(inbox, "refused", PARKED)
    inbox.remember("connection", json.dumps(asdict(Connection("subscribed"))))
    metrics = scraped(inbox)
    found = {name.removeprefix("relay_"): value(metrics, name) for name in EVERY if EVERY[name] == "gauge"}
    assert found == {"parked": 2, "waiting": 2, "oldest_waiting_seconds": 0, "subscribed": 1, "zendesk_open": 1}
    assert (value(metrics, "relay_accepted"), value(metrics, "relay_delivered")) == (6.0, 2.0)
    assert causes(metrics) == {OUTAGE: 2.0, LIMITED: 1.0, UNAUTHORISED: 1.0}


@BOTH
def test_two_processes_tell_the_same(inbox: Inbox, other: Inbox) -> None:
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")])
    settle(other, "ticket_created")
    settle(inbox, OUTAGE, PENDING)
    inbox.tally("duplicates")
    other.tally("duplicates", 2)
    inbox.observe("ack", 0.003)
    other.observe("ack", 0.3)
    other.save_tally()
    first, second = scraped(inbox), scraped(other)
    assert first == second
    assert value(first, "relay_duplicates") == 3.0
    assert buckets(first, "relay_ack_seconds")["0.5"] == 2.0


def test_counters_never_fall_when_an_item_changes_its_state(inbox: Inbox) -> None:
    """Sent again, discarded, emptied: Prometheus would take a counter that falls for one that began anew."""
    counters = [name for name, kind in EVERY.items() if kind == "counter" and name != "relay_retries"]
    steps: list[Callable[[], object]] = [
        lambda: inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(3)]),
        lambda: settle(inbox, "ticket_created"),
        lambda: settle(inbox, "refused", PARKED),
        lambda: inbox.retry([2]),
        lambda: settle(inbox, "refused", PARKED),
        lambda: settle(inbox, "refused", PARKED),
        lambda: inbox.discard([2, 3]),
        lambda: inbox.purge(-1),
    ]
    told = []
    for step in steps:
        step()
        metrics = scraped(inbox)
        told.append([value(metrics, name) for name in counters])
    assert told == [[max(column) for column in zip(*told[: n + 1], strict=True)] for n in range(len(told))]
    assert told[-1] == [3.0, 1.0, 0.0, 0.0]


def test_histograms_count_each_bucket_with_all_below_it(inbox: Inbox) -> None:
    for seconds in (0.0005, 0.003, 0.3, 0.3, 7200.0):
        inbox.observe("label_to_ticket", seconds)
    metrics = scraped(inbox)
    told = buckets(metrics, "relay_label_to_ticket_seconds")
    assert [float(bound) for bound in told] == [float(bound) for bound in BUCKETS]
    assert list(told.values()) == sorted(told.values())
    by_bound = {float(bound): count for bound, count in told.items()}
    assert [by_bound[bound] for bound in (0.001, 0.0025, 0.005, 0.25, 0.5, 3600.0, float("inf"))] == [
        1,
        1,
        2,
        2,
        4,
        4,
        5,
    ]
    rest = {sample.name: sample.value for sample in metrics["relay_label_to_ticket_seconds"].samples[len(told) :]}
    assert rest == {
        "relay_label_to_ticket_seconds_count": 5.0,
        "relay_label_to_ticket_seconds_sum": pytest.approx(7200.6035),
    }


def test_a_scrape_in_the_middle_of_an_outage_tells_it(inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    [item] = inbox.claim(1, 15, compose).items
    values = {"state": PENDING, "reason": "Zendesk answered 503", "delay_s": 0.0}
    fail = Attempt(OUTAGE, 0.1, 503)
    inbox.settle(item, values, lambda gate, now: gate.after_failure(now, gate.version, OUTAGE, "503", None), fail)
    clock.advance(90)
    metrics = scraped(inbox)
    assert (value(metrics, "relay_zendesk_open"), value(metrics, "relay_waiting")) == (0.0, 1.0)
    assert value(metrics, "relay_oldest_waiting_seconds") == 90.0 and causes(metrics)[OUTAGE] == 1.0


def test_the_calls_that_are_left_are_told_only_while_they_are_known(inbox: Inbox, clock: Clock) -> None:
    inbox.move_gate(lambda gate, now: gate.counted(now, 1650, 30.0))
    assert value(scraped(inbox), "relay_zendesk_calls_left") == 1650.0
    clock.advance(30)
    assert "relay_zendesk_calls_left" not in scraped(inbox)


# The page


def test_the_page_tells_what_went_through_the_service(new_app: NewApp, config: Config, zendesk: FakeZendesk) -> None:
    app = new_app(replace(config, zendesk_url=zendesk.url))  # type: ignore[attr-defined]
    client, relay = app.test_client(), relay_of(app)

    def push(event: str, **changes: object) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        client.post("/notifications", json=notification(event, "twitter:1", **changes), headers=headers)

    push("e1")
    push("e1")
    push("e2", labels=["Another"])
    assert relay.delivery.deliver_due() is None
    answer = client.get("/metrics", headers=HEADERS)
    metrics = parsed(answer.text)
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    told = {name: value(metrics, f"relay_{name}") for name in ("accepted", "delivered", "duplicates", "ignored")}
    assert told == {"accepted": 1.0, "delivered": 1.0, "duplicates": 1.0, "ignored": 1.0}
    assert buckets(metrics, "relay_ack_seconds")["+Inf"] == 3.0
    assert buckets(metrics, "relay_label_to_ticket_seconds")["+Inf"] == 1.0
    assert TEXT not in answer.text and AUTHOR not in answer.text and "twitter" not in answer.text


def test_a_full_disk_is_told_to_the_scraper(client: FlaskClient, app: Flask) -> None:
    inbox = relay_of(app).inbox
    assert client.get("/metrics", headers=HEADERS).status_code == 200
    with inbox._database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_sums BEFORE INSERT ON sums {stop}")
    inbox.tally("ignored")
    assert client.get("/metrics", headers=HEADERS).status_code == 503
