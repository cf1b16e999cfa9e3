"""Corrections of the line reach watchers elsewhere: fixes that raced a change of their vehicle's trips."""

from tests.cluster.hubs import cluster, drive, is_whole, until, watching
from tests.ingest.direct import nothing_is_stored
from tests.support.clients import Driver, now_ms
from tracking.model import Position
from tracking.nodes.messages import Refiled


async def test_fixes_after_the_end_of_a_trip_are_taken_from_its_line_and_given_to_the_next(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        fleet_id = await hubs.api.fleet()
        vehicle_id, other_vehicle = await hubs.api.vehicle(fleet_id), await hubs.api.vehicle(fleet_id)
        first = (await hubs.api.trip(fleet_id, vehicle_id))["trip_id"]
        second = (await hubs.api.trip(fleet_id, vehicle_id))["trip_id"]
        await hubs.api.advance(first, "enroute_to_pickup")
        async with (
            Driver(here.url, vehicle_id) as driver,
            watching(there.url, first) as of_first,
            watching(there.url, second) as of_second,
        ):
            await driver.report(drive(1))
            await driver.acknowledged(1)
            await until(lambda: len(of_first.positions) == 1, "the first fix")
            async with there.api() as api:
                with here.not_following():
                    # The vehicle leaves the first trip for the second. Its hub does not know that yet.
                    version = (await api.call("GET", f"/trips/{first}"))["version"]
                    await api.call("PATCH", f"/trips/{first}", {"version": version, "vehicle_id": other_vehicle})
                    await api.advance(second, "enroute_to_pickup")
                    fixes = [{**drive(seq), "fix_time": now_ms() + seq * 1000} for seq in (2, 3)]
                    await driver.report(fixes[0])
                    await driver.acknowledged(2)
                    async with nothing_is_stored(database_url):
                        await driver.report(fixes[1])
                        await until(lambda: bool(here.service.recorder.queue.pending(first)), "the last one waits")
                        # The serving hub knows that the vehicle has left the trip.
                        assert len(of_first.positions) == 1
                        assert of_second.positions == []
                        await until(lambda: fixes[1]["fix_time"] in there.trips_times(first), "it has come")
                        here.follow_again()
                        await until(lambda: of_second.positions[-1:] == [fixes[1]["fix_time"]], "the next passenger sees it")
                        assert there.trips_times(first).isdisjoint({fixes[1]["fix_time"]})
            await driver.acknowledged(3)
            for one, trip_id in ((of_first, first), (of_second, second)):
                await until(is_whole(hubs, one, trip_id), "the line is as stored")
            assert [time for time, *_ in of_first.line.points] == [drive(1)["fix_time"]]
            assert [time for time, *_ in of_second.line.points] == [fix["fix_time"] for fix in fixes]


async def test_a_backlog_that_turns_out_to_belong_to_a_trip_is_told_in_parts(database_url: str) -> None:
    async with cluster(database_url, 2) as hubs:
        here, there = hubs.hubs
        vehicle_id, trip_id = await hubs.api.under_way()
        async with Driver(here.url, vehicle_id), watching(there.url, trip_id):
            await until(lambda: trip_id in here.trips.interest.theirs, "it is wanted")
            came: list[Refiled] = []
            there.service.nodes.listen(Refiled, lambda _, refiled: came.append(refiled))
            vehicle = here.service.ingest_vehicles.get(vehicle_id)
            assert vehicle is not None and vehicle.trip is not None
            got = [
                Position(
                    vehicle=vehicle.number,
                    vehicle_id=vehicle_id,
                    session=1,
                    seq=seq,
                    fix_time=now_ms() + seq,
                    server_time=now_ms(),
                    latitude=47.0,
                    longitude=8.0,
                    accuracy=None,
                    altitude=None,
                    speed=None,
                    bearing=None,
                    battery=None,
                    trip=vehicle.trip.number,
                    trip_id=trip_id,
                    suspect=(),
                    live=True,
                )
                for seq in range(1, 3_001)
            ]
            here.trips.refiled(trip_id, vehicle.trip.number, vehicle_id, range(20_000), got)
            await until(lambda: sum(len(part.got) for part in came) == 3_000, "all of them")
            assert sum(len(part.lost) for part in came) == 20_000
