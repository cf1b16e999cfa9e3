"""Marks: how a hub notices that the store is not the one any more that its memory was read from.

Each transaction raises a mark of the hub, a row of its own in `hub_marks`, and is refused unless the marks that the hub saw
committed stand at least as high. A store that goes back loses its last commits, and never one from among them: while the marks
stand, nothing is missing that memory trusts. In a replica that lagged, a copy put back, or a backup they do not stand.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import NamedTuple

WENT_BACK = "TK001"
"""The SQLSTATE of `raise_mark`."""
FORGOTTEN_AFTER = "7 days"
"""Marks that have not moved for so long are a hub's that is no more. `Database.check_marks` moves one every hour."""


class Mark(NamedTuple):
    """What one transaction raises: the row, and the number that it then has. `standing`: what it is held against."""

    slot: int
    number: int
    standing: dict[int, int]
    worn: tuple[int, ...]
    """rows to be removed on the way"""


class Marks:
    """What one life of a hub knows of its marks. One for all pools: what goes back goes back for all of them."""

    def __init__(self, *, raises: int = 1_000) -> None:
        """`raises` is how often a row is raised before another takes its place: while somebody holds a snapshot, a backup for
        hours, its old versions can't be cleared away, and to find the newest takes longer with each."""
        self._raises = raises
        self.hub = uuid.uuid4()
        self.went_back = asyncio.Event()
        """Set for good once the store is known to be another one: whatever was read from it is not to be trusted."""
        self._known: dict[int, int] = {}
        self._idle: list[int] = []
        self._worn: set[int] = set()
        self._asked: list[dict[int, int]] = []
        self._raised: dict[int, int] = {}
        self._slots = 0
        self._number = 0

    @property
    def begun(self) -> bool:
        """Whether one was committed: what is read after that can be trusted for as long as the marks stand."""
        return bool(self._known)

    @property
    def known(self) -> dict[int, int]:
        """By slot, the numbers that must stand: those seen committed, but for what a later one vouches for."""
        return self._known

    def claim(self) -> Mark:
        """A mark for one transaction. End it with `committed` or `rolled_back`; where neither is known, with nothing.

        Send `begin` at once, while its `standing` is `asked`.
        """
        self._number += 1
        if not self._idle:
            self._slots += 1
            self._idle.append(self._slots)
        # Each to one transaction alone: another that removed them too would wait for it. And none that a statement is held
        # against which is on its way: that one would find it missing.
        worn = tuple(self._worn.difference(self._known, *self._asked))
        self._worn.difference_update(worn)
        return Mark(self._idle.pop(), self._number, dict(self._known), worn)

    def committed(self, mark: Mark) -> None:
        """COMMIT was answered: from now on this mark vouches for those that it was held against."""
        for slot, number in mark.standing.items():
            if self._known.get(slot) == number:
                del self._known[slot]
        self._known[mark.slot] = mark.number
        raised = self._raised[mark.slot] = self._raised.get(mark.slot, 0) + 1
        if raised < self._raises:
            self._idle.append(mark.slot)
        else:
            del self._raised[mark.slot]
            self._worn.add(mark.slot)

    def rolled_back(self, mark: Mark) -> None:
        self._idle.append(mark.slot)
        self._worn.update(mark.worn)

    @contextlib.contextmanager
    def asked(self, standing: dict[int, int]) -> Iterator[None]:
        """While a statement is under way that is held against these: until it is answered, their rows must be there."""
        self._asked.append(standing)
        try:
            yield
        finally:
            self._asked.remove(standing)

    def begin(self, mark: Mark) -> str:
        """The statements that begin a transaction: all in one, so that the mark takes no round trip of its own.

        `SET LOCAL`: an acknowledged fix is durable whatever the server, a role or a pooler made of the session's settings.
        """
        tidy = "" if self._known else f"DELETE FROM hub_marks WHERE raised_at < now() - interval '{FORGOTTEN_AFTER}';"
        if mark.worn:
            tidy += f"DELETE FROM hub_marks WHERE hub = '{self.hub}' AND slot IN ({','.join(map(str, mark.worn))});"
        return (
            f"BEGIN; SET LOCAL synchronous_commit TO on; {tidy}"
            f"SELECT raise_mark('{self.hub}', {mark.slot}, {mark.number}, {_as_sql(mark.standing)})"
        )

    def ask(self, standing: dict[int, int]) -> str:
        """A query: whether these marks stand."""
        return f"SELECT marks_stand('{self.hub}', {_as_sql(standing)})"


def _as_sql(marks: dict[int, int]) -> str:
    """Whole numbers alone, so that nothing in it can be misread."""
    return f"'{{{','.join(map(str, marks))}}}', '{{{','.join(map(str, marks.values()))}}}'"
