"""What is still to be written to one reader. A slow one gets the newest position, not the oldest; nothing else is dropped."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from tracking.errors import CloseCode
from tracking.metrics import SKIPPED
from tracking.protocol import Skipped, frame


class Reader(Protocol):
    """The way out to a reader. While it is `paused`, more is unsent than its high-water mark, and frames wait here."""

    paused: bool

    def write(self, frame: bytes) -> None: ...


class _Waiting:
    """A frame that waits, or (without `data`) the positions that were left out in its place."""

    __slots__ = ("data", "first", "last")

    def __init__(self, data: bytes | None, first: int, last: int) -> None:
        self.data = data
        self.first = first
        self.last = last


class Outbox:
    """Frames for one reader, in order: written at once while it reads, waiting while it is slow.

    Of the positions only the newest waits, and the reader is told which offsets were left out; past `limit` bytes of what may
    not be dropped, the reader is ended with 4008 by `end`. Call `flush` when the reader is no longer paused.
    """

    __slots__ = ("_limit", "_newest", "_reader", "_waiting", "_write", "end", "overflowed", "size")

    def __init__(self, reader: Reader, *, limit: int, end: Callable[[CloseCode], None]) -> None:
        self._reader = reader
        self._write = reader.write
        self._limit = limit
        self.end = end
        self.overflowed = False
        self._waiting: deque[_Waiting] | None = None
        self._newest: _Waiting | None = None
        """The position that waits."""
        self.size = 0
        """Bytes that wait here."""

    def push(self, data: bytes) -> None:
        """Sends a frame that is never dropped."""
        if self._waiting is None and not self._reader.paused:
            self._write(data)
        else:
            self._wait(_Waiting(data, 0, 0))

    def push_position(self, data: bytes, offset: int) -> None:
        """Sends a position, which a newer one may replace."""
        if self._waiting is None and not self._reader.paused:
            self._write(data)
        else:
            self._leave_out()
            position = _Waiting(data, offset, offset)
            self._wait(position)
            if not self.overflowed:
                self._newest = position

    def flush(self) -> None:
        """Writes what waits, for as long as the reader takes it."""
        waiting = self._waiting
        if waiting is None:
            return
        while waiting and not self._reader.paused:
            item = waiting.popleft()
            if item is self._newest:
                self._newest = None
            if item.data is None:
                while waiting and waiting[0].data is None and waiting[0].first == item.last + 1:
                    item.last = waiting.popleft().last
                self._write(frame(Skipped(item.first, item.last)))
            else:
                self.size -= len(item.data)
                self._write(item.data)
        if not waiting:
            self._waiting = None

    def clear(self) -> None:
        self._waiting = self._newest = None
        self.size = 0

    def _wait(self, item: _Waiting) -> None:
        if self.overflowed:
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(item)
        self.size += len(item.data or b"")
        if self.size > self._limit:
            self.overflowed = True
            self.clear()
            self.end(CloseCode.TOO_SLOW)

    def _leave_out(self) -> None:
        """Puts a gap where the position was that has waited until now, or widens the gap before it."""
        old, waiting = self._newest, self._waiting
        if old is None or waiting is None:
            return
        SKIPPED.value += 1
        self._newest = None
        self.size -= len(old.data or b"")
        old.data = None
        if len(waiting) > 1 and waiting[-1] is old and waiting[-2].data is None and waiting[-2].last + 1 == old.first:
            waiting.pop()
            waiting[-1].last = old.last
