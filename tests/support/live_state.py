"""What a live state needs beside it, for tests that apply rows without the rest of a hub."""

from collections.abc import Sequence

from tracking.ingest.vehicles import IngestVehicle
from tracking.model import Trip
from tracking.store.trips import Span


class NothingElse:
    """Nothing raced a change, and nothing else holds data of vehicles: `Filing`, `Forgetting` and `FleetLoading`."""

    def set_spans(self, vehicle: IngestVehicle, spans: Sequence[Span]) -> None:
        vehicle.set_spans(spans)

    def begins_to_show(self, trip: Trip) -> None:
        pass

    def forget(self, numbers: set[int]) -> None:
        pass

    def fill_line(self, trip: Trip) -> None:
        pass

    def read_again(self, fleet_id: str) -> None:
        pass
