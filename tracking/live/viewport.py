"""What one screen shows of a fleet, and what is still to be sent to it."""

import time
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from tracking.live.grid import Area, Cell
from tracking.live.reader_queue import ReaderQueue

SLICE_SECONDS = 0.002
"""How long screens that look elsewhere are served in one step of the event loop."""

V = TypeVar("V")
"""The vehicles on the screen."""


class Allowance(Protocol):
    """How much a screen may be shown. A look is paid for afterwards, when its cost is known."""

    def has_room(self) -> bool: ...

    def spend(self, amount: int) -> None: ...


class Unlimited:
    def has_room(self) -> bool:
        return True

    def spend(self, amount: int) -> None:
        pass


class Viewport(Generic[V]):
    """One screen. For a slow reader it notes which vehicles changed, and sends the newest state of each later."""

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
        """Bounds and zoom that are to be shown next."""
        self.skipped: list[Area] = []
        """Areas that it passed without being shown them. Its client has forgotten all vehicles outside them."""
        self.coming: Iterator[None] | None = None
        """Shows the rest of the area, a part each time; None if all of it is shown."""
        self.cells: set[Cell[V, Viewport[V]]] = set()
        self.clustered = False
        self.clusters = b""
        """The frame of clusters that was sent last."""
        self.rows: list[bytes] = []
        self.descriptions: list[bytes] = []
        self.left: list[str] = []
        self.missed: set[V] = set()
        self.missed_descriptions: set[V] = set()

    @property
    def holds_back(self) -> bool:
        return bool(self.missed or self.missed_descriptions or self.left or self.coming)


class Shower(Protocol[V]):
    """Shows a viewport its next part."""

    def go_on(self, viewport: Viewport[V]) -> None: ...


class Slices(Generic[V]):
    """Serves screens that look elsewhere in slices of the event loop's time. Other tasks run between two slices.

    `later` calls a function after those tasks, as `loop.call_soon` does. Without it, a slice has no end.
    """

    def __init__(self, later: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._later = later
        self._ends: float | None = None
        self._waiting: dict[Viewport[V], Shower[V]] = {}

    def has_time(self) -> bool:
        """Whether there is time left in this slice. The first call begins a slice."""
        if self._later is None:
            return True
        now = time.perf_counter()
        if self._ends is None:
            self._ends = now + SLICE_SECONDS
            self._later(self._next)
            return True
        return now < self._ends

    def wait(self, viewport: Viewport[V], feed: Shower[V]) -> None:
        """The viewport continues in the next slice."""
        self._waiting[viewport] = feed

    def forget(self, viewport: Viewport[V]) -> None:
        self._waiting.pop(viewport, None)

    def _next(self) -> None:
        self._ends = None
        waiting = self._waiting
        for viewport, feed in list(waiting.items()):
            if not self.has_time():
                break
            # Serving one viewport may have removed another.
            if waiting.pop(viewport, None) is not None:
                feed.go_on(viewport)
