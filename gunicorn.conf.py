"""How gunicorn runs the service: threads for the requests, and the background work of each worker."""

import os
import signal
import sys
from datetime import timedelta
from typing import Any

from dotenv import load_dotenv
from gunicorn.glogging import Logger

import logfmt
from config import Config, ConfigError

load_dotenv(".env")

bind = f"0.0.0.0:{os.environ.get('PORT') or 8000}"
workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
worker_class = "worker.Worker"  # gunicorn's threaded worker, safe from slow senders
threads = 16
keepalive = 95  # above the 90 s for which Heroku's router keeps its connections
graceful_timeout = 20
control_socket_disable = True
os.umask(0o077)  # an SQLite file holds customers' posts: nobody else may read it (gunicorn's own umask is for sockets)
accesslog = "-"
access_log_format = (
    'at=info event=request method=%(m)s path="%(U)s" status=%(s)s took_ms=%(M)s request_id="%({x-request-id}i)s"'
)


class logger_class(Logger):  # type: ignore[misc]  # its base has no types
    """gunicorn's own lines in our form, on stdout."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logfmt.configure("INFO")

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> dict[str, Any]:
        """What our line is made of. gunicorn's own collects every header of both ways for it first."""
        return {
            "m": environ["REQUEST_METHOD"],
            "U": environ.get("PATH_INFO", req.path),
            "s": resp.status.partition(" ")[0],
            "M": int(request_time.total_seconds() * 1000),
            "{x-request-id}i": environ.get("HTTP_X_REQUEST_ID", "-"),
        }

    def warning(self, msg: Any, *args: Any, **options: Any) -> None:
        """Leaves out what gunicorn quotes of a broken request: after a wrong length that is the middle of a post."""
        if str(msg).startswith("Invalid request from ip="):
            msg = str(msg).partition(": ")[0]
        super().warning(msg, *args, **options)


def on_starting(server: Any) -> None:
    """Says what is wrong with the settings once, here, rather than in every worker."""
    try:
        Config.from_env(os.environ)
    except ConfigError as error:
        sys.exit(f"{error}")


def post_worker_init(worker: Any) -> None:
    """The port is bound and the worker can answer: now the background work begins."""
    relay = worker.wsgi.extensions["relay"]
    finish_requests = signal.getsignal(signal.SIGTERM)

    def stop(signum: int, frame: Any) -> None:
        relay.delivery.stop_claiming()
        finish_requests(signum, frame)  # type: ignore[operator,misc]  # gunicorn has set a function

    signal.signal(signal.SIGTERM, stop)
    relay.start()


def worker_exit(server: Any, worker: Any) -> None:
    """The last request is answered: what is on its way to Zendesk may still arrive."""
    if wsgi := getattr(worker, "wsgi", None):
        wsgi.extensions["relay"].stop()
