"""The parts of one process: when notifications are let in, what is logged at the start, and the proof of health."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import events, fields_of, new_item, new_settings, relay_of
from flask import Flask

from app import Settings
from background import Loop
from events import LABEL_APPLIED, RULE_APPLIED
from inbox.database import Database, DatabaseUnavailable
from khoros.subscription import FAILED, STARTING
from operations.relay import PAUSE_S, STOP_S, Relay

pytestmark = pytest.mark.usefixtures("clean_log")

NewRelay = Callable[..., Relay]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def new_relay(new_app: Callable[[Settings], Flask], database_url: str) -> NewRelay:
    def make(**changes: Any) -> Relay:
        relay = relay_of(new_app(new_settings(**{"database_url": database_url, **changes})))
        relay.receiver.open = False
        return relay

    return make


def test_notifications_are_let_in_while_the_background_work_runs(new_relay: NewRelay) -> None:
    relay = new_relay()
    relay.start()
    assert relay.receiver.open
    relay.stop()
    assert not relay.receiver.open


def test_a_stop_gives_up_claiming_before_anything_else(new_relay: NewRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = new_relay()
    steps: list[str] = []
    for name, part in (("claiming", relay.deliveries["zendesk"]), ("loop", relay.subscriptions.loop)):
        stop = "stop_claiming" if name == "claiming" else "stop"
        monkeypatch.setattr(part, stop, lambda name=name: steps.append(name))
    relay.stop()
    assert relay.stopping and steps[:2] == ["claiming", "loop"]


def test_a_start_warns_of_what_will_end_or_be_lost(new_relay: NewRelay, caplog: pytest.LogCaptureFixture) -> None:
    relay = new_relay(client_id="", user_email="a@b.example", api_token="made-up-api-token", on_dyno=True)
    relay.start()
    relay.stop()
    notice = fields_of(caplog, "destination_notice")
    assert (notice["level"], notice["destination"]) == (logging.WARNING, "zendesk") and "2027-04-30" in notice["reason"]
    lost = fields_of(caplog, "sqlite_on_heroku")
    assert lost["level"] == logging.ERROR and "heroku-postgresql" in lost["reason"]


def test_a_start_with_nothing_to_warn_of_is_quiet(new_relay: NewRelay, caplog: pytest.LogCaptureFixture) -> None:
    relay = new_relay()
    relay.start()
    relay.stop()
    assert events(caplog, "destination_notice", "sqlite_on_heroku") == []


def test_the_health_of_a_service_that_cannot_store_is_none_and_is_logged(
    new_relay: NewRelay, caplog: pytest.LogCaptureFixture
) -> None:
    relay = new_relay(database_url="sqlite:////nowhere/at/all/relay.db")
    assert relay.health() is None
    assert fields_of(caplog, "database_unavailable")["level"] == logging.ERROR


def test_a_disk_that_is_full_shows_though_reading_works(
    new_relay: NewRelay, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    relay = new_relay()
    assert fault_of(relay) == ""
    with database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_items BEFORE INSERT ON items {stop}")
    assert fault_of(relay) == ""  # the last proof is younger than two seconds
    relay.writable_at = float("-inf")
    assert "database or disk is full" in fault_of(relay)
    assert fields_of(caplog, "database_unavailable")["level"] == logging.ERROR


def fault_of(relay: Relay) -> str:
    health = relay.health()
    assert health
    return health.fault


# Where no background work can run


class Drained:
    """In place of a delivery: what waits for it each time that it is told to deliver."""

    def __init__(self, relay: Relay) -> None:
        self.relay, self.waiting = relay, list[int]()
        relay.deliveries = {"zendesk": self}  # type: ignore[dict-item]

    def drain(self, ends_at: float) -> None:
        assert 9 < ends_at - time.monotonic() <= 10
        self.waiting.append(self.relay.inbox.counts().pending)


def test_a_tick_does_once_what_the_loops_do_and_leaves_no_thread(new_relay: NewRelay) -> None:
    relay, before = new_relay(), set(threading.enumerate())
    drained = Drained(relay)
    relay.tick(10, deliver_only=True)
    assert len(drained.waiting) == 2 and states(relay) == {STARTING}
    relay.tick(10)
    assert len(drained.waiting) == 4 and states(relay) == {FAILED}
    assert set(threading.enumerate()) <= before


def states(relay: Relay) -> set[str]:
    return {status.state for status in relay.subscriptions.statuses().values()}


def test_a_tick_delivers_what_it_fetches(new_relay: NewRelay) -> None:
    relay, steps = new_relay(), [0.0, 60.0]  # as after the first upsert: the next step is due at once
    drained = Drained(relay)

    def fetch() -> float:
        if len(steps) == 1:
            relay.inbox.accept([new_item("e1", "p:1")])
        return steps.pop(0)

    relay.subscriptions.loop = Loop("subscriptions", fetch)
    relay.tick(10)
    assert steps == [] and drained.waiting[1:] == [1]


def test_one_tick_at_a_time_is_asked_for(new_relay: NewRelay) -> None:
    relay, asked = new_relay(), list[bool]()
    Drained(relay)
    assert relay.needs_tick()

    def ask() -> float:
        asked.append(relay.needs_tick())
        return 60.0

    relay.subscriptions.loop = Loop("subscriptions", ask)
    relay.tick(10)
    assert asked == [False] and relay.needs_tick() and not relay.needs_tick()


def test_a_turn_that_cannot_be_ended_costs_no_delivery(
    new_relay: NewRelay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise DatabaseUnavailable("busy")

    relay = new_relay()
    drained = Drained(relay)
    monkeypatch.setattr(relay.facts, "end_turn", fail)
    relay.tick(10, deliver_only=True)
    assert len(drained.waiting) == 2 and fields_of(caplog, "turn_not_ended")["reason"]


def test_after_a_pause_no_connection_of_before_is_used(new_relay: NewRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, made = new_relay(), []
    monkeypatch.setattr(relay.inbox, "reconnect", lambda: made.append(1))
    for _ in range(2):
        relay.resume()
    assert len(made) == 1
    for used_at in (time.time() - PAUSE_S, time.time() + 60):  # or the clock was set back
        relay.used_at = used_at
        relay.resume()
    assert len(made) == 3


def test_a_connection_that_died_in_a_pause_is_not_used(new_relay: NewRelay, emptied: Callable[[], str]) -> None:
    url = emptied()
    relay = new_relay(database_url=url)
    for pause_s in (0.0, PAUSE_S):
        relay.resume()
        relay.inbox.now()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        relay.used_at -= pause_s
        relay.resume()
        with nullcontext() if pause_s else pytest.raises(DatabaseUnavailable):
            relay.inbox.now()


# Several destinations

THREE = "label CreateCase -> zendesk; label VIP -> slack #crisis; label VIP -> webhook https://hooks.example/T0P/SECRET"


def test_each_destination_of_the_routes_has_its_delivery_and_each_event_its_subscription(new_relay: NewRelay) -> None:
    relay = new_relay(routes=f"{THREE}; rule Recall -> slack #crisis")
    [webhook] = [name for name in relay.deliveries if name.startswith("webhook:hooks.example/")]
    assert list(relay.deliveries) == ["zendesk", "slack:#crisis", webhook]
    assert [one.name for one in relay.destinations] == list(relay.deliveries)
    assert list(relay.subscriptions.statuses()) == [LABEL_APPLIED, RULE_APPLIED]


def test_only_what_waits_for_a_destination_of_the_routes_counts_as_pending(new_relay: NewRelay) -> None:
    relay = new_relay(routes=THREE)
    for number, name in enumerate(("zendesk", "slack:#crisis", "slack:#old")):
        relay.inbox.accept([new_item(f"e{number}", f"p:{number}", destination=name)])
    assert relay.pending() == 2 and relay.inbox.counts().pending == 3


def test_all_deliveries_share_the_time_of_a_stop(new_relay: NewRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, now, waits = new_relay(routes=THREE), [100.0], []
    relay.clock = lambda: now[0]

    def hangs(timeout_s: float) -> None:
        waits.append(timeout_s)
        now[0] += min(timeout_s, 15.0)

    for delivery in relay.deliveries.values():
        monkeypatch.setattr(delivery, "stop", hangs)
    relay.stop()
    assert waits == [STOP_S, STOP_S - 15.0, 0.0]


def test_what_an_item_became_is_named_by_its_own_destination(new_relay: NewRelay) -> None:
    relay = new_relay(routes=THREE)
    relay.inbox.accept([new_item("e1", "p:1"), new_item("e1", "p:1", destination="slack:#crisis")])
    nouns = {record.destination: relay.noun(record) for record in relay.records.latest()}
    assert nouns == {"zendesk": "ticket", "slack:#crisis": "message"} and relay.noun() == "reference"
