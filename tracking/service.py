"""The parts of a running hub, in one typed bundle that sockets and HTTP handlers are given."""

from dataclasses import dataclass
from typing import NamedTuple

from tracking.audit import Audit
from tracking.auth import Auth
from tracking.budgets import Budgets, assemble_budgets
from tracking.change_upkeep import ChangeUpkeep
from tracking.config import Settings
from tracking.downloads import Downloads
from tracking.erasure import Erasures
from tracking.history.lines import Lines
from tracking.history.retention import Retention
from tracking.history.revisions import Revisions
from tracking.history.summaries import Summaries
from tracking.history.sums import Sums
from tracking.ingest.acks import Acks
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.commit_queue import CommitQueue
from tracking.ingest.intake import Intake
from tracking.ingest.latest import Latest
from tracking.ingest.recorder import Recorder
from tracking.ingest.vehicles import IngestVehicles
from tracking.lanes import Lanes, give_back
from tracking.live.change_feed import ChangeFeed
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.applying import LiveState
from tracking.live_state.reading import State
from tracking.model import Clock, Trip
from tracking.monitor.events import Events
from tracking.monitor.loader import Loader
from tracking.monitor.monitor import Monitor
from tracking.monitor.silence import Silences
from tracking.monitor.states import AlertStates
from tracking.refiling import Refiling
from tracking.services.access import Access
from tracking.services.fleets import Fleets
from tracking.services.geofences import Geofences
from tracking.services.messages import Messages
from tracking.services.trips import Trips
from tracking.services.vehicles import Vehicles
from tracking.sockets.limits import ConnectionLimits
from tracking.store import changes, trip_lines, trips
from tracking.store.gathered import Gathered
from tracking.store.jobs import Jobs
from tracking.store.marks import Marks
from tracking.store.pool import Database
from tracking.store.positions import TrackRow

HOUSEKEEPING_TIMEOUT = 60.0
BACKLOG_GROUPS = 2
"""Full groups that backlogs may fill: one that is stored, and one that is taken meanwhile."""
LISTS_AT_ONCE = 3
SHAPES_AT_ONCE = 1
"""Two threads that hold the interpreter by turns would take no less time, and keep the event loop waiting for both."""
SUM_TIMEOUT = 30.0
TRACKS_AT_ONCE = 8
"""Short ones by one question: together they are taken apart in one step of the event loop."""


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    clock: Clock
    auth: Auth
    marks: Marks
    """of what was committed, whichever pool it went through"""
    database: Database
    """for short questions"""
    recording: Database
    """for the recorder alone: nobody's question may keep it waiting"""
    exports: Database
    """for tracks, each piece a short question"""
    following: Database
    """for the change log alone: nobody's question may keep it waiting"""
    housekeeping: Database
    """for work that may take its time"""
    summing: Database
    """for days that are summed up for who asks"""
    jobs: Jobs
    """for work on many rows, all jobs together"""
    ingest_vehicles: IngestVehicles
    recorder: Recorder
    latest: Latest
    backlogs: Backlogs
    intake: Intake
    shown_trips: Gathered[str, tuple[Trip, int]]
    """as the store has them, and as of which change; who asks beside others is answered with them"""
    lines: Lines
    """of trips that are watched"""
    hub: Hub
    connection_limits: ConnectionLimits
    """the sockets that were let in, by the address that they came from"""
    downloads: Downloads
    budgets: Budgets
    lists: Lanes
    """for answers of up to a thousand things"""
    shapes: Lanes
    """for the arithmetic of large polygons and routes, in a thread"""
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


def assemble(settings: Settings, url: str, auth: Auth, clock: Clock, *, last_event: int = 0) -> Service:
    """Builds the parts around the database at `url` and joins them; nothing runs yet.

    All that was read from the database is in these parts, but for `auth`, which knows tokens by their own unguessable ids, and
    `last_event`, the last id that another service on this database may have told.
    """
    marks = Marks()
    # Questions and transactions leave nothing behind in their connection.
    database = Database(url, marks=marks, timeout=settings.database_timeout, tidy=False)
    recording = Database(url, marks=marks, timeout=settings.database_timeout, size=2, tidy=False)
    summing = Database(url, marks=marks, timeout=max(SUM_TIMEOUT, settings.database_timeout), size=1, tidy=False)
    # One for the log, and one for its heartbeat and whoever begins.
    following = Database(url, marks=marks, timeout=settings.database_timeout, size=2, tidy=False)
    # One connection for the history, and one for jobs.
    housekeeping = Database(url, marks=marks, timeout=max(HOUSEKEEPING_TIMEOUT, settings.database_timeout), size=2)
    latest = Latest(recording, interval=settings.latest_interval)
    states = AlertStates()
    hub = Hub(
        clock,
        keep_bytes=settings.feed_bytes,
        keep_seconds=settings.feed_seconds,
        linger=settings.feed_linger,
        interval_watched=settings.interval_watched,
        interval_trip=settings.interval_trip,
        interval_idle=settings.interval_idle,
        remembered=states,
    )
    ingest_vehicles = IngestVehicles(database, clock, lambda: follower.begin())
    budgets = assemble_budgets(settings, clock)
    queue = CommitQueue(rows=settings.commit_rows, limit=settings.queue_limit)
    tracks = Gathered(lambda numbers: _tracks(database, numbers), most=TRACKS_AT_ONCE)
    lines = Lines(database, tracks, queue.pending, clock, hub.erased)
    revisions = Revisions(lines, hub, queue)
    hub.on_former = revisions.late_one
    summaries = Summaries(
        housekeeping,
        clock,
        delay=settings.summary_delay,
        retention_days=settings.retention_days,
    )
    backlogs = Backlogs(queue, most=BACKLOG_GROUPS * settings.commit_rows, limit=settings.queue_limit)
    recorder = Recorder(
        queue,
        recording,
        interval=settings.commit_interval,
        acks=Acks(settings.ack_interval),
        latest=latest,
        backlogs=backlogs,
        late=revisions,
        stored=summaries,
    )
    refiling = Refiling(
        database, ingest_vehicles, hub, recorder, revisions, summaries, clock, ahead=lambda: follower.clock.ahead
    )
    ingest_vehicles.on_unsettled = refiling.refile
    intake = Intake(settings, ingest_vehicles, recorder, backlogs, hub, budgets, marks, clock)
    jobs = Jobs(housekeeping)
    erasures = Erasures(database, jobs, clock, settled=recorder.settled)
    sums = Sums(summing, clock)
    events = Events(database, hub.fleets, last_event=last_event)
    monitor = Monitor(database, hub.fleets, states, events, clock, gone_after=settings.gone_after)
    silences = Silences(database, hub.fleets, events, clock, gone_after=settings.gone_after)
    loader = Loader(
        database,
        hub.fleets,
        monitor,
        lambda: follower.begin(),
        clock,
        sweeping=silences.sweeping,
        connected=hub.drivers,
        gone_after=settings.gone_after,
    )
    forgetting = _Forgetting(recorder, latest, refiling, revisions, sums, erasures)
    live = LiveState(ingest_vehicles, hub, monitor, loader, auth, clock, refiling, forgetting)
    change_feed = ChangeFeed(
        database,
        auth,
        applied=lambda: follower.applied,
        begin=lambda: follower.begin(),
        most_bytes=settings.change_feed_bytes,
        readers=settings.change_readers,
        per_token=settings.change_readers_per_token,
    )
    follower = Follower(following, database, marks, live, clock=clock, on_applied=change_feed.add)
    events.on_stored = follower.wake
    shapes = Lanes(SHAPES_AT_ONCE, rests=True, on_quiet=give_back)
    return Service(
        settings=settings,
        clock=clock,
        auth=auth,
        marks=marks,
        database=database,
        recording=recording,
        exports=Database(url, marks=marks, timeout=settings.database_timeout, size=2, tidy=False),
        following=following,
        housekeeping=housekeeping,
        summing=summing,
        jobs=jobs,
        ingest_vehicles=ingest_vehicles,
        recorder=recorder,
        latest=latest,
        backlogs=backlogs,
        intake=intake,
        shown_trips=Gathered(lambda trip_ids: _trips(database, trip_ids)),
        lines=lines,
        hub=hub,
        connection_limits=ConnectionLimits(settings.connections_per_address),
        budgets=budgets,
        lists=Lanes(LISTS_AT_ONCE),
        shapes=shapes,
        downloads=Downloads(
            auth,
            at_once=settings.downloads_at_once,
            per_token=settings.downloads_per_token,
            seconds=settings.download_seconds,
            least_rate=settings.download_least_rate,
        ),
        follower=follower,
        change_feed=change_feed,
        change_upkeep=ChangeUpkeep(jobs, housekeeping, settings, clock),
        trips=Trips(follower, clock, per_fleet=settings.open_trips_per_fleet, per_vehicle=settings.open_trips_per_vehicle),
        vehicles=Vehicles(follower, clock, per_fleet=settings.vehicles_per_fleet),
        fleets=Fleets(follower, limit=settings.fleets_limit),
        geofences=Geofences(follower, shapes, per_fleet=settings.geofences_per_fleet),
        messages=Messages(follower, database, clock, budget=budgets.messages, most_unread=settings.unread_messages),
        access=Access(follower, auth, clock, shares_per_trip=settings.shares_per_trip, revoked_limit=settings.revoked_limit),
        revisions=revisions,
        refiling=refiling,
        summaries=summaries,
        sums=sums,
        erasures=erasures,
        retention=Retention(
            jobs,
            housekeeping,
            settings,
            clock,
            let_go={
                "revoked_tokens": auth.forget,
                "revoked_unknown": auth.forget,
                "latest": hub.fleets.forget_places,
            },
        ),
        monitor=monitor,
        events=events,
        loader=loader,
        silences=silences,
        audit=Audit(database, clock, addresses=settings.audit_addresses),
    )


class _Forgetting(NamedTuple):
    """What holds data of vehicles and trips, and drops it when they are removed."""

    recorder: Recorder
    latest: Latest
    refiling: Refiling
    revisions: Revisions
    sums: Sums
    erasures: Erasures

    def forget(self, numbers: set[int]) -> None:
        """See `live_state.applying.Forgetting`."""
        self.recorder.forget(numbers)
        self.latest.forget(numbers)
        self.refiling.forget(numbers)
        for number in numbers:
            self.sums.forget(number)
        self.erasures.asked()

    def fill_line(self, trip: Trip) -> None:
        self.revisions.revise_all(trip)


async def _trips(database: Database, trip_ids: list[str]) -> dict[str, tuple[Trip, int]]:
    async with database.connection() as connection:
        # First: what is read after it knows of that change at least.
        newest = await changes.head(connection)
        found = await trips.get_all(connection, trip_ids)
    as_of = newest.number if newest is not None else 0
    return {trip_id: (trip, as_of) for trip_id, trip in found.items()}


async def _tracks(database: Database, numbers: list[int]) -> dict[int, list[TrackRow]]:
    async with database.connection() as connection:
        return await trip_lines.short_tracks(connection, numbers)
