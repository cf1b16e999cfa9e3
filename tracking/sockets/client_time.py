"""How long an HTTP client may take over each stage of a request."""

import asyncio
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tracking.sockets import handshake
from tracking.sockets.answers import is_endless
from tracking.sockets.flow import Flow
from tracking.sockets.keepalive import Visited

HEAD_SECONDS = 8.0
"""How long a client may take to send a request's headers."""
SLOW_SECONDS = 20.0
SLOW_BYTES = 8 * 1024
"""A client must send or take this much of an unfinished body in `SLOW_SECONDS`: 3 kbit/s."""
UNWANTED_SECONDS = 10.0
"""How long the rest of a body may continue that was answered before it had arrived."""
FAREWELL_SECONDS = 5.0
"""How long a refused client may continue to send. It must have read the reason by then."""
PATROL_SECONDS = 1.0
"""How often a connection is checked for any of this."""


class Stage(Enum):
    """What a connection waits for."""

    REQUEST = auto()
    """the next request's first byte"""
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    """the hub"""
    UNWANTED = auto()
    """the rest of a body that was answered before it had arrived"""
    FAREWELL = auto()
    """the end of a client that was refused"""


class ClientTime(HttpToolsProtocol):
    """An HTTP connection as far as its client's time goes. `visit` is called every `PATROL_SECONDS`."""

    flow: Flow
    _keepalive_slot: set[Visited] | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._stage = Stage.REQUEST
        self._since = 0.0
        """when the stage began"""
        self._window: tuple[float, int] | None = None
        """when and where a slow client was last seen to make progress"""
        self._body = 0
        """bytes of the body that have arrived"""

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._since = self.loop.time()
        self._window = None

    def visit(self) -> None:
        """Closes the connection if the hub waits for its client, and the client's time is over."""
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._is_to_be_read():
            if self._stage is Stage.REQUEST:
                self._since = now
            # Progress means that less and less is unsent.
            if not self._gets_on(now, -unsent):
                self.transport.abort()
            return
        if self.transport.is_closing():
            return
        waited = now - self._since
        match self._stage:
            case Stage.REQUEST if waited > self.timeout_keep_alive:
                self.transport.close()
            case Stage.HEAD if waited > HEAD_SECONDS:
                self._time_out()
            case Stage.BODY:
                if self.flow.held or self.flow.read_paused or self.cycle.waiting_for_100_continue:
                    self._window = None
                elif not self._gets_on(now, self._body):
                    self._time_out()
            case Stage.UNWANTED if waited > UNWANTED_SECONDS:
                self.transport.close()
            case Stage.FAREWELL if waited > FAREWELL_SECONDS:
                self.transport.close()

    def _is_to_be_read(self) -> bool:
        """Whether an answer waits only for its client. An answer that is made while it is sent has a time limit of its own."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.transport.is_closing():
            return True
        return self.flow.write_paused and not cycle.chunked_encoding and not is_endless(cycle)

    def _gets_on(self, now: float, level: int) -> bool:
        """Whether a level that should rise has risen by `SLOW_BYTES` in the last `SLOW_SECONDS`."""
        if self._window is None or level - self._window[1] >= SLOW_BYTES:
            self._window = now, level
        return now - self._window[0] <= SLOW_SECONDS

    def _time_out(self) -> None:
        if self._give_up_answer():
            self.transport.write(handshake.refusal(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end in time"))
        self.transport.close()

    def _give_up_answer(self) -> bool:
        """Whether another answer may be given in place of the application's, which is given up."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return True
        cycle.disconnected = True
        cycle.message_event.set()
        return not cycle.response_started

    def resume_writing(self) -> None:
        super().resume_writing()
        self._window = None
