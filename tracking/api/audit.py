"""`/v1/audit`, and for a trip: who watched it, and who may see it."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tracking.access import explain
from tracking.api.fleets import MAX_LISTED
from tracking.api.http import doer_of, require, resource, respond, service_of, whole_number
from tracking.api.trips import known_trip
from tracking.audit import Action, Kind
from tracking.auth import CLAIM_OF_ROLE, Principal, Role
from tracking.errors import ErrorCode, Refusal
from tracking.store import audit as store
from tracking.store.audit import Row, Span

MAX_SUBJECT = 256


async def list_entries(request: Request) -> Response:
    """Entries, oldest first: those after the entry `after`, or the last ones.

    `subject` is a `jti`, or the id of a thing, which may be erased.
    """
    await require(request, Role.SERVICE)
    service = service_of(request)
    action = request.query_params.get("action")
    if action is not None and action not in list(Action):
        raise Refusal(ErrorCode.BAD_FIELD, f"`action` must be one of {', '.join(Action)}; got {action!r:.60}", field="action")
    subject = _subject(request)
    limit, after = _limit(request), whole_number(request, "after")
    async with service.database.connection() as connection:
        subjects = None if subject is None else await service.audit.names_of(connection, subject)
        found = await store.page(connection, after=after, limit=limit, now=service.clock(), action=action, subjects=subjects)
    return respond({"entries": [{"entry": entry, **_view(row)} for entry, row in found]})


async def watches(request: Request) -> Response:
    """The watches of the trip with their times, oldest first. A watch of the fleet's map is not among them."""
    principal = await require(request, Role.SERVICE)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    limit, after = _limit(request), whole_number(request, "after", 0) or 0
    async with service.database.connection() as connection:
        names = await service.audit.names_of(connection, trip.trip_id, [Kind.TRIP])
        found = await store.spans_of(connection, names, Action.WATCHED, Action.WATCH_ENDED, after=after, limit=limit)
    return respond({"watches": [_watch(span) for span in found]})


def _watch(span: Span) -> dict[str, Any]:
    shown: dict[str, Any] = {"entry": span.entry, **_principal_view(span.row), "from": span.row.at}
    if span.ended_at is not None:
        shown["to"] = span.ended_at
        if span.end_detail and span.end_detail.get("uncertain"):
            shown["uncertain"] = True
    return shown


async def access(request: Request) -> Response:
    """What a role may see of the trip now, and which rule says so."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    text = request.query_params.get("role")
    if text not in list(Role):
        raise Refusal(ErrorCode.BAD_FIELD, f"`role` must be one of {', '.join(Role)}; got {text!r:.60}", field="role")
    role = Role(text)
    claim, subject = CLAIM_OF_ROLE[role], _subject(request)
    if claim is not None and not subject:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`subject` is missing: give the `{claim}` that the {role} token names", field="subject"
        )
    shown: dict[str, Any] = {"trip_id": trip.trip_id, "status": trip.status, "role": role}
    if claim is not None:
        shown["subject"] = subject
    return respond(shown | explain(role, subject or "", trip, service.clock()))


def _subject(request: Request) -> str | None:
    subject = request.query_params.get("subject")
    if subject is not None and (len(subject) > MAX_SUBJECT or "\0" in subject):
        raise Refusal(ErrorCode.BAD_FIELD, f"`subject` must have at most {MAX_SUBJECT} characters", field="subject")
    return subject


def _limit(request: Request) -> int:
    return whole_number(request, "limit", 200, least=1, most=MAX_LISTED) or 200


async def exported(
    request: Request, principal: Principal, kind: Kind, subject: str, pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """Pass on the pieces, and record the export.

    The export is recorded before the first piece. Its size is recorded at the end. Raises `StoreUnavailable` before the first
    piece if it can't be recorded.
    """
    service = service_of(request)
    begin: Row | None = None
    sent, complete = 0, False
    try:
        async for piece in pieces:
            if begin is None:
                detail = {"format": request.query_params.get("format", "geojson")}
                begin = await service.audit.export_begins(doer_of(request, principal), kind, subject, detail)
            sent += len(piece)
            yield piece
        complete = True
    finally:
        if begin is not None:
            service.audit.ended(begin, detail={"bytes": sent, "complete": complete})
        await pieces.aclose()


routes = [
    resource("/audit", GET=list_entries),
    resource("/trips/{trip_id}/access", GET=access),
    resource("/trips/{trip_id}/audit", GET=watches),
]


def _view(row: Row) -> dict[str, Any]:
    """A row as HTTP returns it, without its number."""
    shown: dict[str, Any] = {"time": row.at, "action": row.action, **_principal_view(row)}
    shown |= {"kind": row.kind, "subject": row.subject}
    return shown | ({"detail": row.detail} if row.detail else {})


def _principal_view(row: Row) -> dict[str, Any]:
    """Who did it."""
    principal = {"role": row.role, "jti": row.jti}
    if row.holder:
        principal["subject"] = row.holder
    if row.share_id is not None:
        principal["share_id"] = row.share_id
    return {"principal": principal} | ({"address": row.address} if row.address is not None else {})
