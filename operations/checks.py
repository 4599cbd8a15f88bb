"""Tests what a deploy needs, one thing at a time, and says what to do about each problem."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

import log
from destinations.destination import Destination
from destinations.filters import Filter
from events import LABEL_APPLIED, as_list, as_object, read_text
from inbox.database import DatabaseUnavailable
from inbox.gate import OPEN
from inbox.records import Record, span
from inbox.schema import PARKED
from khoros.receive import NOTIFICATIONS_PATH
from khoros.subscription import external_id
from khoros_client import Label, Subscription
from operations.alerts import put_aside
from operations.health import BAD, event_words, level_of, title, unrouted_words
from operations.relay import SQLITE_ON_HEROKU, Relay
from outbound import Bearer, ServiceError, new_session, send

PASSED, NOTED, PROBLEM = "ok", "note", "failed"
REPORT_IT = "Report this line to those who maintain the relay."
TEST_POST = "relay-test:"  # the posts of `send-test` have ids that begin so
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
    for name, run in _all_checks(relay).items():
        try:
            yield Check(name, *run())
        except (ServiceError, DatabaseUnavailable) as error:
            yield Check(name, PROBLEM, *explain(error))
        except Exception as error:
            yield Check(name, PROBLEM, f"the check itself failed: {log.where(error)}", REPORT_IT)


def _all_checks(relay: Relay) -> dict[str, Callable[[], Finding]]:
    subscriptions, labels = cache(relay.khoros.subscriptions), cache(relay.khoros.labels)  # asked for once
    checks: dict[str, Callable[[], Finding]] = {
        "database": partial(check_database, relay),
        "Khoros access token": partial(check_khoros_token, relay),
    }
    for name in relay.routes.queries:
        checks[f"Khoros subscription: {event_words(name)}"] = partial(check_subscription, relay, name, subscriptions)
    for route in relay.routes.routes:
        if LABEL_APPLIED in route.event_names and route.filter:
            checks[f"Khoros label {route.filter.text}"] = partial(check_label, route.filter, labels)
    checks["routes"] = partial(check_routes, relay)
    checks["public address"] = partial(check_public_address, relay)
    return checks | {
        f"{title(one.name)} credential": partial(check_destination, relay, one) for one in relay.destinations
    }


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
    user, wanted = relay.khoros.whoami(), str(relay.config.company_id)
    ids = [read_text(company.get("id")) for company in map(as_object, as_list(user.get("companies")))]
    if ids and wanted not in ids:
        found = f"it does not see company {wanted}, but {', '.join(ids)}"
        return PROBLEM, found, "Correct SPREDFAST_COMPANY_ID, or add the token's user to the company."
    sees = f"sees company {wanted}" if ids else "may see any company: Khoros does not say"
    return PASSED, f"it belongs to user {user.get('id', 'without a number')} and {sees}"


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
        return PROBLEM, f"{ours[0].uuid} {fault}", to_do
    if failed := relay.subscriptions.polls()[event_name].failed:
        return PROBLEM, f"{ours[0].uuid} is active, but missed events cannot be fetched: {failed}", advice(failed)
    return PASSED, f"{ours[0].uuid}, active"


def check_label(wanted: Filter, listed: Callable[[], Sequence[Label]]) -> Finding:
    """Whether Khoros has the label of a route. Khoros may refuse its list of labels: then nobody knows."""
    try:
        labels = listed()
        unknown = "" if labels else "Khoros lists no label"
    except ServiceError as error:
        unknown = str(error)
    if unknown:
        return NOTED, f"unknown: {unknown}", "Compare it with the label in the Conversations Inbox, letter by letter."
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
        return PROBLEM, f"{'; '.join(found)}, where no line leads any more", f"{put_aside(next(iter(abandoned)))}."
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
    address = relay.subscriptions.public_url()
    if not address:
        to_do = "Set PUBLIC_URL to the service's own address, or on Heroku open the app once: heroku open"
        return PROBLEM, "the service does not know its own address", to_do
    status = notify(relay, address, {"eventName": "relay-check", "eventUuid": str(uuid.uuid4())})
    if status == 202:
        return PASSED, f"{address} answers and accepts our token"
    if status == 401:
        to_do = "The service there runs with another NOTIFICATION_BEARER_TOKEN: restart it with this one."
        return PROBLEM, f"{address} answers, but refuses our token", to_do
    to_do = "Another program answers there, or the service has a problem: correct PUBLIC_URL, or look at its log."
    return PROBLEM, f"{address}{NOTIFICATIONS_PATH} answered {status} instead of 202", to_do


def check_destination(relay: Relay, destination: Destination) -> Finding:
    """Whether the destination accepts our credentials, and takes our posts. Raises its ServiceError."""
    found, gate = destination.check(), relay.inbox.gate(destination.name)[0]
    if level_of(gate.state) == BAD:
        return PROBLEM, f"{found}; but {gate.state}: {gate.reason}", advice(gate.reason)
    return (NOTED, found, destination.notice) if destination.notice else (PASSED, found)


def notify(relay: Relay, address: str, event: Mapping[str, Any]) -> int:
    """Calls the running service as Khoros does; returns the answer's status. Raises Unavailable."""
    auth, body = Bearer(relay.config.bearer_tokens[0]), {"companyId": relay.config.company_id, **event}
    return send(new_session(address), "POST", address + NOTIFICATIONS_PATH, json=body, auth=auth).status


def explain(error: ServiceError | DatabaseUnavailable) -> tuple[str, str]:
    """What has failed, and what to do about it."""
    if isinstance(error, ServiceError):
        return str(error), advice(str(error))
    reason, _, remedy = str(error).partition("; ")
    return f"Database: {reason}", remedy or "check DATABASE_URL, and that the database is up"


def advice(reason: str) -> str:
    """What to do about an error of a client, or about a gate's reason."""
    known = (to_do for words, to_do in ADVICE.items() if words in reason)
    if UNUSABLE in reason:
        known = (to_do for service, to_do in ADDRESSES.items() if service in reason)
    return next(known, "Try again in a minute; if it stays, look at that service's status page or ask its support.")


def why_it_waits(relay: Relay, waiting: Sequence[Record], otherwise: str) -> str:
    """Why these items were not delivered yet, and what to do about it: the reasons of the gates that they wait for, or
    else their own."""
    names = [name for name in relay.deliveries if name in {record.destination for record in waiting}]
    gates = [relay.inbox.gate(name)[0] for name in names]
    reasons = [gate.reason for gate in gates if gate.state != OPEN]
    reasons = reasons or [record.reason for record in waiting if record.reason][:1]
    return " ".join(f"{reason}. {advice(reason)}" for reason in reasons) or otherwise


OAUTH_CLIENTS = "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients"
KHOROS_ADDRESS = "Correct KHOROS_API_URL; normally it is not set at all."
ZENDESK_ADDRESS = "Correct ZENDESK_API_URL to the account's own address, like https://acme.zendesk.com."
UNUSABLE = "its address is not usable"
ADDRESSES = {
    "Khoros (": KHOROS_ADDRESS,
    "Zendesk (": ZENDESK_ADDRESS,
    "Slack (": "Correct SLACK_API_URL; normally it is not set at all.",
    "cannot be called": "Correct that address in ROUTES, or PUBLIC_URL.",
}
ADVICE = {
    "refuses this one post": "It is tried again for an hour. To give it up: flask --app app inbox discard ID",
    "Developer Inactive": "Sign in to Khoros as the relay's user, get a new access token, set SPREDFAST_API_TOKEN.",
    "does not allow this application": "Check SPREDFAST_COMPANY_ID; if it is right, ask Khoros support to "
    "enable the token's client id for that company.",
    "refuses SPREDFAST_API_TOKEN": "Copy the access token again from the profile settings in Khoros.",
    "KHOROS_API_URL": KHOROS_ADDRESS,
    "Khoros answered 404": KHOROS_ADDRESS,
    "a web page instead": KHOROS_ADDRESS,
    "no account works": f"Renew the trial or the plan, or correct the address: {ZENDESK_ADDRESS}",
    "then send again": "The relay goes on by itself afterwards.",
    "Zendesk answered 429": "The account's calls of this minute are used up: wait a minute.",
    "ZENDESK_API_URL": ZENDESK_ADDRESS,
    "the OAuth client may not": f"Change that client: {OAUTH_CLIENTS}.",
    "ZENDESK_CLIENT_ID": f"Copy Identifier and Secret again: {OAUTH_CLIENTS}.",
    "lacks the scope": f"Give the OAuth client the scopes tickets:read tickets:write: {OAUTH_CLIENTS}.",
    "takes us for": "Use the credentials of an agent who may create and see tickets.",
    "their rights": "Check the Zendesk credentials, and that their agent may create, comment on and see tickets.",
    "Slack answered": "The relay goes on by itself afterwards.",
    "refuses our signature": "Compare WEBHOOK_SECRET here and at the receiver: docs/webhooks.md.",
    "410 Gone": "Nothing is sent there until then.",
    "redirects are not followed": "Set the address that it redirects to, when that is the receiver's own.",
    "REQUESTS_CA_BUNDLE": "Correct that variable, or remove it.",
    "HTTPS_PROXY": "Correct HTTPS_PROXY, or see whether the proxy works.",
    "copy it again": "Set the variable again, without the character.",
    "certificate is not trusted": "Renew the certificate there, or correct the address.",
    "does not speak https": "Correct the address, and its port.",
    "no such host name": "Check the address for typing errors.",
    "cannot be reached": "Does it run? Check the address for typing errors, and that this machine may reach it.",
}
