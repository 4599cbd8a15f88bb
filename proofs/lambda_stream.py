"""Labels posts while the functions of AWS Lambda are frozen and killed at random moments, and counts the tickets.

.venv/bin/python proofs/lambda_stream.py                       # 200 events
.venv/bin/python proofs/lambda_stream.py --seed 7 --events 1000

Both functions run as Lambda runs them: in processes of their own, frozen between the invocations, one more for each
invocation at the same time. Half of the requests come as a function URL sends them, half as an HTTP API does. In four
of ten invocations something goes wrong at a random moment: the process is killed, or frozen for up to 12 s, longer than
a lease. PostgreSQL ends the idle connections meanwhile. The exit status is 1 when an event is lost or doubled.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from proofs.chaos_world import Database, wait_for
from proofs.lambda_runtime import (
    Crashed,
    Environment,
    Function,
    Json,
    function_url_event,
    http_api_event,
    scheduler_event,
)
from sandbox.__main__ import settings
from sandbox.khoros import FakeKhoros
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EVERY_S = 2.0  # the schedule; on AWS a minute
LABELS_PER_S = 5.0
KILLED, FROZEN = 0.2, 0.2  # of the invocations
COLD_S, WARM_S = 3.0, {"http": 0.06, "scheduled": 0.6}  # the moments of the faults lie within this time
ZENDESK_S = 0.2  # for each call
LONGEST_FREEZE_S = 12.0


class Faults:
    """What happens to an environment during an invocation. The seed decides what, the machine meets which step."""

    def __init__(self, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.on = True
        self._chance, self._lock = random.Random(seed), threading.Lock()  # noqa: S311 - to be repeated

    def around(self, handler: str, one: Environment, cold: bool) -> Callable[[], object]:
        """Plans what happens to this invocation; what it returns cancels what has not happened."""
        with self._lock:
            lot, at, freeze = (self._chance.random() for _ in range(3))
        if not self.on or lot >= KILLED + FROZEN:
            return lambda: None
        over = threading.Event()

        def strike() -> None:
            if over.wait(at * (COLD_S if cold else WARM_S[handler])):
                return
            what = "killed" if lot < KILLED else "frozen"
            self.done[f"{handler} {what}, {'cold' if cold else 'warm'}"] += 1
            if lot < KILLED:
                one.kill()
                return
            one.signal(signal.SIGSTOP)
            time.sleep(freeze * LONGEST_FREEZE_S)
            one.signal(signal.SIGCONT)

        thread = threading.Thread(target=strike, daemon=True)
        thread.start()

        def after() -> None:
            over.set()
            thread.join()

        return after


class Cloud:
    """The two functions, connected: the web address, the invocations of one function by the other, and the schedule."""

    def __init__(self, seed: int) -> None:
        self.faults = Faults(seed)
        self.crashed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()  # threads that were left behind
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated
        self._async = ThreadPoolExecutor(32)
        self._over = threading.Event()

    def deploy(self, env: dict[str, str]) -> None:
        """Makes the functions, with these variables."""
        around = self.faults.around
        self.http = Function("http", env, self._invoke_later, timeout_s=30, around=around)
        self.deliver = Function("scheduled", env, timeout_s=60, around=around)
        threading.Thread(target=self._schedule, daemon=True).start()

    def request(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """A web request: it becomes an event for `http`. As on AWS the answer is 502 when that dies."""
        headers = {k[5:].replace("_", "-"): v for k, v in environ.items() if k.startswith("HTTP_")}
        headers["content-type"] = environ.get("CONTENT_TYPE", "")
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        make = self._chance.choice((function_url_event, http_api_event))
        said = self.invoke(self.http, make(environ["REQUEST_METHOD"], environ["PATH_INFO"], headers, body))
        answer = said.get("result", {"statusCode": 502, "body": ""})
        start(f"{answer['statusCode']} Answer", [("Content-Type", "application/json")])
        return [answer["body"].encode()]

    def invoke(self, function: Function, event: Json) -> Json:
        """Invokes it, and counts what went wrong."""
        try:
            said = function.invoke(event)
        except Crashed:
            self.crashed[function.handler] += 1
            return {}
        self.left.update(name for name in said["threads"] if name != "MainThread" and not name.startswith("pool-"))
        self.crashed.update([said["error"].partition(":")[0]] if "error" in said else [])
        return said

    @property
    def output(self) -> list[str]:
        """The log lines of the environments that have ended."""
        return self.http.output + self.deliver.output

    def end(self) -> None:
        """No more invocations."""
        self._over.set()
        self._async.shutdown()
        for function in (self.http, self.deliver):
            function.recycle()

    def _invoke_later(self, name: str, payload: Json) -> None:
        self._async.submit(self.invoke, self.deliver, payload)

    def _schedule(self) -> None:
        while not self._over.wait(EVERY_S):
            self._async.submit(self.invoke, self.deliver, scheduler_event())


def end_idle_connections(database: Database) -> int:
    """Ends the relay's connections that wait for work, as a server does that is restarted or fails over."""
    end = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'khoros-zendesk-relay' AND state = 'idle'"""
    with psycopg.connect(database.url, autocommit=True) as connection:
        return len(connection.execute(end).fetchall())


def run(seed: int, events: int) -> bool:
    """Returns whether each event became one comment, and each post one ticket."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-lambda-")))
        database, khoros, zendesk = (
            Database("postgresql", str(folder)),
            FakeKhoros(push_timeout_s=30),
            FakeZendesk(latency_s=ZENDESK_S),
        )
        stack.callback(database.close)
        stack.callback(khoros.close)
        cloud = Cloud(seed)
        khoros_url, zendesk_url, url = (
            stack.enter_context(Server(app)).url for app in (khoros.app, zendesk.app, cloud.request)
        )
        env = settings(khoros, zendesk, khoros_url, zendesk_url, url, folder)
        cloud.deploy({**env, "DATABASE_URL": database.url, "DELIVER_FUNCTION": "deliver"})
        stack.callback(cloud.end)
        wait_for(lambda: bool(khoros.subscriptions), 60)
        began_at, ended, posts = time.monotonic(), 0, list[str]()
        for number in range(events):
            time.sleep(max(0.0, began_at + number / LABELS_PER_S - time.monotonic()))
            posts += khoros.add_posts(1)
            khoros.label(posts[-1], khoros.label_name)
            if number % 25 == 24:
                ended += end_idle_connections(database)
        khoros.drain(120)
        cloud.faults.on = False
        cloud.deliver.recycle()  # a cold start fetches at once what no push brought
        done = wait_for(lambda: len(zendesk.tickets) >= events and _pending(database) == 0, 120)
        time.sleep(2 * EVERY_S)  # what is sent twice would come now
        outcomes = Counter(push.outcome for push in khoros.pushes)
        print(f"seed {seed}: {events} events; answers: {dict(outcomes)}; {ended} connections ended")
        cloud.end()
        broken = Counter(event for line in cloud.output for event in re.findall(r"event=(\w+_broken)", line))
        print(f"  environments: http {cloud.http.made}, deliver {cloud.deliver.made}; crashes {dict(cloud.crashed)}")
        print(f"  faults: {dict(sorted(cloud.faults.done.items()))}")
        errors = Counter(event for line in cloud.output for event in re.findall("^at=error event=(.*)", line))
        for line, times in errors.most_common():
            print(f"  {times} x {line[:150]}")
        print(f"  threads left behind: {dict(cloud.left)}; faults of the code: {dict(broken)}")
        return _judge(posts, zendesk) and done and not cloud.left and not broken


def _pending(database: Database) -> int:
    return sum(state == "pending" for (state,) in database.rows("state"))


def _judge(posts: list[str], zendesk: FakeZendesk) -> bool:
    tickets = Counter(ticket.external_id for ticket in zendesk.tickets)
    notes = [ticket.external_id for ticket in zendesk.tickets if len(ticket.comments) > 1]
    lost = [post for post in posts if not tickets[post]]
    doubled = [post for post, number in tickets.items() if number > 1] + notes
    print(f"  {len(zendesk.tickets)} tickets, {len(lost)} events lost, {len(doubled)} doubled", flush=True)
    return not lost and not doubled


def main(arguments: list[str] | None = None) -> int:
    """Runs the proof; the exit status is 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", type=int, default=200)
    given: Any = parser.parse_args(arguments)
    return 0 if run(given.seed, given.events) else 1


if __name__ == "__main__":
    sys.exit(main())
