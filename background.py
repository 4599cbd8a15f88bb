"""A thread that repeats one step, whatever goes wrong in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import log
from inbox.database import DatabaseUnavailable

DATABASE_PAUSE_S, FAULT_PAUSE_S = 5.0, 60.0


class Loop:
    """Calls `step` in the background; it returns the seconds until the next call. `wake()` shortens them."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._name, self._step = name, step
        self._stopping = False
        self._wake = threading.Event()

    def start(self) -> None:
        """Starts the thread. It is made here, after the fork of a server that loads the app before."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def wake(self) -> None:
        """Makes the next step come at once."""
        self._wake.set()

    def stop(self) -> None:
        """Stops after the step that is under way; nothing waits for it."""
        self._stopping = True
        self._wake.set()

    def make_step(self) -> float:
        """Makes one step and returns the seconds until the next, whatever goes wrong in it."""
        try:
            return self._step()
        except DatabaseUnavailable:  # the delivery's own loop logs it
            return DATABASE_PAUSE_S
        except Exception as error:
            log.error(f"{self._name}_broken", error=log.where(error))
            return FAULT_PAUSE_S

    def run_due(self, ends_at: float) -> None:
        """Makes the steps that are due now, in the caller's thread; after `ends_at`, by time.monotonic, none more."""
        while not self.make_step() and time.monotonic() < ends_at:
            pass

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self.make_step())
            self._wake.clear()
