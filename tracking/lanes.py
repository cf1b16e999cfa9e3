"""Lanes: work that takes long, so many at once in all, and of each holder of a token one at a time.

Who asks for thirty at once waits for himself, and for the others no longer than they for him: each has one place in the queue.
"""

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

REST_SECONDS = 1.0
"""How long a lane rests at the most: a thread at work on Python slows the event loop down, and is not to do so all the time."""
QUIET_SECONDS = 3.0


class Lanes:
    def __init__(self, at_once: int, *, rests: bool = False, on_quiet: Callable[[], None] | None = None) -> None:
        """A lane that `rests` takes nobody in for as long as the one before was in it. `on_quiet` is called, in a thread, when
        nobody has asked for anything for `QUIET_SECONDS`.
        """
        self._rests = rests
        self._on_quiet = on_quiet
        self._quiet: asyncio.TimerHandle | None = None
        self._all = asyncio.Semaphore(at_once)
        self._own: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def enter(self, holder: str) -> AsyncIterator[None]:
        """Waits for the holder's turn; it ends with the block."""
        loop = asyncio.get_running_loop()
        lock = self._own.setdefault(holder, asyncio.Lock())
        self._users[holder] = self._users.get(holder, 0) + 1
        try:
            async with lock:
                await self._all.acquire()
                began = loop.time()
                try:
                    yield
                finally:
                    if self._rests:
                        loop.call_later(min(loop.time() - began, REST_SECONDS), self._all.release)
                    else:
                        self._all.release()
        finally:
            self._users[holder] -= 1
            if not self._users[holder]:
                del self._users[holder], self._own[holder]
            if self._on_quiet is not None and not self._users:
                if self._quiet is not None:
                    self._quiet.cancel()
                self._quiet = loop.call_later(QUIET_SECONDS, loop.run_in_executor, None, self._on_quiet)


def give_back() -> None:
    """Gives memory that was freed back to the system. glibc keeps what a thread used for its next work."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
