"""Whether a device's clock is right, judged by how old its fixes are when they arrive. Pure: no I/O, and no clock of its own.

An old fix has waited in the device's queue, or its time comes from a clock that is behind. A queue is sent faster than it
grows, so the age of its fixes falls. With a wrong clock the age stays the same. A fix from the future always means a wrong
clock.

Instants are ms since 1970-01-01 UTC. An *age* is the hub's clock less a fix time, in ms. A *skew* is the device's clock less
the hub's, in ms: positive ahead, negative behind, 0 while the clock is not known to be wrong.
"""

from typing import Final

AHEAD: Final = 30_000
"""A fix that is further ahead shows a wrong clock. It is still accepted up to 60 s ahead (PROTOCOL)."""
BEHIND: Final = 60_000
"""A fix that is older may show a wrong clock. A younger one may come from a slow network, and does no harm."""
FALL: Final = 2_000
"""A steady age falls by at most this from its first value. Receivers round to a second, and networks vary."""
RISE: Final = BEHIND
"""A steady age rises by at most this. It is more, because a message may be delayed."""
MESSAGES: Final = 5
"""A wrong clock is known after so many messages in a row with a steady age, over `STEADY`, `ZONE` or `QUEUED`."""
STEADY: Final = 15_000
"""The time in all other cases."""
ZONE: Final = 8_000
"""The time if the age is a whole number of quarters of an hour, by which time zones differ."""
QUEUED: Final = 600_000
"""The time if the first fix continues the last one of a right clock. This is a queue, perhaps sent no faster than it grows."""
QUARTER: Final = 900_000
NEAR_QUARTER: Final = 15_000
DRIFT: Final = 30_000
"""A known skew changes by more than this, or not at all. It is dropped if fixes are younger than it allows by more."""
CONTINUED: Final = 300_000
"""The longest time between the last fix before a queue and the first fix of the queue."""

_NEVER: Final = -(2**62)


class DeviceClock:
    """The clock of a device whose fixes have ages that a right clock does not give."""

    __slots__ = ("_age", "_count", "_queued", "_since", "skew")

    def __init__(self, *, queued: bool) -> None:
        self.skew = 0
        """What is known, 0 if nothing is."""
        self._queued = queued
        self._age = _NEVER
        """The first value of the steady age. `_since` is when it began."""
        self._since = 0
        self._count = 0

    def see(self, age: int, now: int) -> int:
        """Takes the age of the last fix of a new message. Returns the skew."""
        if age < -AHEAD:
            self._learn(age)
            self._begin(age, now)
            return self.skew
        if self.skew and age < -self.skew - DRIFT:
            # These fixes are too young for that clock. It was set, or the earlier ones came from a queue.
            self.skew = 0
        if not self._age - FALL <= age <= self._age + RISE:
            self._begin(age, now)
        else:
            self._count += 1
            if self._count >= MESSAGES and now - self._since >= self._needed():
                self._learn(self._age)
        return self.skew

    def _begin(self, age: int, now: int) -> None:
        self._age, self._since, self._count = age, now, 1

    def _learn(self, age: int) -> None:
        if not self.skew or abs(age + self.skew) > DRIFT:
            self.skew = -age

    def _needed(self) -> int:
        if self._queued:
            return QUEUED
        return ZONE if is_zone(self._age) else STEADY


def is_right(age: int) -> bool:
    """Whether a fix of this age shows a clock that is right, or nearly so."""
    return -AHEAD <= age <= BEHIND


def continues(fix_time: int, newest: int) -> bool:
    """Whether a fix follows the newest known one as the first fix of a queue does."""
    return 0 <= fix_time - newest <= CONTINUED


def is_zone(milliseconds: int) -> bool:
    """Whether a wrong time zone explains a skew or an age: a whole number of quarters of an hour, at most 27 h."""
    off = abs(milliseconds)
    return QUARTER - NEAR_QUARTER <= off <= 108 * QUARTER and abs((off + QUARTER // 2) % QUARTER - QUARTER // 2) <= NEAR_QUARTER


def described(skew: int) -> str:
    """A skew in words for a driver: how far the clock is wrong, and in which direction."""
    what = "clock or time zone" if is_zone(skew) else "clock"
    return f"the device's {what} is {_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}"


def _span(milliseconds: int) -> str:
    seconds = (milliseconds + 500) // 1000
    if seconds < 100:
        return f"{seconds} s"
    minutes = (seconds + 30) // 60
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"
