"""One WebSocket of a driver, from the handshake to its close code."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from driver_sim.close_codes import ABNORMAL_CLOSURE
from driver_sim.protocol import ConnectionUnusable, DriverProtocol
from driver_sim.settings import ConnectionSettings
from tracking.protocol.codec import encode
from tracking.protocol.driver import Ack, Hello, Welcome
from tracking.protocol.shared import SUBPROTOCOL


class Ending(NamedTuple):
    """Why a connection, or the client's `run`, ended: the close code and its reason. After `stop()` the code is 1000."""

    code: int
    reason: str


def driver_url(hub: str) -> str:
    """The driver socket of a hub: `http://host:8000` -> `ws://host:8000/v1/driver`. Raises `ValueError` for another scheme."""
    parts = urlsplit(hub)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"a hub's address looks like http://127.0.0.1:8000; got {hub!r}")
    path = parts.path.rstrip("/")
    return urlunsplit((scheme, parts.netloc, path if path.endswith("/v1/driver") else path + "/v1/driver", "", ""))


class Connection:
    """Carries the frames of `protocol`. `on_ready` is called when the hub has answered hello."""

    def __init__(self, protocol: DriverProtocol, settings: ConnectionSettings, on_ready: Callable[[], None]) -> None:
        self._protocol = protocol
        self._settings = settings
        self._on_ready = on_ready

    async def run(self, url: str, token: str) -> Ending:
        """Connect, and return when the connection has ended."""
        try:
            socket = await connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"},
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
                compression=None,
                proxy=None,
                user_agent_header="driver_sim",
                open_timeout=self._settings.answer_timeout,
                ping_interval=self._settings.ping_interval,
                ping_timeout=self._settings.ping_timeout,
                close_timeout=self._settings.close_timeout,
            )
        except InvalidStatus as error:
            return Ending(ABNORMAL_CLOSURE, f"the hub answered {error.response.status_code} to the handshake")
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            return Ending(ABNORMAL_CLOSURE, f"no connection: {error or type(error).__name__}")
        try:
            await self._serve(socket)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                return Ending(closed.rcvd.code, closed.rcvd.reason)
            return Ending(ABNORMAL_CLOSURE, "the connection broke" if closed.sent is None else closed.sent.reason)
        except ConnectionUnusable as unusable:
            return Ending(ABNORMAL_CLOSURE, str(unusable))
        finally:
            # `async with` would close with 1011 on cancellation, which is how stop() ends a connection.
            await socket.close()

    async def _serve(self, socket: ClientConnection) -> NoReturn:
        try:
            async with asyncio.timeout(self._settings.answer_timeout):
                await self._await(socket, Welcome)
                await socket.send(encode(Hello(self._protocol.outbox.session)), text=True)
                await self._await(socket, Ack)
        except TimeoutError:
            raise ConnectionUnusable("the hub sent no welcome, or did not answer hello, in time") from None
        self._protocol.begin()
        self._on_ready()
        receiving = asyncio.ensure_future(self._receive(socket))
        sending = asyncio.ensure_future(self._send(socket))
        try:
            done, _ = await asyncio.wait((receiving, sending), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise AssertionError("unreachable: both tasks only end by an exception")
        finally:
            for task in (receiving, sending):
                task.cancel()
            await asyncio.gather(receiving, sending, return_exceptions=True)

    async def _await(self, socket: ClientConnection, kind: type[Struct]) -> None:
        while True:
            message = self._protocol.receive(await socket.recv(decode=False))
            if isinstance(message, kind):
                return

    async def _receive(self, socket: ClientConnection) -> NoReturn:
        while True:
            self._protocol.receive(await socket.recv(decode=False))

    async def _send(self, socket: ClientConnection) -> NoReturn:
        protocol = self._protocol
        while True:
            protocol.wake.clear()
            now = time.monotonic()
            for frame in protocol.frames(now):
                await socket.send(frame, text=True)
            if not protocol.has_more(now):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(protocol.wake.wait(), protocol.pause(now))
