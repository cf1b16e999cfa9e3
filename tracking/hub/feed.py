"""The feed of one trip: numbered updates, encoded once, kept for those who come back, written to every watcher."""

import secrets
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from tracking.frames import TRACK_ROOM, fit_track, live_view
from tracking.hub.outbox import Outbox
from tracking.metrics import DELIVERIES
from tracking.model import Position, Trip
from tracking.protocol import (
    MessageUpdate,
    Resumed,
    Snapshot,
    SnapshotPosition,
    TrackPoint,
    TrackRevised,
    TripUpdate,
    encode,
    frame,
    position_update,
    snapshot_position,
    text_of,
)

_decode_position = msgspec.json.Decoder(SnapshotPosition).decode
_decode_revision = msgspec.json.Decoder(TrackRevised).decode
_POSITION = b'{"type":"position"'
_REVISION = b'{"type":"track_revised"'


class TripFeed:
    """Updates of one trip, with an epoch of its own life and contiguous offsets from 1.

    `keep` is how many updates stay for those who come back. Everything here is synchronous, so a snapshot and what follows
    it can't miss each other.
    """

    __slots__ = ("_updates", "epoch", "offset", "outboxes", "showing", "trip", "unwatched_since")

    def __init__(self, trip: Trip, *, keep: int) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        """Whether the trip's status lets its watchers see the vehicle."""
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.outboxes: set[Outbox] = set()
        self.unwatched_since: int | None = None
        self._updates: deque[bytes] = deque(maxlen=keep)
        """Ready frames, the newest with `offset`. All that is known of an update is in it, at a quarter of a `Position`."""

    def publish_position(self, position: Position) -> None:
        """A position that moves the marker."""
        self.offset = offset = self.offset + 1
        data = frame(position_update(position, offset))
        self._updates.append(data)
        for outbox in self.outboxes:
            outbox.push_position(data, offset)
        DELIVERIES.value += len(self.outboxes)

    def publish_trip(self, trip: Trip) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        # Which vehicle it was is no longer the passenger's business once the trip is over.
        self._publish(frame(TripUpdate(self.offset + 1, live_view(trip, show_vehicle=not trip.status.over))))

    def publish_message(self, text: str, sender: str, server_time: int) -> None:
        self._publish(frame(MessageUpdate(self.offset + 1, text, sender, server_time)))

    def publish_revision(self, from_: int, to: int, track: Sequence[TrackPoint]) -> None:
        """The whole line between two fix times, both included, after late fixes came in."""
        self._publish(frame(TrackRevised(self.offset + 1, from_, to, fit_track(track))))

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
        missed = self.offset - offset
        return missed <= len(self._updates) and sum(map(len, self._last(missed))) <= room

    def resume(self, outbox: Outbox, offset: int) -> None:
        """Writes what came after `offset` and registers the reader. Ask `can_resume` first."""
        outbox.push(frame(Resumed(self.epoch, offset)))
        for number, data in enumerate(self._last(self.offset - offset), offset + 1):
            if text_of(data).startswith(_POSITION):
                outbox.push_position(data, number)
            else:
                outbox.push(data)
        self.outboxes.add(outbox)

    def begin(
        self, outbox: Outbox, *, stored: Iterable[TrackPoint], unstored: Iterable[Position], last: Position | None, now: int
    ) -> None:
        """Writes a snapshot and registers the reader.

        `stored` is the track as it was read from the database, `unstored` the positions that waited for a commit when that
        reading began, `last` the last position known to the reader; what was published since is added here.
        """
        points: dict[tuple[int, float, float], TrackPoint] = {(p[2], p[0], p[1]): p for p in stored}
        updates = [text_of(data) for data in self._updates]
        newest = snapshot_position(last) if last is not None else None
        for position in (
            *(snapshot_position(p) for p in unstored if not p.suspect),
            *(_decode_position(text) for text in updates if text.startswith(_POSITION)),
        ):
            point = (position.longitude, position.latitude, position.fix_time)
            points[(point[2], point[0], point[1])] = point
            if newest is None or position.fix_time > newest.fix_time:
                newest = position
        for text in updates:
            if text.startswith(_REVISION):
                for point in _decode_revision(text).track:
                    points[(point[2], point[0], point[1])] = point
        track = [points[key] for key in sorted(points)]
        view = live_view(self.trip)
        snapshot = Snapshot(self.epoch, self.offset, now, view, fit_track(track, TRACK_ROOM - len(encode(view))))
        if newest is not None:
            snapshot.position = newest
        outbox.push(frame(snapshot))
        self.outboxes.add(outbox)

    def leave(self, outbox: Outbox, now: int) -> None:
        self.outboxes.discard(outbox)
        if not self.outboxes:
            self.unwatched_since = now

    def _last(self, count: int) -> list[bytes]:
        return list(self._updates)[len(self._updates) - count :]

    def _publish(self, data: bytes) -> None:
        self.offset += 1
        self._updates.append(data)
        self.broadcast(data)
        DELIVERIES.value += len(self.outboxes)
