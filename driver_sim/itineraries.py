"""Where the next trip leads: pickup, stops and drop-off, and the route there from where the vehicle stands."""

import random
from typing import NamedTuple

from driver_sim.fleet import VADUZ
from driver_sim.roads import Edge, Point, RoadGraph, metres
from tracking.model import Place
from tracking.protocol.http import TripView


class Leg(NamedTuple):
    """A part of the way that ends at a stop. It has no edges if the vehicle is there already."""

    edges: list[Edge]
    to: int


class Itinerary(NamedTuple):
    """The way to the pickup, then to each stop, then to the drop-off."""

    legs: list[Leg]
    pickup: Place
    stops: list[Place]
    dropoff: Place

    @property
    def line(self) -> list[Point]:
        """The whole way from where the vehicle stands, so that the vehicle is never off its route."""
        return [point for leg in self.legs for edge in leg.edges for point in edge.points]


class Itineraries:
    """Finds one vehicle's itineraries. Its passengers stand within `radius` metres of `home`."""

    def __init__(self, roads: RoadGraph, rng: random.Random, home: Point, radius: float) -> None:
        self.roads = roads
        self.rng = rng
        self._around = roads.near(*home, radius) or [roads.nearest(*home)]

    def start(self) -> int:
        """The junction where the vehicle begins."""
        return self.rng.choice(self._around)

    def next(self, here: int) -> Itinerary:
        """From the home area to a place 1 to 8 km away, or back after such a trip."""
        roads, rng = self.roads, self.rng
        pickups = [node for node in roads.nodes if 200.0 < metres(roads.nodes[node], roads.nodes[here]) < 1_500.0]
        pickup = rng.choice(sorted(pickups) or self._around)
        far = metres(roads.nodes[here], roads.nodes[self._around[0]]) > 3_000.0
        goals = self._around if far else sorted(roads.nodes)
        start = roads.nodes[pickup]
        dropoff = rng.choice(
            [node for node in goals if 1_000.0 < metres(roads.nodes[node], start) < 8_000.0] or sorted(roads.nodes)
        )
        stops = []
        if rng.random() < 0.3:
            way = roads.route(pickup, dropoff)
            if len(way) > 6:
                stops.append(way[len(way) // 2].end)
        return itinerary(roads, here, pickup, stops, dropoff)


class ShowcaseItineraries(Itineraries):
    """Long tours that begin and end in Vaduz, so that the demo's link shows a car in the town."""

    _TOURS: tuple[tuple[Point, ...], ...] = (
        ((47.1650, 9.5090), (47.1070, 9.5280)),
        ((47.1070, 9.5280), (47.1650, 9.5090)),
        ((47.1970, 9.5430), (47.1240, 9.5250)),
        ((47.0660, 9.5020), (47.1500, 9.5150)),
    )

    def __init__(self, roads: RoadGraph, rng: random.Random) -> None:
        super().__init__(roads, rng, VADUZ, 600.0)
        self._pickup = roads.nearest(*VADUZ)
        self._tour = 0

    def start(self) -> int:
        """A minute south of the pickup, so that a viewer soon sees the car arrive and leave."""
        return self.roads.nearest(47.1370, 9.5205)

    def next(self, here: int) -> Itinerary:
        stops = [self.roads.nearest(*place) for place in self._TOURS[self._tour % len(self._TOURS)]]
        self._tour += 1
        return itinerary(self.roads, here, self._pickup, stops, self.start())


def itinerary(roads: RoadGraph, here: int, pickup: int, stops: list[int], dropoff: int) -> Itinerary:
    """The fastest way from `here` over these junctions. Each place has the name of its street."""
    legs = []
    for node in [pickup, *stops, dropoff]:
        legs.append(Leg(roads.route(here, node), node))
        here = node
    return Itinerary(legs, _place(roads, pickup), [_place(roads, stop) for stop in stops], _place(roads, dropoff))


def itinerary_of(trip: TripView, roads: RoadGraph, here: int) -> Itinerary:
    """The way for a trip that somebody else made, by the junctions nearest to its places."""
    pickup, *stops, dropoff = (
        roads.nearest(place.latitude, place.longitude) for place in [trip.pickup, *trip.stops, trip.dropoff]
    )
    return itinerary(roads, here, pickup, stops, dropoff)


def _place(roads: RoadGraph, node: int) -> Place:
    latitude, longitude = roads.nodes[node]
    return Place(latitude, longitude, roads.name_at(node) or None)
