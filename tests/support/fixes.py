"""Fixes of one vehicle for tests of the filters, and the verdicts of the filters."""

import math
from collections.abc import Iterable, Iterator

from msgspec import UNSET, UnsetType

from tracking.ingest.filters import judge
from tracking.ingest.motion import Motion
from tracking.model import Fix, Suspicion

NOW = 1_800_000_000_000
LATITUDE, LONGITUDE = 41.14, -8.61
DAY = 24 * 3_600_000
DEGREE = 111_195.0
"""Metres of latitude."""

Judged = tuple[tuple[Suspicion, ...], bool]
CLEAN_LIVE: Judged = ((), True)
CLEAN_LATE: Judged = ((), False)


def fix(
    seconds: float = 0.0,
    north: float = 0.0,
    east: float = 0.0,
    *,
    speed: float | UnsetType = UNSET,
    accuracy: float | UnsetType = UNSET,
    latitude: float = LATITUDE,
    longitude: float = LONGITUDE,
) -> Fix:
    """A fix some seconds after NOW, some metres from the place where these tests start."""
    return Fix(
        seq=1,
        fix_time=NOW + round(seconds * 1000),
        latitude=latitude + north / DEGREE,
        longitude=longitude + east / (DEGREE * math.cos(math.radians(latitude))),
        accuracy=accuracy,
        speed=speed,
    )


def mirrored(given: Fix) -> Fix:
    return Fix(given.seq, given.fix_time, given.longitude, given.latitude)


def run(fixes: Iterable[Fix], motion: Motion | None = None, session: int = 1) -> list[Judged]:
    motion = Motion() if motion is None else motion
    return [judge(each, motion, session, each.fix_time) for each in fixes]


def drive(speed: float = 10.0, count: int = 8, every: float = 5.0, start: float = 0.0) -> Iterator[Fix]:
    """Fixes of a steady drive northward from the place where these tests start."""
    for number in range(count):
        yield fix(start + number * every, north=speed * number * every)


def driven(speed: float = 10.0, count: int = 8, every: float = 5.0) -> Motion:
    motion = Motion()
    assert all(verdict == CLEAN_LIVE for verdict in run(drive(speed, count, every), motion))
    return motion
