"""All vehicles and fleets that this process knows, by their ids."""

from tracking.frames import live_view
from tracking.hub.fleet import FleetFeed, LiveVehicle
from tracking.model import Fleet, Position, Trip, Vehicle
from tracking.protocol import FleetTrip, Tick, TripGone, frame


class Fleets:
    """Kept up to date by whoever changes something in the store, after COMMIT; `tracking.watch` reads it all at the start.

    `moves` are the positions that moved a marker, in order, for the watch to take.
    """

    def __init__(self) -> None:
        self.feeds: dict[str, FleetFeed] = {}
        self.vehicles: dict[str, LiveVehicle] = {}
        self.moves: list[tuple[LiveVehicle, Position]] = []

    def publish(self, position: Position) -> None:
        """A position that moves its vehicle's marker."""
        vehicle = self.vehicles.get(position.vehicle_id)
        if vehicle is not None:
            vehicle.feed.moved(vehicle, position)
            self.moves.append((vehicle, position))

    def feed(self, fleet: Fleet) -> FleetFeed:
        """The fleet's feed, with its name and thresholds as they are now."""
        feed = self.feeds.get(fleet.fleet_id)
        if feed is None:
            feed = self.feeds[fleet.fleet_id] = FleetFeed(fleet)
        feed.fleet = fleet
        return feed

    def know(self, vehicle: Vehicle) -> LiveVehicle:
        """The vehicle is new, or its name, kind, plate or fleet is another now."""
        feed = self.feeds.get(vehicle.fleet_id) or self.feed(Fleet(vehicle.fleet_id, ""))
        live = self.vehicles.get(vehicle.vehicle_id)
        if live is None:
            live = self.vehicles[vehicle.vehicle_id] = LiveVehicle(vehicle, feed)
            feed.vehicles.add(live)
        elif live.vehicle != vehicle:
            live.vehicle = vehicle
            if live.feed is not feed:
                was_on_map = live.cell is not None
                live.feed.leave(live)
                live.feed.vehicles.discard(live)
                live.feed = feed
                feed.vehicles.add(live)
                # The other fleet's fences; this one may have some of the same names.
                live.watched.inside.clear()
                if was_on_map and live.position is not None:
                    feed.moved(live, live.position)
            feed.restate(live)
        return live

    def forget(self, vehicle_id: str) -> None:
        """The vehicle was removed."""
        live = self.vehicles.pop(vehicle_id, None)
        if live is not None:
            live.feed.leave(live)
            live.feed.vehicles.discard(live)
            live.position = None

    def set_trip(self, vehicle_id: str, trip: Trip | None) -> None:
        """The trip that the vehicle's driver is to see: the one under way, or the next."""
        live = self.vehicles.get(vehicle_id)
        if live is not None:
            live.trip = trip
            live.feed.restate(live)

    def trip_changed(self, trip: Trip) -> None:
        feed = self.feeds.get(trip.fleet_id)
        if feed is not None and feed.outboxes:
            feed.broadcast(frame(FleetTrip(live_view(trip))))

    def trip_gone(self, trip: Trip) -> None:
        feed = self.feeds.get(trip.fleet_id)
        if feed is not None and feed.outboxes:
            feed.broadcast(frame(TripGone(trip.trip_id)))

    def tick(self) -> None:
        """To be called every 250 ms."""
        for feed in self.feeds.values():
            feed.tick()

    def recount(self) -> None:
        """To be called every second."""
        for feed in self.feeds.values():
            feed.recount()

    def heartbeat(self, now: int) -> None:
        """A sign of life to every dispatcher."""
        tick = frame(Tick(now))
        for feed in self.feeds.values():
            feed.broadcast(tick)
