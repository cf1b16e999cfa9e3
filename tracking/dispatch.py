"""Dispatch: the one place where a trip changes. It commits first, and then tells whoever must know."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
from msgspec import UNSET, UnsetType

from tracking import caps
from tracking.changes import FIND_OUT_SECONDS
from tracking.errors import CloseCode, ErrorCode, Refusal, StoreUnavailable, StoreWentBack
from tracking.frames import check_places
from tracking.hub.hub import Hub
from tracking.ingest.sources import Sources, newest_spans
from tracking.model import NEXT_STATUS, Clock, Place, Trip, TripStatus, Vehicle
from tracking.protocol import TripView
from tracking.store import erasures, fleets, trips, vehicles
from tracking.store.pool import Connection, Database, unlocked
from tracking.store.trips import Span

NOT_FOUND = "not yours, or no such thing"

VehicleTrips = tuple[str, list[Span], Trip | None]
"""A vehicle's id, its spans, and the trip its driver is to see, as they are after a change."""


class Dispatch:
    """Creates, changes and removes trips. Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(
        self, database: Database, sources: Sources, hub: Hub, clock: Clock, *, per_fleet: int, per_vehicle: int
    ) -> None:
        """`per_fleet` and `per_vehicle` are how many trips of one may be open at a time."""
        self._per_fleet = per_fleet
        self._per_vehicle = per_vehicle
        self._database = database
        self._sources = sources
        self._hub = hub
        self._clock = clock
        self.on_erased: Callable[[set[int]], None] = lambda _: None
        """Told of vehicles that were removed, by their numbers, as far as memory has them; of a trip that was, with none."""
        self._finding_out: set[asyncio.Task[None]] = set()

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
        async with self._database.transaction() as connection:
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
            changed = [await self._state(connection, vehicle)] if vehicle is not None else []
        self._tell(trip, changed)
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
        """The trip after the change; the same where nothing was to change.

        `version`, where given, must be the trip's (`conflict`). `not_allowed` is how a trip that is missing or not allowed is
        refused, the same for both.
        """
        changed: list[vehicles.Stored] | None = None
        try:
            async with self._database.transaction() as connection:
                trip = await trips.lock(connection, trip_id)
                if trip is None or not allowed(trip):
                    raise Refusal(not_allowed, NOT_FOUND)
                if version is not None:
                    check_version(trip, version)
                changed = await self._change(connection, trip, status, vehicle_id, route)
                if changed is None:
                    return trip
                after = await trips.get(connection, trip_id)
                assert after is not None
                states = [await self._state(connection, vehicle) for vehicle in changed]
        except StoreUnavailable:
            if changed:
                # It may have been committed all the same: nobody must be shown a trip that is over.
                task = asyncio.create_task(self._find_out(trip_id, changed))
                self._finding_out.add(task)
                task.add_done_callback(self._finding_out.discard)
            raise
        before = trip.vehicle.vehicle_id if trip.vehicle is not None else None
        self._tell(after, states, taken_from=before)
        return after

    async def _find_out(self, trip_id: str, concerned: list[vehicles.Stored]) -> None:
        """Tells what became of a change whose COMMIT was not answered, as soon as the database says."""
        while True:
            await asyncio.sleep(FIND_OUT_SECONDS)
            try:
                async with self._database.connection() as connection:
                    trip = await trips.get(connection, trip_id)
                    states = [await self._state(connection, vehicle) for vehicle in concerned]
            except StoreWentBack:
                return
            except StoreUnavailable:
                continue
            if trip is not None:
                self._tell(trip, states)
            return

    @unlocked
    async def delete(
        self, trip_id: str, *, allowed: Callable[[Trip], bool], record: Callable[[Connection], Awaitable[None]]
    ) -> None:
        """Removes a trip that is not under way (`conflict` otherwise). What its vehicles hold of it goes later (`erasure`).

        `record` records it, in the same transaction.
        """
        async with self._database.transaction() as connection:
            trip = await trips.lock(connection, trip_id)
            if trip is None or not allowed(trip):
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            if trip.status.under_way:
                raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: cancel or complete it first")
            # All that drove it: each may have fixes to come of that time.
            drove = await vehicles.lock_those_of_trip(connection, trip.number)
            await erasures.begin_trip(connection, trip, self._clock())
            await record(connection)
            states = [await self._state(connection, vehicle) for vehicle in drove]
        has_it = trip.vehicle.vehicle_id if trip.vehicle is not None else None
        for vehicle_id, spans, current in states:
            self._sources.changed(vehicle_id, spans, current)
            self._hub.fleets.set_trip(vehicle_id, current)
            self._hub.fleets.forget_trip(vehicle_id, trip_id)
            driver = self._hub.drivers.get(vehicle_id)
            if driver is not None and not trip.status.over and vehicle_id == has_it:
                driver.tell_trip(msgspec.structs.replace(trip, vehicle=None))
        self._hub.trip_gone(trip_id)
        self._hub.fleets.trip_gone(trip)
        self.on_erased(set())

    async def _change(
        self,
        connection: Connection,
        trip: Trip,
        status: TripStatus | None,
        vehicle_id: str | UnsetType | None,
        route: dict[str, Any] | UnsetType | None,
    ) -> list[vehicles.Stored] | None:
        """Stores the change and returns the vehicles it concerns, None where nothing changes."""
        now = self._clock()
        old = await vehicles.lock(connection, trip.vehicle.vehicle_id) if trip.vehicle is not None else None
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
        await self._move_spans(connection, trip, next_status, old, new, now)
        await trips.update(
            connection,
            msgspec.structs.replace(
                trip,
                status=next_status,
                version=trip.version + 1,
                route=trip.route if route is UNSET else route,
                started_at=now if trip.started_at is None and next_status.under_way else trip.started_at,
                ended_at=now if next_status.over and not trip.status.over else trip.ended_at,
            ),
            vehicle=new.number if new is not None else None,
        )
        # One that drove it and is another fleet's now is not told of it.
        concerned = {
            vehicle.number: vehicle
            for vehicle in (old, new)
            if vehicle is not None and vehicle.vehicle.fleet_id == trip.fleet_id
        }
        return list(concerned.values())

    async def _vehicle_for(self, connection: Connection, vehicle_id: str, fleet_id: str) -> vehicles.Stored:
        """The vehicle that one more trip is for, its row locked."""
        vehicle = await _vehicle_of_fleet(connection, vehicle_id, fleet_id)
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
    ) -> None:
        if trip.status.under_way and (not status.under_way or new is not old):
            await trips.close_span(connection, trip.number, now)
        if status.under_way and (not trip.status.under_way or new is not old):
            assert new is not None
            try:
                await trips.open_span(connection, trip.number, new.number, now)
            except asyncpg.UniqueViolationError:
                raise Refusal(
                    ErrorCode.CONFLICT, f"vehicle {new.vehicle.vehicle_id} is under way on another trip: end that one first"
                ) from None

    async def _state(self, connection: Connection, vehicle: vehicles.Stored) -> VehicleTrips:
        spans = (await newest_spans(connection, [vehicle.number], self._clock())).get(vehicle.number, [])
        return vehicle.vehicle.vehicle_id, spans, await trips.current_of_vehicle(connection, vehicle.number)

    def _tell(self, trip: Trip, states: list[VehicleTrips], *, taken_from: str | None = None) -> None:
        for vehicle_id, spans, current in states:
            self._sources.changed(vehicle_id, spans, current)
            self._hub.fleets.set_trip(vehicle_id, current)
        self._hub.trip_changed(trip)
        self._hub.fleets.trip_changed(trip)
        has_it = trip.vehicle.vehicle_id if trip.vehicle is not None else None
        for vehicle_id, _, current in states:
            driver = self._hub.drivers.get(vehicle_id)
            if driver is None:
                continue
            if vehicle_id == has_it:
                driver.tell_trip(trip)
            elif vehicle_id == taken_from:
                driver.tell_trip(msgspec.structs.replace(trip, vehicle=None))
            if current is not None and trip.status.over:
                driver.tell_trip(current)
            driver.ask_interval(self._hub.interval_for(current))

    def vehicle_changed(self, stored: vehicles.Stored, open_trips: Sequence[Trip], *, created: bool = False) -> None:
        """After COMMIT: the vehicle's name, kind or plate is another now, and who waits for it looks out for that."""
        vehicle = stored.vehicle
        numbers = self._numbers_of(vehicle.vehicle_id)
        is_another = numbers != {stored.number} if numbers else created
        if is_another and self.known(vehicle.vehicle_id) is not None:
            # What is known by this id was removed, and nobody told us: where it was is not this one's to show.
            self.vehicle_gone(vehicle.vehicle_id, [])
        source = self._sources.get(vehicle.vehicle_id)
        if source is not None:
            source.vehicle = vehicle
            source.joined_at = stored.joined_at
            source.trip = next((trip for trip in open_trips if source.trip and trip.number == source.trip.number), source.trip)
        self._hub.fleets.know(vehicle, stored.joined_at)
        for trip in open_trips:
            self._hub.trip_changed(trip)
            self._hub.fleets.trip_changed(trip)

    def known(self, vehicle_id: str) -> Vehicle | None:
        """The vehicle as it is in memory."""
        live, source = self._hub.fleets.vehicles.get(vehicle_id), self._sources.get(vehicle_id)
        return live.vehicle if live is not None else source.vehicle if source is not None else None

    def _numbers_of(self, vehicle_id: str) -> set[int]:
        """The store's numbers that the vehicle is known by in memory: more than one where it was made anew."""
        live, source = self._hub.fleets.vehicles.get(vehicle_id), self._sources.get(vehicle_id)
        numbers = {source.number} if source is not None else set()
        return numbers | {live.position.vehicle} if live is not None and live.position is not None else numbers

    async def look_up_vehicle(self, vehicle_id: str) -> None:
        """Tells how the vehicle is, where it is not known what became of a change. Raises `StoreUnavailable`."""
        live = self._hub.fleets.vehicles.get(vehicle_id)
        concerned = {live.trip.trip_id} if live is not None and live.trip is not None else set()
        for feed in self._hub.feeds.values():
            if feed.trip.vehicle is not None and feed.trip.vehicle.vehicle_id == vehicle_id:
                concerned.add(feed.trip.trip_id)
        async with self._database.transaction() as connection:
            # Locked: what is being committed still is waited for.
            stored = await vehicles.lock(connection, vehicle_id)
            open_trips = await trips.open_of_vehicle(connection, stored.number) if stored is not None else []
            state = await self._state(connection, stored) if stored is not None else None
            found = [await trips.get(connection, trip_id) for trip_id in concerned]
        others = [
            trip for trip in found if trip is not None and (trip.vehicle is None or trip.vehicle.vehicle_id != vehicle_id)
        ]
        if stored is None or state is None:
            # Though it is not known: it may be about to be, where a row of it was read before.
            self.vehicle_gone(vehicle_id, others)
            return
        self.vehicle_changed(stored, open_trips)
        _, spans, current = state
        self._sources.changed(vehicle_id, spans, current)
        self._hub.fleets.set_trip(vehicle_id, current)
        for trip in others:
            self._hub.trip_changed(trip)
            self._hub.fleets.trip_changed(trip)

    def vehicle_gone(self, vehicle_id: str, left: Sequence[Trip]) -> None:
        """After COMMIT: the vehicle was removed, and `left` are the trips that it was to drive."""
        self.on_erased(self._numbers_of(vehicle_id))
        self._sources.forget(vehicle_id)
        self._hub.fleets.forget(vehicle_id)
        driver = self._hub.drivers.get(vehicle_id)
        if driver is not None:
            driver.close(CloseCode.NOT_FOUND)
        for trip in left:
            self._hub.trip_changed(trip)
            self._hub.fleets.trip_changed(trip)
        # Last, so that no snapshot names it.
        self._hub.vehicle_gone(vehicle_id)


def check_version(trip: Trip, version: int) -> None:
    """Raises `Refusal` (`conflict`) where it is not the trip's."""
    if version != trip.version:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"the trip is at version {trip.version}, you sent {version}: read it again and decide anew",
            field="version",
        )


def _new_trip_id() -> str:
    """144 random bits, as text that begins with a letter or digit: a spreadsheet would take `-` for the start of a formula."""
    while not (trip_id := secrets.token_urlsafe(18))[0].isalnum():
        pass
    return trip_id


async def _vehicle_of_fleet(connection: Connection, vehicle_id: str, fleet_id: str) -> vehicles.Stored:
    vehicle = await vehicles.lock(connection, vehicle_id, fleet_id)
    if vehicle is None:
        raise Refusal(ErrorCode.NOT_FOUND, f"fleet {fleet_id} has no vehicle {vehicle_id}", field="vehicle_id")
    return vehicle
