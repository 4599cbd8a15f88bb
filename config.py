"""The settings that every process needs, read once from the environment. One message names all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

import click

# The variables that every process reads, each with what helps to set it: a sentence or more without the full stop at
# the end. A destination lists its own.
VARIABLES = {
    "SPREDFAST_API_TOKEN": "Sign in to Khoros as the relay's user > profile settings > API access token",
    "SPREDFAST_COMPANY_ID": "It is your company's number in Khoros Marketing; once the access token is right, the "
    "service's page and flask --app app check list your companies",
    "NOTIFICATION_BEARER_TOKEN": "Any long random text, 16 characters or more; a password manager makes one",
    "ALERT_WEBHOOK_URL": "In Slack: api.slack.com/apps > your app > Incoming Webhooks",
    "STATUS_PASSWORD": "Any long password for the pages /status and /metrics; without it they are off",
    "PUBLIC_URL": "It is this service's own address, on Heroku the one you see when you press Open app",
    "HEROKU_APP_NAME": "It is the name of the Heroku app this runs in; it may be left out",
    "DATABASE_URL": "postgres://USER:PASSWORD@HOST/NAME from your database's provider, on Heroku from the PostgreSQL "
    "add-on; sqlite:///relay.db where the disk stays",
    "KHOROS_DELIVERY": "Normally push; poll needs no public address",
    "STATUS_SHOWS_POSTS": "Normally true; false hides the author and the words of posts on /status",
    "RETENTION_DAYS": "How many days a settled post's text is kept, normally 30; 0 empties it within the hour",
    "ALERT_AFTER_MINUTES": "How many minutes a post may wait before an alert is sent, normally 10",
    "CATCH_UP_MINUTES": "How often the service fetches what no push brought, normally 5; 0 switches it off",
    "POLL_SECONDS": "How often the service polls when KHOROS_DELIVERY is poll, normally 15",
    "KHOROS_EXTERNAL_ID": "Our name for the subscription, normally send-to-zendesk",
    "KHOROS_API_URL": "Normally it is not set: then it is https://api.spredfast.com/v2",
    "LOG_LEVEL": "Normally INFO",
}
# The variable by which each platform makes itself known.
PLATFORMS = {"DYNO": "Heroku", "RENDER": "Render", "FLY_APP_NAME": "Fly", "AWS_LAMBDA_FUNCTION_NAME": "AWS Lambda"}
DAY_S = 86_400.0
_is_visible = re.compile(r"(?![\"'`<])[!-~]+(?<![\"'`>,\\])").fullmatch  # a quote at one end was copied by mistake
_is_token = re.compile(r"[\w.~+/-]+=*", re.ASCII).fullmatch  # RFC 6750: what may stand behind Bearer
_is_example = re.compile(r"change-me|(https://)?example[-_.].*").fullmatch  # the values in .env.example
_ZERO_WIDTH = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
# What comes along when a value is copied, and is no part of it. Inside {…} characters without width belong to a text.
_AROUND = re.compile(rf"^[\s{_ZERO_WIDTH}]+|[{_ZERO_WIDTH}](?!.*\}})|\s+$", re.DOTALL)
_IN_QUOTES = re.compile("[\"“”„‟«»]([^\"“”„‟«»]*)[\"“”„‟«»]|['‘’‚‛‹›`]([^'‘’‚‛‹›`]*)['‘’‚‛‹›`]")
_is_loopback = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1").fullmatch
_is_host = re.compile(r"(?!https?$)[\w.-]+|[0-9a-f:.]+").fullmatch
_is_on_the_internet = re.compile(r"[\w-]+(\.[\w-]+)+|.*:.*").fullmatch


class ConfigError(click.ClickException):
    """Some variables are missing or wrong; the message has a line for each, and no value that could be secret. A
    ClickException, so that `flask --app app …` prints it without a traceback. `faults` says for each variable what is
    wrong, in words that follow its name."""

    def __init__(self, message: str, faults: Mapping[str, str]) -> None:
        super().__init__(message)
        self.faults = faults


def platform(environ: Mapping[str, str]) -> str:
    """The hosting platform that the process runs on: Heroku, Render, Fly or AWS Lambda; "" anywhere else."""
    return next((name for variable, name in PLATFORMS.items() if environ.get(variable)), "")


def strip_paste(variable: str, value: str) -> str:
    """The value without blanks, characters that have no width, quotes and `NAME=` around it."""
    before = None
    while value != before:
        before, value = value, re.sub(rf"^(export\s+)?{variable}\s*[=:]\s*", "", _AROUND.sub("", value))
        if quoted := _IN_QUOTES.fullmatch(value):
            value = quoted[1] or quoted[2] or ""
    return value


class Reader:
    """Reads variables one by one and keeps every fault for a single message. `variables` says where to get each."""

    def __init__(self, environ: Mapping[str, str], variables: Mapping[str, str]) -> None:
        self.environ, self._variables = environ, variables
        self._values = {name: strip_paste(name, environ.get(name, "")) for name in variables}
        self._faults: dict[str, str] = {}

    def __call__(
        self, variable: str, parse: Callable[[str], Any], default: Any = None, *, required: bool = False
    ) -> Any:
        """The parsed value, or the default of one that is not set, empty or faulty."""
        value = self._values[variable]
        try:
            if _is_example(value):
                raise ValueError("still has the value of .env.example; put your own there")
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
            lines = [f"  {name} {fault}. {where[name]}.{end}{more}" for name, fault, end, more in faults]
            heading = "The relay cannot start. Set these variables and start it again:"
            raise ConfigError("\n".join([heading, *lines]), self._faults)


# What a value may be: each function returns what it means, or raises ValueError with words that follow the name.


def as_secret(value: str) -> str:
    """Visible ASCII characters only, without the word Bearer in front. Raises ValueError."""
    value = re.sub(r"(?i)^(authorization:\s*)?bearer(\s+|$)", "", value)
    if not _is_visible(value):
        raise ValueError("has a space or an unusual character in it; copy it again")
    return value


def as_token(value: str) -> str:
    """A token that a service made. Raises ValueError."""
    if _is_token(token := as_secret(value)):
        return token
    raise ValueError("has a space or an unusual character in it; copy the token alone, without what is around it")


def as_boolean(value: str) -> bool:
    """true or false, also as 1, 0, yes or no. Raises ValueError."""
    if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("true", "1", "yes")


def as_https_url(value: str) -> str:
    """A plain address, without a slash at its end. Raises ValueError."""
    if "?" in value:
        raise ValueError("must be a plain address without a user name, a space, ? or #")
    url = re.sub(r"^[^/]+//[^/]+", lambda host: host[0].lower(), as_webhook_url(value)).rstrip("/")
    if not _is_on_the_internet(host := urlsplit(url).hostname or "") and not _is_loopback(host):
        raise ValueError("does not name a host like acme.example")
    return url


def as_webhook_url(value: str) -> str:
    """An address whose secret may be in a query: https://chat.googleapis.com/…?key=…&token=… The https:// may be left
    out. Raises ValueError."""
    value = re.sub(r"^(?=[\w-]+(\.[\w-]+)+(:[0-9]+)?(/|$))", "https://", value.rstrip(" ,;"))
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a web address") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("is not a web address that begins with https://")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with https://, or the secrets sent there could be read on the way")
    if parts.username is not None or re.search(r"[\s#\"<>\\]|'$", value):
        raise ValueError("must be a plain address without a user name, a space, a quote or #")
    if not _is_host(host):
        raise ValueError("does not name a host like acme.example")
    return value


def _own_address(value: str) -> str:
    return re.sub(r"/(notifications|createTicket|status|health|metrics)(/.*)?$", "", as_https_url(value))


def _app_name(value: str) -> str:
    around = r"^(https?://)?(dashboard\.heroku\.com/apps/)?|(\.herokuapp\.com)?(/.*)?$"
    name = re.sub(around, "", value.lower())
    if not re.fullmatch("[a-z0-9-]+", name):
        raise ValueError("is not the name of a Heroku app, like acme-relay")
    return name


def _long_secret(value: str) -> str:
    if value and len(secret := as_secret(value)) >= 16:
        return secret
    raise ValueError("is too short: at least 16 characters")


def _bearer_tokens(value: str) -> tuple[str, ...]:
    return tuple(_long_secret(token.strip()) for token in value.strip(",").split(","))


def _number(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError("is not a whole number")
    return int(value)


def _company_number(value: str) -> int:
    if value in ("?", "\uff1f"):
        raise ValueError("is a question mark: choose your company and enter its number")
    return _positive(value)


def _positive(value: str) -> int:
    if _number(value) == 0:
        raise ValueError("must be more than 0")
    return int(value)


def _seconds(unit_s: float, count: Callable[[str], int]) -> Callable[[str], float]:
    """Reads a number of minutes or days as seconds."""
    return lambda value: unit_s * count(value)


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

    khoros_token: str = setting("SPREDFAST_API_TOKEN", as_token, secret=True)
    company_id: int = setting("SPREDFAST_COMPANY_ID", _company_number)
    bearer_tokens: tuple[str, ...] = setting("NOTIFICATION_BEARER_TOKEN", _bearer_tokens, secret=True)
    public_url: str = setting("PUBLIC_URL", _own_address, "")
    heroku_app_name: str = setting("HEROKU_APP_NAME", _app_name, "")
    database_url: str = setting("DATABASE_URL", str, "sqlite:///relay.db", secret=True)
    khoros_url: str = setting("KHOROS_API_URL", as_https_url, "https://api.spredfast.com/v2")
    external_id: str = setting("KHOROS_EXTERNAL_ID", str, "send-to-zendesk")
    polling: bool = setting("KHOROS_DELIVERY", _polling, False)
    catch_up_s: float = setting("CATCH_UP_MINUTES", _seconds(60.0, _number), 300.0)
    poll_s: float = setting("POLL_SECONDS", _positive, 15.0)
    status_password: str = setting("STATUS_PASSWORD", _long_secret, "", secret=True)
    status_shows_posts: bool = setting("STATUS_SHOWS_POSTS", as_boolean, True)
    alert_url: str = setting("ALERT_WEBHOOK_URL", as_webhook_url, "", secret=True)  # who knows it can write there
    alert_after_s: float = setting("ALERT_AFTER_MINUTES", _seconds(60.0, _positive), 600.0)
    retention_s: float = setting("RETENTION_DAYS", _seconds(DAY_S, _number), 30 * DAY_S)
    log_level: str = setting("LOG_LEVEL", _log_level, "INFO")
    on_dyno: bool = False
    on_lambda: bool = False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return self.khoros_token, *self.bearer_tokens, self.database_url, self.status_password, self.alert_url

    @classmethod
    def read(cls, read: Reader) -> Config:
        """The settings in the environment; `read` keeps the faults."""
        found = read.all_of(cls)
        found["public_url"] = found["public_url"] or _platform_url(read.environ)
        here = platform(read.environ)
        return cls(**found, on_dyno=here == "Heroku", on_lambda=here == "AWS Lambda")


def _platform_url(environ: Mapping[str, str]) -> str:
    """The address the hosting platform vouches for; never guessed from HEROKU_APP_NAME (docs/decisions/0011)."""
    if domain := environ.get("HEROKU_APP_DEFAULT_DOMAIN_NAME"):
        return f"https://{domain}"
    if address := environ.get("RENDER_EXTERNAL_URL"):
        return address.rstrip("/")
    return f"https://{name}.fly.dev" if (name := environ.get("FLY_APP_NAME")) else ""
