"""This process among the hubs of its database. Without a broker it must be the only one."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from tracking.errors import HubRefused
from tracking.nodes.node import Node
from tracking.store import nodes as node_store
from tracking.store.nodes import NodeRow, Other
from tracking.store.pool import AWAY

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
RETRY_SECONDS = 0.5
MARGIN_SECONDS = 0.5
START_SECONDS = 3.0
"""How long a start waits for the database before it continues without it."""
LEAVE_SECONDS = 2.0
FAILED = (*AWAY, asyncpg.PostgresError)


class Registry:
    """Renews this hub's row in the database, and knows who else is alive.

    It has a connection of its own. If the process is killed, PostgreSQL closes the connection, and nobody waits for this hub.
    """

    def __init__(self, node: Node, url: str, *, has_broker: bool, timeout: float) -> None:
        """`timeout` (s) limits connecting and each statement."""
        self.node = node
        self.others: list[Other] = []
        """Those that were alive when this hub last reached the database."""
        self._row = NodeRow(node.node, node.name, node.release, has_broker)
        self._url = url
        self._timeout = timeout
        self._connection: Connection | None = None
        self._began_at: datetime | None = None
        self._deadline: float | None = None
        self._is_away = False

    @property
    def admitted(self) -> bool:
        """Whether this hub may run, by the database."""
        return self._began_at is not None

    def others_alive(self) -> int:
        """How many other hubs were alive by the database two seconds ago, or when it was last reached."""
        return len(self.others)

    async def admit(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Waits until this hub may run. Raises `HubRefused` if another is alive and one of both has no broker.

        It does not wait for a database that is away: `run` then does the same later. It returns early when `stopped`.
        """
        while self._began_at is None and not stopped():
            try:
                async with asyncio.timeout(START_SECONDS):
                    reached = await self._tried()
            except TimeoutError:
                reached = False
                self._disconnect()
            if not reached:
                return
            if self._began_at is None:
                await asyncio.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        """Renews the row until it is cancelled. Raises `HubRefused` if it turns out that this hub must not run."""
        while True:
            reached = await self._tried()
            await asyncio.sleep(BEAT_SECONDS if reached and self._began_at is not None else RETRY_SECONDS)

    async def leave(self) -> None:
        """Removes the row, if the database answers within two seconds. `run` must have ended."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                if self._began_at is not None:
                    await node_store.remove(connection, self.node.node)
                await connection.close()
        except FAILED:
            connection.terminate()

    async def _tried(self) -> bool:
        """Renews the row, or tries to be admitted. Returns whether the database was reached."""
        try:
            connection = await self._connected()
            if self._began_at is None:
                await self._enter(connection)
            else:
                await node_store.renew(connection, self._row, self._began_at)
                self.others = await node_store.others(connection, self.node.node)
                self._stop_if_later(self._began_at)
        except FAILED as error:
            self._disconnect()
            if not self._is_away:
                logger.warning("cannot tell other hubs that this one is alive: %s; trying again", error or type(error).__name__)
            self._is_away = True
            return False
        self._is_away = False
        return True

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._url,
                timeout=self._timeout,
                command_timeout=self._timeout,
                server_settings={"application_name": "tracking"},
            )
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*AWAY):
                connection.terminate()

    async def _enter(self, connection: Connection) -> None:
        """Writes the row if no other hub conflicts. Raises `HubRefused` when the rows of those that do should have lapsed."""
        async with connection.transaction():
            await node_store.take_turn(connection)
            self.others = await node_store.others(connection, self.node.node)
            conflicting = self._conflicting()
            if not conflicting:
                self._began_at = await node_store.renew(connection, self._row, None)
                self._deadline = None
                return
        now = time.monotonic()
        if self._deadline is None:
            wait = max(other.lapses_in for other in conflicting)
            self._deadline = now + wait + MARGIN_SECONDS
            logger.warning("%s; waiting %.0f s for it to be gone", self._reason(conflicting[0]), wait)
        elif now > self._deadline:
            raise HubRefused(self._reason(conflicting[0]))

    def _stop_if_later(self, began_at: datetime) -> None:
        """Of two hubs that find a conflict later, the one that began later stops."""
        for other in self._conflicting():
            if (other.began_at, other.node) < (began_at, self.node.node):
                raise HubRefused(self._reason(other))

    def _conflicting(self) -> list[Other]:
        return [other for other in self.others if not (other.has_broker and self._row.has_broker)]

    def _reason(self, other: Other) -> str:
        whose = f"another hub, {other.name!r} ({other.node}), runs on this database"
        how = "and has no broker" if not other.has_broker else "with a broker, and this one has none"
        return f"{whose} {how}: set TRACKING_NATS_URL of all hubs to the same NATS server, or stop that hub"
