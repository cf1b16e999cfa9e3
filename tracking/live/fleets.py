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
"""Positions that may wait to be judged; past it the oldest are not judged. So many again may wait for their fleets."""


class Remembered(Protocol):
    """What is remembered of each vehicle outside `live`."""

    def forget(self, vehicle: LiveVehicle) -> None:
        """The vehicle is not in memory any more."""
        ...

    def transfer(self, vehicle: LiveVehicle) -> None:
        """The vehicle belongs to another fleet now."""
        ...


class Fleets:
    """The fleets in memory, and vehicles of others that somebody drives. `tracking.monitor.loader` reads them from the store,
    `live_state` keeps them up to date.

    `moves` are the positions that moved a marker, in order, for the monitor to take. Those of a fleet that is not loaded wait
    in its feed until it is.
    """

    def __init__(self, slices: FleetSlices | None = None, remembered: Remembered | None = None) -> None:
        self._slices = slices
        self._remembered = remembered
        self.feeds: dict[str, FleetFeed] = {}
        self.vehicles: dict[str, LiveVehicle] = {}
        self.by_number: dict[int, LiveVehicle] = {}
        self.held: set[str] = set()
        """fleets that are loaded or being loaded"""
        self.loading: Loading[int | str] = Loading()
        self.moves: list[tuple[LiveVehicle, Position]] = []
        self.waiting = 0
        """moves that wait for their fleets"""
        self.on_needed: Callable[[str], None] = lambda _: None
        """Told of a fleet that is not held, and of which a vehicle moved."""
        self.on_doubt: Callable[[str], None] = lambda _: None
        """Told of a fleet that may be another than it is known to be here."""
        CLOCKS_WRONG.set(0)

    # --- loading ------------------------------------------------------------------------------------------------------

    def holds(self, fleet_id: str) -> bool:
        """Whether the fleet is loaded or being loaded: whatever changes in it is to be known here."""
        return fleet_id in self.held

    def loaded(self, fleet_id: str) -> FleetFeed:
        """All of the fleet is known now: what waited for that is to be judged."""
        feed = self.feeds[fleet_id]
        self.held.add(fleet_id)
        feed.loaded = True
        moves, feed.waiting = feed.waiting, []
        self.waiting -= len(moves)
        self.moves += moves
        return feed

    def wait(self, vehicle: LiveVehicle, position: Position) -> None:
        """The move is to be judged when the vehicle's fleet is loaded."""
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

    def let_go(self, live: LiveVehicle) -> None:
        """The vehicle is held no more; the store has it."""
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
        """It was not removed; another one may have its id by now."""
        return self.vehicles.get(live.vehicle.vehicle_id) is live

    def of_fleet(self, vehicle_id: str, fleet_id: str) -> LiveVehicle | None:
        """The vehicle, where it is known to be in this fleet: what is known of it while it was in another is not to be seen."""
        live = self.vehicles.get(vehicle_id)
        return live if live is not None and live.feed.fleet.fleet_id == fleet_id else None

    # --- telling ------------------------------------------------------------------------------------------------------

    def publish(self, position: Position) -> None:
        """A position that moves its vehicle's marker. One from before it was in its fleet is not this fleet's to see."""
        vehicle = self.vehicles.get(position.vehicle_id)
        if vehicle is not None and position.fix_time - vehicle.clock_skew >= vehicle.joined_at:
            feed = vehicle.feed
            feed.moved(vehicle, position)
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
        feed.fleet = fleet
        return feed

    def know(self, vehicle: Vehicle, joined_at: int = 0, number: int = 0) -> LiveVehicle:
        """The vehicle is new, or its name, kind, plate or fleet is another now. `joined_at`: since when it is in its fleet.

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
            # It may have been in another fleet and come back before this hub knew of either.
            if live.feed is not feed or joined_at > live.joined_at:
                self._transfer(live, feed, joined_at)
            feed.restate(live)
        if number and live.number != number:
            self.by_number.pop(live.number, None)
            live.number = number
            self.by_number[number] = live
        return live

    def _transfer(self, live: LiveVehicle, feed: FleetFeed, joined_at: int) -> None:
        """Where it was, and in which fences, is the other fleet's to know."""
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
            # Whoever holds it still, to look after it some seconds from now, holds nothing of where it was.
            live.position = None
            self._forget_remembered(live)

    def forget_places(self, vehicle_ids: Iterable[str]) -> None:
        """Where these were last is not kept any more; those that are on the map stay there."""
        for vehicle_id in vehicle_ids:
            live = self.vehicles.get(vehicle_id)
            if live is not None and live.cell is None:
                live.position = None

    def set_trip(self, vehicle_id: str, trip: Trip | None) -> None:
        """The trip that the vehicle's driver is to see: the one under way, or the next."""
        live = self.vehicles.get(vehicle_id)
        if live is not None:
            live.trip = trip
            live.feed.restate(live)

    def set_clock_skew(self, vehicle_id: str, skew: int) -> None:
        """The clock of the vehicle's device is so many ms ahead of ours (negative: behind), or not known to be wrong (0)."""
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
        """The trip was removed: the vehicle's newest position is of no trip."""
        live = self.vehicles.get(vehicle_id)
        if live is not None and live.position is not None and live.position.trip_id == trip_id:
            # In place: the same one waits to be written as the vehicle's latest.
            live.position.trip = live.position.trip_id = None

    def trip_gone(self, fleet_id: str, trip_id: str) -> None:
        feed = self.feeds.get(fleet_id)
        if feed is not None and feed.queues:
            feed.broadcast(frame(TripGone(trip_id)))

    def ticking(self) -> Iterator[None]:
        """To be gone through every 250 ms; between two steps others may have their turn."""
        for feed in list(self.feeds.values()):
            yield from feed.screens.ticking()

    def recounting(self) -> Iterator[None]:
        """To be gone through every second, in the same way."""
        for feed in list(self.feeds.values()):
            yield from feed.screens.recounting()
