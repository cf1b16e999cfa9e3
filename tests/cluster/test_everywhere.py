"""A revocation, a cancelled trip and a changed geofence are in force on every hub within a second, also without the broker."""

import asyncio
import contextlib
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import jwt
import pytest
import websockets

from tests.support import machine
from tests.support.clients import Api, Dispatcher, Driver, Message, Passenger, Socket, token
from tests.support.geofence_drives import put_fence
from tests.support.several_hubs import SeveralHubs

REPETITIONS = 3
"""Of each change. More of them make the figures better, and the test longer."""
BOUND = 1.0
WAIT = 5.0


class Ear:
    """Reads a socket, and notes when each message came, and the close code last."""

    def __init__(self, socket: Socket) -> None:
        self.heard: list[tuple[float, Message | int]] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read(socket))

    async def _read(self, socket: Socket) -> None:
        try:
            while True:
                self._note(json.loads(await socket.connection.recv()))
        except websockets.ConnectionClosed:
            self._note(socket.connection.close_code or 0)

    def _note(self, what: Message | int) -> None:
        self.heard.append((time.monotonic(), what))
        self._more.set()

    async def when(self, is_it: Callable[[Message | int], bool]) -> float:
        """When the first such message came."""
        async with asyncio.timeout(WAIT):
            for number in itertools.count():
                while number >= len(self.heard):
                    self._more.clear()
                    await self._more.wait()
                at, what = self.heard[number]
                if is_it(what):
                    return at
        raise AssertionError

    def stop(self) -> None:
        self._task.cancel()


class Everywhere:
    """Three hubs with readers on each. `took` has the seconds from the HTTP answer to the reader's message, by what it is."""

    def __init__(self, several: SeveralHubs, api: Api) -> None:
        self.several = several
        self.api = api
        self.took: dict[str, list[float]] = {}

    async def readers(self, stack: contextlib.AsyncExitStack, trip_id: str, fleet_id: str, vans: list[str]) -> list[Ear]:
        """On each hub a passenger, a dispatcher and a driver, in this order."""
        ears = []
        for url, van in zip(self.several.urls, vans, strict=True):
            for socket in (Passenger(url, trip_id), Dispatcher(url, fleet_id), Driver(url, van)):
                await stack.enter_async_context(socket)
                ear = Ear(socket)
                stack.callback(ear.stop)
                ears.append(ear)
        for passenger in ears[::3]:
            await passenger.when(_is("snapshot"))
        return ears

    async def measure(
        self, what: str, change: Awaitable[object], ears: list[Ear], is_it: Callable[[Message | int], bool]
    ) -> None:
        await change
        answered = time.monotonic()
        heard = await asyncio.gather(*(ear.when(is_it) for ear in ears))
        self.took.setdefault(what, []).extend(max(0.0, at - answered) for at in heard)


@contextlib.asynccontextmanager
async def everywhere(database_url: str, directory: Path) -> AsyncIterator[Everywhere]:
    several = SeveralHubs(database_url, directory, 3)
    async with several.running(), Api(several.urls[0]) as api:
        yield Everywhere(several, api)
    assert several.tracebacks() == []


async def _changes(run: Everywhere, number: int) -> None:
    """One of each, through another hub each time."""
    api = run.api
    fleet_id = await api.fleet()
    vans = [await api.vehicle(fleet_id) for _ in run.several.urls]
    trip = await api.trip(fleet_id, vans[0])
    trip_id = trip["trip_id"]
    await api.advance(trip_id, "enroute_to_pickup")
    async with contextlib.AsyncExitStack() as stack:
        through = await stack.enter_async_context(Api(run.several.urls[number % len(run.several.urls)]))
        ears = await run.readers(stack, trip_id, fleet_id, vans)
        passengers, dispatchers, drivers = ears[::3], ears[1::3], ears[2::3]
        for geofence_id in ("yard", "yard"):
            await run.measure("geofence", put_fence(through, fleet_id, geofence_id=geofence_id), dispatchers, _is("geofence"))
        gone = through.call("DELETE", f"/fleets/{fleet_id}/geofences/yard", expect=204)
        await run.measure("geofence removed", gone, dispatchers, _is("geofence_gone"))
        await run.measure("trip cancelled", through.advance(trip_id, "canceled"), passengers, lambda m: m == 4506)
        for reader in (*dispatchers, drivers[0]):
            await reader.when(_is_canceled)
    async with contextlib.AsyncExitStack() as stack:
        through = await stack.enter_async_context(Api(run.several.urls[number % len(run.several.urls)]))
        trip_id = (await api.trip(fleet_id, vans[1]))["trip_id"]
        await _revoke(run, through, stack, trip_id, fleet_id, vans)


async def _revoke(
    run: Everywhere, through: Api, stack: contextlib.AsyncExitStack, trip_id: str, fleet_id: str, vans: list[str]
) -> None:
    bearers = [token("passenger", trip_id), token("dispatcher", fleet_id)]
    ears: dict[str, list[Ear]] = {bearer: [] for bearer in bearers}
    for url in run.several.urls:
        for socket in (Passenger(url, trip_id, bearers[0]), Dispatcher(url, fleet_id, bearers[1])):
            await stack.enter_async_context(socket)
            ears[bearers[isinstance(socket, Dispatcher)]].append(Ear(socket))
    for url, van in zip(run.several.urls, vans, strict=True):
        bearer = token("driver", van)
        driver = await stack.enter_async_context(Driver(url, van, bearer=bearer))
        ears[bearer] = [Ear(driver)]
    for passenger in ears[bearers[0]]:
        await passenger.when(_is("snapshot"))
    for bearer, of_token in ears.items():
        jti = jwt.decode(bearer, options={"verify_signature": False})["jti"]
        revoked = through.call("DELETE", f"/tokens/{jti}", expect=204)
        await run.measure("revocation", revoked, of_token, lambda m: m == 4503)


def _is(kind: str) -> Callable[[Message | int], bool]:
    return lambda message: isinstance(message, dict) and message["type"] == kind


def _is_canceled(message: Message | int) -> bool:
    return isinstance(message, dict) and message["type"] == "trip" and message["trip"]["status"] == "canceled"


@pytest.mark.parametrize("broker", [True, False])
async def test_changes_are_on_every_hub_within_a_second(database_url: str, tmp_path: Path, broker: bool) -> None:
    async with everywhere(database_url, tmp_path) as run:
        if not broker:
            await run.several.kill_broker()
        async with machine.alone():
            for number in range(REPETITIONS):
                await _changes(run, number)
    for what, took in run.took.items():
        middle, most = (round(1000 * value) for value in (statistics.median(took), max(took)))
        print(f"{'with' if broker else 'without'} the broker, {what}: {len(took)} readers, p50 {middle} ms, max {most} ms")
    assert {what: max(took) for what, took in run.took.items() if max(took) > BOUND} == {}
