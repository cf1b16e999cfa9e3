"""What one screen shows of a fleet, and what is still to be shown or told to it."""

import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from tracking.live.grid import Area, Cell
from tracking.live.reader_queue import ReaderQueue

SLICE_SECONDS = 0.002
"""Of the event loop, in one go, for what screens are shown because they look elsewhere."""

V = TypeVar("V")
"""The vehicles that it shows."""


class Allowance(Protocol):
    """How much a screen may be shown: what it costs is known when it was shown, and is paid off in time."""

    def has_room(self) -> bool: ...

    def spend(self, amount: int) -> None: ...


class Unlimited:
    def has_room(self) -> bool:
        return True

    def spend(self, amount: int) -> None:
        pass


class Viewport(Generic[V]):
    """One screen. While its reader is slow it notes which vehicles changed, and gets the newest of each when there is room."""

    __slots__ = (
        "allowance",
        "area",
        "cells",
        "clustered",
        "clusters",
        "coming",
        "descriptions",
        "left",
        "missed",
        "missed_descriptions",
        "queue",
        "rows",
        "skipped",
        "wanted",
        "zoom",
    )

    def __init__(self, queue: ReaderQueue, allowance: Allowance | None = None) -> None:
        """`allowance` may be shared with other screens."""
        self.queue = queue
        self.allowance = allowance or Unlimited()
        self.area: Area | None = None
        self.zoom = 0.0
        self.wanted: tuple[tuple[float, float, float, float], float] | None = None
        """Bounds and zoom that are still to be shown."""
        self.skipped: list[Area] = []
        """where it was meanwhile, unshown: what did not lie there its client has forgotten"""
        self.coming: Iterator[None] | None = None
        """Shows the rest of what it looks at, a part each time; None where all of it is shown."""
        self.cells: set[Cell[V, Viewport[V]]] = set()
        self.clustered = False
        self.clusters = b""
        """as they were sent last"""
        self.rows: list[bytes] = []
        self.descriptions: list[bytes] = []
        self.left: list[str] = []
        self.missed: set[V] = set()
        self.missed_descriptions: set[V] = set()

    @property
    def holds_back(self) -> bool:
        return bool(self.missed or self.missed_descriptions or self.left or self.coming)


class Shower(Protocol[V]):
    """What shows more to a viewport."""

    def go_on(self, viewport: Viewport[V]) -> None: ...


class Slices(Generic[V]):
    """What screens are shown because they look elsewhere, in slices of the event loop's time: others have their turn between.

    `later` calls a function when they had it, as `loop.call_soon` does. Without it a slice has no end.
    """

    def __init__(self, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._later = later
        self._ends: float | None = None
        self._waiting: dict[Viewport[V], Shower[V]] = {}

    def has_time(self) -> bool:
        """Whether there is time in this slice. The first who asks begins it."""
        if self._later is None:
            return True
        now = time.perf_counter()
        if self._ends is None:
            self._ends = now + SLICE_SECONDS
            self._later(self._next)
            return True
        return now < self._ends

    def wait(self, viewport: Viewport[V], feed: Shower[V]) -> None:
        """The viewport goes on in the next slice."""
        self._waiting[viewport] = feed

    def forget(self, viewport: Viewport[V]) -> None:
        self._waiting.pop(viewport, None)

    def _next(self) -> None:
        self._ends = None
        waiting = self._waiting
        for viewport, feed in list(waiting.items()):
            if not self.has_time():
                break
            # One that was shown something before it may have been the end of another.
            if waiting.pop(viewport, None) is not None:
                feed.go_on(viewport)
