"""The ASGI app: what arrives together is committed together, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import (
    NOWHERE,
    TEXT,
    TOKEN,
    events,
    fields_of,
    matches_zendesk,
    new_settings,
    notification,
    relay_of,
    rows,
    sqlite_unless_asked,
)
from flask import Flask
from flask.testing import FlaskClient

import khoros.asgi
from inbox.database import Database, DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.items import NewItem
from inbox.unrouted import Unrouted
from khoros.asgi import IN_ONE_COMMIT, Asgi
from khoros.body import BODY_LIMIT
from khoros.receive import NOTIFICATIONS_PATHS, SECURE_HEADERS, Receiver

pytestmark = pytest.mark.usefixtures("clean_log")
T = TypeVar("T")
BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


class Watched(Inbox):
    """An inbox that counts its commits, can be made to wait, and can be broken."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.commits: list[int] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def accept(self, items: Sequence[NewItem]) -> list[bool]:
        self.begun.set()
        assert self.go_on.wait(20)
        if self.error:
            raise self.error
        self.commits.append(len(items))
        return super().accept(items)


@pytest.fixture
def inbox(database: Database) -> Iterator[Watched]:
    inbox = Watched(database)
    yield inbox
    inbox.go_on.set()


@pytest.fixture
def receiver(inbox: Watched, database: Database) -> Receiver:
    receiver = Receiver((TOKEN,), 123, matches_zendesk, inbox, Unrouted(database), lambda names: None)
    receiver.open = True
    return receiver


@pytest.fixture
def asgi(receiver: Receiver) -> Asgi:
    return Asgi(pages, receiver)


def pages(environ: Any, start_response: Any) -> list[bytes]:
    """Answers with the name of the request."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_X_REQUEST_ID"].encode()]


class Sender:
    """One connection's side of a request: the body in pieces, then nothing or the end of the line."""

    def __init__(
        self, body: Any = None, *, token: str = TOKEN, hangs_up: bool = False, pieces: int = 1, **changes: Any
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = -(-len(data) // pieces) or 1
        self.pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        self.hangs_up = hangs_up
        self.sent: list[Any] = []
        headers = {"authorization": f"Bearer {token}", "x-request-id": "r-1", **changes.pop("headers", {})}
        self.scope: Any = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/notifications",
            "query_string": b"",
            "client": ("192.0.2.1", 50000),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            **changes,
        }

    async def receive(self) -> Any:
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or self.hangs_up}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def ask(self, asgi: Asgi) -> Coroutine[Any, Any, None]:
        return asgi(self.scope, self.receive, self.send)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def answer(self) -> Any:
        return json.loads(self.sent[1]["body"])


def in_a_loop(work: Coroutine[Any, Any, T]) -> T:
    """Runs it in an event loop of another thread: the browser's may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(60)


def ask(asgi: Asgi, *senders: Sender) -> list[int | None]:
    """All of them at once; gives the statuses."""

    async def all_at_once() -> None:
        await asyncio.gather(*(sender.ask(asgi) for sender in senders))

    in_a_loop(all_at_once())
    return [sender.status for sender in senders]


def several(count: int) -> list[Sender]:
    return [Sender(notification(f"e{n}", f"p:{n}")) for n in range(count)]


async def turn(event: threading.Event) -> None:
    """Waits for what another thread does, while the loop goes on."""
    assert await asyncio.to_thread(event.wait, 20)


# Many together


@BOTH
def test_what_arrives_together_is_committed_together(asgi: Asgi, inbox: Watched, database: Database) -> None:
    count = 2 * IN_ONE_COMMIT + 50
    assert ask(asgi, *several(count)) == [202] * count
    assert inbox.commits == [IN_ONE_COMMIT, IN_ONE_COMMIT, 50]
    assert sorted(row[0] for row in rows(database)) == sorted(f"e{n}" for n in range(count))


def test_much_at_once_is_not_parsed_at_once(asgi: Asgi, inbox: Watched) -> None:
    bodies = [json.dumps(notification(f"big{n}")).encode().ljust(BODY_LIMIT // 2 - 9) for n in range(5)]
    assert ask(asgi, *map(Sender, bodies), Sender(notification("e1"))) == [202] * 6
    assert inbox.commits == [2, 2, 2]


@BOTH
def test_each_gets_its_own_answer_and_none_pays_for_anothers_mistake(asgi: Asgi, database: Database) -> None:
    cases = {
        "new": (Sender(notification("e1", "p:1", "p:2")), 202, {"accepted": 2, "duplicates": 0, "ignored": 0}),
        "the same": (Sender(notification("e1", "p:2", "p:3")), 202, {"accepted": 1, "duplicates": 1, "ignored": 0}),
        "ignored": (Sender(notification(companyId=9)), 202, {"accepted": 0, "duplicates": 0, "ignored": 1}),
        "no JSON": (Sender(b"{"), 422, None),
        "nested": (Sender(b'{"a":' * 90_000), 422, None),
        "nothing": (Sender(b""), 400, None),
        "another token": (Sender(notification("e3"), token="wrong"), 401, None),
        "too large": (Sender(b" " * (1024 * 1024 + 1), pieces=20), 413, None),
        "unreadable": (Sender({"eventName": "x"}), 422, None),
        "in pieces": (Sender(notification("e4"), pieces=50), 202, {"accepted": 1, "duplicates": 0, "ignored": 0}),
        "gone": (Sender(notification("e5"), hangs_up=True), None, None),
    }
    statuses = ask(asgi, *(sender for sender, _, _ in cases.values()))
    assert dict(zip(cases, statuses, strict=True)) == {name: status for name, (_, status, _) in cases.items()}
    assert [sender.answer for sender, _, answer in cases.values() if answer] == [a for _, _, a in cases.values() if a]
    assert sorted((event, post) for event, post, state, _ in rows(database) if state == "pending") == [
        *(("e1", "p:1"), ("e1", "p:2"), ("e1", "p:3"), ("e4", "twitter:1"))
    ]


@pytest.mark.parametrize("ours", [0, 1])
def test_two_authorization_headers_are_refused_with_the_reason(ours: int, asgi: Asgi) -> None:
    sender = Sender(notification("e1"))
    [given] = [pair for pair in sender.scope["headers"] if pair[0] == b"authorization"]
    sender.scope["headers"].insert(0 if ours else len(sender.scope["headers"]), (b"authorization", b"Bearer zzz"))
    assert given in sender.scope["headers"] and ask(asgi, sender) == [401]
    assert "more than one Authorization header" in sender.answer["message"]


def test_without_the_token_and_for_a_length_over_the_limit_no_byte_of_the_body_is_read(asgi: Asgi) -> None:
    large = {"content-length": str(BODY_LIMIT + 1)}
    for sender, status in ((Sender(token="wrong"), 401), (Sender(headers=large), 413)):
        assert ask(asgi, sender) == [status]
        assert sender.pieces == [b"null"]


def test_a_fault_of_our_own_leaves_nobody_without_an_answer(
    asgi: Asgi, receiver: Receiver, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(receiver, "receive", lambda *_: 1 / 0)
        assert ask(asgi, *several(3)) == [500] * 3
    assert ask(asgi, *several(4)) == [202] * 4
    assert len(rows(database)) == 4


def test_when_nothing_can_be_stored_all_are_asked_to_send_it_again(
    asgi: Asgi, inbox: Watched, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    inbox.error = DatabaseUnavailable("the disk is full")
    senders = several(3)
    assert ask(asgi, *senders, Sender(b"{"), Sender(b"")) == [503, 503, 503, 503, 400]
    assert senders[0].headers["retry-after"] == "5"
    assert events(caplog, "database_unavailable", "notification_accepted") == ["database_unavailable"] * 4
    inbox.error = None
    assert ask(asgi, *several(3)) == [202] * 3
    assert len(rows(database)) == 3


@BOTH
def test_no_answer_comes_before_the_commit(asgi: Asgi, database: Database, inbox: Watched) -> None:
    sender = Sender(notification())

    async def held_up() -> None:
        inbox.go_on.clear()
        answering = asyncio.create_task(sender.ask(asgi))
        await turn(inbox.begun)
        assert not answering.done() and not sender.sent and rows(database) == []
        inbox.go_on.set()
        await asyncio.wait_for(answering, 20)

    in_a_loop(held_up())
    assert sender.status == 202 and len(rows(database)) == 1


def test_what_arrives_during_a_commit_waits_for_the_next_one(asgi: Asgi, inbox: Watched) -> None:
    async def held_up() -> None:
        inbox.go_on.clear()
        tasks = [asyncio.create_task(Sender(notification("first")).ask(asgi))]
        await turn(inbox.begun)
        tasks += [asyncio.create_task(sender.ask(asgi)) for sender in several(5)]
        await asyncio.sleep(0)  # they are read
        inbox.go_on.set()
        await asyncio.gather(*tasks)

    in_a_loop(held_up())
    assert inbox.commits == [1, 5]


def test_a_sender_that_hangs_up_during_the_commit_costs_nobody_an_answer(
    asgi: Asgi, inbox: Watched, database: Database
) -> None:
    senders = several(3)

    async def one_hangs_up() -> None:
        inbox.go_on.clear()
        tasks = [asyncio.create_task(sender.ask(asgi)) for sender in senders]
        await turn(inbox.begun)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        inbox.go_on.set()
        await asyncio.wait(tasks)

    in_a_loop(one_hangs_up())
    assert [sender.status for sender in senders] == [202, None, 202]
    assert ask(asgi, Sender(notification("later"))) == [202]
    assert sorted(row[0] for row in rows(database)) == ["e0", "e1", "e2", "later"]


# Memory


def test_more_than_fits_into_the_memory_is_to_be_sent_again(
    asgi: Asgi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(notification("e1")).encode()
    monkeypatch.setattr(khoros.asgi, "UNCOMMITTED_LIMIT", 3 * len(body) + 10)
    senders = [Sender(body) for _ in range(5)]
    statuses = ask(asgi, *senders)
    assert sorted(status or 0 for status in statuses) == [202, 202, 202, 503, 503]
    assert {sender.headers.get("retry-after") for sender in senders} == {"5", None}
    assert events(caplog, "too_much_at_once") == ["too_much_at_once"] * 2
    assert ask(asgi, *(Sender(body) for _ in range(3))) == [202] * 3


def test_what_is_unpacked_counts_with_its_whole_size_until_it_is_committed(
    asgi: Asgi, inbox: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(notification("e1")).encode().ljust(BODY_LIMIT // 2)
    packed, gzipped = gzip.compress(body), {"content-encoding": "gzip"}
    monkeypatch.setattr(khoros.asgi, "UNCOMMITTED_LIMIT", len(body) + len(packed) // 2)
    second = Sender(packed, headers=gzipped)

    async def held_up() -> None:
        inbox.go_on.clear()
        first = asyncio.create_task(Sender(packed, headers=gzipped).ask(asgi))
        await turn(inbox.begun)
        await second.ask(asgi)
        inbox.go_on.set()
        await first

    in_a_loop(held_up())
    assert second.status == 503
    for _ in range(3):
        assert ask(asgi, Sender(packed, headers=gzipped)) == [202]


def test_what_waits_for_its_commit_counts_also_when_its_sender_has_hung_up(
    asgi: Asgi, inbox: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(notification("e1")).encode()
    monkeypatch.setattr(khoros.asgi, "UNCOMMITTED_LIMIT", len(body) + 10)
    second, third = Sender(body), Sender(body)

    async def hangs_up() -> None:
        inbox.go_on.clear()
        first = asyncio.create_task(Sender(body).ask(asgi))
        await turn(inbox.begun)
        first.cancel()
        await asyncio.wait([first])
        await second.ask(asgi)
        inbox.go_on.set()
        await third.ask(asgi)
        while third.status == 503:  # the commit is not over yet
            await asyncio.sleep(0.01)
            third.sent, third.pieces = [], [body]
            await third.ask(asgi)

    in_a_loop(hangs_up())
    assert (second.status, third.status) == (503, 202)


# Answers, pages and lines


def test_who_is_accepted_has_no_line_but_that_of_the_notification_and_a_page_has_one(
    asgi: Asgi, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(asgi, Sender(notification())) == [202]
    assert events(caplog) == ["notification_accepted"]
    page = Sender(method="GET", path="/health", query_string=b"token=x")
    assert ask(asgi, page) == [200]
    line = fields_of(caplog, "request")
    assert line.pop("took_ms") >= 0
    assert line.pop("client") == "192.0.2.1"
    assert line == {"level": logging.INFO, "method": "GET", "path": "/health", "status": 200, "request_id": "r-1"}


@pytest.mark.parametrize(
    ("named", "client"),
    [
        ("", "192.0.2.1"),
        ("198.51.100.7", "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7", "198.51.100.7"),  # what the sender wrote, then what the proxy saw
        ("2001:db8::7", "2001:db8::7"),
    ],
)
def test_the_log_names_the_sender_as_the_nearest_proxy_saw_it(
    named: str, client: str, asgi: Asgi, caplog: pytest.LogCaptureFixture
) -> None:
    forwarded = {"x-forwarded-for": named} if named else {}
    assert ask(asgi, Sender(method="GET", headers=forwarded)) == [200]
    assert ask(asgi, Sender(token="wrong", headers=forwarded)) == [401]
    assert ask(asgi, Sender(notification(), hangs_up=True, headers=forwarded)) == [None]
    names = ("request", "notification_refused", "sender_gone")
    assert [fields_of(caplog, name)["client"] for name in names] == [client] * 3


def test_a_page_knows_its_requests_name_and_gets_one_when_the_router_gave_none(
    asgi: Asgi, caplog: pytest.LogCaptureFixture
) -> None:
    named, nameless = Sender(method="GET"), Sender(method="GET", headers={"x-request-id": ""})
    assert ask(asgi, named) == [200] and named.sent[1]["body"] == b"r-1"
    caplog.clear()
    assert ask(asgi, nameless) == [200]
    assert nameless.sent[1]["body"].decode() == fields_of(caplog, "request")["request_id"] != ""


def test_who_hangs_up_before_the_end_has_a_line_that_says_so(asgi: Asgi, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(asgi, Sender(notification(), hangs_up=True)) == [None]
    assert fields_of(caplog, "sender_gone")["request_id"] == "r-1" and events(caplog) == ["sender_gone"]


def test_a_page_whose_time_is_up_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class Nothing(list[bytes]):
        def close(self) -> None:
            ended.set()

    def slow(environ: Any, start_response: Any) -> Nothing:
        begun.set()
        assert go_on.wait(20)
        return Nothing()

    async def cut() -> None:
        task = asyncio.create_task(Sender().ask(Asgi(slow, None)))
        await turn(begun)
        task.cancel()
        await asyncio.wait([task])
        go_on.set()
        await turn(ended)

    in_a_loop(cut())
    assert fields_of(caplog, "request")["status"] is None


def test_every_answer_has_the_headers_of_the_pages_and_over_https_one_more(asgi: Asgi) -> None:
    for proto, https in (("https", True), ("http,https", True), ("https,http", False), ("", False)):
        sender = Sender(notification(), headers={"x-forwarded-proto": proto})
        ask(asgi, sender)
        assert {name.lower(): value for name, value in SECURE_HEADERS.items()}.items() <= sender.headers.items()
        assert ("strict-transport-security" in sender.headers) is https, proto


def test_what_is_no_request_is_left_alone(asgi: Asgi) -> None:
    assert ask(asgi, Sender(type="websocket")) == [None]


def test_without_a_receiver_the_pages_get_everything() -> None:
    assert ask(Asgi(pages, None), Sender(notification())) == [200]


# Under gunicorn and by Flask itself

GOOD = json.dumps(notification()).encode()
GZIP = {"content-encoding": "gzip"}


@pytest.mark.parametrize(
    ("body", "changes", "status"),
    [
        (GOOD, {}, 202),
        (GOOD, {"token": "wrong"}, 401),
        (b"", {}, 400),
        (b"{", {}, 422),
        (b'{"eventName": 1}', {}, 422),
        (b" " * (BODY_LIMIT + 1), {}, 413),
        (gzip.compress(GOOD), {"headers": GZIP}, 202),
        (gzip.compress(b" " * (BODY_LIMIT + 1)), {"headers": GZIP}, 413),
        (gzip.compress(GOOD)[:-20], {"headers": GZIP}, 422),
        (GOOD.decode().encode("utf-16"), {"headers": {"content-type": "application/json; charset=utf-16"}}, 202),
        (GOOD.replace(b"My", b"M\xff"), {}, 202),
        (GOOD.replace(b"Jo C", b"J\xf6 C"), {"headers": {"content-type": "text/json; charset=latin1"}}, 202),
        (GOOD + b"\0", {}, 202),
        (b"[" + GOOD + b"," + GOOD + b"]", {}, 202),
        *((GOOD, {"path": path}, 202) for path in NOTIFICATIONS_PATHS),
    ],
)
def test_flask_by_itself_answers_in_the_same_words(
    body: bytes, changes: dict[str, Any], status: int, app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(body, **changes)
    assert ask(Asgi(app, relay_of(app).receiver), sender) == [status]
    lines = [name for name in events(caplog) if name != "parked"]
    caplog.clear()
    headers = {name.decode(): value.decode() for name, value in sender.scope["headers"]}
    answer = client.post("/", data=body, headers=headers, environ_overrides={"PATH_INFO": sender.scope["path"]})
    assert (answer.status_code, answer.get_json().keys()) == (status, sender.answer.keys())
    assert [name for name in events(caplog) if name != "parked"] == lines
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers.pop("content-length") and sender.headers.items() >= headers.items()


def test_an_event_that_is_packed_and_in_another_charset_is_kept_as_it_was_meant(app: Flask) -> None:
    body = json.dumps(notification("e1"), ensure_ascii=False).replace("never", "nëver").encode("cp1252")
    headers = {**GZIP, "content-type": "application/json; charset=windows-1252"}
    assert ask(Asgi(app, relay_of(app).receiver), Sender(gzip.compress(body), headers=headers)) == [202]
    [record] = relay_of(app).records.latest(None, 9)
    kept = relay_of(app).records.payload(record.id)
    assert kept and kept["item"]["text"] == TEXT.replace("never", "nëver")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("POST", "/createTicket", 404),
        ("PUT", "/notifications", 405),
        ("GET", "/notifications/", 405),
    ],
)
def test_what_comes_to_another_address_with_our_token_has_a_line_with_the_right_one(
    method: str, path: str, status: int, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    asgi = Asgi(app, relay_of(app).receiver)
    assert ask(asgi, Sender(notification(), method=method, path=path)) == [status]
    line = fields_of(caplog, "notification_misdirected")
    assert line["level"] == logging.WARNING and f"{NOWHERE}/notifications" in line["reason"]
    assert line["request_id"] == "r-1" and events(caplog, "notification_refused") == []
    caplog.clear()
    assert ask(asgi, Sender(notification(), method=method, path=path, token="wrong")) == [status]
    assert events(caplog) == ["request"]


def test_without_a_known_address_the_one_that_was_asked_is_named(
    new_app: Callable[[Any], Flask], caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(new_settings(public_url="", database_url="sqlite://"))
    headers = {"host": "relay.example", "x-forwarded-proto": "https"}
    assert ask(Asgi(app, relay_of(app).receiver), Sender(notification(), path="/webhook", headers=headers)) == [404]
    assert "https://relay.example/notifications" in fields_of(caplog, "notification_misdirected")["reason"]


def test_a_push_to_the_status_page_has_a_line_with_the_right_address(
    new_app: Callable[[Any], Flask], caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(new_settings(status_password="made-up-password", database_url="sqlite://"))
    assert ask(Asgi(app, relay_of(app).receiver), Sender(notification(), path="/status")) == [401]
    assert "/notifications" in fields_of(caplog, "notification_misdirected")["reason"]


def test_a_push_to_a_service_that_polls_has_a_line_that_says_so(
    new_app: Callable[[Any], Flask], caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(new_settings(polling=True, database_url="sqlite://"))
    assert ask(Asgi(app, None), Sender(notification())) == [404]
    assert "KHOROS_DELIVERY" in fields_of(caplog, "notification_misdirected")["reason"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_probe_of_the_address_is_no_refused_notification(
    method: str, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(b"", method=method, headers={"authorization": ""})
    ask(Asgi(app, relay_of(app).receiver), sender)
    assert events(caplog) == ["request"]
