"""`/v1/trips`: a trip's life over HTTP."""

import re
from typing import Any

import msgspec
import polyline
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import Name, PlaceBody, not_found, principal_of, read, require, resource, respond, service_of
from tracking.auth import Principal, Role, Sight, may_know_trip, may_manage_fleet, may_see
from tracking.errors import ErrorCode, Refusal
from tracking.model import Trip, TripStatus
from tracking.protocol import TripView
from tracking.service import Service
from tracking.store import fleets, trips

MAX_STOPS = 100
MAX_ROUTE_POINTS = 20_000
_ENDLESS_NUMBER = re.compile(r"[_-\x7f]{7}")
"""A difference of two degrees takes 6 characters of a polyline at the most, the last of them below `_`."""
Route_ = dict[str, Any] | str


class TripBody(msgspec.Struct):
    fleet_id: Name
    pickup: PlaceBody
    dropoff: PlaceBody
    vehicle_id: Name | None = None
    stops: list[PlaceBody] = []
    route: Route_ | None = None


class TripPatch(msgspec.Struct):
    version: int
    status: TripStatus | UnsetType = UNSET
    vehicle_id: Name | UnsetType | None = UNSET
    route: Route_ | UnsetType | None = UNSET


class _LineString(msgspec.Struct, tag="LineString"):
    coordinates: list[list[float]]


async def create(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    body = await read(request, TripBody)
    if not may_manage_fleet(principal, body.fleet_id):
        raise not_found()
    if len(body.stops) > MAX_STOPS:
        raise Refusal(ErrorCode.BAD_FIELD, f"a trip has at most {MAX_STOPS} stops; got {len(body.stops)}", field="stops")
    route = line_string(body.route) if body.route is not None else None
    async with service.database.connection() as connection:
        if await fleets.get(connection, body.fleet_id) is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no fleet {body.fleet_id}: PUT it first", field="fleet_id")
    trip = await service.dispatch.create(
        fleet_id=body.fleet_id,
        vehicle_id=body.vehicle_id,
        pickup=body.pickup.place(),
        dropoff=body.dropoff.place(),
        stops=[stop.place() for stop in body.stops],
        route=route,
    )
    return respond(TripView.of(trip), 201)


async def get(request: Request) -> Response:
    principal = await principal_of(request)
    trip = await known_trip(service_of(request), principal, request.path_params["trip_id"])
    return respond(TripView.of(trip, show_vehicle=may_see(principal.role, Sight.VEHICLE, trip.status)))


async def patch(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    body = await read(request, TripPatch)
    route: dict[str, Any] | UnsetType | None = UNSET
    if body.route is None:
        route = None
    elif body.route is not UNSET:
        route = line_string(body.route)
    trip = await service_of(request).dispatch.change(
        request.path_params["trip_id"],
        allowed=lambda trip: may_manage_fleet(principal, trip.fleet_id),
        version=body.version,
        status=None if body.status is UNSET else body.status,
        vehicle_id=body.vehicle_id,
        route=route,
    )
    return respond(TripView.of(trip))


async def delete(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    await service_of(request).dispatch.delete(
        request.path_params["trip_id"], allowed=lambda trip: may_manage_fleet(principal, trip.fleet_id)
    )
    return Response(status_code=204)


async def known_trip(service: Service, principal: Principal, trip_id: str) -> Trip:
    """The trip, if the principal may know of it. Raises `Refusal` (`not_found`), the same for missing and another's."""
    if len(trip_id) > 64 or "\0" in trip_id:
        raise not_found()
    async with service.database.connection() as connection:
        trip = await trips.get(connection, trip_id)
    if trip is None or not may_know_trip(principal, trip):
        raise not_found()
    return trip


def line_string(route: Route_) -> dict[str, Any]:
    """A GeoJSON LineString from one, or from an encoded polyline of precision 5. Raises `Refusal`."""
    try:
        if isinstance(route, str):
            if _ENDLESS_NUMBER.search(route):
                raise ValueError("a number in it has no end")
            coordinates = [[longitude, latitude] for latitude, longitude in polyline.decode(route, 5)]
        else:
            if route.get("type") != "LineString":
                raise ValueError("`type` is not LineString")
            coordinates = [point[:2] for point in msgspec.convert(route, _LineString).coordinates]
    except (msgspec.ValidationError, ValueError, IndexError, OverflowError) as error:
        detail = f"`route` must be a GeoJSON LineString or an encoded polyline of precision 5: {error}"
        raise Refusal(ErrorCode.BAD_FIELD, detail, field="route") from None
    if not 2 <= len(coordinates) <= MAX_ROUTE_POINTS:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`route` must have 2 to {MAX_ROUTE_POINTS} points; got {len(coordinates)}", field="route"
        )
    for point in coordinates:
        if len(point) < 2 or not (-180 <= point[0] <= 180 and -90 <= point[1] <= 90):
            raise Refusal(
                ErrorCode.OUT_OF_RANGE,
                f"`route` has the point {point}: expected [longitude, latitude] in degrees",
                field="route",
            )
    return {"type": "LineString", "coordinates": coordinates}


routes = [
    resource("/trips", POST=create),
    resource("/trips/{trip_id}", GET=get, PATCH=patch, DELETE=delete),
]
