"""How the outcome of one call becomes columns of its items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inbox import statements as sql
from inbox.database import Session, in_list
from inbox.gate import REFUSING, Gate
from inbox.gates import judged, moved_gate
from inbox.items import Item, Outcome, Past, Settled
from inbox.rows import attempt_values, settlement

TOGETHER = 500  # ids in one statement: SQLite may take only 999 values


def settle_call(
    db: Session, owner: str, gate: Gate, now: float, call: Sequence[tuple[Item, Outcome]]
) -> Iterator[Settled]:
    """Records what one call of `owner` told of; each answer has the gate after it. A digest that was delivered takes
    few statements: when the process ends before they are committed, all its items are sent again."""
    outcome = call[0][1]
    if len(call) > 1 and outcome.is_delivered:
        yield from _settle_delivered(db, owner, gate, now, [item for item, _ in call], outcome)
        return
    for item, _ in call:
        settled = _settle_item(db, owner, gate, now, item, judged(gate, now, outcome))
        gate = settled.after
        yield settled


def _settle_delivered(
    db: Session, owner: str, before: Gate, now: float, items: Sequence[Item], outcome: Outcome
) -> Iterator[Settled]:
    gate = moved_gate(before, now, items[0], outcome, Past())
    columns = settlement(outcome, Past(), gate, now)
    ours: set[int] = set()
    for start in range(0, len(items), TOGETHER):
        among, values = in_list(item.id for item in items[start : start + TOGETHER])
        db.change(sql.INSERT_ATTEMPTS + among, {**values, "owner": owner, **attempt_values(outcome, now)})
        settled = db.rows(f"{sql.SETTLE_ALL}{among} RETURNING id", {**values, "owner": owner, **columns})
        ours.update(item_id for (item_id,) in settled)
    for item in items:
        yield Settled(item.id in ours, columns["state"], columns["reason"], before, gate)
        before = gate


def _settle_item(db: Session, owner: str, before: Gate, now: float, item: Item, outcome: Outcome) -> Settled:
    mine = {"id": item.id, "owner": owner, "attempts": item.attempts}
    past = Past() if outcome.is_delivered else Past(*next(iter(db.rows(sql.PAST, mine)), ()))
    gate = moved_gate(before, now, item, outcome, past)
    db.change(sql.INSERT_ATTEMPT, {**mine, **attempt_values(outcome, now)})
    columns = settlement(outcome, past, gate, now)
    ours = db.change(sql.SETTLE, {**mine, **columns}) == 1
    if columns["anew"]:
        db.change(sql.COMPOSE_ANEW, mine)
    put_back = 0
    if gate.state == REFUSING and before.state != REFUSING:
        among, values = in_list(map(int, gate.blamed.split()))
        put_back = db.change(sql.PUT_BACK + among, {**values, "due_at": gate.hold_until})
    return Settled(ours, columns["state"], columns["reason"], before, gate, put_back)
