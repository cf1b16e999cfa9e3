"""Caps: how many things of a kind a fleet, vehicle or trip may have. Each cap is a setting.

The count is taken under a lock that every request that adds one must hold, unless it is far from the cap. So requests at the
same time can't exceed it.
"""

from tracking.errors import ErrorCode, Refusal


def hold(count: int, most: int, what: str, setting: str, advice: str) -> None:
    """Raises `Refusal` (`conflict`) if `count` exceeds `most`. `what` is a sentence such as "the fleet has 3 vehicles"."""
    if count > most:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"{what}, and at most {most} fit: {advice}, or have your operator raise TRACKING_{setting.upper()}",
        )
