"""The Flask app: wires the rooms together and answers for what is not a notification. Importing it does nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial

from flask import Flask, Response, g, jsonify, render_template, request
from werkzeug.middleware.proxy_fix import ProxyFix

import log
from config import VARIABLES, Config, Reader
from destinations.delivery import Delivery
from destinations.destination import Destination
from destinations.route import Route
from destinations.routes import ROUTES_VARIABLES, Routes
from destinations.slack import SLACK_VARIABLES, SlackDestination, SlackSettings
from destinations.webhook import WEBHOOK_VARIABLES, WebhookDestination, WebhookSettings
from destinations.zendesk import ZENDESK_VARIABLES, ZendeskDestination, ZendeskSettings
from destinations.zendesk_words import Style
from inbox import open_database
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from inbox.unrouted import Unrouted
from khoros.body import BODY_LIMIT, unpacked
from khoros.receive import (
    NOTIFICATIONS_PATH,
    NOTIFICATIONS_PATHS,
    Push,
    Receiver,
    Refusal,
    log_refusal,
    request_id,
    secure_headers,
)
from khoros.subscriptions import Subscriptions
from khoros_client import KhorosClient
from operations import cli, status
from operations.alerts import Alerts
from operations.health import current_health, public_health
from operations.metrics import Metrics
from operations.relay import Relay, current_relay
from operations.retention import Retention
from zendesk_client import ZendeskClient

ALL_VARIABLES = {**VARIABLES, **ROUTES_VARIABLES, **ZENDESK_VARIABLES, **SLACK_VARIABLES, **WEBHOOK_VARIABLES}


@dataclass(frozen=True)
class Settings:
    """What every process needs, the routes, and the settings of each kind of destination that a route leads to."""

    config: Config
    routes: Routes
    zendesk: ZendeskSettings | None = None
    slack: SlackSettings | None = None
    webhooks: WebhookSettings | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings in `environ`; an empty one counts as not set. Raises ConfigError, which names every fault."""
        read = Reader(environ, ALL_VARIABLES)
        config, routes = Config.read(read), Routes.read(read)
        kinds = {route.kind for route in routes.routes}
        if not environ.get("ROUTES", "").strip():
            kinds.add("zendesk")  # the common case
        settings = cls(
            config,
            routes,
            ZendeskSettings.read(read) if "zendesk" in kinds else None,
            SlackSettings.read(read) if "slack" in kinds else None,
            WebhookSettings.read(read) if "webhook" in kinds else None,
        )
        read.finish()
        return settings

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        found = [*self.config.secrets, *(route.target for route in self.routes.routes if route.kind == "webhook")]
        for one in (self.zendesk, self.slack, self.webhooks):
            found += one.secrets if one else ()
        return tuple(found)


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
    app.url_map.merge_slashes = False
    for path in () if config.polling else NOTIFICATIONS_PATHS:
        app.add_url_rule(path, view_func=notifications, methods=["POST"])
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/", view_func=landing)
    app.register_blueprint(status.pages)
    app.register_error_handler(Exception, error_as_json)
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    app.after_request(secure)
    return app


def _wire(settings: Settings) -> Relay:
    config, routes, database = settings.config, settings.routes, open_database(settings.config.database_url)
    inbox, facts, records, unrouted = Inbox(database), Facts(database), Records(database), Unrouted(database)
    metrics = Metrics() if config.status_password else None
    on_outcome = metrics.on_outcome if metrics else None
    places = {name: _destination(settings, name, route, facts) for name, route in routes.destinations.items()}
    deliveries = {name: Delivery(inbox, place, on_outcome=on_outcome) for name, place in places.items()}

    def wake(names: Collection[str]) -> None:
        for name in names:
            deliveries[name].wake()

    receiver = Receiver(
        config.bearer_tokens,
        config.company_id,
        routes.matches,
        inbox,
        unrouted,
        wake,
        metrics.on_receipt if metrics else lambda receipt, seconds: None,
    )
    khoros = KhorosClient(config.khoros_url, config.khoros_token, config.company_id)
    subscriptions = Subscriptions(config, routes.queries, facts, khoros, receiver)
    look = partial(current_health, inbox, facts, records, subscriptions, list(deliveries), config.alert_after_s)
    return Relay(
        config=config,
        inbox=inbox,
        facts=facts,
        records=records,
        receiver=receiver,
        khoros=khoros,
        routes=routes,
        subscriptions=subscriptions,
        unrouted=unrouted,
        deliveries=deliveries,
        retention=Retention(inbox, unrouted, Alerts(config, facts, look), config.retention_s),
        look=look,
        metrics=metrics,
        secrets=settings.secrets,
    )


def _destination(settings: Settings, name: str, route: Route, facts: Facts) -> Destination:
    """The place that the route leads to."""
    if route.kind == "slack" and settings.slack:
        return SlackDestination(settings.slack, route.target, name, facts)
    if route.kind == "webhook" and settings.webhooks:
        return WebhookDestination(settings.webhooks, route.target, name)
    if route.kind == "zendesk" and settings.zendesk:
        return _zendesk(settings.zendesk, settings.routes)
    raise ValueError(f"there are no settings for {name}")


def _zendesk(account: ZendeskSettings, routes: Routes) -> ZendeskDestination:
    client = ZendeskClient(
        account.url,
        client_id=account.client_id,
        client_secret=account.client_secret,
        user_email=account.user_email,
        api_token=account.api_token,
        pool_size=ZendeskDestination.parallel,
    )
    style = Style(account.ticket_fields, account.comment_public)
    return ZendeskDestination(client, account.url, style, routes.fields_for)


def notifications() -> tuple[Response, int]:
    """POST /notifications where Flask itself is asked, by `flask run` or another server. Under gunicorn
    khoros/receive.py answers instead, in the same words."""
    at, receiver = time.perf_counter(), current_relay().receiver
    receiver.admit(request.headers.get("Authorization", ""))
    body = request.get_data()
    request.stream.read(1)  # a body of unknown length ends at the limit; only asking for more raises 413
    headers = request.headers
    whole = unpacked(body, headers.get("Content-Encoding", ""))
    push = Push(whole, own_request_id(), at, headers.get("Content-Type", ""))
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
    return jsonify(public_health(now)), 503 if now is None or now.fault else 200


def landing() -> str:
    """GET /: what this is and whether it is connected. On Heroku the visit also tells the service its own address."""
    relay = current_relay()
    now, status_page = relay.health(), bool(relay.config.status_password)
    if now and not now.fault and request.method == "GET":
        relay.subscriptions.learn_address(request.host.lower(), secure=request.is_secure)
    return render_template("index.html", health=now, routes=relay.routes, status_page=status_page)


def secure(response: Response) -> Response:
    """Headers that keep browsers from doing more with our pages than showing them. Khoros' token at a place that does
    not take it is logged."""
    relay, config = current_relay(), current_relay().config
    if response.status_code in (401, 404, 405):
        address = "" if config.polling else (config.public_url or request.host_url.rstrip("/")) + NOTIFICATIONS_PATH
        relay.receiver.note_misdirected(request.headers.get("Authorization", ""), address, own_request_id())
    response.headers.update(secure_headers(https=request.is_secure))
    return response


def error_as_json(error: Exception) -> tuple[Response, int]:
    """Every error as small JSON."""
    refusal = Refusal.of(error, own_request_id())
    if refusal.status not in (404, 405) and request.path in NOTIFICATIONS_PATHS:
        log_refusal(refusal, own_request_id())
    answer = jsonify(error=refusal.error, message=refusal.message)
    answer.headers.update(refusal.headers)
    return answer, refusal.status
