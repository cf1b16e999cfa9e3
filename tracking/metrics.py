"""Every metric, declared once; `/metrics` serves them in Prometheus' text format."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)


class Tally:
    """A counter that costs little for each fix. It is a plain number for the event loop alone; a `Counter` takes a lock."""

    __slots__ = ("_metric", "_parts", "value")

    def __init__(self, name: str, help: str, label: str | None = None, values: Iterable[str] = ()) -> None:
        self.value = 0
        self._metric = name, help, [label] if label else []
        self._parts = {value: Tally.part() for value in values}
        if name:
            REGISTRY.register(self)

    @classmethod
    def part(cls) -> "Tally":
        return cls("", "")

    def labels(self, value: str) -> "Tally":
        return self._parts[value]

    def collect(self) -> Iterable[Metric]:
        name, help, labels = self._metric
        family = CounterMetricFamily(name, help, labels=labels)
        if labels:
            for value, part in self._parts.items():
                family.add_metric([value], part.value)
        else:
            family.add_metric([], self.value)
        yield family


FIXES = Tally(
    "tracking_fixes",
    "Fixes received, by outcome: accepted, late, suspect, rejected, repeat, unreadable",
    "outcome",
    ("accepted", "late", "suspect", "rejected", "repeat", "unreadable"),
)
REJECTED = Counter("tracking_rejected", "Fixes rejected, by code", ["code"], registry=REGISTRY)
SUSPECT = Counter("tracking_suspect", "Fixes stored with a flag, by flag", ["flag"], registry=REGISTRY)
UNKNOWN = Tally(
    "tracking_values_not_believed",
    "Optional values of fixes treated as unknown, by field: they can't be true, or they contradict the receiver's positions",
    "field",
    ("altitude", "speed", "bearing", "battery"),
)
STORED = Tally("tracking_positions_stored", "Positions committed")
COMMIT_SECONDS = Histogram(
    "tracking_commit_seconds",
    "Time to commit one group of fixes",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    registry=REGISTRY,
)
COMMIT_FAILURES = Counter("tracking_commit_failures", "Groups that failed and were tried again", registry=REGISTRY)
_LOOP_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
LOOP_LAG = Histogram(
    "tracking_loop_lag_seconds", "How late the event loop came to a timer", buckets=_LOOP_BUCKETS, registry=REGISTRY
)
LOOP_STEP = Histogram(
    "tracking_loop_step_seconds",
    "CPU time of the event loop while it was late for that timer: its own steps, without the time of other processes",
    buckets=_LOOP_BUCKETS,
    registry=REGISTRY,
)
QUEUE = Gauge("tracking_recorder_queue", "Fixes waiting for the database", registry=REGISTRY)
BACKLOGS = Gauge("tracking_backlogs", "Drivers whose backlog waits for its turn", registry=REGISTRY)
DELIVERIES = Tally("tracking_deliveries", "Updates handed to watchers' queues")
FLEET_DELIVERIES = Tally("tracking_fleet_deliveries", "Vehicles' updates handed to dispatchers' viewports")
SKIPPED = Tally("tracking_positions_skipped", "Positions left out for slow readers")
DRIVERS = Gauge("tracking_drivers", "Drivers connected", registry=REGISTRY)
HOMES = Gauge("tracking_homes", "Vehicles whose home is this hub", registry=REGISTRY)
HOME_CLAIMS = Counter("tracking_home_claims", "Homes of vehicles that this hub has taken", registry=REGISTRY)
HOMES_LOST = Counter("tracking_homes_lost", "Homes of vehicles that other hubs have taken", ["reason"], registry=REGISTRY)
HAND_OVERS = Counter("tracking_hand_overs", "Hand-overs of vehicles between hubs", ["outcome"], registry=REGISTRY)
CLOCKS_WRONG = Gauge("tracking_clocks_wrong", "Vehicles whose device's clock is known to be wrong", registry=REGISTRY)
JOINS = Tally(
    "tracking_trip_joins",
    "Watchers of trips that joined, by where the line came from: resumed, kept, peers (hubs' memory), store (the database)",
    "from",
    ("resumed", "kept", "peers", "store"),
)
WATCHERS = Gauge("tracking_watchers", "Passengers and others watching a trip", registry=REGISTRY)
FLEET_TICK_SECONDS = Histogram(
    "tracking_fleet_tick_seconds",
    "CPU time of one tick of all fleets: the cost of the dispatchers' screens",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25),
    registry=REGISTRY,
)
DISPATCHERS = Gauge("tracking_dispatchers", "Dispatchers watching a fleet", registry=REGISTRY)
EVENTS = Counter("tracking_events", "Events of vehicles stored, by kind", ["kind"], registry=REGISTRY)
EVENT_FAILURES = Counter("tracking_event_failures", "Groups of events that failed and were tried again", registry=REGISTRY)
CHANGES = Counter("tracking_changes_applied", "Changes of the log that this hub applied", registry=REGISTRY)
CHANGES_FAILED = Counter(
    "tracking_changes_failed", "Changes that this hub could not apply, so that it read their subject again", registry=REGISTRY
)
CHANGE_READERS = Gauge(
    "tracking_change_readers", "Readers of fleets' changes that are connected and wait for more", registry=REGISTRY
)
CHANGE_READERS_ENDED = Counter(
    "tracking_change_readers_ended",
    "Streams of changes that the hub ended: slow, access, stop, fault",
    ["why"],
    registry=REGISTRY,
)
CHANGES_CUT = Counter("tracking_changes_cut", "Changes that the log no longer keeps", registry=REGISTRY)
CHANGES_BEHIND = Gauge(
    "tracking_changes_behind_seconds", "Time since the change log was last read to its end", registry=REGISTRY
)
DATABASE_CLOCK = Gauge(
    "tracking_database_clock_offset_seconds",
    "By how much the database's clock is ahead of this host's, at the least; below 0: behind",
    registry=REGISTRY,
)
CUT_OFF = Gauge(
    "tracking_cut_off",
    "1 while this hub shows nothing to passengers and dispatchers, because it cannot read the change log and another hub can",
    registry=REGISTRY,
)
FED_FROM_STORE = Counter(
    "tracking_fed_from_store",
    "Positions shown to watchers from the store, because the broker was away and the driver is on another hub",
    registry=REGISTRY,
)
COMMIT_NOTICES = Counter("tracking_commit_notices", "Commits that other hubs told this one of", registry=REGISTRY)
ERASURES = Gauge("tracking_erasures", "Removed vehicles and trips whose rows are not all gone yet", registry=REGISTRY)
ERASED = Counter("tracking_erased_rows", "Rows of removed vehicles and trips that are gone or changed", registry=REGISTRY)
WENT_BACK = Counter("tracking_store_went_back", "Times that the database lacked what was committed", registry=REGISTRY)
FEEDS = Gauge("tracking_feeds", "Trip feeds held in memory", registry=REGISTRY)
CLOSED = Counter("tracking_sockets_closed", "Sockets that the hub closed, by code", ["code"], registry=REGISTRY)
BUDGETS_SPENT = Counter(
    "tracking_budgets_spent", "Requests refused because a token's budget was spent, by budget", ["budget"], registry=REGISTRY
)
AUDIT_WAITING = Gauge("tracking_audit_waiting", "Entries of the audit that wait for the database", registry=REGISTRY)
AUDIT_LOST = Counter("tracking_audit_lost", "Entries missing from the audit because too many waited", registry=REGISTRY)
RETENTION_REMOVED = Counter(
    "tracking_retention_removed", "Rows removed because they were old enough, by kind", ["kind"], registry=REGISTRY
)
RETENTION_SWEPT = Gauge(
    "tracking_retention_swept_timestamp_seconds",
    "When this hub last finished removing the old rows of a kind, by kind",
    ["kind"],
    registry=REGISTRY,
)
DOWNLOADS = Gauge("tracking_downloads", "Downloads under way", registry=REGISTRY)
DOWNLOADS_CUT = Counter(
    "tracking_downloads_cut", "Downloads cut off before their end: slow, time, access, fault", ["why"], registry=REGISTRY
)
SOCKET_ERRORS = Counter("tracking_socket_errors", "Errors told to sockets, by code", ["code"], registry=REGISTRY)
HTTP_ERRORS = Counter(
    "tracking_http_errors", "HTTP requests answered with an error, by status class", ["status"], registry=REGISTRY
)
KEY_READINGS = Tally(
    "tracking_key_readings",
    "Readings of the JWKS, by outcome: good, failed",
    "outcome",
    ("good", "failed"),
)
SHED = Tally("tracking_sockets_shed", "Sockets closed because this hub had many more than the others")
DRAINING = Gauge(
    "tracking_draining", "1 while this hub, which is being stopped, sends its clients to other hubs", registry=REGISTRY
)
LEASE_HELD = Gauge(
    "tracking_lease_held", "1 while this hub does a job that one hub is enough for, by job", ["job"], registry=REGISTRY
)
PEERS = Gauge("tracking_peers", "Other hubs that are alive", registry=REGISTRY)
BROKER_CONNECTED = Gauge("tracking_broker_connected", "1 while this hub is connected to the broker", registry=REGISTRY)
_TO_AND_FROM = ("out", "in")
NODE_PACKETS = Tally("tracking_node_packets", "Packets to other hubs (out) and from them (in)", "direction", _TO_AND_FROM)
NODE_BYTES = Tally(
    "tracking_node_bytes", "Bytes of packets and beats to other hubs (out) and from them (in)", "direction", _TO_AND_FROM
)
NODE_POSITIONS = Tally("tracking_node_positions", "Positions to other hubs (out) and from them (in)", "direction", _TO_AND_FROM)
FLEET_MOVES = Tally(
    "tracking_fleet_moves",
    "States of vehicles told to other hubs whose dispatchers look at their fleet (out), and told by other hubs (in)",
    "direction",
    _TO_AND_FROM,
)
FLEET_READINGS = Counter(
    "tracking_fleet_readings",
    "Readings of vehicles of other hubs from the store: after a look, the end of a hub or a minute, and without the broker",
    registry=REGISTRY,
)
NODE_GAPS = Tally("tracking_node_gaps", "Times that packets from another hub were lost")
NODE_DROPPED = Tally(
    "tracking_node_dropped",
    "Positions and notices to other hubs that were dropped: the link was full, or the connection lost",
    "kind",
    ("position", "notice"),
)
NODE_IGNORED = Tally(
    "tracking_node_ignored",
    "Messages from the broker that were ignored: broken, of another version, of an unknown sender (foreign), repeated,"
    " notices of an unknown kind, and notices that this hub failed to handle (failed)",
    "reason",
    ("broken", "version", "foreign", "repeated", "kind", "failed"),
)
