"""What dispatchers see when messages between hubs are lost, hubs or the broker die, and vehicles fall silent."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from tests.cluster.dispatchers import Screen, across, drive, live, looking
from tests.cluster.hubs import cluster
from tests.support.clients import Api, Driver
from tests.support.devices import until
from tests.support.hub_in_process import World
from tests.support.hubs_in_process import hubs
from tests.support.several_hubs import PEERS, SeveralHubs
from tracking.cluster import remote_vehicles
from tracking.metrics import CLOCKS_WRONG, FLEET_MOVES
from tracking.nodes.messages import FleetInterests, FleetMoves, SeenVehicle, WantFleet


async def test_trust_63_dispatchers_see_all_though_every_third_packet_is_lost(database_url: str) -> None:
    async with cluster(database_url, 2, latest_interval=600) as made, contextlib.AsyncExitStack() as stack:
        here, there = made.hubs
        fleet_id = await made.api.fleet()
        vans = [await made.api.vehicle(fleet_id) for _ in range(10)]
        drivers = [await stack.enter_async_context(Driver(here.url, van)) for van in vans]
        # One reports before anybody looks, and never again.
        parked = await drive(drivers[0], 1)
        here.backplane.drops = there.backplane.drops = lambda number: number % 3 == 0
        async with looking(there.url, fleet_id) as screen:
            for seq in range(1, 9):
                reported = [await drive(driver, seq) for driver in drivers[1:]]
            await until(
                lambda: [screen.vehicles.get(van, {}).get("fix_time") for van in vans] == [parked, *reported], "all are shown"
            )
            assert here.backplane.sent > 6
            # What is lost last is asked for again, too.
            here.backplane.drops = lambda _: True
            told = FLEET_MOVES.labels("out").value
            reported = [await drive(driver, 9) for driver in drivers[1:]]
            await until(lambda: FLEET_MOVES.labels("out").value >= told + len(reported), "they are told in vain")
            here.backplane.drops = lambda _: False
            await until(lambda: [screen.vehicles[van]["fix_time"] for van in vans[1:]] == reported, "what was lost last")
            assert screen.left == []
            assert {tuple(told) for told in screen.statuses.values()} == {("available",)}


async def test_a_vehicle_stands_is_lost_and_leaves_once_on_every_hub(database_url: str) -> None:
    async with hubs(database_url, 3, registered=True, commit_interval=0, gone_after=90) as made:
        home, *others = made
        async with Api(home.url) as api, contextlib.AsyncExitStack() as stack:
            van, trip_id = await api.under_way()
            fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
            screens = [await stack.enter_async_context(looking(world.url, fleet_id)) for world in made]
            driver = await stack.enter_async_context(Driver(home.url, van))
            for seq in range(1, 11):
                reported = await drive(driver, seq, fix_time=home.clock(), latitude=47.141)
                await _passes(made, 8)
            for screen in screens:
                await screen.shows(van, reported)
                await until(lambda s=screen: s.statuses[van] == ["on_trip", "stopped"], "it stands")  # type: ignore[misc]
            wrong = CLOCKS_WRONG._value.get()
            home.service.hub.fleets.set_clock_skew(van, 7_200_000)
            for screen in screens:
                await until(lambda s=screen: s.vehicles[van].get("clock_skew") == 7200, "its clock is wrong")  # type: ignore[misc]
            home.service.hub.fleets.set_clock_skew(van, 0)
            for screen in screens:
                await until(lambda s=screen: "clock_skew" not in s.vehicles[van], "its clock is right")  # type: ignore[misc]
            assert CLOCKS_WRONG._value.get() == wrong
            await _passes(made, 64)
            for screen in screens:
                await until(lambda s=screen: s.statuses[van] == ["on_trip", "stopped", "lost"], "it is lost")  # type: ignore[misc]
            # A home that stood still, and wakes, counts the time as no silence.
            shown = live(home.service, van)
            assert shown.position is not None
            woken = FleetMoves(fleet_id, home.clock(), [SeenVehicle(shown.position, standing=True)])
            home.service.nodes.tell_all(woken)
            await _passes(made, 32)
            for screen in screens:
                await until(lambda s=screen: s.left == [van], "it left the map")  # type: ignore[misc]
                assert screen.statuses[van] == ["on_trip", "stopped", "lost"]
            # Its home answers again, and the store is read: it stays away.
            for world in others:
                across(world.service).missed(home.service.nodes.node.node)
                await world.service.safeguards.remote_vehicles.work()
            await until(lambda: all(across(w.service).asks.is_settled(fleet_id) for w in others), "the home has answered")
            await _passes(made, 8)
            for screen in screens:
                assert (screen.left, screen.vehicles) == ([van], {})
            told = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
            assert [event["kind"] for event in told] == ["signal_lost"]


async def _passes(made: list[World], seconds: int) -> None:
    """A longer step would count as a clock that was set."""
    for _ in range(0, seconds, 8):
        for world in made:
            world.clock.ahead += 8_000
        for world in made:
            now = world.clock()
            await until(lambda w=world, now=now: w.service.monitor.last_heard._swept >= now - 1_000, "it has looked")  # type: ignore[misc]


async def test_a_peer_that_knows_nothing_of_fleets_is_read_from_the_store(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_vehicles, "BEHIND_SECONDS", 0.5)
    async with hubs(database_url, registered=True, commit_interval=0, latest_interval=0.2) as made:
        old, other = made
        for kind in (WantFleet, FleetInterests):
            old.service.nodes._listeners._notices[kind].clear()
        async with Api(old.url) as api:
            fleet_id = await api.fleet()
            van = await api.vehicle(fleet_id)
            async with Driver(old.url, van) as driver, looking(other.url, fleet_id) as screen:
                await screen.shows(van, await drive(driver, 1))
                await until(across(other.service).is_behind, "it is known that the other one does not answer")
                # What was due because the look began is read.
                await until(lambda: not other.service.safeguards.remote_vehicles._begun, "it is read")
                for seq in (2, 3):
                    await screen.shows(van, await drive(driver, seq))
                assert screen.statuses[van] == ["available"]


async def test_dispatchers_survive_the_broker_and_the_homes_of_what_they_see(database_url: str, tmp_path: Path) -> None:
    settings = {"latest_interval": "0.5", "commit_interval": "0"}
    async with SeveralHubs(database_url, tmp_path, 3, settings).running() as made, Api(made.urls[2]) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        async with looking(made.urls[2], fleet_id) as screen:
            session = await _without_the_broker(made, screen, van)
            session = await _stopped(made, screen, van, session)
            await _killed(made, screen, van, session)
            assert screen.left == []
            assert screen.statuses[van] == ["available"]
            assert made.tracebacks() == []


async def _without_the_broker(made: SeveralHubs, screen: Screen, van: str) -> str:
    """Row 64."""
    async with Driver(made.urls[0], van) as driver:
        await screen.shows(van, await drive(driver, 1))
        await made.kill_broker()
        for seq in (2, 3):
            began = time.monotonic()
            await screen.shows(van, await drive(driver, seq))
            assert time.monotonic() - began < 5.5
        await made.start_broker()
        await made.joined()
        for seq in range(4, 7):
            began = time.monotonic()
            await screen.shows(van, await drive(driver, seq))
        assert time.monotonic() - began < 1.0
        return driver.session


async def _stopped(made: SeveralHubs, screen: Screen, van: str, session: str) -> str:
    """Row 61: the home stands still with a fix that it has not read, and wakes when another hub has taken its place."""
    async with Driver(made.urls[0], van, session) as driver:
        await screen.shows(van, await drive(driver, 7))
        made.pause(0)
        try:
            await driver.report({"seq": 8, "fix_time": 1, "latitude": 47.0, "longitude": 9.5})
            made.dead.add(0)  # only so that the other ones alone are asked
            await until(lambda: _each_sees(made, 1), "the others take it for dead")
            async with Driver(made.urls[1], van, session) as again:
                for seq in (8, 9):
                    await screen.shows(van, await drive(again, seq))
                made.resume(0)
                made.dead.discard(0)
                await made.joined()
                await screen.shows(van, await drive(again, 10))
        finally:
            made.resume(0)
            made.dead.discard(0)
    return session


async def _each_sees(made: SeveralHubs, others: int) -> bool:
    return set(await made.metric(PEERS)) == {others}


async def _killed(made: SeveralHubs, screen: Screen, van: str, session: str) -> None:
    async with Driver(made.urls[1], van, session) as driver:
        await screen.shows(van, await drive(driver, 11))
        await made.kill(1)
        await asyncio.sleep(0)
    async with Driver(made.urls[0], van, session) as driver:
        for seq in (12, 13):
            await screen.shows(van, await drive(driver, seq))
