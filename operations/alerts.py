"""Alerts people when the service needs them: {"text": …} to a webhook as Slack takes it.

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice

import log
from config import Config
from inbox.facts import Facts, read_tolerantly
from inbox.gate import LIMITED, OPEN, OUTAGE, REFUSING, UNAUTHORISED
from inbox.records import Records
from inbox.schema import PARKED, PENDING
from khoros.address import PublicAddress
from khoros.subscription import FAILED, LOGIN_REFUSED, NO_ADDRESS, PAUSED, WRONG_COMPANY
from operations.health import BAD, KHOROS_MAY_FAIL_S, Health, count_posts
from operations.verdict import ABANDONED, KHOROS, POLL_FAILS, verdicts, why_parked
from outbound import Answer, ServiceError, Unavailable, new_session, send

QUIET_S = 3600.0  # at most one alert per subject in this time
DEPLOY_S = 120.0  # two releases with other ROUTES may run side by side
MENDED_S = 7200.0  # a repaired subscription is reported for this long: longer than QUIET_S
COVERED = math.inf  # `after_s` of what another problem explains
ALERT_TURN_S = 120.0  # longer than one message takes
SUBJECTS_AT_ONCE = 10  # in one message: chat services refuse a very long one
FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
LONGEST_PAUSE_S = 86_400.0  # a webhook that asks for more is called once a day
WEBHOOK_GONE = (404, 410)  # Slack answers so when somebody removed the webhook or its channel
NEW_WEBHOOK = "make a new webhook, set ALERT_WEBHOOK_URL and restart the service"
LOST_EVENTS = (
    "A subscription was gone, changed or disabled in Khoros; the relay has repaired it. "
    "What happened in the hour before may be missing: label those posts again."
)
SendText = Callable[[str, str], Answer]
News = dict[str, tuple[str, "Alerted"]]  # by subject: the text to send, which may be empty, and what people know then


@dataclass(frozen=True)
class Problem:
    """A reason to alert people. The alert is sent when the problem has lasted `after_s` seconds, and again every hour
    while it lasts or, when it has a `level`, only when this has risen. When a problem that `lasts` is over, that is
    said too. `state` is that of the items to look at, "" for none."""

    text: str
    level: int = 0
    after_s: float = 0.0
    lasts: bool = True
    state: str = ""


@dataclass(frozen=True)
class Alerted:
    """What people know about a subject: since when there is a problem (None: there is none), when the last alert was
    sent, its level, and the message that says it is over, "" for none."""

    since: float | None = None
    sent_at: float | None = None
    level: int = 0
    well: str = ""


def find_problems(health: Health, *, refetches: bool = False) -> dict[str, Problem]:
    """The present problems by subject, one for each cause, in the words of the pages. `refetches` is that of
    `verdicts`."""
    found: dict[str, Problem] = {}
    for one in verdicts(health, refetches=refetches):
        text = " ".join(filter(None, (one.sentence, one.reason and f"{one.reason.rstrip('.')}.", one.to_do)))
        refused = one.state in (LOGIN_REFUSED, WRONG_COMPANY)
        if refused or one.state in (FAILED, NO_ADDRESS) or (one.state == POLL_FAILS and one.level == BAD):
            before, after_s = found.get(KHOROS), 0.0 if refused or one.state == POLL_FAILS else KHOROS_MAY_FAIL_S
            found[KHOROS] = Problem(f"{before.text} {text}" if before else text, after_s=after_s)
        elif one.state == PAUSED:
            found["khoros_paused"] = Problem(text, level=1)
        elif one.state in (UNAUTHORISED, REFUSING):
            alike = re.sub(r"[\w-]*\d[\w-]*", "#", one.reason)[:80]  # a status or an id may differ each time
            found.setdefault(f"refusal: {alike}", Problem(text))  # several Slack channels share one token
        elif one.state in (OUTAGE, LIMITED, OPEN) and one.about in health.late:
            gate = health.gates[one.about]  # after an opening it takes a while to deliver what has waited
            if gate.state != OPEN or not 0 <= health.now - gate.held_at < health.late_s:
                found.setdefault(_waiting_for(one.about), Problem(text, state=PENDING))
        elif one.state == ABANDONED:
            found[f"{one.about}_abandoned"] = Problem(text, after_s=DEPLOY_S)
    if not {KHOROS, "khoros_paused"} & found.keys() and health.now - MENDED_S < health.mended_at <= health.now:
        found["lost_events"] = Problem(LOST_EVENTS, level=int(health.mended_at), lasts=False)
    for name in health.late:  # what is not alerted above for another cause is not over either
        found.setdefault(_waiting_for(name), Problem("", after_s=COVERED))
    for name, counts in health.waiting.items():
        if counts.parked and name not in health.abandoned:
            text = f"{count_posts(counts.parked)} attention: {why_parked(name, counts.parked)}."
            found[f"{name}_parked"] = Problem(text, level=counts.parked, state=PARKED)
        elif name in health.gates and health.gates[name].state == REFUSING:  # then what was parked waits again
            found[f"{name}_parked"] = Problem("", after_s=COVERED)
    return found


def _waiting_for(name: str) -> str:
    """The subject of a delay: one for all Slack channels, one for each web address."""
    return f"{name if name.startswith('webhook:') else name.partition(':')[0]}_waiting"


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
    quiet = before.sent_at is not None and 0 <= now - before.sent_at < QUIET_S
    if problem is None:
        return before.well, Alerted(sent_at=before.sent_at if quiet else None)
    since = now if before.since is None else min(before.since, now)  # the clock may have been set back
    after = replace(before, since=since, level=min(before.level, problem.level))
    if quiet or now - since < problem.after_s or 0 < problem.level <= after.level:
        return "", after
    well = f"Over: {problem.text.partition('. ')[0].rstrip('.')}." if problem.lasts else ""
    return problem.text, Alerted(since, now, problem.level, well)


def post_text(url: str, text: str) -> Answer:
    """Sends one message. Raises Unavailable when no answer comes."""
    return send(new_session(url), "POST", url, service="ALERT_WEBHOOK_URL", json={"text": text})


def send_alert(config: Config, text: str, post: SendText = post_text) -> None:
    """Sends one message with the service's name before it. Raises Unavailable when ALERT_WEBHOOK_URL does not take
    it."""
    name = f"Khoros to Zendesk relay ({config.public_url or config.external_id})"
    answer = post(config.alert_url, f"{name}: {text}")
    if not 200 <= answer.status < 300:
        reason = f"ALERT_WEBHOOK_URL answered {answer.status}"
        raise Unavailable(reason, status=answer.status, retry_after_s=answer.retry_after_s)


class Alerts:
    """Sends the alerts that are due. Processes take turns. While the webhook fails it is called less and less often."""

    def __init__(
        self,
        config: Config,
        facts: Facts,
        records: Records,
        look: Callable[[], Health],
        post: SendText = post_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._facts, self._records = config, facts, records
        self._look, self._post, self._clock = look, post, clock
        self._address = PublicAddress(config, facts)
        self._failures, self._next_at = 0, 0.0 if config.alert_url else math.inf

    def step(self) -> None:
        """Sends what is due, in one message. Raises DatabaseUnavailable."""
        if self._clock() < self._next_at or not self._news()[0]:
            return
        if not self._facts.take_turn("alerting", ALERT_TURN_S):
            return
        try:
            news, known = self._news()  # read again: another process may have sent them meanwhile
            if texts := [text for text, _ in news.values() if text]:
                send_alert(self._config, "\n".join(texts), self._post)
            for subject in (subject for subject, (text, _) in news.items() if text):
                log.info("alerted", subject=subject)
            known |= {subject: after for subject, (_, after) in news.items()}
            kept = {subject: asdict(state) for subject, state in known.items() if state != Alerted()}
            self._facts.remember("alerts", json.dumps(kept))
            self._failures = 0
        except ServiceError as error:
            self._back_off(error)
        finally:
            self._facts.end_turn("alerting")

    def _news(self) -> tuple[News, dict[str, Alerted]]:
        """What has changed, for one message, and what people know."""
        health = self._look()
        kept = json.loads(self._facts.recall("alerts") or "{}")
        known = {subject: read_tolerantly(json.dumps(state), Alerted) for subject, state in kept.items()}
        only = {(PARKED, name): f"{name}_parked" for name, counts in health.waiting.items() if counts.parked == 1}
        if health.counts.pending == 1:
            only |= {(PENDING, name): _waiting_for(name) for name in health.late}
        posts = {}
        for (state, name), subject in only.items():
            for one in self._records.latest(state, 1, name):
                words = ": ".join(filter(None, (one.subject_id, one.reason)))
                posts[subject] = f" {re.sub('[<>&]', ' ', words)}."  # Slack would read them as markup
        refetches = self._config.polling or bool(self._config.catch_up_s)
        problems = {
            subject: replace(problem, text=f"{problem.text}{posts.get(subject, '')} {self._see(problem.state)}")
            for subject, problem in find_problems(health, refetches=refetches).items()
        }
        return dict(islice(find_news(problems, known, health.now).items(), SUBJECTS_AT_ONCE)), known

    def _see(self, state: str) -> str:
        """Where a person sees more."""
        if not (address := self._address.url()):
            return "Find out more with: flask --app app check"
        off = "" if self._config.status_password else " (set STATUS_PASSWORD to switch this page on)"
        return f"{address}/status{state and f'?state={state}'}{off}"

    def _back_off(self, error: ServiceError) -> None:
        if error.status in WEBHOOK_GONE:
            log.error("alerts_off", reason=f"{error}: no alert is sent any more; {NEW_WEBHOOK}")
            self._next_at = math.inf
            return
        wait_s = min(FIRST_RETRY_S * 2.0 ** min(self._failures, 20), LONGEST_RETRY_S)
        wait_s = max(wait_s, min(error.retry_after_s or 0.0, LONGEST_PAUSE_S))
        self._failures, self._next_at = self._failures + 1, self._clock() + wait_s
        log.warning("alert_failed", reason=error, retry_s=round(wait_s))
