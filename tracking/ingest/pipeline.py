"""`accept`: a fix becomes a position, or is rejected, or is a repeat. Synchronous: it never waits for the database."""

from msgspec import UNSET, UnsetType

from tracking.errors import CloseCode, ErrorCode, SocketClosed
from tracking.ingest.filters import judge, reject
from tracking.ingest.recorder import Entry, Recorder
from tracking.ingest.sources import Session, Source
from tracking.metrics import FIXES, REJECTED, SUSPECT
from tracking.model import Clock, Fix, Position
from tracking.protocol import Rejected, Unreadable

_accepted = FIXES.labels("accepted")
_late = FIXES.labels("late")
_suspect = FIXES.labels("suspect")
_rejected = FIXES.labels("rejected")
_repeat = FIXES.labels("repeat")


class Overloaded(SocketClosed):
    """The queue to the database is full. The map may still show `position`; the device must send it again."""

    def __init__(self, position: Position | None) -> None:
        super().__init__(CloseCode.OVERLOADED)
        self.position = position


class Pipeline:
    """Takes the fixes of all drivers."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock

    def accept(self, source: Source, session: Session, fix: Fix | Unreadable) -> Position | None:
        """The position that the fix became, handed to the recorder; None for a repeat, for a rejected fix, and for one that
        was shown before, when the recorder could not take it.

        Raises `Overloaded` when the recorder can't take it: then no later fix of that connection may be taken either.
        """
        seq = fix.seq
        if seq is None:
            raise ValueError("a fix whose seq can't be read is an error of the socket, not a fix")
        if seq <= session.seen:
            _repeat.inc()
            return None
        position = session.held
        shown = position is not None and position.seq == seq
        rejected = None if shown else self._rejection(fix)
        if not shown:
            position = None if rejected is not None or isinstance(fix, Unreadable) else self._position(source, session, fix)
        if self._recorder.full:
            session.held = position
            raise Overloaded(None if shown else position)
        session.held = None
        session.seen = seq
        self._recorder.offer(Entry(session, seq, position, rejected))
        return None if shown else position

    def _rejection(self, fix: Fix | Unreadable) -> Rejected | None:
        refused: tuple[ErrorCode, str] | None
        refused = (fix.code, fix.detail) if isinstance(fix, Unreadable) else reject(fix, self._clock())
        if refused is None:
            return None
        code, detail = refused
        _rejected.inc()
        REJECTED.labels(code.value).inc()
        assert fix.seq is not None
        return Rejected(fix.seq, code.value, detail)

    def _position(self, source: Source, session: Session, fix: Fix) -> Position:
        now = self._clock()
        suspect, live = judge(fix, source.motion, session.number, now)
        if suspect:
            _suspect.inc()
            for flag in suspect:
                SUSPECT.labels(flag.value).inc()
        elif live:
            _accepted.inc()
        else:
            _late.inc()
        span = source.span_at(fix.fix_time)
        return Position(
            source.number,
            source.vehicle.vehicle_id,
            session.number,
            fix.seq,
            fix.fix_time,
            now,
            fix.latitude,
            fix.longitude,
            _known(fix.accuracy),
            _known(fix.altitude),
            _known(fix.speed),
            _known(fix.bearing),
            _known(fix.battery),
            span.trip if span is not None else None,
            span.trip_id if span is not None else None,
            suspect,
            live,
        )


def _known(value: float | UnsetType) -> float | None:
    return None if value is UNSET else value
