"""uvicorn's HTTP protocol with limits: on a client's time, on memory, and on connections of one address.

Each part is one class. They are one chain, because a piece of a request must not pay for calls between objects:

    ClientTime (client_time) <- RequestReader (request_reader) <- HttpProtocol
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from tracking.downloads import AT_SHUTDOWN, TRANSPORT
from tracking.sockets.answers import ended_by_closing, with_or_without_body
from tracking.sockets.client_time import PATROL_SECONDS, Stage
from tracking.sockets.flow import Flow
from tracking.sockets.keepalive import KeepaliveTimer
from tracking.sockets.limits import ConnectionLimits
from tracking.sockets.listening import take_in
from tracking.sockets.request_reader import RequestReader
from tracking.sockets.server import SocketProtocol

UNSENT_BYTES = 16 * 1024
"""If more of an answer is unsent, its next piece waits. The system's own buffer keeps a fast line busy."""

_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 10\r\nContent-Length: 0\r\n\r\n"


class HttpProtocol(RequestReader):
    """Closes connections on which nothing happens, and new ones of an address that has too many without a WebSocket.

    An answer is framed as its client's version of HTTP allows.
    """

    connection_limits: ConnectionLimits | None = None
    draining = False
    """Of the class: whether the server stops soon, and each connection ends with its answer."""
    _counted: str | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._at_shutdown: Callable[[], None] | None = None

    @classmethod
    def guarded(cls, connection_limits: ConnectionLimits) -> "type[HttpProtocol]":
        """The same class. Its connections count against these limits until they have become WebSockets."""
        return type(cls.__name__, (cls,), {"connection_limits": connection_limits})

    # --- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.draining:
            take_in(transport.get_extra_info("socket"))
        self.flow = Flow(transport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        self._enter(Stage.REQUEST)
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
        # These refer to the protocol. The garbage collector does not visit old objects (see `cli`), so a circle would stay.
        self.cycle = self.parser = self.scope = None  # type: ignore[assignment]

    def _leave(self) -> None:
        """It is no HTTP connection any more."""
        if self._keepalive_slot is not None:
            self._keepalive_slot.discard(self)
            self._keepalive_slot = None
        if self.connection_limits is not None and self._counted is not None:
            self.connection_limits.release(self._counted)
            self._counted = None

    def handle_websocket_upgrade(self) -> None:
        if self.ws_protocol_class is not None and issubclass(self.ws_protocol_class, SocketProtocol):
            self.connections.discard(self)
            protocol = self.ws_protocol_class(self.config, self.server_state, self.app_state)
            protocol.take_over(self)
        else:
            super().handle_websocket_upgrade()
        self._leave()
        # Parser and protocol refer to each other. Without this, each such pair would wait for the garbage collector.
        self.parser = None  # type: ignore[assignment]

    # --- answers ----------------------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        extensions: dict[str, Any] = cycle.scope.setdefault("extensions", {})
        extensions[TRANSPORT] = self.transport
        extensions[AT_SHUTDOWN] = self._tell_at_shutdown
        if cycle.scope["http_version"] != "1.1":
            # Older versions know no interim answer and no chunks (RFC 9110, 10.1.1; RFC 9112, 6.1).
            cycle.waiting_for_100_continue = cycle.keep_alive = False
            app = ended_by_closing(app, cycle)
        elif cycle.waiting_for_100_continue:
            app = with_or_without_body(app, cycle)
        if self.draining:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        # uvicorn's own method is not called: it makes a timer for each answer.
        self.server_state.total_requests += 1
        self._at_shutdown = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._stage is Stage.BODY:
            self._enter(Stage.UNWANTED)
        elif self._stage is Stage.ANSWER:
            self._enter(Stage.REQUEST)
            if self._rest:
                self.loop.call_soon(self._go_on)

    def _tell_at_shutdown(self, told: Callable[[], None]) -> None:
        """`told` is called when a long answer must end because the server stops."""
        self._at_shutdown = told

    def end_with_answer(self) -> None:
        """If an answer is being made, the connection ends with it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        if self._at_shutdown is not None:
            self._at_shutdown()
        if self._stage is Stage.FAREWELL:
            self.transport.close()
        else:
            super().shutdown()
