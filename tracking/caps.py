"""Caps: how many of a kind one fleet, vehicle or trip may have at a time. Each is a setting.

A cap is held against a count that is taken under a lock which every other that adds one must have too, or far enough from the
cap: so of many requests at once none goes past it.
"""

from tracking.errors import ErrorCode, Refusal


def hold(count: int, most: int, what: str, setting: str, advice: str) -> None:
    """Raises `Refusal` (`conflict`) where there would be more than `most`. `what` is who would have so many of what."""
    if count > most:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"{what}, and at most {most} fit: {advice}, or have your operator raise TRACKING_{setting.upper()}",
        )
