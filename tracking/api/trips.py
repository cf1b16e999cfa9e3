"""`/v1/trips`: create, read and change trips."""

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
    doer_of,
    not_found,
    principal_of,
    read,
    read_part,
    require,
    resource,
    respond,
    service_of,
    spend_bytes,
)
from tracking.audit import Kind
from tracking.auth import Principal, Role, TripField, may_know_trip, may_manage_fleet, may_see
from tracking.errors import ErrorCode, Refusal
from tracking.model import Place, Trip, TripStatus
from tracking.protocol.fit import prepare_route
from tracking.protocol.http import TripView
from tracking.routes import Given, check_places, line_string
from tracking.service import Service
from tracking.services.trips import check_version
from tracking.store import trips
from tracking.store.pool import Connection

MAX_STOPS = 100
NO_ROUTE = msgspec.Raw(b"null")
"""A route stays as it was sent until a thread decodes it. JSON of a long route takes some milliseconds."""
POINT_BYTES = 16
"""The bytes of a stored point of a route."""
Precision = Literal[5, 6]


class TripBody(msgspec.Struct):
    fleet_id: Name
    pickup: PlaceBody
    dropoff: PlaceBody
    vehicle_id: Name | None = None
    stops: list[PlaceBody] = []
    route: msgspec.Raw = NO_ROUTE
    route_precision: Precision | UnsetType = UNSET


class TripPatch(msgspec.Struct):
    version: int
    status: TripStatus | UnsetType = UNSET
    vehicle_id: Name | UnsetType | None = UNSET
    route: msgspec.Raw | UnsetType = UNSET
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
    trip = await service.trips.create(
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
    found = await _known(service_of(request), principal, request.path_params["trip_id"])
    return respond(shown(found, show_vehicle=may_see(principal.role, TripField.VEHICLE, found.trip.status)))


def shown(found: trips.Listed, *, show_vehicle: bool = True) -> TripView:
    view = TripView.of(found.trip, show_vehicle=show_vehicle)
    return view if found.route is None else msgspec.structs.replace(view, route=msgspec.Raw(found.route.encode()))


async def patch(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    body = await read(request, TripPatch)
    service, trip_id = service_of(request), request.path_params["trip_id"]
    route: dict[str, Any] | UnsetType | None = UNSET
    if body.route is not UNSET or body.route_precision is not UNSET:
        known = await known_trip(service, principal, trip_id)
        check_version(known, body.version)
        # The places of a trip never change, so they may be read without a lock.
        given = NO_ROUTE if body.route is UNSET else body.route
        route = await _route(request, given, body.route_precision, _places(known.pickup, known.dropoff, known.stops))
    trip = await service.trips.change(
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
    service, trip_id = service_of(request), request.path_params["trip_id"]

    async def record(connection: Connection) -> None:
        await service.audit.record_erasure(connection, doer_of(request, principal), Kind.TRIP, trip_id)

    await service.trips.delete(trip_id, allowed=lambda trip: may_manage_fleet(principal, trip.fleet_id), record=record)
    return Response(status_code=204)


async def known_trip(service: Service, principal: Principal, trip_id: str) -> Trip:
    """The trip without its route, if it exists for the principal.

    Raises `Refusal` (`not_found`). The error is the same for a missing trip and for another fleet's.
    """
    return (await _known(service, principal, trip_id)).trip


async def _known(service: Service, principal: Principal, trip_id: str) -> trips.Listed:
    if len(trip_id) > 64:
        raise not_found()
    async with service.database.connection() as connection:
        found = await trips.get_shown(connection, trip_id)
    if found is None or not may_know_trip(principal, found.trip):
        raise not_found()
    return found


def _places(pickup: Place, dropoff: Place, stops: Sequence[Place]) -> dict[str, Place]:
    """The places of a trip by field name."""
    return {"pickup": pickup, "dropoff": dropoff, **{f"stops[{number}]": stop for number, stop in enumerate(stops)}}


async def _route(
    request: Request, route: msgspec.Raw, precision: int | UnsetType, places: dict[str, Place]
) -> dict[str, Any] | None:
    """The route in its stored form. Raises `Refusal`."""
    digits = None if precision is UNSET else precision
    if bytes(route) == b"null":
        if digits is not None:
            raise Refusal(ErrorCode.BAD_FIELD, "`route_precision` goes with a `route`: leave it out", field="route_precision")
        return None
    principal: Principal = request.state.principal
    async with service_of(request).shapes.enter(principal.jti):
        # A long route takes tens of milliseconds.
        found = await asyncio.to_thread(_line_string, bytes(route), digits, places)
    # A polyline grows to many times its length when it is stored.
    spend_bytes(request, POINT_BYTES * len(found["coordinates"]))
    return found


def _line_string(text: bytes, precision: int | None, places: dict[str, Place]) -> dict[str, Any]:
    route = line_string(read_part(text, Given, "route"), precision, places)
    prepare_route(route)
    return route


routes = [
    resource("/trips", POST=create),
    resource("/trips/{trip_id}", GET=get, PATCH=patch, DELETE=delete),
]
