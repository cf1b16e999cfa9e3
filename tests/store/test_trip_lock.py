"""What is read of a row that is locked is as it is once the lock is held."""

import asyncio

import asyncpg

from tests.faults.devices import until
from tracking.model import Fleet, Place, Trip, Vehicle
from tracking.store import fleets, trips, vehicles
from tracking.store.pool import Database


async def test_a_trip_that_got_another_vehicle_while_it_was_waited_for_has_that_one(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    place = Place(47.1, 9.5)
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", ""))
        first, second = [(await vehicles.put(connection, Vehicle(name, "fleet")))[0] for name in ("first", "second")]
        trip = await trips.insert(
            connection,
            trip_id="trip",
            fleet_id="fleet",
            vehicle=first.number,
            pickup=place,
            dropoff=place,
            stops=(),
            route=None,
            now=0,
        )
    witness = await asyncpg.connect(database_url)

    async def waits() -> bool:
        return bool(await witness.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    async def lock() -> Trip | None:
        async with database.transaction() as connection:
            return await trips.lock(connection, "trip")

    for vehicle in (second, None, first):
        async with database.transaction() as connection:
            await trips.update(connection, trip, vehicle=vehicle.number if vehicle is not None else None)
            locked = asyncio.create_task(lock())
            await until(waits, "the other waits for the row")
        found = await locked
        assert found is not None and found.vehicle == (vehicle.vehicle if vehicle is not None else None)
        assert found.vehicle_number == (vehicle.number if vehicle is not None else None)
    await witness.close()
    await database.close()
