"""What passengers and drivers live through: coming back, late fixes, demand, messages, slow lines."""

import json
import socket
from collections.abc import Callable

import asyncpg
import pytest

from tests.support.clients import Api, Driver, Message, Passenger, fix, now_ms
from tests.support.hub_process import HubProcess
from tests.support.offsets import assert_contiguous

pytestmark = pytest.mark.also_two_hubs


@pytest.mark.one_hub("an epoch belongs to one hub")
async def test_who_comes_back_gets_what_was_missed_and_nothing_twice(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver:
        async with Passenger(hub.url, trip_id) as passenger:
            snapshot = await passenger.receive()
            await driver.report(fix(1))
            last = await passenger.expect("position")
        await driver.report(fix(2))
        await driver.report(fix(3))
        await driver.acknowledged(3)
        query = f"?epoch={snapshot['epoch']}&offset={last['offset']}"
        async with Passenger(hub.url, trip_id, query=query) as passenger:
            assert await passenger.receive() == {"type": "resumed", "epoch": snapshot["epoch"], "offset": last["offset"]}
            missed = [await passenger.receive() for _ in range(2)]
            await driver.report(fix(4))
            live = await passenger.expect("position")
    assert [m["offset"] for m in [*missed, live]] == [last["offset"] + n for n in (1, 2, 3)]


async def test_what_cannot_be_continued_begins_anew(hub: HubProcess, api: Api) -> None:
    _, trip_id = await api.under_way()
    for query in ("?epoch=other&offset=1", "?epoch=other", "?offset=3", "?epoch=x&offset=-1", "?epoch=x&offset=1e3"):
        async with Passenger(hub.url, trip_id, query=query) as passenger:
            assert (await passenger.receive())["type"] == "snapshot"


async def test_a_late_fix_enters_the_line_and_leaves_the_marker(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    begin = now_ms() - 10_000
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.receive()
        await driver.report(fix(1, fix_time=begin))
        await driver.report(fix(3, fix_time=begin + 2000))
        shown = [await passenger.expect("position") for _ in range(2)]
        late = fix(4, fix_time=begin + 1000)
        await driver.report(late)
        revised = await passenger.expect("position", "track_revised")
        await driver.report(fix(5, fix_time=begin + 3000))
        after = await passenger.expect("position", "track_revised")
    assert revised["type"] == "track_revised"
    assert (revised["from"], revised["to"]) == (late["fix_time"], late["fix_time"])
    assert revised["track"] == [[late["longitude"], late["latitude"], late["fix_time"]]]
    assert after["type"] == "position"
    assert [m["offset"] for m in [*shown, revised, after]] == [1, 2, 3, 4]


async def test_a_suspect_fix_is_stored_and_not_shown(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.receive()
        begin = now_ms()
        await driver.report(fix(1, fix_time=begin))
        await driver.report(fix(2, fix_time=begin + 1, latitude=0.0, longitude=0.0))
        await driver.report(fix(3, fix_time=begin + 2))
        shown = [await passenger.receive() for _ in range(2)]
        await driver.acknowledged(3)
    assert [m["latitude"] for m in shown] == [fix(1)["latitude"], fix(3)["latitude"]]
    assert [row["seq"] for row in await api.track(f"/trips/{trip_id}/track")] == ["1", "3"]
    [doubted] = [row for row in await api.track(f"/trips/{trip_id}/track", suspect="true") if row["suspect"]]
    assert "null_island" in doubted["suspect"].split(";")


async def test_the_rate_follows_the_demand(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    async with Driver(hub.url, vehicle_id) as driver:
        assert driver.welcome["interval"] == 5.0
        trip = await api.trip(fleet_id, vehicle_id)
        assert (await driver.expect("trip"))["trip"] == trip
        await api.advance(trip["trip_id"], "enroute_to_pickup")
        assert (await driver.expect("interval"))["interval"] == 2.0
        async with Passenger(hub.url, trip["trip_id"]):
            assert (await driver.expect("interval"))["interval"] == 1.0
        await api.advance(trip["trip_id"], "canceled")
        assert (await driver.expect("interval"))["interval"] == 5.0


async def test_a_driver_takes_its_trip_through_its_life(hub: HubProcess, api: Api) -> None:
    fleet_id = await api.fleet()
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    statuses = [
        "enroute_to_pickup",
        "arrived_at_pickup",
        "enroute_to_dropoff",
        "arrived_at_stop",
        "enroute_to_dropoff",
        "complete",
    ]
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip["trip_id"]) as passenger:
        assert driver.welcome["trip"]["trip_id"] == trip["trip_id"]
        await passenger.receive()
        for number, status in enumerate(statuses):
            change = {"type": "trip_status", "trip_id": trip["trip_id"], "status": status, "client_id": f"c{number}"}
            await driver.send(change)
            assert await driver.expect("done") == {"type": "done", "client_id": f"c{number}"}
            assert (await passenger.expect("trip"))["trip"]["status"] == status
        assert await passenger.closed() == 4506
        await driver.send({**change, "status": "canceled", "client_id": "late"})
        refused = await driver.expect("done")
    assert (refused["client_id"], refused["code"]) == ("late", "conflict")


async def test_messages_reach_the_other_side_once(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.receive()
        for client_id in ("p1", "p1", "p2"):
            await passenger.send({"type": "message", "text": f"I wait at the door ({client_id})", "client_id": client_id})
            assert await passenger.expect("done") == {"type": "done", "client_id": client_id}
        async with Driver(hub.url, vehicle_id) as driver:
            # The driver was away: what is not read follows the welcome, so it came before the ack that Driver waited for.
            await driver.send({"type": "message", "trip_id": trip_id, "text": "Two minutes", "client_id": "d1"})
            assert (await driver.expect("done"))["client_id"] == "d1"
            await driver.send({"type": "message", "trip_id": trip_id, "text": "Two minutes", "client_id": "d1"})
            assert (await driver.expect("done"))["client_id"] == "d1"
        seen = await passenger.expect("message")
        async with Driver(hub.url, vehicle_id) as driver:
            await passenger.send({"type": "message", "text": "Thank you", "client_id": "p3"})
            told = await driver.expect("message")
    assert (seen["text"], seen["from"]) == ("Two minutes", "driver")
    # Only the new one: the others were read before.
    assert (told["text"], told["from"], told["trip_id"]) == ("Thank you", "passenger", trip_id)


async def test_unread_messages_follow_the_welcome(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.send({"type": "message", "text": "Red coat", "client_id": "p1"})
        await passenger.expect("done")
    driver = Driver(hub.url, vehicle_id)
    driver.connection = await driver._connect
    assert (await driver.receive())["type"] == "welcome"
    message = await driver.receive()
    assert (message["type"], message["text"]) == ("message", "Red coat")
    await driver.connection.close()


async def test_who_waits_for_the_next_trip_does_not_slow_this_one(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    trip = await api.call("GET", f"/trips/{trip_id}")
    following = await api.trip(trip["fleet_id"], vehicle_id)
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id):
        assert (await driver.expect("interval"))["interval"] == 1.0
        async with Passenger(hub.url, following["trip_id"]) as waiting:
            await waiting.expect("snapshot")
            await api.advance(trip_id, "arrived_at_pickup")
            told = await driver.expect("interval", "trip")
    assert (told["type"], told["trip"]["status"]) == ("trip", "arrived_at_pickup")


async def test_a_status_is_told_though_its_driver_is_gone_before_the_commit(
    own_hub: Callable[..., HubProcess], database_url: str
) -> None:
    hub = own_hub()
    database = await asyncpg.connect(database_url)
    await database.execute(
        """
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON trips DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.status = 'canceled') EXECUTE FUNCTION slow();
        """
    )
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        async with Passenger(hub.url, trip_id) as passenger:
            await passenger.receive()
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "canceled", "client_id": "c"})
                committing = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                while not await database.fetchval(committing):
                    pass
                driver.connection.transport.abort()
            assert (await passenger.expect("trip"))["trip"]["status"] == "canceled"
            assert await passenger.closed() == 4506
    await database.close()


@pytest.mark.one_hub("the load balancer holds what a slow reader does not read")
async def test_a_slow_reader_gets_the_newest_and_is_told(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(outbox_high_water="4096")
    count, batch = 30_000, 500
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        # A small window, so that what is not read stays with the hub and not with the system.
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", hub.port))
        async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id, sock=line, max_queue=1) as passenger:
            snapshot = await passenger.receive()
            begin = now_ms() - count
            for first in range(1, count, batch):
                fixes = [fix(seq, fix_time=begin + seq, latitude=47.1) for seq in range(first, first + batch)]
                await driver.report(*fixes)
            await driver.acknowledged(count)
            messages: list[Message] = []
            while not messages or messages[-1].get("fix_time") != begin + count:
                messages.append(await passenger.receive())
    assert_contiguous(snapshot["offset"], messages)
    assert any(message["type"] == "skipped" for message in messages)
    assert len(json.dumps(messages)) < count * 100
