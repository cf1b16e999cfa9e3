"""UTC days. Tables have them as dates, and the hub as numbers counted from 1970-01-01."""

from datetime import date, timedelta

DAY_MS = 86_400_000
_FIRST = date(1970, 1, 1)


def date_of(day: int) -> date:
    return _FIRST + timedelta(days=day)


def day_of(day: date) -> int:
    return (day - _FIRST).days


def bounds(day: int) -> tuple[int, int]:
    """The instants at which the day begins and ends."""
    return day * DAY_MS, (day + 1) * DAY_MS
