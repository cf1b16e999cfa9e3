"""What a summary of a day counts, on real PostGIS: distance, stops, driving time, top speed."""

from itertools import pairwise
from math import cos, radians

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.drives import DEGREE, HOME, HOUR_MS, Step, Van, north, stand
from tests.support.parked import BEGIN as PARKED_SINCE
from tests.support.parked import Parked, shown
from tests.support.positions import BEGIN
from tracking.geo import distance
from tracking.model import Suspicion
from tracking.store.pool import Connection


async def test_a_drive_without_a_stop(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 3_000, 10))
    day = await van.summed()
    assert day.distance == pytest.approx(3_000, abs=0.5)
    assert (day.driving_time, day.stops, day.top_speed, day.positions) == (300, 0, 10, 301)
    assert (day.first_fix_time, day.last_fix_time) == (BEGIN, BEGIN + 300_000)


@pytest.mark.parametrize("seconds, stops", [(40, 0), (90, 1), (3_600, 1)])
@pytest.mark.parametrize("speed", [None, 0.0])
async def test_standing_is_a_stop_after_a_minute_and_its_jitter_is_no_way(
    connection: Connection, seconds: int, stops: int, speed: float | None
) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 1_000, 10))
    await van.drove(stand(101, seconds, 1_000, jitter=8, speed=speed))
    await van.drove(north(102 + seconds, 1_000, 10, start=1_000))
    day = await van.summed()
    assert day.stops == stops
    if stops:
        # The jitter of an hour would be twenty kilometres.
        assert day.distance == pytest.approx(2_000, abs=45)
        assert day.driving_time == pytest.approx(200, abs=12)


async def test_several_stops_are_several(connection: Connection) -> None:
    van = await Van.new(connection)
    for part in range(3):
        begin = part * 300
        await van.drove(north(begin, 1_000, 10, start=part * 1_000))
        await van.drove(stand(begin + 101, 150, (part + 1) * 1_000, jitter=5))
    day = await van.summed()
    assert day.stops == 3
    assert day.distance == pytest.approx(3_000, abs=60)


async def test_an_excursion_of_the_receiver_does_not_make_two_stops_of_one(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove([*stand(0, 300, 0, jitter=5), (301, 80, 60, None), (302, 85, 60, None), *stand(303, 300, 0, jitter=5)])
    day = await van.summed()
    assert day.stops == 1
    assert day.distance < 15
    assert day.driving_time == 0


async def test_a_receiver_that_drifts_while_it_reports_no_speed_stands(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove([(n, 60.0 * ((n // 20) % 2), 0.0, 0.2) for n in range(600)])
    day = await van.summed()
    assert (day.stops, day.driving_time) == (1, 0)


@pytest.mark.parametrize("speed, stops", [(0.8, 1), (1.3, 0)])
async def test_creeping_is_standing_below_a_metre_a_second(connection: Connection, speed: float, stops: int) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 70 * speed, speed, reported=False))
    assert (await van.summed()).stops == stops


async def test_silence_is_no_driving_but_the_way_counts(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 500, 10))
    await van.drove(north(50 + 301, 500, 10, start=4_500))
    day = await van.summed()
    assert day.distance == pytest.approx(5_000, abs=0.5)
    assert (day.driving_time, day.stops) == (100, 0)


async def test_parked_with_the_phone_off_is_one_stop(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove([(0, 0, 0, None), (7_200, 5, 0, None)])
    day = await van.summed()
    assert (day.stops, day.driving_time) == (1, 0)


async def test_doubted_fixes_do_not_count(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove(north(0, 1_000, 10))
    await van.drove([(50.5, 90_000, 0, 400.0)], suspect=(Suspicion.JUMP,))
    day = await van.summed()
    assert (day.top_speed, day.positions) == (10, 101)
    assert day.distance == pytest.approx(1_000, abs=0.5)


@pytest.mark.parametrize(
    "every, sigma, memory, most",
    [(1.0, 5.0, 120.0, 200), (5.0, 20.0, 120.0, 1_000), (5.0, 20.0, 0.0, 2_000), (10.0, 10.0, 300.0, 3_000)],
    ids=str,
)
@pytest.mark.parametrize("reports", [False, True], ids=["places alone", "speeds too"])
async def test_a_receiver_that_wanders_and_bounces_for_hours_drives_no_way(
    connection: Connection, every: float, sigma: float, memory: float, most: float, reports: bool
) -> None:
    """A vehicle stands for eight hours between two drives of 3 km. Of its filtered fixes only the drives count."""
    hours = 8.0
    parked = Parked(7, every, sigma, memory, reports, hours)
    fixes = shown(parked.fixes()).live
    van = await Van.new(connection)
    begin = BEGIN - 10 * HOUR_MS
    await van.drove(north(0, 3_000, 10, start=-3_000, reported=reports), begin=begin - 301_000)
    steps = [
        (
            (each.fix_time - PARKED_SINCE) / 1000,
            (each.latitude - HOME[0]) * DEGREE,
            (each.longitude - HOME[1]) * DEGREE * cos(radians(HOME[0])),
            each.speed if isinstance(each.speed, float) else None,
        )
        for each in fixes
    ]
    await van.drove(steps, begin=begin)
    await van.drove(north(0, 3_000, 10, reported=reports), begin=begin + round(hours * HOUR_MS) + 1_000)
    day = await van.summed()
    false = day.distance - 6_000
    print(
        f"parked {hours:g} h, every {every:g} s, sigma {sigma:g} m: {false:.0f} m too much, {day.stops} stops, "
        f"{day.driving_time - 600:.0f} s too long, top speed {day.top_speed}"
    )
    # Without the filters, the third case would have 200 km, and 300 km if they believed the bounces.
    assert -100 < false < most
    assert day.stops < 16
    assert -60 < day.driving_time - 600 < 600
    assert day.top_speed == (10.0 if reports else None)


async def test_across_the_date_line_is_not_around_the_world(connection: Connection) -> None:
    van = await Van.new(connection)
    await van.drove([(n, 0, 0, None) for n in range(200)])
    await connection.execute(
        """
        UPDATE positions SET point = ST_SetSRID(
            ST_MakePoint(CASE WHEN seq % 2 = 0 THEN 179.99995 ELSE -179.99995 END, -17), 4326
        )
        """
    )
    day = await van.summed()
    assert (day.stops, round(day.distance)) == (1, 11)


@given(st.lists(st.tuples(st.floats(60, 5_000), st.booleans(), st.integers(1, 290)), min_size=1, max_size=30))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_without_stops_the_distance_is_from_fix_to_fix(
    connection: Connection, legs: list[tuple[float, bool, int]]
) -> None:
    await connection.execute("DELETE FROM positions")
    van = await Van.new(connection)
    steps: list[Step] = [(0.0, 0.0, 0.0, None)]
    for metres, along, seconds in legs:
        time, northing, easting, _ = steps[-1]
        steps.append((time + seconds, northing + metres * along, easting + metres * (not along), None))
    made = await van.drove(steps)
    expected = sum(distance(a.latitude, a.longitude, b.latitude, b.longitude) for a, b in pairwise(made))
    day = await van.summed()
    assert day.distance == pytest.approx(expected, rel=1e-6)
    assert (day.stops, day.driving_time) == (0, sum(seconds for _, _, seconds in legs))
