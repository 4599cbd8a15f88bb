"""The pages behind STATUS_PASSWORD: GET /status for people, GET /metrics for Prometheus."""

from __future__ import annotations

import hmac

from flask import Blueprint, Response, abort, redirect, render_template, request, url_for
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Response as AnyResponse

import log
from destinations.routes import mask_emails
from inbox.records import number, span, utc
from operations.alerts import put_aside
from operations.health import event_words, level_of, title, unrouted_words
from operations.relay import current_relay

REALM = 'Basic realm="Khoros to Zendesk relay", charset="UTF-8"'
FORM_LIFE_S = 12 * 3600
LATEST, UNROUTED = 50, 10
PATHS = ("/status", "/status/retry", "/metrics")

pages = Blueprint("status", __name__)
pages.add_app_template_filter(title, "as_title")
pages.add_app_template_filter(level_of, "level")
pages.add_app_template_filter(event_words)
pages.add_app_template_filter(unrouted_words)
pages.add_app_template_filter(mask_emails)


@pages.before_app_request
def admit() -> Response | None:
    """Answers 401 to a request without the password, whatever its method, before its body is read."""
    if request.blueprint != pages.name and request.path not in PATHS:
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


@pages.get("/status")
def status_page() -> tuple[str, int]:
    """The present health, the routes, the last day, and the latest items or those that were searched for."""
    relay = current_relay()
    health = relay.health()
    if health is None:
        return render_template("status.html", health=None), 503
    name, hours = request.args.get("q", "").strip()[:255], relay.records.hours()
    page = render_template(
        "status.html",
        health=health,
        relay=relay,
        unrouted=relay.unrouted.recent()[:UNROUTED],
        put_aside=put_aside,
        states=relay.records.by_state(),
        hours=hours,
        most=max(hour.delivered + hour.retried + hour.parked for hour in hours),
        items=relay.records.find(name) if name else relay.records.latest(most=LATEST),
        latest=LATEST,
        name=name,
        retried=request.args.get("retried", type=int),
        token=retry_forms().dumps("retry"),
        span=span,
        utc=utc,
    )
    return page, 503 if health.fault else 200


@pages.post("/status/retry")
def retry_from_page() -> AnyResponse:
    """Sends one parked item again. The form's signature proves that it came from our own page."""
    try:
        retry_forms().loads(request.form.get("token", ""), max_age=FORM_LIFE_S)
    except BadSignature:
        abort(400, "This form is too old or not ours: open /status again and press the button there.")
    relay, item_id = current_relay(), number(request.form.get("id", ""))
    count = relay.inbox.retry([item_id]) if item_id is not None else 0
    if count:
        log.info("retried", item=item_id, by="status page")
        for delivery in relay.deliveries.values():
            delivery.wake()
    return redirect(url_for("status.status_page", retried=item_id if count else 0), 303)


@pages.get("/metrics")
def metrics_page() -> Response:
    """The metrics in Prometheus' text format."""
    relay = current_relay()
    health = relay.health()
    if health is None or health.fault or relay.metrics is None:
        return Response("The database does not work: see the log.\n", 503, mimetype="text/plain")
    text = relay.metrics.exposition(health, relay.records.by_state())
    return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")


def retry_forms() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_relay().config.status_password, salt="status page's forms")
