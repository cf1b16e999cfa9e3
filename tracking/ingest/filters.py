"""The filters of a fix, one after the other. They are pure: no I/O, and no clock but the time that is passed in.

1. `rejections` throw a fix away. Only time and place reject.
2. `credibility` makes optional values unknown that can't be true.
3. `suspicions` doubt a fix. Doubts are stored with it, and it never moves the marker.

A clean fix that is the newest moves the marker; an older clean fix is late, and enters the track. What is remembered of a
vehicle for all this is its `motion`, with the `jumps` that may replace its position. `kinematics` says what vehicles can do.

`Pipeline` calls `reject`, `drop_untrue` and `judge`, in this order.
"""

from typing import Final

from msgspec import UNSET

from tracking.geo import METRES_PER_DEGREE
from tracking.ingest.credibility import overstated
from tracking.ingest.jumps import AGREEING
from tracking.ingest.kinematics import FASTEST, FREEZE, NOISE, PULL, TOP_SPEED
from tracking.ingest.motion import Motion
from tracking.ingest.suspicions import INACCURATE, NULL_ISLAND, SUSPICIONS
from tracking.model import Fix, Suspicion

NEARBY: Final = NOISE / (2 * METRES_PER_DEGREE)
"""Degrees of latitude and of longitude, at most half of `NOISE`. A place this near is within reach at any speed."""

_JUMPED = (Suspicion.JUMP,)
_FROZEN = (Suspicion.FROZEN,)
_MIRRORED = (Suspicion.SWAPPED, Suspicion.JUMP)


def judge(fix: Fix, motion: Motion, session: int, now: int) -> tuple[tuple[Suspicion, ...], bool]:
    """Every reason to doubt a fix that was not rejected, and whether it moves the marker.

    It does if it is clean and not older than the newest clean one. Call this once for each fix, in the order of a session's
    `seq`. It updates `motion`, and makes the fix's speed unknown if it is not believed.
    """
    if session != motion.session:
        motion.enter(session)
    claim = -1.0
    speed = fix.speed
    if speed is not UNSET:
        claim = speed if speed <= FASTEST else FASTEST
        # Most fixes are about as fast as the last one, a moment ago. This is checked here, and the rest in `overstated`.
        if not (
            speed <= motion.speed + PULL
            and speed <= TOP_SPEED
            and motion.time < fix.fix_time <= motion.time + FREEZE
            and motion.driven
        ) and overstated(fix, motion):
            fix.speed = UNSET
    time = fix.fix_time
    if motion.time < time >= motion.session_newest and motion.rival is None and motion.support:
        latitude = fix.latitude
        longitude = fix.longitude
        north = latitude - motion.latitude
        east = longitude - motion.longitude
        accuracy = fix.accuracy
        if (
            -NEARBY < north < NEARBY
            and -NEARBY < east < NEARBY
            and (north or east)
            and (accuracy is UNSET or accuracy <= INACCURATE)
            and not (-NULL_ISLAND <= latitude <= NULL_ISLAND and -NULL_ISLAND <= longitude <= NULL_ISLAND)
        ):
            # Most fixes are near the last one. No suspicion can hold then, and each would be a call.
            motion.session_newest = time
            motion.move(fix, claim)
            return (), True
    suspicions: tuple[Suspicion, ...] = ()
    for suspicion, predicate in SUSPICIONS:
        if predicate(fix, motion, now):
            suspicions += (suspicion,)
    if time > motion.session_newest:
        motion.session_newest = time
    if time <= motion.time:
        return suspicions, not suspicions and _enter_late(fix, motion)
    if suspicions:
        return ((), True) if _outweigh(fix, motion, suspicions, claim) else (suspicions, False)
    motion.move(fix, claim)
    return suspicions, True


def _enter_late(fix: Fix, motion: Motion) -> bool:
    """Adds a clean fix that is not newer than the anchor. Returns whether it moves the marker."""
    motion.fill(fix)
    if fix.fix_time < motion.time:
        return False
    # Of two fixes with the same time, the one sent last is what the device knows now.
    motion.latitude = fix.latitude
    motion.longitude = fix.longitude
    return True


def _outweigh(fix: Fix, motion: Motion, suspicions: tuple[Suspicion, ...], claim: float) -> bool:
    """Takes a suspect fix as evidence against the anchor. Returns whether it is the new anchor, and so clean."""
    if suspicions == _JUMPED:
        needed = min(motion.support + 1, AGREEING)
    elif suspicions == _MIRRORED:
        # No vehicle drives to its own mirror image. The anchor itself must have been exchanged.
        needed = motion.support + 1
    else:
        if suspicions == _FROZEN and fix.speed is UNSET:
            motion.restless -= 1
        return False
    return motion.reconsider(fix, needed, claim)
