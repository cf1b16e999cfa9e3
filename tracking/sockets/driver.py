"""`/v1/driver`: fixes in, acks out; trips and messages both ways."""

import asyncio
import itertools
import logging
import math
from collections.abc import Sequence

from starlette.websockets import WebSocket

from tracking.auth import Principal, Role, is_of_incarnation
from tracking.cluster.homes import STOOD_STILL_MS
from tracking.errors import CloseCode, ErrorCode, HomeLost, Refusal, SocketClosed, StoreUnavailable
from tracking.ingest.acks import settle
from tracking.ingest.clocks import DRIFT
from tracking.ingest.intake import Held, Prepaid, Taken, clock_advice
from tracking.ingest.vehicles import IngestVehicle, Session
from tracking.model import Fix
from tracking.protocol.codec import frame
from tracking.protocol.driver import (
    Ack,
    DriverMessage,
    Hello,
    Rejected,
    Report,
    TripStatusChange,
    Unreadable,
    Welcome,
    acks,
    decode_driver,
)
from tracking.protocol.fit import live_view
from tracking.protocol.shared import TextMessage
from tracking.service import Service
from tracking.sockets.connection import admit, not_yours, refuse, start
from tracking.sockets.driver_trips import DriverTrips

logger = logging.getLogger(__name__)

LARGE = 8 * 1024
"""A frame of more bytes waits for its turn: some 60 fixes, and a millisecond of work."""
HELD_SECONDS = 10.0
"""How long a frame may be held back while its vehicle's budget is spent. If it would have to wait longer, the connection is
closed: a client that waits for a pong would give it up as well."""
TOLD_MS = 60_000
"""A driver is told at most once in this time that its reports are held back."""
SKEW_TOLD_MS = 60_000
"""A device with a wrong clock is told so once a connection. It is told again if its skew changes, at most once in this time."""

_tickets = itertools.count()
"""Numbers connections in the order in which they came, however long each took to be let in."""


async def driver_endpoint(websocket: WebSocket) -> None:
    service: Service = websocket.app.state.service
    principal = await admit(websocket, service)
    if principal is None:
        return
    if principal.role is not Role.DRIVER:
        await refuse(websocket, CloseCode.NOT_FOUND)
        return
    await DriverConnection(websocket, service, principal).run()


class DriverConnection(DriverTrips):
    """One vehicle's connection. Nothing in it waits for the database, except `hello`: later frames are held back meanwhile.

    A fix that comes as it happens is taken at once. A frame may be large, or exceed the vehicle's budget of fixes. It is then
    taken by parts, in turn with others (`ingest.backlogs`). Later frames are held back meanwhile.
    """

    __slots__ = (
        "_held_told_at",
        "_homes",
        "_intake",
        "_part",
        "_prepaid",
        "_skew_told",
        "_skew_told_at",
        "as_of",
        "session",
        "ticket",
    )

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal) -> None:
        super().__init__(websocket, service, principal)
        self.ticket = next(_tickets)
        self.as_of = 0
        self.session: Session | None = None
        self._skew_told = 0
        self._skew_told_at = 0
        self._intake = service.intake
        self._homes = service.homes
        self._prepaid: Prepaid
        self._part: bytes | list[Fix | Unreadable] | None = None
        """A frame that waits for its turn, or the rest of its fixes."""
        self._held_told_at = 0

    async def opened(self) -> None:
        vehicle = await self.service.ingest_vehicles.load(self.principal.subject)
        if vehicle is None:
            raise not_yours()
        if not is_of_incarnation(self.principal, vehicle.tokens_from):
            raise SocketClosed(CloseCode.REVOKED)
        self.vehicle, self.as_of = vehicle, vehicle.as_of
        self._prepaid = self._intake.prepaid(vehicle)
        hub = self.service.hub
        if vehicle.vehicle_id not in hub.fleets.vehicles:
            # Its fleet is not loaded yet, or its change is not applied yet.
            live = hub.fleets.know(vehicle.vehicle, vehicle.joined_at, vehicle.number)
            live.as_of = vehicle.as_of
            hub.fleets.set_trip(vehicle.vehicle_id, vehicle.trip)
        self.service.loader.want(vehicle.vehicle.fleet_id)
        hub.fleets.set_clock_skew(vehicle.vehicle_id, vehicle.clock.skew if vehicle.clock is not None else 0)
        if not hub.claim(vehicle.vehicle_id, self):
            raise SocketClosed(CloseCode.REPLACED)
        self._interval = hub.interval_for(vehicle.trip)
        welcome = Welcome(self.service.clock(), self._interval)
        if vehicle.trip is not None:
            welcome.trip = live_view(vehicle.trip)
            self._trips = {vehicle.trip.trip_id: vehicle.trip}
        self.send(frame(welcome))
        if not self.service.messages.none_unread(vehicle):
            self._tell_unread_after(0)

    def left(self) -> None:
        if self.vehicle is not None:
            self.service.hub.release(self.vehicle.vehicle_id, self)
            self._prepaid.give_back()
        # Its turn may come later than now, and would find a closed connection.
        self._part = None
        self._leave_session()

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        if self._closing is None and self.session is not None and self.session.receiver is self:
            settle(self.session, asyncio.get_running_loop().time())
        super().close(code, reason)

    @property
    def said(self) -> str | None:
        return self.session.name if self.session is not None else None

    def _leave_session(self) -> None:
        if self.session is not None and self.session.receiver is self:
            self.session.receiver = None
            self.session.owed = False

    def received(self, data: bytes) -> None:
        now = self.service.clock()
        if now - self._homes.loop_ran_at >= STOOD_STILL_MS:
            self._wait_for_homes(data)
            return
        if not self._prepaid.take_frame(now):
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS)
        if self._unread and not self.queue.blocked:
            numbers, self._unread = self._unread, None
            # It is not refused, however many requests wait: the message that it came with must be taken.
            self.ask_ourselves(lambda: self.service.messages.mark_read(numbers))
        if len(data) > LARGE:
            self._wait_turn(data)
            return
        message = self._decoded(data)
        if type(message) is Report:
            vehicle, session = self.vehicle, self.session
            if vehicle is None or session is None:
                raise _no_hello()
            fixes = message.fixes
            plain = self._prepaid.covered and len(fixes) == 1 and not message.backlog
            if plain and self._intake.take_at_once(vehicle, session, fixes[0], now):
                return
            taken = self._intake.take(vehicle, session, fixes, now, backlog=message.backlog, prepaid=self._prepaid)
            if taken.skew:
                self._tell_skew(taken.skew, now)
            if taken.held:
                self._wait_turn(fixes)
            elif taken.repeated or taken.unreadable or taken.refused_from is not None:
                self._tell_outcome(taken)
        else:
            self._carry_out(message)

    def _carry_out(self, message: DriverMessage) -> bool:
        """Handles a message that is no report. Returns whether its session is being read, with the wire held until then."""
        if isinstance(message, Hello):
            vehicle = self.vehicle
            known = vehicle.sessions.get(message.session) if vehicle is not None and vehicle.home is not None else None
            if known is not None:
                self._leave_session()
                self._enter(known)
            else:
                self._spend_session()
                self.wire.hold()
                start(self._begin(message.session))
                return True
        elif isinstance(message, TripStatusChange):
            self._advance(message)
        elif isinstance(message, TextMessage):
            self._post(message)
        return False

    # --- sessions and fixes -----------------------------------------------------------------------------------------

    def _spend_session(self) -> None:
        """Closes the connection if the budget is spent: without a session the device could report nothing. It comes back."""
        assert self.vehicle is not None
        try:
            self._intake.spend_session(self.vehicle)
        except Refusal as refusal:
            self.tell_error(refusal)
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS) from None

    async def _begin(self, name: str) -> None:
        assert self.vehicle is not None
        self._leave_session()
        try:
            session = await self._homes.open_session(self.vehicle, name)
            if session is None:
                self.close(CloseCode.NOT_FOUND)
            elif self._closing is None:
                self._enter(session)
        except HomeLost:
            self.close(CloseCode.GOING_DOWN)
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

    def _reporting(self) -> tuple[IngestVehicle, Session]:
        """Vehicle and session of the fixes that arrive."""
        vehicle, session = self.vehicle, self.session
        if vehicle is None or session is None:
            raise _no_hello()
        return vehicle, session

    def _tell_outcome(self, taken: Taken) -> None:
        """Tells the driver what an ack does not say."""
        if taken.unreadable:
            for fix in taken.fixes:
                if fix.seq is None:
                    self.tell_error(Refusal(fix.code, fix.detail))
        if taken.repeated:
            self.acknowledge(taken.session, ())
        if taken.refused_from is not None:
            raise SocketClosed(CloseCode.OVERLOADED)

    # --- turns ------------------------------------------------------------------------------------------------------

    def _wait_turn(self, part: bytes | list[Fix | Unreadable]) -> None:
        self._part = part
        self.wire.hold()
        self.service.backlogs.join(self)

    def _wait_for_homes(self, part: bytes) -> None:
        """The event loop stood still, and another hub may have become the vehicle's home."""
        self._part = part
        self.wire.hold()
        self._homes.wait(self)

    def go_on(self) -> None:
        self.service.backlogs.join(self)

    def take_part(self, most: int) -> int:
        part, self._part = self._part, None
        if self._closing is not None or part is None:
            return 0
        now = self.service.clock()
        if now - self._homes.loop_ran_at >= STOOD_STILL_MS:
            self._part = part
            self._homes.wait(self)
            return 0
        looked_at = 1
        beginning = False
        try:
            if isinstance(part, bytes):
                message = self._decoded(part)
                if type(message) is Report:
                    vehicle, session = self._reporting()
                    part = message.fixes
                    skew = self._intake.begin(vehicle, session, part, now, backlog=message.backlog)
                    if skew:
                        self._tell_skew(skew, now)
                else:
                    beginning = self._carry_out(message)
                    part = []
            if part:
                looked_at = self._take_some(part, most, now)
        except Exception as error:
            self._answer_to(error)
        if self._part is None and not beginning:
            self.wire.release()
        return looked_at

    def _take_some(self, fixes: list[Fix | Unreadable], most: int, now: int) -> int:
        """Takes the first `most` of these fixes if the budget allows it. The rest becomes `_part`. Returns how many it read."""
        vehicle, session = self._reporting()
        taken = self._intake.take_part(vehicle, session, fixes, most, now)
        if type(taken) is Held:
            self._hold_back(taken, now)
            self._part = fixes
            return 1
        assert type(taken) is Taken
        self._tell_outcome(taken)
        count = len(taken.fixes)
        if count < len(fixes):
            self._part = fixes[count:]
            self.service.backlogs.join(self)
        return count

    def _hold_back(self, held: Held, now: int) -> None:
        """Joins again when the budget has room. Raises `SocketClosed` if the frame would have to wait for too long."""
        if held.total > HELD_SECONDS or now - self._held_told_at >= TOLD_MS:
            self._held_told_at = now
            self.tell_error(held.refusal)
        if held.total > HELD_SECONDS:
            reason = f"this vehicle's budget of fixes is spent, come back in {math.ceil(held.total)} s"
            raise SocketClosed(CloseCode.TOO_MANY_REQUESTS, reason)
        self.service.backlogs.join_after(held.wait, self)

    def _decoded(self, frame: bytes) -> DriverMessage:
        try:
            return decode_driver(frame)
        except Refusal:
            if self.vehicle is not None:
                self._intake.spend_unreadable(self.vehicle, len(frame))
            raise

    def _tell_skew(self, skew: int, now: int) -> None:
        """Tells the device that its clock is wrong, but not with each report."""
        told = self._skew_told
        if not told or (abs(skew - told) > DRIFT and now - self._skew_told_at >= SKEW_TOLD_MS):
            self._skew_told, self._skew_told_at = skew, now
            self.tell_error(clock_advice(skew))

    def acknowledge(self, session: Session, rejected: Sequence[Rejected]) -> None:
        """Tells the device what is handled. Called after COMMIT, or when a delayed ack is due."""
        if self.service.marks.went_back.is_set():
            # It was committed in a database that has gone back since.
            return
        if rejected:
            for ack in acks(session.handled, rejected):
                self.queue.push(frame(ack))
        else:
            self.queue.push(frame(Ack(session.handled)))


def _no_hello() -> Refusal:
    return Refusal(ErrorCode.CONFLICT, 'say {"type":"hello","session":"<uuid>"} before the first fix')
