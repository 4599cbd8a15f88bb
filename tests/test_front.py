"""The way to the door: what arrives together is committed together, and nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    TOKEN,
    events,
    fields,
    in_a_loop,
    new_config,
    notification,
    relay_of,
    rows,
    sqlite_unless_asked,
    watch,
)
from flask import Flask
from flask.testing import FlaskClient

import front
from config import Config
from door import BODY_LIMIT, Door
from front import IN_ONE_COMMIT, READ_HERE_LIMIT, Front
from inbox import Inbox
from intake import Intake, Reading

pytestmark = pytest.mark.usefixtures("clean_log")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return sqlite_unless_asked(request, tmp_path)


BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def inbox(app: Flask) -> Inbox:
    inbox = relay_of(app).inbox
    inbox.now()  # opens the empty database
    return inbox


@pytest.fixture
def way_in(app: Flask, inbox: Inbox) -> Front:
    return Front(app, relay_of(app).door)


class Sender:
    """One connection's side of a request: the body in pieces, then nothing or the end of the line."""

    def __init__(self, body: Any = None, *, token: str = TOKEN, hangs_up: bool = False, pieces: int = 1) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = -(-len(data) // pieces) or 1
        self.pieces = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
        self.hangs_up = hangs_up
        self.sent: list[Any] = []
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/notifications",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {token}".encode()), (b"x-request-id", b"r-1")],
        }

    async def receive(self) -> Any:
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or self.hangs_up}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def said(self) -> Any:
        return json.loads(self.sent[1]["body"])


def ask(way_in: Front, *senders: Sender) -> list[int | None]:
    """All of them at once; gives the statuses."""

    async def all_at_once() -> None:
        await asyncio.gather(*(way_in(s.scope, s.receive, s.send) for s in senders))  # type: ignore[arg-type]

    in_a_loop(all_at_once())
    return [sender.status for sender in senders]


@contextmanager
def counted_commits(inbox: Inbox) -> Iterator[list[str]]:
    """A list that grows with every statement that puts rows into the inbox."""
    found: list[str] = []

    watch(inbox, lambda sql, _: found.append(sql) if sql.startswith("INSERT INTO inbox") else None)
    yield found


@BOTH
def test_what_arrives_together_is_committed_together(way_in: Front, inbox: Inbox) -> None:
    count = 2 * IN_ONE_COMMIT + 50
    senders = [Sender(notification(f"e{n}", f"p:{n}")) for n in range(count)]
    with counted_commits(inbox) as commits:
        assert ask(way_in, *senders) == [202] * count
    assert len(commits) == 3
    assert sorted(row[0] for row in rows(inbox)) == sorted(f"e{n}" for n in range(count))


def test_posts_that_are_all_new_are_not_given_back_one_by_one(way_in: Front, inbox: Inbox) -> None:
    with counted_commits(inbox) as commits:
        ask(way_in, *(Sender(notification(f"e{n}", f"p:{n}")) for n in range(9)))
    assert ["RETURNING" in statement for statement in commits] == [False]


def test_much_at_once_is_not_parsed_at_once(way_in: Front, inbox: Inbox) -> None:
    bodies = [json.dumps(notification(f"big{n}")).encode().ljust(BODY_LIMIT // 2 - 9) for n in range(5)]
    with counted_commits(inbox) as commits:
        assert ask(way_in, *map(Sender, bodies), Sender(notification("e1"))) == [202] * 6
    assert len(commits) == 3


def test_only_a_little_is_read_in_the_event_loop(way_in: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[str] = []
    read = Intake.read

    def noted(self: Intake, raw: object, **names: Any) -> Reading:
        readers.append(threading.current_thread().name)
        return read(self, raw, **names)

    monkeypatch.setattr(Intake, "read", noted)
    assert ask(way_in, Sender(notification("e1"))) == [202]
    assert ask(way_in, Sender(json.dumps(notification("e2")).encode().ljust(READ_HERE_LIMIT + 1))) == [202]
    assert [name.startswith("door") for name in readers] == [False, True]


def test_a_fault_of_our_own_leaves_nobody_without_an_answer(
    way_in: Front, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Door, "outcomes", lambda *_: 1 / 0)
        assert ask(way_in, *(Sender(notification(f"e{n}", f"p:{n}")) for n in range(3))) == [500] * 3
    assert way_in._held == 0
    assert ask(way_in, *(Sender(notification(f"e{n}", f"p:{n}")) for n in range(4))) == [202] * 4
    assert len(rows(inbox)) == 4


@BOTH
@pytest.mark.parametrize("limit", [0, READ_HERE_LIMIT * 9], ids=["by the committing thread", "by the event loop"])
def test_each_gets_its_own_answer_and_none_pays_for_anothers_mistake(
    limit: int, way_in: Front, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "READ_HERE_LIMIT", limit)
    said = {
        "new": (Sender(notification("e1", "p:1", "p:2")), 202, {"accepted": 2, "duplicates": 0, "ignored": 0}),
        "the same": (Sender(notification("e1", "p:2", "p:3")), 202, {"accepted": 1, "duplicates": 1, "ignored": 0}),
        "another label": (
            Sender(notification("e2", labels=["x"])),
            202,
            {"accepted": 0, "duplicates": 0, "ignored": 1},
        ),
        "no JSON": (Sender(b"{"), 400, None),
        "nested": (Sender(b'{"a":' * 90_000), 400, None),
        "nothing": (Sender(b""), 400, None),
        "another token": (Sender(notification("e3"), token="wrong"), 401, None),
        "too large": (Sender(b" " * (1024 * 1024 + 1), pieces=20), 413, None),
        "unreadable": (Sender({"eventName": "x"}), 422, None),
        "in pieces": (
            Sender(notification("e4", "p:4"), pieces=50),
            202,
            {"accepted": 1, "duplicates": 0, "ignored": 0},
        ),
        "gone": (Sender(notification("e5"), hangs_up=True), None, None),
    }
    statuses = ask(way_in, *(sender for sender, _, _ in said.values()))
    assert dict(zip(said, statuses, strict=True)) == {name: status for name, (_, status, _) in said.items()}
    assert [sender.said for sender, _, answer in said.values() if answer] == [a for _, _, a in said.values() if a]
    assert sorted((event, post) for event, post, state, _ in rows(inbox) if state == "pending") == [
        *(("e1", "p:1"), ("e1", "p:2"), ("e1", "p:3"), ("e4", "p:4"))
    ]


def test_something_unforeseen_in_one_of_them_costs_that_one_only(
    app: Flask, way_in: Front, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    intake = relay_of(app).intake
    read = intake.read

    def broken_for_one(raw: Any, **names: Any) -> Any:
        if raw["eventUuid"] == "e1":
            raise KeyError("no such thing")
        return read(raw, **names)

    monkeypatch.setattr(intake, "read", broken_for_one)
    assert ask(way_in, *(Sender(notification(f"e{n}", f"p:{n}")) for n in range(3))) == [202, 500, 202]
    assert [row[0] for row in rows(inbox)] == ["e0", "e2"]
    assert fields(caplog, "request_broken")["request_id"] == "r-1"


def test_when_nothing_can_be_stored_all_are_told_to_send_it_again(
    way_in: Front, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    with inbox._database.transaction() as db:
        db.change("CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    senders = [Sender(notification(f"e{n}", f"p:{n}")) for n in range(3)]
    assert ask(way_in, *senders, Sender(b"{")) == [503, 503, 503, 400]
    assert (b"retry-after", b"5") in senders[0].sent[0]["headers"]
    assert events(caplog, "store_unavailable", "notification_accepted") == ["store_unavailable"] * 3
    with inbox._database.transaction() as db:
        db.change("DROP TRIGGER full")
    assert ask(way_in, *(Sender(notification(f"e{n}", f"p:{n}")) for n in range(3))) == [202] * 3
    assert len(rows(inbox)) == 3


def test_no_answer_comes_before_the_commit(way_in: Front, inbox: Inbox) -> None:
    """Another program holds the database; the event loop turns meanwhile."""
    sender = Sender(notification())

    async def held_up() -> None:
        with inbox._database.transaction():
            answering = asyncio.create_task(way_in(sender.scope, sender.receive, sender.send))  # type: ignore[arg-type]
            done, _ = await asyncio.wait([answering], timeout=0.3)
            assert not done and not sender.sent
        await asyncio.wait_for(answering, 10)

    in_a_loop(held_up())
    assert sender.status == 202 and len(rows(inbox)) == 1


def test_a_sender_that_hangs_up_during_the_commit_costs_nobody_an_answer(way_in: Front, inbox: Inbox) -> None:
    senders = [Sender(notification(f"e{n}", f"p:{n}")) for n in range(3)]

    async def one_hangs_up() -> None:
        with inbox._database.transaction():
            tasks = [asyncio.create_task(way_in(s.scope, s.receive, s.send)) for s in senders]  # type: ignore[arg-type]
            await asyncio.wait(tasks, timeout=0.1)
            tasks[1].cancel()
        await asyncio.wait(tasks, timeout=10)

    in_a_loop(one_hangs_up())
    assert [sender.status for sender in senders] == [202, None, 202]
    assert ask(way_in, Sender(notification("later"))) == [202]
    assert sorted(row[0] for row in rows(inbox)) == ["e0", "e1", "e2", "later"]


def test_what_waits_for_its_commit_counts_as_held_also_when_its_sender_has_hung_up(way_in: Front, inbox: Inbox) -> None:
    held = []

    async def hangs_up() -> None:
        sender = Sender(notification())
        with inbox._database.transaction():
            task = asyncio.create_task(way_in(sender.scope, sender.receive, sender.send))  # type: ignore[arg-type]
            await asyncio.wait([task], timeout=0.1)
            task.cancel()
            await asyncio.wait([task])
            held.append(way_in._held)
        await way_in._committing  # type: ignore[misc]  # it is at it
        held.append(way_in._held)

    in_a_loop(hangs_up())
    assert held == [len(json.dumps(notification())), 0]


def test_more_than_fits_into_the_memory_is_to_be_sent_again(
    way_in: Front, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps(notification("e1")).encode()
    monkeypatch.setattr(front, "HELD_LIMIT", 3 * len(body) + 10)
    statuses = ask(way_in, *(Sender(body) for _ in range(5)))
    assert sorted(status or 0 for status in statuses) == [202, 202, 202, 503, 503]
    assert events(caplog, "too_much_at_once") == ["too_much_at_once"] * 2
    assert ask(way_in, *(Sender(body) for _ in range(3))) == [202] * 3


def test_who_gets_in_has_no_line_but_that_of_the_notification_and_a_page_has_one(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "r-7"}
    client.post("/notifications", json=notification(), headers=headers)
    assert events(caplog) == ["notification_accepted"]
    client.get("/health?token=x", headers={"X-Request-Id": "r-8"})
    told = fields(caplog, "request")
    assert told.pop("took_ms") >= 0
    assert told == {"level": logging.INFO, "method": "GET", "path": "/health", "status": 200, "request_id": "r-8"}


def test_a_page_whose_time_is_up_has_its_line_too(caplog: pytest.LogCaptureFixture) -> None:
    go_on, ended, sender = threading.Event(), threading.Event(), Sender()

    class Nothing(list[bytes]):
        def close(self) -> None:
            ended.set()

    def slow(environ: Any, start_response: Any) -> Nothing:
        go_on.wait(10)
        return Nothing()

    async def cut() -> None:
        task = asyncio.create_task(Front(slow, None)(sender.scope, sender.receive, sender.send))  # type: ignore[arg-type]
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        await asyncio.wait([task])
        go_on.set()
        await asyncio.to_thread(ended.wait, 10)

    in_a_loop(cut())
    assert fields(caplog, "request")["status"] is None


def test_the_lines_of_one_request_have_one_request_id(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/notifications")
    assert fields(caplog, "request")["request_id"] == fields(caplog, "notification_refused")["request_id"]


def test_over_https_browsers_are_told_to_keep_to_it(client: FlaskClient) -> None:
    for proto, expected in (("https", True), ("http,https", True), ("https,http", False), ("", False)):
        answer = client.post("/notifications", headers={"X-Forwarded-Proto": proto})
        assert ("Strict-Transport-Security" in answer.headers) is expected, proto


def test_what_is_no_request_is_left_alone(way_in: Front) -> None:
    sender = Sender()
    sender.scope["type"] = "websocket"
    assert ask(way_in, sender) == [None]


# Where Flask itself is asked


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (notification(), TOKEN, 202),
        (notification(), "wrong", 401),
        (b"{", TOKEN, 400),
        ({"eventName": 1}, TOKEN, 422),
        (b" " * (1024 * 1024 + 1), TOKEN, 413),
    ],
)
def test_flask_by_itself_answers_as_the_front_does(
    body: Any, token: str, status: int, app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    options: Any = {"data": data, "headers": {"Authorization": f"Bearer {token}", "X-Request-Id": "r-1"}}
    answers, lines = [], []
    for asked in (client, FlaskClient(app, app.response_class)):
        caplog.clear()
        answers.append(asked.post("/notifications", **options))
        lines.append([name for name in events(caplog) if name != "parked"])
    one, other = answers
    assert (one.status_code, other.status_code, lines[0]) == (status, status, lines[1])
    assert one.get_json().keys() == other.get_json().keys()
    headers = [{name.lower(): value for name, value in answer.headers.items()} for answer in answers]
    assert headers[0].pop("content-length") and headers[1].pop("content-length") and headers[0] == headers[1]


def test_with_polling_flask_has_no_door_either(new_app: Callable[[Config], Flask], database_url: str) -> None:
    app = new_app(new_config(database_url=database_url, polling=True, public_url=""))
    assert FlaskClient(app, app.response_class).post("/notifications").status_code == 404
