"""What the store holds, as it is read when a world has come to rest."""

from collections.abc import Sequence

from tests.changes.stand_ins import Sent
from tests.changes.station import FuzzHub
from tests.changes.world import World
from tracking.ingest.vehicles import read_states
from tracking.model import Trip
from tracking.store import changes, trips, vehicles
from tracking.store.changes import ChangeKind, Row
from tracking.store.trips import Span
from tracking.store.vehicles import Stored


class Truth:
    """What the store holds."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.trips: dict[str, Trip] = {}
        self.vehicles: dict[str, Stored] = {}
        self.spans: dict[int, list[Span]] = {}
        self.current: dict[str, Trip] = {}


async def read(world: World) -> Truth:
    connection, truth = world.witness, Truth()
    async with connection.transaction(isolation="repeatable_read"):
        truth.rows = [Row(*row) for row in await connection.fetch(f"SELECT {changes._COLUMNS} FROM changes ORDER BY number")]
        made = {row.subject for row in truth.rows if row.kind == ChangeKind.TRIP_CREATED and row.fleet_id in world.fleets}
        # Some were made though nobody was told.
        for subject in made:
            if subject is not None:
                world.trips.setdefault(subject, None)
        truth.trips = await trips.get_all(connection, list(world.trips))
        truth.vehicles = await vehicles.get_all(connection, world.vehicles)
        numbers = [stored.number for stored in truth.vehicles.values()]
        _, _, truth.spans = await read_states(connection, numbers, world.clock())
        # By another question than hubs ask.
        truth.current = await trips.current_of_vehicles(connection, numbers)
    return truth


def remembers(sent: Sequence[Sent]) -> bool:
    """Whether the hubs that were sent the fix still know what must be filed again. Only memory has that."""
    return all(isinstance(hub, FuzzHub) and hub.alive and hub.let_go_at < at for hub, at, _ in sent)


def came_before_commit(truth: Truth, number: int, sent: Sequence[Sent]) -> bool:
    """Whether it came before a change of the vehicle's trips was committed, perhaps after the span's instant."""
    return any(row.vehicle == number and row.at >= instant for _, _, instant in sent for row in truth.rows)
