"""Hubs as workers: how each is started, and what it tells the supervisor."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping

from tracking.workers.channel import FAILED, READY, REFUSED, Inherited
from tracking.workers.children import Child, Children
from tracking.workers.port import Port

NAME_LENGTH = 100
"""The longest name of a hub, in characters."""


class HubWorker:
    """A `Worker`: a process, and the supervisor's end of its channel."""

    def __init__(self, child: Child, channel: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.pid = child.pid
        self.ended = child.ended
        self.ready: asyncio.Future[None] = loop.create_future()
        self.reason: str | None = None
        self.refused = False
        self._child = child
        self._channel = channel
        self._read = b""
        channel.setblocking(False)
        loop.add_reader(channel, self._hear)
        # The first of those who are told of the end: its last words are read before.
        self.ended.add_done_callback(self._close)

    def terminate(self) -> None:
        self._child.signal(signal.SIGTERM)

    def kill(self) -> None:
        self._child.signal(signal.SIGKILL)

    def _hear(self) -> None:
        try:
            data = self._channel.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._channel)
        *lines, self._read = (self._read + data).split(b"\n")
        for line in lines:
            if line + b"\n" == READY and not self.ready.done():
                self.ready.set_result(None)
            for beginning in (REFUSED, FAILED):
                if line.startswith(beginning):
                    self.reason = line.removeprefix(beginning).decode(errors="replace")
                    self.refused = beginning == REFUSED

    def _close(self, _: object) -> None:
        self._hear()
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()


class Hubs:
    """A `Source`: starts `tracking serve` on `port`, with a socket for each slot that lives as long as the supervisor.

    A worker and its successor accept from the same socket. So no connection that waits there is lost when a worker ends.
    """

    def __init__(self, children: Children, port: Port, environment: Mapping[str, str], name: str) -> None:
        """`name` is that of the host. A slot adds its number."""
        self._children = children
        self._port = port
        self._environment = environment
        self._name = name
        self._listeners: dict[int, socket.socket] = {}

    def start(self, slot: int, *, successor: bool) -> HubWorker:
        listener = self._listeners.get(slot)
        if listener is None:
            listener = self._listeners[slot] = self._port.listen()
        suffix = f"/{slot}"
        environment = {**self._environment, "TRACKING_NODE_NAME": self._name[: NAME_LENGTH - len(suffix)] + suffix}
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as stack:
            stack.push(ours)
            with theirs:
                inherited = Inherited(listener.fileno(), theirs.fileno(), successor)
                child = self._children.start([*_command(), str(inherited)], environment, inherited[:2])
            stack.pop_all()
        return HubWorker(child, ours)

    def withdraw(self, slot: int) -> None:
        listener = self._listeners.pop(slot, None)
        if listener is not None:
            listener.close()


def _command() -> list[str]:
    # The working directory is searched for modules only if it was for this process.
    isolated = ["-P"] if getattr(sys.modules["__main__"], "__spec__", None) is None else []
    return [sys.executable, *isolated, "-m", "tracking.cli", "serve", "--inherited"]
