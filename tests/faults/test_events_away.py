"""Events while the database is away: they are told when it is back, none twice, and the map continues meanwhile."""

from tests.faults.conftest import MakeHub, Mortal, readiness, ready
from tests.support.clients import Api, Dispatcher, Driver, fix
from tests.support.devices import until
from tests.support.geofence_drives import INSIDE, OUTSIDE, hour_ago, listed, put_fence, quiet_fleet


async def test_events_wait_for_the_database(hubs: MakeHub, database: Mortal) -> None:
    hub = hubs(database_timeout="1")
    async with Api(hub.url) as api:
        fleet_id = await quiet_fleet(api)
        vehicle_id = await api.vehicle(fleet_id)
        await put_fence(api, fleet_id)
        begin = hour_ago()
        async with Dispatcher(hub.url, fleet_id) as screen, Driver(hub.url, vehicle_id) as driver:
            await screen.look(9.50, 47.12, 9.54, 47.16)
            await driver.report(fix(1, fix_time=begin, **OUTSIDE))
            await driver.acknowledged(1)
            await screen.until(lambda: vehicle_id in screen.vehicles)
            await database.kill()
            for seq in range(2, 10):
                place = INSIDE if seq % 2 == 0 else OUTSIDE
                await driver.report(fix(seq, fix_time=begin + seq * 60_000, **place))
                await screen.until(lambda n=seq: screen.vehicles[vehicle_id].get("fix_time") == begin + n * 60_000)  # type: ignore[misc]
            assert (await readiness(hub))[0] == 503
            assert screen.news() == []
            await database.start()
            told = await screen.events(8)
            await until(lambda: ready(hub), "the hub is ready again")
            await driver.acknowledged(9)
            await driver.report(fix(10, fix_time=begin + 600_000, **INSIDE))
            told = await screen.events(9)
        assert [event["kind"] for event in told] == ["enter", "exit"] * 4 + ["enter"]
        assert [event["fix_time"] for event in told] == [begin + seq * 60_000 for seq in range(2, 11)]
        assert [{"type": "event", **event} for event in await listed(api, fleet_id)] == told
