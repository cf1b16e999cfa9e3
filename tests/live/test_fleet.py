"""A fleet's feed: whatever vehicles and screens do, a screen ends up with the newest of what it shows, at one write a tick."""

from collections.abc import Callable, Iterator
from typing import Any, Union

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.clients import cell_of
from tracking.live import fleet as module
from tracking.live import viewport
from tracking.live.fleet import FleetFeed, FleetSlices, FleetViewport, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.live.reader_queue import ReaderQueue
from tracking.metrics import REGISTRY
from tracking.model import Fleet, Position, Vehicle
from tracking.protocol import codec
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.protocol.dispatcher import Clusters, FleetSnapshot, FleetUpdate, VehicleGone

START = 1_700_000_000_000


def position(vehicle_id: str, latitude: float, longitude: float, fix_time: int = START) -> Position:
    return Position(
        vehicle=1,
        vehicle_id=vehicle_id,
        session=1,
        seq=1,
        fix_time=fix_time,
        server_time=fix_time,
        latitude=latitude,
        longitude=longitude,
        accuracy=5.0,
        altitude=None,
        speed=10.0,
        bearing=None,
        battery=None,
        trip=None,
        trip_id=None,
        suspect=(),
        live=True,
    )


class Screen:
    """What a client would hold that reads, or does not."""

    def __init__(self, feed: FleetFeed) -> None:
        self.writes: list[bytes] = []
        self.queue = ReaderQueue(self._write, limit=10**9, end=lambda code: None)
        self.viewport = FleetViewport(self.queue)
        self.vehicles: dict[str, dict[str, Any]] = {}
        self.clusters: list[Any] | None = None
        self.bounds: tuple[float, float, float, float] | None = None
        self.kinds: list[str] = []
        self.rows = 0
        feed.queues.add(self.queue)

    def _write(self, data: bytes) -> None:
        self.writes.append(data)
        for text in frames_in(data):
            # Put together by hand there, they are still what the protocol says.
            _decode(text)
            self._read(msgspec.json.decode(text))

    def _read(self, message: dict[str, Any]) -> None:
        self.kinds.append(message["type"])
        match message["type"]:
            case "fleet_snapshot":
                self.clusters = None
                cells = set(message["cells"])
                # What is named without a place was forgotten before its news came.
                self.vehicles = {i: v for i, v in self.vehicles.items() if "latitude" not in v or cell_of(v) not in cells}
                self.vehicles |= {vehicle["vehicle_id"]: vehicle for vehicle in message["vehicles"]}
            case "clusters":
                self.clusters = message["clusters"]
                self.vehicles.clear()
            case "fleet":
                for vehicle_id in message.get("left", []):
                    self.vehicles.pop(vehicle_id, None)
                for described in message.get("vehicles", []):
                    self.vehicles.setdefault(described["vehicle_id"], {}).update(described)
                for vehicle_id, latitude, longitude, _, _, fix_time in message["positions"]:
                    state = {"latitude": latitude, "longitude": longitude, "fix_time": fix_time}
                    self.vehicles.setdefault(vehicle_id, {}).update(state)
                    self.rows += 1

    def look(self, feed: FleetFeed, west: float, south: float, east: float, north: float, zoom: float = 12) -> None:
        self.bounds = west, south, east, north
        self.forget_what_lies_outside()
        feed.look(self.viewport, self.bounds, zoom)

    def forget_what_lies_outside(self) -> None:
        """As a client does by itself when its screen moves."""
        assert self.bounds is not None
        west, south, east, north = self.bounds
        left, top = (int(part) for part in cell_of({"latitude": north, "longitude": west}).split("/")[1:])
        right, bottom = (int(part) for part in cell_of({"latitude": south, "longitude": east}).split("/")[1:])

        def is_inside(state: dict[str, Any]) -> bool:
            column, row = (int(part) for part in cell_of(state).split("/")[1:])
            return left <= column <= right and top <= row <= bottom

        self.vehicles = {i: v for i, v in self.vehicles.items() if "latitude" in v and is_inside(v)}


_decode = msgspec.json.Decoder(Union[FleetSnapshot, FleetUpdate, Clusters, VehicleGone]).decode  # noqa: UP007 a value


def frames_in(data: bytes) -> Iterator[bytes]:
    """The messages in one or more unmasked text frames."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        assert length <= MAX_FRAME_BYTES
        yield data[start : start + length]
        at = start + length


PLACES = [(47.10 + 0.011 * row, 9.48 + 0.017 * column) for row in range(6) for column in range(6)]


class FleetMachine(RuleBasedStateMachine):
    """Vehicles move, change, leave and come back; screens pan, stop reading and read again; between them go ticks."""

    @initialize()
    def begin(self) -> None:
        self.fleets = Fleets()
        self.feed = self.fleets.feed(Fleet("f", "Fleet"))
        self.screens = [Screen(self.feed) for _ in range(2)]
        self.now = START

    @rule(number=st.integers(0, 9), place=st.sampled_from(PLACES), name=st.sampled_from("ABC"))
    def move(self, number: int, place: tuple[float, float], name: str) -> None:
        self.now += 1
        self.fleets.know(Vehicle(f"v{number}", "f", name))
        self.fleets.publish(position(f"v{number}", *place, self.now))

    @rule(number=st.integers(0, 9), lost=st.booleans())
    def restate(self, number: int, lost: bool) -> None:
        vehicle = self.fleets.vehicles.get(f"v{number}")
        if vehicle is not None:
            vehicle.lost = lost
            self.feed.restate(vehicle)

    @rule(number=st.integers(0, 9))
    def remove(self, number: int) -> None:
        self.fleets.forget(f"v{number}")

    @rule(which=st.integers(0, 1), place=st.sampled_from(PLACES), width=st.sampled_from([0.01, 0.03, 0.2]))
    def look(self, which: int, place: tuple[float, float], width: float) -> None:
        self.screens[which].look(self.feed, place[1], place[0], place[1] + width, place[0] + width)

    @rule(which=st.integers(0, 1))
    def stop_reading(self, which: int) -> None:
        self.screens[which].queue.block()

    @rule(which=st.integers(0, 1))
    def read_again(self, which: int) -> None:
        self.screens[which].queue.flush()

    @rule()
    def tick(self) -> None:
        for screen in self.screens:
            screen.writes.clear()
        self.feed.tick()
        for screen in self.screens:
            updates = [data for data in screen.writes if b'"type":"fleet",' in data]
            assert len(updates) <= 1, "one write a tick"

    @invariant()
    def nothing_is_held_for_who_is_gone(self) -> None:
        if hasattr(self, "feed"):
            for cell in self.feed._cells.values():
                assert cell.vehicles or cell.viewers
                assert cell.viewers or not (cell.moved or cell.gone or cell.described)

    def teardown(self) -> None:
        if not hasattr(self, "feed"):
            return
        for screen in self.screens:
            screen.queue.flush()
        for _ in range(3):  # what waited, the screen that was wanted meanwhile, and what that brought
            self.feed.tick()
        for screen in self.screens:
            if screen.bounds is None:
                continue
            screen.forget_what_lies_outside()
            shown = {vehicle.vehicle.vehicle_id: vehicle for vehicle in self.feed.vehicles if _is_on(vehicle, screen.viewport)}
            assert set(screen.vehicles) == set(shown)
            for vehicle_id, vehicle in shown.items():
                seen = screen.vehicles[vehicle_id]
                assert vehicle.position is not None
                assert (seen["latitude"], seen["longitude"]) == (vehicle.position.latitude, vehicle.position.longitude)
                assert (seen["fix_time"], seen["name"]) == (vehicle.position.fix_time, vehicle.vehicle.name)
                assert seen["status"] == vehicle.status


def _is_on(vehicle: LiveVehicle, viewport: FleetViewport) -> bool:
    return (
        vehicle.cell is not None and viewport.area is not None and viewport.area.touches(vehicle.cell.column, vehicle.cell.row)
    )


FleetMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_screens_end_up_with_the_newest = FleetMachine.TestCase


class SlicedMachine(FleetMachine):
    """The same where every part of a look and of a tick is done by itself, and screens may be shown nothing for a while."""

    @initialize()
    def begin(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.fleets = Fleets(FleetSlices(self.calls.append))
        self.feed = self.fleets.feed(Fleet("f", "Fleet"))
        self.screens = [Screen(self.feed) for _ in range(2)]
        self.allowance = Allowance()
        for screen in self.screens:
            screen.viewport.allowance = self.allowance
        self.now = START
        self.ticking: Iterator[None] = iter(())
        self.former = viewport.SLICE_SECONDS, module.PART
        viewport.SLICE_SECONDS, module.PART = -1.0, 1

    @rule(room=st.booleans())
    def allow(self, room: bool) -> None:
        self.allowance.room = room

    @rule()
    def have_a_turn(self) -> None:
        if self.calls:
            self.calls.pop(0)()

    @rule()
    def tick_a_little(self) -> None:
        if next(self.ticking, "done") == "done":
            self.ticking = self.feed.ticking()
            next(self.ticking, None)

    @rule()
    def tick(self) -> None:
        for _ in self.ticking:
            pass
        self.feed.tick()

    def teardown(self) -> None:
        if hasattr(self, "feed"):
            viewport.SLICE_SECONDS, module.PART = self.former
            self.allowance.room = True
            for screen in self.screens:
                screen.queue.flush()
            for _ in range(3):
                self.tick()
                while self.calls:
                    self.calls.pop()()
        super().teardown()


class Allowance:
    def __init__(self) -> None:
        self.room = True
        self.spent = 0

    def has_room(self) -> bool:
        return self.room

    def spend(self, amount: int) -> None:
        self.spent += amount


SlicedMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_screens_end_up_with_the_newest_in_slices = SlicedMachine.TestCase


def fleet_of(count: int) -> tuple[Fleets, FleetFeed]:
    fleets = Fleets()
    feed = fleets.feed(Fleet("f", "Fleet"))
    for number in range(count):
        fleets.know(Vehicle(f"v{number}", "f", f"Van {number}"))
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5))
    return fleets, feed


def test_a_slow_reader_gets_the_newest_of_each_vehicle_and_holds_no_more_than_that() -> None:
    fleets, feed = fleet_of(100)
    screen, other = Screen(feed), Screen(feed)
    for one in (screen, other):
        one.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.tick()
    screen.queue.block()
    for second in range(1, 1_001):
        for number in range(100):
            fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + second))
        feed.tick()
    assert other.rows == 1_000 * 100
    assert screen.queue.size == 0
    assert len(screen.viewport.missed) == 100
    screen.queue.flush()
    screen.writes.clear()
    feed.tick()
    assert screen.rows == 100
    assert len(screen.writes) == 1
    assert {state["fix_time"] for state in screen.vehicles.values()} == {START + 1_000}


def test_a_position_is_encoded_once_for_all_who_look_at_it(monkeypatch: Any) -> None:
    fleets, feed = fleet_of(50)
    screens = [Screen(feed) for _ in range(40)]
    for screen in screens:
        screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.tick()
    encoded: list[str] = []
    encode = codec.encode

    def counted(row: Any) -> bytes:
        encoded.append(row[0])
        return encode(row)

    monkeypatch.setattr(module, "encode", counted)
    for number in range(50):
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + 1))
    feed.tick()
    assert sorted(encoded) == sorted(f"v{number}" for number in range(50))
    assert all(screen.rows == 50 for screen in screens)
    # And nothing at all where nobody looks.
    for screen in screens:
        feed.forget(screen.viewport)
    encoded.clear()
    for number in range(50):
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5, START + 2))
    feed.tick()
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
    """It may leave and come back before this hub knows of either: then it is called as before."""
    fleets, feed = fleet_of(2)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert set(screen.vehicles) == {"v0", "v1"}
    came_back = START + 5
    fleets.know(fleets.vehicles["v0"].vehicle, came_back)
    feed.tick()
    assert set(screen.vehicles) == {"v1"}
    fleets.publish(position("v0", 47.1, 9.5, came_back - 1))
    feed.tick()
    assert "v0" not in screen.vehicles
    fleets.publish(position("v0", 47.1, 9.5, came_back))
    feed.tick()
    assert screen.vehicles["v0"]["fix_time"] == came_back


def test_past_the_allowance_the_newest_look_is_put_off_and_not_lost() -> None:
    fleets, feed = fleet_of(50)
    screen, allowance = Screen(feed), Allowance()
    screen.viewport.allowance = allowance
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(screen.vehicles) == 50
    assert allowance.spent >= 50
    allowance.room = False
    feed.tick()
    spent, written = allowance.spent, len(screen.writes)
    for step in range(1, 200):
        screen.look(feed, 9.4 + step / 100, 47.0, 9.6 + step / 100, 47.2)
        feed.tick()
    assert (allowance.spent, len(screen.writes)) == (spent, written)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    # What it sees already it goes on to see.
    fleets.publish(position("v7", 47.15, 9.5, START + 1))
    feed.tick()
    assert screen.rows == 1
    allowance.room = True
    feed.tick()
    assert len(screen.vehicles) == 50
    assert screen.vehicles["v7"]["fix_time"] == START + 1


def test_a_large_look_is_shown_in_slices(monkeypatch: Any) -> None:
    """Though all of it lies in one cell; what happens between them is not lost."""
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
    feed.tick()
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
    count = feed._clusters

    def noted(*look: Any) -> Any:
        counted.append(look)
        return count(*look)

    monkeypatch.setattr(feed, "_clusters", noted)
    feed.recount()
    assert len(counted) == 1
    assert {tuple(screen.kinds) for screen in screens} == {("clusters", "clusters")}


def test_no_frame_is_longer_than_one_may_be() -> None:
    fleets, feed = fleet_of(1_990)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(screen.vehicles) == 1_990
    for number in range(1_990):
        fleets.publish(position(f"v{number}", 47.123456789 + number * 1e-10, 9.5, START + 1))
    feed.tick()  # `frames_in` looks at each
    assert screen.rows == 1_990
    # Names as long as may be, in letters of four bytes.
    for number in range(1_990):
        fleets.know(Vehicle(f"v{number}", "f", "\U0001f698" * 200, "\U0001f69a" * 200, "\U0001f695" * 200))
    feed.tick()
    other = Screen(feed)
    other.look(feed, 9.4, 47.0, 9.6, 47.2)
    assert len(other.vehicles) == 1_990
    assert other.vehicles == screen.vehicles
    for number in range(1_990):
        fleets.forget(f"v{number}")
    feed.tick()
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
    feed.tick()
    screen.look(feed, 9.503, 47.0, 9.6, 47.2, 18)
    assert screen.clusters is None
    assert len(screen.vehicles) == 2_500, "what the screen's cells hold"
    for number in range(600):
        fleets.forget(f"v{number}")
    feed.tick()
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    feed.tick()
    assert screen.clusters is None
    assert len(screen.vehicles) == 1_900


def test_clusters_are_sent_again_only_where_they_changed() -> None:
    fleets, feed = fleet_of(2_100)
    screen = Screen(feed)
    screen.look(feed, 9.4, 47.0, 9.6, 47.2)
    for _ in range(3):
        feed.recount()
    assert screen.kinds == ["clusters"]
    fleets.know(Vehicle("another", "f"))
    fleets.publish(position("another", 47.15, 9.5))
    feed.recount()
    assert screen.kinds == ["clusters", "clusters"]
    for number in range(200):
        fleets.forget(f"v{number}")
    feed.recount()
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
