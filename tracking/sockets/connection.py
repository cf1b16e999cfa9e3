"""What every WebSocket of ours shares: who it is, the loop that reads, the task that writes, how it ends."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from tracking.auth import Principal, expired
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable, TokenRefused
from tracking.hub.outbox import Outbox
from tracking.metrics import CLOSED, SOCKET_ERRORS
from tracking.protocol import BEARER_SUBPROTOCOL, SUBPROTOCOL, Done, Error, encode
from tracking.service import Service

logger = logging.getLogger(__name__)

MAX_ERRORS = 50
ERROR_SPAN_MS = 60_000
RETRY_AFTER = 1.0
"""Seconds told to who was `rate_limited`."""
_under_way: set[asyncio.Task[None]] = set()
"""The event loop itself holds its tasks weakly."""
FAREWELL_SECONDS = 5.0
"""How long a closing connection may take to read what it was still owed."""


class Connection:
    """One accepted connection. A subclass says what happens at its `opened`, for each `received` frame, and at its `left`.

    `run` returns when the connection is over. Frames go out through `outbox`, `close` may be called from anywhere; neither
    waits.
    """

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal) -> None:
        self.websocket = websocket
        self.service = service
        self.principal = principal
        self.outbox = Outbox(
            high_water=service.settings.outbox_high_water,
            limit=service.settings.outbox_limit,
            wake=self._wake,
            end=self.close,
        )
        self._writable = asyncio.Event()
        self._closing: SocketClosed | None = None
        self._reader: asyncio.Task[None] | None = None
        self._errors: deque[int] = deque(maxlen=MAX_ERRORS)

    async def opened(self) -> None:
        """Called once, before anything is read. Raises `SocketClosed` to turn the client away."""

    async def received(self, text: str) -> None:
        """One text frame. Raises `Refusal` for an `error`, `SocketClosed` to end."""
        raise NotImplementedError

    def left(self) -> None:
        """Called once, when the connection is over."""

    def send(self, frame: bytes) -> None:
        self.outbox.push(frame)

    def tell_error(self, refusal: Refusal) -> None:
        """Sends an `error`; the fiftieth within a minute ends the connection."""
        SOCKET_ERRORS.labels(refusal.code.value).inc()
        now = self.service.clock()
        self._errors.append(now)
        error = Error(refusal.code.value, refusal.detail)
        if refusal.code is ErrorCode.RATE_LIMITED:
            error.retry_after = RETRY_AFTER
        self.send(encode(error))
        if len(self._errors) == MAX_ERRORS and now - self._errors[0] < ERROR_SPAN_MS:
            raise SocketClosed(CloseCode.BAD_PROTOCOL, f"{MAX_ERRORS} errors within a minute")

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """Ends the connection, after what is still in the outbox. Safe to call twice; the first reason stays."""
        if self._closing is None:
            self._closing = SocketClosed(code, reason)
            self._wake()
            asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._abort)

    def _wake(self) -> None:
        self._writable.set()

    def _abort(self) -> None:
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        self._reader = asyncio.create_task(self._read())
        writer = asyncio.create_task(self._write())
        expiry = asyncio.get_running_loop().call_later(
            max(0.0, (self.principal.expires_at - self.service.clock()) / 1000), self._expire
        )
        self.service.hub.opened(self.principal.jti, self)
        try:
            await asyncio.wait({self._reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done() and self._closing is not None:
                await asyncio.wait({writer}, timeout=FAREWELL_SECONDS)
        finally:
            expiry.cancel()
            self.service.hub.closed(self.principal.jti, self)
            self.left()
            for task in (self._reader, writer):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect):
                    await task

    def _expire(self) -> None:
        self.close(expired(self.principal).close)

    async def _read(self) -> None:
        try:
            await self.opened()
            while True:
                message = await self.websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                if text is None:
                    raise SocketClosed(CloseCode.BINARY_FRAME)
                if self._closing is not None:
                    continue
                try:
                    await self.received(text)
                except Refusal as refusal:
                    self.tell_error(refusal)
        except SocketClosed as closed:
            self.close(closed.code, closed.reason)
        except StoreUnavailable as error:
            logger.warning("a socket was sent away: %s", error)
            self.close(CloseCode.OVERLOADED)
        except WebSocketDisconnect:
            return
        except Exception:
            logger.exception("a fault of ours in a socket's handler")
            self.close(CloseCode.INTERNAL_ERROR)

    async def _write(self) -> None:
        try:
            while True:
                frame = self.outbox.pop()
                if frame is not None:
                    await self.websocket.send({"type": "websocket.send", "text": frame.decode()})
                elif self._closing is not None:
                    CLOSED.labels(str(self._closing.code.value)).inc()
                    await self.websocket.close(self._closing.code, self._closing.reason)
                    return
                else:
                    self._writable.clear()
                    await self._writable.wait()
        except (WebSocketDisconnect, RuntimeError):
            # The client went first.
            return


async def admit(websocket: WebSocket, service: Service) -> Principal | None:
    """Accepts the connection and says who it is; None where it was turned away, with the code that says why."""
    origin = websocket.headers.get("origin")
    if origin is not None and origin not in service.settings.origins and not _same_host(websocket, origin):
        await websocket.close()  # before accepting: answered with 403
        return None
    offered: list[str] = websocket.scope.get("subprotocols", [])
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    try:
        return await service.auth.authenticate(_token(websocket, offered))
    except TokenRefused as refused:
        await refuse(websocket, refused.close)
    except Refusal:
        await refuse(websocket, CloseCode.OVERLOADED)
    return None


async def refuse(websocket: WebSocket, code: CloseCode) -> None:
    CLOSED.labels(str(code.value)).inc()
    await websocket.close(code, code.reason)


def not_yours() -> SocketClosed:
    """The same for what is missing and for what is another's."""
    return SocketClosed(CloseCode.NOT_FOUND)


async def carried_through(request: Coroutine[Any, Any, None]) -> None:
    """Waits for a request that goes on when whoever asked has gone: what was committed must be told to the others."""
    task = asyncio.create_task(request)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    await asyncio.shield(task)


async def done(client_id: str, request: Callable[[], Coroutine[Any, Any, None]]) -> Done:
    """Carries out a request and tells how it ended; while the database is away, that it may be sent again."""
    answer = Done(client_id)
    try:
        await carried_through(request())
    except Refusal as refusal:
        answer.code, answer.detail = refusal.code.value, refusal.detail
    except StoreUnavailable:
        answer.code, answer.detail = ErrorCode.UNAVAILABLE.value, "storage is away: send it again in a while"
    return answer


def _token(websocket: WebSocket, offered: list[str]) -> str | None:
    authorization = websocket.headers.get("authorization", "")
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    for subprotocol in offered:
        if subprotocol.startswith(BEARER_SUBPROTOCOL):
            return subprotocol.removeprefix(BEARER_SUBPROTOCOL)
    return None


def _same_host(websocket: WebSocket, origin: str) -> bool:
    """A page of our own, whatever name or port it was reached by: the browser vouches for both headers."""
    return origin.partition("://")[2] == websocket.headers.get("host")
