"""Which optional values of a fix are believed. A value that is not believed becomes unknown; the fix itself is kept.

The value becomes unknown in the fix, so every later reader sees what is believed and nothing else.
Lengths are m, speeds m/s, times ms.
"""

from bisect import bisect_right
from typing import Final

from msgspec import UNSET

from tracking.geo import distance
from tracking.ingest.kinematics import FASTEST, FREEZE, GRAIN, MOVING, PULL, TOP_SPEED, UNKNOWN_SPEED
from tracking.ingest.motion import Motion, time_of
from tracking.model import Fix

LOWEST: Final = -1_000.0
HIGHEST: Final = 20_000.0
"""The altitudes that are believed. The shore of the Dead Sea lies at -430, and a bad fix is some hundred metres off."""


def drop_untrue(fix: Fix) -> tuple[str, ...]:
    """Makes unknown each optional value that can't be true, as if it was left out. Returns those fields, mostly none.

    Devices report -1 for "not known" (iOS: speed, course, battery), and values that were never set. NaN is in no range.
    Accuracy has no upper limit: a huge one says by itself that the position is worth nothing, and `inaccurate` uses that.
    """
    dropped: tuple[str, ...] = ()
    speed = fix.speed
    if speed is not UNSET and not 0.0 <= speed <= FASTEST:
        fix.speed = UNSET
        dropped += ("speed",)
    bearing = fix.bearing
    if bearing is not UNSET and not 0.0 <= bearing <= 360.0:
        fix.bearing = UNSET
        dropped += ("bearing",)
    altitude = fix.altitude
    if altitude is not UNSET and not LOWEST <= altitude <= HIGHEST:
        fix.altitude = UNSET
        dropped += ("altitude",)
    battery = fix.battery
    if battery is not UNSET and not 0.0 <= battery <= 1.0:
        fix.battery = UNSET
        dropped += ("battery",)
    return dropped


def overstated(fix: Fix, motion: Motion) -> bool:
    """Whether the fix reports a speed that the receiver's own positions contradict.

    A speed is believed up to the last speed, or up to the measured speed since the last fix, plus `PULL` for each second.
    Above `TOP_SPEED` it must have been seen before or measured. The first fix of all has no position to compare with, so its
    speed is believed up to `UNKNOWN_SPEED`. A speed that is too low is no contradiction: then the position wanders.
    `Motion.move` finds smaller excesses that last.
    """
    speed = fix.speed
    assert speed is not UNSET
    if not motion.support:
        return not speed <= UNKNOWN_SPEED
    time = fix.fix_time
    if time <= motion.time:
        return not speed <= _max_credible(fix, motion.recent)
    seconds = (time - motion.time) * 0.001
    pull = PULL * (seconds + GRAIN)
    repeated = fix.latitude == motion.latitude and fix.longitude == motion.longitude
    # An assumed speed only keeps the vehicle within reach. It is no evidence for a reported speed.
    # `frozen` compares a reported speed with a position that does not move.
    known = motion.speed if motion.driven or repeated or motion.speed == motion.claimed else 0.0
    if speed <= known + pull and (speed <= TOP_SPEED or speed <= known):
        # A vehicle stands if its position is frozen for longer than receivers freeze.
        return speed >= MOVING and repeated and time > motion.time + FREEZE
    if not speed <= FASTEST:
        return True
    apart = distance(motion.latitude, motion.longitude, fix.latitude, fix.longitude)
    measured = apart / (seconds if seconds > GRAIN else GRAIN)
    known = max(known, measured)
    return not speed <= min(known + pull, max(TOP_SPEED, 1.25 * known))


def _max_credible(fix: Fix, recent: list[tuple[int, float, float]]) -> float:
    """The same limit for a fix that is not the newest, from the clean positions before and after it."""
    time = fix.fix_time
    index = bisect_right(recent, time, key=time_of)
    measured = UNKNOWN_SPEED if not recent else 0.0
    least = 0.0 if not recent else TOP_SPEED
    for neighbour in recent[max(index - 1, 0) : index + 1]:
        seconds = abs(time - neighbour[0]) * 0.001
        apart = distance(neighbour[1], neighbour[2], fix.latitude, fix.longitude)
        measured = max(measured, apart / max(seconds, GRAIN))
        least = min(least, seconds)
    return min(measured + PULL * (least + GRAIN), max(TOP_SPEED, 1.25 * measured), FASTEST)
