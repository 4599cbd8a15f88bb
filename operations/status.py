"""The pages behind STATUS_PASSWORD: /status and what is under it for people, GET /metrics for Prometheus. And the
landing page, which is open to everybody."""

from __future__ import annotations

import hmac
from typing import Any

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Response as AnyResponse

import log
from destinations.routes import mask_emails
from inbox.records import SCANNED, STATES, Record, number, span, utc
from inbox.schema import DELIVERED, PARKED
from operations.health import GOOD, Health, event_words, level_of, title, unrouted_words
from operations.pages import (
    STATE_WORDS,
    Glance,
    columns,
    glance,
    groups,
    long_waits,
    readable,
    reference_words,
    remedy,
    tab_title,
    top_of,
)
from operations.relay import Relay, current_relay
from operations.verdict import CONNECTING, verdicts

REALM = 'Basic realm="Khoros to Zendesk relay", charset="UTF-8"'
FORM_LIFE_S = 12 * 3600
LATEST, UNROUTED, NEED_ATTENTION, CONNECTIONS = 50, 10, 5, 4
FRESH_S, CONNECTING_S = 15, 2  # how often a page is loaded again
ASKED = ("state", "destination", "before")  # what the list of items is narrowed by

FILTERS = (
    columns,
    event_words,
    groups,
    level_of,
    mask_emails,
    reference_words,
    remedy,
    span,
    tab_title,
    top_of,
    unrouted_words,
)

pages = Blueprint("status", __name__)
for words in (*FILTERS, utc):
    pages.add_app_template_filter(words)
pages.add_app_template_filter(title, "as_title")


@pages.before_app_request
def admit() -> Response | None:
    """Answers 401 to a request without the password, whatever its method, before its body is read."""
    if request.path.split("/")[1] not in ("status", "metrics"):
        return None
    password = current_relay().config.status_password
    if not password:
        abort(404, "This page is off. To switch it on, set STATUS_PASSWORD.")
    given = given_password()
    if hmac.compare_digest(given.encode(), password.encode()):
        return None
    if given:
        log.warning("status_refused", path=request.path, reason="wrong password")
    text = "The password is STATUS_PASSWORD; any user name will do.\n"
    return Response(text, 401, {"WWW-Authenticate": REALM}, "text/plain")


def given_password() -> str:
    """The password of the request, "" when it has none or none that can be read."""
    try:
        given = request.authorization
    except ValueError:  # Werkzeug fails at characters beyond ASCII
        return ""
    return (given.password or "") if given and given.type == "basic" else ""


def landing_page(relay: Relay) -> str:
    """GET /: what this is, and the verdict without its reasons."""
    return shown("index.html", relay, relay.health())


@pages.get("/status")
def status_page() -> tuple[str, int]:
    """The verdict and what needs attention; then the connections and the last day, or the items that were asked for."""
    relay = current_relay()
    health, records = relay.health(), relay.records
    if health is None:
        return shown("status.html", relay, health), 503
    words = request.args.get("q", "").strip()[:255]
    asked = {name: request.args.get(name, "") for name in ASKED}
    asked["state"] = asked["state"] if asked["state"] in STATES else ""
    if words:
        items = records.search(words, in_posts=relay.config.status_shows_posts)
    else:
        before = number(asked["before"])
        items = records.latest(asked["state"] or None, LATEST, asked["destination"] or None, before)
    parked = records.latest(PARKED, NEED_ATTENTION)
    found = {"words": words, "items": items, "parked": parked, "glances": glances_of(relay, [*items, *parked])}
    counts = {"states": records.by_state(), "hours": records.hours(), "unrouted": relay.unrouted.recent()[:UNROUTED]}
    page = shown("status.html", relay, health, asked=asked, latest=LATEST, scanned=SCANNED, **found, **counts)
    return page, 503 if health.fault else 200


@pages.get("/status/items/<int:item_id>")
def item_page(item_id: int) -> tuple[str, int]:
    """One item: what became of it step by step, and what Khoros sent."""
    relay = current_relay()
    health, records = relay.health(), relay.records
    item = records.item(item_id) if health and item_id < 10**18 else None
    if item is None:
        return shown("missing.html", relay, health, item_id=item_id), 404 if health else 503
    same = [one for one in records.find(item.subject_id) if one.id != item_id] if item.subject_id else []
    payload = records.payload(item_id) if relay.config.status_shows_posts else None
    attempts = {one.number: one for one in records.attempts([item_id])}
    about = {"item": item, "others": same, "attempts": attempts, "waits": long_waits(item, attempts)}
    about["payload"] = readable(payload) if payload else ""
    return shown("item.html", relay, health, glances=glances_of(relay, [item, *same]), **about), 200


def glances_of(relay: Relay, records: list[Record]) -> dict[int, Glance]:
    """How a person recognises each of these items, by its id."""
    ids = [record.id for record in records] if relay.config.status_shows_posts else []
    subjects = relay.records.subjects(ids)
    return {record.id: glance(record, subjects.get(record.id)) for record in records}


def shown(template: str, relay: Relay, health: Health | None, **values: Any) -> str:
    """The page with the values that every page has."""
    found = verdicts(health, refetches=relay.config.polling or relay.config.catch_up_s > 0)
    connecting = found[0].sentence == CONNECTING
    noticed = {one.name for one in relay.destinations if one.notice}
    working = [name for name in health.working if name not in noticed] if health else []
    asked = {name: request.args[name] for name in ("q", *ASKED) if name in request.args}
    values |= {
        "verdicts": found,
        "connecting": connecting,
        "folded": working if len(working) > CONNECTIONS else [],
        "refresh_s": CONNECTING_S if connecting else FRESH_S,
        "last": next(iter(relay.records.latest(DELIVERED, 1) if found[0].level == GOOD else []), None),
        "here": url_for(str(request.endpoint), **{**(request.view_args or {}), **asked}),
        "done": {name: request.args.get(name, type=int) for name in ("retried", "discarded", "item")},
        "token": page_forms().dumps("form") if relay.config.status_password else "",
    }
    return render_template(template, relay=relay, health=health, state_words=STATE_WORDS, **values)


@pages.post("/status/retry")
def retry_from_page() -> AnyResponse:
    """Sends one item again, or all that are parked."""
    check_form()
    relay, everything = current_relay(), request.form.get("id") == "all"
    item_id = number(request.form.get("id", ""))
    count = relay.inbox.retry(None if everything else [item_id or 0])
    if count:
        log.info("retried", item="all" if everything else item_id, count=count, by="status page")
        for delivery in relay.deliveries.values():
            delivery.wake()
    return back(item_id, retried=count)


@pages.post("/status/discard")
def discard_from_page() -> AnyResponse:
    """Gives one item up and empties its text."""
    check_form()
    item_id = number(request.form.get("id", ""))
    count = current_relay().inbox.discard([item_id or 0])
    if count:
        log.info("discarded", item=item_id, by="status page")
    return back(item_id, discarded=count)


def check_form() -> None:
    """Answers 400 to a form that does not come from our own page, which its signature proves."""
    try:
        page_forms().loads(request.form.get("token", ""), max_age=FORM_LIFE_S)
    except BadSignature:
        abort(400, "This form is too old or not ours: open /status again and press the button there.")


def back(item_id: int | None, **done: Any) -> AnyResponse:
    """To the page that the form was on, with what was done."""
    if request.form.get("on") == "item" and item_id:
        return redirect(url_for("status.item_page", item_id=item_id, **done), 303)
    return redirect(url_for("status.status_page", item=item_id, **done), 303)


@pages.get("/metrics")
def metrics_page() -> Response:
    """The metrics in Prometheus' text format."""
    relay = current_relay()
    health = relay.health()
    if health is None or health.fault or relay.metrics is None:
        return Response("The database does not work: see the log.\n", 503, mimetype="text/plain")
    text = relay.metrics.exposition(health, relay.records.by_state())
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def page_forms() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_relay().config.status_password, salt="status page's forms")
