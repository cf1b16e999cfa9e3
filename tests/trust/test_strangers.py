"""Rows 9 and 74 to 76, and who may open a socket: what strangers get who ask for memory, for time, or for another's socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.attacks.strangers import PIPELINED, Endless, Idle, endless, idle, line, pour, put, read
from tests.support.clients import TIMEOUT, Api
from tests.support.hub_process import HubProcess
from tests.support.memory import MIB, growing_less_than
from tests.support.plain_http import WEBSOCKET, Plain
from tests.support.serving import Served, serving
from tests.support.waiting import until
from tracking.sockets.client_time import FAREWELL_SECONDS, HEAD_SECONDS, SLOW_BYTES, SLOW_SECONDS, UNWANTED_SECONDS
from tracking.sockets.http import HttpProtocol

KEEP_ALIVE_SECONDS = 5.0
"""uvicorn's default, which the hub leaves."""


# --- row 74: pipelining ---------------------------------------------------------------------------------------------


async def test_row_74_requests_pipelined_without_reading_cost_less_than_5_mb(hub: HubProcess) -> None:
    with growing_less_than(hub, 5 * MIB):
        async with line(hub.port) as opened:
            with growing_less_than(hub, 5 * MIB):
                said = await pour(opened, b"", PIPELINED * 40_000, 20 * MIB)
            assert said < 20 * MIB, "the hub reads on though nobody reads its answers"


async def test_row_74_who_reads_gets_every_answer(hub: HubProcess) -> None:
    async with Plain(hub.port) as plain:
        for number in range(300):
            plain.ask(f"GET /v1/fleets/none-{number}")
        answers = [await plain.answer() for _ in range(300)]
        assert {answer.status for answer in answers} == {404}
        plain.ask("GET /healthz")
        assert (await plain.answer()).status == 200


# --- row 75: heads, extensions and trailers without end -------------------------------------------------------------


@pytest.mark.parametrize("kind", endless().values(), ids=endless().keys())
async def test_row_75_what_has_no_end_is_refused_in_flat_memory(hub: HubProcess, kind: Endless) -> None:
    with growing_less_than(hub, 5 * MIB):
        async with asyncio.timeout(TIMEOUT), line(hub.port) as opened:
            answer = asyncio.create_task(read(opened))
            await pour(opened, kind.begin, kind.more, 16 * MIB)
            heard = await answer
    assert f"HTTP/1.1 {kind.status} ".encode() in heard, heard[:300]


# --- row 76: connections on which nothing goes on -------------------------------------------------------------------


class Clock:
    """An event loop whose clock is set ahead at will."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ahead = 0.0

    def time(self) -> float:
        return self._loop.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Turned:
    """Our HTTP protocol in a server of this process, by a clock that the test turns."""

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
        """Second after second passes, and at each of them the connection is looked at."""
        for _ in range(round(seconds)):
            self.clock.ahead += 1
            for protocol in list(self.served.server.server_state.connections):
                assert isinstance(protocol, HttpProtocol)
                protocol.visit()
        await asyncio.sleep(0)


ANSWER = 12 * MIB
"""More than the system takes of an answer that nobody reads."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Refuses who has no token, reads the body of who has one, and has a large answer at /web."""
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
async def turned() -> AsyncIterator[Turned]:
    clock = Clock()

    class ByClock(HttpProtocol):
        def __init__(self, *of: Any, **options: Any) -> None:
            super().__init__(*of, **{**options, "_loop": clock})

    async with serving(application, http=ByClock) as served:
        yield Turned(served, clock)


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


def quiet(turned: Turned) -> Callable[[], bool]:
    """Whether all that was said has been heard, and answered as far as it can be."""
    seen: list[object] = []

    def same() -> bool:
        if not turned.open:
            return True
        protocol = turned.protocol
        now = (protocol._stage, protocol._size, protocol._body, protocol.transport.get_write_buffer_size(), protocol.cycle)
        seen.append(now)
        return len(seen) > 20 and all(found == now for found in seen[-20:])

    return same


@pytest.mark.parametrize("name", SECONDS)
async def test_row_76_who_goes_no_further_is_closed(turned: Turned, name: str) -> None:
    kind: Idle = idle()[name]
    async with line(turned.served.port, None if kind.reads else 4096) as opened:
        await until(lambda: turned.open)
        ears = asyncio.create_task(read(opened)) if kind.reads else None
        await pour(opened, kind.begin, b"", len(kind.begin))
        await until(quiet(turned))
        for _ in range(int(SECONDS[name]) - 1):
            with contextlib.suppress(OSError):
                opened.send(kind.drip)
            await turned.turn(1)
        assert turned.open, "it has more time"
        await turned.turn(3)
        await until(lambda: not turned.open)
        if ears is not None:
            await ears


@pytest.mark.parametrize("by_chunks", [False, True])
async def test_row_76_a_body_on_a_slow_line_is_taken(turned: Turned, by_chunks: bool) -> None:
    """1 MiB at some 600 bytes a second takes half an hour."""
    size = MIB
    head = put("Transfer-Encoding: chunked" if by_chunks else f"Content-Length: {size}", bearer="x")
    async with line(turned.served.port) as opened:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(opened, head)
        await until(lambda: turned.open and turned.protocol.cycle is not None)
        for come in range(SLOW_BYTES, size + 1, SLOW_BYTES):
            piece = b"x" * SLOW_BYTES
            await loop.sock_sendall(opened, b"%x\r\n%s\r\n" % (SLOW_BYTES, piece) if by_chunks else piece)
            await until(lambda come=come: turned.protocol._body == come)  # type: ignore[misc]
            await turned.turn(SLOW_SECONDS - 6)
        if by_chunks:
            await loop.sock_sendall(opened, b"0\r\n\r\n")
        assert b"HTTP/1.1 200 " in await loop.sock_recv(opened, 4096)


async def test_row_76_a_slow_reader_gets_its_answer(turned: Turned) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT), line(turned.served.port, 65_536) as opened:
        await loop.sock_sendall(opened, b"GET /web HTTP/1.1\r\nHost: x\r\n\r\n")
        heard = 0
        while data := await loop.sock_recv(opened, 262_144):
            heard += len(data)
            await turned.turn(1)
            if heard > ANSWER:
                break
    assert heard > ANSWER


async def test_row_76_an_application_has_its_time(turned: Turned) -> None:
    """What it waits for is not its client's fault."""
    go = asyncio.Event()

    async def slow(_: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await application({"method": "PUT", "path": "/", "headers": [(b"authorization", b"x")]}, receive, send)

    async with line(turned.served.port) as opened:
        loop = asyncio.get_running_loop()
        await until(lambda: turned.open)
        turned.protocol.app = slow
        # More of a body than is read ahead: that the rest does not come is not its client's fault either.
        await loop.sock_sendall(opened, put("Content-Length: 200000", bearer="x") + b"x" * 100_000)
        await until(lambda: turned.protocol._body == 100_000)
        await turned.turn(300)
        assert turned.open
        go.set()
        await loop.sock_sendall(opened, b"x" * 100_000)
        assert b"HTTP/1.1 200 " in await loop.sock_recv(opened, 4096)


async def test_row_76_who_is_too_slow_is_told(turned: Turned) -> None:
    async with line(turned.served.port) as opened:
        await until(lambda: turned.open)
        await asyncio.get_running_loop().sock_sendall(opened, b"GET / HTTP/1.1\r\nHost:")
        await until(lambda: turned.protocol._size > 0)
        await turned.turn(HEAD_SECONDS + 1)
        assert (await read(opened)).startswith(b"HTTP/1.1 408 ")


async def test_row_76_all_connections_share_one_timer() -> None:
    async with serving(application) as served, contextlib.AsyncExitStack() as stack:
        for _ in range(50):
            await stack.enter_async_context(line(served.port))
        await until(lambda: served.connections == 50)
        rounds = {id(protocol._keepalive_slot) for protocol in served.server.server_state.connections}  # type: ignore[union-attr]
        assert len(rounds) <= 20, "sets of one KeepaliveTimer, each visited by the one timer"


# --- who may open a socket ------------------------------------------------------------------------------------------

PUBLIC = "https://track.example"


@pytest.fixture(scope="module")
def public_hub(hub: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that is told its public address."""
    log = tmp_path_factory.mktemp("public") / "log"
    database = hub.environment["TRACKING_DATABASE_URL"]
    process = HubProcess(database, log, public_url=PUBLIC, allowed_origins="capacitor://localhost").start()
    yield process
    process.stop()


async def opening(hub: HubProcess, origin: str | None, host: str) -> int:
    """The status of a handshake."""
    async with Plain(hub.port) as plain:
        said = "" if origin is None else f"Origin: {origin}\r\n"
        plain.writer.write(f"GET /v1/driver HTTP/1.1\r\nHost: {host}\r\n{WEBSOCKET}{said}\r\n".encode())
        return (await plain.answer()).status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "track.example", 101),  # no browser
        (None, "127.0.0.1:8000", 101),
        (PUBLIC, "track.example", 101),
        (PUBLIC, "hub:8000", 101),  # a proxy that names the hub
        ("https://TRACK.example:443", "track.example", 101),
        ("capacitor://localhost", "track.example", 101),
        ("null", "track.example", 403),
        ("null", "", 403),
        ("", "", 403),
        ("http://", "", 403),
        ("http://track.example", "track.example", 403),
        ("https://track.example:8443", "track.example:8443", 403),
        ("https://track.example.", "track.example.", 403),
        ("http://evil.example", "evil.example", 403),
        ("https://evil.example", "evil.example", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),
        ("http://localhost:8000", "localhost:8000", 403),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", 403),
        (f"{PUBLIC} http://evil.example", "track.example", 403),
    ],
)
async def test_row_27_where_a_public_address_is_set_its_pages_alone_open_sockets(
    public_hub: HubProcess, origin: str | None, host: str, status: int
) -> None:
    assert await opening(public_hub, origin, host) == status


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:8000", "localhost:8000", 101),
        ("http://demo.localhost:8000", "demo.localhost:8000", 101),
        ("http://192.0.2.7:8000", "192.0.2.7:8000", 101),
        ("http://[fd00::7]:8000", "[fd00::7]:8000", 101),
        ("http://hub:8000", "hub:8000", 101),
        ("http://laptop.local:8000", "laptop.local:8000", 101),
        ("http://localhost:8000", "localhost:8001", 403),
        ("http://evil.example:8000", "evil.example:8000", 403),  # whose name leads here, for a while
        ("http://127.0.0.1.evil.example", "127.0.0.1.evil.example", 403),
        ("http://evil.example", "localhost", 403),
        ("http://localhost.evil.example", "localhost.evil.example", 403),
        ("null", "localhost:8000", 403),
    ],
)
async def test_row_27_where_none_is_set_pages_of_names_that_nobody_else_can_have(
    hub: HubProcess, origin: str, host: str, status: int
) -> None:
    assert await opening(hub, origin, host) == status


# --- what every answer says -----------------------------------------------------------------------------------------

HSTS = "strict-transport-security"


async def test_api_answers_are_not_kept_and_not_guessed_at(hub: HubProcess, public_hub: HubProcess) -> None:
    """Errors, faults of the request's form, and refusals before any application too."""
    for where in (hub, public_hub):
        async with Api(where.url) as api:
            fleet_id = await api.fleet()
            trip = await api.trip(fleet_id, None)
            paths = (
                f"fleets/{fleet_id}",
                "fleets/none",
                f"trips/{trip['trip_id']}",
                f"trips/{trip['trip_id']}/track?format=csv",
            )
            answers = [await api.http.get(f"{where.url}/v1/{path}") for path in (*paths, "none")]
            answers += [
                await api.http.get(f"{where.url}/{path}") for path in ("healthz", "readyz", "metrics", "none", "web/none")
            ]
            answers += [
                await api.http.get("/fleets/none", headers={"Authorization": "none"}),
                await api.http.patch(f"/fleets/{fleet_id}"),
                await api.http.put(f"/fleets/{fleet_id}", content=b"{"),
                await api.http.delete(f"/trips/{trip['trip_id']}"),
            ]
        for answer in answers:
            said = (str(answer.request.url), answer.status_code, dict(answer.headers))
            assert answer.headers.get("cache-control") == "no-store", said
            assert answer.headers.get("x-content-type-options") == "nosniff", said
            assert answer.headers.get_list("cache-control", split_commas=True) == ["no-store"], said
            assert (HSTS in answer.headers) == (where is public_hub), said
        async with Plain(where.port) as plain:
            plain.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            refused = await plain.answer()
            assert (refused.headers["cache-control"], refused.headers["x-content-type-options"]) == ("no-store", "nosniff")


async def test_pages_say_what_they_may_do(hub: HubProcess, public_hub: HubProcess) -> None:
    for where in (hub, public_hub):
        async with Api(where.url) as api:
            for path in ("trip/x", "fleet/x"):
                page = await api.http.get(f"{where.url}/{path}")
                policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
                assert policy["connect-src"] == "'self'"
                assert policy["default-src"] == "'self'"
                assert policy["frame-ancestors"] == "'none'"
                assert "geolocation=()" in page.headers["permissions-policy"]
                assert page.headers["cache-control"] == "no-cache"
                assert (page.headers.get(HSTS) or "").startswith("max-age=") == (where is public_hub)
            assert (await api.http.get(f"{where.url}/web/passenger/page.js")).headers["cache-control"] == "no-cache"


async def test_the_maps_own_hosts_are_in_the_policy(own_hub: Callable[..., HubProcess]) -> None:
    hub = own_hub(basemap_url="https://tile{s}.maps.example:8443/{z}/{x}/{y}.png")
    async with Api(hub.url) as api:
        policy = (await api.http.get(f"{hub.url}/trip/x")).headers["content-security-policy"]
    hosts = " ".join(f"https://tile{letter}.maps.example:8443" for letter in "abc")
    assert f"connect-src 'self' {hosts};" in policy
    assert f"img-src 'self' data: blob: {hosts};" in policy


async def test_a_line_that_is_reset_leaves_nothing(turned: Turned) -> None:
    async with line(turned.served.port) as opened:
        await pour(opened, b"", PIPELINED * 1_000, 2**20)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await until(lambda: turned.served.connections == 0 and not turned.served.server.server_state.tasks)
