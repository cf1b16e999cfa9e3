"""The trips and messages of a driver's connection, both ways."""

import msgspec
from starlette.websockets import WebSocket

from tracking.auth import Principal, may_know_trip
from tracking.errors import ErrorCode, Refusal
from tracking.ingest.vehicles import IngestVehicle
from tracking.model import Trip
from tracking.protocol.codec import frame
from tracking.protocol.driver import DriverTextMessage, DriverTrip, Interval, TripStatusChange
from tracking.protocol.fit import live_view
from tracking.protocol.shared import TextMessage
from tracking.service import Service
from tracking.services.messages import PAGE
from tracking.sockets.connection import Connection

MAX_TOLD = 1_000
"""Sent messages that a connection remembers, the newest. A message may be posted and also be found among the unread ones."""


class DriverTrips(Connection):
    """A driver's connection as far as trips and messages go. `DriverConnection` adds sessions and fixes."""

    __slots__ = ("_interval", "_told", "_trips", "_unread", "_unread_after", "vehicle")

    def __init__(self, websocket: WebSocket, service: Service, principal: Principal) -> None:
        super().__init__(websocket, service, principal)
        self.vehicle: IngestVehicle | None = None
        self._interval = 0.0
        self._unread: list[int] | None = None
        """Messages that were sent on this connection and are not marked as read."""
        self._told: set[int] | None = None
        self._trips: dict[str, Trip] = {}
        """Trips of the vehicle that were sent to the driver and are not over."""
        self._unread_after: int | None = None
        """The last unread message that was sent, while the others wait for the socket to take more."""

    # --- what the driver sends --------------------------------------------------------------------------------------

    def _advance(self, change: TripStatusChange) -> None:
        async def advance() -> None:
            self.service.budgets.writes.spend(self.principal.jti)
            await self.service.trips.change(
                change.trip_id,
                allowed=lambda trip: may_know_trip(self.principal, trip),
                not_allowed=ErrorCode.FORBIDDEN,
                status=change.status,
            )

        self.ask(lambda: self.answer(change.client_id, advance))

    def _post(self, message: TextMessage) -> None:
        async def post() -> None:
            if not isinstance(message.trip_id, str):
                raise Refusal(ErrorCode.BAD_FIELD, "`trip_id` is missing: say which trip's passenger you write to")
            await self.service.messages.from_driver(self.principal, message.trip_id, message.client_id, message.text)

        self.ask(lambda: self.answer(message.client_id, post))

    # --- unread messages --------------------------------------------------------------------------------------------

    def _tell_unread_after(self, number: int) -> None:
        self._unread_after = None
        self.ask_ourselves(lambda: self._tell_page(number))

    async def _tell_page(self, after: int) -> None:
        """Sends a page of unread messages, and then the next, as long as the driver's socket takes them."""
        vehicle = self.vehicle
        assert vehicle is not None
        page = await self.service.messages.unread(vehicle, after)
        for message in page:
            if self._closing is not None:
                return
            if self.queue.blocked:
                self._unread_after = after
                return
            self.tell_message(message.number, message.trip_id, message.text, message.sender, message.server_time)
            after = message.number
        if len(page) == PAGE and self._closing is None:
            self._tell_unread_after(after)

    def writable(self) -> None:
        super().writable()
        if self._unread_after is not None and self._closing is None and not self.queue.blocked:
            self._tell_unread_after(self._unread_after)

    # --- called by the hub ------------------------------------------------------------------------------------------

    def ask_interval(self, interval: float) -> None:
        if interval != self._interval:
            self._interval = interval
            self.send(frame(Interval(interval)))

    def tell_trip(self, trip: Trip) -> None:
        known = self._trips.get(trip.trip_id)
        if known is not None and known.version > trip.version:
            return  # the trip was read at the opening, and may include changes that are still to be applied
        if trip.status.over or trip.vehicle is None:
            self._trips.pop(trip.trip_id, None)
        else:
            self._trips[trip.trip_id] = trip
        self.send(frame(DriverTrip(live_view(trip))))

    def knows_trip(self, trip_id: str) -> bool:
        return trip_id in self._trips

    def trip_gone(self, trip_id: str) -> None:
        trip = self._trips.pop(trip_id, None)
        if trip is not None:
            self.send(frame(DriverTrip(live_view(msgspec.structs.replace(trip, vehicle=None)))))

    @property
    def number(self) -> int:
        return self.vehicle.number if self.vehicle is not None else 0

    def tell_message(self, number: int, trip_id: str, text: str, sender: str, server_time: int) -> None:
        if self._told is None:
            self._told = set()
        if number in self._told:  # posted while the unread messages were looked up
            return
        self._told.add(number)
        if len(self._told) > MAX_TOLD:
            self._told = set(sorted(self._told)[MAX_TOLD // 2 :])
        # As far as we can know, a message was read once the app sends something again.
        if self._unread is None:
            self._unread = []
        self._unread.append(number)
        self.send(frame(DriverTextMessage(trip_id, text, sender, server_time)))
