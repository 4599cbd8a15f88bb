"""Keeps the service subscribed: its public address, the upsert at every start, the hourly look whether it holds."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass

from config import Config
from inbox import Inbox, StoreUnavailable
from khoros_client import EVENT_NAME, KhorosClient, Subscription
from logfmt import event, where
from outbound import ServiceError

NOTIFICATIONS_PATH = "/notifications"
WATCH_S = 3600.0
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
TURN_S = 60.0  # longer than the calls of one look can take
SUBSCRIBED, PAUSED, FAILED, NO_ADDRESS, STARTING = "subscribed", "paused", "failed", "no_address", "starting"
NO_ADDRESS_HELP = (
    "the service does not know its public address: set PUBLIC_URL, on Heroku with: "
    'heroku config:set PUBLIC_URL="$(heroku apps:info -s | sed -n s/^web_url=//p)"'
)


@dataclass(frozen=True)
class Connection:
    """Where the subscription stands, as every process and /health see it. `at` is the store's time of the last look."""

    state: str = STARTING
    detail: str = ""
    uuid: str = ""
    at: float = 0.0


class Subscriber:
    """Subscribes in the background and looks again every hour; processes take turns, so that one does it for all."""

    def __init__(self, config: Config, inbox: Inbox, khoros: KhorosClient) -> None:
        self._config, self._inbox, self._khoros = config, inbox, khoros
        self._started_at: float | None = None
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subscription", daemon=True)

    def connection(self) -> Connection:
        """Where things stand. Raises StoreUnavailable."""
        kept = self._inbox.recall("connection")
        return Connection(**json.loads(kept)) if kept else Connection()

    def step(self) -> float:
        """Does what is due and returns the seconds until the next step. Raises StoreUnavailable."""
        now = self._inbox.now()
        if self._started_at is None:
            self._started_at = now
        known = self.connection()
        if known.state in (SUBSCRIBED, PAUSED) and self._started_at <= known.at <= now < known.at + WATCH_S:
            return min(known.at + WATCH_S - now, RETRY_S[-1])
        if not self._inbox.take_turn("subscribing", TURN_S):
            return RETRY_S[0]
        try:
            found = self._connect()
        finally:
            self._inbox.end_turn("subscribing")
        self._tell(known, found)
        if found.state in (SUBSCRIBED, PAUSED):
            self._failures = 0
            return RETRY_S[-1]
        self._failures += 1
        return RETRY_S[min(self._failures, len(RETRY_S)) - 1]

    def _connect(self) -> Connection:
        if not self._config.public_url:
            return Connection(NO_ADDRESS, NO_ADDRESS_HELP)
        try:
            held = self._held()
            if held is not None and held.status == "PAUSED":
                return Connection(
                    PAUSED, "a person paused the subscription in Khoros; the service leaves it so", held.uuid
                )
            made = self._khoros.subscribe(
                external_id=self._config.external_id,
                notification_uri=self._config.public_url + NOTIFICATIONS_PATH,
                query=self._config.label.pattern,
                bearer_token=self._config.bearer_tokens[0],
            )
            uuid = made.uuid or (held.uuid if held else "")
            if "DISABLED" in (made.status, held.status if held else "") and uuid:
                self._khoros.set_status(uuid, "ACTIVE")
                event("subscription_reactivated", logging.WARNING, subscription=uuid, reason="Khoros had it DISABLED")
        except ServiceError as error:
            return Connection(FAILED, str(error))
        return Connection(SUBSCRIBED, "", uuid)

    def _held(self) -> Subscription | None:
        """The subscription Khoros holds under our name; None too when it cannot list them: the upsert needs no list."""
        try:
            subscriptions = self._khoros.subscriptions()
        except ServiceError:
            return None
        ours = [
            s for s in subscriptions if s.external_id == self._config.external_id and s.event_name in ("", EVENT_NAME)
        ]
        return ours[0] if ours else None

    def _tell(self, known: Connection, found: Connection) -> None:
        """Keeps what was found for all processes, and logs it when it is news."""
        found = Connection(found.state, found.detail, found.uuid, self._inbox.now())
        self._inbox.remember("connection", json.dumps(asdict(found)))
        first_look = known.at < (self._started_at or 0.0)
        if (known.state, known.detail) == (found.state, found.detail) and not first_look:
            return
        if found.state == SUBSCRIBED:
            event(
                "subscribed", subscription=found.uuid, external_id=self._config.external_id, url=self._config.public_url
            )
        else:
            event(f"subscription_{found.state}", logging.ERROR, reason=found.detail)

    def start(self) -> None:
        """Keeps stepping in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stops after the step that is under way; nothing waits for it."""
        self._stopping.set()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            try:
                wait_s = self.step()
            except StoreUnavailable:  # the inbox's own loop says so
                wait_s = RETRY_S[2]
            except Exception as error:
                event("subscription_broken", logging.ERROR, error=where(error))
                wait_s = RETRY_S[-1]
