"""Keeps the relay subscribed to the events of one name: subscribes at each start, checks every hour, and catches up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import log
from config import Config
from dates import read_date
from events import LABEL_APPLIED
from inbox.facts import Facts
from khoros.address import PublicAddress
from khoros.catch_up import CatchUp, CatchUpStatus, Source
from khoros.receive import NOTIFICATIONS_PATH, Receiver
from khoros_client import KhorosClient, Subscription, WrongCompany
from outbound import AuthFailed, ServiceError, Unavailable

CHECK_EVERY_S = 3600.0
RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0, 60.0)
SUBSCRIBE_TURN_S = 20.0  # how long the other processes wait when one is killed in its turn
CLOCKS_DIFFER_S = 60.0  # between Khoros' own machines
CLOCK_UNKNOWN_S = 300.0  # between Khoros' clock and ours, when Khoros does not say its time
SUBSCRIBED, PAUSED, DELETED, NOT_WANTED = "subscribed", "paused", "deleted", "not_wanted"
FAILED, LOGIN_REFUSED, NO_ADDRESS, STARTING = "failed", "refused", "no_address", "starting"
WRONG_COMPANY = "wrong_company"
WORKING = (SUBSCRIBED, PAUSED)
LEFT_PAUSED = "A person paused the subscription in Khoros; to go on: flask --app app subscription resume"
LEFT_DELETED = "The subscription was deleted by command; to subscribe again: flask --app app subscription resume"
# The state that an error of Khoros leads to, by the first class that fits.
STATE_AFTER = ((WrongCompany, WRONG_COMPANY), (AuthFailed, LOGIN_REFUSED), (ServiceError, FAILED))


@dataclass(frozen=True)
class SubscriptionStatus:
    """The subscription as every process and /health see it. `at` is the time of the last check and `upserted_at` of
    the last upsert, by the database's clock; `since` is the time of the first one, by Khoros'. `failing_since` is when
    Khoros began to be unavailable, 0 when it works or refuses us. `wanted` is what the last upsert asked for: event,
    address and query. `echo` is how Khoros listed the subscription after it, empty when Khoros did not."""

    state: str = STARTING
    detail: str = ""
    uuid: str = ""
    created_date: str = ""  # as Khoros writes it
    at: float = 0.0
    upserted_at: float = 0.0
    since: float = 0.0
    failing_since: float = 0.0
    wanted: Sequence[str] = ()
    echo: Sequence[str] = ()


def external_id(config: Config, event_name: str) -> str:
    """Our name for the subscription to these events."""
    return config.external_id if event_name == LABEL_APPLIED else f"{config.external_id}.{event_name}"


def is_ours_by_name(config: Config, listed: Subscription, event_name: str) -> bool:
    """Whether this is our company's subscription with our name for these events."""
    company = ("", str(config.company_id))
    return listed.external_id == external_id(config, event_name) and listed.company_id in company


def status_fact(event_name: str) -> str:
    """The name under which the status is kept for all processes."""
    return f"subscription:{event_name}"


class Subscriber:
    """Subscribes to the events of one name, checks the subscription every hour and catches up. Processes take turns."""

    def __init__(
        self,
        event_name: str,
        query: str,
        config: Config,
        facts: Facts,
        khoros: KhorosClient,
        receiver: Receiver,
        address: PublicAddress,
        warned: set[str],
    ) -> None:
        self._event_name, self._query, self._config = event_name, query, config
        self._facts, self._khoros, self._address, self._warned = facts, khoros, address, warned
        every_s = config.poll_s if config.polling else config.catch_up_s
        self._catch_up = CatchUp(event_name, facts, receiver, khoros, every_s=every_s)
        self._fact, self._turn = status_fact(event_name), f"subscribing:{event_name}"
        self._started_at = math.inf
        self._failures, self._retry_at = 0, 0.0

    def status(self) -> SubscriptionStatus:
        """The status that all processes share. Raises DatabaseUnavailable."""
        return self._facts.load(self._fact, SubscriptionStatus)

    def poll_status(self) -> CatchUpStatus:
        """How its polls went. Raises DatabaseUnavailable."""
        return self._catch_up.status()

    def step(self) -> float:
        """Does what is due. Returns the seconds until the next step. Raises DatabaseUnavailable."""
        now, known = self._facts.now(), self.status()
        self._started_at = min(self._started_at, now)  # the clock may have been set back
        if known.state == DELETED:
            self._warn("subscription_deleted", event_name=self._event_name, reason=LEFT_DELETED)
            return RETRY_S[-1]
        if known.state == NOT_WANTED and known.at >= self._started_at:  # for the settings of a newer start
            return RETRY_S[-1]
        polled = self._catch_up.status()
        is_gone = polled.gone and polled.at > known.at
        fresh = self._started_at <= known.at <= now < known.at + CHECK_EVERY_S and not is_gone
        if known.state in WORKING and fresh:
            return min(RETRY_S[-1], self._catch_up.step(self._source(known)))
        if now < self._retry_at <= now + RETRY_S[-1]:
            return self._retry_at - now
        if not self._facts.take_turn(self._turn, SUBSCRIBE_TURN_S):
            return RETRY_S[0]
        try:
            status = self._check(known)
            self._save(known, status)
        finally:
            self._facts.end_turn(self._turn)
        self._failures = 0 if status.state in WORKING else self._failures + 1
        wait_s = RETRY_S[min(self._failures, len(RETRY_S)) - 1] if self._failures else 0.0
        self._retry_at = now + wait_s
        return wait_s

    def look_again(self) -> None:
        """Makes the running service check and upsert the subscription within a minute."""
        known = self.status()
        self._facts.save(self._fact, SubscriptionStatus(wanted=known.wanted, since=known.since))
        self.retry_now()

    def retry_now(self) -> None:
        """Ends the wait after a failure, in this process."""
        self._retry_at = 0.0

    def retire(self) -> None:
        """Stops the service from subscribing, until `look_again`."""
        known = self.status()
        retired = SubscriptionStatus(DELETED, LEFT_DELETED, wanted=known.wanted, since=known.since)
        self._facts.save(self._fact, retired)

    def is_ours(self, listed: Subscription) -> bool:
        """Whether this is our subscription to these events, by its name and company."""
        return is_ours_by_name(self._config, listed, self._event_name)

    def fault(self, listed: Subscription) -> str:
        """The difference between our subscription as Khoros lists it and what we want, in words; "" for none."""
        known = self.status()
        wanted = self._wanted(known, listed, ())
        if not wanted or echo_of(listed)[1:] == wanted or _is_unchanged(listed, known, wanted):
            return ""
        event_name, uri, query = wanted
        if (listed.event_name, listed.query) != (event_name, query):
            about = f", query {listed.query or 'none'}" if listed.query or query else ""
            return f"is about {listed.event_name or 'no event'}{about}"
        return f"posts to {listed.notification_uri or 'nowhere'} instead of {uri or 'nowhere'}"

    def _source(self, known: SubscriptionStatus) -> Source:
        created = read_date(known.created_date)
        only_source = self._config.polling or (created is not None and created >= known.since)
        return Source(known.uuid, known.since, only_source)

    def _check(self, known: SubscriptionStatus) -> SubscriptionStatus:
        """Compares the subscription with what we want and repairs it."""
        try:
            current, listed = self._current(known.uuid, needed=known.upserted_at >= self._started_at)
            wanted = self._wanted(known, current, listed)
            if not wanted:
                return replace(known, state=NO_ADDRESS, detail=self._address.why_unknown(), failing_since=0.0)
            if current is None or current.status != "PAUSED":
                current, known = self._repair(current, known, wanted)
        except ServiceError as error:
            explained = self._khoros.explain(error)
            state = next(state for kind, state in STATE_AFTER if isinstance(explained, kind))
            since = (known.failing_since or self._facts.now()) if isinstance(error, Unavailable) else 0.0
            return replace(known, state=state, detail=str(explained), failing_since=since)
        state, detail = (PAUSED, LEFT_PAUSED) if current.status == "PAUSED" else (SUBSCRIBED, "")
        since = known.since or self._facts.now() - CLOCK_UNKNOWN_S
        uuid, created_date = current.uuid or known.uuid, current.created_date
        known = replace(known, uuid=uuid, created_date=created_date, since=since)
        return replace(known, state=state, detail=detail, failing_since=0.0)

    def _current(self, uuid: str, *, needed: bool) -> tuple[Subscription | None, list[Subscription]]:
        """Our subscription as Khoros lists it, of several the one with this uuid; and all that are listed. An upsert
        does not need the list: then none too when Khoros cannot give it."""
        try:
            listed = self._khoros.subscriptions()
        except ServiceError:
            if needed:
                raise
            return None, []
        ours = sorted(filter(self.is_ours, listed), key=lambda s: s.uuid != uuid)
        if len(ours) > 1:
            uuids = " ".join(sorted(s.uuid for s in ours))
            self._warn("subscription_doubled", subscriptions=uuids, reason="each posts every event: delete all but one")
        addresses = {self._config.public_url + NOTIFICATIONS_PATH, *(s.notification_uri for s in ours)} - {""}
        for other in listed:
            name = other.external_id
            family = name == self._config.external_id or name.startswith(f"{self._config.external_id}.")
            if not family and other.notification_uri in addresses:
                reason = "another subscription posts to our address"
                self._warn("subscription_beside_ours", subscription=other.uuid, reason=reason)
        return ours[0] if ours else None, listed

    def _wanted(
        self, known: SubscriptionStatus, current: Subscription | None, listed: Iterable[Subscription]
    ) -> list[str]:
        """The event name, address and query that the subscription must have; empty when our address is unknown."""
        uri = "" if self._config.polling else self._address.notification_uri(self._used(known, current, listed))
        return [self._event_name, uri, self._query] if uri or self._config.polling else []

    def _used(
        self, known: SubscriptionStatus, current: Subscription | None, listed: Iterable[Subscription]
    ) -> Iterator[str]:
        """The addresses of this subscription until now, then those of our others."""
        if current:
            yield current.notification_uri
        yield from known.wanted[1:2]
        yield from (one.notification_uri for one in listed if is_ours_by_name(self._config, one, one.event_name))

    def _repair(
        self, current: Subscription | None, known: SubscriptionStatus, wanted: list[str]
    ) -> tuple[Subscription, SubscriptionStatus]:
        """Upserts the subscription unless it is unchanged, and activates one that Khoros has disabled. The first check
        of a process always upserts: nobody can see the token that Khoros has."""
        first = known.upserted_at < self._started_at
        if current and not first and _is_unchanged(current, known, wanted):
            known = replace(known, echo=echo_of(current))
        else:
            lost = known.echo and not first and (current is None or echo_of(current) != known.echo)
            reason = "it was changed" if current else "it was gone"
            current, known = self._upsert(known, wanted)
            if lost:
                names = {"event_name": self._event_name, "subscription": current.uuid}
                log.warning("subscription_mended", **names, reason=reason)
                self._events_may_be_lost()
        if current.status == "DISABLED":
            self._khoros.set_status(current.uuid, "ACTIVE")
            names = {"event_name": self._event_name, "subscription": current.uuid}
            log.error("subscription_reactivated", **names, reason="Khoros had disabled it")
            self._events_may_be_lost()
        return current, known

    def _upsert(self, known: SubscriptionStatus, wanted: list[str]) -> tuple[Subscription, SubscriptionStatus]:
        name, token = external_id(self._config, self._event_name), self._config.bearer_tokens[0]
        made = self._khoros.subscribe(*wanted, external_id=name, bearer_token=token)
        now = self._facts.now()
        since = made.date - CLOCKS_DIFFER_S if made.date else now - CLOCK_UNKNOWN_S
        listed, _ = self._current(made.subscription.uuid or known.uuid, needed=False)
        echo = echo_of(listed) if listed else ()
        known = replace(known, upserted_at=now, since=known.since or since, wanted=wanted, echo=echo)
        return listed or made.subscription, known

    def _events_may_be_lost(self) -> None:
        """Remembers the time for the alerts: events may have happened while the subscription did not work."""
        self._facts.remember("subscription_mended_at", str(self._facts.now()))

    def _save(self, known: SubscriptionStatus, status: SubscriptionStatus) -> None:
        """Saves the status for all processes, unless a command has changed it meanwhile, and logs a change."""
        if self.status() != known:
            return
        status = replace(status, at=self._facts.now())
        self._facts.save(self._fact, status)
        changed = (known.state, known.detail) != (status.state, status.detail) or known.at < self._started_at
        names = {"event_name": self._event_name}
        if changed and status.state == SUBSCRIBED:
            name = external_id(self._config, self._event_name)
            log.info("subscribed", **names, subscription=status.uuid, external_id=name)
        elif changed:
            log.error(f"subscription_{status.state}", **names, reason=status.detail)

    def _warn(self, name: str, **fields: object) -> None:
        """Logs a warning once in the life of this process."""
        if (key := f"{name} {fields}") not in self._warned:
            self._warned.add(key)
            log.warning(name, **fields)


def echo_of(listed: Subscription) -> list[str]:
    """How Khoros lists a subscription: its uuid, event, address and query."""
    return [listed.uuid, listed.event_name, listed.notification_uri, listed.query]


def _is_unchanged(current: Subscription, known: SubscriptionStatus, wanted: list[str]) -> bool:
    """Whether nobody changed the subscription since our last upsert. Khoros may list it in other words than ours (no
    query, another spelling of the address), so it is compared with Khoros' own earlier words."""
    return known.wanted == wanted and echo_of(current) in (known.echo, [known.uuid, *wanted])
