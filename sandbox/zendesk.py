"""A simulated Zendesk account: the ticketing API as documented, in memory, and a page that shows the tickets.

https://developer.zendesk.com/api-reference/ticketing/introduction/
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, abort, g, jsonify, redirect, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from sandbox.calls import Call, Recorder
from sandbox.faults import Faults, control
from sandbox.pages import ago, is_api, portrait, protect, refuse_strangers
from sandbox.richtext import safe_html
from sandbox.zendesk_rules import STATUSES, missing_fields, refusals, split_tags
from sandbox.zendesk_state import (
    AGENT_ID,
    TOKEN_LIFE_RANGE_S,
    TOKEN_LIFE_S,
    WINDOW_S,
    FakeComment,
    FakeTicket,
    IdempotencyKeys,
    Rate,
    RateWindow,
    TicketUpdates,
    Tokens,
    iso,
    new_comment,
)
from sandbox.zendesk_users import FakeUser, Users, user_refusals

PER_PAGE = 100
FIRST_TICKET_ID = 1001

View = Callable[..., Response]
_ERRORS: dict[int, Any] = {
    400: {"error": {"title": "Invalid attribute", "message": "You passed an invalid value for an attribute."}},
    401: {"error": "Couldn't authenticate you"},
    403: {"error": {"title": "Forbidden", "message": "You do not have access to this page."}},
    404: {"error": "RecordNotFound", "description": "Not found"},
    409: {"error": "DatabaseConflict", "description": "Database collision"},
    422: {"error": "RecordInvalid", "description": "Record validation errors", "details": {}},
    429: {"error": "APIRateLimitExceeded", "description": "Number of allowed API requests per minute exceeded"},
    503: {"error": "DatabaseDeadlock", "description": "Database deadlock found; please retry your transaction"},
}


class _Refused(Exception):
    def __init__(self, status: int, payload: object = None, **headers: str) -> None:
        super().__init__(status)
        self.status, self.payload, self.headers = status, payload or _ERRORS[status], headers


class FakeZendesk:
    """One account with one agent. `app` is the WSGI app; give it to `Server`.

    Without `rate_per_minute` there is no limit: the headers count down from 1,000,000. Every ticketing call takes
    `latency_s`, half of it before the work and half after. With an empty `client_id` nobody can log in with OAuth,
    with an empty `user_email` nobody with an API token. The page links to `inbox_page_url`. The limit counts in
    windows of `window_s`. `required_fields` are the custom fields that each ticket needs, by id, with their kind
    (FieldTagger …). `client_scopes` are those that the OAuth client may have; None means any, even misspelt ones.
    `may_manage_users` is the agent's right to make end users.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        client_id: str = "relay",
        client_secret: str = "made-up-client-secret",
        user_email: str = "agent@acme.example",
        api_token: str = "made-up-api-token",
        rate_per_minute: int | None = None,
        latency_s: float = 0.0,
        inbox_page_url: str | None = None,
        window_s: int = WINDOW_S,
    ) -> None:
        self.client_id, self.client_secret = client_id, client_secret
        self.user_email, self.api_token = user_email, api_token
        self.latency_s, self.inbox_page_url = latency_s, inbox_page_url
        self.required_fields: dict[int, str] = {}
        self.client_scopes: set[str] | None = None
        self.may_manage_users = True
        self.faults = Faults(lambda status: _ERRORS.get(status, {"error": "Error", "description": f"Status {status}"}))
        self._clock = clock
        self._lock = threading.RLock()
        self._tickets: dict[int, FakeTicket] = {}
        self._made = 0  # tickets ever
        self._comments_made = 0
        self._users = Users(clock)
        self._tokens, self._keys = Tokens(clock), IdempotencyKeys(clock)
        self._window_s = window_s
        self._window = RateWindow(rate_per_minute, clock, window_s)
        self._updates = TicketUpdates(clock)
        self.app = Flask(__name__)
        self._add_routes()
        self._recorder = Recorder(self.faults.wrap(self.app.wsgi_app), clock)
        self.app.wsgi_app = self._recorder  # type: ignore[method-assign]  # Flask's documented way

    @property
    def tickets(self) -> list[FakeTicket]:
        """All tickets, oldest first."""
        with self._lock:
            return list(self._tickets.values())

    @property
    def calls(self) -> list[Call]:
        """Every API call so far, also refused and dropped ones, in the order in which the answers left."""
        return self._recorder.calls

    def ticket(self, ticket_id: int) -> FakeTicket:
        """One ticket as it is now. Raises KeyError for an unknown ticket."""
        with self._lock:
            return self._tickets[ticket_id]

    @property
    def users(self) -> list[FakeUser]:
        """All end users, oldest first."""
        with self._lock:
            return self._users.all

    def suspend_user(self, user_id: int) -> None:
        """From now on no ticket can be made for this end user. Raises KeyError for an unknown one."""
        with self._lock:
            self._users.suspend(user_id)

    def delete_user(self, user_id: int) -> None:
        """Raises KeyError for an unknown end user."""
        with self._lock:
            self._users.delete(user_id)

    def set_status(self, ticket_id: int, status: str) -> None:
        """Does what an agent does on the page. Raises KeyError for an unknown ticket, ValueError for an unknown status
        and for a closed ticket."""
        with self._lock:
            ticket = self._tickets[ticket_id]
            if ticket.status == "closed" or status not in STATUSES:
                raise ValueError(f"a ticket that is {ticket.status} cannot become {status}")
            self._tickets[ticket_id] = replace(ticket, status=status, updated_at=self._clock())

    def close_ticket(self, ticket_id: int) -> None:
        """Closes a ticket: from now on it refuses updates, and follow-ups are possible."""
        with self._lock:
            self._tickets[ticket_id] = replace(self._tickets[ticket_id], status="closed", updated_at=self._clock())

    def archive_ticket(self, ticket_id: int) -> None:
        """Archives a ticket, as Zendesk does months after it was closed: lists leave it out, its id still shows it."""
        self.close_ticket(ticket_id)
        with self._lock:
            self._tickets[ticket_id] = replace(self._tickets[ticket_id], archived=True)

    def delete_ticket(self, ticket_id: int) -> None:
        with self._lock:
            del self._tickets[ticket_id]

    def expire_tokens(self) -> None:
        """Makes every OAuth access token invalid."""
        with self._lock:
            self._tokens.forget()

    def set_rate(self, per_minute: int | None) -> None:
        """Sets another limit. A new window begins with the next call."""
        with self._lock:
            self._window = RateWindow(per_minute, self._clock, self._window_s)

    def state(self) -> dict[str, Any]:
        """The answer to GET /_sandbox/state."""
        with self._lock:
            tickets, rate, per_minute = len(self._tickets), self._window.now(), self._window.per_minute
        numbers = {"tickets": tickets, "calls": len(self.calls), "latency_s": self.latency_s}
        limit = {"per_minute": per_minute, "remaining": rate.remaining, "reset_s": rate.reset_s}
        return {**numbers, "rate": limit, **self.faults.state()}

    # The wiring.

    def _add_routes(self) -> None:
        app = self.app
        app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
        api: list[tuple[str, str, str, View]] = [
            ("GET", "/api/v2/tickets", "tickets:read", self._list_tickets),
            ("POST", "/api/v2/tickets", "tickets:write", self._create_ticket),
            ("GET", "/api/v2/tickets/show_many", "tickets:read", self._show_many),
            ("GET", "/api/v2/tickets/<int:ticket_id>", "tickets:read", self._show_ticket),
            ("PUT", "/api/v2/tickets/<int:ticket_id>", "tickets:write", self._update_ticket),
            ("PUT", "/api/v2/tickets/<int:ticket_id>/tags", "tickets:write", self._add_tags),
            ("GET", "/api/v2/tickets/<int:ticket_id>/comments", "tickets:read", self._list_comments),
            ("GET", "/api/v2/users/me", "users:read", self._show_me),
            ("POST", "/api/v2/users/create_or_update", "users:write", self._create_or_update_user),
        ]
        for method, path, scope, view in api:
            app.add_url_rule(path, f"{method} {path}", self._api_view(scope, view), methods=[method])
        app.add_url_rule("/oauth/tokens", "token", self._issue_token, methods=["POST"])
        app.add_url_rule("/", "tickets", self._page)
        app.add_url_rule("/agent/tickets/<int:ticket_id>", "ticket", self._page)
        app.add_url_rule("/agent/tickets/<int:ticket_id>/status", "status", self._change_status, methods=["POST"])
        app.add_url_rule("/_sandbox/rate", "rate", self._set_rate_over_http, methods=["POST"])
        app.add_url_rule("/_sandbox/latency", "latency", self._set_latency_over_http, methods=["POST"])
        app.register_blueprint(control(self.faults, self.state))
        app.register_error_handler(_Refused, _refusal)
        app.register_error_handler(HTTPException, _http_error)
        app.before_request(refuse_strangers)
        app.after_request(self._add_headers)

    def _api_view(self, scope: str, view: View) -> View:
        """`view` with the latency, and with checks of the credentials and the limit before it."""

        def answer(**path: int) -> Response:
            pause_s = self.latency_s / 2
            _pause(pause_s)
            try:
                with self._lock:  # one at a time: a second request with the same key finds the first one's ticket
                    self._admit(scope)
                    return view(**path)
            finally:
                _pause(pause_s)

        return answer

    def _admit(self, scope: str) -> None:
        scopes = self._scopes()
        if scopes is None and not (scope == "users:read" and "Authorization" not in request.headers):
            raise _Refused(401)
        admitted = self._window.take()
        g.rate = self._window.now()
        if not admitted:
            raise _Refused(429, **{"Retry-After": str(g.rate.reset_s)})
        if scopes is not None and not {scope, scope.partition(":")[2]} & scopes:
            raise _Refused(403)

    def _scopes(self) -> frozenset[str] | None:
        """The scopes of the caller's credentials. None when they are missing or wrong."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.scopes(credentials.strip())
        expected = base64.b64encode(f"{self.user_email}/token:{self.api_token}".encode())
        known = scheme.lower() == "basic" and self.user_email and self.api_token
        if known and hmac.compare_digest(credentials.strip().encode(), expected):
            return frozenset({"read", "write"})
        return None

    def _add_headers(self, response: Response) -> Response:
        if is_api(request.path):
            with self._lock:
                rate: Rate = g.get("rate") or self._window.now()
            response.headers.update({**rate.headers(), "x-zendesk-request-id": uuid.uuid4().hex})
        return protect(response)

    # The API. Each of these functions runs under the lock.

    def _create_ticket(self) -> Response:
        body, key = request.get_data(), request.headers.get("Idempotency-Key")
        if key is not None and not 1 <= len(key) <= 255:
            raise _Refused(400)
        try:
            made = self._keys.ticket(key, body) if key else None
        except ValueError:
            said = "Request parameters don't match the given idempotency key"
            raise _Refused(400, {"error": "IdempotentRequestError", "description": said}) from None
        if made is not None:
            return _creation_answer(made, "hit")
        ticket = self._store(self._read_ticket(creating=True))
        if key:
            self._keys.keep(key, body, ticket)
        return _creation_answer(ticket, "miss" if key else None)

    def _update_ticket(self, ticket_id: int) -> Response:
        ticket = self._get_open_ticket(ticket_id)
        sent = self._read_ticket(creating=False)
        comments = list(ticket.comments)
        if "comment" in sent:
            comments.append(self._comment(sent["comment"], public=comments[0].public))
        changed = replace(
            ticket,
            subject=sent.get("subject", ticket.subject),
            status=sent.get("status", ticket.status),
            tags=split_tags(sent["tags"]) if "tags" in sent else ticket.tags,
            priority=sent.get("priority", ticket.priority),
            fields={**ticket.fields, **{name: value for name, value in sent.items() if name != "comment"}},
            comments=comments,
            updated_at=self._clock(),
        )
        self._tickets[ticket_id] = changed
        return jsonify(ticket=changed.as_json(_base()), audit=_audit(changed))

    def _add_tags(self, ticket_id: int) -> Response:
        ticket = self._get_open_ticket(ticket_id)
        sent = self._read_json()
        tags = sent.get("tags") if isinstance(sent, dict) else None
        if not isinstance(tags, list) or refusals({"tags": tags}, creating=False):
            raise _invalid({"tags": [{"description": "Tags: must be a list of words", "error": "InvalidValue"}]})
        both = list(dict.fromkeys([*ticket.tags, *split_tags(tags)]))
        self._tickets[ticket_id] = replace(ticket, tags=both, updated_at=self._clock())
        return jsonify(tags=both)

    def _show_many(self) -> Response:
        """Up to 100 tickets by their ids or external ids, archived or not."""
        ids, external_ids = (request.args.get(name, "").split(",") for name in ("ids", "external_ids"))
        if ids == external_ids == [""]:
            raise _Refused(400)
        found = [t for t in self._tickets.values() if str(t.id) in ids or t.external_id in external_ids]
        shown = [ticket.as_json(_base()) for ticket in found[:PER_PAGE]]
        return jsonify(tickets=shown, count=len(found), next_page=None, previous_page=None)

    def _list_tickets(self) -> Response:
        external_id = request.args.get("external_id")
        live = [ticket for ticket in self._tickets.values() if not ticket.archived]
        found = [ticket for ticket in live if external_id in (None, ticket.external_id)]
        page, per_page = _positive("page", 1), min(PER_PAGE, _positive("per_page", PER_PAGE))
        shown = found[(page - 1) * per_page : page * per_page]
        return jsonify(
            tickets=[ticket.as_json(_base()) for ticket in shown],
            count=len(found),
            next_page=_page_url(page + 1) if len(found) > page * per_page else None,
            previous_page=_page_url(page - 1) if page > 1 else None,
        )

    def _show_ticket(self, ticket_id: int) -> Response:
        return jsonify(ticket=self._get_ticket(ticket_id).as_json(_base()))

    def _list_comments(self, ticket_id: int) -> Response:
        comments = self._get_ticket(ticket_id).comments
        if request.args.get("sort_order") == "desc":
            comments = comments[::-1]
        page, per_page = _positive("page", 1), min(PER_PAGE, _positive("per_page", PER_PAGE))
        return jsonify(
            comments=[comment.as_json() for comment in comments[(page - 1) * per_page : page * per_page]],
            count=len(comments),
            next_page=_page_url(page + 1) if len(comments) > page * per_page else None,
            previous_page=_page_url(page - 1) if page > 1 else None,
        )

    def _show_me(self) -> Response:
        if "Authorization" not in request.headers:
            return jsonify(user={"id": None, "name": "Anonymous user", "role": "end-user"})
        url, email = f"{_base()}/api/v2/users/{AGENT_ID}.json", self.user_email or "relay@acme.example"
        user = {"id": AGENT_ID, "url": url, "name": "Relay Service", "email": email, "role": "agent"}
        return jsonify(user={**user, "active": True, "suspended": False})

    def _create_or_update_user(self) -> Response:
        if not self.may_manage_users:
            raise _Refused(403)
        sent = self._read_json()
        if not isinstance(sent, dict) or set(sent) != {"user"}:
            raise _invalid(
                {"user": [{"description": 'User: the body must be {"user": {...}}', "error": "InvalidValue"}]}
            )
        if details := user_refusals(sent["user"]):
            raise _invalid(details)
        if wait_s := self._users.take(sent["user"].get("external_id") or ""):
            raise _Refused(429, **{"Retry-After": str(wait_s)})
        user, new = self._users.create_or_update(sent["user"])
        response = jsonify(user=user.as_json(_base()))
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"{_base()}/api/v2/users/{user.id}.json"
        return response

    def _issue_token(self) -> Response:
        wanted = request.get_json(silent=True)
        if not isinstance(wanted, dict):
            raise _bad_grant(400, "invalid_request", "The request is not a JSON object")
        if wanted.get("grant_type") != "client_credentials":
            raise _bad_grant(400, "unsupported_grant_type", "The authorization grant type is not supported")
        asked = (wanted.get("client_id"), wanted.get("client_secret"))
        if not self.client_id or asked != (self.client_id, self.client_secret):
            raise _bad_grant(401, "invalid_client", "Client authentication failed")
        life_s = wanted.get("expires_in", TOKEN_LIFE_S)
        shortest, longest = TOKEN_LIFE_RANGE_S
        if not isinstance(life_s, int) or not shortest <= life_s <= longest:
            raise _bad_grant(400, "invalid_request", f"expires_in must be from {shortest} to {longest}")
        scope = wanted.get("scope", "read")
        if self.client_scopes is not None and not set(str(scope).split()) <= self.client_scopes:
            raise _bad_grant(400, "invalid_scope", "The requested scope is invalid, unknown, or malformed")
        with self._lock:
            token = self._tokens.issue(scope, life_s)
        response = jsonify(access_token=token, token_type="bearer", scope=scope, expires_in=life_s)
        response.status_code = 201
        response.headers["Cache-Control"] = "no-store"
        return response

    # Parts of the API.

    def _get_ticket(self, ticket_id: int) -> FakeTicket:
        if ticket_id not in self._tickets:
            raise _Refused(404)
        return self._tickets[ticket_id]

    def _get_open_ticket(self, ticket_id: int) -> FakeTicket:
        """A ticket to be changed. Raises _Refused for a closed one, and for one that was changed too often."""
        ticket = self._get_ticket(ticket_id)
        if wait_s := self._updates.take(ticket_id):
            raise _Refused(429, **{"Retry-After": str(wait_s)})
        if ticket.status == "closed":
            raise _invalid({"status": [{"description": "Status: closed prevents ticket update"}]})
        return ticket

    def _read_json(self) -> Any:
        if request.mimetype != "application/json":
            said = "Content-Type must be application/json"
            raise _Refused(415, {"error": "UnsupportedMediaType", "description": said})
        try:
            return json.loads(request.get_data())
        except ValueError:
            said = "Server could not parse JSON"
            raise _Refused(422, {"error": "Unprocessable Entity", "message": said}) from None

    def _read_ticket(self, *, creating: bool) -> dict[str, Any]:
        """The ticket in the request. Raises _Refused when the contract does not allow it."""
        sent = self._read_json()
        if not isinstance(sent, dict) or set(sent) != {"ticket"}:
            said = 'Ticket: the body must be {"ticket": {...}}'
            raise _invalid({"ticket": [{"description": said, "error": "InvalidValue"}]})
        ticket = sent["ticket"]
        if details := refusals(ticket, creating=creating):
            raise _invalid(details)
        if creating and (details := missing_fields(ticket, self.required_fields)):
            raise _invalid(details)
        if "requester_id" in ticket:
            self._check_requester(ticket["requester_id"])
        source = self._tickets.get(ticket.get("via_followup_source_id", 0))
        if "via_followup_source_id" in ticket and (source is None or source.status != "closed"):
            said = "Via followup source: must be a closed ticket"
            raise _invalid({"via_followup_source_id": [{"description": said, "error": "InvalidValue"}]})
        return dict(ticket)

    def _check_requester(self, user_id: int) -> None:
        user = self._users.get(user_id)
        if user is None or user.suspended:
            error = "UserSuspended" if user else "InvalidValue"
            said = f"Requester: {user.name} is suspended." if user else "Requester: is invalid"
            raise _invalid({"requester": [{"description": said, "error": error}]})

    def _store(self, sent: dict[str, Any]) -> FakeTicket:
        now = self._clock()
        comment = self._comment(sent["comment"], public=True)
        ticket = FakeTicket(
            id=FIRST_TICKET_ID + self._made,
            external_id=sent["external_id"],
            subject=sent.get("subject") or comment.plain_body[:150],
            status=sent.get("status", "new"),
            tags=split_tags(sent.get("tags", [])),
            priority=sent.get("priority"),
            fields=sent,
            comments=[comment],
            created_at=now,
            updated_at=now,
        )
        self._made += 1
        self._tickets[ticket.id] = ticket
        return ticket

    def _comment(self, sent: dict[str, Any], *, public: bool) -> FakeComment:
        self._comments_made += 1
        return new_comment(self._comments_made, sent, public=public, now=self._clock())

    # The page and its switches.

    def desk_view(self, ticket_id: int | None = None, limit: int = PER_PAGE) -> dict[str, Any]:
        """The values of a page with the tickets: the `limit` newest ones, and the opened one."""
        tickets = self.tickets[::-1]
        opened = next((ticket for ticket in tickets if ticket.id == ticket_id), None)
        return {
            "tickets": tickets[:limit],
            "ticket_count": len(tickets),
            "opened": opened,
            "missing": ticket_id is not None and opened is None,
            "requester_of": lambda ticket: self._users.get(ticket.fields.get("requester_id", AGENT_ID)),
            "statuses": STATUSES[1:],  # an agent can make none new again
            "portrait": portrait,
            "safe": safe_html,
            "iso": iso,
            "since": lambda at: ago(self._clock() - at),
        }

    def _page(self, ticket_id: int | None = None) -> tuple[str, int]:
        view = self.desk_view(ticket_id)
        page = render_template("zendesk.html", **view, inbox_page_url=self.inbox_page_url)
        return page, 404 if view["missing"] else 200

    def _change_status(self, ticket_id: int) -> AnyResponse:
        try:
            self.set_status(ticket_id, request.form.get("status", ""))
        except KeyError:
            abort(404)
        except ValueError as error:
            abort(422, str(error))
        return redirect(f"/agent/tickets/{ticket_id}", 303)

    def _set_rate_over_http(self) -> Response:
        wish = request.get_json(silent=True)
        per_minute = wish.get("per_minute") if isinstance(wish, dict) else -1
        if per_minute is not None and (not isinstance(per_minute, int) or per_minute < 0):
            raise _Refused(400, {"error": 'give {"per_minute": 100}, or null for no limit'})
        self.set_rate(per_minute)
        return jsonify(self.state())

    def _set_latency_over_http(self) -> Response:
        wish = request.get_json(silent=True)
        seconds = wish.get("seconds") if isinstance(wish, dict) else None
        if not isinstance(seconds, int | float) or not 0 <= seconds <= 60:
            raise _Refused(400, {"error": 'give {"seconds": 0.25}, from 0 to 60'})
        self.latency_s = float(seconds)
        return jsonify(self.state())


def _creation_answer(ticket: FakeTicket, lookup: str | None) -> Response:
    response = jsonify(ticket=ticket.as_json(_base()), audit=_audit(ticket))
    response.status_code = 201
    response.headers["Location"] = f"{_base()}/api/v2/tickets/{ticket.id}.json"
    if lookup:
        response.headers["x-idempotency-lookup"] = lookup
    return response


def _audit(ticket: FakeTicket) -> dict[str, Any]:
    comment = ticket.comments[-1]
    event = {"id": comment.id, "type": "Comment", "body": comment.plain_body}
    about = {"id": comment.id, "ticket_id": ticket.id, "author_id": AGENT_ID, "created_at": iso(ticket.updated_at)}
    return {**about, "events": [event]}


def _invalid(details: dict[str, list[dict[str, Any]]]) -> _Refused:
    return _Refused(422, {**_ERRORS[422], "details": details})


def _bad_grant(status: int, error: str, description: str) -> _Refused:
    return _Refused(status, {"error": error, "error_description": description})


def _refusal(refused: _Refused) -> tuple[Response, int, dict[str, str]]:
    return jsonify(refused.payload), refused.status, refused.headers


def _http_error(error: HTTPException) -> tuple[Response, int] | HTTPException:
    if not is_api(request.path):
        return error
    code = "InvalidEndpoint" if error.code == 404 else (error.name or "Error")
    return jsonify(error=code, description=error.description), error.code or 500


def _base() -> str:
    return request.host_url.rstrip("/")


def _positive(name: str, default: int) -> int:
    value = request.args.get(name, type=int)
    return default if value is None or value < 1 else value


def _page_url(page: int) -> str:
    others = {name: value for name, value in request.args.items() if name != "page"}
    return f"{_base()}{request.path}?{urlencode({**others, 'page': page})}"


def _pause(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)
