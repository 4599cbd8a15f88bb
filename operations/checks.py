"""Tests what a deploy needs, one thing at a time, and says what to do about each problem."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from textwrap import shorten
from typing import Any, TypeVar

import log
from destinations.destination import Destination
from destinations.filters import Filter
from events import LABEL_APPLIED
from inbox.database import DatabaseUnavailable
from inbox.gate import OPEN
from inbox.records import Record, span
from inbox.schema import PARKED
from khoros.receive import NOTIFICATIONS_PATH
from khoros.subscription import external_id
from khoros_client import KhorosClient, Label, Subscription
from operations.advice import SET_COMPANY, advice
from operations.alerts import send_alert
from operations.health import BAD, event_words, level_of, title, unrouted_words
from operations.relay import SQLITE_ON_HEROKU, Relay
from outbound import Bearer, Rejected, ServiceError, new_session, send

PASSED, NOTED, PROBLEM = "ok", "note", "failed"
LONGEST_FAULT = 160  # a query may be a regular expression of six lines, which tells a reader nothing
REPORT_IT = "Report this line to those who maintain the relay."
COMPARE = "Compare it with the label in the Conversations Inbox, letter by letter."
TEST_POST = "relay-test:"  # the posts of `send-test` have ids that begin so
T = TypeVar("T")
Finding = tuple[str, str] | tuple[str, str, str]  # the result, what was found, and what to do


@dataclass(frozen=True)
class Check:
    """One thing that was tested: its result, what was found, and what to do about it."""

    name: str
    result: str
    found: str
    to_do: str = ""


def run_checks(relay: Relay) -> Iterator[Check]:
    """Every check in turn. One that fails does not stop the others."""
    for name, run in _all_checks(relay):
        try:
            yield Check(name, *run())
        except (ServiceError, DatabaseUnavailable) as error:
            yield Check(name, PROBLEM, *explain(error))
        except Exception as error:
            yield Check(name, PROBLEM, f"the check itself failed: {log.where(error)}", REPORT_IT)


def _all_checks(relay: Relay) -> Iterator[tuple[str, Callable[[], Finding]]]:
    ask = partial(_of_company, relay.khoros)
    subscriptions, labels = cache(partial(ask, relay.khoros.subscriptions)), cache(partial(ask, relay.khoros.labels))
    yield "database", partial(check_database, relay)
    yield "Khoros access token", partial(check_khoros_token, relay)
    wanted = [one.filter for one in relay.routes.routes if LABEL_APPLIED in one.event_names and one.filter]
    for label in dict.fromkeys(wanted):
        yield f"Khoros label {label.text}", partial(check_label, label, labels)
    for name in relay.routes.queries:  # after the labels: a misspelt one makes its subscription wrong too
        yield f"Khoros subscription: {event_words(name)}", partial(check_subscription, relay, name, subscriptions)
    yield "routes", partial(check_routes, relay)
    yield "public address", partial(check_public_address, relay)
    for destination in relay.destinations:
        yield f"{title(destination.name)} credential", partial(check_destination, relay, destination)
    yield "alerts", partial(check_alerts, relay)


def _of_company(khoros: KhorosClient, ask: Callable[[], T]) -> T:
    """What Khoros lists of our company. Raises WrongCompany or another ServiceError."""
    try:
        return ask()
    except ServiceError as error:
        raise khoros.explain(error) from error


def check_database(relay: Relay) -> Finding:
    relay.inbox.check_writable()
    states = relay.records.by_state()
    kind = "SQLite" if relay.config.database_url.startswith("sqlite") else "PostgreSQL"
    found = f"{kind}, writable; " + ", ".join(f"{count:,} {state}" for state, count in states.items())
    if relay.loses_data:
        return NOTED, found, SQLITE_ON_HEROKU
    if states[PARKED]:
        return NOTED, found, "Parked items need attention: flask --app app inbox list"
    return PASSED, found


def check_khoros_token(relay: Relay) -> Finding:
    companies, wanted = relay.khoros.companies(), str(relay.config.company_id)
    known = {company.id: company.name for company in companies}
    if known and wanted not in known:
        listed = ", ".join(f"{number} ({name})" for number, name in known.items())
        return PROBLEM, f"it does not see company {wanted}, but {listed}", SET_COMPANY
    sees = f"sees company {wanted} ({known[wanted]})" if known else "may see any company: Khoros does not say"
    return PASSED, f"it works and {sees}"


def check_subscription(relay: Relay, event_name: str, listed: Callable[[], Sequence[Subscription]]) -> Finding:
    """Whether Khoros has our one subscription to these events, as we want it, and its polls work."""
    ours = [one for one in relay.subscriptions.ours(listed()) if relay.subscriptions.event_name_of(one) == event_name]
    name = external_id(relay.config, event_name)
    if not ours:
        to_do = relay.subscriptions.statuses()[event_name].detail
        return PROBLEM, f"Khoros has none named {name}", to_do or "The service subscribes when it runs: start it."
    if len(ours) > 1:
        to_do = "Each posts every event. For each: flask --app app subscription delete; then: subscription resume"
        return PROBLEM, f"{len(ours)} have our name: {' '.join(one.uuid for one in ours)}", to_do
    if ours[0].status not in ("ACTIVE", ""):
        return PROBLEM, f"{ours[0].uuid} is {ours[0].status}", "To go on: flask --app app subscription resume"
    if fault := relay.subscriptions.fault(ours[0]):
        to_do = "Restart the service with these variables: it corrects its subscription when it starts."
        return PROBLEM, f"{ours[0].uuid} {shorten(fault, LONGEST_FAULT, placeholder='…')}", to_do
    if failed := relay.subscriptions.polls()[event_name].failed:
        return PROBLEM, f"{ours[0].uuid} is active, but missed events cannot be fetched: {failed}", advice(failed)
    return PASSED, f"{ours[0].uuid}, active"


def check_label(wanted: Filter, listed: Callable[[], Sequence[Label]]) -> Finding:
    """Whether Khoros has the label of a route. Khoros may refuse its list of labels: then nobody knows."""
    try:
        labels = listed()
    except ServiceError as error:
        only_the_list = isinstance(error, Rejected) or error.status == 403
        return NOTED, f"unknown: {error}", COMPARE if only_the_list else ""
    if not labels:
        return NOTED, "unknown: Khoros lists no label", COMPARE
    fitting = [label for label in labels if wanted.fits(label.name)]
    if any(label.active for label in fitting):
        return PASSED, "an active label in Khoros: " + ", ".join(sorted({one.name for one in fitting if one.active}))
    if fitting:
        return PROBLEM, f"{fitting[0].name} is not active in Khoros", "Activate it in Khoros, or name another label."
    near = get_close_matches(wanted.text, [label.name for label in labels if label.active], n=1)
    to_do = f"Did you mean {near[0]}? " if near else ""
    return PROBLEM, "Khoros has no such label", f"{to_do}Correct SPREDFAST_LABEL_NAME or ROUTES, or make the label."


def check_routes(relay: Relay) -> Finding:
    """Whether something waits for a destination without a route, and what arrives."""
    if abandoned := relay.look().abandoned:
        found = [f"{one.pending:,} pending and {one.parked:,} parked for {name}" for name, one in abandoned.items()]
        listed = f"inbox list --state all --destination {shlex.quote(next(iter(abandoned)))}"
        to_do = f"Add its line again, or list them and give them up: flask --app app {listed}; inbox discard ITEM"
        return PROBLEM, f"{'; '.join(found)}, where no line leads any more", to_do
    if words := relay.unrouted.recent():
        to_do = "Nothing is made of these. If one should go somewhere, correct the name in ROUTES."
        return NOTED, "; ".join(map(unrouted_words, words[:3])), to_do
    seen = [record for record in relay.records.latest() if TEST_POST not in record.subject_id]
    if seen:
        return PASSED, f"the latest event arrived {span(relay.inbox.now() - seen[0].received_at)} ago"
    return NOTED, "no event has arrived yet", "Apply a label of a route once in the Conversations Inbox."


def check_public_address(relay: Relay) -> Finding:
    """Whether the running service answers there and accepts the token that Khoros has."""
    if relay.config.polling:
        return PASSED, "not needed: the service polls"
    if not relay.subscriptions.public_url():
        to_do = "Open the service once in a browser, with its own https address, or set PUBLIC_URL to it."
        return PROBLEM, "the service does not know its own address", to_do
    # Of no company: this event is nobody's, and not counted among those that no line wants.
    return call_service(relay, {"eventName": "relay-check", "eventUuid": str(uuid.uuid4()), "companyId": 0})


def call_service(relay: Relay, event: Mapping[str, Any]) -> Finding:
    """Calls the running service as Khoros does. Raises Unavailable."""
    address, auth = relay.subscriptions.public_url(), Bearer(relay.config.bearer_tokens[0])
    url, body = address + NOTIFICATIONS_PATH, {"companyId": relay.config.company_id, **event}
    status = send(new_session(url), "POST", url, service="This service", json=body, auth=auth).status
    if status == 202:
        return PASSED, f"{address} answers and accepts our token"
    if status == 401:
        to_do = "The service there runs with another NOTIFICATION_BEARER_TOKEN: restart it with this one."
        return PROBLEM, f"{address} answers, but refuses our token", to_do
    to_do = "Another program answers there, or the service has a problem: correct PUBLIC_URL, or look at its log."
    return PROBLEM, f"{url} answered {status} instead of 202", to_do


def check_destination(relay: Relay, destination: Destination) -> Finding:
    """Whether the destination accepts our credentials, and takes our posts. Raises its ServiceError."""
    found, gate = destination.check(), relay.inbox.gate(destination.name)[0]
    if level_of(gate.state) == BAD:
        return PROBLEM, f"{found}; but {gate.state}: {gate.reason}", advice(gate.reason)
    return (NOTED, found, destination.notice) if destination.notice else (PASSED, found)


def check_alerts(relay: Relay) -> Finding:
    """Whether ALERT_WEBHOOK_URL takes a test message. Raises Unavailable."""
    if not relay.config.alert_url:
        return NOTED, "off: nobody is told when posts wait", "Set ALERT_WEBHOOK_URL to a Slack incoming webhook."
    send_alert(relay.config, "this is a test by the command check. Alerts arrive here.")
    return PASSED, "a test message was sent"


def explain(error: ServiceError | DatabaseUnavailable) -> tuple[str, str]:
    """What has failed, and what to do about it."""
    if isinstance(error, ServiceError):
        return str(error), advice(str(error))
    reason, _, remedy = str(error).partition("; ")
    return f"Database: {reason}", remedy or "check DATABASE_URL, and that the database is up"


def why_it_waits(relay: Relay, waiting: Sequence[Record], otherwise: str) -> str:
    """Why these items were not delivered yet, and what to do about it: the reasons of the gates that they wait for, or
    else their own."""
    names = [name for name in relay.deliveries if name in {record.destination for record in waiting}]
    gates = [relay.inbox.gate(name)[0] for name in names]
    reasons = [gate.reason for gate in gates if gate.state != OPEN]
    reasons = reasons or [record.reason for record in waiting if record.reason][:1]
    return " ".join(f"{reason}. {advice(reason)}" for reason in reasons) or otherwise
