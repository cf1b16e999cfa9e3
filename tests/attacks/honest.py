"""Honest clients beside an attack. They run in their own process, so that the attacker's work does not slow them.

    python -m tests.attacks.honest http://127.0.0.1:8000      measures until its standard input ends, then prints `Figures`

A driver reports four times a second and waits for each ack. A passenger watches its trip, and a dispatcher its fleet. A backend
asks for the trip, and a probe for `/healthz`, twenty times a second each.
"""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field

import httpx
import websockets

from tests.support.clients import PLAIN, Api, Dispatcher, Driver, Passenger, fix, token
from tests.support.fork_server import talk

REPORT_SECONDS = 0.25
ASK_SECONDS = 0.05
WARM_SECONDS = 0.5
"""The first requests include making connections. They are not measured."""
LIMIT_SECONDS = 15.0
"""An honest client that waits longer for an answer counts as closed."""


@dataclass
class Figures:
    """What honest clients measured, in ms. A list is empty if nothing was measured."""

    get: list[float] = field(default_factory=list)
    """Answers to GET of the trip and of `/healthz`."""
    ack: list[float] = field(default_factory=list)
    """From a fix to its ack."""
    live: list[float] = field(default_factory=list)
    """From a fix to the passenger."""
    closed: list[str] = field(default_factory=list)
    """Honest clients that were closed or refused, and why."""

    def p95(self, name: str) -> float:
        """The 95th percentile of `get`, `ack` or `live` (ms)."""
        times: list[float] = sorted(getattr(self, name))
        assert times, f"nothing was measured of {name}"
        return times[min(len(times) - 1, int(len(times) * 0.95))]

    def __str__(self) -> str:
        shown = ", ".join(f"{name} p95 {self.p95(name):.0f} ms" for name in ("get", "ack", "live") if getattr(self, name))
        return f"{shown}; closed: {', '.join(self.closed) or 'none'}"


@contextlib.asynccontextmanager
async def honest_clients(url: str) -> AsyncIterator[Callable[[], Awaitable[Figures]]]:
    """Start them and wait until they work. The function that this yields stops them and returns their figures."""
    process, connection = await asyncio.to_thread(talk, "tests.attacks.honest", [url])
    reader, writer = await asyncio.open_connection(sock=connection, limit=2**24)

    async def figures() -> Figures:
        writer.write_eof()
        return Figures(**json.loads(await reader.read()))

    try:
        assert await reader.readline() == b"at work\n", "the honest clients could not connect"
        yield figures
    finally:
        writer.close()
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, 10.0)


class _Clients:
    """The honest clients of one fleet, and what they measure."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._began = time.monotonic()
        self._sent: dict[int, float] = {}

    def _note(self, times: list[float], since: float) -> None:
        if time.monotonic() - self._began > WARM_SECONDS:
            times.append((time.monotonic() - since) * 1000)

    async def _ask(self, http: httpx.AsyncClient, path: str) -> None:
        while True:
            asked = time.monotonic()
            response = await http.get(path)
            self._note(self.figures.get, asked)
            if response.status_code != 200:
                self.figures.closed.append(f"GET {path}: {response.status_code}")
            await asyncio.sleep(max(0.0, ASK_SECONDS - (time.monotonic() - asked)))

    async def _report(self, driver: Driver) -> None:
        seq = driver.handled
        while True:
            seq += 1
            self._sent[seq] = time.monotonic()
            await driver.report(fix(seq, latitude=47.141 + seq * 0.00001))
            await driver.acknowledged(seq)
            self._note(self.figures.ack, self._sent[seq])
            await asyncio.sleep(max(0.0, REPORT_SECONDS - (time.monotonic() - self._sent[seq])))

    async def _watch(self, passenger: Passenger) -> None:
        while True:
            message = await passenger.receive()
            if message["type"] == "position":
                seq = round((message["latitude"] - 47.141) / 0.00001)
                if seq in self._sent:
                    self._note(self.figures.live, self._sent[seq])

    async def _look(self, dispatcher: Dispatcher) -> None:
        await dispatcher.look(9.4, 47.0, 9.6, 47.3)
        while True:
            await dispatcher.receive()

    async def _until_closed(self, name: str, work: Awaitable[None]) -> None:
        """Honest work never ends by itself. If it does, the hub closed the client."""
        try:
            await work
        except (websockets.ConnectionClosed, httpx.HTTPError, TimeoutError, OSError) as error:
            self.figures.closed.append(f"{name}: {error!r}")

    async def work(self, url: str) -> None:
        """Connect to the hub, and work until the standard input ends."""
        async with Api(url) as api, contextlib.AsyncExitStack() as open_:
            api.http.timeout = httpx.Timeout(LIMIT_SECONDS)
            fleet_id = await api.fleet()
            vehicle_id = await api.vehicle(fleet_id)
            trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
            await api.advance(trip_id, "enroute_to_pickup")
            driver = await open_.enter_async_context(Driver(url, vehicle_id))
            passenger = await open_.enter_async_context(Passenger(url, trip_id))
            dispatcher = await open_.enter_async_context(Dispatcher(url, fleet_id))
            headers = {"Authorization": f"Bearer {token('dispatcher', fleet_id)}"}
            http = httpx.AsyncClient(base_url=url, headers=headers, timeout=LIMIT_SECONDS, verify=PLAIN)
            backend = await open_.enter_async_context(http)
            self._began = time.monotonic()
            tasks = [
                asyncio.create_task(self._until_closed(name, work))
                for name, work in (
                    ("driver", self._report(driver)),
                    ("passenger", self._watch(passenger)),
                    ("dispatcher", self._look(dispatcher)),
                    ("backend", self._ask(backend, f"/v1/trips/{trip_id}")),
                    ("probe", self._ask(backend, "/healthz")),
                )
            ]
            print("at work", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(url: str) -> Figures:
    clients = _Clients()
    await clients.work(url)
    return clients.figures


def main(arguments: list[str]) -> None:
    print(json.dumps(asdict(asyncio.run(_measure(*arguments)))))


if __name__ == "__main__":
    main(sys.argv[1:])
