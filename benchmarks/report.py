"""What was measured, as a Markdown table: median (lowest to highest), the ratio of now to before, and what must be."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from stores import KINDS

BEFORE, NOW = "before", "now"


class Column(NamedTuple):
    """A relay ("before" or "now") on a kind of database, or the peer."""

    kind: str
    side: str = NOW


PEER = Column("peer")


@dataclass(frozen=True)
class Goal:
    """What a figure must be: within its own limit or within `ratio` of what it was before."""

    at_most: float | None = None
    at_least: float | None = None
    ratio: float | None = None

    def __str__(self) -> str:
        parts = [f"at most {self.at_most:g}"] if self.at_most is not None else []
        parts += [f"at least {self.at_least:g}"] if self.at_least is not None else []
        parts += [f"{self.ratio:g} × before"] if self.ratio is not None else []
        return " or ".join(parts)

    def met(self, now: float, ratio: float | None) -> bool:
        return (
            (self.at_most is not None and now <= self.at_most)
            or (self.at_least is not None and now >= self.at_least)
            or (self.ratio is not None and (ratio is None or ratio <= self.ratio))
        )


@dataclass
class Report:
    """Every value, by its figure and column, and every measurement that failed."""

    goals: dict[str, Goal]
    values: dict[str, dict[Column, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    failures: list[str] = field(default_factory=list)

    def note(self, figure: str, column: Column, value: float) -> None:
        self.values[figure][column].append(value)
        print(f"  {figure}: {' '.join(column)} {_short(value)}", flush=True)

    def fail(self, part: str, column: Column, error: Exception) -> None:
        self.failures.append(f"{part}, {' '.join(column)}: {error}")
        print(f"  FAILED: {self.failures[-1]}", flush=True)

    def table(self) -> str:
        heads = ["figure", *(f"{kind} {head}" for kind in KINDS for head in (BEFORE, NOW, "ratio")), "peer", "must be"]
        rows = [self._row(figure, columns) for figure, columns in self.values.items()]
        lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
        return "\n".join([*lines, "", *(f"Failed: {failure}" for failure in self.failures)])

    def _row(self, figure: str, columns: dict[Column, list[float]]) -> list[str]:
        goal, cells = self.goals.get(figure), [figure]
        for kind in KINDS:
            before, now = columns.get(Column(kind, BEFORE), []), columns.get(Column(kind, NOW), [])
            ratios = _ratios(before, now)
            missed = (
                goal and now and not goal.met(statistics.median(now), statistics.median(ratios) if ratios else None)
            )
            cells += [_cell(before), _cell(now) + (": **missed**" if missed else ""), _cell(ratios)]
        return [*cells, _cell(columns.get(PEER, [])), str(goal or "")]


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _ratios(before: Sequence[float], now: Sequence[float]) -> list[float]:
    """Of values that were measured one after the other, where none is missing."""
    if not before or not now or not all(before):
        return []
    if len(before) != len(now):
        return [statistics.median(now) / statistics.median(before)]
    return [new / old for old, new in zip(before, now, strict=True)]


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return _short(values[0]) if values else "-"
    return f"{_short(statistics.median(values))} ({_short(min(values))} to {_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
