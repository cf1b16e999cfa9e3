"""What vehicles and receivers can do: speeds, accelerations, and how far a vehicle gets in an interval.

Lengths are m, speeds m/s, accelerations m/s². The tests measure these thresholds on real traces.
"""

from typing import Final

NOISE: Final = 100.0
"""Metres that two honest fixes of a standing vehicle may lie apart: 3 sigma between tall buildings, with about 20 m each."""
ACCELERATION: Final = 2.0
"""What a road vehicle sustains over a whole interval: 0 to 100 km/h in 14 s. It exceeds this for a few seconds only."""
TOP_SPEED: Final = 50.0
"""180 km/h. No road vehicle averages more, unless it reports so or was measured at that speed."""
FASTEST: Final = 150.0
"""The highest reported speed that is believed. It is above every train in service; the French record of 2007 is 160."""
PULL: Final = 4.0
"""What a road vehicle does for a few seconds, along its course or across it. Full braking is twice that, and rare."""
STRAIGHT: Final = 0.8
"""The smallest ratio of chord to distance driven within seconds: a turn at `PULL` bends no more than that."""
UNKNOWN_SPEED: Final = 25.0
"""The assumed speed of a vehicle of which one position is known."""
GRAIN: Final = 1.0
"""Seconds. Many receivers round their times to whole seconds, so every interval may be that much longer."""
MOVING: Final = 3.0
"""From this speed on a vehicle drives and does not just creep."""
FREEZE: Final = 180_000
"""Ms. After this time at the same coordinates the vehicle stands, whatever was assumed before."""


def reach(speed: float, seconds: float) -> float:
    """How far a vehicle gets that drove at `speed` before, if it accelerates."""
    seconds += GRAIN
    average = speed + 0.5 * ACCELERATION * seconds
    if average > TOP_SPEED:
        average = max(TOP_SPEED, 1.25 * speed)
    return average * seconds
