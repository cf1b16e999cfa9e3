"""A trip's feed: offsets, resume, snapshots."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.trip_feeds import BEGIN, Reader, a_feed, a_position, a_trip, begin, updates
from tracking.live.kept_updates import KeptBytes
from tracking.live.trip_line import Line
from tracking.model import TripStatus
from tracking.protocol.codec import encode, frame
from tracking.protocol.passenger import position_update, snapshot_position
from tracking.protocol.shared import Tick


def test_a_snapshot_joins_what_is_stored_what_waits_and_what_came_since() -> None:
    feed = a_feed()
    uncommitted = [a_position(2), a_position(3)]
    feed.publish_position(a_position(4))
    stored = [(BEGIN + 1000, 9.5, 47.001, "van-1"), (BEGIN + 2000, 9.5, 47.002, "van-1")]
    snapshot = begin(feed, Reader(), stored=stored, uncommitted=uncommitted)
    assert [point[2] for point in snapshot["track"]] == [BEGIN + 1000, BEGIN + 2000, BEGIN + 3000, BEGIN + 4000]
    assert snapshot["position"]["fix_time"] == BEGIN + 4000
    assert snapshot["offset"] == 1


def test_a_snapshot_holds_no_suspect() -> None:
    feed = a_feed()
    doubted = a_position(2, live=False)
    doubted.suspect = ("jump",)  # type: ignore[assignment]
    snapshot = begin(feed, Reader(), uncommitted=[a_position(1), doubted])
    assert [point[2] for point in snapshot["track"]] == [BEGIN + 1000]


def test_the_place_of_a_vehicle_that_gave_the_trip_away_is_not_the_next_ones() -> None:
    """Its clock is 50 s ahead. By times alone it would be shown under the other's plate for so long."""
    feed = a_feed()
    feed.publish_position(a_position(50))
    stored = [(BEGIN + 49_000, 9.5, 47.049, "van-1")]
    feed.publish_trip(a_trip(version=3, vehicle_id="van-2"))
    last = {"van-1": snapshot_position(a_position(49))}
    before = begin(feed, Reader(), stored=stored, last=last, uncommitted=[a_position(51)])
    assert "position" not in before
    assert before["segments"] == [[0, "van-1"]]
    feed.publish_position(a_position(10, vehicle_id="van-2"))
    feed.publish_revision(BEGIN + 8_000, BEGIN + 8_000, [(BEGIN + 8_000, 9.5, 47.008, "van-1")])
    feed.publish_position(a_position(50, vehicle_id="van-2"))
    snapshot = begin(feed, Reader(), stored=stored, last=last, uncommitted=[a_position(51), a_position(9, vehicle_id="van-2")])
    assert snapshot["position"]["fix_time"] == BEGIN + 50_000
    assert [(time - BEGIN) // 1000 for _, _, time in snapshot["track"]] == [8, 9, 10, 49, 50, 50, 51]
    assert snapshot["segments"] == [[0, "van-1"], [1, "van-2"], [3, "van-1"], [5, "van-2"], [6, "van-1"]]
    # Back to the first: its last place is its own again.
    feed.publish_trip(a_trip(version=4))
    assert begin(feed, Reader(), last=last)["position"]["fix_time"] == BEGIN + 50_000


def test_a_trip_of_one_vehicle_has_no_segments() -> None:
    feed = a_feed()
    feed.publish_position(a_position(1))
    feed.publish_trip(a_trip(TripStatus.ARRIVED_AT_PICKUP, 3))
    assert "segments" not in begin(feed, Reader(), stored=[(BEGIN, 9.5, 47.0, "van-1")])
    assert "segments" not in begin(a_feed(), Reader())


def test_an_old_epoch_what_was_let_go_and_the_future_cannot_be_continued() -> None:
    feed = a_feed(KeptBytes(updates(3)))
    for second in range(101, 108):
        feed.publish_position(a_position(second))
    assert feed.before_kept > 0
    continued = [offset for offset in range(-1, 10) if feed.can_resume(feed.epoch, offset, 10**6)]
    assert continued == list(range(feed.before_kept, 8))
    assert not feed.can_resume("another", 5, 10**6)
    assert not feed.can_resume(None, None, 10**6)


def test_feeds_share_what_may_be_kept() -> None:
    """All feeds together hold no more than the limit, and each has its share, however many there are."""
    kept = KeptBytes(updates(100))
    first = a_feed(kept)
    for second in range(100, 200):
        first.publish_position(a_position(second))
    assert first.offset - first.before_kept >= 85
    others = [a_feed(kept) for _ in range(9)]
    for second in range(200, 300):
        for feed in (first, *others):
            feed.publish_position(a_position(second))
    held = [feed.offset - feed.before_kept for feed in (first, *others)]
    assert min(held) >= 7
    assert kept.used <= kept.limit + updates(len(held)), "each feed makes room when it publishes"
    for feed in others:
        feed.end()
    assert kept.used == len(first.updates._frames)
    assert kept.feeds == 1


def test_what_is_too_old_is_let_go() -> None:
    """An update stays for `seconds`, and at most half as long again."""
    feed = a_feed(seconds=100)
    for second in range(1, 1001):
        feed.publish_position(a_position(second))
        if second % 5 == 0:
            feed.beat(b"", BEGIN + second * 1000)
            if second > 200:
                assert 100 <= feed.offset - feed.before_kept <= 155
    for second in range(1005, 1160, 5):
        feed.beat(b"", BEGIN + second * 1000)
    assert feed.before_kept == feed.offset
    assert feed.can_resume(feed.epoch, 1000, 0)


def test_who_hears_nothing_gets_a_tick_and_nobody_else() -> None:
    feed = a_feed()
    reader = Reader()
    begin(feed, reader)
    ticks = 0
    for beat in range(30):
        feed.publish_position(a_position(beat))
        feed.beat(frame(Tick(BEGIN)), BEGIN)
    assert {message["type"] for message in reader.read()} == {"position"}
    for beat in range(1, 31):
        feed.beat(frame(Tick(BEGIN)), BEGIN)
        ticks += len(reader.read())
        assert ticks == beat // 2  # the last position was beat 0


def test_more_than_a_reader_can_be_sent_at_once_is_not_continued() -> None:
    feed = a_feed()
    for second in range(1, 11):
        feed.publish_position(a_position(second))
    one = len(encode(position_update(a_position(10), 10)))
    assert not feed.can_resume(feed.epoch, 5, 4 * one)
    assert feed.can_resume(feed.epoch, 7, 4 * one)


def test_nobody_reads_the_vehicle_of_a_trip_that_is_over() -> None:
    feed = a_feed()
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
    feed = a_feed(KeptBytes(updates(keep)))
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
            feed.leave(reader.queue, BEGIN)
            away = True
        elif action == "return" and away:
            reader = Reader()
            away = False
            if feed.can_resume(feed.epoch, offset, 10**6):
                feed.resume(reader.queue, offset)
                first, *rest = reader.read()
                assert first == {"type": "resumed", "epoch": feed.epoch, "offset": offset}
                for message in rest:
                    offset += 1
                    assert message["offset"] == offset
            else:
                assert offset < feed.before_kept
                offset = begin(feed, reader)["offset"]
            assert offset == feed.offset
    if not away:
        for message in reader.read():
            offset += 1
            assert message["offset"] == offset
        assert offset == feed.offset


def test_trust_87_a_feed_knows_whose_line_it_told() -> None:
    feed = a_feed()
    assert feed.has_shown("van-1") and not feed.has_shown("van-0")
    begin(feed, Reader(), stored=[(BEGIN, 9.5, 47.0, "van-0"), (BEGIN + 1000, 9.5, 47.1, "van-1")])
    assert feed.has_shown("van-0")
    feed.publish_revision(BEGIN, BEGIN + 1000, [(BEGIN, 9.5, 47.0, "van-2"), (BEGIN + 1000, 9.5, 47.1, "van-1")])
    assert feed.has_shown("van-2")
    reader = Reader()
    before = begin(feed, reader)
    feed.publish_position(a_position(3))
    feed.begin_anew(snapshot_position(a_position(3)), BEGIN)
    *_, snapshot = reader.read()
    assert (snapshot["type"], snapshot["track"], snapshot["offset"]) == ("snapshot", [], feed.offset)
    assert snapshot["position"]["fix_time"] == BEGIN + 3000
    assert not feed.can_resume(before["epoch"], feed.offset, 10**6)
    assert feed.can_resume(snapshot["epoch"], feed.offset, 10**6)
    assert [feed.has_shown(f"van-{number}") for number in range(3)] == [False, True, False]


@pytest.mark.parametrize("seen", ["in an update", "in a snapshot"])
def test_trust_87_watchers_go_on_to_see_the_vehicle_though_another_hub_has_its_driver(seen: str) -> None:
    """This hub does not know where the vehicle is, but has shown it. What was erased or corrected is not shown again."""

    def shown_anew(erased: str, taken_out: Sequence[int] = ()) -> bool:
        feed, reader = a_feed(), Reader()
        stored = [(BEGIN, 9.5, 47.0, "van-0"), (BEGIN + 1000, 9.5, 47.1, "van-1")]
        begin(feed, reader, stored=stored, last={"van-1": snapshot_position(a_position(1))})
        if seen == "in an update":
            feed.publish_position(a_position(1 + 1))
        place = BEGIN + (2000 if seen == "in an update" else 1000)
        feed.take_out("van-1", [place + offset for offset in taken_out])
        feed.forget(erased)
        feed.begin_anew(None, BEGIN)
        *_, snapshot = reader.read()
        assert snapshot.get("position", {}).get("fix_time", place) == place
        return "position" in snapshot

    assert shown_anew("van-0")
    assert shown_anew("van-0", taken_out=[1])
    assert not shown_anew("van-0", taken_out=[0])
    assert not shown_anew("van-1")


def test_who_comes_before_the_next_update_is_sent_the_same_snapshot() -> None:
    feed, first, second = a_feed(), Reader(), Reader()
    feed.publish_position(a_position(1))
    stored = [(BEGIN + 500, 9.5, 47.0005, "van-1"), (BEGIN + 1000, 9.5, 47.001, "van-1")]
    line = Line(1, BEGIN, stored, [a_position(2)], {"van-1": snapshot_position(a_position(1))})
    feed.publish_position(a_position(3))
    feed.begin_with(first.queue, line, BEGIN)
    made = line.snapshot
    feed.begin_with(second.queue, line, BEGIN + 7)
    assert line.snapshot is made
    [one], [other] = first.read(), second.read()
    assert [point[2] - BEGIN for point in one["track"]] == [500, 1000, 2000, 3000]
    assert one["position"]["fix_time"] == BEGIN + 3000
    assert (one["offset"], one["server_time"], other["server_time"]) == (2, BEGIN, BEGIN + 7)
    assert {**one, "server_time": 0} == {**other, "server_time": 0}
    # The next update makes another one; nothing falls between the two.
    feed.publish_position(a_position(4))
    third = Reader()
    feed.begin_with(third.queue, line, BEGIN)
    [snapshot] = third.read()
    assert (snapshot["offset"], snapshot["track"][-1][2]) == (3, BEGIN + 4000)
    assert [message["offset"] for message in first.read()] == [3]


def test_a_trip_that_changed_is_in_the_next_snapshot() -> None:
    feed, line = a_feed(), Line(0, BEGIN)
    feed.begin_with(Reader().queue, line, BEGIN)
    feed.publish_trip(a_trip(TripStatus.ARRIVED_AT_PICKUP, 3))
    reader = Reader()
    feed.begin_with(reader.queue, line, BEGIN)
    assert reader.read()[0]["trip"]["status"] == "arrived_at_pickup"


def test_a_line_that_is_kept_goes_with_a_vehicle_that_is_erased() -> None:
    feed = a_feed()
    feed.line = Line(0, BEGIN, [(BEGIN, 9.5, 47.0, "van-7")])
    feed.forget("van-8")
    assert feed.line is not None
    assert feed.line.without({"van-8"}) is feed.line
    assert list(feed.line.without({"van-7"}).stored) == []
    feed.forget("van-7")
    assert feed.line is None
