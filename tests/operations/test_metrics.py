"""The metrics for Prometheus: readable by its own parser, named by its conventions, of this process or of all."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    AUTHOR,
    TEXT,
    TOKEN,
    Clock,
    new_config,
    new_item,
    new_settings,
    new_subscriptions,
    notification,
    relay_of,
    sqlite_unless_asked,
)
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from steps import claim, deliver, move_gate, park, settle

from app import Settings
from events import LABEL_APPLIED, RULE_APPLIED
from inbox.database import Database
from inbox.facts import Facts
from inbox.gate import LIMITED, OUTAGE, UNAUTHORISED
from inbox.inbox import Inbox
from inbox.items import REFUSED, TROUBLES, NewItem, Outcome
from inbox.records import Records
from khoros.catch_up import CatchUpStatus
from khoros.receive import Receipt
from khoros.subscription import SubscriptionStatus, status_fact
from operations.health import current_health
from operations.metrics import BUCKETS_S, Metrics
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

PASSWORD = "made-up-status-password"
HEADERS = {"Authorization": "Basic " + base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()}
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
CRISIS = "slack:#crisis"
LABEL_TO_DELIVERED = "relay_label_to_delivered_seconds"
SHARED = {  # the same in every process
    "relay_accepted": "counter",
    "relay_delivered": "counter",
    "relay_parked": "gauge",
    "relay_waiting": "gauge",
    "relay_oldest_waiting_seconds": "gauge",
    "relay_subscribed": "gauge",
    "relay_polling": "gauge",
    "relay_destination_open": "gauge",
    "relay_calls_left": "gauge",
}
OWN = {
    "relay_duplicates": "counter",
    "relay_ignored": "counter",
    "relay_retries": "counter",
    "relay_ack_seconds": "histogram",
    LABEL_TO_DELIVERED: "histogram",
}


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


@pytest.fixture
def settings(database_url: str) -> Settings:
    return new_settings(database_url=database_url, status_password=PASSWORD)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


Scrape = Callable[[], dict[str, Metric]]


@pytest.fixture
def scrape(metrics: Metrics, database: Database) -> Scrape:
    """Reads the metrics of one process."""
    return lambda: scraped(metrics, database)


def scraped(metrics: Metrics, database: Database) -> dict[str, Metric]:
    inbox, facts, records = Inbox(database), Facts(database), Records(database)
    subscriptions = new_subscriptions(new_config(), database, queries={LABEL_APPLIED: "CreateCase", RULE_APPLIED: ""})
    health = current_health(inbox, facts, records, subscriptions, ["zendesk", CRISIS], 600.0)
    return parsed(metrics.exposition(health, records.by_state()).decode())


def parsed(text: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def samples(metrics: dict[str, Metric], name: str, of: str = "zendesk") -> list[Sample]:
    """The samples of one metric, of those with labels the ones of a destination or an event."""
    return [one for one in metrics[name].samples if of in one.labels.values() or not set(one.labels) - {"le"}]


def value(metrics: dict[str, Metric], name: str, of: str = "zendesk") -> float:
    """The one sample of a counter or gauge."""
    [sample] = samples(metrics, name, of)
    return sample.value


def causes(metrics: dict[str, Metric], of: str = "zendesk") -> dict[str, float]:
    return {sample.labels["cause"]: sample.value for sample in samples(metrics, "relay_retries", of)}


def buckets(metrics: dict[str, Metric], name: str, of: str = "zendesk") -> dict[float, float]:
    return {float(sample.labels["le"]): sample.value for sample in samples(metrics, name, of) if "le" in sample.labels}


def test_a_new_service_has_every_metric_from_the_start(scrape: Scrape) -> None:
    metrics = scrape()
    assert {name: metric.type for name, metric in metrics.items()} == SHARED | OWN
    whole = ["relay_accepted", "relay_delivered", "relay_duplicates", "relay_ignored"]
    assert {name: value(metrics, name) for name in whole} == dict.fromkeys(whole, 0.0)
    for of in ("zendesk", CRISIS):
        for name in ("relay_parked", "relay_waiting", "relay_oldest_waiting_seconds"):
            assert value(metrics, name, of) == 0.0
        assert value(metrics, "relay_destination_open", of) == 1.0
        assert causes(metrics, of) == dict.fromkeys(TROUBLES, 0.0)
        assert buckets(metrics, LABEL_TO_DELIVERED, of) == dict.fromkeys((*BUCKETS_S, float("inf")), 0.0)
    assert buckets(metrics, "relay_ack_seconds") == dict.fromkeys((*BUCKETS_S, float("inf")), 0.0)
    for event in (LABEL_APPLIED, RULE_APPLIED):
        assert (value(metrics, "relay_subscribed", event), value(metrics, "relay_polling", event)) == (0.0, 1.0)


def test_names_units_and_words_follow_prometheus_conventions(scrape: Scrape, inbox: Inbox) -> None:
    move_gate(inbox, "checked", calls_left=1650, reset_s=30.0)
    for metric in scrape().values():
        assert re.fullmatch(r"relay_[a-z_]+", metric.name) and metric.documentation.endswith(".")
        for sample in metric.samples:
            suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[metric.type]
            assert sample.name.removeprefix(metric.name) in suffixes
        assert not metric.name.endswith(("_ms", "_minutes", "_s", "_total", "_count"))


@BOTH
def test_the_database_gives_the_same_counts_to_every_process(
    inbox: Inbox, facts: Facts, database: Database, other_database: Database
) -> None:
    deliver(inbox, "e1", "p:1")
    deliver(inbox, "e2", "p:2", "1002")
    park(inbox, "e3", "p:3")
    inbox.accept([NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in (4, 5)])
    inbox.accept([new_item("e7", "p:7", destination="slack:#old")])
    facts.save(status_fact(LABEL_APPLIED), SubscriptionStatus("subscribed"))
    facts.save(f"catch_up:{RULE_APPLIED}", CatchUpStatus(failed="Khoros answered 500"))
    first, second = scraped(Metrics(), database), scraped(Metrics(), other_database)
    assert (value(first, "relay_accepted"), value(first, "relay_delivered")) == (7.0, 2.0)
    for name, counts in {"zendesk": (1, 2), "": (1, 0), "slack:#old": (0, 1), CRISIS: (0, 0)}.items():
        labelled = {
            one.name: one.value
            for metric in first.values()
            for one in metric.samples
            if one.labels == {"destination": name}
        }
        assert (labelled["relay_parked"], labelled["relay_waiting"]) == counts, name
    for name, wanted in {"relay_subscribed": (1.0, 0.0), "relay_polling": (1.0, 0.0)}.items():
        assert (value(first, name, LABEL_APPLIED), value(first, name, RULE_APPLIED)) == wanted
    assert first == second


def test_a_process_counts_its_receipts(metrics: Metrics, scrape: Scrape) -> None:
    metrics.on_receipt(Receipt(accepted=1, duplicates=2, ignored=0), 0.003)
    metrics.on_receipt(Receipt(accepted=0, duplicates=1, ignored=4), 0.3)
    found = scrape()
    assert (value(found, "relay_duplicates"), value(found, "relay_ignored")) == (3.0, 4.0)
    acks = buckets(found, "relay_ack_seconds")
    assert [acks[bound] for bound in (0.0025, 0.005, 0.25, 0.5, float("inf"))] == [0, 1, 1, 2, 2]


def test_a_process_counts_its_attempts_by_destination_and_cause(
    metrics: Metrics, scrape: Scrape, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    clock.advance(2.0)
    item = claim(inbox)
    for how in (OUTAGE, OUTAGE, LIMITED, UNAUTHORISED, REFUSED, "ticket_created", "note_added"):
        metrics.on_outcome(item, Outcome(how, 0.25))
    found = scrape()
    assert causes(found) == dict.fromkeys(TROUBLES, 0.0) | {OUTAGE: 2.0, LIMITED: 1.0, UNAUTHORISED: 1.0}
    times = buckets(found, LABEL_TO_DELIVERED)
    assert [times[bound] for bound in (1.0, 2.5, float("inf"))] == [0, 2, 2]
    sums = {one.name: one.value for one in samples(found, LABEL_TO_DELIVERED) if "le" not in one.labels}
    assert sums == {f"{LABEL_TO_DELIVERED}_count": 2.0, f"{LABEL_TO_DELIVERED}_sum": pytest.approx(4.5)}
    assert set(causes(found, CRISIS).values()) == set(buckets(found, LABEL_TO_DELIVERED, CRISIS).values()) == {0.0}


def test_counters_never_fall_when_an_item_changes_its_state(scrape: Scrape, inbox: Inbox) -> None:
    """Sent again, discarded, emptied: Prometheus takes a counter that falls for one that began anew."""
    steps: list[Callable[[], object]] = [
        lambda: inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(3)]),
        lambda: settle(inbox, "ticket_created", reference="1001"),
        lambda: settle(inbox, REFUSED),
        lambda: inbox.retry([2]),
        lambda: settle(inbox, REFUSED),
        lambda: settle(inbox, REFUSED),
        lambda: inbox.discard([2, 3]),
        lambda: inbox.purge(-1),
    ]
    counted = []
    for step in steps:
        step()
        found = scrape()
        counted.append([value(found, name) for name in ("relay_accepted", "relay_delivered")])
    assert counted == [[max(column) for column in zip(*counted[: n + 1], strict=True)] for n in range(len(counted))]
    assert counted[-1] == [3.0, 1.0]


def test_a_scrape_in_the_middle_of_an_outage_shows_it(scrape: Scrape, inbox: Inbox, clock: Clock) -> None:
    inbox.accept([new_item()])
    settle(inbox, OUTAGE, reason="Zendesk answered 503", status=503)
    clock.advance(90)
    found = scrape()
    assert (value(found, "relay_destination_open"), value(found, "relay_waiting")) == (0.0, 1.0)
    assert value(found, "relay_oldest_waiting_seconds") == 90.0


def test_the_calls_that_are_left_are_shown_only_while_they_are_known(
    scrape: Scrape, inbox: Inbox, clock: Clock
) -> None:
    move_gate(inbox, "checked", calls_left=1650, reset_s=30.0)
    assert value(scrape(), "relay_calls_left") == 1650.0
    clock.advance(30)
    assert scrape()["relay_calls_left"].samples == []


# The page


def test_the_page_shows_what_went_through_the_service(
    new_app: Callable[[Settings], Flask], database_url: str, zendesk: FakeZendesk
) -> None:
    url = zendesk.url  # type: ignore[attr-defined]
    app = new_app(new_settings(database_url=database_url, status_password=PASSWORD, zendesk_url=url))
    client, relay = app.test_client(), relay_of(app)

    def push(event: str, **changes: object) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        client.post("/notifications", json=notification(event, "twitter:1", **changes), headers=headers)

    push("e1")
    push("e1")
    push("e2", labels=["Another"])
    assert relay.deliveries["zendesk"].deliver_due() is None
    answer = client.get("/metrics", headers=HEADERS)
    found = parsed(answer.text)
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    counts = {name: value(found, f"relay_{name}") for name in ("accepted", "delivered", "duplicates", "ignored")}
    assert counts == {"accepted": 1.0, "delivered": 1.0, "duplicates": 1.0, "ignored": 1.0}
    assert buckets(found, "relay_ack_seconds")[float("inf")] == 3.0
    assert buckets(found, LABEL_TO_DELIVERED)[float("inf")] == 1.0
    assert TEXT not in answer.text and AUTHOR not in answer.text and "twitter" not in answer.text


def test_a_full_disk_is_a_503_for_the_scraper(client: FlaskClient, app: Flask, database: Database) -> None:
    assert client.get("/metrics", headers=HEADERS).status_code == 200
    with database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_items BEFORE INSERT ON items {stop}")
    relay_of(app).writable_at = float("-inf")
    assert client.get("/metrics", headers=HEADERS).status_code == 503


def test_a_service_that_is_not_scraped_does_not_carry_the_library() -> None:
    script = "import sys, app; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)  # noqa: S603 - our own words
