"""A driver moves between hubs: what is stored, what is acknowledged, and who is sent away."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.ingest.direct import nothing_is_stored
from tests.support.clients import Api, Driver, fix
from tests.support.devices import until
from tests.support.hub_in_process import has_events
from tests.support.hubs_in_process import Hubs, a_vehicle, hubs
from tracking.cluster import homes as cluster_homes
from tracking.demo.postgres import Cluster
from tracking.errors import StoreUnavailable
from tracking.metrics import HAND_OVERS, SUSPECT
from tracking.nodes.messages import HandOver, HandOverAsk
from tracking.service import Service
from tracking.store.homes import Home as Row


@pytest.fixture(scope="module")
async def shared(cluster: Cluster, template: str) -> AsyncIterator[Hubs]:
    cluster.create_database("homes", template)
    async with hubs(cluster.url("homes"), commit_interval=0) as made:
        yield made
    cluster.drop_database("homes")


@pytest.fixture
async def two(shared: Hubs) -> AsyncIterator[Hubs]:
    """Two hubs that know each other, whose clocks are right."""
    yield shared
    shared.exchange.restore()
    for world in shared:
        world.clock.ahead = 0
    await shared.joined()
    # Each has noticed that its clock was set.
    await until(
        lambda: all(0 <= world.clock() - world.service.homes.loop_ran_at < 1_000 for world in shared), "they look again"
    )


async def _stored(database_url: str, van: str) -> list[tuple[int, int]]:
    """`(seq, server_time in ms)` of all positions of a vehicle, in the order of seq."""
    connection = await asyncpg.connect(database_url)
    try:
        query = """
            SELECT seq, (date_part('epoch', server_time) * 1000)::bigint AS at
            FROM positions JOIN vehicles USING (vehicle) WHERE vehicle_id = $1 ORDER BY seq
        """
        return [(row["seq"], row["at"]) for row in await connection.fetch(query, van)]
    finally:
        await connection.close()


async def _is_here(service: Service, vehicle_id: str) -> bool:
    vehicle = service.ingest_vehicles.get(vehicle_id)
    return vehicle is not None and vehicle.home is not None


async def test_row_60_a_driver_that_moves_in_mid_commit_has_one_row_each_and_an_exact_ack(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    async with Driver(one.url, van) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        async with nothing_is_stored(two[0].database_url):
            await driver.report(fix(2), fix(3))
            await until(lambda: bool(one.service.recorder.queue.group), "a group is being stored")
            moving = asyncio.create_task(_moved(other.url, van, driver.session))
            # The same session elsewhere: the phone may come back by itself.
            assert await driver.closed() == 1012
        # It was told what the store had: all three, or the first.
        handled = await moving
    assert handled in (1, 3)
    assert [seq for seq, _ in await _stored(two[0].database_url, van)] == [1, 2, 3, 4]
    assert not await _is_here(one.service, van)
    assert await _is_here(other.service, van)


async def _moved(url: str, van: str, session: str) -> int:
    """Says hello, sends what is not acknowledged and one more fix. Returns what was acknowledged at hello."""
    async with Driver(url, van, session) as driver:
        handled = driver.handled
        await driver.report(*(fix(seq) for seq in range(handled + 1, 5)))
        await driver.acknowledged(4)
        return handled


async def test_row_62_the_newer_of_two_devices_on_two_hubs_wins(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    async with Driver(one.url, van) as older:
        await older.report(fix(1))
        await older.acknowledged(1)
        async with Driver(other.url, van) as newer:
            assert await older.closed() == 4409
            await newer.report(fix(2))
            await newer.acknowledged(2)
            assert newer.connection.close_code is None
    assert [seq for seq, _ in await _stored(two[0].database_url, van)] == [1, 2]


async def test_a_phone_that_races_itself_over_two_hubs_ends_up_on_one(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    async with Driver(one.url, van) as first:
        await first.report(fix(1))
        await first.acknowledged(1)
        async with Driver(other.url, van, first.session) as second:
            assert await first.closed() == 1012
            await second.report(fix(2))
            # Its old connection was delayed on its way to the first hub, and says hello only now.
            async with Driver(one.url, van, first.session) as delayed:
                assert await second.closed() == 1012
            async with Driver(other.url, van, first.session) as third:
                assert third.handled >= delayed.handled
                await third.report(*(fix(seq) for seq in range(third.handled + 1, 4)))
                await third.acknowledged(3)
    assert [seq for seq, _ in await _stored(two[0].database_url, van)] == [1, 2, 3]


async def test_a_home_that_was_not_asked_stores_nothing_more(two: Hubs) -> None:
    """The broker is away. The former home learns of it by its next commit, which harms no other vehicle in the same group."""
    one, other = two
    van, bystander = await a_vehicle(one), await a_vehicle(one)
    two.exchange.cut()
    async with Driver(one.url, van) as stale, Driver(one.url, bystander) as good, Driver(other.url, van) as fresh:
        await fresh.report(fix(1))
        await fresh.acknowledged(1)
        async with nothing_is_stored(two[0].database_url):
            await good.report(fix(10))
            await until(lambda: bool(one.service.recorder.queue.group), "a group is being stored")
            await stale.report(fix(20), fix(21))
            await good.report(fix(11))
            await until(lambda: len(one.service.recorder.queue.waiting) == 3, "one group for both")
        await good.acknowledged(11)
        assert await stale.closed() == 4409
        assert stale.handled == 0
        assert one.service.ingest_vehicles.get(van) is None
    assert [seq for seq, _ in await _stored(two[0].database_url, van)] == [1]
    assert [seq for seq, _ in await _stored(two[0].database_url, bystander)] == [10, 11]


async def test_a_hub_that_stood_still_reads_its_homes_before_it_shows_anything(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    two.exchange.cut()
    async with Driver(one.url, van) as stale:
        async with Driver(other.url, van, stale.session) as fresh:
            await fresh.report(fix(1))
            await fresh.acknowledged(1)
            vehicle = one.service.ingest_vehicles.get(van)
            assert vehicle is not None
            offered = one.service.recorder.queue.offered
            # The loop has not run for three seconds, as far as the clock shows.
            one.clock.ahead = cluster_homes.STOOD_STILL_MS + 600
            await stale.report(fix(20))
            assert await stale.closed() == 1012
        assert vehicle.newest is None
        assert one.service.recorder.queue.offered == offered


async def test_a_hub_that_has_lost_many_homes_forgets_them_in_slices(two: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = two
    homes, van = one.service.homes, await a_vehicle(one)
    steps = 0

    def lose(*_: object) -> None:
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass

    async def count() -> None:
        nonlocal steps
        while True:
            await asyncio.sleep(0)
            steps += 1

    async with Driver(one.url, van) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        known = one.service.ingest_vehicles.get(van)
        assert known is not None

        async def taken(_: list[int]) -> dict[int, Row]:
            nonlocal steps
            steps = 0
            return {}

        monkeypatch.setattr(homes, "lose", lose)
        monkeypatch.setattr(homes._claims, "rows", taken)
        counting = asyncio.create_task(count())
        await homes._read(*[known.number] * 100)
        counting.cancel()
    assert steps > 20


async def test_without_broker_and_database_nothing_is_held_back(two: Hubs, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = two[0].service.homes
    tried = 0

    async def away() -> None:
        nonlocal tried
        tried += 1
        raise StoreUnavailable("away")

    monkeypatch.setattr(homes, "read_anew", away)
    monkeypatch.setattr(homes, "others_registered", lambda: True)
    monkeypatch.setattr(cluster_homes, "AWAY_SECONDS", 0.0)
    two.exchange.cut()
    await until(lambda: tried >= 1, "the homes are read")
    looked = homes.loop_ran_at
    await until(lambda: tried >= 2 and homes.loop_ran_at > looked, "it goes on")


async def test_server_time_never_falls_though_the_clocks_of_hubs_differ(two: Hubs) -> None:
    one, other = two
    van = await a_vehicle(one)
    one.clock.ahead = 2_000
    session = ""
    for count, hub in enumerate((one, other, one, other)):
        if count == 3:
            # Now nobody tells: the store does.
            two.exchange.cut()
        async with Driver(hub.url, van, session or None) as driver:
            session = driver.session
            await driver.report(fix(count + 1))
            await driver.acknowledged(count + 1)
    times = [at for _, at in await _stored(two[0].database_url, van)]
    assert times == sorted(times)
    assert len(times) == 4


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x92\x63\x90", b"\x92\x01\x90"])
async def test_an_answer_that_is_not_understood_is_as_good_as_none(
    two: Hubs, state: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty, no msgpack, of version 99, and of this version without content."""
    one, other = two
    van = await a_vehicle(one)
    async with Driver(one.url, van) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)

    async def answered(_peer: str, ask: object, _seconds: float) -> HandOver:
        return HandOver(1, 1, state)

    monkeypatch.setattr(other.service.nodes, "ask", answered)
    async with Driver(other.url, van, driver.session) as driver:
        assert driver.handled == 1
        await driver.report(fix(2))
        await driver.acknowledged(2)
    assert [seq for seq, _ in await _stored(two[0].database_url, van)] == [1, 2]


async def test_a_term_that_fell_sends_the_driver_away_to_come_back(two: Hubs) -> None:
    one, _ = two
    van = await a_vehicle(one)
    async with Driver(one.url, van) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
        vehicle = one.service.ingest_vehicles.get(van)
        assert vehicle is not None
        connection = await asyncpg.connect(one.database_url)
        await connection.execute("UPDATE homes SET term = 0 WHERE vehicle = $1", vehicle.number)
        await connection.execute("UPDATE sessions SET term = 0 WHERE vehicle = $1", vehicle.number)
        await connection.close()
        await driver.report(fix(2))
        assert await driver.closed() == 1012
    async with Driver(one.url, van, driver.session) as driver:
        assert driver.handled == 1
        await driver.report(fix(2))
        await driver.acknowledged(2)


async def test_what_is_not_stored_in_time_is_sent_again_and_not_judged_again(database_url: str) -> None:
    async with hubs(database_url, commit_interval=30.0) as two:
        one, other = two
        van = await a_vehicle(one)
        # The group is not stored while the other hub waits.
        one.service.recorder.queue.hurry = lambda: None  # type: ignore[method-assign]
        taken_up, doubted = (counter._value.get() for counter in (HAND_OVERS.labels("taken_up"), SUSPECT.labels("jump")))
        fixes = [fix(1), fix(2), fix(3, latitude=47.6), fix(4)]
        async with Driver(one.url, van) as driver:
            await driver.report(*fixes)
            await until(lambda: len(one.service.recorder.queue.waiting) == 4, "all are taken")
            async with Driver(other.url, van, driver.session) as again:
                assert again.handled == 0
                await again.report(*fixes, fix(5))
                await until(lambda: len(other.service.recorder.queue.waiting) == 5, "all are taken")
                other.service.recorder.queue.hurry()
                await again.acknowledged(5)
        vehicle = other.service.ingest_vehicles.get(van)
        assert vehicle is not None and vehicle.newest is not None and vehicle.newest.seq == 5
        assert HAND_OVERS.labels("taken_up")._value.get() == taken_up + 1
        assert SUSPECT.labels("jump")._value.get() == doubted + 1
        one.service.recorder.queue.full_group.set()
        await one.service.recorder.flush()
        assert [seq for seq, _ in await _stored(database_url, van)] == [1, 2, 3, 4, 5]


async def test_a_stay_goes_with_the_vehicle_and_each_event_is_told_once(two: Hubs) -> None:
    one, other = two
    square = [[9.5, 47.1], [9.6, 47.1], [9.6, 47.2], [9.5, 47.2], [9.5, 47.1]]
    async with Api(one.url) as api:
        fleet_id = await api.fleet()
        van = await api.vehicle(fleet_id)
        await api.call(
            "PUT",
            f"/fleets/{fleet_id}/geofences/yard",
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {}},
        )
        for world in two:
            assert await world.service.loader.load(fleet_id) is not None
        places = [(one, 47.0985), (one, 47.1015), (other, 47.102), (one, 47.1015), (one, 47.102), (other, 47.0985)]
        session = None
        for seq, (world, latitude) in enumerate(places, 1):
            one.clock.ahead = other.clock.ahead = seq * 30_000
            async with Driver(world.url, van, session) as driver:
                session = driver.session
                await driver.report(fix(seq, latitude=latitude, longitude=9.55, fix_time=world.clock()))
                await driver.acknowledged(seq)
            if seq == 4:
                # The other hub asks for it, and then does not become its home.
                vehicle = one.service.ingest_vehicles.get(van)
                assert vehicle is not None
                ask = HandOverAsk(0, vehicle.number, van, session)
                answer = await other.service.nodes.ask(one.service.nodes.node.node, ask, 5.0)
                assert answer is not None and answer.state
        await until(lambda: has_events(api, fleet_id, 2), "it has entered and left")
        listed = (await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]
    assert [event["kind"] for event in listed if event["kind"] in ("enter", "exit")] == ["enter", "exit"]
