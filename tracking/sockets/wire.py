"""A wire: one accepted WebSocket as the hub uses it. Ready frames are sent without waiting. Whole messages arrive by a call.

There are two implementations of one interface. `sockets.server.SocketProtocol` is its own wire, offered as the ASGI extension
`EXTENSION`: it needs no task and no queue between transport and listener. `AsgiWire` uses `websocket.send` and `receive`, for
any other server and for test clients.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from tracking.metrics import CLOSED
from tracking.protocol.codec import frame_ends, text_of

FAREWELL_SECONDS = 5.0
"""How long a client may take to read what was written before the close frame."""

EXTENSION = "tracking.wire"
"""The key in an ASGI scope's `extensions` under which a server offers `{"wire": Wire}`."""


class Listener(Protocol):
    """The hub's side of a wire. Every call is made on the event loop, and none may wait."""

    def text_received(self, data: bytes) -> None:
        """One whole text message, as valid UTF-8."""

    def binary_received(self) -> None:
        """A binary message. The hub uses none."""

    def full(self) -> None:
        """More is unsent than the high-water mark. Frames that need not be sent now should wait for `writable`."""

    def writable(self) -> None:
        """Unsent bytes have fallen to the low-water mark, so more may be written."""

    def going_down(self) -> None:
        """The server stops. The listener closes the connection with a code that says so."""

    def lost(self) -> None:
        """The connection is over, or only its close frame is still to be sent. Called once, as the last call."""


class Wire(Protocol):
    """One accepted connection. Messages are held back until `listen`, and between `hold` and `release`."""

    def listen(self, listener: Listener, high_water: int) -> None:
        """From now on `listener` is called. `high_water` is in bytes."""

    async def served(self) -> None:
        """Returns when the ASGI application may return."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Sends a ready frame (`codec.frame`), or several at once, without waiting.

        Must not be called after `close`, or once the wire is lost.
        """

    @property
    def gone(self) -> bool:
        """Whether the client has gone. Before `listen` nobody is told, and writing then raises `RuntimeError`."""

    def hold(self) -> None:
        """Holds back what arrives, without loss, until `release`. The client can fill no memory meanwhile."""

    def release(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        """Sends a close frame after what was written. The connection ends when it is answered, or after a while."""

    def abort(self) -> None:
        """Ends the connection at once, and discards what is unsent."""


def wire_of(websocket: WebSocket) -> Wire:
    """The server's own wire if it offers one."""
    offered = websocket.scope.get("extensions", {}).get(EXTENSION)
    if offered is not None:
        wire: Wire = offered["wire"]
        return wire
    return AsgiWire(websocket)


class AsgiWire:
    """A wire that uses ASGI's messages: one task reads and one task writes, within `served`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._listener: Listener | None = None
        self._high_water = 0
        self._unsent: deque[bytes] = deque()
        self._size = 0
        self._closing: tuple[int, str] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._something = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._over = asyncio.Event()
        self._full = False

    def listen(self, listener: Listener, high_water: int) -> None:
        self._listener = listener
        self._high_water = high_water
        self._tell_full()

    @property
    def write(self) -> Callable[[bytes], None]:
        return self._send

    @property
    def gone(self) -> bool:
        return False  # nothing is written before `served`

    def _send(self, frames: bytes) -> None:
        self._unsent.append(frames)
        self._size += len(frames)
        self._something.set()
        self._tell_full()

    def _tell_full(self) -> None:
        if not self._full and self._listener is not None and self._size > self._high_water:
            self._full = True
            self._listener.full()

    def hold(self) -> None:
        self._may_read.clear()

    def release(self) -> None:
        self._may_read.set()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            CLOSED.labels(str(int(code))).inc()
            self._closing = code, reason
            self._something.set()
            self._late = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.abort)

    def abort(self) -> None:
        self._over.set()

    async def served(self) -> None:
        assert self._listener is not None, "listen comes before served"
        tasks = [asyncio.create_task(work) for work in (self._read(self._listener), self._write(), self._over.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._late is not None:
                self._late.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._listener.lost()

    async def _read(self, listener: Listener) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await self._may_read.wait()
                message = await self._websocket.receive()
                await self._may_read.wait()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    listener.binary_received()
                else:
                    listener.text_received(text.encode())

    async def _write(self) -> None:
        # If the client has gone first, Starlette raises either of these.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while self._closing is None or self._unsent:
                if not self._unsent:
                    self._something.clear()
                    await self._something.wait()
                    continue
                frames = self._unsent.popleft()
                at = 0
                for end in frame_ends(frames):
                    await self._websocket.send({"type": "websocket.send", "text": text_of(frames[at:end]).decode()})
                    at = end
                self._size -= len(frames)
                if self._full and self._size * 4 <= self._high_water and self._listener is not None:
                    self._full = False
                    self._listener.writable()
            await self._websocket.close(*self._closing)
