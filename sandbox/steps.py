"""The three steps of the demo's page, and the button that each of them offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Button(NamedTuple):
    """A form of one button. The page presses it by itself when it is `alone`."""

    name: str
    path: str
    fields: Mapping[str, str] = {}
    alone: bool = False


class Step(NamedTuple):
    title: str
    says: str
    done: bool = False
    button: Button | None = None


class Burst(NamedTuple):
    """Posts that were labelled together: how many have a ticket, and how many have more than one."""

    size: int
    ticketed: int
    twice: int


@dataclass(frozen=True)
class Facts:
    """What the steps depend on."""

    ready: bool = True  # the relay runs, and Khoros calls it
    running: bool = True
    post: str = ""  # the one to label first
    ticket: str = ""  # a sentence about the first ticket
    zendesk_is_down: bool = False
    stored: bool = False  # a burst was labelled while Zendesk was down
    killed: bool = False  # at some time
    waiting: int = 0  # posts in the relay's database
    burst: Burst | None = None
    finished: bool = False  # all three were done at some time


KILL = Button("Kill it with -9", "/_sandbox/relay/kill")
START = Button("Start it again", "/_sandbox/relay/start")
DOWN = Button("Take Zendesk down", "/_sandbox/switch", {"place": "zendesk", "mode": "down"})
BACK = Button("Bring Zendesk back", "/_sandbox/switch", {"place": "zendesk", "mode": "healthy"})


def steps(facts: Facts, label: str, size: int) -> list[Step]:
    """The steps as they are now. Only the first one that is not done has a button."""
    shown = [_label(facts, label), _outage(facts, size), _kill(facts)]
    current = next((step for step in shown if not step.done), None)
    return [step if step is current else step._replace(button=None) for step in shown]


def _label(facts: Facts, label: str) -> Step:
    title = "Label a post"
    if facts.ticket:
        return Step(title, facts.ticket, done=True)
    fields = {"post": facts.post, "label": label}
    says = f"Watch: one post gets {label} by itself." if facts.ready else "One moment: the relay is not ready."
    return Step(title, says, button=Button("Label it now", "/inbox/label", fields, alone=facts.ready))


def _outage(facts: Facts, size: int) -> Step:
    title = f"Take Zendesk down, label {size}"
    if facts.stored:
        return Step(title, f"{size} came in meanwhile. Each is in the database.", done=True)
    if facts.zendesk_is_down:
        return Step(title, "It answers 503 to everything.", button=Button(f"Label {size} posts", "/inbox/burst"))
    return Step(title, "Where do the posts go?", button=DOWN)


def _kill(facts: Facts) -> Step:
    title, burst = "Kill the relay", facts.burst
    if facts.finished:
        all_well = "It runs again and has forgotten nothing."
        if burst and burst.ticketed == burst.size:
            all_well = f"{burst.size} posts, {burst.size} tickets: none lost, {burst.twice or 'none'} twice."
        return Step(title, all_well, done=True)
    if not facts.killed:
        return Step(title, "At once, like a power cut.", button=KILL)
    if not facts.running:
        return Step(title, f"{posts(facts.waiting)} safe in the database.", button=START)
    if facts.zendesk_is_down:
        return Step(title, f"It is back: {posts(facts.waiting)} still here.", button=BACK)
    done = f"{burst.ticketed} of {burst.size} have their ticket." if burst else "It fetches what it missed."
    return Step(title, done)


def posts(count: int) -> str:
    """A number of posts and their verb: 201 posts are."""
    return "1 post is" if count == 1 else f"{count:,} posts are"
