"""`/v1/trips/{trip_id}/live`: one trip, live, as long as its status allows this watcher to see it."""

from starlette.websockets import WebSocket

from tracking.audit import Kind, Span
from tracking.auth import MAY_SEE, Principal, Role, TripField, may_know_trip, may_see
from tracking.bucket import Bucket
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable
from tracking.live.trips import TripFeed
from tracking.metrics import JOINS, WATCHERS
from tracking.model import Trip
from tracking.protocol.passenger import decode_passenger
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
    """A watcher of one trip: its passenger, or a dispatcher or service."""

    __slots__ = ("_bucket", "_from", "_watch", "feed", "trip_id")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal, trip_id: str) -> None:
        super().__init__(websocket, service, principal)
        self.trip_id = trip_id
        self.feed: TripFeed | None = None
        query = websocket.query_params
        self._from = query.get("epoch"), _whole_number(query.get("offset")), _whole_number(query.get("since"))
        self._bucket: Bucket | None = None
        self._watch: Span | None = None

    async def opened(self) -> None:
        if self.principal.role is Role.PASSENGER and self.principal.subject != self.trip_id:
            raise not_yours()
        if not MAY_SEE[self.principal.role][TripField.LIVE]:
            raise not_yours()
        epoch, offset, since = self._from
        feed = self._feed_here()
        room = self.service.settings.outbox_high_water
        if feed is not None and offset is not None and feed.can_resume(epoch, offset, room):
            feed.resume(self.queue, offset)
            JOINS.labels("resumed").value += 1
            return self._joined(feed)
        if since is not None and self.service.across_hubs is not None:
            resumed = await self.service.across_hubs.resuming.resume(self.principal, self.trip_id, since, self.queue)
            if resumed is not None:
                JOINS.labels("store" if resumed.asked_store else "peers").value += 1
                return self._joined(resumed.feed)
            feed = self._feed_here()
        if feed is None:
            feed = await self._load()
        await self._begin(feed)
        self._joined(feed)

    def _feed_here(self) -> TripFeed | None:
        """The trip's feed, if there is one. Its life is prolonged."""
        feed = self.service.hub.feeds.get(self.trip_id)
        if feed is None:
            return None
        if not may_know_trip(self.principal, feed.trip):
            raise not_yours()
        self._check(feed.trip)
        return self.service.hub.feed(feed.trip)

    def _joined(self, feed: TripFeed) -> None:
        self.feed = feed
        self._watch = self.service.audit.began(self.doer(), Kind.TRIP, self.trip_id)
        WATCHERS.inc()
        self.service.hub.watched(feed)

    async def _load(self) -> TripFeed:
        """Begins the trip's feed, with the trip as the database has it."""
        service = self.service
        await service.follower.begin()
        with service.hub.loading.reading():
            while True:
                found = await service.shown_trips.get(self.trip_id)
                if found is None or not may_know_trip(self.principal, found[0]):
                    raise not_yours()
                trip, as_of = found
                # The trip includes its vehicle, so both must be current.
                subjects = [self.trip_id] if trip.vehicle is None else [self.trip_id, trip.vehicle.vehicle_id]
                if all(service.hub.loading.is_current(subject, as_of) for subject in subjects):
                    self._check(trip)
                    return service.hub.feed(trip, as_of)

    async def _begin(self, feed: TripFeed) -> None:
        if self.service.across_hubs is not None:
            await self.service.across_hubs.trips.ready(feed)
        began = feed.offset
        # These wait for a commit. If they were taken later, one could be committed after our query began, and be in neither.
        uncommitted = list(self.service.uncommitted.pending(self.trip_id))
        line, known, asked_at = None, False, self.service.clock()
        # The line is joined with what is here when it has been read, so nothing is awaited after it.
        with self.service.hub.erased() as erased:
            try:
                line = await self.service.lines.of(feed)
            except StoreUnavailable:
                # The live map continues with what is in memory. The rest of the line follows as `track_revised`.
                self.service.revisions.revise_all(feed.trip)
        if erased:
            uncommitted = [position for position in uncommitted if position.vehicle_id not in erased]
            line = None if line is None else line.without(erased)
        if self.service.hub.feeds.get(self.trip_id) is not feed:
            raise SocketClosed(feed.ended or CloseCode.OVERLOADED)
        self._check(feed.trip)
        if feed.before_kept > (began if line is None else line.began):
            # Some of what was published during the query is no longer in memory.
            raise SocketClosed(CloseCode.OVERLOADED)
        # From here to the registration nothing may be awaited, or an update between them would be lost.
        now = self.service.clock()
        if not may_see(self.principal.role, TripField.POSITION, feed.trip.status):
            feed.begin(self.queue, stored=(), uncommitted=(), last={}, now=now)
        elif line is None:
            feed.begin(self.queue, stored=(), uncommitted=uncommitted, last={}, now=now)
        elif line is feed.line:
            feed.begin_with(self.queue, line, now)
            known = line.read_at < asked_at
        else:
            feed.begin(self.queue, stored=line.stored, uncommitted=line.uncommitted, last=line.last, now=now)
        JOINS.labels("kept" if known else "store").value += 1

    def _check(self, trip: Trip) -> None:
        if not may_see(self.principal.role, TripField.LIVE, trip.status):
            raise SocketClosed(CloseCode.TRIP_OVER)

    def left(self) -> None:
        if self.feed is not None:
            self.feed.leave(self.queue, self.service.clock())
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
        post = self.service.messages.from_passenger
        self.ask(
            lambda: self.answer(message.client_id, lambda: post(self.principal, self.trip_id, message.client_id, message.text))
        )


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
