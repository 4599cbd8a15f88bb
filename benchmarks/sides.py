"""What is measured, each a process of its own: a relay under gunicorn, the peer on Express, the fakes they call."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

HERE = Path(__file__).resolve().parent
COMPANY_ID, LABEL, TOKEN = 123, "CreateCase", "made-up-bearer-token-for-measuring"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_S = 60


@dataclass(frozen=True)
class Fakes:
    """The cheap Zendesk and Khoros of fakes.js."""

    url: str

    def set(self, mode: str = "ok", *, latency_ms: int = 0, per_minute: int = 0) -> None:
        """How Zendesk behaves from now on ("ok", "503" or "hung"). Starts a new count, and the calls that
        hang go on."""
        wanted = {"mode": mode, "latency_ms": latency_ms, "per_minute": per_minute}
        _call("POST", f"{self.url}/figures", json=wanted)

    def figures(self) -> dict[str, Any]:
        """What came in since `set`: tickets, calls, limited, first_ns, last_ns, and arrived as [external_id, ns] pairs;
        now_ns is the time of the answer."""
        answer: dict[str, Any] = _call("GET", f"{self.url}/figures").json()
        return answer


@dataclass(frozen=True)
class Side:
    """A running relay or peer, to send notifications to."""

    port: int
    path: str
    pid: int
    started_in_s: float  # until its first answer

    @property
    def workers(self) -> list[int]:
        """The processes that do the work: gunicorn's children, or the peer itself."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children] or [self.pid]

    def rss_mb(self) -> float:
        """The resident memory of the largest worker, in 10^6 bytes."""
        pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.workers)
        return max(pages) * _PAGE_BYTES / 1e6

    def cpu_s(self) -> float:
        """The processor time, user and system, of all its processes so far, in seconds."""
        processes = {self.pid, *self.workers}
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in processes)
        return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS_PER_S


@contextmanager
def fakes() -> Iterator[Fakes]:
    port = _free_port()
    with _process(["node", str(HERE / "fakes.js")], {"PORT": str(port)}, port, "/figures"):
        yield Fakes(f"http://127.0.0.1:{port}")


@contextmanager
def relay(checkout: Path, fakes: Fakes, database_url: str, log: str = os.devnull) -> Iterator[Side]:
    """The relay of a checkout, in the checkout's own virtual environment. Its lines are added to the file `log`."""
    port = _free_port()
    env = {
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHON_DOTENV_DISABLED": "1",
        "SPREDFAST_API_TOKEN": "made-up-khoros-token",
        "SPREDFAST_COMPANY_ID": str(COMPANY_ID),
        "SPREDFAST_LABEL_NAME": LABEL,
        "KHOROS_API_URL": f"{fakes.url}/v2",
        "ZENDESK_API_URL": fakes.url,
        "ZENDESK_CLIENT_ID": "relay",
        "ZENDESK_CLIENT_SECRET": "made-up-client-secret",
        "NOTIFICATION_BEARER_TOKEN": TOKEN,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DATABASE_URL": database_url,
    }
    command = [str(checkout / ".venv" / "bin" / "python"), "-m", "gunicorn", "app:create_app()"]
    command += ["--bind", f"127.0.0.1:{port}"]
    with _process(command, env, port, "/health", checkout, log) as (process, took_s):
        yield Side(port, "/notifications", process.pid, took_s)


@contextmanager
def peer(fakes: Fakes) -> Iterator[Side]:
    """The Express application of peer/; it needs `npm install` there once."""
    port = _free_port()
    env = {
        "PORT": str(port),
        "NODE_ENV": "production",
        "BEARER_TOKEN": TOKEN,
        "ZENDESK_URL": fakes.url,
        "ZENDESK_USER_EMAIL": "agent@acme.example",
        "ZENDESK_API_TOKEN": "made-up-api-token",
    }
    with _process(["node", str(HERE / "peer" / "app.js")], env, port, "/") as (process, took_s):
        yield Side(port, "/createTicket", process.pid, took_s)


@contextmanager
def _process(
    command: list[str], env: Mapping[str, str], port: int, ready_path: str, cwd: Path = HERE, log: str = os.devnull
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process and the seconds until its first answer. The end of the block ends it."""
    passed_on = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    with open(log, "ab") as lines:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own programs
            command, cwd=cwd, env={**passed_on, **env}, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines
        )
    try:
        while not _answers(port, ready_path):
            if process.poll() is not None or time.perf_counter() - started > _START_S:
                raise RuntimeError(f"{' '.join(command[:4])} in {cwd} did not start; --log FILE shows why")
            time.sleep(0.005)
        yield process, time.perf_counter() - started
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _call(method: str, url: str, **options: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=30, **options)
