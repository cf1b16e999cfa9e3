"""The filters together: what holds for any stream of fixes, and the score of the messy stream."""

import math

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from tests.support.fixes import CLEAN_LIVE, DAY, DEGREE, NOW, Judged, run
from tests.support.messy import read_stream, score
from tracking.ingest import filters
from tracking.ingest.filters import judge
from tracking.ingest.jumps import AGREEING
from tracking.ingest.motion import RECENT, ROOTED, Motion
from tracking.ingest.rejections import CLOCK_SKEW, REJECTIONS, reject
from tracking.ingest.suspicions import SUSPICIONS
from tracking.model import Fix, Suspicion

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


def test_every_reason_has_one_predicate_and_its_name() -> None:
    assert {suspicion for suspicion, _ in SUSPICIONS} == set(Suspicion)
    assert all(predicate.__name__ == suspicion for suspicion, predicate in SUSPICIONS)
    assert all(predicate.__name__ == code for code, predicate in REJECTIONS)


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
        assert len(motion.recent) <= RECENT
        assert [entry[0] for entry in motion.recent] == sorted(entry[0] for entry in motion.recent)


@given(streams)
def test_the_same_stream_is_judged_the_same(stream: list[tuple[Fix, int]]) -> None:
    taken = [(each, session) for each, session in stream if reject(each, NOW) is None]
    motions = Motion(), Motion()
    for each, session in taken:
        assert judge(each, motions[0], session, NOW) == judge(each, motions[1], session, NOW)


steps = st.builds(
    lambda north, east, seconds, speed, accuracy: (north, east, seconds, speed, accuracy),
    st.one_of(st.just(0.0), st.floats(-200, 200)),
    st.one_of(st.just(0.0), st.floats(-200, 200)),
    st.one_of(st.floats(-20, 20), st.floats(0, 5)),
    st.one_of(st.just(UNSET), st.floats(0, 40)),
    st.one_of(st.just(UNSET), st.floats(0, 400)),
)


@given(st.lists(steps, max_size=60), st.sampled_from([0.0, 0.009, 47.0, 89.9]), st.sampled_from([0.0, 9.5, 180.0, -179.9999]))
def test_the_fast_path_gives_the_same_verdicts_as_all_suspicions(
    moves: list[tuple[float, float, float, float | UnsetType, float | UnsetType]], latitude: float, longitude: float
) -> None:
    """A fix near the last one gets the verdict that all predicates give, and leaves the same motion."""

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
def test_a_vehicle_is_believed_soon_after_any_stream(stream: list[tuple[Fix, int]], latitude: float, longitude: float) -> None:
    motion = Motion()
    for each, session in stream:
        if reject(each, NOW) is None:
            judge(each, motion, session, NOW)
    # After the latest time that a fast clock may have reported.
    after = NOW + CLOCK_SKEW
    fixes = [Fix(1, after + 5_000 * (number + 1), latitude + 1e-4 * number, longitude) for number in range(30)]
    verdicts = run(fixes, motion)
    assert verdicts[ROOTED:] == [CLEAN_LIVE] * (30 - ROOTED)
    first = next(number for number, (_, live) in enumerate(verdicts) if live)
    assert all(live for _, live in verdicts[first:])
    if not any(Suspicion.SWAPPED in suspicions for suspicions, _ in verdicts):
        assert first < AGREEING


def test_the_messy_stream() -> None:
    tally = score(read_stream(NOW))
    print(f"\n{tally}")
    assert tally.missed("null_island") == tally.missed("swapped") == tally.missed("invalid") == 0
    assert tally.missed("bad_clock") <= 1
    assert tally.share_caught("jump") >= 0.8
    assert tally.share_doubted <= 0.01
    assert tally.share_near() >= 0.995
    assert tally.messages["ok"] > 9_000, "the stream is not whole"
