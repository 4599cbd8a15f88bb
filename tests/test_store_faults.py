"""The database fails: no false yes to Khoros, nothing lost, a word about what to do, and it goes on by itself."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import (
    TOKEN,
    Clock,
    alone,
    compose,
    fields,
    new_config,
    new_item,
    notification,
    relay_of,
    rows,
    wait_for,
)
from flask import Flask
from flask.testing import FlaskClient

from config import Config
from database import Connection, StoreUnavailable
from delivery import LEASE_S, Delivery
from gate import LIMITED
from inbox import Inbox
from khoros_client import read_date
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk
from tickets import Style
from zendesk_client import ZendeskClient

NewApp = Callable[[Config], Flask]
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
V1 = Path(__file__).parent / "data" / "relay_v1.sql"
HOUR, DAY = 3600.0, 86400.0

# A file that went bad while the service was down, or under it


def page_of(file: Path, name: str) -> slice:
    """Where the root page of a table or an index lies in the file."""
    with closing(sqlite3.connect(file)) as db:
        [size], [number] = (
            db.execute("PRAGMA page_size").fetchone(),
            db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone(),
        )
    return slice((number - 1) * size, number * size)


def overwrite(file: Path, name: str) -> None:
    data, page = bytearray(file.read_bytes()), page_of(file, name)
    data[page] = os.urandom(page.stop - page.start)
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def made_by_a_later_release(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE memory SET value = '999' WHERE name = 'schema_version'")
        db.commit()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page of the items": (lambda file: overwrite(file, "inbox"), r"malformed; .*backup"),
    "a page of the index": (lambda file: overwrite(file, "sqlite_autoindex_inbox_1"), r"malformed; .*backup"),
    "the first page": (lambda file: file.write_bytes(os.urandom(4096) + file.read_bytes()[4096:]), "DATABASE_URL"),
    "truncated": (truncate, r"malformed; .*backup"),
    "no database": (lambda file: file.write_text("host = localhost\n" * 300), "not a database; DATABASE_URL"),
    "a later release": (made_by_a_later_release, "schema 999; deploy that one again"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


def filled(file: Path, clock: Clock) -> None:
    """A database with 300 items, closed."""
    inbox = Inbox(f"sqlite:///{file}", clock)
    inbox.accept([new_item(f"before-{number}", f"twitter:{number}") for number in range(300)])
    inbox.close()


def push(client: FlaskClient, event: str) -> int:
    return client.post("/notifications", json=notification(event, f"facebook:{event}"), headers=AUTHORISED).status_code


def kept(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as db:
        return {row[0] for row in db.execute("SELECT event_uuid FROM inbox")}


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(r.__dict__["fields"]["reason"]) for r in caplog.records if r.message == "store_unavailable"]


@pytest.mark.parametrize(("spoil", "remedy"), FAULTS.values(), ids=FAULTS.keys())
def test_a_spoilt_file_is_refused_told_and_taken_again_once_it_is_mended(
    spoil: Callable[[Path], object],
    remedy: str,
    file: Path,
    clock: Clock,
    new_app: NewApp,
    caplog: pytest.LogCaptureFixture,
) -> None:
    filled(file, clock)
    backup = shutil.copy(file, file.with_suffix(".backup"))
    spoil(file)
    app = new_app(new_config(database_url=f"sqlite:///{file}"))
    client = app.test_client()
    assert [push(client, f"during-{number}") for number in range(20)] == [503] * 20
    health = client.get("/health")
    assert (health.status_code, health.get_json()["store"]) == (503, "unavailable")
    assert reasons(caplog) and all(re.search(remedy, reason) for reason in reasons(caplog)), reasons(caplog)[:2]
    for left in file.parent.glob("relay.db*"):
        left.unlink()
    shutil.copy(backup, file)
    assert [push(client, "after"), client.get("/health").status_code] == [202, 200]
    relay_of(app).inbox.close()
    assert kept(file) == {"after", *(f"before-{number}" for number in range(300))}


def test_a_file_that_can_only_be_read_is_told_and_written_again_once_it_can_be(
    file: Path, clock: Clock, new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Opened with mode=ro, since permissions do not keep root, who may run the tests, from writing."""
    filled(file, clock)
    link = file.with_name("link.db")
    url = f"sqlite:///file:{link}?mode=ro&uri=true"
    link.symlink_to(file)
    client = new_app(new_config(database_url=url)).test_client()
    assert push(client, "during") == 503
    assert client.get("/health").status_code == 503
    assert all("let the relay write the database file and its folder" in reason for reason in reasons(caplog))
    assert kept(file) == {f"before-{number}" for number in range(300)}


def test_a_folder_that_is_not_there_is_told_and_found_once_it_is(
    tmp_path: Path, new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    client = new_app(new_config(database_url=f"sqlite:///{folder / 'relay.db'}")).test_client()
    assert push(client, "during") == 503
    assert "DATABASE_URL must lead into a folder that exists" in reasons(caplog)[0]
    folder.mkdir()
    assert push(client, "after") == 202
    assert kept(folder / "relay.db") == {"after"}


# Full and read-only disks under the real process


@dataclass
class Disk:
    """Where a relay's database lies: its `full()` and `freed()` take the space away and give it back."""

    folder: Path
    full: Callable[[Relay], object]
    freed: Callable[[Relay], object]
    remedy: str


def limit_files(relay: Relay, size: int) -> None:
    for pid in relay.pids[1:]:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@contextmanager
def tmpfs(folder: Path) -> Iterator[Path]:
    """A small disk of its own. Skips the test where it cannot be had."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; the limit on file sizes is tested instead")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(b"x" * 4096):
                pass
        except OSError:
            pass  # it is full now


@pytest.fixture(params=["a limit on file sizes", "a full disk"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "a full disk":
        with tmpfs(tmp_path / "disk") as folder:
            free = "free some space where the database lies"
            yield Disk(folder, lambda _: fill(folder), lambda _: (folder / "filler").unlink(), free)
    else:
        look = "look at the disk where the database lies, its space and its quota"
        yield Disk(tmp_path, lambda r: limit_files(r, 4096), lambda r: limit_files(r, resource.RLIM_INFINITY), look)


def pushed(relay: Relay, event: str) -> int:
    body = notification(event, f"twitter:{event}")
    return requests.post(f"{relay.url}/notifications", json=body, headers=AUTHORISED, timeout=20).status_code


def health(relay: Relay) -> int:
    return requests.get(f"{relay.url}/health", timeout=20).status_code


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the files of another process")
def test_a_full_disk_gives_no_false_yes_and_loses_nothing(disk: Disk) -> None:
    with ExitStack() as stack:
        zendesk = FakeZendesk()
        url = stack.enter_context(Server(zendesk.app)).url
        relay = stack.enter_context(Relay(env=alone(disk.folder, ZENDESK_API_URL=url))).wait_ready()
        answers = {f"before-{number}": pushed(relay, f"before-{number}") for number in range(5)}
        disk.full(relay)
        answers |= {f"during-{number}": pushed(relay, f"during-{number}") for number in range(40)}
        assert set(answers.values()) == {202, 503}
        wait_for(lambda: health(relay) == 503)
        assert disk.remedy in relay.wait_for_line("event=store_unavailable")
        disk.freed(relay)
        wait_for(lambda: pushed(relay, "after") == 202)
        wait_for(lambda: health(relay) == 200)
        taken = {f"twitter:{event}" for event, status in answers.items() if status == 202} | {"twitter:after"}
        relay.kill()
        relay.start().wait_ready()
        wait_for(lambda: taken <= {ticket.external_id for ticket in zendesk.tickets}, 30)
        made = [ticket.external_id for ticket in zendesk.tickets]
        assert len(made) == len(set(made))
        assert {event.removeprefix("twitter:") for event in taken} <= kept(disk.folder / "relay.db")


def test_a_disk_that_turns_writable_is_noticed_without_a_restart(tmp_path: Path, clock: Clock) -> None:
    with tmpfs(tmp_path / "disk") as folder:
        filled(folder / "relay.db", clock)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with Relay(env=alone(folder)) as relay:
            line = relay.wait_for_line("event=store_unavailable")
            assert "let the relay write" in line or "folder that exists and that the relay may write to" in line
            assert (pushed(relay, "during"), health(relay)) == (503, 503)
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            wait_for(lambda: pushed(relay, "after") == 202)
            wait_for(lambda: health(relay) == 200)
        assert kept(folder / "relay.db") == {"after", *(f"before-{number}" for number in range(300))}


# A file of the first release


def test_a_file_of_the_first_release_is_opened_and_what_waits_in_it_is_delivered(
    file: Path, clock: Clock, zendesk: FakeZendesk
) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.executescript(V1.read_text(encoding="utf-8"))
        [frozen] = db.execute("SELECT body, idempotency_key FROM inbox WHERE event_uuid = 'sent-once'")
    clock.now = 1_763_990_000.0
    zendesk_url: str = zendesk.url  # type: ignore[attr-defined]  # the fixture sets it
    client = ZendeskClient(zendesk_url, client_id=zendesk.client_id, client_secret=zendesk.client_secret)
    first = {"ticket": {"external_id": "twitter:1", "subject": "Before", "comment": {"body": "Before"}}}
    assert client.create_ticket(json.dumps(first).encode(), "first").id == 1001
    inbox = Inbox(f"sqlite:///{file}", clock)
    delivery = Delivery(inbox, client, Style("CreateCase", {}, False))
    for _ in range(5):
        delivery.deliver_due()
    state = {event: (state, reason) for event, _, state, reason in rows(inbox)}
    parked = {event: reason for event, (state, reason) in state.items() if state == "parked"}
    assert parked == {
        "parked-1": "Zendesk answered 422 RecordInvalid",
        "unreadable:" + "0" * 64: "eventName is missing",
    }
    assert {event for event, (state, _) in state.items() if state == "delivered"} == {
        *("delivered-1", "sent-once", "waiting", "again")
    }
    assert sorted(ticket.external_id for ticket in zendesk.tickets) == ["twitter:1", "twitter:3", "twitter:4"]
    sent = [call for call in zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]
    assert frozen in [(call.body.decode("ascii"), call.idempotency_key) for call in sent]
    assert inbox.accept([new_item("delivered-1", "twitter:1"), new_item("new", "twitter:9")]) == [False, True]
    inbox.close()


# Clocks


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite: with PostgreSQL the database's own clock counts."""
    return f"sqlite:///{tmp_path / 'relay.db'}"


@pytest.mark.parametrize("step", [HOUR, DAY, -HOUR, -DAY])
def test_a_step_of_the_clock_loses_nothing_and_holds_nothing_for_more_than_an_hour(
    step: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item("in flight", "twitter:1"), new_item("waiting", "twitter:2")])
    [lost] = inbox.claim(1, LEASE_S, compose).items  # by a process that then dies
    clock.advance(step)
    inbox.accept([new_item("later", "twitter:3")])
    claimed = {item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items}
    assert "later" in claimed
    clock.advance(HOUR + LEASE_S)
    claimed |= {item.event_uuid for item in inbox.claim(8, LEASE_S, compose).items}
    assert claimed == {"in flight", "waiting", "later"}
    counts = inbox.counts()
    assert counts.pending == 3 and (counts.oldest_pending_s or 0) >= 0


@pytest.mark.parametrize("step", [HOUR, DAY, -HOUR, -DAY])
def test_a_step_of_the_clock_never_closes_the_gate_for_more_than_an_hour(
    step: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    inbox.move_gate(lambda gate, now: gate.after_failure(now, gate.version, LIMITED, "limited", 60.0))
    assert inbox.claim(1, LEASE_S, compose).items == []
    clock.advance(step)
    clock.advance(HOUR + 61)
    assert len(inbox.claim(1, LEASE_S, compose).items) == 1


def test_who_had_an_item_before_the_clock_stepped_cannot_settle_it_for_who_has_it_now(
    inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    [mine] = inbox.claim(1, LEASE_S, compose).items
    clock.advance(DAY)
    [theirs] = other.claim(1, LEASE_S, compose).items
    assert (theirs.request, theirs.attempts) == (mine.request, 2)
    assert not inbox.settle(mine, {"state": "delivered", "ticket_id": 1}, lambda gate, now: gate).ours
    assert other.settle(theirs, {"state": "delivered", "ticket_id": 1}, lambda gate, now: gate).ours


@pytest.mark.parametrize("zone", ["UTC", "America/Chicago", "Europe/London", "Pacific/Auckland", "Asia/Kathmandu"])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun Mar 12 01:59:59 CST 2017", 1489305599),
        ("Sun Mar 12 03:00:00 CDT 2017", 1489305600),
        ("Sun Mar 12 02:30:00 CST 2017", 1489307400),  # a clock that nobody has put forward
        ("Sun Nov 05 01:30:00 CDT 2017", 1509863400),
        ("Sun Nov 05 01:30:00 CST 2017", 1509867000),
        ("2017-11-05T06:30:00.000Z", 1509863400),
    ],
)
def test_dates_around_the_ends_of_summer_time_are_read_the_same_in_every_zone(
    text: str, seconds: int, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert read_date(text) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


def test_while_another_program_holds_the_file_all_who_wait_are_told_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, tries = Inbox(f"sqlite:///{tmp_path / 'relay.db'}"), []
    inbox.now()
    commit = inbox._commit

    def tried(jobs: list[Any]) -> None:
        tries.append(len(jobs))
        commit(jobs)

    def refused() -> bool:
        try:
            inbox.prove_writable()
        except StoreUnavailable as error:
            return "is locked" in str(error)
        return False

    monkeypatch.setattr("database.LOCK_WAIT_S", 0.3)
    inbox._database.forget()
    monkeypatch.setattr(inbox, "_commit", tried)
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other, ThreadPoolExecutor(4) as pool:
        other.execute("BEGIN IMMEDIATE")
        assert all([refusal.result() for refusal in [pool.submit(refused) for _ in range(4)]])
    assert sum(tries) == 4  # not once together and then each alone
    inbox.close()


def test_a_file_without_a_write_ahead_log_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    """So does another worker that opens the same new file: SQLite says at once that it is locked."""
    file = tmp_path / "relay.db"
    inbox = Inbox(f"sqlite:///{file}")
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE another (value)")
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ("COMMIT",))
        release.start()
        inbox.remember("name", "value")
        release.join()
    assert inbox.recall("name") == "value"
    inbox.close()


def test_a_file_without_a_write_ahead_log_that_is_never_let_go_is_said_to_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("database.LOCK_WAIT_S", 0.2)
    inbox = Inbox(f"sqlite:///{tmp_path / 'relay.db'}")
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE another (value)")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="is locked; end the other program"):
            inbox.remember("name", "value")
    inbox.close()


def test_a_file_that_is_moved_while_another_thread_finds_out_gets_no_false_yes(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    inbox = Inbox(f"sqlite:///{file}")
    inbox.now()

    def moved_meanwhile(db: Connection) -> None:
        db.change("INSERT INTO memory (name, value) VALUES ('kept', 'yes')")
        if (tmp_path / "before-relay.db").exists():
            return
        for part in list(tmp_path.iterdir()):
            part.rename(part.with_name(f"before-{part.name}"))
        with closing(Inbox(f"sqlite:///{file}")) as another:
            another.now()
        with pytest.raises(StoreUnavailable), inbox.statement() as other:
            other.rows("SELECT nothing FROM nowhere")

    inbox.write(moved_meanwhile)
    inbox.close()
    with closing(Inbox(f"sqlite:///{file}")) as there:
        assert there.recall("kept") == "yes"


@pytest.mark.parametrize("gone", ["moved", "removed", "replaced"])
def test_nothing_is_acknowledged_into_a_file_that_no_longer_lies_there(
    gone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    inbox = Inbox(url)
    assert inbox.accept([new_item("e1", "twitter:1")]) == [True]
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / f"before-{file.name}")
    if gone == "removed":
        for file in tmp_path.iterdir():
            file.unlink()
    if gone == "replaced":
        with closing(sqlite3.connect(tmp_path / "relay.db")) as other:
            other.execute("CREATE TABLE another (value)")
    assert inbox.accept([new_item("e2", "twitter:2")]) == [True]
    inbox.close()
    after_a_restart = Inbox(url)
    assert [event_uuid for event_uuid, *_ in rows(after_a_restart)] == ["e2"]
    after_a_restart.close()
    assert "put the one before back" in fields(caplog, "database_moved")["reason"]


def test_a_folder_that_was_moved_away_is_no_place_to_acknowledge_into(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    inbox = Inbox(f"sqlite:///{folder / 'relay.db'}")
    assert inbox.accept([new_item("e1", "twitter:1")]) == [True]
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="DATABASE_URL must lead into a folder"):
        inbox.accept([new_item("e2", "twitter:2")])
    (tmp_path / "elsewhere").rename(folder)
    assert inbox.accept([new_item("e2", "twitter:2")]) == [False]  # it was kept after all, and is known
    inbox.close()
