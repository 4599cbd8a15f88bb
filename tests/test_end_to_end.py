"""The real process under gunicorn, between the simulated Khoros and Zendesk: it is killed, stopped and replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.__main__ import LABEL, pending, settings
from sandbox.khoros import REFUSED, FakeKhoros
from sandbox.relay import ROOT, Relay, free_port
from sandbox.server import Dropped, Server
from sandbox.zendesk import FakeZendesk

PATIENCE_S = 90.0  # for a busy machine; also longer than a lease, which a killed process leaves behind
GRACE_S = 30.0  # between SIGTERM and SIGKILL, as on Heroku


@dataclass
class World:
    """Khoros, the relay and Zendesk, connected."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    relay: Relay

    def acknowledged(self) -> set[str]:
        """The posts whose notification was answered 202."""
        uuids = {push.event_uuid for push in self.khoros.pushes if push.outcome == 202}
        return {self.khoros.event(uuid)["data"]["items"][0]["entityId"] for uuid in uuids}

    def ticketed(self) -> Counter[str]:
        """The number of tickets of each post."""
        return Counter(ticket.external_id for ticket in self.zendesk.tickets)


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        khoros, zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(khoros.close)
        stack.callback(zendesk.faults.clear)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        relay = Relay(env={})
        relay.env = settings(khoros, zendesk, khoros_url, zendesk_url, relay.url, tmp_path)
        relay.env["DATABASE_URL"] = database_url
        stack.callback(relay.kill)
        relay.start().wait_ready()
        wait_for(lambda: bool(khoros.subscriptions))
        yield World(khoros, zendesk, relay)


def wait_for(reached: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    pause = threading.Event()
    end_at = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < end_at, "not reached in time"
        pause.wait(0.02)


def exactly_one_each(world: World, posts: set[str]) -> None:
    wait_for(lambda: posts <= world.ticketed().keys())
    assert {post: number for post, number in world.ticketed().items() if number != 1} == {}


def test_a_label_becomes_a_ticket_and_the_same_call_twice_is_one(world: World) -> None:
    post = next(iter(world.khoros.posts))
    [event] = world.khoros.label(post, LABEL)
    for _ in range(20):
        world.khoros.repeat(event)
    assert world.khoros.drain()
    exactly_one_each(world, {post})
    assert Counter(push.outcome for push in world.khoros.pushes) == {202: 21}
    line = world.relay.wait_for_line("event=ticket_created")
    assert f"post={post}" in line and f"event_uuid={event}" in line


def test_kill_9_before_during_and_after_the_send_loses_and_doubles_nothing(world: World) -> None:
    """The first post has a ticket and no answer yet, the second is on its way, the third is only committed."""
    posts = iter(world.khoros.posts)
    done, under_way, committed = (next(posts) for _ in range(3))
    world.zendesk.faults.hang(1, PATIENCE_S, path="/api/v2/tickets", method="POST", effect=True)
    world.khoros.label(done, LABEL)
    wait_for(lambda: len(world.zendesk.tickets) == 1)
    world.zendesk.faults.hang(1, PATIENCE_S, path="/api/v2/tickets", method="POST", effect=False)
    world.khoros.label(under_way, LABEL)
    assert world.zendesk.faults.wait_until_hanging(2, PATIENCE_S)
    world.zendesk.faults.outage(503)
    world.khoros.label(committed, LABEL)
    wait_for(lambda: world.acknowledged() == {done, under_way, committed})
    world.relay.kill()
    world.zendesk.faults.clear()
    assert world.ticketed().keys() == {done}
    world.relay.start().wait_ready()
    exactly_one_each(world, {done, under_way, committed})


def test_kill_9_again_and_again_in_a_stream_loses_nothing_that_was_acknowledged(world: World) -> None:
    for _ in range(3):
        stream = threading.Thread(target=world.khoros.label_many, args=(30,))
        stream.start()
        acknowledged = len(world.acknowledged())
        wait_for(lambda: len(world.acknowledged()) > acknowledged + 5)  # noqa: B023 - it ends within the iteration
        world.relay.kill()
        stream.join(PATIENCE_S)
        world.relay.start().wait_ready()
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())


def test_sigterm_to_every_process_cuts_no_request(world: World) -> None:
    world.zendesk.latency_s = 1.0
    world.khoros.label_many(80)
    assert world.khoros.drain()
    wait_for(lambda: bool(world.zendesk.tickets))
    assert world.relay.stop(GRACE_S) == 0
    begun = [call for call in world.zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]
    assert 0 < len(begun) < 80 and {call.status for call in begun} == {201}
    world.zendesk.latency_s = 0
    world.relay.start().wait_ready()
    exactly_one_each(world, world.acknowledged())
    assert len(world.acknowledged()) == 80


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_two_processes_share_one_postgresql_and_one_is_killed(world: World) -> None:
    with Relay(env=world.relay.env) as second:
        second.wait_ready()
        world.khoros.label_many(60)
        wait_for(lambda: len(world.zendesk.tickets) > 10)
        second.kill()
        assert world.khoros.drain()
        exactly_one_each(world, world.acknowledged())
    made_by = [line for line in second.output if "event=ticket_created" in line]
    assert len(made_by) < 60


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_deliver_beside_the_service_does_its_share_and_finishes_its_calls_on_sigterm(world: World) -> None:
    world.zendesk.latency_s = 0.8
    command = [sys.executable, "-m", "flask", "--app", "app", "deliver"]
    environment = {**os.environ, **world.relay.env, "PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as worker:
        try:
            assert worker.stdout is not None
            lines = [worker.stdout.readline()]  # it is ready
            world.khoros.label_many(40)
            lines.append(worker.stdout.readline())
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(GRACE_S) == 0
            lines += worker.stdout.read().splitlines()
        finally:
            worker.kill()
    world.zendesk.latency_s = 0
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())
    made = [line for line in lines if "event=ticket_created" in line]
    assert 0 < len(made) < 40 and "event=connected destination=zendesk" in lines[0]
    assert not [line for line in lines if "lease_lost" in line or "stopped_in_flight" in line]
    wait_for(lambda: pending(world.relay) == 0)
    sent = [call.idempotency_key for call in world.zendesk.calls if call.method == "POST" and call.idempotency_key]
    assert len(sent) == len(set(sent))  # neither of the two sent an item of the other


def test_no_secret_and_no_customers_text_in_the_log(world: World) -> None:
    world.zendesk.faults.fail(1, 422, path="/api/v2/tickets", method="POST")
    world.zendesk.faults.reset(1, path="/api/v2/tickets", method="POST")
    world.khoros.faults.html(1)
    for post in world.khoros.posts:
        world.khoros.label(post, LABEL)
    wait_for(lambda: len(world.zendesk.tickets) == len(world.khoros.posts) - 1)
    world.relay.stop()
    log = "\n".join(world.relay.output)
    secrets = [world.relay.env[name] for name in ("SPREDFAST_API_TOKEN", "NOTIFICATION_BEARER_TOKEN")]
    secrets += [world.relay.env["ZENDESK_CLIENT_SECRET"], "Authorization", "access_token"]
    words = [word for post in world.khoros.posts.values() for word in str(post["text"] or "").split() if len(word) > 8]
    assert words and "event=ticket_created" in log and "event=parked" in log
    assert [word for word in secrets + words if word in log] == []


def test_every_line_of_the_log_is_logfmt(world: World) -> None:
    world.khoros.label(next(iter(world.khoros.posts)), LABEL)
    world.relay.wait_for_line("event=ticket_created")
    world.relay.stop()
    assert [line for line in world.relay.output if not line.startswith("at=")] == []


def test_without_settings_it_names_what_is_missing_and_ends() -> None:
    relay = Relay(env={"SPREDFAST_COMPANY_ID": "twelve"})
    relay.start()
    wait_for(lambda: not relay.running)
    assert relay.wait_ended() != 0
    text = "\n".join(relay.output)
    assert "SPREDFAST_COMPANY_ID is not a whole number" in text and "ZENDESK_API_URL is missing" in text
    assert "Traceback" not in text


def test_the_demo_ends_well_and_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "sandbox", "--once"]
    demo = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "3 posts labelled, 3 tickets, 0 lost, 0 twice" in demo.stdout
    assert "Slack #social-care: 3 messages" in demo.stdout and "Webhook: 1 of 1 received" in demo.stdout


def test_a_worker_that_is_killed_is_replaced_and_goes_on(world: World) -> None:
    world.khoros.label_many(5)
    worker = world.relay.pids[1]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(world.relay.pids) > 1 and worker not in world.relay.pids)
    world.relay.wait_ready()
    world.khoros.label_many(5)
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())


def test_labels_of_the_time_it_was_down_are_fetched_at_the_next_start(world: World) -> None:
    """Khoros pushes an event once and never again."""
    before, *missed = world.khoros.label_many(1) + list(world.khoros.posts)[:3]
    exactly_one_each(world, {before})
    assert world.khoros.drain()  # the ticket can be there before the answer is
    world.relay.kill()
    for post in missed:
        world.khoros.label(post, LABEL)
    assert world.khoros.drain()
    assert Counter(push.outcome for push in world.khoros.pushes) == {202: 1, REFUSED: 3}
    world.relay.start().wait_ready()
    exactly_one_each(world, {before, *missed})
    world.relay.wait_for_line("event=caught_up event_name=\\S+ accepted=3")


class Router:
    """A platform's router in front of two generations of the relay. It passes each request on to `backend`, over a new
    connection. `app` is the WSGI app."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.requests: Counter[str] = Counter()  # answered, by backend

    def app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        backend = self.backend
        headers = {"Authorization": environ["HTTP_AUTHORIZATION"], "Content-Type": environ["CONTENT_TYPE"]}
        try:
            answer = requests.post(
                f"{backend}{environ['PATH_INFO']}",
                data=environ["wsgi.input"].read(),
                headers={**headers, "Connection": "close"},
                timeout=PATIENCE_S,
            )
        except requests.RequestException as error:
            raise Dropped(backend) from error
        self.requests[backend] += 1
        start_response(f"{answer.status_code} {answer.reason}", [("Content-Type", answer.headers["Content-Type"])])
        return [answer.content]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_deploy_cuts_no_request_and_leaves_no_gap(world: World) -> None:
    """The new generation starts beside the old one. Then the old one gets SIGTERM, and the router uses the new one."""
    old, router, ended = world.relay, Router(world.relay.url), threading.Event()

    def label() -> None:
        while not ended.is_set():
            world.khoros.label_many(5)
            world.khoros.drain(PATIENCE_S)

    with Server(router.app) as front, Relay(env={**old.env, "PUBLIC_URL": front.url}) as new:
        new.wait_ready()
        wait_for(lambda: [s.notification_uri for s in world.khoros.subscriptions] == [f"{front.url}/notifications"])
        stream = threading.Thread(target=label)
        stream.start()
        try:
            wait_for(lambda: router.requests[old.url] > 20)
            old.terminate()
            router.backend = new.url
            wait_for(lambda: router.requests[new.url] > 20)
            assert old.wait_ended(GRACE_S) == 0
        finally:
            ended.set()
            stream.join(PATIENCE_S)
        assert Counter(push.outcome for push in world.khoros.pushes).keys() == {202}
        exactly_one_each(world, {post for post, item in world.khoros.posts.items() if LABEL in item["labels"]})


def test_no_server_accepts_a_notification_that_nobody_delivers(world: World) -> None:
    """`flask run` starts no background work."""
    port = free_port()
    command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", str(port)]
    environment = {**os.environ, **world.relay.env, "PYTHON_DOTENV_DISABLED": "1"}
    world.relay.kill()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_for(lambda: is_up(f"http://127.0.0.1:{port}/health"))
            data = {"items": [next(iter(world.khoros.posts.values()))]}
            body = {"companyId": 123, "eventName": "stream-item-label-applied", "eventUuid": "e", "data": data}
            token = {"Authorization": f"Bearer {world.relay.env['NOTIFICATION_BEARER_TOKEN']}"}
            url = f"http://127.0.0.1:{port}/notifications"
            assert requests.post(url, json=body, headers=token, timeout=PATIENCE_S).status_code == 503
        finally:
            server.terminate()
            server.wait(GRACE_S)


def is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code > 0
    except requests.ConnectionError:
        return False


def test_a_button_deploy_learns_its_address_from_the_first_visit(database_url: str, tmp_path: Path) -> None:
    """A dyno whose host name nobody could know beforehand: nobody types an address."""
    with ExitStack() as stack:
        khoros, zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(khoros.close)
        khoros_url = stack.enter_context(Server(khoros.app)).url
        zendesk_url = stack.enter_context(Server(zendesk.app)).url
        relay = Relay(env={})
        relay.env = settings(khoros, zendesk, khoros_url, zendesk_url, relay.url, tmp_path)
        relay.env |= {"DATABASE_URL": database_url, "DYNO": "web.1", "HEROKU_APP_NAME": "our-relay", "PUBLIC_URL": ""}
        stack.enter_context(relay).wait_ready()
        relay.wait_for_line("event=subscription_no_address")
        host = f"our-relay-{os.urandom(6).hex()}.herokuapp.com"
        for visited in ("evil.example", "other-app-0123.herokuapp.com", host):
            visit(relay, visited)
        relay.wait_for_line("event=subscribed")
        [subscription] = khoros.subscriptions
        assert subscription.notification_uri == f"https://{host}/notifications"


def visit(relay: Relay, host: str) -> None:
    """Opens the landing page as Heroku's router passes it on."""
    headers = {"Host": host, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "forged-0.herokuapp.com"}
    assert requests.get(f"{relay.url}/", headers=headers, timeout=PATIENCE_S).status_code == 200
