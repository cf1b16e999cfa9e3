"""The hub's beat: it visits all feeds and dispatchers once in a while, a part at a time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tracking.hub.hub import Steps


@given(st.lists(st.integers(min_value=0, max_value=200), min_size=1, max_size=6), st.integers(min_value=1, max_value=60))
def test_each_round_visits_everything_once_in_parts_of_the_same_size(sizes: list[int], count: int) -> None:
    items: list[int] = []
    steps = Steps(lambda: items, count)
    for size in sizes:
        items = list(range(size))
        parts = [steps.next() for _ in range(count)]
        assert Counter(item for part in parts for item in part) == Counter(items)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_changes_during_a_round_waits_for_the_next() -> None:
    items = {1, 2, 3, 4}
    steps = Steps(lambda: items, 2)
    first = steps.next()
    items.clear()
    assert sorted([*first, *steps.next()]) == [1, 2, 3, 4]
    assert [*steps.next(), *steps.next()] == []
