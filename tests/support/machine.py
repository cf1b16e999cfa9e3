"""The machine, which several workers of a test run share: a test that measures times asks for it `alone`.

Each worker holds a shared lock while one of its tests runs. `alone` gives that up, and waits until no other worker holds it.
"""

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO


class Machine:
    """The locks of one worker. `directory` is the same for all workers of a run."""

    def __init__(self, directory: Path) -> None:
        self._next = (directory / "machine.next").open("a")
        """Held while somebody waits to be alone: otherwise new tests of the others would keep it waiting."""
        self._use = (directory / "machine.use").open("a")

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """While a test runs. Nobody is alone meanwhile, unless this test is."""
        self._share()
        try:
            yield
        finally:
            _unlock(self._use)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Within `shared`: no other worker runs a test."""
        # Of two that ask, each gives its share up first, or both would wait for ever.
        _unlock(self._use)
        try:
            await asyncio.to_thread(self._be_alone)
            yield
        finally:
            _unlock(self._use)
            await asyncio.to_thread(self._share)

    def _share(self) -> None:
        fcntl.flock(self._next, fcntl.LOCK_SH)
        fcntl.flock(self._use, fcntl.LOCK_SH)
        _unlock(self._next)

    def _be_alone(self) -> None:
        fcntl.flock(self._next, fcntl.LOCK_EX)
        fcntl.flock(self._use, fcntl.LOCK_EX)
        _unlock(self._next)


def _unlock(file: IO[str]) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)


_machine: Machine | None = None


def share_with_workers(directory: Path) -> Machine:
    """Called once in each worker, before its first test."""
    global _machine
    _machine = Machine(directory)
    return _machine


@contextlib.asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """No other test runs meanwhile. Outside a run with workers nothing has to be waited for."""
    if _machine is None:
        yield
        return
    async with _machine.alone():
        yield
