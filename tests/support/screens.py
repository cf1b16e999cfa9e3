"""Screens that look at a fleet's feed, without sockets: each holds what a client would."""

from collections.abc import Iterator
from typing import Any, Union

import msgspec

from tests.support.clients import cell_of
from tracking.live.fleet import FleetFeed
from tracking.live.fleets import Fleets
from tracking.live.reader_queue import ReaderQueue
from tracking.live.shown_vehicle import FleetViewport
from tracking.model import Fleet, Position, Vehicle
from tracking.protocol.codec import MAX_FRAME_BYTES
from tracking.protocol.dispatcher import Clusters, FleetSnapshot, FleetUpdate, VehicleGone

START = 1_700_000_000_000


def position(vehicle_id: str, latitude: float, longitude: float, fix_time: int = START) -> Position:
    return Position(
        vehicle=1,
        vehicle_id=vehicle_id,
        session=1,
        seq=1,
        fix_time=fix_time,
        server_time=fix_time,
        latitude=latitude,
        longitude=longitude,
        accuracy=5.0,
        altitude=None,
        speed=10.0,
        bearing=None,
        battery=None,
        trip=None,
        trip_id=None,
        suspect=(),
        live=True,
    )


class Screen:
    """What a client holds, whether it reads or not."""

    def __init__(self, feed: FleetFeed) -> None:
        self.writes: list[bytes] = []
        self.queue = ReaderQueue(self._write, limit=10**9, end=lambda code: None)
        self.viewport = FleetViewport(self.queue)
        self.vehicles: dict[str, dict[str, Any]] = {}
        self.clusters: list[Any] | None = None
        self.bounds: tuple[float, float, float, float] | None = None
        self.kinds: list[str] = []
        self.rows = 0
        feed.queues.add(self.queue)

    def _write(self, data: bytes) -> None:
        self.writes.append(data)
        for text in frames_in(data):
            # Put together by hand there, they are still what the protocol says.
            _decode(text)
            self._read(msgspec.json.decode(text))

    def _read(self, message: dict[str, Any]) -> None:
        self.kinds.append(message["type"])
        match message["type"]:
            case "fleet_snapshot":
                self.clusters = None
                cells = set(message["cells"])
                # What is named without a place was forgotten before its news came.
                self.vehicles = {i: v for i, v in self.vehicles.items() if "latitude" not in v or cell_of(v) not in cells}
                self.vehicles |= {vehicle["vehicle_id"]: vehicle for vehicle in message["vehicles"]}
            case "clusters":
                self.clusters = message["clusters"]
                self.vehicles.clear()
            case "fleet":
                for vehicle_id in message.get("left", []):
                    self.vehicles.pop(vehicle_id, None)
                for described in message.get("vehicles", []):
                    self.vehicles.setdefault(described["vehicle_id"], {}).update(described)
                for vehicle_id, latitude, longitude, _, _, fix_time in message["positions"]:
                    state = {"latitude": latitude, "longitude": longitude, "fix_time": fix_time}
                    self.vehicles.setdefault(vehicle_id, {}).update(state)
                    self.rows += 1

    def look(self, feed: FleetFeed, west: float, south: float, east: float, north: float, zoom: float = 12) -> None:
        self.bounds = west, south, east, north
        self.forget_what_lies_outside()
        feed.screens.look(self.viewport, self.bounds, zoom)

    def forget_what_lies_outside(self) -> None:
        """As a client does by itself when its screen moves."""
        assert self.bounds is not None
        west, south, east, north = self.bounds
        left, top = (int(part) for part in cell_of({"latitude": north, "longitude": west}).split("/")[1:])
        right, bottom = (int(part) for part in cell_of({"latitude": south, "longitude": east}).split("/")[1:])

        def is_inside(state: dict[str, Any]) -> bool:
            column, row = (int(part) for part in cell_of(state).split("/")[1:])
            return left <= column <= right and top <= row <= bottom

        self.vehicles = {i: v for i, v in self.vehicles.items() if "latitude" in v and is_inside(v)}


_decode = msgspec.json.Decoder(Union[FleetSnapshot, FleetUpdate, Clusters, VehicleGone]).decode  # noqa: UP007 a value


def frames_in(data: bytes) -> Iterator[bytes]:
    """The messages in one or more unmasked text frames."""
    at = 0
    while at < len(data):
        assert data[at] == 0x81
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        assert length <= MAX_FRAME_BYTES
        yield data[start : start + length]
        at = start + length


class Allowance:
    def __init__(self) -> None:
        self.room = True
        self.spent = 0

    def has_room(self) -> bool:
        return self.room

    def spend(self, amount: int) -> None:
        self.spent += amount


def fleet_of(count: int) -> tuple[Fleets, FleetFeed]:
    fleets = Fleets()
    feed = fleets.feed(Fleet("f", "Fleet"))
    for number in range(count):
        fleets.know(Vehicle(f"v{number}", "f", f"Van {number}"))
        fleets.publish(position(f"v{number}", 47.1 + number * 0.00001, 9.5))
    return fleets, feed
