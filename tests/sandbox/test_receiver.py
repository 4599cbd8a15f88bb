"""The simulated receiver of webhooks verifies as the standard's own library signs, and fails on demand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from conftest import Clock
from standardwebhooks.webhooks import Webhook

from sandbox.receiver import FakeReceiver, new_secret
from sandbox.server import Server

BODY = {"type": "khoros.rule.applied", "timestamp": "2026-11-27T20:00:00Z", "data": {"item": {"text": "<b>Help</b>"}}}


@pytest.fixture
def receiver(clock: Clock) -> FakeReceiver:
    return FakeReceiver(clock=clock)


@pytest.fixture
def url(receiver: FakeReceiver) -> Iterator[str]:
    with Server(receiver.app) as server:
        yield server.url


def post(url: str, secret: str, at: float, *, name: str = "msg_1", body: Any = BODY) -> requests.Response:
    """One notification, signed by the library of Standard Webhooks."""
    text = body if isinstance(body, str) else json.dumps(body)
    signature = Webhook(secret).sign(name, datetime.fromtimestamp(at, UTC), text)
    headers = {"webhook-id": name, "webhook-timestamp": str(int(at)), "webhook-signature": signature}
    return requests.post(f"{url}/hooks/khoros", text.encode(), headers=headers, timeout=5)


def test_a_signed_notification_is_taken_once_however_often_it_comes(
    receiver: FakeReceiver, url: str, clock: Clock
) -> None:
    assert [post(url, receiver.secret, clock.now).status_code for _ in range(3)] == [200, 200, 200]
    [taken] = receiver.taken
    assert (taken.id, taken.type, taken.data, taken.came) == ("msg_1", BODY["type"], BODY["data"], 3)
    assert len(receiver.calls) == 3 and receiver.refused == []


@pytest.mark.parametrize("wrong", ["secret", "old", "early", "body", "missing"])
def test_what_is_not_authentic_is_refused(receiver: FakeReceiver, url: str, clock: Clock, wrong: str) -> None:
    if wrong == "missing":
        answer = requests.post(f"{url}/hooks/khoros", json=BODY, timeout=5)
    elif wrong == "body":
        text = json.dumps(BODY)
        signature = Webhook(receiver.secret).sign("msg_1", datetime.fromtimestamp(clock.now, UTC), text)
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(clock.now)),
            "webhook-signature": signature,
        }
        answer = requests.post(f"{url}/hooks/khoros", text + " ", headers=headers, timeout=5)
    else:
        at = clock.now + {"old": -301, "early": 301}.get(wrong, 0)
        answer = post(url, new_secret() if wrong == "secret" else receiver.secret, at)
    assert answer.status_code == 401
    assert receiver.taken == [] and len(receiver.refused) == 1


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_between_the_clocks_are_tolerated(
    receiver: FakeReceiver, url: str, clock: Clock, seconds: int
) -> None:
    assert post(url, receiver.secret, clock.now + seconds).status_code == 200


def test_a_signed_body_that_is_no_notification_is_answered_400(receiver: FakeReceiver, url: str, clock: Clock) -> None:
    for body in ("no JSON", "[]", "{}"):
        assert post(url, receiver.secret, clock.now, body=body).status_code == 400
    assert receiver.taken == []


def test_it_fails_on_demand_with_and_without_the_effect(receiver: FakeReceiver, url: str, clock: Clock) -> None:
    receiver.faults.fail(1, 503, retry_after=7)
    answer = post(url, receiver.secret, clock.now)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7") and receiver.taken == []
    receiver.faults.reset(1, effect=True)
    with pytest.raises(requests.ConnectionError):
        post(url, receiver.secret, clock.now)
    assert [one.came for one in receiver.taken] == [1]


def test_its_page_shows_what_came_and_runs_nothing_of_it(receiver: FakeReceiver, url: str, clock: Clock) -> None:
    post(url, receiver.secret, clock.now)
    post(url, receiver.secret, clock.now)
    post(url, new_secret(), clock.now)
    page = requests.get(url, timeout=5).text
    assert "1 webhook<" in page and "came 2 times, taken once" in page and "no webhook-signature fits" in page
    assert "&lt;b&gt;Help&lt;/b&gt;" in page and "<b>Help" not in page


@pytest.mark.parametrize(
    "item", [{"title": "Spring", "content": {"text": "Hello"}}, {"content": {"text": "Spring"}}, {"id": "Spring"}, None]
)
def test_the_page_names_whatever_a_notification_is_about(
    receiver: FakeReceiver, url: str, clock: Clock, item: Any
) -> None:
    post(url, receiver.secret, clock.now, body={**BODY, "data": {"item": item}})
    assert receiver.taken[0].about == ("Spring" if item else "")
    assert requests.get(url, timeout=5).status_code == 200


def test_its_state_can_be_asked_over_http(receiver: FakeReceiver, url: str, clock: Clock) -> None:
    requests.post(f"{url}/_sandbox/faults", json={"mode": "fail", "status": 410}, timeout=5)
    assert post(url, receiver.secret, clock.now).status_code == 410
    state = requests.get(f"{url}/_sandbox/state", timeout=5).json()
    assert (state["taken"], state["refused"], state["calls"]) == (0, 0, 1)
