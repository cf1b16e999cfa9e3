"""Jumps: what a vehicle can't have reached, and when jumps in a row replace its position."""

import pytest
from msgspec import UNSET

from tests.support.fixes import CLEAN_LATE, CLEAN_LIVE, NOW, drive, driven, fix, run
from tracking.ingest.filters import judge
from tracking.ingest.motion import Motion
from tracking.model import Suspicion


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
def test_a_position_out_of_reach_is_a_jump(speed: float, seconds: float, reach: float) -> None:
    for beyond, doubted in ((-5.0, False), (5.0, True)):
        motion = driven(speed, count=30)
        suspicions, live = judge(fix(29 * 5 + seconds, north=29 * 5 * speed + reach + beyond), motion, 1, NOW)
        assert suspicions == ((Suspicion.JUMP,) if doubted else ())
        assert live is not doubted


def test_a_jump_allows_for_accuracy() -> None:
    assert judge(fix(40, north=350 + 300), driven(), 1, NOW)[0] == (Suspicion.JUMP,)
    assert judge(fix(40, north=350 + 300, accuracy=150.0), driven(), 1, NOW) == CLEAN_LIVE


def test_a_jump_allows_for_the_accuracy_of_the_fix_before() -> None:
    for accuracy, doubted in ((UNSET, True), (150.0, False)):
        motion = driven()
        assert judge(fix(40, north=400, accuracy=accuracy), motion, 1, NOW) == CLEAN_LIVE
        assert judge(fix(45, north=450 + 230), motion, 1, NOW)[0] == ((Suspicion.JUMP,) if doubted else ())


def test_a_jump_allows_for_the_speed_that_the_fix_reports() -> None:
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


def test_positions_before_a_wrong_anchor_are_forgotten_with_it() -> None:
    motion = Motion()
    assert [live for _, live in run([fix(-15, east=4_000), *drive()], motion)] == [True, False] + [True] * 7
    assert judge(fix(-10, north=-100), motion, 1, NOW) == CLEAN_LATE


def test_a_new_anchor_has_the_support_of_the_jumps_that_agreed() -> None:
    motion = driven()
    run((fix(40 + 5 * number, east=30_000) for number in range(3)), motion)
    back = [fix(55 + 5 * number, north=550 + 50 * number) for number in range(4)]
    assert [live for _, live in run(back, motion)] == [False, False, True, True]


def test_jumps_that_do_not_agree_end_the_anchor_too() -> None:
    wild = [fix(40 + 5 * number, east=(-1) ** number * 200_000 * (number + 1)) for number in range(6)]
    assert [live for _, live in run(wild, driven())] == [False] * 5 + [True]
