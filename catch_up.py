"""Fetches from Khoros what no push brought: at the start and every few minutes, or all of it when nothing is pushed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from config import Config
from inbox import Inbox
from intake import Intake
from khoros_client import PAGE_SIZE, KhorosClient, Unreadable, read_date
from logfmt import event
from outbound import ServiceError

PAGES = 1000  # for each poll, of up to 100 events
OVERLAP_S = 3600.0  # events may appear late and out of order
SLACK_S = 60.0  # Khoros' clock and ours may differ
YOUNG_S = 86_400.0
TURN_S = 20.0  # a process that is killed in its turn holds the others up so long; two at once do no harm
OFF_S = 3600.0


@dataclass(frozen=True)
class Progress:
    """How far the polls came. `at` is the store's time of the last one, `seen` the date of the newest event a whole
    poll met, `offset` where the next one begins when Khoros lists the oldest first."""

    at: float = 0.0
    seen: float | None = None
    offset: int = 0


class CatchUp:
    """Polls the subscription's events through the same door as the pushes. `wake` is called when something came in."""

    def __init__(
        self, config: Config, inbox: Inbox, intake: Intake, khoros: KhorosClient, wake: Callable[[], None]
    ) -> None:
        self._inbox, self._intake, self._khoros, self._wake = inbox, intake, khoros, wake
        self._every_s = config.poll_s if config.polling else config.catch_up_s
        self._started_at: float | None = None
        self._failing = False
        self._undated: set[str] = set()  # those the log has named

    def step(self, uuid: str, created_date: str) -> float:
        """Polls the subscription `uuid` when it is time; returns the seconds until then. Raises StoreUnavailable."""
        if not self._every_s or not uuid:
            return OFF_S
        now = self._inbox.now()
        if self._started_at is None or now < self._started_at:
            self._started_at = now
        progress = self._progress()
        if self._started_at <= progress.at <= now < progress.at + self._every_s:
            return progress.at + self._every_s - now
        if not self._inbox.take_turn("catching_up", TURN_S):
            return 1.0
        try:
            progress = self._poll(uuid, created_date, progress)
        finally:
            self._inbox.end_turn("catching_up")
        self._inbox.remember("catch_up", json.dumps(asdict(replace(progress, at=self._inbox.now()))))
        return self._every_s

    def _progress(self) -> Progress:
        kept = self._inbox.recall("catch_up")
        return Progress(**json.loads(kept)) if kept else Progress()

    def _poll(self, uuid: str, created_date: str, progress: Progress) -> Progress:
        """Page by page until nothing new comes. Newest first, it ends early at what is too old; oldest first, it begins
        where the last poll ended, unless what was there is gone."""
        now, since = self._inbox.now(), self._since(progress)
        young = now - (read_date(created_date) or 0.0) < YOUNG_S
        offset, newest, taken, rising, fell = progress.offset, progress.seen or 0.0, 0, False, False
        met: set[str] = set()
        try:
            for _ in range(PAGES):
                page = self._khoros.events(uuid, offset=offset, limit=PAGE_SIZE)
                dates = [read_date(raw.get("createdDate")) for raw in page]
                known = [date for date in dates if date is not None]
                if not met and offset and not (known and known[0] <= newest):
                    offset, progress = 0, replace(progress, offset=0)
                    continue
                taken += sum(self._take(raw, date, since, young) for raw, date in zip(page, dates, strict=True))
                newest = max([newest, *known])
                rising = rising or known != sorted(known, reverse=True) and known == sorted(known)
                falling = known != sorted(known) and known == sorted(known, reverse=True)
                fell = fell or falling
                offset += len(page)
                fresh = {str(raw.get("eventUuid")) for raw in page} - met
                met |= fresh
                if not fresh or (falling and known[-1] < since):
                    break
            else:
                event("catch_up_unfinished", logging.WARNING, events=len(met))
                newest = progress.seen or 0.0
        except ServiceError as error:
            self._tell(error)
            return progress
        self._tell(None)
        if taken:
            event("caught_up", accepted=taken)
            self._wake()
        return Progress(seen=min(newest, now) or None, offset=max(0, offset - PAGE_SIZE) if rising and not fell else 0)

    def _since(self, progress: Progress) -> float:
        """The oldest date that is taken: a first deploy on an old subscription must not turn last year into tickets."""
        first = float(self._inbox.recall("first_subscribed_at") or self._inbox.now()) - SLACK_S
        return first if progress.seen is None else max(first, progress.seen - OVERLAP_S)

    def _take(self, raw: dict[str, Any], date: float | None, since: float, young: bool) -> int:
        """Feeds one event through the door if it is late enough; one without a readable date only while the
        subscription is young. Returns how many posts were new."""
        if date is None and not young:
            name = str(raw.get("eventUuid"))[:64]
            if name not in self._undated:
                self._undated.add(name)
                event("event_undated", logging.WARNING, event_uuid=name, reason="its createdDate cannot be read")
            return 0
        if date is not None and date < since:
            return 0
        try:
            return self._intake.take(raw, source="poll").accepted
        except (Unreadable, RecursionError):
            return 0

    def _tell(self, error: ServiceError | None) -> None:
        if error and not self._failing:
            event("catch_up_failed", logging.WARNING, reason=error)
        self._failing = error is not None
