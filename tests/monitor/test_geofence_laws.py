"""Laws of crossings: what must not change them does not."""

import math
import random

import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.geofence_truth import Ground, Seen
from tests.support.monitoring import BEGIN, Monitored, crossings
from tests.support.random_ways import Place, Ring, by_time, random_fence, random_way, watched
from tracking.geojson import checked_geometry

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.lists(st.floats(0.5, 50.0), min_size=2, max_size=40))
@settings(max_examples=60)
def test_who_is_parked_on_the_line_does_not_flap(seed: int, accuracies: list[float]) -> None:
    """Each fix lies within its own accuracy of a place on the edge. The accuracy of the fix before varies."""
    rng, place = random.Random(seed), Place(9.52, 47.14)
    monitored = Monitored()
    monitored.put("yard", {"type": "Polygon", "coordinates": [place.star(rng, 0, 0, 900, 500)]})
    edge = shapely.Polygon(
        monitored.monitor.fences.by_fleet["fleet"].by_id["yard"].geofence.geometry["coordinates"][0]
    ).exterior
    on_edge = edge.interpolate(rng.random(), normalized=True)
    about = Place(on_edge.x, on_edge.y)
    ways = []
    for number, accuracy in enumerate(accuracies):
        far, turn = accuracy * rng.random() * 0.99, rng.uniform(0, 2 * math.pi)
        longitude, latitude = about.at(far * math.cos(turn), far * math.sin(turn))
        ways.append(Seen("van", BEGIN + number * 1000, longitude, latitude, max(accuracy, 1.0)))
    assert len(crossings(monitored.drive(*ways))) <= 1


@given(SEEDS)
@settings(max_examples=30)
def test_enters_and_exits_alternate_and_batches_do_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    place = Place(rng.uniform(-170, 170), rng.uniform(-80, 80))
    fences = {f"fence-{i}": random_fence(rng, place) for i in range(4)}
    seen = by_time([one for i in range(3) for one in random_way(rng, f"van-{i}", place, fences["fence-0"], 40)])
    told = watched(fences, seen, None, most=1).told()
    inside: set[tuple[str, str | None]] = set()
    for event in told:
        if event.kind in ("enter", "exit"):
            key = event.vehicle_id, event.geofence_id
            assert (key in inside) is (event.kind == "exit")
            inside ^= {key}
    for most in (2, 7, len(seen)):
        assert crossings(watched(fences, seen, None, most=most).told()) == crossings(told)


@given(SEEDS)
@settings(max_examples=60)
def test_how_rings_are_turned_and_where_they_begin_does_not_matter(seed: int) -> None:
    rng, place = random.Random(seed), Place(9.52, 47.14)
    geometry = random_fence(rng, place)
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    turned: list[list[Ring]] = []
    for rings in parts:
        turned.append([])
        for ring in rings:
            cut = rng.randrange(len(ring) - 1)
            rolled = ring[cut:-1] + ring[: cut + 1]
            turned[-1].append(rolled[::-1] if rng.random() < 0.5 else rolled)
    other = {"type": geometry["type"], "coordinates": turned[0] if geometry["type"] == "Polygon" else turned[::-1]}
    seen = random_way(rng, "van", place, geometry, 60)
    told = [crossings(watched({"fence": checked_geometry(g)}, seen, None).told()) for g in (geometry, other)]
    assert told[0] == told[1]


@given(SEEDS, st.integers(2, 9))
@settings(max_examples=100)
def test_a_fix_more_on_a_straight_way_far_from_the_edge_changes_nothing(seed: int, pieces: int) -> None:
    """It ends on the same side, however often it reports on the way. (Near the edge a fix may decide.)"""
    rng, place = random.Random(seed), Place(9.52, 47.14)
    geometry = {"type": "Polygon", "coordinates": [place.star(rng, 0, 0, 900, 300)]}
    ground = Ground(geometry)
    ends = [place.at(rng.uniform(-1500, 1500), rng.uniform(-1500, 1500)) for _ in range(2)]
    (x1, y1), (x2, y2) = ends

    def reports(steps: int) -> list[Seen]:
        return [
            Seen("van", BEGIN + 100_000 * i // steps, x1 + (x2 - x1) * i / steps, y1 + (y2 - y1) * i / steps, 5.0)
            for i in range(steps + 1)
        ]

    one, many = reports(1), reports(pieces)
    if any(ground.to_edge(*ground.place(seen.longitude, seen.latitude)) < 11 for seen in many):
        return
    sides = [[told[-1] for told in sorted(crossings(watched({"f": geometry}, way, None).told()))] for way in (one, many)]
    assert sides[0][-1:] == sides[1][-1:]
    # More fixes can only show more of what a short cut hid.
    assert len(sides[0]) <= len(sides[1])
