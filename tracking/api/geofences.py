"""`/v1/fleets/{fleet_id}/geofences`: a fleet's areas, as GeoJSON Features."""

import asyncio
import math
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import shapely
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking import caps
from tracking.api.fleets import fleet_of, turn_of
from tracking.api.http import label, name_in_path, not_found, read, resource, respond, service_of
from tracking.errors import ErrorCode, Refusal
from tracking.geojson import checked_geometry
from tracking.hub.geofences import Fence
from tracking.model import Geofence
from tracking.protocol import GeofenceView, feature_collection
from tracking.service import Service
from tracking.store import fleets, geofences
from tracking.store.pool import Connection, unlocked

MAX_FEATURE = 4 * 1024 * 1024
"""Bytes of a Feature: past what `geojson.MAX_VERTICES` take, so that too many are told of as such."""
MAX_PROPERTIES = 4 * 1024
"""Bytes of its properties."""
MAX_FLEET_VERTICES = 500_000
"""Of all geofences of a fleet together."""


class FeatureBody(msgspec.Struct):
    type: str
    geometry: Any = None
    properties: dict[str, Any] | None = None
    id: str | int | float | UnsetType = UNSET


async def put(request: Request) -> Response:
    fleet = await fleet_of(request)
    geofence_id = name_in_path(request, "geofence_id")
    body = await read(request, FeatureBody, most=MAX_FEATURE)
    if body.type != "Feature":
        raise Refusal(ErrorCode.BAD_TYPE, f"`type` must be Feature; got {body.type!r:.60}", field="type")
    if body.id is not UNSET and body.id != geofence_id:
        raise Refusal(ErrorCode.BAD_FIELD, f"`id` is {body.id!r:.80}, the path says {geofence_id}: leave it out", field="id")
    properties = _checked(body.properties or {})
    # In a thread: a second of arithmetic, at worst.
    fence = await asyncio.to_thread(
        lambda: Fence(Geofence(fleet.fleet_id, geofence_id, checked_geometry(body.geometry), properties))
    )
    geofence = fence.geofence
    vertices = int(shapely.get_num_coordinates(fence.shape))
    service = service_of(request)
    async with _turn(service, fleet.fleet_id, geofence_id):
        async with service.database.transaction() as connection:
            # So that of two at once each counts the other.
            if not await fleets.lock(connection, fleet.fleet_id):
                raise not_found()
            await _check_room(connection, geofence, vertices, service.settings.geofences_per_fleet)
            created = await geofences.put(connection, geofence)
        service.watch.geofence_changed(fence)
    return respond(GeofenceView.of(geofence), 201 if created else 200)


async def get(request: Request) -> Response:
    fleet = await fleet_of(request)
    async with service_of(request).database.connection() as connection:
        geofence = await geofences.get(connection, fleet.fleet_id, name_in_path(request, "geofence_id"))
    if geofence is None:
        raise not_found()
    return respond(GeofenceView.of(geofence))


async def delete(request: Request) -> Response:
    fleet = await fleet_of(request)
    geofence_id = name_in_path(request, "geofence_id")
    service = service_of(request)

    @unlocked
    async def remove() -> bool:
        async with service.database.transaction() as connection:
            return await geofences.delete(connection, fleet.fleet_id, geofence_id)

    async with _turn(service, fleet.fleet_id, geofence_id):
        found = await remove()
        # One that is known and not found was removed by a request that was not answered, and this is its repeat.
        if found or service.watch.knows_geofence(fleet.fleet_id, geofence_id):
            service.watch.geofence_gone(fleet.fleet_id, geofence_id)
        if not found:
            raise not_found()
    return Response(status_code=204)


def _turn(service: Service, fleet_id: str, geofence_id: str) -> AbstractAsyncContextManager[None]:
    async def look_up() -> None:
        async with service.database.connection() as connection:
            stored = await geofences.get(connection, fleet_id, geofence_id)
        if stored is not None:
            service.watch.geofence_changed(await asyncio.to_thread(Fence, stored))
        elif service.watch.knows_geofence(fleet_id, geofence_id):
            service.watch.geofence_gone(fleet_id, geofence_id)

    return service.changes.turn(turn_of(fleet_id), look_up, part=geofence_id)


async def list_all(request: Request) -> Response:
    fleet = await fleet_of(request)
    service = service_of(request)
    # Every page asks for them each time that it connects.
    listing = await service.watch.listing(fleet.fleet_id)
    if listing is None:
        async with service.database.connection() as connection:
            rows = await geofences.rows_of_fleet(connection, fleet.fleet_id)
        listing = await asyncio.to_thread(lambda: feature_collection(geofences.geofence_of(row) for row in rows))
    return Response(listing, media_type="application/json")


async def _check_room(connection: Connection, geofence: Geofence, vertices: int, most: int) -> None:
    """Raises `Refusal` where the fleet has no room for it. The fleet's row is locked."""
    count, others = await geofences.count_others(connection, geofence.fleet_id, geofence.geofence_id)
    what = f"the fleet has {count} other geofences"
    caps.hold(count + 1, most, what, "geofences_per_fleet", "delete one, or draw several areas as one MultiPolygon")
    if others + vertices > MAX_FLEET_VERTICES:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"this geofence has {vertices} vertices, the fleet's others have {others}, and at most {MAX_FLEET_VERTICES} fit: "
            "simplify them, a metre is finer than any receiver",
            field="geometry",
        )


def _checked(properties: dict[str, Any]) -> dict[str, Any]:
    size = len(msgspec.json.encode(properties))
    if size > MAX_PROPERTIES:
        raise Refusal(ErrorCode.BAD_FIELD, f"`properties` take {size} bytes, at most {MAX_PROPERTIES} fit", field="properties")
    if b"\\u0000" in msgspec.json.encode(properties):
        raise Refusal(ErrorCode.BAD_FIELD, "`properties` hold a NUL character; leave it out", field="properties")
    name = properties.get("name")
    known = dict(properties)
    if name is not None:
        if not isinstance(name, str):
            raise Refusal(ErrorCode.BAD_FIELD, f"`name` must be a text; got {name!r:.60}", field="name")
        known["name"] = label("name", name)
    for field, unit in (("speed_limit", "m/s"), ("dwell_after", "seconds")):
        value = known.get(field)
        if value is None:
            known.pop(field, None)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise Refusal(ErrorCode.BAD_TYPE, f"`{field}` must be a number of {unit}; got {value!r:.60}", field=field)
        elif not (math.isfinite(value) and 0 < value <= 1e7):
            raise Refusal(ErrorCode.OUT_OF_RANGE, f"`{field}` must be more than 0 {unit}; got {value:g}", field=field)
    return known


routes = [
    resource("/fleets/{fleet_id}/geofences", GET=list_all),
    resource("/fleets/{fleet_id}/geofences/{geofence_id}", PUT=put, GET=get, DELETE=delete),
]
