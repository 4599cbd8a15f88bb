"""Keeps the service subscribed: its public address, the upsert at every start, the hourly look whether it holds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

from background import Loop
from catch_up import CatchUp
from config import Config
from inbox import Inbox
from khoros_client import EVENT_NAME, KhorosClient, Subscription
from logfmt import event
from outbound import AuthFailed, ServiceError
from store import Store

NOTIFICATIONS_PATH = "/notifications"
WATCH_S = 3600.0
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
TURN_S = 20.0  # a process that is killed in its turn holds the others up so long
SUBSCRIBED, PAUSED, DELETED = "subscribed", "paused", "deleted"
FAILED, REFUSED, NO_ADDRESS, STARTING = "failed", "refused", "no_address", "starting"
LEFT_PAUSED = (
    "a person paused it in Khoros, and the service leaves it so; to go on: flask --app app subscription resume"
)
LEFT_DELETED = "it was deleted by command; to start anew: flask --app app subscription resume"
ADDRESS_UNKNOWN = "the service does not know its public address: set PUBLIC_URL"
ADDRESS_UNKNOWN_ON_HEROKU = (
    "the app does not know its public address yet: open it once in a browser with: heroku open, or set it with: "
    'heroku config:set PUBLIC_URL="$(heroku apps:info -s | sed -n s/^web_url=//p)"'
)


@dataclass(frozen=True)
class Connection:
    """Where the subscription stands, as every process and /health see it. `at` is the store's time of the last look
    and `upserted_at` of the last upsert, `created_date` Khoros' date of the subscription."""

    state: str = STARTING
    detail: str = ""
    uuid: str = ""
    created_date: str = ""
    at: float = 0.0
    upserted_at: float = 0.0


def connection(store: Store) -> Connection:
    """Where the subscription stands. Raises StoreUnavailable."""
    kept = store.recall("connection")
    return Connection(**json.loads(kept)) if kept else Connection()


class Subscriber:
    """Subscribes in the background, looks again every hour and fetches what was missed; processes take turns."""

    def __init__(self, config: Config, inbox: Inbox, khoros: KhorosClient, catch_up: CatchUp) -> None:
        self._config, self._inbox, self._khoros, self._catch_up = config, inbox, khoros, catch_up
        self._started_at: float | None = None
        self._failures = 0
        self._warned: set[str] = set()
        self.loop = Loop("subscription", self.step)

    def connection(self) -> Connection:
        """Where things stand. Raises StoreUnavailable."""
        return connection(self._inbox)

    # The public address

    def learn_address(self, host: str, *, secure: bool) -> None:
        """Remembers the host name under which a browser opened the landing page, if nothing better is known. Only on
        Heroku, whose router takes requests only for names that belong to the app; the first name stays."""
        if self._config.public_url or self._config.polling or not (secure and self._may_be_ours(host)):
            return
        known = self._inbox.recall("public_url")
        if known is None:
            self._inbox.remember("public_url", f"https://{host}")
            event("address_learned", url=f"https://{host}")
            if self.connection().state == SUBSCRIBED:  # under the address that Khoros held
                self.look_again()
            self.loop.wake()
        elif known != f"https://{host}":
            self._warn("address_ignored", host=host, reason=f"the address is {known}; to change it set PUBLIC_URL")

    def public_url(self) -> str:
        """The service's own address, configured or learned; "" when unknown. Raises StoreUnavailable."""
        return self._config.public_url or self._inbox.recall("public_url") or ""

    def _may_be_ours(self, host: str) -> bool:
        name = re.escape(self._config.heroku_app_name.lower()) or "[a-z0-9][a-z0-9-]*"
        return self._config.on_dyno and bool(re.fullmatch(rf"{name}(-[a-z0-9-]+)?\.herokuapp\.com", host))

    def _address(self, held: Subscription | None) -> str:
        """Our notificationUri: configured, learned, or what Khoros holds from an earlier start; "" when unknown."""
        if address := self.public_url():
            return address + NOTIFICATIONS_PATH
        before = self._inbox.recall("address_khoros_held") or ""
        parts = urlsplit(held.notification_uri if held else "")
        known = parts.scheme == "https" and parts.path == NOTIFICATIONS_PATH and self._may_be_ours(parts.netloc)
        if held and known and held.notification_uri != before:
            before = held.notification_uri
            self._inbox.remember("address_khoros_held", before)
        return before

    # The subscription

    def step(self) -> float:
        """Does what is due and returns the seconds until the next step. Raises StoreUnavailable."""
        now = self._inbox.now()
        if self._started_at is None or now < self._started_at:  # the clock was set back
            self._started_at = now
        known = self.connection()
        if known.state == DELETED:
            self._warn("subscription_deleted", reason=LEFT_DELETED)
            return RETRY_S[-1]
        if known.state in (SUBSCRIBED, PAUSED) and self._started_at <= known.at <= now < known.at + WATCH_S:
            return min(RETRY_S[-1], self._catch_up.step(known.uuid, known.created_date))
        if not self._inbox.take_turn("subscribing", TURN_S):
            return RETRY_S[0]
        try:
            found = self._look(first=known.upserted_at < self._started_at)
            self._keep(known, found)
        finally:
            self._inbox.end_turn("subscribing")
        if found.state in (SUBSCRIBED, PAUSED):
            self._failures = 0
            return 0.0
        self._failures += 1
        return RETRY_S[min(self._failures, len(RETRY_S)) - 1]

    def _look(self, *, first: bool) -> Connection:
        try:
            upserted_at, held = 0.0, self._held(first)
            uri = "" if self._config.polling else self._address(held)
            if not uri and not self._config.polling:
                return Connection(NO_ADDRESS, ADDRESS_UNKNOWN_ON_HEROKU if self._config.on_dyno else ADDRESS_UNKNOWN)
            if held is not None and held.status == "PAUSED":
                return Connection(PAUSED, LEFT_PAUSED, held.uuid, held.created_date)
            if first or held is None or not self._is_as_wanted(held, uri):
                held, upserted_at = self._subscribe(held, uri, first=first), self._inbox.now()
            if held.status == "PAUSED":  # the list had not shown it
                return Connection(PAUSED, LEFT_PAUSED, held.uuid, held.created_date)
            if held.status == "DISABLED":
                self._khoros.set_status(held.uuid, "ACTIVE")
                reason = "Khoros had disabled it"
                event("subscription_reactivated", logging.ERROR, subscription=held.uuid, reason=reason)
                self._mended()
        except ServiceError as error:
            return Connection(REFUSED if isinstance(error, AuthFailed) else FAILED, str(error))
        return Connection(SUBSCRIBED, "", held.uuid, held.created_date, upserted_at=upserted_at)

    def _subscribe(self, held: Subscription | None, uri: str, *, first: bool) -> Subscription:
        made = self._khoros.subscribe(
            external_id=self._config.external_id,
            notification_uri=uri,
            query=self._config.label.pattern,
            bearer_token=self._config.bearer_tokens[0],
        )
        if not made.uuid:  # no answer to this call is published, so it may say nothing
            made = held or self._held(first=True) or made
        if not first:
            reason = "it was gone" if held is None else "it was changed"
            event("subscription_mended", logging.WARNING, reason=reason, subscription=made.uuid)
            self._mended()
        disabled = held is not None and held.status == "DISABLED" and made.uuid == held.uuid
        return replace(made, status="DISABLED") if disabled else made

    def _mended(self) -> None:
        """Remembers that labels may have been lost: alerts.py tells of it."""
        self._inbox.remember("subscription_mended_at", str(self._inbox.now()))

    def _is_as_wanted(self, held: Subscription, uri: str) -> bool:
        wanted = (uri, EVENT_NAME, self._config.label.pattern)
        return (held.notification_uri, held.event_name, held.query) == wanted

    def _held(self, first: bool) -> Subscription | None:
        """The subscription Khoros holds under our name; None too when it cannot list them: the upsert needs no list."""
        try:
            listed = self._khoros.subscriptions()
        except ServiceError:
            if not first:
                raise  # nothing is known to be wrong: ask again soon
            return None
        ours = self.ours(listed)
        if len(ours) > 1:
            uuids = " ".join(s.uuid for s in ours)
            self._warn("subscription_doubled", subscriptions=uuids, reason="each posts every event: delete all but one")
        addresses = {self._config.public_url + NOTIFICATIONS_PATH, *(s.notification_uri for s in ours)} - {""}
        for other in listed:
            if other not in ours and other.notification_uri in addresses:
                self._warn(
                    "subscription_beside_ours", subscription=other.uuid, reason="another one posts to our address"
                )
        return ours[0] if ours else None

    def ours(self, listed: Iterable[Subscription]) -> list[Subscription]:
        """Those of our company that have our externalId."""
        company = ("", str(self._config.company_id))
        return [s for s in listed if s.external_id == self._config.external_id and s.company_id in company]

    def look_again(self) -> None:
        """Has the running service look at the subscription again, within a minute."""
        self._inbox.remember("connection", json.dumps(asdict(Connection())))

    def retire(self) -> None:
        """Has the service leave the subscription deleted, until `look_again`."""
        self._inbox.remember("connection", json.dumps(asdict(Connection(DELETED, LEFT_DELETED))))

    def _keep(self, known: Connection, found: Connection) -> None:
        """Keeps what was found for all processes, and logs it when it is news."""
        if known.state != DELETED and self.connection().state == DELETED:
            return  # deleted by command meanwhile
        upserted_at = found.upserted_at or known.upserted_at
        found = replace(found, uuid=found.uuid or known.uuid, at=self._inbox.now(), upserted_at=upserted_at)
        self._inbox.remember("connection", json.dumps(asdict(found)))
        if found.state == SUBSCRIBED and self._inbox.recall("first_subscribed_at") is None:
            self._inbox.remember("first_subscribed_at", str(found.at))
        news = (known.state, known.detail) != (found.state, found.detail) or known.at < (self._started_at or 0.0)
        if news and found.state == SUBSCRIBED:
            event("subscribed", subscription=found.uuid, external_id=self._config.external_id)
        elif news:
            event(f"subscription_{found.state}", logging.ERROR, reason=found.detail)

    def _warn(self, name: str, **fields: object) -> None:
        """Logs a warning once in the life of this process."""
        if (key := f"{name} {fields}") not in self._warned:
            self._warned.add(key)
            event(name, logging.WARNING, **fields)
