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
from inbox.tickets import DELETED_TICKET, MISSING, OVER, SOLVED_EVENT, KnownTicket, Tickets
from outbound import ServiceError, Unavailable
from zendesk_client import ZendeskClient

LOOK_STEP_S = 20.0  # a process asks so often whether it is its turn
TURN_S = 60.0  # one process at a time, once a minute: so often a ticket is asked about at most
CALLS_PER_TURN, TICKETS_PER_CALL = 2, 100
STATES_PAUSE_S = 3600.0  # whatever Zendesk says
ENTERED, TURN, PAUSED_UNTIL = "tickets_entered", "ticket_states", "ticket_states_paused_until"  # names of facts


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
        """Asks about the tickets that are due, when it is this process' turn and Zendesk takes calls. After a failure
        it asks no more in this look, and no sooner than Zendesk says. Raises DatabaseUnavailable."""
        if not self.facts.take_turn(TURN, TURN_S):
            return
        since = float(self.facts.recall(ENTERED) or 0)
        self.facts.remember(ENTERED, str(self.tickets.enter(since)))
        if 0 < float(self.facts.recall(PAUSED_UNTIL) or 0) - self.inbox.now() <= STATES_PAUSE_S:
            return
        due = self.tickets.due(TURN_S, CALLS_PER_TURN * TICKETS_PER_CALL)
        for start in range(0, len(due), TICKETS_PER_CALL):
            gate, _ = self.inbox.gate(self.zendesk.name)
            if gate.state == OPEN and gate.places(self.inbox.now(), 0, 1):
                some = due[start : start + TICKETS_PER_CALL]
                try:
                    self._ask(some)
                except ServiceError as error:
                    self._keep_for_later(some, error)
                    break

    def _keep_for_later(self, tickets: list[KnownTicket], error: ServiceError) -> None:
        """These tickets stay as they are and come after all others, so that they are in nobody's way."""
        if self.answered:  # once: the next post shows whether the gate must close
            log.warning("ticket_states_unknown", reason=error, zendesk_request_id=error.request_id)
        self.answered = False
        self.tickets.see({ticket.reference: ticket.state for ticket in tickets if ticket.state not in OVER})
        if error.retry_after_s:
            until = self.inbox.now() + min(error.retry_after_s, STATES_PAUSE_S)
            self.facts.remember(PAUSED_UNTIL, str(until))

    def _ask(self, tickets: list[KnownTicket]) -> None:
        """Asks about these tickets in one call. One that Zendesk does not show, or shows as that of another post
        because the relay was given another account, is missing, and deleted when it is still missing an hour later.
        Raises ServiceError, also when Zendesk shows none of several: that is no answer to our call."""
        asked = [ticket.reference for ticket in tickets]
        found = {str(one.id): one for one in self.client.show_many(asked)}
        if len(asked) > 1 and not found.keys() & set(asked):
            raise Unavailable("Zendesk shows none of the tickets that we asked about")
        self.answered, states = True, {}
        for ticket in tickets:
            now = found.get(ticket.reference)
            ours = now and now.external_id in ("", ticket.subject_id)
            not_shown = DELETED_TICKET if ticket.state in (MISSING, DELETED_TICKET) else MISSING
            states[ticket.reference] = (now.status or ticket.state) if now and ours else not_shown
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
