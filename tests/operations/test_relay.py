"""The parts of one process: when notifications are let in, what is logged at the start, and the proof of health."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import events, fields_of, new_settings, relay_of
from flask import Flask

from app import Settings
from inbox.database import Database
from operations.relay import Relay

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
    for name, part in (("claiming", relay.deliveries["zendesk"]), ("loop", relay.subscriber.loop)):
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


def test_a_disk_that_is_full_shows_though_reading_works(new_relay: NewRelay, database: Database) -> None:
    relay = new_relay()
    assert relay.health() is not None
    with database.transaction() as db:
        stop = "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        db.change(f"CREATE TRIGGER full_items BEFORE INSERT ON items {stop}")
    assert relay.health() is not None  # the last proof is younger than two seconds
    relay.writable_at = float("-inf")
    assert relay.health() is None
