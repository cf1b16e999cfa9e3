"""The HTTP contract of fleets and vehicles, and of finding the nearest vehicles."""

import asyncio
from typing import Any

import pytest

from tests.support.clients import Api, Driver, fix, new_id, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.answers import NOT_FOUND, refused

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


async def test_thresholds_of_a_fleet_are_set_and_reset(api: Api) -> None:
    fleet_id = await api.fleet()
    given = {"name": "x", "speed_limit": 22.2, "idle_after": 60, "off_route_distance": 50, "signal_lost_after": 20}
    await api.call("PUT", f"/fleets/{fleet_id}", given)
    assert await api.call("GET", f"/fleets/{fleet_id}") == {"fleet_id": fleet_id, "dwell_after": 300, **given}
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "x"})
    assert "speed_limit" not in await api.call("GET", f"/fleets/{fleet_id}")
    for value, code in ((0, "out_of_range"), (-1, "out_of_range"), ("fast", "bad_type"), (True, "bad_type")):
        error = await refused(api, "PUT", f"/fleets/{fleet_id}", {"name": "x", "speed_limit": value}, status=422)
        assert (error["code"], error["field"]) == (code, "speed_limit")


INVALID_IDS = ["a%20b", "x" * 65, "a%00b", "%C3%BC", "a+b", "a~", "%2e%2e%00"]


@pytest.mark.parametrize("name", INVALID_IDS)
async def test_an_invalid_id_in_a_path(api: Api, fleet_id: str, name: str) -> None:
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
async def test_an_invalid_label(api: Api, fleet_id: str, field: str, text: Any, code: str) -> None:
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


async def test_a_vehicle_needs_an_existing_fleet(api: Api) -> None:
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
    # Programs write floats in these ways: with an exponent near zero, or with a point at either end.
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
async def test_a_wrong_request_for_vehicles(api: Api, fleet_id: str, query: str, code: str, field: str) -> None:
    error = await refused(api, "GET", f"/fleets/{fleet_id}/vehicles?{query}", status=422)
    assert (error["code"], error["field"]) == (code, field)
    if code == "out_of_range":
        assert query.removeprefix("near=") in error["detail"], "a rounded value would look valid"
