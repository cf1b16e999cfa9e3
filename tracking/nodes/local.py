"""A backplane inside one process, with an `Exchange` in the broker's place."""

import asyncio
from collections.abc import Callable

from tracking.nodes.backplane import Receive, lives


class Exchange:
    """What joins the local backplanes of one process, as a broker does."""

    def __init__(self) -> None:
        self._members: dict[str, LocalBackplane] = {}
        self._is_up = True

    def cut(self) -> None:
        """Disconnects all, as the end of a broker does."""
        self._is_up = False
        for member in list(self._members.values()):
            member.disconnect()

    def restore(self) -> None:
        self._is_up = True
        for member in list(self._members.values()):
            member.connect()

    def join(self, node: str, member: "LocalBackplane") -> None:
        self._members[node] = member
        if self._is_up:
            member.connect()

    def leave(self, node: str, member: "LocalBackplane") -> None:
        if self._members.get(node) is member:
            del self._members[node]
        member.disconnect()

    def to_one(self, node: str, data: bytes) -> None:
        member = self._members.get(node)
        if member is not None:
            member.receive_packet(data)

    def to_all(self, sender: "LocalBackplane", data: bytes) -> None:
        for member in list(self._members.values()):
            if member is not sender:
                member.receive_beat(data)


class LocalBackplane:
    """A `Backplane`. A message arrives in the next step of the event loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._beat: Receive = _ignore
        self._packet: Receive = _ignore
        self._changed: Callable[[], None] = lambda: None
        self.connected = False
        self.life = 0
        self.waiting = 0

    async def run(self, node: str, *, beat: Receive, packet: Receive, changed: Callable[[], None]) -> None:
        self._beat, self._packet, self._changed = beat, packet, changed
        self._exchange.join(node, self)
        try:
            await asyncio.Event().wait()
        finally:
            self._exchange.leave(node, self)

    async def send(self, node: str, data: bytes) -> None:
        self._later(len(data), lambda: self._exchange.to_one(node, data))

    async def send_all(self, data: bytes) -> None:
        self._later(len(data), lambda: self._exchange.to_all(self, data))

    async def flush(self) -> None:
        # All that was sent arrives in the next step.
        await asyncio.sleep(0)

    def connect(self) -> None:
        if not self.connected:
            self.connected = True
            self.life = next(lives)
            self._changed()

    def disconnect(self) -> None:
        if self.connected:
            self.connected = False
            self._changed()

    def receive_beat(self, data: bytes) -> None:
        if self.connected:
            self._beat(data)

    def receive_packet(self, data: bytes) -> None:
        if self.connected:
            self._packet(data)

    def _later(self, size: int, deliver: Callable[[], None]) -> None:
        if not self.connected:
            return
        life = self.life
        self.waiting += size

        def arrive() -> None:
            self.waiting -= size
            if self.connected and self.life == life:
                deliver()

        asyncio.get_running_loop().call_soon(arrive)


def _ignore(_: bytes) -> None: ...
