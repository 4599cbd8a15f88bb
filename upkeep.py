"""What has to be done now and then: save the sums, alert people, empty what has been kept long enough."""

from __future__ import annotations

import logging

from alerts import Alerts
from background import Loop
from inbox import Inbox
from logfmt import event

STEP_S, PURGE_EVERY_S = 5.0, 3600.0


class Upkeep:
    """Runs beside the deliveries, in a thread of its own: nothing here may hold them up."""

    def __init__(self, inbox: Inbox, alerts: Alerts, retention_s: float) -> None:
        self._inbox, self._alerts, self._retention_s = inbox, alerts, retention_s
        self._purged_at: float | None = None
        self.loop = Loop("upkeep", self.step)

    def step(self) -> float:
        """Does what is due and returns the seconds until the next step. Raises StoreUnavailable."""
        self._inbox.save_tally()
        self._alerts.step()
        now = self._inbox.now()
        if self._purged_at is None or not 0 <= now - self._purged_at < PURGE_EVERY_S:
            purge(self._inbox, self._retention_s)
            self._purged_at = now
        return STEP_S


def purge(inbox: Inbox, older_than_s: float) -> int:
    """Empties every delivered item that was settled so long ago; returns how many. Raises StoreUnavailable."""
    emptied = 0
    while some := inbox.purge(older_than_s):
        emptied += some
    if emptied:
        event("purged", logging.INFO, items=emptied)
    return emptied
