"""What `flask --app app check` finds on a healthy deploy and on each broken one, and what it says to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from conftest import TOKEN, new_item, new_routes, new_settings, new_subscriptions, relay_of
from flask import Flask
from steps import move_gate

from app import Settings
from config import Config
from events import LABEL_APPLIED, RULE_APPLIED
from inbox.database import Database
from inbox.gate import REFUSING, UNAUTHORISED
from inbox.inbox import Inbox
from khoros.catch_up import CatchUpStatus
from operations import checks
from operations.advice import SET_COMPANY, advice
from operations.checks import NOTED, PASSED, PROBLEM, TEST_POST, Check
from sandbox.khoros import FakeKhoros
from sandbox.receiver import HOOK_PATH, FakeReceiver
from sandbox.relay import free_port
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

pytestmark = pytest.mark.usefixtures("clean_log")

DATABASE, TOKEN_CHECK, SUBSCRIPTION = "database", "Khoros access token", "Khoros subscription: labels"
LABEL, ROUTES_CHECK, ADDRESS = "Khoros label CreateCase", "routes", "public address"
ZENDESK, ALERTS = "Zendesk credential", "alerts"
NOT_ALLOWED = "Company 123 does not allow the application made-up-client"
API_TOKEN: dict[str, Any] = {
    "client_id": "",
    "client_secret": "",
    "user_email": "agent@acme.example",
    "api_token": "made-up-api-token",
}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'relay.db'}"


NewApp = Callable[..., Flask]


@pytest.fixture
def settings(database_url: str, khoros: FakeKhoros, zendesk: FakeZendesk) -> Settings:
    return new_settings(
        database_url=database_url,
        khoros_url=khoros.url,  # type: ignore[attr-defined]  # the fixture gives the fake its address
        zendesk_url=zendesk.url,  # type: ignore[attr-defined]  # the same
        public_url=f"http://127.0.0.1:{free_port()}",
        catch_up_s=0.0,
    )


@pytest.fixture
def changed(settings: Settings, new_app: Callable[[Settings], Flask]) -> NewApp:
    """Makes an app with other settings: those of every process, or Zendesk's."""

    def make(**changes: Any) -> Flask:
        account = {name: changes.pop(name) for name in list(changes) if hasattr(settings.zendesk, name)}
        assert settings.zendesk
        there = replace(settings.zendesk, **account)
        routes = new_routes(changes.pop("routes", "label CreateCase -> zendesk"))
        config = replace(settings.config, **changes)
        return new_app(replace(settings, config=config, zendesk=there, routes=routes))

    return make


@pytest.fixture
def service(app: Flask, config: Config, database: Database) -> Iterator[Server]:
    """The service under its public address, subscribed."""
    with Server(app, int(config.public_url.rpartition(":")[2])) as server:
        new_subscriptions(config, database, queries=relay_of(app).routes.queries).step()
        yield server


def found(app: Flask, name: str) -> Check:
    [check] = [check for check in checks.run_checks(relay_of(app)) if check.name == name]
    return check


def test_a_healthy_deploy_is_well_and_only_waits_for_its_first_event(service: Server, app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["check", "--json"])
    told = {check["name"]: check["result"] for check in json.loads(result.stdout)}
    well = dict.fromkeys((DATABASE, TOKEN_CHECK, SUBSCRIPTION, LABEL, ROUTES_CHECK, ADDRESS, ZENDESK), PASSED)
    assert (told, result.exit_code) == (well | {ROUTES_CHECK: NOTED, ALERTS: NOTED}, 0)
    assert TOKEN not in result.output


def test_the_lines_fit_a_terminal_and_the_last_one_names_what_is_not_well(
    service: Server, app: Flask, khoros: FakeKhoros
) -> None:
    khoros.faults.html(9)
    result = app.test_cli_runner().invoke(args=["check"])
    assert max(map(len, result.stdout.splitlines())) <= 80 and result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"Error: not well: {TOKEN_CHECK}, {SUBSCRIPTION}"
    assert "-> Sign in to Khoros as the relay's user" in result.stdout


def test_an_exception_nobody_foresaw_is_a_finding_and_not_a_traceback(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise OSError("made-up private words")

    [destination] = relay_of(app).destinations
    monkeypatch.setattr(destination, "check", fail)
    check = found(app, ZENDESK)
    assert check.result == PROBLEM and "the check itself failed: OSError at test_checks.py" in check.found
    assert "private" not in check.found and check.to_do.startswith("Report this line")


# Khoros


@pytest.mark.parametrize(
    ("break_it", "said", "to_do"),
    [
        (lambda k: k.faults.outage(503), "Khoros answered 503", "Try again in a minute"),
        (lambda k: k.faults.reset(9), "Khoros (127.0.0.1) gave no answer: the connection was cut", "Try again"),
        (lambda k: k.faults.outage(401), "refuses SPREDFAST_API_TOKEN", "Copy the access token again"),
        (lambda k: k.faults.html(9), "Developer Inactive", "get a new access token"),
        (
            lambda k: k.faults.outage(403, body={"status": {"error": {"message": NOT_ALLOWED}, "succeeded": False}}),
            "does not allow this application",
            "ask Khoros support",
        ),
        (lambda k: k.faults.outage(586, body="<html>"), "KHOROS_API_URL", "Correct KHOROS_API_URL"),
        (lambda k: k.faults.outage(404, body="<html>"), "Khoros answered 404", "Correct KHOROS_API_URL"),
        (lambda k: k.faults.outage(200, body="<html>"), "a web page instead", "Correct KHOROS_API_URL"),
    ],
    ids=["down", "reset", "401", "Developer Inactive", "company not allowed", "586", "404", "web page"],
)
@pytest.mark.parametrize("name", [TOKEN_CHECK, SUBSCRIPTION])
def test_a_khoros_that_fails(
    name: str, break_it: Callable[[FakeKhoros], None], said: str, to_do: str, app: Flask, khoros: FakeKhoros
) -> None:
    break_it(khoros)
    check = found(app, name)
    assert check.result == PROBLEM and said in check.found and to_do in check.to_do


@pytest.mark.parametrize(
    ("companies", "result", "said"),
    [
        ([{"id": 123, "name": "Acme"}, {"id": 7}], PASSED, "sees company 123 (Acme)"),
        ([{"id": 7, "name": "A"}, {"id": 8, "name": "B"}], PROBLEM, "it does not see company 123, but 7 (A), 8 (B)"),
        ([], PASSED, "may see any company"),
        ("all", PASSED, "may see any company"),
    ],
    ids=["seen", "others", "none listed", "no list"],
)
def test_the_company_is_looked_for_among_those_the_token_sees(
    companies: object, result: str, said: str, app: Flask, khoros: FakeKhoros
) -> None:
    khoros.faults.outage(200, path="/v2/whoami", body={"data": {"id": 5, "companies": companies}})
    check = found(app, TOKEN_CHECK)
    assert check.result == result and said in check.found
    assert check.to_do.startswith("Set SPREDFAST_COMPANY_ID to one of" if result == PROBLEM else "")


def test_a_wrong_company_number_is_the_only_thing_to_correct(changed: NewApp) -> None:
    all_checks = checks.run_checks(relay_of(changed(company_id=999)))
    of_khoros = [check for check in all_checks if check.name.startswith("Khoros")]
    assert len(of_khoros) == 3 and all("123 (Acme Coffee)" in check.found for check in of_khoros)
    assert {check.to_do for check in of_khoros} == {SET_COMPANY, ""}


def listed(**changes: Any) -> dict[str, Any]:
    return {
        "uuid": "s-1",
        "externalId": "send-to-zendesk",
        "companyId": 123,
        "eventName": "stream-item-label-applied",
        "notificationUri": "https://relay.example/notifications",
        "query": new_routes("label CreateCase -> zendesk").queries[LABEL_APPLIED],
        "status": "ACTIVE",
        **changes,
    }


@pytest.mark.parametrize(
    ("held", "changes", "said", "to_do"),
    [
        ([], {}, "has none named send-to-zendesk", "start it"),
        ([listed(companyId=7), listed(externalId="other")], {}, "has none named", "start it"),
        ([listed(), listed(uuid="s-2")], {}, "2 have our name: s-1 s-2", "subscription delete; then: subscription res"),
        ([listed(status="PAUSED")], {}, "s-1 is PAUSED", "subscription resume"),
        ([listed(status="DISABLED")], {}, "s-1 is DISABLED", "subscription resume"),
        ([listed(query="Other")], {}, "query Other", "Restart the service"),
        ([listed(query=None)], {}, "query none", "Restart the service"),
        ([listed(eventName="rule-applied")], {}, "is about rule-applied, query", "Restart the service"),
        ([listed(notificationUri="https://x.example/n")], {}, "posts to https://x.example/n instead of", "Restart"),
        ([listed(notificationUri=None)], {}, "posts to nowhere instead of https://relay.example/n", "Restart"),
        ([listed()], {"polling": True}, "instead of nowhere", "Restart"),
    ],
    ids=[
        *("missing", "others'", "doubled", "paused", "disabled", "other label", "no label", "other event"),
        *("other address", "no address", "pushed though polling"),
    ],
)
def test_a_subscription_that_is_not_as_it_should_be(
    held: list[dict[str, Any]],
    changes: dict[str, Any],
    said: str,
    to_do: str,
    khoros: FakeKhoros,
    changed: NewApp,
) -> None:
    app = changed(public_url="https://relay.example", **changes)
    khoros.faults.outage(200, path="/v2/events/subscription", body={"data": held})
    check = found_subscription(app)
    assert check[0] == PROBLEM and said in check[1] and to_do in check[2]


@pytest.mark.parametrize(
    ("held", "changes"),
    [
        (listed(), {"public_url": "https://relay.example"}),
        (listed(status=None), {"public_url": "https://relay.example"}),
        (listed(), {"public_url": ""}),
        (listed(notificationUri=None), {"polling": True}),
    ],
    ids=["pushed", "no status said", "address unknown", "polled"],
)
def test_a_subscription_as_it_should_be(
    held: dict[str, Any],
    changes: dict[str, Any],
    khoros: FakeKhoros,
    changed: NewApp,
) -> None:
    khoros.faults.outage(200, path="/v2/events/subscription", body={"data": [held]})
    assert found_subscription(changed(**changes)) == (PASSED, "s-1, active")


def found_subscription(app: Flask, event_name: str = LABEL_APPLIED) -> tuple[str, ...]:
    relay = relay_of(app)
    return checks.check_subscription(relay, event_name, relay.khoros.subscriptions)


def test_a_subscription_deleted_by_command_is_told_from_one_never_made(app: Flask) -> None:
    relay_of(app).subscriptions.retire()
    assert "deleted by command" in found_subscription(app)[2]


def test_each_subscription_has_its_own_finding(khoros: FakeKhoros, changed: NewApp) -> None:
    rules = listed(uuid="s-2", eventName=RULE_APPLIED, externalId=f"send-to-zendesk.{RULE_APPLIED}", query=None)
    app = changed(public_url="https://relay.example", routes="label CreateCase -> zendesk; rule Recall -> zendesk")
    held = {"data": [{**rules, "status": "PAUSED"}, listed(query=relay_of(app).routes.queries[LABEL_APPLIED])]}
    khoros.faults.outage(200, path="/v2/events/subscription", body=held)
    assert found(app, SUBSCRIPTION).result == PASSED
    paused = found(app, "Khoros subscription: rules")
    assert (paused.result, paused.found) == (PROBLEM, "s-2 is PAUSED") and "resume" in paused.to_do


def test_a_poll_that_fails_is_a_problem_of_its_subscription(khoros: FakeKhoros, app: Flask) -> None:
    relay = relay_of(app)
    held = listed(query=relay.routes.queries[LABEL_APPLIED], notificationUri=f"{relay.config.public_url}/notifications")
    khoros.faults.outage(200, path="/v2/events/subscription", body={"data": [held]})
    relay.facts.save(f"catch_up:{LABEL_APPLIED}", CatchUpStatus(failed="Khoros answered 500"))
    result, said, to_do = found_subscription(app)
    assert (result, said) == (PROBLEM, "s-1 is active, but missed events cannot be fetched: Khoros answered 500")
    assert to_do.startswith("Try again in a minute")


# Labels and routes


def label_set(*labels: tuple[str, str], name: str = "General Labels") -> dict[str, Any]:
    entries = [{"id": n, "name": label, "status": status} for n, (label, status) in enumerate(labels)]
    return {"id": 1, "name": name, "status": "ACTIVE", "labels": entries}


@pytest.mark.parametrize(
    ("held", "result", "said", "to_do"),
    [
        ([("CreateCase", "ACTIVE")], PASSED, "an active label in Khoros: CreateCase", ""),
        ([("createcase", "ACTIVE")], PROBLEM, "Khoros has no such label", "Did you mean createcase? Correct"),
        ([("CreateCases", "ACTIVE"), ("Other", "ACTIVE")], PROBLEM, "no such label", "Did you mean CreateCases?"),
        ([("Entirely different", "ACTIVE")], PROBLEM, "no such label", "Correct SPREDFAST_LABEL_NAME or ROUTES"),
        ([("CreateCase", "INACTIVE")], PROBLEM, "CreateCase is not active in Khoros", "Activate it in Khoros"),
        ([("CreateCase", "INACTIVE"), ("CreateCase", "ACTIVE")], PASSED, "an active label", ""),
        ([], NOTED, "unknown: Khoros lists no label", "Compare it with the label"),
    ],
    ids=["there", "other case", "nearly", "not at all", "not active", "one of two active", "none at all"],
)
def test_the_labels_of_routes_are_looked_for_in_khoros(
    held: list[tuple[str, str]], result: str, said: str, to_do: str, app: Flask, khoros: FakeKhoros
) -> None:
    khoros.faults.outage(200, path="/v2/labelsets", body={"data": [label_set(*held)], "totalRecords": 1})
    check = found(app, LABEL)
    assert check.result == result and said in check.found and check.to_do.startswith(to_do)


@pytest.mark.parametrize(("status", "helps"), [(401, False), (403, True), (404, True), (500, False)])
def test_a_list_of_labels_that_khoros_refuses_proves_nothing(
    status: int, helps: bool, app: Flask, khoros: FakeKhoros
) -> None:
    khoros.faults.outage(status, path="/v2/labelsets")
    check = found(app, LABEL)
    assert check.result == NOTED and check.found.startswith("unknown: Khoros answered")
    assert ("letter by letter" in check.to_do) == helps


def test_a_misspelt_label_is_said_before_its_subscription_and_without_the_query(app: Flask, khoros: FakeKhoros) -> None:
    query = "(?:" + "|".join(f"CreateCas[e{n}]" for n in range(60)) + ")"
    khoros.faults.outage(200, path="/v2/labelsets", body={"data": [label_set(("Other", "ACTIVE"))]})
    khoros.faults.outage(200, path="/v2/events/subscription", body={"data": [listed(query=query)]})
    names = {check.name: check for check in checks.run_checks(relay_of(app))}
    assert list(names).index(LABEL) < list(names).index(SUBSCRIPTION)
    assert names[SUBSCRIPTION].found == "s-1 is about stream-item-label-applied, query…"


def test_the_label_of_each_line_is_checked_once(khoros: FakeKhoros, changed: NewApp) -> None:
    khoros.faults.outage(200, path="/v2/labelsets", body={"data": [label_set(("VIP", "ACTIVE"))], "totalRecords": 1})
    app = changed(routes="label VIP -> zendesk; label VIP -> slack #crisis; label Bil -> zendesk; rule R -> slack #x")
    results = {check.name: check.result for check in checks.run_checks(relay_of(app)) if "label " in check.name}
    assert results == {"Khoros label VIP": PASSED, "Khoros label Bil": PROBLEM}
    assert len([call for call in khoros.calls if call.path.startswith("/v2/labelsets")]) == 1


def test_an_event_counts_as_arrived_when_it_is_no_test(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item(post=f"{TEST_POST}1"), new_item("e2", f"message-published:{TEST_POST}2")])
    unseen = found(app, ROUTES_CHECK)
    assert unseen.result == NOTED and "Apply a label of a route once" in unseen.to_do
    inbox.accept([new_item("event-2")])
    assert found(app, ROUTES_CHECK).result == PASSED


def test_what_no_line_wants_may_be_misspelt(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item()])
    relay_of(app).unrouted.note([(LABEL_APPLIED, "Billling")])
    check = found(app, ROUTES_CHECK)
    assert (check.result, check.found) == (NOTED, "Label Billling: 1 event matched no line")
    assert "correct the name in ROUTES" in check.to_do


def test_items_of_a_destination_without_a_route_are_a_problem(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item(destination="slack:#old")])
    check = found(app, ROUTES_CHECK)
    assert (check.result, check.found) == (
        PROBLEM,
        "1 pending and 0 parked for slack:#old, where no line leads any more",
    )
    assert "Add its line again" in check.to_do and "--destination 'slack:#old'" in check.to_do


# The public address


@pytest.mark.parametrize(
    ("answer", "said", "to_do"),
    [
        ({"status": 200, "body": "<html>Welcome</html>"}, "answered 200 instead of 202", "Another program answers"),
        ({"status": 404}, "answered 404", "Another program answers"),
        ({"status": 301, "headers": {"Location": "https://else.example/"}}, "answered 301", "Another program answers"),
        ({"status": 503}, "answered 503", "look at its log"),
        ({"status": 401}, "refuses our token", "another NOTIFICATION_BEARER_TOKEN"),
        (
            {"body": requests.exceptions.ConnectTimeout()},
            "This service (relay.example) cannot be reached: no connection",
            "Correct the address, or see",
        ),
        ({"body": requests.exceptions.SSLError()}, "does not speak https", "Correct the address"),
    ],
    ids=["HTML", "404", "redirect", "ill", "other token", "nobody", "certificate"],
)
def test_a_public_address_that_is_not_ours(answer: dict[str, Any], said: str, to_do: str, changed: NewApp) -> None:
    app = changed(public_url="https://relay.example")
    with responses.RequestsMock() as web:
        web.post("https://relay.example/notifications", **answer)
        check = found(app, ADDRESS)
    assert check.result == PROBLEM and said in check.found and to_do in check.to_do


def test_a_service_that_runs_with_another_token_is_recognised(service: Server, config: Config, changed: NewApp) -> None:
    app = changed(bearer_tokens=("another-made-up-token",))
    assert checks.check_public_address(relay_of(app))[1] == f"{config.public_url} answers, but refuses our token"


def test_an_address_that_nobody_knows_and_one_that_nobody_needs(changed: NewApp) -> None:
    unknown = found(changed(public_url=""), ADDRESS)
    assert unknown.result == PROBLEM and "or set PUBLIC_URL" in unknown.to_do
    unneeded = checks.check_public_address(relay_of(changed(public_url="", polling=True)))
    assert unneeded == (PASSED, "not needed: the service polls")


# Zendesk


@pytest.mark.parametrize(
    ("break_it", "changes", "said", "to_do"),
    [
        (lambda z: z.faults.outage(503), {}, "Zendesk answered 503", "Try again in a minute"),
        (lambda z: z.faults.outage(429, path="/api"), {}, "Zendesk answered 429", "wait a minute"),
        (lambda z: z.faults.reset(9), {}, "Zendesk (127.0.0.1) gave no answer: the connection was cut", "Try again"),
        (
            lambda z: None,
            {"client_secret": "another-made-up-secret"},
            "to ZENDESK_CLIENT_ID and",
            "Copy Identifier",
        ),
        (lambda z: z.faults.outage(403, path="/api/v2/tickets"), {}, "403 Forbidden", "their agent may create"),
        (lambda z: z.faults.outage(301), {}, "a redirect", "Correct ZENDESK_API_URL"),
        (lambda z: z.faults.outage(200, body="<html>"), {}, "not JSON", "Correct ZENDESK_API_URL"),
        (lambda z: z.faults.outage(404, body="<html>"), {}, "answered 404", "Correct ZENDESK_API_URL"),
        (lambda z: z.faults.outage(404, body="<html>"), API_TOKEN, "answered 404", "Correct ZENDESK_API_URL"),
        (
            lambda z: None,
            API_TOKEN | {"api_token": "another-token"},
            "refuses our credentials",
            "Check the Zendesk cred",
        ),
        (
            lambda z: z.faults.outage(201, path="/oauth", body={"access_token": "made-up", "scope": "ticket:read"}),
            {},
            "lacks the scope tickets:read tickets:write",
            "see that the client has the scopes",
        ),
        (
            lambda z: z.faults.outage(200, path="/api/v2/users/me", body={"user": {"id": None, "role": "end-user"}}),
            {},
            "takes us for an anonymous user",
            "Check the Zendesk credentials, and that their agent may",
        ),
        (
            lambda z: z.faults.outage(200, path="/api/v2/users/me", body={"user": {"id": 7, "role": "end-user"}}),
            {},
            "takes us for an end-user",
            "Check the Zendesk credentials, and that their agent may",
        ),
    ],
    ids=[
        *("down", "limited", "reset", "wrong secret", "no rights", "redirect", "web page", "wrong address"),
        *(
            "wrong address, API token",
            "wrong API token",
            "wrong scope",
            "Anonymous user",
            "end user",
        ),
    ],
)
def test_a_zendesk_that_fails(
    break_it: Callable[[FakeZendesk], None],
    changes: dict[str, Any],
    said: str,
    to_do: str,
    zendesk: FakeZendesk,
    changed: NewApp,
) -> None:
    break_it(zendesk)
    check = found(changed(**changes), ZENDESK)
    assert check.result == PROBLEM and said in check.found and to_do in check.to_do


def test_an_api_token_works_and_its_end_is_told(changed: NewApp) -> None:
    check = found(changed(**API_TOKEN), ZENDESK)
    assert check.result == NOTED and check.found == "an API token of an agent" and "2027-04-30" in check.to_do


def test_an_oauth_client_is_named_with_its_scopes_and_with_its_role_when_zendesk_says_it(
    settings: Settings, changed: NewApp
) -> None:
    assert found(changed(), ZENDESK).found == "an OAuth client, granted tickets:read tickets:write"
    app, url = changed(), settings.zendesk.url if settings.zendesk else ""
    with responses.RequestsMock() as web:
        web.post(f"{url}/oauth/tokens", json={"access_token": "made-up"})
        web.get(f"{url}/api/v2/tickets", json={"tickets": []})
        web.get(f"{url}/api/v2/users/me", json={"user": {"id": 1, "role": "admin"}})
        [destination] = relay_of(app).destinations
        found_there = checks.check_destination(relay_of(app), destination)
        assert found_there[1].startswith("an OAuth client of an admin, granted ")


# The database


def test_a_database_out_of_reach_is_said_at_each_check_that_needs_it_and_the_others_are_made(
    service: Server, config: Config, changed: NewApp
) -> None:
    app = changed(database_url="sqlite:////nowhere/at/all/relay.db")
    results = {check.name: check for check in checks.run_checks(relay_of(app))}
    failed = [name for name, check in results.items() if check.result == PROBLEM]
    assert failed == [DATABASE, SUBSCRIPTION, ROUTES_CHECK, ZENDESK]
    assert results[DATABASE].to_do.startswith("DATABASE_URL must lead into")


def test_a_database_of_a_later_release_is_recognised(app: Flask, database: Database) -> None:
    with database.transaction() as db:
        db.change("UPDATE schema_version SET version = 99")
    check = found(app, DATABASE)
    assert check.result == PROBLEM and "later release" in check.found and check.to_do == "deploy that one again"


def test_what_is_parked_is_pointed_at(app: Flask, inbox: Inbox) -> None:
    inbox.accept([new_item(reason="it cannot be read")])
    check = found(app, DATABASE)
    assert (check.result, "1 parked" in check.found, "inbox list" in check.to_do) == (NOTED, True, True)


def test_sqlite_on_a_dyno_is_warned_of(changed: NewApp) -> None:
    check = found(changed(on_dyno=True), DATABASE)
    assert check.result == NOTED and "heroku-postgresql" in check.to_do


def test_postgresql_is_named(emptied: Callable[[], str], changed: NewApp) -> None:
    url = emptied().replace("postgres://", "postgresql://")
    assert found(changed(database_url=url), DATABASE).found.startswith("PostgreSQL, writable; 0 del")


def test_postgresql_out_of_reach_is_said_with_what_to_look_at(changed: NewApp) -> None:
    check = found(changed(database_url="postgresql://u:made-up@127.0.0.1:9/x"), DATABASE)
    assert check.result == PROBLEM and "Connection refused" in check.found and "made-up" not in check.found
    assert check.to_do.startswith("nothing answers at this address: start the database, or correct")


# Alerts


@pytest.mark.parametrize(
    ("answer", "result", "said", "to_do"),
    [
        ({}, PASSED, "a test message was sent", ""),
        ({"status": 404}, PROBLEM, "ALERT_WEBHOOK_URL answered 404", "Make a new webhook"),
        (
            {"body": requests.exceptions.ConnectTimeout()},
            PROBLEM,
            "ALERT_WEBHOOK_URL (hooks.example) cannot",
            "Correct ALERT",
        ),
    ],
    ids=["taken", "gone", "nobody"],
)
def test_a_test_message_is_sent_to_the_webhook_of_the_alerts(
    answer: dict[str, Any], result: str, said: str, to_do: str, changed: NewApp
) -> None:
    app = changed(alert_url="https://hooks.example/made-up-secret", polling=True)
    with responses.RequestsMock(assert_all_requests_are_fired=True) as web:
        web.post("https://hooks.example/made-up-secret", **answer)
        web.add_passthru("http://127.0.0.1")
        check = found(app, ALERTS)
        body = json.loads(web.calls[0].request.body or "")
    assert (check.result, said in check.found, check.to_do.startswith(to_do)) == (result, True, True)
    assert "made-up-secret" not in f"{check}" and "this is a test" in body["text"]


def test_the_call_of_the_check_itself_is_no_event_that_no_line_wants(service: Server, app: Flask) -> None:
    assert found(app, ADDRESS).result == PASSED
    assert relay_of(app).unrouted.recent() == []


# Several destinations


def test_each_destination_has_its_own_finding(changed: NewApp) -> None:
    receiver = FakeReceiver()
    with Server(receiver.app) as server:
        app = changed(
            routes=f"label CreateCase -> zendesk; sent -> webhook {server.url}{HOOK_PATH}; rule R -> slack #x"
        )
        results = {check.name: check for check in checks.run_checks(relay_of(app))}
    assert results[ZENDESK].result == PASSED
    [webhook] = [check for name, check in results.items() if name.startswith("Webhook 127.0.0.1")]
    assert webhook.result == PASSED and "shows with the first webhook" in webhook.found and receiver.calls == []
    slack = results["Slack #x credential"]
    assert (slack.result, "cannot be reached" in slack.found, slack.to_do[:11]) == (PROBLEM, True, "Correct the")


@pytest.mark.parametrize("state", [UNAUTHORISED, REFUSING])
def test_a_destination_that_refuses_all_is_a_problem_though_its_credentials_work(
    state: str, app: Flask, inbox: Inbox, database: Database
) -> None:
    move_gate(inbox, UNAUTHORISED, "hooks.example answered 410 Gone: correct its address")
    with database.transaction() as db:
        db.change("UPDATE gates SET state = :state", {"state": state})
    check = found(app, ZENDESK)
    assert check.result == PROBLEM and f"but {state}: hooks.example answered 410 Gone" in check.found
    assert check.to_do == "Nothing is sent there until then."


@pytest.mark.parametrize(
    ("reason", "to_do"),
    [
        ("Zendesk answered 500", "Try again in a minute"),
        ("Slack answered not_in_channel: invite the app to #x: /invite @app", "The relay goes on by itself"),
        ("hooks.example answered 401: it refuses our signature", "Compare WEBHOOK_SECRET"),
        ("hooks.example answered 302: redirects are not followed; correct its address in ROUTES", "Set the address"),
        ("Zendesk answered 401 invalid_client to ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET: copy", "Copy Identifier"),
        (
            "Zendesk answered 400 invalid_scope to ZENDESK_CLIENT_ID …: the OAuth client may not have",
            "Copy Identifier and Secret again, and see that the client has the scopes",
        ),
        ("Khoros (x) cannot be reached: no such host name", "Correct KHOROS_API_URL"),
        ("Khoros (x) cannot be reached: its certificate is not trusted (expired)", "Renew the certificate"),
        ("Khoros (x) cannot be reached: it does not speak https there", "Correct the address, or see"),
        ("x cannot be called: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no readable file", "Correct that variable"),
        ("x cannot be called: its token has an unusual character: copy it again", "Set the variable again"),
        ("x cannot be reached through the proxy of HTTPS_PROXY: nothing listens there", "Correct that variable"),
        ("Zendesk (x) cannot be called: the address in HTTPS_PROXY is not usable", "Correct that variable"),
        ("This service (x) cannot be reached: nothing listens there", "Start the service"),
        ("ALERT_WEBHOOK_URL answered 404", "Make a new webhook"),
        ("SPREDFAST_COMPANY_ID 1 is no company of the access token, which has: 2 (B)", "Set SPREDFAST_COMPANY_ID to"),
        ("Khoros (x) cannot be called: its address is not usable", "Correct KHOROS_API_URL"),
        ("Zendesk (x) cannot be called: its address is not usable", "Correct ZENDESK_API_URL"),
        ("Slack (x) cannot be called: its address is not usable", "Correct SLACK_API_URL"),
        ("a..example cannot be called: its address is not usable", "Correct the address, or see"),
    ],
)
def test_each_reason_has_its_advice(reason: str, to_do: str) -> None:
    assert advice(reason).startswith(to_do)


@pytest.mark.parametrize("host", ["acme..zendesk.com", "\N{SNOWMAN}.zendesk.com", "a" * 64 + ".zendesk.com"])
def test_an_address_of_zendesk_that_can_never_work_is_named(host: str, changed: NewApp) -> None:
    check = found(changed(url=f"https://{host}"), ZENDESK)
    assert check.result == PROBLEM and f"{host}) cannot be called" in check.found
    assert check.to_do.startswith("Correct ZENDESK_API_URL")


def test_an_error_nobody_foresaw_has_some_advice() -> None:
    assert advice("Zendesk answered 500").startswith("Try again in a minute")
