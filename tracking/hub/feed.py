"""The feed of one trip: numbered updates, encoded once, kept for those who come back, written to every watcher."""

import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from tracking.frames import TRACK_ROOM, DrivenPoint, fit_track, live_view
from tracking.hub.outbox import Outbox
from tracking.metrics import DELIVERIES
from tracking.model import Position, Trip
from tracking.protocol import (
    MessageUpdate,
    Resumed,
    Snapshot,
    SnapshotPosition,
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

    __slots__ = ("_updates", "_vehicles", "epoch", "offset", "outboxes", "showing", "trip", "unwatched_since", "vehicle_id")

    def __init__(self, trip: Trip, *, keep: int) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        """Whether the trip's status lets its watchers see the vehicle."""
        self.vehicle_id = "" if trip.vehicle is None else trip.vehicle.vehicle_id
        """The vehicle that the trip has now: its positions alone are the marker's. Empty while there is none."""
        self._vehicles: list[tuple[int, str]] = [(0, self.vehicle_id)]
        """From which offset on the trip had which vehicle."""
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.outboxes: set[Outbox] = set()
        self.unwatched_since: int | None = None
        self._updates: deque[bytes] = deque(maxlen=keep)
        """Ready frames, the newest with `offset`. All that is known of an update is in it, at a quarter of a `Position`."""

    def publish_position(self, position: Position) -> None:
        """A position of the trip's vehicle that moves the marker."""
        self.offset = offset = self.offset + 1
        data = frame(position_update(position, offset))
        self._updates.append(data)
        for outbox in self.outboxes:
            outbox.push_position(data, offset)
        DELIVERIES.value += len(self.outboxes)

    def publish_trip(self, trip: Trip) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        if trip.vehicle is not None and trip.vehicle.vehicle_id != self.vehicle_id:
            self.vehicle_id = trip.vehicle.vehicle_id
            self._vehicles.append((self.offset + 1, self.vehicle_id))
        # Which vehicle it was is no longer the passenger's business once the trip is over.
        self._publish(frame(TripUpdate(self.offset + 1, live_view(trip, show_vehicle=not trip.status.over))))

    def publish_message(self, text: str, sender: str, server_time: int) -> None:
        self._publish(frame(MessageUpdate(self.offset + 1, text, sender, server_time)))

    def publish_revision(self, from_: int, to: int, driven: Sequence[DrivenPoint]) -> None:
        """The whole line between two fix times, both included, after late fixes came in; `driven` is in the order of time."""
        self._publish(frame(TrackRevised(self.offset + 1, from_, to, *fit_track(driven, self.vehicle_id))))

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
        self,
        outbox: Outbox,
        *,
        stored: Iterable[DrivenPoint],
        unstored: Iterable[Position],
        last: Mapping[str, SnapshotPosition],
        now: int,
    ) -> None:
        """Writes a snapshot and registers the reader.

        `stored` is the track as it was read from the database, `last` each vehicle's last position of it, `unstored` the
        positions that waited for a commit when that reading began; what was published since is added here. The position shown
        is the newest of the vehicle that the trip has now: where another one was is no answer to where it is.
        """
        driven = set(stored)
        newest = last.get(self.vehicle_id)
        for position in unstored:
            if position.suspect:
                continue
            driven.add((position.fix_time, position.longitude, position.latitude, position.vehicle_id))
            if position.vehicle_id == self.vehicle_id and (newest is None or position.fix_time > newest.fix_time):
                newest = snapshot_position(position)
        for offset, data in enumerate(self._updates, self.offset - len(self._updates) + 1):
            text = text_of(data)
            if text.startswith(_POSITION):
                vehicle_id = self._vehicle_at(offset)
                update = _decode_position(text)
                driven.add((update.fix_time, update.longitude, update.latitude, vehicle_id))
                if vehicle_id == self.vehicle_id and (newest is None or update.fix_time > newest.fix_time):
                    newest = update
            elif text.startswith(_REVISION):
                revision = _decode_revision(text)
                starts = list(revision.segments or ((0, self._vehicle_at(offset)),))
                for (first, vehicle_id), (end, _) in pairwise((*starts, (len(revision.track), ""))):
                    driven.update((time, x, y, vehicle_id) for x, y, time in revision.track[first:end])
        view = live_view(self.trip)
        track, segments = fit_track(sorted(driven), self.vehicle_id, TRACK_ROOM - len(encode(view)))
        snapshot = Snapshot(self.epoch, self.offset, now, view, track, segments)
        if newest is not None:
            snapshot.position = newest
        outbox.push(frame(snapshot))
        self.outboxes.add(outbox)

    def _vehicle_at(self, offset: int) -> str:
        """The vehicle that the trip had when the update with this offset was published."""
        return next(vehicle_id for first, vehicle_id in reversed(self._vehicles) if first <= offset)

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
