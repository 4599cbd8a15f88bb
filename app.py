"""The Flask app: takes Khoros' notifications in, says how it is doing. Importing it does nothing."""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask, Response, current_app, jsonify, render_template, request
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge
from werkzeug.middleware.proxy_fix import ProxyFix

import cli
import logfmt
import status
from alerts import Alerts
from catch_up import CatchUp
from config import Config
from delivery import PARALLEL, Delivery
from inbox import Inbox
from intake import Intake, Receipt
from khoros_client import KhorosClient, Unreadable
from logfmt import event
from records import Records
from standing import Standing, standing
from store import ACK, DUPLICATES, IGNORED, StoreUnavailable
from subscription import NOTIFICATIONS_PATH, Subscriber
from tickets import Style
from upkeep import Upkeep
from zendesk_client import API_TOKENS_END, ZendeskClient

BODY_LIMIT = 1024 * 1024  # bytes
SECURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STOP_S = 18.0  # for deliveries in flight: a connect and a read time-out; gunicorn.conf.py waits 20


@dataclass
class Relay:
    """The parts of one process."""

    config: Config
    inbox: Inbox
    records: Records
    intake: Intake
    khoros: KhorosClient
    zendesk: ZendeskClient
    delivery: Delivery
    subscriber: Subscriber
    upkeep: Upkeep
    writable_at: float = 0.0

    def start(self) -> None:
        """Starts the background work. Comes after the fork and after the bind (gunicorn.conf.py)."""
        if not self.config.client_id:
            event(
                "zendesk_api_token", logging.WARNING, reason=f"Zendesk ends API tokens on {API_TOKENS_END}: use OAuth"
            )
        if self.config.on_dyno and self.config.database_url.startswith("sqlite"):
            lost = "Heroku wipes the disk at every restart, and what waits in SQLite with it"
            event(
                "sqlite_on_heroku", logging.ERROR, reason=f"{lost}: heroku addons:create heroku-postgresql:essential-0"
            )
        self.delivery.start()
        self.subscriber.loop.start()
        self.upkeep.loop.start()

    def stop(self) -> None:
        """Finishes what is in flight, within STOP_S seconds."""
        self.subscriber.loop.stop()
        self.upkeep.loop.stop()
        self.delivery.stop(STOP_S)
        with suppress(StoreUnavailable):
            self.inbox.save_tally()
        self.inbox.close()

    def standing(self) -> Standing | None:
        """How the service is doing, or None when nothing can be stored. That is tried by a small commit, every two
        seconds at most, so that asking does not wear the disk."""
        try:
            if time.monotonic() - self.writable_at > 2:
                self.inbox.prove_writable()
                self.writable_at = time.monotonic()
            return standing(self.inbox)
        except StoreUnavailable as error:
            event("store_unavailable", logging.ERROR, reason=error)
            return None


def create_app(config: Config | None = None) -> Flask:
    """The service, wired but not yet working in the background. Without `config` it is read from the environment.
    Raises ConfigError."""
    config = config or Config.from_env(os.environ)
    logfmt.configure(config.log_level, config.secrets)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the provider Flask sets by default has it
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]  # Flask's documented way
    app.extensions["relay"] = _wire(config)
    if not config.polling:
        app.add_url_rule(NOTIFICATIONS_PATH, view_func=notifications, methods=["POST"])
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/", view_func=landing)
    app.register_blueprint(status.pages)
    app.register_error_handler(Exception, failure)
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    app.after_request(secure)
    return app


def _wire(config: Config) -> Relay:
    inbox = Inbox(config.database_url)
    zendesk = ZendeskClient(
        config.zendesk_url,
        client_id=config.client_id,
        client_secret=config.client_secret,
        user_email=config.user_email,
        api_token=config.api_token,
        pool_size=PARALLEL,
    )
    khoros = KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    delivery = Delivery(inbox, zendesk, Style(config.label.pattern, config.ticket_fields, config.comment_public))
    intake = Intake(config, inbox)
    catch_up = CatchUp(config, inbox, intake, khoros, delivery.wake)
    return Relay(
        config=config,
        inbox=inbox,
        records=Records(inbox),
        intake=intake,
        khoros=khoros,
        zendesk=zendesk,
        delivery=delivery,
        subscriber=Subscriber(config, inbox, khoros, catch_up),
        upkeep=Upkeep(inbox, Alerts(config, inbox), config.retention_s),
    )


def relay() -> Relay:
    """The parts behind the current request."""
    found: Relay = current_app.extensions["relay"]
    return found


def notifications() -> tuple[Response, int]:
    """POST /notifications: the token, then the body, then the commit, then the answer. Never calls Zendesk."""
    started = time.perf_counter()
    if not _authorised(request.headers.get("Authorization", ""), relay().config.bearer_tokens):
        event(
            "notification_refused", logging.WARNING, status=401, reason="wrong bearer token", request_id=_request_id()
        )
        answer = jsonify(error="Unauthorized", message="The Authorization header does not hold our bearer token.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer, 401
    try:
        raw = json.loads(_body())
    except (ValueError, RecursionError):
        return _refused(400, "Bad Request", "The body is not JSON.")
    try:
        receipt = relay().intake.take(raw, source="push", request_id=_request_id())
    except RecursionError:
        return _refused(400, "Bad Request", "The body is nested too deeply.")
    except Unreadable as error:
        return _refused(422, "Unprocessable Content", f"Kept for a person to look at: {error}.")
    relay().delivery.wake()
    _count(receipt, time.perf_counter() - started)
    return jsonify(asdict(receipt)), 202


def _count(receipt: Receipt, took_s: float) -> None:
    inbox = relay().inbox
    inbox.observe(ACK, took_s)
    if receipt.duplicates:
        inbox.tally(DUPLICATES, receipt.duplicates)
    if receipt.ignored:
        inbox.tally(IGNORED, receipt.ignored)


def health() -> tuple[Response, int]:
    """GET /health: can it store, is it subscribed, is Zendesk there, how much waits. 503 when it cannot store."""
    now = relay().standing()
    if now is None:
        return jsonify(status="down", store="unavailable", message="Nothing can be stored: see the log."), 503
    counts, gate, connection = now.counts, now.gate, now.connection
    age_s = None if counts.oldest_pending_s is None else round(counts.oldest_pending_s, 1)
    answer: dict[str, Any] = {
        "status": "ok" if now.connected and not counts.parked else "attention",
        "store": "ok",
        "subscription": {"state": connection.state, "detail": connection.detail},
        "zendesk": {"state": gate.state, "detail": gate.reason, "held_s": round(now.held_s, 1)},
        "pending": counts.pending,
        "parked": counts.parked,
        "oldest_pending_s": age_s,
    }
    return jsonify(answer), 200


def landing() -> str:
    """GET /: what this is and whether it is connected. On Heroku the visit also tells the service its own name."""
    now = relay().standing()
    if now and request.method == "GET":
        relay().subscriber.learn_address(request.host.lower(), secure=request.is_secure)
    settings = relay().config
    return render_template(
        "index.html", standing=now, label=settings.label.pattern, status_page=bool(settings.status_password)
    )


def secure(response: Response) -> Response:
    """Headers that keep browsers from doing more with our pages than showing them."""
    response.headers.update(SECURE_HEADERS)
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


def failure(error: Exception) -> tuple[Response, int]:
    """Every error as small JSON; what went wrong inside goes to the log, without anyone's text."""
    if isinstance(error, StoreUnavailable):
        event("store_unavailable", logging.ERROR, reason=error, request_id=_request_id())
        answer, status = _refused(503, "Service Unavailable", "Nothing was stored: send it again.")
        answer.headers["Retry-After"] = "5"
        return answer, status
    if isinstance(error, HTTPException) and error.code:
        answer, status = _refused(error.code, error.name, error.description or error.name)
        answer.headers.extend((k, v) for k, v in error.get_headers() if k in ("Allow", "Retry-After"))
        return answer, status
    event("request_broken", logging.ERROR, error=logfmt.where(error), request_id=_request_id())
    return _refused(500, "Internal Server Error", "Something is wrong in the service: see its log.")


def _authorised(header: str, tokens: tuple[str, ...]) -> bool:
    """Whether the header holds one of the tokens; compares with all of them, in constant time."""
    scheme, _, given = header.partition(" ")
    offered = given.strip().encode("utf-8", "replace")
    matches = [hmac.compare_digest(offered, token.encode()) for token in tokens]
    return scheme.lower() == "bearer" and any(matches)


def _body() -> bytes:
    """The request's body. Raises HTTPException: what cannot be read is the sender's mistake."""
    try:
        body = request.get_data(cache=False)
    except HTTPException:
        raise
    except Exception as error:  # gunicorn has errors of its own for chunks that make no sense
        raise BadRequest("The body is not what its headers say.") from error
    if request.content_length is None and len(body) >= BODY_LIMIT:
        raise RequestEntityTooLarge  # Werkzeug cuts a chunked body there in silence
    return body


def _refused(status: int, error: str, message: str) -> tuple[Response, int]:
    if request.path == NOTIFICATIONS_PATH and status < 500:
        event("notification_refused", logging.WARNING, status=status, reason=message, request_id=_request_id())
    return jsonify(error=error, message=message), status


def _request_id() -> str:
    """The router's name for this request, or one of our own."""
    if "request_id" not in request.environ:
        given = request.headers.get("X-Request-Id", "")
        plain = given.isascii() and given.isprintable() and 0 < len(given) <= 200
        request.environ["request_id"] = given if plain else str(uuid.uuid4())
    return str(request.environ["request_id"])
