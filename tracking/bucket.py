"""A token bucket: so many at once, so many a second for long."""

import math

ROUNDING = 1e-6
"""What may be short: what came in is a sum of fractions."""


class Bucket:
    """`rate` a second for long, `burst` at once. Instants in ms."""

    __slots__ = ("_burst", "_left", "_rate_per_ms", "_then")

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self._rate_per_ms = rate / 1000
        self._burst = burst
        self._left: float = burst
        self._then = now

    def take(self, now: int, amount: int = 1) -> bool:
        """Whether there is room for so many more at this instant; takes them, or nothing.

        More than the burst is let through where the bucket is full, and empties it.
        """
        left = self._left
        if now > self._then:
            left += (now - self._then) * self._rate_per_ms
            if left > self._burst:
                left = self._burst
        # A clock that is set back grants nothing, and begins anew.
        self._then = now
        if left < min(amount, self._burst) - ROUNDING:
            self._left = left
            return False
        self._left = left - min(amount, self._burst)
        return True

    def drain(self, now: int, amount: int) -> None:
        """Takes so many, or all that there is: for what was done already."""
        if not self.take(now, amount):
            self._left = 0.0

    def give_back(self, amount: int) -> None:
        """What was taken, and not used."""
        self._left = min(self._burst, self._left + amount)

    def owe(self, now: int, amount: int) -> None:
        """Takes so many that are spent already, though less be left: until they are paid off `take` refuses, even nothing."""
        self.take(now, 0)
        self._left -= amount

    def wait(self, amount: int = 1) -> float:
        """Seconds from the last `take` on until there is room for so many."""
        return max(0.0, math.ceil((min(amount, self._burst) - self._left) / self._rate_per_ms) / 1000)
