"""The hub's HTTP and WebSocket protocols in a server of this process, for the test's application."""

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from websockets.frames import Frame, Opcode

from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.sockets.http import HttpProtocol
from tracking.sockets.server import SocketProtocol
from tracking.sockets.wire import EXTENSION, Wire


class Served:
    def __init__(self, server: uvicorn.Server, port: int) -> None:
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextlib.asynccontextmanager
async def serving(app: Any, ws: type[SocketProtocol] = SocketProtocol, **options: Any) -> AsyncIterator[Served]:
    config = uvicorn.Config(
        app,
        **{
            "http": HttpProtocol,
            "ws": ws,
            "ws_max_size": MAX_FRAME_BYTES,
            "ws_per_message_deflate": False,
            "timeout_graceful_shutdown": 2,
            "lifespan": "off",
            "log_config": None,
            **options,
        },
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await server.startup([listener])
    try:
        yield Served(server, listener.getsockname()[1])
    finally:
        await server.shutdown([listener])


class Echo:
    """A listener that echoes every message, and remembers what it received."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.texts: list[str] = []
        self.binary = b""
        self.lost_times = 0

    def text_received(self, data: bytes) -> None:
        self.texts.append(data.decode())
        self.wire.write(Frame(Opcode.TEXT, data).serialize(mask=False))

    def binary_received(self) -> None:
        self.wire.write(Frame(Opcode.BINARY, self.binary).serialize(mask=False))

    def full(self) -> None: ...

    def writable(self) -> None: ...

    def going_down(self) -> None:
        self.wire.close(1012, "")

    def lost(self) -> None:
        self.lost_times += 1


class Echoes:
    """An ASGI application that echoes, and the listeners that it made."""

    def __init__(self) -> None:
        self.made: list[Echo] = []

    def listener(self, wire: Wire) -> Echo:
        return Echo(wire)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        wire: Wire = scope["extensions"][EXTENSION]["wire"]
        echo = self.listener(wire)
        self.made.append(echo)
        wire.listen(echo, 64 * 1024)
        await wire.served()


async def echo_by_asgi(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
