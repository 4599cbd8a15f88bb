"""What the pages show of items: how a person recognises one, what to do about it, and the chart of the last day. Pure
functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import events
from destinations.text import clean, cut, one_line, service_name
from events import Subject, Unreadable, as_object, read_texts
from inbox.records import AttemptRecord, Hour, Record
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING
from inbox.tickets import SOLVED_EVENT
from operations.verdict import Verdict

STATE_WORDS = {PENDING: "waiting", PARKED: "needs attention", DELIVERED: "delivered", DISCARDED: "given up"}
SYMBOLS = {"good": "✓", "wait": "…", "bad": "!"}  # in a tab's title
OURS = {
    events.MESSAGE_PUBLISHED: "Published message",
    events.MESSAGE_SENT: "Message sent to the network",
    events.MESSAGE_NEEDS_APPROVAL: "Message that needs approval",
    events.CREDENTIAL_DEAUTH: "Disconnected account",
    events.CREDENTIAL_DELETE: "Deleted account",
}
SEND_OR_GIVE_UP = "Correct the cause and send it again, or give it up."
CANNOT_BE_SENT = "It cannot be sent again: give it up, and if it matters label the post again."
FIRST_WORDS = 160  # characters
LONG_WAIT_S = 5.0  # a shorter one needs no explanation
PLOT_HEIGHT, LEAST_HEIGHT = 100.0, 3.0  # of the chart; one post of thousands is still seen
ROUND_NUMBERS = (1, 2, 3, 4, 5, 6, 8, 10)  # the top of the scale is one of these, or ten, a hundred … times as much


@dataclass(frozen=True)
class Glance:
    """How a person recognises an item: by its network, its author and its text. `author` is the post's id when the text
    is not shown or not kept, and `text` is empty then."""

    network: str
    author: str
    text: str = ""

    @property
    def first_words(self) -> str:
        return cut(one_line(self.text), FIRST_WORDS)


def glance(record: Record, subject: Subject | None) -> Glance:
    """What a row shows of an item; without `subject` nothing that a customer wrote."""
    network, _, _ = record.subject_id.partition(":")
    if not record.subject_id:
        return Glance("Khoros", "Not readable")
    unknown = Glance(OURS.get(network) or service_name(network), record.subject_id)
    if subject is None or not as_object(subject.raw):
        return unknown
    texts = read_texts(as_object(subject.raw), "name", "ticket")
    if subject.event_name in OURS:
        message = subject.message()
        words = clean(message.text or message.title or texts["name"])
        return Glance(service_name(message.service), OURS[subject.event_name], words)
    if subject.event_name == SOLVED_EVENT:
        return Glance(service_name(network), f"Ticket #{texts['ticket']} solved")
    try:
        post = subject.post()
    except Unreadable:
        return unknown
    author = one_line(post.author) or one_line(post.author_screen_name) or record.subject_id
    return Glance(service_name(network), cut(author, 80), clean(post.text))


def remedy(record: Record) -> str:
    """What a person can do about a parked item."""
    return SEND_OR_GIVE_UP if record.can_be_retried else CANNOT_BE_SENT


def groups(records: Iterable[Record]) -> list[list[Record]]:
    """The items, with those side by side that are parked for the same reason and can be sent again alike."""
    found: dict[object, list[Record]] = {}
    for one in records:
        alike = (one.destination, one.reason, one.can_be_retried) if one.state == PARKED else one.id
        found.setdefault(alike, []).append(one)
    return [*found.values()]


def long_waits(record: Record, attempts: Mapping[int, AttemptRecord]) -> dict[int, float]:
    """The attempts that nothing came before for a long time, by their numbers: how many seconds."""
    found, ended_at = {}, record.received_at
    for number in range(1, record.attempts + 1):
        if attempt := attempts.get(number):
            if attempt.at - ended_at > LONG_WAIT_S and (number == 1 or number - 1 in attempts):
                found[number] = attempt.at - ended_at
            ended_at = attempt.at + attempt.took_s
    return found


def reference_words(record: Record, noun: str) -> str:
    """What a delivered item is at its destination: Ticket #1042, message."""
    reference = record.reference or ""
    return f"{noun.capitalize()} #{reference}" if reference.isdigit() else noun


def tab_title(verdict: Verdict) -> str:
    """The verdict as the title of a browser's tab."""
    return f"{SYMBOLS[verdict.level]} {verdict.sentence}"


def readable(payload: Mapping[str, Any]) -> str:
    """JSON for people: what cannot be seen is written as \\uXXXX."""
    text = json.dumps(payload, indent=2, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text)


def top_of(hours: Sequence[Hour]) -> int:
    """The number at the top of the chart's scale."""
    most = max(hour.delivered + hour.pending + hour.parked for hour in hours)
    unit = int(10 ** (len(str(most)) - 1))
    return next(number * unit for number in ROUND_NUMBERS if number * unit >= most)


def columns(hours: Sequence[Hour]) -> list[list[tuple[str, float, float]]]:
    """For each hour the parts of its column from the bottom: their state, top and height, in units of PLOT_HEIGHT."""
    top = top_of(hours)
    return [_column(hour, top) for hour in hours]


def _column(hour: Hour, top: int) -> list[tuple[str, float, float]]:
    parts, bottom = [], PLOT_HEIGHT
    for state in (PARKED, PENDING, DELIVERED):  # the rare ones stand at the bottom, where they are never cut off
        count = getattr(hour, state)
        if count:
            height = min(max(LEAST_HEIGHT, count / top * PLOT_HEIGHT), bottom)
            bottom -= height
            parts.append((state, round(bottom, 2), round(height, 2)))
    return parts
