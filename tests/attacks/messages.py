"""An attack by holders of a share link: messages for an absent driver, over many sockets."""

import asyncio
import contextlib
import itertools
import time
import uuid

import websockets

from tests.attacks.scene import Scene
from tests.support.clients import Api, Driver, Passenger, Socket, fix

SOCKETS = 20


async def messages(scene: Scene) -> None:
    """Send the longest texts without a pause. Then the driver connects, reads all, and is not closed."""
    posted = 0

    async def write(trip_id: str, bearer: str) -> None:
        nonlocal posted
        while True:
            # Beyond two a second it gets an error, and after 50 errors it is closed.
            with contextlib.suppress(websockets.ConnectionClosed):
                async with Passenger(scene.url, trip_id, bearer) as passenger:
                    for number in itertools.count():
                        text = f"{number} " + "\u0001" * 990
                        await passenger.send({"type": "message", "text": text, "client_id": str(uuid.uuid4())})
                        answer = await passenger.expect("done", "error")
                        posted += answer["type"] == "done" and "code" not in answer

    async with Api(scene.url) as api:
        vehicle_id, trip_id = await api.under_way()
        share = await api.call("POST", f"/trips/{trip_id}/shares", {"expires_in": 3600})
    writers = [asyncio.create_task(write(trip_id, share["token"])) for _ in range(SOCKETS)]
    began = time.monotonic()
    await asyncio.sleep(scene.seconds)
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    print(f"{posted} messages posted in {time.monotonic() - began:.0f} s")
    driver = Driver(scene.url, vehicle_id)
    await Socket.__aenter__(driver)
    for _ in range(posted):
        await driver.expect("message")
    await driver.send({"type": "hello", "session": driver.session})
    await driver.expect("ack")
    await driver.report(fix(1))
    await driver.acknowledged(1)
    await driver.connection.close()
