"""Tells people that the service needs them, where they are: {"text": …} to a webhook as Slack takes it.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from config import Config
from gate import OPEN, UNAUTHORISED
from inbox import Inbox
from logfmt import event
from outbound import Answer, ServiceError, Unavailable, new_session, send
from standing import Standing, standing
from subscription import FAILED, NO_ADDRESS, PAUSED, REFUSED

QUIET_S = 3600.0  # at most one message per subject in this time
PATIENCE_S = 120.0  # Khoros may be away so long before anyone is told
MENDED_S = 7200.0  # how long a lost subscription is spoken of after it was mended: longer than QUIET_S
TURN_S = 120.0  # longer than a webhook that hangs can make the five subjects take
WELL = {
    "parked": "Nothing is parked any more.",
    "waiting": "Posts no longer wait: Zendesk takes them again.",
    "zendesk_credentials": "Zendesk takes the relay's credentials again.",
    "khoros_credentials": "Khoros takes the relay's access token again.",
    "subscription": "The relay is subscribed in Khoros.",
    "lost_labels": "",  # it was well again when it was told
}


@dataclass(frozen=True)
class Trouble:
    """Something people should know. It is told once it has lasted `after_s` seconds, and again every hour while it
    lasts or, when not `again`, only when its `level` has risen."""

    text: str
    level: int = 1
    again: bool = True
    after_s: float = 0.0


@dataclass(frozen=True)
class Told:
    """What is known of a subject: since when it is amiss (None: it is well), and what was told when."""

    since: float | None = None
    told_at: float | None = None
    level: int = 0  # told and not yet taken back; 0: nothing is


def troubles(now: Standing, alert_after_s: float) -> dict[str, Trouble]:
    """What is amiss, by subject."""
    found = {}
    if now.counts.parked:
        found["parked"] = Trouble(
            f"{_posts(now.counts.parked)} parked: Zendesk refused the ticket, or what Khoros sent cannot be read. "
            "See why with: flask --app app inbox list",
            level=now.counts.parked,
            again=False,
        )
    oldest_s = now.counts.oldest_pending_s or 0.0
    if oldest_s > alert_after_s:
        why = f"Zendesk: {now.gate.state}. {now.gate.reason}".strip(". ")
        if now.gate.state == OPEN:
            why = "Zendesk takes calls: see why with: flask --app app inbox list --state pending"
        found["waiting"] = Trouble(
            f"{_posts(now.counts.pending)} waiting for a ticket, the oldest for {oldest_s / 60:.0f} minutes. {why}. "
            "Nothing is lost: they go out when Zendesk takes them."
        )
    if now.gate.state == UNAUTHORISED:
        found["zendesk_credentials"] = Trouble(f"{now.gate.reason}. Find out more with: flask --app app check")
    return found | _subscription_troubles(now)


def _subscription_troubles(now: Standing) -> dict[str, Trouble]:
    state, detail = now.connection.state, now.connection.detail
    if state == REFUSED:
        return {"khoros_credentials": Trouble(f"{detail}. Find out more with: flask --app app check")}
    if state in (FAILED, NO_ADDRESS):
        return {"subscription": Trouble(f"The relay is not subscribed in Khoros: {detail}.", after_s=PATIENCE_S)}
    if state == PAUSED:
        return {"subscription": Trouble(f"Labels make no tickets: {detail}.", again=False)}
    if now.now - MENDED_S < now.mended_at <= now.now:
        said = "The subscription was gone, changed or disabled in Khoros, and was mended."
        text = f"{said} Posts labelled in the hour before may have made no ticket: label those again."
        return {"lost_labels": Trouble(text, level=int(now.mended_at), again=False)}
    return {}


def due(found: Mapping[str, Trouble], kept: Mapping[str, Told], now: float) -> dict[str, tuple[str, Told]]:
    """Per subject that has news: the text to tell, empty for none, and what is then to be kept."""
    news = {}
    for subject in {**kept, **found}:
        before = kept.get(subject, Told())
        text, after = _news(subject, found.get(subject), before, now)
        if text or after != before:
            news[subject] = (text, after)
    return news


def _news(subject: str, trouble: Trouble | None, told: Told, now: float) -> tuple[str, Told]:
    if trouble is None:
        text = WELL.get(subject, "") if told.level else ""
        return text, Told(told_at=told.told_at)
    since = now if told.since is None else min(told.since, now)  # the clock may have been set back
    told = replace(told, since=since, level=min(told.level, trouble.level))
    lasted = now - since >= trouble.after_s
    quiet = told.told_at is not None and 0 <= now - told.told_at < QUIET_S
    if not lasted or quiet or (told.level >= trouble.level and not trouble.again):
        return "", told
    return trouble.text, replace(told, told_at=now, level=trouble.level)


class Alerts:
    """Sends what is due. Processes take turns; what could not be sent is tried again at the next step."""

    def __init__(self, config: Config, inbox: Inbox, post: Callable[[str, str], Answer] | None = None) -> None:
        self._url, self._after_s, self._inbox = config.alert_url, config.alert_after_s, inbox
        self._name = f"Khoros to Zendesk relay ({config.public_url or config.external_id})"
        self._session = new_session(pool_size=1)
        self._post = post or self._post_text
        self._failing = False

    def step(self) -> None:
        """Looks, and tells what is due. Raises StoreUnavailable."""
        if not self._url or not self._news()[1] or not self._inbox.take_turn("alerting", TURN_S):
            return
        try:
            kept, news = self._news()  # once more: another process may have told it meanwhile
            for subject, (text, told) in news.items():
                if not text or self._send(subject, text):
                    kept[subject] = told  # at once: whoever ends us now must not have it told again
                    self._inbox.remember("alerts", json.dumps({name: asdict(known) for name, known in kept.items()}))
        finally:
            self._inbox.end_turn("alerting")

    def _news(self) -> tuple[dict[str, Told], dict[str, tuple[str, Told]]]:
        now, known = standing(self._inbox), json.loads(self._inbox.recall("alerts") or "{}")
        kept = {subject: Told(**told) for subject, told in known.items()}
        return kept, due(troubles(now, self._after_s), kept, now.now)

    def _send(self, subject: str, text: str) -> bool:
        try:
            answer = self._post(self._url, f"{self._name}: {text}")
            if not 200 <= answer.status < 300:
                raise Unavailable(f"ALERT_WEBHOOK_URL answered {answer.status}")
        except ServiceError as error:
            if not self._failing:
                event("alert_failed", logging.WARNING, subject=subject, reason=error)
            self._failing = True
            return False
        event("alerted", subject=subject)
        self._failing = False
        return True

    def _post_text(self, url: str, text: str) -> Answer:
        return send(self._session, "POST", url, json={"text": text})


def _posts(count: int) -> str:
    return "1 post is" if count == 1 else f"{count:,} posts are"
