"""Changes of vehicles, fleets and geofences: told in the order in which they were committed, and none left untold."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from weakref import WeakValueDictionary

from tracking.errors import StoreUnavailable, StoreWentBack

logger = logging.getLogger(__name__)

FIND_OUT_SECONDS = 0.5

FindOut = Callable[[], Awaitable[None]]
"""Looks up in the store how something is, and tells that. May raise `StoreUnavailable`."""


class Changes:
    """One at a time of each thing, from its transaction to the telling of it."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unsure: dict[tuple[str, str], FindOut] = {}
        self._finding_out: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def turn(self, thing: str, find_out: FindOut, *, part: str = "") -> AsyncIterator[None]:
        """Waits until nobody else changes `thing`.

        A change that ends with `StoreUnavailable` may have been committed all the same. `find_out` is called then, later and in
        a turn of its own, until the store has answered; once, for as many changes of this `part` as ended so by then.
        """
        async with self._turn(thing):
            try:
                yield
            except StoreUnavailable:
                self._unsure[thing, part] = find_out
                if self._finding_out is None:
                    self._finding_out = asyncio.create_task(self._find_out())
                raise

    def _turn(self, thing: str) -> asyncio.Lock:
        return self._turns.setdefault(thing, asyncio.Lock())

    async def _find_out(self) -> None:
        while self._unsure:
            await asyncio.sleep(FIND_OUT_SECONDS)
            for thing, part in list(self._unsure):
                try:
                    async with self._turn(thing):
                        await self._unsure[thing, part]()
                        del self._unsure[thing, part]
                except StoreWentBack:
                    # Another memory takes over, which reads all of it.
                    self._unsure.clear()
                    break
                except StoreUnavailable:
                    # The others first, next time.
                    self._unsure[thing, part] = self._unsure.pop((thing, part))
                    break
                except Exception:
                    logger.exception("a fault of ours: what became of %s is not known", thing)
                    del self._unsure[thing, part]
        self._finding_out = None
