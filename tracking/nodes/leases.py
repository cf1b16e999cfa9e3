"""Which jobs this hub does, of those that one hub is enough for. Each job asks before each turn.

A lease saves work. It is no lock: a hub that stood still may do a last step of a job that another hub has taken meanwhile. So
each job must be safe if two hubs do it at once. [Which jobs have one](../../docs/decisions/0035-leases.md).
"""

import logging
import time
from collections.abc import Callable

from tracking.metrics import LEASE_HELD
from tracking.store import leases
from tracking.store.jobs import Ours, always
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

TRUSTED_SECONDS = 3.0
"""How long an answer of the database counts, so that a long job may ask before each step. It is less than the 10 s after which
a silent hub counts as dead (`live_nodes`): one that stood still for so long asks again."""
LEASE_SECONDS = 600.0
"""How long a hub has a job without asking again. It outlasts the time between two turns of each job, so that a job stays with
one hub. That of a hub which is not alive is void before."""


class Leases:
    """The jobs of one hub. Without a broker it is alone, does them all, and asks nobody."""

    def __init__(self, database: Database, node: str, *, alone: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`node` is the boot id of this hub. `monotonic` is a clock in seconds that goes on while the process is stopped."""
        self._database = database
        self._node = node
        self._alone = alone
        self._monotonic = monotonic
        self._until: dict[str, float] = {}
        """Until when the database need not be asked again, by job."""
        self._left = False

    def job(self, name: str) -> Ours:
        """The question of one job."""
        LEASE_HELD.labels(name).set(self._alone)
        if self._alone:
            return always

        async def ours() -> bool:
            return await self._ask(name)

        return ours

    async def _ask(self, name: str) -> bool:
        if self._left:
            return False
        asked_at = self._monotonic()
        if asked_at < self._until.get(name, 0.0):
            return True
        async with self._database.transaction() as connection:
            holder = await leases.take(connection, name, self._node, LEASE_SECONDS)
        if self._left:
            # `release` came first, and this took the job once more. It counts until this hub is not alive any more.
            return False
        had, has = name in self._until, holder == self._node
        if has:
            self._until[name] = asked_at + TRUSTED_SECONDS
        else:
            self._until.pop(name, None)
        if had is not has:
            LEASE_HELD.labels(name).set(has)
            logger.info("the job %r is done by %s", name, "this hub" if has else f"hub {holder}")
        return has

    async def release(self) -> None:
        """Gives up all jobs, so that another hub does them at its next turn. None is taken any more."""
        self._left = True
        held, self._until = self._until, {}
        for name in held:
            LEASE_HELD.labels(name).set(0)
        if held:
            async with self._database.transaction() as connection:
                await leases.release(connection, self._node)
