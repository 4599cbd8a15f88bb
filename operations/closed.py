"""The service whose settings are faulty: it delivers nothing, and its page says what to correct, and where."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping

from flask import Flask, Response, jsonify, render_template, request

import log
from config import VARIABLES, Config, ConfigError, Reader, as_https_url, as_token, platform
from khoros_client import Company, KhorosClient
from outbound import AuthFailed, ServiceError

# Where people change the variables, by platform. Each of them then starts the service again by itself.
DASHBOARDS = {
    "Heroku": "dashboard.heroku.com > your app > Settings > Reveal Config Vars",
    "Render": "dashboard.render.com > your service > Environment",
    "Fly": "fly.io/dashboard > your app > Secrets",
    "AWS Lambda": "AWS console > CloudFormation > Stacks > your stack > Update > Use existing template: its parameters",
}
# The first words of a faulty line of ROUTES.
_of_line = re.compile(r'^( +(?:line|route) [0-9]+) ".*?"(?= [^"]*(?:; for example|$))', re.MULTILINE)
ASK_EVERY_S = 10.0
CLOSED = "The service is closed until its settings are corrected. Open / in a browser: it names them."


class ClosedError(ConfigError):
    """The faults; where the company's number is one of them, with the companies of the access token."""

    def __init__(self, error: ConfigError, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(error.message, error.faults)
        self._clock = clock
        self._asked_at = -math.inf
        self._companies: list[Company] = []
        self._why_none = ""

    def companies(self) -> tuple[list[Company], str]:
        """The companies that Khoros lists, or else why there are none. Khoros is asked until it lists some, at most
        once in ASK_EVERY_S: anyone may open the page."""
        wanted = "SPREDFAST_COMPANY_ID" in self.faults and not self._companies
        if wanted and self._clock() >= self._asked_at + ASK_EVERY_S:
            self._asked_at = self._clock()
            self._companies, self._why_none = _ask_khoros()
        return self._companies, self._why_none

    def format_message(self) -> str:
        companies, why_none = self.companies()
        found = "".join(f"\n  {one.id}: {one.name}" for one in companies)
        return f"{self.message}\n{'The companies of your access token:' if found else why_none}{found}".strip()


def _ask_khoros() -> tuple[list[Company], str]:
    read = Reader(os.environ, VARIABLES)
    url, token = read("KHOROS_API_URL", as_https_url, Config.khoros_url), read("SPREDFAST_API_TOKEN", as_token, "")
    if not token:
        return [], "When SPREDFAST_API_TOKEN is right, your companies are listed here."
    try:
        return KhorosClient(url, token).companies(), "Khoros lists no company of your access token."
    except AuthFailed:
        return [], "Khoros refuses SPREDFAST_API_TOKEN: copy it again. Then your companies are listed here."
    except ServiceError:
        return [], "Khoros did not answer with your companies: try again in a minute."


def close(app: Flask, error: ConfigError, variables: Mapping[str, str]) -> None:
    """Makes the app answer 503 to everything, / with a page. `variables` has a hint for each. `current_relay` raises
    the error. The page has no value, and no word of a faulty line of ROUTES: anyone may open it."""
    app.extensions["closed"] = closed = ClosedError(error)

    @app.before_request
    def answer_closed() -> tuple[str | Response, int] | None:
        if request.endpoint == "static":
            return None
        if request.path != "/":
            return jsonify(error="Service Unavailable", message=CLOSED), 503
        where = platform(os.environ)
        faults = {variable: _of_line.sub(r"\1", fault) for variable, fault in error.faults.items()}
        place = DASHBOARDS.get(where, ".env, or wherever the variables are set")
        companies, why_none = closed.companies()
        found = {"faults": faults, "variables": variables, "companies": companies, "why_none": why_none}
        return render_template("closed.html", **found, where=where, dashboard=place), 503


def log_faults(error: ConfigError) -> None:
    """Writes a line for each fault."""
    log.configure("INFO")
    for variable, fault in error.faults.items():
        log.error("setting_refused", variable=variable, reason=fault)
