"""Reads the relay's log lines, for the demo's page."""

from __future__ import annotations

import re
from typing import NamedTuple

_PAIR = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)')
_NOISE = re.compile(r"at=info event=(message logger=gunicorn|request .*\bpath=/(health|metrics|static/\S*) )")


class LogLine(NamedTuple):
    """One line: its number since the first start, its level, its event and its other fields."""

    number: int
    level: str
    event: str
    fields: list[tuple[str, str]]


def read_line(number: int, line: str) -> LogLine:
    """Splits a logfmt line. A line in another form becomes the event's name, without fields."""
    pairs = [(name, _unquoted(value)) for name, value in _PAIR.findall(line)]
    known = dict(pairs)
    if "at" not in known or "event" not in known:
        return LogLine(number, "info", line, [])
    rest = [(name, value) for name, value in pairs if name not in ("at", "event")]
    return LogLine(number, known["at"], known["event"], rest)


def is_noise(line: str) -> bool:
    """Whether the line tells nothing about a post: the server's own lines, and requests for static files, /health and
    /metrics, which open pages make all the time."""
    return _NOISE.match(line) is not None


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
