"""Joins what hubs do together to the parts of this hub."""

from tracking.cluster.homes import Homes
from tracking.cluster.leaving import Leaving
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
    Leaving(ingest_vehicles, hub, recorder, monitor, homes, nodes, clock)
    return homes
