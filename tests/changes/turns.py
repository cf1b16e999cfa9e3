"""A seed decides which task continues next, and when connections to the database fail."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar

from tracking.errors import StoreUnavailable
from tracking.store.pool import Connection, Database

answer_lost: ContextVar[bool] = ContextVar("answer_lost", default=False)
"""Whether the answer to this task's next COMMIT is lost."""

READ = "read"
"""The point between an answer of the database and its use."""


class Turns:
    """A task that reaches a `point` may have to wait there until it is let go. `calm`: no task waits any more."""

    def __init__(self, seed: str) -> None:
        self.rng = random.Random(seed)
        self.calm = True
        self._standing: list[asyncio.Future[None]] = []

    async def point(self, where: str = "") -> None:
        if self.calm:
            return
        chance = self.rng.random()
        if chance < 0.65:
            return
        if chance < 0.85:
            await asyncio.sleep(0)
            return
        standing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._standing.append(standing)
        try:
            await standing
        finally:
            if standing in self._standing:
                self._standing.remove(standing)

    def let_go(self) -> None:
        """Lets one of the waiting tasks go, at random."""
        if self._standing:
            standing = self._standing.pop(self.rng.randrange(len(self._standing)))
            if not standing.done():
                standing.set_result(None)

    def be_calm(self) -> None:
        self.calm = True
        while self._standing:
            self.let_go()


class ShakyDatabase(Database):
    """A `Database` whose users stand at points before and after each question, and around each COMMIT.

    `away`: it can't be reached. `deaf`: nor notifies it. `lossy` is the share of COMMITs whose answer is lost.
    """

    turns: Turns
    away = False
    deaf = False
    lossy = 0.0
    _lost: asyncio.Event | None = None

    def cut(self) -> None:
        self.away = True
        if self._lost is not None:
            self._lost.set()

    def deafen(self) -> None:
        self.deaf = True
        if self._lost is not None:
            self._lost.set()

    def end(self) -> None:
        """Closes the pool as a killed process does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
        self.cut()

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("cut off")

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        await self.turns.point()
        self._check()
        async with super().connection() as connection:
            yield connection
        await self.turns.point(READ)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        await self.turns.point()
        self._check()
        async with super().snapshot() as connection:
            yield connection
        await self.turns.point(READ)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        await self.turns.point()
        self._check()
        async with super().transaction() as connection:
            yield connection
            await self.turns.point()
        if answer_lost.get() or (self.lossy and not self.turns.calm and self.turns.rng.random() < self.lossy):
            answer_lost.set(False)
            raise StoreUnavailable("the answer was lost")
        await self.turns.point()

    @contextlib.asynccontextmanager
    async def listening(self, channel: str, heard: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        self._check()
        if self.deaf:
            raise StoreUnavailable("it does not notify")
        async with super().listening(channel, heard) as lost:
            self._lost = lost
            yield lost
