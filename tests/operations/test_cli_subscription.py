"""The subscription commands: what a person and a program read, the exit code, and what is then true in Khoros."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from conftest import NOWHERE, TOKEN, new_routes, new_settings, new_subscriptions, relay_of
from flask import Flask
from flask.testing import FlaskCliRunner

from app import Settings
from config import Config
from events import LABEL_APPLIED, MESSAGE_PUBLISHED, RULE_APPLIED
from inbox.database import Database
from khoros.subscription import SubscriptionStatus
from khoros.subscriptions import Subscriptions
from sandbox.khoros import FakeKhoros

pytestmark = pytest.mark.usefixtures("clean_log")

DOWN = "sqlite:////nowhere/at/all/relay.db"
COMMANDS = (["show"], ["pause"], ["resume"], ["delete", "--yes"])
NewApp = Callable[..., Flask]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def settings(database_url: str, khoros: FakeKhoros) -> Settings:
    url = khoros.url  # type: ignore[attr-defined]
    return new_settings(database_url=database_url, khoros_url=url, catch_up_s=0.0)


@pytest.fixture
def changed(settings: Settings, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes an app with other settings."""
    return lambda **changes: new_app(replace(settings, config=replace(settings.config, **changes)))


def no_traceback(result: Result) -> bool:
    return isinstance(result.exception, SystemExit | None) and "Traceback" not in result.output


def status_of(subscriptions: Subscriptions, event_name: str = LABEL_APPLIED) -> SubscriptionStatus:
    return subscriptions.statuses()[event_name]


@pytest.fixture
def subscribed(config: Config, database: Database, khoros: FakeKhoros) -> str:
    """A service that has subscribed; gives the subscription's uuid."""
    new_subscriptions(config, database).step()
    return khoros.subscriptions[0].uuid


def run(runner: FlaskCliRunner, *words: str, typed: str | None = None) -> Result:
    return runner.invoke(args=["subscription", *words], input=typed)


def state_after_a_restart(config: Config, database: Database) -> str:
    """What a service that starts now makes of it."""
    subscriber = new_subscriptions(config, database)
    subscriber.step()
    return status_of(subscriber).state


# On a healthy Khoros


def test_show_prints_the_subscription_and_no_secret(runner: FlaskCliRunner, subscribed: str) -> None:
    result = run(runner, "show")
    lines = dict(line.split(maxsplit=1) for line in result.output.replace(" uri", "_uri").splitlines())
    assert result.exit_code == 0
    assert (lines["uuid"], lines["status"], lines["query"]) == (subscribed, "ACTIVE", "CreateCase")
    assert lines["notification_uri"] == f"{NOWHERE}/notifications" and TOKEN not in result.output


def test_show_gives_a_program_the_same(runner: FlaskCliRunner, subscribed: str) -> None:
    assert [one["uuid"] for one in json.loads(run(runner, "show", "--json").stdout)] == [subscribed]


def test_show_marks_what_is_empty(
    runner: FlaskCliRunner, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    new_subscriptions(replace(config, polling=True), database).step()
    assert "notification uri  -\n" in run(runner, "show").output


def test_pause_pauses_and_the_service_leaves_it_so_and_says_it(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "pause")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "PAUSED")
    assert result.output == (
        f"{subscribed} (stream-item-label-applied) is paused.\n"
        "Nothing is delivered from there until: flask --app app subscription resume\n"
    )
    assert state_after_a_restart(config, database) == "paused"
    assert khoros.subscriptions[0].status == "PAUSED"


def test_a_running_service_notices_a_pause_at_its_next_step(
    runner: FlaskCliRunner, config: Config, database: Database
) -> None:
    running = new_subscriptions(config, database)
    running.step()
    run(runner, "pause")
    running.step()
    assert status_of(running).state == "paused"


def test_resume_ends_a_pause(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    run(runner, "pause")
    assert state_after_a_restart(config, database) == "paused"
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "ACTIVE")
    assert result.output == (
        f"{subscribed} (stream-item-label-applied) is active again.\nThe running service looks at it within a minute.\n"
    )
    assert state_after_a_restart(config, database) == "subscribed"


def test_delete_removes_it_and_it_stays_deleted_over_restarts_until_resumed(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", "--yes")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output.startswith(
        f"{subscribed} (stream-item-label-applied) is deleted.\nThe service makes no new one until:"
    )
    for _ in range(2):
        assert state_after_a_restart(config, database) == "deleted"
    assert khoros.subscriptions == []
    result = run(runner, "resume")
    assert (result.exit_code, result.output.startswith("Khoros has no subscription named send-to-zendesk.")) == (
        0,
        True,
    )
    assert state_after_a_restart(config, database) == "subscribed"
    assert len(khoros.subscriptions) == 1


@pytest.mark.parametrize(("typed", "deleted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_delete_asks_first(
    typed: str, deleted: bool, runner: FlaskCliRunner, subscribed: str, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", typed=typed)
    assert "Their events will not be delivered any more. Delete the subscriptions in Khoros? [y/N]" in result.output
    assert (result.exit_code, khoros.subscriptions == []) == (0 if deleted else 1, deleted)
    if not deleted:
        assert "Aborted!" in result.output


def test_only_our_own_subscription_is_touched(
    runner: FlaskCliRunner, subscribed: str, config: Config, app: Flask, khoros: FakeKhoros
) -> None:
    relay_of(app).khoros.subscribe(
        event_name=LABEL_APPLIED, external_id="other", notification_uri="", query="", bearer_token=TOKEN
    )
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


def test_delete_with_no_subscription_there_keeps_the_service_from_making_one(
    runner: FlaskCliRunner, config: Config, database: Database
) -> None:
    assert run(runner, "delete", "--yes").output.startswith("Khoros had none of ours.\nThe service makes no new one")
    assert state_after_a_restart(config, database) == "deleted"


def test_resume_with_no_subscription_there_has_it_made(
    runner: FlaskCliRunner, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output == (
        "Khoros has no subscription named send-to-zendesk.\nThe running service looks at it within a minute.\n"
    )
    assert state_after_a_restart(config, database) == "subscribed"


# With Khoros, or the database, down


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("fail", "said"),
    [
        (lambda k: k.faults.outage(503), "Error: Khoros answered 503"),
        (lambda k: k.faults.reset(9), "Error: Khoros (127.0.0.1) gave no answer: the connection was cut."),
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
    config: Config,
    database: Database,
    khoros: FakeKhoros,
) -> None:
    subscriptions = new_subscriptions(config, database)
    before = subscriptions.statuses()
    fail(khoros)
    result = run(runner, *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert result.output.startswith(said) and len(result.output.splitlines()) == 1
    assert [s.status for s in khoros.subscriptions] == ["ACTIVE"]
    assert subscriptions.statuses() == before


@pytest.mark.parametrize(("command", "method"), [("pause", "PUT"), ("resume", "PUT"), ("delete --yes", "DELETE")])
def test_a_refused_change_is_an_error(
    command: str, method: str, runner: FlaskCliRunner, subscribed: str, khoros: FakeKhoros
) -> None:
    khoros.faults.fail(1, 503, method=method)
    result = run(runner, *command.split())
    assert result.exit_code == 1 and result.output.startswith("Error: Khoros answered 503")


@pytest.mark.parametrize("words", COMMANDS[1:], ids=" ".join)
def test_with_the_database_down_one_line_says_where_to_look(words: list[str], changed: NewApp, subscribed: str) -> None:
    app = changed(database_url=DOWN)
    result = run(app.test_cli_runner(), *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert "DATABASE_URL must lead into a folder" in result.output and len(result.output.splitlines()) == 1


def test_delete_with_the_database_down_deletes_nothing(changed: NewApp, subscribed: str, khoros: FakeKhoros) -> None:
    """Otherwise the service would not know, and make it again."""
    app = changed(database_url=DOWN)
    run(app.test_cli_runner(), "delete", "--yes")
    assert len(khoros.subscriptions) == 1


def test_a_deleted_state_is_kept_for_every_process(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database
) -> None:
    run(runner, "delete", "--yes")
    status = status_of(new_subscriptions(config, database))
    assert status.state == "deleted" and "subscription resume" in status.detail


def test_show_after_a_delete_does_not_promise_that_a_start_makes_it_again(
    app: Flask, config: Config, database: Database
) -> None:
    new_subscriptions(config, database).step()
    runner = app.test_cli_runner()
    runner.invoke(args=["subscription", "delete", "--yes"])
    assert "subscription resume" in runner.invoke(args=["subscription", "show"]).output


def test_a_delete_that_khoros_refused_does_not_leave_the_service_thinking_it_is_deleted(
    app: Flask, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    subscriber = new_subscriptions(config, database)
    subscriber.step()
    khoros.faults.fail(1, 503, method="DELETE")
    app.test_cli_runner().invoke(args=["subscription", "delete", "--yes"])
    assert status_of(subscriber).state != "deleted"


def test_the_code_is_not_said_twice(config: Config, app: Flask, khoros: FakeKhoros) -> None:
    khoros.faults.outage(503)
    assert "503 503" not in app.test_cli_runner().invoke(args=["subscription", "show"]).output


# Several subscriptions


MANY = "label CreateCase -> zendesk; rule Recall -> slack #care; published -> slack #care"
QUERIES = {LABEL_APPLIED: "CreateCase", RULE_APPLIED: "", MESSAGE_PUBLISHED: ""}


@pytest.fixture
def many(
    settings: Settings, new_app: Callable[[Settings], Flask], config: Config, database: Database
) -> FlaskCliRunner:
    """The commands of a service with three subscriptions, which are made."""
    new_subscriptions(config, database, queries=QUERIES).step()
    return new_app(replace(settings, routes=new_routes(MANY))).test_cli_runner()


def khoros_states(khoros: FakeKhoros) -> dict[str, str]:
    return {subscription.event_name: subscription.status for subscription in khoros.subscriptions}


def test_without_an_event_all_are_shown_paused_resumed_and_deleted(many: FlaskCliRunner, khoros: FakeKhoros) -> None:
    shown = json.loads(run(many, "show", "--json").stdout)
    assert [one["event_name"] for one in shown] == list(QUERIES)
    assert run(many, "show").output.count("\n\n") == 2
    assert run(many, "pause").output.count(" is paused.") == 3
    assert khoros_states(khoros) == dict.fromkeys(QUERIES, "PAUSED")
    assert run(many, "resume").output.count("is active again.") == 3
    assert khoros_states(khoros) == dict.fromkeys(QUERIES, "ACTIVE")
    assert run(many, "delete", "--yes").output.count(" is deleted.") == 3
    assert khoros.subscriptions == []


@pytest.mark.parametrize("name", ["rule", RULE_APPLIED])
def test_with_an_event_only_that_one_is_changed(
    name: str, many: FlaskCliRunner, khoros: FakeKhoros, config: Config, database: Database
) -> None:
    result = run(many, "pause", "--event", name)
    assert result.output.endswith(f"until: flask --app app subscription resume --event {name}\n")
    assert khoros_states(khoros) == {**dict.fromkeys(QUERIES, "ACTIVE"), RULE_APPLIED: "PAUSED"}
    run(many, "resume", "--event", name)
    assert khoros_states(khoros) == dict.fromkeys(QUERIES, "ACTIVE")
    run(many, "delete", "--event", name, "--yes")
    assert sorted(khoros_states(khoros)) == sorted({LABEL_APPLIED, MESSAGE_PUBLISHED})
    restarted = new_subscriptions(config, database, queries=QUERIES)
    restarted.step()
    states = {event_name: status.state for event_name, status in restarted.statuses().items()}
    assert states == {**dict.fromkeys(QUERIES, "subscribed"), RULE_APPLIED: "deleted"}


def test_show_names_those_that_khoros_does_not_have_and_shows_the_others(
    many: FlaskCliRunner, khoros: FakeKhoros
) -> None:
    khoros.forget_subscriptions(RULE_APPLIED)
    result = run(many, "show")
    assert (result.exit_code, result.output.count("uuid")) == (1, 2)
    assert "Error: Khoros has no subscription named send-to-zendesk.rule-applied." in result.output
    assert run(many, "resume").output.count("Khoros has no subscription named") == 1


@pytest.mark.parametrize("name", ["sent", "nonsense", ""])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_event_that_no_route_wants_is_named(name: str, words: list[str], many: FlaskCliRunner) -> None:
    result = run(many, *words, "--event", name)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert result.output == f"Error: no route wants the event {name}. See: flask --app app routing\n"


def test_a_delete_that_ends_half_way_keeps_deleted_what_is_deleted_and_watches_the_rest(
    many: FlaskCliRunner, khoros: FakeKhoros, config: Config, database: Database
) -> None:
    khoros.faults.fail(1, 503, method="DELETE", path=f"/v2/events/subscription/{khoros.subscriptions[1].uuid}")
    result = run(many, "delete", "--yes")
    assert (result.exit_code, result.output.count(" is deleted.")) == (1, 1)
    subscriptions = new_subscriptions(config, database, queries=QUERIES)
    subscriptions.step()
    states = {event_name: status.state for event_name, status in subscriptions.statuses().items()}
    assert states == {**dict.fromkeys(QUERIES, "subscribed"), LABEL_APPLIED: "deleted"}


def test_both_of_two_with_our_name_are_deleted(many: FlaskCliRunner, khoros: FakeKhoros) -> None:
    double = replace(khoros.subscriptions[1], uuid="the-double")
    khoros._subscriptions[double.uuid] = double
    run(many, "delete", "--event", "rule", "--yes")
    assert sorted(khoros_states(khoros)) == sorted({LABEL_APPLIED, MESSAGE_PUBLISHED})
