"""What the live state tells of trips to other hubs, and asks of them."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from tracking.live.trips import TripFeed
from tracking.model import Position, Trip


class TripExchange(Protocol):
    """Readers and vehicles on other hubs: `cluster.trips`. Only a hub with a broker has it."""

    def accepted(self, position: Position) -> None:
        """A position that was accepted here, whether it moves the marker or not."""
        ...

    def committed_late(self, late: Sequence[Position]) -> None:
        """Positions that came too late to move the marker are committed."""
        ...

    def refiled(self, trip_id: str, trip: int, vehicle_id: str, lost: Sequence[int], got: Sequence[Position]) -> None:
        """Positions turned out to belong to the trip, or not (`lost`: fix times). Those in `got` may not be committed."""
        ...

    def corrected(self, trip_id: str, trip: int, from_: int, to: int) -> None:
        """Committed positions between two fix times belong to the trip after all."""
        ...

    def begun(self, feed: TripFeed) -> None: ...

    def ended(self, trip_id: str) -> None: ...

    def watched(self, feed: TripFeed) -> None:
        """The feed has readers now, or none any more."""
        ...

    def watches(self, trip_id: str) -> bool:
        """Whether somebody reads the trip on another hub."""
        ...

    def trip_gone(self, trip_id: str) -> None:
        """The trip was removed."""
        ...

    def forget(self, vehicles: Iterable[int]) -> None:
        """These vehicles, by their numbers, were removed."""
        ...

    def show(self, feed: TripFeed, position: Position) -> None:
        """Shows a position that another hub accepted, and that is newer than the marker."""
        ...

    def begins_to_show(self, trip: Trip) -> None:
        """The watchers of this trip are shown its vehicle, or another one, from now on."""
        ...
