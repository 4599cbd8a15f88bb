"""The Zendesk account as a destination: what it sends for an item, what it looks up first, what its check says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import responses
from conftest import Clock

from destinations.destination import Destination, LeaseLost, Sent
from destinations.zendesk import KEY_LIFE_S, ZendeskDestination
from destinations.zendesk_words import Style
from events import Subject
from inbox.items import Draft, Item
from outbound import AuthFailed, Limited, Quota, Rejected, ServiceError, Unavailable
from sandbox.calls import Call
from sandbox.zendesk import FakeZendesk
from zendesk_client import CHECK_ID, ZendeskClient

BASE = "https://acme.zendesk.com"
POST = {"entityId": "twitter:1", "text": "Hello", "author": "Jo"}


@pytest.fixture
def destination(zendesk: FakeZendesk, clock: Clock) -> ZendeskDestination:
    url: str = zendesk.url  # type: ignore[attr-defined]
    client = ZendeskClient(url, client_id=zendesk.client_id, client_secret=zendesk.client_secret, clock=clock)
    return ZendeskDestination(client, url, Style(), lambda subject: {})


@pytest.fixture
def answers() -> Iterator[responses.RequestsMock]:
    """Zendesk's answers in a test's own words."""
    with responses.RequestsMock() as answers:
        yield answers


def by_oauth() -> ZendeskDestination:
    client = ZendeskClient(BASE, client_id="relay", client_secret="made-up-client-secret")
    return ZendeskDestination(client, BASE, Style(), lambda subject: {})


def by_api_token() -> ZendeskDestination:
    client = ZendeskClient(BASE, user_email="agent@acme.example", api_token="made-up-api-token")
    return ZendeskDestination(client, BASE, Style(), lambda subject: {})


def grant(answers: responses.RequestsMock) -> None:
    answers.post(f"{BASE}/oauth/tokens", status=201, json={"access_token": "t0ken", "expires_in": 3600})


def labelled(*labels: str) -> dict[str, Any]:
    """What an item keeps of an event about the post."""
    names = {"labels": list(labels), "matched": list(labels)}
    return {"event": "stream-item-label-applied", "at": "", **names, "rule": None, "item": POST}


def new_claimed(event: str = "e1", **changes: Any) -> Item:
    """An item as the inbox hands it out for composing."""
    item = Item(
        id=1,
        destination="zendesk",
        event_uuid=event,
        subject_id="twitter:1",
        source="push",
        request_id=None,
        payload=labelled("CreateCase"),
        age_s=0.0,
        attempts=1,
        sent_s_ago=None,
        draft=None,
        latest_reference=None,
        gate_version=0,
    )
    return replace(item, **changes)


class Sending:
    """One attempt at an item. `drafts` are those it was frozen with, the last one is what a retry sends."""

    def __init__(self, destination: ZendeskDestination, item: Item) -> None:
        self.item = item if item.draft else replace(item, draft=destination.compose(item))
        self.drafts = [self.draft]
        self._destination = destination

    @property
    def draft(self) -> Draft:
        assert self.item.draft
        return self.item.draft

    def go(self) -> Sent:
        return self._destination.send(self.item, self._refreeze)

    def again(self, **changes: Any) -> Sent:
        """The same item a second later, sent again."""
        self.item = replace(self.item, **{"attempts": self.item.attempts + 1, "sent_s_ago": 1.0, **changes})
        return self.go()

    def _refreeze(self, draft: Draft) -> Item:
        self.drafts.append(draft)
        self.item = replace(self.item, draft=draft, sent_s_ago=None)
        return self.item


def deliver(destination: ZendeskDestination, event: str = "e1", **changes: Any) -> Sent:
    return Sending(destination, new_claimed(event, **changes)).go()


def creations(zendesk: FakeZendesk) -> list[Call]:
    return [call for call in zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]


def look_ups(zendesk: FakeZendesk) -> list[Call]:
    return [call for call in zendesk.calls if (call.method, call.path) == ("GET", "/api/v2/tickets")]


# What it is


def test_it_keeps_to_the_protocol(destination: ZendeskDestination) -> None:
    it: Destination = destination
    assert (it.name, it.title, it.parallel, it.noun) == ("zendesk", "Zendesk", 8, "ticket")
    assert (it.pace_s, it.digest) == (0.0, None)


def test_only_an_api_token_needs_a_notice() -> None:
    assert by_oauth().notice == ""
    notice = by_api_token().notice
    assert "2027-04-30" in notice and "ZENDESK_CLIENT_ID and ZENDESK_CLIENT_SECRET" in notice


def test_a_reference_leads_to_the_ticket_as_agents_see_it() -> None:
    assert by_oauth().link("35436") == "https://acme.zendesk.com/agent/tickets/35436"


# Drafts


def test_a_post_becomes_a_ticket_and_one_that_has_a_ticket_a_note(destination: ZendeskDestination) -> None:
    ticket = destination.compose(new_claimed())
    note = destination.compose(new_claimed("e2", latest_reference="35436"))
    assert (ticket.kind, ticket.target) == ("ticket", None)
    assert json.loads(ticket.body)["ticket"]["external_id"] == "twitter:1"
    assert (note.kind, note.target) == ("note", "35436")
    assert list(json.loads(note.body)["ticket"]) == ["comment"]


def test_a_ticket_has_the_fields_of_its_route_at_the_time_it_is_composed(zendesk: FakeZendesk) -> None:
    """A corrected setting counts when a person sends the post again."""
    route: dict[str, Any] = {"group_id": 7, "tags": ["care"]}
    asked: list[Subject] = []

    def fields_for(subject: Subject) -> dict[str, Any]:
        asked.append(subject)
        return route

    client = ZendeskClient(BASE, user_email="a@acme.example", api_token="made-up-api-token")
    it = ZendeskDestination(client, BASE, Style({"priority": "low", "tags": ["social"]}), fields_for)
    first = json.loads(it.compose(new_claimed()).body)["ticket"]
    route |= {"group_id": 8, "priority": None}
    second = json.loads(it.compose(new_claimed(attempts=2)).body)["ticket"]
    assert (first["group_id"], first["priority"], second["group_id"], "priority" in second) == (7, "low", 8, False)
    assert first["tags"] == ["khoros", "twitter", "createcase", "social", "care"]
    assert asked[0] == Subject.parse(labelled("CreateCase"))


def test_the_fields_of_its_route_are_not_applied_to_a_ticket_that_exists(destination: ZendeskDestination) -> None:
    client = ZendeskClient(BASE, user_email="a@acme.example", api_token="made-up-api-token")
    it = ZendeskDestination(client, BASE, Style(), lambda subject: {"group_id": 7})
    note = it.compose(new_claimed("e2", latest_reference="35436", payload=labelled("Billing")))
    assert list(json.loads(note.body)["ticket"]) == ["comment"]


def test_composing_is_pure_and_a_key_belongs_to_one_event_and_post(destination: ZendeskDestination) -> None:
    draft = destination.compose(new_claimed())
    assert destination.compose(new_claimed(id=77, age_s=9.0, request_id="r-1", gate_version=5)) == draft
    others = [new_claimed("e2"), new_claimed(subject_id="twitter:2"), new_claimed(latest_reference="35436")]
    keys = {destination.compose(item).key for item in others} | {draft.key}
    assert len(keys) == 4 and all(len(key) <= 255 for key in keys)


def test_what_a_person_sends_again_has_another_key(destination: ZendeskDestination) -> None:
    """Its words may have changed, and Zendesk refuses a known key with other words."""
    first, second, third = (destination.compose(new_claimed(attempts=attempts)) for attempts in (1, 2, 3))
    assert first.body == second.body and len({first.key, second.key, third.key}) == 3


@pytest.mark.parametrize("payload", [{}, {"item": None}, {"item": {"text": "no id"}}], ids=str)
def test_what_is_no_post_cannot_be_composed(payload: dict[str, Any], destination: ZendeskDestination) -> None:
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, the inbox parks the item
        destination.compose(new_claimed(payload=payload))


def test_nothing_is_sent_without_a_draft(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    with pytest.raises(ValueError, match="without a draft"):
        destination.send(new_claimed(), lambda draft: new_claimed())
    assert zendesk.calls == []


# What becomes of them


def test_a_new_ticket_is_returned_with_all_that_the_answer_said(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.set_rate(700)
    sent = deliver(destination)
    assert (sent.how, sent.reference, sent.status) == ("ticket_created", str(zendesk.tickets[0].id), 201)
    assert sent.request_id and sent.quota == Quota(699, 60.0)
    assert look_ups(zendesk) == []


def test_a_note_is_returned_with_all_that_the_answer_said(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.set_rate(700)
    reference = deliver(destination).reference
    sent = deliver(destination, "e2", latest_reference=reference)
    assert (sent.how, sent.reference, sent.status) == ("note_added", reference, 200)
    assert sent.request_id and sent.quota == Quota(698, 60.0)
    assert ["e2" in comment.html_body for comment in zendesk.tickets[0].comments] == [False, True]


def test_a_closed_ticket_is_followed_up(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    reference = deliver(destination).reference
    zendesk.close_ticket(int(reference))
    sending = Sending(destination, new_claimed("e2", latest_reference=reference))
    sent = sending.go()
    assert (sent.how, sent.reference, sent.status) == ("follow_up_created", str(zendesk.tickets[1].id), 201)
    assert sent.request_id and sent.quota
    assert [(draft.kind, draft.target) for draft in sending.drafts] == [("note", reference), ("follow_up", reference)]
    assert zendesk.tickets[1].fields["via_followup_source_id"] == int(reference)


def test_an_archived_ticket_is_followed_up(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    """Zendesk's list leaves it out: that does not mean that it was deleted."""
    reference = deliver(destination).reference
    zendesk.archive_ticket(int(reference))
    sent = deliver(destination, "e2", latest_reference=reference)
    assert (sent.how, sent.reference) == ("follow_up_created", str(zendesk.tickets[1].id))
    assert zendesk.tickets[1].fields["via_followup_source_id"] == int(reference)


def overtaken(destination: ZendeskDestination, reference: str) -> Sending:
    """An item whose ticket was frozen before another item of its post got this one."""
    return Sending(
        destination, new_claimed("e2", draft=destination.compose(new_claimed("e2")), latest_reference=reference)
    )


def test_our_own_reference_decides_where_no_look_up_finds_the_ticket(answers: responses.RequestsMock) -> None:
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/tickets/show_many", status=403)
    answers.put(f"{BASE}/api/v2/tickets/7", json={"ticket": {"id": 7, "tags": ["createcase"]}})
    sending = overtaken(by_api_token(), "7")
    assert (sending.go().how, sending.draft.kind, sending.draft.target) == ("note_added", "note", "7")


def test_an_archived_ticket_of_another_item_is_followed_up_and_not_made_twice(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.archive_ticket(int(reference))
    sent = overtaken(destination, reference).go()
    assert sent.how == "follow_up_created"
    assert zendesk.tickets[1].fields["via_followup_source_id"] == int(reference)


def test_a_ticket_of_which_zendesk_hides_the_status_is_closed_when_the_note_is_refused_for_it(
    answers: responses.RequestsMock,
) -> None:
    tickets = f"{BASE}/api/v2/tickets"
    closed = {"error": "RecordInvalid", "details": {"status": [{"description": "x", "error": "ClosedTicket"}]}}
    answers.put(f"{tickets}/7", status=422, json=closed)
    answers.get(tickets, json={"tickets": []})
    answers.get(f"{tickets}/7", json={"ticket": {"id": 7}})
    answers.post(tickets, status=201, json={"ticket": {"id": 8}})
    sent = Sending(by_api_token(), new_claimed("e2", latest_reference="7")).go()
    assert (sent.how, sent.reference) == ("follow_up_created", "8")


LIST: dict[str, Any] = {"json": {"tickets": []}}


@pytest.mark.parametrize("status", ["closed", "Closed", "archived"])
@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 403, "json": {"error": "Forbidden"}},
        {"status": 400, "json": {"error": "TicketArchived"}},
        {"status": 404, "body": "<html>"},
        {"status": 409, "json": {"error": "TicketClosed"}},
        {"status": 410, "json": {"error": "Gone"}},
        {"status": 422, "body": "closed"},
    ],
    ids=str,
)
def test_a_closed_ticket_is_followed_up_however_it_refuses_the_note(
    answers: responses.RequestsMock, refusal: dict[str, Any], status: str
) -> None:
    answers.put(f"{BASE}/api/v2/tickets/7", **refusal)
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/tickets/7", json={"ticket": {"id": 7, "status": status}})
    answers.post(f"{BASE}/api/v2/tickets", status=201, json={"ticket": {"id": 8}})
    sent = deliver(by_api_token(), "e2", latest_reference="7")
    assert (sent.how, sent.reference) == ("follow_up_created", "8")


@pytest.mark.parametrize(
    ("status", "kind"), [(403, AuthFailed), (404, AuthFailed), (409, Unavailable), (422, Rejected)], ids=str
)
@pytest.mark.parametrize("shown", [{"json": {"ticket": {"id": 7, "status": "open"}}}, {"status": 403}], ids=str)
def test_a_refused_note_on_a_ticket_that_is_not_known_to_be_closed_is_refused(
    answers: responses.RequestsMock, status: int, kind: type[ServiceError], shown: dict[str, Any]
) -> None:
    answers.put(f"{BASE}/api/v2/tickets/7", status=status)
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/tickets/7", **shown)
    with pytest.raises(ServiceError) as caught:
        deliver(by_api_token(), "e2", latest_reference="7")
    assert (type(caught.value), caught.value.status) == (kind, status)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_note_that_fails_for_the_whole_account_looks_nothing_up(answers: responses.RequestsMock, status: int) -> None:
    answers.put(f"{BASE}/api/v2/tickets/7", status=status)
    with pytest.raises(ServiceError) as caught:
        deliver(by_api_token(), "e2", latest_reference="7")
    assert caught.value.status == status


@pytest.mark.parametrize("shown", [{"status": 404, "body": "<html>"}, {"status": 410}], ids=str)
def test_a_ticket_that_cannot_be_found_any_more_is_replaced(
    answers: responses.RequestsMock, shown: dict[str, Any]
) -> None:
    answers.put(f"{BASE}/api/v2/tickets/7", status=404, json={"error": "RecordNotFound"})
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/tickets/7", **shown)
    answers.post(f"{BASE}/api/v2/tickets", status=201, json={"ticket": {"id": 8}})
    sending = Sending(by_api_token(), new_claimed("e2", latest_reference="7"))
    assert sending.go().reference == "8"
    assert sending.draft.kind == "replacement"


def test_a_note_is_tried_though_the_comments_may_not_be_read(answers: responses.RequestsMock) -> None:
    answers.get(f"{BASE}/api/v2/tickets/7/comments", status=403)
    answers.put(f"{BASE}/api/v2/tickets/7", json={"ticket": {"id": 7, "tags": ["createcase"]}})
    assert deliver(by_api_token(), "e2", latest_reference="7", attempts=2).how == "note_added"


def following(destination: ZendeskDestination) -> Sending:
    """A follow-up of ticket 7, under way."""
    draft = Draft("follow_up", b"{}", "key", "7")
    return Sending(destination, new_claimed("e2", latest_reference="7", draft=draft))


@pytest.mark.parametrize(
    "refusal",
    [
        {"status": 403, "json": {"error": "Forbidden"}},
        {"status": 400, "body": "<html>"},
        {"status": 404, "body": "<html>"},
    ],
    ids=str,
)
def test_a_follow_up_that_is_refused_in_any_way_becomes_a_plain_ticket_when_we_are_accepted(
    answers: responses.RequestsMock, refusal: dict[str, Any]
) -> None:
    answers.post(f"{BASE}/api/v2/tickets", **refusal)
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/users/me", status=403)
    answers.post(f"{BASE}/api/v2/tickets", status=201, json={"ticket": {"id": 8}})
    sending = following(by_api_token())
    assert (sending.go().reference, sending.draft.kind) == ("8", "replacement")


def test_a_follow_up_stays_one_when_a_plain_ticket_is_refused_as_well(answers: responses.RequestsMock) -> None:
    """Zendesk refused everything for a while: that says nothing about follow-ups."""
    answers.post(f"{BASE}/api/v2/tickets", status=403)
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/users/me", status=403)
    sending = following(by_api_token())
    with pytest.raises(AuthFailed):
        sending.go()
    assert (sending.draft.kind, sending.draft.key) == ("follow_up", "key")


@pytest.mark.parametrize("status", [401, 403])
def test_a_follow_up_stays_one_when_zendesk_refuses_us(answers: responses.RequestsMock, status: int) -> None:
    answers.post(f"{BASE}/api/v2/tickets", status=status)
    if status == 403:
        answers.get(f"{BASE}/api/v2/tickets", status=403)
    sending = following(by_api_token())
    with pytest.raises(AuthFailed):
        sending.go()
    assert [draft.kind for draft in sending.drafts] == ["follow_up"]


def test_an_answer_with_the_ticket_of_another_post_is_an_unknown_outcome(answers: responses.RequestsMock) -> None:
    answers.post(f"{BASE}/api/v2/tickets", status=201, json={"ticket": {"id": 8, "external_id": "twitter:2"}})
    with pytest.raises(Unavailable, match="the ticket of another post"):
        deliver(by_api_token())


def test_a_follow_up_that_is_refused_becomes_a_plain_ticket_that_names_the_closed_one(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.close_ticket(int(reference))
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")
    sending = Sending(destination, new_claimed("e2", latest_reference=reference))
    sent = sending.go()
    assert (sent.how, sent.reference) == ("ticket_created", str(zendesk.tickets[1].id))
    assert [draft.kind for draft in sending.drafts] == ["note", "follow_up", "replacement"]
    assert len({draft.key for draft in sending.drafts}) == 3
    made = zendesk.tickets[1]
    assert "via_followup_source_id" not in made.fields and f"was #{reference}." in made.comments[0].html_body


def test_a_follow_up_that_is_refused_later_becomes_a_plain_ticket_too(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.close_ticket(int(reference))
    zendesk.faults.fail(1, 503, method="POST", path="/api/v2/tickets")
    sending = Sending(destination, new_claimed("e2", latest_reference=reference))
    with pytest.raises(Unavailable):
        sending.go()
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")
    assert sending.again().how == "ticket_created"
    assert len(zendesk.tickets) == 2


def test_a_plain_ticket_that_is_refused_as_well_is_refused(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.close_ticket(int(reference))
    zendesk.required_fields[360001] = "FieldTagger"
    with pytest.raises(Rejected, match="Zendesk requires the field 360001: add it to ZENDESK_TICKET_FIELDS") as caught:
        deliver(destination, "e2", latest_reference=reference)
    assert caught.value.code == "RecordInvalid 360001:BlankValue"
    assert len(creations(zendesk)) == 3  # the first ticket, the follow-up, the plain one


# A second label


def tag_calls(zendesk: FakeZendesk) -> list[Call]:
    return [call for call in zendesk.calls if call.method == "PUT" and call.path.endswith("/tags")]


def test_a_second_label_is_named_by_the_note_and_its_tag_is_added(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    before = zendesk.tickets[0].tags
    deliver(destination, "e2", latest_reference=reference, payload=labelled("Billing"))
    [ticket] = zendesk.tickets
    assert ticket.tags == [*before, "billing"]
    assert "<p>Label Billing was applied to this post.</p>" in ticket.comments[1].html_body


@pytest.mark.parametrize("effect", [True, False], ids=["done", "not done"])
def test_a_tag_that_fails_is_added_by_the_next_attempt_and_the_note_is_not_doubled(
    effect: bool, destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.faults.fail(1, 503, method="PUT", path=f"/api/v2/tickets/{reference}/tags", effect=effect)
    sending = Sending(destination, new_claimed("e2", latest_reference=reference, payload=labelled("Billing")))
    with pytest.raises(Unavailable):
        sending.go()
    assert sending.again().how == "note_found"
    [ticket] = zendesk.tickets
    assert len(ticket.comments) == 2 and ticket.tags.count("billing") == 1


def test_a_note_whose_answer_was_lost_is_found_and_gets_its_tag(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    sending = Sending(destination, new_claimed("e2", latest_reference=reference, payload=labelled("Billing")))
    zendesk.faults.reset(1, method="PUT", path=f"/api/v2/tickets/{reference}", effect=True)
    with pytest.raises(Unavailable):
        sending.go()
    assert sending.again().how == "note_found"
    assert len(zendesk.tickets[0].comments) == 2 and "billing" in zendesk.tickets[0].tags


def test_a_note_is_not_added_again_while_nobody_can_look_for_it(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    sending = Sending(destination, new_claimed("e2", latest_reference=reference, payload=labelled("Billing")))
    zendesk.faults.reset(1, method="PUT", path=f"/api/v2/tickets/{reference}", effect=True)
    with pytest.raises(Unavailable):
        sending.go()
    zendesk.faults.fail(2, 401, method="GET", path=f"/api/v2/tickets/{reference}/comments")
    with pytest.raises(AuthFailed):
        sending.again()
    assert sending.again().how == "note_found"
    assert len(zendesk.tickets[0].comments) == 2


def test_a_tag_that_the_ticket_has_is_not_added_again(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    """Zendesk takes few updates of one ticket."""
    reference = deliver(destination).reference
    deliver(destination, "e2", latest_reference=reference, payload=labelled("CreateCase"))
    assert len(zendesk.tickets[0].comments) == 2 and tag_calls(zendesk) == []


@pytest.mark.parametrize("status", [403, 422])
def test_a_note_goes_out_without_a_tag_that_is_refused(
    status: int, destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    """An agent's role may not allow to change tags."""
    reference = deliver(destination).reference
    zendesk.faults.fail(1, status, method="PUT", path=f"/api/v2/tickets/{reference}/tags")
    sent = deliver(destination, "e2", latest_reference=reference, payload=labelled("Billing"))
    assert sent.how == "note_added" and "billing" not in zendesk.tickets[0].tags


def test_a_note_without_a_label_needs_no_tag(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    reference = deliver(destination).reference
    deliver(destination, "e2", latest_reference=reference, payload=labelled())
    assert tag_calls(zendesk) == []


def test_the_rule_that_brings_a_post_again_is_named(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    reference = deliver(destination).reference
    rule = {"event": "rule-applied", "rule": {"id": "7", "name": "Product recall"}, "matched": ["Product recall"]}
    deliver(destination, "e2", latest_reference=reference, payload={**labelled(), **rule})
    [ticket] = zendesk.tickets
    assert "Rule Product recall matched this post." in ticket.comments[1].html_body
    assert ticket.tags[-1] == "product_recall"


def test_a_limit_of_one_ticket_is_no_limit_of_the_account(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.set_rate(700)
    reference = deliver(destination).reference
    with pytest.raises(Limited) as caught:
        for number in range(40):
            deliver(destination, f"n{number}", latest_reference=reference)
    assert (caught.value.item_only, caught.value.retry_after_s) == (True, 600.0)
    other = {**labelled("CreateCase"), "item": {**POST, "entityId": "twitter:2"}}
    assert deliver(destination, "e9", subject_id="twitter:2", payload=other).how == "ticket_created"


def test_a_deleted_ticket_is_replaced_by_one_that_follows_nothing(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.delete_ticket(int(reference))
    sending = Sending(destination, new_claimed("e2", latest_reference=reference))
    sent = sending.go()
    assert (sent.how, sent.status) == ("ticket_created", 201)
    assert [(draft.kind, draft.target) for draft in sending.drafts] == [("note", reference), ("replacement", reference)]
    assert "via_followup_source_id" not in zendesk.tickets[0].fields


@pytest.mark.parametrize(("end", "how"), [("close_ticket", "follow_up_created"), ("delete_ticket", "ticket_created")])
def test_a_follow_up_whose_answer_was_lost_is_sent_again_under_its_key_and_called_what_it_is(
    end: str, how: str, destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    getattr(zendesk, end)(int(reference))
    zendesk.faults.reset(1, effect=True, method="POST", path="/api/v2/tickets")
    sending = Sending(destination, new_claimed("e2", latest_reference=reference))
    with pytest.raises(Unavailable):
        sending.go()
    looked = len(look_ups(zendesk))
    sent = sending.again()
    _, lost, again = creations(zendesk)
    assert (lost.idempotency_key, lost.body) == (again.idempotency_key, again.body)
    assert again.idempotency_lookup == "hit" and len(look_ups(zendesk)) == looked
    assert (sent.how, sent.reference) == (how, str(zendesk.tickets[-1].id))


def test_a_refused_ticket_is_rejected_with_zendesks_reason(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.fail(1, 422, method="POST", path="/api/v2/tickets")
    with pytest.raises(Rejected) as caught:
        deliver(destination)
    assert (caught.value.status, caught.value.code) == (422, "RecordInvalid")


@pytest.mark.parametrize(("status", "kind"), [(429, Limited), (503, Unavailable), (403, AuthFailed)])
@pytest.mark.parametrize("reference", [None, "35436"], ids=["ticket", "note"])
def test_zendesks_trouble_is_no_fault_of_the_item(
    reference: str | None, status: int, kind: type[Exception], destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.outage(status, path="/api")
    with pytest.raises(kind):
        deliver(destination, latest_reference=reference)


def test_nothing_more_is_sent_when_the_lease_was_lost(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    reference = deliver(destination).reference
    zendesk.close_ticket(int(reference))
    item = new_claimed("e2", latest_reference=reference)

    def lost(draft: Draft) -> Item:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        destination.send(replace(item, draft=destination.compose(item)), lost)
    assert len(creations(zendesk)) == 1


# What is looked up first


def test_a_first_attempt_of_a_push_looks_nothing_up(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    deliver(destination)
    assert [(call.method, call.path) for call in zendesk.calls] == [
        ("POST", "/oauth/tokens"),
        ("POST", "/api/v2/tickets"),
    ]


UNKNOWN: dict[str, dict[str, Any]] = {
    "polled": {"source": "poll"},
    "the key is forgotten": {"sent_s_ago": KEY_LIFE_S + 1},
    "the clock was set back": {"sent_s_ago": -1.0},
}


@pytest.mark.parametrize("changes", UNKNOWN.values(), ids=UNKNOWN)
def test_a_ticket_that_may_exist_is_looked_up_and_found(
    changes: dict[str, Any], destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    sent = Sending(destination, new_claimed()).again(**changes)
    assert (sent.how, sent.reference) == ("ticket_found", reference)
    assert len(creations(zendesk)) == 1 and len(look_ups(zendesk)) == 1


@pytest.mark.parametrize("changes", UNKNOWN.values(), ids=UNKNOWN)
def test_a_ticket_that_was_looked_up_in_vain_is_made(
    changes: dict[str, Any], destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    assert Sending(destination, new_claimed()).again(**changes).how == "ticket_created"
    assert len(zendesk.tickets) == 1 and len(look_ups(zendesk)) == 1


@pytest.mark.parametrize("changes", UNKNOWN.values(), ids=UNKNOWN)
def test_a_ticket_that_may_exist_is_found_though_zendesk_has_archived_it(
    changes: dict[str, Any], destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.archive_ticket(int(reference))
    sent = Sending(destination, new_claimed()).again(**changes)
    assert (sent.how, sent.reference) == ("ticket_found", reference)
    assert len(creations(zendesk)) == 1


def test_another_event_of_a_post_with_an_archived_ticket_becomes_its_follow_up(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    """The database was lost."""
    reference = deliver(destination).reference
    zendesk.archive_ticket(int(reference))
    sent = deliver(destination, "e2", source="poll")
    assert sent.how == "follow_up_created"
    assert zendesk.tickets[1].fields["via_followup_source_id"] == int(reference)


@pytest.mark.parametrize("status", [403, 404, 422])
def test_a_refused_look_up_of_archived_tickets_stops_nothing(
    status: int, destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.fail(1, status, path="/api/v2/tickets/show_many", body={"error": "InvalidEndpoint"})
    assert deliver(destination, source="poll").how == "ticket_created"


def test_within_the_life_of_its_key_nothing_is_looked_up(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    sending = Sending(destination, new_claimed())
    sending.go()
    assert sending.again(sent_s_ago=KEY_LIFE_S).how == "ticket_created"
    assert len(zendesk.tickets) == 1 and look_ups(zendesk) == []


def test_a_frozen_ticket_whose_post_got_a_ticket_meanwhile_becomes_a_note(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    """A person had another item of the post sent again."""
    sending = Sending(destination, new_claimed("e2"))
    reference = deliver(destination, "e1").reference
    sent = sending.again(latest_reference=reference)
    assert (sent.how, sent.reference) == ("note_added", reference)
    assert [(draft.kind, draft.target) for draft in sending.drafts] == [("ticket", None), ("note", reference)]
    assert len(zendesk.tickets) == 1


def test_a_frozen_ticket_that_exists_after_all_is_found_beside_a_later_one(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.reset(1, effect=True, method="POST", path="/api/v2/tickets")
    sending = Sending(destination, new_claimed("e2"))
    with pytest.raises(Unavailable):
        sending.go()
    later = deliver(destination, "e1").reference
    sent = sending.again(latest_reference=later)
    assert (sent.how, sent.reference) == ("ticket_found", str(zendesk.tickets[0].id))
    assert len(zendesk.tickets) == 2


def test_a_frozen_follow_up_whose_post_got_another_ticket_meanwhile_becomes_a_note_on_that_one(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    first = deliver(destination, "e1").reference
    zendesk.close_ticket(int(first))
    zendesk.faults.reset(1, effect=False, method="POST", path="/api/v2/tickets")
    sending = Sending(destination, new_claimed("e2", latest_reference=first))
    with pytest.raises(Unavailable):
        sending.go()
    second = deliver(destination, "e3", latest_reference=first).reference
    sent = sending.again(latest_reference=second)
    assert (sent.how, sent.reference) == ("note_added", second)
    assert len(zendesk.tickets) == 2


@pytest.mark.parametrize("changes", [{"attempts": 2}, {"source": "poll"}], ids=["again", "polled"])
def test_a_note_that_may_exist_is_looked_up_and_found(
    changes: dict[str, Any], destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    deliver(destination, "e2", latest_reference=reference)
    sent = deliver(destination, "e2", latest_reference=reference, **changes)
    assert (sent.how, sent.reference) == ("note_found", reference)
    assert len(zendesk.tickets[0].comments) == 2


def test_other_words_under_a_known_key_find_the_ticket_in_the_end(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    """The database was lost, and a setting has changed."""
    reference = deliver(destination).reference
    sent = deliver(destination, payload={"labels": [], "item": {**POST, "text": "Other"}})
    assert (sent.how, sent.reference) == ("ticket_found", reference)


def test_a_note_refused_for_another_reason_than_its_ticket_is_refused(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    reference = deliver(destination).reference
    zendesk.faults.fail(1, 422, method="PUT")
    with pytest.raises(Rejected):
        deliver(destination, "e2", latest_reference=reference)
    assert len(creations(zendesk)) == 1


# The check


@pytest.mark.parametrize("me", [{"status": 429, "headers": {"Retry-After": "600"}}, {"status": 503}], ids=str)
def test_the_check_needs_no_answer_to_who_we_are(answers: responses.RequestsMock, me: dict[str, Any]) -> None:
    answers.get(f"{BASE}/api/v2/tickets", **LIST)
    answers.get(f"{BASE}/api/v2/users/me", **me)
    assert by_api_token().check() == "an API token"


def test_the_check_of_an_oauth_client_that_may_not_ask_who_it_is(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    assert destination.check() == "an OAuth client, granted tickets:read tickets:write"
    assert [call.query for call in look_ups(zendesk)] == [f"external_id={CHECK_ID}"]
    assert zendesk.calls[-1].status == 403 and zendesk.tickets == []


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (by_oauth, "an OAuth client of an admin, granted tickets:read tickets:write"),
        (by_api_token, "an API token of an admin"),
    ],
    ids=["OAuth", "API token"],
)
def test_the_check_names_the_credentials_and_whose_they_are(
    new: Callable[[], ZendeskDestination], text: str, answers: responses.RequestsMock
) -> None:
    if new is by_oauth:
        grant(answers)
    answers.get(f"{BASE}/api/v2/tickets", json={"tickets": []})
    answers.get(f"{BASE}/api/v2/users/me", json={"user": {"id": 1, "role": "admin"}})
    assert new().check() == text


@pytest.mark.parametrize(
    ("tickets", "me", "kind"),
    [
        ({"status": 401}, None, AuthFailed),
        ({"status": 403}, None, AuthFailed),
        ({"status": 404}, None, AuthFailed),
        ({"status": 404, "json": {"error": "InvalidEndpoint"}}, None, AuthFailed),
        ({"status": 402}, None, AuthFailed),
        ({"status": 422}, None, Rejected),
        ({"status": 429}, None, Limited),
        ({"status": 503}, None, Unavailable),
        ({"json": {"tickets": []}}, {"status": 401}, AuthFailed),
        ({"json": {"tickets": []}}, {"json": {"user": {"id": 1, "role": "end-user"}}}, AuthFailed),
        ({"json": {"tickets": []}}, {"json": {"user": {"id": None}}}, AuthFailed),
    ],
)
def test_the_check_fails_as_a_delivery_would(
    tickets: dict[str, Any], me: dict[str, Any] | None, kind: type[Exception], answers: responses.RequestsMock
) -> None:
    answers.get(f"{BASE}/api/v2/tickets", **tickets)
    if me is not None:
        answers.get(f"{BASE}/api/v2/users/me", **me)
    with pytest.raises(ServiceError) as caught:
        by_api_token().check()
    assert type(caught.value) is kind
