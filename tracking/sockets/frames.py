"""What a client sends on a WebSocket: bytes to frames, frames to messages.

    data_received -> _parse -+-> an ordinary text frame: unmasked here, straight to the listener
                             +-> anything else, one whole frame at a time: to the parser of `websockets`, which knows every rule

Frames are separated here. So a parser exists only while it has something to judge, and nothing is allocated for a length that
a header only claims.
"""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame
from websockets.protocol import SERVER, Protocol
from websockets.speedups import apply_mask

from tracking.bucket import Bucket
from tracking.errors import CloseCode
from tracking.model import system_clock
from tracking.sockets.closing import ClosingHandshake

HALF_SECONDS = 10.0
"""How long a client may take over one message."""
MAX_FRAGMENTS = 1_024
"""Frames of one message. Each costs time and memory, even an empty one."""
PINGS_PER_SECOND = 10.0
PINGS_AT_ONCE = 100
"""Pings that a client may send. Each is answered."""
MAX_HELD = 256 * 1024
"""Bytes that may be held back. Reading stops long before."""

_TEXT = 0x81
_PONG = 0x8A
_MASKED = 0x80


class FrameReader(ClosingHandshake):
    """A WebSocket as far as it is read. `hold` stops the reading and the parsing, `release` continues both."""

    __slots__ = ()

    _deaf = False
    """Frame boundaries are lost, so everything that arrives is discarded."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self._parser: Protocol | None = None
        self._full = False
        self._max_size = config.ws_max_size
        # Nothing is read from a client until it is let in.
        self._held = True
        self._rest: bytearray | None = None
        self._wanted = 0
        self._begun = False
        self._half: asyncio.TimerHandle | None = None
        self._pings: Bucket | None = None
        self._unsent_pong: bytes | None = None

    @property  # type: ignore[override]
    def conn(self) -> Protocol:
        """The parser of `websockets`, made anew whenever a frame needs it."""
        if self._parser is None:
            self._parser = Protocol(SERVER, max_size=self._max_size, logger=self.logger)
        return self._parser

    @conn.setter
    def conn(self, parser: Protocol | None) -> None:
        self._parser = parser

    # --- bytes to frames --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        on_text = self._on_text
        if on_text is not None and data[0] == _TEXT and len(data) >= 8:
            # Only the ordinary case: one whole masked text frame. Each attribute that is not read here saves time. With
            # thousands of connections none of them is in the processor's cache.
            length = data[1] - _MASKED
            start = 6
            if length == 126:
                length = data[2] << 8 | data[3]
                start = 8
            if length == len(data) - start and data[1] != 0xFF:
                text = apply_mask(data[start:], data[start - 4 : start])
                if text.isascii():
                    on_text(text)
                    return
        if self._deaf:
            pass
        elif self._held:
            self._keep(data)
        elif self._rest is None:
            self._parse(data)
        else:
            self._rest += data
            if len(self._rest) >= self._wanted:
                data, self._rest = bytes(self._rest), None
                self._parse(data)

    def _see_ahead(self) -> None:
        """Decides whether the next frame may be an ordinary one. Called whenever something changes that this depends on."""
        ordinary = not (self._held or self._begun or self.close_sent) and self._rest is None and self._max_size >= 0xFFFF
        self._on_text = self._listener.text_received if ordinary and self._listener is not None else None

    def hold(self) -> None:
        if not self._held:
            self._held = True
            self._on_text = None
            if not self.transport.is_closing():
                self.transport.pause_reading()

    def release(self) -> None:
        if not self._held:
            return
        self._held = False
        self._heard = True
        rest, self._rest = self._rest, None
        if rest:
            self._parse(bytes(rest))
        else:
            self._see_ahead()
        if not self._held and not self.transport.is_closing():
            self.transport.resume_reading()

    def _keep(self, data: bytes) -> None:
        if self._rest is None:
            self._rest = bytearray()
        self._rest += data
        self.transport.pause_reading()
        if len(self._rest) > MAX_HELD:
            self.abort()

    def _parse(self, data: bytes) -> None:
        """Takes whole frames off `data`, and keeps the rest for the next time."""
        at = 0
        size = len(data)
        wanted = 0
        while size - at >= 2:
            first = data[at]
            second = data[at + 1]
            length = second & 0x7F
            start = at + 6
            if length >= 126:
                start = at + (8 if length == 126 else 14)
                if size < start - 4:
                    wanted = start - 4 - at
                    break
                length = int.from_bytes(data[at + 2 : start - 4], "big")
            if length > self._max_size or second < _MASKED:
                # The frame's head is enough to refuse it without waiting for the rest.
                self._judge(data[at : start - 4])
                self._discard_from_now_on()
                return
            end = start + length
            if end > size:
                wanted = end - at
                break
            if first == _TEXT and not self._begun and not self.close_sent:
                self._text(apply_mask(data[start:end], data[start - 4 : start]))
            elif first != _PONG or length >= 126:
                self._judge(data[at:end])
            at = end
            if self._held or self.transport.is_closing():
                break
        if at < size and not self.transport.is_closing():
            self._rest = bytearray(data[at:])
            self._wanted = wanted or 2
        if self._rest is not None or self._begun or self._half is not None:
            self._time_half(at > 0)
        self._see_ahead()

    def _discard_from_now_on(self) -> None:
        """Reads and discards what follows. It may look like anything, also like an answer to our close frame.

        The client sees that we closed our side, and closes its own (RFC 6455 7.1.7). Otherwise it is cut off after a while.
        """
        self._deaf = True
        if self.disconnected and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

    # --- frames to messages -----------------------------------------------------------------------------------------

    def _text(self, data: bytes) -> None:
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "bad UTF-8 in a text frame")
                return
        if self._listener is not None:
            self._listener.text_received(data)
        else:
            self._queue({"type": "websocket.receive", "text": data.decode()})

    def _queue(self, message: Any) -> None:
        self.queue.put_nowait(message)
        # One at a time: `hold` stops the parsing as well as the reading.
        self.hold()

    def _judge(self, frame: bytes) -> None:
        """Applies the rules of the RFC to one frame that is not ordinary, or to the head of one that is refused."""
        kind = frame[0] & 0x0F
        if self.close_sent:
            # Only the answer to our close frame counts now.
            if kind == 8 and len(frame) > 2:
                self.transport.close()
            return
        if kind == 8:
            # A message that was begun need not be finished any more (RFC 6455 7.1.6 knows no such error).
            self._begun = False
            self.frames = []
            self.conn.current_size = None
        elif kind == 9 and not self._may_ping():
            self._fail(CloseCode.TOO_MANY_REQUESTS, CloseCode.TOO_MANY_REQUESTS.reason)
            return
        super().data_received(frame)
        parser = self._parser
        self._begun = parser is not None and parser.current_size is not None
        if not self._begun and not self.close_sent:
            self._parser = None
        if kind == 8:
            # A bad close frame ends the connection too: its sender waits for nothing else.
            self.transport.close()

    def _may_ping(self) -> bool:
        if self._pings is None:
            self._pings = Bucket(PINGS_PER_SECOND, PINGS_AT_ONCE, system_clock())
        return self._pings.take(system_clock())

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.frames = []
            self._fail(1009, f"a message in more than {MAX_FRAGMENTS} fragments")
            return
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        data = b"".join(self.frames)
        self.frames = []
        self._stop_half()
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            self._text(data)
        elif self._listener is not None:
            self._listener.binary_received()
        else:
            self._queue({"type": "websocket.receive", "bytes": data})

    def handle_ping(self) -> None:
        answer = b"".join(self.conn.data_to_send())
        if self._full:
            # A client that does not read gets only the last pong (RFC 6455 5.5.3), when it reads again.
            self._unsent_pong = answer
        else:
            self.transport.write(answer)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._linger()
        self._end_for_listener(1005)

    def handle_parser_exception(self) -> None:
        refused = self.conn.close_sent
        if refused is None:
            self.transport.close()
        else:
            self._fail(refused.code, refused.reason)

    # --- half a message ---------------------------------------------------------------------------------------------

    def _time_half(self, progress: bool) -> None:
        """Limits how long a message may be incomplete, whether it is cut within a frame or between fragments."""
        if not self._begun and (self._rest is None or self._held):
            self._stop_half()
            return
        if progress and not self._begun:
            self._stop_half()  # that was another message's
        if self._half is None and not self.close_sent:
            self._half = self.loop.call_later(HALF_SECONDS, self._too_long)

    def _stop_half(self) -> None:
        if self._half is not None:
            self._half.cancel()
            self._half = None

    def _too_long(self) -> None:
        self._half = None
        self._fail(CloseCode.UNFINISHED_MESSAGE, CloseCode.UNFINISHED_MESSAGE.reason)
