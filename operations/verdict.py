"""One sentence that says whether all is well, with a colour: for the pages and their titles. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inbox.gate import LIMITED, OPEN, OUTAGE, UNAUTHORISED
from inbox.records import span
from khoros.subscription import (
    DELETED,
    FAILED,
    LOGIN_REFUSED,
    NO_ADDRESS,
    PAUSED,
    STARTING,
    SUBSCRIBED,
    WRONG_COMPANY,
    SubscriptionStatus,
)
from operations.advice import advice
from operations.health import BAD, GOOD, WAITING, Health, count_posts, event_words, level_of, title

KHOROS, POLL_FAILS, ABANDONED = "khoros", "polling", "abandoned"
NOT_STORED = "Nothing can be stored: Khoros' calls are answered 503 until the database works again."
CONNECTING, ALL_WELL = "Connecting to Khoros…", "All well."
BY_ITSELF = "The relay tries again by itself, and delivers all that waits when it succeeds."
BY_ITSELF_FROM_KHOROS = "The relay tries again by itself."
KHOROS_TROUBLES = {
    LOGIN_REFUSED: "Khoros refuses the access token",
    WRONG_COMPANY: "SPREDFAST_COMPANY_ID is none of the access token's companies",
    FAILED: "The connection to Khoros does not work",
    NO_ADDRESS: "Khoros cannot call this service, which does not know its own address",
    PAUSED: "The subscription in Khoros is paused",
    DELETED: "The subscription in Khoros was deleted by command",
}
GATE_TROUBLES = {
    UNAUTHORISED: "{} refuses the login",
    OUTAGE: "{} does not work at the moment",
    LIMITED: "{} takes no more calls at the moment",
}
REFUSED_BY_ALL = "{} refuses every post"
NOT_ACCEPTED = "{} does not accept messages from the relay"  # for its login, or because of the place itself
NO_ACCOUNT_THERE = "{} has no working account at ZENDESK_API_URL"
LOSES_DATA = "Heroku deletes the relay's database at each restart: posts that wait then are lost."
ADD_DATABASE = "In dashboard.heroku.com > your app > Resources > Add-ons, add Heroku Postgres."


@dataclass(frozen=True)
class Verdict:
    """A sentence about the service that anybody may read, and its level: GOOD, WAITING or BAD. For the people who run
    the service: what was answered, and what to do. `about` is KHOROS, a destination or ""; `state` is that of its
    subscription or gate, POLL_FAILS or ABANDONED."""

    level: str
    sentence: str
    reason: str = ""
    to_do: str = ""
    about: str = ""
    state: str = ""


def verdicts(health: Health | None, *, refetches: bool = False) -> list[Verdict]:
    """Everything that is wrong, the worst first, or else that all is well. `refetches`: the service polls Khoros for
    events that it missed."""
    if health is None or health.fault:
        return [Verdict(BAD, NOT_STORED, health.fault if health else "The log says why")]
    found = [*_about_khoros(health, refetches), *_about_destinations(health)]
    found += [Verdict(BAD, LOSES_DATA, "", ADD_DATABASE)] if health.loses_data else []
    found += _about_items(health)
    return sorted(found, key=lambda one: one.level != BAD) or [Verdict(GOOD, ALL_WELL)]


def _about_khoros(health: Health, refetches: bool) -> Iterator[Verdict]:
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name, one in health.subscriptions.items():
        if one.state != SUBSCRIBED:
            alike.setdefault((health.khoros_level(name), one.state, one.detail), []).append(name)
    for (level, state, detail), names in alike.items():
        if state == STARTING:
            yield Verdict(level, CONNECTING, about=KHOROS, state=state)
            continue
        theirs = [health.subscriptions[name] for name in names]
        known = state in (FAILED, LOGIN_REFUSED) and all(one.uuid for one in theirs)
        words = _listed(map(event_words, names))
        if all(map(_may_be_pushed, theirs)):
            lost = f"new {words} may still arrive"
        else:
            zendesk = [*health.gates] == ["zendesk"]
            lost = f"{words} make no tickets now" if zendesk else f"{words} bring no posts now"
        later = "what is missed is fetched afterwards" if refetches and known else "label those posts again afterwards"
        trouble = KHOROS_TROUBLES.get(state, f"The subscription in Khoros is {state.replace('_', ' ')}")
        to_do = advice(detail) if state in (FAILED, LOGIN_REFUSED, WRONG_COMPANY) else ""
        to_do = BY_ITSELF_FROM_KHOROS if level == WAITING else to_do
        yield Verdict(level, f"{trouble}: {lost}; {later}.", detail, to_do, KHOROS, state)
    for name, poll in health.failing_polls.items():
        if health.subscriptions[name].state == SUBSCRIBED:
            trouble = f"{KHOROS_TROUBLES[LOGIN_REFUSED]}: missed" if poll.refused else "Missed"
            sentence = f"{trouble} {event_words(name)} cannot be fetched from Khoros."
            level = health.khoros_level(name)
            to_do = BY_ITSELF_FROM_KHOROS if level == WAITING else advice(poll.failed)
            yield Verdict(level, sentence, poll.failed, to_do, KHOROS, POLL_FAILS)


def _may_be_pushed(one: SubscriptionStatus) -> bool:
    """Whether Khoros may still post these events although its API fails: there was a subscription with an address."""
    return one.state == FAILED and bool(one.uuid) and any(one.wanted[1:2])


def _about_destinations(health: Health) -> Iterator[Verdict]:
    for name, gate in health.closed.items():
        trouble = GATE_TROUBLES.get(gate.state, REFUSED_BY_ALL)
        if gate.state == UNAUTHORISED and "ZENDESK_API_URL" in gate.reason:
            trouble = NO_ACCOUNT_THERE
        elif gate.state == UNAUTHORISED and ":" in name:
            trouble = NOT_ACCEPTED
        to_do = advice(gate.reason)
        to_do = BY_ITSELF if to_do == advice("") else to_do
        sentence = f"{trouble.format(title(name))}: {_waiting(health, name)}."
        yield Verdict(level_of(gate.state), sentence, gate.reason, to_do, name, gate.state)
    for name in health.late:
        if name in health.gates and name not in health.closed:
            sentence = f"{title(name)} works, but {_waiting(health, name)}."
            to_do = "Open the one that waits longest: its timeline shows why."
            yield Verdict(BAD, sentence, "", to_do, name, OPEN)


def _about_items(health: Health) -> Iterator[Verdict]:
    for name, counts in health.abandoned.items():
        wait = f"{count_posts(counts.pending + counts.parked, 'wait')} for {title(name)}"
        to_do = "Add its line to ROUTES again, or give the posts up."
        yield Verdict(BAD, f"{wait}, but no route leads there.", "", to_do, name, ABANDONED)
    parked = {name: one.parked for name, one in health.waiting.items() if one.parked and name not in health.abandoned}
    if parked:
        whose = [f"{number:,} {f'for {title(name)}' if name else 'not readable'}" for name, number in parked.items()]
        why = _listed(whose) if len(parked) > 1 else why_parked(*next(iter(parked.items())))
        yield Verdict(BAD, f"{count_posts(sum(parked.values()))} attention: {why}.")


def why_parked(name: str, number: int) -> str:
    """Why so many posts for a destination need attention."""
    them = "it" if number == 1 else "them"
    return f"{title(name)} did not take {them}" if name else f"nobody can read {them}"


def _waiting(health: Health, name: str) -> str:
    """41 posts wait here, the oldest for 12 min."""
    counts = health.of(name)
    if counts.oldest_pending_s is None:
        return "new posts wait here"
    return f"{count_posts(counts.pending, 'wait')} here, the oldest for {span(counts.oldest_pending_s)}"


def _listed(words: Iterable[str]) -> str:
    """a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
