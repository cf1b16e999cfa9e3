"""Fleets come into memory when somebody looks at them or drives for them. They leave it when nobody has for a while.

    want, load -> one snapshot: the fleet, its geofences, its vehicles part by part -> what was overtaken, again -> loaded

A fleet is *held* from before the snapshot on. So every change meanwhile is applied to what is in memory, and is noted for what
is not (`live.loading`). Geofences that change meanwhile are read afterwards (`FencesInForce.turn`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import NamedTuple

from tracking.errors import StoreUnavailable, StoreWentBack
from tracking.live.fleet import FleetFeed
from tracking.live.fleets import Fleets
from tracking.model import Clock, Fleet, Position, Trip
from tracking.monitor.fences import built
from tracking.monitor.monitor import Monitor
from tracking.store import changes, fleets, geofence_stays, geofences, latest_positions, silences, trips, vehicles
from tracking.store.geofence_stays import StayRow
from tracking.store.pool import Connection, Database
from tracking.store.vehicles import Stored

logger = logging.getLogger(__name__)

AT_ONCE = 3
"""Fleets that are read at the same time, each by one connection of the database."""
PART = 200
"""Vehicles in one question: about two milliseconds of the event loop."""
SLICE_SECONDS = 0.002
AGAIN_SECONDS = 0.02
"""Pause before vehicles that changed during the reading are read again."""
RETRY_SECONDS = 0.5
SLOWEST_RETRY_SECONDS = 30.0
WAIT_SECONDS = 5.0
"""How long a dispatcher waits for the fleet."""
LOOK_SECONDS = 60.0
UNUSED_MS = 600_000
"""How long an unused fleet stays in memory."""


class _Part(NamedTuple):
    """Vehicles and their state, as of the change `as_of`. Keys are their numbers; for trips, the vehicles' ids."""

    as_of: int
    vehicles: Sequence[Stored]
    trips: dict[str, Trip]
    positions: dict[int, Position]
    stays: dict[int, list[StayRow]]
    silent: set[int]


class Loader:
    """`want` and `load` bring a fleet into memory. `run` drops unused fleets, until it is cancelled.

    `follow` returns when the change log is followed. `sweeping` is held while silences of fleets that are not held are stored.
    `connected` are the ids of vehicles with a driver. `gone_after` (s) is how long a vehicle may be silent before it leaves its
    fleet's map.
    """

    def __init__(
        self,
        database: Database,
        hub_fleets: Fleets,
        monitor: Monitor,
        follow: Callable[[], Awaitable[None]],
        clock: Clock,
        *,
        sweeping: asyncio.Lock,
        connected: Container[str],
        gone_after: float,
    ) -> None:
        self._database = database
        self._fleets = hub_fleets
        self._monitor = monitor
        self._follow = follow
        self._clock = clock
        self._sweeping = sweeping
        self._connected = connected
        self._gone_after_ms = int(gone_after * 1000)
        self._rooms = asyncio.Semaphore(AT_ONCE)
        self._loads: dict[str, asyncio.Task[FleetFeed | None]] = {}
        self._over = False
        self.on_look: Callable[[FleetFeed], Awaitable[None]] | None = None
        """Waits for what other hubs know of a fleet that somebody is about to look at. `cluster` sets it."""
        hub_fleets.on_needed = self.want

    # --- loading ------------------------------------------------------------------------------------------------------

    def want(self, fleet_id: str) -> None:
        """Somebody drives for the fleet: it is loaded in the background, unless it is in memory."""
        feed = self._fleets.feeds.get(fleet_id)
        if feed is not None and feed.loaded:
            feed.used_at = self._clock()
        elif not self._over:
            self._begin(fleet_id)

    async def load(self, fleet_id: str) -> FleetFeed | None:
        """The fleet with all of its vehicles, from memory or the store, for somebody who looks at it; None if there is no such
        fleet.

        It waits while the database is away. Raises `StoreUnavailable` if the hub goes down, or the database went back.
        """
        feed = self._fleets.feeds.get(fleet_id)
        if feed is None or not feed.loaded:
            if self._over:
                raise StoreUnavailable("the hub is going down")
            loading = self._begin(fleet_id)
            # This caller may be cancelled. Others wait for the same loading.
            await asyncio.wait({loading})
            if loading.cancelled():
                raise StoreUnavailable("the hub is going down")
            feed = loading.result()
        if feed is not None:
            feed.used_at = self._clock()
            if self.on_look is not None:
                await self.on_look(feed)
        return feed

    async def shown(self, fleet_id: str) -> None:
        """Waits until the fleet is loaded, at most `WAIT_SECONDS`."""
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            await asyncio.wait_for(self.load(fleet_id), WAIT_SECONDS)

    def read_again(self, fleet_id: str) -> None:
        """A change of the fleet could not be applied: if it is in memory, it is read again."""
        feed = self._fleets.feeds.get(fleet_id)
        if feed is not None and feed.loaded:
            feed.loaded = False
            feed.as_of = 0
            self.want(fleet_id)

    def _begin(self, fleet_id: str) -> asyncio.Task[FleetFeed | None]:
        task = self._loads.get(fleet_id)
        if task is None:
            self._fleets.held.add(fleet_id)
            task = self._loads[fleet_id] = asyncio.create_task(self._load(fleet_id), name=f"loading fleet {fleet_id}")
            task.add_done_callback(lambda done: self._ended(fleet_id, done))
        return task

    def _ended(self, fleet_id: str, task: asyncio.Task[FleetFeed | None]) -> None:
        del self._loads[fleet_id]
        if task.cancelled() or task.exception() is not None or task.result() is None:
            self._fleets.held.discard(fleet_id)

    async def _load(self, fleet_id: str) -> FleetFeed | None:
        wait = RETRY_SECONDS
        while True:
            try:
                await self._follow()
                async with self._rooms, self._monitor.fences.turn(fleet_id):
                    with self._fleets.loading.reading():
                        return await self._load_once(fleet_id)
            except StoreWentBack:
                raise
            except StoreUnavailable as error:
                logger.warning("fleet %s can't be loaded now, trying again: %s", fleet_id, error)
                wait = RETRY_SECONDS
            except Exception:
                # The other fleets are loaded all the same.
                logger.exception("fleet %s can't be loaded, trying again in %g s", fleet_id, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, SLOWEST_RETRY_SECONDS)

    async def _load_once(self, fleet_id: str) -> FleetFeed | None:
        # Silences that are being stored for this fleet must be in the snapshot.
        async with self._sweeping:
            pass
        overtaken: list[int] = []
        async with self._database.snapshot() as connection:
            as_of = await _head(connection)
            fleet = await fleets.get(connection, fleet_id) if "\0" not in fleet_id else None
            if fleet is None:
                return None
            self._take_up_fleet(fleet, as_of)
            rows = await geofences.rows_through_cursor(connection, fleet_id)
            async for part in vehicles.in_parts(connection, fleet_id, PART):
                overtaken += await self._keep(await self._read(connection, as_of, part))
        # Thousands of geofences take a thread longer than a transaction may be idle, so none is open.
        self._monitor.fences.take_up(fleet_id, await asyncio.to_thread(built, rows))
        while overtaken or not self._fleets.loading.is_current(fleet_id, as_of):
            await asyncio.sleep(AGAIN_SECONDS)
            again, overtaken = overtaken, []
            async with self._database.snapshot() as connection:
                as_of = await _head(connection)
                fleet = await fleets.get(connection, fleet_id)
                if fleet is not None:
                    self._take_up_fleet(fleet, as_of)
                for begin in range(0, len(again), PART):
                    stored = await vehicles.by_number(connection, again[begin : begin + PART])
                    mine = [one for one in stored.values() if one.vehicle.fleet_id == fleet_id]
                    overtaken += await self._keep(await self._read(connection, as_of, mine))
        feed = self._fleets.loaded(fleet_id)
        feed.used_at = self._clock()
        return feed

    def _take_up_fleet(self, fleet: Fleet, as_of: int) -> None:
        feed = self._fleets.feeds.get(fleet.fleet_id)
        if feed is None or feed.as_of < as_of:
            self._monitor.fleet_changed(fleet)
            self._fleets.feeds[fleet.fleet_id].as_of = as_of

    async def _read(self, connection: Connection, as_of: int, stored: Sequence[Stored]) -> _Part:
        numbers = [one.number for one in stored]
        stays: dict[int, list[StayRow]] = {}
        for stay in await geofence_stays.of_vehicles(connection, numbers):
            stays.setdefault(stay.vehicle, []).append(stay)
        return _Part(
            as_of,
            stored,
            await trips.current_of_vehicles(connection, numbers),
            await latest_positions.stored(connection, numbers, self._clock() - self._gone_after_ms),
            stays,
            await silences.silent(connection, numbers),
        )

    async def _keep(self, part: _Part) -> list[int]:
        """Takes over the vehicles that did not change meanwhile. Returns the numbers of the others, to be read again."""
        overtaken: list[int] = []
        began = time.perf_counter()
        for stored in part.vehicles:
            number, vehicle_id = stored.number, stored.vehicle.vehicle_id
            live = self._fleets.vehicles.get(vehicle_id)
            # A removed vehicle with the same id may be in memory until its removal is applied.
            is_another = live is not None and live.number not in (0, number)
            loading = self._fleets.loading
            if is_another or not all(loading.is_current(key, part.as_of) for key in (number, vehicle_id)):
                overtaken.append(number)
            else:
                self._keep_one(stored, part)
            if time.perf_counter() - began > SLICE_SECONDS:
                await asyncio.sleep(0)
                began = time.perf_counter()
        return overtaken

    def _keep_one(self, stored: Stored, part: _Part) -> None:
        number, vehicle_id = stored.number, stored.vehicle.vehicle_id
        live = self._fleets.by_number.get(number)
        if live is None or live.as_of < part.as_of:
            live = self._fleets.know(stored.vehicle, stored.joined_at, number)
            live.as_of = part.as_of
            trip = part.trips.get(vehicle_id)
            if live.trip != trip:
                self._fleets.set_trip(vehicle_id, trip)
        self._monitor.take_up(live, part.positions.get(number), part.stays.get(number, ()), number in part.silent)

    # --- letting go ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                try:
                    await self.let_go()
                except Exception:
                    logger.exception("an error: unused fleets were not dropped")
        finally:
            self._over = True
            for task in self._loads.values():
                task.cancel()

    async def let_go(self) -> None:
        """Drops the fleets that nobody has used for a while, and whose vehicles are all silent."""
        for feed in list(self._fleets.feeds.values()):
            if not feed.loaded:
                # A vehicle may have moved into a fleet that nobody uses.
                if not self._fleets.holds(feed.fleet.fleet_id):
                    await self._drop(feed)
            elif self._is_unused(feed) and await self._is_silent(feed):
                await self._drop(feed)

    def _is_unused(self, feed: FleetFeed) -> bool:
        now = self._clock()
        if feed.queues or now < feed.used_at:
            feed.used_at = now
        return now - feed.used_at >= UNUSED_MS

    async def _is_silent(self, feed: FleetFeed) -> bool:
        """Whether nobody drives for it, and no event is to come of its vehicles while they stay silent."""
        for index, vehicle in enumerate(list(feed.vehicles), 1):
            if vehicle.vehicle.vehicle_id in self._connected:
                feed.used_at = self._clock()
                return False
            if self._monitor.is_heard(vehicle):
                return False
            if index % PART == 0:
                await asyncio.sleep(0)
        return True

    async def _drop(self, feed: FleetFeed) -> None:
        fleet_id = feed.fleet.fleet_id
        async with self._monitor.fences.turn(fleet_id):
            # It may have been used meanwhile.
            if not self._is_unused(feed) or feed in self._monitor.busy() or fleet_id in self._loads:
                return
            feed.loaded = False
            self._fleets.held.discard(fleet_id)
            self._monitor.fences.forget(fleet_id)
            for index, vehicle in enumerate(list(feed.vehicles), 1):
                if vehicle in feed.vehicles and vehicle.vehicle.vehicle_id not in self._connected:
                    self._fleets.let_go(vehicle)
                if index % PART == 0:
                    await asyncio.sleep(0)
                    if self._fleets.holds(fleet_id):
                        return  # it is wanted again: its loading waits for this, and reads what is missing
            if not feed.vehicles and self._fleets.feeds.get(fleet_id) is feed:
                del self._fleets.feeds[fleet_id]


async def _head(connection: Connection) -> int:
    newest = await changes.head(connection)
    return newest.number if newest is not None else 0
