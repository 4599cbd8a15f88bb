"""Keeps the relay subscribed in Khoros: learns its public address, subscribes at each start, checks every hour."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import log
from background import Loop
from config import Config
from events import LABEL_APPLIED
from inbox.facts import Facts
from khoros.catch_up import CatchUp
from khoros.receive import NOTIFICATIONS_PATH
from khoros_client import KhorosClient, Subscription
from outbound import AuthFailed, ServiceError

CHECK_EVERY_S = 3600.0
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
SUBSCRIBE_TURN_S = 20.0  # how long the other processes wait when one is killed in its turn
SUBSCRIBED, PAUSED, DELETED = "subscribed", "paused", "deleted"
FAILED, LOGIN_REFUSED, NO_ADDRESS, STARTING = "failed", "refused", "no_address", "starting"
WORKING = (SUBSCRIBED, PAUSED)
LEFT_PAUSED = "a person paused the subscription in Khoros; to go on: flask --app app subscription resume"
LEFT_DELETED = "the subscription was deleted by command; to subscribe again: flask --app app subscription resume"
ADDRESS_UNKNOWN = "the service does not know its public address: set PUBLIC_URL"
ADDRESS_UNKNOWN_ON_HEROKU = (
    "the app does not know its public address yet: open it once in a browser with: heroku open, or set it with: "
    'heroku config:set PUBLIC_URL="$(heroku apps:info -s | sed -n s/^web_url=//p)"'
)


@dataclass(frozen=True)
class SubscriptionStatus:
    """The subscription as every process and /health see it. `at` is the time of the last check and `upserted_at` of
    the last upsert, by the database's clock. `wanted` is what that upsert asked for: event, address and query. `echo`
    is how Khoros listed the subscription after it, empty when Khoros did not."""

    state: str = STARTING
    detail: str = ""
    uuid: str = ""
    created_date: str = ""  # as Khoros writes it
    at: float = 0.0
    upserted_at: float = 0.0
    wanted: Sequence[str] = ()
    echo: Sequence[str] = ()


def subscription_status(facts: Facts) -> SubscriptionStatus:
    """The status that all processes share. Raises DatabaseUnavailable."""
    return facts.load("subscription", SubscriptionStatus)


class Subscriber:
    """Subscribes in the background, checks the subscription every hour and catches up. Processes take turns."""

    def __init__(self, config: Config, facts: Facts, khoros: KhorosClient, catch_up: CatchUp) -> None:
        self._config, self._facts, self._khoros, self._catch_up = config, facts, khoros, catch_up
        self._started_at = math.inf
        self._failures = 0
        self._warned: set[str] = set()
        self.loop = Loop("subscription", self.step)

    def status(self) -> SubscriptionStatus:
        """The status that all processes share. Raises DatabaseUnavailable."""
        return subscription_status(self._facts)

    # The public address

    def learn_address(self, host: str, *, secure: bool) -> None:
        """Remembers the host name of a visit to the landing page, unless an address is known. Only on Heroku, whose
        router forwards only requests for the app's own names. The first name stays."""
        if self._config.public_url or self._config.polling or not (secure and self._may_be_ours(host)):
            return
        known = self._facts.recall("public_url")
        if known is None:
            self._facts.remember("public_url", f"https://{host}")
            log.info("address_learned", url=f"https://{host}")
            if self.status().state == SUBSCRIBED:  # with an older address, from Khoros
                self.look_again()
            self.loop.wake()
        elif known != f"https://{host}":
            self._warn("address_ignored", host=host, reason=f"the address is {known}; to change it set PUBLIC_URL")

    def public_url(self) -> str:
        """The service's own address, configured or learned; "" when unknown. Raises DatabaseUnavailable."""
        return self._config.public_url or self._facts.recall("public_url") or ""

    def _may_be_ours(self, host: str) -> bool:
        name = re.escape(self._config.heroku_app_name.lower()) or "[a-z0-9][a-z0-9-]*"
        return self._config.on_dyno and bool(re.fullmatch(rf"{name}(-[a-z0-9-]+)?\.herokuapp\.com", host))

    def _notification_uri(self, current: Subscription | None) -> str:
        """The address for notifications: configured, learned, from our subscription in Khoros, or from the last
        upsert; "" when unknown."""
        if address := self.public_url():
            return address + NOTIFICATIONS_PATH
        for uri in (current.notification_uri if current else "", *self.status().wanted[1:2]):
            host = uri.removeprefix("https://").removesuffix(NOTIFICATIONS_PATH)
            if uri == f"https://{host}{NOTIFICATIONS_PATH}" and self._may_be_ours(host):
                return uri
        return ""

    # The subscription

    def step(self) -> float:
        """Does what is due. Returns the seconds until the next step. Raises DatabaseUnavailable."""
        now, known = self._facts.now(), self.status()
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        if known.state == DELETED:
            self._warn("subscription_deleted", reason=LEFT_DELETED)
            return RETRY_S[-1]
        if known.state in WORKING and self._started_at <= known.at <= now < known.at + CHECK_EVERY_S:
            return min(RETRY_S[-1], self._catch_up.step(known.uuid, known.created_date))
        if not self._facts.take_turn("subscribing", SUBSCRIBE_TURN_S):
            return RETRY_S[0]
        try:
            status = self._check(known)
            self._save(known, status)
        finally:
            self._facts.end_turn("subscribing")
        if status.state in WORKING:
            self._failures = 0
            return 0.0
        self._failures += 1
        return RETRY_S[min(self._failures, len(RETRY_S)) - 1]

    def look_again(self) -> None:
        """Makes the running service check and upsert the subscription within a minute."""
        self._facts.save("subscription", SubscriptionStatus(wanted=self.status().wanted))

    def retire(self) -> None:
        """Stops the service from subscribing, until `look_again`."""
        self._facts.save("subscription", SubscriptionStatus(DELETED, LEFT_DELETED, wanted=self.status().wanted))

    def ours(self, listed: Iterable[Subscription]) -> list[Subscription]:
        """The subscriptions of our company that have our externalId."""
        company = ("", str(self._config.company_id))
        return [s for s in listed if s.external_id == self._config.external_id and s.company_id in company]

    def fault(self, listed: Subscription) -> str:
        """The difference between our subscription as Khoros lists it and what we want, in words; "" for none."""
        wanted = self._wanted(listed)
        if not wanted or _echo(listed)[1:] == wanted or _is_unchanged(listed, self.status(), wanted):
            return ""
        event_name, uri, query = wanted
        if (listed.event_name, listed.query) != (event_name, query):
            return f"is about {listed.event_name or 'no event'}, label {listed.query or 'any'}"
        return f"posts to {listed.notification_uri or 'nowhere'} instead of {uri or 'nowhere'}"

    def _check(self, known: SubscriptionStatus) -> SubscriptionStatus:
        """Compares the subscription with what we want and repairs it."""
        try:
            current = self._current(known.uuid, needed=known.upserted_at >= self._started_at)
            wanted = self._wanted(current)
            if not wanted:
                detail = ADDRESS_UNKNOWN_ON_HEROKU if self._config.on_dyno else ADDRESS_UNKNOWN
                return replace(known, state=NO_ADDRESS, detail=detail)
            if current is None or current.status != "PAUSED":
                current, known = self._repair(current, known, wanted)
        except ServiceError as error:
            return replace(known, state=LOGIN_REFUSED if isinstance(error, AuthFailed) else FAILED, detail=str(error))
        state, detail = (PAUSED, LEFT_PAUSED) if current.status == "PAUSED" else (SUBSCRIBED, "")
        uuid = current.uuid or known.uuid
        return replace(known, state=state, detail=detail, uuid=uuid, created_date=current.created_date)

    def _current(self, uuid: str, *, needed: bool) -> Subscription | None:
        """Our subscription as Khoros lists it; of several the one with this uuid. An upsert does not need the list:
        then None too when Khoros cannot give it."""
        try:
            listed = self._khoros.subscriptions()
        except ServiceError:
            if needed:
                raise
            return None
        ours = sorted(self.ours(listed), key=lambda s: s.uuid != uuid)
        if len(ours) > 1:
            uuids = " ".join(sorted(s.uuid for s in ours))
            self._warn("subscription_doubled", subscriptions=uuids, reason="each posts every event: delete all but one")
        addresses = {self._config.public_url + NOTIFICATIONS_PATH, *(s.notification_uri for s in ours)} - {""}
        for other in listed:
            if other not in ours and other.notification_uri in addresses:
                reason = "another subscription posts to our address"
                self._warn("subscription_beside_ours", subscription=other.uuid, reason=reason)
        return ours[0] if ours else None

    def _wanted(self, current: Subscription | None) -> list[str]:
        """The event name, address and query that the subscription must have; empty when our address is unknown."""
        uri = "" if self._config.polling else self._notification_uri(current)
        return [LABEL_APPLIED, uri, self._config.label.pattern] if uri or self._config.polling else []

    def _repair(
        self, current: Subscription | None, known: SubscriptionStatus, wanted: list[str]
    ) -> tuple[Subscription, SubscriptionStatus]:
        """Upserts the subscription unless it is unchanged, and activates one that Khoros has disabled. The first check
        of a process always upserts: nobody can see the token that Khoros has."""
        first = known.upserted_at < self._started_at
        if current and not first and _is_unchanged(current, known, wanted):
            known = replace(known, echo=_echo(current))
        else:
            lost = known.echo and not first and (current is None or _echo(current) != known.echo)
            reason = "it was changed" if current else "it was gone"
            external_id, bearer_token = self._config.external_id, self._config.bearer_tokens[0]
            made = self._khoros.subscribe(*wanted, external_id=external_id, bearer_token=bearer_token)
            listed = self._current(made.uuid or known.uuid, needed=False)
            known = replace(known, upserted_at=self._facts.now(), wanted=wanted, echo=_echo(listed) if listed else ())
            current = listed or made
            if lost:
                log.warning("subscription_mended", reason=reason, subscription=current.uuid)
                self._labels_may_be_lost()
        if current.status == "DISABLED":
            self._khoros.set_status(current.uuid, "ACTIVE")
            log.error("subscription_reactivated", subscription=current.uuid, reason="Khoros had disabled it")
            self._labels_may_be_lost()
        return current, known

    def _labels_may_be_lost(self) -> None:
        """Remembers the time for the alerts: labels may have been applied while the subscription did not work."""
        self._facts.remember("subscription_mended_at", str(self._facts.now()))

    def _save(self, known: SubscriptionStatus, status: SubscriptionStatus) -> None:
        """Saves the status for all processes, unless a command has changed it meanwhile, and logs a change."""
        if self.status() != known:
            return
        status = replace(status, at=self._facts.now())
        self._facts.save("subscription", status)
        if status.state == SUBSCRIBED and self._facts.recall("first_subscribed_at") is None:
            self._facts.remember("first_subscribed_at", str(status.at))
        changed = (known.state, known.detail) != (status.state, status.detail) or known.at < self._started_at
        if changed and status.state == SUBSCRIBED:
            log.info("subscribed", subscription=status.uuid, external_id=self._config.external_id)
        elif changed:
            log.error(f"subscription_{status.state}", reason=status.detail)

    def _warn(self, name: str, **fields: object) -> None:
        """Logs a warning once in the life of this process."""
        if (key := f"{name} {fields}") not in self._warned:
            self._warned.add(key)
            log.warning(name, **fields)


def _echo(listed: Subscription) -> list[str]:
    return [listed.uuid, listed.event_name, listed.notification_uri, listed.query]


def _is_unchanged(current: Subscription, known: SubscriptionStatus, wanted: list[str]) -> bool:
    """Whether nobody changed the subscription since our last upsert. Khoros may list it in other words than ours (no
    query, another spelling of the address), so it is compared with Khoros' own earlier words."""
    return known.wanted == wanted and _echo(current) in (known.echo, [known.uuid, *wanted])
