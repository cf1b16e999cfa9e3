"""The messages that passengers' pages send and get."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracking.errors import ErrorCode, Refusal
from tracking.model import Position
from tracking.protocol.codec import convert, shown, tree
from tracking.protocol.http import TripView
from tracking.protocol.shared import TextMessage, check_text_message

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
"""`(index, vehicle_id)`: from this index on, the track's points are that vehicle's."""


class PastMessage(Struct):
    """A message that was posted before the reader came."""

    text: str
    from_: str = msgspec.field(name="from")
    server_time: int


class Snapshot(Struct, tag="snapshot"):
    """The state of a trip. With `since`, the reader has a line: `track` adds to it, and `messages` are those after `since`."""

    epoch: str
    offset: int
    server_time: int
    trip: TripView
    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType = UNSET
    """Unset if the trip's present vehicle drove the whole track."""
    position: SnapshotPosition | UnsetType = UNSET
    since: int | UnsetType = UNSET
    messages: Sequence[PastMessage] | UnsetType = UNSET


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
    """Late fixes filled a part of the line. `track` replaces the part between the two fix times, both included."""

    offset: int
    from_: int = msgspec.field(name="from")
    to: int
    track: Sequence[TrackPoint]
    segments: Sequence[Segment] | UnsetType = UNSET
    """As in a `Snapshot`."""


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


def _or_unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value


# --- passenger -> hub -----------------------------------------------------------------------------------------------

_decode_passenger = msgspec.json.Decoder(TextMessage).decode


def decode_passenger(frame: str | bytes) -> TextMessage:
    """Decode a frame of a passenger. Raises `Refusal`."""
    try:
        message = _decode_passenger(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        decoded = tree(frame)
        if decoded.get("type") != "message":
            raise Refusal(ErrorCode.BAD_TYPE, f"a passenger sends `message`; got {shown(decoded.get('type'))}") from None
        message = convert(decoded, TextMessage)
    check_text_message(message)
    return message
