"""Polls Khoros for events that no push brought, at each start and every few minutes; in poll mode for all events."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import log
from config import Config
from events import Unreadable, read_date
from inbox.facts import Facts
from khoros.receive import Receiver
from khoros_client import PAGE_SIZE, KhorosClient
from outbound import ServiceError

PAGES = 1000  # for each poll, of up to 100 events
OVERLAP_S = 3600.0  # events may appear late and out of order
CLOCKS_DIFFER_S = 60.0
YOUNG_S = 86_400.0
POLL_TURN_S = 20.0  # how long the other processes wait when one is killed in its turn; two polls at once do no harm
OFF_S = 3600.0
Page = list[dict[str, Any]]  # of raw events
Dates = list[float | None]  # of the events of a page, None for one that cannot be read


@dataclass(frozen=True)
class Progress:
    """How far the polls came. `at` is the database's time of the last poll, `seen` the date of the newest event that a
    complete poll met, `offset` where the next poll begins when Khoros lists the oldest event first."""

    at: float = 0.0
    seen: float | None = None
    offset: int = 0


class CatchUp:
    """Polls the subscription's events and gives them to the receiver, like pushes."""

    def __init__(self, config: Config, facts: Facts, receiver: Receiver, khoros: KhorosClient) -> None:
        self._facts, self._receiver, self._khoros = facts, receiver, khoros
        self._every_s = config.poll_s if config.polling else config.catch_up_s
        self._started_at = math.inf
        self._failing = False
        self._undated: set[str] = set()  # the events that were logged

    def step(self, uuid: str, created_date: str) -> float:
        """Polls the subscription `uuid` when it is time. Returns the seconds until then. Raises DatabaseUnavailable."""
        if not self._every_s or not uuid:
            return OFF_S
        now, progress = self._facts.now(), self._facts.load("catch_up", Progress)
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        if self._started_at <= progress.at <= now < progress.at + self._every_s:
            return progress.at + self._every_s - now
        if not self._facts.take_turn("catching_up", POLL_TURN_S):
            return 1.0
        try:
            progress = self._poll(uuid, created_date, progress)
        finally:
            self._facts.end_turn("catching_up")
        self._facts.save("catch_up", replace(progress, at=self._facts.now()))
        return self._every_s

    def _poll(self, uuid: str, created_date: str, progress: Progress) -> Progress:
        """Takes page after page until one has nothing new."""
        now, since = self._facts.now(), self._oldest(progress)
        young = now - (read_date(created_date) or 0.0) < YOUNG_S
        poll, accepted = _Poll(progress.seen or 0.0, progress.offset), 0
        try:
            for page, dates in self._pages(uuid, poll):
                accepted += sum(self._take(raw, date, since, young) for raw, date in zip(page, dates, strict=True))
                if poll.ends_with(page, dates, since):
                    break
            else:
                log.warning("catch_up_unfinished", events=len(poll.uuids))
                poll.newest = progress.seen or 0.0
        except ServiceError as error:
            if not self._failing:
                log.warning("catch_up_failed", reason=error)
            self._failing = True
            return progress
        self._failing = False
        if accepted:
            log.info("caught_up", accepted=accepted)
        return Progress(seen=min(poll.newest, now) or None, offset=poll.next_offset)

    def _pages(self, uuid: str, poll: _Poll) -> Iterator[tuple[Page, Dates]]:
        """Pages from the poll's offset on; from the first event on when the list there is not as it was."""
        for _ in range(PAGES):
            page = self._khoros.events(uuid, offset=poll.offset, limit=PAGE_SIZE)
            dates = [read_date(raw.get("createdDate")) for raw in page]
            first = next((date for date in dates if date is not None), math.inf)
            if poll.offset and not poll.uuids and first > poll.newest:
                poll.offset = 0
            else:
                yield page, dates

    def _oldest(self, progress: Progress) -> float:
        """The oldest date that is taken: a first deploy on an old subscription must not turn last year into tickets."""
        first = float(self._facts.recall("first_subscribed_at") or self._facts.now()) - CLOCKS_DIFFER_S
        return first if progress.seen is None else max(first, progress.seen - OVERLAP_S)

    def _take(self, raw: dict[str, Any], date: float | None, since: float, young: bool) -> int:
        """Receives one event unless it is too old; one without a readable date only while the subscription is young.
        Returns the number of new items."""
        if date is None and not young:
            name = str(raw.get("eventUuid"))[:64]
            if name not in self._undated:
                self._undated.add(name)
                log.warning("event_undated", event_uuid=name, reason="its createdDate cannot be read")
            return 0
        if date is not None and date < since:
            return 0
        try:
            return self._receiver.take(raw, source="poll").accepted
        except (Unreadable, RecursionError):
            return 0


class _Poll:
    """What the pages of one poll have shown. `offset` is that of the next page."""

    def __init__(self, newest: float, offset: int) -> None:
        self.newest, self.offset = newest, offset
        self.uuids: set[str] = set()
        self._ascending = self._descending = False

    def ends_with(self, page: Page, all_dates: Dates, since: float) -> bool:
        """Adds a page. Returns whether it is the last: nothing on it is new, or it ends with too old events."""
        dates = [date for date in all_dates if date is not None]
        ascending, descending = dates == sorted(dates), dates == sorted(dates, reverse=True)
        self._ascending |= ascending and not descending
        self._descending |= descending and not ascending
        self.newest = max([self.newest, *dates])
        self.offset += len(page)
        new = {str(raw.get("eventUuid")) for raw in page} - self.uuids
        self.uuids |= new
        return not new or (descending and not ascending and dates[-1] < since)

    @property
    def next_offset(self) -> int:
        """The last page again, when the oldest event comes first; otherwise the beginning."""
        return max(0, self.offset - PAGE_SIZE) if self._ascending and not self._descending else 0
