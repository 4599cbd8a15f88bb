"""Tests what a deploy needs, one thing at a time, and says what to do about each that is not as it should be."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from database import StoreUnavailable
from delivery import CHECK_ID
from khoros_client import EVENT_NAME, Subscription
from outbound import Bearer, ServiceError, Unavailable, new_session, send
from records import span
from store import PARKED
from subscription import NOTIFICATIONS_PATH
from zendesk_client import API_TOKENS_END, SCOPE

if TYPE_CHECKING:
    from app import Relay

OK, NOTE, FAILED = "ok", "note", "failed"
TEST_POST = "relay-test:"  # how the ids of the posts of `send-test` begin
Found = tuple[str, str] | tuple[str, str, str]  # how it went, what was found, and what to do


@dataclass(frozen=True)
class Check:
    """One thing that was tested: how it went, what was found, and what to do about it."""

    name: str
    result: str
    found: str
    to_do: str = ""


def run(relay: Relay) -> Iterator[Check]:
    """Every check in turn; one that fails does not keep the others from being made."""
    for name, check in CHECKS.items():
        try:
            yield Check(name, *check(relay))
        except ServiceError as error:
            yield Check(name, FAILED, str(error), advice(error))
        except StoreUnavailable as error:
            said, _, remedy = str(error).partition("; ")
            yield Check(name, FAILED, said, remedy or CHECK_DATABASE)


def database(relay: Relay) -> Found:
    relay.inbox.prove_writable()
    states = relay.records.by_state()
    kind = "SQLite" if relay.config.database_url.startswith("sqlite") else "PostgreSQL"
    found = f"{kind}, writable; " + ", ".join(f"{count:,} {state}" for state, count in states.items())
    if kind == "SQLite" and relay.config.on_dyno:
        return NOTE, found, "Heroku wipes this disk at each restart: heroku addons:create heroku-postgresql:essential-0"
    if states[PARKED]:
        return NOTE, found, "What is parked needs a person: flask --app app inbox list"
    return OK, found


def khoros_token(relay: Relay) -> Found:
    who, wanted = relay.khoros.whoami(), str(relay.config.company_id)
    listed = who.get("companies")
    companies = listed if isinstance(listed, list) else []
    ids = [str(company.get("id")) for company in companies if isinstance(company, dict)]
    if ids and wanted not in ids:
        found = f"it does not see company {wanted}, but {', '.join(ids)}"
        return FAILED, found, "Correct SPREDFAST_COMPANY_ID, or have the token's user added to the company."
    sees = f"sees company {wanted}" if ids else "may see any company: Khoros does not say"
    return OK, f"it belongs to user {who.get('id', 'without a number')} and {sees}"


def khoros_subscription(relay: Relay) -> Found:
    ours = relay.subscriber.ours(relay.khoros.subscriptions())
    if not ours:
        why = relay.subscriber.connection().detail or "The service subscribes by itself when it runs: start it."
        return FAILED, f"Khoros has none named {relay.config.external_id}", why
    if len(ours) > 1:
        to_do = "Each posts every event. For each: flask --app app subscription delete; then: subscription resume"
        return FAILED, f"{len(ours)} have our name: {' '.join(held.uuid for held in ours)}", to_do
    return _as_it_should_be(ours[0], relay)


def _as_it_should_be(held: Subscription, relay: Relay) -> Found:
    address = "" if relay.config.polling else relay.subscriber.public_url()
    wanted_uri = address and address + NOTIFICATIONS_PATH
    if held.status not in ("ACTIVE", ""):
        return FAILED, f"{held.uuid} is {held.status}", "To go on: flask --app app subscription resume"
    if held.query != relay.config.label.pattern or held.event_name != EVENT_NAME:
        found = f"{held.uuid} hears of {held.event_name}, label {held.query or 'any'}"
    elif (wanted_uri or relay.config.polling) and held.notification_uri != wanted_uri:
        found = f"{held.uuid} posts to {held.notification_uri or 'nowhere'} instead of {wanted_uri or 'nowhere'}"
    else:
        return OK, f"{held.uuid}, active, label {held.query}"
    return FAILED, found, "Restart the service with these variables: it corrects its subscription when it starts."


def label(relay: Relay) -> Found:
    seen = [record for record in relay.records.latest() if not record.entity_id.startswith(TEST_POST)]
    if seen:
        return OK, f"the latest labelled post came in {span(relay.inbox.now() - seen[0].received_at)} ago"
    return (
        NOTE,
        f"no post labelled {relay.config.label.pattern} has come in yet, and Khoros cannot be asked for its labels",
        "Compare SPREDFAST_LABEL_NAME with the label in the Conversations Inbox, letter by letter, and apply it once.",
    )


def public_address(relay: Relay) -> Found:
    """Whether the running service is reached there and takes the token that Khoros was told."""
    if relay.config.polling:
        return OK, "not needed: the service polls"
    address = relay.subscriber.public_url()
    if not address:
        to_do = "Set PUBLIC_URL to the service's own address, or on Heroku open the app once: heroku open"
        return FAILED, "the service does not know its own address", to_do
    try:
        status = notify(relay, address, {"eventName": "relay-check", "eventUuid": str(uuid.uuid4())})
    except Unavailable as error:
        to_do = "Start the service, or correct PUBLIC_URL."
        return FAILED, f"{address}: {error}", advice(error) if CERTIFICATE in str(error) else to_do
    if status == 202:
        return OK, f"{address} answers and takes our token"
    if status == 401:
        to_do = "The service there runs with another NOTIFICATION_BEARER_TOKEN: restart it with this one."
        return FAILED, f"{address} answers, but refuses our token", to_do
    to_do = "Something else answers there, or the service is ill: correct PUBLIC_URL, or look at its log."
    return FAILED, f"{address}{NOTIFICATIONS_PATH} answered {status} instead of 202", to_do


def zendesk_credential(relay: Relay) -> Found:
    """Whether Zendesk takes us for an agent. A token of our scopes may not ask who it is, and is none the worse."""
    relay.zendesk.find_tickets(CHECK_ID)
    try:
        of = f" of an {relay.zendesk.me()}"
    except ServiceError as error:
        if error.status != 403:
            raise
        of = ""
    rate = relay.zendesk.rate
    left = f"; {rate.remaining:,} calls left, renewed in {rate.reset_s:.0f} s" if rate else ""
    if relay.zendesk.uses_api_token:
        return NOTE, f"an API token{of}{left}", f"It stops working on {API_TOKENS_END}: make an OAuth client."
    return OK, f"an OAuth client{of}, granted {SCOPE}{left}"


CHECKS: dict[str, Callable[[Relay], Found]] = {
    "database": database,
    "Khoros access token": khoros_token,
    "Khoros subscription": khoros_subscription,
    "Khoros label": label,
    "public address": public_address,
    "Zendesk credential": zendesk_credential,
}


def notify(relay: Relay, address: str, event: Mapping[str, Any]) -> int:
    """Calls the running service as Khoros does, and gives the status it answers. Raises Unavailable."""
    auth, body = Bearer(relay.config.bearer_tokens[0]), {"companyId": relay.config.company_id, **event}
    return send(new_session(pool_size=1), "POST", address + NOTIFICATIONS_PATH, json=body, auth=auth).status


def advice(error: Exception | str) -> str:
    """What to do about an error that a client or the gate told."""
    known = (to_do for words, to_do in ADVICE.items() if words in str(error))
    return next(known, "Try again in a minute; if it stays, look at that service's status page or ask its support.")


CHECK_DATABASE = "check DATABASE_URL, and that the database is up"
OAUTH_CLIENTS = "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients"
KHOROS_ADDRESS = "Correct KHOROS_API_URL; normally it is not set at all."
ZENDESK_ADDRESS = "Correct ZENDESK_API_URL to the account's own address, like https://acme.zendesk.com."
CERTIFICATE = "(SSLError)"
ADVICE = {
    "Developer Inactive": "Sign in to Khoros as the relay's user, get a new access token, set SPREDFAST_API_TOKEN.",
    "does not allow this application": "Check SPREDFAST_COMPANY_ID; if it is right, ask Khoros support to "
    "enable the token's client id for that company.",
    "refuses SPREDFAST_API_TOKEN": "Copy the access token again from the profile settings in Khoros.",
    "KHOROS_API_URL": KHOROS_ADDRESS,
    "Khoros answered 404": KHOROS_ADDRESS,
    "a web page instead": KHOROS_ADDRESS,
    "Zendesk answered 404": ZENDESK_ADDRESS,
    "Zendesk answered 429": "The account's calls of this minute are used up, by us or others: wait a minute.",
    "ZENDESK_API_URL": ZENDESK_ADDRESS,
    "ZENDESK_CLIENT_ID": f"Copy Identifier and Secret again: {OAUTH_CLIENTS}.",
    "lacks the scope": f"Let the OAuth client have the scopes {SCOPE}: {OAUTH_CLIENTS}.",
    "takes us for": "Use the credentials of an agent who may create and see tickets.",
    "their rights": "Check the Zendesk credentials, and that their agent may create, comment on and see tickets.",
    CERTIFICATE: "Nothing there has a valid certificate for https: renew it, or correct the address.",
    "gave no answer": "Does it run? Check the address for typing errors, and that this machine may reach it.",
}
