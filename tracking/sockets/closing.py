"""The closing handshake of a WebSocket (RFC 6455, 7), and the state that all parts of `SocketProtocol` share."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol

from tracking.metrics import CLOSED
from tracking.sockets.wire import Listener

FAREWELL_SECONDS = 5.0
"""How long a client may take to answer a close frame."""

_logger = logging.getLogger("uvicorn.error")


class ClosingHandshake(WebSocketsSansIOProtocol):
    """A WebSocket as far as it ends. The hub sends at most one close frame, and nothing after it."""

    # Each frame reads these two. As slots they are in the object itself, so the dictionary need not be fetched from memory.
    __slots__ = ("_heard", "_on_text")

    _parser: Protocol | None

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        # uvicorn's own constructor is not called: it makes a parser of handshakes, and other objects that the hub does not use.
        self.config = config
        self.app = config.loaded_app
        self.loop = asyncio.get_running_loop()
        self.logger = _logger
        self.app_state = app_state
        self._server_state = server_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.queue = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        self.handshake_complete = False
        self.close_sent = False
        self.disconnected = False
        self.close_timer = None
        self.close_timeout = FAREWELL_SECONDS
        self.initial_response = None
        self.read_paused = False
        self.frames = []
        self.curr_msg_data_type = "bytes"
        self._on_text: Callable[[bytes], None] | None = None
        """Receives ordinary frames. None while the next frame cannot be an ordinary one."""
        self._listener: Listener | None = None
        self._heard = True

    def release(self) -> None:
        raise NotImplementedError

    def _stop_half(self) -> None:
        raise NotImplementedError

    @property
    def gone(self) -> bool:
        return self.disconnected or self.transport.is_closing()

    def close(self, code: int, reason: str) -> None:
        if not self.close_sent and not self.transport.is_closing():
            CLOSED.labels(str(int(code))).inc()
            self._send_close(code, reason)

    def _fail(self, code: int, reason: str) -> None:
        """Ends the connection for a reason that only this protocol knows."""
        self.close(code, reason)
        self._end_for_listener(code)

    def _end_for_listener(self, code: int) -> None:
        """Tells the listener or the application that it is over. Our close frame may be on its way; nothing may follow it."""
        self.disconnected = True
        self._on_text = None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code)})
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost()

    def _send_close(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.close_sent = True
        self._on_text = self._parser = None
        self._stop_half()
        self.transport.write(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False))
        self.close_timer = self.loop.call_later(self.close_timeout, self.abort)
        # What is on its way is read and discarded. To close with unread bytes would reset the connection, and our close frame
        # would be lost.
        self.release()

    def abort(self) -> None:
        self.transport.abort()

    def _linger(self) -> None:
        """Gives unsent bytes a limited time. Otherwise a client that never reads would keep them forever."""
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(self.close_timeout, self.abort)
