"""Stand-ins for hubs, in virtual time. They note what the supervisor may not do to them."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tracking.workers.slot import READY_SECONDS


@dataclass(frozen=True)
class Way:
    """How a hub behaves, in seconds after its start, or after SIGTERM for `stops`; None: never."""

    ready: float | None = 1.0
    dies: float | None = None
    stops: float | None = 2.0
    refused: bool = False
    cannot_start: bool = False


GOOD = Way()


class StandIn:
    def __init__(self, pid: int, way: Way, source: "StandIns", slot: int, successor: bool) -> None:
        loop = asyncio.get_running_loop()
        self.pid, self.slot, self.successor = pid, slot, successor
        self.way = way
        self.ready: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.reason = "it is refused" if way.refused else None
        self.refused = way.refused
        self.began = loop.time()
        self.asked: float | None = None
        """When it got SIGTERM."""
        self._source = source
        if way.ready is not None:
            loop.call_later(way.ready, self._become_ready)
        if way.dies is not None:
            loop.call_later(way.dies, self.end, 1)

    @property
    def serves(self) -> bool:
        return self.ready.done() and not self.ended.done()

    def end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)

    def terminate(self) -> None:
        source = self._source
        if not source.stopping:
            others = [one for one in source.alive(self.slot) if one is not self]
            source.check([one.serves for one in others] == [True], "a hub was stopped before its successor served")
        if self.asked is None:
            self.asked = asyncio.get_running_loop().time()
            if self.way.stops is not None:
                asyncio.get_running_loop().call_later(self.way.stops, self.end, -signal.SIGTERM)

    def kill(self) -> None:
        now = asyncio.get_running_loop().time()
        if not self._source.may_kill:
            late = self.asked is not None and now - self.asked >= self._source.stop_seconds - 0.001
            unready = self.successor and not self.ready.done() and now - self.began >= READY_SECONDS - 0.001
            self._source.check(late or unready, "a hub was killed that had time left")
        self.end(-signal.SIGKILL)

    def _become_ready(self) -> None:
        if not self.ended.done():
            self.ready.set_result(None)


@dataclass
class StandIns:
    """A `Source`. `ways` gives the behaviour of each start."""

    ways: Iterator[Way]
    stop_seconds: float
    stopping: bool = False
    may_kill: bool = False
    started: list[StandIn] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    """Slots to which connections come."""
    wrongs: list[str] = field(default_factory=list)
    on_start: Callable[[StandIn], None] = lambda _: None

    def start(self, slot: int, *, successor: bool) -> StandIn:
        self.check(not self.stopping, "a hub was started while all stop")
        there = list(self.alive(slot))
        self.check(len(there) <= 1, "a slot has too many hubs")
        self.check(successor or all(one.asked is not None for one in there), "a slot has two hubs that are to stay")
        way = next(self.ways, GOOD)
        self.open.add(slot)
        if way.cannot_start:
            raise OSError("no memory")
        made = StandIn(len(self.started) + 1, way, self, slot, successor)
        self.started.append(made)
        self.on_start(made)
        return made

    def check(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrongs.append(otherwise)

    def withdraw(self, slot: int) -> None:
        stays = [one for one in self.alive(slot) if one.asked is None]
        self.check(not stays or self.stopping, "connections were kept from a hub that lives")
        self.open.discard(slot)

    def alive(self, slot: int) -> Iterator[StandIn]:
        return (one for one in self.started if one.slot == slot and not one.ended.done())
