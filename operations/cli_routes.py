"""The commands about routes: `routing`, and `send-test`, which sends a test event through them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from destinations.filters import Filter
from destinations.route import Route
from events import CREDENTIALS, MESSAGES
from inbox.records import Record, number
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING
from operations.checks import PASSED, TEST_POST, call_service, why_it_waits
from operations.cli_inbox import became
from operations.cli_output import command, fail, print_json, print_table
from operations.health import title
from operations.relay import Relay

ALL = "all"
TEST_TEXT = "This is a test. It was sent by: flask --app app send-test"
PUSHED = "to the public address"
NO_SERVICE = "Does a service run? Without one: flask --app app deliver --once"
WORST_FIRST = (PARKED, PENDING, DISCARDED, DELIVERED)


@command("routing", has_json=True)  # Flask has a command of its own named routes
def list_routes(relay: Relay, as_json: bool) -> None:
    """List which events go where.

    First the lines of ROUTES, last the label of SPREDFAST_LABEL_NAME.
    """
    routes = list(enumerate(relay.routes.routes, 1))
    if as_json:
        return print_json([{"route": n, "words": one.words, "destination": one.destination} for n, one in routes])
    print_table(("route", "from and to"), [(n, one.words) for n, one in routes], [None] * len(routes))
    click.echo("To try one: flask --app app send-test ROUTE")


@command("send-test", has_json=True)
@click.argument("route", metavar="[ROUTE]", default="1")
@click.option("--wait", "wait_s", type=click.IntRange(1, 600), default=30, show_default=True, metavar="SECONDS")
def send_test(relay: Relay, route: str, wait_s: int, as_json: bool) -> None:
    """Send a test event through the whole path.

    ROUTE is a number or some words of a line that `routing` lists, or: all. Without it the first line is tried. Makes a
    ticket, a message or a webhook wherever such an event goes.
    """
    chosen, ends_at = choose(relay.routes.routes, route), time.monotonic() + wait_s
    results, faults = [], []
    for one, (event_uuid, way) in [(one, hand_in(relay, one)) for one in chosen]:
        records = wait_until_settled(relay, event_uuid, ends_at)
        worst = min(records, key=lambda record: WORST_FIRST.index(record.state))  # which most needs a person
        results.append({"route": one.words, "event_uuid": event_uuid, "way": way, **asdict(worst)})
        event = f"{one.words.partition(' → ')[0]}. " if len(chosen) > 1 else ""
        for record in records:
            if record.state != DELIVERED:
                faults.append(event + fault_of(relay, record, wait_s))
            elif not as_json:
                click.echo(f"{event}Sent: {sent_words(relay, record)}{'' if way == PUSHED else f' ({way})'}")
    if as_json:
        print_json(results if route == ALL else results[0])
    if faults:
        fail(" ".join(faults))


def choose(routes: Sequence[Route], wanted: str) -> Sequence[Route]:
    """The routes that a person means; for all those with the same event one is enough."""
    if wanted == ALL:
        events: dict[tuple[str, Filter | None], Route] = {}
        return [
            events.setdefault((one.word, one.filter), one) for one in routes if (one.word, one.filter) not in events
        ]
    its = number(wanted)
    if its is not None:
        found = [route for n, route in enumerate(routes, 1) if n == its]
    else:
        found = [one for one in routes if wanted.casefold() in f"{one.words} {one.destination}".casefold()]
    if len(found) != 1:
        fail(f"{len(found) or 'no'} routes are called {wanted}: give a number of: flask --app app routing")
    return found


def hand_in(relay: Relay, route: Route) -> tuple[str, str]:
    """Sends a notification as Khoros does, to the public address; without one, straight into the inbox. Returns the
    event's uuid and the way it went."""
    event = new_event(route)
    if relay.config.polling or not relay.subscriptions.public_url():
        relay.receiver.take(event, source="push")
        return event["eventUuid"], "straight into the inbox"
    result, *words = call_service(relay, event)
    if result != PASSED:
        fail(". ".join(words))
    return event["eventUuid"], PUSHED


def new_event(route: Route) -> dict[str, Any]:
    """An event that the route wants."""
    event_uuid, word = f"test-{uuid.uuid4()}", route.filter.text if route.filter else ""
    name, subject = route.event_names[0], f"{TEST_POST}{event_uuid}"
    envelope = {"eventName": name, "eventUuid": event_uuid, "createdDate": datetime.now(UTC).isoformat()}
    return {**envelope, "data": new_data(name, subject, word)}


def new_data(event_name: str, subject: str, word: str) -> Mapping[str, Any]:
    """The data of an event with this label, of this rule, or about such a message."""
    labels = [word] if word else []
    if event_name in MESSAGES:
        content = {"sfEntityType": "Status", "text": TEST_TEXT}
        return {"id": subject, "title": "Relay test", "service": "FACEBOOK", "labels": labels, "content": content}
    if event_name in CREDENTIALS:
        return {"id": subject, "name": "Relay test", "service": "FACEBOOK"}
    item = {"entityId": subject, "text": TEST_TEXT, "author": "Relay test"}
    return {"labels": labels, "ruleMatched": {"ruleId": word, "ruleName": word}, "items": [item]}


def wait_until_settled(relay: Relay, event_uuid: str, end_at: float) -> list[Record]:
    """The event's items when none waits any more, or at `end_at` of the monotonic clock."""
    found = relay.records.find(event_uuid)
    while time.monotonic() < end_at and (not found or any(record.state == PENDING for record in found)):
        time.sleep(0.05)
        found = relay.records.find(event_uuid)
    if not found:
        fail("accepted there, but not in this database: the service there has another DATABASE_URL, or other ROUTES")
    return found


def sent_words(relay: Relay, record: Record) -> str:
    """What a delivered item became, where, and after how long: ticket #2010 after 64 ms."""
    place = "" if (record.reference or "").isdigit() else f" to {title(record.destination).removeprefix('Webhook ')}"
    took_ms = ((record.settled_at or 0.0) - record.received_at) * 1000
    link = relay.link(record)
    return f"{became(relay, record)}{place} after {took_ms:,.0f} ms{f': {link}' if link else ''}"


def fault_of(relay: Relay, record: Record, wait_s: int) -> str:
    """Why an item was not delivered, and what to do."""
    if record.state == PENDING:
        why = why_it_waits(relay, [record], NO_SERVICE)
        return f"It still waits for {title(record.destination)} after {wait_s} s. {why}"
    to_do = f"Once that is mended: flask --app app inbox retry {record.id}"
    return f"{title(record.destination)} refused it: {record.reason}. {to_do}"
