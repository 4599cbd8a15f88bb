"""The real service under gunicorn, between the sandbox's Khoros and Zendesk: what happens when it is killed?"""

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

import pytest
import requests

from delivery import LEASE_S
from sandbox.__main__ import LABEL, pending, settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import ROOT, Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk


@dataclass
class World:
    """Khoros, the relay and Zendesk, connected."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    relay: Relay

    def acknowledged(self) -> set[str]:
        """The posts whose notification was answered 2xx."""
        taken = {push.event_uuid for push in self.khoros.pushes if push.outcome == 202}
        return {self.khoros.event(uuid)["data"]["items"][0]["entityId"] for uuid in taken}

    def ticketed(self) -> Counter[str]:
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


def wait_for(reached: Callable[[], bool], timeout_s: float = 30.0) -> None:
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
    """One post whose ticket exists though no answer came, one that was on its way, one that had only been committed."""
    posts = iter(world.khoros.posts)
    done, under_way, committed = (next(posts) for _ in range(3))
    world.zendesk.faults.hang(1, 30, path="/api/v2/tickets", method="POST", effect=True)
    world.khoros.label(done, LABEL)
    wait_for(lambda: len(world.zendesk.tickets) == 1)
    world.zendesk.faults.hang(1, 30, path="/api/v2/tickets", method="POST", effect=False)
    world.khoros.label(under_way, LABEL)
    assert world.zendesk.faults.wait_until_hanging(2)
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
        stream.join(10)
        world.relay.start().wait_ready()
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())


def test_sigterm_to_every_process_cuts_no_request_and_leaves_soon(world: World) -> None:
    world.zendesk.latency_s = 1.0
    world.khoros.label_many(40)
    assert world.khoros.drain()
    wait_for(lambda: bool(world.zendesk.tickets))
    started = time.monotonic()
    assert world.relay.stop() == 0
    assert time.monotonic() - started < 20
    begun = [call for call in world.zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]
    assert 0 < len(begun) < 40 and {call.status for call in begun} == {201}
    world.zendesk.latency_s = 0
    world.relay.start().wait_ready()
    exactly_one_each(world, world.acknowledged())
    assert len(world.acknowledged()) == 40


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
def test_deliver_beside_the_service_takes_its_share_and_ends_on_sigterm_with_what_it_has_in_hand(world: World) -> None:
    world.zendesk.latency_s = 0.8
    command = [sys.executable, "-m", "flask", "--app", "app", "deliver"]
    environment = {**os.environ, **world.relay.env, "PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as worker:
        try:
            assert worker.stdout is not None
            lines = [worker.stdout.readline()]  # it works from here on
            world.khoros.label_many(40)
            lines.append(worker.stdout.readline())
            started = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) == 0
            assert time.monotonic() - started < 20
            lines += worker.stdout.read().splitlines()
        finally:
            worker.kill()
    world.zendesk.latency_s = 0
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())
    made = [line for line in lines if "event=ticket_created" in line]
    assert 0 < len(made) < 40 and "event=zendesk_connected" in lines[0]
    assert not [line for line in lines if "lease_lost" in line or "stopped_in_flight" in line]
    wait_for(lambda: pending(world.relay) == 0)
    sent = [call.idempotency_key for call in world.zendesk.calls if call.method == "POST" and call.idempotency_key]
    assert len(sent) == len(set(sent))  # neither of the two sent what the other one had


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


def test_half_configured_it_says_what_is_missing_and_ends_at_once() -> None:
    relay = Relay(env={"SPREDFAST_COMPANY_ID": "twelve"})
    started = time.monotonic()
    relay.start()
    wait_for(lambda: not relay.running, 10)
    assert time.monotonic() - started < 5
    assert relay.stop() != 0
    text = "\n".join(relay.output)
    assert "SPREDFAST_COMPANY_ID is not a whole number" in text and "ZENDESK_API_URL is missing" in text
    assert "Traceback" not in text


def test_the_demo_ends_well_and_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "sandbox", "--once"]
    demo = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "3 posts labelled, 3 tickets, 0 lost, 0 twice" in demo.stdout


def test_a_worker_that_is_killed_is_replaced_and_goes_on(world: World) -> None:
    world.khoros.label_many(5)
    worker = world.relay.pids[1]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(world.relay.pids) > 1 and worker not in world.relay.pids)
    world.relay.wait_ready()
    world.khoros.label_many(5)
    assert world.khoros.drain()
    exactly_one_each(world, world.acknowledged())


assert LEASE_S <= 10  # the waits above allow for it


def test_what_was_labelled_while_it_was_down_is_fetched_at_the_next_start(world: World) -> None:
    """Khoros pushes once and never again."""
    before, *missed = world.khoros.label_many(1) + list(world.khoros.posts)[:3]
    exactly_one_each(world, {before})
    world.relay.kill()
    for post in missed:
        world.khoros.label(post, LABEL)
    assert world.khoros.drain()
    assert {push.outcome for push in world.khoros.pushes} != {202}
    world.relay.start().wait_ready()
    exactly_one_each(world, {before, *missed})
    world.relay.wait_for_line("event=caught_up accepted=3")


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_deploy_cuts_no_request_and_leaves_no_gap(world: World) -> None:
    """The new generation starts beside the old one; then SIGTERM reaches every process of the old one at once."""
    stream = threading.Thread(target=world.khoros.label_many, args=(150,))
    stream.start()
    with Relay(env=world.relay.env) as new:
        new.wait_ready()
        wait_for(lambda: len(world.acknowledged()) > 20)
        assert world.relay.stop() == 0
        stream.join(30)
        assert world.khoros.drain()
        cut = [push.outcome for push in world.khoros.pushes if push.outcome != 202]
        assert [outcome for outcome in cut if "refused" not in str(outcome).lower()] == []
        posts = {post for post in world.khoros.posts if LABEL in world.khoros.posts[post]["labels"]}
        exactly_one_each(world, world.acknowledged())
        new.stop()
    with Relay(env=world.relay.env) as restarted:
        restarted.wait_ready()
        exactly_one_each(world, posts)


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
    assert requests.get(f"{relay.url}/", headers=headers, timeout=10).status_code == 200
