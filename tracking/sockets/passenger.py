"""`/v1/trips/{trip_id}/live`: one trip, live, for as long as its status lets this watcher see it."""

from starlette.websockets import WebSocket

from tracking.audit import Kind, Span
from tracking.auth import MAY_SEE, Principal, Role, Sight, may_know_trip, may_see
from tracking.bucket import Bucket
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable
from tracking.hub.feed import TripFeed
from tracking.metrics import WATCHERS
from tracking.model import Trip
from tracking.protocol import decode_passenger
from tracking.service import Service
from tracking.sockets.connection import Connection, admit, not_yours

MESSAGES_PER_SECOND = 2.0
MESSAGES_AT_ONCE = 20


async def passenger_endpoint(websocket: WebSocket) -> None:
    service: Service = websocket.app.state.service
    principal = await admit(websocket, service)
    if principal is not None:
        await PassengerConnection(websocket, service, principal, websocket.path_params["trip_id"]).run()


class PassengerConnection(Connection):
    """A watcher of one trip: a passenger, or a dispatcher or service that looks over a shoulder."""

    __slots__ = ("_bucket", "_from", "_watch", "feed", "trip_id")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal, trip_id: str) -> None:
        super().__init__(websocket, service, principal)
        self.trip_id = trip_id
        self.feed: TripFeed | None = None
        self._from = websocket.query_params.get("epoch"), _whole_number(websocket.query_params.get("offset"))
        self._bucket: Bucket | None = None
        self._watch: Span | None = None

    async def opened(self) -> None:
        if self.principal.role is Role.PASSENGER and self.principal.subject != self.trip_id:
            raise not_yours()
        feed = self.service.hub.feeds.get(self.trip_id)
        trip = feed.trip if feed is not None else await self.service.trips.get(self.trip_id)
        if trip is None or not may_know_trip(self.principal, trip) or not MAY_SEE[self.principal.role][Sight.LIVE]:
            raise not_yours()
        self._check(trip)
        feed = self.service.hub.feed(trip)
        epoch, offset = self._from
        if offset is not None and feed.can_resume(epoch, offset, self.service.settings.outbox_high_water):
            feed.resume(self.outbox, offset)
        else:
            await self._begin(feed)
        self.feed = feed
        self._watch = self.service.audit.began(self.doer(), Kind.TRIP, self.trip_id)
        WATCHERS.inc()
        self.service.hub.watched(feed)

    async def _begin(self, feed: TripFeed) -> None:
        known, began, away = feed.trip, feed.offset, False
        # What waits for a commit now may be committed after our reading began, and so be in neither.
        unstored = list(self.service.recorder.pending(self.trip_id))
        fresh = line = None
        # Of the trip first: what the line is joined with must be here when it was read, so nothing is awaited after it.
        with self.service.hub.erased() as erased:
            try:
                fresh = await self.service.trips.get(self.trip_id)
                line = await self.service.lines.of(feed)
            except StoreUnavailable:
                # The live map goes on with what memory holds; the rest of the line follows as `track_revised`.
                away = True
                self.service.revisions.revise_all(known)
        if erased:
            unstored = [position for position in unstored if position.vehicle_id not in erased]
            line = None if line is None else line.without(erased)
        if fresh is not None and (feed.trip is known or fresh.version > feed.trip.version):
            # What we happen to learn first, the others must be told too. But what they were told while we read may be newer,
            # though its version is the same: a vehicle's name is no part of that.
            self.service.hub.trip_changed(fresh)
        if self.service.hub.feeds.get(self.trip_id) is not feed:
            over = fresh.status.over if fresh is not None else not away
            over = over or feed.trip.status.over
            raise SocketClosed(CloseCode.TRIP_OVER if over else CloseCode.OVERLOADED)
        self._check(feed.trip)
        if feed.before_kept > (began if line is None else line.began):
            # What was published while we read is no more here in full.
            raise SocketClosed(CloseCode.OVERLOADED)
        # From here to the registration nothing may be awaited: nothing falls through between them.
        now = self.service.clock()
        if not may_see(self.principal.role, Sight.POSITION, feed.trip.status):
            feed.begin(self.outbox, stored=(), unstored=(), last={}, now=now)
        elif line is None:
            feed.begin(self.outbox, stored=(), unstored=unstored, last={}, now=now)
        elif line is feed.line:
            feed.begin_with(self.outbox, line, now)
        else:
            feed.begin(self.outbox, stored=line.stored, unstored=line.unstored, last=line.last, now=now)

    def _check(self, trip: Trip) -> None:
        if not may_see(self.principal.role, Sight.LIVE, trip.status):
            raise SocketClosed(CloseCode.TRIP_OVER)

    def left(self) -> None:
        if self.feed is not None:
            self.feed.leave(self.outbox, self.service.clock())
            WATCHERS.dec()
        if self._watch is not None:
            self.service.audit.left(self._watch)

    def received(self, data: bytes) -> None:
        if self._bucket is None:
            self._bucket = Bucket(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE, self.service.clock())
        if not self._bucket.take(self.service.clock()):
            raise Refusal(ErrorCode.RATE_LIMITED, f"at most {MESSAGES_PER_SECOND:g} messages a second")
        message = decode_passenger(data)
        if self.principal.role is not Role.PASSENGER:
            raise Refusal(ErrorCode.FORBIDDEN, "only the trip's passenger writes here")
        post = self.service.messaging.from_passenger
        self.ask(
            lambda: self.answer(message.client_id, lambda: post(self.principal, self.trip_id, message.client_id, message.text))
        )


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
