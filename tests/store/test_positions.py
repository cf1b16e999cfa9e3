"""Positions on real PostGIS: the rows that the hub packs are what is stored, and short tracks are whole."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.positions import BEGIN, DAY, a_position, a_vehicle
from tracking.demo.postgres import Cluster
from tracking.model import Place, Suspicion
from tracking.store import positions, tracks, trip_lines, trips
from tracking.store.pool import Database

REALS = ("accuracy", "altitude", "speed", "bearing", "battery")
_real = st.floats(allow_nan=False, allow_infinity=False)
_known = st.none() | _real


@pytest.fixture(scope="module")
async def store(cluster: Cluster, template: str) -> AsyncIterator[Database]:
    cluster.create_database("positions", template)
    database = Database(cluster.url("positions"))
    await database.open()
    async with database.connection() as connection:
        await positions.ensure_partition(connection, DAY)
    yield database
    await database.close()
    cluster.drop_database("positions")


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(1, 2**31 - 1),
            st.floats(-90, 90),
            st.floats(-180, 180),
            st.tuples(_known, _known, _known, _known, _known),
            st.lists(st.sampled_from(list(Suspicion)), unique=True, max_size=6),
        ),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_row_comes_back_as_it_was(
    store: Database, rows: list[tuple[int | None, float, float, tuple[float | None, ...], list[Suspicion]]]
) -> None:
    accepted = [
        a_position(
            999_999,
            1,
            seq,
            latitude=latitude,
            longitude=longitude,
            trip=trip,
            suspect=tuple(suspect),
            **dict(zip(REALS, reals, strict=True)),
        )
        for seq, (trip, latitude, longitude, reals, suspect) in enumerate(rows, 1)
    ]
    async with store.connection() as connection:
        await connection.execute("DELETE FROM positions WHERE vehicle = 999999")
        await positions.insert(connection, accepted)
        stored = await connection.fetch(
            """
            SELECT seq, fix_time, server_time, ST_Y(point) AS latitude, ST_X(point) AS longitude, ST_SRID(point) AS srid,
                accuracy, altitude, speed, bearing, battery, trip, coalesce(suspect, '{}') AS suspect
            FROM positions WHERE vehicle = 999999 ORDER BY seq
            """
        )
    assert [dict(row) for row in stored] == [
        {
            **{name: getattr(p, name) for name in ("seq", "fix_time", "server_time", "latitude", "longitude", *REALS, "trip")},
            "srid": 4326,
            "suspect": [flag.value for flag in p.suspect],
        }
        for p in accepted
    ]


async def test_short_tracks_together_are_the_tracks_one_by_one(store: Database) -> None:
    """Trips of two vehicles, also after midnight, without doubted fixes. Long trips are left out."""
    cars = [await a_vehicle(store, f"short-{n}") for n in range(2)]
    numbers: list[int] = []
    place = Place(47, 9)
    async with store.transaction() as connection:
        await positions.ensure_partition(connection, DAY + 1)
        for n in range(4):
            made = await trips.insert(
                connection,
                trip_id=f"short-{n}",
                fleet_id="fleet",
                vehicle=None,
                pickup=place,
                dropoff=place,
                stops=(),
                route=None,
                now=BEGIN,
            )
            numbers.append(made.number)
        both, long, other, _ = numbers
        for trip, (vehicle, _), begin, end in (
            (both, cars[0], 0, 99),
            (both, cars[1], 100, 100_000),
            (long, cars[0], 1_000, 2_000),
            (other, cars[0], 3_000, 3_100),
        ):
            await connection.execute(
                "INSERT INTO trip_spans (trip, vehicle, started_at, ended_at) VALUES ($1, $2, $3, $4)",
                trip,
                vehicle,
                BEGIN + begin * 1000,
                BEGIN + end * 1000,
            )
        driven = [
            *(a_position(*cars[0], seq, trip=both) for seq in (30, 10, 20)),
            a_position(*cars[0], 40, trip=both, suspect=(Suspicion.JUMP,)),
            *(a_position(*cars[1], seq, trip=both) for seq in (90_000, 110)),
            *(a_position(*cars[0], seq, trip=long) for seq in range(1_001, 1_002 + trip_lines.SHORT)),
            *(a_position(*cars[0], seq, trip=other) for seq in range(3_001, 3_001 + trip_lines.SHORT)),
            a_position(*cars[0], 5_000, trip=other),
        ]
        await positions.insert(connection, [position for position in driven if position.seq != 3_200])
        found = await trip_lines.short_tracks(connection, numbers)
    for number in numbers:
        alone = [row async for rows in tracks.of_trip(store, number, suspect=False) for row in rows]
        assert found.get(number, alone) == alone
    assert sorted(found) == sorted({*numbers} - {long})
    assert [row.seq for row in found[both]] == [10, 20, 30, 110, 90_000]
    assert len(found[other]) == 100


async def test_two_at_once_make_the_same_day(database_url: str) -> None:
    first, second = [await asyncpg.connect(database_url) for _ in range(2)]
    make = "SELECT ensure_positions_partition('2031-01-01')"
    waits = """
        SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
    """
    async with first.transaction():
        await first.execute(make)
        making = asyncio.create_task(second.execute(make))
        async with asyncio.timeout(10):
            while not await first.fetchval(waits):
                await asyncio.sleep(0.01)
    await making
    assert await second.fetchval("SELECT to_regclass('positions_20310101') IS NOT NULL")
    for connection in (first, second):
        await connection.close()
