"""`/v1/trips`: a trip's life over HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import (
    Name,
    PlaceBody,
    not_found,
    principal_of,
    read,
    require,
    resource,
    respond,
    service_of,
    spend_bytes,
)
from tracking.auth import Principal, Role, Sight, may_know_trip, may_manage_fleet, may_see
from tracking.dispatch import check_version
from tracking.errors import ErrorCode, Refusal
from tracking.model import Place, Trip, TripStatus
from tracking.protocol import TripView
from tracking.routes import Given, check_places, line_string
from tracking.service import Service
from tracking.store import fleets, trips

MAX_STOPS = 100
POINT_BYTES = 16
"""What a point of a route takes when it is stored."""
Precision = Literal[5, 6]


class TripBody(msgspec.Struct):
    fleet_id: Name
    pickup: PlaceBody
    dropoff: PlaceBody
    vehicle_id: Name | None = None
    stops: list[PlaceBody] = []
    route: Given | None = None
    route_precision: Precision | UnsetType = UNSET


class TripPatch(msgspec.Struct):
    version: int
    status: TripStatus | UnsetType = UNSET
    vehicle_id: Name | UnsetType | None = UNSET
    route: Given | UnsetType | None = UNSET
    route_precision: Precision | UnsetType = UNSET


async def create(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    body = await read(request, TripBody)
    if not may_manage_fleet(principal, body.fleet_id):
        raise not_found()
    if len(body.stops) > MAX_STOPS:
        raise Refusal(ErrorCode.BAD_FIELD, f"a trip has at most {MAX_STOPS} stops; got {len(body.stops)}", field="stops")
    pickup, dropoff, stops = body.pickup.place(), body.dropoff.place(), [stop.place() for stop in body.stops]
    places = _places(pickup, dropoff, stops)
    check_places(places)
    route = await _route(request, body.route, body.route_precision, places)
    async with service.database.connection() as connection:
        if await fleets.get(connection, body.fleet_id) is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no fleet {body.fleet_id}: PUT it first", field="fleet_id")
    trip = await service.dispatch.create(
        fleet_id=body.fleet_id,
        vehicle_id=body.vehicle_id,
        pickup=pickup,
        dropoff=dropoff,
        stops=stops,
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
    service, trip_id = service_of(request), request.path_params["trip_id"]
    route: dict[str, Any] | UnsetType | None = UNSET
    if body.route is not UNSET or body.route_precision is not UNSET:
        known = await known_trip(service, principal, trip_id)
        check_version(known, body.version)
        # The places of a trip never change, so they may be read before it is locked.
        given = None if body.route is UNSET else body.route
        route = await _route(request, given, body.route_precision, _places(known.pickup, known.dropoff, known.stops))
    trip = await service.dispatch.change(
        trip_id,
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


def _places(pickup: Place, dropoff: Place, stops: Sequence[Place]) -> dict[str, Place]:
    """A trip's places by the names of their fields."""
    return {"pickup": pickup, "dropoff": dropoff, **{f"stops[{number}]": stop for number, stop in enumerate(stops)}}


async def _route(
    request: Request, route: Given | None, precision: int | UnsetType, places: dict[str, Place]
) -> dict[str, Any] | None:
    """The route as it is stored. Raises `Refusal`."""
    digits = None if precision is UNSET else precision
    if route is None:
        if digits is not None:
            raise Refusal(ErrorCode.BAD_FIELD, "`route_precision` goes with a `route`: leave it out", field="route_precision")
        return None
    # In a thread: a long one takes tens of milliseconds.
    found = await asyncio.to_thread(line_string, route, digits, places)
    # A polyline becomes many times its length in the table.
    spend_bytes(request, POINT_BYTES * len(found["coordinates"]))
    return found


routes = [
    resource("/trips", POST=create),
    resource("/trips/{trip_id}", GET=get, PATCH=patch, DELETE=delete),
]
