"""Marks: how a hub notices that the database went back behind what its memory was read from.

Each transaction raises a mark, a row of the hub in `hub_marks`. It is refused unless the marks that the hub saw committed are
at least as high. A database that goes back loses its last commits, and none from between. So while the marks are there, nothing
is missing that memory trusts. In a replica that lagged, a restored copy, or a backup, they are missing.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import NamedTuple

WENT_BACK = "TK001"
"""The SQLSTATE of `raise_mark`."""
FORGOTTEN_AFTER = "7 days"
"""Marks that did not move for so long belong to a dead hub. `Database.check_marks` moves one every hour."""


class Mark(NamedTuple):
    """What one transaction raises: the row, and its new number. `standing` are the marks that must be there."""

    slot: int
    number: int
    standing: dict[int, int]
    worn: tuple[int, ...]
    """Rows to be removed in the same transaction."""


class Marks:
    """The marks that a hub knows since its start. All pools share them, because they have one database."""

    def __init__(self, *, raises: int = 1_000) -> None:
        """`raises` is how often a row is raised before another replaces it. While somebody holds a snapshot, as a backup does
        for hours, old versions of the row cannot be removed. With each, it takes longer to find the newest."""
        self._raises = raises
        self.hub = uuid.uuid4()
        self.went_back = asyncio.Event()
        """Set for ever as soon as the database is known to have gone back. Nothing that was read from it is trusted then."""
        self._known: dict[int, int] = {}
        self._idle: list[int] = []
        self._worn: set[int] = set()
        self._asked: list[dict[int, int]] = []
        self._raised: dict[int, int] = {}
        self._slots = 0
        self._number = 0

    @property
    def begun(self) -> bool:
        """Whether a mark was committed. What is read after that is trusted as long as the marks are there."""
        return bool(self._known)

    @property
    def known(self) -> dict[int, int]:
        """By slot, the numbers that must be there. Marks that a later mark was checked against are left out."""
        return self._known

    def claim(self) -> Mark:
        """A mark for one transaction. End it with `committed` or `rolled_back`, or with neither if the result is unknown.

        Send `begin` at once, while its `standing` is `asked`.
        """
        self._number += 1
        if not self._idle:
            self._slots += 1
            self._idle.append(self._slots)
        # Only one transaction removes a row, because another would wait for it. A row that a statement is checked against just
        # now is not removed, because that statement would miss it.
        worn = tuple(self._worn.difference(self._known, *self._asked))
        self._worn.difference_update(worn)
        return Mark(self._idle.pop(), self._number, dict(self._known), worn)

    def committed(self, mark: Mark) -> None:
        """COMMIT was answered. From now on this mark stands for those that it was checked against."""
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
        """While a statement is under way that is checked against these marks, their rows are not removed."""
        self._asked.append(standing)
        try:
            yield
        finally:
            self._asked.remove(standing)

    def begin(self, mark: Mark) -> str:
        """The statements that begin a transaction. They are one text, so that the mark needs no round trip of its own.

        `SET LOCAL` makes an acknowledged fix durable, whatever the session's settings are.
        """
        tidy = "" if self._known else f"DELETE FROM hub_marks WHERE raised_at < now() - interval '{FORGOTTEN_AFTER}';"
        if mark.worn:
            tidy += f"DELETE FROM hub_marks WHERE hub = '{self.hub}' AND slot IN ({','.join(map(str, mark.worn))});"
        return (
            f"BEGIN; SET LOCAL synchronous_commit TO on; {tidy}"
            f"SELECT raise_mark('{self.hub}', {mark.slot}, {mark.number}, {_as_sql(mark.standing)})"
        )

    def ask(self, standing: dict[int, int]) -> str:
        """A query that tells whether these marks are there."""
        return f"SELECT marks_stand('{self.hub}', {_as_sql(standing)})"


def _as_sql(marks: dict[int, int]) -> str:
    """The marks as text. It has only whole numbers, so nothing in it needs quoting."""
    return f"'{{{','.join(map(str, marks))}}}', '{{{','.join(map(str, marks.values()))}}}'"
