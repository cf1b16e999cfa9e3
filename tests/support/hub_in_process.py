"""A hub in the test's process whose clock the test sets, and all that it knows of a fleet."""

import contextlib
from collections.abc import AsyncIterator

from tests.support.clients import Api, Message
from tests.support.clocks import ShiftedClock
from tests.support.hub_process import SECRET
from tracking.assembly import assemble
from tracking.auth import Auth
from tracking.config import load
from tracking.live.fleet import FleetFeed
from tracking.service import Service

SETTINGS: Message = {"jwt_secret": SECRET, "ack_interval": 0}


class World:
    """A hub in this process, whose clock the test sets."""

    def __init__(self, service: Service, url: str, clock: ShiftedClock, database_url: str) -> None:
        self.service = service
        self.url = url
        self.clock = clock
        self.database_url = database_url

    def feed(self, fleet_id: str) -> FleetFeed | None:
        return self.service.hub.fleets.feeds.get(fleet_id)

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncIterator[Service]:
        """A hub with empty memory on the same database, without its tasks."""
        settings = load(database_url=self.database_url, **SETTINGS)
        service = assemble(settings, self.database_url, Auth(settings, self.clock), self.clock)
        for database in (service.database, service.following):
            await database.open()
        yield service
        for database in (service.database, service.following):
            await database.close()

    async def as_read_anew(self, fleet_id: str) -> Message:
        async with self.another() as service:
            assert await service.loader.load(fleet_id) is not None
            return state_of(service, fleet_id)


def state_of(service: Service, fleet_id: str) -> Message:
    """All that a hub knows of a fleet."""
    feed = service.hub.fleets.feeds[fleet_id]
    assert feed.loaded
    fences = service.monitor.fences.by_fleet[fleet_id].by_id
    return {
        "fleet": feed.fleet,
        "fences": {geofence_id: fence.geofence for geofence_id, fence in fences.items()},
        "vehicles": {
            live.vehicle.vehicle_id: (
                live.vehicle,
                live.number,
                live.joined_at,
                live.trip,
                live.position is not None,
                {i: (stay.since, stay.dwelt) for i, stay in service.monitor.states[live].inside.items()},
                service.monitor.states[live].silent,
                service.hub.fleets.by_number[live.number] is live,
            )
            for live in feed.vehicles
        },
    }


async def has_events(api: Api, fleet_id: str, count: int) -> bool:
    """Whether so many events of the fleet are listed."""
    return len((await api.call("GET", f"/fleets/{fleet_id}/events"))["events"]) >= count
