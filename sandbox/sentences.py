"""Tells the relay's log in sentences: what happens to posts, for people who have never seen a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from sandbox.loglines import LogLine

ZENDESK, SLACK, WEBHOOK = "zendesk", "slack", "webhook"  # the kinds of destinations
GOOD, WAIT, BAD, PLAIN = "good", "wait", "bad", ""
MARK = "mark"  # the level of a line that is not the relay's: when it was killed, and started again
CUT, STARTED = "killed with -9", "started again"

CLOSED = {  # by a gate's state in the relay's log and in its /health: whether it needs a person, and a sentence
    "outage": (WAIT, "{} does not answer. Posts wait in the database."),
    "limited": (WAIT, "{} takes no more for now. Posts wait as long as it asks."),
    "unauthorised": (BAD, "{} refuses the relay's login. Posts wait in the database."),
    "refusing": (BAD, "{} refuses every post alike. Posts wait in the database."),
}
_TICKETS = {"ticket_created": "", "ticket_found": "", "follow_up_created": "a follow-up, "}
_NOTES = ("note_added", "note_found")
_DELIVERED = (*_TICKETS, *_NOTES, "message_posted", "reply_posted", "digest_posted", "already_posted", "webhook_sent")
ACCEPTED = "notification_accepted"
_TOLD = (*_DELIVERED, *CLOSED, CUT, STARTED, "connected", "subscribed", "recovered", "parked", "duplicate", "fetched",
         "ticket_solved")  # fmt: skip


class Sentence(NamedTuple):
    """A sentence about one or many log lines. `link` are its words that lead to `href`; `before` and `after` are the
    words around them."""

    key: str
    tone: str
    before: str
    link: str = ""
    href: str = ""
    after: str = ""


class World(Protocol):
    """What the log does not say."""

    def name_of(self, subject: str) -> str:
        """A post or message in a sentence: Mara's post."""

    def subject_of(self, event_uuid: str) -> str:
        """The post or message that an event is about."""

    def burst_of(self, subject: str) -> int:
        """The number of the burst with which the post was labelled. 0 for a post that was labelled alone."""

    def took(self, ticket: str) -> str:
        """The time from a post's label to its ticket: 62 ms. Empty when it is not known."""


def title_of(destination: str) -> str:
    """A destination's name in a sentence: Zendesk, Slack #social-care, a person in Slack, the webhook's receiver."""
    kind, _, target = destination.partition(":")
    channel = "a person in Slack" if "@" in target else f"Slack {target}"
    return {ZENDESK: "Zendesk", SLACK: channel}.get(kind, "the webhook's receiver")


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass
class _Happening:
    """Log lines that one sentence tells."""

    number: int  # of its first line
    event: str
    place: str
    fields: dict[str, str]
    subjects: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)  # tickets


class Diary:
    """What has happened, from the lines that it has read so far."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._happenings: dict[tuple[object, ...], _Happening] = {}
        self.refused: set[str] = set()  # the posts that Zendesk has refused, and has not taken since
        self._closed: set[str] = set()  # the destinations that take nothing now
        self._turns: Counter[str] = Counter()  # how often a destination opened or closed, and "" was started

    def read(self, line: LogLine) -> None:
        fields = dict(line.fields)
        place = fields.get("destination", "")
        subject = fields.get("post") or self._world.subject_of(fields.get("event_uuid", ""))
        self._follow(line.event, place, subject)
        event = _accepted_as(fields) if line.event == ACCEPTED else line.event
        if event in ("connected", "subscribed"):
            subject = {ZENDESK: "Zendesk", SLACK: "Slack", WEBHOOK: "webhooks"}.get(place.partition(":")[0], "Khoros")
        if self._is_told(event, line.level, subject):
            group = self._group(event, place, subject, fields) or (line.number,)
            one = self._happenings.setdefault(group, _Happening(line.number, event, place, fields))
            one.subjects += [] if subject in one.subjects else [subject]
            one.made += [fields["ticket"]] if "ticket" in fields else []

    def _follow(self, event: str, place: str, subject: str) -> None:
        """Remembers how things are after a line."""
        if event in (CUT, STARTED, "recovered", *CLOSED):
            self._turns[place] += 1
            (self._closed.add if event in CLOSED else self._closed.discard)(place)
        if place == ZENDESK and event in ("parked", *_DELIVERED):
            (self.refused.add if event == "parked" else self.refused.discard)(subject)

    def _is_told(self, event: str, level: str, subject: str) -> bool:
        if event == ACCEPTED:  # mostly its ticket is made in the same moment
            return bool(self._closed or self._world.burst_of(subject))
        return event in _TOLD or level in ("error", "critical")

    def _group(self, event: str, place: str, subject: str, fields: dict[str, str]) -> tuple[object, ...]:
        """What lines have in common that are told together. Empty for a line that is told alone."""
        start = self._turns[""]
        if event in ("connected", "subscribed", "fetched"):
            return event == "fetched", start
        if event == "digest_posted":
            return event, fields.get("message")
        burst = self._world.burst_of(subject) if event in (ACCEPTED, *_DELIVERED) else 0
        return (event, burst, place, self._turns[place], start) if burst else ()

    def newest(self, limit: int) -> list[Sentence]:
        """The newest sentences, newest first."""
        newest = sorted(self._happenings.values(), key=lambda one: -one.number)[:limit]
        return [Sentence(f"said-{one.number}", *self._tell(one)) for one in newest]

    def _tell(self, one: _Happening) -> Sequence[str]:
        """The tone, and the words before, in and behind the link."""
        place, who = title_of(one.place), self._who(one.subjects)
        kind = one.place.partition(":")[0]
        if one.event in (*_TICKETS, *_NOTES):
            return GOOD, *self._ticket(one, who)
        if one.event == "ticket_solved":
            [ticket] = one.made
            return GOOD, "", f"Ticket #{ticket}", f"/agent/tickets/{ticket}", " is solved."
        if one.event in _DELIVERED:
            channel = one.fields.get("message", "").partition("/")[0]
            into = {"reply_posted": "the thread in ", "digest_posted": "one message in "}.get(one.event, "")
            page = f"/tab/slack/{channel}" if kind == SLACK and channel else f"/tab/{kind}"
            return GOOD, f"{who} → ", f"{into}{place}", page
        return self._state(one, place, who)

    def _ticket(self, one: _Happening, who: str) -> Sequence[str]:
        first, last = min(one.made, key=int), max(one.made, key=int)
        href = f"/agent/tickets/{first}"
        if len(one.made) > 1:
            return f"{who} → ", f"tickets #{first} to #{last}", href
        if one.event in _NOTES:
            return f"{who}, labelled again → ", f"a note on ticket #{first}", href
        took = self._world.took(first)
        return f"{who} → ", f"{_TICKETS[one.event]}ticket #{first}", href, took and f", {took}"

    def _state(self, one: _Happening, place: str, who: str) -> Sequence[str]:
        if one.event in CLOSED:
            tone, said = CLOSED[one.event]
            return tone, sentence_case(said.format(place))
        if one.event == "parked":
            by = f"{sentence_case(place)} refuses {who}" if one.place else f"{who} cannot be read"
            return BAD, f"{by}. It needs attention; the others go on."
        many = len(one.subjects) > 1
        connected = f"The relay is connected to {', '.join(sorted(one.subjects))}."
        told = {
            "recovered": (GOOD, f"{sentence_case(place)} works again. What waited, follows."),
            "connected": (PLAIN, connected),
            "subscribed": (PLAIN, connected),
            ACCEPTED: (WAIT, f"{who} came in: {'they are' if many else 'it is'} safe in the database."),
            "fetched": (WAIT, f"{who} got {'their' if many else 'its'} label while the relay was away: fetched now."),
            "duplicate": (PLAIN, f"{who} came twice. The relay knows it and does nothing twice."),
            CUT: (BAD, f"The relay was killed. {one.fields.get('safe', '')}".strip()),
            STARTED: (PLAIN, "The relay starts and reads its database."),
        }
        return told.get(one.event, (BAD, f"{one.event}: {one.fields.get('reason', 'see the raw log')}"))

    def _who(self, subjects: list[str]) -> str:
        return self._world.name_of(subjects[0]) if len(subjects) == 1 else f"{len(subjects)} posts"


def _accepted_as(fields: dict[str, str]) -> str:
    """What it means that the relay accepted an event: it was new, known already, or fetched later."""
    if fields.get("accepted") == "0":
        return "duplicate"
    return "fetched" if fields.get("source") == "poll" else ACCEPTED
