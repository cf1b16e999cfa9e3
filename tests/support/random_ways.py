"""Random geofences, and random ways of vehicles over them."""

import math
import random
from itertools import pairwise
from typing import Any

from tests.support.geofence_truth import METRES, Seen
from tests.support.monitoring import BEGIN, Monitored
from tracking.geojson import shape_of

Geometry = dict[str, Any]


Ring = list[list[float]]


class Place:
    """Metres east and north of a place, as degrees."""

    def __init__(self, longitude: float, latitude: float) -> None:
        self.longitude, self.latitude = longitude, latitude
        self._east = METRES * math.cos(math.radians(latitude))

    def at(self, east: float, north: float) -> list[float]:
        return [self.longitude + east / self._east, self.latitude + north / METRES]

    def ring(self, *places: tuple[float, float]) -> Ring:
        ring = [self.at(*place) for place in places]
        return [*ring, ring[0]]

    def star(self, rng: random.Random, east: float, north: float, most: float, least: float) -> Ring:
        """A ring that is seen whole from its middle: concave, and never crosses itself."""
        count = rng.randint(3, 14)
        angles = [2 * math.pi * (i + 0.8 * rng.random()) / count for i in range(count)]
        radii = [rng.uniform(least, most) for _ in angles]
        return self.ring(*((east + r * math.cos(a), north + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)))


def random_fence(rng: random.Random, place: Place) -> Geometry:
    """About the place; valid."""
    while True:
        geometry = _drawn(rng, place)
        if shape_of(geometry).is_valid:  # a hole of a few corners may reach out of its ring
            return geometry


def _drawn(rng: random.Random, place: Place) -> Geometry:
    kind = rng.choice(["concave", "hole", "parts", "thin", "tiny", "huge", "comb"])
    size = rng.uniform(30, 800)
    if kind == "hole":
        rings = [place.star(rng, 0, 0, size * 2, size), place.star(rng, 0, 0, size * 0.45, size * 0.1)]
        return {"type": "Polygon", "coordinates": rings}
    if kind == "parts":
        parts = [
            [place.star(rng, i * 2.5 * size, rng.uniform(-size, size), size, size * 0.2)] for i in range(rng.randint(2, 4))
        ]
        return {"type": "MultiPolygon", "coordinates": parts}
    if kind == "thin":
        turn, half = rng.uniform(0, math.pi), rng.uniform(0.5, 8)
        along, across = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
        corners = [(size, half), (-size, half), (-size, -half), (size, -half)]
        ring = place.ring(*((a * along[0] + b * across[0], a * along[1] + b * across[1]) for a, b in corners))
        return {"type": "Polygon", "coordinates": [ring]}
    if kind == "comb":
        tooth, teeth = rng.uniform(5, 60), rng.randint(2, 6)
        places = [(-tooth, -tooth)]
        for i in range(teeth):
            places += [
                (2 * i * tooth, 0.0),
                (2 * i * tooth, 5 * tooth),
                ((2 * i + 1) * tooth, 5 * tooth),
                ((2 * i + 1) * tooth, 0.0),
            ]
        return {"type": "Polygon", "coordinates": [place.ring(*places, (2 * teeth * tooth, -tooth))]}
    most = {"concave": size, "tiny": rng.uniform(0.5, 10), "huge": rng.uniform(3_000, 60_000)}[kind]
    return {"type": "Polygon", "coordinates": [place.star(rng, 0, 0, most, most * 0.3)]}


def random_way(rng: random.Random, vehicle_id: str, place: Place, fence: Geometry, count: int) -> list[Seen]:
    """Drives, stands and jitters on the fence's edge, jumps over it, and falls silent for a while."""
    edge = [
        at for polygon in ([fence["coordinates"]] if fence["type"] == "Polygon" else fence["coordinates"]) for at in polygon[0]
    ]
    instant, (longitude, latitude) = BEGIN, place.at(rng.uniform(-900, 900), rng.uniform(-900, 900))
    seen: list[Seen] = []
    doing, left, corner = "drive", 0, edge[0]
    turn, pace = 0.0, 20.0
    accurate: float | None = 5.0
    while len(seen) < count:
        if left == 0:
            doing, left = rng.choice(["drive", "drive", "jitter", "jump"]), rng.randint(3, 12)
            one, other = rng.choice(list(pairwise(edge)))
            share = rng.random()
            corner = [one[i] + share * (other[i] - one[i]) for i in (0, 1)]
            turn, pace = rng.uniform(0, 2 * math.pi), rng.choice([2.0, 15.0, 60.0])
            accurate = rng.choice([None, 0.0, 0.3, 3.0, 8.0, 25.0, 200.0])
        if doing == "drive":
            turn += rng.gauss(0, 0.4)
            longitude, latitude = Place(longitude, latitude).at(pace * math.cos(turn), pace * math.sin(turn))
        elif doing == "jitter":
            spread = accurate or 10.0
            longitude, latitude = Place(*corner).at(rng.gauss(0, spread / 2), rng.gauss(0, spread / 2))
        else:
            longitude, latitude = Place(*corner).at(rng.gauss(0, 300), rng.gauss(0, 300))
        instant += 400_000 if rng.random() < 0.01 else rng.randint(1, 9) * 1000
        seen.append(Seen(vehicle_id, instant, longitude, latitude, accurate))
        left -= 1
    return seen


def watched(fences: dict[str, Geometry], seen: list[Seen], rng: random.Random | None, most: int = 60) -> Monitored:
    """The monitor after it has judged all positions, in batches of random sizes up to `most`."""
    monitored = Monitored()
    for geofence_id, geometry in fences.items():
        monitored.put(geofence_id, geometry)
    left = 0
    for one in seen:
        if left == 0:
            monitored.monitor.look()
            left = rng.randint(1, most) if rng is not None else most
        monitored.clock = max(monitored.clock, one.fix_time)
        # They drive, however they turn: what a receiver does while its vehicle stands is another matter.
        monitored.publish(one, speed=10.0)
        left -= 1
    monitored.monitor.look()
    return monitored


def by_time(seen: list[Seen]) -> list[Seen]:
    return sorted(seen, key=lambda one: one.fix_time)
