"""The newest updates of a trip's feed: as frames for readers that resume, and as values for snapshots."""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice, pairwise
from math import isnan, nan

from msgspec import UNSET, UnsetType

from tracking.model import Position
from tracking.protocol.codec import frame_ends
from tracking.protocol.fit import DrivenPoint
from tracking.protocol.passenger import Segment, SnapshotPosition, TrackPoint

_POSITION = struct.Struct("=3q5d")
"""Offset, fix time, server time; latitude, longitude, bearing, speed, accuracy. NaN stands for a value that is missing."""
_pack_position = _POSITION.pack
_POSITION_BYTES = _POSITION.size


class KeptBytes:
    """How much the feeds of a process keep for readers that resume: frames of at most `limit` bytes in all.

    Past the limit, a feed that publishes drops its oldest updates beyond its equal share. The values beside the frames are not
    counted: 64 bytes for each position, about a third of its frame, and 24 for each point of a revision, two thirds of it.
    """

    __slots__ = ("feeds", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.feeds = 0

    @property
    def share(self) -> int:
        return self.limit // max(1, self.feeds)


class _KeptRevision:
    """A revision of the line. Points and their times are packed: as objects they would take ten times as much."""

    __slots__ = ("_points", "_segments", "offset")

    def __init__(self, offset: int, track: Sequence[TrackPoint], segments: Sequence[Segment]) -> None:
        self.offset = offset
        self._points = array("d", chain.from_iterable(track))
        self._segments = segments

    def points(self) -> Iterator[DrivenPoint]:
        values = self._points
        for (first, vehicle_id), (end, _) in pairwise((*self._segments, (len(values) // 3, ""))):
            for at in range(first * 3, end * 3, 3):
                yield int(values[at + 2]), values[at], values[at + 1], vehicle_id


class KeptUpdates:
    """Updates stay for `seconds`, up to half as long again, and within the `kept` of all feeds.

    Frames stand one after the other in one buffer, and so do the values of positions. Objects for each would take more memory,
    and would lie scattered in it.
    """

    __slots__ = ("_frames", "_half_ms", "_kept", "_mark", "_mark_before", "_marked_at", "_positions", "_revisions", "before")

    def __init__(self, kept: KeptBytes, *, seconds: float, now: int) -> None:
        self.before = 0
        """The offset before the oldest update that is still here."""
        self._frames = bytearray()
        self._positions = bytearray()
        self._revisions: list[_KeptRevision] = []
        self._kept = kept
        kept.feeds += 1
        self._half_ms = int(seconds * 500)
        self._marked_at = now
        self._mark = self._mark_before = 0

    # --- what comes in ------------------------------------------------------------------------------------------------

    def keep(self, data: bytes) -> None:
        """Keeps the frame of the next update."""
        self._frames += data
        kept = self._kept
        kept.used += len(data)
        if kept.used > kept.limit and len(self._frames) > kept.share:
            # This drops more than it must, so that not every update has to make room.
            self._make_room(kept.share * 7 // 8)

    def keep_position(self, data: bytes, offset: int, position: Position) -> None:
        """Keeps the next update, which is this position."""
        bearing, speed, accuracy = position.bearing, position.speed, position.accuracy
        self._positions += _pack_position(
            offset,
            position.fix_time,
            position.server_time,
            position.latitude,
            position.longitude,
            nan if bearing is None else bearing,
            nan if speed is None else speed,
            nan if accuracy is None else accuracy,
        )
        # As in `keep`, without another call for each position.
        self._frames += data
        kept = self._kept
        kept.used += len(data)
        if kept.used > kept.limit and len(self._frames) > kept.share:
            self._make_room(kept.share * 7 // 8)

    def keep_revision(self, data: bytes, offset: int, track: Sequence[TrackPoint], segments: Sequence[Segment]) -> None:
        """Keeps the next update, which is this part of the line. Each segment says from which index on it is whose."""
        self._revisions.append(_KeptRevision(offset, track, segments))
        self.keep(data)

    def drop_all(self, offset: int) -> None:
        """Drops everything up to `offset`, which is the newest."""
        self._drop(len(self._frames), offset)

    def end(self, offset: int) -> None:
        """Drops everything, and keeps nothing more."""
        self.drop_all(offset)
        self._kept.feeds -= 1

    def age(self, offset: int, now: int) -> None:
        """Drops what is too old. `offset` is the newest. To be called every few seconds."""
        if now - self._marked_at >= self._half_ms:
            if self._mark_before > self.before:
                self._drop(self._start_after(self._mark_before), self._mark_before)
            self._mark_before, self._mark, self._marked_at = self._mark, offset, now

    # --- what goes out ------------------------------------------------------------------------------------------------

    def size_after(self, offset: int) -> int:
        """Bytes of the frames after `offset`, which is not below `before`."""
        return len(self._frames) - self._start_after(offset)

    def frames_after(self, offset: int) -> bytearray:
        """The frames after `offset`, one after the other."""
        return self._frames[self._start_after(offset) :]

    def positions_after(self, offset: int) -> Iterator[tuple[int, SnapshotPosition]]:
        """The positions that were published after `offset`, each with its own offset."""
        values = self._positions[self._position_after(offset) :]
        for number, fix_time, server_time, latitude, longitude, bearing, speed, accuracy in _POSITION.iter_unpack(values):
            yield (
                number,
                SnapshotPosition(
                    latitude, longitude, fix_time, server_time, _or_unset(bearing), _or_unset(speed), _or_unset(accuracy)
                ),
            )

    def revised_after(self, offset: int) -> Iterator[DrivenPoint]:
        """The points of the revisions that were published after `offset`."""
        for revision in self._revisions:
            if revision.offset > offset:
                yield from revision.points()

    # --- making room --------------------------------------------------------------------------------------------------

    def _make_room(self, room: int) -> None:
        excess = len(self._frames) - room
        for offset, end in enumerate(frame_ends(self._frames), self.before + 1):
            if end >= excess:
                self._drop(end, offset)
                return

    def _drop(self, size: int, offset: int) -> None:
        self._kept.used -= size
        del self._frames[:size]
        del self._positions[: self._position_after(offset)]
        self._revisions = [revision for revision in self._revisions if revision.offset > offset]
        self.before = offset

    def _start_after(self, offset: int) -> int:
        """Where in `_frames` the update after `offset` begins."""
        if offset == self.before:
            return 0
        return next(islice(frame_ends(self._frames), offset - self.before - 1, None))

    def _position_after(self, offset: int) -> int:
        """Where in `_positions` the first position after `offset` begins."""

        def offset_at(index: int) -> int:
            number: int = _POSITION.unpack_from(self._positions, index * _POSITION_BYTES)[0]
            return number

        return bisect_right(range(len(self._positions) // _POSITION_BYTES), offset, key=offset_at) * _POSITION_BYTES


def _or_unset(value: float) -> float | UnsetType:
    return UNSET if isnan(value) else value
