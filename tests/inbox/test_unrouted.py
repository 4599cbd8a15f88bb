"""What no route wants is counted, for all processes, and never grows."""

from __future__ import annotations

from conftest import Clock

from inbox.database import Database
from inbox.unrouted import EVENT_NAME_LIMIT, ROWS_LIMIT, WORD_LIMIT, Unrouted, UnroutedWord


def test_words_are_counted_with_the_first_and_the_latest_time(
    database: Database, other_database: Database, clock: Clock
) -> None:
    one, other, first = Unrouted(database), Unrouted(other_database), clock.now
    one.note([("label", "A"), ("label", "B"), ("label", "A")])
    clock.advance(60)
    other.note([("label", "A"), ("rule", "A")])
    other.note([])
    found = {(row.event_name, row.word): row for row in one.recent()}
    assert found.keys() == {("label", "A"), ("label", "B"), ("rule", "A")}
    assert found["label", "A"] == UnroutedWord("label", "A", 3, first, first + 60)
    assert [(row.word, row.count) for row in one.recent()] == [("A", 3), ("A", 1), ("B", 1)]


def test_the_latest_words_are_kept_and_no_more_than_that(database: Database, clock: Clock) -> None:
    unrouted = Unrouted(database)
    for start in range(0, 3 * ROWS_LIMIT, ROWS_LIMIT // 2):
        unrouted.note([("label", f"{n:03}") for n in range(start, start + ROWS_LIMIT // 2)])
        clock.advance(1)
    assert sorted(row.word for row in unrouted.recent()) == [f"{n:03}" for n in range(2 * ROWS_LIMIT, 3 * ROWS_LIMIT)]
    with database.reading() as db:
        assert db.rows("SELECT count(*) FROM unrouted") == [(ROWS_LIMIT,)]


def test_any_word_can_be_kept(database: Database) -> None:
    unrouted = Unrouted(database)
    unrouted.note([("n" * 1000, "w" * 1000), ("x", "zero \0 byte\n"), ("x", "half emoji \ud800"), ("x", "日本")])
    assert {(row.event_name, row.word) for row in unrouted.recent()} == {
        *(("n" * EVENT_NAME_LIMIT, "w" * WORD_LIMIT), ("x", "zero   byte "), ("x", "half emoji  "), ("x", "日本"))
    }


def test_words_that_are_not_met_any_more_are_deleted(database: Database, clock: Clock) -> None:
    unrouted = Unrouted(database)
    unrouted.note([("label", "A")])
    clock.advance(3600)
    assert unrouted.purge(3601) == 0
    assert unrouted.purge(3600) == 1 and unrouted.recent() == []
