"""The switches of the demo's page: the ways in which the simulated Zendesk behaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sandbox.zendesk import FakeZendesk

SLOW_S = 1.5
CALLS_PER_WINDOW = 20
NO_LOGIN = {"error": "invalid_client", "error_description": "Client authentication failed"}


class Mode(NamedTuple):
    """One switch: its name, a sentence for the page, and the function that turns it on in a healthy account."""

    name: str
    says: str
    begin: Callable[[FakeZendesk], None]


def _slow(zendesk: FakeZendesk) -> None:
    zendesk.latency_s = SLOW_S


def _limited(zendesk: FakeZendesk) -> None:
    zendesk.set_rate(CALLS_PER_WINDOW)


def _down(zendesk: FakeZendesk) -> None:
    zendesk.faults.outage(503)


def _refusing(zendesk: FakeZendesk) -> None:
    zendesk.faults.outage(401, path="/oauth/", body=NO_LOGIN)
    zendesk.expire_tokens()  # the relay keeps its token for half an hour otherwise


MODES = {
    mode.name: mode
    for mode in (
        Mode("healthy", "Zendesk answers at once.", lambda zendesk: None),
        Mode("slow", f"Every answer takes {SLOW_S:g} seconds.", _slow),
        Mode("rate limited", f"Zendesk accepts {CALLS_PER_WINDOW} calls in ten seconds.", _limited),
        Mode("down", "Zendesk answers 503 to everything.", _down),
        Mode("refusing logins", "Zendesk refuses the relay's credentials.", _refusing),
    )
}


def set_mode(zendesk: FakeZendesk, name: str) -> None:
    """Turns the present mode off and this one on. Raises KeyError for an unknown mode."""
    begin = MODES[name].begin
    zendesk.faults.clear()
    zendesk.latency_s = 0.0
    zendesk.set_rate(None)
    begin(zendesk)
