"""What a hub shows of vehicles whose home is another hub, of all that it is told of them."""

from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support.screens import START, position
from tracking.live.fleet import FleetFeed, LiveVehicle
from tracking.live.fleets import Fleets
from tracking.model import Fleet, Position, Vehicle
from tracking.monitor.alerts import Alerts
from tracking.monitor.elsewhere import Elsewhere
from tracking.monitor.events import Events
from tracking.monitor.last_heard import LastHeard
from tracking.monitor.states import AlertStates
from tracking.nodes.messages import SeenVehicle

GONE_AFTER_MS = 600_000
LOST_AFTER_MS = 60_000


class Told(NamedTuple):
    fleets: Fleets
    elsewhere: Elsewhere
    last_heard: LastHeard
    feed: FleetFeed
    vehicle: LiveVehicle

    def tell(self, told: Position, sent_after: int = 0, **flags: Any) -> list[SeenVehicle]:
        return self.elsewhere.told(self.feed, [SeenVehicle(told, **flags)], told.server_time + sent_after)


@pytest.fixture
def told() -> Told:
    """A vehicle that joined its fleet at START - 10 s and is shown at START."""
    fleets, states = Fleets(), AlertStates()
    alerts = Alerts(Events, int)  # type: ignore[arg-type]
    last_heard = LastHeard(fleets, states, alerts, lambda _: False, gone_after_ms=GONE_AFTER_MS)
    elsewhere = Elsewhere(fleets, states, last_heard, lambda: START)
    feed = fleets.feed(Fleet("fleet", "", signal_lost_after=LOST_AFTER_MS / 1000))
    feed.loaded = True
    made = Told(fleets, elsewhere, last_heard, feed, fleets.know(Vehicle("van", "fleet"), START - 10_000, number=1))
    assert made.tell(at(0)) == []
    assert made.vehicle.position == at(0)
    return made


def at(milliseconds: int, latitude: float = 47.0, **fields: Any) -> Position:
    return msgspec.structs.replace(position("van", latitude, 9.5, START + milliseconds), **fields)


def test_what_is_newer_is_shown_and_what_is_older_is_not(told: Told) -> None:
    told.tell(at(1_000, 47.1))
    told.tell(at(500, 47.2))
    assert told.vehicle.position == at(1_000, 47.1)
    assert told.vehicle.newest_elsewhere == START + 1_000
    # Two fixes of one time: the home shows the second one.
    told.tell(at(1_000, 47.3))
    assert told.vehicle.position == at(1_000, 47.3)


def test_flags_of_the_same_position_are_taken_over(told: Told) -> None:
    told.tell(at(0), standing=True, clock_skew=-2_000)
    assert (told.vehicle.standing, told.vehicle.clock_skew, told.vehicle.lost) == (True, -2_000, False)
    told.tell(at(0), lost=True)
    assert (told.vehicle.standing, told.vehicle.clock_skew, told.vehicle.lost) == (False, 0, True)


def test_what_was_heard_long_ago_is_lost_and_what_has_left_the_map_stays_away(told: Told) -> None:
    told.tell(at(1), LOST_AFTER_MS)
    assert told.vehicle.lost
    told.tell(at(2), LOST_AFTER_MS - 1)
    assert not told.vehicle.lost
    told.feed.leave(told.vehicle)
    told.tell(at(2), standing=True)
    told.tell(at(3), GONE_AFTER_MS)
    assert told.vehicle.cell is None
    told.tell(at(4), GONE_AFTER_MS - 1)
    assert told.vehicle.cell is not None


def test_nothing_is_shown_of_another_fleet_nor_from_before_it_joined_nor_if_its_home_is_here(told: Told) -> None:
    other = told.fleets.feed(Fleet("other", ""))
    seen = SeenVehicle(at(1, 47.1))
    assert told.elsewhere.told(other, [seen], START) == [seen]
    unknown = SeenVehicle(at(1, vehicle=2))
    assert told.elsewhere.told(told.feed, [unknown], START) == [unknown]
    told.vehicle.joined_at = START + 5_000
    assert told.tell(at(6_000), clock_skew=1_001) == []
    assert told.tell(at(6_000, server_time=START + 4_999)) == []
    told.elsewhere.is_home = lambda number: number == 1
    assert told.tell(at(7_000)) == []
    assert told.vehicle.position == at(0)
    told.elsewhere.is_home = lambda _: False
    told.tell(at(6_000), clock_skew=1_000)
    assert told.vehicle.position == at(6_000)


def test_a_vehicle_whose_home_changes_often_is_checked_once(told: Told) -> None:
    told.last_heard.sweep(START)
    for second in range(1, 6):
        told.elsewhere._states.forget(told.vehicle)
        told.last_heard.sweep(START + second * 1_000)
        told.elsewhere.left(told.vehicle)
    for second in range(6, 30):
        told.last_heard.sweep(START + second * 1_000)
    assert [vehicle for due in told.last_heard._due.values() for vehicle in due] == [told.vehicle]
