"""The switches of the demo's page: the ways in which each simulated destination behaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sandbox.receiver import FakeReceiver, new_secret
from sandbox.slack import FakeSlack
from sandbox.zendesk import FakeZendesk

HEALTHY, DOWN = "healthy", "down"
SLOW_S = 1.5
CALLS_PER_WINDOW = 20
NO_LOGIN = {"error": "invalid_client", "error_description": "Client authentication failed"}


class Mode(NamedTuple):
    """One position of a switch: its name, a sentence for the page, and what turns it on in a healthy service."""

    name: str
    says: str
    begin: Callable[[], object] = lambda: None


class Switch:
    """The modes of one service, the first of which is HEALTHY. `heal` ends every other one."""

    def __init__(self, modes: Sequence[Mode], heal: Callable[[], object]) -> None:
        self.modes, self._heal = {mode.name: mode for mode in modes}, heal
        self.mode = modes[0]

    def turn(self, name: str) -> None:
        """Ends the present mode and begins this one. Raises KeyError for an unknown mode."""
        mode = self.modes[name]
        self._heal()
        mode.begin()
        self.mode = mode


def zendesk_switch(zendesk: FakeZendesk) -> Switch:
    """How the simulated Zendesk behaves."""

    def heal() -> None:
        zendesk.faults.clear()
        zendesk.latency_s = 0.0
        zendesk.set_rate(None)

    def refuse_logins() -> None:
        zendesk.faults.outage(401, path="/oauth/", body=NO_LOGIN)
        zendesk.expire_tokens()  # the relay keeps its token for half an hour otherwise

    limit = f"Zendesk accepts {CALLS_PER_WINDOW} calls in ten seconds."
    modes = (
        Mode(HEALTHY, "Zendesk answers at once."),
        Mode("slow", f"Every answer takes {SLOW_S:g} seconds.", lambda: setattr(zendesk, "latency_s", SLOW_S)),
        Mode("rate limited", limit, lambda: zendesk.set_rate(CALLS_PER_WINDOW)),
        Mode(DOWN, "Zendesk answers 503 to everything.", lambda: zendesk.faults.outage(503)),
        Mode("refusing logins", "Zendesk refuses the relay's credentials.", refuse_logins),
    )
    return Switch(modes, heal)


def slack_switch(slack: FakeSlack, channel: str) -> Switch:
    """How the simulated Slack behaves, and its channel with this name."""

    def heal() -> None:
        slack.faults.clear()
        slack.latency_s = 0.0
        slack.add_channel(channel, archived=False)

    archived = f"Somebody has archived #{channel}: other channels and people go on."
    modes = (
        Mode(HEALTHY, "Slack takes one message a second for each channel."),
        Mode("slow", f"Every answer takes {SLOW_S:g} seconds.", lambda: setattr(slack, "latency_s", SLOW_S)),
        Mode(DOWN, "Slack answers 503 to everything.", lambda: slack.faults.outage(503)),
        Mode("archived", archived, lambda: slack.add_channel(channel, archived=True)),
        Mode(
            "token revoked",
            "Slack refuses the relay's token.",
            lambda: slack.fail_with(None, "token_revoked", path="/api"),
        ),
    )
    return Switch(modes, heal)


def webhook_switch(receiver: FakeReceiver) -> Switch:
    """How the receiver of webhooks behaves."""
    secret = receiver.secret

    def heal() -> None:
        receiver.faults.clear()
        receiver.secret = secret

    modes = (
        Mode(HEALTHY, "The receiver verifies each signature."),
        Mode(DOWN, "It answers 503 to everything.", lambda: receiver.faults.outage(503)),
        Mode(
            "other secret",
            "It knows another secret, so no signature fits.",
            lambda: setattr(receiver, "secret", new_secret()),
        ),
    )
    return Switch(modes, heal)
