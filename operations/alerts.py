"""Alerts people when the service needs them: {"text": …} to a webhook as Slack takes it.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import log
from config import Config
from inbox.facts import Facts, read_tolerantly
from inbox.gate import OPEN, REFUSING, UNAUTHORISED, Gate
from inbox.items import Counts
from khoros.subscription import FAILED, LOGIN_REFUSED, NO_ADDRESS, PAUSED
from operations.health import Health, event_words, title
from outbound import Answer, ServiceError, Unavailable, new_session, send

QUIET_S = 3600.0  # at most one message per subject in this time
KHOROS_MAY_FAIL_S = 120.0
DEPLOY_S = 120.0  # two releases with other ROUTES may run side by side
MENDED_S = 7200.0  # a repaired subscription is reported for this long: longer than QUIET_S
ALERT_TURN_S = 120.0  # longer than the messages of one step take
FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
LONGEST_PAUSE_S = 86_400.0  # a webhook that asks for more is called once a day
MORE = "Find out more with: flask --app app check"
SEE_WHY = "See why with: flask --app app inbox list"
NO_MORE_ALERTS = "no alert is sent any more; make a new webhook, set ALERT_WEBHOOK_URL and restart the service"
LOST_EVENTS = (
    "A subscription was gone, changed or disabled in Khoros; the relay has repaired it. "
    "What happened in the hour before may be missing: label those posts again."
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


def find_problems(health: Health) -> dict[str, Problem]:
    """The present problems by subject: each destination and each subscription has its own."""
    found = _khoros_problems(health)
    for name, counts in health.waiting.items():
        if counts.parked:
            why = f"{title(name)} refused it" if name else "what Khoros sent cannot be read"
            well = f"No post for {title(name)} needs attention any more." if name else "All that arrived is read."
            text = f"{count_posts(counts.parked)} attention: {why}. {SEE_WHY}"
            found[f"{name}_parked"] = Problem(text, well, level=counts.parked)
    for name, gate in health.gates.items():
        if gate.state in (UNAUTHORISED, REFUSING):
            well = f"{title(name)} accepts the relay's calls again."
            found[f"{name}_credentials"] = Problem(f"{gate.reason}. {MORE}", well)
        if name in health.late:
            found[f"{name}_waiting"] = _waiting_problem(name, gate, health.of(name))
    for name, counts in health.abandoned.items():
        wait = f"{count_posts(counts.pending + counts.parked, 'wait')} for {title(name)}"
        text = f"{wait}, but no line of ROUTES leads there any more. {put_aside(name)}"
        found[f"{name}_abandoned"] = Problem(text, f"No post waits for {title(name)} any more.", after_s=DEPLOY_S)
    return found


def put_aside(name: str) -> str:
    """What to do about the items of a destination that no line of ROUTES names."""
    listed = f"flask --app app inbox list --state all --destination {shlex.quote(name)}"
    return f"Add its line again, or list them and give them up: {listed}; flask --app app inbox discard ITEM"


def _waiting_problem(name: str, gate: Gate, counts: Counts) -> Problem:
    wait = f"{count_posts(counts.pending, 'wait')} for {title(name)}"
    why = f"{gate.state}. {gate.reason}".strip(". ") if gate.state != OPEN else f"{SEE_WHY} --state pending"
    minutes = (counts.oldest_pending_s or 0.0) / 60
    text = f"{wait}, the oldest for {minutes:.0f} minutes. {why}. Nothing is lost: the relay keeps trying."
    return Problem(text, f"Posts no longer wait for {title(name)}: they are delivered again.")


def _khoros_problems(health: Health) -> dict[str, Problem]:
    found = {}
    for name, status in health.subscriptions.items():
        well = f"The relay is subscribed in Khoros to {event_words(name)}."
        if status.state == LOGIN_REFUSED:
            accepts = "Khoros accepts the relay's access token again."
            found["khoros_credentials"] = Problem(f"{status.detail}. {MORE}", accepts)
        elif status.state in (FAILED, NO_ADDRESS):
            text = f"The relay is not subscribed in Khoros to {event_words(name)}: {status.detail}."
            found[f"{name}_subscription"] = Problem(text, well, after_s=KHOROS_MAY_FAIL_S)
        elif status.state == PAUSED:
            text = f"Khoros does not deliver {event_words(name)}: {status.detail}."
            found[f"{name}_subscription"] = Problem(text, well, level=1)
    for name, poll in health.failing_polls.items():
        if health.subscriptions[name].state == FAILED:  # for this reason, where we only poll
            continue
        text = f"Missed {event_words(name)} cannot be fetched from Khoros: {poll.failed}. {MORE}"
        found[f"{name}_polling"] = Problem(text, "Missed events can be fetched again.", after_s=KHOROS_MAY_FAIL_S)
    if not found and health.now - MENDED_S < health.mended_at <= health.now:
        found["lost_events"] = Problem(LOST_EVENTS, level=int(health.mended_at))
    return found


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
        facts: Facts,
        look: Callable[[], Health],
        post: SendText = post_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._facts, self._look, self._post, self._clock = config.alert_url, facts, look, post, clock
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
        health = self._look()
        kept = json.loads(self._facts.recall("alerts") or "{}")
        known = {subject: read_tolerantly(json.dumps(state), Alerted) for subject, state in kept.items()}
        return known, find_news(find_problems(health), known, health.now)

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
