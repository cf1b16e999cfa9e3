"""Honest clients beside an attack, in a process of their own, so that the attacker's work does not count as the hub's.

    python -m tests.attacks.honest http://127.0.0.1:8000      measures until its standard input ends, then prints `Figures`

A driver reports four times a second and waits for each ack; a passenger watches its trip; a dispatcher watches its fleet;
a backend asks for the trip, and a probe for `/healthz`, twenty times a second each.
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
"""What the first requests take is connections being made, and is left out."""
LIMIT_SECONDS = 15.0
"""How long one honest client waits for an answer before it counts as closed."""


@dataclass
class Figures:
    """What honest clients met with. Times in ms; empty lists where nothing was measured."""

    get: list[float] = field(default_factory=list)
    """answers to GET of the trip and of `/healthz`"""
    ack: list[float] = field(default_factory=list)
    """from a fix to its ack"""
    live: list[float] = field(default_factory=list)
    """from a fix to the passenger"""
    closed: list[str] = field(default_factory=list)
    """honest clients that were closed or refused, and why"""

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
    """Starts them; they are at work when this is entered. What it gives ends them, and gives what they met with."""
    process, connection = await asyncio.to_thread(talk, "tests.attacks.honest", [url])
    reader, writer = await asyncio.open_connection(sock=connection, limit=2**24)

    async def figures() -> Figures:
        writer.write_eof()
        return Figures(**json.loads(await reader.read()))

    try:
        assert await reader.readline() == b"at work\n", "the honest clients did not get in"
        yield figures
    finally:
        writer.close()
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, 10.0)


async def _measure(url: str) -> Figures:
    figures = Figures()
    began = time.monotonic()
    sent: dict[int, float] = {}

    def note(times: list[float], since: float) -> None:
        if time.monotonic() - began > WARM_SECONDS:
            times.append((time.monotonic() - since) * 1000)

    async def ask(http: httpx.AsyncClient, path: str) -> None:
        while True:
            asked = time.monotonic()
            response = await http.get(path)
            note(figures.get, asked)
            if response.status_code != 200:
                figures.closed.append(f"GET {path}: {response.status_code}")
            await asyncio.sleep(max(0.0, ASK_SECONDS - (time.monotonic() - asked)))

    async def report(driver: Driver) -> None:
        seq = driver.handled
        while True:
            seq += 1
            sent[seq] = time.monotonic()
            await driver.report(fix(seq, latitude=47.141 + seq * 0.00001))
            await driver.acknowledged(seq)
            note(figures.ack, sent[seq])
            await asyncio.sleep(max(0.0, REPORT_SECONDS - (time.monotonic() - sent[seq])))

    async def watch(passenger: Passenger) -> None:
        while True:
            message = await passenger.receive()
            if message["type"] == "position":
                seq = round((message["latitude"] - 47.141) / 0.00001)
                if seq in sent:
                    note(figures.live, sent[seq])

    async def look(dispatcher: Dispatcher) -> None:
        await dispatcher.look(9.4, 47.0, 9.6, 47.3)
        while True:
            await dispatcher.receive()

    async def whole(name: str, work: Awaitable[None]) -> None:
        """What ends is a client that was closed."""
        try:
            await work
        except (websockets.ConnectionClosed, httpx.HTTPError, TimeoutError, OSError) as error:
            figures.closed.append(f"{name}: {error!r}")

    async with Api(url) as api, contextlib.AsyncExitStack() as open_:
        api.http.timeout = httpx.Timeout(LIMIT_SECONDS)
        fleet_id = await api.fleet()
        vehicle_id = await api.vehicle(fleet_id)
        trip_id = (await api.trip(fleet_id, vehicle_id))["trip_id"]
        await api.advance(trip_id, "enroute_to_pickup")
        driver = await open_.enter_async_context(Driver(url, vehicle_id))
        passenger = await open_.enter_async_context(Passenger(url, trip_id))
        dispatcher = await open_.enter_async_context(Dispatcher(url, fleet_id))
        backend = await open_.enter_async_context(
            httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {token('dispatcher', fleet_id)}"},
                timeout=LIMIT_SECONDS,
                verify=PLAIN,
            )
        )
        began = time.monotonic()
        clients = [
            asyncio.create_task(whole(name, work))
            for name, work in (
                ("driver", report(driver)),
                ("passenger", watch(passenger)),
                ("dispatcher", look(dispatcher)),
                ("backend", ask(backend, f"/v1/trips/{trip_id}")),
                ("probe", ask(backend, "/healthz")),
            )
        ]
        print("at work", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return figures


def main(arguments: list[str]) -> None:
    print(json.dumps(asdict(asyncio.run(_measure(*arguments)))))


if __name__ == "__main__":
    main(sys.argv[1:])
