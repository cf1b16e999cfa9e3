"""What is left of finished trips and of vehicles' days: summaries."""

import re
from datetime import date
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import doer_of, name_in_path, not_found, principal_of, require, resource, respond, service_of
from tracking.api.trips import known_trip
from tracking.audit import Action, Kind
from tracking.auth import Role, Sight, may_manage_fleet, may_see
from tracking.errors import ErrorCode, Refusal
from tracking.store import history, vehicles
from tracking.store.history import VehicleDay
from tracking.store.positions import DAY_MS

DAYS = 7
"""From the first day to the last where only one of them is named, or none."""
MAX_DAYS = 366
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


async def of_trip(request: Request) -> Response:
    """404 until the trip is over and its late fixes are in."""
    principal = await principal_of(request)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if not may_see(principal.role, Sight.POSITION, trip.status):
        raise Refusal(ErrorCode.FORBIDDEN, f"the trip is {trip.status}: a {principal.role} sees no summary of it now")
    summary = None
    if trip.started_at is not None and trip.ended_at is not None:
        async with service.database.connection() as connection:
            summary = await history.trip_summary(connection, trip.number)
    if summary is None:
        raise not_found()
    assert trip.started_at is not None and trip.ended_at is not None
    view: dict[str, Any] = {
        "trip_id": trip.trip_id,
        "started_at": trip.started_at,
        "ended_at": trip.ended_at,
        "distance": summary.distance,
        "duration": (trip.ended_at - trip.started_at) / 1000,
        "stops": summary.stops,
    }
    if summary.top_speed is not None:
        view["top_speed"] = summary.top_speed
    if summary.track is not None:
        view["track"] = msgspec.Raw(summary.track)
        by = doer_of(request, principal)
        service.audit.note(by, Action.EXPORTED, Kind.TRIP, trip.trip_id, {"format": "summary"})
    return respond(view)


async def of_vehicle(request: Request) -> Response:
    """UTC days from `from` to `to`, both included; today's as it is until now."""
    principal = await require(request, Role.SERVICE, Role.DISPATCHER)
    service = service_of(request)
    today = service.clock() // DAY_MS
    last = _day(request, "to")
    first = _day(request, "from")
    if last is None:
        last = today if first is None else max(first, min(today, first + MAX_DAYS - 1))
    if first is None:
        first = max(0, last - DAYS + 1)
    if not first <= last < first + MAX_DAYS:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`from` must not be after `to`, and at most {MAX_DAYS} days are given at once", field="from"
        )
    async with service.database.connection() as connection:
        stored = await vehicles.get(connection, name_in_path(request, "vehicle_id"))
        if stored is None or not may_manage_fleet(principal, stored.vehicle.fleet_id):
            raise not_found()
        days = []
        joined_at = 0 if principal.role is Role.SERVICE else stored.joined_at
        joining = joined_at // DAY_MS
        if joined_at and first <= joining <= last:
            # Of the day on which it came to this fleet, what came after that.
            found = await history.day_now(connection, stored.number, joining, joined_at)
            days += [found] if found is not None else []
        if joined_at:
            first = max(first, joining + 1)
        days += await history.days(connection, stored.number, first, last)
        known = {found.day for found in days}
        # Yesterday waits for its late fixes before it is stored.
        for day in (today - 1, today):
            if first <= day <= last and history.date_of(day) not in known:
                found = await history.day_now(connection, stored.number, day)
                days += [found] if found is not None else []
    return respond({"days": [_view(day) for day in days]})


def _day(request: Request, parameter: str) -> int | None:
    text = request.query_params.get(parameter)
    if text is None:
        return None
    try:
        # `fromisoformat` takes other forms as well.
        day = history.day_of(date.fromisoformat(text)) if _DAY.fullmatch(text) else -1
        if day < 0:
            raise ValueError
        return day
    except ValueError:
        raise Refusal(
            ErrorCode.BAD_FIELD, f"`{parameter}` must be a day since 1970, like 2026-11-24; got {text!r:.40}", field=parameter
        ) from None


def _view(day: VehicleDay) -> dict[str, Any]:
    return {name: value for name, value in day._asdict().items() if value is not None}


routes = [
    resource("/trips/{trip_id}/summary", GET=of_trip),
    resource("/vehicles/{vehicle_id}/days", GET=of_vehicle),
]
