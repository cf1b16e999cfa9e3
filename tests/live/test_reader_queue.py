"""A reader's queue: its order, what it leaves out, and what it always delivers."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tracking.errors import CloseCode
from tracking.live.reader_queue import ReaderQueue
from tracking.protocol.codec import text_of


class Wire:
    """A reader that takes `room` frames (None: any number) and then says that it is full."""

    def __init__(self, room: int | None = None, limit: int = 10_000) -> None:
        self.room = room
        self.written: list[bytes] = []
        self.ended: list[CloseCode] = []
        self.queue = ReaderQueue(self.write, limit=limit, end=self.ended.append)

    def write(self, frame: bytes) -> None:
        assert not self.queue.blocked, "written to a reader that has no room"
        self.written.append(frame)
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.queue.block()

    def take(self, room: int | None = None) -> None:
        """The reader has room again."""
        self.room = room
        self.queue.flush()

    def messages(self) -> list[bytes]:
        """What was written, `skipped` as its JSON."""
        return [text_of(frame) if b"skipped" in frame else frame for frame in self.written]


def test_a_reader_that_keeps_up_gets_everything_at_once() -> None:
    wire = Wire()
    queue = wire.queue
    queue.push(b"welcome")
    queue.push_position(b"one", 1)
    queue.push_position(b"two", 2)
    assert wire.written == [b"welcome", b"one", b"two"]
    assert queue.size == 0


def test_a_slow_reader_gets_the_newest_and_is_told_what_it_missed() -> None:
    wire = Wire(room=1)
    queue = wire.queue
    for offset in (1, 2, 3, 4):
        queue.push_position(b"12345678", offset)
    assert wire.written == [b"12345678"]
    assert queue.size == 8
    wire.take()
    assert wire.messages()[1:] == [b'{"type":"skipped","from":2,"to":3}', b"12345678"]


def test_what_is_not_a_position_stays_in_its_place() -> None:
    wire = Wire()
    queue = wire.queue
    queue.block()
    queue.push_position(b"position 1", 1)
    queue.push(b"trip 2")
    queue.push_position(b"position 3", 3)
    queue.push_position(b"position 4", 4)
    wire.take()
    assert wire.messages() == [
        b'{"type":"skipped","from":1,"to":1}',
        b"trip 2",
        b'{"type":"skipped","from":3,"to":3}',
        b"position 4",
    ]


def test_a_slow_reader_of_many_positions_costs_no_more_than_one_of_few() -> None:
    wire = Wire(limit=100)
    queue = wire.queue
    queue.block()
    for offset in range(1, 10_001):
        queue.push_position(b"12345678", offset)
    assert queue.size == 8
    wire.take()
    assert wire.messages() == [b'{"type":"skipped","from":1,"to":9999}', b"12345678"]
    assert wire.ended == []


def test_past_the_limit_the_reader_is_closed_once() -> None:
    wire = Wire(limit=30)
    queue = wire.queue
    queue.block()
    for _ in range(10):
        queue.push(b"0123456789")
    assert wire.ended == [CloseCode.TOO_SLOW]
    assert queue.size == 0
    wire.take()
    assert wire.written == []


@given(st.lists(st.sampled_from(["position", "trip", "slow", 1, 2, 5]), max_size=80))
def test_every_offset_is_delivered_or_named_skipped(actions: list[str | int]) -> None:
    """In every sequence, offsets are contiguous, none comes twice, no trip is left out, and the newest position is there."""
    wire = Wire()
    queue = wire.queue
    offset = newest = 0
    trips = []
    for action in actions:
        if action == "slow":
            queue.block()
            continue
        if isinstance(action, int):
            wire.take(action)
            continue
        offset += 1
        data = json.dumps({"type": action, "offset": offset}).encode()
        if action == "position":
            newest = offset
            queue.push_position(data, offset)
        else:
            trips.append(offset)
            queue.push(data)
    wire.take()
    told: list[int] = []
    delivered: dict[str, list[int]] = {"position": [], "trip": []}
    for message in map(json.loads, wire.messages()):
        if message["type"] == "skipped":
            told += range(message["from"], message["to"] + 1)
        else:
            told.append(message["offset"])
            delivered[message["type"]].append(message["offset"])
    assert told == list(range(1, offset + 1))
    assert delivered["trip"] == trips
    assert not newest or delivered["position"][-1] == newest
    assert queue.size == 0
