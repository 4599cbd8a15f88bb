"""The database fails: nothing is acknowledged or lost, the reason comes with a remedy, and it goes on by itself."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import requests
from claims import LEASE_S, claim, claimed, move_gate, settle
from conftest import TOKEN, Clock, alone, fields_of, new_item, notification, rows, wait_for
from sessions import WatchedSession, execute

from inbox import open_database
from inbox.database import ConnectionsBusy, Database, DatabaseUnavailable
from inbox.facts import Facts
from inbox.gate import LIMITED
from inbox.inbox import Inbox
from sandbox.relay import Relay
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
        assert inbox.accept([new_item("e2", "twitter:2")]) == [False]  # it was kept after all, and is known


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
    clock.advance(HOUR + LEASE_S if step == -HOUR else LEASE_S)
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
