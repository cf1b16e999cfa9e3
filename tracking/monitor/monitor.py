"""The monitor over all fleets: looks at every move, and tells dispatchers of what happened once it is committed.

    hub.publish -> moves -> look, five times a second: fences and alerts -> events -> COMMIT -> the fleet's dispatchers

Looking waits for nothing, so that what a vehicle is doing shows on the map while the database is away; the events themselves
wait until they are stored.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from msgspec import UNSET

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.metrics import CHANGES_FAILED
from tracking.model import Clock, Event, EventKind, Fleet, Position
from tracking.monitor.events import Emitted, Events
from tracking.monitor.fences import FencesInForce, made, note_broken
from tracking.monitor.geofences import Fence, Fences, Move, move_of
from tracking.monitor.rules import GAP_MS, LATE_MS, Alert, AlertState, Route, Stay, are_on_route
from tracking.protocol.codec import frame
from tracking.protocol.dispatcher import GeofenceGone, GeofenceNews
from tracking.store import geofences
from tracking.store.geofence_stays import StayRow
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
SETTLED_AT_ONCE = 100
"""Vehicles that are held against a fence which changed, in one step: some two milliseconds."""
MOVES_AT_ONCE = 500
"""Moves that are judged before others have their turn: 2 to 3 ms of work."""
RETRY_SECONDS = 0.5
SWEEP_MS = 1_000
PAUSE_MS = 10_000
"""Past this between two sweeps the clock was set, or this process stood still."""
LOOK_AFTER_MS = 10_000
"""So often at least is asked whether a vehicle is silent: its fleet, or its fleet's threshold, may have become another."""


class _States(dict[LiveVehicle, AlertState]):
    def __missing__(self, vehicle: LiveVehicle) -> AlertState:
        state = self[vehicle] = AlertState()
        return state


class Monitor:
    """`run` looks after the fleets in memory, until it is cancelled; what it sees goes to `events`.

    `gone_after` (s) is how long a vehicle may be silent before it leaves its fleet's map.
    """

    def __init__(self, database: Database, fleets: Fleets, events: Events, clock: Clock, *, gone_after: float) -> None:
        self._database = database
        self._fleets = fleets
        self._events = events
        self._clock = clock
        self._gone_after_ms = int(gone_after * 1000)
        self.states = _States()
        """What is remembered of each vehicle that was heard of, for as long as it is in memory."""
        fleets.on_gone = self._forget
        fleets.on_transferred = self._transferred
        self.fences = FencesInForce()
        self._moves: deque[tuple[LiveVehicle, Position]] = deque()
        """Those that this look judges, in order, and has not judged yet."""
        self._due: dict[int, list[LiveVehicle]] = {}
        """Vehicles to look after, by the second in which they may have fallen silent."""
        self._swept = 0

    # --- what there is to monitor ---------------------------------------------------------------------------------------

    def take_up(self, vehicle: LiveVehicle, position: Position | None, stays: Sequence[StayRow], silent: bool) -> None:
        """What the store knows of a vehicle, unless it was heard of already."""
        if position is None and not stays and not silent:
            return
        state = self.states[vehicle]
        judged = state.heard is not None
        if position is not None and vehicle.position is None:
            now = self._clock()
            state.previous = position
            # Heard of just now, as far as its silence goes: while nobody looked, nobody could be heard.
            state.heard = now
            vehicle.lost = vehicle.age_of(position) >= old_after(vehicle.feed.fleet.signal_lost_after)
            vehicle.feed.moved(vehicle, position)
            self._look_after(vehicle)
        elif position is not None and state.previous is None and position.fix_time < (vehicle.waits_from or 0):
            # Its moves are judged as of one that goes on from there.
            state.previous = position
        if judged:
            return
        for stay in stays:
            if vehicle.feed.fleet.fleet_id == stay.fleet_id:
                state.inside[stay.geofence_id] = Stay(stay.since, stay.dwelt)
        if silent:
            self._fall_silent(vehicle)

    def _fall_silent(self, vehicle: LiveVehicle) -> None:
        self.states[vehicle].silent = vehicle.lost = True
        vehicle.feed.restate(vehicle)

    def is_heard(self, vehicle: LiveVehicle) -> bool:
        """Its next silence is to be told."""
        state = self.states.get(vehicle)
        return state is not None and state.due and not state.silent

    def _forget(self, vehicle: LiveVehicle) -> None:
        """It is not in memory any more."""
        self.states.pop(vehicle, None)

    def _transferred(self, vehicle: LiveVehicle) -> None:
        """It is another fleet's now."""
        state = self.states.get(vehicle)
        if state is not None:
            self.states[vehicle] = state.of_another_fleet()

    def fleet_changed(self, fleet: Fleet) -> None:
        """After COMMIT: its name or thresholds are these now."""
        for vehicle in self._fleets.feed(fleet).vehicles:
            if (state := self.states.get(vehicle)) is not None:
                state.dwell_at = 0.0

    async def change_geofence(self, fence: Fence, news: GeofenceNews) -> None:
        """After COMMIT: in force at once, for the vehicles that stand in it too. In steps: they may be thousands.

        `news` is what sockets are told of it.
        """
        vehicles = self._put_geofence(fence, news)
        for begin in range(0, len(vehicles), SETTLED_AT_ONCE):
            self._settle(vehicles[begin : begin + SETTLED_AT_ONCE], fence)
            await asyncio.sleep(0)

    def _put_geofence(self, fence: Fence, news: GeofenceNews) -> list[LiveVehicle]:
        """Those that are to be held against it."""
        geofence = fence.geofence
        # What they did before the fence was as it is now.
        self._try_to_look()
        self.fences.put(fence)
        feed = self._fleets.feeds.get(geofence.fleet_id)
        if feed is None:
            return []
        feed.broadcast(frame(news))
        return list(feed.vehicles)

    def _settle(self, vehicles: list[LiveVehicle], fence: Fence) -> None:
        """All at once: each question to GEOS alone would wait for the thread that makes the next fence."""
        fleet_id, geofence_id = fence.geofence.fleet_id, fence.geofence.geofence_id
        if self.fences.of(fleet_id).by_id.get(geofence_id) is not fence:
            return
        west, south, east, north = fence.shape.bounds
        asked: list[tuple[LiveVehicle, Position]] = []
        for vehicle in vehicles:
            position = vehicle.position
            if position is None or vehicle.cell is None or vehicle.feed.fleet.fleet_id != fleet_id:
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
                self._tell_all(vehicle, position, state.change_fences(iter([(geofence_id, inside)]), position.fix_time))

    async def geofence_at(self, fleet_id: str, geofence_id: str) -> None:
        """Takes note of how the geofence is now: read from the store, one change of a fleet after the other.

        Of a fleet that is not held nothing is noted, and of one that is being loaded what is read after that.
        """
        if not self._fleets.holds(fleet_id):
            return
        async with self.fences.turn(fleet_id):
            while True:
                feed = self._fleets.feeds.get(fleet_id)
                if feed is None or not feed.loaded:
                    return  # whoever loads it then reads this too
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
                # In a thread: a large one is tens of milliseconds.
                fence, news = await asyncio.to_thread(made, row)
            except Exception:
                CHANGES_FAILED.inc()
                note_broken(row)
                if self.fences.knows(fleet_id, geofence_id):
                    self.geofence_gone(fleet_id, geofence_id)
            else:
                await self.change_geofence(fence, news)

    def geofence_gone(self, fleet_id: str, geofence_id: str) -> None:
        """After COMMIT. Nobody leaves a fence that is no more: no `exit` is told."""
        self._try_to_look()
        self.fences.remove(fleet_id, geofence_id)
        feed = self._fleets.feeds.get(fleet_id)
        if feed is not None:
            feed.broadcast(frame(GeofenceGone(geofence_id)))
            for vehicle in feed.vehicles:
                if (state := self.states.get(vehicle)) is not None:
                    state.inside.pop(geofence_id, None)

    async def listing(self, fleet_id: str) -> bytes | None:
        """The fleet's geofences as JSON, a FeatureCollection in the order of their ids; None where the fleet is not loaded."""
        feed = self._fleets.feeds.get(fleet_id)
        return await self.fences.listing(fleet_id) if feed is not None and feed.loaded else None

    # --- looking ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._look_in_parts()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_in_parts(self) -> None:
        """`look`, while others have their turn: all drivers may have reported."""
        self._take_moves()
        while self._moves:
            self._try_to(lambda: self._judge(MOVES_AT_ONCE))
            await asyncio.sleep(0)
        self._try_to(self._look_for_the_silent)

    def _try_to_look(self) -> None:
        self._try_to(self.look)

    def _try_to(self, look: Callable[[], None]) -> None:
        try:
            look()
        except Exception:
            # The map, the recorder and who puts a fence must not go down with it.
            logger.exception("a fault of ours in the monitor: some moves were not judged")

    def look(self) -> None:
        """Judges the moves since the last look, and who has not been heard of."""
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
            # What it did before it was in this fleet is not this one's to know.
            seen = min(position.fix_time - vehicle.clock_skew, position.server_time)
            if self._fleets.is_there(vehicle) and seen >= vehicle.joined_at:
                by_feed.setdefault(vehicle.feed, []).append((vehicle, position))
        for feed, of_feed in by_feed.items():
            try:
                self._look_at(feed, of_feed)
            except Exception:
                # The other fleets, and those who are silent, must not go unseen with it.
                logger.exception("a fault of ours in the monitor: some moves of fleet %s were not judged", feed.fleet.fleet_id)

    def _look_for_the_silent(self) -> None:
        now = self._clock()
        if now - self._swept >= SWEEP_MS or now < self._swept:
            if self._swept and not 0 <= now - self._swept < PAUSE_MS:
                self._resume(now, now - self._swept)
            self._swept = now
            self._sweep(now)

    def _look_at(self, feed: FleetFeed, moves: list[tuple[LiveVehicle, Position]]) -> None:
        fleet = feed.fleet
        fences = self.fences.of(fleet.fleet_id)
        states = [self.states[vehicle] for vehicle, _ in moves]
        touched = _touched(fences, moves, states) if fences.by_id else None
        routes: dict[int, tuple[Route, Position, float]] = {}
        for number, (vehicle, position) in enumerate(moves):
            trip = vehicle.trip
            if (trip is not None and trip.route is not None) or states[number].route is not None:
                route = states[number].route_of(vehicle.trip)
                # Where it was before the trip, or on another one, is no way off this one's route.
                if route is not None and (position.trip_id == route.trip_id or vehicle.age_of(position) <= LATE_MS):
                    routes[number] = route, position, fleet.off_route_distance
        on_route = are_on_route(routes)
        old = old_after(fleet.signal_lost_after)
        limited = fleet.speed_limit is not UNSET or fences.limit_speed
        for number, (vehicle, position) in enumerate(moves):
            state = states[number]
            state.heard = position.server_time
            if not state.due:
                self._look_after(vehicle)
            is_old = vehicle.age_of(position) >= old
            if state.silent and not is_old:
                state.silent = False
                self._tell(vehicle, position, Alert(EventKind.SIGNAL_BACK))
            if vehicle.lost is not (state.silent or is_old):
                vehicle.lost = not vehicle.lost
                feed.restate(vehicle)
            if touched is not None and (touched[number][1] or state.inside):
                move, touches = touched[number]
                asked = [i for i, wholly in touches.items() if not (wholly and i in state.inside)]
                asked += [i for i in state.inside if i not in touches]
                if asked and not state.wanders(position):
                    self._cross(vehicle, position, state, move, fences, asked)
                if state.inside and position.fix_time >= state.dwell_at:
                    self._tell_all(vehicle, position, state.dwelling(position.fix_time, fleet, fences))
            if limited or state.speeding:
                alert = state.judge_speed(position, state.limit(fleet, fences))
                if alert is not None:
                    self._tell(vehicle, position, alert)
            if (alert := state.judge_standing(position, fleet.idle_after)) is not None:
                self._tell(vehicle, position, alert)
            if on_route and number in on_route and (alert := state.judge_route(on_route[number])) is not None:
                self._tell(vehicle, position, alert)
            state.previous = position
            standing = state.stands(position.fix_time)
            if standing is not vehicle.standing:
                vehicle.standing = standing
                feed.restate(vehicle)

    def _cross(
        self, vehicle: LiveVehicle, position: Position, state: AlertState, move: Move, fences: Fences, asked: list[str]
    ) -> None:
        def changes() -> Iterator[tuple[str, bool]]:
            for geofence_id in asked:
                fence = fences.by_id.get(geofence_id)
                if fence is None:
                    state.inside.pop(geofence_id, None)
                    continue
                for inside in fence.walk(move, geofence_id in state.inside):
                    yield geofence_id, inside

        self._tell_all(vehicle, position, state.change_fences(changes(), position.fix_time))

    # --- silence ------------------------------------------------------------------------------------------------------

    def _look_after(self, vehicle: LiveVehicle) -> None:
        """Has it looked at in the second in which it will have been silent for too long."""
        state = self.states[vehicle]
        assert state.heard is not None
        after = self._gone_after_ms if state.silent else int(vehicle.feed.fleet.signal_lost_after * 1000)
        second = max(min(state.heard + after, self._swept + LOOK_AFTER_MS), self._swept) // 1000 + 1
        state.due = True
        self._due.setdefault(second, []).append(vehicle)

    def _resume(self, now: int, gap: int) -> None:
        """The time that passed unseen is no silence of anyone's: nobody could be heard, or it did not pass at all."""
        everyone = [vehicle for vehicles in self._due.values() for vehicle in vehicles]
        self._due = {now // 1000: everyone}
        for vehicle in everyone:
            state = self.states.get(vehicle)
            if state is not None and state.heard is not None:
                state.heard = min(state.heard + gap, now)

    def _sweep(self, now: int) -> None:
        heard_meanwhile = {vehicle for vehicle, _ in self._fleets.moves}
        for second in [second for second in self._due if second <= now // 1000]:
            for vehicle in self._due.pop(second):
                state = self.states.get(vehicle)
                if state is None:
                    continue
                state.due = False
                if vehicle in heard_meanwhile:
                    self._look_after(vehicle)
                else:
                    self._check_silence(vehicle, now)
        for feed in self._fleets.feeds.values():
            fences = self.fences.by_fleet.get(feed.fleet.fleet_id)
            if fences is None or not fences.by_id or not feed.loaded:
                continue
            for vehicle in feed.vehicles:
                # Who stands in a fence may have nothing new to report.
                position = vehicle.position
                state = self.states.get(vehicle)
                if state is None or not state.inside or position is None or vehicle.lost:
                    continue
                # By its own clock: while it sends what it could not send for an hour, it is not later there yet.
                instant = position.fix_time + max(0, now - position.server_time)
                if instant >= state.dwell_at:
                    self._tell_all(vehicle, position, state.dwelling(instant, feed.fleet, fences))

    def _check_silence(self, vehicle: LiveVehicle, now: int) -> None:
        state, feed = self.states[vehicle], vehicle.feed
        assert state.heard is not None
        if not feed.loaded:
            # What it sent waits to be judged.
            state.heard = now
        silent_for = now - state.heard
        if state.silent:
            if silent_for >= self._gone_after_ms:
                feed.leave(vehicle)
                return
        elif silent_for >= feed.fleet.signal_lost_after * 1000:
            self._fall_silent(vehicle)
            self._tell(vehicle, vehicle.position, Alert(EventKind.SIGNAL_LOST))
        self._look_after(vehicle)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _tell_all(self, vehicle: LiveVehicle, position: Position, alerts: Iterator[Alert]) -> None:
        for alert in list(alerts):
            self._tell(vehicle, position, alert)

    def _tell(self, vehicle: LiveVehicle, position: Position | None, alert: Alert) -> None:
        trip_id = vehicle.trip.trip_id if vehicle.trip is not None and vehicle.trip.status.under_way else None
        late = False
        if position is not None:
            # A signal is lost or back now, by our clock, unless all that came of it was old.
            of_the_signal = alert.kind in _OF_THE_SIGNAL
            late = vehicle.age_of(position) > (old_after(vehicle.feed.fleet.signal_lost_after) if of_the_signal else LATE_MS)
            if late:
                # Of a trip that memory does not hold any more the store knows, and is not waited for.
                trip_id = position.trip_id or None
        event = Event(
            event_id=0,
            kind=alert.kind,
            vehicle_id=vehicle.vehicle.vehicle_id,
            server_time=self._clock(),
            geofence_id=alert.geofence_id,
            fix_time=position.fix_time if position is not None else None,
            latitude=position.latitude if position is not None else None,
            longitude=position.longitude if position is not None else None,
            trip_id=trip_id,
            speed=alert.speed,
            limit=alert.limit,
            late=late,
        )
        number = position.vehicle if position is not None else None
        self._events.add(Emitted(vehicle.feed, vehicle.feed.fleet.fleet_id, vehicle, number, event))

    async def flush(self) -> None:
        """Judges what came, and waits until all that was told of it is stored: before the hub goes down."""
        self._try_to_look()
        await self._events.flush()

    def busy(self) -> set[FleetFeed]:
        """The fleets of which something is still to be judged or stored."""
        moves = chain(self._moves, self._fleets.moves)
        return {vehicle.feed for vehicle, _ in moves} | self._events.busy()


def _touched(
    fences: Fences, moves: list[tuple[LiveVehicle, Position]], states: list[AlertState]
) -> list[tuple[Move, dict[str, bool]]]:
    before: dict[LiveVehicle, Position] = {}
    made: list[Move] = []
    for (vehicle, position), state in zip(moves, states, strict=True):
        previous = before.get(vehicle, state.previous)
        before[vehicle] = position
        start = accuracy_before = None
        if previous is not None and position.fix_time - previous.fix_time <= GAP_MS:
            start, accuracy_before = (previous.longitude, previous.latitude), previous.accuracy
        made.append(move_of(start, (position.longitude, position.latitude), position.accuracy, accuracy_before))
    return list(zip(made, fences.touched(made), strict=True))


def old_after(signal_lost_after: float) -> float:
    """A position that was so old (ms) when it came does not say where a vehicle of a fleet with this threshold is now."""
    return max(LATE_MS, signal_lost_after * 1000)


_OF_THE_SIGNAL = (EventKind.SIGNAL_LOST, EventKind.SIGNAL_BACK)
