"""The commands about our subscriptions in Khoros: all of them, or with --event those to one kind of event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import click

from destinations.route import EVENTS
from khoros.subscription import external_id
from khoros_client import Subscription
from operations.cli_output import command, fail, print_fields, print_json
from operations.relay import Relay
from outbound import ServiceError

CONFIRM_DELETE = "Their events will not be delivered any more. Delete the subscriptions in Khoros?"
WHEN_MADE = "A running service makes it within the hour; after a delete: flask --app app subscription resume"
ONE_EVENT = "Only this one: label, rule, published … as in ROUTES, or Khoros' own name of the event."


@click.group("subscription")
def subscription_group() -> None:
    """Show, pause, resume or delete the subscriptions."""


def with_event(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the option --event."""
    return click.option("--event", metavar="NAME", help=ONE_EVENT)(function)


@command("show", subscription_group, has_json=True)
@with_event
def show_subscriptions(relay: Relay, event: str | None, as_json: bool) -> None:
    """Show the subscriptions as Khoros has them."""
    ours = find_ours(relay, event)
    found = sum(ours.values(), [])
    if as_json:
        print_json(found)
    for number, subscription in enumerate([] if as_json else found):
        click.echo("\n" * bool(number), nl=False)
        print_fields({name.replace("_", " "): value or "-" for name, value in asdict(subscription).items()})
    if missing := [external_id(relay.config, name) for name, listed in ours.items() if not listed]:
        fail(f"Khoros has no subscription named {', '.join(missing)}. {WHEN_MADE}")


@command("pause", subscription_group)
@with_event
def pause_subscriptions(relay: Relay, event: str | None) -> None:
    """Pause them: events are not delivered until you resume."""
    ours = find_ours(relay, event)
    if not any(ours.values()):
        fail(f"Khoros has no subscription named {external_id(relay.config, next(iter(ours)))}. {WHEN_MADE}")
    set_status(relay, ours, "PAUSED", "is paused")
    click.echo(f"Nothing is delivered from there until: flask --app app subscription resume{as_option(event)}")


@command("resume", subscription_group)
@with_event
def resume_subscriptions(relay: Relay, event: str | None) -> None:
    """Resume them after a pause, or make them again after a delete."""
    ours = find_ours(relay, event)
    set_status(relay, ours, "ACTIVE", "is active again")
    for name in (name for name, listed in ours.items() if not listed):
        click.echo(f"Khoros has no subscription named {external_id(relay.config, name)}.")
    relay.subscriptions.look_again(ours)
    click.echo("The running service looks at it within a minute.")


@command("delete", subscription_group)
@with_event
@click.confirmation_option(prompt=CONFIRM_DELETE)
def delete_subscriptions(relay: Relay, event: str | None) -> None:
    """Delete them, when the service is shut down for good."""
    ours = find_ours(relay, event)
    relay.subscriptions.retire(ours)  # first, or the service would make them again
    left = [(name, one) for name, listed in ours.items() for one in listed]
    if not left:
        click.echo("Khoros had none of ours.")
    try:
        while left:
            relay.khoros.delete(left[0][1].uuid)
            _, deleted = left.pop(0)
            click.echo(f"{deleted.uuid} ({deleted.event_name}) is deleted.")
    except ServiceError:
        relay.subscriptions.look_again({name for name, _ in left})
        raise
    click.echo(f"The service makes no new one until: flask --app app subscription resume{as_option(event)}")


def find_ours(relay: Relay, event: str | None) -> dict[str, list[Subscription]]:
    """Our subscriptions as Khoros lists them, by the names of those events that some route wants and a person means."""
    wanted = relay.subscriptions.statuses()
    ours: dict[str, list[Subscription]] = {
        name: [] for name in wanted if event is None or name in EVENTS.get(event, ())
    }
    if not ours:
        fail(f"no route wants the event {event}. See: flask --app app routing")
    for listed in relay.khoros.subscriptions():
        ours.get(relay.subscriptions.event_name_of(listed), []).append(listed)
    return ours


def set_status(relay: Relay, ours: Mapping[str, Sequence[Subscription]], status: str, done: str) -> None:
    """Sets the status of all of them."""
    for name, listed in ours.items():
        for one in listed:
            relay.khoros.set_status(one.uuid, status)
            relay.subscriptions.look_again([name])
            click.echo(f"{one.uuid} ({one.event_name}) {done}.")


def as_option(event: str | None) -> str:
    return f" --event {event}" if event else ""
