"""A WebSocket client that sends any bytes, well formed or not."""

import asyncio
import base64
import contextlib
import os
import socket
import struct
from typing import Self

from websockets.frames import Frame, Opcode

from tests.support.clients import TIMEOUT

TEXT, CONTINUED, PING, PONG, CLOSE = Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.PONG, Opcode.CLOSE


def framed(kind: Opcode, data: bytes | str = b"", *, fin: bool = True) -> bytes:
    """A masked frame, as clients send them."""
    return Frame(kind, data.encode() if isinstance(data, str) else data, fin).serialize(mask=True)


def opening(path: str, bearer: str | None = None) -> bytes:
    """The request of a handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        *([f"Authorization: Bearer {bearer}"] if bearer is not None else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class RawSocket:
    """Entered when the handshake is answered with 101. It reads only on demand, and answers nothing."""

    def __init__(self, port: int, path: str = "/", bearer: str | None = None, *, room: int | None = None) -> None:
        """`room`: the receive buffer in bytes. If it is small, data that is not read stays in the hub."""
        self._port = port
        self._room = room
        self._request = opening(path, bearer)
        self._got = b""
        self.line: socket.socket

    async def __aenter__(self) -> Self:
        self.line = socket.socket()
        if self._room is not None:
            self.line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._room)
        self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.line, ("127.0.0.1", self._port))
        await self.send(self._request)
        while b"\r\n\r\n" not in self._got:
            assert await self._more(), "closed in the handshake"
        head, _, self._got = self._got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    async def __aexit__(self, *_: object) -> None:
        self.line.close()

    async def send(self, *pieces: bytes) -> None:
        """Send all of them in one segment, if they fit."""
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self.line, b"".join(pieces))

    async def frame(self) -> tuple[int, bytes] | None:
        """Kind and payload of the next frame. None if the connection is closed."""
        while True:
            size = self._size()
            if size is not None and len(self._got) >= size:
                whole, self._got = self._got[:size], self._got[size:]
                return whole[0] & 0x0F, whole[{126: 4, 127: 10}.get(whole[1], 2) :]
            if not await self._more():
                return None

    def _size(self) -> int | None:
        """The size of the next frame in bytes. Waits for its head."""
        if len(self._got) < 2:
            return None
        head = {126: 4, 127: 10}.get(self._got[1], 2)
        if head == 2:
            return 2 + self._got[1]
        return head + int.from_bytes(self._got[2:head], "big") if len(self._got) >= head else None

    async def text(self) -> str:
        """The next text message. Other frames are skipped."""
        while True:
            frame = await self.frame()
            assert frame is not None, "the connection was closed"
            assert frame[0] != CLOSE, f"closed with {frame[1]!r}"
            if frame[0] == TEXT:
                return frame[1].decode()

    async def closed(self) -> int:
        """The code of the close frame. Frames before it are skipped."""
        while (frame := await self.frame()) is not None:
            if frame[0] == CLOSE:
                code: int = struct.unpack_from("!H", frame[1])[0]
                return code
        raise AssertionError("the line was closed without a close frame")

    async def cut(self) -> None:
        """Wait until the connection is closed."""
        with contextlib.suppress(ConnectionError):
            while await self._more():
                self._got = b""

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.line.close()

    async def _more(self) -> bool:
        async with asyncio.timeout(TIMEOUT):
            data = await asyncio.get_running_loop().sock_recv(self.line, 65_536)
        self._got += data
        return bool(data)
