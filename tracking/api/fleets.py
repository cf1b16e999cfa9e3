"""`/v1/fleets`: fleets, and their trips."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import (
    Label,
    Named,
    name_in_path,
    not_found,
    principal_of,
    read,
    require,
    resource,
    respond,
    respond_listing,
    service_of,
    whole_number,
)
from tracking.api.trips import shown
from tracking.auth import Principal, Role, may_manage_fleet
from tracking.errors import ErrorCode, Refusal
from tracking.model import Fleet, TripStatus
from tracking.store import fleets, trips

MAX_LISTED = 1_000


Threshold = Annotated[float, Meta(gt=0, le=1e7)]


class FleetBody(Named):
    """A missing threshold has its default. A missing `speed_limit` means that there is no limit."""

    name: Label
    speed_limit: Threshold | UnsetType = UNSET
    idle_after: Threshold | UnsetType = UNSET
    off_route_distance: Threshold | UnsetType = UNSET
    signal_lost_after: Threshold | UnsetType = UNSET
    dwell_after: Threshold | UnsetType = UNSET


async def put(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    fleet_id = name_in_path(request, "fleet_id")
    if not may_manage_fleet(principal, fleet_id):
        raise not_found()
    body = await read(request, FleetBody)
    given = {field: value for field, value in msgspec.structs.asdict(body).items() if value is not UNSET}
    fleet = Fleet(fleet_id, **given)
    created = await service_of(request).fleets.put(fleet, may_create=principal.role is Role.SERVICE)
    return respond(fleet, 201 if created else 200)


async def get(request: Request) -> Response:
    return respond(await fleet_of(request))


async def list_trips(request: Request) -> Response:
    """Trips, newest first. `status` filters them. `before` (an instant) asks for the next page.

    Long routes are simplified, as on sockets. A thousand whole ones could be hundreds of megabytes.
    """
    principal, fleet = await managed_fleet(request)
    text = request.query_params.get("status")
    if text is not None and text not in list(TripStatus):
        raise Refusal(ErrorCode.BAD_FIELD, f"`status` must be one of {', '.join(TripStatus)}", field="status")
    status = TripStatus(text) if text is not None else None
    limit = whole_number(request, "limit", 200, least=1, most=MAX_LISTED)
    assert limit is not None
    before = whole_number(request, "before")
    service = service_of(request)
    async with service.lists.enter(principal.jti):
        async with service.database.connection() as connection:
            found = await trips.of_fleet(connection, fleet.fleet_id, status, limit, before)
        return await respond_listing("trips", found, shown)


async def fleet_of(request: Request) -> Fleet:
    """The fleet in the path, if the principal manages it. Raises `Refusal` (`not_found`) otherwise."""
    return (await managed_fleet(request))[1]


async def managed_fleet(request: Request) -> tuple[Principal, Fleet]:
    """The principal, and the fleet as `fleet_of` finds it."""
    principal = await principal_of(request)
    fleet_id = name_in_path(request, "fleet_id")
    fleet = None
    if may_manage_fleet(principal, fleet_id):
        async with service_of(request).database.connection() as connection:
            fleet = await fleets.get(connection, fleet_id)
    if fleet is None:
        raise not_found()
    return principal, fleet


routes = [
    resource("/fleets/{fleet_id}", PUT=put, GET=get),
    resource("/fleets/{fleet_id}/trips", GET=list_trips),
]
