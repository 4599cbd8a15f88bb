"""A simulated Slack workspace: the few calls of its Web API that an app needs to post, and a page that shows it all.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flask import Flask, Response, jsonify, render_template, request

from sandbox.calls import Call, Recorder
from sandbox.faults import Faults, control
from sandbox.pages import ago, protect, refuse_strangers
from sandbox.slack_blocks import mentions, refusal

POST = "/api/chat.postMessage"
SCOPES = ("chat:write", "chat:write.public", "users:read", "users:read.email")
HTML = b"<!DOCTYPE html><title>Slack</title><h1>Server Error</h1>"
_NEEDED = {"chat.postMessage": "chat:write", "users.lookupByEmail": "users:read.email"}


class _Refused(Exception):
    """An answer that is not ok; `more` is what it says beside the error."""

    def __init__(self, error: str, status: int = 200, retry_after_s: int | None = None, **more: Any) -> None:
        super().__init__(error)
        self.error, self.status, self.retry_after_s, self.more = error, status, retry_after_s, more


@dataclass(frozen=True)
class FakeChannel:
    """A channel, or with a `user` the direct messages with a person."""

    id: str
    name: str
    user: str = ""
    member: bool = True  # whether the app is in it
    private: bool = False
    archived: bool = False


@dataclass(frozen=True)
class FakeUser:
    """A person of the workspace."""

    id: str
    name: str
    email: str
    messages_tab: bool = True  # whether people may get direct messages from the app


@dataclass(frozen=True)
class FakeMessage:
    """A message as Slack keeps it. `sent` is the app's request; `at` is in seconds since 1970."""

    ts: str
    channel: str  # the id
    text: str
    blocks: list[dict[str, Any]]
    thread_ts: str | None
    at: float
    mentions: list[str]
    sent: dict[str, Any] = field(repr=False)


class FakeSlack:
    """A workspace with one app in it. `app` is the WSGI app; give it to `Server`, and "/api" behind its address to the
    relay. Each channel takes `per_second` messages a second and `burst` at once; None is no limit. Every call takes
    `latency_s`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        bot_token: str = "xoxb-made-up-slack-token",  # noqa: S107 - made up
        per_second: float | None = 1.0,
        burst: int = 5,
        latency_s: float = 0.0,
    ) -> None:
        self.bot_token, self.bot, self.team = bot_token, "relay", "Acme"
        self.scopes: tuple[str, ...] = SCOPES
        self.per_second, self.burst, self.latency_s = per_second, burst, latency_s
        self.faults = Faults(
            lambda status: {"ok": False, "error": "ratelimited" if status == 429 else "fatal_error"}, HTML
        )
        self._clock, self._lock = clock, threading.RLock()
        self._channels: dict[str, FakeChannel] = {}
        self._users: dict[str, FakeUser] = {}
        self._messages: list[FakeMessage] = []
        self._spent: dict[str, tuple[float, float]] = {}  # channel: messages not yet paid off, and when that was
        self._last_ts = 0.0
        for name in ("social-care", "social-crisis"):
            self.add_channel(name)
        self.add_user("ann@acme.example", "Ann Keller")
        self.app = Flask(__name__)
        self._add_routes()
        self._recorder = Recorder(self.faults.wrap(self.app.wsgi_app), clock)
        self.app.wsgi_app = self._recorder  # type: ignore[method-assign]  # Flask's documented way

    # What a test or the demo sets and sees

    def add_channel(self, name: str, **more: Any) -> FakeChannel:
        """Adds a channel, or changes the one with this name."""
        with self._lock:
            known = next((channel for channel in self._channels.values() if channel.name == name), None)
            channel = replace(known, **more) if known else FakeChannel(f"C0{len(self._channels):07d}", name, **more)
            self._channels[channel.id] = channel
            return channel

    def add_user(self, email: str, name: str, **more: Any) -> FakeUser:
        """Adds a person, who gets an id of their own each time."""
        with self._lock:
            user = FakeUser(f"U0{len(self._users):07d}", name, email, **more)
            self._users[user.id] = user
            return user

    def remove_user(self, user_id: str) -> None:
        with self._lock:
            del self._users[user_id]

    def fail_with(self, next_n: int | None, error: str, *, path: str = POST, effect: bool = False, **more: Any) -> None:
        """Answers the next `next_n` calls (None: every call until `faults.clear()`) with 200 and `"ok": false`."""
        options: dict[str, Any] = {"body": {"ok": False, "error": error, **more}, "path": path, "effect": effect}
        if next_n is None:
            self.faults.outage(200, **options)
        else:
            self.faults.fail(next_n, 200, **options)

    def delete_message(self, ts: str) -> None:
        """Deletes a message with its thread."""
        with self._lock:
            self._messages = [one for one in self._messages if ts not in (one.ts, one.thread_ts)]

    @property
    def messages(self) -> list[FakeMessage]:
        """All messages, oldest first."""
        with self._lock:
            return list(self._messages)

    def messages_in(self, place: str) -> list[FakeMessage]:
        """The messages of a channel by its name, or those to a person by the e-mail address, oldest first."""
        with self._lock:
            user = next((user.id for user in self._users.values() if user.email == place), None)
            found = {one.id for one in self._channels.values() if (one.user == user if user else one.name == place)}
            return [message for message in self._messages if message.channel in found]

    @property
    def calls(self) -> list[Call]:
        """Every API call so far, also refused and dropped ones, in the order in which the answers left."""
        return self._recorder.calls

    def state(self) -> dict[str, Any]:
        """The answer to GET /_sandbox/state."""
        with self._lock:
            numbers = {"messages": len(self._messages), "calls": len(self.calls), "latency_s": self.latency_s}
        return {**numbers, "per_second": self.per_second, **self.faults.state()}

    # The API

    def _add_routes(self) -> None:
        app = self.app
        app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
        methods: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "auth.test": self._test_auth,
            "users.lookupByEmail": self._look_up,
            "chat.postMessage": self._post,
        }
        for name, method in methods.items():
            app.add_url_rule(f"/api/{name}", name, self._view(name, method), methods=["GET", "POST"])
        app.add_url_rule("/", "workspace", self._page)
        app.add_url_rule("/archives/<channel_id>", "channel", self._page)
        app.add_url_rule("/archives/<channel_id>/<permalink>", "message", self._page)
        app.register_blueprint(control(self.faults, self.state))
        app.register_error_handler(_Refused, _refusal)
        app.before_request(refuse_strangers)
        app.after_request(_add_request_id)
        app.after_request(protect)

    def _view(self, name: str, method: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[], Response]:
        def answer() -> Response:
            if self.latency_s:
                time.sleep(self.latency_s)
            with self._lock:
                self._admit(name)
                return jsonify({"ok": True, **method(_arguments())})

        return answer

    def _admit(self, method: str) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not token:
            raise _Refused("not_authed")
        if scheme != "Bearer" or token != self.bot_token:
            raise _Refused("invalid_auth")
        needed = _NEEDED.get(method)
        if needed and needed not in self.scopes:
            raise _Refused("missing_scope", needed=needed, provided=",".join(self.scopes))

    def _test_auth(self, arguments: dict[str, Any]) -> dict[str, Any]:
        ids = {"team_id": "T0000001", "user_id": "U0BOT", "bot_id": "B0000001", "is_enterprise_install": False}
        return {"url": request.host_url, "team": self.team, "user": self.bot, **ids}

    def _look_up(self, arguments: dict[str, Any]) -> dict[str, Any]:
        user = next((user for user in self._users.values() if user.email == arguments.get("email")), None)
        if user is None:
            raise _Refused("users_not_found")
        return {"user": {"id": user.id, "name": user.name, "deleted": False, "profile": {"email": user.email}}}

    def _post(self, sent: dict[str, Any]) -> dict[str, Any]:
        channel = self._find_channel(str(sent.get("channel") or ""))
        if fault := refusal(sent):
            raise _Refused(fault[0], response_metadata={"messages": [f"[ERROR] {fault[1]}"]})
        self._take_place(channel)
        here = [message for message in self._messages if message.channel == channel.id]
        if (key := sent.get("client_msg_id")) and any(message.sent.get("client_msg_id") == key for message in here):
            raise _Refused("duplicate_message_not_found")
        if (thread := sent.get("thread_ts")) and not any(thread == message.ts for message in here):
            raise _Refused("thread_not_found")
        message = self._keep(channel, sent)
        said = {"type": "message", "user": "U0BOT", "bot_id": "B0000001", "text": message.text, "ts": message.ts}
        return {"channel": channel.id, "ts": message.ts, "message": {**said, "blocks": message.blocks}}

    def _find_channel(self, wanted: str) -> FakeChannel:
        if user := self._users.get(wanted):
            if not user.messages_tab:
                raise _Refused("messages_tab_disabled")
            return self._direct_messages(user)
        by_name = (one for one in self._channels.values() if one.name == wanted.removeprefix("#"))
        channel = self._channels.get(wanted) or next(by_name, None)
        if channel is None or (channel.private and not channel.member):
            raise _Refused("channel_not_found")
        if channel.archived:
            raise _Refused("is_archived")
        if not channel.member and "chat:write.public" not in self.scopes:
            raise _Refused("not_in_channel")
        return channel

    def _direct_messages(self, user: FakeUser) -> FakeChannel:
        known = next((channel for channel in self._channels.values() if channel.user == user.id), None)
        if known is None:
            known = FakeChannel(f"D0{len(self._channels):07d}", user.name, user=user.id)
            self._channels[known.id] = known
        return known

    def _take_place(self, channel: FakeChannel) -> None:
        """Raises 429 when the channel gets more than its share."""
        if self.per_second is None:
            return
        now = self._clock()
        spent, at = self._spent.get(channel.id, (0.0, now))
        spent = max(0.0, spent - (now - at) * self.per_second)
        if spent + 1 > self.burst:
            raise _Refused("ratelimited", 429, retry_after_s=max(1, round((spent + 1 - self.burst) / self.per_second)))
        self._spent[channel.id] = (spent + 1, now)

    def _keep(self, channel: FakeChannel, sent: dict[str, Any]) -> FakeMessage:
        self._last_ts = max(self._last_ts + 0.0001, self._clock())
        message = FakeMessage(
            ts=f"{self._last_ts:.6f}",
            channel=channel.id,
            text=str(sent.get("text") or ""),
            blocks=sent.get("blocks") or [],
            thread_ts=sent.get("thread_ts"),
            at=self._clock(),
            mentions=mentions(sent),
            sent=sent,
        )
        self._messages.append(message)
        return message

    # The page

    def view(self, channel_id: str | None = None, limit: int = 50) -> dict[str, Any]:
        """The values of a page: the channels, and the newest messages of the opened one with their replies. Without
        `channel_id` that is the channel with the newest message."""
        with self._lock:
            channels, messages = list(self._channels.values()), list(self._messages)
        newest = channel_id or (messages[-1].channel if messages else channels[0].id)
        opened = next((channel for channel in channels if channel.id == newest), None)
        here = [message for message in messages if opened and message.channel == opened.id]
        first = [message for message in here if message.thread_ts is None][-limit:]
        replies = {one.ts: [reply for reply in here if reply.thread_ts == one.ts] for one in first}
        counts = {channel.id: sum(one.channel == channel.id for one in messages) for channel in channels}
        since = {"since": lambda at: ago(self._clock() - at)}
        return {
            "channels": channels,
            "opened": opened,
            "messages": first,
            "replies": replies,
            "counts": counts,
            **since,
        }

    def _page(self, channel_id: str | None = None, permalink: str | None = None) -> tuple[str, int]:
        view = self.view(channel_id)
        return render_template("slack.html", **view, permalink=permalink), 200 if view["opened"] else 404


def _arguments() -> dict[str, Any]:
    """What a call sends, as JSON, as a form or in the query. Raises _Refused."""
    if request.method == "GET":
        return request.args.to_dict()
    if request.mimetype == "application/json":
        sent = request.get_json(silent=True)
        if not isinstance(sent, dict):
            raise _Refused("invalid_json")
        return sent
    sent = request.form.to_dict()
    try:
        return {**sent, "blocks": json.loads(sent["blocks"])} if "blocks" in sent else sent
    except ValueError:
        raise _Refused("invalid_blocks_format") from None


def _refusal(refused: _Refused) -> tuple[Response, int]:
    response = jsonify(ok=False, error=refused.error, **refused.more)
    if refused.retry_after_s is not None:
        response.headers["Retry-After"] = str(refused.retry_after_s)
    return response, refused.status


def _add_request_id(response: Response) -> Response:
    response.headers["x-slack-req-id"] = uuid.uuid4().hex
    return response
