"""The positions that hubs keep for readers of other hubs, against a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.positions import a_position
from tracking.live.recent import MOST, NEVER, SPAN_MS, RecentPositions
from tracking.model import Position

VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def position(vehicle: int, trip: str, server_time: int, seq: int, **changes: object) -> Position:
    values = {"trip_id": trip, "trip": len(trip), "vehicle_id": f"van-{vehicle}", "server_time": server_time, **changes}
    return a_position(vehicle, 1, seq, **values)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Position]:
    now, made = 1_000_000, []
    for seq in range(draw(st.integers(0, 40))):
        now += draw(st.sampled_from((0, 1, 1_000, 20_000, 70_000)))
        vehicle, trip = draw(st.integers(1, 3)), draw(st.sampled_from("ab"))
        values = {name: draw(VALUES) for name in ("accuracy", "altitude", "speed", "bearing", "battery")}
        made.append(position(vehicle, trip, now, seq, live=draw(st.booleans()), **values))
    return made


@given(arrivals(), st.integers(1, 3))
def test_what_is_kept_is_what_came_and_all_of_it_from_an_instant_on(came: list[Position], gone: int) -> None:
    recent = RecentPositions()
    for one in came:
        recent.keep(one)
    for trip in "ab":
        of_trip = [one for one in came if one.trip_id == trip]
        kept, complete_from = recent.of(trip)
        assert kept == of_trip[len(of_trip) - len(kept) :]
        assert recent.keys(trip) == {(one.vehicle_id, one.fix_time) for one in kept}
        if not of_trip:
            assert complete_from == NEVER
            continue
        assert [one for one in of_trip if one.server_time >= complete_from] == kept or kept == of_trip[-1:]
        newest = of_trip[-1].server_time
        assert complete_from <= max(newest - SPAN_MS + 1, of_trip[0].server_time)
        assert all(one in kept for one in of_trip if one.server_time > newest - SPAN_MS)
    handed_over, moved = recent.handed_over(gone), RecentPositions()
    moved.take_up(gone, handed_over)
    for trip in "ab":
        assert all(one.vehicle != gone for one in recent.of(trip).positions)
        assert all(one.vehicle == gone for one in moved.of(trip).positions)
    moved.forget_vehicles([gone])
    assert (len(moved), moved._of_vehicle) == (0, {})


def test_a_backlog_and_corrections_make_it_incomplete() -> None:
    recent = RecentPositions()
    for seq in range(MOST + 10):
        recent.keep(position(1, "a", 1_000 + seq, seq))
    kept, complete_from = recent.of("a")
    assert len(kept) <= MOST
    assert complete_from == kept[0].server_time
    recent.take_out("a", "van-1", [kept[5].fix_time])
    assert recent.of("a") == ([one for one in kept if one is not kept[5]], complete_from)
    recent.incomplete_before("a", 9_000)
    recent.keep(position(1, "a", 3_000, 9_999))
    assert recent.of("a").complete_from == 9_000
    again = RecentPositions()
    again.take_up(1, recent.handed_over(1))
    assert again.of("a").complete_from == 9_000
    again.take_up(1, b"broken")
    assert len(again) == 0


def test_a_parked_vehicle_keeps_its_place_and_a_trip_without_positions_is_forgotten() -> None:
    recent = RecentPositions()
    recent.keep(position(1, "a", 1_000, 1))
    recent.sweep(100_000)
    assert len(recent.of("a").positions) == 1
    recent.sweep(300_000)
    assert (len(recent), recent._of_vehicle) == (0, {})
