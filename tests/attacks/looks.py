"""Sockets of one dispatcher's token move their viewport to 1,900 moving vehicles, away, and back, without a pause."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator

import websockets

from tests.attacks.scene import Scene
from tests.attacks.stock import FLEET, VEHICLES
from tests.support.clients import Dispatcher, Driver, fix, token

SOCKETS = 40
DRIVERS = 30
PAUSE_SECONDS = 0.03
"""Seconds between two viewports of a socket, as a mouse moves."""
EVERYTHING = 9.3, 47.0, 9.7, 47.3
ELSEWHERE = 12.0, 50.0, 12.4, 50.3
GOOD_CODES = {4013, 4015}


async def looks(scene: Scene) -> None:
    """The last viewport of each socket is answered, as soon as the budget allows."""
    until = time.monotonic() + scene.seconds
    bearer = token("dispatcher", FLEET)
    answered: list[int] = []

    async def socket() -> None:
        with _turned_away():
            async with Dispatcher(scene.url, FLEET, bearer) as dispatcher:

                async def read() -> None:
                    async for _ in dispatcher.connection:
                        pass

                reader = asyncio.create_task(read())
                try:
                    while time.monotonic() < until:
                        await dispatcher.look(*random.choice((EVERYTHING, ELSEWHERE)))
                        await asyncio.sleep(PAUSE_SECONDS)
                finally:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
                # A viewport that was not asked for before, so that its answer can be recognised.
                await dispatcher.look(20.0, 50.0, 20.01, 50.01)
                while True:
                    message = json.loads(await dispatcher.connection.recv())
                    if message["type"] == "fleet_snapshot" and any(cell.startswith("14/910") for cell in message["cells"]):
                        answered.append(1)
                        return

    async with asyncio.TaskGroup() as group:
        driving = group.create_task(drive(scene, until))
        for _ in range(SOCKETS):
            group.create_task(socket())
        await driving
    assert answered, "no viewport was answered"


async def reconnects(scene: Scene) -> None:
    """Sockets of one dispatcher's token open, ask for the whole fleet, and close again."""
    until = time.monotonic() + scene.seconds
    bearer = token("dispatcher", FLEET)

    async def socket() -> None:
        while time.monotonic() < until:
            with _turned_away():
                async with Dispatcher(scene.url, FLEET, bearer) as dispatcher:
                    await dispatcher.look(*EVERYTHING)
                    await dispatcher.expect("fleet_snapshot", "clusters")

    await asyncio.gather(*(socket() for _ in range(8)))


async def drive(scene: Scene, until: float) -> None:
    """Some vehicles report as fast as the budget allows."""

    async def one(number: int) -> None:
        async with Driver(scene.url, f"van-{number}") as driver:
            seq = 0
            while time.monotonic() < until:
                seq += 1
                await driver.report(fix(seq, latitude=47.1 + number % 100 / 1000, longitude=9.5 + seq * 1e-6))
                await driver.acknowledged(seq)

    await asyncio.gather(*(one(number) for number in random.sample(range(1, VEHICLES), DRIVERS)))


@contextlib.contextmanager
def _turned_away() -> Iterator[None]:
    """Too many requests are the only reason to close it."""
    try:
        yield
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd is not None, closed
        assert closed.rcvd.code in GOOD_CODES, closed
