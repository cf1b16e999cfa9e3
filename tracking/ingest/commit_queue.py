"""The queue of the recorder: fixes wait here, in the order of their arrival, until they are committed."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tracking.ingest.vehicles import Filed, Session
from tracking.model import Position
from tracking.protocol.driver import Rejected


class Entry(NamedTuple):
    """One handled fix: a position that is to be stored, or a rejection that is to be remembered."""

    session: Session
    seq: int
    position: Position | None
    rejected: Rejected | None


class CommitQueue:
    """The pipeline calls `offer`. The recorder calls `take` for a group, commits it, and calls `let_go`.

    `rows` fixes make a full group. `limit` fixes may wait in all.
    """

    def __init__(self, *, rows: int, limit: int) -> None:
        self.rows = rows
        self._limit = limit
        self.waiting: deque[Entry] = deque()
        """Fixes that are in no group yet."""
        self.group: list[Entry] = []
        """Fixes that are being committed."""
        self.arrived = asyncio.Event()
        """Set while fixes wait."""
        self.full_group = asyncio.Event()
        """Set while a full group waits."""
        self.idle = asyncio.Event()
        """Set while nothing waits and nothing is being committed."""
        self.idle.set()
        self.stalled = False
        """Whether commits fail at present. The recorder sets this."""
        self.taken = 0
        """Fixes that were taken into groups until now."""
        self._by_trip: dict[str, list[Position]] = {}
        """An index of the first `_indexed` entries of `group` and `waiting`, for `pending`.

        While the database is away, a hundred thousand fixes may wait and thousands of passengers may reconnect.
        """
        self._by_vehicle: dict[int, list[Position]] = {}
        """The same by vehicle."""
        self._indexed = 0
        self._erased: set[int] = set()
        """Numbers of vehicles that were removed while fixes of them waited. These fixes must not be shown any more."""
        self.has_lost = False
        """Whether fixes may wait here whose home was lost. They are not stored, and `pending` leaves them out."""

    @property
    def full(self) -> bool:
        return len(self.waiting) + len(self.group) >= self._limit

    @property
    def offered(self) -> int:
        """Fixes that were offered until now. They are stored in this order."""
        return self.taken + len(self.waiting)

    @property
    def done(self) -> int:
        """Fixes that are stored, or rejected, for good."""
        return self.taken - len(self.group)

    def offer(self, entry: Entry) -> None:
        """Adds a fix. The caller checks `full` first."""
        self.waiting.append(entry)
        self.idle.clear()
        self.arrived.set()
        if len(self.waiting) >= self.rows:
            self.full_group.set()

    def take(self, most: int) -> list[Entry]:
        """Makes a group of up to `most` fixes."""
        self.group = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        self.taken += len(self.group)
        if not self.waiting:
            self.arrived.clear()
        if len(self.waiting) < self.rows:
            self.full_group.clear()
        return self.group

    def hurry(self) -> None:
        """Has the recorder take a group now, without waiting for more."""
        if self.waiting:
            self.full_group.set()

    def let_go(self) -> None:
        """Drops the group, after COMMIT."""
        self.group = []
        self._clear_index()
        if not self.waiting:
            self._erased.clear()
            self.has_lost = False
            self.idle.set()

    # --- what is not committed yet ----------------------------------------------------------------------------------

    def pending(self, trip_id: str) -> Sequence[Position]:
        """The trip's positions that are not known to be committed, in order of arrival. Read them at once: more may join."""
        self._index()
        return self._by_trip.get(trip_id, ())

    def pending_of(self, vehicle: int) -> Sequence[Position]:
        """The same for a vehicle, by its number."""
        self._index()
        return self._by_vehicle.get(vehicle, ())

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed. `pending` leaves their fixes out, and they are not stored."""
        if not self.idle.is_set():
            self._erased.update(vehicles)
            self._clear_index()

    def drop_lost(self) -> None:
        """To be called when a home was lost: its fixes are neither shown nor stored any more."""
        if not self.idle.is_set():
            self.has_lost = True
            self._clear_index()

    def file_anew(self, positions: Sequence[Position], filed: Sequence[Filed]) -> None:
        """Moves positions, which `pending_of` returned, to these trips.

        A position that is being committed at the moment may be stored with either trip.
        """
        changed = {id(position) for position in positions}
        for left in {position.trip_id for position in positions if position.trip_id is not None}:
            if left in self._by_trip:
                self._by_trip[left] = [one for one in self._by_trip[left] if id(one) not in changed]
        for position, (trip, trip_id) in zip(positions, filed, strict=True):
            position.trip, position.trip_id = trip, trip_id
            if trip_id is not None:
                self._by_trip.setdefault(trip_id, []).append(position)
        for joined in {trip_id for _, trip_id in filed if trip_id is not None}:
            # In order of arrival, as before.
            self._by_trip[joined].sort(key=_arrival)

    def _index(self) -> None:
        by_trip, by_vehicle, erased = self._by_trip, self._by_vehicle, self._erased
        for entry in self._not_indexed():
            position = entry.position
            if position is None or position.vehicle in erased or entry.session.home.lost:
                continue
            by_vehicle.setdefault(position.vehicle, []).append(position)
            if position.trip_id is not None:
                by_trip.setdefault(position.trip_id, []).append(position)
        self._indexed = len(self.group) + len(self.waiting)

    def _not_indexed(self) -> Iterator[Entry]:
        new = len(self.group) + len(self.waiting) - self._indexed
        if new > len(self.waiting):
            yield from self.group[len(self.waiting) - new :]
        # From the nearer end, because a deque has no random access.
        yield from reversed(list(islice(reversed(self.waiting), new)))

    def _clear_index(self) -> None:
        self._by_trip.clear()
        self._by_vehicle.clear()
        self._indexed = 0


def _arrival(position: Position) -> int:
    return position.server_time
