"""The events of one vehicle, by a real monitor and a clock that the test sets."""

from collections import Counter
from typing import Any

import pytest

from tests.support.geofence_truth import METRES, Seen
from tests.support.monitoring import BEGIN, FLEET, Monitored
from tests.support.moves import EAST, INSIDE, OUTSIDE, YARD, at, kinds
from tests.support.parked import BEGIN as PARKED_SINCE
from tests.support.parked import Parked, place, shown
from tracking.model import Event, EventKind, Fix, Place, Trip, TripStatus, Vehicle


def test_a_measured_speed_counts_at_once_and_again_only_after_it_was_over() -> None:
    monitored = Monitored(speed_limit=20.0)
    told = [
        kinds(monitored.drive(at(i, north=20.0 * i), speed=speed))
        for i, speed in enumerate([19.9, 20.0, 20.1, 25.0, 19.5, 21.0, 19.0, 20.1])
    ]
    assert told == [[], [], ["speeding"], [], [], [], [], ["speeding"]]


def test_a_speed_worked_out_of_two_positions_counts_the_second_time() -> None:
    monitored = Monitored(speed_limit=20.0)
    north, told = 0.0, []
    for i, metres in enumerate([0, 15, 25, 15, 25, 26, 25]):
        north += metres
        told.append(monitored.drive(at(i, north=north)))
    assert [kinds(events) for events in told] == [[], [], [], [], [], ["speeding"], []]
    [speeding] = told[5]
    assert speeding.speed == pytest.approx(26.0, rel=1e-3)
    assert speeding.limit == 20.0


def test_no_speed_is_worked_out_over_a_gap_or_between_fixes_that_are_too_close() -> None:
    monitored = Monitored(speed_limit=20.0)
    assert kinds(monitored.drive(at(0), at(0.4, north=30), at(0.8, north=60))) == []
    monitored.drive(at(301, north=90_000), at(602, north=180_000))
    assert EventKind.SPEEDING not in [event.kind for event in monitored.told()]


def test_the_least_limit_counts_where_it_is() -> None:
    monitored = Monitored(speed_limit=20.0)
    monitored.put("yard", YARD, speed_limit=5.0)
    monitored.put("fast", YARD, speed_limit=40.0)
    assert kinds(monitored.drive(at(0, *OUTSIDE), speed=10.0)) == []
    told = monitored.drive(at(60, *INSIDE), speed=10.0)
    assert kinds(told) == ["enter", "enter", "speeding"]
    assert (told[-1].speed, told[-1].limit) == (10.0, 5.0)
    assert kinds(monitored.drive(at(120, *OUTSIDE), speed=10.0)) == ["exit", "exit"]
    # A limit that is taken away is no limit, from now on.
    monitored.change_fleet()
    assert kinds(monitored.drive(at(121, *OUTSIDE), speed=100.0)) == []


def test_idle_is_told_once_a_standstill() -> None:
    monitored = Monitored(idle_after=120.0, signal_lost_after=1e6)
    told = [kinds(monitored.drive(at(10 * i, north=29.0 * (i % 2)))) for i in range(40)]
    assert told.index(["idle"]) == 12
    assert told.count(["idle"]) == 1
    assert kinds(monitored.drive(at(400, north=1_000), at(515, north=1_000))) == []
    assert kinds(monitored.drive(at(520, north=1_000))) == ["idle"]


def test_off_route_is_told_the_second_time_and_only_on_the_way_to_the_dropoff() -> None:
    monitored = Monitored(off_route_distance=100.0)
    vehicle = monitored.vehicle("van")
    vehicle.trip = _trip(TripStatus.ENROUTE_TO_PICKUP)
    assert kinds(monitored.drive(*(at(i, north=500.0 + i) for i in range(3)))) == []
    vehicle.trip = _trip(TripStatus.ENROUTE_TO_DROPOFF, version=2)
    ways = [90, 500, 90, 500, 510, 520, 103, 500, 500, 110]
    told = [kinds(monitored.drive(at(10 + i, east=1_000 + i, north=north))) for i, north in enumerate(ways)]
    assert [bool(events) for events in told] == [False, False, False, False, True, False, False, False, True, False]
    assert told[4] == ["off_route"]
    # At most as much again for a receiver that is not accurate.
    assert kinds(monitored.drive(at(40, north=150, accuracy=60), at(41, north=150, accuracy=60))) == []
    assert kinds(monitored.drive(at(42, north=210, accuracy=500), at(43, north=210, accuracy=500))) == ["off_route"]


@pytest.mark.parametrize("middle", [10.0, 180.0, -180.0])
def test_a_route_is_left_and_kept_to_on_both_sides_of_the_antimeridian(middle: float) -> None:
    """The same drive along the same route, wherever its longitudes lie."""

    def longitude(metres: float) -> float:
        return (middle + metres / EAST + 180.0) % 360.0 - 180.0

    monitored = Monitored(off_route_distance=100.0)
    here = Place(47.0, longitude(0))
    route = {"type": "LineString", "coordinates": [[longitude(metres), 47.0] for metres in range(-3_000, 3_001, 500)]}
    monitored.vehicle("van").trip = Trip(
        1, "trip", FLEET, Vehicle("van", FLEET), TripStatus.ENROUTE_TO_DROPOFF, 1, here, here, (), route, BEGIN, BEGIN, None
    )
    way = [(metres, 50.0) for metres in range(-2_000, 2_001, 200)] + [(metres, 150.0) for metres in range(2_000, -2_001, -500)]
    told = [
        kinds(monitored.drive(Seen("van", BEGIN + i * 10_000, longitude(east), 47.0 + north / METRES, 5.0)))
        for i, (east, north) in enumerate(way)
    ]
    assert [i for i, events in enumerate(told) if events == ["off_route"]] == [22]
    assert sum(map(len, told)) == 1


@pytest.mark.parametrize("middle", [10.0, 180.0])
def test_who_stands_on_the_antimeridian_is_idle(middle: float) -> None:
    monitored = Monitored(idle_after=120.0, signal_lost_after=1e6)
    seen = [
        Seen("van", BEGIN + i * 10_000, (middle + 5 / EAST * (-1) ** i + 180.0) % 360.0 - 180.0, 47.0, 5.0) for i in range(20)
    ]
    assert kinds(monitored.drive(*seen)) == ["idle"]


def _trip(status: TripStatus, version: int = 1) -> Trip:
    here = Place(47.0, 9.5)
    route = {"type": "LineString", "coordinates": [[9.5, 47.0], [9.6, 47.0]]}
    vehicle = Vehicle("van", FLEET)
    return Trip(1, "trip", FLEET, vehicle, status, version, here, here, (), route, BEGIN, BEGIN, None)


def _yard(reach: float) -> dict[str, Any]:
    """A square around the parking place, `reach` metres to each side."""
    ring = [place(north * reach, east * reach) for north, east in ((-1, -1), (-1, 1), (1, 1), (1, -1), (-1, -1))]
    return {"type": "Polygon", "coordinates": [[[longitude, latitude] for latitude, longitude in ring]]}


def _as_seen(each: Fix) -> Seen:
    fix_time = each.fix_time - PARKED_SINCE + BEGIN
    accuracy = each.accuracy if isinstance(each.accuracy, float) else None
    return Seen("van", fix_time, each.longitude, each.latitude, accuracy)


@pytest.mark.parametrize("reports", [False, True], ids=["places alone", "speeds too"])
@pytest.mark.parametrize("every, sigma, memory", [(1.0, 5.0, 120.0), (5.0, 20.0, 120.0), (5.0, 10.0, 0.0)], ids=str)
def test_parked_for_eight_hours_it_does_not_leave_its_yard_nor_speed(
    every: float, sigma: float, memory: float, reports: bool
) -> None:
    """Positions that the filters accept from a receiver that strays and bounces, in a yard of 100 m by 100 m."""
    monitored = Monitored(speed_limit=14.0, signal_lost_after=1e6, dwell_after=1e6, idle_after=300.0)
    monitored.put("yard", _yard(50.0))
    told: list[Event] = []
    for each in shown(Parked(5, every, sigma, memory, reports).fixes()).live:
        told += monitored.drive(_as_seen(each), speed=each.speed if isinstance(each.speed, float) else None)
    print(f"every {every:g} s, sigma {sigma:g} m: {Counter(kinds(told))}")
    assert kinds(told).count("exit") <= 1 and kinds(told)[0] == "enter"
    assert "speeding" not in kinds(told)
    assert kinds(told).count("idle") <= 4


@pytest.mark.parametrize("speed", [None, 10.0])
def test_who_parked_and_drives_off_leaves_its_yard(speed: float | None) -> None:
    """At the edge if it reports a speed; otherwise past the distance that a receiver strays."""
    monitored = Monitored(signal_lost_after=1e6, idle_after=1e6, dwell_after=1e6)
    monitored.put("yard", YARD)
    told = monitored.drive(*(at(5 * i, 50.0, 500.0) for i in range(100)))
    told += monitored.drive(*(at(500 + i, 50.0 - 10.0 * i, 500.0) for i in range(1, 30)), speed=speed)
    assert kinds(told) == ["enter", "exit"]
    assert told[-1].fix_time == BEGIN + (506_000 if speed else 521_000)


def test_who_was_moved_to_the_other_side_of_the_fence_is_told_within_a_minute() -> None:
    monitored = Monitored(signal_lost_after=1e6, idle_after=1e6, dwell_after=1e6)
    monitored.put("yard", YARD)
    monitored.drive(*(at(5 * i, 50.0, 500.0) for i in range(100)))
    told = monitored.drive(*(at(500 + 5 * i, -40.0, 500.0) for i in range(20)))
    assert kinds(told) == ["exit"]
    assert told[0].fix_time is not None and told[0].fix_time <= BEGIN + 570_000


def test_out_and_back_is_no_speeding() -> None:
    monitored = Monitored(speed_limit=20.0)
    ways = [0, 10, 20, 60, 40, 50, 60, 100, 70, 80]
    assert kinds(monitored.drive(*(at(i, north=north) for i, north in enumerate(ways)))) == []
    assert kinds(monitored.drive(*(at(10 + i, north=80 + 25 * (i + 1)) for i in range(3)))) == ["speeding"]


def test_silence_is_told_in_its_second_and_its_end_with_the_next_position() -> None:
    monitored = Monitored(signal_lost_after=60.0, idle_after=1e6)
    monitored.drive(at(0))
    assert kinds(monitored.pass_time(59)) == []
    [lost] = monitored.pass_time(3)
    assert (lost.kind, lost.server_time) == (EventKind.SIGNAL_LOST, BEGIN + 60_000 + 1_000)
    assert monitored.vehicle("van").status == "lost"
    assert kinds(monitored.pass_time(600)) == []
    assert kinds(monitored.drive(at(700))) == ["signal_back"]
    assert monitored.vehicle("van").status == "available"


def test_a_threshold_that_is_lowered_holds_soon_for_who_is_silent() -> None:
    monitored = Monitored(signal_lost_after=3_600.0)
    monitored.drive(at(0))
    assert kinds(monitored.pass_time(30)) == []
    monitored.change_fleet(signal_lost_after=10.0)
    assert kinds(monitored.pass_time(12)) == ["signal_lost"]


def test_a_threshold_that_is_raised_holds_too() -> None:
    monitored = Monitored(signal_lost_after=10.0)
    monitored.drive(at(0))
    monitored.change_fleet(signal_lost_after=300.0)
    assert kinds(monitored.pass_time(290)) == []
    assert kinds(monitored.pass_time(13)) == ["signal_lost"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_makes_nobody_silent_and_keeps_nobody_from_it(hours: int) -> None:
    monitored = Monitored(signal_lost_after=60.0)
    monitored.drive(at(0))
    monitored.pass_time(20)
    monitored.clock += hours * 3_600_000
    assert kinds(monitored.pass_time(30)) == []
    assert kinds(monitored.pass_time(25)) == ["signal_lost"]


def test_those_who_wait_to_be_looked_after_do_not_grow_in_number() -> None:
    monitored = Monitored(signal_lost_after=5.0)
    for i in range(300):
        monitored.drive(*(at(i, vehicle=f"van-{j}") for j in range(3)))
        monitored.change_fleet(signal_lost_after=5.0 + i % 2 * 1_000)
    assert sum(map(len, monitored.monitor.last_heard._due.values())) == 3
    for j in range(3):
        monitored.fleets.forget(f"van-{j}")
    monitored.pass_time(30)
    assert not monitored.monitor.last_heard._due


def test_dwell_by_fix_time_once_a_stay() -> None:
    monitored = Monitored(dwell_after=100.0, signal_lost_after=1e6, idle_after=1e6)
    monitored.put("yard", YARD)
    monitored.put("own", YARD, dwell_after=50.0)
    monitored.drive(at(0, *OUTSIDE), at(10, *INSIDE))
    assert [(e.kind.value, e.geofence_id) for e in monitored.drive(at(59, *INSIDE), at(60, *INSIDE))] == [("dwell", "own")]
    assert [(e.kind.value, e.geofence_id) for e in monitored.drive(at(109, *INSIDE), at(110, *INSIDE))] == [("dwell", "yard")]
    assert kinds(monitored.drive(at(400, *INSIDE))) == []
    assert kinds(monitored.drive(at(410, *OUTSIDE), at(420, *INSIDE))) == ["exit", "exit", "enter", "enter"]
    assert kinds(monitored.drive(at(520, *INSIDE))) == ["dwell", "dwell"]


def test_dwell_of_who_is_silent() -> None:
    monitored = Monitored(dwell_after=100.0, signal_lost_after=1e6)
    monitored.put("yard", YARD)
    monitored.drive(at(0, *OUTSIDE), at(10, *INSIDE))
    assert kinds(monitored.pass_time(99)) == []
    assert kinds(monitored.pass_time(2)) == ["dwell"]
    assert kinds(monitored.pass_time(1000)) == []


def test_dwell_of_who_sends_what_it_could_not_send_for_an_hour() -> None:
    monitored = Monitored(dwell_after=100.0, signal_lost_after=1e6)
    monitored.put("yard", YARD)
    monitored.clock = BEGIN + 3_600_000
    assert kinds(monitored.drive(at(0, *OUTSIDE), at(10, *INSIDE))) == ["enter"]
    assert kinds(monitored.pass_time(5)) == []
    assert kinds(monitored.drive(at(30, *OUTSIDE))) == ["exit"]
