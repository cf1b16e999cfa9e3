"""Positions of vehicles by seconds and metres, in and around a yard."""

import math
from typing import Any

from tests.support.geofence_truth import METRES, Seen
from tests.support.monitoring import BEGIN
from tracking.model import Event

EAST = METRES * math.cos(math.radians(47.0))


YARD: dict[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[9.5, 47.0], [9.51, 47.0], [9.51, 47.01], [9.5, 47.01], [9.5, 47.0]]],
}


INSIDE, OUTSIDE = (380.0, 500.0), (-400.0, 500.0)


def at(seconds: float, east: float = 0.0, north: float = 0.0, accuracy: float | None = 5.0, vehicle: str = "van") -> Seen:
    """So many seconds after the beginning, so many metres from the yard's south-west corner."""
    return Seen(vehicle, BEGIN + int(seconds * 1000), 9.5 + east / EAST, 47.0 + north / METRES, accuracy)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.value for event in events]
