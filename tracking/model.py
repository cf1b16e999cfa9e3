"""The nouns of the project: fix, position, trip, vehicle, fleet, share. Plain values, no I/O.

Coordinates are WGS 84 degrees. Instants are integer milliseconds since 1970-01-01 UTC. Speeds are in m/s, distances and
accuracies in metres. Bearings are degrees clockwise from north.
"""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import msgspec

Clock = Callable[[], int]
"""Returns the present instant. Objects take a clock as an argument, so that tests can set the time."""


def system_clock() -> int:
    """The machine's clock, as an instant."""
    return time.time_ns() // 1_000_000


class TripStatus(StrEnum):
    """The status of a trip. `NEXT_STATUS` holds the allowed steps."""

    NEW = "new"
    ENROUTE_TO_PICKUP = "enroute_to_pickup"
    ARRIVED_AT_PICKUP = "arrived_at_pickup"
    ENROUTE_TO_DROPOFF = "enroute_to_dropoff"
    ARRIVED_AT_STOP = "arrived_at_stop"
    COMPLETE = "complete"
    CANCELED = "canceled"

    @property
    def under_way(self) -> bool:
        """Whether the vehicle is driving this trip. Its fixes then belong to the trip, and its passenger may see it."""
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
    """A reading of a receiver, as it arrived. Only the types of its fields are checked."""

    seq: int
    fix_time: int
    latitude: float
    longitude: float
    accuracy: float | msgspec.UnsetType = msgspec.UNSET
    altitude: float | msgspec.UnsetType = msgspec.UNSET
    speed: float | msgspec.UnsetType = msgspec.UNSET
    bearing: float | msgspec.UnsetType = msgspec.UNSET
    battery: float | msgspec.UnsetType = msgspec.UNSET


class Position(msgspec.Struct, gc=False, array_like=True):
    """A fix that the hub accepted, with its vehicle, trip, arrival time and flags.

    `vehicle`, `session` and `trip` are the store's numbers. `vehicle_id` and `trip_id` are the public ids. `live` says that it
    moves the marker: it is the newest of its vehicle and has no flag. Hubs send it to each other as an array.
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
    """A fleet, with the thresholds of its events.

    `speed_limit` is in m/s, and unset if there is none. `off_route_distance` is in metres from the trip's route. The others are
    seconds: `idle_after` of standing, `signal_lost_after` without a fix, and `dwell_after` inside a geofence that sets no time.
    """

    fleet_id: str
    name: str
    speed_limit: float | msgspec.UnsetType = msgspec.UNSET
    idle_after: float = 300.0
    off_route_distance: float = 150.0
    signal_lost_after: float = 60.0
    dwell_after: float = 300.0


class VehicleStatus(StrEnum):
    """A vehicle's status on the dispatcher's map, shown by its colour."""

    AVAILABLE = "available"
    """it has no open trip"""
    ON_TRIP = "on_trip"
    """it has an open trip"""
    STOPPED = "stopped"
    """it drives a trip, and has stood still for a minute"""
    LOST = "lost"
    """it sent nothing for the fleet's `signal_lost_after`, or never sent anything"""


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
    """Something that happened to a vehicle.

    `event_id` rises in the order in which events are stored; 0 means not stored yet. `fix_time`, `latitude` and `longitude` are
    those of the position that caused it. `speed` and `limit` (m/s) belong to `speeding`. `late` says that the position came
    from a backlog, so the event is not news.
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
    """An area of a fleet.

    `geometry` is a GeoJSON Polygon or MultiPolygon. The hub reads `name`, `speed_limit` (m/s) and `dwell_after` (s) of
    `properties`, and stores the rest unread.
    """

    fleet_id: str
    geofence_id: str
    geometry: dict[str, Any]
    properties: dict[str, Any]


class Vehicle(msgspec.Struct, frozen=True):
    """`kind` is chosen by the integrator, such as car, van or bus. `plate` is what a passenger looks for in the street."""

    vehicle_id: str
    fleet_id: str
    name: str = ""
    kind: str = ""
    plate: str = ""


class Trip(msgspec.Struct, frozen=True):
    """A trip as the store keeps it. `protocol.http.TripView` is the view that clients get.

    `route` is a GeoJSON LineString. `started_at` and `ended_at` are by the hub's clock. They say when a vehicle began the trip,
    and when the trip was completed or canceled. `tokens_from` is that of its vehicle; see `auth.is_of_incarnation`.
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
