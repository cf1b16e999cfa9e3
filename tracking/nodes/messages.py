"""What hubs tell each other, as msgpack: a `Beat` to all each second, and `Packet`s from one hub to another.

A packet holds positions and notices. Each notice is decoded by itself: a notice of an unknown kind, which a newer hub sends, is
counted and left out. Fields are only added at the end, with a default.
"""

import msgspec

from tracking.model import Position, Trip

VERSION = 1
"""Of this format. Messages of another version are counted and ignored."""
MAX_BYTES = 256 * 1024
"""The largest message."""


class Beat(msgspec.Struct, array_like=True, gc=False):
    """A hub is alive. `started_at` is an instant. `links` holds the last number of its link to each receiver.

    `confirmed`: it has read the change log to its end a moment ago, so it reaches the database.
    """

    version: int
    node: str
    """its boot id"""
    name: str
    release: str
    """the version of the program"""
    started_at: int
    confirmed: bool
    life: int
    links: dict[str, int]
    leaving: bool = False
    """It stops. This is its last message."""
    draining: bool = False
    """It sends its clients to other hubs, and stops soon."""
    connections: int = -1
    """open sockets of clients; below 0: the sender's version does not tell"""


class Packet(msgspec.Struct, array_like=True, gc=False):
    """What one hub has to tell another. `life` rises when the sender has connected to the broker again.

    `number` is contiguous from 1 for each sender, life and receiver.
    """

    version: int
    sender: str
    life: int
    number: int
    positions: list[Position]
    notices: list[msgspec.Raw]


class Want(msgspec.Struct, tag="want", array_like=True, gc=False):
    """The sender has readers of this trip, or keeps its feed for readers that return. Repeated when something of it changes.

    `watched`: somebody reads it now, so its driver is asked to report often. `ask` is not 0 if the sender wants a `TripAnswer`
    with this number. The answer has all of the trip from the instant `since` on, as far as it is in memory; 0: what is not
    committed yet.
    """

    trip_id: str
    watched: bool
    ask: int = 0
    since: int = 0
    vehicle_id: str = ""
    """the vehicle that the trip has, as far as the sender knows: its home asks the driver to report often"""


class Interests(msgspec.Struct, tag="interests", array_like=True, gc=False):
    """All that the sender wants. What it wanted before, and is not in it, counts no more.

    `first` and `last` mark the parts if there are several.
    """

    wants: list[Want]
    first: bool = True
    last: bool = True


class Unwant(msgspec.Struct, tag="unwant", array_like=True, gc=False):
    """The sender's feed of this trip has ended."""

    trip_id: str


class TripAnswer(msgspec.Struct, tag="trip", array_like=True, gc=False):
    """What the sender knows of a trip, all from the same step of its event loop. Every hub answers, with or without content.

    `home`: the sender is the home of the trip's vehicle. `uncommitted` are positions that are not known to be committed.
    `recent` are positions of the trip that are not suspect, in the order of their arrival: all that arrived from the later of
    `recent_from` and the `since` of the `Want` on. `recent_from` is 0 if the sender knows none. `trip` is the trip as of the
    change `as_of`, if there is a `since`. `quiet_from`: no message was posted in the trip since this instant; 0: the sender
    does not know. `more`: another answer with the same `ask` follows.
    """

    ask: int
    trip_id: str
    home: bool = False
    uncommitted: list[Position] = []
    recent: list[Position] = []
    recent_from: int = 0
    trip: Trip | None = None
    as_of: int = 0
    quiet_from: int = 0
    more: bool = False


class LateFixes(msgspec.Struct, tag="late", array_like=True, gc=False):
    """The part of a trip's line between two fix times must be read again from the store. `trip` is the store's number.

    `taken_out` is the last fix time of positions that turned out not to belong to the trip.
    """

    trip_id: str
    trip: int
    from_: int
    to: int
    taken_out: int | None = None


class Refiled(msgspec.Struct, tag="refiled", array_like=True, gc=False):
    """These positions of a vehicle turned out to belong to the trip (`got`), or not to belong to it (`lost`: fix times)."""

    trip_id: str
    trip: int
    vehicle_id: str
    lost: list[int] = []
    got: list[Position] = []


class WantFleet(msgspec.Struct, tag="want_fleet", array_like=True, gc=False):
    """Somebody looks at this fleet at the sender, which is to be told of all vehicles of it whose home is the receiver.

    First of all those on the map whose last position came at the instant `since` or later; 0: all. The last `FleetMoves` of
    this answer has the number `ask`. Then of each that changes.
    """

    fleet_id: str
    ask: int = 0
    since: int = 0


class UnwantFleet(msgspec.Struct, tag="unwant_fleet", array_like=True, gc=False):
    """Nobody looks at this fleet at the sender any more."""

    fleet_id: str


class FleetInterests(msgspec.Struct, tag="fleet_interests", array_like=True, gc=False):
    """All fleets that the sender wants. What it wanted before, and is not in it, counts no more.

    `first` and `last` mark the parts if there are several.
    """

    wants: list[WantFleet]
    first: bool = True
    last: bool = True


class SeenVehicle(msgspec.Struct, array_like=True, gc=False):
    """A vehicle as its home shows it: see `live.shown_vehicle`. `clock_skew` is in ms."""

    position: Position
    clock_skew: int = 0
    standing: bool = False
    lost: bool = False


class FleetMoves(msgspec.Struct, tag="fleet_moves", array_like=True, gc=False):
    """Vehicles of a fleet whose home is the sender, each in its newest state.

    `sent_at` is by the sender's clock, as is `server_time` of the positions. `ask` is not 0 in the last part of an answer.
    """

    fleet_id: str
    sent_at: int
    vehicles: list[SeenVehicle]
    ask: int = 0


class HandOverAsk(msgspec.Struct, tag="hand_over_ask", array_like=True, gc=False):
    """The sender is about to be the vehicle's home. `vehicle` is the store's number, `session` the name its driver said."""

    ask: int
    vehicle: int
    vehicle_id: str
    session: str


class HandOver(msgspec.Struct, tag="hand_over", array_like=True, gc=False):
    """The answer of the former home, which has forgotten the vehicle. `state` is what it knew; empty: nothing."""

    ask: int
    vehicle: int
    state: bytes = b""


class Missed(msgspec.Struct, tag="missed", array_like=True, gc=False):
    """Messages from the receiver to the sender were lost. `Nodes` alone reads it."""


class Committed(msgspec.Struct, tag="committed", array_like=True, gc=False):
    """The sender has committed changes. The change log is the authority.

    `revoked` are the ids of revoked tokens, and `over` of trips that have ended: facts that never change again. `ask` is not 0
    if the sender wants an `Applied` with this number.
    """

    revoked: list[str] = []
    over: list[str] = []
    ask: int = 0


class Applied(msgspec.Struct, tag="applied", array_like=True, gc=False):
    """The sender has read the change log to its end since it heard of the commit with this `ask`."""

    ask: int


Notice = (
    Want
    | Unwant
    | Interests
    | TripAnswer
    | LateFixes
    | Refiled
    | WantFleet
    | UnwantFleet
    | FleetInterests
    | FleetMoves
    | HandOverAsk
    | HandOver
    | Committed
    | Applied
    | Missed
)

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding may raise. Text that is not UTF-8 is a `ValueError`."""

_encoder = msgspec.msgpack.Encoder()
_beats = msgspec.msgpack.Decoder(Beat)
_packets = msgspec.msgpack.Decoder(Packet)
_notices: msgspec.msgpack.Decoder[Notice] = msgspec.msgpack.Decoder(Notice)


def encode(message: Beat | Packet | Notice) -> bytes:
    return _encoder.encode(message)


def version_of(data: bytes) -> int | None:
    """The version of a beat or packet that cannot be decoded; None if it is neither."""
    try:
        values = msgspec.msgpack.decode(data)
    except UNREADABLE:
        return None
    return values[0] if isinstance(values, list) and values and type(values[0]) is int else None


def decode_beat(data: bytes) -> Beat:
    """Raises one of `UNREADABLE`."""
    return _beats.decode(data)


def decode_packet(data: bytes) -> Packet:
    """Raises one of `UNREADABLE`. Check its `version` before its content."""
    return _packets.decode(data)


def decode_notice(data: msgspec.Raw) -> Notice:
    """Raises one of `UNREADABLE`; for an unknown kind `msgspec.ValidationError`."""
    return _notices.decode(data)
