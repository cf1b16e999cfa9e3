"""Vehicles and trips whose positions are written straight into the tables. Places are metres from home."""

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from math import cos, radians
from typing import Any

from tests.support.positions import BEGIN, DAY
from tracking.ingest.commit_queue import Entry
from tracking.ingest.vehicles import Session
from tracking.model import Fleet, Place, Position, Vehicle
from tracking.store import fleets, position_days, positions, sessions, trips, vehicle_days, vehicles
from tracking.store.days import DAY_MS
from tracking.store.pool import Connection, Database
from tracking.store.vehicle_days import VehicleDay

HOME = (47.141, 9.521)
HOUR_MS = 3_600_000
DEGREE = 111_195.08
"""Metres of a degree of latitude."""

Step = tuple[float, float, float, float | None]
"""Seconds since the beginning, metres north and east of home, speed."""


@contextlib.asynccontextmanager
async def store_with_fleet(database_url: str) -> AsyncIterator[Database]:
    """An open store that has the fleet of the vehicles."""
    database = Database(database_url)
    await database.open()
    async with database.connection() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
    yield database
    await database.close()


class Van:
    """A vehicle whose fixes are written straight into the table."""

    def __init__(self, connection: Connection, number: int, session: int) -> None:
        self.connection = connection
        self.number = number
        self.session = session
        self.seq = 0

    @classmethod
    async def new(cls, connection: Connection, vehicle_id: str = "van") -> "Van":
        stored, _ = await vehicles.put(connection, Vehicle(vehicle_id, "fleet"))
        session, _ = await sessions.open(connection, stored.number, "session")
        return cls(connection, stored.number, session)

    async def drove(
        self, steps: Sequence[Step], *, begin: int = BEGIN, trip: int | None = None, **fields: Any
    ) -> list[Position]:
        made = []
        for seconds, north, east, speed in steps:
            self.seq += 1
            fix_time = begin + round(seconds * 1000)
            made.append(
                Position(
                    self.number, "van", self.session, self.seq, fix_time, fields.get("server_time", fix_time), *at(north, east),
                    None, None, speed, None, None, trip, None, fields.get("suspect", ()), True,
                )
            )  # fmt: skip
        for day in {position.fix_time // DAY_MS for position in made}:
            await positions.ensure_partition(self.connection, day)
        await positions.insert(self.connection, made)
        return made

    async def summed(self) -> VehicleDay:
        found = await vehicle_days.day_now(self.connection, self.number, DAY)
        assert found is not None
        return found


def at(north: float, east: float) -> tuple[float, float]:
    latitude, longitude = HOME
    return latitude + north / DEGREE, longitude + east / DEGREE / cos(radians(latitude))


def north(begin: float, metres: float, speed: float, *, start: float = 0.0, reported: bool = True) -> list[Step]:
    """A fix a second, going north from `start` for so many metres, the last of them included."""
    seconds = int(metres / speed)
    return [(begin + n, start + n * speed, 0.0, speed if reported else None) for n in range(seconds + 1)]


def stand(
    begin: float, seconds: int, place: float, *, jitter: float = 0.0, speed: float | None = None, every: int = 1
) -> list[Step]:
    chance = random.Random(1)
    return [
        (begin + n, place + chance.uniform(-jitter, jitter), chance.uniform(-jitter, jitter), speed) for n in range(seconds + 1)
    ]


async def a_trip(connection: Connection, vehicle: int, begin: int, end: int | None, trip_id: str = "trip") -> int:
    place = Place(*HOME)
    trip = await trips.insert(
        connection,
        trip_id=trip_id,
        fleet_id="fleet",
        vehicle=vehicle,
        pickup=place,
        dropoff=place,
        stops=(),
        route=None,
        now=begin,
    )
    await trips.open_span(connection, trip.number, vehicle, begin)
    await connection.execute(
        "UPDATE trips SET started_at = $2, status = 'enroute_to_dropoff' WHERE trip = $1", trip.number, begin
    )
    if end is not None:
        await ended(connection, trip.number, end)
    return trip.number


async def ended(connection: Connection, trip: int, end: int) -> None:
    await trips.close_span(connection, trip, end)
    await connection.execute("UPDATE trips SET ended_at = $2, status = 'complete' WHERE trip = $1", trip, end)


def entries(made: Sequence[Position]) -> list[Entry]:
    session = Session(1, "session", 0)
    return [Entry(session, position.seq, position, None) for position in made]


async def line_of(connection: Connection, trip: int) -> list[tuple[float, float, float]]:
    """Longitude, latitude and fix time of each vertex of the trip's line."""
    rows = await connection.fetch(
        """
        SELECT ST_X(d.geom), ST_Y(d.geom), ST_M(d.geom) FROM trip_summaries, ST_DumpPoints(line) d
        WHERE trip = $1 ORDER BY d.path
        """,
        trip,
    )
    assert rows
    return [(row[0], row[1], row[2]) for row in rows]


async def partitions_of(connection: Connection) -> list[int]:
    return [found.day for found in await position_days.partitions(connection)]
