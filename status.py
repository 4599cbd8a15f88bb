"""The pages of those who run the service, behind STATUS_PASSWORD: GET /status to look, GET /metrics for machines."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, url_for
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Response as AnyResponse

import metrics
from logfmt import event
from records import Hour, number, span, utc
from zendesk_client import API_TOKENS_END

REALM = 'Basic realm="Khoros to Zendesk relay", charset="UTF-8"'
FORM_LIFE_S = 12 * 3600
LATEST = 50
PLOT_HEIGHT, BAR_WIDTH = 120, 10
KINDS = ("delivered", "retried", "parked")
PATHS = ("/status", "/status/retry", "/metrics")

pages = Blueprint("status", __name__)


@pages.before_app_request
def admit() -> Response | None:
    """Lets in who knows the password, whatever the method. Comes before anything of the request's body is read."""
    if request.blueprint != pages.name and request.path not in PATHS:
        return None
    password = current_app.extensions["relay"].config.status_password
    if not password:
        abort(404, "This page is off. To have it, set STATUS_PASSWORD.")
    given = _given_password()
    if hmac.compare_digest(given.encode(), password.encode()):
        return None
    if given:
        event("status_refused", logging.WARNING, path=request.path, reason="wrong password")
    said = "The password is STATUS_PASSWORD; any user name will do.\n"
    return Response(said, 401, {"WWW-Authenticate": REALM}, "text/plain")


def _given_password() -> str:
    """The password that came with the request, "" when none did or it cannot be read."""
    try:
        offered = request.authorization
    except ValueError:  # Werkzeug stumbles over signs beyond ASCII
        return ""
    return (offered.password or "") if offered and offered.type == "basic" else ""


@pages.get("/status")
def status() -> tuple[str, int] | str:
    """How things stand, the last day, the latest items or those that were searched for."""
    relay = current_app.extensions["relay"]
    now = relay.standing()
    if now is None:
        return render_template("status.html", standing=None), 503
    name = request.args.get("q", "").strip()[:255]
    return render_template(
        "status.html",
        standing=now,
        config=relay.config,
        api_tokens_end=API_TOKENS_END,
        states=relay.records.by_state(),
        plot=Plot.of(relay.records.hours()),
        items=relay.records.find(name) if name else relay.records.latest(most=LATEST),
        latest=LATEST,
        name=name,
        retried=request.args.get("retried", type=int),
        token=_forms().dumps("retry"),
        span=span,
        utc=utc,
    )


@pages.post("/status/retry")
def retry() -> AnyResponse:
    """Sends one parked item again. The form's signature proves that it came from our own page."""
    try:
        _forms().loads(request.form.get("token", ""), max_age=FORM_LIFE_S)
    except BadSignature:
        abort(400, "This form is too old or not ours: open /status again and press the button there.")
    item_id = number(request.form.get("id", ""))
    relay = current_app.extensions["relay"]
    sent = relay.inbox.retry([item_id]) if item_id is not None else 0
    if sent:
        event("retried", item=item_id, by="status page")
        relay.delivery.wake()
    return redirect(url_for("status.status", retried=item_id if sent else 0), 303)


@pages.get("/metrics")
def figures() -> Response:
    """The same figures for Prometheus."""
    relay = current_app.extensions["relay"]
    now = relay.standing()
    if now is None:
        return Response("The database is not to be had: see the log.\n", 503, mimetype="text/plain")
    shown = metrics.exposition(now, relay.records, relay.inbox.sums())
    return Response(shown, content_type="text/plain; version=0.0.4; charset=utf-8")


def _forms() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(current_app.extensions["relay"].config.status_password, salt="status page's forms")


@dataclass(frozen=True)
class Bar:
    """One hour of the plot: where its bar stands, and the parts it is made of, each a kind with its top and height."""

    hour: Hour
    clock: str
    x: int
    parts: list[dict[str, Any]]


@dataclass(frozen=True)
class Plot:
    """The last day as a plot: its bars in units of the SVG, the busiest hour's number and the day's sums."""

    bars: list[Bar]
    most: int
    delivered: int
    retried: int
    parked: int
    width: int
    height: int = PLOT_HEIGHT

    @classmethod
    def of(cls, hours: list[Hour]) -> Plot:
        most = max(hour.delivered + hour.retried + hour.parked for hour in hours)
        bars = [Bar(hour, utc(hour.at)[11:16], n * BAR_WIDTH, _parts(hour, most)) for n, hour in enumerate(hours)]
        day = {kind: sum(getattr(hour, kind) for hour in hours) for kind in KINDS}
        return cls(bars, most, **day, width=len(hours) * BAR_WIDTH)


def _parts(hour: Hour, most: int) -> list[dict[str, Any]]:
    parts, top = [], float(PLOT_HEIGHT)
    for kind in KINDS:
        if count := getattr(hour, kind):
            height = count / most * PLOT_HEIGHT
            top -= height
            parts.append({"kind": kind, "top": round(top, 2), "height": round(height, 2)})
    return parts
