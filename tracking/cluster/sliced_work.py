"""Work on thousands of things at once, some in each step of the event loop, so that nothing else waits for it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

SLICE_SECONDS = 0.002


class Slice:
    """The part of a long work that is done in this step of the event loop."""

    def __init__(self, seconds: float = SLICE_SECONDS) -> None:
        self._seconds = seconds
        self._until = time.perf_counter() + seconds

    async def rest(self) -> None:
        """To be called after each piece of the work. When the slice is over, others have their turn."""
        if time.perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + self._seconds


class SlicedWork(Generic[Thing]):
    """Does `work` for each thing, in their order."""

    def __init__(self, work: Callable[[Thing], None]) -> None:
        self._work = work
        self._waiting: deque[Thing] = deque()
        self._is_due = False

    def add(self, thing: Thing) -> None:
        """To be done in the next step of the event loop, or later."""
        self._waiting.append(thing)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._is_due = False
        until = time.perf_counter() + SLICE_SECONDS
        while self._waiting and time.perf_counter() < until:
            try:
                self._work(self._waiting.popleft())
            except Exception:
                logger.exception("could not do a part of what is done for other hubs")
        self._go_on()
