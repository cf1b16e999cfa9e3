"""Why a fix is rejected: its place is none, or its time is too far off. A rejected fix is acknowledged and thrown away.

`REJECTIONS` lists the reasons in the order in which they are reported. Instants are ms since 1970-01-01 UTC, durations ms.
"""

from collections.abc import Callable
from typing import Final

from msgspec import UNSET

from tracking.errors import ErrorCode
from tracking.model import Fix

CLOCK_SKEW: Final = 60_000
"""How far ahead of the hub's clock a fix may be, because some phones run fast (PROTOCOL: `clock_skew`)."""
TOO_OLD: Final = 7 * 24 * 3_600_000
"""The age of the oldest fix that is accepted (PROTOCOL: `too_old`)."""


def out_of_range(fix: Fix, now: int) -> str | None:
    """The coordinates are no place, or the receiver marks them as void by a negative accuracy. NaN is in no range."""
    if not -90.0 <= fix.latitude <= 90.0:
        detail = f"`latitude` must be -90 to 90 degrees; got {fix.latitude}"
        return f"{detail}: are latitude and longitude exchanged?" if -90.0 <= fix.longitude <= 90.0 else detail
    if not -180.0 <= fix.longitude <= 180.0:
        return f"`longitude` must be -180 to 180 degrees; got {fix.longitude}"
    accuracy = fix.accuracy
    if accuracy is not UNSET and not accuracy >= 0.0:
        return f"`accuracy` must be 0 metres or more; got {accuracy}: leave it out where it is not known"
    return None


def clock_skew(fix: Fix, now: int) -> str | None:
    """The fix is ahead of the hub's clock by more than a phone that runs fast."""
    ahead = fix.fix_time - now
    if ahead > CLOCK_SKEW:
        return f"`fix_time` is {ahead} ms ahead of the hub's clock, at most {CLOCK_SKEW} are taken: set the device's clock"
    return None


def too_old(fix: Fix, now: int) -> str | None:
    """The fix is older than the hub accepts."""
    age = now - fix.fix_time
    if age > TOO_OLD:
        return f"`fix_time` is {age} ms old, at most {TOO_OLD} (7 days) are taken; it must be ms since 1970-01-01 UTC"
    return None


REJECTIONS: tuple[tuple[ErrorCode, Callable[[Fix, int], str | None]], ...] = (
    (ErrorCode.OUT_OF_RANGE, out_of_range),
    (ErrorCode.CLOCK_SKEW, clock_skew),
    (ErrorCode.TOO_OLD, too_old),
)


def reject(fix: Fix, now: int) -> tuple[ErrorCode, str] | None:
    """The first reason to throw the fix away, with a detail for the sender; None if there is no reason."""
    accuracy = fix.accuracy
    if (
        -90.0 <= fix.latitude <= 90.0
        and -180.0 <= fix.longitude <= 180.0
        and now - TOO_OLD <= fix.fix_time <= now + CLOCK_SKEW
        and (accuracy is UNSET or accuracy >= 0.0)
    ):
        return None  # Nearly all fixes end here, which saves a call for each reason.
    for code, predicate in REJECTIONS:
        detail = predicate(fix, now)
        if detail is not None:
            return code, detail
    return None
