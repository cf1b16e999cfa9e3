"""The parts of a running hub: `Service` is what sockets and HTTP handlers get. `tracking.assembly` builds it."""

from dataclasses import dataclass

from tracking.audit import Audit
from tracking.auth import Auth
from tracking.budgets import Budgets
from tracking.change_upkeep import ChangeUpkeep
from tracking.cluster.assembly import AcrossHubs
from tracking.cluster.homes import Homes
from tracking.cluster.safeguards import Safeguards
from tracking.cluster.uncommitted import UncommittedPositions
from tracking.config import Settings
from tracking.downloads import Downloads
from tracking.erasure import Erasures
from tracking.history.lines import Lines
from tracking.history.retention import Retention
from tracking.history.revisions import Revisions
from tracking.history.summaries import Summaries
from tracking.history.sums import Sums
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.intake import Intake
from tracking.ingest.latest import Latest
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import IngestVehicles
from tracking.lanes import Lanes
from tracking.live.change_feed import ChangeFeed
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.reading import State
from tracking.model import Clock, Trip
from tracking.monitor.events import Events
from tracking.monitor.loader import Loader
from tracking.monitor.monitor import Monitor
from tracking.monitor.silence import Silences
from tracking.nodes.leases import Leases
from tracking.nodes.nodes import Nodes
from tracking.nodes.registry import Registry
from tracking.refiling import Refiling
from tracking.services.access import Access
from tracking.services.fleets import Fleets
from tracking.services.geofences import Geofences
from tracking.services.messages import Messages
from tracking.services.trips import Trips
from tracking.services.vehicles import Vehicles
from tracking.sockets.limits import ConnectionLimits
from tracking.store.gathered import Gathered
from tracking.store.jobs import Jobs
from tracking.store.marks import Marks
from tracking.store.pool import Database


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    clock: Clock
    auth: Auth
    nodes: Nodes
    """this hub among the others"""
    registry: Registry
    """who is alive by the database; of the process, and so the same when all is built anew"""
    leases: Leases
    """which jobs this hub does, of those that one hub is enough for"""
    marks: Marks
    """of what was committed through any of the pools"""
    database: Database
    """for short queries"""
    recording: Database
    """for the recorder alone: no other query may delay it"""
    exports: Database
    """for tracks; each piece is a short query"""
    following: Database
    """for the change log alone: no other query may delay it"""
    housekeeping: Database
    """for work that may be slow"""
    summing: Database
    """for days that are summed up on request"""
    jobs: Jobs
    """for work on many rows, all jobs together"""
    ingest_vehicles: IngestVehicles
    recorder: Recorder
    latest: Latest
    backlogs: Backlogs
    intake: Intake
    shown_trips: Gathered[str, tuple[Trip, int]]
    """as the store has them, with the number of the newest change; requests at the same time share one query"""
    lines: Lines
    """of trips that are watched"""
    uncommitted: UncommittedPositions
    """positions that may not be committed"""
    hub: Hub
    across_hubs: AcrossHubs | None
    """trips whose vehicle or reader is on another hub; None without a broker"""
    connection_limits: ConnectionLimits
    """admitted sockets, counted by address"""
    downloads: Downloads
    budgets: Budgets
    lists: Lanes
    """for lists of up to a thousand entries"""
    shapes: Lanes
    """for calculations on large polygons and routes, in a thread"""
    follower: Follower[State]
    change_feed: ChangeFeed
    change_upkeep: ChangeUpkeep
    trips: Trips
    vehicles: Vehicles
    fleets: Fleets
    geofences: Geofences
    messages: Messages
    access: Access
    revisions: Revisions
    homes: Homes
    """of vehicles whose drivers are connected here"""
    safeguards: Safeguards
    """of several hubs on this database"""
    refiling: Refiling
    """of fixes that raced a change of their vehicle's trips"""
    summaries: Summaries
    sums: Sums
    erasures: Erasures
    retention: Retention
    monitor: Monitor
    events: Events
    loader: Loader
    """of fleets"""
    silences: Silences
    audit: Audit
