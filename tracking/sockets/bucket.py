"""A token bucket: so many at once, so many a second for long."""


class Bucket:
    """`rate` a second for long, `burst` at once."""

    __slots__ = ("_burst", "_level", "_rate_per_ms", "_then")

    def __init__(self, rate: float, burst: float, now: int) -> None:
        self._rate_per_ms = rate / 1000
        self._burst = burst
        self._level = burst
        self._then = now

    def take(self, now: int) -> bool:
        """Whether there is room for one more at this instant; takes it."""
        level = self._level
        # A clock that is set back must neither fill nor drain the bucket.
        if now > self._then:
            level += (now - self._then) * self._rate_per_ms
            if level > self._burst:
                level = self._burst
        self._then = now
        if level < 1:
            self._level = level
            return False
        self._level = level - 1
        return True
