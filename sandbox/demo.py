"""The demo's one page: the inbox, what the relay does, and the tickets, with switches to break each of them."""

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
CUT = "cut"  # the "level" of the line that stands for what a killed process could not write
ASK_EVERY_S = 0.25  # however many windows are open

CLOSED = {  # what the relay's /health calls the ways in which Zendesk is not to be had
    "outage": "Zendesk does not answer. Nothing is lost: the posts wait here, one keeps trying, then all go.",
    "limited": "Zendesk's limit is reached. The posts wait here as long as Zendesk asks for.",
    "unauthorised": "Zendesk refuses the relay's login. Nothing is lost: the posts wait here until it is let in.",
}


@dataclass(frozen=True)
class Burst:
    """Posts that were labelled together, how many of them have a ticket, and how many have more than one."""

    size: int
    ticketed: int
    twice: int


@dataclass(frozen=True)
class Standing:
    """How the relay is doing by its own GET /health. `waiting` and `parked` are None when it gives no answer."""

    running: bool
    subscribed: bool = False
    gate: str = ""
    held_s: float = 0.0
    waiting: int | None = None
    parked: int | None = None


class DemoPage:
    """The page over a Khoros, a relay and a Zendesk that run already. `app` is the WSGI app; give it to `Server`."""

    def __init__(self, khoros: FakeKhoros, zendesk: FakeZendesk, relay: Relay) -> None:
        self.khoros, self.zendesk, self.relay = khoros, zendesk, relay
        self.mode = "healthy"
        self.killed = False  # on purpose, and not started again
        self._kills: list[int] = []  # how many lines it had written each time
        self._burst: list[str] = []  # the posts of the latest one
        self._in_bursts: set[str] = set()
        self._lock = threading.Lock()  # one switch at a time
        self._asked_at, self._standing = -ASK_EVERY_S, Standing(running=False)
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

    # What is shown

    def _page(self, ticket_id: int | None = None) -> tuple[str, int]:
        tickets = self.zendesk.tickets
        standing = self.standing()
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
            standing=standing,
            story=story(standing, self.killed, self.mode, bool(tickets)),
            delivered=sum(len(ticket.comments) for ticket in tickets),  # a ticket's first comment, or a later note
            log=self.log(),
            modes=MODES.values(),
            mode=MODES[self.mode],
            relay_url=self.relay.url,
            status_password=self.relay.env.get("STATUS_PASSWORD"),
        )
        return page, 404 if desk["missing"] else 200

    def standing(self) -> Standing:
        """How the relay is doing; asked anew every now and then."""
        with self._asking:
            if time.monotonic() - self._asked_at > ASK_EVERY_S:
                self._standing = self._ask()
                self._asked_at = time.monotonic()
            return self._standing

    def log(self) -> list[LogLine]:
        """The newest lines of the relay's log, newest first, but those about this page's own questions."""
        told = [(number, line) for number, line in enumerate(list(self.relay.output)) if not is_health_check(line)]
        lines = [read_line(number, line) for number, line in told[-SHOWN_LINES:]]
        oldest = lines[0].number if lines else 0
        kills = [LogLine(number, CUT, "killed with -9", []) for number in self._kills if number >= oldest]
        return sorted(lines + kills, key=lambda line: (line.number, line.level != CUT), reverse=True)

    def _ask(self) -> Standing:
        if not self.relay.running:
            return Standing(running=False)
        try:
            health = self._session.get(f"{self.relay.url}/health", timeout=2).json()
            return Standing(
                running=True,
                subscribed=health["subscription"]["state"] == "subscribed",
                gate=health["zendesk"]["state"],
                held_s=health["zendesk"]["held_s"],
                waiting=health["pending"],
                parked=health["parked"],
            )
        except (requests.RequestException, ValueError, KeyError):
            return Standing(running=True)

    def _burst_shown(self, tickets: list[FakeTicket]) -> Burst | None:
        posts, made = self._burst, Counter(ticket.external_id for ticket in tickets)
        return Burst(len(posts), sum(made[p] > 0 for p in posts), sum(made[p] > 1 for p in posts)) if posts else None

    # What the buttons do

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
        self.khoros.drain(0.5)  # usually long enough to show what became of it

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


def story(standing: Standing, killed: bool, mode: str, any_ticket: bool) -> tuple[str, str]:
    """How things are, in a word for the colour and a sentence for a person."""
    if not standing.running:
        said = "The relay was killed." if killed else "The relay has ended."
        return "bad", f"{said} Khoros calls in vain. What is labelled now is fetched when the relay is back."
    if standing.waiting is None or not standing.subscribed:
        return "wait", "The relay is starting: it reads its database and looks for what it missed."
    if standing.gate in CLOSED:
        back = "Zendesk is well again. The relay learns it at its next try, then all posts go."
        return "wait", back if mode == "healthy" else CLOSED[standing.gate]
    if standing.waiting:
        return "wait", "Posts are on their way to Zendesk."
    if standing.parked:
        return (
            "bad",
            "Zendesk refused a post. It is parked: a person looks at it on the status page and sends it again.",
        )
    if any_ticket:
        return "good", "Everything is delivered. Nothing waits."
    return "good", "Everything is connected. Give a post the label CreateCase and watch it become a ticket."
