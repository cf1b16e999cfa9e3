"""A phone's satellite receiver and what else it knows of itself: noise, accuracy, altitude, battery, dead zones."""

import random
from collections.abc import Sequence
from math import cos, exp, hypot, radians, sqrt
from typing import NamedTuple

from driver_sim.motion import Moment
from driver_sim.roads import METRES_PER_DEGREE, Point, metres

#: Places and their height in metres: enough of Liechtenstein's relief for a believable altitude.
_HEIGHTS: tuple[tuple[Point, float], ...] = (
    ((47.2380, 9.5270), 433.0),  # Ruggell
    ((47.2310, 9.5460), 626.0),  # Schellenberg
    ((47.2180, 9.5440), 450.0),  # Mauren
    ((47.2110, 9.5220), 445.0),  # Eschen
    ((47.1970, 9.5430), 455.0),  # Nendeln
    ((47.1850, 9.5440), 786.0),  # Planken
    ((47.1650, 9.5090), 450.0),  # Schaan
    ((47.1410, 9.5210), 455.0),  # Vaduz
    ((47.1390, 9.5090), 448.0),  # the Rhine at Vaduz
    ((47.1180, 9.5430), 884.0),  # Triesenberg
    ((47.1070, 9.5280), 463.0),  # Triesen
    ((47.1110, 9.5720), 1300.0),  # Steg
    ((47.1030, 9.6080), 1602.0),  # Malbun
    ((47.0660, 9.5020), 472.0),  # Balzers
)

_WANDERS_FOR = 40.0
"""Seconds after which the position error has forgotten most of itself: reflections change as the vehicle moves on."""


class Reading(NamedTuple):
    """What the receiver says; degrees, metres, m/s, `battery` 0..1. No bearing while standing: a receiver has none then."""

    latitude: float
    longitude: float
    accuracy: float
    altitude: float
    speed: float
    bearing: float | None
    battery: float


class DeadZone(NamedTuple):
    """A circle without a mobile network; fixes taken in it arrive late."""

    centre: Point
    radius: float

    def covers(self, point: Point) -> bool:
        return metres(self.centre, point) <= self.radius


class Receiver:
    """Turns true moments into readings with an error that wanders, rather than jumps, from one to the next.

    The error east and north is a first-order Gauss-Markov process with `sigma` metres. Source: R. G. Brown, P. Y. C. Hwang,
    "Introduction to Random Signals and Applied Kalman Filtering" (2012), section 4.2.
    """

    def __init__(self, rng: random.Random, *, sigma: float | None = None) -> None:
        self._rng = rng
        self._sigma = rng.uniform(1.5, 3.5) if sigma is None else sigma
        self._east = rng.gauss(0.0, self._sigma)
        self._north = rng.gauss(0.0, self._sigma)
        self._upward = rng.gauss(0.0, 2 * self._sigma)
        self._battery = rng.uniform(0.45, 0.98)
        self._charging = rng.random() < 0.5

    def read(self, moment: Moment, since: float) -> Reading:
        """What is seen at a true moment, `since` seconds after the reading before it."""
        kept = exp(-max(since, 0.0) / _WANDERS_FOR)
        fresh = sqrt(1.0 - kept * kept)
        self._east = kept * self._east + fresh * self._rng.gauss(0.0, self._sigma)
        self._north = kept * self._north + fresh * self._rng.gauss(0.0, self._sigma)
        self._upward = kept * self._upward + fresh * self._rng.gauss(0.0, 2 * self._sigma)
        speed = max(0.0, moment.speed + self._rng.gauss(0.0, 0.15)) if moment.speed > 0.3 else 0.0
        bearing = None
        if speed > 1.0:
            # The slower, the vaguer: the error of a velocity's direction is its sideways error over its size.
            bearing = round((moment.bearing + self._rng.gauss(0.0, 20.0 / (speed + 2.0))) % 360.0, 1) % 360.0
        return Reading(
            latitude=round(moment.latitude + self._north / METRES_PER_DEGREE, 7),
            longitude=round(moment.longitude + self._east / METRES_PER_DEGREE / cos(radians(moment.latitude)), 7),
            accuracy=round(max(2.0, hypot(self._east, self._north) * self._rng.uniform(0.9, 1.6) + self._sigma), 1),
            altitude=round(height((moment.latitude, moment.longitude)) + self._upward, 1),
            speed=round(speed, 2),
            bearing=bearing,
            battery=self._discharge(since),
        )

    def _discharge(self, since: float) -> float:
        """10 % an hour down, 40 % an hour up on the vehicle's charger."""
        self._battery += since / 3600.0 * (0.4 if self._charging else -0.1)
        if self._battery < 0.2:
            self._charging = True
        elif self._battery >= 1.0:
            self._charging = False
        self._battery = min(1.0, max(0.0, self._battery))
        return round(self._battery, 3)


def height(point: Point) -> float:
    """Metres above the sea, from the heights of villages weighted by the inverse square of their distance."""
    weights = [1.0 / (metres(place, point) ** 2 + 10_000.0) for place, _ in _HEIGHTS]
    return sum(weight * above for weight, (_, above) in zip(weights, _HEIGHTS, strict=True)) / sum(weights)


def dead_zones(rng: random.Random, places: Sequence[Point], count: int = 3, spare: Sequence[Point] = ()) -> list[DeadZone]:
    """Some circles of 150 to 300 m around some of `places`, none within 2 km of a place to be spared."""
    open_to = [place for place in places if all(metres(place, kept) > 2_000.0 for kept in spare)]
    return [DeadZone(centre, rng.uniform(150.0, 300.0)) for centre in rng.sample(open_to, min(count, len(open_to)))]
