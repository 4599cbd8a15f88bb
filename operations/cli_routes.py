"""The commands about routes: `routing`, and `send-test`, which sends a test event through them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click

from destinations.route import Route
from events import CREDENTIALS, MESSAGES
from inbox.records import Record, number
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING
from operations.checks import TEST_POST, notify, why_it_waits
from operations.cli_inbox import became
from operations.cli_output import command, fail, print_json, print_table
from operations.relay import Relay

ALL = "all"
TEST_TEXT = "This is a test of the Khoros to Zendesk relay (flask --app app send-test). You can delete it."
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


@dataclass(frozen=True)
class Trial:
    """A test event that was accepted, and what became of it."""

    route: Route
    event_uuid: str
    way: str
    records: Sequence[Record]
    took_ms: int

    @property
    def worst(self) -> Record:
        """The item that most needs a person: it is the result."""
        return min(self.records, key=lambda record: WORST_FIRST.index(record.state))


@command("send-test", has_json=True)
@click.argument("route", metavar="[ROUTE]", default="1")
@click.option("--wait", "wait_s", type=click.IntRange(1, 600), default=30, show_default=True, metavar="SECONDS")
def send_test(relay: Relay, route: str, wait_s: int, as_json: bool) -> None:
    """Send a test event through the whole path.

    ROUTE is a number or some words of a line that `routing` lists, or: all. Without it the first line is tried. Makes a
    ticket, a message or a webhook wherever such an event goes.
    """
    chosen = choose(relay.routes.routes, route)
    started = time.monotonic()
    handed_in = [(one, *hand_in(relay, one)) for one in chosen]
    trials = []
    for one, event_uuid, way in handed_in:
        records = wait_until_settled(relay, event_uuid, started + wait_s)
        trials.append(Trial(one, event_uuid, way, records, round((time.monotonic() - started) * 1000)))
    if as_json:
        results = [as_result(trial) for trial in trials]
        print_json(results if route == ALL else results[0])
    for trial in [] if as_json else trials:
        print_trial(relay, trial, trial.route.words if len(trials) > 1 else "")
    if faults := [fault for trial in trials if (fault := fault_of(relay, trial, wait_s))]:
        fail(" ".join(faults))


def choose(routes: Sequence[Route], wanted: str) -> Sequence[Route]:
    """The routes that a person means."""
    if wanted == ALL:
        return routes
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
    address = relay.subscriptions.public_url()
    if relay.config.polling or not address:
        relay.receiver.take(event, source="push")
        return event["eventUuid"], "straight into the inbox"
    status = notify(relay, address, event)
    if status != 202:
        fail(f"{address} answered {status} instead of 202. See: flask --app app check")
    return event["eventUuid"], f"at {address}"


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


def as_result(trial: Trial) -> dict[str, Any]:
    """A trial for a program: its worst item."""
    about = {"route": trial.route.words, "event_uuid": trial.event_uuid, "way": trial.way, "took_ms": trial.took_ms}
    return {**about, **asdict(trial.worst)}


def print_trial(relay: Relay, trial: Trial, words: str) -> None:
    """What became of the event, at each destination that has taken it."""
    for record in trial.records:
        if record.state == DELIVERED:
            link = f": {found}" if (found := relay.link(record)) else ""
            start = f"{words}. " if words else ""
            click.echo(f"{start}Accepted {trial.way}; {became(relay, record)} after {trial.took_ms:,} ms{link}")


def fault_of(relay: Relay, trial: Trial, wait_s: int) -> str:
    """Why an item was not delivered, and what to do; "" when all were."""
    record = trial.worst
    if record.state == PARKED:
        return f"parked: {record.reason}. To try again: flask --app app inbox retry {record.id}"
    if record.state == PENDING:
        why = why_it_waits(relay, [record], NO_SERVICE)
        return f"accepted {trial.way}, but it still waits after {wait_s} s. {why}"
    return ""
