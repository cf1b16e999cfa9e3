"""Answers: what this hub knows of a trip that a peer asks about, all from one step of the event loop."""

from collections.abc import Iterator

from tracking.ingest.commit_queue import CommitQueue
from tracking.ingest.vehicles import IngestVehicle, IngestVehicles
from tracking.live.hub import Hub
from tracking.live.recent import NEVER, Recent, RecentPositions
from tracking.model import Position, Trip
from tracking.nodes.messages import TripAnswer, Want

POSITIONS_AT_ONCE = 400
"""Positions in one part of an answer: about 60 KB."""


class Answers:
    """`recent` is what this hub accepted."""

    def __init__(self, hub: Hub, queue: CommitQueue, ingest_vehicles: IngestVehicles, recent: RecentPositions) -> None:
        self._hub = hub
        self._queue = queue
        self._ingest_vehicles = ingest_vehicles
        self._recent = recent

    def is_home(self, trip_id: str, vehicle_id: str = "") -> bool:
        """Whether the trip's vehicle has its driver here. `vehicle_id` is the vehicle as the reader's hub knows it."""
        return vehicle_id in self._hub.drivers or self._home_vehicle(trip_id) is not None

    def trip(self, trip_id: str) -> tuple[Trip, int] | None:
        """The trip as memory has it, and the last change that it knows of."""
        feed = self._hub.feeds.get(trip_id)
        if feed is not None:
            return feed.trip, max(feed.as_of, self._hub.applied())
        vehicle = self._home_vehicle(trip_id)
        if vehicle is None or vehicle.trip is None:
            return None
        return vehicle.trip, max(vehicle.as_of, self._hub.applied())

    def complete_since(self, trip_id: str, since: int) -> bool:
        """Whether this hub is the home of the trip's vehicle, and knows all of the trip from this instant on."""
        return self.is_home(trip_id) and self._complete(trip_id).complete_from <= since

    def to(self, want: Want, *, with_trip: bool = True) -> Iterator[TripAnswer]:
        """The parts of the answer. Who only fills a gap needs no trip, whose route may be long."""
        uncommitted = list(self._queue.pending(want.trip_id))
        recent: list[Position] = []
        recent_from = as_of = 0
        trip: Trip | None = None
        if want.since:
            positions, complete_from = self._complete(want.trip_id)
            if complete_from < NEVER:
                recent, recent_from = recent_since(positions, want.since), max(complete_from, 1)
            known = self.trip(want.trip_id) if with_trip else None
            if known is not None:
                trip, as_of = known
        home = self.is_home(want.trip_id, want.vehicle_id)
        quiet_from = self._hub.posted.last(want.trip_id, NEVER)
        quiet_from = 0 if quiet_from == NEVER else quiet_from
        parts = list(_parts(uncommitted, recent))
        for number, (some, others) in enumerate(parts, 1):
            yield TripAnswer(
                want.ask, want.trip_id, home, some, others, recent_from, trip, as_of, quiet_from, number < len(parts)
            )

    def _complete(self, trip_id: str) -> Recent:
        """The trip's recent positions. What another vehicle brought, before this one took the trip over, may lack."""
        recent = self._recent.of(trip_id)
        vehicle = self._home_vehicle(trip_id)
        if vehicle is None or vehicle.trip is None:
            return recent
        began = max((window.span.started_at for window in vehicle.windows if window.span.trip_id == trip_id), default=NEVER)
        first_began = vehicle.trip.started_at
        if first_began is not None and began <= first_began:
            return recent
        return recent._replace(complete_from=max(recent.complete_from, began))

    def _home_vehicle(self, trip_id: str) -> IngestVehicle | None:
        for number in self._recent.vehicles_of(trip_id):
            vehicle = self._ingest_vehicles.by_number.get(number)
            if vehicle is None or vehicle.trip is None or vehicle.trip.trip_id != trip_id:
                continue
            driver = self._hub.drivers.get(vehicle.vehicle_id)
            if driver is not None and driver.number == number:
                return vehicle
        return None


def recent_since(positions: list[Position], since: int) -> list[Position]:
    """Those that a reader lacks who was told everything up to `since`, with the newest that moved the marker.

    A late fix is told after its commit, perhaps much later than it arrived. So all late fixes are among them.
    """
    lacking = [position for position in positions if position.server_time >= since or not position.live]
    newest = max((position for position in positions if position.live), key=lambda one: one.fix_time, default=None)
    if newest is not None and not any(position is newest for position in lacking):
        lacking.insert(0, newest)
    return lacking


def _parts(uncommitted: list[Position], recent: list[Position]) -> Iterator[tuple[list[Position], list[Position]]]:
    yield uncommitted[:POSITIONS_AT_ONCE], [] if len(uncommitted) > POSITIONS_AT_ONCE else recent[:POSITIONS_AT_ONCE]
    for at in range(POSITIONS_AT_ONCE, len(uncommitted), POSITIONS_AT_ONCE):
        yield uncommitted[at : at + POSITIONS_AT_ONCE], []
    first = 0 if len(uncommitted) > POSITIONS_AT_ONCE else POSITIONS_AT_ONCE
    for at in range(first, len(recent), POSITIONS_AT_ONCE):
        yield [], recent[at : at + POSITIONS_AT_ONCE]
