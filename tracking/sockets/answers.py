"""Answers to HTTP clients that need another framing than uvicorn's: old versions, and bodies that are announced."""

import sys
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_ENDLESS = sys.maxsize
"""The length of an answer that ends with its connection."""


def is_endless(cycle: RequestResponseCycle) -> bool:
    """Whether this answer ends with its connection."""
    return cycle.expected_content_length > _ENDLESS // 2


def ended_by_closing(app: Any, cycle: RequestResponseCycle) -> Any:
    """The same application. An answer without a length ends when its connection is closed."""

    async def unchunked(scope: Any, receive: Any, send: Any) -> None:
        async def send_unchunked(message: Any) -> None:
            if message["type"] == "http.response.start":
                if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                    cycle.chunked_encoding = False
                    cycle.expected_content_length = _ENDLESS
            elif is_endless(cycle) and not message.get("more_body", False):
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return unchunked


def with_or_without_body(app: Any, cycle: RequestResponseCycle) -> Any:
    """The same application for a client that waits until it is asked for its body.

    If it is answered without that, nobody knows whether its body comes. So the connection ends (RFC 9110, 10.1.1).
    """

    async def asked(scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, send_last)

    return asked
