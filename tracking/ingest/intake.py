"""The intake takes the fixes that a vehicle reports, through whichever interface they arrive.

    taken = intake.take(vehicle, session, fixes, now)
    taken.results()                      # the outcome of each fix, as far as it is known at once
    await intake.committed(taken)        # the same, after COMMIT

`take` is synchronous, and waits for nothing. An interface reads bytes, sends answers, and holds back a sender. The budgets
belong to the vehicle, so a vehicle that uses several interfaces has one share.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from tracking.bucket import Bucket
from tracking.budgets import Budgets
from tracking.config import Settings
from tracking.errors import ErrorCode, Refusal, StoreWentBack
from tracking.ingest.backlogs import Backlogs
from tracking.ingest.clocks import AHEAD, BEHIND, DeviceClock, continues, described, is_right
from tracking.ingest.pipeline import Pipeline
from tracking.ingest.recorder import Recorder
from tracking.ingest.rejections import CLOCK_SKEW, TOO_OLD, reject
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.live.hub import Hub
from tracking.metrics import FIXES
from tracking.model import Clock, Fix
from tracking.protocol.driver import Unreadable
from tracking.store.marks import Marks

BYTES_OF_FIX: Final = 128
"""The budget that an unreadable report costs: one fix for so many bytes, about what a readable fix takes."""
PAID_AT_ONCE: Final = 16
"""Frames that are taken off the buckets at once. With thousands of drivers, no bucket is in the processor's cache."""

_unreadable = FIXES.labels("unreadable")


class Outcome(StrEnum):
    ACCEPTED = "accepted"
    """it is, or will be, stored"""
    REPEAT = "repeat"
    """its session has brought this seq before, with any outcome"""
    REJECTED = "rejected"
    """for good: the device must not send it again"""
    UNREADABLE = "unreadable"
    """not even its seq can be read"""
    FULL = "full"
    """the queue is full: the device must send it again"""
    HELD = "held"
    """its vehicle's budget is spent for now"""


class Result(NamedTuple):
    """The outcome of one fix. `seq` is None if it can't be read. `code` and `detail` say why it was not accepted."""

    seq: int | None
    outcome: Outcome
    code: ErrorCode | None = None
    detail: str | None = None


class Taken(msgspec.Struct, gc=False):
    """What `Intake` did with some fixes. The outcome of each is computed on request."""

    session: Session
    fixes: Sequence[Fix | Unreadable]
    seen: int
    """`Session.seen` before them"""
    now: int
    held: bool = False
    """None was taken, because the vehicle's budget is spent. Join `Backlogs`, and call `take_part`."""
    repeated: bool = False
    """One of them was handled before, and the device does not know that."""
    unreadable: bool = False
    """The seq of one of them can't be read."""
    refused_from: Fix | Unreadable | None = None
    """The first fix that was not taken because the queue is full. No later one was taken either."""
    skew: int = 0
    """ms by which the device's clock is ahead (negative: behind); 0 if these fixes do not show that it is wrong"""

    def results(self) -> list[Result]:
        """One result for each fix, in order."""
        return [self._result(fix, full, seen) for fix, full, seen in self._as_they_came()]

    def last(self) -> int:
        """The highest seq among fixes that are handled, or will be; 0 if there is none."""
        return max((fix.seq for fix, full, seen in self._as_they_came() if fix.seq is not None and not full), default=0)

    def _as_they_came(self) -> list[tuple[Fix | Unreadable, bool, int]]:
        """Each fix, with whether it was left out as the queue was full, and the highest seq before it."""
        came = []
        seen, full = self.seen, self.held
        for fix in self.fixes:
            full = full or fix is self.refused_from
            seq = fix.seq
            came.append((fix, full and (seq is None or seq > seen), seen))
            if seq is not None and not full:
                seen = max(seen, seq)
        return came

    def _result(self, fix: Fix | Unreadable, full: bool, seen: int) -> Result:
        seq = fix.seq
        if seq is None:
            assert type(fix) is Unreadable
            return Result(None, Outcome.UNREADABLE, fix.code, fix.detail)
        if full:
            return Result(seq, Outcome.HELD if self.held else Outcome.FULL)
        if seq <= seen:
            return Result(seq, Outcome.REPEAT)
        why = (fix.code, fix.detail) if type(fix) is Unreadable else reject(fix, self.now)
        if why is not None:
            return Result(seq, Outcome.REJECTED, *why)
        refused = None if self.session.refused is None else self.session.refused.get(seq)
        if refused is not None:
            return Result(seq, Outcome.REJECTED, ErrorCode(refused.code), refused.detail)
        return Result(seq, Outcome.ACCEPTED)


class Held(NamedTuple):
    """No part of a report could be taken, because the vehicle's budgets are spent."""

    wait: float
    """seconds until a part can be taken"""
    total: float
    """seconds until the rest of the report is taken, if nothing else comes"""
    refusal: Refusal


class Prepaid:
    """Frames with one fix each, taken off both of the vehicle's buckets in advance. Such a frame then needs neither bucket."""

    __slots__ = ("_fixes", "_frames", "_left", "covered")

    def __init__(self, frames: Bucket, fixes: Bucket) -> None:
        self._frames = frames
        self._fixes = fixes
        self._left = 0
        self.covered = False
        """Whether the last frame, with one fix, was paid in advance."""

    def take_frame(self, now: int) -> bool:
        """Whether the vehicle may send a frame at this instant."""
        left = self._left
        if left:
            self._left = left - 1
            self.covered = True
            return True
        self.covered = False
        return self._frames.take(now)

    def pay(self, now: int) -> None:
        """Pays for the next frames in advance, if both buckets hold enough."""
        if self._frames.take(now, PAID_AT_ONCE):
            if self._fixes.take(now, PAID_AT_ONCE):
                self._left = PAID_AT_ONCE
            else:
                self._frames.give_back(PAID_AT_ONCE)

    def give_back(self) -> None:
        """Returns what is left to the buckets, when the connection is closed."""
        self._frames.give_back(self._left)
        self._fixes.give_back(self._left)
        self._left = 0


class Intake:
    """Takes the fixes of all vehicles: spends their budgets, judges their clocks, and passes positions to queue and hub."""

    def __init__(
        self,
        settings: Settings,
        open_session: Callable[[IngestVehicle, str], Awaitable[Session | None]],
        recorder: Recorder,
        backlogs: Backlogs,
        hub: Hub,
        budgets: Budgets,
        marks: Marks,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._open_session = open_session
        self._recorder = recorder
        self._queue = recorder.queue
        self._pipeline = Pipeline(recorder.queue)
        self._backlogs = backlogs
        self._budgets = budgets
        self._marks = marks
        self._clock = clock
        self._fleets = hub.fleets
        self._publish = hub.publish

    # --- budgets and sessions ---------------------------------------------------------------------------------------

    def prepaid(self, vehicle: IngestVehicle) -> Prepaid:
        """For an interface with a lasting connection, such as a socket."""
        return Prepaid(*self._buckets(vehicle))

    def take_frame(self, vehicle: IngestVehicle) -> bool:
        """Whether the vehicle may send a frame or a request now. For an interface without `prepaid` frames."""
        frames, _ = self._buckets(vehicle)
        return frames.take(self._clock())

    def spend_unreadable(self, vehicle: IngestVehicle, size: int) -> None:
        """Pays for an unreadable report of `size` bytes."""
        _, fixes = self._buckets(vehicle)
        fixes.drain(self._clock(), 1 + size // BYTES_OF_FIX)

    def _buckets(self, vehicle: IngestVehicle) -> tuple[Bucket, Bucket]:
        """The vehicle's buckets of frames and of fixes, which all interfaces share."""
        now, settings = self._clock(), self._settings
        if vehicle.frames is None:
            vehicle.frames = Bucket(settings.driver_frames_per_second, settings.driver_frames_at_once, now)
        if vehicle.fixes is None:
            vehicle.fixes = Bucket(settings.budget_fixes.per_second, settings.budget_fixes.at_once, now)
        return vehicle.frames, vehicle.fixes

    def spend_session(self, vehicle: IngestVehicle) -> None:
        """To be called before a session is opened that is not in memory, because it may need a new row.

        Raises `Refusal` (`rate_limited`) if the vehicle has opened too many sessions lately.
        """
        self._budgets.sessions.spend(vehicle.vehicle_id)

    async def open_session(self, vehicle: IngestVehicle, name: str) -> Session | None:
        """The vehicle's session of this name, whose home is here from now on; None if the vehicle was removed.

        Raises `Refusal` as `spend_session` does, and `StoreUnavailable`.
        """
        session = vehicle.sessions.get(name)
        if session is not None:
            return session
        self.spend_session(vehicle)
        return await self._open_session(vehicle, name)

    # --- fixes ------------------------------------------------------------------------------------------------------

    def take_at_once(self, vehicle: IngestVehicle, session: Session, fix: Fix | Unreadable, now: int) -> bool:
        """Takes one fix that is `prepaid`, if it is recent and needs no answer. Returns whether it did.

        Nearly all fixes are of this kind. The result is the same as with `take`, and costs less.
        """
        if type(fix) is Unreadable or fix.seq <= session.handled or self._queue.full:
            return False
        if not -AHEAD <= now - fix.fix_time <= BEHIND or vehicle.clock is not None:
            return False
        position = self._pipeline.accept(vehicle, session, fix, now)
        if position is not None:
            if position.live:
                vehicle.newest = position
            self._publish(position)
        return True

    def take(
        self,
        vehicle: IngestVehicle,
        session: Session,
        fixes: Sequence[Fix | Unreadable],
        now: int,
        *,
        backlog: bool = False,
        prepaid: Prepaid | None = None,
    ) -> Taken:
        """Takes a whole report, if the vehicle's budget of fixes allows it.

        `backlog`: the report does not hold current fixes alone. `prepaid`: what paid for the frame, if anything.
        """
        taken = Taken(session, fixes, session.seen, now, skew=self.begin(vehicle, session, fixes, now, backlog=backlog))
        count = len(fixes)
        if prepaid is None or not prepaid.covered or count != 1:
            bucket = vehicle.fixes
            if bucket is None:
                _, bucket = self._buckets(vehicle)
            if not bucket.take(now, count or 1):
                taken.held = True
                return taken
            if prepaid is not None and not prepaid.covered:
                prepaid.pay(now)
        self._take(taken, vehicle, False)
        return taken

    def begin(
        self, vehicle: IngestVehicle, session: Session, fixes: Sequence[Fix | Unreadable], now: int, *, backlog: bool = False
    ) -> int:
        """Reads a whole report before it is taken in parts. Returns how far the device's clock is off, 0 if nothing shows that.

        `take` calls this itself.
        """
        if backlog:
            # The device keeps its backlog until it is acknowledged.
            session.prompt = max((fix.seq for fix in fixes if fix.seq is not None), default=0)
        if fixes and type(last := fixes[-1]) is not Unreadable:
            age = now - last.fix_time
            if (age > BEHIND or age < -AHEAD or vehicle.clock is not None) and last.seq > session.seen:
                return self._judge_clock(vehicle, fixes[0], age, now)
        return 0

    def take_part(
        self, vehicle: IngestVehicle, session: Session, fixes: Sequence[Fix | Unreadable], most: int, now: int
    ) -> Taken | Held:
        """Takes the first `most` of a report's fixes, in its vehicle's turn; fewer if its budget of backlogs is smaller.

        Call `begin` before the first part.
        """
        count = min(most, len(fixes), self._settings.budget_backlog.at_once)
        held = self._afford(vehicle, count, len(fixes), now)
        if held is not None:
            return held
        taken = Taken(session, fixes[:count], session.seen, now)
        before = self._queue.offered
        try:
            self._take(taken, vehicle, self._backlogs.full(vehicle))
        finally:
            self._backlogs.took(vehicle, before)
        return taken

    def _afford(self, vehicle: IngestVehicle, count: int, left: int, now: int) -> Held | None:
        """Takes `count` fixes off the vehicle's budgets. `left` is how many the report still holds."""
        _, bucket = self._buckets(vehicle)
        if bucket.take(now, count):
            return None
        try:
            self._budgets.backlogs.spend(vehicle.vehicle_id, amount=count)
        except Refusal as refusal:
            wait = min(bucket.wait(count), refusal.retry_after or 0.0)
            total = wait + (left - count) / self._settings.budget_backlog.per_second
            return Held(wait, total, Refusal(refusal.code, refusal.detail, retry_after=math.ceil(total)))
        return None

    def _take(self, taken: Taken, vehicle: IngestVehicle, full: bool) -> None:
        """`full`: none of them can be stored, even if the queue has room."""
        session, now = taken.session, taken.now
        pipeline, queue = self._pipeline, self._queue
        refused = full
        if full and taken.fixes:
            taken.refused_from = taken.fixes[0]
        for fix in taken.fixes:
            seq = fix.seq
            if seq is None:
                _unreadable.value += 1
                taken.unreadable = True
                continue
            if seq <= session.handled:
                taken.repeated = True
            # After a fix that was not taken none is taken. Otherwise an ack would cover the dropped fix.
            if not refused and queue.full:
                refused = True
                taken.refused_from = fix
            position = (pipeline.preview if refused else pipeline.accept)(vehicle, session, fix, now)
            if position is not None:
                if position.live:
                    vehicle.newest = position
                self._publish(position)

    def _judge_clock(self, vehicle: IngestVehicle, first: Fix | Unreadable, age: int, now: int) -> int:
        """Judges the device's clock by a report whose last fix is `age` ms old. Returns the skew."""
        clock = vehicle.clock
        skew = 0
        if is_right(age):
            vehicle.clock = None
        else:
            if clock is None:
                queued = type(first) is not Unreadable and continues(first.fix_time, vehicle.motion.time)
                clock = vehicle.clock = DeviceClock(queued=queued)
            skew = clock.see(age, now)
        self._fleets.set_clock_skew(vehicle.vehicle_id, skew)
        return skew

    # --- after COMMIT -----------------------------------------------------------------------------------------------

    async def committed(self, taken: Taken) -> list[Result]:
        """Waits until all that was taken is committed, or rejected for good. Returns the outcome of each fix.

        It does not wait for fixes that are `FULL` or `HELD`. It raises `StoreUnavailable` if the hub stops first, and
        `StoreWentBack` if the store has lost commits. The device must send the fixes again then.
        Callers set a time limit, because this waits while the database is away.
        """
        await self._recorder.handled(taken.session, taken.last())
        if self._marks.went_back.is_set():
            raise StoreWentBack("the store went back: what it had of these fixes is not certain, so send them again")
        return taken.results()


def clock_advice(skew: int) -> Refusal:
    """The advice to a driver whose device's clock is off by `skew` ms: `clock_skew`, with the effect on its fixes."""
    if skew > 0:
        harm = f"fixes more than {CLOCK_SKEW // 1000} s ahead are rejected"
    elif -skew <= TOO_OLD:
        harm = "its fixes are taken for old ones, which belong to no trip of today"
    else:
        harm = "fixes older than 7 days are rejected"
    return Refusal(ErrorCode.CLOCK_SKEW, f"{described(skew)}: set it; {harm}")
