"""A passenger who keeps the line of the trip, and goes on with it on another connection."""

import time

import msgspec

from driver_sim.bench.clients import WatcherClient
from tracking.protocol.passenger import Resumed


class LineClient(WatcherClient):
    """Keeps the fix times of the line, goes on from what another one had, and notes when it saw the first position."""

    def __init__(self, trip_id: str, token: str, before: "LineClient | None" = None) -> None:
        query = "" if before is None else f"?epoch={before.epoch}&offset={before.offset}&since={before.since}"
        super().__init__(trip_id, token, query=query)
        self.trip_id = trip_id
        self.line: set[int] = set() if before is None else set(before.line)
        self.epoch: str = "" if before is None else before.epoch
        self.offset: int = 0
        self.since: int = 0 if before is None else before.since
        self.added = False
        """Its snapshot only added to the line."""
        self.snapshot_at: float | None = None
        self.position_at: float | None = None

    def received(self, message: bytes) -> None:
        super().received(message)
        if message.startswith(b'{"type":"position","offset":'):
            if self.position_at is None:
                self.position_at = time.perf_counter()
            at = message.index(b'"fix_time":') + 11
            self.line.add(int(message[at : at + 13]))
            at = message.index(b'"server_time":') + 14
            self.since = max(self.since, int(message[at : at + 13]))
        elif message.startswith(b'{"type":"snapshot"'):
            self.snapshot_at = time.perf_counter()
            snapshot = _decode_snapshot(message)
            self.added = snapshot.since is not None
            if not self.added:
                self.line.clear()
            self.line.update(int(point[2]) for point in snapshot.track)
            self.epoch, self.since = snapshot.epoch, max(self.since, snapshot.server_time)
        elif message.startswith(b'{"type":"resumed"'):
            self.added = True
            self._offset = _decode_resumed(message).offset
            if not self.ready.done():
                self.ready.set_result(None)
        elif message.startswith(b'{"type":"track_revised"'):
            revised = _decode_revision(message)
            self.line = {at for at in self.line if not revised.from_ <= at <= revised.to}
            self.line.update(int(point[2]) for point in revised.track)
        if self._offset is not None:
            self.offset = self._offset


class _Snapshot(msgspec.Struct):
    epoch: str
    server_time: int
    track: list[tuple[float, float, float]]
    since: int | None = None


class _Revision(msgspec.Struct, rename={"from_": "from"}):
    from_: int
    to: int
    track: list[tuple[float, float, float]]


_decode_snapshot = msgspec.json.Decoder(_Snapshot).decode
_decode_resumed = msgspec.json.Decoder(Resumed).decode
_decode_revision = msgspec.json.Decoder(_Revision).decode
