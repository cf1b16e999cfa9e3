"""Tabs of one share link keep opening a trip of a hundred thousand fixes."""

import asyncio
import time
import uuid

import websockets

from tests.attacks.scene import Scene
from tests.attacks.stock import LONG_FIXES, LONG_VEHICLE, TRIP
from tests.support.clients import Driver, Passenger, fix, now_ms, token

TABS = 15


async def snapshots(scene: Scene) -> None:
    """Each tab waits for its snapshot, closes, and opens again."""
    link = token("passenger", TRIP)
    until = time.monotonic() + scene.seconds
    seen = 0

    async def tab() -> None:
        nonlocal seen
        while time.monotonic() < until:
            try:
                async with Passenger(scene.url, TRIP, link) as passenger:
                    snapshot = await passenger.expect("snapshot")
                    assert len(snapshot["track"]) > 100
                    seen += 1
            except TimeoutError:
                raise AssertionError("a tab waits in vain for its snapshot") from None
            except websockets.ConnectionClosed as closed:
                assert closed.rcvd is not None
                assert closed.rcvd.code == 4013, closed
                await asyncio.sleep(0.1)

    await asyncio.gather(*(tab() for _ in range(TABS)))
    assert seen, "no tab got the trip"


async def revisions(scene: Scene) -> None:
    """The driver sends a backlog of the whole trip, so that the whole line changes. Tabs watch, and more open."""
    async with Passenger(scene.url, TRIP) as passenger, Driver(scene.url, LONG_VEHICLE, str(uuid.uuid4())) as driver:
        await passenger.expect("snapshot")
        step = LONG_FIXES // 500 * 1000
        began = now_ms() - LONG_FIXES * 1000
        await driver.report(*(fix(seq, fix_time=began + seq * step, latitude=47.1 + seq / 10_000) for seq in range(1, 480)))
        await driver.acknowledged(479)
        revised = await passenger.expect("track_revised")
        assert len(revised["track"]) > 500
        await snapshots(scene)
