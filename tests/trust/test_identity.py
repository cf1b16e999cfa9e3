"""Row 33: a driver's identity comes from its token alone."""

from tests.support.clients import Api, Driver, Passenger, fix, new_id, token
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench
from tests.trust.credentials import close_code


async def test_row_33_a_driver_reports_only_its_own_vehicle(bench: Bench) -> None:
    victim_id, victim_trip = await bench.api.under_way()
    async with Passenger(bench.url, victim_trip) as passenger:
        await passenger.expect("snapshot")
        for seq, claim in enumerate(({"vehicle_id": victim_id}, {"trip_id": victim_trip}, {"vehicle": victim_id}), 1):
            await bench.driver.send({"type": "position", **fix(seq), **claim})
        await bench.driver.send({"type": "hello", "session": bench.driver.session, "vehicle_id": victim_id})
        await bench.driver.acknowledged(3)
        async with Driver(bench.url, victim_id) as victim:
            await victim.report(fix(1, latitude=47.3))
            assert (await passenger.expect("position"))["latitude"] == 47.3
            await victim.acknowledged(1)
    assert await bench.stored() == [1, 2, 3]
    assert [row["trip_id"] for row in await bench.api.track(f"/vehicles/{bench.vehicle_id}/track")] == [""] * 3
    assert len(await bench.api.track(f"/trips/{victim_trip}/track")) == 1


async def test_row_33_a_session_belongs_to_its_vehicle(bench: Bench) -> None:
    """Another vehicle with the same session neither sees nor changes its numbers."""
    await bench.driver.report(fix(5))
    await bench.driver.acknowledged(5)
    other_id = await bench.api.vehicle(bench.fleet_id)
    async with Driver(bench.url, other_id, bench.driver.session) as other:
        assert other.handled == 0
        await other.report(fix(100))
        await other.acknowledged(100)
    await bench.goes_on(stored=[5], seq=6)


async def test_row_33_a_trip_that_is_not_its_own_is_forbidden(bench: Bench) -> None:
    """The answer is the same for the trip of another vehicle, of none, and for an unknown trip. No trip changes."""
    _, others = await bench.api.under_way()
    nobodys = (await bench.api.trip(bench.fleet_id, None))["trip_id"]
    before = [await bench.api.call("GET", f"/trips/{trip_id}") for trip_id in (others, nobodys)]
    async with Passenger(bench.url, others) as passenger:
        await passenger.expect("snapshot")
        for body in ({"type": "trip_status", "status": "canceled"}, {"type": "message", "text": "get out here"}):
            answers = []
            for trip_id in (others, nobodys, "none", "", "../" + others, "x" * 300):
                await bench.driver.send({**body, "trip_id": trip_id, "client_id": "same"})
                answers.append(await bench.driver.expect("done", "error"))
            assert {answer["code"] for answer in answers} == {"forbidden"}
            assert all(answer == answers[0] for answer in answers)
        await passenger.send({"type": "message", "client_id": "marker", "text": "marker"})
        assert (await passenger.expect("message", "trip"))["text"] == "marker"
    assert [await bench.api.call("GET", f"/trips/{trip_id}") for trip_id in (others, nobodys)] == before


async def test_row_33_a_driver_loses_a_trip_with_its_vehicle(bench: Bench) -> None:
    trip = await bench.api.trip(bench.fleet_id, bench.vehicle_id)
    trip = await bench.api.advance(trip["trip_id"], "enroute_to_pickup")
    new_id_ = await bench.api.vehicle(bench.fleet_id)
    await bench.api.call("PATCH", f"/trips/{trip['trip_id']}", {"vehicle_id": new_id_, "version": trip["version"]})
    await bench.driver.send({"type": "trip_status", "trip_id": trip["trip_id"], "status": "canceled", "client_id": "c"})
    assert (await bench.driver.expect("done"))["code"] == "forbidden"
    assert (await bench.api.call("GET", f"/trips/{trip['trip_id']}"))["status"] == "enroute_to_pickup"


async def test_row_33_other_roles_have_no_driver_socket(hub: HubProcess, api: Api, fleet_id: str) -> None:
    trip_id = (await api.trip(fleet_id, None))["trip_id"]
    for bearer in (token("passenger", trip_id), token("dispatcher", fleet_id), token("operator"), token("service")):
        assert await close_code(f"{hub.url}/v1/driver", bearer) == 4502
    # The answer for an unknown vehicle is the same.
    assert await close_code(f"{hub.url}/v1/driver", token("driver", new_id("van"))) == 4502
