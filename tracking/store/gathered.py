"""Many questions to the database as one query. Questions that come during a query are asked together in the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

from tracking.errors import StoreUnavailable

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MOST = 32
"""Keys of one query. Its answer is processed in one step of the event loop."""
SLOW = 0.1
"""Seconds after which the next query does not wait for the one under way any longer. One locked row, or one stalled connection,
must not delay all others."""
AT_ONCE = 3
"""Queries that may be under way at once. If so many are slow, the database is slow, and more would only burden it."""


class Gathered(Generic[Key, Value]):
    """Calls `ask` for many keys at once. It returns the values that exist.

    A key that comes alone is asked at once, and alone. A key that comes during a query waits for its end, at most `slow`
    seconds. No key waits for other keys to come.
    """

    def __init__(
        self, ask: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], *, most: int = MOST, slow: float = SLOW
    ) -> None:
        self._ask = ask
        self._most = most
        self._slow = slow
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def get(self, key: Key) -> Value | None:
        """The value; None if there is none. It was read after this call. Raises what `ask` raises."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            # The caller may be gone by then. Then nobody reads the error, and asyncio must not complain.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            if self._worker is None:
                self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(future)

    async def _work(self) -> None:
        try:
            while self._waiting:
                asked = {key: self._waiting.pop(key) for key in list(islice(self._waiting, self._most))}
                question = asyncio.create_task(self._ask_for(asked))
                self._under_way.add(question)
                question.add_done_callback(self._under_way.discard)
                await asyncio.wait(
                    self._under_way,
                    timeout=self._slow if len(self._under_way) < AT_ONCE else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            self._worker = None
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()

    async def _ask_for(self, asked: dict[Key, asyncio.Future[Value | None]]) -> None:
        try:
            await self._answer(asked)
        finally:
            for future in asked.values():
                future.cancel()  # this does not change those that are answered

    async def _answer(self, asked: dict[Key, asyncio.Future[Value | None]]) -> None:
        try:
            found = await self._ask(list(asked))
        except StoreUnavailable as error:
            # All waiting keys get the error. Otherwise each would wait for its own timeout, one after the other.
            for future in (*asked.values(), *self._waiting.values()):
                future.set_exception(error)
            self._waiting.clear()
        except Exception as error:
            if len(asked) == 1:
                next(iter(asked.values())).set_exception(error)
                return
            # One key cannot be asked for. The others can.
            for key, future in asked.items():
                await self._answer({key: future})
        else:
            for key, future in asked.items():
                future.set_result(found.get(key))
