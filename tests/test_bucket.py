"""The bucket that limits what a client sends."""

from hypothesis import given
from hypothesis import strategies as st

from tracking.bucket import Bucket


def test_a_full_bucket_gives_its_burst_and_no_more() -> None:
    bucket = Bucket(10, 5, now=0)
    assert [bucket.take(0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_a_bucket_fills_with_time() -> None:
    bucket = Bucket(10, 5, now=0)
    for _ in range(5):
        bucket.take(0)
    assert [bucket.take(99), bucket.take(200), bucket.take(200), bucket.take(200)] == [False, True, True, False]


def test_a_clock_that_is_set_back_neither_fills_nor_blocks_a_bucket() -> None:
    bucket = Bucket(10, 2, now=10_000)
    assert [bucket.take(10_000), bucket.take(10_000), bucket.take(0)] == [True, True, False]
    assert bucket.take(100)


def test_an_amount_is_taken_whole_or_not_at_all() -> None:
    bucket = Bucket(10, 5, now=0)
    assert [bucket.take(0, 3), bucket.take(0, 3), bucket.take(0, 2)] == [True, False, True]


def test_more_than_the_burst_needs_a_full_bucket_and_empties_it() -> None:
    bucket = Bucket(10, 5, now=0)
    assert [bucket.take(0, 50), bucket.take(0), bucket.take(499, 50), bucket.take(500, 50)] == [True, False, False, True]


def test_what_is_given_back_may_be_taken_again_up_to_the_burst() -> None:
    bucket = Bucket(10, 5, now=0)
    assert bucket.take(0, 4)
    bucket.give_back(3)
    assert [bucket.take(0, 5), bucket.take(0, 4)] == [False, True]
    bucket.give_back(50)
    assert [bucket.take(0, 6), bucket.take(0)] == [True, False]


def test_a_bucket_says_how_long_to_wait() -> None:
    bucket = Bucket(10, 5, now=0)
    bucket.take(0, 4)
    assert [bucket.wait(1), bucket.wait(3), bucket.wait(50)] == [0.0, 0.2, 0.4]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=300))
def test_no_rhythm_gets_more_than_the_burst_and_the_rate(steps: list[tuple[int, int]]) -> None:
    """No rhythm gets more than burst + rate x time. A client that waits as long as told may take."""
    bucket = Bucket(100, 10, now=0)
    now = taken = 0
    for pause, amount in steps:
        now += pause
        if bucket.take(now, amount):
            taken += amount
        else:
            now += round(bucket.wait(amount) * 1000)
            assert bucket.take(now, amount)
            taken += amount
        assert taken <= 10 + now * 0.1 + 1e-6


def test_a_debt_is_paid_off_before_anything_is_taken() -> None:
    bucket = Bucket(10, 100, 0)
    assert bucket.take(0, 0)
    bucket.owe(0, 150)
    assert not bucket.take(0, 0)
    assert bucket.wait(0) == 5.0
    assert not bucket.take(4_900, 0)
    assert bucket.take(5_000, 0)
    assert not bucket.take(5_000, 1)
