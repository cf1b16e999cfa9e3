"""All vehicles and fleets that this process knows, by their ids."""

from collections.abc import Iterable, Iterator

from tracking.frames import live_view
from tracking.hub.alerts import Watched
from tracking.hub.fleet import FleetFeed, LiveVehicle, Slices
from tracking.hub.loading import Loading
from tracking.metrics import CLOCKS_WRONG
from tracking.model import Fleet, Position, Trip, Vehicle
from tracking.protocol import FleetTrip, TripGone, VehicleGone, frame

MAX_MOVES = 100_000
"""Positions that may wait for the watch, which does not look while it reads; past it the oldest are not judged."""


class Fleets:
    """Kept up to date by whoever changes something in the store, after COMMIT; `tracking.watch` reads it all at the start.

    `moves` are the positions that moved a marker, in order, for the watch to take.

    While all of it is being read (`read_…`, until `all_read`), what someone tells of a change is newer than the row may be that
    was read before it, and stays.
    """

    def __init__(self, slices: Slices | None = None) -> None:
        self._slices = slices
        self.feeds: dict[str, FleetFeed] = {}
        self.vehicles: dict[str, LiveVehicle] = {}
        self.by_number: dict[int, LiveVehicle] = {}
        self.loading: Loading[int | str] = Loading()
        self.moves: list[tuple[LiveVehicle, Position]] = []
        self._reading = True
        self._told_fleets: set[str] = set()
        self._told_trips: dict[str, Trip | None] = {}
        self._gone: set[str] = set()
        CLOCKS_WRONG.set(0)

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_fleet(self, fleet: Fleet) -> None:
        if fleet.fleet_id not in self._told_fleets:
            self.feed(fleet)

    def read_vehicle(self, vehicle: Vehicle, joined_at: int, number: int = 0) -> None:
        vehicle_id = vehicle.vehicle_id
        if vehicle_id not in self.vehicles and vehicle_id not in self._gone:
            self.know(vehicle, joined_at, number)
            if vehicle_id in self._told_trips:
                self.set_trip(vehicle_id, self._told_trips[vehicle_id])

    def read_trip(self, vehicle_id: str, trip: Trip) -> None:
        live = self.of_row(vehicle_id)
        if live is not None and vehicle_id not in self._told_trips:
            self._set_trip(live, trip)

    def of_row(self, vehicle_id: str) -> LiveVehicle | None:
        """The vehicle that a row which was read belongs to: not one that was made anew by its id since."""
        return None if vehicle_id in self._gone else self.vehicles.get(vehicle_id)

    def all_read(self) -> None:
        self._reading = False
        for told in (self._told_fleets, self._told_trips, self._gone):
            told.clear()

    def of_fleet(self, vehicle_id: str, fleet_id: str) -> LiveVehicle | None:
        """The vehicle, where it is known to be in this fleet: what is known of it while it was in another is not to be seen."""
        live = self.vehicles.get(vehicle_id)
        return live if live is not None and live.feed.fleet.fleet_id == fleet_id else None

    # --- telling ------------------------------------------------------------------------------------------------------

    def publish(self, position: Position) -> None:
        """A position that moves its vehicle's marker. One from before it was in its fleet is not this fleet's to see."""
        vehicle = self.vehicles.get(position.vehicle_id)
        if vehicle is not None and position.fix_time - vehicle.clock_skew >= vehicle.joined_at:
            vehicle.feed.moved(vehicle, position)
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

    def fleet_changed(self, fleet: Fleet) -> None:
        if self._reading:
            self._told_fleets.add(fleet.fleet_id)
        self.feed(fleet)

    def holds(self, fleet_id: str) -> bool:
        """Whether all vehicles of the fleet are known here."""
        return True

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
        elif live.vehicle != vehicle:
            live.vehicle = vehicle
            if live.feed is not feed:
                live.feed.leave(live)
                live.feed.vehicles.discard(live)
                live.feed = feed
                feed.vehicles.add(live)
                # Where it was, and in which fences, is the other fleet's to know.
                live.joined_at = joined_at
                live.position = None
                live.watched = live.watched.of_another_fleet()
            feed.restate(live)
        if number and live.number != number:
            self.by_number.pop(live.number, None)
            live.number = number
            self.by_number[number] = live
        return live

    def forget(self, vehicle_id: str) -> None:
        """The vehicle was removed."""
        if self._reading:
            self._gone.add(vehicle_id)
            self._told_trips.pop(vehicle_id, None)
        self.set_clock_skew(vehicle_id, 0)
        live = self.vehicles.pop(vehicle_id, None)
        if live is not None:
            self.by_number.pop(live.number, None)
            live.feed.leave(live)
            live.feed.vehicles.discard(live)
            if live.feed.outboxes:
                live.feed.broadcast(frame(VehicleGone(vehicle_id)))
            # Whoever holds it still, to look after it some seconds from now, holds nothing of where it was.
            live.position = None
            live.watched = Watched()

    def forget_places(self, vehicle_ids: Iterable[str]) -> None:
        """Where these were last is not kept any more; those that are on the map stay there."""
        for vehicle_id in vehicle_ids:
            live = self.vehicles.get(vehicle_id)
            if live is not None and live.cell is None:
                live.position = None

    def set_trip(self, vehicle_id: str, trip: Trip | None) -> None:
        """The trip that the vehicle's driver is to see: the one under way, or the next."""
        if self._reading:
            self._told_trips[vehicle_id] = trip
        live = self.vehicles.get(vehicle_id)
        if live is not None:
            self._set_trip(live, trip)

    def _set_trip(self, live: LiveVehicle, trip: Trip | None) -> None:
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
        if feed is not None and feed.outboxes:
            feed.broadcast(frame(FleetTrip(live_view(trip))))

    def forget_trip(self, vehicle_id: str, trip_id: str) -> None:
        """The trip was removed: the vehicle's newest position is of no trip."""
        live = self.vehicles.get(vehicle_id)
        if live is not None and live.position is not None and live.position.trip_id == trip_id:
            # In place: the same one waits to be written as the vehicle's latest.
            live.position.trip = live.position.trip_id = None

    def trip_gone(self, fleet_id: str, trip_id: str) -> None:
        feed = self.feeds.get(fleet_id)
        if feed is not None and feed.outboxes:
            feed.broadcast(frame(TripGone(trip_id)))

    def ticking(self) -> Iterator[None]:
        """To be gone through every 250 ms; between two steps others may have their turn."""
        for feed in list(self.feeds.values()):
            yield from feed.ticking()

    def recounting(self) -> Iterator[None]:
        """To be gone through every second, in the same way."""
        for feed in list(self.feeds.values()):
            yield from feed.recounting()
