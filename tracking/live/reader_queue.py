"""The frames for one reader. A slow reader gets the newest position, not the oldest. Nothing else is dropped."""

from collections import deque
from collections.abc import Callable

from tracking.errors import CloseCode
from tracking.metrics import SKIPPED
from tracking.protocol.codec import frame
from tracking.protocol.shared import Skipped


class _Waiting:
    """A frame that waits, or (without `data`) a gap: the offsets of positions that were left out."""

    __slots__ = ("data", "first", "last")

    def __init__(self, data: bytes | None, first: int, last: int) -> None:
        self.data = data
        self.first = first
        self.last = last


def _nowhere(_: object) -> None:
    """In place of the callbacks of a queue that is shut."""


class ReaderQueue:
    """Frames for one reader, in order: written at once while it reads, waiting while it is slow.

    `write` sends a ready frame. Call `block` when more is unsent than the reader's high-water mark, `flush` when it has room
    again, and `shut` when nothing may be written any more. Only the newest position waits, and the reader is told which offsets
    were left out. Past `limit` bytes of other frames, `end` closes the reader with 4008.
    """

    __slots__ = ("_flowing", "_limit", "_newest", "_shut", "_waiting", "_write", "blocked", "end", "size")

    def __init__(self, write: Callable[[bytes], None], *, limit: int, end: Callable[[CloseCode], None]) -> None:
        self._write = write
        self._limit = limit
        self.end = end
        self.blocked = False
        self._flowing = True
        """Not blocked, not shut, and nothing waits. This is the only check for each frame."""
        self._shut = False
        self._waiting: deque[_Waiting] | None = None
        self._newest: _Waiting | None = None
        """The position that waits."""
        self.size = 0
        """Bytes that wait here."""

    def push(self, data: bytes) -> None:
        """Sends a frame that is never dropped."""
        if self._flowing:
            self._write(data)
        else:
            self._wait(_Waiting(data, 0, 0))

    def push_position(self, data: bytes, offset: int) -> None:
        """Sends a position, which a newer one may replace."""
        if self._flowing:
            self._write(data)
        elif not self._shut:
            self._leave_out()
            position = self._newest = _Waiting(data, offset, offset)
            self._wait(position)

    def block(self) -> None:
        self.blocked = True
        self._flowing = False

    def flush(self) -> None:
        """Writes what waits, until the reader is blocked again."""
        self.blocked = False
        waiting = self._waiting
        while waiting and not self.blocked:
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
            self._flowing = not self.blocked and not self._shut

    def shut(self) -> None:
        """Drops what waits, and takes nothing more."""
        self._shut = True
        self._flowing = False
        self._waiting = self._newest = None
        # They refer to the owner of this queue. Without this, the cycle would wait for the garbage collector.
        self._write = self.end = _nowhere
        self.size = 0

    def _wait(self, item: _Waiting) -> None:
        if self._shut:
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(item)
        self.size += len(item.data or b"")
        if self.size > self._limit:
            end = self.end
            self.shut()
            end(CloseCode.TOO_SLOW)

    def _leave_out(self) -> None:
        """Replaces the position that waits by a gap, or widens the gap before it."""
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
