"""The simulated services behave as the real ones are documented: tests and the demo depend on it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from contracts import validate
from flask import Flask, Response, request
from jsonschema import ValidationError

from sandbox.faults import Faults
from sandbox.khoros import (
    CREDENTIAL_DELETED,
    DEAUTHORISED,
    NEEDS_APPROVAL,
    PUBLISHED,
    REFUSED,
    RULE_APPLIED,
    SENT,
    FakeKhoros,
    chicago,
)
from sandbox.posts import as_delivered
from sandbox.relay import Relay, RelayFailed, free_port
from sandbox.richtext import plain_text, safe_html
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass
class Desk:
    """A fake Zendesk behind real HTTP, and a client of it."""

    fake: FakeZendesk
    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=30, **options)

    def token(self, **changes: Any) -> requests.Response:
        wanted = {
            "grant_type": "client_credentials",
            "client_id": self.fake.client_id,
            "client_secret": self.fake.client_secret,
            "scope": "tickets:read tickets:write",
        }
        return self.call("POST", "/oauth/tokens", json=wanted | changes)

    def log_in(self, **changes: Any) -> None:
        self.session.headers["Authorization"] = f"Bearer {self.token(**changes).json()['access_token']}"

    def create(self, key: str | None = None, **changes: Any) -> requests.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return self.call("POST", "/api/v2/tickets", json={"ticket": ticket(**changes)}, headers=headers)


def ticket(**changes: Any) -> dict[str, Any]:
    whole = {
        "subject": "Mara on X: hello",
        "comment": {"html_body": "<p>hello<br>there</p>", "public": False},
        "external_id": "twitter:1",
        "tags": ["khoros", "twitter"],
        "priority": "normal",
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def zendesk(clock: Clock) -> Iterator[Desk]:
    fake = FakeZendesk(clock=clock)
    with Server(fake.app) as server:
        desk = Desk(fake, server.url)
        desk.log_in()
        yield desk
        fake.faults.clear()
        desk.session.close()


# Zendesk: who may call


def test_wrong_or_missing_credentials_are_refused(zendesk: Desk) -> None:
    for credentials in ("", "Bearer wrong", "Basic wrong", "Bearer"):
        zendesk.session.headers["Authorization"] = credentials
        answer = zendesk.create()
        assert (answer.status_code, answer.json()) == (401, {"error": "Couldn't authenticate you"})
    assert zendesk.fake.tickets == []


def test_an_api_token_is_taken_with_the_agents_mail_address(zendesk: Desk) -> None:
    del zendesk.session.headers["Authorization"]
    good, bad = ("agent@acme.example/token", zendesk.fake.api_token), ("agent@acme.example", zendesk.fake.api_token)
    assert zendesk.call("GET", "/api/v2/users/me", auth=good).json()["user"]["role"] == "agent"
    assert zendesk.call("GET", "/api/v2/users/me", auth=bad).status_code == 401


def test_without_credentials_users_me_is_an_anonymous_user(zendesk: Desk) -> None:
    del zendesk.session.headers["Authorization"]
    answer = zendesk.call("GET", "/api/v2/users/me")
    assert answer.status_code == 200
    assert answer.json()["user"] == {"id": None, "name": "Anonymous user", "role": "end-user"}


def test_an_access_token_ends_when_it_says(zendesk: Desk, clock: Clock) -> None:
    granted = zendesk.token(expires_in=300).json()
    assert (granted["expires_in"], granted["scope"]) == (300, "tickets:read tickets:write")
    zendesk.session.headers["Authorization"] = f"Bearer {granted['access_token']}"
    clock.now += 299
    assert zendesk.create().status_code == 201
    clock.now += 1
    assert zendesk.create().status_code == 401


def test_an_access_token_lives_half_an_hour_unless_asked_otherwise(zendesk: Desk) -> None:
    assert zendesk.token().json()["expires_in"] == 1800
    assert [zendesk.token(expires_in=life).status_code for life in (299, 172_801, "600")] == [400, 400, 400]


def test_expire_tokens_ends_them_all(zendesk: Desk) -> None:
    zendesk.fake.expire_tokens()
    assert zendesk.create().status_code == 401


@pytest.mark.parametrize("scope", ["ticket:write", "tickets:read,tickets:write", ["read", "write"]])
def test_a_misspelt_scope_is_issued_and_then_forbidden(zendesk: Desk, scope: object) -> None:
    assert zendesk.token(scope=scope).json()["scope"] == scope
    zendesk.log_in(scope=scope)
    answer = zendesk.create()
    assert (answer.status_code, answer.json()["error"]["title"]) == (403, "Forbidden")


def test_a_scope_covers_only_its_own_resource(zendesk: Desk) -> None:
    zendesk.log_in(scope="tickets:read")
    assert zendesk.call("GET", "/api/v2/tickets").status_code == 200
    assert zendesk.create().status_code == 403
    assert zendesk.call("GET", "/api/v2/users/me").status_code == 403
    zendesk.log_in(scope="read write")
    assert zendesk.create().status_code == 201


def test_a_wrong_client_secret_is_refused(zendesk: Desk) -> None:
    answer = zendesk.token(client_secret="wrong")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert zendesk.call("POST", "/oauth/tokens", data={"grant_type": "client_credentials"}).status_code == 400
    assert zendesk.token(grant_type="password").json()["error"] == "unsupported_grant_type"


def test_a_scope_that_the_client_may_not_have_is_refused(zendesk: Desk) -> None:
    zendesk.fake.client_scopes = {"tickets:read", "tickets:write"}
    assert zendesk.token().status_code == 201
    answer = zendesk.token(scope="tickets:read users:write")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


# Zendesk: tickets


def test_a_ticket_is_kept_and_shown(zendesk: Desk) -> None:
    answer = zendesk.create()
    made = answer.json()["ticket"]
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{zendesk.url}/api/v2/tickets/{made['id']}.json"
    assert (made["description"], made["status"], made["external_id"]) == ("hello\nthere", "new", "twitter:1")
    kept = zendesk.fake.ticket(made["id"])
    assert (kept.subject, kept.tags, kept.priority) == ("Mara on X: hello", ["khoros", "twitter"], "normal")
    assert (kept.fields, kept.comments[0].public) == (ticket(), False)
    assert zendesk.call("GET", f"/api/v2/tickets/{made['id']}").json()["ticket"] == made


@pytest.mark.parametrize(
    ("changes", "field_name"),
    [
        ({"comment": ...}, "comment"),
        ({"comment": {"html_body": " "}}, "comment"),
        ({"comment": {"public": False}}, "comment"),
        ({"comment": {"html_body": "x" * 65_537}}, "comment"),
        ({"comment": {"html_body": "x", "public": "no"}}, "comment"),
        ({"comment": {"html_body": "x", "colour": "red"}}, "comment"),
        ({"comment": "hello"}, "comment"),
        ({"external_id": ...}, "external_id"),
        ({"external_id": ""}, "external_id"),
        ({"external_id": 7}, "external_id"),
        ({"subject": None}, "subject"),
        ({"subject": "\ud800"}, "subject"),
        ({"priority": "Normal"}, "priority"),
        ({"tags": [7]}, "tags"),
        ({"tags": "khoros"}, "tags"),
        ({"requester_id": 7}, "requester"),
        ({"Subject": "keys are case sensitive"}, "Subject"),
        ({"created_at": "2026-01-01T00:00:00Z"}, "created_at"),
        ({"group_id": "12"}, "group_id"),
        ({"custom_fields": {"1": "x"}}, "custom_fields"),
        ({"via_followup_source_id": 77}, "via_followup_source_id"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(zendesk: Desk, changes: dict[str, Any], field_name: str) -> None:
    answer = zendesk.create("key", **changes)
    assert (answer.status_code, answer.json()["error"]) == (422, "RecordInvalid")
    assert list(answer.json()["details"]) == [field_name]
    assert zendesk.fake.tickets == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"ticket": 1}', "application/json", 422),
        (b'{"ticket": {}, "more": 1}', "application/json", 422),
        (json.dumps({"ticket": ticket()}).encode(), "text/plain", 415),
    ],
)
def test_a_malformed_request_is_refused(zendesk: Desk, body: bytes, content_type: str, status: int) -> None:
    headers = {"Content-Type": content_type}
    assert zendesk.call("POST", "/api/v2/tickets", data=body, headers=headers).status_code == status


def test_the_longest_comment_is_taken(zendesk: Desk) -> None:
    assert zendesk.create(comment={"html_body": "x" * 65_536}).status_code == 201


def test_tickets_are_found_by_external_id_oldest_first(zendesk: Desk) -> None:
    made = [zendesk.create(external_id=external_id).json()["ticket"]["id"] for external_id in ("a:1", "b:2", "a:1")]
    found = zendesk.call("GET", "/api/v2/tickets", params={"external_id": "a:1"}).json()
    assert [t["id"] for t in found["tickets"]] == [made[0], made[2]]
    assert (found["count"], found["next_page"], found["previous_page"]) == (2, None, None)
    zendesk.fake.delete_ticket(made[0])
    assert [t.id for t in zendesk.fake.tickets] == made[1:]


def test_a_list_has_pages(zendesk: Desk) -> None:
    made = [zendesk.create().json()["ticket"]["id"] for _ in range(3)]
    first = zendesk.call("GET", "/api/v2/tickets", params={"external_id": "twitter:1", "per_page": 2}).json()
    second = zendesk.session.get(first["next_page"], timeout=30).json()
    assert [t["id"] for t in first["tickets"] + second["tickets"]] == made
    assert second["next_page"] is None


def test_a_comment_is_added_and_stays_internal(zendesk: Desk, clock: Clock) -> None:
    ticket_id = zendesk.create().json()["ticket"]["id"]
    clock.now += 60
    answer = zendesk.call("PUT", f"/api/v2/tickets/{ticket_id}", json={"ticket": {"comment": {"body": "again"}}})
    assert (answer.status_code, answer.json()["ticket"]["updated_at"]) == (200, "2026-11-23T12:01:00Z")
    comments = zendesk.call("GET", f"/api/v2/tickets/{ticket_id}/comments").json()["comments"]
    assert [(c["plain_body"], c["public"]) for c in comments] == [("hello\nthere", False), ("again", False)]
    latest = {"sort_order": "desc", "per_page": 1}
    shown = zendesk.call("GET", f"/api/v2/tickets/{ticket_id}/comments", params=latest).json()["comments"]
    assert [c["plain_body"] for c in shown] == ["again"]


def test_a_closed_ticket_takes_no_update_but_a_follow_up(zendesk: Desk) -> None:
    ticket_id = zendesk.create().json()["ticket"]["id"]
    note = {"ticket": {"comment": {"html_body": "again"}}}
    assert zendesk.create(via_followup_source_id=ticket_id).status_code == 422
    zendesk.fake.close_ticket(ticket_id)
    answer = zendesk.call("PUT", f"/api/v2/tickets/{ticket_id}", json=note)
    assert (answer.status_code, answer.json()) == (
        422,
        {
            "error": "RecordInvalid",
            "description": "Record validation errors",
            "details": {"status": [{"description": "Status: closed prevents ticket update"}]},
        },
    )
    assert zendesk.create(via_followup_source_id=ticket_id).status_code == 201


def test_an_archived_ticket_is_shown_by_its_ids_and_not_listed(zendesk: Desk) -> None:
    old, new = (zendesk.create(external_id=post).json()["ticket"]["id"] for post in ("twitter:1", "twitter:2"))
    zendesk.fake.archive_ticket(old)

    def ids(path: str, **params: str) -> list[int]:
        return [
            ticket["id"] for ticket in zendesk.call("GET", f"/api/v2/tickets{path}", params=params).json()["tickets"]
        ]

    assert ids("") == [new] and ids("", external_id="twitter:1") == []
    assert zendesk.call("GET", f"/api/v2/tickets/{old}").json()["ticket"]["status"] == "closed"
    assert ids("/show_many", ids=f"{old},{new},9") == [old, new]
    assert ids("/show_many", external_ids="twitter:1,twitter:3") == [old]
    assert zendesk.create(via_followup_source_id=old).status_code == 201


def test_tags_are_added_to_those_of_an_open_ticket(zendesk: Desk) -> None:
    id = zendesk.create().json()["ticket"]["id"]
    path = f"/api/v2/tickets/{id}/tags"
    answer = zendesk.call("PUT", path, json={"tags": ["billing", "khoros"]})
    assert (answer.status_code, answer.json()) == (200, {"tags": ["khoros", "twitter", "billing"]})
    assert zendesk.fake.ticket(id).tags == ["khoros", "twitter", "billing"]
    for tags in ("billing", [7], None):
        assert zendesk.call("PUT", path, json={"tags": tags}).status_code == 422
    zendesk.fake.close_ticket(id)
    assert zendesk.call("PUT", path, json={"tags": ["late"]}).json()["details"]["status"]


def test_a_tag_with_blanks_becomes_several_in_small_letters(zendesk: Desk) -> None:
    id = zendesk.create(tags=["Two words", "khoros", "a,b"]).json()["ticket"]["id"]
    assert zendesk.fake.ticket(id).tags == ["two", "words", "khoros", "a", "b"]
    assert zendesk.call("PUT", f"/api/v2/tickets/{id}/tags", json={"tags": ["B c"]}).json()["tags"][-2:] == ["b", "c"]
    zendesk.call("PUT", f"/api/v2/tickets/{id}", json={"ticket": {"tags": ["Only this"]}})
    assert zendesk.fake.ticket(id).tags == ["only", "this"]


# Zendesk: the requester


def make_user(zendesk: Desk, **changes: Any) -> requests.Response:
    user = {"name": "Mara Lind", "external_id": "twitter:Mara", "skip_verify_email": True, **changes}
    wanted = {name: value for name, value in user.items() if value is not ...}
    return zendesk.call("POST", "/api/v2/users/create_or_update", json={"user": wanted})


@pytest.fixture
def author(zendesk: Desk, clock: Clock) -> dict[str, Any]:
    """A user that was made for an author, a second ago."""
    zendesk.log_in(scope="tickets:read tickets:write users:read users:write")
    photo = "https://img.example/mara.png"
    user: dict[str, Any] = make_user(zendesk, remote_photo_url=photo, details="https://x.com/mara").json()["user"]
    clock.now += 1
    return user


def test_a_user_is_found_by_the_external_id_in_any_letters(zendesk: Desk, author: dict[str, Any], clock: Clock) -> None:
    assert (author["role"], author["email"], author["external_id"]) == ("end-user", None, "twitter:Mara")
    again = make_user(zendesk, external_id="TWITTER:mara", name="Mara L.")
    assert (again.status_code, again.json()["user"]["id"]) == (200, author["id"])
    clock.now += 1
    other = make_user(zendesk, external_id="twitter:2")
    assert (other.status_code, other.json()["user"]["id"] == author["id"]) == (201, False)
    for _ in range(2):  # without an external id each call makes another user
        clock.now += 1
        assert make_user(zendesk, external_id=...).status_code == 201
    names = [(user.name, user.external_id, user.details) for user in zendesk.fake.users]
    assert names[0] == ("Mara L.", "TWITTER:mara", "https://x.com/mara") and len(names) == 4


def test_users_are_made_one_a_second_and_the_same_one_five_times_a_minute(
    zendesk: Desk, author: dict[str, Any], clock: Clock
) -> None:
    assert make_user(zendesk).status_code == 200
    refused = make_user(zendesk, external_id="twitter:2")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    for _ in range(3):
        clock.now += 1
        assert make_user(zendesk).status_code == 200
    clock.now += 1
    refused = make_user(zendesk, external_id="twitter:mara")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "55")
    assert make_user(zendesk, external_id="twitter:2").status_code == 201
    clock.now += 55
    assert make_user(zendesk).status_code == 200


def test_without_the_right_or_the_scope_no_user_is_made(zendesk: Desk) -> None:
    assert make_user(zendesk).status_code == 403  # the token has no users:write
    zendesk.log_in(scope="tickets:write users:write")
    zendesk.fake.may_manage_users = False
    refused = make_user(zendesk)
    assert (refused.status_code, refused.json()["error"]["title"]) == (403, "Forbidden")
    zendesk.fake.client_scopes = {"tickets:read", "tickets:write"}
    refused = zendesk.token(scope="tickets:read tickets:write users:write")
    assert (refused.status_code, refused.json()["error"], zendesk.fake.users) == (400, "invalid_scope", [])


@pytest.mark.parametrize(
    ("changes", "field_name"),
    [
        ({"name": ...}, "name"),
        ({"name": " "}, "name"),
        ({"external_id": 7}, "external_id"),
        ({"remote_photo_url": "mara.png"}, "remote_photo_url"),
        ({"identities": [{"type": "twitter", "value": "mara"}]}, "identities"),
        ({"tags": "vip"}, "tags"),
    ],
)
def test_a_user_that_the_contract_does_not_allow_is_refused(
    zendesk: Desk, changes: dict[str, Any], field_name: str
) -> None:
    zendesk.log_in(scope="users:write")
    answer = make_user(zendesk, **changes)
    assert (answer.status_code, list(answer.json()["details"]), zendesk.fake.users) == (422, [field_name], [])


def test_a_ticket_has_its_author_as_requester_unless_that_one_is_suspended_or_gone(
    zendesk: Desk, author: dict[str, Any]
) -> None:
    assert zendesk.create(requester_id=author["id"]).json()["ticket"]["requester_id"] == author["id"]
    assert zendesk.create().json()["ticket"]["requester_id"] == 900_100  # the agent whose credentials are used
    zendesk.fake.suspend_user(author["id"])
    answer = zendesk.create(requester_id=author["id"])
    [fault] = answer.json()["details"]["requester"]
    assert (answer.status_code, fault["error"]) == (422, "UserSuspended")
    zendesk.fake.delete_user(author["id"])
    [fault] = zendesk.create(requester_id=author["id"]).json()["details"]["requester"]
    assert (fault["error"], len(zendesk.fake.tickets)) == ("InvalidValue", 2)


def test_the_page_shows_what_an_agent_sees(zendesk: Desk, author: dict[str, Any]) -> None:
    id = zendesk.create(requester_id=author["id"], priority="high").json()["ticket"]["id"]
    page = zendesk.call("GET", f"/agent/tickets/{id}").text
    for part in (
        "Mara Lind",
        "https://x.com/mara",
        "twitter:Mara",
        "Internal note",
        "High",
        "khoros",
        'class="avatar"',
    ):
        assert part in page, part
    zendesk.fake.delete_user(author["id"])
    assert "The requester was deleted" in zendesk.call("GET", f"/agent/tickets/{id}").text


def test_an_agent_changes_the_state_on_the_page_until_the_ticket_is_closed(zendesk: Desk) -> None:
    id = zendesk.create().json()["ticket"]["id"]
    path = f"/agent/tickets/{id}/status"
    answer = zendesk.call("POST", path, data={"status": "solved"})
    assert answer.url.endswith(f"/agent/tickets/{id}") and 'value="solved" selected' in answer.text
    assert zendesk.fake.ticket(id).status == "solved"
    assert zendesk.call("POST", path, data={"status": "done"}).status_code == 422
    assert zendesk.call("POST", "/agent/tickets/9/status", data={"status": "open"}).status_code == 404
    assert (
        zendesk.call("POST", path, data={"status": "open"}, headers={"Origin": "https://evil.example"}).status_code
        == 403
    )
    answer = zendesk.call("POST", path, data={"status": "closed"})
    assert "<select" not in answer.text
    assert zendesk.call("POST", path, data={"status": "open"}).status_code == 422
    assert zendesk.fake.ticket(id).status == "closed"


def test_a_required_field_is_refused_by_its_id_in_the_accounts_language(zendesk: Desk) -> None:
    zendesk.fake.required_fields = {360001: "FieldTagger"}
    answer = zendesk.create()
    [fault] = answer.json()["details"]["base"]
    assert (answer.status_code, fault["ticket_field_id"], fault["error"]) == (422, 360001, "BlankValue")
    assert "darf nicht leer sein" in fault["description"]
    assert zendesk.create(custom_fields=[{"id": 360001, "value": "x"}]).status_code == 201


def test_a_path_that_is_none_of_the_api_is_an_invalid_endpoint(zendesk: Desk) -> None:
    answer = zendesk.call("GET", "/api/v2/nothing")
    assert (answer.status_code, answer.json()["error"]) == (404, "InvalidEndpoint")


def test_an_unknown_ticket_is_not_found(zendesk: Desk) -> None:
    missing = {"error": "RecordNotFound", "description": "Not found"}
    for method, path in (("GET", ""), ("PUT", ""), ("GET", "/comments")):
        answer = zendesk.call(method, f"/api/v2/tickets/5{path}", json={"ticket": {}})
        assert (answer.status_code, answer.json()) == (404, missing)
    assert zendesk.call("GET", "/api/v2/nothing").json()["error"] == "InvalidEndpoint"


# Zendesk: idempotency keys


def test_the_same_key_and_body_make_one_ticket(zendesk: Desk) -> None:
    first, second = zendesk.create("key"), zendesk.create("key")
    assert [a.headers["x-idempotency-lookup"] for a in (first, second)] == ["miss", "hit"]
    assert (second.status_code, second.json()) == (201, first.json())
    assert len(zendesk.fake.tickets) == 1


def test_the_same_key_with_another_body_is_an_error(zendesk: Desk) -> None:
    zendesk.create("key")
    answer = zendesk.create("key", subject="other")
    assert (answer.status_code, answer.json()["error"]) == (400, "IdempotentRequestError")
    assert len(zendesk.fake.tickets) == 1


def test_a_key_lives_two_hours(zendesk: Desk, clock: Clock) -> None:
    zendesk.create("key")
    clock.now += 2 * 3600 - 1
    zendesk.log_in()
    assert zendesk.create("key").headers["x-idempotency-lookup"] == "hit"
    clock.now += 1
    assert zendesk.create("key").headers["x-idempotency-lookup"] == "miss"
    assert len(zendesk.fake.tickets) == 2


def test_a_refused_request_leaves_its_key_unused(zendesk: Desk) -> None:
    assert zendesk.create("key", priority="odd").status_code == 422
    assert zendesk.create("key").headers["x-idempotency-lookup"] == "miss"


def test_requests_with_one_key_at_the_same_time_make_one_ticket(zendesk: Desk) -> None:
    zendesk.fake.latency_s = 0.02
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(zendesk.create("key").headers["x-idempotency-lookup"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(answers) == ["hit"] * 7 + ["miss"]
    assert len(zendesk.fake.tickets) == 1


def test_a_call_without_a_key_is_taken_and_remembered_as_such(zendesk: Desk) -> None:
    assert "x-idempotency-lookup" not in zendesk.create().headers
    zendesk.create("key")
    made = [call for call in zendesk.fake.calls if call.path == "/api/v2/tickets"]
    assert [(c.idempotency_key, c.idempotency_lookup, c.status, c.at) for c in made] == [
        (None, None, 201, NOON),
        ("key", "miss", 201, NOON),
    ]
    assert json.loads(made[1].body) == {"ticket": ticket()}


# Zendesk: the limit


def test_every_answer_says_what_is_left_of_the_minute(zendesk: Desk, clock: Clock) -> None:
    zendesk.fake.set_rate(10)
    seen = []
    for _ in range(3):
        answer = zendesk.call("GET", "/api/v2/tickets")
        seen.append([answer.headers[n] for n in ("X-Rate-Limit", "X-Rate-Limit-Remaining", "ratelimit-reset")])
        assert answer.headers["x-zendesk-request-id"]
        clock.now += 20.5
    assert seen == [["10", "9", "60"], ["10", "8", "40"], ["10", "7", "19"]]
    assert zendesk.call("GET", "/api/v2/tickets").headers["X-Rate-Limit-Remaining"] == "9"
    assert zendesk.call("GET", "/api/v2/nothing").headers["X-Rate-Limit-Remaining"] == "9"


def test_a_call_over_the_limit_does_nothing(zendesk: Desk, clock: Clock) -> None:
    zendesk.fake.set_rate(2)
    assert [zendesk.create(f"key-{n}").status_code for n in range(3)] == [201, 201, 429]
    clock.now += 18
    refused = zendesk.create("key-2")
    assert (refused.headers["Retry-After"], refused.json()["error"]) == ("42", "APIRateLimitExceeded")
    assert len(zendesk.fake.tickets) == 2
    assert zendesk.token().status_code == 201  # not counted
    clock.now += 42
    assert zendesk.create("key-2").headers["x-idempotency-lookup"] == "miss"


def test_a_late_call_does_not_shift_the_windows(zendesk: Desk, clock: Clock) -> None:
    zendesk.fake.set_rate(5)
    zendesk.call("GET", "/api/v2/tickets")
    clock.now += 130
    assert zendesk.call("GET", "/api/v2/tickets").headers["ratelimit-reset"] == "50"


def test_one_ticket_takes_30_updates_in_ten_minutes_and_the_account_goes_on(zendesk: Desk, clock: Clock) -> None:
    zendesk.fake.set_rate(700)
    first, second = (zendesk.create().json()["ticket"]["id"] for _ in range(2))

    def update(ticket_id: int) -> requests.Response:
        return zendesk.call("PUT", f"/api/v2/tickets/{ticket_id}", json={"ticket": {"comment": {"html_body": "hi"}}})

    assert {update(first).status_code for _ in range(30)} == {200}
    clock.now += 30
    refused = update(first)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "570")
    assert int(refused.headers["X-Rate-Limit-Remaining"]) > 600
    assert update(second).status_code == 200
    clock.now += 570
    assert update(first).status_code == 200


# Faults


def test_the_next_answers_fail_and_then_it_works_again(zendesk: Desk) -> None:
    zendesk.fake.faults.fail(2, 503, retry_after=7)
    answers = [zendesk.create() for _ in range(3)]
    assert [a.status_code for a in answers] == [503, 503, 201]
    assert (answers[0].headers["Retry-After"], answers[0].json()["error"]) == ("7", "DatabaseDeadlock")
    assert len(zendesk.fake.tickets) == 1
    assert [c.status for c in zendesk.fake.calls if c.method == "POST"][1:] == [503, 503, 201]


def test_a_failure_can_come_after_the_work(zendesk: Desk) -> None:
    zendesk.fake.faults.fail(1, 502, body="<h1>Bad gateway</h1>", content_type="text/html", effect=True)
    answer = zendesk.create("key")
    assert (answer.status_code, answer.text, answer.headers["Content-Type"]) == (
        502,
        "<h1>Bad gateway</h1>",
        "text/html",
    )
    assert zendesk.create("key").headers["x-idempotency-lookup"] == "hit"
    assert len(zendesk.fake.tickets) == 1


def test_a_fault_can_be_kept_to_a_path_and_a_method(zendesk: Desk) -> None:
    zendesk.fake.faults.fail(1, 500, path="/api/v2/tickets", method="POST")
    assert zendesk.token().status_code == 201
    assert zendesk.call("GET", "/api/v2/tickets").status_code == 200
    assert zendesk.create().status_code == 500


@pytest.mark.parametrize(("effect", "tickets"), [(False, 0), (True, 1)])
def test_a_connection_is_reset_before_or_after_the_work(zendesk: Desk, effect: bool, tickets: int) -> None:
    zendesk.fake.faults.reset(1, effect=effect)
    with pytest.raises(requests.ConnectionError) as caught:
        zendesk.create("key")
    assert "Connection reset by peer" in str(caught.value)
    assert len(zendesk.fake.tickets) == tickets
    assert zendesk.fake.calls[-1].status is None
    assert zendesk.create("key").status_code == 201
    assert len(zendesk.fake.tickets) == 1


@pytest.mark.parametrize(("effect", "tickets"), [(False, 0), (True, 1)])
def test_a_request_hangs_until_the_faults_are_cleared(zendesk: Desk, effect: bool, tickets: int) -> None:
    zendesk.fake.faults.hang(1, 30, effect=effect)
    outcomes: list[int | str] = []

    def send() -> None:
        try:
            outcomes.append(zendesk.create().status_code)
        except requests.ConnectionError:
            outcomes.append("dropped")

    thread = threading.Thread(target=send)
    thread.start()
    assert zendesk.fake.faults.wait_until_hanging()
    assert (outcomes, len(zendesk.fake.tickets)) == ([], tickets)
    zendesk.fake.faults.clear()
    thread.join(timeout=30)
    assert outcomes == ([201] if effect else ["dropped"])
    assert len(zendesk.fake.tickets) == tickets


def test_an_outage_lasts_until_it_is_cleared_and_spares_the_pages(zendesk: Desk) -> None:
    zendesk.fake.faults.outage(503)
    assert {zendesk.create().status_code for _ in range(5)} == {503}
    assert zendesk.token().status_code == 503
    assert zendesk.call("GET", "/").status_code == 200
    zendesk.fake.faults.clear()
    assert zendesk.create().status_code == 201


def test_faults_are_asked_for_over_http(zendesk: Desk) -> None:
    def ask(**wish: Any) -> int:
        return zendesk.call("POST", "/_sandbox/faults", json=wish).status_code

    assert ask(mode="fail", next=1, status=503, retry_after=2) == 200
    assert zendesk.create().headers["Retry-After"] == "2"
    assert ask(mode="reset", next=1, effect=True) == 200
    with pytest.raises(requests.ConnectionError):
        zendesk.create()
    assert ask(mode="outage", status=500) == 200
    state = zendesk.call("GET", "/_sandbox/state").json()
    assert state["faults"] == [{"mode": "outage", "left": None, "status": 500, "path": None}]
    assert (state["tickets"], zendesk.create().status_code) == (1, 500)
    assert ask(mode="clear") == 200
    assert zendesk.create().status_code == 201
    assert [ask(mode="explode"), ask(mode="fail", next="many"), ask(mode="fail", next=1, status=None)] == [
        400,
        400,
        400,
    ]
    assert zendesk.call("POST", "/_sandbox/faults", data={"mode": "outage"}).status_code == 400


def test_limit_and_latency_are_set_over_http(zendesk: Desk) -> None:
    assert zendesk.call("POST", "/_sandbox/rate", json={"per_minute": 1}).json()["rate"]["per_minute"] == 1
    assert [zendesk.create().status_code for _ in range(2)] == [201, 429]
    assert zendesk.call("POST", "/_sandbox/rate", json={"per_minute": None}).status_code == 200
    assert zendesk.create().status_code == 201
    assert zendesk.call("POST", "/_sandbox/latency", json={"seconds": 0.25}).status_code == 200
    assert zendesk.fake.latency_s == 0.25
    for path, wish in (("rate", {"per_minute": "all"}), ("rate", []), ("latency", {"seconds": -1}), ("latency", None)):
        assert zendesk.call("POST", f"/_sandbox/{path}", json=wish).status_code == 400


# Zendesk: the page


def test_the_page_shows_tickets_and_runs_nothing_of_theirs(zendesk: Desk) -> None:
    evil = (
        '<script>alert(1)</script><img src=x onerror=alert(2)><a href="javascript:alert(3)">x</a><p>fine & <b>bold</b>'
    )
    first = zendesk.create(subject="<script>subject</script>", comment={"html_body": evil}).json()["ticket"]["id"]
    second = zendesk.create(subject="Newer one").json()["ticket"]["id"]
    page = zendesk.call("GET", f"/agent/tickets/{first}")
    assert page.text.index(f"/agent/tickets/{second}") < page.text.index(f"/agent/tickets/{first}")
    assert "&lt;script&gt;subject" in page.text
    assert "<p>fine &amp; <b>bold</b></p>" in page.text
    assert not re.search(r"<script>|onerror|javascript:|<img", page.text)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert zendesk.call("GET", "/agent/tickets/1").status_code == 404


def test_rich_text_keeps_what_is_harmless() -> None:
    assert safe_html('<p>a<br>b <a href="https://x.example/?a=1&amp;b=2" onclick="x">l</a>') == (
        '<p>a<br>b <a href="https://x.example/?a=1&amp;b=2" rel="noopener noreferrer" target="_blank">l</a></p>'
    )
    assert safe_html("<b>x</i></b></p><svg/onload=y>&lt;i&gt;<a href='http://['>z</a>") == "<b>x</b>&lt;i&gt;z"
    assert safe_html('<p dir="auto" class="x"><small>a</small>') == '<p dir="auto"><small>a</small></p>'
    assert plain_text("<p>a<br>b</p><p>&lt;c&gt;</p><style>d</style>") == "a\nb\n<c>"


# Khoros


@dataclass
class Hook:
    """Where the fake Khoros pushes to."""

    url: str = ""
    status: int = 202
    seen: list[tuple[dict[str, str], Any]] = field(default_factory=list)
    app: Flask = field(default_factory=lambda: Flask("hook"))

    def __post_init__(self) -> None:
        self.app.add_url_rule("/notifications", "take", self._take, methods=["POST"])

    def _take(self) -> Response:
        self.seen.append((dict(request.headers), request.get_json()))
        return Response(status=self.status)


@dataclass
class Inbox:
    """A fake Khoros behind real HTTP, and a client of it."""

    fake: FakeKhoros
    url: str
    hook: Hook

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.fake.token}", **options.pop("headers", {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=30, **options)

    def subscribe(self, **changes: Any) -> requests.Response:
        whole = {
            "companyId": 123,
            "externalId": "send-to-zendesk",
            "eventName": "stream-item-label-applied",
            "notificationUri": f"{self.hook.url}/notifications",
            "query": "CreateCase",
            "bearerToken": "a-shared-secret-of-ours",
            **changes,
        }
        body = {name: value for name, value in whole.items() if value is not ...}
        return self.call("POST", "/v2/events/subscription", json=body)

    def events(self, **params: Any) -> Any:
        uuid = self.fake.subscriptions[0].uuid
        return self.call("GET", f"/v2/events/data/{uuid}", params=params).json()


@pytest.fixture
def khoros(clock: Clock) -> Iterator[Inbox]:
    fake, hook = FakeKhoros(clock=clock), Hook()
    with Server(fake.app) as server, Server(hook.app) as receiver:
        hook.url = receiver.url
        yield Inbox(fake, server.url, hook)
        fake.drain()
        fake.close()


@pytest.fixture
def post_id(khoros: Inbox) -> str:
    return next(iter(khoros.fake.posts))


def test_the_token_and_the_company_are_checked(khoros: Inbox) -> None:
    answer = khoros.call("GET", "/v2/whoami/", headers={"Authorization": "Bearer old"})
    assert (answer.status_code, answer.json()["status"]["succeeded"]) == (401, False)
    answer = khoros.call("GET", "/v2/whoami/", headers={"x-sf-company-id": "9"})
    said = "Company 9 does not allow the application sandbox-client"
    assert answer.json() == {"status": {"error": {"code": "403", "message": said}, "succeeded": False}}
    answer = khoros.call("GET", "/v2/whoami/", headers={"x-sf-company-id": "123"})
    assert answer.json()["data"]["companies"][0]["id"] == 123


def test_an_unknown_path_is_status_586(khoros: Inbox) -> None:
    answer = khoros.call("GET", "/v2/nothing")
    assert (answer.status_code, answer.headers["Content-Type"]) == (586, "text/html; charset=utf-8")
    assert khoros.call("POST", "/v1/events/company/123/subscription", json={}).status_code == 586


def test_an_expired_token_is_a_web_page_with_status_200(khoros: Inbox) -> None:
    khoros.fake.faults.html(1)
    answer = khoros.call("GET", "/v2/whoami/")
    assert (answer.status_code, "Developer Inactive" in answer.text) == (200, True)
    assert khoros.call("GET", "/v2/whoami/").json()["status"] == {"succeeded": True}


def test_a_failure_comes_in_khoros_envelope(khoros: Inbox) -> None:
    khoros.fake.faults.fail(1, 500)
    assert khoros.call("GET", "/v2/whoami/").json()["status"]["succeeded"] is False


def test_the_same_external_id_updates_the_subscription(khoros: Inbox) -> None:
    first = khoros.subscribe().json()["data"]
    second = khoros.subscribe(query="Other").json()["data"]
    assert (second["uuid"], second["query"], second["status"]) == (first["uuid"], "Other", "ACTIVE")
    third = khoros.subscribe(externalId="another").json()["data"]
    assert third["uuid"] != first["uuid"]
    assert [s.external_id for s in khoros.fake.subscriptions] == ["send-to-zendesk", "another"]


@pytest.mark.parametrize(
    "changes",
    [
        {"companyId": 9},
        {"companyId": "123"},
        {"companyId": ...},
        {"eventName": "label-applied"},
        {"eventName": ...},
        {"notificationUri": "/notifications"},
        {"notificationUri": "ftp://x.example"},
        {"notificationUri": "http://["},
        {"query": "("},
        {"query": 5},
        {"webhook": "x"},
    ],
)
def test_a_bad_subscription_is_refused(khoros: Inbox, changes: dict[str, Any]) -> None:
    answer = khoros.subscribe(**changes)
    assert (answer.status_code, answer.json()["status"]["succeeded"]) == (400, False)
    assert khoros.fake.subscriptions == []


def test_answers_can_come_bare(khoros: Inbox) -> None:
    khoros.fake.bare = True
    assert khoros.subscribe().json()["externalId"] == "send-to-zendesk"


def test_paging_defaults_give_nothing(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    khoros.fake.label(post_id, "CreateCase")
    assert khoros.call("GET", "/v2/events/subscription").json()["data"] == []
    params = {"pageNumber": 0, "pageSize": 10}
    assert len(khoros.call("GET", "/v2/events/subscription", params=params).json()["data"]) == 1
    assert khoros.events()["data"] == []
    assert len(khoros.events(limit=10)["data"]) == 1
    assert khoros.call("GET", "/v2/events/subscription", params={"pageSize": "-1"}).status_code == 400


def test_a_subscription_is_shown_paused_and_deleted(khoros: Inbox) -> None:
    path = f"/v2/events/subscription/{khoros.subscribe().json()['data']['uuid']}"
    assert khoros.call("PUT", f"{path}/PAUSED").json()["data"]["status"] == "PAUSED"
    assert khoros.subscribe().json()["data"]["status"] == "PAUSED"
    assert khoros.call("PUT", f"{path}/ASLEEP").status_code == 422
    assert khoros.call("GET", path).json()["data"]["status"] == "PAUSED"
    assert khoros.call("DELETE", path).json()["status"] == {"succeeded": True}
    gone = [("GET", path), ("DELETE", path), ("PUT", f"{path}/ACTIVE"), ("GET", path.replace("subscription", "data"))]
    assert [khoros.call(method, where).status_code for method, where in gone] == [404] * 4


def test_a_label_is_pushed_once_with_the_bearer_token(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    khoros.hook.status = 503
    [event_uuid] = khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.drain()
    [(headers, notification)] = khoros.hook.seen
    assert (headers["Authorization"], bool(headers["X-Request-Id"])) == ("Bearer a-shared-secret-of-ours", True)
    assert (notification["eventUuid"], notification["createdDate"]) == (event_uuid, "Mon Nov 23 06:00:00 CST 2026")
    assert notification["data"]["labels"] == ["CreateCase"]
    assert notification["data"]["items"] == [khoros.fake.posts[post_id]]
    [push] = khoros.fake.pushes
    assert (push.event_uuid, push.outcome) == (event_uuid, 503)


def test_a_push_that_is_refused_differs_from_one_that_is_cut(khoros: Inbox, post_id: str) -> None:
    cutting = Faults(lambda status: {})
    cutting.reset(1)
    with Server(cutting.wrap(khoros.hook.app)) as cut:
        khoros.subscribe(notificationUri=f"{cut.url}/notifications")
        khoros.fake.label(post_id, "CreateCase")
        assert khoros.fake.drain()
    khoros.subscribe(notificationUri=f"http://127.0.0.1:{free_port()}/notifications")
    khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.drain()
    assert [push.outcome for push in khoros.fake.pushes] == ["ConnectionError", REFUSED]


@pytest.mark.parametrize(
    ("query", "label", "events"),
    [
        ("CreateCase", "CreateCase", 1),
        ("^Create", "CreateCase", 1),
        ("CreateCase", "Praise", 0),
        ("case$", "CreateCase", 0),
    ],
)
def test_the_query_is_a_regular_expression_on_the_label(
    khoros: Inbox, post_id: str, query: str, label: str, events: int
) -> None:
    khoros.subscribe(query=query)
    assert len(khoros.fake.label(post_id, label)) == events


def test_only_an_active_subscription_gets_events(khoros: Inbox, post_id: str) -> None:
    assert khoros.fake.label(post_id, "CreateCase") == []
    khoros.subscribe()
    khoros.fake.set_status("PAUSED")
    assert khoros.fake.label(post_id, "CreateCase") == []
    khoros.fake.set_status("ACTIVE")
    assert len(khoros.fake.label(post_id, "CreateCase", times=2)) == 2
    khoros.fake.forget_subscriptions()
    assert khoros.fake.label(post_id, "CreateCase") == []


def test_without_an_address_events_are_only_kept(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe(notificationUri=...)
    khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.drain()
    assert (khoros.fake.pushes, len(khoros.events(limit=5)["data"])) == ([], 1)


def test_events_are_listed_in_either_order_and_every_shape(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe(notificationUri=...)
    made = khoros.fake.label(post_id, "CreateCase", times=3)
    assert [e["eventUuid"] for e in khoros.events(limit=2)["data"]] == [made[2], made[1]]
    khoros.fake.event_order = "oldest"
    assert [e["eventUuid"] for e in khoros.events(offset=1, limit=5)["data"]] == made[1:]
    khoros.fake.events_shape = "bare"
    assert len(khoros.events(limit=5)) == 3
    khoros.fake.events_shape = "data.items"
    assert len(khoros.events(limit=5)["data"]["items"]) == 3


def test_the_same_event_can_be_pushed_again(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    [event_uuid] = khoros.fake.label(post_id, "CreateCase")
    khoros.fake.repeat(event_uuid)
    assert khoros.fake.drain()
    assert [notification["eventUuid"] for _, notification in khoros.hook.seen] == [event_uuid] * 2
    assert len(khoros.events(limit=9)["data"]) == 1
    with pytest.raises(KeyError):
        khoros.fake.repeat("unknown")


def test_label_many_makes_as_many_posts(khoros: Inbox) -> None:
    khoros.subscribe()
    made = khoros.fake.label_many(50)
    assert khoros.fake.drain()
    assert len(set(made)) == 50
    assert sorted(n["data"]["items"][0]["entityId"] for _, n in khoros.hook.seen) == sorted(made)


def test_labels_can_be_left_out_of_events_as_in_the_published_example(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    khoros.fake.labels_in_events = False
    [event_uuid] = khoros.fake.label(post_id, "CreateCase")
    data = khoros.fake.event(event_uuid)["data"]
    assert (data["labels"], data["items"][0]["labels"]) == ([], [])
    assert khoros.fake.posts[post_id]["labels"] == ["CreateCase"]


def test_times_are_written_in_chicago() -> None:
    assert chicago(datetime(2017, 4, 12, 14, 1, 11, tzinfo=UTC).timestamp()) == "Wed Apr 12 09:01:11 CDT 2017"


def test_the_posts_are_of_every_kind(khoros: Inbox) -> None:
    posts = list(khoros.fake.posts.values())
    assert {post_id.partition(":")[0] for post_id in khoros.fake.posts} >= {
        "twitter",
        "facebook",
        "instagram",
        "youtube",
    }
    assert [any(post[name] for post in posts) for name in ("inReplyTo", "repostedFrom", "notes")] == [True] * 3
    assert any(post["text"] is None for post in posts)
    assert all(isinstance(post["followerCount"], str) for post in posts)


def test_the_inbox_page_labels_a_post_without_any_script(khoros: Inbox, post_id: str) -> None:
    assert "none yet" in khoros.call("GET", "/").text
    khoros.subscribe()
    page = khoros.call("POST", "/inbox/label", data={"post": post_id})
    assert (page.status_code, page.history[0].status_code) == (200, 303)
    assert "relay answered 202" in page.text
    [(_, notification)] = khoros.hook.seen
    assert khoros.call("POST", "/inbox/repeat", data={"event": notification["eventUuid"]}).status_code == 200
    assert khoros.fake.drain()
    assert len(khoros.hook.seen) == 2
    assert [khoros.call("POST", f"/inbox/{form}", data={}).status_code for form in ("label", "repeat")] == [404, 404]


def test_the_inbox_page_escapes_what_strangers_write(khoros: Inbox) -> None:
    page = khoros.call("GET", "/").text
    assert "or &lt;18 &amp; &gt;36?" in page
    assert khoros.fake.token not in page


def test_the_state_over_http_keeps_the_secret(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.drain()
    state = requests.get(f"{khoros.url}/_sandbox/state", timeout=30)
    assert (state.json()["events"], state.json()["pushes"]) == (1, {"done": {"202": 1}, "under_way": 0})
    assert "a-shared-secret-of-ours" not in state.text


# The server


def test_a_connection_is_kept_for_the_next_request(zendesk: Desk) -> None:
    ports = set()

    def remember(response: requests.Response, **_: Any) -> None:
        ports.add(response.raw.connection.sock.getsockname()[1] if response.raw.connection else None)

    for _ in range(3):
        zendesk.call("GET", "/api/v2/tickets", stream=True, hooks={"response": remember}).json()
    assert len(ports) == 1


def test_a_chunked_body_is_read_whole(zendesk: Desk) -> None:
    body = json.dumps({"ticket": ticket()}).encode()
    answer = zendesk.call(
        "POST", "/api/v2/tickets", data=iter([body[:9], body[9:]]), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 201


def test_a_closed_server_answers_nobody(clock: Clock) -> None:
    fake = FakeZendesk(clock=clock)
    server = Server(fake.app)
    with requests.Session() as session:
        assert session.get(server.url, timeout=30).status_code == 200
        server.close()
        with pytest.raises(requests.ConnectionError):
            session.get(server.url, timeout=30)


def test_a_taken_port_is_an_error(zendesk: Desk) -> None:
    taken = int(zendesk.url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        Server(zendesk.fake.app, taken)
    assert free_port(taken) != taken


# The relay's process

STAND_IN = """
import os
def create_app():
    print("hello from", os.environ["NAME"], sorted(set(os.environ) & {"SECRET_OF_THE_TESTER", "NAME"}), flush=True)
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    return app
"""


def test_a_process_is_started_killed_and_restarted_on_its_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TESTER", "x")
    (tmp_path / "app.py").write_text(STAND_IN)
    echoed: list[str] = []
    with Relay(env={"NAME": "relay"}, cwd=tmp_path, echo=echoed.append) as relay:
        relay.wait_ready()
        assert len(relay.pids) == 2
        assert relay.rss_bytes() > 5_000_000
        assert relay.wait_for_line("hello").startswith("hello from relay ['NAME']")
        relay.kill()
        assert (relay.running, relay.pids) == (False, [])
        seen = len(relay.output)
        assert relay.start().wait_ready().wait_for_line("hello", after=seen)
        assert requests.get(f"{relay.url}/health", timeout=30).text == "ok"
        assert relay.stop() == 0
        assert echoed == relay.output


def test_a_process_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('no settings')")
    with Relay(env={}, cwd=tmp_path) as relay, pytest.raises(RelayFailed, match="no settings"):
        relay.wait_ready()


# Against the contracts


def test_answers_keep_to_the_contract(zendesk: Desk) -> None:
    validate({"ticket": ticket()}, "zendesk", "create_ticket")
    made = zendesk.create("key")
    path = f"/api/v2/tickets/{made.json()['ticket']['id']}"
    changed = zendesk.call("PUT", path, json={"ticket": {"comment": {"body": "x"}}})
    validate(made.json(), "zendesk", "changed_ticket")
    validate(changed.json(), "zendesk", "changed_ticket")
    validate(zendesk.call("GET", path).json(), "zendesk", "one_ticket")
    validate(zendesk.call("GET", "/api/v2/tickets?external_id=twitter:1").json(), "zendesk", "tickets")
    validate(zendesk.call("GET", f"{path}/comments").json(), "zendesk", "comments")
    validate(zendesk.token().json(), "zendesk", "token")
    del zendesk.session.headers["Authorization"]
    validate(zendesk.call("GET", "/api/v2/users/me").json(), "zendesk", "current_user")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
def test_refusals_keep_to_the_contracts(zendesk: Desk, khoros: Inbox, status: int) -> None:
    zendesk.fake.faults.fail(1, status)
    khoros.fake.faults.fail(1, status)
    validate(zendesk.create().json(), "zendesk", "error")
    validate(khoros.subscribe().json(), "khoros", "failure")


@pytest.mark.parametrize(
    "changes", [{"comment": ...}, {"external_id": ...}, {"external_id": ""}, {"priority": "odd"}, {"Subject": "x"}]
)
def test_a_ticket_that_breaks_the_contract_is_refused(zendesk: Desk, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate({"ticket": ticket(**changes)}, "zendesk", "create_ticket")
    assert zendesk.create(**changes).status_code == 422


def test_subscriptions_and_events_keep_to_the_contract(khoros: Inbox, post_id: str) -> None:
    validate(khoros.subscribe().json(), "khoros", "one_subscription")
    validate(khoros.subscribe(externalId="other", notificationUri=...).json(), "khoros", "one_subscription")
    listed = khoros.call("GET", "/v2/events/subscription", params={"pageSize": 10})
    validate(listed.json(), "khoros", "subscriptions")
    for post in (post_id, *khoros.fake.add_posts(6)):
        khoros.fake.label(post, "CreateCase")
    assert khoros.fake.drain()
    validate(khoros.events(limit=10), "khoros", "events")
    for _, notification in khoros.hook.seen:
        validate(notification, "khoros", "notification")
    validate(khoros.call("GET", "/v2/whoami/").json(), "khoros", "whoami")


def test_x_writes_three_signs_as_entities_and_no_other_network_does() -> None:
    posts = ({"entityId": f"{network}:7", "text": '<Q & "A">'} for network in ("twitter", "youtube"))
    assert [as_delivered(post)["text"] for post in posts] == ['&lt;Q &amp; "A"&gt;', '<Q & "A">']
    assert as_delivered({"entityId": "twitter:7", "text": None})["text"] is None


def test_every_post_of_the_inbox_keeps_to_the_contract(khoros: Inbox) -> None:
    for post in khoros.fake.posts.values():
        validate(post, "khoros", "stream_item")


# Khoros: events beside labels


def subscribe_to(khoros: Inbox, *names: str, **changes: Any) -> None:
    for name in names:
        assert khoros.subscribe(eventName=name, externalId=name, **{"query": None, **changes}).status_code == 200


def test_each_subscription_gets_the_events_of_its_name_and_no_others(khoros: Inbox, post_id: str) -> None:
    subscribe_to(khoros, RULE_APPLIED, PUBLISHED, SENT, NEEDS_APPROVAL, DEAUTHORISED, CREDENTIAL_DELETED)
    fake = khoros.fake
    assert fake.label(post_id, "CreateCase") == []
    made = [fake.fire_rule(post_id, "Recall", times=2), fake.publish(), fake.send_to_network(), fake.needs_approval()]
    made += [fake.disconnect(), fake.disconnect(deleted=True)]
    assert [len(uuids) for uuids in made] == [2, 1, 1, 1, 1, 1]
    assert fake.drain()
    names = sorted(notification["eventName"] for _, notification in khoros.hook.seen)
    assert names == sorted(
        [RULE_APPLIED, RULE_APPLIED, PUBLISHED, SENT, NEEDS_APPROVAL, DEAUTHORISED, CREDENTIAL_DELETED]
    )


def test_a_rule_is_named_by_a_text_and_its_time_is_nought(khoros: Inbox, post_id: str) -> None:
    subscribe_to(khoros, RULE_APPLIED)
    [event_uuid] = khoros.fake.fire_rule(post_id, "Product recall", rule_id="77")
    data = khoros.fake.event(event_uuid)["data"]
    assert (data["ruleMatched"], data["timeStamp"]) == ({"ruleId": "77", "ruleName": "Product recall"}, 0)
    assert data["items"] == [khoros.fake.posts[post_id]]


def test_a_natively_scheduled_message_is_sent_and_then_published_under_one_id(khoros: Inbox) -> None:
    subscribe_to(khoros, SENT, PUBLISHED)
    [sent] = khoros.fake.send_to_network("FACEBOOK", "Good morning")
    [message_id] = khoros.fake.messages
    [published] = khoros.fake.publish(message_id=message_id)
    before, after = (khoros.fake.event(event_uuid)["data"] for event_uuid in (sent, published))
    assert before["id"] == after["id"] and before["content"] == after["content"]
    [pending], [live] = before["publicationResults"], after["publicationResults"]
    assert (pending["status"], pending["serviceLink"]) == ("PENDING", None)
    assert live["status"] == "PUBLISHED" and live["serviceLink"].startswith("https://facebook.example/")


@pytest.mark.parametrize("kind", ["Status", "ImageShare", "ImageShareList", "Video", "Poll"])
def test_a_message_has_its_words_where_its_kind_has_them(kind: str, khoros: Inbox) -> None:
    subscribe_to(khoros, PUBLISHED)
    labels: list[Any] = [{"id": 1, "name": "Campaign"}, "General Labels - Ideas"]
    [event_uuid] = khoros.fake.publish("TWITTER", "Hello", kind=kind, labels=labels, scheduledPublishDate="tomorrow")
    message = khoros.fake.event(event_uuid)["data"]
    assert message["content"]["sfEntityType"] == kind and "Hello" in message["content"].values()
    assert (message["labels"], message["scheduledPublishDate"]) == (labels, "tomorrow")


def test_a_message_that_failed_has_no_permalink(khoros: Inbox) -> None:
    subscribe_to(khoros, PUBLISHED)
    [event_uuid] = khoros.fake.publish(status="ERROR")
    [result] = khoros.fake.event(event_uuid)["data"]["publicationResults"]
    assert (result["status"], result["serviceLink"], result["datePublished"]) == ("ERROR", None, None)


def test_one_subscription_is_paused_or_deleted_alone(khoros: Inbox, post_id: str) -> None:
    subscribe_to(khoros, RULE_APPLIED, PUBLISHED)
    khoros.fake.set_status("PAUSED", RULE_APPLIED)
    assert (khoros.fake.fire_rule(post_id, "x"), len(khoros.fake.publish())) == ([], 1)
    khoros.fake.forget_subscriptions(PUBLISHED)
    assert [s.event_name for s in khoros.fake.subscriptions] == [RULE_APPLIED]
    assert khoros.fake.publish() == []


@pytest.mark.parametrize(("in_full", "got"), [(False, [1, 1, 1]), (True, [1, 1, 0])])
def test_a_query_matches_in_part_or_in_full(in_full: bool, got: list[int], khoros: Inbox, post_id: str) -> None:
    khoros.fake.query_in_full = in_full
    khoros.subscribe(query="(.* - )?(CreateCase|VIP)")
    labels = ("CreateCase", "VIP", "CreateCase2")
    assert [len(khoros.fake.label(post_id, label)) for label in labels] == got


def test_a_label_may_be_written_behind_its_set(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    khoros.fake.label_prefix = "General Labels - "
    [event_uuid] = khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.event(event_uuid)["data"]["labels"] == ["General Labels - CreateCase"]


def test_label_sets_are_listed_page_by_page_from_one(khoros: Inbox) -> None:
    path = "/v2/labelsets/"
    assert khoros.call("GET", path).status_code == 400
    assert khoros.call("GET", path, params={"pageNumber": 0, "pageSize": 100}).status_code == 400
    answer = khoros.call("GET", path, params={"pageNumber": 1, "pageSize": 100}).json()
    assert (answer["pageNumber"], answer["totalRecords"], answer["data"][0]["labels"][0]["name"]) == (
        1,
        1,
        "CreateCase",
    )
    assert khoros.call("GET", path, params={"pageNumber": 2, "pageSize": 100}).json()["data"] == []


def test_answers_have_one_date_by_the_services_own_clock(khoros: Inbox, clock: Clock) -> None:
    khoros.fake.clock_ahead_s = 90
    answer = khoros.call("GET", "/v2/whoami/")
    assert parsedate_to_datetime(answer.headers["Date"]).timestamp() == clock.now + 90
    assert len(answer.raw.headers.getlist("Date")) == 1


def test_an_event_can_be_listed_that_nobody_pushes_wherever_it_stands(khoros: Inbox, post_id: str) -> None:
    khoros.subscribe()
    for _ in range(2):
        khoros.fake.label(post_id, "CreateCase")
    assert khoros.fake.drain()
    khoros.fake.list_only({"eventUuid": "oldest"}, place=0)
    khoros.fake.list_only({"eventUuid": "newest"})
    listed = [event["eventUuid"] for event in khoros.events(limit=10)["data"]]
    assert (listed[0], listed[-1], len(listed), len(khoros.hook.seen)) == ("newest", "oldest", 4, 2)
    khoros.fake.forget_event("newest")
    assert len(khoros.events(limit=10)["data"]) == 3
