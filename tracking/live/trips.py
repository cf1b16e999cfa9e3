"""The feed of one trip: numbered updates, encoded once, kept for those who come back, written to every watcher."""

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import msgspec
from msgspec import UNSET, UnsetType

from tracking.errors import CloseCode
from tracking.live.reader_queue import ReaderQueue
from tracking.metrics import DELIVERIES
from tracking.model import Position, Trip
from tracking.protocol.codec import encode, frame, frame_ends, framed, text_of
from tracking.protocol.fit import TRACK_ROOM, DrivenPoint, fit_track, live_view
from tracking.protocol.http import TripView
from tracking.protocol.passenger import (
    MessageUpdate,
    Resumed,
    Segment,
    Snapshot,
    SnapshotPosition,
    TrackRevised,
    TripUpdate,
    position_update,
    snapshot_position,
)

_decode_position = msgspec.json.Decoder(SnapshotPosition).decode
_decode_revision = msgspec.json.Decoder(TrackRevised).decode
_POSITION = b'{"type":"position"'
_REVISION = b'{"type":"track_revised"'
SILENT_BEATS = 2
"""Beats without an update after which a feed's readers get a tick: they come three times in a tick interval."""


class KeptBytes:
    """How much the feeds of a process keep for those who come back: at most `limit` bytes in all.

    Past it a feed that publishes lets go of what it holds beyond its equal share, the oldest first.
    """

    __slots__ = ("feeds", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.feeds = 0

    @property
    def share(self) -> int:
        return self.limit // max(1, self.feeds)


class Line:
    """A trip's line as it was read from the store once, for all who come to watch it within a while.

    `began` is the feed's offset of when the reading began, `unstored` what waited for a commit then; `stored` and `last` are as
    `TripFeed.begin` takes them.
    """

    __slots__ = ("began", "last", "read_at", "snapshot", "stored", "unstored", "vehicles")

    def __init__(
        self,
        began: int,
        read_at: int,
        stored: Sequence[DrivenPoint] = (),
        unstored: Sequence[Position] = (),
        last: Mapping[str, SnapshotPosition] | None = None,
    ) -> None:
        self.began = began
        self.read_at = read_at
        self.stored = stored
        self.unstored = unstored
        self.last = last or {}
        self.vehicles = {point[3] for point in stored} | {position.vehicle_id for position in unstored} | self.last.keys()
        """those that drove of it"""
        self.snapshot: tuple[int, Trip, bytes, bytes] | None = None
        """as it was sent last: the offset and the trip that it is of, and its JSON before and after `server_time`"""

    def without(self, erased: Collection[str]) -> "Line":
        """The line without what these vehicles drove of it, which were erased."""
        if self.vehicles.isdisjoint(erased):
            return self
        return Line(
            self.began,
            self.read_at,
            [point for point in self.stored if point[3] not in erased],
            [position for position in self.unstored if position.vehicle_id not in erased],
            {vehicle_id: position for vehicle_id, position in self.last.items() if vehicle_id not in erased},
        )


class TripFeed:
    """Updates of one trip, with an epoch of its own life and contiguous offsets from 1.

    Updates stay for those who come back: for `seconds` (up to half as long again), and within `kept`. Everything here is
    synchronous, so a snapshot and what follows it can't miss each other. Call `end` when the feed is over.
    """

    __slots__ = (
        "_beaten",
        "_beats",
        "_frames",
        "_half_ms",
        "_kept",
        "_mark",
        "_mark_before",
        "_marked_at",
        "_shown",
        "_taken_out",
        "_vehicles",
        "_view",
        "as_of",
        "before_kept",
        "ended",
        "epoch",
        "line",
        "newest",
        "offset",
        "queues",
        "showing",
        "trip",
        "unwatched_since",
        "vehicle_id",
    )

    def __init__(self, trip: Trip, *, kept: KeptBytes, seconds: float, now: int) -> None:
        self.trip = trip
        self.as_of = 0
        """The last change of the log that `trip` knows of."""
        self.showing = trip.status.under_way
        """Whether the trip's status lets its watchers see the vehicle."""
        self.vehicle_id = "" if trip.vehicle is None else trip.vehicle.vehicle_id
        """The vehicle that the trip has now: its positions alone are the marker's. Empty while there is none."""
        self._vehicles: list[tuple[int, str]] = [(0, self.vehicle_id)]
        """From which offset on the trip had which vehicle."""
        self._shown: tuple[str, ...] = (self.vehicle_id,)
        """Those vehicles, and others whose part of the line was told to anybody."""
        self._taken_out: set[tuple[str, int]] = set()
        """`(vehicle_id, fix_time)` of what was published, and turned out not to belong to the trip."""
        self.newest = 0
        """The fix time of the last position that was published of the vehicle that the trip has now."""
        self.epoch = secrets.token_urlsafe(9)
        self.offset = 0
        self.queues: set[ReaderQueue] = set()
        self.unwatched_since: int | None = None
        self.ended: CloseCode | None = None
        """Why it is over, as its watchers were told."""
        self.line: Line | None = None
        """A long one, while it is kept (`tracking.history.lines`)."""
        self._view: tuple[Trip, TripView] | None = None
        """The trip as snapshots show it: to simplify a long route anew takes milliseconds."""
        self._frames = bytearray()
        """The updates after `before_kept`, as ready frames one after the other: an object for each would be as large again,
        and each would lie somewhere else in memory."""
        self.before_kept = 0
        """The offset before the oldest update that is still here."""
        self._kept = kept
        kept.feeds += 1
        self._half_ms = int(seconds * 500)
        self._marked_at = now
        self._mark = self._mark_before = 0
        self._beaten = 0
        self._beats = 0

    def end(self) -> None:
        """The feed publishes no more, and holds nothing."""
        self._drop(len(self._frames), self.offset)
        self.line = None
        self._kept.feeds -= 1

    def has_shown(self, vehicle_id: str) -> bool:
        """Whether a part of the line that this vehicle drove may be on a watcher's screen, or is kept here."""
        return vehicle_id in self._shown

    def begin_anew(self, newest: SnapshotPosition | None, now: int) -> None:
        """A vehicle that drove of the trip was erased: the feed is another now, whose line is empty. Its watchers are told, and
        nobody can go on with what it was. `newest` is the newest position of the vehicle that the trip has now.
        """
        self._drop(len(self._frames), self.offset)
        self._vehicles = [(0, self.vehicle_id)]
        self._shown = (self.vehicle_id,)
        self.newest = 0
        self.epoch = secrets.token_urlsafe(9)
        snapshot = Snapshot(self.epoch, self.offset, now, live_view(self.trip), [])
        if newest is not None and self.showing:
            snapshot.position = newest
        self.broadcast(frame(snapshot))

    def _note_shown(self, segments: Sequence[Segment] | UnsetType) -> None:
        if segments is not UNSET:
            self._shown += tuple({vehicle_id for _, vehicle_id in segments} - set(self._shown))

    def forget(self, vehicle_id: str) -> None:
        """The vehicle was erased: a line that it drove of is kept no longer. Who reads one meanwhile asks `Hub.erased`."""
        if self.line is not None and vehicle_id in self.line.vehicles:
            self.line = None

    def take_out(self, vehicle_id: str, fix_times: Iterable[int]) -> None:
        """These positions turned out not to belong to the trip: no snapshot has them any more."""
        self._taken_out.update((vehicle_id, fix_time) for fix_time in fix_times)
        self.line = None

    def put_in(self, vehicle_id: str, fix_times: Iterable[int]) -> None:
        """They do belong to it, after all."""
        self._taken_out.difference_update([(vehicle_id, fix_time) for fix_time in fix_times])

    def publish_position(self, position: Position) -> None:
        """A position of the trip's vehicle that moves the marker."""
        self.offset = offset = self.offset + 1
        self.newest = position.fix_time
        data = frame(position_update(position, offset))
        self._keep(data)
        for queue in self.queues:
            queue.push_position(data, offset)
        DELIVERIES.value += len(self.queues)

    def publish_trip(self, trip: Trip) -> None:
        self.trip = trip
        self.showing = trip.status.under_way
        if trip.vehicle is not None and trip.vehicle.vehicle_id != self.vehicle_id:
            self.vehicle_id = trip.vehicle.vehicle_id
            self.newest = 0
            self._vehicles.append((self.offset + 1, self.vehicle_id))
            if not self.has_shown(self.vehicle_id):
                self._shown += (self.vehicle_id,)
        # Which vehicle it was is no longer the passenger's business once the trip is over.
        self._publish(frame(TripUpdate(self.offset + 1, live_view(trip, show_vehicle=not trip.status.over))))

    def publish_message(self, text: str, sender: str, server_time: int) -> None:
        self._publish(frame(MessageUpdate(self.offset + 1, text, sender, server_time)))

    def publish_revision(self, from_: int, to: int, driven: Sequence[DrivenPoint]) -> None:
        """The whole line between two fix times, both included, after late fixes came in; `driven` is in the order of time."""
        track, segments = fit_track(driven, self.vehicle_id)
        self._note_shown(segments)
        self._publish(frame(TrackRevised(self.offset + 1, from_, to, track, segments)))

    def broadcast(self, data: bytes) -> None:
        """A ready frame without an offset, to everyone watching now."""
        for queue in self.queues:
            queue.push(data)

    def can_resume(self, epoch: str | None, offset: int | None, room: int) -> bool:
        """Whether every update after `offset` of that epoch is still here, and all of them fit into `room` bytes.

        More than that would be thinned out on the way to a reader who just came back; a snapshot is whole.
        """
        if epoch != self.epoch or offset is None or not self.before_kept <= offset <= self.offset:
            return False
        return len(self._frames) - self._start_after(offset) <= room

    def resume(self, queue: ReaderQueue, offset: int) -> None:
        """Writes what came after `offset` and registers the reader. Ask `can_resume` first."""
        queue.push(frame(Resumed(self.epoch, offset)) + self._frames[self._start_after(offset) :])
        self.queues.add(queue)

    def begin(
        self,
        queue: ReaderQueue,
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

        Make sure first that all of that is still here: `before_kept` is not above the `offset` of when the reading began.
        """
        self._push_snapshot(queue, self._snapshot(set(stored), unstored, last, after=self.before_kept), now)

    def begin_with(self, queue: ReaderQueue, line: Line, now: int) -> None:
        """The same with a line that is kept. Whoever comes before the next update is sent the same snapshot."""
        known = line.snapshot
        if known is None or known[0] != self.offset or known[1] is not self.trip:
            # What came before the reading began is in the line.
            snapshot = self._snapshot(set(line.stored), line.unstored, line.last, after=line.began)
            head, tail = encode(snapshot).split(b'"server_time":0,', 1)
            known = line.snapshot = self.offset, self.trip, head, tail
        _, _, head, tail = known
        queue.push(framed(b'%b"server_time":%d,%b' % (head, now, tail)))
        self.queues.add(queue)

    def _push_snapshot(self, queue: ReaderQueue, snapshot: Snapshot, now: int) -> None:
        snapshot.server_time = now
        queue.push(frame(snapshot))
        self.queues.add(queue)

    def _snapshot(
        self,
        driven: set[DrivenPoint],
        unstored: Iterable[Position],
        last: Mapping[str, SnapshotPosition],
        *,
        after: int,
    ) -> Snapshot:
        """Joins what was read with what was published after that offset, without a `server_time`."""
        out = self._taken_out
        newest = last.get(self.vehicle_id)
        if newest is not None and (self.vehicle_id, newest.fix_time) in out:
            newest = None
        for position in unstored:
            if position.suspect or (position.vehicle_id, position.fix_time) in out:
                continue
            driven.add((position.fix_time, position.longitude, position.latitude, position.vehicle_id))
            if position.vehicle_id == self.vehicle_id and (newest is None or position.fix_time > newest.fix_time):
                newest = snapshot_position(position)
        for offset, text in enumerate(self._texts(after), after + 1):
            if text.startswith(_POSITION):
                vehicle_id = self._vehicle_at(offset)
                update = _decode_position(text)
                if (vehicle_id, update.fix_time) in out:
                    continue
                driven.add((update.fix_time, update.longitude, update.latitude, vehicle_id))
                if vehicle_id == self.vehicle_id and (newest is None or update.fix_time > newest.fix_time):
                    newest = update
            elif text.startswith(_REVISION):
                revision = _decode_revision(text)
                starts = list(revision.segments or ((0, self._vehicle_at(offset)),))
                for (first, vehicle_id), (end, _) in pairwise((*starts, (len(revision.track), ""))):
                    driven.update((time, x, y, vehicle_id) for x, y, time in revision.track[first:end])
        if out:
            driven = {point for point in driven if (point[3], point[0]) not in out}
        if self._view is None or self._view[0] is not self.trip:
            self._view = self.trip, live_view(self.trip)
        _, view = self._view
        track, segments = fit_track(sorted(driven), self.vehicle_id, TRACK_ROOM - len(encode(view)))
        self._note_shown(segments)
        snapshot = Snapshot(self.epoch, self.offset, 0, view, track, segments)
        if newest is not None:
            snapshot.position = newest
        return snapshot

    def _vehicle_at(self, offset: int) -> str:
        """The vehicle that the trip had when the update with this offset was published."""
        return next(vehicle_id for first, vehicle_id in reversed(self._vehicles) if first <= offset)

    def leave(self, queue: ReaderQueue, now: int) -> None:
        self.queues.discard(queue)
        if not self.queues:
            self.unwatched_since = now

    def beat(self, tick: bytes, now: int) -> None:
        """To be called three times every tick interval: who got nothing for two thirds of it gets `tick`, a sign of life.

        `now` ages what is kept.
        """
        if self.offset != self._beaten:
            self._beaten = self.offset
            self._beats = 0
        else:
            self._beats += 1
            if self._beats >= SILENT_BEATS:
                self._beats = 0
                self.broadcast(tick)
        if now - self._marked_at >= self._half_ms:
            self._let_go_to(self._mark_before)
            self._mark_before, self._mark, self._marked_at = self._mark, self.offset, now

    def _publish(self, data: bytes) -> None:
        self.offset += 1
        self._keep(data)
        self.broadcast(data)
        DELIVERIES.value += len(self.queues)

    # --- what is kept -------------------------------------------------------------------------------------------------

    def _keep(self, data: bytes) -> None:
        self._frames += data
        kept = self._kept
        kept.used += len(data)
        if kept.used > kept.limit and len(self._frames) > kept.share:
            # Some more than must be, so that not each update has to make room for itself.
            self._make_room(kept.share * 7 // 8)

    def _make_room(self, room: int) -> None:
        excess = len(self._frames) - room
        for offset, end in enumerate(frame_ends(self._frames), self.before_kept + 1):
            if end >= excess:
                self._drop(end, offset)
                return

    def _let_go_to(self, offset: int) -> None:
        if offset > self.before_kept:
            self._drop(self._start_after(offset), offset)

    def _drop(self, size: int, offset: int) -> None:
        self._kept.used -= size
        del self._frames[:size]
        self.before_kept = offset

    def _start_after(self, offset: int) -> int:
        """Where in `_frames` the update after `offset` begins."""
        if offset == self.before_kept:
            return 0
        return next(islice(frame_ends(self._frames), offset - self.before_kept - 1, None))

    def _texts(self, after: int) -> Iterator[bytes]:
        at = 0
        for number, end in enumerate(frame_ends(self._frames)):
            if number < after - self.before_kept:
                at = end
                continue
            yield text_of(bytes(self._frames[at:end]))
            at = end
