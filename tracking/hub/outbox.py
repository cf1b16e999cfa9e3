"""What is still to be written to one reader. A slow one gets the newest position, not the oldest; nothing else is dropped."""

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tracking.errors import CloseCode
from tracking.metrics import SKIPPED
from tracking.protocol import Skipped, encode


class _Frame(NamedTuple):
    data: bytes
    offset: int | None
    """Set on a position: it may be left out for a newer one."""


class _Gap(NamedTuple):
    first: int
    last: int


class Outbox:
    """Frames for one reader, in order.

    Past `high_water` unsent bytes only the newest position is kept and the reader is told which offsets were left out; past
    `limit` bytes of what may not be dropped, the reader is ended with 4008. `wake` is called when there is something to pop,
    `end` to close the reader's connection.
    """

    __slots__ = ("_high_water", "_limit", "_queue", "_wake", "end", "overflowed", "size")

    def __init__(self, *, high_water: int, limit: int, wake: Callable[[], None], end: Callable[[CloseCode], None]) -> None:
        self._high_water = high_water
        self._limit = limit
        self._wake = wake
        self.end = end
        self.overflowed = False
        self._queue: deque[_Frame | _Gap] = deque()
        self.size = 0

    def push(self, data: bytes) -> None:
        """Adds a frame that is never dropped."""
        self._add(_Frame(data, None))

    def push_position(self, data: bytes, offset: int) -> None:
        """Adds a position, which a newer one may replace."""
        self._add(_Frame(data, offset))

    def pop(self) -> bytes | None:
        """The next frame to write, None where there is none."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if isinstance(item, _Gap):
            return encode(Skipped(item.first, item.last))
        self.size -= len(item.data)
        return item.data

    def clear(self) -> None:
        self._queue.clear()
        self.size = 0

    def _add(self, frame: _Frame) -> None:
        if self.overflowed:
            return
        self._queue.append(frame)
        self.size += len(frame.data)
        if self.size > self._high_water:
            self._collapse()
            if self.size > self._limit:
                self.overflowed = True
                self.clear()
                self.end(CloseCode.TOO_SLOW)
                return
        self._wake()

    def _collapse(self) -> None:
        """Leaves out every position but the newest. Costs the queue's length, once for each `high_water` bytes."""
        kept: deque[_Frame | _Gap] = deque()
        newest = max((f.offset for f in self._queue if isinstance(f, _Frame) and f.offset is not None), default=None)
        size = 0
        for item in self._queue:
            if isinstance(item, _Frame):
                if item.offset is None or item.offset == newest:
                    kept.append(item)
                    size += len(item.data)
                    continue
                SKIPPED.inc()
                item = _Gap(item.offset, item.offset)
            before = kept[-1] if kept else None
            if isinstance(before, _Gap) and before.last + 1 == item.first:
                kept[-1] = _Gap(before.first, item.last)
            else:
                kept.append(item)
        self._queue = kept
        self.size = size
