"""The one sentence: which fault it names first, what it promises, and that anybody may read it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from events import LABEL_APPLIED, RULE_APPLIED
from inbox.gate import LIMITED, OUTAGE, REFUSING, UNAUTHORISED, Gate
from inbox.items import Counts
from khoros.catch_up import CatchUpStatus
from khoros.subscription import (
    DELETED,
    FAILED,
    LOGIN_REFUSED,
    NO_ADDRESS,
    PAUSED,
    STARTING,
    SUBSCRIBED,
    WRONG_COMPANY,
    SubscriptionStatus,
)
from operations.health import BAD, GOOD, WAITING, Health
from operations.verdict import ALL_WELL, BY_ITSELF, CONNECTING, Verdict, verdicts

NOW, LATE_S = 1_700_000_000.0, 600.0
CRISIS = "slack:#crisis"
REASON = "made-up reason of a service"
WELL = Health({"zendesk": Gate()}, {}, {LABEL_APPLIED: SubscriptionStatus(SUBSCRIBED, uuid="u")}, {}, 0.0, LATE_S, NOW)
AGAIN = "label those posts again afterwards"
FETCHED = "what is missed is fetched afterwards"


def khoros(state: str, uuid: str = "", detail: str = REASON) -> dict[str, Any]:
    return {"subscriptions": {LABEL_APPLIED: SubscriptionStatus(state, detail, uuid)}}


def gate(state: str, pending: int = 0, reason: str = REASON, age_s: float = 130.0) -> dict[str, Any]:
    waiting = {"zendesk": Counts(pending, 0, age_s)} if pending else {}
    return {"gates": {"zendesk": Gate(state, reason)}, "waiting": waiting}


def parked(**counts: int) -> dict[str, Any]:
    return {"waiting": {name: Counts(0, count, None) for name, count in counts.items()}}


def poll_failing(for_s: float, *, refused: bool = False) -> dict[str, Any]:
    return {"polls": {LABEL_APPLIED: CatchUpStatus(failed=REASON, failing_since=NOW - for_s, refused=refused)}}


def khoros_down(for_s: float, address: str = "https://relay.example", uuid: str = "u") -> dict[str, Any]:
    """Khoros' API does not answer; a relay that polls has a subscription without an address."""
    wanted = (LABEL_APPLIED, address, "CreateCase")
    one = SubscriptionStatus(FAILED, REASON, uuid, wanted=wanted, failing_since=NOW - for_s)
    return {"subscriptions": {LABEL_APPLIED: one}}


SENTENCES = [
    ({}, GOOD, ALL_WELL),
    ({"waiting": {"zendesk": Counts(3, 0, 5.0)}}, GOOD, ALL_WELL),
    (khoros(STARTING), WAITING, CONNECTING),
    # A destination is down: posts wait here.
    (gate(OUTAGE), WAITING, "Zendesk does not work at the moment: new posts wait here."),
    (gate(OUTAGE, 1), WAITING, "Zendesk does not work at the moment: 1 post waits here, the oldest for 2 min."),
    (
        gate(LIMITED, 41),
        WAITING,
        "Zendesk takes no more calls at the moment: 41 posts wait here, the oldest for 2 min.",
    ),
    (gate(UNAUTHORISED, 41), BAD, "Zendesk refuses the login: 41 posts wait here, the oldest for 2 min."),
    (gate(REFUSING, 1_234), BAD, "Zendesk refuses every post: 1,234 posts wait here, the oldest for 2 min."),
    (gate("open", 2, "", 700.0), BAD, "Zendesk works, but 2 posts wait here, the oldest for 12 min."),
    # Khoros is down: labels make no tickets.
    (khoros(LOGIN_REFUSED), BAD, f"Khoros refuses the access token: labels make no tickets now; {AGAIN}."),
    (khoros(FAILED), BAD, f"The connection to Khoros does not work: labels make no tickets now; {AGAIN}."),
    (khoros(FAILED, "u"), BAD, f"The connection to Khoros does not work: labels make no tickets now; {FETCHED}."),
    (khoros(PAUSED, "u"), BAD, f"The subscription in Khoros is paused: labels make no tickets now; {AGAIN}."),
    (
        khoros(DELETED, "u"),
        BAD,
        f"The subscription in Khoros was deleted by command: labels make no tickets now; {AGAIN}.",
    ),
    (
        khoros(NO_ADDRESS),
        BAD,
        f"Khoros cannot call this service, which does not know its own address: labels make no tickets now; {AGAIN}.",
    ),
    (khoros("not_wanted"), BAD, f"The subscription in Khoros is not wanted: labels make no tickets now; {AGAIN}."),
    # Khoros' API is down: it waits by itself at first, and what Khoros posts may go on.
    (khoros_down(30.0), WAITING, f"The connection to Khoros does not work: new labels may still arrive; {FETCHED}."),
    (khoros_down(130.0), BAD, f"The connection to Khoros does not work: new labels may still arrive; {FETCHED}."),
    (khoros_down(30.0, ""), WAITING, f"The connection to Khoros does not work: labels make no tickets now; {FETCHED}."),
    (
        khoros_down(30.0, uuid=""),
        WAITING,
        f"The connection to Khoros does not work: labels make no tickets now; {AGAIN}.",
    ),
    (
        khoros(WRONG_COMPANY),
        BAD,
        f"SPREDFAST_COMPANY_ID is none of the access token's companies: labels make no tickets now; {AGAIN}.",
    ),
    ({"loses_data": True}, BAD, "Heroku deletes the relay's database at each restart: posts that wait then are lost."),
    (poll_failing(30.0), WAITING, "Missed labels cannot be fetched from Khoros."),
    (poll_failing(130.0), BAD, "Missed labels cannot be fetched from Khoros."),
    (
        poll_failing(30.0, refused=True),
        BAD,
        "Khoros refuses the access token: missed labels cannot be fetched from Khoros.",
    ),
    # Items that need a person.
    (parked(zendesk=1), BAD, "1 post needs attention: Zendesk did not take it."),
    (parked(zendesk=2), BAD, "2 posts need attention: Zendesk did not take them."),
    ({"waiting": {"": Counts(0, 1, None)}}, BAD, "1 post needs attention: nobody can read it."),
    (
        {"waiting": {"zendesk": Counts(0, 2, None), "": Counts(0, 1, None)}},
        BAD,
        "3 posts need attention: 2 for Zendesk and 1 not readable.",
    ),
    ({"waiting": {CRISIS: Counts(1, 1, 5.0)}}, BAD, "2 posts wait for Slack #crisis, but no route leads there."),
    ({"fault": REASON}, BAD, "Nothing can be stored: Khoros' calls are answered 503 until the database works again."),
]


@pytest.mark.parametrize(("changes", "level", "sentence"), SENTENCES, ids=[sentence for *_, sentence in SENTENCES])
def test_one_sentence_says_what_is_wrong(changes: dict[str, Any], level: str, sentence: str) -> None:
    [verdict] = verdicts(replace(WELL, **changes), refetches=True)
    assert (verdict.level, verdict.sentence) == (level, sentence)
    assert REASON not in verdict.sentence  # anybody may read it


def test_a_health_that_cannot_be_read_is_the_worst() -> None:
    [verdict] = verdicts(None)
    assert verdict.level == BAD and verdict.sentence.startswith("Nothing can be stored")


def test_nothing_is_promised_that_is_not_done() -> None:
    """What is missed is fetched only by a relay that polls, and only from a subscription that was there."""
    for state in (FAILED, LOGIN_REFUSED):
        for uuid, refetches, promise in (("u", True, FETCHED), ("u", False, AGAIN), ("", True, AGAIN)):
            [verdict] = verdicts(replace(WELL, **khoros(state, uuid)), refetches=refetches)
            assert verdict.sentence.endswith(f"{promise}."), (state, uuid, refetches)


def test_events_that_fail_alike_share_a_sentence() -> None:
    both = {name: SubscriptionStatus(FAILED, REASON) for name in (LABEL_APPLIED, RULE_APPLIED)}
    health = replace(WELL, subscriptions=both, gates={"zendesk": Gate(), CRISIS: Gate()})
    assert [one.sentence for one in verdicts(health)] == [
        f"The connection to Khoros does not work: labels and rules bring no posts now; {AGAIN}."
    ]


def test_what_needs_a_person_comes_first_and_nothing_is_left_out() -> None:
    gates = {CRISIS: Gate(OUTAGE, REASON), "zendesk": Gate(UNAUTHORISED, REASON)}
    waiting = {CRISIS: Counts(1, 0, 5.0), "zendesk": Counts(1, 2, 5.0)}
    found = verdicts(replace(WELL, gates=gates, waiting=waiting, **khoros(STARTING)))
    assert [(one.level, one.sentence.split(":")[0]) for one in found] == [
        (BAD, "Zendesk refuses the login"),
        (BAD, "2 posts need attention"),
        (WAITING, CONNECTING),
        (WAITING, "Slack #crisis does not work at the moment"),
    ]


def test_those_who_run_the_service_are_told_why_and_what_to_do() -> None:
    def told(changes: dict[str, Any]) -> Verdict:
        return verdicts(replace(WELL, **changes))[0]

    login = told(gate(UNAUTHORISED, reason="Zendesk refuses ZENDESK_CLIENT_ID"))
    assert login.reason == "Zendesk refuses ZENDESK_CLIENT_ID" and "Copy Identifier and Secret again" in login.to_do
    assert told(gate(OUTAGE, reason="Zendesk answered 503")).to_do == BY_ITSELF
    gone = told(gate(UNAUTHORISED, reason="Zendesk answered 404: no account works at ZENDESK_API_URL: it was renamed"))
    assert gone.sentence.startswith("Zendesk has no working account at ZENDESK_API_URL: new posts wait here")
    assert gone.to_do.startswith("Correct ZENDESK_API_URL") and gone.level == BAD
    there = told({"gates": {CRISIS: Gate(UNAUTHORISED, "Slack answered not_in_channel")}, "waiting": {}})
    assert there.sentence.startswith("Slack #crisis does not accept messages from the relay: new posts wait here")
    assert told(khoros_down(30.0)).to_do == "The relay tries again by itself."
    company = told(khoros(WRONG_COMPANY, detail="SPREDFAST_COMPANY_ID 9 is no company of the access token, which has:"))
    assert company.to_do.startswith("Set SPREDFAST_COMPANY_ID")
    assert "Resources > Add-ons" in told({"loses_data": True}).to_do
    named = told(gate(OUTAGE, reason="Zendesk (acme.zendesk.example) cannot be reached: no such host name"))
    assert "Correct ZENDESK_API_URL" in named.to_do
    assert "Copy the access token again" in told(khoros(LOGIN_REFUSED, detail="refuses SPREDFAST_API_TOKEN")).to_do
    paused = told(khoros(PAUSED, detail="to go on: flask --app app subscription resume"))
    assert (paused.reason, paused.to_do) == ("to go on: flask --app app subscription resume", "")
    assert told({"waiting": {CRISIS: Counts(1, 0, 5.0)}}).to_do.startswith("Add its line to ROUTES again")
