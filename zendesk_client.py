"""Zendesk's side: the few calls of its Ticketing API this service makes, one attempt each.

API reference: https://developer.zendesk.com/api-reference/ticketing/introduction/
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from requests.auth import AuthBase, HTTPBasicAuth

from outbound import Answer, AuthFailed, Bearer, Limited, Quota, Rejected, ServiceError, Unavailable, new_session, send

SCOPE = "tickets:read tickets:write"
TOKEN_LIFE_S = 3600
RENEW_BEFORE_S = 60
RESET_UNKNOWN_S = 1.0  # how long a remaining count holds when Zendesk does not say when it is renewed
API_TOKENS_END = "2027-04-30"
_is_count = re.compile("[0-9]{1,9}").fullmatch


@dataclass(frozen=True)
class Ticket:
    """A ticket as Zendesk knows it; `description` is its first comment as plain text."""

    id: int
    status: str = ""
    description: str = ""


@dataclass(frozen=True)
class Reply:
    """A good answer: its ticket, HTTP's status, Zendesk's name for the call, and what is left of the rate limit."""

    ticket: Ticket
    status: int
    request_id: str | None
    quota: Quota | None


class ZendeskClient:
    """Authenticates with OAuth client credentials, or else with an agent's e-mail and API token.

    Every method makes one attempt and raises Unavailable (outcome unknown; wait, send the same again), Rejected (this
    request is refused) or AuthFailed (we are refused).
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str = "",
        client_secret: str = "",
        user_email: str = "",
        api_token: str = "",
        pool_size: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._clock = url, clock
        self._client_id, self._client_secret = client_id, client_secret
        self._basic = HTTPBasicAuth(f"{user_email}/token", api_token) if not client_id else None
        self._session = new_session(url, pool_size)
        self._token_lock = threading.Lock()
        self._token, self._token_ends_at = "", 0.0

    @property
    def uses_api_token(self) -> bool:
        """Whether this client depends on an API token, which Zendesk switches off on 2027-04-30."""
        return self._basic is not None

    def create_ticket(self, body: bytes, idempotency_key: str) -> Reply:
        """Creates a ticket (…/ticketing/tickets/tickets/#create-ticket). For two hours the same key with the same body
        answers with the same ticket; the same key with another body is Rejected with code IdempotentRequestError."""
        return _reply(*self._call("POST", "/api/v2/tickets", body, {"Idempotency-Key": idempotency_key}))

    def find_tickets(self, external_id: str) -> list[Ticket]:
        """The tickets with this external_id, newest first (…/ticketing/tickets/tickets/#list-tickets)."""
        payload, _ = self._call("GET", "/api/v2/tickets", params={"external_id": external_id})
        tickets = _list(payload, "tickets")
        ours = [_ticket({"ticket": t}) for t in tickets if isinstance(t, dict) and t.get("external_id") == external_id]
        return sorted(ours, key=lambda ticket: ticket.id, reverse=True)

    def add_note(self, ticket_id: int, body: bytes) -> Reply:
        """Adds a comment to a ticket (…/ticketing/tickets/tickets/#update-ticket). A closed one is Rejected."""
        return _reply(*self._call("PUT", f"/api/v2/tickets/{ticket_id}", body), Ticket(ticket_id))

    def has_note(self, ticket_id: int, words: str) -> bool:
        """Whether one of the ticket's last 100 comments contains `words` (…/tickets/ticket_comments/#list-comments)."""
        params = {"per_page": "100", "sort_order": "desc"}
        payload, _ = self._call("GET", f"/api/v2/tickets/{ticket_id}/comments", params=params)
        return any(words in str(comment) for comment in _list(payload, "comments"))

    def me(self) -> str:
        """The role of the user we act as: admin or agent (…/ticketing/users/users/#show-self). Raises AuthFailed when
        Zendesk takes us for an anonymous visitor or an end user: it answers 200 even then."""
        payload, _ = self._call("GET", "/api/v2/users/me")
        user = payload.get("user")
        role = str(user.get("role")) if isinstance(user, dict) and user.get("id") else "anonymous user"
        if role not in ("admin", "agent"):
            raise AuthFailed(f"Zendesk takes us for an {role}: an agent's credentials are needed", code=role)
        return role

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, Any], Answer]:
        headers = {"Content-Type": "application/json", **(headers or {})} if body is not None else headers
        auth, options = self._auth(), {"data": body, "headers": headers, "params": params}
        answer = send(self._session, method, self._url + path, auth=auth, **options)
        if answer.status == 401 and isinstance(auth, Bearer):  # it may have been revoked before its time
            self._drop(auth.token)
            answer = send(self._session, method, self._url + path, auth=self._auth(), **options)
        return read_zendesk_answer(answer), answer

    def _auth(self) -> AuthBase:
        """Our credentials. The OAuth token is asked for once for all threads, a minute before the old one ends
        (https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/)."""
        if self._basic is not None:
            return self._basic
        with self._token_lock:
            if not self._token or self._clock() >= self._token_ends_at - RENEW_BEFORE_S:
                self._token, life_s = self._new_token()
                self._token_ends_at = self._clock() + life_s
            return Bearer(self._token)

    def _new_token(self) -> tuple[str, float]:
        request = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_secret": self._client_secret,
            "scope": SCOPE,
            "expires_in": TOKEN_LIFE_S,
        }
        answer = send(self._session, "POST", f"{self._url}/oauth/tokens", json=request)
        if answer.status in (400, 401, 403, 404, 422):
            said = f"Zendesk answered {answer.status} to ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET: check both"
            request_id = _request_id(answer.headers)
            raise AuthFailed(said, status=answer.status, code=_error_code(answer.json()), request_id=request_id)
        granted = read_zendesk_answer(answer)
        if not isinstance(granted.get("access_token"), str) or not granted["access_token"]:
            raise Unavailable("Zendesk answered without an access token")
        if missing := _missing(str(granted.get("scope") or SCOPE)):
            raise AuthFailed(f"Zendesk's token lacks the scope {' '.join(missing)}", code="scope")
        life_s = granted.get("expires_in")
        return granted["access_token"], life_s if isinstance(life_s, int | float) else TOKEN_LIFE_S

    def _drop(self, token: str) -> None:
        with self._token_lock:
            if self._token == token:
                self._token = ""


def read_zendesk_answer(answer: Answer) -> dict[str, Any]:
    """The object in a good answer; otherwise raises the error that says what to do next."""
    status, payload = answer.status, answer.json()
    if 200 <= status < 300 and isinstance(payload, dict):
        return payload
    code, request_id = _error_code(payload), _request_id(answer.headers)
    said = f"Zendesk answered {status}{f' {code}' if code else ''}"
    kind: type[ServiceError] = Unavailable
    if 200 <= status < 300:
        said += " with something that is not JSON: see whether ZENDESK_API_URL is the account's own address"
    elif status in (401, 403):
        kind, said = AuthFailed, f"{said}: it refuses our credentials or their rights"
    elif 300 <= status < 400:
        kind, said = AuthFailed, f"{said}, a redirect: ZENDESK_API_URL is not the account's own address"
    elif status == 429:
        kind = Limited
    elif 400 <= status < 500 and status not in (408, 409, 425):
        kind = Rejected
    wait_s, quota = answer.retry_after_s, _quota(answer.headers)
    raise kind(said, status=status, code=code, request_id=request_id, retry_after_s=wait_s, quota=quota)


def _reply(payload: Mapping[str, Any], answer: Answer, ticket: Ticket | None = None) -> Reply:
    return Reply(ticket or _ticket(payload), answer.status, _request_id(answer.headers), _quota(answer.headers))


def _list(payload: Mapping[str, Any], name: str) -> list[Any]:
    found = payload.get(name)
    if not isinstance(found, list):
        raise Unavailable(f"Zendesk answered without a list of {name}")
    return found


def _ticket(payload: Mapping[str, Any]) -> Ticket:
    ticket = payload.get("ticket")
    if not isinstance(ticket, dict) or not isinstance(ticket.get("id"), int):
        raise Unavailable("Zendesk answered without a ticket id")
    return Ticket(ticket["id"], str(ticket.get("status") or ""), str(ticket.get("description") or ""))


def _error_code(payload: object) -> str | None:
    """Zendesk's error code with the refused fields and why: "RecordInvalid requester:UserSuspended". Its descriptions
    stay out: they are localised and quote customers."""
    if not isinstance(payload, dict):
        return None
    error, errors, details = payload.get("error"), payload.get("errors"), payload.get("details")
    if isinstance(error, dict):
        error = error.get("title")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        error = errors[0].get("code")
    words = [str(error)[:80]] if isinstance(error, str | int) else []
    for name, faults in details.items() if isinstance(details, dict) else ():
        codes = (
            [str(f["error"]) for f in faults if isinstance(f, dict) and f.get("error")]
            if isinstance(faults, list)
            else []
        )
        words.append(f"{name}:{','.join(codes)}"[:80] if codes else str(name)[:80])
    said = "".join(char if char.isprintable() else " " for char in " ".join(words[:6]))
    return said.strip() or None


def _request_id(headers: Mapping[str, str]) -> str | None:
    given = headers.get("x-zendesk-request-id") or headers.get("x-request-id") or ""
    return "".join(char for char in given if char.isprintable())[:200] or None  # what a column can keep


def _quota(headers: Mapping[str, str]) -> Quota | None:
    remaining = headers.get("X-Rate-Limit-Remaining") or headers.get("ratelimit-remaining") or ""
    reset = headers.get("ratelimit-reset") or ""
    if not _is_count(remaining):
        return None
    return Quota(int(remaining), float(reset) if _is_count(reset) else RESET_UNKNOWN_S)


def _missing(granted: str) -> list[str]:
    """The scopes we asked for that `granted` does not cover; "read" covers "tickets:read"."""
    given = set(granted.replace(",", " ").split())
    return [scope for scope in SCOPE.split() if scope not in given and scope.partition(":")[2] not in given]
