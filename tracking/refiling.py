"""Refiling corrects the trip of fixes that were accepted while a change of their vehicle's trips was not applied here yet.

A fix gets its trip when it is accepted, from the spans in memory. A change of them may be committed a moment before, and be
applied here a moment later. `refile` is called then. It corrects positions in memory at once, and committed positions as soon
as the store can be written. [Why it is done afterwards](../docs/decisions/0019-fixes-during-changes.md).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import asyncpg

from tracking.errors import StoreUnavailable
from tracking.history.revisions import Revisions
from tracking.history.summaries import Summaries
from tracking.ingest.recorder import Recorder
from tracking.ingest.rejections import CLOCK_SKEW
from tracking.ingest.vehicles import Filed, IngestVehicle, IngestVehicles, earliest_difference, filed_anew
from tracking.live.database_clock import CLOCK_TOLERANCE_MS
from tracking.live.hub import Hub
from tracking.model import Clock, Position, Trip
from tracking.store import positions
from tracking.store.pool import Database
from tracking.store.positions import Accepted
from tracking.store.trips import Span

logger = logging.getLogger(__name__)

VEHICLES_AT_ONCE = 100
"""Vehicles whose rows are read by one query."""
ROWS_AT_ONCE = 1_000
"""Rows of one vehicle that are read and changed in one step."""
RETRY_SECONDS = 1.0
LOCK_MS = 500
"""How long a correction waits for a lock. The other vehicles wait meanwhile, so it is short."""


class _Moved(NamedTuple):
    """A position that belongs to another trip than it was filed to."""

    fix_time: int
    suspect: bool
    before: int | None
    after: Filed


class _Due(NamedTuple):
    """Rows of a vehicle that must be checked. See `Refiling.refile`."""

    vehicle: IngestVehicle
    since: int


class Refiling:
    """`refile` corrects memory at once. `run` corrects the store until it is cancelled."""

    def __init__(
        self,
        database: Database,
        ingest_vehicles: IngestVehicles,
        hub: Hub,
        recorder: Recorder,
        revisions: Revisions,
        summaries: Summaries,
        clock: Clock,
        *,
        ahead: Callable[[], int],
    ) -> None:
        """`ahead` returns by how many ms the database's clock is ahead of the hub's."""
        self._database = database
        self._ingest_vehicles = ingest_vehicles
        self._hub = hub
        self._recorder = recorder
        self._queue = recorder.queue
        self._latest = recorder.latest
        self._revisions = revisions
        self._summaries = summaries
        self._clock = clock
        self._ahead = ahead
        self._due: dict[int, _Due] = {}
        self._asked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def set_spans(self, vehicle: IngestVehicle, spans: Sequence[Span]) -> None:
        """Gives a vehicle its new spans, oldest first, and refiles the fixes that raced the change."""
        before = vehicle.windows
        vehicle.set_spans(spans)
        since = earliest_difference(before, vehicle.windows)
        if since is None:
            return
        self.refile(vehicle, since)

    def refile(self, vehicle: IngestVehicle, since: int) -> None:
        """To be called in the same step of the event loop in which the vehicle's spans changed.

        `since` is the `earliest_difference` between the old and the new spans.
        """
        moved: list[tuple[Position, Filed]] = []
        for position in self._held(vehicle):
            if position.fix_time >= since:
                filed = filed_anew(vehicle.windows, position.fix_time, position.server_time, position.trip, self._ahead())
                if filed is not None:
                    moved.append((position, filed))
        if moved:
            before = {position.trip: position.trip_id for position, _ in moved}
            told = [_Moved(position.fix_time, bool(position.suspect), position.trip, filed) for position, filed in moved]
            waiting = {id(position) for position in self._queue.pending_of(vehicle.number)}
            of_queue = [(position, filed) for position, filed in moved if id(position) in waiting]
            self._queue.file_anew([position for position, _ in of_queue], [filed for _, filed in of_queue])
            for position, filed in moved:
                position.trip, position.trip_id = filed
            self._tell(vehicle, told, before, [position for position, _ in moved])
        self._show_newest(vehicle)
        known = self._due.get(vehicle.number)
        if known is not None:
            since = min(since, known.since)
        self._due[vehicle.number] = _Due(vehicle, since)
        self._idle.clear()
        self._asked.set()

    def _held(self, vehicle: IngestVehicle) -> list[Position]:
        """The vehicle's positions in memory: those in the queue, the one that `Latest` will write, and the newest."""
        live = self._hub.fleets.vehicles.get(vehicle.vehicle_id)
        others = (self._latest.noted(vehicle.number), live.position if live is not None else None, vehicle.newest)
        held = {id(position): position for position in self._queue.pending_of(vehicle.number)}
        held.update((id(other), other) for other in others if other is not None and other.vehicle == vehicle.number)
        return list(held.values())

    def begins_to_show(self, trip: Trip) -> None:
        """A watched trip shows its vehicle from now on. The vehicle's newest position was not shown there yet."""
        vehicle = self._ingest_vehicles.get(trip.vehicle.vehicle_id) if trip.vehicle is not None else None
        if vehicle is not None:
            self._show_newest(vehicle)
        if self._hub.trip_exchange is not None:
            self._hub.trip_exchange.begins_to_show(trip)

    def _show_newest(self, vehicle: IngestVehicle) -> None:
        position = vehicle.newest
        feed = self._hub.feeds.get(position.trip_id) if position is not None and position.trip_id is not None else None
        if position is None or feed is None or not feed.showing or feed.vehicle_id != position.vehicle_id:
            return
        if position.fix_time > feed.newest:
            feed.publish_position(position)

    def _tell(
        self,
        vehicle: IngestVehicle,
        moved: Iterable[_Moved],
        ids: Mapping[int | None, str | None],
        held: Sequence[Position] = (),
    ) -> None:
        """Tells the watchers of trips that got or lost positions. `ids` has the ids of the trips that lost some, by number.

        `held` are those of the positions that may not be committed.
        """
        vehicle_id, newest = vehicle.vehicle_id, vehicle.newest
        lost: dict[tuple[int, str], list[int]] = {}
        got: dict[tuple[int, str], list[int]] = {}
        for fix_time, suspect, before, (trip, trip_id) in moved:
            if suspect:
                continue
            before_id = ids.get(before)
            if before is not None and before_id is not None:
                lost.setdefault((before, before_id), []).append(fix_time)
            if trip is not None and trip_id is not None:
                got.setdefault((trip, trip_id), []).append(fix_time)
        self._tell_elsewhere(vehicle_id, lost, got, held)
        for (trip, trip_id), times in lost.items():
            feed = self._hub.feeds.get(trip_id)
            if feed is not None:
                feed.take_out(vehicle_id, times)
                self._revisions.revise(trip_id, trip, min(times), max(times), taken_out=max(times))
        for (trip, trip_id), times in got.items():
            feed = self._hub.feeds.get(trip_id)
            if feed is None:
                continue
            feed.put_in(vehicle_id, times)
            if newest is not None and newest.trip == trip and feed.vehicle_id == vehicle_id:
                # This position is shown as the vehicle's place.
                times = [fix_time for fix_time in times if fix_time != newest.fix_time]
            if times:
                self._revisions.revise(trip_id, trip, min(times), max(times))

    def _tell_elsewhere(
        self,
        vehicle_id: str,
        lost: Mapping[tuple[int, str], list[int]],
        got: Mapping[tuple[int, str], list[int]],
        held: Sequence[Position],
    ) -> None:
        """The same to the watchers on other hubs. These may read the store before the positions are committed here."""
        trip_exchange = self._hub.trip_exchange
        if trip_exchange is None:
            return
        for (trip, trip_id), times in lost.items():
            trip_exchange.refiled(trip_id, trip, vehicle_id, times, ())
        for (trip, trip_id), times in got.items():
            with_it = [position for position in held if position.trip_id == trip_id and not position.suspect]
            if with_it:
                trip_exchange.refiled(trip_id, trip, vehicle_id, (), with_it)
            else:
                trip_exchange.corrected(trip_id, trip, min(times), max(times))

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed."""
        for vehicle in vehicles:
            self._due.pop(vehicle, None)

    # --- what is committed already ----------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._correct_all()
            except (StoreUnavailable, asyncpg.PostgresError) as error:
                # Any error is tried again, and stops nothing else.
                logger.warning("can't correct the trips of fixes that raced a change, trying again: %s", error)
                self._asked.set()
                await asyncio.sleep(RETRY_SECONDS)
            if not self._due:
                self._idle.set()

    async def flush(self) -> None:
        """Waits until nothing is left to correct."""
        await self._idle.wait()

    async def _correct_all(self) -> None:
        """Corrects all that is due now. Raises the last error of a vehicle, after the other vehicles are done."""
        trouble: Exception | None = None
        waiting = list(self._due)
        for start in range(0, len(waiting), VEHICLES_AT_ONCE):
            batch = {
                vehicle: self._due[vehicle] for vehicle in waiting[start : start + VEHICLES_AT_ONCE] if vehicle in self._due
            }
            # Positions that are being stored at the moment may have the old trip.
            await self._recorder.group_settled()
            await self._latest.settled()
            left = dict.fromkeys(batch, self._clock() + CLOCK_SKEW + CLOCK_TOLERANCE_MS)
            while left:
                rows = await self._accepted(batch, left)
                left = {}
                for vehicle, of_vehicle in rows.items():
                    due = batch[vehicle]
                    if vehicle not in self._due:
                        continue  # The vehicle was removed.
                    try:
                        await self._correct(due, of_vehicle)
                    except (StoreUnavailable, asyncpg.PostgresError) as error:
                        trouble = error
                        del batch[vehicle]
                        continue
                    times = [row.fix_time for row in of_vehicle if not row.latest]
                    if len(times) == ROWS_AT_ONCE:
                        # Far fewer fixes than these share one millisecond.
                        left[vehicle] = min(min(times), max(times) - 1)
            for vehicle, due in batch.items():
                if self._due.get(vehicle) is due:
                    del self._due[vehicle]
        if trouble is not None:
            raise trouble

    async def _accepted(self, batch: Mapping[int, _Due], until: Mapping[int, int]) -> dict[int, list[Accepted]]:
        """The newest rows of each vehicle in `until`, up to that fix time, that may need a correction."""
        wanted = [
            (vehicle, batch[vehicle].since, last, batch[vehicle].since - CLOCK_TOLERANCE_MS) for vehicle, last in until.items()
        ]
        async with self._database.connection() as connection:
            found = await positions.accepted_since(connection, wanted, ROWS_AT_ONCE)
        rows: dict[int, list[Accepted]] = {}
        for row in found:
            rows.setdefault(row.vehicle, []).append(row)
        return rows

    async def _correct(self, due: _Due, rows: Iterable[Accepted]) -> None:
        vehicle = due.vehicle
        spans: dict[int | None, str | None] = {window.span.trip: window.span.trip_id for window in vehicle.windows}
        moved: list[tuple[Accepted, int | None]] = []
        for row in rows:
            filed = filed_anew(vehicle.windows, row.fix_time, row.server_time, row.trip, self._ahead())
            if filed is not None:
                moved.append((row, filed.trip))
        if not moved:
            return
        async with self._database.transaction() as connection:
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
            term = vehicle.home.term if vehicle.home is not None else None
            changed = await positions.file_anew(connection, vehicle.number, moved, term)
        if not changed:
            return
        self._summaries.refiled({trip for row, after in changed for trip in (row.trip, after) if trip is not None})
        told = [_Moved(row.fix_time, row.suspect, row.trip, Filed(after, spans.get(after))) for row, after in changed]
        self._tell(vehicle, told, spans)
