"""What a dispatcher is told of one vehicle, by a real monitor and a clock that the test turns."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.geofence_truth import METRES, Seen
from tests.support.monitoring import BEGIN, FLEET, Monitored, position_of
from tests.support.parked import BEGIN as PARKED_SINCE
from tests.support.parked import Parked, place, shown
from tracking.ingest.vehicles import _OLDER
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.model import Event, EventKind, Fix, Geofence, Place, Position, Trip, TripStatus, Vehicle, VehicleStatus
from tracking.monitor.geofences import Fence, Fences
from tracking.monitor.monitor import MOVES_AT_ONCE
from tracking.store.events import StayRow

EAST = METRES * math.cos(math.radians(47.0))
YARD: dict[str, Any] = {
    "type": "Polygon",
    "coordinates": [[[9.5, 47.0], [9.51, 47.0], [9.51, 47.01], [9.5, 47.01], [9.5, 47.0]]],
}
INSIDE, OUTSIDE = (380.0, 500.0), (-400.0, 500.0)


def at(seconds: float, east: float = 0.0, north: float = 0.0, accuracy: float | None = 5.0, vehicle: str = "van") -> Seen:
    """So many seconds after the beginning, so many metres from the yard's south-west corner."""
    return Seen(vehicle, BEGIN + int(seconds * 1000), 9.5 + east / EAST, 47.0 + north / METRES, accuracy)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.value for event in events]


# --- speeding ---------------------------------------------------------------------------------------------------------


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


# --- idle, and off the route ------------------------------------------------------------------------------------------


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


# --- standing, with a receiver that wanders ---------------------------------------------------------------------------


def _yard(reach: float) -> dict[str, Any]:
    """A square around where they park, so many metres from there to each side."""
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
    """What the filters let through, of a receiver that wanders, strays and bounces, in a yard of 100 m by 100 m."""
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
    """At the edge where it reports that it drives; by its places alone past what a receiver strays."""
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


# --- silence ----------------------------------------------------------------------------------------------------------


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


# --- dwell ------------------------------------------------------------------------------------------------------------


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


# --- fences that change, and fleets -----------------------------------------------------------------------------------


def test_a_fence_put_over_who_stands_there_holds_at_once_and_one_that_is_gone_is_left_by_nobody() -> None:
    monitored = Monitored(signal_lost_after=1e6)
    monitored.drive(at(0, *INSIDE))
    monitored.put("yard", YARD)
    assert kinds(monitored.told()) == ["enter"]
    moved = {"type": "Polygon", "coordinates": [[[x + 0.1, y] for x, y in YARD["coordinates"][0]]]}
    monitored.put("yard", moved)
    assert kinds(monitored.told()) == ["exit"]
    monitored.put("yard", YARD)
    monitored.monitor.geofence_gone(FLEET, "yard")
    assert kinds(monitored.told()) == ["enter"]
    assert kinds(monitored.drive(at(60, *OUTSIDE))) == []


def test_a_fence_is_changed_after_what_came_before_was_judged() -> None:
    """Else its new shape tells the newest position, and then the moves that led there once more."""
    monitored = Monitored()
    monitored.put("yard", YARD)
    monitored.drive(at(0, *OUTSIDE))
    monitored.publish(at(30, *INSIDE))
    monitored.publish(at(60, *OUTSIDE))
    monitored.publish(at(90, *INSIDE))
    monitored.put("yard", YARD)
    monitored.monitor.look()
    assert kinds(monitored.told()) == ["enter", "exit", "enter"]


def test_who_has_left_the_map_enters_no_new_fence() -> None:
    monitored = Monitored()
    monitored.drive(at(0, *INSIDE))
    monitored.clock += 1
    monitored.fleets.feeds[FLEET].leave(monitored.vehicle("van"))
    monitored.put("yard", YARD)
    assert monitored.told() == []


def test_a_vehicle_takes_no_stay_along_to_another_fleet() -> None:
    monitored = Monitored()
    monitored.change_fleet("other")
    monitored.put("yard", YARD)
    monitored.put("yard", {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]}, "other")
    assert kinds(monitored.drive(at(0, *INSIDE))) == ["enter"]
    monitored.vehicle("van", "other")
    assert kinds(monitored.drive(at(10, *INSIDE))) == []
    monitored.vehicle("van", FLEET)
    assert kinds(monitored.drive(at(20, *INSIDE))) == ["enter"]


def test_what_moves_while_its_fleet_is_loaded_is_judged_after_that_with_the_stored_state() -> None:
    monitored = Monitored()
    feed = monitored.fleets.feeds[FLEET]
    feed.loaded = False
    monitored.publish(at(60, *INSIDE))
    monitored.publish(at(120, *OUTSIDE))
    monitored.monitor.look()
    assert monitored.told() == []
    vehicle = monitored.fleets.vehicles["van"]
    yard = Fence(Geofence(FLEET, "yard", YARD, {}))
    monitored.monitor.fences.take_up(FLEET, Fences([yard]))
    stored = position_of(at(0, *INSIDE), BEGIN)
    monitored.monitor.take_up(vehicle, stored, [StayRow(0, FLEET, "yard", BEGIN, False)], silent=True)
    monitored.monitor.look()
    assert (monitored.told(), monitored.monitor.states[vehicle].previous, monitored.fleets.waiting) == ([], stored, 2)
    monitored.fleets.loaded(FLEET)
    assert monitored.fleets.waiting == 0
    assert kinds(monitored.drive()) == []
    monitored.monitor.look()
    # It was inside, as was told before, and its signal lost.
    assert kinds(monitored.told()) == ["signal_back", "exit"]


def test_who_was_judged_already_keeps_its_state_when_its_fleet_is_read_again() -> None:
    monitored = Monitored()
    monitored.put("yard", YARD)
    assert kinds(monitored.drive(at(0, *OUTSIDE))) == []
    vehicle = monitored.fleets.vehicles["van"]
    stale = position_of(at(-60, *INSIDE), BEGIN - 60_000)
    monitored.monitor.take_up(vehicle, stale, [StayRow(0, FLEET, "yard", BEGIN, False)], silent=True)
    state = monitored.monitor.states[vehicle]
    assert (vehicle.position is stale, state.inside, state.silent) == (False, {}, False)
    assert kinds(monitored.drive(at(60, *INSIDE))) == ["enter"]


def test_a_huge_backlog_is_judged_at_once() -> None:
    monitored = Monitored(signal_lost_after=1e6, idle_after=1e6)
    monitored.put("yard", YARD)
    for i in range(20_000):
        monitored.publish(at(i, *(INSIDE if i // 100 % 2 else OUTSIDE)))
    monitored.monitor.look()
    told = [event.kind.value for event in monitored.told() if event.kind is not EventKind.DWELL]
    assert told == ["enter", "exit"] * 99 + ["enter"]
    assert monitored.fleets.moves == []


def test_a_late_event_of_a_trip_that_memory_holds_no_more_names_none() -> None:
    monitored = Monitored()
    monitored.put("yard", YARD)
    monitored.vehicle("van")
    monitored.clock += 3_600_000
    for seen in (at(0, *OUTSIDE), at(30, *INSIDE)):
        position = position_of(seen, monitored.clock)
        position.trip, position.trip_id = _OLDER.span.trip, _OLDER.span.trip_id
        monitored.fleets.publish(position)
    monitored.monitor.look()
    [event] = monitored.told()
    assert (event.kind, event.late, event.trip_id) == (EventKind.ENTER, True, None)


async def test_many_moves_are_judged_in_parts_each_once_and_in_their_order() -> None:
    monitored = Monitored(signal_lost_after=60.0, idle_after=1e6)
    monitored.put("yard", YARD)
    vehicles = [f"van-{number}" for number in range(2 * MOVES_AT_ONCE)]
    for seconds, where in ((0, OUTSIDE), (60, INSIDE), (120, OUTSIDE)):
        monitored.clock = BEGIN + seconds * 1000
        for vehicle in vehicles:
            monitored.publish(at(seconds, *where, vehicle=vehicle))
    parts = 0
    looking = asyncio.create_task(monitored.monitor._look_in_parts())
    while not looking.done():
        await asyncio.sleep(0)
        parts += 1
        if parts == 3:
            # What moved before a fence changes is judged before, all of it.
            monitored.monitor.geofence_gone(FLEET, "yard")
    assert parts >= 3
    told = monitored.told()
    for vehicle in vehicles:
        assert [event.kind.value for event in told if event.vehicle_id == vehicle] == ["enter", "exit"]
    monitored.monitor.look()
    assert monitored.told() == []


def test_who_moves_while_others_moves_are_judged_is_not_silent() -> None:
    monitored = Monitored(signal_lost_after=60.0)
    monitored.drive(at(0), at(0, vehicle="silent"))
    monitored.pass_time(59)
    monitored.clock += 3_000
    monitored.monitor._take_moves()
    monitored.publish(at(62))
    monitored.monitor._look_for_the_silent()
    assert [(event.kind.value, event.vehicle_id) for event in monitored.told()] == [("signal_lost", "silent")]
    assert monitored.pass_time(1) == []


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_what_waits_to_be_judged_of_an_erased_vehicle_is_not_told_of_its_namesake() -> None:
    monitored = Monitored()
    monitored.put("yard", YARD)
    monitored.drive(at(0, *OUTSIDE))
    monitored.publish(at(30, *INSIDE))
    monitored.fleets.forget("van")
    monitored.vehicle("van")
    monitored.monitor.look()
    assert monitored.told() == []


def test_a_fault_in_one_fleet_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monitored = Monitored(signal_lost_after=60.0)
    monitored.put("yard", YARD)
    monitored.change_fleet("faulty")
    monitored.vehicle("faulty van", "faulty")
    monitored.drive(at(0, *OUTSIDE), at(0, vehicle="silent"))
    judge = monitored.monitor.judge.judge

    def fail(feed: FleetFeed, moves: list[tuple[LiveVehicle, Position]]) -> None:
        if feed.fleet.fleet_id == "faulty":
            raise ValueError
        judge(feed, moves)

    monkeypatch.setattr(monitored.monitor.judge, "judge", fail)
    monitored.pass_time(59)
    monitored.clock += 3_000
    monitored.publish(at(62, vehicle="faulty van"))
    monitored.publish(at(62, *INSIDE))
    monitored.monitor.look()
    assert [(event.kind.value, event.vehicle_id) for event in monitored.told()] == [("enter", "van"), ("signal_lost", "silent")]


def test_moves_that_nobody_looks_at_do_not_grow_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracking.live.fleets.MAX_MOVES", 100)
    monitored = Monitored()
    for seconds in range(1_000):
        monitored.publish(at(seconds))
        assert len(monitored.fleets.moves) <= 100
    assert monitored.fleets.moves[-1][1].fix_time == BEGIN + 999_000


# --- what a backlog tells ---------------------------------------------------------------------------------------------


def send(monitored: Monitored, age: float, *seen: Seen, speed: float | None = None) -> list[Event]:
    """Each received so many seconds after its fix time; what was told of them."""
    for one in seen:
        monitored.clock = one.fix_time + int(age * 1000)
        monitored.publish(one, speed)
        monitored.monitor.look()
    return monitored.told()


def status_of(vehicle: LiveVehicle) -> VehicleStatus:
    return vehicle.status


def late(events: list[Event]) -> list[tuple[str, bool]]:
    return [(event.kind.value, event.late) for event in events]


def test_what_a_backlog_tells_is_late_and_what_follows_it_is_news() -> None:
    monitored = Monitored(speed_limit=20.0, idle_after=1e6, signal_lost_after=1e6)
    monitored.put("yard", YARD)
    told = send(monitored, 7_200, at(0, *OUTSIDE), at(60, *INSIDE), at(120, *INSIDE), at(180, *OUTSIDE))
    assert late(told) == [("enter", True), ("exit", True)]
    assert late(send(monitored, 121, at(240, *OUTSIDE), speed=30.0)) == [("speeding", True)]
    assert late(send(monitored, 119, at(300, *INSIDE), speed=10.0)) == [("enter", False)]


def test_a_vehicle_with_a_wrong_clock_makes_news() -> None:
    monitored = Monitored(speed_limit=20.0, signal_lost_after=60.0)
    van = monitored.vehicle("van")
    assert late(send(monitored, 7_200, at(0), speed=30.0)) == [("speeding", True)]
    assert status_of(van) is VehicleStatus.LOST
    send(monitored, 7_200, at(1), speed=10.0)
    monitored.fleets.set_clock_skew("van", -7_200_000)
    assert late(send(monitored, 7_200, at(2), speed=30.0)) == [("speeding", False)]
    assert status_of(van) is VehicleStatus.AVAILABLE
    # Its own backlog is one all the same.
    send(monitored, 7_200, at(3), speed=10.0)
    assert late(send(monitored, 7_200 + 600, at(4), speed=30.0)) == [("speeding", True)]


def test_who_sends_its_backlog_is_lost_until_it_says_where_it_is_now() -> None:
    monitored = Monitored(signal_lost_after=60.0, idle_after=1e6)
    van = monitored.vehicle("van")
    monitored.drive(at(0))
    assert status_of(van) is VehicleStatus.AVAILABLE
    assert late(monitored.pass_time(61)) == [("signal_lost", False)]
    assert send(monitored, 3_600, *(at(10 * i, north=20.0 * i) for i in range(1, 6))) == []
    assert status_of(van) is VehicleStatus.LOST
    # Silent again before it was through: that was told, and nothing was taken back.
    assert monitored.pass_time(120) == []
    told = send(monitored, 1, at(4_000, north=150.0))
    assert late(told) == [("signal_back", False)]
    assert told[0].fix_time == at(4_000).fix_time
    assert status_of(van) is VehicleStatus.AVAILABLE


def test_who_is_first_heard_of_by_a_backlog_is_lost_quietly() -> None:
    monitored = Monitored(signal_lost_after=60.0, idle_after=1e6)
    van = monitored.vehicle("van")
    assert send(monitored, 86_400, at(0), at(10)) == []
    assert status_of(van) is VehicleStatus.LOST
    assert late(monitored.pass_time(61)) == [("signal_lost", True)]
    assert late(send(monitored, 0, at(90_000))) == [("signal_back", False)]


def test_where_it_was_before_its_trip_is_not_off_the_route() -> None:
    monitored = Monitored(off_route_distance=150.0, idle_after=1e6, signal_lost_after=1e6)
    route = {"type": "LineString", "coordinates": [[9.5, 47.0], [9.5, 47.05]]}
    place = Place(47.0, 9.5)
    trip = Trip(
        1, "trip", FLEET, None, TripStatus.ENROUTE_TO_DROPOFF, 1, place, place, (), route, BEGIN, BEGIN + 7_200_000, None
    )
    monitored.vehicle("van")
    monitored.fleets.set_trip("van", trip)
    assert send(monitored, 7_200, *(at(10 * i, east=5_000.0) for i in range(4))) == []
    # Nor is it on the trip: what is told of it does not name that.
    monitored.change_fleet(off_route_distance=150.0, speed_limit=20.0, idle_after=1e6, signal_lost_after=1e6)
    [speeding] = send(monitored, 7_200, at(50, east=5_000.0), speed=30.0)
    assert (speeding.kind, speeding.late, speeding.trip_id) == (EventKind.SPEEDING, True, None)
    told = send(monitored, 1, at(8_000, east=5_000.0), at(8_010, east=5_000.0), speed=1.0)
    assert [(event.kind, event.late, event.trip_id) for event in told] == [(EventKind.OFF_ROUTE, False, "trip")]


@given(
    ages=st.lists(st.integers(0, 700), min_size=1, max_size=40),
    skew=st.sampled_from([0, 0, -7_200, -300]),
    lost_after=st.sampled_from([60.0, 300.0]),
)
def test_no_news_is_older_than_two_minutes_and_no_signal_is_back_from_the_past(
    ages: list[int], skew: int, lost_after: float
) -> None:
    monitored = Monitored(speed_limit=20.0, idle_after=1e6, signal_lost_after=lost_after)
    van = monitored.vehicle("van")
    monitored.fleets.set_clock_skew("van", skew * 1000)
    now, newest = 10_000, 0
    for number, age in enumerate(ages):
        now += 100
        newest = max(newest + 1, now + skew - age)
        monitored.clock = BEGIN + now * 1000
        monitored.publish(at(newest), speed=30.0 if number % 2 else 10.0)
        monitored.monitor.look()
        true_age = now + skew - newest
        for event in monitored.told():
            if event.kind is EventKind.SPEEDING:
                assert event.late is (true_age > 120)
            elif event.kind is EventKind.SIGNAL_BACK:
                assert not event.late
                assert true_age < max(120, lost_after)
        assert van.lost is (monitored.monitor.states[van].silent or true_age >= max(120, lost_after))
