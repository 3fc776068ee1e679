"""What is measured, under which name: one table, one registry a process.

Names follow Prometheus' conventions (base units, `_total`). No label holds a tenant, an address or an id: their number
has no bound.
Gauges that the database knows best (mailboxes by state, queues) are set when `/metrics` is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `name` without the prefix `mailgate_`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


TABLE = (
    Metric("http_requests_total", "counter", "Requests answered.", ("route", "method", "status")),
    Metric(
        "http_request_seconds",
        "histogram",
        "Time until an answer was complete.",
        ("route",),
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    ),
    Metric(
        "http_stalled_total", "counter", "Connections cut because their client took nothing of its answer any more."
    ),
    Metric("mailboxes", "gauge", "Mailboxes by state.", ("state",)),
    Metric("messages", "gauge", "Copies that are kept."),
    Metric("storage_bytes", "gauge", "RFC 822 sizes of the copies that are kept, added up."),
    Metric("messages_unindexed", "gauge", "Copies whose search words are not written yet."),
    Metric("blob_erasures_queued", "gauge", "Blobs that wait to be erased."),
    Metric("search_leftovers", "gauge", "Purged copies whose words are not taken out of the text index yet."),
    Metric("blob_erasures_failing", "gauge", "Blobs whose erasure failed at least once and is tried again."),
    Metric("purge_last_completed_timestamp_seconds", "gauge", "When the last purge was completed; 0 before the first."),
    Metric("purge_runs_halted", "gauge", "Purge runs that stopped and wait for a person, of the last 100 runs."),
    Metric("log_entries", "gauge", "Entries of all purge logs."),
    Metric("quarantined_messages", "gauge", "Messages set aside because they could not be fetched, read or stored."),
    Metric("submissions", "gauge", "Submissions that are not settled, by state.", ("state",)),
    Metric("submission_attempts_total", "counter", "Attempts to send, by what came of them.", ("outcome",)),
    Metric("webhook_deliveries_total", "counter", "Requests to receivers, by what came of them.", ("outcome",)),
    Metric("webhooks", "gauge", "Endpoints of webhooks by state.", ("state",)),
    Metric("webhook_deliveries_open", "gauge", "Deliveries that are being sent or wait to be tried again."),
    Metric("webhook_mailboxes_behind", "gauge", "Mailboxes whose events wait because a delivery failed, by endpoint."),
    Metric(
        "webhook_lag_seconds", "gauge", "Age of the oldest event that an enabled endpoint has not come to; 0: none."
    ),
    Metric("alarms", "gauge", "Alarms that stand, by what is wrong.", ("kind",)),
    Metric(
        "preparing_processes_lost_total",
        "counter",
        "Processes beside this one that prepared large imports and were lost, or could not be started.",
    ),
    Metric("guards_open", "gauge", "Improbable deletions at mail servers that are refused until a person approves."),
    Metric("feed_events_waiting", "gauge", "Committed events that have no place in the feed yet."),
    Metric("feed_lag_seconds", "gauge", "Age of the oldest event that has no place in the feed yet; 0: none waits."),
    Metric("feed_readers", "gauge", "Readers of the feed that wait in this process, or are streamed to."),
    Metric("feed_events_given_total", "counter", "Events that this process delivered to readers of the feed."),
)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in TABLE:
            name = f"mailgate_{metric.name}"
            if metric.kind == "counter":
                self._counters[metric.name] = Counter(name, metric.help, metric.labels, registry=self.registry)
            elif metric.kind == "gauge":
                self._gauges[metric.name] = Gauge(name, metric.help, metric.labels, registry=self.registry)
            else:
                self._histograms[metric.name] = Histogram(
                    name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
                )

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter of the table."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of the table."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram of the table."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def exposition(self) -> bytes:
        """The text form that Prometheus reads."""
        return generate_latest(self.registry)
