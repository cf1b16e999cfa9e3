"""uvicorn's WebSocket protocol, made impatient, frugal and short of ways.

`SocketProtocol` may be used in two ways: by ASGI's messages, as any; or as a `Wire`, once its application has called `listen`
on the extension `tracking.wire`. Then the ASGI application returns, and with it go its task, its scope and its queue: what
stays is a protocol, a transport and a listener.

    data_received -> _parse -+-> an ordinary text frame: unmasked here, straight to the listener
                             +-> anything else, one whole frame at a time: to the parser of `websockets`, which knows every rule

Frames are told apart here, so that the parser is only there while it has something to judge, and so that nothing is ever
allocated for a length that a header merely claims.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, Protocol
from websockets.speedups import apply_mask

from tracking.bucket import Bucket
from tracking.errors import CloseCode
from tracking.metrics import CLOSED
from tracking.model import system_clock
from tracking.sockets import handshake
from tracking.sockets.keepalive import KeepaliveTimer, Visited
from tracking.sockets.wire import EXTENSION, Listener

HALF_SECONDS = 10.0
"""How long a client may take over one message."""
FAREWELL_SECONDS = 5.0
"""How long a client may take to answer a close frame."""
SHUTDOWN_SECONDS = 1.0
"""The same while the server goes down."""
MAX_FRAGMENTS = 1_024
"""Frames of one message. Each costs time and memory here, however little is in it."""
PINGS_PER_SECOND = 10.0
PINGS_AT_ONCE = 100
"""Pings that a client may send: each wants an answer."""
MAX_HELD = 256 * 1024
"""Bytes that may be held back; reading stops long before."""

_OF_HANDSHAKE = frozenset(
    (
        *("app", "app_state", "config", "initial_response", "scope", "tasks", "read_paused"),
        *("_accept_key", "_server_state"),
    )
)
"""Attributes that the handshake and the application need, and an open wire does not."""

_logger = logging.getLogger("uvicorn.error")
_FORBIDDEN = handshake.refusal(
    HTTPStatus.FORBIDDEN,
    "no socket of ours, or an origin that may not open one: TRACKING_PUBLIC_URL and TRACKING_ALLOWED_ORIGINS say which may",
)

_TEXT = 0x81
_PONG = 0x8A
_MASKED = 0x80
_PING = b"\x89\x00"


class _Nobody:
    """Stands where the ASGI application's queue and event were, and takes what is for nobody."""

    def put_nowait(self, message: object) -> None: ...

    def set(self) -> None: ...

    def clear(self) -> None: ...


_nobody: Any = _Nobody()


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. A `Wire` for who knows the extension, plain ASGI for who does not."""

    # What every frame looks at, in the object itself: the dictionary of the rest is then not fetched from memory.
    __slots__ = ("_heard", "_on_text")

    client: tuple[str, int] | None = None  # the application sees it in its scope
    _accept_key = b""
    _deaf = False
    """Where one frame ends and the next begins is not known any more: whatever comes is let go."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        # Not uvicorn's own: it makes a parser of handshakes, and more for the ways that are not ours.
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
        self._parser: Protocol | None = None
        self._full = False
        self._on_text: Callable[[bytes], None] | None = None
        """Whom an ordinary frame goes to; None while there is anything that makes the next frame no ordinary one."""
        self._max_size = config.ws_max_size
        self._listener: Listener | None = None
        # Until somebody asks for what comes: who is not let in is not listened to.
        self._held = True
        self._rest: bytearray | None = None
        self._wanted = 0
        self._begun = False
        self._half: asyncio.TimerHandle | None = None
        self._pings: Bucket | None = None
        self._owed_pong: bytes | None = None
        self._heard = True
        self._pinged = False
        self._slot: set[Visited] | None = None

    @property  # type: ignore[override]
    def conn(self) -> Protocol:
        """The parser of `websockets`, made anew whenever a frame needs it."""
        if self._parser is None:
            self._parser = Protocol(SERVER, max_size=self._max_size, logger=self.logger)
        return self._parser

    @conn.setter
    def conn(self, parser: Protocol | None) -> None:
        self._parser = parser

    # --- the handshake ----------------------------------------------------------------------------------------------

    def take_over(self, http: HttpToolsProtocol) -> None:
        """Goes on with the connection of a protocol whose request, read to the end of its headers, asks for a WebSocket."""
        self.transport = http.transport
        self.connections.add(self)
        self.transport.set_protocol(self)
        # Who is not let in is not listened to. Nor is it noticed that it goes: what is written to it meanwhile finds a
        # transport, if a dead one.
        self.transport.pause_reading()
        try:
            self._accept_key = handshake.accept_key(http.headers)
        except handshake.BadHandshake as bad:
            self._refuse(bad.answer)
            return
        url = httptools.parse_url(http.url)
        path = url.path or b"/"
        self.scope = {
            "type": "websocket",
            "asgi": {"version": http.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if http.scheme == "https" else "ws",
            "server": http.server,
            "client": http.client,
            "root_path": http.root_path,
            "path": http.root_path + unquote(path.decode("ascii")),
            "raw_path": http.root_path.encode("ascii") + path,
            "query_string": url.query or b"",
            "headers": http.headers,
            "subprotocols": [
                offered.strip().decode("latin-1")
                for name, value in http.headers
                if name == b"sec-websocket-protocol"
                for offered in value.split(b",")
            ],
            "state": self.app_state.copy(),
            "extensions": {EXTENSION: {"wire": self}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def _refuse(self, answer: bytes) -> None:
        """Answers the handshake by plain HTTP, and ends."""
        self.handshake_complete = self.close_sent = True
        self.transport.write(answer)
        self.transport.close()

    def send_500_response(self) -> None:
        if not self.handshake_complete:
            self._refuse(handshake.refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault in the hub; it was logged"))

    def _accept(self, message: Any) -> None:
        head = [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + self._accept_key,
        ]
        subprotocol = message.get("subprotocol")
        if subprotocol:
            head.append(b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1"))
        head += [name + b": " + value for name, value in (*self._server_state.default_headers, *message.get("headers", ()))]
        self.handshake_complete = True
        self.transport.write(b"\r\n".join((*head, b"", b"")))
        self.start_keepalive()

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not self.handshake_complete:
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if self._listener is None and self.close_timer is None:
            self.transport.close()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        if self._listener is not None:
            # A new dictionary, because one that was large stays so.
            self.__dict__ = {name: value for name, value in self.__dict__.items() if name not in _OF_HANDSHAKE}

    async def receive(self) -> Any:
        if self.handshake_complete and self.queue.empty():
            self.release()
        return await super().receive()

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if not self.handshake_complete:
            if self.transport.is_closing():
                raise ClientDisconnected
            if kind == "websocket.accept":
                self._accept(message)
            elif kind == "websocket.close":
                self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
                self._refuse(_FORBIDDEN)
            else:
                raise RuntimeError(f"expected websocket.accept or websocket.close, got {kind}")
            return
        if kind == "websocket.close" and self._listener is None:
            # Not by the parser: it may have to judge a frame while we are closing.
            if not self.disconnected:
                self.queue.put_nowait({"type": "websocket.disconnect", "code": message.get("code", 1000)})
                self._say_goodbye(message.get("code", 1000), message.get("reason") or "")
            return
        await super().send(message)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._heard = True
        on_text = self._on_text
        if on_text is not None and data[0] == _TEXT and len(data) >= 8:
            # The ordinary case, and nothing else: one whole masked text frame. Each attribute not looked at counts, because
            # with thousands of connections none of them is in the processor's cache.
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
        """To be called whenever something changes that makes the next frame an ordinary one, or no longer."""
        ordinary = not (self._held or self._begun or self.close_sent) and self._rest is None and self._max_size >= 0xFFFF
        self._on_text = self._listener.text_received if ordinary and self._listener is not None else None

    def _keep(self, data: bytes) -> None:
        if self._rest is None:
            self._rest = bytearray()
        self._rest += data
        self.transport.pause_reading()
        if len(self._rest) > MAX_HELD:
            self.abort()

    def _parse(self, data: bytes) -> None:
        """Takes whole frames off `data`, and keeps what is left for the next time."""
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
                # Its head is enough to refuse it, and there is no waiting for the rest.
                self._judge(data[at : start - 4])
                self._turn_deaf()
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

    def _turn_deaf(self) -> None:
        """What follows may look like anything, also like an answer to our goodbye, so it is read and let go.

        The client sees our end of the line closed, and closes its own (RFC 6455 7.1.7); or is cut off after a while.
        """
        self._deaf = True
        if self.disconnected and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()

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
        # One at a time: by `hold`, which stops the parsing as well as the reading.
        self.hold()

    def _judge(self, frame: bytes) -> None:
        """One frame that is not ordinary, or the head of one that is to be refused: whatever the RFC says of it."""
        kind = frame[0] & 0x0F
        if self.close_sent:
            # All that counts now is the answer to our goodbye.
            if kind == 8 and len(frame) > 2:
                self.transport.close()
            return
        if kind == 8:
            # A message that was begun is not to be finished any more (RFC 6455 7.1.6 knows no such error).
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
            # Also after a bad one: its sender waits for the end of the line, and for nothing else.
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
            # Who does not read needs no more than the last (RFC 6455 5.5.3), once it does.
            self._owed_pong = answer
        else:
            self.transport.write(answer)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        self._linger()
        self._let_go(1005)

    def handle_parser_exception(self) -> None:
        refused = self.conn.close_sent
        if refused is None:
            self.transport.close()
        else:
            self._fail(refused.code, refused.reason)

    def _time_half(self, progress: bool) -> None:
        """Half a message may not stay half for long, be it cut within a frame or between fragments."""
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
        """At once: the connection lives on without its application's task."""

    @property
    def gone(self) -> bool:
        return self.disconnected or self.transport.is_closing()

    @property
    def write(self) -> Callable[[bytes], None]:
        return self.transport.write

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

    def close(self, code: int, reason: str) -> None:
        if not self.close_sent and not self.transport.is_closing():
            CLOSED.labels(str(int(code))).inc()
            self._say_goodbye(code, reason)

    def _fail(self, code: int, reason: str) -> None:
        """Ends the connection for something that nobody but this protocol knows of."""
        self.close(code, reason)
        self._let_go(code)

    def _let_go(self, code: int) -> None:
        """For whoever is at our end it is over: a goodbye may still be on its way, but nothing may be written after it."""
        self.disconnected = True
        self._on_text = None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": int(code)})
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost()

    def _say_goodbye(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.close_sent = True
        self._on_text = self._parser = None
        self._stop_half()
        self.transport.write(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False))
        self.close_timer = self.loop.call_later(self.close_timeout, self.abort)
        # What is on its way is read, and let go: to close with bytes unread would reset the line, and lose our goodbye.
        self.release()

    def abort(self) -> None:
        self.transport.abort()

    def _linger(self) -> None:
        """Gives what is unsent a while, but no more: a peer that never reads would hold it for ever."""
        if self.close_timer is None:
            self.close_timer = self.loop.call_later(self.close_timeout, self.abort)

    def pause_writing(self) -> None:
        self._full = True
        super().pause_writing()
        if self._listener is not None:
            self._listener.full()

    def resume_writing(self) -> None:
        self._full = False
        super().resume_writing()
        if self._owed_pong is not None and not self.close_sent and not self.disconnected:
            pong, self._owed_pong = self._owed_pong, None
            self.transport.write(pong)
        if self._listener is not None:
            self._listener.writable()

    # --- signs of life, and the end -----------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        if self.config.ws_ping_interval:
            self._slot = KeepaliveTimer.of(self._server_state, self.loop, self.config.ws_ping_interval).join(self)

    def stop_keepalive(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None

    def visit(self) -> None:
        """Who has said anything since the last time is alive; who has not is asked, and the next time taken for dead."""
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
        self._let_go(1006)
