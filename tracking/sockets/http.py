"""uvicorn's HTTP protocol, made impatient, and the socket that it listens on."""

import asyncio
import socket

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tracking.hub.doors import Doors

HEADERS_SECONDS = 8.0
"""How long a client may take to send a request's headers."""

_TCP_OPTIONS = {
    # uvloop does it by itself; asyncio does not, for a socket that it did not make.
    "TCP_NODELAY": 1,
    # A peer that takes nothing for so many milliseconds is gone, also where it still answers for its full window.
    "TCP_USER_TIMEOUT": 30_000,
    # Bytes that the system takes beyond what is on its way: what waits there is old when it arrives, and can't be left out.
    "TCP_NOTSENT_LOWAT": 32 * 1024,
}

_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"


def listening_socket(config: Config) -> socket.socket:
    """A bound socket whose connections are given up, and held short, by the system itself where it can."""
    listener = config.bind_socket()
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            listener.setsockopt(socket.IPPROTO_TCP, number, value)
    return listener


class HttpProtocol(HttpToolsProtocol):
    """Closes a connection whose request's headers do not come to an end, and those of who has too many without a WebSocket."""

    doors: Doors | None = None
    _late: asyncio.TimerHandle | None = None
    _counted: str | None = None

    @classmethod
    def guarded(cls, doors: Doors) -> "type[HttpProtocol]":
        """The same class, its connections counted at these doors until they have become WebSockets."""
        return type(cls.__name__, (cls,), {"doors": doors})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if self.doors is not None and self.client is not None:
            if self.doors.come(self.client[0]):
                self._counted = self.client[0]
            else:
                transport.write(_TOO_MANY)
                transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._come()
        self._count_out()
        super().connection_lost(exc)

    def _count_out(self) -> None:
        if self.doors is not None and self._counted is not None:
            self.doors.go(self._counted)
            self._counted = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._come()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self._count_out()
        # It knows us and we know it: left to itself, each such pair waits for the collector.
        self.parser = None  # type: ignore[assignment]

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def _come(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
