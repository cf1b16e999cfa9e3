"""A proxy that cuts, delays and stalls connections. It stands between clients and a server on TCP or a Unix socket.

    async with ChaosProxy(("127.0.0.1", hub.port), rng=rng) as wire:
        ...clients connect to wire.url...
        wire.swallow(DOWN)      # what the server sends is lost
        wire.cut()              # every connection is reset

Directions are seen from the client: `UP` is what it sends, `DOWN` what it receives. Settings also hold for later connections.
Only `cut` and `stall` concern just the present ones.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

Direction = Literal["up", "down"]
UP: Final = "up"
DOWN: Final = "down"
BOTH: Final[tuple[Direction, ...]] = ("up", "down")

Address = tuple[str, int] | Path
"""Host and port, or the path of a Unix socket."""

_CHUNK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: closing sends RST."""


class Wire:
    """One connection through the proxy."""

    def __init__(self, proxy: "ChaosProxy", client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._flowing: dict[Direction, asyncio.Event] = {direction: asyncio.Event() for direction in BOTH}
        self._ended: set[Direction] = set()
        self._warned = False
        """Its client has sent `deaf_after`."""
        for event in self._flowing.values():
            event.set()

    def stall(self, *directions: Direction) -> None:
        for direction in directions or BOTH:
            self._flowing[direction].clear()

    def half_close(self, direction: Direction) -> None:
        """Send FIN in this direction. The other one stays open."""
        self._ended.add(direction)
        sink = self._server if direction == UP else self._client
        if sink.can_write_eof() and not sink.is_closing():
            sink.write_eof()

    def flow(self) -> None:
        for event in self._flowing.values():
            event.set()

    def cut(self, *, reset: bool = True) -> None:
        """Send RST to both ends at once, and lose what is in flight. Or send FIN after what is already written."""
        for writer in (self._client, self._server):
            if reset:
                _abort(writer)
            else:
                writer.close()
        self.flow()

    async def pump(self, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK):
            self._proxy.chunks += 1
            low, high = self._proxy.delay
            if high > 0:
                await asyncio.sleep(self._proxy.rng.uniform(low, high))
            if direction == UP and any(words in data for words in self._proxy.stalled_at):
                self.stall()
            await self._flowing[direction].wait()
            if direction == UP and self._is_last_heard(data):
                self._proxy.deaf_at = self._proxy.deaf_after = None
                self._warned = False
                self._proxy.swallow(DOWN)
            if direction in self._proxy.swallowed or direction in self._ended:
                continue
            sink.write(data)
            await sink.drain()
        if direction not in self._proxy.swallowed and direction not in self._ended and sink.can_write_eof():
            sink.write_eof()

    def _is_last_heard(self, said: bytes) -> bool:
        """Whether the client receives nothing from now on."""
        proxy = self._proxy
        if proxy.deaf_after is not None and proxy.deaf_after in said:
            self._warned = True
        return proxy.deaf_at is not None and (proxy.deaf_after is None or self._warned) and proxy.deaf_at in said


class ChaosProxy:
    """Listens at `listen`, by default a free port of the loopback, and forwards to `targets`. `rng` decides what is random.

    With several targets it is a load balancer: each new connection goes to the next one, or to the one after it if that one
    refuses.
    """

    def __init__(self, *targets: Address, rng: random.Random, listen: Path | None = None) -> None:
        self.rng = rng
        self.wires: list[Wire] = []
        self.accepted = 0
        self.chunks = 0
        """How often something was read from any connection. It shows how far a conversation got."""
        self.refusing = False
        """New connections are reset at once."""
        self.delay = (0.0, 0.0)
        """The least and the most seconds that each chunk waits."""
        self.swallowed: set[Direction] = set()
        self.deaf_at: bytes | None = None
        """When a client sends this, all later data of the server is lost. This is then None again."""
        self.deaf_after: bytes | None = None
        """If set, that holds only for connections whose client has sent this before."""
        self.stalled_at: tuple[bytes, ...] = ()
        """A connection whose client sends one of these carries nothing until `flow`, not even these bytes."""
        self.targets = list(targets)
        self._turn = 0
        self._listen = listen
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._listen is not None:
            self._server = await asyncio.start_unix_server(self._accept, self._listen)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listen is not None:
            self._listen.unlink(missing_ok=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self, share: float = 1.0, *, reset: bool = True) -> None:
        """End the present connections, or a random share of them."""
        for wire in list(self.wires):
            if share >= 1.0 or self.rng.random() < share:
                wire.cut(reset=reset)

    def half_close(self, direction: Direction, share: float = 1.0) -> None:
        """End one direction of the present connections, or of a random share of them."""
        for wire in list(self.wires):
            if share >= 1.0 or self.rng.random() < share:
                wire.half_close(direction)

    def stall(self, *directions: Direction) -> None:
        """The present connections stay open and carry nothing. Without an argument this holds in both directions."""
        for wire in self.wires:
            wire.stall(*directions)

    def flow(self) -> None:
        for wire in self.wires:
            wire.flow()

    def swallow(self, *directions: Direction) -> None:
        """Read and lose what is sent in these directions. Without any, stop that, and cut what lost data afterwards."""
        self.swallowed = set(directions)

    async def _accept(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        if self.refusing:
            _abort(client)
            return
        try:
            server_reader, server = await self._connect()
        except OSError:
            _abort(client)
            return
        wire = Wire(self, client, server)
        self.wires.append(wire)
        try:
            # The end of one side is passed on. The other side may still send.
            await _all_or_first_error(
                wire.pump(UP, client_reader, server),
                wire.pump(DOWN, server_reader, client),
            )
        except OSError:
            wire.cut()
        except asyncio.CancelledError:
            # The proxy is closing. Not raised again, because asyncio's callback would take a cancelled task for a failure.
            pass
        finally:
            self.wires.remove(wire)
            for writer in (client, server):
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises `OSError` if no target accepts."""
        self._turn += 1
        first, *others = (self.targets[(self._turn + n) % len(self.targets)] for n in range(len(self.targets)))
        for target in others:
            with contextlib.suppress(OSError):
                return await _open(target)
        return await _open(first)


async def _open(target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(target, Path):
        return await asyncio.open_unix_connection(target)
    return await asyncio.open_connection(*target)


async def _all_or_first_error(*pumps: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(pump) for pump in pumps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _abort(writer: asyncio.StreamWriter) -> None:
    wire: socket.socket | None = writer.get_extra_info("socket")
    if wire is not None and wire.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
