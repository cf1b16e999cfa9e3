"""A row that is read with a lock has the values of the moment at which the lock is held."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from tests.support.devices import until
from tracking.model import Fleet, Place, Trip, Vehicle
from tracking.store import fleets, trips, vehicles
from tracking.store.pool import Connection, Database
from tracking.store.vehicles import Stored

Lock = Callable[[Connection, str], Awaitable[Trip | None]]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


async def make_vehicle(database: Database, name: str) -> Stored:
    async with database.transaction() as connection:
        await fleets.put(connection, Fleet("fleet", ""))
        return (await vehicles.put(connection, Vehicle(name, "fleet")))[0]


async def make_trip(database: Database, vehicle: Stored) -> Trip:
    place = Place(47.1, 9.5)
    async with database.transaction() as connection:
        return await trips.insert(
            connection,
            trip_id="trip",
            fleet_id="fleet",
            vehicle=vehicle.number,
            pickup=place,
            dropoff=place,
            stops=(),
            route=None,
            now=0,
        )


async def until_locks_are_waited_for(url: str) -> None:
    witness = await asyncpg.connect(url)

    async def waits() -> bool:
        return bool(await witness.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    await until(waits, "the other waits for the row")
    await witness.close()


async def lock_it(database: Database, lock: Lock) -> Trip | None:
    async with database.transaction() as connection:
        return await lock(connection, "trip")


@pytest.mark.parametrize("lock", [trips.lock, trips.lock_with_vehicle])
async def test_a_trip_that_got_another_vehicle_while_it_was_waited_for_has_that_one(
    database: Database, database_url: str, lock: Lock
) -> None:
    first, second = [await make_vehicle(database, name) for name in ("first", "second")]
    trip = await make_trip(database, first)
    for vehicle in (second, None, first):
        async with database.transaction() as connection:
            await trips.update(connection, trip, vehicle=vehicle.number if vehicle is not None else None)
            locked = asyncio.create_task(lock_it(database, lock))
            await until_locks_are_waited_for(database_url)
        found = await locked
        assert found is not None and found.vehicle == (vehicle.vehicle if vehicle is not None else None)
        assert found.vehicle_number == (vehicle.number if vehicle is not None else None)


@pytest.mark.parametrize("lock", [trips.lock, trips.lock_with_vehicle])
async def test_a_trip_that_got_a_vehicle_made_while_it_was_waited_for_has_that_one(
    database: Database, database_url: str, lock: Lock
) -> None:
    trip = await make_trip(database, await make_vehicle(database, "first"))
    async with database.transaction() as connection:
        await connection.execute("SELECT FROM trips WHERE trip_id = 'trip' FOR UPDATE")
        locked = asyncio.create_task(lock_it(database, lock))
        await until_locks_are_waited_for(database_url)
        new = await make_vehicle(database, "new")
        await trips.update(connection, trip, vehicle=new.number)
    found = await locked
    assert found is not None and found.vehicle == new.vehicle and found.vehicle_number == new.number


async def test_the_vehicle_is_locked_with_its_trip(database: Database, database_url: str) -> None:
    vehicle = await make_vehicle(database, "first")
    await make_trip(database, vehicle)

    async def rename() -> Stored:
        async with database.transaction() as connection:
            return (await vehicles.put(connection, Vehicle("first", "fleet", name="Van")))[0]

    async with database.transaction() as connection:
        trip = await trips.lock_with_vehicle(connection, "trip")
        assert trip is not None and trip.vehicle == vehicle.vehicle
        renaming = asyncio.create_task(rename())
        await until_locks_are_waited_for(database_url)
        assert not renaming.done()
    renamed = await renaming
    async with database.transaction() as connection:
        trip = await trips.lock_with_vehicle(connection, "trip")
    assert trip is not None and trip.vehicle == renamed.vehicle


async def test_a_vehicle_that_got_another_name_while_it_was_waited_for_is_called_that(
    database: Database, database_url: str
) -> None:
    await make_trip(database, await make_vehicle(database, "first"))
    async with database.transaction() as connection:
        renamed = (await vehicles.put(connection, Vehicle("first", "fleet", name="Van")))[0]
        locked = asyncio.create_task(lock_it(database, trips.lock_with_vehicle))
        await until_locks_are_waited_for(database_url)
    found = await locked
    assert found is not None and found.vehicle == renamed.vehicle
