"""Suspicions on both sides of each threshold. Those about jumps are in `test_jumps`."""

import pytest
from msgspec import UNSET, UnsetType

from tests.support.fixes import CLEAN_LATE, CLEAN_LIVE, NOW, Judged, drive, driven, fix, mirrored, run
from tracking.ingest.filters import judge
from tracking.ingest.kinematics import FREEZE
from tracking.ingest.motion import RESTLESS_FIRST, Motion
from tracking.model import Fix, Suspicion


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
    # That place can't be reached in an hour.
    assert judge(nowhere, driven(), 1, NOW) == ((Suspicion.NULL_ISLAND, Suspicion.CLOCK_BACK, Suspicion.JUMP), False)


def test_swapped_needs_to_be_in_reach_once_exchanged() -> None:
    motion = driven()
    assert judge(mirrored(fix(40, north=400)), motion, 1, NOW) == ((Suspicion.SWAPPED, Suspicion.JUMP), False)
    assert judge(mirrored(fix(41, north=20_000)), motion, 1, NOW) == ((Suspicion.JUMP,), False)
    assert judge(fix(42, north=420), motion, 1, NOW) == CLEAN_LIVE


def test_swapped_means_nothing_if_latitude_and_longitude_are_alike() -> None:
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


def test_a_clock_that_went_back_does_not_stop_later_right_fixes() -> None:
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
        """The verdict on a repeated position after `stood` fixes at one place and a drive."""
        motion = Motion()
        run((fix(-60 + 5 * number) for number in range(stood)), motion)
        run(drive(), motion)
        return judge(fix(40, north=350), motion, 1, NOW)

    # The drive starts at the same place, which is one more repeat.
    assert stops(0) == stops(RESTLESS_FIRST - 1) == ((Suspicion.FROZEN,), False)
    assert stops(RESTLESS_FIRST) == CLEAN_LIVE


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
        # The vehicle returns to the start before the next drive.
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
    assert (40 + first_live * 5) - 35 > FREEZE / 1000 >= (40 + first_live * 5) - 40
    assert judge(fix(400, north=351, speed=10.0), motion, 1, NOW) == CLEAN_LIVE
