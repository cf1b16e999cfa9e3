"""`/v1/trips/{trip_id}/live`: one trip, live, for as long as its status lets this watcher see it."""

from typing import NamedTuple

from starlette.websockets import WebSocket

from tracking.auth import MAY_SEE, Principal, Role, Sight, may_know_trip, may_see
from tracking.errors import CloseCode, ErrorCode, Refusal, SocketClosed, StoreUnavailable
from tracking.hub.feed import TripFeed
from tracking.ingest.sources import FOREVER, GRACE_MS
from tracking.metrics import WATCHERS
from tracking.model import Position, Trip
from tracking.protocol import TrackPoint, decode_passenger
from tracking.service import Service
from tracking.sockets.bucket import Bucket
from tracking.sockets.connection import Connection, admit, not_yours
from tracking.store import positions, trips
from tracking.store.positions import TrackRow

MESSAGES_PER_SECOND = 2.0
MESSAGES_AT_ONCE = 20


async def passenger_endpoint(websocket: WebSocket) -> None:
    service: Service = websocket.app.state.service
    principal = await admit(websocket, service)
    if principal is not None:
        await PassengerConnection(websocket, service, principal, websocket.path_params["trip_id"]).run()


class _Stored(NamedTuple):
    trip: Trip | None
    track: list[TrackPoint]
    last: TrackRow | None


class PassengerConnection(Connection):
    """A watcher of one trip: a passenger, or a dispatcher or service that looks over a shoulder."""

    __slots__ = ("_bucket", "_from", "feed", "trip_id")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal, trip_id: str) -> None:
        super().__init__(websocket, service, principal)
        self.trip_id = trip_id
        self.feed: TripFeed | None = None
        self._from = websocket.query_params.get("epoch"), _whole_number(websocket.query_params.get("offset"))
        self._bucket: Bucket | None = None

    async def opened(self) -> None:
        if self.principal.role is Role.PASSENGER and self.principal.subject != self.trip_id:
            raise not_yours()
        feed = self.service.hub.feeds.get(self.trip_id)
        trip = feed.trip if feed is not None else await self._read_trip()
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
        WATCHERS.inc()
        self.service.hub.watched(feed)

    async def _begin(self, feed: TripFeed) -> None:
        shown = may_see(self.principal.role, Sight.POSITION, feed.trip.status)
        # What waits for a commit now may be committed after our reading began, and so be in neither.
        unstored = list(self.service.recorder.pending(self.trip_id)) if shown else []
        stored = await self._read_track(feed.trip)
        if stored.trip is not None:
            # What we happen to learn first, the others must be told too.
            self.service.hub.trip_changed(stored.trip)
        if self.service.hub.feeds.get(self.trip_id) is not feed:
            over = stored.trip is None or stored.trip.status.over
            raise SocketClosed(CloseCode.TRIP_OVER if over else CloseCode.OVERLOADED)
        self._check(feed.trip)
        if not may_see(self.principal.role, Sight.POSITION, feed.trip.status):
            stored, unstored = _Stored(None, [], None), []
        # From here to the registration nothing may be awaited: nothing falls through between them.
        feed.begin(
            self.outbox,
            stored=stored.track,
            unstored=unstored,
            last=_position_of(feed.trip, stored.last) if stored.last is not None else None,
            now=self.service.clock(),
        )

    def _check(self, trip: Trip) -> None:
        if not may_see(self.principal.role, Sight.LIVE, trip.status):
            raise SocketClosed(CloseCode.TRIP_OVER)

    async def _read_trip(self) -> Trip | None:
        async with self.service.database.connection() as connection:
            return await trips.get(connection, self.trip_id)

    async def _read_track(self, trip: Trip) -> _Stored:
        """The track from the store; while the database is away, none: the live map goes on with what memory holds.

        The rest of the line follows as `track_revised` when the database is back.
        """
        track: list[TrackPoint] = []
        last: TrackRow | None = None
        try:
            async with self.service.database.reading() as connection:
                fresh = await trips.get(connection, trip.trip_id)
                async for row in positions.track_of_trip(connection, trip.number, suspect=False):
                    track.append((row.longitude, row.latitude, row.fix_time))
                    last = row
        except StoreUnavailable:
            self.service.revisions.revise(trip.trip_id, trip.number, trip.created_at - GRACE_MS, FOREVER)
            return _Stored(None, [], None)
        return _Stored(fresh, track, last)

    def left(self) -> None:
        if self.feed is not None:
            self.feed.leave(self.outbox, self.service.clock())
            WATCHERS.dec()

    def received(self, data: bytes) -> None:
        if self._bucket is None:
            self._bucket = Bucket(MESSAGES_PER_SECOND, MESSAGES_AT_ONCE, self.service.clock())
        if not self._bucket.take(self.service.clock()):
            raise Refusal(ErrorCode.RATE_LIMITED, f"at most {MESSAGES_PER_SECOND:g} messages a second")
        message = decode_passenger(data)
        if self.principal.role is not Role.PASSENGER:
            raise Refusal(ErrorCode.FORBIDDEN, "only the trip's passenger writes here")
        post = self.service.messaging.from_passenger
        self.ask(lambda: self.answer(message.client_id, lambda: post(self.trip_id, message.client_id, message.text)))


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


def _position_of(trip: Trip, row: TrackRow) -> Position:
    return Position(
        vehicle=0,
        vehicle_id=row.vehicle_id,
        session=0,
        seq=row.seq or 0,
        fix_time=row.fix_time,
        server_time=row.server_time or row.fix_time,
        latitude=row.latitude,
        longitude=row.longitude,
        accuracy=row.accuracy,
        altitude=row.altitude,
        speed=row.speed,
        bearing=row.bearing,
        battery=None,
        trip=trip.number,
        trip_id=trip.trip_id,
        suspect=(),
        live=True,
    )
