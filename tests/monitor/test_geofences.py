"""Enters and exits by the monitor, compared with a slow and exact calculation."""

import asyncio
import csv
import gzip
import json
import math
import random
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.support.geofence_truth import Ground, Seen, truth
from tests.support.monitoring import BEGIN, Monitored, crossings
from tests.support.random_ways import Place, by_time, random_fence, random_way, watched
from tracking.geojson import MAX_VERTICES, checked_geometry
from tracking.model import Geofence
from tracking.monitor import monitor as module
from tracking.monitor.geofences import Fence, Move, move_of
from tracking.protocol.fit import geofence_news

DATA = Path(__file__).parents[2].parent / "shared/data"


REAL = {
    "porto": "porto_taxis_dev.csv.gz",
    "hof": "hof_fcd_dev.csv.gz",
    "munich": "munich_car_1hz.csv",
    "liverpool": "liverpool_bus14_dev.csv",
}


@pytest.mark.parametrize("seed", range(40))
def test_random_ways_over_random_fences(seed: int) -> None:
    rng = random.Random(seed)
    place = Place(rng.uniform(-170, 170), rng.uniform(-70, 70))
    fences = {f"fence-{i}": random_fence(rng, Place(*place.at(rng.gauss(0, 200), rng.gauss(0, 200)))) for i in range(6)}
    seen = by_time(
        [one for i in range(4) for one in random_way(rng, f"van-{i}", place, rng.choice(list(fences.values())), 120)]
    )
    told = crossings(watched(fences, seen, rng).told())
    wanted = truth(fences, seen)
    assert told == wanted
    print(f"{len(seen)} moves, {len(fences)} fences, {len(wanted)} events")


@pytest.mark.parametrize("name", REAL)
def test_real_tracks_over_random_fences(name: str) -> None:
    path = DATA / REAL[name]
    if not path.exists():
        pytest.skip(f"the shared data (../shared/data/{path.name}) is not here")
    rng = random.Random(name)
    seen = _read(path, rng)[:8_000]
    fences = {}
    for i in range(24):
        about = rng.choice(seen)
        fences[f"fence-{i}"] = random_fence(rng, Place(about.longitude, about.latitude))
    told = crossings(watched(fences, seen, rng, most=400).told())
    wanted = truth(fences, seen)
    assert told == wanted
    assert wanted
    print(f"{name}: {len(seen)} moves, {len(fences)} fences, {len(wanted)} events")


def _read(path: Path, rng: random.Random) -> list[Seen]:
    """The positions in order, those of each vehicle that move its marker, with typical accuracies."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = [
            Seen(
                row.get("vehicle_id") or row["track_id"],
                int(datetime.fromisoformat(row["ts"]).timestamp() * 1000),
                float(row["lon"]),
                float(row["lat"]),
                rng.choice([None, 3.0, 8.0, 20.0, 65.0]),
            )
            for row in csv.DictReader(file)
        ]
    newest: dict[str, int] = {}
    kept = []
    for seen in by_time(rows):
        if seen.fix_time > newest.get(seen.vehicle_id, 0):
            newest[seen.vehicle_id] = seen.fix_time
            kept.append(seen)
    return kept


def test_the_margin_follows_the_widest_part() -> None:
    rng, place = random.Random(7), Place(9.52, 47.14)
    for _ in range(200):
        geometry = random_fence(rng, place)
        fence, ground = Fence(Geofence("fleet", "fence", geometry, {})), Ground(geometry)
        for accuracy in (None, 0.0, 0.2, 5.0, 49.0, 1_000.0):
            assert fence.margin(accuracy) == pytest.approx(ground.margin(accuracy), rel=1e-6)
    # Of a long path and a yard of a smaller area it is the yard that tells how clear of the edge a vehicle can be.
    path = place.ring((0, 0), (5_000, 0), (5_000, 4), (0, 4))
    yard = place.ring((0, 100), (100, 100), (100, 200), (0, 200))
    fence = Fence(Geofence("fleet", "fence", {"type": "MultiPolygon", "coordinates": [[path], [yard]]}, {}))
    assert fence.margin(20.0) == pytest.approx(20.0)


def test_a_comb_of_20000_vertices_is_measured_soon() -> None:
    place = Place(9.52, 47.14)
    teeth = [at for i in range(4_970) for at in ((40 * i, 0), (40 * i, 20_000), (40 * i + 20, 20_000), (40 * i + 20, 0))]
    ring = place.ring((0, -20), *teeth, (40 * 4_970, -20))
    before = time.thread_time()
    fence = Fence(Geofence("fleet", "comb", {"type": "Polygon", "coordinates": [ring]}, {}))
    assert time.thread_time() - before < 1.0
    assert fence.margin(50.0) == pytest.approx(5.0, rel=0.1) == Ground(fence.geofence.geometry).margin(50.0)


def test_a_way_across_the_date_line_does_not_go_round_the_world() -> None:
    monitored = Monitored()
    square = [[-180.0, -18.0], [-179.0, -18.0], [-179.0, -16.0], [-180.0, -16.0], [-180.0, -18.0]]
    west = [[179.0, -18.0], [180.0, -18.0], [180.0, -16.0], [179.0, -16.0], [179.0, -18.0]]
    monitored.put("both", {"type": "MultiPolygon", "coordinates": [[square], [west]]})
    monitored.put(
        "greenwich",
        {"type": "Polygon", "coordinates": [Place(0, -17).ring((-9e5, -9e4), (9e5, -9e4), (9e5, 9e4), (-9e5, 9e4))]},
    )
    way = [178.9, 179.5, 179.99, -179.99, -179.5, -178.9, -179.9, 179.9]
    told = monitored.drive(*(Seen("van", BEGIN + i * 60_000, x, -17.0, 5.0) for i, x in enumerate(way)))
    assert [(event.kind.value, event.geofence_id) for event in told if event.geofence_id] == [
        ("enter", "both"),
        ("exit", "both"),
        ("enter", "both"),
    ]
    assert move_of((180.0, 1.0), (-180.0, 2.0), None).start == (-180.0, 1.0)
    assert move_of((179.5, 1.0), (-179.5, 2.0), None).start == (-180.5, 1.0)


@given(
    st.lists(st.tuples(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02)), min_size=3, max_size=8),
    st.lists(st.tuples(st.floats(-0.03, 0.03), st.floats(-0.03, 0.03)), min_size=2, max_size=20),
    st.floats(-0.03, 0.03),
)
@example([(-0.01, -0.01), (0.01, -0.01), (0.0, 0.01)], [(-0.005, -0.03), (0.005, 0.03)], 0.0)
@example([(-0.01, -0.01), (-0.005, -0.01), (-0.007, 0.01)], [(-0.03, 0.0), (0.03, 0.0)], 0.0)
def test_a_fence_at_the_antimeridian_is_crossed_as_any_other(
    corners: list[tuple[float, float]], way: list[tuple[float, float]], shift: float
) -> None:
    """The same drive over the same fence, at 10 degrees east and at 180, where RFC 7946 cuts the fence in two."""
    hull = shapely.MultiPoint([(x + shift, y) for x, y in corners]).convex_hull
    assume(hull.area > 1e-6 and all(abs(hull.boundary.distance(shapely.Point(place))) > 2e-4 for place in way))
    assume(all(abs(shift + x) > 1e-5 for x, _ in corners))

    def told(middle: float, geometry: Any) -> list[tuple[str, int]]:
        monitored = Monitored()
        monitored.put("f", json.loads(shapely.to_geojson(geometry)))
        wrapped = [((middle + x + 180.0) % 360.0 - 180.0, y - 17.0) for x, y in way]
        events = monitored.drive(*(Seen("van", BEGIN + i * 60_000, *place, 5.0) for i, place in enumerate(wrapped)))
        return [(event.kind.value, event.fix_time or 0) for event in events if event.geofence_id]

    def at(middle: float) -> Any:
        return shapely.transform(hull, lambda c: c + np.array((middle, -17.0)))

    whole = at(180.0)
    sides = [whole.intersection(shapely.box(0, -90, 180, 90)), whole.intersection(shapely.box(180, -90, 360, 90))]
    sides[1] = shapely.transform(sides[1], lambda c: c - np.array((360.0, 0.0)))
    cut = [side for side in sides if side.area > 1e-12]
    assert told(180.0, cut[0] if len(cut) == 1 else shapely.MultiPolygon(cut)) == told(10.0, at(10.0))


def test_the_poles_have_fences_too() -> None:
    monitored = Monitored()
    monitored.put(
        "cap", checked_geometry({"type": "Polygon", "coordinates": [[[0, 89], [90, 89], [90, 90], [0, 90], [0, 89]]]})
    )
    way = [(45.0, 88.9), (45.0, 89.5), (45.0, 90.0), (170.0, 90.0), (-100.0, 89.5)]
    told = monitored.drive(*(Seen("van", BEGIN + i * 60_000, *at, 5.0) for i, at in enumerate(way)))
    assert [event.kind.value for event in told if event.geofence_id] == ["enter", "exit"]


@given(st.lists(st.tuples(st.floats(-0.01, 0.01), st.floats(-0.01, 0.01), st.none() | st.floats(0, 60)), min_size=1))
@settings(max_examples=60)
def test_many_places_stand_where_each_by_itself_does(places: list[tuple[float, float, float | None]]) -> None:
    ring = [[9.5, 47.1], [9.505, 47.1], [9.505, 47.104], [9.5, 47.104], [9.5, 47.1]]
    fence = Fence(Geofence("fleet", "fence", checked_geometry({"type": "Polygon", "coordinates": [ring]}), {}))
    at = [(9.502 + x, 47.102 + y) for x, y, _ in places]
    for place, (_, _, accuracy), stands in zip(at, places, fence.standing(at, [one[2] for one in places]), strict=True):
        move = Move(None, place, accuracy)
        for inside in (False, True):
            assert fence.walk(move, inside) == ([stands] if stands is not None and stands is not inside else [])


async def test_a_new_fence_is_held_against_all_who_stand_there_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves between two steps count. A vehicle that left by then did not enter, and one that came in entered once."""
    monkeypatch.setattr(module, "SETTLED_AT_ONCE", 7)
    monitored = Monitored()
    inside, outside = (9.5, 47.1), (9.9, 47.1)
    for number in range(100):
        monitored.publish(Seen(f"v{number}", BEGIN, *(inside if number < 50 else outside), 5.0))
    monitored.monitor.look()
    monitored.told()
    square = [[9.4, 47.0], [9.6, 47.0], [9.6, 47.2], [9.4, 47.2], [9.4, 47.0]]
    fence = Fence(Geofence("fleet", "fence", checked_geometry({"type": "Polygon", "coordinates": [square]}), {}))
    changing = asyncio.create_task(monitored.monitor.change_geofence(fence, geofence_news(fence.geofence)))
    await asyncio.sleep(0)
    assert not changing.done()
    monitored.clock += 60_000
    for number in range(100):
        # All change places, but for one that is erased.
        monitored.publish(Seen(f"v{number}", monitored.clock, *(outside if number < 50 else inside), 5.0))
    monitored.fleets.forget("v60")
    monitored.monitor.look()
    await changing
    told: dict[str, list[str]] = {}
    for event in monitored.told():
        told.setdefault(event.vehicle_id, []).append(event.kind.value)
    assert "v60" not in told
    for number in range(100):
        kinds = [kind for kind in told.get(f"v{number}", []) if kind in ("enter", "exit")]
        assert kinds in ([["enter"]] if number >= 50 and number != 60 else [[], ["enter", "exit"]]), (number, kinds)
        live = monitored.fleets.vehicles.get(f"v{number}")
        assert live is None or ("fence" in monitored.monitor.states[live].inside) == (number >= 50)


def test_a_fence_of_20000_vertices_is_asked_without_an_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay of such a fence takes 5 ms, so 1,000 vehicles on its edge would block the hub for seconds."""
    for name in ("intersection", "difference", "distance"):
        monkeypatch.delattr(shapely, name)
    rng, place = random.Random(3), Place(9.52, 47.14)
    radii = [rng.uniform(4_000, 4_500) for _ in range(MAX_VERTICES - 1)]
    turn = 2 * math.pi / len(radii)
    ring = place.ring(*((r * math.cos(i * turn), r * math.sin(i * turn)) for i, r in enumerate(radii)))
    fence = Fence(Geofence("fleet", "fence", checked_geometry({"type": "Polygon", "coordinates": [ring]}), {}))
    ground = Ground(fence.geofence.geometry)
    moves = []
    for _ in range(100):
        at, far = rng.uniform(0, 2 * math.pi), rng.uniform(4_000, 4_500)
        x, y = far * math.cos(at), far * math.sin(at)
        moves.append(Move(tuple(place.at(x, y)), tuple(place.at(x + rng.gauss(0, 40), y + rng.gauss(0, 40))), 5.0))  # type: ignore[arg-type]
    walks = [fence.walk(move, False) for move in moves]
    for move, walk in list(zip(moves, walks, strict=True))[:10]:
        assert move.start is not None
        assert walk == ground.changes(Seen("van", 0, *move.start, None), Seen("van", 1, *move.end, 5.0), False)
