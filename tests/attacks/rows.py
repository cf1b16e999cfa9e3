"""Too many rows: the holder of one token creates as many as it can, of all kinds."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import asyncpg
import httpx
import websockets

from tests.attacks.scene import Scene
from tests.support.clients import Api, Driver, Message, token

AT_ONCE = 8
"""Requests that the attacker has in flight."""
PATIENCE = 20.0
PLACE = {"latitude": 47.141, "longitude": 9.521}


async def shares(scene: Scene) -> None:
    """A dispatcher keeps making and revoking links."""
    async with Api(scene.url) as service:
        fleet_id = await service.fleet()
        trip_id = (await service.trip(fleet_id, None))["trip_id"]

    async def share(http: httpx.AsyncClient) -> httpx.Response:
        made = await http.post(f"/trips/{trip_id}/shares", json={})
        return await http.delete(f"/shares/{made.json()['share_id']}") if made.is_success else made

    before = await _rows(scene, "shares", "revoked_tokens")
    work = await _hammer(scene, token("dispatcher", fleet_id), share)
    made = await _rows(scene, "shares", "revoked_tokens") - before
    # Each takes two rows.
    _bounded(made, 2 * _budget(scene, "shares", "60/60").within(work.took))


async def trips(scene: Scene) -> None:
    """A dispatcher creates trips with long routes, and geofences. It can't create vehicles."""
    async with Api(scene.url) as service:
        fleet_id = await service.fleet()
    number = itertools.count()
    route = {"type": "LineString", "coordinates": [[9.521 + n * 1e-6, 47.141] for n in range(2_000)]}
    square = {"type": "Polygon", "coordinates": [[[9, 47], [9.1, 47], [9.1, 47.1], [9, 47]]]}

    async def make(http: httpx.AsyncClient) -> httpx.Response:
        if next(number) % 2:
            body: Message = {"fleet_id": fleet_id, "pickup": PLACE, "dropoff": PLACE, "route": route}
            return await http.post("/trips", json=body)
        feature = {"type": "Feature", "geometry": square, "properties": {}}
        return await http.put(f"/fleets/{fleet_id}/geofences/{uuid.uuid4()}", json=feature)

    before = await _rows(scene, "trips", "geofences")
    work = await _hammer(scene, token("dispatcher", fleet_id), make)
    made = await _rows(scene, "trips", "geofences") - before
    _bounded(made, _budget(scene, "writes", "600/60").within(work.took))


async def sessions(scene: Scene) -> None:
    """A driver keeps sending hello with a new session."""
    async with Api(scene.url) as service:
        vehicle_id = await service.vehicle(await service.fleet())
    before = await _rows(scene, "sessions")
    work = _Work(scene)
    while work.goes_on():
        try:
            async with Driver(scene.url, vehicle_id) as driver:
                while work.goes_on():
                    await driver.send({"type": "hello", "session": str(uuid.uuid4())})
                    await driver.receive()
        except websockets.ConnectionClosed as error:
            assert error.rcvd is not None and error.rcvd.code == 4013
            work.refused += 1
            await asyncio.sleep(0.05)  # as a client that reconnects at once
    made = await _rows(scene, "sessions") - before
    _bounded(made, _budget(scene, "sessions", "300/600").within(work.took))


class _Work:
    """Continue for the given time, and until something was refused. On a busy machine that takes longer."""

    def __init__(self, scene: Scene) -> None:
        self._began = time.monotonic()
        self._seconds = scene.seconds
        self.refused = 0

    @property
    def took(self) -> float:
        return time.monotonic() - self._began

    def goes_on(self) -> bool:
        assert self.refused or self.took < self._seconds + PATIENCE, "nothing was refused"
        return self.took < self._seconds or not self.refused


async def _hammer(scene: Scene, bearer: str, ask: Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]]) -> _Work:
    """The attacker ignores how long it is told to wait."""
    work = _Work(scene)

    async def one(http: httpx.AsyncClient) -> None:
        while work.goes_on():
            response = await ask(http)
            if response.status_code == 429:
                assert int(response.headers["Retry-After"]) >= 1
                work.refused += 1
            else:
                assert response.is_success, response.text

    async with Api(scene.url, bearer) as api:
        await asyncio.gather(*(one(api.http) for _ in range(AT_ONCE)))
    return work


async def _rows(scene: Scene, *tables: str) -> int:
    connection = await asyncpg.connect(scene.hub.environment["TRACKING_DATABASE_URL"])
    try:
        return sum([await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables])
    finally:
        await connection.close()


class _Budget(NamedTuple):
    at_once: int
    seconds: float

    def within(self, took: float) -> float:
        """The most rows that may exist after so many seconds."""
        return self.at_once * (1 + (took + 1) / self.seconds)


def _budget(scene: Scene, name: str, default: str) -> _Budget:
    """The budget of the hub."""
    count, _, seconds = scene.hub.environment.get(f"TRACKING_BUDGET_{name.upper()}", default).partition("/")
    return _Budget(int(count), float(seconds))


def _bounded(made: int, most: float) -> None:
    assert made <= most, f"{made} rows, and at most {most:.0f} are allowed"
