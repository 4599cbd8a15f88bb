"""The gate in front of a destination: when items may leave for it, as data and pure functions.

All processes share it. While it is not open nothing leaves until `hold_until`; then one item does, the probe, and what
becomes of it decides for everything that waits. While all items are refused alike though the destination works, those
that have not been tried yet leave in rounds: waiting for one probe after the other would only starve a good one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

OPEN, LIMITED, OUTAGE, UNAUTHORISED, REFUSING = "open", "limited", "outage", "unauthorised", "refusing"
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
AUTH_BACKOFF_S = (5.0, 15.0, 30.0, 60.0)
ROUND_S = AUTH_BACKOFF_S[0]  # from one round to the next
MAX_HOLD_S = 3600.0  # no hold lasts longer: the clock was set back, or a header is nonsense
CALLS_PER_ITEM = 3  # what one item may cost: two look-ups and a creation
IN_A_ROW = 5  # different items in a row that fail alike: then it is the destination


@dataclass(frozen=True)
class Gate:
    """The state of a destination. Times are seconds of the database's clock.

    `version` counts the changes of state: answers to calls made under an older version are ignored. `blame` is how the
    latest items failed that the destination did not take though it works, and `blamed` are the ids of those that failed
    so in a row, without a success between, at most IN_A_ROW.
    """

    state: str = OPEN
    reason: str = ""
    version: int = 0
    failures: int = 0
    hold_until: float = 0.0
    probe: int | None = None  # the id of the item that is tried while the gate is not open
    calls_left: int | None = None
    window_ends_at: float = 0.0
    blame: str = ""
    blamed: str = ""
    delivered_at: float = 0.0  # when it last took an item
    paced_until: float = 0.0
    held_at: float = 0.0  # when the hold began
    counted_at: float = 0.0  # when the calls left were counted

    def held_for(self, now: float) -> float:
        """Seconds until something may leave again; 0 when it may now."""
        return _remaining(self.held_at, self.hold_until, now)

    def paced_for(self, now: float, pace_s: float) -> float:
        """Seconds until the next call, when there must be `pace_s` between two."""
        return _remaining(self.paced_until - pace_s, self.paced_until, now) if pace_s else 0.0

    def places(self, now: float, under_way: int, free: int) -> int:
        """How many of `free` items may leave now, while `under_way` have not come back. While the gate is not open
        that is one: the caller makes sure that the probe before it has come back."""
        if self.held_for(now):
            return 0
        return self._affordable(now, under_way, free) if self.state == OPEN else min(free, 1)

    def round_places(self, now: float, under_way: int, free: int) -> int:
        """How many items that have not failed yet may leave now as a round, whatever the hold of the others."""
        if self.state != REFUSING or _remaining(self.held_at, min(self.hold_until, self.held_at + ROUND_S), now):
            return 0
        return self._affordable(now, under_way, free)

    def _affordable(self, now: float, under_way: int, free: int) -> int:
        calls_left = self.calls_known(now)
        return free if calls_left is None else max(0, min(free, calls_left // CALLS_PER_ITEM - under_way))

    def calls_known(self, now: float) -> int | None:
        """The calls left in this window of the rate limit; None when that is not known."""
        return self.calls_left if _remaining(self.counted_at, self.window_ends_at, now) else None

    def probing(self, now: float, item_id: int) -> Gate:
        """The gate while this item is its probe, or one of its round: no process begins another one at once."""
        if self.state == REFUSING:
            return replace(self, probe=item_id, hold_until=max(self.hold_until, now + ROUND_S), held_at=now)
        return self if self.state == OPEN else replace(self, probe=item_id)

    def counted(self, now: float, calls_left: int, reset_s: float) -> Gate:
        """What an answer said of the rate limit. Answers come out of order: the lowest count of a window stays."""
        ends_at, known = now + reset_s, self.calls_known(now)
        if known is not None:
            if ends_at < self.window_ends_at - 2:
                return self  # a late answer from the window before
            if ends_at <= self.window_ends_at + 2:  # the header counts whole seconds
                calls_left = min(calls_left, known)
        return replace(self, calls_left=calls_left, window_ends_at=ends_at, counted_at=now)

    def within_limit(self, now: float) -> Gate:
        """The gate, closed until the next window when it is open and no item may leave in this one."""
        calls_left = self.calls_known(now)
        if self.state != OPEN or calls_left is None or calls_left >= CALLS_PER_ITEM:
            return self
        return self._changed(now, LIMITED, "the account's calls for this minute are used up", self.window_ends_at)

    @property
    def all_alike(self) -> bool:
        """Whether so many different items failed alike that it is the destination."""
        return self.state != OPEN and len(self.blamed.split()) >= IN_A_ROW

    def after_success(self, now: float, version: int) -> Gate:
        """The destination took something: open, and nobody is blamed any more."""
        gate = replace(self, blame="", blamed="", delivered_at=now)
        late = version != self.version and not self.all_alike
        return gate if late or self.state == OPEN else gate._changed(now, OPEN, "", 0.0)

    def after_failure(self, now: float, version: int, state: str, reason: str, retry_after_s: float | None) -> Gate:
        """The destination does not work: close, longer each time, and never shorter than it asked for."""
        if version != self.version:
            return self
        return self._closed(now, state, reason, retry_after_s, AUTH_BACKOFF_S if state == UNAUTHORISED else BACKOFF_S)

    def after_failed_item(
        self,
        now: float,
        version: int,
        state: str,
        reason: str,
        retry_after_s: float | None,
        likeness: str,
        item_id: int,
        again: bool = False,
    ) -> Gate:
        """The destination works, but it refused this item or fails for it: open, unless too many different items in a
        row failed alike. Then it closes in `state`, and stays closed until one is taken or fails otherwise: for a
        moment, or longer each time when this one failed `again`, because then no other was left to be tried."""
        if version != self.version:
            return self
        alike = self.blamed.split() if likeness == self.blame else []
        if len(alike) < IN_A_ROW and str(item_id) not in alike:
            alike = [*alike, str(item_id)]
        gate = replace(self, blame=likeness, blamed=" ".join(alike))
        if len(alike) >= IN_A_ROW:
            did = "were refused" if likeness.startswith("refused") else "failed"
            said = f"{reason[:400]}: {IN_A_ROW} different posts in a row {did} alike"
            closed = replace(gate, failures=self.failures if again or state == LIMITED else 0)._closed(
                now, state, said, retry_after_s, AUTH_BACKOFF_S
            )
            # The other answers of a round count too.
            return replace(closed, version=self.version) if state == self.state == REFUSING else closed
        return gate if self.state == OPEN else gate._changed(now, OPEN, "", 0.0)

    def after_check(self, now: float, version: int, opens: bool) -> Gate:
        """The destination takes our credentials: open. When all items failed alike that proves little; unless `opens`,
        only the hold ends, and the next item is tried at once."""
        if version != self.version or self.state == OPEN:
            return self
        if self.all_alike and not opens:
            return replace(self, hold_until=now)
        return replace(self, blame="", blamed="")._changed(now, OPEN, "", 0.0)

    def _closed(
        self, now: float, state: str, reason: str, retry_after_s: float | None, steps: tuple[float, ...]
    ) -> Gate:
        failures = self.failures if state == self.state else 0
        wait = steps[min(failures, len(steps) - 1)]
        if retry_after_s is not None:
            wait = max(retry_after_s, steps[0] if state == LIMITED else wait)
        gate = self._changed(now, state, reason, now + min(wait, MAX_HOLD_S))
        return replace(gate, failures=failures + 1)

    def _changed(self, now: float, state: str, reason: str, hold_until: float) -> Gate:
        gate = replace(self, state=state, reason=reason, version=self.version + 1, failures=0, probe=None)
        return replace(gate, hold_until=hold_until, held_at=now)


def _remaining(since: float, until: float, now: float) -> float:
    """Seconds of a wait that began at `since`. Before that it is over: the clock was set back."""
    wait = until - now
    return wait if since <= now and 0 < wait <= MAX_HOLD_S else 0.0


def retry_delay_s(failures: int, retry_after_s: float | None = None) -> float:
    """Seconds that an item waits after it failed so often while its destination worked: 2 s growing to a minute, or as
    long as the destination asks, an hour at most."""
    return min(max(min(2.0 ** min(failures, 6), 60.0), retry_after_s or 0.0), MAX_HOLD_S)
