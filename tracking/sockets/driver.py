"""`/v1/driver`: fixes in, acks out; trips and messages both ways."""

import asyncio
import itertools
import logging
from collections.abc import Sequence

from starlette.websockets import WebSocket

from tracking.auth import Principal, Role, is_of_incarnation, may_know_trip
from tracking.bucket import Bucket
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable
from tracking.frames import live_view
from tracking.ingest.acks import settle
from tracking.ingest.clocks import AHEAD, BEHIND, DRIFT, DeviceClock, continues, described, is_right
from tracking.ingest.filters import CLOCK_SKEW, TOO_OLD
from tracking.ingest.sources import Session, Source
from tracking.metrics import FIXES
from tracking.model import Fix, Trip
from tracking.protocol import (
    Ack,
    DriverTextMessage,
    DriverTrip,
    Hello,
    Interval,
    Rejected,
    Report,
    TextMessage,
    TripStatusChange,
    Unreadable,
    Welcome,
    acks,
    decode_driver,
    frame,
)
from tracking.service import Service
from tracking.sockets.connection import Connection, admit, not_yours, refuse, start

logger = logging.getLogger(__name__)

SKEW_TOLD_MS = 60_000
"""A device whose clock is wrong is told so once a connection, and again where its skew changes, at most once in this time."""

_tickets = itertools.count()
"""Which of two connections came first, however long each took to be let in."""

_unreadable = FIXES.labels("unreadable")


async def driver_endpoint(websocket: WebSocket) -> None:
    service: Service = websocket.app.state.service
    principal = await admit(websocket, service)
    if principal is None:
        return
    if principal.role is not Role.DRIVER:
        await refuse(websocket, CloseCode.NOT_FOUND)
        return
    await DriverConnection(websocket, service, principal).run()


class DriverConnection(Connection):
    """One vehicle's connection. Nothing in it waits for the database; at `hello`, what comes next is held back meanwhile."""

    __slots__ = ("_bucket", "_interval", "_skew_told", "_skew_told_at", "_told", "_unread", "session", "source", "ticket")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal) -> None:
        super().__init__(websocket, service, principal)
        settings = service.settings
        self.ticket = next(_tickets)
        self.source: Source | None = None
        self.session: Session | None = None
        self._interval = 0.0
        self._skew_told = 0
        self._skew_told_at = 0
        self._unread: list[int] | None = None
        self._told: set[int] | None = None
        self._bucket = Bucket(settings.driver_frames_per_second, settings.driver_frames_at_once, service.clock())

    async def opened(self) -> None:
        source = await self.service.sources.load(self.principal.subject)
        if source is None:
            raise not_yours()
        if not is_of_incarnation(self.principal, source.tokens_from):
            raise SocketClosed(CloseCode.REVOKED)
        self.source = source
        hub = self.service.hub
        if source.vehicle.vehicle_id not in hub.fleets.vehicles:
            # It came to be without us, or the fleets are not read yet.
            hub.fleets.know(source.vehicle, source.joined_at)
            hub.fleets.set_trip(source.vehicle.vehicle_id, source.trip)
        hub.fleets.set_clock_skew(source.vehicle.vehicle_id, source.clock.skew if source.clock is not None else 0)
        if not hub.claim(source.vehicle.vehicle_id, self):
            raise SocketClosed(CloseCode.REPLACED)
        self._interval = hub.interval_for(source.trip)
        welcome = Welcome(self.service.clock(), self._interval)
        if source.trip is not None:
            welcome.trip = live_view(source.trip)
        self.send(frame(welcome))
        if not self.service.messaging.none_unread(source):
            self.ask(lambda: self._tell_unread(source))

    def left(self) -> None:
        if self.source is not None:
            self.service.hub.release(self.source.vehicle.vehicle_id, self)
        self._leave_session()

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        if self._closing is None and self.session is not None and self.session.receiver is self:
            settle(self.session, asyncio.get_running_loop().time())
        super().close(code, reason)

    def _leave_session(self) -> None:
        if self.session is not None and self.session.receiver is self:
            self.session.receiver = None
            self.session.owed = False

    def received(self, data: bytes) -> None:
        now = self.service.clock()
        if not self._bucket.take(now):
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS)
        if self._unread:
            numbers, self._unread = self._unread, None
            self.ask(lambda: self.service.messaging.mark_read(numbers))
        message = decode_driver(data)
        if type(message) is Report:
            if message.backlog and self.session is not None:
                # The device waits to let go of it.
                self.session.prompt = max((fix.seq for fix in message.fixes if fix.seq is not None), default=0)
            self._take(message.fixes, now)
        elif isinstance(message, Hello):
            known = self.source.sessions.get(message.session) if self.source is not None else None
            if known is not None:
                self._leave_session()
                self._enter(known)
            else:
                self._spend_session()
                self.wire.hold()
                start(self._begin(message.session))
        elif isinstance(message, TripStatusChange):
            self._advance(message)
        elif isinstance(message, TextMessage):
            self._post(message)

    # --- sessions and fixes -----------------------------------------------------------------------------------------

    def _spend_session(self) -> None:
        """Without a session the device could report nothing: it is sent away, and comes back."""
        try:
            # Whatever its tokens are: sessions are rows of the vehicle.
            self.service.budgets.sessions.spend(self.principal.subject)
        except Refusal as refusal:
            self.tell_error(refusal)
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS) from None

    async def _begin(self, name: str) -> None:
        assert self.source is not None
        self._leave_session()
        try:
            session = await self.service.sources.open_session(self.source, name)
            if session is None:
                self.close(CloseCode.NOT_FOUND)
            elif self._closing is None:
                self._enter(session)
        except StoreUnavailable as error:
            self._send_away(error)
        except Exception:
            self._fault()
        finally:
            self.wire.release()

    def _enter(self, session: Session) -> None:
        session.receiver = self
        session.prompt = 0
        session.acknowledged = session.handled
        self.session = session
        self.acknowledge(session, ())

    def _take(self, fixes: Sequence[Fix | Unreadable], now: int) -> None:
        session = self.session
        source = self.source
        if session is None or source is None:
            raise Refusal(ErrorCode.CONFLICT, 'say {"type":"hello","session":"<uuid>"} before the first fix')
        pipeline, hub = self.service.pipeline, self.service.hub
        if fixes and type(last := fixes[-1]) is not Unreadable:
            age = now - last.fix_time
            if (age > BEHIND or age < -AHEAD or source.clock is not None) and last.seq > session.seen:
                self._judge_clock(source, fixes[0], age, now)
        repeated = full = False
        for fix in fixes:
            if fix.seq is None:
                _unreadable.value += 1
                self.tell_error(Refusal(fix.code, fix.detail))
                continue
            repeated = repeated or fix.seq <= session.handled
            # What comes after a fix that was not taken may not be taken either, or an ack would cover what was dropped.
            full = full or pipeline.full
            position = (pipeline.preview if full else pipeline.accept)(source, session, fix, now)
            if position is not None:
                hub.publish(position)
        if repeated:
            self.acknowledge(session, ())
        if full:
            raise SocketClosed(CloseCode.OVERLOADED)

    def _judge_clock(self, source: Source, first: Fix | Unreadable, age: int, now: int) -> None:
        """Judges the device's clock by a message whose last fix is so old, before it is taken, and tells who must know."""
        clock = source.clock
        skew = 0
        if is_right(age):
            source.clock = None
        else:
            if clock is None:
                queued = type(first) is not Unreadable and continues(first.fix_time, source.motion.time)
                clock = source.clock = DeviceClock(queued=queued)
            skew = clock.see(age, now)
        self.service.hub.fleets.set_clock_skew(source.vehicle.vehicle_id, skew)
        told = self._skew_told
        if skew and (not told or (abs(skew - told) > DRIFT and now - self._skew_told_at >= SKEW_TOLD_MS)):
            self._skew_told, self._skew_told_at = skew, now
            if skew > 0:
                harm = f"fixes more than {CLOCK_SKEW // 1000} s ahead are rejected"
            elif -skew <= TOO_OLD:
                harm = "its fixes are taken for old ones, which belong to no trip of today"
            else:
                harm = "fixes older than 7 days are rejected"
            self.tell_error(Refusal(ErrorCode.CLOCK_SKEW, f"{described(skew)}: set it; {harm}"))

    def acknowledge(self, session: Session, rejected: Sequence[Rejected]) -> None:
        """Tells the device what is handled: called after COMMIT, or when an ack is due that was held back."""
        if self.service.marks.went_back.is_set():
            # It was committed in a store that is no more.
            return
        if rejected:
            for ack in acks(session.handled, rejected):
                self.outbox.push(frame(ack))
        else:
            self.outbox.push(frame(Ack(session.handled)))

    # --- trips and messages -----------------------------------------------------------------------------------------

    async def _tell_unread(self, source: Source) -> None:
        for message in await self.service.messaging.unread(source):
            self.tell_message(message.number, message.trip_id, message.text, message.sender, message.server_time)

    def _advance(self, change: TripStatusChange) -> None:
        async def advance() -> None:
            await self.service.dispatch.change(
                change.trip_id,
                allowed=lambda trip: may_know_trip(self.principal, trip),
                not_allowed=ErrorCode.FORBIDDEN,
                status=change.status,
            )

        self.service.budgets.writes.spend(self.principal.jti)
        self.ask(lambda: self.answer(change.client_id, advance))

    def _post(self, message: TextMessage) -> None:
        async def post() -> None:
            if not isinstance(message.trip_id, str):
                raise Refusal(ErrorCode.BAD_FIELD, "`trip_id` is missing: say which trip's passenger you write to")
            await self.service.messaging.from_driver(self.principal, message.trip_id, message.client_id, message.text)

        self.ask(lambda: self.answer(message.client_id, post))

    # --- told by the hub --------------------------------------------------------------------------------------------

    def ask_interval(self, interval: float) -> None:
        if interval != self._interval:
            self._interval = interval
            self.send(frame(Interval(interval)))

    def tell_trip(self, trip: Trip) -> None:
        self.send(frame(DriverTrip(live_view(trip))))

    def tell_message(self, number: int, trip_id: str, text: str, sender: str, server_time: int) -> None:
        if self._told is None:
            self._told = set()
        if number in self._told:  # posted while the unread ones were being looked up
            return
        self._told.add(number)
        # Read, as far as we can know, once the app is heard from again.
        self._unread = [*(self._unread or ()), number]
        self.send(frame(DriverTextMessage(trip_id, text, sender, server_time)))
