"""The files for the places to run at agree with each other, with the code and with docs/hosting.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from khoros.body import BODY_LIMIT
from proofs.container import is_let_through
from sandbox.relay import ROOT
from sandbox.server import Server

MIB = 1024 * 1024


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def found(pattern: str, path: str) -> str:
    """What the one group of the pattern matches in the file, the same wherever it does."""
    [one] = set(re.findall(pattern, text(path), re.MULTILINE)) or {f"{path} has no {pattern}"}
    return str(one)


def gunicorn(name: str) -> int:
    return int(found(rf"^{name} = (\d+)", "gunicorn.conf.py"))


def test_all_places_mean_the_same_port() -> None:
    ports = {
        found(r"^port = .* or \"(\d+)\"", "gunicorn.conf.py"),
        found(r"PORT=(\d+)", "Dockerfile"),
        found(r"^EXPOSE (\d+)", "Dockerfile"),
        found(r"- 127\.0\.0\.1:\d+:(\d+)", "compose.yaml"),
        found(r"reverse_proxy 127\.0\.0\.1:(\d+)", "hosting/Caddyfile"),
        found(r"server 127\.0\.0\.1:(\d+);", "hosting/nginx.conf"),
        found(r"ListenStream=127\.0\.0\.1:(\d+)", "hosting/khoros-relay.socket"),
        str(tomllib.loads(text("fly.toml"))["http_service"]["internal_port"]),
    }
    assert ports == {"8000"}


def test_systemd_runs_the_command_of_the_procfile_in_the_folder_of_the_document() -> None:
    folder = found(r"^WorkingDirectory=(.+)", "hosting/khoros-relay.service")
    command = text("Procfile").partition(": ")[2].strip()
    assert found(r"^ExecStart=(.+)", "hosting/khoros-relay.service") == f"{folder}/.venv/bin/{command}"
    assert f" {folder} && cd {folder}\n" in text("docs/hosting.md")
    state = found(r"^StateDirectory=(.+)", "hosting/khoros-relay.service")
    assert f"DATABASE_URL=sqlite:////var/lib/{state}/relay.db" in text("docs/hosting.md")


def test_every_place_waits_longer_for_the_end_than_the_relay_needs() -> None:
    waits = [
        tomllib.loads(text("fly.toml"))["kill_timeout"],
        int(found(r"stop_grace_period: (\d+)s", "compose.yaml")),
        int(found(r"^TimeoutStopSec=(\d+)", "hosting/khoros-relay.service")),
    ]
    assert min(waits) >= gunicorn("graceful_timeout") + 5


def test_the_proxies_close_idle_connections_before_the_relay_does() -> None:
    assert int(found(r"keepalive (\d+)s", "hosting/Caddyfile")) < gunicorn("keepalive")
    assert "keepalive_timeout" not in text("hosting/nginx.conf") and gunicorn("keepalive") > 60  # nginx' own limit


def test_render_asks_for_the_label_and_for_a_place_for_alerts() -> None:
    asked = set(re.findall(r"- key: (\w+)\n +sync: false$", text("render.yaml"), re.MULTILINE))
    assert {"SPREDFAST_LABEL_NAME", "ALERT_WEBHOOK_URL"} <= asked


def test_a_release_has_a_tag_that_an_image_can_have() -> None:
    assert 'tags: ["v[0-9]+.[0-9]+.[0-9]+"]' in text(".github/workflows/ci.yml")


def test_nginx_asks_the_other_relay_soon() -> None:
    waits = [int(found(rf"^ +proxy_{step}_timeout (\d+)s;", "hosting/nginx.conf")) for step in ("connect", "read")]
    assert waits == [3, 15] and f"after {waits[1]} s when" in text("docs/hosting.md")


def test_nginx_lets_the_largest_notification_through() -> None:
    assert BODY_LIMIT <= MIB and "client_max_body_size" not in text("hosting/nginx.conf")  # its own limit is 1 MiB
    assert "bodies of 1 MiB" in text("docs/hosting.md")


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("app.py", True),
        ("gunicorn.conf.py", True),
        ("requirements.txt", True),
        ("khoros/asgi.py", True),
        ("operations/static/style.css", True),
        ("requirements-dev.txt", False),
        (".env", False),
        (".env.example", False),
        (".git/config", False),
        (".venv/bin/activate_this.py", False),
        ("relay.db", False),
        ("tests/conftest.py", False),
        ("khoros/__pycache__/asgi.cpython-313.pyc", False),
        ("sandbox/demo.py", False),
    ],
)
def test_the_image_holds_what_the_relay_runs_on_and_no_secret(path: str, kept: bool) -> None:
    assert is_let_through(Path(path), text(".dockerignore")) is kept


@pytest.mark.parametrize(("status", "healthy"), [("200 OK", True), ("503 Service Unavailable", False)])
def test_the_health_check_of_the_image_tells_by_the_status(status: str, healthy: bool) -> None:
    asked = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        asked.append(environ["PATH_INFO"])
        start_response(status, [])
        return []

    command = json.loads(found(r"^HEALTHCHECK .*CMD (\[.*\])$", "Dockerfile"))
    with Server(app) as server:
        env = {"PORT": str(server.port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run([sys.executable, *command[1:]], env=env)  # noqa: S603
    assert (command[0], done.returncode == 0, asked) == ("python", healthy, ["/health"])


def test_the_document_answers_the_same_questions_for_each_place() -> None:
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text("docs/hosting.md"), re.DOTALL | re.MULTILINE))
    wanted = ("Heroku", "Render", "Fly.io", "AWS Lambda", "Docker", "A server with systemd")
    for place in wanted:
        for question in ("cost?", "survives", "address known?", "Where is the log?", "scale?"):
            assert re.search(rf"^\| .*{re.escape(question)}.* \| .{{8,}} \|$", parts[place], re.MULTILINE), (
                place,
                question,
            )
    for path in (ROOT / "hosting").iterdir():
        assert f"hosting/{path.name}" in text("docs/hosting.md")
