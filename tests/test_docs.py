"""Documents and deployment files cannot drift: each is compared with the code, the others or its published rules."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import click
import pytest
from browser import AXE_FOLDER, AXE_VERSION
from dotenv import dotenv_values
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import config
from app import ALL_VARIABLES, Settings
from config import ConfigError
from destinations.route import WORDS, read_line, split_lines
from destinations.routes import ROUTES_VARIABLES
from destinations.slack import SLACK_VARIABLES
from destinations.webhook import WEBHOOK_VARIABLES
from destinations.zendesk import ZENDESK_VARIABLES
from operations.cli import COMMANDS
from sandbox.screenshot import BROWSERS

ROOT = Path(__file__).parent.parent
RECORDS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("khoros", "inbox", "destinations", "operations")
OF_OTHERS = (ROUTES_VARIABLES, ZENDESK_VARIABLES, SLACK_VARIABLES, WEBHOOK_VARIABLES)

# Not asked for in Heroku's form: the add-on sets the first, nobody there needs the next two, and the others end soon.
NOT_IN_THE_FORM = {"DATABASE_URL", "KHOROS_API_URL", "SLACK_API_URL", "ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN"}
WANTED = ["ALERT_WEBHOOK_URL", "STATUS_PASSWORD", "SLACK_BOT_TOKEN", "ROUTES"]  # follow what is needed
FILLED_IN = {
    "SPREDFAST_API_TOKEN": "khoros-access-token",
    "SPREDFAST_COMPANY_ID": "4711",
    "SPREDFAST_LABEL_NAME": "CreateCase",
    "ZENDESK_API_URL": "https://acme.zendesk.com",
    "ZENDESK_CLIENT_ID": "relay",
    "ZENDESK_CLIENT_SECRET": "a-secret",
    "NOTIFICATION_BEARER_TOKEN": "a-token-of-enough-characters",
}


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture
def readme() -> str:
    return text("README.md")


def code_of(*paths: str) -> str:
    """What these documents set as code, in blocks and in sentences."""
    words = "\n".join(map(text, paths))
    blocks = re.findall(r"^```.*?^```", words, re.DOTALL | re.MULTILINE)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", words))


@pytest.fixture
def app_json() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(text("app.json"))
    return manifest


@pytest.fixture
def form(app_json: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The variables Heroku asks for when the button is pressed."""
    env: dict[str, dict[str, Any]] = app_json["env"]
    return env


@pytest.fixture
def example() -> list[tuple[bool, str, str]]:
    """The lines of .env.example that name a variable: (set or commented out, name, value)."""
    found = re.findall(r"^(# )?([A-Z][A-Z0-9_]*)=(.*)$", text(".env.example"), re.MULTILINE)
    return [(not comment, name, value) for comment, name, value in found]


@pytest.fixture
def example_env(example: list[tuple[bool, str, str]]) -> dict[str, str]:
    return {name: value for is_set, name, value in example if is_set}


@pytest.fixture
def command() -> str:
    """How a server starts the relay, as the Procfile has it."""
    (line,) = text("Procfile").splitlines()
    name, _, command = line.partition(": ")
    assert name == "web"
    return command


def faults(environ: dict[str, str]) -> set[str]:
    """The variables the service complains about."""
    try:
        Settings.from_env(environ)
    except ConfigError as error:
        return set(re.findall(r"^ +([A-Z][A-Z0-9_]*) ", str(error), re.MULTILINE))
    return set()


# The variables


@pytest.fixture
def listed() -> list[str]:
    """The variables in the order of the table in docs/settings.md."""
    return re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", text("docs/settings.md"), re.MULTILINE)


@pytest.fixture
def needed(readme: str) -> list[str]:
    """The variables that the README asks for."""
    return re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \|", readme, re.MULTILINE)


def test_the_table_lists_every_variable_in_the_services_order(listed: list[str]) -> None:
    assert sorted(listed) == sorted(ALL_VARIABLES)
    for variables in (config.VARIABLES, *OF_OTHERS):
        assert [name for name in listed if name in variables] == list(variables)


def test_the_example_lists_every_variable_in_the_same_order(
    example: list[tuple[bool, str, str]], listed: list[str]
) -> None:
    assert [name for _, name, _ in example] == listed


def test_the_form_asks_first_for_what_is_needed_then_for_what_is_wanted(
    form: dict[str, dict[str, Any]], listed: list[str], needed: list[str]
) -> None:
    first = [*needed, *WANTED]
    rest = [name for name in listed if name not in {*first, *NOT_IN_THE_FORM}]
    assert len(needed) == 6
    assert list(form) == first + rest
    assert {name for name in form if form[name]["description"].startswith("Leave as it is.")} == set(rest)


def test_the_blueprint_sets_only_variables_the_service_reads() -> None:
    keys = set(re.findall(r"- key: (\S+)", text("render.yaml")))
    assert keys - set(ALL_VARIABLES) == {"GUNICORN_CMD_ARGS"}
    assert {*FILLED_IN} <= keys


def test_the_example_explains_every_variable(example: list[tuple[bool, str, str]]) -> None:
    lines = text(".env.example").splitlines()
    for is_set, name, value in example:
        above = lines[lines.index(f"{'' if is_set else '# '}{name}={value}") - 1]
        assert re.match(r"# (?![A-Z][A-Z0-9_]*=)\S", above), name


def test_the_example_does_not_start_until_each_of_its_values_is_changed(example_env: dict[str, str]) -> None:
    assert list(example_env) == list(FILLED_IN)
    assert faults(example_env) == {*FILLED_IN} - {"SPREDFAST_LABEL_NAME"}
    assert faults(FILLED_IN) == set()


def test_what_the_example_comments_out_is_the_default(example: list[tuple[bool, str, str]]) -> None:
    commented = {name: value for is_set, name, value in example if not is_set}
    assert Settings.from_env(FILLED_IN | commented) == Settings.from_env(FILLED_IN)


def test_the_form_requires_what_the_service_cannot_start_without(
    form: dict[str, dict[str, Any]], needed: list[str]
) -> None:
    required = {name for name, entry in form.items() if entry["required"]}
    assert required == faults({}) == {*FILLED_IN} == {*needed, "NOTIFICATION_BEARER_TOKEN"}


def test_what_the_form_fills_in_is_the_default(form: dict[str, dict[str, Any]]) -> None:
    filled = {name: entry["value"] for name, entry in form.items() if "value" in entry}
    assert Settings.from_env(FILLED_IN | filled) == Settings.from_env(FILLED_IN)


# Heroku


def test_app_json_asks_for_what_the_readme_promises(app_json: dict[str, Any]) -> None:
    assert len(app_json["name"]) <= 30
    assert set(app_json) <= {"name", "description", "keywords", "success_url", "env", "formation", "addons"}
    assert app_json["success_url"] == "/"
    assert app_json["formation"] == {"web": {"quantity": 1, "size": "basic"}}
    assert app_json["addons"] == [{"plan": "heroku-postgresql:essential-0"}]


def test_every_field_of_the_form_is_an_object_that_says_whether_it_is_required(
    form: dict[str, dict[str, Any]],
) -> None:
    for name, entry in form.items():
        assert set(entry) <= {"description", "value", "generator", "required"}, name
        assert entry["description"].strip(), name
        assert isinstance(entry["required"], bool), name
        assert isinstance(entry.get("value", ""), str), name
        assert not ("value" in entry and "generator" in entry), name


def test_heroku_makes_up_the_secrets_that_nobody_else_knows(form: dict[str, dict[str, Any]]) -> None:
    generated = [name for name, entry in form.items() if entry.get("generator") == "secret"]
    assert generated == ["STATUS_PASSWORD", "NOTIFICATION_BEARER_TOKEN"]


def test_heroku_finds_one_kind_of_requirements() -> None:
    kinds = [
        "requirements.txt",
        "Pipfile",
        "Pipfile.lock",
        "poetry.lock",
        "uv.lock",
        "pdm.lock",
        "pylock.toml",
        "setup.py",
    ]
    assert [kind for kind in kinds if (ROOT / kind).exists()] == ["requirements.txt"]


def test_heroku_finds_the_python_version_that_the_image_has() -> None:
    version = text(".python-version").strip()
    assert re.fullmatch(r"3\.\d+", version)
    assert f"\nFROM python:{version}-slim\n" in text("Dockerfile")


# The commands


def test_the_relay_is_started_the_same_way_everywhere(command: str) -> None:
    program, _, argument = command.partition(" ")
    assert command in code_of("README.md")
    assert f"\t$(BIN)/{command}\n" in text("Makefile")
    assert f"startCommand: {command}\n" in text("render.yaml")
    assert f"CMD {json.dumps([program, argument.strip(chr(39))])}\n" in text("Dockerfile")


def test_the_documents_name_the_makefiles_targets() -> None:
    makefile = text("Makefile")
    targets = set(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert targets == phony - {"help"}
    assert set(re.findall(r"\bmake ([a-z]+)", code_of("README.md", "docs/development.md"))) == targets


def leaves(commands: Sequence[click.Command], path: str = "") -> Iterator[tuple[str, click.Command]]:
    """The commands that do something, each with the words that call it."""
    for command in commands:
        if isinstance(command, click.Group):
            yield from leaves(list(command.commands.values()), f"{path}{command.name} ")
        else:
            yield f"{path}{command.name}", command


@pytest.fixture
def command_lines() -> list[list[str]]:
    """The words behind `flask --app app` of every command in the documents."""
    code = code_of(*(str(document.relative_to(ROOT)) for document in DOCUMENTS))
    return [shlex.split(line, comments=True) for line in re.findall(r"flask --app app (\w.*)$", code, re.MULTILINE)]


def test_the_documents_list_every_command() -> None:
    block = re.findall(r"^flask --app app ([^#\n]*?) +# (.*)$", text("docs/operations.md"), re.MULTILINE)
    for path, command in leaves(COMMANDS):
        described = " ".join(line + " " + comment for line, comment in block if f"{line} ".startswith(f"{path} "))
        assert described, path
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert options - set(re.findall(r"--[a-z]+", described)) <= {"--json", "--limit", "--wait", "--yes"}, path


def test_every_command_in_the_documents_is_one_of_the_services(command_lines: list[list[str]]) -> None:
    known = dict(leaves(COMMANDS))
    assert len(command_lines) > len(known)
    for words in command_lines:
        [path] = [path for path in known if words[: len(path.split())] == path.split()]
        parser = known[path].make_parser(click.Context(known[path]))
        parser.parse_args(words[len(path.split()) :])  # raises UsageError


def test_the_states_that_the_documents_name_can_be_listed() -> None:
    [sentence] = re.findall(r"--state (.*)$", text("docs/operations.md"), re.MULTILINE)
    [option] = [one for one in dict(leaves(COMMANDS))["inbox list"].params if one.name == "state"]
    assert isinstance(option.type, click.Choice)
    assert set(re.split(", | or ", sentence)) == {*option.type.choices} - {option.default}


def test_ci_runs_the_tests_and_the_demo() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make .*$", script.read_text(encoding="utf-8"), re.MULTILINE) == [
        "make test",
        "make browser",
        "make demo ARGS=--once",
    ]
    assert "- run: .ci/run\n" in text(".github/workflows/ci.yml")


def test_ci_leaves_out_no_test_that_a_developers_machine_may_lack_the_means_for() -> None:
    before = text(".ci/run").partition("\nmake test\n")[0]
    assert "\nexport POOLER_TESTS=required\n" in before and "missing+=(pgbouncer)" in before
    assert f"\nnpm install --loglevel=error --no-save --prefix {AXE_FOLDER.name} axe-core@{AXE_VERSION}\n" in before
    for browser in BROWSERS:
        assert f" {browser} " in before


# The requirements


def pins(path: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in text(path).splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


@pytest.mark.parametrize("path", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_exactly(path: str) -> None:
    for pin in pins(path):
        assert re.fullmatch(r"==[^*,]+", str(pin.specifier)), pin
        assert pin.marker is None, pin


def test_development_installs_what_the_server_installs() -> None:
    assert text("requirements-dev.txt").splitlines()[0] == "-r requirements.txt"


def test_the_server_gets_what_its_packages_ask_for_and_nothing_else() -> None:
    pinned = {canonicalize_name(pin.name): pin for pin in pins("requirements.txt")}
    direct = text("requirements.txt").partition("# Pulled in by them")[0]
    waiting = [pin for name, pin in pinned.items() if re.search(rf"^{re.escape(pin.name)}[\[=]", direct, re.MULTILINE)]
    needed = {canonicalize_name(pin.name) for pin in waiting}
    while waiting:
        parent = waiting.pop()
        for child in map(Requirement, distribution(parent.name).requires or []):
            cases = itertools.product({"", *parent.extras}, ("3.11", "3.14"))  # the oldest and the newest Python
            if child.marker and not any(child.marker.evaluate({"extra": e, "python_version": v}) for e, v in cases):
                continue
            name = canonicalize_name(child.name)
            assert name in pinned, f"{parent.name} asks for {child}"
            assert child.specifier.contains(str(pinned[name].specifier).removeprefix("==")), child
            if name not in needed:
                needed.add(name)
                waiting.append(child)
    assert set(pinned) == needed


# The documents


@pytest.fixture
def route_lines() -> list[str]:
    """The lines of ROUTES that the documents show, set as code."""
    words = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    return re.findall(r"^    (\S.* -> \S.*)$", words, re.MULTILINE) + re.findall(r"`([^`\n]+ -> [^`\n]+)`", words)


def test_every_route_in_the_documents_works(route_lines: list[str]) -> None:
    assert len(route_lines) > 15
    for line in route_lines:
        assert [read_line(one).words for _, one in split_lines(line)], line


def test_routes_in_single_quotes_survive_a_dot_env_file() -> None:
    [line] = re.findall(r"^ROUTES=.*$", text("docs/routes.md"), re.MULTILINE)
    [value] = dotenv_values(stream=io.StringIO(line)).values()
    assert [read_line(one).words for _, one in split_lines(value or "")] == [
        "Label VIP → Slack #social-crisis",
        "Published → Slack #social-news",
    ]


def test_the_routes_are_documented_for_every_event_and_destination(route_lines: list[str]) -> None:
    routes = [read_line(line) for line in route_lines]
    assert {route.word for route in routes} >= set(WORDS)
    assert {route.kind for route in routes} == {"zendesk", "slack", "webhook"}
    table = re.findall(r"^\| `([a-z-]+)(?: NAME)?` \|", text("docs/routes.md"), re.MULTILINE)
    assert table == [*WORDS, "zendesk"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_every_decision_has_its_sections(record: Path) -> None:
    title, *_ = record.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(rf"# {int(record.name[:4])}\. \S.*", title)
    sections = re.split(r"^## ", record.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == ["Status", "Context", "Decision", "Consequences"]
    assert all(section.partition("\n")[2].strip() for section in sections)


def test_the_decisions_are_numbered_without_a_gap_and_indexed() -> None:
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))
    assert re.findall(r"\]\(([0-9]\S+\.md)\)", text("docs/decisions/README.md")) == [record.name for record in RECORDS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_links_and_files_in_the_documents_exist(document: Path) -> None:
    words = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!\.\./\.\./actions/)[^)#:]+)\)", words):
        assert (document.parent / target).exists(), target
    for file in re.findall(r"`((?:[a-z_]+/)*[a-z_.]+(?:\.(?:py|json|txt)|/))`", words):
        assert any((ROOT / room / file).exists() for room in ("", *ROOMS)), file


def test_the_readme_links_the_architecture_and_the_decisions(readme: str) -> None:
    assert len(readme.splitlines()) <= 120
    assert "](docs/ARCHITECTURE.md)" in readme
    assert "](docs/decisions/README.md)" in readme
    assert len(text("docs/ARCHITECTURE.md").splitlines()) <= 40


def test_every_direct_dependency_is_explained() -> None:
    decision = (ROOT / "docs" / "decisions" / "0017-dependencies.md").read_text(encoding="utf-8").lower()
    direct = text("requirements.txt").partition("# Pulled in by them")[0] + text("requirements-dev.txt")
    names = re.findall(r"^([A-Za-z][A-Za-z0-9._-]*)(?:\[\w+\])?==", direct, re.MULTILINE)
    assert [name for name in names if name.lower() not in decision] == []
