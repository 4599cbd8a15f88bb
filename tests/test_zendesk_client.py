"""Zendesk's side: what is asked, how we authenticate, and what each of its answers means."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import responses
from contracts import validate

from outbound import AuthFailed, Limited, Quota, Rejected, ServiceError, Unavailable
from zendesk_client import Reply, Ticket, ZendeskClient

BASE = "https://acme.zendesk.com"
TOKENS, TICKETS, ME = f"{BASE}/oauth/tokens", f"{BASE}/api/v2/tickets", f"{BASE}/api/v2/users/me"
USERS = f"{BASE}/api/v2/users/create_or_update"
SECRETS = ("zendesk-client-secret", "zendesk-api-token", "t0ken-1", "t0ken-2", "a customer's text")
AGENT = {"user": {"id": 35436, "role": "agent"}}
Raw = tuple[int, dict[str, str], str]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def zendesk() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as zendesk:
        yield zendesk


@pytest.fixture
def client(clock: Clock) -> ZendeskClient:
    """A client that authenticates with OAuth."""
    return ZendeskClient(BASE, client_id="relay", client_secret="zendesk-client-secret", clock=clock)


@pytest.fixture
def basic(clock: Clock) -> ZendeskClient:
    """A client that authenticates with an API token."""
    return ZendeskClient(BASE, user_email="agent@acme.example", api_token="zendesk-api-token", clock=clock)


def grant(zendesk: responses.RequestsMock, token: str = "t0ken-1", **changes: object) -> None:
    """Zendesk's next answer to a request for a token."""
    answer = {"access_token": token, "token_type": "bearer", "scope": "tickets:read tickets:write", "expires_in": 3600}
    zendesk.post(TOKENS, status=201, json=answer | changes)


def asked(zendesk: responses.RequestsMock, url: str) -> list[Any]:
    return [call.request for call in zendesk.calls if str(call.request.url).partition("?")[0] == url]


def tokens_used(zendesk: responses.RequestsMock, url: str = ME) -> list[str]:
    return [request.headers["Authorization"].removeprefix("Bearer ") for request in asked(zendesk, url)]


# Authentication


def test_a_token_is_asked_for_with_client_credentials(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    grant(zendesk)
    zendesk.get(ME, json=AGENT)
    client.me()
    body = json.loads(asked(zendesk, TOKENS)[0].body)
    assert body["grant_type"] == "client_credentials"
    assert (body["client_id"], body["client_secret"]) == ("relay", "zendesk-client-secret")
    assert {"tickets:read", "tickets:write"} <= set(body["scope"].split())
    assert tokens_used(zendesk) == ["t0ken-1"]


def test_a_token_is_asked_for_and_read_as_published(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    """Zendesk's own example of an answer has no expires_in."""
    zendesk.post(TOKENS, status=201, json={"access_token": "t0ken-1", "scope": "read write", "token_type": "bearer"})
    zendesk.get(ME, json=AGENT)
    client.me()
    validate(json.loads(asked(zendesk, TOKENS)[0].body), "zendesk", "token_request")
    assert tokens_used(zendesk) == ["t0ken-1"]


def test_making_a_client_asks_for_nothing(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    assert len(zendesk.calls) == 0
    assert not client.uses_api_token


def test_an_api_token_is_sent_as_zendesk_wants_it_and_no_oauth_token_is_asked_for(
    zendesk: responses.RequestsMock, basic: ZendeskClient
) -> None:
    zendesk.get(ME, json=AGENT)
    basic.me()
    scheme, _, credentials = asked(zendesk, ME)[0].headers["Authorization"].partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(credentials) == b"agent@acme.example/token:zendesk-api-token"
    assert basic.uses_api_token


def test_with_both_oauth_goes_first(zendesk: responses.RequestsMock) -> None:
    both = ZendeskClient(BASE, client_id="a", client_secret="b", user_email="c", api_token="d")
    grant(zendesk)
    zendesk.get(ME, json=AGENT)
    both.me()
    assert tokens_used(zendesk) == ["t0ken-1"]
    assert not both.uses_api_token


@pytest.mark.parametrize(
    ("life", "after_s", "tokens"),
    [
        pytest.param({}, 3539, 1, id="just before the last minute"),
        pytest.param({}, 3540, 2, id="a minute early"),
        pytest.param({"expires_in": 1800}, 1739, 1, id="half an hour, just before"),
        pytest.param({"expires_in": 1800}, 1740, 2, id="half an hour, a minute early"),
        pytest.param({"expires_in": None}, 3539, 1, id="no life said: the one we asked for"),
        pytest.param({"expires_in": None}, 3540, 2, id="no life said: a minute early"),
        pytest.param({"expires_in": "soon"}, 3540, 2, id="nonsense"),
        pytest.param({"expires_in": 10**400}, 3540, 2, id="longer than a number holds"),
        pytest.param({"expires_in": -1}, 3539, 1, id="less than nothing"),
        pytest.param({"scope": ["tickets:read", "tickets:write"]}, 0, 1, id="the scopes as a list"),
        pytest.param({"expires_in": 30}, 0, 2, id="shorter than a minute"),
    ],
)
def test_a_token_is_renewed_a_minute_early(
    zendesk: responses.RequestsMock,
    client: ZendeskClient,
    clock: Clock,
    life: dict[str, object],
    after_s: float,
    tokens: int,
) -> None:
    for number in range(1, tokens + 1):
        grant(zendesk, f"t0ken-{number}", **life)
    zendesk.get(ME, json=AGENT)
    client.me()
    clock.now += after_s
    client.me()
    assert tokens_used(zendesk) == ["t0ken-1", f"t0ken-{tokens}"]
    assert len(asked(zendesk, TOKENS)) == tokens


def in_threads(number: int, step: Callable[[], object]) -> None:
    """Does a step in that many threads at once, and raises what any of them raised."""
    start = threading.Barrier(number, timeout=5)

    def run() -> None:
        start.wait()
        step()

    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(run) for _ in range(number)]:
            done.result(timeout=10)


def test_sixteen_threads_ask_for_one_token(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    together = threading.Barrier(2)

    def answer(request: object) -> Raw:
        try:
            together.wait(timeout=0.2)  # a second request for a token would come in the meantime
        except threading.BrokenBarrierError:
            pass
        return 201, {}, json.dumps({"access_token": "t0ken-1", "expires_in": 3600})

    zendesk.add_callback("POST", TOKENS, answer)
    zendesk.get(ME, json=AGENT)
    in_threads(16, client.me)
    assert len(asked(zendesk, TOKENS)) == 1
    assert tokens_used(zendesk) == ["t0ken-1"] * 16


def test_sixteen_threads_with_a_revoked_token_renew_it_once(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    refused = threading.Barrier(16, timeout=5)

    def answer(request: Any) -> Raw:
        if request.headers["Authorization"] == "Bearer t0ken-1":
            refused.wait()
            return 401, {}, json.dumps({"error": "invalid_token"})
        return 200, {}, json.dumps(AGENT)

    grant(zendesk, "t0ken-1")
    grant(zendesk, "t0ken-2")
    zendesk.add_callback("GET", ME, answer)
    in_threads(16, client.me)
    assert len(asked(zendesk, TOKENS)) == 2
    assert sorted(tokens_used(zendesk)) == ["t0ken-1"] * 16 + ["t0ken-2"] * 16


def test_threads_that_wait_for_a_token_get_its_failure_and_do_not_ask_one_after_the_other(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    heard = []

    def answer(request: object) -> Raw:
        threading.Event().wait(0.2)  # the others come to wait in the meantime
        return 503, {}, ""

    def call() -> None:
        with pytest.raises(Unavailable) as caught:
            client.me()
        heard.append((caught.value.status, str(caught.value)))

    zendesk.add_callback("POST", TOKENS, answer)
    in_threads(16, call)
    assert heard == [(503, "Zendesk answered 503")] * 16
    assert len(asked(zendesk, TOKENS)) < 16


def test_a_late_401_for_an_old_token_leaves_the_new_one_alone(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    others = iter([True])

    def answer(request: Any) -> Raw:
        if request.headers["Authorization"] == "Bearer t0ken-2":
            return 200, {}, json.dumps(AGENT)
        if next(others, False):
            client.me()  # another call is refused and renews the token before this one hears of it
        return 401, {}, ""

    grant(zendesk, "t0ken-1")
    grant(zendesk, "t0ken-2")
    zendesk.add_callback("GET", ME, answer)
    client.me()
    assert tokens_used(zendesk) == ["t0ken-1", "t0ken-2", "t0ken-1", "t0ken-2"]  # the other call is over first
    assert len(asked(zendesk, TOKENS)) == 2


def test_a_refused_token_is_renewed_once_and_the_same_bytes_go_out_again(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    grant(zendesk, "t0ken-1")
    grant(zendesk, "t0ken-2")
    zendesk.post(TICKETS, status=401, json={"error": "invalid_token"})
    zendesk.post(TICKETS, status=201, json={"ticket": {"id": 7}})
    assert client.create_ticket(b'{"ticket": {}}', "key-1").ticket.id == 7
    first, second = asked(zendesk, TICKETS)
    assert tokens_used(zendesk, TICKETS) == ["t0ken-1", "t0ken-2"]
    assert first.body == second.body == b'{"ticket": {}}'
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == "key-1"


def test_a_second_401_is_final(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    grant(zendesk, "t0ken-1")
    grant(zendesk, "t0ken-2")
    zendesk.get(ME, status=401, json={"error": "Couldn't authenticate you"})
    with pytest.raises(AuthFailed, match="refuses our credentials") as caught:
        client.me()
    assert (caught.value.status, caught.value.code) == (401, None)
    assert tokens_used(zendesk) == ["t0ken-1", "t0ken-2"]


def test_a_403_asks_for_no_new_token(zendesk: responses.RequestsMock, client: ZendeskClient) -> None:
    grant(zendesk)
    zendesk.get(ME, status=403)
    with pytest.raises(AuthFailed):
        client.me()
    assert len(zendesk.calls) == 2


def test_a_refused_api_token_is_not_tried_again(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    zendesk.get(ME, status=401, json={"error": "Couldn't authenticate you"})
    with pytest.raises(AuthFailed):
        basic.me()
    assert len(zendesk.calls) == 1


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        pytest.param("tickets:read", "tickets:write", id="only reading tickets"),
        pytest.param("read", "tickets:write", id="only reading"),
        pytest.param("write", "tickets:read", id="only writing"),
        pytest.param("ticket:read ticket:write", "tickets:read tickets:write", id="misspelt"),
        pytest.param("users:read users:write", "tickets:read tickets:write", id="something else"),
    ],
)
def test_a_token_that_may_too_little_is_refused_before_it_is_used(
    zendesk: responses.RequestsMock, client: ZendeskClient, granted: str, missing: str
) -> None:
    grant(zendesk, scope=granted)
    with pytest.raises(AuthFailed) as caught:
        client.me()
    assert str(caught.value) == f"Zendesk's token lacks the scope {missing}"
    assert caught.value.code == "scope"
    assert asked(zendesk, ME) == []


@pytest.mark.parametrize(
    "granted",
    ["tickets:write tickets:read", "read write", "read,write", "read tickets:write", "users:read read write", None, ""],
    ids=str,
)
def test_a_token_that_may_enough_is_used(
    zendesk: responses.RequestsMock, client: ZendeskClient, granted: str | None
) -> None:
    grant(zendesk, scope=granted)
    zendesk.get(ME, json=AGENT)
    assert client.me() == "agent"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_client", "it knows no such Identifier with this Secret, copy both again"),
        (400, "invalid_client", "it knows no such Identifier with this Secret, copy both again"),
        (400, "invalid_scope", "the OAuth client may not have the scopes tickets:read tickets:write, allow them"),
        (403, "unauthorized_client", "the OAuth client may not use client credentials, its kind must be Confidential"),
        (400, "invalid_request", "check both"),
        (422, "invalid_grant", "check both"),
    ],
)
def test_a_refused_client_says_zendesks_own_code_and_what_to_do(
    zendesk: responses.RequestsMock, client: ZendeskClient, status: int, code: str, words: str
) -> None:
    zendesk.post(TOKENS, status=status, json={"error": code, "error_description": SECRETS[0]})
    with pytest.raises(AuthFailed) as caught:
        client.me()
    said = f"Zendesk answered {status} {code} to ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET: {words}"
    assert (caught.value.status, caught.value.code, str(caught.value)) == (status, code, said)
    assert SECRETS[0] not in repr(caught.value)


@pytest.mark.parametrize("body", ["", "<html>Sign in", "no"], ids=["nothing", "a page", "a word"])
def test_a_401_without_a_code_names_the_variables_to_check(
    zendesk: responses.RequestsMock, client: ZendeskClient, body: str
) -> None:
    zendesk.post(TOKENS, status=401, body=body)
    with pytest.raises(AuthFailed) as caught:
        client.me()
    assert str(caught.value) == "Zendesk answered 401 to ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET: check both"


LOST: list[Any] = [
    pytest.param(
        404, '{"error": "InvalidEndpoint", "description": "Not found"}', "InvalidEndpoint", id="no such account"
    ),
    pytest.param(
        404, '{"error": {"title": "No help desk at acme.zendesk.com", "message": "x"}}', None, id="no help desk"
    ),
    pytest.param(404, "<html>Help Center Closed", None, id="a page of 404"),
    pytest.param(404, "", None, id="nothing"),
    pytest.param(402, '{"error": "PaymentRequired"}', "PaymentRequired", id="not paid"),
    pytest.param(402, "", None, id="not paid, without a word"),
    pytest.param(400, "<html>Bad Request", None, id="a page of 400"),
    pytest.param(400, "Bad Request", None, id="plain text of 400"),
    pytest.param(405, "Method Not Allowed", None, id="another server"),
    pytest.param(410, '{"error": "Gone"}', "Gone", id="gone"),
    pytest.param(423, '{"error": "Locked"}', "Locked", id="locked"),
    pytest.param(451, "", None, id="for legal reasons"),
]
NO_ACCOUNT = "no account works at ZENDESK_API_URL: the address is wrong, or it was renamed, is suspended or has ended"


@pytest.mark.parametrize(("status", "body", "code"), LOST)
def test_what_a_lost_account_answers_to_everything_is_no_refusal_of_one_ticket(
    zendesk: responses.RequestsMock,
    client: ZendeskClient,
    basic: ZendeskClient,
    status: int,
    body: str,
    code: str | None,
) -> None:
    zendesk.post(TOKENS, status=status, body=body)
    zendesk.post(TICKETS, status=status, body=body)
    for each in (client, basic):
        with pytest.raises(AuthFailed) as caught:
            each.create_ticket(b"{}", "key-1")
        assert caught.value.status == status and (code is None or caught.value.code == code)
        assert str(caught.value).startswith(f"Zendesk answered {status}") and str(caught.value).endswith(NO_ACCOUNT)


def test_a_token_that_is_limited_is_a_limit_of_the_account(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    zendesk.post(TOKENS, status=429, headers={"X-Rate-Limit-Remaining": "650"})
    with pytest.raises(Limited) as caught:
        client.me()
    assert not caught.value.item_only


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param({"status": 429, "headers": {"Retry-After": "9"}}, Limited, id="429"),
        pytest.param({"status": 503, "headers": {"Retry-After": "9"}}, Unavailable, id="503"),
        pytest.param({"status": 500, "body": "<html>", "headers": {"Retry-After": "9"}}, Unavailable, id="500"),
    ],
)
def test_no_token_for_now_is_no_fault_of_ours(
    zendesk: responses.RequestsMock, client: ZendeskClient, answer: dict[str, Any], kind: type[ServiceError]
) -> None:
    zendesk.post(TOKENS, **answer)
    with pytest.raises(ServiceError) as caught:
        client.me()
    assert type(caught.value) is kind
    assert caught.value.retry_after_s == 9.0


@pytest.mark.parametrize(
    "body",
    [
        *("{}", '{"access_token": null}', '{"access_token": ""}', '{"access_token": 5}'),
        *('{"access_token": "t0\\nken"}', '{"access_token": "t0 ken"}', '{"access_token": "t\\u00f6ken"}'),
    ],
)
def test_an_answer_without_a_token_is_unavailable(
    zendesk: responses.RequestsMock, client: ZendeskClient, body: str
) -> None:
    zendesk.post(TOKENS, status=201, body=body)
    with pytest.raises(Unavailable, match="without a usable access token"):
        client.me()


def test_after_a_failed_request_for_a_token_the_next_call_asks_again(
    zendesk: responses.RequestsMock, client: ZendeskClient
) -> None:
    zendesk.post(TOKENS, status=503)
    grant(zendesk)
    zendesk.get(ME, json=AGENT)
    with pytest.raises(Unavailable):
        client.me()
    assert client.me() == "agent"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_our_credentials(
    zendesk: responses.RequestsMock, client: ZendeskClient, basic: ZendeskClient, status: int
) -> None:
    elsewhere = {"Location": "https://evil.example/"}
    zendesk.post(TOKENS, status=status, headers=elsewhere)
    zendesk.get(ME, status=status, headers=elsewhere)
    for each in (client, basic):
        with pytest.raises(AuthFailed) as caught:
            each.me()
        said = (
            f"Zendesk answered {status}, a redirect to evil.example: ZENDESK_API_URL is not the account's own address"
        )
        assert str(caught.value) == said
    assert len(zendesk.calls) == 2


def test_netrc_does_not_replace_our_credentials(
    zendesk: responses.RequestsMock,
    client: ZendeskClient,
    basic: ZendeskClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine acme.zendesk.com login someone password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    grant(zendesk)
    zendesk.get(ME, json=AGENT)
    client.me()
    basic.me()
    stranger = base64.b64encode(b"someone:netrc-secret").decode()
    assert [stranger in request.headers["Authorization"] for request in asked(zendesk, ME)] == [False, False]


# What is asked


def test_archived_tickets_are_found_by_external_id(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    listed = [{"id": 5, "external_id": "twitter:1", "status": "closed"}, {"id": 9, "external_id": "twitter:2"}]
    zendesk.get(f"{TICKETS}/show_many", json={"tickets": listed})
    assert basic.find_archived("twitter:1") == [Ticket(5, "closed", external_id="twitter:1")]
    assert parse_qs(urlsplit(str(zendesk.calls[0].request.url)).query) == {"external_ids": ["twitter:1"]}


def test_an_id_with_a_comma_would_be_two_ids(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    assert basic.find_archived("facebook:1,2") == []
    assert len(zendesk.calls) == 0


def test_a_ticket_is_shown_or_was_deleted(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    zendesk.get(f"{TICKETS}/7", json={"ticket": {"id": 7, "status": "Closed", "description": "Hi"}})
    zendesk.get(f"{TICKETS}/8", status=404, json={"error": "RecordNotFound", "description": "Not found"})
    zendesk.get(f"{TICKETS}/8", status=404, body="<html>")
    zendesk.get(f"{TICKETS}/8", status=410, json={"error": "Gone"})
    zendesk.get(f"{TICKETS}/9", status=422, json={"error": "RecordInvalid"})
    zendesk.get(f"{TICKETS}/9", status=403)
    assert basic.show_ticket(7) == Ticket(7, "closed", "Hi")
    assert [basic.show_ticket(8) for _ in range(3)] == [None] * 3
    for kind in (Rejected, AuthFailed):
        with pytest.raises(kind):
            basic.show_ticket(9)


def test_tags_are_added_to_those_of_a_ticket(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    zendesk.put(f"{TICKETS}/7/tags", json={"tags": ["khoros", "billing"]})
    basic.add_tags(7, ["billing"])
    request = zendesk.calls[0].request
    assert json.loads(request.body or "") == {"tags": ["billing"]}
    assert request.headers["Content-Type"] == "application/json"


def test_a_ticket_is_created_from_exactly_these_bytes_under_this_key(
    zendesk: responses.RequestsMock, basic: ZendeskClient
) -> None:
    zendesk.post(TICKETS, status=201, json={"ticket": {"id": 7, "status": "new", "description": "Hi"}})
    body = b'{"ticket":  {"comment": {"body": "\\ud83d\\udc4d"}}}'
    assert basic.create_ticket(body, "key-1") == Reply(Ticket(7, "new", "Hi"), 201, None, None)
    (request,) = asked(zendesk, TICKETS)
    assert request.body == body
    assert request.headers["Idempotency-Key"] == "key-1"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept"] == "application/json"


def test_a_reply_is_the_ticket_with_all_that_its_answer_said(
    zendesk: responses.RequestsMock, basic: ZendeskClient
) -> None:
    headers = {"x-zendesk-request-id": "z-1", "X-Rate-Limit-Remaining": "699", "ratelimit-reset": "42"}
    zendesk.post(TICKETS, status=201, headers=headers, json={"ticket": {"id": 7, "status": "new"}, "audit": {}})
    zendesk.put(f"{TICKETS}/7", status=200, headers=headers, json={"ticket": {"id": 7}, "audit": {}})
    assert basic.create_ticket(b"{}", "key-1") == Reply(Ticket(7, "new"), 201, "z-1", Quota(699, 42.0))
    assert basic.add_note(7, b"{}") == Reply(Ticket(7), 200, "z-1", Quota(699, 42.0))


@pytest.mark.parametrize("tags", [None, "billing", {}], ids=str)
def test_a_note_is_good_without_a_readable_ticket_in_its_answer(
    zendesk: responses.RequestsMock, basic: ZendeskClient, tags: object
) -> None:
    zendesk.put(f"{TICKETS}/7", json={"ticket": {"id": 7, "tags": tags}})
    zendesk.put(f"{TICKETS}/8", json={"ticket": None})
    assert basic.add_note(7, b"{}").ticket == Ticket(7)
    assert basic.add_note(8, b"{}").ticket == Ticket(8)


def test_a_note_that_is_answered_with_another_ticket_is_an_unknown_outcome(
    zendesk: responses.RequestsMock, basic: ZendeskClient
) -> None:
    zendesk.put(f"{TICKETS}/7", json={"ticket": {"id": 8}})
    with pytest.raises(Unavailable, match="another ticket"):
        basic.add_note(7, b"{}")


def test_a_note_says_which_tags_its_ticket_has(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    zendesk.put(f"{TICKETS}/7", json={"ticket": {"id": 7, "status": "open", "tags": ["khoros", "billing"]}})
    assert basic.add_note(7, b"{}").ticket == Ticket(7, "open", tags=("khoros", "billing"))


def test_tickets_are_found_by_external_id_newest_first(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    listed: list[Any] = [{"id": n, "external_id": "twitter:1"} for n in (5, 9, 7)]
    listed += [{"id": 99, "external_id": "twitter:12"}, {"id": 98}, None, "junk"]
    listed[1] |= {"status": "closed", "description": "My printer"}
    zendesk.get(TICKETS, json={"tickets": listed})
    closed, *others = basic.find_tickets("twitter:1")
    assert closed == Ticket(9, "closed", "My printer", external_id="twitter:1")
    assert others == [Ticket(n, external_id="twitter:1") for n in (7, 5)]


@pytest.mark.parametrize("external_id", ["twitter:1", "a&b=c #?/+%", "日本:👩\u200d💻"])
def test_an_external_id_is_asked_for_as_it_is(
    zendesk: responses.RequestsMock, basic: ZendeskClient, external_id: str
) -> None:
    zendesk.get(TICKETS, json={"tickets": []})
    assert basic.find_tickets(external_id) == []
    query = urlsplit(asked(zendesk, TICKETS)[0].url).query
    assert parse_qs(query, strict_parsing=True) == {"external_id": [external_id]}


@pytest.mark.parametrize("body", ["{}", '{"tickets": null}', '{"tickets": {}}', "[]", "<html>"])
def test_no_list_is_not_taken_for_no_tickets(zendesk: responses.RequestsMock, basic: ZendeskClient, body: str) -> None:
    zendesk.get(TICKETS, body=body)
    with pytest.raises(Unavailable):
        basic.find_tickets("twitter:1")


@pytest.mark.parametrize("ticket", [None, {}, {"id": None}, {"id": "7"}, {"id": True}, {"id": -7}, [7]], ids=str)
def test_a_created_ticket_without_a_number_is_an_unknown_outcome(
    zendesk: responses.RequestsMock, basic: ZendeskClient, ticket: object
) -> None:
    zendesk.post(TICKETS, status=201, json={"ticket": ticket})
    with pytest.raises(Unavailable, match="without a ticket id"):
        basic.create_ticket(b"{}", "key-1")


@pytest.mark.parametrize("user_id", [None, "7", True, 0, -7, 7.5, 2**63, [7]], ids=str)
def test_a_user_without_a_usable_id_is_no_user(
    zendesk: responses.RequestsMock, basic: ZendeskClient, user_id: object
) -> None:
    zendesk.post(USERS, json={"user": {"id": user_id}})
    with pytest.raises(Unavailable, match="without a user id"):
        basic.make_user(b"{}", "twitter:1")


@pytest.mark.parametrize("external_id", ["twitter:2", "TWITTER:11", 1])
def test_the_user_of_another_author_is_not_taken(
    zendesk: responses.RequestsMock, basic: ZendeskClient, external_id: object
) -> None:
    zendesk.post(USERS, json={"user": {"id": 7, "external_id": external_id}})
    with pytest.raises(Unavailable, match="another author"):
        basic.make_user(b"{}", "twitter:1")


@pytest.mark.parametrize("given", [{}, {"external_id": None}, {"external_id": "Twitter:@Ada"}], ids=str)
def test_a_users_id_is_returned_when_it_is_that_of_the_author(
    zendesk: responses.RequestsMock, basic: ZendeskClient, given: dict[str, Any]
) -> None:
    zendesk.post(USERS, json={"user": {"id": 7, **given}})
    assert basic.make_user(b"{}", "twitter:@ada") == "7"


def test_a_note_is_put_on_its_ticket(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    zendesk.put(f"{TICKETS}/7", json={"ticket": {"id": 7}, "audit": {}})
    basic.add_note(7, b'{"ticket": {}}')
    request = zendesk.calls[0].request
    assert request.body == b'{"ticket": {}}'
    assert request.headers["Content-Type"] == "application/json"
    assert "Idempotency-Key" not in request.headers


def test_a_note_on_a_closed_ticket_is_rejected(zendesk: responses.RequestsMock, basic: ZendeskClient) -> None:
    closed = {"error": "RecordInvalid", "details": {"status": [{"description": "closed prevents ticket update"}]}}
    zendesk.put(f"{TICKETS}/7", status=422, json=closed)
    with pytest.raises(Rejected) as caught:
        basic.add_note(7, b"{}")
    assert (caught.value.status, caught.value.code) == (422, "RecordInvalid status")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"comments": [{"id": 1, "html_body": "<p>other</p>"}, {"id": 2, "html_body": "<p>event uuid-1</p>"}]}, True),
        ({"comments": [{"id": 2, "plain_body": "event uuid-1"}]}, True),
        ({"comments": [{"id": 1, "html_body": "<p>event uuid-2</p>"}]}, False),
        ({"comments": []}, False),
    ],
    ids=["in the second", "in plain text", "not there", "no comments"],
)
def test_a_note_is_recognised_by_its_words(
    zendesk: responses.RequestsMock, basic: ZendeskClient, answer: dict[str, Any], found: bool
) -> None:
    zendesk.get(f"{TICKETS}/7/comments", json=answer)
    assert basic.has_note(7, "uuid-1") is found
    query = parse_qs(urlsplit(str(zendesk.calls[0].request.url)).query)
    assert query == {"per_page": ["100"], "sort_order": ["desc"]}


@pytest.mark.parametrize("role", ["admin", "agent"])
def test_an_agents_credentials_are_good(zendesk: responses.RequestsMock, basic: ZendeskClient, role: str) -> None:
    zendesk.get(ME, json={"user": {"id": 1, "role": role}})
    assert basic.me() == role


@pytest.mark.parametrize(
    ("user", "code"),
    [
        ({"id": None, "name": "Anonymous user", "role": "end-user"}, "anonymous user"),
        ({"name": "Anonymous user"}, "anonymous user"),
        ({"id": 1, "role": "end-user"}, "end-user"),
        ({"id": 1}, "None"),
        (None, "anonymous user"),
    ],
    ids=["anonymous", "no id", "end user", "no role", "nobody"],
)
def test_a_200_for_anybody_else_is_a_failure_of_our_credentials(
    zendesk: responses.RequestsMock, basic: ZendeskClient, user: object, code: str
) -> None:
    zendesk.get(ME, json={"user": user})
    with pytest.raises(AuthFailed, match="an agent's credentials are needed") as caught:
        basic.me()
    assert caught.value.code == code


# The rate limit


@pytest.mark.parametrize(
    ("headers", "quota"),
    [
        pytest.param({"X-Rate-Limit-Remaining": "699", "ratelimit-reset": "42"}, Quota(699, 42.0), id="both"),
        pytest.param({"x-rate-limit-remaining": "0", "RateLimit-Reset": "1"}, Quota(0, 1.0), id="none left"),
        pytest.param({"ratelimit-remaining": "5", "ratelimit-reset": "3"}, Quota(5, 3.0), id="the newer name"),
        pytest.param({"X-Rate-Limit-Remaining": "5"}, Quota(5, 1.0), id="no reset"),
        pytest.param({"X-Rate-Limit-Remaining": "5", "ratelimit-reset": "soon"}, Quota(5, 1.0), id="no number"),
        pytest.param(
            {"X-Rate-Limit-Remaining": "5", "ratelimit-reset": "0"}, Quota(5, 0.0), id="a window that is over"
        ),
        pytest.param({"X-Rate-Limit-Remaining": "-1", "ratelimit-reset": "3"}, None, id="negative"),
        pytest.param({"X-Rate-Limit-Remaining": "many"}, None, id="a word"),
        pytest.param({"X-Rate-Limit-Remaining": "²"}, None, id="no digit"),
        pytest.param({"X-Rate-Limit-Remaining": "9" * 5000}, None, id="more than a column holds"),
        pytest.param({"X-Rate-Limit-Remaining": "5", "ratelimit-reset": "9" * 400}, Quota(5, 1.0), id="for ever"),
        pytest.param({"X-Rate-Limit": "700"}, None, id="only the limit"),
        pytest.param({}, None, id="nothing"),
    ],
)
@pytest.mark.parametrize("status", [201, 401, 422, 429, 503])
def test_every_answer_says_what_is_left_of_the_limit(
    zendesk: responses.RequestsMock, basic: ZendeskClient, status: int, headers: dict[str, str], quota: Quota | None
) -> None:
    zendesk.post(TICKETS, status=status, headers=headers, json={"ticket": {"id": 7}})
    if status == 201:
        assert basic.create_ticket(b"{}", "key-1").quota == quota
    else:
        with pytest.raises(ServiceError) as caught:
            basic.create_ticket(b"{}", "key-1")
        assert (caught.value.status, caught.value.quota) == (status, quota)


# What is kept of an answer


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({"x-zendesk-request-id": "z-1", "x-request-id": "r-1"}, "z-1"),
        ({"x-request-id": "r-1"}, "r-1"),
        ({"x-request-id": "r" * 5000}, "r" * 200),
        ({}, None),
    ],
    ids=["both", "one", "a long one", "none"],
)
def test_an_error_keeps_zendesks_name_for_the_call_and_its_wish_to_wait(
    zendesk: responses.RequestsMock, basic: ZendeskClient, headers: dict[str, str], request_id: str | None
) -> None:
    zendesk.get(ME, status=503, headers=headers | {"Retry-After": "93"})
    with pytest.raises(Unavailable) as caught:
        basic.me()
    assert (caught.value.request_id, caught.value.retry_after_s) == (request_id, 93.0)


def test_no_error_repeats_a_secret_or_a_customers_text(
    zendesk: responses.RequestsMock, client: ZendeskClient, basic: ZendeskClient
) -> None:
    echo = json.dumps({"description": " ".join(SECRETS), "details": {"base": [{"description": " ".join(SECRETS)}]}})
    grant(zendesk)
    for status in (400, 403, 409, 422, 429, 503, 200):
        zendesk.post(TICKETS, status=status, body=echo)
        for each in (client, basic):
            with pytest.raises(ServiceError) as caught:
                each.create_ticket(b'"a customer\'s text"', "key-1")
            assert [secret for secret in SECRETS if secret in repr(caught.value)] == []
        zendesk.remove("POST", TICKETS)
    assert [secret for secret in SECRETS if secret in repr(client) + repr(basic)] == []
