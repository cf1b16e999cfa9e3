"""Joins what hubs do together to the parts of this hub."""

from typing import NamedTuple

from tracking.cluster.hand_over_answers import HandOverAnswers
from tracking.cluster.homes import Homes
from tracking.cluster.resuming import Resuming
from tracking.cluster.trips import TripsAcrossHubs
from tracking.cluster.uncommitted import UncommittedPositions
from tracking.history.revisions import Revisions
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import IngestVehicles
from tracking.live.hub import Hub
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.nodes.nodes import Nodes
from tracking.refiling import Refiling
from tracking.store.pool import Database


def assemble_homes(
    database: Database,
    ingest_vehicles: IngestVehicles,
    hub: Hub,
    recorder: Recorder,
    refiling: Refiling,
    monitor: Monitor,
    nodes: Nodes,
    clock: Clock,
) -> Homes:
    def forget(numbers: set[int]) -> None:
        recorder.latest.forget(numbers)
        refiling.forget(numbers)

    homes = Homes(database, ingest_vehicles, hub, recorder, monitor, nodes, clock, forget)
    HandOverAnswers(ingest_vehicles, hub, recorder, monitor, homes, nodes, clock)
    return homes


class AcrossHubs(NamedTuple):
    """Trips across hubs, and readers who come from another hub."""

    trips: TripsAcrossHubs
    resuming: Resuming


def assemble_trips(
    database: Database,
    nodes: Nodes,
    hub: Hub,
    uncommitted: UncommittedPositions,
    ingest_vehicles: IngestVehicles,
    revisions: Revisions,
    clock: Clock,
) -> AcrossHubs | None:
    """None without a broker."""
    if not nodes.enabled:
        return None
    trips = TripsAcrossHubs(nodes, hub, uncommitted, ingest_vehicles, revisions, clock)
    hub.trip_exchange = trips
    return AcrossHubs(trips, Resuming(trips, database))
