"""Changes that come at the same time as others: of vehicles, fleets and geofences, over HTTP."""

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from tests.clients import Api
from tests.faults.devices import until
from tests.hub_process import HubProcess
from tests.test_events import put_fence

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'tracking'"


@pytest.mark.parametrize("what", ["vehicle", "geofence"])
async def test_a_removal_that_is_a_deadlocks_victim_begins_anew(
    own_hub: Callable[..., HubProcess], database_url: str, what: str
) -> None:
    other, witness = [await asyncpg.connect(database_url) for _ in range(2)]
    # The hub notices first, whichever of the two came last.
    name = await witness.fetchval("SELECT current_database()")
    await witness.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '2s'")
    await other.execute("SET deadlock_timeout = '1h'")
    hub = own_hub()
    async with Api(hub.url) as api:
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        path, first, second = {
            "vehicle": (f"/vehicles/{vehicle_id}", "sessions", "vehicles"),
            "geofence": (f"/fleets/{fleet_id}/geofences/yard", "geofence_stays", "geofences"),
        }[what]
        async with asyncio.TaskGroup() as tasks, other.transaction():
            await other.execute(f"LOCK TABLE {first} IN SHARE MODE")
            removal = tasks.create_task(api.call("DELETE", path, expect=204))
            await until(lambda: _is_waiting(witness), "the hub waits for the other")
            await other.execute(f"SELECT 1 FROM {second} FOR UPDATE")
            assert not removal.done()
        await api.call("GET", path, expect=404)
    for connection in (other, witness):
        await connection.close()


async def _is_waiting(witness: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return bool(await witness.fetchval(WAITING) == 1)
