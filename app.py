"""The Flask app: wires the rooms together and answers for what is not a notification. Importing it does nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flask import Flask, Response, g, jsonify, render_template, request
from werkzeug.middleware.proxy_fix import ProxyFix

import log
from config import VARIABLES, Config, Reader
from destinations.delivery import Delivery
from destinations.routes import Route, Routes
from destinations.zendesk import ZENDESK_VARIABLES, ZendeskDestination, ZendeskSettings
from destinations.zendesk_words import Style
from inbox import open_database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from khoros.catch_up import CatchUp
from khoros.receive import (
    BODY_LIMIT,
    NOTIFICATIONS_PATH,
    Push,
    Receiver,
    Refusal,
    log_refusal,
    request_id,
    secure_headers,
)
from khoros.subscription import Subscriber
from khoros_client import KhorosClient
from operations import cli, status
from operations.alerts import Alerts
from operations.health import public_health
from operations.metrics import Metrics
from operations.relay import Relay, current_relay
from operations.retention import Retention
from zendesk_client import ZendeskClient


@dataclass(frozen=True)
class Settings:
    """What every process needs, and what each destination reads for itself."""

    config: Config
    zendesk: ZendeskSettings

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings in `environ`; an empty one counts as not set. Raises ConfigError, which names every fault."""
        read = Reader(environ, {**VARIABLES, **ZENDESK_VARIABLES})
        settings = cls(Config.read(read), ZendeskSettings.read(read))
        read.finish()
        return settings


def create_app(settings: Settings | None = None) -> Flask:
    """The service, wired; its background work begins with Relay.start. Without `settings` they are read from the
    environment. Raises ConfigError."""
    settings = settings or Settings.from_env(os.environ)
    config = settings.config
    parts = _wire(settings)
    log.configure(config.log_level, parts.secrets)
    app = Flask(__name__, template_folder="operations/templates", static_folder="operations/static")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the provider Flask sets by default has it
    app.extensions["relay"] = parts
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


def _wire(settings: Settings) -> Relay:
    config, database = settings.config, open_database(settings.config.database_url)
    inbox, facts = Inbox(database), Facts(database)
    metrics = Metrics() if config.status_password else None
    destination = _zendesk(settings)
    delivery = Delivery(inbox, destination, on_outcome=metrics.on_outcome if metrics else None)
    receiver = Receiver(
        config.bearer_tokens,
        config.company_id,
        Routes([Route(config.label, destination.name)]).names_for,
        inbox,
        delivery.wake,
        metrics.on_receipt if metrics else lambda receipt, seconds: None,
    )
    khoros = KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    catch_up = CatchUp(config, facts, receiver, khoros)
    return Relay(
        config=config,
        inbox=inbox,
        facts=facts,
        records=Records(database),
        receiver=receiver,
        khoros=khoros,
        subscriber=Subscriber(config, facts, khoros, catch_up),
        deliveries={destination.name: delivery},
        retention=Retention(inbox, Alerts(config, inbox, facts, [destination.name]), config.retention_s),
        metrics=metrics,
        secrets=(*config.secrets, *settings.zendesk.secrets),
    )


def _zendesk(settings: Settings) -> ZendeskDestination:
    account = settings.zendesk
    client = ZendeskClient(
        account.url,
        client_id=account.client_id,
        client_secret=account.client_secret,
        user_email=account.user_email,
        api_token=account.api_token,
        pool_size=ZendeskDestination.parallel,
    )
    style = Style(settings.config.label.pattern, account.ticket_fields, account.comment_public)
    return ZendeskDestination(client, account.url, style)


def notifications() -> tuple[Response, int]:
    """POST /notifications where Flask itself is asked, by `flask run` or another server. Under gunicorn
    khoros/receive.py answers instead, in the same words."""
    at, receiver = time.perf_counter(), current_relay().receiver
    receiver.admit(request.headers.get("Authorization", ""))
    push = Push(request.get_data(), own_request_id(), at)
    request.stream.read(1)  # a body of unknown length ends at the limit; only asking for more raises 413
    [outcome] = receiver.receive([push])
    if isinstance(outcome, Refusal):
        raise outcome
    return jsonify(asdict(outcome)), 202


def own_request_id() -> str:
    """The name of the current request, the same in all its lines."""
    return str(g.setdefault("request_id", request_id(request.headers.get("X-Request-Id", ""))))


def health() -> tuple[Response, int]:
    """GET /health: states and counts. 503 when nothing can be stored."""
    now = current_relay().health()
    return jsonify(public_health(now)), 503 if now is None else 200


def landing() -> str:
    """GET /: what this is and whether it is connected. On Heroku the visit also tells the service its own address."""
    now = current_relay().health()
    if now and request.method == "GET":
        current_relay().subscriber.learn_address(request.host.lower(), secure=request.is_secure)
    config = current_relay().config
    shown: dict[str, Any] = {"label": config.label.pattern, "destinations": current_relay().destinations}
    return render_template("index.html", health=now, status_page=bool(config.status_password), **shown)


def secure(response: Response) -> Response:
    """Headers that keep browsers from doing more with our pages than showing them."""
    response.headers.update(secure_headers(https=request.is_secure))
    return response


def failure(error: Exception) -> tuple[Response, int]:
    """Every error as small JSON."""
    refusal = Refusal.of(error, own_request_id())
    if request.path == NOTIFICATIONS_PATH:
        log_refusal(refusal, own_request_id())
    answer = jsonify(error=refusal.error, message=refusal.message)
    answer.headers.update(refusal.headers)
    return answer, refusal.status
