"""Rows of tracks, for the writers of downloads."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from tracking.store.positions import TrackRow


def a_row(fix_time: int, latitude: float = 47.1, longitude: float = 9.5, vehicle_id: str = "van", **known: Any) -> TrackRow:
    reals = {name: known.get(name) for name in ("accuracy", "altitude", "speed", "bearing")}
    return TrackRow(vehicle_id, "s", 1, fix_time, fix_time, latitude, longitude, **reals, trip_id=None, suspect=None)


async def in_pieces(rows: Sequence[TrackRow]) -> AsyncIterator[Sequence[TrackRow]]:
    """Seven at a time, as the store gives many."""
    for begin in range(0, len(rows), 7):
        yield rows[begin : begin + 7]
