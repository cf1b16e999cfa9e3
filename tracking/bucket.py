"""A token bucket: a burst at once, and a steady rate in the long run."""

import math

ROUNDING = 1e-6
"""A shortage this small is ignored. The content is a sum of fractions."""


class Bucket:
    """`rate` is per second in the long run, `burst` is at once. Instants are in ms."""

    __slots__ = ("_burst", "_left", "_rate_per_ms", "_then")

    def __init__(self, rate: float, burst: int, now: int) -> None:
        self._rate_per_ms = rate / 1000
        self._burst = burst
        self._left: float = burst
        self._then = now

    def take(self, now: int, amount: int = 1) -> bool:
        """Take `amount` if there is room for it at this instant, else nothing; return whether it was taken.

        An amount above the burst is taken from a full bucket, and empties it.
        """
        left = self._left
        if now > self._then:
            left += (now - self._then) * self._rate_per_ms
            if left > self._burst:
                left = self._burst
        # A clock that is set back adds nothing. The count continues from the new time.
        self._then = now
        if left < min(amount, self._burst) - ROUNDING:
            self._left = left
            return False
        self._left = left - min(amount, self._burst)
        return True

    def drain(self, now: int, amount: int) -> None:
        """Take `amount` for work that is done already, or all that is left."""
        if not self.take(now, amount):
            self._left = 0.0

    def give_back(self, amount: int) -> None:
        """Return what was taken and not used."""
        self._left = min(self._burst, self._left + amount)

    def owe(self, now: int, amount: int) -> None:
        """Take `amount` for work that is done already. The bucket may go below zero. `take` then refuses everything until it is
        refilled.
        """
        self.take(now, 0)
        self._left -= amount

    def wait(self, amount: int = 1) -> float:
        """Seconds after the last `take` until there is room for `amount`."""
        return max(0.0, math.ceil((min(amount, self._burst) - self._left) / self._rate_per_ms) / 1000)
