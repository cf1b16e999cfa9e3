"""`/v1/tokens`: issue and revoke tokens."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import Name, doer_of, read, require, resource, respond, service_of
from tracking.audit import Action, Detail, Kind
from tracking.auth import CLAIM_OF_ROLE, MAX_EXPIRES_IN, Role
from tracking.errors import ErrorCode, Refusal
from tracking.store.pool import Connection

ExpiresIn = Annotated[float, Meta(ge=1, le=MAX_EXPIRES_IN)]
"""The lifetime in seconds."""


class TokenBody(msgspec.Struct):
    role: Role
    vehicle_id: Name | None = None
    trip_id: Name | None = None
    fleet_id: Name | None = None
    expires_in: ExpiresIn = 3600


async def issue(request: Request) -> Response:
    principal = await require(request, Role.SERVICE)
    body = await read(request, TokenBody)
    claim = CLAIM_OF_ROLE[body.role]
    subject = getattr(body, claim) if claim is not None else None
    if claim is not None and subject is None:
        raise Refusal(ErrorCode.BAD_FIELD, f"a token of role {body.role} needs `{claim}`", field=claim)
    service = service_of(request)
    issued = service.auth.issue(body.role, subject, body.expires_in)
    about = (Kind.TOKEN, issued.jti) if claim is None else (Kind(claim.removesuffix("_id")), str(subject))
    by = doer_of(request, principal)
    detail: dict[str, Detail] = {"jti": issued.jti, "role": body.role.value, "expires_at": issued.expires_at}
    await service.audit.record_alone(by, Action.TOKEN_ISSUED, *about, detail)
    return respond(issued._asdict(), 201)


async def revoke(request: Request) -> Response:
    principal = await require(request, Role.SERVICE)
    service = service_of(request)
    jti = request.path_params["jti"]
    if not 1 <= len(jti) <= 256 or "\0" in jti:
        raise Refusal(ErrorCode.BAD_FIELD, "`jti` must have 1 to 256 characters", field="jti")

    async def record(connection: Connection) -> None:
        await service.audit.record(connection, doer_of(request, principal), Action.TOKEN_REVOKED, Kind.TOKEN, jti)

    await service.access.revoke_token(jti, record)
    return Response(status_code=204)


routes = [
    resource("/tokens", POST=issue),
    resource("/tokens/{jti}", DELETE=revoke),
]
