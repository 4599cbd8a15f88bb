"""The store: threads that write at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import wait_for

from inbox import Inbox
from store import StoreUnavailable

Work = Callable[[sa.Connection], Any]


@contextmanager
def writing_at_once(inbox: Inbox, works: list[Work]) -> Iterator[list[Future[Any]]]:
    """Each of these in a thread of its own, while another thread's write is under way until the block is left."""
    inbox.now()  # opens the database
    begun, go_on = threading.Event(), threading.Event()

    def hold(db: sa.Connection) -> None:
        begun.set()
        go_on.wait(10)

    with ThreadPoolExecutor(len(works) + 1) as pool:
        pool.submit(inbox.write, hold)
        begun.wait(10)
        waiting = [pool.submit(inbox.write, work) for work in works]
        wait_for(lambda: len(inbox._waiting) == len(works))
        yield waiting
        go_on.set()


def test_what_several_threads_have_to_write_is_committed_together(inbox: Inbox) -> None:
    commits: list[None] = []
    sa.event.listen(inbox._engine, "commit", lambda connection: commits.append(None))
    works: list[Work] = [lambda db, n=n: n for n in range(5)]  # type: ignore[misc]  # mypy drops the default
    with writing_at_once(inbox, works) as waiting:
        commits.clear()
    assert ([future.result(10) for future in waiting], len(commits)) == ([0, 1, 2, 3, 4], 2)


def test_one_threads_failure_is_its_own(inbox: Inbox) -> None:
    def fail(db: sa.Connection) -> None:
        db.exec_driver_sql("SELECT nothing FROM nowhere")

    def keep(db: sa.Connection) -> None:
        db.exec_driver_sql("INSERT INTO memory (name, value) VALUES ('kept', 'yes')")

    with writing_at_once(inbox, [fail, keep]) as (failing, keeping):
        pass
    with pytest.raises(StoreUnavailable):
        failing.result(10)
    keeping.result(10)
    assert inbox.recall("kept") == "yes"


def test_a_write_after_one_that_was_broken_off_is_done(inbox: Inbox) -> None:
    def broken_off(db: sa.Connection) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        inbox.write(broken_off)
    inbox.remember("kept", "yes")
    assert inbox.recall("kept") == "yes"


def test_every_one_of_many_writes_at_once_is_committed_once(inbox: Inbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: inbox.remember(f"n-{number}", "x"), range(200)))
    with inbox.statement() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM memory WHERE name LIKE 'n-%%'").scalar_one() == 200
