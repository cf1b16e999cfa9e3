"""Every metric, declared once; `/metrics` serves them in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

FIXES = Counter(
    "tracking_fixes",
    "Fixes received, by what became of them: accepted, late, suspect, rejected, repeat, unreadable",
    ["outcome"],
    registry=REGISTRY,
)
REJECTED = Counter("tracking_rejected", "Fixes rejected, by code", ["code"], registry=REGISTRY)
SUSPECT = Counter("tracking_suspect", "Fixes stored with a flag, by flag", ["flag"], registry=REGISTRY)
STORED = Counter("tracking_positions_stored", "Positions committed", registry=REGISTRY)
COMMIT_SECONDS = Histogram(
    "tracking_commit_seconds",
    "Time to commit one group of fixes",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    registry=REGISTRY,
)
COMMIT_FAILURES = Counter("tracking_commit_failures", "Groups that had to be tried again", registry=REGISTRY)
QUEUE = Gauge("tracking_recorder_queue", "Fixes waiting for the database", registry=REGISTRY)
DELIVERIES = Counter("tracking_deliveries", "Updates handed to watchers' outboxes", registry=REGISTRY)
SKIPPED = Counter("tracking_positions_skipped", "Positions left out for slow readers", registry=REGISTRY)
DRIVERS = Gauge("tracking_drivers", "Drivers connected", registry=REGISTRY)
WATCHERS = Gauge("tracking_watchers", "Passengers and others watching a trip", registry=REGISTRY)
FEEDS = Gauge("tracking_feeds", "Trip feeds held in memory", registry=REGISTRY)
CLOSED = Counter("tracking_sockets_closed", "Sockets that the hub closed, by code", ["code"], registry=REGISTRY)
SOCKET_ERRORS = Counter("tracking_socket_errors", "Errors told to sockets, by code", ["code"], registry=REGISTRY)
HTTP_ERRORS = Counter(
    "tracking_http_errors", "HTTP requests answered with an error, by status class", ["status"], registry=REGISTRY
)
