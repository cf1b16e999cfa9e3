"""Hubs in the database: who may run beside whom, and who counts as alive. Row 67."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.support.broker import Broker
from tests.support.devices import until
from tests.support.hub_process import HubProcess
from tracking.demo.postgres import Cluster
from tracking.errors import HubRefused
from tracking.nodes.node import Node
from tracking.nodes.registry import Registry

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

MakeHub = Callable[..., HubProcess]


def registry(url: str, name: str, *, has_broker: bool = False) -> Registry:
    return Registry(Node(name, f"hub {name}", "1.0", 0), url, has_broker=has_broker, timeout=5)


@contextlib.asynccontextmanager
async def watching(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def make_older(url: str, node: str, seconds: float) -> None:
    """Turns the row's times back, as if it had been renewed earlier."""
    async with watching(url) as connection:
        moved = "UPDATE nodes SET seen_at = seen_at - make_interval(secs => $2) WHERE node = $1"
        await connection.execute(moved, node, seconds)


async def alive(url: str, node: str) -> bool:
    async with watching(url) as connection:
        return bool(await connection.fetchval("SELECT node_alive($1)", node))


async def test_hubs_with_a_broker_run_side_by_side(database_url: str) -> None:
    a, b = registry(database_url, "a", has_broker=True), registry(database_url, "b", has_broker=True)
    await a.admit()
    await b.admit()
    assert b.others_alive() == 1
    assert [other.name for other in b.others] == ["hub a"]
    assert await alive(database_url, "a")
    await a.leave()
    assert not await alive(database_url, "a")
    await b.leave()


@pytest.mark.parametrize("first, second", [(False, False), (True, False), (False, True)])
async def test_a_second_hub_is_refused_if_one_of_them_has_no_broker(database_url: str, first: bool, second: bool) -> None:
    a, b = registry(database_url, "a", has_broker=first), registry(database_url, "b", has_broker=second)
    await a.admit()
    await make_older(database_url, "a", 9.5)
    waiting = asyncio.create_task(b.admit())
    await until(lambda: b.others_alive() == 1, "the second has seen the first")
    await make_older(database_url, "a", -9.5)  # the first has renewed its row
    with pytest.raises(HubRefused, match="TRACKING_NATS_URL") as caught:
        await waiting
    assert "hub a" in str(caught.value)
    assert not await alive(database_url, "b")
    await a.leave()
    await b.leave()


async def test_a_lease_that_lapses_makes_room_and_the_one_that_began_later_goes_down(database_url: str) -> None:
    a, b = registry(database_url, "a"), registry(database_url, "b")
    await a.admit()
    await make_older(database_url, "a", 9.5)  # it hangs
    await b.admit()
    running = [asyncio.create_task(hub.run()) for hub in (a, b)]  # it wakes
    with pytest.raises(HubRefused, match="hub a"):
        await running[1]
    assert not running[0].done()
    running[0].cancel()
    await asyncio.wait(running)
    await a.leave()
    await b.leave()


async def test_two_that_begin_at_once_are_not_both_admitted(database_url: str) -> None:
    hubs = [registry(database_url, name) for name in "ab"]
    async with watching(database_url) as connection, connection.transaction():
        # Both read who is there before either writes its row, unless they take turns.
        await connection.execute("LOCK TABLE nodes IN EXCLUSIVE MODE")
        tasks = [asyncio.create_task(hub.admit()) for hub in hubs]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with watching(database_url) as witness:
            await until(lambda: _all_wait(witness, waiting), "both wait")
    first, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    [number] = [number for number, task in enumerate(tasks) if task in first]
    other = 1 - number
    await until(lambda: hubs[other].others_alive() == 1, "the other has seen it")
    assert not tasks[other].done()
    await hubs[number].leave()
    await tasks[other]
    await hubs[other].leave()


async def _all_wait(witness: Connection, waiting: str) -> bool:
    return bool(await witness.fetchval(waiting) == 2)


async def test_a_killed_hub_delays_nobody_and_a_stopped_one_leaves_no_row(own_hub: MakeHub, database_url: str) -> None:
    hub = own_hub()
    async with watching(database_url) as connection:
        [row] = await connection.fetch("SELECT * FROM live_nodes")
        assert not row["has_broker"]
        await asyncio.to_thread(hub.kill)
        await asyncio.to_thread(hub.start)
        assert "waiting" not in hub.log.read_text()
        assert await connection.fetchval("SELECT count(*) FROM live_nodes") == 1
        await asyncio.to_thread(hub.stop)
        assert await connection.fetchval("SELECT count(*) FROM nodes") == 1  # of the one that was killed


async def test_a_hub_that_finds_out_later_goes_down_with_the_reason(
    own_hub: MakeHub, database_url: str, broker: Broker, tmp_path: Path
) -> None:
    with_broker = own_hub(nats_url=broker.url)
    async with watching(database_url) as connection:
        # One without a broker that began before: the other could not know, because its lease had lapsed.
        await connection.execute(
            "INSERT INTO nodes SELECT 'alone', 'alone', '', false, now() - interval '1 hour', now(), pid, backend_start"
            " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        process = with_broker.process
        assert process is not None
        assert await asyncio.to_thread(process.wait, 20) == 1
        [line] = [line for line in with_broker.log.read_text().splitlines() if "Error:" in line]
        assert "'alone'" in line
        assert "TRACKING_NATS_URL" in line
        assert "Traceback" not in with_broker.log.read_text()
        with_broker.process = None
        # Its own start is refused too, before it serves.
        await connection.execute("UPDATE nodes SET seen_at = now() - interval '8.5 s' WHERE node = 'alone'")
        again = HubProcess(database_url, tmp_path / "again.log")
        again.log.touch()
        again.process = again._launch()
        await until(lambda: "waiting" in again.log.read_text(), "it waits for the lease")
        await connection.execute("UPDATE nodes SET seen_at = now() WHERE node = 'alone'")
        assert await asyncio.to_thread(again.process.wait, 20) == 1
        assert "Error: another hub" in again.log.read_text()
        assert "Traceback" not in again.log.read_text()


async def test_a_copy_of_a_database_is_another_installation(
    cluster: Cluster, database_url: str, administrator: Connection
) -> None:
    async with watching(database_url) as connection:
        ours = await connection.fetchval("SELECT cluster_id()")
        name = await connection.fetchval("SELECT current_database()")
    await administrator.execute(f"CREATE DATABASE copy_of_it TEMPLATE {name}")
    async with watching(cluster.url("copy_of_it")) as connection:
        assert await connection.fetchval("SELECT cluster_id()") != ours
    await administrator.execute("DROP DATABASE copy_of_it WITH (FORCE)")
