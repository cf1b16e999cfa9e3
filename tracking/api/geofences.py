"""`/v1/fleets/{fleet_id}/geofences`: a fleet's areas, as GeoJSON Features."""

import asyncio
import math
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import msgspec
import shapely
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking import caps
from tracking.api.fleets import fleet_of, managed_fleet, turn_of
from tracking.api.http import label, name_in_path, not_found, read, read_part, resource, service_of
from tracking.errors import ErrorCode, Refusal
from tracking.frames import geofence_news
from tracking.geojson import read_geometry
from tracking.hub.geofences import Fence
from tracking.model import Geofence
from tracking.protocol import GeofenceNews, GeofenceView, encode, feature_collection
from tracking.service import Service
from tracking.store import fleets, geofences
from tracking.store.pool import Connection, unlocked

MAX_FEATURE = 4 * 1024 * 1024
"""Bytes of a Feature: past what `geojson.MAX_VERTICES` take, so that too many are told of as such."""
MAX_PROPERTIES = 4 * 1024
"""Bytes of its properties."""
MAX_PROPERTIES_TEXT = 16 * 1024
"""Bytes of them as they are sent, with spaces and escapes."""
MAX_FLEET_VERTICES = 500_000
"""Of all geofences of a fleet together."""


class FeatureBody(msgspec.Struct):
    type: str
    geometry: msgspec.Raw = msgspec.Raw(b"null")
    properties: msgspec.Raw = msgspec.Raw(b"null")
    id: str | int | float | UnsetType = UNSET


async def put(request: Request) -> Response:
    principal, fleet = await managed_fleet(request)
    geofence_id = name_in_path(request, "geofence_id")
    body = await read(request, FeatureBody, most=MAX_FEATURE)
    if body.type != "Feature":
        raise Refusal(ErrorCode.BAD_TYPE, f"`type` must be Feature; got {body.type!r:.60}", field="type")
    if body.id is not UNSET and body.id != geofence_id:
        raise Refusal(ErrorCode.BAD_FIELD, f"`id` is {body.id!r:.80}, the path says {geofence_id}: leave it out", field="id")
    properties = _checked(_properties(body.properties))
    service = service_of(request)
    async with service.shapes.enter(principal.jti):
        # In a thread: a second of arithmetic, at worst.
        made = await asyncio.to_thread(_make, fleet.fleet_id, geofence_id, bytes(body.geometry), properties)
    async with _turn(service, fleet.fleet_id, geofence_id):
        async with service.database.transaction() as connection:
            # So that of two at once each counts the other.
            if not await fleets.lock(connection, fleet.fleet_id):
                raise not_found()
            await _check_room(connection, made.fence.geofence, made.vertices, service.settings.geofences_per_fleet)
            created = await geofences.put(connection, made.fence.geofence, made.stored)
        await service.watch.change_geofence(made.fence, made.news)
    return Response(made.text, 201 if created else 200, media_type="application/json")


class _Made(NamedTuple):
    fence: Fence
    vertices: int
    stored: bytes
    text: bytes
    """as it is answered"""
    news: GeofenceNews


def _make(fleet_id: str, geofence_id: str, geometry: bytes, properties: dict[str, Any]) -> _Made:
    """Raises `Refusal`."""
    checked, shape = read_geometry(geometry)
    geofence = Geofence(fleet_id, geofence_id, checked, properties)
    vertices = int(shapely.get_num_coordinates(shape))
    return _Made(
        Fence(geofence, shape),
        vertices,
        geofences.stored_shape(shape),
        encode(GeofenceView.of(geofence)),
        geofence_news(geofence, shape),
    )


async def get(request: Request) -> Response:
    principal, fleet = await managed_fleet(request)
    geofence_id = name_in_path(request, "geofence_id")
    service = service_of(request)
    async with service.shapes.enter(principal.jti):
        async with service.database.connection() as connection:
            row = await geofences.row_of(connection, fleet.fleet_id, geofence_id)
        if row is None:
            raise not_found()
        text = await asyncio.to_thread(lambda: encode(GeofenceView.of(geofences.geofence_of(row))))
    return Response(text, media_type="application/json")


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
            stored = await geofences.row_of(connection, fleet_id, geofence_id)
        if stored is not None:
            geofence = await asyncio.to_thread(geofences.geofence_of, stored)
            fence, news = await asyncio.to_thread(lambda: (Fence(geofence), geofence_news(geofence)))
            await service.watch.change_geofence(fence, news)
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


def _properties(text: msgspec.Raw) -> dict[str, Any]:
    # Taken apart only where they fit: what is long is long to take apart.
    size = len(bytes(text))
    if size > MAX_PROPERTIES_TEXT:
        raise Refusal(ErrorCode.BAD_FIELD, f"`properties` take {size} bytes, at most {MAX_PROPERTIES} fit", field="properties")
    return read_part(bytes(text), dict[str, Any] | None, "properties") or {}


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
