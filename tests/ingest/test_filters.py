"""The filters: every predicate on both sides of its threshold, what must hold of any stream, and the messy stream's score."""

import math
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from tests.support.messy import read_stream, score
from tracking.errors import ErrorCode
from tracking.ingest import filters
from tracking.ingest.filters import REJECTIONS, SUSPICIONS, Motion, judge, reject
from tracking.model import Fix, Suspicion

NOW = 1_800_000_000_000
LATITUDE, LONGITUDE = 41.14, -8.61
DAY = 24 * 3_600_000
DEGREE = 111_195.0
"""Metres of latitude."""

Judged = tuple[tuple[Suspicion, ...], bool]
CLEAN_LIVE: Judged = ((), True)
CLEAN_LATE: Judged = ((), False)


def fix(
    seconds: float = 0.0,
    north: float = 0.0,
    east: float = 0.0,
    *,
    speed: float | UnsetType = UNSET,
    accuracy: float | UnsetType = UNSET,
    latitude: float = LATITUDE,
    longitude: float = LONGITUDE,
) -> Fix:
    """A fix so many seconds after NOW, so many metres from the place where these tests begin."""
    return Fix(
        seq=1,
        fix_time=NOW + round(seconds * 1000),
        latitude=latitude + north / DEGREE,
        longitude=longitude + east / (DEGREE * math.cos(math.radians(latitude))),
        accuracy=accuracy,
        speed=speed,
    )


def mirrored(given: Fix) -> Fix:
    return Fix(given.seq, given.fix_time, given.longitude, given.latitude)


def run(fixes: Iterable[Fix], motion: Motion | None = None, session: int = 1) -> list[Judged]:
    motion = Motion() if motion is None else motion
    return [judge(each, motion, session, each.fix_time) for each in fixes]


def drive(speed: float = 10.0, count: int = 8, every: float = 5.0, start: float = 0.0) -> Iterator[Fix]:
    """Northward, steadily, from the place where these tests begin."""
    for number in range(count):
        yield fix(start + number * every, north=speed * number * every)


def driven(speed: float = 10.0, count: int = 8, every: float = 5.0) -> Motion:
    motion = Motion()
    assert all(verdict == CLEAN_LIVE for verdict in run(drive(speed, count, every), motion))
    return motion


# --- rejections -----------------------------------------------------------------------------------------------------

NAN = math.nan
EDGES: list[tuple[str, float, float, str]] = [
    ("latitude", 90.0, 90.001, "-90 to 90"),
    ("latitude", -90.0, -90.001, "-90 to 90"),
    ("longitude", 180.0, 180.001, "-180 to 180"),
    ("longitude", -180.0, -180.001, "-180 to 180"),
    ("accuracy", 0.0, -0.001, "0 metres or more"),
]


@pytest.mark.parametrize(("field", "inside", "outside", "allowed"), EDGES)
def test_a_value_out_of_range_is_rejected_with_field_value_and_range(
    field: str, inside: float, outside: float, allowed: str
) -> None:
    good = fix()
    setattr(good, field, inside)
    assert reject(good, NOW) is None
    for value in (outside, NAN):
        bad = fix()
        setattr(bad, field, value)
        rejected = reject(bad, NOW)
        assert rejected is not None
        code, detail = rejected
        assert code is ErrorCode.OUT_OF_RANGE
        assert f"`{field}`" in detail and str(value) in detail and allowed in detail


def test_a_latitude_that_may_be_a_longitude_is_asked_about() -> None:
    sydney = reject(fix(latitude=151.2, longitude=-33.9), NOW)
    assert sydney is not None and "exchanged" in sydney[1]
    nowhere = reject(Fix(1, NOW, 151.2, 170.0), NOW)
    assert nowhere is not None and "exchanged" not in nowhere[1]


@pytest.mark.parametrize(
    ("code", "taken", "thrown_away"),
    [(ErrorCode.CLOCK_SKEW, 60_000, 60_001), (ErrorCode.TOO_OLD, -7 * DAY, -7 * DAY - 1)],
)
def test_a_clock_far_off_is_rejected_with_how_far(code: ErrorCode, taken: int, thrown_away: int) -> None:
    assert reject(Fix(1, NOW + taken, LATITUDE, LONGITUDE), NOW) is None
    rejected = reject(Fix(1, NOW + thrown_away, LATITUDE, LONGITUDE), NOW)
    assert rejected is not None and rejected[0] is code
    assert str(abs(thrown_away)) in rejected[1] and str(abs(taken)) in rejected[1]


def test_every_reason_has_one_predicate_and_its_name() -> None:
    assert {suspicion for suspicion, _ in SUSPICIONS} == set(Suspicion)
    assert all(predicate.__name__ == suspicion for suspicion, predicate in SUSPICIONS)
    assert all(predicate.__name__ == code for code, predicate in REJECTIONS)


# --- what is not believed -------------------------------------------------------------------------------------------

UNTRUE: list[tuple[str, float, float]] = [
    ("speed", 0.0, -0.001),
    ("speed", 150.0, 150.001),
    ("bearing", 360.0, 360.001),
    ("bearing", 0.0, -0.001),
    ("altitude", -1_000.0, -1_000.1),
    ("altitude", 20_000.0, 20_000.1),
    ("battery", 1.0, 1.001),
    ("battery", 0.0, -0.001),
]


@pytest.mark.parametrize(("field", "inside", "outside"), UNTRUE)
def test_an_optional_value_that_cannot_be_true_is_unknown_and_costs_nothing_else(
    field: str, inside: float, outside: float
) -> None:
    good = fix()
    setattr(good, field, inside)
    assert filters.drop_untrue(good) == ()
    assert getattr(good, field) == inside
    for value in (outside, -math.inf, math.inf, NAN, -1e300, 1e300):
        bad = fix(speed=8.0, accuracy=5.0)
        setattr(bad, field, value)
        assert reject(bad, NOW) is None
        assert filters.drop_untrue(bad) == (field,)
        assert getattr(bad, field) is UNSET
        assert bad.accuracy == 5.0 and (field == "speed" or bad.speed == 8.0)


def believed(fixes: Iterable[Fix], motion: Motion | None = None) -> list[bool]:
    """Of each of these, all of which are clean, whether the speed that it reports is believed."""
    motion = Motion() if motion is None else motion
    given = list(fixes)
    assert [live for _, live in run(given, motion)] == [True] * len(given)
    return [each.speed is not UNSET for each in given]


def reporting(speed: float, real: float, every: float, count: int = 20, start: float = 0.0) -> Iterator[Fix]:
    """Northward at `real` m/s, reporting `speed`."""
    for number in range(count):
        yield fix(start + number * every, north=real * (start + number * every), speed=speed)


@pytest.mark.parametrize("every", [1.0, 2.0, 5.0, 10.0])
@pytest.mark.parametrize(("speed", "real"), [(60.0, 3.0), (140.0, 30.0)])
def test_a_speed_far_above_what_the_places_show_is_never_believed(speed: float, real: float, every: float) -> None:
    assert not any(believed(reporting(speed, real, every)))
    # Nor once among good ones.
    motion = driven(real, every=every)
    assert believed([fix(8 * every, north=8 * every * real, speed=speed)], motion) == [False]
    assert motion.speed < 1.1 * real + 1.0
    assert believed([fix(9 * every, north=9 * every * real, speed=real)], motion) == [True]


@pytest.mark.parametrize("every", [1.0, 5.0])
def test_a_speed_that_claims_too_much_for_long_is_not_believed_for_long(every: float) -> None:
    motion = Motion()
    verdicts = believed(reporting(15.0, 1.0, every, 30), motion)
    assert sum(verdicts) * every <= 10.0 and not any(verdicts[5:])
    # Nor for ever: once it says what the places show, it is believed again.
    assert believed(reporting(1.0, 1.0, every, 40, start=30 * every), motion)[-1]


@pytest.mark.parametrize("off", [0.8, 0.9, 1.1, 1.2])
@pytest.mark.parametrize("every", [0.1, 1.0, 5.0, 15.0])
@pytest.mark.parametrize("real", [0.0, 2.0, 10.0, 20.0])
def test_a_speed_slightly_off_is_believed(real: float, every: float, off: float) -> None:
    fixes = [fix(n * every, north=real * n * every, east=0.5 * (-1) ** n, speed=real * off) for n in range(40)]
    assert all(believed(fixes))


@given(
    st.lists(st.floats(-3.5, 3.5), min_size=10, max_size=60),
    st.lists(st.floats(-0.35, 0.35), min_size=60, max_size=60),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.floats(0.0, 40.0),
)
def test_whatever_a_driver_does_the_speed_is_believed(
    pulls: list[float], turns: list[float], every: float, start: float
) -> None:
    """Accelerating, braking and turning as hard as a road vehicle does, a step of 0.1 s at a time."""
    north = east = heading = time = 0.0
    speed = min(start, filters.UNKNOWN_SPEED)
    fixes = [fix(0, speed=speed)]
    for pull, turn in zip(pulls, turns, strict=False):
        for _ in range(round(every * 10)):
            speed = min(max(speed + pull * 0.1, 0.0), 45.0)
            # A turn pulls sideways by speed times its rate.
            heading += min(max(turn, -3.5 / max(speed, 1.0)), 3.5 / max(speed, 1.0)) * 0.1
            north += math.cos(heading) * speed * 0.1
            east += math.sin(heading) * speed * 0.1
        time += every
        fixes.append(fix(time, north=north, east=east, speed=speed))
    assert all(believed(fixes))


def test_without_a_place_to_judge_by_a_speed_is_what_vehicles_mostly_drive() -> None:
    assert believed([fix(speed=25.0)]) == [True]
    assert believed([fix(speed=25.1)]) == [False]
    # A minute of silence says nothing of the speed now, within what a road vehicle drives.
    assert believed([fix(95, north=400, speed=49.0)], driven()) == [True]
    assert believed([fix(95, north=400, speed=51.0)], driven()) == [False]


@pytest.mark.parametrize("speed", [25.1, 29.0, 33.0])
@pytest.mark.parametrize("every", [1.0, 2.0])
def test_what_is_assumed_of_a_vehicle_says_nothing_for_its_speed(speed: float, every: float) -> None:
    """A device that gives km/h, or any number, begins: the second fix has the first one's place beside it, and no more."""
    for real in (0.0, 3.0, 7.0):
        step = real * every + 3.0  # and it wanders
        assert not any(believed([fix(n * every, north=n * step, speed=speed) for n in range(3)]))
        assert not any(believed([fix(n * every, north=n * step, speed=speed) for n in range(1, 4)], after_a_restart()))
    # Who really drives so is believed from the second fix on, and who did before the hub's restart at once.
    assert believed(reporting(speed, speed, every, 4)) == [False, True, True, True]
    assert all(believed(reporting(speed, speed, every, 4, start=every), after_a_restart(speed)))


def after_a_restart(speed: float | None = None) -> Motion:
    motion = Motion()
    motion.seed(LATITUDE, LONGITUDE, NOW, speed)
    return motion


def test_who_stood_at_the_very_same_place_for_longer_than_a_receiver_freezes_does_not_drive() -> None:
    motion = Motion()
    run([fix()], motion)
    verdicts = run((fix(each, speed=10.0) for each in range(5, 180, 5)), motion)
    assert set(verdicts) == {((Suspicion.FROZEN,), False)}
    assert believed([fix(185, speed=10.0)], motion) == [False]


def test_the_speed_of_a_late_fix_is_judged_by_its_neighbours_in_time() -> None:
    for speed, wanted in ((11.0, True), (60.0, False)):
        late = fix(12, north=120, speed=speed)
        assert judge(late, driven(), 1, NOW) == CLEAN_LATE
        assert (late.speed is not UNSET) is wanted


@pytest.mark.parametrize("speed", [60.0, 150.0, 1e308])
def test_a_speed_that_is_not_believed_widens_no_reach(speed: float) -> None:
    motion = driven()
    assert judge(fix(40, north=400, speed=speed), motion, 1, NOW) == CLEAN_LIVE
    # 100 m of noise and what 10 m/s reach in 5 s: 196 m.
    assert judge(fix(45, north=400 + 250, speed=0.0), motion, 1, NOW)[0] == (Suspicion.JUMP,)


@pytest.mark.parametrize("accuracy", [1e4, 1e12, 1e300])
def test_an_absurd_accuracy_widens_no_reach(accuracy: float) -> None:
    motion = driven()
    vague = fix(40, north=400, accuracy=accuracy)
    assert judge(vague, motion, 1, NOW) == ((Suspicion.INACCURATE,), False)
    assert judge(fix(45, north=2_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)


# --- suspicions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "doubted"), [(0.0, True), (0.0099, True), (0.0101, False)])
def test_null_island(degrees: float, doubted: bool) -> None:
    for latitude, longitude in ((degrees, 0.0), (0.0, -degrees), (-degrees, degrees)):
        suspicions, live = judge(Fix(1, NOW, latitude, longitude), Motion(), 1, NOW)
        assert suspicions == ((Suspicion.NULL_ISLAND,) if doubted else ())
        assert live is not doubted


@pytest.mark.parametrize(("accuracy", "doubted"), [(UNSET, False), (200.0, False), (200.1, True)])
def test_inaccurate(accuracy: float | UnsetType, doubted: bool) -> None:
    suspicions, live = judge(fix(accuracy=accuracy), Motion(), 1, NOW)
    assert suspicions == ((Suspicion.INACCURATE,) if doubted else ())
    assert live is not doubted


def test_every_reason_is_reported() -> None:
    far_and_vague = fix(40, north=20_000, accuracy=900.0)
    assert judge(far_and_vague, driven(), 1, NOW) == ((Suspicion.INACCURATE, Suspicion.JUMP), False)
    nowhere = Fix(1, NOW - 3_600_000, 0.0, 0.0)
    # An hour at any speed does not lead there.
    assert judge(nowhere, driven(), 1, NOW) == ((Suspicion.NULL_ISLAND, Suspicion.CLOCK_BACK, Suspicion.JUMP), False)


def test_swapped_needs_to_be_in_reach_once_exchanged() -> None:
    motion = driven()
    assert judge(mirrored(fix(40, north=400)), motion, 1, NOW) == ((Suspicion.SWAPPED, Suspicion.JUMP), False)
    assert judge(mirrored(fix(41, north=20_000)), motion, 1, NOW) == ((Suspicion.JUMP,), False)
    assert judge(fix(42, north=420), motion, 1, NOW) == CLEAN_LIVE


def test_swapped_means_nothing_where_latitude_and_longitude_are_alike() -> None:
    motion = Motion()
    for number in range(5):
        place = Fix(1, NOW + 5_000 * number, 45.0 + number * 1e-4, 45.0)
        assert judge(place, motion, 1, NOW) == CLEAN_LIVE
        assert judge(mirrored(Fix(1, place.fix_time + 2_000, place.latitude, 45.0)), motion, 1, NOW) == CLEAN_LIVE


def test_a_device_that_exchanges_them_outlasts_a_long_drive_but_not_one_bad_fix() -> None:
    rooted = driven(count=30)
    verdicts = run((mirrored(fix(150 + 5 * number, north=1_500 + 50 * number)) for number in range(20)), rooted)
    assert verdicts == [((Suspicion.SWAPPED, Suspicion.JUMP), False)] * 20

    at_last = run((mirrored(fix(250 + 5 * number, north=2_500 + 50 * number)) for number in range(2)), rooted)
    assert at_last == [CLEAN_LIVE] * 2, "never suspect for ever"

    wrong_from_the_start = Motion()
    assert run([mirrored(fix())], wrong_from_the_start) == [CLEAN_LIVE]
    assert [live for _, live in run(drive(start=15), wrong_from_the_start)] == [False] + [True] * 7


def test_clock_back_begins_where_late_delivery_ends() -> None:
    newest = 35.0
    for back, doubted in ((600.0, False), (600.001, True)):
        suspicions, live = judge(fix(newest - back), driven(), 1, NOW)
        assert suspicions == ((Suspicion.CLOCK_BACK,) if doubted else ())
        assert not live


def test_clock_back_is_about_one_session_and_each_is_remembered() -> None:
    motion = driven()
    hour_ago = fix(-3600)
    assert judge(hour_ago, motion, 2, NOW) == CLEAN_LATE
    assert judge(hour_ago, motion, 1, NOW) == ((Suspicion.CLOCK_BACK,), False)
    assert judge(fix(-3600 - 601), motion, 2, NOW) == ((Suspicion.CLOCK_BACK,), False)


def test_a_clock_that_went_back_does_not_hold_up_what_is_right() -> None:
    motion = driven()
    assert all(suspicions for suspicions, _ in run(drive(start=-3600), motion))
    assert judge(fix(40, north=400), motion, 1, NOW) == CLEAN_LIVE


@pytest.mark.parametrize(
    ("speed", "seconds", "doubted"),
    [(2.9, 5.0, False), (3.0, 5.0, True), (15.0, 0.1, False), (15.0, 0.2, True), (0.0, 5.0, False)],
)
def test_frozen_by_its_reported_speed(speed: float, seconds: float, doubted: bool) -> None:
    motion = Motion()
    assert judge(fix(), motion, 1, NOW) == CLEAN_LIVE
    suspicions, live = judge(fix(seconds, speed=speed), motion, 1, NOW)
    assert suspicions == ((Suspicion.FROZEN,) if doubted else ())
    assert live is not doubted


def test_frozen_without_speed_unless_the_receiver_is_known_to_hold_still() -> None:
    def stops(stood: int) -> Judged:
        """After so many fixes at one place, a drive and then the same place again."""
        motion = Motion()
        run((fix(-60 + 5 * number) for number in range(stood)), motion)
        run(drive(), motion)
        return judge(fix(40, north=350), motion, 1, NOW)

    # The drive begins where the vehicle stood, which is one repeat more.
    assert stops(0) == stops(filters.RESTLESS_FIRST - 1) == ((Suspicion.FROZEN,), False)
    assert stops(filters.RESTLESS_FIRST) == CLEAN_LIVE


def test_a_receiver_that_repeats_itself_at_every_stop_is_soon_known() -> None:
    motion = Motion()
    run((fix(-30 + 5 * number, north=float(number % 2)) for number in range(6)), motion)
    doubted = []
    for stop in range(4):
        run(drive(start=stop * 100), motion)
        doubted.append(
            sum(
                bool(suspicions)
                for suspicions, _ in run((fix(stop * 100 + 40 + 5 * number, 350) for number in range(8)), motion)
            )
        )
        # Back at the start in time for the next drive.
        run([fix(stop * 100 + 90)], motion)
    assert doubted[0] > 0 and doubted[1:] == [0, 0, 0]


def test_a_receiver_that_held_its_position_for_long_is_not_doubted_for_wandering_once() -> None:
    motion = Motion()
    run((fix(-100 + 5 * number) for number in range(12)), motion)
    run((fix(-30 + 5 * number, north=float(number % 2)) for number in range(5)), motion)
    run(drive(), motion)
    assert judge(fix(40, north=350), motion, 1, NOW) == CLEAN_LIVE


def test_frozen_ends_with_a_metre_and_is_given_up_after_three_minutes() -> None:
    motion = driven()
    verdicts = run((fix(40 + each, north=350, speed=10.0) for each in range(0, 300, 5)), motion)
    first_live = next(number for number, (_, live) in enumerate(verdicts) if live)
    assert (40 + first_live * 5) - 35 > filters.FREEZE / 1000 >= (40 + first_live * 5) - 40
    assert judge(fix(400, north=351, speed=10.0), motion, 1, NOW) == CLEAN_LIVE


@pytest.mark.parametrize(
    ("speed", "seconds", "reach"),
    [
        # noise 100 + (speed + 1 m/s² · (t + 1)) · (t + 1)
        (10.0, 5.0, 196.0),
        (10.0, 15.0, 516.0),
        # noise 100 + 50 m/s · (t + 1)
        (10.0, 59.0, 3_100.0),
    ],
)
def test_jump_is_what_the_vehicle_cannot_reach(speed: float, seconds: float, reach: float) -> None:
    for beyond, doubted in ((-5.0, False), (5.0, True)):
        motion = driven(speed, count=30)
        suspicions, live = judge(fix(29 * 5 + seconds, north=29 * 5 * speed + reach + beyond), motion, 1, NOW)
        assert suspicions == ((Suspicion.JUMP,) if doubted else ())
        assert live is not doubted


def test_jump_allows_for_accuracy() -> None:
    assert judge(fix(40, north=350 + 300), driven(), 1, NOW)[0] == (Suspicion.JUMP,)
    assert judge(fix(40, north=350 + 300, accuracy=150.0), driven(), 1, NOW) == CLEAN_LIVE


def test_jump_allows_for_the_accuracy_of_the_fix_before() -> None:
    for accuracy, doubted in ((UNSET, True), (150.0, False)):
        motion = driven()
        assert judge(fix(40, north=400, accuracy=accuracy), motion, 1, NOW) == CLEAN_LIVE
        assert judge(fix(45, north=450 + 230), motion, 1, NOW)[0] == ((Suspicion.JUMP,) if doubted else ())


def test_jump_believes_the_speed_that_the_fix_itself_reports() -> None:
    for speed, doubted in ((UNSET, True), (60.0, False), (200.0, True)):
        assert judge(fix(45, north=350 + 600, speed=speed), driven(), 1, NOW)[0] == ((Suspicion.JUMP,) if doubted else ())


def test_jumps_apart_in_time_do_not_add_up() -> None:
    motion = driven()
    for number in range(8, 24, 2):
        assert judge(fix(5 * number, east=3_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)
        assert judge(fix(5 * number + 5, north=50 * number + 50), motion, 1, NOW) == CLEAN_LIVE


def test_one_jump_does_not_move_the_anchor() -> None:
    motion = driven()
    assert judge(fix(40, east=3_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)
    assert judge(fix(45, north=450), motion, 1, NOW) == CLEAN_LIVE


def test_an_anchor_is_given_up_for_the_third_jump_that_agrees() -> None:
    towed = [fix(40 + 5 * number, east=30_000 + 10.0 * number) for number in range(6)]
    assert [live for _, live in run(towed, driven())] == [False, False, True, True, True, True]


def test_a_wrong_first_fix_costs_one_right_one() -> None:
    verdicts = run([fix(-15, east=4_000), *drive()])
    assert [live for _, live in verdicts] == [True, False] + [True] * 7


def test_what_led_to_a_wrong_anchor_is_forgotten_with_it() -> None:
    motion = Motion()
    assert [live for _, live in run([fix(-15, east=4_000), *drive()], motion)] == [True, False] + [True] * 7
    assert judge(fix(-10, north=-100), motion, 1, NOW) == CLEAN_LATE


def test_a_new_anchor_is_as_rooted_as_what_agreed_with_it() -> None:
    motion = driven()
    run((fix(40 + 5 * number, east=30_000) for number in range(3)), motion)
    back = [fix(55 + 5 * number, north=550 + 50 * number) for number in range(4)]
    assert [live for _, live in run(back, motion)] == [False, False, True, True]


def test_jumps_that_do_not_agree_end_the_anchor_too() -> None:
    wild = [fix(40 + 5 * number, east=(-1) ** number * 200_000 * (number + 1)) for number in range(6)]
    assert [live for _, live in run(wild, driven())] == [False] * 5 + [True]


# --- life -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0.1, 1.0, 5.0, 15.0, 60.0])
@pytest.mark.parametrize("speed", [0.0, 8.0, 45.0])
def test_a_vehicle_that_drives_steadily_is_clean(speed: float, every: float) -> None:
    assert run(drive(speed, 40, every)) == [CLEAN_LIVE] * 40


@pytest.mark.parametrize("every", [1.0, 5.0, 30.0])
def test_a_train_is_believed_its_speed(every: float) -> None:
    fixes = [fix(number * every, north=90.0 * number * every, speed=90.0) for number in range(40)]
    assert run(fixes) == [CLEAN_LIVE] * 40


def test_noise_at_ten_fixes_a_second_is_no_speed() -> None:
    motion = Motion()
    assert run((fix(number / 10, east=3.0 * (-1) ** number) for number in range(300)), motion) == [CLEAN_LIVE] * 300
    assert len(motion.recent) == filters.RECENT
    assert motion.speed < 7.0
    assert judge(fix(35, north=350), motion, 1, NOW)[0] == (Suspicion.JUMP,)


def test_a_train_without_speed_is_clean_once_it_was_seen_going_so_fast() -> None:
    verdicts = run(drive(90.0, 40, 15.0))
    assert all(live for _, live in verdicts[filters.GIVE_UP :])


@pytest.mark.parametrize("step", [4e-4, -4e-4])
def test_over_the_antimeridian(step: float) -> None:
    motion = Motion()
    for number in range(-6, 6):
        longitude = (step * number) % 360.0 - 180.0
        assert judge(Fix(1, NOW + 5_000 * number, -17.0, longitude), motion, 1, NOW) == CLEAN_LIVE
        assert number == -6 or motion.speed < 15.0


def test_over_the_pole_the_great_circle_counts() -> None:
    motion = Motion()
    motion.seed(80.0, 0.0, NOW - 57_000_000)
    # 2,224 km; along the parallel it would be 3,475, and 2,850 are in reach.
    assert judge(Fix(1, NOW, 80.0, 180.0), motion, 1, NOW) == CLEAN_LIVE


def test_one_noisy_step_is_not_taken_for_speed() -> None:
    motion = driven(count=40, every=1.0)
    assert judge(fix(40, north=480), motion, 1, NOW) == CLEAN_LIVE
    assert motion.speed < 25.0


def test_a_backlog_of_another_session_is_late_and_clean() -> None:
    motion = Motion()
    assert run(drive(count=20, start=300), motion, session=2) == [CLEAN_LIVE] * 20
    assert run(drive(count=20, start=100), motion, session=1) == [CLEAN_LATE] * 20


def test_a_late_fix_is_judged_by_its_neighbours_in_time() -> None:
    motion = driven(speed=20.0, count=8, every=15.0)
    assert judge(fix(50, north=1_000), motion, 1, NOW) == CLEAN_LATE
    assert judge(fix(51, north=2_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)
    assert judge(fix(20, north=1_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)
    # By a late one before it, too.
    assert judge(fix(52, north=1_000), motion, 1, NOW) == CLEAN_LATE
    assert [entry[0] - NOW for entry in motion.recent if 50_000 <= entry[0] - NOW <= 52_000] == [50_000, 52_000]


def test_of_the_same_time_again_the_last_sent_is_shown() -> None:
    motion = driven()
    assert judge(fix(35, north=351), motion, 1, NOW) == CLEAN_LIVE
    assert motion.time == NOW + 35_000
    assert judge(fix(35, north=5_000), motion, 1, NOW) == ((Suspicion.JUMP,), False)


def test_a_seed_is_an_anchor_that_fades_with_time() -> None:
    for age, doubted in ((5.0, True), (2 * 86_400.0, False)):
        motion = Motion()
        motion.seed(LATITUDE, LONGITUDE, NOW - round(age * 1000), 12.0)
        assert judge(fix(0, north=50_000), motion, 1, NOW)[0] == ((Suspicion.JUMP,) if doubted else ())
    for driving, doubted in ((0.0, True), (30.0, False)):
        motion = Motion()
        motion.seed(LATITUDE, LONGITUDE, NOW - 10_000, driving)
        assert judge(fix(0, north=400), motion, 1, NOW)[0] == ((Suspicion.JUMP,) if doubted else ())
    older = driven()
    older.seed(-LATITUDE, LONGITUDE, NOW - DAY)
    assert judge(fix(40, north=400), older, 1, NOW) == CLEAN_LIVE


# --- of any stream --------------------------------------------------------------------------------------------------

numbers = st.floats(width=64)
optional = st.one_of(st.just(UNSET), numbers)
any_fix = st.builds(
    Fix,
    seq=st.integers(),
    fix_time=st.one_of(st.integers(), st.integers(NOW - 8 * DAY, NOW + 100_000)),
    latitude=numbers,
    longitude=numbers,
    accuracy=optional,
    altitude=optional,
    speed=optional,
    bearing=optional,
    battery=optional,
)
some_fix = st.builds(
    Fix,
    seq=st.integers(1, 100),
    fix_time=st.one_of(st.integers(NOW - 30_000, NOW), st.integers(NOW - 8 * DAY, NOW + 100_000)),
    latitude=st.one_of(st.floats(-0.02, 0.02), st.floats(41.0, 41.02), st.floats(-90, 90)),
    longitude=st.one_of(st.floats(-0.02, 0.02), st.floats(41.0, 41.02), st.floats(-180, 180)),
    accuracy=st.one_of(st.just(UNSET), st.floats(0, 1e308)),
    speed=st.one_of(st.just(UNSET), st.floats(0, 1e308)),
)
streams = st.lists(st.tuples(some_fix, st.integers(1, 6)), max_size=40)


@given(any_fix)
def test_rejecting_never_raises_and_leaves_only_what_can_be_judged(any_one: Fix) -> None:
    if reject(any_one, NOW) is None:
        filters.drop_untrue(any_one)
        assert all(value is UNSET or math.isfinite(value) for value in (any_one.altitude, any_one.speed, any_one.bearing))
        motion = Motion()
        for session in (1, 2):
            judge(any_one, motion, session, NOW)


@given(streams)
def test_live_is_clean_and_not_older_than_any_clean_one_before(stream: list[tuple[Fix, int]]) -> None:
    motion = Motion()
    newest = -math.inf
    for each, session in stream:
        if reject(each, NOW) is not None:
            continue
        suspicions, live = judge(each, motion, session, NOW)
        assert live == (not suspicions and each.fix_time >= newest)
        if live:
            newest = each.fix_time
        assert len(motion.recent) <= filters.RECENT
        assert [entry[0] for entry in motion.recent] == sorted(entry[0] for entry in motion.recent)


@given(streams)
def test_the_same_stream_is_judged_the_same(stream: list[tuple[Fix, int]]) -> None:
    taken = [(each, session) for each, session in stream if reject(each, NOW) is None]
    motions = Motion(), Motion()
    for each, session in taken:
        assert judge(each, motions[0], session, NOW) == judge(each, motions[1], session, NOW)


@given(any_fix)
def test_the_short_way_through_the_rejections_is_the_long_one(any_one: Fix) -> None:
    reasons = [(code, detail) for code, predicate in REJECTIONS if (detail := predicate(any_one, NOW)) is not None]
    assert reject(any_one, NOW) == (reasons[0] if reasons else None)


steps = st.builds(
    lambda north, east, seconds, speed, accuracy: (north, east, seconds, speed, accuracy),
    st.one_of(st.just(0.0), st.floats(-200, 200)),
    st.one_of(st.just(0.0), st.floats(-200, 200)),
    st.one_of(st.floats(-20, 20), st.floats(0, 5)),
    st.one_of(st.just(UNSET), st.floats(0, 40)),
    st.one_of(st.just(UNSET), st.floats(0, 400)),
)


@given(st.lists(steps, max_size=60), st.sampled_from([0.0, 0.009, 47.0, 89.9]), st.sampled_from([0.0, 9.5, 180.0, -179.9999]))
def test_the_short_way_through_the_suspicions_is_the_long_one(
    moves: list[tuple[float, float, float, float | UnsetType, float | UnsetType]], latitude: float, longitude: float
) -> None:
    """Whoever goes on from where it was is judged as by all the reasons, one after the other, and remembered as by them."""

    def judged(nearby: float) -> tuple[list[Judged], list[float | UnsetType], list[object]]:
        usual, filters.NEARBY = filters.NEARBY, nearby  # type: ignore[misc]
        try:
            motion = Motion()
            time, north, east, verdicts, speeds = NOW, 0.0, 0.0, [], []
            for to_north, to_east, seconds, speed, accuracy in moves:
                time, north, east = time + round(seconds * 1000), north + to_north, east + to_east
                x = (longitude + east / DEGREE + 540.0) % 360.0 - 180.0
                each = Fix(1, time, min(latitude + north / DEGREE, 90.0), x, accuracy=accuracy, speed=speed)
                verdicts.append(judge(each, motion, 1, NOW))
                speeds.append(each.speed)
            state = [getattr(motion, name) for name in Motion.__slots__ if name != "rival"]
            return verdicts, speeds, state
        finally:
            filters.NEARBY = usual  # type: ignore[misc]

    assert judged(filters.NEARBY) == judged(0.0)


@given(
    st.lists(st.integers(100, 3_600_000), min_size=1, max_size=50),
    st.floats(-89, 89).filter(lambda degrees: abs(degrees) > 0.01),
    st.floats(-180, 180),
    st.one_of(st.just(UNSET), st.floats(0, 2.9)),
)
def test_a_parked_car_is_never_doubted(gaps: list[int], latitude: float, longitude: float, speed: float | UnsetType) -> None:
    motion = Motion()
    time = NOW
    for gap in gaps:
        time += gap
        assert judge(Fix(1, time, latitude, longitude, speed=speed), motion, 1, time) == CLEAN_LIVE


@given(streams, st.floats(-80, 80).filter(lambda degrees: abs(degrees) > 1), st.floats(-179, 179))
def test_whatever_came_before_a_vehicle_is_believed_again_soon(
    stream: list[tuple[Fix, int]], latitude: float, longitude: float
) -> None:
    motion = Motion()
    for each, session in stream:
        if reject(each, NOW) is None:
            judge(each, motion, session, NOW)
    # Past what a fast clock may have claimed before.
    after = NOW + filters.CLOCK_SKEW
    fixes = [Fix(1, after + 5_000 * (number + 1), latitude + 1e-4 * number, longitude) for number in range(30)]
    verdicts = run(fixes, motion)
    assert verdicts[filters.ROOTED :] == [CLEAN_LIVE] * (30 - filters.ROOTED)
    first = next(number for number, (_, live) in enumerate(verdicts) if live)
    assert all(live for _, live in verdicts[first:])
    if not any(Suspicion.SWAPPED in suspicions for suspicions, _ in verdicts):
        assert first < filters.AGREEING


# --- the messy stream -----------------------------------------------------------------------------------------------


def test_the_messy_stream() -> None:
    tally = score(read_stream(NOW))
    print(f"\n{tally}")
    assert tally.missed("null_island") == tally.missed("swapped") == tally.missed("invalid") == 0
    assert tally.missed("bad_clock") <= 1
    assert tally.share_caught("jump") >= 0.8
    assert tally.share_doubted <= 0.01
    assert tally.share_near() >= 0.995
    assert tally.messages["ok"] > 9_000, "the stream is not whole"
