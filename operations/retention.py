"""Runs the alerts, and empties items and counts whose time is over."""

from __future__ import annotations

import log
from background import Loop
from inbox.inbox import Inbox
from inbox.unrouted import Unrouted
from operations.alerts import Alerts

RETENTION_STEP_S, PURGE_EVERY_S = 5.0, 3600.0


class Retention:
    """Runs beside the deliveries, in a thread of its own: nothing here delays them."""

    def __init__(self, inbox: Inbox, unrouted: Unrouted, alerts: Alerts, retention_s: float) -> None:
        self._inbox, self._unrouted, self._alerts, self._retention_s = inbox, unrouted, alerts, retention_s
        self._purged_at: float | None = None
        self.loop = Loop("retention", self.step)

    def step(self) -> float:
        """Does what is due; returns the seconds until the next step. Raises DatabaseUnavailable."""
        self._alerts.step()
        now = self._inbox.now()
        if self._purged_at is None or not 0 <= now - self._purged_at < PURGE_EVERY_S:  # or the clock was set back
            purge_items(self._inbox, self._retention_s)
            self._unrouted.purge(self._retention_s)
            self._purged_at = now
        return RETENTION_STEP_S


def purge_items(inbox: Inbox, older_than_s: float) -> int:
    """Empties the items that were settled at least `older_than_s` seconds ago; returns how many. Raises
    DatabaseUnavailable."""
    emptied = 0
    while some := inbox.purge(older_than_s):
        emptied += some
    if emptied:
        log.info("purged", items=emptied)
    return emptied
