"""All our subscriptions in Khoros: one for each event name that a line of settings wants, each on its own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import log
from background import Loop
from config import Config
from inbox.facts import Facts
from khoros.address import PublicAddress
from khoros.catch_up import CatchUpStatus
from khoros.receive import Receiver
from khoros.subscription import (
    FAILED,
    LOGIN_REFUSED,
    NO_ADDRESS,
    NOT_WANTED,
    RETRY_S,
    SUBSCRIBED,
    Subscriber,
    SubscriptionStatus,
    echo_of,
    is_ours_by_name,
    status_fact,
)
from khoros_client import KhorosClient, Subscription
from outbound import ServiceError

NO_LINE = "no line of ROUTES wants these events any more"


class Subscriptions:
    """Keeps the subscriptions in the background, in one loop. `queries` has the query for each event name that is
    wanted, "" for all its events."""

    def __init__(
        self, config: Config, queries: Mapping[str, str], facts: Facts, khoros: KhorosClient, receiver: Receiver
    ) -> None:
        self._config, self._address = config, PublicAddress(config, facts)
        warned: set[str] = set()
        self._all = {
            name: Subscriber(name, query, config, facts, khoros, receiver, self._address, warned)
            for name, query in queries.items()
        }
        leftovers = _Leftovers(config, list(queries), facts, khoros, self._address)
        # A loop each, which is never started: what breaks in one step costs the other steps nothing.
        steps = [*(one.step for one in self._all.values()), leftovers.step]
        self._steps = [Loop("subscription", step) for step in steps]
        self.loop = Loop("subscriptions", self.step)

    def step(self) -> float:
        """Does what is due for each subscription. Returns the seconds until the next step."""
        return min(step.make_step() for step in self._steps)

    def statuses(self) -> dict[str, SubscriptionStatus]:
        """The status of each, by its event name. In poll mode one whose polls fail is failed or refused: nothing else
        brings its events. Raises DatabaseUnavailable."""
        return {name: self._status(one) for name, one in self._all.items()}

    def polls(self) -> dict[str, CatchUpStatus]:
        """How the polls of each went, by its event name. Raises DatabaseUnavailable."""
        return {name: one.poll_status() for name, one in self._all.items()}

    def learn_address(self, host: str, *, secure: bool) -> None:
        """Remembers the host name of a visit to the landing page, when it is the first and may be ours; see
        PublicAddress. Raises DatabaseUnavailable."""
        if self._address.learn(host, secure=secure):
            uri = self._address.notification_uri(())
            for one in self._all.values():
                status = one.status()
                if status.state in (SUBSCRIBED, NO_ADDRESS) and list(status.wanted[1:2]) != [uri]:  # older, or none
                    one.look_again()
                one.retry_now()
            self.loop.wake()

    def public_url(self) -> str:
        """The service's own address, configured or learned; "" when unknown. Raises DatabaseUnavailable."""
        return self._address.url()

    def look_again(self, names: Iterable[str] | None = None) -> None:
        """Makes the running service check and upsert these subscriptions within a minute; without `names` all."""
        for name in self._all if names is None else names:
            self._all[name].look_again()

    def retire(self, names: Iterable[str] | None = None) -> None:
        """Stops the service from subscribing to these events, without `names` to all, until `look_again`."""
        for name in self._all if names is None else names:
            self._all[name].retire()

    def ours(self, listed: Iterable[Subscription]) -> list[Subscription]:
        """Our company's subscriptions that have our names for the events that are wanted."""
        return [one for one in listed if self.event_name_of(one)]

    def event_name_of(self, listed: Subscription) -> str:
        """The event name that one of ours is for, whatever a person has changed in it; "" when it is not ours."""
        return next((name for name, one in self._all.items() if one.is_ours(listed)), "")

    def fault(self, listed: Subscription) -> str:
        """The difference between one of ours as Khoros lists it and what we want, in words; "" for none."""
        return self._all[self.event_name_of(listed)].fault(listed)

    def _status(self, one: Subscriber) -> SubscriptionStatus:
        status = one.status()
        poll = one.poll_status()
        if not (self._config.polling and status.state == SUBSCRIBED and poll.failed):
            return status
        state, since = (LOGIN_REFUSED, 0.0) if poll.refused else (FAILED, poll.failing_since)
        return replace(status, state=state, detail=f"Polling fails: {poll.failed}", failing_since=since)


class _Leftovers:
    """Deletes, once in the life of a process, the subscriptions of ours to events that are not wanted any more.

    Releases overlap: the process that started last decides. So none is deleted that another process has upserted since
    this one started, and the status tells an older process not to make it again.
    """

    def __init__(
        self,
        config: Config,
        wanted: Sequence[str],
        facts: Facts,
        khoros: KhorosClient,
        address: PublicAddress,
    ) -> None:
        self._config, self._wanted, self._facts = config, wanted, facts
        self._khoros, self._address = khoros, address
        self._started_at = math.inf
        self._retry_at, self._done = 0.0, False
        self._refused: set[str] = set()  # the uuids of those that Khoros does not delete

    def step(self) -> float:
        """Deletes them when that is due. Returns the seconds until the next step. Raises DatabaseUnavailable."""
        now = self._facts.now()
        self._started_at = min(self._started_at, now)
        if self._done or now < self._retry_at <= now + RETRY_S[-1] or not (addresses := self._addresses()):
            return RETRY_S[-1]
        self._retry_at = now + RETRY_S[-1]
        try:
            listed = self._khoros.subscriptions()
        except ServiceError:  # who subscribes says it
            return RETRY_S[-1]
        self._done = all([self._delete(one) for one in listed if self._is_left_over(one, addresses)])
        return RETRY_S[-1]

    def _addresses(self) -> set[str]:
        """Where our subscriptions post to, now and at the last upsert; empty when we do not know it yet."""
        asked = {uri for name in self._wanted for uri in self._status(name).wanted[1:2]}
        if self._config.polling:
            return {"", *asked}
        return {self._address.notification_uri(()), *asked} - {""}

    def _is_left_over(self, listed: Subscription, addresses: Collection[str]) -> bool:
        """Whether nobody wants it, it has our name, it posts to our address (none, where we poll) or is as we left it,
        and no other process has upserted it since this one started."""
        if listed.event_name in self._wanted or not is_ours_by_name(self._config, listed, listed.event_name):
            return False
        known = self._status(listed.event_name)
        as_we_left_it = bool(known.uuid) and echo_of(listed) in (known.echo, [known.uuid, *known.wanted])
        posts_to_us = listed.notification_uri in addresses
        return (posts_to_us or as_we_left_it) and known.upserted_at < self._started_at

    def _status(self, event_name: str) -> SubscriptionStatus:
        return self._facts.load(status_fact(event_name), SubscriptionStatus)

    def _delete(self, listed: Subscription) -> bool:
        """Deletes it. Returns whether that worked; a failure is logged once."""
        names = {"event_name": listed.event_name, "subscription": listed.uuid}
        try:
            self._khoros.delete(listed.uuid)
        except ServiceError as error:
            if listed.uuid not in self._refused:
                self._refused.add(listed.uuid)
                log.warning("subscription_not_removed", **names, reason=error)
            return False
        self._facts.save(status_fact(listed.event_name), SubscriptionStatus(NOT_WANTED, NO_LINE, at=self._facts.now()))
        log.info("subscription_removed", **names, reason=NO_LINE)
        return True
