"""A WebSocket from its request to its acceptance, and for applications that use ASGI's messages also afterwards.

`handshake` judges the request. The code here answers it, and runs the application.
"""

import asyncio
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected

from tracking.sockets import handshake
from tracking.sockets.frames import FrameReader
from tracking.sockets.wire import EXTENSION

_OF_HANDSHAKE = frozenset(
    (
        *("app", "app_state", "config", "initial_response", "scope", "tasks", "read_paused"),
        *("_accept_key", "_server_state"),
    )
)
"""Attributes that the handshake and the application need, and an open wire does not."""

_FORBIDDEN = handshake.refusal(
    HTTPStatus.FORBIDDEN,
    "no socket of ours, or an origin that may not open one: TRACKING_PUBLIC_URL and TRACKING_ALLOWED_ORIGINS say which may",
)


class OpeningHandshake(FrameReader):
    """A WebSocket as far as it begins."""

    __slots__ = ()

    client: tuple[str, int] | None = None  # the application finds it in its scope
    _accept_key = b""

    def take_over(self, http: HttpToolsProtocol) -> None:
        """Continues the connection of a protocol whose request asks for a WebSocket. Its headers are read to the end."""
        self.transport = http.transport
        self.connections.add(self)
        self.transport.set_protocol(self)
        # Nothing is read from a client until it is let in. So nobody notices if it goes. What is written to it meanwhile finds
        # a transport, though a closed one.
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
        """Answers the handshake by plain HTTP, and ends the connection."""
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
            # A new dictionary, because one that was large stays large.
            self.__dict__ = {name: value for name, value in self.__dict__.items() if name not in _OF_HANDSHAKE}
        else:
            # It refers to this protocol. The garbage collector does not visit old objects, so such a circle would stay.
            self.scope = None  # type: ignore[assignment]

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
            # The parser does not send it: it may have to judge a frame while we are closing.
            if not self.disconnected:
                self.queue.put_nowait({"type": "websocket.disconnect", "code": message.get("code", 1000)})
                self._send_close(message.get("code", 1000), message.get("reason") or "")
            return
        await super().send(message)
