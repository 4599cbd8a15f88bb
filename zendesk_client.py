"""Zendesk's side: the few calls of its Ticketing API this service makes, one attempt each.

API reference: https://developer.zendesk.com/api-reference/ticketing/introduction/
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

from requests.auth import AuthBase, HTTPBasicAuth

from outbound import Answer, AuthFailed, Bearer, Quota, Rejected, ServiceError, Unavailable, new_session, send
from zendesk_answers import SCOPE, read_quota, read_request_id, read_token_answer, read_zendesk_answer

TOKEN_LIFE_S = 3600
RENEW_BEFORE_S = 60
API_TOKENS_END = "2027-04-30"
CHECK_ID = "khoros-zendesk-relay-check"  # no post has this id
USERS_SCOPE = "users:write"
USER_TOTAL_S = 3.0  # a post waits no longer for its requester


@dataclass(frozen=True)
class Ticket:
    """A ticket as Zendesk knows it; `description` is its first comment as plain text. Each text is "" when Zendesk does
    not give it."""

    id: int
    status: str = ""  # in small letters
    description: str = ""
    tags: tuple[str, ...] = ()
    external_id: str = ""


@dataclass(frozen=True)
class Reply:
    """A good answer: its ticket, HTTP's status, Zendesk's name for the call, and what is left of the rate limit."""

    ticket: Ticket
    status: int
    request_id: str | None
    quota: Quota | None


class ZendeskClient:
    """Authenticates with OAuth client credentials, or else with an agent's e-mail and API token. `makes_users` asks for
    the scope that `make_user` needs, and does without when the OAuth client may not have it.

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
        makes_users: bool = False,
        pool_size: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._clock = url, clock
        self._client_id, self._client_secret, self._makes_users = client_id, client_secret, makes_users
        self._basic = HTTPBasicAuth(f"{user_email}/token", api_token) if not client_id else None
        self._session = new_session(url, pool_size)
        self._token_lock = threading.Lock()
        self._token, self._token_ends_at = "", 0.0
        self._token_failure: ServiceError | None = None  # of the last request for a token

    @property
    def uses_api_token(self) -> bool:
        """Whether this client depends on an API token, which Zendesk switches off on 2027-04-30."""
        return self._basic is not None

    def create_ticket(self, body: bytes, idempotency_key: str) -> Reply:
        """Creates a ticket (…/ticketing/tickets/tickets/#create-ticket). For two hours the same key with the same body
        answers with the same ticket; the same key with another body is Rejected with code IdempotentRequestError."""
        return _reply(*self._call("POST", "/api/v2/tickets", body, key=idempotency_key))

    def find_tickets(self, external_id: str) -> list[Ticket]:
        """The tickets with this external_id, newest first, without those that Zendesk has archived
        (…/ticketing/tickets/tickets/#list-tickets)."""
        payload, _ = self._call("GET", "/api/v2/tickets", params={"external_id": external_id})
        return _tickets(payload, external_id)

    def prove(self) -> None:
        """Proves that Zendesk takes calls from us, by a look-up that finds nothing."""
        self.find_tickets(CHECK_ID)

    def find_archived(self, external_id: str) -> list[Ticket]:
        """The tickets with this external_id, newest first, archived or not. A comma would divide the id, so nothing is
        found for an id with one (…/ticketing/tickets/tickets/#show-multiple-tickets)."""
        if "," in external_id:
            return []
        payload, _ = self._call("GET", "/api/v2/tickets/show_many", params={"external_ids": external_id})
        return _tickets(payload, external_id)

    def show_many(self, ids: Sequence[str]) -> list[Ticket]:
        """Up to 100 tickets, archived or not; those that are unknown or deleted are left out
        (…/ticketing/tickets/tickets/#show-multiple-tickets)."""
        payload, _ = self._call("GET", "/api/v2/tickets/show_many", params={"ids": ",".join(ids)})
        return [_ticket({"ticket": ticket}) for ticket in _list(payload, "tickets")]

    def show_ticket(self, ticket_id: int) -> Ticket | None:
        """The ticket, also an archived one; None when it was deleted (…/ticketing/tickets/tickets/#show-ticket). An
        account that is gone answers the same, so first make a call that it would refuse."""
        try:
            payload, _ = self._call("GET", f"/api/v2/tickets/{ticket_id}")
        except (Rejected, AuthFailed) as error:
            if error.status in (404, 410):
                return None
            raise
        return _ticket(payload)

    def add_note(self, ticket_id: int, body: bytes) -> Reply:
        """Adds a comment to a ticket (…/ticketing/tickets/tickets/#update-ticket). A closed one is Rejected."""
        payload, answer = self._call("PUT", f"/api/v2/tickets/{ticket_id}", body)
        changed = payload.get("ticket")
        reply = _reply({"ticket": {"id": ticket_id, **(changed if isinstance(changed, dict) else {})}}, answer)
        if reply.ticket.id != ticket_id:
            raise Unavailable("Zendesk answered with another ticket: this is not the answer to our call")
        return reply

    def add_tags(self, ticket_id: int, tags: Sequence[str]) -> None:
        """Adds tags to those that a ticket has (…/ticketing/ticket-management/tags/#add-tags)."""
        self._call("PUT", f"/api/v2/tickets/{ticket_id}/tags", json.dumps({"tags": tags}).encode("ascii"))

    def has_note(self, ticket_id: int, words: str) -> bool:
        """Whether one of the ticket's last 100 comments contains `words` (…/tickets/ticket_comments/#list-comments)."""
        params = {"per_page": "100", "sort_order": "desc"}
        payload, _ = self._call("GET", f"/api/v2/tickets/{ticket_id}/comments", params=params)
        return any(words in str(comment) for comment in _list(payload, "comments"))

    def make_user(self, body: bytes, external_id: str = "") -> str:
        """Makes or changes the end user with this external_id, and returns the user's id. A suspended one is Rejected
        (…/ticketing/users/users/#create-or-update-user); the account takes one such call a second."""
        payload, _ = self._call("POST", "/api/v2/users/create_or_update", body, total_s=USER_TOTAL_S)
        user = payload.get("user")
        if not isinstance(user, dict) or not _is_id(user.get("id")):
            raise Unavailable("Zendesk answered without a user id")
        if str(user.get("external_id") or external_id).casefold() != external_id.casefold():
            raise Unavailable("Zendesk answered with the user of another author, not to our call")
        if user.get("suspended") is True:
            raise Rejected("Zendesk has suspended the author's user", code="UserSuspended")
        return str(user["id"])

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
        self, method: str, path: str, body: bytes | None = None, *, key: str = "", **options: Any
    ) -> tuple[dict[str, Any], Answer]:
        kind, name = {"Content-Type": "application/json"}, {"Idempotency-Key": key}
        parts = {"data": body, "headers": (kind if body else {}) | (name if key else {}), **options}
        answer = self._send(method, path, auth=(auth := self._auth()), **parts)
        if answer.status == 401 and isinstance(auth, Bearer):  # it may have been revoked before its time
            answer = self._send(method, path, auth=self._auth(refused=auth.token), **parts)
        return read_zendesk_answer(answer), answer

    def _send(self, method: str, path: str, **parts: Any) -> Answer:
        return send(self._session, method, self._url + path, service="Zendesk", **parts)

    def _auth(self, refused: str = "") -> AuthBase:
        """Our credentials. The OAuth token is asked for once for all threads, a minute before the old one ends or when
        it was `refused` (https://developer.zendesk.com/api-reference/ticketing/oauth/grant_type_tokens/). Threads that
        wait for a request that fails get its error: they do not ask again, one after the other."""
        if self._basic is not None:
            return self._basic
        known_failure = self._token_failure
        with self._token_lock:
            if self._token in ("", refused) or self._clock() >= self._token_ends_at - RENEW_BEFORE_S:
                if self._token_failure not in (None, known_failure):
                    raise copy(self._token_failure)
                self._renew_token()
            return Bearer(self._token)

    def _renew_token(self) -> None:
        try:
            self._token, life_s = self._new_token()
        except ServiceError as error:
            self._token_failure = error
            raise
        self._token_failure, self._token_ends_at = None, self._clock() + life_s

    def _new_token(self) -> tuple[str, float]:
        if self._makes_users:
            with suppress(AuthFailed):  # the OAuth client may not have the scope: tickets go on without requester
                return self._ask_for_token(f"{SCOPE} {USERS_SCOPE}")
        return self._ask_for_token(SCOPE)

    def _ask_for_token(self, scope: str) -> tuple[str, float]:
        request = {"grant_type": "client_credentials", "scope": scope, "expires_in": TOKEN_LIFE_S}
        request |= {"client_id": self._client_id, "client_secret": self._client_secret}
        granted = read_token_answer(self._send("POST", "/oauth/tokens", json=request))
        token, given, life_s = (granted.get(name) for name in ("access_token", "scope", "expires_in"))
        if not isinstance(token, str) or not re.fullmatch("[!-~]+", token):
            raise Unavailable("Zendesk answered without a usable access token")
        if missing := _missing_scopes(" ".join(map(str, given)) if isinstance(given, list) else str(given or SCOPE)):
            raise AuthFailed(f"Zendesk's token lacks the scope {' '.join(missing)}", code="scope")
        return token, life_s if isinstance(life_s, int | float) and 0 < life_s <= TOKEN_LIFE_S else TOKEN_LIFE_S


def _reply(payload: Mapping[str, Any], answer: Answer) -> Reply:
    return Reply(_ticket(payload), answer.status, read_request_id(answer.headers), read_quota(answer.headers))


def _list(payload: Mapping[str, Any], name: str) -> list[Any]:
    found = payload.get(name)
    if not isinstance(found, list):
        raise Unavailable(f"Zendesk answered without a list of {name}")
    return found


def _tickets(payload: Mapping[str, Any], external_id: str) -> list[Ticket]:
    tickets = _list(payload, "tickets")
    ours = [_ticket({"ticket": t}) for t in tickets if isinstance(t, dict) and t.get("external_id") == external_id]
    return sorted(ours, key=lambda ticket: ticket.id, reverse=True)


def _ticket(payload: Mapping[str, Any]) -> Ticket:
    ticket = payload.get("ticket")
    if not isinstance(ticket, dict) or not _is_id(ticket.get("id")):
        raise Unavailable("Zendesk answered without a ticket id")
    tags = ticket.get("tags")
    return Ticket(
        id=ticket["id"],
        status=str(ticket.get("status") or "").lower(),
        description=str(ticket.get("description") or ""),
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        external_id=str(ticket.get("external_id") or ""),
    )


def _is_id(value: object) -> bool:
    """Whether a JSON value is an id of Zendesk's. For Python, true is a number."""
    return type(value) is int and 0 < value < 2**63


def _missing_scopes(granted: str) -> list[str]:
    """The scopes that tickets need and that `granted` does not cover; "read" covers "tickets:read"."""
    given = set(granted.replace(",", " ").split())
    return [scope for scope in SCOPE.split() if scope not in given and scope.partition(":")[2] not in given]
