"""The service whose settings are faulty: it delivers nothing, and its page says what to correct, and where."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property

from flask import Flask, Response, jsonify, render_template, request

import log
from config import VARIABLES, Config, ConfigError, Reader, as_https_url, as_secret, platform
from khoros_client import Company, KhorosClient
from outbound import ServiceError

# Where people change the variables, by platform. Each of them then starts the service again by itself.
DASHBOARDS = {
    "Heroku": "dashboard.heroku.com > your app > Settings > Reveal Config Vars",
    "Render": "dashboard.render.com > your service > Environment",
    "Fly": "fly.io/dashboard > your app > Secrets",
    "AWS Lambda": "AWS console > CloudFormation > Stacks > your stack > Update > Use existing template: its parameters",
}
_of_line = re.compile(r'^( +line [0-9]+) ".*?"(?= [^"]*(?:; for example|$))', re.MULTILINE)  # the line's first words
CLOSED = "The service is closed until its settings are corrected. Open / in a browser: it names them."


class ClosedError(ConfigError):
    """The faults; where the company's number is one of them, with the companies of the access token."""

    @cached_property
    def companies(self) -> list[Company]:
        """None without a token, or when Khoros gives none. They are asked for once: anyone may open the page."""
        read = Reader(os.environ, VARIABLES)
        url, token = read("KHOROS_API_URL", as_https_url, Config.khoros_url), read("SPREDFAST_API_TOKEN", as_secret, "")
        try:
            return KhorosClient(url, token).companies() if token and "SPREDFAST_COMPANY_ID" in self.faults else []
        except ServiceError:
            return []

    def format_message(self) -> str:
        found = "".join(f"\n  {one.id}: {one.name}" for one in self.companies)
        return f"{self.message}\nThe companies of your access token:{found}" if found else self.message


def close(app: Flask, error: ConfigError, variables: Mapping[str, str]) -> None:
    """Makes the app answer 503 to everything, / with a page. `variables` says where to get each. `current_relay` raises
    the error. The page has no value, and no word of a faulty line of ROUTES: anyone may open it."""
    app.extensions["closed"] = closed = ClosedError(error.message, error.faults)

    @app.before_request
    def answer_closed() -> tuple[str | Response, int] | None:
        if request.endpoint == "static":
            return None
        if request.path != "/":
            return jsonify(error="Service Unavailable", message=CLOSED), 503
        where = platform(os.environ)
        faults = {variable: _of_line.sub(r"\1", fault) for variable, fault in error.faults.items()}
        place = DASHBOARDS.get(where, ".env, or wherever the variables are set")
        found = {"faults": faults, "variables": variables, "companies": closed.companies}
        return render_template("closed.html", **found, where=where, dashboard=place), 503


def log_faults(error: ConfigError) -> None:
    """Writes a line for each fault."""
    log.configure("INFO")
    for variable, fault in error.faults.items():
        log.error("setting_refused", variable=variable, reason=fault)
