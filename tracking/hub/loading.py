"""Things that are read from the store when they are first needed, while changes of them may be applied.

What was read is as of one change of the log. Where a later change of it was applied meanwhile, it is out of date: it is read
again. So nothing is missed, and nothing goes backwards.
"""

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Loading(Generic[Key]):
    """Notes what changes while anything is being read."""

    def __init__(self) -> None:
        self._open = 0
        self._changed: dict[Key, int] = {}

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """From before something is read until it is kept, or found out of date."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._changed.clear()

    def changed(self, key: Key, number: int) -> None:
        """The change of that number, of this thing, was applied."""
        if self._open:
            self._changed[key] = number

    def is_current(self, key: Key, as_of: int) -> bool:
        """Whether what was read of the thing, as of that change, is as it is now. To be asked within `reading`."""
        return self._changed.get(key, 0) <= as_of
