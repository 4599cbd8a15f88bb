"""A simulated receiver of signed webhooks: it verifies what comes, takes each notification once, and shows it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from sandbox.calls import Call, Recorder
from sandbox.faults import Faults, control
from sandbox.pages import ago, is_api, protect, refuse_strangers
from sandbox.zendesk_state import iso

TOLERANCE_S = 300.0
SHOWN = 50
HOOK_PATH = "/hooks/khoros"


def new_secret() -> str:
    """A secret as Standard Webhooks writes one."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True)
class Notification:
    """A webhook that was taken: its id and its body. `came` counts how often it came, `at` is the first time."""

    id: str
    type: str
    timestamp: str
    data: Any
    at: float
    came: int = 1

    @property
    def about(self) -> str:
        """The first words of the post or message, otherwise its id; "" when it has neither."""
        item = _object(_object(self.data).get("item"))
        content = _object(item.get("content"))
        texts = (item.get("text"), item.get("title"), content.get("text"), item.get("entityId"), item.get("id"))
        return next((str(text) for text in texts if text), "")[:200]

    @property
    def json(self) -> str:
        """The whole body, for a person."""
        body = {"type": self.type, "timestamp": self.timestamp, "data": self.data}
        return json.dumps(body, indent=2, ensure_ascii=False)


class FakeReceiver:
    """Takes POST at every path but those of its page. `app` is the WSGI app; give it to `Server`.

    It knows the one secret in `secret`, which may be changed at any time, and refuses with 401 what is not signed with
    it, or was signed more than five minutes away from its clock.
    """

    def __init__(self, *, secret: str = "", clock: Callable[[], float] = time.time) -> None:
        self.secret = secret or new_secret()
        self.faults = Faults(lambda status: f"Status {status}\n")
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: dict[str, Notification] = {}
        self._refused: list[str] = []
        self.app = Flask(__name__)
        self.app.add_url_rule("/", "page", self._page)
        self.app.add_url_rule("/<path:path>", "hook", self._hook, methods=["POST"])
        self.app.register_blueprint(control(self.faults, self.state))
        self.app.register_error_handler(HTTPException, lambda error: (f"{error.code}\n", error.code or 500))
        self.app.before_request(refuse_strangers)
        self.app.after_request(protect)
        self._recorder = Recorder(self.faults.wrap(self.app.wsgi_app), clock)
        self.app.wsgi_app = self._recorder  # type: ignore[method-assign]  # Flask's documented way

    @property
    def taken(self) -> list[Notification]:
        """Every notification, each id once, oldest first."""
        with self._lock:
            return list(self._taken.values())

    @property
    def refused(self) -> list[str]:
        """Why each call was refused that reached the receiver, oldest first."""
        with self._lock:
            return list(self._refused)

    @property
    def calls(self) -> list[Call]:
        """Every call so far, also refused and dropped ones, in the order in which the answers left."""
        return self._recorder.calls

    def state(self) -> dict[str, Any]:
        """The answer to GET /_sandbox/state."""
        numbers = {"taken": len(self.taken), "refused": len(self.refused), "calls": len(self.calls)}
        return {**numbers, **self.faults.state()}

    def receiver_view(self, limit: int = SHOWN) -> dict[str, Any]:
        """The values of a page with the notifications: the `limit` newest ones."""
        taken, refused = self.taken[::-1], self.refused
        return {
            "notifications": taken[:limit],
            "taken_count": len(taken),
            "refused_count": len(refused),
            "last_refusal": refused[-1] if refused else "",
            "iso": iso,
            "since": lambda at: ago(self._clock() - at),
        }

    def _page(self) -> str:
        return render_template("receiver.html", **self.receiver_view())

    def _hook(self, path: str) -> tuple[Response, int]:
        if not is_api(request.path):
            return jsonify(error="not found"), 404
        body = request.get_data()
        if fault := self._fault(body):
            with self._lock:
                self._refused.append(fault)
            return jsonify(error=fault), 401
        try:
            self._take(request.headers["webhook-id"], json.loads(body))
        except (ValueError, KeyError, TypeError):
            return jsonify(error="the body is not a notification"), 400
        return jsonify(taken=True), 200

    def _fault(self, body: bytes) -> str:
        """Why the request is not authentic; "" when it is."""
        name, at, signatures = (request.headers.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
        if not name or not at.isascii() or not at.isdigit():
            return "webhook-id or webhook-timestamp is missing"
        if abs(self._clock() - int(at)) > TOLERANCE_S:
            return "webhook-timestamp is more than five minutes away"
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        ours = "v1," + base64.b64encode(hmac.digest(key, f"{name}.{at}.".encode() + body, "sha256")).decode()
        if not any(hmac.compare_digest(ours.encode(), other.encode()) for other in signatures.split()):
            return "no webhook-signature fits"
        return ""

    def _take(self, name: str, body: dict[str, Any]) -> None:
        new = Notification(name, body["type"], body["timestamp"], body["data"], self._clock())
        with self._lock:
            known = self._taken.get(name)
            self._taken[name] = replace(known, came=known.came + 1) if known else new


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
