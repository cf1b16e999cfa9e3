"""A reader's outbox: order, what is left out, and what never is."""

import json

from hypothesis import given
from hypothesis import strategies as st

from tracking.errors import CloseCode
from tracking.hub.outbox import Outbox


def make(high_water: int = 100, limit: int = 10_000) -> tuple[Outbox, list[CloseCode]]:
    ended: list[CloseCode] = []
    return Outbox(high_water=high_water, limit=limit, wake=lambda: None, end=ended.append), ended


def drain(outbox: Outbox) -> list[bytes]:
    frames = []
    while (frame := outbox.pop()) is not None:
        frames.append(frame)
    return frames


def test_a_reader_that_keeps_up_gets_everything_in_order() -> None:
    outbox, _ = make()
    outbox.push(b"welcome")
    outbox.push_position(b"one", 1)
    outbox.push_position(b"two", 2)
    assert drain(outbox) == [b"welcome", b"one", b"two"]
    assert outbox.size == 0


def test_a_slow_reader_gets_the_newest_and_is_told_what_it_missed() -> None:
    outbox, _ = make(high_water=20)
    for offset in (1, 2, 3):
        outbox.push_position(b"12345678", offset)
    assert drain(outbox) == [b'{"type":"skipped","from":1,"to":2}', b"12345678"]


def test_what_is_not_a_position_stays_in_its_place() -> None:
    outbox, _ = make(high_water=20)
    outbox.push_position(b"position 1", 1)
    outbox.push(b"trip 2")
    outbox.push_position(b"position 3", 3)
    outbox.push_position(b"position 4", 4)
    assert drain(outbox) == [
        b'{"type":"skipped","from":1,"to":1}',
        b"trip 2",
        b'{"type":"skipped","from":3,"to":3}',
        b"position 4",
    ]


def test_past_the_limit_the_reader_is_closed_once() -> None:
    outbox, ended = make(high_water=10, limit=30)
    for _ in range(10):
        outbox.push(b"0123456789")
    assert ended == [CloseCode.TOO_SLOW]
    assert outbox.size == 0


@given(
    st.lists(st.sampled_from(["position", "trip", "pop"]), max_size=80),
    st.integers(min_value=1, max_value=60),
)
def test_every_offset_is_delivered_or_named_skipped(actions: list[str], high_water: int) -> None:
    """Whatever comes and goes: offsets contiguous, none twice, no trip left out, the newest position always there."""
    outbox, _ = make(high_water=high_water)
    offset = newest = 0
    trips = []
    frames: list[bytes] = []
    for action in actions:
        if action == "pop":
            frame = outbox.pop()
            frames += [frame] if frame is not None else []
            continue
        offset += 1
        data = json.dumps({"type": action, "offset": offset}).encode()
        if action == "position":
            newest = offset
            outbox.push_position(data, offset)
        else:
            trips.append(offset)
            outbox.push(data)
    frames += drain(outbox)
    told: list[int] = []
    delivered: dict[str, list[int]] = {"position": [], "trip": []}
    for message in map(json.loads, frames):
        if message["type"] == "skipped":
            told += range(message["from"], message["to"] + 1)
        else:
            told.append(message["offset"])
            delivered[message["type"]].append(message["offset"])
    assert told == list(range(1, offset + 1))
    assert delivered["trip"] == trips
    assert not newest or delivered["position"][-1] == newest
    assert outbox.size == 0
