"""The commands: what a person and a program read, the exit code, and what is then true."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from conftest import NOWHERE, TEXT, TOKEN, Clock, new_item, new_settings, new_subscriber, relay_of, rows, wait_for
from flask import Flask
from flask.testing import FlaskCliRunner
from steps import claim, deliver, move_gate, park, settle

import log
from app import Settings
from config import Config
from events import LABEL_APPLIED
from inbox.database import Database, DatabaseUnavailable
from inbox.facts import Facts
from inbox.gate import AUTH_BACKOFF_S, OUTAGE
from inbox.inbox import Inbox
from inbox.items import NewItem, Outcome
from khoros.subscription import subscription_status
from operations import cli
from operations.cli_output import command
from operations.relay import Relay
from sandbox.khoros import FakeKhoros
from sandbox.relay import free_port
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

DOWN = "sqlite:////nowhere/at/all/relay.db"
COMMANDS = (["show"], ["pause"], ["resume"], ["delete", "--yes"])


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.fixture
def settings(database_url: str, khoros: FakeKhoros) -> Settings:
    url = khoros.url  # type: ignore[attr-defined]
    return new_settings(database_url=database_url, khoros_url=url, catch_up_s=0.0)


NewApp = Callable[..., Flask]


@pytest.fixture
def changed(settings: Settings, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes an app with other settings."""
    return lambda **changes: new_app(replace(settings, config=replace(settings.config, **changes)))


@pytest.fixture
def subscribed(config: Config, database: Database, khoros: FakeKhoros) -> str:
    """A service that has subscribed; gives the subscription's uuid."""
    new_subscriber(config, database).step()
    return khoros.subscriptions[0].uuid


def run(runner: FlaskCliRunner, *words: str, typed: str | None = None) -> Result:
    return runner.invoke(args=["subscription", *words], input=typed)


def state_after_a_restart(config: Config, database: Database) -> str:
    """What a service that starts now makes of it."""
    subscriber = new_subscriber(config, database)
    subscriber.step()
    return subscriber.status().state


def no_traceback(result: Result) -> bool:
    return isinstance(result.exception, SystemExit | None) and "Traceback" not in result.output


# On a healthy Khoros


def test_show_prints_the_subscription_and_no_secret(runner: FlaskCliRunner, subscribed: str) -> None:
    result = run(runner, "show")
    lines = dict(line.split(maxsplit=1) for line in result.output.replace(" uri", "_uri").splitlines())
    assert result.exit_code == 0
    assert (lines["uuid"], lines["status"], lines["query"]) == (subscribed, "ACTIVE", "CreateCase")
    assert lines["notification_uri"] == f"{NOWHERE}/notifications" and TOKEN not in result.output


def test_show_gives_a_program_the_same(runner: FlaskCliRunner, subscribed: str) -> None:
    assert json.loads(run(runner, "show", "--json").stdout)["uuid"] == subscribed


def test_show_marks_what_is_empty(
    runner: FlaskCliRunner, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    new_subscriber(replace(config, polling=True), database).step()
    assert "notification uri  -\n" in run(runner, "show").output


def test_pause_pauses_and_the_service_leaves_it_so_and_says_it(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "pause")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "PAUSED")
    assert result.output == (
        f"Paused {subscribed}. Labels are not delivered until: flask --app app subscription resume\n"
    )
    assert state_after_a_restart(config, database) == "paused"
    assert khoros.subscriptions[0].status == "PAUSED"


def test_a_running_service_notices_a_pause_at_its_next_step(
    runner: FlaskCliRunner, config: Config, database: Database
) -> None:
    running = new_subscriber(config, database)
    running.step()
    run(runner, "pause")
    running.step()
    assert running.status().state == "paused"


def test_resume_ends_a_pause(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    run(runner, "pause")
    assert state_after_a_restart(config, database) == "paused"
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions[0].status) == (0, "ACTIVE")
    assert result.output == f"{subscribed} is active again. The running service looks at it within a minute.\n"
    assert state_after_a_restart(config, database) == "subscribed"


def test_delete_removes_it_and_it_stays_deleted_over_restarts_until_resumed(
    runner: FlaskCliRunner, subscribed: str, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", "--yes")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output.startswith(f"Deleted {subscribed}. The service makes no new one until:")
    for _ in range(2):
        assert state_after_a_restart(config, database) == "deleted"
    assert khoros.subscriptions == []
    result = run(runner, "resume")
    assert (result.exit_code, result.output.startswith("Khoros has no subscription of ours.")) == (0, True)
    assert state_after_a_restart(config, database) == "subscribed"
    assert len(khoros.subscriptions) == 1


@pytest.mark.parametrize(("typed", "deleted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_delete_asks_first(
    typed: str, deleted: bool, runner: FlaskCliRunner, subscribed: str, khoros: FakeKhoros
) -> None:
    result = run(runner, "delete", typed=typed)
    assert "No label will be delivered any more. Delete the subscription in Khoros? [y/N]" in result.output
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
    assert run(runner, "delete", "--yes").output.startswith("Khoros had none of ours. The service makes no new one")
    assert state_after_a_restart(config, database) == "deleted"


def test_resume_with_no_subscription_there_has_it_made(
    runner: FlaskCliRunner, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    result = run(runner, "resume")
    assert (result.exit_code, khoros.subscriptions) == (0, [])
    assert result.output == ("Khoros has no subscription of ours. The running service looks at it within a minute.\n")
    assert state_after_a_restart(config, database) == "subscribed"


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
    facts: Facts,
    khoros: FakeKhoros,
) -> None:
    before = subscription_status(facts)
    fail(khoros)
    result = run(runner, *words)
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert result.output.startswith(said) and len(result.output.splitlines()) == 1
    assert [s.status for s in khoros.subscriptions] == ["ACTIVE"]
    assert subscription_status(facts) == before


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


def test_a_deleted_state_is_kept_for_every_process(runner: FlaskCliRunner, subscribed: str, facts: Facts) -> None:
    run(runner, "delete", "--yes")
    status = subscription_status(facts)
    assert status.state == "deleted" and "subscription resume" in status.detail


# What is parked


@pytest.fixture
def parked(inbox: Inbox) -> Inbox:
    """An inbox with one post that Zendesk refused and one notification that nobody can read."""
    park(inbox)
    inbox.accept([NewItem("", "unreadable:1", "", {"unreadable": TEXT}, reason="eventName is missing")])
    return inbox


def test_what_is_parked_is_listed_without_anyones_words(runner: FlaskCliRunner, parked: Inbox) -> None:
    result = runner.invoke(args=["inbox", "list"])
    _, unreadable, why, refused, reason, total = result.output.splitlines()
    assert (refused.split()[0], unreadable.split()[0], result.exit_code) == ("1", "2", 0)
    assert "twitter:1" in refused and unreadable.endswith("-") and why.strip() == "eventName is missing"
    assert reason.strip() == "Zendesk answered 422"
    assert total == "2 parked. Send again, or give up what is not readable: flask --app app inbox retry|discard ITEM"
    assert TEXT not in result.output


def test_nothing_parked_is_said_so(runner: FlaskCliRunner) -> None:
    assert runner.invoke(args=["inbox", "list"]).output == "0 parked.\n"


def test_a_parked_post_can_be_sent_again(runner: FlaskCliRunner, parked: Inbox, database: Database) -> None:
    result = runner.invoke(args=["inbox", "retry", "1"])
    assert (result.exit_code, result.output[:17]) == (0, "1 of 1 put back; ")
    assert [row[2] for row in rows(database)] == ["pending", "parked"]


def test_what_nobody_can_read_is_not_sent_again_and_the_command_says_so(
    runner: FlaskCliRunner, parked: Inbox, database: Database
) -> None:
    result = runner.invoke(args=["inbox", "retry", "1", "2", "77"])
    assert result.exit_code == 1 and result.output.startswith("1 of 3 put back;")
    assert "Error: the others are not parked, were never readable, or their text is no longer kept" in result.output
    assert [row[2] for row in rows(database)] == ["pending", "parked"]


@pytest.mark.parametrize("words", [["list"], ["retry", "1"]], ids=" ".join)
def test_with_the_database_down_the_inbox_commands_say_where_to_look(words: list[str], changed: NewApp) -> None:
    app = changed(database_url=DOWN)
    result = app.test_cli_runner().invoke(args=["inbox", *words])
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert "DATABASE_URL must lead into a folder" in result.output and len(result.output.splitlines()) == 1


def test_show_after_a_delete_does_not_promise_that_a_start_makes_it_again(
    app: Flask, config: Config, database: Database
) -> None:
    new_subscriber(config, database).step()
    runner = app.test_cli_runner()
    runner.invoke(args=["subscription", "delete", "--yes"])
    assert "subscription resume" in runner.invoke(args=["subscription", "show"]).output


def test_a_delete_that_khoros_refused_does_not_leave_the_service_thinking_it_is_deleted(
    app: Flask, config: Config, database: Database, khoros: FakeKhoros
) -> None:
    subscriber = new_subscriber(config, database)
    subscriber.step()
    khoros.faults.fail(1, 503, method="DELETE")
    app.test_cli_runner().invoke(args=["subscription", "delete", "--yes"])
    assert subscriber.status().state != "deleted"


def test_the_code_is_not_said_twice(config: Config, app: Flask, khoros: FakeKhoros) -> None:
    khoros.faults.outage(503)
    assert "503 503" not in app.test_cli_runner().invoke(args=["subscription", "show"]).output


# In general

DOWN_503 = "Zendesk answered 503"
TELLING = (
    *("trace x", "inbox list", "inbox show 1", "subscription show", "send-test"),
    *(
        "subscription pause",
        "subscription resume",
        "inbox retry 1",
        "inbox discard --yes 1",
        "purge --before 2026-01-01",
    ),
    "deliver --once",
)


@pytest.mark.parametrize("words", [words for words in TELLING if not words.startswith("sub")])
def test_with_the_database_down_one_line_says_where_to_look_and_what_to_do(words: str, changed: NewApp) -> None:
    app = changed(database_url=DOWN, polling=True)
    result = invoke(app, *words.split())
    assert (result.exit_code, result.stdout, no_traceback(result)) == (1, "", True)
    assert result.stderr.splitlines()[-1].startswith(
        "Error: Database: OperationalError: unable to open database file. DATABASE_URL must lead into a folder "
    )


@pytest.mark.parametrize("words", TELLING[:5])
def test_under_json_stdout_holds_one_value_when_a_command_fails_too(
    words: str, changed: NewApp, khoros: FakeKhoros
) -> None:
    khoros.faults.outage(503)
    result = invoke(changed(database_url=DOWN), *words.split(), "--json")
    assert result.exit_code == 1 and result.stderr == f"Error: {json.loads(result.stdout)['error']}\n"


@pytest.mark.parametrize(
    "words",
    [
        *("inbox show x", "inbox show 99999999999999999999", "inbox retry", "inbox discard", "inbox list --state lost"),
        *("inbox list --limit 0", "purge", "purge --before 1.1.26", "trace", "send-test --wait 0", "nonsense"),
    ],
)
def test_wrong_words_are_told_from_failures_by_the_exit_code(words: str, app: Flask) -> None:
    result = invoke(app, *words.split())
    assert (result.exit_code, no_traceback(result), result.stdout) == (2, True, "")


def test_the_list_of_commands_tells_each_one_whole(runner: FlaskCliRunner) -> None:
    for words in ([], ["inbox"], ["subscription"]):
        assert "..." not in runner.invoke(args=[*words, "--help"]).output.partition("Commands:")[2]


def invoke(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=list(words))


# What became of a post


@pytest.fixture
def delivered(inbox: Inbox, clock: Clock) -> Inbox:
    """An inbox with one post that got its ticket at the third attempt; nobody lived to record the second."""
    answer: dict[str, Any] = {"code": "RecordInvalid requester:UserSuspended", "request_id": "zendesk-request-1"}
    inbox.accept([new_item("e1", "twitter:1")])
    settle(inbox, OUTAGE, **answer, status=503)
    clock.advance(10)
    claim(inbox, lease_s=0.0)
    settle(inbox, "ticket_created", **answer, status=201, reference="1001")
    return inbox


@pytest.mark.parametrize("name", ["e1", "twitter:1", "1001", "#1001", "1"])
def test_a_post_is_traced_by_whatever_names_it(name: str, app: Flask, delivered: Inbox) -> None:
    result = invoke(app, "trace", name, "--json")
    [record] = json.loads(result.stdout)
    assert (result.exit_code, record["reference"], [tried["number"] for tried in record["tried"]]) == (
        0,
        "1001",
        [1, 3],
    )


def test_a_trace_shows_every_attempt_and_what_is_missing_and_fits_a_terminal(app: Flask, delivered: Inbox) -> None:
    result = invoke(app, "trace", "1001")
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80 and TEXT not in result.output
    assert "ticket        1001" in lines and "destination   zendesk" in lines
    assert [line.split()[0] for line in lines if "2023-" in line and "ms" in line] == ["1", "3"]
    assert lines.count("         RecordInvalid requester:UserSuspended request zendesk-request-1") == 2
    assert "Attempts without a record: 2. Under way now, or ended before the answer came." in lines


@pytest.mark.parametrize("name", ["twitter:2", "77", "9" * 30, "\udcff"])
def test_what_is_not_known_is_said_so(name: str, app: Flask, delivered: Inbox) -> None:
    result = invoke(app, "trace", name, "--json")
    assert (result.exit_code, json.loads(result.stdout), no_traceback(result)) == (1, [], True)
    assert result.stderr.startswith("Error: nothing is known of ")


def test_an_item_is_shown_without_its_text_until_that_is_asked_for(app: Flask, parked: Inbox) -> None:
    shown = invoke(app, "inbox", "show", "2")
    assert "not readable" in shown.output and TEXT not in shown.output
    assert TEXT in invoke(app, "inbox", "show", "2", "--payload").output
    assert "payload" not in json.loads(invoke(app, "inbox", "show", "2", "--json").stdout)
    whole = json.loads(invoke(app, "inbox", "show", "2", "--json", "--payload").stdout)
    assert whole["payload"] == {"unreadable": TEXT}


def test_a_post_cannot_play_with_the_terminal(app: Flask, inbox: Inbox) -> None:
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"text": "Grüße \x9b31m \u202e \x1b[2J"})])
    shown = invoke(app, "inbox", "show", "1", "--payload").output
    assert "Grüße \\u009b31m \\u202e \\u001b[2J" in shown


def test_a_terminal_that_lacks_the_letters_gets_their_numbers(app: Flask, inbox: Inbox) -> None:
    inbox.accept([NewItem("zendesk", "e1", "twitter:1", {"text": "\U0001f600"})])
    runner = FlaskCliRunner(app, charset="latin-1")
    result = runner.invoke(args=["inbox", "show", "1", "--payload"])
    assert (result.exit_code, r"\U0001f600" in result.output) == (0, True)


def test_a_post_whose_text_was_emptied_says_so(app: Flask, delivered: Inbox) -> None:
    emptied = invoke(app, "purge", "--before", "2099-01-01")
    assert emptied.stdout == "1 settled items were emptied of their text and attempts.\n"
    assert "Its text is no longer kept." in invoke(app, "inbox", "show", "1", "--payload").output


def test_a_parked_item_whose_text_is_no_longer_kept_cannot_be_retried(app: Flask, inbox: Inbox) -> None:
    park(inbox)
    invoke(app, "purge", "--before", "2099-01-01")
    result = invoke(app, "inbox", "retry", "1")
    assert result.exit_code == 1 and result.stdout.startswith("0 of 1 put back;")
    assert "their text is no longer kept" in result.stderr


def test_a_list_names_what_each_item_became(app: Flask, inbox: Inbox) -> None:
    deliver(inbox)
    names, row, _ = invoke(app, "inbox", "list", "--state", "delivered").stdout.splitlines()
    assert names.split() == ["item", "state", "age", "attempts", "became", "post"] and "ticket 1001" in row


def test_purge_keeps_what_was_delivered_on_the_day_or_later(app: Flask, delivered: Inbox) -> None:
    assert invoke(app, "purge", "--before", "2023-11-14").stdout.startswith("0 ")


def test_an_item_that_is_not_there_is_said_so(app: Flask) -> None:
    assert "there is no item 7: see inbox list --state all" in invoke(app, "inbox", "show", "7").stderr


def test_a_list_fits_a_terminal_and_says_when_there_may_be_more(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item("e0", "twitter:0", reason="word " * 40), new_item("e1", "twitter:1")])
    lines = invoke(app, "inbox", "list", "--state", "all", "--limit", "2").stdout.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) == 7
    assert lines[-1] == "2 in all. There may be more: --limit."
    assert [item["id"] for item in json.loads(invoke(app, "inbox", "list", "--json").stdout)] == [1]


def test_a_long_id_stays_whole_for_whoever_copies_it(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item(post=f"youtube:{'x' * 90}", reason="parked")])
    for words in (["inbox", "list"], ["inbox", "show", "1"]):
        assert f"youtube:{'x' * 90}" in invoke(app, *words).stdout


def test_every_parked_post_that_was_readable_can_be_sent_again_at_once(app: Flask, parked: Inbox) -> None:
    assert invoke(app, "inbox", "retry", "--all").stdout.startswith("1 put back;")
    assert invoke(app, "inbox", "retry", "--all").exit_code == 0


def test_an_item_named_twice_is_one(app: Flask, parked: Inbox) -> None:
    result = invoke(app, "inbox", "retry", "1", "1")
    assert (result.exit_code, result.output[:17]) == (0, "1 of 1 put back; ")


def test_discarding_asks_first_and_is_for_good(runner: FlaskCliRunner, parked: Inbox, database: Database) -> None:
    kept = runner.invoke(args=["inbox", "discard", "1"], input="n\n")
    assert (kept.exit_code, [row[2] for row in rows(database)]) == (1, ["parked", "parked"])
    gone = runner.invoke(args=["inbox", "discard", "1"], input="y\n")
    assert (gone.exit_code, [row[2] for row in rows(database)]) == (0, ["discarded", "parked"])
    again = runner.invoke(args=["inbox", "discard", "1", "--yes"])
    assert again.exit_code == 1 and "the others are not parked: see inbox list" in again.stderr


# The whole path


@pytest.fixture
def whole(settings: Settings, zendesk: FakeZendesk) -> Settings:
    """The settings with a Zendesk and a public address."""
    url = zendesk.url  # type: ignore[attr-defined]  # the fixture gives the fake its address
    public_url = f"http://127.0.0.1:{free_port()}"
    return Settings(replace(settings.config, public_url=public_url), replace(settings.zendesk, url=url))


@pytest.fixture
def again(whole: Settings, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes the app of one more process, with other settings."""
    return lambda **changes: new_app(replace(whole, config=replace(whole.config, **changes)))


@pytest.fixture
def connected(again: NewApp) -> Iterator[Flask]:
    """The app served under its public address; nothing delivers yet."""
    app = again()
    with Server(app, int(relay_of(app).config.public_url.rpartition(":")[2])):
        yield app


@pytest.fixture
def delivering(connected: Flask, again: NewApp) -> Iterator[Flask]:
    delivery = relay_of(again()).deliveries["zendesk"]
    delivery.start()
    yield connected
    delivery.stop(5)


def test_a_test_post_goes_the_whole_way(delivering: Flask, zendesk: FakeZendesk) -> None:
    result = invoke(delivering, "send-test")
    [ticket] = zendesk.tickets
    assert result.exit_code == 0 and f"/agent/tickets/{ticket.id}" in result.stdout
    assert result.stdout.startswith(f"Accepted at {relay_of(delivering).config.public_url}; ticket {ticket.id} after ")
    printed = json.loads(invoke(delivering, "send-test", "--json").stdout)
    assert (printed["state"], printed["reference"]) == ("delivered", str(ticket.id + 1))


@pytest.mark.parametrize("changes", [{"public_url": ""}, {"polling": True}], ids=["no address", "polling"])
def test_without_an_address_a_test_post_goes_straight_into_the_inbox(
    changes: dict[str, Any], delivering: Flask, again: NewApp
) -> None:
    assert invoke(again(**changes), "send-test").stdout.startswith("Accepted straight into the inbox; ticket ")


def test_a_test_post_that_zendesk_refuses_is_said_to_be_parked(delivering: Flask, zendesk: FakeZendesk) -> None:
    zendesk.faults.fail(1, 422, method="POST", path="/api")
    result = invoke(delivering, "send-test", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "parked")
    assert "parked: Zendesk answered 422 RecordInvalid. To try again: flask --app app inbox retry 1" in result.stderr


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        (False, "still waits after 1 s. Does a service run?"),
        (True, "still waits after 1 s. Zendesk answered 503. Try a"),
    ],
    ids=["nothing delivers", "Zendesk is down"],
)
def test_a_test_post_that_waits_says_why(closed: bool, said: str, connected: Flask) -> None:
    if closed:
        move_gate(relay_of(connected).inbox, OUTAGE, "Zendesk answered 503")
    result = invoke(connected, "send-test", "--wait", "1")
    assert result.exit_code == 1 and said in result.stderr


def test_a_test_post_that_the_service_does_not_take_says_so(connected: Flask, again: NewApp, tmp_path: Path) -> None:
    other_token = invoke(again(bearer_tokens=("another-made-up-token",)), "send-test")
    assert other_token.exit_code == 1
    assert "answered 401 instead of 202. See: flask --app app check" in other_token.stderr
    elsewhere = again(database_url=f"sqlite:///{tmp_path / 'other.db'}")
    other_database = invoke(elsewhere, "send-test", "--wait", "1")
    assert other_database.exit_code == 1 and "the service there has another DATABASE_URL" in other_database.stderr


# Delivering by command


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def posted(zendesk: FakeZendesk) -> int:
    return sum((call.method, call.path) == ("POST", "/api/v2/tickets") for call in zendesk.calls)


def fill(app: Flask, posts: int) -> None:
    relay_of(app).inbox.accept([new_item(f"e{n}", f"twitter:{n}") for n in range(posts)])


def deliver_once(app: Flask, stalled_s: float) -> Result:
    """`deliver --once` with another time limit."""

    @command("once")
    def once(relay: Relay) -> None:
        try:
            cli.deliver_once(relay, stalled_s)
        finally:
            relay.stop()  # or its threads write into the log of the next test

    return app.test_cli_runner().invoke(once, [])


@pytest.mark.usefixtures("quiet_signals")
class TestDeliverOnce:
    def test_nothing_to_do_calls_nobody(self, connected: Flask, zendesk: FakeZendesk) -> None:
        result = invoke(connected, "deliver", "--once")
        assert (result.exit_code, result.stdout, zendesk.calls) == (0, "Nothing is left to deliver.\n", [])

    def test_what_waits_is_delivered(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 25)
        result = invoke(connected, "deliver", "--once")
        assert (result.exit_code, result.stdout, len(zendesk.tickets)) == (0, "Nothing is left to deliver.\n", 25)
        assert "Delivering 25 posts" in result.stderr and "event=ticket_created" in result.stderr

    def test_repaired_credentials_are_tried_at_once(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        inbox = relay_of(connected).inbox
        refused = Outcome("unauthorised", 0.1, reason="refused before", retry_after_s=60.0)
        inbox.end_check("zendesk", inbox.gate("zendesk")[0], refused)
        assert (invoke(connected, "deliver", "--once").exit_code, len(zendesk.tickets)) == (0, 1)

    def test_a_terminal_shows_a_bar_instead_of_the_log(self, connected: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
        fill(connected, 25)
        result = invoke(connected, "deliver", "--once")
        assert "100%" in result.stderr and "event=ticket_created" not in result.stderr

    def test_parked_items_are_mentioned(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        zendesk.faults.fail(1, 422, method="POST", path="/api")
        result = invoke(connected, "deliver", "--once")
        said = "Nothing is left to deliver. 1 parked: flask --app app inbox list\n"
        assert (result.exit_code, result.stdout) == (0, said)

    def test_a_zendesk_that_is_down_is_said_at_once_and_one_that_is_back_is_believed(
        self, connected: Flask, zendesk: FakeZendesk, again: NewApp, clock: Clock
    ) -> None:
        fill(connected, 1)
        zendesk.faults.outage(503, path="/api")
        result = invoke(connected, "deliver", "--once")
        assert (
            result.exit_code == 1 and "Error: 1 still wait. Zendesk answered 503 DatabaseDeadlock. Try" in result.stderr
        )
        assert posted(zendesk) == 0
        zendesk.faults.clear()
        wait_for(lambda: not relay_of(connected).inbox.gate("zendesk")[1])
        once_more = invoke(again(), "deliver", "--once")
        assert (once_more.exit_code, len(zendesk.tickets)) == (0, 1)

    def test_credentials_that_are_refused_end_it(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        zendesk.faults.outage(403, method="POST", path="/api")
        result = deliver_once(connected, AUTH_BACKOFF_S[0] + 3)
        assert result.exit_code == 1 and "1 still wait. Zendesk answered 403 Forbidden" in result.stderr
        assert posted(zendesk) == 1

    def test_no_progress_ends_it(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        zendesk.faults.hang(1, 1, method="POST", path="/api")
        result = deliver_once(connected, 0.2)
        assert result.exit_code == 1 and "1 still wait. To go on: flask --app app deliver --once" in result.stderr


@pytest.mark.usefixtures("quiet_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["deliver"], ["deliver", "--once"]], ids=" ".join)
def test_a_signal_ends_it_after_what_is_under_way(
    words: list[str],
    number: signal.Signals,
    connected: Flask,
    zendesk: FakeZendesk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delivery, ending = relay_of(connected).deliveries["zendesk"], threading.Event()
    stop = delivery.stop_claiming

    def stop_claiming() -> None:
        stop()
        ending.set()

    def end() -> None:
        zendesk.faults.wait_until_hanging(8)
        os.kill(os.getpid(), number)
        ending.wait(10)  # what finishes from now on makes room for more, which must not be claimed
        zendesk.faults.clear()

    monkeypatch.setattr(delivery, "stop_claiming", stop_claiming)
    fill(connected, 12)
    zendesk.faults.hang(8, 30, method="POST", path="/api", effect=True)
    thread = threading.Thread(target=end)
    thread.start()
    result = invoke(connected, *words)
    thread.join()
    left = relay_of(connected).records.by_state()["pending"]
    assert (left, len(zendesk.tickets)) == (4, 8)
    assert result.exit_code == (1 if "--once" in words else 0)


def test_a_commands_log_masks_every_secret(new_app: Callable[[Settings], Flask], database_url: str) -> None:
    secrets = {"khoros_token": "made-up-token-of-khoros", "client_secret": "made-up-secret-of-zendesk"}
    app = new_app(new_settings(database_url=database_url, **secrets))

    @command("leak")
    def leak(relay: Relay) -> None:
        log.info("leak", reason=" ".join(secrets.values()))

    assert 'event=leak reason="[secret] [secret]"' in app.test_cli_runner().invoke(leak, []).stderr


def test_a_database_error_without_a_remedy_gets_one(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise DatabaseUnavailable("OperationalError: connection refused")

    monkeypatch.setattr(relay_of(app).inbox, "now", fail)
    result = invoke(app, "purge", "--before", "2026-01-01")
    assert result.stderr == (
        "Error: Database: OperationalError: connection refused. check DATABASE_URL, and that the database is up\n"
    )
