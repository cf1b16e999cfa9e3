"""`/v1/fleets/{fleet_id}/events`: the events of a fleet."""

from starlette.requests import Request
from starlette.responses import Response

from tracking.api.fleets import MAX_LISTED, managed_fleet
from tracking.api.http import check_order, flag, resource, respond_listing, service_of, whole_number
from tracking.errors import ErrorCode, Refusal
from tracking.ingest.vehicles import FOREVER
from tracking.model import EventKind
from tracking.store import event_lists


async def list_events(request: Request) -> Response:
    """Events, oldest first: those from `since` (an instant) or `after` (an event's id) on, or else the last ones.

    `late=false` leaves out events that came from backlogs.
    """
    principal, fleet = await managed_fleet(request)
    query = request.query_params
    kind = query.get("kind")
    if kind is not None and kind not in list(EventKind):
        raise Refusal(ErrorCode.BAD_FIELD, f"`kind` must be one of {', '.join(EventKind)}", field="kind")
    limit = whole_number(request, "limit", 200, least=1, most=MAX_LISTED)
    assert limit is not None
    since, until = whole_number(request, "since", most=FOREVER), whole_number(request, "until", most=FOREVER)
    check_order(since, until, ("since", "until"))
    after, kind_ = whole_number(request, "after"), EventKind(kind) if kind is not None else None
    vehicle_id, geofence_id = _name(request, "vehicle_id"), _name(request, "geofence_id")
    with_late = "late" not in query or flag(request, "late")
    service = service_of(request)
    async with service.lists.enter(principal.jti):
        async with service.database.connection() as connection:
            found = await event_lists.of_fleet(
                connection,
                fleet.fleet_id,
                since=since,
                until=until,
                after=after,
                kind=kind_,
                vehicle_id=vehicle_id,
                geofence_id=geofence_id,
                limit=limit,
                with_late=with_late,
            )
        return await respond_listing("events", found)


def _name(request: Request, parameter: str) -> str | None:
    name = request.query_params.get(parameter)
    if name is not None and (len(name) > 64 or "\0" in name):
        raise Refusal(ErrorCode.BAD_FIELD, f"`{parameter}` must have at most 64 characters", field=parameter)
    return name


routes = [
    resource("/fleets/{fleet_id}/events", GET=list_events),
]
