"""The demo's page: the inbox, the relay and where it delivers, with switches that break each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from sandbox.buttons import BURST, PLACES, RULE, Answer, Buttons
from sandbox.chronicle import Chronicle
from sandbox.health import Watch, story
from sandbox.khoros import FakeKhoros
from sandbox.modes import DOWN
from sandbox.pages import protect, refuse_strangers
from sandbox.receiver import FakeReceiver
from sandbox.relay import Relay
from sandbox.sentences import SLACK, WEBHOOK, ZENDESK
from sandbox.slack import FakeSlack
from sandbox.slack_blocks import parts
from sandbox.steps import Facts, Step, steps
from sandbox.zendesk import FakeZendesk

SHOWN_POSTS = SHOWN_TICKETS = SHOWN_SENTENCES = 30
SHOWN_LINES = 60
SHOWN_MESSAGES = 1  # of those that Khoros publishes


class DemoPage:
    """The page for a Khoros, a relay and its destinations that already run. `app` is the WSGI app; give it to
    `Server`."""

    def __init__(
        self, khoros: FakeKhoros, zendesk: FakeZendesk, slack: FakeSlack, receiver: FakeReceiver, relay: Relay
    ) -> None:
        self.khoros, self.zendesk, self.slack, self.receiver, self.relay = khoros, zendesk, slack, receiver, relay
        self.chronicle, self._watch = Chronicle(khoros, zendesk, relay), Watch(relay)
        self.buttons = Buttons(self.chronicle, slack, receiver, self._watch)
        self._finished = False  # all steps were done at some time
        self._answer: Answer = lambda: ""
        self._lock = threading.Lock()  # one button at a time
        self.app = Flask(__name__)
        self._add_routes()

    @property
    def killed(self) -> bool:
        """Whether the relay was killed from the page, and not started again."""
        return self.buttons.killed

    def close(self) -> None:
        self._watch.close()

    def _add_routes(self) -> None:
        for path, press in self.buttons.by_path.items():
            self.app.add_url_rule(path, path, self._pressed(press), methods=["POST"])
        self.app.add_url_rule("/", "page", self._page)
        self.app.add_url_rule("/agent/tickets/<int:ticket_id>", "page", self._page)
        self.app.add_url_rule("/tab/<any(slack, webhook):tab>", "page", self._page)
        self.app.add_url_rule("/tab/<any(slack):tab>/<channel_id>", "page", self._page)
        self.app.before_request(refuse_strangers)
        self.app.after_request(protect)

    def _pressed(self, press: Callable[..., Answer]) -> Callable[..., AnyResponse]:
        def answer(**path: Any) -> AnyResponse:
            try:
                with self._lock:
                    self._answer = press(**path)
            except (KeyError, ValueError):
                words = "There is no such post, event, ticket or switch. Load the page again.\n"
                return Response(words, 404, mimetype="text/plain")
            self._watch.health(fresh=True)
            return redirect("/" + urlsplit(request.referrer or "").path.lstrip("/"), 303)

        return answer

    def _page(self, tab: str = ZENDESK, ticket_id: int | None = None, channel_id: str | None = None) -> tuple[str, int]:
        tickets, health = self.zendesk.tickets, self._watch.health()
        alone = [ticket for ticket in tickets if ticket.external_id not in self.chronicle.in_burst]
        opened = ticket_id or next((ticket.id for ticket in (alone or tickets)[::-1]), None)
        desk = self.zendesk.desk_view(opened, SHOWN_TICKETS)
        slack, hooks = self.slack.view(channel_id), self.receiver.receiver_view()
        log = self.chronicle.log()
        page = render_template(
            "demo.html",
            **{**hooks, **desk, **self.khoros.inbox_view(SHOWN_POSTS, self.chronicle.in_burst)},
            slack=slack,
            tab=tab,
            tabs=[
                (ZENDESK, "Zendesk", "/", len(tickets), *health.of(ZENDESK)),
                (SLACK, "Slack", "/tab/slack", len(self.slack.messages), *health.of(SLACK)),
                (WEBHOOK, "Webhook", "/tab/webhook", hooks["taken_count"], *health.of(WEBHOOK)),
            ],
            place=PLACES[tab],
            modes=self.buttons.switches[tab].modes.values(),
            mode=self.buttons.switches[tab].mode,
            ticket_of={ticket.external_id: ticket for ticket in tickets},
            channels_of=self._channels_by_link(),
            published=list(self.khoros.messages.values())[::-1][:SHOWN_MESSAGES],
            burst=self.buttons.burst(),
            burst_size=BURST,
            rule=RULE,
            steps=self._steps(),
            answer=self._answer(),
            armed=self.buttons.armed,
            health=health,
            story=story(health, self.buttons.killed, self.buttons.healthy(), self.khoros.label_name),
            sentences=self.chronicle.newest(SHOWN_SENTENCES),
            refused=self.chronicle.refused,
            log=log[-SHOWN_LINES:][::-1],
            relay_url=self.relay.url,
            status_password=self.relay.env.get("STATUS_PASSWORD"),
        )
        return page, 404 if desk["missing"] or not slack["opened"] else 200

    def _steps(self) -> list[Step]:
        health, burst = self._watch.health(), self.buttons.burst()
        alone = next((one for one in self.zendesk.tickets if one.external_id not in self.chronicle.in_burst), None)
        done = not health.of(ZENDESK)[0] and (burst is None or burst.ticketed == burst.size)
        self._finished |= self.buttons.was_killed and self.buttons.stored and health.subscribed and done
        facts = Facts(
            ready=health.subscribed,
            running=health.running,
            post=next(iter(self.khoros.posts)),
            ticket=f"One label, one ticket: #{alone.id}." if alone else "",
            zendesk_is_down=self.buttons.switches[ZENDESK].mode.name == DOWN,
            stored=self.buttons.stored,
            killed=self.buttons.was_killed,
            waiting=health.counts.waiting,
            burst=burst,
            finished=self._finished,
        )
        return steps(facts, self.khoros.label_name, BURST)

    def _channels_by_link(self) -> dict[str, dict[str, Any]]:
        """Where Slack shows a post: its channels by the post's address."""
        found: dict[str, dict[str, Any]] = {}
        channels = {channel.id: channel for channel in self.slack.view()["channels"]}
        for message in self.slack.messages:
            for part in parts(message.blocks):
                if part.get("type") == "link":
                    found.setdefault(part["url"], {})[message.channel] = channels[message.channel]
        return found
