"""A trip's line: what the store has of it, joined with what is not stored yet and with what was published."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from tracking.model import Position, Trip
from tracking.protocol.fit import DrivenPoint
from tracking.protocol.passenger import SnapshotPosition


def join(
    stored: Iterable[DrivenPoint],
    uncommitted: Iterable[Position],
    published: Iterable[DrivenPoint] = (),
    *,
    taken_out: Collection[tuple[str, int]] = (),
    erased: Collection[str] = (),
) -> list[DrivenPoint]:
    """The points of a trip in the order of time, each once. Suspect positions are no part of the line.

    `uncommitted` are positions that waited for a commit before `stored` was read. So a position that was committed meanwhile is
    in one of the two at least. `published` is what watchers were sent since then. The line leaves out `taken_out`, as
    `(vehicle_id, fix_time)`, and all points of the vehicles in `erased`.
    """
    driven = {
        (position.fix_time, position.longitude, position.latitude, position.vehicle_id)
        for position in uncommitted
        if not position.suspect
    }
    driven.update(stored)
    driven.update(published)
    if taken_out or erased:
        driven = {point for point in driven if point[3] not in erased and (point[3], point[0]) not in taken_out}
    return sorted(driven)


class Line:
    """A trip's line as it was read from the store once, for all who begin to watch it within a while.

    `began` is the feed's offset when the reading began. `uncommitted` waited for a commit then. `stored` and `last` are as
    `TripFeed.begin` takes them.
    """

    __slots__ = ("began", "last", "read_at", "snapshot", "stored", "uncommitted", "vehicles")

    def __init__(
        self,
        began: int,
        read_at: int,
        stored: Sequence[DrivenPoint] = (),
        uncommitted: Sequence[Position] = (),
        last: Mapping[str, SnapshotPosition] | None = None,
    ) -> None:
        self.began = began
        self.read_at = read_at
        self.stored = stored
        self.uncommitted = uncommitted
        self.last = last or {}
        self.vehicles = {point[3] for point in stored} | {position.vehicle_id for position in uncommitted} | self.last.keys()
        """The vehicles that drove parts of it."""
        self.snapshot: tuple[int, Trip, bytes, bytes] | None = None
        """The last snapshot that was sent: its offset, its trip, and its JSON before and after `server_time`."""

    def without(self, erased: Collection[str]) -> "Line":
        """The line without the parts of these vehicles, which were erased."""
        if self.vehicles.isdisjoint(erased):
            return self
        return Line(
            self.began,
            self.read_at,
            [point for point in self.stored if point[3] not in erased],
            [position for position in self.uncommitted if position.vehicle_id not in erased],
            {vehicle_id: position for vehicle_id, position in self.last.items() if vehicle_id not in erased},
        )
