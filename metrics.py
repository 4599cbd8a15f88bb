"""Figures for Prometheus, from the database, so that every process tells the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gate import OPEN
from records import Records
from standing import Standing
from store import ACK, BUCKETS, DELIVERED, DUPLICATES, IGNORED, LABEL_TO_TICKET, PARKED
from subscription import SUBSCRIBED

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def exposition(now: Standing, records: Records, sums: dict[str, float]) -> bytes:
    """The figures in Prometheus' text format. Raises StoreUnavailable."""
    from prometheus_client import CollectorRegistry, generate_latest  # here, so that only who is scraped carries it
    from prometheus_client.registry import Collector

    class Figures(Collector):
        def collect(self) -> Iterator[Metric]:
            return _figures(now, records, sums)

    registry = CollectorRegistry()
    registry.register(Figures())
    return generate_latest(registry)


def _figures(now: Standing, records: Records, sums: dict[str, float]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily as Counter
    from prometheus_client.core import GaugeMetricFamily as Gauge
    from prometheus_client.core import HistogramMetricFamily as Histogram

    states = records.by_state()
    yield Counter("relay_accepted", "Posts taken in.", sum(states.values()))
    yield Counter("relay_delivered", "Posts that have their ticket or note.", states[DELIVERED])
    yield Counter("relay_duplicates", "Posts that came in a second time.", sums.get(DUPLICATES, 0))
    yield Counter("relay_ignored", "Posts that are none of our business.", sums.get(IGNORED, 0))
    retries = Counter("relay_retries", "Attempts that have to be made again, by cause.", labels=["cause"])
    for cause, count in records.retries().items():
        retries.add_metric([cause], count)
    yield retries
    yield Gauge("relay_parked", "Posts put aside for a person.", states[PARKED])
    yield Gauge("relay_waiting", "Posts waiting for their ticket.", now.counts.pending)
    yield Gauge("relay_oldest_waiting_seconds", "Age of the oldest that waits.", now.counts.oldest_pending_s or 0)
    yield Gauge("relay_subscribed", "1 while Khoros holds our subscription.", now.connection.state == SUBSCRIBED)
    yield Gauge("relay_zendesk_open", "1 while Zendesk takes our calls.", now.gate.state == OPEN)
    if now.calls_left is not None:
        yield Gauge("relay_zendesk_calls_left", "Calls left in this window of the account's limit.", now.calls_left)
    for name, words in ((ACK, "From a notification to its answer."), (LABEL_TO_TICKET, "From a post to its ticket.")):
        yield Histogram(
            f"relay_{name}_seconds", words, buckets=_buckets(sums, name), sum_value=sums.get(f"{name}_sum", 0)
        )


def _buckets(sums: dict[str, float], name: str) -> list[tuple[str, float]]:
    """Prometheus counts each bucket with all below it."""
    total, buckets = 0.0, []
    for bound in BUCKETS:
        total += sums.get(f"{name}_le_{bound}", 0.0)
        buckets.append((bound, total))
    return buckets
