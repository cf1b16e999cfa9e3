"""A fleet's feed: what it encodes, what it sends to screens, and what it forgets."""

from collections.abc import Callable
from typing import Any

from tests.support.screens import START, Allowance, Screen, fleet_of, position
from tracking.live import fleet as fleet_module
from tracking.live import screens as module
from tracking.live import viewport
from tracking.live.clusters import clusters_of
from tracking.live.fleets import Fleets
from tracking.live.shown_vehicle import FleetSlices
from tracking.metrics import REGISTRY
from tracking.model import Fleet, Vehicle
from tracking.protocol import codec


def test_a_slow_reader_gets_the_newest_of_each_vehicle_and_holds_no_more_than_that() -> None:
    fleets, feed = fleet_of(100)
    screen, other = Screen(feed), Screen(feed)
    for one in (screen, other):
        one.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.screens.tick()
    screen.queue.block()
    for second in range(1, 1_001):
        for number in range(100):
            fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + second))
        feed.screens.tick()
    assert other.rows == 1_000 * 100
    assert screen.queue.size == 0
    assert len(screen.viewport.missed) == 100
    screen.queue.flush()
    screen.writes.clear()
    feed.screens.tick()
    assert screen.rows == 100
    assert len(screen.writes) == 1
    assert {state["fix_time"] for state in screen.vehicles.values()} == {START + 1_000}


def test_a_position_is_encoded_once_for_all_who_look_at_it(monkeypatch: Any) -> None:
    fleets, feed = fleet_of(50)
    screens = [Screen(feed) for _ in range(40)]
    for screen in screens:
        screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.screens.tick()
    encoded: list[str] = []
    encode = codec.encode

    def counted(row: Any) -> bytes:
        encoded.append(row[0])
        return encode(row)

    for where in (fleet_module, module):
        monkeypatch.setattr(where, "encode", counted)
    for number in range(50):
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + 1))
    feed.screens.tick()
    assert sorted(encoded) == sorted(f"v{number}" for number in range(50))
    assert all(screen.rows == 50 for screen in screens)
    # And nothing at all where nobody looks.
    for screen in screens:
        feed.screens.forget(screen.viewport)
    encoded.clear()
    for number in range(50):
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + 2))
    feed.screens.tick()
    assert encoded == []


def test_a_vehicle_is_encoded_once_for_all_who_come_to_look_at_it() -> None:
    fleets, feed = fleet_of(50)
    first, second = Screen(feed), Screen(feed)
    first.look(feed, 9.4, 47.0, 9.6, 47.2)
    before = [fleets.vehicles[f"v{number}"].encoded for number in range(50)]
    second.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert all(before)
    assert all(fleets.vehicles[f"v{number}"].encoded is encoded for number, encoded in enumerate(before))
    fleets.publish(position("v0", 47.2, 9.5, START + 1))
    fleets.know(Vehicle("v1", "f", "Another name"))
    fleets.forget("v2")
    third = Screen(feed)
    third.look(feed, 9.4, 47.0, 9.6, 47.3)
    assert third.vehicles["v0"]["fix_time"] == START + 1
    assert third.vehicles["v1"]["name"] == "Another name"
    assert "v2" not in third.vehicles


def test_where_a_vehicle_was_before_it_came_back_from_another_fleet_is_not_shown() -> None:
    """It may leave and come back before this hub knows of either, with the same name."""
    fleets, feed = fleet_of(2)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert set(screen.vehicles) == {"v0", "v1"}
    came_back = START + 5
    fleets.know(fleets.vehicles["v0"].vehicle, came_back)
    feed.screens.tick()
    assert set(screen.vehicles) == {"v1"}
    fleets.publish(position("v0", 47.1, 9.5, came_back - 1))
    feed.screens.tick()
    assert "v0" not in screen.vehicles
    fleets.publish(position("v0", 47.1, 9.5, came_back))
    feed.screens.tick()
    assert screen.vehicles["v0"]["fix_time"] == came_back


def test_past_the_allowance_the_newest_look_is_put_off_and_not_lost() -> None:
    fleets, feed = fleet_of(50)
    screen, allowance = Screen(feed), Allowance()
    screen.viewport.allowance = allowance
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(screen.vehicles) == 50
    assert allowance.spent >= 50
    allowance.room = False
    feed.screens.tick()
    spent, written = allowance.spent, len(screen.writes)
    for step in range(1, 200):
        screen.look(feed, 9.4 + step / 100, 47.0, 9.6 + step / 100, 47.2)
        feed.screens.tick()
    assert (allowance.spent, len(screen.writes)) == (spent, written)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    # What it sees already it goes on to see.
    fleets.publish(position("v7", 47.15, 9.5, START + 1))
    feed.screens.tick()
    assert screen.rows == 1
    allowance.room = True
    feed.screens.tick()
    assert len(screen.vehicles) == 50
    assert screen.vehicles["v7"]["fix_time"] == START + 1


def test_a_large_look_is_shown_in_slices(monkeypatch: Any) -> None:
    """All vehicles are in one cell. Changes between two slices are not lost."""
    calls: list[Callable[[], None]] = []
    fleets = Fleets(FleetSlices(calls.append))
    feed = fleets.feed(Fleet("f", "Fleet"))
    for number in range(1_900):
        fleets.know(Vehicle(f"v{number}", "f"))
        fleets.publish(position(f"v{number}", 47.1, 9.5))
    monkeypatch.setattr(viewport, "SLICE_SECONDS", -1.0)
    screens = [Screen(feed) for _ in range(3)]
    for screen in screens:
        screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert [len(screen.vehicles) for screen in screens] == [module.PART, 0, 0]
    fleets.forget("v3")
    fleets.publish(position("v4", 47.1, 9.5, START + 1))
    turns = 0
    while calls:
        shown = sum(len(screen.vehicles) for screen in screens)
        calls.pop(0)()
        assert sum(len(screen.vehicles) for screen in screens) - shown <= module.PART
        turns += 1
    assert turns > 1_900 * 3 // module.PART
    feed.screens.tick()
    for screen in screens:
        assert set(screen.vehicles) == set(fleets.vehicles)
        assert screen.vehicles["v4"]["fix_time"] == START + 1


def test_clusters_are_counted_once_for_all_who_look_at_the_same(monkeypatch: Any) -> None:
    fleets, feed = fleet_of(2_100)
    screens, allowance = [Screen(feed) for _ in range(40)], Allowance()
    for screen in screens:
        screen.viewport.allowance = allowance
        screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    fleets.know(Vehicle("another", "f"))
    fleets.publish(position("another", 47.15, 9.5))
    counted: list[object] = []
    count = clusters_of

    def noted(*look: Any) -> Any:
        counted.append(look)
        return count(*look)

    monkeypatch.setattr(module, "clusters_of", noted)
    feed.screens.recount()
    assert len(counted) == 1
    assert {tuple(screen.kinds) for screen in screens} == {("clusters", "clusters")}


def test_no_frame_is_longer_than_one_may_be() -> None:
    fleets, feed = fleet_of(1_990)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(screen.vehicles) == 1_990
    for number in range(1_990):
        fleets.publish(position(f"v{number}", 47.123456789 + number * 1e-10, 9.5, START + 1))
    feed.screens.tick()  # `frames_in` looks at each
    assert screen.rows == 1_990
    # Names as long as may be, in letters of four bytes.
    for number in range(1_990):
        fleets.know(Vehicle(f"v{number}", "f", "\U0001f698" * 200, "\U0001f69a" * 200, "\U0001f695" * 200))
    feed.screens.tick()
    other = Screen(feed)
    other.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(other.vehicles) == 1_990
    assert other.vehicles == screen.vehicles
    for number in range(1_990):
        fleets.forget(f"v{number}")
    feed.screens.tick()
    assert other.vehicles == screen.vehicles == {}


def test_a_crowd_on_one_spot_is_a_cluster_until_the_screen_holds_fewer() -> None:
    fleets, feed = fleet_of(0)
    for number in range(2_500):
        fleets.know(Vehicle(f"v{number}", "f"))
        # A depot: all in one cell, most of them on one side of it.
        fleets.publish(position(f"v{number}", 47.1, 9.5 if number < 2_200 else 9.505))
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert screen.clusters == [[47.1, 9.5006, 2_500]]
    feed.screens.tick()
    screen.look(feed, 9.503, 47.0, 9.6, 47.2, 18)
    assert screen.clusters is None
    assert len(screen.vehicles) == 2_500, "what the screen's cells hold"
    for number in range(600):
        fleets.forget(f"v{number}")
    feed.screens.tick()
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.screens.tick()
    assert screen.clusters is None
    assert len(screen.vehicles) == 1_900


def test_clusters_are_sent_again_only_where_they_changed() -> None:
    fleets, feed = fleet_of(2_100)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    for _ in range(3):
        feed.screens.recount()
    assert screen.kinds == ["clusters"]
    fleets.know(Vehicle("another", "f"))
    fleets.publish(position("another", 47.15, 9.5))
    feed.screens.recount()
    assert screen.kinds == ["clusters", "clusters"]
    for number in range(200):
        fleets.forget(f"v{number}")
    feed.screens.recount()
    assert screen.kinds[-1] == "fleet_snapshot"
    assert len(screen.vehicles) == 1_901


def test_a_hub_that_begins_anew_counts_no_clock_of_before() -> None:
    fleets = Fleets()
    fleets.know(Vehicle("van", "fleet"))
    fleets.set_clock_skew("van", 7_200_000)
    assert REGISTRY.get_sample_value("tracking_clocks_wrong") == 1
    Fleets()
    assert REGISTRY.get_sample_value("tracking_clocks_wrong") == 0


def test_a_place_that_is_not_kept_is_forgotten_unless_it_is_on_the_map() -> None:
    fleets = Fleets()
    for vehicle_id in ("shown", "gone"):
        fleets.know(Vehicle(vehicle_id, "fleet"))
        fleets.publish(position(vehicle_id, 47.1, 9.5))
    gone = fleets.vehicles["gone"]
    gone.feed.leave(gone)
    assert gone.position is not None
    fleets.forget_places(["shown", "gone", "unknown"])
    assert gone.position is None
    assert fleets.vehicles["shown"].position is not None
