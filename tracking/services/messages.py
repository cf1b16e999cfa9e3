"""Messages within a trip, between its driver, passengers and dispatchers. They are committed before they are shown."""

from hashlib import blake2b

from tracking.auth import Principal, may_know_trip
from tracking.budgets import Budget
from tracking.errors import ErrorCode, Refusal
from tracking.ingest.vehicles import IngestVehicle
from tracking.live.follower import Transactions
from tracking.model import Clock, Trip
from tracking.protocol.codec import is_uuid
from tracking.store import messages, trips
from tracking.store.changes import ChangeKind
from tracking.store.gathered import Gathered
from tracking.store.messages import Message
from tracking.store.pool import Connection, Database, unlocked

PAGE = 50
"""Unread messages that are read from the store and sent to a driver at once."""
MARKED_AT_ONCE = 1_000
UNREAD_RETRY_AFTER = 30.0
"""The `retry_after` of a sender with too many unread messages. Nobody knows when the driver will read them."""


class Messages:
    """Every method raises `StoreUnavailable`.

    A sender spends `budget`. The holder is the share, or the token if there is no share. A trip holds at most `most_unread`
    unread messages of one sender for its driver.
    """

    def __init__(self, follower: Transactions, database: Database, clock: Clock, *, budget: Budget, most_unread: int) -> None:
        self._follower = follower
        self._database = database
        self._clock = clock
        self._budget = budget
        self._most_unread = most_unread
        self._unread = Gathered(self._read_unread)

    async def from_driver(self, principal: Principal, trip_id: str, client_id: str, text: str) -> None:
        """Store a driver's message.

        Raises `Refusal`: `forbidden` if the trip is not this vehicle's; `conflict` if it is over, or if the token used the
        `client_id` for another text; `rate_limited` if the budget is spent.
        """
        await self._post(principal, trip_id, "driver", client_id, text, by_driver=True)

    async def from_passenger(self, principal: Principal, trip_id: str, client_id: str, text: str) -> None:
        """Store a passenger's message.

        Raises `Refusal`: `conflict` if the trip is over, or if the token or share used the `client_id` for another text;
        `rate_limited` if the budget is spent, or too many messages of this sender are unread.
        """
        await self._post(principal, trip_id, "passenger", client_id, text)

    async def from_dispatcher(self, principal: Principal, fleet_id: str, trip_id: str, client_id: str, text: str) -> None:
        """Store a dispatcher's message. Raises `Refusal`: `not_found` if the trip is not this fleet's, the rest as for
        passengers.
        """
        await self._post(principal, trip_id, "dispatcher", client_id, text, fleet_id=fleet_id)

    def none_unread(self, vehicle: IngestVehicle) -> bool:
        """Whether memory knows that the vehicle's driver has read everything. The store need not be asked then."""
        return vehicle.read == vehicle.posted

    async def unread(self, vehicle: IngestVehicle, after: int = 0) -> list[Message]:
        """A page of messages that the vehicle's driver has not read: the first `PAGE` after the message with that number."""
        posted = vehicle.posted
        found = await self._unread.get((vehicle.number, after)) or []
        if not found and after == 0:
            vehicle.read = posted
        return found

    async def _read_unread(self, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], list[Message]]:
        async with self._database.connection() as connection:
            return await messages.unread_by_drivers(connection, wanted, PAGE)

    async def mark_read(self, numbers: list[int]) -> None:
        for start in range(0, len(numbers), MARKED_AT_ONCE):
            async with self._database.transaction() as connection:
                await messages.mark_read(connection, numbers[start : start + MARKED_AT_ONCE], self._clock())

    async def _post(
        self,
        principal: Principal,
        trip_id: str,
        sender: str,
        client_id: str,
        text: str,
        *,
        by_driver: bool = False,
        fleet_id: str | None = None,
    ) -> None:
        self._budget.spend(principal.share_id or principal.jti, principal.role)
        await self._store(principal, trip_id, sender, client_id, text, by_driver=by_driver, fleet_id=fleet_id)

    @unlocked
    async def _store(
        self,
        principal: Principal,
        trip_id: str,
        sender: str,
        client_id: str,
        text: str,
        *,
        by_driver: bool,
        fleet_id: str | None,
    ) -> None:
        author = _author(principal)
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            # The lock keeps the trip from moving to another vehicle before that vehicle's driver can find the message.
            trip = await trips.lock(connection, trip_id)
            if trip is None and fleet_id is not None:
                raise Refusal(ErrorCode.NOT_FOUND, "no such trip in this fleet")
            if trip is None or (by_driver and not may_know_trip(principal, trip)):
                raise Refusal(ErrorCode.FORBIDDEN, "this trip is not yours")
            if fleet_id is not None and trip.fleet_id != fleet_id:
                raise Refusal(ErrorCode.NOT_FOUND, "no such trip in this fleet")
            if trip.status.over:
                raise Refusal(ErrorCode.CONFLICT, f"the trip is {trip.status}: nobody reads messages any more")
            message, fresh = await self._insert(connection, trip, sender, author, client_id, text)
            if message.text != text:
                raise Refusal(
                    ErrorCode.CONFLICT,
                    "you sent another text with this `client_id`: give each message its own, such as a UUID",
                    field="client_id",
                )
            if not fresh:
                return
            if sender != "driver":
                await self._refuse_piling_up(connection, trip, sender, author)
            transaction.tell(
                ChangeKind.MESSAGE_POSTED,
                trip_id,
                fleet_id=trip.fleet_id,
                vehicle=trip.vehicle_number,
                # The log must not contain the text, which must be erasable.
                public={
                    "message_id": message.number,
                    "trip_id": trip_id,
                    "from": sender,
                    "server_time": message.server_time,
                },
                internal={"message": message.number},
            )

    async def _refuse_piling_up(self, connection: Connection, trip: Trip, sender: str, author: bytes) -> None:
        """Raises `Refusal` if this message exceeds the unread messages that may wait for the driver. It is stored in the
        transaction.
        """
        if await messages.count_unread(connection, trip.number, sender, author) > self._most_unread:
            raise Refusal(
                ErrorCode.RATE_LIMITED,
                f"the driver has not read {self._most_unread} messages of yours: send this one again when they are read",
                retry_after=UNREAD_RETRY_AFTER,
            )

    async def _insert(
        self, connection: Connection, trip: Trip, sender: str, author: bytes, client_id: str, text: str
    ) -> tuple[Message, bool]:
        if is_uuid(client_id):
            # A repeat with a renewed token has another author. Two apps never make the same UUID.
            before = await messages.sent_before(connection, trip.number, trip.trip_id, sender, client_id, text)
            if before is not None:
                return before, False
        return await messages.insert(connection, trip.number, trip.trip_id, sender, author, client_id, text, self._clock())


def _author(principal: Principal) -> bytes:
    """The scope in which a `client_id` is unique: the share, or the token if there is none. It is a digest, because the id of a
    token may be any text.
    """
    kind, name = ("share", principal.share_id) if principal.share_id is not None else ("token", principal.jti)
    return blake2b(f"{kind} {name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
