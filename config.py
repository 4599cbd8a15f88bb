"""The service's settings, read once from the environment. Everything wrong with them is said in one message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

import click

# Every variable the service reads, and where its value comes from. app.json, .env.example and the README list the same.
VARIABLES = {
    "SPREDFAST_API_TOKEN": "the OAuth access token of your Khoros Marketing service user",
    "SPREDFAST_COMPANY_ID": "your company's number in Khoros Marketing; https://api.spredfast.com/v2/whoami/ lists it",
    "SPREDFAST_LABEL_NAME": "the label agents apply in the Conversations Inbox, like CreateCase (a regular expression)",
    "NOTIFICATION_BEARER_TOKEN": "a long random secret that you make up, for example with: openssl rand -hex 32",
    "ZENDESK_API_URL": "your Zendesk account's address, for example https://acme.zendesk.com",
    "ZENDESK_CLIENT_ID": "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients: Identifier",
    "ZENDESK_CLIENT_SECRET": "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients: Secret",
    "ZENDESK_USER_EMAIL": "the agent an API token belongs to; only with ZENDESK_API_TOKEN, until 2027-04-30",
    "ZENDESK_API_TOKEN": "a Zendesk API token made before 2026-10-27; Zendesk switches these off on 2027-04-30",
    "PUBLIC_URL": 'this service\'s own address; on Heroku: heroku apps:info -s | sed -n "s/^web_url=//p"',
    "HEROKU_APP_NAME": "the name of the Heroku app this runs in",
    "DATABASE_URL": "sqlite:///relay.db or postgres://USER:PASSWORD@HOST/NAME; Heroku's PostgreSQL add-on sets it",
    "KHOROS_API_URL": "the Khoros Marketing API, normally https://api.spredfast.com/v2",
    "KHOROS_EXTERNAL_ID": "our name for the subscription, normally send-to-zendesk",
    "ZENDESK_TICKET_FIELDS": 'a JSON object merged into each ticket, for example {"group_id": 123, "tags": ["social"]}',
    "ZENDESK_COMMENT_PUBLIC": "true or false; true makes the first comment public, which e-mails the requester",
    "KHOROS_DELIVERY": "push or poll; poll needs no public address",
    "CATCH_UP_MINUTES": "how often the service fetches what no push brought, normally 5; 0 switches it off",
    "POLL_SECONDS": "how often the service polls when KHOROS_DELIVERY is poll, normally 15",
    "STATUS_PASSWORD": "a long password that you make up for the pages /status and /metrics; without it they are off",
    "ALERT_WEBHOOK_URL": "an incoming webhook's address, in Slack: api.slack.com/apps > your app > Incoming Webhooks",
    "ALERT_AFTER_MINUTES": "how many minutes a post may wait before an alert is sent, normally 10",
    "RETENTION_DAYS": "how many days a delivered post's text is kept, normally 30; 0 empties it within the hour",
    "LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR",
}
DAY_S = 86_400.0
_OURS = ("comment", "description", "external_id", "id", "subject", "via_followup_source_id")
_VISIBLE = re.compile(r"[!-~]+")


class ConfigError(click.ClickException):
    """Some variables are missing or wrong; the message has a line for each, and no value that could be secret. A
    ClickException, so that `flask --app app …` prints it without a traceback."""


@dataclass(frozen=True)
class Config:
    """Checked settings. Secrets are left out of repr."""

    khoros_token: str = field(repr=False)
    company_id: int
    label: re.Pattern[str]
    bearer_tokens: tuple[str, ...] = field(repr=False)
    zendesk_url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    user_email: str = ""
    api_token: str = field(default="", repr=False)
    public_url: str = ""
    heroku_app_name: str = ""
    database_url: str = field(default="sqlite:///relay.db", repr=False)
    khoros_url: str = "https://api.spredfast.com/v2"
    external_id: str = "send-to-zendesk"
    ticket_fields: Mapping[str, Any] = field(default_factory=dict)
    comment_public: bool = False
    polling: bool = False
    catch_up_s: float = 300.0
    poll_s: float = 15.0
    status_password: str = field(default="", repr=False)
    alert_url: str = field(default="", repr=False)  # who knows it can write there
    alert_after_s: float = 600.0
    retention_s: float = 30 * DAY_S
    log_level: str = "INFO"
    on_dyno: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be seen in a log."""
        tokens = (self.khoros_token, *self.bearer_tokens, self.client_secret, self.api_token)
        return (*tokens, self.database_url, self.status_password, self.alert_url)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Config:
        """The settings in `environ`; an empty one counts as not set. Raises ConfigError naming every fault at once."""
        read = _Reader(environ)
        config = cls(
            khoros_token=read("SPREDFAST_API_TOKEN", _secret, required=True),
            company_id=read("SPREDFAST_COMPANY_ID", _positive, required=True),
            label=read("SPREDFAST_LABEL_NAME", _pattern, required=True),
            bearer_tokens=read("NOTIFICATION_BEARER_TOKEN", _bearer_tokens, required=True),
            zendesk_url=read("ZENDESK_API_URL", _zendesk_url, required=True),
            client_id=read("ZENDESK_CLIENT_ID", _secret, ""),
            client_secret=read("ZENDESK_CLIENT_SECRET", _secret, ""),
            user_email=read("ZENDESK_USER_EMAIL", _secret, ""),
            api_token=read("ZENDESK_API_TOKEN", _secret, ""),
            public_url=read("PUBLIC_URL", _https_url, "") or _platform_url(environ),
            heroku_app_name=read("HEROKU_APP_NAME", str, ""),
            database_url=read("DATABASE_URL", _database_url, cls.database_url),
            khoros_url=read("KHOROS_API_URL", _https_url, cls.khoros_url),
            external_id=read("KHOROS_EXTERNAL_ID", str, cls.external_id),
            ticket_fields=read("ZENDESK_TICKET_FIELDS", _ticket_fields, {}),
            comment_public=read("ZENDESK_COMMENT_PUBLIC", _boolean, False),
            polling=read("KHOROS_DELIVERY", _polling, False),
            catch_up_s=60.0 * read("CATCH_UP_MINUTES", _number, 5),
            poll_s=read("POLL_SECONDS", _positive, 15),
            status_password=read("STATUS_PASSWORD", _long_secret, ""),
            alert_url=read("ALERT_WEBHOOK_URL", _webhook_url, ""),
            alert_after_s=60.0 * read("ALERT_AFTER_MINUTES", _positive, 10),
            retention_s=DAY_S * read("RETENTION_DAYS", _number, 30),
            log_level=read("LOG_LEVEL", _log_level, cls.log_level),
            on_dyno="DYNO" in environ,
        )
        read.need_a_pair(("ZENDESK_CLIENT_ID", "ZENDESK_CLIENT_SECRET"), ("ZENDESK_USER_EMAIL", "ZENDESK_API_TOKEN"))
        read.finish()
        return config


class _Reader:
    """Reads variables one by one and keeps every fault for a single message."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {name: environ.get(name, "").strip() for name in VARIABLES}
        self._faults: dict[str, str] = {}

    def __call__(self, name: str, parse: Callable[[str], Any], default: Any = None, *, required: bool = False) -> Any:
        value = self._values[name]
        if not value:
            if required:
                self._faults[name] = "is missing"
            return default
        try:
            return parse(value)
        except ValueError as fault:
            self._faults[name] = str(fault)
            return default

    def need_a_pair(self, *pairs: tuple[str, str]) -> None:
        """One of the pairs is needed, the first for choice; half a pair is a fault."""
        for first, second in pairs:
            given, missing = (first, second) if self._values[first] else (second, first)
            if self._values[given] and not self._values[missing]:
                self._faults.setdefault(missing, f"is missing: {given} is of no use without it")
        if not any(self._values[name] for pair in pairs for name in pair):
            for name in pairs[0]:
                self._faults.setdefault(name, "is missing")

    def finish(self) -> None:
        if self._faults:
            lines = [f"  {name} {fault}. Where to get it: {VARIABLES[name]}" for name, fault in self._faults.items()]
            raise ConfigError("The relay cannot start. Set these variables and start it again:\n" + "\n".join(lines))


def _secret(value: str) -> str:
    if not _VISIBLE.fullmatch(value):
        raise ValueError("has a space or an unusual character in it; copy it again")
    return value


def _long_secret(value: str) -> str:
    if len(_secret(value)) < 16:
        raise ValueError("is too short: at least 16 characters")
    return value


def _bearer_tokens(value: str) -> tuple[str, ...]:
    tokens = tuple(_secret(token.strip()) for token in value.split(",") if token.strip())
    if not tokens or min(map(len, tokens)) < 16:
        raise ValueError("is too short: at least 16 characters (each, when it is new,old)")
    return tokens


def _number(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError("is not a whole number")
    return int(value)


def _positive(value: str) -> int:
    if _number(value) == 0:
        raise ValueError("must be more than 0")
    return int(value)


def _pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression ({error}); write \\ before a sign to mean just it") from None


def _https_url(value: str) -> str:
    if "?" in value:
        raise ValueError("must be a plain address without a user name, a space, ? or #")
    return _webhook_url(value).rstrip("/")


def _webhook_url(value: str) -> str:
    """Its secret may be in a query: https://chat.googleapis.com/…?key=…&token=…"""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a web address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("is not a web address that begins with https://")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with https://, or the secrets sent there could be read on the way")
    if parts.username is not None or re.search(r"[\s#]", value):
        raise ValueError("must be a plain address without a user name, a space or #")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _zendesk_url(value: str) -> str:
    return re.sub(r"(?<=[^/])/api/v2(/.*)?$", "", _https_url(value)).rstrip("/")


def _platform_url(environ: Mapping[str, str]) -> str:
    """The address the hosting platform vouches for; never guessed from HEROKU_APP_NAME (docs/decisions/0011)."""
    if domain := environ.get("HEROKU_APP_DEFAULT_DOMAIN_NAME"):
        return f"https://{domain}"
    if address := environ.get("RENDER_EXTERNAL_URL"):
        return address.rstrip("/")
    return f"https://{name}.fly.dev" if (name := environ.get("FLY_APP_NAME")) else ""


def _database_url(value: str) -> str:
    kind, there, rest = value.partition("://")
    if not there:
        raise ValueError("is not a database address")
    if kind == "sqlite":
        if not re.fullmatch(r"/.+", rest) or ":memory:" in rest:
            raise ValueError("must name a file: what is kept in memory is lost at the next restart")
        if "?" in rest:
            raise ValueError("must end with the name of a file, in which ? is not allowed")
        return value
    if kind not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ValueError("must begin with sqlite:/// or postgres://")
    from psycopg import ProgrammingError  # time and memory that a relay on SQLite does not need
    from psycopg.conninfo import conninfo_to_dict

    try:
        address = "postgresql://" + re.sub(r"^([^:@/?]*):([^?]*)@", _quoted, rest)
        ports = str(conninfo_to_dict(address).get("port", ""))
    except (ProgrammingError, UnicodeError):  # it would repeat the password
        raise ValueError("is not a database address") from None
    if not re.fullmatch(r"[0-9,]*", ports):
        raise ValueError("is not a database address")
    return address


def _quoted(login: re.Match[str]) -> str:
    """User and password, whose signs may stand as they are or, as PostgreSQL wants them, as %XX."""
    return f"{login[1]}:{quote(unquote_to_bytes(login[2]), safe='')}@"


def _ticket_fields(value: str) -> dict[str, Any]:
    try:
        fields = json.loads(value, parse_constant=int)  # there is no NaN in JSON
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(fields, dict):
        raise ValueError("is not a JSON object")
    if taken := sorted(set(fields) & set(_OURS)):
        raise ValueError(f"may not set {', '.join(taken)}: the relay fills these in from the post")
    tags = fields.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError('needs its tags as a list of texts, like {"tags": ["social"]}')
    if not isinstance(fields.get("metadata", {}), dict):
        raise ValueError("needs its metadata as an object")
    return fields


def _boolean(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "1", "yes")


def _polling(value: str) -> bool:
    if value.lower() not in ("push", "poll"):
        raise ValueError("must be push or poll")
    return value.lower() == "poll"


def _log_level(value: str) -> str:
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()
