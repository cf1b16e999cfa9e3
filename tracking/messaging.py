"""Messages within a trip, of its driver, passengers and dispatchers: committed first, then shown to the others."""

from tracking.errors import ErrorCode, Refusal, StoreUnavailable
from tracking.hub.hub import Hub
from tracking.model import Clock, Trip
from tracking.store import messages, trips
from tracking.store.messages import Message
from tracking.store.pool import Database


class Messaging:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, database: Database, hub: Hub, clock: Clock) -> None:
        self._database = database
        self._hub = hub
        self._clock = clock
        self._unsure: set[tuple[str, str, str]] = set()

    async def from_driver(self, vehicle_id: str, trip_id: str, client_id: str, text: str) -> None:
        """Raises `Refusal`: `forbidden` where the trip is not this vehicle's, `conflict` where it is over."""
        await self._post(trip_id, "driver", client_id, text, vehicle_id=vehicle_id)

    async def from_passenger(self, trip_id: str, client_id: str, text: str) -> None:
        """Raises `Refusal` (`conflict`) where the trip is over."""
        await self._post(trip_id, "passenger", client_id, text)

    async def from_dispatcher(self, fleet_id: str, trip_id: str, client_id: str, text: str) -> None:
        """Raises `Refusal`: `not_found` where the trip is not this fleet's, `conflict` where it is over."""
        await self._post(trip_id, "dispatcher", client_id, text, fleet_id=fleet_id)

    async def unread(self, vehicle: int) -> list[Message]:
        """What the driver of the vehicle (its number) has not read."""
        async with self._database.connection() as connection:
            return await messages.unread_by_driver(connection, vehicle)

    async def mark_read(self, numbers: list[int]) -> None:
        async with self._database.transaction() as connection:
            await messages.mark_read(connection, numbers, self._clock())

    async def _post(
        self,
        trip_id: str,
        sender: str,
        client_id: str,
        text: str,
        *,
        vehicle_id: str | None = None,
        fleet_id: str | None = None,
    ) -> None:
        key = (trip_id, sender, client_id)
        try:
            async with self._database.transaction() as connection:
                trip = await trips.get(connection, trip_id)
                if trip is None and fleet_id is not None:
                    raise Refusal(ErrorCode.NOT_FOUND, "no such trip in this fleet")
                if trip is None or (vehicle_id is not None and _vehicle_of(trip) != vehicle_id):
                    raise Refusal(ErrorCode.FORBIDDEN, "this trip is not yours")
                if fleet_id is not None and trip.fleet_id != fleet_id:
                    raise Refusal(ErrorCode.NOT_FOUND, "no such trip in this fleet")
                if trip.status.over:
                    raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: nobody reads messages any more")
                message, fresh = await messages.insert(connection, trip.number, trip_id, sender, client_id, text, self._clock())
        except StoreUnavailable:
            # It may have been stored all the same; sent again, it must still be shown.
            self._unsure.add(key)
            raise
        if not fresh and key not in self._unsure:
            return
        self._unsure.discard(key)
        feed = self._hub.feeds.get(trip_id)
        if feed is not None:
            feed.publish_message(message.text, sender, message.server_time)
        driver = self._hub.drivers.get(_vehicle_of(trip) or "")
        if sender != "driver" and driver is not None:
            driver.tell_message(message.number, trip_id, message.text, sender, message.server_time)


def _vehicle_of(trip: Trip) -> str | None:
    return trip.vehicle.vehicle_id if trip.vehicle is not None else None
