"""Jumps in a row: positions that the vehicle can't have reached from its anchor. They may be where the vehicle is now.

[Why standing receivers are judged like this](../../docs/decisions/0007-receiver-noise.md).
"""

from typing import Final

from msgspec import UNSET

from tracking.geo import distance
from tracking.ingest.kinematics import FASTEST, GRAIN, NOISE, STRAIGHT, UNKNOWN_SPEED, reach
from tracking.model import Fix

AGREEING: Final = 3
"""So many jumps in a row that agree replace the anchor: the vehicle was towed, or the anchor was wrong."""
GIVE_UP: Final = 6
"""So many jumps in a row replace the anchor even if they do not agree."""
DRIVEN_FIXES: Final = 5
DRIVEN: Final = 200.0
"""Metres. Jumps that drive replace the anchor sooner: `DRIVEN_FIXES` agree, and the last is this far from the first.

They also lie nearly in line (`STRAIGHT`). This is the pattern after a tunnel in which the receiver repeated its position.
A position from a cell tower or a reflection does not drive on.
"""


class Rival:
    """Jumps in a row. The last ones, which agree with each other, form a path of `way` metres that starts at `begin`."""

    __slots__ = (
        "agreeing",
        "begin",
        "begin_latitude",
        "begin_longitude",
        "first",
        "jumps",
        "latitude",
        "longest",
        "longitude",
        "speed",
        "time",
        "way",
    )
    begin: int
    begin_latitude: float
    begin_longitude: float
    latitude: float
    longest: float
    longitude: float
    time: int
    way: float

    def __init__(self, speed: float, first: int) -> None:
        self.first = first
        self.jumps = 0
        self.agreeing = 0
        self.speed = max(speed, UNKNOWN_SPEED)
        self.time = self.begin = 0
        self.latitude = self.begin_latitude = 0.0
        self.longitude = self.begin_longitude = 0.0
        self.way = self.longest = 0.0

    def add(self, fix: Fix) -> None:
        """Adds the next jump. It agrees with the last one if it is within reach of it."""
        reported = fix.speed
        speed = self.speed if reported is UNSET else reported
        agrees = False
        if self.jumps:
            seconds = abs(fix.fix_time - self.time) * 0.001
            apart = distance(self.latitude, self.longitude, fix.latitude, fix.longitude)
            agrees = apart <= NOISE + reach(self.speed if reported is UNSET else max(self.speed, speed), seconds)
            if reported is UNSET:
                speed = min(apart / (seconds + GRAIN), FASTEST)
        if agrees:
            self.agreeing += 1
            self.way += apart
            self.longest = max(self.longest, apart)
        else:
            self.agreeing = 1
            self.begin = fix.fix_time
            self.begin_latitude = fix.latitude
            self.begin_longitude = fix.longitude
            self.way = self.longest = 0.0
        self.jumps += 1
        self.time = fix.fix_time
        self.latitude = fix.latitude
        self.longitude = fix.longitude
        self.speed = speed

    def drives(self) -> bool:
        """Whether the agreeing jumps lie along a path, as a vehicle's do, and not around one or two places."""
        if self.agreeing < DRIVEN_FIXES or self.way < DRIVEN or 2 * self.longest > self.way:
            return False
        away = distance(self.begin_latitude, self.begin_longitude, self.latitude, self.longitude)
        return away >= DRIVEN and away >= STRAIGHT * self.way

    def outweighs(self, needed: int, hold: int) -> bool:
        """Whether these jumps replace an anchor: `needed` agree, and they have gone on for `hold` ms or drive."""
        return (
            (self.agreeing >= needed and self.time - self.begin >= hold)
            or (self.jumps >= max(GIVE_UP, needed) and self.time - self.first >= hold)
            or (self.agreeing >= needed and self.drives())
        )
