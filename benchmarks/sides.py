"""What is measured, each a process of its own: the relay under gunicorn, the peer on Express, the fakes they call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from sandbox.relay import free_port  # noqa: E402 - the path comes first

COMPANY_ID, LABEL, TOKEN = 123, "CreateCase", "made-up-bearer-token-for-measuring"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Fakes:
    """The cheap Zendesk and Khoros of fakes.js."""

    url: str

    def set(self, mode: str = "ok", *, latency_ms: int = 0, per_minute: int = 0) -> None:
        """How Zendesk behaves from now on ("ok", "503" or "hung"); counts anew."""
        wanted = {"mode": mode, "latency_ms": latency_ms, "per_minute": per_minute}
        _call("POST", f"{self.url}/figures", json=wanted)

    def figures(self) -> dict[str, Any]:
        """What came in since `set`: tickets, calls, limited, last_ns, and arrived as [external_id, ns] pairs."""
        found: dict[str, Any] = _call("GET", f"{self.url}/figures").json()
        return found


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
        """The processor time the workers have used, in seconds."""
        fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in self.workers)
        return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS_PER_S


@contextmanager
def fakes() -> Iterator[Fakes]:
    port = free_port()
    with _process(["node", str(HERE / "fakes.js")], {"PORT": str(port)}, f"http://127.0.0.1:{port}/figures"):
        yield Fakes(f"http://127.0.0.1:{port}")


@contextmanager
def relay(fakes: Fakes, database_url: str, workers: int = 1) -> Iterator[Side]:
    """The relay as `make run` starts it, subscribed and ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {
        "PORT": str(port),
        "WEB_CONCURRENCY": str(workers),
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
        "PUBLIC_URL": url,
        "DATABASE_URL": database_url,
    }
    command = [str(Path(sys.executable).parent / "python"), "-m", "gunicorn", "app:create_app()"]
    command += ["--bind", f"127.0.0.1:{port}"]
    with _process(command, env, f"{url}/health") as (process, took_s):
        yield Side(port, "/notifications", process.pid, took_s)


@contextmanager
def peer(fakes: Fakes) -> Iterator[Side]:
    """The Express application of peer/; `npm install` there once before."""
    port = free_port()
    env = {
        "PORT": str(port),
        "NODE_ENV": "production",
        "BEARER_TOKEN": TOKEN,
        "ZENDESK_URL": fakes.url,
        "ZENDESK_USER_EMAIL": "agent@acme.example",
        "ZENDESK_API_TOKEN": "made-up-api-token",
    }
    with _process(["node", str(HERE / "peer" / "app.js")], env, f"http://127.0.0.1:{port}/") as (process, took_s):
        yield Side(port, "/createTicket", process.pid, took_s)


@contextmanager
def _process(
    command: list[str], env: Mapping[str, str], ready_url: str
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process whose log goes nowhere, from the moment it answers; ended when the block is left."""
    passed_on = {name: os.environ[name] for name in ("HOME", "LANG", "PATH", "TMPDIR") if name in os.environ}
    started = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own programs
        command,
        cwd=ROOT,
        env={**passed_on, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(ready_url):
            if process.poll() is not None or time.perf_counter() - started > 60:
                raise RuntimeError(f"{command[:4]} did not get ready")
            time.sleep(0.005)
        yield process, time.perf_counter() - started
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return _call("GET", url).status_code == 200
    except requests.RequestException:
        return False


def _call(method: str, url: str, **options: Any) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, timeout=30, **options)
