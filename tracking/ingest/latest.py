"""The newest plausible position of each vehicle, before it is written to the table for searches of the nearest vehicles.

It is written every few seconds, and not with each commit, because only the newest position counts. This row with its index
was most of what a fix cost the database. A crash loses nothing: a vehicle's motion is restored from the stored positions.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.model import Position
from tracking.store import latest_positions
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

ROWS = 2_000
"""The most vehicles in one statement."""


class Latest:
    """`note` keeps what was committed. `run` writes it every `interval` seconds until it is cancelled."""

    def __init__(self, database: Database, *, interval: float) -> None:
        self._database = database
        self._interval = interval
        self._newest: dict[int, Position] = {}
        self.term_of: Callable[[int], int | None] = lambda _: None
        """The term of a vehicle's home, if it is here. `cluster.homes` sets it."""
        self._writing = asyncio.Lock()

    def note(self, position: Position) -> None:
        """Keeps a committed position that moved the marker."""
        self._newest[position.vehicle] = position

    def noted(self, vehicle: int) -> Position | None:
        """The position of a vehicle, by its number, that is still to be written."""
        return self._newest.get(vehicle)

    async def settled(self) -> None:
        """Waits until no write is in progress that began before."""
        async with self._writing:
            pass

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed."""
        for vehicle in vehicles:
            self._newest.pop(vehicle, None)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                # The hub works without this table, so no error of it may stop the hub.
                logger.warning("the latest positions are not written now, trying again: %s", error)

    async def flush(self) -> None:
        """Writes what was noted, one caller after the other. What is not written is kept if this raises `StoreUnavailable`."""
        async with self._writing:
            vehicles = sorted(self._newest)
            for start in range(0, len(vehicles), ROWS):
                newest = {v: self._newest[v] for v in vehicles[start : start + ROWS] if v in self._newest}
                async with self._database.transaction() as connection:
                    await latest_positions.move(
                        connection, list(newest.values()), [self.term_of(vehicle) for vehicle in newest]
                    )
                for vehicle, position in newest.items():
                    if self._newest.get(vehicle) is position:
                        del self._newest[vehicle]
