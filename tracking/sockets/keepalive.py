"""Signs of life: every connection of a server is visited once in a while, by one timer for all that are visited as often."""

import asyncio
from typing import Protocol
from weakref import WeakKeyDictionary

from uvicorn.server import ServerState


class Visited(Protocol):
    """A connection that is visited by a timer."""

    def visit(self) -> None: ...


class KeepaliveTimer:
    """Visits every connection of a server every `seconds`, with one timer for all."""

    SLOTS = 20

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._pause = seconds / self.SLOTS
        self._slots: list[set[Visited]] = [set() for _ in range(self.SLOTS)]
        self._now = 0
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def of(server: ServerState, loop: asyncio.AbstractEventLoop, seconds: float) -> "KeepaliveTimer":
        all_of_it = _timers.setdefault(server, {})
        if seconds not in all_of_it:
            all_of_it[seconds] = KeepaliveTimer(loop, seconds)
        return all_of_it[seconds]

    def join(self, protocol: Visited) -> set[Visited]:
        """Visits it in `seconds` from now, and again and again, until it is removed from the returned set."""
        slot = self._slots[self._now - 1]
        slot.add(protocol)
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause, self._visit)
        return slot

    def _visit(self) -> None:
        # The next timer is set first. If one visit fails, the others still take place.
        self._timer = self._loop.call_later(self._pause, self._visit) if any(self._slots) else None
        slot = self._slots[self._now]
        self._now = (self._now + 1) % self.SLOTS
        for protocol in list(slot):
            protocol.visit()


_timers: WeakKeyDictionary[ServerState, dict[float, KeepaliveTimer]] = WeakKeyDictionary()
