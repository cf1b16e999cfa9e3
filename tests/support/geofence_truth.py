"""What a vehicle enters and leaves, computed slowly from the definition: every move is tested against every edge."""

from itertools import pairwise
from math import cos, hypot, radians
from typing import Any, NamedTuple

import shapely

METRES = 111_195.080
"""Metres in a degree of latitude, on a sphere with a radius of 6,371,008.8 m."""
LONGEST_GAP_MS = 300_000


class Seen(NamedTuple):
    """A received position. `accuracy` is in metres, and None if the receiver gives none."""

    vehicle_id: str
    fix_time: int
    longitude: float
    latitude: float
    accuracy: float | None = None


class Ground:
    """A fence on a plane in metres, true to scale at its middle latitude."""

    def __init__(self, geometry: dict[str, Any]) -> None:
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        latitudes = [place[1] for polygon in polygons for place in polygon[0]]
        self.scale = cos(radians((min(latitudes) + max(latitudes)) / 2)) * METRES
        self.edges: list[tuple[float, float, float, float]] = []
        self.reach = 0.0
        for polygon in polygons:
            rings = [[self.place(*place[:2]) for place in ring] for ring in polygon]
            for ring in rings:
                self.edges += [(*one, *other) for one, other in pairwise(ring)]
            shape = shapely.Polygon(rings[0], rings[1:])
            parts = 100 if sum(map(len, rings)) <= 1_000 else 20
            circle = shapely.maximum_inscribed_circle(shape, tolerance=shape.area**0.5 / parts)
            self.reach = max(self.reach, float(circle.length))
        xs, ys = [e[0] for e in self.edges], [e[1] for e in self.edges]
        self.box = min(xs), min(ys), max(xs), max(ys)

    def place(self, longitude: float, latitude: float) -> tuple[float, float]:
        return longitude * self.scale, latitude * METRES

    def holds(self, x: float, y: float) -> bool:
        """A point is inside if a ray to the east crosses an odd number of edges."""
        odd = False
        for x1, y1, x2, y2 in self.edges:
            if (y1 > y) is not (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
                odd = not odd
        return odd

    def to_edge(self, x: float, y: float) -> float:
        return min(_to_segment(x, y, *edge) for edge in self.edges)

    def margin(self, accuracy: float | None) -> float:
        """The accuracy, or 10 m if there is none. It is limited to 1..50 m and to half of the reach."""
        wanted = accuracy if accuracy else 10.0
        return min(max(1.0, min(50.0, wanted)), self.reach / 2)

    def stretches(self, start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, bool]]:
        """The way between two points, cut at every edge. Each piece is its length, and whether it is inside."""
        (x1, y1), (x2, y2) = start, end
        cuts = sorted([0.0, 1.0, *(cut for edge in self.edges if (cut := _meets(x1, y1, x2, y2, *edge)) is not None)])
        whole = hypot(x2 - x1, y2 - y1)
        pieces: list[tuple[float, bool]] = []
        for one, other in pairwise(cuts):
            if (other - one) * whole < 1e-6:
                continue
            middle = (one + other) / 2
            inside = self.holds(x1 + (x2 - x1) * middle, y1 + (y2 - y1) * middle)
            length = (other - one) * whole
            if pieces and pieces[-1][1] is inside:
                length += pieces.pop()[0]
            pieces.append((length, inside))
        return pieces or [(0.0, self.holds(x2, y2))]

    def is_far(self, *places: tuple[float, float]) -> bool:
        """No part of the way is inside, because all of it lies beside the fence."""
        west, south, east, north = self.box
        xs, ys = [x for x, _ in places], [y for _, y in places]
        return max(xs) < west or min(xs) > east or max(ys) < south or min(ys) > north

    def changes(self, before: Seen | None, now: Seen, inside: bool) -> list[bool]:
        """True for each entry and False for each exit, in order."""
        end = self.place(now.longitude, now.latitude)
        if before is not None and now.fix_time - before.fix_time > LONGEST_GAP_MS:
            before = None
        start = end if before is None else self.place(before.longitude, before.latitude)
        if not inside and self.is_far(start, end):
            return []
        margin = self.margin(now.accuracy)
        worse = margin if before is None else max(margin, self.margin(before.accuracy))
        pieces = self.stretches(start, end)
        told = []
        for number, (length, is_inside) in enumerate(pieces):
            ends_clear = number == len(pieces) - 1 and self.to_edge(*end) >= margin
            if (length > 2 * worse or ends_clear) and is_inside is not inside:
                inside = is_inside
                told.append(inside)
        return told


def _meets(x1: float, y1: float, x2: float, y2: float, x3: float, y3: float, x4: float, y4: float) -> float | None:
    """The share of the way from 1 to 2 at which it crosses the segment from 3 to 4."""
    across = (x2 - x1) * (y4 - y3) - (y2 - y1) * (x4 - x3)
    if across == 0:
        return None
    along = ((x3 - x1) * (y4 - y3) - (y3 - y1) * (x4 - x3)) / across
    beside = ((x3 - x1) * (y2 - y1) - (y3 - y1) * (x2 - x1)) / across
    return along if 0 <= along <= 1 and 0 <= beside <= 1 else None


def _to_segment(x: float, y: float, x1: float, y1: float, x2: float, y2: float) -> float:
    length = hypot(x2 - x1, y2 - y1)
    if length == 0:
        return hypot(x - x1, y - y1)
    share = max(0.0, min(1.0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length**2))
    return hypot(x - x1 - share * (x2 - x1), y - y1 - share * (y2 - y1))


Told = tuple[str, str, int, bool]
"""Vehicle, fence, fix time, and whether it entered."""


def truth(fences: dict[str, dict[str, Any]], seen: list[Seen]) -> set[tuple[int, *Told]]:
    """Each event with its number among the events of its vehicle and fence."""
    events: set[tuple[int, *Told]] = set()
    for geofence_id, geometry in fences.items():
        ground = Ground(geometry)
        last: dict[str, Seen] = {}
        inside: dict[str, bool] = {}
        count: dict[str, int] = {}
        for position in seen:
            vehicle_id = position.vehicle_id
            for entered in ground.changes(last.get(vehicle_id), position, inside.get(vehicle_id, False)):
                inside[vehicle_id] = entered
                count[vehicle_id] = count.get(vehicle_id, 0) + 1
                events.add((count[vehicle_id], vehicle_id, geofence_id, position.fix_time, entered))
            last[vehicle_id] = position
    return events
