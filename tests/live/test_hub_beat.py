"""The hub's beat: it visits all feeds and dispatchers once in a while, a part at a time."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tracking.live.hub import Steps, Turns


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


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=60), st.integers(min_value=1, max_value=12))
def test_whoever_joins_has_a_turn_within_each_round_from_then_on(comings: list[tuple[int, bool]], count: int) -> None:
    """This holds while others come and go. To a dispatcher, a tick that is late by a round looks like a broken connection."""
    turns: Turns[int] = Turns(count)
    last: dict[int, int] = {}
    joined: dict[int, set[int]] = {}
    now = 0
    for number, (steps, leaves) in enumerate(comings):
        joined[number] = turns.join(number)
        last[number] = now
        if leaves:
            joined.pop(number // 2, set()).discard(number // 2)
            last.pop(number // 2, None)
        for _ in range(steps):
            now += 1
            for each in turns.next():
                assert now - last[each] == count
                last[each] = now
            assert all(now - at < count for at in last.values())
