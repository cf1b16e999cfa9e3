"""Geofences of a fleet: check, store and remove them."""

import asyncio
from typing import Any, NamedTuple

import shapely

from tracking import caps
from tracking.errors import ErrorCode, Refusal
from tracking.geojson import read_geometry
from tracking.lanes import Lanes
from tracking.live.follower import Transactions
from tracking.model import Geofence
from tracking.protocol.codec import encode
from tracking.protocol.fit import geofence_news
from tracking.protocol.http import GeofenceView
from tracking.services.trips import NOT_FOUND
from tracking.store import fleets, geofences
from tracking.store.changes import ChangeKind, as_json
from tracking.store.pool import Connection, unlocked

MAX_FLEET_VERTICES = 500_000
"""The vertices of all geofences of a fleet together."""


class Checked(NamedTuple):
    """A geofence that was checked, in the forms in which it is stored and answered."""

    geofence: Geofence
    vertices: int
    stored: bytes
    """its shape, in the column's format"""
    text: bytes
    """its text in answers over HTTP"""
    public: Any
    """its form on sockets and in the change log, simplified if it is large"""


class Geofences:
    """Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(self, follower: Transactions, shapes: Lanes, *, per_fleet: int) -> None:
        """`per_fleet` limits the geofences of a fleet. `shapes` are the lanes for work on large shapes."""
        self._follower = follower
        self._shapes = shapes
        self._per_fleet = per_fleet

    async def check(self, fleet_id: str, geofence_id: str, geometry: bytes, properties: dict[str, Any], *, by: str) -> Checked:
        """Decode and check the GeoJSON in a thread. It may take a second. `by` is the token that asks for it."""
        async with self._shapes.enter(by):
            return await asyncio.to_thread(_check, fleet_id, geofence_id, geometry, properties)

    @unlocked
    async def put(self, checked: Checked) -> bool:
        """Store the geofence; return True if it is new."""
        geofence = checked.geofence
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            # With the lock, each of two requests at the same time counts the other's geofence.
            if not await fleets.lock(connection, geofence.fleet_id):
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            await self._check_room(connection, geofence, checked.vertices)
            created = await geofences.put(connection, geofence, checked.stored)
            transaction.tell(
                ChangeKind.GEOFENCE_CHANGED, geofence.geofence_id, fleet_id=geofence.fleet_id, public=checked.public
            )
            return created

    @unlocked
    async def delete(self, fleet_id: str, geofence_id: str) -> bool:
        """Remove the geofence; return False if it does not exist."""
        async with self._follower.transaction() as transaction:
            found = await geofences.delete(transaction.connection, fleet_id, geofence_id)
            if found:
                transaction.tell(
                    ChangeKind.GEOFENCE_DELETED, geofence_id, fleet_id=fleet_id, public={"geofence_id": geofence_id}
                )
            return found

    async def _check_room(self, connection: Connection, geofence: Geofence, vertices: int) -> None:
        """Raises `Refusal` if the fleet has no room for it. The fleet's row must be locked."""
        count, others = await geofences.count_others(connection, geofence.fleet_id, geofence.geofence_id)
        what = f"the fleet has {count} other geofences"
        advice = "delete one, or draw several areas as one MultiPolygon"
        caps.hold(count + 1, self._per_fleet, what, "geofences_per_fleet", advice)
        if others + vertices > MAX_FLEET_VERTICES:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"this geofence has {vertices} vertices, the fleet's others have {others}, and at most {MAX_FLEET_VERTICES} "
                "fit: simplify them, a metre is finer than any receiver",
                field="geometry",
            )


def _check(fleet_id: str, geofence_id: str, geometry: bytes, properties: dict[str, Any]) -> Checked:
    checked, shape = read_geometry(geometry)
    geofence = Geofence(fleet_id, geofence_id, checked, properties)
    return Checked(
        geofence,
        int(shapely.get_num_coordinates(shape)),
        geofences.stored_shape(shape),
        encode(GeofenceView.of(geofence)),
        as_json(geofence_news(geofence, shape).geofence),
    )
