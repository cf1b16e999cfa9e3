"""WebSocket clients as thin as they get, so that thousands fit beside the hub that they load. Fixes are kept in memory."""

import asyncio
import base64
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping

import msgspec
from websockets.speedups import apply_mask

from tracking.model import system_clock
from tracking.protocol.codec import encode
from tracking.protocol.dispatcher import EventNews, FleetUpdate, ViewportChange
from tracking.protocol.driver import Hello
from tracking.protocol.shared import SUBPROTOCOL

METRES_PER_DEGREE = 111_195.0
SPEED = 10.0
"""m/s: what every vehicle drives, north."""
_REMEMBERED = 512
"""Fixes whose time of sending a driver remembers for its watchers."""


class Lost(Exception):
    """A line ended, or never came to be."""


class Client(asyncio.Protocol):
    """One connection. `ready` is set when it serves its purpose; `closed` holds the close code when it is over (0: without)."""

    def __init__(self, path: str, token: str) -> None:
        self._path = path
        self._token = token
        self._rest = b""
        self._upgraded = False
        self.transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: int | None = None
        self.hub = 0
        """The number of the hub that it connects to."""
        self.on_end: Callable[[], object] = lambda: None
        """Called when the connection has ended."""
        self.receive_buffer: int | None = None
        """Bytes that the system may hold of what is not read; None: as it likes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {self._path} HTTP/1.1",
            "Host: hub",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
            f"Authorization: Bearer {self._token}",
            "\r\n",
        )
        transport.write("\r\n".join(head).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed is None:
            self.closed = 0
        self.on_end()
        if not self.ready.done():
            self.ready.set_exception(Lost(f"{self._path}: closed with {self.closed}"))

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.ready.set_exception(Lost(data.split(b"\r\n", 1)[0].decode()))
                return
            self._upgraded = True
            at = end + 4
            self.upgraded()
        size = len(data)
        while size - at >= 2:
            length = data[at + 1]
            start = at + 2
            if length == 126:
                start = at + 4
                length = int.from_bytes(data[at + 2 : start], "big")
            elif length == 127:
                start = at + 10
                length = int.from_bytes(data[at + 2 : start], "big")
            end = start + length
            if end > size or start > size:
                break
            kind = data[at] & 0x0F
            if kind == 1:
                self.received(data[start:end])
            elif kind == 9:
                self._send(0x8A, data[start:end])
            elif kind == 8:
                self.closed = int.from_bytes(data[start : start + 2], "big")
                self._send(0x88, data[start:end])
                self.transport.close()
            at = end
        self._rest = data[at:]

    def upgraded(self) -> None:
        """The connection stands."""

    def received(self, message: bytes) -> None:
        raise NotImplementedError

    def send(self, message: bytes) -> None:
        self._send(0x81, message)

    def _send(self, head: int, payload: bytes) -> None:
        mask = b"\x5a\x17\xe3\x88"
        length = len(payload)
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(bytes((head,)) + size + mask + apply_mask(payload, mask))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class DriverClient(Client):
    """Reports fixes with rising numbers, and notes how long each took to be acknowledged."""

    def __init__(
        self, token: str, session: str, *, first_seq: int = 1, tick: float = 0.1, place: tuple[float, float] = (47.0, 9.521345)
    ) -> None:
        """`place` is where it begins, as latitude and longitude."""
        super().__init__("/v1/driver", token)
        self._latitude, self._longitude = place
        self._session = session
        self._next = first_seq
        self._step = SPEED * tick / METRES_PER_DEGREE
        self._unacknowledged: deque[tuple[int, float]] = deque()
        self.sent_at: dict[int, float] | None = None
        """By fix time, for the watchers; None where there are none."""
        self.sent = 0
        self.acknowledged = 0
        self.to_ack: list[float] = []

    def received(self, message: bytes) -> None:
        if message.startswith(b'{"type":"ack"'):
            if not self.ready.done():
                self.ready.set_result(None)
                return
            now = time.perf_counter()
            end = message.find(b",", 20)
            seq = int(message[20 : end if end > 0 else -1])
            waiting = self._unacknowledged
            while waiting and waiting[0][0] <= seq:
                self.to_ack.append(now - waiting.popleft()[1])
                self.acknowledged += 1
        elif message.startswith(b'{"type":"welcome"'):
            self.send(encode(Hello(self._session)))

    def report(self) -> None:
        fix_time = system_clock()
        seq = self._next
        self._next += 1
        now = time.perf_counter()
        self._unacknowledged.append((seq, now))
        if self.sent_at is not None:
            self.sent_at[fix_time] = now
            if len(self.sent_at) > _REMEMBERED:
                del self.sent_at[next(iter(self.sent_at))]
        self.sent += 1
        self.send(
            b'{"type":"position","seq":%d,"fix_time":%d,"latitude":%.6f,"longitude":%.6f,'
            b'"accuracy":4.5,"altitude":460.2,"speed":10.0,"bearing":0.0,"battery":0.83}'
            % (seq, fix_time, self._latitude + (seq % 10_000) * self._step, self._longitude)
        )


class WatcherClient(Client):
    """Watches a trip: counts what comes, checks its numbering, and notes how long each position was under way.

    With a driver it also counts, in `again`, positions that are not newer than one before.
    """

    def __init__(self, trip_id: str, token: str, driver: DriverClient | None = None, query: str = "") -> None:
        super().__init__(f"/v1/trips/{trip_id}/live{query}", token)
        self._driver = driver
        self._offset: int | None = None
        self.delivered = 0
        self.skipped = 0
        self.breaks = 0
        self.again = 0
        self._newest = 0
        self.to_watcher: list[float] = []
        self.trip_seen: dict[int, float] = {}
        """When each version of the trip came that was new while it watched."""

    def received(self, message: bytes) -> None:
        if message.startswith(b'{"type":"position","offset":'):
            end = message.index(b",", 28)
            self._follows(int(message[28:end]))
            self.delivered += 1
            if self._driver is not None and self._driver.sent_at is not None:
                at = message.index(b'"fix_time":', end) + 11
                fix_time = int(message[at : at + 13])
                if fix_time <= self._newest:
                    self.again += 1
                self._newest = fix_time
                sent = self._driver.sent_at.get(fix_time)
                if sent is not None:
                    self.to_watcher.append(time.perf_counter() - sent)
        elif message.startswith(b'{"type":"trip","offset":'):
            now = time.perf_counter()
            self._follows(int(message[24 : message.index(b",", 24)]))
            self.trip_seen[_version(message)] = now
        elif message.startswith(b'{"type":"track_revised","offset":'):
            self._follows(int(message[33 : message.index(b",", 33)]))
        elif message.startswith(b'{"type":"skipped","from":'):
            first, last = (int(part.rpartition(b":")[2]) for part in message[:-1].split(b",")[1:])
            self.skipped += last - first + 1
            self._follows(first)
            self._offset = last
        elif message.startswith(b'{"type":"snapshot"'):
            at = message.index(b'"offset":') + 9
            self._offset = int(message[at : message.index(b",", at)])
            if not self.ready.done():
                self.ready.set_result(None)

    def _follows(self, offset: int) -> None:
        if self._offset is not None and offset != self._offset + 1:
            self.breaks += 1
        self._offset = offset


class DispatcherClient(Client):
    """Looks at a part of a fleet, and counts the updates that come; with `drivers` it notes how long each was under way."""

    def __init__(
        self, fleet_id: str, token: str, bounds: tuple[float, float, float, float], drivers: Mapping[str, DriverClient]
    ) -> None:
        super().__init__(f"/v1/fleets/{fleet_id}/live", token)
        self._bounds = bounds
        self._drivers = drivers
        self.in_view = 0
        self.delivered = 0
        self.messages = 0
        self.to_watcher: list[float] = []
        self.across: list[float] = []
        """The same, of drivers who are connected to another hub."""
        self.events: list[str] = []
        """their kinds"""
        self.trips_seen: dict[str, dict[int, float]] = {}
        """When each version of each trip came."""

    def look(self) -> None:
        self.send(encode(ViewportChange(self._bounds, 12)))

    def upgraded(self) -> None:
        self.look()

    def received(self, message: bytes) -> None:
        if message.startswith(b'{"type":"fleet",'):
            self.messages += 1
            if not self._drivers:
                # Rows are told by what stands between them, which nothing else of the message holds.
                self.delivered += message.count(b"],[") + (b'"positions":[[' in message)
                return
            now = time.perf_counter()
            rows = _decode_fleet(message).positions
            self.delivered += len(rows)
            for vehicle_id, _, _, _, _, fix_time in rows:
                self._took(vehicle_id, fix_time, now)
        elif message.startswith(b'{"type":"trip",'):
            now = time.perf_counter()
            at = message.index(b'"trip_id":"') + 11
            trip_id = message[at : message.index(b'"', at)].decode()
            self.trips_seen.setdefault(trip_id, {})[_version(message)] = now
        elif message.startswith(b'{"type":"event"'):
            event = _decode_event(message)
            self.events.append(event.kind)
            self._took(event.vehicle_id, event.fix_time or 0, time.perf_counter())
        elif message.startswith(b'{"type":"fleet_snapshot"'):
            self.in_view += message.count(b'"vehicle_id":')
            if not self.ready.done():
                self.ready.set_result(None)

    def _took(self, vehicle_id: str, fix_time: int, now: float) -> None:
        driver = self._drivers.get(vehicle_id)
        sent = driver.sent_at.get(fix_time) if driver is not None and driver.sent_at is not None else None
        if driver is not None and sent is not None:
            (self.to_watcher if driver.hub == self.hub else self.across).append(now - sent)


def _version(message: bytes) -> int:
    """Of the trip in a message."""
    at = message.index(b'"version":') + 10
    return int(message[at : message.index(b",", at)])


_decode_event = msgspec.json.Decoder(EventNews).decode
_decode_fleet = msgspec.json.Decoder(FleetUpdate).decode


async def connect(
    clients: list[Client], port: int, *, at_once: int = 100, told: Callable[[], object] = lambda: None, timeout: float = 60.0
) -> None:
    """Connects all of them and waits until each is ready. Raises `Lost` or `TimeoutError`."""
    gate = asyncio.Semaphore(at_once)

    async def one(client: Client) -> None:
        async with gate:
            await open_line(client, port, timeout)
            told()

    await asyncio.gather(*(one(client) for client in clients))


async def open_line(client: Client, port: int, timeout: float = 60.0) -> None:
    """Connects it and waits until it is ready. Raises `Lost`, `OSError` or `TimeoutError`."""
    loop = asyncio.get_running_loop()
    mine = socket.socket()
    mine.setblocking(False)
    if client.receive_buffer is not None:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, client.receive_buffer)
    try:
        await loop.sock_connect(mine, ("127.0.0.1", port))
    except OSError:
        mine.close()
        raise
    await loop.create_connection(lambda: client, sock=mine)
    await asyncio.wait_for(asyncio.shield(client.ready), timeout)
