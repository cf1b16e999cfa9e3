"""What the simulation assumes, with the source of each figure. Times are in seconds unless a name says otherwise."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

_BENCH = "measured: docs/PERFORMANCE.md, "
_SCENARIO = "scenario"
_GUESS = "guess"


def _of(source: str, value: Any) -> Any:
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Assumptions:
    """One value a field; `sources` has where it comes from."""

    watched_share: float = _of(_SCENARIO, 0.1)
    watched_interval: float = _of(_SCENARIO, 2.0)
    moving_share: float = _of(_SCENARIO, 0.3)
    moving_interval: float = _of(_SCENARIO, 15.0)
    parked_interval: float = _of(_SCENARIO, 60.0)
    watchers_a_trip: float = _of(_GUESS, 1.2)
    watch_seconds: float = _of(_GUESS, 600.0)
    smallest_fleet: int = _of(_GUESS, 10)
    largest_fleet: int = _of("the default of TRACKING_VEHICLES_PER_FLEET", 50_000)
    fleet_tail: float = _of(_GUESS + ": the exponent of a Pareto distribution of the sizes of fleets", 1.1)
    vehicles_a_dispatcher: float = _of(_GUESS, 250.0)

    fixes_a_second: tuple[float, ...] = _of(
        _BENCH + "Several hubs (without passengers) and Figures", (1_000, 2_000, 4_000, 10_000, 50_000)
    )
    fix_us: tuple[float, ...] = _of(
        _BENCH + "the last two times 1.25, because that machine was faster; few vehicles report often there, so they are low",
        (75, 61, 45, 30, 17.5),
    )
    delivery_us: float = _of(_BENCH + "Several hubs, 1 hub: with passengers less without", 16.0)
    sent_position_us: float = _of("measured for DESIGN: packed every 25 ms", 1.5)
    read_position_us: float = _of("measured for DESIGN: packed every 25 ms", 1.4)
    fleet_position_us: float = _of("measured for DESIGN: 10,000 vehicles at 2 s take 1.5 % of a core", 3.0)
    message_us: float = _of(
        "measured: driver_sim/scale/message_cost.py, one sent with others of its flush, and one received with others", 9.0
    )
    wake_us: float = _of("measured: driver_sim/scale/message_cost.py, one received by itself, 975 a second", 58.0)
    broker_message_us: float = _of("measured: driver_sim/scale/message_cost.py, 975 a second, each to another hub", 15.0)
    ping_us: float = _of("guess: reading takes 27 % and writing 14 % of the 48 us of a fix", 20.0)
    tick_us: float = _of(_BENCH + "popular: one delivery", 8.0)
    dispatcher_us: float = _of(_BENCH + "Fleets: CPU a second of one dispatcher, scattered", 94.0)
    position_bytes: float = _of(_BENCH + "Several hubs: bytes between hubs a fix", 129.0)

    driver_kb: float = _of(_BENCH + "Figures: an idle connection", 11.1)
    passenger_kb: float = _of(_BENCH + "Figures: an idle connection", 12.0)
    hub_mb: float = _of(_BENCH + "Starts", 88.0)
    vehicle_kb: float = _of("guess: motion, session and the shown vehicle of a fleet in memory", 4.0)
    recent_bytes: float = _of("guess: one packed position of the last minute", 60.0)

    driver_connect_ms: float = _of(_BENCH + "Reconnecting", 0.65)
    passenger_connect_ms: float = _of(_BENCH + "Reconnecting", 1.19)
    claims_a_second: float = _of("measured: decision 31, 4,000 claims take the database about a second", 4_000.0)
    snapshot_database_ms: float = _of(_BENCH + "Reconnecting", 0.91)
    abandoned_share: float = _of(_GUESS + ": work for a client that has given up, of that for one that is served", 0.3)
    answer_timeout: float = _of("driver_sim/settings.py and web/shared/connection.js", 15.0)
    openings_a_second: float = _of("examples/proxy/nginx-hubs.conf: sockets that the proxy lets open on one hub", 300.0)
    openings_at_once: float = _of("examples/proxy/nginx-hubs.conf", 2_000.0)
    dead_after: float = _of("tracking/nodes/peers.py", 3.0)
    hand_over_wait: float = _of("decision 31: a killed hub delays a driver by 200 ms at most", 0.2)

    row_table_bytes: float = _of(_BENCH + "Figures", 214.0)
    row_wal_bytes: float = _of(_BENCH + "Figures", 496.0)
    row_database_us: float = _of(_BENCH + "Figures: 4,000 trips", 15.0)
    hub_rows: float = _of("DESIGN; *flood* sustained 29,900 to 49,900", 20_000.0)
    database_rows: float = _of("DESIGN; *flood* reached 49,900 on two shared cores", 50_000.0)

    flush: float = _of("tracking/nodes/nodes.py", 0.04)
    fleet_flush: float = _of("tracking/cluster/fleet_telling.py: the newest of each vehicle", 0.1)
    packet_positions: int = _of("tracking/nodes/links.py", 250)
    link_positions: int = _of("tracking/nodes/links.py: positions that a link keeps", 2_000)
    commit_interval: float = _of("docs/SETTINGS.md: 0.1 s, three times that with more than two hubs", 0.3)
    store_every: float = _of("tracking/cluster/store_feed.py", 2.0)
    store_4000_ms: float = _of("decision 33: 4,000 watched trips in PostgreSQL", 25.0)
    store_read_4000_ms: float = _of("decision 33: 4,000 new positions until they are read", 75.0)
    asked_trips: int = _of("tracking/cluster/gaps.py: trips in one question", 200)

    drain_seconds: float = _of("TRACKING_DRAIN_SECONDS", 20.0)
    start_seconds: float = _of(_BENCH + "Starts: ready", 1.3)
    shed_above: float = _of("TRACKING_SHED_ABOVE: times the mean of connections", 1.25)
    shed_share: float = _of("tracking/cluster/shedding.py: of a hub's connections a second", 0.01)
    shed_settle: float = _of("tracking/cluster/shedding.py: how long the hubs must have been the same", 5.0)

    def fix_cpu(self, rate: float) -> float:
        """Seconds of a hub's CPU for one fix, if it takes `rate` of them a second. Other rates are interpolated."""
        return float(np.exp(np.interp(np.log(rate), np.log(self.fixes_a_second), np.log(self.fix_us)))) / 1e6


def sources() -> dict[str, str]:
    """Field -> where its value comes from."""
    return {each.name: each.metadata["source"] for each in fields(Assumptions)}
