"""Judges the opening handshake of a WebSocket (RFC 6455, 4) by headers that the HTTP parser has read.

`headers` are pairs of a name in lower case and a value as it was sent.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from tracking.errors import ErrorCode

Headers = Sequence[tuple[bytes, bytes]]

VERSION = b"13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
_OF_UPGRADE = frozenset((b"upgrade", b"http2-settings"))
"""Connection options and headers that concern only an upgrade."""
_CODES = {
    HTTPStatus.FORBIDDEN: ErrorCode.FORBIDDEN,
    HTTPStatus.INTERNAL_SERVER_ERROR: ErrorCode.UNAVAILABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: ErrorCode.UNAVAILABLE,
}


class BadHandshake(Exception):
    """A request for a WebSocket that breaks the RFC. `answer` is the whole HTTP response."""

    def __init__(self, status: HTTPStatus, detail: str, *headers: bytes) -> None:
        super().__init__(detail)
        self.answer = refusal(status, detail, *headers)


def is_asked_for(method: bytes, version: str, headers: Headers) -> bool:
    """Whether a request with an upgrade asks for a WebSocket: a GET of HTTP/1.1 without a body.

    Any other upgrade is ignored, and the request is answered without it (RFC 9110, 7.8).
    """
    return (
        method == b"GET"
        and version == "1.1"
        and b"websocket" in options(headers, b"upgrade")
        and not any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)
    )


def without_upgrade(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers of the same request without its offer of an upgrade."""
    kept = [(name, value) for name, value in headers if name not in _OF_UPGRADE and name != b"connection"]
    connection = [option for option in options(headers, b"connection") if option not in _OF_UPGRADE]
    return [*kept, (b"connection", b", ".join(connection))] if connection else kept


def accept_key(headers: Headers) -> bytes:
    """`Sec-WebSocket-Accept` for this request. Raises `BadHandshake`."""
    versions = _values(headers, b"sec-websocket-version")
    if versions != [VERSION]:
        raise BadHandshake(
            HTTPStatus.UPGRADE_REQUIRED,
            "`Sec-WebSocket-Version` must be 13: use a WebSocket client of RFC 6455",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: " + VERSION,
        )
    keys = _values(headers, b"sec-websocket-key")
    try:
        good = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == _KEY_BYTES
    except binascii.Error:
        good = False
    if not good:
        raise BadHandshake(HTTPStatus.BAD_REQUEST, "`Sec-WebSocket-Key` must be there once, and be 16 bytes in base64")
    if len(_values(headers, b"origin")) > 1:
        raise BadHandshake(HTTPStatus.BAD_REQUEST, "`Origin` is there more than once")
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def refusal(status: HTTPStatus, detail: str, *headers: bytes) -> bytes:
    """A whole HTTP response that refuses a request and ends its connection. It has the form of all HTTP errors."""
    body = msgspec.json.encode({"error": {"code": _CODES.get(status, ErrorCode.BAD_FIELD).value, "detail": detail}})
    head = (
        b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
        *headers,
        b"Connection: close",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
    )
    return b"\r\n".join((*head, b"", body))


def options(headers: Headers, wanted: bytes) -> list[bytes]:
    """The members of a header that is a comma-separated list, in lower case."""
    return [option.strip().lower() for value in _values(headers, wanted) for option in value.split(b",")]


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value.strip() for name, value in headers if name == wanted]
