"""Row 86: a token belongs to one vehicle, and not to a later one with the same id, perhaps in another fleet."""

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import jwt
import pytest
from click.testing import CliRunner

from tests.support.clients import Api, Driver, Socket, fix, new_id, token
from tests.support.hub_process import SECRET, HubProcess
from tracking.assembly import assemble
from tracking.auth import MAX_EXPIRES_IN, Auth
from tracking.cli import main
from tracking.config import load
from tracking.model import Fleet, Vehicle, system_clock
from tracking.service import Service
from tracking.store import erasures, fleets, vehicles
from tracking.store.retention import ERASED_SECONDS


def foreign_token(vehicle_id: str, **claims: Any) -> str:
    """A driver's token that another library signs with the hub's secret."""
    good = {"aud": "tracking", "exp": int(time.time()) + 3_600, "jti": str(uuid.uuid4()), "role": "driver"}
    return jwt.encode({**good, "vehicle_id": vehicle_id, **claims}, SECRET, algorithm="HS256")


async def refused_with(hub: HubProcess, bearer: str) -> int | None:
    """None if the driver gets a welcome, otherwise the close code."""
    async with Socket(f"{hub.url}/v1/driver", bearer) as socket:
        try:
            await socket.expect("welcome")
        except Exception:
            return socket.connection.close_code
    return None


async def recreate(api: Api, vehicle_id: str) -> str:
    """Remove the vehicle, and make one with the same id in another fleet. Returns that fleet."""
    await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
    fleet_id = await api.fleet()
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}, expect=201)
    return fleet_id


async def test_row_86_the_old_driver_reports_nothing_to_the_new_fleet(hub: HubProcess, api: Api) -> None:
    vehicle_id = await api.vehicle(await api.fleet())
    old = token("driver", vehicle_id)
    async with Driver(hub.url, vehicle_id, bearer=old) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        fleet_id = await recreate(api, vehicle_id)
        assert await driver.closed() == 4502
    assert await refused_with(hub, old) == 4503
    trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
    new = token("driver", vehicle_id)
    headers = {name: {"Authorization": f"Bearer {bearer}"} for name, bearer in (("old", old), ("new", new))}
    # Trips of the new fleet's vehicle look to it as if they did not exist.
    for path in (f"/trips/{trip_id}", f"/trips/{trip_id}/track", f"/trips/{trip_id}/summary"):
        answers = [await api.http.get(asked, headers=headers["old"]) for asked in (path, path.replace(trip_id, "x" * 24))]
        assert answers[0].status_code == answers[1].status_code == 404
        assert answers[0].content == answers[1].content
    assert (await api.http.get(f"/trips/{trip_id}", headers=headers["new"])).status_code == 200
    async with Driver(hub.url, vehicle_id, bearer=new) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        assert await refused_with(hub, old) == 4503
        # The refused driver does not replace the new one.
        await driver.report(fix(2))
        await driver.acknowledged(2)


async def test_row_86_it_holds_in_the_same_fleet_after_a_restart_and_for_later_vehicles(
    own_hub: Callable[..., HubProcess],
) -> None:
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        olds = [token("driver", vehicle_id)]
        for _ in range(2):
            await api.call("DELETE", f"/vehicles/{vehicle_id}", expect=204)
            await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id}, expect=201)
            olds.append(token("driver", vehicle_id))
        # Changing a vehicle does not create it anew.
        await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": fleet_id, "name": "Van 2"}, expect=200)
        await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": await api.fleet()}, expect=200)
        for _ in range(2):
            assert [await refused_with(hub, bearer) for bearer in olds] == [4503, 4503, None]
            hub.stop()
            hub.start()


async def test_row_86_foreign_tokens_need_an_iat_only_if_the_id_was_used_before(hub: HubProcess, api: Api) -> None:
    vehicle_id = new_id("van")
    # From before the vehicle existed, from an hour ago, and without `iat`.
    early = [foreign_token(vehicle_id), foreign_token(vehicle_id, iat=int(time.time()) - 3_600), token("driver", vehicle_id)]
    await api.call("PUT", f"/vehicles/{vehicle_id}", {"fleet_id": await api.fleet()}, expect=201)
    assert [await refused_with(hub, bearer) for bearer in early] == [None, None, None]
    await recreate(api, vehicle_id)
    made = time.time()
    assert [await refused_with(hub, bearer) for bearer in early] == [4503, 4503, 4503]
    assert await refused_with(hub, foreign_token(vehicle_id)) == 4503
    # Whole seconds, of a clock that is a few seconds slow.
    assert await refused_with(hub, foreign_token(vehicle_id, iat=int(made))) is None
    assert await refused_with(hub, foreign_token(vehicle_id, iat=int(made) - 3)) is None
    assert await refused_with(hub, foreign_token(vehicle_id, iat=int(made) - 8)) == 4503


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    clock = system_clock
    settings = load(database_url=database_url, jwt_secret=SECRET)
    service = assemble(settings, database_url, Auth(settings, lambda: clock() + ahead[0]), lambda: clock() + ahead[0])
    ahead[0] = 0
    await service.database.open()
    await service.housekeeping.open()
    async with service.database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
    yield service
    await service.database.close()
    await service.housekeeping.close()


ahead = [0]
"""Milliseconds by which the hub's clock is set forward."""


async def test_the_trace_of_an_erased_id_is_no_id_and_is_deleted_when_all_its_tokens_are_expired(
    service: Service, database_url: str
) -> None:
    async def make(name: str) -> vehicles.Stored:
        async with service.database.transaction() as connection:
            return (await vehicles.put(connection, Vehicle(name, "fleet"), service.clock()))[0]

    async def erase(stored: vehicles.Stored) -> None:
        async with service.database.transaction() as connection:
            await erasures.begin(connection, stored.number)

    first = await make("van-of-somebody")
    assert first.tokens_from is None
    await erase(first)
    connection = await asyncpg.connect(database_url)
    kept = await connection.fetch("SELECT * FROM erased_vehicles")
    assert len(kept) == 1 and b"somebody" not in kept[0]["digest"]
    before = service.clock()
    second = await make("van-of-somebody")
    assert second.tokens_from is not None and before <= second.tokens_from <= service.clock()
    assert (await make("another")).tokens_from is None
    await erase(second)
    ahead[0] = MAX_EXPIRES_IN * 1000
    await service.retention.work()
    assert await connection.fetchval("SELECT count(*) FROM erased_vehicles") == 1
    ahead[0] = int(ERASED_SECONDS * 1000) + 60_000
    await service.retention.work()
    assert await connection.fetchval("SELECT count(*) FROM erased_vehicles") == 0
    # Freeing an id by SQL leaves the same trace.
    await connection.execute("UPDATE vehicles SET vehicle_id = 'renamed' WHERE vehicle_id = 'another'")
    await connection.execute("DELETE FROM vehicles WHERE vehicle_id = 'renamed'")
    await connection.close()
    for name in ("another", "renamed"):
        assert (await make(name)).tokens_from is not None


def test_no_command_makes_a_token_that_outlives_the_trace_of_an_erased_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKING_JWT_SECRET", SECRET)

    def make(seconds: int) -> int:
        arguments = ["token", "--role", "driver", "--subject", "van", "--expires-in", str(seconds)]
        return CliRunner().invoke(main, arguments).exit_code

    assert make(MAX_EXPIRES_IN) == 0
    assert make(MAX_EXPIRES_IN + 1) == 2
