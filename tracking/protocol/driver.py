"""The messages that drivers' apps send and get."""

from collections.abc import Iterator, Sequence
from math import inf
from sys import float_info
from typing import Any, Union, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from tracking.errors import ErrorCode, Refusal
from tracking.model import Fix, TripStatus
from tracking.protocol.codec import MAX_FRAME_BYTES, check_text, code_of, convert, encode, is_uuid, shown, tree
from tracking.protocol.http import TripView
from tracking.protocol.shared import MAX_CLIENT_ID, TextMessage, check_text_message

MAX_BATCH = 500
MAX_SEQ = 2**53 - 1

# --- driver -> hub --------------------------------------------------------------------------------------------------


class Hello(Struct, tag="hello", frozen=True):
    """`session` is a UUID, decoded in lower case."""

    session: str


class PositionReport(Fix, tag="position"):
    """One live fix."""


class PositionsReport(Struct, tag="positions"):
    """A backlog of at most `MAX_BATCH` fixes."""

    positions: list[Fix]


class TripStatusChange(Struct, tag="trip_status", frozen=True):
    trip_id: str
    status: TripStatus
    client_id: str


@final
class Unreadable(Struct, frozen=True):
    """A fix with an invalid known field. `seq` is None if it can't be read either."""

    seq: int | None
    code: ErrorCode
    detail: str


class Report(Struct):
    """The fixes of one frame in the order sent, each checked alone. `backlog` says that they came as `positions`."""

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
    """Every fix up to `seq` is handled: committed, or rejected."""

    seq: int
    rejected: list[Rejected] | UnsetType = UNSET


class Interval(Struct, tag="interval"):
    interval: float


class DriverTrip(Struct, tag="trip"):
    """A trip was assigned, changed, or taken away. It is taken away if `vehicle` is missing."""

    trip: TripView


class DriverTextMessage(Struct, tag="message"):
    trip_id: str
    text: str
    from_: str = msgspec.field(name="from")
    server_time: int


_ACK_ROOM = MAX_FRAME_BYTES - 1024
"""The bytes for an ack's `rejected`. The rest of the frame is enough for the other fields."""


def acks(seq: int, rejected: Sequence[Rejected]) -> Iterator[Ack]:
    """The ack up to `seq`, split if its rejections do not fit into one frame. Each part covers the fixes up to the last it
    names.
    """
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


# --- decoding -------------------------------------------------------------------------------------------------------

_decode_driver = msgspec.json.Decoder(
    Union[Hello, PositionReport, PositionsReport, TripStatusChange, TextMessage]  # noqa: UP007 a value, not an annotation
).decode

_STRUCT_OF_TYPE: dict[str, type[Struct]] = {
    "hello": Hello,
    "trip_status": TripStatusChange,
    "message": TextMessage,
}


def decode_driver(frame: str | bytes) -> DriverMessage:
    """Decode a frame of a driver. Raises `Refusal` if nothing in it can be used."""
    try:
        message = _decode_driver(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _decode_driver_slowly(frame)
    # The exact type is compared, because `isinstance` takes ten times as long for a struct of another class.
    if type(message) is PositionReport:
        if not 1 <= message.seq <= MAX_SEQ:
            raise _bad_seq(message.seq)
        return Report([message])
    if type(message) is PositionsReport:
        _refuse_large_batch(len(message.positions))
        return Report([fix if 1 <= fix.seq <= MAX_SEQ else _unreadable_seq(fix.seq) for fix in message.positions], True)
    return _check(message)


def _decode_driver_slowly(frame: str | bytes) -> DriverMessage:
    """Decode a frame in parts, to find the invalid element and field, and to see whether the seq can be read."""
    decoded = tree(frame)
    kind = decoded.get("type")
    if kind == "position":
        judged = _judge(decoded)
        if isinstance(judged, Unreadable) and judged.seq is None:
            raise Refusal(judged.code, judged.detail)
        return Report([judged])
    if kind == "positions":
        elements = decoded.get("positions")
        if not isinstance(elements, list):
            raise Refusal(
                ErrorCode.BAD_TYPE,
                f"`positions` must be an array of fixes; got {shown(elements)}",
                field="positions",
            )
        _refuse_large_batch(len(elements))
        return Report([_judge(element) for element in elements], True)
    if isinstance(kind, str) and kind in _STRUCT_OF_TYPE:
        message: Hello | TripStatusChange | TextMessage = convert(decoded, _STRUCT_OF_TYPE[kind])
        return _check(message)
    raise Refusal(
        ErrorCode.BAD_TYPE,
        f"`type` must be hello, position, positions, trip_status or message; got {shown(kind)}",
        field="type",
    )


_OPTIONAL = ("altitude", "speed", "bearing", "battery")
_LARGEST = int(float_info.max)


def _judge(element: Any) -> Fix | Unreadable:
    if not isinstance(element, dict):
        return Unreadable(None, ErrorCode.BAD_TYPE, f"a fix is an object; got {shown(element)}")
    seq = element.get("seq")
    if type(seq) is not int or not 1 <= seq <= MAX_SEQ:
        return _unreadable_seq(seq)
    for name in _OPTIONAL:
        value = element.get(name)
        if type(value) is int and abs(value) > _LARGEST:
            # No float holds this number, so it can't be true. The filters treat infinity as unknown.
            element[name] = inf
    try:
        return msgspec.convert(element, Fix)
    except msgspec.ValidationError as error:
        return Unreadable(seq, code_of(error), str(error))


def _check(message: Hello | TripStatusChange | TextMessage) -> Hello | TripStatusChange | TextMessage:
    if isinstance(message, Hello):
        if not is_uuid(message.session):
            detail = f"`session` must be a UUID, like 0b6f4a52-7c1e-4d0a-9d5f-3a8e2c41b790; got {shown(message.session)}"
            raise Refusal(ErrorCode.BAD_FIELD, detail, field="session")
        # A session is the same in upper and lower case.
        return Hello(message.session.lower())
    if isinstance(message, TextMessage):
        check_text_message(message)
    else:
        check_text("client_id", message.client_id, MAX_CLIENT_ID)
    return message


def _refuse_large_batch(length: int) -> None:
    if length > MAX_BATCH:
        raise Refusal(
            ErrorCode.BATCH_TOO_LARGE,
            f"a batch holds at most {MAX_BATCH} fixes; got {length}: split it",
            field="positions",
        )


def _bad_seq(seq: object) -> Refusal:
    return Refusal(ErrorCode.BAD_SEQ, f"`seq` must be a whole number from 1 to 2^53-1; got {shown(seq)}", field="seq")


def _unreadable_seq(seq: object) -> Unreadable:
    return Unreadable(None, ErrorCode.BAD_SEQ, _bad_seq(seq).detail)
