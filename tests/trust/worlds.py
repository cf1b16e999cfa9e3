"""A fleet with a trip in each status, and the tokens of everybody who belongs to it."""

from typing import NamedTuple

from tests.support.clients import Api, Driver, Message, fix, token
from tracking.model import TripStatus

STEPS = {
    TripStatus.NEW: (),
    TripStatus.ENROUTE_TO_PICKUP: ("enroute_to_pickup",),
    TripStatus.ARRIVED_AT_PICKUP: ("enroute_to_pickup", "arrived_at_pickup"),
    TripStatus.ENROUTE_TO_DROPOFF: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff"),
    TripStatus.ARRIVED_AT_STOP: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "arrived_at_stop"),
    TripStatus.COMPLETE: ("enroute_to_pickup", "arrived_at_pickup", "enroute_to_dropoff", "complete"),
    TripStatus.CANCELED: ("enroute_to_pickup", "canceled"),
}
"""The changes that bring a trip to each status."""


class World(NamedTuple):
    """A fleet with a trip in one status. `tokens` holds everybody's tokens by the table's column."""

    status: TripStatus
    ids: dict[str, str]
    version: int
    tokens: dict[str, list[str]]


class MatrixHub(NamedTuple):
    url: str
    api: Api
    worlds: list[World]
    strangers: World
    """Another fleet. Its tokens are foreign to all worlds."""
    refused: dict[str, str]
    """Tokens that give no access, by what is wrong with them."""

    @property
    def not_under_way_and_under_way(self) -> list[World]:
        """One world of each kind, for what does not depend on the status."""
        return [self.worlds[0], self.worlds[1]]


async def a_trip(api: Api, url: str, fleet_id: str, status: TripStatus) -> tuple[Message, str, list[Message]]:
    """A trip in that status, its vehicle and two shares. The vehicle has reported its position if the trip got under way."""
    vehicle_id = await api.vehicle(fleet_id)
    trip = await api.trip(fleet_id, vehicle_id)
    shares = [await api.call("POST", f"/trips/{trip['trip_id']}/shares", {}) for _ in range(2)]
    for number, step in enumerate(STEPS[status]):
        trip = await api.advance(trip["trip_id"], step)
        if number == 0:
            async with Driver(url, vehicle_id) as driver:
                await driver.report(fix(1), fix(2))
                await driver.acknowledged(2)
    return trip, vehicle_id, shares


async def a_world(api: Api, url: str, status: TripStatus) -> World:
    fleet_id = await api.fleet()
    trip, vehicle_id, (share, removable) = await a_trip(api, url, fleet_id, status)
    spare = await api.vehicle(fleet_id)
    issued = await api.call("POST", "/tokens", {"role": "driver", "vehicle_id": spare})
    ids = {
        "fleet_id": fleet_id,
        "vehicle_id": vehicle_id,
        "trip_id": trip["trip_id"],
        "share_id": removable["share_id"],
        "geofence_id": "fence",
        "jti": issued["jti"],
    }
    await api.call("PUT", f"/fleets/{fleet_id}/geofences/fence", FENCE)
    tokens = {
        "service": [token("service")],
        "dispatcher": [token("dispatcher", fleet_id)],
        "driver": [token("driver", vehicle_id)],
        "other driver": [token("driver", spare)],
        "passenger": [token("passenger", trip["trip_id"]), share["token"]],
        "operator": [token("operator")],
    }
    return World(status, ids, trip["version"], tokens)


FENCE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[[9.5, 47.1], [9.6, 47.1], [9.6, 47.2], [9.5, 47.1]]]},
    "properties": {},
}
