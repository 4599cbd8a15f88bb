"""The commands about our subscriptions in Khoros: all of them, or with --event those to one kind of event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

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
    names = wanted_names(relay, event)
    found = find_ours(relay, names)
    if as_json:
        print_json(found)
    for number, subscription in enumerate([] if as_json else found):
        click.echo("\n" * bool(number), nl=False)
        print_fields({name.replace("_", " "): value or "-" for name, value in asdict(subscription).items()})
    there = {relay.subscriptions.event_name_of(one) for one in found}
    if missing := [external_id(relay.config, name) for name in names if name not in there]:
        fail(f"Khoros has no subscription named {', '.join(missing)}. {WHEN_MADE}")


@command("pause", subscription_group)
@with_event
def pause_subscriptions(relay: Relay, event: str | None) -> None:
    """Pause them: events are not delivered until you resume."""
    names = wanted_names(relay, event)
    found = find_ours(relay, names)
    if not found:
        fail(f"Khoros has no subscription named {external_id(relay.config, names[0])}. {WHEN_MADE}")
    for subscription in found:
        set_status(relay, subscription, "PAUSED")
        click.echo(f"Paused {subscription.uuid} ({subscription.event_name}).")
    click.echo(f"Nothing is delivered from there until: flask --app app subscription resume{as_option(event)}")


@command("resume", subscription_group)
@with_event
def resume_subscriptions(relay: Relay, event: str | None) -> None:
    """Resume them after a pause, or make them again after a delete."""
    names = wanted_names(relay, event)
    found = find_ours(relay, names)
    for subscription in found:
        set_status(relay, subscription, "ACTIVE")
        click.echo(f"{subscription.uuid} ({subscription.event_name}) is active again.")
    there = {relay.subscriptions.event_name_of(one) for one in found}
    for name in names:
        if name not in there:
            click.echo(f"Khoros has no subscription named {external_id(relay.config, name)}.")
    relay.subscriptions.look_again(names)
    click.echo("The running service looks at it within a minute.")


@command("delete", subscription_group)
@with_event
@click.confirmation_option(prompt=CONFIRM_DELETE)
def delete_subscriptions(relay: Relay, event: str | None) -> None:
    """Delete them, when the service is shut down for good."""
    names = wanted_names(relay, event)
    found = find_ours(relay, names)
    relay.subscriptions.retire(names)  # first, or the service would make them again
    left = list(found)
    try:
        for subscription in found:
            relay.khoros.delete(subscription.uuid)
            left.remove(subscription)
            click.echo(f"Deleted {subscription.uuid} ({subscription.event_name}).")
    except ServiceError:
        relay.subscriptions.look_again({relay.subscriptions.event_name_of(one) for one in left})
        raise
    if not found:
        click.echo("Khoros had none of ours.")
    click.echo(f"The service makes no new one until: flask --app app subscription resume{as_option(event)}")


def wanted_names(relay: Relay, event: str | None) -> Sequence[str]:
    """The event names that a person means, of those that some route wants."""
    wanted = list(relay.subscriptions.statuses())
    if event is None:
        return wanted
    names = [name for name in wanted if name in EVENTS.get(event, ())]
    if not names:
        fail(f"no route wants the event {event}. See: flask --app app routing")
    return names


def find_ours(relay: Relay, names: Collection[str]) -> list[Subscription]:
    """Our subscriptions to these events as Khoros lists them."""
    listed = relay.khoros.subscriptions()
    return [one for one in listed if relay.subscriptions.event_name_of(one) in names]


def set_status(relay: Relay, subscription: Subscription, status: str) -> None:
    relay.khoros.set_status(subscription.uuid, status)
    relay.subscriptions.look_again([relay.subscriptions.event_name_of(subscription)])


def as_option(event: Any) -> str:
    return f" --event {event}" if event else ""
