"""HTTP byte by byte: a connection, offers of an upgrade, and a body in chunks."""

import asyncio
import json
from typing import NamedTuple

from tests.support.clients import TIMEOUT, token

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
"""What Java's HttpClient offers with its requests over plain HTTP."""
WEBSOCKET = (
    "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found


class Plain:
    """A connection on which a client sends its requests byte for byte."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Plain":
        self._reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def ask(self, line: str, headers: str = "", body: bytes = b"", bearer: str | None = None, *, length: bool = True) -> None:
        """Sends a request. `line` is `METHOD target` with or without a version."""
        line = line if "HTTP/" in line else f"{line} HTTP/1.1"
        bearer = bearer if bearer is not None else token("service")
        headers = f"Host: hub\r\nAuthorization: Bearer {bearer}\r\n{headers}"
        if length and body:
            headers += f"Content-Length: {len(body)}\r\n"
        self.writer.write(f"{line}\r\n{headers}\r\n".encode() + body)

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer. An answer without a length ends with the connection."""
        async with asyncio.timeout(TIMEOUT):
            said = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in said[1:-2])}
            status = int(said[0].split()[1])
            if head or status in (100, 101, 204):
                body = b""
            elif "content-length" in headers:
                body = await self._reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await self._reader.readline(), 16):
                    body += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readline()
            else:
                body = await self._reader.read()
        return Answer(status, headers, body)

    async def begun(self, end: bytes) -> bytes:
        """What comes up to these bytes."""
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.readuntil(end)

    async def ended(self) -> bool:
        async with asyncio.timeout(TIMEOUT):
            return await self._reader.read() == b""


def chunked(body: bytes, *, after: str = "") -> bytes:
    """The body in two chunks, with `after` as trailers."""
    first, second = body[:7], body[7:]
    return b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n%s\r\n" % (len(first), first, len(second), second, after.encode())
