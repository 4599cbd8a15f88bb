"""Makes a simulated service fail: it refuses, drops the connection, hangs or is down, before it reads the request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from sandbox.pages import is_api
from sandbox.server import Dropped, run_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

Body = bytes | str | Mapping[str, Any] | None
MODES = ("fail", "reset", "hang", "outage", "html", "clear")


@dataclass
class _Rule:
    mode: str
    left: int | None  # None: until cleared
    path: str | None = None  # a prefix
    method: str | None = None
    effect: bool = False
    seconds: float = 0.0
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def matches(self, method: str, path: str) -> bool:
        return (self.method in (None, method)) and path.startswith(self.path or "/")


class Faults:
    """The faults of one simulated service, used up in the order in which they were added.

    `path` limits a fault to the paths that begin with it, `method` to one method (None: every API call). With `effect`
    the service does the work before it answers with the failure. `error_body` returns the service's own body for a
    status; `html_page` is the answer of `html`.
    """

    def __init__(self, error_body: Callable[[int], object], html_page: bytes = b"<html>Error</html>") -> None:
        self._error_body, self._html_page = error_body, html_page
        self._changed = threading.Condition()
        self._rules: list[_Rule] = []
        self._released = threading.Event()
        self._hanging = 0

    def fail(
        self,
        next_n: int,
        status: int,
        *,
        retry_after: float | str | None = None,
        body: Body = None,
        content_type: str | None = None,
        path: str | None = None,
        method: str | None = None,
        effect: bool = False,
    ) -> None:
        """Answers `status` to the next `next_n` requests, with the service's usual body when none is given."""
        headers, data = self._answer(status, retry_after, body, content_type)
        self._add(_Rule("fail", next_n, path, method, effect, status=status, headers=headers, body=data))

    def outage(
        self,
        status: int = 503,
        *,
        retry_after: float | str | None = None,
        body: Body = None,
        content_type: str | None = None,
        path: str | None = None,
        method: str | None = None,
        effect: bool = False,
    ) -> None:
        """Answers `status` to every request until `clear()`."""
        headers, data = self._answer(status, retry_after, body, content_type)
        self._add(_Rule("outage", None, path, method, effect, status=status, headers=headers, body=data))

    def reset(self, next_n: int, *, path: str | None = None, method: str | None = None, effect: bool = False) -> None:
        """Drops the connection of the next `next_n` requests with a TCP RST and no answer."""
        self._add(_Rule("reset", next_n, path, method, effect))

    def hang(
        self, next_n: int, seconds: float, *, path: str | None = None, method: str | None = None, effect: bool = False
    ) -> None:
        """Lets the next `next_n` requests hang for `seconds`, or until `clear()`.

        With `effect` the service does the work first and sends the true answer after the wait. Without, it does
        nothing and drops the connection after the wait.
        """
        self._add(_Rule("hang", next_n, path, method, effect, seconds=seconds))

    def html(self, next_n: int, *, path: str | None = None, method: str | None = None) -> None:
        """Answers the next `next_n` requests with the service's error page and status 200."""
        page = (("Content-Type", "text/html; charset=utf-8"),)
        self._add(_Rule("html", next_n, path, method, status=200, headers=page, body=self._html_page))

    def clear(self) -> None:
        """Removes every fault. Requests that hang continue at once."""
        with self._changed:
            self._rules.clear()
            self._released.set()
            self._released = threading.Event()

    def wait_until_hanging(self, count: int = 1, timeout_s: float = 10.0) -> bool:
        """Waits until at least `count` requests hang. Returns False when that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._hanging >= count, timeout_s)

    def state(self) -> dict[str, Any]:
        """The faults that are left, for GET /_sandbox/state."""
        with self._changed:
            rules = [{"mode": r.mode, "left": r.left, "status": r.status, "path": r.path} for r in self._rules]
            return {"faults": rules, "hanging": self._hanging}

    def wrap(self, app: WSGIApplication) -> WSGIApplication:
        """Returns `app` with these faults in front of it."""

        def faulty(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
            rule, released = self._take(environ["REQUEST_METHOD"], environ["PATH_INFO"])
            if rule is None:
                return app(environ, start_response)
            done = run_app(app, environ) if rule.effect else None
            if rule.mode == "hang":
                self._wait(released, rule.seconds)
            if rule.mode == "reset" or (rule.mode == "hang" and done is None):
                raise Dropped("on request")
            status, headers, body = done if rule.mode == "hang" and done else _failure_answer(rule)
            start_response(status, headers)
            return [body]

        return faulty

    def _answer(
        self, status: int, retry_after: float | str | None, body: Body, content_type: str | None
    ) -> tuple[tuple[tuple[str, str], ...], bytes]:
        content: Any = self._error_body(status) if body is None else body
        is_text = isinstance(content, bytes | str)
        usual = "text/plain; charset=utf-8" if is_text else "application/json; charset=utf-8"
        headers = [("Content-Type", content_type or usual)]
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        text = content if is_text else json.dumps(content)
        return tuple(headers), text.encode() if isinstance(text, str) else bytes(text)

    def _add(self, rule: _Rule) -> None:
        if rule.left is None or rule.left > 0:
            with self._changed:
                self._rules.append(rule)

    def _take(self, method: str, path: str) -> tuple[_Rule | None, threading.Event]:
        with self._changed:
            rule = next((r for r in self._rules if is_api(path) and r.matches(method, path)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
                if not rule.left:
                    self._rules.remove(rule)
            return rule, self._released

    def _wait(self, released: threading.Event, seconds: float) -> None:
        with self._changed:
            self._hanging += 1
            self._changed.notify_all()
        try:
            released.wait(seconds)
        finally:
            with self._changed:
                self._hanging -= 1


def _failure_answer(rule: _Rule) -> tuple[str, list[tuple[str, str]], bytes]:
    reason = HTTPStatus(rule.status).phrase if rule.status in HTTPStatus._value2member_map_ else "Unknown"
    return f"{rule.status} {reason}", [*rule.headers, ("Content-Length", str(len(rule.body)))], rule.body


def control(faults: Faults, state: Callable[[], dict[str, Any]]) -> Blueprint:
    """The faults over HTTP: POST /_sandbox/faults, GET /_sandbox/state. JSON only, which no foreign page can send."""
    panel = Blueprint("control", __name__, url_prefix="/_sandbox")

    @panel.post("/faults")
    def set_fault() -> tuple[Response, int]:
        try:
            ask_for(faults, request.get_json(silent=True))
        except (TypeError, ValueError) as fault:
            return jsonify(error=str(fault)), 400
        return jsonify(state()), 200

    @panel.get("/state")
    def show_state() -> Response:
        return jsonify(state())

    return panel


def ask_for(faults: Faults, wish: object) -> None:
    """Adds the fault {"mode": ..., "next": 3, "status": 503, ...}. Raises ValueError or TypeError for a bad one."""
    if not isinstance(wish, dict) or wish.get("mode") not in MODES:
        raise ValueError(f"give a JSON object with a mode: {', '.join(MODES)}")
    mode, next_n = wish["mode"], int(wish.get("next", 1))
    where: dict[str, Any] = {"path": wish.get("path"), "method": wish.get("method")}
    effect = wish.get("effect", False) is True
    answer: dict[str, Any] = {"status": int(wish.get("status", 503)), "retry_after": wish.get("retry_after")}
    answer["effect"] = effect
    actions: dict[str, Callable[[], None]] = {
        "fail": lambda: faults.fail(next_n, **answer, **where),
        "outage": lambda: faults.outage(**answer, **where),
        "reset": lambda: faults.reset(next_n, effect=effect, **where),
        "hang": lambda: faults.hang(next_n, float(wish.get("seconds", 5)), effect=effect, **where),
        "html": lambda: faults.html(next_n, **where),
        "clear": faults.clear,
    }
    actions[mode]()
