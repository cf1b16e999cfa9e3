"""One of the supervisor's places for a hub. It always holds one: it restarts what dies, and replaces on request."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from tracking.child_processes import how_it_ended
from tracking.errors import TrackingError
from tracking.workers.restarts import Restarts

logger = logging.getLogger(__name__)

READY_SECONDS = 60.0
"""How long a successor may take to be ready."""
WITHDRAW_SECONDS = 2.0
"""A slot that starts its hub again no sooner than this gets no new connections until then."""
CANNOT_START = (OSError, TrackingError)


class Worker(Protocol):
    """A hub's process. `ready` is done when it is. `ended` has its exit code.

    `reason` is why it ended, if it said so. `refused`: no hub can run with these settings.
    """

    ready: "asyncio.Future[None]"
    ended: "asyncio.Future[int]"
    reason: str | None
    refused: bool
    pid: int

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Source(Protocol):
    """Starts the workers of all slots."""

    def start(self, slot: int, *, successor: bool) -> Worker:
        """A successor accepts nobody before it is ready. Raises `OSError` or `ConfigError` if it cannot be started."""

    def withdraw(self, slot: int) -> None:
        """Lets no connection wait for this slot until its next start."""


class NotReplaced(Exception):
    """A successor did not take over. It says why."""


class Slot:
    """`stop_seconds`: how long a worker may take to stop. `on_ready` is called for each that is ready.

    `on_refused` is told why a worker cannot run with these settings. It returns whether everything ends for it.
    """

    def __init__(
        self,
        number: int,
        source: Source,
        stop_seconds: float,
        *,
        on_ready: Callable[[], None],
        on_refused: Callable[[str], bool],
    ) -> None:
        self.number = number
        self.current: Worker | None = None
        self._successor: Worker | None = None
        self._retiring: Worker | None = None
        self._source = source
        self._stop_seconds = stop_seconds
        self._on_ready = on_ready
        self._on_refused = on_refused
        self._restarts = Restarts()
        self._restart: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def workers(self) -> Iterator[Worker]:
        """Those that live: one, or two while one takes over from the other."""
        for worker in (self._retiring, self.current, self._successor):
            if worker is not None and not worker.ended.done():
                yield worker

    def start(self) -> None:
        self._restart = None
        try:
            worker = self._begin(successor=False)
        except CANNOT_START as error:
            logger.error("hub %d cannot be started: %s", self.number, error)
            self._plan(self._restarts.delay(0.0))
        else:
            self._seat(worker)

    async def replace(self) -> None:
        """Starts a successor. When it is ready, the present worker is told to stop. Returns when that one has ended.

        Raises `NotReplaced` if the successor is not ready in time, or dies. The present worker then goes on.
        """
        self._forget_restart()
        try:
            successor = self._successor = self._begin(successor=True)
        except CANNOT_START as error:
            why: str | None = f"its successor cannot be started: {error}"
        else:
            why = await self._trouble_of(successor)
        self._successor = None
        if why is not None:
            if self.current is None:
                self._plan(0.0)
            raise NotReplaced(f"hub {self.number} is not replaced: {why}")
        self._restarts = Restarts()
        self._retiring = self.current
        self._seat(successor)
        if self._retiring is not None:
            await _ended(self._retiring, self._stop_seconds)
            self._retiring = None
        if self.current is not successor:
            raise NotReplaced(f"hub {self.number} was replaced, and its successor did not live: {_how(successor)}")

    def start_no_more(self) -> None:
        """From now on nothing that ends is started again."""
        self._stopping = True
        self._forget_restart()

    async def stop(self) -> bool:
        """Stops all workers. Returns whether none had to be killed. `start_no_more` and the end of `replace` come before."""
        return all(await asyncio.gather(*(_ended(worker, self._stop_seconds) for worker in self.workers)))

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()

    # ------------------------------------------------------------------------------------------------------------ steps

    def _begin(self, *, successor: bool) -> Worker:
        worker = self._source.start(self.number, successor=successor)
        logger.info("hub %d: process %d%s", self.number, worker.pid, " is to take over" if successor else "")
        return worker

    def _seat(self, worker: Worker) -> None:
        self.current = worker
        began = asyncio.get_running_loop().time()
        worker.ended.add_done_callback(lambda _: self._has_ended(worker, began))
        worker.ready.add_done_callback(lambda _: self._on_ready())

    def _has_ended(self, worker: Worker, began: float) -> None:
        if worker is not self.current:
            return  # it was replaced
        self.current = None
        if self._stopping or (worker.refused and self._on_refused(worker.reason or "")):
            return
        lived = asyncio.get_running_loop().time() - began
        delay = self._restarts.delay(lived)
        logger.error("hub %d lived %.0f s, and %s. It starts again in %.0f s", self.number, lived, _how(worker), delay)
        if self._successor is None:
            self._plan(delay)

    def _plan(self, delay: float) -> None:
        if self._stopping:
            return
        if delay >= WITHDRAW_SECONDS:
            self._source.withdraw(self.number)
        self._restart = asyncio.get_running_loop().call_later(delay, self.start)

    def _forget_restart(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None

    async def _trouble_of(self, successor: Worker) -> str | None:
        """Why it does not become ready; None when it is."""
        either: set[asyncio.Future[Any]] = {successor.ready, successor.ended}
        await asyncio.wait(either, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if successor.ended.done():
            return f"its successor {_how(successor)}"
        if successor.ready.done():
            return None
        successor.kill()
        await asyncio.wait({successor.ended})
        return f"its successor was not ready within {READY_SECONDS:.0f} s, and was ended"


async def _ended(worker: Worker, seconds: float) -> bool:
    """Stops a worker. Returns whether it has ended within the time. If not, it was killed."""
    worker.terminate()
    done, _ = await asyncio.wait({worker.ended}, timeout=seconds)
    if not done:
        logger.error("process %d did not stop within %.0f s, and is killed", worker.pid, seconds)
        worker.kill()
        await asyncio.wait({worker.ended})
    return bool(done)


def _how(worker: Worker) -> str:
    why = f": {worker.reason}" if worker.reason is not None else ""
    return how_it_ended(worker.ended.result()) + why
