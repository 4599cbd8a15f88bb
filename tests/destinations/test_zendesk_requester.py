"""The post's author as the requester: remembered, never waited for longer than seconds, never in a ticket's way."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from conftest import Clock, events, notification, relay_of
from flask import Flask
from posts import ITEM
from test_zendesk import Sending, new_claimed

from app import Settings
from destinations.zendesk import ZendeskDestination, ZendeskSettings
from destinations.zendesk_requester import PAUSES_S, USERS_PAUSE_S, Requester
from destinations.zendesk_words import Style
from inbox.database import Database, DatabaseUnavailable
from inbox.items import Item
from inbox.requesters import Requesters
from outbound import AuthFailed, Rejected, Unavailable
from sandbox.zendesk import FakeZendesk
from zendesk_client import ZendeskClient

USERS = "/api/v2/users/create_or_update"


@pytest.fixture
def users(database: Database, clock: Clock) -> Requesters:
    return Requesters(database, clock.advance)


@pytest.fixture
def new_destination(zendesk: FakeZendesk, users: Requesters, clock: Clock) -> Callable[[], ZendeskDestination]:
    def make() -> ZendeskDestination:
        url: str = zendesk.url  # type: ignore[attr-defined]
        own = partial(ZendeskClient, client_id=zendesk.client_id, client_secret=zendesk.client_secret)
        client = own(url, makes_users=True, clock=clock)
        return ZendeskDestination(
            client, url, Style(by_author=True), lambda subject: {}, Requester(client, users, clock)
        )

    return make


@pytest.fixture
def destination(new_destination: Callable[[], ZendeskDestination]) -> ZendeskDestination:
    return new_destination()


def by_ada(event: str = "e1", post: str = "twitter:1", author: str = "1234", **changes: Any) -> Item:
    raw = {**ITEM, "entityId": post, "authorId": author, "authorIcon": "https://pbs.example/ada.jpg"}
    payload = {"labels": ["CreateCase"], "matched": ["CreateCase"], "item": raw}
    return new_claimed(event, subject_id=post, payload=payload, **changes)


def asked(zendesk: FakeZendesk) -> int:
    return len([call for call in zendesk.calls if call.path == USERS])


def requester_of(zendesk: FakeZendesk, number: int = -1) -> Any:
    return zendesk.tickets[number].fields.get("requester_id")


def test_the_author_becomes_a_user_and_the_requester(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    sending = Sending(destination, by_ada())
    assert sending.go().how == "ticket_created"
    [user] = zendesk.users
    assert requester_of(zendesk) == user.id
    assert (user.external_id, user.name) == ("twitter:1234", "Ada Lovelace")
    assert user.remote_photo_url == "https://pbs.example/ada.jpg" and "https://twitter.com/ada" in user.details
    assert "A public reply in Zendesk does not reach the author" in zendesk.tickets[0].comments[0].html_body
    assert [draft.kind for draft in sending.drafts] == ["unaddressed", "ticket"]
    assert len({draft.key for draft in sending.drafts}) == 1


def test_composing_asks_nobody(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    draft = destination.compose(by_ada())
    assert draft == destination.compose(by_ada()) and b"requester_id" not in draft.body
    assert zendesk.calls == []


def test_the_next_post_of_the_author_asks_nothing(
    new_destination: Callable[[], ZendeskDestination], zendesk: FakeZendesk
) -> None:
    Sending(new_destination(), by_ada()).go()
    Sending(new_destination(), by_ada("e2", "twitter:2")).go()
    assert asked(zendesk) == 1
    assert requester_of(zendesk, 0) == requester_of(zendesk, 1)


def test_what_was_sent_is_sent_again_byte_for_byte(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    sending = Sending(destination, by_ada())
    zendesk.faults.fail(1, 503, path="/api/v2/tickets", method="POST", effect=True)
    with pytest.raises(Unavailable):
        sending.go()
    first = sending.draft
    assert sending.again().reference == str(zendesk.tickets[0].id)
    assert sending.draft == first and len(zendesk.tickets) == 1 and asked(zendesk) == 1


def test_a_post_waits_for_its_turn_but_only_seconds(
    destination: ZendeskDestination, zendesk: FakeZendesk, users: Requesters, clock: Clock
) -> None:
    assert users.wait_for_turn("twitter:9", 0)
    started = clock()
    Sending(destination, by_ada(age_s=9.0)).go()
    assert (requester_of(zendesk), clock() - started) == (None, 0)
    Sending(destination, by_ada("e2", "twitter:2")).go()
    assert requester_of(zendesk) and 1 <= clock() - started < 3


FAULTS = [
    {"status": 403},
    {"status": 404},
    {"status": 422},
    {"status": 429, "retry_after": 60},
    {"status": 500},
    {"status": 503, "retry_after": 60},
    {"status": 200, "body": "<html>"},
    {"status": 200, "body": '{"user": {}}'},
    {"status": 200, "body": '{"user": {"id": true}}'},
    {"status": 200, "body": '{"user": {"id": -5}}'},
    {"status": 200, "body": '{"user": {"id": 4242, "external_id": "twitter:somebody else"}}'},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_whatever_fails_costs_the_ticket_only_its_requester(
    fault: dict[str, Any],
    destination: ZendeskDestination,
    zendesk: FakeZendesk,
    users: Requesters,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "relay")
    zendesk.faults.fail(1, path=USERS, **fault)
    assert Sending(destination, by_ada()).go().how == "ticket_created"
    assert requester_of(zendesk) is None and len(zendesk.tickets) == 1
    assert events(caplog) == ["no_requester"] and users.recall("twitter:1234") is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 404, "body": "<html>"}, "Zendesk gave no user for the author: it answered 404"),
        (
            {"status": 422, "body": '{"error": "RecordInvalid", "details": {"name": [{"error": "TooShort"}]}}'},
            "Zendesk gave no user for the author: it answered 422 RecordInvalid name:TooShort",
        ),
        ({"status": 200, "body": '{"user": {}}'}, "Zendesk answered without a user id"),
    ],
)
def test_the_reason_speaks_of_the_user_and_not_of_a_ticket(
    fault: dict[str, Any],
    reason: str,
    destination: ZendeskDestination,
    zendesk: FakeZendesk,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "relay")
    zendesk.faults.fail(1, path=USERS, **fault)
    Sending(destination, by_ada()).go()
    assert [vars(record)["fields"]["reason"] for record in caplog.records] == [reason]


@pytest.mark.parametrize("rubbish", ["True", "-5", "None"])
def test_rubbish_that_was_remembered_blocks_nobody(
    rubbish: str, destination: ZendeskDestination, zendesk: FakeZendesk, users: Requesters
) -> None:
    users.remember("twitter:1234", rubbish)
    Sending(destination, by_ada()).go()
    assert requester_of(zendesk) == zendesk.users[0].id


def test_a_fault_of_ours_costs_the_ticket_only_its_requester(
    destination: ZendeskDestination,
    zendesk: FakeZendesk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> str:
        raise ValueError("a customer's text")

    caplog.set_level(logging.WARNING, "relay")
    monkeypatch.setattr(ZendeskClient, "make_user", broken)
    assert Sending(destination, by_ada()).go().how == "ticket_created"
    assert requester_of(zendesk) is None and events(caplog) == ["no_requester"]
    assert vars(caplog.records[0])["fields"]["reason"].startswith("ValueError at ")


def test_the_post_waits_while_the_database_is_away(
    destination: ZendeskDestination, zendesk: FakeZendesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> str:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Requesters, "recall", away)
    with pytest.raises(DatabaseUnavailable):
        Sending(destination, by_ada()).go()
    assert zendesk.tickets == []


@pytest.mark.parametrize(("asked_for_s", "pause_s"), [(300, 300), (5, PAUSES_S[1][1]), (90_000, USERS_PAUSE_S)])
def test_nobody_is_asked_for_as_long_as_zendesk_says(
    asked_for_s: int, pause_s: float, destination: ZendeskDestination, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.faults.fail(1, 429, path=USERS, retry_after=asked_for_s)
    Sending(destination, by_ada()).go()
    clock.advance(pause_s - 1)
    Sending(destination, by_ada("e2", "twitter:2")).go()
    assert asked(zendesk) == 1
    clock.advance(1)
    Sending(destination, by_ada("e3", "twitter:3")).go()
    assert asked(zendesk) == 2


def test_after_a_failure_nobody_is_asked_for_a_while(
    destination: ZendeskDestination, zendesk: FakeZendesk, clock: Clock
) -> None:
    zendesk.may_manage_users = False
    Sending(destination, by_ada()).go()
    zendesk.may_manage_users = True
    clock.advance(PAUSES_S[0][1] - 1)
    Sending(destination, by_ada("e2", "twitter:2")).go()
    assert (asked(zendesk), requester_of(zendesk)) == (1, None)
    clock.advance(1)
    Sending(destination, by_ada("e3", "twitter:3")).go()
    assert asked(zendesk) == 2 and requester_of(zendesk)


def test_in_an_outage_the_post_waits_and_keeps_its_requester(
    destination: ZendeskDestination, zendesk: FakeZendesk, clock: Clock
) -> None:
    sending = Sending(destination, by_ada())
    zendesk.faults.fail(9, 503)
    with pytest.raises(Unavailable):
        sending.go()
    assert sending.draft.kind == "unaddressed" and zendesk.tickets == []
    zendesk.faults.clear()
    clock.advance(60)
    sending.again(age_s=60.0)
    assert requester_of(zendesk) == zendesk.users[0].id


def test_without_the_scope_tickets_go_on(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    zendesk.client_scopes = {"tickets:read", "tickets:write"}
    assert Sending(destination, by_ada()).go().how == "ticket_created"
    assert requester_of(zendesk) is None


def test_an_author_without_a_name_of_its_own_is_no_user(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    item = by_ada()
    raw = {"entityId": "twitter:1", "text": "Hello", "author": "Jo"}
    Sending(destination, replace(item, payload={**item.payload, "item": raw})).go()
    assert (asked(zendesk), requester_of(zendesk), len(zendesk.tickets)) == (0, None, 1)


@pytest.mark.parametrize("gone", [FakeZendesk.suspend_user, FakeZendesk.delete_user], ids=["suspended", "deleted"])
def test_a_refused_requester_is_left_out_and_forgotten(
    gone: Callable[[FakeZendesk, int], None],
    destination: ZendeskDestination,
    zendesk: FakeZendesk,
    users: Requesters,
) -> None:
    Sending(destination, by_ada()).go()
    gone(zendesk, zendesk.users[0].id)
    sending = Sending(destination, by_ada("e2", "twitter:2"))
    assert sending.go().how == "ticket_created"
    assert (len(zendesk.tickets), requester_of(zendesk)) == (2, None)
    assert b"requester_id" in sending.drafts[-2].body and b"requester_id" not in sending.draft.body
    assert sending.drafts[-2].key != sending.draft.key
    assert users.recall("twitter:1234") is None


def test_a_suspended_author_is_not_asked_to_be_the_requester(
    destination: ZendeskDestination, zendesk: FakeZendesk, users: Requesters, clock: Clock
) -> None:
    Sending(destination, by_ada()).go()
    zendesk.suspend_user(zendesk.users[0].id)
    users.forget("twitter:1234")
    clock.advance(9)
    Sending(destination, by_ada("e2", "twitter:2")).go()
    assert (requester_of(zendesk), users.recall("twitter:1234")) == (None, None)


def test_a_ticket_that_is_refused_for_another_reason_keeps_its_requester_in_mind(
    destination: ZendeskDestination, zendesk: FakeZendesk, users: Requesters
) -> None:
    zendesk.faults.fail(2, 422, path="/api/v2/tickets", method="POST")
    with pytest.raises(Rejected):
        Sending(destination, by_ada()).go()
    assert users.recall("twitter:1234")


def test_a_known_key_with_other_words_makes_no_second_ticket(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.fail(1, 400, path="/api/v2/tickets", method="POST", body='{"error": "IdempotentRequestError"}')
    with pytest.raises(Rejected):
        Sending(destination, by_ada()).go()
    assert zendesk.tickets == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_lost_right_to_make_tickets_is_still_seen(
    status: int, destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    zendesk.faults.fail(4, status, path="/api/v2/tickets", method="POST")
    with pytest.raises(AuthFailed):
        Sending(destination, by_ada()).go()


def test_a_follow_up_has_the_requester_too(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    reference = Sending(destination, by_ada()).go().reference
    zendesk.close_ticket(int(reference))
    sent = Sending(destination, by_ada("e2", latest_reference=reference)).go()
    assert sent.how == "follow_up_created"
    assert requester_of(zendesk, 0) == requester_of(zendesk, 1) == zendesk.users[0].id


def test_the_setting_makes_it_so(
    new_app: Callable[[Settings], Flask], settings: Settings, zendesk: FakeZendesk
) -> None:
    account = ZendeskSettings(zendesk.url, zendesk.client_id, zendesk.client_secret, requester="author")  # type: ignore[attr-defined]
    relay = relay_of(new_app(replace(settings, zendesk=account)))
    relay.receiver.take(notification("e1", {**ITEM, "authorId": "1234"}), source="push")
    relay.deliveries["zendesk"].deliver_due()
    assert requester_of(zendesk) == zendesk.users[0].id


# The check


def test_the_check_tries_the_right_and_makes_no_user(destination: ZendeskDestination, zendesk: FakeZendesk) -> None:
    destination.check()
    assert (asked(zendesk), zendesk.users, destination.notice) == (1, [], "")


@pytest.mark.parametrize("lacks", ["the role", "the scope"])
def test_the_check_names_the_missing_right_until_it_is_given(
    lacks: str, new_destination: Callable[[], ZendeskDestination], zendesk: FakeZendesk, clock: Clock
) -> None:
    scopes, destination = zendesk.client_scopes, new_destination()
    if lacks == "the role":
        zendesk.may_manage_users = False
    else:
        zendesk.client_scopes = {"tickets:read", "tickets:write"}
    assert "granted" in destination.check()
    assert "users:write" in destination.notice and "manage end users" in destination.notice
    zendesk.may_manage_users, zendesk.client_scopes = True, scopes
    clock.advance(3600)
    destination.check()
    assert destination.notice == ""


def test_only_a_relay_that_makes_users_asks_for_the_scope(
    destination: ZendeskDestination, zendesk: FakeZendesk
) -> None:
    destination.check()
    plain = ZendeskClient(zendesk.url, client_id=zendesk.client_id, client_secret=zendesk.client_secret)  # type: ignore[attr-defined]
    plain.prove()
    asked_for = [json.loads(call.body)["scope"] for call in zendesk.calls if call.path == "/oauth/tokens"]
    assert asked_for == ["tickets:read tickets:write users:write", "tickets:read tickets:write"]
