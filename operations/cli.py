"""Commands for the people who run the service: `flask --app app COMMAND`.

Exit codes: 0 all is well, 1 something is not (the last line says what), 2 the command line is wrong. With `--json`
stdout is one JSON value, `{"error": …}` when the command has no other. Log lines go to stderr.
"""

from __future__ import annotations

import signal
import sys
import time
from datetime import UTC, datetime

import click

import log
from inbox.gate import OUTAGE, REFUSING, UNAUTHORISED
from inbox.schema import PENDING
from operations.checks import PROBLEM, Check, run_checks, why_it_waits
from operations.cli_inbox import inbox_group, trace_item
from operations.cli_output import command, fail, print_json, print_wrapped
from operations.cli_routes import list_routes, send_test
from operations.cli_subscription import subscription_group
from operations.health import count_posts
from operations.relay import Relay
from operations.retention import purge_items

FIRST_DAY = "The first day (UTC) that is kept."
REFUSES_ALL = (UNAUTHORISED, REFUSING)
STALLED_S = 90.0  # a rate limit stops everything for a minute


@command("check", has_json=True)
def check_deploy(relay: Relay, as_json: bool) -> None:
    """Test all that a deploy needs, and say what to do.

    Each credential, address and service in turn: ok, failed, or a note about what is unknown or will end.
    """
    checks: list[Check] = []
    for check in run_checks(relay):
        is_told = (check.found, check.to_do) in [(one.found, one.to_do) for one in checks if one.to_do]
        checks.append(check)
        if not as_json:
            print_wrapped(f"{check.result:<7} {check.name}: ", "the same" if is_told else check.found, indent=8)
            if check.to_do and not is_told:
                print_wrapped(f"{'':8}-> ", check.to_do)
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
    click.echo(f"{emptied:,} settled {'item was' if emptied == 1 else 'items were'} emptied of text and attempts.")


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
    """Delivers until nothing is left, no destination accepts us, a signal came, or nothing changed for `stalled_s`
    seconds."""
    left, working = relay.pending(), []
    for name, delivery in relay.deliveries.items() if left else ():
        delivery.check(despite_hold=True)
        if relay.inbox.gate(name)[0].state not in (OUTAGE, *REFUSES_ALL):
            delivery.start()
            working.append(name)
    ends_at = time.monotonic() + stalled_s
    while left and not relay.stopping and time.monotonic() < ends_at:
        if all(relay.inbox.gate(name)[0].state in REFUSES_ALL for name in working):
            break
        time.sleep(0.1)
        before, left = left, relay.pending()
        if left != before:
            ends_at = time.monotonic() + stalled_s
    if left := relay.pending():
        waiting = [one for one in relay.records.latest(PENDING) if one.destination in relay.deliveries]
        reason = why_it_waits(relay, waiting, "To go on: flask --app app deliver --once")
        fail(f"{count_posts(left, 'wait')} still. {reason}")
    parked = relay.inbox.counts().parked
    note = f" {parked:,} parked: flask --app app inbox list" if parked else ""
    click.echo(f"Nothing is left to deliver.{note}")


COMMANDS = (
    check_deploy,
    list_routes,
    send_test,
    trace_item,
    deliver_items,
    purge_by_date,
    inbox_group,
    subscription_group,
)
