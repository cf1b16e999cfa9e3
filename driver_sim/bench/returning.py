"""Clients that come back: each connects again after every end, as a driver's app or the page does, and notes how that went."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence

from driver_sim.backoff import Backoff, full_jitter
from driver_sim.bench.clients import METRES_PER_DEGREE, SPEED, Client, Lost, open_line
from driver_sim.bench.lines import LineClient
from tracking.model import system_clock
from tracking.protocol.codec import encode
from tracking.protocol.driver import Hello

STEADY_SECONDS = 10.0
"""Of a connection: after an earlier end the next attempt waits longer."""
ANSWER_SECONDS = 15.0
"""Until a hub serves a client that has connected; otherwise the client tries again."""
IN_A_FRAME = 100
"""Fixes that a driver sends together when it comes back; 500 are allowed."""
PAGE_FIRST = 1.0
PAGE_LONGEST = 30.0
RESTART = 1012

Ports = Callable[[], Sequence[int]]
"""Where to connect now: the first port that accepts."""


def page_backoff(attempt: int) -> float:
    """As `web/shared/connection.js` waits: from a quarter to all of the ceiling."""
    ceiling = min(PAGE_LONGEST, PAGE_FIRST * 2.0 ** min(attempt, 32))
    return ceiling / 4 + 3 * full_jitter(ceiling, ceiling)(0) / 4


class Returning:
    """One client. `line` makes its next connection from what it has by then."""

    def __init__(self, ports: Ports, backoff: Backoff) -> None:
        self.ends: list[int] = []
        """The close code of each connection; 0: it ended without one, after it had served the client."""
        self.refused: list[str] = []
        """Why attempts failed, other than by a close code 1012 of a hub that stops or has too many clients."""
        self.away: list[float] = []
        """Seconds from each end until a hub served it again."""
        self.away_since: float | None = None
        """Since when it is without a hub, after it was served before."""
        self.served = asyncio.Event()
        self._ports = ports
        self._backoff = backoff
        self._current: Client | None = None

    def line(self) -> Client:
        raise NotImplementedError

    def began(self) -> None:
        """A hub serves it."""

    async def run(self) -> None:
        """Connects, again and again, until it is cancelled."""
        attempt = 0
        try:
            while True:
                ended = asyncio.Event()
                client = self._current = self.line()
                client.on_end = ended.set
                if await self._opened(client):
                    since = time.perf_counter()
                    if self.away_since is not None:
                        self.away.append(since - self.away_since)
                        self.away_since = None
                    self.served.set()
                    self.began()
                    await ended.wait()
                    self.served.clear()
                    self.away_since = time.perf_counter()
                    self.ends.append(client.closed or 0)
                    if self.away_since - since >= STEADY_SECONDS:
                        attempt = 0
                await asyncio.sleep(self._backoff(attempt))
                attempt += 1
        finally:
            if self._current is not None:
                self._current.close()

    async def _opened(self, client: Client) -> bool:
        why = "nobody accepts"
        for port in self._ports():
            try:
                await open_line(client, port, ANSWER_SECONDS)
            except ConnectionRefusedError:
                continue
            except (Lost, OSError, TimeoutError) as error:
                if client.closed == RESTART:
                    self.ends.append(RESTART)
                    return False
                why = str(error) or type(error).__name__
                client.close()
                break
            return True
        self.refused.append(why)
        return False


class Driver(Returning):
    """A device: its fixes have rising numbers, and each is kept until it is acknowledged."""

    def __init__(self, token: str, ports: Ports) -> None:
        super().__init__(ports, full_jitter())
        self.session = str(uuid.uuid4())
        self.sent = 0
        """The number of the newest fix."""
        self.acknowledged = 0
        """All up to this number are."""
        self.rejected = 0
        self._token = token
        self._kept: deque[tuple[int, bytes]] = deque()

    def line(self) -> Client:
        return _DriverLine(self, self._token)

    def report(self) -> None:
        """Makes a fix of now, and sends it if it is connected."""
        self.sent += 1
        latitude = 47.0 + self.sent * SPEED / METRES_PER_DEGREE
        fix = b'"seq":%d,"fix_time":%d,"latitude":%.6f,"longitude":9.521345,"accuracy":4.5,"speed":10.0,"bearing":0.0}' % (
            self.sent,
            system_clock(),
            latitude,
        )
        self._kept.append((self.sent, fix))
        if self.served.is_set() and self._current is not None:
            self._current.send(b'{"type":"position",' + fix)

    def began(self) -> None:
        """Sends what is not acknowledged."""
        assert self._current is not None
        kept = [fix for _, fix in self._kept]
        for first in range(0, len(kept), IN_A_FRAME):
            fixes = b",".join(b"{" + fix for fix in kept[first : first + IN_A_FRAME])
            self._current.send(b'{"type":"positions","positions":[' + fixes + b"]}")

    def took(self, message: bytes) -> None:
        """An ack."""
        end = message.find(b",", 20)
        seq = int(message[20 : end if end > 0 else -1])
        self.acknowledged = max(self.acknowledged, seq)
        self.rejected += message.count(b'"code"')
        while self._kept and self._kept[0][0] <= seq:
            self._kept.popleft()


class _DriverLine(Client):
    def __init__(self, driver: Driver, token: str) -> None:
        super().__init__("/v1/driver", token)
        self._driver = driver

    def received(self, message: bytes) -> None:
        if message.startswith(b'{"type":"ack"'):
            self._driver.took(message)
            if not self.ready.done():
                self.ready.set_result(None)
        elif message.startswith(b'{"type":"welcome"'):
            self.send(encode(Hello(self._driver.session)))


class Passenger(Returning):
    """A page: it has one line, which each connection goes on with."""

    def __init__(self, trip_id: str, token: str, ports: Ports) -> None:
        super().__init__(ports, page_backoff)
        self.trip_id = trip_id
        self.breaks = 0
        self.ways: list[str] = []
        """How it came back: `added` to its line, or got the `whole` line again."""
        self._token = token
        self._newest: LineClient | None = None
        """What it has."""

    def line(self) -> LineClient:
        before = self._newest
        return LineClient(self.trip_id, self._token, before)

    def began(self) -> None:
        assert isinstance(self._current, LineClient)
        if self._newest is not None:
            self.breaks += self._newest.breaks
            self.ways.append("added" if self._current.added else "whole")
        self._newest = self._current

    @property
    def fix_times(self) -> set[int]:
        """Those of the line that it has."""
        return self._newest.line if self._newest is not None else set()

    @property
    def all_breaks(self) -> int:
        return self.breaks + (self._newest.breaks if self._newest is not None else 0)
