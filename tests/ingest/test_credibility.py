"""Optional values that can't be true, and speeds that the positions contradict."""

import math
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from tests.support.fixes import CLEAN_LATE, CLEAN_LIVE, LATITUDE, LONGITUDE, NOW, driven, fix, run
from tracking.ingest.credibility import drop_untrue
from tracking.ingest.filters import judge
from tracking.ingest.kinematics import UNKNOWN_SPEED
from tracking.ingest.motion import Motion
from tracking.ingest.rejections import reject
from tracking.model import Fix, Suspicion

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
def test_an_optional_value_that_cannot_be_true_becomes_unknown_and_nothing_else_does(
    field: str, inside: float, outside: float
) -> None:
    good = fix()
    setattr(good, field, inside)
    assert drop_untrue(good) == ()
    assert getattr(good, field) == inside
    for value in (outside, -math.inf, math.inf, math.nan, -1e300, 1e300):
        bad = fix(speed=8.0, accuracy=5.0)
        setattr(bad, field, value)
        assert reject(bad, NOW) is None
        assert drop_untrue(bad) == (field,)
        assert getattr(bad, field) is UNSET
        assert bad.accuracy == 5.0 and (field == "speed" or bad.speed == 8.0)


def believed(fixes: Iterable[Fix], motion: Motion | None = None) -> list[bool]:
    """Whether the reported speed of each fix is believed. All fixes are clean."""
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
def test_a_speed_far_above_the_measured_one_is_never_believed(speed: float, real: float, every: float) -> None:
    assert not any(believed(reporting(speed, real, every)))
    # Nor is a single one among good ones.
    motion = driven(real, every=every)
    assert believed([fix(8 * every, north=8 * every * real, speed=speed)], motion) == [False]
    assert motion.speed < 1.1 * real + 1.0
    assert believed([fix(9 * every, north=9 * every * real, speed=real)], motion) == [True]


@pytest.mark.parametrize("every", [1.0, 5.0])
def test_a_speed_that_stays_too_high_is_not_believed_for_long(every: float) -> None:
    motion = Motion()
    verdicts = believed(reporting(15.0, 1.0, every, 30), motion)
    assert sum(verdicts) * every <= 10.0 and not any(verdicts[5:])
    # It is believed again once it matches the positions.
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
def test_the_speed_of_any_possible_drive_is_believed(
    pulls: list[float], turns: list[float], every: float, start: float
) -> None:
    """Accelerating, braking and turning as hard as a road vehicle does, a step of 0.1 s at a time."""
    north = east = heading = time = 0.0
    speed = min(start, UNKNOWN_SPEED)
    fixes = [fix(0, speed=speed)]
    for pull, turn in zip(pulls, turns, strict=False):
        for _ in range(round(every * 10)):
            speed = min(max(speed + pull * 0.1, 0.0), 45.0)
            # The sideways acceleration of a turn is the speed times the rate of turn.
            heading += min(max(turn, -3.5 / max(speed, 1.0)), 3.5 / max(speed, 1.0)) * 0.1
            north += math.cos(heading) * speed * 0.1
            east += math.sin(heading) * speed * 0.1
        time += every
        fixes.append(fix(time, north=north, east=east, speed=speed))
    assert all(believed(fixes))


def test_a_speed_without_a_position_before_it_is_believed_up_to_the_usual_one() -> None:
    assert believed([fix(speed=25.0)]) == [True]
    assert believed([fix(speed=25.1)]) == [False]
    # After a minute of silence, any speed of a road vehicle is possible.
    assert believed([fix(95, north=400, speed=49.0)], driven()) == [True]
    assert believed([fix(95, north=400, speed=51.0)], driven()) == [False]


@pytest.mark.parametrize("speed", [25.1, 29.0, 33.0])
@pytest.mark.parametrize("every", [1.0, 2.0])
def test_an_assumed_speed_is_no_evidence_for_a_reported_speed(speed: float, every: float) -> None:
    """A device that reports km/h, or any number, connects. Its second fix can be compared with the first position only."""
    for real in (0.0, 3.0, 7.0):
        step = real * every + 3.0  # The receiver wanders as well.
        assert not any(believed([fix(n * every, north=n * step, speed=speed) for n in range(3)]))
        assert not any(believed([fix(n * every, north=n * step, speed=speed) for n in range(1, 4)], after_a_restart()))
    # A vehicle that drives so is believed from its second fix on, and at once if it did so before the hub's restart.
    assert believed(reporting(speed, speed, every, 4)) == [False, True, True, True]
    assert all(believed(reporting(speed, speed, every, 4, start=every), after_a_restart(speed)))


def after_a_restart(speed: float | None = None) -> Motion:
    motion = Motion()
    motion.seed(LATITUDE, LONGITUDE, NOW, speed)
    return motion


def test_a_vehicle_at_the_same_place_for_longer_than_receivers_freeze_does_not_drive() -> None:
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
