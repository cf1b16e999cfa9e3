"""Fleets: create them, name them, and set their thresholds."""

from tracking import caps
from tracking.errors import ErrorCode, Refusal
from tracking.live.follower import Transactions
from tracking.model import Fleet
from tracking.services.trips import NOT_FOUND
from tracking.store import fleets
from tracking.store.changes import ChangeKind, as_json
from tracking.store.pool import unlocked


class Fleets:
    """Every method raises `Refusal` and `StoreUnavailable`."""

    def __init__(self, follower: Transactions, *, limit: int) -> None:
        """`limit` is the number of fleets that may exist."""
        self._follower = follower
        self._limit = limit

    @unlocked
    async def put(self, fleet: Fleet, *, may_create: bool) -> bool:
        """Store the fleet; return True if it is new."""
        async with self._follower.transaction() as transaction:
            connection = transaction.connection
            if await fleets.get(connection, fleet.fleet_id) is None:
                if not may_create:
                    raise Refusal(ErrorCode.NOT_FOUND, NOT_FOUND)  # a dispatcher manages a fleet, and makes none
                count = await fleets.count_with_one_more(connection)
                caps.hold(count, self._limit, f"there would be {count} fleets", "fleets_limit", "use an existing one")
            created = await fleets.put(connection, fleet)
            transaction.tell(ChangeKind.FLEET_CHANGED, fleet.fleet_id, fleet_id=fleet.fleet_id, public=as_json(fleet))
            return created
