"""Attacks by holders of drivers' tokens: fixes without a pause."""

import asyncio
import contextlib
import itertools
import time
import uuid

import msgspec
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.attacks.scene import Attack, Scene
from tests.support.clients import Api, now_ms, token

BATCH = 500
SPREAD_MS = 6 * 86_400_000
"""Fixes lie within the last six days, a few milliseconds apart."""
COME_BACK_SECONDS = 0.1


class Flooder:
    """Sends batches of 500 without a pause. When it is closed it soon reconnects."""

    def __init__(self, url: str, vehicle_id: str) -> None:
        self._url = url.replace("http", "ws", 1) + "/v1/driver"
        self._token = token("driver", vehicle_id)
        self._session = str(uuid.uuid4())
        self.sent = 0
        self.acknowledged = 0
        self.closed: list[int] = []
        """The close codes of its connections."""
        self.told: list[str] = []
        """The codes of the errors that it received."""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(websockets.ConnectionClosed, OSError, TimeoutError, websockets.InvalidHandshake):
                await self._once()
            await asyncio.sleep(COME_BACK_SECONDS)

    async def _once(self) -> None:
        async with connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {self._token}"},
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=0.1,
        ) as line:
            await line.send(msgspec.json.encode({"type": "hello", "session": self._session}), text=True)
            reading = asyncio.create_task(self._read(line))
            try:
                for seq in itertools.count(self.acknowledged + 1, BATCH):
                    await line.send(_batch(seq), text=True)
                    self.sent += BATCH
                    # `send` waits only if the socket is full. The other flooders need a turn.
                    await asyncio.sleep(0)
            except websockets.ConnectionClosed as closed:
                self.closed.append(closed.rcvd.code if closed.rcvd is not None else 1006)
                raise
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, line: ClientConnection) -> None:
        async for text in line:
            message = msgspec.json.decode(text)
            if message["type"] == "ack":
                self.acknowledged = max(self.acknowledged, message["seq"])
            elif message["type"] == "error":
                self.told.append(message["code"])


def _batch(seq: int) -> bytes:
    begin = now_ms() - SPREAD_MS
    positions = [
        {
            "seq": number,
            "fix_time": begin + number * 20,
            "latitude": round(47.0 + number % 10_000 * 1e-5, 6),
            "longitude": 9.4,
            "speed": 5.0,
            "accuracy": 8.0,
        }
        for number in range(seq, seq + BATCH)
    ]
    return msgspec.json.encode({"type": "positions", "positions": positions})


def flood(vehicles: int) -> Attack:
    """Batches without a pause, with the tokens of several vehicles."""

    async def attack(scene: Scene) -> None:
        async with Api(scene.url) as api:
            fleet_id = await api.fleet()
            flooders = [Flooder(scene.url, await api.vehicle(fleet_id)) for _ in range(vehicles)]
        tasks = [asyncio.create_task(flooder.run()) for flooder in flooders]
        began = time.monotonic()
        await asyncio.sleep(scene.seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        taken = [flooder.acknowledged for flooder in flooders]
        rate = sum(taken) / (time.monotonic() - began)
        closed = sorted({code for flooder in flooders for code in flooder.closed})
        print(f"{vehicles} flooders: {sum(taken)} taken, {rate:.0f}/s, from {min(taken)} to {max(taken)} each; closed {closed}")
        assert min(taken) > 0, f"some flooders got nothing because of the others: {taken}"

    return attack
