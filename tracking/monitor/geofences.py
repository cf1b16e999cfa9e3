"""Which geofences a vehicle enters and leaves with a move. Pure geometry: no I/O, no clock.

The segment between two positions crosses a fence, not only its ends. Places are only as good as the receiver's accuracy. So a
move counts only if it is clear of the edge by more than a *margin*, which is the accuracy, within limits.
Cut at the fence's edge, a move is a row of stretches that lie inside and outside by turns; a stretch decides where the vehicle
is

- where it is longer than twice the margin of the less accurate end of the move, or
- where it is the last one, and its end lies at least a margin from the edge.

Every other stretch leaves the vehicle where it was, so that one which is parked on the line does not flap.
"""

from collections.abc import Iterable, Sequence
from math import cos, hypot, radians
from typing import Any, NamedTuple

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from tracking.geo import METRES_PER_DEGREE, PlaceAt, around
from tracking.geojson import shape_of
from tracking.model import Geofence

DEFAULT_MARGIN = 10.0
"""Metres, for a position without an accuracy."""
MIN_MARGIN, MAX_MARGIN = 1.0, 50.0


class Move(NamedTuple):
    """From one position to the next. It has no start if the vehicle was not heard of before, or not for too long.

    Across the antimeridian the start lies beyond 180 degrees, as seen from the end.
    """

    start: PlaceAt | None
    end: PlaceAt
    accuracy: float | None
    accuracy_before: float | None = None
    """The accuracy at the start."""


class Fence:
    """One geofence, prepared for questions. Lengths are on a plane that is true to scale at its middle latitude.

    One that was cut at the antimeridian is whole here: its `shape` goes on past 180 degrees.
    """

    def __init__(self, geofence: Geofence, shape: BaseGeometry | None = None) -> None:
        """`shape` is the geofence's, if it is known. A large one takes a tenth of a second, so use a thread."""
        self.geofence = geofence
        shape = shape_of(geofence.geometry) if shape is None else shape
        self.speed_limit: float | None = geofence.properties.get("speed_limit")
        self.dwell_after: float | None = geofence.properties.get("dwell_after")
        self.shape = _joined(shape)
        self._middle = (self.shape.bounds[0] + self.shape.bounds[2]) / 2
        self._narrow = cos(radians((self.shape.bounds[1] + self.shape.bounds[3]) / 2)) * METRES_PER_DEGREE
        self._plane = shapely.transform(self.shape, lambda c: c * (self._narrow, METRES_PER_DEGREE))
        self._edge = self._plane.boundary
        rings = [shapely.get_coordinates(ring) for ring in shapely.get_parts(self._edge)]
        self._edge_begins = np.concatenate([ring[:-1] for ring in rings])
        self._edge_ends = np.concatenate([ring[1:] for ring in rings])
        for prepared in (self.shape, self._plane, self._edge):
            shapely.prepare(prepared)
        # Accuracy is capped, so that a vehicle can enter a small geofence.
        self._most_margin = min(MAX_MARGIN, max(map(_reach, shapely.get_parts(self._plane))) / 2)

        self._ask_once()

    def _ask_once(self) -> None:
        """GEOS builds its indices at the first question. This asks here, and not later on the event loop."""
        west, south, east, north = self.shape.bounds
        way = shapely.linestrings([(west, (south + north) / 2), (east, (south + north) / 2)])
        place = shapely.points(*self._edge_begins[0])
        # For a ring without an area GEOS divides by zero.
        with np.errstate(divide="ignore", invalid="ignore"):
            shapely.intersects(self.shape, way)
            shapely.contains_properly(self.shape, way)
            shapely.dwithin(self._edge, place, 1.0)
            shapely.intersects(self._plane, place)

    def margin(self, accuracy: float | None) -> float:
        """How many metres from the edge a place must be to count as inside or outside."""
        wanted = accuracy if accuracy is not None and accuracy > 0 else DEFAULT_MARGIN
        return max(min(wanted, self._most_margin), min(MIN_MARGIN, self._most_margin))

    def beside(self, longitude: float) -> float:
        """The same longitude, shifted by full turns to be nearest to the geofence."""
        return longitude + self._turns(longitude)

    def _turns(self, longitude: float) -> float:
        return 360.0 * round((self._middle - longitude) / 360.0)

    def walk(self, move: Move, inside: bool) -> list[bool]:
        """The crossings in the order of the way: True for each time it enters, False for each exit."""
        turns = self._turns(move.end[0])
        start = None if move.start is None else ((move.start[0] + turns) * self._narrow, move.start[1] * METRES_PER_DEGREE)
        margin = self.margin(move.accuracy)
        # Two places that are each within their accuracy of the edge are at most this far apart.
        long = 2 * (margin if start is None else max(margin, self.margin(move.accuracy_before)))
        x, y = (move.end[0] + turns) * self._narrow, move.end[1] * METRES_PER_DEGREE
        is_clear = not bool(shapely.dwithin(self._edge, shapely.points(x, y), margin))
        if start is None or hypot(start[0] - x, start[1] - y) <= long:
            # No stretch of it is long enough, so only its end counts.
            ends_inside = bool(shapely.intersects_xy(self._plane, x, y))
            return [ends_inside] if is_clear and ends_inside is not inside else []
        stretches = self._stretches(start, x, y)
        changes: list[bool] = []
        for number, (length, is_inside) in enumerate(stretches):
            if is_inside is inside:
                continue
            last = number == len(stretches) - 1
            if length > long or (last and is_clear):
                inside = is_inside
                changes.append(inside)
        return changes

    def standing(self, places: Sequence[PlaceAt], accuracies: Sequence[float | None]) -> list[bool | None]:
        """Whether each place is inside, as `walk` without a start decides. None: too near the edge."""
        points = np.array([(longitude + self._turns(longitude), latitude) for longitude, latitude in places])
        points *= (self._narrow, METRES_PER_DEGREE)
        margins = np.array([self.margin(accuracy) for accuracy in accuracies])
        at_edge: Any = shapely.dwithin(self._edge, shapely.points(points), margins)  # type: ignore[call-overload]
        insides: Any = shapely.intersects_xy(self._plane, points)
        return [None if edge else inside for edge, inside in zip(at_edge.tolist(), insides.tolist(), strict=True)]

    def _stretches(self, place: tuple[float, float], x: float, y: float) -> list[tuple[float, bool]]:
        """The stretches of the way from `place` to x, y: the length in metres, and whether it is inside. On the plane."""
        start = np.array(place)
        way = np.array([x, y]) - start
        # An overlay by shapely takes milliseconds for a geofence of many vertices, however short the way.
        begins, ends = self._edge_begins - start, self._edge_ends - start
        crossed = (_cross(way, begins) > 0) != (_cross(way, ends) > 0)
        begins, edges = begins[crossed], (ends - begins)[crossed]
        shares = _cross(begins, edges) / _cross(way, edges)
        cuts = np.concatenate(([0.0], np.sort(shares[(shares > 0) & (shares < 1)]), [1.0]))
        middles = start + way * ((cuts[:-1] + cuts[1:]) / 2)[:, np.newaxis]
        insides = shapely.intersects_xy(self._plane, middles)
        lengths = np.diff(cuts) * hypot(*way)
        stretches: list[tuple[float, bool]] = []
        for length, is_inside in zip(lengths.tolist(), insides.tolist(), strict=True):
            if stretches and (stretches[-1][1] is is_inside or length <= _NOTHING):
                stretches[-1] = stretches[-1][0] + length, stretches[-1][1]
            else:
                stretches.append((length, is_inside))
        return stretches


_TURN = np.array((360.0, 0.0))
"""Degrees of a full turn."""
_NOTHING = 1e-6
"""Metres: the rounding error of the arithmetic."""
MANY_VERTICES = 1_000


def _cross(one: Any, other: Any) -> Any:
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]


def _joined(shape: BaseGeometry) -> BaseGeometry:
    """Joins a shape that was cut at the antimeridian, with longitudes past 180 degrees."""
    parts = shapely.get_parts(shape)
    bounds = shapely.bounds(parts)
    western = bounds[:, 0] == -180.0
    if not (western.any() and (bounds[:, 2] == 180.0).any()):
        return shape
    # All parts of that side are shifted, because one may touch another.
    western = bounds[:, 2] <= 0.0
    moved = [shapely.transform(part, lambda c: c + _TURN) for part in parts[western]]
    joined: BaseGeometry = shapely.union_all([*parts[~western], *moved])
    return joined


def _reach(polygon: Any) -> float:
    """The radius of the largest circle in it."""
    if polygon.area < _NOTHING:
        return 0.0  # GEOS gives no number for such a part
    # A bound for margins need not be exact. A finer one takes seconds for a comb of 20,000 vertices.
    parts = 100 if shapely.get_num_coordinates(polygon) <= MANY_VERTICES else 20
    # For a hole without an area GEOS divides by zero, and finds the circle all the same.
    with np.errstate(divide="ignore", invalid="ignore"):
        circle = shapely.maximum_inscribed_circle(polygon, tolerance=float(polygon.area) ** 0.5 / parts)
    return float(circle.length)


class Fences:
    """The geofences of one fleet, in a tree by their bounds."""

    def __init__(self, fences: Iterable[Fence] = ()) -> None:
        self.by_id = {fence.geofence.geofence_id: fence for fence in fences}
        self.build()

    def build(self) -> None:
        """Builds the tree of all geofences."""
        self._list = list(self.by_id.values())
        self._shapes = np.array([fence.shape for fence in self._list], dtype=object)
        self._tree = shapely.STRtree(self._shapes)
        self._reaches_over = any(fence.shape.bounds[2] > 180.0 for fence in self._list)
        self.limit_speed = any(fence.speed_limit is not None for fence in self._list)
        """Whether a geofence of the fleet has a speed limit."""

    def put(self, fence: Fence, *, build: bool = True) -> None:
        """Without `build`, it is found only after `build` is called. This is for many at once."""
        self.by_id[fence.geofence.geofence_id] = fence
        if build:
            self.build()

    def remove(self, geofence_id: str) -> None:
        self.by_id.pop(geofence_id, None)
        self.build()

    def touched(self, moves: Sequence[Move]) -> list[dict[str, bool]]:
        """The geofences that each move touches, and whether it lies wholly within. All moves at once are quick."""
        found: list[dict[str, bool]] = [{} for _ in moves]
        if not self._list or not moves:
            return found
        ends = np.array([move.end for move in moves])
        starts = np.array([move.end if move.start is None else move.start for move in moves])
        segments, numbers = self._on_both_sides(np.stack((starts, ends), axis=1))
        ways: Any = shapely.linestrings(segments)
        still = (segments[:, 0] == segments[:, 1]).all(axis=1)
        if still.any():
            ways[still] = shapely.points(segments[still, 1])
        move_of, fence_of = self._tree.query(ways)
        shapes, ways = self._shapes[fence_of], ways[move_of]
        touch = shapely.intersects(shapes, ways)
        within = shapely.contains_properly(shapes, ways)
        for move, fence, wholly in zip(
            numbers[move_of[touch]].tolist(), fence_of[touch].tolist(), within[touch].tolist(), strict=True
        ):
            found[move][self._list[fence].geofence.geofence_id] = wholly
        return found

    def _on_both_sides(self, segments: Any) -> tuple[Any, Any]:
        """The moves with their indices. A move near the antimeridian comes a second time, shifted to the other side."""
        numbers = np.arange(len(segments))
        lows, highs = segments[:, :, 0].min(axis=1), segments[:, :, 0].max(axis=1)
        eastward = (lows < -180.0) | ((lows < 0.0) & self._reaches_over)
        westward = highs > 180.0
        if not (eastward.any() or westward.any()):
            return segments, numbers
        return (
            np.concatenate((segments, segments[eastward] + _TURN, segments[westward] - _TURN)),
            np.concatenate((numbers, numbers[eastward], numbers[westward])),
        )


def move_of(previous: PlaceAt | None, end: PlaceAt, accuracy: float | None, accuracy_before: float | None = None) -> Move:
    """A move by the short way. Across the antimeridian it begins past 180 degrees."""
    if previous is not None and abs(previous[0] - end[0]) > 180.0:
        previous = end[0] + around(previous[0] - end[0]), previous[1]
    return Move(previous, end, accuracy, accuracy_before)
