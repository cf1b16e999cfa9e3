"""`/v1/fleets/{fleet_id}/vehicles`: the vehicles of a fleet, nearest first or by name."""

import unicodedata

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.fleets import MAX_LISTED, managed_fleet
from tracking.api.http import flag, resource, respond_listing, service_of, whole_number
from tracking.errors import ErrorCode, Refusal
from tracking.model import Vehicle, VehicleStatus
from tracking.numbers import real
from tracking.service import Service
from tracking.store import nearest as latest
from tracking.store.nearest import LatestPosition

NEAREST = 10
MAX_SEARCH = 200


class VehicleSeen(msgspec.Struct, omit_defaults=True):
    """A vehicle and its latest position, if there ever was one. `distance` is in metres."""

    vehicle_id: str
    fleet_id: str
    name: str | UnsetType
    kind: str | UnsetType
    plate: str | UnsetType
    distance: float | UnsetType = UNSET
    latitude: float | UnsetType = UNSET
    longitude: float | UnsetType = UNSET
    fix_time: int | UnsetType = UNSET
    speed: float | UnsetType = UNSET
    bearing: float | UnsetType = UNSET
    battery: float | UnsetType = UNSET
    status: VehicleStatus | UnsetType = UNSET
    clock_skew: int | UnsetType = UNSET

    @classmethod
    def of(cls, vehicle: Vehicle, seen: LatestPosition | None, distance: float | UnsetType = UNSET) -> "VehicleSeen":
        view = cls(vehicle.vehicle_id, vehicle.fleet_id, vehicle.name, vehicle.kind, vehicle.plate, distance)
        if seen is not None:
            for name, value in seen._asdict().items():
                if value is not None:
                    setattr(view, name, value)
        return view


async def list_vehicles(request: Request) -> Response:
    """The vehicles nearest to `near`, with their distances. Without `near`: all by id, narrowed by `search` and `after`."""
    principal, fleet = await managed_fleet(request)
    service = service_of(request)
    if "near" in request.query_params or request.query_params.get("search"):
        service.budgets.searches.spend(principal.jti, principal.role)
    if "near" not in request.query_params:
        if "available" in request.query_params:
            raise Refusal(ErrorCode.BAD_FIELD, "`available` goes with `near=<latitude>,<longitude>`", field="available")
        limit = whole_number(request, "limit", MAX_LISTED, least=1, most=MAX_LISTED) or MAX_LISTED
        after, search = _text(request, "after"), _text(request, "search")
        await service.loader.shown(fleet.fleet_id)
        async with service.lists.enter(principal.jti):
            async with service.database.reading() as connection:
                page = await latest.page(connection, fleet.fleet_id, limit, after=after, search=search)
            return await respond_listing("vehicles", page, lambda found: _now(service, VehicleSeen.of(*found)))
    for parameter in ("search", "after"):
        if parameter in request.query_params:
            raise Refusal(ErrorCode.BAD_FIELD, f"`{parameter}` does not go with `near`: send one of them", field=parameter)
    latitude, longitude = _place(request)
    limit = whole_number(request, "limit", NEAREST, least=1, most=MAX_LISTED) or NEAREST
    await service.loader.shown(fleet.fleet_id)
    since = service.clock() - int(fleet.signal_lost_after * 1000) if flag(request, "available") else None
    async with service.lists.enter(principal.jti):
        async with service.database.connection() as connection:
            found = await latest.nearest(connection, fleet.fleet_id, latitude, longitude, limit, available_since=since)
        return await respond_listing("vehicles", found, lambda near: _with_status(service, VehicleSeen.of(*near)))


def _with_status(service: Service, seen: VehicleSeen) -> VehicleSeen:
    """Add the live status from memory to what the store knows."""
    live = service.hub.fleets.of_fleet(seen.vehicle_id, seen.fleet_id)
    if live is not None:
        seen.status = live.status
        seen.clock_skew = live.skew_seconds()
    return seen


def _now(service: Service, seen: VehicleSeen) -> VehicleSeen:
    """Replace the stored position by the newest one in memory. The store is some seconds behind."""
    live = service.hub.fleets.of_fleet(seen.vehicle_id, seen.fleet_id)
    position = live.position if live is not None else None
    if position is not None and (seen.fix_time is UNSET or position.fix_time >= seen.fix_time):
        seen.latitude, seen.longitude, seen.fix_time = position.latitude, position.longitude, position.fix_time
        for name in ("speed", "bearing", "battery"):
            value = getattr(position, name)
            setattr(seen, name, UNSET if value is None else value)
    return _with_status(service, seen)


def _place(request: Request) -> tuple[float, float]:
    text = request.query_params["near"]
    numbers = [real(part.strip()) for part in text.split(",")]
    latitude, longitude = numbers if len(numbers) == 2 else (None, None)
    if latitude is None or longitude is None:
        raise Refusal(
            ErrorCode.BAD_FIELD,
            f"`near` must be <latitude>,<longitude> in decimal degrees, like 47.1410,9.5210; got {text!r:.60}",
            field="near",
        )
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"`near` must be a latitude from -90 to 90, then a longitude from -180 to 180; got {text!r:.60}",
            field="near",
        )
    return latitude, longitude


def _text(request: Request, parameter: str) -> str:
    text = unicodedata.normalize("NFC", request.query_params.get(parameter, ""))
    if len(text) > MAX_SEARCH or "\0" in text:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`{parameter}` must be text of at most {MAX_SEARCH} characters, without NUL", field=parameter
        )
    return text


routes = [
    resource("/fleets/{fleet_id}/vehicles", GET=list_vehicles),
]
