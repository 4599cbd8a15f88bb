"""What became of the tickets: asks Zendesk in which state they are, and tells where the post was announced."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import log
from background import Loop
from destinations.destination import Destination
from inbox.facts import Facts
from inbox.gate import OPEN
from inbox.inbox import Inbox
from inbox.items import NewItem
from inbox.tickets import NOT_SHOWN, OVER, SOLVED_EVENT, KnownTicket, Tickets
from outbound import ServiceError
from zendesk_client import ZendeskClient

LOOK_STEP_S = 20.0  # a process asks so often whether it is its turn
TURN_S = 60.0  # one process at a time, once a minute: so often a ticket is asked about at most
CALLS_PER_TURN, TICKETS_PER_CALL = 2, 100
ENTERED, TURN = "tickets_entered", "ticket_states"  # names of facts


@dataclass
class TicketStates:
    """Keeps the states of the tickets of `zendesk`. When one is solved, those of `places` that have a message about its
    post get an item of their own about that, once for each ticket."""

    client: ZendeskClient
    zendesk: Destination
    tickets: Tickets
    inbox: Inbox
    facts: Facts
    places: Collection[str]
    answered: bool = True  # the last call

    def __post_init__(self) -> None:
        self.loop = Loop(TURN, self.step)

    def step(self) -> float:
        """One look; returns the seconds until the next. Raises DatabaseUnavailable."""
        self.look()
        return LOOK_STEP_S

    def look(self) -> None:
        """Asks about the tickets that are due, when it is this process' turn and Zendesk takes calls. Raises
        DatabaseUnavailable."""
        if not self.facts.take_turn(TURN, TURN_S):
            return
        since = float(self.facts.recall(ENTERED) or 0)
        self.facts.remember(ENTERED, str(self.tickets.enter(since)))
        due = self.tickets.due(TURN_S, CALLS_PER_TURN * TICKETS_PER_CALL)
        for start in range(0, len(due), TICKETS_PER_CALL):
            gate, _ = self.inbox.gate(self.zendesk.name)
            if gate.state == OPEN and gate.places(self.inbox.now(), 0, 1):
                self._ask(due[start : start + TICKETS_PER_CALL])

    def _ask(self, tickets: list[KnownTicket]) -> None:
        """Asks about these tickets in one call. One that Zendesk does not show, or shows as that of another post
        because the relay was given another account, counts as deleted."""
        try:
            found = {str(one.id): one for one in self.client.show_many([ticket.reference for ticket in tickets])}
        except ServiceError as error:
            if self.answered:  # once: the next post shows whether the gate must close
                log.warning("ticket_states_unknown", reason=error, zendesk_request_id=error.request_id)
            self.answered = False
            return
        self.answered, states = True, {}
        for ticket in tickets:
            now = found.get(ticket.reference)
            ours = now and now.external_id in ("", ticket.subject_id)
            states[ticket.reference] = (now.status or ticket.state) if now and ours else NOT_SHOWN
        solved = [one for one in tickets if states[one.reference] in OVER and one.state not in OVER]
        self.inbox.accept([item for ticket in solved for item in self._replies(ticket, states[ticket.reference])])
        self.tickets.see(states)
        for ticket in solved:
            log.info("ticket_solved", ticket=ticket.reference, post=ticket.subject_id, state=states[ticket.reference])

    def _replies(self, ticket: KnownTicket, state: str) -> list[NewItem]:
        """An item for each place that has a message about the post; the inbox keeps one of each ticket."""
        number, post = ticket.reference, ticket.subject_id
        about = {"entityId": post, "link": self.zendesk.link(number), "ticket": number, "state": state}
        told, payload = self.tickets.places(post, self.places), {"event": SOLVED_EVENT, "item": about}
        return [NewItem(place, f"{SOLVED_EVENT}-{number}", post, payload, "poll") for place in told]
