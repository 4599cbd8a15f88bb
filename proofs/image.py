"""Builds and runs the image by hand, where no Docker engine is: a folder with Debian stands for the base image.

debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie /tmp/debian
sudo .venv/bin/python proofs/image.py /tmp/debian

Each instruction of the Dockerfile is carried out in a copy of the folder (a virtual environment stands for the Python
of the base image), and of this checkout only what .dockerignore lets through is copied. Then the relay runs there as
Docker runs it: process 1 of its own, user 10001, a root that is read-only, no HOME, no capabilities; with a volume that
works, is full or is read-only, and with none. The exit status is 1 when a check fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from proofs.chaos_world import Database, wait_for
from proofs.container import Container, Image, running
from proofs.proxy import notification
from sandbox.__main__ import settings
from sandbox.khoros import FakeKhoros
from sandbox.relay import free_port
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

NEEDED = {
    "app.py",
    "config.py",
    "gunicorn.conf.py",
    "khoros",
    "inbox",
    "destinations",
    "operations",
    "requirements.txt",
}
UNWANTED = {".env", ".env.example", ".git", ".venv", "tests", "sandbox", "proofs", "docs", "relay.db"}
LABELS = 20
BAD_VOLUMES = {
    "read-only": "mount --bind {data} {data} && mount -o remount,bind,ro {data}",
    "full": "mount -t tmpfs -o size=16k,uid=10001,mode=700 tmpfs {data}",
    "another user's": "mount -t tmpfs -o size=1m,uid=0,mode=700 tmpfs {data}",
}
SMALL_VOLUME = "mount -t tmpfs -o size=400k,uid=10001,mode=700 tmpfs {data}"


class Checks:
    """Runs containers of the image between a simulated Khoros and Zendesk, and prints what is as it should be."""

    def __init__(self, image: Image, stack: ExitStack) -> None:
        self.image, self.good = image, True
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-image-")))
        self.khoros, self.zendesk = FakeKhoros(), FakeZendesk()
        stack.callback(self.khoros.close)
        khoros_url, zendesk_url = (stack.enter_context(Server(fake.app)).url for fake in (self.khoros, self.zendesk))
        self.database = Database("postgresql", str(self.folder))
        stack.callback(self.database.close)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.env = settings(self.khoros, self.zendesk, khoros_url, zendesk_url, self.url, self.folder)
        self.env |= {"PORT": str(port), "CATCH_UP_MINUTES": "0"}
        del self.env["DATABASE_URL"]

    def check(self, what: str, good: object, log: str = "") -> None:
        print(f"{'ok    ' if good else 'FAILED'} {what}", flush=True)
        if not good:
            self.good = False
            print("\n".join(log.splitlines()[-15:]))

    def push(self) -> int:
        """The status of the answer to a label on a new post."""
        post = f"twitter:{uuid.uuid4().int % 10**12}"
        body = notification(self.khoros.company_id, str(uuid.uuid4()), post, self.khoros.label_name)
        headers = {"Authorization": f"Bearer {self.env['NOTIFICATION_BEARER_TOKEN']}"}
        return requests.post(f"{self.url}/notifications", body, headers=headers, timeout=20).status_code

    def contents(self) -> None:
        names = {path.name for path in (self.image.root / "app").iterdir()}
        self.check(f"in the image: {', '.join(sorted(NEEDED))}", names >= NEEDED)
        self.check(f"not in it: {', '.join(sorted(UNWANTED))}", not UNWANTED & names)

    def volume(self) -> None:
        """A volume with SQLite: all that is accepted survives the container."""
        place = self.folder / "volume"
        place.mkdir()
        os.chown(place, 10001, 10001)
        mount = f"mount --bind {place} {{data}}"
        with running(self.image, mount, self.env) as one:
            self.check("SQLite in a volume: healthy by the image's own check", one.wait_healthy(), one.log())
            self.isolation(one)
            self.zendesk.latency_s = 1.0
            self.check(f"{LABELS} labels are accepted", {self.push() for _ in range(LABELS)} == {202})
            status, took_s = one.stop()
            self.check(f"SIGTERM to process 1: it ends with status {status} in {took_s:.1f} s", status == 0, one.log())
            calls = [call for call in self.zendesk.calls if (call.method, call.path) == ("POST", "/api/v2/tickets")]
            whole = {call.status for call in calls} == {201} and "Traceback" not in one.log()
            self.check("no call was cut, no traceback", whole, one.log())
        self.zendesk.latency_s = 0.0
        with running(self.image, mount, self.env) as two:
            all_there = wait_for(lambda: len(self.zendesk.tickets) == LABELS, 60)
            self.check(
                f"the next container delivers the rest: {len(self.zendesk.tickets)} tickets", all_there, two.log()
            )

    def isolation(self, container: Container) -> None:
        process = Path(f"/proc/{container.first}")
        status = dict(re.findall(r"^(\w+):\t(.*)$", (process / "status").read_text("utf-8"), re.MULTILINE))
        facts = (status["NSpid"].split()[-1], status["Uid"].split()[0], int(status["CapEff"], 16))
        self.check(f"process, user, capabilities: {facts}", facts == ("1", "10001", 0))
        environment = (process / "environ").read_text("utf-8").split("\0")
        self.check("no HOME", not [pair for pair in environment if pair.startswith("HOME=")])
        mounts = [line.split() for line in (process / "mountinfo").read_text("utf-8").splitlines()]
        options = [words[5] for words in mounts if words[4] == "/"][-1]
        self.check(f"the root: {options}", options.startswith("ro"))

    def bad_volumes(self) -> None:
        for what, mount in BAD_VOLUMES.items():
            with running(self.image, mount, self.env) as bad:
                wait_for(lambda: "at=error" in bad.log() or not bad.running, 30)  # noqa: B023 - it ends with the block
                answer = self.push() if bad.running else None
                said = next((line for line in bad.log().splitlines() if "at=error" in line), "")
                good = answer in (None, 503) and said and "Traceback" not in bad.log() and not bad.healthy()
                self.check(f"a volume that is {what}: {answer or 'ends'}, not healthy: {said}", good, bad.log())
        with running(self.image, SMALL_VOLUME, self.env) as small:
            small.wait_healthy()
            answers = [self.push() for _ in range(150)]
            said = next((line for line in small.log().splitlines() if "database_unavailable" in line), "")
            counts = f"{answers.count(202)} x 202, {answers.count(503)} x 503"
            self.check(
                f"a volume that becomes full: {counts}: {said}", set(answers) == {202, 503} and said, small.log()
            )

    def postgresql(self) -> None:
        place, name = "{root}/mnt", ".s.PGSQL.5432"
        mount = f"mount -t tmpfs tmpfs {place} && touch {place}/{name} && "
        mount += f"mount --bind {self.folder}/postgresql/{name} {place}/{name}"
        url = "postgres://postgres:@/postgres?host=/mnt"
        with running(self.image, mount, self.env | {"DATABASE_URL": url}) as last:
            self.check("PostgreSQL and no volume: healthy", last.wait_healthy(), last.log())
            self.check("and a label is accepted", self.push() == 202)


def main() -> int:
    with ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-image-root-"))
        subprocess.run(["cp", "--archive", f"{sys.argv[1]}/.", root], check=True)  # noqa: S603, S607
        checks = Checks(Image(Path(root)), stack)
        for part in (checks.contents, checks.volume, checks.bad_volumes, checks.postgresql):
            time.sleep(0.5)  # the port of the last container is free again
            part()
        return 0 if checks.good else 1


if __name__ == "__main__":
    sys.exit(main())
