"""Turns for those who report more than what happens now: backlogs are taken a part at a time, one vehicle after the other.

A large frame waits here for its turn, and so does a frame that its vehicle's budget of fixes has no room for. Meanwhile nothing
more is read of its connection, so that a vehicle holds the hub's memory and its queue by no more than a frame and some parts.
What comes as it happens never waits here: at most `most` fixes of all backlogs lie before it in the recorder's queue.
"""

import asyncio
from collections import deque
from typing import NamedTuple, Protocol

from tracking.ingest.commit_queue import CommitQueue
from tracking.ingest.vehicles import IngestVehicle
from tracking.metrics import BACKLOGS
from tracking.protocol.driver import MAX_BATCH

PART = 100
"""Fixes taken in one step of the event loop, of all backlogs together: less than 2 ms of work."""
SHARE_OF_ALL = 2
"""While nothing can be stored, backlogs may fill the queue by this part of it, a half; the rest is for what happens now."""
SHARE_OF_ONE = 20
"""The same for the backlog of one vehicle, a twentieth."""


class Reporter(Protocol):
    """Whoever waits for its turn: a driver's connection."""

    def take_part(self, most: int) -> int:
        """Takes up to `most` of the fixes that wait, and joins again where more do. How many it looked at."""


class _Taken(NamedTuple):
    vehicle: IngestVehicle
    fixes: int
    until: int
    """What the recorder has done when they are stored."""


class Backlogs:
    """The turns of all drivers. `most` fixes of backlogs may wait for a commit; `limit` is what the recorder's queue holds."""

    def __init__(self, queue: CommitQueue, *, most: int, limit: int) -> None:
        self.queue = queue
        self._most = max(most, MAX_BATCH)
        self._most_while_away = max(limit // SHARE_OF_ALL, 1)
        self._most_of_one = max(limit // SHARE_OF_ONE, MAX_BATCH)
        self._turns: deque[Reporter] = deque()
        self._taken: deque[_Taken] = deque()
        self._waiting = 0
        self._due = False

    def join(self, reporter: Reporter) -> None:
        """Its `take_part` is called when it is its turn, once."""
        self._turns.append(reporter)
        self._go_on()

    def join_after(self, seconds: float, reporter: Reporter) -> None:
        asyncio.get_running_loop().call_later(seconds, self.join, reporter)

    def full(self, vehicle: IngestVehicle) -> bool:
        """Nothing can be stored, and of this vehicle's backlog, or of all, enough waits: see `Pipeline.full`."""
        if not self.queue.stalled:
            return False
        return self._waiting >= self._most_while_away or vehicle.waiting >= self._most_of_one

    def took(self, vehicle: IngestVehicle, before: int) -> None:
        """Takes note of what was offered to the recorder of a backlog, since `Recorder.offered` was `before`."""
        until = self.queue.offered
        if until > before:
            self._taken.append(_Taken(vehicle, until - before, until))
            self._waiting += until - before
            vehicle.waiting += until - before

    def progress(self) -> None:
        """To be called when a group is stored, and when a commit fails."""
        done, taken = self.queue.done, self._taken
        while taken and taken[0].until <= done:
            vehicle, count, _ = taken.popleft()
            self._waiting -= count
            vehicle.waiting -= count
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
