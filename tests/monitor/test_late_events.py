"""Events of a backlog: they are late, and change no present state."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.geofence_truth import Seen
from tests.support.monitoring import BEGIN, FLEET, Monitored
from tests.support.moves import INSIDE, OUTSIDE, YARD, at
from tracking.live.fleet import LiveVehicle
from tracking.model import Event, EventKind, Place, Trip, TripStatus, VehicleStatus


def send(monitored: Monitored, age: float, *seen: Seen, speed: float | None = None) -> list[Event]:
    """The events of these, each received `age` seconds after its fix time."""
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
