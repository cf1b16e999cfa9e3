"""The lines of watched trips: read from the store once for all who come, thinned in a thread, kept for a moment.

A long trip has a hundred thousand fixes. As rows they are a second of Python, for each tab that is opened. So PostgreSQL makes
lines of them. A thread thins the lines with numpy and GEOS to what a frame holds. The event loop gets the result.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import numpy as np
from msgspec import UNSET

from tracking.live.trip_line import Line
from tracking.live.trips import TripFeed
from tracking.model import Clock, Position, Trip
from tracking.protocol.fit import TRACK_ROOM, DrivenPoint, thinned
from tracking.protocol.passenger import SnapshotPosition
from tracking.store import newer_positions, trip_lines
from tracking.store.gathered import Gathered
from tracking.store.pool import Connection, Database
from tracking.store.positions import TrackRow

KEPT_MS = 15_000
"""How long a line is used again."""
MAX_KEPT = 32
"""Lines that are kept at once, some 250 KB each."""
READ_AT_ONCE = 2
"""Long lines that are read at the same time. The database has other work."""
ROOM = TRACK_ROOM * 3 // 4
"""Bytes that a line is thinned to. New points fit beside it without another thinning."""
_EWKB_HEAD = 9
"""Bytes before the points of a line without an SRID: byte order, type and number of points."""


class Lines:
    """Returns the line of a feed's trip. If a vehicle of the trip is erased, `TripFeed.forget` drops the line."""

    def __init__(
        self,
        database: Database,
        tracks: Gathered[int, list[TrackRow]],
        pending: Callable[[str], Sequence[Position]],
        clock: Clock,
        erased: Callable[[], AbstractContextManager[Collection[str]]],
    ) -> None:
        """`tracks` returns short tracks. `pending` returns positions of a trip that may not be committed yet. `erased` is
        `Hub.erased`.
        """
        self._erased = erased
        self._database = database
        self._tracks = tracks
        self._pending = pending
        self._clock = clock
        self._readings: dict[TripFeed, asyncio.Task[Line]] = {}
        self._kept: dict[TripFeed, None] = {}
        """The feeds with a line. The line that was read first comes first."""
        self._turns = asyncio.Semaphore(READ_AT_ONCE)

    async def of(self, feed: TripFeed) -> Line:
        """The line as it was at most `KEPT_MS` ago. Raises `StoreUnavailable`. The caller leaves out what `Hub.erased` names.

        The feed has all that was published since, unless its `before_kept` is above the line's `began`. The caller checks this
        after its last await.
        """
        line = feed.line
        if line is not None and line.began >= feed.before_kept and 0 <= self._clock() - line.read_at < KEPT_MS:
            return line
        reading = self._readings.get(feed)
        if reading is None:
            began, uncommitted = feed.offset, list(self._pending(feed.trip.trip_id))
            rows = await self._tracks.get(feed.trip.number)
            if rows is not None:
                track = [(row.fix_time, row.longitude, row.latitude, row.vehicle_id) for row in rows]
                return Line(began, self._clock(), track, uncommitted, _last(rows))
            reading = self._readings.get(feed)
        if reading is None:
            reading = self._readings[feed] = asyncio.create_task(self._read(feed))
            reading.add_done_callback(lambda done: self._ended(feed, done))
        return await asyncio.shield(reading)

    async def part(self, trip: int, from_: int, to: int) -> list[DrivenPoint]:
        """A trip's line between two fix times, both included, in the order of time. Raises `StoreUnavailable`."""
        async with self._turns:
            async with self._database.reading() as connection:
                pieces = await _pieces(connection, trip, from_, to)
            return await asyncio.to_thread(_joined, pieces)

    async def newer(self, trip: Trip, shown: int) -> list[Position]:
        """The next plausible positions of the trip's vehicle after this fix time, in order. If it is 0: the newest one alone.

        Raises `StoreUnavailable`.
        """
        if trip.vehicle_number is None:
            return []
        async with self._database.reading() as connection:
            wanted = [newer_positions.Shown(trip.vehicle_number, trip.number, shown)]
            parts = newer_positions.of_trips(connection, wanted, self._clock())
            return [position async for part in parts for position in part]

    def let_go(self) -> None:
        """Drops lines that were kept long enough. To be called every few seconds."""
        now = self._clock()
        for feed in list(self._kept):
            if feed.line is None or not 0 <= now - feed.line.read_at < KEPT_MS:
                self._drop(feed)

    async def _read(self, feed: TripFeed) -> Line:
        # This is noted before the reading begins. What is committed meanwhile is then in at least one of both.
        began, read_at, uncommitted = feed.offset, self._clock(), list(self._pending(feed.trip.trip_id))
        with self._erased() as erased:
            async with self._turns:
                async with self._database.reading() as connection:
                    pieces = await _pieces(connection, feed.trip.number)
                    last = _last(await trip_lines.last_of_trip(connection, feed.trip.number))
                stored = await asyncio.to_thread(_joined, pieces)
        line = Line(began, read_at, stored, uncommitted, last).without(erased)
        self._kept.pop(feed, None)
        if len(self._kept) >= MAX_KEPT:
            self._drop(next(iter(self._kept)))
        self._kept[feed] = None
        feed.line = line
        return line

    def _ended(self, feed: TripFeed, reading: asyncio.Task[Line]) -> None:
        del self._readings[feed]
        if not reading.cancelled():
            reading.exception()  # those who asked may be gone, and nobody else reads it

    def _drop(self, feed: TripFeed) -> None:
        del self._kept[feed]
        feed.line = None


_Pieces = dict[str, list[bytes]]
"""The pieces of each vehicle's line, as EWKB."""


async def _pieces(connection: Connection, trip: int, from_: int | None = None, to: int | None = None) -> _Pieces:
    pieces: _Pieces = {}
    async for vehicle_id, piece in trip_lines.line_of_trip(connection, trip, from_=from_, to=to):
        pieces.setdefault(vehicle_id, []).append(piece)
    return pieces


def _joined(pieces: _Pieces) -> list[DrivenPoint]:
    lines = {}
    for vehicle_id, parts in pieces.items():
        line = np.concatenate([np.frombuffer(part, "<f8", offset=_EWKB_HEAD).reshape(-1, 3) for part in parts])
        lines[vehicle_id] = line[np.argsort(line[:, 2], kind="stable")]
    return thinned(lines, ROOM)


def _last(rows: Sequence[TrackRow]) -> dict[str, SnapshotPosition]:
    return {vehicle_id: _position_of(row) for vehicle_id, row in {row.vehicle_id: row for row in rows}.items()}


def _position_of(row: TrackRow) -> SnapshotPosition:
    return SnapshotPosition(
        row.latitude,
        row.longitude,
        row.fix_time,
        row.fix_time if row.server_time is None else row.server_time,
        UNSET if row.bearing is None else row.bearing,
        UNSET if row.speed is None else row.speed,
        UNSET if row.accuracy is None else row.accuracy,
    )
