"""Attacks over HTTP without a useful token: on memory, on time, and on connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import NamedTuple

import psutil

from tests.attacks.scene import Scene
from tests.support.clients import token
from tests.support.hub_process import HubProcess

PIPELINED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
STUCK_SECONDS = 0.5
"""Seconds after which a peer that takes no data counts as no longer reading."""
CLOSED_SECONDS = 30.0
"""Seconds within which the hub must close an idle connection."""
SLOW_ANSWERS = "/web/data/liechtenstein_basemap.pmtiles"
"""A file larger than the system's buffers."""

_GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
_UPGRADE = (
    b"GET /v1/driver HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def put(*headers: str, bearer: str | None = None) -> bytes:
    """The head of a request with a body."""
    known = [f"Authorization: Bearer {bearer}"] if bearer is not None else []
    return "\r\n".join(["PUT /v1/fleets/strange HTTP/1.1", "Host: x", *known, *headers, "", ""]).encode()


class Endless(NamedTuple):
    """An endless request: how it begins, and how it continues."""

    begin: bytes
    more: bytes
    status: int
    """The status of the answer."""


def endless() -> dict[str, Endless]:
    by_chunks = put("Transfer-Encoding: chunked", bearer=token("service"))
    block = b"x" * 65_536
    return {
        "a header": Endless(_GET + b"X: ", block, 431),
        "a header's name": Endless(_GET + b"X", block, 431),
        "headers": Endless(_GET, b"a:\r\n" * 16_384, 431),
        "a URL": Endless(b"GET /", block, 414),
        "a query": Endless(b"GET /healthz?", block, 414),
        "a URL in the absolute form": Endless(b"GET http://", block, 414),
        "a method": Endless(b"", b"GET" * 20_000, 400),
        "blanks in the request line": Endless(b"GET ", b" " * 65_536, 431),
        "empty lines": Endless(b"", b"\r\n" * 32_768, 400),
        "empty lines after a request": Endless(_GET + b"\r\n", b"\r\n" * 32_768, 400),
        "a header of a handshake": Endless(_UPGRADE + b"X: ", block, 431),
        "headers of a handshake": Endless(_UPGRADE, b"a:\r\n" * 16_384, 431),
        "an extension of a chunk": Endless(by_chunks + b"1;", block, 431),
        "a length of a chunk": Endless(by_chunks, b"0" * 65_536, 431),
        "extensions of small chunks": Endless(by_chunks, (b"1;" + b"x" * 1_000 + b"\r\nx\r\n") * 64, 431),
        "a trailer": Endless(by_chunks + b"0\r\nX: ", block, 431),
        "trailers": Endless(by_chunks + b"0\r\n", b"a:\r\n" * 16_384, 431),
        "a chunk's extension where a token is lacking": Endless(put("Transfer-Encoding: chunked") + b"1;", block, 401),
    }


class Idle(NamedTuple):
    """A client that stops: what it sends first, and then once a second."""

    begin: bytes
    drip: bytes = b""
    reads: bool = True
    within: float = CLOSED_SECONDS
    """Seconds until it is closed."""


def idle() -> dict[str, Idle]:
    bearer = token("service")
    unread = f"GET {SLOW_ANSWERS} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    return {
        "nothing": Idle(b""),
        "empty lines": Idle(b"", b"\r\n"),
        "half a head": Idle(_GET),
        "a head by the byte": Idle(_GET + b"X: ", b"x"),
        "half a handshake": Idle(_UPGRADE),
        "an answer, and then empty lines": Idle(_GET + b"\r\n", b"\r\n"),
        "an error, and then nothing": Idle(put("Content-Length: 0")),
        "an error, and then a body by the byte": Idle(put("Content-Length: 1000"), b"x"),
        "an error, and then chunks by the byte": Idle(put("Transfer-Encoding: chunked") + b"FFF\r\n", b"x"),
        "no request, and then more": Idle(b"?\r\n\r\n", b"x"),
        "a body that never comes": Idle(put("Content-Length: 1000", bearer=bearer)),
        "a body by the byte": Idle(put("Content-Length: 1000", bearer=bearer), b" "),
        "chunks by the byte": Idle(put("Transfer-Encoding: chunked", bearer=bearer), b"1\r\n \r\n"),
        "a body that was asked for": Idle(put("Content-Length: 1000", "Expect: 100-continue", bearer=bearer)),
        "an answer that is not read": Idle(unread, reads=False),
        "answers that are not read": Idle(_GET.replace(b"/healthz", b"/web/passenger/page.js") + b"\r\n", unread, reads=False),
    }


@contextlib.asynccontextmanager
async def line(port: int, room: int | None = None) -> AsyncIterator[socket.socket]:
    """An open connection. `room` is its receive buffer in bytes."""
    with socket.socket() as opened:
        if room is not None:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", port))
        yield opened


async def pour(opened: socket.socket, begin: bytes, more: bytes, most: int, cut: int = 2**20) -> int:
    """Send data in segments of `cut` bytes, until the other end stops reading or closes. Returns how much was sent."""
    loop = asyncio.get_running_loop()
    said, waiting = 0, begin
    with contextlib.suppress(OSError, TimeoutError):
        while said < most:
            waiting = waiting or more
            async with asyncio.timeout(STUCK_SECONDS):
                await loop.sock_sendall(opened, waiting[:cut])
            said += len(waiting[:cut])
            waiting = waiting[cut:]
    return said


async def read(opened: socket.socket) -> bytes:
    """Everything that arrives until the connection is closed."""
    heard = b""
    with contextlib.suppress(OSError):
        while data := await asyncio.get_running_loop().sock_recv(opened, 65_536):
            heard += data
    return heard


def open_lines(hub: HubProcess, ports: set[int]) -> int:
    """How many of the connections from these ports are open in the hub."""
    assert hub.process is not None
    lines = psutil.Process(hub.process.pid).net_connections("tcp")
    return sum(1 for found in lines if found.raddr and found.raddr[1] in ports)


# --- attacks --------------------------------------------------------------------------------------------------------


async def pipelining(scene: Scene) -> None:
    """Row 74: pipelined requests on four sockets, whose answers nobody reads."""
    before = scene.memory()
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line(scene.hub.port)) for _ in range(4)]
        await asyncio.gather(*(pour(opened, b"", PIPELINED * 40_000, 40 * 2**20) for opened in lines))
        grown = scene.memory() - before
        await asyncio.sleep(max(0.0, scene.seconds - STUCK_SECONDS))
    assert grown < 5 * len(lines), f"grown by {grown:.0f} MB with {len(lines)} sockets"


async def without_end(scene: Scene) -> None:
    """Row 75: endless heads, extensions and trailers, one kind after the other, until the time is over."""
    loop = asyncio.get_running_loop()
    before, deadline = scene.memory(), loop.time() + scene.seconds
    kinds = endless()
    while loop.time() < deadline:
        for name, kind in kinds.items():
            async with line(scene.hub.port) as opened:
                answer = asyncio.create_task(read(opened))
                await pour(opened, kind.begin, kind.more, 80 * 2**20)
                heard = await answer
            assert f"HTTP/1.1 {kind.status} ".encode() in heard, (name, heard[:200])
            grown = scene.memory() - before
            assert grown < 10, f"{name}: grown by {grown:.0f} MB"


async def idling(scene: Scene, lines: int = 1_000) -> None:
    """Row 76: idle connections of every kind. All are closed within 30 s."""
    loop = asyncio.get_running_loop()
    kinds = list(idle().values())
    ports: set[int] = set()

    async def one(kind: Idle) -> None:
        async with line(scene.hub.port, None if kind.reads else 4096) as opened:
            ports.add(opened.getsockname()[1])
            await pour(opened, kind.begin, b"", len(kind.begin))
            ears = asyncio.create_task(read(opened)) if kind.reads else None
            try:
                with contextlib.suppress(OSError):
                    while not over.is_set() and (ears is None or not ears.done()):
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(over.wait(), 1.0)
                        if kind.drip:
                            opened.send(kind.drip)
            finally:
                if ears is not None:
                    ears.cancel()

    over = asyncio.Event()
    began = loop.time()
    tasks = [asyncio.create_task(one(kinds[number % len(kinds)])) for number in range(lines)]
    try:
        while len(ports) < lines:
            await asyncio.sleep(0.1)
        while (left := open_lines(scene.hub, ports)) and loop.time() - began < CLOSED_SECONDS:
            await asyncio.sleep(0.5)
    finally:
        over.set()
        await asyncio.gather(*tasks)
    assert not left, f"{left} of {lines} are open after {CLOSED_SECONDS:g} s"
