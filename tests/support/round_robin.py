"""A plain load balancer in a thread of its own: each new connection goes to the next hub. Synchronous tests can use it too.

    with RoundRobin([port, port]) as front:
        ...clients connect to front.port...

Data, FIN and RST pass in both directions. A hub that does not accept is left out: the connection goes to the one after it.
`proxy.ChaosProxy` is for tests that disturb connections.
"""

import asyncio
import itertools
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

import uvloop

_HELD = 16 * 1024
"""Bytes of a connection that wait in this process, in each direction. A slow reader must soon be slow for the hub as well."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with 0 seconds: closing sends RST."""


class _End(asyncio.Protocol):
    """One end of a connection: the client's or the hub's. What it receives goes to the other end."""

    def __init__(self, balancer: "RoundRobin", other: "_End | None" = None) -> None:
        self._balancer = balancer
        self.other = other
        self.transport: asyncio.Transport
        self.ended = False
        """It sends no more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(_HELD)
        self._balancer.ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """The other direction stays open, until it has ended too."""
        self.ended = True
        if self.other is None:
            return True
        if not self.other.transport.is_closing():
            self.other.transport.write_eof()
        return not self.other.ended

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._balancer.ends.discard(self)
        if self.other is None or self.other.transport.is_closing():
            return
        if error is None:
            self.other.transport.close()
        else:
            reset(self.other.transport)


class _Accepted(_End):
    """The client's end. What it receives before a hub has accepted is kept."""

    def __init__(self, balancer: "RoundRobin") -> None:
        super().__init__(balancer)
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._balancer.join(self)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super().data_received(data)

    def joined(self, hub: _End) -> None:
        self.other = hub
        if self.transport.is_closing():
            reset(hub.transport)
            return
        hub.transport.writelines(self._early)
        if self.ended:
            hub.transport.write_eof()


class RoundRobin:
    """Listens at a free port of the loopback, or at `port`. `targets` are ports of the loopback."""

    def __init__(self, targets: Sequence[int], port: int = 0) -> None:
        self._targets = targets
        self._turns = itertools.count()
        self._joining: set[asyncio.Task[None]] = set()
        self.ends: set[_End] = set()
        """Those that are open."""
        self._socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self._stopping = asyncio.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="round robin", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: _Accepted(self), sock=self._socket)
        await self._stopping.wait()
        server.close()
        for end in list(self.ends):
            reset(end.transport)
        while self.ends or self._joining:
            await asyncio.sleep(0)

    def join(self, client: _Accepted) -> None:
        """Connects the client to a hub."""
        task = self._loop.create_task(self._join(client))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, client: _Accepted) -> None:
        first = next(self._turns)
        for n in range(len(self._targets)):
            target = self._targets[(first + n) % len(self._targets)]
            try:
                _, hub = await self._loop.create_connection(lambda: _End(self, client), "127.0.0.1", target)
            except OSError:
                continue
            client.joined(hub)
            return
        reset(client.transport)


def reset(transport: asyncio.Transport) -> None:
    """Ends the connection by RST."""
    wire = transport.get_extra_info("socket")
    if wire is not None:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
