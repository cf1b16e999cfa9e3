"""A trip's feed: offsets, resume, snapshots."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tracking.errors import CloseCode
from tracking.hub.feed import TripFeed
from tracking.hub.outbox import Outbox
from tracking.model import Place, Position, Trip, TripStatus, Vehicle
from tracking.protocol import encode, position_update, snapshot_position, text_of

BEGIN = 1_763_856_000_000


def a_trip(status: TripStatus = TripStatus.ENROUTE_TO_PICKUP, version: int = 2, vehicle_id: str = "van-1") -> Trip:
    place = Place(47.1, 9.5)
    vehicle = Vehicle(vehicle_id, "fleet", "Van 1", "van", "FL 1")
    return Trip(1, "trip-1", "fleet", vehicle, status, version, place, place, (), None, BEGIN, BEGIN, None)


def a_position(second: int, live: bool = True, vehicle_id: str = "van-1") -> Position:
    instant = BEGIN + second * 1000
    return Position(
        1, vehicle_id, 1, second, instant, instant, 47 + second / 1000, 9.5, None, None, None, None, None, 1, "trip-1", (), live
    )


class Reader:
    """An outbox, and what came out of it."""

    def __init__(self) -> None:
        self.ended: list[CloseCode] = []
        self.frames: list[bytes] = []
        self.outbox = Outbox(self.frames.append, limit=10**7, end=self.ended.append)

    def read(self) -> list[dict[str, Any]]:
        messages = [json.loads(text_of(frame)) for frame in self.frames]
        self.frames.clear()
        return messages


def begin(feed: TripFeed, reader: Reader, **changes: Any) -> dict[str, Any]:
    feed.begin(reader.outbox, **{"stored": [], "unstored": [], "last": {}, "now": BEGIN, **changes})
    [snapshot] = reader.read()
    return snapshot


def test_a_snapshot_joins_what_is_stored_what_waits_and_what_came_since() -> None:
    feed = TripFeed(a_trip(), keep=10)
    unstored = [a_position(2), a_position(3)]
    feed.publish_position(a_position(4))
    stored = [(BEGIN + 1000, 9.5, 47.001, "van-1"), (BEGIN + 2000, 9.5, 47.002, "van-1")]
    snapshot = begin(feed, Reader(), stored=stored, unstored=unstored)
    assert [point[2] for point in snapshot["track"]] == [BEGIN + 1000, BEGIN + 2000, BEGIN + 3000, BEGIN + 4000]
    assert snapshot["position"]["fix_time"] == BEGIN + 4000
    assert snapshot["offset"] == 1


def test_a_snapshot_holds_no_suspect() -> None:
    feed = TripFeed(a_trip(), keep=10)
    doubted = a_position(2, live=False)
    doubted.suspect = ("jump",)  # type: ignore[assignment]
    snapshot = begin(feed, Reader(), unstored=[a_position(1), doubted])
    assert [point[2] for point in snapshot["track"]] == [BEGIN + 1000]


def test_the_place_of_a_vehicle_that_gave_the_trip_away_is_not_the_next_ones() -> None:
    """Its clock runs 50 s ahead: by the times alone it would be shown under the other's plate for as long."""
    feed = TripFeed(a_trip(), keep=20)
    feed.publish_position(a_position(50))
    stored = [(BEGIN + 49_000, 9.5, 47.049, "van-1")]
    feed.publish_trip(a_trip(version=3, vehicle_id="van-2"))
    last = {"van-1": snapshot_position(a_position(49))}
    before = begin(feed, Reader(), stored=stored, last=last, unstored=[a_position(51)])
    assert "position" not in before
    assert before["segments"] == [[0, "van-1"]]
    feed.publish_position(a_position(10, vehicle_id="van-2"))
    feed.publish_revision(BEGIN + 8_000, BEGIN + 8_000, [(BEGIN + 8_000, 9.5, 47.008, "van-1")])
    feed.publish_position(a_position(50, vehicle_id="van-2"))
    snapshot = begin(feed, Reader(), stored=stored, last=last, unstored=[a_position(51), a_position(9, vehicle_id="van-2")])
    assert snapshot["position"]["fix_time"] == BEGIN + 50_000
    assert [(time - BEGIN) // 1000 for _, _, time in snapshot["track"]] == [8, 9, 10, 49, 50, 50, 51]
    assert snapshot["segments"] == [[0, "van-1"], [1, "van-2"], [3, "van-1"], [5, "van-2"], [6, "van-1"]]
    # Back to the first: its last place is its own again.
    feed.publish_trip(a_trip(version=4))
    assert begin(feed, Reader(), last=last)["position"]["fix_time"] == BEGIN + 50_000


def test_a_trip_of_one_vehicle_has_no_segments() -> None:
    feed = TripFeed(a_trip(), keep=10)
    feed.publish_position(a_position(1))
    feed.publish_trip(a_trip(TripStatus.ARRIVED_AT_PICKUP, 3))
    assert "segments" not in begin(feed, Reader(), stored=[(BEGIN, 9.5, 47.0, "van-1")])
    assert "segments" not in begin(TripFeed(a_trip(), keep=10), Reader())


def test_an_old_epoch_a_lost_buffer_and_the_future_cannot_be_continued() -> None:
    feed = TripFeed(a_trip(), keep=3)
    for second in range(1, 8):
        feed.publish_position(a_position(second))
    assert [offset for offset in range(-1, 10) if feed.can_resume(feed.epoch, offset, 10**6)] == [4, 5, 6, 7]
    assert not feed.can_resume("another", 5, 10**6)
    assert not feed.can_resume(None, None, 10**6)


def test_more_than_a_reader_can_be_sent_at_once_is_not_continued() -> None:
    feed = TripFeed(a_trip(), keep=100)
    for second in range(1, 11):
        feed.publish_position(a_position(second))
    one = len(encode(position_update(a_position(10), 10)))
    assert not feed.can_resume(feed.epoch, 5, 4 * one)
    assert feed.can_resume(feed.epoch, 7, 4 * one)


def test_nobody_reads_the_vehicle_of_a_trip_that_is_over() -> None:
    feed = TripFeed(a_trip(), keep=3)
    reader = Reader()
    begin(feed, reader)
    feed.publish_trip(a_trip(TripStatus.COMPLETE, 3))
    [update] = reader.read()
    assert update["trip"]["status"] == "complete"
    assert "vehicle" not in update["trip"]


@given(
    st.lists(st.sampled_from(["position", "trip", "message", "revision", "leave", "return"]), max_size=60),
    st.integers(min_value=1, max_value=20),
)
def test_a_reader_that_comes_and_goes_misses_nothing(actions: list[str], keep: int) -> None:
    """Offsets are contiguous over any number of returns, or a snapshot says where they begin anew."""
    feed = TripFeed(a_trip(), keep=keep)
    reader = Reader()
    offset = begin(feed, reader)["offset"]
    away = False
    for second, action in enumerate(actions, 1):
        if action == "position":
            feed.publish_position(a_position(second))
        elif action == "trip":
            feed.publish_trip(a_trip(version=second))
        elif action == "message":
            feed.publish_message("hello", "driver", BEGIN)
        elif action == "revision":
            feed.publish_revision(BEGIN, BEGIN + 1, [(BEGIN, 9.5, 47.1, "van-1")])
        elif action == "leave" and not away:
            for message in reader.read():
                offset += 1
                assert message["offset"] == offset
            feed.leave(reader.outbox, BEGIN)
            away = True
        elif action == "return" and away:
            reader = Reader()
            away = False
            if feed.can_resume(feed.epoch, offset, 10**6):
                feed.resume(reader.outbox, offset)
                first, *rest = reader.read()
                assert first == {"type": "resumed", "epoch": feed.epoch, "offset": offset}
                for message in rest:
                    offset += 1
                    assert message["offset"] == offset
            else:
                assert feed.offset - offset > keep
                offset = begin(feed, reader)["offset"]
            assert offset == feed.offset
    if not away:
        for message in reader.read():
            offset += 1
            assert message["offset"] == offset
        assert offset == feed.offset
