"""Builds the parts of a hub and joins them."""

import asyncio

from tracking.audit import Audit
from tracking.auth import Auth
from tracking.budgets import assemble_budgets
from tracking.change_upkeep import ChangeUpkeep
from tracking.cluster.assembly import assemble_homes, assemble_trips
from tracking.cluster.membership import Membership
from tracking.cluster.safeguards import assemble_safeguards
from tracking.cluster.uncommitted import UncommittedPositions
from tracking.config import Settings
from tracking.downloads import assemble_downloads
from tracking.erasure import Erasures
from tracking.forgetting import Forgetting
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
from tracking.ingest.vehicles import IngestVehicle, IngestVehicles, Session
from tracking.lanes import Lanes, give_back
from tracking.live.change_feed import ChangeFeed
from tracking.live.follower import Follower
from tracking.live.hub import Hub
from tracking.live_state.applying import LiveState
from tracking.model import Clock
from tracking.monitor.events import Events
from tracking.monitor.loader import Loader
from tracking.monitor.monitor import Monitor
from tracking.monitor.silence import Silences
from tracking.monitor.states import AlertStates
from tracking.nodes.assembly import assemble_nodes, assemble_registry
from tracking.nodes.backplane import Backplane
from tracking.nodes.leases import Leases
from tracking.nodes.registry import Registry
from tracking.refiling import Refiling
from tracking.service import Service
from tracking.services.access import Access
from tracking.services.fleets import Fleets
from tracking.services.geofences import Geofences
from tracking.services.messages import Messages
from tracking.services.trips import Trips
from tracking.services.vehicles import Vehicles
from tracking.sockets.limits import ConnectionLimits
from tracking.store import trip_lines, trips
from tracking.store.gathered import Gathered
from tracking.store.jobs import Jobs
from tracking.store.marks import Marks
from tracking.store.pool import HELD_BY_A_HUB_SECONDS, Database

HOUSEKEEPING_TIMEOUT = 60.0
BACKLOG_GROUPS = 1.75
"""Full groups that backlogs may fill: one is being stored, and most of one is taken meanwhile. More costs memory in a flood."""
CONFIRMED_SECONDS = 3.0
"""A hub tells others that it reaches the database if it read the change log to its end so long ago."""
LISTS_AT_ONCE = 3
OTHERS_SETTLE_SECONDS = 5.0
"""How long other hubs may take to store fixes that they took before they knew that a trip was removed."""
MAX_HUBS_COUNTED = 3
"""A fix waits for its commit for up to so many intervals. With more hubs than this they commit more often together."""
SHAPES_AT_ONCE = 1
"""Two threads would share one interpreter. They would take no less time, and the event loop would wait for both."""
SUM_TIMEOUT = 30.0
TRACKS_AT_ONCE = 8
"""Short tracks that one query reads. They are decoded together in one step of the event loop."""


def assemble(
    settings: Settings,
    url: str,
    auth: Auth,
    clock: Clock,
    *,
    last_event: int = 0,
    registry: Registry | None = None,
    backplane: Backplane | None = None,
) -> Service:
    """Builds the parts around the database at `url` and joins them. Nothing runs yet.

    All that was read from the database is in these parts, with two exceptions. `auth` knows tokens by their unguessable ids.
    `last_event` is the last id that another service on this database may have sent. `registry` says who this process is
    already. `backplane` replaces the one that the settings name.
    """
    registry = registry or assemble_registry(settings, url, clock, backplane)
    return _Assembly(settings, url, auth, clock, last_event, registry, backplane).service()


class _Assembly:
    """Builds the parts in the order in which they depend on each other. A part that comes later is reached by a lambda."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        auth: Auth,
        clock: Clock,
        last_event: int,
        registry: Registry,
        backplane: Backplane | None,
    ) -> None:
        self.settings = settings
        self.auth = auth
        self.clock = clock
        self.registry = registry
        self._open_pools(url)
        self.nodes = assemble_nodes(
            settings, self.database, registry.node, backplane, confirmed=lambda: self.follower.behind < CONFIRMED_SECONDS
        )
        self.nodes.connections = lambda: self.hub.links.count
        self.leases = Leases(self.database, registry.node.node, alone=not self.nodes.enabled)
        self._build_live()
        self._build_history()
        self._build_ingest()
        self._build_trips_across_hubs()
        self._build_erasures()
        self._build_monitor(last_event)
        self._build_loader()
        self._build_following()

    def _open_pools(self, url: str) -> None:
        settings, marks = self.settings, Marks()
        self.marks = marks
        # Connections of pools that are not `tidy` are not reset: queries and transactions leave nothing behind in them.
        held, timeout = HELD_BY_A_HUB_SECONDS, settings.database_timeout
        self.database = Database(url, marks=marks, timeout=timeout, tidy=False, held=held)
        self.recording = Database(url, marks=marks, timeout=timeout, size=2, tidy=False, held=held)
        self.exports = Database(url, marks=marks, timeout=settings.database_timeout, size=2, tidy=False)
        self.summing = Database(url, marks=marks, timeout=max(SUM_TIMEOUT, settings.database_timeout), size=1, tidy=False)
        # One connection for the log, and one for its heartbeat and for `Follower.begin`.
        self.following = Database(url, marks=marks, timeout=settings.database_timeout, size=2, tidy=False)
        # One connection for the history, and one for jobs.
        self.housekeeping = Database(url, marks=marks, timeout=max(HOUSEKEEPING_TIMEOUT, settings.database_timeout), size=2)
        self.jobs = Jobs(self.housekeeping)

    def _build_live(self) -> None:
        settings = self.settings
        self.states = AlertStates()
        self.hub = Hub(
            self.clock,
            keep_bytes=settings.feed_bytes,
            keep_seconds=settings.feed_seconds,
            linger=settings.feed_linger,
            interval_watched=settings.interval_watched,
            interval_trip=settings.interval_trip,
            interval_idle=settings.interval_idle,
            remembered=self.states,
        )

    def _build_history(self) -> None:
        # Lines and revisions show what the recorder stored, with what still waits in its queue.
        self.queue = CommitQueue(rows=self.settings.commit_rows, limit=self.settings.queue_limit)
        self.uncommitted = UncommittedPositions(self.queue)
        tracks = Gathered(lambda numbers: trip_lines.read_short(self.database, numbers), most=TRACKS_AT_ONCE)
        self.lines = Lines(self.database, tracks, self.uncommitted.pending, self.clock, self.hub.erased)
        self.revisions = Revisions(self.lines, self.hub, self.uncommitted)
        self.hub.on_former = self.revisions.late_one
        self.summaries = Summaries(
            self.housekeeping,
            self.clock,
            delay=self.settings.summary_delay,
            retention_days=self.settings.retention_days,
            ours=self.leases.job("summaries"),
        )
        self.sums = Sums(self.summing, self.clock)

    def _build_ingest(self) -> None:
        settings = self.settings
        self.ingest_vehicles = IngestVehicles(self.database, self.clock, lambda: self.follower.begin())
        self.budgets = assemble_budgets(settings, self.clock)
        self.latest = Latest(self.recording, interval=settings.latest_interval)
        self.backlogs = Backlogs(
            self.queue, most=int(BACKLOG_GROUPS * settings.commit_rows), limit=settings.queue_limit, on_quiet=give_back
        )
        self.recorder = Recorder(
            self.queue,
            self.recording,
            interval=self._commit_interval,
            acks=Acks(settings.ack_interval),
            latest=self.latest,
            backlogs=self.backlogs,
            late=self.revisions,
            stored=self.summaries,
        )
        self.refiling = Refiling(
            self.database,
            self.ingest_vehicles,
            self.hub,
            self.recorder,
            self.revisions,
            self.summaries,
            self.clock,
            ahead=lambda: self.follower.clock.ahead,
        )
        self.ingest_vehicles.on_unsettled = self.refiling.refile
        self.intake = Intake(
            settings, self._open_session, self.recorder, self.backlogs, self.hub, self.budgets, self.marks, self.clock
        )

    def _build_trips_across_hubs(self) -> None:
        self.across_hubs = assemble_trips(
            self.database,
            self.nodes,
            self.hub,
            self.uncommitted,
            self.ingest_vehicles,
            self.revisions,
            self.clock,
        )

    def _commit_interval(self) -> float:
        """Seconds. It rises with the number of hubs: together they then commit about as often as one hub does."""
        return self.settings.commit_interval * min(1 + len(self.nodes.peers), MAX_HUBS_COUNTED)

    async def _open_session(self, vehicle: IngestVehicle, name: str) -> Session | None:
        return await self.homes.open_session(vehicle, name)

    def _build_erasures(self) -> None:
        self.erasures = Erasures(self.database, self.jobs, self.clock, settled=self._settled, ours=self.leases.job("erasures"))

    async def _settled(self) -> None:
        await self.recorder.settled()
        if self.nodes.peers:
            await asyncio.sleep(OTHERS_SETTLE_SECONDS)

    def _build_monitor(self, last_event: int) -> None:
        database, fleets, gone_after = self.database, self.hub.fleets, self.settings.gone_after
        self.events = Events(database, fleets, last_event=last_event)
        self.monitor = Monitor(database, fleets, self.states, self.events, self.clock, gone_after=gone_after)
        self.homes = assemble_homes(
            database,
            self.ingest_vehicles,
            self.hub,
            self.recorder,
            self.refiling,
            self.monitor,
            self.nodes,
            self.clock,
        )
        self.homes.revise = lambda trip: self.revisions.revise_all(trip) if trip.trip_id in self.hub.feeds else None
        self.homes.recent = self.across_hubs.trips.recent if self.across_hubs is not None else None
        self.membership = Membership(self.nodes, self.registry)
        self.audit = Audit(
            database,
            self.clock,
            addresses=self.settings.audit_addresses,
            node=self.registry.node.node,
            others=self.membership.read_others,
        )
        self.safeguards = assemble_safeguards(
            self.membership,
            database,
            self.clock,
            auth=self.auth,
            hub=self.hub,
            monitor=self.monitor,
            homes=self.homes,
            revisions=self.revisions,
            audit=self.audit,
            follower=lambda: self.follower,
            shed_above=self.settings.shed_above,
        )
        self.silences = Silences(
            *(database, fleets, self.events, self.clock),
            gone_after=gone_after,
            others=self.membership.other_hubs,
            is_here=self.homes.is_here,
        )

    def _build_loader(self) -> None:
        self.loader = Loader(
            self.database,
            self.hub.fleets,
            self.monitor,
            lambda: self.follower.begin(),
            self.clock,
            sweeping=self.silences.sweeping,
            connected=self.hub.drivers,
            gone_after=self.settings.gone_after,
        )
        if self.nodes.enabled:
            self.loader.on_look = self.safeguards.remote_vehicles.look

    def _build_following(self) -> None:
        settings = self.settings
        forgetting = Forgetting(self.recorder, self.latest, self.refiling, self.revisions, self.sums, self.erasures, self.hub)
        live = LiveState(
            self.ingest_vehicles, self.hub, self.monitor, self.loader, self.auth, self.clock, self.refiling, forgetting
        )
        self.change_feed = ChangeFeed(
            self.database,
            self.auth,
            applied=lambda: self.follower.applied,
            begin=lambda: self.follower.begin(),
            most_bytes=settings.change_feed_bytes,
            readers=settings.change_readers,
            per_token=settings.change_readers_per_token,
        )
        self.follower = Follower(
            self.following,
            self.database,
            self.marks,
            live,
            clock=self.clock,
            on_applied=self.safeguards.remote_erasures.after(self.change_feed.add),
            on_committed=self.safeguards.commit_notices.committed,
            on_read=self.safeguards.commit_notices.read,
        )
        self.hub.applied = lambda: self.follower.applied
        self.events.on_stored = self.follower.wake

    def _retention(self) -> Retention:
        forget = {
            "revoked_tokens": self.auth.forget,
            "revoked_unknown": self.auth.forget,
            "latest": self.hub.fleets.forget_places,
        }
        ours = self.leases.job("retention")
        return Retention(self.jobs, self.housekeeping, self.settings, self.clock, let_go=forget, ours=ours)

    def service(self) -> Service:
        settings, clock, database, follower, budgets = self.settings, self.clock, self.database, self.follower, self.budgets
        shapes = Lanes(SHAPES_AT_ONCE, rests=True, on_quiet=give_back)
        return Service(
            settings=settings,
            clock=clock,
            auth=self.auth,
            nodes=self.nodes,
            registry=self.registry,
            leases=self.leases,
            marks=self.marks,
            database=database,
            recording=self.recording,
            exports=self.exports,
            following=self.following,
            housekeeping=self.housekeeping,
            summing=self.summing,
            jobs=self.jobs,
            ingest_vehicles=self.ingest_vehicles,
            recorder=self.recorder,
            latest=self.latest,
            backlogs=self.backlogs,
            intake=self.intake,
            shown_trips=Gathered(lambda trip_ids: trips.as_of_now(database, trip_ids)),
            lines=self.lines,
            uncommitted=self.uncommitted,
            hub=self.hub,
            across_hubs=self.across_hubs,
            connection_limits=ConnectionLimits(settings.connections_per_address),
            downloads=assemble_downloads(settings, self.auth),
            budgets=budgets,
            lists=Lanes(LISTS_AT_ONCE),
            shapes=shapes,
            follower=follower,
            change_feed=self.change_feed,
            change_upkeep=ChangeUpkeep(
                self.jobs, self.housekeeping, settings, clock, ours=self.leases.job("upkeep of the change log")
            ),
            trips=Trips(follower, clock, per_fleet=settings.open_trips_per_fleet, per_vehicle=settings.open_trips_per_vehicle),
            vehicles=Vehicles(follower, clock, per_fleet=settings.vehicles_per_fleet),
            fleets=Fleets(follower, limit=settings.fleets_limit),
            geofences=Geofences(follower, shapes, per_fleet=settings.geofences_per_fleet),
            messages=Messages(follower, database, clock, budget=budgets.messages, most_unread=settings.unread_messages),
            access=Access(
                follower, self.auth, clock, shares_per_trip=settings.shares_per_trip, revoked_limit=settings.revoked_limit
            ),
            revisions=self.revisions,
            homes=self.homes,
            safeguards=self.safeguards,
            refiling=self.refiling,
            summaries=self.summaries,
            sums=self.sums,
            erasures=self.erasures,
            retention=self._retention(),
            monitor=self.monitor,
            events=self.events,
            loader=self.loader,
            silences=self.silences,
            audit=self.audit,
        )
