"""Rows 41, 42 and 53: repeats are acknowledged and stored once, and the newer of two connections wins."""

import asyncio
import uuid
from typing import Any

import pytest

from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, Socket, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.trust.bench import Bench

pytestmark = pytest.mark.also_two_hubs


async def rows(api: Api, vehicle_id: str) -> list[tuple[int, float]]:
    """`(seq, latitude)` of all stored fixes of the vehicle."""
    track = await api.track(f"/vehicles/{vehicle_id}/track", suspect="true")
    return sorted((int(row["seq"]), float(row["latitude"])) for row in track)


def expected(*fixes: Message) -> list[tuple[int, float]]:
    return sorted((f["seq"], f["latitude"]) for f in fixes)


async def test_row_41_the_same_fix_again_is_acknowledged_again_and_stored_once(bench: Bench) -> None:
    first = fix(1)
    await bench.driver.report(first)
    assert await bench.driver.acknowledged(1) == []
    for again in ([first], [first, first], [first]):
        await bench.driver.report(*again)
        assert await bench.driver.expect("ack") == {"type": "ack", "seq": 1}
    assert await rows(bench.api, bench.vehicle_id) == expected(first)


async def test_row_41_a_fix_twice_in_one_batch_is_stored_once(bench: Bench) -> None:
    begin = now_ms() - 10_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in (1, 2, 3)]
    await bench.driver.report(fixes[0], fixes[0], fixes[1], fixes[0], fixes[2], fixes[1])
    assert await bench.driver.acknowledged(3) == []
    assert await rows(bench.api, bench.vehicle_id) == expected(*fixes)


async def test_row_41_a_repeat_before_the_ack_is_stored_once(bench: Bench) -> None:
    """Repeats are sent without waiting, so that the first fix is not yet committed."""
    begin = now_ms() - 100_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 51)]
    for _ in range(4):
        for one in fixes:
            await bench.driver.report(one)
        await bench.driver.report(*fixes)
    await bench.driver.acknowledged(50)
    await bench.driver.report(fix(51))
    await bench.driver.acknowledged(51)
    assert [seq for seq, _ in await rows(bench.api, bench.vehicle_id)] == list(range(1, 52))


async def test_row_41_a_repeat_after_a_reconnect_is_stored_once(bench: Bench) -> None:
    begin = now_ms() - 10_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 6)]
    await bench.driver.report(*fixes[:3])
    await bench.driver.acknowledged(3)
    for _ in range(2):
        async with Driver(bench.url, bench.vehicle_id, bench.driver.session) as again:
            assert again.handled >= 3
            await again.report(*fixes[:3])
            assert await again.expect("ack") == {"type": "ack", "seq": again.handled}
            await again.report(*fixes)
            assert await again.acknowledged(5) == []
    assert await rows(bench.api, bench.vehicle_id) == expected(*fixes)


async def test_row_41_a_connection_cut_before_the_ack_loses_and_doubles_nothing(
    hub: HubProcess, api: Api, fleet_id: str
) -> None:
    """The device cannot know what arrived, so it sends everything again."""
    vehicle_id = await api.vehicle(fleet_id)
    begin = now_ms() - 600_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 301)]
    session = None
    for upto in (100, 200, 300):
        async with Driver(hub.url, vehicle_id, session) as driver:
            session = driver.session
            await driver.report(*fixes[:upto])
            driver.connection.transport.abort()
    async with Driver(hub.url, vehicle_id, session) as driver:
        await driver.report(*fixes)
        await driver.acknowledged(300)
    assert await rows(api, vehicle_id) == expected(*fixes)


async def test_row_41_a_repeat_of_a_rejected_fix_is_acknowledged_again(bench: Bench) -> None:
    bad = fix(1, latitude=91)
    await bench.driver.report(bad)
    assert [r["seq"] for r in await bench.driver.acknowledged(1)] == [1]
    # Also with a valid value now: it is a repeat, whatever it contains.
    for again in (bad, fix(1)):
        await bench.driver.report(again)
        assert (await bench.driver.expect("ack"))["seq"] == 1
    assert await rows(bench.api, bench.vehicle_id) == []


async def test_row_41_another_session_has_its_own_numbers(bench: Bench) -> None:
    first, second = fix(1), fix(1, latitude=47.2, fix_time=now_ms() + 20_000)
    await bench.driver.report(first)
    await bench.driver.acknowledged(1)
    await bench.driver.send({"type": "hello", "session": str(uuid.uuid4())})
    assert await bench.driver.expect("ack") == {"type": "ack", "seq": 0}
    await bench.driver.report(second)
    assert (await bench.driver.expect("ack"))["seq"] == 1
    await bench.driver.send({"type": "hello", "session": bench.driver.session})
    assert await bench.driver.expect("ack") == {"type": "ack", "seq": 1}
    assert await rows(bench.api, bench.vehicle_id) == expected(first, second)


async def test_row_42_the_same_seq_with_other_content_keeps_the_first(bench: Bench) -> None:
    first = fix(1)
    await bench.driver.report(first)
    await bench.driver.acknowledged(1)
    others: list[Message] = [
        fix(1, latitude=47.2),
        fix(1, fix_time=first["fix_time"] + 60_000),
        fix(1, latitude=91),
        fix(1, latitude="bad"),
        fix(1, fix_time=0),
    ]
    for other in others:
        await bench.driver.report(other)
        ack = await bench.driver.expect("ack", "error")
        assert (ack["type"], ack["seq"]) == ("ack", 1)
    assert await rows(bench.api, bench.vehicle_id) == expected(first)


async def test_row_42_within_one_batch_the_first_of_a_seq_stays(bench: Bench) -> None:
    first, other, last = fix(1), fix(1, latitude=47.2), fix(2)
    await bench.driver.report(first, other, last)
    assert await bench.driver.acknowledged(2) == []
    assert await rows(bench.api, bench.vehicle_id) == expected(first, last)


async def test_row_42_a_repeat_does_not_move_the_marker(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await driver.report(fix(1))
        assert (await passenger.expect("position"))["offset"] == 1
        await driver.acknowledged(1)
        await driver.report(fix(1, latitude=47.1412))
        await driver.report(fix(2, latitude=47.1413))
        update = await passenger.expect("position")
        assert (update["offset"], update["latitude"]) == (2, 47.1413)


async def test_rows_41_and_42_hold_over_a_restart_of_the_hub(own_hub: Any) -> None:
    """The hub is killed. The device sends everything again, with one fix changed. Each is stored once, as it was first."""
    hub: HubProcess = own_hub()
    async with Api(hub.url) as api:
        vehicle_id = await api.vehicle(await api.fleet())
        begin = now_ms() - 100_000
        fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 31)]
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.report(*fixes[:20])
            await driver.acknowledged(20)
            await driver.report(*fixes)
            hub.kill()
        hub.start()
        async with Driver(hub.url, vehicle_id, driver.session) as driver:
            assert driver.handled in (20, 30)
            await driver.report(fix(1, latitude=47.9), *fixes[1:20])
            assert (await driver.expect("ack"))["seq"] >= 20
            await driver.report(*fixes)
            await driver.acknowledged(30)
        assert await rows(api, vehicle_id) == expected(*fixes)


async def test_a_message_or_status_sent_again_is_done_once(hub: HubProcess, api: Api) -> None:
    """Rows 41 and 42 for messages with a `client_id`."""
    vehicle_id, trip_id = await api.under_way()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        for text in ("first", "first"):
            await driver.send({"type": "message", "trip_id": trip_id, "text": text, "client_id": "same"})
            assert await driver.expect("done") == {"type": "done", "client_id": "same"}
        await driver.send({"type": "message", "trip_id": trip_id, "text": "changed", "client_id": "same"})
        answer = await driver.expect("done")
        assert (answer["client_id"], answer["code"]) == ("same", "conflict")
        for _ in range(2):
            await driver.send({"type": "trip_status", "trip_id": trip_id, "status": "arrived_at_pickup", "client_id": "s"})
            assert await driver.expect("done") == {"type": "done", "client_id": "s"}
        await driver.send({"type": "message", "trip_id": trip_id, "text": "marker", "client_id": "other"})
        seen = [await passenger.receive() for _ in range(3)]
    assert [(m["type"], m.get("text")) for m in seen] == [("message", "first"), ("trip", None), ("message", "marker")]
    assert [m["offset"] for m in seen] == [1, 2, 3]


async def test_two_senders_may_use_the_same_client_id(hub: HubProcess, api: Api) -> None:
    """A `client_id` belongs to one token or share. Passengers and dispatchers may each begin with 1."""
    vehicle_id, trip_id = await api.under_way()
    fleet_id = (await api.call("GET", f"/trips/{trip_id}"))["fleet_id"]
    links = [(await api.call("POST", f"/trips/{trip_id}/shares", {}, expect=201))["token"] for _ in range(2)]
    said = []

    async def say(socket: Socket, text: str) -> None:
        await socket.send({"type": "message", "trip_id": trip_id, "text": text, "client_id": "1"})
        assert await socket.expect("done") == {"type": "done", "client_id": "1"}
        said.append(text)

    async with Driver(hub.url, vehicle_id) as driver:
        for bearer in (*links, token("passenger", trip_id), token("passenger", trip_id)):
            async with Passenger(hub.url, trip_id, bearer) as passenger:
                await say(passenger, f"passenger {len(said)}")
        for _ in range(2):
            async with Dispatcher(hub.url, fleet_id) as dispatcher:
                await say(dispatcher, f"dispatcher {len(said)}")
        # The first one's app was restarted, and counts from 1 again.
        async with Passenger(hub.url, trip_id, links[0]) as passenger:
            await passenger.send({"type": "message", "text": said[0], "client_id": "1"})
            assert await passenger.expect("done") == {"type": "done", "client_id": "1"}
            await passenger.send({"type": "message", "text": "another text", "client_id": "1"})
            assert (await passenger.expect("done"))["code"] == "conflict"
            await passenger.send({"type": "message", "text": "marker", "client_id": "2"})
            await passenger.expect("done")
        assert [(await driver.expect("message"))["text"] for _ in range(len(said) + 1)] == [*said, "marker"]


async def test_two_drivers_of_one_vehicle_may_use_the_same_client_id(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        for text in ("early shift", "late shift"):
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.send({"type": "message", "trip_id": trip_id, "text": text, "client_id": "1"})
                assert await driver.expect("done") == {"type": "done", "client_id": "1"}
            assert (await passenger.expect("message"))["text"] == text


async def test_a_message_is_posted_once_though_the_token_was_renewed(hub: HubProcess, api: Api) -> None:
    """If its `client_id` is a UUID. An unanswered message is sent again with the next token."""
    vehicle_id, trip_id = await api.under_way()
    message = {"type": "message", "trip_id": trip_id, "text": "at the door", "client_id": str(uuid.uuid4())}
    async with Passenger(hub.url, trip_id) as passenger:
        for _ in range(2):
            async with Driver(hub.url, vehicle_id) as driver:
                await driver.send(message)
                assert "code" not in await driver.expect("done")
        async with Driver(hub.url, vehicle_id) as driver:
            await driver.send({**message, "text": "marker"})
            assert "code" not in await driver.expect("done")
        seen = [(await passenger.expect("message"))["text"] for _ in range(2)]
    assert seen == ["at the door", "marker"]


async def test_a_session_is_the_same_in_either_case(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """iOS writes UUIDs in upper case, other libraries in lower case."""
    vehicle_id, session = await api.vehicle(fleet_id), str(uuid.uuid4())
    async with Driver(hub.url, vehicle_id, session.upper()) as driver:
        await driver.report(fix(1))
        await driver.acknowledged(1)
    async with Driver(hub.url, vehicle_id, session) as driver:
        assert driver.handled == 1
    (row,) = await api.track(f"/vehicles/{vehicle_id}/track")
    assert row["session"] == session


# --- row 53 ---------------------------------------------------------------------------------------------------------

REPLACED = {True: {4409}, False: {4409, 1012}}
"""How an older connection ends. Between hubs that may be 1012: one session is one device, which has gone to the other hub."""


async def test_row_53_the_newer_connection_of_a_vehicle_wins(hub: HubProcess, api: Api) -> None:
    vehicle_id, trip_id = await api.under_way()
    async with (
        Driver(hub.url, vehicle_id) as older,
        Passenger(hub.url, trip_id) as passenger,
        Driver(hub.url, await api.vehicle(await api.fleet())) as bystander,
    ):
        await passenger.expect("snapshot")
        async with Driver(hub.url, vehicle_id, older.session) as newer:
            async with asyncio.timeout(5):
                assert await older.closed() in REPLACED[hub.alone]
            await newer.report(fix(1))
            assert await newer.acknowledged(1) == []
            assert (await passenger.expect("position"))["offset"] == 1
            # When the older one closes, the newer one still gets the driver's messages.
            await api.advance(trip_id, "arrived_at_pickup")
            assert (await newer.expect("trip"))["trip"]["status"] == "arrived_at_pickup"
            await newer.report(fix(2))
            assert await newer.acknowledged(2) == []
        await bystander.report(fix(1))
        assert await bystander.acknowledged(1) == []
    assert [seq for seq, _ in await rows(api, vehicle_id)] == [1, 2]


async def test_row_53_fixes_of_the_older_connection_are_kept(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """Also those that were not acknowledged when the newer one came. None is stored twice."""
    vehicle_id = await api.vehicle(fleet_id)
    begin = now_ms() - 600_000
    fixes = [fix(seq, fix_time=begin + seq * 1_000) for seq in range(1, 401)]
    async with Driver(hub.url, vehicle_id) as older:
        await older.report(*fixes[:200])
        async with Driver(hub.url, vehicle_id, older.session) as newer:
            await newer.report(*fixes)
            await newer.acknowledged(400)
            assert await older.closed() in REPLACED[hub.alone]
    assert await rows(api, vehicle_id) == expected(*fixes)


@pytest.mark.one_hub("a hub replaces its own connections before they say hello, and those of other hubs when they do")
async def test_row_53_the_last_of_many_at_once_stays(hub: HubProcess, api: Api, fleet_id: str) -> None:
    """Of twenty connections of one vehicle at once, all but one get 4409. That one works."""
    vehicle_id = await api.vehicle(fleet_id)
    bearer = token("driver", vehicle_id)
    sockets = [Socket(f"{hub.url}/v1/driver", bearer) for _ in range(20)]
    await asyncio.gather(*(socket.__aenter__() for socket in sockets))
    try:
        ends = {asyncio.create_task(socket.closed()): socket for socket in sockets}
        codes: list[int] = []
        while len(ends) > 1:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert done, "more than one connection of the vehicle stays"
            for end in done:
                codes.append(end.result())
                del ends[end]
        assert codes == [4409] * 19
        ((end, last),) = ends.items()
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)
        await last.send({"type": "hello", "session": str(uuid.uuid4())})
        assert await last.expect("ack") == {"type": "ack", "seq": 0}
        await last.send({"type": "position", **fix(1)})
        assert await last.expect("ack") == {"type": "ack", "seq": 1}
    finally:
        await asyncio.gather(*(socket.__aexit__(None, None, None) for socket in sockets))


async def test_row_53_another_vehicle_is_not_affected(bench: Bench) -> None:
    async with Driver(bench.url, await bench.api.vehicle(bench.fleet_id), bench.driver.session):
        await bench.goes_on()
