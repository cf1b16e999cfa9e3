"""The pipeline turns a fix into a position, or rejects it, or finds that it is a repeat. It never waits for the database."""

from msgspec import UNSET

from tracking.errors import ErrorCode
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.credibility import drop_untrue
from tracking.ingest.filters import judge
from tracking.ingest.rejections import reject
from tracking.ingest.vehicles import IngestVehicle, Session, Verdict, span_at
from tracking.metrics import FIXES, REJECTED, SUSPECT, UNKNOWN
from tracking.model import Fix, Position, Suspicion
from tracking.protocol.driver import Rejected, Unreadable

_accepted = FIXES.labels("accepted")
_late = FIXES.labels("late")
_suspect = FIXES.labels("suspect")
_rejected = FIXES.labels("rejected")
_repeat = FIXES.labels("repeat")
_contradicted = UNKNOWN.labels("speed")


MAX_PREVIEWED = 1_000
"""Verdicts on a session's fixes that are remembered while the queue is full. Further fixes are not shown."""
PLAIN = Verdict((), True, True)
"""The usual verdict, which is not remembered: not doubted, moved the marker, speed believed."""


class Pipeline:
    """Takes the fixes of all drivers. `now` is the hub's clock."""

    def __init__(self, queue: CommitQueue) -> None:
        self._queue = queue

    def accept(self, vehicle: IngestVehicle, session: Session, fix: Fix | Unreadable, now: int) -> Position | None:
        """Offers the fix to the queue. Returns the position that must be shown.

        It is None for a repeat, for a rejected fix, and for one that was shown before.
        """
        seq = fix.seq
        if seq is None:
            raise _no_seq()
        if seq <= session.seen:
            _repeat.value += 1
            return None
        session.seen = seq
        refused = (fix.code, fix.detail) if type(fix) is Unreadable else reject(fix, now)
        if refused is not None or type(fix) is Unreadable:
            assert refused is not None
            # A fix with this seq may have been shown. It was another one, or it has become too old.
            session.previewed.pop(seq, None)
            self._queue.offer(Entry(session, seq, None, _rejected_for(seq, *refused)))
            return None
        if seq <= session.shown:
            verdict = session.previewed.pop(seq, PLAIN)
            if verdict is not None:
                drop_untrue(fix)
                if not verdict.speed_believed:
                    fix.speed = UNSET
                position = _position(vehicle, session, fix, now, verdict.suspect, verdict.live)
                self._queue.offer(Entry(session, seq, position, None))
                return None
        position = _judged(vehicle, session, fix, now)
        self._queue.offer(Entry(session, seq, position, None))
        return position

    def preview(self, vehicle: IngestVehicle, session: Session, fix: Fix | Unreadable, now: int) -> Position | None:
        """The same while the queue is full: the fix is shown and not stored. The device sends it again."""
        seq = fix.seq
        if seq is None:
            raise _no_seq()
        if seq <= max(session.seen, session.shown) or len(session.previewed) >= MAX_PREVIEWED:
            return None
        session.shown = seq
        if type(fix) is Unreadable or reject(fix, now) is not None:
            session.previewed[seq] = None
            return None
        reported = fix.speed
        position = _judged(vehicle, session, fix, now)
        verdict = Verdict(position.suspect, position.live, fix.speed is reported)
        if verdict != PLAIN:
            session.previewed[seq] = verdict
        return position


def _rejected_for(seq: int, code: ErrorCode, detail: str) -> Rejected:
    _rejected.value += 1
    REJECTED.labels(code.value).inc()
    return Rejected(seq, code.value, detail)


def _judged(vehicle: IngestVehicle, session: Session, fix: Fix, now: int) -> Position:
    for field in drop_untrue(fix):
        UNKNOWN.labels(field).value += 1
    reported = fix.speed
    suspect, live = judge(fix, vehicle.motion, session.number, now)
    if fix.speed is not reported:
        _contradicted.value += 1
    if suspect:
        _suspect.value += 1
        for flag in suspect:
            SUSPECT.labels(flag.value).inc()
    elif live:
        _accepted.value += 1
    else:
        _late.value += 1
    return _position(vehicle, session, fix, now, suspect, live)


def _position(
    vehicle: IngestVehicle, session: Session, fix: Fix, now: int, suspect: tuple[Suspicion, ...], live: bool
) -> Position:
    span = span_at(vehicle.windows, fix.fix_time)
    if now < vehicle.floor:
        now = vehicle.floor
    accuracy, altitude, speed, bearing, battery = fix.accuracy, fix.altitude, fix.speed, fix.bearing, fix.battery
    return Position(
        vehicle.number,
        vehicle.vehicle_id,
        session.number,
        fix.seq,
        fix.fix_time,
        now,
        fix.latitude,
        fix.longitude,
        None if accuracy is UNSET else accuracy,
        None if altitude is UNSET else altitude,
        None if speed is UNSET else speed,
        None if bearing is UNSET else bearing,
        None if battery is UNSET else battery,
        None if span is None else span.trip,
        None if span is None else span.trip_id,
        suspect,
        live,
    )


def _no_seq() -> ValueError:
    return ValueError("a fix whose seq can't be read is an error of the socket, not a fix")
