"""What all WebSocket endpoints share: who the client is, its requests, its errors, and how the connection ends."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.websockets import WebSocket

from tracking.audit import Doer
from tracking.auth import Principal, Role, expired
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable, TokenRefused, TrackingError
from tracking.live.reader_queue import ReaderQueue
from tracking.metrics import CLOSED, SOCKET_ERRORS
from tracking.origins import may_open
from tracking.protocol.codec import frame
from tracking.protocol.shared import BEARER_SUBPROTOCOL, SUBPROTOCOL, Done, Error
from tracking.service import Service
from tracking.sockets.wire import Wire, wire_of

logger = logging.getLogger(__name__)

MAX_ERRORS = 50
ERROR_SPAN_MS = 60_000
RETRY_AFTER = 1.0
"""Seconds told to a client that was `rate_limited`, if nothing better is known."""
MAX_REQUESTS = 100
"""Status changes and messages that may wait for the database, per connection."""
FAREWELL_SECONDS = 5.0
"""How long a closing connection may take to read what was sent to it."""

Request = Callable[[], Coroutine[Any, Any, None]]

_under_way: set[asyncio.Task[None]] = set()
"""Tasks under way. The event loop itself has only weak references to them."""


class Connection:
    """One admitted connection. A subclass defines `opened`, `received` for each message, and `left`.

    Only `opened` may wait. What waits for the database goes through `ask`. Frames go out through `queue`. `close` may be called
    from anywhere.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_closing",
        "_errors",
        "_expiry",
        "_over",
        "_requests",
        "_worker",
        "host",
        "principal",
        "queue",
        "service",
        "wire",
    )

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal) -> None:
        self.wire: Wire = wire_of(websocket)
        self.service = service
        self.principal = principal
        self.queue = ReaderQueue(self.wire.write, limit=service.settings.outbox_limit, end=self.close)
        self.host = websocket.client.host if websocket.client is not None else ""
        self._address: str | None = self.host
        self._closing: SocketClosed | None = None
        self._over = False
        self._errors: deque[int] | None = None
        self._requests: deque[Request] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def opened(self) -> None:
        """Called once, before anything is read. Raises `SocketClosed` to refuse the client."""

    def received(self, data: bytes) -> None:
        """Handles one text message. Raises `Refusal` for an `error`, or `SocketClosed` to end the connection."""
        raise NotImplementedError

    def left(self) -> None:
        """Called once, when the connection is over."""

    async def run(self) -> None:
        """Opens the connection. Returns when its ASGI application may; the connection itself may live on."""
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(max(0.0, (self.principal.expires_at - self.service.clock()) / 1000), self._expire)
        too_many = self._is_one_too_many()
        self.service.hub.links.opened(self.principal.jti, self)
        try:
            if too_many:
                raise SocketClosed(CloseCode.TOO_MANY_CONNECTIONS)
            self._spend_connect()
            if self.service.hub.over or self.service.hub.draining:
                raise SocketClosed(CloseCode.GOING_DOWN)
            self._refuse_if_cut_off()
            await self.opened()
            # What was read meanwhile may be older than the refusal.
            self._refuse_if_cut_off()
        except SocketClosed as closed:
            self.close(closed.code, closed.reason)
        except StoreUnavailable as error:
            self._send_away(error)
        except Exception:
            # A client that goes while the database is read gets one more frame in vain. That is no fault.
            if not self.wire.gone:
                self._fault()
        except BaseException:
            self.lost()
            raise
        self.wire.listen(self, self.service.settings.outbox_high_water)
        await self.wire.served()

    def doer(self) -> Doer:
        """The client as the audit names it."""
        return self.service.audit.doer(self.principal, self.host)

    def _is_one_too_many(self) -> bool:
        if self._address is not None and not self.service.connection_limits.admit(self._address):
            self._address = None  # not counted, so `lost` must not release it
            return True
        settings, most = self.service.settings, self.service.settings.connections_per_token
        if self.principal.role is Role.DISPATCHER:
            most = min(most, settings.connections_per_dispatcher)
        return self.service.hub.links.of_token(self.principal.jti) >= most

    def _refuse_if_cut_off(self) -> None:
        if self.service.hub.cut_off and self.principal.role is not Role.DRIVER:
            raise SocketClosed(CloseCode.OVERLOADED, "this hub cannot reach the database and another can: come back")

    def _spend_connect(self) -> None:
        try:
            self.service.budgets.connects.spend(self.principal.jti, self.principal.role)
        except Refusal:
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS) from None

    def send(self, data: bytes) -> None:
        """A ready frame."""
        self.queue.push(data)

    def tell_error(self, refusal: Refusal) -> None:
        """Sends an `error`. The fiftieth within a minute ends the connection."""
        SOCKET_ERRORS.labels(refusal.code.value).inc()
        now = self.service.clock()
        if self._errors is None:
            self._errors = deque(maxlen=MAX_ERRORS)
        self._errors.append(now)
        error = Error(refusal.code.value, refusal.detail)
        if refusal.code is ErrorCode.RATE_LIMITED:
            error.retry_after = RETRY_AFTER if refusal.retry_after is None else refusal.retry_after
        self.send(frame(error))
        if len(self._errors) == MAX_ERRORS and now - self._errors[0] < ERROR_SPAN_MS:
            raise SocketClosed(CloseCode.BAD_PROTOCOL, f"{MAX_ERRORS} errors within a minute")

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """Ends the connection, after what is still in the queue. It may be called twice; the first reason counts."""
        if self._closing is not None:
            return
        self._closing = SocketClosed(code, reason)
        if self.queue.blocked:
            asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._give_up)
        else:
            self._send_close(self._closing)

    def _send_close(self, closing: SocketClosed) -> None:
        self.queue.shut()
        self.wire.close(closing.code, closing.reason)

    def _give_up(self) -> None:
        if not self._over:
            self.wire.abort()

    def _expire(self) -> None:
        self.close(expired(self.principal).close)

    def _send_away(self, error: StoreUnavailable) -> None:
        logger.warning("a socket was sent away: %s", error)
        self.close(CloseCode.OVERLOADED)

    def _fault(self) -> None:
        logger.exception("a fault of ours in a socket's handler")
        self.close(CloseCode.INTERNAL_ERROR)

    # --- called by the wire -----------------------------------------------------------------------------------------

    def text_received(self, data: bytes) -> None:
        if self._closing is not None:
            return
        try:
            self.received(data)
        except Exception as error:
            self._answer_to(error)

    def _answer_to(self, error: Exception) -> None:
        """Handles what a message raised. Called in the exception handler, so that a fault is logged with its traceback."""
        if isinstance(error, Refusal):
            try:
                self.tell_error(error)
            except SocketClosed as closed:
                self.close(closed.code, closed.reason)
        elif isinstance(error, SocketClosed):
            self.close(error.code, error.reason)
        else:
            self._fault()

    def binary_received(self) -> None:
        self.close(CloseCode.BINARY_FRAME)

    def full(self) -> None:
        self.queue.block()

    def writable(self) -> None:
        self.queue.flush()
        if self._closing is not None and not self.queue.blocked:
            self._send_close(self._closing)

    def going_down(self) -> None:
        self.close(CloseCode.GOING_DOWN)

    def lost(self) -> None:
        if self._over:
            return
        self._over = True
        if self._closing is None:
            self._closing = SocketClosed(CloseCode.GOING_DOWN, "gone")  # so that nothing more is taken from it
        if self._expiry is not None:
            self._expiry.cancel()
        if self._worker is not None:
            self._worker.cancel()
            # Both refer back to this object: cycles that would wait for the garbage collector.
            self._worker = self._requests = None
        self.queue.shut()
        if self._address is not None:
            self.service.connection_limits.release(self._address)
        self.service.hub.links.closed(self.principal.jti, self)
        self.left()

    # --- requests that wait for the database, in order, one at a time -----------------------------------------------

    def ask(self, request: Request) -> None:
        """Queues a request of the client. Raises `Refusal` if too many wait."""
        if self._requests is not None and len(self._requests) >= MAX_REQUESTS:
            raise Refusal(ErrorCode.RATE_LIMITED, f"{MAX_REQUESTS} requests wait for an answer: send fewer at once")
        self.ask_ourselves(request)

    def ask_ourselves(self, request: Request) -> None:
        """Queues a request of the hub, in order with those of the client. Must not be called once the connection is over."""
        if self._requests is None:
            self._requests = deque()
        self._requests.append(request)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(self._requests))

    async def _work(self, requests: deque[Request]) -> None:
        while requests:
            try:
                await carried_through(requests[0]())
            except StoreUnavailable:
                pass
            except Exception:
                # A client would send a request without an answer again and again.
                self._fault()
            requests.popleft()
        self._requests = self._worker = None

    async def answer(self, client_id: str, request: Request) -> None:
        """Carries out a request and sends the result. If the database is away, the result says to send it again."""
        answer = Done(client_id)
        try:
            await request()
        except Refusal as refusal:
            answer.code, answer.detail = refusal.code.value, refusal.detail
            if refusal.retry_after is not None:
                answer.retry_after = refusal.retry_after
        except StoreUnavailable:
            answer.code, answer.detail = ErrorCode.UNAVAILABLE.value, "storage is away: send it again in a while"
        self.send(frame(answer))


async def admit(websocket: WebSocket, service: Service) -> Principal | None:
    """Accepts the connection and returns its principal. None if it was refused; the close code says why."""
    origin = websocket.headers.get("origin")
    settings = service.settings
    host = websocket.headers.get("host", "")
    if origin is not None and not may_open(origin, host, settings.origins, public=settings.is_public):
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
    """One answer for what does not exist and for what belongs to somebody else."""
    return SocketClosed(CloseCode.NOT_FOUND)


def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Starts a task, and keeps a reference until it ends."""
    task = asyncio.create_task(work)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return task


async def carried_through(request: Coroutine[Any, Any, None]) -> None:
    """Waits for a request. If the client goes meanwhile, the request is still carried out."""
    task = start(request)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_ended_alone)
        raise


def _ended_alone(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, TrackingError):
        logger.error("a fault of ours in a request whose socket has gone", exc_info=error)


def _token(websocket: WebSocket, offered: list[str]) -> str | None:
    authorization = websocket.headers.get("authorization", "")
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    for subprotocol in offered:
        if subprotocol.startswith(BEARER_SUBPROTOCOL):
            return subprotocol.removeprefix(BEARER_SUBPROTOCOL)
    return None
