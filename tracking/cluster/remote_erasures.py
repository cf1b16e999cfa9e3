"""Vehicles and trips that another hub erased: the audit of this hub may still write their ids, and has just written some.

The hub that erases replaces the id in all rows. Rows that wait here come later. So each hub replaces it once more, as soon as
it reads of the removal in the change log.
"""

import asyncio
import logging
from collections.abc import Callable

import asyncpg

from tracking.audit import Audit, Kind
from tracking.errors import StoreUnavailable
from tracking.live_state.rows import is_moved
from tracking.store import vehicles
from tracking.store.changes import ChangeKind, Row
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class RemoteErasures:
    """`applied` takes each row of the change log. `run` works until it is cancelled."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit
        self._waiting: dict[tuple[Kind, str], None] = {}
        self._some = asyncio.Event()

    def after(self, add: Callable[[Row], None]) -> Callable[[Row], None]:
        """Calls `add` with each row, and then `applied`."""

        def applied(row: Row) -> None:
            add(row)
            self.applied(row)

        return applied

    def applied(self, row: Row) -> None:
        if row.subject is None or row.kind not in (ChangeKind.VEHICLE_DELETED, ChangeKind.TRIP_DELETED) or is_moved(row):
            return
        erased = Kind.VEHICLE if row.kind == ChangeKind.VEHICLE_DELETED else Kind.TRIP, row.subject
        if not self._audit.knows_erased(*erased):
            self._waiting[erased] = None
            self._some.set()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.work()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                logger.warning("the ids of what was erased can't be replaced in the audit now, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._some.set()

    async def work(self) -> None:
        """Replaces the ids that wait. Raises `StoreUnavailable`."""
        for kind, id_ in list(self._waiting):
            async with self._database.transaction() as connection:
                # A vehicle that was created again with the id keeps its rows.
                if kind is Kind.TRIP or await vehicles.get(connection, id_) is None:
                    await self._audit.disguise(connection, kind, id_)
            del self._waiting[kind, id_]
