"""The demo's geofences: three of the villages that its vehicles pass through."""

from typing import Any, NamedTuple

KM_H = 1 / 3.6
"""m/s in a km/h."""


class Area(NamedTuple):
    """`ring` holds `(longitude, latitude)`, the first repeated as the last."""

    geofence_id: str
    properties: dict[str, Any]
    ring: tuple[tuple[float, float], ...]

    def feature(self) -> dict[str, Any]:
        """GeoJSON."""
        geometry = {"type": "Polygon", "coordinates": [[list(place) for place in self.ring]]}
        return {"type": "Feature", "geometry": geometry, "properties": self.properties}


#: What the demo's dispatchers want to be told of; m/s, seconds, metres.
THRESHOLDS = {"speed_limit": round(100 * KM_H, 2), "idle_after": 120, "signal_lost_after": 40, "dwell_after": 180}

AREAS = (
    Area(
        "vaduz",
        {"name": "Vaduz", "speed_limit": round(55 * KM_H, 2)},
        (
            (9.5120, 47.1330),
            (9.5260, 47.1310),
            (9.5310, 47.1400),
            (9.5240, 47.1490),
            (9.5130, 47.1480),
            (9.5085, 47.1400),
            (9.5120, 47.1330),
        ),
    ),
    Area(
        "schaan",
        {"name": "Schaan", "speed_limit": round(55 * KM_H, 2)},
        ((9.4990, 47.1590), (9.5150, 47.1580), (9.5190, 47.1680), (9.5100, 47.1760), (9.4980, 47.1720), (9.4990, 47.1590)),
    ),
    Area(
        "balzers",
        {"name": "Balzers", "dwell_after": 60},
        ((9.4900, 47.0560), (9.5120, 47.0570), (9.5160, 47.0700), (9.5010, 47.0760), (9.4890, 47.0680), (9.4900, 47.0560)),
    ),
)
