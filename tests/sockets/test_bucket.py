"""The bucket that limits what a client sends."""

from hypothesis import given
from hypothesis import strategies as st

from tracking.sockets.bucket import Bucket


def test_so_many_at_once_and_no_more() -> None:
    bucket = Bucket(10, 5, now=0)
    assert [bucket.take(0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_what_comes_in_with_time_may_be_taken() -> None:
    bucket = Bucket(10, 5, now=0)
    for _ in range(5):
        bucket.take(0)
    assert [bucket.take(99), bucket.take(200), bucket.take(200), bucket.take(200)] == [False, True, True, False]


def test_a_clock_that_is_set_back_neither_fills_nor_jams_it() -> None:
    bucket = Bucket(10, 2, now=10_000)
    assert [bucket.take(10_000), bucket.take(10_000), bucket.take(0)] == [True, True, False]
    assert bucket.take(100)


@given(st.lists(st.integers(0, 40), max_size=300))
def test_never_more_than_the_burst_and_what_came_in(pauses: list[int]) -> None:
    """Whatever the rhythm: no more than burst + rate x time gets through, and who keeps to the rate is never refused."""
    bucket = Bucket(100, 10, now=0)
    now = taken = 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
        # What was granted lasts until it is used up, so one burst more may be under way.
        assert taken <= 20 + now * 0.1
    steady = Bucket(100, 10, now=0)
    assert all(steady.take(tick * 10) for tick in range(1, 500))
