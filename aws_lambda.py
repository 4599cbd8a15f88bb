"""AWS Lambda: `http` answers web requests, `scheduled` delivers and does all else that is due (docs/decisions/0027)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from apig_wsgi import make_lambda_handler
from flask import Flask

import log
from app import create_app

DELIVER_ONLY = {"deliver_only": True}  # the payload of an invocation that waits for no schedule
RESERVE_S = 20.0  # of the function's time, for the calls that are under way when nothing more is claimed
LEADS_TO_WORK = (202, 303)  # a notification was accepted, a person pressed a button
INVOKE_S = 2  # for Lambda to take an invocation: until then the answer waits too

Json = dict[str, Any]


def http(event: Json, context: Any) -> Json:
    """A web request, from a function URL, an API Gateway or a load balancer. What it commits is delivered by
    `scheduled`, which is invoked at once. Without valid settings each answer is 503."""
    service, answer = open_service()
    relay = service.extensions.get("relay")
    if relay:
        relay.resume()
    event = {**event, "headers": {"x-request-id": context.aws_request_id, **(event.get("headers") or {})}}
    result = answer(event, context)
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
    relay.tick(context.get_remaining_time_in_millis() / 1000 - RESERVE_S, deliver_only=event == DELIVER_ONLY)


@cache
def open_service() -> tuple[Flask, Callable[[Json, Any], Json]]:
    """The app of this process, and the function that gives it a request. Nothing of ours runs in the background."""
    service = create_app()
    if relay := service.extensions.get("relay"):
        relay.receiver.open = True
    return service, make_lambda_handler(service)


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
    from botocore.config import Config  # type: ignore[import-not-found]

    once = Config(connect_timeout=INVOKE_S, read_timeout=INVOKE_S, retries={"max_attempts": 0})
    return boto3.client("lambda", config=once)
