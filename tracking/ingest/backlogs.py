"""Backlogs are taken in turns: a part of one vehicle's backlog, then a part of the next vehicle's.

A large frame waits here for its turn. So does a frame for which its vehicle's budget of fixes is spent. Nothing more is read
from its connection meanwhile, so a vehicle occupies no more of memory and of the queue than a frame and some parts.
Current fixes never wait here. At most `most` fixes of all backlogs are before them in the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tracking.ingest.commit_queue import CommitQueue
from tracking.ingest.vehicles import IngestVehicle
from tracking.metrics import BACKLOGS
from tracking.protocol.driver import MAX_BATCH

PART = 100
"""Fixes taken in one step of the event loop, of all backlogs together: less than 2 ms of work."""
SHARE_OF_ALL = 2
"""While nothing can be stored, backlogs may fill this part of the queue, a half. The rest is for current fixes."""
SHARE_OF_ONE = 20
"""The same for the backlog of one vehicle: a twentieth."""
QUIET_SECONDS = 3.0


class Reporter(Protocol):
    """A driver's connection that waits for its turn."""

    def take_part(self, most: int) -> int:
        """Takes up to `most` of the waiting fixes, and joins again if more wait. Returns how many it looked at."""


class _Taken(NamedTuple):
    vehicle: IngestVehicle
    fixes: int
    until: int
    """The value of `CommitQueue.done` from which on they are stored."""


class Backlogs:
    """The turns of all drivers. `most` fixes of backlogs may wait for a commit. `limit` is what the queue holds.

    A thread calls `on_quiet` when all backlogs have been stored for `QUIET_SECONDS`.
    """

    def __init__(self, queue: CommitQueue, *, most: int, limit: int, on_quiet: Callable[[], None] | None = None) -> None:
        self.queue = queue
        self._on_quiet = on_quiet
        self._quiet: asyncio.TimerHandle | None = None
        self._most = max(most, MAX_BATCH)
        self._most_while_away = max(limit // SHARE_OF_ALL, 1)
        self._most_of_one = max(limit // SHARE_OF_ONE, MAX_BATCH)
        self._turns: deque[Reporter] = deque()
        self._taken: deque[_Taken] = deque()
        self._waiting = 0
        self._due = False

    def join(self, reporter: Reporter) -> None:
        """Asks for one turn, in which `take_part` is called once."""
        self._turns.append(reporter)
        self._go_on()

    def join_after(self, seconds: float, reporter: Reporter) -> None:
        asyncio.get_running_loop().call_later(seconds, self.join, reporter)

    def full(self, vehicle: IngestVehicle) -> bool:
        """Whether nothing can be stored, and the limit for this vehicle's backlog, or for all backlogs, is reached."""
        if not self.queue.stalled:
            return False
        return self._waiting >= self._most_while_away or vehicle.waiting >= self._most_of_one

    def took(self, vehicle: IngestVehicle, before: int) -> None:
        """Notes what a backlog has offered to the queue since `CommitQueue.offered` was `before`."""
        until = self.queue.offered
        if until > before:
            self._taken.append(_Taken(vehicle, until - before, until))
            self._waiting += until - before
            vehicle.waiting += until - before

    def progress(self) -> None:
        """To be called when a group is stored, and when a commit fails."""
        done, taken = self.queue.done, self._taken
        stored = False
        while taken and taken[0].until <= done:
            vehicle, count, _ = taken.popleft()
            self._waiting -= count
            vehicle.waiting -= count
            stored = True
        if stored and not taken and not self._turns and self._on_quiet is not None:
            if self._quiet is not None:
                self._quiet.cancel()
            loop = asyncio.get_running_loop()
            self._quiet = loop.call_later(QUIET_SECONDS, loop.run_in_executor, None, self._on_quiet)
        self._go_on()

    def _go_on(self) -> None:
        if self._turns and not self._due and (self._waiting < self._most or self.queue.stalled):
            self._due = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        room = PART
        try:
            while room > 0 and self._turns and (self._waiting < self._most or self.queue.stalled):
                room -= max(1, self._turns.popleft().take_part(room))
        finally:
            self._due = False
            BACKLOGS.set(len(self._turns))
            self._go_on()
