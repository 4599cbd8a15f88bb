"""What hosts do to the real program: read-only disks, --preload, odd numbers of workers, logs that nobody reads."""

from __future__ import annotations

import os
import runpy
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import TOKEN, alone, notification, wait_for

from sandbox.relay import ROOT, Relay
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

PATIENCE_S = 60.0


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Callable[..., tuple[Relay, FakeZendesk]]]:
    """Starts the relay with a shell's words, in which "$@" is the relay, and gives it with its Zendesk."""
    with ExitStack() as stack:

        def start(shell: str = 'exec "$@"', workers: int = 1, **env: str) -> tuple[Relay, FakeZendesk]:
            zendesk = FakeZendesk()
            url = stack.enter_context(Server(zendesk.app)).url
            launcher = ("sh", "-c", shell, "sh")
            relay = Relay(env=alone(tmp_path, ZENDESK_API_URL=url, **env), workers=workers, launcher=launcher)
            return stack.enter_context(relay), zendesk

        yield start


def push(relay: Relay, post: str) -> int:
    body, headers = notification(f"event-{post}", post), {"Authorization": f"Bearer {TOKEN}"}
    return requests.post(f"{relay.url}/notifications", json=body, headers=headers, timeout=PATIENCE_S).status_code


def takes_and_delivers(relay: Relay, zendesk: FakeZendesk, number: int = 20) -> None:
    """Pushes posts, and waits for their tickets."""
    relay.wait_ready()
    posts = {f"twitter:{n}" for n in range(number)}
    assert {push(relay, post) for post in posts} == {202}
    wait_for(lambda: {ticket.external_id for ticket in zendesk.tickets} == posts, PATIENCE_S)
    assert len(zendesk.tickets) == number


# Logs

LOGS = {
    "a full pipe that nobody reads": '( head -c 65536 /dev/zero; exec "$@" 2>&1 ) | sleep 600',
    "a pipe whose reader is gone": '( sleep 0.2; exec "$@" 2>&1 ) | true; sleep 600',
    "a full disk": 'exec "$@" >/dev/full 2>&1',
    "no stdout": 'exec "$@" >&-',
    "no stdout, no stderr": 'exec "$@" >&- 2>&-',
    "nothing at all": 'exec "$@" <&- >&- 2>&-',
}


@pytest.mark.parametrize("shell", LOGS.values(), ids=LOGS.keys())
def test_a_log_that_goes_nowhere_keeps_no_post_from_its_ticket(shell: str, hosted: Any) -> None:
    takes_and_delivers(*hosted(shell))


# Workers


@pytest.mark.parametrize("workers", [1, 2])
def test_an_app_that_is_loaded_before_the_fork_delivers(workers: int, hosted: Any) -> None:
    """Render adds --preload."""
    relay, zendesk = hosted(workers=workers, GUNICORN_CMD_ARGS="--preload")
    takes_and_delivers(relay, zendesk)
    assert relay.stop() == 0
    assert "Traceback" not in "\n".join(relay.output)


def test_faulty_settings_are_named_once_also_before_the_fork(hosted: Any) -> None:
    relay, _ = hosted(GUNICORN_CMD_ARGS="--preload", SPREDFAST_COMPANY_ID="twelve")
    wait_for(lambda: not relay.running, PATIENCE_S)
    assert relay.wait_ended() != 0
    text = "\n".join(relay.output)
    assert text.count("SPREDFAST_COMPANY_ID is not a whole number") == 1 and "Traceback" not in text


def test_on_a_platform_faulty_settings_close_the_service(hosted: Any) -> None:
    relay, zendesk = hosted(DYNO="web.1", SPREDFAST_COMPANY_ID="twelve")
    wait_for(lambda: "event=setting_refused" in "".join(relay.output), PATIENCE_S)
    page = requests.get(relay.url, timeout=PATIENCE_S)
    assert page.status_code == 503 and "<strong>SPREDFAST_COMPANY_ID</strong> is not a whole number." in page.text
    assert requests.get(f"{relay.url}/health", timeout=PATIENCE_S).status_code == 503
    assert (push(relay, "twitter:1"), zendesk.tickets) == (503, [])
    assert relay.stop() == 0
    assert "Traceback" not in "\n".join(relay.output)


def test_a_laptop_polls_when_khoros_cannot_call_it(hosted: Any) -> None:
    relay, _ = hosted(ON_LAPTOP="1", PUBLIC_URL="")
    relay.wait_for_line(f"Open http://127.0.0.1:{relay.port}")
    assert "Khoros cannot call a laptop" in relay.wait_for_line("event=polls")
    assert push(relay, "twitter:1") == 404


def test_a_laptop_with_an_address_is_called(hosted: Any) -> None:
    relay, zendesk = hosted(ON_LAPTOP="1")
    takes_and_delivers(relay, zendesk, 1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_file_of_settings_that_is_not_utf_8_is_one_line(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SPREDFAST_LABEL_NAME=Fälle\n", encoding=encoding)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHON_DOTENV_DISABLED", raising=False)
    with pytest.raises(SystemExit, match="The file .env cannot be read: save it again as plain text in UTF-8"):
        runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def test_a_port_that_is_taken_is_one_line(hosted: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        relay, _ = hosted(f'exec "$1" "$2" --bind 127.0.0.1:{port}')
        assert relay.wait_ended() == 1
    [line] = [line for line in relay.output if "at=error" in line]
    assert f'reason="port {port}: Address already in use; end the program that has the port' in line


@pytest.mark.parametrize("port", ["80000", "abc", "-1"])
def test_a_port_that_cannot_be_is_one_line(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.Settings.from_env", lambda environ: None)
    monkeypatch.setenv("PORT", port)
    with pytest.raises(SystemExit, match="^PORT is not a whole number from 0 to 65535: correct it, or leave it out"):
        runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def test_no_workers_means_one_and_a_warning(hosted: Any) -> None:
    relay, zendesk = hosted(workers=0)
    takes_and_delivers(relay, zendesk, 1)
    assert "WEB_CONCURRENCY is not a whole number from 1 on: one worker" in relay.wait_for_line("event=not_followed")


def test_no_workers_by_gunicorns_own_setting_end_it_with_one_line(hosted: Any) -> None:
    relay, _ = hosted(GUNICORN_CMD_ARGS="--workers=0")
    wait_for(lambda: not relay.running, PATIENCE_S)
    assert relay.wait_ended() != 0
    assert "There are 0 workers" in relay.output[-1]


# Disks


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_disk_to_which_nothing_can_be_written_is_enough_with_postgresql(database_url: str, hosted: Any) -> None:
    """No file may have a byte in it, so that no folder is good for temporary files, as on a read-only root."""
    relay, zendesk = hosted('ulimit -f 0; exec "$@"', DATABASE_URL=database_url, HOME="/nowhere", TMPDIR="/nowhere")
    takes_and_delivers(relay, zendesk)


def test_without_a_folder_for_the_workers_files_it_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError

    for name, value in alone(Path("/nowhere")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHON_DOTENV_DISABLED", "1")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    umask = os.umask(0o077)
    try:
        with pytest.raises(SystemExit, match="let the relay write to /tmp or /dev/shm"):
            runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    finally:
        os.umask(umask)
