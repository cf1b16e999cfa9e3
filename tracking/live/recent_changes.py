"""The recent changes of fleets, in memory."""

from bisect import bisect_right
from collections import deque
from typing import TypeVar

import msgspec

from tracking.live.change_entries import ABOUT_A_TRIP, Entry
from tracking.model import Event
from tracking.store.changes import ChangeKind, Row

MAX_ROWS = 20_000
"""Rows in memory, of all fleets together."""
ENTRY_BYTES = 400
"""Memory of a row besides its text."""
EVENTS_AT_ONCE = 100
"""Events that one page may have to read."""

Named = TypeVar("Named", int, str)


class _Fleet:
    """The recent rows of one fleet."""

    __slots__ = ("entries", "erased", "first", "floor", "numbers")

    def __init__(self, floor: int) -> None:
        self.entries: list[Entry] = []
        self.numbers: list[int] = []
        self.first = 0
        """The index of the first entry that is still held."""
        self.floor = floor
        """All rows of the fleet after this number are held."""
        self.erased = 0
        """How often something was erased. A reading that ran meanwhile is repeated."""

    def drop_first(self) -> None:
        self.floor = self.numbers[self.first]
        self.first += 1
        # The entries that are no longer held are at most half of the list.
        if self.first * 2 >= len(self.entries):
            del self.entries[: self.first]
            del self.numbers[: self.first]
            self.first = 0


class RecentChanges:
    """At most `most_bytes` and `MAX_ROWS` rows. A row is encoded once, for all readers of its fleet."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._fleets: dict[str, _Fleet] = {}
        self.floor: int | None = None
        """All rows after this number are held of a fleet that has none in memory. None: nothing was added yet."""
        self._order: deque[Entry] = deque()
        self._bytes = 0
        self._of_vehicle: dict[int, deque[Entry]] = {}
        self._of_trip: dict[str, deque[Entry]] = {}
        self._events_of_trip: dict[str, set[Entry]] = {}

    def add(self, row: Row) -> str | None:
        """Takes the next row that was applied. Returns the fleet that has a new entry, if one has."""
        if self.floor is None:
            self.floor = row.number - 1
        erases = False
        if row.kind == ChangeKind.VEHICLE_DELETED and row.vehicle is not None and not (row.internal or {}).get("moved"):
            self._forget_vehicle(row.vehicle)
            erases = True
        elif row.kind == ChangeKind.TRIP_DELETED and row.subject is not None:
            self._forget_trip(row.subject)
            erases = True
        if row.fleet_id is None:
            return None
        entry = Entry(row.fleet_id, row)
        if entry.frame is None and entry.event is None:
            return None
        fleet = self._fleets.get(entry.fleet_id)
        if fleet is None:
            fleet = self._fleets[entry.fleet_id] = _Fleet(self.floor)
        fleet.erased += erases
        fleet.entries.append(entry)
        fleet.numbers.append(entry.number)
        self._order.append(entry)
        self._bytes += ENTRY_BYTES + len(entry.frame or b"")
        if entry.vehicle is not None:
            self._of_vehicle.setdefault(entry.vehicle, deque()).append(entry)
        if entry.kind in ABOUT_A_TRIP and entry.subject is not None:
            self._of_trip.setdefault(entry.subject, deque()).append(entry)
        self.make_room()
        return entry.fleet_id

    def show(self, entry: Entry, event: Event) -> None:
        """The event of this entry was read."""
        entry.show(msgspec.json.encode(event))
        if self._is_held(entry):
            self._bytes += len(entry.frame or b"")
            if event.trip_id is not None:
                entry.trip_id = event.trip_id
                self._events_of_trip.setdefault(event.trip_id, set()).add(entry)

    def make_room(self) -> None:
        """Drops the oldest entries, past the limits."""
        while self._order and (self._bytes > self._most_bytes or len(self._order) > MAX_ROWS):
            entry = self._order.popleft()
            self._bytes -= ENTRY_BYTES + len(entry.frame or b"")
            self._fleets[entry.fleet_id].drop_first()
            _drop_first(self._of_vehicle, entry.vehicle, entry)
            _drop_first(self._of_trip, entry.subject, entry)
            self._unname(entry)

    def collect(
        self, fleet_id: str, after: int, limit: int, most_bytes: int, applied: int
    ) -> tuple[list[Entry], list[Entry], int]:
        """Entries past `after`, the entries among them whose events must be read first, and the cursor after them."""
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return [], [], max(after, applied)
        found: list[Entry] = []
        unread: list[Entry] = []
        size = 0
        for place in range(bisect_right(fleet.numbers, after, fleet.first), len(fleet.entries)):
            entry = fleet.entries[place]
            if entry.frame is not None:
                size += len(entry.frame)
            elif entry.event is not None:
                unread.append(entry)
            else:
                continue
            found.append(entry)
            if len(found) >= limit or size >= most_bytes or len(unread) >= EVENTS_AT_ONCE:
                return found, unread, entry.number
        return found, unread, max(after, applied)

    def is_beyond(self, fleet_id: str, after: int) -> bool:
        """Whether the fleet has a change past `after`, as far as memory knows."""
        if not self.is_held(fleet_id, after):
            return True
        fleet = self._fleets.get(fleet_id)
        return fleet is not None and len(fleet.numbers) > fleet.first and fleet.numbers[-1] > after

    def is_held(self, fleet_id: str, after: int) -> bool:
        """Whether memory has all of the fleet's changes past `after`, but for events that were not asked for yet."""
        fleet = self._fleets.get(fleet_id)
        floor = fleet.floor if fleet is not None else self.floor
        return floor is not None and after >= floor

    def _is_held(self, entry: Entry) -> bool:
        fleet = self._fleets.get(entry.fleet_id)
        if fleet is None:
            return False
        place = bisect_right(fleet.numbers, entry.number - 1, fleet.first)
        return place < len(fleet.entries) and fleet.entries[place] is entry

    def erased(self, fleet_id: str) -> int:
        """How often something of the fleet was erased."""
        fleet = self._fleets.get(fleet_id)
        return fleet.erased if fleet is not None else 0

    # --- erasure ------------------------------------------------------------------------------------------------------

    def _forget_vehicle(self, vehicle: int) -> None:
        for entry in self._of_vehicle.pop(vehicle, ()):
            if entry.kind != ChangeKind.VEHICLE_DELETED:
                self._blank(entry)
                entry.event = None

    def _forget_trip(self, trip_id: str) -> None:
        for entry in self._of_trip.pop(trip_id, ()):
            self._blank(entry)
        for entry in self._events_of_trip.pop(trip_id, ()):
            # It is read again, without the trip's id.
            self._blank(entry)

    def _blank(self, entry: Entry) -> None:
        self._bytes -= len(entry.frame or b"")
        entry.frame = None
        self._unname(entry)
        self._fleets[entry.fleet_id].erased += 1

    def _unname(self, entry: Entry) -> None:
        """Removes the event from the index by trip."""
        if entry.trip_id is not None:
            named = self._events_of_trip.get(entry.trip_id, set())
            named.discard(entry)
            if not named:
                self._events_of_trip.pop(entry.trip_id, None)
            entry.trip_id = None

    def forget_all(self, number: int) -> None:
        """Memory begins after this number."""
        self.floor = number
        self._fleets.clear()
        self._order.clear()
        self._bytes = 0
        for index in (self._of_vehicle, self._of_trip, self._events_of_trip):
            index.clear()


def _drop_first(index: dict[Named, deque[Entry]], key: Named | None, entry: Entry) -> None:
    """Removes the oldest entry from an index."""
    entries = index.get(key) if key is not None else None
    if key is not None and entries and entries[0] is entry:
        entries.popleft()
        if not entries:
            del index[key]
