"""Alerts people when the service needs them: {"text": …} to a webhook as Slack takes it.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import log
from config import Config
from inbox.facts import Facts, read_tolerantly
from inbox.gate import UNAUTHORISED
from inbox.inbox import Inbox
from khoros.subscription import FAILED, LOGIN_REFUSED, NO_ADDRESS, PAUSED
from operations.health import Health, current_health, title
from outbound import Answer, ServiceError, Unavailable, new_session, send

QUIET_S = 3600.0  # at most one message per subject in this time
KHOROS_MAY_FAIL_S = 120.0
MENDED_S = 7200.0  # a repaired subscription is reported for this long: longer than QUIET_S
ALERT_TURN_S = 120.0  # longer than the messages of one step take
FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
LONGEST_PAUSE_S = 86_400.0  # a webhook that asks for more is called once a day
MORE = "Find out more with: flask --app app check"
SEE_WHY = "See why with: flask --app app inbox list"
NO_MORE_ALERTS = "no alert is sent any more; make a new webhook, set ALERT_WEBHOOK_URL and restart the service"
LOST_LABELS = (
    "The subscription was gone, changed or disabled in Khoros; the relay has repaired it. "
    "Posts labelled in the hour before may be missing: label those again."
)
SendText = Callable[[str, str], Answer]
News = dict[str, tuple[str, "Alerted"]]  # by subject: the text to send, which may be empty, and what people know then


@dataclass(frozen=True)
class Problem:
    """A reason to alert people. The alert is sent when the problem has lasted `after_s` seconds, and again every hour
    while it lasts or, when it has a `level`, only when this has risen. `well` is sent when the problem is over."""

    text: str
    well: str = ""
    level: int = 0
    after_s: float = 0.0


@dataclass(frozen=True)
class Alerted:
    """What people know about a subject: since when there is a problem (None: there is none), when the last alert was
    sent, its level, and the text that takes it back (empty: there is nothing to take back)."""

    since: float | None = None
    sent_at: float | None = None
    level: int = 0
    well: str = ""


def find_problems(health: Health, alert_after_s: float) -> dict[str, Problem]:
    """The present problems by subject."""
    counts, found = health.counts, _subscription_problem(health)
    if counts.parked:
        refuser = " or ".join(map(title, health.gates))
        need = f"{count_posts(counts.parked)} attention: {refuser} refused it, or what Khoros sent cannot be read."
        found["parked"] = Problem(f"{need} {SEE_WHY}", "No post needs attention any more.", level=counts.parked)
    oldest_s = counts.oldest_pending_s or 0.0
    if oldest_s > alert_after_s:
        reasons = [f"{title(name)}: {gate.state}. {gate.reason}".strip(". ") for name, gate in health.closed.items()]
        why = ". ".join(reasons) or f"{SEE_WHY} --state pending"
        wait = f"{count_posts(counts.pending, 'wait')} for delivery, the oldest for {oldest_s / 60:.0f} minutes."
        text = f"{wait} {why}. Nothing is lost: the relay keeps trying."
        found["waiting"] = Problem(text, "Posts no longer wait: they are delivered again.")
    for name, gate in health.gates.items():
        if gate.state == UNAUTHORISED:
            well = f"{title(name)} accepts the relay's credentials again."
            found[f"{name}_credentials"] = Problem(f"{gate.reason}. {MORE}", well)
    return found


def _subscription_problem(health: Health) -> dict[str, Problem]:
    state, detail, well = health.subscription.state, health.subscription.detail, "The relay is subscribed in Khoros."
    if state == LOGIN_REFUSED:
        return {"khoros_credentials": Problem(f"{detail}. {MORE}", "Khoros accepts the relay's access token again.")}
    if state in (FAILED, NO_ADDRESS):
        text = f"The relay is not subscribed in Khoros: {detail}."
        return {"subscription": Problem(text, well, after_s=KHOROS_MAY_FAIL_S)}
    if state == PAUSED:
        return {"subscription": Problem(f"Labels are not delivered: {detail}.", well, level=1)}
    if health.now - MENDED_S < health.mended_at <= health.now:
        return {"lost_labels": Problem(LOST_LABELS, level=int(health.mended_at))}
    return {}


def find_news(problems: Mapping[str, Problem], known: Mapping[str, Alerted], now: float) -> News:
    """What has changed for people, by subject."""
    news = {}
    for subject in {**known, **problems}:
        before = known.get(subject, Alerted())
        text, after = _news_of(problems.get(subject), before, now)
        if text or after != before:
            news[subject] = (text, after)
    return news


def _news_of(problem: Problem | None, before: Alerted, now: float) -> tuple[str, Alerted]:
    if problem is None:
        return before.well, Alerted(sent_at=before.sent_at)
    since = now if before.since is None else min(before.since, now)  # the clock may have been set back
    after = replace(before, since=since, level=min(before.level, problem.level))
    quiet = before.sent_at is not None and 0 <= now - before.sent_at < QUIET_S
    if quiet or now - since < problem.after_s or 0 < problem.level <= after.level:
        return "", after
    return problem.text, replace(after, sent_at=now, level=problem.level, well=problem.well)


def post_text(url: str, text: str) -> Answer:
    """Sends one message. Raises Unavailable when no answer comes."""
    return send(new_session(url), "POST", url, json={"text": text})


def count_posts(count: int, verb: str = "need") -> str:
    """The number of posts with its verb: 1 post needs, 1,234 posts need."""
    return f"1 post {verb}s" if count == 1 else f"{count:,} posts {verb}"


class Alerts:
    """Sends the alerts that are due. Processes take turns. While the webhook fails it is called less and less often."""

    def __init__(
        self,
        config: Config,
        inbox: Inbox,
        facts: Facts,
        destinations: Iterable[str],
        post: SendText = post_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._after_s, self._post, self._clock = config.alert_url, config.alert_after_s, post, clock
        self._inbox, self._facts, self._destinations = inbox, facts, tuple(destinations)
        self._name = f"Khoros to Zendesk relay ({config.public_url or config.external_id})"
        self._failures, self._next_at, self._subject = 0, 0.0, ""

    def step(self) -> None:
        """Sends what is due. Raises DatabaseUnavailable."""
        if not self._url or self._clock() < self._next_at or not self._news()[1]:
            return
        if not self._facts.take_turn("alerting", ALERT_TURN_S):
            return
        try:
            self._send_all(*self._news())  # read again: another process may have sent them meanwhile
        except ServiceError as error:
            self._back_off(error)
        finally:
            self._facts.end_turn("alerting")

    def _news(self) -> tuple[dict[str, Alerted], News]:
        health = current_health(self._inbox, self._facts, self._destinations)
        kept = json.loads(self._facts.recall("alerts") or "{}")
        known = {subject: read_tolerantly(json.dumps(state), Alerted) for subject, state in kept.items()}
        return known, find_news(find_problems(health, self._after_s), known, health.now)

    def _send_all(self, known: dict[str, Alerted], news: News) -> None:
        # The subject that failed last time comes last: a text that the webhook refuses delays no other.
        for subject in sorted(news, key=lambda subject: (bool(news[subject][0]), subject == self._subject)):
            text, known[subject] = news[subject]
            if text:
                self._subject = subject
                self._send(text)
                log.info("alerted", subject=subject)
            # Each at once: nobody gets it twice when the process ends now.
            self._facts.remember("alerts", json.dumps({name: asdict(state) for name, state in known.items()}))
        self._failures, self._subject = 0, ""

    def _send(self, text: str) -> None:
        answer = self._post(self._url, f"{self._name}: {text}")
        if not 200 <= answer.status < 300:
            reason = f"ALERT_WEBHOOK_URL answered {answer.status}"
            raise Unavailable(reason, status=answer.status, retry_after_s=answer.retry_after_s)

    def _back_off(self, error: ServiceError) -> None:
        if error.status in (404, 410):  # Slack answers so when somebody removed the webhook or its channel
            log.error("alerts_off", reason=f"{error}: {NO_MORE_ALERTS}")
            self._url = ""
            return
        wait_s = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 20), LONGEST_RETRY_S)
        wait_s = max(wait_s, min(error.retry_after_s or 0.0, LONGEST_PAUSE_S))
        self._failures, self._next_at = self._failures + 1, self._clock() + wait_s
        log.warning("alert_failed", subject=self._subject, reason=error, retry_s=round(wait_s))
