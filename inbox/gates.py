"""The gates as rows, one for each destination, shared by all processes."""

from __future__ import annotations

from dataclasses import asdict, fields

from inbox.database import Row, Session
from inbox.gate import Gate
from inbox.items import Outcome

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


def moved_gate(gate: Gate, now: float, version: int, outcome: Outcome, attempts: int) -> Gate:
    """The gate after an attempt that left under its `version`."""
    if outcome.calls_left is not None:
        gate = gate.counted(now, outcome.calls_left, outcome.reset_s)
    if not outcome.is_trouble:
        return gate.after_success(now, version)
    return gate.after_failure(now, version, outcome.how, outcome.reason or "", outcome.retry_after_s, attempts)
