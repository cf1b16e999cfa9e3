"""Row 85: nobody creates rows without limit. Each token has budgets for writes. Caps also hold for concurrent requests."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import httpx
import polyline
import pytest

from tests.attacks import rows
from tests.attacks.scene import stage
from tests.support.clients import Api, Driver, Message, Socket, fix, new_id, now_ms, token
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import SECRET, HubProcess
from tests.support.serving import serving
from tracking.app import create_app
from tracking.config import load
from tracking.demo.postgres import Cluster
from tracking.store.days import DAY_MS

PLACE = {"latitude": 47.141, "longitude": 9.521}
SQUARE = {"type": "Polygon", "coordinates": [[[9, 47], [9.1, 47], [9.1, 47.1], [9, 47]]]}


@pytest.fixture(scope="module")
def database(cluster: Cluster, template: str) -> Iterator[str]:
    cluster.create_database("caps", template)
    yield cluster.url("caps")
    cluster.drop_database("caps")


@pytest.fixture(scope="module")
def small(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with small caps and budgets. A backend has 20 times the budgets."""
    settings = {
        "fleets_limit": "40",
        "vehicles_per_fleet": "3",
        "geofences_per_fleet": "3",
        "open_trips_per_fleet": "5",
        "open_trips_per_vehicle": "2",
        "shares_per_trip": "3",
        "budget_bytes": "20000/60",
        "budget_shares": "4/60",
        "budget_sessions": "3/600",
        "budget_writes": "60/60",
    }
    process = HubProcess(database, tmp_path_factory.mktemp("caps") / "log", None, **settings).start()
    yield process
    process.kill()


@pytest.fixture
async def api(small: HubProcess) -> AsyncIterator[Api]:  # this one is not for the shared hub
    async with Api(small.url) as api:
        yield api


async def at_once(api: Api, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    return list(await asyncio.gather(*(api.http.request(method, path, json=body) for method, path, body in requests)))


def check_cap(responses: list[httpx.Response], good: int, setting: str) -> list[httpx.Response]:
    """Check that `good` requests succeeded, and that the others were told the setting. Returns the answers of the good ones."""
    through = [response for response in responses if response.is_success]
    assert len(through) == good, [response.text for response in responses]
    for response in responses:
        if response not in through:
            assert response.status_code == 409
            error = response.json()["error"]
            assert error["code"] == "conflict"
            assert f"TRACKING_{setting}" in error["detail"] and "at most" in error["detail"]
    return through


def check_budget_spent(response: httpx.Response) -> None:
    assert response.status_code == 429, response.text
    assert response.json()["error"]["code"] == "rate_limited"
    assert int(response.headers["Retry-After"]) >= 1


async def test_vehicles_of_a_fleet(api: Api) -> None:
    fleet_id, other = await api.fleet(), await api.fleet()
    names = [new_id("van") for _ in range(8)]
    made = check_cap(
        await at_once(api, *(("PUT", f"/vehicles/{name}", {"fleet_id": fleet_id}) for name in names)), 3, "VEHICLES_PER_FLEET"
    )
    [one, *_] = [response.json()["vehicle_id"] for response in made]
    # Changing a vehicle costs nothing. Moving one away makes room.
    await api.call("PUT", f"/vehicles/{one}", {"fleet_id": fleet_id, "name": "Van 1"}, expect=200)
    await api.call("PUT", f"/vehicles/{one}", {"fleet_id": other}, expect=200)
    await api.vehicle(fleet_id)
    # Moving one in counts like creating it.
    check_cap([await api.http.put(f"/vehicles/{one}", json={"fleet_id": fleet_id})], 0, "VEHICLES_PER_FLEET")


async def test_open_trips_of_a_fleet(api: Api) -> None:
    fleet_id = await api.fleet()
    body = {"fleet_id": fleet_id, "pickup": PLACE, "dropoff": PLACE}
    made = check_cap(await at_once(api, *[("POST", "/trips", body)] * 10), 5, "OPEN_TRIPS_PER_FLEET")
    await api.advance(made[0].json()["trip_id"], "canceled")
    await api.call("DELETE", f"/trips/{made[1].json()['trip_id']}")
    check_cap(await at_once(api, *[("POST", "/trips", body)] * 4), 2, "OPEN_TRIPS_PER_FLEET")


async def test_open_trips_of_a_vehicle(api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    body = {"fleet_id": fleet_id, "pickup": PLACE, "dropoff": PLACE, "vehicle_id": vehicle_id}
    made = check_cap(await at_once(api, *[("POST", "/trips", body)] * 6), 2, "OPEN_TRIPS_PER_VEHICLE")
    free = await api.trip(fleet_id, None)
    change = {"version": free["version"], "vehicle_id": vehicle_id}
    check_cap([await api.http.patch(f"/trips/{free['trip_id']}", json=change)], 0, "OPEN_TRIPS_PER_VEHICLE")
    await api.advance(made[0].json()["trip_id"], "canceled")
    await api.call("PATCH", f"/trips/{free['trip_id']}", change)


async def test_geofences_of_a_fleet(api: Api) -> None:
    path = f"/fleets/{await api.fleet()}/geofences"
    feature = {"type": "Feature", "geometry": SQUARE, "properties": {}}
    check_cap(await at_once(api, *(("PUT", f"{path}/{n}", feature) for n in range(8))), 3, "GEOFENCES_PER_FLEET")
    await api.call("PUT", f"{path}/{(await api.call('GET', path))['features'][0]['id']}", feature, expect=200)


async def test_valid_shares_of_a_trip(api: Api) -> None:
    path = f"/trips/{(await api.trip(await api.fleet(), None))['trip_id']}/shares"
    made = check_cap(await at_once(api, *[("POST", path, {})] * 8), 3, "SHARES_PER_TRIP")
    await api.call("DELETE", f"/shares/{made[0].json()['share_id']}")
    check_cap(await at_once(api, *[("POST", path, {})] * 2), 1, "SHARES_PER_TRIP")


async def test_a_dispatcher_has_a_budget_of_shares(small: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    path = f"/trips/{(await api.trip(fleet_id, None))['trip_id']}/shares"
    async with Api(small.url, token("dispatcher", fleet_id)) as one:
        for _ in range(4):
            share = await one.call("POST", path, {})
            await one.call("DELETE", f"/shares/{share['share_id']}")
        check_budget_spent(await one.http.post(path, json={}))
    await api.call("POST", path, {})


async def test_fleets(own_hub: Callable[..., HubProcess]) -> None:
    async with Api(own_hub(fleets_limit="3", revoked_limit="2").url) as api:
        body = {"name": "Fleet"}
        made = check_cap(await at_once(api, *(("PUT", f"/fleets/{n}", body) for n in range(8))), 3, "FLEETS_LIMIT")
        fleet_id = made[0].json()["fleet_id"]
        await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Another name"}, expect=200)

        # The same holds for revoked tokens.
        path = f"/trips/{(await api.trip(fleet_id, None))['trip_id']}/shares"
        share = await api.call("POST", path, {})
        for jti in ("one", "two", "one"):
            await api.call("DELETE", f"/tokens/{jti}", expect=204)
        check_cap([await api.http.delete("/tokens/three"), await api.http.post(path, json={})], 0, "REVOKED_LIMIT")
        # Tokens can still be revoked.
        await api.call("DELETE", f"/shares/{share['share_id']}", expect=204)


async def test_bytes_of_bodies_and_of_the_routes_stored_from_them(small: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    trip = await api.trip(fleet_id, None)
    async with Api(small.url, token("dispatcher", fleet_id)) as one:
        refused = await one.http.put(f"/fleets/{fleet_id}", json={"name": "Fleet", "more": "x" * 15_000})
        assert refused.status_code == 200
        check_budget_spent(await one.http.put(f"/fleets/{fleet_id}", json={"name": "Fleet", "more": "x" * 15_000}))
    # 2 kB of text become 16 kB in the table.
    points = [(47.141, 9.521), *[(47.145, 9.518)] * 900, (47.151, 9.515)]
    async with Api(small.url, token("dispatcher", fleet_id)) as other:
        change = {"version": trip["version"], "route": polyline.encode(points)}
        assert len(change["route"]) < 2_000
        trip = await other.call("PATCH", f"/trips/{trip['trip_id']}", change)
        check_budget_spent(await other.http.patch(f"/trips/{trip['trip_id']}", json={**change, "version": trip["version"]}))


async def test_bodies_that_never_end(small: HubProcess, api: Api) -> None:
    """Their memory is bounded for each token, and freed afterwards."""
    fleet_id = await api.fleet()
    bearer = token("dispatcher", fleet_id)
    head = f"PUT /v1/fleets/{fleet_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 9000\r\n\r\n"
    lines = []
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", small.port)
        writer.write(head.encode() + b" " * 8_000)
        lines.append((reader, writer))
    done, _ = await asyncio.wait([asyncio.create_task(reader.readline()) for reader, _ in lines], timeout=1)
    assert [answer.result().split()[1] for answer in done] == [b"429", b"429"]
    for _, writer in lines:
        writer.close()
    async with Api(small.url, bearer) as one:

        async def taken() -> bool:
            answer = await one.http.put(f"/fleets/{fleet_id}", json={"name": "Fleet", "more": "x" * 14_000})
            return answer.status_code == 200

        async with asyncio.timeout(10):
            while not await taken():
                await asyncio.sleep(0.1)


async def test_new_sessions_of_a_vehicle(small: HubProcess, api: Api, database: str) -> None:
    vehicle_id, _ = await api.under_way()
    async with Driver(small.url, vehicle_id) as driver:
        for _ in range(2):
            await driver.send({"type": "hello", "session": str(uuid.uuid4())})
            await driver.expect("ack")
        # Repeating hello with the present session costs nothing.
        session = str(uuid.uuid4())
        for _ in range(2):
            await driver.connection.send(f'{{"type":"position","seq":1,"fix_time":{now_ms()},"latitude":47,"longitude":9}}')
            await driver.expect("ack")
        await driver.send({"type": "hello", "session": session})
        error = await driver.expect("error")
        assert (error["code"], error["retry_after"] > 0) == ("rate_limited", True)
        assert await driver.closed() == 4013
    # The budget is the vehicle's, not the token's. Another vehicle has its own.
    async with Socket(f"{small.url}/v1/driver", token("driver", vehicle_id)) as again:
        await again.send({"type": "hello", "session": session})
        assert await again.closed() == 4013
    async with Driver(small.url, (await api.under_way())[0]) as other:
        await other.report(fix(1))
        await other.acknowledged(1)


async def test_steps_of_a_trip_over_the_socket(small: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(small.url, vehicle_id) as driver:
        step = {"type": "trip_status", "trip_id": trip_id, "status": "enroute_to_pickup"}
        for number in range(30):
            await driver.send({**step, "client_id": str(number)})
            assert "code" not in await driver.expect("done")
        # A slow machine is given some more meanwhile.
        for number in range(90):
            await driver.send({**step, "client_id": f"more-{number}"})
        done = await driver.expect("done")
        while "code" not in done:
            done = await driver.expect("done")
        assert (done["code"], done["client_id"][:5], done["retry_after"] > 0) == ("rate_limited", "more-", True)


async def test_a_session_that_was_removed_as_unused_still_accepts_its_fixes(small: HubProcess, api: Api, database: str) -> None:
    vehicle_id, _ = await api.under_way()
    connection = await asyncpg.connect(database)
    async with Driver(small.url, vehicle_id) as driver:
        for seq in (1, 3):
            assert await connection.execute("DELETE FROM sessions WHERE name = $1", driver.session) == "DELETE 1"
            await driver.report(fix(seq), fix(seq + 1))
            assert await driver.acknowledged(seq + 1) == []
    assert [row["seq"] for row in await api.track(f"/vehicles/{vehicle_id}/track")] == ["1", "2", "3", "4"]
    assert await connection.fetchval("SELECT handled_seq FROM sessions WHERE name = $1", driver.session) == 4
    await connection.close()


async def test_a_fix_that_is_repeated_after_its_session_was_removed_is_not_stored_twice(database_url: str) -> None:
    clock = ShiftedClock()
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0, session_retention_days=8), clock=clock)
    bearer = token("service", expires_in=60 * 86_400)
    service = app.state.service
    async with serving(app, lifespan="on") as served, Api(served.url, bearer) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        driver_token = token("driver", vehicle_id, 60 * 86_400)
        fixes: list[Message] = [fix(1), fix(2)]

        async def again(session: str | None) -> tuple[str, int, list[str]]:
            async with Driver(served.url, vehicle_id, session, driver_token) as driver:
                known = driver.handled
                await driver.report(*fixes)
                rejected = await driver.acknowledged(2)
                return driver.session, known, [rejection["code"] for rejection in rejected]

        session, *first = await again(None)
        assert first == [0, []]
        service.ingest_vehicles.forget(vehicle_id)
        # The session exists as long as its fixes would be accepted. When it is removed they are too old.
        clock.ahead = 7 * DAY_MS
        await service.retention.work()
        assert await again(session) == (session, 2, [])
        service.ingest_vehicles.forget(vehicle_id)
        clock.ahead = 17 * DAY_MS
        await service.retention.work()
        assert await again(session) == (session, 0, ["too_old", "too_old"])
        async with service.database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM positions") == 2
            assert await connection.fetchval("SELECT count(*) FROM sessions") == 1


@pytest.mark.one_hub("each hub has budgets of its own")
@pytest.mark.parametrize("attack", [rows.shares, rows.sessions, rows.trips], ids=lambda attack: attack.__name__)
async def test_row_85_rows_are_not_created_without_limit(own_hub: Callable[..., HubProcess], attack: Any) -> None:
    hub = own_hub(budget_writes="100/60", budget_shares="10/60", budget_sessions="10/600")
    outcome = await stage(hub, attack, 1.5)
    outcome.check(slack=10.0)
