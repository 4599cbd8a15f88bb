"""The buttons of the demo's page. Each returns a sentence about what became of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from flask import request

from sandbox.chronicle import Chronicle
from sandbox.health import Watch
from sandbox.modes import DOWN, HEALTHY, Switch, slack_switch, webhook_switch, zendesk_switch
from sandbox.receiver import FakeReceiver
from sandbox.sentences import CUT, SLACK, STARTED, WEBHOOK, ZENDESK, sentence_case
from sandbox.slack import FakeSlack
from sandbox.steps import Burst, posts
from sandbox.zendesk_state import FakeTicket

BURST = 200
RULE, CHANNEL, CRISIS, ANN = "Product recall", "social-care", "social-crisis", "ann@acme.example"
RECALL = "The handle of my Acme kettle melted and burnt my hand. Is there a recall for the K-200? 😡"
PLACES = {ZENDESK: "Zendesk", SLACK: "Slack", WEBHOOK: "The receiver"}
PUSH_S = 0.5  # usually long enough to show the outcome of a push

Answer = Callable[[], str]  # what became of a press, as it is when the page is drawn


class Buttons:
    """What each button does, in `by_path`. They read the form that was sent, and raise KeyError or ValueError for one
    that names nothing."""

    def __init__(self, chronicle: Chronicle, slack: FakeSlack, receiver: FakeReceiver, watch: Watch) -> None:
        self.khoros, self.zendesk, self.relay = chronicle.khoros, chronicle.zendesk, chronicle.relay
        self.slack, self.receiver = slack, receiver
        self.switches: dict[str, Switch] = {
            ZENDESK: zendesk_switch(self.zendesk),
            SLACK: slack_switch(slack, CHANNEL),
            WEBHOOK: webhook_switch(receiver),
        }
        self.killed = False  # the relay, and it was not started again
        self.stored = self.was_killed = False  # at some time: a burst while Zendesk was down, the relay
        self._burst: list[str] = []  # the posts of the newest one
        self._chronicle, self._watch = chronicle, watch
        self.by_path: dict[str, Callable[..., Answer]] = {
            "/inbox/label": self._label,
            "/inbox/repeat": self._repeat,
            "/inbox/burst": self._label_burst,
            "/inbox/twice": self._send_twice,
            "/inbox/rule": self._fire_rule,
            "/inbox/publish": self._publish,
            "/inbox/send": self._send_to_network,
            "/agent/tickets/<int:ticket_id>/status": self._set_status,
            "/_sandbox/switch": self._switch,
            "/_sandbox/refuse": self._refuse_next,
            "/_sandbox/relay/kill": self._kill_relay,
            "/_sandbox/relay/start": self._start_relay,
        }

    def healthy(self) -> set[str]:
        """The kinds of destinations that nobody breaks now."""
        return {kind for kind, switch in self.switches.items() if switch.mode.name == HEALTHY}

    @property
    def armed(self) -> int:
        """How many posts Zendesk will refuse next."""
        return sum(fault["left"] for fault in self.zendesk.faults.state()["faults"] if fault["mode"] == "fail")

    def burst(self) -> Burst | None:
        """The newest burst."""
        made = Counter(ticket.external_id for ticket in self.zendesk.tickets)
        numbers = [made[post] for post in self._burst]
        return Burst(len(numbers), sum(n > 0 for n in numbers), sum(n > 1 for n in numbers)) if numbers else None

    def _waits(self, post: str) -> str:
        """Where a post is that has no ticket."""
        who = self._chronicle.name_of(post)
        if post in self._chronicle.refused:
            return f"Zendesk refuses {who}: it needs attention. The others go on."
        if not self.relay.running:
            return "The relay is dead. Khoros keeps the event; the relay fetches it when it runs again."
        if ZENDESK not in self.healthy():
            return f"{sentence_case(who)} is safe in the database. It waits for Zendesk."
        return f"{sentence_case(who)} is on its way."

    def _safe(self) -> str:
        return f"{sentence_case(posts(self._watch.health(fresh=True).counts.waiting))} safe in the database."

    def _how_many(self, ticket: FakeTicket) -> str:
        made = sum(one.external_id == ticket.external_id for one in self.zendesk.tickets)
        return f"one ticket: #{ticket.id}." if made == 1 else f"{made} tickets."

    def _outcome(self, post: str, arrived: Callable[[FakeTicket], str]) -> Answer:
        def answer() -> str:
            ticket = self._chronicle.ticket_of(post)
            return arrived(ticket) if ticket else self._waits(post)

        return answer

    def _label(self) -> Answer:
        post, label = request.form["post"], request.form["label"]
        known = self._chronicle.ticket_of(post)
        self._chronicle.labelled_at.setdefault(post, time.time())
        self.khoros.label(post, label)
        self.khoros.drain(PUSH_S)
        if label != self.khoros.label_name:
            return lambda: f"Labelled {label}. No route wants this label, so the relay makes nothing of it."
        if known:
            return lambda: f"Labelled again: a note on ticket #{known.id}, no second ticket."
        return self._outcome(post, self._chronicle.became)

    def _repeat(self) -> Answer:
        event = request.form["event"]
        self.khoros.repeat(event)
        self.khoros.drain(PUSH_S)
        return self._outcome(self._chronicle.subject_of(event), lambda ticket: f"Sent again, {self._how_many(ticket)}")

    def _label_burst(self) -> Answer:
        self._burst = self.khoros.add_posts(BURST)
        self._chronicle.begin_burst(self._burst)
        for post in self._burst:
            self.khoros.label(post, self.khoros.label_name)
        self.stored |= self.switches[ZENDESK].mode.name == DOWN and self.relay.running

        def answer() -> str:
            burst = self.burst()
            if burst and burst.ticketed == burst.size:
                return f"{burst.size} posts, {burst.size} tickets: none lost, {burst.twice or 'none'} twice."
            if not self.relay.running:
                return f"{BURST} posts labelled. The relay is dead; it fetches from Khoros what it missed."
            return f"{BURST} posts labelled. {self._safe()}"

        return answer

    def _send_twice(self) -> Answer:
        [post] = self.khoros.add_posts(1)
        self._chronicle.labelled_at[post] = time.time()
        for event_uuid in self.khoros.label(post, self.khoros.label_name):
            self.khoros.repeat(event_uuid)
        self.khoros.drain(PUSH_S)
        return self._outcome(post, lambda ticket: f"Sent twice, {self._how_many(ticket)}")

    def _arrival(self, what: str, place: str, arrived: Callable[[], int]) -> Answer:
        """`arrived` counts what is there: one more than now when it has come."""
        before = arrived()
        return lambda: f"{what}: {place} has it." if arrived() > before else f"{what}. It is on its way to {place}."

    def _fire_rule(self) -> Answer:
        [post] = self.khoros.add_posts(1, text=RECALL)
        answer = self._arrival(
            f"The rule {RULE} found a post", f"Slack #{CRISIS}", lambda: len(self.slack.messages_in(CRISIS))
        )
        self.khoros.fire_rule(post, RULE)
        self.khoros.drain(PUSH_S)
        return answer

    def _publish(self) -> Answer:
        status = request.form["status"]
        what = "LinkedIn refused the message" if status == "ERROR" else "The message is live on LinkedIn"
        answer = self._arrival(what, "Ann Keller in Slack", lambda: len(self.slack.messages_in(ANN)))
        self.khoros.publish("LINKEDIN", status=status)
        self.khoros.drain(PUSH_S)
        return answer

    def _send_to_network(self) -> Answer:
        answer = self._arrival("Facebook took the message", "the webhook's receiver", lambda: len(self.receiver.taken))
        self.khoros.send_to_network("FACEBOOK")
        self.khoros.drain(PUSH_S)
        return answer

    def _switch(self) -> Answer:
        place = request.form["place"]
        switch, armed = self.switches[place], self.armed
        switch.turn(request.form["mode"])
        if place == ZENDESK and armed:  # it outlasts the switch, which has cleared all faults
            self._refuse(armed)
        says, title = switch.mode.says, PLACES[place]

        def answer() -> str:
            if switch.mode.name != HEALTHY:
                return says
            waiting = self._watch.health().of(place)[0]
            follow = f"{sentence_case(posts(waiting))} on the way." if waiting else "Nothing waits."
            return f"{title} works again. {follow}"

        return answer

    def _set_status(self, ticket_id: int) -> Answer:
        status = request.form["status"]
        self.zendesk.set_status(ticket_id, status)
        return lambda: f"Ticket #{ticket_id} is {status} in Zendesk. The relay sees it within a minute."

    def _refuse_next(self) -> Answer:
        self._refuse(1)
        return lambda: (
            "Armed: Zendesk will refuse the next post."
            if self.armed
            else "Zendesk has refused that post: it needs attention. The others go on."
        )

    def _refuse(self, next_n: int) -> None:
        self.zendesk.faults.fail(next_n, 422, path="/api/v2/tickets", method="POST")

    def _kill_relay(self) -> Answer:
        if self.relay.running:
            self.killed = self.was_killed = True
            self.relay.kill()
            self._chronicle.mark(CUT, safe=self._safe())
        return lambda: f"Killed. {self._safe()}"

    def _start_relay(self) -> Answer:
        if not self.relay.running:
            self.relay.start()
            self._chronicle.mark(STARTED)
        self.killed = False
        return lambda: (
            "It runs again. It has read its database and asked Khoros what it missed."
            if self._watch.health().subscribed
            else "It starts. It reads its database and asks Khoros what it missed."
        )
