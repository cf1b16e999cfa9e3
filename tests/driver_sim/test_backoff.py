"""How long a client stays away before it tries again."""

import random

from hypothesis import given
from hypothesis import strategies as st

from driver_sim.backoff import full_jitter


@given(st.integers(0, 10_000), st.integers())
def test_full_jitter_is_bounded_by_a_doubling_span(attempt: int, seed: int) -> None:
    delay = full_jitter(first=0.5, longest=30.0, rng=random.Random(seed))(attempt)
    assert 0.0 <= delay <= min(30.0, 0.5 * 2.0 ** min(attempt, 40))


def test_full_jitter_spreads_over_the_whole_span() -> None:
    delay = full_jitter(first=1.0, longest=30.0, rng=random.Random(1))
    delays = [delay(3) for _ in range(1_000)]
    assert min(delays) < 0.5
    assert max(delays) > 7.5
