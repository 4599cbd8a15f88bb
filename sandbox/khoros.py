"""A simulated Khoros Marketing: the v2 notification API as published, and an inbox page where one applies labels.

People label posts, rules fire, messages are published, accounts are disconnected: each is an event for every active
subscription of its name.

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
from sandbox.messages import account_data, label_sets_of, new_message, result_of, rule_data
from sandbox.pages import ago, is_api, portrait, protect, refuse_strangers
from sandbox.posts import OTHER_LABELS, as_delivered, network_of, new_post, posts_at

LABEL_APPLIED, RULE_APPLIED = "stream-item-label-applied", "rule-applied"
PUBLISHED, SENT, NEEDS_APPROVAL = "message-published", "message-sent-to-network", "message-needs-approval"
DEAUTHORISED, CREDENTIAL_DELETED = "credential-deauth", "credential-delete"
EVENT_NAMES = {
    LABEL_APPLIED, RULE_APPLIED, PUBLISHED, SENT, NEEDS_APPROVAL, DEAUTHORISED, CREDENTIAL_DELETED,
    "credential-auth", "credential-reauth", "pass-conversation-control", "error-custom-crm",
}  # fmt: skip
ANNOUNCEMENT = "Our spring roast is here ☕ 20% off until Sunday <3"
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

    def wants(self, event_name: str, word: str, *, in_full: bool = False) -> bool:
        """Whether this subscription gets an event of this name about `word`, a label, a rule or a service: the regular
        expression `query` finds a match in it, or with `in_full` matches all of it; which one is not published."""
        match = re.fullmatch if in_full else re.search
        subscribed = self.status == "ACTIVE" and self.event_name == event_name
        return subscribed and (not self.query or match(self.query, word) is not None)


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
    wrapping of its list. Without `labels_in_events` both lists of labels are empty, as in the published example;
    `label_prefix` is written before a label ("General Labels - "). `query_in_full`: queries match in full, not in part.
    `label_sets` are the company's. `clock_ahead_s` sets this service's own clock. The page's buttons apply
    `label_name`; the page links to `zendesk_page_url`.
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
        self.labels_in_events, self.label_prefix, self.query_in_full = True, "", False
        self.label_sets = label_sets_of((label_name, *OTHER_LABELS))
        self.clock_ahead_s = 0.0
        self.faults = Faults(lambda status: _failure(status, f"Status {status}"), DEVELOPER_INACTIVE)
        self._true_clock = clock
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._posts = {post["entityId"]: post for post in posts_at(clock())}
        self._messages: dict[str, dict[str, Any]] = {}
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

    @property
    def messages(self) -> dict[str, dict[str, Any]]:
        """The messages by their ids, as they are now, oldest first."""
        with self._lock:
            return dict(self._messages)

    def event(self, event_uuid: str) -> dict[str, Any]:
        """The notification of an event. Raises KeyError for an unknown event."""
        with self._lock:
            return self._events[event_uuid].notification

    def label(self, post_id: str, label: str, *, times: int = 1) -> list[str]:
        """Applies `label` to a post, `times` times; each time is an event of its own. Returns the eventUuids, one for
        each active subscription that wants it. Raises KeyError for an unknown post."""
        with self._lock:
            post, name = self._posts[post_id], self.label_prefix + label
            self._posts[post_id] = {**post, "labels": [*(one for one in post["labels"] if one != name), name]}
            data = {"labels": [name] if self.labels_in_events else [], "items": [self._shown(post_id)]}
            return [made for _ in range(times) for made in self._happen(LABEL_APPLIED, label, data)]

    def fire_rule(self, post_id: str, rule_name: str, *, rule_id: str = "1001", times: int = 1) -> list[str]:
        """Lets a rule match a post, `times` times; returns as `label` does."""
        with self._lock:
            data = rule_data(self.company_id, rule_id, rule_name, self._shown(post_id))
            return [made for _ in range(times) for made in self._happen(RULE_APPLIED, rule_name, data)]

    def publish(
        self, service: str = "FACEBOOK", text: str = ANNOUNCEMENT, *, status: str = "PUBLISHED", **more: Any
    ) -> list[str]:
        """Lets a message go live, or with the status ERROR fail to; returns as `label` does. `more` is `title`,
        `labels`, `kind`, or the `message_id` of an earlier one; any other name is a field that is changed."""
        return self._tell(PUBLISHED, service, text, status, more)

    def send_to_network(self, service: str = "FACEBOOK", text: str = ANNOUNCEMENT, **more: Any) -> list[str]:
        """Lets a network take a message that it publishes later by itself; as `publish`."""
        return self._tell(SENT, service, text, "PENDING", more)

    def needs_approval(self, service: str = "FACEBOOK", text: str = ANNOUNCEMENT, **more: Any) -> list[str]:
        """Lets a message wait for a colleague's approval; as `publish`."""
        return self._tell(NEEDS_APPROVAL, service, text, "", more)

    def disconnect(self, account_id: str = "9001", *, service: str = "FACEBOOK", deleted: bool = False) -> list[str]:
        """Lets a social account lose its connection, or be deleted; returns as `label` does."""
        event_name = CREDENTIAL_DELETED if deleted else DEAUTHORISED
        with self._lock:
            return self._happen(event_name, service, account_data(account_id, service))

    def list_only(self, event: dict[str, Any], *, event_name: str = LABEL_APPLIED, place: int | None = None) -> None:
        """Lets an event have happened that nobody pushes: /data/{uuid} of the first subscription of this name lists it
        as the newest one, or as number `place` from the oldest. Raises StopIteration without such a subscription."""
        with self._lock:
            [uuid, *_] = [s.uuid for s in self._subscriptions.values() if s.event_name == event_name]
            events = list(self._events.items())
            at = len(events) if place is None else place
            name = str(event.get("eventUuid") or f"listed-{len(events)}")
            self._events = dict([*events[:at], (name, _Event(uuid, event)), *events[at:]])

    def forget_event(self, event_uuid: str) -> None:
        """Lists an event no longer. Raises KeyError for an unknown event."""
        with self._lock:
            del self._events[event_uuid]

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

    def set_status(self, status: str, event_name: str | None = None) -> None:
        """Sets the status of every subscription, or of those of one event name, as an administrator of Khoros would."""
        self.change_subscriptions(event_name, status=status)

    def change_subscriptions(self, event_name: str | None = None, /, **changes: Any) -> None:
        """Changes these fields of every subscription, or of those of one event name, from Khoros' side."""
        with self._lock:
            for key, one in self._subscriptions.items():
                if event_name in (None, one.event_name):
                    self._subscriptions[key] = replace(one, **changes)

    def forget_subscriptions(self, event_name: str | None = None) -> None:
        """Deletes every subscription, or those of one event name."""
        with self._lock:
            kept = {key: s for key, s in self._subscriptions.items() if event_name not in (None, s.event_name)}
            self._subscriptions = kept

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

    def _clock(self) -> float:
        return self._true_clock() + self.clock_ahead_s

    def _shown(self, post_id: str) -> dict[str, Any]:
        """A post as events show it."""
        post = as_delivered(self._posts[post_id])
        return post if self.labels_in_events else {**post, "labels": []}

    def _tell(self, event_name: str, service: str, text: str, status: str, more: dict[str, Any]) -> list[str]:
        """Makes a message, or takes an earlier one a step further, and the event about it."""
        message_id = str(more.pop("message_id", ""))
        words: dict[str, Any] = {"title": "Spring roast", "labels": ["General Labels - Campaign"], "kind": "Status"}
        words |= {name: more.pop(name) for name in words.keys() & more.keys()}
        with self._lock:
            number = int(message_id) if message_id.isdecimal() else 88_000 + len(self._messages)
            message = self._messages.get(message_id) or new_message(
                number, self._clock(), service=service, text=text, **words
            )
            results = [result_of(message["service"], number, status, self._clock())] if status else []
            message = {**message, "publicationResults": results, **more}
            self._messages[str(message["id"])] = message
            return self._happen(event_name, str(message["service"]), message)

    def _happen(self, event_name: str, word: str, data: dict[str, Any]) -> list[str]:
        """Makes an event for each subscription that wants it, and pushes it. Returns their uuids."""
        in_full = self.query_in_full
        wanting = [s for s in self._subscriptions.values() if s.wants(event_name, word, in_full=in_full)]
        made = [self._make_event(subscription, data) for subscription in wanting]
        for event_uuid in made:
            self._push(event_uuid)
        return made

    def _make_event(self, subscription: FakeSubscription, data: dict[str, Any]) -> str:
        event_uuid = str(uuid.uuid4())
        self._events[event_uuid] = _Event(
            subscription.uuid,
            {
                "companyId": self.company_id,
                "eventName": subscription.event_name,
                "createdDate": chicago(self._clock()),
                "eventUuid": event_uuid,
                "type": "hydrated",
                "subscriptionUuid": subscription.uuid,
                "data": data,
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
            ("GET", "/v2/labelsets/", self._list_label_sets),
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
        app.after_request(self._date)

    def _api_view(self, view: Callable[..., Any]) -> Callable[..., Response]:
        """`view` with a check of the token before it and the envelope around its payload."""

        def answer(**path: str) -> Response:
            self._admit()
            with self._lock:
                payload = view(**path)
            return payload if isinstance(payload, Response) else jsonify(payload if self.bare else _envelope(payload))

        return answer

    def _date(self, response: Response) -> Response:
        """The time by this service's own clock."""
        response.date = datetime.fromtimestamp(self._clock(), UTC)
        return response

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

    def _list_label_sets(self) -> Response:
        """Pages begin with 1, and both parameters are required."""
        page, size = _number("pageNumber"), _number("pageSize")
        if not page or not size:
            raise _Refused(400, "pageNumber and pageSize are required")
        shown = self.label_sets[(page - 1) * size : page * size]
        return jsonify(data=shown, pageNumber=page, pageSize=size, totalRecords=len(self.label_sets))

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
            newest = {
                item["entityId"]: key
                for key, event in self._events.items()
                for item in event.notification["data"].get("items", ())
            }
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
            items = self.event(event_uuid)["data"].get("items") or [{"entityId": ""}]
            return self._back_to(items[0]["entityId"])
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
