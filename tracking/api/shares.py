"""`/v1/trips/{trip_id}/shares`: create and revoke links for passengers."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import doer_of, read, require, resource, respond, service_of
from tracking.api.tokens import ExpiresIn
from tracking.api.trips import known_trip
from tracking.audit import Action, Detail, Kind
from tracking.auth import Role, may_manage_fleet
from tracking.errors import ErrorCode, Refusal
from tracking.model import Share, Trip
from tracking.store import shares
from tracking.store.pool import Connection


class ShareBody(msgspec.Struct):
    expires_in: ExpiresIn = 86_400


async def create(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    body = await read(request, ShareBody)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if trip.status.over:
        raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: it can't be shared any more")
    if principal.role is not Role.SERVICE:
        service.budgets.shares.spend(principal.jti)

    async def record(connection: Connection, share: Share, trip: Trip) -> None:
        by = doer_of(request, principal)
        detail: dict[str, Detail] = {"jti": share.jti, "share_id": share.share_id, "expires_at": share.expires_at}
        await service.audit.record(connection, by, Action.SHARE_MADE, Kind.TRIP, trip.trip_id, detail)

    share, issued = await service.access.share(trip, body.expires_in, record)
    share_id = share.share_id
    url = f"{service.settings.public_url}/trip/{trip.trip_id}#{issued.token}"
    return respond({"share_id": share_id, "url": url, "token": issued.token, "expires_at": issued.expires_at}, 201)


async def list_(request: Request) -> Response:
    """The trip's shares without their tokens. A token is shown once, when the share is created."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    async with service.database.connection() as connection:
        found = await shares.of_trip(connection, trip.number)
    return respond({"shares": [_shown(share) for share in found]})


async def revoke(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)

    async def record(connection: Connection, share: Share, trip: Trip) -> None:
        by, detail = doer_of(request, principal), {"jti": share.jti, "share_id": share.share_id}
        await service.audit.record(connection, by, Action.SHARE_REVOKED, Kind.TRIP, trip.trip_id, detail)

    share_id = request.path_params["share_id"]
    await service.access.revoke_share(share_id, allowed=lambda trip: may_manage_fleet(principal, trip.fleet_id), record=record)
    return Response(status_code=204)


def _shown(share: Share) -> dict[str, Any]:
    shown: dict[str, Any] = {"share_id": share.share_id, "created_at": share.created_at, "expires_at": share.expires_at}
    if share.revoked_at is not None:
        shown["revoked_at"] = share.revoked_at
    return shown


routes = [
    resource("/trips/{trip_id}/shares", POST=create, GET=list_),
    resource("/shares/{share_id}", DELETE=revoke),
]
