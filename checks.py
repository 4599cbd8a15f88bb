"""Tests what a deploy needs, one thing at a time, and says what to do about each that is not as it should be."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from delivery import CHECK_ID
from khoros_client import EVENT_NAME, Subscription
from outbound import Bearer, ServiceError, new_session, send
from store import StoreUnavailable
from subscription import NOTIFICATIONS_PATH
from zendesk_client import API_TOKENS_END, SCOPE

if TYPE_CHECKING:
    from app import Relay

OK, NOTE, FAILED = "ok", "note", "failed"
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
        except StoreUnavailable as error:
            yield Check(name, FAILED, str(error), "Check DATABASE_URL, and that the database is up and has room.")
        except ServiceError as error:
            yield Check(name, FAILED, f"{error}.", _advice(error))


def database(relay: Relay) -> Found:
    relay.inbox.prove_writable()
    states = relay.records.by_state()
    kind = "SQLite" if relay.config.database_url.startswith("sqlite") else "PostgreSQL"
    found = f"{kind}, writable; " + ", ".join(f"{count:,} {state}" for state, count in states.items())
    if kind == "SQLite" and relay.config.on_dyno:
        return NOTE, found, "Heroku wipes this disk at each restart: heroku addons:create heroku-postgresql:essential-0"
    return OK, found


def khoros_token(relay: Relay) -> Found:
    who = relay.khoros.whoami()
    return OK, f"it belongs to user {who.get('id', 'without a number')}"


def khoros_company(relay: Relay) -> Found:
    listed = relay.khoros.whoami().get("companies")
    companies = listed if isinstance(listed, list) else []
    ids = [str(company.get("id")) for company in companies if isinstance(company, dict)]
    wanted = str(relay.config.company_id)
    if not ids:
        return NOTE, "Khoros does not say which companies the token sees"
    if wanted not in ids:
        found = f"the token does not see company {wanted}; it sees {', '.join(ids)}"
        return FAILED, found, "Correct SPREDFAST_COMPANY_ID, or have the token's user added to the company."
    return OK, f"the token sees company {wanted}"


def khoros_subscription(relay: Relay) -> Found:
    ours = relay.subscriber.ours(relay.khoros.subscriptions())
    if not ours:
        found = f"Khoros has none named {relay.config.external_id}"
        return FAILED, found, "Start the service, it subscribes by itself; its log says event=subscribed."
    if len(ours) > 1:
        uuids = " ".join(held.uuid for held in ours)
        return FAILED, f"{len(ours)} have our name: {uuids}", "Each posts every event: delete all but one in Khoros."
    return _as_it_should_be(ours[0], relay)


def _as_it_should_be(held: Subscription, relay: Relay) -> Found:
    wanted_uri = "" if relay.config.polling else relay.subscriber.public_url() + NOTIFICATIONS_PATH
    if held.status not in ("ACTIVE", ""):
        return FAILED, f"{held.uuid} is {held.status}", "To go on: flask --app app subscription resume"
    if held.query != relay.config.label.pattern or held.event_name != EVENT_NAME:
        found = f"{held.uuid} hears of {held.event_name}, label {held.query or 'any'}"
        return FAILED, found, "Restart the service: it corrects its subscription when it starts."
    if wanted_uri != NOTIFICATIONS_PATH and held.notification_uri != wanted_uri:
        found = f"{held.uuid} posts to {held.notification_uri or 'nowhere'} instead of {wanted_uri or 'nowhere'}"
        return FAILED, found, "Restart the service: it corrects its subscription when it starts."
    return OK, f"{held.uuid}, active, label {held.query}"


def label(relay: Relay) -> Found:
    pattern, seen = relay.config.label.pattern, relay.records.latest(most=1)
    if seen:
        return OK, f"posts with the label {pattern} have come in"
    return (
        NOTE,
        f"no post with the label {pattern} has come in yet; Khoros has no call that tells whether a label exists",
        "Compare SPREDFAST_LABEL_NAME with the label in the Conversations Inbox, letter by letter, then apply it once.",
    )


def public_address(relay: Relay) -> Found:
    """Whether the running service is reached there and takes the token that Khoros was told."""
    if relay.config.polling:
        return OK, "not needed: the service polls"
    address = relay.subscriber.public_url()
    if not address:
        to_do = "Set PUBLIC_URL to the service's own address, or on Heroku open the app once: heroku open"
        return FAILED, "the service does not know its own address", to_do
    status = notify(relay, address, {"eventName": "relay-check", "eventUuid": str(uuid.uuid4())})
    if status == 202:
        return OK, f"{address} answers and takes our token"
    if status == 401:
        to_do = "The service there runs with another NOTIFICATION_BEARER_TOKEN: restart it with this one."
        return FAILED, f"{address} answers, but refuses our token", to_do
    to_do = "Something else answers there, or the service does not run: correct PUBLIC_URL, or look at its log."
    return FAILED, f"{address}{NOTIFICATIONS_PATH} answered {status}", to_do


def zendesk_credential(relay: Relay) -> Found:
    """Whether Zendesk takes us for an agent. A token of our scopes may not ask who it is, and is none the worse."""
    relay.zendesk.find_tickets(CHECK_ID)
    try:
        role = relay.zendesk.me()
    except ServiceError as error:
        if error.status != 403:
            raise
        role = ""
    if relay.zendesk.uses_api_token:
        return NOTE, f"an API token of an {role}", f"It stops working on {API_TOKENS_END}: make an OAuth client."
    return OK, f"an OAuth client{f' of an {role}' if role else ''}, granted {SCOPE}"


def zendesk_limit(relay: Relay) -> Found:
    rate = relay.zendesk.rate
    if rate is None:
        return NOTE, "Zendesk did not say what is left of its rate limit"
    return OK, f"{rate.remaining:,} calls left, renewed in {rate.reset_s:.0f} s"


CHECKS: dict[str, Callable[[Relay], Found]] = {
    "database": database,
    "Khoros: access token": khoros_token,
    "Khoros: company": khoros_company,
    "Khoros: subscription": khoros_subscription,
    "Khoros: label": label,
    "public address": public_address,
    "Zendesk: credential": zendesk_credential,
    "Zendesk: rate limit": zendesk_limit,
}


def notify(relay: Relay, address: str, event: Mapping[str, Any]) -> int:
    """Calls the running service as Khoros does, and gives the status it answers. Raises Unavailable."""
    auth, body = Bearer(relay.config.bearer_tokens[0]), {"companyId": relay.config.company_id, **event}
    return send(new_session(pool_size=1), "POST", address + NOTIFICATIONS_PATH, json=body, auth=auth).status


def _advice(error: ServiceError) -> str:
    known = (advice for words, advice in ADVICE.items() if words in str(error))
    return next(known, "Try again in a minute; if it stays, the service's status page or its support can tell more.")


OAUTH_CLIENTS = "Zendesk Admin Center > Apps and integrations > APIs > OAuth clients"
ADVICE = {
    "Developer Inactive": "Sign in to Khoros as the relay's user, get a new access token, set SPREDFAST_API_TOKEN.",
    "does not allow this application": "Ask Khoros support to enable the token's client id for SPREDFAST_COMPANY_ID.",
    "refuses SPREDFAST_API_TOKEN": "Copy the access token again from the profile settings in Khoros.",
    "KHOROS_API_URL": "Correct KHOROS_API_URL; normally it is not set at all.",
    "ZENDESK_CLIENT_ID": f"Copy Identifier and Secret again: {OAUTH_CLIENTS}.",
    "lacks the scope": f"Let the OAuth client have the scopes {SCOPE}.",
    "takes us for": "Use the credentials of an agent who may create and see tickets.",
    "ZENDESK_API_URL": "Correct ZENDESK_API_URL to the account's own address, like https://acme.zendesk.com.",
    "their rights": "Check the Zendesk credentials, and that their agent may create, comment on and see tickets.",
    "gave no answer": "Check the address for typing errors, and that this machine may reach it.",
}
