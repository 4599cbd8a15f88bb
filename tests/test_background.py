"""A thread that repeats one step: what it does when the step fails, and how it stops."""

from __future__ import annotations

import logging
import math
import threading

import pytest
from conftest import TEXT, events, fields_of, wait_for

from background import DATABASE_PAUSE_S, FAULT_PAUSE_S, Loop
from inbox.database import DatabaseUnavailable

pytestmark = pytest.mark.usefixtures("clean_log")


def is_running(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize("fault", [DatabaseUnavailable("down"), KeyError(TEXT)], ids=["database", "bug"])
def test_nothing_ends_the_background_work_but_stop(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    steps = []

    def step() -> float:
        steps.append(1)
        loop.wake()  # so that nobody waits
        if len(steps) == 3:
            loop.stop()
        raise fault

    loop = Loop("work", step)
    loop.start()
    wait_for(lambda: not is_running("work"))
    assert len(steps) == 3
    assert events(caplog) == (["work_broken"] * 3 if isinstance(fault, KeyError) else [])


def test_stop_ends_a_wait() -> None:
    waiting = threading.Event()

    def step() -> float:
        waiting.set()
        return 3600.0

    loop = Loop("work", step)
    loop.start()
    assert waiting.wait(10)
    loop.stop()
    wait_for(lambda: not is_running("work"))


def test_a_fault_is_logged_by_its_kind_and_place_and_slows_the_work_down(caplog: pytest.LogCaptureFixture) -> None:
    def step() -> float:
        raise KeyError(TEXT)

    assert Loop("work", step).make_step() == FAULT_PAUSE_S
    logged = fields_of(caplog, "work_broken")
    assert logged["level"] == logging.ERROR and logged["error"].startswith("KeyError at test_background.py:")


def test_a_database_that_fails_is_asked_again_soon() -> None:
    def step() -> float:
        raise DatabaseUnavailable("down")

    assert Loop("work", step).make_step() == DATABASE_PAUSE_S < FAULT_PAUSE_S


def test_a_step_says_when_the_next_one_comes() -> None:
    assert Loop("work", lambda: 7.5).make_step() == 7.5


def test_without_a_thread_the_steps_that_are_due_are_made_until_one_must_wait() -> None:
    waits = [0.0, 0.0, 5.0, 0.0]
    Loop("work", lambda: waits.pop(0)).run_due(math.inf)
    assert waits == [0.0]


def test_without_a_thread_one_step_is_made_when_the_time_is_over() -> None:
    waits = [0.0, 0.0]
    Loop("work", lambda: waits.pop(0)).run_due(-math.inf)
    assert waits == [0.0]
