"""Summaries of finished trips and of the days of vehicles."""

import functools
import re
from collections.abc import AsyncGenerator
from datetime import date
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tracking.api.http import doer_of, name_in_path, not_found, principal_of, require, resource, respond, service_of
from tracking.api.trips import known_trip
from tracking.audit import Action, Kind
from tracking.auth import Principal, Role, TripField, may_manage_fleet, may_see
from tracking.downloads import Download
from tracking.errors import ErrorCode, Refusal
from tracking.model import Trip
from tracking.service import Service
from tracking.store import tracks, trip_summaries, vehicle_days, vehicles
from tracking.store.days import DAY_MS, date_of, day_of
from tracking.store.pool import Connection
from tracking.store.trip_summaries import TripSummary
from tracking.store.vehicle_days import VehicleDay

DAYS = 7
"""The number of days in an answer if `from` or `to` is missing."""
MAX_DAYS = 366
LONG = 20_000
"""A trip's line with more points than this is sent as a download. The summary then has about 700 KB."""
PIECE = 65_536
"""The bytes of a piece of the download."""
_encode = msgspec.json.encode
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


async def of_trip(request: Request) -> Response:
    """The summary of a trip; 404 until the trip is over and its late fixes have arrived."""
    principal = await principal_of(request)
    service = service_of(request)
    trip = await known_trip(service, principal, request.path_params["trip_id"])
    if not may_see(principal.role, TripField.POSITION, trip.status):
        raise Refusal(ErrorCode.FORBIDDEN, f"the trip is {trip.status}: a {principal.role} sees no summary of it now")
    if trip.started_at is None or trip.ended_at is None:
        raise not_found()
    async with service.database.connection() as connection:
        points = await trip_summaries.points_of_line(connection, trip.number)
        summary = await trip_summaries.of_trip(connection, trip.number) if points <= LONG else None
        drove = await tracks.vehicles_of_trip(connection, trip.number) if points > LONG else frozenset()
    if points > LONG:
        if request.method != "HEAD":
            service.budgets.downloads.spend(principal.jti, principal.role)
            _note(request, principal, trip)
        check = functools.partial(_check, request, trip, drove)
        return Download(service.downloads, principal, _long(service, trip), "application/json", check)
    if summary is None:
        raise not_found()
    if summary.track is not None:
        _note(request, principal, trip)
    return respond(_summary(trip, summary))


def _note(request: Request, principal: Principal, trip: Trip) -> None:
    """Record a summary with a line as an export."""
    by = doer_of(request, principal)
    service_of(request).audit.note(by, Action.EXPORTED, Kind.TRIP, trip.trip_id, {"format": "summary"})


async def _check(request: Request, trip: Trip, drove: frozenset[int]) -> None:
    """Raises `Refusal` once the principal may not see the trip any more. `drove` are the vehicles of its line."""
    principal = await principal_of(request)
    service = service_of(request)
    now = await known_trip(service, principal, trip.trip_id)
    async with service.database.connection() as connection:
        there = await tracks.vehicles_of_trip(connection, trip.number)
    if now.number != trip.number or not may_see(principal.role, TripField.POSITION, now.status) or not there >= drove:
        raise not_found()


async def _long(service: Service, trip: Trip) -> AsyncGenerator[bytes, None]:
    """The summary of a trip with a long line, in pieces. Only a few of these are in memory at once."""
    async with service.exports.connection() as connection:
        summary = await trip_summaries.of_trip(connection, trip.number)
    if summary is None or summary.track is None:
        raise not_found()
    yield _encode(_summary(trip, summary._replace(track=None)))[:-1] + b',"track":'
    for begin in range(0, len(summary.track), PIECE):
        yield summary.track[begin : begin + PIECE]
    yield b"}"


def _summary(trip: Trip, summary: TripSummary) -> dict[str, Any]:
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
    return view


async def of_vehicle(request: Request) -> Response:
    """The UTC days from `from` to `to`, both included. Today's summary ends now."""
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
        stored = await _managed(request, principal, connection)
        joined_at = 0 if principal.role is Role.SERVICE else stored.joined_at
        joining = joined_at // DAY_MS
        known = await vehicle_days.stored(connection, stored.number, max(first, joining + 1) if joined_at else first, last)
    stored_days = {found.day for found in known}
    # On the day it joined this fleet, only the time after that counts.
    wanted = [(joining, joined_at)] if joined_at and first <= joining <= last else []
    # Yesterday is not stored yet, because late fixes may still arrive.
    wanted += [
        (day, 0)
        for day in (today - 1, today)
        if first <= day <= last and day > (joining if joined_at else -1) and date_of(day) not in stored_days
    ]
    sums = service.sums
    service.budgets.sums.spend(principal.jti, principal.role, sum(not sums.known(stored.number, *day) for day in wanted))
    summed = [await sums.day(principal.jti, stored.number, *day) for day in wanted]
    if wanted:
        # The sums may have taken a while, so access is checked again.
        async with service.database.connection() as connection:
            if await _managed(request, principal, connection) != stored:
                raise not_found()
    days = sorted([*known, *filter(None, summed)])
    return respond({"days": [_view(day) for day in days]})


async def _managed(request: Request, principal: Principal, connection: Connection) -> vehicles.Stored:
    """The vehicle in the path. Raises `Refusal` (`not_found`) unless the principal manages it."""
    stored = await vehicles.get(connection, name_in_path(request, "vehicle_id"))
    if stored is None or not may_manage_fleet(principal, stored.vehicle.fleet_id):
        raise not_found()
    return stored


def _day(request: Request, parameter: str) -> int | None:
    text = request.query_params.get(parameter)
    if text is None:
        return None
    try:
        # `fromisoformat` takes other forms as well.
        day = day_of(date.fromisoformat(text)) if _DAY.fullmatch(text) else -1
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
