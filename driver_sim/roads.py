"""The road network: junctions, one-way edges between them, and the fastest way from one to another.

The data are OpenStreetMap's (© OpenStreetMap contributors, ODbL), cut at junctions.
"""

import gzip
import heapq
import itertools
import json
from collections.abc import Sequence
from math import cos, hypot, radians
from pathlib import Path
from typing import Any, NamedTuple

ROADS_FILE = Path(__file__).with_name("liechtenstein_roads.geojson.gz")

METRES_PER_DEGREE = 111_195.0

#: Speed limits, km/h, where the map has none: Liechtenstein's general limit in built-up areas is 50, outside 80.
_LIMIT_OF_CLASS = {
    "motorway": 120.0,
    "trunk": 80.0,
    "primary": 60.0,
    "secondary": 60.0,
    "tertiary": 50.0,
    "unclassified": 50.0,
    "residential": 40.0,
    "living_street": 20.0,
    "service": 20.0,
}
_JUNCTION_SECONDS = 2.0

Point = tuple[float, float]
"""`(latitude, longitude)` in degrees."""


class NoRoute(Exception):
    """There is no way between two junctions."""


class Edge(NamedTuple):
    """A piece of road in the direction it is driven in. `points` from start to end; `length` metres; `limit` m/s."""

    start: int
    end: int
    points: tuple[Point, ...]
    length: float
    limit: float
    name: str
    highway: str
    tunnel: bool
    roundabout: bool

    @property
    def seconds(self) -> float:
        """Travel time at the limit, and what a junction costs."""
        return self.length / self.limit + _JUNCTION_SECONDS


class RoadGraph:
    """Junctions by number and the edges that leave them."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.leaving: dict[int, list[Edge]] = {}
        self.nodes: dict[int, Point] = {}
        for edge in edges:
            self.leaving.setdefault(edge.start, []).append(edge)
            self.leaving.setdefault(edge.end, [])
            self.nodes[edge.start] = edge.points[0]
            self.nodes[edge.end] = edge.points[-1]
        self._fastest = max((edge.limit for edge in edges), default=1.0)

    @classmethod
    def load(cls, path: Path = ROADS_FILE) -> "RoadGraph":
        """From a GeoJSON FeatureCollection of LineStrings with `u`, `v`, `oneway`, `highway` and more; gzip or plain."""
        raw = path.read_bytes()
        tree = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        return cls([edge for feature in tree["features"] for edge in _edges(feature)])

    def nearest(self, latitude: float, longitude: float) -> int:
        """The junction closest to a place. Raises `ValueError` for an empty graph."""
        return min(self.nodes, key=lambda node: metres(self.nodes[node], (latitude, longitude)))

    def near(self, latitude: float, longitude: float, radius: float) -> list[int]:
        """Junctions within `radius` metres, in the order of their numbers."""
        return sorted(node for node, point in self.nodes.items() if metres(point, (latitude, longitude)) <= radius)

    def route(self, start: int, end: int) -> list[Edge]:
        """The fastest way by travel time (A*); empty where start is end. Raises `NoRoute`."""
        goal = self.nodes[end]
        best = {start: 0.0}
        came: dict[int, Edge] = {}
        queue = [(0.0, start)]
        settled: set[int] = set()
        while queue:
            _, node = heapq.heappop(queue)
            if node == end:
                break
            if node in settled:
                continue
            settled.add(node)
            for edge in self.leaving[node]:
                seconds = best[node] + edge.seconds
                if seconds < best.get(edge.end, float("inf")):
                    best[edge.end] = seconds
                    came[edge.end] = edge
                    heapq.heappush(queue, (seconds + metres(self.nodes[edge.end], goal) / self._fastest, edge.end))
        else:
            raise NoRoute(f"no road leads from junction {start} to junction {end}")
        way: list[Edge] = []
        while end != start:
            way.append(came[end])
            end = came[end].start
        return way[::-1]

    def name_at(self, node: int) -> str:
        """The street at a junction, or an empty text where none of its streets has a name."""
        return min((edge.name for edge in self.leaving[node] if edge.name), default="")


def metres(one: Point, other: Point) -> float:
    """Distance over the small part of the earth that a country of 25 km is: within 0.2 % of the great circle's."""
    east = (other[1] - one[1]) * cos(radians((one[0] + other[0]) / 2))
    return hypot(other[0] - one[0], east) * METRES_PER_DEGREE


def length_of(points: Sequence[Point]) -> float:
    return sum(metres(one, other) for one, other in itertools.pairwise(points))


def _edges(feature: dict[str, Any]) -> list[Edge]:
    properties = feature["properties"]
    points = tuple((latitude, longitude) for longitude, latitude in feature["geometry"]["coordinates"])
    forth = Edge(
        start=properties["u"],
        end=properties["v"],
        points=points,
        length=length_of(points),
        limit=_limit(properties),
        name=properties.get("name", ""),
        highway=properties["highway"],
        tunnel=properties.get("tunnel", "no") != "no",
        roundabout=properties.get("junction") == "roundabout",
    )
    back = forth._replace(start=forth.end, end=forth.start, points=points[::-1])
    return {0: [forth, back], 1: [forth], -1: [back]}[properties.get("oneway", 0)]


def _limit(properties: dict[str, Any]) -> float:
    try:
        limit = float(properties["maxspeed"])
    except (KeyError, ValueError):
        limit = _LIMIT_OF_CLASS.get(str(properties["highway"]).removesuffix("_link"), 40.0)
    return limit / 3.6
