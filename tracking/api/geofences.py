"""`/v1/fleets/{fleet_id}/geofences`: a fleet's geofences, as GeoJSON Features."""

import asyncio
import math
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.fleets import fleet_of, managed_fleet
from tracking.api.http import label, name_in_path, not_found, read, read_part, resource, service_of
from tracking.errors import ErrorCode, Refusal
from tracking.protocol.codec import encode
from tracking.protocol.http import GeofenceView, feature_collection
from tracking.store import geofences

MAX_FEATURE = 4 * 1024 * 1024
"""The largest Feature, in bytes. `geojson.MAX_VERTICES` fit, so that the error for too many vertices names that limit."""
MAX_PROPERTIES = 4 * 1024
"""The largest `properties`, in bytes."""
MAX_PROPERTIES_TEXT = 16 * 1024
"""The largest `properties` as sent, in bytes, with spaces and escapes."""


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
    checked = await service.geofences.check(fleet.fleet_id, geofence_id, bytes(body.geometry), properties, by=principal.jti)
    created = await service.geofences.put(checked)
    return Response(checked.text, 201 if created else 200, media_type="application/json")


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

    if not await service.geofences.delete(fleet.fleet_id, geofence_id):
        raise not_found()
    return Response(status_code=204)


async def list_all(request: Request) -> Response:
    fleet = await fleet_of(request)
    service = service_of(request)
    # Every page asks for them each time it connects.
    listing = await service.monitor.listing(fleet.fleet_id)
    if listing is None:
        async with service.database.connection() as connection:
            rows = await geofences.rows_of_fleet(connection, fleet.fleet_id)
        listing = await asyncio.to_thread(lambda: feature_collection(geofences.geofence_of(row) for row in rows))
    return Response(listing, media_type="application/json")


def _properties(text: msgspec.Raw) -> dict[str, Any]:
    # The size is checked before parsing, because parsing a long text takes long.
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
