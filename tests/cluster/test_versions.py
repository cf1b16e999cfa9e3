"""Hubs of two versions tell each other things: a newer one adds fields and kinds, an older one leaves fields out."""

from typing import Any

import msgspec
import pytest

from tests.support.positions import a_position
from tracking.cluster import hand_over
from tracking.cluster.hand_over import AlertsState, ClockState, Live, MotionState, RivalState, SessionState, State
from tracking.ingest.vehicles import Home, IngestVehicle, Session
from tracking.model import Event, EventKind, Position, Vehicle
from tracking.monitor.replay import Replay
from tracking.monitor.rules import AlertState, Stay
from tracking.nodes import messages
from tracking.nodes.messages import (
    Applied,
    Beat,
    Committed,
    FleetInterests,
    FleetMoves,
    HandOver,
    HandOverAsk,
    Interests,
    LateFixes,
    Missed,
    Notice,
    Packet,
    Refiled,
    SeenVehicle,
    TripAnswer,
    Unwant,
    UnwantFleet,
    Want,
    WantFleet,
)

FIELDS_BEFORE: dict[type, str] = {
    Beat: "version node name release started_at confirmed life links leaving",
    Packet: "version sender life number positions notices",
    Want: "trip_id watched ask since vehicle_id",
    Unwant: "trip_id",
    Interests: "wants first last",
    TripAnswer: "ask trip_id home uncommitted recent recent_from trip as_of quiet_from more",
    LateFixes: "trip_id trip from_ to taken_out",
    Refiled: "trip_id trip vehicle_id lost got",
    HandOverAsk: "ask vehicle vehicle_id session",
    HandOver: "ask vehicle state",
    Committed: "revoked over",
    Missed: "",
    State: "vehicle vehicle_id term server_time motion clock sessions newest fleet_id joined_at alerts events recent",
    AlertsState: "previous heard silent inside speeding over_limit fast_from anchor at_anchor averaged idle off off_route",
    MotionState: (
        "accuracy base_latitude base_longitude base_time claimed cosine driven excess home_latitude home_longitude home_newest"
        " home_time latitude longitude recent restless rival session session_newest sessions since speed support time"
    ),
    RivalState: "agreeing begin begin_latitude begin_longitude first jumps latitude longest longitude speed time way",
    ClockState: "_age _count _queued _since skew",
    SessionState: "number name handled shown verdicts",
    Position: (
        "vehicle vehicle_id session seq fix_time server_time latitude longitude accuracy altitude speed bearing battery trip"
        " trip_id suspect live"
    ),
}
"""Of the release that first joined hubs. Hubs of it run beside newer ones while versions roll."""

POSITION = a_position(1, 1, 1)
SAMPLES: list[Any] = [
    Beat(messages.VERSION, "node", "name", "1.0", 1, True, 1, {"other": 2}),
    Packet(messages.VERSION, "node", 1, 2, [POSITION], []),
    Want("trip", True),
    Unwant("trip"),
    Interests([Want("trip", False)]),
    TripAnswer(1, "trip", uncommitted=[POSITION]),
    LateFixes("trip", 1, 2, 3),
    Refiled("trip", 1, "van", got=[POSITION]),
    WantFleet("fleet"),
    UnwantFleet("fleet"),
    FleetInterests([WantFleet("fleet")]),
    FleetMoves("fleet", 1, [SeenVehicle(POSITION)]),
    HandOverAsk(1, 2, "van", "session"),
    HandOver(1, 2, b"state"),
    Committed(["jti"]),
    Applied(3),
    Missed(),
]
DECODERS: dict[type, Any] = {Beat: messages.decode_beat, Packet: messages.decode_packet}


def _decoded(kind: type, values: list[Any]) -> Any:
    data = msgspec.msgpack.encode(values)
    return DECODERS[kind](data) if kind in DECODERS else messages.decode_notice(msgspec.Raw(data))


def _values(message: Any) -> list[Any]:
    found: list[Any] = msgspec.msgpack.decode(messages.encode(message))
    return found


@pytest.mark.parametrize("kind", FIELDS_BEFORE, ids=lambda kind: kind.__name__)
def test_fields_are_only_added_at_the_end_and_have_a_default(kind: Any) -> None:
    before = tuple(FIELDS_BEFORE[kind].split())
    fields = msgspec.structs.fields(kind)
    assert tuple(field.name for field in fields)[: len(before)] == before
    assert [field.name for field in fields[len(before) :] if field.required] == []


def test_every_notice_has_its_sample() -> None:
    assert {type(sample) for sample in SAMPLES} >= set(Notice.__args__)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_a_newer_hub_adds_is_left_out(message: Any) -> None:
    assert _decoded(type(message), [*_values(message), "new", {"a": [1]}, None]) == message


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_what_an_older_hub_does_not_say_has_its_default(message: Any) -> None:
    required = [field.name for field in msgspec.structs.fields(message) if field.required]
    tag = [] if type(message) in DECODERS else [type(message).__struct_config__.tag]
    values = _values(message)
    decoded = _decoded(type(message), values[: len(tag) + len(required)])
    assert type(decoded) is type(message)
    assert [getattr(decoded, name) for name in required] == [getattr(message, name) for name in required]


def test_a_notice_of_an_unknown_kind_is_told_from_a_broken_one() -> None:
    with pytest.raises(msgspec.ValidationError):
        messages.decode_notice(msgspec.Raw(msgspec.msgpack.encode(["news", 1, 2])))
    # The others of its packet are read all the same.
    packet = Packet(
        1, "node", 1, 1, [], [msgspec.Raw(msgspec.msgpack.encode(["news", 1])), msgspec.Raw(messages.encode(Missed()))]
    )
    read = messages.decode_packet(messages.encode(packet))
    assert messages.decode_notice(read.notices[1]) == Missed()


# --- the state that is handed over ------------------------------------------------------------------------------------------


def _state() -> bytes:
    vehicle = IngestVehicle(7, Vehicle("van", "fleet"))
    vehicle.home = Home(7, 3)
    vehicle.sessions["session"] = Session(1, "session", 5, vehicle.home)
    vehicle.newest = POSITION
    alerts = AlertState()
    alerts.previous = POSITION
    alerts.inside = {"yard": Stay(5)}
    alerts.replay = Replay([POSITION], [])
    return hand_over.encode(hand_over.state_of(vehicle, [], Live(None, alerts, [], b"recent", [POSITION]), 1_000))


def _versioned(values: list[Any]) -> State | None:
    return hand_over.decode(msgspec.msgpack.encode([hand_over.VERSION, values]))


def test_a_state_of_a_newer_hub_is_understood_without_what_it_adds() -> None:
    known = hand_over.decode(_state())
    assert known is not None and known.alerts is not None and known.alerts.replay is not None
    _, values = msgspec.msgpack.decode(_state())
    place = list(State.__struct_fields__).index("alerts")
    values[place] = [*values[place], "new"]
    values[list(State.__struct_fields__).index("motion")].append([1, 2, 3])
    assert _versioned([*values, {"new": 1}]) == known


def test_a_state_of_the_release_before_is_understood() -> None:
    _, values = msgspec.msgpack.decode(_state())
    place = list(State.__struct_fields__).index("alerts")
    values[place] = values[place][: len(FIELDS_BEFORE[AlertsState].split())]
    read = _versioned(values[: len(FIELDS_BEFORE[State].split())])
    assert read is not None and read.alerts is not None
    assert (read.moves, read.alerts.replay, read.recent, read.alerts.inside) == ([], None, b"recent", {"yard": (5, False)})


def test_a_state_with_an_event_of_an_unknown_kind_is_not_taken_up() -> None:
    """The new home then continues from the store, and judges the last moves again."""
    _, values = msgspec.msgpack.decode(_state())
    event = msgspec.msgpack.decode(msgspec.msgpack.encode(Event(1, EventKind.ENTER, "van", 5)))
    place = list(State.__struct_fields__).index("events")
    values[place] = [event]
    assert _versioned(values) is not None
    event["kind"] = "teleported"
    assert _versioned(values) is None
