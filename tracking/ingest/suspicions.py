"""Why a fix is suspect. A suspect fix is stored with its flags, and never moves the marker.

`SUSPICIONS` lists the reasons in the order in which they are reported. A predicate knows the fix, the vehicle's `Motion`, and
the time. Lengths are m, speeds m/s, times ms, coordinates WGS 84 degrees.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from msgspec import UNSET

from tracking.geo import METRES_PER_DEGREE, around, distance
from tracking.ingest.kinematics import FREEZE, GRAIN, MOVING, NOISE, UNKNOWN_SPEED, reach
from tracking.ingest.motion import Motion, time_of
from tracking.model import Fix, Suspicion

NULL_ISLAND: Final = 0.01
"""Degrees around (0, 0), about 1.1 km, that mean "no position". The nearest land is 570 km away."""
INACCURATE: Final = 200.0
"""A fix with a larger reported radius (68 % on Android) comes from a cell tower and not from satellites."""
CLOCK_BACK: Final = 600_000
"""The largest step back within a session that is late delivery. A session is sent in order, so this is generous."""
STANDSTILL: Final = 3.0
"""Metres that a vehicle must have driven before repeated coordinates are strange. They are rounded, often to one metre."""


def null_island(fix: Fix, motion: Motion, now: int) -> bool:
    """The fix is at (0, 0), which receivers and apps report for "unknown"."""
    return -NULL_ISLAND <= fix.latitude <= NULL_ISLAND and -NULL_ISLAND <= fix.longitude <= NULL_ISLAND


def swapped(fix: Fix, motion: Motion, now: int) -> bool:
    """Latitude and longitude are exchanged: the fix is out of reach as it is, and within reach once exchanged."""
    if not motion.support or -NULL_ISLAND < fix.latitude - motion.latitude < NULL_ISLAND:
        return False
    return _out_of_reach(fix.latitude, fix.longitude, fix, motion) and not _out_of_reach(
        fix.longitude, fix.latitude, fix, motion
    )


def clock_back(fix: Fix, motion: Motion, now: int) -> bool:
    """The time goes back within the session by more than late delivery explains.

    This ends when the clock is right again, and at the latest with the session. A track can't use a time known to be wrong.
    """
    return fix.fix_time < motion.session_newest - CLOCK_BACK


def inaccurate(fix: Fix, motion: Motion, now: int) -> bool:
    """The receiver itself reports a large error."""
    accuracy = fix.accuracy
    return accuracy is not UNSET and accuracy > INACCURATE


def frozen(fix: Fix, motion: Motion, now: int) -> bool:
    """The coordinates are exactly the same again, but the vehicle drives: by its reported speed, or its last measured one."""
    if fix.longitude != motion.longitude or fix.latitude != motion.latitude or not motion.support:
        return False
    time = fix.fix_time
    if not motion.time < time <= motion.time + FREEZE:
        return False
    reported = fix.speed
    if reported is not UNSET:
        return reported >= MOVING and reported * (time - motion.time) >= STANDSTILL * 1000.0
    speed = motion.speed
    return motion.driven and motion.restless > 0 and speed >= MOVING and speed * (time - motion.since) >= STANDSTILL * 1000.0


def jump(fix: Fix, motion: Motion, now: int) -> bool:
    """The vehicle can't have come so far from its neighbours in time, or has not come back after earlier jumps."""
    if not motion.support:
        return False
    return _out_of_reach(fix.latitude, fix.longitude, fix, motion) or (motion.rival is not None and _still_away(fix, motion))


SUSPICIONS: tuple[tuple[Suspicion, Callable[[Fix, Motion, int], bool]], ...] = (
    (Suspicion.NULL_ISLAND, null_island),
    (Suspicion.SWAPPED, swapped),
    (Suspicion.CLOCK_BACK, clock_back),
    (Suspicion.INACCURATE, inaccurate),
    (Suspicion.FROZEN, frozen),
    (Suspicion.JUMP, jump),
)


def _still_away(fix: Fix, motion: Motion) -> bool:
    """After jumps of a vehicle that stood: the fix is not near its anchor, though waiting has brought it within reach.

    The vehicle could not drive to the first jump, so waiting there makes it no more likely. Only a return is believed, and
    the reach is counted as if the vehicle was at its anchor at the time of the last jump.
    """
    rival = motion.rival
    if rival is None or fix.fix_time <= motion.time or not motion.hold:
        return False
    apart = distance(motion.latitude, motion.longitude, fix.latitude, fix.longitude)
    return apart > NOISE + motion.accuracy + reach(motion.speed, abs(fix.fix_time - rival.time) * 0.001)


def _out_of_reach(latitude: float, longitude: float, fix: Fix, motion: Motion) -> bool:
    time = fix.fix_time
    if time <= motion.time:
        return _out_of_place(latitude, longitude, fix, motion)
    dy = latitude - motion.latitude
    dx = around(longitude - motion.longitude) * motion.cosine
    square = (dx * dx + dy * dy) * (METRES_PER_DEGREE * METRES_PER_DEGREE)
    if square <= NOISE * NOISE:
        return False
    speed = motion.speed
    reported = fix.speed
    if reported is not UNSET and speed < reported:
        speed = reported
    allowed = NOISE + motion.accuracy + reach(speed, (time - motion.time) * 0.001)
    accuracy = fix.accuracy
    if accuracy is not UNSET:
        allowed += min(accuracy, INACCURATE)
    # The flat formula overstates long distances, so the great circle decides.
    return square > allowed * allowed and distance(motion.latitude, motion.longitude, latitude, longitude) > allowed


def _out_of_place(latitude: float, longitude: float, fix: Fix, motion: Motion) -> bool:
    """`_out_of_reach` for a fix that is not the newest: from the clean positions before and after it."""
    recent = motion.recent
    time = fix.fix_time
    index = bisect_right(recent, time, key=time_of)
    before = recent[index - 1] if index else None
    after = recent[index] if index < len(recent) else None
    speed = UNKNOWN_SPEED
    if before is not None and after is not None:
        speed = distance(before[1], before[2], after[1], after[2]) / ((after[0] - before[0]) * 0.001 + GRAIN)
    reported = fix.speed
    if reported is not UNSET and speed < reported:
        speed = reported
    accuracy = fix.accuracy
    noise = NOISE if accuracy is UNSET else NOISE + min(accuracy, INACCURATE)
    for neighbour in (before, after):
        if neighbour is not None and distance(neighbour[1], neighbour[2], latitude, longitude) > noise + reach(
            speed, abs(time - neighbour[0]) * 0.001
        ):
            return True
    return False
