"""One attempt at an outside service: bounded in time, no redirect followed, every failure named by what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

TIMEOUT_S = (3.0, 15.0)  # connect, then each read


@dataclass(frozen=True)
class Quota:
    """What an answer says of the account's rate limit: calls left in this window, and seconds until the next one."""

    calls_left: int
    reset_s: float


class ServiceError(Exception):
    """A call did not do what it should. The message is safe to log: no secret, no customer's text.

    `status` is HTTP's, `code` the service's own error code, `request_id` the service's name for the call,
    `retry_after_s` the seconds it asks us to wait and `quota` what is left of its limit; each is None when the answer
    had none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        quota: Quota | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id = status, code, request_id
        self.retry_after_s, self.quota = retry_after_s, quota


class Unavailable(ServiceError):
    """The service is down, slow or limiting us, and the outcome may be unknown: wait, then send the same again."""


class Limited(Unavailable):
    """The service takes no more calls for now and did nothing: wait as long as `retry_after_s` says."""


class Rejected(ServiceError):
    """The service refuses this request: park it for a person, go on with the others."""


class AuthFailed(ServiceError):
    """The service refuses us, whatever we send: stop sending and tell someone."""


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers (names in any case) and the body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """The body's JSON value, or None when it is something else."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def retry_after_s(self) -> float | None:
        """Retry-After in seconds, from either of its two forms (RFC 9110, 10.2.3)."""
        value = self.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value):
            return float(value)
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return None


class Bearer(requests.auth.AuthBase):
    """`Authorization: Bearer`."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def new_session(url: str, pool_size: int = 1) -> requests.Session:
    """A session for the service at `url` that `pool_size` threads can share. It keeps connections, no cookies and no
    credentials, and reads the environment's proxies and certificates once, because that is slow."""
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=pool_size))
    session.mount("https://", HTTPAdapter(pool_maxsize=pool_size))
    environment = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify, session.trust_env = environment["proxies"], environment["verify"], False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "application/json", "User-Agent": "khoros-zendesk-relay"})
    return session


def send(session: requests.Session, method: str, url: str, **parts: Any) -> Answer:
    """Makes one attempt and returns whatever was answered. `parts` are those of requests.Request. Raises Unavailable
    when no whole answer came."""
    try:
        request = session.prepare_request(requests.Request(method, url, **parts))
        response = session.send(request, timeout=TIMEOUT_S, allow_redirects=False)
    except (requests.RequestException, HTTPError) as error:  # requests lets a few of urllib3's errors through
        raise Unavailable(f"{urlsplit(url).hostname} gave no answer ({type(error).__name__})") from error
    return Answer(response.status_code, response.headers, response.content)
