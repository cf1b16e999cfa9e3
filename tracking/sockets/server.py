"""uvicorn's WebSocket protocol with limits: on a client's time, on memory, and on what may be negotiated.

`SocketProtocol` is used in two ways: by ASGI's messages, or as a `Wire`. It becomes a wire when its application calls `listen`
on the extension `tracking.wire`. Then the ASGI application returns, and its task, its scope and its queue are freed. What
remains is a protocol, a transport and a listener.

Each part is one class. They are one chain, because a frame must not pay for calls between objects:

    ClosingHandshake (closing) <- FrameReader (frames) <- OpeningHandshake (opening) <- SocketProtocol
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from tracking.errors import CloseCode
from tracking.sockets import handshake
from tracking.sockets.keepalive import KeepaliveTimer, Visited
from tracking.sockets.opening import OpeningHandshake
from tracking.sockets.wire import Listener

SHUTDOWN_SECONDS = 1.0
"""How long a client may take to answer a close frame while the server stops."""

_PING = b"\x89\x00"


class _Nobody:
    """Replaces the ASGI application's queue and event once the application has returned, and discards what it is given."""

    def put_nowait(self, message: object) -> None: ...

    def set(self) -> None: ...

    def clear(self) -> None: ...


_nobody: Any = _Nobody()


class SocketProtocol(OpeningHandshake):
    """One WebSocket: a `Wire` for an application that knows the extension, plain ASGI for any other."""

    __slots__ = ()

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self._pinged = False
        self._slot: set[Visited] | None = None

    # --- the wire ---------------------------------------------------------------------------------------------------

    def listen(self, listener: Listener, high_water: int) -> None:
        self.queue = self.writable = _nobody
        if self.gone:
            listener.lost()
            return
        self._listener = listener
        self.transport.set_write_buffer_limits(high=high_water)
        if self._full:
            listener.full()
        self.release()

    async def served(self) -> None:
        """Returns at once: the connection does not need its application's task."""

    @property
    def write(self) -> Callable[[bytes], None]:
        return self.transport.write

    def pause_writing(self) -> None:
        self._full = True
        super().pause_writing()
        if self._listener is not None:
            self._listener.full()

    def resume_writing(self) -> None:
        self._full = False
        super().resume_writing()
        if self._unsent_pong is not None and not self.close_sent and not self.disconnected:
            pong, self._unsent_pong = self._unsent_pong, None
            self.transport.write(pong)
        if self._listener is not None:
            self._listener.writable()

    # --- keepalive, and the end -------------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        if self.config.ws_ping_interval:
            self._slot = KeepaliveTimer.of(self._server_state, self.loop, self.config.ws_ping_interval).join(self)

    def stop_keepalive(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None

    def visit(self) -> None:
        """Pings a client that sent nothing since the last visit. Closes the connection if the client does not answer either."""
        if self._heard or self._held:
            self._heard = self._pinged = False
        elif self._pinged:
            self._fail(CloseCode.NO_PONG, CloseCode.NO_PONG.reason)
        elif not self.close_sent and not self.transport.is_closing():
            self._pinged = True
            self.transport.write(_PING)

    def shutdown(self) -> None:
        self.close_timeout = SHUTDOWN_SECONDS
        if self._listener is not None:
            self._listener.going_down()
        elif self.handshake_complete and not self.close_sent:
            self._fail(CloseCode.GOING_DOWN, CloseCode.GOING_DOWN.reason)
        elif not self.handshake_complete:
            self._refuse(handshake.refusal(HTTPStatus.SERVICE_UNAVAILABLE, CloseCode.GOING_DOWN.reason))
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_half()
        self.close_sent = True
        self._rest = self._parser = self._on_text = None
        super().connection_lost(exc)
        self._end_for_listener(1006)
