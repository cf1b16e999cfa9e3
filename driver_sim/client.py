"""A driver's app: it keeps each fix until the hub has acknowledged it, over as many connections as that takes.

    report() -> outbox -> kept -> `position` or `positions` -> `ack` -> gone from the outbox

`DriverClient` is used from one event loop. What the driving loop calls never blocks and never waits for the network.
"""

import asyncio
import contextlib
import math
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import UNSET, UnsetType

from driver_sim.backoff import Backoff, full_jitter
from driver_sim.callbacks import Callbacks
from driver_sim.close_codes import ABNORMAL_CLOSURE, NORMAL, Verdict, verdict
from driver_sim.connection import Connection, Ending, driver_url
from driver_sim.outbox import Outbox, Request
from driver_sim.protocol import DriverProtocol
from driver_sim.settings import ConnectionSettings
from tracking.model import Clock, Fix, TripStatus, system_clock
from tracking.protocol.codec import encode
from tracking.protocol.driver import TripStatusChange
from tracking.protocol.shared import TextMessage

TokenSource = Callable[[], Awaitable[str]]


class DriverStopped(Exception):
    """The client has ended with fixes or requests still in its outbox. They stay there."""


class DriverClient:
    """One vehicle's app.

    `hub` is the hub's address, http(s) or ws(s). `fetch_token` gets the first token if `token` is None, and another each time
    one has expired. If it raises, it is called again after a pause.
    """

    def __init__(
        self,
        hub: str,
        outbox: Outbox,
        token: str | None = None,
        *,
        fetch_token: TokenSource | None = None,
        callbacks: Callbacks | None = None,
        settings: ConnectionSettings | None = None,
        backoff: Backoff | None = None,
        clock: Clock = system_clock,
    ) -> None:
        if token is None and fetch_token is None:
            raise ValueError("a driver needs a token, or a fetch_token to get one; got neither")
        self.url = driver_url(hub)
        self.outbox = outbox
        self.token = token
        self.connected = asyncio.Event()
        """Set from the answer to hello until the connection is lost."""
        self.connections = 0
        """Connections that the hub answered hello on."""
        self.ending: Ending | None = None
        self._fetch_token = fetch_token
        self._settings = settings or ConnectionSettings()
        self._backoff = backoff or full_jitter()
        self._clock = clock
        self._protocol = DriverProtocol(outbox, callbacks or Callbacks(), self._settings, self._backoff)
        self._stopping = asyncio.Event()
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def callbacks(self) -> Callbacks:
        return self._protocol.callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Callbacks) -> None:
        self._protocol.callbacks = callbacks

    @property
    def interval(self) -> float:
        """Seconds between fixes that the hub wants."""
        return self._protocol.interval

    @property
    def fixes_sent(self) -> int:
        """Fixes sent. A fix sent twice counts twice."""
        return self._protocol.fixes_sent

    # --- what the driving loop calls ---------------------------------------------------------------------------------

    def report(
        self,
        latitude: float,
        longitude: float,
        *,
        fix_time: int | None = None,
        accuracy: float | None = None,
        altitude: float | None = None,
        speed: float | None = None,
        bearing: float | None = None,
        battery: float | None = None,
    ) -> int:
        """Take a fix into the outbox and return its seq. Never blocks, connected or not.

        Degrees, metres, m/s, `battery` 0..1; `fix_time` is an instant, now by default. Raises `ValueError` for a number that
        JSON does not have (NaN, infinity). The hub judges all other numbers.
        """
        values = (latitude, longitude, accuracy, altitude, speed, bearing, battery)
        if not all(value is None or math.isfinite(value) for value in values):
            raise ValueError(f"a fix has finite numbers, or leaves a value out; got {values}")
        fix = Fix(
            0,
            self._clock() if fix_time is None else fix_time,
            latitude,
            longitude,
            _or_unset(accuracy),
            _or_unset(altitude),
            _or_unset(speed),
            _or_unset(bearing),
            _or_unset(battery),
        )
        return self.outbox.put(fix)

    def advance(self, trip_id: str, status: TripStatus) -> str:
        """Ask the hub to move this trip on. It is sent until the hub answers. Returns the request's `client_id`."""
        client_id = str(uuid.uuid4())
        self._protocol.put_request(Request(client_id, encode(TripStatusChange(trip_id, status, client_id))))
        return client_id

    def send_text(self, trip_id: str, text: str) -> str:
        """Write to the trip's passenger, at most 1,000 characters. Returns the request's `client_id`."""
        client_id = str(uuid.uuid4())
        self._protocol.put_request(Request(client_id, encode(TextMessage(text, client_id, trip_id))))
        return client_id

    def set_signal(self, signal: bool) -> None:
        """False: the device is in a dead zone. Nothing is sent, and fixes wait in the outbox."""
        self._protocol.set_signal(signal)

    def stop(self) -> None:
        """Let `run`, the present or the next, close the connection and return. The outbox keeps what is not acknowledged."""
        self._stopping.set()

    async def drained(self) -> None:
        """Return once every fix is acknowledged and every request done. Raises `DriverStopped` if `run` ends before."""
        # A task just made for run() has its first step now, and forgets the ending of the run before it.
        await asyncio.sleep(0)
        while len(self.outbox) or self.outbox.requests():
            if self.ending is not None:
                raise DriverStopped(
                    f"closed with {self.ending.code} ({self.ending.reason}); {len(self.outbox)} fixes and "
                    f"{len(self.outbox.requests())} requests wait in the outbox"
                )
            self._protocol.changed.clear()
            await self._protocol.changed.wait()

    # --- one connection after the other ------------------------------------------------------------------------------

    async def run(self) -> Ending:
        """Connect, and reconnect after each loss, until `stop()` or a close code that forbids it.

        May be called again after it returned: that is the user asking.
        """
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.ending = None
        self.outbox.notify(self._on_kept)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            self.ending = await self._reconnect_until(stopping)
        finally:
            if self.ending is None:
                self.ending = Ending(ABNORMAL_CLOSURE, "the client was cancelled, or a callback failed")
            stopping.cancel()
            # Not at the beginning: a stop() between the making of a task for run() and its first step must count.
            self._stopping.clear()
            self.outbox.notify(None)
            self._protocol.changed.set()
        return self.ending

    async def _reconnect_until(self, stopping: asyncio.Future[Literal[True]]) -> Ending:
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            connection = asyncio.ensure_future(self._connect())
            try:
                await asyncio.wait((connection, stopping), return_when=asyncio.FIRST_COMPLETED)
                if not connection.done():
                    break
                code, reason = connection.result()
            finally:
                if not connection.done():
                    connection.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await connection
                self.connected.clear()
            match verdict(code):
                case Verdict.STOP:
                    return Ending(code, reason)
                case Verdict.RENEW_TOKEN if self._fetch_token is not None:
                    self.token = None
                case Verdict.RENEW_TOKEN:
                    return Ending(code, f"{reason} (give the client a fetch_token to get another)")
            if self.callbacks.on_lost is not None:
                self.callbacks.on_lost(code, reason)
            if time.monotonic() - began >= self._settings.steady_after:
                attempt = 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._backoff(attempt))
            attempt += 1
        return Ending(NORMAL, "stopped")

    async def _connect(self) -> Ending:
        """One connection, from its token to its end."""
        if self.token is None:
            assert self._fetch_token is not None
            try:
                self.token = await self._fetch_token()
            except Exception as error:  # the caller's function may raise anything; without a token, try again
                return Ending(ABNORMAL_CLOSURE, f"no token: {error}")
        return await Connection(self._protocol, self._settings, self._on_ready).run(self.url, self.token)

    def _on_ready(self) -> None:
        self.connections += 1
        self.connected.set()
        if self.callbacks.on_connected is not None:
            self.callbacks.on_connected()

    def _on_kept(self) -> None:
        """Fixes may be sent. The outbox's writer calls this, perhaps from another thread."""
        if threading.get_ident() == self._thread:
            self._protocol.wake.set()
        elif self._loop is not None:
            # The loop may be closed already, at the very end of a process.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._protocol.wake.set)


def _or_unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value
