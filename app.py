"""The Flask app: takes Khoros' notifications in, says how it is doing. Importing it does nothing."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask, Response, current_app, jsonify, render_template, request
from werkzeug.middleware.proxy_fix import ProxyFix

import cli
import logfmt
import status
from alerts import Alerts
from catch_up import CatchUp
from config import Config
from database import StoreUnavailable
from delivery import PARALLEL, Delivery
from door import BODY_LIMIT, Door, Push, Refusal, request_id, told
from front import secure_headers
from inbox import Inbox
from intake import Intake
from khoros_client import KhorosClient
from logfmt import event
from records import Records
from standing import Standing, standing
from subscription import NOTIFICATIONS_PATH, Subscriber
from tickets import Style
from upkeep import Upkeep
from zendesk_client import API_TOKENS_END, ZendeskClient

STOP_S = 18.0  # for deliveries in flight: a connect and a read time-out; gunicorn.conf.py waits 20


@dataclass
class Relay:
    """The parts of one process."""

    config: Config
    inbox: Inbox
    records: Records
    intake: Intake
    door: Door
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
    app.extensions["relay"] = _wire(config)
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]  # Flask's documented way
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
        door=Door(config.bearer_tokens, intake, inbox, delivery.wake),
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
    """POST /notifications where Flask itself is asked, by `flask run` or another server. Under gunicorn front.py
    answers instead, in the same words."""
    at, door = time.perf_counter(), relay().door
    door.admit(request.headers.get("Authorization", ""))
    [outcome] = door.take([Push(request.get_data(), request_id(request.headers.get("X-Request-Id", "")), at)])
    if isinstance(outcome, Refusal):
        raise outcome
    return jsonify(asdict(outcome)), 202


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
    response.headers.update(secure_headers(https=request.is_secure))
    return response


def failure(error: Exception) -> tuple[Response, int]:
    """Every error as small JSON."""
    name = request_id(request.headers.get("X-Request-Id", ""))
    refusal = Refusal.of(error, name)
    if request.path == NOTIFICATIONS_PATH:
        told(refusal, name)
    answer = jsonify(error=refusal.error, message=refusal.message)
    answer.headers.update(refusal.headers)
    return answer, refusal.status
