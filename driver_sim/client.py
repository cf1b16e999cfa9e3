"""A driver's connection: it reports fixes until each is acknowledged, over as many sockets as that takes.

    report() -> outbox -> kept -> `position` or `positions` -> `ack` -> gone from the outbox

`DriverClient` is used from one event loop. Nothing that the driving loop calls blocks or awaits the line.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import UNSET, Struct, UnsetType
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from driver_sim.backoff import Backoff, full_jitter
from driver_sim.close_codes import GONE_WITHOUT_A_WORD, NORMAL, Verdict, verdict
from driver_sim.outbox import Outbox, Request, frame_of
from tracking.model import Clock, Fix, TripStatus, system_clock
from tracking.protocol.codec import encode
from tracking.protocol.driver import MAX_BATCH, Ack, DriverTextMessage, DriverTrip, Hello, Interval, TripStatusChange, Welcome
from tracking.protocol.http import TripView
from tracking.protocol.shared import SUBPROTOCOL, Done, Error, TextMessage

logger = logging.getLogger(__name__)

TokenSource = Callable[[], Awaitable[str]]

HubMessage = Welcome | Ack | Done | Interval | DriverTrip | DriverTextMessage | Error

_decode = msgspec.json.Decoder(HubMessage).decode
_KNOWN = frozenset({"welcome", "ack", "done", "interval", "trip", "message", "error"})
_TRY_AGAIN = frozenset({"unavailable", "rate_limited"})
"""Codes of a `done` that refuse the moment, not the request."""


class _AnyMessage(Struct):
    type: str


_decode_type = msgspec.json.Decoder(_AnyMessage).decode


class Rejection(NamedTuple):
    """A fix that the hub handled by rejecting it. `fix` is None where it was rejected before, and is gone already."""

    seq: int
    code: str
    detail: str
    fix: Fix | None


class Ending(NamedTuple):
    """Why `run` returned: the close code (1000 after `stop()`) and what was said with it."""

    code: int
    reason: str


class DriverStopped(Exception):
    """The client has ended with fixes or requests still in its outbox; they stay there."""


class _LineLost(Exception):
    """This connection is of no more use; come back."""


def driver_url(hub: str) -> str:
    """The driver socket of a hub: `http://host:8000` -> `ws://host:8000/v1/driver`. Raises `ValueError` for another scheme."""
    parts = urlsplit(hub)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"a hub's address looks like http://127.0.0.1:8000; got {hub!r}")
    path = parts.path.rstrip("/")
    return urlunsplit((scheme, parts.netloc, path if path.endswith("/v1/driver") else path + "/v1/driver", "", ""))


class DriverClient:
    """One vehicle's app.

    `hub`: the hub's address, http(s) or ws(s). `token`, or `fetch_token` to get one, and another when it has expired; a
    `fetch_token` that raises is called again after a pause. `outbox` holds the session's uuid and numbers.

    Callbacks run in the event loop, between messages: `on_trip(trip)` for a trip assigned, changed or (without `vehicle`)
    taken away, and the one in each welcome; `on_rejected(rejection)`; `on_done(request, code, detail)` with None and None
    where it is committed; `on_message(message)`; `on_interval(seconds)`; `on_error(error)`; `on_connected()` after each
    hello is answered; `on_lost(code, reason)` each time a line is lost and the client will come back. One that raises ends
    `run` with that exception.

    `max_in_flight`: fixes sent and not yet acknowledged; past it nothing more is sent. `ping_interval` and `ping_timeout`
    (seconds) say how soon a dead line is noticed; `answer_timeout` how long to wait for welcome, the answer to hello, and
    `done`. `steady_after`: seconds that a connection must have lasted for the backoff to begin anew.
    """

    def __init__(
        self,
        hub: str,
        outbox: Outbox,
        token: str | None = None,
        *,
        fetch_token: TokenSource | None = None,
        on_trip: Callable[[TripView], None] | None = None,
        on_rejected: Callable[[Rejection], None] | None = None,
        on_done: Callable[[Request, str | None, str | None], None] | None = None,
        on_message: Callable[[DriverTextMessage], None] | None = None,
        on_interval: Callable[[float], None] | None = None,
        on_error: Callable[[Error], None] | None = None,
        on_connected: Callable[[], None] | None = None,
        on_lost: Callable[[int, str], None] | None = None,
        backoff: Backoff | None = None,
        clock: Clock = system_clock,
        max_in_flight: int = 2 * MAX_BATCH,
        max_batch: int = MAX_BATCH,
        ping_interval: float | None = 10.0,
        ping_timeout: float | None = 10.0,
        answer_timeout: float = 15.0,
        close_timeout: float = 0.5,
        steady_after: float = 10.0,
    ) -> None:
        if token is None and fetch_token is None:
            raise ValueError("a driver needs a token, or a fetch_token to get one; got neither")
        self.url = driver_url(hub)
        self.outbox = outbox
        self.token = token
        self.interval = 2.0
        """Seconds between fixes that the hub wants."""
        self.connected = asyncio.Event()
        """Set while fixes flow: from the answer to hello until the line is lost."""
        self.ending: Ending | None = None
        self.fixes_sent = 0
        """Fixes put on a line, those sent again counted again."""
        self.connections = 0
        """Connections that came as far as the answer to hello."""
        self._fetch_token = fetch_token
        self.on_trip = on_trip
        self.on_rejected = on_rejected
        self.on_done = on_done
        self.on_message = on_message
        self.on_interval = on_interval
        self.on_error = on_error
        self.on_connected = on_connected
        self.on_lost = on_lost
        self._backoff = backoff or full_jitter()
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._max_batch = max_batch
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._answer_timeout = answer_timeout
        self._close_timeout = close_timeout
        self._steady_after = steady_after
        self._signal = True
        self._sent = 0
        self._asked: str | None = None
        self._asked_at = 0.0
        self._ask_again_at = 0.0
        self._quiet_until = 0.0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.get_ident()
        self._loop: asyncio.AbstractEventLoop | None = None

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
        """Take a fix into the outbox and return its seq; never blocks, connected or not.

        Degrees, metres, m/s, `battery` 0..1; `fix_time` is an instant, now by default. Raises `ValueError` for a number that
        JSON does not have (NaN, infinity); any other, sensible or not, is the hub's to judge.
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
        """Ask the hub to move this trip on; kept and sent again until it answers. Returns the request's `client_id`."""
        client_id = str(uuid.uuid4())
        return self._request(client_id, TripStatusChange(trip_id, status, client_id))

    def send_text(self, trip_id: str, text: str) -> str:
        """Write to the trip's passenger, at most 1,000 characters. Returns the request's `client_id`."""
        client_id = str(uuid.uuid4())
        return self._request(client_id, TextMessage(text, client_id, trip_id))

    def set_signal(self, signal: bool) -> None:
        """False: the device is in a dead zone, nothing is sent and what is reported waits in the outbox."""
        self._signal = signal
        self._wake.set()

    def stop(self) -> None:
        """Let `run`, the present or the next, close the line and return; the outbox keeps what is not acknowledged."""
        self._stopping.set()

    async def drained(self) -> None:
        """Return once every fix is acknowledged and every request done. Raises `DriverStopped` where `run` ended before."""
        # A task just made for run() has its first step now, and forgets the ending of the run before it.
        await asyncio.sleep(0)
        while len(self.outbox) or self.outbox.requests():
            if self.ending is not None:
                raise DriverStopped(
                    f"closed with {self.ending.code} ({self.ending.reason}); {len(self.outbox)} fixes and "
                    f"{len(self.outbox.requests())} requests wait in the outbox"
                )
            self._changed.clear()
            await self._changed.wait()

    # --- the life of the connection ----------------------------------------------------------------------------------

    async def run(self) -> Ending:
        """Connect, and come back whenever the line is lost, until `stop()` or until the hub says not to come back.

        May be called again after it returned: that is the user asking.
        """
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.ending = None
        self.outbox.notify(self._kept)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            self.ending = await self._come_back_until(stopping)
        finally:
            if self.ending is None:
                self.ending = Ending(GONE_WITHOUT_A_WORD, "the client was cancelled, or a callback failed")
            stopping.cancel()
            # Not at the beginning: a stop() between the making of a task for run() and its first step must count.
            self._stopping.clear()
            self.outbox.notify(None)
            self._changed.set()
        return self.ending

    async def _come_back_until(self, stopping: asyncio.Future[Literal[True]]) -> Ending:
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
                case Verdict.STAY_AWAY:
                    return Ending(code, reason)
                case Verdict.RENEW if self._fetch_token is not None:
                    self.token = None
                case Verdict.RENEW:
                    return Ending(code, f"{reason} (give the client a fetch_token to get another)")
            if self.on_lost is not None:
                self.on_lost(code, reason)
            if time.monotonic() - began >= self._steady_after:
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
            except Exception as error:  # the caller's own, of any kind: no token, no line, try again
                return Ending(GONE_WITHOUT_A_WORD, f"no token: {error}")
        try:
            line = await connect(
                self.url,
                additional_headers={"Authorization": f"Bearer {self.token}"},
                subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
                compression=None,
                proxy=None,
                user_agent_header="driver_sim",
                open_timeout=self._answer_timeout,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                close_timeout=self._close_timeout,
            )
        except InvalidStatus as error:
            return Ending(GONE_WITHOUT_A_WORD, f"the hub answered {error.response.status_code} to the handshake")
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            return Ending(GONE_WITHOUT_A_WORD, f"no connection: {error or type(error).__name__}")
        try:
            await self._talk(line)
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                return Ending(closed.rcvd.code, closed.rcvd.reason)
            return Ending(GONE_WITHOUT_A_WORD, "the line broke" if closed.sent is None else closed.sent.reason)
        except _LineLost as lost:
            return Ending(GONE_WITHOUT_A_WORD, str(lost))
        finally:
            # Not by `async with`: that closes with 1011 on cancellation, which is how stop() ends a conversation.
            await line.close()

    async def _talk(self, line: ClientConnection) -> NoReturn:
        try:
            async with asyncio.timeout(self._answer_timeout):
                await self._await(line, Welcome)
                await line.send(encode(Hello(self.outbox.session)), text=True)
                await self._await(line, Ack)
        except TimeoutError:
            raise _LineLost("the hub did not greet, or did not answer hello, in time") from None
        # What the hub has of this session is now known; everything else goes again.
        self._sent = self.outbox.acknowledged_seq
        self._asked = None
        self._quiet_until = 0.0
        self.connections += 1
        self.connected.set()
        if self.on_connected is not None:
            self.on_connected()
        reading = asyncio.ensure_future(self._read(line))
        sending = asyncio.ensure_future(self._send(line))
        try:
            done, _ = await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise AssertionError("unreachable: both tasks only end by an exception")
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)

    async def _await(self, line: ClientConnection, kind: type[Struct]) -> None:
        while True:
            message = self._handle(await line.recv(decode=False))
            if isinstance(message, kind):
                return

    async def _read(self, line: ClientConnection) -> None:
        while True:
            self._handle(await line.recv(decode=False))

    async def _send(self, line: ClientConnection) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            if self._signal and now >= self._quiet_until:
                request = self._next_request(now)
                if request is not None:
                    await line.send(request.frame, text=True)
                kept = self.outbox.unacknowledged(self._sent, self._room())
                while kept:
                    frame, count = frame_of(kept, self._max_batch)
                    self._sent = kept[count - 1].seq
                    self.fixes_sent += count
                    del kept[:count]
                    await line.send(frame, text=True)
                if self._room() and self.outbox.kept_seq > self._sent:
                    continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._pause(now))

    def _room(self) -> int:
        in_flight = max(0, self._sent - self.outbox.acknowledged_seq)
        return max(0, min(self._max_in_flight - in_flight, self._max_batch))

    def _next_request(self, now: float) -> Request | None:
        """The oldest request, one at a time: `complete` must not overtake the step before it that was told to try again."""
        requests = self.outbox.requests()
        if not requests or now < self._ask_again_at:
            return None
        if requests[0].client_id == self._asked and now < self._asked_at + self._answer_timeout:
            return None
        self._asked, self._asked_at = requests[0].client_id, now
        return requests[0]

    def _pause(self, now: float) -> float | None:
        """How long the sender may sleep where nothing wakes it."""
        if not self._signal:
            return None
        if now < self._quiet_until:
            return self._quiet_until - now
        if not self.outbox.requests():
            return None
        due = self._ask_again_at if now < self._ask_again_at else self._asked_at + self._answer_timeout
        return max(0.0, due - now)

    # --- what the hub says -------------------------------------------------------------------------------------------

    def _handle(self, frame: bytes | str) -> HubMessage | None:
        try:
            message: HubMessage = _decode(frame)
        except msgspec.ValidationError:
            # A type of a later version is to be ignored; one of ours with fields we can't read is worth a word.
            with contextlib.suppress(msgspec.ValidationError):
                if _decode_type(frame).type in _KNOWN:
                    logger.warning("the hub sent a message that can't be read: %.200r", frame)
            return None
        except msgspec.DecodeError:
            logger.warning("the hub sent something that is not JSON: %.200r", frame)
            return None
        match message:
            case Ack():
                self._acknowledge(message)
            case Welcome():
                self._set_interval(message.interval)
                if self.on_trip is not None and not isinstance(message.trip, UnsetType):
                    self.on_trip(message.trip)
            case Done():
                self._finish(message)
            case Interval():
                self._set_interval(message.interval)
            case DriverTrip():
                if self.on_trip is not None:
                    self.on_trip(message.trip)
            case DriverTextMessage():
                if self.on_message is not None:
                    self.on_message(message)
            case Error():
                self._fail(message)
        return message

    def _acknowledge(self, ack: Ack) -> None:
        rejections = [
            Rejection(rejected.seq, rejected.code, rejected.detail, self._fix(rejected.seq))
            for rejected in (() if isinstance(ack.rejected, UnsetType) else ack.rejected)
        ]
        try:
            self.outbox.acknowledge(ack.seq)
            # What was sent on a line before may be acknowledged on this one: it need not be sent here any more.
            self._sent = max(self._sent, ack.seq)
        except ValueError as error:
            # Numbers given out from now on would be taken for repeats and lost: a fresh session loses nothing.
            self.outbox.renew()
            raise _LineLost(str(error)) from None
        self._wake.set()
        self._changed.set()
        if self.on_rejected is not None:
            for rejection in rejections:
                self.on_rejected(rejection)

    def _fix(self, seq: int) -> Fix | None:
        kept = self.outbox.unacknowledged(seq - 1, 1)
        return kept[0].fix if kept and kept[0].seq == seq else None

    def _finish(self, done: Done) -> None:
        code = None if isinstance(done.code, UnsetType) else done.code
        detail = None if isinstance(done.detail, UnsetType) else done.detail
        if code in _TRY_AGAIN:
            self._asked = None
            self._ask_again_at = time.monotonic() + max(0.0, self._backoff(1))
            self._wake.set()
            return
        request = self.outbox.finish(done.client_id)
        self._wake.set()
        self._changed.set()
        if request is not None and self.on_done is not None:
            self.on_done(request, code, detail)

    def _fail(self, error: Error) -> None:
        if error.code == "rate_limited":
            self._asked = None
            self._quiet_until = time.monotonic() + (1.0 if isinstance(error.retry_after, UnsetType) else error.retry_after)
            self._wake.set()
        # A wrong clock is for a person to mend; the rest mends itself, or is a fault of this program.
        level = logging.WARNING if error.code == "clock_skew" else logging.INFO
        logger.log(level, "the hub reports %s: %s", error.code, error.detail)
        if self.on_error is not None:
            self.on_error(error)

    def _set_interval(self, interval: float) -> None:
        self.interval = interval
        if self.on_interval is not None:
            self.on_interval(interval)

    def _request(self, client_id: str, message: Struct) -> str:
        self.outbox.put_request(Request(client_id, encode(message)))
        self._wake.set()
        return client_id

    def _kept(self) -> None:
        """Fixes may be sent; called by the outbox's writer, which may be another thread."""
        if threading.get_ident() == self._thread:
            self._wake.set()
        elif self._loop is not None:
            # The loop may be closed already, at the very end of a process.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)


def _or_unset(value: float | None) -> float | UnsetType:
    return UNSET if value is None else value
