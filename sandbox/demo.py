"""The demo's page: the inbox, the relay and the tickets, with switches that break each of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import requests
from flask import Flask, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from sandbox.khoros import FakeKhoros
from sandbox.loglines import LogLine, is_health_check, read_line
from sandbox.modes import MODES, set_mode
from sandbox.pages import protect, refuse_strangers
from sandbox.relay import Relay
from sandbox.zendesk import FakeZendesk
from sandbox.zendesk_state import FakeTicket

BURST = 200
SHOWN_POSTS = SHOWN_TICKETS = 30
SHOWN_LINES = 60
CUT = "cut"  # the "level" of a line for the moment at which the relay was killed
ASK_EVERY_S = 0.25  # at most, also when many windows are open

CLOSED = {  # by the state of Zendesk in the relay's /health
    "outage": "Zendesk does not answer. Nothing is lost: one post is retried; when it succeeds, the rest follow.",
    "limited": "Zendesk's limit is reached. The posts wait for as long as Zendesk asks.",
    "unauthorised": "Zendesk refuses the relay's login. Nothing is lost: the posts wait until the login works.",
}


@dataclass(frozen=True)
class Burst:
    """Posts that were labelled together: how many have a ticket, and how many have more than one."""

    size: int
    ticketed: int
    twice: int


@dataclass(frozen=True)
class Health:
    """The answer of the relay's GET /health. `pending` and `parked` are None when it does not answer."""

    running: bool
    subscribed: bool = False
    gate: str = ""
    held_s: float = 0.0
    pending: int | None = None
    parked: int | None = None


class DemoPage:
    """The page for a Khoros, a relay and a Zendesk that already run. `app` is the WSGI app; give it to `Server`."""

    def __init__(self, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay) -> None:
        self.khoros, self.zendesk, self.relay = khoros, zendesk, relay
        self.mode = "healthy"
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
            "/_sandbox/zendesk": self._switch_zendesk,
            "/_sandbox/refuse": self._refuse_next,
            "/_sandbox/relay/kill": self._kill_relay,
            "/_sandbox/relay/start": self._start_relay,
        }
        for path, press in buttons.items():
            self.app.add_url_rule(path, path, self._pressed(press), methods=["POST"])
        self.app.add_url_rule("/", "page", self._page)
        self.app.add_url_rule("/agent/tickets/<int:ticket_id>", "page", self._page)
        self.app.before_request(refuse_strangers)
        self.app.after_request(protect)

    # The page

    def _page(self, ticket_id: int | None = None) -> tuple[str, int]:
        tickets = self.zendesk.tickets
        health = self.health()
        newest = tickets[-1].id if tickets else None
        ticket_of = {ticket.external_id: ticket for ticket in tickets}
        inbox = self.khoros.inbox_view(SHOWN_POSTS, self._in_bursts)
        desk = self.zendesk.desk_view(ticket_id or newest, SHOWN_TICKETS)
        page = render_template(
            "demo.html",
            **inbox,
            **desk,
            ticket_of=ticket_of,
            burst=self._burst_shown(tickets),
            burst_size=BURST,
            health=health,
            story=story(health, self.killed, self.mode, bool(tickets)),
            delivered=sum(len(ticket.comments) for ticket in tickets),  # each is a ticket's first comment or a note
            log=self.log(),
            modes=MODES.values(),
            mode=MODES[self.mode],
            relay_url=self.relay.url,
            status_password=self.relay.env.get("STATUS_PASSWORD"),
        )
        return page, 404 if desk["missing"] else 200

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
        if not self.relay.running:
            return Health(running=False)
        try:
            health = self._session.get(f"{self.relay.url}/health", timeout=2).json()
            return Health(
                running=True,
                subscribed=health["subscription"]["state"] == "subscribed",
                gate=health["zendesk"]["state"],
                held_s=health["zendesk"]["held_s"],
                pending=health["pending"],
                parked=health["parked"],
            )
        except (requests.RequestException, ValueError, KeyError):
            return Health(running=True)

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
            return redirect("/", 303)

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

    def _switch_zendesk(self) -> None:
        set_mode(self.zendesk, request.form["mode"])
        self.mode = request.form["mode"]

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


def story(health: Health, killed: bool, mode: str, any_ticket: bool) -> tuple[str, str]:
    """One word for the colour of the page's first sentence, and the sentence."""
    if not health.running:
        said = "The relay was killed." if killed else "The relay has stopped."
        return "bad", f"{said} Khoros cannot reach it. When it runs again, it fetches the labels that it missed."
    if health.pending is None or not health.subscribed:
        return "wait", "The relay is starting. It reads its database and fetches the labels that it missed."
    if health.gate in CLOSED:
        back = "Zendesk works again. The relay notices it at its next try, then all posts follow."
        return "wait", back if mode == "healthy" else CLOSED[health.gate]
    if health.pending:
        return "wait", "Posts are on their way to Zendesk."
    if health.parked:
        return (
            "bad",
            "Zendesk refused a post. It needs attention: the status page shows the reason and can send it again.",
        )
    if any_ticket:
        return "good", "All well. Every post has its ticket."
    return "good", "All well. Give a post the label CreateCase: it becomes a ticket."
