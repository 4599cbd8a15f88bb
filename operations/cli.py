"""Commands for the people who run the service: `flask --app app COMMAND`.

Exit codes: 0 all is well, 1 something is not (the last line says what), 2 the command line is wrong. With `--json`
stdout is one JSON value, `{"error": …}` when the command has no other. Log lines go to stderr.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import click

import log
from events import LABEL_APPLIED
from inbox.gate import OPEN, OUTAGE, UNAUTHORISED
from inbox.records import Record
from inbox.schema import DELIVERED, PARKED, PENDING
from khoros_client import Subscription
from operations.checks import PROBLEM, TEST_POST, advice, notify, run_checks
from operations.cli_inbox import became, inbox_group, trace_item
from operations.cli_output import command, fail, print_fields, print_json, print_wrapped
from operations.relay import Relay
from operations.retention import purge_items
from outbound import ServiceError

CONFIRM_DELETE = "No label will be delivered any more. Delete the subscription in Khoros?"
WHEN_MADE = "A running service makes it within the hour; after a delete: flask --app app subscription resume"
TEST_TEXT = "This is a test of the Khoros to Zendesk relay (flask --app app send-test). You can delete it."
FIRST_DAY = "The first day (UTC) that is kept."
STALLED_S = 90.0  # a rate limit stops everything for a minute
LONG = 20  # from so many posts on a progress bar is useful


@command("check", has_json=True)
def check_deploy(relay: Relay, as_json: bool) -> None:
    """Test all that a deploy needs, and say what to do.

    Each credential, address and service in turn: ok, failed, or a note about what is unknown or will end.
    """
    checks = []
    for check in run_checks(relay):
        checks.append(check)
        if not as_json:
            print_wrapped(f"{check.result:<7} {check.name:<20} ", check.found)
            if check.to_do:
                print_wrapped(f"{'':28} -> ", check.to_do)
    if as_json:
        print_json(checks)
    if failed := [check.name for check in checks if check.result == PROBLEM]:
        fail(f"not well: {', '.join(failed)}")


@command("purge")
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), required=True, metavar="YYYY-MM-DD", help=FIRST_DAY)
def purge_by_date(relay: Relay, before: datetime) -> None:
    """Empty items that were settled before a day.

    Delivered, parked and discarded ones lose their text and their attempts. Ids and ticket numbers stay, so that
    nothing is ever delivered twice.
    """
    emptied = purge_items(relay.inbox, relay.inbox.now() - before.replace(tzinfo=UTC).timestamp())
    click.echo(f"{emptied:,} settled items were emptied of their text and attempts.")


@command("send-test", has_json=True)
@click.option("--wait", "wait_s", type=click.IntRange(1, 600), default=30, show_default=True, metavar="SECONDS")
def send_test(relay: Relay, wait_s: int, as_json: bool) -> None:
    """Send a test post through the whole path. Makes a ticket."""
    event_uuid, started = f"test-{uuid.uuid4()}", time.monotonic()
    path = hand_in(relay, event_uuid)
    records = wait_until_settled(relay, event_uuid, started + wait_s)
    took_ms = round((time.monotonic() - started) * 1000)
    record = min(records, key=lambda one: (PARKED, PENDING, DELIVERED).index(one.state))  # the worst is the result
    if as_json:
        print_json({"event_uuid": event_uuid, "way": path, "took_ms": took_ms, **asdict(record)})
    if record.state == PARKED:
        fail(f"parked: {record.reason}. To try again: flask --app app inbox retry {record.id}")
    if record.state == PENDING:
        reason = why_it_waits(relay, "Does a service run? Without one: flask --app app deliver --once")
        fail(f"accepted {path}, but it still waits after {wait_s} s. {reason}")
    for one in [] if as_json else records:
        click.echo(f"Accepted {path}; {became(relay, one)} after {took_ms:,} ms: {relay.link(one)}")


def hand_in(relay: Relay, event_uuid: str) -> str:
    """Sends a notification as Khoros does, to the public address; without one, straight into the inbox."""
    item = {"entityId": f"{TEST_POST}{event_uuid}", "text": TEST_TEXT, "author": "Relay test"}
    event = {"eventName": LABEL_APPLIED, "eventUuid": event_uuid, "data": {"labels": [], "items": [item]}}
    address = relay.subscriber.public_url()
    if relay.config.polling or not address:
        relay.receiver.take(event, source="push")
        return "straight into the inbox"
    status = notify(relay, address, event)
    if status != 202:
        fail(f"{address} answered {status} instead of 202. See: flask --app app check")
    return f"at {address}"


def wait_until_settled(relay: Relay, event_uuid: str, end_at: float) -> list[Record]:
    """The event's items when none waits any more, or at `end_at` of the monotonic clock."""
    found = relay.records.find(event_uuid)
    while time.monotonic() < end_at and (not found or any(record.state == PENDING for record in found)):
        time.sleep(0.05)
        found = relay.records.find(event_uuid)
    if not found:
        fail("accepted there, but not in this database: the service there has another DATABASE_URL")
    return found


@command("deliver")
@click.option("--once", is_flag=True, help="End when nothing is left to deliver.")
def deliver_items(relay: Relay, once: bool) -> None:
    """Deliver what waits, as a process of its own.

    It may run beside the web service, on the same database. Ctrl-C or SIGTERM ends it when the deliveries under way
    are done.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: relay.stop_claiming())
    try:
        if once:
            return deliver_once(relay)
        log.configure(relay.config.log_level, relay.secrets, sys.stdout)
        for delivery in relay.deliveries.values():
            delivery.start()
        relay.retention.loop.start()
        while not relay.stopping:
            time.sleep(0.5)
    finally:
        relay.stop()


def deliver_once(relay: Relay, stalled_s: float = STALLED_S) -> None:
    """Delivers until nothing is left, a signal came, or nothing changed for `stalled_s` seconds."""
    if sys.stderr.isatty():
        logging.getLogger("relay").setLevel(logging.WARNING)  # the bar shows the rest
    left, working = relay.inbox.counts().pending, []
    for name, delivery in relay.deliveries.items() if left else ():
        delivery.check(despite_hold=True)
        if relay.inbox.gate(name)[0].state not in (OUTAGE, UNAUTHORISED):
            delivery.start()
            working.append(name)
    watch_deliveries(relay, working, left, stalled_s)
    counts = relay.inbox.counts()
    if counts.pending:
        reason = why_it_waits(relay, "To go on: flask --app app deliver --once")
        fail(f"{counts.pending:,} still wait. {reason}")
    note = f" {counts.parked:,} parked: flask --app app inbox list" if counts.parked else ""
    click.echo(f"Nothing is left to deliver.{note}")


def watch_deliveries(relay: Relay, names: Sequence[str], left: int, stalled_s: float) -> None:
    """Shows the progress until all is delivered, no destination accepts us, or a signal came."""
    ends_at = time.monotonic() + stalled_s
    with click.progressbar(length=left, label=f"Delivering {left:,} posts", hidden=left < LONG, file=sys.stderr) as bar:
        while left and not relay.stopping and time.monotonic() < ends_at:
            if all(relay.inbox.gate(name)[0].state == UNAUTHORISED for name in names):
                break
            time.sleep(0.1)
            before, left = left, relay.inbox.counts().pending
            if left != before:
                bar.update(max(0, before - left))
                ends_at = time.monotonic() + stalled_s


def why_it_waits(relay: Relay, otherwise: str) -> str:
    gates = [relay.inbox.gate(name)[0] for name in relay.deliveries]
    return " ".join(f"{gate.reason}. {advice(gate.reason)}" for gate in gates if gate.state != OPEN) or otherwise


@click.group("subscription")
def subscription_group() -> None:
    """Show, pause, resume or delete the subscription."""


@command("show", subscription_group, has_json=True)
def show_subscription(relay: Relay, as_json: bool) -> None:
    """Show the subscription as Khoros has it."""
    subscription = find_ours(relay)
    if as_json:
        return print_json(subscription)
    print_fields({name.replace("_", " "): value or "-" for name, value in asdict(subscription).items()})


@command("pause", subscription_group)
def pause_subscription(relay: Relay) -> None:
    """Pause it: labels are not delivered until you resume."""
    subscription = find_ours(relay)
    relay.khoros.set_status(subscription.uuid, "PAUSED")
    relay.subscriber.look_again()
    click.echo(f"Paused {subscription.uuid}. Labels are not delivered until: flask --app app subscription resume")


@command("resume", subscription_group)
def resume_subscription(relay: Relay) -> None:
    """Resume it after a pause, or make it again after a delete."""
    if subscription := first_of_ours(relay):
        relay.khoros.set_status(subscription.uuid, "ACTIVE")
    relay.subscriber.look_again()
    result = f"{subscription.uuid} is active again." if subscription else "Khoros has no subscription of ours."
    click.echo(f"{result} The running service looks at it within a minute.")


@command("delete", subscription_group)
@click.confirmation_option(prompt=CONFIRM_DELETE)
def delete_subscription(relay: Relay) -> None:
    """Delete it, when the service is shut down for good."""
    subscription = first_of_ours(relay)
    relay.subscriber.retire()
    try:
        if subscription:
            relay.khoros.delete(subscription.uuid)
    except ServiceError:  # nothing was deleted
        relay.subscriber.look_again()
        raise
    result = f"Deleted {subscription.uuid}." if subscription else "Khoros had none of ours."
    click.echo(f"{result} The service makes no new one until: flask --app app subscription resume")


def first_of_ours(relay: Relay) -> Subscription | None:
    return next(iter(relay.subscriber.ours(relay.khoros.subscriptions())), None)


def find_ours(relay: Relay) -> Subscription:
    if subscription := first_of_ours(relay):
        return subscription
    fail(f"Khoros has no subscription named {relay.config.external_id}. {WHEN_MADE}")


COMMANDS = (check_deploy, trace_item, deliver_items, purge_by_date, send_test, inbox_group, subscription_group)
