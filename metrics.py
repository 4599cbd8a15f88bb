"""Figures for Prometheus, from the database, so that every process tells the same."""

from __future__ import annotations

from bisect import bisect_left

from store import Store

ACK, LABEL_TO_TICKET = "ack", "label_to_ticket"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


def observe(store: Store, name: str, seconds: float) -> None:
    """Counts one duration in the histogram `name`."""
    place = bisect_left(BOUNDS_S, seconds)
    store.tally(f"{name}_le_{BOUNDS_S[place] if place < len(BOUNDS_S) else 'inf'}")
    store.tally(f"{name}_sum", seconds)
