"""The HTTP contract: what an integrator's backend may count on, and what it is told when it is wrong."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import gpxpy
import httpx
import jwt
import pytest

from tests.support.clients import Api, Driver, Message, fix, new_id, now_ms, token
from tests.support.hub_process import SECRET, HubProcess

HOUR_MS = 3_600_000
PLACE = {"latitude": 47.1, "longitude": 9.5}
NOT_FOUND = {"error": {"code": "not_found", "detail": "not yours, or no such thing"}}


async def refused(api: Api, method: str, path: str, body: Any = None, *, status: int, bearer: str | None = None) -> Message:
    """The error, which has the protocol's shape and nothing beside it."""
    headers = {"Authorization": f"Bearer {bearer}"} if bearer is not None else {}
    response = await api.http.request(method, path, json=body, headers=headers)
    assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text}"
    return error_of(response)


def error_of(response: httpx.Response) -> Message:
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert set(answer) == {"error"}
    error: Message = answer["error"]
    assert {"code", "detail"} <= set(error) <= {"code", "detail", "field"}
    assert all(isinstance(text, str) and text for text in error.values())
    return error


def decoded(text: str) -> Message:
    claims: Message = jwt.decode(text, SECRET, algorithms=["HS256"], audience="tracking")
    return claims


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role, claim",
    [("service", None), ("driver", "vehicle_id"), ("passenger", "trip_id"), ("dispatcher", "fleet_id"), ("operator", None)],
)
async def test_a_token_of_every_role(api: Api, role: str, claim: str | None) -> None:
    body: Message = {"role": role, "expires_in": 600, **({claim: "some-thing_1.x"} if claim else {})}
    before = int(time.time())
    issued = await api.call("POST", "/tokens", body)
    assert set(issued) == {"token", "jti", "expires_at"}
    claims = decoded(issued["token"])
    assert claims["role"] == role
    assert claims["jti"] == issued["jti"]
    assert claims["exp"] * 1000 == issued["expires_at"]
    assert before + 600 <= claims["exp"] <= time.time() + 600
    assert {name for name in claims if name.endswith("_id")} == ({claim} if claim else set())
    if claim:
        assert claims[claim] == "some-thing_1.x"
        error = await refused(api, "POST", "/tokens", {"role": role}, status=422)
        assert (error["code"], error["field"]) == ("bad_field", claim)


@pytest.mark.parametrize(
    "body, code, field",
    [
        ({}, "bad_field", "role"),
        ({"role": "admin"}, "bad_field", "role"),
        ({"role": 1}, "bad_type", "role"),
        ({"role": None}, "bad_type", "role"),
        ({"role": "driver", "vehicle_id": 5}, "bad_type", "vehicle_id"),
        ({"role": "driver", "vehicle_id": ""}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "a b"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "a\0b"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "ü"}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "x" * 65}, "bad_field", "vehicle_id"),
        ({"role": "driver", "vehicle_id": "../x"}, "bad_field", "vehicle_id"),
        ({"role": "service", "expires_in": 0}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": -5}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": 1e300}, "out_of_range", "expires_in"),
        ({"role": "service", "expires_in": "60"}, "bad_type", "expires_in"),
        ({"role": "service", "expires_in": True}, "bad_type", "expires_in"),
    ],
    ids=str,
)
async def test_a_token_that_is_asked_for_wrongly(api: Api, body: Message, code: str, field: str) -> None:
    error = await refused(api, "POST", "/tokens", body, status=422)
    assert (error["code"], error["field"]) == (code, field)


async def test_a_token_works_until_it_is_revoked(api: Api) -> None:
    issued = await api.call("POST", "/tokens", {"role": "service"})
    bearer = {"Authorization": f"Bearer {issued['token']}"}
    fleet_id = await api.fleet()
    assert (await api.http.get(f"/fleets/{fleet_id}", headers=bearer)).status_code == 200
    await api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    assert (await api.http.get(f"/fleets/{fleet_id}", headers=bearer)).status_code == 401
    # Again, and one that nobody knows: revoked is what both are afterwards.
    await api.call("DELETE", f"/tokens/{issued['jti']}", expect=204)
    await api.call("DELETE", f"/tokens/{new_id('jti')}", expect=204)


@pytest.mark.parametrize("jti", ["%00", "a%00b", "x" * 300])
async def test_a_jti_that_none_can_be(api: Api, jti: str) -> None:
    await refused(api, "DELETE", f"/tokens/{jti}", status=422)


@pytest.mark.parametrize("role", ["driver", "passenger", "dispatcher", "operator"])
async def test_only_a_service_issues_and_revokes(api: Api, fleet_id: str, role: str) -> None:
    bearer = token(role, fleet_id)
    assert (await refused(api, "POST", "/tokens", {"role": "service"}, status=403, bearer=bearer))["code"] == "forbidden"
    assert (await refused(api, "DELETE", "/tokens/x", status=403, bearer=bearer))["code"] == "forbidden"


async def test_an_expired_token_is_unauthorized(api: Api) -> None:
    claims = {"aud": "tracking", "exp": int(time.time()) - 1, "jti": "x", "role": "service"}
    bearer = jwt.encode(claims, SECRET, algorithm="HS256")
    assert (await refused(api, "GET", "/fleets/none", status=401, bearer=bearer))["code"] == "unauthorized"


# --- fleets and vehicles --------------------------------------------------------------------------------------------


async def test_a_fleet_is_made_renamed_and_read(api: Api) -> None:
    fleet_id = new_id("Fleet_1.x")
    thresholds = {"idle_after": 300, "off_route_distance": 150, "signal_lost_after": 60, "dwell_after": 300}
    assert await api.call("PUT", f"/fleets/{fleet_id}", {"name": "First"}, expect=201) == {
        "fleet_id": fleet_id,
        "name": "First",
        **thresholds,
    }
    renamed = {"fleet_id": fleet_id, "name": "Zweite „Flotte“ \U0001f698", **thresholds}
    assert await api.call("PUT", f"/fleets/{fleet_id}", {"name": renamed["name"]}, expect=200) == renamed
    assert await api.call("GET", f"/fleets/{fleet_id}") == renamed
    assert await api.call("GET", f"/fleets/{fleet_id}/vehicles") == {"vehicles": []}
    assert await api.call("GET", f"/fleets/{fleet_id}/trips") == {"trips": []}


async def test_a_fleets_thresholds_are_set_and_default_again(api: Api) -> None:
    fleet_id = await api.fleet()
    given = {"name": "x", "speed_limit": 22.2, "idle_after": 60, "off_route_distance": 50, "signal_lost_after": 20}
    await api.call("PUT", f"/fleets/{fleet_id}", given)
    assert await api.call("GET", f"/fleets/{fleet_id}") == {"fleet_id": fleet_id, "dwell_after": 300, **given}
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "x"})
    assert "speed_limit" not in await api.call("GET", f"/fleets/{fleet_id}")
    for value, code in ((0, "out_of_range"), (-1, "out_of_range"), ("fast", "bad_type"), (True, "bad_type")):
        error = await refused(api, "PUT", f"/fleets/{fleet_id}", {"name": "x", "speed_limit": value}, status=422)
        assert (error["code"], error["field"]) == (code, "speed_limit")


NAMES_THAT_ARE_NONE = ["a%20b", "x" * 65, "a%00b", "%C3%BC", "a+b", "a~", "%2e%2e%00"]


@pytest.mark.parametrize("name", NAMES_THAT_ARE_NONE)
async def test_a_name_in_a_path_that_none_can_be(api: Api, fleet_id: str, name: str) -> None:
    for method, path, body in (
        ("PUT", f"/fleets/{name}", {"name": "x"}),
        ("GET", f"/fleets/{name}", None),
        ("PUT", f"/vehicles/{name}", {"fleet_id": fleet_id}),
        ("GET", f"/vehicles/{name}", None),
        ("DELETE", f"/vehicles/{name}", None),
        ("GET", f"/vehicles/{name}/track", None),
    ):
        assert (await refused(api, method, path, body, status=422))["code"] == "bad_field"


@pytest.mark.parametrize("field", ["name", "kind", "plate"])
@pytest.mark.parametrize(
    "text, code",
    [
        ("a\0b", "bad_field"),
        ("\0", "bad_field"),
        (5, "bad_type"),
        (None, "bad_type"),
        (["x"], "bad_type"),
    ],
    ids=["NUL within", "NUL", "number", "null", "array"],
)
async def test_a_label_that_none_can_be(api: Api, fleet_id: str, field: str, text: Any, code: str) -> None:
    vehicle_id = new_id("van")
    error = await refused(api, "PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, field: text}, status=422)
    assert (error["code"], error["field"]) == (code, field)
    assert (await refused(api, "GET", f"/vehicles/{vehicle_id}", status=404))["code"] == "not_found"


async def test_a_vehicle_is_made_changed_read_and_removed(api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = new_id("van")
    body = {"fleet_id": fleet_id, "name": "Van 1", "kind": "van", "plate": "FL 1"}
    assert await api.call("PUT", f"/vehicles/{vehicle_id}", body, expect=201) == {"vehicle_id": vehicle_id, **body}
    body["plate"] = "FL 2"
    assert await api.call("PUT", f"/vehicles/{vehicle_id}", body, expect=200) == {"vehicle_id": vehicle_id, **body}
    assert await api.call("GET", f"/vehicles/{vehicle_id}") == {"vehicle_id": vehicle_id, **body, "status": "lost"}
    (listed,) = (await api.call("GET", f"/fleets/{fleet_id}/vehicles"))["vehicles"]
    assert {name: listed[name] for name in ("vehicle_id", "name", "plate")} == {
        "vehicle_id": vehicle_id,
        "name": "Van 1",
        "plate": "FL 2",
    }
    await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
    assert (await api.http.get(f"/vehicles/{vehicle_id}")).json() == NOT_FOUND
    assert (await api.http.delete(f"/vehicles/{vehicle_id}")).json() == NOT_FOUND


async def test_a_vehicle_needs_a_fleet_that_there_is(api: Api) -> None:
    error = await refused(api, "PUT", f"/vehicles/{new_id('van')}", {"fleet_id": new_id("fleet")}, status=404)
    assert (error["code"], error["field"]) == ("not_found", "fleet_id")
    error = await refused(api, "PUT", f"/vehicles/{new_id('van')}", {"name": "x"}, status=422)
    assert (error["code"], error["field"]) == ("bad_field", "fleet_id")


async def test_a_vehicle_under_way_is_neither_removed_nor_moved(api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    assert (await refused(api, "DELETE", f"/vehicles/{vehicle_id}", status=409))["code"] == "conflict"
    body = {"fleet_id": await api.fleet()}
    assert (await refused(api, "PUT", f"/vehicles/{vehicle_id}", body, status=409))["code"] == "conflict"
    await api.advance(trip_id, "canceled")
    await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)


async def test_a_dispatcher_manages_its_fleet(api: Api, hub: HubProcess) -> None:
    fleet_id = await api.fleet()
    async with Api(hub.url, token("dispatcher", fleet_id)) as dispatcher:
        vehicle_id = await api.vehicle(fleet_id)
        changed = {"fleet_id": fleet_id, "name": "Van 2"}
        assert (await dispatcher.call("PUT", f"/vehicles/{vehicle_id}", changed, expect=200))["name"] == "Van 2"
        trip = await dispatcher.trip(fleet_id, vehicle_id)
        await dispatcher.advance(trip["trip_id"], "enroute_to_pickup", "canceled")
        assert len((await dispatcher.call("GET", f"/fleets/{fleet_id}/trips"))["trips"]) == 1
        assert await dispatcher.track(f"/vehicles/{vehicle_id}/track") == []
        assert (await dispatcher.call("PUT", f"/fleets/{fleet_id}", {"name": "x"}, expect=200))["name"] == "x"
        await refused(dispatcher, "PUT", f"/fleets/{await api.fleet()}", {"name": "x"}, status=404)
    missing = new_id("fleet")
    async with Api(hub.url, token("dispatcher", missing)) as dispatcher:
        await refused(dispatcher, "PUT", f"/fleets/{missing}", {"name": "x"}, status=404)


# --- trips ----------------------------------------------------------------------------------------------------------

# As PROTOCOL has it, not as the code has it.
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
    """Allowed, refused, or a repeat: 49 of them."""
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
    # Nobody can drive it yet.
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
async def test_a_patch_that_is_wrong(api: Api, fleet_id: str, body: Message, code: str, field: str) -> None:
    trip = await api.trip(fleet_id, None)
    error = await refused(api, "PATCH", f"/trips/{trip['trip_id']}", body, status=422)
    assert (error["code"], error["field"]) == (code, field)
    assert await api.call("GET", f"/trips/{trip['trip_id']}") == trip


async def test_of_many_changes_at_once_one_wins(api: Api, fleet_id: str) -> None:
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
    # Nor by giving a trip under way to a vehicle that is under way.
    other_vehicle = await api.vehicle(fleet_id)
    other = await api.trip(fleet_id, other_vehicle)
    other = await api.advance(other["trip_id"], "enroute_to_pickup")
    change = {"vehicle_id": vehicle_id, "version": other["version"]}
    await refused(api, "PATCH", f"/trips/{other['trip_id']}", change, status=409)
    assert await api.call("GET", f"/trips/{other['trip_id']}") == other
    # With the first one over, the next may begin.
    await api.advance(won["trip_id"], "canceled")
    waiting = next(trip for trip in trips if trip["trip_id"] != won["trip_id"])
    await api.advance(waiting["trip_id"], "enroute_to_pickup")


# Google's own example of the format.
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
    # A status alone leaves the route as it is; null takes it away.
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
async def test_a_route_that_is_none(api: Api, fleet_id: str, route: Any) -> None:
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
async def test_a_trip_that_is_asked_for_wrongly(
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


# --- shares ---------------------------------------------------------------------------------------------------------


async def test_a_share_is_a_link_at_the_public_address(api: Api, hub: HubProcess) -> None:
    _, trip_id = await api.under_way()
    before = int(time.time())
    response = await api.http.post(
        f"/trips/{trip_id}/shares",
        json={"expires_in": 60},
        headers={"Host": "elsewhere.example", "X-Forwarded-Host": "x.example"},
    )
    assert response.status_code == 201
    share = response.json()
    assert set(share) == {"share_id", "url", "token", "expires_at"}
    assert share["url"] == f"{hub.url}/trip/{trip_id}#{share['token']}"
    assert (before + 60) * 1000 <= share["expires_at"] <= (int(time.time()) + 60) * 1000
    claims = decoded(share["token"])
    assert (claims["role"], claims["trip_id"], claims["share_id"]) == ("passenger", trip_id, share["share_id"])
    assert claims["exp"] * 1000 == share["expires_at"]
    response = await api.http.get(f"/trips/{trip_id}", headers={"Authorization": f"Bearer {share['token']}"})
    assert response.status_code == 200


async def test_shares_are_listed_without_what_opens_them(api: Api) -> None:
    _, trip_id = await api.under_way()
    shares = [await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 60 + n}) for n in range(3)]
    response = await api.http.get(f"/trips/{trip_id}/shares")
    assert [(s["share_id"], s["expires_at"]) for s in response.json()["shares"]] == [
        (s["share_id"], s["expires_at"]) for s in shares
    ]
    assert not any(s["token"].rpartition(".")[2] in response.text for s in shares)


@pytest.mark.parametrize("expires_in", [0, -1, 1e300, "60", None, True])
async def test_a_share_that_is_asked_for_wrongly(api: Api, fleet_id: str, expires_in: Any) -> None:
    trip = await api.trip(fleet_id, None)
    error = await refused(api, "POST", f"/trips/{trip['trip_id']}/shares", {"expires_in": expires_in}, status=422)
    assert error["field"] == "expires_in"


async def test_a_trip_that_is_over_has_nothing_to_share(api: Api, fleet_id: str) -> None:
    trip = await api.trip(fleet_id, None)
    await api.advance(trip["trip_id"], "canceled")
    await refused(api, "POST", f"/trips/{trip['trip_id']}/shares", {}, status=409)


async def test_a_share_that_there_is_not(api: Api) -> None:
    for method, path in (("DELETE", "/shares/none"), ("DELETE", "/shares/a%00b"), ("GET", "/trips/none/shares")):
        assert (await api.http.request(method, path)).json() == NOT_FOUND
    assert (await api.http.post("/trips/none/shares", json={})).json() == NOT_FOUND


# --- where a fleet's vehicles are -----------------------------------------------------------------------------------


async def test_the_nearest_vehicles_and_the_pages_of_a_fleet(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    far, near, silent = [await api.vehicle(fleet_id, name=name) for name in ("Far", "Near", "Silent")]
    now = now_ms()
    for vehicle_id, latitude, known in ((far, 47.3, {"speed": 8.5, "battery": 0.5}), (near, 47.15, {})):
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(fix(1, fix_time=now, latitude=latitude, **known))
            await driver.acknowledged(1)
    path = f"/fleets/{fleet_id}/vehicles"
    # The table of latest positions is written every few seconds.
    async with asyncio.timeout(30):
        while len((await api.call("GET", path, near="47.141,9.521"))["vehicles"]) < 2:
            pass
    first, second = (await api.call("GET", path, near="47.141, 9.521"))["vehicles"]
    assert first.pop("distance") == pytest.approx(1_000.8, abs=1)
    assert second.pop("distance") == pytest.approx(17_680, abs=5)
    described = {"fleet_id": fleet_id, "kind": "van", "plate": "FL 12345"}
    seen = {"longitude": 9.521, "fix_time": now, "status": "available"}
    assert first == {"vehicle_id": near, "name": "Near", "latitude": 47.15, **described, **seen}
    assert second == {"vehicle_id": far, "name": "Far", "latitude": 47.3, "speed": 8.5, "battery": 0.5, **described, **seen}
    assert (await api.call("GET", path, near="47.4,9.5", limit=1))["vehicles"][0]["vehicle_id"] == far
    # As programs write floats: an exponent next to zero, a point at either end.
    for near_zero in (f"51.4779,{-0.00004}", "51.4779,2e-07", "+51.,-.5", "0,1E+2"):
        assert len((await api.call("GET", path, near=near_zero))["vehicles"]) == 2
    trip = await api.trip(fleet_id, near)
    found = (await api.call("GET", path, near="47.141,9.521", available="true"))["vehicles"]
    assert [vehicle["vehicle_id"] for vehicle in found] == [far]
    await api.advance(trip["trip_id"], "canceled")
    found = (await api.call("GET", path, near="47.141,9.521", available="true"))["vehicles"]
    assert [vehicle["vehicle_id"] for vehicle in found] == [near, far]

    listed = (await api.call("GET", path))["vehicles"]
    assert listed == sorted(
        [first, second, {"vehicle_id": silent, "name": "Silent", **described, "status": "lost"}],
        key=lambda v: v["vehicle_id"],
    )
    assert (await api.call("GET", path, search="fAR"))["vehicles"] == [second]
    assert (await api.call("GET", path, search="nothing like it"))["vehicles"] == []
    assert (await api.call("GET", path, after=listed[0]["vehicle_id"], limit=1))["vehicles"] == [listed[1]]


@pytest.mark.parametrize(
    "query, code, field",
    [
        ("near=", "bad_field", "near"),
        ("near=here", "bad_field", "near"),
        ("near=47.1", "bad_field", "near"),
        ("near=47.1,9.5,1", "bad_field", "near"),
        ("near=NaN,9.5", "bad_field", "near"),
        ("near=47.1,inf", "bad_field", "near"),
        ("near=47.1,1e", "bad_field", "near"),
        ("near=0,-180.0000001", "out_of_range", "near"),
        ("near=47.1,0x1", "bad_field", "near"),
        ("near=47.1,.", "bad_field", "near"),
        ("near=47.1,1e3", "out_of_range", "near"),
        ("near=47.1,1e999", "out_of_range", "near"),
        ("near=4_7,9.5", "bad_field", "near"),
        ("near=%D9%A4,9.5", "bad_field", "near"),
        ("near=47.1,9.5%00", "bad_field", "near"),
        ("near=90.0001,9.5", "out_of_range", "near"),
        ("near=9.5,180.5", "out_of_range", "near"),
        ("near=47.1,9.5&available=yes", "bad_field", "available"),
        ("near=47.1,9.5&limit=0", "bad_field", "limit"),
        ("near=47.1,9.5&limit=1001", "bad_field", "limit"),
        ("near=47.1,9.5&search=x", "bad_field", "search"),
        ("near=47.1,9.5&after=x", "bad_field", "after"),
        ("available=true", "bad_field", "available"),
        ("search=%00", "bad_field", "search"),
        ("after=%00", "bad_field", "after"),
        ("search=" + "x" * 201, "bad_field", "search"),
    ],
)
async def test_vehicles_that_are_asked_for_wrongly(api: Api, fleet_id: str, query: str, code: str, field: str) -> None:
    error = await refused(api, "GET", f"/fleets/{fleet_id}/vehicles?{query}", status=422)
    assert (error["code"], error["field"]) == (code, field)
    if code == "out_of_range":
        assert query.removeprefix("near=") in error["detail"], "rounded it would look right"


# --- tracks ---------------------------------------------------------------------------------------------------------

COLUMNS = "vehicle_id,session,seq,fix_time,server_time,latitude,longitude,accuracy,altitude,speed,bearing,trip_id,suspect"


class Driven:
    """A vehicle on a trip with three fixes, one of them suspect, and one fix from long before the trip."""

    def __init__(self, vehicle_id: str, trip_id: str, session: str, fixes: list[Message]) -> None:
        self.vehicle_id, self.trip_id, self.session, self.fixes = vehicle_id, trip_id, session, fixes


@pytest.fixture(scope="module")
async def driven(hub: HubProcess, api: Api) -> AsyncIterator[Driven]:
    vehicle_id, trip_id = await api.under_way()
    now = now_ms()
    fixes = [
        fix(1, fix_time=now - HOUR_MS),
        fix(2, fix_time=now - 2_000, accuracy=4.7, altitude=-3.25, speed=8.5, bearing=359.9),
        fix(3, fix_time=now - 1_000, latitude=0, longitude=0, accuracy=900),
        fix(4, fix_time=now),
    ]
    async with Driver(hub.url, vehicle_id) as driver:
        await driver.report(*fixes)
        assert await driver.acknowledged(4) == []
        yield Driven(vehicle_id, trip_id, driver.session, fixes)


async def csv_of(api: Api, path: str, **params: Any) -> list[str]:
    response = await api.http.get(path, params={"format": "csv", **params})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/csv")
    header, *rows = response.text.split("\n")
    assert header == COLUMNS
    assert rows.pop() == ""
    return rows


async def test_a_csv_track_has_these_columns_and_values(api: Api, driven: Driven) -> None:
    first, second, _, fourth = driven.fixes
    rows = await csv_of(api, f"/vehicles/{driven.vehicle_id}/track")
    server_times = [row.split(",")[4] for row in rows]
    assert all(abs(int(time_) - second["fix_time"]) < 60_000 for time_ in server_times)
    begin = f"{driven.vehicle_id},{driven.session}"
    assert rows == [
        f"{begin},1,{first['fix_time']},{server_times[0]},{first['latitude']},9.521,,,,,,",
        f"{begin},2,{second['fix_time']},{server_times[1]},{second['latitude']},9.521,4.7,-3.25,8.5,359.9,{driven.trip_id},",
        f"{begin},4,{fourth['fix_time']},{server_times[2]},{fourth['latitude']},9.521,,,,,{driven.trip_id},",
    ]
    assert await csv_of(api, f"/trips/{driven.trip_id}/track") == rows[1:]


async def test_suspects_are_in_a_track_where_they_are_asked_for(api: Api, driven: Driven) -> None:
    for path, others in ((f"/vehicles/{driven.vehicle_id}/track", 3), (f"/trips/{driven.trip_id}/track", 2)):
        rows = await csv_of(api, path, suspect="true")
        assert len(rows) == others + 1
        (suspect,) = [row.split(",") for row in rows if not row.endswith(",")]
        assert suspect[2] == "3"
        assert {"null_island", "inaccurate"} <= set(suspect[12].split(";"))
        assert [row for row in rows if row.endswith(",")] == await csv_of(api, path, suspect="false") == await csv_of(api, path)
        response = await api.http.get(path)
        assert "[0.0,0.0]" not in response.text
        response = await api.http.get(path, params={"suspect": "true"})
        assert "[0.0,0.0]" in response.text


async def test_a_geojson_track_is_geojson(api: Api, driven: Driven) -> None:
    _, second, _, fourth = driven.fixes
    line = [[f["longitude"], f["latitude"]] for f in (second, fourth)]
    for params in ({}, {"format": "geojson"}):
        response = await api.http.get(f"/trips/{driven.trip_id}/track", params=params)
        assert response.headers["content-type"].startswith("application/geo+json")
        collection = response.json()
        assert collection["type"] == "FeatureCollection"
        (feature,) = collection["features"]
        assert feature["type"] == "Feature"
        assert feature["geometry"] == {"type": "LineString", "coordinates": line}
        assert isinstance(feature["properties"], dict)


async def test_a_gpx_track_is_gpx(api: Api, driven: Driven) -> None:
    _, second, _, fourth = driven.fixes
    for path, name, fixes in (
        (f"/trips/{driven.trip_id}/track", driven.trip_id, [second, fourth]),
        (f"/vehicles/{driven.vehicle_id}/track", driven.vehicle_id, [driven.fixes[0], second, fourth]),
    ):
        response = await api.http.get(path, params={"format": "gpx"})
        assert response.headers["content-type"] == "application/gpx+xml"
        document = gpxpy.parse(response.text, version="1.1")
        (track,) = document.tracks
        assert track.name == name
        points = [point for segment in track.segments for point in segment.points]
        assert [(point.latitude, point.longitude) for point in points] == [(f["latitude"], f["longitude"]) for f in fixes]
        assert [round(point.time.timestamp() * 1000) for point in points if point.time] == [f["fix_time"] for f in fixes]
        # An hour lies between the first fix and the others.
        assert len(track.segments) == len(fixes) - 1
        assert points[-2].elevation == second["altitude"]


async def test_a_geojson_track_of_one_position_and_of_none(api: Api, driven: Driven) -> None:
    """A LineString of fewer than two positions would be none (RFC 7946, 3.1.4)."""
    first = driven.fixes[0]
    path = f"/vehicles/{driven.vehicle_id}/track"
    (feature,) = (await api.call("GET", path, to=first["fix_time"] + 1))["features"]
    assert feature["geometry"] == {"type": "Point", "coordinates": [first["longitude"], first["latitude"]]}
    assert (await api.call("GET", path, to=first["fix_time"] - HOUR_MS))["features"] == []


async def test_a_track_over_many_chunks_is_whole(api: Api, hub: HubProcess, fleet_id: str) -> None:
    vehicle_id = await api.vehicle(fleet_id)
    begin = now_ms() - 2_000_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000, latitude=47 + seq * 0.00005) for seq in range(1, 1_203)]
    async with Driver(hub.url, vehicle_id) as driver:
        for place in range(0, len(fixes), 400):
            await driver.report(*fixes[place : place + 400])
        await driver.acknowledged(len(fixes))
    path = f"/vehicles/{vehicle_id}/track"
    assert [int(row.split(",")[2]) for row in await csv_of(api, path)] == list(range(1, 1_203))
    (feature,) = (await api.call("GET", path))["features"]
    assert feature["geometry"]["coordinates"] == [[f["longitude"], f["latitude"]] for f in fixes]


async def test_a_span_of_a_track(api: Api, driven: Driven) -> None:
    """Any span; a fix at `from` is in it."""
    first, second, _, fourth = driven.fixes
    path = f"/vehicles/{driven.vehicle_id}/track"

    async def seqs(**span: int) -> list[str]:
        return [row.split(",")[2] for row in await csv_of(api, path, **span)]

    assert await seqs(**{"from": first["fix_time"]}) == ["1", "2", "4"]
    assert await seqs(**{"from": first["fix_time"] + 1}) == ["2", "4"]
    assert await seqs(to=second["fix_time"]) == ["1"]
    assert await seqs(to=second["fix_time"] + 1) == ["1", "2"]
    assert await seqs(**{"from": second["fix_time"], "to": fourth["fix_time"] + 1}) == ["2", "4"]
    assert await seqs(**{"from": fourth["fix_time"], "to": fourth["fix_time"]}) == []
    assert await seqs(**{"from": 0, "to": now_ms() + 10 * 365 * 24 * HOUR_MS}) == ["1", "2", "4"]


@pytest.mark.parametrize(
    "query, field",
    [
        ("format=xml", "format"),
        ("format=", "format"),
        ("format=CSV", "format"),
        ("format=csv%00", "format"),
        ("suspect=1", "suspect"),
        ("suspect=True", "suspect"),
        ("from=yesterday", "from"),
        ("from=-1", "from"),
        ("from=1.5", "from"),
        ("to=99999999999999999999999", "to"),
        ("to=1e12", "to"),
        ("from=", "from"),
        ("from=1700000000001&to=1700000000000", "from"),
    ],
)
async def test_a_track_that_is_asked_for_wrongly(api: Api, driven: Driven, query: str, field: str) -> None:
    error = await refused(api, "GET", f"/vehicles/{driven.vehicle_id}/track?{query}", status=422)
    assert (error["code"], error["field"]) == ("bad_field", field)


async def test_who_sees_a_track(api: Api, driven: Driven) -> None:
    fleet_id = (await api.call("GET", f"/vehicles/{driven.vehicle_id}"))["fleet_id"]
    for role, subject, of_trip, of_vehicle in (
        ("service", None, 200, 200),
        ("dispatcher", fleet_id, 200, 200),
        ("passenger", driven.trip_id, 200, 403),
        ("passenger", "another", 404, 403),
        ("dispatcher", "another", 404, 404),
        ("driver", "another", 404, 403),
        ("operator", None, 404, 403),
    ):
        headers = {"Authorization": f"Bearer {token(role, subject)}"}
        response = await api.http.get(f"/trips/{driven.trip_id}/track", headers=headers)
        assert response.status_code == of_trip, role
        response = await api.http.get(f"/vehicles/{driven.vehicle_id}/track", headers=headers)
        assert response.status_code == of_vehicle, role


# --- bodies, methods, paths -----------------------------------------------------------------------------------------

NO_BODIES = {
    "half an object": b'{"name":',
    "NaN": b'{"name":NaN}',
    "no JSON": b"name=x",
    "no UTF-8": b'{"name":"\xff"}',
    "lone surrogate": rb'{"name":"\ud800"}',
    "nested": b'{"name":"x","other":' + b"[" * 60_000,
    "nested and closed": b'{"name":"x","other":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "5,000 digits": b'{"name":"x","other":[1,' + b"9" * 5_000 + b"}",
    "two objects": b'{"name":"x"}{"name":"y"}',
    "UTF-16": '{"name":"x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", NO_BODIES.values(), ids=NO_BODIES.keys())
async def test_a_body_that_is_no_json(api: Api, body: bytes) -> None:
    fleet_id = new_id("fleet")
    response = await api.http.put(f"/fleets/{fleet_id}", content=body)
    assert (response.status_code, error_of(response)["code"]) == (400, "bad_json")
    assert (await api.http.get(f"/fleets/{fleet_id}")).status_code == 404


@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"true"])
async def test_a_body_that_is_no_object(api: Api, body: bytes) -> None:
    response = await api.http.put(f"/fleets/{new_id('fleet')}", content=body)
    assert (response.status_code, error_of(response)["code"]) == (422, "bad_type")


async def test_no_body_lacks_its_fields(api: Api) -> None:
    response = await api.http.put(f"/fleets/{new_id('fleet')}", content=b"")
    error = error_of(response)
    assert (response.status_code, error["code"], error["field"]) == (422, "bad_field", "name")


async def test_unknown_fields_of_a_body_are_ignored(api: Api) -> None:
    fleet_id = new_id("fleet")
    made = await api.call("PUT", f"/fleets/{fleet_id}", {"name": "x", "fleet_id": "another", "colour": None})
    assert (made["fleet_id"], made["name"], "colour" in made) == (fleet_id, "x", False)


async def test_a_huge_body_is_refused(api: Api) -> None:
    """With its length declared, and without."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"name":"'
        for _ in range(40):
            yield b"x" * 64 * 1024
        yield b'"}'

    fleet_id = new_id("fleet")
    for content in (b'{"name":"' + b"x" * 2_500_000 + b'"}', chunks()):
        try:
            response = await api.http.put(f"/fleets/{fleet_id}", content=content)
        except httpx.WriteError:
            continue
        assert response.status_code == 413
        assert error_of(response)["code"] == "batch_too_large"
    assert (await api.http.get(f"/fleets/{fleet_id}")).json() == NOT_FOUND


async def test_a_method_that_there_is_not(api: Api, fleet_id: str) -> None:
    for method, path in (
        ("POST", f"/fleets/{fleet_id}"),
        ("DELETE", f"/fleets/{fleet_id}"),
        ("PATCH", "/vehicles/x"),
        ("PUT", "/trips"),
        ("GET", "/tokens"),
        ("GET", "/tokens/x"),
        ("PATCH", "/shares/x"),
        ("POST", "/vehicles/x/track"),
    ):
        response = await api.http.request(method, path)
        assert response.status_code == 405, (method, path)
        assert response.headers["allow"]
        error_of(response)


async def test_a_path_that_there_is_not_is_not_found(api: Api, hub: HubProcess) -> None:
    for path in ("/nothing", "/fleets", "/trips/x/y/z", "/v2/fleets/x", "/%00", "/fleets/x/vehicles/y"):
        response = await api.http.get(path)
        assert (response.status_code, response.json()) == (404, NOT_FOUND), path
    for path in ("/v2/fleets/x", "/admin", "/web/../tracking/app.py", "/web/%2e%2e/pyproject.toml", "/.git/config"):
        response = await api.http.get(f"{hub.url}{path}")
        assert (response.status_code, response.json()) == (404, NOT_FOUND), path


async def test_every_401_is_the_same_whatever_is_asked_for(api: Api, fleet_id: str) -> None:
    """Without a token nobody learns whether there is such a thing."""
    vehicle_id, trip_id = await api.under_way()
    seen = set()
    for path in (
        f"/fleets/{fleet_id}",
        "/fleets/none",
        f"/vehicles/{vehicle_id}",
        "/vehicles/none",
        f"/trips/{trip_id}",
        "/trips/none",
        f"/trips/{trip_id}/track",
        "/trips/none/track?format=nonsense",
    ):
        response = await api.http.get(path, headers={"Authorization": "Bearer x.y.z"})
        assert response.status_code == 401
        seen.add(response.content)
    assert len(seen) == 1
    error = json.loads(seen.pop())["error"]
    assert error["code"] == "unauthorized"


# --- for those who run the hub --------------------------------------------------------------------------------------


async def test_healthz_and_readyz_need_no_token(hub: HubProcess, api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        response = await api.http.send(httpx.Request("GET", f"{hub.url}{path}"))
        assert response.status_code == 200, response.text
    assert response.json()["reasons"] == []


@pytest.fixture
def lost_hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub whose database there is not."""
    process = HubProcess("postgresql://nobody@127.0.0.1:1/none", tmp_path / "log").start()
    yield process
    process.kill()


async def test_readyz_tells_why_it_is_not(lost_hub: HubProcess, api: Api) -> None:
    hub = lost_hub
    assert (await api.http.get(f"{hub.url}/healthz")).status_code == 200
    response = await api.http.get(f"{hub.url}/readyz")
    assert response.status_code == 503
    assert response.json()["reasons"]
    # And what needs the database says so, in the protocol's shape, without what only we should know.
    response = await api.http.get(f"{hub.url}/v1/fleets/none")
    assert (response.status_code, error_of(response)["code"]) == (503, "unavailable")
    assert "nobody" not in response.text


async def test_metrics_are_for_operators(hub: HubProcess, api: Api) -> None:
    url = f"{hub.url}/metrics"
    for role, subject, status in (
        ("operator", None, 200),
        ("driver", "v", 403),
        ("passenger", "t", 403),
        ("dispatcher", "f", 403),
    ):
        response = await api.http.get(url, headers={"Authorization": f"Bearer {token(role, subject)}"})
        assert response.status_code == status
        if status == 200:
            assert response.headers["content-type"].startswith("text/plain")
            assert "# TYPE tracking_" in response.text
        else:
            assert error_of(response)["code"] == "forbidden"
