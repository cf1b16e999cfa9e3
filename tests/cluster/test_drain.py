"""Rolling restarts of real hubs: their clients go to the others, and see nothing worse than a close with 1012.

Row 54 for several hubs, and what happens if hubs, the broker or the database fail in the middle of a drain.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.conftest import Mortal, database, mortal_cluster, on_the_road, readiness, rng, settle
from tests.support.devices import Device, DeviceClock, until
from tests.support.several_hubs import SeveralHubs
from tests.support.watcher import Watcher

__all__ = ["database", "mortal_cluster", "rng"]

DRAIN = 2.0
PERIOD = 0.5
"""Seconds between two fixes of a vehicle."""
JOINS = 'tracking_trip_joins_total{{from="{}"}}'


class Clients:
    """Drivers who report, and passengers who watch them."""

    def __init__(self, url: str, places: list[tuple[str, str]], rng: random.Random, watchers_a_trip: int = 1) -> None:
        self.places = places
        clock = DeviceClock(step=int(PERIOD * 1000))
        self.devices = [Device(url, vehicle_id, rng, clock=clock) for vehicle_id, _ in places]
        self.watchers = [
            Watcher(url, trip_id, pause=lambda: rng.uniform(0.05, 0.3)) for _, trip_id in places for _ in range(watchers_a_trip)
        ]
        self._reporting: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Clients"]:
        async with contextlib.AsyncExitStack() as stack:
            for device in self.devices:
                await stack.enter_async_context(device.running())
            tasks = [asyncio.create_task(watcher.run()) for watcher in self.watchers]
            self._reporting = asyncio.create_task(self._report())
            await self.back()
            try:
                yield self
            finally:
                for task in (*tasks, self._reporting):
                    task.cancel()
                await asyncio.gather(*tasks, self._reporting, return_exceptions=True)

    async def _report(self) -> None:
        while True:
            for device in self.devices:
                device.report()
                await asyncio.sleep(PERIOD / len(self.devices))

    async def back(self) -> None:
        """Waits until all are connected."""
        await until(self._connected, "all clients are connected", 30)

    def _connected(self) -> bool:
        drivers = all(device.client.connected.is_set() for device in self.devices)
        return drivers and all(watcher.connected.is_set() for watcher in self.watchers)

    async def acknowledged_more(self) -> None:
        """Waits until each driver was acknowledged what it reports now."""
        seen = [(device, device.outbox.last_seq) for device in self.devices]
        await until(lambda: all(device.acknowledged >= seq for device, seq in seen), "each driver is acknowledged")

    async def settled(self, database: Mortal) -> None:
        """All is acknowledged and stored right, and each passenger has the whole line."""
        assert self._reporting is not None
        self._reporting.cancel()
        for some in range(0, len(self.watchers), len(self.places)):
            trips = [trip_id for _, trip_id in self.places]
            watchers = self.watchers[some : some + len(self.places)]
            await settle(database, self.devices, {w.trip_id: w for w in watchers if w.trip_id in trips})

    def lost(self) -> set[int | None]:
        """The close codes of all connections that were lost."""
        return {code for device in self.devices for code in device.lost} | {
            code for watcher in self.watchers for code in watcher.lost
        }


class Visitors:
    """Requests to one hub, each on a connection of its own, and one after the other on a connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.became: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def coming(self) -> AsyncIterator["Visitors"]:
        tasks = [asyncio.create_task(self._come(kept=number % 2 == 0)) for number in range(8)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _come(self, *, kept: bool) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except ConnectionRefusedError:
                self.became["refused"] += 1
                await asyncio.sleep(0.05)
                continue
            with contextlib.closing(writer):
                try:
                    await self._ask(reader, writer, kept=kept)
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    self.became[type(error).__name__] += 1

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, kept: bool) -> None:
        close = "" if kept else "Connection: close\r\n"
        while True:
            writer.write(f"GET /healthz HTTP/1.1\r\nHost: hub\r\n{close}\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
            self.became[head.split(b"\r\n", 1)[0].decode()] += 1
            if b"connection: close" in head:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _hubs(database: Mortal, directory: Path, count: int, **settings: str) -> AsyncIterator[SeveralHubs]:
    known = {"drain_seconds": str(DRAIN), "connections_per_address": "10000", "stop_timeout": "1", **settings}
    async with SeveralHubs(database.url, directory, count, known).running() as hubs:
        yield hubs
    assert hubs.tracebacks() == []


async def test_all_hubs_are_replaced_by_turns_and_nobody_is_cut_off(
    database: Mortal, tmp_path: Path, rng: random.Random
) -> None:
    async with _hubs(database, tmp_path, 3) as hubs, hubs.proxy(rng) as wire:
        places = [place for part in await asyncio.gather(*(on_the_road(hubs.hubs[n], 14) for n in range(3))) for place in part]
        async with Clients(wire.url, places, rng, watchers_a_trip=3).running() as clients:
            for number in range(3):
                joined = await _joins(hubs, number)
                async with Visitors(hubs.hubs[number].port).coming() as visitors:
                    hubs.begin_to_stop(number)
                    await hubs.ended(number)
                    await clients.back()
                assert visitors.became.keys() <= {"http/1.1 200 ok", "refused"}, visitors.became
                assert visitors.became["http/1.1 200 ok"] > 10
                peers, store = (await _joins(hubs)) - joined
                if number == 1:
                    # The third hub has followed the log for long enough to say that no message was posted. In the other turns
                    # all hubs are younger than what passengers are sent again, and messages are read from the store.
                    assert peers > 2 * store
                await hubs.start(number)
                await hubs.joined()
            assert clients.lost() == {1012}
            assert all(device.lost for device in clients.devices)
            await clients.settled(database)


class Joins(tuple[float, float]):
    """How many passengers joined by what hubs had in memory, and by the store."""

    def __sub__(self, other: "Joins") -> "Joins":
        return Joins((self[0] - other[0], self[1] - other[1]))


async def _joins(hubs: SeveralHubs, without: int | None = None) -> Joins:
    """Of all hubs that live, or of those that will."""
    alive = [number for number in range(len(hubs.hubs)) if number not in hubs.dead]
    by = []
    for names in (("peers", "resumed", "kept"), ("store",)):
        found = [await hubs.metric(JOINS.format(name)) for name in names]
        by.append(sum(value for values in found for at, value in zip(alive, values, strict=True) if at != without))
    return Joins((by[0], by[1]))


async def test_a_second_signal_and_a_stop_of_all_end_the_drain(database: Mortal, tmp_path: Path, rng: random.Random) -> None:
    async with _hubs(database, tmp_path, 2, drain_seconds="60") as hubs, hubs.proxy(rng) as wire:
        places = await on_the_road(hubs.hubs[0], 6)
        async with Clients(wire.url, places, rng).running() as clients:
            hubs.begin_to_stop(0)
            await until(lambda: _drains(hubs, 0), "the hub says that it stops")
            began = time.monotonic()
            hubs.begin_to_stop(0)
            await hubs.ended(0)
            assert time.monotonic() - began < 5
            await clients.back()
            await hubs.start(0)
            await hubs.joined()
            await clients.acknowledged_more()
            began = time.monotonic()
            for number in (0, 1):
                hubs.begin_to_stop(number)
            for number in (0, 1):
                await hubs.ended(number)
            assert time.monotonic() - began < 5
            for number in (0, 1):
                await hubs.start(number)
            await clients.back()
            # While no hub runs, the proxy resets who comes.
            assert clients.lost() <= {1012, 1006}
            await clients.settled(database)


async def _drains(hubs: SeveralHubs, number: int) -> bool:
    status, reasons = await readiness(hubs.hubs[number])
    return status == 503 and "being stopped" in reasons


async def test_a_hub_that_is_killed_in_its_drain_loses_nothing(database: Mortal, tmp_path: Path, rng: random.Random) -> None:
    async with _hubs(database, tmp_path, 2, drain_seconds="4") as hubs, hubs.proxy(rng) as wire:
        places = await on_the_road(hubs.hubs[0], 20)
        async with Clients(wire.url, places, rng).running() as clients:
            hubs.begin_to_stop(0)
            # Some are being handed over now.
            await until(lambda: sum(1012 in device.lost for device in clients.devices) >= 5, "some are sent away")
            await hubs.kill(0)
            await clients.back()
            await clients.acknowledged_more()
            await clients.settled(database)


@pytest.mark.parametrize("away", ["broker", "database"])
async def test_a_hub_drains_while_the_broker_or_the_database_is_away(
    away: str, database: Mortal, tmp_path: Path, rng: random.Random
) -> None:
    async with _hubs(database, tmp_path, 2) as hubs, hubs.proxy(rng) as wire:
        places = await on_the_road(hubs.hubs[0], 12)
        async with Clients(wire.url, places, rng).running() as clients:
            await clients.acknowledged_more()
            if away == "broker":
                await hubs.kill_broker()
                await until(lambda: _is_alone(hubs), "no hub hears the other")
            else:
                await database.kill()
            hubs.begin_to_stop(0)
            began = time.monotonic()
            await until(lambda: any(1012 in device.lost for device in clients.devices), "the first are sent away")
            assert any(not device.lost for device in clients.devices), "all were sent away at once"
            await hubs.ended(0)
            assert time.monotonic() - began < 20
            if away == "database":
                await database.start()
            await clients.back()
            assert 1006 not in clients.lost()
            await clients.acknowledged_more()
            await clients.settled(database)


async def _is_alone(hubs: SeveralHubs) -> bool:
    return await hubs.metric("tracking_broker_connected") == [0.0, 0.0]
