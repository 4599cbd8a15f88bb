"""The settings that every process needs, read once from the environment. One message names all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

import click

# The variables that every process reads, and where their values come from. A destination lists its own.
VARIABLES = {
    "SPREDFAST_API_TOKEN": "the OAuth access token of your Khoros Marketing service user",
    "SPREDFAST_COMPANY_ID": "your company's number in Khoros Marketing; https://api.spredfast.com/v2/whoami/ lists it",
    "NOTIFICATION_BEARER_TOKEN": "a long random secret that you make up, for example with: openssl rand -hex 32",
    "PUBLIC_URL": 'this service\'s own address; on Heroku: heroku apps:info -s | sed -n "s/^web_url=//p"',
    "HEROKU_APP_NAME": "the name of the Heroku app this runs in",
    "DATABASE_URL": "sqlite:///relay.db or postgres://USER:PASSWORD@HOST/NAME; Heroku's PostgreSQL add-on sets it",
    "KHOROS_API_URL": "the Khoros Marketing API, normally https://api.spredfast.com/v2",
    "KHOROS_EXTERNAL_ID": "our name for the subscription, normally send-to-zendesk",
    "KHOROS_DELIVERY": "push or poll; poll needs no public address",
    "CATCH_UP_MINUTES": "how often the service fetches what no push brought, normally 5; 0 switches it off",
    "POLL_SECONDS": "how often the service polls when KHOROS_DELIVERY is poll, normally 15",
    "STATUS_PASSWORD": "a long password that you make up for the pages /status and /metrics; without it they are off",
    "ALERT_WEBHOOK_URL": "an incoming webhook's address, in Slack: api.slack.com/apps > your app > Incoming Webhooks",
    "ALERT_AFTER_MINUTES": "how many minutes a post may wait before an alert is sent, normally 10",
    "RETENTION_DAYS": "how many days a settled post's text is kept, normally 30; 0 empties it within the hour",
    "LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR",
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What DATABASE_URL may say to other libraries: about their pools and prepared statements, and that text is UTF-8.
OF_OTHER_LIBRARIES = frozenset(
    "pgbouncer pool pool_timeout pool_size pool_mode pool_max_conns max_overflow statement_cache_size charset encoding "
    "prepared_statements prepareThreshold prepared_statement_cache_size socket_timeout binary_parameters serverVersion "
    "sslaccept uselibpqcompat workaround supa default_query_exec_mode statement_cache_mode client_encoding".split()
)
DAY_S = 86_400.0
_is_visible = re.compile(r"[!-~]+").fullmatch
_is_loopback = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1").fullmatch


class ConfigError(click.ClickException):
    """Some variables are missing or wrong; the message has a line for each, and no value that could be secret. A
    ClickException, so that `flask --app app …` prints it without a traceback."""


class Reader:
    """Reads variables one by one and keeps every fault for a single message. `variables` says where to get each."""

    def __init__(self, environ: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self.environ, self._variables = environ, variables
        self._values = {name: environ.get(name, "").strip() for name in variables}
        self._faults: dict[str, str] = {}

    def __call__(
        self, variable: str, parse: Callable[[str], Any], default: Any = None, *, required: bool = False
    ) -> Any:
        """The parsed value, or the default of one that is not set, empty or faulty."""
        value = self._values[variable]
        try:
            if value:
                return parse(value)
            if required:
                self._faults[variable] = "is missing"
        except ValueError as fault:
            self._faults[variable] = str(fault)
        return default

    def all_of(self, kind: Any) -> dict[str, Any]:
        """The values of all fields of a dataclass that were made with `setting`, by their names."""
        return {one.name: self(**one.metadata, default=one.default) for one in fields(kind) if one.metadata}

    def add_fault(self, variable: str, fault: str) -> None:
        """Keeps one more fault, in words that follow the variable's name."""
        self._faults[variable] = fault

    def need_a_pair(self, *pairs: tuple[str, str]) -> None:
        """One of the pairs is needed, better the first; half a pair is a fault."""
        for first, second in pairs:
            given, missing = (first, second) if self._values[first] else (second, first)
            if self._values[given] and not self._values[missing]:
                self._faults.setdefault(missing, f"is missing: {given} is of no use without it")
        if not any(self._values[name] for pair in pairs for name in pair):
            self._faults |= dict.fromkeys(pairs[0], "is missing")

    def finish(self) -> None:
        """Raises ConfigError when there was a fault."""
        if self._faults:
            where = self._variables
            faults = [(name, *fault.partition("\n")) for name, fault in self._faults.items()]
            lines = [
                f"  {name} {fault}. Where to get it: {where[name]}{end}{more}" for name, fault, end, more in faults
            ]
            raise ConfigError("The relay cannot start. Set these variables and start it again:\n" + "\n".join(lines))


# What a value may be: each function returns what it means, or raises ValueError with words that follow the name.


def as_secret(value: str) -> str:
    """Visible ASCII characters only. Raises ValueError."""
    if not _is_visible(value):
        raise ValueError("has a space or an unusual character in it; copy it again")
    return value


def as_boolean(value: str) -> bool:
    """true or false, also as 1, 0, yes or no. Raises ValueError."""
    if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "1", "yes")


def as_https_url(value: str) -> str:
    """A plain address, without a slash at its end. Raises ValueError."""
    if "?" in value:
        raise ValueError("must be a plain address without a user name, a space, ? or #")
    return as_webhook_url(value).rstrip("/")


def as_webhook_url(value: str) -> str:
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


def _long_secret(value: str) -> str:
    if len(value) < 16:
        raise ValueError("is too short: at least 16 characters")
    return as_secret(value)


def _bearer_tokens(value: str) -> tuple[str, ...]:
    return tuple(_long_secret(token.strip()) for token in value.strip(",").split(","))


def _number(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError("is not a whole number")
    return int(value)


def _positive(value: str) -> int:
    if _number(value) == 0:
        raise ValueError("must be more than 0")
    return int(value)


def _seconds(unit_s: float, count: Callable[[str], int]) -> Callable[[str], float]:
    """Reads a number of minutes or days as seconds."""
    return lambda value: unit_s * count(value)


def _database_url(value: str) -> str:
    value = re.sub(r"^psql\s+", "", value).strip("'\"").removeprefix("jdbc:")  # as providers' pages show it
    kind, _, rest = value.partition("://")
    if kind == "sqlite":
        if not re.fullmatch(r"/[^?]+", rest) or ":memory:" in rest:
            raise ValueError("must name a file on the disk, in which ? is not allowed")
        return value
    if not re.fullmatch(r"(postgres|postgresql|pgsql)(\+\w+)?", kind):
        raise ValueError("must begin with sqlite:/// or postgres://")
    if "[YOUR-PASSWORD]" in rest:
        raise ValueError("still has [YOUR-PASSWORD] in it: put the password there")
    try:
        address, _, query = re.sub(r"^([^:/?]*):([^?]*|[^/]*)@", _quoted, rest).partition("?")
    except UnicodeError:  # it would repeat the password
        raise ValueError("is not a database address") from None
    settings = [setting for pair in query.split("&") if (setting := _postgresql_setting(pair))]
    ours = [setting for setting in settings if setting.startswith(("schema=", "connection_limit="))]
    _check_postgresql(f"postgresql://{address}?{'&'.join(one for one in settings if one not in ours)}")
    return f"postgresql://{address}" + (f"?{'&'.join(settings)}" if settings else "")


def _check_postgresql(address: str) -> None:
    from psycopg import ProgrammingError, pq  # time and memory that a relay on SQLite does not need
    from psycopg.conninfo import conninfo_to_dict

    query = address.partition("?")[2]
    with suppress(ProgrammingError, UnicodeError):  # they would repeat the password
        if re.fullmatch(r"[0-9,]*", str(conninfo_to_dict(address).get("port", ""))):
            return
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    unknown = {name for name in (pair.partition("=")[0] for pair in query.split("&") if pair) if name not in known}
    fault = "is not a database address"
    if unknown and "@" in query:
        fault += ": write a ? in its password as %3F"
    elif unknown and re.fullmatch(r"[\w&]{1,40}", "&".join(sorted(unknown))):
        fault += f": PostgreSQL knows no setting {' or '.join(sorted(unknown))}, take that out"
    raise ValueError(fault)


def _postgresql_setting(pair: str) -> str:
    """A setting behind the ? of a PostgreSQL address, as libpq spells it. schema and connection_limit are for
    inbox/postgresql.py; "" for one that only other libraries need."""
    name, _, value = pair.partition("=")
    if name in ("schema", "currentSchema", "search_path"):
        return f"schema={value.partition(',')[0]}"
    if name == "connection_limit" and not re.fullmatch("[1-9][0-9]{0,3}", value):
        raise ValueError("must have a whole number from 1 on as its connection_limit")
    if name in ("ssl", "sslmode"):
        value = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}.get(
            value, value
        )
        if value not in SSL_MODES:
            raise ValueError(f"must have one of these as its sslmode: {', '.join(SSL_MODES)}")
        return f"sslmode={value}"
    return "" if name in OF_OTHER_LIBRARIES else pair


def _quoted(login: re.Match[str]) -> str:
    """User and password, whose signs may stand as they are or, as PostgreSQL wants them, as %XX."""
    return f"{quote(unquote_to_bytes(login[1]), safe='')}:{quote(unquote_to_bytes(login[2]), safe='')}@"


def _polling(value: str) -> bool:
    if value.lower() not in ("push", "poll"):
        raise ValueError("must be push or poll")
    return value.lower() == "poll"


def _log_level(value: str) -> str:
    if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return value.upper()


def setting(variable: str, parse: Callable[[str], Any], default: Any = MISSING, *, secret: bool = False) -> Any:
    """A field that comes from a variable, as `parse` reads it. Without a default the variable is required. A secret is
    left out of repr."""
    how = {"variable": variable, "parse": parse, "required": default is MISSING}
    return field(default=default, repr=not secret, metadata=how)


@dataclass(frozen=True)
class Config:
    """Checked settings."""

    khoros_token: str = setting("SPREDFAST_API_TOKEN", as_secret, secret=True)
    company_id: int = setting("SPREDFAST_COMPANY_ID", _positive)
    bearer_tokens: tuple[str, ...] = setting("NOTIFICATION_BEARER_TOKEN", _bearer_tokens, secret=True)
    public_url: str = setting("PUBLIC_URL", as_https_url, "")
    heroku_app_name: str = setting("HEROKU_APP_NAME", str, "")
    database_url: str = setting("DATABASE_URL", _database_url, "sqlite:///relay.db", secret=True)
    khoros_url: str = setting("KHOROS_API_URL", as_https_url, "https://api.spredfast.com/v2")
    external_id: str = setting("KHOROS_EXTERNAL_ID", str, "send-to-zendesk")
    polling: bool = setting("KHOROS_DELIVERY", _polling, False)
    catch_up_s: float = setting("CATCH_UP_MINUTES", _seconds(60.0, _number), 300.0)
    poll_s: float = setting("POLL_SECONDS", _positive, 15.0)
    status_password: str = setting("STATUS_PASSWORD", _long_secret, "", secret=True)
    alert_url: str = setting("ALERT_WEBHOOK_URL", as_webhook_url, "", secret=True)  # who knows it can write there
    alert_after_s: float = setting("ALERT_AFTER_MINUTES", _seconds(60.0, _positive), 600.0)
    retention_s: float = setting("RETENTION_DAYS", _seconds(DAY_S, _number), 30 * DAY_S)
    log_level: str = setting("LOG_LEVEL", _log_level, "INFO")
    on_dyno: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return self.khoros_token, *self.bearer_tokens, self.database_url, self.status_password, self.alert_url

    @classmethod
    def read(cls, read: Reader) -> Config:
        """The settings in the environment; `read` keeps the faults."""
        found = read.all_of(cls)
        found["public_url"] = found["public_url"] or _platform_url(read.environ)
        return cls(**found, on_dyno="DYNO" in read.environ)


def _platform_url(environ: Mapping[str, str]) -> str:
    """The address the hosting platform vouches for; never guessed from HEROKU_APP_NAME (docs/decisions/0011)."""
    if domain := environ.get("HEROKU_APP_DEFAULT_DOMAIN_NAME"):
        return f"https://{domain}"
    if address := environ.get("RENDER_EXTERNAL_URL"):
        return address.rstrip("/")
    return f"https://{name}.fly.dev" if (name := environ.get("FLY_APP_NAME")) else ""
