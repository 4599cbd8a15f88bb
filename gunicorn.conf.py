"""How gunicorn runs the service: the worker for the requests, and the background work of each."""

import os
import re
import sys
import tempfile
from contextlib import suppress
from typing import Any

from dotenv import load_dotenv
from gunicorn.glogging import Logger

import log
from app import Settings
from config import ConfigError, platform

try:
    load_dotenv(".env")
except ValueError:  # other bytes than UTF-8, or the null bytes of UTF-16
    sys.exit("The file .env cannot be read: save it again as plain text in UTF-8.")

NO_PORT = "end the program that has the port, perhaps this relay itself, or set PORT to another one"
NO_SUCH_PORT = "PORT is not a whole number from 0 to 65535: correct it, or leave it out for 8000."
POLLS = "Khoros cannot call a laptop: the relay asks Khoros for labels by itself. To be called, set PUBLIC_URL"
ONE_WORKER = "WEB_CONCURRENCY is not a whole number from 1 on: one worker is started"
NO_WORKERS = "There are 0 workers: nobody would answer. Set --workers or WEB_CONCURRENCY to 1 or more."
NO_FOLDER = "gunicorn needs a folder for small files: let the relay write to /tmp or /dev/shm, or to a folder in TMPDIR"


def check_settings() -> None:
    """Says what is wrong with the settings once, here, and not in every worker, nor in the app that --preload loads."""
    try:
        Settings.from_env(os.environ)
    except ConfigError as error:
        if not platform(os.environ):  # there the service starts all the same and shows them
            sys.exit(f"{error}")


def heartbeat_folder() -> str | None:
    """Where gunicorn's workers show that they live: the usual folder, or memory when the disk is read-only."""
    for folder in (None, "/dev/shm"):  # noqa: S108 - gunicorn makes the files there safely
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder):
            return folder
    sys.exit(NO_FOLDER)


on_laptop = bool(os.environ.get("ON_LAPTOP"))  # from `make run`
polls_by_itself = on_laptop and not (os.environ.get("PUBLIC_URL") or os.environ.get("KHOROS_DELIVERY"))
raw_env = ["KHOROS_DELIVERY=poll"] if polls_by_itself else []
check_settings()
port = os.environ.get("PORT") or "8000"
if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
    sys.exit(NO_SUCH_PORT)
bind = f"127.0.0.1:{port}" if on_laptop else f"0.0.0.0:{port}"
wanted_workers = os.environ.get("WEB_CONCURRENCY") or "1"
workers = int(wanted_workers) if re.fullmatch(r"[1-9][0-9]?", wanted_workers) else 1
worker_tmp_dir = heartbeat_folder()
worker_class = "server.Worker"
keepalive = 95  # seconds; above the 90 for which Heroku's router keeps its connections
graceful_timeout = 20  # seconds
control_socket_disable = True
os.umask(0o077)  # an SQLite file has customers' posts: nobody else may read it (gunicorn's own umask is for sockets)


class logger_class(Logger):  # type: ignore[misc]  # its base has no types
    """Writes gunicorn's own lines in our form, on stdout; one line when the port cannot be used."""

    port_fault = ""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log.configure("INFO")

    def error(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg.startswith("connection to "):  # gunicorn tries it five times, and says each time two things
            self.port_fault = re.sub(r"connection to .*?([0-9]+)\) failed: (\[.*?\] )?", r"port \1: ", msg)
        elif msg.startswith("Can't connect to"):  # and ends
            log.error("not_started", reason=f"{self.port_fault}; {NO_PORT}")
        elif not msg.startswith("Connection in use"):
            super().error(msg, *args, **kwargs)


def on_starting(server: Any) -> None:
    """Says that a setting cannot be followed."""
    if not server.cfg.workers:
        sys.exit(NO_WORKERS)
    if wanted_workers != str(workers):
        log.warning("not_followed", variable="WEB_CONCURRENCY", reason=ONE_WORKER)
    if polls_by_itself:
        log.info("polls", reason=POLLS)


def when_ready(server: Any) -> None:
    """The port is bound."""
    if on_laptop:
        print(f"Open http://127.0.0.1:{port}", flush=True)


def post_worker_init(worker: Any) -> None:
    """The port is bound and the worker can answer: the background work begins."""
    if relay := worker.wsgi.extensions.get("relay"):  # none when the settings are faulty
        relay.start()


def worker_exit(server: Any, worker: Any) -> None:
    """The last request is answered: what is on its way to a destination may still arrive."""
    wsgi = getattr(worker, "wsgi", None)
    if relay := wsgi and wsgi.extensions.get("relay"):
        relay.stop()
