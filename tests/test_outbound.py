"""One attempt at an outside service: what comes back, what counts as no answer, and what is never given away."""

from __future__ import annotations

import errno
import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest
import requests
import responses

from outbound import (
    TIMEOUT_S,
    Answer,
    AuthFailed,
    Bearer,
    Limited,
    Quota,
    Rejected,
    ServiceError,
    Unavailable,
    new_session,
    send,
)

URL = "https://acme.zendesk.com/api/v2/tickets"


@pytest.fixture
def service() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as service:
        yield service


@contextmanager
def raw_server(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that says to its first caller whatever `talk` says, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def serve() -> None:
            with listener.accept()[0] as connection, suppress(OSError):  # a caller may have hung up
                connection.settimeout(5)
                connection.recv(65536)
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(5)


# Errors


def test_an_error_carries_what_the_answer_said() -> None:
    left = Quota(calls_left=3, reset_s=20.0)
    error = ServiceError("no", status=422, code="RecordInvalid", request_id="r-1", retry_after_s=2.0, quota=left)
    assert (str(error), error.status, error.code) == ("no", 422, "RecordInvalid")
    assert (error.request_id, error.retry_after_s, error.quota) == ("r-1", 2.0, left)


def test_what_an_answer_did_not_say_is_none() -> None:
    error = ServiceError("no")
    assert {error.status, error.code, error.request_id, error.retry_after_s, error.quota} == {None}
    assert error.item_only is False and Limited("later", item_only=True).item_only is True


def test_being_limited_is_one_way_of_being_unavailable_and_the_others_are_apart() -> None:
    assert issubclass(Limited, Unavailable)
    for one, other in [(Unavailable, Rejected), (Rejected, AuthFailed), (AuthFailed, Unavailable)]:
        assert not issubclass(one, other)
        assert not issubclass(other, one)


# Answers


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"a": [1]}', {"a": [1]}, id="object"),
        pytest.param('{"a": "grüße 👩\u200d💻"}'.encode(), {"a": "grüße 👩\u200d💻"}, id="UTF-8"),
        pytest.param('{"a": 1}'.encode("utf-16"), {"a": 1}, id="UTF-16"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"<html>", None, id="a web page"),
        pytest.param(b"\xff\xfe\xfa", None, id="no text at all"),
        pytest.param(b"[" * 100_000, None, id="too deep"),
        pytest.param(b"1" * 5_000, None, id="a number too long to read"),
    ],
)
def test_a_body_is_json_or_none(body: bytes, expected: object) -> None:
    assert Answer(200, {}, body).json() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("93", 93.0, id="seconds"),
        pytest.param(" 93 ", 93.0, id="blanks"),
        pytest.param("1.5", 1.5, id="a fraction"),
        pytest.param("1", 1.0, id="one second"),
        pytest.param("0.001", None, id="less than a second"),
        pytest.param("0.001, 47", 47.0, id="less than a second, and seconds"),
        pytest.param("2015-10-21T07:28:00Z", None, id="a date gone by, as ISO 8601 has it"),
        pytest.param("9999-99-99T07:28:00Z", None, id="no date, as ISO 8601 has it"),
        pytest.param("50, 47", 50.0, id="two, as two proxies write them"),
        pytest.param("0, 47", 47.0, id="the second is usable"),
        pytest.param("soon,,47", 47.0, id="the third is usable"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT, 12", 12.0, id="a date gone by, and seconds"),
        pytest.param("9" * 9, 999_999_999.0, id="very long"),
        pytest.param("1e3", 1000.0, id="an exponent"),
        pytest.param("0", None, id="none at all"),
        pytest.param("0.0", None, id="none at all, as a fraction"),
        pytest.param("-5", None, id="negative"),
        pytest.param("9" * 400, None, id="more than a number holds"),
        pytest.param("inf", None, id="for ever"),
        pytest.param("nan", None, id="no number"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", None, id="a date gone by"),
        pytest.param("Wed, 99 Oct 2015 07:28:00 GMT", None, id="no date"),
        pytest.param("²", None, id="no digit"),
        pytest.param("soon", None, id="a word"),
        pytest.param("", None, id="empty"),
        pytest.param(",", None, id="nothing, twice"),
    ],
)
def test_retry_after_is_the_first_usable_wait_in_seconds_or_none(value: str, expected: float | None) -> None:
    """None, not 0: the caller's own back-off decides, and nobody is hammered."""
    assert Answer(503, {"Retry-After": value}).retry_after_s == expected


@pytest.mark.parametrize("form", ["{}", "{}, 47", "soon, {}"], ids=["alone", "first", "after nonsense"])
@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_retry_after_may_be_a_date(form: str, zone: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True).replace("GMT", zone)
    wait_s = Answer(503, {"Retry-After": form.format(date)}).retry_after_s
    assert wait_s is not None
    assert 500 < wait_s <= 600


@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
def test_retry_after_may_be_a_date_of_iso_8601(zone: str) -> None:
    date = (datetime.now(UTC) + timedelta(seconds=600)).strftime("%Y-%m-%dT%H:%M:%S")
    wait_s = Answer(503, {"Retry-After": date + zone}).retry_after_s
    assert wait_s is not None
    assert 500 < wait_s <= 600


def test_an_answer_without_retry_after_asks_for_no_wait() -> None:
    assert Answer(503).retry_after_s is None


# What is sent


def test_an_answer_is_returned_whatever_its_status(service: responses.RequestsMock) -> None:
    service.post(URL, status=586, body=b"<html>", headers={"Retry-After": "4"})
    answer = send(new_session(URL), "POST", URL, data=b"{}")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (586, b"<html>", "4")


def test_every_attempt_is_bounded_in_time(service: responses.RequestsMock) -> None:
    service.get(URL)
    send(new_session(URL), "GET", URL)
    options: dict[str, object] = service.calls[0].request.req_kwargs  # type: ignore[attr-defined]
    assert options["timeout"] == (3.0, 15.0)


def test_there_is_one_attempt_only(service: responses.RequestsMock) -> None:
    service.get(URL, status=503)
    send(new_session(URL), "GET", URL)
    assert len(service.calls) == 1


def test_the_request_says_who_we_are_and_that_we_read_json(service: responses.RequestsMock) -> None:
    service.get(URL)
    send(new_session(URL), "GET", URL, auth=Bearer("t0ken"))
    headers = service.calls[0].request.headers
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Accept"] == "application/json"
    assert headers["User-Agent"] == "khoros-zendesk-relay"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(service: responses.RequestsMock, status: int) -> None:
    for target in ("https://evil.example/", "https://acme.zendesk.com/login", "/login"):
        service.post(URL, status=status, headers={"Location": target})
        answer = send(new_session(URL), "POST", URL, auth=Bearer("t0ken"), data=b"{}")
        assert answer.status == status
    assert {call.request.url for call in service.calls} == {URL}


def test_netrc_does_not_replace_our_token(
    service: responses.RequestsMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine acme.zendesk.com login someone password netrc-secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(URL) == ("someone", "netrc-secret")
    service.get(URL)
    send(new_session(URL), "GET", URL, auth=Bearer("t0ken"))
    assert service.calls[0].request.headers["Authorization"] == "Bearer t0ken"


def test_no_cookie_is_kept(service: responses.RequestsMock) -> None:
    service.get(URL, headers={"Set-Cookie": "session=somebody-else; Path=/"})
    session = new_session(URL)
    send(session, "GET", URL)
    send(session, "GET", URL)
    assert "Cookie" not in service.calls[1].request.headers


# When no whole answer comes


def chained(*errors: Exception) -> Exception:
    """The first error, caused by the second, and so on."""
    for error, cause in zip(errors, errors[1:], strict=False):
        error.__cause__ = cause
    return errors[0]


CUT = "gave no answer: the connection was cut"
no_such_name = socket.gaierror(socket.EAI_NONAME, "t0ken")
EXPIRED = ssl.SSLCertVerificationError(1, "t0ken")
EXPIRED.verify_message = "certificate has expired"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (chained(requests.ConnectionError("t0ken"), no_such_name), "cannot be reached: no such host name"),
        (
            chained(requests.ConnectionError("t0ken"), socket.gaierror(socket.EAI_AGAIN, "t0ken")),
            "cannot be reached: its host name cannot be looked up for now (DNS)",
        ),
        (
            chained(requests.ConnectionError("t0ken"), ConnectionRefusedError("t0ken")),
            "cannot be reached: nothing listens there (connection refused)",
        ),
        (
            chained(requests.ConnectionError("t0ken"), OSError(errno.EHOSTUNREACH, "t0ken")),
            "cannot be reached: no way leads there from this machine",
        ),
        (
            chained(requests.exceptions.SSLError("t0ken"), EXPIRED),
            "cannot be reached: its certificate is not trusted (certificate has expired)",
        ),
        (requests.exceptions.SSLError("t0ken"), "cannot be reached: it does not speak https there"),
        (chained(requests.exceptions.SSLError("t0ken"), ssl.SSLEOFError(8, "t0ken")), CUT),
        (requests.ConnectTimeout("t0ken"), "cannot be reached: no connection within 3 s"),
        (requests.ReadTimeout("t0ken"), "gave no answer in time"),
        (chained(requests.ConnectionError("t0ken"), ConnectionResetError("t0ken")), CUT),
        (chained(requests.exceptions.ChunkedEncodingError("t0ken"), IncompleteRead(b"t0ken")), CUT),
        (requests.exceptions.ContentDecodingError("t0ken"), "gave no answer: the body cannot be unpacked"),
        (requests.exceptions.InvalidURL("t0ken"), "cannot be called: its address is not usable"),
        (
            chained(requests.exceptions.ProxyError("t0ken"), OSError("Tunnel connection failed: 407 t0ken")),
            "cannot be reached through the proxy of HTTPS_PROXY: the proxy answered 407",
        ),
        (requests.ConnectionError("t0ken"), "gave no answer (ConnectionError)"),
        (OSError("t0ken"), "gave no answer (OSError)"),
        (ValueError("t0ken"), "gave no answer (ValueError)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_answer_is_unavailable_and_says_who_and_why_and_nothing_else(
    service: responses.RequestsMock, error: Exception, words: str
) -> None:
    service.get(URL, body=error)
    with pytest.raises(Unavailable) as caught:
        send(new_session(URL), "GET", URL, service="Zendesk", params={"external_id": "t0ken"})
    assert str(caught.value) == f"Zendesk (acme.zendesk.com) {words}"
    assert caught.value.__cause__ is error
    assert (caught.value.status, caught.value.retry_after_s) == (None, None)


def failing(method: str, url: str, **parts: object) -> str:
    """The words of a call that fails."""
    with pytest.raises(Unavailable) as caught:
        send(new_session(url), method, url, **parts)  # type: ignore[arg-type]
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port: int = gone.getsockname()[1]
    return port


def test_nobody_who_listens_is_unavailable() -> None:
    words = "127.0.0.1 cannot be reached: nothing listens there (connection refused)"
    assert failing("GET", f"http://127.0.0.1:{free_port()}/") == words


@pytest.mark.parametrize("value", ["Bearer s3cret\nX: y", "Bearer s3cret…", " s3cret"], ids=ascii)
def test_a_header_that_cannot_be_sent_is_unavailable_and_not_shown(value: str) -> None:
    words = "cannot be called: its token has an unusual character: copy it again"
    url = f"http://127.0.0.1:{free_port()}/"
    assert failing("GET", url, headers={"Authorization": value}) == f"127.0.0.1 {words}"


def test_a_password_that_cannot_be_sent_is_unavailable_and_not_shown() -> None:
    words = "127.0.0.1 cannot be called: its token has an unusual character: copy it again"
    assert failing("GET", f"http://127.0.0.1:{free_port()}/", auth=("agent", "s3cret…")) == words


@pytest.mark.parametrize("url", ["https://" + "a" * 70 + ".example/", "https:///"])
def test_an_address_that_cannot_be_called_is_unavailable(url: str) -> None:
    assert failing("GET", url).endswith("cannot be called: its address is not usable")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("text", [None, "", "no certificate"], ids=["no file", "an empty file", "another file"])
def test_a_bundle_of_certificates_that_cannot_be_read_is_named(
    variable: str, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "bundle.pem").write_text(text)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "bundle.pem"))
    words = "cannot be called: REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no readable file of certificates"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        assert failing("GET", url) == f"127.0.0.1 {words}"


def test_another_fault_is_not_blamed_on_a_good_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with raw_server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url:
        words = failing("GET", url.replace("http:", "https:"))
    assert words == "127.0.0.1 cannot be reached: it does not speak https there"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://user:s3cret@{refused}", "cannot be reached through the proxy of HTTPS_PROXY: nothing listens there"),
        ("http://user:s3cret@{proxy}", "cannot be reached through the proxy of HTTPS_PROXY: the proxy answered 407"),
        ("http://", "cannot be called: the address in HTTPS_PROXY is not usable"),
        ("http://s3cret:port", "cannot be called: the address in HTTPS_PROXY is not usable"),
        ("socks5://127.0.0.1:9", "cannot be called: the address in HTTPS_PROXY is not usable"),
        ("ftp://127.0.0.1:9", "cannot be called: the address in HTTPS_PROXY is not usable"),
    ],
)
def test_a_proxy_that_does_not_work_is_named_without_its_password(
    proxy: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with raw_server(lambda connection: connection.sendall(refusal)) as url:
        address = proxy.format(refused=f"127.0.0.1:{free_port()}", proxy=url.split("/")[2])
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("https_proxy", address)
        assert failing("GET", URL).startswith(f"acme.zendesk.com {words}")
        if "{proxy}" not in proxy:
            socket.create_connection(("127.0.0.1", int(url.split(":")[2].strip("/")))).close()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{}", id="half a body"),
        pytest.param(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", id="half a chunk"),
        pytest.param(b"HTTP/1.1 201 Created\r\n" + b"X: y\r\n" * 200 + b"\r\n", id="too many headers"),
        pytest.param(b"HTTP/1.1 201 Created\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", id="a header too long"),
    ],
)
def test_half_an_answer_is_none(said: bytes) -> None:
    with raw_server(lambda connection: connection.sendall(said)) as url:
        assert failing("POST", url, data=b"{}") == f"127.0.0.1 {CUT}"


def test_an_answer_that_is_not_what_it_says_it_is_is_none() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
    with raw_server(lambda connection: connection.sendall(said)) as url:
        assert failing("POST", url, data=b"{}") == "127.0.0.1 gave no answer: the body cannot be unpacked"


def test_a_reset_is_unavailable() -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    with raw_server(reset) as url:
        assert failing("POST", url, data=b"{}") == f"127.0.0.1 {CUT}"


# A call is limited in whole, in time and in size

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def dripping(said: bytes, drops: bytes) -> Callable[[socket.socket], None]:
    """Says `said` at once, and then goes on with `drops`, a byte at a time, for half a minute."""

    def talk(connection: socket.socket) -> None:
        pause = threading.Event()
        connection.sendall(said)
        for number in range(3_000):
            connection.sendall(drops[number % len(drops) :][:1])
            pause.wait(0.01)

    return talk


@pytest.mark.parametrize(
    ("said", "drops"),
    [
        pytest.param(b"", b"HTTP/1.1 200 " + b"O" * 5_000, id="the first line"),
        pytest.param(OK, b"X-More: yes\r\n", id="headers"),
        pytest.param(OK + b"X: ", b"y", id="one header"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="one more moment"),
        pytest.param(OK + b"Content-Length: 9999\r\n\r\n", b"x", id="a body of a known length"),
        pytest.param(OK + b"\r\n", b"x", id="a body that ends with the connection"),
        pytest.param(CHUNKED, b"1\r\nx\r\n", id="chunks"),
        pytest.param(CHUNKED, b"0", id="the length of a chunk"),
        pytest.param(
            OK + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + gzip.compress(b"x")[:-8], b"x", id="gzip"
        ),
    ],
)
def test_a_call_ends_in_time_however_slowly_its_answer_comes(said: bytes, drops: bytes) -> None:
    with raw_server(dripping(said, drops)) as url:
        started = time.monotonic()
        assert failing("GET", url, total_s=0.3) == "127.0.0.1 gave no whole answer within 0.3 s"
        assert time.monotonic() - started < 15


def test_a_slow_answer_that_is_whole_in_time_is_an_answer_and_its_connection_is_used_again() -> None:
    callers = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            callers.append(self.client_address)
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}":
                self.wfile.write(bytes([byte]))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        session = new_session("http://127.0.0.1")
        try:
            answers = [send(session, "GET", f"http://127.0.0.1:{server.server_port}/", total_s=s) for s in (9, 60)]
        finally:
            session.close()
            server.shutdown()
            thread.join(5)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"{}")] * 2
    assert len(set(callers)) == 1


@pytest.mark.parametrize(
    "early",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 199 Soon\r\nConnection: close\r\n\r\n",
    ],
    ids=["hints", "three times", "another kind after a usual one"],
)
def test_an_answer_that_is_not_the_final_one_is_passed_over_and_the_next_call_gets_its_own(early: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(early)
        connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n1")
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2")

    with raw_server(talk) as url, new_session(url) as session:
        answers = [send(session, "GET", url) for _ in range(2)]
    assert [(answer.status, answer.body) for answer in answers] == [(201, b"1"), (200, b"2")]


def test_early_answers_and_no_final_one_are_no_answer() -> None:
    with raw_server(lambda connection: connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")) as url:
        assert failing("POST", url) == "127.0.0.1 gave no answer: the connection was cut"


def test_a_silent_service_is_left_when_the_time_is_over_though_a_read_might_take_longer() -> None:
    asked, started = threading.Event(), time.monotonic()
    with raw_server(lambda connection: asked.wait(30)) as url:
        assert failing("GET", url, total_s=0.1) == "127.0.0.1 gave no whole answer within 0.1 s"
        assert time.monotonic() - started < TIMEOUT_S[1]
        asked.set()


def chunks(data: Iterable[bytes]) -> Iterator[bytes]:
    for piece in data:
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"


BOMB = gzip.compress(bytes(64 * 2**20), 9)
GZIP = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(lambda: [OK, b"Content-Length: 9000000\r\n\r\n", bytes(9_000_000)], id="a known length"),
        pytest.param(lambda: [CHUNKED, *chunks([bytes(2**20)] * 64)], id="no end"),
        pytest.param(lambda: [OK, b"\r\n", *[bytes(2**20)] * 64], id="until the connection ends"),
        pytest.param(lambda: [OK, GZIP % len(BOMB), BOMB], id="a bomb"),
        pytest.param(
            lambda: [
                OK,
                b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
                *chunks([BOMB]),
                b"0\r\n\r\n",
            ],
            id="a bomb in a chunk",
        ),
        pytest.param(
            lambda: [OK, GZIP.replace(b"gzip", b"gzip, gzip") % len(gzip.compress(BOMB)), gzip.compress(BOMB)],
            id="a bomb in a bomb",
        ),
    ],
)
def test_an_answer_of_more_than_8_mib_is_none_and_takes_little_memory(said: Callable[[], list[bytes]]) -> None:
    answer = b"".join(said())
    with raw_server(lambda connection: connection.sendall(answer)) as url:
        tracemalloc.start()
        try:
            words = failing("GET", url)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert words == "127.0.0.1 gave no usable answer: it is longer than 8 MiB"
    assert peak < 32 * 2**20


@pytest.mark.parametrize("packed", [False, True], ids=["as it is", "packed"])
def test_an_answer_of_8_mib_is_one(packed: bool) -> None:
    body = b"x" * (8 * 2**20)
    sent = gzip.compress(body) if packed else body
    head = OK + (GZIP % len(sent) if packed else b"Content-Length: %d\r\n\r\n" % len(sent))
    with raw_server(lambda connection: connection.sendall(head + sent)) as url:
        assert send(new_session(url), "GET", url).body == body


# Connections


def test_as_many_threads_as_the_pool_holds_keep_their_connections() -> None:
    threads = 12  # more than the 10 that requests keeps by itself
    all_here = threading.Barrier(threads, timeout=5)
    connections: set[object] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            connections.add(self.client_address)
            all_here.wait()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(threads) as pool:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        session, url = new_session("http://127.0.0.1", threads), f"http://127.0.0.1:{server.server_port}/"
        try:
            for _ in range(3):
                answers = [pool.submit(send, session, "GET", url) for _ in range(threads)]
                assert {answer.result().status for answer in answers} == {200}
            assert len(connections) == threads
        finally:
            session.close()
            server.shutdown()
            thread.join(5)
