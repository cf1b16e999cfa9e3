"""PostgreSQL is killed, stalled, or away for so long that the queue fills: the map goes on, acks stop, nothing is lost.

Rows 45, 47 and 48.
"""

import contextlib
import random
from collections.abc import Callable

import asyncpg
import pytest

from tests.faults.conftest import MakeHub, Mortal, on_the_road, readiness, ready, settle, watching
from tests.support.devices import STEP_MS, Device, until
from tests.support.hub_process import HubProcess
from tests.support.proxy import ChaosProxy
from tests.support.watcher import Watcher


async def _shown(device: Device, watcher: Watcher, count: int) -> None:
    """Reports fixes and waits until the passenger sees the last of them."""
    before = watcher.newest
    device.report(count)
    await until(lambda: watcher.newest == before + count * STEP_MS, "the passenger sees the vehicle move")


@pytest.mark.parametrize("moment", ["in mid-transaction", "while fixes pour in"])
async def test_a_killed_database_takes_nothing_with_it(
    hubs: MakeHub, database: Mortal, rng: random.Random, moment: str
) -> None:
    hub = hubs(database_timeout="2")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        assert await ready(hub)
        if moment == "in mid-transaction":
            connection = await asyncpg.connect(database.url)
            await connection.execute("BEGIN; SELECT 1 FROM sessions FOR UPDATE")
            device.report(10)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'tracking'"
            await until(lambda: _is_one(database, waiting), "the hub's transaction waits for the row")
            await database.kill()
            connection.terminate()
        else:
            device.report(300)
            seen = rng.randint(20, 250)
            await until(lambda: device.acknowledged >= seen, f"{seen} are acknowledged")
            await database.kill()
        await until(lambda: watcher.newest > 0 and len(watcher.line.points) == device.outbox.last_seq, "all is shown")

        acknowledged = device.acknowledged
        await _shown(device, watcher, 10)
        status, reasons = await readiness(hub)
        assert status == 503
        assert "PostgreSQL is away" in reasons
        await _shown(device, watcher, 10)
        assert device.acknowledged == acknowledged, "acknowledged, with no database to store it"

        await database.start()
        await until(lambda: ready(hub), "the hub is ready again")
        await device.drained()
        await device.drive(10)
        assert device.client.connections == 1, "the driver's line was lost over it"
        await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 1


async def _is_one(database: Mortal, query: str) -> bool:
    return await database.fetchval(query) == 1


async def test_a_stalled_database_is_given_up_and_recovers(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(database_timeout="1")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        with database.stalled():
            await _shown(device, watcher, 10)
            status, reasons = await readiness(hub)
            assert status == 503
            assert reasons
            await until(lambda: _complains(hub), "the recorder gives a statement up", 10)
            await _shown(device, watcher, 10)
            assert device.acknowledged == 20, "acknowledged, with nothing that could have stored it"
        await until(lambda: ready(hub), "the hub is ready again")
        await device.drained(20)
        assert device.client.connections == 1
        await settle(database, [device], {trip_id: watcher})
    assert watcher.snapshots == 1


async def _complains(hub: HubProcess) -> bool:
    return "the recorder is not storing" in (await readiness(hub))[1]


async def test_a_full_queue_sends_drivers_away_and_keeps_its_word(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(queue_limit="50", database_timeout="1")
    places = await on_the_road(hub, 2)
    devices = [Device(hub.url, vehicle_id, rng) for vehicle_id, _ in places]
    watchers = {trip_id: Watcher(hub.url, trip_id) for _, trip_id in places}
    async with watching(*watchers.values()), devices[0].running(), devices[1].running():
        for watcher in watchers.values():
            await watcher.connected.wait()
        for device in devices:
            await device.drive(20)
        await database.kill()
        for device in devices:
            device.report(100)
        for device in devices:
            await until(lambda d=device: d.lost.count(4014) >= 2, f"4014: {device}")  # type: ignore[misc]
            assert set(device.lost) == {4014}
            assert device.acknowledged == 20
        status, reasons = await readiness(hub)
        assert status == 503
        assert "queue is full" in reasons

        await database.start()
        await until(lambda: ready(hub), "the hub is ready again")
        for device in devices:
            await device.drive(20)
        await settle(database, devices)
    for watcher in watchers.values():
        assert watcher.breaks == []


async def test_a_fix_that_finds_the_queue_full_is_shown_once(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(queue_limit="50", database_timeout="1")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        await database.kill()
        device.report(60)
        await until(lambda: len(device.lost) >= 5, "it comes again and again")
        await database.start()
        await device.drive(10)
        await settle(database, [device], {trip_id: watcher}, seconds=3)


async def test_a_full_queue_still_shows_where_the_vehicle_is(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(queue_limit="50", database_timeout="1")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        await database.kill()
        device.report(60)
        for reported in range(81, 86):
            device.report(1)
            await until(lambda n=reported: len(watcher.line.points) == n, "the newest is shown")  # type: ignore[misc]
        await database.start()
        await device.drive(10)
        await settle(database, [device], {trip_id: watcher}, seconds=3)


async def test_a_full_queue_does_not_make_a_jump_true(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(queue_limit="50", database_timeout="1")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(20)
        await database.kill()
        device.report(50)
        await until(lambda: len(watcher.line.points) == 70, "all is shown")
        jump = device.jump()
        await until(lambda: len(device.lost) >= 5, "the jump was sent again and again")
        shown = max(latitude for _, _, latitude in watcher.line.points)
        await database.start()
        await device.drive(10)
        flags = await database.fetchval("SELECT suspect FROM positions WHERE seq = $1", jump)
        assert shown < 47.2, "the passenger saw the vehicle 50 km off"
        assert flags == ["jump"]


async def test_a_device_that_comes_back_to_a_stalled_database_is_shown(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs(database_timeout="5")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire:
        device = Device(wire.url, vehicle_id, rng)
        async with watching(watcher), device.running():
            await watcher.connected.wait()
            await device.drive(20)
            with database.stalled():
                wire.cut()
                device.report(5)
                await until(lambda: len(watcher.line.points) == 25, "the vehicle is shown again", 3)
            await settle(database, [device], {trip_id: watcher})


async def test_who_came_while_the_database_was_away_sees_the_whole_line_in_the_end(
    hubs: MakeHub, database: Mortal, rng: random.Random
) -> None:
    hub = hubs(database_timeout="1", feed_bytes="4000")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    first, second = Watcher(hub.url, trip_id), Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    async with watching(first), device.running():
        await first.connected.wait()
        await device.drive(50)
        await database.kill()
        async with watching(second):
            await second.connected.wait()
            await database.start()
            await device.drive(10)
            await until(lambda: ready(hub), "the hub is ready again")
            assert await _same(lambda: second.line.points == first.line.points)


async def _same(condition: Callable[[], bool]) -> bool:
    try:
        await until(condition, "both see the same line", 2)
    except AssertionError:
        return False
    return True


_REFUSALS = {
    "it is read-only, as a standby is": (
        "ALTER DATABASE {name} SET default_transaction_read_only = on",
        "ALTER DATABASE {name} RESET default_transaction_read_only",
    ),
    "it takes no connections": (
        "ALTER DATABASE {name} ALLOW_CONNECTIONS false",
        "ALTER DATABASE {name} ALLOW_CONNECTIONS true",
    ),
}


@pytest.mark.parametrize("refusal", _REFUSALS)
async def test_a_database_that_refuses_everybody_is_waited_for(
    hubs: MakeHub, database: Mortal, rng: random.Random, refusal: str
) -> None:
    hub = hubs(database_timeout="2")
    [(vehicle_id, trip_id)] = await on_the_road(hub, 1)
    watcher = Watcher(hub.url, trip_id)
    device = Device(hub.url, vehicle_id, rng)
    admin = await asyncpg.connect(database.cluster.url("postgres"))
    refuse, allow = (statement.format(name=database.name) for statement in _REFUSALS[refusal])
    async with watching(watcher), device.running():
        await watcher.connected.wait()
        await device.drive(10)
        await admin.execute(refuse)
        try:
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database.name)
            await _shown(device, watcher, 10)
            await until(lambda: _complains(hub), "the hub is not ready")
        finally:
            await admin.execute(allow)
            await admin.close()
        await device.drained()
        assert device.rejected == {}
        await settle(database, [device], {trip_id: watcher})


async def test_a_broken_table_is_no_fault_of_the_fixes(hubs: MakeHub, database: Mortal, rng: random.Random) -> None:
    hub = hubs(database_timeout="2")
    [(vehicle_id, _)] = await on_the_road(hub, 1)
    device = Device(hub.url, vehicle_id, rng)
    await database.fetchval(
        """
        CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'could not read block 0: Input/output error' USING ERRCODE = 'io_error'; END $$
        """
    )
    async with device.running():
        await device.drive(10)
        await _insist(database, "CREATE TRIGGER broken BEFORE INSERT ON positions FOR EACH ROW EXECUTE FUNCTION broken()")
        device.report(10)
        await until(lambda: _troubled(hub, device), "the hub is not ready, or gave the fixes up")
        await _insist(database, "DROP TRIGGER broken ON positions")
        await device.drained()
        assert device.rejected == {}
        await settle(database, [device])


async def _insist(database: Mortal, statement: str) -> None:
    """Carries out what may wait for the hub while the hub waits for it, and be the one of the two that is given up."""
    while True:
        with contextlib.suppress(asyncpg.DeadlockDetectedError):
            await database.fetchval(statement)
            return


async def _troubled(hub: HubProcess, device: Device) -> bool:
    return device.acknowledged > 10 or await _complains(hub)


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("removal", ["DROP TABLE {partition}", "ALTER TABLE positions DETACH PARTITION {partition}"])
async def test_a_partition_that_is_gone_costs_no_fix(
    hubs: MakeHub, database: Mortal, rng: random.Random, removal: str, count: int
) -> None:
    hub = hubs()
    [(vehicle_id, _)] = await on_the_road(hub, 1)
    device = Device(hub.url, vehicle_id, rng)
    async with device.running():
        await device.drive(2)
        names = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind = 'r' AND relname ~ '^positions_[0-9]+$'"
        partitions = str(await database.fetchval(names)).split()
        for partition in partitions:
            await _insist(database, removal.format(partition=partition))
        device.report(count)
        await until(lambda: _troubled_or_handled(hub, device, 2 + count), "the hub is not ready, or handled the fixes")
        if removal.startswith("ALTER"):
            # The name is taken, so the hub cannot make the partition anew: somebody has to clear it away.
            for partition in partitions:
                await _insist(database, f"DROP TABLE {partition}")
        await device.drained()
        assert device.rejected == {}


async def _troubled_or_handled(hub: HubProcess, device: Device, seq: int) -> bool:
    return device.acknowledged >= seq or await _complains(hub)
