"""The monitor: geofences and fleets that change, moves that wait, and faults."""

import asyncio

import pytest

from tests.support.monitoring import BEGIN, FLEET, Monitored, position_of
from tests.support.moves import INSIDE, OUTSIDE, YARD, at, kinds
from tracking.ingest.vehicles import _OLDER
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.model import EventKind, Geofence, Position
from tracking.monitor.geofences import Fence, Fences
from tracking.monitor.monitor import MOVES_AT_ONCE
from tracking.store.geofence_stays import StayRow


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
    """Otherwise the new shape would judge the newest position, and then the moves before it again."""
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


def test_a_long_stay_is_told_of_the_first_fix_that_shows_it_though_later_ones_have_come() -> None:
    """They came between the last moves that were judged and the look for vehicles that stand."""
    monitored = Monitored(dwell_after=53)
    monitored.put("yard", YARD)
    monitored.drive(at(0, *INSIDE))
    for seconds in (30, 60, 90):
        monitored.publish(at(seconds, *INSIDE))
    monitored.monitor._look_for_long_stays(monitored.clock)
    monitored.monitor.look()
    [dwell] = monitored.told()
    assert (dwell.kind, dwell.fix_time) == (EventKind.DWELL, at(60).fix_time)


def test_a_long_stay_is_not_told_of_a_place_that_is_shown_and_was_not_judged() -> None:
    monitored = Monitored(dwell_after=53)
    monitored.put("yard", YARD)
    monitored.drive(at(0, *INSIDE))
    vehicle = monitored.fleets.vehicles["van"]
    vehicle.feed.moved(vehicle, position_of(at(90, *INSIDE), monitored.clock))
    monitored.monitor._look_for_long_stays(monitored.clock)
    assert monitored.told() == []


def test_the_moves_of_one_vehicle_can_be_judged_before_those_of_all_others() -> None:
    """Its home moves, and this must not take longer the more vehicles there are."""
    monitored = Monitored()
    other = monitored.vehicle("other")
    monitored.put("yard", YARD)
    for vehicle_id in ("other", "van", "other", "van"):
        monitored.publish(at(0, *INSIDE, vehicle=vehicle_id))
    monitored.monitor.look_at(monitored.fleets.vehicles["van"])
    assert [event.vehicle_id for event in monitored.told()] == ["van"]
    assert [vehicle for vehicle, _ in monitored.monitor._moves] == [other] * 2
    monitored.monitor.look()
    assert [event.vehicle_id for event in monitored.told()] == ["other"]


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
