"""What a live state needs beside it, for tests that apply rows without the rest of a hub."""

from collections.abc import Sequence

from tracking.ingest.vehicles import IngestVehicle
from tracking.store.trips import Span


class NothingElse:
    """Nothing raced a change of spans, and nothing else holds data of vehicles: both `Filing` and `Forgetting`."""

    def set_spans(self, vehicle: IngestVehicle, spans: Sequence[Span]) -> None:
        vehicle.set_spans(spans)

    def forget(self, numbers: set[int]) -> None:
        pass
