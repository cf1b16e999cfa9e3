"""A token bucket: so many at once, so many a second for long."""

from tracking.model import Clock


class Bucket:
    """`rate` a second for long, `burst` at once."""

    __slots__ = ("_burst", "_clock", "_level", "_rate_per_ms", "_then")

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._rate_per_ms = rate / 1000
        self._burst = burst
        self._clock = clock
        self._level = burst
        self._then = clock()

    def take(self) -> bool:
        """Whether there is room for one more; takes it."""
        now = self._clock()
        # A clock that is set back must neither fill nor drain the bucket.
        self._level = min(self._burst, self._level + max(0, now - self._then) * self._rate_per_ms)
        self._then = now
        if self._level < 1:
            return False
        self._level -= 1
        return True
