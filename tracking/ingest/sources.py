"""A vehicle as ingest knows it: its motion, its sessions, and when it was under way on which trip."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tracking.ingest.filters import Motion
from tracking.model import Clock, Suspicion, Trip, Vehicle
from tracking.protocol import Rejected
from tracking.store import positions, sessions, trips, vehicles
from tracking.store.pool import Database
from tracking.store.trips import Span

GRACE_MS = 30_000
"""A fix may be this much older than the start of the trip it belongs to: devices' clocks lag, and a tap comes late."""
FOREVER = 253_402_300_799_999
"""9999-12-31: past any fix time."""
REMEMBERED_MS = 7 * 86_400_000
"""Older fixes are rejected, so older spans are not needed."""


class Receiver(Protocol):
    """Whoever is to be told that fixes are handled: a driver's connection."""

    def acknowledge(self, session: "Session", rejected: Sequence[Rejected]) -> None: ...


class Session:
    """A run of seqs. `seen` is the last one taken, `handled` the last one stored for good or rejected."""

    __slots__ = ("handled", "name", "number", "previewed", "receiver", "seen", "shown")

    def __init__(self, number: int, name: str, handled: int) -> None:
        self.number = number
        self.name = name
        self.handled = handled
        self.seen = handled
        self.receiver: Receiver | None = None
        self.shown = handled
        """The last seq judged and shown while the queue was full: these come again, and must not be judged against
        themselves."""
        self.previewed: dict[int, tuple[tuple[Suspicion, ...], bool] | None] = {}
        """Why those were doubted and whether they moved the marker, where that is worth a note; None: not judged."""


class _Window(NamedTuple):
    start: int
    end: int | None
    span: Span


class Source:
    """One vehicle: its number in the store, its names, its current trip, its motion and its sessions."""

    __slots__ = ("_windows", "motion", "number", "sessions", "trip", "vehicle")

    def __init__(self, number: int, vehicle: Vehicle, spans: Sequence[Span] = (), trip: Trip | None = None) -> None:
        self.number = number
        self.vehicle = vehicle
        self.trip = trip
        self.motion = Motion()
        self.sessions: dict[str, Session] = {}
        self._windows: list[_Window] = []
        self.set_spans(spans)

    def set_spans(self, spans: Sequence[Span]) -> None:
        """Spans of this vehicle, oldest first; they do not overlap."""
        windows: list[_Window] = []
        previous_end: int | None = None
        for span in spans:
            start = span.started_at - GRACE_MS
            if previous_end is not None:
                # Never before the previous trip's end: its last seconds are not the next passenger's to see.
                start = max(start, previous_end + 1)
            windows.append(_Window(start, span.ended_at, span))
            previous_end = span.ended_at
        windows.reverse()
        self._windows = windows

    def span_at(self, instant: int) -> Span | None:
        """The trip that was under way at `instant`, or would be after the grace."""
        for start, end, span in self._windows:
            if instant >= start:
                return span if span.trip_id is not None and (end is None or instant <= end) else None
        return None


class Sources:
    """The vehicles in memory, loaded when a driver connects and kept: the live map goes on while the database is away."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sources: dict[str, Source] = {}
        self._changes: dict[str, int] = {}

    def get(self, vehicle_id: str) -> Source | None:
        return self._sources.get(vehicle_id)

    async def load(self, vehicle_id: str) -> Source | None:
        """The vehicle's source, from memory or the store; None where there is no such vehicle. Raises `StoreUnavailable`."""
        while (source := self._sources.get(vehicle_id)) is None:
            changes = self._changes.get(vehicle_id, 0)
            source = await self._read(vehicle_id)
            if source is None:
                return None
            # A change of the vehicle's trips that came in while we read may not be in what we read.
            if self._changes.get(vehicle_id, 0) == changes:
                self._sources.setdefault(vehicle_id, source)
        return source

    async def _read(self, vehicle_id: str) -> Source | None:
        async with self._database.connection() as connection:
            stored = await vehicles.get(connection, vehicle_id)
            if stored is None:
                return None
            spans = await trips.spans_of_vehicle(connection, stored.number, self._clock() - REMEMBERED_MS)
            trip = await trips.current_of_vehicle(connection, stored.number)
            source = Source(stored.number, stored.vehicle, spans, trip)
            newest = await positions.newest(connection, stored.number)
            if newest is not None:
                source.motion.seed(newest.latitude, newest.longitude, newest.fix_time, newest.speed)
        return source

    async def open_session(self, source: Source, name: str) -> Session:
        """The session of this name, from memory or the store. Raises `StoreUnavailable`."""
        session = source.sessions.get(name)
        if session is None:
            # After a restart of the hub all drivers come at once, and their sessions are there: that is one question for each.
            async with self._database.connection() as connection:
                found = await sessions.find(connection, source.number, name)
            if found is None:
                async with self._database.transaction() as connection:
                    found = await sessions.open(connection, source.number, name)
            session = source.sessions.setdefault(name, Session(found[0], name, found[1]))
            for other in [s for s in source.sessions.values() if s is not session and s.receiver is None]:
                if other.seen == other.handled:
                    del source.sessions[other.name]
        return session

    def changed(self, vehicle_id: str, spans: Sequence[Span], trip: Trip | None) -> Source | None:
        """Takes note that the vehicle's trips are now these; returns its source where it is in memory."""
        self._changes[vehicle_id] = self._changes.get(vehicle_id, 0) + 1
        source = self._sources.get(vehicle_id)
        if source is not None:
            source.set_spans(spans)
            source.trip = trip
        return source

    def forget(self, vehicle_id: str) -> None:
        """The vehicle is gone, or must be read anew."""
        self._changes[vehicle_id] = self._changes.get(vehicle_id, 0) + 1
        self._sources.pop(vehicle_id, None)
