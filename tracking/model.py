"""The field's nouns: fix, position, trip, vehicle, fleet, share. Plain values, no I/O.

Coordinates are WGS 84 degrees; instants are integer milliseconds since 1970-01-01 UTC; speeds m/s; bearings degrees clockwise
from north; distances and accuracies metres.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

Clock = Callable[[], int]
"""Gives the present instant. Objects take one, so that tests can turn it."""


def system_clock() -> int:
    """The machine's clock as an instant."""
    return time.time_ns() // 1_000_000


class TripStatus(StrEnum):
    """Where a trip stands in its life; `NEXT_STATUS` holds the steps."""

    NEW = "new"
    ENROUTE_TO_PICKUP = "enroute_to_pickup"
    ARRIVED_AT_PICKUP = "arrived_at_pickup"
    ENROUTE_TO_DROPOFF = "enroute_to_dropoff"
    ARRIVED_AT_STOP = "arrived_at_stop"
    COMPLETE = "complete"
    CANCELED = "canceled"

    @property
    def under_way(self) -> bool:
        """The vehicle is driving this trip: its fixes belong to it, and its passenger may see it."""
        return self in UNDER_WAY

    @property
    def over(self) -> bool:
        return self in OVER


UNDER_WAY = frozenset(
    {
        TripStatus.ENROUTE_TO_PICKUP,
        TripStatus.ARRIVED_AT_PICKUP,
        TripStatus.ENROUTE_TO_DROPOFF,
        TripStatus.ARRIVED_AT_STOP,
    }
)
OVER = frozenset({TripStatus.COMPLETE, TripStatus.CANCELED})

NEXT_STATUS: dict[TripStatus, frozenset[TripStatus]] = {
    TripStatus.NEW: frozenset({TripStatus.ENROUTE_TO_PICKUP, TripStatus.CANCELED}),
    TripStatus.ENROUTE_TO_PICKUP: frozenset({TripStatus.ARRIVED_AT_PICKUP, TripStatus.CANCELED}),
    TripStatus.ARRIVED_AT_PICKUP: frozenset({TripStatus.ENROUTE_TO_DROPOFF, TripStatus.CANCELED}),
    TripStatus.ENROUTE_TO_DROPOFF: frozenset({TripStatus.ARRIVED_AT_STOP, TripStatus.COMPLETE, TripStatus.CANCELED}),
    TripStatus.ARRIVED_AT_STOP: frozenset({TripStatus.ENROUTE_TO_DROPOFF, TripStatus.CANCELED}),
    TripStatus.COMPLETE: frozenset(),
    TripStatus.CANCELED: frozenset(),
}


class Suspicion(StrEnum):
    """Why a fix is stored with a flag and never moves the live marker."""

    NULL_ISLAND = "null_island"
    SWAPPED = "swapped"
    CLOCK_BACK = "clock_back"
    INACCURATE = "inaccurate"
    FROZEN = "frozen"
    JUMP = "jump"


class Fix(msgspec.Struct, gc=False, omit_defaults=True):
    """What a receiver reported, as it came; nothing of it is checked but the types."""

    seq: int
    fix_time: int
    latitude: float
    longitude: float
    accuracy: float | msgspec.UnsetType = msgspec.UNSET
    altitude: float | msgspec.UnsetType = msgspec.UNSET
    speed: float | msgspec.UnsetType = msgspec.UNSET
    bearing: float | msgspec.UnsetType = msgspec.UNSET
    battery: float | msgspec.UnsetType = msgspec.UNSET


class Position(msgspec.Struct, gc=False):
    """A fix that the hub accepted: whose it is, when it came, which trip it belongs to, and what was doubted.

    `vehicle`, `session` and `trip` are the store's numbers; `vehicle_id` and `trip_id` the names outside. `live` says that it
    moves the marker: the newest of its vehicle, and not suspect.
    """

    vehicle: int
    vehicle_id: str
    session: int
    seq: int
    fix_time: int
    server_time: int
    latitude: float
    longitude: float
    accuracy: float | None
    altitude: float | None
    speed: float | None
    bearing: float | None
    battery: float | None
    trip: int | None
    trip_id: str | None
    suspect: tuple[Suspicion, ...]
    live: bool


class Place(msgspec.Struct, omit_defaults=True, frozen=True):
    """A pickup, drop-off or stop."""

    latitude: float
    longitude: float
    name: str | None = None


class Fleet(msgspec.Struct, frozen=True):
    """A fleet, and what its dispatchers want to be told of: the thresholds of its events.

    `speed_limit` in m/s, unset for none; `idle_after` s of standing; `off_route_distance` m from the trip's route;
    `signal_lost_after` s without a fix; `dwell_after` s inside a geofence that has no time of its own.
    """

    fleet_id: str
    name: str
    speed_limit: float | msgspec.UnsetType = msgspec.UNSET
    idle_after: float = 300.0
    off_route_distance: float = 150.0
    signal_lost_after: float = 60.0
    dwell_after: float = 300.0


class VehicleStatus(StrEnum):
    """What a dispatcher's map tells of a vehicle by its colour."""

    AVAILABLE = "available"
    """it has no trip that is not over"""
    ON_TRIP = "on_trip"
    """it has one"""
    STOPPED = "stopped"
    """it is under way on one, and has been standing for a minute"""
    LOST = "lost"
    """it has not been heard of for the fleet's `signal_lost_after`, or never"""


class EventKind(StrEnum):
    ENTER = "enter"
    EXIT = "exit"
    DWELL = "dwell"
    SPEEDING = "speeding"
    OFF_ROUTE = "off_route"
    IDLE = "idle"
    SIGNAL_LOST = "signal_lost"
    SIGNAL_BACK = "signal_back"


class Event(msgspec.Struct, omit_defaults=True, frozen=True):
    """Something that happened to a vehicle. `event_id` rises with the order in which events were stored; 0: not stored yet.

    `fix_time`, `latitude` and `longitude` are of the position that showed it, `speed` and `limit` (m/s) of a `speeding`.
    `late`: that position came out of a backlog, so what it shows is no news.
    """

    event_id: int
    kind: EventKind
    vehicle_id: str
    server_time: int
    geofence_id: str | None = None
    fix_time: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    trip_id: str | None = None
    speed: float | None = None
    limit: float | None = None
    late: bool = False


class Geofence(msgspec.Struct, frozen=True):
    """An area of a fleet. `geometry` is GeoJSON, a Polygon or MultiPolygon; of `properties` the hub knows `name`, `speed_limit`
    (m/s) and `dwell_after` (s), and keeps the rest for whoever put it there.
    """

    fleet_id: str
    geofence_id: str
    geometry: dict[str, Any]
    properties: dict[str, Any]


class Vehicle(msgspec.Struct, frozen=True):
    """`kind` is the integrator's word (car, van, bus); `plate` what a passenger looks for in the street."""

    vehicle_id: str
    fleet_id: str
    name: str = ""
    kind: str = ""
    plate: str = ""


class Trip(msgspec.Struct, frozen=True):
    """A trip as the store keeps it; `protocol.http.TripView` is what others see of it.

    `route` is a GeoJSON LineString. `started_at` and `ended_at` are by the hub's clock: when a vehicle got under way, and
    when the trip was completed or canceled. `tokens_from` is of its vehicle; see `auth.is_of_incarnation`.
    """

    number: int
    trip_id: str
    fleet_id: str
    vehicle: Vehicle | None
    status: TripStatus
    version: int
    pickup: Place
    dropoff: Place
    stops: tuple[Place, ...]
    route: dict[str, Any] | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    tokens_from: int | None = None
    vehicle_number: int | None = None


class Share(msgspec.Struct, frozen=True):
    share_id: str
    trip_id: str
    jti: str
    expires_at: int
    created_at: int
    revoked_at: int | None
