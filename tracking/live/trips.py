"""The feed of one trip: numbered updates, encoded once, written to every watcher, kept for those who return."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import UNSET, UnsetType

from tracking.errors import CloseCode
from tracking.live.kept_updates import KeptBytes, KeptUpdates
from tracking.live.reader_queue import ReaderQueue
from tracking.live.trip_line import Line, join
from tracking.metrics import DELIVERIES
from tracking.model import Position, Trip
from tracking.protocol.codec import encode, frame, framed
from tracking.protocol.fit import TRACK_ROOM, DrivenPoint, fit_track, live_view
from tracking.protocol.http import TripView
from tracking.protocol.passenger import (
    MessageUpdate,
    PastMessage,
    Resumed,
    Segment,
    Snapshot,
    SnapshotPosition,
    TrackRevised,
    TripUpdate,
    position_update,
    snapshot_position,
)

SILENT_BEATS = 2
"""A feed's readers get a tick after so many beats without an update. There are three beats in a tick interval."""


class TripFeed:
    """Updates of one trip, with an epoch of its own life and contiguous offsets from 1.

    `updates` has the newest of them. Everything here is synchronous, so nothing falls between a snapshot and what follows it.
    Call `end` when the feed is over.
    """

    __slots__ = (
        "_beaten",
        "_beats",
        "_shown",
        "_vehicles",
        "_view",
        "as_of",
        "ended",
        "epoch",
        "line",
        "newest",
        "newest_elsewhere",
        "offset",
        "place",
        "queues",
        "showing",
        "taken_out",
        "trip",
        "unwatched_since",
        "updates",
        "vehicle_id",
    )

    def __init__(self, trip: Trip, *, kept: KeptBytes, seconds: float, now: int) -> None:
        self.trip = trip
        self.as_of = 0
        """The last change of the log that `trip` knows of."""
        self.showing = trip.status.under_way
        """Whether the trip's status lets its watchers see the vehicle."""
        self.vehicle_id = "" if trip.vehicle is None else trip.vehicle.vehicle_id
        """The vehicle that the trip has now. Only its positions move the marker. Empty if there is none."""
        self._vehicles: list[tuple[int, str]] = [(0, self.vehicle_id)]
        """`(offset, vehicle_id)`: from this offset on, the trip had this vehicle."""
        self._shown: tuple[str, ...] = (self.vehicle_id,)
        """Those vehicles, and all others whose part of the line was sent to a watcher."""
        self.taken_out: set[tuple[str, int]] = set()
        """`(vehicle_id, fix_time)` of positions that turned out not to belong to the trip."""
        self.newest = 0
        """The fix time of the newest position of the vehicle that the trip has now, in updates or snapshots."""
        self.place: Position | SnapshotPosition | None = None
        """That position, as far as it was seen here: the vehicle's driver may be connected to another hub, or to none."""
        self.newest_elsewhere = 0
        """The same of the last position that another hub accepted. It may come again from a driver that has moved here."""
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.queues: set[ReaderQueue] = set()
        self.unwatched_since: int | None = None
        self.ended: CloseCode | None = None
        """The close code that its watchers were given when it ended."""
        self.line: Line | None = None
        """The line of a long trip, while `tracking.history.lines` keeps it."""
        self._view: tuple[Trip, TripView] | None = None
        """The trip as snapshots show it. It takes milliseconds to simplify a long route."""
        self.updates = KeptUpdates(kept, seconds=seconds, now=now)
        self._beaten = 0
        self._beats = 0

    def end(self) -> None:
        """Drops everything. The feed publishes nothing more."""
        self.updates.end(self.offset)
        self.line = None

    @property
    def before_kept(self) -> int:
        """The offset before the oldest update that is still here."""
        return self.updates.before

    def has_shown(self, vehicle_id: str) -> bool:
        """Whether a part of the line by this vehicle may be on a watcher's screen, or is kept here."""
        return vehicle_id in self._shown

    def begin_anew(self, newest: SnapshotPosition | None, now: int) -> None:
        """Starts another epoch with an empty line, because a vehicle of the trip was erased. Its watchers are sent a snapshot.

        Nobody can resume the epoch before. `newest` is the newest position of the vehicle that the trip has now, if this hub
        knows it. Otherwise watchers go on to see the vehicle where they saw it.
        """
        place, self.place = self.place, None
        if newest is None and place is not None and (self.vehicle_id, place.fix_time) not in self.taken_out:
            newest = snapshot_position(place) if isinstance(place, Position) else place
        self.updates.drop_all(self.offset)
        self._vehicles = [(0, self.vehicle_id)]
        self._shown = (self.vehicle_id,)
        self.newest = 0
        self.epoch = secrets.token_urlsafe(9)
        snapshot = Snapshot(self.epoch, self.offset, now, live_view(self.trip), [])
        if newest is not None and self.showing:
            snapshot.position = self.place = newest
            self.newest = newest.fix_time
        self.broadcast(frame(snapshot))

    def _note_shown(self, segments: Sequence[Segment] | UnsetType) -> None:
        if segments is not UNSET:
            self._shown += tuple({vehicle_id for _, vehicle_id in segments} - set(self._shown))

    def forget(self, vehicle_id: str) -> None:
        """The vehicle was erased. Drops a line with a part of it. A reading that is under way asks `Hub.erased`."""
        if self.line is not None and vehicle_id in self.line.vehicles:
            self.line = None
        if vehicle_id == self.vehicle_id:
            self.place = None

    def take_out(self, vehicle_id: str, fix_times: Iterable[int]) -> None:
        """These positions turned out not to belong to the trip. Neither snapshots nor revisions show them any more."""
        self.taken_out.update((vehicle_id, fix_time) for fix_time in fix_times)
        self.line = None

    def put_in(self, vehicle_id: str, fix_times: Iterable[int]) -> None:
        """These positions belong to the trip after all."""
        self.taken_out.difference_update([(vehicle_id, fix_time) for fix_time in fix_times])

    def publish_position(self, position: Position) -> None:
        """A position of the trip's vehicle that moves the marker."""
        self.offset = offset = self.offset + 1
        self.newest = position.fix_time
        self.place = position
        data = frame(position_update(position, offset))
        self.updates.keep_position(data, offset, position)
        for queue in self.queues:
            queue.push_position(data, offset)
        DELIVERIES.value += len(self.queues)

    def publish_trip(self, trip: Trip) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        if trip.vehicle is not None and trip.vehicle.vehicle_id != self.vehicle_id:
            self.vehicle_id = trip.vehicle.vehicle_id
            self.newest = 0
            self.place = None
            self._vehicles.append((self.offset + 1, self.vehicle_id))
            if not self.has_shown(self.vehicle_id):
                self._shown += (self.vehicle_id,)
        # A passenger is not shown the vehicle of a trip that is over.
        self._publish(frame(TripUpdate(self.offset + 1, live_view(trip, show_vehicle=not trip.status.over))))

    def publish_message(self, text: str, sender: str, server_time: int) -> None:
        self._publish(frame(MessageUpdate(self.offset + 1, text, sender, server_time)))

    def publish_revision(self, from_: int, to: int, driven: Sequence[DrivenPoint]) -> None:
        """Sends the whole line between two fix times, both included, after late fixes. `driven` is in the order of time."""
        track, segments = fit_track(driven, self.vehicle_id)
        self._note_shown(segments)
        self.offset = offset = self.offset + 1
        data = frame(TrackRevised(offset, from_, to, track, segments))
        self.updates.keep_revision(data, offset, track, segments or ((0, self.vehicle_id),))
        self._send(data)

    def broadcast(self, data: bytes) -> None:
        """Sends a ready frame without an offset to everyone who watches now."""
        for queue in self.queues:
            queue.push(data)

    def can_resume(self, epoch: str | None, offset: int | None, room: int) -> bool:
        """Whether every update after `offset` of that epoch is still here, and all of them fit into `room` bytes.

        More than that would be thinned out on the way to the reader. A snapshot is complete.
        """
        if epoch != self.epoch or offset is None or not self.before_kept <= offset <= self.offset:
            return False
        return self.updates.size_after(offset) <= room

    def resume(self, queue: ReaderQueue, offset: int) -> None:
        """Writes all updates after `offset`, and registers the reader. Ask `can_resume` first."""
        queue.push(frame(Resumed(self.epoch, offset)) + self.updates.frames_after(offset))
        self.queues.add(queue)

    def begin(
        self,
        queue: ReaderQueue,
        *,
        stored: Iterable[DrivenPoint],
        uncommitted: Iterable[Position],
        last: Mapping[str, SnapshotPosition],
        now: int,
    ) -> None:
        """Writes a snapshot and registers the reader.

        `stored` is the track as it was read from the database. `last` is each vehicle's last position in it. `uncommitted` are
        the positions that waited for a commit when the reading began. Positions that were published since then are added here.
        The position shown is the newest of the vehicle that the trip has now.

        Check first that they are still here: `before_kept` must not be above the `offset` of when the reading began.
        """
        snapshot = self._snapshot(stored, list(uncommitted), last, after=self.updates.before)
        snapshot.server_time = now
        queue.push(frame(snapshot))
        self.queues.add(queue)

    def begin_with(self, queue: ReaderQueue, line: Line, now: int) -> None:
        """The same with a line that is kept. All who come before the next update are sent the same snapshot."""
        known = line.snapshot
        if known is None or known[0] != self.offset or known[1] is not self.trip:
            # Positions from before the reading are in the line.
            snapshot = self._snapshot(line.stored, line.uncommitted, line.last, after=line.began)
            head, tail = encode(snapshot).split(b'"server_time":0,', 1)
            known = line.snapshot = self.offset, self.trip, head, tail
        _, _, head, tail = known
        queue.push(framed(b'%b"server_time":%d,%b' % (head, now, tail)))
        self.queues.add(queue)

    def _snapshot(
        self,
        stored: Iterable[DrivenPoint],
        uncommitted: Collection[Position],
        last: Mapping[str, SnapshotPosition],
        *,
        after: int,
    ) -> Snapshot:
        """Joins what was read with what was published after that offset, without a `server_time`."""
        published = list(self.updates.positions_after(after))
        newest = self._newest(published, uncommitted, last.get(self.vehicle_id))
        if newest is not None:
            self._has_seen(newest)
        driven = join(stored, uncommitted, self._points(published, after), taken_out=self.taken_out)
        view = self._shown_trip()
        track, segments = fit_track(driven, self.vehicle_id, TRACK_ROOM - len(encode(view)))
        self._note_shown(segments)
        snapshot = Snapshot(self.epoch, self.offset, 0, view, track, segments)
        if newest is not None:
            snapshot.position = newest
        return snapshot

    def _has_seen(self, newest: SnapshotPosition) -> None:
        """A reader is about to see this position. The others are shown it too, if they were not, and nothing older follows."""
        if not self.showing or newest.fix_time <= self.newest:
            return
        # The store or another hub had it before this one. It may come again from a driver that has moved here.
        self.newest = self.newest_elsewhere = newest.fix_time
        self.place = newest
        kept = self.updates.positions_after(self.updates.before)
        # Those who left and resume lack it too.
        if self.queues or (self.offset and all(position.fix_time != newest.fix_time for _, position in kept)):
            self.publish_position(_as_position(newest, self.vehicle_id, self.trip))

    def begin_since(
        self,
        queue: ReaderQueue,
        since: int,
        positions: Iterable[Position],
        messages: Sequence[PastMessage],
        now: int,
        *,
        newest: Position | None,
        lacking_from: int,
    ) -> None:
        """Writes a snapshot that only adds to what the reader has, and registers the reader.

        `positions` are all of the trip that the reader may lack, and `newest` is where its vehicle is. What was published from
        the instant `lacking_from` on is added.
        """
        seen = None if newest is None else snapshot_position(newest)
        if seen is not None:
            self._has_seen(seen)
        published = self.updates.positions_after(self.updates.before)
        fresh = ((offset, position) for offset, position in published if position.server_time >= lacking_from)
        points = ((one.fix_time, one.longitude, one.latitude, self._vehicle_at(offset)) for offset, one in fresh)
        driven = join((), positions, points, taken_out=self.taken_out)
        track, segments = fit_track(driven, self.vehicle_id, TRACK_ROOM - len(encode((self._shown_trip(), messages))))
        self._note_shown(segments)
        snapshot = Snapshot(self.epoch, self.offset, now, self._shown_trip(), track, segments, since=since, messages=messages)
        if seen is not None:
            snapshot.position = seen
        queue.push(frame(snapshot))
        self.queues.add(queue)

    def _shown_trip(self) -> TripView:
        if self._view is None or self._view[0] is not self.trip:
            self._view = self.trip, live_view(self.trip)
        return self._view[1]

    def _points(self, published: Iterable[tuple[int, SnapshotPosition]], after: int) -> Iterator[DrivenPoint]:
        for offset, position in published:
            yield position.fix_time, position.longitude, position.latitude, self._vehicle_at(offset)
        yield from self.updates.revised_after(after)

    def _newest(
        self,
        published: Iterable[tuple[int, SnapshotPosition]],
        uncommitted: Iterable[Position],
        last: SnapshotPosition | None,
    ) -> SnapshotPosition | None:
        """The newest position of the vehicle that the trip has now. `last` is the last one that is stored."""
        vehicle_id = self.vehicle_id
        found = [] if last is None else [last]
        # Of two with the same fix time the stored one counts, and then the one that waits for a commit.
        found += [snapshot_position(one) for one in uncommitted if one.vehicle_id == vehicle_id and not one.suspect]
        found += [position for offset, position in published if self._vehicle_at(offset) == vehicle_id]
        belong = (one for one in found if (vehicle_id, one.fix_time) not in self.taken_out)
        return max(belong, key=lambda one: one.fix_time, default=None)

    def _vehicle_at(self, offset: int) -> str:
        """The vehicle that the trip had when the update with this offset was published."""
        return next(vehicle_id for first, vehicle_id in reversed(self._vehicles) if first <= offset)

    def leave(self, queue: ReaderQueue, now: int) -> None:
        self.queues.discard(queue)
        if not self.queues:
            self.unwatched_since = now

    def beat(self, tick: bytes, now: int) -> None:
        """To be called three times in a tick interval. Sends `tick` if no update was sent for two thirds of the interval.

        Drops updates that are too old at `now`.
        """
        if self.offset != self._beaten:
            self._beaten = self.offset
            self._beats = 0
        else:
            self._beats += 1
            if self._beats >= SILENT_BEATS:
                self._beats = 0
                self.broadcast(tick)
        self.updates.age(self.offset, now)

    def _publish(self, data: bytes) -> None:
        self.offset += 1
        self.updates.keep(data)
        self._send(data)

    def _send(self, data: bytes) -> None:
        self.broadcast(data)
        DELIVERIES.value += len(self.queues)


def _as_position(shown: SnapshotPosition, vehicle_id: str, trip: Trip) -> Position:
    """The position as `publish_position` takes it. What watchers are not shown is left out."""
    accuracy, speed, bearing = (None if value is UNSET else value for value in (shown.accuracy, shown.speed, shown.bearing))
    return Position(
        0, vehicle_id, 0, 0, shown.fix_time, shown.server_time, shown.latitude, shown.longitude,
        accuracy, None, speed, bearing, None, trip.number, trip.trip_id, (), True,
    )  # fmt: skip
