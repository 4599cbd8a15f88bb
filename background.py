"""One kind of background work: a step, again and again, in a thread that outlives whatever goes wrong in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from database import StoreUnavailable
from logfmt import event, where

STORE_PAUSE_S, FAULT_PAUSE_S = 5.0, 60.0


class Loop:
    """Calls `step` in the background; it returns the seconds until its next turn. `wake()` shortens them."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._name, self._step = name, step
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Has the next step come at once."""
        self._wake.set()

    def stop(self) -> None:
        """Stops after the step that is under way; nothing waits for it."""
        self._stopping = True
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Waits until it has stopped."""
        self._thread.join(timeout_s)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._guarded())
            self._wake.clear()

    def _guarded(self) -> float:
        try:
            return self._step()
        except StoreUnavailable:  # the delivery's own loop says so
            return STORE_PAUSE_S
        except Exception as error:
            event(f"{self._name}_broken", logging.ERROR, error=where(error))
            return FAULT_PAUSE_S
