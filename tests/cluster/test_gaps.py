"""What is lost between hubs is asked for again, and the line is whole in the end."""

import asyncio
import contextlib
import time

from tests.cluster.hubs import cluster, drive, is_whole, until, watching
from tests.ingest.direct import nothing_is_stored
from tests.support.clients import Driver, Passenger
from tracking.cluster import gaps
from tracking.nodes.messages import Notice, Want


async def test_trust_63_watchers_end_up_whole_though_every_third_packet_is_lost(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            here.backplane.drops = there.backplane.drops = lambda number: number % 3 == 0
            for seq in range(1, 31):
                await driver.report(drive(seq))
                await driver.acknowledged(seq)
            late = {**drive(31), "fix_time": drive(10)["fix_time"] + 500, "latitude": drive(10)["latitude"]}
            await driver.report(late)
            await driver.acknowledged(31)
            assert here.backplane.sent > 3
            await until(lambda: watcher.positions[-1:] == [drive(30)["fix_time"]], "the newest")
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            assert watcher.breaks == []


async def test_what_was_missed_and_waits_for_its_commit_is_shown_and_the_rest_is_read_from_the_store(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            await driver.report(drive(1))
            await until(lambda: len(watcher.positions) == 1, "the first")
            here.backplane.drops = lambda _: True
            await driver.report(drive(2), drive(3))
            await driver.acknowledged(3)
            # What came so long ago is in no hub's memory.
            here.trips.recent.forget_trip(trip_id)
            async with nothing_is_stored(database_url):
                await driver.report(drive(4))
                await until(lambda: bool(here.service.recorder.queue.pending(trip_id)), "one waits for its commit")
                here.backplane.drops = lambda _: False
                await until(lambda: watcher.positions[-1:] == [drive(4)["fix_time"]], "the newest")
                await until(lambda: len(watcher.line.points) == 4, "the line has what was missed")
            await driver.acknowledged(4)
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            assert watcher.breaks == []


async def test_a_hub_that_dies_leaves_nothing_missing_and_its_wants_count_no_more(database_url: str) -> None:
    async with cluster(database_url, 3) as hubs:
        _, there, third = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(third.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            await driver.report(drive(1))
            await until(lambda: len(watcher.positions) == 1, "the first")
            third.backplane.drops = lambda _: True
            await driver.report(drive(2), drive(3))
            await driver.acknowledged(3)
            there.service.nodes._went(third.name, "is taken for dead")
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            third.service.nodes._went(there.name, "is taken for dead")
            settings = third.service.settings
            await asked_for(driver, settings.interval_trip)
            third.backplane.drops = lambda _: False
            # It was not dead: its next beat is heard.
            await asked_for(driver, settings.interval_watched)
            await driver.report(drive(4))
            await until(lambda: watcher.positions[-1:] == [drive(4)["fix_time"]], "the newest")
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            assert watcher.breaks == []


async def test_a_new_home_that_could_not_ask_the_former_one_reads_the_line_again(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs, contextlib.AsyncExitStack() as stack:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver:
            await driver.report(drive(1))
            await driver.acknowledged(1)
            for hub in hubs.hubs:
                hub.backplane.disconnect()
            async with nothing_is_stored(database_url):
                await driver.report(drive(2))
                await until(lambda: bool(here.service.recorder.queue.pending(trip_id)), "one waits for its commit")
                watcher = await stack.enter_async_context(watching(there.url, trip_id))
            await driver.acknowledged(2)
            assert len(watcher.line.points) == 1
        async with Driver(there.url, vehicle_id, driver.session) as again:
            assert again.handled == 2
            await again.report(drive(3))
            await again.acknowledged(3)
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            assert watcher.breaks == []


async def test_a_revision_has_no_point_that_comes_as_a_position_later(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver, watching(there.url, trip_id) as watcher:
            await driver.report(drive(1))
            await until(lambda: len(watcher.positions) == 1, "the first")
            here.backplane.drops = lambda _: True
            await driver.report(*(drive(seq) for seq in range(2, 41)))
            await driver.acknowledged(40)
            # The line is read again before the gap is noticed.
            there.trips._revisions.revise_all(there.service.hub.feeds[trip_id].trip)
            await until(lambda: len(watcher.line.points) == 40, "the line")
            here.backplane.drops = lambda _: False
            await driver.report(drive(41))
            await until(lambda: watcher.positions[-1:] == [drive(41)["fix_time"]], "the newest")
            await until(lambda: not there.trips._gaps._filling, "the gap is filled")
            await until(is_whole(hubs, watcher, trip_id), "the line is as stored")
            assert watcher.breaks == []
            assert watcher.positions == [drive(seq)["fix_time"] for seq in range(1, 42)]


async def test_a_reader_that_resumes_gets_what_only_the_snapshot_of_another_one_had(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id) as driver:
            async with watching(there.url, trip_id) as watcher:
                await driver.report(drive(1))
                await until(lambda: len(watcher.positions) == 1, "the first")
            epoch, offset = watcher.of_type("snapshot")[0]["epoch"], watcher.offset
            feed = there.service.hub.feeds[trip_id]
            await until(lambda: not feed.queues, "it has left")
            here.backplane.drops = lambda _: True
            await driver.report(drive(2))
            await driver.acknowledged(2)
            async with Passenger(there.url, trip_id) as another:
                assert (await another.expect("snapshot"))["position"]["fix_time"] == drive(2)["fix_time"]
                async with Passenger(there.url, trip_id, query=f"?epoch={epoch}&offset={offset}") as resumed:
                    await resumed.expect("resumed")
                    assert (await resumed.expect("position"))["fix_time"] == drive(2)["fix_time"]


async def asked_for(driver: Driver, interval: float) -> None:
    """Waits until the driver is asked for this interval."""
    while (await driver.expect("interval"))["interval"] != interval:
        pass


async def test_a_peer_is_asked_again_at_most_once_a_second(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        _, there = hubs.hubs
        peer = next(iter(there.service.nodes.peers))
        told = []
        there.trips._gaps._interest.tell_again = lambda *wants, **_: told.append(wants)  # type: ignore[method-assign]
        there.trips._gaps._asked_at.clear()
        for _ in range(100):
            there.trips.missed(peer)
        assert len(told) == 1
        assert gaps.AGAIN_SECONDS >= 1


async def test_thousands_of_trips_are_asked_for_and_answered_some_in_each_step(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        told: list[Notice] = []
        answered: list[tuple[int, str]] = []
        steps = 0

        async def count() -> None:
            nonlocal steps
            while True:
                steps += 1
                await asyncio.sleep(0)

        tell, answer = there.service.nodes.tell, here.trips._answer

        def noted(peer: str, notice: Notice) -> None:
            told.append(notice)
            tell(peer, notice)

        def slow(peer: str, want: Want, **how: bool) -> None:
            answered.append((steps, want.trip_id))
            end = time.perf_counter() + 0.0005
            while time.perf_counter() < end:
                pass
            answer(peer, want, **how)

        there.service.nodes.tell = noted  # type: ignore[method-assign]
        here.trips._answer = slow  # type: ignore[method-assign]
        counting = asyncio.create_task(count())
        names = [f"trip {number}" for number in range(1_000)]
        for name in names:
            there.trips.interest.ours[name] = Want(name, False)
        there.trips._gaps._asked_at.clear()
        there.trips.missed(here.name)
        assert len(told) == 1
        # This one is in no part of what is told again.
        await until(lambda: len(told) > 1, "the second part")
        there.trips.interest.want(Want("another", True))
        await until(lambda: not there.trips._gaps._filling, "all is answered")
        assert {trip_id for _, trip_id in answered} == set(names)
        assert len({step for step, _ in answered}) >= 1_000 // 10
        # The same if so many readers return.
        answered.clear()
        for number, name in enumerate(names[:100], 1):
            here.trips.interest._want(there.name, Want(name, True, 10_000_000 + number, 1))
        await until(lambda: len(answered) == 100, "all are answered")
        assert len({step for step, _ in answered}) >= 100 // 10
        counting.cancel()
        assert here.trips.interest.theirs.keys() >= {*names, "another"}
        del there.trips.interest.ours[names[0]]
        there.trips._gaps._asked_at.clear()
        there.trips.missed(here.name)
        await until(lambda: names[0] not in here.trips.interest.theirs, "what is not wanted any more is dropped")
