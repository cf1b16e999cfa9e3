"""What the home of a vehicle knows of it, as bytes, for the hub that takes it over.

The state has a version. A hub that does not know the version continues from the store. Budgets are not handed over.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from tracking.ingest.clocks import DeviceClock
from tracking.ingest.commit_queue import Entry
from tracking.ingest.jumps import Rival
from tracking.ingest.motion import Motion
from tracking.ingest.pipeline import PLAIN
from tracking.ingest.vehicles import IngestVehicle, Session, Verdict
from tracking.live.fleet import LiveVehicle
from tracking.model import Event, EventKind, Position
from tracking.monitor.replay import Replay
from tracking.monitor.rules import AlertState, Stay

VERSION: Final = 1
T = TypeVar("T")


class RivalState(msgspec.Struct, array_like=True):
    """`jumps.Rival`, attribute by attribute."""

    agreeing: int
    begin: int
    begin_latitude: float
    begin_longitude: float
    first: int
    jumps: int
    latitude: float
    longest: float
    longitude: float
    speed: float
    time: int
    way: float


class MotionState(msgspec.Struct, array_like=True):
    """`motion.Motion`, attribute by attribute."""

    accuracy: float
    base_latitude: float
    base_longitude: float
    base_time: int
    claimed: float
    cosine: float
    driven: bool
    excess: float
    home_latitude: float
    home_longitude: float
    home_newest: int
    home_time: int
    latitude: float
    longitude: float
    recent: list[tuple[int, float, float]]
    restless: int
    rival: RivalState | None
    session: int
    session_newest: int
    sessions: dict[int, int] | None
    since: int
    speed: float
    support: int
    time: int


class ClockState(msgspec.Struct, array_like=True):
    """`clocks.DeviceClock`, attribute by attribute."""

    _age: int
    _count: int
    _queued: bool
    _since: int
    skew: int


class SessionState(msgspec.Struct, array_like=True):
    """A session, and the verdicts on its fixes that were shown and are not known to be stored, except usual ones.

    `handled` is the last seq that is known to be stored, `shown` the last one that was judged.
    """

    number: int
    name: str
    handled: int
    shown: int
    verdicts: dict[int, Verdict | None]


class ReplayState(msgspec.Struct, array_like=True):
    """`replay.Replay`, attribute by attribute."""

    _from: int
    _of_fences: dict[str, list[tuple[EventKind, int]]]
    _latest: dict[EventKind, int]
    until: int


class AlertsState(msgspec.Struct, array_like=True):
    """`rules.AlertState`, except schedules and the route, which is made again."""

    previous: Position | None
    heard: int | None
    silent: bool
    inside: dict[str, tuple[int, bool]]
    speeding: bool
    over_limit: int
    fast_from: Position | None
    anchor: tuple[float, float, int] | None
    at_anchor: int
    averaged: int
    idle: bool
    off: int
    off_route: bool
    replay: ReplayState | None = None


class State(msgspec.Struct, array_like=True):
    """All of a vehicle in the term of its former home, from one step of its event loop.

    No position of it has a later `server_time`. `joined_at` is when it joined its fleet. `events` wait to be stored; those with
    an id may be stored already. `recent` is kept by `live.recent`. `moves` were not judged, because the fleet was not loaded.
    """

    vehicle: int
    vehicle_id: str
    term: int
    server_time: int
    motion: MotionState
    clock: ClockState | None
    sessions: list[SessionState]
    newest: Position | None
    fleet_id: str
    joined_at: int
    alerts: AlertsState | None
    events: list[Event]
    recent: bytes = b""
    moves: list[Position] = []


class _Envelope(msgspec.Struct, array_like=True):
    version: int
    state: msgspec.Raw


class Live(NamedTuple):
    """What the live state has of a vehicle that is handed over."""

    vehicle: LiveVehicle | None
    alerts: AlertState | None
    events: list[Event]
    recent: bytes
    moves: list[Position]


_encoder = msgspec.msgpack.Encoder()
_envelopes = msgspec.msgpack.Decoder(_Envelope)
_states = msgspec.msgpack.Decoder(State)


def encode(state: State) -> bytes:
    return _encoder.encode(_Envelope(VERSION, msgspec.Raw(_encoder.encode(state))))


def decode(data: bytes) -> State | None:
    """None if it can't be understood: it is of another version, or broken."""
    try:
        envelope = _envelopes.decode(data)
        return _states.decode(envelope.state) if envelope.version == VERSION else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


# --- out ------------------------------------------------------------------------------------------------------------------


def state_of(vehicle: IngestVehicle, waiting: Iterable[Entry], live: Live, now: int) -> State:
    """`waiting` are the entries of the queue. The vehicle must have its home here. Nothing more of it may be taken then."""
    assert vehicle.home is not None
    verdicts: dict[str, dict[int, Verdict | None]] = {}
    for session, seq, position, _ in waiting:
        if session.home is vehicle.home and seq > session.handled:
            verdict = None if position is None else Verdict(position.suspect, position.live, position.speed is not None)
            if verdict != PLAIN:
                verdicts.setdefault(session.name, {})[seq] = verdict
    alerts, shown = live.alerts, live.vehicle
    return State(
        vehicle.number,
        vehicle.vehicle_id,
        vehicle.home.term,
        max(now, vehicle.floor),
        _motion_state(vehicle.motion),
        None if vehicle.clock is None else _copied(ClockState, vehicle.clock),
        [_session_state(session, verdicts.get(session.name, {})) for session in vehicle.sessions.values()],
        vehicle.newest,
        "" if shown is None else shown.vehicle.fleet_id,
        0 if shown is None else shown.joined_at,
        None if alerts is None else _alerts_state(alerts),
        live.events,
        live.recent,
        live.moves,
    )


def _copied(kind: type[T], source: object, **others: Any) -> T:
    names = kind.__struct_fields__  # type: ignore[attr-defined]
    return kind(*(others[name] if name in others else getattr(source, name) for name in names))


def _motion_state(motion: Motion) -> MotionState:
    rival = motion.rival
    return _copied(MotionState, motion, rival=None if rival is None else _copied(RivalState, rival))


def _session_state(session: Session, waiting: dict[int, Verdict | None]) -> SessionState:
    return SessionState(
        session.number, session.name, session.handled, max(session.shown, session.seen), {**session.previewed, **waiting}
    )


def _alerts_state(state: AlertState) -> AlertsState:
    inside = {name: (stay.since, stay.dwelt) for name, stay in state.inside.items()}
    replay = None if state.replay is None else _copied(ReplayState, state.replay)
    return _copied(AlertsState, state, inside=inside, replay=replay)


# --- in -------------------------------------------------------------------------------------------------------------------


def take_up(vehicle: IngestVehicle, state: State) -> None:
    """Continues with what the former home knew. The vehicle's home must be here now, in the next term."""
    motion = _filled(Motion(), state.motion)
    motion.rival = None if state.motion.rival is None else _filled(Rival(0.0, 0), state.motion.rival)
    vehicle.motion = motion
    vehicle.clock = None if state.clock is None else _filled(DeviceClock(queued=False), state.clock)
    vehicle.newest = state.newest
    vehicle.unsettled = None
    for told in state.sessions:
        # Only what the store says is acknowledged. Sessions that are not read yet are read from it when the driver says them.
        session = vehicle.sessions.get(told.name)
        if session is not None and session.number == told.number:
            session.shown = max(session.handled, told.shown)
            session.previewed = {seq: verdict for seq, verdict in told.verdicts.items() if seq > session.handled}


def alerts_of(state: State, live: LiveVehicle) -> AlertState | None:
    """What the former home's monitor remembered, as far as it may be known in the vehicle's fleet."""
    told = state.alerts
    if told is None:
        return None
    alerts = _filled(AlertState(), told)
    alerts.inside = {name: Stay(since, dwelt) for name, (since, dwelt) in told.inside.items()}
    alerts.replay = None if told.replay is None else _filled(Replay.__new__(Replay), told.replay)
    if (live.vehicle.fleet_id, live.joined_at) != (state.fleet_id, state.joined_at):
        return alerts.of_another_fleet()
    return alerts


def _filled(target: T, source: msgspec.Struct) -> T:
    for name in source.__struct_fields__:
        setattr(target, name, getattr(source, name))
    return target
