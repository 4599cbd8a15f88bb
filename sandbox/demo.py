"""The demo's page: the inbox, the relay and where it delivers, with switches that break each of them."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from flask import Flask, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from sandbox.khoros import FakeKhoros
from sandbox.loglines import LogLine, is_health_check, read_line
from sandbox.modes import HEALTHY, Switch, slack_switch, webhook_switch, zendesk_switch
from sandbox.pages import protect, refuse_strangers
from sandbox.receiver import FakeReceiver
from sandbox.relay import Relay
from sandbox.slack import FakeSlack
from sandbox.slack_blocks import parts
from sandbox.zendesk import FakeZendesk
from sandbox.zendesk_state import FakeTicket

BURST = 200
SHOWN_POSTS = SHOWN_TICKETS = 30
SHOWN_LINES = 60
SHOWN_MESSAGES = 1  # of those that Khoros publishes
CUT = "cut"  # the "level" of a line for the moment at which the relay was killed
ASK_EVERY_S = 0.25  # at most, also when many windows are open
ZENDESK, SLACK, WEBHOOK = "zendesk", "slack", "webhook"  # the tabs
RULE, CHANNEL = "Product recall", "social-care"
RECALL = "The handle of my Acme kettle melted and burnt my hand. Is there a recall for the K-200? 😡"

CLOSED = {  # by a gate's state in the relay's /health
    "outage": "{} does not answer. Nothing is lost: one post is retried; when it succeeds, the rest follow.",
    "limited": "{} takes no more for now. The posts wait for as long as it asks.",
    "unauthorised": "{} refuses the relay. Nothing is lost: the posts wait until that is put right.",
    "refusing": "{} refuses every post alike. Nothing is lost: the posts wait until that is put right.",
}


@dataclass(frozen=True)
class Burst:
    """Posts that were labelled together: how many have a ticket, and how many have more than one."""

    size: int
    ticketed: int
    twice: int


@dataclass(frozen=True)
class Place:
    """A destination in the answer of the relay's GET /health. `name` is zendesk, slack:#social-care, webhook:…"""

    name: str
    state: str
    held_s: float = 0.0
    pending: int = 0

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def title(self) -> str:
        """The place at the beginning of a sentence."""
        target = self.name.partition(":")[2]
        return {ZENDESK: "Zendesk", SLACK: f"Slack {target}"}.get(self.kind, "The webhook's receiver")


@dataclass(frozen=True)
class Health:
    """What the relay says of itself. When it does not answer, `pending` and `parked` are None, and `delivered` is what
    it said last."""

    running: bool
    subscribed: bool = False
    places: tuple[Place, ...] = ()
    pending: int | None = None
    parked: int | None = None
    delivered: int = 0

    @property
    def closed(self) -> list[Place]:
        """The destinations that take nothing now."""
        return [place for place in self.places if place.state in CLOSED]

    def of(self, kind: str) -> tuple[int, bool]:
        """How much waits for the destinations of a kind, and whether one of them is closed."""
        return sum(one.pending for one in self.places if one.kind == kind), any(one.kind == kind for one in self.closed)


class DemoPage:
    """The page for a Khoros, a relay and its destinations that already run. `app` is the WSGI app; give it to
    `Server`."""

    def __init__(
        self, khoros: FakeKhoros, zendesk: FakeZendesk, slack: FakeSlack, receiver: FakeReceiver, relay: Relay
    ) -> None:
        self.khoros, self.zendesk, self.slack, self.receiver, self.relay = khoros, zendesk, slack, receiver, relay
        self.switches: dict[str, Switch] = {
            ZENDESK: zendesk_switch(zendesk),
            SLACK: slack_switch(slack, CHANNEL),
            WEBHOOK: webhook_switch(receiver),
        }
        self.killed = False  # from the page, and not started again
        self._kills: list[int] = []  # for each kill, the number of lines in the log
        self._burst: list[str] = []  # the posts of the newest one
        self._in_bursts: set[str] = set()
        self._lock = threading.Lock()  # one switch at a time
        self._asked_at, self._health = -ASK_EVERY_S, Health(running=False)
        self._asking = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False
        self.app = Flask(__name__)
        self._add_routes()

    def close(self) -> None:
        self._session.close()

    def _add_routes(self) -> None:
        buttons: dict[str, Callable[[], None]] = {
            "/inbox/label": self._label,
            "/inbox/repeat": self._repeat,
            "/inbox/burst": self._label_burst,
            "/inbox/twice": self._send_twice,
            "/inbox/rule": self._fire_rule,
            "/inbox/publish": self._publish,
            "/inbox/send": self._send_to_network,
            "/_sandbox/switch": self._switch,
            "/_sandbox/refuse": self._refuse_next,
            "/_sandbox/relay/kill": self._kill_relay,
            "/_sandbox/relay/start": self._start_relay,
        }
        for path, press in buttons.items():
            self.app.add_url_rule(path, path, self._pressed(press), methods=["POST"])
        self.app.add_url_rule("/", "page", self._page)
        self.app.add_url_rule("/agent/tickets/<int:ticket_id>", "page", self._page)
        self.app.add_url_rule("/tab/<any(slack, webhook):tab>", "page", self._page)
        self.app.add_url_rule("/tab/<any(slack):tab>/<channel_id>", "page", self._page)
        self.app.before_request(refuse_strangers)
        self.app.after_request(protect)

    # The page

    def _page(self, tab: str = ZENDESK, ticket_id: int | None = None, channel_id: str | None = None) -> tuple[str, int]:
        tickets, health = self.zendesk.tickets, self.health()
        newest = tickets[-1].id if tickets else None
        desk = self.zendesk.desk_view(ticket_id or newest, SHOWN_TICKETS)
        slack, hooks = self.slack.view(channel_id), self.receiver.receiver_view()
        page = render_template(
            "demo.html",
            **self.khoros.inbox_view(SHOWN_POSTS, self._in_bursts),
            **{**hooks, **desk},
            slack=slack,
            tab=tab,
            tabs=[
                (ZENDESK, "Zendesk", "/", len(tickets), *health.of(ZENDESK)),
                (SLACK, "Slack", "/tab/slack", len(self.slack.messages), *health.of(SLACK)),
                (WEBHOOK, "Webhook", "/tab/webhook", hooks["taken_count"], *health.of(WEBHOOK)),
            ],
            modes=self.switches[tab].modes.values(),
            mode=self.switches[tab].mode,
            ticket_of={ticket.external_id: ticket for ticket in tickets},
            channels_of=self._channels_by_link(),
            published=list(self.khoros.messages.values())[::-1][:SHOWN_MESSAGES],
            burst=self._burst_shown(tickets),
            burst_size=BURST,
            rule=RULE,
            health=health,
            story=story(health, self.killed, self._healthy()),
            log=self.log(),
            relay_url=self.relay.url,
            status_password=self.relay.env.get("STATUS_PASSWORD"),
        )
        return page, 404 if desk["missing"] or not slack["opened"] else 200

    def _healthy(self) -> set[str]:
        return {kind for kind, switch in self.switches.items() if switch.mode.name == HEALTHY}

    def _channels_by_link(self) -> dict[str, dict[str, Any]]:
        """Where Slack shows a post: its channels by the post's address."""
        found: dict[str, dict[str, Any]] = {}
        channels = {channel.id: channel for channel in self.slack.view()["channels"]}
        for message in self.slack.messages:
            for part in parts(message.blocks):
                if part.get("type") == "link":
                    found.setdefault(part["url"], {})[message.channel] = channels[message.channel]
        return found

    def health(self) -> Health:
        """The relay's health, at most ASK_EVERY_S old."""
        with self._asking:
            if time.monotonic() - self._asked_at > ASK_EVERY_S:
                self._health = self._ask()
                self._asked_at = time.monotonic()
            return self._health

    def log(self) -> list[LogLine]:
        """The newest lines of the relay's log, newest first, without those about this page's own requests."""
        shown = [(number, line) for number, line in enumerate(list(self.relay.output)) if not is_health_check(line)]
        lines = [read_line(number, line) for number, line in shown[-SHOWN_LINES:]]
        oldest = lines[0].number if lines else 0
        kills = [LogLine(number, CUT, "killed with -9", []) for number in self._kills if number >= oldest]
        return sorted(lines + kills, key=lambda line: (line.number, line.level != CUT), reverse=True)

    def _ask(self) -> Health:
        known = self._health.delivered
        if not self.relay.running:
            return Health(running=False, delivered=known)
        login = ("demo", self.relay.env.get("STATUS_PASSWORD", ""))
        try:
            said = self._session.get(f"{self.relay.url}/health", timeout=2).json()
            figures = self._session.get(f"{self.relay.url}/metrics", auth=login, timeout=2).text
            delivered = re.search(r"^relay_delivered_total (\S+)", figures, re.MULTILINE)
            rows = [(name, row) for name, row in said.items() if isinstance(row, dict) and "held_s" in row]
            return Health(
                running=True,
                subscribed=said["subscription"]["state"] == "subscribed",
                places=tuple(Place(name, row["state"], row["held_s"], row["pending"]) for name, row in rows),
                pending=said["pending"],
                parked=said["parked"],
                delivered=int(float(delivered[1])) if delivered else known,
            )
        except (requests.RequestException, ValueError, KeyError):
            return Health(running=True, delivered=known)

    def _burst_shown(self, tickets: list[FakeTicket]) -> Burst | None:
        posts, made = self._burst, Counter(ticket.external_id for ticket in tickets)
        return Burst(len(posts), sum(made[p] > 0 for p in posts), sum(made[p] > 1 for p in posts)) if posts else None

    # The buttons

    def _pressed(self, press: Callable[[], None]) -> Callable[[], AnyResponse]:
        def answer() -> AnyResponse:
            try:
                with self._lock:
                    press()
            except KeyError:
                return Response(
                    "There is no such post, event or switch. Load the page again.\n", 404, mimetype="text/plain"
                )
            self._asked_at = -ASK_EVERY_S
            return redirect("/" + urlsplit(request.referrer or "").path.lstrip("/"), 303)

        return answer

    def _label(self) -> None:
        self.khoros.label(request.form["post"], request.form["label"])
        self.khoros.drain(0.5)  # usually long enough to show the outcome

    def _repeat(self) -> None:
        self.khoros.repeat(request.form["event"])
        self.khoros.drain(0.5)

    def _label_burst(self) -> None:
        self._burst = self.khoros.label_many(BURST)
        self._in_bursts.update(self._burst)

    def _send_twice(self) -> None:
        [post] = self.khoros.add_posts(1)
        for event_uuid in self.khoros.label(post, self.khoros.label_name):
            self.khoros.repeat(event_uuid)
        self.khoros.drain(0.5)

    def _fire_rule(self) -> None:
        [post] = self.khoros.add_posts(1, text=RECALL)
        self.khoros.fire_rule(post, RULE)
        self.khoros.drain(0.5)

    def _publish(self) -> None:
        self.khoros.publish("LINKEDIN", status=request.form["status"])
        self.khoros.drain(0.5)

    def _send_to_network(self) -> None:
        self.khoros.send_to_network("FACEBOOK")
        self.khoros.drain(0.5)

    def _switch(self) -> None:
        self.switches[request.form["place"]].turn(request.form["mode"])

    def _refuse_next(self) -> None:
        self.zendesk.faults.fail(1, 422, path="/api/v2/tickets", method="POST")

    def _kill_relay(self) -> None:
        if self.relay.running:
            self.killed = True
            self.relay.kill()
            self._kills.append(len(self.relay.output))

    def _start_relay(self) -> None:
        if not self.relay.running:
            self.relay.start()
        self.killed = False


def story(health: Health, killed: bool, healthy: set[str]) -> tuple[str, str]:
    """One word for the colour of the page's first sentence, and the sentence. `healthy` are the destinations that
    nobody breaks now."""
    if not health.running:
        said = "The relay was killed." if killed else "The relay has stopped."
        return "bad", f"{said} Khoros cannot reach it. When it runs again, it fetches the events that it missed."
    if health.pending is None or not health.subscribed:
        return "wait", "The relay is starting. It reads its database and fetches the events that it missed."
    if health.closed:
        place = next((place for place in health.closed if place.kind not in healthy), health.closed[0])
        back = f"{place.title} works again. The relay notices it at its next try, then all posts follow."
        return "wait", back if place.kind in healthy else CLOSED[place.state].format(place.title)
    if health.pending:
        places = [
            place.title if place.kind != WEBHOOK else "the webhook's receiver"
            for place in health.places
            if place.pending
        ]
        return "wait", f"On their way to {' and '.join(places) or 'their destinations'}."
    if health.parked:
        return "bad", "A post was refused. It needs attention: the status page shows the reason and can send it again."
    if health.delivered:
        return "good", "All well. Everything has arrived."
    return "good", "All well. Give a post the label CreateCase: it becomes a ticket and a line in Slack."
