"""The feed of one trip: numbered updates, encoded once, kept for those who come back, written to every watcher."""

import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tracking.frames import TRACK_ROOM, fit_track, live_view
from tracking.hub.outbox import Outbox
from tracking.metrics import DELIVERIES
from tracking.model import Position, Trip
from tracking.protocol import (
    MessageUpdate,
    Resumed,
    Snapshot,
    TrackPoint,
    TrackRevised,
    TripUpdate,
    encode,
    frame,
    position_update,
    snapshot_position,
)


class _Update(NamedTuple):
    offset: int
    data: bytes
    """the ready frame"""
    position: Position | None
    revised: Sequence[TrackPoint]


class TripFeed:
    """Updates of one trip, with an epoch of its own life and contiguous offsets from 1.

    `keep` is how many updates stay for those who come back. Everything here is synchronous, so a snapshot and what follows
    it can't miss each other.
    """

    def __init__(self, trip: Trip, *, keep: int) -> None:
        self.trip = trip
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.outboxes: set[Outbox] = set()
        self.unwatched_since: int | None = None
        self._updates: deque[_Update] = deque(maxlen=keep)

    def publish_position(self, position: Position) -> None:
        """A position that moves the marker."""
        offset = self._next()
        data = frame(position_update(position, offset))
        self._updates.append(_Update(offset, data, position, ()))
        for outbox in self.outboxes:
            outbox.push_position(data, offset)
        DELIVERIES.inc(len(self.outboxes))

    def publish_trip(self, trip: Trip) -> None:
        self.trip = trip
        offset = self._next()
        # Which vehicle it was is no longer the passenger's business once the trip is over.
        self._publish(offset, frame(TripUpdate(offset, live_view(trip, show_vehicle=not trip.status.over))))

    def publish_message(self, text: str, sender: str, server_time: int) -> None:
        offset = self._next()
        self._publish(offset, frame(MessageUpdate(offset, text, sender, server_time)))

    def publish_revision(self, from_: int, to: int, track: Sequence[TrackPoint]) -> None:
        """The whole line between two fix times, both included, after late fixes came in."""
        offset = self._next()
        self._publish(offset, frame(TrackRevised(offset, from_, to, fit_track(track))), track)

    def broadcast(self, data: bytes) -> None:
        """A ready frame without an offset, to everyone watching now."""
        for outbox in self.outboxes:
            outbox.push(data)

    def can_resume(self, epoch: str | None, offset: int | None, room: int) -> bool:
        """Whether every update after `offset` of that epoch is still here, and all of them fit into `room` bytes.

        More than that would be thinned out on the way to a reader who just came back; a snapshot is whole.
        """
        if epoch != self.epoch or offset is None or not 0 <= offset <= self.offset:
            return False
        if offset < self.offset and self._updates[0].offset > offset + 1:
            return False
        return sum(len(update.data) for update in self._updates if update.offset > offset) <= room

    def resume(self, outbox: Outbox, offset: int) -> None:
        """Writes what came after `offset` and registers the reader. Ask `can_resume` first."""
        outbox.push(frame(Resumed(self.epoch, offset)))
        for update in self._updates:
            if update.offset <= offset:
                continue
            if update.position is not None:
                outbox.push_position(update.data, update.offset)
            else:
                outbox.push(update.data)
        self.outboxes.add(outbox)

    def begin(
        self, outbox: Outbox, *, stored: Iterable[TrackPoint], unstored: Iterable[Position], last: Position | None, now: int
    ) -> None:
        """Writes a snapshot and registers the reader.

        `stored` is the track as it was read from the database, `unstored` the positions that waited for a commit when that
        reading began, `last` the last position known to the reader; what was published since is added here.
        """
        points: dict[tuple[int, float, float], TrackPoint] = {(p[2], p[0], p[1]): p for p in stored}
        newest = last
        for position in (*unstored, *(u.position for u in self._updates if u.position is not None)):
            if position.suspect:
                continue
            point = (position.longitude, position.latitude, position.fix_time)
            points[(point[2], point[0], point[1])] = point
            if newest is None or position.fix_time > newest.fix_time:
                newest = position
        for update in self._updates:
            for point in update.revised:
                points[(point[2], point[0], point[1])] = point
        track = [points[key] for key in sorted(points)]
        view = live_view(self.trip)
        snapshot = Snapshot(self.epoch, self.offset, now, view, fit_track(track, TRACK_ROOM - len(encode(view))))
        if newest is not None:
            snapshot.position = snapshot_position(newest)
        outbox.push(frame(snapshot))
        self.outboxes.add(outbox)

    def leave(self, outbox: Outbox, now: int) -> None:
        self.outboxes.discard(outbox)
        if not self.outboxes:
            self.unwatched_since = now

    def _next(self) -> int:
        self.offset += 1
        return self.offset

    def _publish(self, offset: int, data: bytes, revised: Sequence[TrackPoint] = ()) -> None:
        self._updates.append(_Update(offset, data, None, revised))
        self.broadcast(data)
        DELIVERIES.inc(len(self.outboxes))
