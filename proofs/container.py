"""What docker build and docker run do, by hand, where no Docker engine is."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from proofs.chaos_world import wait_for
from sandbox.relay import ROOT

STOP_S = 30.0  # as compose.yaml says
BASE = {"PATH": "/opt/python/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class Image:
    """The Dockerfile's instructions, carried out in `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.env, self.folder, self.user = root, dict(BASE), "/", "0"
        self.command: list[str] = []
        self.health: list[str] = []
        self._in("python3 -m venv /opt/python", check=True)  # FROM
        text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            word, _, rest = line.partition(" ")
            if word:
                getattr(self, f"do_{word.lower()}")(rest.strip())

    def do_from(self, image: str) -> None:
        print(f"FROM {image}: {self._in('. /etc/os-release; echo $PRETTY_NAME; python3 --version').strip()!r}")

    def do_env(self, rest: str) -> None:
        self.env |= dict(pair.split("=", 1) for pair in shlex.split(rest))

    def do_run(self, command: str) -> None:
        print(f"RUN {command[:70]}…", flush=True)
        self._in(command, check=True)

    def do_workdir(self, folder: str) -> None:
        self.folder = folder
        (self.root / folder.lstrip("/")).mkdir(exist_ok=True)

    def do_copy(self, rest: str) -> None:
        """COPY of one file, or of all that .dockerignore lets through."""
        source, _ = rest.split()
        place = self.root / self.folder.lstrip("/")
        for path in sorted(copied(ROOT)) if source == "." else [Path(source)]:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, place / path)

    def do_user(self, user: str) -> None:
        self.user = user

    def do_expose(self, port: str) -> None:
        if port != self.env["PORT"]:
            raise ValueError(f"EXPOSE {port} is not PORT")

    def do_healthcheck(self, rest: str) -> None:
        self.health = json.loads(rest.partition("CMD ")[2])

    def do_cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _in(self, command: str, *, check: bool = False) -> str:
        done = subprocess.run(  # noqa: S603 - the Dockerfile's own commands
            ["chroot", self.root, "sh", "-c", f"cd {self.folder} && {command}"],  # noqa: S607 - the system's chroot
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise SystemExit(f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout


def copied(folder: Path) -> Iterator[Path]:
    """What .dockerignore lets through of this checkout."""
    listed = subprocess.check_output(["git", "ls-files", "-co"], cwd=folder, text=True)  # noqa: S607 - the git on the PATH
    rules = (folder / ".dockerignore").read_text("utf-8")
    return (path for name in listed.splitlines() if (path := Path(name)).exists() and is_let_through(path, rules))


def is_let_through(path: Path, rules: str) -> bool:
    """Whether a .dockerignore with plain names, * and **/ lets a file through: the last rule that matches decides."""
    kept = True
    for rule in rules.splitlines():
        pattern = rule.lstrip("!")
        candidates = path.parts if pattern.startswith("**/") else path.parts[:1]
        if pattern and not pattern.startswith("#"):
            if any(fnmatchcase(part, pattern.removeprefix("**/")) for part in candidates):
                kept = rule.startswith("!")
    return kept


class Container:
    """The image's command as docker run --read-only --cap-drop=ALL starts it. `volume` is a mount command for /data."""

    def __init__(self, image: Image, volume: str, env: dict[str, str]) -> None:
        root, self._image = shlex.quote(str(image.root)), image
        steps = [
            "mount --make-rprivate /",
            f"mount --bind {root} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
            f"cd {root}/dev",
            "for one in null zero full random urandom; do touch $one && mount --bind /dev/$one $one; done",
            "mkdir shm && mount -t tmpfs -o size=64m,mode=1777 tmpfs shm",
            volume.format(root=root, data=f"{root}/data"),
            f"mount -o remount,bind,ro {root}",
        ]
        user = ["setpriv", f"--reuid={image.user}", f"--regid={image.user}", "--clear-groups", "--no-new-privs"]
        user += ["--bounding-set=-all", "--inh-caps=-all"]
        enter = ["chroot", str(image.root), "sh", "-c", f'cd {image.folder}; exec "$@"', "sh"]
        inside = [*enter[:2], *user, *enter[2:], *image.command]
        self.env = {**image.env, **env}
        variables = [f"{name}={value}" for name, value in self.env.items()]
        script = " && ".join([*steps, f"exec env -i {shlex.join([*variables, *inside])}"])
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        self.output = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(  # noqa: S603 - the image's own command
            ["unshare", *namespaces, "sh", "-c", script],  # noqa: S607 - the system's unshare
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    @property
    def first(self) -> int:
        """Process 1 of the container, as this machine counts. 0 when it has not begun or has ended."""
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text("utf-8").split()
        return int(children[0]) if children else 0

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def healthy(self) -> bool:
        """Runs the image's health check in the container."""
        enter = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--root", "--wd", "--setuid=10001"]
        if not self.first:
            return False
        command = [*enter, *self._image.health]  # the image's own
        return subprocess.run(command, env=self.env, capture_output=True).returncode == 0  # noqa: S603 - see above

    def wait_healthy(self) -> bool:
        return wait_for(lambda: self.running and self.healthy(), 20)

    def stop(self) -> tuple[int | None, float]:
        """What docker stop does. Returns the exit status, None when it had to be killed, and the seconds."""
        began_at = time.monotonic()
        if self.running and self.first:
            os.kill(self.first, signal.SIGTERM)
        try:
            return self._process.wait(STOP_S), time.monotonic() - began_at
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None, time.monotonic() - began_at

    def log(self) -> str:
        self.output.seek(0)
        return self.output.read()


@contextmanager
def running(image: Image, volume: str, env: dict[str, str]) -> Iterator[Container]:
    container = Container(image, volume, env)
    try:
        yield container
    finally:
        container.stop()
        container.output.close()
