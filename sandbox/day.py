"""A relay after a day's work, for the picture of its status page: that of a service that has just begun is empty."""

from __future__ import annotations

import random
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app import Settings, create_app
from events import LABEL_APPLIED
from inbox import open_database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.items import REFUSED, Draft, NewItem, Outcome
from inbox.tickets import Tickets
from khoros.subscription import SUBSCRIBED, SubscriptionStatus, status_fact
from sandbox.posts import new_post, posts_at
from sandbox.server import Server

POSTS, REFUSED_POST, FIRST_TICKET = 600, 594, 34_802
STATES = ("solved", "open", "pending", "solved", "open")
BUSY = (2, 1, 1, 1, 1, 2, 4, 7, 10, 12, 13, 12, 11, 12, 13, 12, 11, 10, 9, 8, 7, 6, 5, 3)  # hour by hour
REASON = "Zendesk answered 422 RecordInvalid: Group is not active"


def serve_day(stack: ExitStack, password: str) -> str:
    """Serves a relay that delivered 600 posts in the last 24 hours, one of which needs attention, until `stack` is
    closed; returns its address. It calls nobody."""
    folder = stack.enter_context(TemporaryDirectory())
    variables = _variables(Path(folder), password)
    _fill(variables["DATABASE_URL"])
    app = create_app(Settings.from_env(variables))
    stack.callback(app.extensions["relay"].inbox.close)
    return stack.enter_context(Server(app)).url


def _variables(folder: Path, password: str) -> dict[str, str]:
    return {
        "SPREDFAST_API_TOKEN": uuid.uuid4().hex,
        "SPREDFAST_COMPANY_ID": "123",
        "SPREDFAST_LABEL_NAME": "CreateCase",
        "ZENDESK_API_URL": "https://acmecoffee.zendesk.com",
        "ZENDESK_CLIENT_ID": "relay",
        "ZENDESK_CLIENT_SECRET": uuid.uuid4().hex,
        "NOTIFICATION_BEARER_TOKEN": uuid.uuid4().hex,
        "PUBLIC_URL": "https://relay.acmecoffee.com",
        "DATABASE_URL": f"sqlite:///{folder / 'relay.db'}",
        "STATUS_PASSWORD": password,
        "LOG_LEVEL": "ERROR",
    }


def _fill(database_url: str) -> None:
    """Accepts and settles each post at its own time."""
    now, chance = time.time(), random.Random(1)  # noqa: S311 - the same picture each time
    hours = chance.choices(range(24), [BUSY[time.gmtime(now - hour * 3600).tm_hour] for hour in range(24)], k=POSTS)
    times = sorted(now - 60 - hour * 3600 - chance.random() * 3600 for hour in hours)
    recent = [one for one in posts_at(now) if one["text"] and not one["labels"]]
    posts = [*(new_post(number, now) for number in range(POSTS - len(recent))), *recent[::-1]]
    current = [now]
    database = open_database(database_url, lambda: current[0])
    inbox = Inbox(database)
    for number, (current[0], post) in enumerate(zip(times, posts, strict=True)):
        event = {"event": LABEL_APPLIED, "labels": ["CreateCase"], "item": post}
        inbox.accept([NewItem("zendesk", str(uuid.uuid4()), post["entityId"], event)])
        [item] = inbox.claim("zendesk", 1, 60.0, lambda item: Draft("ticket", b"{}")).items
        answer: dict[str, Any] = {"took_s": 0.04 + chance.random() / 10, "request_id": uuid.uuid4().hex[:16]}
        if number == REFUSED_POST:
            outcome = Outcome(REFUSED, reason=REASON, status=422, **answer)
        else:
            outcome = Outcome("ticket_created", reference=str(FIRST_TICKET + number), status=201, **answer)
        inbox.settle([(item, outcome)])
    current[0] = now
    tickets = Tickets(database, "zendesk")
    tickets.enter(0.0)
    tickets.see({str(FIRST_TICKET + number): STATES[number % len(STATES)] for number in range(POSTS)})
    Facts(database).save(status_fact(LABEL_APPLIED), SubscriptionStatus(SUBSCRIBED, uuid="made-up", at=now - 140))
    database.close()
