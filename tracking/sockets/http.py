"""uvicorn's HTTP protocol, made impatient, frugal and true to the versions of HTTP, and the socket that it listens on.

    data_received -> _rest -> _feed -> the parser, a piece at a time -> one request -> its answer -> the next request

The parser can't be stopped within what it was given. So it is given pieces: none holds more than the end of one request's head,
or of one body. The next request is parsed when the one before is answered. What has come of it meanwhile waits as bytes, and
nothing more is read.
"""

import asyncio
import re
import socket
import sys
from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tracking.downloads import AT_SHUTDOWN, TRANSPORT
from tracking.sockets import handshake
from tracking.sockets.keepalive import KeepaliveTimer, Visited
from tracking.sockets.limits import ConnectionLimits
from tracking.sockets.server import SocketProtocol

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers; and of all that a body in chunks has besides its chunks: extensions and trailers."""
MAX_HEADERS = 100
"""Headers of a request, and trailers after its body."""

HEAD_SECONDS = 8.0
"""How long a client may take to send a request's headers."""
SLOW_SECONDS = 20.0
SLOW_BYTES = 8 * 1024
"""Within so many seconds a client sends, or takes, so many bytes at least of a body that is not at its end: 3 kbit/s."""
UNWANTED_SECONDS = 10.0
"""How long the rest of a body may go on that was answered before it had come."""
FAREWELL_SECONDS = 5.0
"""How long a client that was refused may go on sending, before it must have read why."""
PATROL_SECONDS = 1.0
"""How often a connection is looked at for any of this."""

UNSENT_BYTES = 16 * 1024
"""Unsent bytes of an answer past which its next piece waits. What the system holds besides keeps a fast line busy."""
PIECE_BYTES = 8 * 1024
"""Bytes that the parser is given at once, where it may call back for every few of them."""
TURN_PIECES = 256
TURN_BYTES = 16 * 1024
"""Pieces, and bytes in such pieces, that one connection may have parsed before the others have their turn."""
CHUNK_BYTES = 24
"""Bytes that a chunk may have besides its data without being counted: its length and its line ends."""

_TCP_OPTIONS = {
    # uvloop does it by itself; asyncio does not, for a socket that it did not make.
    "TCP_NODELAY": 1,
    # A peer that takes nothing for so many milliseconds is gone, also where it still answers for its full window.
    "TCP_USER_TIMEOUT": 30_000,
    # Bytes that the system takes beyond what is on its way: what waits there is old when it arrives, and can't be left out.
    "TCP_NOTSENT_LOWAT": 32 * 1024,
}

_ENDLESS = sys.maxsize
"""The length of an answer that ends with its connection."""

_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"

_LINE_ENDS = re.compile(rb"[\r\n]*")
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*\Z", re.ASCII)
"""What a host with its port may be written with (RFC 3986, 3.2.2)."""


class _Stage(Enum):
    """What a connection waits for."""

    REQUEST = auto()
    """the next request's first byte"""
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """the hub"""
    UNWANTED = auto()
    """the rest of a body that was answered before it had come"""
    FAREWELL = auto()
    """the end of who was refused"""


class _Refused(Exception):
    """A request that is not to be read any further."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class _Flow(FlowControl):
    """Reading stops for a body that is not fetched, as uvicorn has it, and for what is held: it goes on when neither is so."""

    held = False

    def hold(self) -> None:
        if not self.held:
            self.held = True
            if not self.read_paused:
                self._transport.pause_reading()

    def release(self) -> None:
        if self.held:
            self.held = False
            if not self.read_paused:
                self._transport.resume_reading()

    def pause_reading(self) -> None:
        if not self.read_paused:
            self.read_paused = True
            if not self.held:
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.held:
                self._transport.resume_reading()


def listening_socket(config: Config) -> socket.socket:
    """A bound socket whose connections are given up, and held short, by the system itself where it can."""
    listener = config.bind_socket()
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            listener.setsockopt(socket.IPPROTO_TCP, number, value)
    return listener


class HttpProtocol(HttpToolsProtocol):
    """Closes connections on which nothing goes on, and those of who has too many without a WebSocket.

    A request's head is bounded, and so is what waits behind it. A request's body counts whatever upgrade it offers, and an
    answer is framed as its client's version of HTTP knows.
    """

    connection_limits: ConnectionLimits | None = None
    flow: _Flow
    _counted: str | None = None
    _keepalive_slot: set[Visited] | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._stage = _Stage.REQUEST
        self._since = 0.0
        """when the stage began"""
        self._window: tuple[float, int] | None = None
        """when and where a slow client was last seen to get on"""
        self._rest = b""
        self._at = 0
        """where in `_rest` the parser goes on"""
        self._end = b""
        """the last two bytes that it was given"""
        self._size = 0
        """bytes of the head; in a body by chunks, of all that is none of its chunks"""
        self._fields = 0
        self._left = 0
        """bytes to come of a body whose length was told"""
        self._body = 0
        """bytes that have come of it"""
        self._at_shutdown: Callable[[], None] | None = None

    @classmethod
    def guarded(cls, connection_limits: ConnectionLimits) -> "type[HttpProtocol]":
        """The same class, its connections counted against these limits until they have become WebSockets."""
        return type(cls.__name__, (cls,), {"connection_limits": connection_limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._enter(_Stage.REQUEST)
        self._keepalive_slot = KeepaliveTimer.of(self.server_state, self.loop, PATROL_SECONDS).join(self)
        if self.connection_limits is not None and self.client is not None:
            if self.connection_limits.admit(self.client[0]):
                self._counted = self.client[0]
            else:
                transport.write(_TOO_MANY)
                transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = b""
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        """It is no HTTP connection any more."""
        if self._keepalive_slot is not None:
            self._keepalive_slot.discard(self)
            self._keepalive_slot = None
        if self.connection_limits is not None and self._counted is not None:
            self.connection_limits.release(self._counted)
            self._counted = None

    # --- what comes in ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._stage is _Stage.FAREWELL:
            return
        if self._at < len(self._rest):
            # Reading had been stopped; it went on for a body that is behind all this.
            self._rest = self._rest[self._at :] + data
            self._at = 0
            return
        self._rest = data
        self._at = 0
        self._feed()

    def _feed(self) -> None:
        """Has the parser take what has come, up to the end of a request that is to be answered first, or for one turn."""
        turn = TURN_BYTES
        for _ in range(TURN_PIECES):
            if self._stage is _Stage.REQUEST and self._at < len(self._rest):
                self._skip_line_ends()
            if self._at == len(self._rest):
                self._rest = b""
                self._at = 0
                self.flow.release()
                return
            if self._stage is _Stage.ANSWER:
                self.flow.hold()
                return
            begin = self._at
            measured = self._left > 0
            self._at = self._end_of_piece()
            try:
                self._parse(self._rest[begin : self._at])
            except _Refused as refused:
                self._refuse(refused.status, refused.detail)
            if self._keepalive_slot is None or self._stage is _Stage.FAREWELL or self.transport.is_closing():
                self._rest = b""
                self._at = 0
                return
            if not measured:
                turn -= self._at - begin
                if turn <= 0:
                    break
        self.flow.hold()
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._keepalive_slot is not None and not self.transport.is_closing():
            self._feed()

    def _skip_line_ends(self) -> None:
        """Empty lines before a request (RFC 9112, 2.2). They are no sign of life."""
        found = _LINE_ENDS.match(self._rest, self._at)
        assert found is not None
        self._size += found.end() - self._at
        self._at = found.end()
        if self._size > MAX_HEAD:
            self._refuse(HTTPStatus.BAD_REQUEST, "these are empty lines: a request was expected")

    def _end_of_piece(self) -> int:
        """Where in `_rest` the next piece ends: with a body, or the first empty line, or as soon as it is long enough."""
        begin, end = self._at, len(self._rest)
        if self._left:
            return min(begin + self._left, end)
        if self._end.endswith(b"\n") and self._rest.startswith(b"\r\n", begin):
            return begin + 2
        if self._end == b"\n\r" and self._rest.startswith(b"\n", begin):
            return begin + 1
        most = min(begin + PIECE_BYTES, end)
        found = self._rest.find(b"\n\r\n", begin, most)
        return found + 3 if found >= 0 else most

    def _parse(self, piece: bytes) -> None:
        """Raises `_Refused`."""
        self._end = (self._end + piece[-2:])[-2:]
        headed = self._stage in (_Stage.BODY, _Stage.UNWANTED)
        if not self._left:
            # In a body, what turns out to be of its chunks is taken off again.
            self._size += len(piece)
            if self._size > MAX_HEAD and not headed:
                raise self._too_large()
        upgrade = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            upgrade = True
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _Refused):
                raise error.__context__ from None
            # Who sends it is told; a line in the log for each would be theirs to write.
            raise _Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request") from None
        if upgrade and self._may_go_on():
            # This parser takes what follows the headers for another protocol's, and drops it where the connection is not to be
            # kept. It is the request's body, which another one reads.
            head = self._said_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._size = 0
            self._parse(head)
        if headed and self._size > MAX_HEAD:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        if len(self.url) > MAX_HEAD // 2:
            return _Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"a request's line and headers have at most {MAX_HEAD} bytes")
        return _Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request's headers, or trailers, have at most {MAX_HEAD} bytes"
        )

    def _may_go_on(self) -> bool:
        """Whether the request that offers an upgrade is to be answered as if it offered none. Raises `_Refused`."""
        method = self.parser.get_method()
        if handshake.is_asked_for(method, self.parser.get_http_version(), self.headers):
            self._check_host()
            self.handle_websocket_upgrade()
            return False
        if method == b"CONNECT":
            raise _Refused(HTTPStatus.NOT_IMPLEMENTED, "this is no proxy: CONNECT is not for it")
        return True

    def _said_without_upgrade(self) -> bytes:
        head = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = handshake.without_upgrade(self.headers)
        return b"\r\n".join((head, *(name + b": " + value for name, value in headers), b"", b""))

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answers the request that is being read, and lets go of whatever else comes for a while.

        To close with bytes unread would reset the line, and lose the answer.
        """
        if self.transport.is_closing():
            return
        if self._stage is _Stage.UNWANTED or not self._give_up_answer():
            self.transport.close()  # it has its answer, or the beginning of one
            return
        self.transport.write(handshake.refusal(status, detail))
        self._rest = b""
        self._at = 0
        self._enter(_Stage.FAREWELL)
        self.flow.resume_reading()
        self.flow.release()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _give_up_answer(self) -> bool:
        """Whether another answer may be given than that which the application may be making."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        cycle.disconnected = True
        cycle.message_event.set()
        return not cycle.response_started

    # --- requests ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0
        if self._stage is _Stage.REQUEST:
            self._enter(_Stage.HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_HEADERS:
            raise _Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request has at most {MAX_HEADERS} headers, or trailers"
            )
        # What comes after the body is no header of the request (RFC 9110, 6.5.1).
        if self._stage is _Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # and what comes of it is seen in `_parse`
        if self._stage is not _Stage.HEAD:
            # No piece holds so much; but if one did, no more than one request would be made of it.
            raise _Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request")
        self._check_host()
        self._size = self._fields = self._body = 0
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._left = int(lengths[0]) if lengths else 0  # the parser has read it
        if httptools.parse_url(self.url).path is None:
            # An address in the absolute form, without a path.
            address, mark, query = self.url.partition(b"?")
            self.url = address + b"/" + mark + query
        self._enter(_Stage.BODY)
        super().on_headers_complete()

    def _check_host(self) -> None:
        """As RFC 9112, 3.2, has it. Raises `_Refused`."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1:
            raise _Refused(HTTPStatus.BAD_REQUEST, "`Host` is there more than once: which of them is meant?")
        if not hosts and self.parser.get_http_version() not in ("0.9", "1.0"):
            raise _Refused(HTTPStatus.BAD_REQUEST, "`Host` is missing: name the host that the request is for")
        if hosts and not _HOST.match(hosts[0].strip()):
            raise _Refused(HTTPStatus.BAD_REQUEST, "`Host` must be a host, and its port where it has one")

    def on_chunk_header(self) -> None:
        self._size -= CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._left:
            self._left -= len(body)
        else:
            self._size -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._size = self._left = 0
        self._enter(_Stage.REQUEST if self.cycle.response_complete else _Stage.ANSWER)

    def on_response_complete(self) -> None:
        # Not uvicorn's own, which makes a timer for each.
        self.server_state.total_requests += 1
        self._at_shutdown = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._stage is _Stage.BODY:
            self._enter(_Stage.UNWANTED)
        elif self._stage is _Stage.ANSWER:
            self._enter(_Stage.REQUEST)
            if self._rest:
                self.loop.call_soon(self._go_on)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions: dict[str, Any] = cycle.scope.setdefault("extensions", {})
        extensions[TRANSPORT] = self.transport
        extensions[AT_SHUTDOWN] = self._tell_at_shutdown
        if cycle.scope["http_version"] != "1.1":
            # It knows of no interim answer and of no chunks (RFC 9110, 10.1.1; RFC 9112, 6.1).
            cycle.waiting_for_100_continue = cycle.keep_alive = False
            app = _ended_by_closing(app, cycle)
        elif cycle.waiting_for_100_continue:
            app = _with_or_without_body(app, cycle)
        super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        if self.ws_protocol_class is not None and issubclass(self.ws_protocol_class, SocketProtocol):
            self.connections.discard(self)
            protocol = self.ws_protocol_class(self.config, self.server_state, self.app_state)
            protocol.take_over(self)
        else:
            super().handle_websocket_upgrade()
        self._leave()
        # It knows us and we know it: left to itself, each such pair waits for the collector.
        self.parser = None  # type: ignore[assignment]

    # --- the client's time ------------------------------------------------------------------------------------------

    def _enter(self, stage: _Stage) -> None:
        self._stage = stage
        self._since = self.loop.time()
        self._window = None

    def visit(self) -> None:
        """Closes the connection if its client has had the time that it has, and it is the client's turn."""
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._is_to_be_read():
            if self._stage is _Stage.REQUEST:
                self._since = now
            # Less and less is unsent.
            if not self._gets_on(now, -unsent):
                self.transport.abort()
            return
        if self.transport.is_closing():
            return
        waited = now - self._since
        match self._stage:
            case _Stage.REQUEST if waited > self.timeout_keep_alive:
                self.transport.close()
            case _Stage.HEAD if waited > HEAD_SECONDS:
                self._time_out()
            case _Stage.BODY:
                if self.flow.held or self.flow.read_paused or self.cycle.waiting_for_100_continue:
                    self._window = None
                elif not self._gets_on(now, self._body):
                    self._time_out()
            case _Stage.UNWANTED if waited > UNWANTED_SECONDS:
                self.transport.close()
            case _Stage.FAREWELL if waited > FAREWELL_SECONDS:
                self.transport.close()

    def _is_to_be_read(self) -> bool:
        """Whether an answer waits for its client alone. One that is made while it goes out has an end of its own."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.transport.is_closing():
            return True
        return self.flow.write_paused and not cycle.chunked_encoding and cycle.expected_content_length < _ENDLESS // 2

    def _gets_on(self, now: float, level: int) -> bool:
        """Whether a level that should rise has risen by `SLOW_BYTES` in the last `SLOW_SECONDS`."""
        if self._window is None or level - self._window[1] >= SLOW_BYTES:
            self._window = now, level
        return now - self._window[0] <= SLOW_SECONDS

    def _time_out(self) -> None:
        if self._give_up_answer():
            self.transport.write(handshake.refusal(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end in time"))
        self.transport.close()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._window = None

    def _tell_at_shutdown(self, told: Callable[[], None]) -> None:
        """An answer that lasts is told when it is to end."""
        self._at_shutdown = told

    def shutdown(self) -> None:
        if self._at_shutdown is not None:
            self._at_shutdown()
        if self._stage is _Stage.FAREWELL:
            self.transport.close()
        else:
            super().shutdown()


def _ended_by_closing(app: Any, cycle: RequestResponseCycle) -> Any:
    """The same application, an answer of its without a length being ended by the connection's end."""

    async def unchunked(scope: Any, receive: Any, send: Any) -> None:
        async def send_unchunked(message: Any) -> None:
            if message["type"] == "http.response.start":
                if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                    cycle.chunked_encoding = False
                    cycle.expected_content_length = _ENDLESS
            elif cycle.expected_content_length > _ENDLESS // 2 and not message.get("more_body", False):
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return unchunked


def _with_or_without_body(app: Any, cycle: RequestResponseCycle) -> Any:
    """The same application for a client that waits to be asked for its body.

    If it is answered without, nobody knows whether its body comes: the connection can't go on (RFC 9110, 10.1.1).
    """

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, send_last)

    return asked
