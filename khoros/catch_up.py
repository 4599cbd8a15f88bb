"""Polls Khoros for events that no push brought, at each start and every few minutes; in poll mode for all events.

Khoros publishes neither the order of the list nor how long an event stays in it, and an event may appear in it late.
So nothing depends on dates. An event is known by its uuid, and a poll has three parts:

- the head: from the first event on, while a page has an event that this process has not met. This finds what is new in
  a list with the newest event first, and after a restart whatever was missed among what was pushed.
- the tail: from one page before the last known end of the list to its end. This finds what is new in a list with the
  oldest event first. Where events have disappeared, everything behind the head is read.
- three pages between the two, each time the next ones, and on while a page has an event that this process has not met.
  So every event is looked at again and again, wherever it stands and however late it has appeared: in a list of 1,000
  events every 15 minutes. What moves while pages are read is met in the next round.

A poll asks for 150 pages at most, and for six where nothing is new. docs/decisions/0009-push-and-catch-up.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import log
from dates import read_date
from events import Unreadable, as_object
from inbox.facts import Facts
from khoros.receive import Receiver
from khoros_client import OVERLONG, PAGE_SIZE, Garbled, KhorosClient
from outbound import AuthFailed, Rejected, ServiceError, Unavailable

PAGES = 50  # of up to 100 events, at most, for each of the three parts
ROUND_PAGES = 3  # between head and tail, at least
GARBLED = 20  # single events in one poll that are no JSON and new; with more of them the whole list may be at fault
MET_LIMIT = 100_000  # events that a process remembers, by a number for each
POLL_TURN_S = 20.0  # how long the other processes wait when one is killed in its turn; two polls at once do no harm
OFF_S = 3600.0
UNDATED = (
    "it was polled, its createdDate cannot be read, and the subscription is older than this service: it may be old"
)


@dataclass(frozen=True)
class Source:
    """A subscription's list of events. `since` is when we first subscribed, by Khoros' clock: an event of before is not
    ours. From our `only_source` an event without a readable date is taken."""

    uuid: str
    since: float
    only_source: bool


@dataclass(frozen=True)
class CatchUpStatus:
    """What every process and /health see of the polls. `at` is the time of the last poll and `failing_since` of the
    first of those that failed, by the database's clock. `failed` is the last one's reason, "" when it worked, and
    `refused` says whether Khoros refused us. `end` is how far the list of the subscription `uuid` is known. `too_old`
    counts the events from before we subscribed. `gone`: Khoros does not know the subscription any more."""

    at: float = 0.0
    failed: str = ""
    failing_since: float = 0.0
    refused: bool = False
    too_old: int = 0
    uuid: str = ""
    end: int = 0
    gone: bool = False


@dataclass
class _Poll:
    """One poll under way: the events that it has read, by their keys, and how many were new to the inbox."""

    source: Source
    end: int
    read: set[int] = field(default_factory=set)
    accepted: int = 0
    limit: int = field(default_factory=lambda: PAGE_SIZE)
    garbled: int = 0


class CatchUp:
    """Polls the events of one name and gives them to the receiver, like pushes."""

    def __init__(
        self, event_name: str, facts: Facts, receiver: Receiver, khoros: KhorosClient, *, every_s: float
    ) -> None:
        self._event_name, self._every_s = event_name, every_s
        self._facts, self._receiver, self._khoros = facts, receiver, khoros
        self._fact, self._turn = f"catch_up:{event_name}", f"catching_up:{event_name}"
        self._started_at = math.inf
        self._met: dict[int, None] = {}  # the events that this process has given to the receiver, or has left
        self._too_old: list[float] = []  # the dates of those that it has left
        self._round = 0  # the offset of the next pages between head and tail

    def status(self) -> CatchUpStatus:
        """The status that all processes share. Raises DatabaseUnavailable."""
        return self._facts.load(self._fact, CatchUpStatus)

    def step(self, source: Source) -> float:
        """Polls when it is time. Returns the seconds until then. Raises DatabaseUnavailable."""
        if not self._every_s or not source.uuid:
            return OFF_S
        now, known = self._facts.now(), self.status()
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        if self._started_at <= known.at <= now < known.at + self._every_s:
            return known.at + self._every_s - now
        if not self._facts.take_turn(self._turn, POLL_TURN_S):
            return 1.0
        try:
            status = self._poll(source, known)
        finally:
            self._facts.end_turn(self._turn)
        self._facts.save(self._fact, replace(status, at=self._facts.now()))
        return self._every_s

    def _poll(self, source: Source, known: CatchUpStatus) -> CatchUpStatus:
        if known.uuid != source.uuid:  # another list
            known = replace(known, uuid=source.uuid, end=0, too_old=0)
        poll, failed, gone, refused = _Poll(source, known.end), "", False, False
        try:
            self._read_list(poll)
        except ServiceError as error:
            failed, gone, refused = str(error), error.status == 404, isinstance(error, AuthFailed)
            if failed != known.failed:
                log.warning("catch_up_failed", event_name=self._event_name, reason=failed)
        if poll.accepted:
            log.info("caught_up", event_name=self._event_name, accepted=poll.accepted)
        failing_since = (known.failing_since or self._facts.now()) if failed else 0.0
        count = len(self._too_old)
        if count > known.too_old:  # said once, although each process meets them again
            first, last = (datetime.fromtimestamp(date(self._too_old), UTC).isoformat() for date in (min, max))
            names = {"event_name": self._event_name, "count": count, "first": first, "last": last}
            log.warning("events_too_old", **names, reason="they happened before this service first subscribed")
        too_old = max(count, known.too_old)
        known = replace(known, failed=failed, failing_since=failing_since, refused=refused)
        return replace(known, too_old=too_old, gone=gone, end=poll.end)

    # The three parts of a poll

    def _read_list(self, poll: _Poll) -> None:
        head, ended = self._read(poll, 0, while_new=1)
        if ended:
            poll.end = head
            return
        tail = max(head, poll.end - PAGE_SIZE)
        poll.end, _ = self._read(poll, tail)
        if poll.end == tail > head:  # the list has become shorter
            tail = head
            poll.end, _ = self._read(poll, head)
        if not head <= self._round < tail or head == PAGES * PAGE_SIZE:  # in the last case the head has no end yet
            self._round = head
        pages = PAGES if len(self._met) < MET_LIMIT else ROUND_PAGES
        self._round, ended = self._read(poll, self._round, pages, before=tail, while_new=ROUND_PAGES)
        if ended:
            self._round = 0

    def _read(
        self, poll: _Poll, offset: int, pages: int = PAGES, *, while_new: int = PAGES, before: float = math.inf
    ) -> tuple[int, bool]:
        """Takes up to so many pages, from number `while_new` on only while they have an event that this process has not
        met. Returns the next offset, and whether the list ends there: everything on the page was read in this poll,
        because it is empty or Khoros ignores the offset."""
        for number in range(1, pages + 1):
            if offset >= before:
                break
            page = self._page(poll, offset)
            keys = [_key(raw, offset) for raw in page]
            if poll.read.issuperset(keys):
                return offset, True
            poll.read.update(keys)
            offset += len(page)
            unmet = sum(self._take(poll, key, raw) for key, raw in zip(keys, page, strict=True))
            if not unmet and number >= while_new:
                break
        return offset, False

    def _page(self, poll: _Poll, offset: int) -> list[Any]:
        """A page, the smaller the more of it cannot be read; of a single event that cannot, its text."""
        while True:
            try:
                page = self._khoros.events(poll.source.uuid, offset=offset, limit=poll.limit)
                poll.limit = min(PAGE_SIZE, poll.limit * 2)
                return page
            except Unavailable as error:
                if poll.limit > 1 and error.status == 200:
                    poll.limit //= 2
                elif isinstance(error, Garbled) and self._is_event(poll, offset, error):
                    return [error.text]
                else:
                    raise
            except Rejected:
                if offset == 0:
                    raise
                return []  # there is nothing so far behind

    def _is_event(self, poll: _Poll, offset: int, error: Garbled) -> bool:
        """Whether the event at this offset is what cannot be read: it is known already, or for the next one Khoros
        answers something else."""
        if _key(error.text, offset) in self._met:
            return True
        poll.garbled += 1
        if poll.garbled > GARBLED:
            return False
        try:
            self._khoros.events(poll.source.uuid, offset=offset + 1, limit=1)
        except Garbled as following:
            return error.text == OVERLONG or following.text != error.text
        return True

    def _take(self, poll: _Poll, key: int, raw: Any) -> bool:
        """Receives an event that this process has not met, unless it is too old. Returns whether it was one."""
        if key in self._met or raw is None:
            return False
        date = read_date(as_object(raw).get("createdDate"))
        if date is not None and date < poll.source.since:
            self._too_old.append(date)
        else:
            doubtful = isinstance(raw, dict) and date is None and not poll.source.only_source
            attention = UNDATED if doubtful else OVERLONG if raw == OVERLONG else ""
            try:
                receipt = self._receiver.take(raw, source="poll", attention=attention)
                poll.accepted += receipt.accepted
            except Unreadable:  # it is kept for a person
                pass
        self._met[key] = None
        if len(self._met) > MET_LIMIT:
            del self._met[next(iter(self._met))]
        return True


def _key(raw: Any, offset: int) -> int:
    """A number for an event as it is listed. Another event may have the same uuid, so all of it counts."""
    try:
        return hash((raw, offset) if raw == OVERLONG else json.dumps(raw))
    except RecursionError:
        return hash(str(as_object(raw).get("eventUuid")))
