"""The commands about items: `inbox list|show|retry|discard` and `trace`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import click

from inbox.records import STATES, Record, span, utc
from inbox.schema import DELIVERED, DISCARDED, PARKED, PENDING
from operations.cli_output import command, fail, print_fields, print_json, print_table, print_wrapped
from operations.pages import STATE_WORDS, readable, reference_words
from operations.relay import Relay

ITEM_ID = click.IntRange(1, 10**18)
CONDITIONS = {  # why nothing more can be done with an item, by its state
    None: "does not exist",
    DELIVERED: "is delivered already",
    DISCARDED: "was given up",
    PENDING: "is being sent right now: try again in a moment",
    PARKED: "cannot be sent: nobody can read it, or its text is no longer kept",
}
CONFIRM_DISCARD = "What waits or needs attention here is never delivered and its text is deleted. Discard it?"


@click.group("inbox")
def inbox_group() -> None:
    """See what arrived; retry it, or discard it."""


@command("list", inbox_group, has_json=True)
@click.option("--state", type=click.Choice([*STATES, "all"]), default=PARKED, show_default=True)
@click.option("--destination", metavar="NAME", help="Only for this one, like zendesk or slack:#crisis.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The newest ones.")
def list_items(relay: Relay, state: str, destination: str | None, limit: int, as_json: bool) -> None:
    """List what is parked, or in another state.

    A parked item needs attention: its destination refused it, or nobody could read it.
    """
    found = relay.records.latest(None if state == "all" else state, limit, destination)
    if as_json:
        return print_json(found)
    print_items(relay, found)
    more = " There may be more: --limit." if len(found) == limit else ""
    if found and state == PARKED:
        more += " Send again, or give up what is not readable: flask --app app inbox retry|discard ITEM"
    click.echo(f"{len(found)} {state if state != 'all' else 'in all'}.{more}")


@command("show", inbox_group, has_json=True)
@click.argument("item_id", metavar="ITEM", type=ITEM_ID)
@click.option("--payload", is_flag=True, help="Also what Khoros sent, with the customer's text.")
def show_item(relay: Relay, item_id: int, payload: bool, as_json: bool) -> None:
    """Show one item with every attempt."""
    record = relay.records.item(item_id)
    if record is None:
        fail(f"there is no item {item_id}: see inbox list --state all")
    sent = {"payload": relay.records.payload(item_id)} if payload else {}
    if as_json:
        return print_json({**with_attempts(relay, record), **sent})
    print_record(relay, record)
    if payload:
        click.echo(readable(sent["payload"]) if sent["payload"] else "Its text is no longer kept.")


@command("retry", inbox_group)
@click.argument("ids", metavar="ITEM...", type=ITEM_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All parked items.")
def retry_items(relay: Relay, ids: tuple[int, ...], everything: bool) -> None:
    """Send items again, once the cause is repaired.

    Parked ones are put back; pending ones no longer wait for their next attempt.
    """
    if not ids and not everything:
        raise click.UsageError("Name the items, or say --all.")
    if everything:
        return click.echo(f"Sent again by the running service: {relay.inbox.retry() or 'no parked item'}.")
    do_each(relay, ids, relay.inbox.retry, "is sent again by the running service")


@command("discard", inbox_group)
@click.argument("ids", metavar="ITEM...", type=ITEM_ID, nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard_items(relay: Relay, ids: tuple[int, ...], yes: bool) -> None:
    """Give parked or pending items up for good, and delete their text."""
    found = [record for record in map(relay.records.item, dict.fromkeys(ids)) if record]
    if not yes and any(record.state in (PARKED, PENDING) for record in found):
        print_items(relay, found)
        click.confirm(CONFIRM_DISCARD, abort=True)
    do_each(relay, ids, relay.inbox.discard, "is given up")


def do_each(relay: Relay, ids: Sequence[int], do: Callable[[list[int]], int], done: str) -> None:
    """Does this with each item, and fails with what the others are."""
    others = []
    for item_id in dict.fromkeys(ids):
        if do([item_id]):
            click.echo(f"Item {item_id} {done}.")
        else:
            record = relay.records.item(item_id)
            what = f": {became(relay, record)}" if record and record.reference else ""
            others.append(f"item {item_id} {CONDITIONS[record.state if record else None]}{what}")
    if others:
        fail("; ".join(others))


@command("trace", has_json=True)
@click.argument("name", metavar="ID")
def trace_item(relay: Relay, name: str, as_json: bool) -> None:
    """Show all that is known of an event, post or ticket.

    ID is an event's uuid, a post's id, a ticket's number or an item's. Every attempt is shown with its answer.
    """
    found = relay.records.find(name)
    if as_json:
        print_json([with_attempts(relay, record) for record in found])
    for record in [] if as_json else found:
        print_record(relay, record)
    if not found:
        fail(f"nothing is known of {name}: no event, post, ticket or item has this name")


def print_items(relay: Relay, found: Sequence[Record]) -> None:
    """A table of items, for a person."""
    now = relay.inbox.now()
    print_table(
        ("item", "state", "age", "attempts", "became", "post"),
        [
            (r.id, STATE_WORDS[r.state], span(now - r.received_at), r.attempts, became(relay, r), r.subject_id or None)
            for r in found
        ],
        [note_of(relay, record) for record in found],
    )


def note_of(relay: Relay, record: Record) -> str | None:
    """What stands below an item in a list: its destination, when there are several, and its reason."""
    several = len(relay.deliveries) > 1 or record.destination not in relay.deliveries
    notes = (record.destination if several else None, record.reason)
    return ". ".join(filter(None, notes)) or None


def became(relay: Relay, record: Record) -> str | None:
    """What a delivered item is at its destination: ticket #1042, message."""
    words = reference_words(record, relay.noun(record)) if record.reference else None
    return words and words[0].lower() + words[1:]


def with_attempts(relay: Relay, record: Record) -> dict[str, object]:
    """A record and its attempts, for a program."""
    return {**asdict(record), "tried": relay.records.attempts([record.id])}


def print_record(relay: Relay, record: Record) -> None:
    """A record and its attempts, for a person."""
    state = record.reference_state or ""
    fields = {
        "item": record.id,
        "state": STATE_WORDS[record.state] + (f" ({record.state})" if record.state != DELIVERED else ""),
        "reason": record.reason,
        "post": record.subject_id or "not readable",
        "link": record.link,
        "event": record.event_uuid,
        "request": record.request_id,
        "arrived": f"{utc(record.received_at)} UTC, by {record.source}",
        "next attempt": f"{utc(record.next_attempt_at)} UTC" if record.state == PENDING else None,
        "settled": f"{utc(record.settled_at)} UTC" if record.settled_at else None,
        "destination": record.destination or None,
        relay.noun(record): record.reference and f"{record.reference}{state and f', {state}'}",
    }
    print_fields(fields)
    attempts = relay.records.attempts([record.id])
    print_table(
        ("attempt", "at (UTC)", "took", "outcome", "status"),
        [(one.number, utc(one.at), f"{one.took_s * 1000:,.0f} ms", one.outcome, one.status) for one in attempts],
        [" ".join(filter(None, (one.code, one.request_id and f"request {one.request_id}"))) for one in attempts],
    )
    if missing := sorted(set(range(1, record.attempts + 1)) - {attempt.number for attempt in attempts}):
        numbers = ", ".join(map(str, missing))
        print_wrapped("", f"Attempts without a record: {numbers}. Under way now, or ended before the answer came.")
    click.echo()
