"""Starts, stops and kills the relay as a real gunicorn process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
PASSED_ON = (
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)  # the machine's, not a deployer's settings


class RelayFailed(Exception):
    """The relay ended, or was not ready in time. The message has its last log lines."""


class Relay:
    """`gunicorn 'app:create_app()'` in `cwd`, on loopback, with the variables in `env` and none of this process's own.

    Nothing runs before `start()`. The port stays the same after a restart. Every line that it writes, since the first
    start, is in `output` and goes to `echo`. `launcher` is a command that starts the rest of its words, and gets the
    open files `pass_fds`. A `with` block starts the relay and kills it at the end.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        port: int = 0,
        cwd: Path | str = ROOT,
        workers: int = 1,
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.env = dict(env)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output: list[str] = []
        self._cwd, self._workers, self._launcher, self._echo = Path(cwd), workers, launcher, echo
        self._pass_fds = pass_fds
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._wrote = threading.Condition()

    def start(self) -> Relay:
        """Starts it and returns at once: see `wait_ready`. Raises RuntimeError when it already runs."""
        if self.running:
            raise RuntimeError("the relay runs already")
        command = [
            *self._launcher,
            str(Path(sys.executable).parent / "gunicorn"),
            "app:create_app()",
            "--bind",
            f"127.0.0.1:{self.port}",
        ]
        self._process = subprocess.Popen(
            command,
            cwd=self._cwd,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self._pass_fds,
            encoding="utf-8",
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pids(self) -> list[int]:
        """The process ids: gunicorn's master first, then its workers. Empty when it does not run, and where the system
        has no /proc (macOS)."""
        if self._process is None or not os.path.isdir("/proc"):
            return []
        members = [
            int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _group(int(entry)) == self._process.pid
        ]
        return sorted(members, key=lambda pid: (pid != self._pid, pid))

    def rss_bytes(self) -> int:
        """The resident memory of the largest worker in bytes. 0 when no worker runs."""
        return max((_rss_bytes(pid) for pid in self.pids[1:]), default=0)

    def wait_ready(self, timeout_s: float = 60.0) -> Relay:
        """Waits until GET /health answers 200. Raises RelayFailed when the relay ends or needs too long."""
        end_at = time.monotonic() + timeout_s
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < end_at:
                if not self.running:
                    raise RelayFailed(f"The relay ended with status {self.wait_ended(5)}.\n{self.last_lines()}")
                try:
                    if session.get(f"{self.url}/health", timeout=2).status_code == 200:
                        return self
                except requests.RequestException:
                    pass  # not bound yet
                time.sleep(0.05)
        raise RelayFailed(f"The relay was not ready within {timeout_s:g} s.\n{self.last_lines()}")

    def wait_for_line(self, pattern: str, *, timeout_s: float = 30.0, after: int = 0) -> str:
        """Waits for a line, after the first `after` ones, that the regular expression matches. Raises RelayFailed when
        none comes in time."""

        def found() -> str | None:
            return next((line for line in self.output[after:] if re.search(pattern, line)), None)

        with self._wrote:
            if line := self._wrote.wait_for(found, timeout_s):
                return line
        raise RelayFailed(f"No line like {pattern!r} within {timeout_s:g} s.\n{self.last_lines()}")

    def stop(self, timeout_s: float = 25.0) -> int:
        """Terminates it and waits: see `wait_ended`."""
        self.terminate()
        return self.wait_ended(timeout_s)

    def terminate(self) -> None:
        """Sends SIGTERM to every process, as Heroku does, and returns at once."""
        self._signal(signal.SIGTERM)

    def wait_ended(self, timeout_s: float = 25.0) -> int:
        """Waits until it has ended and reads its last line; sends SIGKILL after `timeout_s`. Returns the exit status:
        0 when it ended by itself, negative for the signal that ended it."""
        if self._process is None:
            return 0
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)  # the master, or a worker that outlives it
        status = self._process.wait()
        end_at = time.monotonic() + 5
        while self.pids and time.monotonic() < end_at:
            time.sleep(0.005)
        if self._reader is not None:
            self._reader.join(timeout=5)
        return status

    def kill(self) -> None:
        """Kills every process with SIGKILL, as a power cut would."""
        self._signal(signal.SIGKILL)
        self.wait_ended(5)

    def freeze(self) -> None:
        """Suspends every process, as an overloaded machine does, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets every process continue."""
        self._signal(signal.SIGCONT)

    def last_lines(self, count: int = 20) -> str:
        """The last lines of the output, indented."""
        return "\n".join(f"  {line}" for line in self.output[-count:]) or "  (it wrote nothing)"

    def __enter__(self) -> Relay:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def _pid(self) -> int:
        return self._process.pid if self._process else 0

    def _environment(self) -> dict[str, str]:
        ours = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        plain = {"PYTHONUNBUFFERED": "1", "PYTHON_DOTENV_DISABLED": "1"}  # no .env of the folder it starts in
        placed = {"PORT": str(self.port), "WEB_CONCURRENCY": str(self._workers)}
        return {**ours, **plain, **placed, **self.env}

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it was opened as a pipe
        with process.stdout as lines:
            for line in lines:
                with self._wrote:
                    self.output.append(line.rstrip("\n"))
                    self._wrote.notify_all()
                if self._echo:
                    self._echo(line.rstrip("\n"))

    def _signal(self, number: int) -> None:
        try:
            if self._process is not None and (self.running or self.pids):
                os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass  # gone meanwhile


def free_port(preferred: int = 0) -> int:
    """The port `preferred` when it is free on loopback, otherwise any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _group(pid: int) -> int | None:
    """The process group of a running process. None when it has ended, also when it is a zombie."""
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except OSError:
        return None
    state, _, group = rest.split()[:3]
    return None if state == "Z" else int(group)


def _rss_bytes(pid: int) -> int:
    try:
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
