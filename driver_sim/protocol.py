"""The driver's side of the protocol, without a socket: what a frame of the hub changes, and which frames are sent next."""

import asyncio
import logging
import time
from collections.abc import Iterator

from msgspec import UnsetType

from driver_sim.backoff import Backoff
from driver_sim.callbacks import Callbacks, Rejection
from driver_sim.hub_messages import HubMessage, read_message
from driver_sim.outbox import Outbox, Request, frame_of
from driver_sim.settings import ConnectionSettings
from tracking.model import Fix
from tracking.protocol.driver import Ack, DriverTextMessage, DriverTrip, Interval, Welcome
from tracking.protocol.shared import Done, Error

logger = logging.getLogger(__name__)

_TRY_AGAIN = frozenset({"unavailable", "rate_limited"})
"""A `done` with one of these codes refuses the request for now. The client sends it again."""


class ConnectionUnusable(Exception):
    """This connection can't be used any more. The client must make another."""


class DriverProtocol:
    """One driver's conversation with the hub, over all its connections. `outbox` holds the session's uuid and numbers."""

    def __init__(self, outbox: Outbox, callbacks: Callbacks, settings: ConnectionSettings, backoff: Backoff) -> None:
        self.outbox = outbox
        self.callbacks = callbacks
        self.interval = 2.0
        """Seconds between fixes that the hub wants."""
        self.fixes_sent = 0
        """Fixes sent. A fix sent twice counts twice."""
        self.wake = asyncio.Event()
        """Set when there may be something to send."""
        self.changed = asyncio.Event()
        """Set when a fix or a request has left the outbox."""
        self._settings = settings
        self._backoff = backoff
        self._signal = True
        self._sent = 0
        self._asked: str | None = None
        self._asked_at = 0.0
        self._ask_again_at = 0.0
        self._quiet_until = 0.0

    # --- sending -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The hub has answered hello, so it is known what it has of this session. Everything else is sent again."""
        self._sent = self.outbox.acknowledged_seq
        self._asked = None
        self._quiet_until = 0.0

    def set_signal(self, signal: bool) -> None:
        """False: the device is in a dead zone. Nothing is sent."""
        self._signal = signal
        self.wake.set()

    def put_request(self, request: Request) -> None:
        self.outbox.put_request(request)
        self.wake.set()

    def frames(self, now: float) -> Iterator[bytes]:
        """What may be sent now. Each frame counts as sent when it is taken."""
        if not self._may_send(now):
            return
        request = self._next_request(now)
        if request is not None:
            yield request.frame
        kept = self.outbox.unacknowledged(self._sent, self._room())
        while kept:
            frame, count = frame_of(kept, self._settings.max_batch)
            self._sent = kept[count - 1].seq
            self.fixes_sent += count
            del kept[:count]
            yield frame

    def has_more(self, now: float) -> bool:
        """Whether `frames` would bring more fixes at once."""
        return self._may_send(now) and self._room() > 0 and self.outbox.kept_seq > self._sent

    def pause(self, now: float) -> float | None:
        """Seconds until there is something to send, unless `wake` is set before; None if only `wake` can bring something."""
        if not self._signal:
            return None
        if now < self._quiet_until:
            return self._quiet_until - now
        if not self.outbox.requests():
            return None
        due = self._ask_again_at if now < self._ask_again_at else self._asked_at + self._settings.answer_timeout
        return max(0.0, due - now)

    def _may_send(self, now: float) -> bool:
        return self._signal and now >= self._quiet_until

    def _room(self) -> int:
        in_flight = max(0, self._sent - self.outbox.acknowledged_seq)
        return max(0, min(self._settings.max_in_flight - in_flight, self._settings.max_batch))

    def _next_request(self, now: float) -> Request | None:
        """The oldest request. Only one is sent at a time: `complete` must not overtake a step that has to be sent again."""
        requests = self.outbox.requests()
        if not requests or now < self._ask_again_at:
            return None
        if requests[0].client_id == self._asked and now < self._asked_at + self._settings.answer_timeout:
            return None
        self._asked, self._asked_at = requests[0].client_id, now
        return requests[0]

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, frame: bytes | str) -> HubMessage | None:
        """Take a frame of the hub. Returns its message, or None if it is unknown. Raises `ConnectionUnusable`."""
        message = read_message(frame)
        match message:
            case Ack():
                self._acknowledge(message)
            case Welcome():
                self._set_interval(message.interval)
                if self.callbacks.on_trip is not None and not isinstance(message.trip, UnsetType):
                    self.callbacks.on_trip(message.trip)
            case Done():
                self._finish(message)
            case Interval():
                self._set_interval(message.interval)
            case DriverTrip():
                if self.callbacks.on_trip is not None:
                    self.callbacks.on_trip(message.trip)
            case DriverTextMessage():
                if self.callbacks.on_message is not None:
                    self.callbacks.on_message(message)
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
            # The hub may acknowledge here what was sent on an earlier connection. It is not sent again.
            self._sent = max(self._sent, ack.seq)
        except ValueError as error:
            # The hub would take the next fixes for repeats and drop them. A new session loses nothing.
            self.outbox.renew()
            raise ConnectionUnusable(str(error)) from None
        self.wake.set()
        self.changed.set()
        if self.callbacks.on_rejected is not None:
            for rejection in rejections:
                self.callbacks.on_rejected(rejection)

    def _fix(self, seq: int) -> Fix | None:
        kept = self.outbox.unacknowledged(seq - 1, 1)
        return kept[0].fix if kept and kept[0].seq == seq else None

    def _finish(self, done: Done) -> None:
        code = None if isinstance(done.code, UnsetType) else done.code
        detail = None if isinstance(done.detail, UnsetType) else done.detail
        if code in _TRY_AGAIN:
            self._asked = None
            self._ask_again_at = time.monotonic() + max(0.0, self._backoff(1))
            self.wake.set()
            return
        request = self.outbox.finish(done.client_id)
        self.wake.set()
        self.changed.set()
        if request is not None and self.callbacks.on_done is not None:
            self.callbacks.on_done(request, code, detail)

    def _fail(self, error: Error) -> None:
        if error.code == "rate_limited":
            self._asked = None
            self._quiet_until = time.monotonic() + (1.0 if isinstance(error.retry_after, UnsetType) else error.retry_after)
            self.wake.set()
        # A person must correct a wrong clock. The client recovers from other errors, or they are its own faults.
        level = logging.WARNING if error.code == "clock_skew" else logging.INFO
        logger.log(level, "the hub reports %s: %s", error.code, error.detail)
        if self.callbacks.on_error is not None:
            self.callbacks.on_error(error)

    def _set_interval(self, interval: float) -> None:
        self.interval = interval
        if self.callbacks.on_interval is not None:
            self.callbacks.on_interval(interval)
