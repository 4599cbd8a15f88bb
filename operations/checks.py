"""Tests what a deploy needs, one thing at a time, and says what to do about each problem."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from destinations.destination import Destination
from events import as_list, as_object, read_text
from inbox.database import DatabaseUnavailable
from inbox.records import span
from inbox.schema import PARKED
from khoros.receive import NOTIFICATIONS_PATH
from operations.health import title
from operations.relay import SQLITE_ON_HEROKU, Relay
from outbound import Bearer, ServiceError, new_session, send

PASSED, NOTED, PROBLEM = "ok", "note", "failed"
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
    checks = {name: partial(run, relay) for name, run in CHECKS.items()}
    checks |= {f"{title(one.name)} credential": partial(check_destination, one) for one in relay.destinations}
    for name, run in checks.items():
        try:
            yield Check(name, *run())
        except (ServiceError, DatabaseUnavailable) as error:
            yield Check(name, PROBLEM, *explain(error))


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


def check_subscription(relay: Relay) -> Finding:
    ours = relay.subscriber.ours(relay.khoros.subscriptions())
    if not ours:
        to_do = relay.subscriber.status().detail or "The service subscribes by itself when it runs: start it."
        return PROBLEM, f"Khoros has none named {relay.config.external_id}", to_do
    if len(ours) > 1:
        to_do = "Each posts every event. For each: flask --app app subscription delete; then: subscription resume"
        return PROBLEM, f"{len(ours)} have our name: {' '.join(one.uuid for one in ours)}", to_do
    if ours[0].status not in ("ACTIVE", ""):
        return PROBLEM, f"{ours[0].uuid} is {ours[0].status}", "To go on: flask --app app subscription resume"
    if fault := relay.subscriber.fault(ours[0]):
        to_do = "Restart the service with these variables: it corrects its subscription when it starts."
        return PROBLEM, f"{ours[0].uuid} {fault}", to_do
    return PASSED, f"{ours[0].uuid}, active, label {relay.config.label.pattern}"


def check_label(relay: Relay) -> Finding:
    seen = [record for record in relay.records.latest() if not record.subject_id.startswith(TEST_POST)]
    if seen:
        return PASSED, f"the latest labelled post arrived {span(relay.inbox.now() - seen[0].received_at)} ago"
    found = f"no post labelled {relay.config.label.pattern} has arrived yet, and Khoros has no list of its labels"
    to_do = (
        "Compare SPREDFAST_LABEL_NAME with the label in the Conversations Inbox, letter by letter, and apply it once."
    )
    return NOTED, found, to_do


def check_public_address(relay: Relay) -> Finding:
    """Whether the running service answers there and accepts the token that Khoros has."""
    if relay.config.polling:
        return PASSED, "not needed: the service polls"
    address = relay.subscriber.public_url()
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


def check_destination(destination: Destination) -> Finding:
    """Whether the destination accepts our credentials; raises its ServiceError."""
    found = destination.check()
    return (NOTED, found, destination.notice) if destination.notice else (PASSED, found)


CHECKS: dict[str, Callable[[Relay], Finding]] = {
    "database": check_database,
    "Khoros access token": check_khoros_token,
    "Khoros subscription": check_subscription,
    "Khoros label": check_label,
    "public address": check_public_address,
}


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
    return next(known, "Try again in a minute; if it stays, look at that service's status page or ask its support.")


OAUTH_CLIENTS = "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients"
KHOROS_ADDRESS = "Correct KHOROS_API_URL; normally it is not set at all."
ZENDESK_ADDRESS = "Correct ZENDESK_API_URL to the account's own address, like https://acme.zendesk.com."
ADVICE = {
    "Developer Inactive": "Sign in to Khoros as the relay's user, get a new access token, set SPREDFAST_API_TOKEN.",
    "does not allow this application": "Check SPREDFAST_COMPANY_ID; if it is right, ask Khoros support to "
    "enable the token's client id for that company.",
    "refuses SPREDFAST_API_TOKEN": "Copy the access token again from the profile settings in Khoros.",
    "KHOROS_API_URL": KHOROS_ADDRESS,
    "Khoros answered 404": KHOROS_ADDRESS,
    "a web page instead": KHOROS_ADDRESS,
    "Zendesk answered 404": ZENDESK_ADDRESS,
    "Zendesk answered 429": "The account's calls of this minute are used up: wait a minute.",
    "ZENDESK_API_URL": ZENDESK_ADDRESS,
    "ZENDESK_CLIENT_ID": f"Copy Identifier and Secret again: {OAUTH_CLIENTS}.",
    "lacks the scope": f"Give the OAuth client the scopes tickets:read tickets:write: {OAUTH_CLIENTS}.",
    "takes us for": "Use the credentials of an agent who may create and see tickets.",
    "their rights": "Check the Zendesk credentials, and that their agent may create, comment on and see tickets.",
    "(SSLError)": "Nothing there has a valid certificate for https: renew it, or correct the address.",
    "gave no answer": "Does it run? Check the address for typing errors, and that this machine may reach it.",
}
