"""Keeps several hubs running, replaces them by turns, and stops them."""

import asyncio
import logging

from tracking.errors import ConfigError
from tracking.workers.slot import NotReplaced, Slot, Source

logger = logging.getLogger(__name__)


class Supervisor:
    """`count` slots, each with a hub of `source`. `run` works until `stop` is called.

    `stop_seconds`: how long a hub may take to stop, before it is killed.
    """

    def __init__(self, source: Source, count: int, stop_seconds: float) -> None:
        self.slots = [
            Slot(number, source, stop_seconds, on_ready=self._is_ready, on_refused=self._refused)
            for number in range(1, count + 1)
        ]
        self._source = source
        self._stopped = asyncio.Event()
        self._roll_wanted = asyncio.Event()
        self._ready = 0
        """How many hubs have been ready so far."""
        self._refusal: str | None = None
        self._has_killed = False

    async def run(self) -> bool:
        """Returns whether no hub had to be killed at the end. Raises `ConfigError` if no hub can run with these settings."""
        if not self._stopped.is_set():
            for slot in self.slots:
                slot.start()
        rolling = asyncio.create_task(self._roll(), name="roll")
        stopped = asyncio.create_task(self._stopped.wait(), name="stopped")
        await asyncio.wait({rolling, stopped}, return_when=asyncio.FIRST_COMPLETED)
        self._end()
        for task in (rolling, stopped):
            task.cancel()
        await asyncio.wait({rolling, stopped})
        for slot in self.slots:
            self._source.withdraw(slot.number)
        orderly = all(await asyncio.gather(*(slot.stop() for slot in self.slots)))
        if not rolling.cancelled():
            await rolling  # It raises what was wrong.
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        return orderly and not self._has_killed

    def roll(self) -> None:
        """Replaces all hubs by turns. While that is under way, any number of calls means one more round."""
        self._roll_wanted.set()

    def stop(self) -> None:
        """Stops all hubs at once. The second call kills them."""
        if self._stopped.is_set():
            logger.error("asked again to stop: killing all hubs")
            self._has_killed = True
            for slot in self.slots:
                slot.kill()
        self._end()

    def _end(self) -> None:
        self._stopped.set()
        for slot in self.slots:
            slot.start_no_more()

    async def _roll(self) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted.clear()
            logger.info("replacing %d hubs by turns", len(self.slots))
            try:
                for slot in self.slots:
                    if self._stopped.is_set():
                        return
                    await slot.replace()
            except NotReplaced as error:
                logger.error("%s. The replacing stops, and the hubs that run go on", error)
            else:
                logger.info("all hubs are replaced")

    def _is_ready(self) -> None:
        self._ready += 1
        if self._ready == len(self.slots):
            logger.info("%d hubs are ready", len(self.slots))

    def _refused(self, reason: str) -> bool:
        """Settings that no hub has run with are wrong for all. Later something else is missing, and may come back."""
        if self._ready:
            return False
        if self._refusal is None:
            self._refusal = reason
            self._end()
        return True
