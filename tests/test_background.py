from __future__ import annotations

import logging

import pytest
from conftest import TEXT, events, fields

from background import FAULT_PAUSE_S, STORE_PAUSE_S, Loop
from database import StoreUnavailable

pytestmark = pytest.mark.usefixtures("clean_log")


@pytest.mark.parametrize("fault", [StoreUnavailable("down"), KeyError(TEXT)], ids=["store", "bug"])
def test_nothing_ends_the_background_work(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    steps = []

    def step() -> float:
        steps.append(1)
        loop.wake()  # so that nobody waits
        if len(steps) == 3:
            loop.stop()
        raise fault

    loop = Loop("work", step)
    loop.start()
    loop.join(10)
    assert (len(steps), loop.running) == (3, False)
    assert events(caplog) == (["work_broken"] * 3 if isinstance(fault, KeyError) else [])


def test_a_fault_is_told_by_its_kind_and_place_and_slows_the_work_down(caplog: pytest.LogCaptureFixture) -> None:
    def step() -> float:
        raise KeyError(TEXT)

    assert Loop("work", step)._guarded() == FAULT_PAUSE_S
    told = fields(caplog, "work_broken")
    assert told["level"] == logging.ERROR and told["error"].startswith("KeyError at test_background.py:")


def test_a_store_that_fails_is_asked_again_soon() -> None:
    def step() -> float:
        raise StoreUnavailable("down")

    assert Loop("work", step)._guarded() == STORE_PAUSE_S


def test_a_step_says_when_the_next_one_comes() -> None:
    assert Loop("work", lambda: 7.5)._guarded() == 7.5
