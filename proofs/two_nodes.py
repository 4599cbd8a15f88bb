"""Changes a proxy over between two relays on one PostgreSQL database, in the middle of a stream of labels.

.venv/bin/python proofs/two_nodes.py                # nginx and Caddy; apt-get install nginx caddy
.venv/bin/python proofs/two_nodes.py --proxy nginx --seconds 60

The proxy leads to one relay, then to the other while the first ends; back again; then to both. Behind nginx one of
both is killed, twice, and stands still for a while; Caddy up to 2.11.1 answers 502 then (caddyserver/caddy issue 7546).
The catch-up is off: what the proxy does not bring through is lost. The exit status is 1 when a label is lost, doubled
or not acknowledged, or waits much longer than nginx does for a relay.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proofs.chaos_world import Database, wait_for
from proofs.proxy import NAMES, Proxy, Sender, Stream, judge
from sandbox.__main__ import pending, settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import Relay, free_port
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

PATIENCE_S = 90.0  # longer than the lease that a killed relay leaves behind
FROZEN_S = 30.0
SLOWEST_S = 20.0  # proxy_read_timeout in hosting/nginx.conf, and some


@dataclass
class Pair:
    """Two relays behind a proxy."""

    khoros: FakeKhoros
    zendesk: FakeZendesk
    first: Relay
    second: Relay
    proxy: Proxy
    sender: Sender

    def change_over(self, old: Relay, new: Relay) -> None:
        """A deploy: the new relay starts, the proxy leads to it, the old one ends."""
        if not new.running:
            new.start().wait_ready()
        self.proxy.lead_to(new.port)
        time.sleep(1)  # the proxy's old workers finish what they have begun
        old.stop()

    def share(self) -> None:
        """The proxy leads to both."""
        for relay in (self.first, self.second):
            if not relay.running:
                relay.start().wait_ready()
        self.proxy.lead_to(self.first.port, self.second.port)

    def crash(self) -> None:
        """One of both loses its power, and comes back."""
        self.second.kill()
        time.sleep(2)
        self.second.start().wait_ready()

    def freeze(self) -> None:
        """One of both stands still, longer than nginx waits for it, and goes on."""
        pids = self.second.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(FROZEN_S)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def pair(name: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-nodes-")))
        database = Database("postgresql", str(folder))
        stack.callback(database.close)
        khoros, zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(khoros.close)
        khoros_url, zendesk_url = (stack.enter_context(Server(fake.app)).url for fake in (khoros, zendesk))
        # No client of this machine gets such a port while its relay is down.
        first, second = (Relay(env={}, port=free_port(port)) for port in (28101, 28102))
        proxy = Proxy(name, folder, [first.port])
        stack.callback(proxy.stop)
        env = settings(khoros, zendesk, khoros_url, zendesk_url, proxy.url, folder)
        env |= {"DATABASE_URL": database.url, "CATCH_UP_MINUTES": "0"}
        for relay in (first, second):
            relay.env = env
            stack.callback(relay.kill)
        first.start().wait_ready()
        yield Pair(khoros, zendesk, first, second, proxy, Sender(proxy, env["NOTIFICATION_BEARER_TOKEN"]))


def run(name: str, seconds: float) -> bool:
    """The stream behind this proxy. Returns whether nothing was lost or doubled."""
    with pair(name) as here:
        steps: list[Callable[[], None]] = [
            lambda: here.change_over(here.first, here.second),
            lambda: here.change_over(here.second, here.first),
            here.share,
        ]
        steps += [here.crash, here.crash, here.freeze] if name == "nginx" else []
        with Stream(here.sender, here.khoros.company_id, here.khoros.label_name) as stream:
            for step in steps:
                time.sleep(seconds / (len(steps) + 1))
                step()
            time.sleep(seconds / (len(steps) + 1))
        delivered = wait_for(lambda: pending(here.first) == 0, PATIENCE_S)
        words, good = judge(stream.outcomes, Counter(ticket.external_id for ticket in here.zendesk.tickets))
        made = [sum("event=ticket_created" in line for line in one.output) for one in (here.first, here.second)]
        print(f"{name}: {words}; {made[0]} and {made[1]} tickets by each; slowest answer {stream.slowest_s:.1f} s")
        return good and delivered and all(made) and stream.slowest_s < SLOWEST_S


def main() -> int:
    parser = argparse.ArgumentParser(description="Changes a proxy over between two relays on one PostgreSQL.")
    parser.add_argument("--proxy", choices=NAMES, action="append")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long the stream lasts")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by a signal"))
    results = [run(name, wanted.seconds) for name in wanted.proxy or NAMES]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
