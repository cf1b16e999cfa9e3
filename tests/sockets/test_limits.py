"""Rows 11, 12 and 26: clients that read slowly, go, stay silent, or send too much."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import Api, Driver, Passenger, fix, now_ms, token
from tests.support.hub_process import HubProcess
from tests.support.offsets import assert_contiguous
from tests.support.raw import CLOSE, PING, PONG, TEXT, RawSocket, framed
from tests.support.serving import Echoes, serving
from tests.support.waiting import until
from tracking.sockets.wire import EXTENSION, Wire

QUIET = b'{"type":"none"}'


# --- keepalive ------------------------------------------------------------------------------------------------------


async def test_who_does_not_answer_a_ping_is_taken_for_dead() -> None:
    async with (
        serving(Echoes(), ws_ping_interval=0.1) as served,
        RawSocket(served.port) as silent,
        RawSocket(served.port) as alive,
    ):
        for _ in range(4):
            assert await alive.frame() == (PING, b"")
            await alive.send(framed(PONG))
        assert await silent.closed() == 4012
        await alive.send(framed(TEXT, "still here"))
        assert await alive.text() == "still here"


# --- row 11: a slow reader ------------------------------------------------------------------------------------------


@pytest.mark.one_hub("the load balancer holds what a slow reader does not read")
async def test_row_11_who_stops_reading_gets_the_newest_then_4008_and_others_notice_nothing(
    own_hub: Callable[..., HubProcess],
) -> None:
    hub = own_hub(outbox_high_water="32768", outbox_limit="32768", driver_frames_at_once="10000")
    count, batch = 20_000, 100
    async with Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        path, bearer = f"/v1/trips/{trip_id}/live", token("passenger", trip_id)
        async with (
            RawSocket(hub.port, path, bearer, room=4096) as slow,
            Passenger(hub.url, trip_id) as good,
            Driver(hub.url, vehicle_id) as driver,
        ):
            shown = [json.loads(await slow.text())]
            seen = [await good.receive()]
            begin = now_ms() - count
            for first in range(1, count, batch):
                await driver.report(*(fix(seq, fix_time=begin + seq, latitude=47.1) for seq in range(first, first + batch)))
                seen += [await good.receive() for _ in range(batch)]
            while shown[-1].get("fix_time") != begin + count:
                shown.append(json.loads(await slow.text()))
            # Positions were left out for the slow reader. Messages may not be, so these end its connection.
            for number in range(50):
                text = {"type": "message", "trip_id": trip_id, "text": "\U0001f68f" * 1_000, "client_id": str(number)}
                await driver.send(text)
                assert "code" not in await driver.expect("done")
                seen.append(await good.expect("message"))
            assert await slow.closed() == 4008
            await driver.report(fix(count + 1, latitude=47.1))
            seen.append(await good.receive())
    for messages in (shown, seen):
        assert_contiguous(messages[0]["offset"], messages[1:])
    assert any(message["type"] == "skipped" for message in shown)
    assert len(shown) < count
    assert len(seen) == count + 52


# --- row 12: a reset ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "half", [framed(TEXT, QUIET)[:-1], framed(TEXT, QUIET, fin=False), b""], ids=["frame", "fragment", "nothing"]
)
async def test_row_12_a_reset_in_mid_message_leaves_nothing_behind(half: bytes) -> None:
    echoes = Echoes()
    async with serving(echoes) as served:
        before = asyncio.all_tasks()
        async with RawSocket(served.port) as raw:
            await raw.send(framed(TEXT, "hello"))
            assert await raw.text() == "hello"
            await raw.send(half)
            [protocol] = served.server.server_state.connections
            await until(lambda: not half or protocol._half is not None)  # type: ignore[union-attr]
            raw.reset()
            await until(lambda: served.connections == 0)
        assert asyncio.all_tasks() == before
        assert not served.server.server_state.tasks
        assert protocol._half is None  # type: ignore[union-attr]
    assert [echo.lost_times for echo in echoes.made] == [1]


# --- row 26: too many frames ----------------------------------------------------------------------------------------


async def test_row_26_too_many_frames_for_long(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(driver_frames_per_second="1", driver_frames_at_once="50")
    async with Api(hub.url) as api, Driver(hub.url, await api.vehicle(await api.fleet())) as driver:
        for seq in range(1, 50):  # the hello was one
            await driver.report(fix(seq))
        await driver.acknowledged(49)
        for seq in range(50, 60):
            await driver.report(fix(seq))
        assert await driver.closed() == 4013


# --- a client that goes -----------------------------------------------------------------------------------------------


async def test_who_is_gone_while_it_is_let_in_is_no_fault(hub: HubProcess, api: Api) -> None:
    faults = hub.log.read_text().count("Traceback")
    vehicle_id, trip_id = await api.under_way()
    lines = [("/v1/driver", token("driver", vehicle_id)), (f"/v1/trips/{trip_id}/live", token("passenger", trip_id))] * 50
    for number, (path, bearer) in enumerate(lines):
        async with RawSocket(hub.port, path, bearer) as raw:
            if number % 4 < 2:
                raw.reset()
    async with Driver(hub.url, vehicle_id) as driver, Passenger(hub.url, trip_id) as passenger:
        await passenger.expect("snapshot")
        await driver.report(fix(1))
        await driver.acknowledged(1)
        await passenger.expect("position")
    assert hub.log.read_text().count("Traceback") == faults


async def test_a_wire_knows_that_its_client_went_before_anybody_listened() -> None:
    """A connection that waits for the database meanwhile may still write. That must not be logged as a fault."""
    gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        wire: Wire = scope["extensions"][EXTENSION]["wire"]
        gone_at_first = wire.gone
        while not wire.gone:
            wire.write(b"\x81\x01x")
            await asyncio.sleep(0)
        gone.set_result(not gone_at_first)

    async with serving(app) as served, asyncio.timeout(10):
        async with RawSocket(served.port) as raw:
            raw.reset()
        assert await gone


# --- what a listener is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end", [b"\x81\x0f" + QUIET, framed(CLOSE, b"\x03\xe8"), framed(TEXT, b"\xff")], ids=["unmasked", "close", "bad UTF-8"]
)
async def test_a_listener_is_told_at_once_that_nothing_may_be_written_any_more(end: bytes) -> None:
    """While the close frame is on its way, what the hub publishes must not follow it."""
    echoes = Echoes()
    async with serving(echoes) as served, RawSocket(served.port) as raw:
        await raw.send(framed(TEXT, "hello"))
        assert await raw.text() == "hello"
        await raw.send(end)
        await raw.closed()
        assert [echo.lost_times for echo in echoes.made] == [1]
    assert [echo.lost_times for echo in echoes.made] == [1]
