"""The HTTP contract of trips: their steps, their routes, and who sees them."""

import asyncio
from itertools import pairwise, product
from typing import Any

import pytest

from tests.support.clients import Api, Message, now_ms, token
from tests.trust.answers import NOT_FOUND, PLACE, error_of, refused

# From the protocol, not from the code.
ROAD = ["new", "enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "complete"]
STATUSES = [*ROAD, "arrived_at_stop", "canceled"]
STEPS = {
    *pairwise(ROAD),
    ("enroute_to_dropoff", "arrived_at_stop"),
    ("arrived_at_stop", "enroute_to_dropoff"),
    *((status, "canceled") for status in STATUSES if status not in ("complete", "canceled")),
}
WAYS = {
    **{status: ROAD[1 : place + 1] for place, status in enumerate(ROAD)},
    "arrived_at_stop": [*ROAD[1:4], "arrived_at_stop"],
    "canceled": ["canceled"],
}


@pytest.mark.parametrize("before, after", list(product(STATUSES, STATUSES)), ids=lambda status: status)
async def test_every_step_of_a_trip(api: Api, fleet_id: str, before: str, after: str) -> None:
    """49 pairs: allowed, refused, or a repeat."""
    trip = await api.trip(fleet_id, await api.vehicle(fleet_id))
    assert (trip["status"], trip["version"]) == ("new", 1)
    trip = await api.advance(trip["trip_id"], *WAYS[before])
    assert (trip["status"], trip["version"]) == (before, 1 + len(WAYS[before]))
    path, body = f"/trips/{trip['trip_id']}", {"status": after, "version": trip["version"]}
    if (before, after) in STEPS:
        changed = await api.call("PATCH", path, body)
        assert (changed["status"], changed["version"]) == (after, trip["version"] + 1)
        assert await api.call("GET", path) == changed
    elif before == after:
        assert await api.call("PATCH", path, body) == trip
        assert await api.call("GET", path) == trip
    else:
        error = await refused(api, "PATCH", path, body, status=409)
        assert error["code"] == "conflict"
        assert await api.call("GET", path) == trip


async def test_a_trip_has_what_the_protocol_says(api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    stops = [{"latitude": 47.145, "longitude": 9.52, "name": "Post"}, {"latitude": 47.146, "longitude": 9.519}]
    before = now_ms()
    trip = await api.trip(fleet_id, vehicle_id, stops=stops)
    assert before - 5 <= trip.pop("created_at") <= now_ms() + 5
    assert len(trip.pop("trip_id")) >= 22
    assert trip == {
        "fleet_id": fleet_id,
        "vehicle": {"vehicle_id": vehicle_id, "name": "Van 1", "kind": "van", "plate": "FL 12345"},
        "status": "new",
        "version": 1,
        "pickup": {"latitude": 47.141, "longitude": 9.521, "name": "Städtle"},
        "dropoff": {"latitude": 47.151, "longitude": 9.515},
        "stops": stops,
    }


async def test_a_trip_without_a_vehicle_gets_one_later(api: Api) -> None:
    fleet_id = await api.fleet()
    trip = await api.trip(fleet_id, None)
    assert "vehicle" not in trip
    path = f"/trips/{trip['trip_id']}"
    # Without a vehicle it can't be driven.
    await refused(api, "PATCH", path, {"status": "enroute_to_pickup", "version": 1}, status=409)
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.call("PATCH", path, {"vehicle_id": vehicle_id, "version": 1})
    assert (trip["vehicle"]["vehicle_id"], trip["version"]) == (vehicle_id, 2)
    trip = await api.call("PATCH", path, {"vehicle_id": None, "version": 2})
    assert "vehicle" not in trip
    trip = await api.call("PATCH", path, {"vehicle_id": vehicle_id, "status": "enroute_to_pickup", "version": 3})
    assert (trip["status"], trip["version"]) == ("enroute_to_pickup", 4)


@pytest.mark.parametrize("version", [0, 2, -1, 2**70])
async def test_another_version_is_a_conflict(api: Api, fleet_id: str, version: int) -> None:
    trip = await api.trip(fleet_id, None)
    for body in ({"status": "canceled"}, {"status": "new"}, {"route": "??_ibE_ibE"}, {}):
        error = await refused(api, "PATCH", f"/trips/{trip['trip_id']}", {**body, "version": version}, status=409)
        assert error["code"] == "conflict"
    assert await api.call("GET", f"/trips/{trip['trip_id']}") == trip


@pytest.mark.parametrize(
    "body, code, field",
    [
        ({"status": "canceled"}, "bad_field", "version"),
        ({}, "bad_field", "version"),
        ({"status": "canceled", "version": "1"}, "bad_type", "version"),
        ({"status": "canceled", "version": None}, "bad_type", "version"),
        ({"status": "canceled", "version": 1.5}, "bad_type", "version"),
        ({"status": "canceled", "version": True}, "bad_type", "version"),
        ({"status": "flying", "version": 1}, "bad_field", "status"),
        ({"status": "CANCELED", "version": 1}, "bad_field", "status"),
        ({"status": None, "version": 1}, "bad_type", "status"),
        ({"vehicle_id": "a b", "version": 1}, "bad_field", "vehicle_id"),
        ({"vehicle_id": "a\0b", "version": 1}, "bad_field", "vehicle_id"),
        ({"vehicle_id": 7, "version": 1}, "bad_type", "vehicle_id"),
    ],
    ids=str,
)
async def test_a_wrong_patch(api: Api, fleet_id: str, body: Message, code: str, field: str) -> None:
    trip = await api.trip(fleet_id, None)
    error = await refused(api, "PATCH", f"/trips/{trip['trip_id']}", body, status=422)
    assert (error["code"], error["field"]) == (code, field)
    assert await api.call("GET", f"/trips/{trip['trip_id']}") == trip


async def test_one_of_many_concurrent_changes_wins(api: Api, fleet_id: str) -> None:
    trip = await api.trip(fleet_id, await api.vehicle(fleet_id))
    body = {"status": "enroute_to_pickup", "version": 1}
    answers = await asyncio.gather(*(api.http.patch(f"/trips/{trip['trip_id']}", json=body) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 11
    assert (await api.call("GET", f"/trips/{trip['trip_id']}"))["version"] == 2


async def test_one_trip_under_way_for_a_vehicle_at_a_time(api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trips = [await api.trip(fleet_id, vehicle_id) for _ in range(6)]
    body = {"status": "enroute_to_pickup", "version": 1}
    answers = await asyncio.gather(*(api.http.patch(f"/trips/{trip['trip_id']}", json=body) for trip in trips))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert {error_of(answer)["code"] for answer in answers if answer.status_code == 409} == {"conflict"}
    won = next(answer.json() for answer in answers if answer.status_code == 200)
    assert [t["trip_id"] for t in (await api.call("GET", f"/fleets/{fleet_id}/trips?status=enroute_to_pickup"))["trips"]] == [
        won["trip_id"]
    ]
    # A trip under way can't be given to a vehicle that is under way either.
    other_vehicle = await api.vehicle(fleet_id)
    other = await api.trip(fleet_id, other_vehicle)
    other = await api.advance(other["trip_id"], "enroute_to_pickup")
    change = {"vehicle_id": vehicle_id, "version": other["version"]}
    await refused(api, "PATCH", f"/trips/{other['trip_id']}", change, status=409)
    assert await api.call("GET", f"/trips/{other['trip_id']}") == other
    # When the first trip is over, the next may begin.
    await api.advance(won["trip_id"], "canceled")
    waiting = next(trip for trip in trips if trip["trip_id"] != won["trip_id"])
    await api.advance(waiting["trip_id"], "enroute_to_pickup")


# Google's example of the format.
POLYLINE = "_p~iF~ps|U_ulLnnqC_mqNvxq`@"
LINE = {"type": "LineString", "coordinates": [[-120.2, 38.5], [-120.95, 40.7], [-126.453, 43.252]]}


@pytest.mark.parametrize("route", [POLYLINE, LINE], ids=["polyline", "GeoJSON"])
async def test_a_route_in_both_forms(api: Api, fleet_id: str, route: Any) -> None:
    ends = {"pickup": {"latitude": 38.5, "longitude": -120.2}, "dropoff": {"latitude": 43.252, "longitude": -126.453}}
    trip = await api.trip(fleet_id, None, route=route, **ends)
    assert trip["route"] == LINE
    path = f"/trips/{trip['trip_id']}"
    assert (await api.call("GET", path))["route"] == LINE
    (listed,) = [t for t in (await api.call("GET", f"/fleets/{fleet_id}/trips"))["trips"] if t["trip_id"] == trip["trip_id"]]
    assert listed["route"] == LINE
    other = {"type": "LineString", "coordinates": [[-120.2, 38.5], [-126.5, 43.2]]}
    trip = await api.call("PATCH", path, {"route": other, "version": 1})
    assert (trip["route"], trip["version"]) == (other, 2)
    # A change of status keeps the route. null removes it.
    assert (await api.advance(trip["trip_id"], "canceled"))["route"] == other
    assert "route" not in await api.call("PATCH", path, {"route": None, "version": 3})


BAD_ROUTES: dict[str, Any] = {
    "no polyline": "a",
    "an empty one": "",
    "half a point": POLYLINE[:5],
    "one point": {"type": "LineString", "coordinates": [[9, 47]]},
    "no points": {"type": "LineString", "coordinates": []},
    "a Polygon": {"type": "Polygon", "coordinates": [[[9, 47], [9, 48], [10, 48], [9, 47]]]},
    "no coordinates": {"type": "LineString"},
    "a point of one number": {"type": "LineString", "coordinates": [[9], [9, 48]]},
    "a point of texts": {"type": "LineString", "coordinates": [["9", "47"], [9, 48]]},
    "longitude 181": {"type": "LineString", "coordinates": [[181, 47], [9, 48]]},
    "latitude 90.1": {"type": "LineString", "coordinates": [[9, 90.1], [9, 48]]},
    "a number": 7,
    "an array": [[9, 47], [9, 48]],
}


@pytest.mark.parametrize("route", BAD_ROUTES.values(), ids=BAD_ROUTES.keys())
async def test_an_invalid_route(api: Api, fleet_id: str, route: Any) -> None:
    body = {"fleet_id": fleet_id, "pickup": PLACE, "dropoff": PLACE, "route": route}
    error = await refused(api, "POST", "/trips", body, status=422)
    assert error["field"].startswith("route")


@pytest.mark.parametrize(
    "changes, status, code, field",
    [
        ({"pickup": None}, 422, "bad_type", "pickup"),
        ({"pickup": {"latitude": 47}}, 422, "bad_field", "longitude"),
        ({"pickup": {"latitude": 90.0001, "longitude": 9}}, 422, "out_of_range", "pickup.latitude"),
        ({"dropoff": {"latitude": 47, "longitude": -180.1}}, 422, "out_of_range", "dropoff.longitude"),
        ({"dropoff": {"latitude": True, "longitude": 9}}, 422, "bad_type", "dropoff.latitude"),
        ({"dropoff": {**PLACE, "name": "a\0b"}}, 422, "bad_field", "dropoff.name"),
        ({"stops": {}}, 422, "bad_type", "stops"),
        ({"stops": [PLACE, {"latitude": "47", "longitude": 9}]}, 422, "bad_type", "stops"),
        ({"stops": [PLACE] * 5_000}, 422, "bad_field", "stops"),
        ({"fleet_id": "a b"}, 422, "bad_field", "fleet_id"),
        ({"fleet_id": "no-such-fleet"}, 404, "not_found", "fleet_id"),
        ({"vehicle_id": "no-such-vehicle"}, 404, "not_found", "vehicle_id"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_a_wrong_request_for_a_trip(
    api: Api, fleet_id: str, changes: Message, status: int, code: str, field: str
) -> None:
    body = {"fleet_id": fleet_id, "pickup": PLACE, "dropoff": PLACE, **changes}
    error = await refused(api, "POST", "/trips", body, status=status)
    assert error["code"] == code
    assert error["field"].startswith(field)


async def test_the_poles_and_the_date_line_are_places(api: Api, fleet_id: str) -> None:
    ends = [{"latitude": 90.0, "longitude": 180.0}, {"latitude": -90.0, "longitude": -180.0}]
    trip = await api.trip(fleet_id, None, pickup=ends[0], dropoff=ends[1])
    assert (trip["pickup"], trip["dropoff"]) == tuple(ends)


async def test_a_fleets_trips_by_status(api: Api) -> None:
    fleet_id = await api.fleet()
    trips = [await api.trip(fleet_id, None) for _ in range(3)]
    await api.advance(trips[0]["trip_id"], "canceled")
    path = f"/fleets/{fleet_id}/trips"
    assert {t["trip_id"] for t in (await api.call("GET", path))["trips"]} == {t["trip_id"] for t in trips}
    canceled = (await api.call("GET", path, status="canceled"))["trips"]
    assert [t["trip_id"] for t in canceled] == [trips[0]["trip_id"]]
    assert (await api.call("GET", path, status="complete"))["trips"] == []
    for query in ("status=flying", "status=", "limit=0", "limit=x", "limit=-1", "limit=1e3", "limit=%D9%A1", "before=x"):
        assert (await refused(api, "GET", f"{path}?{query}", status=422))["code"] == "bad_field"


async def test_a_trip_is_removed_unless_it_is_under_way(api: Api) -> None:
    _, trip_id = await api.under_way()
    await refused(api, "DELETE", f"/trips/{trip_id}", status=409)
    await api.advance(trip_id, "canceled")
    await api.call("DELETE", f"/trips/{trip_id}", expect=204)
    for method in ("GET", "DELETE"):
        assert (await api.http.request(method, f"/trips/{trip_id}")).json() == NOT_FOUND


async def test_who_sees_a_trip(api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    for role, subject, status in (
        ("service", None, 200),
        ("driver", vehicle_id, 200),
        ("passenger", trip_id, 200),
        ("dispatcher", fleet_id, 200),
        ("operator", None, 404),
        ("driver", "another", 404),
        ("passenger", "another", 404),
        ("dispatcher", "another", 404),
    ):
        response = await api.http.get(f"/trips/{trip_id}", headers={"Authorization": f"Bearer {token(role, subject)}"})
        assert response.status_code == status, role
        if status == 404:
            assert response.json() == NOT_FOUND
        else:
            assert response.json()["vehicle"]["vehicle_id"] == vehicle_id
