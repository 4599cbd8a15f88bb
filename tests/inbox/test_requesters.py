"""Which user an author is, and whose turn it is to ask for one more."""

from __future__ import annotations

import pytest
from conftest import Clock

from inbox.database import Database
from inbox.inbox import Inbox
from inbox.requesters import PACE_S, Requesters


def test_a_user_is_remembered_by_every_process_until_it_is_forgotten(
    database: Database, other_database: Database
) -> None:
    mine, others = Requesters(database), Requesters(other_database)
    mine.remember("twitter:1", "7001")
    mine.remember("twitter:2", "7002")
    others.remember("twitter:1", "7003")
    assert (mine.recall("twitter:1"), others.recall("twitter:2"), mine.recall("twitter:3")) == ("7003", "7002", None)
    others.forget("twitter:1")
    assert (mine.recall("twitter:1"), mine.recall("twitter:2")) == (None, "7002")


@pytest.mark.parametrize("rubbish", ["True", "", "0", "-5", "7.0", "9" * 20])
def test_what_is_no_id_is_not_known_and_asked_for_again(rubbish: str, database: Database) -> None:
    known = Requesters(database)
    known.remember("twitter:1", rubbish)
    assert known.recall("twitter:1") is None and known.wait_for_turn("twitter:1", 0)


def test_all_processes_together_ask_once_a_second(database: Database, other_database: Database, clock: Clock) -> None:
    mine, others = Requesters(database, clock.advance), Requesters(other_database, clock.advance)
    started = clock()
    assert mine.wait_for_turn("twitter:9", 0)
    assert not others.wait_for_turn("twitter:9", 0) and not mine.wait_for_turn("twitter:9", -5)
    assert clock() == started
    assert others.wait_for_turn("twitter:9", 3.0)
    assert PACE_S <= clock() - started < PACE_S + 0.5


def test_a_turn_is_not_waited_for_longer_than_asked(database: Database, clock: Clock) -> None:
    waiting = Requesters(database, clock.advance)
    assert waiting.wait_for_turn("twitter:9", 0)
    started = clock()
    assert not waiting.wait_for_turn("twitter:9", 1.0)
    assert clock() - started == pytest.approx(1.0)


def test_a_user_is_forgotten_with_the_text_of_old_posts(database: Database, clock: Clock) -> None:
    known = Requesters(database)
    known.remember("twitter:1", "7001")
    clock.advance(100)
    known.remember("twitter:2", "7002")
    Inbox(database).purge(50)
    assert (known.recall("twitter:1"), known.recall("twitter:2")) == (None, "7002")


def test_nobody_waits_for_a_user_that_another_process_has_asked_for(
    database: Database, other_database: Database, clock: Clock
) -> None:
    others = Requesters(other_database)

    def meanwhile(seconds: float) -> None:
        clock.advance(seconds)
        others.remember("twitter:1", "7001")

    waiting = Requesters(database, meanwhile)
    assert waiting.wait_for_turn("twitter:2", 0)
    started = clock()
    assert not waiting.wait_for_turn("twitter:1", 3.0)
    assert clock() - started < 1
