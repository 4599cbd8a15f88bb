"""One bounded attempt at an outside service: no redirect followed, every failure named by what to do next."""

from __future__ import annotations

import io
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from errno import EHOSTUNREACH, ENETUNREACH
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests import exceptions as failures
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError, LocationValueError, ReadTimeoutError

TIMEOUT_S = (3.0, 15.0)  # connect, then each read
BODY_LIMIT_MIB = 8  # of an unpacked answer
_ends_at = ContextVar("ends_at", default=math.inf)  # when the time of this thread's call is over, monotonic
_pieces = re.compile("(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,)?[^,]+").findall  # at commas, but for those of dates
Kinds = type[Exception] | tuple[type[Exception], ...]
# What is wrong with a call, by the first of these kinds among its causes.
_FAULT_WORDS: tuple[tuple[Kinds, str], ...] = (
    (socket.gaierror, "cannot be reached: no such host name"),
    (ConnectionRefusedError, "cannot be reached: nothing listens there (connection refused)"),
    (ssl.SSLCertVerificationError, "cannot be reached: its certificate is not trusted"),
    ((ConnectionError, HTTPException, ssl.SSLEOFError), "gave no answer: the connection was cut"),
    ((ssl.SSLError, failures.SSLError), "cannot be reached: it does not speak https there"),
    (failures.ConnectTimeout, f"cannot be reached: no connection within {TIMEOUT_S[0]:g} s"),
    ((failures.InvalidHeader, UnicodeError), "cannot be called: its token has an unusual character: copy it again"),
    ((failures.InvalidURL, failures.InvalidSchema, LocationValueError), "cannot be called: its address is not usable"),
    ((failures.ReadTimeout, ReadTimeoutError), "gave no answer in time"),
    ((failures.ContentDecodingError, DecodeError), "gave no answer: the body cannot be unpacked"),
)  # fmt: skip


@dataclass(frozen=True)
class Quota:
    """What an answer says of the account's rate limit: calls left in this window, and seconds until the next one."""

    calls_left: int
    reset_s: float


class ServiceError(Exception):
    """A call did not do what it should. The message is safe to log: no secret, no customer's text.

    `status` is HTTP's, `code` the service's own error code, `request_id` the service's name for the call,
    `retry_after_s` the seconds it asks us to wait and `quota` what is left of its limit; each is None when the answer
    had none. `item_only`: the service works, the error is about this one request.
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
        item_only: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id = status, code, request_id
        self.retry_after_s, self.quota, self.item_only = retry_after_s, quota, item_only


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
        """Retry-After in seconds, from either of its two forms (RFC 9110, 10.2.3), and from the first usable of several
        ("50, 47"). None for less than a second and for nonsense: the caller's own back-off decides then."""
        waits = map(_read_wait, _pieces(self.headers.get("Retry-After", "")))
        return next((wait_s for wait_s in waits if wait_s is not None and 1 <= wait_s < math.inf), None)


def _read_wait(text: str) -> float | None:
    with suppress(ValueError):
        return float(text)
    for read_date in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, OverflowError):
            date = read_date(text.strip())
            return ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return None


class Bearer(requests.auth.AuthBase):
    """`Authorization: Bearer`."""

    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _BoundedReader(io.RawIOBase):
    """What comes through a socket, until the time of the call is over: a read time-out alone begins anew with every
    byte."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._socket, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = _ends_at.get() - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(min(left_s, TIMEOUT_S[1]))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_BoundedReader(sock, self.fp.detach()))

    def begin(self) -> None:
        """Reads up to the final answer. http.client takes any 1xx but 100 for it, and the next call on this connection
        would then get the answer to this one."""
        super().begin()
        while self.status < 200:
            self.headers = self.msg = None  # type: ignore[assignment]  # as before the first answer: begin reads again
            super().begin()


class _Pool(HTTPConnectionPool):
    class ConnectionCls(HTTPConnection):
        response_class = _BoundedResponse


class _SecurePool(HTTPSConnectionPool):
    class ConnectionCls(HTTPSConnection):
        response_class = _BoundedResponse


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    """Makes connections whose answers are bounded in time."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


def new_session(url: str, pool_size: int = 1) -> requests.Session:
    """A session for the service at `url` that `pool_size` threads can share. It keeps connections, no cookies and no
    credentials, and reads the environment's proxies and certificates once, because that is slow."""
    session = requests.Session()
    session.mount("http://", _Adapter(pool_maxsize=pool_size))
    session.mount("https://", _Adapter(pool_maxsize=pool_size))
    environment = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify, session.trust_env = environment["proxies"], environment["verify"], False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"Accept": "application/json", "User-Agent": "khoros-zendesk-relay"})
    return session


def send(
    session: requests.Session, method: str, url: str, *, service: str = "", total_s: float = 60.0, **parts: Any
) -> Answer:
    """Makes one attempt and returns whatever was answered. `parts` are those of requests.Request; `service` is the name
    for people. Raises Unavailable when no whole answer of at most 8 MiB came within `total_s` seconds."""
    call = _ends_at.set(ends_at := time.monotonic() + total_s)
    try:
        request = session.prepare_request(requests.Request(method, url, **parts))
        with session.send(request, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as response:
            body = _read_bounded(response)
    except (requests.RequestException, HTTPError, OSError, ValueError) as error:
        why = f"gave no whole answer within {total_s:g} s" if time.monotonic() >= ends_at else _why(error, session)
        raise Unavailable(f"{_who(url, service)} {why}") from error
    finally:
        _ends_at.reset(call)
    if body is None:
        said = f"{_who(url, service)} gave no usable answer: it is longer than {BODY_LIMIT_MIB} MiB"
        raise Unavailable(said, status=response.status_code)
    return Answer(response.status_code, response.headers, body)


def reach(session: requests.Session, url: str) -> None:
    """Connects to the service, over TLS where its address says so, and asks nothing. Raises Unavailable."""
    parts = urlsplit(url)
    if {"all", parts.scheme} & set(session.proxies):
        return  # only a call shows whether the proxy gets there
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname, port), TIMEOUT_S[0]) as connection:
            if parts.scheme == "https":
                trusted = session.verify if isinstance(session.verify, str) else DEFAULT_CA_BUNDLE_PATH
                context = ssl.create_default_context(cafile=trusted)
                context.wrap_socket(connection, server_hostname=parts.hostname).close()
    except (OSError, ValueError) as error:
        raise Unavailable(f"{_who(url, '')} {_why(error, session)}") from error


def _read_bounded(response: requests.Response) -> bytes | None:
    """The body, unpacked; None when it is too long."""
    body = bytearray()
    for chunk in response.iter_content(65_536):
        body += chunk
        if len(body) > BODY_LIMIT_MIB * 2**20:
            return None
    return bytes(body)


def _who(url: str, service: str) -> str:
    """ "Khoros (api.spredfast.com)": never the whole address, which may hold a secret."""
    host = urlsplit(url).hostname or "the service"
    return f"{service} ({host})" if service else host


def _why(error: Exception, session: requests.Session) -> str:
    """What a person can act on. The errors' own texts stay out: they quote headers and addresses."""
    causes = list(_causes(error))
    found = (words for kinds, words in _FAULT_WORDS if any(isinstance(cause, kinds) for cause in causes))
    why = next(found, f"gave no answer ({type(error).__name__})")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why += f" ({getattr(cause, 'verify_message', 'no reason given')})"
        elif isinstance(cause, OSError) and cause.errno == socket.EAI_AGAIN:
            why = "cannot be reached: its host name cannot be looked up for now (DNS)"
        elif isinstance(cause, OSError) and cause.errno in (ENETUNREACH, EHOSTUNREACH):
            why = "cannot be reached: no way leads there from this machine"
        elif tunnel := re.match("Tunnel connection failed: ([0-9]{3})", str(cause)):
            why = f"cannot be reached: the proxy answered {tunnel[1]}"
    bundle_faults = [cause for cause in causes if getattr(cause, "library", "") in ("X509", "PEM", "ASN1")]  # OpenSSL's
    if isinstance(session.verify, str) and (bundle_faults or not os.access(session.verify, os.R_OK)):
        return "cannot be called: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no readable file of certificates"
    if isinstance(error, failures.ProxyError):
        return why.replace(" be reached", " be reached through the proxy of HTTPS_PROXY")
    if {"http", "https", "all"} & set(session.proxies):
        return why.replace("its address", "the address in HTTPS_PROXY")
    return why


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
