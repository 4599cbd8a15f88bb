"""The commands: what a person reads, the exit code, and what is then true in Khoros."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from conftest import (
    NOWHERE,
    TEXT,
    TOKEN,
    compose,
    new_config,
    new_item,
    new_subscriber,
    relay_of,
    rows,
)
from flask import Flask
from flask.testing import FlaskCliRunner

from config import Config
from inbox import Inbox, NewItem
from sandbox.khoros import FakeKhoros

pytestmark = pytest.mark.usefixtures("clean_log")

COMMANDS = (["show"], ["pause"], ["resume"], ["delete", "--yes"])


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def config(database_url: str, khoros: FakeKhoros) -> Config:
    url = khoros.url  # type: ignore[attr-defined]
    return new_config(database_url=database_url, khoros_url=url, catch_up_s=0.0)


@pytest.fixture
def subscribed(config: Config, inbox: Inbox, khoros: FakeKhoros) -> str:
    """A service that has subscribed; gives the subscription's uuid."""
    new_subscriber(config, inbox).step()
    return khoros.subscriptions[0].uuid


def run(runner: FlaskCliRunner, *words: str, typed: str | None = None) -> Result:
    return runner.invoke(args=["subscription", *words], input=typed)


def state_after_a_restart(config: Config, inbox: Inbox) -> str:
    """What a service that starts now makes of it."""
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    return subscriber.connection().state


def no_traceback(result: Result) -> bool:
    return isinstance(result.exception, SystemExit | None) and "Traceback" not in result.output


# On a healthy Khoros


def test_show_prints_the_subscription_and_no_secret(runner: FlaskCliRunner, subscribed: str) -> None:
    result = run(runner, "show")
    lines = dict(line.split(maxsplit=1) for line in result.output.replace(" uri", "_uri").splitlines())
    assert result.exit_code == 0
    assert (lines["uuid"], lines["status"], lines["query"]) == (subscribed, "ACTIVE", "CreateCase")
    assert lines["notification_uri"] == f"{NOWHERE}/notifications" and TOKEN not in result.output


def test_show_marks_what_is_empty(runner: FlaskCliRunner, config: Config, inbox: Inbox, khoros: FakeKhoros) -> None:
    new_subscriber(replace(config, polling=True), inbox).step()
    assert "notification uri  -\n" in run(runner, "show").output


def test_pause_pauses_and_the_service_leaves_it_so_and_says_it(
    runner: FlaskCliRunner, subscribed: str, config: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    result = run(runner, "pause")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "PAUSED")
    assert result.output == (
        f"Paused {subscribed}. Labels make no tickets until: flask --app app subscription resume\n"
    )
    assert state_after_a_restart(config, inbox) == "paused"
    assert khoros.subscriptions[0].status == "PAUSED"


def test_a_running_service_notices_a_pause_at_its_next_step(
    runner: FlaskCliRunner, config: Config, inbox: Inbox
) -> None:
    running = new_subscriber(config, inbox)
    running.step()
    run(runner, "pause")
    running.step()
    assert running.connection().state == "paused"


def test_resume_ends_a_pause(
    runner: FlaskCliRunner, subscribed: str, config: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    run(runner, "pause")
    assert state_after_a_restart(config, inbox) == "paused"
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "ACTIVE")
    assert result.output == f"{subscribed} is active again. The running service looks at it within a minute.\n"
    assert state_after_a_restart(config, inbox) == "subscribed"


def test_delete_removes_it_and_it_stays_deleted_over_restarts_until_resumed(
    runner: FlaskCliRunner, subscribed: str, config: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", "--yes")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output.startswith(f"Deleted {subscribed}. The service makes no new one until:")
    for _ in range(2):
        assert state_after_a_restart(config, inbox) == "deleted"
    assert khoros.subscriptions == []
    result = run(runner, "resume")
    assert (result.exit_code, result.output.startswith("Khoros has no subscription of ours.")) == (0, True)
    assert state_after_a_restart(config, inbox) == "subscribed"
    assert len(khoros.subscriptions) == 1


@pytest.mark.parametrize(("typed", "deleted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_delete_asks_first(
    typed: str, deleted: bool, runner: FlaskCliRunner, subscribed: str, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", typed=typed)
    assert "No label will make a ticket any more. Delete the subscription in Khoros? [y/N]" in result.output
    assert (result.exit_code, khoros.subscriptions == []) == (0 if deleted else 1, deleted)
    if not deleted:
        assert "Aborted!" in result.output


def test_only_our_own_subscription_is_touched(
    runner: FlaskCliRunner, subscribed: str, config: Config, app: Flask, khoros: FakeKhoros
) -> None:
    relay_of(app).khoros.subscribe(external_id="other", notification_uri="", query="", bearer_token=TOKEN)
    run(runner, "pause")
    run(runner, "delete", "--yes")
    [other] = khoros.subscriptions
    assert (other.external_id, other.status) == ("other", "ACTIVE")


def test_the_help_tells_the_commands_apart(runner: FlaskCliRunner) -> None:
    words = run(runner, "--help").output
    assert all(f"  {name} " in words for name in ("show", "pause", "resume", "delete"))


# With nothing there


@pytest.mark.parametrize("words", [["show"], ["pause"]], ids=" ".join)
def test_with_no_subscription_there_one_line_says_so(words: list[str], runner: FlaskCliRunner) -> None:
    result = run(runner, *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert result.output.startswith("Error: Khoros has no subscription named send-to-zendesk.")
    assert len(result.output.splitlines()) == 1


def test_resume_with_no_subscription_there_has_it_made(
    runner: FlaskCliRunner, config: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output == ("Khoros has no subscription of ours. The running service looks at it within a minute.\n")
    assert state_after_a_restart(config, inbox) == "subscribed"


# With Khoros, or the database, down


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda k: k.faults.outage(503), "Error: Khoros answered 503"),
        (lambda k: k.faults.reset(9), "Error: 127.0.0.1 gave no answer (ConnectionError)."),
        (lambda k: k.faults.outage(401), "Error: Khoros answered 401: it refuses SPREDFAST_API_TOKEN."),
        (lambda k: k.faults.html(9), "Error: Khoros says Developer Inactive: SPREDFAST_API_TOKEN has expired"),
    ],
    ids=["503", "reset", "401", "Developer Inactive"],
)
def test_with_khoros_down_one_line_says_so_and_nothing_changes(
    fail: Callable[[FakeKhoros], None],
    said: str,
    words: list[str],
    runner: FlaskCliRunner,
    subscribed: str,
    inbox: Inbox,
    khoros: FakeKhoros,
) -> None:
    before = inbox.recall("connection")
    fail(khoros)
    result = run(runner, *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert result.output.startswith(said) and len(result.output.splitlines()) == 1
    assert [s.status for s in khoros.subscriptions] == ["ACTIVE"]
    assert inbox.recall("connection") == before


@pytest.mark.parametrize(("command", "method"), [("pause", "PUT"), ("resume", "PUT"), ("delete --yes", "DELETE")])
def test_a_refused_change_is_an_error(
    command: str, method: str, runner: FlaskCliRunner, subscribed: str, khoros: FakeKhoros
) -> None:
    khoros.faults.fail(1, 503, method=method)
    result = run(runner, *command.split())
    assert result.exit_code == 1 and result.output.startswith("Error: Khoros answered 503")


@pytest.mark.parametrize("words", COMMANDS[1:], ids=" ".join)
def test_with_the_database_down_one_line_says_where_to_look(
    words: list[str], new_app: Callable[[Config], Flask], config: Config, subscribed: str
) -> None:
    app = new_app(replace(config, database_url="sqlite:////nowhere/at/all/relay.db"))
    result = run(app.test_cli_runner(), *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert "Check DATABASE_URL" in result.output and len(result.output.splitlines()) == 1


def test_delete_with_the_database_down_deletes_nothing(
    new_app: Callable[[Config], Flask], config: Config, subscribed: str, khoros: FakeKhoros
) -> None:
    """Or else the service would not know, and make it again."""
    app = new_app(replace(config, database_url="sqlite:////nowhere/at/all/relay.db"))
    run(app.test_cli_runner(), "delete", "--yes")
    assert len(khoros.subscriptions) == 1


def test_a_deleted_state_is_kept_for_every_process(runner: FlaskCliRunner, subscribed: str, inbox: Inbox) -> None:
    run(runner, "delete", "--yes")
    kept = json.loads(inbox.recall("connection") or "{}")
    assert kept["state"] == "deleted" and "subscription resume" in kept["detail"]


# What is parked


@pytest.fixture
def parked(inbox: Inbox) -> Inbox:
    """An inbox with one post that Zendesk refused and one notification that nobody can read."""
    inbox.accept([new_item("e1", "twitter:1")])
    [item] = inbox.claim(1, 60, compose).items
    inbox.settle(item, {"state": "parked", "reason": "Zendesk answered 422"}, lambda gate, now: gate)
    inbox.accept([NewItem("unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    return inbox


def test_what_is_parked_is_listed_without_anyones_words(runner: FlaskCliRunner, parked: Inbox) -> None:
    result = runner.invoke(args=["inbox", "list"])
    _, unreadable, refused, total = result.output.splitlines()
    assert (refused.split()[0], unreadable.split()[0], result.exit_code) == ("1", "2", 0)
    assert "twitter:1" in refused and "Zendesk answered 422" in refused and " -  " in unreadable
    assert total == "2 parked. Send again with: flask --app app inbox retry ITEM" and TEXT not in result.output


def test_nothing_parked_is_said_so(runner: FlaskCliRunner) -> None:
    assert runner.invoke(args=["inbox", "list"]).output == "0 parked.\n"


def test_a_parked_post_can_be_sent_again(runner: FlaskCliRunner, parked: Inbox) -> None:
    result = runner.invoke(args=["inbox", "retry", "1"])
    assert (result.exit_code, result.output[:17]) == (0, "1 of 1 put back; ")
    assert [row[2] for row in rows(parked)] == ["pending", "parked"]


def test_what_nobody_can_read_is_not_sent_again_and_the_command_says_so(runner: FlaskCliRunner, parked: Inbox) -> None:
    result = runner.invoke(args=["inbox", "retry", "1", "2", "77"])
    assert result.exit_code == 1 and result.output.startswith("1 of 3 put back;")
    assert "Error: the others are not parked, or were never readable: see inbox list" in result.output
    assert [row[2] for row in rows(parked)] == ["pending", "parked"]


@pytest.mark.parametrize("words", [["list"], ["retry", "1"]], ids=" ".join)
def test_with_the_database_down_the_inbox_commands_say_where_to_look(
    words: list[str], new_app: Callable[[Config], Flask]
) -> None:
    app = new_app(new_config(database_url="sqlite:////nowhere/at/all/relay.db"))
    result = app.test_cli_runner().invoke(args=["inbox", *words])
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert "Check DATABASE_URL" in result.output and len(result.output.splitlines()) == 1


def test_show_after_a_delete_does_not_promise_that_a_start_makes_it_again(
    app: Flask, config: Config, inbox: Inbox
) -> None:
    new_subscriber(config, inbox).step()
    runner = app.test_cli_runner()
    runner.invoke(args=["subscription", "delete", "--yes"])
    assert "subscription resume" in runner.invoke(args=["subscription", "show"]).output


def test_a_delete_that_khoros_refused_does_not_leave_the_service_thinking_it_is_deleted(
    app: Flask, config: Config, inbox: Inbox, khoros: FakeKhoros
) -> None:
    subscriber = new_subscriber(config, inbox)
    subscriber.step()
    khoros.faults.fail(1, 503, method="DELETE")
    app.test_cli_runner().invoke(args=["subscription", "delete", "--yes"])
    assert subscriber.connection().state != "deleted"


def test_the_code_is_not_said_twice(config: Config, app: Flask, khoros: FakeKhoros) -> None:
    khoros.faults.outage(503)
    assert "503 503" not in app.test_cli_runner().invoke(args=["subscription", "show"]).output
