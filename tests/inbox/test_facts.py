"""The values and turns that all processes share, also with the release beside this one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from conftest import Clock

from inbox.database import Database
from inbox.facts import Facts, read_tolerantly


@dataclass(frozen=True)
class Weather:
    """A made-up value that is kept."""

    sky: str = "grey"
    degrees: float = 4.0
    wind: str | None = None


@pytest.fixture
def others_facts(other_database: Database) -> Facts:
    """The facts as another process sees them."""
    return Facts(other_database)


def test_a_fact_is_there_for_other_processes_and_the_next_start(facts: Facts, others_facts: Facts) -> None:
    assert others_facts.recall("public_url") is None
    facts.remember("public_url", "https://one.example")
    facts.remember("public_url", "https://two.example")
    assert others_facts.recall("public_url") == "https://two.example"


def test_facts_with_different_names_are_kept_apart(facts: Facts) -> None:
    facts.remember("one", "1")
    facts.remember("two", "2")
    assert (facts.recall("one"), facts.recall("two"), facts.recall("three")) == ("1", "2", None)


def test_what_is_saved_is_loaded(facts: Facts, others_facts: Facts) -> None:
    assert facts.load("weather", Weather) == Weather()
    facts.save("weather", Weather("blue", 21.5, "west"))
    assert others_facts.load("weather", Weather) == Weather("blue", 21.5, "west")


@pytest.mark.parametrize(
    ("text", "weather"),
    [
        pytest.param('{"sky": "blue", "moon": "full", "tide": {"high": 3}}', Weather("blue"), id="unknown keys"),
        pytest.param('{"degrees": 30}', Weather(degrees=30), id="missing keys"),
        pytest.param("{}", Weather(), id="nothing"),
        pytest.param('{"sky": "bl', Weather(), id="broken JSON"),
        pytest.param("", Weather(), id="empty"),
        pytest.param("blue", Weather(), id="not JSON"),
        pytest.param('["sky", "blue"]', Weather(), id="a list"),
        pytest.param('"sky"', Weather(), id="a string"),
        pytest.param("17", Weather(), id="a number"),
        pytest.param("null", Weather(), id="null"),
        pytest.param("[" * 100_000, Weather(), id="nested too deeply"),
    ],
)
def test_a_value_that_another_release_saved_is_read_as_far_as_possible(
    text: str, weather: Weather, facts: Facts
) -> None:
    facts.remember("weather", text)
    assert facts.load("weather", Weather) == read_tolerantly(text, Weather) == weather


def test_a_value_that_is_not_there_has_its_defaults() -> None:
    assert read_tolerantly(None, Weather) == Weather()


# Turns


def test_a_turn_belongs_to_one_process_until_it_ends_or_runs_out(
    facts: Facts, others_facts: Facts, clock: Clock
) -> None:
    assert facts.take_turn("subscribing", 60)
    assert not others_facts.take_turn("subscribing", 60)
    facts.end_turn("subscribing")
    assert others_facts.take_turn("subscribing", 60)
    clock.advance(59)
    assert not facts.take_turn("subscribing", 60)
    clock.advance(1)
    assert facts.take_turn("subscribing", 60)


def test_turns_at_different_work_do_not_wait_for_each_other(facts: Facts, others_facts: Facts) -> None:
    assert facts.take_turn("subscribing", 60)
    assert others_facts.take_turn("polling", 60)


def test_of_many_that_ask_at_once_one_gets_the_turn(facts: Facts, others_facts: Facts) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: (facts, others_facts)[n % 2].take_turn("polling", 60), range(16)))
    assert sum(taken) == 1


def test_nobody_waits_for_a_process_that_stands_still_while_it_takes_or_ends_a_turn(
    facts: Facts, others_facts: Facts, database: Database
) -> None:
    if database.kind == "SQLite":
        return  # one writer at a time
    facts.end_turn("polling")
    for change in ("UPDATE facts SET value = '0'", "SELECT value FROM facts FOR UPDATE"):
        with database.transaction() as db:
            db.rows(change) if change.startswith("SELECT") else db.change(change)
            began_at = time.monotonic()
            assert not others_facts.take_turn("polling", 60)
            assert time.monotonic() - began_at < 1
    assert others_facts.take_turn("polling", 60)


def test_a_clock_set_back_blocks_no_turn(facts: Facts, others_facts: Facts, clock: Clock) -> None:
    facts.take_turn("subscribing", 60)
    clock.advance(-86_400)
    assert others_facts.take_turn("subscribing", 60)


def test_the_time_is_the_databases(facts: Facts, clock: Clock) -> None:
    assert facts.now() == clock.now
