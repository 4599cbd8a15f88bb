"""Commands for the people who run the service: `flask --app app COMMAND`.

Exit codes: 0 all is well, 1 something is not (the last line says what), 2 the command's words are wrong. `--json` is
for programs. What a command logs goes to stderr.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
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
from gate import OPEN
from khoros_client import EVENT_NAME, Subscription
from outbound import ServiceError
from records import STATES, AttemptRecord, Record, span, utc
from store import DELIVERED, PARKED, PENDING, StoreUnavailable
from upkeep import purge as purge_inbox

if TYPE_CHECKING:
    from app import Relay

SURE = "No label will make a ticket any more. Delete the subscription in Khoros?"
LOST = "They make no ticket and their text is gone. Discard them?"
TEST_TEXT = "This is a test of the Khoros to Zendesk relay (flask --app app send-test). You can delete this ticket."
STALLED_S = 30.0
LONG = 20  # posts from which on a progress bar is worth it

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
subscription = AppGroup("subscription", help="Show, pause, resume or delete the subscription in Khoros.")
inbox = AppGroup("inbox", help="List and show what came in; send parked posts again, or discard them.")


# The whole


@click.command()
@as_json
@with_appcontext
def check(as_json: bool) -> None:
    """Test every credential, address and service, and say what to do about each failure."""
    found = []
    for result in checks.run(_relay()):
        found.append(result)
        if not as_json:
            click.echo(f"{result.result:<7} {result.name:<22} {result.found}")
            if result.to_do:
                click.echo(f"{'':<7} {'':<22} -> {result.to_do}")
    if as_json:
        _print_json(found)
    failed = [result.name for result in found if result.result == checks.FAILED]
    if failed:
        raise click.ClickException(f"not well: {', '.join(failed)}")


@click.command()
@click.argument("name", metavar="ID")
@as_json
@with_appcontext
def trace(name: str, as_json: bool) -> None:
    """Tell all that is known of one event, post, ticket or item, with every attempt and its answer."""
    relay = _relay()
    found = _attempt(lambda: relay.records.find(name))
    tried = _attempt(lambda: relay.records.attempts(record.id for record in found))
    if as_json:
        _print_json([{**asdict(r), "tried": [asdict(a) for a in tried if a.item_id == r.id]} for r in found])
    else:
        for record in found:
            _print_record(record, [attempt for attempt in tried if attempt.item_id == record.id])
    if not found:
        raise click.ClickException(f"nothing is known of {name}: neither an event, a post, a ticket nor an item")


@click.command()
@click.option("--once", is_flag=True, help="End when nothing is left to deliver.")
@with_appcontext
def deliver(once: bool) -> None:
    """Deliver what waits, as a process of its own beside the web service, until it is told to end."""
    relay = _relay(log_to=sys.stderr if once else sys.stdout)
    if once:
        return _deliver_once(relay)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    relay.delivery.start()
    while not ended.wait(5):
        _attempt(relay.inbox.save_tally)
    relay.stop()


@click.command()
@click.option("--before", type=click.DateTime(["%Y-%m-%d"]), required=True, help="The first day (UTC) that is kept.")
@with_appcontext
def purge(before: datetime) -> None:
    """Empty posts that were delivered before a day of their text. Ids and ticket numbers stay."""
    relay = _relay()
    age_s = _attempt(relay.inbox.now) - before.replace(tzinfo=UTC).timestamp()
    emptied = _attempt(lambda: purge_inbox(relay.inbox, age_s))
    click.echo(f"{emptied:,} delivered posts were emptied of their text.")


@click.command("send-test")
@click.option("--wait", "wait_s", type=click.IntRange(1, 600), default=30, show_default=True, help="Seconds to wait.")
@as_json
@with_appcontext
def send_test(wait_s: int, as_json: bool) -> None:
    """Put a marked test post through the whole path, and say what became of it. It makes a real ticket."""
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
        raise click.ClickException(f"parked: {record.reason}. To try again: flask --app app inbox retry {record.id}")
    if record.state == PENDING:
        gate, _ = _attempt(relay.inbox.gate)
        said = gate.reason or "does a service run? Without one: flask --app app deliver --once"
        raise click.ClickException(f"taken {way}, but it still waits after {wait_s} s; Zendesk: {gate.state}; {said}")


def _deliver_once(relay: Relay) -> None:
    left = _attempt(relay.inbox.counts).pending
    relay.delivery.start()
    stalled_at = time.monotonic() + STALLED_S
    with click.progressbar(length=left, label=f"Delivering {left:,} posts", hidden=left < LONG, file=sys.stderr) as bar:
        while left and time.monotonic() < stalled_at and _attempt(relay.inbox.gate)[0].state == OPEN:
            time.sleep(0.1)
            now_left = _attempt(relay.inbox.counts).pending
            if now_left != left:
                bar.update(max(0, left - now_left))
                left, stalled_at = now_left, time.monotonic() + STALLED_S
    relay.stop()
    if left:
        gate, held_s = _attempt(relay.inbox.gate)
        said = f"Zendesk: {gate.state}, {gate.reason}" if gate.state != OPEN else "they are tried again later"
        raise click.ClickException(f"{left:,} still wait ({said})")
    click.echo("Nothing is left to deliver.")


def _hand_in(relay: Relay, event_uuid: str) -> str:
    """Sends a notification as Khoros would, over the public address; without one, through the inbox's own door."""
    item = {"entityId": f"relay-test:{event_uuid}", "text": TEST_TEXT, "author": "Relay test"}
    event = {"eventName": EVENT_NAME, "eventUuid": event_uuid, "data": {"labels": [], "items": [item]}}
    address = relay.subscriber.public_url()
    if relay.config.polling or not address:
        relay.intake.take(event, source="push")
        return "straight into the inbox, as no public address is known"
    status = checks.notify(relay, address, event)
    if status != 202:
        raise click.ClickException(f"{address} answered {status} instead of 202. See: flask --app app check")
    return f"over {address}"


def _wait_for(relay: Relay, event_uuid: str, end_at: float) -> Record:
    while True:
        found = relay.records.find(event_uuid)
        if found and (found[0].state != PENDING or time.monotonic() > end_at):
            return found[0]
        if time.monotonic() > end_at:
            raise click.ClickException(
                "the address took it, but it is not in this database: the service there has another DATABASE_URL"
            )
        time.sleep(0.05)


# The inbox


@inbox.command("list")
@click.option("--state", type=click.Choice([*STATES, "all"]), default=PARKED, show_default=True)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The newest so many.")
@as_json
def list_items(state: str, limit: int, as_json: bool) -> None:
    """List what is parked: refused by Zendesk, or not readable. Or what is in another state."""
    relay = _relay()
    found = _attempt(lambda: relay.records.latest(None if state == "all" else state, limit))
    if as_json:
        return _print_json(found)
    now = _attempt(relay.inbox.now)
    rows = [
        (r.id, r.state, span(now - r.received_at), r.attempts, r.entity_id or None, r.ticket_id, r.reason)
        for r in found
    ]
    _print_table(("item", "state", "age", "attempts", "post", "ticket", "reason"), rows)
    more = " Send again with: flask --app app inbox retry ITEM" if found and state == PARKED else ""
    click.echo(f"{len(found)} {state if state != 'all' else 'in all'}.{more}")


@inbox.command()
@click.argument("item_id", metavar="ITEM", type=int)
@click.option("--payload", is_flag=True, help="Also what Khoros sent, with the customer's text.")
@as_json
def show(item_id: int, payload: bool, as_json: bool) -> None:
    """Show one item with every attempt."""
    relay = _relay()
    record = _attempt(lambda: relay.records.item(item_id))
    if record is None:
        raise click.ClickException(f"there is no item {item_id}: see inbox list --state all")
    tried = _attempt(lambda: relay.records.attempts([item_id]))
    sent = _attempt(lambda: relay.records.payload(item_id)) if payload else None
    if as_json:
        with_payload = {"payload": sent} if payload else {}
        return _print_json({**asdict(record), "tried": [asdict(a) for a in tried], **with_payload})
    _print_record(record, tried)
    if payload:
        click.echo(json.dumps(sent, indent=2, ensure_ascii=False) if sent else "Its text is no longer kept.")


@inbox.command()
@click.argument("ids", metavar="ITEM...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are parked.")
def retry(ids: tuple[int, ...], everything: bool) -> None:
    """Send parked items again, when what Zendesk refused them for is mended."""
    relay = _relay()
    ids = _parked_ids(relay) if everything else ids
    if not ids and not everything:
        raise click.UsageError("Name the items, or say --all.")
    sent = _attempt(lambda: relay.inbox.retry(ids))
    click.echo(f"{sent} of {len(ids)} wait to be sent again; the running service takes them within a second.")
    if sent < len(ids):
        raise click.ClickException("the others are not parked, or were never readable: see inbox list")


@inbox.command()
@click.argument("ids", metavar="ITEM...", type=int, nargs=-1, required=True)
@click.confirmation_option(prompt=LOST)
def discard(ids: tuple[int, ...]) -> None:
    """Give parked items up for good: they make no ticket, and their text is emptied."""
    relay = _relay()
    gone = _attempt(lambda: relay.inbox.discard(ids))
    click.echo(f"{gone} of {len(ids)} discarded.")
    if gone < len(ids):
        raise click.ClickException("the others are not parked: see inbox list")


def _parked_ids(relay: Relay) -> tuple[int, ...]:
    parked = _attempt(lambda: relay.records.latest(PARKED, 10_000))
    return tuple(record.id for record in parked if record.entity_id)


# The subscription


@subscription.command("show")
@as_json
def show_subscription(as_json: bool) -> None:
    """Show the subscription as Khoros holds it."""
    held = _held()
    if as_json:
        return _print_json(held)
    for name, value in asdict(held).items():
        click.echo(f"{name.replace('_', ' '):<17} {value or '-'}")


@subscription.command()
def pause() -> None:
    """Pause it: labels make no tickets until you resume."""
    held = _held()
    _attempt(lambda: _relay().khoros.set_status(held.uuid, "PAUSED"))
    _attempt(_relay().subscriber.look_again)
    click.echo(f"Paused {held.uuid}. Labels make no tickets until: flask --app app subscription resume")


@subscription.command()
def resume() -> None:
    """Resume it after a pause, or have it made again after a delete."""
    relay = _relay()
    if held := _first():
        _attempt(lambda: relay.khoros.set_status(held.uuid, "ACTIVE"))
    _attempt(relay.subscriber.look_again)
    said = f"{held.uuid} is active again." if held else "Khoros has no subscription of ours."
    click.echo(f"{said} The running service looks at it within a minute.")


@subscription.command()
@click.confirmation_option(prompt=SURE)
def delete() -> None:
    """Delete it, when the service is shut down for good."""
    relay, held = _relay(), _first()
    _attempt(relay.subscriber.retire)
    try:
        if held:
            relay.khoros.delete(held.uuid)
    except ServiceError as error:
        _attempt(relay.subscriber.look_again)
        raise click.ClickException(f"{error}. Nothing was deleted.") from error
    said = f"Deleted {held.uuid}." if held else "Khoros had none of ours."
    click.echo(f"{said} The service makes no new one until: flask --app app subscription resume")


def _first() -> Subscription | None:
    relay = _relay()
    ours = _attempt(lambda: relay.subscriber.ours(relay.khoros.subscriptions()))
    return ours[0] if ours else None


def _held() -> Subscription:
    if held := _first():
        return held
    name = _relay().config.external_id
    raise click.ClickException(
        f"Khoros has no subscription named {name}. A running service makes it within the hour; "
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
            click.echo(f"{name:<13} {value}")
    rows = [
        (a.number, utc(a.at), f"{a.took_s * 1000:,.0f} ms", a.outcome, a.status, a.code, a.zendesk_request_id)
        for a in tried
    ]
    _print_table(("attempt", "at (UTC)", "took", "outcome", "status", "code", "Zendesk's request id"), rows)
    if missing := sorted(set(range(1, record.attempts + 1)) - {attempt.number for attempt in tried}):
        numbers = ", ".join(map(str, missing))
        click.echo(f"Attempts without a record: {numbers}. Under way now, or the process ended before the answer.")
    click.echo()


def _print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row in (names, *cells):
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, default=asdict, indent=2))


def _relay(log_to: Any = None) -> Relay:
    relay: Relay = current_app.extensions["relay"]
    logfmt.configure(relay.config.log_level, relay.config.secrets, log_to or sys.stderr)
    return relay


def _attempt(step: Callable[[], Any]) -> Any:
    """The step's result; what goes wrong becomes one line for the person and exit code 1."""
    try:
        return step()
    except ServiceError as error:
        raise click.ClickException(f"{error}.") from error
    except StoreUnavailable as error:
        raise click.ClickException(f"The database is not to be had ({error}): check DATABASE_URL.") from error


COMMANDS = (check, trace, deliver, purge, send_test, inbox, subscription)
