"""A vehicle's motion over a whole drive: speeds, late fixes, restarts, the antimeridian and the poles."""

import pytest

from tests.support.fixes import CLEAN_LATE, CLEAN_LIVE, DAY, LATITUDE, LONGITUDE, NOW, drive, driven, fix, run
from tracking.ingest.filters import judge
from tracking.ingest.jumps import GIVE_UP
from tracking.ingest.motion import RECENT, Motion
from tracking.model import Fix, Suspicion


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
    assert len(motion.recent) == RECENT
    assert motion.speed < 7.0
    assert judge(fix(35, north=350), motion, 1, NOW)[0] == (Suspicion.JUMP,)


def test_a_train_without_speed_is_clean_once_it_was_seen_going_so_fast() -> None:
    verdicts = run(drive(90.0, 40, 15.0))
    assert all(live for _, live in verdicts[GIVE_UP:])


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
    # A late fix before it counts as a neighbour, too.
    assert judge(fix(52, north=1_000), motion, 1, NOW) == CLEAN_LATE
    assert [entry[0] - NOW for entry in motion.recent if 50_000 <= entry[0] - NOW <= 52_000] == [50_000, 52_000]


def test_the_last_of_two_fixes_with_the_same_time_is_shown() -> None:
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
