"""`/v1/vehicles`: create, read, change and remove vehicles."""

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import (
    Label,
    Name,
    Named,
    doer_of,
    name_in_path,
    not_found,
    read,
    require,
    resource,
    respond,
    service_of,
)
from tracking.audit import Kind
from tracking.auth import Principal, Role, may_manage_fleet
from tracking.live.fleet import LiveVehicle
from tracking.model import Vehicle, VehicleStatus
from tracking.protocol.passenger import SnapshotPosition, snapshot_position
from tracking.service import Service
from tracking.store import erasures, vehicles
from tracking.store.pool import Connection

AT_ONCE_SECONDS = 1.0
"""A removal waits this long for the end of the erasure. Then it answers that the erasure is under way."""


class VehicleBody(Named):
    fleet_id: Name
    name: Label = ""
    kind: Label = ""
    plate: Label = ""


class PositionNow(SnapshotPosition):
    """The position of a vehicle, as dispatchers see it."""

    battery: float | UnsetType = UNSET


class VehicleNow(Vehicle, frozen=True, kw_only=True):
    """A vehicle, and what the hub knows of it now."""

    status: VehicleStatus
    trip_id: str | UnsetType = UNSET
    position: PositionNow | UnsetType = UNSET
    clock_skew: int | UnsetType = UNSET


def _now(vehicle: Vehicle, live: LiveVehicle) -> VehicleNow:
    position: PositionNow | UnsetType = UNSET
    if live.position is not None:
        position = PositionNow(**asdict(snapshot_position(live.position)))
        if live.position.battery is not None:
            position.battery = live.position.battery
    trip_id = UNSET if live.trip is None else live.trip.trip_id
    return VehicleNow(**asdict(vehicle), status=live.status, trip_id=trip_id, position=position, clock_skew=live.skew_seconds())


async def put(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    body = await read(request, VehicleBody)
    vehicle = Vehicle(name_in_path(request, "vehicle_id"), body.fleet_id, body.name, body.kind, body.plate)
    if not may_manage_fleet(principal, vehicle.fleet_id):
        raise not_found()
    # Only a backend creates ids. A dispatcher gets the same answer for a missing vehicle and for another fleet's. The answer
    # waits for no lock, because its timing would tell the two apart.
    own = _own_fleet(principal)
    if own is not None:
        async with service.database.connection() as connection:
            _managed(principal, await vehicles.get(connection, vehicle.vehicle_id))

    created = await service.vehicles.put(vehicle, own=own)
    return respond(vehicle, 201 if created else 200)


async def get(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    async with service_of(request).database.connection() as connection:
        stored = await vehicles.get(connection, name_in_path(request, "vehicle_id"))
    vehicle = _managed(principal, stored).vehicle
    await service_of(request).loader.shown(vehicle.fleet_id)
    live = service_of(request).hub.fleets.of_fleet(vehicle.vehicle_id, vehicle.fleet_id)
    return respond(vehicle if live is None else _now(vehicle, live))


class ErasureView(Struct):
    """The progress of a vehicle's erasure: rows that are gone, and days whose positions are left."""

    vehicle_id: str
    asked_at: int
    removed: int
    days_left: int | UnsetType = UNSET


async def delete(request: Request) -> Response:
    """Remove the vehicle and all its stored positions. Answers 202 if that takes longer than a moment."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    vehicle_id = name_in_path(request, "vehicle_id")

    async def record(connection: Connection) -> None:
        await service.audit.record_erasure(connection, doer_of(request, principal), Kind.VEHICLE, vehicle_id)

    stored = await service.vehicles.remove(vehicle_id, own=_own_fleet(principal), record=record)
    if stored is None:
        # This may be the repeat of a removal whose answer was lost.
        under_way = await _erasure(service, principal, vehicle_id)
        if under_way is None:
            raise not_found()
        return _accepted(under_way)
    if await service.erasures.wait(stored.number, AT_ONCE_SECONDS):
        return Response(status_code=204)
    under_way = await _erasure(service, principal, vehicle_id)
    return Response(status_code=204) if under_way is None else _accepted(under_way)


def _accepted(erasure: ErasureView) -> Response:
    response = respond(erasure, 202)
    response.headers["Location"] = f"/v1/vehicles/{erasure.vehicle_id}/erasure"
    return response


async def get_erasure(request: Request) -> Response:
    """The progress of an erasure; 404 if nothing is left of a removed vehicle of this id."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    erasure = await _erasure(service_of(request), principal, name_in_path(request, "vehicle_id"))
    if erasure is None:
        raise not_found()
    return respond(erasure)


async def _erasure(service: Service, principal: Principal, vehicle_id: str) -> ErasureView | None:
    """The erasures under way of vehicles with this id, added up, if the principal managed their fleets."""
    async with service.database.connection() as connection:
        found = [
            erasure for erasure in await erasures.of_id(connection, vehicle_id) if may_manage_fleet(principal, erasure.fleet_id)
        ]
    if not found:
        return None
    days = [erasure.days_left for erasure in found if erasure.days_left is not None]
    return ErasureView(vehicle_id, found[0].asked_at, sum(erasure.removed for erasure in found), sum(days) if days else UNSET)


def _own_fleet(principal: Principal) -> str | None:
    """The only fleet whose vehicles the principal may change; None for a service, which may change all."""
    return principal.subject if principal.role is Role.DISPATCHER else None


def _managed(principal: Principal, stored: vehicles.Stored | None) -> vehicles.Stored:
    if stored is None or not may_manage_fleet(principal, stored.vehicle.fleet_id):
        raise not_found()
    return stored


routes = [
    resource("/vehicles/{vehicle_id}", PUT=put, GET=get, DELETE=delete),
    resource("/vehicles/{vehicle_id}/erasure", GET=get_erasure),
]
