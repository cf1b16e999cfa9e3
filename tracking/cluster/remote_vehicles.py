"""Keeps vehicles of other hubs current from the store, for dispatchers who are here, when their homes do not tell.

Homes tell of their vehicles (`cluster.fleets`), and write `latest_positions` every five seconds. The store is read when
somebody begins to look at a fleet, when another hub has gone, while the broker is away, and otherwise once a minute. Such a
vehicle is shown where the store has it. No events are made of it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import asyncpg

from tracking.cluster.fleets import FleetsAcrossHubs
from tracking.cluster.sliced_work import Slice
from tracking.errors import StoreUnavailable
from tracking.live.fleet import FleetFeed
from tracking.live.fleets import Fleets
from tracking.metrics import FLEET_READINGS
from tracking.model import Clock
from tracking.monitor.monitor import Monitor
from tracking.store import newer_positions
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

BEHIND_SECONDS = 3.0
"""Between two readings while homes do not tell, at the least."""
RARELY_SECONDS = 60.0
WITHIN_MS = 90_000
"""Rows that were written so long before the reading are read. A home may be late, and its clock may be behind. When a look
begins, all are read whose vehicles may be on the map."""


class RemoteVehicles:
    """`run` works until it is cancelled. `others` tells whether other hubs are alive: alone, nothing is read.

    `across_hubs` knows what somebody looks at here, and whether homes tell of it. It is None without a broker.
    """

    def __init__(
        self,
        database: Database,
        fleets: Fleets,
        monitor: Monitor,
        clock: Clock,
        across_hubs: FleetsAcrossHubs | None,
        *,
        others: Callable[[], bool],
    ) -> None:
        self._database = database
        self._fleets = fleets
        self._monitor = monitor
        self._clock = clock
        self._others = others
        self._across_hubs = across_hubs
        self._due = asyncio.Event()
        self._longest_ms = monitor.last_heard.gone_after_ms
        self._all_due = False
        self._reading: dict[str, asyncio.Task[None]] = {}
        """By fleet: readings that somebody who begins to look waits for."""
        self._begun: set[str] = set()
        """Fleets that are looked at since a moment ago."""
        if across_hubs is not None:
            across_hubs.on_begun = self._look_begins
            across_hubs.on_behind = self._fall_behind

    def _look_begins(self, feed: FleetFeed) -> None:
        self._begun.add(feed.fleet.fleet_id)
        self._due.set()

    def _fall_behind(self) -> None:
        self._all_due = True
        self._due.set()

    async def look(self, feed: FleetFeed) -> None:
        """Somebody is about to look at a fleet: waits until all is known of it, from peers or from the store."""
        if self._across_hubs is None:
            return
        fleet_id = feed.fleet.fleet_id
        is_known = await self._across_hubs.look(feed)
        if not is_known and fleet_id not in self._reading:
            reading = self._reading[fleet_id] = asyncio.create_task(self._read_for(feed), name=f"reading fleet {fleet_id}")
            reading.add_done_callback(lambda _: self._reading.pop(fleet_id))
        # Who begins to look at the same time waits for the same reading, and may go meanwhile.
        if fleet_id in self._reading:
            await asyncio.wait({self._reading[fleet_id]})

    async def _read_for(self, feed: FleetFeed) -> None:
        with contextlib.suppress(StoreUnavailable, asyncpg.PostgresError):
            await self.read([feed], self._longest_ms)

    async def run(self) -> None:
        if self._across_hubs is None:
            return
        loop = asyncio.get_running_loop()
        read_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), BEHIND_SECONDS)
            self._due.clear()
            all_due = self._all_due or self._across_hubs.is_behind() or loop.time() - read_at >= RARELY_SECONDS
            begun, self._begun, self._all_due = self._begun, set(), False
            if all_due:
                read_at = loop.time()
            if all_due or begun:
                try:
                    feeds = list(self._across_hubs.wanted())
                    await self.read([feed for feed in feeds if feed.fleet.fleet_id in begun], self._longest_ms)
                    if all_due:
                        await self.work()
                except (StoreUnavailable, asyncpg.PostgresError) as error:
                    self._begun |= begun
                    logger.debug("vehicles of other hubs are not shown where they are now: %s", error)
                # Whatever happens meanwhile, the store has rest.
                await asyncio.sleep(BEHIND_SECONDS / 2)

    async def work(self) -> None:
        """Reads once, if somebody looks at a fleet here and other hubs are alive. Raises `StoreUnavailable`."""
        if self._across_hubs is not None:
            await self.read(list(self._across_hubs.wanted()), WITHIN_MS)

    async def read(self, feeds: list[FleetFeed], within_ms: int) -> None:
        """Reads the vehicles of these fleets that were heard of lately, if other hubs are alive. Raises `StoreUnavailable`."""
        if not feeds or not self._others():
            return
        FLEET_READINGS.inc()
        for feed in feeds:
            await self._show_lost(feed)
        names = [feed.fleet.fleet_id for feed in feeds]
        async with self._database.reading() as connection:
            part = Slice()
            async for positions in newer_positions.of_fleets(connection, names, self._clock() - within_ms):
                for position in positions:
                    vehicle = self._fleets.by_number.get(position.vehicle)
                    if vehicle is None or not vehicle.feed.loaded or self._monitor.finds_events_of(vehicle):
                        continue
                    shown = vehicle.position
                    # The fleet may not see what was before the vehicle joined it, and nothing older than it saw.
                    is_newer = shown is None or position.fix_time > shown.fix_time
                    if is_newer and min(position.fix_time, position.server_time) >= vehicle.joined_at:
                        self._monitor.elsewhere.stored(vehicle, position)
                    await part.rest()

    async def _show_lost(self, feed: FleetFeed) -> None:
        part = Slice()
        for vehicle in list(feed.vehicles):
            if not self._monitor.finds_events_of(vehicle) and self._fleets.is_there(vehicle):
                self._monitor.elsewhere.left(vehicle)
            await part.rest()
