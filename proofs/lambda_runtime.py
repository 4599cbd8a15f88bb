"""AWS Lambda as far as its documentation describes it, on this machine: execution environments that are frozen between
their invocations, functions that have several of them, and what a function URL, an HTTP API and EventBridge Scheduler
send (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR")  # the machine's, not a deployer's settings
TEXT_TYPES = ("text/", "application/json", "application/xml", "application/javascript")  # AWS sends them as they are

Json = dict[str, Any]


class Crashed(Exception):
    """The execution environment was killed, or the function took longer than its time-out."""


class Environment:
    """One execution environment: a process that has imported `handler`, and is frozen while nothing is invoked.

    `on_invoke` gets what the function gives to Lambda's Invoke: the name of a function and a payload. `output` has the
    log lines; `init_s` is the time that the import took, known after the first invocation.
    """

    def __init__(self, handler: str, env: Mapping[str, str], on_invoke: Callable[[str, Json], object]) -> None:
        self.env, self.output, self.init_s = dict(env), list[str](), 0.0
        self._on_invoke, self._result = on_invoke, None
        asks, answers = os.pipe(), os.pipe()
        plain = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ours = {"AWS_LAMBDA_FUNCTION_NAME": handler, "PYTHONUNBUFFERED": "1", "PYTHON_DOTENV_DISABLED": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, __file__, handler, str(asks[0]), str(answers[1])],
            cwd=ROOT,
            env={**plain, **ours, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(asks[0], answers[1]),
            encoding="utf-8",
            errors="replace",
        )
        os.close(asks[0])
        os.close(answers[1])
        self._asks, self._answers = os.fdopen(asks[1], "w"), os.fdopen(answers[0])
        threading.Thread(target=self._read, daemon=True).start()

    def invoke(self, event: Json, timeout_s: float = 60.0) -> Json:
        """What the function answers: its `result` or its `error`, and the `threads` that it has left behind. Then the
        environment is frozen. Raises Crashed."""
        self.signal(signal.SIGCONT)
        limit = threading.Timer(timeout_s, self.kill)
        limit.start()
        try:
            self._asks.write(json.dumps({"event": event, "timeout_s": timeout_s}) + "\n")
            self._asks.flush()
            for line in self._answers:
                said: Json = json.loads(line)
                if "invoke" in said:
                    self._on_invoke(said["invoke"], said["payload"])
                else:
                    self.init_s = said["init_s"]
                    return said
        except (OSError, ValueError):
            pass  # it was killed while it read or wrote
        finally:
            limit.cancel()
            self.signal(signal.SIGSTOP)
        raise Crashed("\n".join(self.output[-10:]))

    def signal(self, number: int) -> None:
        """Sends a signal to the process, which may be gone."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a warning, as Lambda does after a time-out or when it needs the machine."""
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    def close(self) -> None:
        """Ends it and closes the pipes."""
        self.kill()
        for pipe in (self._asks, self._answers):
            try:
                pipe.close()
            except OSError:
                pass  # what was written last has no reader

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        with self._process.stdout as lines:
            for line in lines:
                self.output.append(line.rstrip("\n"))


class Function:
    """A function: as many environments as it has invocations at once. `around` gets each environment before an
    invocation and returns what to do after it: the place for faults."""

    def __init__(
        self,
        handler: str,
        env: Mapping[str, str],
        on_invoke: Callable[[str, Json], object] = lambda name, payload: None,
        *,
        timeout_s: float = 60.0,
        around: Callable[[str, Environment, bool], Callable[[], object]] = lambda handler, one, cold: lambda: None,
    ) -> None:
        self.handler, self.made = handler, 0
        self.output: list[str] = []
        self._env, self._on_invoke, self._timeout_s, self._around = env, on_invoke, timeout_s, around
        self._idle: list[Environment] = []
        self._lock = threading.Lock()

    def invoke(self, event: Json) -> Json:
        """Invokes it in an environment that is free, or a new one. Raises Crashed."""
        with self._lock:
            one = self._idle.pop() if self._idle else None
            self.made += one is None
        cold = one is None
        one = one or Environment(self.handler, self._env, self._on_invoke)
        after = self._around(self.handler, one, cold)
        try:
            said = one.invoke(event, self._timeout_s)
        except Crashed:
            self._end(one)
            raise
        finally:
            after()
        with self._lock:
            self._idle.append(one)
        return said

    def recycle(self) -> None:
        """Ends the environments that are free: the next invocations are cold starts."""
        with self._lock:
            free, self._idle = self._idle, []
        for one in free:
            self._end(one)

    def _end(self, one: Environment) -> None:
        one.close()
        self.output += one.output


# What AWS sends


def function_url_event(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Json:
    """A request to a function URL (https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html)."""
    domain = "abcdefghijklmnopqrstuvwxyz012345.lambda-url.eu-west-1.on.aws"
    return _payload_2("anonymous", domain, "$default", method, path, headers, body)


def http_api_event(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Json:
    """A request to an HTTP API, payload format 2.0
    (https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html)."""
    domain = "a1b2c3d4e5.execute-api.eu-west-1.amazonaws.com"
    route = f"{method} /{{proxy+}}"
    return {
        **_payload_2("123456789012", domain, route, method, path, headers, body),
        "pathParameters": {"proxy": path[1:]},
    }


def scheduler_event() -> Json:
    """What EventBridge Scheduler sends when a schedule has no input of its own."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-11-28T00:00:00Z",
        "region": "eu-west-1",
        "resources": ["arn:aws:scheduler:eu-west-1:123456789012:schedule/default/relay-each-minute"],
        "detail": "{}",
    }


def _payload_2(
    account: str, domain: str, route: str, method: str, path: str, headers: Mapping[str, str], body: bytes
) -> Json:
    path, _, query = path.partition("?")
    sent = {name.lower(): value for name, value in headers.items()}
    as_text = sent.get("content-type", "text/").startswith(TEXT_TYPES) and "content-encoding" not in sent
    event: Json = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            **sent,
            "host": domain,
            "content-length": str(len(body)),
            "x-amzn-trace-id": f"Root=1-{int(time.time()):08x}-0123456789abcdef01234567",
            "x-forwarded-for": "203.0.113.9",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": account,
            "apiId": domain.partition(".")[0],
            "domainName": domain,
            "domainPrefix": domain.partition(".")[0],
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.9",
                "userAgent": sent.get("user-agent", "Khoros"),
            },
            "requestId": str(uuid.uuid4()),
            "routeKey": route,
            "stage": "$default",
            "time": "28/Nov/2026:00:00:00 +0000",
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": not as_text,
    }
    if body:
        event["body"] = body.decode() if as_text else base64.b64encode(body).decode()
    return event


# Inside an environment


class _Context:
    """What Lambda's own runtime gives to a handler, as far as ours use it."""

    def __init__(self, timeout_s: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._ends_at = time.monotonic() + timeout_s

    def get_remaining_time_in_millis(self) -> int:
        return int((self._ends_at - time.monotonic()) * 1000)


def main(handler: str, asks: int, answers: int) -> None:
    """Imports the handler and calls it for each line that comes."""
    from types import ModuleType

    with os.fdopen(asks) as events, os.fdopen(answers, "w") as out:

        def say(said: Json) -> None:
            out.write(json.dumps(said) + "\n")
            out.flush()

        class Client:
            def invoke(self, *, FunctionName: str, InvocationType: str, Payload: str) -> None:  # noqa: N803
                if InvocationType != "Event":
                    raise ValueError("it would wait for the answer")
                if FunctionName == "forbidden":
                    raise PermissionError("AccessDeniedException")
                say({"invoke": FunctionName, "payload": json.loads(Payload)})

        boto3, botocore, config = ModuleType("boto3"), ModuleType("botocore"), ModuleType("botocore.config")
        boto3.client = lambda name, config: Client()  # type: ignore[attr-defined]  # a module made here
        config.Config = lambda **options: options  # type: ignore[attr-defined]  # the same
        sys.modules |= {"boto3": boto3, "botocore": botocore, "botocore.config": config}
        sys.path[0] = str(ROOT)
        began_at = time.perf_counter()
        import aws_lambda

        init_s = time.perf_counter() - began_at
        for line in events:
            asked, began_at = json.loads(line), time.perf_counter()
            said: Json = {}
            try:
                said["result"] = getattr(aws_lambda, handler)(asked["event"], _Context(asked["timeout_s"]))
            except Exception as error:
                said["error"] = f"{type(error).__name__}: {error}"
            said |= {"init_s": init_s, "took_s": time.perf_counter() - began_at}
            say({**said, "threads": [thread.name for thread in threading.enumerate()]})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
