"""The nearest vehicles on real PostGIS, compared with distances to all of them; and pages of a fleet."""

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.positions import BEGIN, a_position
from tracking.demo.postgres import Cluster
from tracking.geo import distance
from tracking.model import Fleet, Place, Vehicle
from tracking.store import fleets, latest_positions, nearest, trips, vehicles
from tracking.store.pool import Connection, Database

HOME = (47.141, 9.521)


@pytest.fixture(scope="module")
async def store(cluster: Cluster, template: str) -> AsyncIterator[Database]:
    cluster.create_database("nearest", template)
    database = Database(cluster.url("nearest"))
    await database.open()
    yield database
    await database.close()
    cluster.drop_database("nearest")


@pytest.fixture
async def connection(store: Database) -> AsyncIterator[Connection]:
    async with store.connection() as connection:
        await connection.execute("TRUNCATE latest_positions, trips, vehicles, fleets CASCADE")
        yield connection


async def seen(connection: Connection, places: Sequence[tuple[float, float]], fleet_id: str = "fleet") -> list[int]:
    """Makes a vehicle at each of the places, named fleet-0000 and so on. Returns their numbers."""
    async with connection.transaction():
        await fleets.put(connection, Fleet(fleet_id, "Fleet"))
        numbers = []
        for number in range(len(places)):
            stored, _ = await vehicles.put(connection, Vehicle(f"{fleet_id}-{number:04}", fleet_id))
            numbers.append(stored.number)
        await latest_positions.move(
            connection,
            [
                a_position(number, 1, 1, latitude=latitude, longitude=longitude, fix_time=BEGIN)
                for number, (latitude, longitude) in zip(numbers, places, strict=True)
            ],
        )
    return numbers


def measured(places: Sequence[tuple[float, float]], latitude: float, longitude: float) -> list[float]:
    return [distance(latitude, longitude, *place) for place in places]


_near_home = st.tuples(st.floats(46.9, 47.4), st.floats(9.2, 9.9))
_anywhere = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
_at_the_date_line = st.tuples(st.floats(-18, -16), st.one_of(st.floats(179, 180), st.floats(-180, -179)))
_at_a_pole = st.tuples(st.floats(89, 90), st.floats(-180, 180))
_region = st.sampled_from([_near_home, _anywhere, _at_the_date_line, _at_a_pole])


@given(_region.flatmap(lambda place: st.tuples(place, st.lists(place, min_size=1, max_size=40))), st.integers(1, 12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_nearest_are_those_of_the_fewest_metres(
    store: Database, drawn: tuple[tuple[float, float], list[tuple[float, float]]], limit: int
) -> None:
    here, places = drawn
    async with store.connection() as connection:
        await connection.execute("TRUNCATE latest_positions, trips, vehicles, fleets CASCADE")
        await seen(connection, places)
        await seen(connection, [here], "others")
        # Otherwise so small a table would be read whole.
        await connection.execute("SET enable_seqscan = off; SET enable_sort = off")
        found = await nearest.nearest(connection, "fleet", *here, limit)
        await connection.execute("RESET enable_seqscan; RESET enable_sort")
    expected = sorted(measured(places, *here))[:limit]
    assert [near.distance for near in found] == pytest.approx(expected, abs=0.01, rel=1e-6)
    for near in found:
        assert measured([(near.seen.latitude, near.seen.longitude)], *here) == pytest.approx(
            [near.distance], abs=0.01, rel=1e-6
        )


@pytest.mark.parametrize("longitude", [1.3e-31, 1e-9, 1.7e-8, 1e-7])
async def test_a_car_on_the_meridian_of_greenwich(connection: Connection, longitude: float) -> None:
    """Distances of PostGIS and of its index differ by nanometres. PostgreSQL takes this for a fault."""
    await seen(connection, [(0.0, 0.0), (0.0, 1.0)])
    await connection.execute("SET enable_seqscan = off; SET enable_sort = off")
    found = await nearest.nearest(connection, "fleet", 0.0, longitude, 2)
    await connection.execute("RESET enable_seqscan; RESET enable_sort")
    assert [near.vehicle.vehicle_id for near in found] == ["fleet-0000", "fleet-0001"]


async def test_a_degree_of_longitude_is_less_far_than_one_of_latitude(connection: Connection) -> None:
    latitude, longitude = HOME
    await seen(connection, [(latitude + 0.01, longitude), (latitude, longitude + 0.014)])
    found = await nearest.nearest(connection, "fleet", latitude, longitude, 2)
    assert [near.vehicle.vehicle_id for near in found] == ["fleet-0001", "fleet-0000"]
    assert found[0].distance == pytest.approx(1059, abs=1)


async def test_across_the_date_line_is_near(connection: Connection) -> None:
    await seen(connection, [(-17.0, -179.99), (-17.0, 179.9)])
    found = await nearest.nearest(connection, "fleet", -17.0, 179.99, 2)
    assert [near.vehicle.vehicle_id for near in found] == ["fleet-0000", "fleet-0001"]


@pytest.mark.parametrize("fleet_id, number", [("small", 30), ("large", 20_000)])
async def test_a_fleet_is_found_by_the_index_however_small_or_large_it_is(
    connection: Connection, fleet_id: str, number: int
) -> None:
    """Thirty vehicles far from twenty thousand others: few rows are read to find ten."""
    await seen(connection, [(0.0, 0.0)] * 1, "small")
    await seen(connection, [(0.0, 0.0)] * 1, "large")
    await connection.execute(
        """
        INSERT INTO vehicles (vehicle_id, fleet_id)
        SELECT 'more-' || n, CASE WHEN n <= 30 THEN 'small' ELSE 'large' END FROM generate_series(1, 20030) n;
        INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
        SELECT vehicle, fleet, now(), now(), ST_SetSRID(ST_MakePoint(9.4 + random() * 0.3, 47 + random() * 0.3), 4326)
        FROM vehicles JOIN fleets USING (fleet_id) WHERE vehicle_id LIKE 'more-%';
        ANALYZE latest_positions, vehicles, fleets;
        """
    )
    before = await rows_read(connection)
    found = await nearest.nearest(connection, fleet_id, *HOME, 10)
    read = await rows_read(connection) - before
    assert len(found) == 10
    assert all(near.vehicle.fleet_id == fleet_id for near in found)
    assert read < 200, f"{read} rows read for 10 of {number}"


async def test_the_available_are_found_by_the_index_too(connection: Connection) -> None:
    """Twenty fleets of a thousand vehicles, nine in ten on a trip. All reported after the planner's statistics were made."""
    await connection.execute(
        """
        INSERT INTO fleets (fleet_id, name) SELECT 'many-' || n, '' FROM generate_series(0, 19) n;
        INSERT INTO vehicles (vehicle_id, fleet_id) SELECT 'many-' || n, 'many-' || n % 20 FROM generate_series(1, 20000) n;
        INSERT INTO trips (trip_id, fleet_id, vehicle, pickup, dropoff, created_at)
        SELECT vehicle_id, fleet_id, vehicle, '{}', '{}', now() FROM vehicles WHERE vehicle / 20 % 10 <> 0;
        INSERT INTO latest_positions (vehicle, fleet, fix_time, server_time, point)
        SELECT vehicle, fleet, '2020-01-01'::timestamptz - random() * interval '1 h', now(),
            ST_SetSRID(ST_MakePoint(9.4 + random() * 0.3, 47 + random() * 0.3), 4326)
        FROM vehicles JOIN fleets USING (fleet_id);
        ANALYZE latest_positions, vehicles, fleets, trips;
        UPDATE latest_positions SET fix_time = now();
        """
    )
    before = await rows_read(connection)
    found = await nearest.nearest(connection, "many-7", *HOME, 10, available_since=BEGIN)
    read = await rows_read(connection) - before
    assert len(found) == 10
    assert read < 500, f"{read} rows read for 10 of 100 of 1,000"


async def rows_read(connection: Connection) -> int:
    """Rows of `latest_positions` that this session's statements read from the table or its indices."""
    await connection.execute("SELECT pg_stat_force_next_flush()")
    count: int = await connection.fetchval(
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relname = 'latest_positions'"
    )
    return count


async def test_available_is_who_has_no_trip_and_was_heard_of(connection: Connection) -> None:
    numbers = await seen(connection, [(47.141 + n * 0.001, 9.521) for n in range(5)])
    place = Place(47.1, 9.5)
    for trip_id, vehicle in (("waits", numbers[0]), ("over", numbers[1]), ("nobody's", None)):
        await trips.insert(
            connection,
            trip_id=trip_id,
            fleet_id="fleet",
            vehicle=vehicle,
            pickup=place,
            dropoff=place,
            stops=(),
            route=None,
            now=BEGIN,
        )
    await connection.execute("UPDATE trips SET status = 'complete' WHERE trip_id = 'over'")
    await connection.execute(
        "UPDATE latest_positions SET fix_time = $2 WHERE vehicle = ANY($1::int[])", [numbers[2]], BEGIN - 1
    )

    async def found(available_since: int | None) -> list[str]:
        near = await nearest.nearest(connection, "fleet", *HOME, 10, available_since=available_since)
        return [one.vehicle.vehicle_id[-1] for one in near]

    assert await found(None) == ["0", "1", "2", "3", "4"]
    assert await found(BEGIN) == ["1", "3", "4"]
    assert await found(BEGIN - 1) == ["1", "2", "3", "4"]
    assert await found(BEGIN + 1) == []


async def test_a_vehicle_is_found_in_the_fleet_it_was_moved_to(connection: Connection) -> None:
    [number] = await seen(connection, [HOME], "first")
    await seen(connection, [(47.2, 9.6)], "second")
    await vehicles.put(connection, Vehicle("first-0000", "second"), BEGIN + 1)

    async def found(fleet_id: str) -> list[str]:
        return [near.vehicle.vehicle_id for near in await nearest.nearest(connection, fleet_id, *HOME, 10)]

    async def is_at(fix_time: int, server_time: int) -> None:
        place = a_position(number, 1, 1, latitude=HOME[0], longitude=HOME[1], fix_time=fix_time, server_time=server_time)
        await latest_positions.move(connection, [place])

    assert await found("first") == []
    await is_at(BEGIN, BEGIN + 1)
    assert await found("second") == ["second-0000"]
    # It has a fast clock, and came before.
    await is_at(BEGIN + 50_000, BEGIN)
    assert await found("second") == ["second-0000"]
    await is_at(BEGIN + 1, BEGIN + 1)
    assert await found("second") == ["first-0000", "second-0000"]
    assert await found("first") == []


async def test_pages_follow_one_another_and_miss_nobody(connection: Connection) -> None:
    await seen(connection, [HOME] * 7)
    await vehicles.put(connection, Vehicle("fleet-0003a", "fleet"))
    await seen(connection, [HOME], "other")
    names: list[str] = []
    while page := await nearest.page(connection, "fleet", 3, after=names[-1] if names else ""):
        names += [vehicle.vehicle_id for vehicle, _ in page]
    assert names == sorted([*(f"fleet-{n:04}" for n in range(7)), "fleet-0003a"])
    ((vehicle, last),) = await nearest.page(connection, "fleet", 1, after="fleet-0003")
    assert (vehicle.vehicle_id, last) == ("fleet-0003a", None)


UNACCENTED = str.maketrans("äö", "ao")


@given(st.text("ab%_\\' äÖ", max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_search_means_its_characters_and_no_pattern(store: Database, search: str) -> None:
    texts = ("ab", "A%b", "a_b", "a\\b", "\\%", "%_", "ÄÖ ab", "a'b", "")
    async with store.transaction() as connection:
        await connection.execute("TRUNCATE latest_positions, trips, vehicles, fleets CASCADE")
        await fleets.put(connection, Fleet("fleet", "Fleet"))
        for number, text in enumerate(texts):
            await vehicles.put(connection, Vehicle(f"v.{2 * number:02}", "fleet", name=text))
            await vehicles.put(connection, Vehicle(f"v.{2 * number + 1:02}", "fleet", plate=text))
        found = await nearest.page(connection, "fleet", 100, search=search)
    # A plate is also found without its spaces, and accents do not matter.
    words = search.lower().translate(UNACCENTED).split()
    expected = [
        f"v.{2 * n + of:02}"
        for n, text in enumerate(texts)
        for of, within in ((0, text), (1, f"{text} {text.replace(' ', '')}"))
        if all(word in within.lower().translate(UNACCENTED) for word in words)
    ]
    assert [vehicle.vehicle_id for vehicle, _ in found] == expected
    assert all(last is None for _, last in found)
