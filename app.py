"""The Flask app: wires the rooms together and answers for what is not a notification. Importing it does nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial

import click
from flask import Flask, Response, current_app, g, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

import log
from config import VARIABLES, Config, ConfigError, Reader, platform
from destinations.delivery import Delivery
from destinations.destination import Destination
from destinations.route import Route
from destinations.routes import ROUTES_VARIABLES, Routes
from destinations.slack import SLACK_VARIABLES, SlackDestination, SlackSettings
from destinations.ticket_states import TicketStates
from destinations.webhook import WEBHOOK_VARIABLES, WebhookDestination, WebhookSettings
from destinations.zendesk import ZENDESK_VARIABLES, ZendeskDestination, ZendeskSettings
from destinations.zendesk_requester import Requester
from destinations.zendesk_words import Style
from inbox import open_database
from inbox.database import Database, DatabaseUnavailable
from inbox.database_url import read_database_url
from inbox.facts import Facts
from inbox.inbox import Inbox
from inbox.records import Records
from inbox.requesters import Requesters
from inbox.tickets import Tickets
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
from operations import cli, closed, status
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
        config = replace(config, database_url=read("DATABASE_URL", read_database_url, config.database_url))
        if config.on_lambda and config.database_url.startswith("sqlite"):
            read.add_fault("DATABASE_URL", "must lead to a PostgreSQL database: AWS Lambda keeps no files")
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
    environment. Where these are faulty it raises ConfigError; but on a platform, whose users see no log, and for the
    commands, which must be listed, it is a closed service: 503 to everything, and / says what to correct."""
    app = Flask(__name__, template_folder="operations/templates", static_folder="operations/static")
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the provider Flask sets by default has it
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)  # type: ignore[method-assign]  # Flask's documented way
    app.url_map.merge_slashes = False
    app.after_request(secure)
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    command_line = click.get_current_context(silent=True)
    try:
        settings = settings or Settings.from_env(os.environ)
    except ConfigError as error:
        if not (platform(os.environ) or (command_line and command_line.info_name != "run")):
            raise
        closed.close(app, error, ALL_VARIABLES)
        if not command_line:
            closed.log_faults(error)
        return app
    config = settings.config
    parts = _wire(settings)
    log.configure(config.log_level, parts.secrets)
    app.extensions["relay"] = parts
    if command_line:
        command_line.call_on_close(parts.inbox.close)  # the pool's threads would hold up its end
    for path in () if config.polling else NOTIFICATIONS_PATHS:
        app.add_url_rule(path, view_func=notifications, methods=["POST"])
    app.add_url_rule("/health", view_func=health)
    app.add_url_rule("/", view_func=landing)
    app.register_blueprint(status.pages)
    app.register_error_handler(Exception, error_as_json)
    return app


def _wire(settings: Settings) -> Relay:
    config, routes, database = settings.config, settings.routes, open_database(settings.config.database_url)
    inbox, facts, records, unrouted = Inbox(database), Facts(database), Records(database), Unrouted(database)
    metrics = Metrics() if config.status_password else None
    on_outcome = metrics.on_outcome if metrics else None
    zendesk = _zendesk_client(settings.zendesk) if settings.zendesk else None
    leads_to = routes.destinations
    places = {name: _destination(settings, name, route, database, zendesk) for name, route in leads_to.items()}
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
    ticket_states = None
    if zendesk and "zendesk" in places:
        slack = [name for name, route in leads_to.items() if route.kind == "slack"]
        ticket_states = TicketStates(zendesk, places["zendesk"], Tickets(database, "zendesk"), inbox, facts, slack)
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
        ticket_states=ticket_states,
        retention=Retention(inbox, unrouted, Alerts(config, facts, records, look), config.retention_s),
        look=look,
        metrics=metrics,
        secrets=settings.secrets,
    )


def _destination(
    settings: Settings, name: str, route: Route, database: Database, zendesk: ZendeskClient | None
) -> Destination:
    """The place that the route leads to."""
    if route.kind == "slack" and settings.slack:
        return SlackDestination(settings.slack, route.target, name)
    if route.kind == "webhook" and settings.webhooks:
        return WebhookDestination(settings.webhooks, route.target, name)
    if route.kind == "zendesk" and settings.zendesk and zendesk:
        return _zendesk(settings.zendesk, settings.routes, database, zendesk)
    raise ValueError(f"there are no settings for {name}")


def _zendesk(account: ZendeskSettings, routes: Routes, database: Database, client: ZendeskClient) -> ZendeskDestination:
    by_author = account.requester == "author"
    style = Style(account.ticket_fields, account.comment_public, by_author)
    requester = Requester(client, Requesters(database)) if by_author else None
    return ZendeskDestination(client, account.url, style, routes.fields_for, requester)


def _zendesk_client(account: ZendeskSettings) -> ZendeskClient:
    return ZendeskClient(
        account.url,
        client_id=account.client_id,
        client_secret=account.client_secret,
        user_email=account.user_email,
        api_token=account.api_token,
        pool_size=ZendeskDestination.parallel,
        makes_users=account.requester == "author",
    )


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
    """GET /: what this is and whether it is connected. On Heroku the visit first tells the service its own address."""
    relay = current_relay()
    if request.method == "GET" and not request.script_root:  # behind a stage of AWS' the host alone is not the address
        with suppress(DatabaseUnavailable):
            relay.subscriptions.learn_address(request.host.lower(), secure=request.is_secure)
    return status.landing_page(relay)


def secure(response: Response) -> Response:
    """Headers that keep browsers from doing more with our pages than showing them. Khoros' token at a place that does
    not take it is logged."""
    if response.status_code in (401, 404, 405) and (relay := current_app.extensions.get("relay")):
        config = relay.config
        address = "" if config.polling else (config.public_url or request.root_url.rstrip("/")) + NOTIFICATIONS_PATH
        relay.receiver.note_misdirected(request.headers.get("Authorization", ""), address, own_request_id())
    response.headers.update(secure_headers(https=request.is_secure))
    return response


def error_as_json(error: Exception) -> tuple[Response, int]:
    """Every error as small JSON."""
    refusal = Refusal.of(error, own_request_id())
    if refusal.status not in (404, 405) and request.path in NOTIFICATIONS_PATHS:
        log_refusal(refusal, own_request_id(), request.remote_addr or "")
    answer = jsonify(error=refusal.error, message=refusal.message)
    answer.headers.update(refusal.headers)
    return answer, refusal.status
