"""Everything that the relay sends, and everything that the simulated services answer, keeps to the contracts."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from jsonschema import ValidationError

from contracts import FOLDER, schemas, validate
from khoros_client import KhorosClient
from sandbox.__main__ import LABEL, pending, settings
from sandbox.calls import Call
from sandbox.khoros import EVENT_NAMES, FakeKhoros
from sandbox.messages import KINDS
from sandbox.relay import ROOT, Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Exchange:
    """One kind of API call: the schema of its request, if it has a body, and of its good answer."""

    method: str
    path: str
    request: str | None
    answer: str

    def matches(self, call: Call) -> bool:
        return call.method == self.method and re.fullmatch(self.path, call.path) is not None


ZENDESK = [
    Exchange("POST", "/oauth/tokens", "token_request", "token"),
    Exchange("GET", "/api/v2/users/me", None, "current_user"),
    Exchange("POST", "/api/v2/tickets", "create_ticket", "changed_ticket"),
    Exchange("GET", "/api/v2/tickets", None, "tickets"),
    Exchange("GET", "/api/v2/tickets/show_many", None, "tickets"),
    Exchange("GET", "/api/v2/tickets/[0-9]+", None, "one_ticket"),
    Exchange("PUT", "/api/v2/tickets/[0-9]+", "update_ticket", "changed_ticket"),
    Exchange("PUT", "/api/v2/tickets/[0-9]+/tags", "add_tags", "tags"),
    Exchange("GET", "/api/v2/tickets/[0-9]+/comments", None, "comments"),
]
KHOROS = [
    Exchange("GET", "/v2/whoami/", None, "whoami"),
    Exchange("POST", "/v2/events/subscription", "subscribe", "one_subscription"),
    Exchange("GET", "/v2/events/subscription", None, "subscriptions"),
    Exchange("GET", "/v2/events/data/[0-9a-f-]{36}", None, "events"),
    Exchange("GET", "/v2/labelsets/", None, "label_sets"),
]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeKhoros, FakeZendesk]]:
    """Both simulated services after the real relay has made every kind of call."""
    with ExitStack() as stack:
        khoros, zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(khoros.close)
        stack.callback(zendesk.faults.clear)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        relay = Relay(env={})
        relay.env = settings(khoros, zendesk, khoros_url, zendesk_url, relay.url, tmp_path_factory.mktemp("relay"))
        stack.callback(relay.kill)
        relay.start().wait_ready()
        wait_for(lambda: bool(khoros.subscriptions), PATIENCE_S)
        make_every_call(khoros, zendesk, relay)
        run_check(zendesk, relay)
        yield khoros, zendesk


def make_every_call(khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay) -> None:
    """A ticket, a note, a note whose outcome is unknown, a follow-up, a refusal, a new login and a missed event."""
    first, second, missed, *_ = khoros.posts

    def label(post: str) -> None:
        khoros.label(post, LABEL)
        assert khoros.drain()
        wait_for(lambda: pending(relay) == 0, PATIENCE_S)

    label(first)
    label(first)
    zendesk.faults.fail(1, 503, path="/api/v2/tickets/", method="PUT", effect=True)
    label(first)
    [ticket] = zendesk.tickets
    assert len(ticket.comments) == 3
    zendesk.archive_ticket(ticket.id)
    zendesk.expire_tokens()
    label(first)
    zendesk.faults.fail(1, 422, path="/api/v2/tickets", method="POST")
    label(second)
    assert [t.external_id for t in zendesk.tickets] == [first, first]
    relay.kill()
    khoros.label(missed, LABEL)
    assert khoros.drain()
    relay.start().wait_ready()
    wait_for(lambda: zendesk.tickets[-1].external_id == missed, PATIENCE_S)


def run_check(zendesk: FakeZendesk, relay: Relay) -> None:
    """`flask check` with the older credentials, which ask Zendesk who they belong to."""
    login = {"ZENDESK_USER_EMAIL": zendesk.user_email, "ZENDESK_API_TOKEN": zendesk.api_token}
    env = {**os.environ, **relay.env, **login, "ZENDESK_CLIENT_ID": "", "ZENDESK_CLIENT_SECRET": ""}
    command = [sys.executable, "-m", "flask", "--app", "app", "check"]
    run = subprocess.run(  # noqa: S603 - our own command
        command, cwd=ROOT, env={**env, "PYTHON_DOTENV_DISABLED": "1"}, capture_output=True, text=True, check=False
    )
    assert zendesk.calls[-1].path == "/api/v2/users/me", run.stdout + run.stderr


def test_every_call_to_zendesk_and_every_answer(services: tuple[FakeKhoros, FakeZendesk]) -> None:
    _, zendesk = services
    keep_to("zendesk", ZENDESK, zendesk.calls, "error")
    assert {call.status for call in zendesk.calls} >= {200, 201, 401, 422, 503}
    created = [call for call in zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]
    assert all(call.idempotency_key and len(call.idempotency_key) <= 255 for call in created)


def test_every_call_to_khoros_and_every_answer(services: tuple[FakeKhoros, FakeZendesk]) -> None:
    khoros, _ = services
    keep_to("khoros", KHOROS, khoros.calls, "failure")


def keep_to(service: str, exchanges: list[Exchange], calls: list[Call], refusal: str) -> None:
    """Each call is of a known kind and keeps to it, and there was a good one of every kind."""
    answered = set()
    for call in calls:
        [exchange] = [exchange for exchange in exchanges if exchange.matches(call)]
        if exchange.request:
            assert call.headers["content-type"] == "application/json"
            validate(json.loads(call.body), service, exchange.request)
        good = call.status in (200, 201)
        validate(json.loads(call.answer), service, exchange.answer if good else refusal)
        answered |= {exchange} if good else set()
    assert answered == set(exchanges)


def test_every_notification_that_khoros_sends(services: tuple[FakeKhoros, FakeZendesk]) -> None:
    khoros, _ = services
    uuids = {push.event_uuid for push in khoros.pushes}
    assert len(uuids) >= 6
    for event_uuid in uuids:
        validate(khoros.event(event_uuid), "khoros", "notification")


@pytest.mark.parametrize("kind", [*KINDS, "LinkShare"])
def test_every_event_beside_labels_that_the_simulated_khoros_makes(kind: str) -> None:
    khoros = FakeKhoros()
    with Server(khoros.app) as server:
        client = KhorosClient(f"{server.url}/v2", khoros.token, khoros.company_id)
        for name in EVENT_NAMES:
            client.subscribe(name, "", "", external_id=name, bearer_token="made-up-bearer-token")
        post = next(iter(khoros.posts))
        made = [
            *khoros.fire_rule(post, "Product recall"),
            *khoros.send_to_network("FACEBOOK", kind=kind),
            *khoros.publish("TWITTER", kind=kind, labels=[{"id": 7, "name": "Campaign"}]),
            *khoros.publish("TIKTOK", kind=kind, status="ERROR"),
            *khoros.needs_approval("LINKEDIN", kind=kind),
            *khoros.disconnect(),
            *khoros.disconnect(deleted=True),
        ]
    khoros.close()
    assert len(made) == 7
    for event_uuid in made:
        validate(khoros.event(event_uuid), "khoros", "notification")
        for item in khoros.event(event_uuid)["data"].get("items", ()):
            validate(item, "khoros", "stream_item")


def test_the_published_examples_are_notifications() -> None:
    """Not the second one: it is written otherwise on purpose, as a tolerant reader has to expect."""
    first, _, *others = json.loads((ROOT / "proofs" / "examples.json").read_text(encoding="utf-8"))
    for example in [first, *others]:
        validate(example, "khoros", "notification")


def test_app_json_keeps_to_herokus_rules() -> None:
    app = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))
    validate(app, "heroku", "app")


# The contracts themselves

TICKET: dict[str, Any] = {
    "ticket": {
        "subject": "Mara on X: hello",
        "comment": {"html_body": "<p>hello</p>", "public": False},
        "external_id": "twitter:1",
        "tags": ["khoros", "twitter"],
        "priority": "normal",
    }
}
SUBSCRIBE: dict[str, Any] = {
    "companyId": 123,
    "externalId": "send-to-zendesk",
    "eventName": "stream-item-label-applied",
    "notificationUri": "https://relay.example/notifications",
    "query": "CreateCase",
    "bearerToken": "a-shared-secret-of-ours",
}
TOKEN_REQUEST = {
    "grant_type": "client_credentials",
    "client_id": "relay",
    "client_secret": "made-up",
    "scope": "tickets:read tickets:write",
    "expires_in": 3600,
}
NOTE = {"ticket": {"comment": {"html_body": "<p>again</p>"}}}
Change = Callable[[dict[str, Any]], object]


def at(*path: str, to: Any = ...) -> Change:
    """Sets the value at a path; takes it out when no value is given."""

    def change(message: dict[str, Any]) -> None:
        *folders, name = path
        for folder in folders:
            message = message[folder]
        if to is ...:
            del message[name]
        else:
            message[name] = to

    return change


@pytest.mark.parametrize(
    ("service", "message", "good", "change"),
    [
        ("zendesk", "create_ticket", TICKET, at("ticket", "external_id")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "external_id", to="")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "external_id", to="x" * 256)),
        ("zendesk", "create_ticket", TICKET, at("ticket", "comment")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "comment", "html_body", to=" ")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "comment", "html_body", to="x" * 65_001)),
        ("zendesk", "create_ticket", TICKET, at("ticket", "comment", "body", to="*Markdown*")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "priority", to="Normal")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "tags", to=["two words"])),
        ("zendesk", "create_ticket", TICKET, at("ticket", "Subject", to="names are case sensitive")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "group_id", to="12")),
        ("zendesk", "create_ticket", TICKET, at("ticket", "custom_fields", to={"1": "x"})),
        ("zendesk", "create_ticket", TICKET, at("more", to=1)),
        ("zendesk", "update_ticket", NOTE, at("ticket", "comment")),
        ("zendesk", "add_tags", {"tags": ["billing"]}, at("tags", to=[])),
        ("zendesk", "add_tags", {"tags": ["billing"]}, at("tags", to=["two words"])),
        ("zendesk", "add_tags", {"tags": ["billing"]}, at("ticket", to={})),
        ("zendesk", "update_ticket", NOTE, at("ticket", "external_id", to="twitter:2")),
        ("zendesk", "token_request", TOKEN_REQUEST, at("scope", to="tickets:read,tickets:write")),
        ("zendesk", "token_request", TOKEN_REQUEST, at("grant_type", to="password")),
        ("zendesk", "token_request", TOKEN_REQUEST, at("expires_in", to=299)),
        ("zendesk", "token_request", TOKEN_REQUEST, at("client_secret", to="")),
        ("zendesk", "error", {"error": "RecordInvalid"}, at("error")),
        ("khoros", "subscribe", SUBSCRIBE, at("companyId", to="123")),
        ("khoros", "subscribe", SUBSCRIBE, at("eventName", to="label-applied")),
        ("khoros", "subscribe", SUBSCRIBE, at("notificationUri", to="/notifications")),
        ("khoros", "subscribe", SUBSCRIBE, at("bearerToken", to="")),
        ("khoros", "subscribe", SUBSCRIBE, at("query")),
        ("khoros", "subscribe", SUBSCRIBE, at("version", to=2)),
        ("khoros", "subscribe", {**SUBSCRIBE, "eventName": "rule-applied"}, at("query", to="")),
    ],
)
def test_a_message_that_breaks_a_contract_is_found(
    service: str, message: str, good: dict[str, Any], change: Change
) -> None:
    validate(good, service, message)
    bad = copy.deepcopy(good)
    change(bad)
    with pytest.raises(ValidationError):
        validate(bad, service, message)


@pytest.mark.parametrize(
    "change",
    [
        at("name", to="x" * 31),
        at("licence", to="MIT"),
        at("success_url", to="https://elsewhere.example/"),
        at("env", "LOG_LEVEL", to="INFO"),
        at("env", "LOG_LEVEL", "required"),
        at("env", "log_level", to={"description": "x", "required": False}),
        at("env", "CATCH_UP_MINUTES", "value", to=5),
        at("formation", "web", "size", to="Basic"),
        at("addons", to=["heroku-postgresql"]),
    ],
)
def test_an_app_json_that_heroku_would_refuse_is_found(change: Change) -> None:
    app = json.loads((ROOT / "app.json").read_text(encoding="utf-8"))
    change(app)
    with pytest.raises(ValidationError):
        validate(app, "heroku", "app")


def test_every_file_is_a_schema_and_an_unknown_one_is_an_error() -> None:
    assert {file.stem for file in Path(FOLDER).glob("*.json")} == {"heroku", "khoros", "zendesk"}
    for name in ("heroku", "khoros", "zendesk"):
        assert schemas(name)["$defs"]
    with pytest.raises(FileNotFoundError):
        validate({}, "slack", "message")
