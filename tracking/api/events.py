"""`/v1/fleets/{fleet_id}/events`: what happened in a fleet."""

from starlette.requests import Request
from starlette.responses import Response

from tracking.api.fleets import MAX_LISTED, fleet_of
from tracking.api.http import check_order, flag, resource, respond, service_of, whole_number
from tracking.errors import ErrorCode, Refusal
from tracking.ingest.sources import FOREVER
from tracking.model import EventKind
from tracking.store import events


async def list_events(request: Request) -> Response:
    """Oldest first: from `since` (an instant) or `after` (an event's id) on, or the last ones where neither is given.

    `late=false` leaves out what came out of backlogs.
    """
    fleet = await fleet_of(request)
    query = request.query_params
    kind = query.get("kind")
    if kind is not None and kind not in list(EventKind):
        raise Refusal(ErrorCode.BAD_FIELD, f"`kind` must be one of {', '.join(EventKind)}", field="kind")
    limit = whole_number(request, "limit", 200, least=1, most=MAX_LISTED)
    assert limit is not None
    since, until = whole_number(request, "since", most=FOREVER), whole_number(request, "until", most=FOREVER)
    check_order(since, until, ("since", "until"))
    async with service_of(request).database.connection() as connection:
        found = await events.of_fleet(
            connection,
            fleet.fleet_id,
            since=since,
            until=until,
            after=whole_number(request, "after"),
            kind=EventKind(kind) if kind is not None else None,
            vehicle_id=_name(request, "vehicle_id"),
            geofence_id=_name(request, "geofence_id"),
            limit=limit,
            with_late="late" not in query or flag(request, "late"),
        )
    return respond({"events": found})


def _name(request: Request, parameter: str) -> str | None:
    name = request.query_params.get(parameter)
    if name is not None and (len(name) > 64 or "\0" in name):
        raise Refusal(ErrorCode.BAD_FIELD, f"`{parameter}` must have at most 64 characters", field=parameter)
    return name


routes = [
    resource("/fleets/{fleet_id}/events", GET=list_events),
]
