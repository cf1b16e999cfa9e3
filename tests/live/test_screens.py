"""Whatever vehicles and screens do, a screen ends up with the newest state of its vehicles, with one write a tick."""

from collections.abc import Callable, Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.screens import START, Allowance, Screen, position
from tracking.live import screens as module
from tracking.live import viewport
from tracking.live.fleet import LiveVehicle
from tracking.live.fleets import Fleets
from tracking.live.shown_vehicle import FleetSlices, FleetViewport
from tracking.model import Fleet, Vehicle

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
        self.feed.screens.tick()
        for screen in self.screens:
            updates = [data for data in screen.writes if b'"type":"fleet",' in data]
            assert len(updates) <= 1, "one write a tick"

    @invariant()
    def nothing_is_held_for_who_is_gone(self) -> None:
        if hasattr(self, "feed"):
            for cell in self.feed.screens.cells.values():
                assert cell.vehicles or cell.viewers
                assert cell.viewers or not (cell.moved or cell.gone or cell.described)

    def teardown(self) -> None:
        if not hasattr(self, "feed"):
            return
        for screen in self.screens:
            screen.queue.flush()
        for _ in range(3):  # what waited, the screen that was wanted meanwhile, and what that brought
            self.feed.screens.tick()
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
    """The same with every part of a look and of a tick in a step of its own, and with allowances that run out."""

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
            self.ticking = self.feed.screens.ticking()
            next(self.ticking, None)

    @rule()
    def tick(self) -> None:
        for _ in self.ticking:
            pass
        self.feed.screens.tick()

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


SlicedMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


test_screens_end_up_with_the_newest_in_slices = SlicedMachine.TestCase
