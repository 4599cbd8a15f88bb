"""The loop beside the deliveries: it sends alerts, and empties settled items when their time is over."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    TEXT,
    Clock,
    events,
    fields_of,
    new_config,
    new_item,
    new_post,
    rows,
    sqlite_unless_asked,
    wait_for,
)
from steps import deliver, park, settle

from inbox.database import Database, DatabaseUnavailable
from inbox.facts import Facts
from inbox.gate import Gate
from inbox.inbox import Inbox
from inbox.items import NewItem
from inbox.records import Records
from inbox.statements import PURGED_AT_ONCE
from inbox.unrouted import Unrouted
from operations.alerts import Alerts
from operations.health import Health
from operations.retention import PURGE_EVERY_S, RETENTION_STEP_S, Retention, purge_items
from outbound import Answer

pytestmark = pytest.mark.usefixtures("clean_log")

DAY_S = 86_400.0
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


@pytest.fixture
def webhook() -> list[str]:
    """The alerts that were sent."""
    return []


@pytest.fixture
def retention(inbox: Inbox, facts: Facts, database: Database, webhook: list[str]) -> Retention:
    def post(url: str, text: str) -> Answer:
        webhook.append(text)
        return Answer(200)

    config = new_config(alert_url="https://hooks.example/made-up")
    alerts = Alerts(config, facts, Records(database), partial(look, database), post)
    return Retention(inbox, Unrouted(database), alerts, 30 * DAY_S)


def look(database: Database) -> Health:
    """The health as far as the alerts here need it."""
    return Health({"zendesk": Gate()}, Records(database).waiting(), {}, {}, 0.0, 600.0, Facts(database).now())


def kept(records: Records) -> dict[str, bool]:
    """For each event: whether its text is kept."""
    return {record.event_uuid: record.payload_kept for record in records.latest()}


@BOTH
def test_every_settled_item_loses_its_text_and_its_attempts_when_its_time_is_over(
    inbox: Inbox, records: Records, clock: Clock
) -> None:
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"labels": [], "item": new_post("twitter:1")})])
    old = [settle(inbox, "ticket_created", reference="35436"), park(inbox, "e2", "p:2"), park(inbox, "e3", "p:3")]
    inbox.discard(old[2:])
    inbox.accept([NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="no eventName")])
    clock.advance(DAY_S)
    young = [deliver(inbox, "e5", "p:5"), park(inbox, "e6", "p:6")]
    inbox.accept([new_item("e7", "p:7")])
    clock.advance(29 * DAY_S + 1)
    purge_items(inbox, 30 * DAY_S)
    emptied = dict.fromkeys(("e1", "e2", "e3", "unreadable:1"), False)
    assert kept(records) == emptied | dict.fromkeys(("e5", "e6", "e7"), True)
    assert records.attempts(old) == [] and len(records.attempts(young)) == 2
    [record] = records.find("35436")
    assert (record.event_uuid, record.subject_id, record.state) == ("e1", "twitter:1", "delivered")


@BOTH
def test_a_purged_item_is_not_accepted_again(inbox: Inbox, database: Database, clock: Clock) -> None:
    deliver(inbox, "e1", "p:1", "35436")
    park(inbox, "e2", "p:2")
    clock.advance(31 * DAY_S)
    purge_items(inbox, 30 * DAY_S)
    assert inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2")]) == [False, False]
    assert inbox.retry() == 0
    assert [state for _, _, state, _ in rows(database)] == ["delivered", "parked"]


def test_a_purge_empties_any_number_and_logs_how_many(
    inbox: Inbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    many = 2 * PURGED_AT_ONCE + 3
    inbox.accept([new_item(f"e{n}", f"p:{n}", reason="parked") for n in range(many)])
    clock.advance(2)
    assert purge_items(inbox, 1) == many
    assert fields_of(caplog, "purged") == {"level": logging.INFO, "items": many}
    assert purge_items(inbox, 1) == 0 and events(caplog) == ["purged"]


def test_a_step_purges_at_the_start_and_every_hour(
    retention: Retention, inbox: Inbox, records: Records, clock: Clock
) -> None:
    deliver(inbox, "e1", "p:1")
    clock.advance(PURGE_EVERY_S - 1)
    deliver(inbox, "e2", "p:2")
    clock.advance(31 * DAY_S - PURGE_EVERY_S)
    assert retention.step() == RETENTION_STEP_S
    assert kept(records) == {"e1": False, "e2": False}
    deliver(inbox, "e3", "p:3")
    clock.advance(PURGE_EVERY_S)
    retention.step()
    assert kept(records)["e3"]


def test_the_next_purge_comes_when_an_hour_is_over_and_not_before(
    retention: Retention, inbox: Inbox, records: Records, clock: Clock
) -> None:
    deliver(inbox, "e1", "p:1")
    clock.advance(30 * DAY_S - 1)
    retention.step()
    clock.advance(PURGE_EVERY_S - 1)
    retention.step()
    assert kept(records)["e1"]
    clock.advance(1)
    retention.step()
    assert not kept(records)["e1"]


def test_a_clock_set_back_does_not_postpone_the_purge(
    retention: Retention, inbox: Inbox, records: Records, clock: Clock
) -> None:
    clock.advance(80 * DAY_S)
    retention.step()
    clock.advance(-80 * DAY_S)
    deliver(inbox, "e1", "p:1")
    clock.advance(31 * DAY_S)
    retention.step()
    assert not kept(records)["e1"]


def test_a_purge_that_failed_is_tried_again_at_the_next_step(
    retention: Retention, inbox: Inbox, records: Records, database: Database, clock: Clock
) -> None:
    deliver(inbox, "e1", "p:1")
    clock.advance(31 * DAY_S)
    with database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_inbox BEFORE UPDATE ON items {stop}")
    with pytest.raises(DatabaseUnavailable):
        retention.step()
    with database.transaction() as db:
        db.change("DROP TRIGGER full_inbox")
    retention.step()
    assert not kept(records)["e1"]


def test_with_no_days_to_keep_an_item_is_emptied_within_the_hour(
    inbox: Inbox, facts: Facts, database: Database, records: Records, clock: Clock
) -> None:
    alerts = Alerts(new_config(), facts, Records(database), partial(look, database))
    retention = Retention(inbox, Unrouted(database), alerts, 0.0)
    retention.step()
    deliver(inbox, "e1", "p:1")
    clock.advance(PURGE_EVERY_S)
    retention.step()
    assert not kept(records)["e1"]


@BOTH
def test_words_that_no_route_names_are_forgotten_when_their_time_is_over(
    retention: Retention, database: Database, clock: Clock
) -> None:
    unrouted = Unrouted(database)
    unrouted.note([("rule-applied", "Recall")])
    clock.advance(20 * DAY_S)
    unrouted.note([("rule-applied", "Refund")])
    retention.step()
    assert len(unrouted.recent()) == 2
    clock.advance(11 * DAY_S)
    retention.step()
    assert [one.word for one in unrouted.recent()] == ["Refund"]


def test_it_runs_in_the_background_and_sends_the_alerts(retention: Retention, inbox: Inbox, webhook: list[str]) -> None:
    park(inbox)
    retention.loop.start()
    wait_for(lambda: webhook)
    retention.loop.stop()
    assert "1 post needs attention" in webhook[0]
