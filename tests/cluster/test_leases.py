"""Jobs that one hub is enough for: who has them, and what happens when that hub leaves, dies, stands still and comes back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest

from tests.support.clients import Api, Driver, fix
from tests.support.clocks import SetClock
from tests.support.devices import until
from tests.support.drives import HOUR_MS, Van, a_trip, entries, line_of, north, store_with_fleet
from tests.support.hubs_in_process import hubs
from tests.support.positions import BEGIN, DAY
from tests.support.several_hubs import SeveralHubs
from tracking.errors import LeaseLost
from tracking.history.summaries import Summaries
from tracking.nodes.leases import LEASE_SECONDS, TRUSTED_SECONDS, Leases
from tracking.nodes.node import Node
from tracking.nodes.registry import Registry
from tracking.store import vehicle_days
from tracking.store.days import DAY_MS
from tracking.store.jobs import Jobs
from tracking.store.pool import Connection, Database

JOB = "sweep the yard"
NAMES = {number: {"node_name": f"hub {number}"} for number in range(2)}


class Hub:
    """A hub that is registered in the database and asks for one job. `monotonic` is its clock."""

    def __init__(self, database: Database, url: str, name: str) -> None:
        self.name = name
        self.registry = Registry(Node(name, f"hub {name}", "1.0", 0), url, has_broker=True, timeout=5)
        self.monotonic = 1_000.0
        self.leases = Leases(database, name, alone=False, monotonic=lambda: self.monotonic)
        self.ours = self.leases.job(JOB)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def three(database: Database, database_url: str) -> AsyncIterator[list[Hub]]:
    hubs = [Hub(database, database_url, name) for name in "abc"]
    for hub in hubs:
        await hub.registry.admit()
    yield hubs
    for hub in hubs:
        await hub.registry.leave()


async def run_sql(database: Database, statement: str, *values: object) -> None:
    async with database.transaction() as connection:
        await connection.execute(statement, *values)


async def test_of_many_that_ask_at_once_one_has_the_job_and_keeps_it(three: list[Hub]) -> None:
    for _ in range(5):
        answers = await asyncio.gather(*(hub.ours() for hub in three for _ in range(3)))
        holders = {hub.name for hub, answer in zip([hub for hub in three for _ in range(3)], answers, strict=True) if answer}
        assert len(holders) == 1
        for hub in three:
            hub.monotonic += TRUSTED_SECONDS
    assert sum([await hub.ours() for hub in three]) == 1


async def test_each_job_has_its_own_holder(three: list[Hub]) -> None:
    first, second, _ = three
    other = "wash the vans"
    assert await first.ours()
    assert await second.leases.job(other)()
    assert not await first.leases.job(other)()
    assert not await second.ours()


async def test_a_hub_that_leaves_gives_its_jobs_up_and_takes_none_any_more(three: list[Hub]) -> None:
    first, second, _ = three
    assert await first.ours() and not await second.ours()
    await first.leases.release()
    assert await second.ours()
    second.monotonic += TRUSTED_SECONDS
    await second.leases.release()
    assert not await first.ours()


async def test_a_lease_of_a_dead_hub_is_void(three: list[Hub]) -> None:
    first, second, _ = three
    assert await first.ours() and not await second.ours()
    await first.registry.leave()
    assert await second.ours()


async def test_a_hub_that_stood_still_finds_its_job_taken(three: list[Hub], database: Database) -> None:
    """It may trust its last answer for no longer than the others take it for alive."""
    first, second, _ = three
    assert await first.ours()
    aged = "UPDATE nodes SET seen_at = seen_at - make_interval(secs => $2) WHERE node = $1"
    await run_sql(database, aged, "a", 9.0)
    assert not await second.ours()
    await run_sql(database, aged, "a", 1.0)
    assert await second.ours()
    first.monotonic += 10.0
    assert not await first.ours()
    await run_sql(database, aged, "a", -60.0)  # it is alive again
    assert not await first.ours()
    assert await second.ours()


async def test_a_lease_that_is_not_renewed_expires_though_its_holder_lives(three: list[Hub], database: Database) -> None:
    first, second, _ = three
    assert await first.ours() and not await second.ours()
    aged = "UPDATE leases SET expires = expires - make_interval(secs => $1)"
    await run_sql(database, aged, LEASE_SECONDS - 5)
    first.monotonic += TRUSTED_SECONDS
    assert await first.ours(), "it is renewed"
    await run_sql(database, aged, LEASE_SECONDS - 5)
    assert not await second.ours()
    await run_sql(database, aged, 5.0)
    assert await second.ours()


async def test_a_hub_that_is_alone_asks_nobody() -> None:
    nowhere = Database("postgresql://nowhere")
    leases = Leases(nowhere, "a", alone=True)
    assert await leases.job(JOB)()
    await leases.release()
    assert await leases.job(JOB)()


async def test_a_long_job_stops_between_two_turns_when_another_hub_has_it(three: list[Hub], database: Database) -> None:
    first, second, _ = three
    turns = 0

    async def batch(_: Connection, rows: int) -> int | None:
        nonlocal turns
        turns += 1
        if turns == 2:
            await first.registry.leave()
            assert await second.ours()
            first.monotonic += TRUSTED_SECONDS
        return rows

    with pytest.raises(LeaseLost, match="sweep"):
        await Jobs(database, rows=1, most=1, seconds=0, rest=0).run(JOB, batch, first.ours)
    assert turns == 2


async def test_what_a_hub_noted_is_summed_up_though_another_one_has_the_job(database_url: str) -> None:
    """Late fixes are noted in the memory of the hub that stored them."""

    async def not_ours() -> bool:
        return False

    async with store_with_fleet(database_url) as store, store.connection() as connection:
        van = await Van.new(connection)
        trip = await a_trip(connection, van.number, BEGIN, BEGIN + 300_000)
        await van.drove(north(0, 1_000, 10), trip=trip)
        clock = SetClock((DAY + 1) * DAY_MS + HOUR_MS)
        holder, other = Summaries(store, clock, delay=600), Summaries(store, clock, delay=600, ours=not_ours)
        await other.work()
        assert await vehicle_days.stored(connection, van.number, DAY, DAY) == []
        await holder.work()
        other.stored(entries(await van.drove(north(101, 1_000, 10, start=1_000), trip=trip)))
        await other.work()
        [day] = await vehicle_days.stored(connection, van.number, DAY, DAY)
        assert day.positions == 202
        assert len(await line_of(connection, trip)) == 101
        await holder.work()
        assert len(await line_of(connection, trip)) == 202


async def test_a_vehicle_is_erased_by_the_hub_that_does_erasures_whichever_is_asked(database_url: str) -> None:
    async with hubs(database_url, registered=True) as two:
        for world in two:
            # Whoever asked first has the job.
            async with Api(world.url) as api:
                van = await api.vehicle(await api.fleet())
                async with Driver(world.url, van) as driver:
                    await driver.report(fix(1))
                    await driver.acknowledged(1)
                await api.call("DELETE", f"/vehicles/{van}", expect=204)
        held = [await world.service.leases.job("erasures")() for world in two]
        assert sorted(held) == [False, True]
        async with two[0].service.database.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM positions") == 0
        # The one that has it leaves: the other one goes on.
        holder, other = two[held.index(True)], two[held.index(False)]
        await holder.service.leases.release()
        async with Api(other.url) as api:
            van = await api.vehicle(await api.fleet())
            await api.call("DELETE", f"/vehicles/{van}", expect=204)


async def test_hubs_that_are_stopped_and_killed_hand_their_jobs_on(database_url: str, tmp_path: Path) -> None:
    """Real processes: SIGSTOP, SIGCONT, SIGKILL and SIGTERM."""
    several = SeveralHubs(database_url, tmp_path, 2, {"summary_delay": "1"}, NAMES)
    async with several.running(), watching(database_url) as connection:
        first = await _holder(connection, lambda _: True)
        number = await _number_of(several, connection, first)
        several.pause(number)
        await connection.execute("UPDATE nodes SET seen_at = seen_at - interval '11 s' WHERE node = $1", first)
        second = await _holder(connection, lambda node: node != first)
        several.resume(number)
        async with Api(several.urls[number]) as api:
            # It serves on, and its jobs are the other one's.
            van = await api.vehicle(await api.fleet())
            async with Driver(several.urls[number], van) as driver:
                await driver.report(fix(1))
                await driver.acknowledged(1)
        await until(lambda: connection.fetchval("SELECT node_alive($1)", first), "it is alive again")
        assert await _holder(connection, lambda _: True) == second
        await several.kill(await _number_of(several, connection, second))
        await _holder(connection, lambda node: node == first)
        await several.stop(number)
        assert await connection.fetchval("SELECT count(*) FROM leases WHERE holder = $1", first) == 0
    assert several.tracebacks() == []


@contextlib.asynccontextmanager
async def watching(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def _holder(connection: "asyncpg.Connection[asyncpg.Record]", is_wanted: Callable[[str], bool]) -> str:
    """Waits until the holder of the summaries is as wanted."""
    found = ""

    async def holds() -> bool:
        nonlocal found
        found = await connection.fetchval("SELECT holder FROM leases WHERE job = 'summaries'") or ""
        return bool(found) and is_wanted(found)

    await until(holds, "another hub has the job")
    return found


async def _number_of(several: SeveralHubs, connection: "asyncpg.Connection[asyncpg.Record]", node: str) -> int:
    name = await connection.fetchval("SELECT name FROM nodes WHERE node = $1", node)
    [number] = [number for number, hub in enumerate(several.hubs) if hub.environment["TRACKING_NODE_NAME"] == name]
    return number
