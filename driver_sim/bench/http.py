"""An HTTP client as thin as it gets: one kept connection, one request at a time."""

import asyncio
import time
from typing import NamedTuple

from driver_sim.bench.clients import Lost


class Answer(NamedTuple):
    status: int
    body: bytes
    at: float
    """When the last byte of it came, by `time.perf_counter`."""


class HttpClient(asyncio.Protocol):
    """Made by `connect_http`."""

    def __init__(self, token: str) -> None:
        self._head = f"HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Lost("the hub closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._waiting is None or self._waiting.done():
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(body) >= int(fields.get("content-length", "0")):
            self._received = b""
            self._waiting.set_result(Answer(int(first.split(" ", 2)[1]), body, time.perf_counter()))

    async def patch(self, path: str, body: bytes) -> Answer:
        """Raises `Lost` where the connection ends, or has ended."""
        if self._transport is None:
            raise Lost("the hub closed the connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(f"PATCH {path} {self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect_http(port: int, token: str) -> HttpClient:
    """Raises `OSError` where nobody listens."""
    _, client = await asyncio.get_running_loop().create_connection(lambda: HttpClient(token), "127.0.0.1", port)
    return client
