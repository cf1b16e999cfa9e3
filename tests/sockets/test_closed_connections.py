"""A closed connection leaves nothing in memory, though the garbage collector never comes: the hub lets it rest."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets

from tests.support.clients import Api, Dispatcher, Driver, Passenger, fix
from tests.support.devices import until
from tests.support.hub_process import SECRET
from tests.support.serving import Echoes, Served, serving
from tracking.app import create_app
from tracking.config import load
from tracking.sockets.connection import Connection
from tracking.sockets.http import HttpProtocol
from tracking.sockets.server import SocketProtocol

_echoes = Echoes()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Echoes over WebSockets but for /no, which it refuses. Answers HTTP with one byte."""
    if scope["type"] == "websocket" and scope["path"] == "/no":
        await receive()
        await send({"type": "websocket.close"})
    elif scope["type"] == "websocket":
        await _echoes(scope, receive, send)
        _echoes.made.clear()
    else:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"x"})


made: list[weakref.ref[Any]] = []


class Http(HttpProtocol):
    def connection_made(self, transport: Any) -> None:
        made.append(weakref.ref(self))
        super().connection_made(transport)


class Socket(SocketProtocol):
    def __init__(self, *given: Any) -> None:
        made.append(weakref.ref(self))
        super().__init__(*given)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made.clear()
    async with serving(application, http=Http, ws=Socket) as served:
        gc.collect()
        gc.disable()
        yield served
        gc.enable()


async def _send(served: Served, data: bytes, answers: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(data)
    for _ in range(answers):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1)
    writer.close()
    await writer.wait_closed()


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "data, answers",
    [(b"", 0), (REQUEST[:20], 0), (REQUEST, 1), (REQUEST * 3, 3), (REQUEST + REQUEST[:20], 1)],
    ids=["nothing", "half a request", "a request", "three requests", "a request and a half"],
)
async def test_of_http(served: Served, data: bytes, answers: int) -> None:
    await _send(served, data, answers)
    await _all_gone(1)


async def test_of_a_websocket(served: Served) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{served.port}/", proxy=None) as socket:
        await socket.send("x")
        assert await socket.recv() == "x"
    await _all_gone(2)


async def test_of_a_refused_websocket(served: Served) -> None:
    with contextlib.suppress(websockets.InvalidStatus):
        async with websockets.connect(f"ws://127.0.0.1:{served.port}/no", proxy=None):
            pass
    await _all_gone(2)


async def test_of_each_socket_of_the_hub(database_url: str) -> None:
    app = create_app(load(database_url=database_url, jwt_secret=SECRET, ack_interval=0))
    async with serving(app, lifespan="on") as hub, Api(hub.url) as api:
        vehicle_id, trip_id = await api.under_way()
        fleet_id = (await api.call("GET", f"/vehicles/{vehicle_id}"))["fleet_id"]
        gc.collect()
        gc.disable()
        try:
            async with (
                Driver(hub.url, vehicle_id) as driver,
                Passenger(hub.url, trip_id) as passenger,
                Dispatcher(hub.url, fleet_id) as dispatcher,
            ):
                await driver.report(fix(1))
                await driver.acknowledged(1)
                await passenger.expect("snapshot")
                await dispatcher.look(9, 47, 10, 48)
                await dispatcher.expect("fleet_snapshot")
                assert len(_connections()) == 3
            await until(lambda: not _connections(), "their connections are gone", 5)
        finally:
            gc.enable()


def _connections() -> list[Connection]:
    return [each for each in gc.get_objects() if issubclass(type(each), Connection)]


async def _all_gone(count: int) -> None:
    await until(lambda: len(made) == count and not any(each() for each in made), f"{count} protocols are gone", 5)
