"""Commands for the people who run the service: `flask --app app COMMAND`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from khoros_client import Subscription
from outbound import ServiceError
from store import PARKED, StoreUnavailable

subscription = AppGroup("subscription", help="Show, pause, resume or delete the subscription in Khoros.")
inbox = AppGroup("inbox", help="List what is parked, and send it again.")
SURE = "No label will make a ticket any more. Delete the subscription in Khoros?"


@subscription.command()
def show() -> None:
    """Show the subscription as Khoros holds it."""
    for name, value in vars(_held()).items():
        click.echo(f"{name.replace('_', ' '):<17} {value or '-'}")


@subscription.command()
def pause() -> None:
    """Pause it: labels make no tickets until you resume."""
    held = _held()
    _attempt(lambda: current_app.extensions["relay"].khoros.set_status(held.uuid, "PAUSED"))
    _attempt(current_app.extensions["relay"].subscriber.look_again)
    click.echo(f"Paused {held.uuid}. Labels make no tickets until: flask --app app subscription resume")


@subscription.command()
def resume() -> None:
    """Resume it after a pause, or have it made again after a delete."""
    relay = current_app.extensions["relay"]
    if held := _first():
        _attempt(lambda: relay.khoros.set_status(held.uuid, "ACTIVE"))
    _attempt(relay.subscriber.look_again)
    said = f"{held.uuid} is active again." if held else "Khoros has no subscription of ours."
    click.echo(f"{said} The running service looks at it within a minute.")


@subscription.command()
@click.confirmation_option(prompt=SURE)
def delete() -> None:
    """Delete it, when the service is shut down for good."""
    relay, held = current_app.extensions["relay"], _first()
    _attempt(relay.subscriber.retire)
    try:
        if held:
            relay.khoros.delete(held.uuid)
    except ServiceError as error:
        _attempt(relay.subscriber.look_again)
        raise click.ClickException(f"{error}. Nothing was deleted.") from error
    said = f"Deleted {held.uuid}." if held else "Khoros had none of ours."
    click.echo(f"{said} The service makes no new one until: flask --app app subscription resume")


@inbox.command("list")
def list_parked() -> None:
    """List what is parked: refused by Zendesk, or not readable."""
    relay = current_app.extensions["relay"]
    parked, now = _attempt(lambda: relay.records.latest(PARKED)), _attempt(relay.inbox.now)
    for item in parked:
        age_h = (now - item.received_at) / 3600
        click.echo(f"{item.id:>8}  {age_h:6.1f} h  {item.entity_id or '-':<32}  {item.reason}")
    click.echo(f"{len(parked)} parked." + (" Send again with: inbox retry ID" if parked else ""))


@inbox.command()
@click.argument("ids", type=int, nargs=-1, required=True)
def retry(ids: tuple[int, ...]) -> None:
    """Send parked items again, when what Zendesk refused them for is mended."""
    sent = _attempt(lambda: current_app.extensions["relay"].inbox.retry(ids))
    click.echo(f"{sent} of {len(ids)} wait to be sent again; the running service takes them within a second.")
    if sent < len(ids):
        raise click.ClickException("the others are not parked, or were never readable: see inbox list")


def _first() -> Subscription | None:
    relay = current_app.extensions["relay"]
    ours = _attempt(lambda: relay.subscriber.ours(relay.khoros.subscriptions()))
    return ours[0] if ours else None


def _held() -> Subscription:
    if held := _first():
        return held
    name = current_app.extensions["relay"].config.external_id
    raise click.ClickException(
        f"Khoros has no subscription named {name}. A running service makes it within the hour; "
        "after a delete only when you say: flask --app app subscription resume"
    )


def _attempt(step: Callable[[], Any]) -> Any:
    """The step's result; what goes wrong becomes one line for the person and exit code 1."""
    try:
        return step()
    except ServiceError as error:
        raise click.ClickException(f"{error}.") from error
    except StoreUnavailable as error:
        raise click.ClickException(f"The database is not to be had ({error}): check DATABASE_URL.") from error
