"""Keeps vehicles of other hubs current on the maps of dispatchers who are here: from the store, every few seconds.

Their homes write `latest_positions` every five seconds. Such a vehicle is shown where the store has it.
No events are made of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.live.fleet import FleetFeed
from tracking.live.fleets import Fleets
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.store import newer_positions
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
SLICE_SECONDS = 0.002
WITHIN_MS = 60_000
"""Rows that were written so long before the reading are read. A home may be late, and its clock may be behind."""


class RemoteVehicles:
    """`run` works until it is cancelled. `others` tells whether other hubs are alive: alone, nothing is read."""

    def __init__(
        self, database: Database, fleets: Fleets, monitor: Monitor, clock: Clock, *, others: Callable[[], bool]
    ) -> None:
        self._database = database
        self._fleets = fleets
        self._monitor = monitor
        self._clock = clock
        self._others = others

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.work()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                logger.debug("vehicles of other hubs are not shown where they are now: %s", error)

    async def work(self) -> None:
        """Reads once, if somebody looks at a fleet here and other hubs are alive. Raises `StoreUnavailable`."""
        feeds = [feed for feed in self._fleets.feeds.values() if feed.loaded and feed.queues] if self._others() else []
        if not feeds:
            return
        for feed in feeds:
            await self._show_lost(feed)
        names = [feed.fleet.fleet_id for feed in feeds]
        async with self._database.reading() as connection:
            began = time.perf_counter()
            async for positions in newer_positions.of_fleets(connection, names, self._clock() - WITHIN_MS):
                for position in positions:
                    vehicle = self._fleets.by_number.get(position.vehicle)
                    if vehicle is None or not vehicle.feed.loaded or self._monitor.finds_events_of(vehicle):
                        continue
                    shown = vehicle.position
                    # The fleet may not see what was before the vehicle joined it, and nothing older than it saw.
                    is_newer = shown is None or position.fix_time > shown.fix_time
                    if is_newer and position.fix_time >= vehicle.joined_at:
                        self._monitor.seen_elsewhere(vehicle, position)
                    if time.perf_counter() - began > SLICE_SECONDS:
                        await asyncio.sleep(0)
                        began = time.perf_counter()

    async def _show_lost(self, feed: FleetFeed) -> None:
        began = time.perf_counter()
        for vehicle in list(feed.vehicles):
            if not self._monitor.finds_events_of(vehicle) and self._fleets.is_there(vehicle):
                self._monitor.lost_elsewhere(vehicle)
            if time.perf_counter() - began > SLICE_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
