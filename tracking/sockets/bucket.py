"""A token bucket: so many at once, so many a second for long."""


class Bucket:
    """`rate` a second for long, `burst` at once.

    It looks at the clock only when what it had granted is used up, and then grants what has come in since.
    """

    __slots__ = ("_burst", "_left", "_rate_per_ms", "_then")

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self._rate_per_ms = rate / 1000
        self._burst = burst
        self._left = burst
        self._then = now

    def take(self, now: int) -> bool:
        """Whether there is room for one more at this instant; takes it."""
        if self._left == 0:
            # A clock that is set back grants nothing, and begins anew.
            come_in = min(self._burst, int((now - self._then) * self._rate_per_ms))
            if come_in < 1:
                if now < self._then:
                    self._then = now
                return False
            self._left = come_in
            self._then = now
        self._left -= 1
        return True
