"""uvicorn's HTTP protocol, made impatient and true to the versions of HTTP, and the socket that it listens on."""

import asyncio
import socket
import sys
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tracking.hub.doors import Doors
from tracking.sockets import handshake
from tracking.sockets.server import SocketProtocol

HEADERS_SECONDS = 8.0
"""How long a client may take to send a request's headers."""

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


def listening_socket(config: Config) -> socket.socket:
    """A bound socket whose connections are given up, and held short, by the system itself where it can."""
    listener = config.bind_socket()
    for option, value in _TCP_OPTIONS.items():
        number = getattr(socket, option, None)
        if number is not None:
            listener.setsockopt(socket.IPPROTO_TCP, number, value)
    return listener


class HttpProtocol(HttpToolsProtocol):
    """Closes a connection whose request's headers do not come to an end, and those of who has too many without a WebSocket.

    A request's body counts whatever upgrade it offers, and an answer is framed as its client's version of HTTP knows.
    """

    doors: Doors | None = None
    _late: asyncio.TimerHandle | None = None
    _counted: str | None = None
    _headed = False
    """The headers of the request that is being read are complete."""

    @classmethod
    def guarded(cls, doors: Doors) -> "type[HttpProtocol]":
        """The same class, its connections counted at these doors until they have become WebSockets."""
        return type(cls.__name__, (cls,), {"doors": doors})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if self.doors is not None and self.client is not None:
            if self.doors.come(self.client[0]):
                self._counted = self.client[0]
            else:
                transport.write(_TOO_MANY)
                transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._come()
        self._count_out()
        super().connection_lost(exc)

    def _count_out(self) -> None:
        if self.doors is not None and self._counted is not None:
            self.doors.go(self._counted)
            self._counted = None

    # --- requests ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                    if not self._may_go_on():
                        return
                    head = self._said_without_upgrade()
                    # This parser takes what follows the headers for another protocol's, and drops it where the connection is
                    # not to be kept. It is the request's body, which another one reads.
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    self.parser.feed_data(head)
        except httptools.HttpParserError:
            # Who sends it is told; a line in the log for each would be theirs to write.
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no HTTP request")

    def _may_go_on(self) -> bool:
        """Whether the request that offers an upgrade is to be answered as if it offered none."""
        method = self.parser.get_method()
        free = self.cycle is None or self.cycle.response_complete
        if free and handshake.is_asked_for(method, self.parser.get_http_version(), self.headers):
            self.handle_websocket_upgrade()
            return False
        if method == b"CONNECT":
            self._refuse(HTTPStatus.NOT_IMPLEMENTED, "this is no proxy: CONNECT is not for it")
            return False
        return True

    def _said_without_upgrade(self) -> bytes:
        head = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = handshake.without_upgrade(self.headers)
        return b"\r\n".join((head, *(name + b": " + value for name, value in headers), b"", b""))

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        if not self.transport.is_closing():
            self.transport.write(handshake.refusal(status, detail))
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headed = False
        self._wait()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes after the body is no header of the request (RFC 9110, 6.5.1).
        if not self._headed:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._come()
        self._headed = True
        if self.parser.should_upgrade():
            return  # and what comes of it is seen in `data_received`
        if httptools.parse_url(self.url).path is None:
            # An address in the absolute form, without a path.
            address, mark, query = self.url.partition(b"?")
            self.url = address + b"/" + mark + query
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
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
        self._count_out()
        # It knows us and we know it: left to itself, each such pair waits for the collector.
        self.parser = None  # type: ignore[assignment]

    # --- the client's time ------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEADERS_SECONDS, self.transport.close)

    def _come(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


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
