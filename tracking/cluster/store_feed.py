"""Feeds watched trips from the store while the broker is away, if their vehicle's driver is connected to another hub.

Every two seconds one query reads what is newer than the watchers were shown. When the broker is back, the line of each trip
that was fed is sent again for the time of the outage, so that it has every position, in order.
"""

import asyncio
import logging
import time
from collections.abc import Callable

import asyncpg

from tracking.cluster.sliced_work import Slice
from tracking.errors import StoreUnavailable
from tracking.history.revisions import Revisions
from tracking.ingest.vehicles import FOREVER
from tracking.live.hub import Hub
from tracking.live.trips import TripFeed
from tracking.metrics import FED_FROM_STORE
from tracking.model import Clock, Position
from tracking.store import newer_positions
from tracking.store.newer_positions import Shown
from tracking.store.pool import Database

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
SLICE_SECONDS = 0.004
OVERLAP_MS = 5_000
"""A revision begins so long before the outage, because the last positions through the broker may be lost."""


class StoreFeed:
    """`run` works until it is cancelled. `away` tells whether the broker is away while other hubs live."""

    def __init__(self, database: Database, hub: Hub, revisions: Revisions, clock: Clock, *, away: Callable[[], bool]) -> None:
        self._database = database
        self._hub = hub
        self._revisions = revisions
        self._clock = clock
        self._away = away
        self._fed: dict[str, tuple[int, int]] = {}
        """Trips that were fed: their number, and the fix time from which on their line must be read again."""
        self._changed = asyncio.Event()
        self.feeding = False
        """Whether the broker is away, so that the store is read."""

    # --- nodes.Observer -----------------------------------------------------------------------------------------------------

    def missed(self, peer: str) -> None: ...

    def gone(self, peer: str) -> None: ...

    def connection_changed(self, connected: bool) -> None:
        self._changed.set()

    # --- the work -----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        trouble = False
        while True:
            self._changed.clear()
            began = time.monotonic()
            try:
                await self.work()
                trouble = False
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                if not trouble:
                    logger.warning("watched trips can't be fed from the store now, trying again: %s", error)
                trouble = True
            # If the connection changes again and again, the store is still read at most twice a second.
            await asyncio.sleep(EVERY_SECONDS / 4)
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, EVERY_SECONDS - (time.monotonic() - began)))
            except TimeoutError:
                continue

    async def work(self) -> None:
        """Feeds once, if the broker is away. Asks for revisions once it is back. Raises `StoreUnavailable`."""
        was_feeding, self.feeding = self.feeding, self._away()
        if self.feeding or was_feeding:
            # Once more after the outage, for what was committed meanwhile.
            await self._feed()
        elif self._fed:
            fed, self._fed = self._fed, {}
            for trip_id, (trip, since) in fed.items():
                self._revisions.revise(trip_id, trip, since, FOREVER)

    async def _feed(self) -> None:
        feeds: dict[tuple[int, int], TripFeed] = {}
        now = self._clock()
        for trip_id, feed in self._hub.feeds.items():
            trip = feed.trip
            if feed.queues and feed.showing and trip.vehicle_number is not None and feed.vehicle_id not in self._hub.drivers:
                feeds[trip.vehicle_number, trip.number] = feed
                self._fed.setdefault(trip_id, (trip.number, (feed.newest or now) - OVERLAP_MS))
        if not feeds:
            return
        shown = [Shown(vehicle, trip, feed.newest) for (vehicle, trip), feed in feeds.items()]
        async with self._database.reading() as connection:
            part = Slice(SLICE_SECONDS)
            async for positions in newer_positions.of_trips(connection, shown, now):
                for position in positions:
                    assert position.trip is not None
                    self._show(feeds[position.vehicle, position.trip], position)
                    await part.rest()

    def _show(self, feed: TripFeed, position: Position) -> None:
        """Shows it, unless the trip has changed since it was read, or something newer was shown."""
        if (
            self._hub.feeds.get(feed.trip.trip_id) is feed
            and feed.showing
            and feed.vehicle_id == position.vehicle_id
            and position.fix_time > feed.newest
            and (position.vehicle_id, position.fix_time) not in feed.taken_out
        ):
            feed.newest_elsewhere = position.fix_time
            feed.publish_position(position)
            FED_FROM_STORE.inc()
