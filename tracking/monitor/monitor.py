"""The monitor of all fleets in memory. It judges every move, and applies changes of geofences and thresholds.

    hub.publish -> moves -> look, five times a second: geofences and alerts -> events -> COMMIT -> the fleet's dispatchers

A look waits for nothing, so that the map shows what a vehicle does while the database is away. Events wait until they are
stored.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.metrics import CHANGES_FAILED
from tracking.model import Clock, EventKind, Fleet, Position
from tracking.monitor.alerts import Alerts, old_after
from tracking.monitor.elsewhere import Elsewhere
from tracking.monitor.events import Events
from tracking.monitor.fences import FencesInForce, made, note_broken
from tracking.monitor.geofences import Fence
from tracking.monitor.judge import MoveJudge
from tracking.monitor.last_heard import LastHeard
from tracking.monitor.rules import Alert, AlertState, Stay
from tracking.monitor.states import AlertStates
from tracking.protocol.codec import frame
from tracking.protocol.dispatcher import GeofenceGone, GeofenceNews
from tracking.store import geofences
from tracking.store.geofence_stays import StayRow
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
SETTLED_AT_ONCE = 100
"""Vehicles that are compared with a changed geofence in one step: about two milliseconds."""
MOVES_AT_ONCE = 500
"""Moves that are judged in one step of the event loop: 2 to 3 ms."""
RETRY_SECONDS = 0.5


class Monitor:
    """`run` monitors the fleets in memory, until it is cancelled. It hands what it finds to `events`.

    `states` are those that `fleets` was given. `gone_after` (s) is how long a vehicle may be silent before it leaves its
    fleet's map.
    """

    def __init__(
        self,
        database: Database,
        fleets: Fleets,
        states: AlertStates,
        events: Events,
        clock: Clock,
        *,
        gone_after: float,
    ) -> None:
        self._database = database
        self._fleets = fleets
        self.events = events
        self._clock = clock
        self.states = states
        self.fences = FencesInForce()
        self._alerts = Alerts(events, clock)
        self.last_heard = LastHeard(
            fleets, states, self._alerts, lambda vehicle: self.finds_events_of(vehicle), gone_after_ms=int(gone_after * 1000)
        )
        self.judge = MoveJudge(states, self.fences, self._alerts, self.last_heard)
        self.finds_events_of: Callable[[LiveVehicle], bool] = lambda _: True
        """Whether events of a vehicle are told here. Another hub may be its home: then only its place and status are shown.

        `cluster` sets it.
        """
        self.elsewhere = Elsewhere(fleets, states, self.last_heard, clock)
        self._moves: deque[tuple[LiveVehicle, Position]] = deque()
        """Moves that are still to be judged in this look, in order."""

    # --- fleets and geofences -------------------------------------------------------------------------------------------

    def take_up(self, vehicle: LiveVehicle, position: Position | None, stays: Sequence[StayRow], silent: bool) -> None:
        """Takes over what the store knows of a vehicle, unless the vehicle was heard of before."""
        if position is None and not stays and not silent:
            return
        state = self.states[vehicle]
        judged = state.heard is not None
        if position is not None and vehicle.position is None:
            if not judged:
                now = self._clock()
                state.previous = position
                # Its silence begins now: while its fleet was not in memory, it could not be heard. Another hub could hear it.
                state.heard = now if self.finds_events_of(vehicle) else min(now, position.server_time)
            vehicle.lost = vehicle.age_of(position) >= old_after(vehicle.feed.fleet.signal_lost_after)
            vehicle.feed.moved(vehicle, position)
            self.last_heard.look_after(vehicle)
        elif position is not None and not judged and state.previous is None and position.fix_time < (vehicle.waits_from or 0):
            # Its waiting moves continue from this position.
            state.previous = position
        if judged:
            return
        for stay in stays:
            if vehicle.feed.fleet.fleet_id == stay.fleet_id:
                state.inside[stay.geofence_id] = Stay(stay.since, stay.dwelt)
        if silent:
            self.last_heard.fall_silent(vehicle)

    def go_on_with(self, vehicle: LiveVehicle, state: AlertState) -> None:
        """Continues with what the vehicle's former home, or the store, remembers of it."""
        known = self.states.get(vehicle)
        state.due = known.due if known is not None else 0
        self.states[vehicle] = state
        if state.previous is not None and state.anchor is not None:
            # As its former home showed it. The store does not know whether it stands, and says nothing of what is shown.
            is_old = vehicle.age_of(state.previous) >= old_after(vehicle.feed.fleet.signal_lost_after)
            self.elsewhere.set_flags(vehicle, state.silent or is_old, state.stands(state.previous.fix_time))
        if state.heard is not None and not state.due:
            self.last_heard.look_after(vehicle)

    def judge_again(self, vehicle: LiveVehicle, positions: Iterable[Position]) -> None:
        """Judges these moves of a former home before all that come: it may not have judged them. They are not shown."""
        for position in positions:
            if vehicle.feed.loaded:
                self._fleets.moves.append((vehicle, position))
            else:
                self._fleets.wait(vehicle, position)

    def is_heard(self, vehicle: LiveVehicle) -> bool:
        """Whether an event is still to be told if the vehicle falls silent."""
        state = self.states.get(vehicle)
        return state is not None and bool(state.due) and not state.silent and self.finds_events_of(vehicle)

    # --- vehicles of other hubs -------------------------------------------------------------------------------------------

    def signal_told(self, number: int, *, lost: bool) -> None:
        """The log says that the signal of the vehicle with this number is lost, or back. This hub may have told it."""
        vehicle = self._fleets.by_number.get(number)
        state = self.states.get(vehicle) if vehicle is not None else None
        if vehicle is None or state is None or state.silent is lost:
            return
        if not self.finds_events_of(vehicle):
            state.silent = lost
            # The log is behind the map: the vehicle may have been heard again, and its `signal_back` comes next.
            if not (lost and self.elsewhere.is_heard(vehicle)):
                self.elsewhere.set_flags(vehicle, lost, vehicle.standing)
        elif lost and state.heard is not None:
            if self.elsewhere.is_heard(vehicle):
                # Another hub took its home for dead. If this hub told it, its `signal_back` is in the log already.
                self._alerts.tell(vehicle, vehicle.position, Alert(EventKind.SIGNAL_BACK))
            else:
                self.last_heard.fall_silent(vehicle)

    def fleet_changed(self, fleet: Fleet) -> None:
        """To be called after COMMIT: the fleet has this name and these thresholds now."""
        for vehicle in self._fleets.feed(fleet).vehicles:
            if (state := self.states.get(vehicle)) is not None:
                state.dwell_at = 0.0

    async def change_geofence(self, fence: Fence, news: GeofenceNews) -> None:
        """Puts the geofence in force, after COMMIT. Vehicles that stand in it are compared with it in steps.

        `news` is the message to dispatchers.
        """
        vehicles = self._put_geofence(fence, news)
        for begin in range(0, len(vehicles), SETTLED_AT_ONCE):
            self._settle(vehicles[begin : begin + SETTLED_AT_ONCE], fence)
            await asyncio.sleep(0)

    def _put_geofence(self, fence: Fence, news: GeofenceNews) -> list[LiveVehicle]:
        """Returns the vehicles that are to be compared with it."""
        geofence = fence.geofence
        # The moves until now are judged by the geofences until now.
        self.look_now()
        self.fences.put(fence)
        feed = self._fleets.feeds.get(geofence.fleet_id)
        if feed is None:
            return []
        feed.broadcast(frame(news))
        return list(feed.vehicles)

    def _settle(self, vehicles: list[LiveVehicle], fence: Fence) -> None:
        """One question to GEOS for all: each question may wait for the thread that builds the next geofence."""
        fleet_id, geofence_id = fence.geofence.fleet_id, fence.geofence.geofence_id
        if self.fences.of(fleet_id).by_id.get(geofence_id) is not fence:
            return
        west, south, east, north = fence.shape.bounds
        asked: list[tuple[LiveVehicle, Position]] = []
        for vehicle in vehicles:
            position = vehicle.position
            if position is None or vehicle.cell is None or vehicle.feed.fleet.fleet_id != fleet_id:
                continue
            if not self.finds_events_of(vehicle):
                continue
            state = self.states[vehicle]
            state.dwell_at = 0.0
            is_near = west <= fence.beside(position.longitude) <= east and south <= position.latitude <= north
            if is_near or geofence_id in state.inside:
                asked.append((vehicle, position))
        if not asked:
            return
        places = [(position.longitude, position.latitude) for _, position in asked]
        standing = fence.standing(places, [position.accuracy for _, position in asked])
        for (vehicle, position), inside in zip(asked, standing, strict=True):
            state = self.states[vehicle]
            if inside is not None and inside is not (geofence_id in state.inside):
                changed = state.change_fences(iter([(geofence_id, inside)]), position.fix_time)
                self.judge.tell_all(vehicle, position, state, changed)

    async def geofence_at(self, fleet_id: str, geofence_id: str) -> None:
        """Reads the geofence from the store and applies it. The changes of one fleet are applied one after the other.

        Does nothing for a fleet that is not in memory. For a fleet that is being loaded, it waits for that.
        """
        if not self._fleets.holds(fleet_id):
            return
        async with self.fences.turn(fleet_id):
            while True:
                feed = self._fleets.feeds.get(fleet_id)
                if feed is None or not feed.loaded:
                    return  # the next load reads this geofence too
                try:
                    async with self._database.connection() as connection:
                        row = await geofences.row_of(connection, fleet_id, geofence_id)
                    break
                except StoreWentBack:
                    return
                except StoreUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)
            if row is None:
                if self.fences.knows(fleet_id, geofence_id):
                    self.geofence_gone(fleet_id, geofence_id)
                return
            try:
                # A large one takes tens of milliseconds, so a thread does it.
                fence, news = await asyncio.to_thread(made, row)
            except Exception:
                CHANGES_FAILED.inc()
                note_broken(row)
                if self.fences.knows(fleet_id, geofence_id):
                    self.geofence_gone(fleet_id, geofence_id)
            else:
                await self.change_geofence(fence, news)

    def geofence_gone(self, fleet_id: str, geofence_id: str) -> None:
        """Takes the geofence out of force, after COMMIT. No `exit` is told."""
        self.look_now()
        self.fences.remove(fleet_id, geofence_id)
        feed = self._fleets.feeds.get(fleet_id)
        if feed is not None:
            feed.broadcast(frame(GeofenceGone(geofence_id)))
            for vehicle in feed.vehicles:
                if (state := self.states.get(vehicle)) is not None:
                    state.inside.pop(geofence_id, None)

    async def listing(self, fleet_id: str) -> bytes | None:
        """The fleet's geofences as a GeoJSON FeatureCollection, ordered by id; None if the fleet is not loaded."""
        feed = self._fleets.feeds.get(fleet_id)
        return await self.fences.listing(fleet_id) if feed is not None and feed.loaded else None

    # --- looking ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._look_in_parts()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_in_parts(self) -> None:
        """`look` in steps of the event loop: all drivers may have reported."""
        self._take_moves()
        while self._moves:
            self._try_to(lambda: self._judge(MOVES_AT_ONCE))
            await asyncio.sleep(0)
        self._try_to(self._look_for_the_silent)

    def look_now(self) -> None:
        """`look`, whose errors are logged."""
        self._try_to(self.look)

    def look_at(self, vehicle: LiveVehicle) -> None:
        """Judges the moves of this vehicle until now. Those of all others wait for the next look. Errors are logged."""
        self._take_moves()
        mine = [move for move in self._moves if move[0] is vehicle]
        if mine:
            self._moves = deque(chain(mine, (move for move in self._moves if move[0] is not vehicle)))
            self._try_to(lambda: self._judge(len(mine)))

    def _try_to(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception:
            # A fault here must not stop the map, the recorder or a change of a geofence.
            logger.exception("an error in the monitor: some moves were not judged")

    def look(self) -> None:
        """Judges the moves since the last look, and finds vehicles that have fallen silent."""
        self._take_moves()
        self._judge(len(self._moves))
        self._look_for_the_silent()

    def _take_moves(self) -> None:
        self._moves += self._fleets.moves
        self._fleets.moves.clear()

    def _judge(self, most: int) -> None:
        by_feed: dict[FleetFeed, list[tuple[LiveVehicle, Position]]] = {}
        for _ in range(min(most, len(self._moves))):
            vehicle, position = self._moves.popleft()
            if not vehicle.feed.loaded:
                self._fleets.wait(vehicle, position)
                continue
            if not self.finds_events_of(vehicle):
                continue  # its home is another hub by now
            # A fleet must not see what a vehicle did before it joined.
            seen = min(position.fix_time - vehicle.clock_skew, position.server_time)
            if self._fleets.is_there(vehicle) and seen >= vehicle.joined_at:
                by_feed.setdefault(vehicle.feed, []).append((vehicle, position))
        for feed, of_feed in by_feed.items():
            try:
                self.judge.judge(feed, of_feed)
            except Exception:
                # The other fleets are judged all the same.
                logger.exception("an error in the monitor: some moves of fleet %s were not judged", feed.fleet.fleet_id)

    def _look_for_the_silent(self) -> None:
        now = self._clock()
        if self.last_heard.is_due(now):
            self.last_heard.sweep(now)
            self._look_for_long_stays(now)

    def _look_for_long_stays(self, now: int) -> None:
        """A vehicle that stands in a geofence may send nothing new. If it has, its moves say when it has stayed long enough."""
        unjudged = {vehicle for vehicle, _ in chain(self._moves, self._fleets.moves)}
        for feed in self._fleets.feeds.values():
            fences = self.fences.by_fleet.get(feed.fleet.fleet_id)
            if fences is None or not fences.by_id or not feed.loaded:
                continue
            for vehicle in feed.vehicles:
                state = self.states.get(vehicle)
                # Not the position that is shown: a former home may have told it, and its fixes before that come again.
                position = state.previous if state is not None else None
                if state is None or not state.inside or position is None or vehicle.lost:
                    continue
                if vehicle in unjudged or not self.finds_events_of(vehicle):
                    continue
                # This is time by the fixes: a vehicle that sends an hour's backlog has not stayed that hour yet.
                instant = position.fix_time + max(0, now - position.server_time)
                if instant >= state.dwell_at:
                    self.judge.tell_all(vehicle, position, state, state.dwelling(instant, feed.fleet, fences))

    async def flush(self) -> None:
        """Judges the last moves, and waits until all events are stored. To be called before the hub goes down."""
        self.look_now()
        await self.events.flush()

    def busy(self) -> set[FleetFeed]:
        """The fleets that have moves to be judged, or events to be stored."""
        moves = chain(self._moves, self._fleets.moves)
        return {vehicle.feed for vehicle, _ in moves} | self.events.busy()
