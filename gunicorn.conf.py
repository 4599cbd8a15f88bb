"""How gunicorn runs the service: the worker for the requests, and the background work of each."""

import gc
import logging
import os
import sys
import warnings
from typing import Any

from dotenv import load_dotenv
from gunicorn.glogging import Logger

import logfmt
from config import Config, ConfigError

load_dotenv(".env")

# requests guesses the encoding of texts with it. Nothing here has it do so, and it takes 3 MB of each worker.
sys.modules["charset_normalizer"] = None  # type: ignore[assignment]  # Python's way to say that there is none
warnings.filterwarnings("ignore", "Unable to find acceptable character detection")

NO_PORT = "see why in the line before; end the program that has the port, perhaps this relay itself, or set PORT"
bind = f"0.0.0.0:{os.environ.get('PORT') or 8000}"
workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
worker_class = "worker.Worker"  # gunicorn's ASGI worker, safe from slow senders
asgi_lifespan = "off"
keepalive = 95  # above the 90 s for which Heroku's router keeps its connections
graceful_timeout = 20
control_socket_disable = True
os.umask(0o077)  # an SQLite file holds customers' posts: nobody else may read it (gunicorn's own umask is for sockets)


class logger_class(Logger):  # type: ignore[misc]  # its base has no types
    """gunicorn's own lines in our form, on stdout."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        logfmt.configure("INFO")

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        super().error(msg, *args, **kwargs)
        if msg.startswith("Can't connect to"):  # its last words
            logfmt.event("not_started", logging.ERROR, reason=NO_PORT)


def on_starting(server: Any) -> None:
    """Says what is wrong with the settings once, here, rather than in every worker."""
    try:
        Config.from_env(os.environ)
    except ConfigError as error:
        sys.exit(f"{error}")


def post_worker_init(worker: Any) -> None:
    """The port is bound and the worker can answer: now the background work begins."""
    gc.collect()
    gc.freeze()  # what was loaded stays: Python need not look through it again and again for garbage
    gc.set_threshold(10_000)
    worker.wsgi.extensions["relay"].start()


def worker_exit(server: Any, worker: Any) -> None:
    """The last request is answered: what is on its way to Zendesk may still arrive."""
    if wsgi := getattr(worker, "wsgi", None):
        wsgi.extensions["relay"].stop()
