"""One attempt: makes a call, and says what came of it and whose fault it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import log
from destinations.destination import Destination, LeaseLost, Sent
from inbox.database import DatabaseUnavailable
from inbox.gate import LIMITED, OUTAGE, UNAUTHORISED
from inbox.items import REFUSED, Draft, Item, Outcome
from outbound import AuthFailed, Limited, Rejected, ServiceError

PATIENCE = 5  # attempts after which a check finds out whether the item or the destination is the cause

Call = Sequence[Item]  # what one call tells of: an item, or a digest of many


def attempt(destination: Destination, call: Call, refreeze: Callable[[Item, Draft], Item]) -> Outcome:
    """Makes one call; whatever it raises is an outcome with a reason. Raises only what leaves nothing to record:
    LeaseLost and DatabaseUnavailable, from `refreeze`."""
    started, shared = time.monotonic(), len(call) > 1
    try:
        return success(_send(destination, call, refreeze), time.monotonic() - started)
    except (LeaseLost, DatabaseUnavailable):
        raise
    except ServiceError as error:
        outcome = replace(failure(error, time.monotonic() - started), shared=shared)
    except Exception as error:
        log.error("delivery_broken", **names(call[0]), error=log.where(error))
        return replace(broken(error, time.monotonic() - started), shared=shared)
    often = outcome.how == OUTAGE and min(item.attempts for item in call) >= PATIENCE
    if outcome.item_only or not (often or outcome.how in (REFUSED, UNAUTHORISED)):
        return outcome
    return _blamed(destination, outcome)


def _send(destination: Destination, call: Call, refreeze: Callable[[Item, Draft], Item]) -> Sent:
    digest, item = destination.digest, call[0]
    return (
        digest.send(call) if digest and len(call) > 1 else destination.send(item, lambda draft: refreeze(item, draft))
    )


def _blamed(destination: Destination, outcome: Outcome) -> Outcome:
    """The outcome of a call that failed perhaps because of its item: a check of the destination proves it."""
    try:
        destination.check()
    except ServiceError as error:
        found = failure(error, outcome.took_s)
        if not (found.item_only or (found.how == LIMITED and found.calls_left)):  # that would be about the check alone
            how = UNAUTHORISED if found.how == REFUSED else found.how
            return replace(outcome, how=how, reason=found.reason, retry_after_s=found.retry_after_s)
    except Exception as error:  # then nothing speaks against the destination
        log.error("check_broken", destination=destination.name, error=log.where(error))
    if outcome.how == UNAUTHORISED:
        said, title = " ".join(str(part) for part in (outcome.status, outcome.code) if part), destination.title
        outcome = replace(outcome, of_all=f"{title} refuses each post ({said}) though it takes our credentials")
        outcome = replace(outcome, reason=f"{title} refuses this one post ({said}) and takes others")
    if outcome.how != REFUSED:
        return replace(outcome, item_only=True)
    return replace(outcome, how=OUTAGE, item_only=True) if outcome.shared else outcome  # each is sent alone


def success(sent: Sent, took_s: float) -> Outcome:
    """The outcome of a call that was taken."""
    outcome = Outcome(sent.how, took_s, sent.reference, status=sent.status, request_id=sent.request_id)
    return replace(outcome, **vars(sent.quota)) if sent.quota else outcome


def failure(error: ServiceError, took_s: float) -> Outcome:
    """The outcome of a call that the service did not take."""
    how = OUTAGE
    for kind, word in ((Rejected, REFUSED), (AuthFailed, UNAUTHORISED), (Limited, LIMITED)):
        if isinstance(error, kind):
            how = word
    outcome = Outcome(how, took_s, reason=str(error)[:500], status=error.status, code=error.code)
    outcome = replace(outcome, request_id=error.request_id, retry_after_s=error.retry_after_s)
    outcome = replace(outcome, item_only=error.item_only)
    return replace(outcome, **vars(error.quota)) if error.quota else outcome


def broken(error: Exception, took_s: float) -> Outcome:
    """The outcome of a call that ended in a fault of our own."""
    kind = type(error).__name__
    reason = f"the relay itself failed ({kind}): see delivery_broken in its log"
    return Outcome(OUTAGE, took_s, reason=reason, code=kind, item_only=True)


def names(item: Item) -> dict[str, object]:
    """What every line about an item says first."""
    same = {"post": item.subject_id, "event_uuid": item.event_uuid, "request_id": item.request_id}
    return {"destination": item.destination, **same}
