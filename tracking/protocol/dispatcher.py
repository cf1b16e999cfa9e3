"""The messages that dispatchers' pages send and get."""

from collections.abc import Sequence
from typing import Union

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracking.errors import ErrorCode, Refusal
from tracking.model import Event, VehicleStatus
from tracking.protocol.codec import convert, shown, tree
from tracking.protocol.http import GeofenceView, TripView
from tracking.protocol.shared import TextMessage, check_text_message

MAX_ZOOM = 30

# --- dispatcher -> hub ----------------------------------------------------------------------------------------------


class ViewportChange(Struct, tag="viewport", frozen=True):
    """The area that a screen shows: `[west, south, east, north]`. It crosses the date line if west > east."""

    bounds: tuple[float, float, float, float]
    zoom: float


DispatcherMessage = ViewportChange | TextMessage


# --- hub -> dispatcher ----------------------------------------------------------------------------------------------


class VehicleState(Struct, gc=False):
    """A vehicle in a `fleet_snapshot`: its description, position and status.

    `clock_skew` (s) is set if the device's clock is wrong. It is positive if the clock is ahead.
    """

    vehicle_id: str
    name: str
    kind: str
    plate: str
    latitude: float
    longitude: float
    fix_time: int
    status: VehicleStatus
    trip_id: str | UnsetType = UNSET
    bearing: float | UnsetType = UNSET
    speed: float | UnsetType = UNSET
    accuracy: float | UnsetType = UNSET
    battery: float | UnsetType = UNSET
    clock_skew: int | UnsetType = UNSET


class FleetSnapshot(Struct, tag="fleet_snapshot"):
    """The vehicles of some grid cells, named `z/x/y`. It replaces what the page knew of these cells. Without cells it adds
    vehicles.
    """

    cells: Sequence[str]
    vehicles: Sequence[VehicleState]


FleetRow = tuple[str, float, float, float | None, float | None, int]
"""`(vehicle_id, latitude, longitude, bearing, speed, fix_time)`"""


class VehicleDescription(Struct):
    """A vehicle without its position. It is sent when the vehicle enters a cell, or its name, status, trip or clock changes."""

    vehicle_id: str
    name: str
    kind: str
    plate: str
    status: VehicleStatus
    trip_id: str | UnsetType = UNSET
    clock_skew: int | UnsetType = UNSET


class FleetUpdate(Struct, tag="fleet"):
    """The newest position of each vehicle in the viewport that moved since the last tick."""

    positions: Sequence[FleetRow]
    left: Sequence[str] | UnsetType = UNSET
    vehicles: Sequence[VehicleDescription] | UnsetType = UNSET


class Clusters(Struct, tag="clusters"):
    """`(latitude, longitude, count)` in place of single vehicles, if there are too many in the viewport."""

    clusters: Sequence[tuple[float, float, int]]


class EventNews(Event, tag="event", omit_defaults=True, frozen=True):
    """An event, sent after it is stored."""

    @classmethod
    def of(cls, event: Event) -> "EventNews":
        return cls(**msgspec.structs.asdict(event))


class FleetTrip(Struct, tag="trip"):
    """A trip of the fleet is new or changed."""

    trip: TripView


class TripGone(Struct, tag="trip_gone"):
    trip_id: str


class VehicleGone(Struct, tag="vehicle_gone"):
    """The vehicle was removed, and a screen must drop all it knows of it. `left` only means that it is off the map."""

    vehicle_id: str


class GeofenceNews(Struct, tag="geofence"):
    """A geofence of the fleet is new or changed. `simplified` says that it did not fit into a frame; HTTP has it whole."""

    geofence: GeofenceView
    simplified: bool | UnsetType = UNSET


class GeofenceGone(Struct, tag="geofence_gone"):
    geofence_id: str


# --- decoding -------------------------------------------------------------------------------------------------------

_decode_dispatcher = msgspec.json.Decoder(Union[ViewportChange, TextMessage]).decode  # noqa: UP007 a value, not an annotation
_DISPATCHER_STRUCTS: dict[str, type[Struct]] = {"viewport": ViewportChange, "message": TextMessage}


def decode_dispatcher(frame: str | bytes) -> DispatcherMessage:
    """Decode a frame of a dispatcher. Raises `Refusal`."""
    message: DispatcherMessage
    try:
        message = _decode_dispatcher(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        decoded = tree(frame)
        kind = _DISPATCHER_STRUCTS.get(str(decoded.get("type")))
        if kind is None:
            raise Refusal(
                ErrorCode.BAD_TYPE,
                f"a dispatcher sends `viewport` or `message`; got {shown(decoded.get('type'))}",
                field="type",
            ) from None
        message = convert(decoded, kind)
    if isinstance(message, TextMessage):
        check_text_message(message)
    else:
        _check_viewport(message)
    return message


def _check_viewport(viewport: ViewportChange) -> None:
    west, south, east, north = viewport.bounds
    if not (-90 <= south <= 90 and -90 <= north <= 90 and abs(west) <= 540 and abs(east) <= 540):
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"`bounds` are [west, south, east, north] in degrees; got {shown(list(viewport.bounds))}",
            field="bounds",
        )
    if south > north:
        raise Refusal(
            ErrorCode.BAD_FIELD,
            f"`bounds` are upside down: south {south:g} is north of {north:g}; the order is [west, south, east, north]",
            field="bounds",
        )
    if not 0 <= viewport.zoom <= MAX_ZOOM:
        raise Refusal(ErrorCode.OUT_OF_RANGE, f"`zoom` must be from 0 to {MAX_ZOOM}; got {viewport.zoom:g}", field="zoom")
