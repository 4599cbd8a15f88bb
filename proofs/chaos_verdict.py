"""Whether every event has arrived at each of its destinations, once: by what the simulated services have done."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from proofs.chaos_world import HOOKED, PLACES, TICKETED, World
from sandbox.calls import Call
from sandbox.slack import POST, FakeMessage

READ_S = 14.0  # the relay waits no longer than 15 s for an answer
RECORD_S = 10.0  # until an outcome is in the database, or the lease is over

Events = Mapping[str, dict[str, Any]]


def verdict(name: str, wanted: Events, world: World) -> bool:
    """Judges all destinations, and prints what each has got."""
    kept = [_zendesk(name, _named(wanted, TICKETED), world)]
    kept += [_slack(name, place, _named(wanted, [event]), world) for place, event in PLACES.items()]
    kept += [_webhook(name, _named(wanted, HOOKED), world)]
    return all(kept)


def _named(events: Events, names: Collection[str]) -> Events:
    return {uuid: event for uuid, event in events.items() if event["eventName"] in names}


def _zendesk(name: str, wanted: Events, world: World) -> bool:
    """Exactly one comment names each wanted event, and each of their posts has exactly one ticket."""
    comments, tickets = comments_of(world), Counter(ticket.external_id for ticket in world.zendesk.tickets)
    posts = {event["data"]["items"][0]["entityId"] for event in wanted.values()}
    lost = [uuid for uuid in wanted if not comments[uuid]]
    doubled = [uuid for uuid, times in comments.items() if times > 1] + [post for post, n in tickets.items() if n > 1]
    one_each = sum(tickets[post] == 1 for post in posts)
    more = f"of {len(posts)} posts; {one_each} posts with exactly one ticket"
    return _say(f"{name}: Zendesk", wanted, more, lost, doubled) and one_each == len(posts)


def comments_of(world: World) -> Counter[str]:
    """The number of comments that name each event."""
    comments = (comment.html_body for ticket in world.zendesk.tickets for comment in ticket.comments)
    return Counter(uuid for text in comments for uuid in re.findall(r"event ([0-9a-f-]{36})", text))


def _slack(name: str, place: str, wanted: Events, world: World) -> bool:
    """Each wanted event has its line, a message or a part of a digest. A line that no event refers to, a second one,
    may only be in a message whose outcome the relay cannot know."""
    rows = world.database.rows("event_uuid, state, COALESCE(reference, ''), destination")
    known = {uuid: ts for uuid, state, ts, to in rows if to == f"slack:{place}" and state == "delivered"}
    items = Counter(reference.partition("/")[2] for reference in known.values())
    messages = world.slack.messages_in(place.removeprefix("#"))
    threads: dict[str, list[FakeMessage]] = defaultdict(list)
    for message in messages:
        threads[message.thread_ts or message.ts].append(message)
    unknown = _with_unknown_outcome(messages, world)
    spare = sum(_lines(m) for ts, thread in threads.items() if not items[ts] for m in thread)
    has = {ts: sum(map(_lines, thread)) for ts, thread in threads.items()} | {"": spare}  # "": Slack had it already
    lost = [uuid for uuid in wanted if uuid not in known]
    lost += [f"{n - has.get(ts, 0)} lines of {ts}" for ts, n in items.items() if n > has.get(ts, 0)]
    certain = {ts: sum(_lines(m) for m in thread if m.ts not in unknown) for ts, thread in threads.items()}
    doubled = [f"{n - items[ts]} lines of {ts}" for ts, n in certain.items() if n > items[ts]]
    digests, lines = sum(_lines(m) > 1 for m in messages), sum(map(_lines, messages))
    more = f"as {lines} lines in {len(messages)} messages, {digests} of them digests, {len(unknown)} of unknown outcome"
    return _say(f"{name}: Slack {place}", wanted, f"{more}; {lines - len(known)} lines repeated", lost, doubled)


def _lines(message: FakeMessage) -> int:
    """How many events a message stands for."""
    count = re.fullmatch("([0-9]+) came in at once", message.text)
    return int(count[1]) if count else 1


def _with_unknown_outcome(messages: list[FakeMessage], world: World) -> set[str]:
    """The messages whose answer was a fault or came too late, or after which a relay was killed or without its
    database before it can have recorded the answer."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in world.slack.calls:
        if call.path == POST and (key := re.search(rb'"client_msg_id": "([0-9a-f-]+)"', call.body)):
            calls[key[1].decode()].append(call)
    unknown = set()
    for message in messages:
        made_by = [c for c in calls[message.sent["client_msg_id"]] if c.at <= message.at <= c.answered_at]
        if not any(_is_known(call, message.at, world) for call in made_by):
            unknown.add(message.ts)
    return unknown


def _is_known(call: Call, at: float, world: World) -> bool:
    until = call.answered_at + RECORD_S
    answered = call.status == 200 and b'"ok":true' in call.answer.replace(b" ", b"")
    in_time = call.answered_at - call.at < READ_S
    return answered and in_time and not any(start <= until and end >= at for start, end in world.disturbed)


def _webhook(name: str, wanted: Events, world: World) -> bool:
    """Each wanted event has one id at the receiver, always with the same body and a good signature."""
    ids = Counter(taken.data["event_uuid"] for taken in world.receiver.taken)
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for call in world.receiver.calls:
        bodies[call.headers.get("webhook-id", "")].add(call.body)
    changed = [key for key, different in bodies.items() if len(different) > 1]
    came, refused = sum(taken.came for taken in world.receiver.taken), world.receiver.refused
    more = f"as {ids.total()} ids that came {came} times; {len(refused)} signatures refused, {len(changed)} ids changed"
    doubled = [uuid for uuid, times in ids.items() if times > 1]
    lost = [uuid for uuid in wanted if not ids[uuid]]
    return _say(f"{name}: webhook", wanted, more, lost, doubled) and not refused and not changed


def _say(name: str, wanted: Events, more: str, lost: list[str], doubled: list[str]) -> bool:
    print(f"  {name}: {len(wanted)} events {more}, {len(lost)} events lost, {len(doubled)} doubled", flush=True)
    for what in (lost + doubled)[:10]:
        print(f"    {what}")
    return not lost and not doubled
