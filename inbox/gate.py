"""The gate in front of a destination: when items may leave for it, as data and pure functions.

All processes share it. While it is not open nothing leaves until `hold_until`; then one item does, the probe, and what
becomes of it decides for everything that waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

OPEN, LIMITED, OUTAGE, UNAUTHORISED = "open", "limited", "outage", "unauthorised"
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
AUTH_BACKOFF_S = (5.0, 15.0, 30.0, 60.0)
MAX_HOLD_S = 3600.0  # no hold lasts longer: the clock was set back, or a header is nonsense
CALLS_PER_ITEM = 2  # what one item may cost: a look-up and a creation
PATIENCE = 5  # failed attempts after which the item is the cause, if others succeed


@dataclass(frozen=True)
class Gate:
    """The state of a destination. Times are seconds of the database's clock.

    `version` counts the changes of state: answers to calls made under an older version are ignored.
    """

    state: str = OPEN
    reason: str = ""
    version: int = 0
    failures: int = 0
    hold_until: float = 0.0
    probe: int | None = None  # the id of the item that is tried while the gate is not open
    calls_left: int | None = None
    window_ends_at: float = 0.0

    def held_for(self, now: float) -> float:
        """Seconds until something may leave again; 0 when it may now."""
        wait = self.hold_until - now
        return wait if 0 < wait <= MAX_HOLD_S else 0.0

    def places(self, now: float, under_way: int, free: int) -> int:
        """How many of `free` items may leave now, while `under_way` have not come back. While the gate is not open
        that is one: the caller makes sure that the probe before it has come back."""
        if self.held_for(now):
            return 0
        if self.state != OPEN:
            return min(free, 1)
        if self.calls_left is None or not self._in_window(now):
            return free
        return max(0, min(free, self.calls_left // CALLS_PER_ITEM - under_way))

    def calls_known(self, now: float) -> int | None:
        """The calls left in this window of the rate limit; None when that is not known."""
        return self.calls_left if self._in_window(now) else None

    def probing(self, item_id: int) -> Gate:
        """The gate while this item is its probe."""
        return self if self.state == OPEN else replace(self, probe=item_id)

    def counted(self, now: float, calls_left: int, reset_s: float) -> Gate:
        """What an answer said of the rate limit. Answers come out of order: the lowest count of a window stays."""
        ends_at = now + reset_s
        if self.calls_left is not None and self._in_window(now):
            if ends_at < self.window_ends_at - 2:
                return self  # a late answer from the window before
            if ends_at <= self.window_ends_at + 2:  # the header counts whole seconds
                calls_left = min(calls_left, self.calls_left)
        return replace(self, calls_left=calls_left, window_ends_at=ends_at)

    def after_success(self, now: float, version: int) -> Gate:
        """The destination took something: open, unless the window's calls are used up."""
        if version != self.version:
            return self
        if self.calls_left is not None and self.calls_left < CALLS_PER_ITEM and self._in_window(now):
            return self._changed(LIMITED, "the account's calls for this minute are used up", self.window_ends_at)
        return self if self.state == OPEN else self._changed(OPEN, "", 0.0)

    def after_failure(
        self, now: float, version: int, state: str, reason: str, retry_after_s: float | None, attempts: int = 1
    ) -> Gate:
        """The destination did not take it: close, longer each time, and never shorter than it asked for. After PATIENCE
        attempts an item no longer closes an open gate."""
        if version != self.version or (attempts > PATIENCE and self.state == OPEN):
            return self
        steps = AUTH_BACKOFF_S if state == UNAUTHORISED else BACKOFF_S
        failures = self.failures if state == self.state else 0
        wait = steps[min(failures, len(steps) - 1)]
        if retry_after_s is not None:
            wait = max(retry_after_s, steps[0] if state == LIMITED else wait)
        gate = self._changed(state, reason, now + min(wait, MAX_HOLD_S))
        return replace(gate, failures=failures + 1)

    def _in_window(self, now: float) -> bool:
        return 0 < self.window_ends_at - now <= MAX_HOLD_S

    def _changed(self, state: str, reason: str, hold_until: float) -> Gate:
        version = self.version + 1
        return replace(self, state=state, reason=reason, version=version, failures=0, hold_until=hold_until, probe=None)


def retry_delay_s(attempts: int) -> float:
    """Seconds that an item waits after its latest attempt while the gate is open: at first none, a minute at most."""
    return 0.0 if attempts <= PATIENCE else min(2.0 ** min(attempts - PATIENCE, 6), 60.0)
