"""A real monitor over real fleets without a database. What it would store waits, and tests read it there."""

import contextlib
from collections.abc import Iterable
from typing import Any

from tests.support.geofence_truth import Seen, Told
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.model import Event, EventKind, Fleet, Geofence, Position, Vehicle
from tracking.monitor.events import Events
from tracking.monitor.geofences import Fence
from tracking.monitor.monitor import Monitor
from tracking.monitor.states import AlertStates
from tracking.protocol.fit import geofence_news
from tracking.store.pool import Database

FLEET = "fleet"
BEGIN = 1_700_000_000_000


class Monitored:
    """`clock` is the hub's clock. The test sets it."""

    def __init__(self, database: Database | None = None, **thresholds: Any) -> None:
        self.clock = BEGIN
        self.numbers: dict[str, int] = {}
        """The store's numbers of the vehicles, if there is a store."""
        states = AlertStates()
        self.fleets = Fleets(remembered=states)
        database = database or Database("postgresql://nowhere")
        self.events = Events(database, self.fleets)
        self.monitor = Monitor(database, self.fleets, states, self.events, lambda: self.clock, gone_after=86_400)
        self.change_fleet(**thresholds)

    def change_fleet(self, fleet_id: str = FLEET, **thresholds: Any) -> FleetFeed:
        """Give the fleet these thresholds, and load it."""
        self.monitor.fleet_changed(Fleet(fleet_id, "Fleet", **thresholds))
        return self.fleets.loaded(fleet_id)

    def put(self, geofence_id: str, geometry: dict[str, Any], fleet_id: str = FLEET, **properties: Any) -> None:
        geofence = Geofence(fleet_id, geofence_id, geometry, properties)
        change = self.monitor.change_geofence(Fence(geofence), geofence_news(geofence))
        # It only lets other tasks run, and there are none.
        with contextlib.suppress(StopIteration):
            while True:
                change.send(None)

    def vehicle(self, vehicle_id: str, fleet_id: str = FLEET) -> LiveVehicle:
        return self.fleets.know(Vehicle(vehicle_id, fleet_id))

    def publish(self, seen: Seen, speed: float | None = None) -> None:
        """Let the monitor see the position, received now."""
        if seen.vehicle_id not in self.fleets.vehicles:
            self.vehicle(seen.vehicle_id)
        self.fleets.publish(position_of(seen, self.clock, speed, self.numbers.get(seen.vehicle_id, 0)))

    def drive(self, *seen: Seen, speed: float | None = None) -> list[Event]:
        """Let the monitor see each position at its fix time. Returns the events."""
        for one in seen:
            self.clock = max(self.clock, one.fix_time)
            self.publish(one, speed)
            self.monitor.look()
        return self.told()

    def pass_time(self, seconds: float) -> list[Event]:
        """Advance the clock second by second, and let the monitor look each time. Returns the events."""
        for _ in range(int(seconds)):
            self.clock += 1000
            self.monitor.look()
        return self.told()

    def told(self) -> list[Event]:
        """The events since the last call."""
        news = [news.event for news in self.events._waiting]
        self.events._waiting.clear()
        return news


def position_of(seen: Seen, server_time: int, speed: float | None = None, vehicle: int = 0) -> Position:
    return Position(
        vehicle=vehicle,
        vehicle_id=seen.vehicle_id,
        session=0,
        seq=1,
        fix_time=seen.fix_time,
        server_time=server_time,
        latitude=seen.latitude,
        longitude=seen.longitude,
        accuracy=seen.accuracy,
        altitude=None,
        speed=speed,
        bearing=None,
        battery=None,
        trip=None,
        trip_id=None,
        suspect=(),
        live=True,
    )


def crossings(events: Iterable[Event]) -> set[tuple[int, *Told]]:
    """The entries and exits, each with its number among those of its vehicle and fence."""
    counts: dict[tuple[str, str], int] = {}
    found: set[tuple[int, *Told]] = set()
    for event in events:
        if event.kind in (EventKind.ENTER, EventKind.EXIT):
            assert event.geofence_id is not None and event.fix_time is not None
            key = event.vehicle_id, event.geofence_id
            counts[key] = counts.get(key, 0) + 1
            found.add((counts[key], *key, event.fix_time, event.kind is EventKind.ENTER))
    return found
