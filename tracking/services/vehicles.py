"""Vehicles: create, change and remove them, and move them between fleets."""

from collections.abc import Awaitable, Callable

from tracking import caps
from tracking.errors import ErrorCode, Refusal
from tracking.live.follower import Transactions
from tracking.model import Clock, Vehicle
from tracking.services.trips import NOT_FOUND, tell_trip
from tracking.store import erasures, fleets, trips, vehicles
from tracking.store.changes import ChangeKind, as_json
from tracking.store.pool import Connection, unlocked
from tracking.store.vehicles import Stored


class Vehicles:
    """Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(self, follower: Transactions, clock: Clock, *, per_fleet: int) -> None:
        """`per_fleet` limits the vehicles of a fleet."""
        self._follower = follower
        self._clock = clock
        self._per_fleet = per_fleet

    @unlocked
    async def put(self, vehicle: Vehicle, *, own: str | None) -> bool:
        """Store the vehicle; return True if it is new.

        `own` is the fleet of a dispatcher, who may change its vehicles but create none. It is None for a service, which may do
        both in every fleet.
        """
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            before = await vehicles.lock(connection, vehicle.vehicle_id, own)
            if before is None and own is not None:
                raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)
            moves = before is not None and before.vehicle.fleet_id != vehicle.fleet_id
            if before is not None and moves:
                await _refuse_with_trips(connection, before)
            if await fleets.get(connection, vehicle.fleet_id) is None:
                raise Refusal(ErrorCode.NOT_FOUND, f"there is no fleet {vehicle.fleet_id}: PUT it first", field="fleet_id")
            if before is None or moves:
                count = await fleets.vehicles_with_one_more(connection, vehicle.fleet_id, self._per_fleet)
                what = f"fleet {vehicle.fleet_id} would have {count} vehicles"
                caps.hold(count, self._per_fleet, what, "vehicles_per_fleet", "delete some, or divide the fleet")
            stored, created = await vehicles.put(connection, vehicle, self._clock())
            if before is not None and moves:
                # The old fleet learns that it is gone, but not where it went.
                transaction.tell(
                    ChangeKind.VEHICLE_DELETED,
                    vehicle.vehicle_id,
                    fleet_id=before.vehicle.fleet_id,
                    vehicle=stored.number,
                    public={"vehicle_id": vehicle.vehicle_id},
                    internal={"moved": True},
                )
            transaction.tell(
                ChangeKind.VEHICLE_CHANGED,
                vehicle.vehicle_id,
                fleet_id=vehicle.fleet_id,
                vehicle=stored.number,
                public=as_json(vehicle),
            )
            return created

    @unlocked
    async def remove(
        self, vehicle_id: str, *, own: str | None, record: Callable[[Connection], Awaitable[None]]
    ) -> Stored | None:
        """Remove the vehicle and return it; None if it does not exist. Its stored data is removed later (`erasure`).

        `own` is as for `put`. `record` records the removal in the same transaction.
        """
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            stored = await vehicles.lock(connection, vehicle_id, own)
            if stored is None:
                return None
            for trip in await trips.open_of_vehicle(connection, stored.number):
                if trip.status.under_way:
                    raise Refusal(ErrorCode.CONFLICT, f"the vehicle is under way on trip {trip.trip_id}: end that first")
            left = await trips.unassign(connection, stored.number)
            transaction.number = await erasures.begin(connection, stored.number, self._clock())
            await record(connection)
            for trip in left:
                tell_trip(transaction, ChangeKind.TRIP_CHANGED, trip, None, [])
            return stored


async def _refuse_with_trips(connection: Connection, stored: Stored) -> None:
    """Raises `Refusal` if the vehicle has open trips. Else the passengers of the old fleet would follow it to the new one."""
    for trip in await trips.open_of_vehicle(connection, stored.number):
        raise Refusal(
            ErrorCode.CONFLICT, f"trip {trip.trip_id} of its fleet waits for the vehicle: end it, or give it another one"
        )
