"""AWS Lambda: `http` answers web requests, `scheduled` delivers and does all else that is due (docs/decisions/0027)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from apig_wsgi import make_lambda_handler
from flask import Flask

import log
from app import create_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

DELIVER_ONLY = {"deliver_only": True}  # the payload of an invocation that waits for no schedule
RESERVE_S = 20.0  # of the function's time, for the calls that are under way when nothing more is claimed
LEAST_S = 30.0  # with less a tick delivers little or nothing
LEADS_TO_WORK = (202, 303)  # a notification was accepted, a person pressed a button
INVOKE_S = 2  # for Lambda to take an invocation: until then the answer waits too

Json = dict[str, Any]


def http(event: Json, context: Any) -> Json:
    """A web request, from a function URL, an API Gateway or a load balancer. What it commits is delivered by
    `scheduled`, which is invoked at once. Without valid settings each answer is 503. Raises ValueError for what is no
    web request."""
    request = as_request(event, context.aws_request_id)
    service, answer = open_service()
    relay = service.extensions.get("relay")
    if relay:
        relay.resume()
    result = answer(request, context)
    if relay and result["statusCode"] in LEADS_TO_WORK:
        ask_for_tick(relay)
    return result


def scheduled(event: Json, context: Any) -> None:
    """One round of the work that runs in the background elsewhere. Raises ConfigError without valid settings, and
    DatabaseUnavailable."""
    service, _ = open_service()
    if closed := service.extensions.get("closed"):
        raise closed
    relay = service.extensions["relay"]
    relay.resume()
    left_s = context.get_remaining_time_in_millis() / 1000
    if left_s < LEAST_S:
        log.error("too_little_time", seconds=round(left_s, 1), reason="set the function's time-out to 120 s")
    relay.tick(left_s - RESERVE_S, deliver_only=event == DELIVER_ONLY)


@cache
def open_service() -> tuple[Flask, Callable[[Json, Any], Json]]:
    """The app of this process, and the function that gives it a request. Nothing of ours runs in the background."""
    service = create_app()
    if relay := service.extensions.get("relay"):
        relay.receiver.open = True

    def at_stage(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        environ["SCRIPT_NAME"] = environ["apig_wsgi.full_event"]["prefix"]  # links begin with it
        return service(environ, start)

    return service, make_lambda_handler(at_stage)


def as_request(event: Any, request_id: str) -> Json:
    """The event for apig_wsgi: its path is ours and `prefix` is what stands before it at the sender's; the name of the
    request is Lambda's. Header names with _ are left out: WSGI takes _ and - for the same. Raises ValueError."""
    if not isinstance(event, dict) or not ("rawPath" in event or "httpMethod" in event):
        raise ValueError("http answers web requests only: call its URL, or invoke the other function")
    context = event.get("requestContext") or {}
    path, stage = "rawPath" if "rawPath" in event else "path", f"/{context.get('stage')}"
    request = {**event, "headers": _headers(event.get("headers"), request_id), "prefix": ""}
    if "multiValueHeaders" in event:
        request["multiValueHeaders"] = _headers(event["multiValueHeaders"], [request_id])
    if stage != "/$default" and ".execute-api." in str(context.get("domainName")):  # no domain of one's own
        request["prefix"] = stage
    if f"{event[path]}/".startswith(f"{stage}/"):
        request[path] = event[path].removeprefix(stage) or "/"
    return request


def _headers(given: Json | None, request_id: str | list[str]) -> Json:
    kept = {name: value for name, value in (given or {}).items() if "_" not in name and name.lower() != "x-request-id"}
    return {**kept, "x-request-id": request_id}


def ask_for_tick(relay: Any) -> None:
    """Invokes `scheduled` unless an invocation is on its way. When that fails the schedule comes within a minute."""
    name = os.environ.get("DELIVER_FUNCTION")
    try:
        if name and relay.needs_tick():
            lambda_client().invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(DELIVER_ONLY))
    except Exception as error:
        log.warning("not_invoked", function=name, error=log.where(error))


@cache
def lambda_client() -> Any:
    """Lambda's own client, which is part of its Python (https://docs.aws.amazon.com/lambda/latest/api/API_Invoke)."""
    import boto3  # type: ignore[import-not-found]  # not in requirements.txt: only http needs it
    from botocore.config import Config  # type: ignore[import-not-found]  # comes with boto3

    once = Config(connect_timeout=INVOKE_S, read_timeout=INVOKE_S, retries={"max_attempts": 0})
    return boto3.client("lambda", config=once)
