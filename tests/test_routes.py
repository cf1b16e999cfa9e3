"""A route is checked against the places of its trip. The error names the likely mistake."""

from typing import Any

import polyline
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.clients import Api
from tracking.errors import ErrorCode, Refusal
from tracking.geo import distance
from tracking.model import Place
from tracking.routes import check_places, line_string

# (latitude, longitude), from Accra to the north: near zero every mistake still gives good numbers.
WAY = [(5.6037 + step * 0.0025, -0.1870 + step * 0.001) for step in range(20)]
CAUSES: dict[str, tuple[Any, int | None, str]] = {
    "precision 6": (polyline.encode(WAY, 6), None, "send `route_precision: 6`"),
    "precision 5, said to be 6": (polyline.encode(WAY, 5), 6, "leave `route_precision` out"),
    "exchanged axes": ([[latitude, longitude] for latitude, longitude in WAY], None, "exchange them"),
    "a polyline with exchanged axes": (polyline.encode([(b, a) for a, b in WAY], 5), None, "exchange them"),
    "both": (polyline.encode([(b, a) for a, b in WAY], 6), None, "and send `route_precision: 6`"),
    "elsewhere": ([[9.5, 47.1], [9.6, 47.2]], None, "send the way from pickup to drop-off"),
}


def line(way: list[tuple[float, float]]) -> dict[str, Any]:
    return {"type": "LineString", "coordinates": [[longitude, latitude] for latitude, longitude in way]}


def ends(way: list[tuple[float, float]]) -> dict[str, Place]:
    return {"pickup": Place(*way[0]), "dropoff": Place(*way[-1])}


def refusal(route: Any, precision: int | None, places: dict[str, Place]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        line_string({"type": "LineString", "coordinates": route} if isinstance(route, list) else route, precision, places)
    return caught.value


@pytest.mark.parametrize("route, precision, cause", CAUSES.values(), ids=CAUSES.keys())
def test_a_route_elsewhere_is_refused_with_the_likely_cause(route: Any, precision: int | None, cause: str) -> None:
    refused = refusal(route, precision, ends(WAY))
    assert (refused.code, refused.field) == (ErrorCode.BAD_FIELD, "route")
    assert cause in refused.detail


def test_a_route_whose_numbers_are_no_degrees_is_refused_with_the_likely_cause() -> None:
    vaduz = [(47.141, 9.521), (47.166, 9.510)]
    refused = refusal(polyline.encode(vaduz, 6), None, ends(vaduz))
    assert (refused.code, "route_precision: 6" in refused.detail) == (ErrorCode.OUT_OF_RANGE, True)
    sydney = [(-33.87, 151.21), (-33.92, 151.19)]
    refused = refusal([list(place) for place in sydney], None, ends(sydney))
    assert (refused.code, "exchange them" in refused.detail) == (ErrorCode.OUT_OF_RANGE, True)


def test_places_with_exchanged_axes_are_named_as_such() -> None:
    exchanged = {name: Place(place.longitude, place.latitude) for name, place in ends(WAY).items()}
    assert "exchange them" in refusal(line(WAY)["coordinates"], None, exchanged).detail
    check_places(ends(WAY))
    check_places({"pickup": Place(52.5, 13.4), "dropoff": Place(38.7, -9.1)})
    with pytest.raises(Refusal, match="exchanged") as caught:
        check_places({"pickup": Place(47.14, 9.52), "dropoff": Place(47.2, 9.5), "stops[0]": Place(9.51, 47.15)})
    assert caught.value.field == "stops[0]"


def test_a_polyline_that_was_cut_off_is_called_so() -> None:
    assert "in the middle of a number" in refusal(polyline.encode(WAY, 5)[:-1], None, ends(WAY)).detail


def test_a_stop_far_from_the_route_is_named() -> None:
    places = {**ends(WAY), "stops[0]": Place(*WAY[3]), "stops[1]": Place(6.5, -0.18)}
    refused = refusal(line(WAY)["coordinates"], None, places)
    assert "from `stops[1]`" in refused.detail


def test_what_a_route_may_do() -> None:
    """It may begin at the vehicle, continue past the drop-off, and lie a walk away from both."""
    before, after = [(5.2, -0.2), *WAY, (6.2, -0.1)], [(latitude + 0.02, longitude - 0.02) for latitude, longitude in WAY]
    for way in (WAY, before, after, list(reversed(WAY))):
        assert line_string(line(way), None, ends(WAY)) == line(way)
        assert line_string(polyline.encode(way, 5), None, ends(WAY))["type"] == "LineString"
        assert line_string(polyline.encode(way, 6), 6, ends(WAY))["type"] == "LineString"


@given(
    st.floats(-80, 80),
    st.floats(-180, 180),
    st.lists(st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)), min_size=2, max_size=8),
    st.floats(-170, 170),
)
def test_a_route_is_near_its_ends_wherever_on_the_globe_and_its_opposite_is_not(
    latitude: float, longitude: float, steps: list[tuple[float, float]], turn: float
) -> None:
    way = [(latitude + north, (longitude + east + 180) % 360 - 180) for north, east in steps]
    line_string(line(way), None, ends(way))
    elsewhere = [(north, (east + turn + 180) % 360 - 180) for north, east in way]
    apart = min(distance(*place, *other) for place in (way[0], way[-1]) for other in elsewhere)
    assume(apart > 300_000)
    refusal(line(elsewhere)["coordinates"], None, ends(way))


def test_a_line_round_the_globe_is_not_near_what_lies_between_its_points() -> None:
    """The way from 179 to -179 degrees is two degrees long, and does not cross Greenwich."""
    refusal([[179.0, 51.5], [-179.0, 51.5]], None, {"pickup": Place(51.5, 0.0), "dropoff": Place(51.51, 0.01)})


async def test_a_trip_with_a_route_elsewhere_is_not_made_nor_changed(api: Api) -> None:
    fleet_id = await api.fleet()
    place = [{"latitude": latitude, "longitude": longitude} for latitude, longitude in (WAY[0], WAY[-1])]
    body = {"fleet_id": fleet_id, "pickup": place[0], "dropoff": place[1]}
    fine, coarse = polyline.encode(WAY, 6), polyline.encode(WAY, 5)
    error = (await api.call("POST", "/trips", {**body, "route": fine}, expect=422))["error"]
    assert (error["code"], error["field"]) == ("bad_field", "route")
    assert "route_precision: 6" in error["detail"]
    trip = await api.call("POST", "/trips", {**body, "route": fine, "route_precision": 6}, expect=201)
    assert trip["route"]["coordinates"][0] == [WAY[0][1], WAY[0][0]]
    path = f"/trips/{trip['trip_id']}"
    for change in ({"route": fine}, {"route": coarse, "route_precision": 6}, {"route": line([(b, a) for a, b in WAY])}):
        error = (await api.call("PATCH", path, {**change, "version": 1}, expect=422))["error"]
        assert error["field"] == "route"
    for wrong in ({"route_precision": 7, "route": coarse}, {"route_precision": 6}, {"route_precision": "6", "route": fine}):
        error = (await api.call("POST", "/trips", {**body, **wrong}, expect=422))["error"]
        assert error["field"] == "route_precision"
    await api.call("POST", "/trips", {**body, "route": line(WAY), "route_precision": 6}, expect=422)
    assert (await api.call("PATCH", path, {"route": fine, "route_precision": 6, "version": 1}))["version"] == 2
    exchanged = {"latitude": 9.51, "longitude": 47.15}
    body = {"fleet_id": fleet_id, "pickup": {"latitude": 47.14, "longitude": 9.52}, "dropoff": exchanged}
    assert (await api.call("POST", "/trips", body, expect=422))["error"]["field"] == "dropoff"
