"""Many questions to the database as one: what is asked while an answer is under way is asked together, next."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from itertools import islice
from typing import Generic, TypeVar

from tracking.errors import StoreUnavailable

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

MOST = 32
"""Keys of one question: its answer is taken apart in one step of the event loop."""
SLOW = 0.1
"""Seconds after which nobody waits any longer for a question that is under way: one row that is locked, or one connection that
is stalled, must not keep all others waiting."""
AT_ONCE = 3
"""Questions that may be under way at once. Where so many are slow it is the database, and more would only burden it."""


class Gathered(Generic[Key, Value]):
    """Asks `ask` for many keys at once; it returns what there is.

    A question that comes alone is asked at once, and alone. One that comes while another is under way waits for that, `slow`
    seconds at the most, and no longer: nobody waits for others to come.
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
        """None where there is no such thing. The answer was read after this call. Raises what `ask` raises."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            # Whoever asked may have gone by then: what it would have been told is nobody's to hear.
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
                future.cancel()  # those that are answered stay so

    async def _answer(self, asked: dict[Key, asyncio.Future[Value | None]]) -> None:
        try:
            found = await self._ask(list(asked))
        except StoreUnavailable as error:
            # For all that wait: each of them would wait for its own timeout, one after the other.
            for future in (*asked.values(), *self._waiting.values()):
                future.set_exception(error)
            self._waiting.clear()
        except Exception as error:
            if len(asked) == 1:
                next(iter(asked.values())).set_exception(error)
                return
            # One of them can't be asked for. The others can.
            for key, future in asked.items():
                await self._answer({key: future})
        else:
            for key, future in asked.items():
                future.set_result(found.get(key))
