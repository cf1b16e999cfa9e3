"""A geofence, a driver who goes in and out of it, and the events that the hub lists."""

from typing import Any

from tests.support.clients import Api, Driver, Message, fix, new_id, now_ms

RING = [[9.52, 47.14], [9.53, 47.14], [9.53, 47.15], [9.52, 47.15], [9.52, 47.14]]
YARD = {"type": "Polygon", "coordinates": [RING]}
ELSEWHERE = {"type": "Polygon", "coordinates": [[[x + 1, y] for x, y in RING]]}
INSIDE = {"latitude": 47.145, "longitude": 9.525, "accuracy": 5.0}
OUTSIDE = {"latitude": 47.145, "longitude": 9.515, "accuracy": 5.0}


class Drive:
    """A driver whose fixes are a minute apart, so that all of them are plausible."""

    def __init__(self, driver: Driver, begin: int, seq: int = 0) -> None:
        self.driver, self.begin, self.seq = driver, begin, seq

    async def to(self, place: Message, **fields: Any) -> int:
        """Reports the place, and waits for the ack. Returns the fix time."""
        self.seq += 1
        fix_time = self.begin + self.seq * 60_000
        await self.driver.report(fix(self.seq, fix_time=fix_time, **{**place, **fields}))
        assert await self.driver.acknowledged(self.seq) == []
        return fix_time


def hour_ago() -> int:
    return now_ms() - 3_600_000


async def put_fence(api: Api, fleet_id: str, geometry: Any = YARD, geofence_id: str = "yard", **properties: Any) -> None:
    body = {"type": "Feature", "geometry": geometry, "properties": properties}
    await api.call("PUT", f"/fleets/{fleet_id}/geofences/{geofence_id}", body)


async def quiet_fleet(api: Api) -> str:
    """A fleet whose only events are those of geofences."""
    fleet_id = new_id("fleet")
    thresholds = {"idle_after": 1e6, "dwell_after": 1e6, "signal_lost_after": 1e6}
    await api.call("PUT", f"/fleets/{fleet_id}", {"name": "Quiet", **thresholds})
    return fleet_id


async def listed(api: Api, fleet_id: str, **params: Any) -> list[Message]:
    found: list[Message] = (await api.call("GET", f"/fleets/{fleet_id}/events", **params))["events"]
    return found
