"""How long to wait before the next attempt."""

import random
from collections.abc import Callable

Backoff = Callable[[int], float]
"""Attempt number (0 for the first) -> seconds to wait before it."""


def full_jitter(first: float = 0.5, longest: float = 30.0, rng: random.Random | None = None) -> Backoff:
    """Exponential backoff with full jitter: uniform between 0 and `first * 2**attempt` seconds, at most `longest`.

    The wait is spread over the whole span. Otherwise all drivers that a hub lost at once would return at once. Source:
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
    """
    uniform = (rng or random.Random()).uniform

    def delay(attempt: int) -> float:
        return uniform(0.0, min(longest, first * 2.0 ** min(attempt, 32)))

    return delay
