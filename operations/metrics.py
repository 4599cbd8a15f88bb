"""Metrics for Prometheus: what this process measured, and counts from the database that are the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from inbox.gate import OPEN
from inbox.items import REFUSED, TROUBLES, Item, Outcome
from inbox.schema import DELIVERED
from khoros.receive import Receipt
from khoros.subscription import SUBSCRIBED
from operations.health import Health

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)


class Metrics:
    """Counts and measures in one process, and writes Prometheus' text format. Only a service that is scraped makes one:
    prometheus_client costs memory."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        own = self._registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=own), partial(Histogram, registry=own, buckets=BUCKETS_S)
        self._duplicates = counter("relay_duplicates", "Posts that arrived again.")
        self._ignored = counter("relay_ignored", "Posts that no destination wants.")
        self._retries = counter("relay_retries", "Attempts to repeat, by cause.", ["destination", "cause"])
        self._acks = histogram("relay_ack_seconds", "From a notification to its answer.")
        self._deliveries = histogram("relay_label_to_delivered_seconds", "From arrival to delivery.", ["destination"])

    def on_receipt(self, receipt: Receipt, seconds: float) -> None:
        """Counts one notification that was answered after so many seconds."""
        self._duplicates.inc(receipt.duplicates)
        self._ignored.inc(receipt.ignored)
        self._acks.observe(seconds)

    def on_outcome(self, item: Item, outcome: Outcome) -> None:
        """Counts one attempt."""
        if outcome.is_trouble:
            self._retries.labels(item.destination, outcome.how).inc()
        elif outcome.how != REFUSED:
            self._deliveries.labels(item.destination).observe(item.age_s + outcome.took_s)

    def exposition(self, health: Health, states: Mapping[str, int]) -> bytes:
        """All metrics as text. `states` counts the items of each state."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

        for name in health.gates:  # a metric that begins at 0 shows its first increase
            self._deliveries.labels(name)
            for cause in TROUBLES:
                self._retries.labels(name, cause)
        rows = CollectorRegistry()
        counter, gauge, where = partial(Counter, registry=rows), partial(Gauge, registry=rows), ["destination"]
        counter("relay_accepted", "Posts accepted.").inc(sum(states.values()))
        counter("relay_delivered", "Posts delivered.").inc(states[DELIVERED])
        parked = gauge("relay_parked", "Posts that need attention.", where)
        waiting = gauge("relay_waiting", "Posts that wait for delivery.", where)
        oldest = gauge("relay_oldest_waiting_seconds", "Age of the oldest that waits.", where)
        for name in {**health.gates, **health.waiting}:
            counts = health.of(name)
            parked.labels(name).set(counts.parked)
            waiting.labels(name).set(counts.pending)
            oldest.labels(name).set(counts.oldest_pending_s or 0)
        is_open = gauge("relay_destination_open", "1 while the destination takes our calls.", where)
        calls_left = gauge("relay_calls_left", "Calls left in this window of the rate limit.", where)
        for name, gate in health.gates.items():
            is_open.labels(name).set(gate.state == OPEN)
            if (left := gate.calls_known(health.now)) is not None:
                calls_left.labels(name).set(left)
        subscribed = gauge("relay_subscribed", "1 while Khoros has our subscription.", ["event"])
        polling = gauge("relay_polling", "1 while missed events can be fetched.", ["event"])
        for event, status in health.subscriptions.items():
            subscribed.labels(event).set(status.state == SUBSCRIBED)
            polling.labels(event).set(event not in health.failing_polls)
        return generate_latest(rows) + generate_latest(self._registry)
