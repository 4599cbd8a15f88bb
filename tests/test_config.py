"""What the service takes from its environment, and what it says when something there is missing or wrong."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import config
from app import ALL_VARIABLES, Settings
from config import Config, ConfigError, Reader
from destinations.filters import Filter
from destinations.route import Route
from destinations.routes import Routes
from destinations.slack import SlackSettings
from destinations.webhook import WebhookSettings
from destinations.zendesk import ZENDESK_VARIABLES, ZendeskSettings

REQUIRED = {
    "SPREDFAST_API_TOKEN": "khoros-access-token",
    "SPREDFAST_COMPANY_ID": "4711",
    "SPREDFAST_LABEL_NAME": "CreateCase",
    "NOTIFICATION_BEARER_TOKEN": "n0tification-bearer-token",
    "ZENDESK_API_URL": "https://acme.zendesk.com",
}
CLIENT = {"ZENDESK_CLIENT_ID": "relay", "ZENDESK_CLIENT_SECRET": "zendesk-client-secret"}
API_TOKEN = {"ZENDESK_USER_EMAIL": "agent@acme.example", "ZENDESK_API_TOKEN": "zendesk-api-token"}
SMALLEST = REQUIRED | CLIENT
HOOK = "https://adtech.example/hooks/made-up-secret"
ROUTES = f"label VIP -> slack #crisis; published -> webhook {HOOK}"
SLACK = {"SLACK_BOT_TOKEN": "xoxb-1-made-up-token"}
WEBHOOK = {"WEBHOOK_SECRET": "whsec_" + "c2VjcmV0" * 4}
EVERYTHING = SMALLEST | SLACK | WEBHOOK | {"ROUTES": ROUTES}
CREATE_CASE = Route("label", Filter("CreateCase", None), "zendesk")


def faults(environ: Mapping[str, str]) -> dict[str, str]:
    """What is said of each variable, by its name; the message must have a heading and a line for each, which may be
    followed by lines with details."""
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)
    heading, *lines = re.split(r"\n(?!   )", str(caught.value))
    assert heading == "The relay cannot start. Set these variables and start it again:"
    named = [re.fullmatch(r"  ([A-Z][A-Z_]+) (.+)", line, re.DOTALL) for line in lines]
    assert all(named), lines
    return {match[1]: match[2] for match in named if match}


def fault(name: str, value: str) -> str:
    """What is said of one variable with this value when all the others are right."""
    found = faults(SMALLEST | {name: value})
    assert list(found) == [name]
    return found[name]


# What it holds


def test_the_smallest_environment_gives_every_default() -> None:
    assert Settings.from_env(SMALLEST) == Settings(
        Config(
            khoros_token="khoros-access-token",
            company_id=4711,
            bearer_tokens=("n0tification-bearer-token",),
            public_url="",
            heroku_app_name="",
            database_url="sqlite:///relay.db",
            khoros_url="https://api.spredfast.com/v2",
            external_id="send-to-zendesk",
            polling=False,
            catch_up_s=300.0,
            poll_s=15.0,
            status_password="",
            status_shows_posts=True,
            alert_url="",
            alert_after_s=600.0,
            retention_s=30 * 86_400.0,
            log_level="INFO",
            on_dyno=False,
            on_lambda=False,
        ),
        Routes((CREATE_CASE,)),
        ZendeskSettings(
            url="https://acme.zendesk.com",
            client_id="relay",
            client_secret="zendesk-client-secret",
            user_email="",
            api_token="",
            ticket_fields={},
            comment_public=False,
        ),
    )


def test_every_variable_reaches_its_setting() -> None:
    environ = EVERYTHING | API_TOKEN
    environ |= {
        "SLACK_API_URL": "https://slack.acme.example/api/",
        "PUBLIC_URL": "https://relay.acme.example/",
        "HEROKU_APP_NAME": "acme-relay",
        "DATABASE_URL": "postgres://me:pw@db.acme.example:5432/relay",
        "KHOROS_API_URL": "http://127.0.0.1:8001/v2/",
        "KHOROS_EXTERNAL_ID": "ours",
        "ZENDESK_TICKET_FIELDS": '{"group_id": 123, "tags": ["social"], "metadata": {"from": "relay"}}',
        "ZENDESK_COMMENT_PUBLIC": "true",
        "ZENDESK_REQUESTER": "author",
        "KHOROS_DELIVERY": "Poll",
        "CATCH_UP_MINUTES": "10",
        "POLL_SECONDS": "30",
        "STATUS_PASSWORD": "a-status-password",
        "STATUS_SHOWS_POSTS": "false",
        "ALERT_WEBHOOK_URL": "https://hooks.acme.example/made-up",
        "ALERT_AFTER_MINUTES": "20",
        "RETENTION_DAYS": "7",
        "LOG_LEVEL": "debug",
        "DYNO": "web.1",
    }
    assert Settings.from_env(environ) == Settings(
        Config(
            khoros_token="khoros-access-token",
            company_id=4711,
            bearer_tokens=("n0tification-bearer-token",),
            public_url="https://relay.acme.example",
            heroku_app_name="acme-relay",
            database_url="postgresql://me:pw@db.acme.example:5432/relay",
            khoros_url="http://127.0.0.1:8001/v2",
            external_id="ours",
            polling=True,
            catch_up_s=600.0,
            poll_s=30.0,
            status_password="a-status-password",
            status_shows_posts=False,
            alert_url="https://hooks.acme.example/made-up",
            alert_after_s=1200.0,
            retention_s=7 * 86_400.0,
            log_level="DEBUG",
            on_dyno=True,
        ),
        Routes(
            (
                Route("label", Filter("VIP", None), "slack", "#crisis", line=1),
                Route("published", None, "webhook", HOOK, line=2),
                CREATE_CASE,
            )
        ),
        ZendeskSettings(
            url="https://acme.zendesk.com",
            client_id="relay",
            client_secret="zendesk-client-secret",
            user_email="agent@acme.example",
            api_token="zendesk-api-token",
            ticket_fields={"group_id": 123, "tags": ["social"], "metadata": {"from": "relay"}},
            comment_public=True,
            requester="author",
        ),
        SlackSettings("xoxb-1-made-up-token", "https://slack.acme.example/api"),
        WebhookSettings((WEBHOOK["WEBHOOK_SECRET"],)),
    )
    assert environ.keys() - {"DYNO"} == ALL_VARIABLES.keys()


def test_the_settings_of_every_process_need_no_destination() -> None:
    read = Reader(REQUIRED, config.VARIABLES)
    assert Config.read(read).company_id == 4711
    read.finish()


@pytest.mark.parametrize(
    ("name", "value", "setting", "expected"),
    [
        pytest.param("SPREDFAST_COMPANY_ID", "007", "company_id", 7, id="leading zeros"),
        pytest.param("SPREDFAST_COMPANY_ID", "9" * 18, "company_id", int("9" * 18), id="as large as a column holds"),
        pytest.param("SPREDFAST_API_TOKEN", "  token\n", "khoros_token", "token", id="space around a copied token"),
        pytest.param("SPREDFAST_API_TOKEN", "a-b._~+/c==", "khoros_token", "a-b._~+/c==", id="signs in a token"),
        pytest.param(
            "STATUS_PASSWORD", "!~{}#$%'&01234567", "status_password", "!~{}#$%'&01234567", id="in a password"
        ),
        pytest.param(
            "NOTIFICATION_BEARER_TOKEN",
            "new-token-of-16ch, old-token-of-16ch",
            "bearer_tokens",
            ("new-token-of-16ch", "old-token-of-16ch"),
            id="new and old",
        ),
        pytest.param("NOTIFICATION_BEARER_TOKEN", "x" * 16 + ",", "bearer_tokens", ("x" * 16,), id="comma at the end"),
        pytest.param(
            "ZENDESK_API_URL",
            "https://acme.zendesk.com/api/v2/tickets.json",
            "url",
            "https://acme.zendesk.com",
            id="the 2017 form",
        ),
        pytest.param(
            "ZENDESK_API_URL", "https://acme.zendesk.com/api/v2", "url", "https://acme.zendesk.com", id="api/v2"
        ),
        pytest.param("ZENDESK_API_URL", "https://acme.zendesk.com///", "url", "https://acme.zendesk.com", id="slashes"),
        pytest.param("ZENDESK_API_URL", "http://localhost:1", "url", "http://localhost:1", id="localhost"),
        pytest.param("ZENDESK_API_URL", "http://127.9.9.9:1", "url", "http://127.9.9.9:1", id="127.0.0.0/8"),
        pytest.param("ZENDESK_API_URL", "http://[::1]:1", "url", "http://[::1]:1", id="IPv6 loopback"),
        pytest.param("DATABASE_URL", "sqlite:////var/relay.db", "database_url", "sqlite:////var/relay.db", id="sqlite"),
        pytest.param("DATABASE_URL", "postgresql://h/d", "database_url", "postgresql://h/d", id="postgresql://"),
        pytest.param("DATABASE_URL", "postgresql+psycopg://h/d", "database_url", "postgresql://h/d", id="driver named"),
        pytest.param(
            "DATABASE_URL", "postgres://u:12/+=@h/d", "database_url", "postgresql://u:12%2F%2B%3D@h/d", id="signs"
        ),
        pytest.param(
            "DATABASE_URL", "postgres://u:a%2Fb%zz@h/d", "database_url", "postgresql://u:a%2Fb%25zz@h/d", id="%"
        ),
        pytest.param("DATABASE_URL", "postgres://u:p@w:@h/d", "database_url", "postgresql://u:p%40w%3A@h/d", id="an @"),
        pytest.param(
            "DATABASE_URL", "postgres://h/d?user=a@b", "database_url", "postgresql://h/d?user=a@b", id="query"
        ),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "YES", "comment_public", True, id="YES"),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "1", "comment_public", True, id="1"),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "No", "comment_public", False, id="No"),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "0", "comment_public", False, id="0"),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "False", "comment_public", False, id="False"),
        pytest.param("KHOROS_DELIVERY", "PUSH", "polling", False, id="push"),
        pytest.param("CATCH_UP_MINUTES", "0", "catch_up_s", 0.0, id="no catching up"),
        pytest.param("PUBLIC_URL", "https://r.example/status/items/3", "public_url", "https://r.example", id="a page"),
        pytest.param(
            "HEROKU_APP_NAME",
            "https://dashboard.heroku.com/apps/acme/settings",
            "heroku_app_name",
            "acme",
            id="a dashboard",
        ),
        pytest.param(
            "ALERT_WEBHOOK_URL",
            "hooks.slack.com/services/T0,",
            "alert_url",
            "https://hooks.slack.com/services/T0",
            id="Slack",
        ),
        pytest.param("LOG_LEVEL", "Warning", "log_level", "WARNING", id="a level in any case"),
        pytest.param("ZENDESK_TICKET_FIELDS", "{}", "ticket_fields", {}, id="no fields"),
    ],
)
def test_a_value_is_read_as_people_write_it(name: str, value: str, setting: str, expected: object) -> None:
    settings = Settings.from_env(SMALLEST | {name: value})
    assert getattr(settings.zendesk if name in ZENDESK_VARIABLES else settings.config, setting) == expected


@pytest.mark.parametrize(
    "pasted",
    [
        "acme.zendesk.com",
        "https://acme.zendesk.com/agent/dashboard",
        "https://acme.zendesk.com/agent/tickets/1?brand=2#comments",
        "acme.zendesk.com/hc/en-us",
        "HTTPS://ACME.Zendesk.COM/api/v2/",
        "http://acme.zendesk.com",
        "https://acme.zendesk.com,",
        "acme.zendesk.com ; ",
    ],
)
def test_the_zendesk_account_is_found_in_the_address_of_any_of_its_pages(pasted: str) -> None:
    account = Settings.from_env(SMALLEST | {"ZENDESK_API_URL": pasted}).zendesk
    assert account is not None and account.url == "https://acme.zendesk.com"


@pytest.mark.parametrize(
    "around",
    ["'{}'", '"{}"', "“{}”", "«{}»", "NAME={}", 'export NAME="{}"', "'NAME={}'", "NAME: {}"]
    + ["\u00a0{}\u00a0", "\ufeff{}\u200b\n", "\u200b'{}'"],
    ids=ascii,
)
@pytest.mark.parametrize("name", [*SMALLEST, "HEROKU_APP_NAME", "PUBLIC_URL", "SLACK_BOT_TOKEN", "WEBHOOK_SECRET"])
def test_what_comes_along_with_a_pasted_value_is_taken_off(name: str, around: str) -> None:
    environ = EVERYTHING | {"HEROKU_APP_NAME": "acme-relay", "PUBLIC_URL": "https://acme.example"}
    pasted = around.replace("NAME", name).format(environ[name])
    assert Settings.from_env(environ | {name: pasted}) == Settings.from_env(environ)


@pytest.mark.parametrize(
    ("name", "pasted", "meant"),
    [
        ("SPREDFAST_API_TOKEN", "Bearer a-token", "a-token"),
        ("SPREDFAST_API_TOKEN", "Authorization: bearer\u00a0a-token", "a-token"),
        ("SPREDFAST_API_TOKEN", "a-\u200btoken", "a-token"),
        ("NOTIFICATION_BEARER_TOKEN", "Bearer " + "x" * 16, "x" * 16),
        ("SLACK_BOT_TOKEN", "Bearer xoxb-1-token", "xoxb-1-token"),
        ("ZENDESK_USER_EMAIL", "agent@acme.example/token", "agent@acme.example"),
        ("ZENDESK_API_TOKEN", "agent@acme.example/token:a-token", "a-token"),
        ("PUBLIC_URL", "https://relay.acme.example/notifications", "https://relay.acme.example"),
        ("PUBLIC_URL", "relay.acme.example/status/", "https://relay.acme.example"),
        ("PUBLIC_URL", "https://acme.example/relay", "https://acme.example/relay"),
        ("HEROKU_APP_NAME", "acme-relay.herokuapp.com", "acme-relay"),
        ("HEROKU_APP_NAME", " 'https://Acme-Relay.herokuapp.com/' ", "acme-relay"),
        ("ZENDESK_TICKET_FIELDS", '\ufeff{"tags": ["a\u200cb"]}\u200b', '{"tags": ["a\u200cb"]}'),
    ],
)
def test_a_value_that_is_pasted_in_another_form_means_the_same(name: str, pasted: str, meant: str) -> None:
    environ = EVERYTHING | API_TOKEN
    assert Settings.from_env(environ | {name: pasted}) == Settings.from_env(environ | {name: meant})


def test_no_example_value_is_taken_for_a_real_one() -> None:
    lines = (Path(__file__).parent.parent / ".env.example").read_text(encoding="utf-8").splitlines()
    examples = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert examples.pop("SPREDFAST_LABEL_NAME") == "CreateCase"
    for name, said in faults(examples | {"SPREDFAST_LABEL_NAME": "CreateCase"}).items():
        assert said.startswith("still has the value of .env.example; put your own there."), name
        examples.pop(name)
    assert examples == {}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ""),
        ({"DYNO": ""}, ""),
        ({"DYNO": "web.1"}, "Heroku"),
        ({"RENDER": "true"}, "Render"),
        ({"FLY_APP_NAME": "relay"}, "Fly"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "relay"}, "AWS Lambda"),
    ],
)
def test_a_platform_makes_itself_known(environ: dict[str, str], expected: str) -> None:
    assert config.platform(environ) == expected


def test_aws_lambda_keeps_no_file() -> None:
    on_lambda = SMALLEST | {"AWS_LAMBDA_FUNCTION_NAME": "relay"}
    assert faults(on_lambda)["DATABASE_URL"].startswith("must lead to a PostgreSQL database")
    assert Settings.from_env(on_lambda | {"DATABASE_URL": "postgres://h/d"}).config.on_lambda


@pytest.mark.parametrize("blank", ["", "  ", "\n"], ids=["empty", "spaces", "a line break"])
def test_an_empty_variable_counts_as_not_set(blank: str) -> None:
    optional = dict.fromkeys(ALL_VARIABLES.keys() - SMALLEST.keys(), blank)
    assert Settings.from_env(SMALLEST | optional) == Settings.from_env(SMALLEST)
    assert set(faults(dict.fromkeys(ALL_VARIABLES, blank))) == SMALLEST.keys()


@pytest.mark.parametrize(
    ("routes", "needed"),
    [
        ("published -> slack #x", {*SLACK}),
        (f"published -> webhook {HOOK}", {*WEBHOOK}),
        ("rule Recall -> zendesk", {"ZENDESK_API_URL", *CLIENT}),
        (ROUTES, {*SLACK, *WEBHOOK}),
    ],
)
def test_a_destination_needs_its_settings_only_when_a_line_leads_there(routes: str, needed: set[str]) -> None:
    always = {
        name: value for name, value in REQUIRED.items() if name not in ("SPREDFAST_LABEL_NAME", "ZENDESK_API_URL")
    }
    assert faults(always | {"ROUTES": routes}).keys() == needed
    settings = Settings.from_env(EVERYTHING | {"ROUTES": routes, "SPREDFAST_LABEL_NAME": ""})
    parts = {
        "ZENDESK_API_URL": settings.zendesk,
        "SLACK_BOT_TOKEN": settings.slack,
        "WEBHOOK_SECRET": settings.webhooks,
    }
    assert {name for name, part in parts.items() if part} == needed & parts.keys()


def test_faulty_lines_are_named_beside_the_other_faults() -> None:
    found = faults(SMALLEST | {"ROUTES": "label VIP -> slack\nrule X -> slack #x\nnonsense", "LOG_LEVEL": "LOUD"})
    assert found.keys() == {"ROUTES", "LOG_LEVEL", "SLACK_BOT_TOKEN"}
    assert re.findall(r"line [0-9]+", found["ROUTES"]) == ["line 1", "line 3"]


def test_an_api_token_will_do_instead_of_an_oauth_client() -> None:
    account = Settings.from_env(REQUIRED | API_TOKEN).zendesk
    assert account is not None
    assert (account.client_id, account.user_email, account.api_token) == ("", "agent@acme.example", "zendesk-api-token")


def test_settings_cannot_be_changed() -> None:
    settings = Settings.from_env(SMALLEST)
    assert settings.zendesk is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.config.company_id = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.zendesk.url = ""  # type: ignore[misc]


def test_only_listed_variables_and_those_of_the_platforms_are_read() -> None:
    class Environment(dict[str, str]):
        asked: set[str] = set()

        def get(self, key: str, default: Any = None) -> Any:
            self.asked.add(key)
            return super().get(key, default)

        def __contains__(self, key: object) -> bool:
            self.asked.add(str(key))
            return super().__contains__(key)

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("it went through the whole environment")

    Settings.from_env(environ := Environment(SMALLEST))
    addresses = {"HEROKU_APP_DEFAULT_DOMAIN_NAME", "RENDER_EXTERNAL_URL", "FLY_APP_NAME"}
    assert environ.asked == ALL_VARIABLES.keys() | addresses | config.PLATFORMS.keys()


def test_the_process_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALLEST.items():
        monkeypatch.setenv(name, value)
    assert faults({}).keys() == SMALLEST.keys()


# The public address

HEROKU = {"HEROKU_APP_DEFAULT_DOMAIN_NAME": "acme-relay-12ab.herokuapp.com"}
RENDER = {"RENDER_EXTERNAL_URL": "https://acme-relay.onrender.com/"}
FLY = {"FLY_APP_NAME": "acme-relay"}
OWN = {"PUBLIC_URL": "https://relay.acme.example"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HEROKU_APP_NAME": "acme-relay"}, "", id="never guessed from the app's name"),
        pytest.param(FLY, "https://acme-relay.fly.dev", id="Fly"),
        pytest.param(FLY | RENDER, "https://acme-relay.onrender.com", id="Render"),
        pytest.param(FLY | RENDER | HEROKU, "https://acme-relay-12ab.herokuapp.com", id="Heroku"),
        pytest.param(FLY | RENDER | HEROKU | OWN, "https://relay.acme.example", id="ours before all"),
    ],
)
def test_the_public_address_comes_from_who_knows_it(environ: dict[str, str], expected: str) -> None:
    assert Settings.from_env(SMALLEST | environ).config.public_url == expected


# What it refuses


@pytest.mark.parametrize("name", SMALLEST)
def test_a_missing_variable_is_named_with_where_to_get_it(name: str) -> None:
    environ = {other: value for other, value in SMALLEST.items() if other != name}
    (said,) = faults(environ).items()
    assert said[0] == name
    assert said[1].startswith("is missing")
    assert said[1].endswith(f"{ALL_VARIABLES[name]}.")


def test_all_faults_of_every_part_are_in_one_message_in_the_order_they_are_read() -> None:
    environ = {"SPREDFAST_COMPANY_ID": "acme", "LOG_LEVEL": "LOUD", "ZENDESK_TICKET_FIELDS": "["}
    assert list(faults(environ)) == [
        "SPREDFAST_API_TOKEN",
        "SPREDFAST_COMPANY_ID",
        "NOTIFICATION_BEARER_TOKEN",
        "LOG_LEVEL",
        "SPREDFAST_LABEL_NAME",
        "ZENDESK_API_URL",
        "ZENDESK_TICKET_FIELDS",
        "ZENDESK_CLIENT_ID",
        "ZENDESK_CLIENT_SECRET",
    ]


@pytest.mark.parametrize(
    ("given", "missing", "other"),
    [
        pytest.param("ZENDESK_CLIENT_ID", "ZENDESK_CLIENT_SECRET", {}, id="no secret"),
        pytest.param("ZENDESK_CLIENT_SECRET", "ZENDESK_CLIENT_ID", {}, id="no identifier"),
        pytest.param("ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN", {}, id="no token"),
        pytest.param("ZENDESK_API_TOKEN", "ZENDESK_USER_EMAIL", {}, id="no e-mail"),
        pytest.param("ZENDESK_CLIENT_ID", "ZENDESK_CLIENT_SECRET", API_TOKEN, id="no secret beside an API token"),
        pytest.param("ZENDESK_CLIENT_SECRET", "ZENDESK_CLIENT_ID", API_TOKEN, id="no identifier beside an API token"),
        pytest.param("ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN", CLIENT, id="no token beside a client"),
        pytest.param("ZENDESK_API_TOKEN", "ZENDESK_USER_EMAIL", CLIENT, id="no e-mail beside a client"),
    ],
)
def test_half_a_credential_is_a_fault_even_beside_a_whole_one(given: str, missing: str, other: dict[str, str]) -> None:
    found = faults(REQUIRED | other | {given: "half@of.it" if "EMAIL" in given else "half-of-it"})
    assert list(found) == [missing]
    assert found[missing].startswith(f"is missing: {given} is of no use without it")


def test_a_broken_half_is_said_once_and_as_broken() -> None:
    found = faults(REQUIRED | {"ZENDESK_CLIENT_ID": "my relay"})
    assert found["ZENDESK_CLIENT_ID"].startswith("has a space or an unusual character")
    assert found["ZENDESK_CLIENT_SECRET"].startswith("is missing")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        pytest.param("SPREDFAST_API_TOKEN", "two words", "has a space", id="token with a space"),
        pytest.param("SPREDFAST_API_TOKEN", "token\nX-Evil: 1", "has a space", id="token with a line break"),
        *(
            pytest.param("SPREDFAST_API_TOKEN", value, "has a space or an unusual", id=value)
            for value in ("Bearer", 'Bearer "abc"', '"abc', "abc'", "abc,", '""abc""', "<abc>", '{"a":"b"}', "a=abc")
        ),
        pytest.param("NOTIFICATION_BEARER_TOKEN", f'"{"x" * 16}","{"y" * 16}"', "unusual", id="two in quotes"),
        pytest.param("SPREDFAST_COMPANY_ID", "acme", "is not a whole number", id="a name"),
        pytest.param("SPREDFAST_COMPANY_ID", "-1", "is not a whole number", id="negative"),
        pytest.param("SPREDFAST_COMPANY_ID", "0", "must be more than 0", id="zero"),
        pytest.param("SPREDFAST_COMPANY_ID", "1.0", "is not a whole number", id="a fraction"),
        pytest.param("SPREDFAST_COMPANY_ID", "1_000", "is not a whole number", id="underscore"),
        pytest.param("SPREDFAST_COMPANY_ID", "٣", "is not a whole number", id="other digits"),
        pytest.param("SPREDFAST_COMPANY_ID", "9" * 19, "is not a whole number", id="larger than a column holds"),
        pytest.param("SPREDFAST_LABEL_NAME", "(Create)+", "uses more than", id="a group again and again"),
        pytest.param("SPREDFAST_LABEL_NAME", ".*.*.*.*", "repeats too much", id="a slow pattern"),
        pytest.param("SPREDFAST_LABEL_NAME", "'\"\"'", "is missing", id="only quotes"),
        pytest.param("ROUTES", "label VIP", '\n    route 1 "label VIP" has no ->; for example', id="no arrow"),
        pytest.param("NOTIFICATION_BEARER_TOKEN", "x" * 15, "is too short: at least 16", id="15 characters"),
        pytest.param("NOTIFICATION_BEARER_TOKEN", "x" * 16 + ",short", "is too short", id="the old one is short"),
        pytest.param("NOTIFICATION_BEARER_TOKEN", ",,", "is too short", id="only commas"),
        pytest.param("NOTIFICATION_BEARER_TOKEN", "a token of 16 and more", "has a space", id="a sentence"),
        *(
            pytest.param("ZENDESK_API_URL", value, "does not name a host like acme.example", id=value)
            for value in ("https://https://acme.zendesk.com", "https://acme", "https://acme.zendesk.com.")
        ),
        *(
            pytest.param("ZENDESK_API_URL", f"https://acme.zendesk.com{end}", "a quote", id=f"ends with {end}")
            for end in ('"', "'", "\\")
        ),
        pytest.param("ZENDESK_API_URL", "ftp://acme.zendesk.com", "that begins with https://", id="ftp"),
        pytest.param("ZENDESK_API_URL", "https://", "that begins with https://", id="no host"),
        pytest.param("ZENDESK_API_URL", "https:///api/v2", "that begins with https://", id="no host but a path"),
        pytest.param("ZENDESK_API_URL", "http://tickets.acme.example", "must begin with https://,", id="unencrypted"),
        pytest.param("ZENDESK_API_URL", "http://127.0.0.1.acme.com", "must begin with https://,", id="like loopback"),
        pytest.param("ZENDESK_API_URL", "http://192.168.1.1", "must begin with https://,", id="a private network"),
        pytest.param("ZENDESK_API_URL", "https://me@acme.zendesk.com", "without a user name", id="user name"),
        pytest.param("ZENDESK_API_URL", "https://:pw@acme.zendesk.com", "without a user name", id="password"),
        pytest.param("ZENDESK_API_URL", "https://acme.zendesk.com:port", "is not a web address.", id="port"),
        pytest.param("ZENDESK_API_URL", "https://[acme", "is not a web address.", id="half an IPv6 address"),
        pytest.param("ZENDESK_API_URL", "acme", "that begins with https://", id="only the account's name"),
        pytest.param("PUBLIC_URL", "https://relay.acme.example?a=1", "a plain address", id="query"),
        pytest.param("PUBLIC_URL", "https://relay.acme.example#a", "a plain address", id="fragment"),
        pytest.param("HEROKU_APP_NAME", "my app", "is not the name of a Heroku app", id="an app's name with a blank"),
        pytest.param("SPREDFAST_COMPANY_ID", "?", "choose your company and enter its number", id="?"),
        pytest.param("PUBLIC_URL", "http://relay.acme.example", "must begin with https://,", id="public, unencrypted"),
        pytest.param("KHOROS_API_URL", "http://api.spredfast.com/v2", "must begin with https://,", id="Khoros too"),
        pytest.param("DATABASE_URL", "relay.db", "must begin with sqlite:/// or postgres://", id="a file name"),
        pytest.param("DATABASE_URL", "postgres://me:pw@host:port/d", "is not a database address", id="database port"),
        pytest.param("DATABASE_URL", "postgres://h/d?no=such", "is not a database address", id="no such setting"),
        pytest.param("DATABASE_URL", "postgres://u:\udcff@h/d", "is not a database address", id="not UTF-8"),
        pytest.param("DATABASE_URL", "sqlite:///a.db?mode=ro", "in which ? is not allowed", id="a setting for SQLite"),
        pytest.param("DATABASE_URL", "mysql://h/d", "must begin with sqlite:/// or postgres://", id="mysql"),
        pytest.param("DATABASE_URL", "sqlite://", "must name a file", id="in memory"),
        pytest.param("DATABASE_URL", "sqlite:///:memory:", "must name a file", id="in memory by name"),
        pytest.param("ZENDESK_TICKET_FIELDS", "group_id=1", "is not JSON", id="not JSON"),
        pytest.param("ZENDESK_TICKET_FIELDS", "[]", "is not a JSON object", id="a list"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"subject": "", "id": 1}', "may not set id, subject:", id="ours"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"comment": {}}', "may not set comment:", id="comment"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"external_id": "x"}', "may not set external_id:", id="external_id"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"tags": "social"}', "tags as a list of texts", id="tags as text"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"tags": [1]}', "tags as a list of texts", id="a number as tag"),
        pytest.param("ZENDESK_TICKET_FIELDS", '{"metadata": [1]}', "its metadata as an object", id="metadata"),
        pytest.param("ZENDESK_COMMENT_PUBLIC", "maybe", "must be true or false", id="neither"),
        pytest.param("KHOROS_DELIVERY", "both", "must be push or poll", id="push and poll"),
        pytest.param("CATCH_UP_MINUTES", "0.5", "is not a whole number", id="half a minute"),
        pytest.param("CATCH_UP_MINUTES", "-5", "is not a whole number", id="negative minutes"),
        pytest.param("POLL_SECONDS", "0", "must be more than 0", id="polling without a pause"),
        pytest.param("LOG_LEVEL", "TRACE", "must be DEBUG, INFO, WARNING or ERROR", id="level"),
    ],
)
def test_a_wrong_value_is_refused_in_words_that_say_why(name: str, value: str, words: str) -> None:
    said = fault(name, value)
    assert words in said
    assert f". {ALL_VARIABLES[name]}." in said


@pytest.mark.parametrize("value", ["mailto:me@acme.example", "me", "Me <me@acme.example>", "me@acme.example,"])
def test_what_is_no_e_mail_address_is_refused(value: str) -> None:
    assert faults(REQUIRED | API_TOKEN | {"ZENDESK_USER_EMAIL": value}).keys() == {"ZENDESK_USER_EMAIL"}


# Secrets

SECRETS = (
    "k-secret-1",
    "n-secret-2-of-16-characters",
    "z-secret-3",
    "t-secret-4",
    "p-secret-5",
    "s-secret-6-of-16-characters",
    "a-secret-7",
    "b-secret-8",
    "d2Vic2VjcmV0b2Z0d2VudHlmb3VyYnl0",
    "h-secret-10",
)
SECRETIVE = {
    "SPREDFAST_API_TOKEN": SECRETS[0],
    "NOTIFICATION_BEARER_TOKEN": SECRETS[1],
    "ZENDESK_CLIENT_SECRET": SECRETS[2],
    "ZENDESK_API_TOKEN": SECRETS[3],
    "DATABASE_URL": f"postgres://me:{SECRETS[4]}@host/db",
    "STATUS_PASSWORD": SECRETS[5],
    "ALERT_WEBHOOK_URL": f"https://hooks.acme.example/{SECRETS[6]}",
    "SLACK_BOT_TOKEN": f"xoxb-{SECRETS[7]}",
    "WEBHOOK_SECRET": f"whsec_{SECRETS[8]}",
    "ROUTES": f"label VIP -> slack #x; published -> webhook https://hooks.acme.example/{SECRETS[9]}",
}


def test_no_secret_is_in_repr() -> None:
    shown = repr(Settings.from_env(REQUIRED | CLIENT | API_TOKEN | SECRETIVE))
    assert [secret for secret in SECRETS if secret in shown] == []
    assert "company_id=4711" in shown and "url='https://acme.zendesk.com'" in shown


def test_every_secret_is_known_to_the_log_that_masks_it() -> None:
    settings = Settings.from_env(REQUIRED | CLIENT | API_TOKEN | SECRETIVE)
    masked = "\n".join(settings.secrets)
    assert [secret for secret in SECRETS if secret not in masked] == []


@pytest.mark.parametrize("name", SECRETIVE)
def test_no_secret_is_in_the_message_even_when_the_secret_is_what_is_wrong(name: str) -> None:
    broken = SECRETIVE | {name: f"{SECRETIVE[name]} and more".replace("@host", "@host:port")}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(REQUIRED | CLIENT | API_TOKEN | broken | {"LOG_LEVEL": "LOUD"})
    assert f"  {name} " in str(caught.value)
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert [secret for secret in SECRETS if any(secret in repr(error) for error in chain)] == []


# The webhook's address


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/T0/B0/made-up",
        "https://chat.googleapis.com/v1/spaces/A/messages?key=made-up&token=made-up%3D",
        "https://hooks.example/ends-with/",
        "http://127.0.0.1:9/hook",
    ],
)
def test_a_webhook_is_called_at_the_very_address_that_was_given(url: str) -> None:
    assert Settings.from_env(SMALLEST | {"ALERT_WEBHOOK_URL": url}).config.alert_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/made-up",
        "https://me:made-up@hooks.example/",
        "https://https://made-up",
        "https://h/#made-up",
    ]
    + ['https://h/made-up"', "https://h/made-up\\", "<https://h/made-up>", "https://h/made-up'", 'https://h"/made-up']
    + ["https://", "javascript:made-up", "https://h/made up", "https://[made-up", "https://h:made-up/"],
)
def test_a_webhook_that_is_no_secure_web_address_is_refused_without_being_repeated(url: str) -> None:
    assert "made" not in fault("ALERT_WEBHOOK_URL", url)
