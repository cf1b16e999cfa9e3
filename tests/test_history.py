"""Summaries and days as a hub serves them: a trip is driven, ends, and is read."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.clients import Api, Driver, Message, fix, now_ms, token
from tests.support.hub_process import HubProcess

DRIVE = ("arrived_at_pickup", "enroute_to_dropoff", "complete")


async def until(api: Api, path: str, holds: Callable[[Message], bool] = bool) -> Message:
    async with asyncio.timeout(30):
        while True:
            response = await api.http.get(path)
            if response.status_code == 200 and holds(response.json()):
                found: Message = response.json()
                return found
            await asyncio.sleep(0.02)


async def assert_who_may_read(api: Api, path: str, fleet_id: str, vehicle_id: str, trip_id: str) -> None:
    for role, subject, status in (
        ("dispatcher", fleet_id, 200),
        ("dispatcher", "another", 404),
        ("passenger", trip_id, 403),
        ("driver", vehicle_id, 403),
    ):
        response = await api.http.get(path, headers={"Authorization": f"Bearer {token(role, subject)}"})
        assert response.status_code == status, role


async def test_a_trip_is_driven_summed_up_and_erased(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(summary_delay="1", latest_interval="0.1")
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
        path = f"/trips/{trip_id}/summary"
        # The time just before the start belongs to the trip. So the test need not wait while the vehicle drives.
        begin = now_ms() - 20_000
        fixes = [fix(n, fix_time=begin + n * 1000, latitude=47.14 + n * 0.0001, speed=11.0 + n / 10) for n in range(1, 19)]
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(*fixes[:9], *fixes[10:])
            await driver.acknowledged(18)
            assert (await api.http.get(path)).status_code == 404
            trip = await api.advance(trip_id, *DRIVE)
            summary = await until(api, path)
            places = [[f["longitude"], f["latitude"]] for f in fixes if f is not fixes[9]]
            assert summary.pop("distance") == pytest.approx(17 * 11.1195, rel=1e-3)
            assert summary.pop("ended_at") - summary.pop("started_at") == pytest.approx(summary.pop("duration") * 1000)
            assert summary == {
                "trip_id": trip["trip_id"],
                "stops": 0,
                "top_speed": 12.8,
                "track": {"type": "LineString", "coordinates": places},
            }

            # The line gets a late fix.
            await driver.report(fix(19, fix_time=fixes[9]["fix_time"], latitude=fixes[9]["latitude"]))
            await driver.acknowledged(19)
            later = await until(api, path, lambda found: len(found["track"]["coordinates"]) == 18)
            assert later["track"]["coordinates"] == [[f["longitude"], f["latitude"]] for f in fixes]

        await assert_who_may_read(api, path, fleet_id, vehicle_id, trip_id)
        response = await api.http.get(path, headers={"Authorization": f"Bearer {token('operator')}"})
        assert response.status_code == 404

        days = f"/vehicles/{vehicle_id}/days"
        found = (await api.call("GET", days))["days"]
        assert sum(day["positions"] for day in found) == 18
        assert found[-1]["last_fix_time"] == fixes[-1]["fix_time"]
        assert found[-1]["top_speed"] == 12.8
        today = datetime.fromtimestamp(fixes[-1]["fix_time"] / 1000, UTC).date().isoformat()
        assert found[-1]["day"] == today
        assert (await api.call("GET", f"{days}?from={today}&to={today}"))["days"] == found[-1:]
        assert (await api.call("GET", f"{days}?from=2000-01-01&to=2000-12-31"))["days"] == []
        await assert_who_may_read(api, days, fleet_id, vehicle_id, trip_id)

        await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
        assert (await api.http.get(path)).status_code == 404
        assert (await api.http.get(days)).status_code == 404


async def test_a_trip_that_was_canceled_before_it_began_has_no_summary(api: Api) -> None:
    trip = await api.trip(await api.fleet(), None)
    await api.advance(trip["trip_id"], "canceled")
    assert (await api.http.get(f"/trips/{trip['trip_id']}/summary")).status_code == 404
    assert (await api.http.get("/trips/none/summary")).status_code == 404


@pytest.mark.parametrize(
    "query, field",
    [
        ("from=yesterday", "from"),
        ("from=2026-13-01", "from"),
        ("to=2026-02-30", "to"),
        ("from=20261124", "from"),
        ("from=2026-W48-2", "from"),
        ("to=%D9%A2026-01-01", "to"),
        ("to=1969-12-31", "to"),
        ("to=", "to"),
        ("from=2026-11-24%00", "from"),
        ("from=2026-11-25&to=2026-11-24", "from"),
        ("from=2024-01-01&to=2026-01-01", "from"),
    ],
)
async def test_days_that_are_asked_for_wrongly(api: Api, query: str, field: str) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    response = await api.http.get(f"/vehicles/{vehicle_id}/days?{query}")
    assert response.status_code == 422
    error = response.json()["error"]
    assert (error["code"], error["field"]) == ("bad_field", field)


@pytest.mark.parametrize(
    "span", [{"from": "2026-11-24"}, {"to": "1970-01-03"}, {"to": "9999-12-31"}, {"from": "9999-12-31"}, {}]
)
async def test_days_of_which_one_end_is_left_out(api: Api, span: dict[str, Any]) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    assert await api.call("GET", f"/vehicles/{vehicle_id}/days", **span) == {"days": []}
