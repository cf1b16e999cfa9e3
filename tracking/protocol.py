"""Every message of wire protocol version 1, and the way from bytes to messages and back. No I/O.

Decoding is msgspec's alone: it refuses NaN, Infinity, endless nesting and endless integers, where the standard library's
`json` takes them. Of duplicate keys the last wins; unknown keys are ignored.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from sys import float_info
from typing import Any, Union, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracking.errors import ErrorCode, Refusal
from tracking.model import Event, Fix, Geofence, Place, Position, Trip, TripStatus, Vehicle, VehicleStatus

MAX_FRAME_BYTES = 64 * 1024
MAX_BATCH = 500
MAX_SEQ = 2**53 - 1
MAX_TEXT = 1_000
MAX_CLIENT_ID = 64

SUBPROTOCOL = "tracking.v1"
BEARER_SUBPROTOCOL = "bearer."


# --- shared views ---------------------------------------------------------------------------------------------------


class VehicleView(Struct, frozen=True):
    """A vehicle as a trip shows it."""

    vehicle_id: str
    name: str
    kind: str
    plate: str

    @classmethod
    def of(cls, vehicle: Vehicle) -> "VehicleView":
        return cls(vehicle.vehicle_id, vehicle.name, vehicle.kind, vehicle.plate)


class TripView(Struct, omit_defaults=True, frozen=True):
    """A trip as HTTP and the sockets show it. `route` is a GeoJSON LineString."""

    trip_id: str
    fleet_id: str
    status: TripStatus
    version: int
    pickup: Place
    dropoff: Place
    stops: Sequence[Place]
    created_at: int
    vehicle: VehicleView | UnsetType = UNSET
    route: dict[str, Any] | UnsetType = UNSET

    @classmethod
    def of(cls, trip: Trip, *, show_vehicle: bool = True) -> "TripView":
        return cls(
            trip_id=trip.trip_id,
            fleet_id=trip.fleet_id,
            status=trip.status,
            version=trip.version,
            pickup=trip.pickup,
            dropoff=trip.dropoff,
            stops=trip.stops,
            created_at=trip.created_at,
            vehicle=VehicleView.of(trip.vehicle) if trip.vehicle is not None and show_vehicle else UNSET,
            route=trip.route if trip.route is not None else UNSET,
        )


# --- driver -> hub --------------------------------------------------------------------------------------------------


class Hello(Struct, tag="hello", frozen=True):
    """`session` is a UUID, decoded in lower case."""

    session: str


class PositionReport(Fix, tag="position"):
    """One fix, as it happens."""


class PositionsReport(Struct, tag="positions"):
    """A backlog of at most `MAX_BATCH` fixes."""

    positions: list[Fix]


class TripStatusChange(Struct, tag="trip_status", frozen=True):
    trip_id: str
    status: TripStatus
    client_id: str


class TextMessage(Struct, tag="message", frozen=True):
    """A driver's or a passenger's text; a driver names the trip, a passenger's socket has one."""

    text: str
    client_id: str
    trip_id: str | UnsetType = UNSET


@final
class Unreadable(Struct, frozen=True):
    """An element of a batch, or a single fix, of which a known field is bad. `seq` is None where it can't be read either."""

    seq: int | None
    code: ErrorCode
    detail: str


class Report(Struct):
    """The fixes of one frame, each judged by itself, in the order sent; `backlog` where they came as `positions`."""

    fixes: list[Fix | Unreadable]
    backlog: bool = False


DriverMessage = Hello | Report | TripStatusChange | TextMessage


# --- hub -> driver --------------------------------------------------------------------------------------------------


class Welcome(Struct, tag="welcome"):
    server_time: int
    interval: float
    trip: TripView | UnsetType = UNSET


class Rejected(Struct):
    seq: int
    code: str
    detail: str


class Ack(Struct, tag="ack"):
    """Every fix up to `seq` is handled: stored for good, or rejected."""

    seq: int
    rejected: list[Rejected] | UnsetType = UNSET


class Done(Struct, tag="done"):
    client_id: str
    code: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET
    """Seconds, where the `code` is `rate_limited`."""


class Interval(Struct, tag="interval"):
    interval: float


class DriverTrip(Struct, tag="trip"):
    """A trip was assigned, changed or (then without `vehicle`) taken away."""

    trip: TripView


class DriverTextMessage(Struct, tag="message"):
    trip_id: str
    text: str
    from_: str = msgspec.field(name="from")
    server_time: int


class Error(Struct, tag="error"):
    code: str
    detail: str
    seq: int | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET


# --- hub -> passenger -----------------------------------------------------------------------------------------------


class SnapshotPosition(Struct):
    latitude: float
    longitude: float
    fix_time: int
    server_time: int
    bearing: float | UnsetType = UNSET
    speed: float | UnsetType = UNSET
    accuracy: float | UnsetType = UNSET


TrackPoint = tuple[float, float, int]
"""`(longitude, latitude, fix_time)`"""
Segment = tuple[int, str]
"""`(index, vehicle_id)`: from this index of a track on its points are that vehicle's."""


class Snapshot(Struct, tag="snapshot"):
    epoch: str
    offset: int
    server_time: int
    trip: TripView
    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType = UNSET
    """Left out where all of the track is of the vehicle that the trip has now."""
    position: SnapshotPosition | UnsetType = UNSET


class Resumed(Struct, tag="resumed"):
    epoch: str
    offset: int


class PositionUpdate(Struct, tag="position", gc=False):
    offset: int
    latitude: float
    longitude: float
    fix_time: int
    server_time: int
    bearing: float | UnsetType = UNSET
    speed: float | UnsetType = UNSET
    accuracy: float | UnsetType = UNSET


class TripUpdate(Struct, tag="trip"):
    offset: int
    trip: TripView


class MessageUpdate(Struct, tag="message"):
    offset: int
    text: str
    from_: str = msgspec.field(name="from")
    server_time: int


class TrackRevised(Struct, tag="track_revised"):
    """Late fixes filled the part of the line between two fix times, both included; `track` replaces it."""

    offset: int
    from_: int = msgspec.field(name="from")
    to: int
    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType = UNSET
    """As in a `Snapshot`."""


class Skipped(Struct, tag="skipped"):
    """This reader was slow: positions with these offsets, both included, were left out; the newest follows."""

    from_: int = msgspec.field(name="from")
    to: int


class Tick(Struct, tag="tick"):
    server_time: int


# --- dispatcher -> hub ----------------------------------------------------------------------------------------------


class ViewportChange(Struct, tag="viewport", frozen=True):
    """What a screen shows now: `bounds` as `[west, south, east, north]`, across the date line where west > east."""

    bounds: tuple[float, float, float, float]
    zoom: float


DispatcherMessage = ViewportChange | TextMessage


# --- hub -> dispatcher ----------------------------------------------------------------------------------------------


class VehicleState(Struct, gc=False):
    """A vehicle as a `fleet_snapshot` shows it: what it is, where it is, and what it is doing.

    `clock_skew` (s) where the clock of its device is known to be wrong: positive ahead, negative behind.
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
    """The vehicles of some grid cells, named `z/x/y`; what was known of these cells it replaces. Without cells it adds."""

    cells: Sequence[str]
    vehicles: Sequence[VehicleState]


FleetRow = tuple[str, float, float, float | None, float | None, int]
"""`(vehicle_id, latitude, longitude, bearing, speed, fix_time)`"""


class VehicleDescription(Struct):
    """A vehicle without its whereabouts: one that came into a cell, or whose name, status, trip or clock is another now."""

    vehicle_id: str
    name: str
    kind: str
    plate: str
    status: VehicleStatus
    trip_id: str | UnsetType = UNSET
    clock_skew: int | UnsetType = UNSET


class FleetUpdate(Struct, tag="fleet"):
    """What a tick brought to a viewport: the newest position of each vehicle that moved."""

    positions: Sequence[FleetRow]
    left: Sequence[str] | UnsetType = UNSET
    vehicles: Sequence[VehicleDescription] | UnsetType = UNSET


class Clusters(Struct, tag="clusters"):
    """`(latitude, longitude, count)` in place of single vehicles, where a viewport holds too many of them."""

    clusters: Sequence[tuple[float, float, int]]


class EventNews(Event, tag="event", omit_defaults=True, frozen=True):
    """An event, once it is stored."""

    @classmethod
    def of(cls, event: Event) -> "EventNews":
        return cls(**msgspec.structs.asdict(event))


class FleetTrip(Struct, tag="trip"):
    """A trip of the fleet is new or changed."""

    trip: TripView


class TripGone(Struct, tag="trip_gone"):
    trip_id: str


class VehicleGone(Struct, tag="vehicle_gone"):
    """The vehicle was removed: what a screen holds of it is to go too. `left` says less: it is off the map."""

    vehicle_id: str


class GeofenceView(Struct, tag_field="type", tag="Feature"):
    """A geofence as GeoJSON (RFC 7946), over HTTP and on the socket."""

    id: str
    geometry: dict[str, Any]
    properties: dict[str, Any]

    @classmethod
    def of(cls, geofence: Geofence) -> "GeofenceView":
        return cls(geofence.geofence_id, geofence.geometry, geofence.properties)


class GeofenceNews(Struct, tag="geofence"):
    """A geofence of the fleet is new or changed; `simplified` where it did not fit into a frame: HTTP has it whole."""

    geofence: GeofenceView
    simplified: bool | UnsetType = UNSET


class GeofenceGone(Struct, tag="geofence_gone"):
    geofence_id: str


# --- encoding -------------------------------------------------------------------------------------------------------

encode = msgspec.json.Encoder().encode
"""Any message above, as UTF-8 JSON."""

_SHORT_HEADS = tuple(bytes((0x81, length)) for length in range(126))
_middle_head = struct.Struct("!BBH").pack
_long_head = struct.Struct("!BBQ").pack


def feature_collection(geofences: Iterable[Geofence]) -> bytes:
    """Geofences as a GeoJSON FeatureCollection: one after the other, so that a thread which makes it holds nobody up."""
    return b'{"type":"FeatureCollection","features":[%b]}' % b",".join(encode(GeofenceView.of(one)) for one in geofences)


def frame(message: Struct) -> bytes:
    """Any message above, ready to be written to every reader: a whole, unmasked WebSocket text frame (RFC 6455 5.2)."""
    return framed(encode(message))


def framed(text: bytes) -> bytes:
    """UTF-8 JSON as such a frame."""
    length = len(text)
    if length < 126:
        return _SHORT_HEADS[length] + text
    return (_middle_head(0x81, 126, length) if length < 65_536 else _long_head(0x81, 127, length)) + text


def text_of(frame: bytes) -> bytes:
    """The message inside such a frame, as UTF-8 JSON."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def frame_ends(frames: bytes | bytearray) -> Iterator[int]:
    """Where each of such frames ends that stand one after the other."""
    at = 0
    while at < len(frames):
        length = frames[at + 1]
        if length < 126:
            at += 2 + length
        elif length == 126:
            at += 4 + (frames[at + 2] << 8 | frames[at + 3])
        else:
            at += 10 + int.from_bytes(frames[at + 2 : at + 10], "big")
        yield at


_ACK_ROOM = MAX_FRAME_BYTES - 1024
"""Bytes of an ack's `rejected`; the rest of the frame is room enough for what is around it."""


def acks(seq: int, rejected: Sequence[Rejected]) -> Iterator[Ack]:
    """The ack up to `seq`, as several where its rejections do not fit one frame: each is good up to the last that it names."""
    part: list[Rejected] = []
    size = 0
    for one in rejected:
        length = len(encode(one)) + 1
        if part and size + length > _ACK_ROOM:
            yield Ack(part[-1].seq, part)
            part, size = [], 0
        part.append(one)
        size += length
    yield Ack(seq, part) if part else Ack(seq)


def _or_unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value


def position_update(position: Position, offset: int) -> PositionUpdate:
    bearing, speed, accuracy = position.bearing, position.speed, position.accuracy
    return PositionUpdate(
        offset,
        position.latitude,
        position.longitude,
        position.fix_time,
        position.server_time,
        UNSET if bearing is None else bearing,
        UNSET if speed is None else speed,
        UNSET if accuracy is None else accuracy,
    )


def snapshot_position(position: Position) -> SnapshotPosition:
    return SnapshotPosition(
        position.latitude,
        position.longitude,
        position.fix_time,
        position.server_time,
        _or_unset(position.bearing),
        _or_unset(position.speed),
        _or_unset(position.accuracy),
    )


# --- decoding -------------------------------------------------------------------------------------------------------

_decode_driver = msgspec.json.Decoder(
    Union[Hello, PositionReport, PositionsReport, TripStatusChange, TextMessage]  # noqa: UP007 a value, not an annotation
).decode
_decode_passenger = msgspec.json.Decoder(TextMessage).decode
_decode_dispatcher = msgspec.json.Decoder(Union[ViewportChange, TextMessage]).decode  # noqa: UP007 a value, not an annotation
_decode_any = msgspec.json.Decoder().decode

_STRUCT_OF_TYPE: dict[str, type[Struct]] = {
    "hello": Hello,
    "trip_status": TripStatusChange,
    "message": TextMessage,
}
_DISPATCHER_STRUCTS: dict[str, type[Struct]] = {"viewport": ViewportChange, "message": TextMessage}
_ESCAPE = re.compile(r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.")
"""A pair of surrogates, a lone one, or any other escape, so that an escaped backslash is never taken for the start of one."""


def decode_driver(frame: str | bytes) -> DriverMessage:
    """One frame of a driver's. Raises `Refusal` where nothing of it can be used."""
    try:
        message = _decode_driver(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _decode_driver_slowly(frame)
    # By exact type: for a struct that is not the class asked for, isinstance takes ten times as long.
    if type(message) is PositionReport:
        if not 1 <= message.seq <= MAX_SEQ:
            raise _bad_seq(message.seq)
        return Report([message])
    if type(message) is PositionsReport:
        _refuse_large_batch(len(message.positions))
        return Report([fix if 1 <= fix.seq <= MAX_SEQ else _unreadable_seq(fix.seq) for fix in message.positions], True)
    return _check(message)


def decode_passenger(frame: str | bytes) -> TextMessage:
    """One frame of a passenger's. Raises `Refusal`."""
    try:
        message = _decode_passenger(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        tree = _tree(frame)
        if tree.get("type") != "message":
            raise Refusal(ErrorCode.BAD_TYPE, f"a passenger sends `message`; got {_shown(tree.get('type'))}") from None
        message = _convert(tree, TextMessage)
    _check(message)
    return message


def decode_dispatcher(frame: str | bytes) -> DispatcherMessage:
    """One frame of a dispatcher's. Raises `Refusal`."""
    message: DispatcherMessage
    try:
        message = _decode_dispatcher(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        tree = _tree(frame)
        kind = _DISPATCHER_STRUCTS.get(str(tree.get("type")))
        if kind is None:
            raise Refusal(
                ErrorCode.BAD_TYPE, f"a dispatcher sends `viewport` or `message`; got {_shown(tree.get('type'))}", field="type"
            ) from None
        message = _convert(tree, kind)
    if isinstance(message, TextMessage):
        _check(message)
    else:
        _check_viewport(message)
    return message


MAX_ZOOM = 30


def _check_viewport(viewport: ViewportChange) -> None:
    west, south, east, north = viewport.bounds
    if not (-90 <= south <= 90 and -90 <= north <= 90 and abs(west) <= 540 and abs(east) <= 540):
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"`bounds` are [west, south, east, north] in degrees; got {_shown(list(viewport.bounds))}",
            field="bounds",
        )
    if south > north:
        raise Refusal(
            ErrorCode.BAD_FIELD,
            f"`bounds` stand upside down: south {south:g} lies north of {north:g}; the order is [west, south, east, north]",
            field="bounds",
        )
    if not 0 <= viewport.zoom <= MAX_ZOOM:
        raise Refusal(ErrorCode.OUT_OF_RANGE, f"`zoom` must be from 0 to {MAX_ZOOM}; got {viewport.zoom:g}", field="zoom")


def _decode_driver_slowly(frame: str | bytes) -> DriverMessage:
    """The same judgement, taken apart: which element, which field, and whether the seq can be read."""
    tree = _tree(frame)
    kind = tree.get("type")
    if kind == "position":
        judged = _judge(tree)
        if isinstance(judged, Unreadable) and judged.seq is None:
            raise Refusal(judged.code, judged.detail)
        return Report([judged])
    if kind == "positions":
        elements = tree.get("positions")
        if not isinstance(elements, list):
            raise Refusal(
                ErrorCode.BAD_TYPE,
                f"`positions` must be an array of fixes; got {_shown(elements)}",
                field="positions",
            )
        _refuse_large_batch(len(elements))
        return Report([_judge(element) for element in elements], True)
    if isinstance(kind, str) and kind in _STRUCT_OF_TYPE:
        message: Hello | TripStatusChange | TextMessage = _convert(tree, _STRUCT_OF_TYPE[kind])
        return _check(message)
    raise Refusal(
        ErrorCode.BAD_TYPE,
        f"`type` must be hello, position, positions, trip_status or message; got {_shown(kind)}",
        field="type",
    )


def _tree(frame: str | bytes) -> dict[str, Any]:
    try:
        tree = _decode_any(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise _bad_json(frame, error) from None
    if not isinstance(tree, dict):
        raise Refusal(ErrorCode.BAD_TYPE, f"a message is a JSON object with a `type`; got {_shown(tree)}")
    return tree


def _bad_json(frame: str | bytes, error: Exception) -> Refusal:
    """A lone surrogate is good JSON with a text that is none; everything else msgspec refuses is bad JSON."""
    text = frame if isinstance(frame, str) else frame.decode(errors="replace")
    if "\\u" in text:
        try:
            _decode_any(_ESCAPE.sub(lambda escape: "?" if escape[2] else escape[0], text))
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
        else:
            return Refusal(ErrorCode.BAD_FIELD, "text holds a lone surrogate; send well-formed Unicode")
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return Refusal(ErrorCode.BAD_JSON, f"not JSON that can be used: {what}")


_OPTIONAL = ("altitude", "speed", "bearing", "battery")
_LARGEST = int(float_info.max)


def _judge(element: Any) -> Fix | Unreadable:
    if not isinstance(element, dict):
        return Unreadable(None, ErrorCode.BAD_TYPE, f"a fix is an object; got {_shown(element)}")
    seq = element.get("seq")
    if type(seq) is not int or not 1 <= seq <= MAX_SEQ:
        return _unreadable_seq(seq)
    for name in _OPTIONAL:
        value = element.get(name)
        if type(value) is int and abs(value) > _LARGEST:
            # No float holds it, and it can't be true: the filters take it for unknown, which infinity is in no range of.
            element[name] = inf
    try:
        return msgspec.convert(element, Fix)
    except msgspec.ValidationError as error:
        return Unreadable(seq, _code_of(error), str(error))


def _convert(tree: dict[str, Any], kind: type[Struct]) -> Any:
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise Refusal(_code_of(error), str(error), field=field_of(error)) from None


def _check(message: Hello | TripStatusChange | TextMessage) -> Hello | TripStatusChange | TextMessage:
    if isinstance(message, Hello):
        if not is_uuid(message.session):
            detail = f"`session` must be a UUID, like 0b6f4a52-7c1e-4d0a-9d5f-3a8e2c41b790; got {_shown(message.session)}"
            raise Refusal(ErrorCode.BAD_FIELD, detail, field="session")
        # One session is one, in whatever case a device writes it.
        return Hello(message.session.lower())
    check_text("client_id", message.client_id, MAX_CLIENT_ID)
    if isinstance(message, TextMessage):
        check_text("text", message.text, MAX_TEXT)
    return message


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in the text form of RFC 9562, in either case, of whatever version."""
    return _UUID.fullmatch(text) is not None


def check_text(field: str, text: str, longest: int) -> None:
    """Raises `Refusal` (`bad_field`) for a text that is empty, longer than `longest` characters, or holds a NUL."""
    if not 1 <= len(text) <= longest:
        raise Refusal(ErrorCode.BAD_FIELD, f"`{field}` must have 1 to {longest} characters; got {len(text)}", field=field)
    if "\0" in text:
        raise Refusal(ErrorCode.BAD_FIELD, f"`{field}` holds a NUL character; leave it out", field=field)


def field_of(error: msgspec.ValidationError) -> str | None:
    """The field that msgspec's error names: in its path, or as the one that is missing."""
    found = re.search(r"`\$\.([^`]+)`|required field `([^`]+)`", str(error))
    return (found[1] or found[2]) if found else None


def _code_of(error: msgspec.ValidationError) -> ErrorCode:
    wrong_type = str(error).startswith("Expected `") and ", got `" in str(error)
    return ErrorCode.BAD_TYPE if wrong_type else ErrorCode.BAD_FIELD


def _refuse_large_batch(length: int) -> None:
    if length > MAX_BATCH:
        raise Refusal(
            ErrorCode.BATCH_TOO_LARGE,
            f"a batch holds at most {MAX_BATCH} fixes; got {length}: split it",
            field="positions",
        )


def _bad_seq(seq: object) -> Refusal:
    return Refusal(ErrorCode.BAD_SEQ, f"`seq` must be a whole number from 1 to 2^53-1; got {_shown(seq)}", field="seq")


def _unreadable_seq(seq: object) -> Unreadable:
    return Unreadable(None, ErrorCode.BAD_SEQ, _bad_seq(seq).detail)


def _shown(value: object) -> str:
    """A value for an error's text, short whatever was sent."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
