"""Feeds of trips without a hub, and readers of them without sockets."""

import json
from itertools import pairwise
from typing import Any

from tracking.errors import CloseCode
from tracking.live.kept_updates import KeptBytes
from tracking.live.reader_queue import ReaderQueue
from tracking.live.trips import TripFeed
from tracking.model import Place, Position, Trip, TripStatus, Vehicle
from tracking.protocol.codec import frame, frame_ends, text_of
from tracking.protocol.passenger import position_update

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


def a_feed(kept: KeptBytes | None = None, seconds: float = 300) -> TripFeed:
    return TripFeed(a_trip(), kept=kept or KeptBytes(10**6), seconds=seconds, now=BEGIN)


def updates(count: int) -> int:
    """Bytes of so many updates, as `a_position` makes them."""
    return count * len(frame(position_update(a_position(100), 100)))


class Reader:
    """A queue, and what came out of it."""

    def __init__(self) -> None:
        self.ended: list[CloseCode] = []
        self.frames: list[bytes] = []
        self.queue = ReaderQueue(self.frames.append, limit=10**7, end=self.ended.append)

    def read(self) -> list[dict[str, Any]]:
        written = b"".join(self.frames)
        self.frames.clear()
        ends = list(frame_ends(written))
        return [json.loads(text_of(written[at:end])) for at, end in pairwise((0, *ends))]


def begin(feed: TripFeed, reader: Reader, **changes: Any) -> dict[str, Any]:
    feed.begin(reader.queue, **{"stored": [], "uncommitted": [], "last": {}, "now": BEGIN, **changes})
    [snapshot] = reader.read()
    return snapshot
