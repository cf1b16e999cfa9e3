"""The way between the supervisor and one worker: a pair of sockets, which also shows each the end of the other."""

import asyncio
import contextlib
import os
import socket
from typing import NamedTuple

READY = b"ready\n"
REFUSED = b"refused "
FAILED = b"failed "
"""Both are followed by the reason, in one line."""
LONGEST = 8_192
"""Bytes of a reason."""


class Inherited(NamedTuple):
    """What a worker inherits. `listener` and `channel` are file numbers.

    A `successor` takes over from a hub that still serves, so it accepts nobody before it is ready.
    """

    listener: int
    channel: int
    successor: bool

    def __str__(self) -> str:
        return f"{self.listener},{self.channel}{',successor' if self.successor else ''}"

    @classmethod
    def parse(cls, text: str) -> "Inherited":
        """What `str` has made. Raises `ValueError`."""
        listener, channel, *rest = text.split(",")
        return cls(int(listener), int(channel), rest == ["successor"])


class Channel:
    """A worker's end."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=number)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)

    def ready(self) -> None:
        """Tells the supervisor that this hub works, and has found the others."""
        self._send(READY)

    def refuse(self, reason: str) -> None:
        """Tells the supervisor why this hub cannot run. A new one with the same settings could not either."""
        self._send(REFUSED + _line(reason))

    def fail(self, reason: str) -> None:
        """Tells the supervisor why this hub ends. A new one may have more luck."""
        self._send(FAILED + _line(reason))

    def end_with_supervisor(self) -> None:
        """From now on this process ends at once when the supervisor is gone. Call it inside the event loop.

        On Linux the kernel does the same, also while the event loop does not run.
        """
        asyncio.get_running_loop().add_reader(self._socket, self._look)

    def _look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                gone = not self._socket.recv(1_024)
            except ConnectionError:
                gone = True
            if gone:
                # What is not acknowledged comes again. Nobody would stop this hub any more.
                os._exit(1)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(message)


def _line(text: str) -> bytes:
    return " ".join(text.split()).encode()[:LONGEST] + b"\n"
