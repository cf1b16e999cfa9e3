"""Loading things from the store when they are first needed, while changes of them may be applied.

A reading knows of all changes up to one number of the log. If a later change was applied meanwhile, the thing is read again. So
nothing is missed, and nothing goes backwards.
"""

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")

MOST = 10_000
"""Things that are noted. On a busy hub something is being read all the time."""


class Loading(Generic[Key]):
    """Notes which things change while anything is being read."""

    def __init__(self) -> None:
        self._open = 0
        self._changed: dict[Key, int] = {}
        self._before = 0
        """Things that are not noted may have changed up to this number."""

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """To be entered before something is read, and left when it is kept or found out of date."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._changed.clear()
                self._before = 0

    def changed(self, key: Key, number: int) -> None:
        """A change of this thing, with this number, was applied."""
        if not self._open:
            return
        if len(self._changed) >= MOST:
            self._changed.clear()
            self._before = number
        self._changed[key] = number

    def is_current(self, key: Key, as_of: int) -> bool:
        """Whether a reading as of that change is still current. To be asked within `reading`."""
        return self._changed.get(key, self._before) <= as_of


class LastChanges(Generic[Key]):
    """When things last changed, as numbers that rise. It remembers `most` things."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._last: dict[Key, int] = {}
        self._before: int | None = None
        """Things that are not here may have changed up to this number. None: nothing was noted yet."""

    def begin(self, number: int) -> None:
        """Changes after this number will be noted. Nothing is known of those before."""
        if self._before is None:
            self._before = number

    def changed(self, key: Key, number: int) -> None:
        self.begin(number - 1)
        # The thing that changed last comes last, so the first is the one to forget.
        self._last.pop(key, None)
        self._last[key] = number
        if len(self._last) > self._most:
            self._before = max(self._before or 0, self._last.pop(next(iter(self._last))))

    def knows(self, key: Key) -> bool:
        """Whether the last change of this thing is remembered itself."""
        return key in self._last

    def last(self, key: Key, otherwise: int) -> int:
        """The number of the thing's last change, or one that is not below it. `otherwise`: if nothing was noted yet."""
        return self._last.get(key, otherwise if self._before is None else self._before)
