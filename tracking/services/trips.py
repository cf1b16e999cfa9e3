"""Trips: create, change and remove them."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType

from tracking import caps
from tracking.errors import ErrorCode, Refusal
from tracking.live.follower import Transactions
from tracking.live.transaction import Transaction
from tracking.model import NEXT_STATUS, Clock, Place, Trip, TripStatus
from tracking.protocol.fit import check_places, live_view
from tracking.protocol.http import TripView
from tracking.store import fleets, trip_erasures, trips, vehicles
from tracking.store.changes import ChangeKind, as_json
from tracking.store.pool import Connection, unlocked

NOT_FOUND = "not yours, or no such thing"


class Trips:
    """Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(self, follower: Transactions, clock: Clock, *, per_fleet: int, per_vehicle: int) -> None:
        """`per_fleet` and `per_vehicle` limit the open trips of a fleet and of a vehicle."""
        self._follower = follower
        self._clock = clock
        self._per_fleet = per_fleet
        self._per_vehicle = per_vehicle

    @unlocked
    async def create(
        self,
        *,
        fleet_id: str,
        vehicle_id: str | None,
        pickup: Place,
        dropoff: Place,
        stops: Sequence[Place],
        route: dict[str, Any] | None,
    ) -> Trip:
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            if await fleets.get(connection, fleet_id) is None:
                raise Refusal(ErrorCode.NOT_FOUND, f"there is no fleet {fleet_id}: PUT it first", field="fleet_id")
            vehicle = await self._vehicle_for(connection, vehicle_id, fleet_id) if vehicle_id is not None else None
            count = await fleets.open_trips_with_one_more(connection, fleet_id, self._per_fleet)
            advice = "complete or cancel some"
            caps.hold(count, self._per_fleet, f"fleet {fleet_id} would have {count} open trips", "open_trips_per_fleet", advice)
            trip = await trips.insert(
                connection,
                trip_id=_new_trip_id(),
                fleet_id=fleet_id,
                vehicle=vehicle.number if vehicle is not None else None,
                pickup=pickup,
                dropoff=dropoff,
                stops=stops,
                route=route,
                now=self._clock(),
            )
            check_places(TripView.of(trip))
            tell_trip(transaction, ChangeKind.TRIP_CREATED, trip, vehicle, [vehicle] if vehicle is not None else [])
        return trip

    @unlocked
    async def change(
        self,
        trip_id: str,
        *,
        allowed: Callable[[Trip], bool],
        not_allowed: ErrorCode = ErrorCode.NOT_FOUND,
        version: int | None = None,
        status: TripStatus | None = None,
        vehicle_id: str | UnsetType | None = UNSET,
        route: dict[str, Any] | UnsetType | None = UNSET,
    ) -> Trip:
        """Change the trip, and return it.

        A given `version` must be the trip's (`conflict`). `not_allowed` is the error for a trip that is missing, and for one
        that the principal may not change. Both look the same.
        """
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            trip = await trips.lock_with_vehicle(connection, trip_id)
            if trip is None or not allowed(trip):
                raise Refusal(not_allowed, NOT_FOUND)
            if version is not None:
                check_version(trip, version)
            changed = await self._change(transaction, trip, status, vehicle_id, route)
            return changed or trip

    @unlocked
    async def delete(
        self, trip_id: str, *, allowed: Callable[[Trip], bool], record: Callable[[Connection], Awaitable[None]]
    ) -> None:
        """Remove a trip that is not under way (`conflict` otherwise). Its positions are removed later (`erasure`).

        `record` records the removal in the same transaction.
        """
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            trip = await trips.lock(connection, trip_id)
            if trip is None or not allowed(trip):
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            if trip.status.under_way:
                raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: cancel or complete it first")
            # Every vehicle that drove it may still send fixes of that time.
            drove = await vehicles.lock_those_of_trip(connection, trip.number)
            await trip_erasures.begin(connection, trip, self._clock())
            await record(connection)
            for vehicle in drove:
                transaction.tell(ChangeKind.VEHICLE_TRIPS, trip_id, vehicle=vehicle.number)
            transaction.tell(ChangeKind.TRIP_DELETED, trip_id, fleet_id=trip.fleet_id, public={"trip_id": trip_id})

    async def _change(
        self,
        transaction: Transaction,
        trip: Trip,
        status: TripStatus | None,
        vehicle_id: str | UnsetType | None,
        route: dict[str, Any] | UnsetType | None,
    ) -> Trip | None:
        """Store the change and return the trip after it; None if nothing changes."""
        connection, now = transaction.connection, self._clock()
        old: vehicles.Stored | None = None
        if trip.vehicle is not None and trip.vehicle_number is not None:
            old = vehicles.Stored(trip.vehicle_number, trip.vehicle)
        new = old
        if vehicle_id is not UNSET and vehicle_id != (old.vehicle.vehicle_id if old is not None else None):
            if trip.status.over:
                raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: it keeps its vehicle")
            if vehicle_id is None and trip.status.under_way:
                raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: give it another vehicle, or cancel it")
            new = await self._vehicle_for(connection, str(vehicle_id), trip.fleet_id) if vehicle_id is not None else None
        next_status = trip.status if status is None else status
        if next_status is not trip.status and next_status not in NEXT_STATUS[trip.status]:
            steps = ", ".join(sorted(NEXT_STATUS[trip.status])) or "nothing: it is over"
            raise Refusal(
                ErrorCode.CONFLICT, f"from {trip.status} a trip goes to {steps}; not to {next_status}", field="status"
            )
        if next_status is trip.status and new is old and route is UNSET:
            return None
        if next_status.under_way and new is None:
            raise Refusal(ErrorCode.CONFLICT, "the trip has no vehicle: assign one first", field="vehicle_id")
        if next_status.under_way and new is not None and new.vehicle.fleet_id != trip.fleet_id:
            raise Refusal(ErrorCode.CONFLICT, f"its vehicle is in another fleet than {trip.fleet_id}", field="vehicle_id")
        ended_at, started_at = await self._move_spans(connection, trip, next_status, old, new, now)
        changed = msgspec.structs.replace(
            trip,
            status=next_status,
            version=trip.version + 1,
            route=trip.route if route is UNSET else route,
            started_at=started_at if trip.started_at is None else trip.started_at,
            # A trip that was never under way has no span that ends.
            ended_at=(ended_at or now) if next_status.over and not trip.status.over else trip.ended_at,
        )
        await trips.update(connection, changed, vehicle=new.number if new is not None else None)
        after: Trip | None = changed
        if new is not old or route is not UNSET:
            # The trip is read again: with the vehicle as others see it, and the route as stored.
            after = await trips.get(connection, trip.trip_id)
        assert after is not None
        # A vehicle that drove it and has left the fleet is not told of it.
        concerned = {
            vehicle.number: vehicle
            for vehicle in (old, new)
            if vehicle is not None and vehicle.vehicle.fleet_id == trip.fleet_id
        }
        tell_trip(transaction, ChangeKind.TRIP_CHANGED, after, new, list(concerned.values()))
        return after

    async def _vehicle_for(self, connection: Connection, vehicle_id: str, fleet_id: str) -> vehicles.Stored:
        """The vehicle that one more trip is for. Its row is locked."""
        vehicle = await vehicles.lock(connection, vehicle_id, fleet_id)
        if vehicle is None:
            raise Refusal(ErrorCode.NOT_FOUND, f"fleet {fleet_id} has no vehicle {vehicle_id}", field="vehicle_id")
        count = 1 + await trips.count_open_of_vehicle(connection, vehicle.number)
        advice = "complete or cancel some"
        caps.hold(
            count, self._per_vehicle, f"vehicle {vehicle_id} would have {count} open trips", "open_trips_per_vehicle", advice
        )
        return vehicle

    async def _move_spans(
        self,
        connection: Connection,
        trip: Trip,
        status: TripStatus,
        old: vehicles.Stored | None,
        new: vehicles.Stored | None,
        now: int,
    ) -> tuple[int | None, int | None]:
        """The end of the span that ended and the start of the one that began; None if there is none."""
        ended_at = started_at = None
        if trip.status.under_way and (not status.under_way or new is not old):
            ended_at = await trips.close_span(connection, trip.number, now)
        if status.under_way and (not trip.status.under_way or new is not old):
            assert new is not None
            try:
                started_at = await trips.open_span(connection, trip.number, new.number, self._clock())
            except asyncpg.UniqueViolationError:
                raise Refusal(
                    ErrorCode.CONFLICT, f"vehicle {new.vehicle.vehicle_id} is under way on another trip: end that one first"
                ) from None
        return ended_at, started_at


def tell_trip(
    transaction: Transaction,
    kind: ChangeKind,
    trip: Trip,
    vehicle: vehicles.Stored | None,
    concerned: Sequence[vehicles.Stored],
) -> None:
    """Write the change to the log. `vehicle` is the trip's. `concerned` are the vehicles whose trips change."""
    for one in concerned:
        transaction.tell(ChangeKind.VEHICLE_TRIPS, trip.trip_id, vehicle=one.number)
    transaction.tell(
        kind,
        trip.trip_id,
        fleet_id=trip.fleet_id,
        vehicle=vehicle.number if vehicle is not None else None,
        public=as_json(live_view(trip)),
    )


def check_version(trip: Trip, version: int) -> None:
    """Raises `Refusal` (`conflict`) if it is not the trip's version."""
    if version != trip.version:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"the trip is at version {trip.version}, you sent {version}: read it again and decide again",
            field="version",
        )


def _new_trip_id() -> str:
    """144 random bits as text that begins with a letter or digit. A spreadsheet would take `-` for the start of a formula."""
    while not (trip_id := secrets.token_urlsafe(18))[0].isalnum():
        pass
    return trip_id
