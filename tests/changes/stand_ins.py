"""The other ends of the hub's connections: a wire without a socket, and a device that reports by it."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from starlette.websockets import WebSocket

from tracking.model import system_clock
from tracking.protocol.codec import frame_ends, text_of
from tracking.sockets.wire import EXTENSION, Listener

Message = dict[str, Any]


class Heard(NamedTuple):
    """`at` is a counter over the whole sequence."""

    at: int
    message: Message


class StandInWire:
    """A `Wire` whose other end is this object. `heard` is all that the hub sent. `say` sends to the hub."""

    def __init__(self, stamp: Callable[[], int]) -> None:
        self._stamp = stamp
        self._listener: Listener | None = None
        self._held: list[bytes] | None = None
        self.heard: list[Heard] = []
        self.begun_at: int | None = None
        """When the first message was received."""
        self.over_at: int | None = None
        self.code: int | None = None
        self._lost = False
        self.on_heard: Callable[[Message], None] = lambda _: None

    @property
    def open(self) -> bool:
        return self.over_at is None and self.begun_at is not None

    # --- as the hub has it --------------------------------------------------------------------------------------------

    def listen(self, listener: Listener, high_water: int) -> None:
        self._listener = listener
        if self.over_at is not None:
            asyncio.get_running_loop().call_soon(self._end)

    async def served(self) -> None:
        return

    @property
    def write(self) -> Callable[[bytes], None]:
        return self._write

    @property
    def gone(self) -> bool:
        return False

    def _write(self, frames: bytes) -> None:
        if self.over_at is not None:
            return
        start = 0
        for end in frame_ends(frames):
            at = self._stamp()
            if self.begun_at is None:
                self.begun_at = at
            message = json.loads(text_of(bytes(frames[start:end])))
            self.heard.append(Heard(at, message))
            self.on_heard(message)
            start = end

    def hold(self) -> None:
        if self._held is None:
            self._held = []

    def release(self) -> None:
        held, self._held = self._held, None
        while held:
            self._receive(held.pop(0))
            if self._held is not None:
                self._held.extend(held)
                return

    def close(self, code: int, reason: str) -> None:
        if self.over_at is None:
            self.over_at, self.code = self._stamp(), int(code)
            asyncio.get_running_loop().call_soon(self._end)

    def abort(self) -> None:
        self.close(1006, "")

    def _end(self) -> None:
        if self._listener is not None and not self._lost:
            self._lost = True
            self._listener.lost()

    # --- as its other end has it --------------------------------------------------------------------------------------

    def say(self, message: Message) -> None:
        self._receive(json.dumps(message).encode())

    def _receive(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
        elif self._listener is not None and self.over_at is None:
            self._listener.text_received(data)

    def leave(self) -> None:
        if self.over_at is None:
            self.over_at = self._stamp()
            self._end()

    def websocket(self, **query: str) -> WebSocket:
        """A WebSocket as a connection takes it, as far as it is used."""
        return cast(WebSocket, _Accepted(self, query))


class _Accepted:
    client = None

    def __init__(self, wire: StandInWire, query: dict[str, str]) -> None:
        self.scope = {"extensions": {EXTENSION: {"wire": wire}}}
        self.query_params = query


class Sent(NamedTuple):
    """The hub that a fix was sent to, and when: in the sequence, and by the clock of the machine and the database."""

    hub: object
    at: int
    instant: int


class Device:
    """A vehicle's device. It drives along a parallel of its own, by which its positions are known, and keeps its fixes until
    they are acknowledged.
    """

    def __init__(self, vehicle_id: str, latitude: float, began: int) -> None:
        self.vehicle_id = vehicle_id
        self.latitude = latitude
        self.session = str(uuid.uuid4())
        self._began = began
        self._seq = 0
        self._times: set[int] = set()
        self._unacknowledged: dict[int, Message] = {}
        self.wire: StandInWire | None = None
        self.hub: object = None
        self.sent_at: dict[int, list[Sent]] = {}
        """All times that each fix was sent, by fix time."""

    @property
    def connected(self) -> bool:
        return self.wire is not None and self.wire.open

    def take(self, hub: object, wire: StandInWire) -> None:
        """It is welcomed: says hello, and sends what is not acknowledged."""
        self.wire, self.hub = wire, hub
        wire.say({"type": "hello", "session": self.session})

    def heard(self, message: Message) -> None:
        if message["type"] == "ack":
            self._unacknowledged = {seq: fix for seq, fix in self._unacknowledged.items() if seq > message["seq"]}

    def send_again(self, stamp: int) -> None:
        if self._unacknowledged:
            self._send(list(self._unacknowledged.values()), stamp)

    def report(self, fix_times: list[int], stamp: int) -> None:
        """Sends one message with fixes of these times, or of the next free ones."""
        fixes = []
        for fix_time in fix_times:
            while fix_time in self._times:
                fix_time += 1
            self._times.add(fix_time)
            self._seq += 1
            fix = {
                "seq": self._seq,
                "fix_time": fix_time,
                "latitude": self.latitude,
                "longitude": round(9 + (fix_time - self._began) * 1e-7, 7),
            }
            self._unacknowledged[self._seq] = fix
            fixes.append(fix)
        self._send(fixes, stamp)

    def _send(self, fixes: list[Message], stamp: int) -> None:
        if self.wire is None or not self.wire.open:
            return
        for fix in fixes:
            self.sent_at.setdefault(fix["fix_time"], []).append(Sent(self.hub, stamp, system_clock()))
        if len(fixes) == 1:
            self.wire.say({"type": "position", **fixes[0]})
        else:
            self.wire.say({"type": "positions", "positions": fixes})
