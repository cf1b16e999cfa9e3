import itertools
import random
from math import cos, hypot, radians

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driver_sim.motion import ACCELERATION, BRAKING, Moment, Motion, bearing
from driver_sim.receiver import Receiver, dead_zones, height
from driver_sim.roads import METRES_PER_DEGREE, Edge, RoadGraph, metres

GRAPH = RoadGraph.load()
NODES = sorted(GRAPH.nodes)


@st.composite
def ways(draw: st.DrawFn) -> list[Edge]:
    start, end = draw(st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda pair: pair[0] != pair[1]))
    return GRAPH.route(start, end)


def straight(length: float, limit: float) -> Edge:
    points = ((47.0, 9.5), (47.0 + length / METRES_PER_DEGREE, 9.5))
    return Edge(1, 2, points, length, limit, "", "primary", False, False)


@settings(deadline=None, max_examples=20)
@given(ways(), st.floats(0.8, 1.0))
def test_speed_and_acceleration_stay_within_bounds(way: list[Edge], haste: float) -> None:
    motion = Motion(way, haste=haste)
    step = 1.0
    moments = [motion.at(number * step) for number in range(int(motion.duration / step) + 2)]
    for moment in moments:
        assert 0.0 <= moment.speed <= moment.edge.limit * 1.05 + 0.01
    for one, other in itertools.pairwise(moments):
        assert -BRAKING * step - 0.01 <= other.speed - one.speed <= ACCELERATION * step + 0.01
        assert other.travelled >= one.travelled
        driven = metres((one.latitude, one.longitude), (other.latitude, other.longitude))
        assert driven <= max(one.speed, other.speed) * step + ACCELERATION * step * step + 0.5


@settings(deadline=None, max_examples=20)
@given(ways())
def test_a_motion_begins_and_ends_with_a_standstill(way: list[Edge]) -> None:
    motion = Motion(way)
    first, last = motion.at(0.0), motion.at(motion.duration)
    assert first.speed == 0.0
    assert last.speed == pytest.approx(0.0, abs=1e-6)
    assert metres((first.latitude, first.longitude), way[0].points[0]) < 0.1
    assert metres((last.latitude, last.longitude), way[-1].points[-1]) < 0.1
    assert motion.length == pytest.approx(sum(edge.length for edge in way), rel=1e-3, abs=1.0)
    assert motion.at(-5.0) == first
    assert motion.at(motion.duration + 5.0) == last


def test_a_straight_is_driven_with_the_given_acceleration() -> None:
    """Accelerating to 10 m/s at 1.5 m/s² takes 6.67 s and 33.3 m. Braking at 2 m/s² takes 5 s and 25 m."""
    motion = Motion([straight(1_000.0, 10.0)])
    assert motion.duration == pytest.approx(10 / 1.5 + 5 + (1_000 - 33.33 - 25) / 10, rel=0.02)
    assert motion.at(motion.duration / 2).speed == pytest.approx(10.0)
    assert motion.at(motion.duration / 2).bearing == pytest.approx(0.0)


def test_a_right_angle_is_not_taken_at_the_limit() -> None:
    corner = (47.0 + 200 / METRES_PER_DEGREE, 9.5)
    east = (corner[0], 9.5 + 200 / METRES_PER_DEGREE / cos(radians(corner[0])))
    bent = straight(200.0, 20.0)._replace(points=((47.0, 9.5), corner, east), length=400.0)
    motion = Motion([bent])
    speeds = [motion.at(second / 4) for second in range(int(motion.duration * 4))]
    at_corner = min(speeds, key=lambda moment: metres((moment.latitude, moment.longitude), corner))
    assert at_corner.speed < 8.0
    assert max(moment.speed for moment in speeds) > 12.0


def test_the_shortest_edge_can_be_driven() -> None:
    motion = Motion([straight(3.0, 10.0)])
    assert 0.0 < motion.duration < 10.0
    assert motion.at(motion.duration / 2).speed > 0.5


def test_edges_that_are_not_connected_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one edge"):
        Motion([])
    with pytest.raises(ValueError, match="connected"):
        Motion([straight(100.0, 10.0), straight(100.0, 10.0)])


@pytest.mark.parametrize(
    ("other", "degrees"), [((48.0, 9.0), 0.0), ((47.0, 10.0), 90.0), ((46.0, 9.0), 180.0), ((47.0, 8.0), 270.0)]
)
def test_bearings_turn_clockwise_from_north(other: tuple[float, float], degrees: float) -> None:
    assert bearing((47.0, 9.0), other) == pytest.approx(degrees)


# --- the receiver ---------------------------------------------------------------------------------------------------


def moment(speed: float = 10.0) -> Moment:
    return Moment(47.14, 9.52, speed, 90.0, 0.0, straight(100.0, 10.0))


def test_the_error_drifts_and_keeps_its_size() -> None:
    receiver = Receiver(random.Random(3), sigma=3.0)
    errors = []
    for _ in range(20_000):
        reading = receiver.read(moment(), 1.0)
        north = (reading.latitude - 47.14) * METRES_PER_DEGREE
        east = (reading.longitude - 9.52) * METRES_PER_DEGREE * cos(radians(47.14))
        errors.append((east, north))
    variance = sum(north * north for _, north in errors) / len(errors)
    together = sum(one[1] * other[1] for one, other in itertools.pairwise(errors)) / len(errors)
    assert variance == pytest.approx(9.0, rel=0.3)
    assert together / variance > 0.95, "the error jumps from fix to fix"
    assert max(hypot(one[0] - other[0], one[1] - other[1]) for one, other in itertools.pairwise(errors)) < 6.0


def test_a_standing_vehicle_has_no_bearing_and_a_moving_one_has() -> None:
    receiver = Receiver(random.Random(3))
    assert receiver.read(moment(0.0), 1.0).bearing is None
    assert receiver.read(moment(0.0), 1.0).speed == 0.0
    seen = receiver.read(moment(15.0), 1.0)
    assert seen.bearing == pytest.approx(90.0, abs=10.0)
    assert seen.speed == pytest.approx(15.0, abs=1.0)


@given(st.integers(), st.floats(0, 1e5), st.floats(0, 40))
def test_the_hub_accepts_every_reading(seed: int, since: float, speed: float) -> None:
    reading = Receiver(random.Random(seed)).read(moment(speed), since)
    assert 0.0 <= reading.battery <= 1.0
    assert 2.0 <= reading.accuracy < 60.0
    assert reading.speed >= 0.0
    assert reading.bearing is None or 0.0 <= reading.bearing < 360.0


def test_the_valley_is_low_and_malbun_is_high() -> None:
    assert 440 < height((47.141, 9.521)) < 480
    assert 1_500 < height((47.103, 9.608)) < 1_650


def test_no_dead_zone_is_in_the_town() -> None:
    zones = dead_zones(random.Random(1), list(GRAPH.nodes.values()), 5, spare=[(47.141, 9.521)])
    assert len(zones) == 5
    assert not any(zone.covers((47.141, 9.521)) for zone in zones)
    assert all(zone.covers(zone.centre) for zone in zones)
