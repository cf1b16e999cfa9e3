"""A scripted hub for the driver socket: it stores, acknowledges, cuts the connection or closes as a test asks."""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Self

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tracking.model import Fix

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class ScriptedHub:
    """Behaves well until a test sets one of the attributes below. A setting holds until it is changed."""

    def __init__(self) -> None:
        self.stored: dict[str, list[Fix]] = {}
        self.handled: dict[str, int] = {}
        self.frames: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.tokens: list[str] = []
        self.hellos: list[str] = []
        self.connections = 0
        self.live: list[ServerConnection] = []
        self.greeting: dict[str, Any] = {}
        self.statuses: deque[int] = deque()
        """HTTP statuses that refuse the next handshakes."""
        self.closes: deque[int | None] = deque()
        """Close codes for the next connections, sent right after accepting. None cuts the connection without one."""
        self.acknowledging = True
        self.answering = True
        self.reading = True
        self.before_store: Callable[[ServerConnection, list[Fix]], bool] = lambda _connection, _fixes: True
        self.before_ack: Callable[[ServerConnection, list[Fix]], bool] = lambda _connection, _fixes: True
        """If one of these returns False, the connection is cut there."""
        self.reject: Callable[[Fix], str | None] = lambda _fix: None
        self.refuse: Callable[[dict[str, Any]], str | None] = lambda _request: None
        self._changed = asyncio.Condition()
        self._server: Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def start(self) -> None:
        """Listen. After `down` the address is the same as before."""
        self._server = await serve(
            self._serve, "127.0.0.1", self._port, process_request=self._greet, ping_interval=None, close_timeout=0.2
        )
        self._port = next(iter(self._server.sockets)).getsockname()[1]

    async def down(self) -> None:
        assert self._server is not None
        for connection in self.live:
            connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    async def say(self, **message: Any) -> None:
        await self.live[-1].send(_encode(message).decode())

    async def acknowledge(self, seq: int) -> None:
        await self.say(type="ack", seq=seq)

    async def _greet(self, _connection: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        if self.statuses:
            return _connection.respond(HTTPStatus(self.statuses.popleft()), "scripted\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        await self._tell()
        try:
            if self.closes:
                code = self.closes.popleft()
                if code is None:
                    connection.transport.abort()
                else:
                    await connection.close(code, "scripted")
                return
            if not self.reading:
                connection.transport.pause_reading()
            await self._talk(connection)
        except ConnectionClosed:
            pass
        finally:
            if connection in self.live:
                self.live.remove(connection)
            await self._tell()

    async def _talk(self, connection: ServerConnection) -> None:
        greeting = {"type": "welcome", "server_time": 1, "interval": 2.0} | self.greeting
        await connection.send(_encode(greeting).decode())
        hello = _decode(await connection.recv())
        assert hello["type"] == "hello", f"the driver must answer welcome with hello; got {hello}"
        session = hello["session"]
        self.hellos.append(session)
        await connection.send(_encode({"type": "ack", "seq": self.handled.get(session, 0)}).decode())
        self.live.append(connection)
        await self._tell()
        while True:
            raw = await connection.recv(decode=False)
            frame = _decode(raw)
            self.raw.append(raw)
            self.frames.append(frame)
            if frame["type"] in ("position", "positions"):
                elements = frame["positions"] if frame["type"] == "positions" else [frame]
                if not await self._take(connection, session, msgspec.convert(elements, list[Fix])):
                    return
            elif self.answering:
                code = self.refuse(frame)
                refusal = {} if code is None else {"code": code, "detail": "scripted"}
                await connection.send(_encode({"type": "done", "client_id": frame["client_id"]} | refusal).decode())
            await self._tell()

    async def _take(self, connection: ServerConnection, session: str, fixes: list[Fix]) -> bool:
        if not self.before_store(connection, fixes):
            connection.transport.abort()
            return False
        rejected = []
        for fix in fixes:
            if fix.seq > self.handled.get(session, 0):
                self.handled[session] = fix.seq
                code = self.reject(fix)
                if code is None:
                    self.stored.setdefault(session, []).append(fix)
                else:
                    rejected.append({"seq": fix.seq, "code": code, "detail": "scripted"})
        await self._tell()
        if not self.before_ack(connection, fixes):
            connection.transport.abort()
            return False
        if self.acknowledging:
            ack: dict[str, Any] = {"type": "ack", "seq": self.handled[session]}
            await connection.send(_encode(ack | ({"rejected": rejected} if rejected else {})).decode())
        return True

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
