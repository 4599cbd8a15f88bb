"""A pooler gives each transaction another connection to PostgreSQL: nothing may be lost, doubled or mixed up by it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from conftest import new_item
from sessions import execute

from inbox import open_database
from inbox.database import DatabaseUnavailable
from inbox.facts import Facts
from inbox.inbox import Inbox
from sandbox.relay import ROOT

EACH = 75  # items that each of two threads of each process accepts


def test_two_processes_behind_a_pooler_lose_double_and_mix_up_nothing(
    emptied: Callable[[], str], pooled: Callable[[str], str]
) -> None:
    direct = emptied()
    script = str(Path(__file__).with_name("pooled_work.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, script, pooled(direct), name, str(EACH)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=100)[0] for process in processes]
    assert said == ["", ""]
    query = "SELECT event_uuid, state, attempts, reference, subject_id, body, key FROM items ORDER BY 1"
    with psycopg.connect(direct) as db:
        found = db.execute(query).fetchall()
        assert db.execute("SELECT count(*), count(DISTINCT item_id) FROM attempts").fetchone() == (4 * EACH, 4 * EACH)
    events = sorted(f"{name}-{thread}-{n}" for name in ("one", "two") for thread in range(2) for n in range(EACH))
    assert found == [(e, "delivered", 1, f"of {e}", f"twitter:{e}", f"body of {e}", f"key of {e}") for e in events]


def test_a_schema_is_found_through_a_pooler_and_nothing_of_it_stays_for_others(
    emptied: Callable[[], str], pooled: Callable[[str], str]
) -> None:
    direct = emptied()
    execute(direct, 'CREATE SCHEMA "Our relay"')
    by_pooler = pooled(direct)
    with closing(open_database(f"{by_pooler}?schema=Our%20relay")) as ours, closing(open_database(by_pooler)) as others:
        inbox, facts = Inbox(ours), Facts(ours)
        facts.remember("place", "ours")
        assert inbox.accept([new_item("e1"), new_item("e2")]) == [True, True]
        for _ in range(5):  # each time another connection may serve it
            Facts(others).remember("place", "others'")
            assert (facts.recall("place"), Facts(others).recall("place")) == ("ours", "others'")
        assert (inbox.counts().pending, Inbox(others).counts().pending) == (2, 0)
    with psycopg.connect(direct) as db:
        assert db.execute('SELECT count(*) FROM "Our relay".items').fetchone() == (2,)


def test_settings_that_a_pooler_refuses_are_named(emptied: Callable[[], str], pooled: Callable[[str], str]) -> None:
    url = f"{pooled(emptied())}?options=-c%20search_path%3Dours"
    with (
        closing(open_database(url)) as database,
        pytest.raises(DatabaseUnavailable, match=r"\?schema=NAME replaces search_path"),
    ):
        Inbox(database).counts()
