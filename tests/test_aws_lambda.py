"""AWS Lambda: what its payloads become, in processes of their own that are frozen in between; and the template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import TOKEN, alone, notification

from app import ALL_VARIABLES
from aws_lambda import DELIVER_ONLY
from proofs.lambda_runtime import Environment, Json, function_url_event, http_api_event, scheduler_event
from sandbox.khoros import FakeKhoros
from sandbox.zendesk import FakeZendesk

ROOT = Path(__file__).parents[1]
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
Start = Callable[..., Environment]


@pytest.fixture
def invoked() -> list[tuple[str, Json]]:
    """What the functions have invoked."""
    return []


@pytest.fixture
def start(
    tmp_path: Path,
    emptied: Callable[[], str],
    khoros: FakeKhoros,
    zendesk: FakeZendesk,
    invoked: list[tuple[str, Json]],
) -> Iterator[Start]:
    """Starts an environment of a function."""
    with ExitStack() as stack:
        env = alone(tmp_path, DATABASE_URL=emptied(), PUBLIC_URL="https://relay.example", DELIVER_FUNCTION="deliver")
        env |= {"KHOROS_API_URL": khoros.url, "ZENDESK_API_URL": zendesk.url}  # type: ignore[attr-defined]

        def make(handler: str, **changes: str) -> Environment:
            one = Environment(handler, {**env, **changes}, lambda name, payload: invoked.append((name, payload)))
            stack.callback(one.close)
            return one

        yield make


def post(*posts: str, event: str = "event-1", kind: Callable[..., Json] = function_url_event) -> Json:
    return kind("POST", "/notifications", HEADERS, json.dumps(notification(event, *posts)).encode())


def answer(one: Environment, event: Json) -> tuple[int, str]:
    result = one.invoke(event)["result"]
    return result["statusCode"], result["body"]


def lines(one: Environment, event: str) -> list[str]:
    one.close()
    return [line for line in one.output if f"event={event} " in f"{line} "]


def test_a_label_becomes_a_ticket_by_both_functions(
    start: Start, khoros: FakeKhoros, zendesk: FakeZendesk, invoked: list[tuple[str, Json]]
) -> None:
    http, deliver = start("http"), start("scheduled")
    assert "error" not in deliver.invoke(scheduler_event())
    assert [one.notification_uri for one in khoros.subscriptions] == ["https://relay.example/notifications"]
    status, body = answer(http, post("twitter:1"))
    assert (status, json.loads(body)) == (202, {"accepted": 1, "duplicates": 0, "ignored": 0})
    assert json.loads(answer(http, post("twitter:1", kind=http_api_event))[1])["duplicates"] == 1
    assert invoked == [("deliver", DELIVER_ONLY)] and zendesk.tickets == []
    calls, said = len(khoros.calls), start("scheduled").invoke(invoked[0][1])
    assert [ticket.external_id for ticket in zendesk.tickets] == ["twitter:1"]
    assert len(khoros.calls) == calls  # what is urgent asks Khoros nothing, not even in a cold start
    answer(http, post("twitter:2", event="event-2"))
    assert len(invoked) == 2
    for left in (said["threads"], http.invoke(function_url_event("GET", "/health", {}))["threads"]):
        assert [name for name in left if not re.fullmatch("pool-1-(scheduler|worker-0)", name)] == ["MainThread"]


def test_a_connection_that_died_while_the_function_was_frozen_costs_nothing(start: Start, emptied: Any) -> None:
    http = start("http")
    assert answer(http, post("twitter:1"))[0] == 202
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'khoros-zendesk-relay'"
    with psycopg.connect(http.env["DATABASE_URL"], autocommit=True) as connection:
        assert connection.execute(end).fetchall()
    assert answer(http, post("twitter:2", event="event-2"))[0] == 202
    assert lines(http, "database_unavailable") == []


def test_a_page_and_its_pictures_come_as_they_are(start: Start) -> None:
    http = start("http")
    status, page = answer(http, function_url_event("GET", "/", {"Accept": "text/html"}))
    assert status == 200 and "<!doctype html>" in page.lower()
    style = http.invoke(http_api_event("GET", "/static/style.css", {}))["result"]
    assert style["headers"]["content-type"].startswith("text/css") and not style["isBase64Encoded"]


def test_without_the_permission_to_invoke_the_notification_is_accepted_all_the_same(start: Start) -> None:
    http = start("http", DELIVER_FUNCTION="forbidden")
    assert answer(http, post("twitter:1"))[0] == 202
    [line] = lines(http, "not_invoked")
    assert "function=forbidden" in line and "PermissionError" in line


def test_only_what_is_committed_asks_for_a_delivery(start: Start, invoked: list[tuple[str, Json]]) -> None:
    http = start("http")
    wrong = {**HEADERS, "Authorization": "Bearer of-somebody-else"}
    assert answer(http, function_url_event("POST", "/notifications", wrong, b"{}"))[0] == 401
    assert answer(http, function_url_event("GET", "/", {}))[0] == 200
    assert invoked == []


def test_a_database_that_is_a_file_is_refused_by_name(start: Start) -> None:
    http, deliver = start("http", DATABASE_URL=""), start("scheduled", DATABASE_URL="sqlite:////tmp/relay.db")
    status, page = answer(http, function_url_event("GET", "/", {}))
    assert status == 503 and "DATABASE_URL" in page and "PostgreSQL" in page
    assert answer(http, post("twitter:1"))[0] == 503
    error = deliver.invoke(scheduler_event())["error"]
    assert error.startswith("ClosedError") and "DATABASE_URL must lead to a PostgreSQL database" in error


def test_a_visit_to_a_name_of_aws_teaches_the_address(start: Start, khoros: FakeKhoros) -> None:
    visit = function_url_event("GET", "/", {})
    assert answer(start("http", PUBLIC_URL=""), visit)[0] == 200
    start("scheduled", PUBLIC_URL="").invoke(scheduler_event())
    [subscription] = khoros.subscriptions
    assert subscription.notification_uri == f"https://{visit['headers']['host']}/notifications"


def test_other_gateways_are_understood(start: Start) -> None:
    """A REST API and a load balancer send payload format 1.0, with each header as a list, as a text, or as both."""
    http, sent = start("http"), post("twitter:1")
    first = {"httpMethod": "POST", "path": "/notifications", "body": sent["body"], "isBase64Encoded": False}
    lists = {"multiValueHeaders": {name: [value] for name, value in sent["headers"].items()}}
    texts = {"headers": sent["headers"]}
    for headers in (lists, texts, lists | texts, {**lists, "headers": None}):
        assert answer(http, {**first, **headers, "requestContext": {}})[0] == 202


def test_in_poll_mode_one_function_is_enough(start: Start, khoros: FakeKhoros, zendesk: FakeZendesk) -> None:
    poll = {"KHOROS_DELIVERY": "poll", "PUBLIC_URL": ""}
    start("scheduled", **poll).invoke(scheduler_event())
    [posted] = khoros.add_posts(1)
    khoros.label(posted, khoros.label_name)
    start("scheduled", **poll).invoke(scheduler_event())  # in a cold start
    assert [ticket.external_id for ticket in zendesk.tickets] == [posted]


def test_a_named_stage_of_a_gateway_is_part_of_every_link_and_teaches_no_address(
    start: Start, khoros: FakeKhoros
) -> None:
    http, sent = start("http", PUBLIC_URL=""), post("twitter:1")
    domain = sent["requestContext"]["domainName"] = "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com"
    for path, status in (("/prod/notifications", 202), ("/prod/nothing", 404), ("/production/notifications", 404)):
        context = {**sent["requestContext"], "stage": "prod"}
        assert answer(http, {**sent, "rawPath": path, "requestContext": context})[0] == status
    rest = {"httpMethod": "GET", "path": "/", "headers": {"Host": domain, "X-Forwarded-Proto": "https"}}
    context = {"stage": "prod", "path": "/prod/", "domainName": domain}
    page = answer(http, {**rest, "requestContext": context})[1]
    assert 'href="/prod/static/style.css"' in page
    rest["headers"] = {"Host": "relay.example"}  # a domain of one's own leads to the stage
    own = answer(http, {**rest, "requestContext": {**context, "domainName": "relay.example"}})[1]
    assert 'href="/static/style.css"' in own
    start("scheduled", PUBLIC_URL="").invoke(scheduler_event())
    assert khoros.subscriptions == []


def test_a_visit_to_the_address_of_the_subscription_changes_nothing(start: Start) -> None:
    visit = function_url_event("GET", "/", {})
    start("scheduled", PUBLIC_URL=f"https://{visit['headers']['host']}").invoke(scheduler_event())
    http = start("http", PUBLIC_URL="")
    assert "Connecting" not in answer(http, visit)[1]
    health = json.loads(answer(http, function_url_event("GET", "/health", {}))[1])
    assert health["subscription"]["state"] == "subscribed"


@pytest.mark.parametrize("part", ["headers", "multiValueHeaders"])
def test_the_name_of_a_request_is_lambdas_own_and_no_header_is_taken_for_another(start: Start, part: str) -> None:
    http = start("http")
    names = {"x-request-id": "its", "X-Request-Id": "of-the-sender", "X_Request_Id": "of-the-sender"}
    given = {**names, "Authorization": "Bearer of-somebody-else", "X_Forwarded_For": "198.51.100.1"}
    headers = {name: [value] if part == "multiValueHeaders" else value for name, value in given.items()}
    event = {"httpMethod": "POST", "path": "/notifications", "body": "{}", "requestContext": {}, part: headers}
    assert answer(http, event)[0] == 401
    [line] = lines(http, "notification_refused")
    assert re.search(r"request_id=[0-9a-f]{8}-[0-9a-f-]{27}( |$)", line) and "198.51.100.1" not in line


@pytest.mark.parametrize("event", [{}, None, scheduler_event(), DELIVER_ONLY])
def test_what_is_no_web_request_is_refused_in_words(start: Start, event: Any) -> None:
    said = start("http").invoke(event)
    assert said["error"].startswith("ValueError: http answers web requests only")


def test_a_function_with_too_little_time_says_what_to_do(start: Start) -> None:
    deliver = start("scheduled")
    deliver.invoke(scheduler_event(), timeout_s=60)
    deliver.invoke(scheduler_event(), timeout_s=15)
    [line] = lines(deliver, "too_little_time")
    assert line.startswith("at=error") and "time-out to 120 s" in line


# The template; proofs/lambda_template.py lints and translates it


def blocks(section: str) -> dict[str, str]:
    """The parts of a section of the template, by their names."""
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    [within] = re.findall(rf"^{section}:\n((?:(?:  .*|#.*)?\n)*)", text, re.MULTILINE)
    return dict(re.findall(r"^  (\w+):.*\n((?:(?:    .*)?\n)*)", within, re.MULTILINE))


def variables() -> dict[str, str]:
    """The variables of both functions, and the parameters that they come from."""
    return dict(re.findall(r"^        ([A-Z_]+): !Ref (\w+)$", blocks("Globals")["Function"], re.MULTILINE))


def test_each_setting_is_a_parameter_with_a_description() -> None:
    elsewhere = {"HEROKU_APP_NAME", "POLL_SECONDS", "KHOROS_API_URL", "SLACK_API_URL"}
    elsewhere |= {"ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN"}  # not for new deploys
    assert set(variables()) | {"PUBLIC_URL"} == set(ALL_VARIABLES) - elsewhere
    for name, parameter in variables().items():
        assert parameter == "".join(word.capitalize() for word in name.split("_"))
    parameters = blocks("Parameters")
    assert set(parameters) == {*variables().values(), "PublicUrl", "LogRetentionDays"}
    assert [name for name, text in parameters.items() if not re.search("    Description: .{20}", text)] == []


def test_what_would_be_refused_later_is_refused_at_the_deploy() -> None:
    """CloudFormation compares the whole value."""
    parameters, examples = (
        blocks("Parameters"),
        {
            "DatabaseUrl": (["postgres://u:p@host/name", "postgresql://host"], ["", "sqlite:///relay.db"]),
            "SpredfastCompanyId": (["1", "123", "?"], ["", "acme", "1?"]),
            "StatusPassword": (["", "x" * 16, "with a space and more"], ["x" * 15]),
            "RetentionDays": (["0", "30"], ["", "-1", "a month"]),
            "AlertAfterMinutes": (["1", "10"], ["", "0", "1.5"]),
            "CatchUpMinutes": (["0", "5"], ["", "five"]),
        },
    )
    for name, (good, bad) in examples.items():
        [pattern] = re.findall("    AllowedPattern: (.+)", parameters[name])
        assert [one for one in good + bad if re.fullmatch(pattern, one)] == good
        assert "    ConstraintDescription: It must " in parameters[name]
    assert "Enter ? when you do not know it" in parameters["SpredfastCompanyId"]


def test_no_secret_is_shown_by_aws() -> None:
    secret = re.compile("Token|Secret|Password|DatabaseUrl|WebhookUrl|Routes")
    of_secrets = {
        name: "    NoEcho: true\n" in text for name, text in blocks("Parameters").items() if secret.search(name)
    }
    assert len(of_secrets) == 9 and all(of_secrets.values())


def test_the_functions_are_ours_and_know_each_other() -> None:
    http, deliver = blocks("Resources")["Http"], blocks("Resources")["Deliver"]
    assert "Handler: aws_lambda.http\n" in http and "Handler: aws_lambda.scheduled\n" in deliver
    name = "!Sub ${AWS::StackName}-deliver"
    assert f"DELIVER_FUNCTION: {name}\n" in http and f"FunctionName: {name} #" in http
    assert f"FunctionName: {name}\n" in deliver and "PUBLIC_URL: !If [OwnDomain, !Ref PublicUrl" in deliver
    assert "rate(1 minute)" in deliver


def test_in_poll_mode_nothing_has_an_address() -> None:
    assert (
        "    Condition: Push\n" in blocks("Resources")["Http"] and "    Condition: Push\n" in blocks("Outputs")["Url"]
    )
