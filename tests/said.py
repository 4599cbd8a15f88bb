"""The log of a test run: the lines of relay processes, and every log record before secrets are masked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from log import Formatter
from sandbox.posts import posts_at
from sandbox.relay import Relay

SECRETS = ("SPREDFAST_API_TOKEN", "NOTIFICATION_BEARER_TOKEN", "ZENDESK_CLIENT_SECRET", "ZENDESK_API_TOKEN")
_RUN_OF_WORDS = re.compile(r"[^\W_][\w' ,-]{14,}")  # only characters that logfmt does not escape


class Said:
    """Collects `relays` and `lines` while it listens. `leaks()` are the lines with something private."""

    def __init__(self, *private: str) -> None:
        self.relays: list[Relay] = []
        self.lines: list[str] = []
        self._private = {*private, *runs_of_words(*(str(post["text"] or "") for post in posts_at(0)))}

    @contextmanager
    def listening(self) -> Iterator[None]:
        form, handle, make = Formatter().format, logging.Logger.handle, Relay.__init__

        def handled(logger: logging.Logger, record: logging.LogRecord) -> None:
            self.lines.append(form(record))
            handle(logger, record)

        def made(relay: Relay, *args: Any, **options: Any) -> None:
            make(relay, *args, **options)
            self.relays.append(relay)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.Logger, "handle", handled)
            patch.setattr(Relay, "__init__", made)
            yield

    def leaks(self) -> list[str]:
        """The lines with a secret or a customer's words."""
        private = self._private | {relay.env.get(name, "") for relay in self.relays for name in SECRETS} - {""}
        lines = self.lines + [line for relay in self.relays for line in relay.output]
        return [line for line in lines if any(word in line for word in private)]


def runs_of_words(*texts: str) -> set[str]:
    """The longer runs of plain words in texts. A whole text would not do: logfmt escapes its quotes and line breaks."""
    return {run for text in texts for run in _RUN_OF_WORDS.findall(text)}
