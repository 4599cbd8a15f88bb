"""How gunicorn runs the service: the worker for the requests, and the background work of each."""

import os
import sys
from typing import Any

from dotenv import load_dotenv
from gunicorn.glogging import Logger

import log
from app import Settings
from config import ConfigError

load_dotenv(".env")

NO_PORT = "see why in the line before; end the program that has the port, perhaps this relay itself, or set PORT"
bind = f"0.0.0.0:{os.environ.get('PORT') or 8000}"
workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
worker_class = "server.Worker"
keepalive = 95  # seconds; above the 90 for which Heroku's router keeps its connections
graceful_timeout = 20  # seconds
control_socket_disable = True
os.umask(0o077)  # an SQLite file has customers' posts: nobody else may read it (gunicorn's own umask is for sockets)


class logger_class(Logger):  # type: ignore[misc]  # its base has no types
    """Writes gunicorn's own lines in our form, on stdout."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log.configure("INFO")

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        super().error(msg, *args, **kwargs)
        if msg.startswith("Can't connect to"):  # gunicorn ends after this line
            log.error("not_started", reason=NO_PORT)


def on_starting(server: Any) -> None:
    """Says what is wrong with the settings once, here, and not in every worker."""
    try:
        Settings.from_env(os.environ)
    except ConfigError as error:
        sys.exit(f"{error}")


def post_worker_init(worker: Any) -> None:
    """The port is bound and the worker can answer: the background work begins."""
    worker.wsgi.extensions["relay"].start()


def worker_exit(server: Any, worker: Any) -> None:
    """The last request is answered: what is on its way to a destination may still arrive."""
    if wsgi := getattr(worker, "wsgi", None):
        wsgi.extensions["relay"].stop()
