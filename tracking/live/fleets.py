"""All vehicles and fleets that this process knows, by their ids."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.loading import Loading
from tracking.live.shown_vehicle import FleetSlices
from tracking.metrics import CLOCKS_WRONG
from tracking.model import Fleet, Position, Trip, Vehicle
from tracking.protocol.codec import frame
from tracking.protocol.dispatcher import FleetTrip, TripGone, VehicleGone
from tracking.protocol.fit import live_view

MAX_MOVES = 100_000
"""Positions that may wait to be judged. Past it the oldest are dropped. As many may wait for their fleets."""


class Remembered(Protocol):
    """What is remembered of each vehicle outside `live`."""

    def forget(self, vehicle: LiveVehicle) -> None:
        """The vehicle is not in memory any more."""
        ...

    def transfer(self, vehicle: LiveVehicle) -> None:
        """The vehicle belongs to another fleet now."""
        ...


class Fleets:
    """The fleets in memory, and vehicles of other fleets that somebody drives.

    `tracking.monitor.loader` reads them from the store, and `live_state` keeps them up to date. `moves` are the positions that
    moved a marker, in order. The monitor takes them. Moves of a fleet that is not loaded wait in its feed.
    """

    def __init__(self, slices: FleetSlices | None = None, remembered: Remembered | None = None) -> None:
        self._slices = slices
        self._remembered = remembered
        self.feeds: dict[str, FleetFeed] = {}
        self.vehicles: dict[str, LiveVehicle] = {}
        self.by_number: dict[int, LiveVehicle] = {}
        self.held: set[str] = set()
        """Fleets that are loaded or being loaded."""
        self.loading: Loading[int | str] = Loading()
        self.moves: list[tuple[LiveVehicle, Position]] = []
        self.waiting = 0
        """How many moves wait for their fleets."""
        self.on_needed: Callable[[str], None] = lambda _: None
        """Told of a fleet that is not held, when one of its vehicles moved. The loader sets it, as it fills these fleets."""
        self.on_begun: Callable[[FleetFeed], None] = lambda _: None
        """Told of each new feed."""
        CLOCKS_WRONG.set(0)

    # --- loading ------------------------------------------------------------------------------------------------------

    def holds(self, fleet_id: str) -> bool:
        """Whether the fleet is loaded or being loaded, so that every change in it must be applied here."""
        return fleet_id in self.held

    def loaded(self, fleet_id: str) -> FleetFeed:
        """All of the fleet is known now, and its waiting moves can be judged."""
        feed = self.feeds[fleet_id]
        self.held.add(fleet_id)
        feed.loaded = True
        moves, feed.waiting = feed.waiting, []
        self.waiting -= len(moves)
        self.moves += moves
        return feed

    def wait(self, vehicle: LiveVehicle, position: Position) -> None:
        """The move waits until the vehicle's fleet is loaded."""
        feed = vehicle.feed
        feed.waiting.append((vehicle, position))
        if vehicle.waits_from is None:
            vehicle.waits_from = position.fix_time
        self.waiting += 1
        if self.waiting > MAX_MOVES:
            longest = max(self.feeds.values(), key=lambda feed: len(feed.waiting))
            given_up = min(MAX_MOVES // 10, len(longest.waiting))
            del longest.waiting[:given_up]
            self.waiting -= given_up
        if feed.fleet.fleet_id not in self.held:
            self.on_needed(feed.fleet.fleet_id)

    def take_waiting(self, live: LiveVehicle) -> list[Position]:
        """Its moves that wait for the fleet. They are not judged here any more."""
        feed = live.feed
        if live.waits_from is None or not feed.waiting:
            return []
        taken = [position for vehicle, position in feed.waiting if vehicle is live]
        feed.waiting[:] = [move for move in feed.waiting if move[0] is not live]
        self.waiting -= len(taken)
        live.waits_from = None
        return taken

    def let_go(self, live: LiveVehicle) -> None:
        """Drops the vehicle from memory. It stays in the store."""
        vehicle_id = live.vehicle.vehicle_id
        self.set_clock_skew(vehicle_id, 0)
        self.vehicles.pop(vehicle_id, None)
        self.by_number.pop(live.number, None)
        live.feed.leave(live)
        live.feed.vehicles.discard(live)
        self._forget_remembered(live)

    def _forget_remembered(self, live: LiveVehicle) -> None:
        if self._remembered is not None:
            self._remembered.forget(live)

    def is_there(self, live: LiveVehicle) -> bool:
        """Whether it is still in memory. If it was removed, another vehicle may have its id by now."""
        return self.vehicles.get(live.vehicle.vehicle_id) is live

    def of_fleet(self, vehicle_id: str, fleet_id: str) -> LiveVehicle | None:
        """The vehicle, if it is in this fleet. A fleet must not see what a vehicle did in another."""
        live = self.vehicles.get(vehicle_id)
        return live if live is not None and live.feed.fleet.fleet_id == fleet_id else None

    # --- telling ------------------------------------------------------------------------------------------------------

    def publish(self, position: Position) -> None:
        """Takes a position that moves its vehicle's marker. A fleet must not see positions from before the vehicle joined."""
        vehicle = self.vehicles.get(position.vehicle_id)
        if vehicle is not None and position.fix_time - vehicle.clock_skew >= vehicle.joined_at:
            feed = vehicle.feed
            # Older ones were accepted by another hub, which did not store them, and come again.
            if position.fix_time >= vehicle.newest_elsewhere:
                feed.moved(vehicle, position)
                if feed.noted is not None:
                    feed.noted.add(vehicle)
            if not feed.loaded:
                self.wait(vehicle, position)
                return
            self.moves.append((vehicle, position))
            if len(self.moves) > MAX_MOVES:
                del self.moves[: MAX_MOVES // 10]

    def feed(self, fleet: Fleet) -> FleetFeed:
        """The fleet's feed, with its name and thresholds as they are now."""
        feed = self.feeds.get(fleet.fleet_id)
        if feed is None:
            feed = self.feeds[fleet.fleet_id] = FleetFeed(fleet, self._slices)
            self.on_begun(feed)
        feed.fleet = fleet
        return feed

    def know(self, vehicle: Vehicle, joined_at: int = 0, number: int = 0) -> LiveVehicle:
        """The vehicle is new, or its name, kind, plate or fleet has changed. `joined_at` is when it joined its fleet.

        `number` is the store's.
        """
        feed = self.feeds.get(vehicle.fleet_id) or self.feed(Fleet(vehicle.fleet_id, ""))
        live = self.vehicles.get(vehicle.vehicle_id)
        if live is None:
            live = self.vehicles[vehicle.vehicle_id] = LiveVehicle(vehicle, feed)
            live.joined_at = joined_at
            feed.vehicles.add(live)
        elif live.vehicle != vehicle or joined_at > live.joined_at:
            live.vehicle = vehicle
            # It may have left its fleet and come back before this hub knew of either.
            if live.feed is not feed or joined_at > live.joined_at:
                self._transfer(live, feed, joined_at)
            feed.restate(live)
        if number and live.number != number:
            self.by_number.pop(live.number, None)
            live.number = number
            self.by_number[number] = live
        return live

    def _transfer(self, live: LiveVehicle, feed: FleetFeed, joined_at: int) -> None:
        """Moves it to another fleet, which must not learn its place, nor the geofences that it was in."""
        live.feed.leave(live)
        live.feed.vehicles.discard(live)
        live.feed = feed
        feed.vehicles.add(live)
        live.joined_at = joined_at
        live.position = None
        live.waits_from = None
        if self._remembered is not None:
            self._remembered.transfer(live)

    def forget(self, vehicle_id: str) -> None:
        """The vehicle was removed."""
        self.set_clock_skew(vehicle_id, 0)
        live = self.vehicles.pop(vehicle_id, None)
        if live is not None:
            self.by_number.pop(live.number, None)
            live.feed.leave(live)
            live.feed.vehicles.discard(live)
            if live.feed.queues:
                live.feed.broadcast(frame(VehicleGone(vehicle_id)))
            # Schedules may hold the object for some more seconds. Its place must be gone at once.
            live.position = None
            self._forget_remembered(live)

    def forget_places(self, vehicle_ids: Iterable[str]) -> None:
        """The store no longer keeps the last places of these vehicles. Those on the map stay there."""
        for vehicle_id in vehicle_ids:
            live = self.vehicles.get(vehicle_id)
            if live is not None and live.cell is None:
                live.position = None

    def forget_places_before(self, instant: int) -> None:
        """The same for places from before the instant: another hub may have removed them from the store."""
        for live in self.vehicles.values():
            if live.cell is None and live.position is not None and live.position.fix_time < instant:
                live.position = None

    def set_trip(self, vehicle_id: str, trip: Trip | None) -> None:
        """The trip that the vehicle's driver is to see: the one under way, or the next."""
        live = self.vehicles.get(vehicle_id)
        if live is not None:
            live.trip = trip
            live.feed.restate(live)

    def set_clock_skew(self, vehicle_id: str, skew: int) -> None:
        """The clock of its device is so many ms ahead of the hub's (negative: behind). 0: it is not known to be wrong."""
        live = self.vehicles.get(vehicle_id)
        if live is not None and live.clock_skew != skew:
            CLOCKS_WRONG.inc((skew != 0) - (live.clock_skew != 0))
            live.clock_skew = skew
            live.feed.restate(live)

    def trip_changed(self, trip: Trip) -> None:
        feed = self.feeds.get(trip.fleet_id)
        if feed is not None and feed.queues:
            feed.broadcast(frame(FleetTrip(live_view(trip))))

    def forget_trip(self, vehicle_id: str, trip_id: str) -> None:
        """The trip was removed, so the vehicle's newest position belongs to no trip."""
        live = self.vehicles.get(vehicle_id)
        if live is not None and live.position is not None and live.position.trip_id == trip_id:
            # Changed in place, because the same object waits to be written as the vehicle's latest position.
            live.position.trip = live.position.trip_id = None

    def trip_gone(self, fleet_id: str, trip_id: str) -> None:
        feed = self.feeds.get(fleet_id)
        if feed is not None and feed.queues:
            feed.broadcast(frame(TripGone(trip_id)))

    def ticking(self) -> Iterator[None]:
        """To be iterated every 250 ms. Other tasks may run between two steps."""
        for feed in list(self.feeds.values()):
            yield from feed.screens.ticking()

    def recounting(self) -> Iterator[None]:
        """To be iterated every second, in the same way."""
        for feed in list(self.feeds.values()):
            yield from feed.screens.recounting()
