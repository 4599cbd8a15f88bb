"""A simulated Khoros Marketing: the v2 notification API as published, and an inbox page where one applies labels.

https://developer.khoros.com/khorosmarketingdevdocs/reference/notification-overview
It pushes every event once and never again, whatever the answer is: no retry is published.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import requests
from flask import Flask, Response, jsonify, redirect, render_template, request
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from sandbox.calls import Call, Recorder
from sandbox.faults import Faults, control
from sandbox.pages import ago, is_api, portrait, protect, refuse_strangers
from sandbox.posts import OTHER_LABELS, network_of, new_post, posts_at

LABEL_APPLIED = "stream-item-label-applied"
EVENT_NAMES = {
    LABEL_APPLIED, "rule-applied", "message-published", "message-sent-to-network", "message-needs-approval",
    "credential-auth", "credential-reauth", "credential-deauth", "credential-delete", "pass-conversation-control",
    "error-custom-crm",
}  # fmt: skip
STATUSES = ("ACTIVE", "PAUSED", "DISABLED")
USER_ID = 4711
DEVELOPER_INACTIVE = b"<!doctype html><html><head><title>403</title></head><h1>Developer Inactive</h1></html>"
REFUSED = "connection refused"  # nothing listens at the address, so the request never began
UNKNOWN_PATH = "<!doctype html><html><head><title>586</title></head><body><h1>Not Found</h1></body></html>"


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class FakeSubscription:
    """A subscription as it is now."""

    uuid: str
    external_id: str
    event_name: str
    notification_uri: str | None
    query: str | None
    bearer_token: str | None
    status: str
    created_date: str

    def wants(self, label: str) -> bool:
        """Whether this subscription gets an event about `label`: the regular expression `query` finds a match in it."""
        subscribed = self.status == "ACTIVE" and self.event_name == LABEL_APPLIED
        return subscribed and (not self.query or re.search(self.query, label) is not None)


@dataclass(frozen=True)
class Push:
    """One POST to a notificationUri. `outcome` is the status of the answer, REFUSED, or the name of another error."""

    event_uuid: str
    outcome: int | str
    seconds: float


@dataclass(frozen=True)
class _Event:
    subscription_uuid: str
    notification: dict[str, Any]


class FakeKhoros:
    """One company with one token. `app` is the WSGI app; give it to `Server`; the API is under /v2.

    With `bare` payloads come without their envelope. `event_order` is the order of /data/{uuid}, `events_shape` the
    wrapping of its list. Without `labels_in_events` both lists of labels are empty, as in the published example. The
    page's buttons apply `label_name`; the page links to `zendesk_page_url`.
    """

    def __init__(
        self,
        *,
        token: str = "made-up-khoros-token",
        company_id: int = 123,
        clock: Callable[[], float] = time.time,
        push_timeout_s: float = 10,
        workers: int = 8,
        label_name: str = "CreateCase",
        zendesk_page_url: str | None = None,
    ) -> None:
        self.token, self.company_id = token, company_id
        self.label_name, self.zendesk_page_url = label_name, zendesk_page_url
        self.bare = False
        self.event_order: Literal["newest", "oldest"] = "newest"
        self.events_shape: Literal["bare", "data", "data.items"] = "data"
        self.labels_in_events = True
        self.faults = Faults(lambda status: _failure(status, f"Status {status}"), DEVELOPER_INACTIVE)
        self._clock = clock
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._posts = {post["entityId"]: post for post in posts_at(clock())}
        self._subscriptions: dict[str, FakeSubscription] = {}
        self._events: dict[str, _Event] = {}  # by event uuid, oldest first
        self._pushes: list[Push] = []
        self._under_way = 0
        self._push_timeout_s = push_timeout_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="khoros-push")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no netrc of this machine
        self._session.mount("http://", HTTPAdapter(pool_maxsize=workers))
        self.app = Flask(__name__)
        self._add_routes()
        self._recorder = Recorder(self.faults.wrap(self.app.wsgi_app), clock)
        self.app.wsgi_app = self._recorder  # type: ignore[method-assign]  # Flask's documented way

    @property
    def calls(self) -> list[Call]:
        """Every API call so far, in the order the answers left."""
        return self._recorder.calls

    @property
    def subscriptions(self) -> list[FakeSubscription]:
        """All subscriptions, oldest first."""
        with self._lock:
            return list(self._subscriptions.values())

    @property
    def pushes(self) -> list[Push]:
        """Every push that has ended, in the order in which they ended."""
        with self._lock:
            return list(self._pushes)

    @property
    def posts(self) -> dict[str, dict[str, Any]]:
        """The stream items by entityId, as they are now."""
        with self._lock:
            return dict(self._posts)

    def event(self, event_uuid: str) -> dict[str, Any]:
        """The notification of an event. Raises KeyError for an unknown event."""
        with self._lock:
            return self._events[event_uuid].notification

    def label(self, post_id: str, label: str, *, times: int = 1) -> list[str]:
        """Applies `label` to a post, `times` times; each time is an event of its own. Returns the eventUuids, one for
        each active subscription that wants it. Raises KeyError for an unknown post."""
        made = []
        with self._lock:
            for _ in range(times):
                post = self._posts[post_id]
                labels = [*(name for name in post["labels"] if name != label), label]
                self._posts[post_id] = {**post, "labels": labels}
                wanting = [s for s in self._subscriptions.values() if s.wants(label)]
                made += [self._make_event(subscription, post_id, label) for subscription in wanting]
        for event_uuid in made:
            self._push(event_uuid)
        return made

    def label_many(self, n: int, label: str | None = None) -> list[str]:
        """Adds `n` new posts and applies the label to each. Returns the posts' ids."""
        fresh = self.add_posts(n)
        for post_id in fresh:
            self.label(post_id, label or self.label_name)
        return fresh

    def add_posts(self, n: int, **changes: Any) -> list[str]:
        """Adds `n` new posts with these fields changed. Returns their ids."""
        with self._lock:
            fresh = [new_post(len(self._posts) + i, self._clock()) | changes for i in range(n)]
            self._posts |= {post["entityId"]: post for post in fresh}
        return [post["entityId"] for post in fresh]

    def repeat(self, event_uuid: str) -> None:
        """Pushes the same event once more. Raises KeyError for an unknown event."""
        self.event(event_uuid)
        self._push(event_uuid)

    def drain(self, timeout_s: float = 30.0) -> bool:
        """Waits until no push is under way. Returns False when one still is after `timeout_s`."""
        with self._idle:
            return self._idle.wait_for(lambda: self._under_way == 0, timeout_s)

    def set_status(self, status: str) -> None:
        """Sets the status of every subscription, as an administrator of Khoros would."""
        with self._lock:
            self._subscriptions = {key: replace(s, status=status) for key, s in self._subscriptions.items()}

    def forget_subscriptions(self) -> None:
        """Deletes every subscription."""
        with self._lock:
            self._subscriptions.clear()

    def close(self) -> None:
        """Stops pushing. Events that have not left stay in /data; a push under way ends by its timeout."""
        self.faults.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def state(self) -> dict[str, Any]:
        """The answer to GET /_sandbox/state."""
        with self._lock:
            outcomes = [push.outcome for push in self._pushes]
            counts = {str(outcome): outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
            subscriptions = [{**self._as_json(s), "bearerToken": "[secret]"} for s in self._subscriptions.values()]
            pushed = {"done": counts, "under_way": self._under_way}
            numbers = {"posts": len(self._posts), "events": len(self._events)}
        return {**numbers, "pushes": pushed, "subscriptions": subscriptions, **self.faults.state()}

    # Events.

    def _make_event(self, subscription: FakeSubscription, post_id: str, label: str) -> str:
        event_uuid = str(uuid.uuid4())
        item = self._posts[post_id] if self.labels_in_events else {**self._posts[post_id], "labels": []}
        self._events[event_uuid] = _Event(
            subscription.uuid,
            {
                "companyId": self.company_id,
                "eventName": subscription.event_name,
                "createdDate": chicago(self._clock()),
                "eventUuid": event_uuid,
                "type": "hydrated",
                "subscriptionUuid": subscription.uuid,
                "data": {"labels": [label] if self.labels_in_events else [], "items": [item]},
            },
        )
        return event_uuid

    def _push(self, event_uuid: str) -> None:
        with self._lock:
            event = self._events[event_uuid]
            subscription = self._subscriptions.get(event.subscription_uuid)
            if subscription is None or not subscription.notification_uri:
                return
            self._under_way += 1
        try:
            self._pool.submit(self._send, subscription, event.notification)
        except RuntimeError:  # closed meanwhile
            self._record_push(Push(event_uuid, "closed", 0.0))

    def _send(self, subscription: FakeSubscription, notification: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json", "X-Request-Id": str(uuid.uuid4())}
        if subscription.bearer_token:
            headers["Authorization"] = f"Bearer {subscription.bearer_token}"
        body = json.dumps(notification, ensure_ascii=False).encode()
        outcome: int | str = "not sent"
        began_at = time.perf_counter()
        try:
            uri, timeout_s = subscription.notification_uri or "", self._push_timeout_s
            answer = self._session.post(uri, data=body, headers=headers, timeout=timeout_s, allow_redirects=False)
            outcome = answer.status_code
        except requests.RequestException as error:
            outcome = REFUSED if _is_refused(error) else type(error).__name__
        finally:
            self._record_push(Push(notification["eventUuid"], outcome, time.perf_counter() - began_at))

    def _record_push(self, push: Push) -> None:
        with self._idle:
            self._pushes.append(push)
            self._under_way -= 1
            self._idle.notify_all()

    # The wiring.

    def _add_routes(self) -> None:
        app = self.app
        app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
        one = "/v2/events/subscription/<subscription_uuid>"
        api: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/v2/events/subscription", self._subscribe),
            ("GET", "/v2/events/subscription", self._list_subscriptions),
            ("GET", one, self._show_subscription),
            ("PUT", f"{one}/<status>", self._set_subscription_status),
            ("DELETE", one, self._delete_subscription),
            ("GET", "/v2/events/data/<subscription_uuid>", self._list_events),
            ("GET", "/v2/whoami/", self._whoami),
        ]
        for method, path, view in api:
            app.add_url_rule(path, f"{method} {path}", self._api_view(view), methods=[method])
        app.add_url_rule("/", "inbox", self._page)
        app.add_url_rule("/inbox/label", "label", self._label_over_http, methods=["POST"])
        app.add_url_rule("/inbox/repeat", "repeat", self._repeat_over_http, methods=["POST"])
        app.register_blueprint(control(self.faults, self.state))
        app.register_error_handler(_Refused, _refusal)
        app.register_error_handler(HTTPException, _http_error)
        app.before_request(refuse_strangers)
        app.after_request(protect)

    def _api_view(self, view: Callable[..., Any]) -> Callable[..., Response]:
        """`view` with a check of the token before it and the envelope around its payload."""

        def answer(**path: str) -> Response:
            self._admit()
            with self._lock:
                payload = view(**path)
            return payload if isinstance(payload, Response) else jsonify(payload if self.bare else _envelope(payload))

        return answer

    def _admit(self) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise _Refused(401, "Invalid or missing access token")
        company_id = request.headers.get("x-sf-company-id")
        if company_id not in (None, str(self.company_id)):
            raise _Refused(403, f"Company {company_id} does not allow the application sandbox-client")

    # The API. Each of these functions runs under the lock.

    def _subscribe(self) -> dict[str, Any]:
        sent = request.get_json(silent=True)
        if not isinstance(sent, dict):
            raise _Refused(400, "The body is not a JSON object")
        self._check(sent)
        old = next((s for s in self._subscriptions.values() if sent.get("externalId") == s.external_id), None)
        subscription = FakeSubscription(
            uuid=old.uuid if old else str(uuid.uuid4()),
            external_id=sent.get("externalId") or str(uuid.uuid4()),
            event_name=sent["eventName"],
            notification_uri=sent.get("notificationUri"),
            query=sent.get("query"),
            bearer_token=sent.get("bearerToken"),
            status=old.status if old else "ACTIVE",  # an update does not resume a paused one
            created_date=old.created_date if old else _iso(self._clock()),
        )
        self._subscriptions[subscription.uuid] = subscription
        return self._as_json(subscription)

    def _check(self, sent: dict[str, Any]) -> None:
        read_only = {"uuid", "userId", "createdDate", "key", "status"}
        known = {"companyId", "externalId", "eventName", "notificationUri", "query", "bearerToken", "version"}
        if unknown := sorted(set(sent) - known - read_only):
            raise _Refused(400, f"Unknown field {unknown[0]}")
        for name in ("externalId", "notificationUri", "query", "bearerToken"):
            if not isinstance(sent.get(name), str | None):
                raise _Refused(400, f"{name} must be text")
        if isinstance(sent.get("companyId"), bool) or sent.get("companyId") != self.company_id:
            raise _Refused(400, "companyId must be the number of the company you call for")
        if sent.get("eventName") not in EVENT_NAMES:
            raise _Refused(400, "Unknown eventName")
        address = sent.get("notificationUri")
        if address is not None and not _is_web_address(address):
            raise _Refused(400, "notificationUri must be an absolute http or https address")
        try:
            re.compile(sent.get("query") or "")
        except re.error as error:
            raise _Refused(400, f"query is not a regular expression: {error}") from None

    def _list_subscriptions(self) -> list[dict[str, Any]]:
        page, size = _number("pageNumber"), _number("pageSize")
        return [self._as_json(s) for s in list(self._subscriptions.values())[page * size : (page + 1) * size]]

    def _show_subscription(self, subscription_uuid: str) -> dict[str, Any]:
        return self._as_json(self._get_subscription(subscription_uuid))

    def _set_subscription_status(self, subscription_uuid: str, status: str) -> dict[str, Any]:
        subscription = self._get_subscription(subscription_uuid)
        if status not in STATUSES:
            raise _Refused(422, f"status must be one of {', '.join(STATUSES)}")
        self._subscriptions[subscription_uuid] = replace(subscription, status=status)
        return self._as_json(self._subscriptions[subscription_uuid])

    def _delete_subscription(self, subscription_uuid: str) -> dict[str, Any]:
        self._get_subscription(subscription_uuid)
        del self._subscriptions[subscription_uuid]
        return {}

    def _list_events(self, subscription_uuid: str) -> Response:
        self._get_subscription(subscription_uuid)
        offset, limit = _number("offset"), _number("limit")
        events = [e.notification for e in self._events.values() if e.subscription_uuid == subscription_uuid]
        shown = (events if self.event_order == "oldest" else events[::-1])[offset : offset + limit]
        payload = {"items": shown} if self.events_shape == "data.items" else shown
        return jsonify(payload if self.bare or self.events_shape == "bare" else _envelope(payload))

    def _whoami(self) -> dict[str, Any]:
        company = {"id": self.company_id, "name": "Acme Coffee", "products": ["CONVERSATIONS"]}
        person = {"id": USER_ID, "email": "relay@acme.example", "firstName": "Relay", "lastName": "Service"}
        return {**person, "companies": [company]}

    def _get_subscription(self, subscription_uuid: str) -> FakeSubscription:
        if subscription_uuid not in self._subscriptions:
            raise _Refused(404, "No such subscription")
        return self._subscriptions[subscription_uuid]

    def _as_json(self, subscription: FakeSubscription) -> dict[str, Any]:
        event_name = subscription.event_name
        return {
            "uuid": subscription.uuid,
            "externalId": subscription.external_id,
            "companyId": self.company_id,
            "userId": USER_ID,
            "eventName": event_name,
            "notificationUri": subscription.notification_uri,
            "query": subscription.query,
            "bearerToken": subscription.bearer_token,
            "createdDate": subscription.created_date,
            "status": subscription.status,
            "key": {"uuid": subscription.uuid, "companyId": self.company_id, "eventName": event_name},
        }

    # The page.

    def inbox_view(self, limit: int = 100, leave_out: Collection[str] = ()) -> dict[str, Any]:
        """The values of a page with the inbox: the `limit` newest posts without those to leave out, and the pushes."""
        with self._lock:
            posts = [post for post in self._posts.values() if post["entityId"] not in leave_out]
            subscriptions = list(self._subscriptions.values())
            newest = {e.notification["data"]["items"][0]["entityId"]: key for key, e in self._events.items()}
            pushes = {push.event_uuid: push for push in self._pushes}
            times_pushed = Counter(push.event_uuid for push in self._pushes)
            pushing = self._under_way > 0
        posts.sort(key=lambda post: str(post["createdDate"]), reverse=True)
        return {
            "posts": posts[:limit],
            "post_count": len(posts),
            "subscriptions": subscriptions,
            "label_name": self.label_name,
            "labels": (self.label_name, *OTHER_LABELS),
            "events": newest,
            "pushes": pushes,
            "times_pushed": times_pushed,
            "pushing": pushing,
            "network_of": network_of,
            "portrait": portrait,
            "posted_ago": lambda created: ago(self._clock() - datetime.fromisoformat(created).timestamp()),
        }

    def _page(self) -> str:
        return render_template("khoros.html", **self.inbox_view(), zendesk_page_url=self.zendesk_page_url)

    def _label_over_http(self) -> AnyResponse:
        post_id = request.form.get("post", "")
        if post_id not in self.posts:
            return Response("There is no such post.\n", 404, content_type="text/plain")
        self.label(post_id, request.form.get("label") or self.label_name)
        return self._back_to(post_id)

    def _repeat_over_http(self) -> AnyResponse:
        event_uuid = request.form.get("event", "")
        try:
            self.repeat(event_uuid)
            return self._back_to(self.event(event_uuid)["data"]["items"][0]["entityId"])
        except KeyError:
            return Response("There is no such event.\n", 404, content_type="text/plain")

    def _back_to(self, post_id: str) -> AnyResponse:
        self.drain(1.0)  # usually long enough to show the outcome
        return redirect(f"/#{post_id}", 303)


def chicago(at: float) -> str:
    """A time in seconds as Khoros writes it: Wed Apr 12 09:01:11 CDT 2017."""
    zone: tzinfo
    try:
        zone = ZoneInfo("America/Chicago")
    except ZoneInfoNotFoundError:  # a machine without time zones
        zone = timezone(timedelta(hours=-6), "CST")
    return datetime.fromtimestamp(at, zone).strftime("%a %b %d %H:%M:%S %Z %Y")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _envelope(payload: object) -> dict[str, Any]:
    return {"data": payload, "status": {"succeeded": True}}


def _failure(status: int, message: str) -> dict[str, Any]:
    return {"status": {"error": {"code": str(status), "message": message}, "succeeded": False}}


def _refusal(refused: _Refused) -> tuple[Response, int]:
    return jsonify(_failure(refused.status, refused.message)), refused.status


def _http_error(error: HTTPException) -> AnyResponse | HTTPException | tuple[Response, int]:
    if not is_api(request.path):
        return error
    if error.code == 404:
        return Response(UNKNOWN_PATH, 586, content_type="text/html; charset=utf-8")
    return jsonify(_failure(error.code or 500, error.name)), error.code or 500


def _number(name: str) -> int:
    """A paging parameter. It is 0 when it is left out, as published."""
    value = request.args.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise _Refused(400, f"{name} must be a number")
    return int(value)


def _is_refused(error: requests.RequestException) -> bool:
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), NewConnectionError)


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
