"""What an HTTP client sends: bytes to pieces, pieces to one request after the other, each of bounded size.

    data_received -> _rest -> _feed -> the parser, a piece at a time -> one request -> its answer -> the next request

The parser cannot be stopped within its input. So it gets pieces: none holds more than the end of one request's head, or of one
body. The next request is parsed when the one before is answered. Until then its bytes wait, and nothing more is read.
"""

import asyncio
import re
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from tracking.sockets import handshake
from tracking.sockets.client_time import ClientTime, Stage

MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers. For a body in chunks, also the bytes of its extensions and trailers."""
MAX_HEADERS = 100
"""Headers of a request, and trailers after its body."""
PIECE_BYTES = 8 * 1024
"""Bytes that the parser gets at once if it may call back for every few of them."""
TURN_PIECES = 256
TURN_BYTES = 16 * 1024
"""Pieces, and bytes in them, that are parsed for one connection before the others have their turn."""
CHUNK_BYTES = 24
"""Bytes of a chunk besides its data that are not counted: its length and its line ends."""

_LINE_ENDS = re.compile(rb"[\r\n]*")
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*\Z", re.ASCII)
"""The characters of a host with its port (RFC 3986, 3.2.2)."""


class _Refused(Exception):
    """A request that is not read any further."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class RequestReader(ClientTime):
    """An HTTP connection as far as it is read.

    A request's head is bounded, and so is what waits behind it. A request's body counts whatever upgrade the request offers.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._rest = b""
        self._at = 0
        """where in `_rest` the parser continues"""
        self._end = b""
        """the last two bytes that the parser got"""
        self._size = 0
        """bytes of the head; for a body in chunks, all bytes outside its chunks"""
        self._fields = 0
        self._left = 0
        """bytes still to come of a body with a known length"""

    # --- bytes to pieces --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._stage is Stage.FAREWELL:
            return
        if self._at < len(self._rest):
            # Reading was stopped, and continued for a body that is behind all this.
            self._rest = self._rest[self._at :] + data
            self._at = 0
            return
        self._rest = data
        self._at = 0
        self._feed()

    def _feed(self) -> None:
        """Gives the parser what has arrived, up to the end of a request that must be answered first, or for one turn."""
        turn = TURN_BYTES
        for _ in range(TURN_PIECES):
            if self._stage is Stage.REQUEST and self._at < len(self._rest):
                self._skip_line_ends()
            if self._at == len(self._rest):
                self._rest = b""
                self._at = 0
                self.flow.release()
                return
            if self._stage is Stage.ANSWER:
                self.flow.hold()
                return
            begin = self._at
            measured = self._left > 0
            self._at = self._end_of_piece()
            try:
                self._parse(self._rest[begin : self._at])
            except _Refused as refused:
                self._refuse(refused.status, refused.detail)
            if self._keepalive_slot is None or self._stage is Stage.FAREWELL or self.transport.is_closing():
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
        """Skips empty lines before a request (RFC 9112, 2.2). They are no sign of life."""
        found = _LINE_ENDS.match(self._rest, self._at)
        assert found is not None
        self._size += found.end() - self._at
        self._at = found.end()
        if self._size > MAX_HEAD:
            self._refuse(HTTPStatus.BAD_REQUEST, "these are empty lines: a request was expected")

    def _end_of_piece(self) -> int:
        """Where in `_rest` the next piece ends: after a body, after the first empty line, or when it is long enough."""
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
        headed = self._stage in (Stage.BODY, Stage.UNWANTED)
        if not self._left:
            # In a body, the bytes of its chunks are subtracted again later.
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
            # The client is told. It is not logged, or any client could fill the log.
            raise _Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request") from None
        if upgrade and self._may_go_on():
            # This parser takes what follows the headers for another protocol's. It drops that if the connection is not kept.
            # It is the request's body, so another parser reads it.
            head = self._head_without_upgrade()
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
        """Whether a request that offers an upgrade is answered as if it offered none. Raises `_Refused`."""
        method = self.parser.get_method()
        if handshake.is_asked_for(method, self.parser.get_http_version(), self.headers):
            self._check_host()
            self.handle_websocket_upgrade()
            return False
        if method == b"CONNECT":
            raise _Refused(HTTPStatus.NOT_IMPLEMENTED, "this is no proxy: CONNECT is not for it")
        return True

    def _head_without_upgrade(self) -> bytes:
        head = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = handshake.without_upgrade(self.headers)
        return b"\r\n".join((head, *(name + b": " + value for name, value in headers), b"", b""))

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answers the request that is being read, and discards for a while what else arrives.

        Closing with unread bytes would reset the connection, and the answer would be lost.
        """
        if self.transport.is_closing():
            return
        if self._stage is Stage.UNWANTED or not self._give_up_answer():
            self.transport.close()  # it has its answer, or the beginning of one
            return
        self.transport.write(handshake.refusal(status, detail))
        self._rest = b""
        self._at = 0
        self._enter(Stage.FAREWELL)
        self.flow.resume_reading()
        self.flow.release()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # --- called by the parser ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0
        if self._stage is Stage.REQUEST:
            self._enter(Stage.HEAD)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > MAX_HEADERS:
            raise _Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request has at most {MAX_HEADERS} headers, or trailers"
            )
        # A trailer is no header of the request (RFC 9110, 6.5.1).
        if self._stage is Stage.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # `_parse` handles it
        if self._stage is not Stage.HEAD:
            # No piece can hold so much. If one did, still only one request would be made of it.
            raise _Refused(HTTPStatus.BAD_REQUEST, "this is no HTTP request")
        self._check_host()
        self._size = self._fields = self._body = 0
        lengths = [value for name, value in self.headers if name == b"content-length"]
        self._left = int(lengths[0]) if lengths else 0  # the parser has checked it
        if httptools.parse_url(self.url).path is None:
            # An address in the absolute form, without a path.
            address, mark, query = self.url.partition(b"?")
            self.url = address + b"/" + mark + query
        self._enter(Stage.BODY)
        super().on_headers_complete()

    def _check_host(self) -> None:
        """Checks `Host` as RFC 9112, 3.2, requires it. Raises `_Refused`."""
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
        self._enter(Stage.REQUEST if self.cycle.response_complete else Stage.ANSWER)
