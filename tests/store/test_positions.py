"""Positions on real PostGIS: what is packed by hand is what is stored, and the newest is found however late it was noted."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracking.demo.postgres import Cluster
from tracking.errors import StoreUnavailable
from tracking.ingest.latest import Latest
from tracking.model import Fleet, Place, Position, Suspicion, Vehicle
from tracking.store import erasures, fleets, latest_positions, positions, sessions, tracks, trip_lines, trips, vehicles
from tracking.store.days import DAY_MS
from tracking.store.pool import Database

DAY = 20_400
BEGIN = DAY * DAY_MS + 43_200_000

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


async def a_vehicle(store: Database, name: str) -> tuple[int, int]:
    """The numbers of a new vehicle and of a session of it."""
    async with store.connection() as connection:
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        stored, _ = await vehicles.put(connection, Vehicle(name, "fleet"))
        session, _ = await sessions.open(connection, stored.number, "session")
    return stored.number, session


def a_position(vehicle: int, session: int, seq: int, **changes: object) -> Position:
    position = Position(
        vehicle, "", session, seq, BEGIN + seq * 1000, BEGIN, 47.1, 9.5, None, None, 7.5, None, None, None, None, (), True
    )
    for name, value in changes.items():
        setattr(position, name, value)
    return position


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


async def test_the_newest_is_found_before_it_is_noted_and_after(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "newest")
    latest = Latest(store, interval=1.0)
    async with store.connection() as connection:
        assert (await latest_positions.newest(connection, [vehicle])).get(vehicle) is None
        first, second = (a_position(vehicle, session, seq) for seq in (1, 2))
        await positions.insert(connection, [first])
        latest.note(first)
        await latest.flush()
        await positions.insert(connection, [second, a_position(vehicle, session, 3, suspect=(Suspicion.JUMP,))])
        found = (await latest_positions.newest(connection, [vehicle])).get(vehicle)
        assert found is not None
        assert (found.fix_time, found.speed) == (second.fix_time, 7.5)
        # Where its partition is gone, what was noted of it is left.
        await connection.execute("DELETE FROM positions WHERE vehicle = $1", vehicle)
        found = (await latest_positions.newest(connection, [vehicle])).get(vehicle)
        assert found is not None
        assert found.fix_time == first.fix_time


async def test_of_the_latest_only_a_newer_one_counts_and_none_of_a_vehicle_that_is_gone(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "latest")
    gone, _ = await a_vehicle(store, "gone")
    async with store.connection() as connection:
        await erasures.begin(connection, gone)
    latest = Latest(store, interval=1.0)
    for seq in (5, 3):
        latest.note(a_position(vehicle, session, seq))
        latest.note(a_position(gone, session, seq))
        await latest.flush()
    async with store.connection() as connection:
        rows = await connection.fetch(
            "SELECT vehicle, fix_time FROM latest_positions WHERE vehicle = ANY($1::int[])", [vehicle, gone]
        )
    assert [tuple(row) for row in rows] == [(vehicle, BEGIN + 5_000)]


async def test_what_was_noted_waits_for_a_database_that_is_away(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "away")
    away = Database("postgresql://nobody@127.0.0.1:1/none", timeout=1)
    await away.open()
    latest = Latest(away, interval=1.0)
    latest.note(a_position(vehicle, session, 1))
    with pytest.raises(StoreUnavailable):
        await latest.flush()
    latest._database = store
    await latest.flush()
    async with store.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM latest_positions WHERE vehicle = $1", vehicle) == 1
    await away.close()


async def test_a_table_that_refuses_is_tried_again_and_ends_nothing(store: Database) -> None:
    vehicle, session = await a_vehicle(store, "refused")
    latest = Latest(store, interval=0.01)
    async with store.connection() as connection:
        await connection.execute("ALTER TABLE latest_positions RENAME TO away")
        latest.note(a_position(vehicle, session, 1))
        with pytest.raises(asyncpg.UndefinedTableError):
            await latest.flush()
        running = asyncio.create_task(latest.run())
        done, _ = await asyncio.wait({running}, timeout=0.2)
        assert not done
        await connection.execute("ALTER TABLE away RENAME TO latest_positions")
        async with asyncio.timeout(10):
            while not await connection.fetchval("SELECT count(*) FROM latest_positions WHERE vehicle = $1", vehicle):
                await asyncio.sleep(0)
        running.cancel()


async def test_sessions_are_moved_and_what_is_not_as_known_is_told(store: Database) -> None:
    _, one = await a_vehicle(store, "one")
    _, two = await a_vehicle(store, "two")
    missing = 10**9
    async with store.connection() as connection:
        assert await sessions.move(connection, [one, two, missing], [5, 7, 9], [0, 0, 0]) == {missing: None}
        # A commit whose answer was lost, tried again with more: the row says what was in already, and never goes back.
        assert await sessions.move(connection, [one, two], [6, 4], [0, 7]) == {one: 5}
        assert await sessions.move(connection, [one, two], [6, 7], [6, 7]) == {}


async def test_short_tracks_together_are_the_tracks_one_by_one(store: Database) -> None:
    """Of two vehicles, after midnight too, without doubted fixes; a long one is left to who reads piece by piece."""
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
