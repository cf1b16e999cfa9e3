"""Hubs on one database: events are told once, and readers are honest with or without the broker and the database."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, fix, now_ms, token
from tests.support.devices import until
from tests.support.geofence_drives import listed
from tests.support.hub_in_process import World
from tests.support.hubs_in_process import Hubs, hubs
from tests.support.proxy import ChaosProxy
from tracking.cluster import cut_off, store_feed
from tracking.demo.postgres import PORT, Cluster
from tracking.model import Position
from tracking.nodes.node import Peer
from tracking.store import homes, latest_positions


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[Hubs]:
    async with hubs(database_url, registered=True, commit_interval=0) as made:
        yield made


@contextlib.asynccontextmanager
async def one_over_wire(cluster: Cluster, database_url: str, directory: Path) -> AsyncIterator[tuple[Hubs, ChaosProxy]]:
    """Two hubs. The second reaches the database through a proxy."""
    target = cluster.socket_directory / f".s.PGSQL.{PORT}"
    async with ChaosProxy(target, rng=random.Random(1), listen=directory / f".s.PGSQL.{PORT}") as wire:
        through = database_url.replace(str(cluster.socket_directory), str(directory))
        urls = [database_url, through]
        async with hubs(database_url, urls=urls, commit_interval=0, database_timeout=1.0, stop_timeout=1.0) as made:
            yield made, wire


async def _closed(socket: Passenger | Dispatcher) -> tuple[int, float]:
    """The close code, and when it came."""
    return await socket.closed(), time.monotonic()


async def test_a_hub_without_the_database_closes_what_another_hub_ended(
    cluster: Cluster, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut_off, "AFTER_SECONDS", 1.0)
    monkeypatch.setattr(cut_off, "CHECK_SECONDS", 0.1)
    async with one_over_wire(cluster, database_url, tmp_path) as ((one, other), wire), Api(one.url) as api:
        _, completed = await api.under_way()
        _, shared = await api.under_way()
        van, watched = await api.under_way()
        share = await api.call("POST", f"/trips/{shared}/shares", {"expires_in": 3600}, expect=201)
        async with (
            Passenger(other.url, completed) as of_completed,
            Passenger(other.url, shared, share["token"]) as of_share,
            Passenger(other.url, watched) as of_watched,
            Driver(other.url, van) as driver,
        ):
            for passenger in (of_completed, of_share, of_watched):
                await passenger.expect("snapshot")
            await driver.report(fix(1))
            await driver.acknowledged(1)
            wire.swallow("up", "down")
            began = time.monotonic()
            await api.call("DELETE", f"/shares/{share['share_id']}", expect=204)
            await api.advance(completed, "canceled")
            assert (await _closed(of_share))[0] == 4503
            code, at = await _closed(of_completed)
            assert (code, at - began < 1.5) == (4506, True)
            # Nothing more is known here, and the other hub knows it: all other readers go there.
            await driver.report(fix(2))
            assert await of_watched.closed() == 1012
            async with Passenger(other.url, watched) as refused:
                assert await refused.closed() == 4014
            assert "cut off" in str((await _ready(other))["degraded"])
            # The driver stays, and is not acknowledged.
            assert not other.service.hub.feeds and van in other.service.hub.drivers
            wire.swallow()
            await driver.acknowledged(2)
            await until(lambda: not other.service.hub.cut_off, "it shows everything again")
            async with Passenger(other.url, watched) as again:
                await again.expect("snapshot")


async def _ready(world: World) -> Message:
    async with Api(world.url) as api:
        answer: Message = (await api.http.get(f"{world.url}/readyz")).json()
    return answer


async def test_a_hub_goes_on_if_all_are_cut_off(two: Hubs) -> None:
    one, _ = two
    behind = one.service.follower.confirmed_at
    assert behind is not None
    check = cut_off.CutOff(one.service.hub, lambda: 60.0, lambda: [peer._replace(confirmed=False) for peer in _peers(one)])
    await check.check()
    assert not one.service.hub.cut_off
    check = cut_off.CutOff(one.service.hub, lambda: 60.0, lambda: _peers(one))
    await check.check()
    assert one.service.hub.cut_off


def _peers(world: World) -> list[Peer]:
    return list(world.service.nodes.peers.values())


async def test_revocation_with_the_broker_dead_closes_every_socket_on_every_hub_within_a_second(two: Hubs) -> None:
    """Row 65: the log is read every half second."""
    one, other = two
    async with Api(one.url) as api:
        _, trip_id = await api.under_way()
        fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
        bearers = [token("passenger", trip_id), token("dispatcher", fleet_id)]
        async with contextlib.AsyncExitStack() as stack:
            sockets: list[Passenger | Dispatcher] = []
            for world in two:
                sockets.append(await stack.enter_async_context(Passenger(world.url, trip_id, bearers[0])))
                sockets.append(await stack.enter_async_context(Dispatcher(world.url, fleet_id, bearers[1])))
            for passenger in sockets[::2]:
                await passenger.expect("snapshot")
            await until(lambda: len(other.service.hub.links.tokens()) == 2, "all are open")
            two.exchange.cut()
            began = time.monotonic()
            for jti in other.service.hub.links.tokens():
                await api.call("DELETE", f"/tokens/{jti}", expect=204)
            for code, at in await asyncio.gather(*map(_closed, sockets)):
                assert (code, at - began < 1.0) == (4503, True)


async def test_a_reader_elsewhere_is_fed_from_the_store_while_the_broker_is_away(
    two: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 64: positions come at most 3 s late, and the line is whole afterwards."""
    one, other = two
    # `test_row_64_…` has the real pace, in real hubs.
    monkeypatch.setattr(store_feed, "EVERY_SECONDS", 0.5)
    async with Api(one.url) as api:
        van, trip_id = await api.under_way()
        async with Driver(one.url, van) as driver, Passenger(other.url, trip_id) as passenger:
            await passenger.expect("snapshot")
            await until(lambda: all(world.service.registry.others for world in two), "they are registered")
            two.exchange.cut()
            seen: list[int] = []
            late: list[int] = []
            revised: set[float] = set()

            async def watch() -> None:
                while True:
                    message = await passenger.receive()
                    if message["type"] == "position":
                        seen.append(message["fix_time"])
                        late.append(now_ms() - message["fix_time"])
                    elif message["type"] == "track_revised":
                        revised.update(point[2] for point in message["track"])

            watching = asyncio.create_task(watch())
            began = now_ms()
            reported: list[int] = []
            while now_ms() - began < 1_500:
                reported.append(now_ms())
                await driver.report(fix(len(reported), fix_time=reported[-1], latitude=47.141 + len(reported) * 1e-5))
                await asyncio.sleep(0.25)
            await driver.acknowledged(len(reported))
            assert other.service.safeguards.store_feed.feeding and "broker" in str((await _ready(other))["degraded"])
            await until(lambda: bool(seen) and seen[-1] == reported[-1], "all were shown")
            assert seen == sorted(set(seen)) and set(seen) <= set(reported)
            assert max(late) < 1_500
            two.exchange.restore()
            for _ in range(2):
                await other.service.safeguards.store_feed.work()
            await until(lambda: revised >= set(reported), "the line is whole")
            watching.cancel()
            assert not other.service.safeguards.store_feed._fed


async def test_a_hub_that_is_not_the_home_shows_a_vehicle_and_tells_nothing_of_it(two: Hubs) -> None:
    home, other = two
    async with Api(home.url) as api:
        van, trip_id = await api.under_way()
        fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
        async with Dispatcher(other.url, fleet_id) as dispatcher:
            await dispatcher.look(9, 47, 10, 48)
            async with Driver(home.url, van) as driver:
                for seq in (1, 2):
                    await driver.report(fix(seq, fix_time=now_ms(), latitude=47.141 + seq * 1e-4))
                    await driver.acknowledged(seq)
                    await home.service.latest.flush()
                    await other.service.safeguards.remote_vehicles.work()
                    while _latitude(dispatcher, van) != pytest.approx(47.141 + seq * 1e-4):
                        await dispatcher.receive()
                assert dispatcher.vehicles[van]["status"] == "on_trip"
                # The other hub hears nothing of it any more, for example because its home is cut off.
                await _passes(other, 60)
                await dispatcher.until(lambda: dispatcher.vehicles[van]["status"] == "lost")
                assert await listed(api, fleet_id) == []
                # Its home tells, and the other hub learns it from the log.
                await _passes(home, 60)
                await until(lambda: _kinds(api, fleet_id, "signal_lost"), "the home tells")
                live = other.service.hub.fleets.vehicles[van]
                await until(lambda: other.service.monitor.states[live].silent, "the other hub knows")
                await driver.report(fix(3, fix_time=home.clock(), latitude=47.1415))
                await until(lambda: _kinds(api, fleet_id, "signal_lost", "signal_back"), "it is back")
                await until(lambda: not other.service.monitor.states[live].silent, "the other hub knows")


async def _passes(world: World, seconds: int) -> None:
    """A longer step would count as a clock that was set."""
    for _ in range(0, seconds, 8):
        world.clock.ahead += 8_000
        now = world.clock()
        await until(lambda now=now: world.service.monitor.last_heard._swept >= now, "it has looked")  # type: ignore[misc]


def _latitude(dispatcher: Dispatcher, vehicle_id: str) -> float:
    return float(dispatcher.vehicles.get(vehicle_id, {}).get("latitude", 0.0))


async def _kinds(api: Api, fleet_id: str, *kinds: str) -> bool:
    return [event["kind"] for event in await listed(api, fleet_id)] == list(kinds)


async def test_silence_of_a_vehicle_that_no_live_hub_looks_after_is_told_once(two: Hubs) -> None:
    one, other = two
    async with Api(one.url) as api:
        fleet_id = await api.fleet()
        driven, *vans = [await api.vehicle(fleet_id) for _ in range(3)]
        async with Driver(one.url, driven):
            for world in two:
                await world.service.loader.load(fleet_id)
            live = {van: other.service.hub.fleets.vehicles[van].number for van in (driven, *vans)}
            async with other.service.database.transaction() as connection:
                # The home of one is dead. That of the other has forgotten it: a hub asked for it, and never came.
                for van, node in zip(vans, ("dead", one.service.nodes.node.node), strict=True):
                    await homes.claim(connection, [(live[van], "session")], node)
                await latest_positions.move(connection, [_parked(number, van) for van, number in live.items()])
            for world in two:
                silences = world.service.silences
                silences._could_hear_since, silences._swept = world.clock() - 100_000, world.clock()
            await asyncio.gather(*(world.service.silences.sweep() for world in two))
            told = [(event["kind"], event["vehicle_id"]) for event in await listed(api, fleet_id)]
            # The home of the first, which its driver has said hello to, tells of it itself.
            assert sorted(told) == sorted(("signal_lost", van) for van in vans)


async def test_silence_of_vehicles_whose_home_stood_still_is_told_when_it_counts_as_dead(
    two: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fell silent while their home counted as alive, so earlier sweeps have left them out."""
    one, other = two
    async with Api(one.url) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        await other.service.loader.load(fleet_id)
        live = other.service.hub.fleets.vehicles[van]
        async with other.service.database.transaction() as connection:
            await homes.claim(connection, [(live.number, "session")], "stalled")
            await latest_positions.move(connection, [_parked(live.number, van)])
        silences, alive = other.service.silences, {"stalled", one.service.nodes.node.node}
        monkeypatch.setattr(silences, "_others", lambda: alive)
        silences._could_hear_since, silences._swept = other.clock() - 100_000, other.clock()
        for _ in range(3):
            await silences.sweep()
        assert await listed(api, fleet_id) == []
        alive.discard("stalled")
        await asyncio.gather(*(world.service.silences.sweep() for world in two))
        await silences.sweep()
        assert [(event["kind"], event["vehicle_id"]) for event in await listed(api, fleet_id)] == [("signal_lost", van)]


def _parked(number: int, vehicle_id: str) -> Position:
    at = now_ms() - 60_000
    return Position(number, vehicle_id, 0, 0, at, at, 47.1, 9.5, None, None, None, None, None, None, None, (), True)
