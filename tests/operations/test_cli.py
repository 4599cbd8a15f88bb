"""The commands: what a person and a program read, the exit code, and what is then true."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from conftest import (
    NOWHERE,
    TEXT,
    WEBHOOK_SECRET,
    Clock,
    alone,
    new_item,
    new_routes,
    new_settings,
    relay_of,
    rows,
    wait_for,
)
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo
from flask.testing import FlaskCliRunner
from steps import claim, deliver, move_gate, park, settle

import log
from app import Settings, create_app
from destinations.slack import SlackSettings
from inbox.database import Database, DatabaseUnavailable
from inbox.gate import OUTAGE
from inbox.inbox import Inbox
from inbox.items import NewItem, Outcome
from operations import cli
from operations.cli_output import command
from operations.relay import Relay, current_relay
from outbound import AuthFailed
from sandbox.khoros import FakeKhoros
from sandbox.receiver import HOOK_PATH, FakeReceiver
from sandbox.relay import free_port
from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

ROOT = Path(__file__).parent.parent.parent
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


def no_traceback(result: Result) -> bool:
    return isinstance(result.exception, SystemExit | None) and "Traceback" not in result.output


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
    assert (
        "twitter:1" in refused
        and " needs attention " in refused
        and unreadable.endswith("-")
        and why.strip() == "eventName is missing"
    )
    assert reason.strip() == "Zendesk answered 422"
    assert total == "2 parked. Send again, or give up what is not readable: flask --app app inbox retry|discard ITEM"
    assert TEXT not in result.output


def test_nothing_parked_is_said_so(runner: FlaskCliRunner) -> None:
    assert runner.invoke(args=["inbox", "list"]).output == "0 parked.\n"


def test_a_parked_post_can_be_sent_again(runner: FlaskCliRunner, parked: Inbox, database: Database) -> None:
    result = runner.invoke(args=["inbox", "retry", "1"])
    assert (result.exit_code, result.output) == (0, "Item 1 is sent again by the running service.\n")
    assert [row[2] for row in rows(database)] == ["pending", "parked"]


def test_each_item_that_is_not_sent_again_says_what_it_is(
    runner: FlaskCliRunner, parked: Inbox, database: Database
) -> None:
    parked.discard([parked_id := park(parked, "e3", "twitter:3")])
    deliver(parked, "e4", "twitter:4", "1042")
    result = runner.invoke(args=["inbox", "retry", "1", "2", str(parked_id), "4", "77"])
    assert result.exit_code == 1 and result.stdout == "Item 1 is sent again by the running service.\n"
    assert result.stderr == (
        "Error: item 2 cannot be sent: nobody can read it, or its text is no longer kept; item 3 was given up; "
        "item 4 is delivered already: ticket #1042; item 77 does not exist\n"
    )
    assert [row[2] for row in rows(database)] == ["pending", "parked", "discarded", "delivered"]


@pytest.mark.parametrize("words", [["list"], ["retry", "1"]], ids=" ".join)
def test_with_the_database_down_the_inbox_commands_say_where_to_look(words: list[str], changed: NewApp) -> None:
    app = changed(database_url=DOWN)
    result = app.test_cli_runner().invoke(args=["inbox", *words])
    assert (result.exit_code, no_traceback(result)) == (1, True)
    assert "DATABASE_URL must lead into a folder" in result.output and len(result.output.splitlines()) == 1


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


def test_a_trace_names_the_state_of_the_ticket(app: Flask, delivered: Inbox, database: Database) -> None:
    with database.transaction() as db:
        db.change("INSERT INTO tickets VALUES ('zendesk', '1001', 'twitter:1', 'solved', 1.0)")
    for words in (["trace", "1001"], ["inbox", "show", "1"]):
        assert "ticket        1001, solved" in invoke(app, *words).output.splitlines()


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
    assert "needs attention (parked)" in shown.output and "not readable" in shown.output and TEXT not in shown.output
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
    assert emptied.stdout == "1 settled item was emptied of text and attempts.\n"
    assert "Its text is no longer kept." in invoke(app, "inbox", "show", "1", "--payload").output


def test_a_parked_item_whose_text_is_no_longer_kept_cannot_be_retried(app: Flask, inbox: Inbox) -> None:
    park(inbox)
    invoke(app, "purge", "--before", "2099-01-01")
    result = invoke(app, "inbox", "retry", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: item 1 cannot be sent: nobody can read it, or its text is no longer kept\n"


def test_a_list_names_what_each_item_became(app: Flask, inbox: Inbox) -> None:
    deliver(inbox)
    names, row, _ = invoke(app, "inbox", "list", "--state", "delivered").stdout.splitlines()
    assert names.split() == ["item", "state", "age", "attempts", "became", "post"] and "ticket #1001" in row


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
    assert invoke(app, "inbox", "retry", "--all").stdout == "Sent again by the running service: 1.\n"
    again = invoke(app, "inbox", "retry", "--all")
    assert (again.exit_code, again.stdout) == (0, "Sent again by the running service: no parked item.\n")


def test_an_item_named_twice_is_one(app: Flask, parked: Inbox) -> None:
    result = invoke(app, "inbox", "retry", "1", "1")
    assert (result.exit_code, len(result.output.splitlines())) == (0, 1)


def test_discarding_asks_first_and_is_for_good(runner: FlaskCliRunner, parked: Inbox, database: Database) -> None:
    kept = runner.invoke(args=["inbox", "discard", "1"], input="n\n")
    assert "needs attention" in kept.output.partition("Discard it?")[0]
    assert (kept.exit_code, [row[2] for row in rows(database)]) == (1, ["parked", "parked"])
    gone = runner.invoke(args=["inbox", "discard", "1"], input="y\n")
    assert (gone.exit_code, [row[2] for row in rows(database)]) == (0, ["discarded", "parked"])
    for words in (["1", "--yes"], ["1"]):  # there is nothing to ask
        again = runner.invoke(args=["inbox", "discard", *words])
        assert (again.exit_code, again.output) == (1, "Error: item 1 was given up\n")


def test_what_waits_can_be_sent_at_once_or_given_up_unless_it_is_being_sent(app: Flask, database: Database) -> None:
    inbox = relay_of(app).inbox  # with the clock of the commands
    inbox.accept([new_item("e1", "twitter:1"), new_item("e2", "twitter:2")])
    first = settle(inbox, OUTAGE, reason="Zendesk answered 503", item_only=True, retry_after_s=1900.0)
    under_way = claim(inbox).id
    assert invoke(app, "inbox", "retry", str(first)).exit_code == 0
    refused = invoke(app, "inbox", "discard", "--yes", str(first), str(under_way))
    assert (refused.exit_code, refused.stdout) == (1, f"Item {first} is given up.\n")
    assert refused.stderr == f"Error: item {under_way} is being sent right now: try again in a moment\n"
    assert [row[2] for row in rows(database)] == ["discarded", "pending"]


def test_a_list_can_be_of_one_destination_and_names_it_when_there_are_several(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item("e1", "p:1"), new_item("e2", "p:2", destination="slack:#old")])
    assert "zendesk" not in invoke(app, "inbox", "list", "--state", "pending", "--destination", "zendesk").stdout
    listed = invoke(app, "inbox", "list", "--state", "pending", "--destination", "slack:#old").stdout
    assert "p:2" in listed and "slack:#old" in listed and "p:1" not in listed
    [record] = json.loads(
        invoke(app, "inbox", "list", "--state", "all", "--destination", "slack:#old", "--json").stdout
    )
    assert record["destination"] == "slack:#old"
    assert invoke(app, "inbox", "list", "--destination", "nowhere").stdout == "0 parked.\n"


# The whole path


@pytest.fixture
def whole(settings: Settings, zendesk: FakeZendesk) -> Settings:
    """The settings with a Zendesk and a public address."""
    url = zendesk.url  # type: ignore[attr-defined]  # the fixture gives the fake its address
    public_url = f"http://127.0.0.1:{free_port()}"
    zendesk_there = replace(settings.zendesk, url=url)  # type: ignore[type-var]  # it may be None elsewhere
    return replace(settings, config=replace(settings.config, public_url=public_url), zendesk=zendesk_there)


@pytest.fixture
def again(whole: Settings, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes the app of one more process, with other settings."""

    def make(routes: str = "label CreateCase -> zendesk", slack_url: str = NOWHERE, **changes: Any) -> Flask:
        config, slack = replace(whole.config, **changes), SlackSettings("xoxb-made-up-slack-token", slack_url)
        return new_app(replace(whole, config=config, routes=new_routes(routes), slack=slack))

    return make


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
    assert re.match(rf"Sent: ticket #{ticket.id} after [0-9,]+ ms: http", result.stdout)
    printed = json.loads(invoke(delivering, "send-test", "--json").stdout)
    assert (printed["state"], printed["reference"]) == ("delivered", str(ticket.id + 1))


@pytest.mark.parametrize("changes", [{"public_url": ""}, {"polling": True}], ids=["no address", "polling"])
def test_without_an_address_a_test_post_goes_straight_into_the_inbox(
    changes: dict[str, Any], delivering: Flask, again: NewApp
) -> None:
    result = invoke(again(**changes), "send-test")
    assert result.stdout.startswith("Sent: ticket #") and result.stdout.endswith(" (straight into the inbox)\n")


def test_a_test_post_that_zendesk_refuses_is_said_to_be_parked(delivering: Flask, zendesk: FakeZendesk) -> None:
    zendesk.faults.fail(1, 422, method="POST", path="/api")
    result = invoke(delivering, "send-test", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "parked")
    assert "Error: Zendesk refused it: Zendesk answered 422 RecordInvalid: it names no field" in result.stderr
    assert "Once that is mended: flask --app app inbox retry 1" in result.stderr


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        (False, "It still waits for Zendesk after 1 s. Does a service run?"),
        (True, "It still waits for Zendesk after 1 s. Zendesk answered 503. Try a"),
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
    assert "answers, but refuses our token. The service there runs with another NOTIF" in other_token.stderr
    elsewhere = again(database_url=f"sqlite:///{tmp_path / 'other.db'}")
    other_database = invoke(elsewhere, "send-test", "--wait", "1")
    assert other_database.exit_code == 1 and "the service there has another DATABASE_URL" in other_database.stderr


# Routes

SEVERAL = (
    'label VIP -> slack #social-crisis; label Billing -> zendesk {"priority": "high"}; '
    "rule Product recall -> slack ann@acme.example; published -> slack #news; sent FACEBOOK -> webhook {url}; "
    "needs-approval -> slack #news; disconnected -> slack #social-crisis"
)
ROUTE_LINES = [
    "1      Label VIP → Slack #social-crisis",
    "2      Label Billing → Zendesk",
    "3      Rule Product recall → Slack ann@acme.example",
    "4      Published → Slack #news",
    "5      Sent FACEBOOK → Webhook hooks.example",
    "6      Needs approval → Slack #news",
    "7      Disconnected → Slack #social-crisis",
]


def test_the_routes_are_listed_in_words_with_their_numbers(again: NewApp) -> None:
    app = again(routes=SEVERAL.replace("{url}", "https://hooks.example/T0P/SECRET"))
    lines = invoke(app, "routing").stdout.splitlines()
    assert lines[1:-1] == ROUTE_LINES and "send-test ROUTE" in lines[-1]
    printed = invoke(app, "routing", "--json").stdout
    assert json.loads(printed)[2] == {
        "route": 3,
        "words": "Rule Product recall → Slack ann@acme.example",
        "destination": "slack:ann@acme.example",
    }
    assert "T0P" not in printed + "".join(lines)


def run_flask(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The program that people type, in a process of its own."""
    command = [str(Path(sys.executable).parent / "flask"), "--app", "app", *words]
    environment = {"PATH": os.environ["PATH"], "PYTHON_DOTENV_DISABLED": "1", **alone(folder)}
    return subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False
    )


def test_the_routes_are_listed_by_the_program_that_people_type(tmp_path: Path) -> None:
    result = run_flask(tmp_path, "routing")
    assert (result.returncode, result.stdout.splitlines()[1]) == (0, "1      Label CreateCase → Zendesk"), result.stderr


def test_no_command_of_flasks_own_hides_one_of_ours(app: Flask) -> None:
    group = FlaskGroup(create_app=lambda: app)
    with click.Context(group, obj=ScriptInfo(create_app=lambda: app)) as context:
        assert [group.get_command(context, str(one.name)) for one in cli.COMMANDS] == [*cli.COMMANDS]


def test_a_command_leaves_no_thread_of_the_pool_that_would_hold_up_its_end(
    emptied: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**alone(tmp_path), "DATABASE_URL": emptied()}.items():
        monkeypatch.setenv(name, value)
    before = {*threading.enumerate()}
    with click.Context(click.Group("flask")), create_app().app_context():
        current_relay().records.waiting()
        assert {*threading.enumerate()} > before
    assert {*threading.enumerate()} == before


@pytest.fixture
def everywhere(again: NewApp, tmp_path: Path) -> Iterator[tuple[Flask, FakeSlack, FakeReceiver]]:
    """A service with a route of each kind that delivers, and its Slack and its receiver."""
    slack, receiver = FakeSlack(per_second=None), FakeReceiver(secret=WEBHOOK_SECRET)
    slack.add_channel("news")
    with Server(slack.app) as slack_server, Server(receiver.app) as receiver_server:
        routes = SEVERAL.replace("{url}", receiver_server.url + HOOK_PATH)
        app = again(routes=routes, public_url="", slack_url=f"{slack_server.url}/api")
        for delivery in relay_of(app).deliveries.values():
            delivery.start()
        yield app, slack, receiver
        for delivery in relay_of(app).deliveries.values():
            delivery.stop(5)


Everywhere = tuple[Flask, FakeSlack, FakeReceiver]


@pytest.mark.parametrize(
    ("route", "place"),
    [
        ("1", "social-crisis"),
        ("VIP", "social-crisis"),
        ("3", "ann@acme.example"),
        ("product RECALL", "ann@acme.example"),
        ("4", "news"),
        ("needs approval", "news"),
        ("Disconnected", "social-crisis"),
    ],
)
def test_a_test_event_goes_through_the_route_that_is_named(route: str, place: str, everywhere: Everywhere) -> None:
    app, slack, _ = everywhere
    result = invoke(app, "send-test", route)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Sent: message to Slack ")
    assert len(slack.messages_in(place)) == len(slack.messages) == 1


def test_a_test_message_reaches_a_webhook(everywhere: Everywhere) -> None:
    app, _, receiver = everywhere
    result = invoke(app, "send-test", "webhook")
    [taken] = receiver.taken
    assert taken.type == "khoros.message.sent_to_network" and "This is a test" in taken.json
    assert result.stdout.startswith("Sent: webhook to 127.0.0.1:")


def test_two_lines_for_the_same_event_are_tried_once(again: NewApp) -> None:
    app = again(routes="label A -> zendesk; label B -> zendesk; label A -> slack #x", public_url="")
    result = invoke(app, "send-test", "all", "--wait", "1", "--json")
    assert [one["route"] for one in json.loads(result.stdout)] == ["Label A → Zendesk", "Label B → Zendesk"]


def test_a_cause_that_several_checks_find_is_explained_once(app: Flask, khoros: FakeKhoros) -> None:
    khoros.faults.html(9)
    output = invoke(app, "check").output
    assert output.count("-> Sign in to Khoros") == 1 and "failed  Khoros subscription: labels: the same" in output


def test_all_routes_can_be_tried_at_once(everywhere: Everywhere, zendesk: FakeZendesk) -> None:
    app, slack, receiver = everywhere
    result = invoke(app, "send-test", "all")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 7, result.output
    assert lines[0].startswith("Label VIP. Sent: message to Slack #social-crisis after ")
    assert (len(slack.messages), len(zendesk.tickets), len(receiver.taken)) == (5, 1, 1)
    printed = json.loads(invoke(app, "send-test", "all", "--json").stdout)
    assert [one["state"] for one in printed] == ["delivered"] * 7
    assert printed[1]["route"] == "Label Billing → Zendesk"


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ("nowhere", "no routes are called nowhere: give a number of: flask --app app routing"),
        ("0", "no routes are called 0"),
        ("8", "no routes are called 8"),
        ("9" * 5000, "no routes are called 999"),
        ("slack", "5 routes are called slack: give a number"),
    ],
)
def test_a_route_that_is_not_there_or_not_clear_is_said_so(route: str, said: str, again: NewApp) -> None:
    app = again(routes=SEVERAL.replace("{url}", "https://hooks.example/x"))
    result = invoke(app, "send-test", route)
    assert (result.exit_code, said in result.stderr) == (1, True)


def test_a_test_event_that_waits_names_the_reason_of_its_own_destination(again: NewApp) -> None:
    app = again(routes="label A -> zendesk; rule B -> slack #crisis", public_url="")
    move_gate(relay_of(app).inbox, OUTAGE, "Zendesk answered 503")
    assert "Slack #crisis after 1 s. Does a service run?" in invoke(app, "send-test", "rule B", "--wait", "1").stderr
    assert "Zendesk after 1 s. Zendesk answered 503." in invoke(app, "send-test", "label A", "--wait", "1").stderr


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
        assert result.stderr.count("event=ticket_created") == 25

    def test_what_waits_for_a_destination_without_a_route_does_not_hold_it_up(self, connected: Flask) -> None:
        relay_of(connected).inbox.accept([new_item(destination="slack:#old")])
        assert invoke(connected, "deliver", "--once").stdout == "Nothing is left to deliver.\n"

    def test_repaired_credentials_are_tried_at_once(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        inbox = relay_of(connected).inbox
        refused = Outcome("unauthorised", 0.1, reason="refused before", retry_after_s=60.0)
        inbox.end_check("zendesk", inbox.gate("zendesk")[0], refused)
        assert (invoke(connected, "deliver", "--once").exit_code, len(zendesk.tickets)) == (0, 1)

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
            result.exit_code == 1
            and "Error: 1 post waits still. Zendesk answered 503 DatabaseDeadlock. Try" in result.stderr
        )
        assert posted(zendesk) == 0
        zendesk.faults.clear()
        wait_for(lambda: not relay_of(connected).inbox.gate("zendesk")[1])
        once_more = invoke(again(), "deliver", "--once")
        assert (once_more.exit_code, len(zendesk.tickets)) == (0, 1)

    def test_credentials_that_are_refused_end_it(
        self, connected: Flask, zendesk: FakeZendesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [destination], accepted = relay_of(connected).destinations, iter(["an OAuth client"] * 2)

        def check() -> str:
            for found in accepted:
                return found
            raise AuthFailed("Zendesk answered 403 Forbidden")

        monkeypatch.setattr(destination, "check", check)
        fill(connected, 1)
        zendesk.faults.outage(403, method="POST", path="/api")
        result = deliver_once(connected, 60)
        assert result.exit_code == 1 and "1 post waits still. Zendesk answered 403 Forbidden" in result.stderr
        assert posted(zendesk) == 1

    def test_what_fails_alone_says_why_when_nothing_moves(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        zendesk.faults.outage(403, method="POST", path="/api")
        result = deliver_once(connected, 1)
        assert result.exit_code == 1 and "1 post waits still. Zendesk refuses this one post (403" in result.stderr
        assert "To give it up: flask --app app inbox discard" in result.stderr

    def test_no_progress_ends_it(self, connected: Flask, zendesk: FakeZendesk) -> None:
        fill(connected, 1)
        zendesk.faults.hang(1, 1, method="POST", path="/api")
        result = deliver_once(connected, 0.2)
        assert result.exit_code == 1 and "1 post waits still. To go on: flask --app app deliver --once" in result.stderr


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
