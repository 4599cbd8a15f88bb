"""Log lines as Heroku's router writes them, one for each event: `at=info event=ticket_created post=twitter:34`."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import sys
import traceback
from collections.abc import Iterable
from typing import TextIO

_is_plain = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+").fullmatch
_LOCAL_PART = re.compile(r"([^\s:,;\"'<>()/@])[^\s:,;\"'<>()/@]*@(?=[\w-]+\.)")  # of an e-mail address
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
_log = logging.getLogger("relay")
READER_WAIT_S = 1.0
PIECE = select.PIPE_BUF  # bytes that a pipe takes at once, when it takes anything


def write(level: int, name: str, /, **fields: object) -> None:
    """Writes one line. `name` is a constant; a field that is None is left out. Never give it a customer's text."""
    if _log.isEnabledFor(level):
        _log.log(level, name, extra={"fields": fields})


def debug(name: str, /, **fields: object) -> None:
    """Writes a line that only LOG_LEVEL=DEBUG shows."""
    write(logging.DEBUG, name, **fields)


def info(name: str, /, **fields: object) -> None:
    """Writes a line about something that went as it should."""
    write(logging.INFO, name, **fields)


def warning(name: str, /, **fields: object) -> None:
    """Writes a line about something that the service gets over by itself."""
    write(logging.WARNING, name, **fields)


def error(name: str, /, **fields: object) -> None:
    """Writes a line about something that needs a person."""
    write(logging.ERROR, name, **fields)


def where(error: BaseException) -> str:
    """The kind of an unforeseen error and the place it came from. Its message stays out: it may quote a customer."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}" if places else type(error).__name__


def field(value: object) -> str:
    """One logfmt value: bare when it is plain, otherwise quoted on one line; 500 characters at most."""
    text = _as_text(value)[:500]
    if _is_plain(text) and text.isprintable():
        return text
    return '"' + "".join(_ESCAPES.get(char, char if char.isprintable() else " ") for char in text) + '"'


def _as_text(value: object) -> str:
    return str(value).lower() if value is True or value is False else str(value)


class Formatter(logging.Formatter):
    """Makes logfmt of our lines and of any library's message, and masks the given secrets and e-mail addresses."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 8), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        at = record.levelname.lower()
        if hasattr(record, "fields"):
            pairs = {"at": at, "event": record.msg, **record.fields}
        else:
            failure = where(record.exc_info[1]) if record.exc_info and record.exc_info[1] else None
            pairs = {"at": at, "event": "message", "logger": record.name, "message": record.getMessage()}
            pairs |= {"error": failure} if failure else {}
        texts = {key: _as_text(value) for key, value in pairs.items() if value is not None}
        all_of_it = "".join(texts.values())
        for secret in self._secrets:
            if secret in all_of_it:
                texts = {key: text.replace(secret, "[secret]") for key, text in texts.items()}
        if "@" in all_of_it:
            texts = {key: _LOCAL_PART.sub(r"\1…@", text) for key, text in texts.items()}
        return " ".join([f"{key}={field(text)}" for key, text in texts.items()])


class Lines(logging.Handler):
    """Writes each line at once. When nobody reads the stream it waits a second, once, and then drops lines until
    somebody reads again: the relay never stops for its log. Nor does it for a full disk, or a reader that is gone."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._lost = 0
        try:
            self._file = stream.fileno() if stream else None
        except io.UnsupportedOperation:  # it is in memory
            self._file = None

    def emit(self, record: logging.LogRecord) -> None:
        before = f"at=warning event=log_lines_lost lines={self._lost}\n" if self._lost else ""
        try:
            self._write(f"{before}{self.format(record)}\n")
            self._lost = 0
        except Exception:
            self._lost += 1

    def _write(self, line: str) -> None:
        """Raises OSError when the line cannot be written now."""
        if self._file is None:
            if self._stream:
                self._stream.write(line)
            return
        data, ready = line.encode(errors="backslashreplace"), select.poll()
        ready.register(self._file, select.POLLOUT)
        while data:
            if not ready.poll(0 if self._lost else READER_WAIT_S * 1000):
                raise BlockingIOError
            data = data[os.write(self._file, data[:PIECE]) :]


def configure(level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Sends every log line of the process to `stream`, or else stdout, in this form."""
    handler = Lines(stream or sys.stdout or sys.stderr)  # either is None when it is closed
    handler.setFormatter(Formatter(secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _log.setLevel(level)
    gunicorn = logging.getLogger("gunicorn.error")
    gunicorn.handlers, gunicorn.propagate = [handler], False
