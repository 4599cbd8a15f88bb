"""`python -m sandbox`: the relay between a simulated Khoros and a simulated Zendesk, Slack and receiver of webhooks, on
this machine. No account is needed."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import requests

from sandbox.buttons import ANN, CHANNEL, CRISIS, RULE
from sandbox.demo import DemoPage
from sandbox.khoros import FakeKhoros
from sandbox.loglines import is_noise
from sandbox.posts import network_of
from sandbox.receiver import HOOK_PATH, FakeReceiver
from sandbox.relay import Relay, RelayFailed, free_port
from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk

LABEL = "CreateCase"
ROUTES = """
label CreateCase -> slack #{channel}
rule {rule} -> slack #{crisis}
published -> slack {ann}
sent FACEBOOK -> webhook {hook}
"""  # beside the label of SPREDFAST_LABEL_NAME, which leads to Zendesk
EVENTS = 4  # event names that the relay subscribes to
POSTS = 3
PATIENCE_S = 30.0
WINDOW_S = 10  # the simulated Zendesk counts calls in windows of 10 s instead of a minute: a demo is short

STATUS_PASSWORD = "demo-status-page"  # the demo's page shows it; only this machine can reach the page


@dataclass(frozen=True)
class Demo:
    """Khoros, the relay and its destinations, running, and the page that shows them."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    slack: FakeSlack
    receiver: FakeReceiver
    relay: Relay
    page: DemoPage
    url: str  # of the page


def main() -> int:
    """Runs the demo. Returns the exit status: 0 when all went well."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="The relay between a simulated Khoros, Zendesk, Slack and webhook receiver.",
    )
    parser.add_argument("--once", action="store_true", help="label three posts, print what became of them and stop")
    once: bool = parser.parse_args().once
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        say("Starting the relay between a simulated Khoros, Zendesk, Slack and webhook receiver …")
        with ExitStack() as stack:
            demo = start(stack, any_port=once, echo=None if once else print_log_line)
            return run_once(demo, stopped) if once else run(demo, stopped)
    except RelayFailed as failure:
        say(str(failure))
        return 1


def start(stack: ExitStack, *, any_port: bool, echo: Callable[[str], None] | None) -> Demo:
    """Starts Khoros, Zendesk, Slack, the receiver, the relay and the page. `stack` stops them again."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-")))
    khoros = FakeKhoros(token=secrets.token_hex(16), label_name=LABEL)
    zendesk = FakeZendesk(client_secret=secrets.token_hex(16), user_email="", window_s=WINDOW_S)
    slack, receiver = FakeSlack(bot_token=f"xoxb-{secrets.token_hex(16)}"), FakeReceiver()
    stack.callback(khoros.close)
    for faults in (zendesk.faults, slack.faults, receiver.faults):
        stack.callback(faults.clear)
    inbox = stack.enter_context(Server(khoros.app, 0 if any_port else free_port(8001)))
    tickets = stack.enter_context(Server(zendesk.app, 0 if any_port else free_port(8002)))
    channels = stack.enter_context(Server(slack.app, 0 if any_port else free_port(8003)))
    hooks = stack.enter_context(Server(receiver.app, 0 if any_port else free_port(8004)))
    khoros.zendesk_page_url, zendesk.inbox_page_url = tickets.url, inbox.url
    relay = Relay(env={}, port=0 if any_port else free_port(8000), echo=echo)
    relay.env = {
        **settings(khoros, zendesk, inbox.url, tickets.url, relay.url, folder),
        "ROUTES": ROUTES.format(channel=CHANNEL, crisis=CRISIS, rule=RULE, ann=ANN, hook=hooks.url + HOOK_PATH),
        "SLACK_API_URL": f"{channels.url}/api",
        "SLACK_BOT_TOKEN": slack.bot_token,
        "WEBHOOK_SECRET": receiver.secret,
    }
    stack.callback(relay.stop)
    page = DemoPage(khoros, zendesk, slack, receiver, relay)
    stack.callback(page.close)
    shown = stack.enter_context(Server(page.app, 0 if any_port else free_port(8080)))
    relay.start().wait_ready()
    if echo:
        say(f"\n  Open  {shown.url}\n")
        say(f"  Each part alone: Khoros {inbox.url}, Zendesk {tickets.url}, Slack {channels.url},")
        say(f"  webhooks {hooks.url}, the relay {relay.url}")
        say("  Ctrl-C ends the demo. The relay's log follows.\n")
    return Demo(khoros, zendesk, slack, receiver, relay, page, shown.url)


def settings(
    khoros: FakeKhoros, zendesk: FakeZendesk, khoros_url: str, zendesk_url: str, relay_url: str, folder: Path
) -> dict[str, str]:
    """The relay's settings for these two services, with its database in `folder`."""
    return {
        "SPREDFAST_API_TOKEN": khoros.token,
        "SPREDFAST_COMPANY_ID": str(khoros.company_id),
        "SPREDFAST_LABEL_NAME": khoros.label_name,
        "KHOROS_API_URL": f"{khoros_url}/v2",
        "ZENDESK_API_URL": zendesk_url,
        "ZENDESK_CLIENT_ID": zendesk.client_id,
        "ZENDESK_CLIENT_SECRET": zendesk.client_secret,
        "NOTIFICATION_BEARER_TOKEN": secrets.token_hex(32),
        "PUBLIC_URL": relay_url,
        "STATUS_PASSWORD": STATUS_PASSWORD,
        "DATABASE_URL": f"sqlite:///{folder / 'relay.db'}",
    }


def run(demo: Demo, stopped: threading.Event) -> int:
    """Runs until somebody stops it, or until the relay ends although nobody killed it from the page."""
    while not stopped.wait(0.2):
        if not demo.relay.running and not demo.page.killed:
            say("The relay has stopped.")
            return 1
    say("Stopping.")
    return 0


def run_once(demo: Demo, stopped: threading.Event) -> int:
    """Labels three posts, sends the event of one twice, lets Facebook take a message, and prints what became of them.
    Returns 1 when a ticket, a line in Slack or the webhook is missing."""
    khoros, zendesk = demo.khoros, demo.zendesk
    end_at = time.monotonic() + PATIENCE_S

    def wait_for(what: str, reached: Callable[[], bool]) -> bool:
        while not reached():
            if stopped.wait(0.02) or time.monotonic() > end_at or not demo.relay.running:
                say(f"Missing: {what}. The relay's last lines:\n{demo.relay.last_lines(30)}")
                return False
        return True

    if not wait_for("the relay's subscriptions", lambda: len(khoros.subscriptions) == EVENTS):
        return 1
    labelled = label_posts(khoros)
    khoros.send_to_network("FACEBOOK")
    if not wait_for(f"{POSTS} tickets", lambda: labelled.keys() <= {ticket.external_id for ticket in zendesk.tickets}):
        return report(demo, labelled)
    if not wait_for("the end of the relay's work", lambda: khoros.drain(0) and pending(demo.relay) == 0):
        return 1
    return report(demo, labelled)


def label_posts(khoros: FakeKhoros) -> dict[str, float]:
    """Labels the first posts of the inbox and sends the first event twice. Returns the time of each label, by post."""
    labelled: dict[str, float] = {}
    for post_id in list(khoros.posts)[:POSTS]:
        labelled[post_id] = time.time()
        events = khoros.label(post_id, LABEL)
        for event_uuid in events if len(labelled) == 1 else []:
            khoros.repeat(event_uuid)
    return labelled


def pending(relay: Relay) -> int | None:
    """The number of items that the relay has yet to deliver, from its /health. None when it does not answer."""
    try:
        number = requests.get(f"{relay.url}/health", timeout=5).json().get("pending")
    except (requests.RequestException, ValueError):
        return None
    return number if isinstance(number, int) else None


def report(demo: Demo, labelled: dict[str, float]) -> int:
    """Prints the ticket of each post, and totals. Returns 0 when every post has exactly one ticket and one message in
    Slack, and the webhook has come."""
    made = {post_id: [t for t in demo.zendesk.tickets if t.external_id == post_id] for post_id in labelled}
    for post_id, tickets in made.items():
        whose = f"{demo.khoros.posts[post_id]['author']}'s post on {network_of(post_id)}"
        took = [f"ticket #{one.id} in {(one.created_at - labelled[post_id]) * 1000:.0f} ms" for one in tickets]
        say(f"  {whose:36} → {', '.join(took) or 'no ticket'}")
    lost = sum(not tickets for tickets in made.values())
    twice = sum(len(tickets) > 1 for tickets in made.values())
    say(f"\n{len(labelled)} posts labelled, {len(demo.zendesk.tickets)} tickets, {lost} lost, {twice} twice")
    messages, webhooks = len(demo.slack.messages_in(CHANNEL)), len(demo.receiver.taken)
    say("(Khoros sent the event of the first post twice.)")
    say(f"Slack #{CHANNEL}: {messages} messages")
    say(f"Webhook: {webhooks} of 1 received, signature verified")
    return 0 if not lost and not twice and messages == len(labelled) and webhooks == 1 else 1


def say(line: str) -> None:
    print(line, flush=True)


def print_log_line(line: str) -> None:
    """Prints a line of the relay's log, without the server's own lines."""
    if not is_noise(line):
        say(line)


if __name__ == "__main__":
    sys.exit(main())
