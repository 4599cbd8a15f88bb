"""A service whose settings are faulty: on a platform it says what to correct, and its commands are listed anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import alone
from flask import Flask
from flask.cli import FlaskGroup, ScriptInfo
from flask.testing import FlaskClient

from app import ALL_VARIABLES, create_app
from config import PLATFORMS, ConfigError
from operations.cli import COMMANDS
from operations.closed import ASK_EVERY_S, DASHBOARDS, ClosedError
from operations.relay import current_relay
from sandbox.khoros import FakeKhoros
from sandbox.server import Server

PLANS = "Secret plan"  # the name of a label is nobody else's business


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The process' environment without our variables and the platforms'."""
    for name in [*ALL_VARIABLES, *PLATFORMS]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def closed(environment: pytest.MonkeyPatch) -> Flask:
    """A service on Heroku with a token and a route that are faulty, and no other variable."""
    environment.setenv("DYNO", "web.1")
    environment.setenv("SPREDFAST_API_TOKEN", f"{PLANS} token")
    environment.setenv("ROUTES", f"label {PLANS} -> nowhere")
    return create_app()


@pytest.mark.parametrize("variable", PLATFORMS)
def test_on_a_platform_the_page_names_each_variable_what_is_wrong_and_where_it_is_corrected(
    variable: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(variable, "here")
    answer = create_app().test_client().get("/")
    assert answer.status_code == 503
    for name in ("SPREDFAST_API_TOKEN", "SPREDFAST_COMPANY_ID", "NOTIFICATION_BEARER_TOKEN", "ZENDESK_API_URL"):
        assert f"<strong>{name}</strong> is missing." in answer.text
    assert DASHBOARDS[PLATFORMS[variable]].replace(">", "&gt;") in answer.text


def test_the_page_has_no_word_of_a_value(closed: Flask) -> None:
    page = closed.test_client().get("/").text
    assert "<strong>SPREDFAST_API_TOKEN</strong> has a space or an unusual character in it" in page
    assert "route 1 must have zendesk, slack or webhook behind -&gt;; for example: label VIP" in page
    assert PLANS not in page


@pytest.mark.parametrize("path", ["/health", "/notifications", "/status", "/metrics", "/anything"])
def test_everything_else_is_503_too(path: str, closed: Flask) -> None:
    for answer in (closed.test_client().get(path), closed.test_client().post(path, data=b"x")):
        assert (answer.status_code, answer.get_json()["error"]) == (503, "Service Unavailable")
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_the_page_has_its_colours(closed: Flask) -> None:
    with closed.test_client().get("/static/style.css") as answer:
        assert answer.status_code == 200


def test_the_log_names_each_fault_on_a_line(
    environment: pytest.MonkeyPatch, closed: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    create_app()
    lines = capsys.readouterr().out.splitlines()
    faulty = ["SPREDFAST_API_TOKEN", "SPREDFAST_COMPANY_ID", "NOTIFICATION_BEARER_TOKEN", "ROUTES"]
    assert [line.split()[:3] for line in lines] == [
        ["at=error", "event=setting_refused", f"variable={variable}"] for variable in faulty
    ]


def test_elsewhere_faulty_settings_end_it(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="SPREDFAST_API_TOKEN is missing"):
        create_app()


# The company's number


@pytest.fixture
def khoros(environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKhoros]:
    """A Khoros with one company, 123, for a service on Heroku that does not know its company's number."""
    khoros = FakeKhoros()
    with Server(khoros.app) as server:
        variables = alone(tmp_path, DYNO="web.1", KHOROS_API_URL=f"{server.url}/v2", SPREDFAST_API_TOKEN=khoros.token)
        for name, value in variables.items():
            environment.setenv(name, value)
        environment.setenv("SPREDFAST_COMPANY_ID", "?")
        yield khoros


QUESTION = "<strong>SPREDFAST_COMPANY_ID</strong> is a question mark: choose your company and enter its number."
ACME = ["<li><strong>123</strong> Acme Coffee</li>"]
REFUSED = "Khoros refuses SPREDFAST_API_TOKEN: copy it again. Then your companies are listed here."


def companies(client: FlaskClient) -> list[str]:
    page = client.get("/").text
    assert QUESTION in page
    return [line.strip() for line in page.splitlines() if "Acme Coffee" in line]


def test_who_does_not_know_the_companys_number_reads_it_on_the_page(khoros: FakeKhoros) -> None:
    assert companies(create_app().test_client()) == ACME


def test_khoros_is_asked_once_for_what_it_lists(khoros: FakeKhoros) -> None:
    client = create_app().test_client()
    assert companies(client) == companies(client) == ACME
    assert len(khoros.calls) == 1


def test_a_refused_token_lists_no_company_and_the_page_says_so(
    khoros: FakeKhoros, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SPREDFAST_API_TOKEN", "another-token")
    client = create_app().test_client()
    assert companies(client) == [] and REFUSED in client.get("/").text


def test_without_a_token_the_page_says_that_it_is_needed_first(
    khoros: FakeKhoros, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SPREDFAST_API_TOKEN", "")
    assert "When SPREDFAST_API_TOKEN is right, your companies are listed" in create_app().test_client().get("/").text
    assert khoros.calls == []


def test_khoros_is_asked_again_after_a_while_until_it_lists_some(khoros: FakeKhoros) -> None:
    now = [0.0]
    closed = ClosedError(ConfigError("", {"SPREDFAST_COMPANY_ID": "is missing"}), clock=lambda: now[0])
    khoros.faults.outage(503)
    assert closed.companies() == ([], "Khoros did not answer with your companies: try again in a minute.")
    khoros.faults.clear()
    now[0] = ASK_EVERY_S - 1
    assert closed.companies()[0] == [] and len(khoros.calls) == 1
    now[0] = ASK_EVERY_S
    assert [one.name for one in closed.companies()[0]] == ["Acme Coffee"]


# The words


@pytest.mark.parametrize("name", ALL_VARIABLES)
def test_what_helps_to_set_a_variable_is_a_sentence_without_a_command(name: str) -> None:
    hint = ALL_VARIABLES[name]
    assert (hint[0].isupper() or hint.startswith(("api.slack.com", "postgres://"))) and not hint.endswith(".")
    assert ("openssl" not in hint and "heroku apps" not in hint) or name == "WEBHOOK_SECRET"


# The commands


def run(*words: str) -> tuple[int, str]:
    """`flask --app app …`, with its exit code and what it prints."""
    runner, group = Flask(__name__).test_cli_runner(), FlaskGroup(create_app=create_app, add_version_option=False)
    result = runner.invoke(group, list(words), obj=ScriptInfo(create_app=create_app, load_dotenv_defaults=False))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_the_commands_are_listed_without_any_variable(environment: pytest.MonkeyPatch) -> None:
    code, output = run("--help")
    assert code == 0 and "Error" not in output and "Traceback" not in output
    assert [name for name in (command.name for command in COMMANDS) if f"  {name} " not in output] == []


def test_a_command_says_what_is_wrong_with_the_settings(environment: pytest.MonkeyPatch) -> None:
    code, output = run("check")
    assert code == 1 and output.startswith("Error: The relay cannot start. Set these variables and start it again:\n")


def test_a_command_lists_the_companies_too(khoros: FakeKhoros) -> None:
    code, output = run("check")
    assert code == 1 and output.endswith("\nThe companies of your access token:\n  123: Acme Coffee\n")


def test_flasks_own_server_does_not_start(environment: pytest.MonkeyPatch) -> None:
    code, output = run("run")
    assert code == 1 and "SPREDFAST_API_TOKEN is missing" in output


def test_nothing_else_finds_a_relay(closed: Flask) -> None:
    with closed.app_context(), pytest.raises(ConfigError, match="SPREDFAST_API_TOKEN has a space"):
        current_relay()
