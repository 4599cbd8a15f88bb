"""What becomes of the tickets: asked of Zendesk within a budget, kept, and told where the post was announced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import Clock, compose, new_item

from destinations.delivery import Delivery
from destinations.destination import Destination
from destinations.slack import SlackDestination, SlackSettings
from destinations.slack_words import content
from destinations.ticket_states import CALLS_PER_TURN, STATES_PAUSE_S, TICKETS_PER_CALL, TURN_S, TicketStates
from events import Subject
from inbox.database import Database
from inbox.facts import Facts
from inbox.gate import CALLS_PER_ITEM
from inbox.inbox import Inbox
from inbox.items import Item, Outcome
from inbox.tickets import MISSING_S, Tickets
from sandbox.server import Server
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk
from zendesk_client import Ticket, ZendeskClient

CRISIS, CARE = "slack:#social-crisis", "slack:#social-care"
STATES = "/api/v2/tickets/show_many"


ACCOUNT = cast(
    Destination,
    SimpleNamespace(name="zendesk", link=lambda reference: f"https://acme.zendesk.com/agent/tickets/{reference}"),
)


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


@pytest.fixture
def client(zendesk: FakeZendesk) -> ZendeskClient:
    url: str = zendesk.url  # type: ignore[attr-defined]
    return ZendeskClient(url, client_id=zendesk.client_id, client_secret=zendesk.client_secret)


@pytest.fixture
def states(client: ZendeskClient, database: Database, inbox: Inbox, facts: Facts) -> TicketStates:
    return TicketStates(client, ACCOUNT, Tickets(database, "zendesk"), inbox, facts, [CRISIS, CARE])


@pytest.fixture
def ticket(zendesk: FakeZendesk, client: ZendeskClient, inbox: Inbox) -> str:
    """The ticket of a post, as it is after the delivery of its label."""
    return deliver(inbox, make_ticket(client))


def make_ticket(client: ZendeskClient, post: str = "twitter:1") -> str:
    body = {"ticket": {"external_id": post, "comment": {"body": "Hello", "public": False}}}
    return str(client.create_ticket(json.dumps(body).encode(), f"key of {post}").ticket.id)


def deliver(inbox: Inbox, reference: str, post: str = "twitter:1", event: str = "", place: str = "zendesk") -> str:
    inbox.accept([new_item(event or f"event of {reference}", post, destination=place)])
    [item] = claim(inbox, place)
    inbox.settle([(item, Outcome("ticket_created", 0.1, reference))])
    return reference


def claim(inbox: Inbox, place: str = "zendesk") -> list[Item]:
    return inbox.claim(place, 8, 10.0, compose).items


def announce(inbox: Inbox, place: str = CRISIS) -> None:
    """Delivers a message about the post to Slack."""
    deliver(inbox, "C1/1700000000.000100", event="told", place=place)


def look(states: TicketStates, clock: Clock) -> None:
    clock.advance(TURN_S)
    states.look()


def seen(database: Database) -> dict[str, str]:
    with database.reading() as db:
        return {reference: state for reference, state in db.rows("SELECT reference, state FROM tickets")}


def remembered(database: Database) -> int:
    """How many authors have a user of their own."""
    with database.reading() as db:
        return int(db.rows("SELECT count(*) FROM requesters")[0][0])


def asked(zendesk: FakeZendesk) -> list[int]:
    """How many tickets each call asked about."""
    return [call.query.count("%2C") + 1 for call in zendesk.calls if call.path == STATES]


def replies(database: Database) -> list[tuple[str, str]]:
    found = "SELECT destination, event_uuid FROM items WHERE event_uuid LIKE 'ticket-solved-%' ORDER BY id"
    with database.reading() as db:
        return [(place, name) for place, name in db.rows(found)]


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.getMessage() == event]


# Asking


def test_the_state_of_a_ticket_comes_back(
    states: TicketStates, ticket: str, zendesk: FakeZendesk, database: Database, clock: Clock
) -> None:
    states.look()
    assert (seen(database), asked(zendesk)) == ({ticket: "new"}, [])  # that it is new was in the answer of its creation
    for state in ("open", "pending", "hold", "open", "solved"):
        zendesk.set_status(int(ticket), state)
        look(states, clock)
        assert seen(database) == {ticket: state}
    assert asked(zendesk) == [1] * 5


def test_a_ticket_that_is_over_is_asked_about_no_more(
    states: TicketStates, client: ZendeskClient, zendesk: FakeZendesk, inbox: Inbox, database: Database, clock: Clock
) -> None:
    made = [int(deliver(inbox, make_ticket(client, post), post)) for post in ("p:1", "p:2", "p:3", "p:4")]
    zendesk.set_status(made[0], "solved")
    zendesk.archive_ticket(made[1])
    zendesk.delete_ticket(made[2])
    look(states, clock)
    assert seen(database) == dict(zip(map(str, made), ("solved", "closed", "missing", "new"), strict=True))
    look(states, clock)
    assert asked(zendesk) == [4, 1]
    clock.advance(MISSING_S)
    look(states, clock)
    assert seen(database)[str(made[2])] == "deleted" and asked(zendesk)[-1] == 2
    clock.advance(MISSING_S)
    look(states, clock)
    assert asked(zendesk)[-1] == 1


def test_a_ticket_that_is_shown_again_within_the_hour_was_never_deleted(
    states: TicketStates, ticket: str, zendesk: FakeZendesk, database: Database, clock: Clock
) -> None:
    zendesk.faults.fail(1, 200, body='{"tickets": []}', path=STATES)
    look(states, clock)
    zendesk.set_status(int(ticket), "solved")
    clock.advance(MISSING_S - TURN_S - 1)
    look(states, clock)
    assert seen(database) == {ticket: "missing"} and asked(zendesk) == [1]
    look(states, clock)
    assert seen(database) == {ticket: "solved"}


def deliver_many(inbox: Inbox, count: int) -> None:
    """Tickets 5000, 5001 …, which Zendesk does not know."""
    inbox.accept([new_item(f"e{n}", f"p:{n}") for n in range(count)])
    items = inbox.claim("zendesk", count, 10.0, compose).items
    inbox.settle([(item, Outcome("ticket_created", 0.1, str(5000 + number))) for number, item in enumerate(items)])


@pytest.mark.parametrize("answer", ['{"tickets": []}', '{"tickets": [{"id": 7, "status": "solved"}]}'])
def test_an_answer_with_none_of_several_tickets_is_no_answer(
    answer: str,
    states: TicketStates,
    ticket: str,
    client: ZendeskClient,
    zendesk: FakeZendesk,
    inbox: Inbox,
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = deliver(inbox, make_ticket(client, "twitter:2"), "twitter:2")
    zendesk.faults.fail(1, 200, body=answer, path=STATES)
    look(states, clock)
    assert seen(database) == {ticket: "new", other: "new"} and len(lines(caplog, "ticket_states_unknown")) == 1
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    assert seen(database) == {ticket: "solved", other: "new"}


def test_tickets_of_which_zendesk_shows_none_are_in_nobodys_way(
    states: TicketStates, client: ZendeskClient, zendesk: FakeZendesk, inbox: Inbox, database: Database, clock: Clock
) -> None:
    """Somebody deletes a whole campaign: the tickets after it are asked about all the same."""
    deliver_many(inbox, CALLS_PER_TURN * TICKETS_PER_CALL)
    look(states, clock)
    ticket = deliver(inbox, make_ticket(client))
    zendesk.set_status(int(ticket), "open")
    for _ in range(CALLS_PER_TURN + 2):
        look(states, clock)
    assert seen(database)[ticket] == "open"


def test_two_calls_a_minute_ask_about_a_hundred_tickets_each_the_longest_unseen_first(
    states: TicketStates,
    zendesk: FakeZendesk,
    inbox: Inbox,
    database: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several, count = CALLS_PER_TURN * TICKETS_PER_CALL, CALLS_PER_TURN * TICKETS_PER_CALL + 30
    calls: list[int] = []

    def show_many(client: ZendeskClient, ids: list[str]) -> list[Ticket]:
        calls.append(len(ids))
        return [Ticket(int(one), "open") for one in ids]

    monkeypatch.setattr(ZendeskClient, "show_many", show_many)
    deliver_many(inbox, count)
    look(states, clock)
    states.look()  # not its turn
    assert calls == [TICKETS_PER_CALL] * CALLS_PER_TURN
    assert list(seen(database).values()).count("open") == several
    look(states, clock)
    assert calls[CALLS_PER_TURN:][:1] == [TICKETS_PER_CALL]
    assert list(seen(database).values()).count("open") == count


@pytest.mark.parametrize(("asked_for_s", "pause_s"), [(300, 300), (90_000, STATES_PAUSE_S)])
def test_after_a_failure_nothing_is_asked_in_the_same_look_and_for_as_long_as_zendesk_says(
    asked_for_s: int,
    pause_s: float,
    states: TicketStates,
    other_database: Database,
    client: ZendeskClient,
    zendesk: FakeZendesk,
    inbox: Inbox,
    clock: Clock,
) -> None:
    other = TicketStates(
        client, ACCOUNT, Tickets(other_database, "zendesk"), Inbox(other_database), Facts(other_database), []
    )
    deliver_many(inbox, TICKETS_PER_CALL + 1)
    zendesk.faults.fail(1, 429, retry_after=asked_for_s, path=STATES)
    look(states, clock)
    assert len(asked(zendesk)) == 1
    clock.advance(pause_s - TURN_S - 1)
    look(other, clock)
    assert len(asked(zendesk)) == 1
    clock.advance(2)
    look(other, clock)
    assert len(asked(zendesk)) > 1


def test_those_that_were_not_seen_for_the_longest_time_come_first(database: Database, clock: Clock) -> None:
    with database.transaction() as db:
        for reference, state, ago_s in (("1", "new", 61), ("2", "open", 900), ("3", "solved", 950), ("4", "hold", 70)):
            values = {"reference": reference, "state": state, "ago_s": ago_s}
            db.change("INSERT INTO tickets VALUES ('zendesk', :reference, 'p:1', :state, :clock - :ago_s)", values)
    assert [ticket.reference for ticket in Tickets(database, "zendesk").due(60.0, 2)] == ["2", "4"]


def test_one_process_asks_at_a_time(
    states: TicketStates,
    ticket: str,
    client: ZendeskClient,
    other_database: Database,
    zendesk: FakeZendesk,
    clock: Clock,
) -> None:
    tickets, inbox, facts = Tickets(other_database, "zendesk"), Inbox(other_database), Facts(other_database)
    other = TicketStates(client, ACCOUNT, tickets, inbox, facts, [])
    look(states, clock)
    other.look()
    assert asked(zendesk) == [1]


@pytest.mark.parametrize(
    "outcome",
    [Outcome("outage", 0.1, reason="503"), Outcome("made", 0.1, "9", calls_left=CALLS_PER_ITEM - 1, reset_s=600)],
)
def test_nothing_is_asked_while_zendesk_takes_nothing(
    outcome: Outcome, states: TicketStates, ticket: str, inbox: Inbox, zendesk: FakeZendesk, clock: Clock
) -> None:
    inbox.accept([new_item("e2", "twitter:2")])
    clock.advance(TURN_S)
    inbox.settle([(item, outcome) for item in claim(inbox)])
    states.look()
    assert asked(zendesk) == []


def test_what_zendesk_does_not_answer_is_asked_again_and_logged_once(
    states: TicketStates,
    ticket: str,
    zendesk: FakeZendesk,
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    zendesk.faults.fail(2, 503)
    look(states, clock)
    look(states, clock)
    assert seen(database) == {ticket: "new"} and len(lines(caplog, "ticket_states_unknown")) == 1
    zendesk.set_status(int(ticket), "open")
    look(states, clock)
    assert seen(database) == {ticket: "open"}


def test_the_ticket_of_another_post_is_not_ours(
    states: TicketStates, client: ZendeskClient, inbox: Inbox, zendesk: FakeZendesk, database: Database, clock: Clock
) -> None:
    """The relay was given another account, which has other tickets under the same numbers."""
    made = deliver(inbox, make_ticket(client, "twitter:of somebody else"))
    zendesk.set_status(int(made), "solved")
    look(states, clock)
    assert (seen(database), replies(database)) == ({made: "missing"}, [])
    clock.advance(MISSING_S)
    look(states, clock)
    assert (seen(database), replies(database)) == ({made: "deleted"}, [])


def test_the_retention_ends_the_asking(
    states: TicketStates, ticket: str, zendesk: FakeZendesk, inbox: Inbox, database: Database, clock: Clock
) -> None:
    with database.transaction() as db:
        db.change("INSERT INTO requesters (author, user_id, at) VALUES ('twitter:9', '77', :clock)")
    look(states, clock)
    assert inbox.purge(2 * TURN_S) == 0 and seen(database) and remembered(database) == 1
    clock.advance(2 * TURN_S)
    while inbox.purge(2 * TURN_S):
        pass
    look(states, clock)
    assert (seen(database), remembered(database), asked(zendesk)) == ({}, 0, [1])


def test_a_clock_that_was_set_back_hides_no_ticket(
    states: TicketStates, ticket: str, client: ZendeskClient, inbox: Inbox, database: Database, clock: Clock
) -> None:
    states.look()
    clock.advance(-9000)
    later = deliver(inbox, make_ticket(client, "twitter:2"), "twitter:2")
    look(states, clock)
    assert seen(database) == {ticket: "new", later: "new"}


# Telling


def test_a_solved_ticket_is_a_log_line_and_an_item_for_each_place_that_knows_the_post(
    states: TicketStates,
    ticket: str,
    zendesk: FakeZendesk,
    inbox: Inbox,
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    announce(inbox)
    inbox.accept([new_item("other", "twitter:2", destination=CARE)])
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    look(states, clock)
    assert lines(caplog, "ticket_solved") == [{"ticket": ticket, "post": "twitter:1", "state": "solved"}]
    assert replies(database) == [(CRISIS, f"ticket-solved-{ticket}")]


def test_a_process_that_ended_in_between_tells_nothing_twice(
    states: TicketStates, ticket: str, zendesk: FakeZendesk, inbox: Inbox, database: Database, clock: Clock
) -> None:
    announce(inbox)
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    with database.transaction() as db:  # as if it had ended before this was kept
        db.change("UPDATE tickets SET state = 'open'")
    look(states, clock)
    assert replies(database) == [(CRISIS, f"ticket-solved-{ticket}")] and seen(database) == {ticket: "solved"}


def test_a_note_of_ours_makes_a_solved_ticket_be_asked_about_again_and_a_second_solution_is_only_logged(
    states: TicketStates,
    ticket: str,
    zendesk: FakeZendesk,
    inbox: Inbox,
    database: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    announce(inbox)
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    clock.advance(1)
    deliver(inbox, ticket, event="a note")
    look(states, clock)
    assert len(lines(caplog, "ticket_solved")) == 1  # it is solved still
    clock.advance(1)
    deliver(inbox, ticket, event="another note")
    zendesk.set_status(int(ticket), "open")
    look(states, clock)
    assert seen(database) == {ticket: "open"}
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    look(states, clock)
    assert seen(database) == {ticket: "solved"} and asked(zendesk) == [1, 1, 1, 1]
    assert len(lines(caplog, "ticket_solved")) == 2 and len(replies(database)) == 1


@pytest.fixture
def slack(clock: Clock) -> Iterator[FakeSlack]:
    slack = FakeSlack(clock=clock)
    with Server(slack.app) as server:
        slack.url = server.url  # type: ignore[attr-defined]
        yield slack


def test_the_thread_of_the_post_says_that_its_ticket_is_solved(
    states: TicketStates, ticket: str, zendesk: FakeZendesk, slack: FakeSlack, inbox: Inbox, clock: Clock
) -> None:
    settings = SlackSettings("xoxb-made-up-slack-token", f"{slack.url}/api")  # type: ignore[attr-defined]
    delivery = Delivery(inbox, SlackDestination(settings, "#social-crisis", CRISIS))
    inbox.accept([new_item("told", destination=CRISIS)])
    delivery.deliver_due()
    zendesk.set_status(int(ticket), "solved")
    look(states, clock)
    delivery.deliver_due()
    message, reply = slack.messages
    assert (reply.thread_ts, reply.text) == (message.ts, f"Solved: Ticket #{ticket} in Zendesk")
    assert f"https://acme.zendesk.com/agent/tickets/{ticket}" in json.dumps(reply.blocks)


def test_the_words_about_a_solved_ticket_are_no_post_that_came_again() -> None:
    item = {"entityId": "twitter:1", "link": "https://acme.example/1", "ticket": "1001", "state": "closed"}
    subject = Subject.parse({"event": "ticket-solved", "item": item})
    assert content(subject, again=True) == content(subject)
    assert content(subject)["text"] == "Closed: Ticket #1001 in Zendesk"
