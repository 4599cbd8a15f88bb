"""The API calls that a fake has answered, in the order in which the answers left."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sandbox.pages import is_api
from sandbox.server import Dropped, run_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


@dataclass(frozen=True)
class Call:
    """One request to the API and its answer. `status` is None when the connection was dropped without an answer."""

    at: float  # the time of the request, by the fake's clock
    method: str
    path: str
    query: str
    status: int | None
    idempotency_key: str | None
    idempotency_lookup: str | None  # hit, miss or None, as answered
    body: bytes = field(repr=False)  # of the request
    headers: Mapping[str, str] = field(repr=False)  # of the request, names in lower case
    answer: bytes = field(default=b"", repr=False)
    answered_at: float = 0.0  # when the answer left, by the fake's clock


class Recorder:
    """A WSGI app in front of `app` that keeps every API call in `calls`."""

    def __init__(self, app: WSGIApplication, clock: Callable[[], float]) -> None:
        self._app, self._clock = app, clock
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    @property
    def calls(self) -> list[Call]:
        """The calls so far, a copy."""
        with self._lock:
            return list(self._calls)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if not is_api(environ["PATH_INFO"]):
            return self._app(environ, start_response)
        at, body = self._clock(), environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            status, headers, answer = run_app(self._app, environ)
        except Dropped:
            self._keep(at, environ, body, None, {}, b"")
            raise
        self._keep(at, environ, body, int(status[:3]), dict(headers), answer)
        start_response(status, headers)
        return [answer]

    def _keep(
        self,
        at: float,
        environ: dict[str, Any],
        body: bytes,
        status: int | None,
        answered: dict[str, str],
        answer: bytes,
    ) -> None:
        names = [name for name in environ if name.startswith("HTTP_")]
        sent = {name[5:].replace("_", "-").lower(): environ[name] for name in names}
        call = Call(
            at=at,
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            query=environ.get("QUERY_STRING", ""),
            status=status,
            idempotency_key=sent.get("idempotency-key"),
            idempotency_lookup=answered.get("x-idempotency-lookup"),
            body=body,
            headers={"content-type": environ.get("CONTENT_TYPE", ""), **sent},
            answer=answer,
            answered_at=self._clock(),
        )
        with self._lock:
            self._calls.append(call)
