"""The gates as rows, one for each destination, shared by all processes."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

from inbox.database import Row, Session
from inbox.gate import CALLS_PER_ITEM, LIMITED, OPEN, REFUSING, Gate
from inbox.items import REFUSED, Item, Outcome, Past

_GATE_COLUMNS = [field.name for field in fields(Gate)]
_SELECT_GATE = f"SELECT {', '.join(_GATE_COLUMNS)}, :clock FROM gates WHERE destination = :destination"
_INSERT_GATE = f"""INSERT INTO gates (destination, {", ".join(_GATE_COLUMNS)})
    VALUES (:destination, {", ".join(f":{name}" for name in _GATE_COLUMNS)}) ON CONFLICT DO NOTHING"""
_UPDATE_GATE = f"""UPDATE gates SET {", ".join(f"{name} = :{name}" for name in _GATE_COLUMNS)}
    WHERE destination = :destination"""


def read_gate(db: Session, destination: str, lock: str = "") -> tuple[Gate, float] | None:
    """The gate and the database's time; None when nothing was ever sent there. `lock` is SQL."""
    found = db.rows(f"{_SELECT_GATE} {lock}", {"destination": destination})
    return _gate(found[0]) if found else None


def locked_gate(db: Session, destination: str) -> tuple[Gate, float]:
    """The gate and the time. Its row is locked until the transaction ends: claims and settlements take turns."""
    if found := read_gate(db, destination, "FOR UPDATE"):
        return found
    db.change(_INSERT_GATE, {"destination": destination, **asdict(Gate())})
    return locked_gate(db, destination)


def _gate(row: Row) -> tuple[Gate, float]:
    """The other release may leave a column NULL: then its default is used."""
    *columns, now = row
    known = {name: value for name, value in zip(_GATE_COLUMNS, columns, strict=True) if value is not None}
    return Gate(**known), float(now)


def keep_gate(db: Session, destination: str, before: Gate, after: Gate) -> None:
    """Writes the gate when it has changed."""
    if after != before:
        db.change(_UPDATE_GATE, {"destination": destination, **asdict(after)})


def moved_gate(gate: Gate, now: float, item: Item, outcome: Outcome, past: Past) -> Gate:
    """The gate after an attempt at an item."""
    gate, version, reason = _counted(gate, now, outcome), item.gate_version, outcome.reason or ""
    again = past.refused or past.failing_since is not None
    if outcome.is_delivered:
        gate = gate.after_success(now, version)
    elif outcome.is_trouble and not outcome.item_only:
        gate = gate.after_failure(now, version, outcome.how, reason, outcome.retry_after_s)
    elif not (outcome.shared or (again and gate.state == OPEN)):
        state, reason = LIMITED if outcome.how == LIMITED else REFUSING, outcome.of_all or reason
        gate = gate.after_failed_item(
            now, version, state, reason, outcome.retry_after_s, outcome.likeness, item.id, again
        )
    return gate.within_limit(now)


def judged(gate: Gate, now: float, outcome: Outcome) -> Outcome:
    """The outcome of an attempt. A limit is not the account's while enough of its calls are left: then it is about this
    one item."""
    left = gate.calls_known(now) if outcome.calls_left is None else outcome.calls_left
    alone = outcome.how == LIMITED and left is not None and left >= CALLS_PER_ITEM
    return replace(outcome, item_only=True) if alone else outcome


def checked_gate(gate: Gate, now: float, version: int, outcome: Outcome, opens: bool) -> Gate:
    """The gate after a check of the destination. One that fails alone says nothing; nor does a refused one while the
    gate is open: an item may go."""
    outcome, gate = judged(gate, now, outcome), _counted(gate, now, outcome)
    if outcome.item_only:
        return gate
    if outcome.is_trouble:
        return gate.after_failure(now, version, outcome.how, outcome.reason or "", outcome.retry_after_s)
    return gate if outcome.how == REFUSED else gate.after_check(now, version, opens)


def _counted(gate: Gate, now: float, outcome: Outcome) -> Gate:
    return gate if outcome.calls_left is None else gate.counted(now, outcome.calls_left, outcome.reset_s)
