"""Vehicles that stand for hours, as bad receivers see them, and vehicles that leave tunnels and ferries.

A parked receiver *wanders* around its place. Reflections cause *excursions* of up to 300 m. For a few fixes it *bounces* to a
mast some kilometres away. It begins with five calm minutes, and is calm between these errors. A seed decides all of it.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import UNSET

from tracking.geo import METRES_PER_DEGREE, distance
from tracking.ingest.filters import judge
from tracking.ingest.motion import Motion
from tracking.model import Fix

BEGIN = 1_800_000_000_000
HOME = 47.141, 9.521
NARROW = METRES_PER_DEGREE * math.cos(math.radians(HOME[0]))


def place(north: float, east: float) -> tuple[float, float]:
    return HOME[0] + north / METRES_PER_DEGREE, HOME[1] + east / NARROW


def off(fix: Fix) -> float:
    """Metres from the place where it stands."""
    return distance(*HOME, fix.latitude, fix.longitude)


@dataclass
class Parked:
    """A fix every `every` s. Its error has `sigma` m in each direction, and a time constant of `memory` s (0: none).

    `reports`: it reports speeds and accuracies. Those of a bad receiver look as good in a bounce as elsewhere.
    """

    seed: int
    every: float = 5.0
    sigma: float = 10.0
    memory: float = 120.0
    reports: bool = False
    hours: float = 8.0
    excursions: float = 6.0
    bounces: float = 5.0
    """Both are per hour."""

    def fixes(self, begin: float = 0.0) -> Iterator[Fix]:
        chance = random.Random(self.seed)
        keep = math.exp(-self.every / self.memory) if self.memory else 0.0
        fresh = self.sigma * math.sqrt(1 - keep * keep)
        north = east = 0.0
        astray, left, calm = (0.0, 0.0), 0, 300.0
        count = int(self.hours * 3600 / self.every)
        for number in range(count):
            north = keep * north + chance.gauss(0, fresh)
            east = keep * east + chance.gauss(0, fresh)
            speed = abs(chance.gauss(0, 0.3))
            if not left:
                astray = 0.0, 0.0
                which = chance.random() * 3600 / self.every
                if calm > 0:
                    calm -= self.every
                else:
                    if which < self.excursions:
                        left = chance.randint(1, 6)
                        astray = _somewhere(chance, 50, 300)
                    elif which < self.excursions + self.bounces:
                        left = chance.randint(3, 10)
                        astray = _somewhere(chance, 1_500, 6_000)
            else:
                left -= 1
                calm = 60.0
            if math.hypot(*astray) > 1_000:
                speed = chance.uniform(0, 30)
            noise = 1.0 if self.memory else 0.0
            latitude, longitude = place(north + astray[0] + chance.gauss(0, noise), east + astray[1] + chance.gauss(0, noise))
            yield Fix(
                number + 1,
                BEGIN + round((begin + number * self.every) * 1000),
                latitude,
                longitude,
                accuracy=5.0 if self.reports else UNSET,
                speed=speed if self.reports else UNSET,
            )


def _somewhere(chance: random.Random, least: float, most: float) -> tuple[float, float]:
    angle, metres = chance.uniform(0, 2 * math.pi), chance.uniform(least, most)
    return metres * math.cos(angle), metres * math.sin(angle)


@dataclass
class Shown:
    """What the filters decided: which fixes moved the marker, and how many were doubted."""

    live: list[Fix] = field(default_factory=list)
    doubted: int = 0

    @property
    def distance(self) -> float:
        """Metres along all shown fixes."""
        return sum(
            distance(a.latitude, a.longitude, b.latitude, b.longitude) for a, b in zip(self.live, self.live[1:], strict=False)
        )

    def beyond(self, metres: float) -> int:
        """How many of the shown fixes are farther than this from where it stands."""
        return sum(off(each) > metres for each in self.live)


def shown(fixes: Iterator[Fix], motion: Motion | None = None) -> Shown:
    motion = Motion() if motion is None else motion
    result = Shown()
    for each in fixes:
        _, live = judge(each, motion, 1, each.fix_time)
        if live:
            result.live.append(each)
        else:
            result.doubted += 1
    return result


@dataclass
class Tunnel:
    """A vehicle drives at `speed` m/s. For `seconds` nothing is received, or, if `held`, the last place again and again.

    Then it drives on from where it is by then.
    """

    seconds: float
    speed: float = 15.0
    every: float = 1.0
    held: bool = False
    reports: bool = False
    before: float = 120.0
    after: float = 300.0

    def fixes(self) -> tuple[list[Fix], list[Fix]]:
        """The fixes up to the end of the tunnel, and those after it."""
        return list(self._between(0, self.before + self.seconds)), list(
            self._between(self.before + self.seconds, self.before + self.seconds + self.after)
        )

    def _between(self, begin: float, end: float) -> Iterator[Fix]:
        chance = random.Random(round(begin + self.seconds))
        for number in range(math.ceil(begin / self.every), math.ceil(end / self.every)):
            seconds = number * self.every
            inside = self.before <= seconds < self.before + self.seconds
            if inside and not self.held:
                continue
            way = self.speed * (self.before if inside else seconds)
            noise = 0.0 if inside else 3.0
            latitude, longitude = place(way + chance.gauss(0, noise), chance.gauss(0, noise))
            yield Fix(
                number + 1,
                BEGIN + round(seconds * 1000),
                latitude,
                longitude,
                speed=(0.0 if inside else self.speed) if self.reports else UNSET,
            )


def seconds_until_shown(tunnel: Tunnel) -> float:
    """From the end of the tunnel to the first shown place after it. All later ones must be shown."""
    before, after = tunnel.fixes()
    motion = Motion()
    shown(iter(before), motion)
    verdicts = [judge(each, motion, 1, each.fix_time)[1] for each in after]
    first = verdicts.index(True) if True in verdicts else len(verdicts)
    return (after[first].fix_time - after[0].fix_time) / 1000 if all(verdicts[first:]) and first < len(after) else math.inf
