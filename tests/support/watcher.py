"""A passenger that resumes by epoch and offset, draws the line, and notes every gap in the numbering."""

import asyncio
import contextlib
import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable

import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.support.clients import Message, token

Point = tuple[int, float, float]
"""`(fix_time, longitude, latitude)`"""


class Line:
    """What a passenger's map draws: points by fix time, from snapshots, positions and revisions."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def begin(self, track: list[list[float]]) -> None:
        self.points = sorted(_point(entry) for entry in track)

    def add_to(self, track: list[list[float]]) -> None:
        """Adds the points of a snapshot with `since`. A point replaces the one of the same fix time."""
        points = {point[0]: point for point in self.points} | {point[0]: point for point in map(_point, track)}
        self.points = sorted(points.values())

    def add(self, position: Message) -> bool:
        """Whether the line did not have a point of this fix time."""
        at = bisect_left(self.points, position["fix_time"], key=_time_of)
        if at < len(self.points) and self.points[at][0] == position["fix_time"]:
            return False
        self.points.insert(at, (position["fix_time"], position["longitude"], position["latitude"]))
        return True

    def revise(self, revision: Message) -> None:
        first = bisect_left(self.points, revision["from"], key=_time_of)
        after = bisect_right(self.points, revision["to"], key=_time_of)
        self.points[first:after] = sorted(_point(entry) for entry in revision["track"])


class Watcher:
    """`run` lasts until it is cancelled, or until a close code forbids to reconnect. `ended` is then that code.

    It says `since` at each connection after the first, in case that it reaches another hub. `breaks` lists what a passenger may
    rely on and did not get. It must stay empty in every fault. `on_position` is called with each shown position and the
    monotonic time of its arrival, `on_message` with every message.
    """

    def __init__(
        self,
        url: str,
        trip_id: str,
        *,
        pause: Callable[[], float] = lambda: 0.05,
        ping_interval: float = 20.0,
        on_position: Callable[[Message, float], None] | None = None,
        on_message: Callable[[Message, float], None] | None = None,
    ) -> None:
        self.url = url
        """Of the hub that it connects to next. `move` changes it at once."""
        self.trip_id = trip_id
        self._token = token("passenger", trip_id)
        self._pause = pause
        self._ping_interval = ping_interval
        self._on_position = on_position
        self._on_message = on_message
        self._connection: ClientConnection | None = None
        self.line = Line()
        self.epoch: str | None = None
        self.offset = 0
        self.newest = 0
        """The newest fix time that moved the marker."""
        self.since = 0
        """The newest server time of what it was shown."""
        self.snapshots = 0
        self.additions = 0
        """How many of the snapshots only added to the line."""
        self.resumed = 0
        self.revisions = 0
        self.breaks: list[str] = []
        self.lost: list[int | None] = []
        """The close codes of its lost connections."""
        self.ended: int | None = None
        self.connected = asyncio.Event()
        """Set from the answer (`snapshot` or `resumed`) until the connection is lost."""

    async def run(self) -> None:
        while self.ended is None:
            with contextlib.suppress(OSError, TimeoutError, EOFError, websockets.InvalidHandshake):
                await self._connect()
            self.connected.clear()
            await asyncio.sleep(self._pause())

    async def move(self, url: str) -> None:
        """Goes to another hub."""
        self.url = url
        if self._connection is not None:
            self.connected.clear()
            await self._connection.close()

    async def _connect(self) -> None:
        resume = f"?epoch={self.epoch}&offset={self.offset}&since={self.since}" if self.epoch is not None else ""
        async with connect(
            f"{self.url.replace('http', 'ws', 1)}/v1/trips/{self.trip_id}/live{resume}",
            additional_headers={"Authorization": f"Bearer {self._token}"},
            max_size=None,
            compression=None,
            proxy=None,
            open_timeout=5,
            close_timeout=0.2,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_interval,
        ) as line:
            self._connection = line
            try:
                await self._read(line)
            except websockets.ConnectionClosed:
                self.lost.append(line.close_code)
                if line.close_code is not None and line.close_code >= 4500:
                    self.ended = line.close_code

    async def _read(self, line: ClientConnection) -> None:
        first = True
        while True:
            message: Message = json.loads(await line.recv())
            came = time.monotonic()
            kind = message["type"]
            if first and kind not in ("snapshot", "resumed"):
                self.breaks.append(f"the first message is {kind}")
            elif not first and kind in ("snapshot", "resumed"):
                self.breaks.append(f"{kind} in mid-conversation")
            first = False
            self._take(kind, message, came)
            if self._on_message is not None:
                self._on_message(message, came)

    def _take(self, kind: str, message: Message, came: float) -> None:
        if kind == "snapshot":
            self._begin(message)
        elif kind == "resumed":
            self.resumed += 1
            if (message["epoch"], message["offset"]) != (self.epoch, self.offset):
                self.breaks.append(f"asked to resume {self.epoch} after {self.offset}, resumed {message}")
            self.connected.set()
        elif kind == "skipped":
            self._count(message["from"], message["to"])
        elif "offset" in message:
            self._count(message["offset"], message["offset"])
            self.since = max(self.since, message.get("server_time", 0))
            if kind == "position":
                if message["fix_time"] < self.newest:
                    self.breaks.append(f"the marker went back to {message['fix_time']} from {self.newest}")
                self.newest = message["fix_time"]
                if not self.line.add(message):
                    self.breaks.append(f"the position of {self.newest} was shown already, in epoch {self.epoch}")
                if self._on_position is not None:
                    self._on_position(message, came)
            elif kind == "track_revised":
                self.revisions += 1
                self.line.revise(message)

    def _begin(self, snapshot: Message) -> None:
        self.snapshots += 1
        if "since" in snapshot:
            self.additions += 1
            if self.epoch is None or snapshot["since"] != self.since:
                self.breaks.append(f"asked for what came since {self.since}, got what came since {snapshot['since']}")
            self.line.add_to(snapshot["track"])
        else:
            self.line.begin(snapshot["track"])
        self.epoch, self.offset = snapshot["epoch"], snapshot["offset"]
        self.newest = snapshot["position"]["fix_time"] if "position" in snapshot else 0
        self.since = max(self.since, snapshot["server_time"])
        self.connected.set()

    def _count(self, first: int, last: int) -> None:
        if first != self.offset + 1:
            self.breaks.append(f"offset {first} after {self.offset} in epoch {self.epoch}")
        self.offset = last


def _point(entry: list[float]) -> Point:
    return int(entry[2]), entry[0], entry[1]


def _time_of(point: Point) -> int:
    return point[0]
