"""Clocks for tests: milliseconds since 1970, as the service's clock gives them."""

from tests.support.clients import now_ms


class SetClock:
    """Shows `now`, which the test sets."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class ShiftedClock:
    """Shows the real time plus `ahead`, which the test sets."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead
