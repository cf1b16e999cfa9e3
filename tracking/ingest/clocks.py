"""Whether a device's clock is right, judged by how old its fixes are when they arrive. Pure: no I/O, and no clock of its own.

An old fix waited in the device's queue, or a clock that is behind dated it. A queue is sent faster than it grows, so its age
falls. The age that a wrong clock makes stays. A fix from the future has one explanation alone.

Instants are ms since 1970-01-01 UTC. An *age* is the hub's clock less a fix time, in ms. A *skew* is the device's clock less
the hub's, in ms: positive ahead, negative behind, 0 while the clock is not known to be wrong.
"""

from typing import Final

AHEAD: Final = 30_000
"""A fix that is further ahead than this shows a wrong clock; up to 60 s ahead it is taken all the same (PROTOCOL)."""
BEHIND: Final = 60_000
"""A fix that is older than this may show one. What is younger may come from a slow network, and does no harm."""
FALL: Final = 2_000
"""A steady age falls by no more than this below where it began: receivers round to a second, and networks vary."""
RISE: Final = BEHIND
"""It may rise by more, because a message may be long on its way."""
MESSAGES: Final = 5
"""A wrong clock is known after so many messages in a row with a steady age, over one of these times:"""
STEADY: Final = 15_000
ZONE: Final = 8_000
"""where the age is a whole number of quarters of an hour, which is what time zones differ by;"""
QUEUED: Final = 600_000
"""where the first fix went on where a right clock left off. That is a queue, and it may be sent no faster than it grows."""
QUARTER: Final = 900_000
NEAR_QUARTER: Final = 15_000
DRIFT: Final = 30_000
"""A known skew changes by more than this, or not at all. It is taken back where fixes are younger than it allows by more."""
CONTINUED: Final = 300_000
"""The first fix of a queue is no more than this after the last fix that came before."""

_NEVER: Final = -(2**62)


class DeviceClock:
    """The clock of a vehicle's device, while the ages of its fixes are not those of a right clock."""

    __slots__ = ("_age", "_count", "_queued", "_since", "skew")

    def __init__(self, *, queued: bool) -> None:
        self.skew = 0
        """what is known of it"""
        self._queued = queued
        self._age = _NEVER
        """where the steady age began, and when"""
        self._since = 0
        self._count = 0

    def see(self, age: int, now: int) -> int:
        """Takes the age of the last fix in a message that came now, none of them seen before; the skew."""
        if age < -AHEAD:
            self._learn(age)
            self._begin(age, now)
            return self.skew
        if self.skew and age < -self.skew - DRIFT:
            # Younger than that clock makes them: it was set, or they came out of a queue after all.
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
    """A fix of this age shows a clock that is right, as nearly as it matters."""
    return -AHEAD <= age <= BEHIND


def continues(fix_time: int, newest: int) -> bool:
    """Whether a fix comes after the newest one known as the next in a queue does."""
    return 0 <= fix_time - newest <= CONTINUED


def is_zone(milliseconds: int) -> bool:
    """Whether a wrong time zone explains a skew or an age: it is a whole number of quarters of an hour, at most 27 h."""
    off = abs(milliseconds)
    return QUARTER - NEAR_QUARTER <= off <= 108 * QUARTER and abs((off + QUARTER // 2) % QUARTER - QUARTER // 2) <= NEAR_QUARTER


def described(skew: int) -> str:
    """A skew for a driver: which clock, how far and which way it is wrong."""
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
