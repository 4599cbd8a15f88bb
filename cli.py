"""Commands for the people who run the service: `flask --app app COMMAND`.

Exit codes: 0 all is well, 1 something is not (the last line says what), 2 the command's words are wrong. With `--json`
stdout is one JSON value, `{"error": …}` when there is nothing else to tell. What a command logs goes to stderr.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import signal
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import AppGroup, with_appcontext

import checks
import logfmt
from database import StoreUnavailable
from gate import OPEN, OUTAGE, UNAUTHORISED
from khoros_client import EVENT_NAME, Subscription
from outbound import ServiceError
from records import STATES, AttemptRecord, Record, span, utc
from store import DELIVERED, PARKED, PENDING
from upkeep import purge as purge_inbox

if TYPE_CHECKING:
    from app import Relay

SURE = "No label will make a ticket any more. Delete the subscription in Khoros?"
LOST = "They make no ticket and their text is gone. Discard them?"
TEST_TEXT = "This is a test of the Khoros to Zendesk relay (flask --app app send-test). You can delete this ticket."
STALLED_S = 90.0  # a rate limit holds everything up for a minute
LONG = 20  # posts from which on a progress bar is worth it
ITEM_ID = click.IntRange(1, 10**18)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
subscription = AppGroup("subscription", help="Show, pause, resume or delete the subscription.")
inbox = AppGroup("inbox", help="See what came in; send it again, or discard it.")


class Failed(click.ClickException):
    """Ends a command with one line and exit code 1. With --json a program that was told nothing yet gets it too."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        context = click.get_current_context()
        self._for_program = context.params.get("as_json") and not context.meta.get("told")

    def show(self, file: Any = None) -> None:
        super().show(file)
        if self._for_program:
            click.echo(json.dumps({"error": self.message}))


# The whole


@click.command()
@as_json
@with_appcontext
def check(as_json: bool) -> None:
    """Test all that a deploy needs, and say what to do.

    Each credential, address and service in turn: ok, failed, or a note about what cannot be told or will end.
    """
    found = []
    for result in checks.run(_relay()):
        found.append(result)
        if not as_json:
            _print_wrapped(f"{result.result:<7} {result.name:<20} ", result.found)
            if result.to_do:
                _print_wrapped(f"{'':28} -> ", result.to_do)
    if as_json:
        _print_json(found)
    failed = [result.name for result in found if result.result == checks.FAILED]
    if failed:
        raise Failed(f"not well: {', '.join(failed)}")


@click.command()
@click.argument("name", metavar="ID")
@as_json
@with_appcontext
def trace(name: str, as_json: bool) -> None:
    """Tell all that is known of an event, post or ticket.

    ID is an event's uuid, a post's id, a ticket's number or an item's; every attempt is told with its answer.
    """
    relay = _relay()
    found = _attempt(lambda: relay.records.find(name))
    tried = _attempt(lambda: relay.records.attempts(record.id for record in found))
    if as_json:
        _print_json([{**asdict(r), "tried": [asdict(a) for a in tried if a.item_id == r.id]} for r in found])
    else:
        for record in found:
            _print_record(record, [attempt for attempt in tried if attempt.item_id == record.id])
    if not found:
        raise Failed(f"nothing is known of {name}: neither an event, a post, a ticket nor an item")


@click.command()
@click.option("--once", is_flag=True, help="End when nothing is left to deliver.")
@with_appcontext
def deliver(once: bool) -> None:
    """Deliver what waits, as a process of its own.

    It may run beside the web service, on the same database; Ctrl-C or SIGTERM ends it when what is in
    flight has arrived.
    """
    relay = _relay(log_to=sys.stderr if once else sys.stdout)
    told: list[int] = []

    def end(number: int, _: object) -> None:
        told.append(number)  # not an Event: this thread may hold its lock at this very moment
        relay.delivery.stop_claiming()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        if once:
            return _deliver_once(relay, told)
        relay.delivery.start()
        relay.upkeep.loop.start()
        while not told:
            time.sleep(0.5)
    finally:
        relay.stop()


@click.command()
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    required=True,
    metavar="YYYY-MM-DD",
    help="The first day (UTC) that is kept.",
)
@with_appcontext
def purge(before: datetime) -> None:
    """Empty posts that were delivered before a day.

    Their text goes; ids and ticket numbers stay, so that nothing is ever made twice.
    """
    relay = _relay()
    age_s = _attempt(relay.inbox.now) - before.replace(tzinfo=UTC).timestamp()
    emptied = _attempt(lambda: purge_inbox(relay.inbox, age_s))
    click.echo(f"{emptied:,} delivered posts were emptied of their text.")


@click.command("send-test")
@click.option("--wait", "wait_s", type=click.IntRange(1, 600), default=30, show_default=True, metavar="SECONDS")
@as_json
@with_appcontext
def send_test(wait_s: int, as_json: bool) -> None:
    """Put a test post through the whole path. Makes a ticket."""
    relay = _relay()
    event_uuid, started = f"test-{uuid.uuid4()}", time.monotonic()
    way = _attempt(lambda: _hand_in(relay, event_uuid))
    record = _attempt(lambda: _wait_for(relay, event_uuid, started + wait_s))
    took_ms = round((time.monotonic() - started) * 1000)
    if as_json:
        _print_json({"event_uuid": event_uuid, "way": way, "took_ms": took_ms, **asdict(record)})
    elif record.state == DELIVERED:
        url = f"{relay.config.zendesk_url}/agent/tickets/{record.ticket_id}"
        click.echo(f"Taken {way}; ticket {record.ticket_id} after {took_ms:,} ms: {url}")
    if record.state == PARKED:
        raise Failed(f"parked: {record.reason}. To try again: flask --app app inbox retry {record.id}")
    if record.state == PENDING:
        said = _why_it_waits(relay, "Does a service run? Without one: flask --app app deliver --once")
        raise Failed(f"taken {way}, but it still waits after {wait_s} s. {said}")


def _deliver_once(relay: Relay, told: Sequence[int]) -> None:
    if sys.stderr.isatty():
        logging.getLogger("relay").setLevel(logging.WARNING)  # the bar tells the rest
    left = _attempt(relay.inbox.counts).pending
    if left:
        _attempt(relay.delivery.check)
        if _attempt(relay.inbox.gate)[0].state not in (OUTAGE, UNAUTHORISED):
            relay.delivery.start()
            left = _watch(relay, left, told)
    if left:
        raise Failed(f"{left:,} still wait. {_why_it_waits(relay, 'To go on: flask --app app deliver --once')}")
    parked = _attempt(relay.inbox.counts).parked
    click.echo(f"Nothing is left to deliver.{f' {parked:,} parked: flask --app app inbox list' if parked else ''}")


def _watch(relay: Relay, left: int, told: Sequence[int]) -> int:
    """Shows how far the delivery is, until it is done, hopeless or told to end; gives how many are left."""
    stalled_at, state = time.monotonic() + STALLED_S, OPEN
    with click.progressbar(length=left, label=f"Delivering {left:,} posts", hidden=left < LONG, file=sys.stderr) as bar:
        while left and not told and state != UNAUTHORISED and time.monotonic() < stalled_at:
            time.sleep(0.1)
            state, before, left = _attempt(relay.inbox.gate)[0].state, left, _attempt(relay.inbox.counts).pending
            if left != before:
                bar.update(max(0, before - left))
                stalled_at = time.monotonic() + STALLED_S
    return left


def _why_it_waits(relay: Relay, otherwise: str) -> str:
    gate = _attempt(relay.inbox.gate)[0]
    return otherwise if gate.state == OPEN else f"{gate.reason}. {checks.advice(gate.reason)}"


def _hand_in(relay: Relay, event_uuid: str) -> str:
    """Sends a notification as Khoros would, over the public address; without one, through the inbox's own door."""
    item = {"entityId": f"{checks.TEST_POST}{event_uuid}", "text": TEST_TEXT, "author": "Relay test"}
    event = {"eventName": EVENT_NAME, "eventUuid": event_uuid, "data": {"labels": [], "items": [item]}}
    address = relay.subscriber.public_url()
    if relay.config.polling or not address:
        relay.intake.take(event, source="push")
        return "straight into the inbox"
    status = checks.notify(relay, address, event)
    if status != 202:
        raise Failed(f"{address} answered {status} instead of 202. See: flask --app app check")
    return f"over {address}"


def _wait_for(relay: Relay, event_uuid: str, end_at: float) -> Record:
    while True:
        found = relay.records.find(event_uuid)
        if found and (found[0].state != PENDING or time.monotonic() > end_at):
            return found[0]
        if time.monotonic() > end_at:
            raise Failed("taken there, but it is not in this database: the service there has another DATABASE_URL")
        time.sleep(0.05)


# The inbox


@inbox.command("list")
@click.option("--state", type=click.Choice([*STATES, "all"]), default=PARKED, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The newest ones.")
@as_json
def list_items(state: str, limit: int, as_json: bool) -> None:
    """List what is parked, or in another state.

    Parked is what Zendesk refused, and what nobody could read.
    """
    relay = _relay()
    found = _attempt(lambda: relay.records.latest(None if state == "all" else state, limit))
    if as_json:
        return _print_json(found)
    now = _attempt(relay.inbox.now)
    _print_table(
        ("item", "state", "age", "attempts", "ticket", "post"),
        [(r.id, r.state, span(now - r.received_at), r.attempts, r.ticket_id, r.entity_id or None) for r in found],
        [r.reason for r in found],
    )
    more = " There may be more: --limit." if len(found) == limit else ""
    if found and state == PARKED:
        more += " Send again, or give up what is not readable: flask --app app inbox retry|discard ITEM"
    click.echo(f"{len(found)} {state if state != 'all' else 'in all'}.{more}")


@inbox.command()
@click.argument("item_id", metavar="ITEM", type=ITEM_ID)
@click.option("--payload", is_flag=True, help="Also what Khoros sent, with the customer's text.")
@as_json
def show(item_id: int, payload: bool, as_json: bool) -> None:
    """Show one item with every attempt."""
    relay = _relay()
    record = _attempt(lambda: relay.records.item(item_id))
    if record is None:
        raise Failed(f"there is no item {item_id}: see inbox list --state all")
    tried = _attempt(lambda: relay.records.attempts([item_id]))
    sent = _attempt(lambda: relay.records.payload(item_id)) if payload else None
    if as_json:
        with_payload = {"payload": sent} if payload else {}
        return _print_json({**asdict(record), "tried": [asdict(a) for a in tried], **with_payload})
    _print_record(record, tried)
    if payload:
        text = json.dumps(sent, indent=2, ensure_ascii=False) if sent else "Its text is no longer kept."
        click.echo("".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text))


@inbox.command()
@click.argument("ids", metavar="ITEM...", type=ITEM_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are parked.")
def retry(ids: tuple[int, ...], everything: bool) -> None:
    """Send parked items again, once the cause is mended."""
    if not ids and not everything:
        raise click.UsageError("Name the items, or say --all.")
    relay = _relay()
    wanted = None if everything else set(ids)
    sent = _attempt(lambda: relay.inbox.retry(wanted))
    named = "" if wanted is None else f" of {len(wanted)}"
    click.echo(f"{sent}{named} put back; the running service sends them when Zendesk takes them.")
    if wanted and sent < len(wanted):
        raise Failed("the others are not parked, or were never readable: see inbox list")


@inbox.command()
@click.argument("ids", metavar="ITEM...", type=ITEM_ID, nargs=-1, required=True)
@click.confirmation_option(prompt=LOST)
def discard(ids: tuple[int, ...]) -> None:
    """Give parked items up for good, and empty their text."""
    relay, ids = _relay(), tuple(set(ids))
    gone = _attempt(lambda: relay.inbox.discard(ids))
    click.echo(f"{gone} of {len(ids)} discarded.")
    if gone < len(ids):
        raise Failed("the others are not parked: see inbox list")


# The subscription


@subscription.command("show")
@as_json
def show_subscription(as_json: bool) -> None:
    """Show the subscription as Khoros holds it."""
    held = _held(_relay())
    if as_json:
        return _print_json(held)
    for name, value in asdict(held).items():
        click.echo(f"{name.replace('_', ' '):<17} {value or '-'}")


@subscription.command()
def pause() -> None:
    """Pause it: labels make no tickets until you resume."""
    relay = _relay()
    held = _held(relay)
    _attempt(lambda: relay.khoros.set_status(held.uuid, "PAUSED"))
    _attempt(relay.subscriber.look_again)
    click.echo(f"Paused {held.uuid}. Labels make no tickets until: flask --app app subscription resume")


@subscription.command()
def resume() -> None:
    """Resume it after a pause, or have it made again after a delete."""
    relay = _relay()
    if held := _first(relay):
        _attempt(lambda: relay.khoros.set_status(held.uuid, "ACTIVE"))
    _attempt(relay.subscriber.look_again)
    said = f"{held.uuid} is active again." if held else "Khoros has no subscription of ours."
    click.echo(f"{said} The running service looks at it within a minute.")


@subscription.command()
@click.confirmation_option(prompt=SURE)
def delete() -> None:
    """Delete it, when the service is shut down for good."""
    relay = _relay()
    held = _first(relay)
    _attempt(relay.subscriber.retire)
    try:
        if held:
            relay.khoros.delete(held.uuid)
    except ServiceError as error:
        _attempt(relay.subscriber.look_again)
        raise Failed(f"{error}. Nothing was deleted. {checks.advice(error)}") from error
    said = f"Deleted {held.uuid}." if held else "Khoros had none of ours."
    click.echo(f"{said} The service makes no new one until: flask --app app subscription resume")


def _first(relay: Relay) -> Subscription | None:
    ours = _attempt(lambda: relay.subscriber.ours(relay.khoros.subscriptions()))
    return ours[0] if ours else None


def _held(relay: Relay) -> Subscription:
    if held := _first(relay):
        return held
    raise Failed(
        f"Khoros has no subscription named {relay.config.external_id}. A running service makes it within the hour; "
        "after a delete only when you say: flask --app app subscription resume"
    )


# How it is said


def _print_record(record: Record, tried: Sequence[AttemptRecord]) -> None:
    facts = {
        "item": record.id,
        "state": record.state,
        "reason": record.reason,
        "post": record.entity_id or "not readable",
        "link": record.link,
        "event": record.event_uuid,
        "request": record.request_id,
        "came in": f"{utc(record.received_at)} UTC, by {record.source}",
        "next attempt": f"{utc(record.next_attempt_at)} UTC" if record.state == PENDING else None,
        "settled": f"{utc(record.settled_at)} UTC" if record.settled_at else None,
        "ticket": record.ticket_id,
    }
    for name, value in facts.items():
        if value is not None:
            _print_wrapped(f"{name:<13} ", str(value))
    _print_table(
        ("attempt", "at (UTC)", "took", "outcome", "status"),
        [(a.number, utc(a.at), f"{a.took_s * 1000:,.0f} ms", a.outcome, a.status) for a in tried],
        [" ".join(filter(None, (a.code, a.zendesk_request_id and f"request {a.zendesk_request_id}"))) for a in tried],
    )
    if missing := sorted(set(range(1, record.attempts + 1)) - {attempt.number for attempt in tried}):
        numbers = ", ".join(map(str, missing))
        _print_wrapped("", f"Attempts without a record: {numbers}. Under way now, or ended before the answer came.")
    click.echo()


def _print_table(names: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str | None]) -> None:
    """A table for a terminal of 80 columns: what may be long stands as a note under its row."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row, note in zip((names, *cells), (None, *notes), strict=True):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if note:
            _print_wrapped(" " * (widths[0] + 2), note)


def _print_wrapped(beginning: str, text: str) -> None:
    width = max(60, shutil.get_terminal_size().columns)
    indent = " " * len(beginning)
    click.echo(
        textwrap.fill(
            text,
            width,
            initial_indent=beginning,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _print_json(value: Any) -> None:
    click.get_current_context().meta["told"] = True
    click.echo(json.dumps(value, default=asdict, indent=2))


def _relay(log_to: Any = None) -> Relay:
    relay: Relay = current_app.extensions["relay"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 lacks emoji
    logfmt.configure(relay.config.log_level, relay.config.secrets, log_to or sys.stderr)
    return relay


def _attempt(step: Callable[[], Any]) -> Any:
    """The step's result; what goes wrong becomes one line for the person and exit code 1."""
    try:
        return step()
    except ServiceError as error:
        raise Failed(f"{error}. {checks.advice(error)}") from error
    except StoreUnavailable as error:
        said = str(error) if "; " in str(error) else f"{error}; {checks.CHECK_DATABASE}"
        raise Failed(f"Database: {said}.") from error


COMMANDS = (check, trace, deliver, purge, send_test, inbox, subscription)
