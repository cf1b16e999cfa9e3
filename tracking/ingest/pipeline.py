"""`accept`: a fix becomes a position, or is rejected, or is a repeat. Synchronous: it never waits for the database."""

from msgspec import UNSET, UnsetType

from tracking.errors import ErrorCode
from tracking.ingest.filters import judge, reject
from tracking.ingest.recorder import Entry, Recorder
from tracking.ingest.sources import Session, Source
from tracking.metrics import FIXES, REJECTED, SUSPECT
from tracking.model import Clock, Fix, Position, Suspicion
from tracking.protocol import Rejected, Unreadable

_accepted = FIXES.labels("accepted")
_late = FIXES.labels("late")
_suspect = FIXES.labels("suspect")
_rejected = FIXES.labels("rejected")
_repeat = FIXES.labels("repeat")


MAX_PREVIEWED = 1_000
"""Verdicts on a session's fixes that are remembered while the queue is full; past them nothing more of it is shown."""
_PLAIN: tuple[tuple[Suspicion, ...], bool] = ((), True)
"""Not doubted, and moved the marker: the verdict on most, which is not remembered."""


class Pipeline:
    """Takes the fixes of all drivers."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock

    @property
    def full(self) -> bool:
        """The recorder can take no more: use `preview`, and close the connection with 4014."""
        return self._recorder.full

    def accept(self, source: Source, session: Session, fix: Fix | Unreadable) -> Position | None:
        """The position that the fix became, handed to the recorder, where it is to be shown; None for a repeat, for a rejected
        fix, and for one that was shown before.
        """
        seq = _seq_of(fix)
        if seq <= session.seen:
            _repeat.inc()
            return None
        session.seen = seq
        verdict = session.previewed.pop(seq, _PLAIN) if seq <= session.shown else None
        if verdict is not None and isinstance(fix, Fix):
            self._recorder.offer(Entry(session, seq, self._position(source, session, fix, *verdict), None))
            return None
        rejected = self._rejection(fix)
        if rejected is not None or isinstance(fix, Unreadable):
            self._recorder.offer(Entry(session, seq, None, rejected))
            return None
        position = self._judged(source, session, fix)
        self._recorder.offer(Entry(session, seq, position, None))
        return position

    def preview(self, source: Source, session: Session, fix: Fix | Unreadable) -> Position | None:
        """The same while the recorder is full: to be shown, not to be stored. The device sends the fix again."""
        seq = _seq_of(fix)
        if seq <= max(session.seen, session.shown) or len(session.previewed) >= MAX_PREVIEWED:
            return None
        session.shown = seq
        if isinstance(fix, Unreadable) or reject(fix, self._clock()) is not None:
            session.previewed[seq] = None
            return None
        position = self._judged(source, session, fix)
        if (position.suspect, position.live) != _PLAIN:
            session.previewed[seq] = (position.suspect, position.live)
        return position

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

    def _judged(self, source: Source, session: Session, fix: Fix) -> Position:
        suspect, live = judge(fix, source.motion, session.number, self._clock())
        if suspect:
            _suspect.inc()
            for flag in suspect:
                SUSPECT.labels(flag.value).inc()
        elif live:
            _accepted.inc()
        else:
            _late.inc()
        return self._position(source, session, fix, suspect, live)

    def _position(self, source: Source, session: Session, fix: Fix, suspect: tuple[Suspicion, ...], live: bool) -> Position:
        now = self._clock()
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


def _seq_of(fix: Fix | Unreadable) -> int:
    if fix.seq is None:
        raise ValueError("a fix whose seq can't be read is an error of the socket, not a fix")
    return fix.seq


def _known(value: float | UnsetType) -> float | None:
    return None if value is UNSET else value
