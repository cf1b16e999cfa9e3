"""Polygons from outside: over HTTP, every bad one is refused with the reason, and none gives a 500."""

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
import shapely
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.clients import PLAIN, Api, new_id, token
from tests.support.hub_process import HubProcess
from tracking.errors import Refusal
from tracking.geojson import MAX_VERTICES, checked_geometry, read_geometry, shape_of
from tracking.model import Geofence
from tracking.monitor.geofences import Fence

SQUARE = [[9.5, 47.1], [9.6, 47.1], [9.6, 47.2], [9.5, 47.2], [9.5, 47.1]]
HOLE = [[9.53, 47.13], [9.53, 47.16], [9.56, 47.16], [9.56, 47.13], [9.53, 47.13]]


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def circle(count: int) -> list[list[float]]:
    turns = [2 * math.pi * i / count for i in range(count)]
    ring = [[9.5 + 0.1 * math.cos(turn), 47.1 + 0.1 * math.sin(turn)] for turn in turns]
    return [*ring, ring[0]]


def raw(coordinates: str) -> str:
    return f'{{"type":"Feature","geometry":{{"type":"Polygon","coordinates":{coordinates}}}}}'


BAD = {
    "crosses itself": (polygon([[9, 47], [10, 48], [10, 47], [9, 48], [9, 47]]), "bad_field", "Self-intersection"),
    "a hole outside": (polygon(SQUARE, [[x + 1, y] for x, y in HOLE]), "bad_field", "valid polygon"),
    "a hole as large": (polygon(SQUARE, SQUARE[::-1]), "bad_field", "valid polygon"),
    "parts that overlap": (
        {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[x + 0.05, y] for x, y in SQUARE]]]},
        "bad_field",
        "valid polygon",
    ),
    "no ring": (polygon(), "bad_field", "empty polygon"),
    "an empty ring": (polygon([]), "bad_field", "fewer than four"),
    "no part": ({"type": "MultiPolygon", "coordinates": []}, "bad_field", "at least one ring"),
    "an empty part": ({"type": "MultiPolygon", "coordinates": [[SQUARE], []]}, "bad_field", "empty polygon"),
    "three positions": (polygon([[9, 47], [10, 47], [9, 47]]), "bad_field", "fewer than four"),
    "not closed": (polygon(SQUARE[:-1]), "bad_field", "not closed"),
    "all in one place": (polygon([[9, 47]] * 5), "bad_field", "valid polygon"),
    "on one line": (polygon([[9, 47], [10, 47], [11, 47], [9, 47]]), "bad_field", "valid polygon"),
    "thinner than anything": (polygon([[9, 47], [10, 47], [10, 47 + 1e-13], [9, 47 + 1e-13], [9, 47]]), "bad_field", "nothing"),
    "too far north": (polygon([[9, 47], [10, 47], [10, 90.1], [9, 47]]), "out_of_range", "degrees"),
    "too far east": (polygon([[170, 47], [190, 47], [190, 48], [170, 47]]), "out_of_range", "degrees"),
    "a huge number": (polygon([[9, 47], [10**400, 47], [10, 48], [9, 47]]), "out_of_range", "degrees"),
    "across the date line": (polygon([[179, 1], [-179, 1], [-179, 2], [179, 2], [179, 1]]), "bad_field", "3.1.9"),
    "a part across the date line": (
        {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[179, 1], [-179, 1], [-179, 2], [179, 2], [179, 1]]]]},
        "bad_field",
        "3.1.9",
    ),
    "a position of one number": (polygon([[9], [10, 47], [10, 48], [9]]), "bad_type", "longitude"),
    "texts for numbers": (polygon([["9", "47"], [10, 47], [10, 48], ["9", "47"]]), "bad_type", "longitude"),
    "truth for a number": (polygon([[True, 47], [10, 47], [10, 48], [True, 47]]), "bad_type", "longitude"),
    "null": (None, "bad_type", "Polygon"),
    "a point": ({"type": "Point", "coordinates": [9, 47]}, "bad_type", "Polygon"),
    "a collection": ({"type": "GeometryCollection", "geometries": []}, "bad_type", "Polygon"),
    "no coordinates": ({"type": "MultiPolygon"}, "bad_field", "no coordinates"),
    "nested once too often": (polygon([SQUARE]), "bad_field", "fewer than four"),
    "nested once too little": ({"type": "Polygon", "coordinates": SQUARE}, "bad_field", "fewer than four"),
    "garbage": ({"type": "Polygon", "coordinates": {"a": [[[[[{"b": None}]]]]]}}, "bad_field", "empty polygon"),
    "one vertex too many": (polygon(circle(MAX_VERTICES)), "bad_field", "more than 20000"),
    "100,000 vertices": (polygon(circle(100_000)), "bad_field", "more than 20000"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_polygon_is_refused_with_what_is_wrong(api: Api, hub: HubProcess, name: str) -> None:
    geometry, code, words = BAD[name]
    fleet_id = await api.fleet()
    path = f"/fleets/{fleet_id}/geofences/yard"
    content = json.dumps({"type": "Feature", "geometry": geometry})
    response = await api.http.put(path, content=content)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) in ((422, code), (400, "bad_json")), error
    assert words in error["detail"] or error["code"] == "bad_json", error
    if error["code"] != "bad_json":
        assert error["field"] == "geometry"
    assert (await api.call("GET", f"/fleets/{fleet_id}/geofences"))["features"] == []


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5_000, "[" * 60_000])
async def test_what_is_no_json_number_is_refused(api: Api, text: str) -> None:
    fleet_id = await api.fleet()
    content = raw(f"[[[9,47],[{text},47],[10,48],[9,47]]]")
    response = await api.http.put(f"/fleets/{fleet_id}/geofences/yard", content=content)
    assert response.status_code in (400, 422), response.text


async def test_good_polygons_are_kept_as_rfc_7946_has_them(api: Api) -> None:
    fleet_id = await api.fleet()
    path = f"/fleets/{fleet_id}/geofences/yard"

    async def kept(geometry: dict[str, Any], status: int = 200) -> Any:
        answer = await api.call("PUT", path, {"type": "Feature", "geometry": geometry}, expect=status)
        assert await api.call("GET", path) == answer
        return answer["geometry"]

    # Rings of the wrong direction are reversed.
    found = await kept(polygon(SQUARE[::-1], HOLE[::-1]), 201)
    assert [shapely.is_ccw(shapely.linearrings(ring)) for ring in found["coordinates"]] == [True, False]
    assert shape_of(found).equals(shape_of(polygon(SQUARE, HOLE)))
    # A third coordinate is left out.
    assert shape_of(await kept(polygon([[x, y, 455.0] for x, y in SQUARE]))).equals(shape_of(polygon(SQUARE)))
    # Cut at the date line.
    parts = [[[[170, 1], [180, 1], [180, 2], [170, 2], [170, 1]]], [[[-180, 1], [-170, 1], [-170, 2], [-180, 2], [-180, 1]]]]
    assert shape_of(await kept({"type": "MultiPolygon", "coordinates": parts})).area == 20
    assert len((await kept(polygon(circle(MAX_VERTICES - 1))))["coordinates"][0]) == MAX_VERTICES


# --- anything at all --------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=4), max_leaves=30
)
numbers = st.integers(-9, 9) | st.floats(-200, 200) | st.sampled_from([180, -180, 90, -90, 1e-300, 5e-324, 1e300, 10**400])
positions = st.lists(numbers, min_size=2, max_size=2) | st.lists(numbers | scalars, max_size=4)
rings = st.lists(positions, min_size=3, max_size=9).map(lambda ring: [*ring, ring[0]]) | st.lists(positions, max_size=5)
boxes = st.tuples(st.floats(-180, 179), st.floats(-90, 89), st.floats(1e-200, 1), st.floats(1e-200, 1)).map(
    lambda box: [
        [box[0], box[1]],
        [box[0] + box[2], box[1]],
        [box[0] + box[2], box[1] + box[3]],
        [box[0], box[1] + box[3]],
        [box[0], box[1]],
    ]
)
polygons = st.lists(rings | boxes, min_size=1, max_size=3)
geometries = (
    anything
    | st.fixed_dictionaries({"type": st.just("Polygon"), "coordinates": polygons | anything})
    | st.fixed_dictionaries({"type": st.just("MultiPolygon"), "coordinates": st.lists(polygons, max_size=3) | anything})
    | st.fixed_dictionaries({"type": anything, "coordinates": anything})
)


_FLAT_HOLE = [[0.0, 0.0], [0.25, 0.0], [0.25, 1e-200], [0.0, 1e-200], [0.0, 0.0]]
_SQUARE = [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]


@given(geometries)
@example({"type": "Polygon", "coordinates": [_SQUARE, _FLAT_HOLE]})
@settings(max_examples=300)
def test_anything_is_a_valid_fence_or_refused(geometry: Any) -> None:
    try:
        checked = checked_geometry(geometry)
    except Refusal as refusal:
        refusal.detail.encode()
        return
    assert shape_of(checked).is_valid
    fence = Fence(Geofence("fleet", "fence", checked, {}))
    assert 0 <= fence.margin(None) <= 10


@given(geometries)
@example({"type": "Polygon", "coordinates": [_SQUARE, _FLAT_HOLE]})
@example({"type": "Polygon", "coordinates": [[[*place, 455.0] for place in _SQUARE]]})
@settings(max_examples=300)
def test_what_is_read_quickly_is_read_as_position_by_position(geometry: Any) -> None:
    text = msgspec.json.encode(geometry)

    def read(how: Callable[[], dict[str, Any]]) -> object:
        try:
            return how()
        except Refusal as refusal:
            return refusal.code, refusal.detail

    assert read(lambda: read_geometry(text)[0]) == read(lambda: checked_geometry(msgspec.json.decode(text)))


def test_what_has_far_too_many_vertices_is_not_even_read() -> None:
    text = b'{"type":"Polygon","coordinates":[[' + b"[[[" * MAX_VERTICES
    with pytest.raises(Refusal, match="vertices"):
        read_geometry(text)


@given(geometries)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_over_http_is_answered(hub: HubProcess, geometry: Any) -> None:
    fleet_id = new_id("fleet")
    with httpx.Client(base_url=f"{hub.url}/v1", verify=PLAIN, headers={"Authorization": f"Bearer {token('service')}"}) as http:
        http.put(f"/fleets/{fleet_id}", json={"name": "Any"})
        path = f"/fleets/{fleet_id}/geofences/any"
        response = http.put(path, content=json.dumps({"type": "Feature", "geometry": geometry}))
        if response.status_code == 201:
            assert shape_of(http.get(path).json()["geometry"]).is_valid
        else:
            assert 400 <= response.status_code < 500, response.text
