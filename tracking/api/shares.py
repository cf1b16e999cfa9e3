"""`/v1/trips/{trip_id}/shares`: links for passengers, made and revoked."""

import secrets
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tracking import caps
from tracking.api.http import doer_of, not_found, read, require, resource, respond, service_of
from tracking.api.tokens import ExpiresIn, end_revoked, hold_revoked, remember_revoked
from tracking.api.trips import known_trip
from tracking.audit import Action, Detail, Kind
from tracking.auth import Role, may_manage_fleet
from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.model import Share
from tracking.store import shares, trips


class ShareBody(msgspec.Struct):
    expires_in: ExpiresIn = 86_400


async def create(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    body = await read(request, ShareBody)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if trip.status.over:
        raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: there is nothing to share any more")
    if principal.role is not Role.SERVICE:
        service.budgets.shares.spend(principal.jti)
    hold_revoked(service)
    share_id = secrets.token_urlsafe(16)
    issued = service.auth.issue(Role.PASSENGER, trip.trip_id, body.expires_in, share_id)
    share = Share(share_id, trip.trip_id, issued.jti, issued.expires_at, service.clock(), None)
    async with service.database.transaction() as connection:
        if await trips.lock(connection, trip.trip_id) is None:
            raise not_found()
        count = 1 + await shares.count_valid(connection, trip.number, service.clock())
        most = service.settings.shares_per_trip
        caps.hold(count, most, f"the trip would have {count} valid shares", "shares_per_trip", "revoke some")
        await shares.insert(connection, share, trip.number)
        by = doer_of(request, principal)
        detail: dict[str, Detail] = {"jti": issued.jti, "share_id": share_id, "expires_at": issued.expires_at}
        await service.audit.record(connection, by, Action.SHARE_MADE, Kind.TRIP, trip.trip_id, detail)
    url = f"{service.settings.public_url}/trip/{trip.trip_id}#{issued.token}"
    return respond({"share_id": share_id, "url": url, "token": issued.token, "expires_at": issued.expires_at}, 201)


async def list_(request: Request) -> Response:
    """The trip's shares, without their tokens: those were given out once."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    async with service.database.connection() as connection:
        found = await shares.of_trip(connection, trip.number)
    return respond({"shares": [_shown(share) for share in found]})


async def revoke(request: Request) -> Response:
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    share_id = request.path_params["share_id"]
    jti: str | None = None
    try:
        async with service.database.transaction() as connection:
            share = await shares.get(connection, share_id) if "\0" not in share_id else None
            trip = await trips.get(connection, share.trip_id) if share is not None else None
            if share is None or trip is None or not may_manage_fleet(principal, trip.fleet_id):
                raise not_found()
            jti = share.jti
            await shares.revoke(connection, share_id, service.clock())
            await remember_revoked(service, connection, share.jti)
            by, detail = doer_of(request, principal), {"jti": share.jti, "share_id": share_id}
            await service.audit.record(connection, by, Action.SHARE_REVOKED, Kind.TRIP, trip.trip_id, detail)
    except StoreUnavailable:
        if jti is not None:
            # It may be committed all the same. Whoever asked wants nobody in with it, and is told to ask again.
            end_revoked(service, jti)
        raise
    end_revoked(service, share.jti)
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
