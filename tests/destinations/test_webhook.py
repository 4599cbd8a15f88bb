"""The signed webhook: the standard's own library reads what is sent, and every answer gets what the standard says."""

from __future__ import annotations

import base64
import json
import logging
import re
import runpy
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from conftest import Clock, new_post
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from config import ConfigError, Reader
from destinations.delivery import Delivery
from destinations.webhook import WEBHOOK_VARIABLES, WebhookDestination, WebhookSettings, notification_type
from events import CREDENTIALS, LABEL_APPLIED, MESSAGES, RULE_APPLIED, Rule, Subject
from inbox.inbox import Inbox
from inbox.items import Draft, Item, NewItem
from outbound import AuthFailed, Limited, Rejected, ServiceError, Unavailable
from sandbox.receiver import HOOK_PATH, FakeReceiver, new_secret
from sandbox.server import Server

DOCUMENT = Path(__file__).parents[2] / "docs" / "webhooks.md"
HIDDEN = "T0PSECRET/B1"
URL = f"https://hooks.example/{HIDDEN}"
NAME = "webhook:hooks.example/1a2b3c4d"
MESSAGE = {"id": "77", "title": "Spring", "service": "FACEBOOK", "content": {"text": "Hello"}, "labels": []}


def new_payload(
    event: str = LABEL_APPLIED, at: str = "Wed Apr 12 09:01:11 CDT 2017", raw: Any = None
) -> dict[str, Any]:
    rule = Rule("9", "Product recall") if event == "rule-applied" else None
    return Subject(event, at, ("CreateCase",), ("CreateCase",), rule, raw or new_post()).payload()


def claimed(destination: WebhookDestination, payload: Any = None, event: str = "event-1", **changes: Any) -> Item:
    """An item as the inbox hands it out, with its draft."""
    fields: dict[str, Any] = {
        "id": 1,
        "destination": destination.name,
        "event_uuid": event,
        "subject_id": "twitter:1",
        "source": "push",
        "request_id": None,
        "payload": payload or new_payload(),
        "age_s": 60.0,
        "attempts": 1,
        "sent_s_ago": None,
        "draft": None,
        "latest_reference": None,
        "gate_version": 0,
        **changes,
    }
    item = Item(**fields)
    return Item(**{**fields, "draft": destination.compose(item)}) if item.draft is None else item


def no_refreeze(draft: Draft) -> Item:
    raise AssertionError("a webhook's words never change")


def new_destination(secrets: tuple[str, ...], url: str, clock: Clock | None = None) -> WebhookDestination:
    more = {"clock": clock} if clock else {}
    return WebhookDestination(WebhookSettings(secrets), url, NAME, **more)


@pytest.fixture
def receiver() -> FakeReceiver:
    return FakeReceiver()


@pytest.fixture
def url(receiver: FakeReceiver) -> Iterator[str]:
    with Server(receiver.app) as server:
        yield server.url + HOOK_PATH


@pytest.fixture
def destination(receiver: FakeReceiver, url: str) -> WebhookDestination:
    return new_destination((receiver.secret,), url)


# What is sent


def test_the_library_of_the_standard_verifies_what_is_sent(
    destination: WebhookDestination, receiver: FakeReceiver
) -> None:
    item = claimed(destination)
    sent = destination.send(item, no_refreeze)
    [call] = receiver.calls
    body = Webhook(receiver.secret).verify(call.body, dict(call.headers))
    assert set(body) == {"type", "timestamp", "data"} and call.headers["content-type"] == "application/json"
    assert (body["type"], body["timestamp"]) == ("khoros.stream_item.label_applied", "2017-04-12T14:01:11.000+00:00")
    assert body["data"] == {
        "event_uuid": "event-1",
        "labels": ["CreateCase"],
        "matched": ["CreateCase"],
        "rule": None,
        "item": new_post(),
    }
    assert (sent.how, sent.reference, sent.status) == ("webhook_sent", call.headers["webhook-id"], 200)
    assert len(receiver.taken) == 1


def test_a_changed_body_id_or_time_is_noticed(destination: WebhookDestination, receiver: FakeReceiver) -> None:
    destination.send(claimed(destination), no_refreeze)
    [call] = receiver.calls
    for changes in (
        {"webhook-id": "msg_other"},
        {"webhook-timestamp": str(int(call.headers["webhook-timestamp"]) - 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(receiver.secret).verify(call.body, {**call.headers, **changes})
    with pytest.raises(WebhookVerificationError):
        Webhook(receiver.secret).verify(call.body + b" ", dict(call.headers))


@pytest.mark.parametrize(
    ("event_name", "name"),
    [
        ("stream-item-label-applied", "khoros.stream_item.label_applied"),
        ("rule-applied", "khoros.rule.applied"),
        ("message-published", "khoros.message.published"),
        ("message-sent-to-network", "khoros.message.sent_to_network"),
        ("message-needs-approval", "khoros.message.needs_approval"),
        ("credential-deauth", "khoros.credential.deauth"),
        ("credential-delete", "khoros.credential.delete"),
        ("something", "khoros.something"),
        ("odd name-of it", "khoros.odd_name.of_it"),
    ],
)
def test_each_event_has_a_type_of_words_with_dots(event_name: str, name: str) -> None:
    assert notification_type(event_name) == name


def test_a_rule_and_a_message_go_out_as_khoros_sent_them(destination: WebhookDestination) -> None:
    bodies = [
        json.loads(claimed(destination, new_payload("rule-applied")).draft.body),  # type: ignore[union-attr]
        json.loads(claimed(destination, new_payload("message-published", raw=MESSAGE)).draft.body),  # type: ignore[union-attr]
    ]
    assert bodies[0]["data"]["rule"] == {"id": "9", "name": "Product recall"}
    assert (bodies[1]["type"], bodies[1]["data"]["item"]) == ("khoros.message.published", MESSAGE)


def test_without_a_readable_date_the_notification_has_the_time_of_its_arrival(clock: Clock) -> None:
    destination = new_destination((new_secret(),), URL, clock)
    draft = claimed(destination, new_payload(at="long ago")).draft
    assert draft and json.loads(draft.body)["timestamp"] == "2023-11-14T22:12:20.000+00:00"  # the clock less 60 s


def test_the_id_is_the_same_for_the_same_event_and_subject_only(destination: WebhookDestination) -> None:
    other_process = new_destination((new_secret(),), URL)
    names = [
        claimed(one, event=event, subject_id=subject).draft.key  # type: ignore[union-attr]
        for one in (destination, other_process)
        for event, subject in (("event-1", "twitter:1"), ("event-1", "twitter:2"), ("event-2", "twitter:1"))
    ]
    assert names[:3] == names[3:] and len(set(names)) == 3
    assert all(re.fullmatch("[A-Za-z0-9_]{1,64}", name) for name in names)  # no ".": it would blur what is signed


def test_a_retry_sends_the_same_body_and_id_with_a_new_time(clock: Clock) -> None:
    receiver = FakeReceiver(clock=clock)
    receiver.faults.reset(1, effect=True)
    receiver.faults.fail(1, 500)
    with Server(receiver.app) as server:
        destination = new_destination((receiver.secret,), server.url + HOOK_PATH, clock)
        item = claimed(destination)
        for _ in range(2):
            with pytest.raises(Unavailable):
                destination.send(item, no_refreeze)
            clock.advance(900)
        destination.send(item, no_refreeze)
    calls = receiver.calls
    assert len({call.body for call in calls}) == 1 and len({call.headers["webhook-id"] for call in calls}) == 1
    times = [int(call.headers["webhook-timestamp"]) for call in calls]
    assert times == [int(clock.now) - 1800, int(clock.now) - 900, int(clock.now)]
    assert [one.came for one in receiver.taken] == [2] and receiver.refused == []


def test_what_was_frozen_is_sent_although_it_would_be_composed_otherwise_now(
    destination: WebhookDestination, receiver: FakeReceiver
) -> None:
    draft = Draft("webhook", b'{"type": "khoros.test", "timestamp": "then", "data": {}}', "msg_frozen")
    destination.send(claimed(destination, draft=draft), no_refreeze)
    [call] = receiver.calls
    assert (call.body, call.headers["webhook-id"]) == (draft.body, "msg_frozen") and receiver.refused == []


def test_while_the_secret_changes_both_sign(url: str, receiver: FakeReceiver) -> None:
    new = new_secret()
    destination = new_destination((new, receiver.secret), url)
    destination.send(claimed(destination), no_refreeze)
    [call] = receiver.calls
    assert [mark.partition(",")[0] for mark in call.headers["webhook-signature"].split(" ")] == ["v1", "v1"]
    for secret in (new, receiver.secret):
        assert Webhook(secret).verify(call.body, dict(call.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(call.body, dict(call.headers))
    assert len(receiver.taken) == 1


# What comes back


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_every_2xx_is_done(status: int) -> None:
    with responses.RequestsMock() as there:
        there.post(URL, status=status)
        destination = new_destination((new_secret(),), URL)
        assert destination.send(claimed(destination), no_refreeze).status == status


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (301, Unavailable, "redirects are not followed"),
        (302, Unavailable, "redirects are not followed"),
        (307, Unavailable, "redirects are not followed"),
        (400, Rejected, "refuses this webhook"),
        (401, AuthFailed, "refuses our signature"),
        (403, AuthFailed, "refuses our signature"),
        (404, Rejected, "refuses this webhook"),
        (408, Unavailable, "answered 408"),
        (410, AuthFailed, "410 Gone"),
        (413, Rejected, "refuses this webhook"),
        (422, Rejected, "refuses this webhook"),
        (425, Unavailable, "answered 425"),
        (429, Limited, "answered 429"),
        (500, Unavailable, "answered 500"),
        (502, Unavailable, "answered 502"),
        (503, Unavailable, "answered 503"),
        (504, Unavailable, "answered 504"),
    ],
)
def test_each_answer_says_what_to_do_next(status: int, kind: type[ServiceError], words: str) -> None:
    with responses.RequestsMock() as there:
        there.post(URL, status=status, headers={"Location": "https://elsewhere.example/", "Retry-After": "17"})
        destination = new_destination((new_secret(),), URL)
        with pytest.raises(ServiceError) as failure:
            destination.send(claimed(destination), no_refreeze)
        assert len(there.calls) == 1
    assert type(failure.value) is kind and words in str(failure.value)
    assert str(failure.value).startswith(f"Webhook hooks.example answered {status}")
    assert failure.value.status == status
    waits = {301, 302, 307, 408, 425, 429, 500, 502, 503, 504}
    assert failure.value.retry_after_s == (17.0 if status in waits else None)


def test_a_redirect_is_not_followed(destination: WebhookDestination, receiver: FakeReceiver, url: str) -> None:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as there:
        there.post(url, status=302, headers={"Location": "https://elsewhere.example/"})
        there.post(elsewhere := "https://elsewhere.example/", status=200)
        there.get(elsewhere, status=200)
        with pytest.raises(Unavailable):
            destination.send(claimed(destination), no_refreeze)
        assert [call.request.url for call in there.calls] == [url]


def test_no_answer_is_an_unknown_outcome(destination: WebhookDestination, receiver: FakeReceiver) -> None:
    receiver.faults.reset(1, effect=True)
    with pytest.raises(Unavailable):
        destination.send(claimed(destination), no_refreeze)
    assert destination.send(claimed(destination), no_refreeze).how == "webhook_sent"
    assert [one.came for one in receiver.taken] == [2]  # by its id the receiver takes it once


# 410


def test_after_410_the_address_is_called_no_more(destination: WebhookDestination, receiver: FakeReceiver) -> None:
    receiver.faults.fail(1, 410)
    for _ in range(3):
        with pytest.raises(
            AuthFailed, match="Webhook hooks.example answered 410 Gone: correct its address in ROUTES, or restart"
        ):
            destination.send(claimed(destination), no_refreeze)
    with pytest.raises(AuthFailed, match="410 Gone"):
        destination.check()
    assert len(receiver.calls) == 1


def test_a_call_that_was_under_way_at_a_410_changes_nothing() -> None:
    destination = new_destination((new_secret(),), URL)
    item = claimed(destination)

    def slow(request: Any) -> tuple[int, dict[str, str], str]:
        with pytest.raises(AuthFailed):
            destination.send(item, no_refreeze)
        return 500, {}, ""

    with responses.RequestsMock(registry=responses.registries.OrderedRegistry) as there:
        there.add_callback("POST", URL, slow)
        there.post(URL, status=410)
        with pytest.raises(Unavailable):
            destination.send(item, no_refreeze)
    with pytest.raises(AuthFailed, match="410"):
        destination.check()


def test_410_stops_an_address_until_a_restart(inbox: Inbox, receiver: FakeReceiver, url: str, clock: Clock) -> None:
    receiver.faults.fail(1, 410)
    items = [NewItem(NAME, f"event-{n}", "twitter:1", new_payload()) for n in range(3)]
    inbox.accept(items)
    before = Delivery(inbox, new_destination((receiver.secret,), url))
    for _ in range(50):  # more than two hours, in which the gate lets probes through
        before.deliver_due()
        clock.advance(180)
    gate, _ = inbox.gate(NAME)
    assert len(receiver.calls) == 1 and receiver.taken == []
    assert gate.state == "unauthorised" and "410 Gone" in gate.reason
    assert (inbox.counts().pending, inbox.counts().parked) == (3, 0)

    after = Delivery(inbox, new_destination((receiver.secret,), url))
    after.check(despite_hold=True)  # as every delivery begins
    for _ in range(10):
        after.deliver_due()
        clock.advance(60)
    assert inbox.counts().pending == 0 and len(receiver.taken) == 3


# The check


def test_the_check_connects_and_sends_nothing(destination: WebhookDestination, receiver: FakeReceiver) -> None:
    assert "can be reached" in destination.check()
    assert receiver.calls == []


def test_the_check_says_when_nothing_is_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="nothing listens there"):
        new_destination((new_secret(),), f"http://127.0.0.1:{port}{HOOK_PATH}").check()


def test_the_check_wants_https_where_the_address_says_so(url: str) -> None:
    with pytest.raises(Unavailable, match="does not speak https"):
        new_destination((new_secret(),), url.replace("http://", "https://")).check()


def test_a_failure_may_be_about_one_item_and_the_next_one_is_not(
    destination: WebhookDestination, receiver: FakeReceiver
) -> None:
    def fail(status: int) -> None:
        receiver.faults.fail(1, status)
        with pytest.raises(ServiceError):
            destination.send(claimed(destination), no_refreeze)

    fail(503)
    assert "can be reached" in destination.check()
    fail(503)
    with pytest.raises(Unavailable, match="Webhook hooks.example answered 503"):
        destination.check()
    assert "can be reached" in destination.check()  # what was asked once is not held against it for ever
    fail(401)
    with pytest.raises(AuthFailed, match="refuses our signature"):
        destination.check()
    destination.send(claimed(destination), no_refreeze)
    fail(503)
    assert "can be reached" in destination.check()


def test_a_refusal_is_about_its_item_however_often_it_comes(
    destination: WebhookDestination, receiver: FakeReceiver
) -> None:
    receiver.faults.fail(3, 422)
    for _ in range(3):
        with pytest.raises(Rejected):
            destination.send(claimed(destination), no_refreeze)
        assert "can be reached" in destination.check()


def test_a_receiver_that_is_down_for_hours_parks_nothing(inbox: Inbox, clock: Clock) -> None:
    receiver = FakeReceiver(clock=clock)
    with Server(receiver.app) as server:
        receiver.faults.outage(503)
        delivery = Delivery(inbox, new_destination((receiver.secret,), server.url + HOOK_PATH, clock))
        inbox.accept([NewItem(NAME, "event-1", "twitter:1", new_payload())])
        for _ in range(300):
            delivery.deliver_due()
            clock.advance(40)
        assert (inbox.counts().pending, inbox.counts().parked) == (1, 0)
        assert inbox.gate(NAME)[0].state == "outage"
        receiver.faults.clear()
        delivery.deliver_due()
        assert inbox.counts().pending == 0 and len(receiver.taken) == 1


def test_one_notification_that_always_fails_is_parked_while_others_are_taken(inbox: Inbox, clock: Clock) -> None:
    receiver = FakeReceiver(clock=clock)
    with Server(receiver.app) as server:
        destination = new_destination((receiver.secret,), server.url + HOOK_PATH, clock)
        send = destination.send

        def poisoned(item: Item, refreeze: Any) -> Any:
            if item.event_uuid == "poison":
                receiver.faults.fail(1, 500)
            return send(item, refreeze)

        destination.send = poisoned  # type: ignore[method-assign]
        delivery = Delivery(inbox, destination)
        inbox.accept([NewItem(NAME, "poison", "twitter:0", new_payload())])
        for number in range(200):
            inbox.accept([NewItem(NAME, f"event-{number}", f"twitter:{number + 1}", new_payload())])
            for _ in range(3):
                delivery.deliver_due()
            clock.advance(61)
    assert (inbox.counts().pending, inbox.counts().parked) == (0, 1)
    assert len(receiver.taken) == 200


def test_behind_a_proxy_only_a_webhook_shows_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert new_destination((new_secret(),), URL).check()


# What nobody may see


@pytest.mark.parametrize("status", [302, 401, 404, 410, 429, 503, None])
def test_the_address_is_in_no_error_and_no_log_line(status: int | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    destination = new_destination((new_secret(),), f"http://127.0.0.1:9/{HIDDEN}")
    with responses.RequestsMock(assert_all_requests_are_fired=False) as there:
        if status is None:
            there.add_passthru("http://127.0.0.1:9")
        else:
            there.post(f"http://127.0.0.1:9/{HIDDEN}", status=status)
        with pytest.raises(ServiceError) as failure:
            destination.send(claimed(destination), no_refreeze)
    printed = "".join(traceback.format_exception(failure.value))
    assert HIDDEN not in f"{printed} {failure.value!r} {caplog.text}"
    assert HIDDEN not in f"{destination.name} {destination.title} {claimed(destination)}"


def test_the_settings_show_no_secret() -> None:
    secret = new_secret()
    assert secret not in repr(WebhookSettings((secret,)))


# The setting


def read_settings(value: str) -> WebhookSettings:
    read = Reader({"WEBHOOK_SECRET": value}, WEBHOOK_VARIABLES)
    settings = WebhookSettings.read(read)
    read.finish()
    return settings


def whsec(length: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(length))).decode()


@pytest.mark.parametrize("length", [24, 25, 26, 32, 64])
def test_a_secret_of_24_to_64_bytes_is_taken(length: int) -> None:
    assert read_settings(whsec(length)).secrets == (whsec(length),)


def test_two_secrets_are_read_in_their_order() -> None:
    assert read_settings(f"{whsec(24)} , {whsec(32)},").secrets == (whsec(24), whsec(32))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "secret",
        whsec(23),
        whsec(65),
        whsec(24)[6:],
        whsec(24)[:-1],
        whsec(32) + ",secret",
        "whsec_" + "é" * 40,
        ",",
    ],
)
def test_another_secret_is_a_fault_that_says_how_to_make_one(value: str) -> None:
    with pytest.raises(ConfigError) as fault:
        read_settings(value)
    assert 'echo "whsec_$(openssl rand -base64 32)"' in str(fault.value)
    assert len(value) < 5 or value not in str(fault.value)


# The document


def test_the_receiver_of_the_document_verifies_what_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line]) == 10
    secret = new_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    (tmp_path / "receiver.py").write_text(code)
    app = runpy.run_path(str(tmp_path / "receiver.py"))["app"]
    with Server(app.wsgi_app) as server:
        destination = new_destination((secret,), server.url + HOOK_PATH)
        sent = destination.send(claimed(destination), no_refreeze)
        stranger = new_destination((new_secret(),), server.url + HOOK_PATH)
        with pytest.raises(AuthFailed):
            stranger.send(claimed(stranger), no_refreeze)
    assert sent.status == 204
    assert capsys.readouterr().out.startswith(f"{sent.reference} khoros.stream_item.label_applied ")


def test_the_document_names_every_type_and_field(destination: WebhookDestination) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    names = (LABEL_APPLIED, RULE_APPLIED, *MESSAGES, *CREDENTIALS)
    draft = claimed(destination).draft
    fields = json.loads(draft.body)["data"] if draft else {}
    assert [name for name in (*map(notification_type, names), *fields) if f"`{name}`" not in document] == []
