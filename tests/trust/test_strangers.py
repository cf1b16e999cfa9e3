"""Rows 9 and 74 to 76: clients without a token can't take the hub's memory, time or connections."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.attacks.strangers import PIPELINED, Endless, Idle, endless, idle, line, pour, put, read
from tests.support.clients import TIMEOUT
from tests.support.hub_process import HubProcess
from tests.support.memory import MIB, growing_less_than
from tests.support.plain_http import Plain
from tests.support.serving import Served, serving
from tests.support.waiting import until
from tracking.sockets.client_time import FAREWELL_SECONDS, HEAD_SECONDS, SLOW_BYTES, SLOW_SECONDS, UNWANTED_SECONDS
from tracking.sockets.http import HttpProtocol

KEEP_ALIVE_SECONDS = 5.0
"""uvicorn's default, which the hub keeps."""


# --- row 74: pipelining ---------------------------------------------------------------------------------------------


async def test_row_74_requests_pipelined_without_reading_cost_less_than_5_mb(hub: HubProcess) -> None:
    with growing_less_than(hub, 5 * MIB):
        async with line(hub.port) as opened:
            with growing_less_than(hub, 5 * MIB):
                said = await pour(opened, b"", PIPELINED * 40_000, 20 * MIB)
            assert said < 20 * MIB, "the hub continues to read although nobody reads its answers"


async def test_row_74_a_client_that_reads_gets_every_answer(hub: HubProcess) -> None:
    async with Plain(hub.port) as plain:
        for number in range(300):
            plain.ask(f"GET /v1/fleets/none-{number}")
        answers = [await plain.answer() for _ in range(300)]
        assert {answer.status for answer in answers} == {404}
        plain.ask("GET /healthz")
        assert (await plain.answer()).status == 200


# --- row 75: endless heads, extensions and trailers -----------------------------------------------------------------


@pytest.mark.parametrize("kind", endless().values(), ids=endless().keys())
@pytest.mark.one_hub("the answer to somebody who goes on sending gets lost in the load balancer")
async def test_row_75_an_endless_request_is_refused_in_constant_memory(hub: HubProcess, kind: Endless) -> None:
    with growing_less_than(hub, 5 * MIB):
        async with asyncio.timeout(TIMEOUT), line(hub.port) as opened:
            answer = asyncio.create_task(read(opened))
            await pour(opened, kind.begin, kind.more, 16 * MIB)
            heard = await answer
    assert f"HTTP/1.1 {kind.status} ".encode() in heard, heard[:300]


# --- row 76: idle connections ---------------------------------------------------------------------------------------


class Clock:
    """An event loop whose clock can be set forward."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ahead = 0.0

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class SteppedServer:
    """The hub's HTTP protocol in a server of this process, with a clock that the test sets."""

    def __init__(self, served: Served, clock: Clock) -> None:
        self.served = served
        self.clock = clock

    @property
    def protocol(self) -> HttpProtocol:
        (protocol,) = self.served.server.server_state.connections
        assert isinstance(protocol, HttpProtocol)
        return protocol

    @property
    def open(self) -> bool:
        """Whether the only client is connected."""
        return self.served.connections == 1

    async def turn(self, seconds: float) -> None:
        """Let the seconds pass, and let the protocol check the connection at each."""
        for _ in range(round(seconds)):
            self.clock.ahead += 1
            for protocol in list(self.served.server.server_state.connections):
                assert isinstance(protocol, HttpProtocol)
                protocol.visit()
        await asyncio.sleep(0)


ANSWER = 12 * MIB
"""Larger than the system's buffers for an answer that nobody reads."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Refuses a PUT without a token, reads the body of one with a token, and has a large answer at /web."""
    if not any(name == b"authorization" for name, _ in scope["headers"]) and scope["method"] == "PUT":
        status, body = 401, b"no"
    else:
        status, body, more = 200, b"x" * (ANSWER if scope["path"].startswith("/web") else 1), scope["method"] == "PUT"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body))]})
    pieces = [body[begin : begin + 65_536] for begin in range(0, len(body), 65_536)]
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": piece is not pieces[-1]})


@pytest.fixture
async def stepped() -> AsyncIterator[SteppedServer]:
    clock = Clock()

    class ByClock(HttpProtocol):
        def __init__(self, *of: Any, **options: Any) -> None:
            super().__init__(*of, **{**options, "_loop": clock})

    async with serving(application, http=ByClock) as served:
        yield SteppedServer(served, clock)


SECONDS = {
    "nothing": KEEP_ALIVE_SECONDS,
    "empty lines": KEEP_ALIVE_SECONDS,
    "half a head": HEAD_SECONDS,
    "a head by the byte": HEAD_SECONDS,
    "half a handshake": HEAD_SECONDS,
    "an answer, and then empty lines": KEEP_ALIVE_SECONDS,
    "an error, and then nothing": KEEP_ALIVE_SECONDS,
    "an error, and then a body by the byte": UNWANTED_SECONDS,
    "an error, and then chunks by the byte": UNWANTED_SECONDS,
    "no request, and then more": FAREWELL_SECONDS,
    "a body that never comes": SLOW_SECONDS,
    "a body by the byte": SLOW_SECONDS,
    "chunks by the byte": SLOW_SECONDS,
    "a body that was asked for": SLOW_SECONDS,
    "an answer that is not read": SLOW_SECONDS,
    "answers that are not read": SLOW_SECONDS,
}


def quiet(stepped: SteppedServer) -> Callable[[], bool]:
    """Whether the protocol has read everything, and answered as far as it can."""
    seen: list[object] = []

    def same() -> bool:
        if not stepped.open:
            return True
        protocol = stepped.protocol
        now = (protocol._stage, protocol._size, protocol._body, protocol.transport.get_write_buffer_size(), protocol.cycle)
        seen.append(now)
        return len(seen) > 20 and all(found == now for found in seen[-20:])

    return same


@pytest.mark.parametrize("name", SECONDS)
async def test_row_76_a_client_that_stops_is_closed(stepped: SteppedServer, name: str) -> None:
    kind: Idle = idle()[name]
    async with line(stepped.served.port, None if kind.reads else 4096) as opened:
        await until(lambda: stepped.open)
        ears = asyncio.create_task(read(opened)) if kind.reads else None
        await pour(opened, kind.begin, b"", len(kind.begin))
        await until(quiet(stepped))
        for _ in range(int(SECONDS[name]) - 1):
            with contextlib.suppress(OSError):
                opened.send(kind.drip)
            await stepped.turn(1)
        assert stepped.open, "it was closed too early"
        await stepped.turn(3)
        await until(lambda: not stepped.open)
        if ears is not None:
            await ears


@pytest.mark.parametrize("by_chunks", [False, True])
async def test_row_76_a_body_on_a_slow_connection_is_accepted(stepped: SteppedServer, by_chunks: bool) -> None:
    """1 MiB at some 600 bytes a second takes half an hour."""
    size = MIB
    head = put("Transfer-Encoding: chunked" if by_chunks else f"Content-Length: {size}", bearer="x")
    async with line(stepped.served.port) as opened:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(opened, head)
        await until(lambda: stepped.open and stepped.protocol.cycle is not None)
        for come in range(SLOW_BYTES, size + 1, SLOW_BYTES):
            piece = b"x" * SLOW_BYTES
            await loop.sock_sendall(opened, b"%x\r\n%s\r\n" % (SLOW_BYTES, piece) if by_chunks else piece)
            await until(lambda come=come: stepped.protocol._body == come)  # type: ignore[misc]
            await stepped.turn(SLOW_SECONDS - 6)
        if by_chunks:
            await loop.sock_sendall(opened, b"0\r\n\r\n")
        assert b"HTTP/1.1 200 " in await loop.sock_recv(opened, 4096)


async def test_row_76_a_slow_reader_gets_its_answer(stepped: SteppedServer) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT), line(stepped.served.port, 65_536) as opened:
        await loop.sock_sendall(opened, b"GET /web HTTP/1.1\r\nHost: x\r\n\r\n")
        heard = 0
        while data := await loop.sock_recv(opened, 262_144):
            heard += len(data)
            await stepped.turn(1)
            if heard > ANSWER:
                break
    assert heard > ANSWER


async def test_row_76_a_slow_application_is_not_the_fault_of_its_client(stepped: SteppedServer) -> None:
    """The client is not closed while the application waits."""
    go = asyncio.Event()

    async def slow(_: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await application({"method": "PUT", "path": "/", "headers": [(b"authorization", b"x")]}, receive, send)

    async with line(stepped.served.port) as opened:
        loop = asyncio.get_running_loop()
        await until(lambda: stepped.open)
        stepped.protocol.app = slow
        # The body is larger than what is read ahead. The client is not to blame for the missing rest either.
        await loop.sock_sendall(opened, put("Content-Length: 200000", bearer="x") + b"x" * 100_000)
        await until(lambda: stepped.protocol._body == 100_000)
        await stepped.turn(300)
        assert stepped.open
        go.set()
        await loop.sock_sendall(opened, b"x" * 100_000)
        assert b"HTTP/1.1 200 " in await loop.sock_recv(opened, 4096)


async def test_row_76_a_client_that_is_too_slow_gets_408(stepped: SteppedServer) -> None:
    async with line(stepped.served.port) as opened:
        await until(lambda: stepped.open)
        await asyncio.get_running_loop().sock_sendall(opened, b"GET / HTTP/1.1\r\nHost:")
        await until(lambda: stepped.protocol._size > 0)
        await stepped.turn(HEAD_SECONDS + 1)
        assert (await read(opened)).startswith(b"HTTP/1.1 408 ")


async def test_row_76_all_connections_share_one_timer() -> None:
    async with serving(application) as served, contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            await stack.enter_async_context(line(served.port))
        await until(lambda: served.connections == 50)
        rounds = {id(protocol._keepalive_slot) for protocol in served.server.server_state.connections}  # type: ignore[union-attr]
        assert len(rounds) <= 20, "all connections must be in the sets of one KeepaliveTimer"


async def test_a_reset_connection_leaves_nothing(stepped: SteppedServer) -> None:
    async with line(stepped.served.port) as opened:
        await pour(opened, b"", PIPELINED * 1_000, 2**20)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await until(lambda: stepped.served.connections == 0 and not stepped.served.server.server_state.tasks)
