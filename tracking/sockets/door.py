"""Where clients come in: the listening sockets of a server, and the HTTP connections that are open."""

import asyncio
import socket
from collections.abc import Sequence

from uvicorn.server import Server

from tracking.sockets.http import HttpProtocol
from tracking.sockets.listening import stop_listening

CONNECTIONS_A_STEP = 2_000


class Door:
    """Of a running server. It is closed from outside to inside: see the methods in their order."""

    def __init__(self, server: Server, listeners: Sequence[socket.socket], *, shared: bool) -> None:
        self._server = server
        self._listeners = listeners
        self.shared = shared
        """Whether another process holds the same listening sockets, and goes on to listen."""

    async def last_answers(self) -> None:
        """From now on each HTTP connection ends with its answer, which says so. Clients open another one, elsewhere."""
        protocol = self._server.config.http_protocol_class
        if isinstance(protocol, type) and issubclass(protocol, HttpProtocol):
            protocol.draining = True
        for number, connection in enumerate(list(self._server.server_state.connections), 1):
            if isinstance(connection, HttpProtocol):
                connection.end_with_answer()
            if number % CONNECTIONS_A_STEP == 0:
                await asyncio.sleep(0)

    async def close(self, seconds: float) -> None:
        """Accepts nobody from now on. For `seconds` it waits for those who are coming in."""
        await stop_listening(self._server.servers, self._listeners, shared=self.shared, seconds=seconds)
