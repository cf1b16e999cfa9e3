"""Lanes: a limit on slow work, in all and for each holder of a token.

A lane is one slot for work. Each holder may use one slot at a time. So a holder with thirty requests waits for its own
requests, and does not hold up other holders.
"""

import asyncio
import contextlib
import ctypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

REST_SECONDS = 1.0
"""The longest pause of a lane after work. A thread that runs Python slows the event loop, so it must not run all the time."""
QUIET_SECONDS = 3.0


class Lanes:
    def __init__(self, at_once: int, *, rests: bool = False, on_quiet: Callable[[], None] | None = None) -> None:
        """`at_once` is the number of lanes.

        A lane that `rests` stays empty after work for as long as the work took. A thread calls `on_quiet` when nobody has
        entered a lane for `QUIET_SECONDS`.
        """
        self._rests = rests
        self._on_quiet = on_quiet
        self._quiet: asyncio.TimerHandle | None = None
        self._all = asyncio.Semaphore(at_once)
        self._own: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def enter(self, holder: str) -> AsyncIterator[None]:
        """Wait for a free lane, and hold it during the block."""
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
    """Return freed memory to the system. Otherwise glibc keeps it for the thread's next work."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
