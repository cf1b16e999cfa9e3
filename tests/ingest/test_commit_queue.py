"""The queue of the recorder: what is pending of a trip or a vehicle, in any order of offers, groups and refilings."""

import time

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.positions import BEGIN, a_position
from tracking.ingest.commit_queue import CommitQueue, Entry
from tracking.ingest.vehicles import Filed, Session
from tracking.model import Position


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "take", "done", "ask", "ask of", "file anew"]), st.integers(0, 3)), max_size=60
    )
)
@example([("offer", 1), ("offer", 2), ("file anew", 2)])
def test_pending_has_all_positions_of_a_trip_in_order(steps: list[tuple[str, int]]) -> None:
    queue = CommitQueue(rows=1, limit=100)
    session = Session(1, "", 0)
    group: list[Position] = []
    waiting: list[Position] = []
    for seq, (step, number) in enumerate(steps):
        if step == "offer":
            trip_id = f"trip-{number}" if number else None
            position = a_position(1 + seq % 2, 1, seq, trip_id=trip_id, server_time=BEGIN + seq)
            queue.offer(Entry(session, seq, position, None))
            queue.offer(Entry(session, seq, None, None))
            waiting.append(position)
        elif step == "take" and not group:
            queue.take(2 * number)
            group, waiting = waiting[:number], waiting[number:]
        elif step == "done":
            queue.let_go()
            group = []
        elif step == "ask of":
            assert list(queue.pending_of(number)) == [p for p in group + waiting if p.vehicle == number]
        elif step == "file anew":
            moved = list(queue.pending_of(1))[: number + 1]
            queue.file_anew(moved, [Filed(number, f"trip-{number}") if number else Filed(None, None)] * len(moved))
            assert all(p.trip_id == (f"trip-{number}" if number else None) for p in moved)
            for other in range(4):
                assert list(queue.pending(f"trip-{other}")) == [p for p in group + waiting if p.trip_id == f"trip-{other}"]
        else:
            trip_id = f"trip-{number}"
            assert list(queue.pending(trip_id)) == [p for p in group + waiting if p.trip_id == trip_id]


def test_a_long_queue_is_indexed_once_for_all_trips() -> None:
    queue = CommitQueue(rows=1, limit=100_000)
    session = Session(1, "", 0)
    for seq in range(100_000):
        queue.offer(Entry(session, seq, a_position(1, 1, seq, trip_id=f"trip-{seq % 4_000}"), None))
    began = time.thread_time()
    assert sum(len(queue.pending(f"trip-{number}")) for number in range(4_000)) == 100_000
    assert time.thread_time() - began < 2, "one look takes some 50 ms, and 4,000 took 30 s"
