"""How a vehicle moves along a route: as fast as limits, bends and junctions allow, with bounded acceleration.

The whole motion is computed once. A position at any time is then a look-up.
"""

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from math import atan2, ceil, cos, degrees, radians, sqrt, tan
from typing import NamedTuple

from driver_sim.roads import Edge, Point, metres

ACCELERATION = 1.5
"""m/s²"""
BRAKING = 2.0
"""m/s²"""
SIDEWAYS = 2.2
"""m/s², the comfortable limit in a bend."""
ROUNDABOUT = 25 / 3.6
GIVE_WAY = 15 / 3.6
_STEP = 8.0
_LOOK = 2
"""Points before and after over which a bend is measured. A street is rounder than a corner of the drawn line."""
_CRAWL = 2.0

_CLASSES = ("living_street", "service", "residential", "unclassified", "tertiary", "secondary", "primary", "trunk", "motorway")


class Moment(NamedTuple):
    """Where a vehicle is: degrees, `speed` m/s, `bearing` clockwise from north, `travelled` metres, the edge it is on."""

    latitude: float
    longitude: float
    speed: float
    bearing: float
    travelled: float
    edge: Edge


class Motion:
    """From a standstill at the start of `edges` to one at their end. `haste` scales the speed limits.

    Raises `ValueError` without edges, or if an edge does not begin where the one before it ends.
    """

    def __init__(self, edges: Sequence[Edge], *, haste: float = 1.0) -> None:
        if not edges:
            raise ValueError("a motion needs at least one edge; got none")
        for before, after in itertools.pairwise(edges):
            if before.end != after.start:
                raise ValueError(f"edges must be connected; {before.end} is followed by {after.start}")
        points: list[Point] = []
        on: list[Edge] = []
        ceilings: list[float] = []
        previous: Edge | None = None
        for edge in edges:
            cruise = min(edge.limit * haste, ROUNDABOUT) if edge.roundabout else edge.limit * haste
            entry = min(cruise, GIVE_WAY) if previous is not None and _gives_way(previous, edge) else cruise
            for index, point in enumerate(_densified(edge.points)):
                if index == 0 and points:
                    ceilings[-1] = min(ceilings[-1], entry)
                    on[-1] = edge
                    continue
                points.append(point)
                on.append(edge)
                ceilings.append(cruise)
            previous = edge
        if len(points) < 2:
            raise ValueError("a motion needs a way of some length; got a single point")
        if len(points) == 2:
            # Both ends are standstills. The vehicle needs a point between them at which it moves.
            points.insert(1, ((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2))
            on.insert(1, on[0])
            ceilings.insert(1, ceilings[0])
        self.points = points
        self._on = on
        self._at = _distances(points)
        self._speeds = _speeds(points, self._at, ceilings)
        self._times = [0.0]
        for index in range(1, len(points)):
            step = self._at[index] - self._at[index - 1]
            self._times.append(self._times[-1] + 2 * step / (self._speeds[index - 1] + self._speeds[index]))
        self.duration = self._times[-1]
        """Seconds."""
        self.length = self._at[-1]
        """Metres."""

    def at(self, seconds: float) -> Moment:
        """Where the vehicle is `seconds` after its departure. Before it stands at the start, afterwards at the end."""
        seconds = min(max(seconds, 0.0), self.duration)
        index = min(bisect_right(self._times, seconds), len(self._times) - 1) - 1
        lasts = self._times[index + 1] - self._times[index]
        since = seconds - self._times[index]
        rate = (self._speeds[index + 1] - self._speeds[index]) / lasts
        speed = self._speeds[index] + rate * since
        driven = self._speeds[index] * since + rate * since * since / 2
        share = driven / (self._at[index + 1] - self._at[index])
        one, other = self.points[index], self.points[index + 1]
        return Moment(
            one[0] + (other[0] - one[0]) * share,
            one[1] + (other[1] - one[1]) * share,
            max(0.0, speed),
            bearing(one, other),
            self._at[index] + driven,
            self._on[index],
        )


def bearing(one: Point, other: Point) -> float:
    """Degrees clockwise from north, 0 <= bearing < 360."""
    east = (other[1] - one[1]) * cos(radians((one[0] + other[0]) / 2))
    return degrees(atan2(east, other[0] - one[0])) % 360.0


def _gives_way(before: Edge, after: Edge) -> bool:
    """A driver slows when turning into a bigger road, and when entering a roundabout."""
    if after.roundabout:
        return not before.roundabout
    return not before.roundabout and _rank(after) > _rank(before) and before.name != after.name


def _rank(edge: Edge) -> int:
    highway = edge.highway.removesuffix("_link")
    return _CLASSES.index(highway) if highway in _CLASSES else 0


def _densified(points: Sequence[Point]) -> list[Point]:
    """Points at most a step apart, so that a vehicle can accelerate and brake on a long straight."""
    dense = [points[0]]
    for one, other in itertools.pairwise(points):
        gap = metres(one, other)
        if gap < 0.01:
            continue
        steps = max(1, ceil(gap / _STEP))
        dense += [
            (one[0] + (other[0] - one[0]) * step / steps, one[1] + (other[1] - one[1]) * step / steps)
            for step in range(1, steps + 1)
        ]
    return dense


def _distances(points: Sequence[Point]) -> list[float]:
    at = [0.0]
    for one, other in itertools.pairwise(points):
        at.append(at[-1] + metres(one, other))
    return at


def _speeds(points: Sequence[Point], at: Sequence[float], ceilings: Sequence[float]) -> list[float]:
    """Lower the ceilings in two passes: backwards to what braking allows, forwards to what acceleration allows."""
    speeds = list(ceilings)
    for index in range(1, len(points) - 1):
        # At a sign the lower of both limits holds.
        before, after = points[max(0, index - _LOOK)], points[min(index + _LOOK, len(points) - 1)]
        speeds[index] = min(ceilings[index], ceilings[index + 1], _bend(before, points[index], after))
    speeds[0] = speeds[-1] = 0.0
    for index in range(len(points) - 2, -1, -1):
        speeds[index] = min(speeds[index], sqrt(speeds[index + 1] ** 2 + 2 * BRAKING * (at[index + 1] - at[index])))
    for index in range(1, len(points)):
        speeds[index] = min(speeds[index], sqrt(speeds[index - 1] ** 2 + 2 * ACCELERATION * (at[index] - at[index - 1])))
    return speeds


def _bend(before: Point, here: Point, after: Point) -> float:
    """The speed that a bend allows. Its radius is that of the circle touching both sides at half of the shorter one."""
    turn = abs((bearing(here, after) - bearing(before, here) + 180.0) % 360.0 - 180.0)
    if turn < 1.0:
        return float("inf")
    radius = min(metres(before, here), metres(here, after)) / 2 / tan(radians(min(turn, 178.0)) / 2)
    return max(_CRAWL, sqrt(SIDEWAYS * radius))
