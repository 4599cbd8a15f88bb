"""The database fails: nothing is acknowledged or lost, the reason comes with a remedy, and it goes on by itself."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from claims import LEASE_S, claim, claimed, move_gate, settle
from conftest import TOKEN, Clock, alone, fields_of, new_item, notification, rows, wait_for
from sessions import WatchedSession, execute, watch

from inbox import open_database
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable, Session
from inbox.facts import Facts
from inbox.gate import LIMITED
from inbox.inbox import Inbox
from sandbox.relay import ROOT, Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

HOUR, DAY = 3600.0, 86400.0
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # on PostgreSQL the server's clock counts


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.db"


def filled(file: Path) -> set[str]:
    """Makes a database with 300 items, and gives their events."""
    events = [f"before-{number}" for number in range(300)]
    with closing(open_database(f"sqlite:///{file}")) as database:
        Inbox(database).accept([new_item(event, f"twitter:{event}") for event in events])
    return set(events)


def kept(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as db:
        return {row[0] for row in db.execute("SELECT event_uuid FROM items")}


# A file that was damaged while the service was down


def page_of(file: Path, name: str) -> slice:
    """Where the root page of a table or an index lies in the file."""
    with closing(sqlite3.connect(file)) as db:
        [size] = db.execute("PRAGMA page_size").fetchone()
        [number] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    return slice((number - 1) * size, number * size)


def overwrite(file: Path, name: str) -> None:
    page, data = page_of(file, name), bytearray(file.read_bytes())
    data[page] = os.urandom(page.stop - page.start)
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page of the items": (lambda file: overwrite(file, "items"), r"malformed; .*backup"),
    "a page of the index": (lambda file: overwrite(file, "sqlite_autoindex_items_1"), r"malformed; .*backup"),
    "the first page": (lambda file: file.write_bytes(os.urandom(4096) + file.read_bytes()[4096:]), "DATABASE_URL"),
    "truncated": (truncate, r"malformed; .*backup"),
    "no database": (lambda file: file.write_text("host = localhost\n" * 300), "not a database; DATABASE_URL"),
    "a later release": (
        lambda file: execute(f"sqlite:///{file}", "UPDATE schema_version SET version = 999"),
        "schema 999",
    ),
}


@pytest.mark.parametrize(("spoil", "remedy"), FAULTS.values(), ids=FAULTS.keys())
def test_a_damaged_file_is_refused_with_a_remedy_and_used_again_once_it_is_repaired(
    spoil: Callable[[Path], object], remedy: str, file: Path
) -> None:
    before = filled(file)
    backup = shutil.copy(file, file.with_suffix(".backup"))
    spoil(file)
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        for number in range(5):
            with pytest.raises(DatabaseUnavailable, match=remedy):
                inbox.accept([new_item(f"during-{number}", f"facebook:{number}")])
            with pytest.raises(DatabaseUnavailable, match=remedy):
                inbox.check_writable()
        for left in file.parent.glob("relay.db*"):
            left.unlink()
        shutil.copy(backup, file)
        assert inbox.accept([new_item("after", "facebook:after")]) == [True]
        inbox.check_writable()
    assert kept(file) == {"after", *before}


def test_a_folder_that_is_not_there_is_named_and_used_once_it_is(tmp_path: Path) -> None:
    file = tmp_path / "data" / "relay.db"
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable, match="DATABASE_URL must lead into a folder that exists"):
                inbox.accept([new_item("during")])
        file.parent.mkdir()
        assert inbox.accept([new_item("after")]) == [True]
    assert kept(file) == {"after"}


# Disks that are full, or can only be read


class LimitedSession(WatchedSession):
    """A connection that runs a pragma first, as long as there is one."""

    pragma = ""

    def __init__(self, driver: Any, *rest: Any) -> None:
        super().__init__(driver, *rest)
        if self.pragma:
            driver.execute(f"PRAGMA {self.pragma}")


@pytest.fixture
def limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database whose connections can be limited from now on."""
    monkeypatch.setattr(LimitedSession, "pragma", "")
    database = open_database(f"sqlite:///{file}")
    monkeypatch.setattr(database, "session_class", LimitedSession)
    yield database
    database.close()


@pytest.mark.parametrize(
    ("pragma", "remedy"),
    [
        ("max_page_count = 30", "full; free some space where the database lies"),
        ("query_only = ON", "readonly database; let the relay write the database file and its folder"),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_nothing_is_an_error_and_not_a_loss(
    pragma: str, remedy: str, limited: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(limited)
    inbox.accept([new_item("e1")])
    limited.close()  # the connections that it opens now are limited
    monkeypatch.setattr(LimitedSession, "pragma", pragma)
    big = [new_item(f"big-{n}", f"p:{n}") for n in range(2000)]
    with pytest.raises(DatabaseUnavailable, match=remedy) as raised:
        inbox.accept(big)
    assert "Hello" not in str(raised.value)
    monkeypatch.setattr(LimitedSession, "pragma", "")
    assert inbox.counts().pending == 1
    assert inbox.accept(big) == [True] * len(big)


def limit_files(relay: Relay, size: int) -> None:
    """Limits how large the files of the relay's workers may become, as a quota does."""
    for pid in relay.pids[1:]:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def pushed(relay: Relay, event: str) -> int:
    body, headers = notification(event, f"twitter:{event}"), {"Authorization": f"Bearer {TOKEN}"}
    return requests.post(f"{relay.url}/notifications", json=body, headers=headers, timeout=20).status_code


def health(relay: Relay) -> int:
    return requests.get(f"{relay.url}/health", timeout=20).status_code


def test_a_full_disk_under_the_real_process_gives_no_false_202_and_loses_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        zendesk = FakeZendesk()
        url = stack.enter_context(Server(zendesk.app)).url
        relay = stack.enter_context(Relay(env=alone(tmp_path, ZENDESK_API_URL=url))).wait_ready()
        answers = {f"before-{number}": pushed(relay, f"before-{number}") for number in range(5)}
        limit_files(relay, 4096)
        answers |= {f"during-{number}": pushed(relay, f"during-{number}") for number in range(20)}
        assert set(answers.values()) == {202, 503}
        wait_for(lambda: health(relay) == 503)
        remedy = "look at the disk where the database lies, its space and its quota"
        assert remedy in relay.wait_for_line("event=database_unavailable")
        limit_files(relay, resource.RLIM_INFINITY)
        wait_for(lambda: pushed(relay, "after") == 202)
        wait_for(lambda: health(relay) == 200)
        taken = {f"twitter:{event}" for event, status in answers.items() if status == 202} | {"twitter:after"}
        relay.kill()
        relay.start().wait_ready()
        wait_for(lambda: taken <= {ticket.external_id for ticket in zendesk.tickets}, 30)
        made = [ticket.external_id for ticket in zendesk.tickets]
        assert len(made) == len(set(made))
        assert {event.removeprefix("twitter:") for event in taken} <= kept(tmp_path / "relay.db")


READ = """
import os, sys
from inbox import open_database
from inbox.database import DatabaseUnavailable
from inbox.inbox import Inbox
from inbox.records import Records
database = open_database(sys.argv[1])
import inbox.sqlite
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    Inbox(database).check_writable()
except DatabaseUnavailable as error:
    print(error)
print(Inbox(database).counts().pending, [record.event_uuid for record in Records(database).latest()])
"""


def test_on_a_disk_that_became_read_only_everything_can_still_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "relay.db"
        with closing(open_database(f"sqlite:///{file}")) as database:
            Inbox(database).accept([new_item("e1")])
            for part in file.parent.iterdir():
                part.chmod(0o444)
            file.parent.chmod(0o555)
            command = [sys.executable, "-c", READ, f"sqlite:///{file}"]
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own
            file.parent.chmod(0o700)
    assert said.stdout.splitlines() == [
        "OperationalError: attempt to write a readonly database; let the relay write the database file and its folder",
        "1 ['e1']",
    ]


# Another program that uses the file


def test_while_another_program_holds_the_file_everyone_waits_only_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    with closing(open_database(f"sqlite:///{file}", wait_s=0.2)) as database, ThreadPoolExecutor(4) as pool:
        inbox = Inbox(database)
        inbox.counts()

        class Counted(WatchedSession):
            def before(self, sql: str, values: object) -> None:
                tries.extend([1] if sql.startswith("BEGIN") else [])

        database.close()
        monkeypatch.setattr(database, "session_class", Counted)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ConnectionsBusy, match="is locked; end the other program"):
                inbox.accept([new_item()])
            assert len(tries) == 1
            waiting = [pool.submit(inbox.accept, [new_item()]) for _ in range(4)]
            for refused in waiting:
                assert isinstance(refused.exception(10), ConnectionsBusy)
            assert len(tries) <= 5
        assert inbox.accept([new_item()]) == [True]


def test_while_another_program_writes_a_command_that_only_reads_does_not_wait(file: Path) -> None:
    before = filled(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with closing(open_database(f"sqlite:///{file}", wait_s=0.1)) as database:
            assert Inbox(database).counts().pending == len(before)


def test_a_file_without_a_write_ahead_log_that_is_being_written_is_waited_for(file: Path) -> None:
    """So does another worker that opens the same new file: SQLite says at once that it is locked."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE another (value)")
        other.execute("BEGIN IMMEDIATE")
        with closing(open_database(f"sqlite:///{file}")) as database:
            release = threading.Timer(0.2, other.execute, ("COMMIT",))
            release.start()
            assert Inbox(database).accept([new_item()]) == [True]
            release.join()


def test_a_file_without_a_write_ahead_log_that_is_never_released_is_locked(file: Path) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("CREATE TABLE another (value)")
        other.execute("BEGIN IMMEDIATE")
        with closing(open_database(f"sqlite:///{file}", wait_s=0.1)) as database:
            with pytest.raises(ConnectionsBusy, match="is locked; end the other program"):
                Inbox(database).accept([new_item()])


# A file that is moved under the running service


def move_away(file: Path) -> None:
    for part in list(file.parent.glob("relay.db*")):
        part.rename(part.with_name(f"before-{part.name}"))


@pytest.mark.parametrize("gone", ["moved", "removed", "replaced"])
def test_nothing_is_acknowledged_into_a_file_that_no_longer_lies_there(
    gone: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{file}"
    with closing(open_database(url)) as database:
        inbox = Inbox(database)
        assert inbox.accept([new_item("e1", "twitter:1")]) == [True]
        move_away(file)
        if gone == "removed":
            for part in file.parent.iterdir():
                part.unlink()
        if gone == "replaced":
            execute(url, "CREATE TABLE another (value)")
        assert inbox.accept([new_item("e2", "twitter:2")]) == [True]
    with closing(open_database(url)) as after_a_restart:
        assert [event_uuid for event_uuid, *_ in rows(after_a_restart)] == ["e2"]
    assert "put the previous one back" in fields_of(caplog, "database_moved")["reason"]


def test_a_file_that_is_moved_while_another_thread_fails_gets_no_false_yes(file: Path) -> None:
    """The other thread's failure makes everything be opened anew; this one's commit still goes to the moved file."""
    url = f"sqlite:///{file}"
    with closing(open_database(url)) as database:
        Facts(database).now()
        with pytest.raises(DatabaseUnavailable, match="put the previous one back"), database.transaction() as db:
            db.change("INSERT INTO facts (name, value) VALUES ('kept', 'yes')")
            move_away(file)
            with closing(open_database(url)) as another:
                Facts(another).now()
            with pytest.raises(DatabaseUnavailable), database.reading() as other:
                other.rows("SELECT nothing FROM nowhere")
        Facts(database).remember("kept", "now")
    with closing(open_database(url)) as there:
        assert Facts(there).recall("kept") == "now"


def test_a_folder_that_was_moved_away_is_not_acknowledged_into(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with closing(open_database(f"sqlite:///{folder / 'relay.db'}")) as database:
        inbox = Inbox(database)
        assert inbox.accept([new_item("e1", "twitter:1")]) == [True]
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(DatabaseUnavailable, match="DATABASE_URL must lead into a folder"):
            inbox.accept([new_item("e2", "twitter:2")])
        (tmp_path / "elsewhere").rename(folder)
        assert inbox.accept([new_item("e2", "twitter:2")]) == [True]


# The log of an SQLite file that is deleted or replaced under the running service


@pytest.fixture
def after_power_cut(file: Path, tmp_path: Path) -> Callable[[], set[str]]:
    """The events in the files as they lie on the disk now, without what a process still has open."""
    copies = itertools.count()

    def read() -> set[str]:
        copy = tmp_path / f"copy-{next(copies)}"
        copy.mkdir()
        for part in (file, file.with_name("relay.db-wal")):
            if part.exists():
                shutil.copy(part, copy)
        return kept(copy / file.name)

    return read


@pytest.mark.parametrize("gone", ["deleted", "moved", "deleted, and another program looked"])
def test_what_is_acknowledged_is_in_the_files_that_are_there_though_the_log_is_not(
    gone: str, file: Path, after_power_cut: Callable[[], set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_database(f"sqlite:///{file}")) as database, closing(open_database(f"sqlite:///{file}")) as other:
        Inbox(other).accept([new_item("from another process", "twitter:0")])
        inbox = Inbox(database)
        assert inbox.accept([new_item("before", "twitter:1")]) == [True]
        log_file = file.with_name("relay.db-wal")
        log_file.rename(file.with_name("elsewhere")) if gone == "moved" else log_file.unlink()
        if gone.endswith("looked"):
            with suppress(sqlite3.OperationalError):
                kept(file)
            assert log_file.exists()
        assert inbox.accept([new_item("after", "twitter:2")]) == [True]
        assert after_power_cut() == {"from another process", "before", "after"}
        assert Inbox(other).accept([new_item("from another process again", "twitter:3")]) == [True]
        assert inbox.accept([new_item("later", "twitter:4")]) == [True]
        events = {"from another process", "before", "after", "from another process again", "later"}
        assert after_power_cut() == events
    assert kept(file) == events
    said = [record.__dict__["fields"]["reason"] for record in caplog.records if record.message == "database_moved"]
    assert "relay.db-wal was deleted under the running relay; nothing is lost" in said[0]


def test_a_log_that_is_deleted_at_the_very_commit_keeps_the_commit(
    file: Path, after_power_cut: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        inbox.counts()
        database.close()

        def delete(session: Session, sql: str, values: object) -> None:
            if sql == "COMMIT":
                file.with_name("relay.db-wal").unlink()
                monkeypatch.undo()

        watch(monkeypatch, database, delete)
        assert inbox.accept([new_item("e1")]) == [False]  # the second try finds it there
        assert after_power_cut() == {"e1"}


def test_the_loop_that_looks_for_work_saves_what_a_deleted_log_held(
    file: Path, after_power_cut: Callable[[], set[str]]
) -> None:
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        inbox.accept([new_item("e1")])
        file.with_name("relay.db-wal").unlink()
        with pytest.raises(DatabaseUnavailable, match="nothing is lost"):
            claim(inbox)
        assert after_power_cut() == {"e1"}
        assert claimed(inbox) == ["e1"]


def test_nothing_is_acknowledged_into_a_log_that_was_replaced(
    file: Path, tmp_path: Path, after_power_cut: Callable[[], set[str]], caplog: pytest.LogCaptureFixture
) -> None:
    backup = tmp_path / "backup"
    with closing(open_database(f"sqlite:///{file}")) as database:
        inbox = Inbox(database)
        inbox.accept([new_item("in the backup", "twitter:1")])
        shutil.copy(file.with_name("relay.db-wal"), backup)
        inbox.accept([new_item("not in the backup", "twitter:2")])
        backup.rename(file.with_name("relay.db-wal"))
        with suppress(DatabaseUnavailable):
            inbox.accept([new_item("after", "twitter:3")])
        wait_for(lambda: _accepts(inbox))
        assert {"in the backup", "last"} <= after_power_cut()
    assert "what the previous one held may be lost" in fields_of(caplog, "database_moved")["reason"]


def _accepts(inbox: Inbox) -> bool:
    try:
        inbox.accept([new_item("last", "twitter:4")])
    except DatabaseUnavailable:
        return False
    return True


def test_a_deleted_log_and_kill_9_lose_no_post_of_the_real_processes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        zendesk = FakeZendesk()
        zendesk.faults.outage(503)
        url = stack.enter_context(Server(zendesk.app)).url
        relay = stack.enter_context(Relay(env=alone(tmp_path, ZENDESK_API_URL=url), workers=2)).wait_ready()
        assert {pushed(relay, f"before-{number}") for number in range(5)} == {202}
        (tmp_path / "relay.db-wal").unlink()
        assert {pushed(relay, f"after-{number}") for number in range(5)} == {202}
        relay.kill()
        assert kept(tmp_path / "relay.db") >= {f"{when}-{n}" for when in ("before", "after") for n in range(5)}


# Clocks


@SQLITE
@pytest.mark.parametrize("step", [HOUR, DAY, -HOUR, -DAY])
def test_a_step_of_the_clock_loses_nothing_and_holds_nothing_for_more_than_an_hour(
    step: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item("in flight", "twitter:1"), new_item("waiting", "twitter:2")])
    assert claimed(inbox, 1) == ["in flight"]  # by a process that then dies
    clock.advance(step)
    inbox.accept([new_item("later", "twitter:3")])
    events = set(claimed(inbox))
    assert "later" in events
    clock.advance(HOUR + LEASE_S)
    assert events | set(claimed(inbox)) == {"in flight", "waiting", "later"}
    counts = inbox.counts()
    assert counts.pending == 3 and (counts.oldest_pending_s or 0) >= 0


@SQLITE
@pytest.mark.parametrize("step", [HOUR, DAY, -HOUR, -DAY])
@pytest.mark.parametrize("probed", [False, True])
def test_a_step_of_the_clock_never_closes_the_gate_for_more_than_an_hour(
    probed: bool, step: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item("e1", "twitter:1"), new_item("e2", "twitter:2")])
    move_gate(inbox, LIMITED, reason="limited", retry_after_s=60.0)
    assert claim(inbox) == []
    if probed:
        clock.advance(60)
        assert len(claim(inbox)) == 1  # by a process that then dies
    clock.advance(step)
    claim(inbox)  # the loop looks every second, and sees the step
    clock.advance(HOUR + 61)
    assert len(claim(inbox)) == 1


@SQLITE
@pytest.mark.parametrize("step", [-HOUR, -DAY])
def test_a_step_of_the_clock_does_not_leave_two_items_of_a_post_waiting_for_each_other(
    step: float, inbox: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item("e1")])
    inbox.accept([new_item("e2")])
    [first] = claim(inbox)
    settle(inbox, first, "refused")
    assert claimed(inbox) == ["e2"]  # by a process that then dies
    inbox.retry([first.id])
    clock.advance(step)
    assert claimed(inbox) == []  # the loop looks every second, and sees the step
    clock.advance(LEASE_S)
    assert claimed(inbox) == ["e1"]


@SQLITE
def test_an_item_from_before_a_step_of_the_clock_cannot_be_settled_for_the_process_that_has_it_now(
    inbox: Inbox, other: Inbox, clock: Clock
) -> None:
    inbox.accept([new_item()])
    [mine] = claim(inbox, 1)
    clock.advance(DAY)
    [theirs] = claim(other, 1)
    assert (theirs.draft, theirs.attempts) == (mine.draft, 2)
    assert not settle(inbox, mine).ours
    assert settle(other, theirs).ours
