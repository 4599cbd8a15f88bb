"""One attempt at an outside service: what comes back, what counts as no answer, and what is never given away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import responses

from outbound import (
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
            with listener.accept()[0] as connection:
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
        pytest.param(" 0 ", 0.0, id="none at all"),
        pytest.param("9" * 9, 999_999_999.0, id="very long"),
        pytest.param("9" * 400, None, id="more than a number holds"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="a date gone by"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 -0000", None, id="a date without a zone"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", 1.5, id="a fraction"),
        pytest.param("1.", None, id="half a fraction"),
        pytest.param("1e9", None, id="an exponent"),
        pytest.param("²", None, id="no digit"),
        pytest.param("soon", None, id="a word"),
        pytest.param("", None, id="empty"),
    ],
)
def test_retry_after_is_seconds_or_none(value: str, expected: float | None) -> None:
    assert Answer(503, {"Retry-After": value}).retry_after_s == expected


def test_retry_after_may_be_a_date() -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    wait_s = Answer(503, {"Retry-After": header}).retry_after_s
    assert wait_s is not None
    assert 590 < wait_s <= 600


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


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectTimeout("t0ken"),
        requests.ReadTimeout("t0ken"),
        requests.ConnectionError("t0ken"),
        requests.exceptions.SSLError("t0ken"),
        requests.exceptions.ProxyError("t0ken"),
        requests.exceptions.ChunkedEncodingError("t0ken"),
        requests.exceptions.ContentDecodingError("t0ken"),
        requests.exceptions.InvalidURL("t0ken"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_answer_is_unavailable_and_says_who_and_how_and_nothing_else(
    service: responses.RequestsMock, error: Exception
) -> None:
    service.get(URL, body=error)
    with pytest.raises(Unavailable) as caught:
        send(new_session(URL), "GET", URL, params={"external_id": "t0ken"})
    assert str(caught.value) == f"acme.zendesk.com gave no answer ({type(error).__name__})"
    assert caught.value.__cause__ is error
    assert (caught.value.status, caught.value.retry_after_s) == (None, None)


def test_nobody_who_listens_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(Unavailable, match="127.0.0.1 gave no answer"):
        send(new_session(URL), "GET", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{}", id="half a body"),
        pytest.param(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}", id="half a chunk"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", id="not what it says it is"
        ),
    ],
)
def test_half_an_answer_is_none(said: bytes) -> None:
    with raw_server(lambda connection: connection.sendall(said)) as url:
        with pytest.raises(Unavailable, match="127.0.0.1 gave no answer"):
            send(new_session(URL), "POST", url, data=b"{}")


def test_a_reset_is_unavailable() -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

    with raw_server(reset) as url:
        with pytest.raises(Unavailable, match="127.0.0.1 gave no answer"):
            send(new_session(URL), "POST", url, data=b"{}")


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
