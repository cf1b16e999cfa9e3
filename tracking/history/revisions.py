"""Late fixes fill gaps in a line that passengers already see. After COMMIT that part of the line is sent again."""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from tracking.errors import StoreUnavailable
from tracking.history.lines import Lines
from tracking.ingest.vehicles import FOREVER, GRACE_MS
from tracking.live.hub import Hub
from tracking.live.trip_line import join
from tracking.live.trips import TripFeed
from tracking.model import Position, Trip
from tracking.protocol.fit import DrivenPoint

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
REST_SECONDS = 5.0
"""The longest pause after a part of a line was read. The pause is as long as the reading took."""
GATHER_SECONDS = 0.25
"""How long late fixes are gathered. Many of them come together, and then make one revision."""


class UncommittedPositions(Protocol):
    """Positions that are accepted, and perhaps not committed."""

    def pending(self, trip_id: str) -> Sequence[Position]:
        """Those of a trip."""
        ...


class Revisions:
    """Gathers late fixes, reads their part of the line from the store, and publishes it. `run` works until it is cancelled."""

    def __init__(self, lines: Lines, hub: Hub, uncommitted: UncommittedPositions) -> None:
        self._lines = lines
        self._hub = hub
        self._uncommitted = uncommitted
        self._spans: dict[str, tuple[int, int, int, int | None]] = {}
        """By trip: its number, the first and last fix time, and the fix time of the last fix that went to another trip."""
        self._arrived = asyncio.Event()

    def late(self, late: list[Position]) -> None:
        """Takes committed, plausible positions that came too late to move the marker."""
        if self._hub.trip_exchange is not None:
            self._hub.trip_exchange.committed_late(late)
        for position in late:
            if position.trip_id is None or position.trip is None or position.trip_id not in self._hub.feeds:
                continue
            self.late_one(position)

    def late_one(self, position: Position) -> None:
        """Takes a position of a watched trip. It is committed, or waits for its commit."""
        assert position.trip_id is not None and position.trip is not None
        self.revise(position.trip_id, position.trip, position.fix_time, position.fix_time)

    def revise(self, trip_id: str, trip: int, from_: int, to: int, *, taken_out: int | None = None) -> None:
        """Asks for the part of the line between two fix times, as soon as the store can be read.

        `taken_out` is the last fix time of fixes that were shown, but belong to another trip.
        """
        _, first, last, out = self._spans.get(trip_id, (trip, from_, to, None))
        if out is not None and taken_out is not None:
            taken_out = max(out, taken_out)
        self._spans[trip_id] = (trip, min(first, from_), max(last, to), out if taken_out is None else taken_out)
        self._arrived.set()

    def revise_all(self, trip: Trip, *, taken_out: int | None = None) -> None:
        """Asks for the whole line."""
        self.revise(trip.trip_id, trip.number, trip.created_at - GRACE_MS, FOREVER, taken_out=taken_out)

    async def run(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._arrived.clear()
            spans, self._spans = self._spans, {}
            for trip_id, (trip, first, last, out) in spans.items():
                began = time.monotonic()
                try:
                    await self._revise(trip_id, trip, first, last, out)
                    # If a long trip gets late fixes all the time, each revision may read its whole line.
                    await asyncio.sleep(min(time.monotonic() - began, REST_SECONDS))
                except StoreUnavailable as error:
                    logger.warning("cannot read a late part of a track now, trying again: %s", error)
                    self.revise(trip_id, trip, first, last, taken_out=out)
                    await asyncio.sleep(RETRY_SECONDS)

    async def _revise(self, trip_id: str, trip: int, first: int, last: int, out: int | None = None) -> None:
        # This is asked before the reading begins. What is committed meanwhile is then in at least one of both.
        pending = [position for position in self._uncommitted.pending(trip_id) if first <= position.fix_time <= last]
        with self._hub.erased() as erased:
            stored = await self._lines.part(trip, first, last)
            ahead = await self._ahead(trip_id, [*stored, *map(_point, pending)])
        feed = self._hub.feeds.get(trip_id)
        if feed is None or not feed.trip.status.under_way:
            return
        shown = self._show(feed, [*ahead, *pending], erased) if ahead else 0
        track = join(stored, pending, taken_out=feed.taken_out, erased=erased)
        if shown and (rest := [point for point in track if _is_ahead(feed, point)]):
            # There are many. They are read again, and shown from the marker on.
            track = [point for point in track if not _is_ahead(feed, point)]
            self.revise(trip_id, trip, rest[0][0], rest[-1][0])
        if track or out is not None:
            # The revision ends where the reading ended. Later fixes are on the passengers' lines already, and must stay.
            feed.publish_revision(first, max([time for time, *_ in track[-1:]] + ([] if out is None else [out])), track)

    # --- what the store has and the marker has not reached ------------------------------------------------------------

    async def _ahead(self, trip_id: str, track: Iterable[DrivenPoint]) -> list[Position]:
        """Positions after the marker, if the track has some: another hub accepted them, and they were lost on the way.

        They are shown as positions, so that a revision has no point that comes as a position later. Raises `StoreUnavailable`.
        """
        feed = self._hub.feeds.get(trip_id)
        if (
            self._hub.trip_exchange is None
            or feed is None
            or not feed.showing
            or not any(_is_ahead(feed, one) for one in track)
        ):
            return []
        return await self._lines.newer(feed.trip, feed.newest)

    def _show(self, feed: TripFeed, positions: Iterable[Position], erased: Collection[str]) -> int:
        """Moves the marker through positions that are newer. Returns how many."""
        shown = 0
        for position in sorted(positions, key=lambda one: one.fix_time):
            if position.suspect or position.vehicle_id in erased or (position.vehicle_id, position.fix_time) in feed.taken_out:
                continue
            if feed.showing and self._hub.trip_exchange is not None and _is_ahead(feed, _point(position)):
                self._hub.trip_exchange.show(feed, position)
                shown += 1
        return shown


def _point(position: Position) -> DrivenPoint:
    return position.fix_time, position.longitude, position.latitude, position.vehicle_id


def _is_ahead(feed: TripFeed, point: DrivenPoint) -> bool:
    """Whether it is of the vehicle that the trip has now, and newer than the marker."""
    return point[3] == feed.vehicle_id and point[0] > feed.newest
