"""When a process that ended is started again."""

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
RESET_SECONDS = 60.0
"""A process that has lived so long is started again at once."""


class Restarts:
    """Of one process that is to run for ever: it starts again at once, then after 1, 2, 4 … 30 s."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def delay(self, lived: float) -> float:
        """How long (s) to wait before the next start of a process that has ended after `lived` (s)."""
        if lived >= RESET_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        if self._in_a_row == 1:
            return 0.0
        return min(FIRST_SECONDS * 2.0 ** min(self._in_a_row - 2, 16), LONGEST_SECONDS)
